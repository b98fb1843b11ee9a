//! What a person's `kubectl` is given.

use serde_json::json;

/// The last part of the names that API servers are asked for: a name of this form stands in every API server's
/// certificate, so that the gateway can route by it without opening the connection.
pub const DOMAIN: &str = "k8s.faultline.internal";

/// The server name of an environment's API server.
#[must_use]
pub fn server_name(environment: &str) -> String {
    format!("{environment}.{DOMAIN}")
}

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
    /// A certificate, for as long as it lasts.
    Certificate(&'a crate::credentials::ClientCertificate),
}

/// A kubeconfig for one environment, as YAML (JSON is YAML). `server` is where the gateway listens, such as
/// `https://127.0.0.1:7443`.
#[must_use]
pub fn kubeconfig(environment: &str, server: &str, authority: &str, user: &User<'_>) -> String {
    let user = match user {
        User::Program { command, args } => json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": command,
            "args": args,
            "interactiveMode": "Never",
            "provideClusterInfo": false,
            "installHint": "this kubeconfig asks the faultline program for a short-lived certificate; put it into PATH",
        }}),
        User::Certificate(certificate) => json!({
            "client-certificate-data": base64(&certificate.certificate),
            "client-key-data": base64(&certificate.key),
        }),
    };
    let name = format!("faultline-{environment}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "tls-server-name": server_name(environment),
            "certificate-authority-data": base64(authority),
        }}],
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
