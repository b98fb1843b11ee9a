//! The types of a `lab.yaml`. The JSON Schema for editors and the error messages of `faultline lab lint` are derived
//! from them.

mod cluster;

use std::collections::{BTreeMap, BTreeSet};

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cluster::{
    ApiAction, CanITest, ClusterTest, Count, Field, FromPodTest, ObjectTest, PodDns, PodDnsAnswers,
    PodHttp, PodRequest,
};

use crate::{
    ExposureName, NodeName, Shape, TemplateRef,
    exposure::{Exposure, Source},
    shape::MAX_NODES,
    template::Profile,
};

/// A lab: a broken machine or cluster to repair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// The title in the catalogue: the incident as it is reported, not its cause. At most 80 characters.
    #[garde(length(chars, min = 3, max = 80))]
    pub title: String,
    /// A summary of one or two sentences for the catalogue. At most 240 characters.
    #[garde(length(chars, min = 10, max = 240))]
    pub summary: String,
    /// The difficulty.
    #[garde(skip)]
    pub level: Level,
    /// The topics, used for search and filters, in lower case: `systemd`, `dns`, `storage`.
    #[garde(length(min = 1, max = 8), inner(pattern(r"^[a-z0-9][a-z0-9-]{0,29}$")))]
    pub topics: Vec<String>,
    /// The time, in minutes, that a student of this level needs to solve it.
    #[garde(range(min = 1, max = 240))]
    pub minutes: u32,
    /// The nodes, image and network access that the lab needs.
    #[serde(default)]
    #[garde(dive)]
    pub needs: Needs,
    /// Values that are chosen for each environment. `{{name}}` in any of the lab's files is replaced by the value.
    #[serde(default)]
    #[garde(length(max = 16), custom(valid_variables))]
    pub variables: BTreeMap<String, Variable>,
    /// TCP ports with web pages that the student can open from outside, besides what a cluster's services and Ingresses
    /// expose.
    #[serde(default)]
    #[garde(length(max = 8), custom(unique_exposed_ports), dive)]
    pub exposes: Vec<ExposedPort>,
    /// The steps that break the machine. They run in this order, as root, before the student gets access.
    #[garde(length(min = 1, max = 20), custom(within_max_nodes(&self.needs)), dive)]
    pub setup: Vec<SetupStep>,
    /// The checks that must pass once the lab is repaired. At least one must fail before the repair.
    #[garde(length(min = 1, max = 20), dive)]
    pub checks: Vec<Check>,
    /// Hints, from a nudge to nearly the answer. Students open them in this order.
    #[garde(length(min = 3, max = 5), dive)]
    pub hints: Vec<Hint>,
    /// The points that the lab is worth.
    #[serde(default)]
    #[garde(dive, custom(points_within_level(self.level)))]
    pub score: Score,
}

impl Lab {
    /// Returns the points that the lab is worth when no hint is opened.
    #[must_use]
    pub fn points(&self) -> u32 {
        self.score.points.unwrap_or(self.level.points())
    }

    /// Returns the cost of opening hint `number` (counted from 1), in points.
    #[must_use]
    pub fn hint_points(&self, number: usize) -> u32 {
        let hint = number.checked_sub(1).and_then(|i| self.hints.get(i));
        hint.map_or(0, |hint| (self.points() * hint.cost).div_ceil(100))
    }

    /// Returns the nodes that the setup adds, in order.
    #[must_use]
    pub fn setup_nodes(&self) -> Vec<NodeName> {
        let added = self.setup.iter().filter(|step| step.add_node);
        (self.needs.nodes + 1..)
            .zip(added)
            .filter_map(|(number, _)| NodeName::numbered(number))
            .collect()
    }

    /// Returns what the lab exposes.
    #[must_use]
    pub fn exposures(&self) -> Vec<Exposure> {
        let declared = self.exposes.iter();
        declared
            .map(|port| Exposure {
                name: port.name.clone(),
                source: Source::Lab,
                port: port.port,
                node: Some(port.node.clone()),
            })
            .collect()
    }

