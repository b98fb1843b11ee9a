//! Namespaces of a real host cluster as tenants: the conformance suite, what people do with `kubectl` through the gateway,
//! what they must not be able to do, and that nothing is left.
//!
//! It is a single test that reads as a script, since starting the cluster takes most of the time. Needs root, and a build
//! by `scripts/build dev` (`./test` does that). With `FAULTLINE_HOST_CLUSTER` set to the folder of a host cluster that
//! runs, it uses that one and leaves it running.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test: a broken expectation ends it"
)]

mod attacks;
mod bed;
mod flood;

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use faultline_domain::{Shape, TemplateRef, TenantId};
use faultline_provider::{Observed, Provider, Readiness, conformance};
use faultline_tenancy_kubernetes::{Namespaces, namespace::IMAGE};

use crate::bed::{Bed, Cluster, Kubectl, pod, provider};

/// Prints a step and the seconds since the first one.
fn step(text: &str) {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let began = FIRST.get_or_init(Instant::now);
    println!("  {:>3} s: {text}", began.elapsed().as_secs());
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_a_host_cluster() {
    if !rustix::process::geteuid().is_root() {
        println!("left out: only root can start a host cluster");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    step("a host cluster");
    let cluster = Cluster::start(scratch.path());
    let bed = Bed::new(&cluster, scratch.path()).await;

    step("conformance");
    let template = TemplateRef::plain(IMAGE, Shape::SINGLE);
    let ready = bed.provider.readiness(&template).await;
    assert!(matches!(ready, Readiness::Ready { .. }), "{ready:?}");
    conformance::run(&bed.provider, IMAGE).await;

    step("two tenants, and what a person does with kubectl");
    let (ann_id, ann) = bed.tenant("ann").await;
    let (bob_id, bob) = bed.tenant("bob").await;
    std::thread::scope(|scope| {
        for kubectl in [&ann, &bob] {
            scope.spawn(|| works(kubectl));
        }
    });

    step("what a person may not do");
    attacks::no_ways_out(&bed, &ann);
    attacks::no_rights_elsewhere(&ann, &bob);
    attacks::no_other_identities(&bed, &ann, &ann_id).await;

    step("what a pod can't reach");
    attacks::isolated(&bed, &ann, &bob);

    step("a flood of one tenant");
    flood::delays_nobody_else(&bed, &bob, &ann_id, &bob_id).await;

    step("the API server restarts");
    bed.survives_a_restart(&cluster, &[&ann_id, &bob_id]).await;

    step("another server finds the tenants, with their usage");
    let next = provider(&bed.platform).await;
    for id in [&ann_id, &bob_id] {
        assert_eq!(observed(&next, id).await, Some(Observed::Running));
    }
    is_measured(&next, &ann_id).await;

    step("stuck finalizers and pods that don't end are removed");
    let removed = next.destroy(&ann_id);
    let (removed, ()) = tokio::join!(removed, stuck(&bed, &bob, &bob_id));
    removed.unwrap();

    step("nothing is left");
    assert!(next.list().await.unwrap().is_empty());
    let tenants = [
        "get",
        "namespaces",
        "-l",
        "faultline.dev/tenant",
        "-o",
        "name",
    ];
    assert_eq!(bed.admin.run(&tenants), "");
}

async fn observed(provider: &Namespaces, id: &TenantId) -> Option<Observed> {
    let all = provider.list().await.unwrap();
    all.into_iter().find(|(i, _)| i == id).map(|(_, o)| o)
}

/// A Deployment, a Service, names, exec, debug, roles: in one's own namespace, as usual.
fn works(kubectl: &Kubectl) {
    let run = |command: &str| {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        kubectl.run(&arguments)
    };
    run("create deployment web --image=nginx:1.22 --replicas=2");
    run("expose deployment web --port=80");
    let on_node1 = "nodeSelector: {kubernetes.io/hostname: node1}";
    kubectl.applied(&pod("client", on_node1));
    run("rollout status deployment web --timeout=90s");
    kubectl.wait_ready("client");
    let request = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 web 80";
    let page = kubectl.exec("client", request);
    assert!(page.contains("It works"), "{page}");
    let host = format!("web.{}.svc.cluster.local", kubectl.namespace());
    let found = kubectl.exec("client", &format!("nslookup {host}"));
    assert!(found.contains(&format!("Name:\t{host}")), "{found}");
    run("scale deployment web --replicas=1");
    run("debug client --profile=baseline --image=busybox:1.35 -- sleep 100000");
    run("create secret generic own --from-literal=a=b");
    run("create serviceaccount reader");
    run("create role reader --verb=get --resource=pods");
    let reader = format!("{}:reader", kubectl.namespace());
    run(&format!(
        "create rolebinding reader --role=reader --serviceaccount={reader}"
    ));
    assert_eq!(run("auth can-i create pods").trim(), "yes");
}

/// The metrics API knows a pod only after a while.
async fn is_measured(provider: &Namespaces, id: &TenantId) {
    let began = Instant::now();
    loop {
        let usage = provider.usage(id).await.unwrap();
        if usage.private_bytes > 0 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{usage:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What the tenant itself can't do, others might: objects with finalizers that nobody removes. Besides, an API service of the
/// host's doesn't respond, so the cluster can't tell whether a namespace is empty.
async fn stuck(bed: &Bed, bob: &Kubectl, id: &TenantId) {
    bob.applied(
        "{apiVersion: v1, kind: Pod, metadata: {name: stubborn}, spec: {terminationGracePeriodSeconds: 120, containers: \
         [{name: main, image: 'busybox:1.35', command: [sh, -c, 'trap : TERM; while :; do sleep 1; done']}]}}",
    );
    bob.wait_ready("stubborn");
    let finalizer = r#"{"metadata": {"finalizers": ["example.com/never"]}}"#;
    let host = bed.admin.of(bob.namespace());
    for what in ["secret/own", "deployment/web", "service/web", "pod/client"] {
        host.run(&["patch", what, "-p", finalizer]);
    }
    host.applied(
        "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.gone.example}, spec: {group: \
         gone.example, version: v1, groupPriorityMinimum: 1, versionPriority: 1, service: {name: gone, namespace: \
         default}}}",
    );
    let began = Instant::now();
    bed.provider.destroy(id).await.unwrap();
    host.run(&["delete", "apiservice", "v1.gone.example"]);
    let took = began.elapsed();
    println!("    gone after {:.1} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(observed(&bed.provider, id).await, None);
}
