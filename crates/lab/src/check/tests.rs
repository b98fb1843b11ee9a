use std::{net::Ipv4Addr, path::PathBuf, sync::atomic::Ordering};

use faultline_domain::{lab::Lab, limits::Limits, progress::Progress};
use simple_dns::{CLASS, Name, Packet, ResourceRecord, rdata::RData};

use super::*;
use crate::{
    prove::{WrongRepair, prove, try_wrong},
    scaffold, set_up,
    setup::SetupError,
    testing::{Machine, Port},
};

fn env() -> TenantId {
    "test".parse().unwrap()
}

#[test]
fn a_run_is_given_the_time_that_its_checks_may_take() {
    let checks = ["a", "b", "c"].map(|name| {
        format!("  - {{name: {name}, title: it stays, test: {{object: {{kind: Pod, namespace: default, name: web, stays_seconds: 120}}}}, fail: it did not}}\n")
    });
    let three = longest(&lab(&checks.concat(), &[]).lab);
    assert!(three > Duration::from_secs(3 * 120), "{three:?}");
    let script = "  - {name: a, title: it holds, test: {script: checks/a.sh}, timeout_seconds: 100, fail: it does not}\n";
    let one = longest(&lab(script, &[("checks/a.sh", "true")]).lab);
    assert!(one >= PING + Duration::from_secs(100), "{one:?}");
}

/// Returns a lab with these checks, in YAML, and these scripts.
fn lab(checks: &str, scripts: &[(&str, &str)]) -> LabFolder {
    let yaml = format!(
        "title: A lab\nsummary: A lab of a test\nlevel: beginner\ntopics: [test]\nminutes: 1\nsetup: [{{script: setup/a.sh}}]\nchecks:\n{checks}\nhints: [{{text: hint 1}}, {{text: hint 2}}, {{text: hint 3}}]\n"
    );
    let lab: Lab = crate::yaml::parse(&yaml)
        .map_err(|d| d[0].render(""))
        .unwrap();
    LabFolder {
        path: PathBuf::new(),
        slug: "a-lab".parse().unwrap(),
        lab,
        yaml: String::new(),
        readme: String::new(),
        solution: String::new(),
        solution_script: b"#!/bin/bash\n".to_vec(),
        scripts: scripts
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect(),
        wrong: BTreeMap::new(),
        hash: String::new(),
        proof_hash: String::new(),
    }
}

/// Returns a lab's only check, in YAML.
fn one(test: &str) -> String {
    format!(
        "  - {{name: it, title: it holds, fail: it does not hold, hint: 2, timeout_seconds: 1, test: {{{test}}}}}"
    )
}

