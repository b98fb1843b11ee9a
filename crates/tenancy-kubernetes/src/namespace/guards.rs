//! Installs what all tenants share on the host's cluster: rights, admission policies, and the order of requests. Says what
//! the cluster lacks.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::{Settings, objects};
use crate::manifest::apply;

/// The first minor version of Kubernetes 1 whose Pod Security admission forbids probes of other hosts.
const MINOR: u32 = 34;
/// The APIs that must be served: group, version, and what it is for.
const APIS: [(&str, &str, &str); 4] = [
    ("admissionregistration.k8s.io", "v1", "admission policies"),
    ("flowcontrol.apiserver.k8s.io", "v1", "fair queues"),
    ("networking.k8s.io", "v1", "network policies"),
    ("rbac.authorization.k8s.io", "v1", "rights"),
];

/// Installs or updates everything. Idempotent. The error tells an operator what is missing and what to do.
pub(super) async fn install(client: &Client, settings: &Settings) -> Result<(), String> {
    let said = |what: &'static str| move |e: kube::Error| format!("{what}: {}", super::why(&e));
    let version = client.apiserver_version().await;
    let version = version.map_err(said("the host's cluster can't be asked for its version"))?;
    supported(&version.major, &version.minor)?;
    let groups = client.list_api_groups().await;
    let groups = groups.map_err(said("the host's cluster can't be asked for its APIs"))?;
    let served: Vec<&str> = groups
        .groups
        .iter()
        .flat_map(|group| group.versions.iter().map(|v| v.group_version.as_str()))
        .collect();
    lacking(&served)?;
    let classes: Api<PriorityClass> = Api::all(client.clone());
    let classes = classes.list(&ListParams::default()).await;
    let classes = classes.map_err(said("the host's priority classes can't be listed"))?;
    let default = classes
        .iter()
        .find(|class| class.global_default == Some(true))
        .map(ResourceExt::name_any);
    let objects = objects::guards(settings, default.as_deref())?;
    apply(client, &objects).await.map_err(said(
        "the policies for tenants can't be installed; give Faultline's account the rights in the operator's guide",
    ))
}

fn supported(major: &str, minor: &str) -> Result<(), String> {
    let digits = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse();
    match (digits(major), digits(minor)) {
        (Ok(1), Ok(minor)) if minor < MINOR => Err(format!(
            "the host's cluster runs Kubernetes 1.{minor}; upgrade it to 1.{MINOR} or newer"
        )),
        (Ok(1..), Ok(_)) => Ok(()),
        _ => Err(format!(
            "the host's cluster has the unknown version {major}.{minor}"
        )),
    }
}

fn lacking(served: &[&str]) -> Result<(), String> {
    let missing = APIS.iter().find(|(group, version, _)| {
        let wanted = format!("{group}/{version}");
        !served.contains(&wanted.as_str())
    });
    match missing {
        Some((group, version, purpose)) => Err(format!(
            "the host's cluster doesn't serve {group}/{version}, which is needed for {purpose}; enable it in its API server"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_and_missing_apis_are_named() {
        for (major, minor, ok) in [
            ("1", "33", false),
            ("1", "34", true),
            ("1", "36+", true),
            ("2", "0", true),
            ("", "", false),
        ] {
            assert_eq!(supported(major, minor).is_ok(), ok, "{major}.{minor}");
        }
        let all: Vec<String> = APIS.iter().map(|(g, v, _)| format!("{g}/{v}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(lacking(&all), Ok(()));
        let why = lacking(&all[1..]).unwrap_err();
        assert!(why.contains("admissionregistration.k8s.io/v1"), "{why}");
    }
}
