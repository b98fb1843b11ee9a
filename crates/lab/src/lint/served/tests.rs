use std::{fs, path::Path};

use super::*;
use crate::scaffold;

/// A small part of what a cluster serves, in the form of its own document.
fn served() -> Served {
    let of = |name: &str| json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}]});
    let kind = |group: &str, version: &str, kind: &str| json!([{"group": group, "version": version, "kind": kind}]);
    let text = json!({"type": "string"});
    let object = |spec: Value, kinds: Value| {
        json!({"type": "object", "x-kubernetes-group-version-kind": kinds, "properties": {
            "apiVersion": text, "kind": text, "metadata": of("Meta"), "spec": spec,
        }})
    };
    let description = json!({
        "schemas": {
            "Meta": {"type": "object", "properties": {
                "name": text, "namespace": text,
                "labels": {"type": "object", "additionalProperties": text},
            }},
            "Namespace": object(json!({"type": "object"}), kind("", "v1", "Namespace")),
            "CustomResourceDefinition": object(json!({"type": "object"}), kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")),
            "Deployment": object(of("DeploymentSpec"), kind("apps", "v1", "Deployment")),
            "DeploymentSpec": {"type": "object", "required": ["selector", "template"], "properties": {
                "replicas": {"type": "integer", "format": "int32"},
                "selector": {"type": "object"},
                "template": {"type": "object", "properties": {"metadata": of("Meta"), "spec": of("PodSpec")}},
            }},
            "PodSpec": {"type": "object", "properties": {
                "containers": {"type": "array", "items": of("Container")},
                "initContainers": {"type": "array", "items": of("Container")},
            }},
            "Container": {"type": "object", "required": ["name"], "properties": {
                "name": text, "image": text, "imagePullPolicy": text,
                "ports": {"type": "array", "items": {"type": "object", "properties": {"containerPort": of("IntOrString")}}},
                "resources": {"type": "object"},
            }},
            "IntOrString": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
        },
        "namespaces": ["default", "kube-system"],
        "nodes": [{"name": "node1", "allocatable": {"cpu": "2", "memory": "1975808Ki"}}],
        "images": ["docker.io/library/nginx:1.22", "docker.io/library/busybox:latest", "registry.k8s.io/pause:3.10"],
    });
    Served::read(&description.to_string()).unwrap()
}

const LAB: &str = "title: The shop is down
summary: It has been down since the morning.
level: beginner
topics: [kubernetes]
minutes: 10
needs: {kubernetes: \"1.36\"}
hints: [{text: Look at its Deployment.}, {text: Look at its Pods.}, {text: Look at its image.}]
setup:
  - apply: setup/shop.yaml
checks:
  - name: shop-runs
    title: The shop runs
    fail: The shop does not run.
    test: {object: {kind: Deployment, api: apps/v1, namespace: default, name: shop}}
";

const SHOP: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  namespace: default
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels: {app: shop}
    spec:
      containers:
      - name: shop
        image: nginx:1.22
        ports:
        - containerPort: 80
        resources:
          requests: {cpu: 500m, memory: 64Mi}
";

/// What is found in a lab with this manifest, and this change of its `lab.yaml` and of the manifest.
fn found_in(dir: &Path, lab: &str, shop: &str) -> Vec<Diagnostic> {
    let slug = "shop".parse().unwrap();
    if !dir.join("shop").exists() {
        scaffold::create(dir, &slug).unwrap();
    }
    let folder = dir.join("shop");
    fs::remove_dir_all(folder.join("setup")).unwrap();
    fs::create_dir(folder.join("setup")).unwrap();
    let _ = fs::remove_dir_all(folder.join("checks"));
    fs::write(folder.join("lab.yaml"), lab).unwrap();
    fs::write(folder.join("setup/shop.yaml"), shop).unwrap();
    let loaded = LabFolder::load(&folder);
    let lab = loaded
        .folder
        .unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
    served().lint(&lab)
}

fn with(from: &str, to: &str) -> Vec<(u32, String, String)> {
    let dir = tempfile::tempdir().unwrap();
    assert!(SHOP.contains(from), "{from}");
    let found = found_in(dir.path(), LAB, &SHOP.replace(from, to));
    found
        .into_iter()
        .map(|d| (d.line.unwrap_or(0), d.message, d.help))
        .collect()
}

#[test]
fn a_lab_that_fits_is_left_alone() {
    assert_eq!(with("replicas: 2", "replicas: 2"), []);
    assert_eq!(with("replicas: 2", "replicas:"), []);
    assert_eq!(with("containerPort: 80", "containerPort: http"), []);
    // A full name is the same name.
    assert_eq!(with("nginx:1.22", "docker.io/library/nginx:1.22"), []);
}

#[test]
fn fields_are_those_of_the_schema() {
    for (from, to, line, what, help) in [
        (
            "replicas: 2",
            "replica: 2",
            7,
            "spec.replica is no field of a Deployment",
            "did you mean replicas?",
        ),
        (
            "replicas: 2",
            "replicas: two",
            7,
            "spec.replicas: a whole number belongs here",
            "kubectl explain deployment.spec.replicas",
        ),
        (
            "        image:",
            "        imagee:",
            15,
            "spec.template.spec.containers[0].imagee is no field",
            "did you mean image?",
        ),
        (
            "{app: shop}\n    spec",
            "{app: 7}\n    spec",
            11,
            "spec.template.metadata.labels.app: text",
            "",
        ),
        (
            "  selector: {matchLabels: {app: shop}}\n",
            "",
            6,
            "spec.selector is missing",
            "",
        ),
        (
            "containerPort: 80",
            "containerPort: []",
            17,
            "containerPort: text or a number belongs here",
            "",
        ),
    ] {
        let found = with(from, to);
        assert_eq!(found.len(), 1, "{to}: {found:?}");
        let (at, message, helps) = &found[0];
        assert_eq!(*at, line, "{found:?}");
        assert!(message.contains(what) && helps.contains(help), "{found:?}");
    }
}

#[test]
fn kinds_are_those_that_are_served() {
    let one = |from, to| with(from, to).swap_remove(0);
    let (line, message, _) = one("apiVersion: apps/v1", "apiVersion: apps/v1beta1");
    assert_eq!(
        (line, message.as_str()),
        (
            2,
            "this Kubernetes serves no Deployment of apps/v1beta1; it is served as apps/v1"
        )
    );
    assert!(
        one("kind: Deployment", "kind: Deploymint")
            .1
            .ends_with("did you mean Deployment?")
    );

    let definition = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: teas.shop.example}
spec: {group: shop.example, names: {kind: Tea}, versions: [{name: v1}]}
---
apiVersion: shop.example/v1
kind: Tea
metadata: {name: assam}
";
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(found_in(dir.path(), LAB, definition), []);
    let lab = LAB.replace("kind: Deployment", "kind: Tea");
    let found = found_in(dir.path(), &lab, SHOP);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].file.as_str(), found[0].line),
        ("lab.yaml", Some(11))
    );
}

