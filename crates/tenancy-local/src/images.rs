//! Container images that come with a lab: built once on the host, and imported into the containerd of nodes.

use faultline_domain::{NodeName, TenantId, container::ContainerImage};
use faultline_guest::{client, wire::Exec};
use faultline_image::containers;
use faultline_provider::{Error, Provider, Result, Target};

use crate::Local;

/// The path of the archive on a node until it is imported.
const ARCHIVE: &str = "/var/tmp/faultline-image.tar";
const IMPORT: &str = "ctr --namespace k8s.io images import /var/tmp/faultline-image.tar; code=$?; \
    rm -f /var/tmp/faultline-image.tar; exit $code";
/// The time limit of an import, in seconds.
const SECONDS: u32 = 600;
/// The maximum size of the reported output of a failed import, in bytes.
const SAID: usize = 4096;

pub(crate) async fn load(
    local: &Local,
    id: &TenantId,
    nodes: &[NodeName],
    image: &ContainerImage,
) -> Result<()> {
    let (image, cache) = (image.clone(), local.cache.clone());
    let archive = tokio::task::spawn_blocking(move || containers::single(&image.into(), &cache))
        .await
        .map_err(|e| Error::failed("load", e))?
        .map_err(|e| Error::failed("load", e))?;
    let archive = tokio::fs::read(archive)
        .await
        .map_err(|e| Error::failed("load", e))?;
    let each = nodes
        .iter()
        .map(|node| import(local, id, node, archive.as_slice()));
    futures::future::try_join_all(each).await.map(drop)
}

async fn import(local: &Local, id: &TenantId, node: &NodeName, archive: &[u8]) -> Result<()> {
    let failed =
        |why: String| Error::failed("load", format!("importing it on {node} failed: {why}"));
    let stream = local.open(id, node, Target::Guest).await?;
    client::write_file(stream, ARCHIVE, 0o600, archive)
        .await
        .map_err(|e| failed(e.to_string()))?;
    let stream = local.open(id, node, Target::Guest).await?;
    let exec = Exec {
        argv: ["/bin/sh", "-c", IMPORT].map(Into::into).to_vec(),
        timeout_seconds: Some(SECONDS),
        ..Exec::default()
    };
    let ran = client::run(stream, exec, SAID)
        .await
        .map_err(|e| failed(e.to_string()))?;
    if ran.code == 0 {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&ran.stderr).trim().to_owned(),
    ))
}
