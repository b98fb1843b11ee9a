//! A save point on disk: what all nodes of a tenant have changed since their template, at one instant. The manifest is
//! written last, so that a folder with a manifest is complete.
//!
//! ```text
//! <save>/save.json        the tenant's spec, and a checksum of every file
//!        <node>.pages     the pages of memory that differ from the template's, one after the other
//!        <node>.extents   where they belong: offset and length in bytes, both as 64-bit little-endian numbers
//!        <node>.state     device state (about 1 MB)
//!        <node>.qcow2     the overlay on the template's disk
//! ```
//!
//! A clone's private pages are found in `/proc/<pid>/pagemap`: they are anonymous, while those that it shares with the
//! template are pages of a file. A node that was booted shares nothing; its memory is a file without a name, whose
//! holes were never written.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use faultline_domain::{NodeName, save_point::Saved};
use serde::{Deserialize, Serialize};

use crate::{
    qemu,
    snapshot::{self, Damage},
    spec::{LaunchSpec, Start},
};

/// The bits of an entry of `/proc/<pid>/pagemap`, see the kernel's documentation of it.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;
/// The size of a page, in bytes.
const PAGE: u64 = 4096;
/// The number of bytes that are copied at once.
const CHUNK: u64 = 1 << 20;

/// The description of a save point, with the checksums of its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The spec of the tenant at that instant.
    pub spec: LaunchSpec,
    /// The version of QEMU.
    pub qemu: String,
    /// The generation of its arguments, see [`qemu::GENERATION`].
    pub generation: String,
    /// The SHA-256 of the manifest of the template that the nodes were cloned from, if they were.
    pub template: Option<String>,
    /// How long the nodes stood still, in milliseconds.
    pub paused_millis: u64,
    /// The size of all files, in bytes.
    pub bytes: u64,
    /// The SHA-256 of every file, by name.
    pub files: BTreeMap<String, String>,
}

/// The reason why a save point can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its manifest can't be read.
    #[error("its manifest can't be read")]
    Unreadable(#[source] io::Error),
    /// A file has changed.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// It was made with another QEMU, whose device state this one doesn't understand.
    #[error("it was made with {made}, but this host runs {found}")]
    OtherQemu {
        /// The version that it was made with.
        made: String,
        /// The version of this host.
        found: String,
    },
    /// The template that its nodes were cloned from can't be read.
    #[error("the template that its machines were cloned from can't be read")]
    WithoutTemplate(#[source] io::Error),
    /// That template was built anew, so its memory differs.
    #[error("the template that its machines were cloned from was built anew")]
    OtherTemplate,
    /// It was made by a version of Faultline that runs QEMU with other arguments.
    #[error("it was made by another version of Faultline, whose machines differ from today's")]
    OtherMachine,
}

impl Manifest {
    /// Returns the path of the manifest in a save point's folder.
    #[must_use]
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("save.json")
    }

    /// Reads the manifest of a save point's folder.
    pub fn load(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(Self::path(folder))?)?)
    }

    /// Writes the files in the folder to disk, adds their checksums and sizes, and writes the manifest, which completes
    /// the save point.
    pub(crate) fn seal(folder: &Path, spec: LaunchSpec, paused_millis: u64) -> io::Result<Self> {
        let files = snapshot::seal_files(folder)?;
        let mut bytes = 0;
        for name in files.keys() {
            bytes += fs::metadata(folder.join(name))?.len();
        }
        let manifest = Self {
            template: template_of(&spec)?,
            spec,
            qemu: qemu::version()?,
            generation: qemu::GENERATION.to_owned(),
            paused_millis,
            bytes,
            files,
        };
        snapshot::write_last(&Self::path(folder), &manifest)?;
        Ok(manifest)
    }

    /// Returns its figures.
    #[must_use]
    pub const fn saved(&self) -> Saved {
        Saved {
            bytes: self.bytes,
            paused_millis: self.paused_millis,
        }
    }

    /// Reads a save point's manifest and compares every file with its checksum.
    pub fn verified(folder: &Path) -> Result<Self, Unusable> {
        let manifest = Self::load(folder).map_err(Unusable::Unreadable)?;
        let found = qemu::version().map_err(Unusable::Unreadable)?;
        if manifest.qemu != found {
            return Err(Unusable::OtherQemu {
                made: manifest.qemu,
                found,
            });
        }
        if manifest.generation != qemu::GENERATION {
            return Err(Unusable::OtherMachine);
        }
        let template = template_of(&manifest.spec).map_err(Unusable::WithoutTemplate)?;
        if manifest.template != template {
            return Err(Unusable::OtherTemplate);
        }
        for (name, sum) in &manifest.files {
            snapshot::verify_file(&folder.join(name), sum)?;
        }
        Ok(manifest)
    }
}

/// Returns the checksum of the manifest of the template that nodes were cloned from.
fn template_of(spec: &LaunchSpec) -> io::Result<Option<String>> {
    match &spec.start {
        Start::Clone { snapshot } => {
            snapshot::checksum(&snapshot::Manifest::path(snapshot)).map(Some)
        }
        Start::Boot { .. } => Ok(None),
    }
}

