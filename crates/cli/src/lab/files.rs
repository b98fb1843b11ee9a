//! `faultline lab new`, `lint` and `list`, which need no machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use faultline_domain::{TemplateRef, lab::Needs};
use faultline_image::{cache::Cache, recipe::Recipe, sources::Sources};
use faultline_lab::{Broken, Catalogue, Diagnostic, LabFolder, Served, Severity, scaffold};

use super::{Place, named};
use crate::Output;

pub(super) fn new(place: &Place, name: &str, output: Output) -> anyhow::Result<()> {
    let (labs, slug) = named::make(&place.labs.folder_to_write()?, name)?;
    scaffold::create(&labs, &slug)?;
    let folder = labs.join(slug.as_str());
    match output {
        Output::Json => println!("{}", serde_json::json!({ "lab": slug, "path": folder })),
        Output::Text => {
            let by_name = place.labs.labs.is_none() && !named::is_path(name);
            let lab = if by_name {
                slug.to_string()
            } else {
                folder.display().to_string()
            };
            println!(
                "{} is a lab that works. Change it, and look at it with\n\n  faultline lab lint {lab}\n  faultline lab run {lab}\n  faultline lab test {lab}",
                folder.display()
            );
        }
    }
    Ok(())
}

pub(super) fn lint(place: &Place, names: &[String], output: Output) -> anyhow::Result<()> {
    let recipes = place.images.folder(None)?;
    let images = Recipe::names(&recipes);
    let mut clusters = Clusters {
        recipes,
        sources: place.sources.sources(),
        cache: Cache::of_user(),
        served: BTreeMap::new(),
    };
    let findings: Vec<Broken> = folders(&place.labs()?, names)?
        .into_iter()
        .map(|path| {
            let mut loaded = LabFolder::load(&path);
            if let Some(lab) = loaded.folder {
                match no_image(&path, &lab, &images) {
                    Some(missing) => loaded.diagnostics.push(missing),
                    None => loaded.diagnostics.extend(clusters.lint(&lab)),
                }
            }
            Broken {
                diagnostics: loaded.diagnostics,
                path,
            }
        })
        .collect();
    let count = |severity| {
        findings
            .iter()
            .flat_map(|f| &f.diagnostics)
            .filter(|d| d.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match output {
        Output::Json => println!(
            "{}",
            serde_json::to_string_pretty(&serde_json::json!({
                "errors": errors, "warnings": warnings, "labs": findings,
            }))?
        ),
        Output::Text => {
            for found in findings.iter().filter(|f| !f.diagnostics.is_empty()) {
                println!("{}", found.render());
            }
            if errors == 0 {
                println!(
                    "{} lab(s): no errors, {warnings} warning(s)",
                    findings.len()
                );
            }
            for image in clusters.unknown() {
                println!(
                    "not compared with what the cluster serves: {image} is not built here; `faultline image build {image}` does it"
                );
            }
        }
    }
    if errors > 0 {
        bail!(
            "{errors} error(s) and {warnings} warning(s) in {} lab(s)",
            findings.len()
        );
    }
    Ok(())
}

/// What the labs' clusters serve, for the clusters that are built on this machine.
struct Clusters {
    recipes: PathBuf,
    sources: Sources,
    cache: Cache,
    served: BTreeMap<TemplateRef, Option<Served>>,
}

impl Clusters {
    fn lint(&mut self, lab: &LabFolder) -> Vec<Diagnostic> {
        if lab.lab.needs.kubernetes.is_none() {
            return Vec::new();
        }
        let of = lab.lab.needs.template();
        let (recipes, sources, cache) = (&self.recipes, &self.sources, &self.cache);
        let served = self.served.entry(of).or_insert_with_key(|of| {
            let template = sources.template(recipes, of, cache).ok()??;
            Served::read(&template.description()?).ok()
        });
        served
            .as_ref()
            .map_or_else(Vec::new, |served| served.lint(lab))
    }

    /// Returns the clusters that aren't built.
    fn unknown(&self) -> impl Iterator<Item = String> {
        let missing = self.served.iter().filter(|(_, served)| served.is_none());
        missing.map(|(of, _)| format!("{} --shape {}", of.image, of.form()))
    }
}

/// Returns an error if a lab's image has no recipe. Without any recipes there is no error.
fn no_image(path: &Path, lab: &LabFolder, images: &[String]) -> Option<Diagnostic> {
    let needs = &lab.lab.needs;
    let name = needs.template().image;
    if images.is_empty() || images.contains(&name) {
        return None;
    }
    let text = std::fs::read_to_string(path.join("lab.yaml")).unwrap_or_default();
    let field = if needs.kubernetes.is_some() {
        "kubernetes:"
    } else {
        "image:"
    };
    // A field that is left out has no position.
    let (line, column) = (1..)
        .zip(text.lines())
        .find_map(|(line, l)| Some((line, l.find(field)? as u64 + 1)))
        .unwrap_or_default();
    Some(
        Diagnostic::error("lab.yaml", format!("there is no image {name}"))
            .help(format!("there are: {}", images.join(", ")))
            .at(&text, line, column),
    )
}

fn folders(labs: &Path, names: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    if !names.is_empty() {
        return names.iter().map(|name| named::find(labs, name)).collect();
    }
    let mut folders: Vec<PathBuf> = std::fs::read_dir(labs)
        .with_context(|| {
            let labs = labs.display();
            format!("cannot read the folder of labs, {labs}; name another with --labs, or a lab by its path")
        })?
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            p.is_dir()
                && !p
                    .file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with('.'))
        })
        .collect();
    folders.sort();
    Ok(folders)
}

/// Returns the image of the cluster that a lab needs, such as `kubernetes-1.36`, or `-` if it needs none.
fn cluster(needs: &Needs) -> String {
    let template = needs.template();
    if template.is_cluster() {
        template.image
    } else {
        "-".to_owned()
    }
}

pub(super) fn list(place: &Place, output: Output) -> anyhow::Result<()> {
    let catalogue = Catalogue::load(&place.labs()?);
    match output {
        Output::Json => {
            let labs: Vec<_> = catalogue
                .labs()
                .into_iter()
                .map(|l| {
                    serde_json::json!({
                        "name": l.slug, "title": l.lab.title, "summary": l.lab.summary, "level": l.lab.level,
                        "topics": l.lab.topics, "minutes": l.lab.minutes, "nodes": l.lab.needs.nodes,
                        "image": l.lab.needs.template().image, "hash": l.hash,
                    })
                })
                .collect();
            let document = serde_json::json!({ "labs": labs, "broken": catalogue.broken() });
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
        Output::Text => {
            let mut table = comfy_table::Table::new();
            table
                .load_preset(comfy_table::presets::NOTHING)
                .set_header(["LAB", "LEVEL", "MINUTES", "NODES", "CLUSTER", "TITLE"]);
            for lab in catalogue.labs() {
                table.add_row([
                    lab.slug.to_string(),
                    lab.lab.level.as_str().to_owned(),
                    lab.lab.minutes.to_string(),
                    lab.lab.needs.nodes.to_string(),
                    cluster(&lab.lab.needs),
                    lab.lab.title.clone(),
                ]);
            }
            println!("{table}");
            for broken in catalogue.broken() {
                println!(
                    "{} can't be used; see faultline lab lint",
                    broken.path.display()
                );
            }
        }
    }
    Ok(())
}
