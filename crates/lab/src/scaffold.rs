//! The files of a new lab: small, and provable as they are.

use std::{fs, io, path::Path};

use faultline_domain::LabSlug;

use crate::schema::lab_schema;

/// An error of writing a new lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder exists already.
    #[error("{0} exists already; choose another name or remove it")]
    Exists(String),
    /// A file could not be written.
    #[error("{path} can't be written")]
    Write {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// The path of the schema in a checkout of Faultline, relative to the labs' folder.
const OF_CHECKOUT: &str = "../docs/lab.schema.json";
/// The name of the schema beside labs outside a checkout. It begins with a dot, so that the catalogue ignores it.
const BESIDE: &str = ".lab.schema.json";

const YAML: &str = r#"title: The status page is gone
summary: The status page on port 8080 answers 404 since the clean-up of Monday night.
level: beginner
topics: [http]
minutes: 10

setup:
  - script: setup/break.sh

checks:
  - name: page-answers
    title: The status page answers on port 8080
    fail: Port 8080 does not serve the status page.
    hint: 2
    test:
      http:
        port: 8080
        path: /status.html
        body: all systems
  - name: page-is-readable
    title: The web server can read the page, and not everybody can write it
    fail: The page is missing, or its permissions are not 0644.
    test:
      file:
        path: /srv/status/status.html
        mode: "0644"

hints:
  - text: "Which process listens on port 8080, and which folder does it serve? `ss -tlnp` and `systemctl cat status` tell."
  - text: "The unit serves `/srv/status`. What is in it now, and what was in it before?"
  - text: "Somebody renamed `status.html` to `status.html.old`. Give it its name back, and run `chmod 644` on it."
"#;

const README: &str = "# The status page is gone\n\nSince the clean-up of Monday night `http://node1:8080/status.html` answers 404. Customers see it.\n\nBring the page back.\n";

const SOLUTION: &str = "# What had happened\n\nThe clean-up renamed every file older than a year, the status page among them.\n\n```\nsystemctl cat status          # serves /srv/status\nls -la /srv/status            # status.html.old\nmv /srv/status/status.html.old /srv/status/status.html\nchmod 644 /srv/status/status.html\n```\n";

const BREAK: &str = r#"#!/bin/bash
# Breaks the machine, as the README describes. May be run again, even on a repaired machine.
set -euo pipefail

mkdir -p /srv/status
rm -f /srv/status/status.html
echo '<h1>all systems go</h1>' >/srv/status/status.html.old
chmod 600 /srv/status/status.html.old

cat >/etc/systemd/system/status.service <<'UNIT'
[Unit]
Description=Status page

[Service]
ExecStart=/usr/bin/python3 -m http.server 8080 --directory /srv/status

[Install]
WantedBy=multi-user.target
UNIT
# A link enables it; `systemctl enable` would read all units again, which takes seconds.
ln -sf ../status.service /etc/systemd/system/multi-user.target.wants/
systemctl start status

# The symptom must be visible before the student enters.
for _ in $(seq 50); do
  code=$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/status.html || true)
  [ "$code" = 404 ] && exit 0
  sleep 0.2
done
echo "the page answers $code, not 404" >&2
exit 1
"#;

const REPAIR: &str = "#!/bin/bash\n# Repairs the machine, as the student would.\nset -euo pipefail\n\nmv /srv/status/status.html.old /srv/status/status.html\nchmod 644 /srv/status/status.html\n";

const WRONG_REPAIR: &str = "#!/bin/bash\n# Lets everybody write the page.\nset -euo pipefail\n\nmv /srv/status/status.html.old /srv/status/status.html\nchmod 666 /srv/status/status.html\n";

/// Writes the files of a new lab into `labs/slug`, and the schema of `lab.yaml` beside it unless `labs` is in a
/// checkout of Faultline.
pub fn create(labs: &Path, slug: &LabSlug) -> Result<(), Error> {
    let folder = labs.join(slug.as_str());
    if folder.exists() {
        return Err(Error::Exists(folder.display().to_string()));
    }
    let schema = if labs.join(OF_CHECKOUT).exists() {
        OF_CHECKOUT
    } else {
        put(&labs.join(BESIDE), &lab_schema())?;
        BESIDE
    };
    let yaml = format!("# yaml-language-server: $schema=../{schema}\n{YAML}");
    for (name, content) in [
        ("lab.yaml", yaml.as_str()),
        ("README.md", README),
        ("SOLUTION.md", SOLUTION),
        ("setup/break.sh", BREAK),
        ("solution.sh", REPAIR),
        ("wrong/everybody-writes.sh", WRONG_REPAIR),
    ] {
        put(&folder.join(name), content)?;
    }
    Ok(())
}

fn put(path: &Path, content: &str) -> Result<(), Error> {
    write(path, content).map_err(|source| Error::Write {
        path: path.display().to_string(),
        source,
    })
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)?;
    let mode = if content.starts_with("#!") {
        0o755
    } else {
        0o644
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