/// The path of a node's file in a save point's folder.
pub(crate) fn path_of(folder: &Path, node: &NodeName, kind: &str) -> PathBuf {
    folder.join(format!("{node}.{kind}"))
}

/// The memory of a node's guest.
#[derive(Debug)]
pub(crate) enum Memory {
    /// The process id of a QEMU that maps its template's memory privately.
    Private(u32),
    /// The memory of a node that was booted, see [`snapshot::new_memory`].
    Own(File),
}

/// A part of the guest memory: its offset and its length, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    at: u64,
    len: u64,
}

/// A part of a process that maps the guest memory.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    /// The address.
    start: u64,
    /// The part of the guest memory.
    part: Extent,
}

/// Returns where a process maps the template's memory, from the text of its `/proc/<pid>/maps`.
fn mappings(maps: &str) -> Vec<Mapping> {
    let mapping = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let at = words.nth(1)?;
        let number = |hex| u64::from_str_radix(hex, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        Some(Mapping {
            start,
            part: Extent {
                at: number(at)?,
                len: end.checked_sub(start)?,
            },
        })
    };
    maps.lines()
        .filter(|line| line.ends_with(".mem"))
        .filter_map(mapping)
        .collect()
}

/// Adds a part to a list, joining it with the last one if they touch.
fn push(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        Some(last) if last.at + last.len == next.at => last.len += next.len,
        _ => extents.push(next),
    }
}

/// Returns the private pages of a mapping.
fn private_pages(pagemap: &File, mapping: &Mapping) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut entries = vec![0; 8 * 8192];
    let (first, count) = (mapping.start / PAGE, mapping.part.len / PAGE);
    let mut page = 0;
    while page < count {
        let want = usize::try_from((count - page) * 8).unwrap_or(usize::MAX);
        let want = want.min(entries.len());
        let read = entries.get_mut(..want).unwrap_or_default();
        pagemap.read_exact_at(read, (first + page) * 8)?;
        for entry in read.as_chunks::<8>().0 {
            let entry = u64::from_ne_bytes(*entry);
            if entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0 {
                let at = mapping.part.at + page * PAGE;
                push(&mut extents, Extent { at, len: PAGE });
            }
            page += 1;
        }
    }
    Ok(extents)
}

/// Returns the parts of a memory file that were written.
fn written_pages(memory: &File) -> io::Result<Vec<Extent>> {
    use rustix::{fs::SeekFrom, io::Errno};
    let (mut extents, mut at) = (Vec::new(), 0);
    loop {
        at = match rustix::fs::seek(memory, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(extents),
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(memory, SeekFrom::Hole(at))?;
        extents.push(Extent { at, len: end - at });
        at = end;
    }
}

/// Writes the memory of a node that stands still into a save point's folder.
pub(crate) fn save_memory(memory: &Memory, folder: &Path, node: &NodeName) -> io::Result<()> {
    let mut pages = File::create(path_of(folder, node, "pages"))?;
    let mut extents = BufWriter::new(File::create(path_of(folder, node, "extents"))?);
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(0)];
    let mut keep = |from: &File, part: Extent, address: u64| -> io::Result<()> {
        extents.write_all(&part.at.to_le_bytes())?;
        extents.write_all(&part.len.to_le_bytes())?;
        let mut done = 0;
        while done < part.len {
            let want = usize::try_from((part.len - done).min(CHUNK)).unwrap_or(0);
            let bytes = buffer.get_mut(..want).unwrap_or_default();
            from.read_exact_at(bytes, address + done)?;
            pages.write_all(bytes)?;
            done += want as u64;
        }
        Ok(())
    };
    match memory {
        Memory::Own(file) => {
            for part in written_pages(file)? {
                keep(file, part, part.at)?;
            }
        }
        Memory::Private(pid) => {
            let bytes = File::open(format!("/proc/{pid}/mem"))?;
            let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
            for mapping in mappings(&fs::read_to_string(format!("/proc/{pid}/maps"))?) {
                for part in private_pages(&pagemap, &mapping)? {
                    keep(&bytes, part, mapping.start + (part.at - mapping.part.at))?;
                }
            }
        }
    }
    extents.flush()
}

