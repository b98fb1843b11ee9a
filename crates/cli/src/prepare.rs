//! Builds what the labs need: plain machines before anything is served, clusters in the background afterwards.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::Context;
use faultline_domain::{TemplateRef, progress::Event};
use faultline_image::{bake, cache::Cache, containers, estimate::Estimate};
use faultline_lab::{Catalogue, LabFolder};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;

use crate::{
    builds::{Build, Builds},
    console::{self, Doing},
    progress,
    sources::Recipes,
};

/// Returns the images that labs need: either clusters or plain machines.
fn wanted(catalogue: &Catalogue, clusters: bool) -> BTreeSet<TemplateRef> {
    catalogue
        .labs()
        .into_iter()
        .filter(|l| l.lab.needs.kubernetes.is_some() == clusters)
        .map(|l| l.lab.needs.template())
        .collect()
}

/// Builds and freezes the plain machines that labs need, with progress. Fast if they are in the cache.
pub async fn machines(
    images: &Recipes,
    catalogue: &Catalogue,
    cache: &Cache,
    program: &Path,
) -> anyhow::Result<()> {
    let shown = progress::shown();
    for template in wanted(catalogue, false) {
        let recipe = images.recipe(&template, cache).await?;
        bake::bake(&recipe, &template, cache, program, &shown).await?;
    }
    Ok(())
}

/// Builds the container images that a lab loads, so that its first start needn't.
async fn container_images(lab: &LabFolder, cache: &Cache) -> Result<(), String> {
    for (file, image) in lab.images() {
        let (image, cache) = (image?, cache.clone());
        tokio::task::spawn_blocking(move || containers::single(&image.into(), &cache))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| format!("{file}: {e}"))?;
    }
    Ok(())
}

/// Returns the clusters that labs need and that are not built, and marks them as waiting.
pub fn missing_clusters(
    recipes: &Recipes,
    catalogue: &Catalogue,
    cache: &Cache,
    builds: &Builds,
) -> Vec<TemplateRef> {
    let mut missing: Vec<_> = wanted(catalogue, true).into_iter().collect();
    missing.retain(|template| {
        let found = recipes.sources.template(&recipes.folder, template, cache);
        !matches!(found, Ok(Some(_)))
    });
    for what in &missing {
        builds.waits(what);
    }
    missing
}

/// Builds the labs' container images, then the missing clusters one after the other, until `stop`. Each cluster is
/// built by a process of its own at low priority, so that labs that are ready can be served meanwhile. Progress is
/// shown on the console.
pub async fn clusters(
    recipes: Recipes,
    catalogue: Catalogue,
    cache: Cache,
    program: PathBuf,
    missing: Vec<TemplateRef>,
    builds: Builds,
    stop: CancellationToken,
) {
    // With variables, the images may differ between environments; those are built when an environment starts.
    let labs = catalogue.labs().into_iter();
    for lab in labs.filter(|l| l.lab.variables.is_empty()) {
        let stage = format!("container images of {}", lab.slug);
        let doing = || {
            let (stage, line) = (stage.clone(), stage.clone());
            lab.images().next().map(|_| Doing { stage, line })
        };
        match stop
            .run_until_cancelled(console::alongside(doing, container_images(lab, &cache)))
            .await
        {
            None => return,
            Some(Ok(())) => {}
            // The lab's start tries again, and reports the error to whoever waits for it.
            Some(Err(e)) => {
                tracing::warn!(lab = %lab.slug, error = e, "an image of the lab's was not made")
            }
        }
    }
    for what in &missing {
        let (image, form) = (&what.image, what.form());
        let began = Instant::now();
        let built = stop
            .run_until_cancelled(console::alongside(
                || builds.doing(what),
                build(&recipes, what, &cache, &program, &builds),
            ))
            .await;
        match built {
            None => return,
            Some(Ok(())) => {
                builds.done(what);
                let minutes = began.elapsed().as_secs().div_ceil(60);
                eprintln!("✓ {image} {form} is built ({minutes} min): its labs can be started");
            }
            Some(Err(e)) => {
                eprintln!(
                    "✗ {image} {form} could not be built: {e:#}\n  `faultline image build {image} --shape {form}` resumes it"
                );
                builds.failed(what, format!("{e:#}"));
            }
        }
    }
}

