//! The protocol on `launcher.sock`: a request is one JSON line, and so is its answer.
//!
//! After the answer to [`Operation::Open`], the connection carries the stream's bytes. After [`Operation::Watch`] and
//! [`Operation::AddNode`], it carries [`Notification`] lines until `Ready` or `Failed`. Requests of another version are refused with
//! an error.

use std::path::PathBuf;

use faultline_domain::{NodeName, lab::Egress, limits::Limits, progress::Event, save_point::Saved};
use serde::{Deserialize, Serialize};

use crate::spec::AddedNode;

/// The version of the protocol.
pub const VERSION: u32 = 1;
/// The maximum length of a line, in bytes.
pub const MAX_LINE: u64 = 64 * 1024;
/// The name of the socket in an environment's folder.
pub const SOCKET: &str = "launcher.sock";

/// A request and the version of its protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// The request.
    #[serde(rename = "ask")]
    pub operation: Operation,
}

/// The request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Operation {
    /// Answer with the status.
    Status,
    /// Answer with the status, and again after each change until the client disconnects.
    Follow,
    /// Answer with what the environment uses. It may take a while.
    Usage,
    /// Report all events of the start, from its beginning until the environment is ready or has failed.
    Watch,
    /// Freeze all nodes. Does nothing if they are frozen.
    Pause,
    /// Continue all nodes and step their clocks.
    Resume,
    /// Set the limits, and the destinations that nodes may connect to. Destinations can only be set once.
    Configure {
        /// The environment's limits.
        limits: Limits,
        /// The destinations that its nodes may connect to.
        egress: Vec<Egress>,
    },
    /// Save all nodes at the same instant into a new folder. They go on, or stay paused.
    Save {
        /// The folder.
        folder: PathBuf,
    },
    /// Freeze all nodes at the same instant into the snapshot's folder, and end.
    Freeze,
    /// End all nodes and the launcher.
    Stop,
    /// Add a worker. After the answer, events are reported until the node is ready or has failed.
    AddNode {
        /// The node, and by how much it raises the limits.
        added: AddedNode,
    },
    /// Power off a worker and free its resources. Idempotent.
    RemoveNode {
        /// The node.
        node: NodeName,
    },
    /// Open a stream to a node.
    Open {
        /// The node.
        node: NodeName,
        /// The destination of the stream.
        to: Channel,
    },
}

/// The destination of a stream.
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
    /// The request was carried out, or the stream begins.
    Done,
    /// The launcher's status.
    Status(Status),
    /// What the environment uses.
    Usage(Usage),
    /// All nodes were saved.
    Saved(Saved),
    /// The request was not carried out.
    Refused(Refusal),
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind, for programs.
    #[serde(default)]
    pub why: RefusalKind,
    /// The reason, as a message for people.
    pub reason: String,
}

/// The kind of a refusal, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// It failed, or none of the other kinds applies.
    #[default]
    Other,
    /// The nodes are starting.
    Starting,
    /// The nodes are paused.
    Paused,
    /// The start failed, or a node has died.
    Broken,
    /// There is no such node.
    NoNode,
    /// The node exists already.
    NodeExists,
    /// The node is not a worker, or no worker can have this name.
    NotAWorker,
}

impl Refusal {
    /// Returns a refusal of this kind with this reason.
    pub fn new(why: RefusalKind, reason: impl Into<String>) -> Self {
        Self {
            why,
            reason: reason.into(),
        }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::new(RefusalKind::Other, reason)
    }
}

/// The phase of a launcher. It is not stored, but derived from the result of the start and the state of the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Nodes are starting.
    Starting,
    /// All nodes run.
    Running,
    /// Nodes are frozen: all of them, unless a pause or a resume failed half-way and must be requested again.
    Paused,
    /// The start failed, or a node has died.
    Broken {
        /// The node.
        #[serde(default)]
        node: Option<NodeName>,
        /// The reason, as a message for people.
        #[serde(default)]
        reason: String,
    },
}

/// The status of a launcher. Cheap to request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The phase.
    #[serde(flatten)]
    pub phase: Phase,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
}

/// The status of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub name: NodeName,
    /// The process id of QEMU.
    pub pid: u32,
    /// False if QEMU has exited.
    pub alive: bool,
    /// True if QEMU was killed, by a person or for lack of memory.
    #[serde(default)]
    pub killed: bool,
    /// False while the guest link is lost.
    pub linked: bool,
}

/// What an environment uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The memory of each node.
    pub nodes: Vec<NodeMemory>,
    /// The CPU time used so far, in milliseconds.
    pub cpu_millis: u64,
    /// The disk space of its overlays, in bytes.
    pub disk_bytes: u64,
}

/// The memory of a node that it doesn't share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// The node.
    pub name: NodeName,
    /// The guest memory that differs from the template's, in bytes.
    pub guest_private_bytes: u64,
    /// The memory of QEMU itself, in bytes.
    pub qemu_private_bytes: u64,
}

/// A notification to a client that watches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Notification {
    /// An event occurred.
    Event {
        /// The event.
        event: Event,
    },
    /// The environment, or the added node, is ready.
    Ready,
    /// The environment, or the added node, could not be started.
    Failed {
        /// The stage that failed, as a stable word.
        stage: String,
        /// The reason, as a message for people.
        reason: String,
    },
}
