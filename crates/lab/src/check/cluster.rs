//! Checks that ask the cluster: the connection to its API server that a round of checks shares, and the message if
//! there is none.

use std::time::Duration;

use faultline_cluster::{
    client,
    k8s_openapi::api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    kube::{
        self, Client,
        api::{Api, ListParams},
        client::Body,
    },
};
use faultline_domain::{
    Clock, NodeName, TenantId,
    lab::{ClusterTest, Test},
};
use faultline_provider::Provider;
use futures::future::join_all;

use hyper::Request;

use super::{Finding, Unknown, can_i, chain, from_pod, object};
use crate::{
    script::{self, Run},
    text,
};

/// The connection of a round of checks, opened when the first check needs it. A check that finds none opens it again.
#[derive(Default)]
pub(crate) struct Connection(Option<Client>);

/// Connects to the cluster as its administrator.
pub(crate) async fn connect(provider: &dyn Provider, env: &TenantId) -> Result<Client, String> {
    let platform = client::platform(Clock::system().now());
    let access = provider.api(env, &platform).await.map_err(|e| chain(&e))?;
    client::connect(&access).await.map_err(|e| chain(&e))
}

impl Connection {
    pub(super) async fn evaluate(
        &mut self,
        provider: &dyn Provider,
        env: &TenantId,
        test: &Test,
        limit: Duration,
    ) -> Result<Finding, Unknown> {
        let client = match &self.0 {
            Some(client) => client.clone(),
            None => match connect(provider, env).await {
                Ok(client) => self.0.insert(client).clone(),
                Err(why) => return Ok(Finding::new(false, down(provider, env, &why).await)),
            },
        };
        let found = async {
            match test {
                Test::Object(test) => object::evaluate(&client, test).await,
                Test::FromPod(test) => from_pod::evaluate(&client, test, limit).await,
                Test::CanI(test) => can_i::evaluate(&client, test).await,
                Test::Cluster(test) => health(&client, test).await,
                _ => Ok(Finding::new(false, "not a check of the cluster")),
            }
        };
        match tokio::time::timeout(bound(test, limit), found).await {
            Ok(Ok(finding)) => Ok(finding),
            Ok(Err(kube::Error::Api(said))) => {
                let said = text::clean(said.message.as_bytes(), 500);
                Ok(Finding::new(false, format!("the API server says: {said}")))
            }
            Ok(Err(e)) => {
                // The connection itself may be broken; the next check opens a new one.
                self.0 = None;
                Ok(Finding::new(false, down(provider, env, &chain(&e)).await))
            }
            Err(_) => {
                self.0 = None;
                let why = format!("not done within {} s", bound(test, limit).as_secs());
                let answers = tokio::time::timeout(ANSWERS_WITHIN, not_ready(&client)).await;
                Ok(Finding::new(
                    false,
                    match answers {
                        Ok(Ok(None)) => format!("{why}; the API server answers, and is ready"),
                        Ok(Ok(Some(said))) => format!("{why}; {said}"),
                        Ok(Err(_)) | Err(_) => down(provider, env, &why).await,
                    },
                ))
            }
        }
    }
}

/// The timeout for asking an API server whether it is ready.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Returns the timeout of a test: its own limit, the time for which a state must last, and a margin, since a probe pod
/// has a limit of its own and is removed after that.
fn bound(test: &Test, limit: Duration) -> Duration {
    const MORE: Duration = Duration::from_secs(20);
    let stays = match test {
        Test::Object(test) => test.stays_seconds,
        _ => 0,
    };
    limit + Duration::from_secs(stays.into()) + MORE
}

/// Returns the maximum time of a test, including the diagnosis after a failure.
pub(super) fn longest(test: &Test, limit: Duration) -> Duration {
    bound(test, limit) + ANSWERS_WITHIN + LOOK_WITHIN
}

/// The timeout for asking a control plane about its API server.
const LOOK_WITHIN: Duration = Duration::from_secs(20);

/// Returns the message that the API server does not answer, with what each control plane shows of it.
async fn down(provider: &dyn Provider, env: &TenantId, why: &str) -> String {
    const LOOK: &[u8] = b"#!/bin/bash\n\
        systemctl is-active kubelet containerd | paste -sd' ' | sed 's/^/kubelet and containerd: /'\n\
        timeout 10 crictl ps -a --name kube-apiserver -o json 2>/dev/null | \
        python3 -c 'import json,sys; c=json.load(sys.stdin)[\"containers\"]; print(\"kube-apiserver:\", c[0][\"state\"] if c else \"no container\")' 2>/dev/null\n\
        true\n";
    let mut said = format!("the cluster's API server does not answer ({why})");
    let platform = client::platform(Clock::system().now());
    let nodes: Vec<NodeName> = match provider.api(env, &platform).await {
        Ok(access) => {
            let names = access.servers.iter().map(|server| server.name().parse());
            names.filter_map(Result::ok).collect()
        }
        // The first node is always a control plane, so its keys need not be looked at.
        Err(_) => "node1".parse().into_iter().collect(),
    };
    let how = Run {
        trusted: true,
        timeout: LOOK_WITHIN,
    };
    let looks = nodes
        .iter()
        .map(|node| script::run(provider, env, node, LOOK, &how));
    for (node, ran) in nodes.iter().zip(join_all(looks).await) {
        if let Ok(ran) = ran {
            said += &format!("; on {node} {}", text::clean_tail(&ran.tail, 300));
        }
    }
    said
}

