//! Who may use what over SSH: the gateway's questions, answered from the store.

use async_trait::async_trait;
use faultline_domain::{EnvironmentId, NodeName, environment::State};
use faultline_gateway::{Access, Directory, Login, PublicKey};

use crate::app::Shared;

/// Answers the gateway from the store.
#[derive(Debug)]
pub struct StoreDirectory(Shared);

impl StoreDirectory {
    pub(crate) const fn new(app: Shared) -> Self {
        Self(app)
    }
}

#[async_trait]
impl Directory for StoreDirectory {
    async fn authorize(&self, login: &Login, key: &PublicKey) -> Option<Access> {
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
        let open = environment.person == holder
            && environment.is_open()
            && matches!(environment.state, State::Active { .. });
        let nodes = environment.nodes();
        let node = match &login.node {
            Some(node) => nodes.iter().find(|n| *n == node),
            None => nodes.first(),
        };
        Some(Access {
            node: node.filter(|_| open)?.clone(),
            environment: environment.id,
        })
    }

    async fn api_server(&self, id: &EnvironmentId) -> Option<Vec<NodeName>> {
        let environment = match self.0.store.environment(id).await {
            Ok(found) => found?,
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
                return None;
            }
        };
        if !environment.is_open() || !matches!(environment.state, State::Active { .. }) {
            return None;
        }
        Some(self.0.provider.cluster(id).await.ok()?.control_planes)
    }

    async fn used(&self, environment: &EnvironmentId) {
        let touched = self
            .0
            .store
            .touch_environment(environment, self.0.now())
            .await;
        if let Err(e) = touched {
            tracing::warn!(error = &e as &dyn std::error::Error, "use was not noted");
        }
    }
}
