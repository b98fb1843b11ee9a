//! Checks that a tenant is usable and isolated before it is handed out: what its user may do works, what it may not do is
//! refused, and the admission policies have taken effect.

use std::time::Duration;

use faultline_cluster::client::impersonation;
use faultline_domain::TenantId;
use hyper::Request;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{objects, why};

/// The time within which everything must be as it should. A quota or policy that was just made takes a moment.
const WITHIN: Duration = Duration::from_secs(30);
/// The pause between two attempts.
const AGAIN: Duration = Duration::from_millis(150);

/// The name of the objects that are tried.
const NAME: &str = "faultline-probe";

/// A verb, a resource with its group and subresource, and a namespace: the tenant's [`OWN`], another, or all.
type Right = (&'static str, &'static str, Option<&'static str>);
/// Stands for the tenant's namespace.
const OWN: Option<&str> = Some("");

/// What a tenant's user must be allowed to do.
const NEEDED: [Right; 3] = [
    ("create", "pods", OWN),
    ("get", "secrets", OWN),
    ("create", "deployments.apps", OWN),
];
/// What no tenant's user may do. Bindings of the host's own, such as one for all authenticated users, could allow it.
const FORBIDDEN: [Right; 11] = [
    ("list", "secrets", None),
    ("get", "secrets", Some("kube-system")),
    ("create", "pods", Some("default")),
    ("list", "nodes", None),
    ("get", "nodes/proxy", None),
    ("impersonate", "users", None),
    ("create", "serviceaccounts/token", OWN),
    ("update", "namespaces", OWN),
    ("update", "resourcequotas", OWN),
    ("create", "networkpolicies.networking.k8s.io", OWN),
    ("escalate", "roles.rbac.authorization.k8s.io", OWN),
];

/// An admission policy, and a request that it must refuse.
type Refused = (&'static str, Request<Vec<u8>>);

/// Returns such a request for each policy. None of them stores anything.
fn refused(namespace: &str) -> kube::Result<Vec<Refused>> {
    let core = format!("/api/v1/namespaces/{namespace}");
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let delete = DeleteParams::default().dry_run();
    let delete = kube::core::Request::new(format!("{rbac}/rolebindings"))
        .delete("faultline-tenant", &delete)
        .map_err(kube::Error::BuildRequest)?;
    Ok(vec![
        (
            "faultline-tenant-pods",
            create(
                &format!("{core}/pods"),
                &json!({"metadata": {"name": NAME}, "spec": {
                    "schedulerName": "probe",
                    "containers": [{"name": "probe", "image": "probe"}],
                }}),
            )?,
        ),
        (
            "faultline-tenant-services",
            create(
                &format!("{core}/services"),
                &json!({"metadata": {"name": NAME}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}),
            )?,
        ),
        (
            "faultline-tenant-claims",
            create(
                &format!("{core}/persistentvolumeclaims"),
                &json!({"metadata": {"name": NAME}, "spec": {
                    "volumeName": "probe",
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Mi"}},
                }}),
            )?,
        ),
        (
            "faultline-tenant-objects",
            create(
                &format!("{core}/configmaps"),
                &json!({"metadata": {"name": NAME, "finalizers": ["faultline.dev/probe"]}}),
            )?,
        ),
        (
            "faultline-tenant-secrets",
            create(
                &format!("{core}/secrets"),
                &json!({
                    "type": "kubernetes.io/service-account-token",
                    "metadata": {
                        "name": NAME,
                        "annotations": {"kubernetes.io/service-account.name": "default"},
                    },
                }),
            )?,
        ),
        (
            "faultline-tenant-bindings",
            create(
                &format!("{rbac}/rolebindings"),
                &json!({
                    "metadata": {"name": NAME},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "ClusterRole",
                        "name": "faultline-tenant",
                    },
                    "subjects": [{
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "Group",
                        "name": "system:unauthenticated",
                    }],
                }),
            )?,
        ),
        ("faultline-tenant-access", delete),
    ])
}

/// Returns a request that creates an object without storing it.
fn create(path: &str, object: &Value) -> kube::Result<Request<Vec<u8>>> {
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
    let request = kube::core::Request::new(path).create(&params, body);
    request.map_err(kube::Error::BuildRequest)
}

/// Waits until the tenant is as it should be. The error says what isn't. `image` is from an allowed source.
pub(super) async fn probe(client: &Client, id: &TenantId, image: &str) -> Result<(), String> {
    let until = Instant::now() + WITHIN;
    let rights = NEEDED.map(|right| (right, true)).into_iter();
    let rights = rights.chain(FORBIDDEN.map(|right| (right, false)));
    let rights =
        rights.map(|(right, wanted)| repeat(until, move || check_right(client, id, right, wanted)));
    futures::future::try_join_all(rights).await?;
    let namespace = objects::namespace(id);
    let refused = refused(&namespace).map_err(|e| why(&e))?;
    let refusals = refused.iter().map(|(policy, request)| {
        repeat(until, move || async move {
            match send_as_tenant(client, id, request).await {
                Err(kube::Error::Api(status)) if status.message.contains(policy) => Ok(()),
                Err(e) => Err(format!("the policy {policy} has no effect: {}", why(&e))),
                Ok(()) => Err(format!("the policy {policy} has no effect")),
            }
        })
    });
    futures::future::try_join_all(refusals).await?;
    let pod = json!({
        "metadata": {"name": NAME},
        "spec": {"containers": [{"name": "probe", "image": image}]},
    });
    let pod = create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod);
    let pod = pod.map_err(|e| why(&e))?;
    repeat(until, || async {
        let admitted = send_as_tenant(client, id, &pod).await;
        admitted.map_err(|e| format!("a pod is not admitted: {}", why(&e)))
    })
    .await
}