    /// Returns all nodes that exist when the student gets access.
    #[must_use]
    pub fn node_names(&self) -> Vec<NodeName> {
        [self.needs.node_names(), self.setup_nodes()].concat()
    }
}

fn points_within_level(level: Level) -> impl FnOnce(&Score, &()) -> garde::Result {
    move |score, ()| {
        let (low, high) = level.range();
        match score.points {
            Some(points) if !(low..=high).contains(&points) => Err(garde::Error::new(format!(
                "a lab of level {} is worth {low} to {high} points; change points or level",
                level.as_str()
            ))),
            _ => Ok(()),
        }
    }
}

fn within_max_nodes(needs: &Needs) -> impl FnOnce(&Vec<SetupStep>, &()) -> garde::Result + use<'_> {
    move |setup, ()| {
        let added = setup.iter().filter(|step| step.add_node).count();
        let nodes = usize::try_from(needs.nodes).unwrap_or(usize::MAX);
        let most = usize::try_from(MAX_NODES).unwrap_or(usize::MAX);
        if added == 0 || nodes.saturating_add(added) <= most {
            Ok(())
        } else {
            Err(garde::Error::new(format!(
                "{nodes} nodes and {added} that setup adds are more than {MAX_NODES}, the limit of a lab"
            )))
        }
    }
}

/// A TCP port with a web page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct ExposedPort {
    /// The name, which is a part of the address: a lower-case letter, then lower-case letters, digits and hyphens.
    #[garde(skip)]
    pub name: ExposureName,
    /// The port.
    #[garde(range(min = 1))]
    pub port: u16,
    /// The node that listens. Default: `node1`.
    #[serde(default = "first_node")]
    #[garde(skip)]
    pub node: NodeName,
}

fn unique_exposed_ports(exposes: &[ExposedPort], (): &()) -> garde::Result {
    let mut names = BTreeSet::new();
    match exposes.iter().find(|port| !names.insert(&port.name)) {
        Some(twice) => Err(garde::Error::new(format!(
            "the name {} is used twice",
            twice.name
        ))),
        None => Ok(()),
    }
}

/// How the value of a variable is chosen for an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Variable {
    /// One of these strings. They consist of letters, digits, `.`, `_` and `-`.
    OneOf(Vec<String>),
    /// An integer between these bounds, inclusive.
    Between([u32; 2]),
    /// A random string of this many letters and digits, 4 to 32.
    Random(u32),
}

fn valid_variables(declared: &BTreeMap<String, Variable>, (): &()) -> garde::Result {
    let plain = |text: &String| {
        (1..=60).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    for (name, variable) in declared {
        let named = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let wrong = match variable {
            _ if !named => {
                "a variable's name consists of lower-case letters, digits and _, and starts with a letter"
            }
            Variable::OneOf(choices) if !(2..=20).contains(&choices.len()) => {
                "one_of needs 2 to 20 strings"
            }
            Variable::OneOf(choices) if !choices.iter().all(plain) => {
                "each string of one_of consists of 1 to 60 letters, digits, `.`, `_` and `-`"
            }
            Variable::Between([low, high]) if low >= high => {
                "between needs two numbers, the lower one first"
            }
            Variable::Random(length) if !(4..=32).contains(length) => {
                "random must be a length from 4 to 32"
            }
            _ => continue,
        };
        return Err(garde::Error::new(format!("{name}: {wrong}")));
    }
    Ok(())
}

/// The difficulty of a lab.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One fault, which the usual tools show.
    Beginner,
    /// Two faults, or one that is hard to find.
    Intermediate,
    /// Faults in several layers, with the symptom far from the cause.
    Hard,
}

impl Level {
    /// Returns the word for it in `lab.yaml`, links and pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Beginner => "beginner",
            Self::Intermediate => "intermediate",
            Self::Hard => "hard",
        }
    }

    /// Returns the default points of a lab of this level.
    #[must_use]
    pub const fn points(self) -> u32 {
        match self {
            Self::Beginner => 100,
            Self::Intermediate => 200,
            Self::Hard => 300,
        }
    }

    /// Returns the lowest and the highest number of points that an author may set.
    #[must_use]
    pub const fn range(self) -> (u32, u32) {
        match self {
            Self::Beginner => (50, 150),
            Self::Intermediate => (150, 250),
            Self::Hard => (250, 400),
        }
    }
}

