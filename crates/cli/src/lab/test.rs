//! `faultline lab test`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use faultline_domain::{TenantId, progress::Progress};
use faultline_image::bake::Template;
use faultline_lab::{
    Broken, Catalogue, LabFolder, junit,
    prove::{Proof, prove},
};
use futures::StreamExt;
use serde::Serialize;

use super::{
    Place, named,
    platform::Platform,
    proofs,
    wrong::{self, How, Tried},
};
use crate::{Output, progress, signals::told_to_stop};

/// The time that baking a cluster may take: one of three nodes, under emulation, on two cores.
const BAKE: Duration = Duration::from_secs(25 * 60);

/// The options of the command.
pub(super) struct Wanted {
    pub names: Vec<String>,
    pub all: bool,
    pub fresh: bool,
    pub without_wrong: bool,
    pub junit: Option<PathBuf>,
    pub within: Option<Duration>,
    pub kubernetes: Option<String>,
    pub jobs: u32,
}

impl Wanted {
    fn jobs(&self) -> usize {
        usize::try_from(self.jobs).unwrap_or(1).max(1)
    }
}

/// One lab's result.
#[derive(Debug, Serialize)]
struct Row {
    lab: String,
    proven: bool,
    cached: bool,
    /// True if the lab was left out for lack of time.
    left_out: bool,
    failure: Option<String>,
    proof: Option<Proof>,
    /// The results of its wrong repairs; empty if they were not requested or the lab is not proven.
    wrong: Vec<Tried>,
    /// The checks that pass from the start and that none of the wrong repairs fails.
    idle_checks: Vec<String>,
}

impl Row {
    fn cached(proof: Proof) -> Self {
        Self {
            lab: proof.lab.clone(),
            proven: true,
            cached: true,
            left_out: false,
            failure: None,
            proof: Some(proof),
            wrong: Vec::new(),
            idle_checks: Vec::new(),
        }
    }

    fn left_out(lab: &LabFolder) -> Self {
        Self {
            lab: lab.slug.to_string(),
            proven: false,
            cached: false,
            left_out: true,
            failure: None,
            proof: None,
            wrong: Vec::new(),
            idle_checks: Vec::new(),
        }
    }

    /// Adds the results of its wrong repairs.
    fn judge(&mut self, wrong: Vec<Tried>) {
        self.failure = wrong::failure(&wrong);
        self.proven = self.failure.is_none();
        if let Some(proof) = &self.proof {
            self.idle_checks = wrong::idle_checks(&proof.before, &wrong);
        }
        self.wrong = wrong;
    }
}

pub(super) async fn run(place: &Place, wanted: Wanted, output: Output) -> anyhow::Result<()> {
    let (mut labs, mut rows) = select(&place.labs()?, &wanted)?;
    if let Some(version) = &wanted.kubernetes {
        for lab in labs.iter_mut().filter(|l| l.lab.needs.kubernetes.is_some()) {
            Arc::make_mut(lab).lab.needs.kubernetes = Some(version.clone());
        }
    }
    let platform = place.platform().await?;
    // However this ends, even by a signal, the tenants are destroyed.
    let outcome = tokio::select! {
        outcome = prove_all(&platform, &labs, &wanted) => outcome,
        () = told_to_stop() => Err(anyhow::anyhow!("interrupted; the machines that were made are destroyed")),
    };
    platform.close().await;
    rows.extend(outcome?);
    rows.sort_by(|a, b| a.lab.cmp(&b.lab));

    if let Some(path) = &wanted.junit {
        let cases: Vec<_> = rows
            .iter()
            .map(|row| junit::Case {
                lab: &row.lab,
                proof: row.proof.as_ref(),
                failure: row.failure.clone(),
                cached: row.cached,
                left_out: row.left_out,
                wrong: wrong::table(&row.wrong, &row.idle_checks),
            })
            .collect();
        std::fs::write(path, junit::document(&cases)?)
            .with_context(|| format!("{} can't be written", path.display()))?;
    }
    print(&rows, output)?;
    let failed = rows.iter().filter(|r| !r.proven && !r.left_out).count();
    if failed > 0 {
        bail!("{failed} of {} lab(s) are not proven", rows.len());
    }
    Ok(())
}

/// Returns the labs to prove, and rows for those that can't be loaded.
fn select(labs: &Path, wanted: &Wanted) -> anyhow::Result<(Vec<Arc<LabFolder>>, Vec<Row>)> {
    let unusable = |name: &str, failure: String| Row {
        lab: name.to_owned(),
        proven: false,
        cached: false,
        left_out: false,
        failure: Some(failure),
        proof: None,
        wrong: Vec::new(),
        idle_checks: Vec::new(),
    };
    if wanted.all {
        let catalogue = Catalogue::load(labs);
        let broken = catalogue
            .broken()
            .iter()
            .map(|b| unusable(&b.path.display().to_string(), b.render()))
            .collect();
        return Ok((catalogue.labs().into_iter().cloned().collect(), broken));
    }
    if wanted.names.is_empty() {
        bail!("name the labs to prove, or pass --all");
    }
    let (mut usable, mut rows) = (Vec::new(), Vec::new());
    for name in &wanted.names {
        let path = named::find(labs, name)?;
        let loaded = LabFolder::load(&path);
        match loaded.folder {
            Some(lab) => usable.push(Arc::new(lab)),
            None => {
                let diagnostics = loaded.diagnostics;
                rows.push(unusable(name, Broken { path, diagnostics }.render()));
            }
        }
    }
    Ok((usable, rows))
}

