//! A check of the cluster's objects.

use std::time::{Duration, Instant};

use faultline_cluster::kube::{
    self, Client, ResourceExt,
    api::{DynamicObject, ListParams},
};
use faultline_domain::lab::{Field, ObjectTest};
use jsonpath_rust::JsonPath;
use regex::Regex;
use serde_json::Value;

use super::Finding;
use crate::manifests;

/// Between two looks at what must stay as it is.
const LOOK: Duration = Duration::from_secs(2);

pub(crate) async fn evaluate(client: &Client, test: &ObjectTest) -> Result<Finding, kube::Error> {
    let stays = Duration::from_secs(test.stays_seconds.into());
    let began = Instant::now();
    loop {
        let found = look(client, test).await?;
        if !found.holds {
            let after = began.elapsed().as_secs();
            return Ok(if after < 2 {
                found
            } else {
                Finding::new(false, format!("after {after} s: {}", found.seen))
            });
        }
        if began.elapsed() >= stays {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(client: &Client, test: &ObjectTest) -> Result<Finding, kube::Error> {
    let (group, version) = test.api.rsplit_once('/').unwrap_or(("", &test.api));
    let (resource, scope) = manifests::find(client, group, version, &test.kind).await?;
    let api = manifests::api(client, &resource, &scope, test.namespace.as_deref());
    let objects: Vec<DynamicObject> = match &test.name {
        Some(name) => api.get_opt(name).await?.into_iter().collect(),
        None => {
            let labels = test.labels.as_deref().unwrap_or_default();
            api.list(&ListParams::default().labels(labels)).await?.items
        }
    };
    Ok(judge(test, &objects))
}

/// Pure: what the objects say.
fn judge(test: &ObjectTest, objects: &[DynamicObject]) -> Finding {
    let what = named(test);
    if !test.exists {
        return match objects.first() {
            None => Finding::new(true, format!("there is no {what}")),
            Some(o) => Finding::new(false, format!("{} is there", o.name_any())),
        };
    }
    let count = u32::try_from(objects.len()).unwrap_or(u32::MAX);
    let (min, max) = test.count.map_or((1, None), |c| (c.min, c.max));
    if count < min || max.is_some_and(|max| count > max) {
        return Finding::new(false, format!("there are {count} of {what}"));
    }
    let mut seen = vec![format!("{count} of {what}")];
    for object in objects {
        let name = object.name_any();
        for condition in &test.conditions {
            if let Some(why) = lacks(object, condition) {
                return Finding::new(false, format!("{name}: {why}"));
            }
        }
        let value = serde_json::to_value(object).unwrap_or_default();
        for field in &test.fields {
            match read(&value, field) {
                Ok(found) => seen.push(format!("{name}: {} is {found}", field.path)),
                Err(why) => return Finding::new(false, format!("{name}: {why}")),
            }
        }
    }
    Finding::new(true, seen.join("; "))
}

fn named(test: &ObjectTest) -> String {
    let mut text = test.kind.clone();
    if let Some(name) = &test.name {
        text = format!("{text} {name}");
    }
    if let Some(labels) = &test.labels {
        text = format!("{text} with {labels}");
    }
    if let Some(namespace) = &test.namespace {
        text = format!("{text} in {namespace}");
    }
    text
}

/// Why a condition is not `True`.
fn lacks(object: &DynamicObject, condition: &str) -> Option<String> {
    let all = object.data.get("status").and_then(|s| s.get("conditions"));
    let found = all.and_then(Value::as_array).and_then(|all| {
        all.iter()
            .find(|c| c.get("type").and_then(Value::as_str) == Some(condition))
    });
    let text = |c: &Value, key: &str| {
        c.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    match found {
        None => Some(format!("its status has no condition {condition}")),
        Some(c) if text(c, "status") == "True" => None,
        Some(c) => Some(format!(
            "{condition} is {}: {} {}",
            text(c, "status"),
            text(c, "reason"),
            text(c, "message")
        )),
    }
}

/// What was found at a field's path, or why it is not as it must be.
fn read(object: &Value, field: &Field) -> Result<String, String> {
    let path = &field.path;
    let found = object.query(path).map_err(|e| format!("{path}: {e}"))?;
    if !field.exists {
        return match found.first() {
            None => Ok("absent".to_owned()),
            Some(value) => Err(format!("{path} is {}", plain(value))),
        };
    }
    if found.is_empty() {
        return Err(format!("there is nothing at {path}"));
    }
    let pattern = match field.matches.as_deref().map(Regex::new) {
        Some(Ok(pattern)) => Some(pattern),
        Some(Err(_)) => return Err(format!("{:?} is no regular expression", field.matches)),
        None => None,
    };
    for value in &found {
        let text = plain(value);
        let number = value
            .as_f64()
            .or_else(|| value.as_str().and_then(|t| t.parse().ok()));
        let equal = field.equals.as_ref().is_none_or(|e| plain(e) == text);
        let matches = pattern.as_ref().is_none_or(|p| p.is_match(&text));
        let least = field
            .at_least
            .is_none_or(|n| number.is_some_and(|v| v >= n));
        let most = field.at_most.is_none_or(|n| number.is_some_and(|v| v <= n));
        if !(equal && matches && least && most) {
            return Err(format!("{path} is {text}"));
        }
    }
    Ok(found
        .iter()
        .map(|v| plain(v))
        .collect::<Vec<_>>()
        .join(", "))
}

/// Text without quotes, everything else as JSON.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use faultline_domain::lab::Count;
    use serde_json::json;

    use super::*;

    fn pod(ready: &str, restarts: u32) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop"},
            "spec": {"containers": [{"image": "nginx:1.22"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "ContainersNotReady"}],
                       "containerStatuses": [{"restartCount": restarts}]},
        }))
        .unwrap()
    }

    fn test(fields: &str) -> ObjectTest {
        serde_json::from_str(&format!(
            "{{\"kind\": \"Pod\", \"namespace\": \"shop\", {fields}}}"
        ))
        .unwrap()
    }

    #[test]
    fn objects_are_judged_by_what_the_lab_says() {
        let good = [pod("True", 1)];
        let bad = [pod("False", 9)];
        for (fields, holds) in [
            (r#""name": "web-1""#, true),
            (r#""name": "web-1", "exists": false"#, false),
            (r#""conditions": ["Ready"]"#, true),
            (r#""conditions": ["Scheduled"]"#, false),
            (r#""count": {"min": 2}"#, false),
            (r#""count": {"min": 1, "max": 1}"#, true),
            (
                r#""fields": [{"path": "$.spec.containers[0].image", "equals": "nginx:1.22"}]"#,
                true,
            ),
            (
                r#""fields": [{"path": "$.spec.containers[*].image", "matches": "^nginx:2"}]"#,
                false,
            ),
            (
                r#""fields": [{"path": "$.status.containerStatuses[0].restartCount", "at_most": 3}]"#,
                true,
            ),
            (
                r#""fields": [{"path": "$.spec.nodeName", "exists": false}]"#,
                true,
            ),
            (r#""fields": [{"path": "$.spec.nodeName"}]"#, false),
        ] {
            let found = judge(&test(fields), &good);
            assert_eq!(found.holds, holds, "{fields}: {}", found.seen);
        }
        let found = judge(&test(r#""conditions": ["Ready"]"#), &bad);
        assert!(
            !found.holds && found.seen.contains("ContainersNotReady"),
            "{}",
            found.seen
        );
        assert!(judge(&test(r#""exists": false"#), &[]).holds);
        assert!(
            !judge(&test(r#""conditions": ["Ready"]"#), &[]).holds,
            "nothing is not ready"
        );
        let _ = Count { min: 1, max: None };
    }
}
