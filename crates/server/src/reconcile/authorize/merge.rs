//! Merges root's `authorized_keys`: adds and removes a person's keys, and keeps everything else.

use faultline_gateway::PublicKey;

/// The maximum length of a line, in bytes. The guest refuses longer ones.
const MAX_LINE: usize = 16 * 1024;

/// Returns the new lines of the file: the lines of `now`, except for keys whose fingerprints are in `removed`, followed
/// by those of `keys` that are missing. Lines that aren't text are dropped.
pub(super) fn merge(now: &[u8], keys: &[String], removed: &[String]) -> Vec<String> {
    let text = now.split(|b| *b == b'\n').filter_map(as_text);
    let mut lines: Vec<String> = text
        .filter(|line| !key_of(line).is_some_and(|key| removed.contains(&key.fingerprint)))
        .map(str::to_owned)
        .collect();
    let there: Vec<String> = lines
        .iter()
        .filter_map(|line| Some(key_of(line)?.line))
        .collect();
    let missing = keys.iter().filter(|key| !there.contains(key));
    lines.extend(missing.cloned());
    lines
}

/// Returns a line without its line ending; none if it is empty or the guest would refuse it.
fn as_text(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let is_valid = !line.contains(|c: char| c.is_control() && c != '\t') && line.len() <= MAX_LINE;
    (is_valid && !line.is_empty()).then_some(line)
}

/// Returns the fingerprint of a line's key; none if it has no key.
pub(super) fn fingerprint(line: &str) -> Option<String> {
    Some(key_of(line)?.fingerprint)
}

struct Key {
    /// The algorithm and the key.
    line: String,
    fingerprint: String,
}

/// Returns the key of a line, which may have options before it and a comment after it.
fn key_of(line: &str) -> Option<Key> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let key = words
        .windows(2)
        .find_map(|pair| PublicKey::parse(&pair.join(" ")).ok())?;
    Some(Key {
        line: key.as_openssh().to_owned(),
        fingerprint: key.fingerprint().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const LAB: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAtT9yWBdwLWbieU1ebz9JdD7y3aLq454/cu7/QEXn9O";

    #[test]
    fn keys_are_added_to_what_a_student_wrote() {
        let ann = [ANN.to_owned()];
        assert_eq!(merge(b"", &ann, &[]), ann);
        assert_eq!(merge(b"", &[], &[]), [""; 0]);
        let file = format!("# mine\r\n\n{LAB} root@node1\n");
        let both = merge(file.as_bytes(), &ann, &[]);
        let lab = format!("{LAB} root@node1");
        assert_eq!(both, ["# mine", &lab, ANN]);
        let text = both.join("\n");
        assert_eq!(merge(text.as_bytes(), &ann, &[]), both, "once");
        // A key with the student's own options is already there.
        let own = format!("from=\"10.77.0.1, 10.77.0.2\" {ANN} me");
        assert_eq!(merge(own.as_bytes(), &ann, &[]), [own]);
    }

    #[test]
    fn a_removed_key_is_removed_from_every_line() {
        let file = format!("{ANN}\n{LAB}\ncommand=\"ls -l\" {ANN} ann@laptop\n# {ANN}\n");
        let left = merge(file.as_bytes(), &[], &[fingerprint(ANN).unwrap()]);
        assert_eq!(left, [LAB.to_owned(), format!("# {ANN}")]);
    }

    #[test]
    fn lines_that_the_guest_would_refuse_are_dropped() {
        let long = "x".repeat(MAX_LINE + 1);
        let file = [b"\xff\xfe\n", long.as_bytes(), b"\na\0b\nkept\tline\n"].concat();
        assert_eq!(merge(&file, &[], &[]), ["kept\tline"]);
    }
}
