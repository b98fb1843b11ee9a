//! A host cluster on this machine, from `up` to `down`: what works in it, what is enforced, what can't be reached, what is
//! repaired, and that nothing is left.
//!
//! It is a single test that reads as a script, since starting the cluster takes most of the time. Needs root, and a build
//! by `scripts/build dev` (`./test` does that).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test: a broken expectation ends it"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use faultline_domain::progress::{Event, Progress};
use faultline_host_cluster::{
    Member, Name, Options, Place, down, leftovers,
    process::ServiceState,
    status::{Condition, status},
    up,
};
use serde_json::Value;

fn workspace() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    above.canonicalize().unwrap()
}

/// The program that is run as the cluster's processes, built by `scripts/build dev` into the folder above this test's.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("faultline");
    assert!(program.exists(), "run scripts/build dev first");
    program
}

/// What the machine has that a cluster could change.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    namespaces: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    settings: Vec<String>,
    groups: bool,
}

impl Machine {
    fn now() -> Self {
        let names = |folder: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(folder).unwrap().flatten();
            entries
                .map(|e| e.file_name().into_string().unwrap())
                .collect()
        };
        let pids = names("/proc")
            .into_iter()
            .filter(|n| n.parse::<u32>().is_ok());
        // Other programs of the machine may come and go, but not with namespaces of this program's.
        let ours = |pid: &String| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&read("cmdline")).contains("host-cluster-process")
        };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let settings = [
            "vm/overcommit_memory",
            "vm/panic_on_oom",
            "kernel/panic",
            "kernel/panic_on_oops",
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/disable_ipv6",
            "net/netfilter/nf_conntrack_max",
        ];
        Self {
            namespaces: pids
                .filter(ours)
                .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
                .map(|link| link.display().to_string())
                .collect(),
            interfaces: names("/sys/class/net"),
            mounts: mounts.lines().map(str::to_owned).collect(),
            settings: settings
                .iter()
                .map(|s| fs::read_to_string(format!("/proc/sys/{s}")).unwrap_or_default())
                .collect(),
            groups: ["", "/pids", "/memory"]
                .iter()
                .any(|h| Path::new(&format!("/sys/fs/cgroup{h}/faultline-host-clusters")).exists()),
        }
    }
}

