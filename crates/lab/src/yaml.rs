//! Parses `lab.yaml` into [`Lab`], or into diagnostics with line and caret. Also finds the positions of values, for
//! rules that the types can't express.

use faultline_domain::lab::Lab;
use serde::Deserialize;
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter, Spanned};

use crate::{Diagnostic, schema, violations};

/// The name of the file.
pub(crate) const FILE: &str = "lab.yaml";

/// Parses the text of a `lab.yaml`.
pub(crate) fn parse(text: &str) -> Result<Lab, Vec<Diagnostic>> {
    serde_saphyr::from_str_valid::<Lab>(text).map_err(|e| explain(&e, text))
}

/// Parses the text of a `lab.yaml` that was valid once. Rules that were added since are not applied.
pub(crate) fn read(text: &str) -> Option<Lab> {
    serde_saphyr::from_str(text).ok()
}

fn explain(error: &Error, text: &str) -> Vec<Diagnostic> {
    match error.without_snippet() {
        Error::ValidationError {
            issues, locations, ..
        } => issues
            .iter()
            .map(|issue| {
                let path: Vec<&str> = issue
                    .path
                    .segments()
                    .map(|(_, name)| name)
                    .filter(|name| !name.is_empty())
                    .collect();
                let what = issue.message.as_deref().unwrap_or(&issue.code);
                let found = Diagnostic::error(FILE, format!("{}: {what}", spoken(&path)));
                match locations.locations_for(&issue.path) {
                    Some(at) => found.at(
                        text,
                        at.reference_location.line(),
                        at.reference_location.column(),
                    ),
                    None => found,
                }
                .help(schema::meaning(&path).unwrap_or_else(|| SEE.to_owned()))
            })
            .collect(),
        inner => {
            let said = DefaultMessageFormatter.format_message(inner);
            let found = Diagnostic::error(FILE, plain(&said));
            let found = match inner.location() {
                Some(at) => found.at(text, at.line(), at.column()),
                None => found,
            };
            everything(found.help(SEE), text)
        }
    }
}

/// Returns all violations. Deserialization reports only the first; the schema finds the others, with the same messages.
fn everything(first: Diagnostic, text: &str) -> Vec<Diagnostic> {
    let mut all = violations::all(text);
    if !all.iter().any(|found| found.line == first.line) {
        all.push(first);
    }
    all.sort_by_key(|found| (found.line, found.column));
    all
}

pub(crate) const SEE: &str = "docs/author.md and docs/lab.schema.json say what each field means";

/// Formats a path for people, counting from 1 as hints do: `check 2, test, mode`.
pub(crate) fn spoken(path: &[&str]) -> String {
    let mut words: Vec<String> = Vec::new();
    for segment in path {
        match (segment.parse::<usize>(), words.last_mut()) {
            (Ok(index), Some(list)) => {
                let one = match list.as_str() {
                    "setup" => "setup step",
                    many => many.strip_suffix('s').unwrap_or(many),
                };
                // The variants of `test` are told apart by their names.
                if one != "test" {
                    *list = format!("{one} {}", index + 1);
                }
            }
            _ => words.push((*segment).to_owned()),
        }
    }
    words.join(", ")
}

/// Rewrites a parser's message for authors.
fn plain(said: &str) -> String {
    if let Some(rest) = said.strip_prefix("duplicate mapping key: ") {
        let name = rest.split(',').next().unwrap_or(rest);
        return format!("`{name}` is given twice");
    }
    if let Some(name) = said.strip_prefix("missing field ") {
        // The parser reports the position of the last field of the object that lacks one.
        return format!("{name} is missing among these fields");
    }
    if let Some((value, all)) = said
        .strip_prefix("unknown variant ")
        .and_then(|rest| rest.split_once(", expected one of "))
    {
        return format!("{value} is none of: {all}");
    }
    if said.starts_with("invalid trailing content after") {
        return format!("{said}; a quote further up may not be closed");
    }
    match said {
        "expected string scalar" => "a single value belongs here",
        "invalid u8" | "invalid u32" | "invalid u64" => "a whole number belongs here, 0 or more",
        "invalid u16" => "a whole number from 0 to 65535 belongs here",
        "expected sequence start" => "a list belongs here: `[one, two]`, or `- ` and one per line",
        "expected mapping start" => {
            "fields belong here: `name: value`, one per line and further in"
        }
        _ => said,
    }
    .to_owned()
}

/// The positions of the values that rules point at. Everything else is ignored, since [`parse`] has read it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Places {
    #[serde(default)]
    pub setup: Vec<SetupPlaces>,
    #[serde(default)]
    pub checks: Vec<CheckPlaces>,
    #[serde(default)]
    pub hints: Vec<HintPlaces>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HintPlaces {
    pub text: Spanned<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SetupPlaces {
    #[serde(default)]
    pub script: Option<Spanned<String>>,
    #[serde(default)]
    pub apply: Option<Spanned<String>>,
    #[serde(default)]
    pub load: Option<Spanned<String>>,
    #[serde(default)]
    pub nodes: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CheckPlaces {
    pub name: Spanned<String>,
    #[serde(default)]
    pub hint: Option<Spanned<u32>>,
    #[serde(default)]
    pub node: Option<Spanned<String>>,
    pub test: TestPlaces,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TestPlaces {
    #[serde(default)]
    pub script: Option<Spanned<String>>,
    #[serde(default)]
    pub http: Option<PatternPlaces>,
    #[serde(default)]
    pub file: Option<PatternPlaces>,
    #[serde(default)]
    pub dns: Option<PatternPlaces>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct PatternPlaces {
    #[serde(default)]
    pub body: Option<Spanned<String>>,
    #[serde(default)]
    pub matches: Option<Spanned<String>>,
    #[serde(default)]
    pub lacks: Option<Spanned<String>>,
    #[serde(default)]
    pub name: Option<Spanned<String>>,
}

/// Finds the positions; none if the text is not a lab.
pub(crate) fn places(text: &str) -> Places {
    serde_saphyr::from_str(text).unwrap_or_default()
}

/// Points a diagnostic at a value.
pub(crate) fn point<T>(found: Diagnostic, text: &str, value: Option<&Spanned<T>>) -> Diagnostic {
    match value {
        Some(v) => found.at(text, v.referenced.line(), v.referenced.column()),
        None => found,
    }
}
