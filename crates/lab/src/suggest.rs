//! What somebody may have meant who wrote a name that there is not.

/// How alike two names must be, from 0 to 1.
const ALIKE: f64 = 0.75;

/// The name that is most like this word, if one is like it.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (likeness(word, name), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A word of the name, or a beginning, counts as much as a slip of the finger.
fn likeness(word: &str, name: &str) -> f64 {
    let within = word.len() >= 3 && name.contains(word);
    let slipped = strsim::normalized_damerau_levenshtein(word, name);
    if within { slipped.max(0.9) } else { slipped }
}

/// ` did you mean …?`, or nothing.
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
