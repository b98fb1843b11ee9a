//! People's public keys on their nodes: which set of keys should be applied, and which nodes still lack it.
//!
//! The version of a person's set of keys is intent: it increases with each key added or removed. The version last
//! applied to a node is an observation. [`KeyVersions::outdated`] compares the two.

use std::collections::BTreeMap;

use crate::NodeName;

/// The version of a person's set of public keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeysVersion(i64);

impl KeysVersion {
    /// Returns the version with this number.
    #[must_use]
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }
}

/// The version of the keys that a tenant's nodes should have, and the versions that they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersions {
    /// Intent: the current version of the owner's keys.
    pub wanted: KeysVersion,
    /// Observation: the version last applied to each node. Nodes without an entry never got any keys.
    pub applied: BTreeMap<NodeName, KeysVersion>,
}

impl KeyVersions {
    /// Returns those of `nodes` that don't have the current keys.
    #[must_use]
    pub fn outdated(&self, nodes: &[NodeName]) -> Vec<NodeName> {
        let current = |node: &NodeName| self.applied.get(node) == Some(&self.wanted);
        nodes.iter().filter(|n| !current(n)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_outdated_until_the_current_version_was_applied_to_it() {
        let nodes: Vec<NodeName> = (1..=4).filter_map(NodeName::numbered).collect();
        let versions = KeyVersions {
            wanted: KeysVersion::new(3),
            applied: [(0, 3), (1, 2), (2, 4)]
                .map(|(node, version): (usize, i64)| {
                    (nodes[node].clone(), KeysVersion::new(version))
                })
                .into(),
        };
        // A node has a later version than the store if the store was restored from a backup.
        assert_eq!(versions.outdated(&nodes), nodes[1..]);
        assert_eq!(versions.outdated(&nodes[..1]), []);
    }
}
