//! What a tenant must not be able to do.

use faultline_cluster::client;
use faultline_domain::{Clock, TenantId};
use faultline_provider::{Error, Provider, api::Credential};
use serde_json::{Value, json};

use crate::bed::{Bed, Kubectl, person, pod};

/// What the article's author met, such as NodePorts and privileged pods, and other ways out of a namespace.
pub(crate) fn no_ways_out(bed: &Bed, ann: &Kubectl) {
    bed.admin.applied(
        "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: of-the-host}, handler: runc}",
    );
    let services = "services of type NodePort, LoadBalancer and ExternalName can't be used";
    let images = "only images from these sources";
    ann.refused(&[
        ("create service nodeport out --tcp=80", services),
        ("create service loadbalancer out --tcp=80", services),
        (
            "create service externalname out --external-name=a.b",
            services,
        ),
        (
            r#"patch service web -p {"spec":{"type":"NodePort"}}"#,
            services,
        ),
        (
            "expose deployment web --name=out --port=80 --external-ip=192.0.2.1",
            "services can't have externalIPs",
        ),
        ("run bad --image=quay.io/a/b:1", images),
        ("run bad --image=evil/nginx", images),
        ("run bad --image=localhost/nginx", images),
        // The node's containerd would connect.
        ("run bad --image=10.0.0.1:10250/library/nginx", images),
        (
            "debug client --profile=baseline --image=quay.io/a/b",
            images,
        ),
        (
            "debug client --profile=sysadmin --image=busybox:1.35",
            "violates PodSecurity",
        ),
        (
            "run bad --image=nginx --annotations=k8s.v1.cni.cncf.io/networks=host",
            "annotations of pods",
        ),
    ]);
    let security = "violates PodSecurity";
    let token = "no token of a service account";
    let pods = [
        ("hostNetwork: true", security),
        ("hostPID: true", security),
        ("volumes: [{name: root, hostPath: {path: /}}]", security),
        (
            "volumes: [{name: out, nfs: {server: 192.0.2.1, path: /}}]",
            "only volumes of type",
        ),
        ("nodeName: node2", "leave out nodeName"),
        ("schedulerName: other", "leave out schedulerName"),
        (
            "tolerations: [{operator: Exists}]",
            "pods can't tolerate taints",
        ),
        (
            "runtimeClassName: of-the-host",
            "can't use this runtime class",
        ),
        (
            "priorityClassName: system-node-critical",
            "can't use this priority class",
        ),
        ("automountServiceAccountToken: true", token),
        ("serviceAccountName: reader", token),
        (
            "volumes: [{name: token, projected: {sources: [{serviceAccountToken: {path: token}}]}}]",
            token,
        ),
        ("terminationGracePeriodSeconds: 86400", "can be at most 120"),
        (
            "resourceClaims: [{name: gpu, resourceClaimName: gpu}]",
            "can't use devices",
        ),
        (&container("securityContext: {privileged: true}"), security),
        (
            &container("securityContext: {capabilities: {add: [SYS_ADMIN]}}"),
            security,
        ),
        (
            &container("ports: [{containerPort: 80, hostPort: 80}]"),
            security,
        ),
        // The node's kubelet would connect.
        (
            &container("livenessProbe: {httpGet: {host: 169.254.169.254, port: 80}}"),
            security,
        ),
        (
            &container("resources: {limits: {example.com/gpu: 1}}"),
            "can't use devices",
        ),
        (
            &container("resources: {limits: {memory: 8Gi}}"),
            "exceeded quota",
        ),
    ];
    let manifests: Vec<_> = pods.map(|(spec, why)| (pod("bad", spec), why)).to_vec();
    let manifests: Vec<_> = manifests
        .iter()
        .map(|(text, why)| (text.as_str(), *why))
        .collect();
    ann.not_applied(&manifests);
    ann.not_applied(&[
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, finalizers: [example.com/never]}}",
            "can't have finalizers",
        ),
        (
            "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: bad, annotations: \
             {kubernetes.io/service-account.name: default}}}",
            "service accounts get no tokens",
        ),
        (
            "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: bad}, spec: {volumeName: of-others, \
             accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}",
            "can't choose an existing volume",
        ),
    ]);
    no_way_by_deletion(ann);
}

