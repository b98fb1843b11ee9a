//! What the reverse proxies forward: bodies and upgraded connections, which end with the access to them.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::{
    io::InspectReader,
    sync::{CancellationToken, WaitForCancellationFutureOwned},
};

/// An error of either side while something is forwarded.
pub(crate) type ForwardError = Box<dyn std::error::Error + Send + Sync>;

/// A body that fails when access to it ends. It holds something until it is dropped.
pub(crate) struct Ending<B, H> {
    body: B,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The error when access ends.
    error: &'static str,
    held: H,
    /// Called with the size of each piece of data.
    count: fn(&H, usize),
}

impl<B, H> Ending<B, H> {
    pub(crate) fn new(
        body: B,
        ended: &CancellationToken,
        error: &'static str,
        held: H,
        count: fn(&H, usize),
    ) -> Self {
        Self {
            body,
            ended: Box::pin(ended.clone().cancelled_owned()),
            error,
            held,
            count,
        }
    }
}

impl<B, H> Body for Ending<B, H>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<ForwardError>,
    H: Unpin,
{
    type Data = Bytes;
    type Error = ForwardError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ForwardError>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(self.error.into())));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            (self.count)(&self.held, data.len());
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Copies bytes both ways between upgraded connections until either side or the access ends. Both functions see what was
/// read.
pub(crate) async fn carry(
    client: OnUpgrade,
    server: OnUpgrade,
    ended: &CancellationToken,
    from_client: impl FnMut(&[u8]),
    from_server: impl FnMut(&[u8]),
) {
    let carried = async {
        let (client, server) = tokio::try_join!(client, server)?;
        let mut client = InspectReader::new(TokioIo::new(client), from_client);
        let mut server = InspectReader::new(TokioIo::new(server), from_server);
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        Ok::<_, ForwardError>(())
    };
    if let Some(Err(e)) = ended.run_until_cancelled(carried).await {
        tracing::debug!(error = %e, "an upgraded connection ended");
    }
}
