//! What a `lab.yaml` says. The JSON Schema for editors and the error messages of `faultline lab lint` come from
//! these types.

mod cluster;

use std::collections::BTreeMap;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cluster::{
    CanITest, ClusterTest, Count, Deed, Field, FromPodTest, ObjectTest, PodDns, PodDnsAnswers,
    PodHttp, PodRequest,
};

use crate::{NodeName, Shape, TemplateRef, shape::MAX_NODES, template::Profile};

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
    /// Values that differ from environment to environment: `{{name}}` in any of the lab's files stands for one.
    #[serde(default)]
    #[garde(length(max = 16), custom(well_declared))]
    pub variables: BTreeMap<String, Variable>,
    /// Scripts that break the machine, run in this order as root, before the student enters.
    #[garde(length(min = 1, max = 20), custom(room_for_nodes(&self.needs)), dive)]
    pub setup: Vec<SetupStep>,
    /// What must hold when it is repaired. At least one must fail on an untouched machine.
    #[garde(length(min = 1, max = 20), dive)]
    pub checks: Vec<Check>,
    /// Hints, from a nudge to nearly the answer; opened in order.
    #[garde(length(min = 3, max = 5), dive)]
    pub hints: Vec<Hint>,
    /// What it is worth.
    #[serde(default)]
    #[garde(dive, custom(within_level(self.level)))]
    pub score: Score,
}

impl Lab {
    /// What it is worth without any hint, in points.
    #[must_use]
    pub fn points(&self) -> u32 {
        self.score.points.unwrap_or(self.level.points())
    }

    /// What opening hint `number`, counted from 1, costs, in points.
    #[must_use]
    pub fn hint_points(&self, number: usize) -> u32 {
        let hint = number.checked_sub(1).and_then(|i| self.hints.get(i));
        hint.map_or(0, |hint| (self.points() * hint.cost).div_ceil(100))
    }

    /// The nodes that its setup adds, in order.
    #[must_use]
    pub fn setup_nodes(&self) -> Vec<NodeName> {
        let added = self.setup.iter().filter(|step| step.add_node);
        (self.needs.nodes + 1..)
            .zip(added)
            .filter_map(|(number, _)| NodeName::numbered(number))
            .collect()
    }

    /// All nodes that there are when the student enters.
    #[must_use]
    pub fn node_names(&self) -> Vec<NodeName> {
        [self.needs.node_names(), self.setup_nodes()].concat()
    }
}

fn within_level(level: Level) -> impl FnOnce(&Score, &()) -> garde::Result {
    move |score, ()| {
        let (low, high) = level.range();
        match score.points {
            Some(points) if !(low..=high).contains(&points) => Err(garde::Error::new(format!(
                "a lab of level {} is worth {low} to {high} points",
                level.as_str()
            ))),
            _ => Ok(()),
        }
    }
}

fn room_for_nodes(needs: &Needs) -> impl FnOnce(&Vec<SetupStep>, &()) -> garde::Result + use<'_> {
    move |setup, ()| {
        let added = setup.iter().filter(|step| step.add_node).count();
        let nodes = usize::try_from(needs.nodes).unwrap_or(usize::MAX);
        let most = usize::try_from(MAX_NODES).unwrap_or(usize::MAX);
        if added == 0 || nodes.saturating_add(added) <= most {
            Ok(())
        } else {
            Err(garde::Error::new(format!(
                "{nodes} nodes and {added} that setup adds are more than {MAX_NODES}"
            )))
        }
    }
}

/// A value that differs from environment to environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Variable {
    /// One of these texts, of letters, digits, `.`, `_` and `-`.
    OneOf(Vec<String>),
    /// A whole number in these bounds, both included.
    Between([u32; 2]),
    /// So many letters and digits, 4 to 32.
    Random(u32),
}