/// The nodes, image and network access that a lab needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// The image: the name of a recipe in `images/`. Default: `debian-12`. Must not be set together with `kubernetes`.
    #[garde(inner(pattern(r"^[a-z0-9][a-z0-9.-]{0,39}$")), custom(without_kubernetes(&self.kubernetes)))]
    pub image: Option<String>,
    /// The Kubernetes minor version of a kubeadm cluster, such as `"1.36"`. If not set, the nodes are plain machines.
    #[garde(inner(pattern(r"^1\.[0-9]{2}$")))]
    pub kubernetes: Option<String>,
    /// The number of nodes, 1 to 5. They are named node1, node2, … Default: 1.
    #[garde(range(min = 1, max = 5))]
    pub nodes: u32,
    /// The number of control planes, 1 or 3. The first nodes are the control planes. Default: 1.
    #[garde(custom(valid_shape(self.nodes)))]
    pub control_planes: u32,
    /// If true, the cluster has kubeadm's default settings. If false, periodic work runs less often, see
    /// docs/kubernetes.md; set this to true for a lab about those settings. Default: false.
    #[garde(custom(only_with_kubernetes(&self.kubernetes)))]
    pub stock: bool,
    /// The groups of the student's `kubectl` outside the nodes. Default: an administrator's.
    #[garde(length(max = 10), inner(length(min = 1, max = 100)))]
    pub groups: Vec<String>,
    /// The destinations that the nodes may connect to. Default: none.
    #[garde(length(max = 20), dive)]
    pub egress: Vec<Egress>,
    /// The lifetime of an environment without extensions, in minutes, 10 to 480. Default: 90.
    #[garde(range(min = 10, max = 480))]
    pub lifetime_minutes: u32,
}

impl Default for Needs {
    fn default() -> Self {
        Self {
            image: None,
            kubernetes: None,
            nodes: 1,
            control_planes: 1,
            stock: false,
            groups: Vec::new(),
            egress: Vec::new(),
            lifetime_minutes: 90,
        }
    }
}

impl Needs {
    /// Returns the name of the image.
    fn image_name(&self) -> String {
        match (&self.kubernetes, &self.image) {
            (Some(version), _) => format!("kubernetes-{version}"),
            (None, Some(image)) => image.clone(),
            (None, None) => "debian-12".to_owned(),
        }
    }

    /// Returns the shape of the nodes. Validated needs always have one; for invalid ones, this is a single node.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape::new(
            self.control_planes,
            self.nodes.saturating_sub(self.control_planes),
        )
        .unwrap_or(Shape::SINGLE)
    }

    /// Returns the template that the lab runs on.
    #[must_use]
    pub fn template(&self) -> TemplateRef {
        TemplateRef {
            image: self.image_name(),
            shape: self.shape(),
            profile: match (&self.kubernetes, self.stock) {
                (None, _) => Profile::Plain,
                (Some(_), false) => Profile::Tuned,
                (Some(_), true) => Profile::Stock,
            },
        }
    }

    /// Returns the names of the nodes.
    #[must_use]
    pub fn node_names(&self) -> Vec<NodeName> {
        self.shape().node_names()
    }
}

fn without_kubernetes(
    kubernetes: &Option<String>,
) -> impl FnOnce(&Option<String>, &()) -> garde::Result + use<'_> {
    move |image, ()| match (image, kubernetes) {
        (Some(_), Some(_)) => Err(garde::Error::new(
            "set either image or kubernetes, not both; a cluster brings its own image",
        )),
        _ => Ok(()),
    }
}

fn only_with_kubernetes(
    kubernetes: &Option<String>,
) -> impl FnOnce(&bool, &()) -> garde::Result + use<'_> {
    move |stock, ()| {
        if *stock && kubernetes.is_none() {
            return Err(garde::Error::new(
                "only a cluster can be stock; set kubernetes to a version",
            ));
        }
        Ok(())
    }
}

