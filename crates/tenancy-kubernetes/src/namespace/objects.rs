//! The objects of a tenant, and what all tenants share: pure functions from settings to objects.

use faultline_domain::{TenantId, limits::Limits};
use k8s_openapi::api::core::v1::Namespace;
use kube::{ResourceExt, api::DynamicObject};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Settings;
use crate::{host::User, manifest::render};

/// The label that says who manages an object.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of that label.
pub(super) const FAULTLINE: &str = "faultline";
/// The label of a namespace with its tenant's ID.
pub(super) const TENANT: &str = "faultline.dev/tenant";
/// The label of a namespace that says whether its tenant is complete.
pub(super) const STATE: &str = "faultline.dev/state";
/// The value of [`STATE`] until a tenant is complete.
pub(super) const UNFINISHED: &str = "unfinished";
/// The value of [`STATE`] of a complete tenant.
pub(super) const READY: &str = "ready";
/// The group of the users of all tenants. Only these have its rights and its limits.
const GROUP: &str = "faultline:tenants";

const TENANT_OBJECTS: &str = include_str!("tenant.yaml");
const LIMITS: &str = include_str!("limits.yaml");
const GUARDS: &str = include_str!("guards.yaml");

/// The limits of a tenant until a lab's are known.
const DEFAULT_LIMITS: Limits = Limits {
    cpu_millis: 1000,
    memory_mib: 1024,
    pids: 0,
    disk_mib_s: 0,
    disk_iops: 0,
    bandwidth_mbit: 0,
};
/// The number of containers without limits of their own that a tenant's limits are divided among.
const CONTAINERS: u32 = 8;

/// Returns the name of a tenant's namespace.
pub(super) fn namespace(id: &TenantId) -> String {
    format!("faultline-{id}")
}

/// Returns the user that a person of this tenant is.
pub(super) fn tenant_user(id: &TenantId) -> User {
    user(format!("faultline:tenant:{id}"))
}

/// Returns the user that sets up and checks this tenant's lab.
pub(super) fn setup_user(id: &TenantId) -> User {
    user(format!("faultline:setup:{id}"))
}

fn user(name: String) -> User {
    User {
        name,
        groups: vec![GROUP.to_owned()],
    }
}

/// Returns a tenant's namespace. The host's Pod Security admission enforces the level `baseline` in it: with `restricted`,
/// images that run as root, such as nginx, could not be used.
pub(super) fn new_namespace(id: &TenantId) -> Result<Namespace, String> {
    let labels = json!({
        MANAGED_BY: FAULTLINE,
        TENANT: id,
        STATE: UNFINISHED,
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/enforce-version": "latest",
    });
    let object = json!({"metadata": {"name": namespace(id), "labels": labels}});
    serde_json::from_value(object).map_err(|e| e.to_string())
}

/// Returns the objects in a tenant's namespace, with the default limits.
pub(super) fn tenant(id: &TenantId) -> Result<Vec<DynamicObject>, String> {
    let values = [
        ("NAMESPACE", namespace(id)),
        ("USER", tenant_user(id).name),
        ("SETUP_USER", setup_user(id).name),
    ];
    let mut objects = render(TENANT_OBJECTS, &values)?;
    objects.extend(limits(id, &DEFAULT_LIMITS)?);
    Ok(objects)
}

/// Returns the objects that limit what a tenant uses.
pub(super) fn limits(id: &TenantId, limits: &Limits) -> Result<Vec<DynamicObject>, String> {
    let Limits {
        cpu_millis,
        memory_mib,
        ..
    } = limits;
    let values = [
        ("NAMESPACE", namespace(id)),
        ("CPU", format!("{cpu_millis}m")),
        ("MEMORY", format!("{memory_mib}Mi")),
        (
            "DEFAULT_CPU",
            format!("{}m", (cpu_millis / CONTAINERS).max(10)),
        ),
        (
            "DEFAULT_MEMORY",
            format!("{}Mi", (memory_mib / CONTAINERS).max(32)),
        ),
    ];
    render(LIMITS, &values)
}

