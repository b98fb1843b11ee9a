//! Warm pools: paused tenants that nobody has claimed yet, so that a start needs no clone.
//!
//! | module | contains |
//! |---|---|
//! | this one | pools and what their tenants were made of |
//! | [`forecast`] | how many tenants a pool should hold |
//! | [`refill`] | what to release and what to make, and how memory is shared among pools |
//! | [`replay`] | a simulation of a pool over a trace of starts |

pub mod forecast;
pub mod refill;
pub mod replay;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    LabSlug, SavePointId, TemplateRef, TenantId,
    tenant::{Observed, State, Tenant},
};

/// A pool, named by what its tenants are ready for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Any lab with this template. The lab's setup runs after the claim.
    Template(TemplateRef),
    /// One lab. Its setup is done, so its tenants can be used at once.
    Lab(LabSlug),
}

impl fmt::Display for Pool {
    /// Writes the pool's name: `claim-pending`, or `kubernetes-1.36@1+2` for a template.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(template) => write!(f, "{}@{}", template.image, template.form()),
            Self::Lab(lab) => lab.fmt(f),
        }
    }
}

/// What a pooled tenant was made of. It is released once one of them has changed. A staged tenant of another content of
/// its lab is never claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pooled {
    /// The pool.
    pub pool: Pool,
    /// The hash of the template's content.
    pub template: String,
    /// The hash of the lab's content; none for a pool of a template.
    pub lab: Option<String>,
}

impl Pooled {
    /// Returns true if the tenant can serve an environment of this lab, at this hash of its content, with this template.
    #[must_use]
    pub fn serves(&self, lab: &LabSlug, hash: Option<&str>, template: &TemplateRef) -> bool {
        match &self.pool {
            Pool::Lab(mine) => mine == lab && self.lab.as_deref() == hash,
            Pool::Template(mine) => mine == template,
        }
    }
}

/// A tenant of a pool on disk. When a server is drained, what its pools hold is written there. Afterwards the pools are
/// filled from it, which is quicker than a clone and a setup.
///
/// ```text
/// Saving ──► Complete ──► Used ──► Deleting ──► (its row is deleted)
///    └───────────┴─────────────────────▲
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSave {
    /// The id.
    pub id: SavePointId,
    /// The tenant that was saved; once it is used, the one that continues from it.
    pub tenant: TenantId,
    /// What the tenant was made of.
    pub pooled: Pooled,
    /// When it was requested.
    pub created_at: Timestamp,
    /// The phase.
    pub phase: PoolSavePhase,
}

/// The phase of a tenant of a pool on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolSavePhase {
    /// It is being written.
    Saving,
    /// A tenant can continue from it.
    Complete,
    /// A tenant is being made from it. No other one ever is, since it has an identity.
    Used,
    /// Its files are being deleted.
    Deleting,
}

impl PoolSavePhase {
    const ALL: [Self; 4] = [Self::Saving, Self::Complete, Self::Used, Self::Deleting];

    /// Returns the stable word used in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Saving => "saving",
            Self::Complete => "complete",
            Self::Used => "used",
            Self::Deleting => "deleting",
        }
    }
}

impl std::str::FromStr for PoolSavePhase {
    type Err = UnknownPhase;
    fn from_str(text: &str) -> Result<Self, UnknownPhase> {
        let mut all = Self::ALL.into_iter();
        all.find(|phase| phase.as_str() == text).ok_or(UnknownPhase)
    }
}

/// The error for text that is not a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a phase of a pool's save point")]
pub struct UnknownPhase;

impl PoolSave {
    /// How long one is kept that no pool needs.
    const KEEP: SignedDuration = SignedDuration::from_hours(72);

    /// Returns true if no tenant will be made from it any more. `wanted` says what pools make tenants of now.
    #[must_use]
    pub fn is_outdated(&self, wanted: &[Pooled], now: Timestamp) -> bool {
        let differs = |other: &Pooled| other.pool == self.pooled.pool && *other != self.pooled;
        let old = now.duration_since(self.created_at) > Self::KEEP;
        self.phase == PoolSavePhase::Complete && (old || wanted.iter().any(differs))
    }
}

/// Returns the tenant that an environment of this lab should get, of those that nobody has: a staged one if possible, and
/// of those the oldest. Dead ones are left out.
#[must_use]
pub fn choose<'a>(
    tenants: impl IntoIterator<Item = &'a Tenant>,
    lab: &LabSlug,
    hash: Option<&str>,
    template: &TemplateRef,
) -> Option<&'a Tenant> {
    let pooled = |tenant: &'a Tenant| {
        // While it is being made, it is always seen as broken.
        let is_dead = matches!(tenant.state, State::Warm { .. })
            && matches!(tenant.observed, Some(Observed::Absent | Observed::Broken));
        let pooled = tenant.pooled.as_ref()?;
        let serves = tenant.environment.is_none() && !is_dead;
        (serves && pooled.serves(lab, hash, template)).then_some((tenant, &pooled.pool))
    };
    let usable = tenants.into_iter().filter_map(pooled);
    let best = usable.min_by(|(a, of_a), (b, of_b)| {
        let shared = |pool: &Pool| matches!(pool, Pool::Template(_));
        let rank = |tenant: &Tenant, pool: &Pool| (shared(pool), tenant.created_at);
        (rank(a, of_a), &a.id).cmp(&(rank(b, of_b), &b.id))
    });
    best.map(|(tenant, _)| tenant)
}

/// The limits that an operator sets for a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The number of tenants that it holds even without demand.
    pub floor: u32,
    /// The maximum number of tenants.
    pub ceiling: u32,
}

impl Bounds {
    /// The highest value of either.
    pub const MAX: u32 = 500;
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            floor: 0,
            ceiling: Self::MAX,
        }
    }
}
