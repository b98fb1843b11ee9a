//! A host cluster, the provider on it, a gateway before it, and `kubectl`.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use faultline_cluster::{
    client,
    kubeconfig::{User, kubeconfig},
};
use faultline_domain::{Clock, EnvironmentId, TenantId, progress::Progress};
use faultline_gateway::kube::{
    ApiServers, Change, Config, Connection, Grant, Protocol, Refusal, certificate, serve,
};
use faultline_host_cluster::{
    Name, Options, Place, down,
    status::{Condition, status},
    up,
};
use faultline_provider::{Error, Identity, Observed, Provider, conformance};
use faultline_tenancy_kubernetes::{
    Host, Namespaces,
    namespace::{IMAGE, Settings},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

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

/// A host cluster, which ends with the test unless it ran before.
pub(crate) struct Cluster {
    pub(crate) place: Place,
    options: Options,
    is_ours: bool,
}

impl Cluster {
    pub(crate) fn start(scratch: &Path) -> Self {
        let running = std::env::var_os("FAULTLINE_HOST_CLUSTER").map(PathBuf::from);
        let is_ours = running.is_none();
        let folder = running.unwrap_or_else(|| scratch.join("clusters/one"));
        let name = folder.file_name().unwrap().to_str().unwrap();
        let place = Place::new(
            folder.parent().unwrap().to_owned(),
            name.parse::<Name>().unwrap(),
        );
        let options = Options {
            place: place.clone(),
            program: program(),
            recipes: workspace().join("images"),
            kubernetes: "1.36".to_owned(),
            port: None,
        };
        let cluster = Self {
            place,
            options,
            is_ours,
        };
        if is_ours {
            up(&cluster.options, &Progress::ignored()).unwrap();
        }
        cluster
    }

    /// Returns the process of the API server.
    fn api_server(&self) -> Pid {
        let first = fs::read_to_string(self.place.folder().join("control-plane.pid")).unwrap();
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(first.trim()).unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
        let pid = pids.find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "kube-apiserver" && namespace(pid).as_ref() == Some(&ours)
        });
        Pid::from_raw(pid.unwrap().parse().unwrap()).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = down(&self.place);
        }
    }
}

/// kubectl, as people run it.
#[derive(Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: Option<String>,
    home: PathBuf,
}

impl Kubectl {
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--request-timeout=60s")
            .args(self.namespace.iter().map(|n| format!("--namespace={n}")))
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let done = self.try_run(arguments);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "kubectl {arguments:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Returns the same in another namespace.
    pub(crate) fn of(&self, namespace: &str) -> Self {
        let namespace = Some(namespace.to_owned());
        Self {
            namespace,
            ..self.clone()
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap()
    }

    /// Runs commands, several at a time, and expects that each fails and says what is expected.
    pub(crate) fn refused(&self, cases: &[(&str, &str)]) {
        each(cases, |command| {
            let arguments: Vec<&str> = command.split_whitespace().collect();
            self.try_run(&arguments)
        });
    }

    /// Applies manifests in the same way.
    pub(crate) fn not_applied(&self, cases: &[(&str, &str)]) {
        each(cases, |manifest| self.apply(manifest));
    }

    pub(crate) fn apply(&self, manifest: &str) -> Output {
        let mut command = self.command(&["apply", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(manifest.as_bytes()).unwrap();
        drop(input);
        child.wait_with_output().unwrap()
    }

    pub(crate) fn applied(&self, manifest: &str) {
        let done = self.apply(manifest);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{manifest}: {said}");
    }

    /// Runs a shell command in a pod and returns what it prints, also if it fails.
    pub(crate) fn exec(&self, pod: &str, script: &str) -> String {
        let done = self.try_run(&["exec", pod, "--", "sh", "-c", script]);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        text(done.stdout) + &text(done.stderr)
    }

    /// Returns whether a TCP connection from a pod is accepted.
    pub(crate) fn reaches(&self, pod: &str, host: &str, port: u16) -> bool {
        let script = format!("nc -w 2 {host} {port} < /dev/null && echo reached");
        self.exec(pod, &script).contains("reached")
    }

    pub(crate) fn get(&self, object: &str, path: &str) -> String {
        self.run(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    pub(crate) fn wait_ready(&self, pod: &str) {
        let ready = "--for=condition=Ready";
        self.run(&["wait", "pod", pod, ready, "--timeout=90s"]);
    }
}

/// The number of commands that run at the same time.
const AT_ONCE: usize = 6;

fn each(cases: &[(&str, &str)], run: impl Fn(&str) -> Output + Sync) {
    let check = |(what, expected): &(&str, &str)| {
        let done = run(what);
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success(), "{what} was not refused");
        assert!(text.contains(expected), "{what}: {text}");
    };
    std::thread::scope(|scope| {
        for some in cases.chunks(cases.len().div_ceil(AT_ONCE)) {
            scope.spawn(move || some.iter().for_each(check));
        }
    });
}

/// Returns the manifest of a pod with this spec, besides its container.
pub(crate) fn pod(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: main, \
         image: 'busybox:1.35', command: [sh, -c, 'sleep 100000']}}], {spec}}}}}"
    )
}

