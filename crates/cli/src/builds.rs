//! The progress of background builds, for the console and for the pages of labs that wait for them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use faultline_domain::{TemplateRef, progress::Event};
use faultline_image::estimate::Estimate;
use faultline_provider::Readiness;
use faultline_tenancy_local::Prepare;

use crate::console::Doing;

/// The progress of all background builds.
#[derive(Debug, Clone, Default)]
pub struct Builds(Arc<Mutex<BTreeMap<TemplateRef, State>>>);

#[derive(Debug, Clone)]
enum State {
    Waiting,
    Running(Box<Build>),
    Failed(String),
}

/// A running build.
#[derive(Debug, Clone)]
pub struct Build {
    estimate: Estimate,
    began: Instant,
    stage: String,
}

impl Build {
    /// Creates a build that starts now.
    pub fn new(estimate: Estimate) -> Self {
        Self {
            stage: estimate.text().to_owned(),
            estimate,
            began: Instant::now(),
        }
    }

    /// Applies a progress event.
    pub fn hear(&mut self, event: &Event) {
        self.estimate.update(event);
        if let Event::Started { text, .. } = event {
            self.stage.clone_from(text);
        }
    }

    /// Returns the estimated remaining time, in words.
    fn left(&self) -> String {
        about(self.estimate.left(self.began.elapsed()))
    }
}

impl Builds {
    fn set(&self, what: &TemplateRef, state: Option<State>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            Some(state) => all.insert(what.clone(), state),
            None => all.remove(what),
        };
    }

    /// Records that an image waits to be built.
    pub fn waits(&self, what: &TemplateRef) {
        self.set(what, Some(State::Waiting));
    }

    /// Records that an image is being built.
    pub fn runs(&self, what: &TemplateRef, build: &Build) {
        self.set(what, Some(State::Running(Box::new(build.clone()))));
    }

    /// Records that a build failed.
    pub fn failed(&self, what: &TemplateRef, why: String) {
        self.set(what, Some(State::Failed(why)));
    }

    /// Records that a build is done.
    pub fn done(&self, what: &TemplateRef) {
        self.set(what, None);
    }

    /// Explains to the provider's caller why a template is missing.
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
                            State::Running(build) => Some(build.left()),
                            State::Waiting | State::Failed(_) => None,
                        })
                        .map_or_else(
                            || "waiting for another image".to_owned(),
                            |left| format!("waiting for another image, {left}"),
                        ),
                },
                State::Running(build) => Readiness::Preparing {
                    fraction: build.estimate.fraction(),
                    text: format!("{}, {}", build.estimate.text(), build.left()),
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

    /// Returns what the console shows of a running build.
    pub fn doing(&self, what: &TemplateRef) -> Option<Doing> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Running(build) = all.get(what)? else {
            return None;
        };
        let waiting = all
            .values()
            .filter(|state| matches!(state, State::Waiting))
            .count();
        let stage = format!("{} {}: {}", what.image, what.form(), build.stage);
        let detail = build.estimate.text();
        let detail = if detail == build.stage {
            String::new()
        } else {
            format!(" · {detail}")
        };
        let then = match waiting {
            0 => String::new(),
            more => format!("; {more} more after it"),
        };
        Some(Doing {
            line: format!(
                "{stage}{detail}, {:.0} %, {}{then}",
                build.estimate.fraction() * 100.0,
                build.left()
            ),
            stage,
        })
    }
}

fn about(left: Duration) -> String {
    match left.as_secs() {
        0..60 => "less than a minute left".to_owned(),
        seconds => format!("about {} min left", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use faultline_domain::template::Form;
    use faultline_image::recipe::Recipe;

    use super::*;

    #[test]
    fn what_is_left_is_said_in_minutes() {
        assert_eq!(about(Duration::from_secs(59)), "less than a minute left");
        assert_eq!(about(Duration::from_secs(61)), "about 2 min left");
    }

    #[test]
    fn the_console_says_stage_part_and_time_left() {
        let images = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images");
        let recipe = Recipe::load(images.as_ref(), "kubernetes-1.36").unwrap();
        let builds = Builds::default();
        let cluster = |form: &str| {
            let form: Form = form.parse().unwrap();
            form.of("kubernetes-1.36", true).unwrap()
        };
        let what = cluster("1+0");
        builds.waits(&what);
        assert_eq!(builds.doing(&what), None);

        let mut build = Build::new(Estimate::new(&recipe, what.shape));
        build.hear(&Event::Started {
            stage: "disk".into(),
            text: "Writing the disk".to_owned(),
        });
        builds.runs(&what, &build);
        let begun = builds.doing(&what).unwrap();
        assert_eq!(begun.stage, "kubernetes-1.36 1+0: Writing the disk");
        assert!(
            begun
                .line
                .starts_with(&format!("{}, 0 %, about ", begun.stage))
        );

        build.hear(&Event::Update {
            stage: "disk".into(),
            fraction: Some(0.5),
            text: "half of it".to_owned(),
        });
        builds.runs(&what, &build);
        builds.waits(&cluster("1+2"));
        let half = builds.doing(&what).unwrap();
        assert_eq!(half.stage, begun.stage);
        assert!(half.line.contains(" · half of it, "), "{}", half.line);
        assert!(
            half.line.ends_with("min left; 1 more after it"),
            "{}",
            half.line
        );

        builds.done(&what);
        assert_eq!(builds.doing(&what), None);
    }
}