/// kubectl, as people run it.
struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--request-timeout=60s", "--namespace=demo"])
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let done = self.command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "kubectl {arguments:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn apply(&self, manifest: &str) {
        let mut command = self.command(&["apply", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(manifest.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Runs a shell command in a pod and returns what it prints, also if it fails.
    fn exec(&self, pod: &str, script: &str) -> String {
        let done = self
            .command(&["exec", pod, "--", "sh", "-c", script])
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        text(done.stdout) + &text(done.stderr)
    }

    /// Asks for the page of a web server, from a pod.
    fn page(&self, pod: &str, host: &str) -> String {
        let request = "printf 'GET / HTTP/1.0\\r\\n\\r\\n'";
        self.exec(pod, &format!("{request} | nc -w 2 {host} 80"))
    }

    fn ready(&self, node: Member) -> String {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        self.run(&["get", "node", node.as_str(), "-o", path])
    }
}

fn step(text: &str) {
    println!("  {text}");
}

fn within(seconds: u64, what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(
            began.elapsed() < Duration::from_secs(seconds),
            "not within {seconds} s: {what}"
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn options(parent: &Path, name: &str) -> Options {
    Options {
        place: Place::new(parent.to_owned(), name.parse::<Name>().unwrap()),
        program: program(),
        recipes: workspace().join("images"),
        kubernetes: "1.36".to_owned(),
        port: None,
    }
}

/// Ends the clusters of a failed test.
struct Clusters(Vec<Place>);

impl Drop for Clusters {
    fn drop(&mut self) {
        for place in &self.0 {
            let _ = down(place);
        }
    }
}

#[test]
fn host_cluster_from_up_to_down() {
    if !rustix::process::geteuid().is_root() {
        println!("left out: only root can make namespaces and control groups");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let before = Machine::now();
    let options = options(&dir.path().join("clusters"), "one");
    let place = &options.place;
    let _clusters = Clusters(vec![place.clone()]);

    step("a start that is killed leaves nothing that down doesn't find");
    killed_starts(&options);
    assert_eq!(Machine::now(), before);

    step("up");
    let began = Instant::now();
    let started = up(&options, &stages()).unwrap();
    println!("    usable after {:.1} s", began.elapsed().as_secs_f64());
    assert!(!started.already);
    assert_eq!(started.status.condition, Condition::Running);
    let kubectl = Kubectl {
        program: prepared_program(place, "kubectl"),
        kubeconfig: place.kubeconfig(),
        home: dir.path().to_owned(),
    };

    step("a Deployment on both nodes, a volume, names of services");
    kubectl.apply(DEMO);
    kubectl.run(&[
        "wait",
        "pod",
        "--all",
        "--for=condition=Ready",
        "--timeout=100s",
    ]);
    workloads(&kubectl);

    step("logs, exec, port-forward, metrics");
    port_forward(&kubectl);
    within(40, "kubectl top shows the pods", || {
        let shown = kubectl.command(&["top", "pods"]).output().unwrap().stdout;
        String::from_utf8_lossy(&shown).contains("client1")
    });
    assert!(kubectl.run(&["top", "nodes"]).contains("node2"));

    step("policies for incoming and outgoing traffic, within and across nodes");
    policies(&kubectl);

    step("pods reach neither the machine nor another network");
    nothing_outside(&kubectl);

    step("up in a running cluster changes nothing");
    let again = up(&options, &Progress::ignored()).unwrap();
    assert!(again.already && again.restarted.is_empty(), "{again:?}");

    step("a node without kubelet and containerd is not Ready, and up brings it back");
    repaired(&options, &kubectl);

    step("down, with a pod running, leaves nothing");
    let removed = down(place).unwrap();
    assert!(removed.existed && removed.processes > 10, "{removed:?}");
    assert_eq!(leftovers(place).unwrap(), Vec::<String>::new());
    // The kernel removes namespaces a moment after their last process.
    let ended = Instant::now();
    while Machine::now() != before && ended.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(Machine::now(), before);
    assert!(!down(place).unwrap().existed);
    let left: Vec<_> = fs::read_dir(place.parent()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Prints the stages of a start with their times.
fn stages() -> Progress {
    Progress::new(|event| {
        if let Event::Done {
            stage,
            millis,
            cached,
        } = event
            && !cached
        {
            println!("    {stage}: {:.1} s", millis as f64 / 1000.0);
        }
    })
}

fn prepared_program(place: &Place, name: &str) -> PathBuf {
    let text = fs::read(place.folder().join("prepared.json")).unwrap();
    let value: Value = serde_json::from_slice(&text).unwrap();
    value["programs"][name].as_str().unwrap().into()
}

/// Kills the program in different stages of a start, by the command line, as a person's terminal might.
fn killed_starts(options: &Options) {
    let place = &options.place;
    // Until a stage has begun, and a little longer.
    for (stage, millis) in [("… Making namespaces", 150), ("… Starting the nodes", 900)] {
        let mut child = Command::new(&options.program)
            .args([
                "dev",
                "host-cluster",
                "up",
                "--name",
                place.name().as_str(),
                "--folder",
            ])
            .arg(place.parent())
            .arg("--images")
            .arg(&options.recipes)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let seen = lines
            .map_while(Result::ok)
            .find(|line| line.starts_with(stage));
        assert!(seen.is_some(), "the start ended before {stage}");
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!leftovers(place).unwrap().is_empty());
        down(place).unwrap();
        assert_eq!(leftovers(place).unwrap(), Vec::<String>::new());
    }
}

fn workloads(kubectl: &Kubectl) {
    let nodes = kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[*].spec.nodeName}",
    ]);
    let nodes: BTreeSet<&str> = nodes.split(' ').collect();
    assert_eq!(nodes, BTreeSet::from(["node1", "node2"]));
    for client in ["client1", "client2"] {
        // Often enough that both pods of the service are asked.
        for _ in 0..4 {
            let page = kubectl.page(client, "web");
            assert!(page.contains("It works"), "{client}: {page}");
        }
        let found = kubectl.exec(client, "nslookup web.demo.svc.cluster.local");
        assert!(
            found.contains("Name:\tweb.demo.svc.cluster.local"),
            "{found}"
        );
    }
    kubectl.exec("client1", "echo kept > /data/file");
    assert_eq!(kubectl.exec("client1", "cat /data/file").trim(), "kept");
    let bound = kubectl.run(&["get", "pvc", "data", "-o", "jsonpath={.status.phase}"]);
    assert_eq!(bound, "Bound");
    assert_eq!(kubectl.run(&["logs", "client2"]).trim(), "started");
}

fn port_forward(kubectl: &Kubectl) {
    struct Forward(Child);
    impl Drop for Forward {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut command = kubectl.command(&["port-forward", "service/web", ":80"]);
    let mut child = Forward(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let at = line
        .split(' ')
        .find(|word| word.starts_with("127.0.0.1:"))
        .unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains("It works"), "{page}");
}

fn policies(kubectl: &Kubectl) {
    let pods = kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[*].status.podIP}",
    ]);
    let pods: Vec<&str> = pods.split(' ').collect();
    // From each node to the pod on either node.
    let reached = || {
        let pairs = ["client1", "client2"]
            .into_iter()
            .flat_map(|c| pods.iter().map(move |p| (c, *p)));
        std::thread::scope(|scope| {
            let all: Vec<_> = pairs
                .map(|(client, pod)| {
                    scope.spawn(move || kubectl.page(client, pod).contains("It works"))
                })
                .collect();
            all.into_iter()
                .map(|t| t.join().unwrap())
                .filter(|ok| *ok)
                .count()
        })
    };
    let expect = |count: usize, what: &str| within(20, what, || reached() == count);
    expect(4, "without a policy, everything is reached");
    kubectl.apply(&policy("closed", "web", "policyTypes: [Ingress]"));
    expect(0, "a policy without rules closes the web servers");
    let from = "policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {name: client1}}}]}]";
    kubectl.apply(&policy("from-client1", "web", from));
    expect(2, "a second policy opens them to client1");
    kubectl.run(&["delete", "networkpolicy", "--all"]);
    expect(4, "without policies, everything is reached again");
    let dns = "policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}]";
    kubectl.apply(&policy("only-dns", "client", dns));
    expect(0, "a policy closes the way out of the clients");
    let found = kubectl.exec("client1", "nslookup web.demo.svc.cluster.local");
    assert!(found.contains("Name:"), "DNS is allowed: {found}");
    let to = "policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]";
    kubectl.apply(&policy("to-web", "client", to));
    expect(4, "a second policy opens the way to the web servers");
    kubectl.run(&["delete", "networkpolicy", "--all"]);
}

fn policy(name: &str, app: &str, rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, {rules}}}\n"
    )
}

