//! What a lab may say about the cluster that runs on its nodes.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::yes;

/// Objects of the cluster, looked at by the platform as the cluster's administrator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct ObjectTest {
    /// Kind, in the singular with a capital: `Deployment`, `Pod`, `NetworkPolicy`.
    #[garde(pattern(r"^[A-Z][A-Za-z0-9]{0,62}$"))]
    pub kind: String,
    /// API group and version, such as `apps/v1`. `v1` unless said.
    #[serde(default = "core")]
    #[garde(pattern(r"^([a-z0-9.-]+/)?v[0-9][a-z0-9]*$"))]
    pub api: String,
    /// The namespace. Without it: objects that have none, or those of all namespaces.
    #[serde(default)]
    #[garde(inner(pattern(r"^[a-z0-9][a-z0-9-]{0,62}$")))]
    pub namespace: Option<String>,
    /// The object's name. Without it: all that `labels` selects.
    #[serde(default)]
    #[garde(length(max = 253))]
    pub name: Option<String>,
    /// A label selector, such as `app=shop,tier!=cache`.
    #[serde(default)]
    #[garde(length(max = 500))]
    pub labels: Option<String>,
    /// True (the default): there must be such an object. False: there must be none.
    #[serde(default = "yes")]
    #[garde(skip)]
    pub exists: bool,
    /// How many there must be.
    #[serde(default)]
    #[garde(dive)]
    pub count: Option<Count>,
    /// Conditions that must be `True` in each one's `status.conditions`: `[Available]`, `[Ready]`.
    #[serde(default)]
    #[garde(length(max = 8))]
    pub conditions: Vec<String>,
    /// What must be found in each one.
    #[serde(default)]
    #[garde(length(max = 16), dive)]
    pub fields: Vec<Field>,
    /// All of it must stay true for so many seconds.
    #[serde(default)]
    #[garde(range(max = 120))]
    pub stays_seconds: u32,
}

fn core() -> String {
    "v1".to_owned()
}

/// Bounds of a number of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// At least so many. 1 unless said.
    #[serde(default = "at_least_one")]
    #[garde(skip)]
    pub min: u32,
    /// At most so many. No bound unless said.
    #[serde(default)]
    #[garde(skip)]
    pub max: Option<u32>,
}

const fn at_least_one() -> u32 {
    1
}

/// A value in an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Where it is: JSONPath as in RFC 9535, such as `$.spec.template.spec.containers[0].image`.
    #[garde(pattern(r"^\$"), length(max = 600))]
    pub path: String,
    /// Every value found must be this: text, number, or truth.
    #[serde(default)]
    #[garde(skip)]
    pub equals: Option<serde_json::Value>,
    /// Every value found, as text, must match this regular expression.
    #[serde(default)]
    #[garde(length(max = 300))]
    pub matches: Option<String>,
    /// Every value found must be at least this: a number, or a quantity such as `1Gi` for the number it stands for.
    #[serde(default)]
    #[garde(skip)]
    pub at_least: Option<f64>,
    /// Every value found must be at most this, read in the same way.
    #[serde(default)]
    #[garde(skip)]
    pub at_most: Option<f64>,
    /// False: nothing must be found there.
    #[serde(default = "yes")]
    #[garde(skip)]
    pub exists: bool,
    /// What the student reads as seen when this value is not so, in place of the path and what is there: where that would
    /// give the repair away.
    #[serde(default)]
    #[garde(length(chars, min = 3, max = 300))]
    pub seen: Option<String>,
}

