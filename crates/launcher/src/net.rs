//! The network of an environment, in its own namespace.
//!
//! ```text
//! br0 10.77.0.1/24 ── tap1 ── node1 10.77.0.11
//!                  ├─ tap2 ── node2 10.77.0.12
//!                  └─ …                          no uplink: nothing leads out of the namespace
//! ```
//!
//! Addresses and MACs are the same in every environment, so that those in a frozen template stay valid in its clones.
//! The namespace has no name and no link to others: it ends with the launcher, and packets can't reach the host, its
//! networks, other environments or a metadata address. What a lab allows goes through [`crate::egress`], by connection,
//! never by route.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    process::{Command, Stdio},
};

/// The launcher's address on the bridge: the nodes' gateway and, with egress, their resolver.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The port that outgoing connections are redirected to.
pub const RELAY_PORT: u16 = 15001;

/// Returns the address of the node with this index, counted from 1.
#[must_use]
pub fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(10 + index).unwrap_or(u8::MAX))
}

/// The tap device of a node.
#[derive(Debug)]
pub struct Tap {
    /// The file descriptor that QEMU reads and writes.
    pub fd: OwnedFd,
    /// The guest's MAC address.
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

/// Returns the commands for `ip` that connect a tap to the bridge.
fn link(index: usize) -> String {
    format!("link set tap{index} master br0 up\n")
}

/// Returns the commands for `tc` that limit traffic to the guest by a queue. Traffic from the guest is limited by a
/// rule, see [`meter`], since a tap has no queue in that direction.
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

/// Adds the tap of another node to a network that was built.
pub fn add_tap(index: usize, mbit: u32) -> io::Result<Tap> {
    let tap = tap(index)?;
    run_with_input("ip", &["-batch", "-"], &link(index))?;
    run_with_input("tc", &["-batch", "-"], &queue(index, mbit))?;
    let rules = format!("table netdev inflow {{\n{}}}\n", meter(index, mbit));
    run_with_input("nft", &["-f", "-"], &rules)?;
    Ok(tap)
}

/// Removes a node's tap from the network. The device itself is removed once nobody has it open; the rules for it are
/// removed here first.
pub fn remove_tap(index: usize) {
    // Some kernels remove a chain together with its device, others don't.
    let _ = run_with_input(
        "nft",
        &["-f", "-"],
        &format!("delete chain netdev inflow tap{index}\n"),
    );
    let _ = run_with_input("ip", &["-batch", "-"], &format!("link del tap{index}\n"));
}

fn tap(index: usize) -> io::Result<Tap> {
    Ok(Tap {
        fd: open_tap(index)?,
        guest_mac: format!("52:54:00:4d:00:{index:02x}"),
    })
}

/// Runs a program with this standard input.
fn run_with_input(program: &str, args: &[&str], input: &str) -> io::Result<()> {
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

/// Builds the network in the namespace of this process. `mbit` limits the traffic of each node in each direction.
pub fn build(nodes: usize, mbit: u32) -> io::Result<Vec<Tap>> {
    // No IPv6: nothing uses it, and link-local traffic would only wake idle guests.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    // If the host has loaded br_netfilter, traffic between nodes would be filtered as forwarded packets.
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
    run_with_input("ip", &["-batch", "-"], &links)?;
    run_with_input("tc", &["-batch", "-"], &queues)?;
    let rules = format!(
        "table netdev inflow {{\n{meters}}}\n\
         table inet walls {{\n\
         chain in {{ type filter hook input priority 0; policy drop; iifname lo accept; ct state established,related accept; ip protocol icmp icmp type echo-request limit rate 20/second accept\n}}\n\
         chain forward {{ type filter hook forward priority 0; policy drop; iifname br0 oifname br0 accept; }}\n\
         }}\n"
    );
    run_with_input("nft", &["-f", "-"], &rules)?;
    Ok(taps)
}

/// Allows the nodes to use the launcher's resolver and relay, and redirects outgoing connections to the relay.
pub fn open_to_relay() -> io::Result<()> {
    let rules = format!(
        "table ip turn {{}}\ndelete table ip turn\n\
         add rule inet walls in udp dport 53 accept\n\
         add rule inet walls in tcp dport {{ 53, {RELAY_PORT} }} accept\n\
         table ip turn {{\nchain in {{\ntype nat hook prerouting priority -100; iifname br0 ip daddr != {GATEWAY} meta l4proto tcp redirect to :{RELAY_PORT}\n}}\n}}\n"
    );
    run_with_input("nft", &["-f", "-"], &rules)
}

/// Changes the bandwidth limit of a running node.
pub fn limit_bandwidth(index: usize, mbit: u32) -> io::Result<()> {
    run_with_input("tc", &["-batch", "-"], &queue(index, mbit))?;
    let rules = format!(
        "flush chain netdev inflow tap{index}\nadd rule netdev inflow tap{index} {}\n",
        rate(mbit)
    );
    run_with_input("nft", &["-f", "-"], &rules)
}
