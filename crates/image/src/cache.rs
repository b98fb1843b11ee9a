//! Where results lie: `<cache>/<stage>/<key>/`, by content.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

/// The cache's folder.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

/// A hash over named parts, in order.
#[derive(Debug, Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds a part. Lengths are hashed too, so that parts can't run into each other.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.update(format!("{name}\0{}\0", value.len()));
        self.0.update(value);
        self
    }

    /// The key's text: 24 hex digits.
    #[must_use]
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize()).chars().take(24).collect()
    }
}

impl Cache {
    /// The cache in a folder.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The user's cache: `$FAULTLINE_CACHE`, or `faultline` in `$XDG_CACHE_HOME` or `~/.cache`.
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

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Where a stage's result lies, or would.
    #[must_use]
    pub fn path(&self, stage: &str, key: &str) -> PathBuf {
        self.0.join(stage).join(key)
    }

    /// A stage's result, if it was made.
    #[must_use]
    pub fn get(&self, stage: &str, key: &str) -> Option<PathBuf> {
        Some(self.path(stage, key)).filter(|path| path.is_dir())
    }

    /// All results of a stage, by key.
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

    /// Waits for whoever builds the same, and then builds alone.
    pub fn lock(&self, stage: &str, key: &str) -> io::Result<fs::File> {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.0.join(stage);
        fs::create_dir_all(&folder)?;
        // A template's memory is not everybody's to read; QEMUs get theirs by descriptor.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let file = fs::File::create(folder.join(format!(".{key}.lock")))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// An empty folder for a result in the making. What an interrupted build left there is removed; call with the
    /// lock held.
    pub fn draft(&self, stage: &str, key: &str) -> io::Result<PathBuf> {
        let draft = self.0.join(stage).join(format!(".{key}.draft"));
        match fs::remove_dir_all(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir_all(&draft)?;
        Ok(draft)
    }

    /// Puts a finished draft in place.
    pub fn keep(&self, draft: &Path, stage: &str, key: &str) -> io::Result<PathBuf> {
        let path = self.path(stage, key);
        fs::rename(draft, &path)?;
        Ok(path)
    }
}

/// Removes a result. Out of sight first: half a folder must not be taken for a whole one.
pub fn discard(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!(".{name}.discarded-{:08x}", rand::random::<u32>()));
    fs::rename(folder, &aside)?;
    fs::remove_dir_all(aside)
}

#[cfg(test)]
mod tests {
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
}
