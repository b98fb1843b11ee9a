//! What a lab allows, given when its environment is claimed: limits, and ways out.

use std::{io, os::fd::AsFd};

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
        if spec.egress != ways_out {
            if !spec.egress.is_empty() {
                return Err("its ways out were opened before".to_owned().into());
            }
            self.open_ways_out(&ways_out).map_err(failed)?;
        }
        spec.limits = limits;
        spec.egress = ways_out;
        cgroup::limit(&spec.id, &spec.limits_now()).map_err(failed)?;
        for node in self.nodes() {
            net::bound(node.index, limits.bandwidth_mbit).map_err(failed)?;
            node.bound_disks(&limits)
                .await
                .map_err(|e| Refusal::from(e.to_string()))?;
        }
        self.keep(spec).map_err(failed)
    }

    /// Lets the nodes connect to these places, and to no other.
    pub(super) fn open_ways_out(&self, to: &[Egress]) -> io::Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        egress::start(to, self.host.as_fd().try_clone_to_owned()?)?;
        net::open_to_relay()
    }
}
