//! Tests of what environments expose: with an API server, and a student's web page, behind the fake provider.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use faultline_domain::{PersonId, authz::Role, exposure::Report};
use faultline_provider::fake::FakeListener;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, pem::PemObject},
    },
};

use super::*;

type Response = axum::http::Response<Full<bytes::Bytes>>;

fn respond(status: u16, body: String) -> Response {
    let response = axum::http::Response::builder().status(status);
    response.body(Full::new(body.into())).unwrap()
}

/// An API server that serves lists of services and Ingresses.
#[derive(Default)]
struct ApiServer {
    services: Mutex<Vec<Value>>,
    ingresses: Mutex<Vec<Value>>,
    /// The paths of what was changed.
    patched: Mutex<Vec<String>>,
    fails: AtomicBool,
}

impl ApiServer {
    /// Serves on the API server's port of a tenant, with a certificate of this authority.
    fn serve(self: &Arc<Self>, bed: &Bed, tenant: &TenantId, authority: &(String, String)) {
        let key = KeyPair::generate().unwrap();
        let ca = KeyPair::from_pem(&authority.1).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&authority.0, ca).unwrap();
        let params = CertificateParams::new(["kubernetes".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let (tls, server) = (TlsAcceptor::from(Arc::new(tls)), self.clone());
        let mut listener = bed.provider.listen(tenant, &node(), 6443);
        tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                let (tls, server) = (tls.clone(), server.clone());
                tokio::spawn(async move {
                    let stream = tls.accept(stream).await.unwrap();
                    let service = hyper::service::service_fn(move |request| {
                        let answer = server.answer(&request);
                        async { Ok::<_, std::convert::Infallible>(answer) }
                    });
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                });
            }
        });
    }

    fn answer(&self, request: &axum::http::Request<hyper::body::Incoming>) -> Response {
        if self.fails.load(Ordering::Acquire) {
            return respond(500, "{}".to_owned());
        }
        if request.method() == Method::PATCH {
            let path = request.uri().path().to_owned();
            self.patched.lock().unwrap().push(path);
            return respond(200, "{}".to_owned());
        }
        assert!(request.uri().query().unwrap().contains("limit=64"));
        let items = match request.uri().path() {
            "/api/v1/services" => self.services.lock().unwrap().clone(),
            "/apis/networking.k8s.io/v1/ingresses" => self.ingresses.lock().unwrap().clone(),
            other => panic!("{other}"),
        };
        respond(200, json!({"metadata": {}, "items": items}).to_string())
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-11-30T18:00:00Z"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]},
    })
}

/// Serves a student's page, which says which cookies it received.
fn page(mut listener: FakeListener) {
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let service = hyper::service::service_fn(
                async |request: axum::http::Request<hyper::body::Incoming>| {
                    let cookies = request.headers().get(header::COOKIE);
                    let cookies = cookies.map_or("none", |value| value.to_str().unwrap());
                    let text = format!("My shop, {}, cookies: {cookies}", request.uri());
                    Ok::<_, std::convert::Infallible>(respond(200, text))
                },
            );
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
}

/// A cluster with an API server, and a student's page on port 30080.
struct Cluster {
    bed: Bed,
    id: EnvironmentId,
    tenant: TenantId,
    api: Arc<ApiServer>,
}

impl Cluster {
    async fn new(owner: Option<&str>) -> Self {
        let (authority, credential) = super::credential::keys();
        let pems = (authority.clone(), credential.key.clone());
        let provider = FakeProvider::new().with_clusters(authority, credential);
        let mut config = Config {
            rates: crate::config::Rates::unlimited(),
            ..Config::default()
        };
        config.exposure.requests_per_second = 10_000;
        let mut bed = bed_of(config, provider).await;
        if let Some(owner) = owner {
            bed.become_another(owner).await;
        }
        bed.app
            .set_catalogue(super::credential::catalogue("nodes: 1"));
        let id = bed.start("stale-flag").await;
        bed.until(&id, is_active).await;
        let tenant = bed.tenant(&id).await;
        let api = Arc::new(ApiServer::default());
        api.serve(&bed, &tenant, &pems);
        page(bed.provider.listen(&tenant, &node(), 30_080));
        Self {
            bed,
            id,
            tenant,
            api,
        }
    }

