//! Hashes and verifies passwords with Argon2id. Each run takes 19 MiB and some tens of milliseconds. Runs take turns, two
//! at a time, on two threads that nothing else uses, so that the memory of one run is used again by the next.

use std::{sync::OnceLock, time::Duration};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, SemaphorePermit},
};

use crate::problem::Problem;

/// The minimum length of a password, in characters.
pub(crate) const MIN: usize = 10;
/// The maximum length of a password, in bytes.
const MAX: usize = 256;
/// The maximum number of concurrent runs.
const CONCURRENT: usize = 2;

/// The maximum number of requests that wait for their turn.
const MAX_WAITING: usize = 64;

static RUNS: Semaphore = Semaphore::const_new(CONCURRENT);
static QUEUE: Semaphore = Semaphore::const_new(MAX_WAITING);

/// The right to hash or verify passwords now. Whatever limits attempts must be checked while it is held, so that
/// concurrent requests can't all pass the check before the first of them has failed.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] SemaphorePermit<'static>);

impl Turn {
    /// Waits for a turn. Refuses if too many are waiting already.
    pub(crate) async fn wait() -> Result<Self, Problem> {
        let Ok(_place) = QUEUE.try_acquire() else {
            return Err(Problem::too_many(Duration::from_secs(5)));
        };
        RUNS.acquire().await.map(Self).map_err(|_| failed())
    }
}

/// Checks the rules for a new password. `known` are words that it must not equal, such as the login name.
pub(crate) fn check(password: &str, known: &[&str]) -> Result<(), Problem> {
    let refuse = |why: String| Err(Problem::bad_request(why));
    if password.chars().count() < MIN {
        return refuse(format!("Choose a password of at least {MIN} characters."));
    }
    if password.len() > MAX {
        return refuse(format!("Choose a password of at most {MAX} bytes."));
    }
    let first = password.chars().next();
    let is_known = |word: &&&str| password.eq_ignore_ascii_case(word);
    if password.chars().all(|c| Some(c) == first) || known.iter().any(|word| is_known(&word)) {
        return refuse("Choose a password that is harder to guess.".to_owned());
    }
    Ok(())
}

/// Hashes a password with a new salt. Returns a PHC string.
pub(crate) async fn hash(_: &Turn, password: String) -> Result<String, Problem> {
    run(move || hash_now(&password)).await?.ok_or_else(failed)
}

/// Returns true if the password is the one with this hash. Without a hash it takes the same time and returns false, so
/// that nobody learns which login names exist.
pub(crate) async fn verify(
    _: &Turn,
    password: String,
    hash: Option<String>,
) -> Result<bool, Problem> {
    static NOBODY: OnceLock<String> = OnceLock::new();
    run(move || {
        let nobody = || hash_now("nobody has this password").unwrap_or_default();
        let of = hash.as_ref().unwrap_or_else(|| NOBODY.get_or_init(nobody));
        let is_right = password.len() <= MAX
            && PasswordHash::new(of).is_ok_and(|of| {
                Argon2::default()
                    .verify_password(password.as_bytes(), &of)
                    .is_ok()
            });
        is_right && hash.is_some()
    })
    .await
}

fn hash_now(password: &str) -> Option<String> {
    let hash = Argon2::default().hash_password(password.as_bytes()).ok()?;
    Some(hash.to_string())
}

/// Runs `work` on one of the threads for passwords.
async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    static THREADS: OnceLock<Option<Runtime>> = OnceLock::new();
    let threads = THREADS.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(CONCURRENT)
            .thread_name("passwords")
            .build()
            .ok()
    });
    let threads = threads.as_ref().ok_or_else(failed)?;
    threads.spawn_blocking(work).await.map_err(|_| failed())
}

fn failed() -> Problem {
    tracing::error!("a password could not be hashed");
    Problem::internal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_is_verified() {
        let turn = Turn::wait().await.unwrap();
        let hash = async || hash(&turn, "correct horse".to_owned()).await.unwrap();
        let of = hash().await;
        assert!(of.starts_with("$argon2id$"), "{of}");
        assert_ne!(of, hash().await, "the salt");
        let verify = async |text: &str, of: Option<&str>| {
            super::verify(&turn, text.to_owned(), of.map(str::to_owned))
                .await
                .unwrap()
        };
        assert!(verify("correct horse", Some(&of)).await);
        for wrong in ["", "correct horse ", "Correct horse", &"x".repeat(300)] {
            assert!(!verify(wrong, Some(&of)).await, "{wrong}");
        }
        assert!(!verify("nobody has this password", None).await);
        assert!(!verify("x", Some("not a hash")).await);
    }

    #[test]
    fn weak_passwords_are_refused() {
        assert!(check("a long enough one", &["ann"]).is_ok());
        for (weak, known) in [
            ("short", &["ann"][..]),
            ("", &[]),
            ("aaaaaaaaaaaaaaaa", &[]),
            ("Ann-Example", &["ann-example"]),
            (&"ab".repeat(200), &[]),
        ] {
            assert!(check(weak, known).is_err(), "{weak}");
        }
    }
}