/// Checks the cluster's health, repeatedly for a while: leases of a cluster that was suspended are stale for a moment,
/// and a cluster that was just repaired reports parts that are not ready yet.
async fn health(client: &Client, test: &ClusterTest) -> Result<Finding, kube::Error> {
    const READY_WITHIN: Duration = Duration::from_secs(25);
    let began = tokio::time::Instant::now();
    loop {
        match look(client, test).await? {
            Ok(finding) => return Ok(finding),
            Err(NotYet(why)) if began.elapsed() > READY_WITHIN => {
                return Ok(Finding::new(false, why));
            }
            Err(NotYet(_)) => {}
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// A fault that may clear by itself: a node that is not ready or whose lease has expired, or a part of the
/// control plane that is not ready. Kubelets report every twenty seconds.
struct NotYet(String);

async fn look(client: &Client, test: &ClusterTest) -> Result<Result<Finding, NotYet>, kube::Error> {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease")
        .list(&ListParams::default())
        .await?;
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let now = now(client).await?;
    for name in &test.nodes {
        if !nodes
            .iter()
            .any(|n| n.metadata.name.as_deref() == Some(name.as_str()))
        {
            return Ok(Ok(Finding::new(
                false,
                format!("{name} is not a node of the cluster"),
            )));
        }
    }
    for node in nodes.iter().filter(|n| {
        test.nodes.is_empty()
            || test
                .nodes
                .iter()
                .any(|name| n.metadata.name.as_deref() == Some(name.as_str()))
    }) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if cordoned(node) {
            let seen = format!("{name} takes no pods: it is cordoned");
            return Ok(Ok(Finding::new(false, seen)));
        }
        if let Some(why) = unready(node) {
            return Ok(Err(NotYet(format!("{name} {why}"))));
        }
        let lease = leases
            .iter()
            .find(|l| l.metadata.name.as_deref() == Some(name));
        if let Some(why) = overdue(lease, now) {
            return Ok(Err(NotYet(format!("{name} {why}"))));
        }
    }
    if test.control_plane {
        if let Some(why) = not_ready(client).await? {
            return Ok(Err(NotYet(why)));
        }
        let planes: Vec<&str> = nodes.iter().filter_map(control_plane).collect();
        for component in ["kube-scheduler", "kube-controller-manager", "etcd"] {
            let label = format!("component={component},tier=control-plane");
            let pods = Api::<Pod>::namespaced(client.clone(), "kube-system")
                .list(&ListParams::default().labels(&label))
                .await?;
            let ready: Vec<&str> = pods.iter().filter(|p| is_ready(p)).map(node_of).collect();
            if ready.is_empty() {
                return Ok(Err(NotYet(format!("no {component} is ready"))));
            }
            if let Some(plane) = planes.iter().find(|plane| !ready.contains(plane)) {
                return Ok(Err(NotYet(format!(
                    "the {component} of {plane} is not ready"
                ))));
            }
        }
    }
    Ok(Ok(Finding::new(
        true,
        format!("{} nodes, all as they should be", nodes.items.len()),
    )))
}

/// Returns the API server's own report, unless it is ready.
async fn not_ready(client: &Client) -> Result<Option<String>, kube::Error> {
    let request = Request::get("/readyz")
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    let said = match client.request_text(request).await {
        Ok(said) if said.trim() == "ok" => return Ok(None),
        Ok(said) => said,
        Err(kube::Error::Api(status)) => status.message.clone(),
        Err(e) => return Err(e),
    };
    // The report has a line for each check.
    let mut failed: Vec<&str> = said.lines().filter(|l| l.starts_with("[-]")).collect();
    if failed.is_empty() {
        failed.extend(said.lines().next());
    }
    let failed = text::clean(failed.join("; ").as_bytes(), 300);
    Ok(Some(format!(
        "the API server says that it is not ready: {failed}"
    )))
}

/// Returns the cluster's own time, in seconds since 1970, from the `Date` of an answer. The host's clock may have been
/// stepped while the machines' clocks went on.
async fn now(client: &Client) -> Result<i64, kube::Error> {
    let request = Request::get("/version")
        .body(Body::empty())
        .map_err(kube::Error::HttpError)?;
    let answer = client.send(request).await?;
    let said = answer.headers().get("date").and_then(|d| d.to_str().ok());
    let said = said.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    Ok(said.map_or_else(
        || Clock::system().now().as_second(),
        |time| time.timestamp().as_second(),
    ))
}

/// Returns the node's name if it is a control plane.
fn control_plane(node: &Node) -> Option<&str> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get("node-role.kubernetes.io/control-plane")?;
    node.metadata.name.as_deref()
}

/// Returns the node that a pod is on.
fn node_of(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

/// Returns why a node's lease is not valid at `now`, in seconds since 1970.
fn overdue(lease: Option<&Lease>, now: i64) -> Option<String> {
    let spec = lease.and_then(|l| l.spec.as_ref());
    let renewed = spec.and_then(|s| s.renew_time.as_ref());
    let Some(renewed) = renewed else {
        return Some("has no lease: its kubelet has not reported".to_owned());
    };
    let age = now - renewed.0.as_second();
    let lasts = spec.and_then(|s| s.lease_duration_seconds).unwrap_or(40);
    (age > i64::from(lasts)).then(|| format!("has not renewed its lease for {age} s"))
}

fn cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true)
}

