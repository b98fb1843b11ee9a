//! Access to a tenant's API server: its addresses, its certificate authority, and a client credential.
//!
//! The tenancy creates the credential, for one identity at a time, because only it knows how. VMs have their cluster's
//! certificate authority and sign a certificate. A namespace on a host's cluster has no authority to hand over: there, the
//! platform authenticates as itself and impersonates the tenant's user.

use std::sync::Arc;

use async_trait::async_trait;
use faultline_domain::{NodeName, TenantId};
use jiff::Timestamp;

use crate::{Provider, Result, Stream, Target};

/// A user as an API server sees them, for a limited time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user name in the cluster.
    pub user: String,
    /// The user's groups in the cluster.
    pub groups: Vec<String>,
    /// The start of validity. The tenant's clock may lag, so credentials are valid from slightly earlier.
    pub from: Timestamp,
    /// The end of validity.
    pub until: Timestamp,
}

/// A client certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, in PEM.
    pub certificate: String,
    /// Its private key, in PEM.
    pub key: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

/// The platform's own credential on a host's cluster.
#[derive(Clone, PartialEq, Eq)]
pub enum PlatformCredential {
    /// A client certificate, presented with every connection.
    Certificate(ClientCertificate),
    /// A bearer token, sent with every request. It is valid for at least ten minutes.
    Token(String),
}

impl std::fmt::Debug for PlatformCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlatformCredential").finish_non_exhaustive()
    }
}

/// How to authenticate to a tenant's API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A client certificate in the identity's name.
    Certificate(ClientCertificate),
    /// The platform's own credential, with which every request impersonates another user.
    ///
    /// It gives access to the whole host's cluster, so it must not reach a person. Whoever forwards a person's requests
    /// adds the headers that impersonate, and refuses requests that have such headers already.
    Impersonation {
        /// The platform's own credential.
        platform: PlatformCredential,
        /// The user to impersonate.
        user: String,
        /// The groups of this user.
        groups: Vec<String>,
    },
}

/// What is needed to connect to a tenant's API server as one identity.
#[derive(Debug, Clone)]
pub struct ApiAccess {
    /// The API servers, one for each control plane. Any of them can be used.
    pub servers: Vec<Arc<dyn ApiServer>>,
    /// The name to expect in the server's certificate.
    pub server_name: String,
    /// The cluster's CA certificates, in PEM.
    pub authority: String,
    /// The credential to authenticate with.
    pub credential: Credential,
    /// The namespace that the tenant consists of. `None` if it has a cluster of its own.
    pub namespace: Option<String>,
}

/// One endpoint of an API server.
#[async_trait]
pub trait ApiServer: Send + Sync + std::fmt::Debug {
    /// Returns its name, for people: the node's name.
    fn name(&self) -> &str;

    /// Opens a connection, on which the caller starts TLS.
    async fn connect(&self) -> Result<Stream>;
}

/// An API server on a port of one of the tenant's nodes.
#[derive(Debug, Clone)]
pub struct OnNode<P> {
    /// The provider of the tenant.
    pub provider: P,
    /// The tenant.
    pub tenant: TenantId,
    /// The node.
    pub node: NodeName,
    /// The TCP port.
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
