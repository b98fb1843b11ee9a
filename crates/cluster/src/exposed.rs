//! Reads what a cluster exposes: services of the types NodePort and LoadBalancer, and Ingresses.
//!
//! The cluster belongs to a student, who may have replaced its API server. So each list has a limit on its number of
//! objects, its size and its time, and nothing in it is trusted. It is read again every few seconds. A watch would answer
//! sooner, but how much it sends depends on how often objects change, which is the student's choice.

use std::time::Duration;

use faultline_domain::exposure::{Found, INGRESS_PORT, Source};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{Request, StatusCode};
use jiff::Timestamp;
use kube::client::Body;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::json;

/// The maximum number of objects in a list.
const MAX_OBJECTS: usize = 64;
/// The maximum size of a list, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// The maximum number of ports of a service, and of hosts of an Ingress.
const MAX_PARTS: usize = 16;
/// The timeout of a list. The API server may be emulated or under load.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Services of the other types have no ports on nodes.
const SERVICES: &str =
    "/api/v1/services?fieldSelector=spec.type!%3DClusterIP,spec.type!%3DExternalName";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingresses?";

/// Why what a cluster exposes can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request failed.
    #[error("the API server can't be reached: {0}")]
    Unreachable(String),
    /// The response didn't arrive in time.
    #[error("the API server did not respond within {} s", TIMEOUT.as_secs())]
    Silent,
    /// The API server refused.
    #[error("the API server answered with status {0}")]
    Status(StatusCode),
    /// The response exceeds [`MAX_BYTES`].
    #[error("the list of {0} is larger than {kib} KiB", kib = MAX_BYTES >> 10)]
    TooLarge(&'static str),
    /// The response is malformed.
    #[error("the list of {0} is malformed")]
    Malformed(&'static str),
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exposed {
    /// The ports, in no order.
    pub found: Vec<Found>,
    /// The namespaces and names of load-balancer services that have no address, and are nobody else's to give them one.
    pub without_address: Vec<(String, String)>,
    /// The number of objects and ports that exceed a limit, as far as the API server reports it.
    pub left_out: u32,
}

#[derive(Debug, Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: ListMetadata,
    // An empty list may be null.
    items: Option<Vec<T>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    remaining_item_count: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    creation_timestamp: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Service {
    metadata: Metadata,
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    ports: Vec<ServicePort>,
    load_balancer_class: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: LoadBalancerStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancerStatus {
    ingress: Vec<IgnoredAny>,
}

impl Service {
    fn lacks_address(&self) -> bool {
        self.spec.kind.as_deref() == Some("LoadBalancer")
            && self.spec.load_balancer_class.is_none()
            && self.status.load_balancer.ingress.is_empty()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    name: Option<String>,
    protocol: Option<String>,
    node_port: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Ingress {
    metadata: Metadata,
    #[serde(default)]
    spec: IngressSpec,
}

#[derive(Debug, Default, Deserialize)]
struct IngressSpec {
    #[serde(default)]
    rules: Vec<IngressRule>,
}

#[derive(Debug, Deserialize)]
struct IngressRule {
    host: Option<String>,
}

/// Reads what a cluster exposes.
pub async fn read(client: &kube::Client) -> Result<Exposed, Error> {
    let services = list::<Service>(client, "services", SERVICES).await?;
    let ingresses = list::<Ingress>(client, "Ingresses", INGRESSES).await?;
    Ok(exposed(services, ingresses))
}

/// Gives a load-balancer service its address. The namespace and the name must be valid.
pub async fn set_address(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    host: &str,
) -> Result<(), Error> {
    let unreachable = |e: &dyn std::fmt::Display| Error::Unreachable(e.to_string());
    let status = json!({"status": {"loadBalancer": {"ingress": [{"hostname": host}]}}});
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}/status");
    let request = Request::patch(path).header("content-type", "application/merge-patch+json");
    let request = request
        .body(Body::from(status.to_string().into_bytes()))
        .map_err(|e| unreachable(&e))?;
    let sent = tokio::time::timeout(TIMEOUT, client.send(request)).await;
    let response = sent.map_err(|_| Error::Silent)?;
    match response.map_err(|e| unreachable(&e))?.status() {
        status if status.is_success() => Ok(()),
        status => Err(Error::Status(status)),
    }
}

async fn list<T: DeserializeOwned>(
    client: &kube::Client,
    what: &'static str,
    path: &str,
) -> Result<List<T>, Error> {
    let unreachable = |e: &dyn std::fmt::Display| Error::Unreachable(e.to_string());
    let path = format!("{path}&limit={MAX_OBJECTS}");
    let request = Request::get(path).header("accept", "application/json");
    let request = request.body(Body::empty()).map_err(|e| unreachable(&e))?;
    let read = async {
        let response = client.send(request).await.map_err(|e| unreachable(&e))?;
        if response.status() != StatusCode::OK {
            return Err(Error::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES);
        let body = body.collect().await.map_err(|e| {
            if e.downcast_ref::<LengthLimitError>().is_some() {
                Error::TooLarge(what)
            } else {
                unreachable(&e)
            }
        })?;
        serde_json::from_slice(&body.to_bytes()).map_err(|_| Error::Malformed(what))
    };
    tokio::time::timeout(TIMEOUT, read)
        .await
        .map_err(|_| Error::Silent)?
}

fn exposed(services: List<Service>, ingresses: List<Ingress>) -> Exposed {
    let remaining = |metadata: &ListMetadata| metadata.remaining_item_count.unwrap_or_default();
    let mut left_out = remaining(&services.metadata).saturating_add(remaining(&ingresses.metadata));
    let (mut found, mut without_address) = (Vec::new(), Vec::new());
    for service in services.items.into_iter().flatten().take(MAX_OBJECTS) {
        if service.lacks_address() {
            let Metadata {
                namespace, name, ..
            } = &service.metadata;
            without_address.push((namespace.clone(), name.clone()));
        }
        let ports = service.spec.ports;
        left_out = left_out.saturating_add(excess(ports.len()));
        let single = ports.len() == 1;
        let Metadata {
            name,
            namespace,
            creation_timestamp,
        } = service.metadata;
        for port in ports.into_iter().take(MAX_PARTS) {
            let Some(number) = port.node_port.and_then(|n| u16::try_from(n).ok()) else {
                continue;
            };
            if port.protocol.is_some_and(|protocol| protocol != "TCP") {
                continue;
            }
            let (namespace, name) = (namespace.clone(), name.clone());
            let source = match service.spec.kind.as_deref() {
                Some("NodePort") => Source::NodePort { namespace, name },
                Some("LoadBalancer") => Source::LoadBalancer { namespace, name },
                _ => continue,
            };
            let part = port.name.unwrap_or_else(|| number.to_string());
            found.push(Found {
                created_at: creation_timestamp.unwrap_or_default(),
                source,
                part: (!single).then_some(part),
                port: number,
            });
        }
    }
    for ingress in ingresses.items.into_iter().flatten().take(MAX_OBJECTS) {
        let mut hosts: Vec<Option<String>> = Vec::new();
        left_out = left_out.saturating_add(excess(ingress.spec.rules.len()));
        for rule in ingress.spec.rules.into_iter().take(MAX_PARTS) {
            let host = rule.host.filter(|host| !host.is_empty());
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        // Without rules, it has a default backend for all hosts.
        if hosts.is_empty() {
            hosts.push(None);
        }
        for (number, host) in (1_u32..).zip(hosts) {
            found.push(Found {
                created_at: ingress.metadata.creation_timestamp.unwrap_or_default(),
                source: Source::Ingress {
                    namespace: ingress.metadata.namespace.clone(),
                    name: ingress.metadata.name.clone(),
                    host,
                },
                part: (number > 1).then(|| number.to_string()),
                port: INGRESS_PORT,
            });
        }
    }
    Exposed {
        found,
        without_address,
        left_out,
    }
}

fn excess(parts: usize) -> u32 {
    u32::try_from(parts.saturating_sub(MAX_PARTS)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(services: Value, ingresses: Value) -> Exposed {
        let services = serde_json::from_value(services).unwrap();
        exposed(services, serde_json::from_value(ingresses).unwrap())
    }

    fn service(kind: &str, ports: &Value) -> Value {
        let metadata = json!({"name": "web", "namespace": "default", "creationTimestamp": "2026-11-30T18:00:00Z"});
        json!({"metadata": metadata, "spec": {"type": kind, "ports": ports}})
    }

    #[test]
    fn ports_of_nodes_are_read_and_all_others_ignored() {
        let services = json!({"metadata": {"remainingItemCount": 936}, "items": [
            service("NodePort", &json!([{"port": 80, "nodePort": 30080}])),
            service("LoadBalancer", &json!([
                {"name": "http", "port": 80, "nodePort": 30081, "protocol": "TCP"},
                {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"},
                {"port": 81, "nodePort": 99999}, {"port": 82, "nodePort": -1}, {"port": 83},
            ])),
            service("ClusterIP", &json!([{"port": 80, "nodePort": 30082}])),
        ]});
        let ingresses = json!({"metadata": {}, "items": [{
            "metadata": {"name": "shop", "namespace": "shop", "creationTimestamp": null},
            "spec": {"rules": [{"host": "a.test"}, {"host": "a.test"}, {"host": ""}, {"host": "b.test"}]},
        }]});
        let exposed = read(services, ingresses);
        assert_eq!(exposed.left_out, 936);
        let lacks = ("default".to_owned(), "web".to_owned());
        assert_eq!(exposed.without_address, [lacks]);
        let all = exposed.found.iter();
        let all: Vec<_> = all
            .map(|f| (f.source.to_string(), f.part.as_deref(), f.port))
            .collect();
        assert_eq!(
            all,
            [
                ("service default/web".to_owned(), None, 30_080),
                ("service default/web".to_owned(), Some("http"), 30_081),
                ("Ingress shop/shop, a.test".to_owned(), None, 80),
                ("Ingress shop/shop".to_owned(), Some("2"), 80),
                ("Ingress shop/shop, b.test".to_owned(), Some("3"), 80),
            ]
        );
    }

    #[test]
    fn an_ingress_without_rules_is_for_all_hosts_and_lists_may_be_empty() {
        let nothing = json!({"metadata": {}, "items": null});
        let ingress = json!({"metadata": {"name": "all", "namespace": "shop"}, "spec": {}});
        let exposed = read(nothing.clone(), json!({"items": [ingress]}));
        assert_eq!(exposed.found.len(), 1);
        assert_eq!(read(nothing.clone(), nothing), Exposed::default());
    }

    #[test]
    fn the_numbers_of_objects_and_of_their_parts_are_limited() {
        let ports: Vec<Value> = (30_000..30_100)
            .map(|n| json!({"name": n.to_string(), "nodePort": n}))
            .collect();
        let services = vec![service("NodePort", &json!(ports)); 2000];
        let exposed = read(json!({"items": services}), json!({"items": []}));
        assert_eq!(exposed.found.len(), MAX_OBJECTS * MAX_PARTS);
        assert_eq!(exposed.left_out, 84 * 64);
    }
}
