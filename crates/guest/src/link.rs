//! The handshake and the multiplexer.
//!
//! A virtio-serial port has no connections: bytes that are written while the other side isn't listening are lost, and the
//! port's state is frozen with the template. So the host repeats a hello with a fresh nonce until the guest responds with
//! the same nonce. Only then do both start a new yamux session. Bytes from before are skipped while looking for the hello.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::poll_fn;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::wire::VERSION;

/// A substream of the link on the guest's side.
pub type Substream = Compat<yamux::Stream>;

/// A substream of the link on the host's side. Dropping it frees its place.
#[derive(Debug)]
pub struct Opened {
    stream: Substream,
    _place: OwnedSemaphorePermit,
}

const HELLO: &[u8] = b"\nFAULTLINE-HELLO ";
const READY: &[u8] = b"\nFAULTLINE-READY ";
/// The length of: nonce (16 hex digits), space, version (8 hex digits), newline.
const TAIL: usize = 26;
/// The interval at which the host repeats its hello.
const REPEAT: Duration = Duration::from_millis(50);
/// The maximum number of open substreams. Opening more is refused.
pub const MAX_STREAMS: usize = 128;
/// The multiplexer's own limit. It is higher, because the multiplexer ends the whole link when it is exceeded and also
/// counts substreams that are still closing.
const MULTIPLEXER_STREAMS: usize = 4 * MAX_STREAMS;

fn config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MULTIPLEXER_STREAMS);
    config.set_max_connection_receive_window(Some(MULTIPLEXER_STREAMS * 256 * 1024));
    config.set_read_after_close(true);
    config
}

fn message(word: &[u8], nonce: u64, version: u32) -> Vec<u8> {
    let mut bytes = word.to_vec();
    bytes.extend_from_slice(format!("{nonce:016x} {version:08x}\n").as_bytes());
    bytes
}

/// Reads until a message with `word` is complete, skipping other bytes, and returns its nonce and version. Never reads a
/// byte beyond the message.
async fn find(from: &mut (impl AsyncRead + Unpin), word: &[u8]) -> io::Result<(u64, u32)> {
    let mut seen: VecDeque<u8> = VecDeque::with_capacity(word.len());
    loop {
        let byte = from.read_u8().await?;
        if seen.len() == word.len() {
            seen.pop_front();
        }
        seen.push_back(byte);
        if !seen.iter().eq(word.iter()) {
            continue;
        }
        let mut tail = [0; TAIL];
        from.read_exact(&mut tail).await?;
        seen.clear();
        let parsed = std::str::from_utf8(&tail).ok().and_then(|text| {
            let (nonce, version) = text.strip_suffix('\n')?.split_once(' ')?;
            Some((
                u64::from_str_radix(nonce, 16).ok()?,
                u32::from_str_radix(version, 16).ok()?,
            ))
        });
        if let Some(found) = parsed {
            return Ok(found);
        }
    }
}

/// The error of the host's side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port failed.
    #[error("the port of the guest link broke")]
    Io(#[from] io::Error),
    /// The guest's helper has another version.
    #[error(
        "the guest's helper speaks version {theirs} of the link and this program {VERSION}; the image must be built again"
    )]
    Version {
        /// The guest's version.
        theirs: u32,
    },
    /// The link has ended.
    #[error("the guest link is lost")]
    Lost,
    /// The maximum number of substreams is open.
    #[error("{MAX_STREAMS} streams to this node are open, which is the most; close some")]
    Full,
}

/// The host's side of a link, which opens substreams. It is cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    open: mpsc::Sender<oneshot::Sender<Substream>>,
    places: Arc<Semaphore>,
}

