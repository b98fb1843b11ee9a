//! A check by a request from a pod in the cluster.

use std::{collections::BTreeMap, time::Duration};

use faultline_cluster::{
    k8s_openapi::api::core::v1::Pod,
    kube::{
        self, Client,
        api::{Api, DeleteParams, LogParams, PostParams},
    },
};
use faultline_domain::lab::{FromPodTest, PodRequest};
use regex::Regex;
use serde_json::json;

use super::Finding;
use crate::text;

/// The image that every cluster image has.
const IMAGE: &str = "docker.io/library/busybox:1.35";
/// How long a request may take in the pod, in seconds.
const ANSWER: u32 = 8;
/// How often it is made until it ends as it must. A network policy takes hold of a new pod's packets a moment after
/// the pod has begun, so an answer that must not come may come at first.
const TRIES: u32 = 3;
const LOOK: Duration = Duration::from_millis(500);
/// How long the node's kubelet may take to give out what the pod printed.
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
        Ok(Ok(phase)) => {
            let said = tokio::time::timeout(LOGS, api.logs(&name, &LogParams::default())).await;
            let said = said.ok().and_then(Result::ok).unwrap_or_default();
            judge(test, phase == "Succeeded", &said)
        }
        Ok(Err(e)) => Err(e)?,
        Err(_) => Finding::new(false, not_started(&api, &name, limit).await),
    };
    probe.remove().await;
    Ok(finding)
}

/// A probe pod; removed with its holder, even where that is dropped half way.
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

async fn remove(api: Api<Pod>, name: String) {
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    let removed = tokio::time::timeout(Duration::from_secs(5), api.delete(&name, &now)).await;
    if !matches!(removed, Ok(Ok(_))) {
        tracing::warn!(pod = name, "a probe pod was left behind");
    }
}

fn manifest(name: &str, test: &FromPodTest) -> serde_json::Value {
    let mut labels = BTreeMap::from([("faultline.dev/probe".to_owned(), "true".to_owned())]);
    labels.extend(test.labels.clone());
    // The request's parts are arguments, never a part of the script.
    let (attempt, args) = match &test.request {
        PodRequest::Http(http) => (
            format!("timeout {ANSWER} wget -q -O - \"$1\""),
            vec![http.url.clone()],
        ),
        PodRequest::Tcp(place) => {
            let (host, port) = place.rsplit_once(':').unwrap_or((place, ""));
            (
                format!("timeout {ANSWER} nc -z -w {ANSWER} \"$1\" \"$2\""),
                vec![host.to_owned(), port.to_owned()],
            )
        }
        PodRequest::Dns(name) => (
            format!("timeout {ANSWER} nslookup \"$1\""),
            vec![name.clone()],
        ),
    };
    let wanted = if test.answered { "" } else { "! " };
    let script = format!(
        "for try in $(seq {TRIES}); do said=$({attempt} 2>&1); code=$?; \
         if {wanted}[ $code = 0 ]; then break; fi; sleep 1; done; printf %s \"$said\"; exit $code"
    );
    let mut command = vec![
        "/bin/sh".to_owned(),
        "-c".to_owned(),
        script,
        "probe".to_owned(),
    ];
    command.extend(args);
    let spec = json!({
        // Any unless said: nothing stands for that.
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
            // Never ready: a pod with a Service's labels must not become one of its endpoints.
            "readinessProbe": {"exec": {"command": ["/bin/false"]}, "initialDelaySeconds": 3600},
        }],
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": test.namespace, "labels": labels},
        "spec": spec,
    })
}

async fn ended(api: &Api<Pod>, name: &str) -> Result<String, kube::Error> {
    loop {
        let pod = api.get(name).await?;
        let phase = pod.status.and_then(|s| s.phase).unwrap_or_default();
        if matches!(phase.as_str(), "Succeeded" | "Failed") {
            return Ok(phase);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why the pod has not ended.
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

fn judge(test: &FromPodTest, answered: bool, said: &str) -> Finding {
    let (what, body) = match &test.request {
        PodRequest::Http(http) => (http.url.clone(), http.body.as_deref()),
        PodRequest::Tcp(place) => (place.clone(), None),
        PodRequest::Dns(name) => (name.clone(), None),
    };
    let fits = match body.map(Regex::new) {
        Some(Ok(pattern)) => pattern.is_match(said),
        Some(Err(_)) => false,
        None => true,
    };
    let begins = text::clean(said.as_bytes(), 300);
    let seen = if answered {
        format!("{what} answered: {begins}")
    } else {
        format!("{what} gave no answer: {begins}")
    };
    Finding::new(
        if test.answered {
            answered && fits
        } else {
            !answered
        },
        seen,
    )
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
        assert!(judge(&test(http, true), true, "ok\n").holds);
        assert!(!judge(&test(http, true), true, "error").holds);
        assert!(!judge(&test(http, true), false, "timed out").holds);
        assert!(judge(&test(http, false), false, "timed out").holds);
        assert!(!judge(&test(http, false), true, "ok").holds);
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