fn well_declared(declared: &BTreeMap<String, Variable>, (): &()) -> garde::Result {
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
            _ if !named => "a name has lower-case letters, digits and _, a letter first",
            Variable::OneOf(choices) if !(2..=20).contains(&choices.len()) => {
                "one_of has 2 to 20 texts"
            }
            Variable::OneOf(choices) if !choices.iter().all(plain) => {
                "a text of one_of has 1 to 60 letters, digits, `.`, `_` and `-`"
            }
            Variable::Between([low, high]) if low >= high => {
                "between has a low number and then a higher one"
            }
            Variable::Random(length) if !(4..=32).contains(length) => {
                "random is 4 to 32 characters long"
            }
            _ => continue,
        };
        return Err(garde::Error::new(format!("{name}: {wrong}")));
    }
    Ok(())
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

    /// What a lab of this level is worth unless its author says, in points.
    #[must_use]
    pub const fn points(self) -> u32 {
        match self {
            Self::Beginner => 100,
            Self::Intermediate => 200,
            Self::Hard => 300,
        }
    }

    /// The least and the most that an author may say.
    #[must_use]
    pub const fn range(self) -> (u32, u32) {
        match self {
            Self::Beginner => (50, 150),
            Self::Intermediate => (150, 250),
            Self::Hard => (250, 400),
        }
    }
}

/// What a lab needs from a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// The image's name: a recipe in `images/`. `debian-12` unless said; leave it out where `kubernetes` is said.
    #[garde(inner(pattern(r"^[a-z0-9][a-z0-9.-]{0,39}$")), custom(only_one(&self.kubernetes)))]
    pub image: Option<String>,
    /// A kubeadm cluster of this minor version, such as `"1.36"`. Without it the nodes are plain machines.
    #[garde(inner(pattern(r"^1\.[0-9]{2}$")))]
    pub kubernetes: Option<String>,
    /// How many nodes, named node1, node2, … 1 to 5.
    #[garde(range(min = 1, max = 5))]
    pub nodes: u32,
    /// How many of them are control planes: the first. 1 or 3.
    #[garde(custom(a_shape(self.nodes)))]
    pub control_planes: u32,
    /// True: the cluster is as kubeadm makes it. Else what runs on timers runs rarely, see docs/kubernetes.md; a lab
    /// about those settings themselves wants them as its books say.
    #[garde(custom(of_a_cluster(&self.kubernetes)))]
    pub stock: bool,
    /// The groups that a student's `kubectl` from outside is in. An administrator's unless said.
    #[garde(length(max = 10), inner(length(min = 1, max = 100)))]
    pub groups: Vec<String>,
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
    /// The name of the image that it runs on.
    fn image_name(&self) -> String {
        match (&self.kubernetes, &self.image) {
            (Some(version), _) => format!("kubernetes-{version}"),
            (None, Some(image)) => image.clone(),
            (None, None) => "debian-12".to_owned(),
        }
    }

    /// Its nodes' roles. What was validated has one; of anything else, a single node.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape::new(
            self.control_planes,
            self.nodes.saturating_sub(self.control_planes),
        )
        .unwrap_or(Shape::SINGLE)
    }

    /// What it runs on.
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

    /// The nodes' names.
    #[must_use]
    pub fn node_names(&self) -> Vec<NodeName> {
        self.shape().node_names()
    }
}

fn only_one(
    kubernetes: &Option<String>,
) -> impl FnOnce(&Option<String>, &()) -> garde::Result + use<'_> {
    move |image, ()| match (image, kubernetes) {
        (Some(_), Some(_)) => Err(garde::Error::new(
            "both image and kubernetes are said; a cluster has an image of its own, leave image out",
        )),
        _ => Ok(()),
    }
}

fn of_a_cluster(kubernetes: &Option<String>) -> impl FnOnce(&bool, &()) -> garde::Result + use<'_> {
    move |said, ()| {
        if *said && kubernetes.is_none() {
            return Err(garde::Error::new(
                "only a cluster can be stock; say which version: kubernetes",
            ));
        }
        Ok(())
    }
}

