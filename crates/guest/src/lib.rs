//! The guest link: one multiplexed stream between the host and a small helper inside each guest.
//!
//! ```text
//! server ─► launcher ═ unix socket of QEMU's virtio-serial port ═ faultline-guest (in the VM)
//!             yamux client      handshake, then yamux               yamux server, one task a substream
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`wire`] | requests, responses, frames, and their bounds |
//! | [`link`] | the handshake and the multiplexer, host side and guest side |
//! | [`client`] | what the host does with one substream |
//!
//! The helper itself is the binary of this crate. No network and no sshd are needed in the guest, so a shell
//! opens in milliseconds and labs that break the network still prepare, check and have a terminal.

pub mod client;
pub mod link;
pub mod wire;
