//! Finds the parts of a lab's texts that pages don't show.

use std::sync::LazyLock;

use comrak::{Arena, nodes::NodeValue, parse_document};
use regex::Regex;

use crate::{
    Diagnostic,
    files::Files,
    markdown::{Address, Place, html, is_public, is_shown, options, picture},
};

/// An opening tag, or an attribute with a URL.
#[expect(clippy::expect_used, reason = "literals, tried by the tests of lint")]
static TAG: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("<([A-Za-z][A-Za-z0-9-]*)([^>]*)").expect("a regular expression"));
#[expect(clippy::expect_used, reason = "literals, tried by the tests of lint")]
static LEADS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("\\b(href|src)\\s*=\\s*[\"']([^\"']*)").expect("a regular expression")
});

/// A part of a text that is not shown.
pub(super) struct Flaw {
    /// The line in the text, from 1.
    pub line: usize,
    what: String,
    help: &'static str,
    is_error: bool,
}

impl Flaw {
    /// Converts the flaw into a diagnostic of this file.
    pub(super) fn found(&self, file: &str) -> Diagnostic {
        let found = if self.is_error {
            Diagnostic::error(file, &self.what)
        } else {
            Diagnostic::warning(file, &self.what)
        };
        found.help(self.help)
    }
}

/// A text of a lab: `README.md`, `SOLUTION.md`, or a hint.
pub(super) struct Text<'a> {
    pub markdown: &'a str,
    /// True if the text may name files that become readable with the solution.
    pub is_solution: bool,
    pub files: &'a Files,
}

impl Text<'_> {
    /// Finds everything that is not shown, in the text's order.
    pub(super) fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let (arena, options) = (Arena::new(), options());
        for node in parse_document(&arena, self.markdown, &options).descendants() {
            let data = node.data();
            let line = data.sourcepos.start.line;
            match &data.value {
                NodeValue::Link(link) => flaws.extend(self.link(&link.url, line)),
                NodeValue::Image(image) => flaws.extend(self.image(&image.url, line)),
                NodeValue::HtmlBlock(block) => self.raw(&block.literal, line, &mut flaws),
                NodeValue::HtmlInline(tag) => self.raw(tag, line, &mut flaws),
                NodeValue::CodeBlock(code) if code.info == "mermaid" => flaws.push(Flaw {
                    line,
                    what: "a diagram of mermaid is shown as its source".to_owned(),
                    help: "draw it, save it as files/NAME.svg, and write ![what it shows](files/NAME.svg)",
                    is_error: false,
                }),
                _ => {}
            }
        }
        flaws
    }

    fn raw(&self, literal: &str, first: usize, flaws: &mut Vec<Flaw>) {
        for tag in TAG.captures_iter(literal) {
            let part = |n: usize| tag.get(n).map_or("", |m| m.as_str());
            let before = tag.get(0).map_or(0, |m| m.start());
            let line = first + literal.bytes().take(before).filter(|b| *b == b'\n').count();
            if !is_shown(part(1)) {
                flaws.push(Flaw {
                    line,
                    what: format!("<{}> is not shown", part(1)),
                    help: "Markdown, and the HTML that GitHub shows in it, are: <details>, <kbd>, <sub>, <table>, …",
                    is_error: false,
                });
                continue;
            }
            for leads in LEADS.captures_iter(part(2)) {
                let url = leads.get(2).map_or("", |m| m.as_str());
                flaws.extend(match leads.get(1).map(|m| m.as_str()) {
                    Some("src") => self.image(url, line),
                    _ => self.link(url, line),
                });
            }
        }
    }

    fn image(&self, url: &str, line: usize) -> Option<Flaw> {
        let unshown = |what: String, help| {
            Some(Flaw {
                line,
                what,
                help,
                is_error: false,
            })
        };
        match Address::of(url) {
            Address::File(path) if picture(path).is_none() => unshown(
                format!("{path} is no picture that pages show"),
                "save it as svg, png, jpg, gif, webp or avif",
            ),
            Address::File(path) => self.file(path, line),
            Address::Elsewhere => unshown(
                format!("the picture {url} is not shown: pages load nothing from other hosts"),
                "put it into files/ and write ![what it shows](files/NAME.svg)",
            ),
            _ => unshown(
                format!("the picture {url} is not shown"),
                "put it into files/ and write ![what it shows](files/NAME.svg)",
            ),
        }
    }

    fn link(&self, url: &str, line: usize) -> Option<Flaw> {
        let nowhere = |help| {
            let what = format!("the link to {url} leads nowhere");
            Some(Flaw {
                line,
                what,
                help,
                is_error: false,
            })
        };
        match Address::of(url) {
            Address::File(path) => self.file(path, line),
            Address::Within(anchor) => {
                let place = Place {
                    base: "",
                    prefix: "x-",
                };
                let is_there = html(self.markdown, place).contains(&format!(" id=\"x-{anchor}\""));
                if is_there {
                    return None;
                }
                nowhere(
                    "a heading's name is its words in lower case, with hyphens: `## Who waits` is #who-waits",
                )
            }
            Address::Nowhere => nowhere(
                "students see files of files/, and with the solution those of solution/; names have letters, digits, `.`, `_` and `-`",
            ),
            Address::Lab(_) | Address::Page | Address::Elsewhere => None,
        }
    }

    /// Reports a file that doesn't exist, or that becomes readable later than the text that names it.
    fn file(&self, path: &str, line: usize) -> Option<Flaw> {
        let flaw = |what, help| {
            Some(Flaw {
                line,
                what,
                help,
                is_error: true,
            })
        };
        if !self.files.contains_key(path) {
            return flaw(
                format!("{path} is named here and does not exist"),
                "add the file or correct the name",
            );
        }
        if path.starts_with("solution/") && !self.is_solution {
            return flaw(
                format!("{path} is named here and opens with the solution only"),
                "move it into files/",
            );
        }
        None
    }
}

/// Warns of files for students that no text can name, or that no text names.
pub(super) fn unused<'a>(
    files: &Files,
    texts: impl Iterator<Item = &'a str> + Clone,
    found: &mut Vec<Diagnostic>,
) {
    let public = |name: &&String| name.starts_with("files/") || name.starts_with("solution/");
    for name in files.keys().filter(public) {
        if !is_public(name) {
            found.push(
                Diagnostic::error(name, "no text can name this file")
                    .help("give it a name of letters, digits, `.`, `_` and `-`"),
            );
        } else if !texts.clone().any(|text| text.contains(name.as_str())) {
            found.push(
                Diagnostic::warning(name, "no text names this file")
                    .help("link to it in README.md, SOLUTION.md or a hint, or remove it"),
            );
        }
    }
}
