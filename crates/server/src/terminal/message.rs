//! Messages from pages and programs.
//!
//! A page's WebSocket carries several terminals, each on a [`Channel`] whose number the page chooses. A program's
//! WebSocket carries a single terminal, and its messages have no channel.

use axum::extract::ws::Message;
use bytes::{Buf, Bytes};
use faultline_domain::NodeName;
use serde::{Deserialize, Serialize};

/// The maximum size of a message, in bytes.
pub(super) const MAX: usize = 64 * 1024;
/// The maximum size of a control message, in bytes.
const MAX_CONTROL: usize = 1024;
/// The maximum number of channels per page; a page has at most five nodes with eight terminals each.
const MAX_CHANNELS: u8 = 64;
/// The maximum number of terminals per node.
const MAX_TERMINALS: u32 = 8;

/// A terminal of an environment: its node and its number there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Which {
    node: NodeName,
    number: u32,
}

impl Which {
    /// Returns none if the number is out of range.
    pub(super) fn new(node: NodeName, number: u32) -> Option<Self> {
        (1..=MAX_TERMINALS)
            .contains(&number)
            .then_some(Self { node, number })
    }

    pub(super) const fn node(&self) -> &NodeName {
        &self.node
    }

    /// Returns the terminal's name in the guest.
    pub(super) fn session(&self) -> String {
        format!("web-{}", self.number)
    }

    /// Returns the number of the terminal with this name in the guest; none if it isn't one of a page.
    pub(crate) fn number_of(session: &str) -> Option<u32> {
        (1..=MAX_TERMINALS).find(|n| session == format!("web-{n}"))
    }
}

/// The number of a terminal on a page's WebSocket, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8")]
pub(super) struct Channel(u8);

impl TryFrom<u8> for Channel {
    type Error = &'static str;
    fn try_from(number: u8) -> Result<Self, Self::Error> {
        if (1..=MAX_CHANNELS).contains(&number) {
            Ok(Self(number))
        } else {
            Err("channel out of range")
        }
    }
}

impl From<Channel> for u8 {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

/// The size of a terminal, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Size {
    pub rows: u16,
    pub cols: u16,
}

impl Size {
    /// The default: 24 rows of 80 columns.
    pub(super) const DEFAULT: Self = Self { rows: 24, cols: 80 };

    pub(super) fn new(rows: u16, cols: u16) -> Result<Self, &'static str> {
        if (1..=500).contains(&rows) && (1..=1000).contains(&cols) {
            Ok(Self { rows, cols })
        } else {
            Err("size out of range")
        }
    }
}

/// Input for an open terminal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Keys(Bytes),
    Resize(Size),
}

/// A message from a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromPage {
    /// Attach to a terminal, and use this channel for it from now on.
    Open {
        channel: Channel,
        which: Which,
        size: Size,
    },
    Terminal {
        channel: Channel,
        input: Input,
    },
    /// Acknowledges that this many bytes of a terminal's output were shown.
    Shown {
        channel: Channel,
        bytes: usize,
    },
    /// End the terminal's shell and everything that runs in it.
    Close {
        channel: Channel,
    },
    /// A WebSocket ping or pong.
    Alive,
    /// A ping that wants a pong. Doesn't count as use.
    Ping,
    /// The page disconnects.
    Leave,
}

/// A page's text message.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum PageControl {
    Open {
        channel: Channel,
        node: NodeName,
        number: u32,
        rows: u16,
        cols: u16,
    },
    Resize {
        channel: Channel,
        rows: u16,
        cols: u16,
    },
    Shown {
        channel: Channel,
        bytes: usize,
    },
    Close {
        channel: Channel,
    },
    Ping,
}

impl FromPage {
    /// Parses a message, or returns why it is invalid.
    pub(super) fn read(message: Message) -> Result<Self, &'static str> {
        match message {
            Message::Binary(mut keys) => {
                let number = *keys.first().ok_or("keys without a channel")?;
                keys.advance(1);
                Ok(Self::Terminal {
                    channel: number.try_into()?,
                    input: Input::Keys(keys),
                })
            }
            Message::Text(text) => Self::of(control(&text)?),
            Message::Ping(_) | Message::Pong(_) => Ok(Self::Alive),
            Message::Close(_) => Ok(Self::Leave),
        }
    }

    fn of(control: PageControl) -> Result<Self, &'static str> {
        Ok(match control {
            PageControl::Open {
                channel,
                node,
                number,
                rows,
                cols,
            } => Self::Open {
                channel,
                which: Which::new(node, number).ok_or("terminal number out of range")?,
                size: Size::new(rows, cols)?,
            },
            PageControl::Resize {
                channel,
                rows,
                cols,
            } => Self::Terminal {
                channel,
                input: Input::Resize(Size::new(rows, cols)?),
            },
            PageControl::Close { channel } => Self::Close { channel },
            PageControl::Shown { channel, bytes } => Self::Shown { channel, bytes },
            PageControl::Ping => Self::Ping,
        })
    }
}

