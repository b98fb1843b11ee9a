//! Tests with an HTTP server of their own behind the fake provider.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use faultline_domain::{Shape, TemplateRef, progress::Progress};
use faultline_provider::{
    Priority,
    fake::{FakeListener, FakeProvider, IMAGE},
};
use http_body_util::Full;
use hyper::service::service_fn;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::*;

const HOST: &str = "web-abcdefghjk.localhost:7890";
const COOKIE: &str = "faultline_visit=good";

/// Admits the cookie `good`, and the code `code` once.
#[derive(Default)]
struct Door {
    grant: Mutex<Option<Grant>>,
    entered: AtomicBool,
    changed: Notify,
    used: AtomicBool,
}

#[async_trait]
impl Exposures for Door {
    async fn admit(&self, _: &Place, cookie: Option<&str>) -> Result<Grant, Refusal> {
        let grant = self.grant.lock().unwrap().clone();
        let private = || Refusal::private("http://127.0.0.1:7890/environments/x".to_owned());
        grant.filter(|_| cookie == Some("good")).ok_or_else(private)
    }
    async fn enter(&self, place: &Place, code: &str) -> Result<Visit, Refusal> {
        if code != "code" || self.entered.swap(true, Ordering::AcqRel) {
            return Err(self.admit(place, None).await.unwrap_err());
        }
        Ok(Visit {
            secret: "good".to_owned(),
            seconds: 60,
        })
    }
    async fn changed(&self, _: &EnvironmentId) {
        self.changed.notified().await;
    }
    async fn used(&self, _: &EnvironmentId) {
        self.used.store(true, Ordering::Release);
    }
}

struct Bed {
    gateway: Gateway,
    door: Arc<Door>,
    listener: Option<FakeListener>,
    place: Place,
}

async fn bed(limits: Limits) -> Bed {
    let provider = FakeProvider::new();
    let (tenant, node): (TenantId, NodeName) =
        ("tenant".parse().unwrap(), "node1".parse().unwrap());
    let template = TemplateRef::plain(IMAGE, Shape::SINGLE);
    let progress = Progress::ignored();
    let made = provider.create(&tenant, &template, Priority::Normal, &progress);
    made.await.unwrap();
    let place = Place {
        environment: "abcdefghjk".parse().unwrap(),
        name: "web".parse().unwrap(),
    };
    let door = Arc::new(Door::default());
    *door.grant.lock().unwrap() = Some(Grant {
        place: place.clone(),
        tenant: tenant.clone(),
        nodes: vec!["node9".parse().unwrap(), node.clone()],
        port: 30_080,
        host: None,
        is_owner: true,
    });
    let config = Config {
        https: false,
        limits,
        response: Duration::from_secs(2),
    };
    let gateway = Gateway::new(
        door.clone(),
        Arc::new(provider.clone()),
        config,
        TaskTracker::new(),
        CancellationToken::new(),
    );
    Bed {
        listener: Some(provider.listen(&tenant, &node, 30_080)),
        gateway,
        door,
        place,
    }
}

fn limits() -> Limits {
    Limits {
        at_once: 4,
        per_second: 50,
        bytes_per_hour: 1 << 20,
    }
}

