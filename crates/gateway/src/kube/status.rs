//! Refusals, in the form that Kubernetes clients display: `kubectl` prints the message of a `Status` object.

use bytes::Bytes;
use hyper::{HeaderMap, Response, StatusCode, header};
use serde_json::json;

/// Why a request is refused, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// Kubernetes' reason for the code, such as `NotFound`.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
    /// True if access could not be decided. Then open requests and sessions stay open.
    pub undecided: bool,
    /// True if the token was missing or unknown, which counts as a failure of the client's address.
    pub guessed: bool,
}

/// Marks the response to a missing or unknown token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guessed;

/// Marks the response to a request whose token was valid for its environment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authenticated;

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

    /// Refuses a missing token, or one that was never issued.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self {
            guessed: true,
            ..Self::expired()
        }
    }

    /// Refuses an expired token.
    #[must_use]
    pub fn expired() -> Self {
        Self::new(
            401,
            "Unauthorized",
            "the token is missing, invalid or expired; `faultline kubeconfig` writes a kubeconfig that renews its token",
        )
    }

    /// Refuses an unknown environment and somebody else's, deliberately in the same way.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(
            404,
            "NotFound",
            "no such environment, or it isn't yours; `faultline env list` shows your environments",
        )
    }

    /// Refuses an environment that never has an API server.
    #[must_use]
    pub fn no_cluster(message: impl Into<String>) -> Self {
        Self::new(404, "NotFound", message)
    }

    /// Refuses a request that the environment's cluster never allows.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// Refuses an environment that has ended.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// Refuses a request that can't be served now: the environment is starting or paused, or doesn't respond.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// Refuses a request because the platform failed to look up the token or the environment.
    #[must_use]
    pub fn undecided() -> Self {
        Self {
            undecided: true,
            ..Self::new(
                500,
                "InternalError",
                "the platform failed to check your access; try again in a moment",
            )
        }
    }

    /// Refuses a request that exceeds a limit.
    #[must_use]
    pub fn too_many(message: impl Into<String>) -> Self {
        Self::new(429, "TooManyRequests", message)
    }

    /// Refuses a request with too large a body.
    #[must_use]
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// Refuses a malformed request.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// Returns the response for the client. If API discovery fails, client-go doesn't display a `Status` but its own
    /// text for the code. Only for 403 does it display the response's text, so discovery is refused with 403 and plain
    /// text, except for 401 and 429.
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
