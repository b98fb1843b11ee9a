//! Mail: the client of the mail server, and the texts.
//!
//! | module | holds |
//! |---|---|
//! | this one | the client of the mail server |
//! | [`texts`] | the subjects and texts of all mail |
//!
//! Operations and reconcilers write mail to the outbox (`faultline_store::outbox`), and the reconciler of mail sends it.

pub(crate) mod texts;

use std::{sync::Mutex, time::Duration};

use faultline_domain::MailAddress;
use jiff::{SignedDuration, Timestamp};
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header},
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};

use crate::{
    config::mail::{Encryption, Mail, MailError},
    lock::lock,
};

/// The time limit of a conversation with the mail server.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum length of a mail server's error, in characters.
const MAX_PROBLEM: usize = 300;
/// Replies after which sending the same mail again is pointless: the mailbox doesn't exist, or the mail is refused.
/// Other replies that refuse for good concern the sign-in, which an operator can mend meanwhile.
const FINAL: std::ops::RangeInclusive<u16> = 550..=554;

/// Why a mail was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct NotSent {
    /// What went wrong, in one line.
    pub problem: String,
    /// True if the mail server has refused this mail for good.
    pub is_final: bool,
    /// True if the mail server doesn't answer as it should, so that other mail can't be sent either.
    pub is_down: bool,
}

/// What is sent to whom.
#[derive(Debug, Clone)]
pub(crate) struct Letter<'a> {
    /// An ID that stays the same when the mail is sent again, so that mail programs can drop the second one.
    pub id: &'a str,
    pub to: &'a MailAddress,
    pub subject: &'a str,
    pub body: &'a str,
}

/// Whether the mail server answered, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub at: Timestamp,
    /// `Err` has the reason.
    pub result: Result<(), String>,
}

