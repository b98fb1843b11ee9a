//! Checks that nothing is lost, doubled or left behind.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use faultline_domain::{
    EnvironmentId, TenantId,
    environment::{EndReason, Environment, State},
    tenant::State as TenantState,
};
use faultline_provider::{Provider, fake::FakeProvider};
use faultline_store::{Store, pools::StartTimes};

use super::figures::unserved;

/// Checks what must hold whenever nothing is in progress. `known` are the environments that people know of, if all of
/// them got a response.
pub(super) async fn check(
    store: &Store,
    provider: &FakeProvider,
    known: Option<&BTreeSet<EnvironmentId>>,
) -> anyhow::Result<()> {
    let tenants = store.unfinished_tenants().await?;
    let environments = store.unfinished_environments().await?;
    let listed: BTreeSet<TenantId> = provider
        .list()
        .await?
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    let rows: BTreeSet<TenantId> = tenants.iter().map(|t| t.id.clone()).collect();
    let leaked: Vec<_> = listed.difference(&rows).collect();
    ensure!(leaked.is_empty(), "no row wants these tenants: {leaked:?}");
    let mut holders: BTreeMap<&TenantId, &EnvironmentId> = BTreeMap::new();
    for e in &environments {
        let Some(tenant) = e.tenant_id() else {
            continue;
        };
        if let Some(other) = holders.insert(tenant, &e.id) {
            anyhow::bail!("{other} and {} have the same tenant {tenant}", e.id);
        }
    }
    for tenant in &tenants {
        let holder = holders.get(&tenant.id).copied();
        match &tenant.state {
            TenantState::Claimed { .. } => {
                let of = tenant.environment.as_ref();
                ensure!(holder == of && of.is_some(), "nobody has it: {tenant:?}");
            }
            TenantState::Warm { .. } => {
                ensure!(listed.contains(&tenant.id), "it is lost: {tenant:?}")
            }
            _ => {}
        }
    }
    check_environments(store, &environments, known).await
}

async fn check_environments(
    store: &Store,
    unfinished: &[Environment],
    known: Option<&BTreeSet<EnvironmentId>>,
) -> anyhow::Result<()> {
    let mut open = BTreeSet::new();
    for e in unfinished.iter().filter(|e| e.is_open()) {
        let is_new = open.insert((e.person.clone(), e.lab.clone()));
        ensure!(is_new, "{} has two environments of {}", e.person, e.lab);
        let is_known = known.is_none_or(|known| known.contains(&e.id));
        ensure!(is_known, "nobody asked for {e:?}");
    }
    let Some(known) = known else {
        return Ok(());
    };
    let all = store.latest_environments(u32::MAX).await?;
    let all: BTreeSet<EnvironmentId> = all.into_iter().map(|e| e.id).collect();
    let lost: Vec<_> = known.difference(&all).collect();
    ensure!(lost.is_empty(), "these environments are lost: {lost:?}");
    Ok(())
}

/// Checks that nothing is left when everything has ended, and that everyone who queued was served or left. `patient` are
/// the environments whose people kept looking.
pub(super) async fn check_end(
    store: &Store,
    provider: &FakeProvider,
    times: &[StartTimes],
    patient: &BTreeSet<EnvironmentId>,
) -> anyhow::Result<()> {
    let left = provider.list().await?;
    ensure!(left.is_empty(), "these tenants are left: {left:?}");
    let left = provider.saves().await?;
    ensure!(left.is_empty(), "these save points are left: {left:?}");
    let left = store.unfinished_tenants().await?;
    ensure!(left.is_empty(), "these rows of tenants are left: {left:?}");
    for id in unserved(times) {
        let e = store
            .environment(id)
            .await?
            .context("an environment is lost")?;
        ensure!(e.state.is_final(), "it waits for ever: {e:?}");
        let left = matches!(
            e.state,
            State::Gone {
                reason: EndReason::LeftQueue,
                ..
            }
        );
        ensure!(!left || !patient.contains(id), "it lost its place: {e:?}");
    }
    for e in store.latest_environments(u32::MAX).await? {
        match &e.state {
            State::Gone { .. } => {}
            State::Failed {
                stage,
                reason,
                freed: true,
                ..
            } => {
                ensure!(!stage.is_empty() && !reason.is_empty(), "no reason: {e:?}");
            }
            _ => anyhow::bail!("it did not end: {e:?}"),
        }
    }
    Ok(())
}
