//! The numbers that QEMUs run as: one for each environment, so that none holds anything of another's.

use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt};

use rand::Rng;

/// Where the numbers begin: outside the ranges that systems give to people, services and containers.
const FIRST: u32 = 0x7000_0000;
/// How many there are.
const COUNT: u32 = 0x0100_0000;

/// A number that is not among `taken` and as which nothing runs on this machine.
pub fn allocate(taken: &BTreeSet<u32>) -> io::Result<u32> {
    free(taken, &running()?, rand::rng().random_range(0..COUNT))
        .ok_or_else(|| io::Error::other("all user numbers are taken"))
}

/// The first free number from an offset on, around the end.
fn free(taken: &BTreeSet<u32>, running: &BTreeSet<u32>, offset: u32) -> Option<u32> {
    (0..COUNT)
        .map(|n| FIRST + (offset + n) % COUNT)
        .find(|number| !taken.contains(number) && !running.contains(number))
}

/// The numbers as which this machine's processes run.
fn running() -> io::Result<BTreeSet<u32>> {
    let processes = fs::read_dir("/proc")?.flatten();
    Ok(processes
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        // One that ends meanwhile holds nothing.
        .filter_map(|entry| Some(entry.metadata().ok()?.uid()))
        .collect())
}

/// The number that earlier versions derived from an environment's id: what they started runs as it.
pub(crate) fn derived(id: &str) -> u32 {
    let hash = id.bytes().fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    FIRST | (hash & (COUNT - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_or_runs_is_passed_over() {
        let taken = BTreeSet::from([FIRST + COUNT - 1, FIRST + 1]);
        let running = BTreeSet::from([FIRST]);
        assert_eq!(free(&taken, &running, COUNT - 1), Some(FIRST + 2));
        assert_eq!(free(&taken, &running, 7), Some(FIRST + 7));
        let everybody: BTreeSet<u32> = (FIRST..FIRST + COUNT).collect();
        assert_eq!(free(&everybody, &BTreeSet::new(), 5), None);
    }

    #[test]
    fn this_process_is_seen() {
        assert!(
            running()
                .unwrap()
                .contains(&rustix::process::geteuid().as_raw())
        );
    }

    /// Among a thousand environments the derived ones collide; allocated ones don't.
    #[test]
    fn a_thousand_environments_have_a_thousand_numbers() {
        let mut taken = BTreeSet::new();
        for n in 0..1000 {
            // All begin at the same place.
            let number = free(&taken, &BTreeSet::new(), derived("same")).unwrap();
            assert!(taken.insert(number), "{n}");
        }
    }
}
