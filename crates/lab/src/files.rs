//! Reads the files of a lab's folder once, bounded, and without following links.

use std::{collections::BTreeMap, fs, io, io::Read, path::Path};

use sha2::{Digest, Sha256};

use crate::Diagnostic;

/// The maximum size of a lab's file, in bytes.
pub const MAX_FILE: u64 = 256 * 1024;
/// The maximum number of a lab's files.
pub const MAX_FILES: usize = 200;
/// The maximum number of a lab's wrong repairs. Each needs a clone of its own.
pub const MAX_WRONG: usize = 12;
/// The folder of wrong repairs.
pub(crate) const WRONG: &str = "wrong/";

/// A file of the folder.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub content: Vec<u8>,
    pub executable: bool,
}

pub(crate) type Files = BTreeMap<String, File>;

/// Explains the purpose of a file, for the error about a missing one.
pub(crate) fn purpose(name: &str) -> &'static str {
    match name {
        "lab.yaml" => {
            "it says what the lab needs, breaks and checks; `faultline lab new` makes a first one"
        }
        "README.md" => "it tells the student what happened; begin with a line `# Title`",
        "SOLUTION.md" => "it explains the repair to the student who solved it or gave up",
        "solution.sh" => "it repairs the machine, so that `faultline lab test` can prove the lab",
        _ if name.starts_with(WRONG) => {
            "a check must fail after it; say below its first line, `# ` and a sentence, what is wrong with the repair"
        }
        _ => "",
    }
}

/// Returns the SHA-256 of all names, modes and contents, in hex.
pub(crate) fn hash(files: &Files) -> String {
    let mut sha = Sha256::new();
    for (name, file) in files {
        for part in [name.as_bytes(), &[u8::from(file.executable)], &file.content] {
            sha.update((part.len() as u64).to_be_bytes());
            sha.update(part);
        }
    }
    hex::encode(sha.finalize())
}

/// Reads the files of a folder and of its direct subfolders. Names that begin with a dot, and editors' backups, are
/// ignored.
pub(crate) fn read_files(path: &Path, found: &mut Vec<Diagnostic>) -> io::Result<Files> {
    let mut files = Files::new();
    read_into(path, "", &mut files, found)?;
    Ok(files)
}

fn read_into(
    path: &Path,
    prefix: &str,
    files: &mut Files,
    found: &mut Vec<Diagnostic>,
) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(plain) = entry.file_name().into_string() else {
            found.push(Diagnostic::error(prefix, "a file's name is not UTF-8").help("rename it"));
            continue;
        };
        if plain.starts_with('.') || plain.ends_with('~') {
            continue;
        }
        let name = format!("{prefix}{plain}");
        if files.len() >= MAX_FILES {
            found.push(Diagnostic::error(
                name,
                format!("a lab has at most {MAX_FILES} files"),
            ));
            return Ok(());
        }
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            found.push(
                Diagnostic::error(&name, "is a symbolic link")
                    .help("put the file itself here: a lab is complete in its folder"),
            );
        } else if kind.is_dir() && prefix.is_empty() {
            read_into(&entry.path(), &format!("{name}/"), files, found)?;
        } else if kind.is_dir() {
            found.push(Diagnostic::error(&name, "is a folder in a folder").help(
                "files lie directly under setup/, checks/, wrong/, images/, files/ and solution/",
            ));
        } else if kind.is_file() {
            match read_file(&entry.path()) {
                Ok(Some(file)) => {
                    files.insert(name, file);
                }
                Ok(None) => found.push(Diagnostic::error(
                    &name,
                    format!("is larger than {} KiB", MAX_FILE / 1024),
                )),
                Err(e) => found.push(Diagnostic::error(&name, format!("can't be read: {e}"))),
            }
        } else {
            found.push(Diagnostic::error(&name, "is neither a file nor a folder"));
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    // A link was refused by its file type already; O_NOFOLLOW covers the time between the check and the open.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= MAX_FILE).then_some(File {
        content,
        executable,
    }))
}
