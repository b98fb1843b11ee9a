//! The types of an image recipe.

mod settle;

use std::{
    collections::BTreeMap,
    fmt,
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

/// A recipe: the description of everything that an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The image's name, which is the file's name without `.yaml`. For a family, the name without the version.
    pub name: String,
    /// A one-line description.
    pub summary: String,
    /// The versions of a family: `kubernetes.yaml` with a version `"1.36"` defines the image `kubernetes-1.36`. In the
    /// recipe and in the files that it includes, each `{{key}}` is replaced by the version's value for it, and
    /// `{{version}}` by the version.
    #[serde(default)]
    pub versions: BTreeMap<String, BTreeMap<String, String>>,
    /// Values that replace `{{key}}` depending on the source, for images whose content differs between sources.
    #[serde(default)]
    pub sources: Values,
    /// The recipe that this one extends. The packages, commands, files, units and steps of that recipe come first.
    #[serde(default)]
    pub extends: Option<String>,
    /// The Debian suite.
    #[serde(default)]
    pub suite: String,
    /// The Debian packages to install. They must include a kernel.
    #[serde(default)]
    pub packages: Vec<String>,
    /// The shell commands to run as root in the new root file system, after the packages are installed.
    #[serde(default)]
    pub commands: Vec<String>,
    /// The programs that Debian lacks or has in another version.
    #[serde(default)]
    pub binaries: Vec<Component>,
    /// The container images that are loaded into each node's containerd.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// The files to add.
    #[serde(default)]
    pub files: Vec<File>,
    /// The systemd units to start at boot.
    #[serde(default)]
    pub enable: Vec<String>,
    /// The systemd units not to start at boot, even if their packages enable them.
    #[serde(default)]
    pub disable: Vec<String>,
    /// The machine of a node.
    pub machine: MachineShape,
    /// The machine of a worker. Default: `machine`.
    #[serde(default)]
    pub worker: Option<MachineShape>,
    /// The Kubernetes minor version of the cluster that the bake steps create, such as `"1.36"`. Its API server must
    /// listen on port 6443 of node1, and its keys must be where kubeadm puts them. Default: no cluster.
    #[serde(default)]
    pub kubernetes: Option<String>,
    /// The steps that bring the booted machines to the state that is frozen.
    #[serde(default)]
    pub bake: Vec<BakeStep>,
    /// A step that prints a JSON description of the cluster: its schemas, namespaces and images, and what its nodes
    /// have. The description is stored with the template, and `faultline lab lint` checks the labs' manifests against
    /// it.
    #[serde(default)]
    pub describe: Option<BakeStep>,
    /// The steps that join a node to the cluster of a running environment. Here `all` and `workers` are that node only,
    /// and `FAULTLINE_NODE` is its name.
    #[serde(default)]
    pub join: Vec<BakeStep>,
    /// The steps before a node is removed from a running environment. `FAULTLINE_NODE` is its name.
    #[serde(default)]
    pub leave: Vec<BakeStep>,
    /// The shell commands to run in each booted machine before it is frozen, so that the files that they read are in
    /// the memory that all clones share.
    #[serde(default)]
    pub warm: Vec<String>,
    /// The steps that wait for the best moment to freeze the machines. They are frozen three seconds after the last
    /// step.
    #[serde(default)]
    pub moment: Vec<BakeStep>,
    /// The steps that give a clone's cluster its own keys, if the operator enables that. By default the clones of a
    /// template share their keys.
    #[serde(default)]
    pub rekey: Vec<BakeStep>,
    /// The steps that must succeed in a clone before it can be used.
    #[serde(default)]
    pub probe: Vec<BakeStep>,
    /// The folder that the recipe was read from.
    #[serde(skip)]
    pub folder: PathBuf,
    /// The source of its programs and container images.
    #[serde(skip)]
    pub source: Source,
    /// The mirrors and folders to use instead of official hosts.
    #[serde(skip)]
    pub bases: Bases,
}

/// The values of `{{key}}` for each source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Values {
    /// The values for programs built from Go modules.
    pub modules: BTreeMap<String, String>,
    /// The values for official releases.
    pub official: BTreeMap<String, String>,
}

