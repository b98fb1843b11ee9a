//! Tests with real TLS and HTTP on both sides, and an API server that responds with the request it received.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, client::conn::http1,
    client::conn::http2, header::HeaderName,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

const TOKEN: &str = "mine";

type Whole = BoxBody<Bytes, Infallible>;

fn whole(text: impl Into<Bytes>) -> Whole {
    Full::new(text.into()).boxed()
}

/// One environment, `abc`, with an API server.
#[derive(Default)]
struct Fake {
    withdrawn: AtomicBool,
    undecided: AtomicBool,
    /// Whether the token has expired.
    expired: AtomicBool,
    moved: AtomicBool,
    used: Mutex<u32>,
    changed: Mutex<Vec<Change>>,
    connections: Mutex<Vec<Protocol>>,
    /// Whether the API server doesn't respond.
    frozen: AtomicBool,
    /// The headers that authenticate requests.
    headers: Mutex<HeaderMap>,
    /// If set, the refusal of every request.
    refused: Mutex<Option<Refusal>>,
}

#[async_trait]
impl ApiServers for Fake {
    async fn admit(
        &self,
        environment: &EnvironmentId,
        token: &str,
        open: bool,
    ) -> Result<Grant, Refusal> {
        if self.expired.load(Ordering::SeqCst) && !open {
            return Err(Refusal::expired());
        }
        if self.undecided.load(Ordering::SeqCst) {
            return Err(Refusal::undecided());
        }
        if let Some(refusal) = self.refused.lock().unwrap().clone() {
            return Err(refusal);
        }
        if token != TOKEN || self.withdrawn.load(Ordering::SeqCst) {
            return Err(Refusal::unauthorized());
        }
        match environment.as_str() {
            "abc" => {}
            "paused" => return Err(Refusal::unavailable("it is paused; resume it")),
            "over" => return Err(Refusal::gone("it has ended")),
            _ => return Err(Refusal::not_found()),
        }
        let tenant = if self.moved.load(Ordering::SeqCst) {
            "second"
        } else {
            "first"
        };
        Ok(Grant {
            environment: environment.clone(),
            tenant: tenant.parse().unwrap(),
            person: "ann".parse().unwrap(),
        })
    }

    async fn connect(&self, _: &Grant, protocol: Protocol) -> Result<Connection, Refusal> {
        self.connections.lock().unwrap().push(protocol);
        if self.frozen.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Err(Refusal::unavailable("it does not respond"));
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let service = service_fn(api_server);
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(theirs), service)
                .await;
        });
        Ok(Connection {
            stream: Box::new(ours),
            headers: self.headers.lock().unwrap().clone(),
        })
    }

    async fn used(&self, _: &Grant) {
        *self.used.lock().unwrap() += 1;
    }

    async fn changes(&self, _: &Grant, change: &Change) {
        self.changed.lock().unwrap().push(change.clone());
    }
}

async fn api_server(mut request: Request<Incoming>) -> Result<Response<Whole>, Infallible> {
    let path = request.uri().path().to_owned();
    if path.ends_with("/exec") {
        let client = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut client = TokioIo::new(client.await.unwrap());
            let mut buffer = [0; 100];
            while let Ok(n @ 1..) = client.read(&mut buffer).await {
                client.write_all(&buffer[..n]).await.unwrap();
            }
        });
        let mut answer = Response::new(whole(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert("connection", "Upgrade".parse().unwrap());
        headers.insert("upgrade", "v5.channel.k8s.io".parse().unwrap());
        for name in ["connection", "impersonate-user"] {
            if let Some(value) = request.headers().get(name) {
                headers.insert(
                    format!("seen-{name}").parse::<HeaderName>().unwrap(),
                    value.clone(),
                );
            }
        }
        return Ok(answer);
    }
    if request.uri().query() == Some("watch=true") {
        let news = futures::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok(Frame::data(Bytes::from_static(b"news\n"))), ()))
        });
        return Ok(Response::new(StreamBody::new(news).boxed()));
    }
    if request.method() == Method::POST {
        let body = request.into_body();
        let body = body.map_err(|e| -> Infallible { panic!("{e}") }).boxed();
        return Ok(Response::new(body));
    }
    let headers: Vec<&str> = request.headers().keys().map(|k| k.as_str()).collect();
    let groups = request.headers().get_all("impersonate-group").iter();
    let groups: Vec<&str> = groups.map(|g| g.to_str().unwrap()).collect();
    let told = json!({"path": request.uri().to_string(), "headers": headers, "groups": groups});
    Ok(Response::new(whole(told.to_string())))
}

