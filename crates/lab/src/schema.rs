//! The JSON Schema of `lab.yaml`, for editors.

use faultline_domain::lab::Lab;
use serde_json::Value;

/// Returns the schema as committed at `docs/lab.schema.json`, with a newline at the end.
#[must_use]
pub fn lab_schema() -> String {
    let schema = schemars::schema_for!(Lab);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// Returns the schema as JSON.
pub(crate) fn value() -> Value {
    serde_json::to_value(schemars::schema_for!(Lab)).unwrap_or_default()
}

/// Returns the description of the field at a path, such as `["checks", "0", "hint"]`.
pub(crate) fn meaning(path: &[&str]) -> Option<String> {
    let schema = value();
    let (mut at, mut text) = (&schema, None);
    for segment in path {
        at = match segment.parse::<usize>() {
            Ok(_) => at.get("items").unwrap_or(at),
            Err(_) => property(&schema, at, segment)?,
        };
        // A list's description also describes its items, unless they have their own.
        let own = at.get("description");
        text = own
            .or_else(|| target(&schema, at)?.get("description"))
            .or(text);
    }
    text?.as_str().map(|text| text.replace('\n', " "))
}

/// Resolves `$ref`.
pub(crate) fn target<'a>(root: &'a Value, at: &Value) -> Option<&'a Value> {
    root.pointer(at.get("$ref")?.as_str()?.trim_start_matches('#'))
}

/// Finds a property of a schema, of the schema that it refers to, or of its alternatives.
fn property<'a>(root: &'a Value, at: &'a Value, name: &str) -> Option<&'a Value> {
    let own = at.get("properties").and_then(Value::as_object);
    if let Some(found) = own.and_then(|all| all.get(name)) {
        return Some(found);
    }
    let choices = ["oneOf", "anyOf", "allOf"].map(|key| at.get(key).and_then(Value::as_array));
    let choices = choices.into_iter().flatten().flatten();
    let one_of = choices.flat_map(|choice| {
        let inner = choice.get("properties").and_then(Value::as_object);
        std::iter::once(choice).chain(inner.into_iter().flat_map(|all| all.values()))
    });
    let items = at.get("items");
    target(root, at)
        .into_iter()
        .chain(items)
        .chain(one_of)
        .find_map(|inner| property(root, inner, name))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_field_says_what_it_means() {
        for (path, word) in [
            (&["minutes"][..], "minutes"),
            (&["checks", "0", "hint"], "hint"),
            (&["checks", "1", "test", "0", "mode"], "octal"),
            (&["needs", "nodes"], "nodes"),
            (&["topics", "0"], "topics"),
            (&["variables"], "chosen"),
        ] {
            let said = super::meaning(path).unwrap_or_default();
            assert!(said.contains(word), "{path:?}: {said}");
        }
        assert_eq!(super::meaning(&["nothing"]), None);
    }

    #[test]
    fn the_committed_schema_is_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lab.schema.json");
        let now = super::lab_schema();
        if std::env::var_os("FAULTLINE_BLESS").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == now,
            "docs/lab.schema.json drifted from the types: run FAULTLINE_BLESS=1 cargo test -p faultline-lab schema"
        );
    }
}
