//! The state of a fake guest: its node's name, and files in memory.

use std::{collections::BTreeMap, sync::Mutex};

use faultline_domain::NodeName;

use super::lock;

#[derive(Debug)]
pub(super) struct Files {
    pub(super) node: NodeName,
    files: Mutex<BTreeMap<String, (u32, Vec<u8>)>>,
}

impl Files {
    pub(super) fn new(node: NodeName) -> Self {
        Self {
            node,
            files: Mutex::default(),
        }
    }

    /// Returns independent files with the same content.
    pub(super) fn copy(&self) -> Self {
        Self {
            node: self.node.clone(),
            files: Mutex::new(lock(&self.files).clone()),
        }
    }

    pub(super) fn read(&self, path: &str) -> Option<Vec<u8>> {
        lock(&self.files)
            .get(path)
            .map(|(_, content)| content.clone())
    }

    /// Returns a file's permission bits and its size.
    pub(super) fn stat(&self, path: &str) -> Option<(u32, u64)> {
        lock(&self.files)
            .get(path)
            .map(|(mode, content)| (*mode, content.len() as u64))
    }

    pub(super) fn write(&self, path: &str, mode: u32, content: Vec<u8>) {
        lock(&self.files).insert(path.to_owned(), (mode, content));
    }

    pub(super) fn remove(&self, path: &str) -> bool {
        lock(&self.files).remove(path).is_some()
    }

    pub(super) fn paths(&self) -> Vec<String> {
        lock(&self.files).keys().cloned().collect()
    }
}
