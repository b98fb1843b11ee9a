//! A library that is preloaded into QEMU. Opening `/faultline/memory` returns a copy of the descriptor in
//! `FAULTLINE_MEMORY_FD`. If that file is read-only, it is mapped privately, and punching a hole into it does nothing.
//!
//! QEMU opens a memory backend's file for reading and writing even if it maps it privately, so a guest that has taken
//! over its QEMU could write to the template that all clones share. With this library, the launcher opens the file,
//! read-only for clones, and QEMU gets a copy of that descriptor: it never has a writable one, and needs no permission
//! on any path. (QEMU 8.2 has `rom=off` with `readonly=on` for this; Debian 12 has QEMU 7.2.)
//!
//! QEMU believes that it shares the memory, and therefore leaves it out of its device state: of a clone, too, the device
//! state can be saved in milliseconds. The launcher saves the pages itself (`launcher/src/save.rs`).
//!
//! When a guest reports memory as free, QEMU punches a hole into the backend's file before it drops its own copy. A
//! template's file stays unchanged, and the copy is still dropped.

use std::{
    ffi::CStr,
    sync::atomic::{AtomicI32, Ordering},
};

use libc::{c_char, c_int, c_void, mode_t, off64_t, size_t};

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

fn is_given_and_read_only(fd: c_int) -> bool {
    if fd == -1 || fd != GIVEN.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: reads the flags of a descriptor.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags != -1 && flags & libc::O_ACCMODE == libc::O_RDONLY
}

/// mmap(2) with 64-bit offsets, which is what QEMU calls.
///
/// # Safety
/// As mmap(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    at: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off64_t,
) -> *mut c_void {
    let flags = if flags & libc::MAP_TYPE == libc::MAP_SHARED && is_given_and_read_only(fd) {
        flags & !libc::MAP_TYPE | libc::MAP_PRIVATE
    } else {
        flags
    };
    // SAFETY: the same arguments that mmap was called with, but for the type; syscall sets errno.
    let address =
        unsafe { libc::syscall(libc::SYS_mmap, at, length, protection, flags, fd, offset) };
    std::ptr::with_exposed_provenance_mut(address.cast_unsigned() as usize)
}

/// fallocate(2) with 64-bit offsets, which is what QEMU calls.
#[unsafe(no_mangle)]
pub extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: off64_t, length: off64_t) -> c_int {
    if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 && is_given_and_read_only(fd) {
        return 0;
    }
    // SAFETY: the same arguments that fallocate was called with; syscall sets errno.
    let done = unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, offset, length) };
    c_int::try_from(done).unwrap_or(-1)
}
