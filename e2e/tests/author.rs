//! An author writes and proves a lab on a real machine: `lab new`, `lint`, `run` with files that change meanwhile,
//! `test --junit`. Needs `scripts/build dev` and the image of plain machines.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use faultline_e2e::installation::{processes_with, program, reading, step, text, workspace};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

/// Runs `faultline lab …` with the test's own folder of labs.
struct Author(tempfile::TempDir);

impl Author {
    fn lab(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .current_dir(workspace())
            .arg("lab")
            .args(args)
            .arg("--labs")
            .arg(self.0.path());
        command
    }

    fn done(&self, args: &[&str]) -> String {
        let done = self.lab(args).output().unwrap();
        let said = format!("{}{}", text(&done.stdout), text(&done.stderr));
        assert!(done.status.success(), "{args:?}: {said}");
        said
    }

    /// Starts a `lab run`. Returns it and its output, which grows.
    fn run(&self, name: &str) -> (Running, Arc<Mutex<String>>) {
        let mut child = self
            .lab(&["run", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = reading(child.stdout.take().unwrap());
        let stdin = child.stdin.take().unwrap();
        (Running(child, stdin), said)
    }
}

/// A `lab run` that is controlled line by line. It is killed on drop.
struct Running(Child, ChildStdin);

impl Running {
    fn say(&mut self, line: &str) {
        writeln!(self.1, "{line}").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `holds` returns true. After `seconds`, fails the test with the text of `story`.
fn within(seconds: u64, story: impl Fn() -> String, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        let limit = Duration::from_secs(seconds);
        assert!(began.elapsed() < limit, "{}", story());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn until(said: &Mutex<String>, what: &str) {
    within(
        90,
        || format!("{what:?} does not appear: {}", said.lock().unwrap()),
        || said.lock().unwrap().contains(what),
    );
    // The next text is searched only in the output after this one.
    said.lock().unwrap().clear();
}

#[test]
fn from_nothing_to_a_proven_lab() {
    let author = Author(tempfile::tempdir().unwrap());
    step("a new lab has no findings");
    author.done(&["new", "cache-is-cold"]);
    author.done(&["lint", "cache-is-cold"]);

    step("it runs, is changed, repaired, and set up again");
    let (mut run, said) = author.run("cache-is-cold");
    until(&said, "is broken as it should be");
    run.say("c");
    until(&said, "not repaired");
    let readme = author.0.path().join("cache-is-cold/README.md");
    let told = std::fs::read_to_string(&readme).unwrap();
    std::fs::write(&readme, told + "\nIt began on Monday.\n").unwrap();
    until(&said, "were reloaded");
    run.say("i");
    until(&said, "It began on Monday.");
    let lab = author.0.path().join("cache-is-cold/lab.yaml");
    let whole = std::fs::read_to_string(&lab).unwrap();
    std::fs::write(&lab, whole.replace("minutes:", "minuets:")).unwrap();
    until(&said, "what was read before stays");
    run.say("c");
    until(&said, "not repaired");
    std::fs::write(&lab, whole).unwrap();
    until(&said, "were reloaded");
    run.say("v");
    until(&said, "solution.sh succeeded");
    run.say("c");
    until(&said, "\nrepaired");
    run.say("s");
    run.say("c");
    until(&said, "not repaired");
    run.say("q");
    until(&said, "destroying the machine");
    assert!(run.0.wait().unwrap().success());

    step("it is proven, with a report for CI");
    let report = author.0.path().join("junit.xml");
    author.done(&["test", "cache-is-cold", "--junit", report.to_str().unwrap()]);
    let report = std::fs::read_to_string(report).unwrap();
    assert!(
        report.contains("tests=\"1\" failures=\"0\" skipped=\"0\"")
            && report.contains("name=\"cache-is-cold\"")
            && report.contains("wrong/everybody-writes.sh  page-is-readable"),
        "{report}"
    );
}

/// Starts a `lab run` on its own terminal, which closes when the file is dropped.
fn on_a_terminal(author: &Author, name: &str) -> (Child, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let line = ptsname(&master, Vec::new()).unwrap();
    let options = File::options().read(true).write(true).clone();
    let open = || Stdio::from(options.open(line.to_str().unwrap()).unwrap());
    let run = author.lab(&["run", name]);
    let child = Command::new("setsid")
        .arg("--ctty")
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(workspace())
        .stdin(open())
        .stdout(open())
        .stderr(open())
        .spawn();
    (child.unwrap(), File::from(master))
}

/// Closing the window ends the run.
#[test]
fn a_run_ends_with_its_machine_when_its_terminal_is_closed() {
    let author = Author(tempfile::tempdir().unwrap());
    author.done(&["new", "cache-is-cold"]);
    // The second time, a terminal of the machine is open.
    for seen in [None, Some("leave with Ctrl-]")] {
        step(&format!("closed after {}", seen.unwrap_or("the start")));
        let (mut run, mut terminal) = on_a_terminal(&author, "cache-is-cold");
        let home = format!("/lab/{}/tenants/", run.id());
        let story = || format!("{:?}", processes_with(&home));
        within(60, story, || !processes_with(&home).is_empty());
        let window = std::thread::spawn(move || {
            let (mut said, mut buffer) = (String::new(), [0; 4096]);
            while seen.is_some_and(|seen| !said.contains(seen)) {
                let n = terminal.read(&mut buffer).unwrap();
                said += &text(&buffer[..n]);
            }
        });
        within(90, story, || window.is_finished());
        window.join().unwrap();
        let _ = run.wait().unwrap();
        within(10, story, || processes_with(&home).is_empty());
    }
}

/// Ctrl-C and `kill` end a run at any time, and leave no machine behind.
#[test]
fn a_run_ends_with_its_machine_on_a_signal() {
    let author = Author(tempfile::tempdir().unwrap());
    author.done(&["new", "cache-is-cold"]);
    for (signal, when) in [
        (Signal::TERM, "while its machine is starting"),
        (Signal::INT, "while it is working"),
    ] {
        step(&format!("{signal:?} {when}"));
        let (mut run, said) = author.run("cache-is-cold");
        let home = format!("/lab/{}/tenants/", run.0.id());
        let story = || format!("{:?}, {}", processes_with(&home), said.lock().unwrap());
        if signal == Signal::TERM {
            within(60, story, || !processes_with(&home).is_empty());
        } else {
            until(&said, "is broken as it should be");
        }
        let process = Pid::from_child(&run.0);
        kill_process(process, signal).unwrap();
        assert!(run.0.wait().unwrap().success());
        // A launcher that was just started may outlive the run. It notices that its environment was freed, and exits.
        within(10, story, || processes_with(&home).is_empty());
    }
}

/// Writes and proves a lab with this many nodes and control planes: an object is missing, and `kubectl` creates it.
fn shaped(author: &Author, name: &str, nodes: u32, control_planes: u32, stock: bool) {
    let folder = author.0.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    let names: Vec<_> = (1..=nodes).map(|n| format!("node{n}")).collect();
    let lab = format!(
        "title: Nobody has written the menu
summary: The canteen's menu is missing, on a cluster of the shape that this is about.
level: beginner
topics: [kubernetes]
minutes: 10
needs: {{kubernetes: \"1.36\", nodes: {nodes}, control_planes: {control_planes}, stock: {stock}}}
setup: [{{wait: {{kind: Namespace, name: default}}}}]
checks:
  - name: menu
    title: There is a menu
    fail: The ConfigMap menu is missing.
    test:
      object: {{kind: ConfigMap, namespace: default, name: menu}}
  - name: nodes
    title: Every node is ready
    fail: A node is not ready.
    test:
      cluster: {{nodes: [{}]}}
  - name: pod
    title: A new Pod finds a name on the last node
    fail: No Pod does.
    timeout_seconds: 200
    test:
      from_pod: {{on_node: node{nodes}, request: {{dns: kubernetes.default.svc.cluster.local}}}}
hints: [{{text: Look.}}, {{text: Ask kubectl.}}, {{text: Make one.}}]
",
        names.join(", ")
    );
    let solution = "#!/bin/bash\nkubectl --kubeconfig /etc/kubernetes/admin.conf create configmap menu --from-literal=today=soup\n";
    for (file, text) in [
        ("lab.yaml", &*lab),
        (
            "README.md",
            "# The menu is missing\n\nWrite the ConfigMap `menu`.\n",
        ),
        ("SOLUTION.md", "# The menu\n\n`kubectl create configmap`.\n"),
        ("solution.sh", solution),
    ] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.join("solution.sh"), executable).unwrap();
    author.done(&["lint", name]);
    author.done(&["test", name]);
}

#[test]
#[ignore = "each shape is baked first, for up to half an hour under emulation; ./test --all runs it"]
fn labs_of_other_shapes() {
    let author = Author(tempfile::tempdir().unwrap());
    for (name, nodes, control_planes, stock) in [
        ("pair", 2, 1, false),
        ("stock-kubeadm", 1, 1, true),
        ("three-control-planes", 3, 3, false),
    ] {
        step(&format!("{name}: baked, cloned, probed and proven"));
        shaped(&author, name, nodes, control_planes, stock);
    }
}
