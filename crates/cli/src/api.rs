//! The client of the server's API.

use std::{path::Path, time::Duration};

use anyhow::Context;
use faultline_domain::authz::Role;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::config::files;

/// How the server is reached, as `faultline up`, or `faultline login` on another machine, wrote it into the data
/// folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Api {
    /// The server's URL.
    pub url: String,
    /// The CLI's token.
    pub token: String,
    /// The SSH gateway, if the server has one.
    pub ssh: Option<Gateway>,
}

/// The SSH gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gateway {
    /// The host name or address.
    pub host: String,
    pub port: u16,
    /// The public host key, as an OpenSSH line.
    pub host_key: String,
}

/// The part of a problem document that is shown to people, and the status.
#[derive(Debug, Deserialize)]
struct Problem {
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(skip)]
    status: u16,
}

impl Problem {
    /// Replaces texts that are meant for browsers and other clients: on the command line, a 404 means a wrong name, and a
    /// 401 means that the stored token is not accepted any more.
    fn explain(&mut self, path: &str) {
        if self.status == 401 {
            self.title = "the server does not accept this token".to_owned();
            self.detail = "it was removed, or the account is disabled; `faultline login` stores another one, which the page \
                           *Keys* creates"
                .to_owned();
        }
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
            ["invitations", id] => (
                format!("open invitation {id}"),
                "faultline person invitations",
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
        // The text ends a sentence or continues one.
        let sentence = self.detail.starts_with(|c: char| c.is_uppercase());
        let between = if sentence { "." } else { ":" };
        write!(f, "{}{between} {}", self.title, self.detail)
    }
}

impl std::error::Error for Problem {}

/// Returns true if a request is answered to operators only.
fn is_for_operators(method: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or(path);
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        [
            "people" | "invitations" | "pools" | "events" | "queue" | "operator",
            ..,
        ] => true,
        ["groups", _, "invitations", ..] => false,
        ["groups", ..] => method != "GET",
        _ => false,
    }
}

/// Returns true if the error is the server's 404.
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
    /// Reads the file in the data folder.
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
            // Redirects aren't followed: the token is meant for this server alone.
            .max_redirects(0)
            .http_status_as_error(false)
            .build()
            .into()
    }

    /// Sends a request and returns the answer. A problem document becomes an error with its text.
    fn call(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let url = format!("{}/api/v1{path}", self.url.trim_end_matches('/'));
        let bearer = format!("Bearer {}", self.token);
        let agent = Self::agent();
        let sent = match (method, body) {
            ("GET", _) => agent.get(&url).header("Authorization", &bearer).call(),
            ("DELETE", _) => agent.delete(&url).header("Authorization", &bearer).call(),
            ("PUT", Some(body)) => agent
                .put(&url)
                .header("Authorization", &bearer)
                .send_json(body),
            ("PATCH", Some(body)) => agent
                .patch(&url)
                .header("Authorization", &bearer)
                .send_json(body),
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
            problem.explain(path);
            if problem.status == 404 && is_for_operators(method, path) {
                self.explain_role(&mut problem);
            }
            return Err(problem.into());
        }
        if text.is_empty() {
            Ok(Value::Null)
        } else {
            Ok(serde_json::from_str(&text)?)
        }
    }

    /// If the caller isn't an operator, says so in place of "not found". The server doesn't: to it, what somebody may not
    /// see doesn't exist. The caller's own role is no secret to the caller.
    fn explain_role(&self, problem: &mut Problem) {
        #[derive(Deserialize)]
        struct Me {
            role: String,
        }
        if let Ok(Me { role }) = self.get("/me")
            && role != Role::Operator.as_str()
        {
            problem.status = 403;
            problem.title = "this command needs the role operator".to_owned();
            problem.detail = format!(
                "you have the role {role}; an operator can give you another one with `faultline person role`"
            );
        }
    }

    /// Sends a `GET` request.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_value(self.call("GET", path, None)?)?)
    }

    /// Sends a `GET` request. Returns `None` for a 404.
    pub fn get_if_there<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        match self.get(path) {
            Err(e) if is_missing(&e) => Ok(None),
            answered => answered.map(Some),
        }
    }

    /// Sends a `POST` request.
    pub fn post(&self, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        self.call("POST", path, body)
    }

    /// Sends a `PUT` request.
    pub fn put(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call("PUT", path, Some(body))
    }

    /// Sends a `PATCH` request.
    pub fn patch(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call("PATCH", path, Some(body))
    }

    /// Sends a `DELETE` request.
    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call("DELETE", path, None)
    }

    /// Returns a new link that signs the owner's browser in.
    pub fn sign_in_link(&self) -> anyhow::Result<String> {
        let link = self.post("/sign-in-links", None)?;
        link.get("url")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("the server gave no link")
    }

    /// Registers a public key. Succeeds if it is registered already.
    pub fn add_key(&self, name: &str, public_key: &str) -> anyhow::Result<()> {
        if self.key(public_key)?.is_none() {
            self.post(
                "/keys",
                Some(json!({ "name": name, "public_key": public_key })),
            )?;
        }
        Ok(())
    }

    /// Removes a public key. Succeeds if it isn't registered.
    pub fn remove_key(&self, public_key: &str) -> anyhow::Result<()> {
        if let Some(id) = self.key(public_key)? {
            self.delete(&format!("/keys/{id}"))?;
        }
        Ok(())
    }

    /// Returns the id of a public key. The comment is ignored.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_explained_where_it_is_needed() {
        for (method, path, needed) in [
            ("GET", "/people", true),
            ("PATCH", "/people/ann", true),
            ("GET", "/invitations", true),
            ("GET", "/queue", true),
            ("POST", "/groups", true),
            ("PUT", "/groups/x/limits", true),
            ("GET", "/groups/x/limits", false),
            ("DELETE", "/groups/x/invitations/y", false),
            ("GET", "/environments/x", false),
            ("GET", "/labs/people", false),
        ] {
            assert_eq!(is_for_operators(method, path), needed, "{method} {path}");
        }
    }
}
