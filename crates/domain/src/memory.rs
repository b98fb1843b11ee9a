//! The memory of a host, as Linux reports it, or of a part of it.

/// The total and the available memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The total memory, in MiB.
    pub total_mib: u64,
    /// The memory that programs can still use without swapping, in MiB.
    pub available_mib: u64,
}

impl Memory {
    /// Parses the text of `/proc/meminfo`, see proc_meminfo(5). Returns `None` if either value is missing.
    #[must_use]
    pub fn parse(meminfo: &str) -> Option<Self> {
        let mib = |name: &str| -> Option<u64> {
            let rest = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
            let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
            Some(kib / 1024)
        };
        Some(Self {
            total_mib: mib("MemTotal:")?,
            available_mib: mib("MemAvailable:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:  4194304 kB\nMemFree: 1 kB\nMemAvailable:   2097152 kB\n";
        let expected = Memory {
            total_mib: 4096,
            available_mib: 2048,
        };
        assert_eq!(Memory::parse(text), Some(expected));
        assert_eq!(Memory::parse("MemTotal:  4194304 kB\n"), None);
    }
}
