//! Refusals, as Kubernetes clients show them: `kubectl` prints a `Status` object's message.

use bytes::Bytes;
use hyper::{HeaderMap, Response, StatusCode, header};
use serde_json::json;

/// Why a request is not carried, for the person who reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// Kubernetes' word for it.
    pub reason: &'static str,
    /// What is the matter, and what to do.
    pub message: String,
    /// True when nothing was decided: what is open stays open.
    pub undecided: bool,
    /// True when it counts against the address that it came from: a guess.
    pub guessed: bool,
}

/// On the answer to a guess.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guessed;

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            undecided: false,
            guessed: false,
        }
    }

    /// No token, or one that nobody was given.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self {
            guessed: true,
            ..Self::expired()
        }
    }

    /// A token that opens nothing any more.
    #[must_use]
    pub fn expired() -> Self {
        Self::new(
            401,
            "Unauthorized",
            "this token opens nothing, or nothing any more; `faultline kubeconfig` writes a kubeconfig that renews its own",
        )
    }

    /// An unknown environment, or somebody else's: on purpose the same.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(
            404,
            "NotFound",
            "no such environment, or it is not yours; `faultline env list` shows your environments",
        )
    }

    /// There is one, and it will never have an API server.
    #[must_use]
    pub fn no_cluster(message: impl Into<String>) -> Self {
        Self::new(404, "NotFound", message)
    }

    /// It has ended.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// Not now: it starts, is paused, or does not answer.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The platform could not find out.
    #[must_use]
    pub fn undecided() -> Self {
        Self {
            undecided: true,
            ..Self::new(
                500,
                "InternalError",
                "the platform could not look this up; try again in a moment",
            )
        }
    }

    /// Too many requests.
    #[must_use]
    pub fn too_many(message: impl Into<String>) -> Self {
        Self::new(429, "TooManyRequests", message)
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// The answer to the client. client-go shows no `Status` of what it asks to discover the API, but words of its own for
    /// the code; of 403 alone it shows the text as it comes.
    pub(super) fn response(&self, discovery: bool) -> Response<Bytes> {
        if discovery && !matches!(self.code, 401 | 429) {
            let mut response = Response::new(Bytes::from(self.message.clone()));
            *response.status_mut() = StatusCode::FORBIDDEN;
            let text = header::HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, text);
            return response;
        }
        let object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        let mut response = Response::new(Bytes::from(object.to_string()));
        *response.status_mut() =
            StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.guessed {
            response.extensions_mut().insert(Guessed);
        }
        let headers: &mut HeaderMap = response.headers_mut();
        let json = header::HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if self.code == 429 {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}