#[test]
fn images_are_those_that_nodes_have() {
    let one = |from, to| with(from, to).swap_remove(0);
    let (line, message, help) = one("nginx:1.22", "nginx:1.23");
    assert_eq!(line, 15);
    assert_eq!(message, "no node has the image nginx:1.23");
    assert_eq!(help, "there is docker.io/library/nginx:1.22");
    assert!(one("nginx:1.22", "caddy:2").2.contains("crictl images"));
    assert!(one("nginx:1.22", "busybox").1.contains("pulled each time"));
    assert_eq!(
        with(
            "nginx:1.22",
            "busybox\n        imagePullPolicy: IfNotPresent"
        ),
        []
    );
    assert!(
        one("nginx:1.22", "nginx:1.22\n        imagePullPolicy: Always")
            .1
            .contains("pulled each time")
    );
    // Wrong, and meant so.
    assert_eq!(with("nginx:1.22", "nginx:1.23 # on purpose"), []);
}

#[test]
fn a_namespace_must_come_from_somewhere() {
    let (line, message, _) = with("namespace: default", "namespace: shop").swap_remove(0);
    assert_eq!(
        (line, message.as_str()),
        (5, "nothing makes the namespace shop")
    );
    let made = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: apps/v1";
    let dir = tempfile::tempdir().unwrap();
    let shop = SHOP
        .replace("namespace: default", "namespace: shop")
        .replace("apiVersion: apps/v1", made);
    assert_eq!(found_in(dir.path(), LAB, &shop), []);
}

#[test]
fn requests_fit_on_a_node() {
    let (line, message, _) = with("memory: 64Mi", "memory: 4Gi").swap_remove(0);
    assert_eq!(line, 18);
    assert_eq!(message, "asks for more memory than a node has: 1975808Ki");
    assert_eq!(with("cpu: 500m", "cpu: 2"), []);
    assert_eq!(with("cpu: 500m", "cpu: 2.5").len(), 1);
}

#[test]
fn images_have_full_names() {
    for (image, full) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("rancher/flannel:v1", "docker.io/rancher/flannel:v1"),
        ("localhost/x", "localhost/x:latest"),
        (
            "registry.lab:5000/tea/web:v2",
            "registry.lab:5000/tea/web:v2",
        ),
        ("a.example/x@sha256:00", "a.example/x@sha256:00"),
    ] {
        assert_eq!(full_name(image), full);
    }
}
