//! `faultline session` and `faultline token`: where one is signed in, and one's API tokens. The same as on the pages
//! *Account* and *Keys*.

use clap::{ArgGroup, Args, Subcommand};
use faultline_lab::suggest;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Output,
    answer::{local, print, say, table, text},
    api::{Api, is_missing},
    env::Where,
};

/// The options and the subcommand of `faultline session`.
#[derive(Debug, Args)]
pub struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
    #[command(flatten)]
    place: Where,
}

/// The subcommands of `faultline session`.
#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// List the browsers in which you are signed in
    List,
    /// Sign out a browser; what is open in it ends within seconds
    ///
    ///   faultline session end k3mnp2
    ///   faultline session end --all
    #[command(verbatim_doc_comment, group = ArgGroup::new("which").required(true))]
    End {
        /// The session's id, as `faultline session list` shows it
        #[arg(group = "which")]
        session: Option<String>,
        /// Sign out all browsers. API tokens stay valid
        #[arg(long, group = "which")]
        all: bool,
    },
}

/// The options and the subcommand of `faultline token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
    #[command(flatten)]
    place: Where,
}

/// The subcommands of `faultline token`.
#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// List your API tokens, without the tokens themselves
    List,
    /// Create an API token, and print it
    ///
    ///   faultline token add laptop
    ///   faultline token add dashboard --read-only --days 30
    #[command(verbatim_doc_comment)]
    Add {
        /// A name
        name: String,
        /// Let it only read: no changes and no terminals
        #[arg(long)]
        read_only: bool,
        /// The number of days for which it is valid [default: without an end]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        days: Option<u32>,
    },
    /// Remove an API token; what uses it ends within seconds
    ///
    ///   faultline token remove laptop
    ///   faultline token remove --others
    #[command(verbatim_doc_comment, group = ArgGroup::new("which").required(true))]
    Remove {
        /// The token's name or id
        #[arg(group = "which")]
        token: Option<String>,
        /// Remove all but the one that this command uses
        #[arg(long, group = "which")]
        others: bool,
    },
}

#[derive(Debug, Deserialize)]
struct Session {
    id: String,
    browser: String,
    created_at: String,
    last_used: Option<String>,
    expires_at: String,
}

#[derive(Debug, Deserialize)]
struct Token {
    id: String,
    name: String,
    created_at: String,
    last_used: Option<String>,
    scope: String,
    expires_at: Option<String>,
    is_current: bool,
}

/// Runs a subcommand of `faultline session`.
pub fn sessions(args: &SessionArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    match &args.command {
        SessionCommand::List => {
            let all: Value = api.get("/sessions")?;
            print(&all, output, |all| {
                Ok(session_table(Vec::deserialize(all)?))
            })
        }
        SessionCommand::End {
            session: Some(id), ..
        } => {
            api.delete(&format!("/sessions/{id}"))
                .map_err(|e| match is_missing(&e) {
                    true => anyhow::anyhow!(
                        "you have no session {id}; `faultline session list` shows all"
                    ),
                    false => e,
                })?;
            say(&json!({}), output, "The browser is signed out.")
        }
        SessionCommand::End { session: None, .. } => {
            api.delete("/sessions")?;
            say(&json!({}), output, "All browsers are signed out.")
        }
    }
}

/// Runs a subcommand of `faultline token`.
pub fn tokens(args: &TokenArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    match &args.command {
        TokenCommand::List => {
            let all: Value = api.get("/tokens")?;
            print(&all, output, |all| Ok(token_table(Vec::deserialize(all)?)))
        }
        TokenCommand::Add {
            name,
            read_only,
            days,
        } => {
            let wanted = json!({ "name": name, "read_only": read_only, "days": days });
            let made = api.post("/tokens", Some(wanted))?;
            print(&made, output, |made| {
                let token = text(made, "token")?;
                Ok(format!("{token}\n\nThe token is shown only now."))
            })
        }
        TokenCommand::Remove {
            token: Some(named), ..
        } => {
            let token = find(api.get("/tokens")?, named)?;
            api.delete(&format!("/tokens/{}", token.id))?;
            let done = format!("The token {} is removed.", token.name);
            say(&json!({}), output, &done)
        }
        TokenCommand::Remove { token: None, .. } => {
            api.delete("/tokens")?;
            say(&json!({}), output, "All other tokens are removed.")
        }
    }
}

