//! Authorization for the SSH gateway, from the store.

use async_trait::async_trait;
use faultline_domain::{EnvironmentId, NodeName};
use faultline_gateway::{Access, Admission, Directory, Login, PublicKey};

use crate::{
    app::Shared,
    entrance::{Shut, shut},
};

/// The SSH gateway's directory, backed by the store.
#[derive(Debug)]
pub struct StoreDirectory(Shared);

impl StoreDirectory {
    pub(crate) const fn new(app: Shared) -> Self {
        Self(app)
    }
}

#[async_trait]
impl Directory for StoreDirectory {
    async fn authorize(&self, login: &Login, key: &PublicKey) -> Option<Admission> {
        let store = &self.0.store;
        let found = async {
            let holder = store
                .key_holder_of(&login.environment, key.as_openssh())
                .await?;
            Ok::<_, faultline_store::Error>((holder, store.environment(&login.environment).await?))
        };
        let (holder, environment) = match found.await {
            Ok(found) => found,
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
                return None;
            }
        };
        let (holder, environment) = (holder?, environment?);
        if environment.person != holder {
            return None;
        }
        if let Some(Shut::Over(why) | Shut::NotNow(why)) = shut(&self.0, &environment) {
            return Some(Admission::Closed(why));
        }
        let nodes = environment.nodes();
        let node = match &login.node {
            Some(node) => nodes.iter().find(|n| *n == node),
            None => nodes.first(),
        };
        let Some(node) = node else {
            let there: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
            return Some(Admission::Closed(format!(
                "environment {} has no node with that name; its nodes are {}",
                environment.id,
                there.join(", ")
            )));
        };
        Some(Admission::Enter(Access {
            node: node.clone(),
            tenant: environment.tenant_id()?.clone(),
            environment: environment.id,
        }))
    }

    async fn used(&self, environment: &EnvironmentId) {
        self.0.touch(environment).await;
    }
}
