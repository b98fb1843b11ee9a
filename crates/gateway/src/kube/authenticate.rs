//! Authenticates requests on connections of the platform's own, which act as another user by headers.

use hyper::HeaderMap;

use super::Refusal;

/// Adds the headers that authenticate a request. Does nothing if there are none, because then the connection itself is
/// authenticated as the person, and their cluster decides whom they may impersonate. Otherwise refuses a request that impersonates
/// somebody itself: nobody but the platform chooses whom its connection acts as.
pub(super) fn authenticate(request: &mut HeaderMap, own: HeaderMap) -> Result<(), Refusal> {
    if own.is_empty() {
        return Ok(());
    }
    if request
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
    {
        return Err(Refusal::forbidden(
            "this environment is a namespace of a shared cluster, where nobody can act as somebody else; leave out --as and --as-group",
        ));
    }
    request.extend(own);
    Ok(())
}
