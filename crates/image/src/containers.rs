//! The stage `containers`: container images, either of one layer made of Debian packages, built programs and files, or
//! pulled as official images. They are imported into the containerd of a root file system.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use faultline_domain::progress::Progress;
use faultline_launcher::snapshot::checksum;

use crate::{
    Error, Result, at,
    binaries::Programs,
    cache::{Cache, Key},
    debian::{Debian, put},
    recipe::{Container, Recipe},
    run, sbom,
    source::{ORIGINS, Origin},
    sources::{
        fetch::{Fetcher, OnBytes, amount, failed},
        registry,
    },
};

const STAGE: &str = "containers";
/// Part of the key. Raised when the way that an image is built changes.
const GENERATION: &str = "1";
/// The Debian suite of images that don't belong to a recipe.
const SUITE: &str = "bookworm";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Begins the content address of a container image. For one without programs, it is complete.
fn key_of(suite: &str, container: &Container) -> Key {
    Key::default()
        .with("generation", GENERATION)
        .with("suite", suite)
        .with("what", serde_json::to_vec(container).unwrap_or_default())
}

/// Returns the content address of a container image. `components` has the keys of the components, by name.
fn key(recipe: &Recipe, container: &Container, components: &BTreeMap<String, String>) -> String {
    let mut key = key_of(&recipe.suite, container);
    for component in &recipe.binaries {
        if container
            .binaries
            .iter()
            .any(|b| component.build.contains_key(b))
        {
            let built = components.get(&component.name);
            key = key.with(&component.name, built.map_or("", String::as_str));
        }
    }
    key.finish()
}

/// Returns the keys of all container images, in the recipe's order.
pub fn keys(recipe: &Recipe, components: &BTreeMap<String, String>) -> Vec<String> {
    recipe
        .containers
        .iter()
        .map(|c| key(recipe, c, components))
        .collect()
}

/// Builds all container images of a recipe unless they are in the cache, and returns their archives in the recipe's
/// order. Blocking.
pub fn build(
    recipe: &Recipe,
    components: &BTreeMap<String, String>,
    programs: &Programs,
    cache: &Cache,
    progress: &Progress,
) -> Result<Vec<PathBuf>> {
    if recipe.containers.is_empty() {
        return Ok(Vec::new());
    }
    let count = recipe.containers.len();
    let stage = progress.stage(STAGE, format!("Making {count} container images"));
    let mut archives = Vec::with_capacity(count);
    let mut all_cached = true;
    for (n, container) in recipe.containers.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a few dozen images")]
        let fraction = n as f64 / count as f64;
        let text = format!("{}, {} of {count}", container.name, n + 1);
        stage.update(Some(fraction), text.clone());
        let on_bytes = |bytes: u64, all: Option<u64>| {
            stage.update(Some(fraction), format!("{text}, {}", amount(bytes, all)));
        };
        let key = key(recipe, container, components);
        let _lock = at(STAGE, cache.lock(STAGE, &key))?;
        let folder = match cache.get(STAGE, &key) {
            Some(folder) => folder,
            None => {
                all_cached = false;
                if container.official.is_some() {
                    let draft = at(STAGE, cache.draft(STAGE, &key))?;
                    pull(recipe, container, &draft, cache, &on_bytes)?;
                    at(STAGE, cache.keep(&draft, STAGE, &key))?
                } else {
                    build_one(&recipe.suite, container, &key, programs, cache)?
                }
            }
        };
        archives.push(folder.join("image.tar"));
    }
    if all_cached {
        stage.cached();
    } else {
        stage.done();
    }
    Ok(archives)
}

/// Builds a container image that doesn't belong to a recipe unless it is in the cache, and returns its archive.
/// Blocking.
pub fn single(container: &Container, cache: &Cache) -> Result<PathBuf> {
    let key = key_of(SUITE, container).finish();
    let _lock = at(STAGE, cache.lock(STAGE, &key))?;
    let folder = match cache.get(STAGE, &key) {
        Some(folder) => folder,
        None => build_one(SUITE, container, &key, &Programs::default(), cache)?,
    };
    Ok(folder.join("image.tar"))
}

