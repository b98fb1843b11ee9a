//! What the labs need, built: plain machines before anything is served, clusters while it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use faultline_domain::{TemplateRef, progress::Event};
use faultline_image::{bake, cache::Cache, containers, estimate::Estimate};
use faultline_lab::{Catalogue, LabFolder};
use faultline_provider::Readiness;
use faultline_tenancy_local::Prepare;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;

use crate::{progress, sources::Recipes};

/// What must be there.
type Wanted = BTreeSet<TemplateRef>;

/// How builds in the background stand.
#[derive(Debug, Clone, Default)]
pub struct Builds(Arc<Mutex<BTreeMap<TemplateRef, State>>>);

#[derive(Debug, Clone)]
enum State {
    Waiting,
    Running(Box<Estimate>, Instant),
    Failed(String),
}

impl Builds {
    fn set(&self, what: &TemplateRef, state: Option<State>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            Some(state) => all.insert(what.clone(), state),
            None => all.remove(what),
        };
    }

    /// Answers the provider when a template is not there.
    pub fn ask(&self) -> Prepare {
        let this = self.clone();
        Arc::new(move |template| {
            let all = this.0.lock().unwrap_or_else(PoisonError::into_inner);
            Some(match all.get(template)? {
                State::Waiting => Readiness::Preparing {
                    fraction: 0.0,
                    text: all
                        .values()
                        .find_map(|other| match other {
                            State::Running(build, since) => Some(left(build, *since)),
                            State::Waiting | State::Failed(_) => None,
                        })
                        .map_or_else(
                            || "waiting for another image".to_owned(),
                            |left| format!("waiting for another image, {left}"),
                        ),
                },
                State::Running(build, since) => Readiness::Preparing {
                    fraction: build.fraction(),
                    text: format!("{}, {}", build.text(), left(build, *since)),
                },
                State::Failed(why) => Readiness::Unavailable {
                    reason: format!(
                        "image {template} could not be built: {why}; the operator runs `faultline image build {} --shape {}`, which resumes it",
                        template.image,
                        template.form()
                    ),
                },
            })
        })
    }
}

/// How long a build that began then will still take, in words.
fn left(build: &Estimate, since: Instant) -> String {
    about(build.left(since.elapsed()))
}

fn about(left: Duration) -> String {
    match left.as_secs() {
        0..60 => "less than a minute left".to_owned(),
        seconds => format!("about {} min left", seconds.div_ceil(60)),
    }
}

fn wanted(catalogue: &Catalogue, clusters: bool) -> Wanted {
    catalogue
        .labs()
        .into_iter()
        .filter(|l| l.lab.needs.kubernetes.is_some() == clusters)
        .map(|l| l.lab.needs.template())
        .collect()
}

/// Builds and freezes the plain machines that labs need, with progress; quick when they are in the cache.
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

/// Makes the container images that a lab loads, so that its first start need not.
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

/// Makes the container images that labs bring, and builds the clusters that labs need, one after the other, until `stop`: each in a process of its own, at low
/// priority, so that the labs which can be served already are.
pub async fn clusters(
    recipes: Recipes,
    catalogue: Catalogue,
    cache: Cache,
    program: PathBuf,
    builds: Builds,
    stop: CancellationToken,
) {
    let missing: Vec<_> = wanted(&catalogue, true)
        .into_iter()
        .filter(|template| {
            let found = recipes.sources.template(&recipes.folder, template, &cache);
            !matches!(found, Ok(Some(_)))
        })
        .collect();
    for what in &missing {
        builds.set(what, Some(State::Waiting));
    }
    // Where values differ from environment to environment, so may the images: those are made at the start.
    let labs = catalogue.labs().into_iter();
    for lab in labs.filter(|l| l.lab.variables.is_empty()) {
        match stop
            .run_until_cancelled(container_images(lab, &cache))
            .await
        {
            None => return,
            Some(Ok(())) => {}
            // Its start tries again, and says this to whoever waits for it.
            Some(Err(e)) => {
                tracing::warn!(lab = %lab.slug, error = e, "an image of the lab's was not made")
            }
        }
    }
    for what in &missing {
        let built = stop
            .run_until_cancelled(build(&recipes, what, &cache, &program, &builds))
            .await;
        match built {
            None => return,
            Some(Ok(())) => builds.set(what, None),
            Some(Err(e)) => {
                tracing::error!(template = %what, error = format!("{e:#}"), "not built");
                builds.set(what, Some(State::Failed(format!("{e:#}"))));
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
    // Chosen here, so that what is estimated is what is built.
    let recipe = images.recipe(what, cache).await?;
    let mut estimate = Estimate::new(&recipe, what.shape);
    let began = Instant::now();
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
    // SAFETY: both are single, async-signal-safe system calls. The build ends with the server, and gives way to it.
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
                estimate.hear(&event);
                builds.set(
                    what,
                    Some(State::Running(Box::new(estimate.clone()), began)),
                );
            }
            // The error at its end, for people.
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
    use std::os::unix::fs::PermissionsExt;

    use faultline_domain::template::Form;
    use faultline_image::sources::Sources;

    use super::*;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn text(readiness: Option<Readiness>) -> String {
        match readiness {
            None => "nothing is known".to_owned(),
            Some(Readiness::Ready) => "ready".to_owned(),
            Some(Readiness::Preparing { fraction, text }) => format!("{fraction:.2} {text}"),
            Some(Readiness::Unavailable { reason }) => reason,
        }
    }

    #[test]
    fn what_is_left_is_said_in_minutes() {
        assert_eq!(about(Duration::from_secs(59)), "less than a minute left");
        assert_eq!(about(Duration::from_secs(61)), "about 2 min left");
    }

    /// A program in the place of `faultline image build`: what it tells is what a page says, and so is how it fails.
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
        builds.set(&single, Some(State::Waiting));
        assert_eq!(said(), "0.00 waiting for another image");

        let recipes = Recipes {
            folder: repository().join("images"),
            sources: Sources::default(),
        };
        let background = tokio::spawn(clusters(
            recipes,
            Catalogue::load(&dir.path().join("labs")),
            Cache::at(dir.path().join("cache")),
            program,
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
        builds.set(&next, Some(State::Waiting));
        let waits = text(ask(&next));
        assert!(waits.contains("another image, about"), "{waits}");
        std::fs::write(&go_on, "").unwrap();
        until("the mirror is silent").await;
        assert!(said().contains("faultline image build kubernetes-1.36 --shape 1+0"));
        background.await.unwrap();
    }
}
