//! The JSON Schema of `lab.yaml`, for editors.

use faultline_domain::lab::Lab;

/// The schema as committed at `docs/lab.schema.json`, with a newline at the end.
#[must_use]
pub fn lab_schema() -> String {
    let schema = schemars::schema_for!(Lab);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
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
