//! Reads the warnings among a cluster's events.

use std::collections::BTreeSet;

use faultline_cluster::{
    k8s_openapi::api::core::v1::Event,
    kube::{
        self, Client,
        api::{Api, ListParams},
    },
};

use crate::text::clean;

/// The maximum number of warnings that are returned.
const MOST: usize = 3;
/// The maximum length of a warning, in characters.
const LENGTH: usize = 300;

/// Returns the last warnings of a namespace, or of all namespaces, the newest first: `Pod web-1: ErrImagePull: …`.
pub(crate) async fn warnings(
    client: &Client,
    namespace: Option<&str>,
) -> Result<Vec<String>, kube::Error> {
    let api: Api<Event> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let params = ListParams::default().fields("type=Warning").limit(500);
    let mut events = api.list(&params).await?.items;
    events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
    let mut told = BTreeSet::new();
    let new = events.iter().filter_map(|event| {
        let object = &event.involved_object;
        let what = format!(
            "{} {}: {}",
            object.kind.as_deref().unwrap_or("object"),
            object.name.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
        );
        // Of an object's events with the same reason, only the newest is returned.
        let is_new = told.insert(what.clone());
        let message = event.message.as_deref().unwrap_or_default();
        is_new.then(|| clean(format!("{what}: {message}").as_bytes(), LENGTH))
    });
    Ok(new.take(MOST).collect())
}

/// Returns the time of an event, in seconds since 1970. An event may have it in any of three fields.
fn last_seen(event: &Event) -> i64 {
    let series = event.series.as_ref();
    let times = [
        series.and_then(|s| Some(s.last_observed_time.as_ref()?.0)),
        event.last_timestamp.as_ref().map(|t| t.0),
        event.event_time.as_ref().map(|t| t.0),
    ];
    times
        .into_iter()
        .flatten()
        .map(|time| time.as_second())
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing;

    fn event(name: &str, reason: &str, message: &str, second: u32) -> Value {
        json!({
            "metadata": {"name": format!("{name}.{second}"), "namespace": "shop"},
            "involvedObject": {"kind": "Pod", "name": name},
            "type": "Warning", "reason": reason, "message": message,
            "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        })
    }

    #[tokio::test]
    async fn the_newest_of_each_is_told() {
        let client = testing::api(|path, _| match path {
            "/api/v1/namespaces/shop/events" => (
                200,
                json!({"metadata": {}, "items": [
                    event("web-1", "Failed", "ErrImagePull", 3),
                    event("web-1", "Failed", "not yet", 1),
                    event("db-0", "FailedScheduling", "0/1 nodes are available:\u{1b}[2J Insufficient memory", 9),
                ]}),
            ),
            _ => (404, json!({})),
        });
        let told = warnings(&client, Some("shop")).await.unwrap();
        assert_eq!(
            told,
            [
                "Pod db-0: FailedScheduling: 0/1 nodes are available: Insufficient memory",
                "Pod web-1: Failed: ErrImagePull",
            ]
        );
        assert!(warnings(&client, None).await.is_err());
    }
}
