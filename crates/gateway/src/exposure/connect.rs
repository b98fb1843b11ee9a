//! Connects to a port of a tenant's nodes.

use std::time::Duration;

use faultline_domain::{NodeName, TenantId};
use faultline_provider::{Error, Provider, Stream, Target, attempts::first};

/// The timeout of connecting. Nodes may be emulated or under load.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The delay after which the next node is tried in parallel. A node drops connections to a service whose pods run on
/// others, if the service's external traffic policy is `Local`.
const NEXT: Duration = Duration::from_millis(500);

/// Connects to a port of the first node that accepts.
pub async fn connect(
    provider: &dyn Provider,
    tenant: &TenantId,
    nodes: &[NodeName],
    port: u16,
) -> Result<Stream, Error> {
    let opened = nodes
        .iter()
        .map(|node| provider.open(tenant, node, Target::Port(port)))
        .collect();
    match tokio::time::timeout(TIMEOUT, first(opened, NEXT)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(last)) => {
            Err(last.unwrap_or_else(|| Error::Unreachable("the tenant has no node".to_owned())))
        }
        Err(_) => Err(Error::Unreachable("no node responds".to_owned())),
    }
}
