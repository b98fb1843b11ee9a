//! The gateway against the stock OpenSSH client.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test helpers"
)]

mod guest;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use faultline_gateway::{
    Access, Admission, Config, Directory, HostKey, Login, PublicKey, limit, serve,
};
use faultline_provider::fake::process::OnlyStreams;
use guest::ThisMachine;
use rand::Rng;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

/// Two people with a key and an environment each. One of them has another environment, which has ended.
#[derive(Debug)]
struct TwoPeople {
    key: PublicKey,
    hers: PublicKey,
    removed: AtomicBool,
    used: Mutex<u32>,
}

#[async_trait]
impl Directory for TwoPeople {
    async fn authorize(&self, login: &Login, key: &PublicKey) -> Option<Admission> {
        let (owner, open) = match login.environment.as_str() {
            "mine" => (&self.key, true),
            "ended" => (&self.key, false),
            "hers" => (&self.hers, true),
            // It also belongs to somebody else, and the lookup takes a while.
            "slow" => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                (&self.hers, true)
            }
            _ => return None,
        };
        let node = match &login.node {
            None => "node1".parse().unwrap(),
            Some(node) if node.as_str() == "node2" => node.clone(),
            Some(_) => return None,
        };
        let held = key == owner && !self.removed.load(Ordering::SeqCst);
        if !held {
            return None;
        }
        if !open {
            return Some(Admission::Closed("it has ended; start again".to_owned()));
        }
        Some(Admission::Enter(Access {
            environment: login.environment.clone(),
            tenant: "machine".parse().unwrap(),
            node,
        }))
    }
    async fn used(&self, _: &faultline_domain::EnvironmentId) {
        *self.used.lock().unwrap() += 1;
    }
}

