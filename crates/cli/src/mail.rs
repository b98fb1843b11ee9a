//! `faultline mail`: the state of mail, and a test; for operators.

use clap::{Args, Subcommand};
use faultline_domain::MailAddress;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Output,
    answer::{local, print, say, table},
    api::Api,
    env::Where,
    person::address,
};

/// The options and the subcommand of `faultline mail`.
#[derive(Debug, Args)]
pub struct MailArgs {
    #[command(subcommand)]
    command: MailCommand,
    #[command(flatten)]
    place: Where,
}

/// The subcommands of `faultline mail`.
#[derive(Debug, Subcommand)]
enum MailCommand {
    /// Show whether the mail server answers, what waits, and what could not be sent
    Status,
    /// Send a test, and wait until the mail server has accepted it
    Test {
        /// The mail address that it is sent to
        #[arg(value_parser = address)]
        to: MailAddress,
    },
}

#[derive(Debug, Deserialize)]
struct Status {
    host: String,
    port: u16,
    encryption: String,
    from: String,
    used_at: Option<String>,
    problem: Option<String>,
    waiting: u64,
    oldest: Option<String>,
    failures: Vec<Failure>,
}

#[derive(Debug, Deserialize)]
struct Failure {
    purpose: String,
    to: String,
    at: String,
    attempts: u32,
    problem: String,
}

/// Runs a subcommand.
pub fn run(args: &MailArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    match &args.command {
        MailCommand::Status => {
            let answer: Value = api.get("/operator/mail")?;
            print(&answer, output, |answer| {
                Ok(text(Status::deserialize(answer)?))
            })
        }
        MailCommand::Test { to } => {
            let wanted = json!({ "to": to.as_str() });
            let sent = api.post("/operator/mail/test", Some(wanted))?;
            let done = format!("The mail server has accepted the test for {to}.");
            say(&sent, output, &done)
        }
    }
}

fn text(of: Status) -> String {
    let mut lines = vec![format!(
        "{}, port {}, encryption {}, from {}",
        of.host, of.port, of.encryption, of.from
    )];
    lines.push(match (&of.used_at, &of.problem) {
        (Some(at), Some(problem)) => {
            format!(
                "The mail server doesn't answer as it should: {problem} ({})",
                local(at)
            )
        }
        (Some(at), None) => format!("The mail server answers; last used {}.", local(at)),
        (None, _) => "The mail server was not asked yet.".to_owned(),
    });
    lines.push(match (of.waiting, &of.oldest) {
        (waiting, Some(oldest)) => {
            format!("Waiting: {waiting}, the oldest since {}.", local(oldest))
        }
        _ => "No mail waits.".to_owned(),
    });
    if !of.failures.is_empty() {
        let mut table = table(["NOT SENT", "TO", "GIVEN UP", "ATTEMPTS", "REASON"]);
        for f in of.failures {
            table.add_row([
                f.purpose,
                f.to,
                local(&f.at),
                f.attempts.to_string(),
                f.problem,
            ]);
        }
        lines.push(table.to_string());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_is_wrong() {
        let status = Status {
            host: "smtp.example.org".to_owned(),
            port: 587,
            encryption: "starttls".to_owned(),
            from: "faultline@example.org".to_owned(),
            used_at: Some("2026-12-01T09:45:00Z".to_owned()),
            problem: Some("connection refused".to_owned()),
            waiting: 2,
            oldest: Some("2026-12-01T09:40:00Z".to_owned()),
            failures: vec![Failure {
                purpose: "invitation".to_owned(),
                to: "ann@example.org".to_owned(),
                at: "2026-12-01T09:41:00Z".to_owned(),
                attempts: 1,
                problem: "no such mailbox".to_owned(),
            }],
        };
        let text = text(status);
        for part in [
            "smtp.example.org, port 587, encryption starttls",
            "connection refused",
            "Waiting: 2",
            "no such mailbox",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
