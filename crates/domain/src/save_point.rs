//! A save point: memory, devices and disks of all of an environment's nodes at one instant.
//!
//! ```text
//! Saving ──► Complete ──► Deleting ──► (its row is deleted)
//!    └─────► Failed ─────────▲
//! ```
//!
//! An environment is restored to it in place, or another environment continues from it (a fork). Both get a new
//! [tenant](crate::tenant), whose spec names the save point. The save point itself stays as it is until it is deleted or
//! its time is up, even if its environment ends.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    EnvironmentId, LabSlug, NodeName, PersonId, SavePointId, TenantId, environment, limits::size,
};

/// The maximum length of a name, in characters.
pub const MAX_NAME: usize = 80;

/// A save point.
#[derive(Debug, Clone, PartialEq)]
pub struct SavePoint {
    /// The id.
    pub id: SavePointId,
    /// The environment that was saved.
    pub environment: EnvironmentId,
    /// The tenant that it ran on.
    pub tenant: TenantId,
    /// The owner.
    pub person: PersonId,
    /// The lab.
    pub lab: LabSlug,
    /// The hash of the lab's content in that environment.
    pub lab_hash: Option<String>,
    /// The description of the environment.
    pub spec: environment::Spec,
    /// The nodes that it had besides those of its template.
    pub added: Vec<NodeName>,
    /// What it was made for.
    pub purpose: Purpose,
    /// Its name, which the person chose or which says why it was made.
    pub name: String,
    /// When it was requested.
    pub created_at: Timestamp,
    /// When it is deleted.
    pub expires_at: Timestamp,
    /// The state.
    pub state: State,
}

/// What a save point was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The environment's owner asked for it.
    Manual,
    /// Somebody who may look into the environment asked for it, and owns it, to work on a copy.
    Copy,
    /// The environment was reset or restored, and this can be undone with it.
    Undo,
    /// The environment is suspended, and continues from it.
    Suspension,
}

impl Purpose {
    /// Returns the stable word used in the store and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Copy => "copy",
            Self::Undo => "undo",
            Self::Suspension => "suspension",
        }
    }
}

/// The state of a save point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It is being written.
    Saving,
    /// It can be used.
    Complete(Saved),
    /// It could not be written, and nothing is left of it.
    Failed {
        /// Why, as a message for people.
        reason: String,
    },
    /// Its files are being deleted.
    Deleting,
}

/// The figures of a save point that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Its size on disk, in bytes.
    pub bytes: u64,
    /// How long the nodes stood still, in milliseconds.
    pub paused_millis: u64,
}

impl State {
    /// Returns the stable word used in the store and the API.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Saving => "saving",
            Self::Complete(_) => "complete",
            Self::Failed { .. } => "failed",
            Self::Deleting => "deleting",
        }
    }
}

impl SavePoint {
    /// Returns its figures if it can be used.
    #[must_use]
    pub const fn saved(&self) -> Option<Saved> {
        match self.state {
            State::Complete(saved) => Some(saved),
            _ => None,
        }
    }
}

/// An operator's bounds of save points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many a person may have, without those for undoing.
    pub of_person: u32,
    /// The disk space that a person's may take, in bytes.
    pub bytes_of_person: u64,
    /// How long one is kept.
    pub keep: SignedDuration,
    /// How long one for undoing is kept. None are made if it is zero.
    pub keep_for_undo: SignedDuration,
    /// How long a suspended environment is kept. None are written to disk if it is zero.
    pub keep_suspended: SignedDuration,
    /// The disk space that all suspended environments together may take, in bytes.
    pub bytes_suspended: u64,
}

/// Why an environment can't be saved now, as a message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The person has as many as they may have.
    #[error("you have {used} save points, and may have {max}; delete one first")]
    TooMany {
        /// How many there are.
        used: u32,
        /// How many are allowed.
        max: u32,
    },
    /// The person's save points take as much disk space as they may.
    #[error("your save points take {} of {}; delete one first", size(*.used), size(*.max))]
    TooLarge {
        /// The disk space that they take, in bytes.
        used: u64,
        /// The disk space that they may take, in bytes.
        max: u64,
    },
    /// The host's disk has too little space.
    #[error("the host has too little disk space for it: {} are needed, and {} are free", size(*.needed), size(*.free))]
    NoSpace {
        /// The estimated size, in bytes.
        needed: u64,
        /// The free space beyond the operator's reserve, in bytes.
        free: u64,
    },
}