/// Returns what all tenants share. `default_priority` is the priority class that the host's cluster gives pods that name
/// none.
pub(super) fn guards(
    settings: &Settings,
    default_priority: Option<&str>,
) -> Result<Vec<DynamicObject>, String> {
    let list = |words: &[&str]| json!(words).to_string();
    let images: Vec<&str> = settings.images.iter().map(String::as_str).collect();
    let mut runtimes = vec![""];
    runtimes.extend(settings.runtime_classes.iter().map(String::as_str));
    let mut priorities = vec!["", "faultline-tenant"];
    priorities.extend(default_priority);
    // JSON in YAML's block form, whose quotes need no escape.
    let block = |json: String| format!(">-\n      {json}");
    let values = [
        ("IMAGES", block(list(&images))),
        ("PRIORITY_CLASSES", list(&priorities)),
        ("RUNTIME_CLASSES", list(&runtimes)),
    ];
    let mut objects = render(GUARDS, &values)?;
    let bindings: Vec<_> = objects.iter().filter_map(binding).collect();
    objects.extend(bindings);
    Ok(objects)
}

/// Returns the object that makes an admission policy take effect.
fn binding(policy: &DynamicObject) -> Option<DynamicObject> {
    let kind = &policy.types.as_ref()?.kind;
    if kind != "ValidatingAdmissionPolicy" {
        return None;
    }
    let name = policy.name_any();
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {MANAGED_BY: FAULTLINE}},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    serde_json::from_value(object).ok()
}

/// Returns a hash of everything that a tenant is made of, besides its ID.
pub(super) fn fingerprint(settings: &Settings) -> String {
    let mut hash = Sha256::new();
    for text in [TENANT_OBJECTS, LIMITS, GUARDS] {
        hash.update(text);
    }
    hash.update(format!("{settings:?}"));
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_objects_are_in_its_namespace_only() {
        let id: TenantId = "abc".parse().unwrap();
        let objects = tenant(&id).unwrap();
        for object in &objects {
            assert_eq!(object.namespace().as_deref(), Some("faultline-abc"));
            assert_eq!(object.labels()[MANAGED_BY], FAULTLINE);
        }
        let users: Vec<_> = objects
            .iter()
            .filter_map(|o| o.data.get("subjects"))
            .flat_map(|s| s.as_array().unwrap().clone())
            .map(|s| s["name"].as_str().unwrap().to_owned())
            .collect();
        let setup = "faultline:setup:abc";
        assert_eq!(users, ["faultline:tenant:abc", setup, setup]);
    }

    #[test]
    fn every_admission_policy_is_bound_and_fails_closed() {
        let settings = Settings {
            images: vec!["registry.example/labs \"quoted\"".to_owned()],
            ..Settings::default()
        };
        let objects = guards(&settings, Some("host-default")).unwrap();
        let of = |kind: &str| -> Vec<&DynamicObject> {
            let is = |o: &&DynamicObject| o.types.as_ref().unwrap().kind == kind;
            objects.iter().filter(is).collect()
        };
        let policies = of("ValidatingAdmissionPolicy");
        let bindings = of("ValidatingAdmissionPolicyBinding");
        assert_eq!((policies.len(), bindings.len()), (7, 7));
        for policy in &policies {
            let spec = &policy.data["spec"];
            assert_eq!(spec["failurePolicy"], "Fail");
            let labels = &spec["matchConstraints"]["namespaceSelector"]["matchExpressions"];
            assert_eq!(labels[0], json!({"key": TENANT, "operator": "Exists"}));
            let name = policy.name_any();
            let bound = |b: &&&DynamicObject| b.data["spec"]["policyName"] == name;
            assert_eq!(bindings.iter().filter(bound).count(), 1);
        }
        let text = serde_json::to_string(&policies[0]).unwrap();
        assert!(text.contains("host-default"), "{text}");
        let sources = &policies[0].data["spec"]["variables"][2]["expression"];
        assert_eq!(sources, r#"["registry.example/labs \"quoted\""]"#);
    }

    #[test]
    fn changed_settings_change_the_fingerprint() {
        let other = Settings {
            images: Vec::new(),
            ..Settings::default()
        };
        let first = fingerprint(&Settings::default());
        assert_eq!(first, fingerprint(&Settings::default()));
        assert_ne!(first, fingerprint(&other));
    }
}
