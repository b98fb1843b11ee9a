//! Pulls container images from registries, with the OCI distribution protocol, or from folders with OCI layouts.
//!
//! Pulls are anonymous and for linux/amd64: index → manifest → configuration and layers, each verified by its digest.
//! They are stored as an OCI layout, byte for byte, so that the digests stay the official ones.
//!
//! A folder that replaces a registry has a layout per repository (`<folder>/coredns/coredns/index.json`), or an archive
//! of a layout per image (`<folder>/coredns/coredns/v1.14.2.tar`).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fetch::{
    self, Error, Fetcher, Headers, OnBytes, Result, file_of, io_error, mismatch, root, server_of,
};
use crate::source::{Base, Reference};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The annotation for the full name in a layout's index, as containerd and Docker write it.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The maximum depth of nested indexes.
const DEPTH: u32 = 3;

/// An image pulled into a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The manifest's digest, in hexadecimal.
    pub digest: String,
    /// The official URL of the manifest with that digest.
    pub url: String,
    /// The files of the layers, from the lowest.
    pub layers: Vec<PathBuf>,
}

/// A reference in a manifest or an index.
#[derive(Debug, Clone, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// An index or a manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Descriptor {
    /// Returns the SHA-256, which becomes a file name.
    fn hex(&self, url: &str) -> Result<&str> {
        let hex = self.digest.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        hex.ok_or_else(|| {
            unusable(
                url,
                format!("its digest {:?} is not a SHA-256", self.digest),
            )
        })
    }

    fn is_linux_amd64(&self) -> bool {
        self.platform
            .as_ref()
            .is_some_and(|p| p.os == "linux" && p.architecture == "amd64")
    }

    fn is_named(&self, name: &Reference) -> bool {
        let says = |key: &str, value: &str| self.annotations.get(key).is_some_and(|v| v == value);
        let full = name.name();
        says(FULL_NAME, &full) || says(REF_NAME, &full) || says(REF_NAME, &name.tag)
    }
}

fn unusable(url: &str, reason: impl Into<String>) -> Error {
    Error::Unusable {
        url: url.to_owned(),
        reason: reason.into(),
    }
}

/// Where the parts of an image are read from.
enum Store<'a> {
    Registry {
        fetcher: &'a Fetcher<'a>,
        /// `https://host/v2/repository`
        base: String,
        token: Option<String>,
    },
    Layout(PathBuf),
}

impl Store<'_> {
    /// Returns the URL or path of a part.
    fn url(&self, kind: &str, which: &str) -> String {
        match self {
            Self::Registry { base, .. } => format!("{base}/{kind}/{which}"),
            Self::Layout(folder) => folder
                .join("blobs")
                .join(which.replace(':', "/"))
                .display()
                .to_string(),
        }
    }

    fn headers(token: Option<&String>) -> Headers {
        let bearer = token.map(|token| ("Authorization", format!("Bearer {token}")));
        bearer.into_iter().collect()
    }

    /// Reads a manifest or an index, by tag or digest, as stored.
    fn manifest(&mut self, which: &str) -> Result<String> {
        let url = self.url("manifests", which);
        let (text, digest) = match self {
            Self::Layout(_) => (fetch::read(Path::new(&url), &url)?, None),
            Self::Registry { fetcher, token, .. } => {
                let ask = |token: Option<&String>| {
                    let mut headers = Self::headers(token);
                    headers.push(("Accept", MANIFESTS.to_owned()));
                    fetcher.body(&url, &headers)
                };
                let (headers, text) = match ask(token.as_ref()) {
                    Err(Error::Refused { status: 401, .. }) if token.is_none() => {
                        *token = Some(fetch_token(fetcher, &url)?);
                        ask(token.as_ref())?
                    }
                    answer => answer?,
                };
                let digest = headers
                    .get("docker-content-digest")
                    .and_then(|d| d.to_str().ok())
                    .map(str::to_owned);
                (text, digest)
            }
        };
        let got = hex::encode(Sha256::digest(&text));
        let said = which
            .starts_with("sha256:")
            .then(|| which.to_owned())
            .or(digest);
        match said.as_deref().and_then(|d| d.strip_prefix("sha256:")) {
            Some(expected) if expected != got => Err(mismatch(&url, expected, got)),
            _ => Ok(text),
        }
    }

    /// Fetches a blob and verifies it.
    fn blob(&self, blob: &Descriptor, to: &Path, on_bytes: OnBytes<'_>) -> Result<()> {
        let url = self.url("blobs", &blob.digest);
        let hex = blob.hex(&url)?;
        match self {
            Self::Layout(_) => fetch::copy(Path::new(&url), &url, hex, to),
            Self::Registry { fetcher, token, .. } => {
                let headers = Self::headers(token.as_ref());
                fetcher.download(&url, &headers, hex, to, on_bytes)
            }
        }
    }
}

