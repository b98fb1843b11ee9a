//! What is said on `launcher.sock`: one JSON line asked, one JSON line answered.
//!
//! After an answered [`Ask::Open`] the connection carries the stream's bytes; after [`Ask::Watch`] and
//! [`Ask::AddNode`] it carries [`Told`] lines until `Ready` or `Failed`. A launcher of another version is refused with a clear word, never
//! misunderstood.

use faultline_domain::{NodeName, progress::Event};
use serde::{Deserialize, Serialize};

use crate::spec::AddedNode;

/// The protocol's version.
pub const VERSION: u32 = 1;
/// The longest line, in bytes.
pub const MAX_LINE: u64 = 64 * 1024;
/// The socket's name in an environment's folder.
pub const SOCKET: &str = "launcher.sock";

/// One question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Ask {
    /// How are you?
    Status,
    /// What happens until the environment is ready or has failed, from the beginning.
    Watch,
    /// Freeze all nodes; nothing happens when they are.
    Pause,
    /// Continue all nodes and step their clocks.
    Resume,
    /// Freeze all nodes at one instant into the snapshot's folder, and end.
    Freeze,
    /// End: all nodes and the launcher.
    Stop,
    /// Power on a further node, a worker. After the answer: what happens, until it is there or has failed.
    AddNode {
        /// The node, and what the environment may use more.
        added: AddedNode,
    },
    /// Power off a worker and free what it held. Idempotent.
    RemoveNode {
        /// The node.
        node: NodeName,
    },
    /// A stream to a node.
    Open {
        /// The node.
        node: NodeName,
        /// Where to.
        to: Channel,
    },
}

/// Where a stream leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// A TCP port of the node.
    Port(u16),
    /// The serial console.
    Console,
    /// A substream of the guest link.
    Guest,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done, or: the stream begins.
    Done,
    /// How the launcher is.
    Status(Status),
    /// Not done.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

/// Where a launcher is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LauncherPhase {
    /// Nodes come to life.
    Starting,
    /// All nodes run.
    Running,
    /// All nodes are frozen.
    Paused,
    /// A node has died.
    Broken,
}

/// How a launcher is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is.
    pub phase: LauncherPhase,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// CPU time that the environment has used, in milliseconds.
    pub cpu_millis: u64,
    /// Disk that its overlays take, in bytes.
    pub disk_bytes: u64,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub name: NodeName,
    /// Its QEMU.
    pub pid: u32,
    /// False when its QEMU has died.
    pub alive: bool,
    /// False while its guest link is lost.
    pub linked: bool,
    /// Memory of its process that is private to it, in bytes: guest memory that differs from the template's.
    pub guest_private_bytes: u64,
    /// The same for QEMU's own memory.
    pub qemu_private_bytes: u64,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
    /// The environment may be used.
    Ready,
    /// It could not be brought to life.
    Failed {
        /// The stage, a stable word.
        stage: String,
        /// Why, for people.
        reason: String,
    },
}
