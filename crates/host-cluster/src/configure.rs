//! What the members run, and with what settings: pure functions from what was prepared to files and arguments.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    place::{API_PORT, DNS, Member, PODS, SERVICES},
    prepare::Prepared,
    process::{Service, Spec},
};

/// What the machine lacks and programs must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// False if the kernel refuses to lower a process's out-of-memory score (`CAP_SYS_RESOURCE`).
    pub(crate) may_lower_oom_score: bool,
}

impl Machine {
    /// Examines this machine.
    pub(crate) fn examine() -> Self {
        const CAP_SYS_RESOURCE: u32 = 24;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
        let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
        Self {
            may_lower_oom_score: mask.is_none_or(|m| m & (1 << CAP_SYS_RESOURCE) != 0),
        }
    }
}

/// The users of kubeconfigs: file name, user, groups.
pub(crate) const USERS: [(&str, &str, &[&str]); 7] = [
    ("admin", "kubernetes-admin", &["system:masters"]),
    ("controller-manager", "system:kube-controller-manager", &[]),
    ("scheduler", "system:kube-scheduler", &[]),
    ("kube-proxy", "system:kube-proxy", &[]),
    ("network-policies", "faultline:network-policies", &[]),
    ("node1", "system:node:node1", &["system:nodes"]),
    ("node2", "system:node:node2", &["system:nodes"]),
];

/// Returns kubeadm's configuration, which certificates, kubeconfigs and CoreDNS are made with.
pub(crate) fn kubeadm(prepared: &Prepared, keys: &Path, patches: &Path) -> String {
    let address = Member::ControlPlane.address();
    let documents = [
        json!({
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": address, "bindPort": API_PORT},
            // Not read, but without it kubeadm looks for the runtime of this machine.
            "nodeRegistration": {"name": "node1", "criSocket": "unix:///run/containerd/containerd.sock"},
            "patches": {"directory": patches},
        }),
        json!({
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "clusterName": "faultline-host",
            "certificatesDir": keys,
            "encryptionAlgorithm": "ECDSA-P256",
            "kubernetesVersion": prepared.release,
            "controlPlaneEndpoint": format!("{address}:{API_PORT}"),
            "networking": {"podSubnet": PODS, "serviceSubnet": SERVICES, "dnsDomain": "cluster.local"},
            "dns": {"imageTag": prepared.coredns},
            // etcd listens on the loopback of the control plane's namespace, where no pod is.
            "etcd": {"external": {"endpoints": ["http://127.0.0.1:2379"]}},
            "apiServer": {"certSANs": ["127.0.0.1", "localhost", "control-plane"]},
        }),
    ];
    documents.map(|d| format!("---\n{d}\n")).concat()
}

/// Returns what a member consists of.
pub(crate) fn spec(member: Member, prepared: &Prepared) -> Spec {
    let (folder, names): (_, &[&str]) = match member {
        Member::ControlPlane => (
            "/opt/bin",
            &[
                "etcd",
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
            ],
        ),
        Member::Node1 | Member::Node2 => (
            "/opt/bin",
            &[
                "containerd",
                "containerd-shim-runc-v2",
                "ctr",
                "runc",
                "kubelet",
                "kube-proxy",
                "network-policies",
                "kubectl",
            ],
        ),
    };
    let plugins: &[&str] = match member {
        Member::ControlPlane => &[],
        Member::Node1 | Member::Node2 => &["ptp", "host-local", "loopback", "portmap"],
    };
    let pairs = names
        .iter()
        .map(|name| (folder, name))
        .chain(plugins.iter().map(|name| ("/opt/cni/bin", name)));
    Spec {
        name: member.as_str().to_owned(),
        programs: pairs
            .filter_map(|(folder, name)| {
                let file: &PathBuf = prepared.programs.get(*name)?;
                Some((format!("{folder}/{name}"), file.clone()))
            })
            .collect(),
        store: member.pods().map(|_| prepared.store.clone()),
        services: match member {
            Member::ControlPlane => control_plane(),
            Member::Node1 | Member::Node2 => node(member),
        },
    }
}

fn service(name: &str, arguments: &[&str]) -> Service {
    let program = format!("/opt/bin/{name}");
    Service {
        name: name.to_owned(),
        argv: std::iter::once(program)
            .chain(arguments.iter().map(|a| (*a).to_owned()))
            .collect(),
        after: None,
        with: None,
    }
}

