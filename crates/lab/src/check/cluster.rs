//! Checks that ask the cluster: the connection to its API server, one for a round of checks, and what is said when
//! there is none.

use std::time::Duration;

use faultline_cluster::{
    client, credentials,
    k8s_openapi::api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    kube::{
        self, Client,
        api::{Api, ListParams},
    },
};
use faultline_domain::{
    Clock, EnvironmentId, NodeName,
    lab::{ClusterTest, Test},
};
use faultline_provider::Provider;

use super::{Finding, Unknown, can_i, chain, from_pod, object};
use crate::{
    script::{self, Run},
    text,
};

/// The connection of a round of checks: made when the first check needs it, tried again by each that finds none.
#[derive(Default)]
pub(crate) struct Connection(Option<Client>);

/// A connection to the cluster as its administrator.
pub(crate) async fn connect(
    provider: &dyn Provider,
    env: &EnvironmentId,
) -> Result<Client, String> {
    let keys = provider.cluster(env).await.map_err(|e| chain(&e))?;
    let admin = credentials::platform(&keys, Clock::system().now()).map_err(|e| chain(&e))?;
    client::connect(provider, env, &keys, &admin)
        .await
        .map_err(|e| chain(&e))
}

impl Connection {
    pub(super) async fn evaluate(
        &mut self,
        provider: &dyn Provider,
        env: &EnvironmentId,
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
        // A probe pod has its own end, and is removed after it.
        match tokio::time::timeout(limit + Duration::from_secs(20), found).await {
            Ok(Ok(finding)) => Ok(finding),
            Ok(Err(e @ kube::Error::Api(_))) => Ok(Finding::new(false, chain(&e))),
            Ok(Err(e)) => {
                // The connection may be what broke: the next check makes a new one.
                self.0 = None;
                Ok(Finding::new(false, down(provider, env, &chain(&e)).await))
            }
            Err(_) => {
                self.0 = None;
                let why = format!("no answer within {} s", limit.as_secs());
                Ok(Finding::new(false, down(provider, env, &why).await))
            }
        }
    }
}

/// Says that the API server does not answer, and what the first node shows of it.
async fn down(provider: &dyn Provider, env: &EnvironmentId, why: &str) -> String {
    const LOOK: &[u8] = b"#!/bin/bash\n\
        systemctl is-active kubelet containerd | paste -sd' ' | sed 's/^/kubelet and containerd: /'\n\
        timeout 10 crictl ps -a --name kube-apiserver -o json 2>/dev/null | \
        python3 -c 'import json,sys; c=json.load(sys.stdin)[\"containers\"]; print(\"kube-apiserver:\", c[0][\"state\"] if c else \"no container\")' 2>/dev/null\n\
        true\n";
    let said = format!("the cluster's API server does not answer ({why})");
    let Ok(node) = "node1".parse::<NodeName>() else {
        return said;
    };
    let how = Run {
        trusted: true,
        timeout: Duration::from_secs(20),
    };
    match script::run(provider, env, &node, LOOK, &how).await {
        Ok(ran) => format!("{said}; on node1 {}", text::clean_tail(&ran.tail, 300)),
        Err(_) => said,
    }
}

/// A cluster that was suspended has old leases for a moment.
async fn health(client: &Client, test: &ClusterTest) -> Result<Finding, kube::Error> {
    const RENEWED_WITHIN: Duration = Duration::from_secs(25);
    let began = tokio::time::Instant::now();
    loop {
        match look(client, test).await? {
            Ok(finding) => return Ok(finding),
            Err(Stale(why)) if began.elapsed() > RENEWED_WITHIN => {
                return Ok(Finding::new(false, why));
            }
            Err(Stale(_)) => {}
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// A node whose lease has run out.
struct Stale(String);

async fn look(client: &Client, test: &ClusterTest) -> Result<Result<Finding, Stale>, kube::Error> {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease")
        .list(&ListParams::default())
        .await?;
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?;
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
        if let Some(why) = unready(node) {
            return Ok(Ok(Finding::new(false, format!("{name} {why}"))));
        }
        let lease = leases
            .iter()
            .find(|l| l.metadata.name.as_deref() == Some(name));
        if let Some(why) = overdue(lease, Clock::system().now().as_second()) {
            return Ok(Err(Stale(format!("{name} {why}"))));
        }
    }
    if test.control_plane {
        for component in ["kube-scheduler", "kube-controller-manager", "etcd"] {
            let label = format!("component={component},tier=control-plane");
            let pods = Api::<Pod>::namespaced(client.clone(), "kube-system")
                .list(&ListParams::default().labels(&label))
                .await?;
            if !pods.iter().any(is_ready) {
                return Ok(Ok(Finding::new(false, format!("no {component} is ready"))));
            }
        }
    }
    Ok(Ok(Finding::new(
        true,
        format!("{} nodes, all as they should be", nodes.items.len()),
    )))
}

/// Why a node's lease does not stand at `now`, in seconds since 1970.
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

fn unready(node: &Node) -> Option<String> {
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        return Some("takes no pods: it is cordoned".to_owned());
    }
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
        None => Some("says nothing about itself".to_owned()),
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
    use super::*;

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