/// An object that is being deleted, and that the tenant keeps in this state, is not exempt from the policies.
fn no_way_by_deletion(ann: &Kubectl) {
    ann.run(&["create", "service", "clusterip", "leaving", "--tcp=80"]);
    let uid = ann.get("service/leaving", ".metadata.uid");
    ann.applied(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: holder, ownerReferences: [{{apiVersion: v1, kind: Service, name: \
         leaving, uid: {uid}, blockOwnerDeletion: true}}]}}, spec: {{terminationGracePeriodSeconds: 100, containers: [{{\
         name: main, image: 'busybox:1.35', command: [sh, -c, 'trap : TERM; while :; do sleep 1; done']}}]}}}}"
    ));
    ann.wait_ready("holder");
    ann.run(&[
        "delete",
        "service",
        "leaving",
        "--cascade=foreground",
        "--wait=false",
    ]);
    assert_ne!(
        ann.get("service/leaving", ".metadata.deletionTimestamp"),
        ""
    );
    ann.refused(&[(
        r#"patch service leaving -p {"spec":{"externalIPs":["192.0.2.1"]}}"#,
        "services can't have externalIPs",
    )]);
}

/// Returns a pod's spec with this in a container that runs beside the main one.
fn container(with: &str) -> String {
    format!(
        "initContainers: [{{name: first, image: 'busybox:1.35', restartPolicy: Always, {with}}}]"
    )
}

/// No rights but those in one's own namespace, and no way to get more.
pub(crate) fn no_rights_elsewhere(ann: &Kubectl, bob: &Kubectl) {
    let no = "is forbidden";
    let (own, other) = (ann.namespace(), bob.namespace());
    let cases = [
        format!("get pods,secrets,services -n {other}"),
        format!("run bad --image=nginx:1.22 -n {other}"),
        format!("exec client -n {other} -- id"),
        format!("port-forward pod/client :80 -n {other}"),
        format!("label namespace {own} faultline.dev/tenant-"),
        format!("delete namespace {own}"),
    ];
    let cases: Vec<_> = cases.iter().map(|text| (text.as_str(), no)).collect();
    ann.refused(&cases);
    let ours = "is a part of the environment";
    let held = "not currently held";
    let subjects = "service accounts of this namespace";
    ann.refused(&[
        ("get secrets -n kube-system", no),
        ("get pods,services -n kube-system", no),
        ("run bad --image=nginx:1.22 -n default", no),
        ("get nodes", no),
        ("get namespaces", no),
        ("get persistentvolumes", no),
        ("get clusterroles", no),
        ("get pods -A", no),
        ("get --raw /api/v1/nodes/node1/proxy/pods", "forbidden"),
        (
            "get --raw /api/v1/namespaces/kube-system/services/kube-dns:9153/proxy/metrics",
            "forbidden",
        ),
        ("get --raw /metrics", "forbidden"),
        ("create namespace more", no),
        ("delete resourcequota faultline-limits", no),
        ("delete limitrange faultline-limits", no),
        ("delete networkpolicy faultline-isolation", no),
        ("create ingress bad --rule=a.example/*=web:80", no),
        (
            "create poddisruptionbudget bad --selector=app=web --min-available=1",
            no,
        ),
        ("create token reader", no),
        ("delete rolebinding faultline-tenant", ours),
        ("delete rolebindings --all", ours),
        (
            r#"patch serviceaccount default -p {"automountServiceAccountToken":true}"#,
            ours,
        ),
        ("create role bad --verb=* --resource=*", held),
        (
            "create rolebinding bad --clusterrole=cluster-admin --user=ann",
            held,
        ),
        (
            "create rolebinding bad --role=reader --user=faultline:tenant:bob",
            subjects,
        ),
        (
            "create rolebinding bad --role=reader --group=system:unauthenticated",
            subjects,
        ),
        (
            "create rolebinding bad --role=reader --serviceaccount=default:default",
            subjects,
        ),
    ]);
    ann.not_applied(&[(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: bad}, spec: {podSelector: {}, \
         policyTypes: [Egress], egress: [{}]}}",
        no,
    )]);
}

