//! Checks the cluster's objects.

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
use crate::{manifests, quantity};

/// The pause between two observations of a state that must last.
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

/// Judges the objects. Pure.
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
                Ok(found) => seen.push(format!("{name}: {} is {found}", brief(&field.path))),
                Err(why) => {
                    let seen = field.seen.clone();
                    let seen = seen.unwrap_or_else(|| format!("{name}: {why}"));
                    return Finding::new(false, seen);
                }
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

/// Returns why a condition is not `True`.
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

/// Returns the value at a field's path, or why it is not the expected one.
fn read(object: &Value, field: &Field) -> Result<String, String> {
    let found = object
        .query(&field.path)
        .map_err(|e| format!("{}: {e}", field.path))?;
    let path = brief(&field.path);
    if !field.exists {
        return match found.first() {
            None => Ok("absent".to_owned()),
            Some(value) => Err(format!("{path} is {}", shown(value))),
        };
    }
    if found.is_empty() {
        return Err(match path.split_once("[…]") {
            None => around(object, &path),
            // There may be a value, but not one that the lab's path selects.
            Some((before, _)) => format!("nothing in {before} matches"),
        });
    }
    let pattern = match field.matches.as_deref().map(Regex::new) {
        Some(Ok(pattern)) => Some(pattern),
        Some(Err(_)) => return Err(format!("{:?} is not a regular expression", field.matches)),
        None => None,
    };
    for value in &found {
        let text = plain(value);
        let number = value.as_f64().or_else(|| quantity::parse(value.as_str()?));
        let equal = field.equals.as_ref().is_none_or(|e| plain(e) == text);
        let matches = pattern.as_ref().is_none_or(|p| p.is_match(&text));
        let least = field
            .at_least
            .is_none_or(|n| number.is_some_and(|v| v >= n));
        let most = field.at_most.is_none_or(|n| number.is_some_and(|v| v <= n));
        if !(equal && matches && least && most) {
            return Err(format!("{path} is {}", shown(value)));
        }
    }
    Ok(found
        .iter()
        .map(|v| shown(v))
        .collect::<Vec<_>>()
        .join(", "))
}

/// Describes the nearest existing parent of a path at which nothing is. The missing part may be the repair, so it isn't
/// named.
fn around(object: &Value, path: &str) -> String {
    let mut path = path;
    while let Some(above) = above(path) {
        path = above;
        if let Some(value) = object
            .query(path)
            .ok()
            .and_then(|found| found.first().copied())
        {
            return match value {
                Value::Object(fields) if value.to_string().len() > 120 => {
                    let names: Vec<_> = fields.keys().map(String::as_str).collect();
                    format!("{path} has {}", names.join(", "))
                }
                Value::Array(items) => format!("{path} has {} entries", items.len()),
                value => format!("{path} is {}", shown(value)),
            };
        }
    }
    "it is empty".to_owned()
}

/// Returns the path without its last segment, `.name` or `[…]`.
fn above(path: &str) -> Option<&str> {
    let (mut last, mut quote, mut depth) = (None, None, 0_u32);
    for (at, c) in path.char_indices() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => {
                if depth == 0 {
                    last = Some(at);
                }
                depth += 1;
            }
            (None, ']') => depth = depth.saturating_sub(1),
            (None, '.') if depth == 0 => last = Some(at),
            (None, _) => {}
        }
    }
    path.get(..last?)
}

/// Returns the path without its selectors: they are what the lab is after, and the student reads this.
fn brief(path: &str) -> String {
    let (mut brief, mut depth, mut quote) = (String::new(), 0_u32, None);
    let mut rest = path.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(_), '\\') if depth > 0 => {
                rest.next();
                continue;
            }
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') if depth > 0 => depth += 1,
            (None, '[') if rest.peek() == Some(&'?') => {
                brief.push_str("[…");
                depth = 1;
            }
            (None, ']') if depth > 0 => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            brief.push(c);
        }
    }
    brief
}

