//! Labs as arguments: `disk-full` in the folder of labs, or a path such as `./disk-full`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use faultline_domain::LabSlug;
use faultline_lab::suggest;

use crate::places;

/// Returns the folder of an existing lab.
pub(super) fn find(labs: &Path, named: &str) -> anyhow::Result<PathBuf> {
    let path = place(labs, named);
    if path.join("lab.yaml").exists() {
        return Ok(path);
    }
    if places::has_labs(&path) {
        bail!(
            "{0} is a folder of labs, not a lab; pass a lab's own folder, or all of them with --labs {0}",
            path.display()
        );
    }
    if path.is_dir() {
        bail!(
            "{} has no lab.yaml, so it is no lab; `faultline lab new` writes the files of one into a new folder",
            path.display()
        );
    }
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    let names = folders(parent);
    let word = path.file_name().unwrap_or_default().to_string_lossy();
    let meant = if is_path(named) || !Path::new(named).join("lab.yaml").exists() {
        suggest::question(&word, names.iter().map(String::as_str))
    } else {
        format!("; did you mean the folder ./{named}?")
    };
    bail!(
        "there is no lab {word} in {}{meant}\n`faultline lab list` shows all, `faultline lab new {named}` writes a new one",
        parent.display()
    )
}

/// Returns the folder and the name of a lab to be created.
pub(super) fn make(labs: &Path, named: &str) -> anyhow::Result<(PathBuf, LabSlug)> {
    if !is_path(named) {
        return Ok((labs.to_owned(), named.parse()?));
    }
    let path = Path::new(named);
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| {
        format!("{named} doesn't end with the new lab's name; try {named}/my-lab")
    })?;
    let parent = path.parent().unwrap_or(Path::new("."));
    Ok((parent.to_owned(), name.parse()?))
}

/// Returns the name of a lab, which may not exist any more.
pub(super) fn name(named: &str) -> String {
    let path = Path::new(named);
    let whole = fs::canonicalize(path).ok().filter(|_| is_path(named));
    let whole = whole.as_deref().unwrap_or(path);
    let name = whole.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Returns true if the argument is a path, and not the name of a lab.
pub(super) fn is_path(named: &str) -> bool {
    named.contains('/') || matches!(named, "" | "." | "..")
}

fn place(labs: &Path, named: &str) -> PathBuf {
    if is_path(named) {
        // Without the trailing slash of a shell's completion.
        Path::new(named).components().collect()
    } else {
        labs.join(named)
    }
}

fn folders(parent: &Path) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_found_by_name_and_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let labs = dir.path().join("labs");
        for folder in [labs.join("disk-full"), dir.path().join("mine")] {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("lab.yaml"), "").unwrap();
        }
        fs::create_dir(dir.path().join("empty")).unwrap();
        let path = |name: &str| format!("{}/{name}", dir.path().display());

        assert_eq!(find(&labs, "disk-full").unwrap(), labs.join("disk-full"));
        let mine = find(&labs, &path("mine/")).unwrap();
        assert_eq!(mine, dir.path().join("mine"));
        assert_eq!(name(&path("mine/../mine/")), "mine");
        assert_eq!(name("gone"), "gone");

        for (named, says) in [
            ("disk-ful", "did you mean disk-full?"),
            ("wordpress", "`faultline lab new wordpress`"),
            (path("min").as_str(), "did you mean mine?"),
            (path("labs").as_str(), "is a folder of labs"),
            (path("empty").as_str(), "has no lab.yaml"),
        ] {
            let error = find(&labs, named).unwrap_err().to_string();
            assert!(error.contains(says), "{named}: {error}");
        }
    }

    #[test]
    fn a_new_lab_is_made_among_the_others_or_where_the_path_says() {
        let labs = Path::new("labs");
        let made = |named: &str| {
            let (folder, slug) = make(labs, named).unwrap();
            format!("{} {slug}", folder.display())
        };
        assert_eq!(made("my-lab"), "labs my-lab");
        assert_eq!(made("./my-lab/"), ". my-lab");
        assert_eq!(made("course/my-lab"), "course my-lab");
        let error = make(labs, "..").unwrap_err().to_string();
        assert!(error.contains("../my-lab"), "{error}");
        assert!(make(labs, "./My Lab").is_err());
    }
}
