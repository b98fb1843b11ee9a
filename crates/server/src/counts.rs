//! Counts what is open per key, such as the connections of an address, and limits it.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex},
};

use crate::lock::lock;

/// The numbers of open things, by key. Clones share them. Keys without any take no memory.
#[derive(Debug, Clone)]
pub(crate) struct Counts<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One of the things that are counted. Dropping it decrements its key's number.
#[derive(Debug)]
pub(crate) struct Counted<K: Hash + Eq> {
    key: K,
    counts: Counts<K>,
}

impl<K: Hash + Eq + Clone> Counts<K> {
    /// Counts one more for this key; none if it has `most` already.
    pub(crate) fn admit(&self, key: &K, most: usize) -> Option<Counted<K>> {
        let mut counts = lock(&self.0);
        let count = counts.entry(key.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Counted {
            key: key.clone(),
            counts: self.clone(),
        })
    }
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts.0);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}
