//! Messages to pages and programs, and close reasons.

use std::fmt;

use axum::extract::ws::{CloseFrame, Message};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use super::message::{Channel, Size};

/// An event of a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Notice {
    /// The terminal is attached. The output that follows restores its screen.
    Attached { new: bool },
    /// The guest's helper doesn't respond; this is the serial console.
    Console,
    /// The terminal's size. Only told to those who look, because everyone else sets it.
    Size(Size),
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
    /// The terminal ended, and its channel is free again. The codes are those of [`End`].
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

/// The response to a ping.
pub(super) fn pong() -> Message {
    Message::Text(r#"{"type":"pong"}"#.into())
}

/// Returns a terminal's output as a message on its channel.
pub(super) fn shown_on(channel: Channel, bytes: &Bytes) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel.into());
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

fn text(value: &impl Serialize) -> Message {
    Message::Text(serde_json::to_string(value).unwrap_or_default().into())
}

/// Why a terminal or a whole WebSocket ended. Clients decide by the code whether to reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The connection to the machine broke. Reconnect.
    Dropped,
    /// The machine no longer runs. Don't reconnect.
    Gone,
    /// The machine is paused. Reconnect after it was resumed.
    Paused,
    /// The person was signed out. Don't reconnect.
    SignedOut,
    /// The person may no longer look. Don't reconnect.
    NotAllowed,
    /// Nobody has opened the terminal that somebody wants to look at.
    NotOpen,
    /// The server is stopping. Reconnect later.
    Stopping,
    /// The server failed. Reconnect later.
    Failed,
    /// The client sent an invalid message.
    Malformed(&'static str),
    /// The client disconnected.
    Left,
    /// The shell ended. Reconnect if the person wants a new one.
    Exited,
    /// The person closed the terminal.
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
            Self::NotAllowed => 4003,
            Self::Stopping => 1012,
            Self::Failed => 1011,
            Self::Malformed(_) => 1007,
            Self::Exited | Self::Closed | Self::NotOpen => 4000,
        }
    }

    /// Returns the message that closes a WebSocket.
    pub(super) fn frame(self) -> Message {
        Message::Close(Some(CloseFrame {
            code: self.code(),
            reason: self.to_string().into(),
        }))
    }

    /// Returns the message that closes a channel.
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
            Self::Left => "the browser disconnected",
            Self::Dropped => "the connection to the machine broke",
            Self::Gone => "the machine is not running",
            Self::Paused => "the machine is paused; resume it on its page",
            Self::SignedOut => "you were signed out",
            Self::NotAllowed => "you may no longer look at this machine",
            Self::NotOpen => "the terminal is not open",
            Self::Stopping => "the server is restarting",
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
    fn messages_about_a_terminal_name_its_channel() {
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
