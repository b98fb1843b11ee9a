//! `faultline lab run` and `faultline lab shell`.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use faultline_domain::{NodeName, TenantId};
use faultline_lab::{LabFolder, check, prove, set_up};
use faultline_provider::{Allowance, Provider, Spec, make};
use futures::FutureExt;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{
    Place, named,
    platform::{self, Platform},
    terminal,
};
use crate::{progress, signals::told_to_stop};

/// The interval at which the lab's files are checked for changes.
const LOOK: Duration = Duration::from_secs(1);

const HELP: &str = "  t [node]   a terminal (leave it with Ctrl-])
  c          check
  s          run the setup scripts again
  n          a new machine, set up
  v          run solution.sh
  i          the incident: README.md
  l          the solution: SOLUTION.md
  q          end, destroy the machine
Files are reloaded when they change. More terminals: `faultline lab shell` in another window.";

pub(super) async fn run(place: &Place, name: &str, open_terminal: bool) -> anyhow::Result<()> {
    let path = named::find(&place.labs()?, name)?;
    let folder = load(&path).with_context(|| format!("{name} can't be used as it is"))?;
    let platform = place.platform().await?;
    let session = async {
        let mut session = Session::start(&platform, path, folder).await?;
        session.converse(open_terminal).await
    };
    let ended = tokio::select! {
        // Printing panics if the terminal was closed; the machine must be destroyed even then.
        ended = AssertUnwindSafe(session).catch_unwind() => ended.unwrap_or_else(|_| bail!("it ended early")),
        () = told_to_stop() => Ok(()),
    };
    let _ = writeln!(std::io::stdout(), "destroying the machine");
    platform.close().await;
    ended
}

/// Loads a lab and prints the findings.
fn load(path: &Path) -> anyhow::Result<LabFolder> {
    let loaded = LabFolder::load(path);
    for found in &loaded.diagnostics {
        println!("{}", found.render(&path.display().to_string()));
    }
    loaded.folder.context("it has errors")
}

struct Session<'a> {
    platform: &'a Platform,
    provider: Arc<dyn Provider>,
    path: PathBuf,
    folder: LabFolder,
    id: TenantId,
    stamp: String,
}

impl<'a> Session<'a> {
    async fn start(
        platform: &'a Platform,
        path: PathBuf,
        folder: LabFolder,
    ) -> anyhow::Result<Self> {
        let stamp = folder.hash.clone();
        let mut session = Self {
            provider: platform.provider()?,
            platform,
            path,
            folder,
            id: TenantId::generate(&mut rand::rng()),
            stamp,
        };
        session.machine().await?;
        Ok(session)
    }

    /// Returns the lab with its variables filled in.
    fn filled(&self) -> Cow<'_, LabFolder> {
        self.folder.of(self.id.as_str())
    }

    /// Makes a new machine and runs the setup.
    async fn machine(&mut self) -> anyhow::Result<()> {
        let shown = progress::shown();
        let needs = &self.folder.lab.needs;
        let template = self.platform.template(needs, &shown).await?;
        let spec = Spec {
            template: needs.template(),
            save_point: None,
            allowance: Allowance {
                limits: Platform::limits(&template),
                egress: needs.egress.clone(),
            },
        };
        make(&*self.provider, &self.id, &spec, &shown).await?;
        self.platform.note(self.folder.slug.as_str(), &self.id)?;
        set_up(&*self.provider, &self.id, &self.filled(), &shown).await?;
        println!(
            "\n{} is broken as it should be, on environment {}\n{HELP}\n",
            self.folder.slug, self.id
        );
        Ok(())
    }

    /// Runs commands until the end. Without a terminal, reads them from standard input, one per line.
    async fn converse(&mut self, open_terminal: bool) -> anyhow::Result<()> {
        let interactive = std::io::stdin().is_terminal();
        if open_terminal && interactive {
            self.command("t").await?;
        }
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            if interactive {
                print!("{}> ", self.folder.slug);
                let _ = std::io::stdout().flush();
            }
            let line = loop {
                tokio::select! {
                    line = lines.next_line() => break line?,
                    () = tokio::time::sleep(LOOK) => self.look(),
                }
            };
            let Some(line) = line else { return Ok(()) };
            self.look();
            if matches!(line.trim(), "q" | "quit" | "exit") {
                return Ok(());
            }
            if let Err(e) = self.command(line.trim()).await {
                println!("error: {e:#}");
            }
        }
    }

    /// Reads the lab's files again if they have changed.
    fn look(&mut self) {
        let loaded = LabFolder::load(&self.path);
        let stamp = loaded.folder.as_ref().map_or_else(
            || format!("{:?}", loaded.diagnostics),
            |folder| folder.hash.clone(),
        );
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        println!();
        for found in &loaded.diagnostics {
            println!("{}", found.render(&self.path.display().to_string()));
        }
        match loaded.folder {
            Some(folder) => {
                let setup_changed = folder.scripts.iter().any(|(name, content)| {
                    name.starts_with("setup/") && self.folder.scripts.get(name) != Some(content)
                });
                self.folder = folder;
                println!(
                    "the lab's files have changed and were reloaded{}",
                    if setup_changed {
                        "; the setup changed too: s runs it again, n makes a new machine"
                    } else {
                        ""
                    }
                );
            }
            None => println!(
                "the lab's files have changed; what was read before stays until they are mended"
            ),
        }
    }

    async fn command(&mut self, line: &str) -> anyhow::Result<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => {}
            "t" | "terminal" => {
                let node = if rest.is_empty() {
                    "node1"
                } else {
                    rest.trim()
                };
                terminal::attach(&*self.provider, &self.id, &node.parse()?, "author").await?;
            }
            "c" | "check" => self.check().await,
            "s" | "setup" => {
                set_up(
                    &*self.provider,
                    &self.id,
                    &self.filled(),
                    &progress::shown(),
                )
                .await?;
            }
            "n" | "new" => {
                self.provider.destroy(&self.id).await?;
                self.machine().await?;
            }
            "v" | "solve" => match prove::solve(&*self.provider, &self.id, &self.filled()).await {
                Ok(()) => println!("solution.sh succeeded; c runs the checks"),
                Err(why) => println!("{why}"),
            },
            "i" | "incident" => println!("{}", self.folder.readme),
            "l" | "solution" => println!("{}", self.folder.solution),
            _ => println!("{HELP}"),
        }
        Ok(())
    }

    async fn check(&self) {
        let outcome = check(&*self.provider, &self.id, &self.filled(), |r| {
            let mark = if r.passed { "✓" } else { "✗" };
            println!(
                "{mark} {} ({}.{} s)",
                r.title,
                r.millis / 1000,
                r.millis % 1000 / 100
            );
            if !r.passed {
                println!("    {}", r.message);
            }
            for line in r.seen.lines() {
                println!("    seen: {line}");
            }
            if let Some(hint) = r.hint {
                println!("    hint {hint}");
            }
        })
        .await;
        println!(
            "{}",
            if outcome.passed() {
                "repaired"
            } else {
                "not repaired"
            }
        );
    }
}

/// Opens another terminal on a lab that runs in another window.
pub(super) async fn shell(name: &str, node: &str) -> anyhow::Result<()> {
    let node: NodeName = node.parse()?;
    let Some((provider, id)) = platform::running(&named::name(name))? else {
        bail!(
            "no `faultline lab run {name}` is under way on this machine; start it in another window"
        );
    };
    let terminal = format!("author-{}", std::process::id());
    terminal::attach(&*provider, &id, &node, &terminal).await
}