fn build_one(
    suite: &str,
    container: &Container,
    key: &str,
    programs: &Programs,
    cache: &Cache,
) -> Result<PathBuf> {
    let draft = at(STAGE, cache.draft(STAGE, key))?;
    let log = draft.join("log");
    let root = draft.join("root");
    at(STAGE, fs::create_dir(&root))?;
    if !container.packages.is_empty() {
        let packages = draft.join("packages.tar");
        Debian::unpacked(suite, &container.packages).run(STAGE, &packages, &log)?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xpf").arg(&packages).arg("-C").arg(&root);
        // The container runtime makes the device nodes.
        unpack.arg("--exclude=./dev/*");
        run(STAGE, &mut unpack, &log)?;
        at(STAGE, fs::remove_file(packages))?;
        at(STAGE, sbom::keep_licences(&root, &draft))?;
    }
    for name in &container.binaries {
        let file = programs.files.get(name).ok_or_else(|| Error::Stage {
            stage: STAGE,
            reason: format!("{} needs {name}, which was not built", container.name),
        })?;
        let content = at(STAGE, fs::read(file))?;
        at(
            STAGE,
            put(&root, &format!("/usr/local/bin/{name}"), &content, 0o755),
        )?;
    }
    for folder in ["tmp", "etc", "var/run"] {
        at(STAGE, fs::create_dir_all(root.join(folder)))?;
    }
    at(
        STAGE,
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)),
    )?;
    for file in &container.files {
        at(
            STAGE,
            put(&root, &file.path, file.content.as_bytes(), file.bits()),
        )?;
    }
    // The packages may contain no shell but busybox.
    let shell: &[&str] = if root.join("bin/sh").exists() {
        &["/bin/sh", "-ec"]
    } else {
        &["/bin/busybox", "sh", "-ec"]
    };
    for line in &container.commands {
        let mut command = Command::new("chroot");
        run(STAGE, command.arg(&root).args(shell).arg(line), &log)?;
    }
    pack(container, &root, &draft, &log)?;
    at(STAGE, fs::remove_dir_all(&root))?;
    at(STAGE, cache.keep(&draft, STAGE, key))
}

/// Pulls an official image into an archive of an OCI layout, and records its origin.
fn pull(
    recipe: &Recipe,
    container: &Container,
    draft: &Path,
    cache: &Cache,
    on_bytes: OnBytes<'_>,
) -> Result<()> {
    let (layout, scratch) = (draft.join("layout"), draft.join("scratch"));
    at(STAGE, fs::create_dir(&scratch))?;
    let fetcher = Fetcher::new(&recipe.bases, cache);
    let names: Vec<&str> = [&container.name]
        .into_iter()
        .chain(&container.aliases)
        .map(String::as_str)
        .collect();
    let pulled = registry::pull(
        &fetcher,
        &container.name,
        &names,
        &layout,
        &scratch,
        on_bytes,
    )
    .map_err(|e| failed(STAGE, &e))?;
    let parts = ["oci-layout", "index.json", "blobs"];
    tar(
        &layout,
        &draft.join("image.tar"),
        &parts,
        &draft.join("log"),
    )?;
    at(STAGE, fs::remove_dir_all(layout))?;
    at(STAGE, fs::remove_dir_all(scratch))?;
    let origin = Origin {
        url: pulled.url,
        sha256: pulled.digest,
    };
    let origins = BTreeMap::from([(&container.name, origin)]);
    let text = serde_json::to_vec_pretty(&origins).unwrap_or_default();
    at(STAGE, fs::write(draft.join(ORIGINS), text))
}

/// Packs files reproducibly: the same files result in the same bytes.
fn tar(folder: &Path, to: &Path, names: &[&str], log: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .args(["--sort=name", "--mtime=@0", "--numeric-owner", "-cf"])
        .arg(to)
        .arg("-C")
        .arg(folder)
        .args(names);
    run(STAGE, &mut command, log)
}