/// Returns the token with this name or id.
fn find(mut all: Vec<Token>, named: &str) -> anyhow::Result<Token> {
    let is_named = |t: &Token| t.id == named || t.name == named;
    if all.iter().filter(|t| is_named(t)).count() > 1 {
        anyhow::bail!("more than one token has the name {named}; use its id");
    }
    if let Some(at) = all.iter().position(is_named) {
        return Ok(all.swap_remove(at));
    }
    let meant = suggest::question(named, all.iter().map(|t| t.name.as_str()));
    anyhow::bail!("you have no token {named}{meant}; `faultline token list` shows all")
}

fn session_table(all: Vec<Session>) -> String {
    if all.is_empty() {
        return "You are not signed in in any browser.".to_owned();
    }
    let mut table = table(["ID", "BROWSER", "SIGNED IN", "LAST USED", "EXPIRES"]);
    for s in all {
        let browser = match s.browser {
            none if none.is_empty() => "unknown".to_owned(),
            browser => browser,
        };
        let used = s.last_used.map_or_else(|| "-".to_owned(), |at| local(&at));
        table.add_row([
            s.id,
            browser,
            local(&s.created_at),
            used,
            local(&s.expires_at),
        ]);
    }
    table.to_string()
}

fn token_table(all: Vec<Token>) -> String {
    let mut table = table(["ID", "NAME", "MAY", "CREATED", "LAST USED", "ENDS"]);
    for t in all {
        let name = match t.is_current {
            true => format!("{} (this one)", t.name),
            false => t.name,
        };
        let may = match t.scope.as_str() {
            "read" => "read".to_owned(),
            _ => "read, write".to_owned(),
        };
        table.add_row([
            t.id,
            name,
            may,
            local(&t.created_at),
            t.last_used
                .map_or_else(|| "never".to_owned(), |at| local(&at)),
            t.expires_at
                .map_or_else(|| "never".to_owned(), |at| local(&at)),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str, name: &str) -> Token {
        Token {
            id: id.to_owned(),
            name: name.to_owned(),
            created_at: "2026-12-01T09:45:00Z".to_owned(),
            last_used: None,
            scope: "read".to_owned(),
            expires_at: None,
            is_current: name == "cli",
        }
    }

    #[test]
    fn a_token_is_found_by_name_or_id() {
        let all = || {
            vec![
                token("a1", "cli"),
                token("b2", "laptop"),
                token("c3", "cli"),
            ]
        };
        assert_eq!(find(all(), "laptop").unwrap().id, "b2");
        assert_eq!(find(all(), "c3").unwrap().id, "c3");
        let twice = find(all(), "cli").unwrap_err().to_string();
        assert!(twice.contains("use its id"), "{twice}");
        let typo = find(all(), "labtop").unwrap_err().to_string();
        assert!(typo.contains("laptop"), "{typo}");
    }

    #[test]
    fn tables_say_what_is_this_one_and_what_is_unknown() {
        let tokens = token_table(vec![token("a1", "cli"), token("b2", "laptop")]);
        assert!(tokens.contains("cli (this one)"), "{tokens}");
        assert_eq!(tokens.matches("this one").count(), 1, "{tokens}");
        let session = Session {
            id: "s1".to_owned(),
            browser: String::new(),
            created_at: "2026-12-01T09:45:00Z".to_owned(),
            last_used: None,
            expires_at: "2026-12-31T09:45:00Z".to_owned(),
        };
        let sessions = session_table(vec![session]);
        assert!(sessions.contains("unknown"), "{sessions}");
        assert!(session_table(Vec::new()).contains("not signed in"));
    }
}
