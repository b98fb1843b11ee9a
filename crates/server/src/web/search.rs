//! Search in the catalogue: every word of the query must occur in a lab's title, summary, topics, level or slug. People
//! type abbreviations and words from error messages, so synonyms also match.

use faultline_domain::{LabSlug, lab::Lab};

/// What people type, in lower case, and the words in the labs' texts that match it too.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("pvc", &["claim", "volume", "storage"]),
    ("pv", &["claim", "volume", "storage"]),
    ("persistentvolumeclaim", &["claim"]),
    ("svc", &["service"]),
    ("deploy", &["deployment", "release"]),
    ("ns", &["namespace"]),
    ("netpol", &["networkpolicy", "network policy"]),
    ("cni", &["bridge", "network"]),
    ("coredns", &["dns", "resolve"]),
    ("cert", &["certificate"]),
    ("tls", &["certificate"]),
    ("apiserver", &["api server", "api-server"]),
    ("kube-apiserver", &["api server", "api-server"]),
    ("containerd", &["runtime", "container"]),
    ("cri", &["runtime"]),
    ("imagepullbackoff", &["pulled", "image", "registry"]),
    ("errimagepull", &["pulled", "image", "registry"]),
    ("oomkilled", &["memory"]),
    ("oom", &["memory"]),
    ("evicted", &["disk", "memory"]),
    ("diskpressure", &["disk"]),
    ("notready", &["kubelet", "node"]),
    ("unschedulable", &["schedul"]),
    ("failedscheduling", &["schedul"]),
    ("pending", &["schedul"]),
    ("forbidden", &["rbac"]),
    ("easy", &["beginner"]),
];

/// Returns true if a query finds a lab. An empty query finds every lab.
pub(super) fn finds(query: &str, slug: &LabSlug, lab: &Lab) -> bool {
    let text = format!(
        "{slug} {} {} {} {}",
        lab.title,
        lab.summary,
        lab.topics.join(" "),
        lab.level.as_str()
    )
    .to_lowercase();
    query
        .to_lowercase()
        .split_whitespace()
        .all(|word| occurs(word, &text))
}

/// Returns true if a word or one of its synonyms occurs in the text.
fn occurs(word: &str, text: &str) -> bool {
    let synonyms = SYNONYMS.iter().filter(|(typed, _)| *typed == word);
    text.contains(word)
        || synonyms
            .flat_map(|(_, meant)| *meant)
            .any(|meant| text.contains(meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the slugs of the shipped labs that a query finds.
    fn found(query: &str) -> Vec<String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../labs");
        let catalogue = faultline_lab::Catalogue::load(&folder);
        let labs = catalogue.labs();
        labs.iter()
            .filter(|l| finds(query, &l.slug, &l.lab))
            .map(|l| l.slug.to_string())
            .collect()
    }

    #[test]
    fn abbreviations_and_error_messages_find_their_lab() {
        for (query, slug) in [
            ("PVC", "claim-pending"),
            ("ImagePullBackOff", "release-not-pulled"),
            ("beginner", "disk-full"),
            ("svc endpoints", "service-without-endpoints"),
            ("CoreDNS", "names-do-not-resolve"),
            ("NotReady", "kubelet-down"),
        ] {
            let found = found(query);
            assert!(found.iter().any(|f| f == slug), "{query}: {found:?}");
        }
    }

    #[test]
    fn every_word_must_match() {
        assert!(found("").len() > 20);
        assert!(found("pvc nosuchword").is_empty());
        assert!(found("nosuchword").is_empty());
    }
}
