//! Prepares requests for connections of the platform's own, which lead to a shared cluster and act as another user by headers.

use http_body::Body;
use hyper::{HeaderMap, Request};

use super::Refusal;

/// The maximum size of a request's body. Objects are kept in the cluster's database, which all of its users share, and
/// controllers make copies of some.
const MAX_BODY: u64 = 128 << 10;

/// Adds the headers that authenticate a request. Does nothing if there are none, because then the connection itself is
/// authenticated as the person, and their cluster decides whom they may impersonate. Otherwise refuses a request that
/// impersonates somebody itself, since nobody but the platform chooses whom its connection acts as, and one that is too
/// large.
pub(super) fn authenticate<B: Body>(
    request: &mut Request<B>,
    own: HeaderMap,
) -> Result<(), Refusal> {
    if own.is_empty() {
        return Ok(());
    }
    let mut names = request.headers().keys();
    if names.any(|name| name.as_str().starts_with("impersonate-")) {
        return Err(Refusal::forbidden(
            "this environment is a namespace of a shared cluster, where nobody can act as somebody else; leave out --as and --as-group",
        ));
    }
    // Without a length, there is no upper bound.
    let size = request.body().size_hint().upper();
    if size.is_none_or(|size| size > MAX_BODY) {
        return Err(Refusal::too_large(format!(
            "requests to this environment can have at most {} KiB; use smaller objects",
            MAX_BODY >> 10
        )));
    }
    request.headers_mut().extend(own);
    Ok(())
}
