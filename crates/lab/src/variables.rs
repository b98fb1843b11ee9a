//! Values that differ between environments, so that one student's answer is not another's.
//!
//! A lab declares variables in `lab.yaml` and writes `{{name}}` in any of its texts. A value is derived from the
//! environment's id, so nothing is stored and the same environment always gets the same values. Only declared names are
//! replaced; other braces, such as those of a Helm template, stay.

use std::{borrow::Cow, collections::BTreeMap, sync::LazyLock};

use faultline_domain::lab::Variable;
use regex::Regex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{Diagnostic, LabFolder, yaml};

/// Letters and digits that can't be mistaken for each other in any font.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";

#[expect(clippy::expect_used, reason = "a literal, tried by every test below")]
static PLACES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{\{([a-z][a-z0-9_]*)\}\}").expect("a regular expression"));

/// The seed of the values of a lab that isn't started.
pub(crate) const EXAMPLE: &str = "an example";

/// Values by name.
pub(crate) type Values = BTreeMap<String, String>;

/// Returns the variables that a `lab.yaml` declares. The rest of the text need not be valid yet.
pub(crate) fn declared(yaml: &str) -> BTreeMap<String, Variable> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        variables: BTreeMap<String, Variable>,
    }
    // A bare `{{name}}` is not valid YAML.
    let readable = PLACES.replace_all(yaml, "0");
    serde_saphyr::from_str::<Head>(&readable).map_or_else(|_| BTreeMap::new(), |h| h.variables)
}

/// Returns the values for a seed.
pub(crate) fn values(declared: &BTreeMap<String, Variable>, seed: &str) -> Values {
    declared
        .iter()
        .map(|(name, variable)| {
            let digest = Sha256::digest(format!("{seed}/{name}"));
            (name.clone(), value(variable, &digest))
        })
        .collect()
}

fn value(variable: &Variable, digest: &[u8]) -> String {
    let number = digest
        .iter()
        .take(8)
        .fold(0_u64, |n, b| n << 8 | u64::from(*b));
    match variable {
        Variable::OneOf(choices) => {
            let count = u64::try_from(choices.len()).unwrap_or(1).max(1);
            let index = usize::try_from(number % count).unwrap_or(0);
            choices.get(index).cloned().unwrap_or_default()
        }
        Variable::Between([low, high]) => {
            let span = u64::from(high.saturating_sub(*low)) + 1;
            (u64::from(*low) + number % span).to_string()
        }
        Variable::Random(length) => digest
            .iter()
            .cycle()
            .take(usize::try_from(*length).unwrap_or(8))
            .filter_map(|b| ALPHABET.get(usize::from(*b) % ALPHABET.len()))
            .map(|b| char::from(*b))
            .collect(),
    }
}

/// Replaces every declared name in a text.
pub(crate) fn fill<'a>(text: &'a str, values: &Values) -> Cow<'a, str> {
    if values.is_empty() {
        return Cow::Borrowed(text);
    }
    PLACES.replace_all(text, |found: &regex::Captures<'_>| {
        let name = found.get(1).map_or("", |m| m.as_str());
        let whole = found.get(0).map_or("", |m| m.as_str());
        values
            .get(name)
            .map_or_else(|| whole.to_owned(), Clone::clone)
    })
}

pub(crate) fn fill_bytes(content: &[u8], values: &Values) -> Vec<u8> {
    match std::str::from_utf8(content) {
        Ok(text) => fill(text, values).into_owned().into_bytes(),
        Err(_) => content.to_vec(),
    }
}

/// Reports references in `lab.yaml` to undeclared variables.
pub(crate) fn lint(yaml: &str, declared: &BTreeMap<String, Variable>, found: &mut Vec<Diagnostic>) {
    for (number, line) in (1..).zip(yaml.lines()) {
        for place in PLACES.captures_iter(line) {
            let name = place.get(1).map_or("", |m| m.as_str());
            if !declared.contains_key(name) {
                let column = place.get(0).map_or(1, |m| m.start() + 1);
                let text = format!("there is no variable {name}");
                let what = "declare it: `variables: {NAME: {random: 8}}`, or remove the braces";
                found.push(
                    Diagnostic::error(yaml::FILE, text)
                        .at(yaml, number, u64::try_from(column).unwrap_or(1))
                        .help(what),
                );
            }
        }
    }
}

impl LabFolder {
    /// Returns the lab with its variables filled in with the values for a seed, usually a tenant's id. A lab without
    /// variables is returned as it is.
    #[must_use]
    pub fn of(&self, seed: &str) -> Cow<'_, Self> {
        if self.lab.variables.is_empty() {
            return Cow::Borrowed(self);
        }
        let values = values(&self.lab.variables, seed);
        let mut filled = self.clone();
        // A lab that is valid with one seed's values is valid with another's: the values are of the same kind and
        // length.
        if let Ok(lab) = yaml::parse(&fill(&self.yaml, &values)) {
            filled.lab = lab;
        }
        filled.readme = fill(&self.readme, &values).into_owned();
        filled.solution = fill(&self.solution, &values).into_owned();
        filled.solution_script = fill_bytes(&self.solution_script, &values);
        for content in filled.scripts.values_mut().chain(filled.wrong.values_mut()) {
            *content = fill_bytes(content, &values);
        }
        Cow::Owned(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "title: x\nvariables:\n  port: {between: [8000, 8099]}\n  token: {random: 12}\n  shop: {one_of: [fruit, tools]}\nneeds: {nodes: {{port}}}\n";

    #[test]
    fn values_follow_from_the_seed_and_keep_their_bounds() {
        let declared = declared(YAML);
        assert_eq!(declared.len(), 3);
        let mut seen = std::collections::BTreeSet::new();
        for seed in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let given = values(&declared, seed);
            assert_eq!(given, values(&declared, seed));
            let port: u32 = given["port"].parse().unwrap();
            assert!((8000..=8099).contains(&port));
            assert_eq!(given["token"].len(), 12);
            assert!(["fruit", "tools"].contains(&given["shop"].as_str()));
            seen.insert(given["token"].clone());
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn only_declared_names_are_replaced() {
        let values = Values::from([("port".to_owned(), "8042".to_owned())]);
        assert_eq!(
            fill("{{port}} {{.Values.port}} {{other}} {{ port }}", &values),
            "8042 {{.Values.port}} {{other}} {{ port }}"
        );
        assert_eq!(fill_bytes(b"\xff{{port}}", &values), b"\xff{{port}}");
    }

    #[test]
    fn an_unknown_name_is_pointed_at() {
        let mut found = Vec::new();
        lint("a: {{tokn}}\n", &BTreeMap::new(), &mut found);
        assert!(found[0].message.contains("tokn"), "{:?}", found[0]);
    }
}