/// A message from a program on its terminal's WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromProgram {
    Terminal(Input),
    /// End the terminal's shell and everything that runs in it.
    Close,
    /// A WebSocket ping or pong.
    Alive,
    /// A ping that wants a pong. Doesn't count as use.
    Ping,
    /// The program disconnects.
    Leave,
}

/// A program's text message.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum ProgramControl {
    Resize { rows: u16, cols: u16 },
    Close,
    Ping,
}

impl FromProgram {
    /// Parses a message, or returns why it is invalid.
    pub(super) fn read(message: Message) -> Result<Self, &'static str> {
        match message {
            Message::Binary(keys) => Ok(Self::Terminal(Input::Keys(keys))),
            Message::Text(text) => Ok(match control(&text)? {
                ProgramControl::Resize { rows, cols } => {
                    Self::Terminal(Input::Resize(Size::new(rows, cols)?))
                }
                ProgramControl::Close => Self::Close,
                ProgramControl::Ping => Self::Ping,
            }),
            Message::Ping(_) | Message::Pong(_) => Ok(Self::Alive),
            Message::Close(_) => Ok(Self::Leave),
        }
    }
}

fn control<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, &'static str> {
    if text.len() > MAX_CONTROL {
        return Err("control message too large");
    }
    serde_json::from_str(text).map_err(|_| "invalid control message")
}

/// Parses a message as both kinds of WebSocket do. The first byte chooses the type of the message.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    let message = match (kind % 4, std::str::from_utf8(rest)) {
        (0 | 1, Ok(text)) => Message::Text(text.into()),
        (2, _) => Message::Ping(bytes),
        _ => Message::Binary(bytes),
    };
    let fits = |size: Size| (1..=500).contains(&size.rows) && (1..=1000).contains(&size.cols);
    if let Ok(FromProgram::Terminal(Input::Resize(size))) = FromProgram::read(message.clone()) {
        assert!(fits(size));
    }
    match FromPage::read(message) {
        Ok(FromPage::Open { channel, size, .. }) => {
            assert!((1..=MAX_CHANNELS).contains(&channel.0) && fits(size));
        }
        Ok(FromPage::Terminal { channel, input }) => {
            assert!((1..=MAX_CHANNELS).contains(&channel.0));
            assert!(!matches!(input, Input::Resize(size) if !fits(size)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_resizes_are_bounded_and_invalid_messages_are_refused() {
        let text = |t: &str| FromProgram::read(Message::Text(t.into()));
        assert_eq!(
            text(r#"{"type":"resize","rows":24,"cols":80}"#),
            Ok(FromProgram::Terminal(Input::Resize(Size::DEFAULT)))
        );
        assert_eq!(text(r#"{"type":"ping"}"#), Ok(FromProgram::Ping));
        assert_eq!(text(r#"{"type":"close"}"#), Ok(FromProgram::Close));
        for bad in [
            r#"{"type":"resize","rows":0,"cols":80}"#,
            r#"{"type":"resize","rows":24,"cols":80000}"#,
            r#"{"type":"resize","rows":24,"cols":1001}"#,
            r#"{"type":"resize","channel":1,"rows":24,"cols":80}"#,
            r#"{"type":"exec"}"#,
            "",
            "[]",
            &"x".repeat(2000),
        ] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pages_messages_name_their_channel() {
        let text = |t: &str| FromPage::read(Message::Text(t.into()));
        let open = |on: &str, node: &str, number: &str, rows: &str| {
            text(&format!(
                r#"{{"type":"open","channel":{on},"node":"{node}","number":{number},"rows":{rows},"cols":80}}"#
            ))
        };
        assert_eq!(
            open("7", "node1", "2", "24"),
            Ok(FromPage::Open {
                channel: Channel(7),
                which: Which::new("node1".parse().unwrap(), 2).unwrap(),
                size: Size::DEFAULT,
            })
        );
        for bad in [
            open("0", "node1", "2", "24"),
            open("65", "node1", "2", "24"),
            open("300", "node1", "2", "24"),
            open("7", "NODE 1", "2", "24"),
            open("7", "node1", "9", "24"),
            open("7", "node1", "2", "501"),
            text(r#"{"type":"resize","rows":24,"cols":80}"#),
            text(r#"{"type":"shown","channel":1,"bytes":-1}"#),
        ] {
            assert!(bad.is_err(), "{bad:?}");
        }
        assert_eq!(
            FromPage::read(Message::Binary(Bytes::from_static(b"\x03ls\r"))),
            Ok(FromPage::Terminal {
                channel: Channel(3),
                input: Input::Keys(Bytes::from_static(b"ls\r")),
            })
        );
        for bad in [&b""[..], b"\0ls", b"\xffls"] {
            assert!(FromPage::read(Message::Binary(Bytes::from_static(bad))).is_err());
        }
    }
}
