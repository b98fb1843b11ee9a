//! The tests that a lab may run against the cluster on its nodes.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::default_true;

/// A test of objects in the cluster, read by the platform with administrator rights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct ObjectTest {
    /// The kind: `Deployment`, `Pod`, `NetworkPolicy`.
    #[garde(pattern(r"^[A-Z][A-Za-z0-9]{0,62}$"))]
    pub kind: String,
    /// The API group and version, such as `apps/v1`. Default: `v1`.
    #[serde(default = "default_api")]
    #[garde(pattern(r"^([a-z0-9.-]+/)?v[0-9][a-z0-9]*$"))]
    pub api: String,
    /// The namespace. If not set, the objects of all namespaces, or cluster-scoped objects.
    #[serde(default)]
    #[garde(inner(pattern(r"^[a-z0-9][a-z0-9-]{0,62}$")))]
    pub namespace: Option<String>,
    /// The object's name. If not set, all objects that `labels` selects.
    #[serde(default)]
    #[garde(length(max = 253))]
    pub name: Option<String>,
    /// A label selector, such as `app=shop,tier!=cache`.
    #[serde(default)]
    #[garde(length(max = 500))]
    pub labels: Option<String>,
    /// If true, such an object must exist. If false, none may exist. Default: true.
    #[serde(default = "default_true")]
    #[garde(skip)]
    pub exists: bool,
    /// The number of objects that must exist.
    #[serde(default)]
    #[garde(dive)]
    pub count: Option<Count>,
    /// The conditions that must be `True` in the `status.conditions` of each object: `[Available]`, `[Ready]`.
    #[serde(default)]
    #[garde(length(max = 8))]
    pub conditions: Vec<String>,
    /// The values that each object must have.
    #[serde(default)]
    #[garde(length(max = 16), dive)]
    pub fields: Vec<Field>,
    /// How long all of this must stay true, in seconds. Default: 0.
    #[serde(default)]
    #[garde(range(max = 120))]
    pub stays_seconds: u32,
}

fn default_api() -> String {
    "v1".to_owned()
}

/// The bounds of a number of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// The minimum. Default: 1.
    #[serde(default = "default_min")]
    #[garde(skip)]
    pub min: u32,
    /// The maximum. Default: no limit.
    #[serde(default)]
    #[garde(skip)]
    pub max: Option<u32>,
}

const fn default_min() -> u32 {
    1
}

/// A value in an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// The JSONPath (RFC 9535) of the value, such as `$.spec.template.spec.containers[0].image`.
    #[garde(pattern(r"^\$"), length(max = 600))]
    pub path: String,
    /// The string, number or boolean that every value found must equal.
    #[serde(default)]
    #[garde(skip)]
    pub equals: Option<serde_json::Value>,
    /// A regular expression that every value found, as a string, must match.
    #[serde(default)]
    #[garde(length(max = 300))]
    pub matches: Option<String>,
    /// The minimum of every value found. A quantity in the object, such as `1Gi`, is compared as the number that it
    /// stands for.
    #[serde(default)]
    #[garde(skip)]
    pub at_least: Option<f64>,
    /// The maximum of every value found, compared in the same way.
    #[serde(default)]
    #[garde(skip)]
    pub at_most: Option<f64>,
    /// If true, the path must find a value. If false, it must find none. Default: true.
    #[serde(default = "default_true")]
    #[garde(skip)]
    pub exists: bool,
    /// What the student is shown as seen when this value is wrong, in place of the path and the value. Set it if those
    /// would give away the repair.
    #[serde(default)]
    #[garde(length(chars, min = 3, max = 300))]
    pub seen: Option<String>,
}

/// A request from a pod that the platform runs in the cluster for this purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct FromPodTest {
    /// The pod's namespace. Default: `default`.
    #[serde(default = "default_namespace")]
    #[garde(pattern(r"^[a-z0-9][a-z0-9-]{0,62}$"))]
    pub namespace: String,
    /// The pod's labels, which network policies may select.
    #[serde(default)]
    #[garde(length(max = 16))]
    pub labels: std::collections::BTreeMap<String, String>,
    /// The node that the pod runs on. Default: any.
    #[serde(default)]
    #[garde(skip)]
    pub on_node: Option<crate::NodeName>,
    /// The request.
    #[garde(dive)]
    pub request: PodRequest,
    /// If true, the request must get the expected answer. If false, it must get no answer at all; an HTTP error counts
    /// as an answer only if `status` is set. Default: true.
    #[serde(default = "default_true")]
    #[garde(skip)]
    pub answered: bool,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// The request of a probe pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PodRequest {
    /// An HTTP request.
    Http(#[garde(dive)] PodHttp),
    /// A TCP connection to `host:port`.
    Tcp(#[garde(pattern(r"^[A-Za-z0-9._-]+:[0-9]{1,5}$"))] String),
    /// A DNS name that must resolve: `orders.shop`, or `{name: orders.shop, answers: [10.96.4.1]}`.
    Dns(#[garde(dive)] PodDns),
}

/// A DNS query of a probe pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(
    untagged,
    expecting = "a name, or a mapping of name and answers (IPv4 addresses)"
)]
pub enum PodDns {
    /// A name to look up. Any answer passes.
    Name(#[garde(pattern(r"^[A-Za-z0-9._-]{1,253}$"))] String),
    /// A name to look up, and the expected addresses.
    Answers(#[garde(dive)] PodDnsAnswers),
}

impl PodDns {
    /// Returns the name to look up.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Answers(dns) => &dns.name,
        }
    }

