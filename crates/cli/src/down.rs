//! `faultline down`: stops the server; with `--purge`, removes everything it made.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use faultline_domain::TenantId;
use faultline_image::cache::Cache;
use faultline_launcher::cgroup;
use faultline_provider::Provider;
use faultline_tenancy_local::Local;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Output,
    config::{Config, data_dir, files},
    lab::platform,
};

/// The options of the command.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// The data folder [default: ~/.local/share/faultline]
    #[arg(long, env = "FAULTLINE_DATA")]
    data: Option<PathBuf>,
    /// The configuration file that `up` was given
    #[arg(long)]
    config: Option<PathBuf>,
    /// Also end all environments, and remove the database, progress, images and everything else it made
    #[arg(long)]
    purge: bool,
    /// With --purge: keep the images, which take minutes to build
    #[arg(long, requires = "purge")]
    keep_images: bool,
    /// Don't ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

/// Stops the server, and purges if asked to.
pub async fn run(args: &DownArgs, output: Output) -> anyhow::Result<()> {
    let data = match (&args.data, &args.config) {
        (Some(data), _) => data.clone(),
        (None, Some(config)) => Config::load(config)?.server.data_dir,
        (None, None) => data_dir(),
    };
    if args.purge && !args.yes {
        confirm(&data)?;
    }
    let stopped = stop(&data)?;
    let mut ended = 0;
    if args.purge {
        ended = purge(&data, args.keep_images).await?;
    }
    if output == Output::Json {
        println!(
            "{}",
            serde_json::json!({ "stopped": stopped, "environments_ended": ended, "purged": args.purge })
        );
        return Ok(());
    }
    println!(
        "{}",
        if stopped {
            "The server has stopped."
        } else {
            "No server was running."
        }
    );
    if args.purge {
        let others = cgroup::list();
        if others.is_empty() {
            println!("{ended} environment(s) ended; everything but the program is removed.");
        } else {
            let names: Vec<_> = others.iter().map(ToString::to_string).collect();
            println!(
                "{ended} environment(s) ended. Others run on this machine from another data folder: {}",
                names.join(", ")
            );
        }
    } else if stopped {
        println!("Environments keep running; `faultline up` finds them again.");
    }
    Ok(())
}

fn confirm(data: &Path) -> anyhow::Result<()> {
    use std::io::{IsTerminal, Write};
    anyhow::ensure!(
        std::io::stdin().is_terminal(),
        "--purge removes all progress; say --yes where nobody can be asked"
    );
    print!(
        "This ends all environments and removes {} with all progress. Type yes to go on: ",
        data.display()
    );
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    anyhow::ensure!(line.trim() == "yes", "nothing was removed");
    Ok(())
}

/// Stops the server of the data folder. Returns true if one was running.
fn stop(data: &Path) -> anyhow::Result<bool> {
    let path = data.join(files::PID);
    let Some(pid) = fs::read_to_string(&path)
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .and_then(Pid::from_raw)
    else {
        return Ok(false);
    };
    // The process id may have been reused since, so only a faultline program is stopped. A process that has ended but
    // was not waited for has no program either.
    let program = || fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).ok();
    let name = program().unwrap_or_default();
    if !name
        .file_name()
        .is_some_and(|n| n.to_string_lossy().starts_with("faultline"))
    {
        let _ = fs::remove_file(path);
        return Ok(false);
    }
    kill_process(pid, Signal::TERM).context("cannot stop the server")?;
    let began = Instant::now();
    while program().is_some() {
        if began.elapsed() > Duration::from_secs(25) {
            kill_process(pid, Signal::KILL).context("cannot stop the server")?;
        }
        anyhow::ensure!(
            began.elapsed() < Duration::from_secs(40),
            "the server does not stop"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = fs::remove_file(path);
    Ok(true)
}

async fn purge(data: &Path, keep_images: bool) -> anyhow::Result<usize> {
    let cache = Cache::of_user();
    let program = std::env::current_exe()?;
    // Removes what killed `lab` and `bench` commands left behind. Without the image cache, those that run now can't go
    // on either.
    let mut ended = platform::sweep(&cache, &program, !keep_images).await?;
    if data.join("tenants").exists() || data.join("environments").exists() {
        let provider = Local::new(data, Path::new("images"), cache.clone(), &program)?;
        for (id, _) in provider.list().await? {
            provider.destroy(&id).await?;
            ended += 1;
        }
    }
    // Removes the control group and folder of a bake that was killed. One that runs belongs to another data folder.
    let is_bake = |id: &TenantId| id.as_str().starts_with("bake-");
    let run = Path::new(faultline_image::bake::RUN);
    let folders = fs::read_dir(run).into_iter().flatten().flatten();
    let named = folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for id in cgroup::list().into_iter().chain(named).filter(is_bake) {
        if !cgroup::is_populated(&id) {
            cgroup::destroy(&id)?;
            remove(&run.join(id.as_str()))?;
        }
    }
    cgroup::remove_parent();
    // Fails if something is left in it.
    let _ = fs::remove_dir(run);
    for name in files::ALL {
        remove(&data.join(name))?;
        // Temporary files of interrupted writes.
        remove(&data.join(name).with_extension("draft"))?;
    }
    // The folder itself is removed only if nobody else has put anything into it.
    let _ = fs::remove_dir(data);
    if !keep_images {
        remove(cache.folder())?;
    }
    Ok(ended)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
