//! Nodes that are added to a running environment and removed from it.
//!
//! The lab determines the nodes that an environment starts with ([`crate::Shape`]). Which nodes it should have besides
//! these is intent; the state of each added node is an observation. [`plan`] compares the two.
//!
//! ```text
//! wanted ──► Adding ──► Ready
//!              │          │  not wanted any more
//!              │          ▼
//!              ├─────► Removing ──► (nothing)
//!              ▼
//!            Failed   its resources are freed, it is no longer wanted, and its number can be reused
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{NodeName, environment::MAX_TRIES, shape::MAX_NODES};

impl NodeName {
    /// Returns the name of the node with this number, counted from 1.
    #[must_use]
    pub fn numbered(number: u32) -> Option<Self> {
        format!("node{number}").parse().ok()
    }

    /// Returns the node's number, which determines its address: 3 for `node3`.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        let number = self.as_str().strip_prefix("node")?.parse().ok()?;
        ((1..=MAX_NODES).contains(&number) && Self::numbered(number).as_ref() == Some(self))
            .then_some(number)
    }
}

/// Returns the free name with the lowest number, or `None` if there are [`MAX_NODES`] nodes.
#[must_use]
pub fn next_free(taken: &[NodeName]) -> Option<NodeName> {
    (1..=MAX_NODES)
        .filter_map(NodeName::numbered)
        .find(|name| !taken.contains(name))
}

/// A node that was added to those of the template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedNode {
    /// The name.
    pub name: NodeName,
    /// The lifecycle state.
    #[serde(flatten)]
    pub state: NodeState,
}

/// The lifecycle state of an added node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeState {
    /// It is being powered on and joins the cluster.
    Adding {
        /// When this attempt to add it began.
        since: Timestamp,
        /// The number of failed attempts to add it.
        tries: u32,
    },
    /// It can be used.
    Ready {
        /// When it became ready.
        since: Timestamp,
    },
    /// It leaves the cluster and is being powered off.
    Removing {
        /// When its removal began.
        since: Timestamp,
    },
    /// It could not be added, and its resources were freed.
    Failed {
        /// When it failed.
        at: Timestamp,
        /// What went wrong, as a message for people.
        reason: String,
    },
}

impl NodeState {
    /// Returns the stable word used in the API.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Adding { .. } => "adding",
            Self::Ready { .. } => "ready",
            Self::Removing { .. } => "removing",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What the reconciler must do next for the nodes of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Do nothing.
    Wait,
    /// Add this node, after this many failed attempts.
    Add(NodeName, u32),
    /// Remove this node, or what is left of it.
    Remove(NodeName),
    /// Remove what is left of this node: adding it was interrupted too often.
    GiveUp(NodeName),
}

/// Returns the next step, from the nodes wanted and those added. Call it only while no step is running for the
/// environment.
#[must_use]
pub fn plan(wanted: &[NodeName], added: &[AddedNode]) -> Step {
    let leaves = |node: &AddedNode| match node.state {
        NodeState::Removing { .. } => true,
        NodeState::Adding { .. } | NodeState::Ready { .. } => !wanted.contains(&node.name),
        NodeState::Failed { .. } => false,
    };
    if let Some(node) = added.iter().find(|node| leaves(node)) {
        return Step::Remove(node.name.clone());
    }
    for name in wanted {
        let found = added.iter().find(|node| node.name == *name);
        match found.map(|node| &node.state) {
            // No step is running, so the one that was ended with the previous server process.
            Some(NodeState::Adding { tries, .. }) if tries + 1 < MAX_TRIES => {
                return Step::Add(name.clone(), tries + 1);
            }
            Some(NodeState::Adding { .. }) => return Step::GiveUp(name.clone()),
            None | Some(NodeState::Failed { .. }) => return Step::Add(name.clone(), 0),
            Some(NodeState::Ready { .. } | NodeState::Removing { .. }) => {}
        }
    }
    Step::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> NodeName {
        NodeName::numbered(number).unwrap()
    }

    fn node(number: u32, state: NodeState) -> AddedNode {
        AddedNode {
            name: name(number),
            state,
        }
    }

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn names_have_numbers() {
        assert_eq!(name(3).number(), Some(3));
        for other in ["node0", "node6", "node03", "node", "nod3", "node3x"] {
            assert_eq!(other.parse::<NodeName>().unwrap().number(), None, "{other}");
        }
        assert_eq!(next_free(&[name(1), name(3)]), Some(name(2)));
        assert_eq!(next_free(&(1..=5).map(name).collect::<Vec<_>>()), None);
    }

    #[test]
    fn what_is_wanted_comes_and_what_is_not_goes() {
        let ready = NodeState::Ready { since: AT };
        assert_eq!(plan(&[], &[]), Step::Wait);
        assert_eq!(plan(&[name(2)], &[]), Step::Add(name(2), 0));
        assert_eq!(plan(&[name(2)], &[node(2, ready.clone())]), Step::Wait);
        assert_eq!(plan(&[], &[node(2, ready)]), Step::Remove(name(2)));
        let failed = NodeState::Failed {
            at: AT,
            reason: "x".to_owned(),
        };
        assert_eq!(plan(&[], &[node(2, failed.clone())]), Step::Wait);
        assert_eq!(
            plan(&[name(2)], &[node(2, failed)]),
            Step::Add(name(2), 0),
            "asked for anew"
        );
    }

    #[test]
    fn what_was_interrupted_is_finished_or_given_up() {
        let adding = |tries| node(2, NodeState::Adding { since: AT, tries });
        assert_eq!(plan(&[name(2)], &[adding(0)]), Step::Add(name(2), 1));
        assert_eq!(plan(&[name(2)], &[adding(1)]), Step::GiveUp(name(2)));
        assert_eq!(plan(&[], &[adding(0)]), Step::Remove(name(2)));
        let removing = node(2, NodeState::Removing { since: AT });
        assert_eq!(
            plan(&[name(2)], &[removing]),
            Step::Remove(name(2)),
            "what was half removed is not used again"
        );
    }

    #[test]
    fn a_state_is_stored_beside_its_name() {
        let json = serde_json::to_string(&node(2, NodeState::Ready { since: AT })).unwrap();
        assert!(json.contains(r#""name":"node2","state":"ready""#), "{json}");
    }
}
