//! The labs and image recipes in the binary. Linters, `go` and `mmdebstrap` read files, so they are extracted into the
//! cache, each set into a folder that is named by the hash of its content.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use faultline_image::cache::{Cache, Key, discard};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../../labs"]
struct Labs;

#[derive(RustEmbed)]
#[folder = "../../images"]
struct Images;

/// The stage of the cache.
const STAGE: &str = "shipped";

type Files = BTreeMap<String, Cow<'static, [u8]>>;

/// Returns the folder of labs.
pub fn labs(cache: &Cache) -> io::Result<PathBuf> {
    folder(cache, "labs", &files::<Labs>())
}

/// Returns the folder of image recipes.
pub fn images(cache: &Cache) -> io::Result<PathBuf> {
    folder(cache, "images", &files::<Images>())
}

fn files<Embedded: RustEmbed>() -> Files {
    Embedded::iter()
        .filter_map(|name| Some((name.to_string(), Embedded::get(&name)?.data)))
        .collect()
}

/// Extracts the files into a folder. A folder that somebody has changed is written anew, so that its name matches its
/// content.
fn folder(cache: &Cache, name: &str, files: &Files) -> io::Result<PathBuf> {
    let hash = files
        .iter()
        .fold(Key::default(), |key, (name, content)| {
            key.with(name, content)
        })
        .finish();
    let key = format!("{name}-{hash}");
    let path = cache.path(STAGE, &key);
    if is_whole(&path, files) {
        return Ok(path);
    }
    let _lock = cache.lock(STAGE, &key)?;
    if is_whole(&path, files) {
        return Ok(path);
    }
    let draft = cache.draft(STAGE, &key)?;
    for (name, content) in files {
        write(&draft.join(name), content)?;
    }
    if path.exists() {
        discard(&path)?;
    }
    cache.keep(&draft, STAGE, &key)
}

/// Returns true if a folder has exactly these files with this content.
fn is_whole(folder: &Path, files: &Files) -> bool {
    let whole = |(name, content): (&String, &Cow<'_, [u8]>)| {
        let path = folder.join(name);
        let as_it_was = fs::metadata(&path).is_ok_and(|f| f.mode() & 0o777 == mode(content));
        as_it_was && fs::read(&path).is_ok_and(|found| found == **content)
    };
    files.iter().all(whole) && count(folder).is_ok_and(|found| found == files.len())
}

/// Counts the files in a folder and all folders below.
fn count(folder: &Path) -> io::Result<usize> {
    fs::read_dir(folder)?.try_fold(0, |sum, entry| {
        let entry = entry?;
        let more = if entry.file_type()?.is_dir() {
            count(&entry.path())?
        } else {
            1
        };
        Ok(sum + more)
    })
}

/// Writes a file. The binary stores no modes: scripts become executable, as in the repository, and other files don't.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode(content)))
}

fn mode(content: &[u8]) -> u32 {
    if content.starts_with(b"#!") {
        0o755
    } else {
        0o644
    }
}

#[cfg(test)]
mod tests {
    use faultline_image::recipe::Recipe;
    use faultline_lab::Catalogue;

    use super::*;

    fn checkout(folder: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(folder)
    }

    /// Returns the labs' names and hashes, which cover the names, modes and contents of all files.
    fn hashes(labs: &Path) -> Vec<(String, String)> {
        let catalogue = Catalogue::load(labs);
        assert!(catalogue.broken().is_empty(), "{:?}", catalogue.broken());
        let labs = catalogue.labs().into_iter();
        labs.map(|lab| (lab.slug.to_string(), lab.hash.clone()))
            .collect()
    }

    #[test]
    fn the_program_has_the_labs_and_recipes_of_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let labs = labs(&cache).unwrap();
        assert_eq!(hashes(&labs), hashes(&checkout("labs")));
        let images = images(&cache).unwrap();
        let names = Recipe::names(&checkout("images"));
        assert_eq!(Recipe::names(&images), names);
        for name in names {
            let recipe = |folder: &Path| Recipe {
                folder: PathBuf::new(),
                ..Recipe::load(folder, &name).unwrap()
            };
            assert_eq!(recipe(&images), recipe(&checkout("images")));
        }
        for name in files::<Images>().keys() {
            let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
            assert_eq!(read(&images), read(&checkout("images")), "{name}");
        }
    }

    #[test]
    fn a_folder_is_named_by_its_content_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let one = |content: &'static [u8]| Files::from([("a/b".to_owned(), content.into())]);
        let first = folder(&cache, "labs", &one(b"first")).unwrap();
        let second = folder(&cache, "labs", &one(b"second")).unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::read(first.join("a/b")).unwrap(), b"first");

        fs::write(first.join("a/b"), "edited").unwrap();
        assert_eq!(folder(&cache, "labs", &one(b"first")).unwrap(), first);
        assert_eq!(fs::read(first.join("a/b")).unwrap(), b"first");
    }
}