async fn evaluate(machine: &Machine, test: &str, script: &str) -> CheckResult {
    let folder = lab(&one(test), &[("checks/it.sh", script)]);
    let mut told = Vec::new();
    let outcome = check(machine, &env(), &folder, |r| told.push(r)).await;
    assert_eq!(told, outcome.results);
    outcome.results.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_script_says_what_it_saw_with_trusted_tools() {
    let machine = Machine::default();
    let good = evaluate(
        &machine,
        "script: checks/it.sh",
        "#!/bin/bash\necho all is well\n",
    )
    .await;
    assert!(good.passed && good.hint.is_none() && good.message.is_empty());
    assert_eq!(good.seen, "all is well");
    assert!(machine.0.ran.lock().unwrap().iter().all(|(argv, trusted)| {
        *trusted
            && argv[0].to_str().unwrap().starts_with("/usr/")
            && argv
                .iter()
                .all(|a| !a.to_str().unwrap().contains("all is well"))
    }));

    let bad = evaluate(
        &machine,
        "script: checks/it.sh",
        "#!/bin/bash\necho broken; exit 1\n",
    )
    .await;
    assert_eq!(
        (
            bad.passed,
            bad.message.as_str(),
            bad.seen.as_str(),
            bad.hint,
            bad.evaluated
        ),
        (false, "it does not hold", "broken", Some(2), true)
    );
}

#[tokio::test]
async fn a_broken_or_endless_script_and_a_dead_link_are_told_apart() {
    let machine = Machine::default();
    let script = "script: checks/it.sh";
    let broken = evaluate(&machine, script, "#!/bin/bash\nno-such-program\n").await;
    assert!(!broken.evaluated && broken.message.contains("no-such-program"));
    let endless = evaluate(&machine, script, "#!/bin/bash\nsleep 60\n").await;
    assert_eq!(
        (endless.evaluated, endless.seen.as_str()),
        (true, "not finished after 1 s")
    );

    machine.0.lost.store(true, Ordering::SeqCst);
    let dead = evaluate(&machine, script, "#!/bin/bash\n").await;
    assert!(!dead.passed);
    assert!(
        dead.message
            .contains("the helper inside node1 does not answer"),
        "{}",
        dead.message
    );
    assert!(!dead.evaluated);
}

#[tokio::test]
async fn a_silent_api_server_is_told_plainly_with_what_the_guest_shows() {
    let machine = Machine::default();
    for test in ["cluster: {}", "object: {kind: Pod}", "can_i: {who: bot}"] {
        let down = evaluate(&machine, test, "").await;
        assert_eq!((down.passed, down.evaluated), (false, true), "{test}");
        assert_eq!(down.message, "it does not hold");
        let (said, shown) = down.seen.split_once("; on node1 ").unwrap();
        assert!(
            said.starts_with("the cluster's API server does not answer ("),
            "{said}"
        );
        assert!(shown.contains("kubelet and containerd:"), "{shown}");
    }
    assert!(
        machine
            .0
            .ran
            .lock()
            .unwrap()
            .iter()
            .all(|(_, trusted)| *trusted)
    );

    machine.0.lost.store(true, Ordering::SeqCst);
    let down = evaluate(&machine, "cluster: {}", "").await;
    assert!(!down.passed && down.evaluated);
    assert!(
        down.seen.ends_with(')') && !down.seen.contains("on node1"),
        "{}",
        down.seen
    );
}

#[tokio::test]
async fn hostile_output_is_bounded_and_cleaned() {
    let machine = Machine::default();
    let flood = "#!/bin/bash\nprintf '\\033]0;title\\007\\033[2Jhello\\n'\nhead -c 3000000 /dev/zero | tr '\\0' x\n";
    let said = evaluate(&machine, "script: checks/it.sh", flood).await;
    assert!(said.passed && said.seen.starts_with("hello\nxxx"));
    assert!(said.seen.chars().count() <= MAX_SEEN + 1);
}

#[tokio::test]
async fn tcp_is_open_or_closed() {
    let machine = Machine::default();
    machine.0.ports.lock().unwrap().insert(80, Port::Silent);
    for (test, passed) in [
        ("tcp: {port: 80}", true),
        ("tcp: {port: 80, open: false}", false),
        ("tcp: {port: 81}", false),
        ("tcp: {port: 81, open: false}", true),
    ] {
        let result = evaluate(&machine, test, "").await;
        assert_eq!(result.passed, passed, "{test}: {result:?}");
        assert!(result.evaluated);
    }
}

#[tokio::test]
async fn http_looks_at_status_and_body() {
    let machine = Machine::default();
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.resize(1_000_000, b'x');
    machine.0.ports.lock().unwrap().extend([
        (
            80,
            Port::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n42 items".to_vec()),
        ),
        (
            81,
            Port::Says(b"HTTP/1.0 502 Bad Gateway\r\n\r\nno".to_vec()),
        ),
        (82, Port::Silent),
        (83, Port::Says(b"\x00\xffSSH-2.0\r\n\r\n".to_vec())),
        (84, Port::Says(endless)),
    ]);
    for (test, passed, seen) in [
        (
            "http: {port: 80, body: '^\\d+ items$'}",
            true,
            "answered 200: 42 items",
        ),
        (
            "http: {port: 80, body: '43'}",
            false,
            "answered 200: 42 items",
        ),
        ("http: {port: 80, status: 404}", false, "answered 200"),
        ("http: {port: 81}", false, "answered 502: no"),
        ("http: {port: 82}", false, "no answer within 1 s"),
        ("http: {port: 83}", false, "http://node1:83/: "),
        ("http: {port: 84}", true, "answered 200: xxx"),
        ("http: {port: 85}", false, "refuses the connection"),
    ] {
        let result = evaluate(&machine, test, "").await;
        assert_eq!(result.passed, passed, "{test}: {result:?}");
        assert!(result.seen.contains(seen), "{test}: {}", result.seen);
        assert!(result.evaluated);
    }
}

fn dns_answer(id: u16, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let mut packet = Packet::new_reply(id);
    for address in addresses {
        packet.answers.push(ResourceRecord::new(
            Name::new("db.test").unwrap(),
            CLASS::IN,
            1,
            RData::A((*address).into()),
        ));
    }
    let body = packet.build_bytes_vec().unwrap();
    let mut bytes = u16::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

#[tokio::test]
async fn dns_compares_addresses_in_any_order() {
    let machine = Machine::default();
    let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    machine.0.ports.lock().unwrap().extend([
        (53, Port::Says(dns_answer(0x4661, &[b, a]))),
        (54, Port::Says(dns_answer(0x4661, &[]))),
        (55, Port::Says(dns_answer(1, &[a]))),
        (56, Port::Says(vec![0, 4, 1, 2, 3, 4])),
        (57, Port::Says(vec![0xff])),
    ]);
    for (test, passed, seen) in [
        (
            "dns: {name: db.test}",
            true,
            "db.test is 10.0.0.1, 10.0.0.2",
        ),
        (
            "dns: {name: db.test, answers: [10.0.0.1, 10.0.0.2]}",
            true,
            "db.test is",
        ),
        (
            "dns: {name: db.test, answers: [10.0.0.1]}",
            false,
            "db.test is",
        ),
        ("dns: {name: db.test, port: 54}", false, "no address"),
        ("dns: {name: db.test, port: 55}", false, "another question"),
        ("dns: {name: db.test, port: 56}", false, "not a DNS message"),
        ("dns: {name: db.test, port: 57}", false, "node1:57"),
        ("dns: {name: db.test, port: 58}", false, "refuses"),
    ] {
        let result = evaluate(&machine, test, "").await;
        assert_eq!(result.passed, passed, "{test}: {result:?}");
        assert!(result.seen.contains(seen), "{test}: {}", result.seen);
    }
}

#[tokio::test]
async fn files_are_looked_at() {
    let machine = Machine::default();
    machine.0.files.lock().unwrap().extend([
        (
            "/etc/conf".to_owned(),
            (0o640, b"one = 1\ntwo = 2\n".to_vec()),
        ),
        ("/etc/dir".to_owned(), (0o755, Vec::new())),
    ]);
    for (test, passed) in [
        ("file: {path: /etc/conf}", true),
        ("file: {path: /etc/none}", false),
        ("file: {path: /etc/none, exists: false}", true),
        ("file: {path: /etc/conf, exists: false}", false),
        ("file: {path: /etc/conf, mode: '0640'}", true),
        ("file: {path: /etc/conf, mode: '0644'}", false),
        ("file: {path: /etc/conf, matches: '(?m)^two *= *2$'}", true),
        ("file: {path: /etc/conf, matches: three}", false),
        ("file: {path: /etc/conf, lacks: three}", true),
        ("file: {path: /etc/conf, lacks: one}", false),
        ("file: {path: /etc/dir, matches: x}", false),
    ] {
        let result = evaluate(&machine, test, "").await;
        assert_eq!(result.passed, passed, "{test}: {result:?}");
        assert!(result.evaluated);
    }
    let bad = evaluate(&machine, "file: {path: /etc/conf, lacks: two}", "").await;
    assert_eq!(bad.seen, "/etc/conf contains text that must not be there");
}

const LIMITS: Limits = Limits {
    cpu_millis: 1000,
    memory_mib: 512,
    pids: 10,
    disk_mib_s: 200,
    disk_iops: 4000,
    bandwidth_mbit: 1,
};

/// Returns a lab whose machine is a folder, and broken if that contains `broken`.
fn folder_lab(dir: &std::path::Path, solution: &str) -> LabFolder {
    let dir = dir.display();
    let mut folder = lab(
        &one("script: checks/it.sh"),
        &[
            ("setup/a.sh", &format!("#!/bin/bash\ntouch {dir}/broken\n")),
            (
                "checks/it.sh",
                &format!("#!/bin/bash\n[ ! -e {dir}/broken ]\n"),
            ),
        ],
    );
    folder.solution_script = solution.replace("DIR", &dir.to_string()).into_bytes();
    folder
}

#[tokio::test]
async fn a_lab_is_proven_when_its_solution_repairs_it() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::default();
    let folder = folder_lab(dir.path(), "#!/bin/bash\nrm DIR/broken\n");
    let proof = prove(&machine, &env(), &folder, LIMITS, &Progress::ignored()).await;
    assert!(proof.proven(), "{proof:?}");
    let steps: Vec<&str> = proof.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        steps,
        [
            "start", "setup", "broken", "solution", "repaired", "destroy"
        ]
    );
    assert!(!proof.before.passed() && proof.after.passed());
    assert!(machine.0.destroyed.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_lab_that_breaks_nothing_or_whose_solution_fails_is_not_proven() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::default();
    let mut folder = folder_lab(dir.path(), "#!/bin/bash\necho not this way >&2; exit 3\n");
    let proof = prove(&machine, &env(), &folder, LIMITS, &Progress::ignored()).await;
    let (step, why) = proof.failure().unwrap();
    assert_eq!(step, "solution");
    assert!(
        why.contains("exit code 3") && why.contains("not this way"),
        "{why}"
    );
    assert!(machine.0.destroyed.load(Ordering::SeqCst));

    folder
        .scripts
        .insert("setup/a.sh".to_owned(), b"#!/bin/bash\n".to_vec());
    std::fs::remove_file(dir.path().join("broken")).unwrap();
    let proof = prove(&machine, &env(), &folder, LIMITS, &Progress::ignored()).await;
    let (step, why) = proof.failure().unwrap();
    assert_eq!(step, "broken");
    assert!(
        why.contains("every check passes on the untouched machine"),
        "{why}"
    );

    // A check that can't be evaluated proves nothing, although it doesn't hold.
    folder.scripts.insert(
        "checks/it.sh".to_owned(),
        b"#!/bin/bash\nno-such-program\n".to_vec(),
    );
    let proof = prove(&machine, &env(), &folder, LIMITS, &Progress::ignored()).await;
    assert!(proof.failure().unwrap().1.contains("could be evaluated"));
}

/// Tries a wrong repair of a lab whose only check can't be evaluated if the machine's folder contains `strange`.
async fn wrongly(repair: &str) -> WrongRepair {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::default();
    let mut folder = folder_lab(dir.path(), "#!/bin/bash\n");
    let filled = |text: &str| text.replace("DIR", &dir.path().display().to_string());
    let check = filled("#!/bin/bash\n[ ! -e DIR/strange ] || exit 127\n[ ! -e DIR/broken ]\n");
    let repair = filled(&format!("#!/bin/bash\n# Too wide.\n{repair}\n"));
    folder
        .scripts
        .insert("checks/it.sh".to_owned(), check.into());
    folder.wrong.insert("wrong/x.sh".to_owned(), repair.into());
    let progress = Progress::ignored();
    let tried = try_wrong(&machine, &env(), &folder, "wrong/x.sh", LIMITS, &progress).await;
    assert!(machine.0.destroyed.load(Ordering::SeqCst));
    assert_eq!(tried.about, "Too wide.");
    tried
}

#[tokio::test]
async fn a_wrong_repair_is_good_when_a_check_that_was_carried_out_fails() {
    let (narrow, right, fails, strange) = tokio::join!(
        wrongly("true"),
        wrongly("rm DIR/broken"),
        wrongly("echo no way; exit 3"),
        wrongly("rm DIR/broken; touch DIR/strange"),
    );
    assert_eq!(narrow.failure(), None);
    assert_eq!(narrow.caught_by().collect::<Vec<_>>(), ["it"]);
    for (tried, said) in [
        (right, "wrong/x.sh passes all checks: Too wide."),
        (
            fails,
            "wrong/x.sh: repair: wrong/x.sh ended with exit code 3; its last words: no way",
        ),
        (
            strange,
            "wrong/x.sh fails no check that could be carried out: it: ",
        ),
    ] {
        let failure = tried.failure().unwrap_or_default();
        assert!(failure.starts_with(said), "{failure}");
        assert_eq!(tried.caught_by().count(), 0);
    }
}

#[tokio::test]
async fn a_failed_setup_says_script_node_code_and_last_words() {
    let folder = {
        let mut folder = lab(&one("tcp: {port: 1}"), &[]);
        folder.scripts.insert(
            "setup/a.sh".to_owned(),
            b"#!/bin/bash\necho one; echo two >&2; exit 4\n".to_vec(),
        );
        folder
    };
    let error = set_up(&Machine::default(), &env(), &folder, &Progress::ignored())
        .await
        .unwrap_err();
    assert!(matches!(&error, SetupError::Failed { code: 4, .. }));
    let text = error.to_string();
    assert!(
        text.contains("setup/a.sh failed on node1 with exit code 4"),
        "{text}"
    );
    assert!(text.contains("one") && text.contains("two"), "{text}");
}

#[tokio::test]
async fn a_symptom_that_does_not_show_fails_the_setup_with_what_was_seen_last() {
    let mut folder = lab(&one("tcp: {port: 1}"), &[]);
    let step =
        serde_json::json!({"wait": {"kind": "Pod", "namespace": "shop"}, "timeout_seconds": 1});
    folder.lab.setup = vec![serde_json::from_value(step).unwrap()];
    let error = set_up(&Machine::default(), &env(), &folder, &Progress::ignored())
        .await
        .unwrap_err();
    let SetupError::Symptom {
        seconds: 1, seen, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(!seen.is_empty());
    assert!(error.to_string().contains(seen.as_str()), "{error}");
    assert_eq!(error.discreet(), "the incident did not show within 1 s");
}

#[test]
fn the_scaffold_is_a_lab() {
    let dir = tempfile::tempdir().unwrap();
    scaffold::create(dir.path(), &"x-lab".parse().unwrap()).unwrap();
    assert!(scaffold::create(dir.path(), &"x-lab".parse().unwrap()).is_err());
    let loaded = LabFolder::load(&dir.path().join("x-lab"));
    assert_eq!(loaded.diagnostics, Vec::new());
}
