//! SSH user names.

use faultline_domain::{EnvironmentId, NodeName};

/// The environment and node that an SSH user name selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The environment.
    pub environment: EnvironmentId,
    /// The node. Default: the environment's first node.
    pub node: Option<NodeName>,
}

impl Login {
    /// Parses `<environment>` or `<node>.<environment>`.
    #[must_use]
    pub fn parse(user: &str) -> Option<Self> {
        let (node, environment) = match user.split_once('.') {
            Some((node, environment)) => (Some(node.parse().ok()?), environment),
            None => (None, user),
        };
        Some(Self {
            environment: environment.parse().ok()?,
            node,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_forms_are_accepted() {
        let plain = Login::parse("k7fj2n9x4a").unwrap();
        assert_eq!(
            (plain.environment.as_str(), plain.node),
            ("k7fj2n9x4a", None)
        );
        let node = Login::parse("node2.k7fj2n9x4a").unwrap();
        assert_eq!(node.node.unwrap().as_str(), "node2");
        for bad in [
            "", ".", "a.", ".a", "a.b.c", "root@x", "A", "a b", "../x", "a\0",
        ] {
            assert_eq!(Login::parse(bad), None, "{bad:?}");
        }
    }
}
