//! The settings of mail.

use std::{net::IpAddr, path::PathBuf};

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

/// A mail server, by which invitations, links and notices are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// The host name of the mail server.
    pub host: String,
    /// Its port. Default: 587 with `starttls`, 465 with `tls`, 25 without encryption.
    #[serde(default)]
    pub port: Option<u16>,
    /// How the connection is encrypted. Default: `starttls`.
    #[serde(default)]
    pub encryption: Encryption,
    /// A file with certificates, in PEM, of authorities that are trusted besides those of the system.
    #[serde(default)]
    pub authority_file: Option<PathBuf>,
    /// The name to sign in to the mail server with. Default: none, without a sign-in.
    #[serde(default)]
    pub user: Option<String>,
    /// A file with the password. With `user`, set exactly one of this and `password_env`.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The name of an environment variable with the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// The sender, such as `Faultline <faultline@example.org>`.
    pub from: String,
}

/// How the connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// Not at all. Only for a mail server on a loopback address.
    None,
    /// It begins without encryption and continues with TLS before anything is sent.
    #[default]
    Starttls,
    /// TLS from the beginning.
    Tls,
}

impl Encryption {
    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Starttls => "starttls",
            Self::Tls => "tls",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::None => 25,
            Self::Starttls => 587,
            Self::Tls => 465,
        }
    }
}

/// An error in the settings of mail.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The host is no host name.
    #[error("host {0:?} is not the name or address of a host; the port is a setting of its own")]
    Host(String),
    /// The connection would not be encrypted.
    #[error(
        "encryption is \"none\", but the host {0} is not a loopback address; set it to \"starttls\" or \"tls\""
    )]
    NotEncrypted(String),
    /// The sender is not an address.
    #[error("from {0:?} is not a sender such as \"Faultline <faultline@example.org>\"")]
    From(String),
    /// A user without a password, or the other way round.
    #[error("set user together with either password_file or password_env, or none of the three")]
    Credentials,
    /// A file can't be read.
    #[error("the file {0} can't be read")]
    File(PathBuf, #[source] std::io::Error),
    /// The file with certificates has none that can be used.
    #[error("the file {0} has no certificate in PEM that can be used")]
    Authority(PathBuf),
    /// The password's environment variable isn't set.
    #[error("the environment variable {0}, which should have the password, is not set")]
    Variable(String),
    /// The password is empty.
    #[error("the password is empty")]
    Empty,
    /// TLS can't be set up.
    #[error("TLS can't be set up: {0}")]
    Tls(String),
}

/// What the settings say, checked.
pub(crate) struct Checked {
    pub from: Mailbox,
    pub credentials: Option<(String, String)>,
    /// The certificates of additional authorities, in PEM.
    pub authorities: Option<Vec<u8>>,
}

impl Mail {
    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or_else(|| self.encryption.port())
    }

    fn is_loopback(&self) -> bool {
        let ip = self.host.parse();
        self.host == "localhost" || ip.is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Checks the settings, and reads the files that they name.
    pub(crate) fn check(&self) -> Result<Checked, MailError> {
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
        let is_name = self.host.parse::<IpAddr>().is_ok() || !self.host.contains(':');
        if self.host.is_empty() || !self.host.chars().all(is_host) || !is_name {
            return Err(MailError::Host(self.host.clone()));
        }
        if self.encryption == Encryption::None && !self.is_loopback() {
            return Err(MailError::NotEncrypted(self.host.clone()));
        }
        let from = self.from.parse();
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|e| MailError::File(path.clone(), e));
        Ok(Checked {
            from: from.map_err(|_| MailError::From(self.from.clone()))?,
            credentials: self.credentials()?,
            authorities: self.authority_file.as_ref().map(read).transpose()?,
        })
    }

    fn credentials(&self) -> Result<Option<(String, String)>, MailError> {
        let (user, password) = match (&self.user, &self.password_file, &self.password_env) {
            (None, None, None) => return Ok(None),
            (Some(user), Some(path), None) => {
                let password = std::fs::read_to_string(path);
                let password = password.map_err(|e| MailError::File(path.clone(), e))?;
                (user, password.trim().to_owned())
            }
            (Some(user), None, Some(name)) => {
                let password = std::env::var(name);
                (
                    user,
                    password.map_err(|_| MailError::Variable(name.clone()))?,
                )
            }
            _ => return Err(MailError::Credentials),
        };
        if password.is_empty() {
            return Err(MailError::Empty);
        }
        Ok(Some((user.clone(), password)))
    }
}

#[cfg(test)]
impl Mail {
    /// Returns settings for a mail server on this machine, without encryption.
    pub(crate) fn example(port: u16) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: Some(port),
            encryption: Encryption::None,
            authority_file: None,
            user: None,
            password_file: None,
            password_env: None,
            from: "Faultline <faultline@example.org>".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_from_the_encryption() {
        for (encryption, port) in [
            (Encryption::None, 25),
            (Encryption::Starttls, 587),
            (Encryption::Tls, 465),
        ] {
            let settings = Mail {
                encryption,
                port: None,
                ..Mail::example(1)
            };
            assert_eq!(settings.port(), port);
        }
        assert_eq!(Mail::example(2525).port(), 2525);
    }

    #[test]
    fn invalid_settings_say_what_is_wrong() {
        let ok = Mail::example(25);
        assert!(ok.check().is_ok());
        let host = |host: &str| Mail {
            host: host.to_owned(),
            ..ok.clone()
        };
        assert!(host("::1").check().is_ok() && host("localhost").check().is_ok());
        let from = |from: &str| Mail {
            from: from.to_owned(),
            ..ok.clone()
        };
        let user = |user: Option<&str>, file: Option<&str>, variable: Option<&str>| Mail {
            user: user.map(str::to_owned),
            password_file: file.map(PathBuf::from),
            password_env: variable.map(str::to_owned),
            ..ok.clone()
        };
        let authority = Mail {
            authority_file: Some("/nowhere/ca.pem".into()),
            ..ok.clone()
        };
        for (bad, why) in [
            (host("smtp.example.org"), "not a loopback address"),
            (host("127.0.0.1:25"), "is not the name"),
            (host("smtp.example.org\r\nX"), "is not the name"),
            (host(""), "is not the name"),
            (from("Faultline"), "is not a sender"),
            (
                from("a@example.org\r\nBcc: b@example.org"),
                "is not a sender",
            ),
            (user(Some("ann"), None, None), "together with"),
            (user(None, Some("/x"), None), "together with"),
            (user(Some("ann"), Some("/x"), Some("Y")), "together with"),
            (
                user(Some("ann"), Some("/nowhere/password"), None),
                "/nowhere/password",
            ),
            (
                user(Some("ann"), None, Some("FAULTLINE_NO_SUCH_VARIABLE")),
                "FAULTLINE_NO_SUCH_VARIABLE",
            ),
            (authority, "/nowhere/ca.pem"),
        ] {
            let error = bad.check().err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let empty = user(Some("ann"), Some(path), None).check().err().unwrap();
        assert!(empty.to_string().contains("is empty"));
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let checked = user(Some("ann"), Some(path), None).check().ok().unwrap();
        let credentials = Some(("ann".to_owned(), "s3cret".to_owned()));
        assert_eq!(checked.credentials, credentials);
    }
}
