//! What an image recipe says.

mod settle;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use faultline_domain::container::File;
use faultline_domain::container::{self, ContainerImage, is_absolute};
use serde::{Deserialize, Serialize};

pub use self::settle::Release;
use crate::{
    Error, Result,
    source::{Bases, Reference, Source},
};

/// A recipe: everything that an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The image's name; the file's name without `.yaml`. Of a family, without the version.
    pub name: String,
    /// What it is, in a line.
    pub summary: String,
    /// The versions of a family: `kubernetes.yaml` with a version `"1.36"` makes `kubernetes-1.36`. A version's
    /// values replace `{{key}}` all over the file and the files that it takes, and so does `{{version}}`.
    #[serde(default)]
    pub versions: BTreeMap<String, BTreeMap<String, String>>,
    /// Values by source, `modules` and `official`: they replace `{{key}}` too, where the two differ in more than where
    /// they come from.
    #[serde(default)]
    pub sources: Values,
    /// A recipe that this one continues: its packages, commands, files, units and warm-up come first.
    #[serde(default)]
    pub extends: Option<String>,
    /// The Debian suite.
    #[serde(default)]
    pub suite: String,
    /// Debian packages, a kernel among them.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Shell commands run as root inside the new root file system, after the packages were installed.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Programs that Debian doesn't have, or not in this version.
    #[serde(default)]
    pub binaries: Vec<Component>,
    /// Container images that each node's containerd has from the start.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// Files put into it.
    #[serde(default)]
    pub files: Vec<File>,
    /// systemd units that are started at boot.
    #[serde(default)]
    pub enable: Vec<String>,
    /// systemd units that are not, whatever their packages say.
    #[serde(default)]
    pub disable: Vec<String>,
    /// The machine it runs on.
    pub machine: MachineShape,
    /// The machine of a worker, where that needs less.
    #[serde(default)]
    pub worker: Option<MachineShape>,
    /// The minor version of the cluster that its bake makes, such as `"1.36"`: its API server answers on port 6443
    /// of node1, its keys lie where kubeadm puts them.
    #[serde(default)]
    pub kubernetes: Option<String>,
    /// What is done in the booted machines to bring them to the state that is frozen, step by step.
    #[serde(default)]
    pub bake: Vec<Step>,
    /// Prints, as JSON, what the cluster serves: schemas, namespaces, images, what its nodes have. It is kept beside the
    /// template, and the manifests of labs are linted against it.
    #[serde(default)]
    pub describe: Option<Step>,
    /// What brings a node that was added to a running environment into its cluster. `all` and `workers` are that
    /// node alone here, and its name is in `FAULTLINE_NODE`.
    #[serde(default)]
    pub join: Vec<Step>,
    /// What is done before a node is removed from a running environment; `FAULTLINE_NODE` is its name.
    #[serde(default)]
    pub leave: Vec<Step>,
    /// Shell commands run in each booted machine before it is frozen, so that what they read is in the memory
    /// that all clones share.
    #[serde(default)]
    pub warm: Vec<String>,
    /// What comes last: waits for the moment at which the machines are best frozen, three seconds from its end.
    #[serde(default)]
    pub moment: Vec<Step>,
    /// Gives a clone's cluster keys of its own, where the operator wants that: clones of a template share them.
    #[serde(default)]
    pub rekey: Vec<Step>,
    /// What must hold in a clone before anybody may enter.
    #[serde(default)]
    pub probe: Vec<Step>,
    /// The folder that it was read from.
    #[serde(skip)]
    pub folder: PathBuf,
    /// What it is made from.
    #[serde(skip)]
    pub source: Source,
    /// Mirrors and folders in the place of official hosts.
    #[serde(skip)]
    pub bases: Bases,
}

/// What replaces `{{key}}` in each source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Values {
    /// Built from Go modules.
    pub modules: BTreeMap<String, String>,
    /// Fetched as released.
    pub official: BTreeMap<String, String>,
}