fn unready(node: &Node) -> Option<String> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.and_then(|all| all.iter().find(|c| c.type_ == "Ready"));
    match ready {
        Some(c) if c.status == "True" => None,
        Some(c) => Some(format!(
            "is not ready: {}",
            c.message
                .as_deref()
                .or(c.reason.as_deref())
                .unwrap_or_default()
        )),
        None => Some("reports no status".to_owned()),
    }
}

fn is_ready(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|s| s.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::api;

    #[test]
    fn what_must_stay_has_its_time_beside_the_limit() {
        let test = |text: &str| -> Test { serde_json::from_str(text).unwrap() };
        let limit = Duration::from_secs(30);
        let stays = r#"{"object": {"kind": "Pod", "stays_seconds": 120}}"#;
        assert!(bound(&test(stays), limit) > Duration::from_secs(30 + 120));
        let can = r#"{"can_i": {"who": "bot"}}"#;
        assert!(bound(&test(can), limit) > limit);
    }

    /// Returns a client of a healthy cluster of one node whose API server reports this readiness.
    fn server(code: u16, readyz: &'static str) -> Client {
        server_with(code, readyz, "node1")
    }

    /// As [`server`], with the control plane's pods on this node.
    fn server_with(code: u16, readyz: &'static str, on: &'static str) -> Client {
        let now = Clock::system().now().to_string();
        let list = |kind: &str, items: Value| {
            (
                200,
                json!({"kind": kind, "apiVersion": "v1", "metadata": {}, "items": items}),
            )
        };
        api(move |path, _| match path {
            "/readyz" => (code, json!(readyz)),
            "/version" => (200, json!({"major": "1"})),
            "/api/v1/nodes" => list(
                "NodeList",
                json!([{"metadata": {"name": "node1", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}]),
            ),
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases" => list(
                "LeaseList",
                json!([{"metadata": {"name": "node1"}, "spec": {"leaseDurationSeconds": 80, "renewTime": now}}]),
            ),
            "/api/v1/namespaces/kube-system/pods" => list(
                "PodList",
                json!([{"metadata": {"name": "it"}, "spec": {"nodeName": on, "containers": []},
                    "status": {"conditions": [{"type": "Ready", "status": "True"}]}}]),
            ),
            other => panic!("{other} is asked for"),
        })
    }

    #[tokio::test]
    async fn the_api_server_itself_must_say_that_it_is_ready() {
        let all = ClusterTest {
            nodes: Vec::new(),
            control_plane: true,
        };
        let Ok(found) = look(&server(200, "ok"), &all).await.unwrap() else {
            panic!("it is waited for");
        };
        assert!(found.holds, "{}", found.seen);

        let ill = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n";
        let Err(NotYet(why)) = look(&server(500, ill), &all).await.unwrap() else {
            panic!("it is not waited for");
        };
        assert_eq!(
            why,
            "the API server says that it is not ready: [-]etcd failed: reason withheld"
        );

        let elsewhere = look(&server_with(200, "ok", "node2"), &all).await;
        let Err(NotYet(why)) = elsewhere.unwrap() else {
            panic!("it is not waited for");
        };
        assert_eq!(why, "the kube-scheduler of node1 is not ready");

        let nodes = ClusterTest {
            control_plane: false,
            ..all
        };
        assert!(look(&server(500, ill), &nodes).await.unwrap().is_ok());
    }

    #[test]
    fn a_lease_stands_as_long_as_it_says() {
        let lease: Lease = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "node1"},
            "spec": {"leaseDurationSeconds": 80, "renewTime": "1970-01-01T00:10:00.000000Z"}
        }))
        .unwrap();
        assert_eq!(overdue(Some(&lease), 680), None);
        let said = overdue(Some(&lease), 681).unwrap();
        assert!(said.contains("81 s"), "{said}");
        assert!(overdue(None, 0).is_some());
    }
}