fn request(path: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::get(path).header("host", HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

impl Bed {
    async fn ask(&self, request: Request<Full<Bytes>>) -> Answer {
        let from = IpAddr::from([192, 0, 2, 7]);
        self.gateway.answer(&self.place, request, from).await
    }

    /// Serves requests as a student's program: it says what it received, and sets cookies.
    fn serve(&mut self) {
        let mut listener = self.listener.take().unwrap();
        tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                let service = service_fn(async |request: Request<hyper::body::Incoming>| {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let all = parts.headers.iter();
                    let mut lines: Vec<String> = all
                        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                        .collect();
                    lines.sort();
                    let text = format!(
                        "{} {}\n{}\n{}",
                        parts.method,
                        parts.uri,
                        lines.join("\n"),
                        body.len()
                    );
                    let response = Response::builder()
                        .header("set-cookie", "sid=1; Domain=localhost")
                        .header("set-cookie", "faultline_session=x")
                        .header("keep-alive", "timeout=5");
                    Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from(text))).unwrap())
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    }
}

async fn text(answer: Answer) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn requests_are_forwarded_without_our_cookies_and_with_the_headers_of_a_proxy() {
    let mut bed = bed(limits()).await;
    bed.serve();
    let sent = [
        (
            "cookie",
            "faultline_session=flt_x; a=1; faultline_visit=good",
        ),
        ("connection", "keep-alive, x-secret"),
        ("x-secret", "1"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    let answer = bed.ask(request("/basket?x=1", &sent, "hello")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["sid=1"]);
    assert!(!answer.headers().contains_key("keep-alive"));
    assert_eq!(
        text(answer).await,
        format!(
            "GET /basket?x=1\ncontent-length: 5\ncookie: a=1\nhost: {HOST}\nx-forwarded-for: 192.0.2.7\n\
             x-forwarded-host: {HOST}\nx-forwarded-proto: http\n5"
        )
    );
    assert!(bed.door.used.load(Ordering::Acquire));
}

#[tokio::test]
async fn without_a_cookie_nothing_is_forwarded() {
    let mut bed = bed(limits()).await;
    let mut listener = bed.listener.take().unwrap();
    for headers in [
        &[][..],
        &[("cookie", "faultline_visit=bad")],
        &[("cookie", "visit=good")],
    ] {
        let answer = bed.ask(request("/", headers, "")).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.extensions().get::<refusal::Refused>().is_some());
    }
    let foreign = [
        ("cookie", COOKIE),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-mode", "cors"),
    ];
    let answer = bed.ask(request("/", &foreign, "")).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    for path in ["/_faultline/", "/_faultline/x"] {
        let answer = bed.ask(request(path, &[("cookie", COOKIE)], "")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
    let nothing = tokio::time::timeout(Duration::from_millis(100), listener.accept());
    assert!(nothing.await.is_err());
    let html = bed
        .ask(request("/", &[("accept", "text/html,*/*")], ""))
        .await;
    assert_eq!(html.headers()["content-type"], "text/html; charset=utf-8");
    assert!(
        text(html)
            .await
            .contains("href=\"http://127.0.0.1:7890/environments/x\"")
    );
}

#[tokio::test]
async fn a_code_is_exchanged_for_a_cookie_of_this_host_once() {
    let bed = bed(limits()).await;
    let path = format!("{ENTER}?code=code");
    let answer = bed.ask(request(&path, &[], "")).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()["location"], "/");
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert_eq!(
        cookie,
        "faultline_visit=good; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"
    );
    let again = bed.ask(request(&path, &[], "")).await;
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
    // Whoever has the cookie is led to the page.
    let reloaded = bed.ask(request(&path, &[("cookie", COOKIE)], "")).await;
    assert_eq!(reloaded.status(), StatusCode::SEE_OTHER);
    assert!(!reloaded.headers().contains_key("set-cookie"));
}

#[tokio::test]
async fn requests_and_bytes_are_limited() {
    let mut bed = bed(Limits {
        bytes_per_hour: 2000,
        ..limits()
    })
    .await;
    bed.serve();
    let cookie = [("cookie", COOKIE)];
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(bed.ask(request("/", &cookie, "")).await);
    }
    let fifth = bed.ask(request("/", &cookie, "")).await;
    assert_eq!(fifth.status(), StatusCode::TOO_MANY_REQUESTS);
    drop(open);
    let large = bed.ask(request("/", &cookie, &"x".repeat(5000))).await;
    assert_ne!(large.status(), StatusCode::OK);
    let after = bed.ask(request("/", &cookie, "")).await;
    assert_eq!(after.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn what_does_not_answer_is_reported() {
    let mut bed = bed(limits()).await;
    let mut listener = bed.listener.take().unwrap();
    let cookie = [("cookie", COOKIE)];
    let accepted = async { listener.accept().await.unwrap() };
    let asked = bed.ask(request("/", &cookie, ""));
    let (answer, silent) = tokio::join!(asked, accepted);
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    drop(silent);
    let asked = bed.ask(request("/", &cookie, ""));
    let (answer, _stream) = tokio::join!(asked, async {
        let mut stream = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
        stream
    });
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    drop(listener);
    let answer = bed.ask(request("/", &cookie, "")).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert!(text(answer).await.starts_with("Nothing listens"));
}

/// A body that goes on ends when the visitor may not open the exposure any more.
#[tokio::test]
async fn what_is_open_ends_with_the_access() {
    let mut bed = bed(limits()).await;
    let mut listener = bed.listener.take().unwrap();
    let cookie = [("cookie", COOKIE)];
    let asked = bed.ask(request("/", &cookie, ""));
    let (answer, mut stream) = tokio::join!(asked, async {
        let mut stream = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
        stream.write_all(endless).await.unwrap();
        stream
    });
    let mut body = answer.into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "x");
    // A change that concerns others ends nothing.
    bed.door.changed.notify_waiters();
    stream.write_all(b"1\r\ny\r\n").await.unwrap();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "y"
    );
    *bed.door.grant.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_millis(50)).await;
    bed.door.changed.notify_waiters();
    let ended = tokio::time::timeout(Duration::from_secs(5), body.frame()).await;
    assert!(ended.unwrap().unwrap().is_err());
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
    assert!(closed.await.is_ok(), "the tenant's connection is closed");
}

#[tokio::test]
async fn upgraded_connections_are_carried_and_end_with_the_access() {
    let mut bed = bed(limits()).await;
    let mut listener = bed.listener.take().unwrap();
    // The student's program accepts the upgrade, and echoes.
    let echo = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let accept = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(accept).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.map(|_| head)
    });
    let (gateway, place) = (bed.gateway.clone(), bed.place.clone());
    let (mut client, server) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (gateway, place) = (gateway.clone(), place.clone());
            async move {
                let from = IpAddr::from([192, 0, 2, 7]);
                Ok::<_, std::convert::Infallible>(gateway.answer(&place, request, from).await)
            }
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), service)
            .with_upgrades()
            .await
    });
    let ask = format!(
        "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nCookie: {COOKIE}\r\nOrigin: http://{HOST}\r\n\
         Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    client.write_all(b"hello").await.unwrap();
    let mut said = [0; 5];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    *bed.door.grant.lock().unwrap() = None;
    bed.door.changed.notify_waiters();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), client.read_to_end(&mut rest));
    assert!(closed.await.is_ok(), "the client's connection is closed");
    let sent = tokio::time::timeout(Duration::from_secs(5), echo).await;
    let sent = String::from_utf8(sent.unwrap().unwrap().unwrap()).unwrap();
    assert!(!sent.contains("faultline_visit"), "{sent}");
}
