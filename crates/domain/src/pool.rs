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

use serde::{Deserialize, Serialize};

use crate::{
    LabSlug, TemplateRef,
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
