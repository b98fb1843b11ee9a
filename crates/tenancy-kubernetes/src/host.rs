//! The host's cluster: how the platform reaches it, and as whom.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use faultline_provider::{
    ApiAccess, Error as ProviderError, Result as ProviderResult, Stream,
    api::{ApiServer, ClientCertificate, Credential, PlatformCredential},
};
use kube::{
    Client, Config,
    config::{AuthInfo, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;

/// The time limit of the platform's own requests, in which the API server may restart.
const RESPONSE: Duration = Duration::from_secs(20);

/// Why a host's cluster can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig can't be read.
    #[error("the kubeconfig {} can't be used", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// There is no service account.
    #[error("this program doesn't run in a pod with a service account")]
    InCluster(#[from] InClusterError),
    /// The cluster's address can't be used.
    #[error("the address of the host's cluster can't be used: {0}")]
    Address(String),
    /// The credential can't be used.
    #[error("the credential for the host's cluster can't be used: {0}")]
    Credential(String),
    /// The client can't be made of them.
    #[error("no client for the host's cluster can be made")]
    Client(#[from] Box<kube::Error>),
}

/// The user and groups that a request is made as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

/// A host's cluster. Cloning shares its connections.
#[derive(Clone)]
pub struct Host {
    client: Client,
    address: Address,
    server_name: String,
    /// The cluster's CA certificates, in PEM.
    authority: String,
    credential: Arc<HostCredential>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Where the platform's credential is.
enum HostCredential {
    Certificate(ClientCertificate),
    Token(String),
    /// A token that is renewed while the program runs.
    TokenFile(PathBuf),
}

impl Host {
    /// Returns the cluster of a kubeconfig's current context. Its user has a client certificate, a token or a file with
    /// a token; programs that return tokens are not supported.
    pub async fn of_kubeconfig(path: &Path) -> Result<Self, Error> {
        let unusable = |e| Error::Kubeconfig {
            path: path.to_owned(),
            source: Box::new(e),
        };
        let read = Kubeconfig::read_from(path).map_err(unusable)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        Self::new(config.map_err(unusable)?)
    }

    /// Returns the cluster that this program runs in, as the service account of its pod.
    pub fn in_cluster() -> Result<Self, Error> {
        Self::new(Config::incluster()?)
    }

    fn new(mut config: Config) -> Result<Self, Error> {
        let address = Address::of(&config)?;
        let server_name = config.tls_server_name.clone();
        let server_name = server_name.unwrap_or_else(|| address.host.clone());
        let authority = config.root_cert.as_deref().ok_or_else(|| {
            Error::Address("it has no certificate-authority; add the cluster's CA".to_owned())
        })?;
        let authority = authority.iter().map(|der| pem(der)).collect();
        let credential = Arc::new(credential(&config.auth_info)?);
        config.read_timeout = Some(RESPONSE);
        config.connect_timeout = Some(RESPONSE);
        let client = Client::try_from(config).map_err(Box::new)?;
        Ok(Self {
            client,
            address,
            server_name,
            authority,
            credential,
        })
    }

    /// Returns a client as the platform.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Returns access as another user, in one namespace.
    pub(crate) fn access(&self, user: User, namespace: String) -> ProviderResult<ApiAccess> {
        let platform = match &*self.credential {
            HostCredential::Certificate(certificate) => {
                PlatformCredential::Certificate(certificate.clone())
            }
            HostCredential::Token(token) => PlatformCredential::Token(token.clone()),
            HostCredential::TokenFile(path) => {
                let token = std::fs::read_to_string(path).map_err(|e| {
                    ProviderError::failed(
                        "credential",
                        format!("the token in {} can't be read: {e}", path.display()),
                    )
                })?;
                PlatformCredential::Token(token.trim().to_owned())
            }
        };
        Ok(ApiAccess {
            servers: vec![Arc::new(self.address.clone())],
            server_name: self.server_name.clone(),
            authority: self.authority.clone(),
            credential: Credential::Impersonation {
                platform,
                user: user.name,
                groups: user.groups,
            },
            namespace: Some(namespace),
        })
    }
}

/// Reads the credential of a kubeconfig's user.
fn credential(user: &AuthInfo) -> Result<HostCredential, Error> {
    let unusable = |e: &dyn std::fmt::Display| Error::Credential(e.to_string());
    let read = |data: Option<&str>, file: Option<&str>| {
        let bytes = match (data, file) {
            (Some(data), _) => STANDARD.decode(data).map_err(|e| unusable(&e))?,
            (None, Some(path)) => std::fs::read(path).map_err(|e| unusable(&e))?,
            (None, None) => return Ok(None),
        };
        String::from_utf8(bytes).map(Some).map_err(|e| unusable(&e))
    };
    let certificate = read(
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
    )?;
    let key = user
        .client_key_data
        .as_ref()
        .map(ExposeSecret::expose_secret);
    let key = read(key, user.client_key.as_deref())?;
    if let (Some(certificate), Some(key)) = (certificate, key) {
        return Ok(HostCredential::Certificate(ClientCertificate {
            certificate,
            key,
        }));
    }
    if let Some(path) = &user.token_file {
        return Ok(HostCredential::TokenFile(path.into()));
    }
    let token = user.token.as_ref().map(ExposeSecret::expose_secret);
    token
        .map(|token| HostCredential::Token(token.to_owned()))
        .ok_or_else(|| {
            Error::Credential(
                "its user has neither a client certificate nor a token; use the kubeconfig of a service account"
                    .to_owned(),
            )
        })
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// The address of the API server.
#[derive(Debug, Clone)]
struct Address {
    host: String,
    port: u16,
    /// Both, for people.
    name: String,
}

impl Address {
    fn of(config: &Config) -> Result<Self, Error> {
        let url = &config.cluster_url;
        let host = url.host().filter(|_| url.scheme_str() == Some("https"));
        let host = host.ok_or_else(|| Error::Address(format!("{url} is not an https URL")))?;
        if config.proxy_url.is_some() {
            return Err(Error::Address("it is behind a proxy-url".to_owned()));
        }
        let port = url.port_u16().unwrap_or(443);
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            name: format!("{host}:{port}"),
        })
    }
}

#[async_trait]
impl ApiServer for Address {
    fn name(&self) -> &str {
        &self.name
    }

    async fn connect(&self) -> ProviderResult<Stream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|e| ProviderError::Unreachable(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        Ok(Box::new(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn host(user: &str) -> Result<Host, Error> {
        let authority =
            STANDARD.encode("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://[::1]:6443', certificate-authority-data: {authority}}}}}]\n\
             users: [{{name: u, user: {user}}}]\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Host::of_kubeconfig(file.path()).await
    }

    #[tokio::test]
    async fn programs_and_nothing_are_not_credentials() {
        for user in ["{}", "{exec: {command: get-token, apiVersion: v1}}"] {
            let refused = host(user).await;
            assert!(matches!(refused, Err(Error::Credential(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_token_file_is_read_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let user = AuthInfo {
            token_file: Some(file.path().display().to_string()),
            ..AuthInfo::default()
        };
        let credential = credential(&user).unwrap();
        assert!(matches!(credential, HostCredential::TokenFile(path) if path == file.path()));
    }
}
