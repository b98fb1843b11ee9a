//! Puts a hash of the guest helper's sources into the program, for the content addresses of images. A hash of the
//! helper itself would not do: its bytes depend on the folder that it is built in, and every image would be rebuilt.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

const HELPER: &str = "faultline-guest";

fn main() -> io::Result<()> {
    let (sources, lock) = (Path::new("../guest/src"), Path::new("../../Cargo.lock"));
    for path in [sources, lock] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let mut hash = Sha256::new();
    let mut files = BTreeMap::new();
    collect(sources, &mut files)?;
    for (path, content) in files {
        hash.update(path.to_string_lossy().as_bytes());
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    for package in needed(&fs::read_to_string(lock)?) {
        hash.update(package);
    }
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    hash.update(Command::new(compiler).arg("-V").output()?.stdout);
    println!(
        "cargo:rustc-env=FAULTLINE_HELPER_SOURCES={}",
        hex::encode(hash.finalize())
    );
    Ok(())
}

/// Reads all files of a folder except tests.
fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if !path.ends_with("tests.rs") {
            files.insert(path.clone(), fs::read(path)?);
        }
    }
    Ok(())
}

/// Returns the packages that the helper is built from, as listed in `Cargo.lock`.
fn needed(lock: &str) -> BTreeSet<&str> {
    let packages: Vec<(&str, &str)> = lock
        .split("[[package]]\n")
        .filter_map(|package| {
            let name = package.strip_prefix("name = \"")?.split('"').next()?;
            Some((name, package.trim_end()))
        })
        .collect();
    let (mut found, mut names) = (BTreeSet::new(), vec![HELPER]);
    while let Some(wanted) = names.pop() {
        for (_, package) in packages.iter().filter(|(name, _)| *name == wanted) {
            if found.insert(*package) {
                let listed = package.split_once("dependencies = [\n").map_or("", |p| p.1);
                names.extend(
                    listed
                        .lines()
                        .filter_map(|line| line.trim().strip_prefix('"')?.split(['"', ' ']).next()),
                );
            }
        }
    }
    found
}
