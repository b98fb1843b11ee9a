//! The stage `binaries`: the programs of a recipe's components, built from pinned Go modules or fetched as official
//! releases ([`crate::sources::release`]).
//!
//! A component's result folder contains its programs and the input for the image's bill of materials: `modules.json`
//! lists the Go modules that are linked into built programs, with version, checksum and licence; `origins.json` records
//! where fetched programs came from.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use faultline_domain::progress::{Progress, Stage};
use serde::{Deserialize, Serialize};

use crate::{
    Result, at,
    cache::{self, Cache, Key},
    go,
    recipe::{Component, Recipe},
    run,
    sources::release,
};

const STAGE: &str = "binaries";
/// Part of the key. Raised when the way that official releases are fetched changes.
const RELEASES: &str = "1";
/// The file next to the programs that lists their Go modules.
pub const MODULES: &str = "modules.json";

/// The programs of all components of a recipe.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// The file of each program.
    pub files: BTreeMap<String, PathBuf>,
    /// The result folder of each component.
    pub folders: BTreeMap<String, PathBuf>,
}

/// A Go module that is linked into a program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Module {
    /// The module path.
    pub path: String,
    /// The version.
    pub version: String,
    /// The checksum, as in `go.sum`.
    pub sum: String,
    /// The licence, as an SPDX identifier, or `NOASSERTION` if its text is not recognized.
    pub licence: String,
}

/// Returns the content address of a component's programs. `go` is the version of Go, used if they are built.
pub fn key(recipe: &Recipe, component: &Component, go: &str) -> Result<String> {
    if !component.official.is_empty() {
        let programs: Vec<_> = component.build.keys().collect();
        return Ok(Key::default()
            .with("official", RELEASES)
            .with(
                "what",
                serde_json::to_vec(&(&component.official, &component.version, programs))
                    .unwrap_or_default(),
            )
            .finish());
    }
    let mut key = Key::default()
        .with("go", go)
        .with("experiment", go::experiment(go))
        .with("build", format!("{:?}", component.build))
        .with("ldflags", &component.ldflags)
        .with("tags", component.tags.join(" "))
        .with("cgo", component.cgo.to_string());
    for (name, content) in at(STAGE, sources(&recipe.folder.join(&component.module)))? {
        key = key.with(&name, content);
    }
    Ok(key.finish())
}

