//! `faultline up`: checks the machine, builds what is missing, serves, and prints a sign-in link.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use faultline_domain::Clock;
use faultline_gateway::{
    HostKey,
    kube::certificate::{self, Pair},
};
use faultline_image::cache::Cache;
use faultline_lab::Catalogue;
use faultline_server::{Parts, Server, Shutdown};
use faultline_store::Store;
use faultline_tenancy_local::Local;
use rand::SeedableRng;
use tokio::net::TcpListener;

use crate::{
    Output,
    api::{Api, Gateway},
    builds::Builds,
    config::{Config, files},
    console,
    doctor::{self, Grade},
    places::{ImagesArg, LabsArg},
    prepare,
    signals::StopSignals,
    sources::{Recipes, SourceArgs},
};

/// The options of the command.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// A configuration file (TOML); all settings are optional
    #[arg(long)]
    config: Option<PathBuf>,
    /// The folder for the database and the environments [default: ~/.local/share/faultline]
    #[arg(long, env = "FAULTLINE_DATA")]
    data: Option<PathBuf>,
    #[command(flatten)]
    labs: LabsArg,
    #[command(flatten)]
    images: ImagesArg,
    #[command(flatten)]
    sources: SourceArgs,
    /// The address of the web pages
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The address of the SSH gateway
    #[arg(long)]
    ssh_listen: Option<SocketAddr>,
    /// The address of the gateway to API servers
    #[arg(long)]
    kube_listen: Option<SocketAddr>,
    /// Don't open a browser
    #[arg(long)]
    no_browser: bool,
}

impl UpArgs {
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if let Some(data) = &self.data {
            config.server.data_dir.clone_from(data);
        }
        config.sources = self.sources.over(config.sources);
        config.listen = self.listen.unwrap_or(config.listen);
        config.ssh_listen = self.ssh_listen.unwrap_or(config.ssh_listen);
        config.kube_listen = self.kube_listen.unwrap_or(config.kube_listen);
        Ok(config.complete())
    }
}

/// Binds a listener. The error names the program that may hold the port, and the option for another port.
async fn bind(what: &str, at: SocketAddr, field: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.with_context(|| {
        let flag = field.replace('_', "-");
        let port = at.port();
        format!(
            "cannot serve {what} on {at}; `ss -ltnp sport = :{port}` shows which process uses the port; choose another with \
             --{flag}, or with `{field}` in the configuration"
        )
    })
}

