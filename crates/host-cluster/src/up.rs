//! Starting a host cluster.
//!
//! The order: what needs time is begun first. While nodes take over their container images, kubeadm makes the certificates
//! and the control plane starts; while nodes register, manifests are applied.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Child,
};

use faultline_domain::progress::{Event, Progress, Stage};
use serde_json::Value;

use crate::{
    Error, Lock, Result, addons,
    configure::{self, Machine},
    down::{self, groups},
    failed,
    groups::Groups,
    keys,
    place::{Member, Place},
    prepare::Prepared,
    process::{self, Job, ServiceState, start},
    root,
    state::{Phase, State},
    status::{Condition, Status, first_process, status},
    tools::{Tools, end_of},
    watch::{Watch, tell},
    wire,
};

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub place: Place,
    /// The `faultline` program, which the cluster's processes run.
    pub program: PathBuf,
    /// The folder of image recipes.
    pub recipes: PathBuf,
    /// The minor version of Kubernetes, such as `1.36`.
    pub kubernetes: String,
    /// The port on this machine's loopback. `None` means any free one.
    pub port: Option<u16>,
}

/// What [`up()`] has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// The cluster as it is now.
    pub status: Status,
    /// True if it ran already.
    pub already: bool,
    /// The programs that were started again.
    pub restarted: Vec<String>,
}

/// Starts a cluster and waits until it is usable. If it runs already, starts the programs that have ended. What an
/// interrupted start has left is removed first. Blocking.
pub fn up(options: &Options, progress: &Progress) -> Result<Up> {
    let place = &options.place;
    let _lock = Lock::take(place)?;
    let groups = groups(place)?;
    let state = State::load(&place.folder()).ok();
    if let Some(state) = state
        && state.phase == Phase::Ready
        && !groups.processes().is_empty()
    {
        return repair(options, &state, &groups, progress);
    }
    down::remove(place, &groups)?;
    start_anew(options, &groups, progress)?;
    Ok(Up {
        status: status(place)?,
        already: false,
        restarted: Vec::new(),
    })
}

fn start_anew(options: &Options, groups: &Groups, progress: &Progress) -> Result<()> {
    let place = &options.place;
    let folder = place.folder();
    let mut state = State {
        phase: Phase::Starting,
        kubernetes: options.kubernetes.clone(),
        recipes: options.recipes.clone(),
        port: options.port.unwrap_or(0),
    };
    let begin = || {
        fs::create_dir_all(place.scratch())?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        state.save(&folder)
    };
    begin().map_err(failed(format!("cannot write into {}", folder.display())))?;

    prepare(options, groups, progress)?;
    let prepared = Prepared::load(&folder).map_err(failed("cannot read what was prepared"))?;
    let tools = Tools {
        place,
        groups,
        prepared: &prepared,
    };

    let stage = progress.stage("certificates", "Making namespaces and certificates");
    let mut holders = BTreeMap::new();
    for member in Member::ALL {
        write_root(place, &prepared, member)
            .map_err(failed(format!("cannot write the root folder of {member}")))?;
        holders.insert(
            member,
            start(&options.program, place, groups, Job::Hold(member))?,
        );
    }
    addons::prepare(place, &prepared)?;
    keys::make(&tools)?;
    for member in Member::ALL {
        keys::hand_out(place, member).map_err(failed(format!("cannot copy keys to {member}")))?;
    }
    stage.done();

    let stage = progress.stage("control-plane", "Starting the control plane");
    let control_plane = finish_holder(place, &mut holders, Member::ControlPlane)?;
    wire::control_plane(&tools, control_plane)?;
    tell(control_plane);
    state.port = forward(options, groups)?;
    state
        .save(&folder)
        .map_err(failed("cannot write the cluster's state"))?;
    keys::write_kubeconfig(place, state.port).map_err(failed("cannot write the kubeconfig"))?;
    let mut watch = Watch::new(place, groups);
    watch.until(&stage, "waiting for the API server", || {
        tools
            .kubectl(&["get", "--raw", "/readyz"], "asking the API server")
            .is_ok()
    })?;
    addons::apply_access(&tools)?;
    stage.done();

    let stage = progress.stage("nodes", "Starting the nodes");
    for member in Member::NODES {
        let pid = finish_holder(place, &mut holders, member)?;
        wire::node(&tools, member, pid, control_plane)?;
        tell(pid);
    }
    stage.update(None, "applying DNS, storage and metrics");
    addons::apply(&tools)?;
    watch.until(&stage, "waiting until both nodes are Ready", || {
        ready_nodes(&tools) == 2
    })?;
    for member in Member::NODES {
        let pods = member.pods().unwrap_or_default();
        let patch = format!(r#"{{"spec":{{"podCIDR":"{pods}","podCIDRs":["{pods}"]}}}}"#);
        tools.kubectl(
            &["patch", "node", member.as_str(), "--patch", &patch],
            "recording the addresses of pods",
        )?;
    }
    stage.done();

    let stage = progress.stage("pods", "Waiting for DNS, storage and metrics");
    wait_for_pods(&tools, &mut watch, &stage)?;
    stage.done();
    state.phase = Phase::Ready;
    state
        .save(&folder)
        .map_err(failed("cannot write the cluster's state"))
}

/// Starts what has ended of a cluster that runs.
fn repair(options: &Options, state: &State, groups: &Groups, progress: &Progress) -> Result<Up> {
    let place = &options.place;
    let different = |running: String| Error::Different {
        place: place.clone(),
        running,
    };
    if state.kubernetes != options.kubernetes {
        return Err(different(format!("Kubernetes {}", state.kubernetes)));
    }
    if options.port.is_some_and(|port| port != state.port) {
        return Err(different(format!("at port {}", state.port)));
    }
    let before = status(place)?;
    if before.condition == Condition::Incomplete {
        let gone = Member::ALL
            .into_iter()
            .find(|m| !before.members.contains_key(m));
        return Err(Error::Incomplete {
            place: place.clone(),
            member: gone.unwrap_or(Member::ControlPlane),
        });
    }
    let mut restarted = Vec::new();
    for (member, services) in &before.members {
        let ended = services
            .iter()
            .filter(|(_, s)| !matches!(s, ServiceState::Running { .. }));
        let ended: Vec<_> = ended
            .map(|(name, _)| format!("{name} on {member}"))
            .collect();
        if let (false, Some(pid)) = (ended.is_empty(), first_process(place, groups, *member)) {
            tell(pid);
            restarted.extend(ended);
        }
    }
    if !before.forwards {
        forward(options, groups)?;
        restarted.push("the forwarder".to_owned());
    }
    let prepared =
        Prepared::load(&place.folder()).map_err(failed("cannot read what was prepared"))?;
    let tools = Tools {
        place,
        groups,
        prepared: &prepared,
    };
    if !restarted.is_empty() {
        let stage = progress.stage("restart", "Starting what has ended");
        let mut watch = Watch::new(place, groups);
        watch.until(&stage, "waiting until every program runs", || {
            status(place).is_ok_and(|s| s.condition == Condition::Running)
        })?;
        watch.until(&stage, "waiting until both nodes are Ready", || {
            ready_nodes(&tools) == 2
        })?;
        wait_for_pods(&tools, &mut watch, &stage)?;
        stage.done();
    }
    Ok(Up {
        status: status(place)?,
        already: true,
        restarted,
    })
}

/// Builds programs and images in a process of the cluster, and passes its progress on.
fn prepare(options: &Options, groups: &Groups, progress: &Progress) -> Result<()> {
    let mut child = start(&options.program, &options.place, groups, Job::Prepare)?;
    let mut said = String::new();
    if let Some(pipe) = child.stderr.take() {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Ok(event) = serde_json::from_str::<Event>(&line) {
                progress.report(event);
            } else {
                said.push_str(&line);
                said.push('\n');
            }
        }
    }
    let status = child.wait().map_err(failed("cannot wait for the build"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Step {
        what: "preparing programs and container images".to_owned(),
        reason: end_of(&said),
    })
}

fn write_root(place: &Place, prepared: &Prepared, member: Member) -> std::io::Result<()> {
    let root = place.root(member);
    root::prepare(&root, member.as_str())?;
    process::write_spec(&root, &configure::spec(member, prepared))?;
    if member.pods().is_some() {
        for (path, content) in configure::node_files(member, prepared, Machine::examine()) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&root))?;
            fs::write(path, content)?;
        }
        let id: String = hex::encode(rand_bytes()?).chars().take(32).collect();
        fs::write(root.join("etc/machine-id"), id + "\n")?;
    }
    Ok(())
}