/// A request made by a pod that the platform runs in the cluster for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct FromPodTest {
    /// The pod's namespace. `default` unless said.
    #[serde(default = "default_namespace")]
    #[garde(pattern(r"^[a-z0-9][a-z0-9-]{0,62}$"))]
    pub namespace: String,
    /// The pod's labels: network policies look at them.
    #[serde(default)]
    #[garde(length(max = 16))]
    pub labels: std::collections::BTreeMap<String, String>,
    /// The node it runs on. Any unless said.
    #[serde(default)]
    #[garde(skip)]
    pub on_node: Option<crate::NodeName>,
    /// What it asks.
    #[garde(dive)]
    pub request: PodRequest,
    /// True (the default): it must be answered as said. False: it must get no answer, whatever it would be; an error's
    /// status is an answer only where `status` is said.
    #[serde(default = "yes")]
    #[garde(skip)]
    pub answered: bool,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// What a probe pod asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PodRequest {
    /// An HTTP request.
    Http(#[garde(dive)] PodHttp),
    /// A TCP connection to `host:port`.
    Tcp(#[garde(pattern(r"^[A-Za-z0-9._-]+:[0-9]{1,5}$"))] String),
    /// A name that must resolve: `orders.shop`, or `{name: orders.shop, answers: [10.96.4.1]}`.
    Dns(#[garde(dive)] PodDns),
}

/// A DNS question of a probe pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(
    untagged,
    expecting = "a name, or a mapping of name and answers (IPv4 addresses)"
)]
pub enum PodDns {
    /// A name. Any answer will do.
    Name(#[garde(pattern(r"^[A-Za-z0-9._-]{1,253}$"))] String),
    /// A name, and what it must stand for.
    Answers(#[garde(dive)] PodDnsAnswers),
}

impl PodDns {
    /// The name asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Answers(dns) => &dns.name,
        }
    }

    /// The addresses that must come. None: any will do.
    #[must_use]
    pub fn answers(&self) -> &[std::net::Ipv4Addr] {
        match self {
            Self::Name(_) => &[],
            Self::Answers(dns) => &dns.answers,
        }
    }
}

/// A DNS question, and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct PodDnsAnswers {
    /// The name.
    #[garde(pattern(r"^[A-Za-z0-9._-]{1,253}$"))]
    pub name: String,
    /// The IPv4 addresses that must come, in any order, and no others.
    #[garde(length(min = 1, max = 16))]
    pub answers: Vec<std::net::Ipv4Addr>,
}

/// An HTTP request of a probe pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct PodHttp {
    /// The address, such as `http://orders.shop/healthz`.
    #[garde(
        pattern(r"^http://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[!-~]*)?$"),
        length(max = 500)
    )]
    pub url: String,
    /// The status that must come, after redirects. Any that is no error unless said.
    #[serde(default)]
    #[garde(inner(range(min = 100, max = 599)))]
    pub status: Option<u16>,
    /// A regular expression that the body must match. The body of an error is not seen.
    #[serde(default)]
    #[garde(length(max = 300), custom(seen_with(&self.status)))]
    pub body: Option<String>,
}

fn seen_with(status: &Option<u16>) -> impl FnOnce(&Option<String>, &()) -> garde::Result + use<'_> {
    move |body, ()| match (body, status) {
        (Some(_), Some(status)) if !(200..300).contains(status) => Err(garde::Error::new(format!(
            "the body of an answer with status {status} is not seen; leave body out"
        ))),
        _ => Ok(()),
    }
}

/// What somebody may and may not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct CanITest {
    /// Who: a user's name, or `system:serviceaccount:<namespace>:<name>`.
    #[garde(length(min = 1, max = 253))]
    pub who: String,
    /// What must be allowed.
    #[serde(default)]
    #[garde(length(max = 32), dive)]
    pub allowed: Vec<Deed>,
    /// What must not be.
    #[serde(default)]
    #[garde(length(max = 32), dive)]
    pub denied: Vec<Deed>,
}

/// Something done to the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Deed {
    /// `get`, `list`, `create`, …
    #[garde(pattern(r"^[a-z*]+$"))]
    pub verb: String,
    /// In the plural, with its group and subresource where it has one: `pods`, `deployments.apps`, `pods/exec`.
    #[garde(pattern(r"^[a-z*][a-z0-9.*/-]*$"))]
    pub resource: String,
    /// The object's name; any unless said.
    #[serde(default)]
    #[garde(length(max = 253))]
    pub name: Option<String>,
    /// The namespace; all of them unless said.
    #[serde(default)]
    #[garde(inner(pattern(r"^[a-z0-9][a-z0-9-]{0,62}$")))]
    pub namespace: Option<String>,
}

/// How the cluster itself is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct ClusterTest {
    /// The nodes that must be Ready by a fresh lease and take pods. All unless listed.
    #[serde(default)]
    #[garde(length(max = 5))]
    pub nodes: Vec<crate::NodeName>,
    /// True (the default): the API server must say that it is ready, and scheduler, controller manager and etcd must be
    /// at work.
    #[serde(default = "yes")]
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
