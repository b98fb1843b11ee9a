//! Fetches files from official hosts, mirrors and folders. Interrupted transfers are resumed, and files are verified
//! before use.
//!
//! A transfer is stored in `<cache>/downloads/<sha256>.part` until its checksum is verified. An interrupted one stays
//! there and is resumed by this process or a later one; one with a wrong checksum is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use faultline_launcher::snapshot::checksum;

use crate::{
    cache::Cache,
    source::{Base, Bases},
};

/// The time within which a host must answer to count as reachable.
pub const REACH: Duration = Duration::from_secs(5);
/// The time limit for the next bytes of a transfer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of attempts to start or resume a transfer.
const ATTEMPTS: u32 = 4;
/// The pause before the first retry. Later ones are longer.
const PAUSE: Duration = Duration::from_millis(200);
/// The maximum size of texts and manifests.
const TEXT: u64 = 4 << 20;
const STAGE: &str = "downloads";

/// The error when an official file can't be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server doesn't answer.
    #[error("{url} can't be reached: {reason}")]
    Unreachable {
        /// The URL.
        url: String,
        /// The reason.
        reason: String,
    },
    /// The server answers with an error status.
    #[error("{url} answered {status}")]
    Refused {
        /// The URL.
        url: String,
        /// The status.
        status: u16,
    },
    /// The folder that replaces the host doesn't contain the file.
    #[error("{path} is missing, which replaces {url}")]
    Missing {
        /// The path where it should be.
        path: PathBuf,
        /// The official URL.
        url: String,
    },
    /// The transfer was interrupted too often.
    #[error("the transfer of {url} was interrupted: {reason}")]
    Interrupted {
        /// The URL.
        url: String,
        /// The reason of the last interruption.
        reason: String,
    },
    /// The list of checksums doesn't contain the file.
    #[error("{url} has no SHA-256 of {file}")]
    NoChecksum {
        /// The file.
        file: String,
        /// The URL of the list.
        url: String,
    },
    /// The file doesn't match its checksum.
    #[error("{file} from {url} has a wrong checksum: expected SHA-256 {expected}, got {got}")]
    Mismatch {
        /// The file.
        file: String,
        /// The URL.
        url: String,
        /// The expected SHA-256.
        expected: String,
        /// The actual SHA-256.
        got: String,
    },
    /// The file or answer can't be used.
    #[error("{url} can't be used: {reason}")]
    Unusable {
        /// The URL.
        url: String,
        /// The reason.
        reason: String,
    },
    /// Writing to this machine's disk failed.
    #[error("{path} can't be written")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Returns what to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        const ELSE: &str = "set a mirror or a folder with --base HOST=PLACE ([sources.bases] in the configuration), \
                            or build from Go modules with --source modules";
        match self {
            Self::Mismatch { .. } => {
                "the file was removed; report it to the operator of that server, or use another with --base HOST=PLACE".to_owned()
            }
            Self::Interrupted { .. } => {
                format!("build again to resume the transfer, whose data was kept; or {ELSE}")
            }
            Self::Io { source, .. } => format!("{source}; free some disk space, or set FAULTLINE_CACHE to another folder"),
            _ => ELSE.to_owned(),
        }
    }
}

/// The result of fetching.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A callback for progress: the bytes transferred, and the total if known.
pub type OnBytes<'a> = &'a dyn Fn(u64, Option<u64>);

/// Formats a progress in bytes for people: `12 of 58 MiB`.
#[must_use]
pub fn amount(bytes: u64, all: Option<u64>) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match all {
        Some(all) => format!("{} of {} MiB", mib(bytes), mib(all)),
        None => format!("{} MiB", mib(bytes)),
    }
}

/// Where a URL leads after its host was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Web(String),
    File(PathBuf),
}

/// The headers of a request.
pub(super) type Headers = Vec<(&'static str, String)>;

/// Fetches files, using the bases instead of official hosts.
#[derive(Debug)]
pub struct Fetcher<'a> {
    pub(super) bases: &'a Bases,
    cache: &'a Cache,
    agent: ureq::Agent,
}

/// Why an attempt failed: permanently, or worth a retry.
enum Attempt {
    Final(Error),
    Retry(String),
}

impl<'a> Fetcher<'a> {
    /// Returns a fetcher with these bases, which stores interrupted transfers in this cache.
    #[must_use]
    pub fn new(bases: &'a Bases, cache: &'a Cache) -> Self {
        Self {
            bases,
            cache,
            agent: agent(PATIENCE, None),
        }
    }

