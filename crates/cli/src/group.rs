//! `faultline group`: groups of people, for operators and the groups' instructors.

use clap::{Args, Subcommand};
use faultline_domain::{MailAddress, person::Invitation};
use faultline_lab::suggest;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Output,
    answer::{local, print, say, table, text},
    api::Api,
    env::Where,
    limit, person,
};

/// The options and the subcommand of `faultline group`.
#[derive(Debug, Args)]
pub struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
    #[command(flatten)]
    place: Where,
}

/// The subcommands of `faultline group`.
#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List your groups
    List,
    /// Show what the members of a group work on
    Show {
        /// The group's name or id
        group: String,
    },
    /// Create a link or an access code by which students join a group
    ///
    ///   faultline group invite "Class of Monday" --code --people 20 --expires 3h
    ///   faultline group invite "Class of Monday" --people 20
    #[command(verbatim_doc_comment)]
    Invite {
        /// The group's name or id
        group: String,
        /// The number of people who can join by the link
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=Invitation::MAX_USES.into()))]
        people: u32,
        /// How long it is valid, such as 3h or 2d; at most 90d
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = person::expires)]
        expires: String,
        /// Make an access code, which students type, instead of a link
        #[arg(long)]
        code: bool,
        /// A mail address to send it to. The link is then in the mail only
        #[arg(long, value_name = "ADDRESS", value_parser = person::address)]
        mail: Option<MailAddress>,
    },
    /// List the latest invitations to a group
    Invitations {
        /// The group's name or id
        group: String,
    },
    /// Withdraw an invitation to a group; people who have joined stay
    Withdraw {
        /// The group's name or id
        group: String,
        /// The invitation's id, as `faultline group invitations` shows it
        invitation: String,
    },
    /// Create a group; for operators
    Create {
        /// The name
        name: String,
    },
    /// Show the limits that the members of a group share; for operators, change some of them
    ///
    ///   faultline group limit "Class of Monday" --environments 30 --nodes 60
    #[command(verbatim_doc_comment)]
    Limit {
        /// The group's name or id
        group: String,
        #[command(flatten)]
        change: limit::Change,
    },
    /// Add a person to a group; for operators
    Add {
        /// The group's name or id
        group: String,
        /// The person's login name or id
        person: String,
        /// Let the person see the other members' progress
        #[arg(long)]
        instructor: bool,
    },
    /// Remove a person from a group; for operators
    Remove {
        /// The group's name or id
        group: String,
        /// The person's login name or id
        person: String,
    },
    /// Delete a group, but not its members' accounts; for operators
    Delete {
        /// The group's name or id
        group: String,
    },
}

#[derive(Debug, Deserialize)]
struct Group {
    id: String,
    name: String,
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    name: String,
    instructs: bool,
}

#[derive(Debug, Deserialize)]
struct Detail {
    progress: Vec<Progress>,
}

#[derive(Debug, Deserialize)]
struct Progress {
    name: String,
    instructs: bool,
    solved: u32,
    open: Vec<OpenLab>,
}

#[derive(Debug, Deserialize)]
struct OpenLab {
    environment: String,
    lab: String,
    phase: String,
    since: String,
    repaired: bool,
    waits: bool,
    hints: u32,
    checks_passed: Option<u32>,
    checks: Option<u32>,
}

