//! The launcher: runs an environment's VMs in a process that outlives the server.
//!
//! ```text
//! faultline launch <dir>           reads <dir>/spec.json, serves <dir>/launcher.sock
//!   └─ its own network namespace   a bridge, a tap per node, no way out
//!       └─ QEMU per node           unprivileged, seccomp, in the environment's cgroup; dies with the launcher
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | the specification of what a launcher runs: nodes, machines, snapshot or boot |
//! | [`protocol`], [`client`] | the protocol on `launcher.sock`, and its client |
//! | [`run`] | the launcher itself, from spec to end; adding and removing nodes |
//! | [`claim`] | makes sure that a launcher doesn't start an environment that is being freed |
//! | [`node`] | one VM: restore or boot, guest link, console, freeze |
//! | [`qemu`], [`qmp`] | a node's QEMU: command line and process; control channel |
//! | [`net`], [`egress`] | the environment's network; the connections out of it that its lab allows |
//! | [`cgroup`] | an environment's control group: limits, usage, and killing its processes |
//! | [`accel`] | the decision between KVM and emulation |
//! | [`snapshot`] | a frozen template on disk |
//! | [`save`] | a save point on disk |
//! | [`user`] | the user ids that QEMU processes run as |

pub mod accel;
pub mod cgroup;
pub mod claim;
pub mod client;
pub mod egress;
pub mod net;
pub mod node;
pub mod protocol;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod save;
pub mod snapshot;
pub mod spec;
pub mod user;