struct Gateway {
    dir: tempfile::TempDir,
    port: u16,
    machine: Arc<ThisMachine>,
    directory: Arc<TwoPeople>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Gateway {
    async fn start() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [key, hers, _] = ["key", "hers", "unknown"].map(|name| {
            let path = dir.path().join(name);
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "ann@laptop", "-f"])
                .arg(path)
                .status()
                .unwrap();
            assert!(made.success());
            let line = std::fs::read_to_string(dir.path().join(format!("{name}.pub"))).unwrap();
            PublicKey::parse(&line).unwrap()
        });
        let directory = Arc::new(TwoPeople {
            key,
            hers,
            removed: AtomicBool::new(false),
            used: Mutex::new(0),
        });
        let host = HostKey::generate(&mut rand::rng());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        std::fs::write(
            dir.path().join("known_hosts"),
            format!("[127.0.0.1]:{port} {}\n", host.public().as_openssh()),
        )
        .unwrap();
        let machine = Arc::new(ThisMachine::default());
        let stop = CancellationToken::new();
        let served = {
            let (directory, machine, stop) = (directory.clone(), machine.clone(), stop.clone());
            tokio::spawn(async move {
                serve(
                    listener,
                    &host,
                    config,
                    directory,
                    Arc::new(OnlyStreams(machine)),
                    stop,
                )
                .await
            })
        };
        Self {
            dir,
            port,
            machine,
            directory,
            stop,
            served,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn options(&self, key: &str) -> Vec<String> {
        let at = |name: &str| self.path(name).display().to_string();
        [
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "LogLevel=INFO",
            "-o",
            "ConnectTimeout=20",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([
            "-o".to_owned(),
            format!("UserKnownHostsFile={}", at("known_hosts")),
            "-o".to_owned(),
            format!("Port={}", self.port),
            "-i".to_owned(),
            at(key),
        ])
        .collect()
    }

    /// Starts a client that runs in the background.
    fn begin(&self, args: &[&str]) -> Child {
        Command::new("ssh")
            .args(self.options("key"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn program(
        &self,
        program: &str,
        key: &str,
        args: &[impl AsRef<OsStr>],
        stdin: &[u8],
    ) -> Said {
        let mut child = Command::new(program)
            .args(self.options(key))
            .args(args)
            .env("LANG", "de_DE.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let stdin = stdin.to_vec();
        let feed = tokio::spawn(async move {
            let _ = input.write_all(&stdin).await;
        });
        let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output())
            .await
            .expect("the client should end")
            .unwrap();
        feed.abort();
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    async fn ssh(&self, args: &[&str]) -> Said {
        self.program("ssh", "key", args, b"").await
    }
}

const ME: &str = "mine@127.0.0.1";

#[tokio::test]
async fn a_command_returns_its_exit_code_and_separate_streams() {
    let gateway = Gateway::start().await;
    let said = gateway.ssh(&[ME, "echo out; echo err >&2; exit 7"]).await;
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (Some(7), "out\n", "err\n")
    );
    let said = gateway.ssh(&["node2.mine@127.0.0.1", "kill -9 $$"]).await;
    assert_eq!(said.code, Some(137));
    assert!(*gateway.directory.used.lock().unwrap() >= 1);
}

#[tokio::test]
async fn a_command_arrives_byte_by_byte() {
    let gateway = Gateway::start().await;
    let command = OsStr::from_bytes(b"printf %s caf\xe9 | od -An -tx1");
    let args = [OsStr::new(ME), command];
    let said = gateway.program("ssh", "key", &args, b"").await;
    assert_eq!((said.code, said.out.trim()), (Some(0), "63 61 66 e9"));
}

#[tokio::test]
async fn the_owner_is_told_why_an_environment_cannot_be_entered() {
    let gateway = Gateway::start().await;
    for command in [
        &["ended@127.0.0.1", "true"][..],
        &["-tt", "ended@127.0.0.1"],
    ] {
        let said = gateway.ssh(command).await;
        assert_eq!(said.code, Some(255), "{said:?}");
        assert!(said.err.contains("it has ended; start again"), "{said:?}");
        assert!(!said.err.contains("Permission denied"), "{said:?}");
    }
    let forward = ["-W", "127.0.0.1:80", "ended@127.0.0.1"];
    assert!(gateway.ssh(&forward).await.code != Some(0));
    assert_eq!(*gateway.directory.used.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_session_ends_when_its_key_is_removed() {
    let gateway = Gateway::with(Config {
        recheck: Duration::from_millis(200),
        ..Config::default()
    })
    .await;
    let began = Instant::now();
    let take_away = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        gateway.directory.removed.store(true, Ordering::SeqCst);
    };
    let (said, ()) =
        futures::future::join(gateway.ssh(&[ME, "echo begun; sleep 60"]), take_away).await;
    assert_eq!((said.code, said.out.as_str()), (Some(255), "begun\n"));
    assert!(
        said.err
            .contains("no longer gives access to this environment"),
        "{said:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn an_unresponsive_client_is_disconnected_and_a_silent_one_is_not() {
    let gateway = Gateway::with(Config {
        keepalive: Duration::from_millis(700),
        ..Config::default()
    })
    .await;
    let said = gateway.ssh(&[ME, "sleep 5; echo done"]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), "done\n"));

    let mut client = gateway.begin(&[ME, "echo $$; exec sleep 600"]);
    let mut out = BufReader::new(client.stdout.take().unwrap()).lines();
    let program = out.next_line().await.unwrap().unwrap();
    let program = std::path::Path::new("/proc").join(program);
    assert!(program.exists());
    let pid = rustix::process::Pid::from_raw(client.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let began = Instant::now();
    while program.exists() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "its program should end"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        began.elapsed() > Duration::from_millis(1400),
        "it got more than one keepalive"
    );
}

#[tokio::test]
async fn only_harmless_variables_are_passed_on() {
    let gateway = Gateway::start().await;
    let said = gateway
        .ssh(&[
            "-o",
            "SendEnv=LANG",
            "-o",
            "SetEnv=LD_PRELOAD=/tmp/x",
            ME,
            "echo $LANG ${LD_PRELOAD:-none}",
        ])
        .await;
    assert_eq!(said.out, "de_DE.UTF-8 none\n", "{said:?}");
}

#[tokio::test]
async fn input_larger_than_all_buffers_is_carried_both_ways() {
    let gateway = Gateway::start().await;
    let mut big = vec![0u8; 12 * 1024 * 1024];
    rand::rng().fill(&mut big[..]);
    let text: String = big.iter().map(|b| char::from(b'a' + b % 26)).collect();
    let said = gateway
        .program("ssh", "key", &[ME, "cat"], text.as_bytes())
        .await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out == text);
    // A program that reads nothing doesn't delay the end of its connection.
    let said = gateway
        .program("ssh", "key", &[ME, "sleep 1; echo done"], text.as_bytes())
        .await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), "done\n"));
}

#[tokio::test]
async fn a_terminal_is_a_login_shell_with_the_client_s_size() {
    let gateway = Gateway::start().await;
    let said = gateway
        .program("ssh", "key", &["-tt", ME], b"echo $((6*7)); exit 3\n")
        .await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.out.contains("42"), "{said:?}");
    let execs = gateway.machine.execs.lock().unwrap();
    assert!(execs[0].argv.is_empty() && execs[0].pty.is_some());
}

