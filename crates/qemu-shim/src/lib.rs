//! A library that is preloaded into QEMU. Opening `/faultline/memory` returns a copy of the descriptor in
//! `FAULTLINE_MEMORY_FD`, and punching a hole into that file does nothing if it is read-only.
//!
//! QEMU opens a memory backend's file for reading and writing even if it maps it privately, so a guest that has taken
//! over its QEMU could write to the template that all clones share. With this library, the launcher opens the file,
//! read-only for clones, and QEMU gets a copy of that descriptor: it never has a writable one, and needs no permission
//! on any path. (QEMU 8.2 has `rom=off` with `readonly=on` for this; Debian 12 has QEMU 7.2.)
//!
//! When a guest reports memory as free, QEMU punches a hole into the backend's file before it drops its own copy. A
//! template's file stays unchanged, and the copy is still dropped.

use std::{
    ffi::CStr,
    sync::atomic::{AtomicI32, Ordering},
};

use libc::{c_char, c_int, mode_t, off64_t};

const PATH: &CStr = c"/faultline/memory";

/// The descriptor that was returned to QEMU.
static GIVEN: AtomicI32 = AtomicI32::new(-1);

fn memory_fd() -> Option<c_int> {
    // SAFETY: getenv is called with a C string; QEMU is single-threaded while it makes its memory backends.
    let value = unsafe { libc::getenv(c"FAULTLINE_MEMORY_FD".as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv's result is a C string.
    unsafe { CStr::from_ptr(value) }.to_str().ok()?.parse().ok()
}

/// # Safety
/// `path` must be a C string, as for open(2).
unsafe fn open_or_give(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller guarantees it.
    if unsafe { CStr::from_ptr(path) } == PATH
        && let Some(fd) = memory_fd()
    {
        // SAFETY: duplicates a descriptor number.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        GIVEN.store(copy, Ordering::Relaxed);
        return copy;
    }
    // SAFETY: the same arguments that open was called with; syscall sets errno.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    c_int::try_from(fd).unwrap_or(-1)
}

/// open(2).
///
/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: passed on.
    unsafe { open_or_give(path, flags, mode) }
}

/// open(2) with 64-bit offsets, which is what QEMU calls.
///
/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: passed on.
    unsafe { open_or_give(path, flags, mode) }
}

/// The function that the C library's fortified headers call for open(2) without a mode.
///
/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: passed on.
    unsafe { open_or_give(path, flags, 0) }
}

/// fallocate(2) with 64-bit offsets, which is what QEMU calls.
#[unsafe(no_mangle)]
pub extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: off64_t, length: off64_t) -> c_int {
    if fd == GIVEN.load(Ordering::Relaxed) && mode & libc::FALLOC_FL_PUNCH_HOLE != 0 {
        // SAFETY: reads the flags of a descriptor.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        if flags != -1 && flags & libc::O_ACCMODE == libc::O_RDONLY {
            return 0;
        }
    }
    // SAFETY: the same arguments that fallocate was called with; syscall sets errno.
    let done = unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, offset, length) };
    c_int::try_from(done).unwrap_or(-1)
}
