//! The cache of results, by content: `<cache>/<stage>/<key>/`.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, futimens};
use sha2::{Digest, Sha256};

/// A cache folder.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

/// A result of a stage that was not used for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// The stage.
    pub stage: &'static str,
    /// The content address.
    pub key: String,
    /// The time since it was last used.
    pub idle: Duration,
    /// The disk space that it takes, in bytes.
    pub bytes: u64,
}

/// The timestamps to set on a folder that is used.
const NOW: Timestamps = {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    Timestamps {
        last_access: now,
        last_modification: now,
    }
};

/// Go's own caches of compiled and downloaded packages, as a stage and its keys. A build of programs holds both locks.
pub const GO: (&str, [&str; 2]) = ("go", ["build", "modules"]);

/// The stages of images, ordered by disk space per time needed to rebuild: the largest ratio first.
const STAGES: [&str; 6] = [GO.0, "bake", "disk", "containers", "rootfs", "binaries"];

/// A hash of named parts, in order.
#[derive(Debug, Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds a part. Its length is hashed too, so that different parts never hash the same bytes.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.update(format!("{name}\0{}\0", value.len()));
        self.0.update(value);
        self
    }

    /// Returns the key as 24 hexadecimal digits.
    #[must_use]
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize()).chars().take(24).collect()
    }
}

impl Cache {
    /// Returns the cache in this folder.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Returns the user's cache: `$FAULTLINE_CACHE`, or `faultline` in `$XDG_CACHE_HOME` or `~/.cache`.
    #[must_use]
    pub fn of_user() -> Self {
        let var = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        Self(var("FAULTLINE_CACHE").unwrap_or_else(|| {
            var("XDG_CACHE_HOME")
                .or_else(|| var("HOME").map(|home| home.join(".cache")))
                .unwrap_or_else(|| PathBuf::from("/var/cache"))
                .join("faultline")
        }))
    }

    /// Returns the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Returns the path of a stage's result, whether or not it exists.
    #[must_use]
    pub fn path(&self, stage: &str, key: &str) -> PathBuf {
        self.0.join(stage).join(key)
    }

    /// Returns the path of a stage's result if it exists, and marks it as used: the modification time of its folder is
    /// the time of the last use.
    #[must_use]
    pub fn get(&self, stage: &str, key: &str) -> Option<PathBuf> {
        let path = self.path(stage, key);
        let folder = fs::File::open(&path).ok()?;
        folder.metadata().ok()?.is_dir().then_some(())?;
        let _ = futimens(&folder, &NOW);
        Some(path)
    }

    /// Returns the results of the images' stages that were not used for `since`, in the order in which to prune them:
    /// by stage, and within a stage the longest unused first.
    #[must_use]
    pub fn unused(&self, since: Duration) -> Vec<Unused> {
        let mut found = Vec::new();
        for stage in STAGES {
            let mut left_alone = Vec::new();
            for (key, path) in self.list(stage) {
                let asked = fs::metadata(&path).and_then(|m| m.modified());
                let idle = asked.ok().and_then(|at| at.elapsed().ok());
                let idle = idle.unwrap_or_default();
                if idle >= since {
                    let bytes = bytes(&path);
                    left_alone.push(Unused {
                        stage,
                        key,
                        idle,
                        bytes,
                    });
                }
            }
            left_alone.sort_by_key(|unused| std::cmp::Reverse(unused.idle));
            found.extend(left_alone);
        }
        found
    }

    /// Removes an unused result. Machines that run from it continue, since they hold its files open.
    pub fn prune(&self, unused: &Unused) -> io::Result<()> {
        let _lock = self.lock(unused.stage, &unused.key)?;
        discard(&self.path(unused.stage, &unused.key))
    }

