//! Tenancies on a host's Kubernetes cluster.
//!
//! | module | holds |
//! |---|---|
//! | [`host`] | the host's cluster: how the platform reaches it, and as whom |
//! | [`namespace`] | the provider whose tenants are namespaces |
//! | `manifest` | objects from YAML with variables, and applying them |

pub mod host;
mod manifest;
pub mod namespace;

pub use self::{host::Host, namespace::Namespaces};
