//! Connects to a port of a tenant's nodes.

use std::time::Duration;

use faultline_domain::{NodeName, TenantId};
use faultline_provider::{Error, Provider, Stream, Target};
use futures::{StreamExt, stream::FuturesUnordered};

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
    let mut last = Error::Unreachable("the tenant has no node".to_owned());
    let connected = async {
        let mut rest = nodes.iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            match rest.next() {
                Some(node) => under_way.push(provider.open(tenant, node, Target::Port(port))),
                None if under_way.is_empty() => return None,
                None => {}
            }
            let more = rest.len() > 0;
            tokio::select! {
                Some(opened) = under_way.next() => match opened {
                    Ok(stream) => return Some(stream),
                    Err(e) => last = e,
                },
                () = tokio::time::sleep(NEXT), if more => {}
            }
        }
    };
    match tokio::time::timeout(TIMEOUT, connected).await {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) => Err(last),
        Err(_) => Err(Error::Unreachable("no node responds".to_owned())),
    }
}