/// Writes the saved memory of a node into a QEMU that waits for its device state.
pub(crate) fn restore_memory(memory: &Memory, folder: &Path, node: &NodeName) -> io::Result<()> {
    let mut pages = File::open(path_of(folder, node, "pages"))?;
    let extents = fs::read(path_of(folder, node, "extents"))?;
    let number = |bytes: &[u8]| {
        let bytes: Option<[u8; 8]> = bytes.try_into().ok();
        bytes.map(u64::from_le_bytes)
    };
    let (into, mapped) = match memory {
        Memory::Own(file) => (file.try_clone()?, Vec::new()),
        Memory::Private(pid) => (
            File::options()
                .write(true)
                .open(format!("/proc/{pid}/mem"))?,
            mappings(&fs::read_to_string(format!("/proc/{pid}/maps"))?),
        ),
    };
    let address = |at: u64| match memory {
        Memory::Own(_) => Some(at),
        Memory::Private(_) => mapped
            .iter()
            .find(|m| (m.part.at..m.part.at + m.part.len).contains(&at))
            .map(|m| m.start + (at - m.part.at)),
    };
    let strange = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the saved memory is not the machine's",
        )
    };
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(0)];
    for pair in extents.chunks(16) {
        let (at, len) = pair.split_at_checked(8).ok_or_else(strange)?;
        let (at, len) = number(at).zip(number(len)).ok_or_else(strange)?;
        let mut done = 0;
        while done < len {
            let want = usize::try_from((len - done).min(CHUNK)).unwrap_or(0);
            let bytes = buffer.get_mut(..want).unwrap_or_default();
            pages.read_exact(bytes)?;
            into.write_all_at(bytes, address(at + done).ok_or_else(strange)?)?;
            done += want as u64;
        }
    }
    Ok(())
}

/// Copies a disk, sharing its blocks if the file system can.
pub(crate) fn copy_disk(from: &Path, to: &Path) -> io::Result<()> {
    let (from, mut to) = (File::open(from)?, File::create(to)?);
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    io::copy(&mut &from, &mut to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_templates_memory_is_a_mapping() {
        let maps = "\
7f0000000000-7f0000200000 rw-p 00000000 fe:00 12 /cache/bake/ab/node1.mem
7f0000200000-7f0000300000 rw-p 00400000 fe:00 12 /cache/bake/ab/node1.mem
7f0000400000-7f0000500000 rw-p 00000000 00:00 0 
7f0000600000-7f0000700000 rw-s 00000000 00:01 3 /memfd:guest (deleted)
";
        let found = mappings(maps);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            found[1],
            Mapping {
                start: 0x7f00_0020_0000,
                part: Extent {
                    at: 0x40_0000,
                    len: 0x10_0000
                },
            }
        );
    }

    /// The test's own process stands for QEMU: it maps a file privately and writes to some of its pages.
    #[test]
    fn private_pages_are_saved_and_restored() {
        let (dir, node) = (tempfile::tempdir().unwrap(), "node1".parse().unwrap());
        let pages = 64;
        let template = dir.path().join("node1.mem");
        fs::write(&template, vec![1; pages * 4096]).unwrap();
        let map = || Map::of(&File::open(&template).unwrap(), pages * 4096);
        let saved = {
            let mut memory = map();
            memory.bytes()[3 * 4096] = 7;
            memory.bytes()[4 * 4096] = 0;
            memory.bytes()[40 * 4096 + 1] = 9;
            // A page that was only read stays the template's.
            assert_eq!(memory.bytes()[50 * 4096], 1);
            save_memory(&Memory::Private(std::process::id()), dir.path(), &node).unwrap();
            memory.bytes().to_vec()
        };
        let written = fs::metadata(dir.path().join("node1.pages")).unwrap().len();
        assert_eq!(written, 3 * PAGE);
        let mut again = map();
        restore_memory(&Memory::Private(std::process::id()), dir.path(), &node).unwrap();
        assert!(again.bytes() == saved, "the memory differs");
        assert!(fs::read(&template).unwrap().iter().all(|b| *b == 1));
    }

    #[test]
    fn memory_of_a_booted_node_is_saved_and_restored_with_its_holes() {
        let (dir, node) = (tempfile::tempdir().unwrap(), "node2".parse().unwrap());
        let own = |file: &File| Memory::Own(file.try_clone().unwrap());
        let memory = snapshot::new_memory(8 << 20).unwrap();
        memory.write_all_at(&[7; 4096], 2 << 20).unwrap();
        memory.write_all_at(&[9], (8 << 20) - 1).unwrap();
        save_memory(&own(&memory), dir.path(), &node).unwrap();
        let again = snapshot::new_memory(8 << 20).unwrap();
        restore_memory(&own(&again), dir.path(), &node).unwrap();
        let read = |file: &File| {
            let mut bytes = vec![0; 8 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(read(&memory) == read(&again), "the memory differs");
        assert_eq!(written_pages(&again).unwrap().len(), 2);
    }

    struct Map(*mut u8, usize);

    #[expect(unsafe_code, reason = "a private mapping, as QEMU makes it")]
    impl Map {
        fn of(file: &File, len: usize) -> Self {
            use rustix::mm::{MapFlags, ProtFlags};
            let (all, private) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            // SAFETY: a new mapping of a file that nobody truncates.
            let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, all, private, file, 0) };
            Self(at.unwrap().cast(), len)
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: the mapping lives as long as self, and nobody else has it.
            unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
        }
    }

    #[expect(unsafe_code, reason = "a private mapping, as QEMU makes it")]
    impl Drop for Map {
        fn drop(&mut self) {
            // SAFETY: nobody uses the mapping any more.
            let _ = unsafe { rustix::mm::munmap(self.0.cast(), self.1) };
        }
    }
}
