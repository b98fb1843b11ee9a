//! A lab with a cluster, as a student uses it: started, reached from outside with a stock `kubectl` and OpenSSH,
//! checked, ended. Needs the template of `kubernetes-1.36`, which proving the labs builds.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use faultline_e2e::installation::{Installation, free_port, reading, step, text};
use serde_json::Value;

const LAB: &str = "claim-pending";
const TWIN: &str = "report-bot-forbidden";

/// Returns an unmodified upstream kubectl: of the version in `FAULTLINE_KUBECTL`, copied from an image's disk, or at
/// the path in that variable.
fn kubectl(here: &Installation) -> PathBuf {
    let version = std::env::var("FAULTLINE_KUBECTL").unwrap_or_else(|_| "1.36".to_owned());
    if version.contains('/') {
        return version.into();
    }
    let is_it = |said: &str| said.contains(&format!("v{version}."));
    out_of_an_image(here, "/usr/bin/kubectl", &["version", "--client"], is_it)
}

/// Copies a program from the disk of the first image in which its output satisfies `is_it`.
fn out_of_an_image(
    here: &Installation,
    path: &str,
    asked: &[&str],
    is_it: impl Fn(&str) -> bool,
) -> PathBuf {
    let cache = std::env::var_os("FAULTLINE_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/faultline"),
        PathBuf::from,
    );
    let name = Path::new(path).file_name().unwrap();
    let program = here.data.path().join(name);
    let taken = format!("dump -p {path} {}", program.display());
    let disks = std::fs::read_dir(cache.join("disk")).expect("an image was built");
    let found = disks.flatten().any(|disk| {
        let _ = std::fs::remove_file(&program);
        let disk = disk.path().join("root.ext4");
        let mut dump = Command::new("debugfs");
        dump.args(["-R", &taken]).arg(disk);
        dump.output().expect("debugfs comes with e2fsprogs");
        let said = Command::new(&program).args(asked).output();
        said.is_ok_and(|said| is_it(&text(&said.stdout)))
    });
    assert!(found, "no image has this {path}");
    program
}

struct Kubectl {
    program: PathBuf,
    config: PathBuf,
}

impl Kubectl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.config).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs it, expects success, and returns its output.
    fn out(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert!(done.status.success(), "{args:?}: {}", text(&done.stderr));
        text(&done.stdout)
    }
}

