//! What the gateway reads from headers, and what it removes from and adds to them.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, Request, Uri, header,
    header::{HeaderName, HeaderValue},
};

/// The prefix of the names of the platform's cookies, and of the gateway's. No tenant receives or sets them.
const OURS: &str = "faultline_";
/// The prefixes of names by which browsers accept only secure cookies.
const PREFIXES: [&str; 2] = ["__host-", "__secure-"];

/// Headers of requests that only proxies set.
const FORWARDED: [HeaderName; 6] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Headers of responses whose effect goes beyond the exposure's origin: one clears cookies of the whole site, the other
/// names another port of the host.
const BEYOND: [HeaderName; 2] = [
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("alt-svc"),
];

/// Returns the name of the visitor's cookie. With HTTPS, its prefix makes browsers refuse it from any other host.
pub(super) const fn visit_cookie(https: bool) -> &'static str {
    if https {
        "__Host-faultline_visit"
    } else {
        "faultline_visit"
    }
}

/// Returns the value of a cookie.
#[must_use]
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value)
}

/// Returns the host, with the port, that a request is for.
pub(super) fn host<B>(request: &Request<B>) -> Option<String> {
    let header = || request.headers().get(header::HOST)?.to_str().ok();
    let authority = request.uri().authority().map(|a| a.as_str());
    authority.or_else(header).map(str::to_ascii_lowercase)
}

/// Returns whether a browser sends a request on behalf of a page of another origin. Such a page may only lead the visitor
/// to the exposure.
pub(super) fn is_foreign(method: &Method, headers: &HeaderMap, host: &str, upgrades: bool) -> bool {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let safe = matches!(*method, Method::GET | Method::HEAD) && !upgrades;
    if let Some(site) = text("sec-fetch-site")
        && !matches!(site, "same-origin" | "none")
    {
        let leads = text("sec-fetch-mode") == Some("navigate")
            && text("sec-fetch-dest") == Some("document");
        return !(safe && leads);
    }
    // Browsers send no `Sec-Fetch-Site` over plain HTTP, except to loopback.
    let own = |origin: &str| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    !safe && text(header::ORIGIN.as_str()).is_some_and(|origin| !own(origin))
}

/// Returns whether a request shows that somebody uses the page: they open it or change something. What a page requests by
/// itself, again and again, doesn't.
pub(super) fn is_use(method: &Method, headers: &HeaderMap) -> bool {
    let dest = headers.get("sec-fetch-dest");
    !matches!(*method, Method::GET | Method::HEAD) || dest.is_none_or(|dest| dest == "document")
}

/// Returns whether a name is that of a cookie of the platform or the gateway.
fn is_ours(name: &[u8]) -> bool {
    let name = name.trim_ascii().to_ascii_lowercase();
    let mut name = name.as_slice();
    for prefix in PREFIXES {
        name = name.strip_prefix(prefix.as_bytes()).unwrap_or(name);
    }
    name.starts_with(OURS.as_bytes())
}

fn name(pair: &[u8]) -> &[u8] {
    pair.split(|b| *b == b'=').next().unwrap_or(pair)
}

fn joined<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let parts: Vec<&[u8]> = parts.map(<[u8]>::trim_ascii).collect();
    HeaderValue::from_bytes(&parts.join(&b"; "[..])).ok()
}