/// A server of this machine, listening at all of its addresses, is reached from the machine and from no pod.
fn nothing_outside(kubectl: &Kubectl) {
    let server = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // No packet is sent: this only asks for the address that the machine would use.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = socket
        .connect("192.0.2.1:9")
        .and_then(|()| socket.local_addr());
    let own = own.map_or("127.0.0.1".to_owned(), |a| a.ip().to_string());
    assert!(TcpStream::connect((own.as_str(), port)).is_ok());
    for target in [
        own.as_str(),
        "127.0.0.1",
        "172.30.0.1",
        "169.254.169.254",
        "192.0.2.1",
    ] {
        let said = kubectl.exec(
            "client1",
            &format!("nc -w 2 {target} {port} < /dev/null && echo reached"),
        );
        assert!(!said.contains("reached"), "{target}: {said}");
    }
    // A pod on the node's own network, with the node's root: no more than a node.
    let said = kubectl.exec(
        "privileged",
        &format!("nc -w 2 {own} {port} < /dev/null && echo reached"),
    );
    assert!(!said.contains("reached"), "{said}");
    let seen = kubectl.exec(
        "privileged",
        "ls /node; ls /node/home /node/srv; ip -o link | wc -l; ps | wc -l",
    );
    assert!(seen.contains("kubelet") || seen.contains("var"), "{seen}");
    assert_eq!(
        kubectl.exec("privileged", "cat /node/etc/hostname").trim(),
        "node2"
    );
    let processes = kubectl.exec("privileged", "ps -o comm");
    assert!(
        processes.contains("kubelet") && !processes.contains("kube-apiserver"),
        "{processes}"
    );
}

