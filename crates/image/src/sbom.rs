//! The bill of materials of an image: its contents with version, licence and checksum, as SPDX 2.3 JSON in the file
//! `sbom.spdx.json` next to the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use faultline_launcher::snapshot::checksum;
use serde_json::{Value, json};

use crate::{
    Result, at,
    binaries::{MODULES, Module, Programs},
    recipe::{Container, Recipe},
    source::{Origin, origins},
};

/// The name of the file next to the disk.
pub const FILE: &str = "sbom.spdx.json";

/// The file in a result's folder that lists its Debian packages: name, version, SHA-256.
pub(crate) const DEBS: &str = "debs";
/// The file in a container image's folder that lists the licences of each package.
const LICENCES: &str = "licences.json";

/// Writes the bill of materials of an image whose root file system is at `root` into `folder`.
pub fn write(
    recipe: &Recipe,
    key: &str,
    root: &Path,
    rootfs: &Path,
    programs: &Programs,
    archives: &[PathBuf],
    folder: &Path,
) -> Result<()> {
    let mut packages = debian(root, &sums(rootfs));
    let whole = package(&recipe.name, key, "NOASSERTION");
    let document = json!({ "SPDXID": "SPDXRef-DOCUMENT" });
    let mut relations = vec![relation(&document, "DESCRIBES", &whole)];
    packages.push(whole);
    let mut made = BTreeMap::new();
    for component in &recipe.binaries {
        let fetched = programs.folders.get(&component.name);
        let fetched = fetched.map(|folder| origins(folder)).unwrap_or_default();
        for program in component.build.keys() {
            let Some(file) = programs.files.get(program) else {
                continue;
            };
            let version = component
                .versions
                .get(program)
                .unwrap_or(&component.version);
            let mut package = package(program, version, &component.licence);
            set_sum(&mut package, &at("disk", checksum(file))?);
            if let Some(fields) = package.as_object_mut() {
                fields.insert(
                    "supplier".to_owned(),
                    json!(format!("Organization: {}", component.name)),
                );
                if let Some(origin) = fetched.get(program) {
                    fields.insert("downloadLocation".to_owned(), json!(origin.url));
                    let comment = format!("fetched: SHA-256 {}", origin.sha256);
                    fields.insert("comment".to_owned(), json!(comment));
                }
            }
            made.insert(program.as_str(), package.clone());
            packages.push(package);
        }
        packages.extend(modules(programs, &component.name));
    }
    for (container, archive) in recipe.containers.iter().zip(archives) {
        let pulled = archive.parent().map(origins).unwrap_or_default();
        let mut image = at(
            "disk",
            image(container, archive, pulled.get(&container.name)),
        )?;
        let debs = archive.parent().map(unpacked).unwrap_or_default();
        if container.official.is_none() {
            let programs = container.binaries.iter();
            let programs: Vec<&Value> = programs.filter_map(|p| made.get(p.as_str())).collect();
            for part in programs.iter().copied().chain(&debs) {
                relations.push(relation(&image, "CONTAINS", part));
            }
            if let Some(fields) = image.as_object_mut() {
                let contained = contained(&programs, &debs);
                fields.insert("licenseComments".to_owned(), json!(contained));
            }
        }
        packages.extend(debs);
        packages.push(image);
    }
    let helper = root.join("usr/lib/faultline/faultline-guest");
    if helper.exists() {
        let mut package = package("faultline-guest", env!("CARGO_PKG_VERSION"), "Apache-2.0");
        set_sum(&mut package, &at("disk", checksum(&helper))?);
        packages.push(package);
    }
    packages.sort_by_key(|p| p.get("SPDXID").and_then(Value::as_str).map(str::to_owned));
    packages.dedup_by_key(|p| p.get("SPDXID").and_then(Value::as_str).map(str::to_owned));
    let bill = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": recipe.name,
        "documentNamespace": format!("https://faultline.dev/images/{}/{key}", recipe.name),
        // A fixed date, so that the same content has the same bill of materials.
        "creationInfo": { "created": "1970-01-01T00:00:00Z", "creators": ["Tool: faultline image"] },
        "packages": packages,
        "relationships": relations,
    });
    let text = serde_json::to_vec_pretty(&bill).unwrap_or_default();
    at("disk", fs::write(folder.join(FILE), text))
}

fn relation(from: &Value, kind: &str, to: &Value) -> Value {
    json!({
        "spdxElementId": from.get("SPDXID"),
        "relationshipType": kind,
        "relatedSpdxElement": to.get("SPDXID"),
    })
}

/// Returns the licences of the contents of a container image that was built here.
fn contained(programs: &[&Value], debs: &[Value]) -> String {
    let of_programs = programs.iter().filter_map(|p| p.get("licenseDeclared"));
    let of_debs = debs.iter().filter_map(|p| p.get("licenseComments"));
    let named = of_programs.chain(of_debs).filter_map(Value::as_str);
    let licences: BTreeSet<&str> = named.flat_map(|l| l.split(", ")).collect();
    let licences: Vec<&str> = licences.into_iter().collect();
    format!("those of what it contains: {}", licences.join(", "))
}

