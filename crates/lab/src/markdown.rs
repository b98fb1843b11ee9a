//! Renders a lab's Markdown as HTML with what GitHub supports, sanitised. Authors are trusted with root in a guest, but
//! not with the student's browser.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use ammonia::Builder;
use comrak::{Options, markdown_to_html};
use faultline_domain::LabSlug;
use regex::Regex;

/// The place of a text on a page.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The URL path of the lab's files, such as `/labs/disk-full`, without a trailing slash.
    pub base: &'a str,
    /// The prefix of ids in the text, so that the texts of one page, and the page itself, don't share any.
    pub prefix: &'a str,
}

/// Links to other hosts in sanitised HTML, where `>` occurs only at the end of a tag.
#[expect(clippy::expect_used, reason = "a literal, tried by the tests below")]
static ELSEWHERE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("(<a\\b[^>]*?) href=\"(https?:)").expect("a regular expression"));

/// Returns the Markdown extensions that are supported.
pub(crate) fn options() -> Options<'static> {
    let mut options = Options::default();
    options.extension.table = true;
    options.extension.strikethrough = true;
    options.extension.autolink = true;
    options.extension.tasklist = true;
    options.extension.footnotes = true;
    options.extension.alerts = true;
    options.extension.header_id_prefix = Some(String::new());
    options.render.tasklist_classes = true;
    // Raw HTML is allowed here; the sanitiser removes what is unsafe.
    options.render.r#unsafe = true;
    options
}

fn cleaner<'a>() -> Builder<'a> {
    let mut cleaner = Builder::default();
    cleaner
        .link_rel(Some("noopener noreferrer"))
        .add_tags(["input", "section"])
        .add_generic_attributes(["id"])
        .add_tag_attributes("a", ["aria-label"])
        .add_tag_attributes("details", ["open"])
        .add_tag_attributes("input", ["checked"])
        .set_tag_attribute_value("input", "type", "checkbox")
        .set_tag_attribute_value("input", "disabled", "")
        .set_tag_attribute_value("input", "aria-label", "Task")
        .url_schemes(["http", "https", "mailto"].into())
        .allowed_classes(classes());
    cleaner
}

/// Returns the classes that the Markdown renderer produces. Others are removed, so that a text can't imitate parts of the
/// page.
fn classes() -> HashMap<&'static str, HashSet<&'static str>> {
    let alerts = [
        "markdown-alert",
        "markdown-alert-note",
        "markdown-alert-tip",
        "markdown-alert-important",
        "markdown-alert-warning",
        "markdown-alert-caution",
    ];
    HashMap::from([
        (
            "a",
            ["anchor", "footnote-ref", "footnote-backref"].as_slice(),
        ),
        ("div", &alerts),
        ("li", &["task-list-item"]),
        ("ol", &["contains-task-list"]),
        ("p", &["markdown-alert-title"]),
        ("section", &["footnotes"]),
        ("sup", &["footnote-ref"]),
        ("ul", &["contains-task-list"]),
    ])
    .into_iter()
    .map(|(tag, classes)| (tag, classes.iter().copied().collect()))
    .collect()
}

/// Returns true if an HTML tag in a text is shown.
pub(crate) fn is_shown(tag: &str) -> bool {
    static TAGS: LazyLock<HashSet<&str>> = LazyLock::new(|| cleaner().clone_tags());
    TAGS.contains(tag.to_ascii_lowercase().as_str())
}

