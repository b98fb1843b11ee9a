//! What travels over a terminal's WebSocket.

use axum::extract::ws::{CloseFrame, Message};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The largest message, in bytes.
pub(super) const MAX: usize = 64 * 1024;
/// The largest control message, in bytes.
const MAX_CONTROL: usize = 1024;

/// What the browser asks for in a text message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Control {
    Resize {
        rows: u16,
        cols: u16,
    },
    /// Is anybody there? It doesn't count as use.
    Ping,
    /// End the shell and what runs in it.
    Close,
}

/// What the browser is told in a text message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Notice {
    /// The terminal is there; what follows restores its screen.
    Attached { new: bool },
    /// The guest's helper doesn't answer: this is the serial console.
    Console,
    /// The shell ended with this code.
    Ended { code: i32 },
    /// The answer to a ping.
    Pong,
}

impl Notice {
    pub(super) fn message(&self) -> Message {
        Message::Text(serde_json::to_string(self).unwrap_or_default().into())
    }
}

/// Something the browser sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Keys(Bytes),
    Resize {
        rows: u16,
        cols: u16,
    },
    /// A sign of life.
    Alive,
    /// One that wants an answer.
    Ping,
    /// The terminal is to end.
    CloseTerminal,
    /// The browser goes.
    Close,
}

/// Reads a message, or says why it can't be understood.
pub(super) fn read(message: Message) -> Result<Incoming, &'static str> {
    match message {
        Message::Binary(bytes) => Ok(Incoming::Keys(bytes)),
        Message::Text(text) => {
            if text.len() > MAX_CONTROL {
                return Err("control message too large");
            }
            match serde_json::from_str(&text) {
                Ok(Control::Resize { rows, cols })
                    if (1..=500).contains(&rows) && (1..=1000).contains(&cols) =>
                {
                    Ok(Incoming::Resize { rows, cols })
                }
                Ok(Control::Resize { .. }) => Err("size out of range"),
                Ok(Control::Ping) => Ok(Incoming::Ping),
                Ok(Control::Close) => Ok(Incoming::CloseTerminal),
                Err(_) => Err("control message not understood"),
            }
        }
        Message::Ping(_) | Message::Pong(_) => Ok(Incoming::Alive),
        Message::Close(_) => Ok(Incoming::Close),
    }
}

/// Why a terminal closes; the page acts on the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The stream to the machine broke: connect again.
    Dropped,
    /// The machine runs no more: don't.
    Gone,
    /// The machine is paused: connect again once it was resumed.
    Paused,
    /// Who opened it is signed out: don't.
    SignedOut,
    /// The server stops: connect again, later.
    Stopping,
    /// The browser sent what can't be understood.
    Malformed(&'static str),
    /// The browser went.
    Left,
    /// The shell ended: connect again when its owner wants a new one.
    Exited,
    /// Its owner closed the terminal.
    Closed,
}

impl End {
    pub(super) fn frame(self) -> Option<Message> {
        let (code, reason) = match self {
            Self::Left => return None,
            Self::Dropped => (4005, "the connection to the machine broke"),
            Self::Gone => (4004, "the machine is not running"),
            Self::Paused => (4006, "the machine is paused; resume it on its page"),
            Self::SignedOut => (4001, "you are signed out"),
            Self::Stopping => (1012, "the server restarts"),
            Self::Malformed(why) => (1007, why),
            Self::Exited => (4000, "the shell ended"),
            Self::Closed => (4000, "the terminal was closed"),
        };
        Some(Message::Close(Some(CloseFrame {
            code,
            reason: reason.into(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizes_are_bounded_and_nonsense_is_refused() {
        let text = |t: &str| read(Message::Text(t.into()));
        assert_eq!(
            text(r#"{"type":"resize","rows":24,"cols":80}"#),
            Ok(Incoming::Resize { rows: 24, cols: 80 })
        );
        assert_eq!(text(r#"{"type":"ping"}"#), Ok(Incoming::Ping));
        assert_eq!(text(r#"{"type":"close"}"#), Ok(Incoming::CloseTerminal));
        for bad in [
            r#"{"type":"resize","rows":0,"cols":80}"#,
            r#"{"type":"resize","rows":24,"cols":80000}"#,
            r#"{"type":"resize","rows":24,"cols":1001}"#,
            r#"{"type":"exec"}"#,
            "",
            "[]",
            &"x".repeat(2000),
        ] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }
}
