//! Findings about a lab's files, each with a position and advice.

use serde::{Deserialize, Serialize};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The lab works, but something in it will cause trouble.
    Warning,
    /// The lab can't be used.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Whether the lab can be used in spite of it.
    pub severity: Severity,
    /// The file, relative to the lab's folder.
    pub file: String,
    /// The line, from 1, if known.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do; empty if the message already says it.
    pub help: String,
    /// The surrounding lines, with a caret; empty without a line.
    pub snippet: String,
}

impl Diagnostic {
    /// Creates an error about a whole file.
    pub fn error(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.into(),
            line: None,
            column: None,
            message: message.into(),
            help: String::new(),
            snippet: String::new(),
        }
    }

    /// Creates a warning about a whole file.
    pub fn warning(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(file, message)
        }
    }

    /// Sets the advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// Sets the position in the file, whose text is `source`. Does nothing if `line` is 0.
    #[must_use]
    pub fn at(mut self, source: &str, line: u64, column: u64) -> Self {
        let (Ok(line), Ok(column)) = (u32::try_from(line), u32::try_from(column)) else {
            return self;
        };
        if line == 0 {
            return self;
        }
        self.line = Some(line);
        self.column = Some(column.max(1));
        self.snippet = snippet(source, line as usize, column.max(1) as usize);
        self
    }

    /// Formats the finding as it is printed: message, position, snippet, advice. `folder` is put before the file's
    /// name.
    #[must_use]
    pub fn render(&self, folder: &str) -> String {
        let word = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let mut place = if folder.is_empty() {
            self.file.clone()
        } else {
            format!("{folder}/{}", self.file)
        };
        if let (Some(line), Some(column)) = (self.line, self.column) {
            place.push_str(&format!(":{line}:{column}"));
        }
        let mut out = format!("{word}: {}\n  --> {place}\n", self.message);
        out.push_str(&self.snippet);
        if !self.help.is_empty() {
            out.push_str(&format!("  = help: {}\n", self.help));
        }
        out
    }
}

const WIDTH: usize = 100;

/// Returns the line before, the line, and a caret under the column.
fn snippet(source: &str, line: usize, column: usize) -> String {
    let gutter = line.to_string().len();
    let mut out = format!("{:gutter$} |\n", "");
    let first = line.saturating_sub(1).max(1);
    for (number, text) in source.lines().enumerate().map(|(i, t)| (i + 1, t)) {
        if number < first {
            continue;
        }
        if number > line {
            break;
        }
        // Of a long line, only the part around the column is shown.
        let from = if number == line && column > WIDTH {
            column - WIDTH / 2
        } else {
            0
        };
        let shown: String = text
            .chars()
            .skip(from)
            .take(WIDTH)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        out.push_str(&format!("{number:>gutter$} | {shown}\n"));
        if number == line {
            let pad = column.saturating_sub(1).saturating_sub(from);
            out.push_str(&format!("{:gutter$} | {:pad$}^\n", "", ""));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_stands_under_the_column() {
        let text = "a: 1\nbb: two\n";
        let shown = Diagnostic::error("lab.yaml", "not a number")
            .help("write 2")
            .at(text, 2, 5)
            .render("labs/x");
        assert_eq!(
            shown,
            "error: not a number\n  --> labs/x/lab.yaml:2:5\n  |\n1 | a: 1\n2 | bb: two\n  |     ^\n  = help: write 2\n"
        );
    }

    #[test]
    fn places_outside_the_text_do_no_harm() {
        let d = Diagnostic::error("x", "y").at("", 9, 900);
        assert!(d.render("").contains("x:9:900"));
        let d = Diagnostic::error("x", "y").at("z", 0, 0);
        assert_eq!(d.line, None);
    }
}
