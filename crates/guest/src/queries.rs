//! Queries in a program's output: sequences that a terminal responds to as if the response were typed, such as DA, DSR,
//! DECRQM or OSC 11.
//!
//! A query expects one response. With two viewers there would be two, and if the output is replayed to a new viewer,
//! nobody waits for the response and the shell runs it as a command. So queries are separated from other output.

use std::mem;

use bytes::Bytes;

/// A piece of a program's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// For every viewer, and replayed to new ones.
    Shown(Bytes),
    /// A query, or the next part of a long one: for one viewer, once.
    Query(Bytes),
}

/// The length in bytes up to which a sequence is held back until it is complete. Longer ones, such as pictures (sixel),
/// are classified by their beginning.
const LONGEST: usize = 4096;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
/// The first byte of the UTF-8 forms of the C1 controls.
const C1: u8 = 0xc2;

/// The position in ECMA-48's grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Ground,
    /// After [`C1`], which may also begin a letter.
    Lead,
    Escape,
    /// An escape sequence with intermediate bytes, such as `ESC ( B`.
    Intermediate,
    Csi,
    /// OSC, the only string that BEL ends as well.
    Osc,
    /// DCS, SOS, PM or APC.
    String,
    /// After an ESC within a string; true for OSC.
    StringEscape(bool),
    /// After [`C1`] within a string; true for OSC.
    StringLead(bool),
}

impl State {
    fn string(osc: bool) -> Self {
        if osc { Self::Osc } else { Self::String }
    }

    fn next(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Ground, ESC) => Self::Escape,
            (Self::Ground, C1) => Self::Lead,
            (_, CAN | SUB) => Self::Ground,
            (Self::Lead, 0x9b) | (Self::Escape, b'[') => Self::Csi,
            (Self::Lead, 0x9d) | (Self::Escape, b']') => Self::Osc,
            (Self::Lead, 0x90 | 0x98 | 0x9e | 0x9f) | (Self::Escape, b'P' | b'X' | b'^' | b'_') => {
                Self::String
            }
            (Self::Escape | Self::Intermediate, 0x20..=0x2f) => Self::Intermediate,
            // Control characters within a sequence take effect without ending it.
            (Self::Escape | Self::Intermediate | Self::Csi, 0x00..=0x1f | 0x7f)
            | (Self::Csi, 0x20..=0x3f) => self,
            (Self::Osc, BEL) => Self::Ground,
            (Self::Osc | Self::String, ESC) => Self::StringEscape(self == Self::Osc),
            (Self::Osc | Self::String, C1) => Self::StringLead(self == Self::Osc),
            (Self::Osc | Self::String, _) => self,
            (Self::StringLead(_), 0x9c) => Self::Ground,
            (Self::StringLead(osc), _) => Self::string(osc),
            _ => Self::Ground,
        }
    }
}

/// Separates queries from a stream of output. An incomplete sequence is held back until the rest arrives.
#[derive(Debug, Default)]
pub struct Splitter {
    state: State,
    held: Vec<u8>,
    /// Whether the current sequence is a query, if its beginning was already passed on because it is long.
    long: Option<bool>,
}

impl Splitter {
    /// Returns the pieces that these bytes complete.
    pub fn split(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut shown = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match self.state {
                State::Ground if byte != ESC && byte != C1 => {
                    shown.push(byte);
                    continue;
                }
                // An ESC cancels the sequence before it.
                State::Escape | State::Intermediate | State::Csi if byte == ESC => {
                    shown.append(&mut self.held);
                    self.state = State::Ground;
                }
                // An ESC ends the string and begins another sequence.
                State::StringEscape(_) if byte != b'\\' => {
                    self.held.pop();
                    self.finish(&mut shown, &mut pieces);
                    self.held.push(ESC);
                    self.state = State::Escape;
                }
                _ => {}
            }
            self.held.push(byte);
            self.state = self.state.next(byte);
            if self.state == State::Ground {
                self.finish(&mut shown, &mut pieces);
            } else if self.held.len() > LONGEST {
                let query = *self.long.get_or_insert_with(|| is_query(&self.held));
                self.pass_on(query, &mut shown, &mut pieces);
            }
        }
        if !shown.is_empty() {
            pieces.push(Piece::Shown(shown.into()));
        }
        pieces
    }

    /// Passes on a sequence that has ended.
    fn finish(&mut self, shown: &mut Vec<u8>, pieces: &mut Vec<Piece>) {
        let long = self.long.take();
        let query = long.unwrap_or_else(|| is_query(&self.held));
        self.pass_on(query, shown, pieces);
    }

    /// Passes on the bytes that were held back.
    fn pass_on(&mut self, query: bool, shown: &mut Vec<u8>, pieces: &mut Vec<Piece>) {
        let held = mem::take(&mut self.held);
        if !query || held.is_empty() {
            shown.extend(held);
            return;
        }
        if !shown.is_empty() {
            pieces.push(Piece::Shown(mem::take(shown).into()));
        }
        pieces.push(Piece::Query(held.into()));
    }
}

