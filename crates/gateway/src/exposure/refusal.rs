//! Refusals of the gateway to exposures, as pages for people and as lines of text for programs.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Response, StatusCode, header, header::HeaderValue};

use super::{Answer, AnyBody};

/// Nothing is loaded or run on the gateway's own pages.
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'";

/// Why a request is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What can't be done, in one line.
    pub title: String,
    /// Why, and what to do next.
    pub detail: String,
    /// A URL of the platform where the visitor can go on, with its text.
    pub link: Option<(String, &'static str)>,
    /// True if nothing could be decided, because something failed. What is open stays open.
    pub is_undecided: bool,
}

/// Marks the response to a request that the gateway refused: its visitor has no valid cookie.
#[derive(Debug, Clone, Copy)]
pub struct Refused;

impl Refusal {
    fn new(status: StatusCode, title: &str, detail: impl Into<String>) -> Self {
        Self {
            status,
            title: title.to_owned(),
            detail: detail.into(),
            link: None,
            is_undecided: false,
        }
    }

    /// The visitor has no valid cookie. The same for exposures that don't exist. `link` leads to the platform.
    #[must_use]
    pub fn private(link: String) -> Self {
        Self {
            link: Some((link, "Open the workspace")),
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "This page is private",
                "Open it from the workspace of its environment. If somebody has sent you a link, that link has expired \
                 or was withdrawn.",
            )
        }
    }

    /// The exposure can't be opened now.
    #[must_use]
    pub fn closed(status: StatusCode, detail: String, link: String) -> Self {
        Self {
            link: Some((link, "Open the workspace")),
            ..Self::new(status, "This page can't be opened", detail)
        }
    }

    /// Whether the visitor may open the exposure could not be decided.
    #[must_use]
    pub fn undecided() -> Self {
        Self {
            is_undecided: true,
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "This page can't be opened now",
                "The server could not look up who may open it. Try again in a moment.",
            )
        }
    }

    /// A limit is exceeded.
    #[must_use]
    pub fn too_many(detail: String) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests", detail)
    }

    /// No exposure can have this host name.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "Nothing has this address",
            "Addresses have the form <name>-<environment>; the workspace lists them.",
        )
    }

    pub(super) fn no_host() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The request has no host",
            "Send the header Host.",
        )
    }

    pub(super) fn reserved() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "Not found",
            "Paths below /_faultline/ are Faultline's own.",
        )
    }

    pub(super) fn foreign() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "This request comes from another site",
            "Pages of other sites can only link to this one.",
        )
    }

    pub(super) fn nothing_listens() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "Nothing listens",
            "No node accepts connections to this port. Does the service have endpoints that are ready?",
        )
    }

    pub(super) fn malformed() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "The response is not HTTP",
            "What listens on this port closed the connection or does not speak HTTP/1.1. Use `faultline forward` for \
             other protocols.",
        )
    }

    pub(super) fn silent() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "No response",
            "What listens on this port has accepted the connection and not responded in time.",
        )
    }

    /// Returns the response: a page, or a line of text.
    #[must_use]
    pub fn response(&self, html: bool) -> Answer {
        let (kind, text) = if html {
            ("text/html; charset=utf-8", self.page())
        } else {
            let line = format!("{}: {}\n", self.title, self.detail);
            ("text/plain; charset=utf-8", line)
        };
        let mut response = Response::new(body(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-store"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.extensions_mut().insert(Refused);
        }
        response
    }

    fn page(&self) -> String {
        let link = self.link.as_ref().map_or_else(String::new, |(url, text)| {
            format!("<p><a href=\"{}\">{text}</a></p>", escaped(url))
        });
        let (title, detail) = (escaped(&self.title), escaped(&self.detail));
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>{title}</title><h1>{title}</h1><p>{detail}</p>{link}</html>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Returns whether a client prefers pages to text.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    accept.is_some_and(|accept| accept.to_str().is_ok_and(|a| a.contains("text/html")))
}

/// Returns a body with this text.
pub(super) fn body(text: impl Into<Bytes>) -> AnyBody {
    let whole = Full::new(text.into());
    whole.map_err(|never| match never {}).boxed_unsync()
}