fn a_shape(nodes: u32) -> impl FnOnce(&u32, &()) -> garde::Result {
    move |control_planes, ()| {
        // The number of nodes has a rule of its own.
        if !(1..=MAX_NODES).contains(&nodes) {
            return Ok(());
        }
        if *control_planes > nodes {
            return Err(garde::Error::new(format!(
                "{control_planes} control planes are more than the {nodes} nodes there are"
            )));
        }
        Shape::new(*control_planes, nodes - *control_planes)
            .map(drop)
            .map_err(garde::Error::new)
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

/// One step of breaking the machine: a script, manifests, waiting until the fault shows, or a further node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct SetupStep {
    /// A script under the lab's folder, such as `setup/break.sh`. On a cluster's control plane `kubectl` in it is the
    /// administrator.
    #[serde(default)]
    #[garde(inner(pattern(r"^setup/[A-Za-z0-9._-]+$")), custom(one_deed(self)))]
    pub script: Option<String>,
    /// Manifests under the lab's folder, such as `setup/shop.yaml`, applied to the cluster as its administrator.
    #[serde(default)]
    #[garde(inner(pattern(r"^setup/[A-Za-z0-9._-]+\.yaml$")))]
    pub apply: Option<String>,
    /// A container image of the lab's own, such as `images/shop.yaml`, in the words of the containers of an image recipe:
    /// `name`, `packages`, `files`, `entrypoint`, `cmd`, `env`, `user`. Made on the host and given to the nodes' containerd.
    #[serde(default)]
    #[garde(inner(pattern(r"^images/[A-Za-z0-9._-]+\.yaml$")))]
    pub load: Option<String>,
    /// Objects of the cluster that must be so before the lab goes on: that the incident is set up, or that its
    /// symptom shows.
    #[serde(default)]
    #[garde(dive)]
    pub wait: Option<ObjectTest>,
    /// `true`: one node more, a worker, with the next number: node2 where `needs` says one node. In a cluster it joins
    /// and is Ready before the next step begins. It takes minutes; a node that a lab has from the start belongs into
    /// `needs`, where it costs nothing.
    #[serde(default)]
    #[garde(skip)]
    pub add_node: bool,
    /// The nodes that run the script, or are given the image. All that there are by then, unless listed.
    #[serde(default)]
    #[garde(length(max = 5))]
    pub nodes: Vec<NodeName>,
    /// How many seconds it may take. 120 unless said; adding a node may take 1200 in any case.
    #[serde(default = "default_setup_seconds")]
    #[garde(range(min = 1, max = 1200))]
    pub timeout_seconds: u32,
}

fn one_deed(step: &SetupStep) -> impl FnOnce(&Option<String>, &()) -> garde::Result + use<'_> {
    move |script, ()| {
        let deeds = [
            script.is_some(),
            step.apply.is_some(),
            step.load.is_some(),
            step.wait.is_some(),
            step.add_node,
        ];
        if deeds.into_iter().filter(|said| *said).count() == 1 {
            Ok(())
        } else {
            Err(garde::Error::new(
                "a step is one of script, apply, load, wait and add_node, and only one",
            ))
        }
    }
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
    /// What the student reads as seen when it does not hold, in place of what the test itself has to say: where that would
    /// give the repair away. Empty: nothing.
    #[serde(default)]
    #[garde(length(chars, max = 300))]
    pub seen: Option<String>,
    /// The number of the hint to point to, from 1.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(range(min = 1, max = 5))]
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
    /// Objects of the cluster.
    Object(#[garde(dive)] ObjectTest),
    /// A request from a pod in the cluster.
    FromPod(#[garde(dive)] FromPodTest),
    /// What somebody may do in the cluster.
    CanI(#[garde(dive)] CanITest),
    /// How the cluster itself is.
    Cluster(#[garde(dive)] ClusterTest),
}

impl Test {
    /// True when it asks the cluster's API server.
    #[must_use]
    pub const fn is_of_cluster(&self) -> bool {
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
    /// What opening it costs, in percent of the lab's points. Default: 10.
    #[serde(default = "default_cost")]
    #[garde(range(max = 100))]
    pub cost: u32,
}

const fn default_cost() -> u32 {
    10
}

/// What a lab is worth.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, Validate,
)]
#[serde(deny_unknown_fields, default)]
pub struct Score {
    /// Points without any hint. Default by level: beginner 100, intermediate 200, hard 300. At least 50, 150, 250 and at
    /// most 150, 250, 400.
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