fn control_plane() -> Vec<Service> {
    let address = Member::ControlPlane.address();
    let advertise = format!("--advertise-address={address}");
    let port = format!("--secure-port={API_PORT}");
    let services = format!("--service-cluster-ip-range={SERVICES}");
    vec![
        service(
            "etcd",
            &[
                "--data-dir=/var/lib/etcd",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--initial-advertise-peer-urls=http://127.0.0.1:2380",
                "--initial-cluster=default=http://127.0.0.1:2380",
                // The cluster doesn't outlive the machine, so its data needn't either.
                "--unsafe-no-fsync",
            ],
        ),
        service(
            "kube-apiserver",
            &[
                &advertise,
                &port,
                &services,
                "--etcd-servers=http://127.0.0.1:2379",
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                // The control plane has no kube-proxy: it connects to endpoints of webhooks and API services itself.
                "--enable-aggregator-routing=true",
                "--client-ca-file=/etc/kubernetes/pki/ca.crt",
                "--tls-cert-file=/etc/kubernetes/pki/apiserver.crt",
                "--tls-private-key-file=/etc/kubernetes/pki/apiserver.key",
                "--kubelet-client-certificate=/etc/kubernetes/pki/apiserver-kubelet-client.crt",
                "--kubelet-client-key=/etc/kubernetes/pki/apiserver-kubelet-client.key",
                "--kubelet-preferred-address-types=InternalIP",
                "--proxy-client-cert-file=/etc/kubernetes/pki/front-proxy-client.crt",
                "--proxy-client-key-file=/etc/kubernetes/pki/front-proxy-client.key",
                "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
                "--requestheader-allowed-names=front-proxy-client",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-username-headers=X-Remote-User",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                "--service-account-key-file=/etc/kubernetes/pki/sa.pub",
                "--service-account-signing-key-file=/etc/kubernetes/pki/sa.key",
            ],
        ),
        service(
            "kube-controller-manager",
            &[
                "--bind-address=127.0.0.1",
                "--kubeconfig=/etc/kubernetes/controller-manager.conf",
                "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf",
                "--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf",
                "--client-ca-file=/etc/kubernetes/pki/ca.crt",
                "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
                "--root-ca-file=/etc/kubernetes/pki/ca.crt",
                "--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt",
                "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key",
                "--service-account-private-key-file=/etc/kubernetes/pki/sa.key",
                "--use-service-account-credentials=true",
                "--controllers=*,bootstrapsigner,tokencleaner",
                "--leader-elect=false",
                // A test that ends a kubelet shouldn't wait for a minute. See also the kubelet's lease.
                "--node-monitor-period=2s",
                "--node-monitor-grace-period=20s",
            ],
        ),
        service(
            "kube-scheduler",
            &[
                "--bind-address=127.0.0.1",
                "--kubeconfig=/etc/kubernetes/scheduler.conf",
                "--authentication-kubeconfig=/etc/kubernetes/scheduler.conf",
                "--authorization-kubeconfig=/etc/kubernetes/scheduler.conf",
                "--leader-elect=false",
            ],
        ),
    ]
}

fn node(member: Member) -> Vec<Service> {
    let (name, ip) = (
        format!("--hostname-override={member}"),
        format!("--node-ip={}", member.address()),
    );
    let containerd = Some(PathBuf::from("/run/containerd/containerd.sock"));
    vec![
        service("containerd", &["--config=/etc/containerd/config.toml"]),
        Service {
            after: containerd,
            ..service(
                "kubelet",
                &[
                    "--config=/etc/kubernetes/kubelet.yaml",
                    "--kubeconfig=/etc/kubernetes/kubelet.conf",
                    &name,
                    &ip,
                ],
            )
        },
        service(
            "kube-proxy",
            &["--config=/etc/kubernetes/kube-proxy.yaml", &name],
        ),
        Service {
            // It learns pods' addresses from containerd, through NRI, and doesn't connect again.
            after: Some("/run/nri/nri.sock".into()),
            with: Some("containerd".to_owned()),
            ..service(
                "network-policies",
                &[
                    "--kubeconfig=/etc/kubernetes/network-policies.conf",
                    &format!("--node={member}"),
                ],
            )
        },
    ]
}

