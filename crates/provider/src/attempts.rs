//! Attempts of which one has to succeed, such as connections to the nodes of a tenant.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};

/// Returns the first success. The attempts are begun one after another: the next one when one has failed, or when none has
/// ended for this long. Those that were begun go on in parallel. If all fail, returns the last error; `None` if there are no
/// attempts.
pub async fn first<T, E>(
    attempts: Vec<impl Future<Output = Result<T, E>>>,
    delay: Duration,
) -> Result<T, Option<E>> {
    let mut attempts = attempts.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut last = None;
    loop {
        under_way.extend(attempts.next());
        let more = attempts.len() > 0;
        tokio::select! {
            ended = under_way.next() => match ended {
                Some(Ok(done)) => return Ok(done),
                Some(Err(e)) => last = Some(e),
                None => return Err(last),
            },
            () = tokio::time::sleep(delay), if more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::future::{BoxFuture, FutureExt};

    use super::*;

    /// Longer than any test.
    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(20);

    type Attempt = BoxFuture<'static, Result<u8, &'static str>>;

    fn all<const N: usize>(attempts: [Attempt; N]) -> Vec<Attempt> {
        Vec::from(attempts)
    }

    #[tokio::test]
    async fn the_next_attempt_begins_after_a_failure_or_a_delay() {
        assert_eq!(first(all([]), NEVER).await, Err(None));
        let failing = all([ready(Err("a")).boxed(), ready(Err("b")).boxed()]);
        assert_eq!(first(failing, NEVER).await, Err(Some("b")));
        let second = all([ready(Err("a")).boxed(), ready(Ok(2)).boxed()]);
        assert_eq!(first(second, NEVER).await, Ok(2));
        let third = all([pending().boxed(), pending().boxed(), ready(Ok(3)).boxed()]);
        let began = std::time::Instant::now();
        assert_eq!(first(third, SOON).await, Ok(3));
        assert!(began.elapsed() >= 2 * SOON);
        // One that was begun goes on after the next one has failed.
        let slow = async {
            tokio::time::sleep(3 * SOON).await;
            Ok(1)
        };
        let slow = all([slow.boxed(), ready(Err("b")).boxed()]);
        assert_eq!(first(slow, SOON).await, Ok(1));
    }
}
