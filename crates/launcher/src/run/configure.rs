//! What a lab allows, given when its environment is claimed: limits, and ways out.

use std::{io, os::fd::AsFd, sync::PoisonError};

use faultline_domain::{lab::Egress, limits::Limits};

use super::Launcher;
use crate::{cgroup, egress, net, protocol::Refusal};

impl Launcher {
    pub(super) async fn configure(
        &self,
        limits: Limits,
        ways_out: Vec<Egress>,
    ) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        self.must_be_whole()?;
        let failed = |e: io::Error| Refusal::from(e.to_string());
        let mut spec = self.spec();
        if spec.egress != ways_out && !spec.egress.is_empty() {
            return Err(
                "network access is already set and can't be changed; reset the environment"
                    .to_owned()
                    .into(),
            );
        }
        spec.limits = limits;
        cgroup::limit(&spec.id, &spec.limits_now()).map_err(failed)?;
        for node in self.nodes() {
            net::limit_bandwidth(node.index, limits.bandwidth_mbit).map_err(failed)?;
            node.bound_disks(&limits)
                .await
                .map_err(|e| Refusal::from(e.to_string()))?;
        }
        // Last, and noted at once: the same call may be repeated after whatever failed.
        if spec.egress != ways_out {
            self.open_ways_out(&ways_out).map_err(failed)?;
            spec.egress = ways_out;
            *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec.clone();
        }
        self.keep(spec).map_err(failed)
    }

    /// Lets the nodes connect to these places, and to no other.
    pub(super) fn open_ways_out(&self, to: &[Egress]) -> io::Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        net::open_to_relay()?;
        egress::start(to, self.host.as_fd().try_clone_to_owned()?)
    }
}
