//! The number of nodes of an environment, and which of them are control planes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::NodeName;

/// The maximum number of nodes of an environment.
pub const MAX_NODES: u32 = 5;

/// The nodes that are frozen and cloned together, written as control planes + workers: `1+2`. On an image without a
/// cluster all nodes are alike, and the first counts as the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shape {
    control_planes: u32,
    workers: u32,
}

/// The error for text or numbers that are not a valid shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a valid shape: write control planes + workers, such as 1+2, with one or three control planes and at most {MAX_NODES} nodes"
)]
pub struct InvalidShape(String);

impl Shape {
    /// One node.
    pub const SINGLE: Self = Self {
        control_planes: 1,
        workers: 0,
    };

    /// Returns a shape. An even number of control planes is an error: it would not make etcd more fault-tolerant.
    pub fn new(control_planes: u32, workers: u32) -> Result<Self, InvalidShape> {
        let nodes = control_planes.saturating_add(workers);
        if matches!(control_planes, 1 | 3) && nodes <= MAX_NODES {
            Ok(Self {
                control_planes,
                workers,
            })
        } else {
            Err(InvalidShape(format!("{control_planes}+{workers}")))
        }
    }

    /// Returns all shapes.
    pub fn all() -> impl Iterator<Item = Self> {
        let pairs = [1, 3]
            .into_iter()
            .flat_map(|c| (0..MAX_NODES).map(move |w| (c, w)));
        pairs.filter_map(|(control_planes, workers)| Self::new(control_planes, workers).ok())
    }

    /// Returns a shape of this many nodes, of which the first is the control plane.
    pub fn of_nodes(nodes: u32) -> Result<Self, InvalidShape> {
        Self::new(1, nodes.saturating_sub(1))
    }

    /// Returns the number of nodes.
    #[must_use]
    pub const fn nodes(self) -> u32 {
        self.control_planes + self.workers
    }

    /// Returns the number of control planes, which are the first nodes.
    #[must_use]
    pub const fn control_planes(self) -> u32 {
        self.control_planes
    }

    /// Returns the number of workers, which are the last nodes.
    #[must_use]
    pub const fn workers(self) -> u32 {
        self.workers
    }

    /// Returns the names of the nodes: node1, node2, …
    #[must_use]
    pub fn node_names(self) -> Vec<NodeName> {
        (1..=self.nodes())
            .filter_map(|n| format!("node{n}").parse().ok())
            .collect()
    }

    /// Returns true if the node with this index, counted from 1, is a control plane.
    #[must_use]
    pub const fn is_control_plane(self, index: u32) -> bool {
        index <= self.control_planes
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.control_planes, self.workers)
    }
}

impl FromStr for Shape {
    type Err = InvalidShape;
    fn from_str(text: &str) -> Result<Self, InvalidShape> {
        let invalid = || InvalidShape(text.chars().take(20).collect());
        let (planes, workers) = text.split_once('+').ok_or_else(invalid)?;
        match (planes.parse(), workers.parse()) {
            (Ok(planes), Ok(workers)) => Self::new(planes, workers),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Shape {
    type Error = InvalidShape;
    fn try_from(text: String) -> Result<Self, InvalidShape> {
        text.parse()
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> Self {
        shape.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_reads_as_it_is_written() {
        for (text, nodes, planes) in [("1+0", 1, 1), ("1+2", 3, 1), ("3+0", 3, 3), ("3+2", 5, 3)] {
            let shape: Shape = text.parse().unwrap();
            assert_eq!((shape.nodes(), shape.control_planes()), (nodes, planes));
            assert_eq!(shape.to_string(), text);
            let json = serde_json::to_string(&shape).unwrap();
            assert_eq!(serde_json::from_str::<Shape>(&json).unwrap(), shape);
        }
        assert_eq!(Shape::of_nodes(3).unwrap(), "1+2".parse().unwrap());
        assert!(Shape::new(3, 0).unwrap().is_control_plane(3));
        assert!(!Shape::new(1, 2).unwrap().is_control_plane(2));
    }

    #[test]
    fn what_is_no_shape_is_refused() {
        for text in [
            "",
            "1",
            "0+1",
            "2+0",
            "1+5",
            "3+3",
            "1+x",
            "-1+2",
            "1+2-",
            "1+2-stock",
            "1+4294967295",
        ] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }
}
