//! Messages to pages and programs about terminals.

use std::fmt;

use axum::extract::ws::{CloseFrame, Message};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use super::message::Channel;

/// What happens to a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Notice {
    /// The terminal is there; what follows restores its screen.
    Attached { new: bool },
    /// The guest's helper doesn't answer: this is the serial console.
    Console,
    /// The shell ended with this code.
    Ended { code: i32 },
}

impl Notice {
    pub(super) fn message(&self) -> Message {
        text(self)
    }

    pub(super) fn on(&self, channel: Channel) -> Message {
        #[derive(Serialize)]
        struct OnChannel<'a> {
            #[serde(flatten)]
            notice: &'a Notice,
            channel: Channel,
        }
        text(&OnChannel {
            notice: self,
            channel,
        })
    }
}

/// The other text messages to a page.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ToPage<'a> {
    /// A part of the page changed.
    Event { name: &'a str, data: &'a str },
    /// The terminal has left its channel, whose number is free again; codes are those of [`End`].
    Closed {
        channel: Channel,
        code: u16,
        reason: &'a str,
    },
}

impl ToPage<'_> {
    pub(super) fn message(&self) -> Message {
        text(self)
    }
}

/// The answer to a ping.
pub(super) fn pong() -> Message {
    Message::Text(r#"{"type":"pong"}"#.into())
}

/// What a terminal shows, on its channel.
pub(super) fn shown_on(channel: Channel, bytes: &Bytes) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel.into());
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

fn text(value: &impl Serialize) -> Message {
    Message::Text(serde_json::to_string(value).unwrap_or_default().into())
}

/// Why a terminal or a whole WebSocket ended; the page acts on the code.
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
    /// The server failed: connect again, later.
    Failed,
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
    const fn code(self) -> u16 {
        match self {
            Self::Left => 1000,
            Self::Dropped => 4005,
            Self::Gone => 4004,
            Self::Paused => 4006,
            Self::SignedOut => 4001,
            Self::Stopping => 1012,
            Self::Failed => 1011,
            Self::Malformed(_) => 1007,
            Self::Exited | Self::Closed => 4000,
        }
    }

    /// The message that ends a WebSocket.
    pub(super) fn frame(self) -> Message {
        Message::Close(Some(CloseFrame {
            code: self.code(),
            reason: self.to_string().into(),
        }))
    }

    /// The message that ends a channel.
    pub(super) fn on(self, channel: Channel) -> Message {
        ToPage::Closed {
            channel,
            code: self.code(),
            reason: &self.to_string(),
        }
        .message()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "the browser left",
            Self::Dropped => "the connection to the machine broke",
            Self::Gone => "the machine is not running",
            Self::Paused => "the machine is paused; resume it on its page",
            Self::SignedOut => "you are signed out",
            Self::Stopping => "the server restarts",
            Self::Failed => "the server failed",
            Self::Malformed(why) => why,
            Self::Exited => "the shell ended",
            Self::Closed => "the terminal was closed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_terminal_names_its_channel() {
        let two = Channel::try_from(2).unwrap();
        for (message, json) in [
            (
                Notice::Attached { new: true }.on(two),
                r#"{"type":"attached","new":true,"channel":2}"#,
            ),
            (
                End::Paused.on(two),
                r#"{"type":"closed","channel":2,"code":4006,"reason":"the machine is paused; resume it on its page"}"#,
            ),
            (
                ToPage::Event {
                    name: "phase",
                    data: "active",
                }
                .message(),
                r#"{"type":"event","name":"phase","data":"active"}"#,
            ),
        ] {
            assert_eq!(message, Message::Text(json.into()));
        }
        assert_eq!(
            shown_on(two, &Bytes::from_static(b"$ ")),
            Message::Binary(Bytes::from_static(b"\x02$ "))
        );
    }
}
