//! One environment's VMs, in one process that outlives the server.
//!
//! ```text
//! faultline launch <dir>           reads <dir>/spec.json, serves <dir>/launcher.sock
//!   └─ its own network namespace   a bridge, a tap per node, no way out
//!       └─ QEMU per node           unprivileged, seccomp, in the environment's cgroup; dies with the launcher
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | what a launcher is told to run: nodes, machine, snapshot or boot |
//! | [`protocol`] | what is said on `launcher.sock`; [`client`] says it |
//! | [`run`] | the launcher's life from spec to end; nodes that are added and removed |
//! | [`claim`] | that the environment is still wanted once the launcher can be killed with it |
//! | [`node`] | one VM: restore or boot, guest link, console, freeze |
//! | [`qemu`], [`qmp`] | its command line and process; its control channel |
//! | [`net`], [`egress`] | the namespace's inside; the few ways out that a lab opens |
//! | [`cgroup`] | limits, usage and the end of everything in an environment |
//! | [`accel`] | KVM or emulation, found out by booting |
//! | [`snapshot`] | a frozen template on disk |
//! | [`user`] | the number that an environment's QEMUs run as |

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
pub mod snapshot;
pub mod spec;
pub mod user;