fn repaired(options: &Options, kubectl: &Kubectl) {
    let place = &options.place;
    let node = Member::Node2;
    // At once, since the command itself reaches the pod through them.
    let pids: Vec<String> = ["kubelet", "containerd"]
        .into_iter()
        .map(
            |service| match status(place).unwrap().members[&node][service] {
                // The process ID in the node's namespace, which the pod shares.
                ServiceState::Running { pid } => pid.to_string(),
                other => panic!("{service}: {other:?}"),
            },
        )
        .collect();
    kubectl.exec("privileged", &format!("kill -9 {}", pids.join(" ")));
    // On a busy machine, the second may end a while after the first.
    within(10, "the status tells", || {
        let now = status(place).unwrap();
        let ended =
            |service: &str| matches!(now.members[&node][service], ServiceState::Ended { .. });
        now.condition == Condition::Degraded && ended("kubelet") && ended("containerd")
    });
    within(60, "the node is not Ready", || {
        kubectl.ready(node) != "True"
    });
    assert_eq!(kubectl.ready(Member::Node1), "True");
    let again = up(options, &Progress::ignored()).unwrap();
    assert!(again.already, "{again:?}");
    assert_eq!(again.restarted, ["containerd on node2", "kubelet on node2"]);
    assert_eq!(kubectl.ready(node), "True");
    // Pods have continued, and policies are enforced.
    assert!(kubectl.page("client2", "web").contains("It works"));
    kubectl.apply(&policy("closed", "web", "policyTypes: [Ingress]"));
    within(20, "policies are enforced", || {
        !kubectl.page("client2", "web").contains("It works")
    });
}

const DEMO: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: demo}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: web}}
      containers:
      - {name: nginx, image: 'nginx:1.22', ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: demo}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: client1, namespace: demo, labels: {app: client, name: client1}}
spec:
  nodeSelector: {kubernetes.io/hostname: node1}
  containers:
  - name: client
    image: busybox:1.35
    command: [sh, -c, 'echo started; sleep 100000']
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: v1
kind: Pod
metadata: {name: client2, namespace: demo, labels: {app: client, name: client2}}
spec:
  nodeSelector: {kubernetes.io/hostname: node2}
  containers:
  - {name: client, image: 'busybox:1.35', command: [sh, -c, 'echo started; sleep 100000']}
---
apiVersion: v1
kind: Pod
metadata: {name: privileged, namespace: demo}
spec:
  nodeSelector: {kubernetes.io/hostname: node2}
  hostNetwork: true
  hostPID: true
  containers:
  - name: shell
    image: busybox:1.35
    command: [sh, -c, 'sleep 100000']
    securityContext: {privileged: true}
    volumeMounts: [{name: node, mountPath: /node}]
  volumes: [{name: node, hostPath: {path: /}}]
";