#[tokio::test]
async fn a_terminal_has_the_client_s_size_and_follows_it() {
    let gateway = Gateway::start().await;
    let inner = format!(
        "stty rows 41 cols 99; tty=$(tty); (sleep 2; stty rows 50 cols 120 <$tty) & ssh {} -tt {ME} 'sleep 4'",
        gateway.options("key").join(" ")
    );
    let ended = Command::new("script")
        .args(["-qec", &inner, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    let ended = tokio::time::timeout(Duration::from_secs(60), ended)
        .await
        .expect("it hangs")
        .unwrap();
    assert!(ended.success());
    let pty = gateway.machine.execs.lock().unwrap()[0]
        .pty
        .clone()
        .unwrap();
    assert_eq!((pty.rows, pty.cols), (41, 99));
    assert!(gateway.machine.resizes.lock().unwrap().contains(&(50, 120)));
}

#[tokio::test]
async fn files_are_copied_both_ways() {
    if !std::path::Path::new("/usr/lib/openssh/sftp-server").exists() {
        eprintln!("skipped: openssh-sftp-server is not installed on this machine");
        return;
    }
    let gateway = Gateway::start().await;
    let (from, there, back) = (
        gateway.path("from"),
        gateway.path("there"),
        gateway.path("back"),
    );
    let content: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(&from, &content).unwrap();
    let remote = format!("{ME}:{}", there.display());
    let said = gateway
        .program("scp", "key", &[from.to_str().unwrap(), &remote], b"")
        .await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let batch = format!(
        "get {} {}\nls -l {}\n",
        there.display(),
        back.display(),
        there.display()
    );
    let said = gateway
        .program("sftp", "key", &["-b", "-", ME], batch.as_bytes())
        .await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(std::fs::read(back).unwrap(), content);
}

/// Starts a server that responds to each byte with its successor. Returns its port.
async fn successor() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                    buffer[..n].iter_mut().for_each(|b| *b += 1);
                    if socket.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn local_forwards_connect_from_the_guest_and_remote_ones_are_refused() {
    let gateway = Gateway::start().await;
    let port = successor().await;
    let said = gateway
        .program(
            "ssh",
            "key",
            &["-W", &format!("127.0.0.1:{port}"), ME],
            b"HAL",
        )
        .await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), "IBM"), "{said:?}");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = free.local_addr().unwrap().port();
    drop(free);
    let forward = format!("{local}:127.0.0.1:{port}");
    let mut child = gateway.begin(&["-N", "-L", &forward, ME]);
    let mut socket = loop {
        match TcpStream::connect(("127.0.0.1", local)).await {
            Ok(socket) => break socket,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    socket.write_all(b"VMS").await.unwrap();
    let mut answer = [0; 3];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"WNT");
    child.kill().await.unwrap();

    let said = gateway.ssh(&["-W", "127.0.0.1:1", ME]).await;
    assert!(
        said.err.contains("Connection refused") || said.err.contains("onnect"),
        "{said:?}"
    );
    assert_ne!(said.code, Some(0));

    let said = gateway
        .ssh(&[
            "-o",
            "ExitOnForwardFailure=yes",
            "-N",
            "-R",
            "0:127.0.0.1:1",
            ME,
        ])
        .await;
    assert_eq!(said.code, Some(255));
    assert!(
        said.err.contains("remote port forwarding failed"),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_node_is_reached_through_a_jump() {
    // The inner ssh would connect to the node's sshd. Here that is the gateway itself.
    let gateway = Gateway::start().await;
    let proxy = format!(
        "ProxyCommand=ssh {} -W %h:%p {ME}",
        gateway.options("key").join(" ")
    );
    let said = gateway.ssh(&["-o", &proxy, ME, "echo through"]).await;
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "through\n"),
        "{said:?}"
    );
}

