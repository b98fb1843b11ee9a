//! Tests of `/environments/{id}/socket` and of the API's terminals, over real sockets.

use std::{collections::HashMap, future::IntoFuture};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};

use super::*;

pub(super) type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

pub(super) struct Serving {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn serving(bed: &Bed) -> Serving {
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
) -> Result<Socket, Error> {
    let mut request = format!("ws://{}{path}", s.address)
        .into_client_request()
        .unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    Ok(connect_async(request).await?.0)
}

async fn next(socket: &mut Socket) -> Message {
    let message = tokio::time::timeout(Duration::from_secs(15), socket.next()).await;
    message.unwrap().unwrap().unwrap()
}

pub(super) async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        if let Message::Close(Some(frame)) = next(socket).await {
            return frame.code.into();
        }
    }
}

/// An open page.
pub(super) struct Page {
    pub socket: Socket,
    /// Output and notices of each channel since the last call of `until`.
    shown: HashMap<u8, String>,
    /// The latest content of each part of the page.
    pub parts: HashMap<String, String>,
    pongs: u32,
}

impl Page {
    pub async fn load(bed: &Bed, s: &Serving, id: &EnvironmentId) -> Self {
        let path = format!("/environments/{id}/socket");
        Self::at(bed, s, &path).await.unwrap()
    }

    /// Opens the WebSocket at this path.
    pub async fn at(bed: &Bed, s: &Serving, path: &str) -> Result<Self, Error> {
        let origin = format!("http://{}", s.address);
        let headers = [("cookie", bed.cookie.as_str()), ("origin", &origin)];
        Ok(Self {
            socket: connect(s, path, headers).await?,
            shown: HashMap::new(),
            parts: HashMap::new(),
            pongs: 0,
        })
    }

    /// Opens a page with a terminal on channel 1.
    pub async fn with_terminal(bed: &Bed, s: &Serving, id: &EnvironmentId) -> Self {
        let mut page = Self::load(bed, s, id).await;
        page.open(1, "node1", 1).await;
        page
    }

    pub async fn send(&mut self, message: Value) {
        let message = Message::text(message.to_string());
        self.socket.send(message).await.unwrap();
    }

    pub async fn open(&mut self, channel: u8, node: &str, number: u32) {
        self.send(json!({
            "type": "open", "channel": channel, "node": node, "number": number, "rows": 30, "cols": 100
        }))
        .await;
    }

    pub async fn keys(&mut self, channel: u8, keys: &str) {
        let message = [&[channel][..], keys.as_bytes()].concat();
        self.socket.send(Message::binary(message)).await.unwrap();
    }

    /// Handles one message.
    pub async fn read(&mut self) {
        match next(&mut self.socket).await {
            Message::Binary(bytes) => {
                let text = String::from_utf8_lossy(&bytes[1..]);
                self.shown.entry(bytes[0]).or_default().push_str(&text);
            }
            Message::Text(text) => {
                let received: Value = serde_json::from_str(&text).unwrap();
                match (
                    received["type"].as_str().unwrap(),
                    received["channel"].as_u64(),
                ) {
                    ("event", None) => {
                        let [name, data] = ["name", "data"].map(|k| received[k].as_str().unwrap());
                        self.parts.insert(name.to_owned(), data.to_owned());
                    }
                    ("pong", None) => self.pongs += 1,
                    (_, Some(channel)) => {
                        let channel = channel.try_into().unwrap();
                        self.shown.entry(channel).or_default().push_str(&text);
                    }
                    _ => panic!("{text}"),
                }
            }
            Message::Ping(_) => {}
            other => panic!("{other:?} after {:?}", self.shown),
        }
    }

    /// Reads until a channel has shown this, and returns everything that it has shown.
    pub async fn until(&mut self, channel: u8, wanted: &str) -> String {
        while !self.shown.get(&channel).is_some_and(|s| s.contains(wanted)) {
            self.read().await;
        }
        self.shown.remove(&channel).unwrap()
    }

    /// Reads until `matches` returns true for a part of the page.
    pub async fn until_part(&mut self, name: &str, matches: impl Fn(&str) -> bool) {
        while !self.parts.get(name).is_some_and(|data| matches(data)) {
            self.read().await;
        }
    }