fn set_sum(package: &mut Value, sha256: &str) {
    if let Some(fields) = package.as_object_mut() {
        let sum = json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
        fields.insert("checksums".to_owned(), sum);
    }
}

/// Describes a container image: by its digest if it was pulled, otherwise by the checksum of its archive.
fn image(container: &Container, archive: &Path, origin: Option<&Origin>) -> io::Result<Value> {
    let (name, version) = container
        .name
        .rsplit_once(':')
        .unwrap_or((&container.name, ""));
    let licence = container.official.as_ref().map(|o| o.licence.as_str());
    let mut package = package(name, version, licence.unwrap_or("NOASSERTION"));
    let sum = origin.map_or_else(|| checksum(archive), |o| Ok(o.sha256.clone()))?;
    set_sum(&mut package, &sum);
    if let (Some(origin), Some(fields)) = (origin, package.as_object_mut()) {
        let short = name.rsplit('/').next().unwrap_or(name);
        let purl = format!(
            "pkg:oci/{short}@sha256%3A{}?repository_url={name}&tag={version}",
            origin.sha256
        );
        fields.insert("downloadLocation".to_owned(), json!(origin.url));
        fields.insert(
            "externalRefs".to_owned(),
            json!([{ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl }]),
        );
    }
    Ok(package)
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

/// Reads the checksums of a result's Debian packages, by name and version.
fn sums(folder: &Path) -> BTreeMap<(String, String), String> {
    let lines = fs::read_to_string(folder.join(DEBS)).unwrap_or_default();
    lines
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            Some(((words.next()?, words.next()?), words.next()?))
        })
        .collect()
}

/// Records the licences of a container image's packages while their copyright files are available.
pub(crate) fn keep_licences(root: &Path, folder: &Path) -> io::Result<()> {
    let named: BTreeMap<String, Vec<String>> = sums(folder)
        .into_keys()
        .map(|(name, _)| {
            let found = licences_of(root, &name);
            (name, found)
        })
        .collect();
    let text = serde_json::to_vec_pretty(&named).unwrap_or_default();
    fs::write(folder.join(LICENCES), text)
}

/// Describes the Debian packages of a container image.
fn unpacked(folder: &Path) -> Vec<Value> {
    let text = fs::read(folder.join(LICENCES)).unwrap_or_default();
    let licences: BTreeMap<String, Vec<String>> = serde_json::from_slice(&text).unwrap_or_default();
    let debs = sums(folder);
    debs.into_iter()
        .map(|((name, version), sum)| {
            let none = Vec::new();
            deb(
                &name,
                &version,
                licences.get(&name).unwrap_or(&none),
                Some(&sum),
            )
        })
        .collect()
}

fn deb(name: &str, version: &str, licences: &[String], sum: Option<&String>) -> Value {
    let mut package = package(name, version, "NOASSERTION");
    if let Some(sum) = sum {
        set_sum(&mut package, sum);
    }
    if let Some(fields) = package.as_object_mut() {
        fields.insert("licenseComments".to_owned(), json!(licences.join(", ")));
    }
    package
}

/// Returns the licences of a package. If its copyright file has none in machine-readable form, returns a pointer to the
/// file.
fn licences_of(root: &Path, name: &str) -> Vec<String> {
    let copyright = Path::new("usr/share/doc").join(name).join("copyright");
    let text = fs::read_to_string(root.join(&copyright)).unwrap_or_default();
    match &*licences(&text) {
        [] => vec![format!("see /{}", copyright.display())],
        named => named.iter().map(|l| (*l).to_owned()).collect(),
    }
}

/// Describes the packages that dpkg lists as installed, with the licences in each package's copyright file.
fn debian(root: &Path, sums: &BTreeMap<(String, String), String>) -> Vec<Value> {
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
            let sum = sums.get(&(name.to_owned(), version.to_owned()));
            Some(deb(name, version, &licences_of(root, name), sum))
        })
        .collect()
}

