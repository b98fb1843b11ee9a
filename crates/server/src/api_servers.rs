//! Authorization and connections for the kubectl gateway, from the store and the provider.

use async_trait::async_trait;
use faultline_cluster::client;
use faultline_domain::{EnvironmentId, environment::Environment};
use faultline_gateway::kube::{ApiServers, Change, Connection, Grant, Protocol, Refusal};
use faultline_provider::{Error as ProviderError, Identity};
use faultline_store::{Secret, cluster_tokens::ClusterToken};
use jiff::{SignedDuration, Timestamp};

use crate::{
    app::Shared,
    entrance::{Shut, shut},
    reconcile::describe,
};

/// The group of a person if the lab sets no groups: an administrator, as on a cluster of one's own.
const ADMINISTRATORS: &str = "kubeadm:cluster-admins";
/// How long a certificate is valid beyond the environment's hard end. The API server checks it with every request, and
/// connections stay open.
const MARGIN: SignedDuration = SignedDuration::from_hours(1);

/// The kubectl gateway's view of the API servers, backed by the store.
#[derive(Debug)]
pub struct StoreApiServers(Shared);

impl StoreApiServers {
    pub(crate) const fn new(app: Shared) -> Self {
        Self(app)
    }

    async fn environment(&self, id: &EnvironmentId) -> Result<Environment, Refusal> {
        let found = self.0.store.environment(id).await.map_err(undecided)?;
        found.ok_or_else(Refusal::not_found)
    }

    /// Returns why the API server can't be reached now, if so.
    fn closed(&self, e: &Environment) -> Option<Refusal> {
        if !e.spec.is_cluster() {
            let id = &e.id;
            return Some(Refusal::no_cluster(format!(
                "environment {id} has no cluster, only plain machines; use `faultline ssh {id}`"
            )));
        }
        Some(match shut(&self.0, e)? {
            Shut::Over(why) => Refusal::gone(why),
            Shut::NotNow(why) => Refusal::unavailable(why),
        })
    }
}

/// Returns the owner's identity in the cluster: their own name, and the groups that the lab grants.
pub(crate) fn identity(e: &Environment, now: Timestamp) -> Identity {
    let groups = match &*e.spec.groups {
        [] => vec![ADMINISTRATORS.to_owned()],
        granted => granted.to_vec(),
    };
    let end = e.lifetime.hard_end;
    Identity {
        user: format!("person:{}", e.person),
        groups,
        from: now,
        until: end.saturating_add(MARGIN).unwrap_or(end),
    }
}

fn undecided(e: faultline_store::Error) -> Refusal {
    tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
    Refusal::undecided()
}

#[async_trait]
impl ApiServers for StoreApiServers {
    async fn admit(
        &self,
        environment: &EnvironmentId,
        token: &str,
        open: bool,
    ) -> Result<Grant, Refusal> {
        let secret = Secret::presented(token).ok_or_else(Refusal::unauthorized)?;
        let found = self.0.store.cluster_token(&secret).await;
        let found = found.map_err(undecided)?;
        let ClusterToken {
            person,
            environment: opens,
            expires_at,
        } = found.ok_or_else(Refusal::unauthorized)?;
        if !open && expires_at.is_some_and(|at| at <= self.0.now()) {
            return Err(Refusal::expired());
        }
        if opens != *environment {
            return Err(Refusal::not_found());
        }
        let e = self.environment(environment).await?;
        if e.person != person {
            return Err(Refusal::not_found());
        }
        if let Some(refusal) = self.closed(&e) {
            return Err(refusal);
        }
        let tenant = e.tenant_id().ok_or_else(Refusal::undecided)?.clone();
        Ok(Grant {
            environment: e.id,
            tenant,
            person,
        })
    }

    async fn connect(&self, grant: &Grant, protocol: Protocol) -> Result<Connection, Refusal> {
        let app = &self.0;
        let e = self.environment(&grant.environment).await?;
        let unreachable = |why: String| {
            Refusal::unavailable(format!(
                "the API server of environment {} does not respond: {why}",
                grant.environment
            ))
        };
        let access = app
            .provider
            .api(&grant.tenant, &identity(&e, app.now()))
            .await;
        let access = access.map_err(|e| match e {
            ProviderError::NotFound => {
                Refusal::no_cluster("this environment has no cluster")
            }
            ProviderError::Failed { reason, .. } => {
                tracing::error!(environment = %grant.environment, error = reason, "can't issue a client certificate");
                Refusal::unavailable(
                    "the cluster's certificate authority can't sign; reset the environment for a fresh cluster",
                )
            }
            e => unreachable(describe(&e)),
        })?;
        let alpn = match protocol {
            Protocol::Http1 => client::HTTP1,
            Protocol::Http2 => client::HTTP2,
        };
        let headers = client::headers(&access.credential);
        let headers = headers.map_err(|e| unreachable(describe(&e)))?;
        let dialled = client::dial(&access, alpn).await;
        let stream = dialled.map_err(|e| unreachable(describe(&e)))?;
        Ok(Connection {
            stream: Box::new(stream),
            headers,
        })
    }

    async fn used(&self, grant: &Grant) {
        self.0.touch(&grant.environment).await;
    }

    async fn changes(&self, grant: &Grant, change: &Change) {
        let (person, id) = (grant.person.as_str(), grant.environment.as_str());
        let action = format!("kubectl-{}", change.verb);
        let noted = self
            .0
            .store
            .note(self.0.now(), Some(person), &action, id, &change.resource)
            .await;
        if let Err(e) = noted {
            tracing::error!(
                error = &e as &dyn std::error::Error,
                "could not record a change in the audit log"
            );
        }
    }
}