/// Programs of one upstream project, built from its pinned Go module or fetched as it releases them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The project.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, an SPDX identifier.
    pub licence: String,
    /// The folder, beside the recipe, with the `go.mod` and `go.sum` that pin it.
    pub module: String,
    /// Program → Go package, or a C file that is all of the program.
    pub build: BTreeMap<String, String>,
    /// For the linker.
    #[serde(default)]
    pub ldflags: String,
    /// Build tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// True: with C.
    #[serde(default)]
    pub cgo: bool,
    /// The programs that nodes have, and where; the others are for container images alone.
    #[serde(default)]
    pub install: BTreeMap<String, String>,
    /// Versions of those of its programs that have another one.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// Where its official releases are, for those who would rather have that. Loaded for Go modules: none. Loaded for
    /// official releases: the one that all its programs come from, or none where they are built nevertheless.
    #[serde(default)]
    pub official: Vec<Official>,
}

/// Where an official release of a component is. In all of it `{program}` stands for the program's name, `{version}`
/// for the version and `{number}` for the version without its `v`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Official {
    /// The address of each program, or of an archive, or of a container image (`oci://<name>`) that has it.
    pub url: String,
    /// The address of its SHA-256, where `{url}` stands for what `url` says: a bare hash, or lines of hash and name.
    #[serde(default)]
    pub checksum: String,
    /// In an archive or an image: the program's path.
    #[serde(default)]
    pub member: Option<String>,
    /// The programs that it is for. None: those that no other release names.
    #[serde(default)]
    pub programs: Vec<String>,
    /// Its version, where that isn't the component's.
    #[serde(default)]
    pub version: Option<String>,
}

/// The official image that stands for a container image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficialImage {
    /// Its licence, an SPDX identifier.
    pub licence: String,
}

/// A container image: of one layer, or as its project releases it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its full name, with tag.
    pub name: String,
    /// Other full names of the same image.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Debian packages, unpacked. None: nothing but what is listed here.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Programs of the recipe's components, put into `/usr/local/bin`.
    #[serde(default)]
    pub binaries: Vec<String>,
    /// Files.
    #[serde(default)]
    pub files: Vec<File>,
    /// Shell commands run in it at the end; needs packages that bring a shell.
    #[serde(default)]
    pub commands: Vec<String>,
    /// What it runs.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// With these arguments, unless the pod says others.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Variables, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// The user's number.
    #[serde(default)]
    pub user: Option<u32>,
    /// Said: with official sources it is pulled by its name, and nothing else of what is said here is used.
    // Left out of what is hashed where it isn't said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub official: Option<OfficialImage>,
}

/// Which nodes a step is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// Every node, at the same time.
    #[default]
    All,
    /// The first node.
    First,
    /// The other control planes, one after the other.
    OtherControlPlanes,
    /// The workers, one after the other.
    Workers,
}

/// Something done in booted or cloned machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it does, for people.
    pub text: String,
    /// The nodes.
    #[serde(default)]
    pub on: On,
    /// Shell commands. They find the shape in `FAULTLINE_CONTROL_PLANES`, `FAULTLINE_WORKERS`, `FAULTLINE_STOCK` (not
    /// empty where the cluster is to be stock), and what earlier steps kept under the names they gave it.
    pub run: String,
    /// Keep what it prints, under this name, for the steps that follow.
    #[serde(default)]
    pub keep: Option<String>,
    /// How long it may take, in seconds. Ten minutes unless said.
    #[serde(default = "ten_minutes")]
    pub timeout_seconds: u32,
}

const fn ten_minutes() -> u32 {
    600
}

/// The machine that an image runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineShape {
    /// Processors of a node.
    pub vcpus: u32,
    /// Memory of a node, in MiB.
    pub memory_mib: u32,
    /// Disk of a node, in MiB.
    pub disk_mib: u32,
}

/// The part of a family's file that says its versions.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    versions: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    sources: Values,
}

