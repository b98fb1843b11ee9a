//! The stages `rootfs` and `disk`, which turn a recipe into a disk image, a kernel and an initial RAM disk.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use faultline_domain::progress::Progress;

use crate::{
    Error, Result, at,
    binaries::{self, Programs},
    cache::{Cache, Key},
    containers,
    debian::{Debian, put},
    recipe::Recipe,
    run, sbom,
};

/// Part of the key. Raised when the way that an image is built changes, so that old results are not reused.
const GENERATION: &str = "2";
/// The file name of the helper, which `scripts/build` puts next to the program.
pub const HELPER: &str = "faultline-guest.static";
const UNIT: &str = include_str!("faultline-guest.service");

/// A built image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The content address.
    pub key: String,
    /// The folder with `root.ext4`, `kernel` and `initrd`.
    pub folder: PathBuf,
}

impl Image {
    /// Returns the path of the disk (raw ext4).
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder.join("root.ext4")
    }

    /// Returns the path of the kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// Returns the path of the initial RAM disk.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }
}

/// Returns the path of the guest's helper, a static program next to this program or in one of the two folders above.
pub fn helper() -> Result<PathBuf> {
    let program = at("disk", std::env::current_exe())?;
    program
        .ancestors()
        .skip(1)
        .take(3)
        .map(|f| f.join(HELPER))
        .find(|p| p.exists())
        .ok_or_else(|| Error::Stage {
            stage: "disk",
            reason: format!(
                "{HELPER} is not next to the faultline program; run scripts/build, which builds both"
            ),
        })
}

fn rootfs_key(recipe: &Recipe) -> String {
    Key::default()
        .with("generation", GENERATION)
        .with("suite", &recipe.suite)
        .with("packages", recipe.packages.join(" "))
        .with("commands", recipe.commands.join("\n"))
        .finish()
}

/// Returns the content address of a recipe's image, with this program's helper.
pub fn image_key(recipe: &Recipe) -> Result<String> {
    let files =
        serde_json::to_vec(&(&recipe.files, &recipe.enable, &recipe.disable)).unwrap_or_default();
    let components = binaries::keys(recipe)?;
    let installed: Vec<_> = recipe.binaries.iter().map(|c| &c.install).collect();
    Ok(Key::default()
        .with("components", format!("{components:?} {installed:?}"))
        .with(
            "containers",
            containers::keys(recipe, &components).join(" "),
        )
        .with("rootfs", rootfs_key(recipe))
        .with("files", files)
        .with("helper", env!("FAULTLINE_HELPER_SOURCES"))
        .with("unit", UNIT)
        .with("size", recipe.machine.disk_mib.to_string())
        .finish())
}

/// Builds an image unless it is in the cache. Blocking; takes minutes the first time.
pub fn build(recipe: &Recipe, cache: &Cache, progress: &Progress) -> Result<Image> {
    let key = image_key(recipe)?;
    let stage = progress.stage(
        "disk",
        format!("Image {}: root file system and disk", recipe.name),
    );
    if let Some(folder) = cache.get("disk", &key) {
        stage.cached();
        return Ok(Image { key, folder });
    }
    let _lock = at("disk", cache.lock("disk", &key))?;
    if let Some(folder) = cache.get("disk", &key) {
        stage.cached();
        return Ok(Image { key, folder });
    }
    let rootfs = rootfs(recipe, cache, progress)?;
    let programs = binaries::build(recipe, cache, progress)?;
    let components = binaries::keys(recipe)?;
    let archives = containers::build(recipe, &components, &programs, cache, progress)?;
    let draft = at("disk", cache.draft("disk", &key))?;
    let log = draft.join("log");
    let root = draft.join("root");
    at("disk", fs::create_dir(&root))?;
    stage.update(Some(0.1), "unpacking the root file system");
    run(
        "disk",
        Command::new("tar")
            .arg("-xpf")
            .arg(rootfs.join("rootfs.tar"))
            .arg("-C")
            .arg(&root),
        &log,
    )?;
    at("disk", install_files(recipe, &programs, &root))?;
    if !archives.is_empty() {
        stage.update(
            Some(0.2),
            format!("importing {} container images", archives.len()),
        );
        containers::import(&root, &archives, &programs, &log)?;
    }
    at("disk", copy_kernel(&root, &draft))?;
    stage.update(Some(0.5), "writing the disk");
    let disk = draft.join("root.ext4");
    let size = format!("{}M", recipe.machine.disk_mib);
    run(
        "disk",
        Command::new("mke2fs")
            .args([
                "-q",
                "-t",
                "ext4",
                "-L",
                "root",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
                "-d",
            ])
            .arg(&root)
            .arg(&disk)
            .arg(size),
        &log,
    )?;
    sbom::write(recipe, &key, &root, &rootfs, &programs, &archives, &draft)?;
    at("disk", fs::remove_dir_all(&root))?;
    for name in ["root.ext4", "kernel", "initrd"] {
        at(
            "disk",
            fs::set_permissions(draft.join(name), fs::Permissions::from_mode(0o444)),
        )?;
    }
    let folder = at("disk", cache.keep(&draft, "disk", &key))?;
    stage.done();
    Ok(Image { key, folder })
}

