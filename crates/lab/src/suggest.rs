//! Suggests the name that was probably meant in place of an unknown one.

/// The minimum similarity of two names, from 0 to 1.
const ALIKE: f64 = 0.75;

/// Returns the most similar name, if any is similar enough.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (likeness(word, name), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Returns the similarity of two names. A word, or the beginning, of a name counts as much as a typing error.
fn likeness(word: &str, name: &str) -> f64 {
    let within = word.len() >= 3 && name.contains(word);
    let slipped = strsim::normalized_damerau_levenshtein(word, name);
    if within { slipped.max(0.9) } else { slipped }
}

/// Returns `; did you mean …?`, or an empty string if no name is similar enough.
pub fn question<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, names).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_parts_are_found_and_strangers_are_not() {
        let labs = ["disk-full", "claim-pending", "kubelet-down", "etcd-damaged"];
        for (word, meant) in [
            ("disk-ful", Some("disk-full")),
            ("disk_full", Some("disk-full")),
            ("clam-pending", Some("claim-pending")),
            ("kubelet", Some("kubelet-down")),
            ("disk", Some("disk-full")),
            ("wordpress", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, labs), meant, "{word}");
        }
    }
}