    /// Returns the expected addresses. If empty, any answer passes.
    #[must_use]
    pub fn answers(&self) -> &[std::net::Ipv4Addr] {
        match self {
            Self::Name(_) => &[],
            Self::Answers(dns) => &dns.answers,
        }
    }
}

/// A DNS query and its expected answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct PodDnsAnswers {
    /// The name to look up.
    #[garde(pattern(r"^[A-Za-z0-9._-]{1,253}$"))]
    pub name: String,
    /// The expected IPv4 addresses, in any order. Any other address fails.
    #[garde(length(min = 1, max = 16))]
    pub answers: Vec<std::net::Ipv4Addr>,
}

/// An HTTP request of a probe pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct PodHttp {
    /// The URL, such as `http://orders.shop/healthz`.
    #[garde(
        pattern(r"^http://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[!-~]*)?$"),
        length(max = 500)
    )]
    pub url: String,
    /// The expected status code, after redirects. Default: any that is not an error.
    #[serde(default)]
    #[garde(inner(range(min = 100, max = 599)))]
    pub status: Option<u16>,
    /// A regular expression that the body must match. It cannot be set if `status` is outside 200 to 299: the body of
    /// an error is not read.
    #[serde(default)]
    #[garde(length(max = 300), custom(only_if_read(&self.status)))]
    pub body: Option<String>,
}

fn only_if_read(
    status: &Option<u16>,
) -> impl FnOnce(&Option<String>, &()) -> garde::Result + use<'_> {
    move |body, ()| match (body, status) {
        (Some(_), Some(status)) if !(200..300).contains(status) => Err(garde::Error::new(format!(
            "the body of an answer with status {status} is not read; remove body"
        ))),
        _ => Ok(()),
    }
}

/// What a user may and may not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct CanITest {
    /// The user's name, or `system:serviceaccount:<namespace>:<name>`.
    #[garde(length(min = 1, max = 253))]
    pub who: String,
    /// The actions that must be allowed.
    #[serde(default)]
    #[garde(length(max = 32), dive)]
    pub allowed: Vec<ApiAction>,
    /// The actions that must be denied.
    #[serde(default)]
    #[garde(length(max = 32), dive)]
    pub denied: Vec<ApiAction>,
}

/// An action on the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct ApiAction {
    /// The verb: `get`, `list`, `create`, …
    #[garde(pattern(r"^[a-z*]+$"))]
    pub verb: String,
    /// The resource, in the plural, with its group and subresource if any: `pods`, `deployments.apps`, `pods/exec`.
    #[garde(pattern(r"^[a-z*][a-z0-9.*/-]*$"))]
    pub resource: String,
    /// The object's name. Default: any.
    #[serde(default)]
    #[garde(length(max = 253))]
    pub name: Option<String>,
    /// The namespace. Default: all namespaces.
    #[serde(default)]
    #[garde(inner(pattern(r"^[a-z0-9][a-z0-9-]{0,62}$")))]
    pub namespace: Option<String>,
}

/// How the cluster itself is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct ClusterTest {
    /// The nodes that must be Ready, have a fresh lease and be schedulable. Default: all nodes.
    #[serde(default)]
    #[garde(length(max = 5))]
    pub nodes: Vec<crate::NodeName>,
    /// If true, the API server must report that it is ready, and the scheduler, the controller manager and etcd must
    /// work. Default: true.
    #[serde(default = "default_true")]
    #[garde(skip)]
    pub control_plane: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_with_its_addresses_or_without() {
        let read = |text: &str| serde_json::from_str::<PodRequest>(text);
        let Ok(PodRequest::Dns(plain)) = read(r#"{"dns": "erp.example"}"#) else {
            panic!("a name alone is a request");
        };
        assert_eq!((plain.name(), plain.answers().len()), ("erp.example", 0));
        let Ok(PodRequest::Dns(both)) =
            read(r#"{"dns": {"name": "erp.example", "answers": ["10.0.0.1"]}}"#)
        else {
            panic!("a name with its addresses is a request");
        };
        assert_eq!((both.name(), both.answers().len()), ("erp.example", 1));
        assert!(plain.validate().is_ok() && both.validate().is_ok());
        for wrong in [
            r#"{"dns": {"name": "erp.example", "answers": ["erp"]}}"#,
            r#"{"dns": {"name": "erp.example", "answer": ["10.0.0.1"]}}"#,
        ] {
            let said = read(wrong).unwrap_err().to_string();
            assert!(said.contains("a mapping of name and answers"), "{said}");
        }
        for wrong in [
            r#"{"dns": "erp example"}"#,
            r#"{"dns": {"name": "erp.example", "answers": []}}"#,
        ] {
            assert!(read(wrong).unwrap().validate().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_body_of_an_error_is_not_asked_for() {
        let http = |rest: &str| {
            let text = format!("{{\"url\": \"http://a/\", {rest}}}");
            serde_json::from_str::<PodHttp>(&text).unwrap()
        };
        for good in [
            r#""status": 404"#,
            r#""status": 201, "body": "ok""#,
            r#""body": "ok""#,
        ] {
            assert!(http(good).validate().is_ok(), "{good}");
        }
        for wrong in [r#""status": 404, "body": "gone""#, r#""status": 42"#] {
            assert!(http(wrong).validate().is_err(), "{wrong}");
        }
    }
}