    /// Observes until the report satisfies `done`.
    async fn until(&mut self, done: impl Fn(&Report) -> bool) -> Report {
        for _ in 0..200 {
            // Without memory, every observation is due.
            self.bed.memory = reconcile::Memory::default();
            self.bed.reconcile().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let report = self.bed.app.store.exposures(&self.tenant).await.unwrap();
            if let Some(report) = report.filter(&done) {
                return report;
            }
        }
        panic!("the report is not as expected");
    }

    async fn with_web(owner: Option<&str>) -> Self {
        let mut cluster = Self::new(owner).await;
        cluster
            .api
            .services
            .lock()
            .unwrap()
            .push(service("web", 30_080));
        cluster
            .until(|report| report.selection.exposures.len() == 1)
            .await;
        cluster
    }

    fn host(&self) -> String {
        format!("web-{}.localhost:7890", self.id)
    }

    /// Sends a request to the exposure.
    async fn visit(&self, path: &str, cookie: &str) -> Answer {
        let request = Request::get(path)
            .header(header::HOST, self.host())
            .header(header::COOKIE, cookie);
        self.bed.send(request.body(Body::empty()).unwrap()).await
    }

    /// Opens the exposure from the workspace. Returns the visitor's cookie.
    async fn open(&self) -> String {
        let path = format!("/environments/{}/exposed/web/open", self.id);
        let answer = self.bed.get(&path).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
        self.enter(answer.location()).await
    }