async fn prove_all(
    platform: &Platform,
    labs: &[Arc<LabFolder>],
    wanted: &Wanted,
) -> anyhow::Result<Vec<Row>> {
    let began = Instant::now();
    let mut rows = proofs_of(platform, labs, wanted, began).await?;
    if !wanted.without_wrong {
        try_wrong(platform, labs, wanted, began, &mut rows).await?;
    }
    Ok(rows)
}

/// Tries the wrong repairs of proven labs, after all proofs: if time runs out, wrong repairs are left out first.
async fn try_wrong(
    platform: &Platform,
    labs: &[Arc<LabFolder>],
    wanted: &Wanted,
    began: Instant,
    rows: &mut [Row],
) -> anyhow::Result<()> {
    let how = How {
        jobs: wanted.jobs(),
        fresh: wanted.fresh,
        until: wanted.within.map(|within| began + within),
    };
    let proven: BTreeSet<&str> = rows
        .iter()
        .filter(|r| r.proven)
        .map(|r| r.lab.as_str())
        .collect();
    let mut usable = Vec::new();
    for lab in labs.iter().filter(|l| proven.contains(l.slug.as_str())) {
        if let Some(template) = platform.find(&lab.lab.needs)? {
            usable.push((lab.clone(), template));
        }
    }
    let mut tried: BTreeMap<String, Vec<Tried>> = BTreeMap::new();
    for (lab, one) in wrong::try_all(platform, &usable, &how).await? {
        tried.entry(lab).or_default().push(one);
    }
    for row in rows.iter_mut().filter(|r| r.proven) {
        row.judge(tried.remove(&row.lab).unwrap_or_default());
    }
    Ok(())
}

async fn proofs_of(
    platform: &Platform,
    labs: &[Arc<LabFolder>],
    wanted: &Wanted,
    began: Instant,
) -> anyhow::Result<Vec<Row>> {
    let shown = progress::shown();
    let mut rows = Vec::new();
    // Plain machines are proven concurrently; a cluster needs all of a small machine.
    let (mut clusters, machines): (Vec<_>, Vec<_>) = labs
        .iter()
        .partition(|lab| lab.lab.needs.kubernetes.is_some());
    let mut work = Vec::new();
    for lab in machines {
        let template = platform.template(&lab.lab.needs, &shown).await?;
        match kept(platform, lab, &template, wanted) {
            Some(proof) => rows.push(Row::cached(proof)),
            None => work.push((lab, template)),
        }
    }
    let proven: Vec<anyhow::Result<Row>> = futures::stream::iter(work)
        .map(|(lab, template)| one(platform, lab, template, &shown))
        .buffer_unordered(wanted.jobs())
        .collect()
        .await;
    rows.extend(proven.into_iter().collect::<anyhow::Result<Vec<_>>>()?);

    order(&mut clusters, &proofs::proven_once(platform.cache()));
    for lab in clusters {
        let found = platform.find(&lab.lab.needs)?;
        let last = wanted.within.map(|within| match found {
            Some(_) => within,
            None => within.saturating_sub(BAKE),
        });
        let proof = found.and_then(|template| kept(platform, lab, &template, wanted));
        rows.push(match proof {
            Some(proof) => Row::cached(proof),
            None if last.is_some_and(|last| began.elapsed() > last) => Row::left_out(lab),
            None => {
                let template = platform.template(&lab.lab.needs, &shown).await?;
                one(platform, lab, template, &shown).await?
            }
        });
    }
    Ok(rows)
}

/// Sorts the labs: changed ones before proven ones, then small clusters before large ones.
fn order(labs: &mut [&Arc<LabFolder>], proven_once: &BTreeSet<String>) {
    labs.sort_by_key(|lab| {
        let needs = &lab.lab.needs;
        (
            proven_once.contains(&lab.proof_hash),
            needs.nodes,
            lab.slug.to_string(),
        )
    });
}

fn kept(
    platform: &Platform,
    lab: &LabFolder,
    template: &Template,
    wanted: &Wanted,
) -> Option<Proof> {
    let key = proofs::key(lab, &template.manifest.key);
    proofs::load(platform.cache(), &key).filter(|_| !wanted.fresh)
}

async fn one(
    platform: &Platform,
    lab: &LabFolder,
    template: Template,
    shown: &Progress,
) -> anyhow::Result<Row> {
    let provider = platform.provider()?;
    let progress = progress::named(lab.slug.as_str(), shown);
    let id = TenantId::generate(&mut rand::rng());
    let proof = prove(&*provider, &id, lab, Platform::limits(&template), &progress).await;
    if proof.proven() {
        let key = proofs::key(lab, &template.manifest.key);
        proofs::keep(platform.cache(), &key, &proof);
    }
    Ok(Row {
        lab: proof.lab.clone(),
        proven: proof.proven(),
        cached: false,
        left_out: false,
        failure: proof.failure().map(|(step, why)| format!("{step}: {why}")),
        proof: Some(proof),
        wrong: Vec::new(),
        idle_checks: Vec::new(),
    })
}

