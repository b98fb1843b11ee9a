//! The settings of sign-in through an identity provider, by OpenID Connect.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use faultline_domain::authz::Role;
use openidconnect::IssuerUrl;
use serde::{Deserialize, Serialize};

/// An identity provider: any that supports OpenID Connect discovery and the authorization code flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// The provider's name, as shown on the button.
    pub name: String,
    /// The issuer URL, exactly as in the provider's discovery document. It uses `https`, unless its host is a loopback
    /// address.
    pub issuer: String,
    /// The client ID that the provider gave to this server.
    pub client_id: String,
    /// A file with the client secret. Set at most one of this and `client_secret_env`; with neither, the client is public.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// The name of an environment variable with the client secret.
    #[serde(default)]
    pub client_secret_env: Option<String>,
    /// The scopes that are requested besides `openid`. Default: `profile` and `email`.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// The claim with a person's groups or roles: a text or a list of texts. A name such as `realm_access.roles` also
    /// finds `roles` in an object `realm_access`.
    #[serde(default)]
    pub roles_claim: Option<String>,
    /// The role that each value of `roles_claim` gives. If set, every sign-in sets the person's role: the highest of those
    /// that match, or student if none does.
    #[serde(default)]
    pub roles: BTreeMap<String, Role>,
    /// Who may join without an invitation. Default: nobody.
    #[serde(default)]
    pub join: Join,
}

/// Who may join without an invitation. It suffices that one setting matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Join {
    /// Everyone whom the provider signs in. Default: false.
    pub everyone: bool,
    /// People whose e-mail address the provider has verified and whose domain is one of these.
    pub email_domains: Vec<String>,
    /// People of whom a claim has one of these values, by the name of the claim.
    pub claims: BTreeMap<String, Vec<String>>,
}

fn default_scopes() -> Vec<String> {
    vec!["profile".to_owned(), "email".to_owned()]
}

/// An error in the settings of an identity provider.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The issuer is not a URL.
    #[error("the issuer {0:?} is not a URL")]
    NotAUrl(String),
    /// The issuer's connection would not be encrypted.
    #[error("the issuer {0} must begin with https://, because its host is not a loopback address")]
    NotEncrypted(String),
    /// A text is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Two sources of the secret are set.
    #[error("set client_secret_file or client_secret_env, not both")]
    TwoSecrets,
    /// The secret's file can't be read.
    #[error("the file with the client secret, {0}, can't be read")]
    File(PathBuf, #[source] std::io::Error),
    /// The secret's environment variable isn't set.
    #[error("the environment variable {0}, which should have the client secret, is not set")]
    Variable(String),
    /// A mapping without a claim, or a claim without a mapping.
    #[error("set both roles_claim and roles, or neither")]
    RolesWithoutClaim,
}

impl Oidc {
    /// Checks the settings, and returns the issuer and the client secret.
    pub(crate) fn check(&self) -> Result<(IssuerUrl, Option<String>), OidcError> {
        for (name, value) in [("name", &self.name), ("client_id", &self.client_id)] {
            if value.trim().is_empty() {
                return Err(OidcError::Empty(name));
            }
        }
        if self.roles_claim.is_none() != self.roles.is_empty() {
            return Err(OidcError::RolesWithoutClaim);
        }
        let issuer = IssuerUrl::new(self.issuer.clone())
            .map_err(|_| OidcError::NotAUrl(self.issuer.clone()))?;
        let url = issuer.url();
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback =
            host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback) {
            return Err(OidcError::NotEncrypted(self.issuer.clone()));
        }
        Ok((issuer, self.secret()?))
    }

    fn secret(&self) -> Result<Option<String>, OidcError> {
        let secret = match (&self.client_secret_file, &self.client_secret_env) {
            (Some(_), Some(_)) => return Err(OidcError::TwoSecrets),
            (None, None) => return Ok(None),
            (Some(path), None) => std::fs::read_to_string(path)
                .map_err(|e| OidcError::File(path.clone(), e))?
                .trim()
                .to_owned(),
            (None, Some(name)) => {
                std::env::var(name).map_err(|_| OidcError::Variable(name.clone()))?
            }
        };
        if secret.is_empty() {
            return Err(OidcError::Empty("the client secret"));
        }
        Ok(Some(secret))
    }
}

#[cfg(test)]
impl Oidc {
    /// Returns settings for a provider on this machine.
    pub(crate) fn example(issuer: &str) -> Self {
        Self {
            name: "Example".to_owned(),
            issuer: issuer.to_owned(),
            client_id: "faultline".to_owned(),
            client_secret_file: None,
            client_secret_env: None,
            scopes: default_scopes(),
            roles_claim: None,
            roles: BTreeMap::new(),
            join: Join::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_say_what_is_wrong() {
        let ok = Oidc::example("https://login.example.org");
        assert!(ok.check().is_ok());
        assert!(Oidc::example("http://127.0.0.1:5000").check().is_ok());
        assert!(Oidc::example("http://[::1]:5000").check().is_ok());
        let secrets = Oidc {
            client_secret_file: Some("a".into()),
            client_secret_env: Some("B".to_owned()),
            ..ok.clone()
        };
        let variable = Oidc {
            client_secret_env: Some("FAULTLINE_NO_SUCH_VARIABLE".to_owned()),
            ..ok.clone()
        };
        let file = Oidc {
            client_secret_file: Some("/nowhere/secret".into()),
            ..ok.clone()
        };
        let roles = Oidc {
            roles_claim: Some("groups".to_owned()),
            ..ok.clone()
        };
        let empty = Oidc {
            client_id: " ".to_owned(),
            ..ok
        };
        for (bad, why) in [
            (Oidc::example("http://login.example.org"), "https://"),
            (Oidc::example("ftp://127.0.0.1"), "https://"),
            (Oidc::example("login"), "is not a URL"),
            (secrets, "not both"),
            (variable, "FAULTLINE_NO_SUCH_VARIABLE"),
            (file, "/nowhere/secret"),
            (roles, "both roles_claim and roles"),
            (empty, "client_id is empty"),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_secret_is_read_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let settings = Oidc {
            client_secret_file: Some(file.path().to_owned()),
            ..Oidc::example("https://login.example.org")
        };
        assert_eq!(settings.check().unwrap().1.as_deref(), Some("s3cret"));
    }
}
