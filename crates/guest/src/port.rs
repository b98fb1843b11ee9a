//! The virtio-serial port as an asynchronous stream.
//!
//! While no host is connected, the port reports a hang-up and reads return nothing at once, so [`wait_for_host`] polls every
//! 20 ms. While one is connected, epoll waits, and an idle link uses no CPU.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// Opens the port. The kernel allows only one process to open it, so no other process can impersonate the running helper.
pub fn open(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Returns once a host is connected.
pub async fn wait_for_host(port: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(port, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if poll(&mut fds, Some(&now)).is_ok()
            && !fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One session's view of a non-blocking descriptor.
pub struct Port(AsyncFd<OwnedFd>);

impl Port {
    /// Registers the descriptor again, because a hang-up persists in a registration.
    pub fn new(port: &OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd keeps its descriptor open and unchanged while the registration lives.
        Ok(Self(unsafe { AsyncFd::register(port.try_clone()?) }?))
    }

    /// Called after a hang-up that is over. The descriptor would block, but its registration reports it as ready forever, so
    /// waiting for it would be a busy loop.
    fn register_again(&mut self, cx: &Context<'_>) -> io::Result<()> {
        *self = Self::new(self.0.get_ref())?;
        // The task that waits for the other direction uses the old registration.
        cx.waker().wake_by_ref();
        Ok(())
    }
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let hung_up = guard.ready().is_read_closed();
            let free = buf.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd, &mut *free)?)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // A pty's master returns this when nobody holds the other side any more.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) if hung_up => self.register_again(cx)?,
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            let hung_up = guard.ready().is_write_closed();
            match guard.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) if hung_up => self.register_again(cx)?,
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
