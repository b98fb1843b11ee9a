//! The cache of proofs. A proof is valid as long as the lab, the image and the sources of the prover are the same.

use std::{collections::BTreeSet, fs};

use faultline_image::cache::{Cache, Key};
use faultline_lab::{
    LabFolder,
    prove::{Proof, WrongRepair},
};
use serde::{Serialize, de::DeserializeOwned};

/// The cache's stage for proofs.
const PROOF: &str = "proof";
/// The cache's stage for wrong repairs.
const WRONG: &str = "wrong";
const FILE: &str = "proof.json";

fn key_of(folder: &LabFolder, template: &str) -> Key {
    Key::default()
        .with("lab", &folder.proof_hash)
        .with("name", folder.slug.as_str())
        .with("template", template)
        .with("sources", env!("FAULTLINE_SOURCES"))
}

/// Returns the key of a lab's proof.
pub fn key(folder: &LabFolder, template: &str) -> String {
    key_of(folder, template).finish()
}

/// Returns the key of a wrong repair, which doesn't depend on the lab's other wrong repairs.
pub fn wrong_key(folder: &LabFolder, name: &str, template: &str) -> String {
    let content = folder.wrong.get(name).map_or(&[][..], Vec::as_slice);
    key_of(folder, template)
        .with("wrong", name)
        .with("script", content)
        .finish()
}

/// Loads a proof. Only successful ones are kept.
pub fn load(cache: &Cache, key: &str) -> Option<Proof> {
    read(cache, PROOF, key).filter(Proof::proven)
}

/// Loads the result of a wrong repair. Only caught ones are kept.
pub fn load_wrong(cache: &Cache, key: &str) -> Option<WrongRepair> {
    read(cache, WRONG, key).filter(|r: &WrongRepair| r.failure().is_none())
}

/// Returns the hashes of all labs that were ever proven, even with another program or image.
pub fn proven_once(cache: &Cache) -> BTreeSet<String> {
    cache
        .list(PROOF)
        .into_iter()
        .filter_map(|(key, _)| Some(load(cache, &key)?.hash))
        .collect()
}

/// Keeps a proof. If the cache can't be written to, the proof is only made again.
pub fn keep(cache: &Cache, key: &str, proof: &Proof) {
    write(cache, PROOF, key, proof, &proof.lab);
}

/// Keeps the result of a wrong repair.
pub fn keep_wrong(cache: &Cache, key: &str, repair: &WrongRepair) {
    write(cache, WRONG, key, repair, &repair.name);
}

fn read<T: DeserializeOwned>(cache: &Cache, stage: &str, key: &str) -> Option<T> {
    let text = fs::read(cache.path(stage, key).join(FILE)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn write<T: Serialize>(cache: &Cache, stage: &str, key: &str, proof: &T, of: &str) {
    let folder = cache.path(stage, key);
    let written = fs::create_dir_all(&folder).and_then(|()| {
        let draft = folder.join(".draft");
        fs::write(&draft, serde_json::to_vec_pretty(proof)?)?;
        fs::rename(draft, folder.join(FILE))
    });
    if let Err(e) = written {
        eprintln!("warning: the proof of {of} can't be kept: {e}");
    }
}
