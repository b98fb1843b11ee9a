//! A flood of requests by one tenant, past the gateway and its limits.

use std::time::{Duration, Instant};

use faultline_cluster::{client, k8s_openapi::api::core::v1::Pod, kube};
use faultline_domain::TenantId;
use faultline_provider::Provider;
use kube::{Api, api::ListParams};

use crate::bed::{Bed, Kubectl, person};

/// The requests that one tenant has open at the same time: several times what its priority level serves at once.
const AT_ONCE: usize = 200;
/// The requests of the other tenant.
const MEASURED: usize = 40;
/// The time that none of the other tenant's requests may exceed, also on a busy machine.
const AT_MOST: Duration = Duration::from_secs(5);

/// Tenants have a queue each, and another tenant's flood stops nobody's requests.
pub(crate) async fn delays_nobody_else(
    bed: &Bed,
    kubectl: &Kubectl,
    ann: &TenantId,
    bob: &TenantId,
) {
    let schema = bed
        .admin
        .get("flowschema/faultline-tenants", ".metadata.uid");
    let said = kubectl.try_run(&["get", "pods", "-v=8"]).stderr;
    let said = String::from_utf8_lossy(&said).to_lowercase();
    assert!(
        said.contains(&format!("x-kubernetes-pf-flowschema-uid: {schema}")),
        "{said}"
    );

    let quiet = measure(&pods(bed, bob).await).await;
    let flood = pods(bed, ann).await;
    let mut flooding = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let flood = flood.clone();
        flooding.spawn(async move {
            loop {
                // Refusals are expected once the queue is full.
                let _ = flood.list(&ListParams::default()).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let busy = measure(&pods(bed, bob).await).await;
    flooding.shutdown().await;
    println!("    median and maximum: alone {quiet:.0?} ms, beside a flood {busy:.0?} ms");
    assert!(busy.1 < AT_MOST.as_secs_f64() * 1000.0, "{busy:?}");
}

/// Returns the pods of a tenant, on a connection to the API server as its user.
async fn pods(bed: &Bed, id: &TenantId) -> Api<Pod> {
    let access = bed.provider.api(id, &person("somebody")).await.unwrap();
    let client = client::connect(&access).await.unwrap();
    Api::default_namespaced(client)
}

/// Returns the median and the maximum of the times that requests take, in milliseconds.
async fn measure(pods: &Api<Pod>) -> (f64, f64) {
    let mut times = Vec::with_capacity(MEASURED);
    for _ in 0..MEASURED {
        let began = Instant::now();
        pods.list(&ListParams::default()).await.unwrap();
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    (times[MEASURED / 2], times[MEASURED - 1])
}
