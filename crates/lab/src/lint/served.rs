//! Compares a lab's manifests and checks with what its cluster serves: kinds, fields, images, namespaces and the nodes'
//! resources.
//!
//! A line that ends with [`ON_PURPOSE`] is not reported: its fault is part of the incident.

use std::collections::{BTreeMap, BTreeSet};

use faultline_domain::lab::{ObjectTest, Test};
use jsonschema::{
    Draft, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
    options,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;

use crate::{
    Diagnostic, LabFolder, quantity, suggest,
    tree::Node,
    variables::EXAMPLE,
    yaml::{self, FILE, point},
};

/// The comment that marks an intended fault.
const ON_PURPOSE: &str = "# on purpose";

/// What a cluster serves, as its image's recipe recorded it during the bake.
#[derive(Debug, Deserialize)]
pub struct Served {
    /// The schemas of its OpenAPI document, by name.
    schemas: Map<String, Value>,
    namespaces: BTreeSet<String>,
    nodes: Vec<NodeHas>,
    /// The container images on its nodes, by full name with tag.
    images: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct NodeHas {
    allocatable: BTreeMap<String, String>,
}

/// A kind of the API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    api: String,
    kind: String,
}

/// The schema of a kind.
struct Schema {
    validator: Validator,
    document: Value,
}

/// An object of a manifest and its position.
struct Object<'a> {
    file: &'a str,
    text: &'a str,
    kind: Kind,
    node: &'a Node,
}

/// What all manifests of a lab define.
#[derive(Default)]
struct Brought {
    kinds: BTreeSet<Kind>,
    namespaces: BTreeSet<String>,
    images: BTreeSet<String>,
    /// All scripts of the lab. They may create the things that they name.
    scripts: String,
}