/// Packs a root folder as a Docker archive of one layer.
fn pack(container: &Container, root: &Path, draft: &Path, log: &Path) -> Result<()> {
    let layer = draft.join("layer.tar");
    tar(root, &layer, &["."], log)?;
    let digest = at(STAGE, checksum(&layer))?;
    let mut env = vec![PATH.to_owned()];
    env.extend(container.env.iter().cloned());
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": env,
            "Entrypoint": container.entrypoint,
            "Cmd": container.cmd,
            "User": container.user.map_or_else(String::new, |n| n.to_string()),
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created_by": "faultline image" }],
    });
    let mut tags = vec![container.name.clone()];
    tags.extend(container.aliases.iter().cloned());
    let manifest = serde_json::json!([
        { "Config": "config.json", "RepoTags": tags, "Layers": ["layer.tar"] }
    ]);
    at(
        STAGE,
        fs::write(draft.join("config.json"), config.to_string()),
    )?;
    at(
        STAGE,
        fs::write(draft.join("manifest.json"), manifest.to_string()),
    )?;
    let parts = ["manifest.json", "config.json", "layer.tar"];
    tar(draft, &draft.join("image.tar"), &parts, log)?;
    for part in parts {
        at(STAGE, fs::remove_file(draft.join(part)))?;
    }
    Ok(())
}