/// Authorizes for the gateway: the token of a tenant is its ID, backwards.
struct Door(Namespaces);

fn token(id: &str) -> String {
    id.chars().rev().collect()
}

#[async_trait]
impl ApiServers for Door {
    async fn admit(&self, id: &EnvironmentId, given: &str, _: bool) -> Result<Grant, Refusal> {
        if given != token(id.as_str()) {
            return Err(Refusal::unauthorized());
        }
        Ok(Grant {
            environment: id.clone(),
            tenant: id.as_str().parse().unwrap(),
            person: id.as_str().parse().unwrap(),
        })
    }

    async fn connect(&self, grant: &Grant, protocol: Protocol) -> Result<Connection, Refusal> {
        let access = self
            .0
            .api(&grant.tenant, &person(grant.person.as_str()))
            .await;
        let access = access.map_err(|e| Refusal::unavailable(e.to_string()))?;
        let alpn = match protocol {
            Protocol::Http1 => client::HTTP1,
            Protocol::Http2 => client::HTTP2,
        };
        Ok(Connection {
            stream: Box::new(client::dial(&access, alpn).await.unwrap()),
            headers: client::headers(&access.credential).unwrap(),
        })
    }

    async fn used(&self, _: &Grant) {}

    async fn changes(&self, _: &Grant, _: &Change) {}
}

/// The identity that the server asks for, with the groups of an administrator.
pub(crate) fn person(name: &str) -> Identity {
    let mut identity = client::platform(Clock::system().now());
    identity.user = format!("person:{name}");
    identity
}