impl Recipe {
    /// Reads the recipe with this name: `<name>.yaml`, or a version of a family. It is made from Go modules.
    pub fn load(folder: &Path, name: &str) -> Result<Self> {
        Self::load_for(folder, name, Source::Modules)
    }

    /// The same, made from this source.
    pub fn load_for(folder: &Path, name: &str, source: Source) -> Result<Self> {
        let mut recipe = Self::load_within(folder, name, source, 0)?;
        recipe.settle(source);
        Ok(recipe)
    }

    fn load_within(folder: &Path, name: &str, source: Source, depth: u32) -> Result<Self> {
        let missing = || Error::NoRecipe {
            name: name.to_owned(),
            folder: folder.to_owned(),
        };
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            && !name.starts_with('.');
        if !plain {
            return Err(missing());
        }
        if !folder.is_dir() {
            return Err(Error::NoFolder(folder.to_owned()));
        }
        let Text { path, text, values } = find(folder, name, source)?.ok_or_else(missing)?;
        let malformed = |text: String| Error::Malformed {
            path: path.clone(),
            text,
        };
        let mut recipe: Self = serde_saphyr::from_str(&substitute(&text, &values))
            .map_err(|e| malformed(e.to_string()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if recipe.name != stem {
            return Err(malformed(format!(
                "name is {:?}, but the file is {stem}.yaml; make them the same",
                recipe.name
            )));
        }
        name.clone_into(&mut recipe.name);
        recipe.versions.clear();
        recipe.sources = Values::default();
        folder.clone_into(&mut recipe.folder);
        let containers = recipe.containers.iter_mut().flat_map(|c| &mut c.files);
        for file in recipe.files.iter_mut().chain(containers) {
            fill(file, folder, &values).map_err(malformed)?;
        }
        if let Some(base) = recipe.extends.take() {
            if depth > 3 {
                return Err(malformed(format!(
                    "extends {base:?} goes round in a circle"
                )));
            }
            recipe.continue_from(Self::load_within(folder, &base, source, depth + 1)?);
        }
        recipe.validate(folder).map_err(malformed)?;
        Ok(recipe)
    }

    fn continue_from(&mut self, base: Self) {
        fn before<T>(own: &mut Vec<T>, mut base: Vec<T>) {
            base.append(own);
            *own = base;
        }
        if self.suite.is_empty() {
            self.suite = base.suite;
        }
        before(&mut self.packages, base.packages);
        before(&mut self.commands, base.commands);
        before(&mut self.binaries, base.binaries);
        before(&mut self.containers, base.containers);
        before(&mut self.files, base.files);
        before(&mut self.enable, base.enable);
        before(&mut self.disable, base.disable);
        before(&mut self.bake, base.bake);
        before(&mut self.join, base.join);
        before(&mut self.leave, base.leave);
        before(&mut self.warm, base.warm);
        before(&mut self.moment, base.moment);
        before(&mut self.rekey, base.rekey);
        before(&mut self.probe, base.probe);
    }

    fn validate(&self, folder: &Path) -> Result<(), String> {
        if !self.packages.iter().any(|p| p.starts_with("linux-image")) {
            return Err("packages has no kernel; add linux-image-cloud-amd64".to_owned());
        }
        container::validate_packages(&self.packages)?;
        container::validate_files(&self.files)?;
        let mut programs = Vec::new();
        for component in &self.binaries {
            if !folder.join(&component.module).join("go.mod").exists() {
                return Err(format!(
                    "component {} has no {}/go.mod",
                    component.name, component.module
                ));
            }
            for (program, place) in &component.install {
                if !component.build.contains_key(program) || !is_absolute(place) {
                    return Err(format!(
                        "component {} installs {program} at {place:?}: it must build it, and the folder be absolute",
                        component.name
                    ));
                }
            }
            for official in &component.official {
                if let Some(fault) = official.fault() {
                    return Err(format!("component {}, official: {fault}", component.name));
                }
                if let Some(unknown) = official
                    .programs
                    .iter()
                    .find(|p| !component.build.contains_key(*p))
                {
                    return Err(format!(
                        "component {} has an official {unknown}, but builds none",
                        component.name
                    ));
                }
            }
            programs.extend(component.build.keys());
        }
        for container in &self.containers {
            container.check()?;
            if container.official.is_some()
                && let Err(e) = Reference::parse(&container.name)
            {
                return Err(format!("container {}: {e}", container.name));
            }
            if let Some(unknown) = container.binaries.iter().find(|b| !programs.contains(b)) {
                return Err(format!(
                    "container {} wants {unknown}, which no component builds",
                    container.name
                ));
            }
            if !container.commands.is_empty() && container.packages.is_empty() {
                return Err(format!(
                    "container {} has commands, but no packages to run them with",
                    container.name
                ));
            }
        }
        for MachineShape {
            vcpus,
            memory_mib,
            disk_mib,
        } in [self.machine].into_iter().chain(self.worker)
        {
            if !(1..=16).contains(&vcpus)
                || !(128..=65536).contains(&memory_mib)
                || !(512..=262_144).contains(&disk_mib)
            {
                return Err("machine is out of bounds: vcpus 1 to 16, memory_mib 128 to 65536, disk_mib 512 to 262144".to_owned());
            }
        }
        if self
            .worker
            .is_some_and(|w| w.disk_mib != self.machine.disk_mib)
        {
            return Err(
                "worker.disk_mib must be machine.disk_mib: nodes share the image's disk".to_owned(),
            );
        }
        Ok(())
    }

    /// The names of all recipes in a folder, a family's versions one by one.
    pub fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| {
                let stem = e.file_name().to_str()?.strip_suffix(".yaml")?.to_owned();
                let text = std::fs::read_to_string(e.path()).ok()?;
                let head = serde_saphyr::from_str::<Head>(&text);
                let versions = head.map(|h| h.versions).unwrap_or_default();
                Some(if versions.is_empty() {
                    vec![stem]
                } else {
                    versions.keys().map(|v| format!("{stem}-{v}")).collect()
                })
            })
            .flatten()
            .collect();
        names.sort();
        names
    }
}