/// The client of the configured mail server.
pub(crate) struct Mailer {
    pub settings: Mail,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    /// The part after `@` of the IDs of mails.
    domain: String,
    timeout: Duration,
    answer: Mutex<Option<Answer>>,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Mailer {
    /// Checks the settings. Nothing is sent. `host` is this server's host, for the greeting.
    pub(crate) fn new(settings: Mail, host: &str) -> Result<Self, MailError> {
        let checked = settings.check()?;
        let tls = || -> Result<TlsParameters, MailError> {
            let mut tls = TlsParameters::builder(settings.host.clone());
            if let (Some(pem), Some(path)) = (&checked.authorities, &settings.authority_file) {
                let authority = Certificate::from_pem(pem);
                let authority = authority.map_err(|_| MailError::Authority(path.clone()))?;
                tls = tls.add_root_certificate(authority);
            }
            tls.build().map_err(|e| MailError::Tls(chain(&e)))
        };
        let tls = match settings.encryption {
            Encryption::None => Tls::None,
            Encryption::Starttls => Tls::Required(tls()?),
            Encryption::Tls => Tls::Wrapper(tls()?),
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&settings.host)
            .port(settings.port())
            .tls(tls)
            .timeout(Some(TIMEOUT))
            .hello_name(greeting(host));
        if let Some((user, password)) = checked.credentials {
            transport = transport.credentials(Credentials::new(user, password));
        }
        Ok(Self {
            transport: transport.build(),
            domain: checked.from.email.domain().to_owned(),
            from: checked.from,
            timeout: TIMEOUT,
            answer: Mutex::default(),
            settings,
        })
    }

    /// Sends a mail.
    pub(crate) async fn send(&self, letter: &Letter<'_>, now: Timestamp) -> Result<(), NotSent> {
        let message = self.message(letter, now)?;
        self.converse(self.transport.send(message), now)
            .await
            .map(drop)
    }

    /// Connects and signs in to the mail server, without sending anything.
    pub(crate) async fn probe(&self, now: Timestamp) -> Result<(), NotSent> {
        match self.converse(self.transport.test_connection(), now).await? {
            true => Ok(()),
            false => {
                let down = NotSent::down("the mail server has closed the connection".to_owned());
                self.record(now, Err(down.problem.clone()));
                Err(down)
            }
        }
    }

    /// Returns whether the mail server answered the last time that it was used.
    pub(crate) fn answer(&self) -> Option<Answer> {
        lock(&self.answer).clone()
    }

    /// Returns true if the mail server was not used for this long.
    pub(crate) fn is_unused_for(&self, time: SignedDuration, now: Timestamp) -> bool {
        let last = lock(&self.answer).as_ref().map(|answer| answer.at);
        last.is_none_or(|at| now.duration_since(at).abs() >= time)
    }

    fn record(&self, at: Timestamp, result: Result<(), String>) {
        *lock(&self.answer) = Some(Answer { at, result });
    }

    /// Waits for a conversation with the mail server within the time limit, and records whether it answered.
    async fn converse<T>(
        &self,
        conversation: impl Future<Output = Result<T, lettre::transport::smtp::Error>>,
        now: Timestamp,
    ) -> Result<T, NotSent> {
        let done = match tokio::time::timeout(self.timeout, conversation).await {
            Ok(done) => done.map_err(|e| NotSent::of(&e)),
            Err(_) => {
                let late = format!("no answer within {} s", self.timeout.as_secs());
                Err(NotSent::down(late))
            }
        };
        let result = match &done {
            Err(e) if e.is_down => Err(e.problem.clone()),
            _ => Ok(()),
        };
        self.record(now, result);
        done
    }

    fn message(&self, letter: &Letter<'_>, now: Timestamp) -> Result<Message, NotSent> {
        let unfit = |e: &dyn std::error::Error| NotSent {
            problem: chain(e),
            is_final: true,
            is_down: false,
        };
        let to: Address = letter.to.as_str().parse().map_err(|e| unfit(&e))?;
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(letter.subject)
            .date(now.into())
            .message_id(Some(format!("<{}@{}>", letter.id, self.domain)))
            .raw_header(header::HeaderValue::new(
                header::HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ))
            .header(header::ContentType::TEXT_PLAIN)
            .body(letter.body.to_owned())
            .map_err(|e| unfit(&e))
    }
}

impl NotSent {
    const fn down(problem: String) -> Self {
        Self {
            problem,
            is_final: false,
            is_down: true,
        }
    }

    fn of(e: &lettre::transport::smtp::Error) -> Self {
        let code = e.status().map(u16::from);
        let is_refused = code.is_some_and(|code| FINAL.contains(&code));
        Self {
            problem: chain(e),
            is_final: is_refused,
            // A reply that refuses or delays one mail says nothing about others.
            is_down: !is_refused && !matches!(code, Some(450..=452)),
        }
    }
}

/// Returns the name by which this server introduces itself.
fn greeting(host: &str) -> ClientId {
    match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => ClientId::Ipv4(ip),
        Ok(std::net::IpAddr::V6(ip)) => ClientId::Ipv6(ip),
        Err(_) => ClientId::Domain(host.to_owned()),
    }
}

/// Formats an error with its sources in one line. The mail server's words may have anything in them.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        let cause = e.to_string();
        // Some errors of the library end with their source.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = e.source();
    }
    let line = text.replace(['\n', '\r', '\t'], " ");
    let clean = faultline_lab::text::clean(line.as_bytes(), usize::MAX);
    clean.trim().chars().take(MAX_PROBLEM).collect()
}

/// Tries to connect and sign in to a mail server, for `faultline doctor`. Returns what is wrong.
pub async fn probe(settings: &Mail) -> Result<(), String> {
    let mailer = Mailer::new(settings.clone(), "localhost").map_err(|e| chain(&e))?;
    let now = faultline_domain::Clock::system().now();
    mailer.probe(now).await.map_err(|e| e.problem)
}

#[cfg(test)]
mod tests;
