//! Files of official hosts, their mirrors and folders: resumed where they broke off, verified before they are used.
//!
//! A transfer lies in `<cache>/downloads/<sha256>.part` until its checksum was compared. One that broke off stays there
//! and is continued, by this process or the next; one that is wrong is removed.

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

/// How long a base may take to answer, to count as reached.
pub const REACH: Duration = Duration::from_secs(5);
/// How long the next bytes may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a transfer is begun or continued.
const ATTEMPTS: u32 = 4;
/// Before it is continued the first time; longer each time.
const PAUSE: Duration = Duration::from_millis(200);
/// Texts and manifests are smaller.
const TEXT: u64 = 4 << 20;
const STAGE: &str = "downloads";

/// Why something official can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error("{url} can't be reached: {reason}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        reason: String,
    },
    /// Somebody answers something else.
    #[error("{url} answered {status}")]
    Refused {
        /// Its address.
        url: String,
        /// The status.
        status: u16,
    },
    /// A folder that stands for a host hasn't got it.
    #[error("{path} is missing, in the place of {url}")]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// Its official address.
        url: String,
    },
    /// The transfer breaks off again and again.
    #[error("{url} broke off: {reason}")]
    BrokeOff {
        /// Its address.
        url: String,
        /// Why, the last time.
        reason: String,
    },
    /// The list of checksums doesn't have it.
    #[error("{url} says no SHA-256 of {file}")]
    NoChecksum {
        /// The file.
        file: String,
        /// The list's address.
        url: String,
    },
    /// It is not what its checksum says.
    #[error("{file} from {url} is not what it should be: expected SHA-256 {expected}, got {got}")]
    Mismatch {
        /// The file.
        file: String,
        /// Its address.
        url: String,
        /// What was to come.
        expected: String,
        /// What came.
        got: String,
    },
    /// It is understood by nobody here.
    #[error("{url} can't be used: {reason}")]
    Unusable {
        /// Its address.
        url: String,
        /// Why.
        reason: String,
    },
    /// This machine's disk.
    #[error("{path} can't be written")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        const ELSE: &str = "name a mirror or a folder with --base HOST=PLACE ([sources.bases] in the configuration), \
                            or build from Go modules with --source modules";
        match self {
            Self::Mismatch { .. } => {
                "nothing of it was kept; ask whoever runs that place, or name another with --base HOST=PLACE".to_owned()
            }
            Self::BrokeOff { .. } => {
                format!("what has arrived is kept, and building again continues there; or {ELSE}")
            }
            Self::Io { source, .. } => format!("{source}; make room or set FAULTLINE_CACHE"),
            _ => ELSE.to_owned(),
        }
    }
}

/// Result of fetching.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Hears how many bytes have arrived, and of how many where that is known.
pub type Told<'a> = &'a dyn Fn(u64, Option<u64>);

/// Bytes for people: `12 of 58 MiB`.
#[must_use]
pub fn amount(bytes: u64, all: Option<u64>) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match all {
        Some(all) => format!("{} of {} MiB", mib(bytes), mib(all)),
        None => format!("{} MiB", mib(bytes)),
    }
}

/// Where an address leads once bases stand in the place of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Web(String),
    File(PathBuf),
}

/// Headers of a request.
pub(super) type Headers = Vec<(&'static str, String)>;

/// Fetches.
#[derive(Debug)]
pub struct Fetcher<'a> {
    pub(super) bases: &'a Bases,
    cache: &'a Cache,
    agent: ureq::Agent,
}

/// Why an attempt failed: for good, or perhaps only now.
enum Attempt {
    Final(Error),
    Again(String),
}

