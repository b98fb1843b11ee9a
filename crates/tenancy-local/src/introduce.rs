//! Makes an added node and the other nodes known to each other: their names, and the keys for `ssh` between their
//! roots.
//!
//! ```text
//! ask every node    for root's public keys (one is made if there is none) and the host keys of its sshd
//! tell the new node the names, keys and host keys of the others
//! tell the others   those of the new node
//! ```
//!
//! Nodes that were cloned together know each other's names from the start. Failures are logged, and the node is added
//! or removed anyway, since a student or a lab may have broken something on purpose.

use std::{fmt::Write, time::Duration};

use faultline_domain::{NodeName, TenantId};
use faultline_guest::wire::Exec;
use faultline_launcher::{client, protocol::Channel, spec::LaunchSpec};
use futures::future::join_all;

use crate::Local;

/// The time limit of a script in a guest, in seconds.
const LIMIT: u32 = 30;
/// The time limit of a guest's answer, including the script.
const ANSWER: Duration = Duration::from_secs(45);
/// The maximum size of a guest's answer, in bytes.
const MAX_ANSWER: usize = 32 * 1024;
/// The maximum number of keys of each kind per node.
const MAX_KEYS: usize = 4;

/// A script that prints a node's public keys, each prefixed by its kind: `root` or `host`.
const ASK: &str = r#"
umask 077
mkdir -p /root/.ssh
ls /root/.ssh/id_*.pub > /dev/null 2>&1 || [ -e /root/.ssh/id_ed25519 ] ||
  ssh-keygen -q -t ed25519 -N '' -C "root@$(hostname)" -f /root/.ssh/id_ed25519 < /dev/null
sed 's/^/root /' /root/.ssh/id_*.pub
sed 's/^/host /' /etc/ssh/ssh_host_*_key.pub
"#;

/// Shell functions that record a node's name and keys on another node, and remove them again. `forget` also removes
/// host keys that ssh recorded by itself, since the next machine with that name has others. Other lines in these files
/// stay.
const TELL: &str = r#"
umask 077
failed=0
keys=/root/.ssh/authorized_keys known=/root/.ssh/known_hosts
edit() { [ ! -e "$2" ] || sed -i --follow-symlinks "$1" "$2" || failed=1; }
append() { # a line, a file
  [ ! -s "$2" ] || [ -z "$(tail -c 1 "$2")" ] || echo >> "$2"
  printf '%s\n' "$1" >> "$2" || failed=1
}
forget() {
  edit "/^$1[[:space:]][[:space:]]*$2[[:space:]]*\$/d" /etc/hosts
  edit "/ root@$2 added-by-faultline\$/d" $keys
  for name in "$2" "$1"; do
    ! ssh-keygen -F "$name" -f $known > /dev/null 2>&1 ||
      ssh-keygen -R "$name" -f $known > /dev/null 2>&1 || failed=1
  done
}
name() { append "$1 $2" /etc/hosts; }
root() { grep -qsF "$2" $keys || append "$2 root@$1 added-by-faultline" $keys; }
host() { append "$1 $2 added-by-faultline" $known; }
mkdir -p /root/.ssh
"#;

/// The public keys of a node's root and its sshd. Each is an algorithm and a key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Keys {
    root: Vec<String>,
    host: Vec<String>,
}

impl Keys {
    /// Parses the output of [`ASK`]. It is validated strictly: a guest may print anything, and the keys become part of
    /// scripts for other guests.
    fn parse(printed: &str) -> Self {
        let mut keys = Self::default();
        for line in printed.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(kind), Some(algorithm), Some(key)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let of_algorithm =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-@.".contains(&b);
            let of_key = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
            let is_key = algorithm.len() <= 64
                && algorithm.bytes().all(of_algorithm)
                && key.len() <= 4096
                && key.starts_with("AAAA")
                && key.bytes().all(of_key);
            let kept = match kind {
                "root" => &mut keys.root,
                "host" => &mut keys.host,
                _ => continue,
            };
            if is_key && kept.len() < MAX_KEYS {
                kept.push(format!("{algorithm} {key}"));
            }
        }
        keys
    }
}

/// Returns a node's address in its environment.
fn address(node: &NodeName) -> Option<String> {
    Some(format!("10.77.0.{}", 10 + node.number()?))
}

/// Returns a call of the function in [`TELL`] that makes a node forget another one.
fn forget(node: &NodeName) -> String {
    let address = address(node).unwrap_or_default();
    format!("forget '{address}' '{node}'\n")
}

/// Returns calls of the functions in [`TELL`] that make `of` known to a node.
fn tell(of: &NodeName, keys: &Keys) -> String {
    let address = address(of).unwrap_or_default();
    let mut words = forget(of);
    let _ = writeln!(words, "name '{address}' '{of}'");
    for key in &keys.root {
        let _ = writeln!(words, "root '{of}' '{key}'");
    }
    for key in &keys.host {
        let _ = writeln!(words, "host '{of},{address}' '{key}'");
    }
    words
}