    /// Follows a link with a code. Returns the visitor's cookie.
    async fn enter(&self, link: &str) -> String {
        let path = link
            .strip_prefix(&format!("http://{}", self.host()))
            .unwrap();
        let entered = self.visit(path, "").await;
        assert_eq!(entered.status, StatusCode::SEE_OTHER, "{}", entered.body);
        assert_eq!(entered.location(), "/");
        let cookie = entered.headers[header::SET_COOKIE].to_str().unwrap();
        assert!(cookie.contains("; HttpOnly; SameSite=Lax"), "{cookie}");
        assert!(!cookie.to_ascii_lowercase().contains("domain"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }

    async fn share(&self, minutes: u32) -> Value {
        let path = format!("/environments/{}/shares", self.id);
        let json = json!({"name": "web", "minutes": minutes}).to_string();
        let made = self.bed.api(Method::POST, &path, Some(&json)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        made.json()
    }
}

#[tokio::test]
async fn a_service_is_exposed_to_its_owner_until_it_is_deleted() {
    let mut cluster = Cluster::with_web(None).await;
    let workspace = cluster
        .bed
        .get(&format!("/environments/{}", cluster.id))
        .await;
    let link = format!("/environments/{}/exposed/web/open", cluster.id);
    assert!(workspace.body.contains(&link), "{}", workspace.body);

    let cookie = cluster.open().await;
    let both = format!("{}; a=1; {cookie}", cluster.bed.cookie);
    let page = cluster.visit("/basket?x=1", &both).await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.body, "My shop, /basket?x=1, cookies: a=1");
    // The platform's headers are not added to a student's page.
    assert!(!page.headers.contains_key(header::CONTENT_SECURITY_POLICY));

    // What answers is shown while somebody looks.
    let path = format!("/environments/{}/exposures", cluster.id);
    let listed = cluster.bed.api(Method::GET, &path, None).await.json();
    assert_eq!(listed["exposures"][0]["name"], "web");
    assert_eq!(listed["exposures"][0]["status"], 200);
    assert_eq!(listed["exposures"][0]["source"], "service default/web");

    cluster.api.services.lock().unwrap().clear();
    cluster
        .until(|report| report.selection.exposures.is_empty())
        .await;
    let closed = cluster.visit("/", &cookie).await;
    assert_eq!(closed.status, StatusCode::NOT_FOUND, "{}", closed.body);
    assert_eq!(cluster.bed.get(&link).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_was_exposed_last_stays_while_the_api_server_is_broken() {
    let mut cluster = Cluster::with_web(None).await;
    let cookie = cluster.open().await;
    cluster.api.fails.store(true, Ordering::Release);
    let report = cluster.until(|report| report.trouble.is_some()).await;
    assert!(report.trouble.unwrap().reason.contains("500"));
    assert_eq!(cluster.visit("/", &cookie).await.status, StatusCode::OK);
    let workspace = cluster
        .bed
        .get(&format!("/environments/{}", cluster.id))
        .await;
    assert!(
        workspace.body.contains("The cluster can&#39;t be observed")
            || workspace.body.contains("The cluster can't be observed")
    );
    cluster.bed.clock.advance(faultline_domain::exposure::KEPT);
    cluster
        .until(|report| report.selection.exposures.is_empty())
        .await;
    assert_eq!(
        cluster.visit("/", &cookie).await.status,
        StatusCode::NOT_FOUND
    );
    cluster.api.fails.store(false, Ordering::Release);
    cluster.until(|report| report.trouble.is_none()).await;
    assert_eq!(cluster.visit("/", &cookie).await.status, StatusCode::OK);
}

/// Neither a session nor a token opens anything at an exposure, and none of the platform's routes is there.
#[tokio::test]
async fn no_route_of_the_platform_is_reached_at_an_exposure() {
    let cluster = Cluster::with_web(None).await;
    let cookie = cluster.open().await;
    let bed = &cluster.bed;
    for (method, path) in super::routes::all() {
        let path = super::routes::filled(&path, cluster.id.as_str());
        for host in [
            cluster.host(),
            format!("nothing-{}.localhost", cluster.id),
            "web-unknown.LOCALHOST.:80".to_owned(),
        ] {
            let request = Request::builder()
                .method(&method)
                .uri(&path)
                .header(header::HOST, &host)
                .header(header::COOKIE, &bed.cookie)
                .header("x-csrf-token", &bed.csrf)
                .header(header::AUTHORIZATION, format!("Bearer {}", bed.token));
            let answer = bed.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(
                answer.status,
                StatusCode::UNAUTHORIZED,
                "{method} {host} {path}"
            );
            assert!(answer.body.starts_with("This page is private"), "{path}");
        }
        // With the visitor's cookie, it is the student's page.
        if method == Method::GET {
            let page = cluster.visit(&path, &cookie).await;
            assert!(page.body.starts_with("My shop, "), "{path}: {}", page.body);
        }
    }
    for host in ["x.localhost", "a.b-c.localhost", ".localhost"] {
        let request = Request::get("/").header(header::HOST, host);
        let answer = bed.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{host}");
        assert!(answer.body.starts_with("Nothing has this address"));
    }
    // Two hosts, one of which is below the domain.
    let request =
        Request::get(format!("http://{}/", cluster.host())).header(header::HOST, "127.0.0.1:7890");
    let answer = bed.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    // The visitor's cookie is nothing to the platform.
    let request = Request::get("/").header(header::COOKIE, cookie.replace("visit", "session"));
    let answer = bed.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

/// Pages of an exposure are another origin to the platform: their requests are refused even with its cookie and token.
#[tokio::test]
async fn pages_of_an_exposure_can_not_use_the_platform() {
    let cluster = Cluster::with_web(None).await;
    let (bed, id) = (&cluster.bed, &cluster.id);
    let origin = format!("http://{}", cluster.host());
    for site in [Some("same-site"), Some("cross-site"), None] {
        let request = |mut request: axum::http::request::Builder| {
            request = request
                .header(header::HOST, "127.0.0.1:7890")
                .header(header::COOKIE, &bed.cookie)
                .header(header::ORIGIN, &origin);
            match site {
                Some(site) => request.header("sec-fetch-site", site),
                None => request,
            }
        };
        let form = format!("csrf={}", bed.csrf);
        let post = request(Request::post(format!("/environments/{id}/end")))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = bed.send(post.body(Body::from(form)).unwrap()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{site:?}");
        let socket = request(Request::get(format!("/environments/{id}/socket")))
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let answer = bed.send(socket.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{site:?}");
        let read = request(Request::get("/"));
        let answer = bed.send(read.body(Body::empty()).unwrap()).await;
        assert!(
            !answer
                .headers
                .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        );
        assert_eq!(
            answer.headers["cross-origin-resource-policy"],
            "same-origin"
        );
    }
    let e = bed.app.store.environment(id).await.unwrap().unwrap();
    assert!(e.is_open());
}

#[tokio::test]
async fn a_code_is_valid_once_for_one_exposure_and_for_a_minute() {
    let cluster = Cluster::with_web(None).await;
    cluster
        .api
        .services
        .lock()
        .unwrap()
        .push(service("other", 30_081));
    let mut cluster = cluster;
    cluster
        .until(|report| report.selection.exposures.len() == 2)
        .await;
    let open = format!("/environments/{}/exposed/web/open", cluster.id);
    let path_of = |answer: &Answer| {
        let (_, path) = answer.location().split_once(":7890").unwrap();
        path.to_owned()
    };
    let code = path_of(&cluster.bed.get(&open).await);
    let elsewhere =
        Request::get(&code).header(header::HOST, cluster.host().replace("web", "other"));
    let answer = cluster
        .bed
        .send(elsewhere.body(Body::empty()).unwrap())
        .await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(cluster.visit(&code, "").await.status, StatusCode::SEE_OTHER);
    assert_eq!(
        cluster.visit(&code, "").await.status,
        StatusCode::UNAUTHORIZED
    );
    let late = path_of(&cluster.bed.get(&open).await);
    cluster
        .bed
        .clock
        .advance(jiff::SignedDuration::from_secs(61));
    assert_eq!(
        cluster.visit(&late, "").await.status,
        StatusCode::UNAUTHORIZED
    );
    // The code is no cookie.
    let late = late.split_once("code=").unwrap().1;
    let answer = cluster.visit("/", &format!("faultline_visit={late}")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_visit_ends_with_the_sign_out_and_with_the_environment() {
    let mut cluster = Cluster::with_web(None).await;
    let first = cluster.open().await;
    assert_eq!(cluster.visit("/", &first).await.status, StatusCode::OK);
    let share = cluster.share(60).await;
    let guest = cluster.enter(share["link"].as_str().unwrap()).await;
    assert_eq!(
        cluster.bed.post("/sign-out", "").await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(
        cluster.visit("/", &first).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(cluster.visit("/", &guest).await.status, StatusCode::OK);
    let path = format!("/environments/{}", cluster.id);
    cluster.bed.api(Method::DELETE, &path, None).await;
    assert_eq!(cluster.visit("/", &guest).await.status, StatusCode::GONE);
    let id = cluster.id.clone();
    cluster.bed.until(&id, is_final).await;
    assert_eq!(
        cluster.visit("/", &guest).await.status,
        StatusCode::UNAUTHORIZED
    );
    let link = share["link"]
        .as_str()
        .unwrap()
        .split_once(":7890")
        .unwrap()
        .1;
    assert_eq!(
        cluster.visit(link, "").await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_share_opens_its_exposure_until_it_expires_or_is_withdrawn() {
    let cluster = Cluster::with_web(None).await;
    let (first, second) = (cluster.share(60).await, cluster.share(30).await);
    // Unlike a code, it can be used again.
    let link = first["link"].as_str().unwrap();
    let one = cluster.enter(link).await;
    let two = cluster.enter(link).await;
    let other = cluster.enter(second["link"].as_str().unwrap()).await;
    assert_ne!(one, two);
    for cookie in [&one, &two, &other] {
        assert_eq!(cluster.visit("/", cookie).await.status, StatusCode::OK);
    }
    let shares = format!("/environments/{}/shares", cluster.id);
    let listed = cluster.bed.api(Method::GET, &shares, None).await;
    assert_eq!(listed.json().as_array().unwrap().len(), 2);
    assert!(!listed.body.contains("flt_"), "the secret is shown once");
    let path = format!("{shares}/{}/withdraw", first["id"].as_str().unwrap());
    assert_eq!(
        cluster.bed.post(&path, "").await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(
        cluster.bed.post(&path, "").await.status,
        StatusCode::NOT_FOUND
    );
    for cookie in [&one, &two] {
        assert_eq!(
            cluster.visit("/", cookie).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    cluster
        .bed
        .clock
        .advance(jiff::SignedDuration::from_mins(31));
    assert_eq!(
        cluster.visit("/", &other).await.status,
        StatusCode::UNAUTHORIZED
    );
    // From the page, without scripts.
    let made = cluster.bed.post(&shares, "name=web&minutes=60").await;
    assert_eq!(made.status, StatusCode::OK);
    assert!(made.body.contains("/_faultline/enter?code=flt_"));
    for (form, status) in [
        ("name=nothing&minutes=60", StatusCode::NOT_FOUND),
        ("name=web&minutes=0", StatusCode::CONFLICT),
        ("name=web&minutes=999999", StatusCode::CONFLICT),
    ] {
        assert_eq!(
            cluster.bed.post(&shares, form).await.status,
            status,
            "{form}"
        );
    }
}

#[tokio::test]
async fn instructors_open_what_their_students_expose_and_nobody_else_does() {
    let mut cluster = Cluster::with_web(Some("stu")).await;
    let open = format!("/environments/{}/exposed/web/open", cluster.id);
    let (me, now) = (PersonId::local(), cluster.bed.app.now());
    let store = &cluster.bed.app.store;
    store.create_group("g", "Class", &me, now).await.unwrap();
    for (person, instructs) in [("ida", true), ("stu", false)] {
        let person: PersonId = person.parse().unwrap();
        let ensured = store.ensure_person(&person, "x", Role::Student, now).await;
        ensured.unwrap();
        store
            .add_member("g", &person, instructs, &me, now)
            .await
            .unwrap();
    }
    cluster.bed.become_another("mallory").await;
    assert_eq!(cluster.bed.get(&open).await.status, StatusCode::NOT_FOUND);
    cluster.bed.become_another("ida").await;
    assert_eq!(cluster.bed.get(&open).await.status, StatusCode::NOT_FOUND);
    let change = async |bed: &Bed, role| {
        let change = faultline_store::people::PersonChange::Role(role);
        let ida = "ida".parse().unwrap();
        let changed = bed.app.store.change_person(&me, &ida, change, now).await;
        changed.unwrap();
    };
    change(&cluster.bed, Role::Instructor).await;
    let cookie = cluster.open().await;
    assert_eq!(cluster.visit("/", &cookie).await.status, StatusCode::OK);
    let shares = format!("/environments/{}/shares", cluster.id);
    assert_eq!(cluster.bed.get(&shares).await.status, StatusCode::NOT_FOUND);
    change(&cluster.bed, Role::Student).await;
    assert_eq!(
        cluster.visit("/", &cookie).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn what_a_lab_declares_is_exposed_on_plain_machines() {
    let folder = tempfile::tempdir().unwrap();
    let lab = folder.path().join("stale-flag");
    copy(&labs().join("stale-flag"), &lab);
    let text = std::fs::read_to_string(lab.join("lab.yaml")).unwrap();
    let exposes = "\nexposes:\n  - {name: web, port: 8080}\n\nsetup:";
    std::fs::write(lab.join("lab.yaml"), text.replace("\nsetup:", exposes)).unwrap();
    let mut bed = bed().await;
    bed.app.set_catalogue(Catalogue::load(folder.path()));
    let id = bed.active("stale-flag").await;
    let tenant = bed.tenant(&id).await;
    let mut cluster = Cluster {
        api: Arc::default(),
        bed,
        id,
        tenant,
    };
    cluster
        .until(|report| report.selection.exposures.len() == 1)
        .await;
    let path = format!("/environments/{}/exposures", cluster.id);
    let listed = cluster.bed.api(Method::GET, &path, None).await.json();
    assert_eq!(listed["exposures"][0]["listens"], false);
    let cookie = cluster.open().await;
    assert_eq!(
        cluster.visit("/", &cookie).await.status,
        StatusCode::BAD_GATEWAY
    );
    page(cluster.bed.provider.listen(&cluster.tenant, &node(), 8080));
    assert_eq!(cluster.visit("/", &cookie).await.status, StatusCode::OK);
    let listed = cluster.bed.api(Method::GET, &path, None).await.json();
    assert_eq!(listed["exposures"][0]["status"], 200);
}

#[tokio::test]
async fn load_balancer_services_get_their_address() {
    let mut cluster = Cluster::new(None).await;
    for (name, changes) in [
        ("bare", json!({})),
        (
            "has",
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
        ),
        ("others", json!({"class": "example.test/lb"})),
    ] {
        let mut service = service(name, 30_080);
        service["spec"]["type"] = json!("LoadBalancer");
        if let Some(class) = changes.get("class") {
            service["spec"]["loadBalancerClass"] = class.clone();
        }
        if let Some(status) = changes.get("status") {
            service["status"] = status.clone();
        }
        cluster.api.services.lock().unwrap().push(service);
    }
    cluster
        .until(|report| report.selection.exposures.len() == 3)
        .await;
    let patched = cluster.api.patched.lock().unwrap().clone();
    assert!(!patched.is_empty());
    let bare = "/api/v1/namespaces/default/services/bare/status";
    assert!(patched.iter().all(|path| path == bare), "{patched:?}");
}

/// An Ingress is reached at the controller's port with the host of its rule.
#[tokio::test]
async fn an_ingress_gets_the_host_of_its_rule() {
    let mut cluster = Cluster::new(None).await;
    cluster.api.ingresses.lock().unwrap().push(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"rules": [{"host": "shop.example.test"}]},
    }));
    cluster
        .until(|report| report.selection.exposures.len() == 1)
        .await;
    let mut listener = cluster.bed.provider.listen(&cluster.tenant, &node(), 80);
    tokio::spawn(async move {
        let service = async |request: axum::http::Request<hyper::body::Incoming>| {
            let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
            Ok::<_, std::convert::Infallible>(respond(200, host))
        };
        let stream = listener.accept().await.unwrap();
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), hyper::service::service_fn(service))
            .await
    });
    let cookie = cluster.open().await;
    let page = cluster.visit("/", &cookie).await;
    assert_eq!(page.body, "shop.example.test");
}

/// A link on another site leads to the workspace although the session's cookie is strict: the page requests itself again.
#[tokio::test]
async fn a_link_from_an_exposure_leads_to_the_workspace() {
    let cluster = Cluster::with_web(None).await;
    let request = Request::get(format!("/environments/{}", cluster.id))
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "navigate");
    let answer = cluster.bed.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let again = answer.headers[header::REFRESH].to_str().unwrap();
    assert_eq!(again, format!("0; url=/environments/{}", cluster.id));
    let own = Request::get(format!("/environments/{}", cluster.id))
        .header("sec-fetch-site", "same-origin")
        .header("sec-fetch-mode", "navigate");
    let answer = cluster.bed.send(own.body(Body::empty()).unwrap()).await;
    assert!(!answer.headers.contains_key(header::REFRESH), "no loop");
}