fn rand_bytes() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Waits until a member's namespaces exist, and returns the process ID of its first process.
fn finish_holder(
    place: &Place,
    holders: &mut BTreeMap<Member, Child>,
    member: Member,
) -> Result<u32> {
    let what = || format!("making the namespaces of {member}");
    let done = holders.remove(&member).map(Child::wait_with_output);
    if let Some(done) = done {
        let done = done.map_err(failed(what()))?;
        if !done.status.success() {
            return Err(Error::Step {
                what: what(),
                reason: end_of(&String::from_utf8_lossy(&done.stderr)),
            });
        }
    }
    process::read(&crate::member::pid_file(&place.folder(), member)).map_err(failed(what()))
}

/// Starts the forwarder and returns its port.
fn forward(options: &Options, groups: &Groups) -> Result<u16> {
    let mut child = start(&options.program, &options.place, groups, Job::Forward)?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        let _ = BufReader::new(pipe).read_line(&mut line);
    }
    if let Ok(port) = line.trim().parse() {
        return Ok(port);
    }
    let mut said = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        let _ = pipe.read_to_string(&mut said);
    }
    let _ = child.wait();
    Err(Error::Step {
        what: "forwarding a port of this machine to the API server".to_owned(),
        reason: end_of(&said),
    })
}

/// Returns how many nodes are Ready.
fn ready_nodes(tools: &Tools<'_>) -> usize {
    let nodes = tools.get(&["nodes", "-o", "json"]).unwrap_or_default();
    items(&nodes)
        .filter(|node| has_condition(node, "Ready"))
        .count()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let text = |key: &str| condition.get(key).and_then(Value::as_str);
        text("type") == Some(kind) && text("status") == Some("True")
    })
}

fn wait_for_pods(tools: &Tools<'_>, watch: &mut Watch<'_>, stage: &Stage) -> Result<()> {
    watch.until(
        stage,
        "waiting until DNS, storage and metrics are available",
        || {
            let list = tools
                .get(&["deployments", "-A", "-o", "json"])
                .unwrap_or_default();
            let deployments: Vec<_> = items(&list).collect();
            let named = |name: &str| {
                let found = deployments
                    .iter()
                    .find(|d| d.pointer("/metadata/name").and_then(Value::as_str) == Some(name));
                found.is_some_and(|d| has_condition(d, "Available"))
            };
            ["coredns", "local-path-provisioner", "metrics-server"]
                .into_iter()
                .all(named)
        },
    )?;
    watch.until(stage, "waiting for the first metrics", || {
        addons::has_metrics(tools)
    })
}