fn valid_shape(nodes: u32) -> impl FnOnce(&u32, &()) -> garde::Result {
    move |control_planes, ()| {
        // The number of nodes is validated on its own.
        if !(1..=MAX_NODES).contains(&nodes) {
            return Ok(());
        }
        if *control_planes > nodes {
            return Err(garde::Error::new(format!(
                "{control_planes} control planes need at least as many nodes, but nodes is {nodes}"
            )));
        }
        Shape::new(*control_planes, nodes - *control_planes)
            .map(drop)
            .map_err(garde::Error::new)
    }
}

/// A destination that a lab's nodes may connect to over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// A host name (matched exactly), an IPv4 address, or an IPv4 network such as `192.0.2.0/24`.
    #[garde(length(min = 1, max = 253))]
    pub to: String,
    /// The TCP port.
    #[garde(range(min = 1))]
    pub port: u16,
}

/// One step of breaking the machine. Exactly one of `script`, `apply`, `load`, `wait` and `add_node` is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct SetupStep {
    /// A script in the lab's folder, such as `setup/break.sh`. On a cluster's control plane, its `kubectl` has
    /// administrator rights.
    #[serde(default)]
    #[garde(
        inner(pattern(r"^setup/[A-Za-z0-9._-]+$")),
        custom(exactly_one_action(self))
    )]
    pub script: Option<String>,
    /// Manifests in the lab's folder, such as `setup/shop.yaml`, to apply to the cluster with administrator rights.
    #[serde(default)]
    #[garde(inner(pattern(r"^setup/[A-Za-z0-9._-]+\.yaml$")))]
    pub apply: Option<String>,
    /// The description of a container image in the lab's folder, such as `images/shop.yaml`. It has the fields of a
    /// container in an image recipe: `name`, `packages`, `files`, `entrypoint`, `cmd`, `env`, `user`. The image is
    /// built on the host and loaded into the nodes' containerd.
    #[serde(default)]
    #[garde(inner(pattern(r"^images/[A-Za-z0-9._-]+\.yaml$")))]
    pub load: Option<String>,
    /// A condition on objects of the cluster to wait for, such as that the workload runs, or that the symptom shows.
    #[serde(default)]
    #[garde(dive)]
    pub wait: Option<ObjectTest>,
    /// If true, adds a worker node with the next free number: node2 if `needs` has one node. In a cluster, the node
    /// joins and is Ready before the next step begins. This takes minutes; put nodes that the lab has from the start
    /// into `needs`, where they add no time. Default: false.
    #[serde(default)]
    #[garde(skip)]
    pub add_node: bool,
    /// The nodes that run the script or get the image. Default: all nodes that exist at this step.
    #[serde(default)]
    #[garde(length(max = 5))]
    pub nodes: Vec<NodeName>,
    /// The time limit in seconds. Default: 120. It does not apply to `add_node`, whose limit is always 1200.
    #[serde(default = "default_setup_seconds")]
    #[garde(range(min = 1, max = 1200))]
    pub timeout_seconds: u32,
}

fn exactly_one_action(
    step: &SetupStep,
) -> impl FnOnce(&Option<String>, &()) -> garde::Result + use<'_> {
    move |script, ()| {
        let actions = [
            script.is_some(),
            step.apply.is_some(),
            step.load.is_some(),
            step.wait.is_some(),
            step.add_node,
        ];
        if actions.into_iter().filter(|set| *set).count() == 1 {
            Ok(())
        } else {
            Err(garde::Error::new(
                "set exactly one of script, apply, load, wait and add_node in a step",
            ))
        }
    }
}

const fn default_setup_seconds() -> u32 {
    120
}