/// The programs of an upstream project, built from a pinned Go module or fetched as official releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The project's name.
    pub name: String,
    /// The version.
    pub version: String,
    /// The licence, as an SPDX identifier.
    pub licence: String,
    /// The folder, relative to the recipe's, with the `go.mod` and `go.sum` that pin the module.
    pub module: String,
    /// The Go package of each program, or the single C file that it is compiled from.
    pub build: BTreeMap<String, String>,
    /// The linker flags.
    #[serde(default)]
    pub ldflags: String,
    /// The Go build tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// If true, the programs are built with cgo. Default: false.
    #[serde(default)]
    pub cgo: bool,
    /// The folder to install each program into on the nodes. Other programs are only used in container images.
    #[serde(default)]
    pub install: BTreeMap<String, String>,
    /// The versions of programs whose version is not the component's.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// The official releases of the programs, as an alternative to building them. In a recipe loaded for Go modules,
    /// this is empty. In one loaded for official releases, it is the one release of all the component's programs, or
    /// empty if they have none and are built.
    #[serde(default)]
    pub official: Vec<Official>,
}

/// An official release of a component. In its fields, `{program}` is replaced by the program's name, `{version}` by the
/// version, and `{number}` by the version without its `v`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Official {
    /// The URL of the program, or of an archive or a container image (`oci://<name>`) that contains it.
    pub url: String,
    /// The URL of the SHA-256 checksum: a file with only the hash, or with lines of hash and file name. `{url}` is
    /// replaced by the value of `url`. Required unless `url` is a container image.
    #[serde(default)]
    pub checksum: String,
    /// The program's path in the archive or container image. Required for a container image.
    #[serde(default)]
    pub member: Option<String>,
    /// The programs in this release. Default: those that no other release lists.
    #[serde(default)]
    pub programs: Vec<String>,
    /// The version of this release. Default: the component's.
    #[serde(default)]
    pub version: Option<String>,
}

/// An official container image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficialImage {
    /// The licence, as an SPDX identifier.
    pub licence: String,
}

/// A container image: one layer built here, or the official image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// The full name, including registry and tag.
    pub name: String,
    /// Other full names of the same image.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The Debian packages to unpack into the image. Their maintainer scripts don't run. If empty, the image contains
    /// only the programs and files listed here.
    #[serde(default)]
    pub packages: Vec<String>,
    /// The programs of the recipe's components to put into `/usr/local/bin`.
    #[serde(default)]
    pub binaries: Vec<String>,
    /// The files to add.
    #[serde(default)]
    pub files: Vec<File>,
    /// The shell commands to run in the image at the end. The packages must include a shell.
    #[serde(default)]
    pub commands: Vec<String>,
    /// The entrypoint.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The default arguments.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// The environment variables, as `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// The numeric user id.
    #[serde(default)]
    pub user: Option<u32>,
    /// If set, official sources pull it by name and ignore the other fields.
    // Skipped if not set, so that it doesn't change the hash of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub official: Option<OfficialImage>,
}

/// The nodes that a step runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// All nodes, at the same time.
    #[default]
    All,
    /// The first node only.
    First,
    /// The other control planes, one after another.
    OtherControlPlanes,
    /// The workers, one after another.
    Workers,
}

/// A step that runs in booted or cloned machines.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BakeStep {
    /// What the step does, as a message for people.
    pub text: String,
    /// The nodes that it runs on. Default: all.
    #[serde(default)]
    pub on: On,
    /// The shell commands. Their environment has the shape in `FAULTLINE_CONTROL_PLANES` and `FAULTLINE_WORKERS`, a
    /// non-empty `FAULTLINE_STOCK` for a stock cluster, and the output that earlier steps kept.
    pub run: String,
    /// The environment variable in which later steps find this step's output. If the step runs on several nodes, the
    /// first node's output is kept. Default: the output is not kept.
    #[serde(default)]
    pub keep: Option<String>,
    /// The time limit in seconds. Default: 600.
    #[serde(default = "default_timeout_seconds")]
    pub timeout_seconds: u32,
}

const fn default_timeout_seconds() -> u32 {
    600
}

/// The keys of templates hash this text, so it must not change, not even with the type's name.
impl fmt::Debug for BakeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("text", &self.text)
            .field("on", &self.on)
            .field("run", &self.run)
            .field("keep", &self.keep)
            .field("timeout_seconds", &self.timeout_seconds)
            .finish()
    }
}