/// Imports archives into the containerd data of a root file system. This runs a temporary containerd on the host, which
/// is twenty times faster than importing in the emulated machine.
pub fn import(root: &Path, archives: &[PathBuf], programs: &Programs, log: &Path) -> Result<()> {
    if archives.is_empty() {
        return Ok(());
    }
    let program = |name: &str| {
        programs.files.get(name).ok_or_else(|| Error::Stage {
            stage: STAGE,
            reason: format!(
                "importing container images needs {name}, which no component of the recipe builds"
            ),
        })
    };
    let (containerd, ctr) = (program("containerd")?, program("ctr")?);
    let state = at(STAGE, tempfile::tempdir())?;
    let socket = state.path().join("containerd.sock");
    let config = state.path().join("config.toml");
    let text = format!(
        "version = 3\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n",
        root.join("var/lib/containerd"),
        state.path().join("state"),
        state.path().join("ttrpc.sock"),
    );
    at(STAGE, fs::write(&config, text))?;
    let out = at(
        STAGE,
        fs::OpenOptions::new().create(true).append(true).open(log),
    )?;
    let err = at(STAGE, out.try_clone())?;
    let child = Command::new(containerd)
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn();
    let mut daemon = Daemon(at(STAGE, child)?);
    let ctr = |args: &[&str]| {
        let mut command = Command::new(ctr);
        command
            .arg("--address")
            .arg(&socket)
            .args(["--namespace", "k8s.io"])
            .args(args);
        command
    };
    for _ in 0..200 {
        if socket.exists() && run(STAGE, &mut ctr(&["version"]), log).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for archive in archives {
        run(
            STAGE,
            ctr(&["images", "import", "--no-unpack=false"]).arg(archive),
            log,
        )?;
    }
    daemon.end();
    Ok(())
}

/// A process that is ended when this is dropped.
struct Daemon(std::process::Child);

impl Daemon {
    fn end(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..200 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::source::origins;
    use crate::sources::{
        Source,
        server::{Answer, Image},
    };

    fn recipe(source: Source, base: &str) -> Recipe {
        let mut recipe: Recipe = serde_saphyr::from_str(
            "name: k\nsummary: s\nmachine: {vcpus: 1, memory_mib: 256, disk_mib: 1024}\n\
             containers:\n- {name: \"r.example/tool:v1\", aliases: [\"x.example/tool:1\"], entrypoint: [/tool], official: {licence: MIT}}\n\
             - {name: \"r.example/own:v1\", entrypoint: [/own]}\n",
        )
        .unwrap();
        recipe.settle(source);
        let bases = &mut recipe.bases.0;
        bases.insert("r.example".to_owned(), base.parse().unwrap());
        recipe
    }

    fn of(recipe: &Recipe) -> Vec<String> {
        keys(recipe, &BTreeMap::new())
    }

    #[test]
    fn a_source_changes_the_address_of_what_comes_from_it_alone() {
        let modules = of(&recipe(Source::Modules, "/a"));
        let official = of(&recipe(Source::Official, "/a"));
        assert_ne!(modules[0], official[0]);
        assert_eq!(modules[1], official[1], "it has no official image");
        let elsewhere = of(&recipe(Source::Official, "http://b"));
        assert_eq!(official, elsewhere, "a mirror is no part of the address");
    }

    #[test]
    fn what_is_hashed_of_an_own_image_is_what_always_was() {
        let recipe = recipe(Source::Modules, "/");
        let text = serde_json::to_string(&recipe.containers[0]).unwrap();
        assert_eq!(
            text,
            r#"{"name":"r.example/tool:v1","aliases":["x.example/tool:1"],"packages":[],"binaries":[],"files":[],"commands":[],"entrypoint":["/tool"],"cmd":[],"env":[],"user":null}"#
        );
    }

    #[test]
    fn a_stage_that_fails_says_how_its_log_ends_and_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let mut recipe = recipe(Source::Modules, "/");
        let build = |recipe: &Recipe| {
            let (programs, none) = (Programs::default(), BTreeMap::new());
            build(recipe, &none, &programs, &cache, &Progress::ignored())
        };
        // There is nothing in the image that could carry it out.
        recipe.containers[1].commands = vec!["true".to_owned()];
        let error = build(&recipe).unwrap_err().to_string();
        assert!(error.starts_with("stage containers failed"), "{error}");
        let (_, log) = error.split_once("The end of its log:").unwrap();
        assert!(log.contains("chroot"), "{error}");

        let made = cache.list(STAGE);
        assert_eq!(made.len(), 1, "what was done is kept");
        let stamp = || {
            fs::metadata(made[0].1.join("image.tar"))
                .unwrap()
                .modified()
                .unwrap()
        };
        let before = stamp();
        recipe.containers[1].commands.clear();
        assert_eq!(build(&recipe).unwrap().len(), 2);
        assert_eq!(
            (stamp(), cache.list(STAGE).len()),
            (before, 2),
            "and not made again"
        );
    }

    #[test]
    fn an_official_image_becomes_an_archive_that_containerd_imports() {
        let image = Image::new();
        let server = image.server("/v2/tool");
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let mut recipe = recipe(Source::Official, &server.url(""));
        recipe.containers.truncate(1);
        let build = |recipe: &Recipe| {
            let (programs, none) = (Programs::default(), BTreeMap::new());
            build(recipe, &none, &programs, &cache, &Progress::ignored())
        };
        let manifest = image.paths("/v2/tool")[1].0.clone();
        server.serve(&manifest, Answer::status(404));
        let error = build(&recipe).unwrap_err().to_string();
        assert!(
            error.contains("answered 404") && error.contains("--source modules"),
            "{error}"
        );
        assert!(cache.list(STAGE).is_empty());

        server.serve(&manifest, Answer::body(&image.manifest));
        let archives = build(&recipe).unwrap();
        let folder = archives[0].parent().unwrap();
        let origin = &origins(folder)["r.example/tool:v1"];
        assert!(origin.url.ends_with(&origin.sha256), "{origin:?}");
        let unpacked = dir.path().join("unpacked");
        fs::create_dir(&unpacked).unwrap();
        let mut tar = Command::new("tar");
        let tar = tar.arg("-xf").arg(&archives[0]).arg("-C").arg(&unpacked);
        assert!(tar.status().unwrap().success());
        let index = fs::read(unpacked.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let names: Vec<_> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| {
                m["annotations"]["io.containerd.image.name"]
                    .as_str()
                    .unwrap()
            })
            .collect();
        assert_eq!(names, ["r.example/tool:v1", "x.example/tool:1"]);
        let blob = unpacked.join("blobs/sha256").join(&origin.sha256);
        assert_eq!(fs::read_to_string(blob).unwrap(), image.manifest);
        let left: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
        assert_eq!(left.len(), 3, "archive, origins and log: {left:?}");
        // Found the second time, though nobody answers any more.
        let asked = server.asked(&manifest);
        build(&recipe).unwrap();
        assert_eq!(server.asked(&manifest), asked);
    }
}