    pub(super) fn place(&self, url: &str) -> Result<Place> {
        let unusable = |reason: &str| Error::Unusable {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let (_, rest) = url
            .split_once("://")
            .ok_or_else(|| unusable("it is not a URL"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.split('/').any(|part| part == "..") {
            return Err(unusable("its path contains .."));
        }
        Ok(match self.bases.get(host) {
            None => Place::Web(url.to_owned()),
            Some(Base::Web(base)) => Place::Web(format!("{base}/{path}")),
            Some(Base::Folder(folder)) => Place::File(folder.join(path)),
        })
    }

    /// Makes a request. Returns the answer whatever its status; it is an error if there is no answer.
    pub(super) fn get(
        &self,
        url: &str,
        headers: &Headers,
    ) -> Result<ureq::http::Response<ureq::Body>> {
        get(&self.agent, url, headers).map_err(|reason| Error::Unreachable {
            url: url.to_owned(),
            reason,
        })
    }

    /// Fetches a small text.
    pub fn text(&self, url: &str) -> Result<String> {
        match self.place(url)? {
            Place::File(path) => read(&path, url),
            Place::Web(place) => self.body(&place, &Headers::new()).map(|(_, text)| text),
        }
    }

    /// Fetches a small answer with its headers, with retries if the server fails.
    pub(super) fn body(
        &self,
        url: &str,
        headers: &Headers,
    ) -> Result<(ureq::http::HeaderMap, String)> {
        with_retries(|| {
            let mut answer = self.get(url, headers)?;
            let status = answer.status().as_u16();
            if status != 200 {
                return Err(Error::Refused {
                    url: url.to_owned(),
                    status,
                });
            }
            let text = answer
                .body_mut()
                .with_config()
                .limit(TEXT)
                .read_to_string()
                .map_err(|e| Error::Interrupted {
                    url: url.to_owned(),
                    reason: e.to_string(),
                })?;
            Ok((answer.headers().clone(), text))
        })
    }

    /// Fetches a file with this SHA-256 to `to`. A file with another checksum is not kept.
    pub fn file(&self, url: &str, expected: &str, to: &Path, on_bytes: OnBytes<'_>) -> Result<()> {
        match self.place(url)? {
            Place::File(path) => copy(&path, url, expected, to),
            Place::Web(place) => self.download(&place, &Headers::new(), expected, to, on_bytes),
        }
    }

    pub(super) fn download(
        &self,
        url: &str,
        headers: &Headers,
        expected: &str,
        to: &Path,
        on_bytes: OnBytes<'_>,
    ) -> Result<()> {
        let part = self.cache.path(STAGE, &format!("{expected}.part"));
        let _lock = self.cache.lock(STAGE, expected).map_err(io_error(&part))?;
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            std::thread::sleep(PAUSE * attempt * attempt);
            let before = fs::metadata(&part).map_or(0, |m| m.len());
            match self.resume(url, headers, &part, before, on_bytes) {
                Ok(()) => {}
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Retry(why)) => {
                    reason = why;
                    continue;
                }
            }
            let got = checksum(&part).map_err(io_error(&part))?;
            if got == expected {
                return fs::rename(&part, to).map_err(io_error(to));
            }
            fs::remove_file(&part).map_err(io_error(&part))?;
            // The data of the earlier transfer may have been wrong: start again.
            if before == 0 {
                return Err(mismatch(url, expected, got));
            }
            reason = "the data of an earlier transfer had a wrong checksum".to_owned();
        }
        Err(Error::Interrupted {
            url: url.to_owned(),
            reason,
        })
    }

    /// Transfers the rest of a file, from where the last transfer was interrupted.
    fn resume(
        &self,
        url: &str,
        headers: &Headers,
        part: &Path,
        before: u64,
        on_bytes: OnBytes<'_>,
    ) -> Result<(), Attempt> {
        let io_failed = |e: io::Error| Attempt::Final(io_error(part)(e));
        let mut headers = headers.clone();
        if before > 0 {
            headers.push(("Range", format!("bytes={before}-")));
        }
        let answer = get(&self.agent, url, &headers).map_err(Attempt::Retry)?;
        let mut file = fs::OpenOptions::new();
        let (mut bytes, file) = match answer.status().as_u16() {
            206 => (before, file.append(true)),
            200 => (0, file.write(true).create(true).truncate(true)),
            // The server has no more data. The checksum tells whether the file is complete.
            416 if before > 0 => return Ok(()),
            408 | 429 | 500.. => {
                return Err(Attempt::Retry(format!("it answered {}", answer.status())));
            }
            status => {
                return Err(Attempt::Final(Error::Refused {
                    url: url.to_owned(),
                    status,
                }));
            }
        };
        let mut file = file.open(part).map_err(io_failed)?;
        let all = answer
            .headers()
            .get("content-length")
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
            .map(|length| bytes + length);
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = body
                .read(&mut buffer)
                .map_err(|e| Attempt::Retry(format!("after {bytes} bytes: {e}")))?;
            let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else {
                break;
            };
            file.write_all(read).map_err(io_failed)?;
            bytes += n as u64;
            on_bytes(bytes, all);
        }
        match all {
            Some(all) if all != bytes => {
                Err(Attempt::Retry(format!("after {bytes} bytes of {all}")))
            }
            _ => Ok(()),
        }
    }
}

