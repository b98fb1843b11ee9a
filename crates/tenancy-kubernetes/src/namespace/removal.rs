//! Removes a namespace with everything in it, also if something in it is stuck.
//!
//! Deleting a namespace deletes what is in it, but waits for finalizers, for pods that don't end, and for API services that
//! don't respond. A tenant's objects are of no value once it ends, so after a moment nothing is waited for.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::PartialObjectMeta,
    discovery::{ApiGroup, Discovery, Scope, verbs},
};
use serde_json::json;
use tokio::time::Instant;

use super::{is_missing, why};

/// The time after which finalizers are removed and pods are not waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time after which an API service that doesn't respond is not waited for.
const IMPATIENCE: Duration = Duration::from_secs(15);
/// The time limit. Removing is tried again later.
const WITHIN: Duration = Duration::from_secs(100);
/// The pause between two requests for the namespace's state.
const AGAIN: Duration = Duration::from_millis(200);
/// The pause between two searches for what is stuck.
const SEARCH: Duration = Duration::from_secs(3);

/// Removes a namespace and waits until it is gone. Succeeds if it doesn't exist. The error says what is stuck.
pub(super) async fn remove(client: &Client, name: &str, uid: &str) -> Result<(), String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let began = Instant::now();
    let mut searched = began;
    let params = DeleteParams::background().preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        ..Preconditions::default()
    });
    match namespaces.delete(name, &params).await {
        Ok(_) => {}
        Err(e) if is_missing(&e) => return Ok(()),
        Err(e) => return Err(format!("it can't be deleted: {}", why(&e))),
    }
    // Pods may ask for more time than anyone wants to wait.
    end_pods(client, name, 1).await;
    loop {
        let found = namespaces.get_opt(name).await;
        let found = found.map_err(|e| format!("its state can't be read: {}", why(&e)))?;
        let Some(found) = found.filter(|ns| ns.uid().as_deref() == Some(uid)) else {
            return Ok(());
        };
        let elapsed = began.elapsed();
        if elapsed >= WITHIN {
            return Err(format!("it is still terminating: {}", conditions(&found)));
        }
        if elapsed >= PATIENCE && searched.elapsed() >= SEARCH {
            searched = Instant::now();
            end_pods(client, name, 0).await;
            release(client, name).await;
            if elapsed >= IMPATIENCE && only_discovery_fails(&found) {
                finalize(client, &found).await;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Deletes all pods, which get this many seconds to end. With 0 they are not waited for, as on a node that is gone.
async fn end_pods(client: &Client, namespace: &str, seconds: u32) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = DeleteParams::background().grace_period(seconds);
    let deleted = pods
        .delete_collection(&params, &ListParams::default())
        .await;
    log(namespace, "ending its pods", deleted.map(drop));
}

/// Removes the finalizers of everything that is being deleted in a namespace. Kinds whose API service doesn't respond are
/// left out.
async fn release(client: &Client, namespace: &str) {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(e) => return log(namespace, "finding the kinds of objects", Err(e)),
    };
    let kinds = discovery.groups().flat_map(ApiGroup::recommended_resources);
    for (kind, can) in kinds {
        let is_listed = can.supports_operation(verbs::LIST) && can.supports_operation(verbs::PATCH);
        if can.scope != Scope::Namespaced || !is_listed {
            continue;
        }
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
        let Ok(objects) = api.list_metadata(&ListParams::default()).await else {
            continue;
        };
        let is_stuck = |object: &&PartialObjectMeta<DynamicObject>| {
            object.metadata.deletion_timestamp.is_some() && !object.finalizers().is_empty()
        };
        for object in objects.items.iter().filter(is_stuck) {
            let name = object.name_any();
            tracing::info!(
                namespace,
                kind = kind.kind,
                name,
                finalizers = ?object.finalizers(),
                "removing the finalizers of an object"
            );
            let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            let patched = api
                .patch_metadata(&name, &PatchParams::default(), &none)
                .await;
            log(namespace, "removing finalizers", patched.map(drop));
        }
    }
}

/// Returns true if the cluster has removed everything that it knows of, but some API service doesn't respond. Nothing of a
/// tenant can be there: its user has rights to the cluster's own kinds only.
fn only_discovery_fails(namespace: &Namespace) -> bool {
    let is = |kind: &str| current(namespace).any(|condition| condition.type_ == kind);
    is("NamespaceDeletionDiscoveryFailure")
        && !is("NamespaceContentRemaining")
        && !is("NamespaceFinalizersRemaining")
        && !is("NamespaceDeletionContentFailure")
}

/// Finalizes the namespace itself.
async fn finalize(client: &Client, namespace: &Namespace) {
    let name = namespace.name_any();
    let api: Api<Namespace> = Api::all(client.clone());
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let patched = api
        .patch_metadata(&name, &PatchParams::default(), &none)
        .await;
    log(&name, "removing finalizers", patched.map(drop));
    let mut last = namespace.clone();
    last.metadata.resource_version = None;
    last.metadata.finalizers = None;
    last.spec = None;
    let params = PostParams::default();
    let finalized = api
        .replace_subresource("finalize", &name, &params, &last)
        .await;
    log(&name, "finalizing it", finalized.map(drop));
}

/// Logs why a part of the work failed, unless something was gone already. The next search tries it again.
fn log(namespace: &str, what: &str, done: kube::Result<()>) {
    if let Err(e) = done
        && !is_missing(&e)
    {
        tracing::warn!(namespace, error = why(&e), "{what} failed");
    }
}

/// Returns what the cluster says about a namespace that is being deleted.
fn conditions(namespace: &Namespace) -> String {
    let said: Vec<&str> = current(namespace)
        .filter_map(|condition| condition.message.as_deref())
        .collect();
    match said.as_slice() {
        [] => "the cluster says no reason".to_owned(),
        said => said.join("; "),
    }
}

/// Returns the conditions that are true.
fn current(namespace: &Namespace) -> impl Iterator<Item = &NamespaceCondition> {
    let status = namespace.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let conditions = conditions.into_iter().flatten();
    conditions.filter(|condition| condition.status == "True")
}
