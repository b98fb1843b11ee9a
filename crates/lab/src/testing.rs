//! A provider for tests: scripts run as bash on this machine, files and ports are what the test provides. Also an API
//! server whose answers the test provides.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use faultline_cluster::kube::{Client, client::Body};
use faultline_domain::NodeName;
use faultline_guest::wire::{FileStat, Reply, Request, Response, read_header, write_header};
use faultline_provider::{
    Error, Result, Stream, Target,
    fake::process::{self, OnlyStreams, Streams},
};
use http_body_util::BodyExt;
use hyper::{Request as HttpRequest, Response as HttpResponse};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What listens on a port.
#[derive(Debug, Clone)]
pub enum Port {
    /// Sends this text whatever the request is, then closes.
    Says(Vec<u8>),
    /// Accepts the connection and stays silent.
    Silent,
}

#[derive(Debug, Default)]
pub struct Inner {
    pub files: Mutex<BTreeMap<String, (u32, Vec<u8>)>>,
    pub ports: Mutex<BTreeMap<u16, Port>>,
    /// The guest link can't be opened.
    pub lost: AtomicBool,
    /// The scripts that were run, each with whether trusted tools were asked for.
    pub ran: Mutex<Vec<(Vec<OsString>, bool)>>,
    pub destroyed: AtomicBool,
}

pub type Machine = OnlyStreams<Inner>;

#[async_trait]
impl Streams for Inner {
    async fn open(self: Arc<Self>, node: &NodeName, target: Target) -> Result<Stream> {
        let (mut ours, theirs) = tokio::io::duplex(16 * 1024);
        match target {
            Target::Guest if self.lost.load(Ordering::SeqCst) => {
                return Err(Error::Unreachable("the guest link is lost".to_owned()));
            }
            Target::Guest => {
                tokio::spawn(async move { self.serve(ours).await });
            }
            Target::Port(port) => match self.ports.lock().unwrap().get(&port).cloned() {
                Some(Port::Says(bytes)) => {
                    tokio::spawn(async move {
                        let mut question = [0; 4096];
                        let _ = ours.read(&mut question).await;
                        let _ = ours.write_all(&bytes).await;
                    });
                }
                Some(Port::Silent) => {
                    tokio::spawn(async move {
                        let _ours = ours;
                        std::future::pending::<()>().await;
                    });
                }
                None => {
                    return Err(Error::Unreachable(format!("{node} refuses the connection")));
                }
            },
            Target::Console => return Err(Error::NotFound),
        }
        Ok(Box::new(theirs))
    }

    fn destroyed(&self) {
        self.destroyed.store(true, Ordering::SeqCst);
    }
}

impl Inner {
    async fn serve(&self, mut stream: DuplexStream) -> io::Result<()> {
        let reply = match read_header::<Request>(&mut stream).await? {
            Request::Exec(exec) => {
                let ran = (exec.argv.clone(), exec.trusted);
                self.ran.lock().unwrap().push(ran);
                return process::exec(stream, &exec, &exec.argv, |_| {}).await;
            }
            Request::Ping => Reply::Pong {
                version: 1,
                uptime_seconds: 1,
            },
            Request::Stat { path } => Reply::Stat {
                file: self
                    .files
                    .lock()
                    .unwrap()
                    .get(&path)
                    .map(|(mode, content)| FileStat {
                        kind: if *mode == 0o755 { "directory" } else { "file" }.to_owned(),
                        mode: *mode,
                        uid: 0,
                        gid: 0,
                        size: content.len() as u64,
                    }),
            },
            Request::ReadFile { path, max } => {
                let Some((_, content)) = self.files.lock().unwrap().get(&path).cloned() else {
                    return Ok(());
                };
                write_header(&mut stream, &Response::Ok(Reply::Done)).await?;
                let end = content.len().min(usize::try_from(max).unwrap());
                return stream.write_all(&content[..end]).await;
            }
            _ => return Ok(()),
        };
        write_header(&mut stream, &Response::Ok(reply)).await
    }
}

/// Returns a client of an API server that knows Pods. Every other request is answered by the function, from its path
/// and body, with a status and a body; a body that isn't JSON is sent as text.
pub fn api(answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Client {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let answer = answer.clone();
        async move {
            let path = request.uri().path().to_owned();
            let given = request.into_body().collect().await?.to_bytes();
            let given = serde_json::from_slice(&given).unwrap_or_default();
            let (status, body) = match path.as_str() {
                "/api/v1" => (200, pods()),
                path => answer(path, &given),
            };
            let body = match body {
                Value::String(text) => text,
                body => body.to_string(),
            };
            let answer = HttpResponse::builder()
                .status(status)
                .body(Body::from(body.into_bytes()));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer?)
        }
    });
    Client::new(service, "default")
}

fn pods() -> Value {
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1",
        "resources": [{"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"]}],
    })
}
