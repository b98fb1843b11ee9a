//! Access to a tenant's API server. The keys of its cluster's certificate authority are read from the first node before
//! anybody else has access to it, and sign each person's credential.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use faultline_cluster::credentials::{self, AuthorityKeys};
use faultline_domain::{NodeName, Shape, TenantId};
use faultline_launcher::{client, protocol::Channel};
use faultline_provider::{
    ApiAccess, Error, Identity, Result,
    api::{ApiServer, Credential, OnNode},
};
use serde::{Deserialize, Serialize};

use crate::Local;

/// The file with the cluster's keys in a tenant's folder.
pub(crate) const KEYS: &str = "cluster.json";
/// The port of the API server on every control plane.
const PORT: u16 = 6443;
/// A name that kubeadm puts into the certificate of every API server.
const SERVER: &str = "kubernetes";

/// The stored data of a cluster.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    keys: AuthorityKeys,
    /// The nodes on which the API server listens.
    control_planes: Vec<NodeName>,
}

/// Returns access to a tenant's API server for this identity.
pub(crate) fn access(local: &Local, id: &TenantId, identity: &Identity) -> Result<ApiAccess> {
    let text = fs::read(local.folder(id).join(KEYS)).map_err(|_| Error::NotFound)?;
    let Kept {
        keys,
        control_planes,
    } = serde_json::from_slice(&text).map_err(|e| Error::failed("cluster", e))?;
    let credential =
        credentials::mint(&keys, identity).map_err(|e| Error::failed("credential", e))?;
    let server = |node| -> Arc<dyn ApiServer> {
        Arc::new(OnNode {
            provider: local.clone(),
            tenant: id.clone(),
            node,
            port: PORT,
        })
    };
    Ok(ApiAccess {
        servers: control_planes.into_iter().map(server).collect(),
        server_name: SERVER.to_owned(),
        authority: keys.authority,
        credential: Credential::Certificate(credential),
        namespace: None,
    })
}

/// Reads the cluster's keys from the first node and stores them, before anybody else has access to the node.
pub(crate) async fn keep_keys(dir: &Path, shape: Shape) -> io::Result<()> {
    let names = shape.node_names();
    let planes = usize::try_from(shape.control_planes()).unwrap_or(1);
    let first = names.first().ok_or(io::ErrorKind::NotFound)?;
    let read = |path: &'static str| async move {
        let stream = client::open(dir, first, Channel::Guest)
            .await
            .map_err(io::Error::other)?;
        let content = faultline_guest::client::read_file(stream, path, 64 * 1024)
            .await
            .map_err(io::Error::other)?;
        String::from_utf8(content).map_err(io::Error::other)
    };
    let kept = Kept {
        keys: AuthorityKeys {
            authority: read("/etc/kubernetes/pki/ca.crt").await?,
            authority_key: read("/etc/kubernetes/pki/ca.key").await?,
        },
        control_planes: names.get(..planes).unwrap_or_default().to_vec(),
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.join(KEYS))?;
    file.write_all(&serde_json::to_vec(&kept)?)
}