struct Bed {
    fake: Arc<Fake>,
    address: SocketAddr,
    authority: String,
    stop: CancellationToken,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bed(config: Config) -> Bed {
    let authority = certificate::authority().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let pair = certificate::issue(&authority, names).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (fake, stop) = (Arc::new(Fake::default()), CancellationToken::new());
    let tls = certificate::tls(&pair).unwrap();
    tokio::spawn(serve(listener, tls, config, fake.clone(), stop.clone()));
    Bed {
        fake,
        address,
        authority: authority.certificate,
        stop,
    }
}

fn quick() -> Config {
    Config {
        recheck: Duration::from_millis(50),
        ..Config::default()
    }
}

impl Bed {
    /// Opens a connection that trusts only the platform's authority.
    async fn tls(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap()
    }

    async fn http2(&self) -> http2::SendRequest<Whole> {
        let stream = TokioIo::new(self.tls(b"h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn http1(&self) -> http1::SendRequest<Whole> {
        let stream = TokioIo::new(self.tls(b"http/1.1").await);
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        let answer = self
            .http2()
            .await
            .send_request(request(token, Method::GET, path, ""))
            .await
            .unwrap();
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap())
    }

    /// Returns the number of connections that were made to the API server.
    fn connections(&self) -> usize {
        self.fake.connections.lock().unwrap().len()
    }
}

fn request(token: &str, method: Method, path: &str, body: &'static str) -> Request<Whole> {
    Request::builder()
        .method(method)
        .uri(format!("https://127.0.0.1{path}"))
        .header("authorization", format!("Bearer {token}"))
        .header("x-remote-user", "admin")
        .body(whole(body))
        .unwrap()
}

#[tokio::test]
async fn a_request_is_forwarded_without_the_platforms_headers() {
    let bed = bed(quick()).await;
    let (code, told) = bed
        .get(TOKEN, "/environments/abc/version?timeout=32s")
        .await;
    assert_eq!(code, 200);
    assert_eq!(told["path"], "https://kubernetes/version?timeout=32s");
    let headers = told["headers"].to_string();
    assert!(
        !headers.contains("authorization") && !headers.contains("x-remote"),
        "{headers}"
    );
    // A client with HTTP/1.1 uses the same HTTP/2 connection to the API server.
    let mut sender = bed.http1().await;
    let mut asked = request(TOKEN, Method::GET, "/environments/abc/version", "");
    *asked.uri_mut() = "/environments/abc/version".parse().unwrap();
    asked
        .headers_mut()
        .insert("host", "127.0.0.1".parse().unwrap());
    let answer = sender.send_request(asked).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(*bed.fake.connections.lock().unwrap(), [Protocol::Http2]);
}

/// Makes connections that the platform authenticates as itself.
fn impersonate(bed: &Bed) {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Bearer platform".parse().unwrap());
    headers.insert("impersonate-user", "tenant".parse().unwrap());
    headers.append("impersonate-group", "tenants".parse().unwrap());
    *bed.fake.headers.lock().unwrap() = headers;
}

#[tokio::test]
async fn requests_impersonate_the_tenants_user_and_nobody_else() {
    let bed = bed(quick()).await;
    let as_admin = |path: &str| {
        let mut asked = request(TOKEN, Method::GET, path, "");
        let headers = asked.headers_mut();
        headers.insert("impersonate-group", "system:masters".parse().unwrap());
        asked
    };
    // With a cluster of one's own, its API server decides.
    let path = "/environments/abc/api/v1/pods";
    let mut sender = bed.http2().await;
    let answer = sender.send_request(as_admin(path)).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let told: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(told["groups"], json!(["system:masters"]));

    let bed = super::tests::bed(quick()).await;
    impersonate(&bed);
    let (code, told) = bed.get(TOKEN, path).await;
    assert_eq!((code, &told["groups"]), (200, &json!(["tenants"])));
    let mut sender = bed.http2().await;
    for name in ["user", "group", "uid", "extra-scopes"] {
        let mut asked = request(TOKEN, Method::GET, path, "");
        let name: HeaderName = format!("Impersonate-{name}").parse().unwrap();
        asked.headers_mut().insert(name, "root".parse().unwrap());
        let answer = sender.send_request(asked).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    // kubectl begins with discovery, whose refusal it displays.
    let answer = sender.send_request(as_admin("/environments/abc/api")).await;
    let text = answer.unwrap().into_body().collect().await.unwrap();
    assert!(text.to_bytes().ends_with(b"leave out --as and --as-group"));
}

#[tokio::test]
async fn large_requests_reach_ones_own_cluster_only() {
    static LARGE: [u8; 200 << 10] = [b'a'; 200 << 10];
    let large = std::str::from_utf8(&LARGE).unwrap();
    let path = "/environments/abc/api/v1/namespaces/shop/configmaps";
    let beds = [bed(quick()).await, bed(quick()).await];
    impersonate(&beds[1]);
    for (bed, codes) in beds.iter().zip([[200, 200], [200, 413]]) {
        let mut sender = bed.http2().await;
        for (body, code) in ["small", large].into_iter().zip(codes) {
            let asked = request(TOKEN, Method::POST, path, body);
            let answer = sender.send_request(asked).await.unwrap();
            assert_eq!(answer.status().as_u16(), code);
        }
    }
    let mut unknown = request(TOKEN, Method::POST, path, "");
    let endless = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    *unknown.body_mut() = StreamBody::new(endless).boxed();
    let answer = beds[1].http2().await.send_request(unknown).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_session_impersonates_the_tenants_user_and_nothing_removes_that() {
    let bed = bed(quick()).await;
    impersonate(&bed);
    let path = "/environments/abc/api/v1/namespaces/shop/pods/web/exec?command=sh";
    let upgrade = |more: Option<&str>| {
        let mut asked = Request::get(path)
            .header("host", "127.0.0.1")
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("connection", "Upgrade, Impersonate-User")
            .header("upgrade", "websocket");
        if let Some(name) = more {
            asked = asked.header(name, "root");
        }
        asked.body(whole("")).unwrap()
    };
    let mut sender = bed.http1().await;
    let refused = sender.send_request(upgrade(Some("impersonate-uid"))).await;
    assert_eq!(refused.unwrap().status(), StatusCode::FORBIDDEN);
    let mut sender = bed.http1().await;
    let answer = sender.send_request(upgrade(None)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["seen-connection"], "Upgrade");
    assert_eq!(answer.headers()["seen-impersonate-user"], "tenant");
}

#[tokio::test]
async fn refusals_are_objects_that_clients_display() {
    let bed = bed(quick()).await;
    for (token, path, code, reason) in [
        ("wrong", "/environments/abc/api", 401, "Unauthorized"),
        (TOKEN, "/environments/xyz/api/v1/pods", 404, "NotFound"),
        (TOKEN, "/environments/../api/v1/pods", 404, "NotFound"),
        (TOKEN, "/api", 400, "BadRequest"),
        (
            TOKEN,
            "/environments/paused/api/v1/pods",
            503,
            "ServiceUnavailable",
        ),
        (TOKEN, "/environments/over/api/v1/pods", 410, "Gone"),
    ] {
        let (said, status) = bed.get(token, path).await;
        assert_eq!((said, &status["reason"]), (code, &json!(reason)), "{path}");
        assert_eq!(status["kind"], "Status");
        assert!(status["message"].as_str().is_some_and(|m| !m.is_empty()));
    }
    // For API discovery, client-go displays only the text of a 403.
    let mut sender = bed.http2().await;
    let asked = request(TOKEN, Method::GET, "/environments/paused/api", "");
    let answer = sender.send_request(asked).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "it is paused; resume it");
    let mut anonymous = request("", Method::GET, "/environments/abc/api", "");
    anonymous.headers_mut().remove("authorization");
    let answer = sender.send_request(anonymous).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bed.connections(), 0, "no request was forwarded");
}

#[tokio::test]
async fn bodies_last_as_long_as_their_lease() {
    let bed = bed(quick()).await;
    let mut sender = bed.http2().await;
    for ends in ["withdrawn", "moved"] {
        let watch = request(
            TOKEN,
            Method::GET,
            "/environments/abc/api/v1/pods?watch=true",
            "",
        );
        let answer = sender.send_request(watch).await.unwrap();
        let mut body = answer.into_body();
        for _ in 0..5 {
            let news = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(news, "news\n");
        }
        // While the platform can't decide, nothing ends.
        bed.fake.undecided.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
        for _ in 0..5 {
            body.frame().await.unwrap().unwrap();
        }
        let flag = if ends == "moved" {
            &bed.fake.moved
        } else {
            &bed.fake.withdrawn
        };
        flag.store(true, Ordering::SeqCst);
        bed.fake.undecided.store(false, Ordering::SeqCst);
        let over = async { while let Some(Ok(_)) = body.frame().await {} };
        let over = tokio::time::timeout(Duration::from_secs(5), over).await;
        over.unwrap_or_else(|_| panic!("{ends}: the watch should end"));
        bed.fake.withdrawn.store(false, Ordering::SeqCst);
    }
    assert_eq!(*bed.fake.used.lock().unwrap(), 0, "a watch is not use");
}

#[tokio::test]
async fn open_requests_outlive_their_tokens_expiry() {
    let bed = bed(quick()).await;
    let mut sender = bed.http2().await;
    let path = "/environments/abc/api/v1/pods?watch=true";
    let watch = || request(TOKEN, Method::GET, path, "");
    // Concurrent requests share one lease.
    let (one, two) = tokio::join!(
        sender.clone().send_request(watch()),
        sender.send_request(watch())
    );
    let mut bodies = [one.unwrap().into_body(), two.unwrap().into_body()];
    assert_eq!(bed.connections(), 1);
    bed.fake.expired.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for body in &mut bodies {
        for _ in 0..20 {
            body.frame().await.unwrap().unwrap();
        }
    }
    let new = sender.send_request(watch()).await.unwrap();
    assert_eq!(new.status(), StatusCode::UNAUTHORIZED, "nothing new begins");
    bodies[0].frame().await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_with_too_many_invalid_tokens_are_disconnected() {
    let bed = bed(Config {
        limits: limit::Limits {
            failures_per_minute: 3,
            ..limit::Limits::default()
        },
        ..quick()
    })
    .await;
    let mut sender = bed.http2().await;
    let mut answered = 0;
    for _ in 0..10 {
        let guess = request("guess", Method::GET, "/environments/abc/api", "");
        match sender.send_request(guess).await {
            Ok(_) => answered += 1,
            Err(_) => break,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((3..6).contains(&answered), "{answered}");
}

#[tokio::test]
async fn clients_without_a_valid_token_are_disconnected() {
    let bed = bed(Config {
        hello: Duration::from_millis(300),
        ..quick()
    })
    .await;
    let (mut stranger, mut owner) = (bed.http2().await, bed.http2().await);
    let nowhere = request(TOKEN, Method::GET, "/somewhere/else", "");
    let answer = stranger.send_request(nowhere).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let pods = || request(TOKEN, Method::GET, "/environments/abc/api/v1/pods", "");
    assert_eq!(owner.send_request(pods()).await.unwrap().status(), 200);
    tokio::time::timeout(Duration::from_secs(20), async {
        while !stranger.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(owner.send_request(pods()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_failed_request_is_told_why() {
    let bed = bed(Config {
        recheck: Duration::from_secs(600),
        ..quick()
    })
    .await;
    let at = "/environments/abc/api/v1/pods";
    assert_eq!(bed.get(TOKEN, at).await.0, 200);
    // The cluster doesn't respond, and the next recheck is far away.
    bed.fake.frozen.store(true, Ordering::SeqCst);
    let mut sender = bed.http1().await;
    let mut asked = |path: &str| {
        let asked = Request::get(path)
            .header("host", "127.0.0.1")
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket");
        sender.send_request(asked.body(whole("")).unwrap())
    };
    let silent = asked("/environments/abc/api/v1/namespaces/a/pods/b/exec");
    assert_eq!(
        silent.await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    *bed.fake.refused.lock().unwrap() = Some(Refusal::gone("it has ended"));
    let ended = asked("/environments/abc/api/v1/namespaces/a/pods/b/exec")
        .await
        .unwrap();
    assert_eq!(ended.status(), StatusCode::GONE);
    // The lease has ended, so the next request is refused too.
    let (code, status) = bed.get(TOKEN, at).await;
    assert_eq!((code, &status["message"]), (410, &json!("it has ended")));
}

#[tokio::test]
async fn requests_that_wait_for_one_connection_share_its_failure() {
    let bed = bed(quick()).await;
    bed.fake.frozen.store(true, Ordering::SeqCst);
    let at = "/environments/abc/api/v1/pods";
    let all = futures::future::join_all((0..20).map(|_| bed.get(TOKEN, at))).await;
    assert!(all.iter().all(|(code, _)| *code == 503), "{all:?}");
    // A request that came a moment later may have tried again, but not every one of them.
    assert!(bed.connections() <= 5, "{}", bed.connections());
    // Later requests try again.
    bed.fake.frozen.store(false, Ordering::SeqCst);
    assert_eq!(bed.get(TOKEN, at).await.0, 200);
}

#[tokio::test]
async fn a_session_works_both_ways_counts_as_use_and_ends_when_withdrawn() {
    let bed = bed(quick()).await;
    let mut sender = bed.http1().await;
    let asked = Request::get("/environments/abc/api/v1/namespaces/shop/pods/web/exec?command=sh")
        .header("host", "127.0.0.1")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(whole(""))
        .unwrap();
    let answer = sender.send_request(asked).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "v5.channel.k8s.io");
    let mut session = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    for word in ["hello", "again"] {
        session.write_all(word.as_bytes()).await.unwrap();
        let mut back = [0; 5];
        session.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word.as_bytes());
    }
    assert_eq!(*bed.fake.connections.lock().unwrap(), [Protocol::Http1]);
    assert_eq!(*bed.fake.used.lock().unwrap(), 1);
    let told = bed.fake.changed.lock().unwrap()[0].clone();
    assert_eq!((told.verb, &*told.resource), ("exec", "pods shop/web"));
    bed.fake.withdrawn.store(true, Ordering::SeqCst);
    let mut rest = Vec::new();
    let over = tokio::time::timeout(Duration::from_secs(5), session.read_to_end(&mut rest));
    over.await.expect("the session ends").ok();
}

#[tokio::test]
async fn bodies_are_forwarded_and_changes_recorded() {
    let bed = bed(quick()).await;
    let path = "/environments/abc/api/v1/namespaces/shop/pods";
    let mut sender = bed.http2().await;
    let asked = request(TOKEN, Method::POST, path, "a pod");
    let answer = sender.send_request(asked).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "a pod");
    let told = bed.fake.changed.lock().unwrap().clone();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].verb, &*told[0].resource), ("create", "pods shop/"));
}

#[tokio::test]
async fn a_person_has_limits_at_once_and_per_second() {
    let bed = bed(Config {
        at_once: 2,
        ..quick()
    })
    .await;
    let watch = || {
        request(
            TOKEN,
            Method::GET,
            "/environments/abc/api/v1/pods?watch=true",
            "",
        )
    };
    let mut sender = bed.http2().await;
    let one = sender.send_request(watch()).await.unwrap();
    let _two = sender.send_request(watch()).await.unwrap();
    let (code, status) = bed.get(TOKEN, "/environments/abc/version").await;
    assert_eq!((code, &status["reason"]), (429, &json!("TooManyRequests")));
    drop(one);
    let free = async {
        while bed.get(TOKEN, "/environments/abc/version").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), free)
        .await
        .unwrap();

    let slow = super::tests::bed(Config {
        per_second: 1,
        ..quick()
    })
    .await;
    let mut codes = Vec::new();
    for _ in 0..6 {
        codes.push(slow.get(TOKEN, "/environments/abc/version").await.0);
    }
    assert!(
        codes.starts_with(&[200, 200, 200, 200]) && codes.contains(&429),
        "{codes:?}"
    );
}

#[tokio::test]
async fn many_watches_share_connections() {
    let bed = bed(quick()).await;
    let mut sender = bed.http2().await;
    let mut open = Vec::new();
    for _ in 0..250 {
        let watch = request(
            TOKEN,
            Method::GET,
            "/environments/abc/api/v1/pods?watch=true",
            "",
        );
        open.push(sender.send_request(watch).await.unwrap());
    }
    assert_eq!(bed.connections(), 2);
}
