//! Markdown of labs, made safe: a lab's author is trusted with root in a guest, not with the student's browser.

use std::sync::LazyLock;

use comrak::{Options, markdown_to_html};

static CLEANER: LazyLock<ammonia::Builder<'static>> = LazyLock::new(|| {
    let mut cleaner = ammonia::Builder::default();
    cleaner
        .link_rel(Some("noopener noreferrer"))
        .add_generic_attributes(["class"])
        .rm_tags(["img", "style"])
        .url_schemes(["http", "https", "mailto"].into());
    cleaner
});

/// HTML of a Markdown text.
pub(crate) fn html(markdown: &str) -> String {
    let mut options = Options::default();
    options.extension.table = true;
    options.extension.strikethrough = true;
    options.extension.autolink = true;
    options.extension.tasklist = false;
    CLEANER
        .clean(&markdown_to_html(markdown, &options))
        .to_string()
}

/// The same without the first heading, where the page has the title already.
pub(crate) fn html_without_title(markdown: &str) -> String {
    let text = markdown.trim_start();
    match text.strip_prefix("# ") {
        Some(rest) => html(rest.split_once('\n').map_or("", |(_, body)| body)),
        None => html(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_active_survives() {
        let evil = "# T\n\n<script>alert(1)</script> <img src=x onerror=alert(1)> [a](javascript:alert(1))\n\n`ok`";
        let html = html_without_title(evil);
        assert!(html.contains("<code>ok</code>"));
        for bad in ["script", "onerror", "javascript:", "<img", "<h1"] {
            assert!(!html.contains(bad), "{html}");
        }
    }

    #[test]
    fn tables_and_code_are_shown() {
        let html = html("| a | b |\n|---|---|\n| 1 | 2 |\n\n```sh\nls -l\n```");
        assert!(html.contains("<table>") && html.contains("<pre>"));
    }
}
