//! What is said on `launcher.sock`: one JSON line asked, one JSON line answered.
//!
//! After an answered [`Ask::Open`] the connection carries the stream's bytes; after [`Ask::Watch`] and
//! [`Ask::AddNode`] it carries [`Told`] lines until `Ready` or `Failed`. A launcher of another version is refused with a clear word, never
//! misunderstood.

use faultline_domain::{NodeName, lab::Egress, limits::Limits, progress::Event};
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
    /// The same, and again after each change until the asker hangs up.
    Follow,
    /// What do you use? It may take a while.
    Usage,
    /// What happens until the environment is ready or has failed, from the beginning.
    Watch,
    /// Freeze all nodes; nothing happens when they are.
    Pause,
    /// Continue all nodes and step their clocks.
    Resume,
    /// Use no more than this from now on, and let the nodes connect to these places. Ways out are opened once.
    Configure {
        /// What it may use.
        limits: Limits,
        /// Where its nodes may connect to.
        egress: Vec<Egress>,
    },
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
    /// What it uses.
    Usage(Usage),
    /// Not done.
    Refused(Refusal),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its kind.
    #[serde(default)]
    pub why: Why,
    /// For people.
    pub reason: String,
}

/// The kind of a refusal, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It was tried and failed, or it is none of the others.
    #[default]
    Other,
    /// The nodes are coming to life.
    Starting,
    /// The nodes stand still.
    Paused,
    /// It could not start, or a node has died.
    Broken,
    /// There is no such node.
    NoNode,
    /// There is such a node already.
    NodeExists,
    /// No worker can have this name here.
    NotAWorker,
}

impl Refusal {
    /// Because of this.
    pub fn new(why: Why, reason: impl Into<String>) -> Self {
        Self {
            why,
            reason: reason.into(),
        }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::new(Why::Other, reason)
    }
}

/// Where a launcher is in its life. Derived from how its start went and how its nodes are, and held nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Nodes come to life.
    Starting,
    /// All nodes run.
    Running,
    /// Nodes are frozen: all of them, unless a pause or a resume stopped half-way, and has to be asked for again.
    Paused,
    /// It could not start, or a node has died.
    Broken {
        /// The node.
        #[serde(default)]
        node: Option<NodeName>,
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
}

/// How a launcher is. Cheap to ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is.
    #[serde(flatten)]
    pub phase: Phase,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub name: NodeName,
    /// Its QEMU.
    pub pid: u32,
    /// False when its QEMU has died.
    pub alive: bool,
    /// True when its QEMU was killed, by a person or for lack of memory.
    #[serde(default)]
    pub killed: bool,
    /// False while its guest link is lost.
    pub linked: bool,
}

/// What an environment uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory of its nodes.
    pub nodes: Vec<NodeMemory>,
    /// CPU time that it has used, in milliseconds.
    pub cpu_millis: u64,
    /// Disk that its overlays take, in bytes.
    pub disk_bytes: u64,
}

/// Memory of a node that is private to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// The node.
    pub name: NodeName,
    /// Guest memory that differs from the template's, in bytes.
    pub guest_private_bytes: u64,
    /// QEMU's own, in bytes.
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
