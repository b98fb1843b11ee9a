//! The user ids that QEMU processes run as. Each environment has its own, so that none can access another's files and
//! processes.

use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt};

use rand::Rng;

/// The first user id: outside the ranges that systems use for people, services and containers.
const FIRST: u32 = 0x7000_0000;
/// The number of user ids.
const COUNT: u32 = 0x0100_0000;

/// Returns a user id that is not in `taken` and that no process on this machine has.
pub fn allocate(taken: &BTreeSet<u32>) -> io::Result<u32> {
    free(taken, &running()?, rand::rng().random_range(0..COUNT))
        .ok_or_else(|| io::Error::other("all user ids are in use"))
}

/// Returns the first free user id from an offset on, wrapping around.
fn free(taken: &BTreeSet<u32>, running: &BTreeSet<u32>, offset: u32) -> Option<u32> {
    (0..COUNT)
        .map(|n| FIRST + (offset + n) % COUNT)
        .find(|number| !taken.contains(number) && !running.contains(number))
}

/// Returns the user ids of this machine's processes.
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
        // A process that ends in the meantime doesn't matter.
        .filter_map(|entry| Some(entry.metadata().ok()?.uid()))
        .collect())
}

/// Returns the user id that earlier versions derived from an environment's id. QEMU processes that they started run as
/// it.
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

    /// Among a thousand environments, derived ids collide, but allocated ones don't.
    #[test]
    fn a_thousand_environments_have_a_thousand_numbers() {
        let mut taken = BTreeSet::new();
        for n in 0..1000 {
            // All start from the same offset.
            let number = free(&taken, &BTreeSet::new(), derived("same")).unwrap();
            assert!(taken.insert(number), "{n}");
        }
    }
}