pub(crate) struct Bed {
    pub(crate) provider: Namespaces,
    kubectl: PathBuf,
    /// The host's administrator.
    pub(crate) admin: Kubectl,
    /// The kubeconfig of the platform's account.
    pub(crate) platform: PathBuf,
    door: SocketAddr,
    authority: String,
    scratch: PathBuf,
    stop: CancellationToken,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bed {
    pub(crate) async fn new(cluster: &Cluster, scratch: &Path) -> Self {
        let kubeconfig = cluster.place.kubeconfig();
        let prepared = fs::read(cluster.place.folder().join("prepared.json")).unwrap();
        let prepared: Value = serde_json::from_slice(&prepared).unwrap();
        let kubectl: PathBuf = prepared["programs"]["kubectl"].as_str().unwrap().into();
        let admin = Kubectl {
            program: kubectl.clone(),
            kubeconfig,
            namespace: None,
            home: scratch.to_owned(),
        };
        let platform = scratch.join("platform.kubeconfig");
        account(&admin, &platform);
        let provider = provider(&platform).await;
        let authority = certificate::authority().unwrap();
        let pair = certificate::issue(&authority, vec!["127.0.0.1".to_owned()]).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (door, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let tls = certificate::tls(&pair).unwrap();
        let servers = Arc::new(Door(provider.clone()));
        tokio::spawn(serve(
            listener,
            tls,
            Config::default(),
            servers,
            stop.clone(),
        ));
        Self {
            admin,
            platform,
            provider,
            kubectl,
            door,
            authority: authority.certificate,
            scratch: scratch.to_owned(),
            stop,
        }
    }

    /// Ends the API server. Nothing is reported as absent meanwhile, and everything goes on afterwards.
    pub(crate) async fn survives_a_restart(&self, cluster: &Cluster, tenants: &[&TenantId]) {
        kill_process(cluster.api_server(), Signal::KILL).unwrap();
        let list = self.provider.list().await;
        assert!(matches!(list, Err(Error::Unreachable(_))), "{list:?}");
        // `up` starts what is known to have ended.
        while status(&cluster.place).unwrap().condition == Condition::Running {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let again = up(&cluster.options, &Progress::ignored()).unwrap();
        let is_it = |name: &String| name.starts_with("kube-apiserver");
        assert!(again.restarted.iter().any(is_it), "{again:?}");
        let listed = self.provider.list().await.unwrap();
        assert_eq!(listed.len(), tenants.len(), "{listed:?}");
        for id in tenants {
            assert!(listed.contains(&((*id).clone(), Observed::Running)));
        }
    }

    /// Creates a tenant. Returns its user's kubectl, which connects through the gateway.
    pub(crate) async fn tenant(&self, name: &str) -> (TenantId, Kubectl) {
        let tenant = conformance::tenant(name, IMAGE, 1);
        let began = Instant::now();
        let made = tenant.create(&self.provider, &Progress::ignored()).await;
        made.unwrap();
        println!(
            "    {name} is usable after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        let server = format!("https://{}/environments/{name}", self.door);
        let token = token(name);
        let text = kubeconfig(name, &server, Some(&self.authority), &User::Token(&token));
        let path = self.scratch.join(format!("{name}.kubeconfig"));
        fs::write(&path, text).unwrap();
        let kubectl = Kubectl {
            program: self.kubectl.clone(),
            kubeconfig: path,
            namespace: Some(format!("faultline-{name}")),
            home: self.scratch.clone(),
        };
        (tenant.id, kubectl)
    }
}

/// Creates the account in `deploy/`, and writes a kubeconfig with its token.
fn account(admin: &Kubectl, kubeconfig: &Path) {
    let manifest = workspace().join("deploy/kubernetes/account.yaml");
    admin.applied(&fs::read_to_string(manifest).unwrap());
    let namespace = "--namespace=faultline-system";
    let token = admin.run(&["create", "token", "faultline", namespace, "--duration=2h"]);
    let token_file = kubeconfig.with_extension("token");
    fs::write(&token_file, token).unwrap();
    let of = |path: &str| {
        let path = format!("jsonpath={{.clusters[0].cluster.{path}}}");
        admin.run(&["config", "view", "--raw", "-o", &path])
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "host",
        "contexts": [{"name": "host", "context": {"cluster": "host", "user": "faultline"}}],
        "clusters": [{"name": "host", "cluster": {
            "server": of("server"),
            "certificate-authority-data": of("certificate-authority-data"),
        }}],
        "users": [{"name": "faultline", "user": {"tokenFile": token_file}}],
    });
    fs::write(kubeconfig, config.to_string()).unwrap();
}

pub(crate) async fn provider(kubeconfig: &Path) -> Namespaces {
    let host = Host::of_kubeconfig(kubeconfig).await.unwrap();
    let settings = Settings {
        images: vec!["docker.io/library".to_owned()],
        ..Settings::default()
    };
    Namespaces::new(host, settings).await
}
