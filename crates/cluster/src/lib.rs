//! Access to the cluster that runs on an environment's nodes.
//!
//! | module | holds |
//! |---|---|
//! | [`credentials`] | client certificates, signed with the tenant's cluster CA |
//! | [`client`] | a Kubernetes client over the provider's streams |
//! | [`exposed`] | the ports that a cluster's services and Ingresses expose |
//! | [`kubeconfig`] | kubeconfigs for people |
//!
//! Nothing here relies on the guest: what a student does on a node doesn't change what the platform sees, unless they
//! replace the API server or its keys.
//!
//! ```no_run
//! # async fn example(provider: &dyn faultline_provider::Provider, env: faultline_domain::TenantId) -> Result<(), Box<dyn std::error::Error>> {
//! let now = faultline_domain::Clock::system().now();
//! let access = provider.api(&env, &faultline_cluster::client::platform(now)).await?;
//! let client = faultline_cluster::client::connect(&access).await?;
//! println!("{}", client.apiserver_version().await?.git_version);
//! # Ok(()) }
//! ```

pub mod client;
pub mod credentials;
pub mod exposed;
pub mod kubeconfig;

pub use k8s_openapi;
pub use kube;