/// Returns true for a sequence that terminals respond to. Of long ones, the beginning is enough.
#[expect(clippy::indexing_slicing, reason = "counted within the slice")]
fn is_query(sequence: &[u8]) -> bool {
    match sequence {
        [ESC, b'Z'] => true,
        [ESC, b'[', body @ ..] | [C1, 0x9b, body @ ..] => asks(body),
        [ESC, b']', body @ ..] | [C1, 0x9d, body @ ..] => asks_for_a_setting(body),
        // DECRQSS and XTGETTCAP.
        [ESC, b'P', body @ ..] | [C1, 0x90, body @ ..] => {
            let parameters = body.iter().take_while(|b| matches!(b, 0x30..=0x3f));
            let rest = &body[parameters.count()..];
            rest.starts_with(b"$q") || rest.starts_with(b"+q")
        }
        _ => false,
    }
}

/// Returns true for a control sequence that terminals respond to. `body` is what follows the introducer.
fn asks(body: &[u8]) -> bool {
    let body: Vec<u8> = body.iter().copied().filter(|b| *b >= 0x20).collect();
    let Some((last, rest)) = body.split_last() else {
        return false;
    };
    let prefix = rest.first().filter(|b| matches!(b, b'<'..=b'?'));
    let intermediate = rest.last().filter(|b| matches!(b, 0x20..=0x2f));
    match (prefix, intermediate, last) {
        // DA1, DA2, DA3; DSR; DECREQTPARM.
        (None | Some(b'>' | b'='), None, b'c')
        | (None | Some(b'?'), None, b'n')
        | (None, None, b'x')
        // DECRQM; XTVERSION; the keyboard protocol's flags; XTSMGRAPHICS; XTQMODKEYS.
        | (None | Some(b'?'), Some(b'$'), b'p')
        | (Some(b'>'), None, b'q')
        | (Some(b'?'), None, b'u' | b'S' | b'm')
        // DECRQPSR; DECRQCRA; DECRQLP.
        | (None, Some(b'$'), b'w')
        | (None, Some(b'*'), b'y')
        | (None, Some(b'\''), b'|') => true,
        // Reports about the window.
        (None, None, b't') => matches!(
            rest.split(|b| *b == b';').next(),
            Some(b"11" | b"13" | b"14" | b"15" | b"16" | b"18" | b"19" | b"20" | b"21")
        ),
        _ => false,
    }
}

/// Returns true if a colour, a font or the clipboard's content is a question mark.
fn asks_for_a_setting(body: &[u8]) -> bool {
    let text = body
        .strip_suffix(&[BEL])
        .or_else(|| body.strip_suffix(&[ESC, b'\\']))
        .or_else(|| body.strip_suffix(&[C1, 0x9c]))
        .unwrap_or(body);
    let mut parts = text.split(|b| *b == b';');
    let setting = parts.next().and_then(|p| std::str::from_utf8(p).ok());
    matches!(
        setting.and_then(|p| p.parse().ok()),
        Some(4_u16 | 5 | 10..=19 | 21 | 50 | 52)
    ) && parts.any(|part| part == b"?")
}

#[cfg(test)]
mod tests;