/// Returns the files of a node, by their path in it.
pub(crate) fn node_files(
    member: Member,
    prepared: &Prepared,
    machine: Machine,
) -> Vec<(&'static str, String)> {
    let proxy = {
        let mut config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": PODS,
            "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.conf"},
            "nftables": {"minSyncPeriod": "500ms"},
            // These are the machine's settings, and can't be changed in another network namespace.
            "conntrack": {"maxPerCore": 0, "min": 0},
        });
        without_score(&mut config, machine);
        config
    };
    vec![
        ("etc/containerd/config.toml", containerd(prepared, machine)),
        (
            "etc/cni/net.d/10-faultline.conflist",
            cni(member).to_string(),
        ),
        ("etc/kubernetes/kubelet.yaml", kubelet(machine).to_string()),
        ("etc/kubernetes/kube-proxy.yaml", proxy.to_string()),
    ]
}

fn without_score(config: &mut Value, machine: Machine) {
    if !machine.may_lower_oom_score
        && let Some(fields) = config.as_object_mut()
    {
        fields.insert("oomScoreAdj".to_owned(), json!(0));
    }
}

fn kubelet(machine: Machine) -> Value {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        // The node's own control group is the root of its namespace.
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "resolvConf": "/etc/resolv.conf",
        // The lease is renewed at a quarter of this; see the controller manager's grace period.
        "nodeLeaseDurationSeconds": 10,
        "nodeStatusUpdateFrequency": "5s",
        // Both nodes see all of the machine's memory and disk. Images can't be pulled again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%",
            "imagefs.available": "1%", "imagefs.inodesFree": "1%",
        },
        "shutdownGracePeriod": "0s",
    });
    without_score(&mut config, machine);
    config
}

fn containerd(prepared: &Prepared, machine: Machine) -> String {
    let restrict = !machine.may_lower_oom_score;
    // An AppArmor profile would stay in the machine's kernel.
    format!(
        "version = 3\n\
         [plugins.'io.containerd.cri.v1.images']\n\
         snapshotter = 'overlayfs'\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
         sandbox = '{}'\n\
         [plugins.'io.containerd.cri.v1.images'.registry]\n\
         config_path = '/etc/containerd/certs.d'\n\
         [plugins.'io.containerd.cri.v1.runtime']\n\
         disable_apparmor = true\n\
         restrict_oom_score_adj = {restrict}\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd]\n\
         default_runtime_name = 'runc'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
         runtime_type = 'io.containerd.runc.v2'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n\
         BinaryName = '/opt/bin/runc'\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\n\
         bin_dirs = ['/opt/cni/bin']\n\
         conf_dir = '/etc/cni/net.d'\n",
        prepared.pause
    )
}

/// Pods are connected to their node by a link each, not by a bridge: what they send to a pod on the same node is routed
/// too, and passes the hooks that network policies are enforced in.
fn cni(member: Member) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "faultline",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": member.pods()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true, "backend": "nftables"},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_can_lower_scores_keeps_the_defaults() {
        let prepared = Prepared::default();
        for (may, expected) in [(true, false), (false, true)] {
            let machine = Machine {
                may_lower_oom_score: may,
            };
            let files = node_files(Member::Node1, &prepared, machine);
            let told = |path: &str, text: &str| {
                files
                    .iter()
                    .any(|(p, content)| *p == path && content.contains(text))
            };
            assert_eq!(told("etc/kubernetes/kubelet.yaml", "oomScoreAdj"), expected);
            assert_eq!(
                told("etc/kubernetes/kube-proxy.yaml", "oomScoreAdj"),
                expected
            );
            let containerd = "etc/containerd/config.toml";
            assert!(told(
                containerd,
                &format!("restrict_oom_score_adj = {expected}")
            ));
        }
    }

    #[test]
    fn every_program_that_runs_is_mounted() {
        let names = [
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "containerd",
            "kubelet",
            "kube-proxy",
            "network-policies",
            "ptp",
        ];
        let prepared = Prepared {
            programs: names.map(|n| (n.to_owned(), PathBuf::from(n))).into(),
            ..Prepared::default()
        };
        for member in Member::ALL {
            let spec = spec(member, &prepared);
            for service in spec.services {
                assert!(spec.programs.contains_key(&service.argv[0]), "{service:?}");
            }
        }
    }
}