impl Local {
    /// Makes the added node and the others known to each other. `spec` is the spec before it was added.
    pub(super) async fn introduce(&self, id: &TenantId, spec: &LaunchSpec, new: &NodeName) {
        let others: Vec<&NodeName> = spec.all_nodes().map(|other| &other.name).collect();
        let all = others.iter().copied().chain([new]);
        let asked = join_all(all.map(|node| async move {
            let printed = self.script(id, node, ASK.to_owned()).await;
            let keys = printed.as_deref().map(Keys::parse);
            (node, printed.is_some(), keys.unwrap_or_default())
        }));
        let asked = asked.await;
        let answering = asked.iter().filter(|(_, answers, _)| *answers);
        let told = answering.map(|(node, ..)| {
            let of = asked.iter().filter(|(of, ..)| {
                // The other nodes know each other already.
                of != node && (*of == new || *node == new)
            });
            let words: String = of.map(|(of, _, keys)| tell(of, keys)).collect();
            self.script(id, node, format!("{TELL}{words}exit $failed\n"))
        });
        join_all(told).await;
    }

    /// Makes the other nodes forget a removed node.
    pub(super) async fn forget(&self, id: &TenantId, spec: &LaunchSpec, gone: &NodeName) {
        let others = spec.all_nodes().filter(|other| other.name != *gone);
        let words = format!("{TELL}{}exit $failed\n", forget(gone));
        let told = others.map(|other| self.script(id, &other.name, words.clone()));
        join_all(told).await;
    }

    /// Runs a script in a guest and returns what it printed. A failure is logged and otherwise ignored.
    async fn script(&self, id: &TenantId, node: &NodeName, script: String) -> Option<String> {
        let run = async {
            let stream = client::open(&self.folder(id), node, Channel::Guest).await;
            let stream = stream.map_err(|e| e.to_string())?;
            let exec = Exec {
                argv: ["/bin/sh", "-c", &script].map(Into::into).to_vec(),
                timeout_seconds: Some(LIMIT),
                ..Exec::default()
            };
            let done = faultline_guest::client::run(stream, exec, MAX_ANSWER).await;
            done.map_err(|e| e.to_string())
        };
        let done = tokio::time::timeout(ANSWER, run).await;
        let done = done.unwrap_or_else(|_| Err("it did not answer".to_owned()));
        let failed = match &done {
            Ok(done) if done.code == 0 => None,
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stderr);
                let said = said.trim().lines().last().unwrap_or_default().to_owned();
                Some(format!("code {}: {said:?}", done.code))
            }
            Err(e) => Some(e.clone()),
        };
        if let Some(error) = failed {
            tracing::warn!(tenant = %id, %node, error, "the node may not know the other nodes' names and keys");
        }
        let printed = done.ok()?.stdout;
        Some(String::from_utf8_lossy(&printed).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_keys_are_taken_from_what_a_guest_prints() {
        let printed = "root ssh-ed25519 AAAAC3Nz root@node1\n\
            root ssh-ed25519 AAAA'$(reboot)'\nroot $(reboot) AAAA\nroot\nnoise\n\
            host ssh-rsa AAAAB3Nz+/==\nhost sk-ssh-ed25519@openssh.com AAAAx\nhost ssh-rsa BBBB\n";
        let keys = Keys {
            root: vec!["ssh-ed25519 AAAAC3Nz".to_owned()],
            host: vec![
                "ssh-rsa AAAAB3Nz+/==".to_owned(),
                "sk-ssh-ed25519@openssh.com AAAAx".to_owned(),
            ],
        };
        assert_eq!(Keys::parse(printed), keys);
        let many = "root ssh-ed25519 AAAA\n".repeat(100);
        assert_eq!(Keys::parse(&many).root.len(), MAX_KEYS);
    }

    /// Runs the real scripts on files in a temporary folder.
    #[test]
    fn what_is_told_is_forgotten_again_and_all_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
        let done = |words: &str| {
            let root = folder.path().display().to_string();
            let script = format!("{TELL}{words}exit $failed\n")
                .replace("/root/.ssh", &root)
                .replace("/etc/hosts", &format!("{root}/hosts"));
            let done = Command::new("/bin/sh").args(["-c", &script]).output();
            done.unwrap().status.code()
        };
        let run = |words: &str| assert_eq!(done(words), Some(0), "{words}");
        let hosts = "127.0.0.1 localhost\n10.77.0.11 node1\n10.77.0.12 db\n";
        let own = "ssh-ed25519 AAAAmine root@node2";
        std::fs::write(at("hosts"), hosts).unwrap();
        std::fs::write(at("authorized_keys"), own).unwrap();
        let keys = Keys {
            root: vec!["ssh-ed25519 AAAAroot".to_owned()],
            host: vec![
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
                    .to_owned(),
            ],
        };
        let two = "node2".parse().unwrap();
        for _ in 0..2 {
            run(&tell(&two, &keys));
            assert_eq!(read("hosts"), format!("{hosts}10.77.0.12 node2\n"));
            assert_eq!(
                read("authorized_keys"),
                format!("{own}\nssh-ed25519 AAAAroot root@node2 added-by-faultline\n")
            );
            let known = read("known_hosts");
            assert!(
                known.starts_with("node2,10.77.0.12 ssh-ed25519 AAAAC3"),
                "{known}"
            );
            assert_eq!(known.lines().count(), 1);
        }
        run(&forget(&two));
        assert_eq!(read("hosts"), hosts);
        assert_eq!(read("authorized_keys"), format!("{own}\n"));
        assert_eq!(read("known_hosts"), "");
        // A failure of one function doesn't keep the others from running.
        std::fs::remove_file(at("known_hosts")).unwrap();
        std::fs::create_dir(at("known_hosts")).unwrap();
        assert_eq!(done(&tell(&two, &keys)), Some(1));
        assert_eq!(read("hosts"), format!("{hosts}10.77.0.12 node2\n"));
    }
}
