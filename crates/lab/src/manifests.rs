//! Reads a lab's Kubernetes objects from its files and applies them as the cluster's administrator.

use std::time::{Duration, Instant};

use faultline_cluster::kube::{
    self, Client, ResourceExt,
    api::{Api, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{ApiResource, Scope, pinned_kind},
};

/// The field manager of server-side apply.
const MANAGER: &str = "faultline";
/// The pause between two attempts to apply an object whose kind or admission is not ready yet.
const AGAIN: Duration = Duration::from_secs(3);

/// An error of applying objects.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The API server rejected an object.
    #[error("{object} was not applied")]
    Refused {
        /// The object.
        object: String,
        /// The cause.
        source: Box<kube::Error>,
    },
}

/// Parses a file of one or more manifests.
pub fn parse(text: &str) -> Result<Vec<DynamicObject>, String> {
    let documents: Vec<Option<DynamicObject>> =
        serde_saphyr::from_multiple(text).map_err(|e| e.without_snippet().to_string())?;
    documents
        .into_iter()
        .flatten()
        .map(|object| match &object.types {
            Some(t) if !t.kind.is_empty() && object.metadata.name.is_some() => Ok(object),
            _ => Err("an object has no apiVersion, kind or metadata.name".to_owned()),
        })
        .collect()
}

/// Applies all objects of a file in order. Rejected objects are retried until the timeout: a kind or a namespace that
/// was just created takes a moment.
pub async fn apply(client: &Client, text: &str, within: Duration) -> Result<(), Error> {
    let began = Instant::now();
    for object in parse(text).map_err(Error::Malformed)? {
        loop {
            match apply_one(client, &object).await {
                Ok(()) => break,
                Err(source) if began.elapsed() >= within => {
                    let kind = object.types.as_ref().map_or("object", |t| t.kind.as_str());
                    return Err(Error::Refused {
                        object: format!("{kind} {}", object.name_any()),
                        source: Box::new(source),
                    });
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
    Ok(())
}

async fn apply_one(client: &Client, object: &DynamicObject) -> Result<(), kube::Error> {
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types
        .api_version
        .rsplit_once('/')
        .unwrap_or(("", &types.api_version));
    let (resource, scope) = find(client, group, version, &types.kind).await?;
    let api = api(client, &resource, &scope, object.namespace().as_deref());
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&object.name_any(), &params, &Patch::Apply(object))
        .await
        .map(drop)
}

/// Returns the API resource of a kind, and its scope.
pub(crate) async fn find(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
) -> Result<(ApiResource, Scope), kube::Error> {
    let kind = GroupVersionKind::gvk(group, version, kind);
    let (resource, can) = pinned_kind(client, &kind).await?;
    Ok((resource, can.scope))
}

/// Returns the API of a kind's objects: in one namespace, in all, or cluster-scoped.
pub(crate) fn api(
    client: &Client,
    resource: &ApiResource,
    scope: &Scope,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    match (scope, namespace) {
        (Scope::Namespaced, Some(namespace)) => {
            Api::namespaced_with(client.clone(), namespace, resource)
        }
        _ => Api::all_with(client.clone(), resource),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_objects_are_read_from_one_file() {
        let text = "# the shop\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n---\n# a comment\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  replicas: 2\n";
        let objects = parse(text).unwrap();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[1].data["spec"]["replicas"], 2);
        assert!(parse("kind: Pod\n").is_err());
        assert!(parse("a: [\n").is_err());
        assert!(parse("# nothing\n").unwrap().is_empty());
    }
}
