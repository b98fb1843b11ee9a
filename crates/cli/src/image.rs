//! `faultline image`: build, list, verify and prune.

use std::{path::Path, time::Duration};

use anyhow::Context;
use clap::Subcommand;
use faultline_domain::template::Form;
use faultline_image::{
    bake::{self, Template},
    build::Image,
    cache::{Cache, Unused, discard, free},
    recipe::Recipe,
    sources::{Source, Sources, addresses},
};
use faultline_launcher::snapshot::Manifest;

use crate::{
    Output,
    places::ImagesArg,
    progress,
    sources::{SourceArgs, template},
};

/// The polling interval, in seconds.
const DAY: f64 = 86_400.0;

/// The subcommands of `faultline image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image and freeze its template; continues after the last finished stage
    ///
    ///   faultline image build debian-12
    ///   faultline image build kubernetes-1.36 --shape 1+2
    ///   faultline image build kubernetes-1.36 --source official --base '*=/srv/official'
    #[command(verbatim_doc_comment)]
    Build {
        /// The name of a recipe; see `faultline image list`
        name: String,
        /// The nodes that are frozen together, as control planes + workers; with the suffix -stock, a cluster exactly
        /// as kubeadm makes it
        #[arg(long, default_value_t = Form::default())]
        shape: Form,
        #[command(flatten)]
        images: ImagesArg,
        #[command(flatten)]
        sources: SourceArgs,
        /// Print progress as JSON lines on standard error, for programs
        #[arg(long, hide = true)]
        events: bool,
    },
    /// List the official addresses of everything that an image is made from, for operators of a mirror
    Addresses {
        /// The recipe's name
        name: String,
        #[command(flatten)]
        images: ImagesArg,
    },
    /// Verify the checksums of every template; exits with 1 if one of them is damaged
    Verify,
    /// Remove stages from the cache that have not been used for a while
    ///
    ///   faultline image prune --dry-run
    ///   faultline image prune --unused-for 1
    ///   faultline image prune --unused-for 0.5 --min-free-gib 20
    ///
    /// What is needed again is built again. With --min-free-gib, pruning stops as soon as that much disk space is free,
    /// and begins with what is rebuilt fastest for its size. Running environments are not affected, but one whose
    /// template was removed can't be reset, so give more days than environments live.
    #[command(verbatim_doc_comment)]
    Prune {
        /// Days since a build or a start last used a stage; may be a fraction
        #[arg(long, value_name = "DAYS", default_value_t = 7.0, value_parser = days)]
        unused_for: f64,
        /// Stop as soon as this much space is free on the cache's disk
        #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        min_free_gib: Option<u64>,
        /// Print what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List the recipes and the state of their templates
    List {
        #[command(flatten)]
        images: ImagesArg,
        #[command(flatten)]
        sources: SourceArgs,
    },
}

/// Runs a subcommand.
pub async fn run(command: ImageCommand, output: Output) -> anyhow::Result<()> {
    let cache = Cache::of_user();
    match command {
        ImageCommand::Build {
            name,
            shape,
            images,
            sources,
            events,
        } => {
            let recipes = images.folder(None)?;
            let of = template(&recipes, &name, shape)?;
            let recipe = sources.sources().recipe(&recipes, &of, &cache)?;
            let program =
                std::env::current_exe().context("cannot find the path of this program")?;
            let template = bake::bake(
                &recipe,
                &of,
                &cache,
                &program,
                &if events {
                    progress::lines()
                } else {
                    progress::shown()
                },
            )
            .await?;
            let manifest = &template.manifest;
            match output {
                Output::Json => println!(
                    "{}",
                    serde_json::to_string_pretty(&serde_json::json!({
                        "image": name, "key": manifest.key, "snapshot": template.snapshot, "manifest": manifest,
                    }))?
                ),
                Output::Text => println!(
                    "{name} is ready: shape {shape}, {} MiB in all, {}; template {}\ncold boot: first shell after {:.1} s, settled after {:.1} s",
                    manifest.memory_mib(),
                    manifest.accelerator().as_str(),
                    manifest.key,
                    manifest.cold_shell_millis as f64 / 1000.0,
                    manifest.cold_boot_millis as f64 / 1000.0,
                ),
            }
        }
        ImageCommand::Addresses { name, images } => {
            let recipes = images.folder(None)?;
            let addresses = addresses(&Recipe::load_for(&recipes, &name, Source::Official)?);
            match output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&addresses)?),
                Output::Text => addresses.iter().for_each(|address| println!("{address}")),
            }
        }
        ImageCommand::Verify => verify(&cache, output)?,
        ImageCommand::Prune {
            unused_for,
            min_free_gib,
            dry_run,
        } => prune(&cache, unused_for, min_free_gib, dry_run, output)?,
        ImageCommand::List { images, sources } => {
            let (recipes, sources) = (images.folder(None)?, sources.sources());
            if !recipes.is_dir() {
                return Err(faultline_image::Error::NoFolder(recipes).into());
            }
            list(&recipes, &sources, &cache, output)?;
        }
    }
    Ok(())
}