#[test]
fn a_cluster_from_outside() {
    let mut here = Installation::new();
    let link = here.up();
    step("a lab with a cluster starts");
    let id = start(&here, LAB);

    step("a stock kubectl reaches it through the gateway");
    let kubectl = Kubectl {
        program: kubectl(&here),
        config: kubeconfig(&here, &id),
    };
    let nodes = kubectl.out(&["get", "nodes"]);
    assert!(
        nodes.contains("node1") && nodes.contains(" Ready "),
        "{nodes}"
    );
    assert!(kubectl.out(&["auth", "whoami"]).contains("person:"));
    work(&kubectl);

    step("helm installs a chart through the gateway");
    let helm = out_of_an_image(&here, "/usr/local/bin/helm", &["version"], |said| {
        said.contains("v4.")
    });
    let chart = tempfile::tempdir().unwrap();
    std::fs::create_dir(chart.path().join("templates")).unwrap();
    let about = "apiVersion: v2\nname: tea\nversion: 1.0.0\n";
    std::fs::write(chart.path().join("Chart.yaml"), about).unwrap();
    let pot = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"{{ .Release.Name }}-pot\"}\n";
    std::fs::write(chart.path().join("templates/pot.yaml"), pot).unwrap();
    let installed = Command::new(helm)
        .arg("--kubeconfig")
        .arg(&kubectl.config)
        .args(["install", "black"])
        .arg(chart.path())
        .output()
        .unwrap();
    assert!(installed.status.success(), "{}", text(&installed.stderr));
    let made = kubectl.out(&["get", "configmap", "black-pot", "-o", "name"]);
    assert_eq!(made.trim(), "configmap/black-pot");

    step("the file that the page offers works without the program");
    let file = Kubectl {
        program: kubectl.program.clone(),
        config: download(&here, &link, &id),
    };
    assert!(file.out(&["get", "nodes"]).contains("node1"));

    step("requests without a valid credential or environment are refused");
    refusals(&here, &kubectl, &id);

    step("the stock ssh client enters the same node");
    let key = here.data.path().join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status()
        .unwrap();
    assert!(made.success());
    let entered = here.run(&["ssh", &id, "--", "kubectl get nodes -o name"]);
    assert_eq!(
        text(&entered.stdout).trim(),
        "node/node1",
        "{}",
        text(&entered.stderr)
    );

    step("the usual tools are on the node, and helm installs a chart");
    let tools = "for tool in crictl etcdctl etcdutl jq curl tcpdump dig vim nano tmux strace; do command -v $tool >/dev/null || echo \
                 lacks $tool; done; kubectl get storageclass --no-headers && mkdir -p /tmp/tea/templates && cd /tmp/tea && printf \
                 'apiVersion: v2\nname: tea\nversion: 1.0.0\n' > Chart.yaml && printf 'apiVersion: v1\nkind: ConfigMap\n\
                 metadata: {name: \"{{ .Release.Name }}-pot\"}\n' > templates/pot.yaml && helm install green . && kubectl get \
                 configmap green-pot -o name";
    let used = here.run(&["ssh", &id, "--", tools]);
    let said = text(&used.stdout);
    assert!(
        !said.contains("lacks")
            && said.contains("(default)")
            && said.contains("configmap/green-pot"),
        "{said}{}",
        text(&used.stderr)
    );

    step("a suspended cluster resumes where it was, with the right time");
    assert!(here.run(&["env", "suspend"]).status.success());
    std::thread::sleep(Duration::from_secs(15));
    let paused = kubectl.run(&["--request-timeout=5s", "get", "nodes"]);
    assert!(
        text(&paused.stderr).contains("is paused; resume it"),
        "{}",
        text(&paused.stderr)
    );
    let key = here.data.path().join("ssh_key");
    let entered = here.ssh(&key, &id, &[], "true");
    assert!(
        text(&entered.stderr).contains("is paused; resume it"),
        "{}",
        text(&entered.stderr)
    );
    assert!(here.run(&["env", "resume"]).status.success());
    kubectl.out(&[
        "wait",
        "node/node1",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
    let clock = here.run(&["ssh", &id, "--", "date +%s"]);
    let there: i64 = text(&clock.stdout).trim().parse().unwrap();
    let apart = faultline_domain::Clock::system().now().as_second() - there;
    assert!(apart.abs() < 5, "{apart} s apart");

    step(
        "checks find the fault in the cluster; the environment's name is optional if there is only one",
    );
    let checked = here.run(&["--output", "json", "env", "check"]);
    assert!(!checked.status.success(), "it was not repaired");

    step("a reset gives both kubeconfigs a fresh cluster");
    kubectl.out(&["create", "namespace", "of-before"]);
    assert!(here.run(&["env", "reset", &id]).status.success());
    for config in [&kubectl, &file] {
        let namespaces = config.out(&["get", "namespaces", "-o", "name"]);
        assert!(namespaces.contains("kube-system") && !namespaces.contains("of-before"));
    }

    step("when the environment ends, its credentials and open watches end too");
    let mut watch = kubectl
        .command(&["get", "pods", "-A", "-w"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(here.run(&["env", "end", &id]).status.success());
    let began = Instant::now();
    while watch.try_wait().unwrap().is_none() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the watch should end"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let ended = kubectl.run(&["--request-timeout=5s", "get", "nodes"]);
    assert!(!ended.status.success());
    let ended = file.run(&["--request-timeout=5s", "get", "nodes"]);
    assert!(
        text(&ended.stderr).contains("has ended; start the lab again at"),
        "{}",
        text(&ended.stderr)
    );
}

/// With `rekey = true`, credentials signed by the template's keys are invalid. Runs two clusters at once.
#[test]
#[ignore = "half an hour under emulation; ./test --all runs it"]
fn keys_of_its_own() {
    let mut here = Installation::new();
    here.up();
    step("a lab with a cluster starts, with the keys of its template");
    let twin = start(&here, TWIN);

    step("a server with rekey = true starts another, with its own keys");
    here.kill_server();
    let settings = here.data.path().join("faultline.toml");
    std::fs::write(&settings, "rekey = true\n").unwrap();
    here.config = Some(settings);
    here.up();
    let id = start(&here, LAB);
    let kubectl = Kubectl {
        program: kubectl(&here),
        config: kubeconfig(&here, &id),
    };
    assert!(kubectl.out(&["get", "nodes"]).contains(" Ready "));
    let renewed = "grep -c 'kubelet-client-current.pem$' /etc/kubernetes/kubelet.conf";
    let named = here.run(&["ssh", &id, "--", renewed]);
    assert_eq!(text(&named.stdout).trim(), "2", "{}", text(&named.stderr));

    step("credentials signed by one environment's CA are invalid in another");
    let at_its_own =
        "kubectl --server https://127.0.0.1:6443 --insecure-skip-tls-verify --request-timeout=60s";
    let shown_at = |at: &str, credential: &str| {
        let asks = format!("{at_its_own} {credential} auth whoami");
        here.run(&["ssh", at, "--", &asks])
    };
    let admin = |of: &str| {
        let read = here.run(&["ssh", of, "--", "base64 -w0 /etc/kubernetes/admin.conf"]);
        text(&read.stdout).trim().to_owned()
    };
    for (from, to) in [(&twin, &id), (&id, &twin), (&id, &id)] {
        let credential = format!("--kubeconfig <(base64 -d <<< {})", admin(from));
        let asked = shown_at(to, &credential);
        let said = text(&asked.stderr);
        assert_eq!(asked.status.success(), from == to, "{from} at {to}: {said}");
        assert!(from == to || said.contains("logged in"), "{said}");
    }
    step("so are the tokens of its service accounts");
    let theirs = Kubectl {
        program: kubectl.program.clone(),
        config: kubeconfig(&here, &twin),
    };
    let token = theirs.out(&["create", "token", "default"]);
    for (at, holds) in [(&twin, true), (&id, false)] {
        let credential = format!("--kubeconfig /dev/null --token {}", token.trim());
        let asked = shown_at(at, &credential);
        assert_eq!(asked.status.success(), holds, "{}", text(&asked.stderr));
    }
    step("and the certificates of its control plane's components");
    let shown = here.run(&[
        "ssh",
        &twin,
        "--",
        "tar -C /etc/kubernetes/pki -cz apiserver-kubelet-client.{crt,key} etcd/healthcheck-client.{crt,key} \
         front-proxy-client.{crt,key} | base64 -w0",
    ]);
    let asks = format!(
        "mkdir -p /tmp/shown && cd /tmp/shown && base64 -d <<< {} | tar -xz
        ask() {{ curl -sk -m 60 -o /dev/null -w '%{{http_code}} ' --cert $1.crt --key $1.key \"${{@:2}}\"; }}
        ask apiserver-kubelet-client https://127.0.0.1:10250/pods
        ask etcd/healthcheck-client https://127.0.0.1:2379/version
        ask front-proxy-client -H 'X-Remote-User: a' -H 'X-Remote-Group: system:masters' https://127.0.0.1:6443/api/v1/nodes
        true",
        text(&shown.stdout)
    );
    for (at, answers) in [(&twin, "200 200 200"), (&id, "401 000 401")] {
        let asked = here.run(&["ssh", at, "--", &asks]);
        assert_eq!(
            text(&asked.stdout).trim(),
            answers,
            "{}",
            text(&asked.stderr)
        );
    }
    assert!(here.run(&["env", "end", &twin]).status.success());
    assert!(here.run(&["env", "end", &id]).status.success());

    step("workers get new keys too, also in a lab that breaks a kubelet");
    let id = start(&here, "kubelet-down");
    let kubectl = Kubectl {
        program: kubectl.program,
        config: kubeconfig(&here, &id),
    };
    let nodes = kubectl.out(&["get", "nodes", "--no-headers"]);
    assert_eq!(
        (
            nodes.matches(" Ready ").count(),
            nodes.matches(" NotReady ").count()
        ),
        (2, 1),
        "{nodes}"
    );
    let token = kubectl.out(&["create", "token", "default"]);
    assert!(token.starts_with("ey"), "{token}");
    assert!(here.run(&["env", "end", &id]).status.success());
}

/// Uses a client other than kubectl, and more watches than kubectl opens.
#[test]
#[ignore = "installs Python's client with pip; ./test --all runs it"]
fn pythons_client_and_a_dozen_watches() {
    let folder = faultline_e2e::pypi::package("kubernetes==37.0.2").unwrap();
    let mut here = Installation::new();
    here.up();
    let id = start(&here, LAB);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/client.py");
    let done = Command::new("python3")
        .env("PYTHONPATH", folder)
        .arg(script)
        .arg(kubeconfig(&here, &id))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    println!("{}", text(&done.stdout));
}

/// A worker is booted, joins, is used, is drained and removed.
#[test]
#[ignore = "minutes under emulation; ./test --all runs it"]
fn a_worker_joins_and_leaves() {
    let mut here = Installation::new();
    here.up();
    let id = start(&here, LAB);
    let kubectl = Kubectl {
        program: kubectl(&here),
        config: kubeconfig(&here, &id),
    };
    step("it joins and becomes Ready");
    let added = here.run(&["env", "add-node", &id]);
    assert!(added.status.success(), "{}", text(&added.stderr));
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    assert_eq!(kubectl.out(&["get", "node", "node2", "-o", ready]), "True");
    step("a pod runs on it, and its log is read");
    let overrides = r#"{"spec": {"nodeName": "node2"}}"#;
    kubectl.out(&[
        "run",
        "guest",
        "--image=docker.io/library/busybox:1.35",
        "--image-pull-policy=IfNotPresent",
        &format!("--overrides={overrides}"),
        "--restart=Never",
        "--command",
        "--",
        "echo",
        "from node2",
    ]);
    let done = "--for=jsonpath={.status.phase}=Succeeded";
    kubectl.out(&["wait", "pod/guest", done, "--timeout=240s"]);
    assert_eq!(kubectl.out(&["logs", "guest"]).trim(), "from node2");
    step("it is drained and removed");
    let removed = here.run(&["env", "remove-node", &id, "node2"]);
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    assert_eq!(
        kubectl.out(&["get", "nodes", "-o", "name"]).trim(),
        "node/node1"
    );
    assert!(here.run(&["env", "end", &id]).status.success());
}

/// Starts a lab and waits until it is ready. Returns the environment's ID.
fn start(here: &Installation, lab: &str) -> String {
    let started = here.run(&["--output", "json", "env", "start", lab]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let environment: Value = serde_json::from_slice(&started.stdout).unwrap();
    environment["id"].as_str().unwrap().to_owned()
}

fn kubeconfig(here: &Installation, id: &str) -> PathBuf {
    let config = here.data.path().join(format!("{id}.kubeconfig"));
    let written = here.run(&["kubeconfig", id, "--file", config.to_str().unwrap()]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    config
}

/// Signs in with the link and downloads the kubeconfig that the environment's page offers.
fn download(here: &Installation, link: &str, id: &str) -> PathBuf {
    let (base, token) = link.split_once("/sign-in?").unwrap();
    let jar = here.data.path().join("cookies");
    let path = here.data.path().join("downloaded.kubeconfig");
    let curl = |args: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-fsS", "-H", &format!("Origin: {base}")]);
        command.arg("-b").arg(&jar).arg("-c").arg(&jar).args(args);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", text(&done.stderr));
    };
    curl(&["-d", token, "-o", "/dev/null", &format!("{base}/sign-in")]);
    let at = format!("{base}/environments/{id}/kubeconfig");
    curl(&["-o", path.to_str().unwrap(), &at]);
    path
}

/// Returns a client with this user, which doesn't verify the server's certificate.
fn with_user(
    here: &Installation,
    kubectl: &Kubectl,
    to: &str,
    from: &str,
    user: &Value,
) -> Kubectl {
    let config = std::fs::read_to_string(kubeconfig(here, to)).unwrap();
    let mut parsed: Value = serde_json::from_str(&config).unwrap();
    parsed["users"][0]["user"] = user.clone();
    let cluster = parsed["clusters"][0]["cluster"].as_object_mut().unwrap();
    cluster.remove("certificate-authority-data");
    cluster.insert("insecure-skip-tls-verify".to_owned(), true.into());
    Kubectl {
        program: kubectl.program.clone(),
        config: write(here.data.path(), &format!("{from}-at-{to}"), &parsed),
    }
}

/// Uses the cluster as people do every day.
fn work(kubectl: &Kubectl) {
    step("apply, wait, logs -f, exec -it, cp, port-forward, a long watch, top");
    let mut watch = kubectl
        .command(&["get", "pods", "-w", "-o", "name"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let watched = reading(watch.stdout.take().unwrap());
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: desk, labels: {app: desk}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: desk\n    image: docker.io/library/nginx:1.22\n    imagePullPolicy: IfNotPresent\n";
    let mut apply = kubectl
        .command(&["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    apply
        .stdin
        .take()
        .unwrap()
        .write_all(manifest.as_bytes())
        .unwrap();
    assert!(apply.wait().unwrap().success());
    kubectl.out(&[
        "wait",
        "pod/desk",
        "--for=condition=Ready",
        "--timeout=180s",
    ]);
    assert_eq!(
        kubectl
            .out(&["exec", "desk", "--", "cat", "/etc/hostname"])
            .trim(),
        "desk"
    );
    on_a_terminal(kubectl);

    let mut follow = kubectl
        .command(&["logs", "-f", "desk"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let followed = reading(follow.stdout.take().unwrap());
    let port = free_port();
    let mut forward = kubectl
        .command(&["port-forward", "pod/desk", &format!("{port}:80")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let page = fetch(port);
    let _ = forward.kill();
    let _ = forward.wait();
    assert!(page.contains("It works"), "{page}");
    shows(&followed, "GET / HTTP", 1);
    let _ = follow.kill();
    let _ = follow.wait();

    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("passwd");
    kubectl.out(&["cp", "desk:/etc/passwd", copied.to_str().unwrap()]);
    assert!(
        std::fs::read_to_string(copied)
            .unwrap()
            .contains("www-data")
    );

    let began = Instant::now();
    while !kubectl.run(&["top", "nodes"]).status.success() {
        assert!(
            began.elapsed() < Duration::from_secs(180),
            "top shows no metrics"
        );
        std::thread::sleep(Duration::from_secs(5));
    }
    // After minutes of other work, the watch is still open and shows changes.
    let before = watched.lock().unwrap().matches("pod/desk").count();
    assert!(before >= 1);
    kubectl.out(&["label", "pod", "desk", "seen=yes"]);
    shows(&watched, "pod/desk", before + 1);
    kubectl.out(&["delete", "pod", "desk", "--now"]);
    shows(&watched, "pod/desk", before + 2);
    assert!(watch.try_wait().unwrap().is_none(), "the watch is open");
    let _ = watch.kill();
    let _ = watch.wait();
}

/// Runs `kubectl exec -it`, with a terminal on both sides.
fn on_a_terminal(kubectl: &Kubectl) {
    let command = format!(
        "{} --kubeconfig {} exec -it desk -- sh",
        kubectl.program.display(),
        kubectl.config.display()
    );
    let mut shell = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = reading(shell.stdout.take().unwrap());
    let mut keys = shell.stdin.take().unwrap();
    shows(&said, "#", 1);
    keys.write_all(b"tty\r").unwrap();
    shows(&said, "/dev/pts/", 1);
    keys.write_all(b"exit\r").unwrap();
    assert!(shell.wait().unwrap().success());
}

/// Waits until a text has appeared this many times.
fn shows(seen: &Mutex<String>, what: &str, times: usize) {
    let began = Instant::now();
    while seen.lock().unwrap().matches(what).count() < times {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{what:?} does not appear {times} times: {}",
            seen.lock().unwrap()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Fetches a page over a forwarded port. Retries until it responds.
fn fetch(port: u16) -> String {
    let began = Instant::now();
    loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let mut page = String::new();
            if stream.read_to_string(&mut page).is_ok() && !page.is_empty() {
                return page;
            }
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "port-forward does not respond"
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn refusals(here: &Installation, kubectl: &Kubectl, id: &str) {
    // The right address without a token.
    let config = std::fs::read_to_string(&kubectl.config).unwrap();
    let mut parsed: Value = serde_json::from_str(&config).unwrap();
    parsed["users"][0]["user"] = serde_json::json!({});
    let nobody = Kubectl {
        program: kubectl.program.clone(),
        config: write(here.data.path(), "nobody", &parsed),
    };
    let refused = nobody.run(&["--request-timeout=20s", "get", "nodes"]);
    assert!(!refused.status.success(), "{}", text(&refused.stdout));
    let wrong = serde_json::json!({ "token": format!("flt_{}", "0".repeat(64)) });
    let refused = with_user(here, kubectl, id, "wrong", &wrong).run(&["get", "nodes"]);
    assert!(
        text(&refused.stderr).contains("logged in"),
        "{}",
        text(&refused.stderr)
    );
    // An unknown environment.
    let other = config.replace(&format!("/environments/{id}"), "/environments/k7f3q9xw2m");
    let parsed: Value = serde_json::from_str(&other).unwrap();
    let lost = Kubectl {
        program: kubectl.program.clone(),
        config: write(here.data.path(), "lost", &parsed),
    };
    let said = lost.run(&["--request-timeout=10s", "get", "nodes"]);
    assert!(
        !said.status.success() && text(&said.stderr).contains("no such environment"),
        "{}",
        text(&said.stderr)
    );
    let mut raw = TcpStream::connect(("127.0.0.1", here.kube)).unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer);
    // Plain HTTP gets at most a TLS alert.
    assert!(answer.len() <= 7, "{}", text(&answer));
}

fn write(folder: &Path, name: &str, config: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, config.to_string()).unwrap();
    path
}
