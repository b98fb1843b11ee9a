//! Evaluates a lab's checks.
//!
//! The checks run in the lab's order, each with its own timeout. Scripts and files go over the guest link, with the
//! image's own tools; TCP, HTTP and DNS come from outside the guest, over the provider's streams. Output of a guest is
//! bounded and cleaned before anybody sees it.

mod can_i;
pub(crate) mod cluster;
mod dns;
mod file;
mod from_pod;
mod http;
pub(crate) mod object;
mod script;
mod tcp;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use faultline_domain::{
    NodeName, TenantId,
    check::{CheckResult, Outcome},
    lab::{Check, Lab, Test},
};
use faultline_guest::client;
use faultline_provider::{Provider, Stream, Target};

use crate::{LabFolder, text};

/// The result of a check that could be evaluated.
pub(crate) struct Finding {
    pub holds: bool,
    pub seen: String,
}

impl Finding {
    fn new(holds: bool, seen: impl Into<String>) -> Self {
        Self {
            holds,
            seen: seen.into(),
        }
    }
}

/// The reason why a check could not be evaluated, for the student.
pub(crate) struct Unknown(pub String);

/// Formats an error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text::clean(text.as_bytes(), 500)
}

/// The maximum length of the evidence, in characters.
pub(crate) const MAX_SEEN: usize = 2000;
/// The timeout for a guest's first answer, after which its checks are not evaluated.
const PING: Duration = Duration::from_secs(15);

/// Returns the maximum time of a run of a lab's checks, if each of them takes as long as it may. A caller's timeout
/// must not be shorter.
#[must_use]
pub fn longest(lab: &Lab) -> Duration {
    /// The allowance for guests' first answers and for the connection to the API server.
    const MARGIN: Duration = Duration::from_secs(60);
    let limits = lab.checks.iter().map(|check| {
        let limit = Duration::from_secs(check.timeout_seconds.into());
        if check.test.needs_cluster() {
            cluster::longest(&check.test, limit)
        } else {
            PING + limit
        }
    });
    MARGIN + limits.sum::<Duration>()
}

/// Evaluates every check of a lab, and reports each result as it comes. The lab's variables must be filled in.
pub async fn check(
    provider: &dyn Provider,
    env: &TenantId,
    folder: &LabFolder,
    mut on_result: impl FnMut(CheckResult) + Send,
) -> Outcome {
    let mut links = Links::default();
    let mut connection = cluster::Connection::default();
    let mut outcome = Outcome::default();
    for check in &folder.lab.checks {
        let began = Instant::now();
        let limit = Duration::from_secs(check.timeout_seconds.into());
        let found = match &check.test {
            Test::Script(_) | Test::File(_) => {
                match links.alive(provider, env, &check.node).await {
                    Ok(()) => evaluate(provider, env, folder, check, limit).await,
                    Err(dead) => Err(dead),
                }
            }
            test if test.needs_cluster() => connection.evaluate(provider, env, test, limit).await,
            _ => evaluate(provider, env, folder, check, limit).await,
        };
        let result = result(check, found, began.elapsed());
        on_result(result.clone());
        outcome.results.push(result);
    }
    outcome
}

fn result(check: &Check, found: Result<Finding, Unknown>, took: Duration) -> CheckResult {
    let evaluated = found.is_ok();
    let (passed, message, seen) = match found {
        Ok(Finding { holds: true, seen }) => (true, String::new(), seen),
        Ok(Finding { holds: false, seen }) => {
            let seen = check.seen.clone().unwrap_or(seen);
            (false, check.fail.clone(), seen)
        }
        Err(Unknown(why)) => (
            false,
            format!("This check could not be carried out: {why}"),
            String::new(),
        ),
    };
    CheckResult {
        name: check.name.clone(),
        title: check.title.clone(),
        passed,
        message,
        seen: text::clean(seen.as_bytes(), MAX_SEEN),
        hint: check.hint.filter(|_| !passed),
        millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        evaluated,
    }
}

async fn evaluate(
    provider: &dyn Provider,
    env: &TenantId,
    folder: &LabFolder,
    check: &Check,
    limit: Duration,
) -> Result<Finding, Unknown> {
    let node = &check.node;
    let late = || format!("no answer within {} s", limit.as_secs());
    match &check.test {
        // A script's timeout is enforced in the guest, which reports it.
        Test::Script(name) => script::evaluate(provider, env, folder, node, name, limit).await,
        Test::File(test) => tokio::time::timeout(limit, file::evaluate(provider, env, node, test))
            .await
            .unwrap_or_else(|_| Err(Unknown(late()))),
        Test::Tcp(test) => tokio::time::timeout(limit, tcp::evaluate(provider, env, node, test))
            .await
            .unwrap_or_else(|_| Ok(Finding::new(!test.open, late()))),
        Test::Http(test) => tokio::time::timeout(limit, http::evaluate(provider, env, node, test))
            .await
            .unwrap_or_else(|_| Ok(Finding::new(false, late()))),
        Test::Dns(test) => tokio::time::timeout(limit, dns::evaluate(provider, env, node, test))
            .await
            .unwrap_or_else(|_| Ok(Finding::new(false, late()))),
        Test::Object(_) | Test::FromPod(_) | Test::CanI(_) | Test::Cluster(_) => {
            Err(Unknown("it asks the cluster".to_owned()))
        }
    }
}

/// The guests that answered in this round. Each is asked once.
#[derive(Default)]
struct Links(BTreeMap<NodeName, Result<(), String>>);

impl Links {
    async fn alive(
        &mut self,
        provider: &dyn Provider,
        env: &TenantId,
        node: &NodeName,
    ) -> Result<(), Unknown> {
        if let Some(known) = self.0.get(node) {
            return known.clone().map_err(Unknown);
        }
        let ask = async {
            let stream = provider
                .open(env, node, Target::Guest)
                .await
                .map_err(|e| chain(&e))?;
            client::ping(stream).await.map_err(|e| chain(&e))
        };
        let answer = match tokio::time::timeout(PING, ask).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no answer within {} s", PING.as_secs())),
        }
        .map_err(|why| {
            format!(
                "the helper inside {node} does not answer ({why}). If you stopped faultline-guest or filled its memory, start it again; otherwise reset the environment"
            )
        });
        self.0.insert(node.clone(), answer.clone());
        answer.map_err(Unknown)
    }
}

/// Opens a port of the node from outside. A closed port is a finding; anything else that fails is an error.
async fn port(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    port: u16,
) -> Result<Result<Stream, String>, Unknown> {
    match provider.open(env, node, Target::Port(port)).await {
        Ok(stream) => Ok(Ok(stream)),
        Err(faultline_provider::Error::Unreachable(why)) => {
            Ok(Err(text::clean(why.as_bytes(), 300)))
        }
        Err(e) => Err(Unknown(chain(&e))),
    }
}

#[cfg(test)]
mod tests;