impl Link {
    /// Repeats the hello until the guest responds, then starts the multiplexer. Cancel-safe; use it with a timeout.
    /// `nonce` must be fresh. The returned future drives the link: it must be polled, and ends when the link does.
    pub async fn connect<S>(
        mut port: S,
        nonce: u64,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<S>), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        loop {
            port.write_all(&message(HELLO, nonce, VERSION)).await?;
            port.flush().await?;
            let answer = async {
                loop {
                    let (theirs, version) = find(&mut port, READY).await?;
                    if theirs == nonce {
                        return Ok::<_, io::Error>(version);
                    }
                }
            };
            // A timeout may cut a response. The guest responds to each hello, so the next response is complete.
            if let Ok(version) = tokio::time::timeout(REPEAT, answer).await {
                let theirs = version?;
                if theirs != VERSION {
                    return Err(Error::Version { theirs });
                }
                break;
            }
        }
        // The guest starts its session after `GO`.
        port.write_all(&[GO]).await?;
        port.flush().await?;
        let (open, requests) = mpsc::channel(MAX_STREAMS);
        let engine = host_engine(
            yamux::Connection::new(SkipReady::new(port).compat(), config(), yamux::Mode::Client),
            requests,
        );
        let places = Arc::new(Semaphore::new(MAX_STREAMS));
        Ok((Self { open, places }, engine))
    }

    /// Opens a substream.
    pub async fn open(&self) -> Result<Opened, Error> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Error::Full)?;
        let (give, take) = oneshot::channel();
        self.open.send(give).await.map_err(|_| Error::Lost)?;
        let stream = take.await.map_err(|_| Error::Lost)?;
        Ok(Opened {
            stream,
            _place: place,
        })
    }

    /// Returns true once the link has ended.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.open.is_closed()
    }
}

/// Separates the handshake from the multiplexer's bytes.
const GO: u8 = 0x06;

/// Skips the responses to repeated hellos that arrive after the accepted one, up to the guest's [`GO`].
struct SkipReady<S> {
    inner: S,
    skipping: bool,
}

impl<S> SkipReady<S> {
    const fn new(inner: S) -> Self {
        Self {
            inner,
            skipping: true,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SkipReady<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.skipping {
            let mut byte = [0u8; 1];
            let mut one = tokio::io::ReadBuf::new(&mut byte);
            match Pin::new(&mut self.inner).poll_read(cx, &mut one) {
                Poll::Ready(Ok(())) if one.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {
                    if one.filled() == [GO] {
                        self.skipping = false;
                    }
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SkipReady<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Opened {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn host_engine<S>(
    mut connection: yamux::Connection<S>,
    mut requests: mpsc::Receiver<oneshot::Sender<Substream>>,
) where
    S: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    let mut waiting: Option<oneshot::Sender<Substream>> = None;
    let mut no_more = false;
    poll_fn(|cx| {
        loop {
            if waiting.is_none() && !no_more {
                match requests.poll_recv(cx) {
                    Poll::Ready(Some(give)) => waiting = Some(give),
                    Poll::Ready(None) => no_more = true,
                    Poll::Pending => {}
                }
            }
            if waiting.is_some() {
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        if let Some(give) = waiting.take() {
                            let _ = give.send(stream.compat());
                        }
                        continue;
                    }
                    Poll::Ready(Err(e)) => {
                        tracing::debug!(error = %e, "guest link ended");
                        return Poll::Ready(());
                    }
                    Poll::Pending => {}
                }
            }
            match connection.poll_next_inbound(cx) {
                // A guest must not open substreams. If a hostile one does, they are dropped, which resets them.
                Poll::Ready(Some(Ok(stream))) => drop(stream),
                Poll::Ready(Some(Err(e))) => {
                    tracing::debug!(error = %e, "guest link ended");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if no_more && waiting.is_none() => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

/// Runs the guest's side: waits for hellos and serves one session after another until the port fails. `serve` is called
/// for each substream and must not block.
pub async fn serve<S>(port: &mut S, mut serve: impl FnMut(Substream)) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let (nonce, _) = find(port, HELLO).await?;
        port.write_all(&message(READY, nonce, VERSION)).await?;
        port.flush().await?;
        // Either another hello (the host missed the response, or is a new one) or GO.
        loop {
            let byte = port.read_u8().await?;
            if byte == GO {
                break;
            }
            let (nonce, _) = find_rest(port, byte).await?;
            port.write_all(&message(READY, nonce, VERSION)).await?;
            port.flush().await?;
        }
        port.write_all(&[GO]).await?;
        let mut connection =
            yamux::Connection::new((&mut *port).compat(), config(), yamux::Mode::Server);
        while let Some(stream) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            match stream {
                Ok(stream) => serve(stream.compat()),
                Err(_) => break,
            }
        }
    }
}

async fn find_rest(from: &mut (impl AsyncRead + Unpin), first: u8) -> io::Result<(u64, u32)> {
    let head = [first];
    let mut chained = head.as_slice().chain(from);
    find(&mut chained, HELLO).await
}
