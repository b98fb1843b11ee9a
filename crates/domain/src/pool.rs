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

use crate::{LabSlug, TemplateRef};

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

/// What a pooled tenant was made of. It is released instead of claimed once one of them has changed.
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
