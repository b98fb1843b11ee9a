//! `faultline pool`: the server's warm pools and announced events, for operators.

use anyhow::Context;
use clap::{Args, Subcommand};
use faultline_domain::{
    LabSlug,
    pool::{Bounds, forecast::Event as Announced},
};
use faultline_lab::suggest;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Output,
    answer::{local, print, say, table},
    api::Api,
    env::Where,
    time::moment,
};

/// The options and the subcommand of `faultline pool`.
#[derive(Debug, Args)]
pub struct PoolArgs {
    #[command(subcommand)]
    command: PoolCommand,
    #[command(flatten)]
    place: Where,
}

/// The subcommands of `faultline pool`.
#[derive(Debug, Subcommand)]
enum PoolCommand {
    /// Show the pools: what they hold, should hold, and why
    List,
    /// Set how many tenants a pool holds at least and at most
    ///
    ///   faultline pool set claim-pending --floor 2
    ///   faultline pool set kubernetes-1.36@1+0 --floor 1 --ceiling 4
    #[command(verbatim_doc_comment)]
    Set {
        /// The pool: the name of a lab, or of a template such as kubernetes-1.36@1+0
        pool: String,
        /// The number of tenants that it holds even if nobody is expected
        #[arg(long, required_unless_present = "ceiling", value_parser = clap::value_parser!(u32).range(0..=Bounds::MAX.into()))]
        floor: Option<u32>,
        /// The number of tenants that it never exceeds; 0 turns the pool off, 500 means no maximum
        #[arg(long, value_parser = clap::value_parser!(u32).range(0..=Bounds::MAX.into()))]
        ceiling: Option<u32>,
    },
    /// Announce that many people will start a lab at about the same time
    ///
    ///   faultline pool announce claim-pending --at "2026-12-01 09:45" --people 20
    ///   faultline pool announce claim-pending --at 30m --people 20 --note "Class of Monday"
    #[command(verbatim_doc_comment)]
    Announce {
        /// The lab that they will start
        lab: LabSlug,
        /// When it begins: a local date and time, an RFC 3339 time, or a duration from now such as 30m or 2h
        #[arg(long, value_parser = moment)]
        at: Timestamp,
        /// The number of people
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=Announced::MAX_SEATS.into()))]
        people: u32,
        /// A note for operators
        #[arg(long, default_value = "")]
        note: String,
    },
    /// List the announced events
    Events,
    /// Cancel an announced event
    Cancel {
        /// The event's id, as `faultline pool events` shows it
        event: String,
    },
}

#[derive(Debug, Deserialize)]
struct Pools {
    hold: Option<String>,
    pools: Vec<Pool>,
    waits: Vec<Wait>,
}

#[derive(Debug, Deserialize)]
struct Pool {
    pool: String,
    size: u32,
    warm: u32,
    #[serde(default)]
    on_disk: u32,
    unfinished: u32,
    reason: String,
    floor: u32,
    ceiling: u32,
    make_seconds: f64,
    memory_mib: u64,
    failure: Option<String>,
    retry_in_seconds: i64,
    next: Option<Upcoming>,
}

#[derive(Debug, Deserialize)]
struct Upcoming {
    from: String,
    size: u32,
}

#[derive(Debug, Deserialize)]
struct Wait {
    served_by: String,
    starts: u32,
    p50_millis: f64,
    p95_millis: f64,
}

#[derive(Debug, Deserialize)]
struct Event {
    id: String,
    lab: String,
    at: String,
    seats: u32,
    note: String,
}

