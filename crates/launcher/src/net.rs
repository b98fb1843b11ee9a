//! The inside of an environment's network namespace.
//!
//! ```text
//! br0 10.77.0.1/24 ── tap1 ── node1 10.77.0.11
//!                  ├─ tap2 ── node2 10.77.0.12
//!                  └─ …                          no uplink: the namespace leads nowhere
//! ```
//!
//! Addresses and MACs are the same in every environment, so that what a template was frozen with stays valid in
//! its clones. The namespace has no name and no link to any other: it ends with the launcher, and a packet has no
//! way to the host, its networks, other environments or a metadata address. What a lab opens goes through
//! [`crate::egress`], by connection, never by route.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    process::{Command, Stdio},
};

/// The launcher's address on the bridge; the nodes' gateway and, with egress, their resolver.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Where connections are turned to.
pub const RELAY_PORT: u16 = 15001;

/// Address of the node with this index, from 1.
#[must_use]
pub fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(10 + index).unwrap_or(u8::MAX))
}

/// A node's end of its cable.
#[derive(Debug)]
pub struct Tap {
    /// The descriptor that QEMU reads and writes.
    pub fd: OwnedFd,
    /// The guest's MAC.
    pub guest_mac: String,
}

const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc::c_short,
    padding: [u8; 22],
}

fn open_tap(index: usize) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot open /dev/net/tun: {e}; the kernel's tun module is needed"),
            )
        })?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        padding: [0; 22],
    };
    for (to, from) in request.name.iter_mut().zip(format!("tap{index}").bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which is 40 bytes as here.
    if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

/// A tap's place on the bridge, for `ip`.
fn link(index: usize) -> String {
    format!("link set tap{index} master br0 up\n")
}

/// Towards the guest a queue, from the guest a meter: a tap has no queue of its own in that direction.
fn queue(index: usize, mbit: u32) -> String {
    format!("qdisc replace dev tap{index} root tbf rate {mbit}mbit burst 256kb latency 100ms\n")
}

fn meter(index: usize, mbit: u32) -> String {
    format!(
        "chain tap{index} {{ type filter hook ingress device tap{index} priority 0; {}; }}\n",
        rate(mbit)
    )
}

fn rate(mbit: u32) -> String {
    let bytes = u64::from(mbit) * 125_000;
    format!("limit rate over {bytes} bytes/second burst 512 kbytes drop")
}

/// Lays the cable of a further node in a namespace that was built.
pub fn plug(index: usize, mbit: u32) -> io::Result<Tap> {
    let tap = tap(index)?;
    feed("ip", &["-batch", "-"], &link(index))?;
    feed("tc", &["-batch", "-"], &queue(index, mbit))?;
    let rules = format!("table netdev inflow {{\n{}}}\n", meter(index, mbit));
    feed("nft", &["-f", "-"], &rules)?;
    Ok(tap)
}

/// Takes a node's cable away. Its tap goes with the last who holds it; what else names it goes here, first.
pub fn unplug(index: usize) {
    // A chain whose device is gone has been taken away with it by some kernels and left by others.
    let _ = feed(
        "nft",
        &["-f", "-"],
        &format!("delete chain netdev inflow tap{index}\n"),
    );
    let _ = feed("ip", &["-batch", "-"], &format!("link del tap{index}\n"));
}

fn tap(index: usize) -> io::Result<Tap> {
    Ok(Tap {
        fd: open_tap(index)?,
        guest_mac: format!("52:54:00:4d:00:{index:02x}"),
    })
}

/// Runs a program with lines on its standard input.
fn feed(program: &str, args: &[&str], input: &str) -> io::Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run {program}: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let out = child.wait_with_output()?;
    if out.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{program}: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    )))
}

/// Builds the namespace's inside; the calling process must already be in it. `mbit` bounds each node's traffic, each way.
pub fn build(nodes: usize, mbit: u32) -> io::Result<Vec<Tap>> {
    // No IPv6 inside: nothing announces it, and link-local chatter would only wake idle guests.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    // Where the host has loaded br_netfilter, what nodes say to each other would be taken for forwarded packets.
    let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
    let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-arptables", "0");
    let taps = (1..=nodes).map(tap).collect::<io::Result<Vec<_>>>()?;
    let mut links = format!(
        "link set lo up\nlink add br0 address 52:54:00:4d:ff:01 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         addr add {GATEWAY}/24 dev br0\nlink set br0 up\n"
    );
    let mut queues = String::new();
    let mut meters = String::new();
    for index in 1..=nodes {
        links.push_str(&link(index));
        queues.push_str(&queue(index, mbit));
        meters.push_str(&meter(index, mbit));
    }
    feed("ip", &["-batch", "-"], &links)?;
    feed("tc", &["-batch", "-"], &queues)?;
    let rules = format!(
        "table netdev inflow {{\n{meters}}}\n\
         table inet walls {{\n\
         chain in {{ type filter hook input priority 0; policy drop; iifname lo accept; ct state established,related accept; ip protocol icmp icmp type echo-request limit rate 20/second accept\n}}\n\
         chain forward {{ type filter hook forward priority 0; policy drop; iifname br0 oifname br0 accept; }}\n\
         }}\n"
    );
    feed("nft", &["-f", "-"], &rules)?;
    Ok(taps)
}

/// Opens the launcher's resolver and relay to the nodes, and turns to the relay what wants to leave.
pub fn open_to_relay() -> io::Result<()> {
    let rules = format!(
        "table ip turn {{}}\ndelete table ip turn\n\
         add rule inet walls in udp dport 53 accept\n\
         add rule inet walls in tcp dport {{ 53, {RELAY_PORT} }} accept\n\
         table ip turn {{\nchain in {{\ntype nat hook prerouting priority -100; iifname br0 ip daddr != {GATEWAY} meta l4proto tcp redirect to :{RELAY_PORT}\n}}\n}}\n"
    );
    feed("nft", &["-f", "-"], &rules)
}

/// Changes the bandwidth limit of a running node.
pub fn limit_bandwidth(index: usize, mbit: u32) -> io::Result<()> {
    feed("tc", &["-batch", "-"], &queue(index, mbit))?;
    let rules = format!(
        "flush chain netdev inflow tap{index}\nadd rule netdev inflow tap{index} {}\n",
        rate(mbit)
    );
    feed("nft", &["-f", "-"], &rules)
}
