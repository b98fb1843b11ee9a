//! What a `lab.yaml` says. The JSON Schema for editors and the error messages of `faultline lab lint` come from
//! these types.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::NodeName;

/// A lab: an incident to be repaired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// What the incident is, in the incident's voice; shown in the catalogue. At most 80 characters.
    #[garde(length(chars, min = 3, max = 80))]
    pub title: String,
    /// One or two sentences for the catalogue. At most 240 characters.
    #[garde(length(chars, min = 10, max = 240))]
    pub summary: String,
    /// How hard it is.
    #[garde(skip)]
    pub level: Level,
    /// What it is about, for search and filters: `systemd`, `dns`, `storage`. Lower case.
    #[garde(length(min = 1, max = 8), inner(pattern(r"^[a-z0-9][a-z0-9-]{0,29}$")))]
    pub topics: Vec<String>,
    /// How many minutes it takes somebody of its level.
    #[garde(range(min = 1, max = 240))]
    pub minutes: u32,
    /// What it needs from a machine.
    #[serde(default)]
    #[garde(dive)]
    pub needs: Needs,
    /// Scripts that break the machine, run in this order as root, before the student enters.
    #[garde(length(min = 1, max = 20), dive)]
    pub setup: Vec<SetupStep>,
    /// What must hold when it is repaired. At least one must fail on an untouched machine.
    #[garde(length(min = 1, max = 20), dive)]
    pub checks: Vec<Check>,
    /// Hints, from a nudge to nearly the answer; opened in order.
    #[garde(length(min = 3, max = 5), dive)]
    pub hints: Vec<Hint>,
    /// What it is worth.
    #[serde(default)]
    #[garde(dive)]
    pub score: Score,
}

/// How hard a lab is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One fault, the usual tools show it.
    Beginner,
    /// Two faults or one that hides.
    Intermediate,
    /// Several layers, and the symptom is far from the cause.
    Hard,
}

impl Level {
    /// The word used in `lab.yaml`, links and pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Beginner => "beginner",
            Self::Intermediate => "intermediate",
            Self::Hard => "hard",
        }
    }
}

/// What a lab needs from a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// The image's name: a recipe in `images/`.
    #[garde(pattern(r"^[a-z0-9][a-z0-9.-]{0,39}$"))]
    pub image: String,
    /// How many nodes, named node1, node2, … 1 to 5.
    #[garde(range(min = 1, max = 5))]
    pub nodes: u32,
    /// Where its nodes may connect to. Nothing, unless listed here.
    #[garde(length(max = 20), dive)]
    pub egress: Vec<Egress>,
    /// How many minutes an environment lives, before it is extended. 10 to 480.
    #[garde(range(min = 10, max = 480))]
    pub lifetime_minutes: u32,
}

impl Default for Needs {
    fn default() -> Self {
        Self {
            image: "debian-12".to_owned(),
            nodes: 1,
            egress: Vec::new(),
            lifetime_minutes: 90,
        }
    }
}

impl Needs {
    /// The nodes' names.
    #[must_use]
    pub fn node_names(&self) -> Vec<NodeName> {
        (1..=self.nodes)
            .filter_map(|n| format!("node{n}").parse().ok())
            .collect()
    }
}

/// One place that a lab's nodes may connect to, over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// A host name (exact), an IPv4 address, or an IPv4 network such as `192.0.2.0/24`.
    #[garde(length(min = 1, max = 253))]
    pub to: String,
    /// The TCP port.
    #[garde(range(min = 1))]
    pub port: u16,
}

/// One step of breaking the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct SetupStep {
    /// A script under the lab's folder, such as `setup/break.sh`.
    #[garde(pattern(r"^setup/[A-Za-z0-9._-]+$"))]
    pub script: String,
    /// The nodes that run it. All, unless listed.
    #[serde(default)]
    #[garde(length(max = 5))]
    pub nodes: Vec<NodeName>,
    /// How many seconds it may take. 120 unless said.
    #[serde(default = "default_setup_seconds")]
    #[garde(range(min = 1, max = 600))]
    pub timeout_seconds: u32,
}

const fn default_setup_seconds() -> u32 {
    120
}

/// Something that must hold when the machine is repaired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A short name, unique in the lab, such as `service-runs`.
    #[garde(pattern(r"^[a-z0-9][a-z0-9-]{0,39}$"))]
    pub name: String,
    /// What must hold, for the student: "orders-api answers on port 8080".
    #[garde(length(chars, min = 3, max = 120))]
    pub title: String,
    /// What the student reads when it does not hold: what is wrong, not how to mend it.
    #[garde(length(chars, min = 3, max = 300))]
    pub fail: String,
    /// The number of the hint to point to, from 1.
    #[serde(default)]
    #[garde(range(min = 1, max = 5))]
    pub hint: Option<u32>,
    /// How many seconds it may take. 30 unless said.
    #[serde(default = "default_check_seconds")]
    #[garde(range(min = 1, max = 300))]
    pub timeout_seconds: u32,
    /// The node it looks at. `node1` unless said.
    #[serde(default = "first_node")]
    #[garde(skip)]
    pub node: NodeName,
    /// How it is found out.
    #[garde(dive)]
    pub test: Test,
}

