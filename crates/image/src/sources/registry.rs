//! Container images of registries, by the OCI distribution protocol, or of folders with OCI layouts in their place.
//!
//! Read anonymously, for linux/amd64: index → manifest → configuration and layers, each compared with its digest. They
//! are put down as an OCI layout, byte for byte, and so have the digests that everybody else knows.
//!
//! A folder that stands for a registry has a layout for each repository (`<folder>/coredns/coredns/index.json`), or an
//! archive of one for each image (`<folder>/coredns/coredns/v1.14.2.tar`).

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
    self, Error, Fetcher, Headers, Result, Told, file_of, home, io_error, mismatch, root,
};
use crate::source::{Base, Reference};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What containerd and docker call the full name in a layout's index.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// A layout's index isn't nested deeper.
const DEPTH: u32 = 3;

/// An image that was pulled into a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its manifest's digest, in hexadecimal.
    pub digest: String,
    /// Its official address, by that digest.
    pub url: String,
    /// Its layers' files, from the lowest.
    pub layers: Vec<PathBuf>,
}

/// Something that a manifest or an index points to.
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

/// An index, or a manifest.
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
    /// Its SHA-256, which becomes a file's name.
    fn hex(&self, url: &str) -> Result<&str> {
        let hex = self.digest.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        hex.ok_or_else(|| {
            unusable(
                url,
                format!("its digest {:?} is not known here", self.digest),
            )
        })
    }

    fn is_for_us(&self) -> bool {
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

/// Where an image's parts are read.
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
    /// The address of a part, for messages.
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

    /// A manifest or an index, by tag or digest, as it lies there.
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
                        *token = Some(admission(fetcher, &url)?);
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

    /// A blob, verified.
    fn blob(&self, blob: &Descriptor, to: &Path, told: Told<'_>) -> Result<()> {
        let url = self.url("blobs", &blob.digest);
        let hex = blob.hex(&url)?;
        match self {
            Self::Layout(_) => fetch::copy(Path::new(&url), &url, hex, to),
            Self::Registry { fetcher, token, .. } => {
                let headers = Self::headers(token.as_ref());
                fetcher.download(&url, &headers, hex, to, told)
            }
        }
    }
}

/// A token for an address that wants one: asked of whom the registry names, anonymously.
fn admission(fetcher: &Fetcher<'_>, url: &str) -> Result<String> {
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
    let mut said = challenged(challenge);
    let realm = said.remove("realm").ok_or_else(|| {
        unusable(
            url,
            format!("it wants to know who asks, and its challenge {challenge:?} is not understood"),
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
        .ok_or_else(|| unusable(&asked, "it gives no token"))
}

/// What a `Bearer` challenge says.
fn challenged(challenge: &str) -> BTreeMap<String, String> {
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

/// Pulls an image into an OCI layout in a new folder, under these names. `scratch` is a folder that is the caller's.
pub fn pull(
    fetcher: &Fetcher<'_>,
    name: &str,
    names: &[&str],
    layout: &Path,
    scratch: &Path,
    told: Told<'_>,
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
        // An image may have the same layer twice.
        if !to.exists() {
            store.blob(layer, &to, &|bytes, _| told(before + bytes, Some(all)))?;
        }
        before += layer.size;
        told(before, Some(all));
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

/// Where an image is read, and the tag or digest to begin with.
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
        None => Ok((web(&home(&name.registry)), name.tag.clone())),
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

/// Unpacks an archive of a layout.
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
            "it is no archive of an OCI layout; make it with skopeo (oci-archive:), ctr images export, or docker save of Docker 25 or newer",
        )),
        Ok(out) => Err(unusable(
            &url,
            String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        )),
        Err(e) => Err(unusable(&url, format!("cannot run tar: {e}"))),
    }
}

/// The digest that a layout's index has under a name.
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

/// From a tag to the manifest of an image for this platform: its text, what it says, its digest in hexadecimal.
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
            .find(|m| m.is_for_us())
            .ok_or_else(|| {
                unusable(
                    &url,
                    format!("{} is not there for linux/amd64", file_of(&name.repository)),
                )
            })?;
        next.hex(&url)?;
        which.clone_from(&next.digest);
    }
    Err(unusable(&name.name(), "its index leads to indexes only"))
}

#[cfg(test)]
mod tests;
