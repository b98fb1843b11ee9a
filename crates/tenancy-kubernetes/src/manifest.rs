//! Objects from YAML with variables, and applying them.

use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};

/// The field manager of server-side apply.
const MANAGER: &str = "faultline";

/// Returns the objects of a text in which each `${NAME}` stands for a value.
pub(crate) fn render(text: &str, values: &[(&str, String)]) -> Result<Vec<DynamicObject>, String> {
    let mut text = text.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    if let Some((_, rest)) = text.split_once("${") {
        let name = rest.split('}').next().unwrap_or_default();
        return Err(format!("the variable {name} has no value"));
    }
    serde_saphyr::from_multiple(&text).map_err(|e| e.without_snippet().to_string())
}

/// Applies objects in order.
pub(crate) async fn apply(client: &Client, objects: &[DynamicObject]) -> kube::Result<()> {
    for object in objects {
        let params = PatchParams::apply(MANAGER).force();
        let name = object.name_any();
        api(client, object)
            .patch(&name, &params, &Patch::Apply(object))
            .await?;
    }
    Ok(())
}

/// Returns the API of an object's kind, in its namespace if it has one.
pub(crate) fn api(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let types = object.types.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types)
        .unwrap_or_else(|_| GroupVersionKind::gvk("", &types.api_version, &types.kind));
    let resource = ApiResource::from_gvk(&gvk);
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_none_is_forgotten() {
        let text =
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '${NAME}'}\ndata: {a: '${A}'}\n";
        let name = ("NAME", "web".to_owned());
        let objects = render(text, &[name.clone(), ("A", "b".to_owned())]).unwrap();
        assert_eq!(objects[0].name_any(), "web");
        assert_eq!(objects[0].data["data"]["a"], "b");
        let missing = render(text, &[name]).unwrap_err();
        assert_eq!(missing, "the variable A has no value");
    }
}