impl Served {
    /// Parses a description. Its schemas are made to reject unknown fields, as `kubectl --validate=strict` does.
    pub fn read(json: &str) -> serde_json::Result<Self> {
        let mut served: Self = serde_json::from_str(json)?;
        for fields in served.schemas.values_mut().filter_map(Value::as_object_mut) {
            if fields.contains_key("properties")
                && !fields.contains_key("additionalProperties")
                && !fields.contains_key("x-kubernetes-preserve-unknown-fields")
            {
                fields.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Ok(served)
    }

    /// Reports everything in a lab that contradicts what the cluster serves.
    #[must_use]
    pub fn lint(&self, lab: &LabFolder) -> Vec<Diagnostic> {
        let lab = lab.of(EXAMPLE);
        let texts: Vec<(&str, &str)> = lab
            .scripts
            .iter()
            .filter(|(name, _)| name.starts_with("setup/") && name.ends_with(".yaml"))
            .filter_map(|(name, content)| Some((name.as_str(), std::str::from_utf8(content).ok()?)))
            .collect();
        let parsed: Vec<(&str, &str, Vec<Node>)> = texts
            .into_iter()
            .map(|(name, text)| (name, text, documents(text)))
            .collect();
        let objects: Vec<Object<'_>> = parsed
            .iter()
            .flat_map(|(file, text, nodes)| nodes.iter().map(move |node| (*file, *text, node)))
            .filter_map(|(file, text, node)| {
                let kind = Kind {
                    api: node.text(&["apiVersion"])?.to_owned(),
                    kind: node.text(&["kind"])?.to_owned(),
                };
                Some(Object {
                    file,
                    text,
                    kind,
                    node,
                })
            })
            .collect();
        let brought = Brought::by(&lab, &objects);
        let known = self.kinds();
        let mut found = Vec::new();
        let mut schemas = BTreeMap::new();
        for object in &objects {
            match known.get(&object.kind) {
                Some(name) => {
                    let schema = schemas.entry(*name).or_insert_with(|| self.schema(name));
                    if let Some(schema) = schema {
                        object.fields(schema, &mut found);
                    }
                }
                None if brought.kinds.contains(&object.kind) => {}
                None => found.push(object.at(&["kind"], unserved(&object.kind, &known))),
            }
            self.namespace(object, &brought, &mut found);
            if let Some(path) = pod(&object.kind.kind) {
                self.images(object, path, &brought, &mut found);
                self.requests(object, path, &mut found);
            }
        }
        self.tests(&lab, &known, &brought, &mut found);
        found.retain(|d| !is_on_purpose(d, &parsed, &lab.yaml));
        found
    }

    /// Indexes every kind by the name of its schema.
    fn kinds(&self) -> BTreeMap<Kind, &str> {
        let of = |schema: &Value| -> Vec<Kind> {
            let all = schema.get("x-kubernetes-group-version-kind");
            let all = all.and_then(Value::as_array).into_iter().flatten();
            all.filter_map(|one| {
                let part = |name| one.get(name).and_then(Value::as_str);
                let (group, version) = (part("group")?, part("version")?);
                Some(Kind {
                    api: match group {
                        "" => version.to_owned(),
                        group => format!("{group}/{version}"),
                    },
                    kind: part("kind")?.to_owned(),
                })
            })
            .collect()
        };
        self.schemas
            .iter()
            .flat_map(|(name, schema)| {
                of(schema)
                    .into_iter()
                    .map(move |kind| (kind, name.as_str()))
            })
            .collect()
    }

    /// Returns the schema of a kind.
    fn schema(&self, name: &str) -> Option<Schema> {
        let document = json!({
            "$ref": format!("#/components/schemas/{name}"),
            "components": {"schemas": self.schemas},
        });
        // An unreadable description reports nothing.
        let validator = options()
            .with_draft(Draft::Draft202012)
            .build(&document)
            .ok()?;
        Some(Schema {
            validator,
            document,
        })
    }

    fn namespace(&self, object: &Object<'_>, brought: &Brought, found: &mut Vec<Diagnostic>) {
        let path = ["metadata", "namespace"];
        let Some(name) = object.node.text(&path) else {
            return;
        };
        let is_made = self.namespaces.contains(name)
            || brought.namespaces.contains(name)
            || brought.scripts.contains(name);
        if !is_made {
            let what = format!("nothing makes the namespace {name}");
            found.push(
                object
                    .at(&path, what)
                    .help("write a Namespace into a manifest that is applied before this one"),
            );
        }
    }

    fn images(
        &self,
        object: &Object<'_>,
        pod: &[&str],
        brought: &Brought,
        found: &mut Vec<Diagnostic>,
    ) {
        for (path, container) in containers(object.node, pod) {
            let Some(image) = container.text(&["image"]) else {
                continue;
            };
            let at: Vec<&str> = path.iter().map(String::as_str).chain(["image"]).collect();
            let full = full_name(image);
            let host = full.split('/').next().unwrap_or_default();
            // An image of a registry that the lab itself runs or names.
            if host != "docker.io" && brought.scripts.contains(host) {
                continue;
            }
            let policy = container.text(&["imagePullPolicy"]);
            let pulls = match policy {
                Some(policy) => policy == "Always",
                None => full.ends_with(":latest"),
            };
            let there = || self.images.iter().chain(&brought.images);
            if !there().any(|name| *name == full) {
                let repository = full
                    .rsplit_once(':')
                    .map_or(full.as_str(), |(name, _)| name);
                let tags: Vec<&str> = there()
                    .filter(|name| name.rsplit_once(':').is_some_and(|(n, _)| n == repository))
                    .map(String::as_str)
                    .collect();
                let help = if tags.is_empty() {
                    "nothing is pulled from outside: `crictl images` on a node lists what is there, a `load` step brings an image of the lab's own".to_owned()
                } else {
                    format!("there is {}", tags.join(", "))
                };
                let what = format!("no node has the image {image}");
                found.push(object.at(&at, what).help(help));
            } else if pulls {
                let what =
                    format!("{image} is pulled each time, and nothing is pulled from outside");
                found.push(
                    object
                        .at(&at, what)
                        .help("write imagePullPolicy: IfNotPresent, or a tag other than latest"),
                );
            }
        }
    }

    /// Reports requests that exceed what an empty node offers.
    fn requests(&self, object: &Object<'_>, pod: &[&str], found: &mut Vec<Diagnostic>) {
        let all = containers(object.node, pod);
        for resource in ["cpu", "memory"] {
            let most = self.nodes.iter().filter_map(|node| {
                let text = node.allocatable.get(resource)?;
                Some((quantity::parse(text)?, text))
            });
            let Some((most, text)) = most.max_by(|a, b| a.0.total_cmp(&b.0)) else {
                continue;
            };
            let asks = |container: &Node| -> Option<f64> {
                let of = |kind| container.get(&["resources", kind, resource]);
                let value = of("requests").or_else(|| of("limits"))?;
                match value.json() {
                    Value::String(text) => quantity::parse(&text),
                    value => value.as_f64(),
                }
            };
            let together: f64 = all
                .iter()
                .filter(|(path, _)| path.iter().any(|p| p == "containers"))
                .filter_map(|(_, container)| asks(container))
                .sum();
            let largest = all
                .iter()
                .filter_map(|(path, container)| Some((asks(container)?, path)))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((one, path)) = largest
                && one.max(together) > most
            {
                let at: Vec<&str> = path
                    .iter()
                    .map(String::as_str)
                    .chain(["resources"])
                    .collect();
                let what = format!("asks for more {resource} than a node has: {text}");
                found.push(
                    object
                        .at(&at, what)
                        .help("ask for less, or the pod stays Pending"),
                );
            }
        }
    }

    /// Reports unknown kinds in checks and waits.
    fn tests(
        &self,
        lab: &LabFolder,
        known: &BTreeMap<Kind, &str>,
        brought: &Brought,
        found: &mut Vec<Diagnostic>,
    ) {
        let places = yaml::places(&lab.yaml);
        let waits = lab
            .lab
            .setup
            .iter()
            .filter_map(|step| Some((step.wait.as_ref()?, None)));
        let checks = lab.lab.checks.iter().enumerate().filter_map(|(i, check)| {
            let at = places.checks.get(i).map(|c| &c.name);
            match &check.test {
                Test::Object(test) => Some((test, at)),
                _ => None,
            }
        });
        for (test, at) in waits.chain(checks) {
            let kind = Kind::of(test);
            if !known.contains_key(&kind) && !brought.kinds.contains(&kind) {
                let what = unserved(&kind, known);
                found.push(point(Diagnostic::error(FILE, what), &lab.yaml, at));
            }
        }
    }
}

impl Kind {
    fn of(test: &ObjectTest) -> Self {
        Self {
            api: test.api.clone(),
            kind: test.kind.clone(),
        }
    }
}

impl Brought {
    fn by(lab: &LabFolder, objects: &[Object<'_>]) -> Self {
        let mut brought = Self {
            images: lab
                .images()
                .filter_map(|(_, image)| Some(full_name(&image.ok()?.name)))
                .collect(),
            ..Self::default()
        };
        for (name, content) in &lab.scripts {
            if name.starts_with("setup/") && !name.ends_with(".yaml") {
                brought.scripts += &String::from_utf8_lossy(content);
            }
        }
        for object in objects {
            match object.kind.kind.as_str() {
                "Namespace" => {
                    let name = object.node.text(&["metadata", "name"]);
                    brought.namespaces.extend(name.map(str::to_owned));
                }
                "CustomResourceDefinition" => {
                    let text = |path: &[&str]| object.node.text(path);
                    let (Some(group), Some(kind)) =
                        (text(&["spec", "group"]), text(&["spec", "names", "kind"]))
                    else {
                        continue;
                    };
                    let versions = object.node.items(&["spec", "versions"]);
                    brought.kinds.extend(versions.iter().filter_map(|version| {
                        Some(Kind {
                            api: format!("{group}/{}", version.value.text(&["name"])?),
                            kind: kind.to_owned(),
                        })
                    }));
                }
                _ => {}
            }
        }
        brought
    }
}

impl Object<'_> {
    fn at(&self, path: &[&str], what: impl Into<String>) -> Diagnostic {
        let found = Diagnostic::error(self.file, what);
        match self.node.place(path) {
            Some(at) => found.at(self.text, at.line(), at.column()),
            None => found,
        }
    }

    /// Reports fields that are unknown, missing or of another type than in the schema.
    fn fields(&self, schema: &Schema, found: &mut Vec<Diagnostic>) {
        let value = self.node.json();
        for error in schema.validator.iter_errors(&value) {
            self.explain(&error, schema, found);
        }
    }

    fn explain(&self, error: &ValidationError<'_>, schema: &Schema, found: &mut Vec<Diagnostic>) {
        let pointer = error.instance_path().as_str().to_owned();
        let path: Vec<String> = pointer
            .split('/')
            .skip(1)
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let kind = &self.kind.kind;
        let explain = format!(
            "`kubectl explain {}` lists what there is",
            [kind.to_lowercase().as_str()]
                .into_iter()
                .chain(
                    path.iter()
                        .copied()
                        .filter(|part| part.parse::<usize>().is_err())
                )
                .collect::<Vec<_>>()
                .join(".")
        );
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                for name in unexpected {
                    let below: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
                    let meant = suggest::nearest(name, schema.fields(error));
                    let help = match meant {
                        Some(meant) => format!("did you mean {meant}? {explain}"),
                        None => explain.clone(),
                    };
                    let what = format!("{} is no field of a {kind}", spoken(&below));
                    found.push(self.at(&below, what).help(help));
                }
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let below: Vec<&str> = path.iter().copied().chain([name]).collect();
                let what = format!("{} is missing", spoken(&below));
                found.push(self.at(&path, what).help(explain));
            }
            other => {
                let belongs = match other {
                    ValidationErrorKind::Type { kind } => types(kind),
                    ValidationErrorKind::Enum { options } => format!("one of {options} belongs"),
                    ValidationErrorKind::OneOfNotValid { .. } => {
                        "text or a number belongs".to_owned()
                    }
                    _ => {
                        found.push(
                            self.at(&path, format!("{}: {error}", spoken(&path)))
                                .help(explain),
                        );
                        return;
                    }
                };
                let what = format!("{}: {belongs} here", spoken(&path));
                found.push(self.at(&path, what).help(explain));
            }
        }
    }
}

