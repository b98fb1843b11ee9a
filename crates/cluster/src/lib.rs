//! Reaching the cluster that runs on an environment's nodes.
//!
//! | module | holds |
//! |---|---|
//! | [`credentials`] | client certificates, made from the keys that the platform took when the clone was made |
//! | [`client`] | a Kubernetes client over the provider's streams |
//! | [`kubeconfig`] | what a person's `kubectl` is given |
//!
//! Nothing here asks the guest: what a student does on a node, short of replacing the API server or its keys, does
//! not change what the platform sees.
//!
//! ```no_run
//! # async fn example(provider: &dyn faultline_provider::Provider, env: faultline_domain::TenantId) -> Result<(), Box<dyn std::error::Error>> {
//! let keys = provider.cluster(&env).await?;
//! let now = faultline_domain::Clock::system().now();
//! let admin = faultline_cluster::credentials::platform(&keys, now)?;
//! let client = faultline_cluster::client::connect(provider, &env, &keys, &admin).await?;
//! println!("{}", client.apiserver_version().await?.git_version);
//! # Ok(()) }
//! ```

pub mod client;
pub mod credentials;
pub mod kubeconfig;

pub use k8s_openapi;
pub use kube;