impl Container {
    /// Whether its name, packages and files are such.
    pub fn check(&self) -> Result<(), String> {
        container::validate_name(&self.name)?;
        container::validate_packages(&self.packages)?;
        container::validate_files(&self.files)
    }
}

impl From<ContainerImage> for Container {
    fn from(image: ContainerImage) -> Self {
        let ContainerImage {
            name,
            packages,
            files,
            entrypoint,
            cmd,
            env,
            user,
        } = image;
        Self {
            name,
            packages,
            files,
            entrypoint,
            cmd,
            env,
            user,
            ..Self::default()
        }
    }
}

/// Takes a file's content from the file that it names.
fn fill(file: &mut File, folder: &Path, values: &BTreeMap<String, String>) -> Result<(), String> {
    let Some(source) = file.source.take() else {
        return Ok(());
    };
    if !file.content.is_empty() {
        return Err(format!("{} has both content and source", file.path));
    }
    if !is_absolute(&format!("/{source}")) {
        return Err(format!("source {source:?} leaves the recipes' folder"));
    }
    let text = std::fs::read_to_string(folder.join(&source))
        .map_err(|e| format!("source {source} can't be read: {e}"))?;
    file.content = substitute(&text, values);
    Ok(())
}

/// The file of a recipe, its text, and what replaces its `{{keys}}`.
struct Text {
    path: PathBuf,
    text: String,
    values: BTreeMap<String, String>,
}

