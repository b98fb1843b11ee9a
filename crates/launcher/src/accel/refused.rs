//! Parses QEMU's messages about processor features that the host refuses. Pure.

use std::ops::RangeInclusive;

/// The CPU features, by QEMU's names, that registers (MSRs) belong to. Without the feature, QEMU doesn't set the
/// register.
const FEATURES: [(RangeInclusive<u32>, &str); 12] = [
    (0xc1..=0xc8, "pmu"),
    (0xcf..=0xcf, "core-capability"),
    (0x10a..=0x10a, "arch-capabilities"),
    (0x186..=0x18d, "pmu"),
    (0x309..=0x30c, "pmu"),
    (0x345..=0x345, "pmu"),
    (0x38d..=0x390, "pmu"),
    (0x480..=0x491, "vmx"),
    (0xc001_0000..=0xc001_0007, "pmu"),
    (0xc001_0117..=0xc001_0117, "svm"),
    (0xc001_0200..=0xc001_020b, "pmu"),
    (0xc000_0300..=0xc000_0302, "pmu"),
];

/// Returns the features in QEMU's messages, without duplicates. Registers of unknown features are ignored.
pub(super) fn refused(said: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in said.lines() {
        if let Some(feature) = of_register(line).or_else(|| of_warning(line))
            && !found.contains(&feature)
        {
            found.push(feature);
        }
    }
    found
}

/// Parses `error: failed to set MSR 0x10a to 0x69`, after which QEMU aborts.
fn of_register(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("failed to set MSR 0x")?;
    let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    let msr = u32::from_str_radix(digits, 16).ok()?;
    let (_, feature) = FEATURES.iter().find(|(msrs, _)| msrs.contains(&msr))?;
    Some((*feature).to_owned())
}

/// Parses `host doesn't support requested feature: CPUID.80000001H:ECX.svm [bit 2]`. For the feature of a register, it
/// has `MSR(48DH)` instead of the CPUID.
fn of_warning(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("host doesn't support requested feature: ")?;
    let (rest, _) = rest.split_once(" [bit")?;
    let (_, name) = ["EAX.", "EBX.", "ECX.", "EDX.", "H)."]
        .iter()
        .find_map(|register| rest.split_once(register))?;
    // The name becomes part of a command-line argument.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!name.is_empty() && name.chars().all(is_name)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_that_can_t_be_set_names_its_feature() {
        for (msr, feature) in [
            ("0x10a", "arch-capabilities"),
            ("0xcf", "core-capability"),
            ("0x48b", "vmx"),
            ("0x38d", "pmu"),
            ("0xc0010000", "pmu"),
        ] {
            let said = format!(
                "qemu-system-x86_64: error: failed to set MSR {msr} to 0x69\n\
                 qemu-system-x86_64: ../../target/i386/kvm/kvm.c:3183: kvm_buf_set_msrs: \
                 Assertion `ret == cpu->kvm_msr_buf->nmsrs' failed.\n"
            );
            assert_eq!(refused(&said), [feature], "{msr}");
        }
    }

    #[test]
    fn a_warning_names_its_feature() {
        let said = "\
            qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.80000001H:ECX.svm [bit 2]\n\
            qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.sse4.1 [bit 19]\n\
            qemu-system-x86_64: warning: host doesn't support requested feature: MSR(48DH).vmx-posted-intr [bit 7]\n\
            qemu-system-x86_64: warning: host doesn't support requested feature: CPUID[eax=07h,ecx=00h].EDX.avx512-fp16 [bit 23]\n\
            qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.80000001H:ECX.svm [bit 2]\n";
        assert_eq!(
            refused(said),
            ["svm", "sse4.1", "vmx-posted-intr", "avx512-fp16"]
        );
    }

    #[test]
    fn other_words_name_none() {
        for said in [
            "",
            "error: failed to set MSR 0x to 0x69",
            "error: failed to set MSR 0xffffffffff to 0x69",
            "error: failed to set MSR 0x1b to 0x69",
            "warning: host doesn't support requested feature: CPUID.01H:ECX [bit 2]",
            "warning: host doesn't support requested feature: CPUID.01H:ECX.a,b=c [bit 2]",
            "Could not access KVM kernel module: Permission denied",
        ] {
            assert!(refused(said).is_empty(), "{said}");
        }
    }
}