/// The size of a node's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineShape {
    /// The number of processors of a node.
    pub vcpus: u32,
    /// The memory of a node, in MiB.
    pub memory_mib: u32,
    /// The disk of a node, in MiB.
    pub disk_mib: u32,
}

/// The part of a recipe's file that is read before `{{keys}}` are replaced.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    versions: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    sources: Values,
}

impl Recipe {
    /// Reads the recipe with this name, `<name>.yaml` or a version of a family, for Go modules.
    pub fn load(folder: &Path, name: &str) -> Result<Self> {
        Self::load_for(folder, name, Source::Modules)
    }

    /// Reads the recipe with this name for this source.
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
            read_source(file, folder, &values).map_err(malformed)?;
        }
        if let Some(base) = recipe.extends.take() {
            if depth > 3 {
                return Err(malformed(format!(
                    "extends {base:?} is circular; remove it here or in one of the recipes that it extends"
                )));
            }
            recipe.extend_from(Self::load_within(folder, &base, source, depth + 1)?);
        }
        recipe.validate(folder).map_err(malformed)?;
        Ok(recipe)
    }

    fn extend_from(&mut self, base: Self) {
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
            return Err("packages contains no kernel; add linux-image-cloud-amd64".to_owned());
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
                        "component {} installs {program} into {place:?}: the program must be listed in build, and the folder must be absolute",
                        component.name
                    ));
                }
            }
            for official in &component.official {
                if let Some(problem) = official.problem() {
                    return Err(format!("component {}, official: {problem}", component.name));
                }
                if let Some(unknown) = official
                    .programs
                    .iter()
                    .find(|p| !component.build.contains_key(*p))
                {
                    return Err(format!(
                        "component {} has an official release of {unknown}, which is not listed in build",
                        component.name
                    ));
                }
            }
            programs.extend(component.build.keys());
        }
        for container in &self.containers {
            container.validate()?;
            if container.official.is_some()
                && let Err(e) = Reference::parse(&container.name)
            {
                return Err(format!("container {}: {e}", container.name));
            }
            if let Some(unknown) = container.binaries.iter().find(|b| !programs.contains(b)) {
                return Err(format!(
                    "container {} needs {unknown}, which no component builds; add it to a component's build",
                    container.name
                ));
            }
            if !container.commands.is_empty() && container.packages.is_empty() {
                return Err(format!(
                    "container {} has commands, but no packages; add one that includes a shell",
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

    /// Returns the names of all recipes in a folder, with one name per version of a family.
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
    /// Validates name, packages and files.
    pub fn validate(&self) -> Result<(), String> {
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

/// Reads a file's content from its `source`.
fn read_source(
    file: &mut File,
    folder: &Path,
    values: &BTreeMap<String, String>,
) -> Result<(), String> {
    let Some(source) = file.source.take() else {
        return Ok(());
    };
    if !file.content.is_empty() {
        return Err(format!(
            "file {} has both content and source; set only one",
            file.path
        ));
    }
    if !is_absolute(&format!("/{source}")) {
        return Err(format!("source {source:?} is outside the recipes' folder"));
    }
    let text = std::fs::read_to_string(folder.join(&source))
        .map_err(|e| format!("source {source} can't be read: {e}"))?;
    file.content = substitute(&text, values);
    Ok(())
}

/// A recipe's file, its text, and the values that replace its `{{keys}}`.
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
        assert!(error.contains("circular"), "{error}");
    }

    #[test]
    fn the_text_that_keys_hash_does_not_change() {
        let step = BakeStep {
            text: "a".to_owned(),
            on: On::First,
            run: "b".to_owned(),
            keep: None,
            timeout_seconds: 600,
        };
        assert_eq!(
            format!("{step:?}"),
            r#"Step { text: "a", on: First, run: "b", keep: None, timeout_seconds: 600 }"#
        );
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
            let of_bake = |step: &&BakeStep| recipe.bake.contains(step);
            assert_eq!(
                recipe.join.iter().filter(of_bake).count(),
                if recipe.kubernetes.is_some() { 3 } else { 0 },
                "{name}: preparing the node, a token, kubeadm join"
            );
        }
    }
}
