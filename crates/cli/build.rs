//! Puts a hash of the sources that a lab's proof depends on into the program: the program's own bytes differ from
//! folder to folder, and change with a page's style.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// The crates that decide how a lab starts, breaks and is checked.
const CRATES: [&str; 8] = [
    "cluster",
    "domain",
    "guest",
    "image",
    "lab",
    "launcher",
    "provider",
    "qemu-shim",
];

fn main() -> io::Result<()> {
    let workspace = Path::new("../..");
    // A release has these in it (`shipped.rs`); that a file was added only Cargo notices, and only when it is told to.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rerun-if-changed=../../labs");
        println!("cargo:rerun-if-changed=../../images");
    }
    let mut files = BTreeMap::new();
    for name in CRATES {
        let folder = workspace.join("crates").join(name).join("src");
        println!("cargo:rerun-if-changed={}", folder.display());
        collect(&folder, &mut files)?;
    }
    let lock = workspace.join("Cargo.lock");
    println!("cargo:rerun-if-changed={}", lock.display());
    files.insert(lock.clone(), fs::read(lock)?);
    let mut hash = Sha256::new();
    for (path, content) in files {
        hash.update(path.to_string_lossy().as_bytes());
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    println!(
        "cargo:rustc-env=FAULTLINE_SOURCES={}",
        hex::encode(hash.finalize())
    );
    Ok(())
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .file_name()
            .is_some_and(|n| n != "tests.rs" && n != "testing.rs")
        {
            files.insert(path.clone(), fs::read(path)?);
        }
    }
    Ok(())
}
