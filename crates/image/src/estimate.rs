//! Estimates the progress and the remaining time of a build. Pure: events and elapsed time are passed in.

use std::{collections::BTreeSet, time::Duration};

use faultline_domain::{Shape, progress::Event};

use crate::recipe::Recipe;

/// The seconds that fetching a component's release takes, and pulling an image: rough guesses.
const FETCHED: f64 = 30.0;
const PULLED: f64 = 10.0;

/// Returns the seconds that a stage takes on two cores under emulation, without a cache. Once a stage has been
/// measured, only the proportions matter.
fn seconds(stage: &str, recipe: &Recipe, shape: Shape) -> f64 {
    let further = f64::from(shape.nodes() - 1);
    let workers = f64::from(shape.workers());
    let control_planes = f64::from(shape.control_planes());
    match stage {
        "rootfs" => 80.0,
        "binaries kubernetes" => 480.0,
        "containers" => 60.0,
        "disk" => 90.0,
        "bake" if recipe.kubernetes.is_some() => 300.0 * control_planes + 90.0 * workers,
        "bake" => 50.0 + 20.0 * further,
        _ => 60.0,
    }
}

/// The progress of a build.
#[derive(Debug, Clone)]
pub struct Estimate {
    stages: Vec<(String, f64)>,
    ended: BTreeSet<String>,
    /// The expected seconds of the completed stages that were not cached.
    worked: f64,
    current: Option<(String, f64)>,
    /// What is happening, as a message for people.
    text: String,
}

impl Estimate {
    /// Returns the estimate of a build that has not begun.
    #[must_use]
    pub fn new(recipe: &Recipe, shape: Shape) -> Self {
        let usual = |stage: &str| (stage.to_owned(), seconds(stage, recipe, shape));
        let binaries = recipe.binaries.iter().map(|c| {
            let (stage, seconds) = usual(&format!("binaries {}", c.name));
            let fetched = !c.official.is_empty();
            (stage, if fetched { FETCHED } else { seconds })
        });
        let pulled = recipe.containers.iter().filter(|c| c.official.is_some());
        let pulling: f64 = pulled.map(|_| PULLED).sum();
        let containers = (!recipe.containers.is_empty()).then(|| {
            let (stage, seconds) = usual("containers");
            (stage, seconds + pulling)
        });
        let stages = [usual("rootfs")]
            .into_iter()
            .chain(binaries)
            .chain(containers)
            .chain([usual("disk"), usual("bake")])
            .collect();
        Self {
            stages,
            ended: BTreeSet::new(),
            worked: 0.0,
            current: None,
            text: "starting".to_owned(),
        }
    }

    fn expected(&self, stage: &str) -> f64 {
        let found = self.stages.iter().find(|(name, _)| name == stage);
        found.map_or(0.0, |(_, seconds)| *seconds)
    }

    /// Updates the estimate with an event of the build.
    pub fn update(&mut self, event: &Event) {
        match event {
            Event::Started { stage, text } => {
                self.current = Some((stage.to_string(), 0.0));
                self.text.clone_from(text);
            }
            Event::Update {
                stage,
                fraction,
                text,
            } => {
                let part = fraction.unwrap_or(0.0).clamp(0.0, 1.0);
                self.current = Some((stage.to_string(), part));
                self.text.clone_from(text);
            }
            Event::Done { stage, cached, .. } => {
                if self.ended.insert(stage.to_string()) && !cached {
                    self.worked += self.expected(stage);
                }
                // A cached disk stage means that the stages before it were skipped.
                if stage == "disk" && *cached {
                    let all = self.stages.iter().map(|(name, _)| name.clone());
                    self.ended.extend(all.filter(|name| name != "bake"));
                }
                self.current = None;
            }
        }
    }

    fn done(&self) -> f64 {
        let ended: f64 = self.ended.iter().map(|stage| self.expected(stage)).sum();
        let current = self
            .current
            .as_ref()
            .filter(|(stage, _)| !self.ended.contains(stage))
            .map_or(0.0, |(stage, part)| self.expected(stage) * part);
        ended + current
    }

    /// Returns the part that is done, from 0 to 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        let all: f64 = self.stages.iter().map(|(_, seconds)| seconds).sum();
        (self.done() / all).clamp(0.0, 1.0)
    }

    /// Returns the estimated remaining time after `so_far`.
    #[must_use]
    pub fn left(&self, so_far: Duration) -> Duration {
        let all: f64 = self.stages.iter().map(|(_, seconds)| seconds).sum();
        let current = self
            .current
            .as_ref()
            .map_or(0.0, |(stage, part)| self.expected(stage) * part);
        let worked = self.worked + current;
        // The speed of this machine, once enough work is done to measure it.
        let pace = if worked > 30.0 {
            (so_far.as_secs_f64() / worked).clamp(0.1, 10.0)
        } else {
            1.0
        };
        Duration::from_secs_f64(((all - self.done()) * pace).max(0.0))
    }

    /// Returns what is happening, as a message for people.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        serde_saphyr::from_str(
            "name: k\nsummary: s\nkubernetes: \"1.36\"\nmachine: {vcpus: 1, memory_mib: 256, disk_mib: 1024}\n\
             binaries: [{name: kubernetes, version: v1, licence: MIT, module: m, build: {}}]\n\
             containers: [{name: x}]\n",
        )
        .unwrap()
    }

    fn done(stage: &'static str, cached: bool) -> Event {
        Event::Done {
            stage: stage.into(),
            millis: 1,
            cached,
        }
    }

    #[test]
    fn a_build_goes_from_nothing_to_all() {
        let mut build = Estimate::new(&recipe(), Shape::SINGLE);
        assert_eq!(build.fraction(), 0.0);
        let mut last = 0.0;
        for stage in [
            "rootfs",
            "binaries kubernetes",
            "containers",
            "disk",
            "bake",
        ] {
            build.update(&done(stage, false));
            assert!(build.fraction() > last);
            last = build.fraction();
        }
        assert_eq!(last, 1.0);
        assert_eq!(build.left(Duration::from_secs(900)), Duration::ZERO);
    }

    #[test]
    fn what_is_fetched_is_there_sooner_than_what_is_built() {
        let built = Estimate::new(&recipe(), Shape::SINGLE);
        let mut recipe = recipe();
        recipe.binaries[0].official.push(
            serde_saphyr::from_str("{url: \"https://h/x\", checksum: \"https://h/x.sha256\"}")
                .unwrap(),
        );
        let fetched = Estimate::new(&recipe, Shape::SINGLE);
        let left = |build: &Estimate| build.left(Duration::ZERO).as_secs();
        assert_eq!(left(&built) - left(&fetched), 450);
    }

    #[test]
    fn a_cached_disk_stands_for_what_it_is_made_of() {
        let mut build = Estimate::new(&recipe(), Shape::SINGLE);
        build.update(&done("disk", true));
        assert!(build.fraction() > 0.6, "{}", build.fraction());
        let left = build.left(Duration::from_secs(1)).as_secs();
        assert_eq!(left, 300, "the bake alone");
    }

    #[test]
    fn a_slow_machine_is_seen_to_be_slow() {
        let mut build = Estimate::new(&recipe(), Shape::SINGLE);
        build.update(&done("rootfs", false));
        let usual = build.left(Duration::from_secs(80));
        let slow = build.left(Duration::from_secs(160));
        assert!(slow > usual.mul_f64(1.9), "{usual:?} {slow:?}");
    }
}