fn find(folder: &Path, name: &str, source: Source) -> Result<Option<Text>> {
    let head = |path: &Path, text: &str| -> Result<Head> {
        serde_saphyr::from_str(text).map_err(|e| Error::Malformed {
            path: path.to_owned(),
            text: e.to_string(),
        })
    };
    let of_source = |sources: Values| match source {
        Source::Modules => sources.modules,
        Source::Official => sources.official,
    };
    let path = folder.join(format!("{name}.yaml"));
    if let Ok(text) = std::fs::read_to_string(&path) {
        let values = of_source(head(&path, &text)?.sources);
        return Ok(Some(Text { path, text, values }));
    }
    let Some((family, version)) = name.rsplit_once('-') else {
        return Ok(None);
    };
    let path = folder.join(format!("{family}.yaml"));
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(None);
    };
    let mut head = head(&path, &text)?;
    Ok(head.versions.remove(version).map(|mut values| {
        values.insert("version".to_owned(), version.to_owned());
        values.extend(of_source(head.sources));
        Text { path, text, values }
    }))
}

fn substitute(text: &str, values: &BTreeMap<String, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (key, value)| {
        text.replace(&format!("{{{{{key}}}}}"), value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Recipe> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.yaml"), text).unwrap();
        Recipe::load(dir.path(), "x")
    }

    const GOOD: &str = "name: x\nsummary: s\nsuite: bookworm\npackages: [linux-image-cloud-amd64]\nmachine: {vcpus: 1, memory_mib: 256, disk_mib: 1024}\n";

    #[test]
    fn a_recipe_is_read() {
        assert_eq!(load(GOOD).unwrap().machine.memory_mib, 256);
    }

    #[test]
    fn faults_are_named() {
        for (text, word) in [
            (GOOD.replace("name: x", "name: y"), "x.yaml"),
            (
                GOOD.replace("[linux-image-cloud-amd64]", "[bash]"),
                "kernel",
            ),
            (GOOD.replace("vcpus: 1", "vcpus: 0"), "bounds"),
            (
                format!("{GOOD}files: [{{path: ../a, content: b}}]\n"),
                "absolute",
            ),
            (format!("{GOOD}colour: red\n"), "colour"),
            ("{".to_owned(), "x.yaml"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_family_has_versions_and_continues_another() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("x.yaml", GOOD);
        write("motd.txt", "this is {{version}}\n");
        write(
            "k.yaml",
            "name: k\nsummary: K {{version}}\nextends: x\nversions:\n  \"1.1\": {full: v1.1.7}\n  \"1.2\": {full: v1.2.0}\n\
             packages: [\"k={{full}}\"]\nfiles: [{path: /etc/motd, source: motd.txt}]\n\
             machine: {vcpus: 2, memory_mib: 2048, disk_mib: 1024}\n"
                .replace("k={{full}}", "k-{{full}}")
                .as_str(),
        );
        let recipe = Recipe::load(dir.path(), "k-1.1").unwrap();
        assert_eq!(recipe.name, "k-1.1");
        assert_eq!(recipe.packages, ["linux-image-cloud-amd64", "k-v1.1.7"]);
        assert_eq!(recipe.files[0].content, "this is 1.1\n");
        assert_eq!(recipe.suite, "bookworm");
        assert!(matches!(
            Recipe::load(dir.path(), "k-1.3"),
            Err(Error::NoRecipe { .. })
        ));
        assert_eq!(Recipe::names(dir.path()), ["k-1.1", "k-1.2", "x"]);
        write("y.yaml", &GOOD.replace("name: x", "name: y\nextends: y"));
        let error = Recipe::load(dir.path(), "y").unwrap_err().to_string();
        assert!(error.contains("circle"), "{error}");
    }

    #[test]
    fn names_do_not_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Recipe::load(dir.path(), "../x"),
            Err(Error::NoRecipe { .. })
        ));
    }

    #[test]
    fn what_joins_a_cluster_does_what_its_bake_did() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
        for name in Recipe::names(&folder) {
            let recipe = Recipe::load(&folder, &name).unwrap();
            assert_eq!(
                recipe.kubernetes.is_some(),
                !recipe.join.is_empty(),
                "{name}"
            );
            let of_bake = |step: &&Step| recipe.bake.contains(step);
            assert_eq!(
                recipe.join.iter().filter(of_bake).count(),
                if recipe.kubernetes.is_some() { 3 } else { 0 },
                "{name}: preparing the node, a token, kubeadm join"
            );
        }
    }
}