impl Schema {
    /// Lists the known fields next to an unknown one.
    fn fields(&self, error: &ValidationError<'_>) -> impl Iterator<Item = &str> {
        let at = error.schema_path().as_str();
        let above = at.rsplit_once('/').map_or("", |(above, _)| above);
        let fields = self
            .document
            .pointer(above)
            .and_then(|s| s.get("properties"));
        let fields = fields.and_then(Value::as_object).into_iter();
        fields.flat_map(|all| all.keys().map(String::as_str))
    }
}

fn types(kind: &TypeKind) -> String {
    let word = |name: &str| match name {
        "object" => "a mapping",
        "array" => "a list",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "text (in quotes, where it looks like a number)",
    };
    match kind {
        TypeKind::Single(one) => format!("{} belongs", word(&one.to_string())),
        TypeKind::Multiple(set) => {
            let all: Vec<&str> = set.iter().map(|one| word(&one.to_string())).collect();
            format!("{} belongs", all.join(" or "))
        }
    }
}

/// Formats a path as `kubectl` does.
fn spoken(path: &[&str]) -> String {
    let mut text = String::new();
    for part in path {
        if part.parse::<usize>().is_ok() {
            text += &format!("[{part}]");
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text += part;
        }
    }
    text
}

fn unserved(kind: &Kind, known: &BTreeMap<Kind, &str>) -> String {
    let Kind { api, kind: name } = kind;
    let apis: Vec<&str> = known
        .keys()
        .filter(|k| k.kind == *name)
        .map(|k| k.api.as_str())
        .collect();
    let instead = if apis.is_empty() {
        let names = known.keys().filter(|k| k.api == *api);
        let meant = suggest::nearest(name, names.map(|k| k.kind.as_str()));
        meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"))
    } else {
        format!("; it is served as {}", apis.join(", "))
    };
    format!("this Kubernetes serves no {name} of {api}{instead}")
}