/// Reads the files of a module's folder, by relative path.
fn sources(folder: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path);
                found.insert(name.to_string_lossy().into_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

/// Returns the keys of all components, by name, without building anything.
pub fn keys(recipe: &Recipe) -> Result<BTreeMap<String, String>> {
    let builds = recipe.binaries.iter().any(|c| c.official.is_empty());
    let go = if builds {
        go::version()?
    } else {
        String::new()
    };
    recipe
        .binaries
        .iter()
        .map(|c| Ok((c.name.clone(), key(recipe, c, &go)?)))
        .collect()
}

/// Builds or fetches the programs of all components unless they are in the cache. Blocking; takes minutes the first
/// time.
pub fn build(recipe: &Recipe, cache: &Cache, progress: &Progress) -> Result<Programs> {
    let mut programs = Programs::default();
    let keys = keys(recipe)?;
    for component in &recipe.binaries {
        let key = keys.get(&component.name).map_or("", String::as_str);
        let folder = build_one(recipe, component, key, cache, progress)?;
        for program in component.build.keys() {
            programs.files.insert(program.clone(), folder.join(program));
        }
        programs.folders.insert(component.name.clone(), folder);
    }
    Ok(programs)
}

fn build_one(
    recipe: &Recipe,
    component: &Component,
    key: &str,
    cache: &Cache,
    progress: &Progress,
) -> Result<PathBuf> {
    let official = component.official.first();
    let verb = if official.is_some() {
        "Fetching"
    } else {
        "Building"
    };
    let stage = progress.stage(
        format!("{STAGE} {}", component.name),
        format!("{verb} {} {}", component.name, component.version),
    );
    if let Some(folder) = cache.get(STAGE, key) {
        stage.cached();
        return Ok(folder);
    }
    let _lock = at(STAGE, cache.lock(STAGE, key))?;
    if let Some(folder) = cache.get(STAGE, key) {
        stage.cached();
        return Ok(folder);
    }
    let draft = at(STAGE, cache.draft(STAGE, key))?;
    match official {
        Some(official) => {
            release::fetch(recipe, component, official, &draft, cache, &stage, STAGE)?;
        }
        None => compile(recipe, component, &draft, cache, &stage)?,
    }
    let folder = at(STAGE, cache.keep(&draft, STAGE, key))?;
    stage.done();
    Ok(folder)
}

fn compile(
    recipe: &Recipe,
    component: &Component,
    draft: &Path,
    cache: &Cache,
    stage: &Stage,
) -> Result<()> {
    let count = component.build.len();
    let log = draft.join("log");
    let (of_go, keys) = cache::GO;
    let mut locks = Vec::new();
    for key in keys {
        locks.push(at(STAGE, cache.lock(of_go, key))?);
        let _ = cache.get(of_go, key); // mark it as used
    }
    let module = at(
        STAGE,
        fs::canonicalize(recipe.folder.join(&component.module)),
    )?;
    let go = go::version()?;
    for (done, (program, package)) in component.build.iter().enumerate() {
        stage.part(done, count, format!("{program}, {} of {count}", done + 1));
        let mut command = if package.ends_with(".c") {
            let mut command = Command::new("cc");
            command.current_dir(&module).args(["-Os", "-static", "-s"]);
            command
        } else {
            let mut command = go::with_caches(&module, cache);
            command
                .env("CGO_ENABLED", if component.cgo { "1" } else { "0" })
                .env("GOEXPERIMENT", go::experiment(&go))
                .args(["build", "-trimpath", "-ldflags", &component.ldflags])
                .args(["-tags", &component.tags.join(",")]);
            command
        };
        command.arg("-o").arg(draft.join(program)).arg(package);
        run(STAGE, &mut command, &log)?;
    }
    stage.update(Some(0.99), "listing its modules");
    let modules = modules(&module, draft, cache, component)?;
    let text = serde_json::to_vec_pretty(&modules).unwrap_or_default();
    at(STAGE, fs::write(draft.join(MODULES), text))
}

/// Returns the modules linked into the programs according to `go version -m`, with the licence of each module's source.
fn modules(
    module: &Path,
    draft: &Path,
    cache: &Cache,
    component: &Component,
) -> Result<Vec<Module>> {
    let text = |command: &mut Command| -> Result<String> {
        let out = at(STAGE, command.output())?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let places: BTreeMap<String, PathBuf> = text(go::with_caches(module, cache).args([
        "list",
        "-m",
        "-f",
        "{{.Path}} {{.Dir}}",
        "all",
    ]))?
    .lines()
    .filter_map(|line| line.split_once(' '))
    .filter(|(_, folder)| !folder.is_empty())
    .map(|(path, folder)| (path.to_owned(), PathBuf::from(folder)))
    .collect();
    let programs = component.build.keys().map(|program| draft.join(program));
    let said = text(
        go::with_caches(module, cache)
            .args(["version", "-m"])
            .args(programs),
    )?;
    let mut found: Vec<Module> = linked(&said)
        .into_iter()
        .map(|(path, version, sum)| Module {
            licence: places
                .get(&path)
                .map_or("NOASSERTION", |folder| licence_in(folder))
                .to_owned(),
            path,
            version,
            sum,
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Parses the output of `go version -m` into path, version and checksum of each module. For a replaced module, version
/// and checksum are those of the replacement.
fn linked(said: &str) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    for line in said.lines() {
        let mut words = line.trim().split('\t');
        let (kind, path, version, sum) = (words.next(), words.next(), words.next(), words.next());
        match (kind, path, version) {
            (Some("dep"), Some(path), Some(version)) => found.push((
                path.to_owned(),
                version.to_owned(),
                sum.unwrap_or_default().to_owned(),
            )),
            (Some("=>"), Some(_), Some(version)) => {
                if let Some(last) = found.last_mut() {
                    version.clone_into(&mut last.1);
                    sum.unwrap_or_default().clone_into(&mut last.2);
                }
            }
            _ => {}
        }
    }
    found
}

/// Returns the licence of a source folder, recognized by phrases that are unique to each licence's text.
fn licence_in(folder: &Path) -> &'static str {
    let text: String = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| {
            let name = e.file_name().to_string_lossy().to_ascii_uppercase();
            ["LICENSE", "LICENCE", "COPYING"]
                .iter()
                .any(|word| name.starts_with(word))
        })
        .filter_map(|e| fs::read_to_string(e.path()).ok())
        .collect();
    licence_of(&text)
}

fn licence_of(text: &str) -> &'static str {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |words: &str| flat.contains(words);
    if has("Apache License") && has("Version 2.0") {
        "Apache-2.0"
    } else if has("Mozilla Public License") && has("2.0") {
        "MPL-2.0"
    } else if has("Permission to use, copy, modify, and/or distribute") || has("ISC License") {
        "ISC"
    } else if has("Redistribution and use in source and binary forms") {
        if has("Neither the name") || has("names of its contributors") {
            "BSD-3-Clause"
        } else {
            "BSD-2-Clause"
        }
    } else if has("Permission is hereby granted, free of charge") {
        "MIT"
    } else if has("free and unencumbered software") {
        "Unlicense"
    } else {
        "NOASSERTION"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_read_with_its_replacement() {
        let said = "/x/kubelet: go1.26\n\tpath\tk8s.io/kubernetes/cmd/kubelet\n\tmod\tx\t(devel)\t\n\
                    \tdep\tgithub.com/a/b\tv1.0.0\th1:aa=\n\tdep\tk8s.io/api\tv0.0.0\n\t=>\tk8s.io/api\tv0.36.3\th1:bb=\n";
        assert_eq!(
            linked(said),
            [
                (
                    "github.com/a/b".to_owned(),
                    "v1.0.0".to_owned(),
                    "h1:aa=".to_owned()
                ),
                (
                    "k8s.io/api".to_owned(),
                    "v0.36.3".to_owned(),
                    "h1:bb=".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn licences_are_told_apart() {
        for (text, spdx) in [
            ("Apache License\n  Version 2.0, January 2004", "Apache-2.0"),
            (
                "Redistribution and use in source and binary forms … Neither the name of",
                "BSD-3-Clause",
            ),
            (
                "Redistribution and use in source\nand binary forms, with or without",
                "BSD-2-Clause",
            ),
            (
                "Permission is hereby granted, free of charge, to any",
                "MIT",
            ),
            ("all rights reserved", "NOASSERTION"),
        ] {
            assert_eq!(licence_of(text), spdx);
        }
    }
}