/// A check: something that must hold once the lab is repaired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A short name, unique in the lab, such as `service-runs`.
    #[garde(pattern(r"^[a-z0-9][a-z0-9-]{0,39}$"))]
    pub name: String,
    /// What must hold, for the student: "orders-api answers on port 8080".
    #[garde(length(chars, min = 3, max = 120))]
    pub title: String,
    /// The message for the student when the check fails: what is wrong, not how to fix it.
    #[garde(length(chars, min = 3, max = 300))]
    pub fail: String,
    /// What the student is shown as seen when the check fails, in place of the test's own output. Set it if that output
    /// would give away the repair. An empty string shows nothing. Default: the test's own output.
    #[serde(default)]
    #[garde(length(chars, max = 300))]
    pub seen: Option<String>,
    /// The number of the hint to point to when the check fails, counted from 1.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(range(min = 1, max = 5))]
    pub hint: Option<u32>,
    /// The time limit in seconds. Default: 30.
    #[serde(default = "default_check_seconds")]
    #[garde(range(min = 1, max = 300))]
    pub timeout_seconds: u32,
    /// The node to check. Default: `node1`.
    #[serde(default = "first_node")]
    #[garde(skip)]
    pub node: NodeName,
    /// How the check is evaluated.
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

/// How a check is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Test {
    /// A script run as root in the guest, with the image's original tools. The check passes if the exit code is 0. The
    /// script's output is shown to the student as what was seen.
    Script(#[garde(pattern(r"^checks/[A-Za-z0-9._-]+$"))] String),
    /// A TCP connection from outside the node.
    Tcp(#[garde(dive)] TcpTest),
    /// An HTTP request from outside the node.
    Http(#[garde(dive)] HttpTest),
    /// A DNS query to the node, from outside, over TCP.
    Dns(#[garde(dive)] DnsTest),
    /// A file in the guest.
    File(#[garde(dive)] FileTest),
    /// The state of objects in the cluster.
    Object(#[garde(dive)] ObjectTest),
    /// A request from a pod in the cluster.
    FromPod(#[garde(dive)] FromPodTest),
    /// What a user may do in the cluster.
    CanI(#[garde(dive)] CanITest),
    /// The health of the cluster itself.
    Cluster(#[garde(dive)] ClusterTest),
}

impl Test {
    /// Returns true if the test needs the cluster's API server.
    #[must_use]
    pub const fn needs_cluster(&self) -> bool {
        matches!(
            self,
            Self::Object(_) | Self::FromPod(_) | Self::CanI(_) | Self::Cluster(_)
        )
    }
}

/// A TCP connection from outside the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct TcpTest {
    /// The port on the node.
    #[garde(range(min = 1))]
    pub port: u16,
    /// If true, the connection must be accepted. If false, it must be refused. Default: true.
    #[serde(default = "default_true")]
    #[garde(skip)]
    pub open: bool,
}

const fn default_true() -> bool {
    true
}

/// An HTTP request from outside the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct HttpTest {
    /// The port on the node.
    #[garde(range(min = 1))]
    pub port: u16,
    /// The path, including the query. Default: `/`.
    #[serde(default = "default_path")]
    #[garde(pattern(r"^/[!-~]*$"), length(max = 500))]
    pub path: String,
    /// The Host header. Default: the node's name.
    #[serde(default)]
    #[garde(length(max = 253))]
    pub host: Option<String>,
    /// The expected status code. Default: 200.
    #[serde(default = "default_status")]
    #[garde(range(min = 100, max = 599))]
    pub status: u16,
    /// A regular expression that the first 64 KiB of the body must match.
    #[serde(default)]
    #[garde(length(max = 500))]
    pub body: Option<String>,
}

fn default_path() -> String {
    "/".to_owned()
}

const fn default_status() -> u16 {
    200
}

/// A DNS query to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct DnsTest {
    /// The name to look up.
    #[garde(length(min = 1, max = 253))]
    pub name: String,
    /// The port on the node. Default: 53.
    #[serde(default = "default_dns_port")]
    #[garde(range(min = 1))]
    pub port: u16,
    /// The expected IPv4 addresses, in any order. If empty, any answer passes.
    #[serde(default)]
    #[garde(skip)]
    pub answers: Vec<std::net::Ipv4Addr>,
}

const fn default_dns_port() -> u16 {
    53
}

/// A file in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct FileTest {
    /// The absolute path.
    #[garde(pattern(r"^/[^\x00]*$"), length(max = 500))]
    pub path: String,
    /// If true, the file must exist. If false, it must not exist. Default: true.
    #[serde(default = "default_true")]
    #[garde(skip)]
    pub exists: bool,
    /// A regular expression that the first MiB of the content must match. With `(?m)`, `^` and `$` match at line
    /// boundaries.
    #[serde(default)]
    #[garde(length(max = 500))]
    pub matches: Option<String>,
    /// A regular expression that the content must not match.
    #[serde(default)]
    #[garde(length(max = 500))]
    pub lacks: Option<String>,
    /// The expected permission bits, as an octal string: `"0640"`.
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
    /// The cost of opening the hint, in percent of the lab's points. Default: 10.
    #[serde(default = "default_cost")]
    #[garde(range(max = 100))]
    pub cost: u32,
}

const fn default_cost() -> u32 {
    10
}

/// The points that a lab is worth.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, Validate,
)]
#[serde(deny_unknown_fields, default)]
pub struct Score {
    /// The points of a solution without any hint. Default: 100 for beginner, 200 for intermediate, 300 for hard.
    /// Allowed: 50 to 150 for beginner, 150 to 250 for intermediate, 250 to 400 for hard.
    #[garde(skip)]
    pub points: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_documented_ones() {
        let needs = Needs::default();
        assert_eq!(
            (
                needs.template().image.as_str(),
                needs.nodes,
                needs.lifetime_minutes
            ),
            ("debian-12", 1, 90)
        );
        assert_eq!(
            needs.node_names(),
            vec!["node1".parse::<NodeName>().unwrap()]
        );
    }

    #[test]
    fn a_cluster_names_its_image_and_its_shape() {
        let needs = Needs {
            kubernetes: Some("1.36".to_owned()),
            nodes: 3,
            ..Needs::default()
        };
        assert!(needs.validate().is_ok());
        let template = needs.template();
        assert_eq!(template.to_string(), "kubernetes-1.36 with shape 1+2");
        assert_eq!(template.profile, Profile::Tuned);
        for wrong in [
            Needs {
                image: Some("debian-12".to_owned()),
                ..needs.clone()
            },
            Needs {
                control_planes: 2,
                ..needs.clone()
            },
            Needs {
                control_planes: 5,
                ..needs.clone()
            },
            Needs {
                kubernetes: Some("latest".to_owned()),
                ..needs
            },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_harder_lab_is_worth_more_and_its_hints_cost_their_part() {
        let lab = |level: &str, score: &str| -> Lab {
            serde_json::from_str(&format!(
                r#"{{"title": "It is gone", "summary": "It is gone since Friday.", "level": "{level}", "topics": ["dns"],
                "minutes": 5, "setup": [{{"script": "setup/break.sh"}}],
                "checks": [{{"name": "a", "title": "It is there", "fail": "It is gone.", "test": {{"script": "checks/a.sh"}}}}],
                "hints": [{{"text": "A nudge", "cost": 5}}, {{"text": "A push"}}, {{"text": "A shove", "cost": 25}}], "score": {score}}}"#
            ))
            .unwrap()
        };
        for (level, score, points, costs) in [
            ("beginner", "{}", 100, [5, 10, 25]),
            ("intermediate", "{}", 200, [10, 20, 50]),
            ("hard", "{}", 300, [15, 30, 75]),
            ("hard", r#"{"points": 250}"#, 250, [13, 25, 63]),
        ] {
            let lab = lab(level, score);
            assert_eq!(lab.points(), points, "{level} {score}");
            assert_eq!([1, 2, 3].map(|n| lab.hint_points(n)), costs);
            assert_eq!((lab.hint_points(0), lab.hint_points(4)), (0, 0));
            assert!(lab.validate().is_ok());
        }
        for (level, points) in [("beginner", 300), ("hard", 100)] {
            let wrong = lab(level, &format!("{{\"points\": {points}}}")).validate();
            let said = wrong.unwrap_err().to_string();
            assert!(said.contains("is worth"), "{said}");
        }
    }
}