/// Returns the documents of a text. Invalid YAML has none; `lint::manifests` reports it.
fn documents(text: &str) -> Vec<Node> {
    let all = serde_saphyr::from_multiple::<Spanned<Node>>(text);
    all.into_iter().flatten().map(|node| node.value).collect()
}

/// Returns the path of the pod template in an object of a kind that has one.
fn pod(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Pod" => Some(&["spec"]),
        "Deployment"
        | "ReplicaSet"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "ReplicationController" => Some(&["spec", "template", "spec"]),
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

/// Returns a pod's containers, each with its path.
fn containers<'a>(object: &'a Node, pod: &[&str]) -> Vec<(Vec<String>, &'a Node)> {
    let mut all = Vec::new();
    for list in ["initContainers", "containers"] {
        let path: Vec<&str> = pod.iter().copied().chain([list]).collect();
        for (index, item) in object.items(&path).iter().enumerate() {
            let mut path: Vec<String> = path.iter().map(|p| (*p).to_owned()).collect();
            path.push(index.to_string());
            all.push((path, &item.value));
        }
    }
    all
}

/// Returns an image's full name, as containerd stores it.
fn full_name(image: &str) -> String {
    let (first, has_host) = match image.split_once('/') {
        Some((first, _)) => (first, first.contains(['.', ':']) || first == "localhost"),
        None => ("", false),
    };
    let mut name = if has_host {
        image.to_owned()
    } else if first.is_empty() {
        format!("docker.io/library/{image}")
    } else {
        format!("docker.io/{image}")
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        name.push_str(":latest");
    }
    name
}

/// Returns true if the line of a finding is marked as intended.
fn is_on_purpose(found: &Diagnostic, manifests: &[(&str, &str, Vec<Node>)], lab: &str) -> bool {
    let text = manifests
        .iter()
        .find(|(file, ..)| *file == found.file)
        .map_or(lab, |(_, text, _)| text);
    let line = found
        .line
        .and_then(|line| text.lines().nth(line as usize - 1));
    line.is_some_and(|line| line.trim_end().ends_with(ON_PURPOSE))
}

#[cfg(test)]
mod tests;
