//! Cleans text from guests, which is hostile until it is bounded and cleaned.

/// Makes text safe for a page, a log or a terminal: replaces invalid UTF-8, removes terminal sequences and control
/// characters except newlines and tabs, trims trailing white space, and truncates to `max` characters.
#[must_use]
pub fn clean(bytes: &[u8], max: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut kept = 0usize;
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            skip_sequence(&mut chars);
            continue;
        }
        if invisible(c) {
            continue;
        }
        if kept == max {
            out.push('…');
            break;
        }
        out.push(c);
        kept += 1;
    }
    out.truncate(out.trim_end().len());
    out
}

/// Returns the end of `bytes`, cleaned, at most about `max` characters, beginning with a whole line if one fits.
#[must_use]
pub fn clean_tail(bytes: &[u8], max: usize) -> String {
    let text = clean(bytes, usize::MAX);
    let count = text.chars().count();
    if count <= max {
        return text;
    }
    let tail: String = text.chars().skip(count - max).collect();
    match tail.split_once('\n') {
        Some((_, rest)) if !rest.is_empty() => format!("…\n{rest}"),
        _ => format!("…{tail}"),
    }
}

/// Returns true for control characters and for those that reorder or hide text.
fn invisible(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Skips what follows an escape character: a CSI sequence up to its final byte, an OSC string up to its terminator, or
/// one character.
fn skip_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => {
            for c in chars.by_ref() {
                if ('@'..='~').contains(&c) {
                    break;
                }
            }
        }
        Some(']' | 'P' | '_' | '^' | 'X') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' {
                    break;
                }
                if c == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sequences_and_controls_are_dropped() {
        assert_eq!(
            clean(b"\x1b[31mred\x1b[0m\x07 \x1b]0;title\x07x\r\n\ttab\0", 100),
            "red x\n\ttab"
        );
        assert_eq!(clean("a\u{202e}b".as_bytes(), 100), "ab");
        assert_eq!(clean(b"\xff\xfe", 100), "\u{fffd}\u{fffd}");
        assert_eq!(clean(b"abcdef", 3), "abc…");
        assert_eq!(clean(b"\x1b", 3), "");
    }

    #[test]
    fn a_tail_begins_with_a_whole_line() {
        assert_eq!(clean_tail(b"one\ntwo\nthree\n", 8), "…\nthree");
        assert_eq!(clean_tail(b"short\n", 80), "short");
    }
}
