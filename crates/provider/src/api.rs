//! The way to a tenant's API server: where it is reached, how it is known, and what to show there.
//!
//! A tenancy knows how an identity becomes a credential: VMs have their cluster's authority and sign a certificate, a
//! namespace on a host's cluster has none to hand over. So the credential is the tenancy's to make, for one identity at a
//! time.

use std::sync::Arc;

use async_trait::async_trait;
use faultline_domain::{NodeName, TenantId};
use jiff::Timestamp;

use crate::{Provider, Result, Stream, Target};

/// Who somebody is to an API server, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name there.
    pub user: String,
    /// The groups.
    pub groups: Vec<String>,
    /// From when. The tenant's clock may lag, so what is made of this begins earlier.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// A client certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

/// The way to a tenant's API server for one identity.
#[derive(Debug, Clone)]
pub struct ApiAccess {
    /// Where it is reached. Any of these will do: a cluster has one for each control plane.
    pub servers: Vec<Arc<dyn ApiServer>>,
    /// The name that its certificate has.
    pub server_name: String,
    /// The certificates by which it is known, PEM.
    pub authority: String,
    /// What to show there.
    pub credential: ClientCertificate,
}

/// One place where an API server listens.
#[async_trait]
pub trait ApiServer: Send + Sync + std::fmt::Debug {
    /// Its name, for people: the node's.
    fn name(&self) -> &str;

    /// Opens a connection on which TLS is to be begun.
    async fn connect(&self) -> Result<Stream>;
}

/// An API server on a port of one of the tenant's nodes.
#[derive(Debug, Clone)]
pub struct OnNode<P> {
    /// Whose node.
    pub provider: P,
    /// The tenant.
    pub tenant: TenantId,
    /// The node.
    pub node: NodeName,
    /// The port.
    pub port: u16,
}

#[async_trait]
impl<P: Provider> ApiServer for OnNode<P> {
    fn name(&self) -> &str {
        self.node.as_str()
    }

    async fn connect(&self) -> Result<Stream> {
        let target = Target::Port(self.port);
        self.provider.open(&self.tenant, &self.node, target).await
    }
}