/// Decides whether a person may have another save point. `estimate` is its size in bytes; `free` is the space on the
/// host's disk beyond the operator's reserve. One for undoing replaces the environment's previous one and doesn't count.
pub fn may_save<'a>(
    theirs: impl IntoIterator<Item = &'a SavePoint>,
    estimate: u64,
    free: u64,
    bounds: &Bounds,
) -> Result<(), Denial> {
    let (mut used, mut bytes) = (0, 0_u64);
    for save in theirs {
        let asked_for = matches!(save.purpose, Purpose::Manual | Purpose::Copy);
        if asked_for && !matches!(save.state, State::Failed { .. }) {
            used += 1;
            bytes += save.saved().map_or(0, |saved| saved.bytes);
        }
    }
    if used >= bounds.of_person {
        return Err(Denial::TooMany {
            used,
            max: bounds.of_person,
        });
    }
    if bytes.saturating_add(estimate) > bounds.bytes_of_person {
        return Err(Denial::TooLarge {
            used: bytes,
            max: bounds.bytes_of_person,
        });
    }
    has_space(estimate, free)
}

/// Decides whether one more suspended environment of a person may be written to disk. `estimate` is its size in bytes; `all`
/// are those that are there or being written.
#[must_use]
pub fn may_suspend<'a>(
    all: impl IntoIterator<Item = &'a SavePoint>,
    person: &PersonId,
    estimate: u64,
    bounds: &Bounds,
) -> bool {
    let (mut total, mut theirs) = (estimate, estimate);
    for save in all {
        let bytes = save.saved().map_or(0, |saved| saved.bytes);
        total = total.saturating_add(bytes);
        if save.person == *person {
            theirs = theirs.saturating_add(bytes);
        }
    }
    total <= bounds.bytes_suspended && theirs <= bounds.bytes_of_person
}

/// Decides whether the host's disk has space for a save point of this estimated size, both in bytes.
pub const fn has_space(estimate: u64, free: u64) -> Result<(), Denial> {
    if estimate > free {
        return Err(Denial::NoSpace {
            needed: estimate,
            free,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::environment::Environment;

    fn save(purpose: Purpose, state: State) -> SavePoint {
        let e = Environment::example("ann".parse().unwrap());
        SavePoint {
            id: "save".parse().unwrap(),
            environment: e.id,
            tenant: "tenant".parse().unwrap(),
            person: e.person,
            lab: e.lab,
            lab_hash: None,
            spec: e.spec,
            added: Vec::new(),
            purpose,
            name: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            state,
        }
    }

    fn complete(bytes: u64) -> State {
        State::Complete(Saved {
            bytes,
            paused_millis: 1,
        })
    }

    const BOUNDS: Bounds = Bounds {
        of_person: 3,
        bytes_of_person: 100,
        keep: SignedDuration::from_hours(1),
        keep_for_undo: SignedDuration::from_hours(1),
        keep_suspended: SignedDuration::from_hours(1),
        bytes_suspended: 100,
    };

    proptest! {
        #[test]
        fn what_may_be_saved_stays_within_the_bounds(
            sizes in proptest::collection::vec(0_u64..60, 0..5),
            estimate in 0_u64..120,
            free in 0_u64..120,
        ) {
            let all: Vec<_> = sizes.iter().map(|s| save(Purpose::Manual, complete(*s))).collect();
            let may = may_save(&all, estimate, free, &BOUNDS);
            let fits = all.len() < 3 && sizes.iter().sum::<u64>() + estimate <= 100 && estimate <= free;
            prop_assert_eq!(may.is_ok(), fits, "{:?}", may);
        }
    }

    #[test]
    fn suspended_environments_stay_within_their_bounds() {
        let bounds = Bounds {
            bytes_suspended: 150,
            ..BOUNDS
        };
        let ann = save(Purpose::Suspension, complete(70));
        let ben = SavePoint {
            person: "ben".parse().unwrap(),
            ..ann.clone()
        };
        let may = |all: &[&SavePoint], estimate| {
            may_suspend(all.iter().copied(), &ann.person, estimate, &bounds)
        };
        assert!(may(&[&ann], 30) && !may(&[&ann], 31), "of a person");
        assert!(may(&[&ann, &ben], 10) && !may(&[&ann, &ben], 11), "of all");
    }

    #[test]
    fn those_for_undoing_and_failed_ones_do_not_count() {
        let failed = State::Failed {
            reason: String::new(),
        };
        let mut all = vec![
            save(Purpose::Undo, complete(90)),
            save(Purpose::Manual, failed),
            save(Purpose::Manual, State::Saving),
            save(Purpose::Copy, State::Saving),
        ];
        assert_eq!(may_save(&all, 50, 50, &BOUNDS), Ok(()));
        all.push(save(Purpose::Manual, State::Saving));
        let denied = may_save(&all, 50, 50, &BOUNDS).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "you have 3 save points, and may have 3; delete one first"
        );
    }
}
