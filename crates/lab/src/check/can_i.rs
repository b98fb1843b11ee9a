//! A check of what somebody may do in the cluster: the API server is asked, as `kubectl auth can-i` does.

use faultline_cluster::{
    k8s_openapi::api::authorization::v1::{
        ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
    },
    kube::{
        self, Client,
        api::{Api, PostParams},
    },
};
use faultline_domain::lab::{CanITest, Deed};

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
        format!("{} may do what it must and no more", test.who)
    } else {
        format!("{} {}", test.who, seen.join("; "))
    };
    Ok(Finding::new(holds, seen))
}

fn say(deed: &Deed) -> String {
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

async fn may(client: &Client, who: &str, deed: &Deed) -> Result<bool, kube::Error> {
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

/// The groups that the API server itself puts somebody into.
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

fn attributes(deed: &Deed) -> ResourceAttributes {
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
    use super::*;

    #[test]
    fn a_resource_is_taken_apart() {
        let deed = |resource: &str| Deed {
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
