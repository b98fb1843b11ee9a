//! Checks by a request from a pod in the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use faultline_cluster::{
    k8s_openapi::api::core::v1::Pod,
    kube::{
        self, Client,
        api::{Api, DeleteParams, LogParams, PostParams},
    },
};
use faultline_domain::lab::{FromPodTest, PodHttp, PodRequest};
use regex::Regex;
use serde_json::json;

use super::Finding;
use crate::text;

/// The image of probe pods, which every cluster image has.
const IMAGE: &str = "docker.io/library/busybox:1.35";
/// The timeout of a request in the pod, in seconds.
const ANSWER: u32 = 8;
/// The maximum number of attempts until the request ends as it must. A network policy applies to a new pod's packets
/// only a moment after the pod has started, so a forbidden answer may come at first.
const TRIES: u32 = 3;
const LOOK: Duration = Duration::from_millis(500);
/// The exit codes by which the pod reports how its request ended. Any other code means that no request was made: the
/// pod was ended, or lacks the program for it.
const ANSWERED: i32 = 0;
const NO_ANSWER: i32 = 3;
const NOT_MADE: i32 = 4;
/// The pauses before each further attempt to remove a probe pod.
const REMOVALS: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(80),
];
/// The timeout for reading the pod's output from its kubelet.
const LOGS: Duration = Duration::from_secs(8);

pub(super) async fn evaluate(
    client: &Client,
    test: &FromPodTest,
    limit: Duration,
) -> Result<Finding, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &test.namespace);
    let name = format!("faultline-probe-{:08x}", rand::random::<u32>());
    let pod = match serde_json::from_value(manifest(&name, test)) {
        Ok(pod) => pod,
        Err(e) => return Ok(Finding::new(false, e.to_string())),
    };
    api.create(&PostParams::default(), &pod).await?;
    let mut probe = Probe {
        api: api.clone(),
        name: Some(name.clone()),
    };
    let ended = tokio::time::timeout(limit, ended(&api, &name)).await;
    let finding = match ended {
        Ok(Ok(ended)) => {
            let said = tokio::time::timeout(LOGS, api.logs(&name, &LogParams::default())).await;
            match (said.ok().and_then(Result::ok), exit_code(&ended)) {
                (_, None) => judge(test, None, &why_ended(&ended)),
                (Some(said), code) => judge(test, code, &said),
                // How the request ended is known even without the output.
                (None, code) if asks_for_nothing_else(&test.request) => judge(test, code, ""),
                (None, _) => Finding::new(false, "the probe pod's output could not be read"),
            }
        }
        Ok(Err(e)) => Err(e)?,
        Err(_) => Finding::new(false, not_started(&api, &name, limit).await),
    };
    probe.remove().await;
    Ok(finding)
}

/// A probe pod, removed when this is dropped.
struct Probe {
    api: Api<Pod>,
    name: Option<String>,
}

impl Probe {
    /// Removes the pod, which may take a few seconds.
    async fn remove(&mut self) {
        if let Some(name) = self.name.take() {
            remove(self.api.clone(), name).await;
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            tokio::spawn(remove(self.api.clone(), name));
        }
    }
}

/// Removes a pod. A busy API server may take long for it; the check doesn't wait for that.
async fn remove(api: Api<Pod>, name: String) {
    if is_removed(&api, &name).await {
        return;
    }
    tokio::spawn(async move {
        for pause in REMOVALS {
            tokio::time::sleep(pause).await;
            if is_removed(&api, &name).await {
                return;
            }
        }
        tracing::warn!(pod = name, "a probe pod was left behind");
    });
}