const fn default_check_seconds() -> u32 {
    30
}

fn first_node() -> NodeName {
    #[expect(clippy::expect_used, reason = "a literal that is a label")]
    "node1".parse().expect("node1 is a node name")
}

/// How a check finds out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Test {
    /// A script in the guest, run as root with the image's own untouched tools; exit code 0 holds, and what it
    /// prints is shown as what was seen.
    Script(#[garde(pattern(r"^checks/[A-Za-z0-9._-]+$"))] String),
    /// A TCP connection from outside the node.
    Tcp(#[garde(dive)] TcpTest),
    /// An HTTP request from outside the node.
    Http(#[garde(dive)] HttpTest),
    /// A DNS question to the node, from outside, over TCP.
    Dns(#[garde(dive)] DnsTest),
    /// A file in the guest.
    File(#[garde(dive)] FileTest),
}

/// A TCP connection from outside the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct TcpTest {
    /// The port on the node.
    #[garde(range(min = 1))]
    pub port: u16,
    /// True (the default): the connection must be taken. False: it must be refused.
    #[serde(default = "yes")]
    #[garde(skip)]
    pub open: bool,
}

const fn yes() -> bool {
    true
}

/// An HTTP request from outside the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct HttpTest {
    /// The port on the node.
    #[garde(range(min = 1))]
    pub port: u16,
    /// The path, with query. `/` unless said.
    #[serde(default = "slash")]
    #[garde(pattern(r"^/[!-~]*$"), length(max = 500))]
    pub path: String,
    /// The Host header. The node's name unless said.
    #[serde(default)]
    #[garde(length(max = 253))]
    pub host: Option<String>,
    /// The status that must come. 200 unless said.
    #[serde(default = "ok")]
    #[garde(range(min = 100, max = 599))]
    pub status: u16,
    /// A regular expression that the body must match (its first 64 KiB).
    #[serde(default)]
    #[garde(length(max = 500))]
    pub body: Option<String>,
}

fn slash() -> String {
    "/".to_owned()
}

const fn ok() -> u16 {
    200
}

/// A DNS question to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct DnsTest {
    /// The name asked for.
    #[garde(length(min = 1, max = 253))]
    pub name: String,
    /// The port on the node. 53 unless said.
    #[serde(default = "dns_port")]
    #[garde(range(min = 1))]
    pub port: u16,
    /// The IPv4 addresses that must come, in any order. Empty: any answer will do.
    #[serde(default)]
    #[garde(skip)]
    pub answers: Vec<std::net::Ipv4Addr>,
}

const fn dns_port() -> u16 {
    53
}

/// A file in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct FileTest {
    /// The absolute path.
    #[garde(pattern(r"^/[^\x00]*$"), length(max = 500))]
    pub path: String,
    /// True (the default): it must exist. False: it must not.
    #[serde(default = "yes")]
    #[garde(skip)]
    pub exists: bool,
    /// A regular expression that the content must match (its first MiB); `(?m)` makes ^ and $ match at lines.
    #[serde(default)]
    #[garde(length(max = 500))]
    pub matches: Option<String>,
    /// A regular expression that the content must not match.
    #[serde(default)]
    #[garde(length(max = 500))]
    pub lacks: Option<String>,
    /// The permission bits, in octal, as text: `"0640"`.
    #[serde(default)]
    #[garde(inner(pattern(r"^[0-7]{3,4}$")))]
    pub mode: Option<String>,
}

/// A hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// The hint, as Markdown.
    #[garde(length(chars, min = 5, max = 4000))]
    pub text: String,
    /// What opening it costs, in points. 10 unless said.
    #[serde(default = "default_cost")]
    #[garde(range(max = 100))]
    pub cost: u32,
}

const fn default_cost() -> u32 {
    10
}

/// What a lab is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Score {
    /// Points without any hint. 100 unless said.
    #[garde(range(min = 10, max = 1000))]
    pub points: u32,
}

impl Default for Score {
    fn default() -> Self {
        Self { points: 100 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_documented_ones() {
        let needs = Needs::default();
        assert_eq!(
            (needs.image.as_str(), needs.nodes, needs.lifetime_minutes),
            ("debian-12", 1, 90)
        );
        assert_eq!(
            needs.node_names(),
            vec!["node1".parse::<NodeName>().unwrap()]
        );
    }
}
