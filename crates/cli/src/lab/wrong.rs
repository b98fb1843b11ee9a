//! Tries the wrong repairs of proven labs, each on a clone of its own, after all proofs.

use std::{sync::Arc, time::Instant};

use faultline_domain::{TenantId, check::Outcome, progress::Progress};
use faultline_image::bake::Template;
use faultline_lab::{
    LabFolder,
    prove::{WrongRepair, idle_checks as idle_in, try_wrong},
};
use futures::StreamExt;
use serde::Serialize;

use super::{platform::Platform, proofs};
use crate::progress;

/// The options for trying wrong repairs.
pub(super) struct How {
    /// The number of plain machines at the same time. Clusters are tried one after the other.
    pub jobs: usize,
    /// Try even those whose result is kept.
    pub fresh: bool,
    /// Start none after this time.
    pub until: Option<Instant>,
}

/// The result of one wrong repair.
#[derive(Debug, Serialize)]
pub(super) struct Tried {
    pub name: String,
    cached: bool,
    caught_by: Vec<String>,
    failure: Option<String>,
    /// `None` if it was left out for lack of time.
    pub repair: Option<WrongRepair>,
}

impl Tried {
    fn new(repair: WrongRepair, cached: bool) -> Self {
        Self {
            name: repair.name.clone(),
            cached,
            caught_by: repair.caught_by().map(str::to_owned).collect(),
            failure: repair.failure(),
            repair: Some(repair),
        }
    }

    fn left_out(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cached: false,
            caught_by: Vec::new(),
            failure: None,
            repair: None,
        }
    }
}

/// Tries all wrong repairs of these labs, and keeps the results of those that were caught.
pub(super) async fn try_all(
    platform: &Platform,
    labs: &[(Arc<LabFolder>, Template)],
    how: &How,
) -> anyhow::Result<Vec<(String, Tried)>> {
    let shown = progress::shown();
    let mut tried = Vec::new();
    let (mut machines, mut clusters) = (Vec::new(), Vec::new());
    for (lab, template) in labs {
        for name in lab.wrong.keys() {
            let key = proofs::wrong_key(lab, name, &template.manifest.key);
            match proofs::load_wrong(platform.cache(), &key).filter(|_| !how.fresh) {
                Some(repair) => tried.push((lab.slug.to_string(), Tried::new(repair, true))),
                None if lab.lab.needs.kubernetes.is_some() => clusters.push((lab, template, name)),
                None => machines.push((lab, template, name)),
            }
        }
    }
    for (work, jobs) in [(machines, how.jobs), (clusters, 1)] {
        let done: Vec<anyhow::Result<_>> = futures::stream::iter(work)
            .map(|(lab, template, name)| one(platform, lab, template, name, how, &shown))
            .buffer_unordered(jobs)
            .collect()
            .await;
        for one in done {
            tried.push(one?);
        }
    }
    tried.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    Ok(tried)
}

async fn one(
    platform: &Platform,
    lab: &LabFolder,
    template: &Template,
    name: &str,
    how: &How,
    shown: &Progress,
) -> anyhow::Result<(String, Tried)> {
    let slug = lab.slug.to_string();
    if how.until.is_some_and(|until| Instant::now() > until) {
        return Ok((slug, Tried::left_out(name)));
    }
    let provider = platform.provider()?;
    let progress = progress::named(&format!("{slug}, {name}"), shown);
    let id = TenantId::generate(&mut rand::rng());
    let limits = Platform::limits(template);
    let repair = try_wrong(&*provider, &id, lab, name, limits, &progress).await;
    if repair.failure().is_none() {
        let key = proofs::wrong_key(lab, name, &template.manifest.key);
        proofs::keep_wrong(platform.cache(), &key, &repair);
    }
    Ok((slug, Tried::new(repair, false)))
}

/// Returns why a lab's wrong repairs make it fail, if they do.
pub(super) fn failure(tried: &[Tried]) -> Option<String> {
    let failures: Vec<&str> = tried.iter().filter_map(|t| t.failure.as_deref()).collect();
    (!failures.is_empty()).then(|| failures.join("\n"))
}

/// Returns the checks that pass from the start and that no wrong repair fails. Returns none if a wrong repair was left
/// out, as that may fail them.
pub(super) fn idle_checks(before: &Outcome, tried: &[Tried]) -> Vec<String> {
    let repairs: Option<Vec<&WrongRepair>> = tried.iter().map(|t| t.repair.as_ref()).collect();
    repairs.map_or_else(Vec::new, |repairs| idle_in(before, &repairs))
}

/// Formats a table of wrong repairs with the checks that caught them, followed by the checks that caught none.
pub(super) fn table(tried: &[Tried], idle: &[String]) -> Vec<String> {
    let title = "wrong repair";
    let width = tried.iter().map(|t| t.name.len()).max().unwrap_or(0);
    let width = width.max(title.len());
    let mut lines = Vec::new();
    if !tried.is_empty() {
        lines.push(format!("{title:<width$}  caught by"));
    }
    for one in tried {
        let by = match (&one.repair, one.caught_by.is_empty()) {
            (None, _) => "left out, for lack of time".to_owned(),
            (Some(_), true) => "nothing".to_owned(),
            (Some(_), false) => one.caught_by.join(", "),
        };
        lines.push(format!("{:<width$}  {by}", one.name));
    }
    lines.extend(idle.iter().map(|check| {
        format!("note: check {check} passes from the start, and no wrong repair fails it: write one that does, or remove the check")
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(results: &[(&str, bool)]) -> Outcome {
        let results = results.iter().map(|(name, passed)| {
            serde_json::json!({
                "name": name, "title": "", "passed": passed, "message": "", "seen": "", "hint": null,
                "millis": 1, "evaluated": true,
            })
        });
        serde_json::from_value(serde_json::json!({"results": results.collect::<Vec<_>>()})).unwrap()
    }

    fn tried(name: &str, results: &[(&str, bool)]) -> Tried {
        let repair = WrongRepair {
            name: name.to_owned(),
            about: "Too wide.".to_owned(),
            steps: Vec::new(),
            after: outcome(results),
        };
        Tried::new(repair, false)
    }

    #[test]
    fn a_table_says_which_check_caught_which_and_which_caught_none() {
        let before = outcome(&[("page", false), ("mode", true), ("owner", true)]);
        let mut all = vec![
            tried(
                "wrong/a.sh",
                &[("page", true), ("mode", false), ("owner", true)],
            ),
            tried(
                "wrong/longer-name.sh",
                &[("page", false), ("mode", false), ("owner", true)],
            ),
        ];
        assert_eq!(
            table(&all, &idle_checks(&before, &all)),
            [
                "wrong repair          caught by",
                "wrong/a.sh            mode",
                "wrong/longer-name.sh  page, mode",
                "note: check owner passes from the start, and no wrong repair fails it: write one that does, or remove the check",
            ]
        );
        // A wrong repair that is left out may fail it.
        all.push(Tried::left_out("wrong/z.sh"));
        assert!(idle_checks(&before, &all).is_empty());
        assert!(
            table(&all, &[])
                .last()
                .is_some_and(|l| l.starts_with("wrong/z.sh            left out"))
        );
        assert_eq!(idle_checks(&before, &[]), ["mode", "owner"]);
    }
}