/// Lists a line for each shape of a built image, and one for each image that isn't built.
fn list(recipes: &Path, sources: &Sources, cache: &Cache, output: Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for name in Recipe::names(recipes) {
        let (summary, found) = match there(recipes, &name, sources, cache) {
            Ok(found) => found,
            Err(e) => (e.to_string(), Vec::new()),
        };
        let none = found.is_empty().then(|| (None, String::new()));
        let found = found.into_iter().map(|(shape, key)| (Some(shape), key));
        for (shape, key) in found.chain(none) {
            rows.push((name.clone(), shape, key, summary.clone()));
        }
    }
    let state = |shape: &Option<Form>| {
        if shape.is_some() {
            "ready"
        } else {
            "not built"
        }
    };
    match output {
        Output::Json => {
            let rows: Vec<_> = rows
                .iter()
                .map(|(name, shape, key, summary)| {
                    serde_json::json!({"name": name, "state": state(shape), "shape": shape.map(|s| s.to_string()), "template": key, "summary": summary})
                })
                .collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        Output::Text => {
            let mut table = comfy_table::Table::new();
            table
                .load_preset(comfy_table::presets::NOTHING)
                .set_header(["IMAGE", "SHAPE", "STATE", "TEMPLATE", "SUMMARY"]);
            table.add_rows(rows.into_iter().map(|(name, shape, key, summary)| {
                let said = shape.map(|s| s.to_string()).unwrap_or_default();
                [name, said, state(&shape).to_owned(), key, summary]
            }));
            println!("{table}");
        }
    }
    Ok(())
}

/// Returns the shapes of an image that are in the cache, with the keys of their templates.
fn there(
    recipes: &Path,
    name: &str,
    sources: &Sources,
    cache: &Cache,
) -> faultline_image::Result<(String, Vec<(Form, String)>)> {
    let recipe = Recipe::load(recipes, name)?;
    let mut found = Vec::new();
    let forms = Form::all();
    for of in forms.filter_map(|form| form.of(name, recipe.kubernetes.is_some())) {
        if let Some(template) = sources.template(recipes, &of, cache)? {
            found.push((of.form(), template.manifest.key));
        }
    }
    Ok((recipe.summary, found))
}

fn days(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(days @ 0.0..=3650.0) => Ok(days),
        _ => Err("a number of days from 0 to 3650".to_owned()),
    }
}

/// Removes stages that were not used for this many days, or as many of them as are needed to free the wanted space.
fn prune(
    cache: &Cache,
    days: f64,
    min_free_gib: Option<u64>,
    dry_run: bool,
    output: Output,
) -> anyhow::Result<()> {
    let mut unused = cache.unused(Duration::from_secs_f64(days * DAY));
    if let Some(gib) = min_free_gib {
        let there = free(cache.folder()).unwrap_or(u64::MAX);
        no_more_than(&mut unused, there, gib << 30);
    }
    if !dry_run {
        for result in &unused {
            cache
                .prune(result)
                .with_context(|| format!("cannot remove {} {}", result.stage, result.key))?;
        }
    }
    match output {
        Output::Json => {
            let rows: Vec<_> = unused
                .iter()
                .map(|u| {
                    serde_json::json!({
                        "stage": u.stage, "key": u.key, "bytes": u.bytes, "idle_seconds": u.idle.as_secs(), "removed": !dry_run,
                    })
                })
                .collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        Output::Text => {
            for u in &unused {
                println!(
                    "{:<10}  {}  {:>6} MiB  not asked for in {:.1} days",
                    u.stage,
                    u.key,
                    u.bytes >> 20,
                    u.idle.as_secs_f64() / DAY,
                );
            }
            let mib = unused.iter().map(|u| u.bytes).sum::<u64>() >> 20;
            let done = if dry_run {
                "would be free"
            } else {
                "are free now"
            };
            println!("{mib} MiB {done}");
        }
    }
    Ok(())
}

/// Keeps only as many candidates, in this order, as are needed to free `wanted` bytes.
fn no_more_than(unused: &mut Vec<Unused>, mut free: u64, wanted: u64) {
    unused.retain(|result| {
        let needed = free < wanted;
        free += if needed { result.bytes } else { 0 };
        needed
    });
}

/// Reads every file of every template. Damaged templates are taken out of use; environments that were cloned from them
/// keep their files and go on.
fn verify_all(cache: &Cache) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let mut rows = Vec::new();
    for (key, snapshot) in cache.list("bake") {
        let damage = match Manifest::load(&snapshot) {
            Ok(manifest) => {
                let template = Template {
                    image: Image {
                        folder: cache.path("disk", &manifest.image),
                        key: manifest.image.clone(),
                    },
                    snapshot,
                    manifest,
                };
                match template.verify(true) {
                    Ok(()) => None,
                    Err(damage) => {
                        template
                            .discard(&damage)
                            .with_context(|| format!("{damage}, and can't be removed"))?;
                        Some(format!("{:#}", anyhow::Error::from(damage)))
                    }
                }
            }
            Err(unreadable) => {
                discard(&snapshot)
                    .with_context(|| format!("{unreadable}, and can't be removed"))?;
                Some(format!("{:#}", anyhow::Error::from(unreadable)))
            }
        };
        rows.push((key, damage));
    }
    Ok(rows)
}

