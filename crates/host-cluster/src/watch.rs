//! Waiting while a cluster starts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use faultline_domain::progress::Stage;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Error, Result,
    groups::Groups,
    place::{Member, Place},
    process::ServiceState,
    status::{first_process, services},
    tools::end_of_log,
};

/// How long a cluster may take to become usable, once programs and images are there.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(300);
/// How often a program may end while the cluster starts: on a busy machine some end before the API server responds.
const RESTARTS: u32 = 5;

/// Tells a member's first process to start its programs.
pub(crate) fn tell(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, Signal::HUP);
    }
}

/// Waits for conditions, and starts programs again that end meanwhile.
pub(crate) struct Watch<'a> {
    place: &'a Place,
    groups: &'a Groups,
    deadline: Instant,
    ended: BTreeMap<(Member, String), u32>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(place: &'a Place, groups: &'a Groups) -> Self {
        Self {
            place,
            groups,
            deadline: Instant::now() + PATIENCE,
            ended: BTreeMap::new(),
        }
    }

    pub(crate) fn until(
        &mut self,
        stage: &Stage,
        text: &str,
        mut met: impl FnMut() -> bool,
    ) -> Result<()> {
        stage.update(None, text);
        loop {
            if met() {
                return Ok(());
            }
            for member in Member::ALL {
                self.restart(member)?;
            }
            if Instant::now() >= self.deadline {
                return Err(Error::Step {
                    what: text.to_owned(),
                    reason: format!(
                        "it took more than {} s; logs are in {}",
                        PATIENCE.as_secs(),
                        self.place
                            .root(Member::ControlPlane)
                            .join("var/log")
                            .display()
                    ),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    fn restart(&mut self, member: Member) -> Result<()> {
        for (name, state) in services(self.place, member) {
            let ServiceState::Ended { status } = state else {
                continue;
            };
            let times = self.ended.entry((member, name.clone())).or_default();
            *times += 1;
            if *times > RESTARTS {
                let log = self.place.log(member, &name);
                return Err(Error::Step {
                    what: format!("{name} on {member}"),
                    reason: format!(
                        "it ended with status {status} again and again. The end of {}:{}",
                        log.display(),
                        end_of_log(&log)
                    ),
                });
            }
            if let Some(pid) = first_process(self.place, self.groups, member) {
                tell(pid);
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}