async fn is_removed(api: &Api<Pod>, name: &str) -> bool {
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    match tokio::time::timeout(Duration::from_secs(5), api.delete(name, &now)).await {
        Ok(Ok(_)) => true,
        Ok(Err(kube::Error::Api(said))) => said.code == 404,
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Returns the parts of a request in the pod's shell: the command, its arguments, and, if the exit code alone doesn't
/// tell how the request ended, the code that sets `end`.
fn attempt(request: &PodRequest) -> (String, Vec<String>, String) {
    match request {
        PodRequest::Http(http) => match http.status {
            None => (
                format!("timeout {ANSWER} wget -q -O - \"$1\""),
                vec![http.url.clone()],
                String::new(),
            ),
            Some(status) => (
                format!("timeout {ANSWER} wget -S -q -O - \"$1\""),
                vec![http.url.clone(), status.to_string()],
                format!(
                    "case \"$said\" in *\"HTTP/1.\"?\" $2\"*) end={ANSWERED} ;; *) [ $end != {ANSWERED} ] || end={NO_ANSWER} ;; esac;"
                ),
            ),
        },
        // Debian's busybox has no `nc -z`. The program after `-e` runs once the connection is made.
        PodRequest::Tcp(place) => {
            let (host, port) = place.rsplit_once(':').unwrap_or((place, ""));
            (
                format!("timeout {ANSWER} nc -w {ANSWER} \"$1\" \"$2\" -e /bin/true"),
                vec![host.to_owned(), port.to_owned()],
                String::new(),
            )
        }
        // Some versions of nslookup exit with 0 although the name does not exist.
        PodRequest::Dns(dns) => (
            format!("timeout {ANSWER} nslookup \"$1\""),
            vec![dns.name().to_owned()],
            format!(
                "case \"$said\" in *Name:*Address*|*\"name = \"*) ;; *) [ $end != {ANSWERED} ] || end={NO_ANSWER} ;; esac;"
            ),
        ),
    }
}

/// Returns the pod's script. A request was not made if the shell's exit code says that a program is missing or has
/// crashed, or if busybox prints its usage.
fn script(attempt: &str, or_else: &str, answered: bool) -> String {
    let wanted = if answered { "=" } else { "!=" };
    format!(
        "for try in $(seq {TRIES}); do said=$({attempt} 2>&1); code=$?; end={NO_ANSWER}; \
         case \"$code $said\" in \"0 \"*) end={ANSWERED} ;; \
         12[67]\" \"*|13?\" \"*|*\"multi-call binary\"*\"Usage: \"*) end={NOT_MADE} ;; esac; \
         {or_else} \
         if [ $end {wanted} {ANSWERED} ]; then break; fi; sleep 1; done; printf %s \"$said\"; exit $end"
    )
}

fn manifest(name: &str, test: &FromPodTest) -> serde_json::Value {
    let mut labels = BTreeMap::from([("faultline.dev/probe".to_owned(), "true".to_owned())]);
    labels.extend(test.labels.clone());
    // The request's parts are passed as arguments and never become part of the script.
    let (attempt, args, or_else) = attempt(&test.request);
    let script = script(&attempt, &or_else, test.answered);
    let mut command = vec![
        "/bin/sh".to_owned(),
        "-c".to_owned(),
        script,
        "probe".to_owned(),
    ];
    command.extend(args);
    let spec = json!({
        // Without a node, the scheduler chooses.
        "nodeName": test.on_node.as_ref().map(faultline_domain::NodeName::as_str),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{
            "name": "probe", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": command,
            "securityContext": {"allowPrivilegeEscalation": false, "runAsUser": 65534, "runAsNonRoot": true,
                                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
            // The pod is never ready: with a Service's labels it must not become one of its endpoints.
            "readinessProbe": {"exec": {"command": ["/bin/false"]}, "initialDelaySeconds": 3600},
        }],
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": test.namespace, "labels": labels},
        "spec": spec,
    })
}

async fn ended(api: &Api<Pod>, name: &str) -> Result<Pod, kube::Error> {
    loop {
        let pod = api.get(name).await?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Ok(pod);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ended = containers.first()?.state.as_ref()?.terminated.as_ref()?;
    Some(ended.exit_code)
}

/// Returns why a pod ended before any of its containers did: its node evicted or rejected it.
fn why_ended(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let reason = status.and_then(|s| s.reason.as_deref());
    let message = status.and_then(|s| s.message.as_deref());
    let said: Vec<&str> = reason.into_iter().chain(message).collect();
    format!("the probe pod ended as {}", said.join(": "))
}

/// Returns why the pod has not ended.
async fn not_started(api: &Api<Pod>, name: &str, limit: Duration) -> String {
    let status = api.get(name).await.ok().and_then(|p| p.status);
    let phase = status.as_ref().and_then(|s| s.phase.clone());
    let why = status
        .and_then(|s| s.conditions)
        .into_iter()
        .flatten()
        .find(|c| c.status != "True")
        .map(|c| {
            format!(
                ": {} {}",
                c.reason.unwrap_or_default(),
                c.message.unwrap_or_default()
            )
        });
    format!(
        "the probe pod is still {} after {} s{}",
        phase.unwrap_or_default(),
        limit.as_secs(),
        why.unwrap_or_default()
    )
}

fn judge(test: &FromPodTest, code: Option<i32>, said: &str) -> Finding {
    let what = match &test.request {
        PodRequest::Http(http) => &http.url,
        PodRequest::Tcp(place) => place,
        PodRequest::Dns(dns) => dns.name(),
    };
    // The shell's message about a request that `timeout` ended.
    let (ended, lines): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|l| l.trim() == "Terminated");
    let begins = text::clean(lines.join("\n").as_bytes(), 300);
    let holds = match code {
        Some(ANSWERED) => test.answered && fits(&test.request, said),
        // An unexpected status is still an answer.
        Some(NO_ANSWER) => !test.answered && status(said).is_none_or(|_| no_status(&test.request)),
        code => {
            let code = code.map_or_else(String::new, |code| format!(" (exit code {code})"));
            return Finding::new(false, format!("{what} could not be asked{code}: {begins}"));
        }
    };
    let seen = if code == Some(ANSWERED) || status(said).is_some() && !no_status(&test.request) {
        format!("{what} answered: {begins}")
    } else if begins.is_empty() && ended.is_empty() {
        format!("{what} gave no answer")
    } else if begins.is_empty() {
        format!("{what} gave no answer within {ANSWER} s")
    } else {
        format!("{what} gave no answer: {begins}")
    };
    Finding::new(holds, seen)
}

const fn no_status(request: &PodRequest) -> bool {
    !matches!(
        request,
        PodRequest::Http(PodHttp {
            status: Some(_),
            ..
        })
    )
}

/// Returns true if the lab only asks whether an answer comes.
fn asks_for_nothing_else(request: &PodRequest) -> bool {
    match request {
        PodRequest::Http(http) => http.status.is_none() && http.body.is_none(),
        PodRequest::Tcp(_) => true,
        PodRequest::Dns(dns) => dns.answers().is_empty(),
    }
}

/// Returns true if an answer is the expected one.
fn fits(request: &PodRequest, said: &str) -> bool {
    match request {
        PodRequest::Http(http) => {
            let body = if http.status.is_some() {
                body(said)
            } else {
                said
            };
            http.status
                .is_none_or(|wanted| status(said) == Some(wanted))
                && http.body.as_deref().is_none_or(|pattern| {
                    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(body))
                })
        }
        PodRequest::Tcp(_) => true,
        PodRequest::Dns(dns) => {
            let wanted: BTreeSet<Ipv4Addr> = dns.answers().iter().copied().collect();
            wanted.is_empty() || addresses(said) == wanted
        }
    }
}

/// Returns the last status that `wget -S` printed before the body.
fn status(said: &str) -> Option<u16> {
    let head = said.get(..said.len() - body(said).len())?;
    let mut lines = head.lines().filter_map(|l| l.strip_prefix("  HTTP/"));
    lines.next_back()?.split(' ').nth(1)?.parse().ok()
}

/// Returns the text after the headers that `wget -S` prints. Header lines begin with two spaces, and an empty one ends
/// the headers of an answer; after a redirect, another answer follows.
fn body(said: &str) -> &str {
    let mut rest = said;
    while rest.starts_with("  HTTP/") {
        while let Some(line) = rest.split_inclusive('\n').next()
            && line.starts_with("  ")
        {
            rest = rest.get(line.len()..).unwrap_or_default();
            if line.trim().is_empty() {
                break;
            }
        }
    }
    rest
}

/// Returns the IPv4 addresses in the output of `nslookup`, such as `Address: 10.96.0.1` or `Address 1: 10.96.0.1
/// a-name`. The part before the first empty line describes the server that was asked.
fn addresses(said: &str) -> BTreeSet<Ipv4Addr> {
    said.lines()
        .skip_while(|line| !line.trim().is_empty())
        .filter(|line| line.starts_with("Address"))
        .filter_map(|line| line.split_once(':')?.1.split_whitespace().next())
        .filter_map(|address| address.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(request: &str, answered: bool) -> FromPodTest {
        serde_json::from_str(&format!(
            "{{\"namespace\": \"shop\", \"answered\": {answered}, \"labels\": {{\"app\": \"cart\"}}, \"request\": {request}}}"
        ))
        .unwrap()
    }

    #[test]
    fn an_answer_is_judged_and_so_is_its_absence() {
        let http = r#"{"http": {"url": "http://orders/", "body": "^ok"}}"#;
        let (yes, no) = (Some(ANSWERED), Some(NO_ANSWER));
        assert!(judge(&test(http, true), yes, "ok\n").holds);
        assert!(!judge(&test(http, true), yes, "error").holds);
        assert!(!judge(&test(http, true), no, "timed out").holds);
        assert!(judge(&test(http, false), no, "timed out").holds);
        assert!(!judge(&test(http, false), yes, "ok").holds);
    }

    #[test]
    fn a_request_that_was_not_made_holds_neither_way() {
        for code in [None, Some(NOT_MADE), Some(1), Some(137)] {
            for answered in [true, false] {
                let found = judge(&test(r#"{"tcp": "db:5432"}"#, answered), code, "Usage: nc");
                assert!(!found.holds, "{code:?} {answered}");
                assert!(found.seen.contains("could not be asked"), "{}", found.seen);
            }
        }
    }

    #[test]
    fn a_status_is_read_before_the_body() {
        let http = r#"{"http": {"url": "http://orders/", "status": 201, "body": "^ok"}}"#;
        let made = "  HTTP/1.1 201 Created\n  Server: nginx\n  \nok  HTTP/1.1 500 no";
        let moved =
            "  HTTP/1.1 302 Found\n  Location: /x\n  \n  HTTP/1.1 201 Created\n  A: b\n  \nok";
        let terse = "  HTTP/1.1 201 Created\n  Server: nginx\nok";
        for said in [made, moved, terse] {
            assert!(
                judge(&test(http, true), Some(ANSWERED), said).holds,
                "{said}"
            );
        }
        let other = "  HTTP/1.1 200 OK\n  Server: nginx\n  \nok 201";
        assert!(!judge(&test(http, true), Some(ANSWERED), other).holds);

        let gone = r#"{"http": {"url": "http://orders/", "status": 404}}"#;
        let refused =
            "  HTTP/1.1 404 Not Found\nwget: server returned error: HTTP/1.1 404 Not Found";
        assert!(judge(&test(gone, true), Some(ANSWERED), refused).holds);
        let found = judge(&test(gone, true), Some(NO_ANSWER), other);
        assert!(
            !found.holds && found.seen.contains("answered"),
            "{}",
            found.seen
        );
        assert!(!judge(&test(gone, false), Some(NO_ANSWER), other).holds);
        assert!(judge(&test(gone, false), Some(NO_ANSWER), "wget: bad address").holds);
    }

    #[test]
    fn what_the_shell_says_of_a_request_that_took_too_long_is_said_in_words() {
        let http = test(r#"{"http": {"url": "http://a/"}}"#, true);
        let found = judge(&http, Some(NO_ANSWER), "Terminated\nTerminated\n");
        assert_eq!(found.seen, "http://a/ gave no answer within 8 s");
        let found = judge(&http, Some(NO_ANSWER), "");
        assert_eq!(found.seen, "http://a/ gave no answer");
        let found = judge(&http, Some(NO_ANSWER), "wget: bad address\nTerminated\n");
        assert_eq!(found.seen, "http://a/ gave no answer: wget: bad address");
    }

    #[test]
    fn addresses_are_compared_in_any_order_and_the_server_is_none_of_them() {
        let big = "Server:\t\t10.96.0.10\nAddress:\t10.96.0.10:53\n\nNon-authoritative answer:\nName:\terp.example\nAddress: 10.0.0.2\nName:\terp.example\nAddress: 10.0.0.1\n\nName:\terp.example\nAddress: fd00::1\n";
        let small = "Server:    10.96.0.10\nAddress 1: 10.96.0.10 dns.example\n\nName:      erp.example\nAddress 1: 10.0.0.1 a.example\nAddress 2: 10.0.0.2\n";
        let dns = |answers: &str| {
            format!("{{\"dns\": {{\"name\": \"erp.example\", \"answers\": {answers}}}}}")
        };
        for said in [big, small] {
            for (answers, holds) in [
                (r#"["10.0.0.1", "10.0.0.2"]"#, true),
                (r#"["10.0.0.1"]"#, false),
                (r#"["10.0.0.1", "10.0.0.2", "10.96.0.10"]"#, false),
            ] {
                let found = judge(&test(&dns(answers), true), Some(ANSWERED), said);
                assert_eq!(found.holds, holds, "{answers}: {said}");
            }
            assert!(
                judge(
                    &test(r#"{"dns": "erp.example"}"#, true),
                    Some(ANSWERED),
                    said
                )
                .holds
            );
        }
    }

    /// Runs a probe's script on this machine, with shell functions in place of the container's programs.
    fn run(request: &str, answered: bool, programs: &str) -> (Option<i32>, String) {
        let (attempt, args, or_else) = attempt(&test(request, answered).request);
        let script = format!(
            "timeout() {{ shift; \"$@\"; }}; sleep() {{ echo again >&2; }}; {programs}; {}",
            script(&attempt, &or_else, answered)
        );
        let ran = std::process::Command::new("/bin/sh")
            .args(["-c", &script, "probe"])
            .args(args)
            .output()
            .unwrap();
        let tries = String::from_utf8(ran.stderr).unwrap().lines().count();
        (
            ran.status.code(),
            format!("{}+{tries}", String::from_utf8(ran.stdout).unwrap()),
        )
    }

    #[test]
    fn the_script_tells_an_answer_from_none_and_from_a_request_that_was_not_made() {
        let usage = "printf 'BusyBox v1.35.0 multi-call binary.\\n\\nUsage: nc\\n' >&2; return 1";
        let tcp = r#"{"tcp": "db.shop:5432"}"#;
        let http = r#"{"http": {"url": "http://a/"}}"#;
        let status = r#"{"http": {"url": "http://a/", "status": 404}}"#;
        let dns = r#"{"dns": "a.b"}"#;
        for (request, answered, programs, code, said) in [
            (
                tcp,
                true,
                "nc() { echo \"$@\"; }",
                ANSWERED,
                "-w 8 db.shop 5432 -e /bin/true+0",
            ),
            (
                tcp,
                true,
                "nc() { echo refused >&2; return 1; }",
                NO_ANSWER,
                "refused+3",
            ),
            (
                tcp,
                false,
                "nc() { echo refused >&2; return 1; }",
                NO_ANSWER,
                "refused+0",
            ),
            (tcp, false, "nc() { return 143; }", NO_ANSWER, "+0"),
            (tcp, false, &format!("nc() {{ {usage}; }}"), NOT_MADE, ""),
            (tcp, false, "nc() { no-such-program; }", NOT_MADE, ""),
            (tcp, false, "nc() { return 139; }", NOT_MADE, ""),
            (
                http,
                true,
                "wget() { echo 'Usage: multi-call binary'; }",
                ANSWERED,
                "Usage: multi-call binary+0",
            ),
            (
                http,
                false,
                "wget() { echo 'wget: download timed out' >&2; return 1; }",
                NO_ANSWER,
                "wget: download",
            ),
            (
                status,
                true,
                "wget() { printf '  HTTP/1.1 404 Not Found\\nwget: server returned error' >&2; return 1; }",
                ANSWERED,
                "  HTTP/1.1 404",
            ),
            (
                status,
                true,
                "wget() { printf '  HTTP/1.1 200 OK\\n  \\n' >&2; echo fine; }",
                NO_ANSWER,
                "  HTTP/1.1 200",
            ),
            (
                dns,
                true,
                "nslookup() { printf 'Server: 1\\nAddress: 1\\n\\nName:\\ta.b\\nAddress: 10.0.0.1\\n'; }",
                ANSWERED,
                "Server",
            ),
            (
                dns,
                true,
                "nslookup() { printf 'Server: 1\\nAddress: 1\\n\\n** server can'\"'\"'t find a.b: NXDOMAIN\\n'; }",
                NO_ANSWER,
                "Server",
            ),
        ] {
            let (ended, printed) = run(request, answered, programs);
            assert_eq!(ended, Some(code), "{request} {programs}: {printed}");
            assert!(printed.starts_with(said), "{request} {programs}: {printed}");
        }
    }

    #[test]
    fn a_request_is_an_argument_and_no_part_of_the_script() {
        let pod = manifest("p", &test(r#"{"tcp": "db.shop:5432"}"#, true));
        let command = pod["spec"]["containers"][0]["command"].as_array().unwrap();
        assert_eq!(command[4..], [json!("db.shop"), json!("5432")]);
        assert_eq!(pod["metadata"]["labels"]["app"], "cart");
        serde_json::from_value::<Pod>(pod).unwrap();
    }
}
