//! One lab's folder, read whole.
//!
//! Everything is read once, bounded, without following links, so that what was linted, hashed and shown is what
//! is run.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use faultline_domain::{LabSlug, lab::Lab};
use sha2::{Digest, Sha256};

use crate::{Diagnostic, Severity, lint, variables, yaml};

/// The largest file of a lab, in bytes.
pub const MAX_FILE: u64 = 256 * 1024;
/// The most files that a lab may have.
pub const MAX_FILES: usize = 200;

/// A lab that can be used.
#[derive(Debug, Clone)]
pub struct LabFolder {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its name: the folder's.
    pub slug: LabSlug,
    /// What `lab.yaml` says, its variables filled with one environment's values or an example's.
    pub lab: Lab,
    /// The text of `lab.yaml`.
    pub(crate) yaml: String,
    /// `README.md`: what the student reads.
    pub readme: String,
    /// `SOLUTION.md`: what the student reads after solving it or giving up.
    pub solution: String,
    /// `solution.sh`: repairs it.
    pub solution_script: Vec<u8>,
    /// The files under `setup/`, `checks/` and `images/`, by their path in the folder.
    pub scripts: BTreeMap<String, Vec<u8>>,
    /// SHA-256 over the names, modes and contents of all its files, in hex.
    pub hash: String,
}

/// What reading a folder gave.
#[derive(Debug)]
pub struct Loaded {
    /// The lab, unless an error is among the findings.
    pub folder: Option<LabFolder>,
    /// What was found, errors first.
    pub diagnostics: Vec<Diagnostic>,
}

/// A file of the folder.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub content: Vec<u8>,
    pub executable: bool,
}

pub(crate) type Files = BTreeMap<String, File>;

impl LabFolder {
    /// Reads and lints a folder.
    #[must_use]
    pub fn load(path: &Path) -> Loaded {
        let mut diagnostics = Vec::new();
        let folder = Self::read(path, &mut diagnostics);
        diagnostics.sort_by_key(|d| std::cmp::Reverse(d.severity));
        let usable = !diagnostics.iter().any(|d| d.severity == Severity::Error);
        Loaded {
            folder: folder.filter(|_| usable),
            diagnostics,
        }
    }

    fn read(path: &Path, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let name = fs::canonicalize(path)
            .ok()
            .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_default();
        let slug = match name.parse::<LabSlug>() {
            Ok(slug) => Some(slug),
            Err(e) => {
                found.push(
                    Diagnostic::error("", format!("the folder's name is the lab's name, and {e}"))
                        .help("rename the folder"),
                );
                None
            }
        };
        let files = match read_files(path, found) {
            Ok(files) => files,
            Err(e) => {
                found.push(Diagnostic::error(
                    "",
                    format!("the folder can't be read: {e}"),
                ));
                return None;
            }
        };
        let yaml_text = text(&files, yaml::FILE, found);
        let yaml_text = yaml_text.unwrap_or_default();
        let declared = variables::declared(&yaml_text);
        variables::lint(&yaml_text, &declared, found);
        let example = variables::values(&declared, "an example");
        let filled = variables::fill(&yaml_text, &example);
        // A missing file was told of already.
        let lab = files
            .contains_key(yaml::FILE)
            .then(|| yaml::parse(&filled).map_err(|mut d| found.append(&mut d)))
            .and_then(Result::ok);
        let mut linted = Cow::Borrowed(&files);
        if !example.is_empty() {
            for file in linted.to_mut().values_mut() {
                file.content = variables::fill_bytes(&file.content, &example);
            }
        }
        lint::run(&linted, &filled, lab.as_ref(), found);
        let readme = text(&files, "README.md", found);
        let solution = text(&files, "SOLUTION.md", found);
        Some(Self {
            path: path.to_owned(),
            slug: slug?,
            lab: lab?,
            yaml: yaml_text,
            readme: readme?,
            solution: solution?,
            solution_script: files.get("solution.sh")?.content.clone(),
            scripts: files
                .iter()
                .filter(|(name, _)| {
                    ["setup/", "checks/", "images/"]
                        .iter()
                        .any(|f| name.starts_with(f))
                })
                .map(|(name, file)| (name.clone(), file.content.clone()))
                .collect(),
            hash: hash(&files),
        })
    }

    /// The content of a script that `lab.yaml` names.
    #[must_use]
    pub fn script(&self, name: &str) -> Option<&[u8]> {
        self.scripts.get(name).map(Vec::as_slice)
    }
}

fn text(files: &Files, name: &str, found: &mut Vec<Diagnostic>) -> Option<String> {
    let Some(file) = files.get(name) else {
        if !found.iter().any(|d| d.file == name) {
            found.push(Diagnostic::error(name, format!("{name} is missing")).help(purpose(name)));
        }
        return None;
    };
    match String::from_utf8(file.content.clone()) {
        Ok(text) => Some(text),
        Err(e) => {
            found.push(
                Diagnostic::error(
                    name,
                    format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()),
                )
                .help("save it as UTF-8"),
            );
            None
        }
    }
}

pub(crate) fn purpose(name: &str) -> &'static str {
    match name {
        "lab.yaml" => {
            "it says what the lab needs, breaks and checks; `faultline lab new` makes a first one"
        }
        "README.md" => "it tells the student what happened; begin with a line `# Title`",
        "SOLUTION.md" => "it explains the repair to the student who solved it or gave up",
        "solution.sh" => "it repairs the machine, so that `faultline lab test` can prove the lab",
        _ => "",
    }
}

fn hash(files: &Files) -> String {
    let mut sha = Sha256::new();
    for (name, file) in files {
        for part in [name.as_bytes(), &[u8::from(file.executable)], &file.content] {
            sha.update((part.len() as u64).to_be_bytes());
            sha.update(part);
        }
    }
    hex::encode(sha.finalize())
}

/// Reads the folder's files and those of the folders directly in it. Names that begin with a dot, and editors'
/// backups, are not part of a lab.
fn read_files(path: &Path, found: &mut Vec<Diagnostic>) -> io::Result<Files> {
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
            found.push(
                Diagnostic::error(&name, "is a folder in a folder")
                    .help("scripts lie directly under setup/ and checks/"),
            );
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
    // The link was refused by its type already; O_NOFOLLOW closes the moment between.
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