#[tokio::test]
async fn all_refusals_look_alike() {
    let gateway = Gateway::start().await;
    let said = gateway
        .program("ssh", "hers", &["hers@127.0.0.1", "true"], b"")
        .await;
    assert_eq!(said.code, Some(0), "her key opens hers: {said:?}");
    let mut quickest = [Duration::MAX; 7];
    // Shorter than the lookup of `slow` takes.
    let alike = |quickest: &[Duration]| {
        let (least, most) = (quickest.iter().min(), quickest.iter().max());
        *most.unwrap() - *least.unwrap() < Duration::from_millis(90)
    };
    // The client's start time varies under load, so the fastest of several tries shows the gateway's part.
    for _ in 0..40 {
        for (at, (key, user)) in [
            ("unknown", "mine"),
            ("hers", "mine"),
            ("key", "hers"),
            ("key", "nobody"),
            ("key", "slow"),
            ("key", "node9.mine"),
            ("key", "NOT.A..NAME"),
        ]
        .into_iter()
        .enumerate()
        {
            let began = Instant::now();
            let said = gateway
                .program("ssh", key, &[&format!("{user}@127.0.0.1"), "true"], b"")
                .await;
            assert_eq!(said.code, Some(255));
            assert_eq!(
                said.err.replace(user, "USER"),
                "USER@127.0.0.1: Permission denied (publickey).\r\n"
            );
            quickest[at] = quickest[at].min(began.elapsed());
        }
        if alike(&quickest) {
            break;
        }
    }
    assert!(alike(&quickest), "{quickest:?}");
    for took in quickest {
        assert!(took >= Duration::from_millis(350), "{took:?}");
    }
    let said = gateway
        .ssh(&[
            "-o",
            "PreferredAuthentications=password,keyboard-interactive",
            ME,
        ])
        .await;
    assert!(
        said.err.contains("Permission denied (publickey)"),
        "{said:?}"
    );
}

#[tokio::test]
async fn without_a_guest_link_a_shell_gets_the_console_and_a_command_the_reason() {
    let gateway = Gateway::start().await;
    gateway.machine.lost.store(true, Ordering::SeqCst);
    let said = gateway.ssh(&[ME, "true"]).await;
    assert_eq!(said.code, Some(255));
    assert!(
        said.err
            .contains("faultline: node1: the guest link is lost"),
        "{said:?}"
    );
    let mut child = gateway.begin(&["-tt", ME]);
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"hello\n")
        .await
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut heard = String::new();
    let mut buffer = [0; 512];
    while !heard.contains("console: HELLO") {
        let n = tokio::time::timeout(Duration::from_secs(20), out.read(&mut buffer))
            .await
            .expect("no console")
            .unwrap();
        assert!(n > 0, "{heard}");
        heard.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
}

#[tokio::test]
async fn invalid_input_neither_hangs_nor_breaks_the_gateway() {
    let gateway = Gateway::with(Config {
        login_grace: Duration::from_secs(2),
        ..Config::default()
    })
    .await;
    let mut clients = tokio::task::JoinSet::new();
    for round in 0..90u32 {
        let port = gateway.port;
        clients.spawn(async move {
            let mut bytes = vec![0u8; 3000];
            rand::rng().fill(&mut bytes[..]);
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            if round % 3 > 0 {
                let _ = socket.write_all(b"SSH-2.0-Nonsense\r\n").await;
            }
            if round % 3 == 2 {
                // A packet of a plausible length, with a key exchange's number and garbage inside.
                bytes[..6].copy_from_slice(&[0, 0, 1, 0xfc, 4, 20]);
            }
            let _ = socket.write_all(&bytes).await;
            let mut sink = Vec::new();
            let _ = socket.read_to_end(&mut sink).await;
        });
    }
    // Clients that send nothing, or stop halfway, are disconnected after the login grace time.
    for begin in [b"".as_slice(), b"SSH-2.0-", b"SSH-2.0-x\r\n\0\0"] {
        let port = gateway.port;
        clients.spawn(async move {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let _ = socket.write_all(begin).await;
            let mut sink = Vec::new();
            let _ = socket.read_to_end(&mut sink).await;
        });
    }
    tokio::time::timeout(Duration::from_secs(40), clients.join_all())
        .await
        .expect("connections with invalid input should end");
    let said = gateway.ssh(&[ME, "echo fine"]).await;
    assert_eq!(said.out, "fine\n", "{said:?}");
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_blocked() {
    let gateway = Gateway::with(Config {
        rejection: Duration::from_millis(10),
        limits: limit::Limits {
            failures_per_minute: 2,
            ..limit::Limits::default()
        },
        ..Config::default()
    })
    .await;
    for _ in 0..3 {
        gateway.program("ssh", "unknown", &[ME, "true"], b"").await;
    }
    let said = gateway.ssh(&[ME, "echo in"]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(255), ""), "{said:?}");
}

#[tokio::test]
async fn stopping_ends_connections_and_returns() {
    let gateway = Gateway::start().await;
    let mut child = gateway.begin(&[ME, "echo ready; sleep 60"]);
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .await
        .unwrap();
    gateway.stop.cancel();
    let output = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output())
        .await
        .expect("the client should end")
        .unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stopping"));
    tokio::time::timeout(Duration::from_secs(10), gateway.served)
        .await
        .expect("the gateway should return")
        .unwrap()
        .unwrap();
}