fn print(rows: &[Row], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(());
    }
    for row in rows {
        let word = match row {
            Row { proven: true, .. } => "proven",
            Row { left_out: true, .. } => "left out",
            _ => "NOT PROVEN",
        };
        let seconds = row.proof.as_ref().map_or(0, Proof::millis) / 1000;
        let source = if row.cached {
            format!(" (from the cache; it took {seconds} s)")
        } else if row.proof.is_some() {
            format!(" ({seconds} s)")
        } else {
            String::new()
        };
        println!("{word:<10} {}{source}", row.lab);
        if let Some(failure) = &row.failure {
            for line in failure.lines() {
                println!("           {line}");
            }
        }
        for note in row.proof.iter().flat_map(|p| &p.notes) {
            println!("           note: {note}");
        }
        for line in wrong::table(&row.wrong, &row.idle_checks) {
            println!("           {line}");
        }
    }
    let cached = rows.iter().filter(|r| r.cached).count();
    if cached > 0 {
        println!(
            "{cached} of {} taken from the cache; --fresh proves them again",
            rows.len()
        );
    }
    let left_out = rows.iter().filter(|r| r.left_out).count();
    if left_out > 0 {
        println!(
            "{left_out} of {} left out, for lack of time; without --within all are proven",
            rows.len()
        );
    }
    let wrong: Vec<&Tried> = rows.iter().flat_map(|r| &r.wrong).collect();
    let left_out = wrong.iter().filter(|t| t.repair.is_none()).count();
    if left_out > 0 {
        println!(
            "{left_out} of {} wrong repairs left out, for lack of time; without --within all are tried",
            wrong.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str], all: bool) -> Wanted {
        Wanted {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            all,
            fresh: false,
            without_wrong: false,
            junit: None,
            within: None,
            kubernetes: None,
            jobs: 1,
        }
    }

    #[test]
    fn broken_labs_are_rows_and_unknown_ones_errors() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["good", "bad"] {
            faultline_lab::scaffold::create(dir.path(), &name.parse().unwrap()).unwrap();
        }
        std::fs::write(dir.path().join("bad/lab.yaml"), "title: [").unwrap();
        let select = |names: &[&str], all| select(dir.path(), &wanted(names, all));

        let (labs, rows) = select(&[], true).unwrap();
        assert_eq!((labs.len(), rows.len()), (1, 1));
        let good = format!("{}/good/", dir.path().display());
        let (labs, rows) = select(&[&good, "bad"], false).unwrap();
        assert_eq!((labs.len(), rows.len()), (1, 1));
        assert_eq!(labs[0].slug.as_str(), "good");
        assert!(
            rows[0]
                .failure
                .as_deref()
                .unwrap()
                .contains("bad/lab.yaml:1:")
        );
        assert!(select(&["nowhere"], false).is_err());
        assert!(select(&[], false).is_err());
    }

    #[test]
    fn what_was_never_proven_as_it_is_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            faultline_lab::scaffold::create(dir.path(), &name.parse().unwrap()).unwrap();
            let readme = dir.path().join(name).join("README.md");
            std::fs::write(readme, format!("# Lab {name}\n\nIt is down.\n")).unwrap();
        }
        let catalogue = Catalogue::load(dir.path());
        let mut labs = catalogue.labs();
        let known = labs[..2].iter().map(|l| l.proof_hash.clone()).collect();
        order(&mut labs, &known);
        let names: Vec<_> = labs.iter().map(|l| l.slug.as_str()).collect();
        assert_eq!(names, ["c", "a", "b"]);
    }

    #[test]
    fn a_proof_is_kept_for_exactly_this_lab_image_and_program() {
        let dir = tempfile::tempdir().unwrap();
        faultline_lab::scaffold::create(dir.path(), &"good".parse().unwrap()).unwrap();
        let lab = LabFolder::load(&dir.path().join("good")).folder.unwrap();
        let cache = faultline_image::cache::Cache::at(dir.path().join("cache"));
        let proof = Proof {
            lab: "good".to_owned(),
            hash: lab.proof_hash.clone(),
            steps: vec![faultline_lab::prove::Step {
                name: "start".to_owned(),
                millis: 1,
                failure: None,
            }],
            before: faultline_domain::check::Outcome::default(),
            after: faultline_domain::check::Outcome::default(),
            notes: Vec::new(),
        };
        let key = proofs::key(&lab, "template");
        assert!(proofs::load(&cache, &key).is_none());
        proofs::keep(&cache, &key, &proof);
        assert_eq!(proofs::load(&cache, &key), Some(proof));
        assert!(proofs::load(&cache, &proofs::key(&lab, "other")).is_none());
        std::fs::write(cache.path("proof", &key).join("proof.json"), "{").unwrap();
        assert!(proofs::load(&cache, &key).is_none());
    }
}
