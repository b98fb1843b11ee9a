//! Kubeconfigs for people.

use serde_json::json;

/// The credential in a kubeconfig.
#[derive(Debug, Clone)]
pub enum User<'a> {
    /// A program that `kubectl` runs to get a token, and again when the token has expired.
    Program {
        /// The program.
        command: &'a str,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A fixed token.
    Token(&'a str),
}

/// Returns a kubeconfig for an environment, as YAML (JSON is YAML).
///
/// `server` is the environment's address at the gateway, such as `https://127.0.0.1:7443/environments/k7f3q9xw2m`.
/// `authority` is the CA certificate of the gateway, in PEM. `None` if the client's own CAs are to be used.
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
            "installHint": "this kubeconfig gets short-lived tokens from the faultline program; add it to PATH",
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
