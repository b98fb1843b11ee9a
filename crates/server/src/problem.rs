//! What a person is told when something can't be done: problem JSON (RFC 9457) on the API, a page elsewhere.

use std::time::Duration;

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use faultline_domain::{authz::NotFound, limits::Denial};
use faultline_store::environments::Refused;
use serde::Serialize;
use utoipa::ToSchema;

/// What can't be done, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A stable word: `not-found`, `no-room`, `not-running`.
    pub code: &'static str,
    /// What can't be done, in one line.
    pub title: String,
    /// Why, and what to do next.
    pub detail: String,
    /// After how many seconds trying again makes sense: the header `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// The code of [`Denial`]s.
    pub(crate) const NO_ROOM: &str = "no-room";

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

    /// Too many requests; trying again makes sense after `wait`.
    pub(crate) fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        Self {
            retry_after: Some(seconds),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many",
                "That was too much at once",
                format!(
                    "Wait {seconds} s and try again; a program should do what `Retry-After` says. \
                     Nothing was changed."
                ),
            )
        }
    }

    /// There is nothing here, or nothing that this person may see.
    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is nothing here",
            "The address is wrong, or what it led to belongs to somebody else.",
        )
    }

    /// The environment is there, the lab that says what to check, hint and explain is not.
    pub(crate) fn lab_gone() -> Self {
        Self::conflict(
            "lab-gone",
            "This lab is no longer offered",
            "Its folder was taken away from the labs of this server; its machines go on, and nothing on them is lost. \
             Whoever keeps the labs can put it back.",
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "This can't be done here",
            "This address does not support that method; see `Allow`.",
        )
    }

    pub(crate) fn signed_out() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "signed-out",
            "You are not signed in",
            "Run `faultline up` on the machine that runs Faultline: it prints a link that signs you in, whether it runs already or not.",
        )
    }

    pub(crate) fn bad_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "bad-token",
            "This needs a valid API token",
            "Send it as `Authorization: Bearer flt_…`. Tokens are made on the page “Keys and tokens”.",
        )
    }

    pub(crate) fn forged() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forged",
            "This did not come from a page of yours",
            "Open the page again and repeat what you did; nothing was changed.",
        )
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            "This can't be understood",
            detail,
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "This is too large",
            format!("At most {} KiB are taken here.", limit / 1024),
        )
    }

    pub(crate) fn conflict(code: &'static str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, title, detail)
    }

    fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Faultline could not do this",
            "It is not your doing, and nothing of yours is lost. Try again; if it stays, the server's log says why.",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, Json(&self)).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        // Pages are made of this: see `web::problems`.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<NotFound> for Problem {
    fn from(_: NotFound) -> Self {
        Self::not_found()
    }
}

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        let mut detail = denial.to_string();
        if let Some(first) = detail.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Self::conflict(Self::NO_ROOM, "There is no room for this now", detail + ".")
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
            "a page could not be made"
        );
        Self::internal()
    }
}
