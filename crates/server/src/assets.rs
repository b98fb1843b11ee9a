//! Style sheets, scripts and fonts, built into the binary. Their names contain their hash, so browsers may cache them
//! forever. They are compressed once, on first use.

use std::{collections::HashMap, io::Write, sync::LazyLock};

use axum::{
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

#[derive(RustEmbed)]
#[folder = "../../web"]
#[include = "static/*"]
#[include = "vendor/*/*.js"]
#[include = "vendor/*/*.css"]
#[include = "vendor/*/*.woff2"]
struct Files;

struct Asset {
    kind: &'static str,
    plain: Bytes,
    zipped: Option<Bytes>,
}

struct Assets {
    /// By plain name: `app.css` → `/assets/app.0123abcd.css`.
    links: HashMap<String, String>,
    /// By name with hash: `app.0123abcd.css`.
    assets: HashMap<String, Asset>,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(load);

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("woff2") => "font/woff2",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

fn load() -> Assets {
    let mut links = HashMap::new();
    let mut assets = HashMap::new();
    // Style sheets last: they refer to fonts by their name with hash.
    let mut paths: Vec<String> = Files::iter().map(|p| p.to_string()).collect();
    paths.sort_by_key(|p| p.ends_with(".css"));
    for path in paths {
        let Some(file) = Files::get(&path) else {
            continue;
        };
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        let mut content = file.data.into_owned();
        if name == "app.css" {
            content = with_links(&content, &links);
        }
        let hash = hex::encode(Sha256::digest(&content));
        let hash = hash.get(..12).unwrap_or(&hash);
        let hashed = match name.rsplit_once('.') {
            Some((stem, ending)) => format!("{stem}.{hash}.{ending}"),
            None => format!("{name}.{hash}"),
        };
        let zipped = (!name.ends_with(".woff2"))
            .then(|| zip(&content))
            .flatten()
            .map(Bytes::from);
        links.insert(name.clone(), format!("/assets/{hashed}"));
        assets.insert(
            hashed,
            Asset {
                kind: kind(&name),
                plain: content.into(),
                zipped,
            },
        );
    }
    Assets { links, assets }
}

/// Replaces each `url(NAME)` by the link with the hash.
fn with_links(css: &[u8], links: &HashMap<String, String>) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(css).into_owned();
    for (name, link) in links {
        text = text.replace(&format!("url({name})"), &format!("url({link})"));
    }
    text.into_bytes()
}

fn zip(content: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).ok()?;
    encoder.finish().ok()
}

/// Returns the link to an asset, given its plain name.
pub(crate) fn link(name: &str) -> &'static str {
    ASSETS.links.get(name).map_or("/assets/missing", |l| l)
}

/// Serves an asset. No session is needed, because assets contain no personal data.
pub(crate) async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.assets.get(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let takes_gzip = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim().starts_with("gzip")));
    let always = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::VARY, "accept-encoding"),
    ];
    match &asset.zipped {
        Some(zipped) if takes_gzip => {
            (always, [(header::CONTENT_ENCODING, "gzip")], zipped.clone()).into_response()
        }
        _ => (always, asset.plain.clone()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendored_files_match_their_manifest() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = std::fs::read_to_string(root.join("web/vendor/vendor.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut seen = 0;
        for package in manifest["packages"].as_array().unwrap() {
            for file in package["files"].as_array().unwrap() {
                let to = file["to"].as_str().unwrap();
                let content = std::fs::read(root.join(to)).unwrap();
                let sha = hex::encode(Sha256::digest(&content));
                assert_eq!(sha, file["sha256"].as_str().unwrap(), "{to}");
                seen += 1;
            }
        }
        assert!(seen > 8);
    }

    #[test]
    fn a_page_without_a_terminal_stays_within_its_size_budget() {
        let size = |name: &str| {
            let hashed = link(name).trim_start_matches("/assets/");
            let asset = &ASSETS.assets[hashed];
            asset.zipped.as_ref().unwrap_or(&asset.plain).len()
        };
        let names = [
            "app.css",
            "app.js",
            "htmx.min.js",
            "jetbrains-mono-latin-400-normal.woff2",
        ];
        let total: usize = names.iter().map(|n| size(n)).sum();
        // The rest of the budget is for the page itself.
        assert!(total < 64 * 1024, "{total}");
    }

    #[test]
    fn style_sheets_refer_to_fonts_with_their_hash() {
        let hashed = link("app.css").trim_start_matches("/assets/");
        let css = String::from_utf8_lossy(&ASSETS.assets[hashed].plain).into_owned();
        assert!(css.contains("url(/assets/jetbrains-mono-latin-400-normal."));
        assert!(!css.contains("url(jetbrains"));
    }
}
