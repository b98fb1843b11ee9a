//! Applies people's public keys to their nodes, for the guests' own sshd. The SSH gateway doesn't need this, because it
//! reads the keys from the store.
//!
//! ```text
//! lock the node ─► read the keys and their version ─► read root's authorized_keys ─► merge ─► write ─► record
//! ```
//!
//! [`keys`](super::keys) does this whenever a node's version isn't the current one. The steps that create a node do it
//! before anyone can enter, and so does a resume.

mod merge;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use faultline_domain::{NodeName, PersonId, TenantId, environment::Environment};
use faultline_guest::client;
use faultline_provider::{Error, Stream, Target};
use futures::future::try_join_all;
use tokio::sync::OwnedMutexGuard;

use crate::{
    app::{App, Shared, tenant},
    lock::lock,
};

/// Timeout for one guest.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for all guests during a resume. The reconciler applies the rest later.
const RESUME_TIMEOUT: Duration = Duration::from_secs(10);
/// The file with the keys.
const PATH: &str = "/root/.ssh/authorized_keys";
/// The maximum size of a file that is merged, in bytes. A larger file is replaced.
const MAX_SIZE: u64 = 64 * 1024;

/// Locked by the task that applies keys to a node.
type Turn = tokio::sync::Mutex<()>;

/// Lets one task at a time apply keys to a node, so that the version recorded last is the one written last.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<(TenantId, NodeName), Weak<Turn>>>);

impl Turns {
    async fn take(&self, tenant: &TenantId, node: &NodeName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = lock(&self.0);
            all.retain(|_, turn| turn.strong_count() > 0);
            let known = all.entry((tenant.clone(), node.clone())).or_default();
            known.upgrade().unwrap_or_else(|| {
                let turn = Arc::default();
                *known = Arc::downgrade(&turn);
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// Applies the owner's keys to every node.
pub(super) async fn environment(app: &Shared, e: &Environment) -> Result<(), Error> {
    nodes(app, e, &e.nodes()).await
}

/// Applies the owner's keys to these nodes.
pub(super) async fn nodes(app: &Shared, e: &Environment, nodes: &[NodeName]) -> Result<(), Error> {
    let tenant = tenant(e)?;
    let each = nodes.iter().map(|n| node(app, &e.person, tenant, n));
    try_join_all(each).await.map(drop)
}

/// Applies the owner's keys to the nodes that have a different version of them.
pub(super) async fn outdated(app: &Shared, e: &Environment) -> Result<(), Error> {
    let tenant = tenant(e)?;
    let versions = app.store.key_versions().await.map_err(failed)?;
    let Some(versions) = versions.get(tenant) else {
        return Ok(());
    };
    let outdated = versions.outdated(&e.nodes());
    tokio::time::timeout(RESUME_TIMEOUT, nodes(app, e, &outdated))
        .await
        .unwrap_or_else(|_| Err(timed_out(RESUME_TIMEOUT)))
}

/// Applies a person's keys to one node and records their version.
pub(super) async fn node(
    app: &App,
    person: &PersonId,
    tenant: &TenantId,
    node: &NodeName,
) -> Result<(), Error> {
    let apply = async {
        let _turn = app.key_turns.take(tenant, node).await;
        let wanted = app.store.key_set(person).await.map_err(failed)?;
        write(app, tenant, node, &wanted.keys, &wanted.removed).await?;
        crash_point!(app, KeysWritten);
        let recorded = app
            .store
            .record_node_keys(tenant, node, wanted.version)
            .await;
        recorded.map_err(failed)
    };
    in_time(node, apply).await
}

/// Removes all keys of a person from these nodes, which are a copy of the person's.
pub(super) async fn withdraw(
    app: &App,
    person: &PersonId,
    tenant: &TenantId,
    nodes: &[NodeName],
) -> Result<(), Error> {
    let theirs = app.store.key_set(person).await.map_err(failed)?;
    let keys = theirs.keys.iter();
    let mut removed: Vec<String> = keys.filter_map(|line| merge::fingerprint(line)).collect();
    removed.extend(theirs.removed);
    let each = nodes
        .iter()
        .map(|node| in_time(node, write(app, tenant, node, &[], &removed)));
    try_join_all(each).await.map(drop)
}

/// Adds these keys to root's `authorized_keys` on a node, and removes those with these fingerprints.
async fn write(
    app: &App,
    tenant: &TenantId,
    node: &NodeName,
    keys: &[String],
    removed: &[String],
) -> Result<(), Error> {
    let open = || app.provider.open(tenant, node, Target::Guest);
    let now = read(open).await?;
    let lines = merge::merge(&now, keys, removed);
    client::authorize(open().await?, lines)
        .await
        .map_err(failed)
}

async fn in_time(
    node: &NodeName,
    apply: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let applied = tokio::time::timeout(TIMEOUT, apply).await;
    applied
        .unwrap_or_else(|_| Err(timed_out(TIMEOUT)))
        .map_err(|e| match e {
            Error::Failed { stage, reason } => Error::failed(stage, format!("{node}: {reason}")),
            other => other,
        })
}

/// Reads root's `authorized_keys`. Returns an empty file if there is none, or if it can't be merged and will be
/// replaced.
async fn read<F>(open: impl Fn() -> F) -> Result<Vec<u8>, Error>
where
    F: Future<Output = Result<Stream, Error>>,
{
    let size = match client::stat(open().await?, PATH).await {
        Ok(Some(file)) if file.kind == "file" && file.size <= MAX_SIZE => file.size,
        Ok(_) | Err(client::Error::Refused(_)) => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    match client::read_file(open().await?, PATH, MAX_SIZE).await {
        // A broken link looks like the end of the file.
        Ok(content) if (content.len() as u64) < size => Err(Error::failed(
            "keys",
            "its authorized_keys could not be read completely",
        )),
        Ok(content) => Ok(content),
        Err(client::Error::Refused(_)) => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
    }
}

fn failed(e: impl std::error::Error) -> Error {
    Error::failed("keys", super::describe(&e))
}

fn timed_out(limit: Duration) -> Error {
    let seconds = limit.as_secs();
    Error::failed(
        "keys",
        format!("the guest did not respond within {seconds} s"),
    )
}