/// Installs the packages into a new root file system and packs it as a tar archive.
fn rootfs(recipe: &Recipe, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let key = rootfs_key(recipe);
    let stage = progress.stage(
        "rootfs",
        format!(
            "Image {}: installing {} Debian packages",
            recipe.name,
            recipe.packages.len()
        ),
    );
    let _lock = at("rootfs", cache.lock("rootfs", &key))?;
    if let Some(folder) = cache.get("rootfs", &key) {
        stage.cached();
        return Ok(folder);
    }
    let draft = at("rootfs", cache.draft("rootfs", &key))?;
    Debian::installed(&recipe.suite, &recipe.packages, &recipe.commands).run(
        "rootfs",
        &draft.join("rootfs.tar"),
        &draft.join("log"),
    )?;
    let folder = at("rootfs", cache.keep(&draft, "rootfs", &key))?;
    stage.done();
    Ok(folder)
}

/// Puts the helper, the components' programs, the recipe's files and the units' symbolic links into the root folder.
fn install_files(recipe: &Recipe, programs: &Programs, root: &Path) -> std::io::Result<()> {
    let put = |path: &str, content: &[u8], mode: u32| put(root, path, content, mode);
    let helper = helper().map_err(std::io::Error::other)?;
    put(
        "/usr/lib/faultline/faultline-guest",
        &fs::read(helper)?,
        0o755,
    )?;
    put(
        "/etc/systemd/system/faultline-guest.service",
        UNIT.as_bytes(),
        0o644,
    )?;
    for (program, folder) in recipe.binaries.iter().flat_map(|c| &c.install) {
        if let Some(file) = programs.files.get(program) {
            put(&format!("{folder}/{program}"), &fs::read(file)?, 0o755)?;
        }
    }
    for file in &recipe.files {
        put(&file.path, file.content.as_bytes(), file.bits())?;
    }
    let units = root.join("etc/systemd/system");
    for unit in recipe
        .enable
        .iter()
        .map(String::as_str)
        .chain(["faultline-guest.service"])
    {
        let folder = units.join(if unit.ends_with(".socket") {
            "sockets.target.wants"
        } else {
            "multi-user.target.wants"
        });
        fs::create_dir_all(&folder)?;
        let home = if units.join(unit).exists() {
            "/etc/systemd/system"
        } else {
            "/lib/systemd/system"
        };
        let link = folder.join(unit);
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("{home}/{unit}"), link)?;
        }
    }
    for unit in &recipe.disable {
        for entry in fs::read_dir(&units)?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(".wants") {
                let _ = fs::remove_file(entry.path().join(unit));
            }
        }
    }
    Ok(())
}

/// Copies the newest kernel and its initial RAM disk out of the root folder.
fn copy_kernel(root: &Path, to: &Path) -> std::io::Result<()> {
    let newest = |prefix: &str| {
        let mut found: Vec<PathBuf> = fs::read_dir(root.join("boot"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
            .map(|e| e.path())
            .collect();
        found.sort();
        found.pop().ok_or_else(|| {
            std::io::Error::other(format!(
                "no package installed a {prefix}* into /boot; add a kernel package to the recipe"
            ))
        })
    };
    fs::copy(newest("vmlinuz-")?, to.join("kernel"))?;
    fs::copy(newest("initrd.img-")?, to.join("initrd"))?;
    Ok(())
}
