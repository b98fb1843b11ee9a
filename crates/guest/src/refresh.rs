//! Gives a clone its own identity.
//!
//! Clones of a template share its random pool, clock, machine ID and host keys. The order matters: randomness comes first,
//! because later steps may use it, and the services are thawed last, so that none of them uses shared state.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

use faultline_guest::wire::{HostKey, Refresh};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::services;

/// `_IOW('R', 3, int[2])`: mix bytes in and count them as entropy. See random(4).
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `_IO('R', 7)`: reseed the generator's key from the pool.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

#[repr(C)]
struct PoolInfo {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u8; 64],
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Carries out an order, which is validated completely before anything is changed. The services are thawed at the end even
/// if a step failed, because a frozen machine could not be inspected.
pub fn refresh(order: &Refresh) -> io::Result<()> {
    let renewed = renew(order);
    services::release()?;
    renewed
}

/// Mixes randomness into the pool and reseeds the generator.
pub fn mix_in(seed: &str) -> io::Result<()> {
    reseed(parse_seed(seed)?)
}

fn parse_seed(hex: &str) -> io::Result<[u8; 64]> {
    let mut seed = [0u8; 64];
    if !is_hex(hex, 128) {
        return Err(invalid("the seed must be 128 hex digits"));
    }
    for (byte, i) in seed.iter_mut().zip((0..).step_by(2)) {
        let digits = hex
            .get(i..i + 2)
            .ok_or_else(|| invalid("the seed is short"))?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid("the seed must be hex"))?;
    }
    Ok(seed)
}

fn renew(order: &Refresh) -> io::Result<()> {
    let seed = parse_seed(&order.seed)?;
    if !is_hex(&order.machine_id, 32) {
        return Err(invalid("the machine-id must be 32 hex digits"));
    }
    if order.hostname.is_empty()
        || order.hostname.len() > 63
        || !order
            .hostname
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        return Err(invalid("the host name must be a DNS label"));
    }
    if !order.host_key.private.contains("OPENSSH PRIVATE KEY")
        || order.host_key.public.trim().contains(['\n', '\r', '\0'])
    {
        return Err(invalid("the host key must be an OpenSSH key"));
    }
    reseed(seed)?;
    step_clock(order.unix_nanos)?;
    let machine_id = order.machine_id.to_ascii_lowercase();
    move_journal(&machine_id)?;
    fs::write("/etc/machine-id", format!("{machine_id}\n"))?;
    fs::write("/etc/hostname", format!("{}\n", order.hostname))?;
    rustix::system::sethostname(order.hostname.as_bytes())?;
    host_keys(&order.host_key)
}

/// The journal is in a folder named after the machine ID, and journalctl reads no other. journald continues to write to its
/// open files; the link is for the next file that it creates under the old name.
fn move_journal(new: &str) -> io::Result<()> {
    let old = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let old = old.trim();
    if !is_hex(old, 32) || old == new {
        return Ok(());
    }
    for journals in ["/var/log/journal", "/run/log/journal"].map(Path::new) {
        match fs::rename(journals.join(old), journals.join(new)) {
            Ok(()) => symlink(new, journals.join(old))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Sets the wall clock.
pub fn step_clock(unix_nanos: i64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: unix_nanos.div_euclid(1_000_000_000),
        tv_nsec: unix_nanos.rem_euclid(1_000_000_000),
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

fn reseed(seed: [u8; 64]) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let random = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/urandom")?;
    let info = PoolInfo {
        entropy_count: 512,
        buf_size: 64,
        buf: seed,
    };
    // SAFETY: RNDADDENTROPY reads a `struct rand_pool_info` of the size it states; RNDRESEEDCRNG takes nothing.
    let ok = unsafe {
        libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) == 0
            && libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) == 0
    };
    if ok {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Replaces sshd's host keys. sshd is started per connection and reads them each time.
fn host_keys(key: &HostKey) -> io::Result<()> {
    const KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
    let entries = match fs::read_dir("/etc/ssh") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    let mut private = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(KEY)?;
    private.write_all(key.private.as_bytes())?;
    fs::write(
        Path::new(KEY).with_extension("pub"),
        format!("{}\n", key.public.trim()),
    )
}

/// Replaces root's `authorized_keys`.
pub fn authorize(keys: &[String]) -> io::Result<()> {
    if keys
        .iter()
        .any(|key| key.contains(['\n', '\r', '\0']) || key.len() > 16 * 1024)
    {
        return Err(invalid("a key is one line of at most 16 KiB"));
    }
    fs::create_dir_all("/root/.ssh")?;
    fs::set_permissions("/root/.ssh", fs::Permissions::from_mode(0o700))?;
    let mut text = keys.join("\n");
    text.push('\n');
    fs::write("/root/.ssh/authorized_keys", text)?;
    fs::set_permissions(
        "/root/.ssh/authorized_keys",
        fs::Permissions::from_mode(0o600),
    )
}