    /// Returns all results of a stage and their keys.
    #[must_use]
    pub fn list(&self, stage: &str) -> Vec<(String, PathBuf)> {
        let mut found: Vec<_> = fs::read_dir(self.0.join(stage))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())))
            .filter(|(name, path)| !name.starts_with('.') && path.is_dir())
            .collect();
        found.sort();
        found
    }

    /// Locks a result for building. Waits for another build of the same result.
    pub fn lock(&self, stage: &str, key: &str) -> io::Result<fs::File> {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.0.join(stage);
        fs::create_dir_all(&folder)?;
        // Other users must not read a template's memory. QEMU processes get it as a file descriptor.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let file = fs::File::create(folder.join(format!(".{key}.lock")))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// Makes an empty folder for a result to be built, and removes what an interrupted build left there. Call it with
    /// the lock held.
    pub fn draft(&self, stage: &str, key: &str) -> io::Result<PathBuf> {
        let draft = self.0.join(stage).join(format!(".{key}.draft"));
        match fs::remove_dir_all(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir_all(&draft)?;
        Ok(draft)
    }

    /// Removes drafts of a stage that are more than a day old, left by interrupted builds. Drafts whose lock is held
    /// stay.
    pub fn sweep(&self, stage: &str) {
        const OLD: Duration = Duration::from_secs(86_400);
        let entries = fs::read_dir(self.0.join(stage)).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let key = name.to_str().and_then(|n| n.strip_prefix('.'));
            let Some(key) = key.and_then(|n| n.strip_suffix(".draft")) else {
                continue;
            };
            let made = entry.metadata().and_then(|m| m.modified()).ok();
            let old = made.and_then(|at| at.elapsed().ok()) > Some(OLD);
            let lock = entry.path().with_file_name(format!(".{key}.lock"));
            let free = fs::File::open(lock).map_or(true, |lock| {
                flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            });
            if old && free {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Moves a finished draft into place and returns its path.
    pub fn keep(&self, draft: &Path, stage: &str, key: &str) -> io::Result<PathBuf> {
        let path = self.path(stage, key);
        fs::rename(draft, &path)?;
        Ok(path)
    }
}

/// Returns the free space of a folder's file system, in bytes.
pub fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail * disk.f_frsize)
}

/// Removes a result. It is renamed first, so that a partly removed folder is never mistaken for a result.
pub fn discard(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!(".{name}.discarded-{:08x}", rand::random::<u32>()));
    fs::rename(folder, &aside)?;
    fs::remove_dir_all(aside)
}

/// Returns the disk space of a folder's files, not counting holes.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => bytes(&e.path()),
            Ok(m) => m.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(
            Key::default().with("a", "bc").finish(),
            Key::default().with("ab", "c").finish()
        );
        assert_ne!(
            Key::default().with("a", "b").with("c", "").finish(),
            Key::default().with("a", "").with("c", "b").finish()
        );
    }

    #[test]
    fn a_result_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let lock = cache.lock("disk", "k").unwrap();
        let draft = cache.draft("disk", "k").unwrap();
        fs::write(draft.join("half"), "x").unwrap();
        assert!(cache.get("disk", "k").is_none());
        let draft = cache.draft("disk", "k").unwrap();
        assert!(
            !draft.join("half").exists(),
            "an interrupted build leaves nothing"
        );
        cache.keep(&draft, "disk", "k").unwrap();
        assert!(cache.get("disk", "k").is_some());
        drop(lock);
    }

    #[test]
    fn what_a_killed_build_left_goes_after_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
        let lock = cache.lock("bake", "built").unwrap();
        let drafts = ["built", "left", "new"].map(|key| cache.draft("bake", key).unwrap());
        for draft in &drafts[..2] {
            let folder = fs::File::open(draft).unwrap();
            folder.set_modified(long_ago).unwrap();
        }
        cache.sweep("bake");
        assert_eq!(drafts.each_ref().map(|d| d.exists()), [true, false, true]);
        drop(lock);
        cache.sweep("bake");
        assert_eq!(drafts.each_ref().map(|d| d.exists()), [false, false, true]);
    }

    #[test]
    fn what_is_soon_built_again_is_spared_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let results = [
            ("binaries", "etcd", 9),
            ("bake", "newer", 4),
            ("bake", "older", 8),
            ("go", "build", 3),
        ];
        for (stage, key, hours) in results {
            let draft = cache.draft(stage, key).unwrap();
            let kept = cache.keep(&draft, stage, key).unwrap();
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs((100 - hours) * 3600);
            fs::File::open(kept).unwrap().set_modified(then).unwrap();
        }
        let keys: Vec<_> = cache
            .unused(Duration::ZERO)
            .into_iter()
            .map(|unused| unused.key)
            .collect();
        assert_eq!(keys, ["build", "older", "newer", "etcd"]);
    }

    #[test]
    fn what_nobody_asks_for_is_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
        for key in ["asked", "forgotten"] {
            let draft = cache.draft("disk", key).unwrap();
            fs::write(draft.join("root.ext4"), [1; 8192]).unwrap();
            let kept = cache.keep(&draft, "disk", key).unwrap();
            fs::File::open(kept)
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }
        assert!(cache.get("disk", "asked").is_some());
        let unused = cache.unused(Duration::from_secs(1800));
        assert_eq!(unused.len(), 1);
        assert_eq!(
            (unused[0].stage, unused[0].key.as_str()),
            ("disk", "forgotten")
        );
        assert!(unused[0].bytes >= 8192);
        cache.prune(&unused[0]).unwrap();
        assert!(cache.get("disk", "forgotten").is_none());
        assert!(cache.get("disk", "asked").is_some());
        assert!(cache.unused(Duration::from_secs(1800)).is_empty());
    }
}
