//! Root file systems of Debian packages, made with mmdebstrap, and files put into them.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::{Result, run, sbom};

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A root file system made of Debian packages.
pub(crate) struct Debian(Command, String);

impl Debian {
    /// A system with the essential packages and these installed, in which the commands are then run.
    pub(crate) fn installed(suite: &str, packages: &[String], commands: &[String]) -> Self {
        let mut this = Self::new("minbase", suite, packages);
        this.0.arg(concat!(
            "--customize-hook=dpkg-query --root=\"$1\" -W -f '${Package} ${Version}\\n' > \"$FAULTLINE_DEBS.have\" && ",
            "APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-cache dumpavail | awk 'NR == FNR {have[$0] = 1; next} ",
            "/^Package:/ {p = $2} /^Version:/ {v = $2} /^SHA256:/ && (p \" \" v) in have {print p, v, $2}' ",
            "\"$FAULTLINE_DEBS.have\" - > \"$FAULTLINE_DEBS\" && rm \"$FAULTLINE_DEBS.have\""
        ));
        for line in commands {
            this.0.arg(format!(
                "--customize-hook=chroot \"$1\" sh -ec {}",
                quote(line)
            ));
        }
        this
    }

    /// A tree of these packages and their dependencies, unpacked without running their scripts. That is enough for a
    /// container.
    pub(crate) fn unpacked(suite: &str, packages: &[String]) -> Self {
        let mut this = Self::new("extract", suite, packages);
        this.0.arg(concat!(
            "--extract-hook=for deb in \"$1\"/var/cache/apt/archives/*.deb; do ",
            "echo \"$(dpkg-deb -f \"$deb\" Package) $(dpkg-deb -f \"$deb\" Version) $(sha256sum < \"$deb\" | cut -d' ' -f1)\"; ",
            "done > \"$FAULTLINE_DEBS\""
        ));
        this.0
            .arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr");
        this
    }

    fn new(variant: &str, suite: &str, packages: &[String]) -> Self {
        let mut command = Command::new("mmdebstrap");
        command
            .arg("--quiet")
            .arg(format!("--variant={variant}"))
            .arg(format!("--include={}", packages.join(",")))
            .args([
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                // The copyright files stay: the bill of materials is made from them.
                "--dpkgopt=path-include=/usr/share/doc/*/copyright",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
            ])
            .args(["--aptopt=Apt::Install-Recommends \"false\""]);
        Self(command, suite.to_owned())
    }

    /// Makes it as a tar archive, with the list of its packages in [`sbom::DEBS`] next to it.
    pub(crate) fn run(mut self, stage: &'static str, to: &Path, log: &Path) -> Result<()> {
        self.0.env("FAULTLINE_DEBS", to.with_file_name(sbom::DEBS));
        self.0.arg(&self.1).arg(to);
        // The host's own package sources, so that a local mirror or proxy is used.
        let sources = [
            "/etc/apt/sources.list",
            "/etc/apt/sources.list.d/debian.sources",
        ];
        for path in sources
            .iter()
            .filter(|p| fs::read_to_string(p).is_ok_and(|t| t.contains(self.1.as_str())))
        {
            self.0.arg(path);
        }
        run(stage, &mut self.0, log)
    }
}

/// Puts a file into a root folder.
pub(crate) fn put(root: &Path, path: &str, content: &[u8], mode: u32) -> std::io::Result<()> {
    let to = root.join(path.trim_start_matches('/'));
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // A package may have put a symbolic link there. The file replaces the link, not its target.
    match fs::remove_file(&to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::write(&to, content)?;
    fs::set_permissions(&to, fs::Permissions::from_mode(mode))
}
