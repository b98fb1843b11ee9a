//! Sign-ins that have begun in a browser and are not finished: each can be taken once, and only for a while. They are kept
//! in memory; after a restart of the server, people begin again.

use std::{collections::HashMap, sync::Mutex};

use faultline_store::Secret;
use jiff::{SignedDuration, Timestamp};

use crate::lock::lock;

/// How long a sign-in may take.
pub(crate) const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// The maximum number of unfinished sign-ins. Beyond it, the oldest is forgotten.
const MOST: usize = 10_000;

/// Unfinished sign-ins, by the hash of the secret that the browser keeps meanwhile.
#[derive(Debug)]
pub(crate) struct Pending<T>(Mutex<HashMap<String, (Timestamp, T)>>);

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Pending<T> {
    /// Keeps a sign-in that begins now.
    pub(crate) fn put(&self, browser: &Secret, value: T, now: Timestamp) {
        let mut all = lock(&self.0);
        if all.len() >= MOST {
            all.retain(|_, (begun, _)| now.duration_since(*begun) < PATIENCE);
        }
        if all.len() >= MOST
            && let Some(oldest) = all.iter().min_by_key(|(_, (begun, _))| *begun)
        {
            let oldest = oldest.0.clone();
            all.remove(&oldest);
        }
        all.insert(browser.hash(), (now, value));
    }

    /// Takes a sign-in, so that it can't be used again. Returns `None` if it is unknown, was taken or took too long.
    pub(crate) fn take(&self, browser: &Secret, now: Timestamp) -> Option<T> {
        let (begun, value) = lock(&self.0).remove(&browser.hash())?;
        (now.duration_since(begun) < PATIENCE).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn each_is_taken_once_and_in_time() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut secret = || Secret::generate(&mut rng);
        let now = Timestamp::UNIX_EPOCH;
        let pending = Pending::default();
        let (first, second) = (secret(), secret());
        pending.put(&first, 1, now);
        pending.put(&second, 2, now);
        assert_eq!(pending.take(&first, now), Some(1));
        assert_eq!(pending.take(&first, now), None, "once");
        assert_eq!(pending.take(&secret(), now), None);
        assert_eq!(pending.take(&second, now + PATIENCE), None, "too late");
        pending.put(&first, 0, now);
        for _ in 0..MOST {
            pending.put(&secret(), 3, now + SignedDuration::from_secs(1));
        }
        assert_eq!(lock(&pending.0).len(), MOST);
        assert_eq!(pending.take(&first, now), None, "the oldest is forgotten");
    }
}
