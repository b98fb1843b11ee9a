//! A frozen template on disk: memory, device state and disk of each node, and a manifest. The manifest is written last,
//! so that a folder with a manifest is complete.
//!
//! ```text
//! <snapshots>/<key>/manifest.json   what must match, and a checksum of every file
//!                   <node>.mem      guest memory, sparse; clones map it privately
//!                   <node>.state    device state (about 1 MB)
//!                   <node>.qcow2    the disk at the instant of the freeze, over the image's base disk
//!                   overlay.qcow2   an empty overlay, copied for each clone's node
//! ```

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::spec::{Accelerator, NodeSpec, kvm_cpu};

/// The description of a snapshot, with the checksums of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The content address of everything that must match.
    pub key: String,
    /// The nodes that were frozen together, and their machines.
    pub nodes: Vec<NodeSpec>,
    /// The number of control planes, which are the first nodes.
    pub control_planes: u32,
    /// The version of QEMU.
    pub qemu: String,
    /// QEMU's processor argument under KVM.
    #[serde(default = "kvm_cpu")]
    pub kvm_cpu: String,
    /// The time from power-on to the settled state while baking, in milliseconds.
    pub cold_boot_millis: u64,
    /// The time from power-on to the first shell while baking, in milliseconds.
    pub cold_shell_millis: u64,
    /// The SHA-256 of every file, by name.
    pub files: BTreeMap<String, String>,
    /// The content address of the image whose disk the nodes' disks are based on. Empty in snapshots of earlier
    /// versions.
    #[serde(default)]
    pub image: String,
    /// The SHA-256 of that disk.
    #[serde(default)]
    pub base_disk: String,
}

/// The reason why a snapshot can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A file can't be read.
    #[error("{path} can't be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file has changed.
    #[error("{path} has changed since it was frozen: its checksum differs")]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl Damage {
    /// Returns the damaged file.
    #[must_use]
    pub const fn path(&self) -> &PathBuf {
        match self {
            Self::Unreadable { path, .. } | Self::Changed { path } => path,
        }
    }
}

/// The name of memory from [`new_memory`] in `/proc/<pid>/maps`.
pub(crate) const NEW_MEMORY: &str = "/memfd:guest";

/// Makes the memory of a guest that boots, of this many bytes, which can be frozen. It is not a file on disk: the
/// kernel writes changed pages of a file to the disk every half minute, and a booting guest changes most of its pages
/// all the time.
pub fn new_memory(bytes: u64) -> io::Result<fs::File> {
    let memory = fs::File::from(rustix::fs::memfd_create(
        "guest",
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    memory.set_len(bytes)?;
    Ok(memory)
}

/// Copies a guest's memory to a file. Pages that the guest never wrote, or gave back, become holes.
pub fn save_memory(mut memory: &fs::File, to: &Path) -> io::Result<()> {
    let mut file = fs::File::create(to)?;
    file.set_len(memory.metadata()?.len())?;
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(memory, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(memory, rustix::fs::SeekFrom::Hole(at))?;
        memory.seek(io::SeekFrom::Start(at))?;
        file.seek(io::SeekFrom::Start(at))?;
        io::copy(&mut memory.take(end - at), &mut file)?;
        at = end;
    }
}

/// Returns the SHA-256 of a file in hexadecimal.
pub fn checksum(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        match buffer.get(..n) {
            Some(bytes) if !bytes.is_empty() => hash.update(bytes),
            _ => return Ok(hex::encode(hash.finalize())),
        }
    }
}

impl Manifest {
    /// Returns the accelerator of its nodes.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.nodes
            .first()
            .map_or(Accelerator::Tcg, |node| node.machine.accelerator)
    }

    /// Returns the memory of all its nodes together, in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u32 {
        self.nodes.iter().map(|node| node.machine.memory_mib).sum()
    }

    /// Returns the path of the manifest in a snapshot's folder.
    #[must_use]
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("manifest.json")
    }

    /// Reads the manifest of a snapshot's folder.
    pub fn load(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(Self::path(folder))?)?)
    }

    /// Adds the checksums of the folder's files, makes the files read-only, and writes the manifest, which completes
    /// the snapshot.
    pub fn seal(mut self, folder: &Path) -> io::Result<Self> {
        self.files = seal_files(folder)?;
        self.files.remove("manifest.json");
        write_last(&Self::path(folder), &self)?;
        Ok(self)
    }

    /// Compares every file and the image's disk with its checksum.
    pub fn verify(&self, folder: &Path, base_disk: &Path) -> Result<(), Damage> {
        let files = self
            .files
            .iter()
            .map(|(name, sum)| (folder.join(name), sum));
        let base = (!self.base_disk.is_empty()).then_some((base_disk.to_owned(), &self.base_disk));
        for (path, expected) in files.chain(base) {
            verify_file(&path, expected)?;
        }
        Ok(())
    }
}

/// Makes a folder's files read-only, writes them to disk, and returns their SHA-256 by name.
pub(crate) fn seal_files(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    use std::os::unix::fs::PermissionsExt;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o444))?;
            fs::File::open(entry.path())?.sync_all()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, checksum(&entry.path())?);
        }
    }
    Ok(files)
}

/// Writes a manifest atomically, after everything that it describes.
pub(crate) fn write_last(path: &Path, manifest: &impl Serialize) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec_pretty(manifest)?)?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path)
}

/// Compares a file with its checksum.
pub(crate) fn verify_file(path: &Path, expected: &str) -> Result<(), Damage> {
    let path = path.to_owned();
    match checksum(&path) {
        Ok(found) if found == expected => Ok(()),
        Ok(_) => Err(Damage::Changed { path }),
        Err(source) => Err(Damage::Unreadable { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn memory_is_kept_with_its_holes() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node1.mem");
        let memory = new_memory(8 * MIB).unwrap();
        save_memory(&memory, &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
        memory.write_all_at(&[7; 4096], 2 * MIB).unwrap();
        memory.write_all_at(&[9], 8 * MIB - 1).unwrap();
        save_memory(&memory, &path).unwrap();
        let kept = fs::read(&path).unwrap();
        assert_eq!(kept.len() as u64, 8 * MIB);
        let at = |i: u64| kept.get(usize::try_from(i).unwrap()).copied();
        assert_eq!((at(2 * MIB), at(8 * MIB - 1)), (Some(7), Some(9)));
        assert_eq!(kept.iter().filter(|&&b| b != 0).count(), 4097);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 <= MIB);
    }
}