/// Serves until it is told to stop.
pub async fn run(args: &UpArgs, output: Output) -> anyhow::Result<()> {
    let config = args.config()?;
    let data = &config.server.data_dir;
    fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))?;
    if let Some(link) = running(data).await {
        announce(&link, output, args.no_browser);
        eprintln!(
            "Faultline is already running, with the settings that it was started with; `faultline down` stops it."
        );
        return Ok(());
    }
    let recipes = args.images.folder(config.images.as_deref())?;
    preflight(&config, &recipes)?;
    let labs = args.labs.folder(config.labs.as_deref())?;
    let catalogue = Catalogue::load(&labs);
    for broken in catalogue.broken() {
        eprintln!("{}", broken.render());
    }
    let shown = fs::canonicalize(&labs).unwrap_or_else(|_| labs.clone());
    eprintln!("Labs are read from {}.", shown.display());
    anyhow::ensure!(
        !catalogue.labs().is_empty(),
        "there is no usable lab in {}; `faultline lab new` makes one, --labs names another folder",
        labs.display()
    );

    // Bind before the long work, so that a port in use is reported at once.
    let pages = bind("pages", config.listen, "listen").await?;
    let ssh = bind("SSH", config.ssh_listen, "ssh_listen").await?;
    let kube = bind("API servers", config.kube_listen, "kube_listen").await?;
    // From here on `faultline down` finds this process, even while it builds.
    write_private(
        &data.join(files::PID),
        std::process::id().to_string().as_bytes(),
    )?;
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let cache = Cache::of_user();
    let images = Recipes {
        folder: recipes.clone(),
        sources: config.sources.clone(),
    };
    prepare::machines(&images, &catalogue, &cache, &program).await?;

    let builds = Builds::default();
    let provider = Arc::new(
        Local::new(data, &recipes, cache.clone(), &program)?
            .with_sources(config.sources.clone())
            .with_preparation(builds.ask())
            .with_rekey(config.rekey)
            .with_memory(config.memory_mib)
            .context("cannot limit the memory of all machines")?,
    );
    let store = Store::open(&data.join(files::DATABASE)).await?;
    let shutdown = Shutdown::default();
    let missing = prepare::missing_clusters(&images, &catalogue, &cache, &builds);
    let of_labs = catalogue.clone();
    let host_key = host_key(data)?;
    let (tls, authority) = certificate(&config)?;
    let server = Server::new(Parts {
        config: faultline_server::Config {
            ssh_host_key: Some(host_key.public()),
            kube_authority: authority,
            ..config.server.clone()
        },
        store,
        provider: provider.clone(),
        catalogue,
        clock: Clock::system(),
        rng: rand::rngs::StdRng::from_os_rng(),
    })
    .await?;
    let token = server.api_token("cli").await?;
    let api = Api {
        url: config.server.public_url.clone(),
        token: token.expose().to_owned(),
        ssh: Some(Gateway {
            host: local(config.ssh_listen.ip()).to_string(),
            port: config.ssh_listen.port(),
            host_key: host_key.public().as_openssh().to_owned(),
        }),
    };
    if let Ok(before) = Api::load(data)
        && before.url != api.url
    {
        eprintln!(
            "`faultline env`, `ssh` and `kubeconfig` talk to this server now, no longer to {}.",
            before.url
        );
    }
    write_private(&data.join(files::CLI), &serde_json::to_vec_pretty(&api)?)?;

    let (directory, stop) = (server.directory(), shutdown.soft.clone());
    let door = faultline_gateway::kube::Config::default();
    let api_servers = tokio::spawn(faultline_gateway::kube::serve(
        kube,
        tls,
        faultline_gateway::kube::Config {
            recheck: config.server.recheck().min(door.recheck),
            ..door
        },
        server.api_servers(),
        stop.clone(),
    ));
    let gateway_config = faultline_gateway::Config {
        recheck: config.server.recheck(),
        ..faultline_gateway::Config::default()
    };
    let gateway = tokio::spawn(async move {
        faultline_gateway::serve(ssh, &host_key, gateway_config, directory, provider, stop).await
    });
    announce(&server.sign_in_link().await?, output, args.no_browser);
    if output == Output::Text {
        eprintln!(
            "Ctrl-C stops the server. Environments keep running, and the next start finds them again."
        );
    }
    tokio::spawn(stop_on_signal(shutdown.clone()));
    // Starts after the link was printed, because the console is redrawn from now on.
    let clusters = tokio::spawn(prepare::clusters(
        images,
        of_labs,
        cache,
        program,
        missing,
        builds,
        shutdown.soft.clone(),
    ));
    server.serve(pages, shutdown.clone()).await;
    shutdown.soft.cancel();
    let rest = futures::future::join3(gateway, api_servers, clusters);
    let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
    let _ = fs::remove_file(data.join(files::PID));
    Ok(())
}

/// Returns a sign-in link of a server that is already running.
async fn running(data: &Path) -> Option<String> {
    data.join(files::PID).exists().then_some(())?;
    let api = Api::load(data).ok()?;
    tokio::task::spawn_blocking(move || api.sign_in_link().ok())
        .await
        .ok()?
}

/// Reports what keeps Faultline from starting, before anything is started.
fn preflight(config: &Config, recipes: &Path) -> anyhow::Result<()> {
    let ports = doctor::ports(
        config.listen.port(),
        config.ssh_listen.port(),
        config.kube_listen.port(),
    );
    let fatal: Vec<_> = doctor::examine(recipes, &config.sources, &config.server.data_dir, &ports)
        .into_iter()
        .filter(|f| f.grade == Grade::Fatal)
        .collect();
    if fatal.is_empty() {
        return Ok(());
    }
    doctor::print_all(&fatal);
    anyhow::bail!("nothing was started; `faultline doctor` examines the machine again")
}