    /// Reads until a channel is closed, and returns the code.
    pub async fn closed(&mut self, channel: u8) -> u16 {
        let closed = format!(r#"{{"type":"closed","channel":{channel},"code":"#);
        let shown = self.until(channel, &closed).await;
        let (_, code) = shown.split_once(&closed).unwrap();
        code[..4].parse().unwrap()
    }
}

/// Opens a program's terminal.
async fn program(
    s: &Serving,
    path: &str,
    headers: [(&'static str, &str); 2],
) -> Result<Socket, Error> {
    let mut socket = connect(s, path, headers).await?;
    let size = Message::text(r#"{"type":"resize","rows":30,"cols":100}"#);
    socket.send(size).await?;
    Ok(socket)
}

/// Reads a program's terminal until it has shown this.
async fn until(socket: &mut Socket, wanted: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match next(socket).await {
            Message::Binary(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Message::Text(text) => seen.push_str(&text),
            Message::Ping(_) => {}
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    seen
}

const NEW: &str = r#"{"type":"attached","new":true"#;
const AGAIN: &str = r#"{"type":"attached","new":false"#;

#[tokio::test]
async fn the_session_continues_when_the_browser_reconnects() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut one = Page::with_terminal(&bed, &s, &id).await;
    let first = one.until(1, "~# ").await;
    assert!(first.contains(NEW));
    one.keys(1, "hostname\r").await;
    one.until(1, "\r\nnode1\r\n").await;
    drop(one);
    let mut two = Page::with_terminal(&bed, &s, &id).await;
    let again = two.until(1, "\r\nnode1\r\n").await;
    assert!(again.contains(AGAIN));
    // The link breaks: the page is told to attach again, and can.
    bed.provider.drop_streams(&bed.tenant(&id).await);
    assert_eq!(two.closed(1).await, 4005);
    two.open(1, "node1", 1).await;
    two.until(1, "\r\nnode1\r\n").await;
    two.keys(1, "exit\r").await;
    two.until(1, r#"{"type":"ended","code":0,"channel":1}"#)
        .await;
    assert_eq!(two.closed(1).await, 4000);
    two.open(1, "node1", 1).await;
    two.until(1, NEW).await;
    bed.provider.crash(&bed.tenant(&id).await);
    bed.until(&id, is_final).await;
    let mut three = Page::with_terminal(&bed, &s, &id).await;
    assert_eq!(three.closed(1).await, 4004);
}

#[tokio::test]
async fn the_last_input_arrives_after_the_page_disconnects() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.until(1, "~# ").await;
    page.keys(1, "touch /root/last\r").await;
    page.socket.close(None).await.unwrap();
    let tenant = bed.tenant(&id).await;
    while bed.provider.file(&tenant, &node(), "/root/last").is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn events_and_two_terminals_share_one_socket() {
    let mut bed = bed().await;
    let id = bed.active("two-nodes").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.open(2, "node2", 1).await;
    page.until(1, "node1:~# ").await;
    page.until(2, "node2:~# ").await;
    page.until_part("phase", |phase| phase == "active").await;
    page.until_part("nodes", |nodes| nodes == "node1,node2")
        .await;
    page.keys(1, "echo a\r").await;
    page.keys(2, "echo b\r").await;
    let (one, two) = (
        page.until(1, "\r\na\r\n").await,
        page.until(2, "\r\nb\r\n").await,
    );
    assert!(!one.contains("echo b") && !two.contains("echo a"));
    // A change is reported while both are open.
    bed.post(&format!("/environments/{id}/suspend"), "").await;
    let paused = |e: &Environment| matches!(e.state, State::Suspended { .. });
    bed.until(&id, paused).await;
    page.until_part("phase", |phase| phase == "suspended").await;
    assert_eq!((page.closed(1).await, page.closed(2).await), (4006, 4006));
}

#[tokio::test]
async fn a_starts_progress_is_reported_until_the_machine_is_active() {
    let mut bed = bed().await;
    bed.provider.set_latency(Duration::from_secs(2));
    let id = bed.start("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::load(&bed, &s, &id).await;
    bed.begun(&id).await;
    let clone = "log-stage\">clone";
    page.until_part("log", |log| log.contains(clone)).await;
    assert_eq!(page.parts["phase"], "starting");
    let reloaded = bed.get(&format!("/environments/{id}")).await.body;
    assert!(reloaded.contains(clone), "a reload shows the stage too");
    bed.until(&id, is_active).await;
    page.until_part("phase", |phase| phase == "active").await;
    page.open(1, "node1", 1).await;
    page.until(1, "~# ").await;
}

#[tokio::test]
async fn a_terminal_that_floods_delays_only_itself() {
    const EACH: usize = 60 * 1024;
    let mut bed = bed().await;
    let id = bed.active("two-nodes").await;
    let (a, b) = (node(), "node2".parse().unwrap());
    let tenant = bed.tenant(&id).await;
    bed.provider
        .put_file(&tenant, &a, "/big", &vec![b'y'; EACH]);
    bed.provider.put_file(&tenant, &b, "/run/quiet", b"quiet\n");
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.open(2, "node2", 1).await;
    page.until(1, "~# ").await;
    page.until(2, "~# ").await;
    page.keys(1, &"cat /big\r".repeat(20)).await;
    // The page acknowledges nothing, so at most one window is sent.
    let flood = |page: &Page| page.shown.get(&1).map_or(0, String::len);
    while flood(&page) < 3 * EACH {
        page.read().await;
    }
    page.keys(2, "cat /run/quiet\r").await;
    page.until(2, "\r\nquiet\r\n").await;
    bed.post(&format!("/environments/{id}/check"), "").await;
    checked(&bed.app, &id).await;
    page.until_part("checks", |checks| checks.contains("0 of 2 passed"))
        .await;
    page.send(json!({"type": "ping"})).await;
    while page.pongs == 0 {
        page.read().await;
    }
    assert!(flood(&page) <= 256 * 1024, "{}", flood(&page));
    // The rest is sent as the page acknowledges output, even if it claims more than it got.
    let mut shown = 0;
    while page.shown[&1].matches('y').count() < 20 * EACH {
        let more = page.shown[&1].len() - shown;
        shown += more;
        page.send(json!({"type": "shown", "channel": 1, "bytes": more}))
            .await;
        page.read().await;
    }
    page.send(json!({"type": "shown", "channel": 1, "bytes": u64::MAX}))
        .await;
    page.keys(1, "hostname\r").await;
    page.until(1, "\r\nnode1\r\n").await;
}

#[tokio::test]
async fn a_machine_that_accepts_no_input_does_not_delay_others() {
    let mut bed = bed().await;
    let id = bed.active("two-nodes").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.open(2, "node2", 1).await;
    page.until(1, "~# ").await;
    page.until(2, "~# ").await;
    bed.provider.deafen(&bed.tenant(&id).await, &node());
    for _ in 0..400 {
        page.keys(1, &"x".repeat(4096)).await;
    }
    page.keys(2, "hostname\r").await;
    page.until(2, "\r\nnode2\r\n").await;
    // Its queue is bounded, so the terminal ends, but not the page.
    assert_eq!(page.closed(1).await, 1007);
    page.open(1, "node2", 2).await;
    page.until(1, NEW).await;
}

#[tokio::test]
async fn a_closed_terminal_ends_even_if_input_is_queued() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.until(1, "~# ").await;
    let close = || json!({"type": "close", "channel": 1});
    page.send(close()).await;
    // Late input is dropped: it reaches neither the old terminal nor the next one on its channel.
    page.keys(1, "touch /root/late\r").await;
    assert_eq!(page.closed(1).await, 4000);
    page.keys(1, "touch /root/late\r").await;
    page.send(close()).await;
    page.open(1, "node1", 1).await;
    page.until(1, NEW).await;
    page.keys(1, "hostname\r").await;
    page.until(1, "\r\nnode1\r\n").await;
    let tenant = bed.tenant(&id).await;
    let late = bed.provider.file(&tenant, &node(), "/root/late");
    assert!(late.is_none(), "late input reached a terminal");
    // Input that the machine doesn't accept can't keep it open.
    bed.provider.deafen(&tenant, &node());
    page.keys(1, "xx").await;
    page.send(close()).await;
    assert_eq!(page.closed(1).await, 4000);
}

#[tokio::test]
async fn messages_for_a_channel_that_was_never_opened_are_ignored() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.keys(9, "touch /root/nobody\r").await;
    for message in [
        json!({"type": "resize", "channel": 9, "rows": 20, "cols": 20}),
        json!({"type": "shown", "channel": 9, "bytes": 5}),
        json!({"type": "close", "channel": 9}),
    ] {
        page.send(message).await;
    }
    page.keys(1, "hostname\r").await;
    page.until(1, "\r\nnode1\r\n").await;
    assert!(!page.shown.contains_key(&9));
    // A node that doesn't exist.
    page.open(9, "node9", 1).await;
    assert_eq!(page.closed(9).await, 4004);
}

#[tokio::test]
async fn a_ping_gets_a_pong_and_does_not_count_as_use() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.until(1, "~# ").await;
    let used = async |bed: &Bed| {
        let e = bed.app.store.environment(&id).await.unwrap().unwrap();
        e.lifetime.last_used
    };
    let before = used(&bed).await;
    bed.clock.advance(jiff::SignedDuration::from_mins(5));
    page.send(json!({"type": "ping"})).await;
    while page.pongs == 0 {
        page.read().await;
    }
    assert_eq!(used(&bed).await, before);
    page.keys(1, "hostname\r").await;
    page.until(1, "\r\nnode1\r\n").await;
    assert!(used(&bed).await > before);
}

#[tokio::test]
async fn a_pause_closes_the_terminal_and_the_session_continues_after_a_resume() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.until(1, "~# ").await;
    let at = format!("/environments/{id}");
    bed.post(&format!("{at}/suspend"), "").await;
    let paused = |e: &Environment| matches!(e.state, State::Suspended { .. });
    bed.until(&id, paused).await;
    assert_eq!(page.closed(1).await, 4006);
    page.open(1, "node1", 1).await;
    assert_eq!(page.closed(1).await, 4006);
    bed.post(&format!("{at}/resume"), "").await;
    bed.until(&id, is_active).await;
    page.open(1, "node1", 1).await;
    page.until(1, AGAIN).await;
}

#[tokio::test]
async fn a_reset_ends_a_session_and_the_next_one_is_on_the_fresh_machine() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.until(1, "~# ").await;
    let first = bed.tenant(&id).await;
    bed.clock.advance(jiff::SignedDuration::from_secs(5));
    bed.post(&format!("/environments/{id}/reset"), "").await;
    bed.until(&id, is_active).await;
    assert_ne!(bed.tenant(&id).await, first);
    assert_eq!(page.closed(1).await, 4004);
    let second = bed.tenant(&id).await.to_string();
    page.until_part("tenant", |tenant| tenant == second).await;
    page.open(1, "node1", 1).await;
    page.until(1, NEW).await;
}

#[tokio::test]
async fn open_sockets_close_when_their_person_signs_out() {
    let mut bed = bed_with(Config {
        recheck_seconds: 1,
        ..Config::default()
    })
    .await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.until(1, "~# ").await;
    let out = bed.post("/sign-out", "").await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    assert_eq!(close_code(&mut page.socket).await, 4001);
}

#[tokio::test]
async fn a_stopping_server_closes_sockets_with_its_code() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.until(1, "~# ").await;
    bed.app.stopping.cancel();
    assert_eq!(close_code(&mut page.socket).await, 1012);
}

#[tokio::test]
async fn without_a_helper_the_terminal_is_the_serial_console() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.provider.silence(&bed.tenant(&id).await, &node(), true);
    let s = serving(&bed).await;
    let mut page = Page::with_terminal(&bed, &s, &id).await;
    page.until(1, r#"{"type":"console","channel":1}"#).await;
    page.keys(1, "echo still here\r").await;
    page.until(1, "\r\nstill here\r\n").await;
}

#[tokio::test]
async fn an_invalid_message_closes_the_socket_with_a_reason() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let open = |channel: u8, number: u32| {
        Message::text(format!(
            r#"{{"type":"open","channel":{channel},"node":"node1","number":{number},"rows":30,"cols":100}}"#
        ))
    };
    for bad in [
        Message::text("nonsense"),
        Message::text(r#"{"type":"resize","channel":1,"rows":0,"cols":1}"#),
        Message::text(r#"{"type":"resize","rows":24,"cols":80}"#),
        Message::binary(Vec::new()),
        Message::binary(vec![0, b'x']),
        Message::binary(vec![1; 70 * 1024]),
        // The channel is in use or out of range; the terminal's number is out of range.
        open(1, 2),
        open(65, 2),
        open(2, 9),
    ] {
        let mut page = Page::with_terminal(&bed, &s, &id).await;
        page.until(1, "attached").await;
        page.socket.send(bad).await.unwrap();
        let code = close_code(&mut page.socket).await;
        assert_eq!(code, u16::from(CloseCode::Invalid));
    }
}

#[tokio::test]
async fn strangers_and_other_sites_are_refused() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let ours = format!("http://{}", s.address);
    for (id, origin, status) in [
        (id.as_str(), "http://evil.example", 403),
        (id.as_str(), "null", 403),
        ("other", ours.as_str(), 404),
    ] {
        let headers = [("cookie", bed.cookie.as_str()), ("origin", origin)];
        match connect(&s, &format!("/environments/{id}/socket"), headers).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), status, "{id} {origin}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_program_opens_a_terminal_only_with_a_valid_token() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let at = |node: &str, number: &str| {
        format!("/api/v1/environments/{id}/nodes/{node}/terminals/{number}")
    };
    let path = at("node1", "1");
    let (right, wrong) = (format!("Bearer {}", bed.token), "Bearer flt_wrong");
    let plain = ("accept", "*/*");
    let mut socket = program(&s, &path, [("authorization", &right), plain])
        .await
        .unwrap();
    let first = until(&mut socket, "~# ").await;
    assert!(first.contains(r#"{"type":"attached","new":true}"#));
    socket.send(Message::binary("hostname\r")).await.unwrap();
    until(&mut socket, "\r\nnode1\r\n").await;
    let right = ("authorization", right.as_str());
    for (path, header, status) in [
        (&path, ("authorization", wrong), 401),
        (&path, ("cookie", bed.cookie.as_str()), 401),
        (&at("node9", "1"), right, 404),
        (&at("node1", "9"), right, 404),
        (&at("node1", "x"), right, 404),
    ] {
        match program(&s, path, [header, plain]).await {
            Err(Error::Http(answer)) => {
                assert_eq!(answer.status(), status, "{path} {header:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_programs_terminal_closes_with_a_reason() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let path = format!("/api/v1/environments/{id}/nodes/node1/terminals/1");
    let token = format!("Bearer {}", bed.token);
    let headers = [("authorization", token.as_str()), ("accept", "*/*")];
    let big = vec![b'y'; 60 * 1024];
    let tenant = bed.tenant(&id).await;
    bed.provider.put_file(&tenant, &node(), "/big", &big);
    for (last, code) in [
        (Message::text(r#"{"type":"close"}"#), 4000),
        (Message::binary("exit\r"), 4000),
        (Message::text("nonsense"), 1007),
    ] {
        let mut socket = program(&s, &path, headers).await.unwrap();
        until(&mut socket, "~# ").await;
        socket
            .send(Message::text(r#"{"type":"ping"}"#))
            .await
            .unwrap();
        until(&mut socket, r#"{"type":"pong"}"#).await;
        // More than the window of a page.
        let flood = Message::binary("cat /big\r".repeat(8));
        socket.send(flood).await.unwrap();
        socket.send(Message::binary("echo over\r")).await.unwrap();
        until(&mut socket, "\r\nover\r\n").await;
        socket.send(last).await.unwrap();
        assert_eq!(close_code(&mut socket).await, code);
    }
    // A program that doesn't send a size gets a terminal anyway.
    let mut socket = connect(&s, &path, headers).await.unwrap();
    until(&mut socket, "~# ").await;
    bed.provider.drop_streams(&tenant);
    assert_eq!(close_code(&mut socket).await, 4005);
}

#[tokio::test]
async fn a_person_has_a_limited_number_of_sockets() {
    let mut bed = bed_with(Config {
        max_sockets_of_person: 2,
        ..Config::default()
    })
    .await;
    let id = bed.active("stale-flag").await;
    let s = serving(&bed).await;
    let (one, two) = (
        Page::load(&bed, &s, &id).await,
        Page::load(&bed, &s, &id).await,
    );
    let path = format!("/environments/{id}/socket");
    let origin = format!("http://{}", s.address);
    let third = async || {
        let headers = [("cookie", bed.cookie.as_str()), ("origin", &origin)];
        connect(&s, &path, headers).await
    };
    match third().await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 429),
        other => panic!("{other:?}"),
    }
    drop(one);
    for _ in 0..200 {
        if third().await.is_ok() {
            drop(two);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the place was not given back");
}
