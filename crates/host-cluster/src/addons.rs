//! What runs in pods of every host cluster: DNS, storage and metrics, from the manifests of the machines' clusters.

use std::{fs, io, path::Path};

use serde_json::json;

use crate::{Result, configure, failed, place::Place, prepare::Prepared, tools::Tools};

/// Changes kubeadm's CoreDNS. The settings of the machines' clusters suit slow, emulated processors.
const COREDNS: &str = "\
spec:
  replicas: 1
  template:
    spec:
      containers:
      - name: coredns
        startupProbe:
          httpGet: {path: /ready, port: readiness-probe, scheme: HTTP}
          periodSeconds: 1
          failureThreshold: 120
        livenessProbe: {initialDelaySeconds: 0, timeoutSeconds: 15}
        readinessProbe: {periodSeconds: 10, timeoutSeconds: 15}
        resources: {requests: {cpu: 10m, memory: 20Mi}}
";
/// Changes metrics-server, so that figures are there within seconds.
const METRICS: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: metrics-server, namespace: kube-system}
spec:
  template:
    spec:
      containers:
      - name: metrics-server
        args:
        - --cert-dir=/tmp
        - --secure-port=10250
        - --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname
        - --kubelet-use-node-status-port
        - --kubelet-insecure-tls
        - --metric-resolution=10s
        - --kubelet-request-timeout=5s
        startupProbe: {periodSeconds: 2}
        readinessProbe: {periodSeconds: 5}
";
const STORAGE: &str = "local-path.yaml";
const METRICS_SERVER: &str = "metrics-server.yaml";

/// Writes kubeadm's configuration and all manifests into the cluster's folder.
pub(crate) fn write(place: &Place, prepared: &Prepared) -> io::Result<()> {
    let (manifests, patches) = (folder(place), place.folder().join("patches"));
    for path in [&manifests, &patches] {
        fs::create_dir_all(path)?;
    }
    fs::write(patches.join("corednsdeployment+strategic.yaml"), COREDNS)?;
    fs::write(
        kubeadm_file(place),
        configure::kubeadm(prepared, &place.keys(), &patches),
    )?;
    for name in [STORAGE, METRICS_SERVER] {
        let text = prepared.manifests.get(name).ok_or_else(|| {
            io::Error::other(format!("the recipe of the cluster has no manifest {name}"))
        })?;
        fs::write(manifests.join(name), text)?;
    }
    fs::write(manifests.join("access.yaml"), access())?;
    fs::write(
        manifests.join("kustomization.yaml"),
        json!({
            "resources": [STORAGE, METRICS_SERVER],
            "patches": [{"patch": METRICS}],
        })
        .to_string(),
    )
}

/// Returns the file with kubeadm's configuration.
pub(crate) fn kubeadm_file(place: &Place) -> std::path::PathBuf {
    place.folder().join("kubeadm.yaml")
}

fn folder(place: &Place) -> std::path::PathBuf {
    place.folder().join("manifests")
}

/// Returns what the API server may do at kubelets, and the enforcer of network policies at the API server.
fn access() -> String {
    let binding = |name: &str, role: &str, kind: &str, subject: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject}],
        })
    };
    [
        binding(
            "faultline:kubelet-api",
            "system:kubelet-api-admin",
            "User",
            "kube-apiserver-kubelet-client",
        ),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "faultline:network-policies"},
            "rules": [
                {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
            ],
        }),
        binding(
            "faultline:network-policies",
            "faultline:network-policies",
            "User",
            "faultline:network-policies",
        ),
    ]
    .map(|object| format!("---\n{object}\n"))
    .concat()
}

/// Applies what the nodes' programs and the API server may do. Without it they fail at first and retry later.
pub(crate) fn apply_access(tools: &Tools<'_>) -> Result<()> {
    let path = folder(tools.place).join("access.yaml");
    tools
        .kubectl(
            &["apply", "--server-side", "-f", &path.to_string_lossy()],
            "granting access to the nodes' programs",
        )
        .map(|_| ())
}

/// Applies everything else. The API server must respond.
pub(crate) fn apply(tools: &Tools<'_>) -> Result<()> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (config, kubeconfig) = (
        text(&kubeadm_file(tools.place)),
        text(&tools.place.kubeconfig()),
    );
    tools.kubectl(
        &["apply", "--server-side", "-k", &text(&folder(tools.place))],
        "applying the manifests of storage and metrics",
    )?;
    tools.kubeadm(
        &[
            "init",
            "phase",
            "addon",
            "coredns",
            "--config",
            &config,
            "--kubeconfig",
            &kubeconfig,
        ],
        "installing CoreDNS",
    )?;
    Ok(())
}

/// Returns true if the metrics of both nodes are served.
pub(crate) fn has_metrics(tools: &Tools<'_>) -> bool {
    let path = "/apis/metrics.k8s.io/v1beta1/nodes";
    tools.get(&["--raw", path]).is_ok_and(|answer| {
        let items = answer.get("items").and_then(|i| i.as_array());
        items.is_some_and(|items| items.len() == 2)
    })
}

/// Writes the manifests, with an error that says what they are.
pub(crate) fn prepare(place: &Place, prepared: &Prepared) -> Result<()> {
    write(place, prepared).map_err(failed("cannot write the cluster's manifests"))
}
