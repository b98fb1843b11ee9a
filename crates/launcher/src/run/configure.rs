//! Applies what a lab allows when its environment is claimed: limits and egress.

use std::{io, os::fd::AsFd, sync::PoisonError};

use faultline_domain::{lab::Egress, limits::Limits};

use super::Launcher;
use crate::{cgroup, egress, net, protocol::Refusal};

impl Launcher {
    pub(super) async fn configure(
        &self,
        limits: Limits,
        egress: Vec<Egress>,
    ) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        self.ensure_complete()?;
        let failed = |e: io::Error| Refusal::from(e.to_string());
        let mut spec = self.spec();
        if spec.egress != egress && !spec.egress.is_empty() {
            return Err(
                "network access is already set and can't be changed; reset the environment"
                    .to_owned()
                    .into(),
            );
        }
        spec.limits = limits;
        cgroup::limit(&spec.id, &spec.current_limits()).map_err(failed)?;
        for node in self.nodes() {
            net::limit_bandwidth(node.index, limits.bandwidth_mbit).map_err(failed)?;
            node.limit_disks(&limits)
                .await
                .map_err(|e| Refusal::from(e.to_string()))?;
        }
        // Egress comes last and is recorded immediately, so that the request can be repeated if anything failed.
        if spec.egress != egress {
            self.open_egress(&egress).map_err(failed)?;
            spec.egress = egress;
            *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec.clone();
        }
        self.keep(spec).map_err(failed)
    }

    /// Allows the nodes to connect to these destinations, and to no others.
    pub(super) fn open_egress(&self, to: &[Egress]) -> io::Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        net::open_to_relay()?;
        egress::start(to, self.host.as_fd().try_clone_to_owned()?)
    }
}