fn verify(cache: &Cache, output: Output) -> anyhow::Result<()> {
    let rows = verify_all(cache)?;
    match output {
        Output::Json => {
            let rows: Vec<_> = rows
                .iter()
                .map(|(key, damage)| serde_json::json!({"template": key, "damage": damage}))
                .collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        Output::Text => {
            for (key, damage) in &rows {
                println!("{key}  {}", damage.as_deref().unwrap_or("ok"));
            }
        }
    }
    let damaged = rows.iter().filter(|(_, damage)| damage.is_some()).count();
    anyhow::ensure!(
        damaged == 0,
        "{damaged} of {} template(s) were damaged and are taken out of use; `faultline image build` builds them again, and so does the next `faultline up`",
        rows.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt};

    use faultline_launcher::snapshot::checksum;

    use super::*;

    #[test]
    fn no_more_is_removed_than_it_takes() {
        let result = |key: &str, bytes| Unused {
            stage: "bake",
            key: key.to_owned(),
            idle: Duration::ZERO,
            bytes,
        };
        for (wanted, left) in [(50, 0), (51, 1), (80, 1), (81, 2), (1000, 3)] {
            let mut unused = vec![result("a", 30), result("b", 20), result("c", 40)];
            no_more_than(&mut unused, 50, wanted);
            assert_eq!(unused.len(), left, "{wanted}");
        }
    }

    /// Failing memory or a failing disk changes neither a file's size nor its times; only reading the file detects it.
    #[test]
    fn what_is_damaged_without_a_trace_is_found_and_taken_out_of_use() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let disk = cache.path("disk", "image");
        fs::create_dir_all(&disk).unwrap();
        fs::write(disk.join("root.ext4"), [3; 4096]).unwrap();
        let make = |key: &str| {
            let folder = cache.path("bake", key);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("node1.mem"), [7; 4096]).unwrap();
            let manifest = Manifest {
                key: key.to_owned(),
                nodes: Vec::new(),
                control_planes: 1,
                qemu: String::new(),
                kvm_cpu: String::new(),
                cold_boot_millis: 0,
                cold_shell_millis: 0,
                files: BTreeMap::new(),
                image: "image".to_owned(),
                base_disk: checksum(&disk.join("root.ext4")).unwrap(),
            };
            manifest.seal(&folder).unwrap();
            folder
        };
        let (sound, spoilt, unreadable) = (make("a"), make("b"), make("c"));
        fs::write(unreadable.join("manifest.json"), "{").unwrap();
        let damages = || -> Vec<bool> {
            let rows = verify_all(&cache).unwrap();
            rows.iter().map(|(_, damage)| damage.is_some()).collect()
        };
        assert_eq!(damages(), [false, false, true]);
        assert!(!unreadable.exists());

        let memory = spoilt.join("node1.mem");
        fs::remove_file(&memory).unwrap();
        fs::write(&memory, [8; 4096]).unwrap();
        let meta = fs::metadata(&memory).unwrap();
        let marks = fs::read_to_string(spoilt.join(".verified.json")).unwrap();
        let mut marks: serde_json::Value = serde_json::from_str(&marks).unwrap();
        let changed = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
        marks[memory.to_str().unwrap()] = serde_json::json!([4096, changed, meta.ino()]);
        fs::write(spoilt.join(".verified.json"), marks.to_string()).unwrap();
        assert_eq!(damages(), [false, true]);
        assert!(!spoilt.exists() && sound.exists() && disk.exists());
        assert_eq!(damages(), [false]);
    }
}
