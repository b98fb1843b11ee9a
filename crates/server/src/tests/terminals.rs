//! `/environments/{id}/nodes/{node}/terminals/{n}`, over a real socket.

use std::future::IntoFuture;

use futures::{SinkExt, StreamExt};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};

use super::*;

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

struct Serving {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serving(bed: &Bed) -> Serving {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = axum::serve(listener, bed.router()).into_future();
    let task = tokio::spawn(async move {
        let _ = serve.await;
    });
    Serving { address, task }
}

async fn connect(
    s: &Serving,
    path: &str,
    headers: [(&'static str, &str); 2],
) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
    let mut request = format!("ws://{}{path}", s.address)
        .into_client_request()
        .unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (mut socket, _) = connect_async(request).await?;
    let size = Message::text(r#"{"type":"resize","rows":30,"cols":100}"#);
    socket.send(size).await?;
    Ok(socket)
}

async fn open(bed: &Bed, s: &Serving, id: &EnvironmentId) -> Socket {
    let origin = format!("http://{}", s.address);
    let path = format!("/environments/{id}/nodes/node1/terminals/1");
    let headers = [("cookie", bed.cookie.as_str()), ("origin", &origin)];
    connect(s, &path, headers).await.unwrap()
}

async fn until(socket: &mut Socket, wanted: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let message = tokio::time::timeout(Duration::from_secs(15), socket.next()).await;
        match message.unwrap().unwrap().unwrap() {
            Message::Binary(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Message::Text(text) => seen.push_str(&text),
            Message::Ping(_) => {}
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    seen
}

async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(15), socket.next()).await;
        match message.unwrap().unwrap() {
            Ok(Message::Close(Some(frame))) => return frame.code.into(),
            Ok(_) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn the_session_goes_on_when_the_browser_goes_and_comes_back() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut one = open(&bed, &s, &id).await;
    let first = until(&mut one, "~# ").await;
    assert!(first.contains(r#"{"type":"attached","new":true}"#));
    one.send(Message::binary("hostname\r")).await.unwrap();
    until(&mut one, "\r\nnode1\r\n").await;
    drop(one);
    let mut two = open(&bed, &s, &id).await;
    let again = until(&mut two, "\r\nnode1\r\n").await;
    assert!(again.contains(r#"{"type":"attached","new":false}"#));
    // The link drops: the page is told to connect again.
    bed.provider.drop_streams(&bed.tenant(&id).await);
    assert_eq!(close_code(&mut two).await, 4005);
    let mut three = open(&bed, &s, &id).await;
    until(&mut three, "\r\nnode1\r\n").await;
    three.send(Message::binary("exit\r")).await.unwrap();
    until(&mut three, r#"{"type":"ended","code":0}"#).await;
    assert_eq!(close_code(&mut three).await, 4000);
    let mut four = open(&bed, &s, &id).await;
    until(&mut four, r#"{"type":"attached","new":true}"#).await;
    bed.provider.crash(&bed.tenant(&id).await);
    bed.until(&id, is_final).await;
    let mut five = open(&bed, &s, &id).await;
    assert_eq!(close_code(&mut five).await, 4004);
}

#[tokio::test]
async fn a_ping_is_answered_and_is_no_use() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut one = open(&bed, &s, &id).await;
    until(&mut one, "~# ").await;
    let used = async |bed: &Bed| {
        let e = bed.app.store.environment(&id).await.unwrap().unwrap();
        e.lifetime.last_used
    };
    let before = used(&bed).await;
    bed.clock.advance(jiff::SignedDuration::from_mins(5));
    let ping = || Message::text(r#"{"type":"ping"}"#);
    one.send(ping()).await.unwrap();
    until(&mut one, r#"{"type":"pong"}"#).await;
    assert_eq!(used(&bed).await, before);
    one.send(Message::binary("hostname\r")).await.unwrap();
    until(&mut one, "\r\nnode1\r\n").await;
    assert!(used(&bed).await > before);
}

#[tokio::test]
async fn a_closed_terminal_is_gone() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut one = open(&bed, &s, &id).await;
    until(&mut one, r#"{"type":"attached","new":true}"#).await;
    let close = Message::text(r#"{"type":"close"}"#);
    one.send(close).await.unwrap();
    assert_eq!(close_code(&mut one).await, 4000);
    let mut two = open(&bed, &s, &id).await;
    until(&mut two, r#"{"type":"attached","new":true}"#).await;
}

#[tokio::test]
async fn a_paused_machine_says_so_and_its_session_goes_on_afterwards() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut one = open(&bed, &s, &id).await;
    until(&mut one, "~# ").await;
    let at = format!("/environments/{id}");
    bed.post(&format!("{at}/suspend"), "").await;
    let paused = |e: &Environment| matches!(e.state, State::Suspended { .. });
    bed.until(&id, paused).await;
    assert_eq!(close_code(&mut one).await, 4006);
    let mut two = open(&bed, &s, &id).await;
    assert_eq!(close_code(&mut two).await, 4006);
    bed.post(&format!("{at}/resume"), "").await;
    bed.until(&id, is_active).await;
    let mut three = open(&bed, &s, &id).await;
    until(&mut three, r#"{"type":"attached","new":false}"#).await;
}

#[tokio::test]
async fn a_reset_ends_a_session_and_the_next_is_on_the_fresh_machine() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut one = open(&bed, &s, &id).await;
    until(&mut one, "~# ").await;
    one.send(Message::binary("touch /root/old\r"))
        .await
        .unwrap();
    let first = bed.tenant(&id).await;
    bed.clock.advance(jiff::SignedDuration::from_secs(5));
    bed.post(&format!("/environments/{id}/reset"), "").await;
    bed.until(&id, is_active).await;
    assert_ne!(bed.tenant(&id).await, first);
    assert_eq!(close_code(&mut one).await, 4004);
    let mut two = open(&bed, &s, &id).await;
    until(&mut two, r#"{"type":"attached","new":true}"#).await;
}

#[tokio::test]
async fn what_is_open_ends_when_who_opened_it_signs_out() {
    let mut bed = bed_with(Config {
        recheck_seconds: 1,
        ..Config::default()
    })
    .await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut one = open(&bed, &s, &id).await;
    until(&mut one, "~# ").await;
    let path = format!("/environments/{id}/events");
    let request = Request::get(&path).header(header::COOKIE, &bed.cookie);
    let request = request.body(Body::empty()).unwrap();
    let live = bed.router().oneshot(request).await.unwrap();
    assert_eq!(live.status(), StatusCode::OK);
    let out = bed.post("/sign-out", "").await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    // The page's stream is whole only when it has ended.
    let whole = axum::body::to_bytes(live.into_body(), usize::MAX);
    let whole = tokio::time::timeout(Duration::from_secs(15), whole).await;
    let whole = whole.expect("the stream ends").unwrap();
    let told = String::from_utf8_lossy(&whole);
    assert!(told.contains("event: phase"), "{told}");
    assert_eq!(close_code(&mut one).await, 4001);
}

#[tokio::test]
async fn a_silent_helper_gives_the_serial_console() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.provider.silence(&bed.tenant(&id).await, &node(), true);
    let s = serving(&bed).await;
    let mut socket = open(&bed, &s, &id).await;
    until(&mut socket, r#"{"type":"console"}"#).await;
    socket
        .send(Message::binary("echo still here\r"))
        .await
        .unwrap();
    until(&mut socket, "\r\nstill here\r\n").await;
}

#[tokio::test]
async fn what_cannot_be_understood_closes_with_a_reason() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    for bad in [
        Message::text("nonsense"),
        Message::text(r#"{"type":"resize","rows":0,"cols":1}"#),
        Message::binary(vec![b'x'; 70 * 1024]),
    ] {
        let mut socket = open(&bed, &s, &id).await;
        until(&mut socket, "attached").await;
        socket.send(bad).await.unwrap();
        assert_eq!(close_code(&mut socket).await, u16::from(CloseCode::Invalid));
    }
}

#[tokio::test]
async fn strangers_and_wrong_places_are_refused() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let ours = format!("http://{}", s.address);
    for (path, origin) in [
        (
            format!("/environments/{id}/nodes/node1/terminals/1"),
            "http://evil.example",
        ),
        (
            format!("/environments/{id}/nodes/node9/terminals/1"),
            ours.as_str(),
        ),
        (
            format!("/environments/{id}/nodes/node1/terminals/9"),
            ours.as_str(),
        ),
        (
            format!("/environments/{id}/nodes/node1/terminals/x"),
            ours.as_str(),
        ),
        (
            "/environments/other/nodes/node1/terminals/1".to_owned(),
            ours.as_str(),
        ),
    ] {
        let headers = [("cookie", bed.cookie.as_str()), ("origin", origin)];
        assert!(connect(&s, &path, headers).await.is_err(), "{path}");
    }
}

#[tokio::test]
async fn a_program_opens_one_with_its_token_and_with_nothing_else() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let path = format!("/api/v1/environments/{id}/nodes/node1/terminals/1");
    let (right, wrong) = (format!("Bearer {}", bed.token), "Bearer flt_wrong");
    let plain = ("accept", "*/*");
    let mut socket = connect(&s, &path, [("authorization", &right), plain])
        .await
        .unwrap();
    until(&mut socket, "~# ").await;
    socket.send(Message::binary("hostname\r")).await.unwrap();
    until(&mut socket, "\r\nnode1\r\n").await;
    let nobody_s = format!("/api/v1/environments/{id}/nodes/node9/terminals/1");
    for (path, header, status) in [
        (&path, ("authorization", wrong), 401),
        (&path, ("cookie", bed.cookie.as_str()), 401),
        (&nobody_s, ("authorization", right.as_str()), 404),
    ] {
        match connect(&s, path, [header, plain]).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), status, "{path} {header:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}
