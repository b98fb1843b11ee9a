//! The caller's own keys, tokens and sessions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The caller.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MeView {
    pub person: String,
    /// `student`, `author`, `instructor` or `operator`.
    pub role: &'static str,
}

/// The address and host key of the SSH gateway.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GatewayView {
    /// The host name, as people type it.
    pub host: String,
    pub port: u16,
    /// The public host key, in OpenSSH's format.
    pub host_key: String,
}

/// A public key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyView {
    pub id: String,
    pub name: String,
    /// The fingerprint, `SHA256:…`.
    pub fingerprint: String,
    /// The key, in OpenSSH's format.
    pub public_key: String,
    pub created_at: String,
}

/// A public key to add.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewKey {
    /// The name of the key. Default: the key's comment.
    #[serde(default)]
    pub name: String,
    /// The key in OpenSSH's format, such as `ssh-ed25519 AAAA… you@host`.
    pub public_key: String,
}

/// An API token, without the token itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    pub id: String,
    pub name: String,
    pub created_at: String,
    pub last_used: Option<String>,
    /// `full`, or `read` if it may only read.
    pub scope: &'static str,
    /// When it ends; none if it doesn't.
    pub expires_at: Option<String>,
    /// True for the token of this request.
    pub is_current: bool,
}

/// A browser in which the caller is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionView {
    pub id: String,
    /// The browser and its system, such as `Firefox on Linux`; empty if not known.
    pub browser: String,
    /// When the caller signed in.
    pub created_at: String,
    /// When it was last used, with a precision of one minute; none if not known.
    pub last_used: Option<String>,
    /// When it expires.
    pub expires_at: String,
}

impl From<faultline_store::sessions::Session> for SessionView {
    fn from(s: faultline_store::sessions::Session) -> Self {
        Self {
            id: s.id,
            browser: s.browser,
            created_at: s.created_at.to_string(),
            last_used: s.last_used.map(|at| at.to_string()),
            expires_at: s.expires_at.to_string(),
        }
    }
}

/// An API token to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// The name of the token.
    pub name: String,
    /// True if it may only read: no changes and no terminals. Default: false.
    #[serde(default)]
    pub read_only: bool,
    /// The number of days for which it is valid. Default: without an end.
    #[serde(default)]
    pub days: Option<u32>,
}

/// A new API token. No other response contains the token itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeToken {
    pub id: String,
    /// Send it as `Authorization: Bearer …`.
    pub token: String,
}

/// A link that signs a browser in, once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignInLink {
    pub url: String,
    /// When it expires.
    pub expires_at: String,
}

/// How a person gets the link after their password was reset.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetRequest {
    /// True to send the link to the person's mail address. Default: false.
    #[serde(default)]
    pub mail: bool,
}

/// A link for a person whose password was reset.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResetView {
    /// The link, which signs the person in once; none if it is in the mail only.
    pub url: Option<String>,
    /// The mail address that it is sent to, if any.
    pub mailed_to: Option<String>,
    /// When it expires.
    pub expires_at: String,
}
