//! Maintenance.

use faultline_domain::maintenance::Maintenance;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operations::maintenance::Running;

/// The maintenance that is in effect, if any, and what runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MaintenanceView {
    /// True while nothing can be started.
    in_maintenance: bool,
    /// When it began; none if the server isn't in maintenance.
    since: Option<String>,
    /// The operator's message for everybody; empty if there is none.
    message: String,
    /// When it is expected to end; none if that was not announced.
    until: Option<String>,
    /// When running environments are suspended to disk, or end if they can't be; none if they go on.
    end_environments_at: Option<String>,
    /// The number of environments with machines.
    environments: usize,
    /// The number of tenants in pools.
    pool_tenants: usize,
}

impl MaintenanceView {
    pub(crate) fn new(of: Option<Maintenance>, running: Running) -> Self {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let of = of.as_ref();
        Self {
            in_maintenance: of.is_some(),
            since: time(of.map(|of| of.since)),
            message: of.map(|of| of.message.clone()).unwrap_or_default(),
            until: time(of.and_then(|of| of.until)),
            end_environments_at: time(of.and_then(|of| of.end_environments_at)),
            environments: running.environments,
            pool_tenants: running.pool_tenants,
        }
    }
}

/// A maintenance to begin.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMaintenanceView {
    /// A message for everybody, at most 200 characters. Default: empty.
    #[serde(default)]
    pub message: String,
    /// When it is expected to end, in RFC 3339 format. It doesn't end by itself. Optional.
    #[serde(default)]
    pub until: Option<String>,
    /// When running environments are suspended to disk, or end if they can't be, in RFC 3339 format, at least two minutes
    /// ahead. Optional; without it, they go on.
    #[serde(default)]
    pub end_environments_at: Option<String>,
}
