//! A failed bake, and whether KVM is a likely cause.

use faultline_launcher::{accel::Verdict, spec::Accelerator};

use crate::Error;

/// The cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The host: its disk is full, or it killed a machine.
    Host,
    /// A machine: it exited by itself, or its helper never answered.
    Machine,
    /// The software in the machines: a service or a step.
    Guest,
}

/// A failed bake.
#[derive(Debug)]
pub(super) struct Failure {
    pub cause: Cause,
    pub error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            cause: Cause::Host,
            error,
        }
    }
}

impl Failure {
    /// Returns true if the bake should be repeated under emulation. Once an image was booted under KVM, a step that
    /// fails in a machine that answers is considered the recipe's fault.
    pub(super) fn may_be_caused_by_kvm(&self, verdict: &Verdict) -> bool {
        verdict.accelerator() == Accelerator::Kvm
            && match self.cause {
                Cause::Host => false,
                Cause::Machine => true,
                Cause::Guest => !verdict.is_proven(),
            }
    }

    /// Returns the reason as one line, without the logs that follow.
    pub(super) fn summary(&self) -> String {
        const MOST: usize = 300;
        let text = match &self.error {
            Error::Stage { reason, .. } => reason.clone(),
            error => error.to_string(),
        };
        let line = text.lines().next().unwrap_or_default();
        line.chars().take(MOST).collect()
    }
}

#[cfg(test)]
mod tests {
    use faultline_launcher::accel::Kvm;

    use super::*;

    fn failure(cause: Cause) -> Failure {
        let reason = "node1 has died\nits log".to_owned();
        let error = Error::Stage {
            stage: "bake",
            reason,
        };
        Failure { cause, error }
    }

    #[test]
    fn kvm_is_suspected_of_dead_machines_and_until_an_image_booted_of_failed_steps() {
        let cpu = "host".to_owned();
        let heard = Verdict::of(Kvm::FirstWord { cpu: cpu.clone() });
        let works = Verdict::of(Kvm::Works {
            cpu,
            image: String::new(),
        });
        let fails = Verdict::of(Kvm::Fails {
            reason: String::new(),
        });
        let suspected = |cause| {
            [&heard, &works, &fails].map(|verdict| failure(cause).may_be_caused_by_kvm(verdict))
        };
        assert_eq!(suspected(Cause::Host), [false, false, false]);
        assert_eq!(suspected(Cause::Machine), [true, true, false]);
        assert_eq!(suspected(Cause::Guest), [true, false, false]);
    }

    #[test]
    fn a_summary_has_one_line() {
        let summary = failure(Cause::Machine).summary();
        assert_eq!(summary, "node1 has died");
    }
}
