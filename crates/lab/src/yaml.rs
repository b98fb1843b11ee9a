//! `lab.yaml`: its text into [`Lab`], or into diagnostics with line and caret; and where in the text things are,
//! for the rules that the types can't say.

use faultline_domain::lab::Lab;
use serde::Deserialize;
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter, Spanned};

use crate::Diagnostic;

/// The name of the file.
pub(crate) const FILE: &str = "lab.yaml";

/// Reads the text of a `lab.yaml`.
pub(crate) fn parse(text: &str) -> Result<Lab, Vec<Diagnostic>> {
    serde_saphyr::from_str_valid::<Lab>(text).map_err(|e| explain(&e, text))
}

fn explain(error: &Error, text: &str) -> Vec<Diagnostic> {
    match error.without_snippet() {
        Error::ValidationError {
            issues, locations, ..
        } => issues
            .iter()
            .map(|issue| {
                let path: Vec<&str> = issue.path.segments().map(|(_, name)| name).collect();
                let what = issue.message.as_deref().unwrap_or(&issue.code);
                let found = Diagnostic::error(FILE, format!("{}: {what}", path.join(".")));
                match locations.locations_for(&issue.path) {
                    Some(at) => found.at(
                        text,
                        at.reference_location.line(),
                        at.reference_location.column(),
                    ),
                    None => found,
                }
                .help(advice(&path))
            })
            .collect(),
        inner => {
            let found = Diagnostic::error(FILE, DefaultMessageFormatter.format_message(inner));
            let found = match inner.location() {
                Some(at) => found.at(text, at.line(), at.column()),
                None => found,
            };
            vec![found.help("docs/author.md and docs/lab.schema.json say what each field means")]
        }
    }
}

fn advice(path: &[&str]) -> &'static str {
    match (path.first().copied(), path.last().copied()) {
        (Some("hints"), None | Some("hints")) => {
            "a lab has 3 to 5 hints, from a nudge to nearly the answer"
        }
        (Some("setup"), Some("script")) => {
            "name a file directly under setup/, such as setup/break.sh"
        }
        (Some("checks"), Some("script")) => {
            "name a file directly under checks/, such as checks/service.sh"
        }
        (Some("checks"), Some("name")) => {
            "lower-case letters, digits and hyphens, such as service-runs"
        }
        (Some("topics"), _) => "one to eight words in lower case, such as [systemd, dns]",
        _ => "docs/lab.schema.json has the bounds of every field",
    }
}

/// Where in the text the values are that rules point at. Everything else is ignored, since [`parse`] has read it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Places {
    #[serde(default)]
    pub setup: Vec<SetupPlaces>,
    #[serde(default)]
    pub checks: Vec<CheckPlaces>,
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

/// Finds the places; none when the text is not a lab.
pub(crate) fn places(text: &str) -> Places {
    serde_saphyr::from_str(text).unwrap_or_default()
}

/// Points a finding at a value.
pub(crate) fn point<T>(found: Diagnostic, text: &str, value: Option<&Spanned<T>>) -> Diagnostic {
    match value {
        Some(v) => found.at(text, v.referenced.line(), v.referenced.column()),
        None => found,
    }
}
