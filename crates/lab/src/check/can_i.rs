//! Checks what somebody may do in the cluster, by asking the API server as `kubectl auth can-i` does.

use faultline_cluster::{
    k8s_openapi::api::authorization::v1::{
        ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
    },
    kube::{
        self, Client,
        api::{Api, PostParams},
    },
};
use faultline_domain::lab::{ApiAction, CanITest};

use super::Finding;

pub(super) async fn evaluate(client: &Client, test: &CanITest) -> Result<Finding, kube::Error> {
    let deeds = test
        .allowed
        .iter()
        .map(|d| (d, true))
        .chain(test.denied.iter().map(|d| (d, false)));
    let mut seen = Vec::new();
    let mut holds = true;
    for (deed, wanted) in deeds {
        let allowed = may(client, &test.who, deed).await?;
        if allowed != wanted {
            holds = false;
            seen.push(format!(
                "{} {}",
                if allowed { "may" } else { "may not" },
                say(deed)
            ));
        }
    }
    let seen = if holds {
        format!("{} has exactly the permissions that it needs", test.who)
    } else {
        format!("{} {}", test.who, seen.join("; "))
    };
    Ok(Finding::new(holds, seen))
}

fn say(deed: &ApiAction) -> String {
    let place = deed
        .namespace
        .as_deref()
        .map_or_else(String::new, |n| format!(" in {n}"));
    let name = deed
        .name
        .as_deref()
        .map_or_else(String::new, |n| format!(" {n}"));
    format!("{} {}{name}{place}", deed.verb, deed.resource)
}

async fn may(client: &Client, who: &str, deed: &ApiAction) -> Result<bool, kube::Error> {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(who.to_owned()),
            groups: Some(groups(who)),
            resource_attributes: Some(attributes(deed)),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

/// Returns the groups that the API server itself adds to an identity.
fn groups(who: &str) -> Vec<String> {
    let mut groups = vec!["system:authenticated".to_owned()];
    if let Some((namespace, _)) = who
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
    {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    groups
}

fn attributes(deed: &ApiAction) -> ResourceAttributes {
    let (place, subresource) = match deed.resource.split_once('/') {
        Some((place, sub)) => (place, Some(sub.to_owned())),
        None => (deed.resource.as_str(), None),
    };
    let (resource, group) = place.split_once('.').unwrap_or((place, ""));
    ResourceAttributes {
        verb: Some(deed.verb.clone()),
        resource: Some(resource.to_owned()),
        group: Some(group.to_owned()),
        subresource,
        name: deed.name.clone(),
        namespace: deed.namespace.clone(),
        ..ResourceAttributes::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::api;

    /// Returns a client of an API server that lets the shop's bot list Pods there, and every authenticated user read
    /// Nodes.
    fn server() -> Client {
        api(|path, review| {
            assert_eq!(path, "/apis/authorization.k8s.io/v1/subjectaccessreviews");
            let (spec, of) = (&review["spec"], &review["spec"]["resourceAttributes"]);
            let groups = spec["groups"].as_array().unwrap();
            let bot = spec["user"] == "system:serviceaccount:shop:bot"
                && of["namespace"] == "shop"
                && of["resource"] == "pods"
                && of["verb"] == "list";
            let anybody =
                of["resource"] == "nodes" && groups.contains(&json!("system:authenticated"));
            let mut review = review.clone();
            review["status"] = json!({"allowed": bot || anybody});
            (201, review)
        })
    }

    async fn asked(allowed: &str, denied: &str) -> Finding {
        let test = format!(
            "{{\"who\": \"system:serviceaccount:shop:bot\", \"allowed\": [{allowed}], \"denied\": [{denied}]}}"
        );
        let test = serde_json::from_str(&test).unwrap();
        evaluate(&server(), &test).await.unwrap()
    }

    #[tokio::test]
    async fn all_that_must_be_allowed_is_and_nothing_that_must_not_be() {
        let list = r#"{"verb": "list", "resource": "pods", "namespace": "shop"}"#;
        let everywhere = r#"{"verb": "list", "resource": "pods"}"#;
        let delete = r#"{"verb": "delete", "resource": "pods", "namespace": "shop"}"#;
        let nodes = r#"{"verb": "get", "resource": "nodes"}"#;
        let both = format!("{everywhere}, {delete}");
        for (allowed, denied, seen) in [
            (list, both.as_str(), ""),
            ("", both.as_str(), ""),
            (everywhere, "", "may not list pods"),
            ("", list, "may list pods in shop"),
            (list, nodes, "may get nodes"),
            (
                both.as_str(),
                "",
                "may not list pods; may not delete pods in shop",
            ),
        ] {
            let found = asked(allowed, denied).await;
            assert_eq!(found.holds, seen.is_empty(), "{}", found.seen);
            assert!(found.seen.ends_with(seen), "{}", found.seen);
        }
    }

    #[test]
    fn a_resource_is_taken_apart() {
        let deed = |resource: &str| ApiAction {
            verb: "get".to_owned(),
            resource: resource.to_owned(),
            name: Some("web".to_owned()),
            namespace: None,
        };
        let a = attributes(&deed("deployments.apps/scale"));
        assert_eq!(
            (
                a.resource.as_deref(),
                a.group.as_deref(),
                a.subresource.as_deref()
            ),
            (Some("deployments"), Some("apps"), Some("scale"))
        );
        assert_eq!(a.name.as_deref(), Some("web"));
        assert_eq!(attributes(&deed("pods")).group.as_deref(), Some(""));
        assert_eq!(groups("system:serviceaccount:shop:bot").len(), 3);
    }
}
