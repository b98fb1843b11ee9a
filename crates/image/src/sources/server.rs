//! For tests: a server on loopback that behaves like official hosts (ranges, interrupted transfers, registries that
//! require a token), and a small image to pull.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::json;
use sha2::{Digest, Sha256};

pub(crate) fn digest(content: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

/// A small image, for this platform and another.
pub(crate) struct Image {
    pub(crate) config: String,
    pub(crate) layer: String,
    pub(crate) manifest: String,
    pub(crate) index: String,
}

impl Image {
    pub(crate) fn new() -> Self {
        Self::of("a layer".to_owned())
    }

    /// Returns an image with this layer.
    pub(crate) fn of(layer: String) -> Self {
        let config = json!({"os": "linux", "architecture": "amd64"}).to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "c", "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "l", "digest": digest(&layer), "size": layer.len()}],
        })
        .to_string();
        let of = |digest: String, architecture: &str| json!({"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [of(digest("arm"), "arm64"), of(digest(&manifest), "amd64")],
        })
        .to_string();
        Self {
            config,
            layer,
            manifest,
            index,
        }
    }

    /// Returns the answers of a registry by path, if the repository is at `root` and the tag is `v1`.
    pub(crate) fn paths(&self, root: &str) -> [(String, String); 4] {
        let of = |kind: &str, content: &String| {
            (
                format!("{root}/{kind}/{}", digest(content)),
                content.clone(),
            )
        };
        [
            (format!("{root}/manifests/v1"), self.index.clone()),
            of("manifests", &self.manifest),
            of("blobs", &self.config),
            of("blobs", &self.layer),
        ]
    }

    pub(crate) fn server(&self, root: &str) -> Server {
        let server = Server::start([]);
        for (path, body) in self.paths(root) {
            server.serve(&path, Answer::body(body));
        }
        server
    }

    /// Writes an OCI layout with this tag, as tools that copy images do.
    pub(crate) fn layout(&self, folder: &Path, tag: &str) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for content in [&self.config, &self.layer, &self.manifest, &self.index] {
            fs::write(blobs.join(&digest(content)[7..]), content).unwrap();
        }
        fs::write(
            folder.join("oci-layout"),
            r#"{"imageLayoutVersion": "1.0.0"}"#,
        )
        .unwrap();
        let top = json!({"schemaVersion": 2, "manifests": [{
            "digest": digest(&self.index),
            "size": self.index.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }]});
        fs::write(folder.join("index.json"), top.to_string()).unwrap();
    }
}

/// The answer to a path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    status: u16,
    body: Vec<u8>,
    headers: Vec<(String, String)>,
    cut_after: Option<usize>,
    once: Option<Option<Vec<u8>>>,
    whole: bool,
    token: Option<(String, String)>,
}

impl Answer {
    /// Status 200 with this body.
    pub(crate) fn body(body: impl AsRef<[u8]>) -> Self {
        Self {
            status: 200,
            body: body.as_ref().to_vec(),
            ..Self::default()
        }
    }

    /// Only a status.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Closes the connection after this many bytes.
    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// Closes the connection early only the first time.
    pub(crate) fn once(mut self) -> Self {
        self.once = Some(None);
        self
    }

    /// Answers this the first time, and status 200 with a body from then on.
    pub(crate) fn once_then(mut self, body: &str) -> Self {
        self.once = Some(Some(body.as_bytes().to_vec()));
        self
    }

    /// Doesn't support ranges.
    pub(crate) fn without_ranges(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Requires `Authorization: Bearer <token>`, with this challenge.
    pub(crate) fn for_bearer(mut self, token: &str, challenge: impl Into<String>) -> Self {
        self.token = Some((token.to_owned(), challenge.into()));
        self
    }
}

/// A received request.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    headers: BTreeMap<String, String>,
}

/// The server. Its thread ends with the test process.
pub(crate) struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Answer>,
    asked: Vec<Asked>,
}

impl Server {
    pub(crate) fn start<'a>(answers: impl IntoIterator<Item = (&'a str, Answer)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            state: Arc::default(),
        };
        for (path, answer) in answers {
            server.serve(path, answer);
        }
        let state = server.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &state);
            }
        });
        server
    }

    /// From now on answers this to a path, including its query.
    pub(crate) fn serve(&self, path: &str, answer: Answer) {
        self.state
            .lock()
            .unwrap()
            .answers
            .insert(path.to_owned(), answer);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn of(&self, path: &str) -> Vec<Asked> {
        let state = self.state.lock().unwrap();
        state
            .asked
            .iter()
            .filter(|a| a.path == path)
            .cloned()
            .collect()
    }

    /// Returns how often a path was requested.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.of(path).len()
    }

    /// Returns the requested ranges.
    pub(crate) fn ranges(&self, path: &str) -> Vec<Option<String>> {
        let of = self.of(path).into_iter();
        of.map(|mut a| a.headers.remove("range")).collect()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(Asked {
            path: path.clone(),
            headers: headers.clone(),
        });
        let found = state.answers.get_mut(&path);
        found.map_or_else(
            || Answer::status(404),
            |found| {
                let now = found.clone();
                if let Some(then) = found.once.take() {
                    found.cut_after = None;
                    if let Some(body) = then {
                        *found = Answer::body(body);
                    }
                }
                now
            },
        )
    };
    if let Some((token, challenge)) = &answer.token
        && headers.get("authorization") != Some(&format!("Bearer {token}"))
    {
        return write!(
            stream,
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let from: Option<usize> = headers
        .get("range")
        .filter(|_| !answer.whole && answer.status == 200)
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (status, body) = match from {
        Some(from) if from >= answer.body.len() => (416, &[][..]),
        Some(from) => (206, &answer.body[from..]),
        None => (answer.status, answer.body.as_slice()),
    };
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    )?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    let end = answer.cut_after.unwrap_or(body.len()).min(body.len());
    stream.write_all(&body[..end])
}
