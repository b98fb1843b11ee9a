//! The bill of materials of an image: what is in it, in which version, under which licence, with which checksum, as
//! SPDX 2.3 JSON in the file `sbom.spdx.json` beside the disk.

use std::{fs, path::Path};

use faultline_launcher::snapshot::checksum;
use serde_json::{Value, json};

use crate::{
    Result, at,
    binaries::{MODULES, Module, Programs},
    recipe::Recipe,
};

/// The file beside the disk.
pub const FILE: &str = "sbom.spdx.json";

/// Writes the bill of an image whose root file system is at `root` into `folder`.
pub fn write(
    recipe: &Recipe,
    key: &str,
    root: &Path,
    programs: &Programs,
    folder: &Path,
) -> Result<()> {
    let mut packages = debian(root);
    for component in &recipe.binaries {
        for program in component.build.keys() {
            let Some(file) = programs.files.get(program) else {
                continue;
            };
            let mut package = package(program, &component.version, &component.licence);
            if let Some(fields) = package.as_object_mut() {
                let sum = at("disk", checksum(file))?;
                fields.insert(
                    "checksums".to_owned(),
                    json!([{ "algorithm": "SHA256", "checksumValue": sum }]),
                );
                fields.insert(
                    "supplier".to_owned(),
                    json!(format!("Organization: {}", component.name)),
                );
            }
            packages.push(package);
        }
        packages.extend(modules(programs, &component.name));
    }
    for container in &recipe.containers {
        let (name, version) = container
            .name
            .rsplit_once(':')
            .unwrap_or((&container.name, ""));
        packages.push(package(name, version, "NOASSERTION"));
    }
    packages.sort_by_key(|p| p.get("SPDXID").and_then(Value::as_str).map(str::to_owned));
    packages.dedup_by_key(|p| p.get("SPDXID").and_then(Value::as_str).map(str::to_owned));
    let bill = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": recipe.name,
        "documentNamespace": format!("https://faultline.dev/images/{}/{key}", recipe.name),
        // The image's content address stands for a date: the same content has the same bill.
        "creationInfo": { "created": "1970-01-01T00:00:00Z", "creators": ["Tool: faultline image"] },
        "packages": packages,
    });
    let text = serde_json::to_vec_pretty(&bill).unwrap_or_default();
    at("disk", fs::write(folder.join(FILE), text))
}

fn package(name: &str, version: &str, licence: &str) -> Value {
    let id: String = format!("{name}-{version}")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    json!({
        "SPDXID": format!("SPDXRef-{id}"),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "filesAnalyzed": false,
    })
}

/// What dpkg says is installed, with the licences that each package's copyright file names.
fn debian(root: &Path) -> Vec<Value> {
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap_or_default();
    status
        .split("\n\n")
        .filter_map(|paragraph| {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::trim)
            };
            let (name, version) = (field("Package:")?, field("Version:")?);
            let copyright = root.join("usr/share/doc").join(name).join("copyright");
            let text = fs::read_to_string(copyright).unwrap_or_default();
            let mut package = package(name, version, "NOASSERTION");
            package.as_object_mut()?.insert(
                "licenseComments".to_owned(),
                json!(licences(&text).join(", ")),
            );
            Some(package)
        })
        .collect()
}

/// The licences that a machine-readable Debian copyright file names. Their names are Debian's, not SPDX's.
fn licences(copyright: &str) -> Vec<&str> {
    let mut found: Vec<&str> = copyright
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn modules(programs: &Programs, component: &str) -> Vec<Value> {
    let Some(folder) = programs.folders.get(component) else {
        return Vec::new();
    };
    let modules: Vec<Module> = fs::read(folder.join(MODULES))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    modules
        .iter()
        .map(|module| {
            let mut package = package(&module.path, &module.version, &module.licence);
            if let Some(fields) = package.as_object_mut() {
                fields.insert(
                    "externalRefs".to_owned(),
                    json!([{ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                             "referenceLocator": format!("pkg:golang/{}@{}", module.path, module.version) }]),
                );
                fields.insert("comment".to_owned(), json!(format!("go.sum: {}", module.sum)));
            }
            package
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_listed_with_their_licences() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
        fs::create_dir_all(root.path().join("usr/share/doc/jq")).unwrap();
        fs::write(
            root.path().join("var/lib/dpkg/status"),
            "Package: jq\nStatus: install ok installed\nVersion: 1.6-2.1\n\nPackage: broken\n",
        )
        .unwrap();
        fs::write(
            root.path().join("usr/share/doc/jq/copyright"),
            "Files: *\nLicense: Expat\n\nFiles: docs\nLicense: CC-BY-3.0\n\nLicense: Expat\n text\n",
        )
        .unwrap();
        let found = debian(root.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["SPDXID"], "SPDXRef-jq-1.6-2.1");
        assert_eq!(found[0]["licenseComments"], "CC-BY-3.0, Expat");
    }
}