/// Returns an HTTP client with this time limit for each phase of a request, and an optional limit for all of it.
fn agent(patience: Duration, all: Option<Duration>) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(all)
        .timeout_resolve(Some(patience))
        .timeout_connect(Some(patience.min(Duration::from_secs(15))))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
        .http_status_as_error(false)
        // No compression: sizes and checksums are those of the stored files.
        .accept_encoding("identity")
        .user_agent(concat!("faultline/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

fn get(
    agent: &ureq::Agent,
    url: &str,
    headers: &Headers,
) -> std::result::Result<ureq::http::Response<ureq::Body>, String> {
    let mut request = agent.get(url);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    // A proxy can't reach servers on this machine.
    let host = url.split("://").nth(1).unwrap_or_default();
    let here = ["127.", "localhost", "[::1]"]
        .iter()
        .any(|h| host.starts_with(h));
    let answer = if here {
        request.config().proxy(None).build().call()
    } else {
        request.call()
    };
    answer.map_err(|e| e.to_string())
}

/// Retries a few times if the server fails or doesn't answer.
fn with_retries<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match ask() {
            Err(
                Error::Unreachable { .. }
                | Error::Interrupted { .. }
                | Error::Refused { status: 500.., .. },
            ) if attempt < ATTEMPTS => {
                std::thread::sleep(PAUSE * attempt * attempt);
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Io { path, source }
}

/// Reads a small text from a folder that replaces a host.
pub(super) fn read(path: &Path, url: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| missing(path, url, e))
}

fn missing(path: &Path, url: &str, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound => Error::Missing {
            path: path.to_owned(),
            url: url.to_owned(),
        },
        _ => Error::Unusable {
            url: url.to_owned(),
            reason: format!("{}: {e}", path.display()),
        },
    }
}

/// Copies a file from a folder that replaces a host.
pub(super) fn copy(path: &Path, url: &str, expected: &str, to: &Path) -> Result<()> {
    let mut from = fs::File::open(path).map_err(|e| missing(path, url, e))?;
    let mut copied = fs::File::create(to).map_err(io_error(to))?;
    io::copy(&mut from, &mut copied).map_err(io_error(to))?;
    let got = checksum(to).map_err(io_error(to))?;
    if got == expected {
        return Ok(());
    }
    fs::remove_file(to).map_err(io_error(to))?;
    Err(mismatch(&path.display().to_string(), expected, got))
}

pub(super) fn mismatch(url: &str, expected: &str, got: String) -> Error {
    Error::Mismatch {
        file: file_of(url).to_owned(),
        url: url.to_owned(),
        expected: expected.to_owned(),
        got,
    }
}

/// Returns the last path segment of a URL.
pub(super) fn file_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Returns the SHA-256 of a file from a text that is just the hash, or has lines of hash and file name.
pub(super) fn find_checksum(text: &str, file: &str) -> Option<String> {
    let hash = |word: &str| {
        let hex = word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| word.to_ascii_lowercase())
    };
    let mut words = text.split_whitespace();
    if let (Some(only), None) = (words.next(), words.next()) {
        return hash(only);
    }
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (sum, name) = (hash(words.next()?)?, words.next()?);
        (file_of(name.trim_start_matches('*')) == file).then_some(sum)
    })
}

/// Returns the hosts, or their replacements, that can't be reached, each with the reason. A host is given by its name
/// and whether it is a registry.
pub(super) fn unreachable(bases: &Bases, hosts: &BTreeSet<(String, bool)>) -> Vec<String> {
    let agent = agent(REACH, Some(REACH));
    let look = |host: &str, registry: bool| -> Option<String> {
        let url = match bases.get(host) {
            Some(Base::Folder(folder)) => {
                return (!folder.is_dir()).then(|| format!("{} is not a folder", folder.display()));
            }
            Some(Base::Web(base)) if registry => root(&base),
            Some(Base::Web(base)) => format!("{base}/"),
            None if registry => root(&server_of(host)),
            None => format!("https://{host}/"),
        };
        // Any answer will do, whatever its status.
        let answer = get(&agent, &url, &Headers::new());
        answer.err().map(|e| format!("{url}: {e}"))
    };
    std::thread::scope(|scope| {
        let asked: BTreeMap<_, _> = hosts
            .iter()
            .map(|(host, registry)| ((host, registry), scope.spawn(|| look(host, *registry))))
            .collect();
        asked
            .into_values()
            .filter_map(|asked| asked.join().unwrap_or_default())
            .collect()
    })
}

/// Returns the base URL of a registry's API.
pub(super) fn root(base: &str) -> String {
    // A path after the host is a prefix of every repository's name, as for the projects of caching registries.
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = if path.is_empty() {
        String::new()
    } else {
        format!("{}/", path.trim_end_matches('/'))
    };
    format!("{scheme}://{host}/v2/{path}")
}

/// Returns the server of a registry, by its name.
pub(super) fn server_of(registry: &str) -> String {
    match registry {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        other => format!("https://{other}"),
    }
}

pub(crate) fn failed(stage: &'static str, error: &Error) -> crate::Error {
    crate::Error::Stage {
        stage,
        reason: format!("{error}\n  {}", error.advice()),
    }
}

#[cfg(test)]
mod tests;