/// Returns the address by which this machine reaches a listener: loopback for the unspecified address.
const fn local(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(all) if all.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(all) if all.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

/// Returns the SSH gateway's host key. It is created once, so that clients recognise it again.
fn host_key(data: &Path) -> anyhow::Result<HostKey> {
    let path = data.join(files::HOST_KEY);
    if let Ok(text) = fs::read_to_string(&path) {
        return HostKey::from_openssh(&text).with_context(|| {
            format!("{} is damaged; remove it to have a new one", path.display())
        });
    }
    let key = HostKey::generate(&mut rand::rng());
    write_private(&path, key.to_openssh().as_bytes())?;
    Ok(key)
}

/// Returns the certificate of the gateway to API servers, and the platform's authority if that signed it. Either the
/// operator's own certificate, or a new one by the authority that was created at the first start.
fn certificate(
    config: &Config,
) -> anyhow::Result<(Arc<certificate::ServerConfig>, Option<String>)> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    match (&config.kube_certificate, &config.kube_key) {
        (Some(chain), Some(key)) => {
            let pair = Pair {
                certificate: read(chain)?,
                key: read(key)?,
            };
            let used = certificate::tls(&pair);
            let tls = used.with_context(|| format!("{} and {}", chain.display(), key.display()))?;
            return Ok((tls, None));
        }
        (None, None) => {}
        _ => anyhow::bail!("set both kube_certificate and kube_key, or neither"),
    }
    let data = &config.server.data_dir;
    let (path, key) = (data.join(files::AUTHORITY), data.join(files::AUTHORITY_KEY));
    let authority = match (path.exists(), key.exists()) {
        (true, true) => Pair {
            certificate: read(&path)?,
            key: read(&key)?,
        },
        (false, false) => {
            let made = certificate::authority()?;
            write_private(&key, made.key.as_bytes())?;
            write_private(&path, made.certificate.as_bytes())?;
            made
        }
        _ => anyhow::bail!(
            "of {} and {} one is missing; bring it back, or remove the other to have a new authority: kubeconfigs written before are void then",
            path.display(),
            key.display()
        ),
    };
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        config.server.kube_host().to_owned(),
    ];
    if !config.kube_listen.ip().is_unspecified() {
        names.push(config.kube_listen.ip().to_string());
    }
    names.dedup();
    let pair = certificate::issue(&authority, names).with_context(|| {
        format!(
            "{} is damaged; remove it and its key to have a new one",
            path.display()
        )
    })?;
    Ok((certificate::tls(&pair)?, Some(authority.certificate)))
}

/// Writes a file that only its owner may read, atomically.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&draft);
        fs::write(&draft, b"")?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
        fs::write(&draft, content)?;
        fs::rename(&draft, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn announce(link: &str, output: Output, no_browser: bool) {
    match output {
        Output::Json => println!("{}", serde_json::json!({ "link": link })),
        Output::Text => {
            println!("\n  Faultline is ready. Open this link; it signs you in once:\n\n  {link}\n")
        }
    }
    let graphical =
        std::env::var_os("DISPLAY").is_some() || std::env::var_os("WAYLAND_DISPLAY").is_some();
    if graphical && !no_browser {
        let _ = std::process::Command::new("xdg-open")
            .arg(link)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
    }
}

/// Stops gracefully at the first signal, and at once at the second.
async fn stop_on_signal(shutdown: Shutdown) {
    let mut signals = StopSignals::listen();
    for token in [&shutdown.soft, &shutdown.hard] {
        signals.next().await;
        // Not `eprintln!`: it panics if nothing can be written, and then the second signal would be lost.
        let _ = writeln!(std::io::stderr(), "{}stopping…", console::wipe());
        token.cancel();
    }
}