/// Gets an anonymous token for a URL that requires one, from the token server that the registry names.
fn fetch_token(fetcher: &Fetcher<'_>, url: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer = fetcher.get(url, &Headers::new())?;
    let challenge = answer
        .headers()
        .get("www-authenticate")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut said = parse_challenge(challenge);
    let realm = said.remove("realm").ok_or_else(|| {
        unusable(
            url,
            format!("it requires authentication with an unknown challenge: {challenge:?}"),
        )
    })?;
    let query: Vec<String> = ["service", "scope"]
        .iter()
        .filter_map(|key| Some(format!("{key}={}", said.get(*key)?.replace(' ', "%20"))))
        .collect();
    let mark = if realm.contains('?') { '&' } else { '?' };
    let asked = format!("{realm}{mark}{}", query.join("&"));
    let (_, text) = fetcher.body(&asked, &Headers::new())?;
    serde_json::from_str::<Token>(&text)
        .ok()
        .and_then(|t| t.token.or(t.access_token))
        .ok_or_else(|| unusable(&asked, "the answer has no token"))
}

/// Parses the parameters of a `Bearer` challenge.
fn parse_challenge(challenge: &str) -> BTreeMap<String, String> {
    let mut rest = match challenge.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest,
        _ => return BTreeMap::new(),
    };
    let mut said = BTreeMap::new();
    while let Some((key, after)) = rest.split_once("=\"") {
        let Some((value, after)) = after.split_once('"') else {
            break;
        };
        said.insert(
            key.trim_matches([',', ' ']).to_ascii_lowercase(),
            value.to_owned(),
        );
        rest = after;
    }
    said
}

