//! The server's API, as the CLI calls it.

use std::{path::Path, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::config::files;

/// How the server is reached: what `faultline up`, or on another machine `faultline login`, left for the CLI in its data
/// folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Api {
    /// Its address.
    pub url: String,
    /// The CLI's token.
    pub token: String,
    /// The SSH gateway; nothing where the server has none.
    pub ssh: Option<Gateway>,
}

/// The SSH gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gateway {
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its public host key, an OpenSSH line.
    pub host_key: String,
}

/// The part of a problem document that people read, and its status.
#[derive(Debug, Deserialize)]
struct Problem {
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(skip)]
    status: u16,
}

impl Problem {
    /// A page that is not there is a wrong address; on the command line it is a wrong name.
    fn name_what_is_missing(&mut self, path: &str) {
        if self.status != 404 {
            return;
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (what, list) = match parts.as_slice() {
            ["environments", id, "nodes", node] => (
                format!("environment {id} of yours with an added node {node}"),
                "faultline env list --all",
            ),
            ["environments", id, ..] => (
                format!("environment {id} of yours"),
                "faultline env list --all",
            ),
            ["labs", slug, ..] => (format!("lab {slug}"), "faultline lab list"),
            _ => return,
        };
        self.title = format!("there is no {what}");
        self.detail = format!("`{list}` shows those that exist");
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Two sentences, or one that goes on.
        let sentence = self.detail.starts_with(|c: char| c.is_uppercase());
        let between = if sentence { "." } else { ":" };
        write!(f, "{}{between} {}", self.title, self.detail)
    }
}

impl std::error::Error for Problem {}

/// Whether the server knows no such thing.
pub fn is_missing(e: &anyhow::Error) -> bool {
    e.downcast_ref().is_some_and(|p: &Problem| p.status == 404)
}

/// A registered public key.
#[derive(Debug, Deserialize)]
struct Key {
    id: String,
    public_key: String,
}

impl Api {
    /// Reads what the server left.
    pub fn load(data: &Path) -> anyhow::Result<Self> {
        let path = data.join(files::CLI);
        let text = std::fs::read(&path).with_context(|| {
            format!(
                "no server has run here ({} is missing); start one with `faultline up`, name its folder with `--data` or FAULTLINE_DATA, or `faultline login` to one that runs elsewhere",
                path.display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged; `faultline up` or `faultline login` writes it anew",
                path.display()
            )
        })
    }

    fn agent() -> ureq::Agent {
        ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(90)))
            // What is sent along is meant for this address alone.
            .max_redirects(0)
            .http_status_as_error(false)
            .build()
            .into()
    }

    /// Asks, and gives the answer; a problem becomes an error with its words.
    fn call(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let url = format!("{}/api/v1{path}", self.url.trim_end_matches('/'));
        let bearer = format!("Bearer {}", self.token);
        let agent = Self::agent();
        let sent = match (method, body) {
            ("GET", _) => agent.get(&url).header("Authorization", &bearer).call(),
            ("DELETE", _) => agent.delete(&url).header("Authorization", &bearer).call(),
            (_, Some(body)) => agent
                .post(&url)
                .header("Authorization", &bearer)
                .send_json(body),
            (_, None) => agent
                .post(&url)
                .header("Authorization", &bearer)
                .send_empty(),
        };
        let mut answer = sent.with_context(|| {
            format!(
                "no server answers at {}; on its machine `faultline up` starts it",
                self.url
            )
        })?;
        let status = answer.status();
        if status.is_redirection() {
            let to = answer.headers().get("location");
            anyhow::bail!(
                "{} sends on to {}; `faultline login` to that address",
                self.url,
                to.and_then(|to| to.to_str().ok()).unwrap_or("elsewhere")
            );
        }
        let text = answer.body_mut().read_to_string()?;
        if !status.is_success() {
            let mut problem: Problem = serde_json::from_str(&text).unwrap_or(Problem {
                title: status.to_string(),
                detail: text,
                status: 0,
            });
            problem.status = status.as_u16();
            problem.name_what_is_missing(path);
            return Err(problem.into());
        }
        if text.is_empty() {
            Ok(Value::Null)
        } else {
            Ok(serde_json::from_str(&text)?)
        }
    }

    /// `GET`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_value(self.call("GET", path, None)?)?)
    }

    /// `GET` of what may not be there.
    pub fn get_if_there<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        match self.get(path) {
            Err(e) if is_missing(&e) => Ok(None),
            answered => answered.map(Some),
        }
    }

    /// `POST`.
    pub fn post(&self, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        self.call("POST", path, body)
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call("DELETE", path, None)
    }

    /// A fresh link that signs the owner's browser in.
    pub fn sign_in_link(&self) -> anyhow::Result<String> {
        let link = self.post("/sign-in-links", None)?;
        link.get("url")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("the server gave no link")
    }

    /// Registers a public key; one that is there already is as good.
    pub fn add_key(&self, name: &str, public_key: &str) -> anyhow::Result<()> {
        if self.key(public_key)?.is_none() {
            self.post(
                "/keys",
                Some(json!({ "name": name, "public_key": public_key })),
            )?;
        }
        Ok(())
    }

    /// Takes a public key away; one that is not there is as good.
    pub fn remove_key(&self, public_key: &str) -> anyhow::Result<()> {
        if let Some(id) = self.key(public_key)? {
            self.delete(&format!("/keys/{id}"))?;
        }
        Ok(())
    }

    /// The id of a public key, whatever its comment is.
    fn key(&self, public_key: &str) -> anyhow::Result<Option<String>> {
        let key = |text: &str| {
            let words = text.split_whitespace().take(2);
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let keys: Vec<Key> = self.get("/keys")?;
        let same = |known: &Key| key(&known.public_key) == key(public_key);
        Ok(keys.into_iter().find(same).map(|known| known.id))
    }
}