/// Runs a subcommand.
pub fn run(args: &GroupArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    match &args.command {
        GroupCommand::List => {
            let answer: Value = api.get("/groups")?;
            print(&answer, output, |answer| {
                Ok(list(Vec::deserialize(answer)?))
            })
        }
        GroupCommand::Show { group } => {
            let group = find(&api, group)?;
            let answer: Value = api.get(&format!("/groups/{}", group.id))?;
            print(&answer, output, |answer| {
                Ok(progress(Detail::deserialize(answer)?))
            })
        }
        GroupCommand::Invite {
            group,
            people,
            expires,
            code,
            mail,
        } => {
            let group = find(&api, group)?;
            let mail_to = person::mail_to(mail.as_ref());
            let wanted = json!({
                "uses": people, "expires": expires, "by_code": code, "mail_to": mail_to,
            });
            let made = api.post(&format!("/groups/{}/invitations", group.id), Some(wanted))?;
            print(&made, output, person::invited)
        }
        GroupCommand::Invitations { group } => {
            let group = find(&api, group)?;
            let all: Value = api.get(&format!("/groups/{}/invitations", group.id))?;
            print(&all, output, |all| {
                person::invitations(all, "faultline group invite")
            })
        }
        GroupCommand::Withdraw { group, invitation } => {
            let group = find(&api, group)?;
            let path = format!("/groups/{}/invitations/{invitation}", group.id);
            api.delete(&path).map_err(|e| {
                if crate::api::is_missing(&e) {
                    return anyhow::anyhow!(
                        "{} has no open invitation {invitation}; `faultline group invitations` lists them",
                        group.name
                    );
                }
                e
            })?;
            say(&json!({}), output, "The invitation is withdrawn.")
        }
        GroupCommand::Create { name } => {
            let made = api.post("/groups", Some(json!({ "name": name })))?;
            let id = text(&made, "id")?.to_owned();
            say(&made, output, &format!("Group {id} is created."))
        }
        GroupCommand::Limit { group, change } => {
            let group = find(&api, group)?;
            let path = format!("/groups/{}/limits", group.id);
            limit::change(&api, &path, change, output)
        }
        GroupCommand::Add {
            group,
            person,
            instructor,
        } => {
            let (group, person) = (find(&api, group)?, person::find(&api, person)?);
            let path = format!("/groups/{}/members/{}", group.id, person.id);
            api.put(&path, json!({ "instructs": instructor }))?;
            let part = if *instructor { "instructs" } else { "is in" };
            let done = format!("{} {part} {}.", person.name, group.name);
            say(&json!({}), output, &done)
        }
        GroupCommand::Remove { group, person } => {
            let (group, person) = (find(&api, group)?, person::find(&api, person)?);
            let path = format!("/groups/{}/members/{}", group.id, person.id);
            api.delete(&path).map_err(|e| {
                if crate::api::is_missing(&e) {
                    return anyhow::anyhow!("{} is not in {}", person.name, group.name);
                }
                e
            })?;
            let done = format!("{} is not in {} any more.", person.name, group.name);
            say(&json!({}), output, &done)
        }
        GroupCommand::Delete { group } => {
            let group = find(&api, group)?;
            api.delete(&format!("/groups/{}", group.id))?;
            say(&json!({}), output, &format!("{} is deleted.", group.name))
        }
    }
}

/// Returns the group with this name or id.
fn find(api: &Api, named: &str) -> anyhow::Result<Group> {
    let mut all: Vec<Group> = api.get("/groups")?;
    if let Some(at) = all.iter().position(|g| g.id == named || g.name == named) {
        return Ok(all.swap_remove(at));
    }
    let meant = suggest::question(named, all.iter().map(|g| g.name.as_str()));
    anyhow::bail!("there is no group {named}{meant}; `faultline group list` shows yours")
}

fn list(groups: Vec<Group>) -> String {
    if groups.is_empty() {
        return "You have no group. Operators create one with `faultline group create`.".to_owned();
    }
    let mut table = table(["ID", "NAME", "MEMBERS", "INSTRUCTORS"]);
    for g in groups {
        let instructors = g.members.iter().filter(|m| m.instructs);
        let names: Vec<&str> = instructors.map(|m| m.name.as_str()).collect();
        let names = names.join(", ");
        let members = g.members.iter().filter(|m| !m.instructs).count();
        table.add_row([g.id, g.name, members.to_string(), names]);
    }
    table.to_string()
}

fn progress(of: Detail) -> String {
    if of.progress.is_empty() {
        return "The group has no members. `faultline group invite` invites students.".to_owned();
    }
    let mut table = table([
        "NAME",
        "ENVIRONMENT",
        "LAB",
        "STATE",
        "SINCE",
        "CHECKS",
        "HINTS",
        "SOLVED LABS",
    ]);
    for member in of.progress {
        let solved = member.solved.to_string();
        let name = if member.instructs {
            format!("{} (instructor)", member.name)
        } else {
            member.name
        };
        if member.open.is_empty() {
            let nothing = || "-".to_owned();
            table.add_row([
                name,
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                solved,
            ]);
            continue;
        }
        for lab in member.open {
            let state = match (lab.repaired, lab.waits) {
                (true, _) => "repaired".to_owned(),
                (_, true) => "waiting".to_owned(),
                _ => lab.phase,
            };
            let checks = match (lab.checks_passed, lab.checks) {
                (Some(passed), Some(all)) => format!("{passed} of {all}"),
                _ => "-".to_owned(),
            };
            table.add_row([
                name.clone(),
                lab.environment,
                lab.lab,
                state,
                local(&lab.since),
                checks,
                lab.hints.to_string(),
                solved.clone(),
            ]);
        }
    }
    table.to_string()
}