/// Runs a subcommand.
pub fn run(args: &PoolArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    match &args.command {
        PoolCommand::List => {
            let answer: Value = api.get("/pools")?;
            print(&answer, output, |answer| {
                let pools = Pools::deserialize(answer)?;
                Ok(list(&pools))
            })
        }
        PoolCommand::Set {
            pool,
            floor,
            ceiling,
        } => {
            let change = json!({ "pool": pool, "floor": floor, "ceiling": ceiling });
            let answer = api.patch("/pools", change)?;
            let floor = answer.get("floor").and_then(Value::as_u64).unwrap_or(0);
            let ceiling = answer.get("ceiling").and_then(Value::as_u64);
            let most = match ceiling {
                Some(n) if n < Bounds::MAX.into() => format!("at most {n}"),
                _ => "no fixed maximum".to_owned(),
            };
            say(
                &answer,
                output,
                &format!("{pool}: at least {floor}, {most}."),
            )
        }
        PoolCommand::Announce {
            lab,
            at,
            people,
            note,
        } => {
            let event = json!({ "lab": lab, "at": at.to_string(), "seats": people, "note": note });
            let answer = api.post("/events", Some(event))?;
            let id = crate::answer::text(&answer, "id")?;
            let people = match people {
                1 => "1 person starts".to_owned(),
                n => format!("{n} people start"),
            };
            let text = format!("Event {id} is announced: {people} {lab} at {at}.");
            say(&answer, output, &text)
        }
        PoolCommand::Events => {
            let answer: Value = api.get("/events")?;
            print(&answer, output, |answer| {
                let events: Vec<Event> = Vec::deserialize(answer)?;
                Ok(announced(events))
            })
        }
        PoolCommand::Cancel { event } => {
            cancel(&api, event)?;
            say(&json!({}), output, "The event is cancelled.")
        }
    }
}

fn cancel(api: &Api, id: &str) -> anyhow::Result<()> {
    let events: Vec<Event> = api.get("/events")?;
    if !events.iter().any(|e| e.id == id) {
        let meant = suggest::question(id, events.iter().map(|e| e.id.as_str()));
        anyhow::bail!("there is no event {id}{meant}; `faultline pool events` shows all");
    }
    api.delete(&format!("/events/{id}"))
        .map(drop)
        .context("the event could not be cancelled")
}

fn announced(events: Vec<Event>) -> String {
    if events.is_empty() {
        return "No event is announced. `faultline pool announce` announces one.".to_owned();
    }
    let mut table = table(["ID", "LAB", "BEGINS", "PEOPLE", "NOTE"]);
    for e in events {
        table.add_row([e.id, e.lab, local(&e.at), e.seats.to_string(), e.note]);
    }
    table.to_string()
}

fn list(all: &Pools) -> String {
    let mut text = String::new();
    if let (Some(hold), true) = (&all.hold, all.pools.is_empty()) {
        text.push_str(&format!(
            "All pools are empty, and no tenant is made now: {hold}."
        ));
    } else if all.pools.is_empty() {
        text.push_str(
            "All pools are empty, because nobody is expected. A start, `faultline pool announce` or\n\
             `faultline pool set POOL --floor 1` fills one.",
        );
    } else {
        let headings = [
            "POOL",
            "WARM",
            "WANTED",
            "WHY",
            "MAKING ONE",
            "MEMORY",
            "FLOOR",
            "CEILING",
        ];
        let mut table = table(headings);
        for p in &all.pools {
            let mut warm = match p.unfinished {
                0 => p.warm.to_string(),
                n => format!("{} (+{n})", p.warm),
            };
            if p.on_disk > 0 {
                warm.push_str(&format!(" ({} on disk)", p.on_disk));
            }
            let why = match &p.failure {
                Some(failure) => format!(
                    "{}; failed: {failure}; next attempt in {} s",
                    p.reason, p.retry_in_seconds
                ),
                None => p.reason.clone(),
            };
            let why = match &p.next {
                Some(next) => format!(
                    "{why}; {} from {}, for an event",
                    next.size,
                    local(&next.from)
                ),
                None => why,
            };
            let ceiling = match p.ceiling {
                Bounds::MAX => "-".to_owned(),
                n => n.to_string(),
            };
            table.add_row([
                p.pool.clone(),
                warm,
                p.size.to_string(),
                why,
                format!("{:.1} s", p.make_seconds),
                format!("{} MiB", p.memory_mib),
                p.floor.to_string(),
                ceiling,
            ]);
        }
        text.push_str(&table.to_string());
    }
    if let (Some(hold), false) = (&all.hold, all.pools.is_empty()) {
        text.push_str(&format!("\n\nNo tenant is made now: {hold}."));
    }
    if !all.waits.is_empty() {
        let mut table = table(["STARTS IN 24 H, SERVED BY", "STARTS", "MEDIAN", "95 %"]);
        for w in &all.waits {
            let seconds = |millis: f64| format!("{:.1} s", millis / 1000.0);
            table.add_row([
                w.served_by.clone(),
                w.starts.to_string(),
                seconds(w.p50_millis),
                seconds(w.p95_millis),
            ]);
        }
        text.push_str(&format!("\n\n{table}"));
    }
    text
}
