//! Queries in what a program shows: sequences that a terminal answers by typing, such as DA, DSR, DECRQM or OSC 11.
//!
//! A query wants one answer. Shown to two viewers it gets two, and shown again to a new viewer it gets one that nobody
//! waits for and that the shell runs as a command. So queries are told apart from the rest.

use std::mem;

use bytes::Bytes;

/// A piece of a program's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// What every viewer shows, and a new one again.
    Shown(Bytes),
    /// One whole query.
    Query(Bytes),
}

/// The longest sequence that is looked at, in bytes. No query is longer; a picture (sixel) is.
const LONGEST: usize = 4096;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
/// The first byte of the UTF-8 forms of the C1 controls.
const C1: u8 = 0xc2;

/// Where in ECMA-48's grammar the output stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Ground,
    /// After [`C1`], which may begin a letter just as well.
    Lead,
    Escape,
    /// An escape sequence with intermediate bytes, such as `ESC ( B`.
    Intermediate,
    Csi,
    /// OSC, the only string that BEL ends too.
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
            // Controls within a sequence are carried out, and it goes on.
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

/// Tells queries apart in a stream of output. An unfinished sequence is held back until the rest of it comes.
#[derive(Debug, Default)]
pub struct Splitter {
    state: State,
    held: Vec<u8>,
    /// The sequence under way is too long to be a query; its beginning was passed on.
    long: bool,
}

impl Splitter {
    /// The pieces that are complete with these bytes.
    pub fn split(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut shown = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match self.state {
                State::Ground if byte != ESC && byte != C1 => {
                    shown.push(byte);
                    continue;
                }
                // What came before is void.
                State::Escape | State::Intermediate | State::Csi if byte == ESC => {
                    shown.append(&mut self.held);
                    self.state = State::Ground;
                }
                // The string ended at the ESC, which begins another sequence.
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
                shown.append(&mut self.held);
                self.long = true;
            }
        }
        if !shown.is_empty() {
            pieces.push(Piece::Shown(shown.into()));
        }
        pieces
    }

    /// Passes on the sequence that has ended.
    fn finish(&mut self, shown: &mut Vec<u8>, pieces: &mut Vec<Piece>) {
        let sequence = mem::take(&mut self.held);
        if mem::take(&mut self.long) || !is_query(&sequence) {
            shown.extend(sequence);
            return;
        }
        if !shown.is_empty() {
            pieces.push(Piece::Shown(mem::take(shown).into()));
        }
        pieces.push(Piece::Query(sequence.into()));
    }
}

/// True for a whole sequence that terminals answer.
fn is_query(sequence: &[u8]) -> bool {
    match sequence {
        [ESC, b'Z'] => true,
        [ESC, b'[', body @ ..] | [C1, 0x9b, body @ ..] => asks(body),
        [ESC, b']', body @ ..] | [C1, 0x9d, body @ ..] => asks_for_a_setting(body),
        // DECRQSS and XTGETTCAP.
        [ESC, b'P', body @ ..] | [C1, 0x90, body @ ..] => {
            body.starts_with(b"$q") || body.starts_with(b"+q")
        }
        _ => false,
    }
}

/// True for the control sequences that are answered, by what follows their introducer.
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
        // Reports of the window.
        (None, None, b't') => matches!(
            rest.split(|b| *b == b';').next(),
            Some(b"11" | b"13" | b"14" | b"15" | b"16" | b"18" | b"19" | b"20" | b"21")
        ),
        _ => false,
    }
}

/// True for a question mark in the place of a colour, a font, or the clipboard's content.
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
