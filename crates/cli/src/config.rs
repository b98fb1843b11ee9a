//! The configuration file and the paths of the data folder. Every setting has a default that suits a single machine.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use faultline_image::sources::Sources;
use serde::{Deserialize, Serialize};

/// The default port of the web pages.
pub const HTTP_PORT: u16 = 7890;
/// The default port of the SSH gateway.
pub const SSH_PORT: u16 = 2222;
/// The default port of the gateway to API servers.
pub const KUBE_PORT: u16 = 7443;

/// The configuration file of `faultline up --config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address of the web pages.
    pub listen: SocketAddr,
    /// The address of the SSH gateway.
    pub ssh_listen: SocketAddr,
    /// The address of the gateway to API servers.
    pub kube_listen: SocketAddr,
    /// The certificate of the gateway to API servers with its chain, in PEM. Default: one that the platform's own
    /// authority signs.
    pub kube_certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    pub kube_key: Option<PathBuf>,
    /// The folder of labs. Default: see `places.rs`.
    pub labs: Option<PathBuf>,
    /// The folder of image recipes. Default: see `places.rs`.
    pub images: Option<PathBuf>,
    /// Gives every cluster certificates and keys of its own before it is handed out. This is a second barrier behind
    /// the network's, for people who don't trust each other. Starts take longer with it. Default: false.
    pub rekey: bool,
    /// The memory that all machines of this host together may use, in MiB. The kernel enforces it. Default: all of the
    /// host's, without `reserve_memory_mib`.
    pub memory_mib: Option<u64>,
    /// The sources of the clusters' programs and images.
    pub sources: Sources,
    /// The server's own settings: public URL, capacity, limits, lifetimes.
    pub server: faultline_server::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], HTTP_PORT)),
            ssh_listen: SocketAddr::from(([127, 0, 0, 1], SSH_PORT)),
            kube_listen: SocketAddr::from(([127, 0, 0, 1], KUBE_PORT)),
            kube_certificate: None,
            kube_key: None,
            labs: None,
            images: None,
            rekey: false,
            memory_mib: None,
            sources: Sources::default(),
            server: faultline_server::Config {
                public_url: String::new(),
                data_dir: data_dir(),
                ..faultline_server::Config::default()
            },
        }
    }
}

impl Config {
    /// Reads a file. Relative paths in it are relative to the file's folder.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        let mut config: Self = toml::from_str(&text)
            .with_context(|| format!("in the configuration {}", path.display()))?;
        // Settings that the file leaves out keep their defaults; paths in the file are relative to its folder.
        let table: toml::Table = toml::from_str(&text)?;
        let server = table.get("server").and_then(toml::Value::as_table);
        let says = |key: &str| server.is_some_and(|t| t.contains_key(key));
        if !says("public_url") {
            config.server.public_url = String::new();
        }
        if !says("data_dir") {
            config.server.data_dir = data_dir();
        }
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        if says("data_dir") {
            config.server.data_dir = folder.join(&config.server.data_dir);
        }
        if let Some(oidc) = &mut config.server.oidc {
            let file = &mut oidc.client_secret_file;
            *file = file.take().map(|path| folder.join(path));
        }
        if let Some(mail) = &mut config.server.mail {
            for file in [&mut mail.password_file, &mut mail.authority_file] {
                *file = file.take().map(|path| folder.join(path));
            }
        }
        for place in [
            &mut config.labs,
            &mut config.images,
            &mut config.kube_certificate,
            &mut config.kube_key,
        ] {
            if let Some(path) = place.take() {
                *place = Some(folder.join(path));
            }
        }
        Ok(config)
    }

    /// Fills in settings that follow from others.
    #[must_use]
    pub fn complete(mut self) -> Self {
        if self.server.public_url.is_empty() {
            self.server.public_url = format!("http://{}", self.listen);
        }
        self.server.ssh_port = Some(self.ssh_listen.port());
        self.server.kube_port = Some(self.kube_listen.port());
        self
    }
}

/// Returns the user's data folder: `$FAULTLINE_DATA`, or `faultline` in `$XDG_DATA_HOME` or `~/.local/share`.
#[must_use]
pub fn data_dir() -> PathBuf {
    let var = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    var("FAULTLINE_DATA").unwrap_or_else(|| {
        var("XDG_DATA_HOME")
            .or_else(|| var("HOME").map(|home| home.join(".local/share")))
            .unwrap_or_else(|| PathBuf::from("/var/lib"))
            .join("faultline")
    })
}