/// A person is nobody but the tenant's user. Nor is the platform more than that in a tenant.
pub(crate) async fn no_other_identities(bed: &Bed, ann: &Kubectl, id: &TenantId) {
    let who = ann.run(&["auth", "whoami", "-o", "jsonpath={.status.userInfo}"]);
    let who: Value = serde_json::from_str(&who).unwrap();
    assert_eq!(who["username"], "faultline:tenant:ann");
    assert_eq!(
        who["groups"],
        json!(["faultline:tenants", "system:authenticated"])
    );
    ann.refused(&[
        ("get pods --as=faultline:tenant:bob", "leave out --as"),
        (
            "get nodes --as=root --as-group=system:masters",
            "leave out --as",
        ),
    ]);
    let now = Clock::system().now();
    let platform = bed.provider.api(id, &client::platform(now)).await.unwrap();
    let Credential::Impersonation { user, groups, .. } = platform.credential else {
        panic!("a namespace has no credential of its own");
    };
    assert_eq!(user, "faultline:setup:ann");
    assert_eq!(groups, ["faultline:tenants"]);
    let unknown = bed
        .provider
        .api(&"nobody".parse().unwrap(), &person("ann"))
        .await;
    assert!(matches!(unknown, Err(Error::NotFound)), "{unknown:?}");
}

/// Pods reach their own namespace and DNS. Decoys stand for a neighbour and for a metadata service. A pod that is no
/// tenant's shows that everything else could be reached.
pub(crate) fn isolated(bed: &Bed, ann: &Kubectl, bob: &Kubectl) {
    bed.admin.applied(DECOYS);
    let decoy = bed.admin.of("decoy");
    for name in ["control", "metadata", "route"] {
        decoy.wait_ready(name);
    }
    let bobs_service = bob.get("service/web", ".spec.clusterIP");
    let bobs_pod = bob.get("pod/client", ".status.podIP");
    let decoys_pod = decoy.get("pod/control", ".status.podIP");
    let outside = [
        ("169.254.169.254", 80),
        // The kubelets of the pod's own node and of the other one.
        ("172.30.0.11", 10250),
        ("172.30.0.12", 10250),
        // The API server.
        ("172.30.0.1", 6443),
        ("10.96.0.1", 443),
        (decoys_pod.as_str(), 80),
    ];
    let tenants = [(bobs_service.as_str(), 80), (bobs_pod.as_str(), 80)];
    std::thread::scope(|scope| {
        for (host, port) in outside {
            let decoy = &decoy;
            scope.spawn(move || {
                assert!(
                    decoy.reaches("control", host, port),
                    "{host}:{port} can't be reached at all"
                );
                assert!(!ann.reaches("client", host, port), "{host}:{port}");
            });
        }
        for (host, port) in tenants {
            for kubectl in [ann, &decoy] {
                let pod = if std::ptr::eq(kubectl, ann) {
                    "client"
                } else {
                    "control"
                };
                scope
                    .spawn(move || assert!(!kubectl.reaches(pod, host, port), "{host} from {pod}"));
            }
        }
        scope.spawn(|| assert!(ann.reaches("client", "web", 80)));
        scope.spawn(|| assert!(bob.reaches("client", &bobs_service, 80)));
    });
}

const DECOYS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: decoy}
---
apiVersion: v1
kind: Pod
metadata: {name: control, namespace: decoy}
spec:
  nodeSelector: {kubernetes.io/hostname: node1}
  containers:
  - {name: main, image: 'busybox:1.35', command: [sh, -c, 'nc -ll -p 80 -e cat']}
---
# An address of the second node, to which the first has a route.
apiVersion: v1
kind: Pod
metadata: {name: metadata, namespace: decoy}
spec:
  nodeSelector: {kubernetes.io/hostname: node2}
  hostNetwork: true
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, 'ip address replace 169.254.169.254/32 dev lo; nc -ll -p 80 -e cat']
    securityContext: {privileged: true}
---
apiVersion: v1
kind: Pod
metadata: {name: route, namespace: decoy}
spec:
  nodeSelector: {kubernetes.io/hostname: node1}
  hostNetwork: true
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, 'ip route replace 169.254.169.254/32 via 172.30.0.12; sleep 100000']
    securityContext: {privileged: true}
";
