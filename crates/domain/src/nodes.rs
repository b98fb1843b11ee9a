//! Nodes that are added to a running environment and removed from it.
//!
//! The lab says which nodes an environment begins with ([`crate::Shape`]). Which further ones there should be is
//! intent, how each of them is an observation; [`plan`] compares the two.
//!
//! ```text
//! wanted ──► Adding ──► Ready
//!              │          │  not wanted any more
//!              │          ▼
//!              ├─────► Removing ──► (nothing)
//!              ▼
//!            Failed   what was made of it is freed; it counts as not wanted, and its number is free
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{NodeName, environment::MAX_TRIES, shape::MAX_NODES};

impl NodeName {
    /// The name of the node with this number, from 1.
    #[must_use]
    pub fn numbered(number: u32) -> Option<Self> {
        format!("node{number}").parse().ok()
    }

    /// The node's number, which its address is made of: 3 for `node3`.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        let number = self.as_str().strip_prefix("node")?.parse().ok()?;
        ((1..=MAX_NODES).contains(&number) && Self::numbered(number).as_ref() == Some(self))
            .then_some(number)
    }
}

/// The lowest free name. Nothing when there are as many nodes as there may be.
#[must_use]
pub fn next_free(taken: &[NodeName]) -> Option<NodeName> {
    (1..=MAX_NODES)
        .filter_map(NodeName::numbered)
        .find(|name| !taken.contains(name))
}

/// A node that the lab's template doesn't have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedNode {
    /// Its name.
    pub name: NodeName,
    /// How it is.
    #[serde(flatten)]
    pub state: NodeState,
}

/// How an added node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeState {
    /// It is powered on and joins.
    Adding {
        /// Since when.
        since: Timestamp,
        /// How many times it was tried before.
        tries: u32,
    },
    /// It may be used.
    Ready {
        /// Since when.
        since: Timestamp,
    },
    /// It leaves and is powered off.
    Removing {
        /// Since when.
        since: Timestamp,
    },
    /// It could not be added; nothing of it is left.
    Failed {
        /// Since when.
        at: Timestamp,
        /// What went wrong, for people.
        reason: String,
    },
}

impl NodeState {
    /// The stable word used in the API.
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

/// What the reconciler has to do next about the nodes of one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Add this node, tried so often before.
    Add(NodeName, u32),
    /// Remove this node, or what there is of it.
    Remove(NodeName),
    /// Remove what there is of this node: adding it was interrupted too often.
    GiveUp(NodeName),
}

/// Compares the nodes that should be with those that are, while nothing is under way for the environment.
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
            // Nothing is under way, so whatever worked on it died with the last server.
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