/// Formats a string without quotes and any other value as JSON.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Shortens a value to what a person reads in passing: the first line of a file identifies it.
fn shown(value: &Value) -> String {
    let text = plain(value);
    let first = crate::text::clean(text.lines().next().unwrap_or_default().as_bytes(), 300);
    match text.lines().count() {
        0 | 1 => first,
        lines => format!("{first} … ({lines} lines)"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use faultline_domain::lab::Count;
    use serde_json::json;

    use super::*;
    use crate::testing::api;

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
            (
                r#""fields": [{"path": "$.status.containerStatuses[0].restartCount", "at_least": 1}]"#,
                true,
            ),
            (
                r#""fields": [{"path": "$.status.containerStatuses[0].restartCount", "at_least": 2}]"#,
                false,
            ),
            (
                r#""fields": [{"path": "$.spec.containers[0].image", "at_least": 0}]"#,
                false,
            ),
            (
                r#""fields": [{"path": "$.status.conditions[?@.type=='Ready' && @.status=='True'].type"}]"#,
                true,
            ),
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
            "without Pods none is ready"
        );
        let _ = Count { min: 1, max: None };
    }

    #[test]
    fn quantities_are_compared_as_the_numbers_that_they_stand_for() {
        let claim = |size: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "entries"},
                "spec": {"resources": {"requests": {"storage": size}}},
            }))
            .unwrap()
        };
        let least =
            r#""fields": [{"path": "$.spec.resources.requests.storage", "at_least": 1073741824}]"#;
        for (size, holds) in [
            ("1Gi", true),
            ("1Ti", true),
            ("1024Mi", true),
            ("1048576Ki", true),
            ("1.5Gi", true),
            ("1073741824", true),
            ("2e9", true),
            ("2G", true),
            ("1000Mi", false),
            ("1G", false),
            ("900000000000m", false),
            ("much", false),
            ("Gi", false),
            ("1gi", false),
        ] {
            assert_eq!(judge(&test(least), &[claim(size)]).holds, holds, "{size}");
        }
    }

    #[test]
    fn of_a_long_value_the_beginning_is_seen() {
        assert_eq!(shown(&json!(".:53 {\n  errors\n}\n")), ".:53 { … (3 lines)");
        assert_eq!(shown(&json!(8080)), "8080");
        assert!(shown(&json!("a".repeat(9999))).len() < 400);
    }

    #[test]
    fn what_is_missing_is_not_named_and_what_is_there_is_seen() {
        let service: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "prices"},
            "spec": {"selector": {"app": "prices"}, "ports": [{"port": 80}]},
        }))
        .unwrap();
        for (field, seen) in [
            (
                r#"{"path": "$.spec.selector['app.kubernetes.io/name']", "equals": "prices"}"#,
                r#"prices: $.spec.selector is {"app":"prices"}"#,
            ),
            (
                r#"{"path": "$.spec.selector.tier.colour"}"#,
                r#"prices: $.spec.selector is {"app":"prices"}"#,
            ),
            (
                r#"{"path": "$.spec.ports[3].port"}"#,
                "prices: $.spec.ports has 1 entries",
            ),
            (
                r#"{"path": "$.spec.selector.app", "equals": "x", "seen": "The Service finds nobody."}"#,
                "The Service finds nobody.",
            ),
        ] {
            let found = judge(
                &test(&format!("\"fields\": [{field}]")),
                std::slice::from_ref(&service),
            );
            assert!(!found.holds);
            assert_eq!(found.seen, seen);
        }
        assert_eq!(above("$['a.b'].c['d]'][0]"), Some("$['a.b'].c['d]']"));
        assert_eq!(above("$['a.b']"), Some("$"));
        assert_eq!(above("$"), None);
    }

    #[test]
    fn what_is_seen_does_not_say_what_a_path_selects_by() {
        for (path, said) in [
            ("$.a.b[0]['x.y/z']", "$.a.b[0]['x.y/z']"),
            ("$.a[?@.b[?@.c=='d]']].e", "$.a[…].e"),
            ("$.a[?@.b=='c'].d[*][?!@.e]", "$.a[…].d[*][…]"),
        ] {
            assert_eq!(brief(path), said);
        }
        let seen = judge(
            &test(r#""fields": [{"path": "$.spec[?@.host=='secret']"}]"#),
            &[pod("True", 0)],
        )
        .seen;
        assert_eq!(seen, "web-1: nothing in $.spec matches");
    }

    /// Returns a client of an API server whose Pods are ready for this many observations.
    fn ready_for(looks: u32) -> Client {
        let left = AtomicU32::new(looks);
        api(move |path, _| {
            assert_eq!(path, "/api/v1/namespaces/shop/pods");
            let less = |n: u32| n.checked_sub(1);
            let ready = left.fetch_update(SeqCst, SeqCst, less).is_ok();
            let pod = pod(if ready { "True" } else { "False" }, 0);
            let list =
                json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod]});
            (200, list)
        })
    }

    #[tokio::test]
    async fn what_must_stay_is_looked_at_until_its_time_is_over() {
        let ready = test(r#""conditions": ["Ready"]"#);
        let stays = test(r#""conditions": ["Ready"], "stays_seconds": 1"#);
        let [once, never, long, short] = [1, 0, 2, 1].map(ready_for);
        let (once, never, long, short) = tokio::join!(
            evaluate(&once, &ready),
            evaluate(&never, &stays),
            evaluate(&long, &stays),
            evaluate(&short, &stays),
        );
        assert!(once.unwrap().holds && long.unwrap().holds);
        for (found, seen) in [
            (never.unwrap(), "web-1: Ready is False"),
            (short.unwrap(), "after 2 s: web-1: Ready is False"),
        ] {
            assert!(
                !found.holds && found.seen.starts_with(seen),
                "{}",
                found.seen
            );
        }
    }
}