async fn build(
    images: &Recipes,
    what: &TemplateRef,
    cache: &Cache,
    program: &Path,
    builds: &Builds,
) -> anyhow::Result<()> {
    // Sources are chosen here, so that the estimate is for what is built.
    let recipe = images.recipe(what, cache).await?;
    let mut state = Build::new(Estimate::new(&recipe, what.shape));
    builds.runs(what, &state);
    let mut command = tokio::process::Command::new(program);
    command
        .args(["image", "build", &what.image, "--events", "--shape"])
        .arg(what.form().to_string())
        .arg("--images")
        .arg(&images.folder)
        .args(["--source", recipe.source.as_str()])
        .args(
            recipe
                .bases
                .named()
                .flat_map(|base| ["--base".to_owned(), base.to_string()]),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // SAFETY: both are single, async-signal-safe system calls. The build ends with the server, and has a lower
    // priority.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::TERM))?;
            let _ = rustix::process::setpriority_process(None, 10);
            Ok(())
        });
    }
    let mut child = command.spawn().context("cannot start the build")?;
    let said = child.stderr.take().context("the build has no output")?;
    let mut lines = BufReader::new(said).lines();
    let mut last = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str::<Event>(&line) {
            Ok(event) => {
                state.hear(&event);
                builds.runs(what, &state);
            }
            // The error message at the end of the output.
            Err(_) if last.len() < 2000 => {
                last.push_str(line.trim_start_matches("error: "));
                last.push(' ');
            }
            Err(_) => {}
        }
    }
    let status = child.wait().await?;
    anyhow::ensure!(status.success(), "{}", last.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use faultline_domain::template::Form;
    use faultline_image::sources::Sources;
    use faultline_provider::Readiness;

    use super::*;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn text(readiness: Option<Readiness>) -> String {
        match readiness {
            None => "nothing is known".to_owned(),
            Some(Readiness::Ready { .. }) => "ready".to_owned(),
            Some(Readiness::Preparing { fraction, text }) => format!("{fraction:.2} {text}"),
            Some(Readiness::Unavailable { reason }) => reason,
        }
    }

    /// Runs a stand-in for `faultline image build`, and checks that its progress and its error reach the pages.
    #[tokio::test]
    async fn a_build_in_the_background_says_how_far_it_is_and_why_it_failed() {
        let dir = tempfile::tempdir().unwrap();
        let labs = dir.path().join("labs/claim-pending");
        std::fs::create_dir_all(&labs).unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(repository().join("labs/claim-pending/."))
            .arg(&labs)
            .status()
            .unwrap();
        assert!(copied.success());
        let go_on = dir.path().join("go-on");
        let program = dir.path().join("build");
        std::fs::write(
            &program,
            format!(
                "#!/bin/sh\n\
                 echo '{{\"kind\":\"started\",\"stage\":\"rootfs\",\"text\":\"installing packages\"}}' >&2\n\
                 until [ -e {} ]; do sleep 0.05; done\n\
                 echo 'error: stage rootfs failed: the mirror is silent' >&2; exit 1\n",
                go_on.display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();

        let builds = Builds::default();
        let ask = builds.ask();
        let cluster = |form: &str| {
            let form: Form = form.parse().unwrap();
            form.of("kubernetes-1.36", true).unwrap()
        };
        let single = cluster("1+0");
        let said = || text(ask(&single));
        assert_eq!(said(), "nothing is known");

        let recipes = Recipes {
            folder: repository().join("images"),
            sources: Sources::default(),
        };
        let catalogue = Catalogue::load(&dir.path().join("labs"));
        let cache = Cache::at(dir.path().join("cache"));
        let missing = missing_clusters(&recipes, &catalogue, &cache, &builds);
        assert_eq!(missing, std::slice::from_ref(&single));
        assert_eq!(said(), "0.00 waiting for another image");
        let background = tokio::spawn(clusters(
            recipes,
            catalogue,
            cache,
            program,
            missing,
            builds.clone(),
            CancellationToken::new(),
        ));
        let until = async |wanted: &str| {
            let began = Instant::now();
            while !said().contains(wanted) {
                assert!(began.elapsed() < Duration::from_secs(30), "{}", said());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        until("installing packages").await;
        assert!(said().contains("min left"), "{}", said());
        let next = cluster("1+2");
        builds.waits(&next);
        let waits = text(ask(&next));
        assert!(waits.contains("another image, about"), "{waits}");
        std::fs::write(&go_on, "").unwrap();
        until("the mirror is silent").await;
        assert!(said().contains("faultline image build kubernetes-1.36 --shape 1+0"));
        background.await.unwrap();
    }
}