/// Returns the licences in a machine-readable Debian copyright file, or the common licences that another copyright file
/// refers to. The names are Debian's, not SPDX's.
fn licences(copyright: &str) -> Vec<&str> {
    let fields = copyright
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .map(str::trim);
    let mut found: BTreeSet<&str> = fields.filter(|name| !name.is_empty()).collect();
    if found.is_empty() {
        let others = copyright.split("/usr/share/common-licenses/").skip(1);
        let ends = |c: char| !(c.is_ascii_alphanumeric() || "-.+".contains(c));
        let names = others.filter_map(|rest| rest.split(ends).next());
        found = names.map(|name| name.trim_end_matches('.')).collect();
    }
    found.into_iter().collect()
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
        let debs = format!("jq 1.6-2.1 {}\nother 1 x\n", "c".repeat(64));
        fs::write(root.path().join(DEBS), debs).unwrap();
        let found = debian(root.path(), &sums(root.path()));
        assert_eq!(found[0]["checksums"][0]["checksumValue"], "c".repeat(64));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["SPDXID"], "SPDXRef-jq-1.6-2.1");
        assert_eq!(found[0]["licenseComments"], "CC-BY-3.0, Expat");
    }

    #[test]
    fn licences_are_found_in_copyright_files_of_either_form() {
        assert_eq!(
            licences("License: Expat\n see /usr/share/common-licenses/GPL-2"),
            ["Expat"]
        );
        let prose = "is in `/usr/share/common-licenses/LGPL-2.1'.\nand in /usr/share/common-licenses/GPL-2.\n";
        assert_eq!(licences(prose), ["GPL-2", "LGPL-2.1"]);
        let none = tempfile::tempdir().unwrap();
        let said = licences_of(none.path(), "tcpdump");
        assert_eq!(said, ["see /usr/share/doc/tcpdump/copyright"]);
    }

    #[test]
    fn what_was_fetched_is_listed_with_its_address_and_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe: Recipe = serde_saphyr::from_str(
            "name: k\nsummary: s\nmachine: {vcpus: 1, memory_mib: 256, disk_mib: 1024}\n\
             binaries:\n- {name: runc, version: v1.4.0, licence: Apache-2.0, module: m, build: {runc: .}, install: {runc: /bin},\n\
             \x20 official: [{url: \"https://h/runc\", checksum: \"{url}.sha256\"}]}\n\
             containers:\n- {name: \"r.example/group/tool:v1\", official: {licence: MIT}}\n- {name: \"r.example/own:v1\", binaries: [runc]}\n",
        )
        .unwrap();
        recipe.settle(crate::source::Source::Official);
        let programs = Programs {
            files: [("runc".to_owned(), dir.path().join("runc"))].into(),
            folders: [("runc".to_owned(), dir.path().to_owned())].into(),
        };
        fs::write(dir.path().join("runc"), "#!/bin/sh\n").unwrap();
        let origin = |url: &str, sum: &str| json!({"url": url, "sha256": sum.repeat(64)});
        let origins = json!({
            "runc": origin("https://h/runc", "a"),
            "r.example/group/tool:v1": origin("https://r.example/v2/group/tool/manifests/x", "b"),
        });
        fs::write(dir.path().join(crate::source::ORIGINS), origins.to_string()).unwrap();
        let own = dir.path().join("own/image.tar");
        fs::create_dir_all(dir.path().join("own/usr/share/doc/redis")).unwrap();
        fs::write(
            dir.path().join("own/usr/share/doc/redis/copyright"),
            "License: BSD-3-clause\n",
        )
        .unwrap();
        let folder = own.parent().unwrap();
        fs::write(
            folder.join(DEBS),
            format!("redis 7.0-1 {}\n", "d".repeat(64)),
        )
        .unwrap();
        keep_licences(folder, folder).unwrap();
        fs::write(&own, "the image").unwrap();
        let sum = checksum(&own).unwrap();
        let (at, none) = (dir.path(), PathBuf::new());
        let archives = [at.join("image.tar"), own];
        write(&recipe, "key", at, &none, &programs, &archives, at).unwrap();
        let bill: Value =
            serde_json::from_slice(&fs::read(dir.path().join(FILE)).unwrap()).unwrap();
        let of = |name: &str| {
            let all = bill["packages"].as_array().unwrap();
            all.iter().find(|p| p["name"] == name).unwrap().clone()
        };
        let runc = of("runc");
        assert_eq!(runc["downloadLocation"], "https://h/runc");
        assert_eq!(runc["licenseDeclared"], "Apache-2.0");
        assert_eq!(
            runc["comment"],
            format!("fetched: SHA-256 {}", "a".repeat(64))
        );
        let tool = of("r.example/group/tool");
        assert_eq!(tool["licenseDeclared"], "MIT");
        assert_eq!(tool["checksums"][0]["checksumValue"], "b".repeat(64));
        assert_eq!(
            tool["externalRefs"][0]["referenceLocator"],
            format!(
                "pkg:oci/tool@sha256%3A{}?repository_url=r.example/group/tool&tag=v1",
                "b".repeat(64)
            )
        );
        let own = of("r.example/own");
        assert_eq!(own["downloadLocation"], "NOASSERTION");
        assert_eq!(own["checksums"][0]["checksumValue"], sum);
        let redis = of("redis");
        assert_eq!(redis["licenseComments"], "BSD-3-clause");
        assert_eq!(redis["checksums"][0]["checksumValue"], "d".repeat(64));
        let whole = json!({"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
            "relatedSpdxElement": "SPDXRef-k-key"});
        let inside = |part: &Value| {
            json!({"spdxElementId": own["SPDXID"], "relationshipType": "CONTAINS",
            "relatedSpdxElement": part["SPDXID"]})
        };
        let all = json!([whole, inside(&runc), inside(&redis)]);
        assert_eq!(bill["relationships"], all);
        let licences = "those of what it contains: Apache-2.0, BSD-3-clause";
        assert_eq!(own["licenseComments"], licences);
    }
}
