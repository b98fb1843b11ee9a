//! What becomes of root's `authorized_keys`: a person's keys come and go, all else that is in it stays.

use faultline_gateway::PublicKey;

/// The longest line that is kept, in bytes: the guest takes no longer one.
const LONGEST: usize = 16 * 1024;

/// The lines of the file: those of `now` without the keys whose fingerprints are in `removed`, then those of `keys`
/// that are missing. Lines that are no text are dropped.
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

/// A line without its end, unless it is empty or can't be given to the guest.
fn as_text(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let is_fit = !line.contains(|c: char| c.is_control() && c != '\t') && line.len() <= LONGEST;
    (is_fit && !line.is_empty()).then_some(line)
}

struct Key {
    /// Algorithm and key.
    line: String,
    fingerprint: String,
}

/// The key of a line, which may have options before it and a comment behind it.
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

    fn fingerprint(key: &str) -> String {
        PublicKey::parse(key).unwrap().fingerprint().to_owned()
    }

    #[test]
    fn keys_come_beside_what_a_student_wrote() {
        let ann = [ANN.to_owned()];
        assert_eq!(merge(b"", &ann, &[]), ann);
        assert_eq!(merge(b"", &[], &[]), [""; 0]);
        let file = format!("# mine\r\n\n{LAB} root@node1\n");
        let both = merge(file.as_bytes(), &ann, &[]);
        let lab = format!("{LAB} root@node1");
        assert_eq!(both, ["# mine", &lab, ANN]);
        let text = both.join("\n");
        assert_eq!(merge(text.as_bytes(), &ann, &[]), both, "once");
        // With options of the student's own it is there already.
        let own = format!("from=\"10.77.0.1, 10.77.0.2\" {ANN} me");
        assert_eq!(merge(own.as_bytes(), &ann, &[]), [own]);
    }

    #[test]
    fn a_removed_key_goes_in_whatever_line_it_is() {
        let file = format!("{ANN}\n{LAB}\ncommand=\"ls -l\" {ANN} ann@laptop\n# {ANN}\n");
        let left = merge(file.as_bytes(), &[], &[fingerprint(ANN)]);
        assert_eq!(left, [LAB.to_owned(), format!("# {ANN}")]);
    }

    #[test]
    fn what_the_guest_would_refuse_is_dropped() {
        let long = "x".repeat(LONGEST + 1);
        let file = [b"\xff\xfe\n", long.as_bytes(), b"\na\0b\nkept\tline\n"].concat();
        assert_eq!(merge(&file, &[], &[]), ["kept\tline"]);
    }
}
