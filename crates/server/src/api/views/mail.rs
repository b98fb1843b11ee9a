//! Mail.

use faultline_store::{mail_addresses::MailSettings, outbox::OutboxStatus};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::mail::Mailer;

/// The caller's settings of mail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MailView {
    /// The address that the caller has confirmed, if any.
    pub address: Option<String>,
    /// The address that the caller has entered and can still confirm, if any.
    pub unconfirmed: Option<String>,
    /// True if the caller gets mail about their environments.
    pub notices: bool,
}

impl From<MailSettings> for MailView {
    fn from(of: MailSettings) -> Self {
        Self {
            address: of.address.map(|address| address.to_string()),
            unconfirmed: of.unconfirmed.map(|address| address.to_string()),
            notices: of.wants_notices,
        }
    }
}

/// A mail address to confirm.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAddress {
    pub address: String,
}

/// The code that confirms a mail address.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SentCode {
    pub code: String,
}

/// Whether the caller gets mail about their environments.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoticesUpdate {
    pub wanted: bool,
}

/// Where a test is sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MailTest {
    /// The mail address.
    pub to: String,
}

/// A mail that the mail server has accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SentMail {
    /// The mail address.
    pub to: String,
}

/// The state of mail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MailStatusView {
    pub host: String,
    pub port: u16,
    /// `none`, `starttls` or `tls`.
    pub encryption: &'static str,
    /// The sender.
    pub from: String,
    /// When the mail server was last used; none if it was not asked yet.
    pub used_at: Option<String>,
    /// Why it didn't answer as it should then; none if it did.
    pub problem: Option<String>,
    /// The number of mails that wait to be sent.
    pub waiting: u64,
    /// When the oldest of them was written.
    pub oldest: Option<String>,
    /// The mails that were given up, latest first.
    pub failures: Vec<MailFailureView>,
}

/// A mail that was given up.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MailFailureView {
    /// `invitation`, `password-reset`, `confirmation`, `ready` or `ending`.
    pub purpose: &'static str,
    /// The mail address.
    pub to: String,
    /// When it was given up.
    pub at: String,
    /// The number of attempts.
    pub attempts: u32,
    /// Why the last one failed.
    pub problem: String,
}

impl MailStatusView {
    pub(crate) fn new(mailer: &Mailer, outbox: OutboxStatus) -> Self {
        let answer = mailer.answer();
        let failure = |f: faultline_store::outbox::MailFailure| MailFailureView {
            purpose: f.purpose.as_str(),
            to: f.to.to_string(),
            at: f.failed_at.to_string(),
            attempts: f.attempts,
            problem: f.problem,
        };
        Self {
            host: mailer.settings.host.clone(),
            port: mailer.settings.port(),
            encryption: mailer.settings.encryption.as_str(),
            from: mailer.settings.from.clone(),
            used_at: answer.as_ref().map(|answer| answer.at.to_string()),
            problem: answer.and_then(|answer| answer.result.err()),
            waiting: outbox.waiting,
            oldest: outbox.oldest.map(|at| at.to_string()),
            failures: outbox.failures.into_iter().map(failure).collect(),
        }
    }
}