/// The names of the files in a data folder. Faultline removes no others.
pub mod files {
    /// All names.
    pub const ALL: [&str; 20] = [
        DATABASE,
        "faultline.db-wal",
        "faultline.db-shm",
        "faultline.db.lock",
        "faultline.lock",
        "faultline.before-restore",
        "faultline.db.before-restore",
        "faultline.partial",
        PID,
        CLI,
        HOST_KEY,
        AUTHORITY,
        AUTHORITY_KEY,
        SSH_KEY,
        SSH_PUBLIC_KEY,
        KNOWN_HOSTS,
        "tenants",
        "saves",
        // A file of earlier versions; now a link.
        "environments",
        "templates",
    ];
    /// The database.
    pub const DATABASE: &str = "faultline.db";
    /// The running server's process id.
    pub const PID: &str = "server.pid";
    /// The URL and token for the CLI.
    pub const CLI: &str = "cli.json";
    /// The certificate of the platform's authority, by which clients verify the gateway to API servers.
    pub const AUTHORITY: &str = "authority.pem";
    /// The authority's private key.
    pub const AUTHORITY_KEY: &str = "authority.key";
    /// The key of `faultline ssh`.
    pub const SSH_KEY: &str = "ssh_key";
    /// The public key of `faultline ssh`.
    pub const SSH_PUBLIC_KEY: &str = "ssh_key.pub";
    /// The gateway's public host key, for `faultline ssh`.
    pub const KNOWN_HOSTS: &str = "known_hosts";
    /// The SSH gateway's host key.
    pub const HOST_KEY: &str = "ssh_host_ed25519_key";
}

#[cfg(test)]
mod tests {
    use faultline_image::sources::Choice;

    use super::*;

    #[test]
    fn a_file_may_say_little_and_may_not_say_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("faultline.toml");
        std::fs::write(
            &path,
            "listen = \"0.0.0.0:80\"\nlabs = \"my-labs\"\n[sources]\nfrom = \"official\"\n\
             [sources.bases]\n\"*\" = \"/srv/official\"\n[server]\nmax_environments = 3\n",
        )
        .unwrap();
        let config = Config::load(&path).unwrap().complete();
        assert_eq!(config.server.max_environments, 3);
        assert_eq!(config.labs, Some(dir.path().join("my-labs")));
        assert_eq!(config.sources.from, Choice::Official);
        assert_eq!(config.sources.bases.named().count(), 1);
        assert_eq!(config.server.public_url, "http://0.0.0.0:80");
        std::fs::write(
            &path,
            "[server.oidc]\nname = \"Example\"\nissuer = \"https://login.example.org\"\n\
             client_id = \"faultline\"\nclient_secret_file = \"oidc-secret\"\n\
             roles_claim = \"groups\"\nroles = { teachers = \"instructor\" }\n\
             [server.oidc.join]\nemail_domains = [\"example.org\"]\n",
        )
        .unwrap();
        let oidc = Config::load(&path).unwrap().server.oidc.unwrap();
        let secret = dir.path().join("oidc-secret");
        assert_eq!(oidc.client_secret_file, Some(secret));
        assert_eq!(oidc.scopes, ["profile", "email"]);
        std::fs::write(
            &path,
            "[server.mail]\nhost = \"smtp.example.org\"\nencryption = \"tls\"\nuser = \"ann\"\n\
             password_file = \"mail-password\"\nfrom = \"Faultline <faultline@example.org>\"\n",
        )
        .unwrap();
        let mail = Config::load(&path).unwrap().server.mail.unwrap();
        let secret = dir.path().join("mail-password");
        assert_eq!(mail.password_file, Some(secret));
        assert_eq!(mail.port(), 465);
        std::fs::write(&path, "[sources.bases]\n\"github.com\" = \"mirror\"\n").unwrap();
        let error = format!("{:#}", Config::load(&path).unwrap_err());
        assert!(error.contains("absolute path"), "{error}");
        std::fs::write(&path, "colour = \"red\"\n").unwrap();
        let error = format!("{:#}", Config::load(&path).unwrap_err());
        assert!(
            error.contains("colour") && error.contains("line 1"),
            "{error}"
        );
        assert!(
            format!("{:#}", Config::load(&dir.path().join("none")).unwrap_err())
                .contains("cannot read")
        );
    }
}
