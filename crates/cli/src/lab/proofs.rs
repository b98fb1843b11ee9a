//! Proofs that are kept: good as long as the lab, the image and the sources that prove it are the same.

use std::{collections::BTreeSet, fs};

use faultline_image::cache::{Cache, Key};
use faultline_lab::{LabFolder, prove::Proof};

/// The cache's stage.
const STAGE: &str = "proof";

/// The key of a lab's proof.
pub fn key(folder: &LabFolder, template: &str) -> String {
    Key::default()
        .with("lab", &folder.hash)
        .with("name", folder.slug.as_str())
        .with("template", template)
        .with("sources", env!("FAULTLINE_SOURCES"))
        .finish()
}

/// A kept proof. Only good ones are kept.
pub fn load(cache: &Cache, key: &str) -> Option<Proof> {
    let text = fs::read(cache.path(STAGE, key).join("proof.json")).ok()?;
    serde_json::from_slice::<Proof>(&text)
        .ok()
        .filter(Proof::proven)
}

/// The hashes of the labs that were ever proven as they are, be it with another program or image.
pub fn proven_once(cache: &Cache) -> BTreeSet<String> {
    cache
        .list(STAGE)
        .into_iter()
        .filter_map(|(key, _)| Some(load(cache, &key)?.hash))
        .collect()
}

/// Keeps a proof. A cache that can't be written only costs time.
pub fn keep(cache: &Cache, key: &str, proof: &Proof) {
    let folder = cache.path(STAGE, key);
    let written = fs::create_dir_all(&folder).and_then(|()| {
        let draft = folder.join(".draft");
        fs::write(&draft, serde_json::to_vec_pretty(proof)?)?;
        fs::rename(draft, folder.join("proof.json"))
    });
    if let Err(e) = written {
        eprintln!("warning: the proof of {} can't be kept: {e}", proof.lab);
    }
}