/// Prepares the headers of a request for the tenant: without our cookies, and with `Host` and the headers of a proxy.
pub(super) fn to_tenant(
    headers: &mut HeaderMap,
    host: &str,
    wanted: Option<&str>,
    https: bool,
    from: IpAddr,
) {
    let cookies: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for cookie in cookies {
        let pairs = cookie.as_bytes().split(|b| *b == b';');
        let theirs = pairs.filter(|pair| !pair.trim_ascii().is_empty() && !is_ours(name(pair)));
        if let Some(value) = joined(theirs).filter(|value| !value.is_empty()) {
            headers.append(header::COOKIE, value);
        }
    }
    for name in FORWARDED {
        headers.remove(name);
    }
    let proto = if https { "https" } else { "http" };
    let from = from.to_string();
    for (name, value) in [
        (header::HOST, wanted.unwrap_or(host)),
        (HeaderName::from_static("x-forwarded-host"), host),
        (HeaderName::from_static("x-forwarded-proto"), proto),
        (HeaderName::from_static("x-forwarded-for"), &from),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

/// Prepares the headers of a response for the browser: cookies are for this host only, and none of them is ours. A redirect
/// to the host name that the tenant expects leads to the exposure.
pub(super) fn from_tenant(headers: &mut HeaderMap, host: &str, wanted: Option<&str>, https: bool) {
    for name in BEYOND {
        headers.remove(name);
    }
    let cookies: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for cookie in cookies {
        let bytes = cookie.as_bytes();
        if is_ours(name(bytes)) {
            continue;
        }
        let mut first = true;
        let parts = bytes.split(|b| *b == b';').filter(|part| {
            let is_first = std::mem::take(&mut first);
            is_first || !name(part).trim_ascii().eq_ignore_ascii_case(b"domain")
        });
        if let Some(value) = joined(parts) {
            headers.append(header::SET_COOKIE, value);
        }
    }
    if let Some(wanted) = wanted
        && let Some(location) = headers.get(header::LOCATION)
        && let Some(own) = own_location(location, host, wanted, https)
    {
        headers.insert(header::LOCATION, own);
    }
}

/// Returns a location at the exposure if it is at the host name that the tenant expects.
fn own_location(
    location: &HeaderValue,
    host: &str,
    wanted: &str,
    https: bool,
) -> Option<HeaderValue> {
    let uri: Uri = location.to_str().ok()?.parse().ok()?;
    if !uri.host()?.eq_ignore_ascii_case(wanted) {
        return None;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let proto = if https { "https" } else { "http" };
    HeaderValue::from_str(&format!("{proto}://{host}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_static(name);
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn values(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
        let all = headers.get_all(name).iter();
        all.map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn tenants_get_neither_our_cookies_nor_forged_proxy_headers() {
        let mut sent = headers(&[
            (
                "cookie",
                "a=1; faultline_session=flt_x;b=2 ; FAULTLINE_visit=flt_y",
            ),
            (
                "cookie",
                "__Host-faultline_session=flt_z; __Secure-Faultline_x=1",
            ),
            ("cookie", "  ;; c"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "gopher"),
            ("forwarded", "for=10.0.0.3"),
            ("x-real-ip", "10.0.0.4"),
            ("host", "web-abc.localhost:7890"),
        ]);
        let from = IpAddr::from([192, 0, 2, 7]);
        to_tenant(&mut sent, "web-abc.localhost:7890", None, true, from);
        assert_eq!(values(&sent, header::COOKIE), ["a=1; b=2", "c"]);
        assert_eq!(sent["host"], "web-abc.localhost:7890");
        assert_eq!(sent["x-forwarded-host"], "web-abc.localhost:7890");
        let proxies = HeaderName::from_static("x-forwarded-for");
        assert_eq!(values(&sent, proxies), ["192.0.2.7"]);
        assert_eq!(sent["x-forwarded-proto"], "https");
        assert!(!sent.contains_key("forwarded") && !sent.contains_key("x-real-ip"));
        to_tenant(
            &mut sent,
            "web-abc.localhost",
            Some("shop.test"),
            false,
            from,
        );
        assert_eq!(sent["host"], "shop.test");
    }

    #[test]
    fn tenants_set_cookies_only_for_their_own_host() {
        let mut set = headers(&[
            ("set-cookie", "a=1; Path=/; Domain=localhost; HttpOnly"),
            ("set-cookie", "b=2; domain = .example.org ;Secure"),
            ("set-cookie", "faultline_session=flt_x; Path=/"),
            ("set-cookie", " __Host-Faultline_visit=flt_x"),
            ("set-cookie", "domain=3"),
            ("clear-site-data", "\"cookies\""),
            ("alt-svc", "h3=\":443\""),
            ("location", "http://shop.test:80/basket?x=1"),
        ]);
        from_tenant(&mut set, "web-abc.localhost:7890", Some("shop.test"), false);
        let cookies = values(&set, header::SET_COOKIE);
        assert_eq!(
            cookies,
            ["a=1; Path=/; HttpOnly", "b=2; Secure", "domain=3"]
        );
        assert_eq!(set["location"], "http://web-abc.localhost:7890/basket?x=1");
        assert!(!set.contains_key("clear-site-data") && !set.contains_key("alt-svc"));
        for elsewhere in ["/x", "http://other.test/", "//[", ""] {
            let mut set = headers(&[("location", elsewhere)]);
            from_tenant(&mut set, "web-abc.localhost", Some("shop.test"), false);
            assert_eq!(set["location"], elsewhere);
        }
    }

    #[test]
    fn pages_of_other_origins_can_only_lead_the_visitor_here() {
        let host = "web-abc.localhost:7890";
        let own = "http://web-abc.localhost:7890";
        let (get, post) = (Method::GET, Method::POST);
        let navigate = ("sec-fetch-mode", "navigate");
        let document = ("sec-fetch-dest", "document");
        let site = |site| ("sec-fetch-site", site);
        for (method, pairs, upgrades, foreign) in [
            (&get, vec![], false, false),
            (&post, vec![], false, false),
            (&get, vec![site("none"), navigate], false, false),
            (&get, vec![site("same-origin")], false, false),
            (
                &get,
                vec![site("cross-site"), navigate, document],
                false,
                false,
            ),
            (
                &get,
                vec![site("same-site"), navigate, document],
                false,
                false,
            ),
            (
                &get,
                vec![site("same-site"), navigate, ("sec-fetch-dest", "iframe")],
                false,
                true,
            ),
            (
                &get,
                vec![site("same-site"), ("sec-fetch-mode", "cors")],
                false,
                true,
            ),
            (
                &get,
                vec![site("cross-site"), ("sec-fetch-mode", "no-cors")],
                false,
                true,
            ),
            (
                &post,
                vec![site("same-site"), navigate, document],
                false,
                true,
            ),
            (
                &get,
                vec![site("same-site"), navigate, document],
                true,
                true,
            ),
            (&post, vec![("origin", own)], false, false),
            (
                &post,
                vec![("origin", "http://other-abc.localhost:7890")],
                false,
                true,
            ),
            (&post, vec![("origin", "null")], false, true),
            (&get, vec![("origin", own)], true, false),
            (&get, vec![("origin", "http://127.0.0.1:7890")], true, true),
        ] {
            let is = is_foreign(method, &headers(&pairs), host, upgrades);
            assert_eq!(is, foreign, "{method} {pairs:?} {upgrades}");
        }
    }

    #[test]
    fn what_a_page_requests_by_itself_is_no_use() {
        let dest = |dest| headers(&[("sec-fetch-dest", dest)]);
        assert!(is_use(&Method::GET, &dest("document")));
        assert!(is_use(&Method::GET, &headers(&[])));
        assert!(is_use(&Method::POST, &dest("empty")));
        assert!(!is_use(&Method::GET, &dest("empty")));
        assert!(!is_use(&Method::GET, &dest("image")));
    }
}