/// Repeats an attempt until it succeeds or the time is over.
async fn repeat<F>(until: Instant, attempt: impl Fn() -> F) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    loop {
        match attempt().await {
            Err(_) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
            done => return done,
        }
    }
}

/// Asks the host's cluster whether the tenant's user has a right.
async fn check_right(
    client: &Client,
    id: &TenantId,
    right: Right,
    wanted: bool,
) -> Result<(), String> {
    let (verb, what, namespace) = right;
    let (path, subresource) = what.split_once('/').unwrap_or((what, ""));
    let (resource, group) = path.split_once('.').unwrap_or((path, ""));
    let user = objects::tenant_user(id);
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.name),
            groups: Some([user.groups, vec!["system:authenticated".to_owned()]].concat()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: Some(subresource.to_owned()),
                namespace: namespace.map(|name| match name {
                    "" => objects::namespace(id),
                    other => other.to_owned(),
                }),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &review).await;
    let review = review.map_err(|e| format!("rights can't be checked: {}", why(&e)))?;
    let allowed = review.status.is_some_and(|s| s.allowed);
    match (allowed, wanted) {
        (true, false) => Err(format!(
            "the host's cluster lets a tenant's user {verb} {what} {}; remove the binding that allows it",
            namespace.map_or("everywhere".to_owned(), |name| match name {
                "" => "in their namespace".to_owned(),
                other => format!("in {other}"),
            }),
        )),
        (false, true) => Err(format!("a tenant's user may not {verb} {what}")),
        _ => Ok(()),
    }
}

/// Sends a request as the tenant's user.
async fn send_as_tenant(
    client: &Client,
    id: &TenantId,
    request: &Request<Vec<u8>>,
) -> kube::Result<()> {
    let mut request = request.clone();
    let user = objects::tenant_user(id);
    let headers = impersonation(&user.name, &user.groups);
    let headers = headers.map_err(|e| kube::Error::Service(e.into()))?;
    request.headers_mut().extend(headers);
    client.request::<Value>(request).await.map(drop)
}
