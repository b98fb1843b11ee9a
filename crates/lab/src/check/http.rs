//! Checks by an HTTP request from outside the guest.

use bytes::Bytes;
use faultline_domain::{NodeName, TenantId, lab::HttpTest};
use faultline_provider::{Provider, Stream};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;

use super::{Finding, Unknown, chain, port};
use crate::text;

/// The maximum of a body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// The maximum size of the headers, in bytes.
const MAX_HEAD: usize = 32 * 1024;

pub(super) async fn evaluate(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    test: &HttpTest,
) -> Result<Finding, Unknown> {
    let pattern = match &test.body {
        Some(pattern) => Some(
            Regex::new(pattern)
                .map_err(|_| Unknown(format!("{pattern:?} is not a regular expression")))?,
        ),
        None => None,
    };
    let place = format!("http://{node}:{}{}", test.port, test.path);
    let stream = match port(provider, env, node, test.port).await? {
        Ok(stream) => stream,
        Err(why) => return Ok(Finding::new(false, format!("{place}: {why}"))),
    };
    let (status, body) = match fetch(stream, node, test).await {
        Ok(answer) => answer,
        Err(e) => return Ok(Finding::new(false, format!("{place}: {}", chain(&e)))),
    };
    let begins = text::clean(&body, 200);
    let seen = format!("{place} answered {status}: {begins}");
    let holds = status == test.status && pattern.is_none_or(|p| p.is_match(&body));
    Ok(Finding::new(holds, seen))
}

async fn fetch(
    stream: Stream,
    node: &NodeName,
    test: &HttpTest,
) -> Result<(u16, Vec<u8>), hyper::Error> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await?;
    let exchange = async move {
        let host = test.host.as_deref().unwrap_or(node.as_str());
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = test.path.parse().unwrap_or_default();
        if let Ok(host) = header::HeaderValue::from_str(host) {
            request.headers_mut().insert(header::HOST, host);
        }
        request.headers_mut().insert(
            header::USER_AGENT,
            header::HeaderValue::from_static("faultline-check"),
        );
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            // A truncated body still has a status and a beginning.
            let Ok(frame) = frame else { break };
            if let Some(data) = frame.data_ref() {
                let room = MAX_BODY.saturating_sub(body.len()).min(data.len());
                body.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            if body.len() >= MAX_BODY {
                break;
            }
        }
        Ok((status, body))
    };
    // The connection must be polled for the exchange to proceed; its own end decides nothing.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = exchange => answer,
        () = drive => Ok((0, Vec::new())),
    }
}