/// Pulls an image into an OCI layout in a new folder, under these names. `scratch` is an existing folder for temporary
/// files.
pub fn pull(
    fetcher: &Fetcher<'_>,
    name: &str,
    names: &[&str],
    layout: &Path,
    scratch: &Path,
    on_bytes: OnBytes<'_>,
) -> Result<Pulled> {
    let reference = Reference::parse(name).map_err(|e| unusable(name, e))?;
    let (mut store, top) = open(fetcher, &reference, scratch)?;
    let (text, document, digest) = resolve(&mut store, top, &reference)?;
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(io_error(&blobs))?;
    let write = |path: PathBuf, text: &str| fs::write(&path, text).map_err(io_error(&path));
    let missing = || unusable(name, "its manifest has no configuration");
    let config = document.config.as_ref().ok_or_else(missing)?;
    let all: u64 = document.layers.iter().map(|l| l.size).sum();
    let mut before = 0;
    let mut layers = Vec::new();
    store.blob(config, &blobs.join(config.hex(name)?), &|_, _| {})?;
    let path = blobs.join(config.hex(name)?);
    let says: Value = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    if says.get("architecture").and_then(Value::as_str) != Some("amd64") {
        return Err(unusable(name, "it is not for linux/amd64"));
    }
    for layer in &document.layers {
        let to = blobs.join(layer.hex(name)?);
        // An image may contain the same layer twice.
        if !to.exists() {
            store.blob(layer, &to, &|bytes, _| on_bytes(before + bytes, Some(all)))?;
        }
        before += layer.size;
        on_bytes(before, Some(all));
        layers.push(to);
    }
    write(blobs.join(&digest), &text)?;
    let manifests: Vec<Value> = names
        .iter()
        .map(|name| {
            json!({
                "mediaType": document.media_type.as_deref().unwrap_or(OCI_MANIFEST),
                "digest": format!("sha256:{digest}"),
                "size": text.len(),
                "platform": { "os": "linux", "architecture": "amd64" },
                "annotations": { FULL_NAME: name, REF_NAME: name.rsplit(':').next() },
            })
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    write(layout.join("index.json"), &index.to_string())?;
    write(
        layout.join("oci-layout"),
        &json!({ "imageLayoutVersion": "1.0.0" }).to_string(),
    )?;
    Ok(Pulled {
        url: format!(
            "https://{}/v2/{}/manifests/sha256:{digest}",
            reference.registry, reference.repository
        ),
        digest,
        layers,
    })
}

/// Returns where to read an image from, and the tag or digest to begin with.
fn open<'a>(
    fetcher: &'a Fetcher<'a>,
    name: &Reference,
    scratch: &Path,
) -> Result<(Store<'a>, String)> {
    let web = |base: &str| Store::Registry {
        fetcher,
        base: format!("{}{}", root(base), name.repository),
        token: None,
    };
    match fetcher.bases.get(&name.registry) {
        None => Ok((web(&server_of(&name.registry)), name.tag.clone())),
        Some(Base::Web(base)) => Ok((web(&base), name.tag.clone())),
        Some(Base::Folder(folder)) => {
            let place = folder.join(&name.repository);
            let archive = place.join(format!("{}.tar", name.tag));
            let layout = if archive.exists() {
                unpack(&archive, scratch)?
            } else {
                place
            };
            let top = named(&layout, name)?;
            Ok((Store::Layout(layout), top))
        }
    }
}

/// Unpacks an archive of an OCI layout.
fn unpack(archive: &Path, scratch: &Path) -> Result<PathBuf> {
    let to = scratch.join("unpacked");
    fs::create_dir_all(&to).map_err(io_error(&to))?;
    let out = Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(&to)
        .args(["--no-same-owner", "--no-same-permissions"])
        .output();
    let url = archive.display().to_string();
    match out {
        Ok(out) if out.status.success() && to.join("index.json").exists() => Ok(to),
        Ok(out) if out.status.success() => Err(unusable(
            &url,
            "it is not an archive of an OCI layout; make one with skopeo (oci-archive:), ctr images export, or docker save of Docker 25 or newer",
        )),
        Ok(out) => Err(unusable(
            &url,
            String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        )),
        Err(e) => Err(unusable(&url, format!("cannot run tar: {e}"))),
    }
}

/// Returns the digest for a name in a layout's index.
fn named(layout: &Path, name: &Reference) -> Result<String> {
    let path = layout.join("index.json");
    let url = path.display().to_string();
    let text = fetch::read(&path, &name.name())?;
    let index: Document = serde_json::from_str(&text).map_err(|e| unusable(&url, e.to_string()))?;
    let found = index.manifests.iter().find(|m| m.is_named(name));
    let found = found.ok_or_else(|| unusable(&url, format!("it has no {}", name.tag)))?;
    found.hex(&url)?;
    Ok(found.digest.clone())
}

/// Resolves a tag to the manifest of the image for this platform. Returns its text, its content, and its digest in
/// hexadecimal.
fn resolve(
    store: &mut Store<'_>,
    mut which: String,
    name: &Reference,
) -> Result<(String, Document, String)> {
    for _ in 0..DEPTH {
        let url = store.url("manifests", &which);
        let text = store.manifest(&which)?;
        let document: Document =
            serde_json::from_str(&text).map_err(|e| unusable(&url, e.to_string()))?;
        if document.config.is_some() {
            let digest = hex::encode(Sha256::digest(&text));
            return Ok((text, document, digest));
        }
        let next = document
            .manifests
            .iter()
            .find(|m| m.is_linux_amd64())
            .ok_or_else(|| {
                unusable(
                    &url,
                    format!("it has no {} for linux/amd64", file_of(&name.repository)),
                )
            })?;
        next.hex(&url)?;
        which.clone_from(&next.digest);
    }
    Err(unusable(&name.name(), "its index is nested too deeply"))
}

#[cfg(test)]
mod tests;
