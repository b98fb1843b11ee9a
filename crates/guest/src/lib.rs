//! The guest link: a multiplexed stream between the host and a small helper inside each guest.
//!
//! ```text
//! server ─► launcher ═ unix socket of QEMU's virtio-serial port ═ faultline-guest (in the VM)
//!             yamux client      handshake, then yamux               yamux server, one task per substream
//! ```
//!
//! | module | contains |
//! |---|---|
//! | [`wire`] | requests, responses, frames, and their size limits |
//! | [`link`] | the handshake and the multiplexer, host side and guest side |
//! | [`client`] | the host's client, with one function per request |
//!
//! The helper is this crate's binary. It needs neither network nor sshd in the guest, so a shell opens within milliseconds,
//! and labs that break the network still have setup, checks and terminals.

pub mod client;
pub mod link;
pub mod wire;
