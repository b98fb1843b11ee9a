//! What a person's `kubectl` is given.

use serde_json::json;

/// How the credential in a kubeconfig is got.
#[derive(Debug, Clone)]
pub enum User<'a> {
    /// By running this program whenever it is needed: it renews what has run out.
    Program {
        /// The program.
        command: &'a str,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A token, for as long as it lasts.
    Token(&'a str),
}

/// A kubeconfig for one environment, as YAML (JSON is YAML). `server` is where the door leads to it, such as
/// `https://127.0.0.1:7443/environments/k7f3q9xw2m`; `authority` is the one by which the door is known, PEM, and nothing
/// where the client's own know it.
#[must_use]
pub fn kubeconfig(
    environment: &str,
    server: &str,
    authority: Option<&str>,
    user: &User<'_>,
) -> String {
    let user = match user {
        User::Program { command, args } => json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": command,
            "args": args,
            "interactiveMode": "Never",
            "provideClusterInfo": false,
            "installHint": "this kubeconfig asks the faultline program for a short-lived token; put it into PATH",
        }}),
        User::Token(token) => json!({ "token": token }),
    };
    let name = format!("faultline-{environment}");
    let cluster = match authority {
        Some(authority) => json!({
            "server": server,
            "certificate-authority-data": base64(authority),
        }),
        None => json!({ "server": server }),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    serde_json::to_string_pretty(&config).unwrap_or_default() + "\n"
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}
