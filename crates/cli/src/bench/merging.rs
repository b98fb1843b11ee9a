//! Measures what merging of identical pages (KSM) would save, by comparing the content of the guests' private pages.
//! Nothing is merged.

use std::{
    collections::HashSet,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::FileExt,
};

const PAGE: usize = 4096;
/// Fields of an entry in `/proc/<pid>/pagemap`; see the kernel's `Documentation/admin-guide/mm/pagemap.rst`.
const PRESENT: u64 = 1 << 63;
const OF_A_FILE: u64 = 1 << 61;

/// The private pages that were added, by content.
#[derive(Debug, Default)]
pub(super) struct Pages {
    seen: HashSet<u64>,
    repeated: u64,
}

impl Pages {
    /// Adds the private pages of a QEMU process's guest.
    pub(super) fn add(&mut self, pid: u32) -> io::Result<()> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let entries = File::open(format!("/proc/{pid}/pagemap"))?;
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mut page = [0; PAGE];
        for range in maps.lines().filter(|l| l.ends_with(".mem")) {
            let Some((from, to)) = bounds(range) else {
                continue;
            };
            for at in (from..to).step_by(PAGE) {
                let mut entry = [0; 8];
                entries.read_exact_at(&mut entry, at / PAGE as u64 * 8)?;
                let entry = u64::from_ne_bytes(entry);
                if entry & PRESENT != 0 && entry & OF_A_FILE == 0 {
                    memory.read_exact_at(&mut page, at)?;
                    self.note(&page);
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, page: &[u8; PAGE]) {
        let mut hasher = DefaultHasher::new();
        page.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            self.repeated += 1;
        }
    }

    /// Returns the size of the pages that are copies of others, in bytes.
    pub(super) fn repeated_bytes(&self) -> u64 {
        self.repeated * PAGE as u64
    }
}

/// Parses the address range of a line of `/proc/<pid>/maps`.
fn bounds(line: &str) -> Option<(u64, u64)> {
    let (from, rest) = line.split_once('-')?;
    let to = rest.split_ascii_whitespace().next()?;
    Some((
        u64::from_str_radix(from, 16).ok()?,
        u64::from_str_radix(to, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_once_each() {
        let mut pages = Pages::default();
        for page in [[0; PAGE], [1; PAGE], [0; PAGE], [0; PAGE]] {
            pages.note(&page);
        }
        assert_eq!(pages.repeated_bytes(), 2 * PAGE as u64);
    }

    #[test]
    fn a_line_of_maps() {
        let line = "7f00-8f00 rw-p 00000000 fe:00 12 /x/node1.mem";
        assert_eq!(bounds(line), Some((0x7f00, 0x8f00)));
        assert_eq!(bounds("nonsense"), None);
    }
}
