//! Reads one lab's folder.
//!
//! Everything is read once, bounded, and without following links, so that exactly what was linted, hashed and shown is
//! run.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use faultline_domain::{LabSlug, lab::Lab};
use serde::{Deserialize, Serialize};

use crate::{
    Diagnostic, Severity,
    files::{Files, WRONG, hash, purpose, read_files},
    lint,
    markdown::is_public,
    variables, yaml,
};

/// A usable lab.
#[derive(Debug, Clone)]
pub struct LabFolder {
    /// The folder that it was read from.
    pub path: PathBuf,
    /// The lab's name, which is the folder's name.
    pub slug: LabSlug,
    /// The content of `lab.yaml`, its variables filled with the values of one environment or of an example.
    pub lab: Lab,
    /// The text of `lab.yaml`.
    pub(crate) yaml: String,
    /// `README.md`: what the student reads.
    pub readme: String,
    /// `SOLUTION.md`: what the student reads after a repair or after giving up.
    pub solution: String,
    /// `solution.sh`: repairs it.
    pub solution_script: Vec<u8>,
    /// The files under `setup/`, `checks/`, `images/`, `files/` and `solution/`, by their path in the folder.
    pub scripts: BTreeMap<String, Vec<u8>>,
    /// The wrong repairs, by their path in the folder, `wrong/NAME.sh`. Empty in the copy that an environment keeps.
    pub wrong: BTreeMap<String, Vec<u8>>,
    /// The SHA-256 of the names, modes and contents of all files, in hex.
    pub hash: String,
    /// The same hash without the wrong repairs; the key of the lab's proof.
    pub proof_hash: String,
}

/// A lab as it is stored with an environment. Bytes are encoded in hex.
#[derive(Serialize, Deserialize)]
struct Kept {
    yaml: String,
    readme: String,
    solution: String,
    solution_script: String,
    scripts: BTreeMap<String, String>,
}

/// The result of reading a folder.
#[derive(Debug)]
pub struct Loaded {
    /// The lab, unless there is an error among the diagnostics.
    pub folder: Option<LabFolder>,
    /// All findings, errors first.
    pub diagnostics: Vec<Diagnostic>,
}

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

    /// Returns true if a folder holds exactly this lab.
    pub(crate) fn is_as_in(&self, path: &Path) -> bool {
        let mut found = Vec::new();
        let files = read_files(path, &mut found);
        found.is_empty() && files.is_ok_and(|files| hash(&files) == self.hash)
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
        let example = variables::values(&declared, variables::EXAMPLE);
        let filled = variables::fill(&yaml_text, &example);
        // A missing file is reported already.
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
        let hash_of_all = hash(&files);
        let (wrong, files): (Files, Files) = files
            .into_iter()
            .partition(|(name, _)| name.starts_with(WRONG));
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
                    ["setup/", "checks/", "images/", "files/", "solution/"]
                        .iter()
                        .any(|f| name.starts_with(f))
                })
                .map(|(name, file)| (name.clone(), file.content.clone()))
                .collect(),
            wrong: wrong.into_iter().map(|(n, f)| (n, f.content)).collect(),
            hash: hash_of_all,
            proof_hash: hash(&files),
        })
    }

    /// Serializes the lab into a text that [`Self::restore`] reads.
    #[must_use]
    pub fn content(&self) -> String {
        let kept = Kept {
            yaml: self.yaml.clone(),
            readme: self.readme.clone(),
            solution: self.solution.clone(),
            solution_script: hex::encode(&self.solution_script),
            scripts: self
                .scripts
                .iter()
                .map(|(name, content)| (name.clone(), hex::encode(content)))
                .collect(),
        };
        serde_json::to_string(&kept).unwrap_or_default()
    }

    /// Restores a lab from the text that [`Self::content`] returned. Returns `None` if this version doesn't understand
    /// it.
    #[must_use]
    pub fn restore(slug: &LabSlug, hash: &str, content: &str) -> Option<Self> {
        let kept: Kept = serde_json::from_str(content).ok()?;
        let declared = variables::declared(&kept.yaml);
        let example = variables::values(&declared, variables::EXAMPLE);
        let scripts = kept
            .scripts
            .into_iter()
            .map(|(name, content)| Some((name, hex::decode(content).ok()?)));
        Some(Self {
            path: PathBuf::new(),
            slug: slug.clone(),
            lab: yaml::read(&variables::fill(&kept.yaml, &example))?,
            solution_script: hex::decode(kept.solution_script).ok()?,
            scripts: scripts.collect::<Option<_>>()?,
            yaml: kept.yaml,
            readme: kept.readme,
            solution: kept.solution,
            wrong: BTreeMap::new(),
            hash: hash.to_owned(),
            proof_hash: hash.to_owned(),
        })
    }

    /// Returns a file that students may read, in `files/` or `solution/`. The caller must withhold `solution/` until
    /// the solution may be read.
    #[must_use]
    pub fn public(&self, path: &str) -> Option<&[u8]> {
        is_public(path).then(|| self.script(path)).flatten()
    }

    /// Returns the content of a script that `lab.yaml` names.
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
