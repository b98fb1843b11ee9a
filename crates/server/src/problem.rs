//! Errors as people see them: problem JSON (RFC 9457) on the API, a page elsewhere.

use std::time::Duration;

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use faultline_domain::{authz::NotFound, limits::Denial, quota::Frees};
use faultline_store::{environments::Refused, save_points};
use serde::Serialize;
use utoipa::ToSchema;

/// An error: what can't be done, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A stable code for programs, such as `not-found`, `no-room`, `limit` or `not-running`.
    pub code: &'static str,
    /// What can't be done, in one line.
    pub title: String,
    /// Why, and what to do next.
    pub detail: String,
    /// Seconds after which the client should retry. Sent in the header `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// The code of [`Denial`]s for which there is no room on the host.
    pub(crate) const NO_ROOM: &str = "no-room";
    /// The code of [`Denial`]s by a quota.
    pub(crate) const LIMIT: &str = "limit";
    /// The code for requests without a valid session.
    pub(crate) const SIGNED_OUT: &str = "signed-out";

    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        title: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status: status.as_u16(),
            code,
            title: title.into(),
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// Too many requests: the client should retry after `wait`.
    pub(crate) fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        Self {
            retry_after: Some(seconds),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many",
                "Too many requests",
                format!("Wait {seconds} s and try again. Nothing was changed."),
            )
        }
    }

    /// The resource doesn't exist, or this person may not see it.
    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "Not found",
            "The address is wrong, or what it leads to belongs to somebody else.",
        )
    }

    /// The environment exists, but its lab, with the checks, hints and solution, doesn't.
    pub(crate) fn lab_gone() -> Self {
        Self::conflict(
            "lab-gone",
            "This lab is no longer offered",
            "Its folder was removed from this server's labs. Its machines keep running, and nothing on them is lost. \
             The operator can put the folder back.",
        )
    }

    /// The server is in maintenance, so nothing is started.
    fn maintenance(explanation: String) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "maintenance",
            "The server is in maintenance",
            explanation,
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "Method not allowed",
            "This address does not support that method; see `Allow`.",
        )
    }

    pub(crate) fn signed_out() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Self::SIGNED_OUT,
            "You are not signed in",
            "Sign in with your login name and password. The owner can also run `faultline up` on the machine that runs \
             Faultline: it prints a link that signs the owner in.",
        )
    }

    pub(crate) fn bad_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "bad-token",
            "This needs a valid API token",
            "Send it as `Authorization: Bearer flt_…`. Create tokens on the page “Keys and tokens”.",
        )
    }

    pub(crate) fn read_only() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "read-only",
            "This API token may only read",
            "Create a token without this restriction on the page “Keys and tokens”.",
        )
    }

    pub(crate) fn token_ends() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "token-ends",
            "This API token has an end",
            "It can't create tokens or sign-in links, since these could outlast it. Sign in on the pages to create them.",
        )
    }

    pub(crate) fn forged() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forged",
            "This request did not come from a Faultline page",
            "Reload the page and try again. Nothing was changed.",
        )
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            "The request is invalid",
            detail,
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The request is too large",
            format!("The limit is {} KiB.", limit / 1024),
        )
    }

    pub(crate) fn conflict(code: &'static str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, title, detail)
    }

    /// Returns the status for a response.
    pub(crate) fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Faultline could not do this",
            "This is not your fault, and nothing of yours is lost. Try again. \
             If it keeps failing, see the server's log.",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status_code();
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, Json(&self)).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        // `web::problems` renders pages from this.
        response.extensions_mut().insert(self);
        response
    }
}

/// Makes a sentence of a text: with a capital letter and a full stop.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), chars.as_str())
}

impl From<save_points::Refused> for Problem {
    fn from(refused: save_points::Refused) -> Self {
        match refused {
            save_points::Refused::Denied(denial) => {
                let detail = sentence(&denial.to_string());
                Self::conflict("too-many-saves", "It can't be saved now", detail)
            }
            save_points::Refused::Store(e) => e.into(),
        }
    }
}

impl From<NotFound> for Problem {
    fn from(_: NotFound) -> Self {
        Self::not_found()
    }
}

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        if let Denial::Maintenance { explanation } = denial {
            return Self::maintenance(explanation);
        }
        let detail = sentence(&denial.to_string());
        let Denial::Quota(exceeded) = &denial else {
            return Self::conflict(Self::NO_ROOM, "There is no room for this now", detail);
        };
        let after = match exceeded.frees {
            Frees::At(_, wait) => u64::try_from(wait.as_secs()).ok(),
            Frees::WithAnEnd | Frees::Never => None,
        };
        Self {
            retry_after: after.map(|seconds| seconds.max(1)),
            ..Self::conflict(Self::LIMIT, "A limit is reached", detail)
        }
    }
}

impl From<faultline_store::Error> for Problem {
    fn from(e: faultline_store::Error) -> Self {
        tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
        Self::internal()
    }
}

impl From<faultline_provider::Error> for Problem {
    fn from(e: faultline_provider::Error) -> Self {
        tracing::error!(error = &e as &dyn std::error::Error, "the provider failed");
        Self::internal()
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied(denial) => denial.into(),
            Refused::Store(e) => e.into(),
        }
    }
}

impl From<askama::Error> for Problem {
    fn from(e: askama::Error) -> Self {
        tracing::error!(
            error = &e as &dyn std::error::Error,
            "a page could not be rendered"
        );
        Self::internal()
    }
}