impl<'a> Fetcher<'a> {
    /// Fetches from these bases; what is half there lies in this cache.
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
            .ok_or_else(|| unusable("it is no address"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.split('/').any(|part| part == "..") {
            return Err(unusable("it leaves its folder"));
        }
        Ok(match self.bases.get(host) {
            None => Place::Web(url.to_owned()),
            Some(Base::Web(base)) => Place::Web(format!("{base}/{path}")),
            Some(Base::Folder(folder)) => Place::File(folder.join(path)),
        })
    }

    /// A request. Gives the answer whatever its status, and an error when there is none.
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

    /// A small text.
    pub fn text(&self, url: &str) -> Result<String> {
        match self.place(url)? {
            Place::File(path) => read(&path, url),
            Place::Web(place) => self.body(&place, &Headers::new()).map(|(_, text)| text),
        }
    }

    /// A small answer with its headers, asked for again when the server falters.
    pub(super) fn body(
        &self,
        url: &str,
        headers: &Headers,
    ) -> Result<(ureq::http::HeaderMap, String)> {
        again(|| {
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
                .map_err(|e| Error::BrokeOff {
                    url: url.to_owned(),
                    reason: e.to_string(),
                })?;
            Ok((answer.headers().clone(), text))
        })
    }

    /// A file with this SHA-256, put at `to`. What is wrong is left nowhere.
    pub fn file(&self, url: &str, expected: &str, to: &Path, told: Told<'_>) -> Result<()> {
        match self.place(url)? {
            Place::File(path) => copy(&path, url, expected, to),
            Place::Web(place) => self.download(&place, &Headers::new(), expected, to, told),
        }
    }

    pub(super) fn download(
        &self,
        url: &str,
        headers: &Headers,
        expected: &str,
        to: &Path,
        told: Told<'_>,
    ) -> Result<()> {
        let part = self.cache.path(STAGE, &format!("{expected}.part"));
        let _lock = self.cache.lock(STAGE, expected).map_err(io_error(&part))?;
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            std::thread::sleep(PAUSE * attempt * attempt);
            let before = fs::metadata(&part).map_or(0, |m| m.len());
            match self.continued(url, headers, &part, before, told) {
                Ok(()) => {}
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Again(why)) => {
                    reason = why;
                    continue;
                }
            }
            let got = checksum(&part).map_err(io_error(&part))?;
            if got == expected {
                return fs::rename(&part, to).map_err(io_error(to));
            }
            fs::remove_file(&part).map_err(io_error(&part))?;
            // What lay there may have been of something else.
            if before == 0 {
                return Err(mismatch(url, expected, got));
            }
            reason = "what was there already did not fit".to_owned();
        }
        Err(Error::BrokeOff {
            url: url.to_owned(),
            reason,
        })
    }

    /// One transfer, from where the last one broke off.
    fn continued(
        &self,
        url: &str,
        headers: &Headers,
        part: &Path,
        before: u64,
        told: Told<'_>,
    ) -> Result<(), Attempt> {
        let io_failed = |e: io::Error| Attempt::Final(io_error(part)(e));
        let mut headers = headers.clone();
        if before > 0 {
            headers.push(("Range", format!("bytes={before}-")));
        }
        let answer = get(&self.agent, url, &headers).map_err(Attempt::Again)?;
        let mut file = fs::OpenOptions::new();
        let (mut bytes, file) = match answer.status().as_u16() {
            206 => (before, file.append(true)),
            200 => (0, file.write(true).create(true).truncate(true)),
            // There is nothing after what is here; whether that is all, its checksum says.
            416 if before > 0 => return Ok(()),
            408 | 429 | 500.. => {
                return Err(Attempt::Again(format!("it answered {}", answer.status())));
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
                .map_err(|e| Attempt::Again(format!("after {bytes} bytes: {e}")))?;
            let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else {
                break;
            };
            file.write_all(read).map_err(io_failed)?;
            bytes += n as u64;
            told(bytes, all);
        }
        match all {
            Some(all) if all != bytes => {
                Err(Attempt::Again(format!("after {bytes} bytes of {all}")))
            }
            _ => Ok(()),
        }
    }
}

/// Each step may take so long, and all of them together so long where that is said.
fn agent(patience: Duration, all: Option<Duration>) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(all)
        .timeout_resolve(Some(patience))
        .timeout_connect(Some(patience.min(Duration::from_secs(15))))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
        .http_status_as_error(false)
        // Bytes as they lie there: their number and their checksum are meant.
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
    // A proxy of the place doesn't lead to this machine's own servers.
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

/// Asks a few times when the server falters or nobody answers.
fn again<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match ask() {
            Err(
                Error::Unreachable { .. }
                | Error::BrokeOff { .. }
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

/// A small text of a folder that stands for a host.
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

/// Copies a file of a folder that stands for a host.
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

/// The last part of an address.
pub(super) fn file_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// The SHA-256 of a file in a text that has nothing but it, or lines of hash and name.
pub(super) fn listed(text: &str, file: &str) -> Option<String> {
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

/// Those of these hosts, or of what stands in their place, that can't be reached, each with its reason. A host is asked
/// with its name and whether it is a registry.
pub(super) fn unreachable(bases: &Bases, hosts: &BTreeSet<(String, bool)>) -> Vec<String> {
    let agent = agent(REACH, Some(REACH));
    let look = |host: &str, registry: bool| -> Option<String> {
        let url = match bases.get(host) {
            Some(Base::Folder(folder)) => {
                return (!folder.is_dir()).then(|| format!("{} is no folder", folder.display()));
            }
            Some(Base::Web(base)) if registry => root(&base),
            Some(Base::Web(base)) => format!("{base}/"),
            None if registry => root(&home(host)),
            None => format!("https://{host}/"),
        };
        // Any answer is one.
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

/// The address that a registry answers on first.
pub(super) fn root(base: &str) -> String {
    // What follows the host is a part of every repository's name: so have caching registries their projects.
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = if path.is_empty() {
        String::new()
    } else {
        format!("{}/", path.trim_end_matches('/'))
    };
    format!("{scheme}://{host}/v2/{path}")
}

/// The server of a registry's name.
pub(super) fn home(registry: &str) -> String {
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