/// The target of a link or picture.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Address<'a> {
    /// An anchor in the same text.
    Within(&'a str),
    /// A file of the lab: `files/…` or `solution/…`.
    File(&'a str),
    /// Another lab of the catalogue.
    Lab(LabSlug),
    /// A page of this server.
    Page,
    /// Another host, or a mail address.
    Elsewhere,
    /// A target that is not shown.
    Nowhere,
}

impl<'a> Address<'a> {
    pub(crate) fn of(url: &'a str) -> Self {
        if let Some(anchor) = url.strip_prefix('#') {
            return Self::Within(anchor);
        }
        if let Some((scheme, _)) = url.split_once(':') {
            let known = ["http", "https", "mailto"];
            return match known.iter().any(|k| scheme.eq_ignore_ascii_case(k)) {
                true => Self::Elsewhere,
                false => Self::Nowhere,
            };
        }
        if url.starts_with('/') && !url.starts_with("//") {
            return Self::Page;
        }
        if let Some(folder) = url.strip_prefix("../") {
            let slug = folder.trim_end_matches("README.md").trim_end_matches('/');
            return slug.parse().map_or(Self::Nowhere, Self::Lab);
        }
        let path = url.strip_prefix("./").unwrap_or(url);
        if is_public(path) {
            Self::File(path)
        } else {
            Self::Nowhere
        }
    }
}

/// Returns true if students may read a file of the lab through its page.
pub(crate) fn is_public(path: &str) -> bool {
    let name = path
        .strip_prefix("files/")
        .or_else(|| path.strip_prefix("solution/"));
    name.is_some_and(|name| {
        !name.is_empty()
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    })
}

/// Returns the media type of a picture from its file name.
#[must_use]
pub fn picture(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    Some(match ending {
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        _ => return None,
    })
}

/// Renders a text.
#[must_use]
pub fn html(markdown: &str, place: Place<'_>) -> String {
    let (base, prefix) = (place.base.to_owned(), place.prefix.to_owned());
    let mut cleaner = cleaner();
    cleaner
        .id_prefix(Some(place.prefix))
        .attribute_filter(move |tag, attribute, value| match (tag, attribute) {
            ("a", "href") => match Address::of(value) {
                Address::Within(anchor) => Some(format!("#{prefix}{anchor}").into()),
                Address::File(path) => Some(format!("{base}/{path}").into()),
                Address::Lab(slug) => Some(format!("/labs/{slug}").into()),
                Address::Page | Address::Elsewhere => Some(value.into()),
                Address::Nowhere => None,
            },
            // Pages load nothing from other hosts.
            ("img", "src") => match Address::of(value) {
                Address::File(path) => Some(Cow::Owned(format!("{base}/{path}"))),
                _ => None,
            },
            _ => Some(value.into()),
        });
    let clean = cleaner
        .clean(&markdown_to_html(markdown, &options()))
        .to_string();
    ELSEWHERE
        .replace_all(&clean, "$1 target=\"_blank\" href=\"$2")
        .into_owned()
}

/// Renders a text without its first heading, for pages that already show the title.
#[must_use]
pub fn html_without_title(markdown: &str, place: Place<'_>) -> String {
    let text = markdown.trim_start();
    match text.strip_prefix("# ") {
        Some(rest) => html(rest.split_once('\n').map_or("", |(_, body)| body), place),
        None => html(text, place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place {
        base: "/labs/x",
        prefix: "readme-",
    };

    #[test]
    fn nothing_active_survives() {
        let evil = "# T\n\n<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>\n\n[a](javascript:alert(1))\n\n\
            <input name=csrf type=text value=x> <form action=/sign-out><button class=\"primary\">b</button></form>\n\n\
            <p style=\"position:fixed\" id=\"main\" class=\"outcome\">p</p>\n\n<a href=\"//evil.example\">c</a>\n\n\
            <p title='<a href=\"https://x\"'>q</p>\n\n![r](https://evil.example/x.png)\n\n<iframe src=\"/\"></iframe>\n\n`ok`";
        let html = html_without_title(evil, PLACE);
        assert!(html.contains("<code>ok</code>"), "{html}");
        for bad in [
            "script",
            "onerror",
            "javascript:",
            "src=",
            "<h1",
            "csrf",
            "text\"",
            "<form",
            "<button",
            "style",
            "id=\"main\"",
            "outcome",
            "evil",
            "<a href=\"https://x\"",
            "<iframe",
        ] {
            assert!(!html.contains(bad), "{bad}: {html}");
        }
    }

    #[test]
    fn what_github_shows_is_shown() {
        for (markdown, shown) in [
            ("| a |\n|---|\n| 1 |", "<table>"),
            ("```sh\nls -l\n```", "<pre><code>ls -l"),
            ("~~a~~", "<del>a</del>"),
            ("- [x] done\n- [ ] open", "checked=\"\""),
            ("- [ ] open", "<li class=\"task-list-item\">"),
            (
                "<details open><summary>More</summary>\n\n**b**\n\n</details>",
                "<strong>b</strong>",
            ),
            (
                "<details><summary>More</summary>\n\nb\n\n</details>",
                "<details><summary>More",
            ),
            ("Press <kbd>Ctrl</kbd>", "<kbd>Ctrl</kbd>"),
            (
                "> [!WARNING]\n> Mind",
                "<p class=\"markdown-alert-title\">Warning</p>",
            ),
            ("a[^1]\n\n[^1]: note", "<section class=\"footnotes\">"),
            (
                "a[^1]\n\n[^1]: note",
                "href=\"#readme-fn-1\" id=\"readme-fnref-1\"",
            ),
            ("a[^1]\n\n[^1]: note", "<li id=\"readme-fn-1\">"),
            (
                "## Who waits",
                "<h2 id=\"readme-who-waits\">Who waits<a href=\"#readme-who-waits\"",
            ),
            ("[up](#who-waits)", "href=\"#readme-who-waits\""),
            (
                "![net](files/net.svg)",
                "<img src=\"/labs/x/files/net.svg\" alt=\"net\">",
            ),
            (
                "<img src=\"./files/net.svg\" width=\"200\">",
                "src=\"/labs/x/files/net.svg\" width=\"200\"",
            ),
            (
                "[notes](files/notes.txt)",
                "<a href=\"/labs/x/files/notes.txt\"",
            ),
            (
                "[next](../disk-full/README.md)",
                "<a href=\"/labs/disk-full\"",
            ),
            (
                "https://a.example/",
                "<a target=\"_blank\" href=\"https://a.example/\" rel=\"noopener noreferrer\">",
            ),
        ] {
            let html = html(markdown, PLACE);
            assert!(html.contains(shown), "{markdown}: {html}");
        }
        let inner = html("[up](#a) [p](/progress) [f](files/a.txt)", PLACE);
        assert!(!inner.contains("_blank"), "{inner}");
    }

    #[test]
    fn nothing_but_the_public_folders_is_linked_to() {
        for path in [
            "solution.sh",
            "checks/page.sh",
            "setup/break.sh",
            "lab.yaml",
            "files/../solution.sh",
            "files/",
            "files/.hidden",
            "files/a/b",
            "files/%2e%2e",
            "../x/solution.sh",
            "ftp://a",
            "data:x",
        ] {
            assert_eq!(Address::of(path), Address::Nowhere, "{path}");
        }
        let html = html("[s](solution.sh)", PLACE);
        assert!(!html.contains("href") && html.contains(">s</a>"), "{html}");
    }
}
