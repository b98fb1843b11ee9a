//! Hop-by-hop headers, which concern a single connection and are not forwarded, except for upgrades.

use hyper::{
    HeaderMap, Request, Version, header,
    header::{HeaderName, HeaderValue},
};

const HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Returns the options in the `Connection` headers.
fn connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::CONNECTION).iter();
    all.filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Returns whether a request asks for another protocol on its connection.
pub(crate) fn is_upgrade<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(header::UPGRADE)
        && request.version() == Version::HTTP_11
        && connection(request.headers()).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Removes hop-by-hop headers. With `upgrades`, keeps `Upgrade`, and of `Connection` only that option: others would make a
/// proxy behind this one remove headers, such as those that authenticate.
pub(crate) fn remove(headers: &mut HeaderMap, upgrades: bool) {
    let named: Vec<HeaderName> = connection(headers)
        .filter_map(|option| option.parse().ok())
        .collect();
    for name in named.iter().chain(&HOP) {
        if !(upgrades && *name == header::UPGRADE) {
            headers.remove(name);
        }
    }
    if upgrades {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}
