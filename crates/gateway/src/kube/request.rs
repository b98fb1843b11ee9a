//! Derives what a request to an API server changes from its method and path.

use hyper::Method;
use percent_encoding::percent_decode_str;

/// A requested change, as recorded in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The Kubernetes verb (`create`, `update`, `patch`, `delete`), or the subresource that is opened (`exec`,
    /// `attach`, `portforward`, `proxy`).
    pub verb: &'static str,
    /// The resource, such as `pods shop/web`, `deployments.apps/scale shop/web` or `nodes node1`.
    pub resource: String,
}

/// Subresources that open a connection into a pod, service or node, with any method.
const OPENED: [&str; 4] = ["exec", "attach", "portforward", "proxy"];
/// Resources that clients create to query something, which changes nothing.
const QUERIES: [&str; 5] = [
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
    "selfsubjectreviews",
    "subjectaccessreviews",
    "localsubjectaccessreviews",
];

/// Splits a path into the environment and the path on its API server.
#[must_use]
pub fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/environments/")?;
    match rest.find('/') {
        Some(end) => rest.split_at_checked(end),
        None => Some((rest, "/")),
    }
}

/// Returns whether a path is for API discovery rather than a resource: `/api`, `/apis/apps/v1`, `/version`.
#[must_use]
pub fn is_discovery(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    !matches!(parts.as_slice(), ["api", _, _, ..] | ["apis", _, _, _, ..])
}

/// Returns what a request changes. `None` if it only reads.
#[must_use]
pub fn change(method: &Method, path: &str) -> Option<Change> {
    // The API server decodes it as well.
    let path = percent_decode_str(path).decode_utf8_lossy();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        // Paths outside the API groups, such as /version, are read-only.
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (kind, name, below) = match rest {
        [kind] => (*kind, None, None),
        [kind, name] => (*kind, Some(*name), None),
        [kind, name, below, ..] => (*kind, Some(*name), Some(*below)),
        [] => return None,
    };
    let opened = below.and_then(|below| OPENED.into_iter().find(|opened| *opened == below));
    let verb = match (opened, method) {
        (Some(opened), _) => opened,
        (None, &Method::POST) if !QUERIES.contains(&kind) => "create",
        (None, &Method::PUT) => "update",
        (None, &Method::PATCH) => "patch",
        (None, &Method::DELETE) => "delete",
        _ => return None,
    };
    let mut resource = kind.to_owned();
    if !group.is_empty() {
        resource = format!("{resource}.{group}");
    }
    if let Some(below) = below.filter(|_| opened.is_none()) {
        resource = format!("{resource}/{below}");
    }
    let place = match (namespace, name) {
        (Some(namespace), Some(name)) => format!(" {namespace}/{name}"),
        (Some(namespace), None) => format!(" {namespace}/"),
        (None, Some(name)) => format!(" {name}"),
        (None, None) => String::new(),
    };
    // The client controls this text, and operators read it, so its length is limited.
    let resource = (resource + &place).chars().take(300).collect();
    Some(Change { verb, resource })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(method: Method, path: &str) -> String {
        change(&method, path).map_or_else(String::new, |c| format!("{} {}", c.verb, c.resource))
    }

    #[test]
    fn an_environment_is_split_off() {
        assert_eq!(split("/environments/abc/api/v1"), Some(("abc", "/api/v1")));
        assert_eq!(split("/environments/abc"), Some(("abc", "/")));
        assert_eq!(split("/environments/abc/"), Some(("abc", "/")));
        assert_eq!(split("/api/v1"), None);
        assert_eq!(split("/"), None);
    }

    #[test]
    fn changes_are_described_with_their_resource() {
        let post = || Method::POST;
        for (method, path, wanted) in [
            (post(), "/api/v1/namespaces/shop/pods", "create pods shop/"),
            (post(), "/api/v1/namespaces", "create namespaces"),
            (
                post(),
                "/%61pi/v1/name%73paces/shop/pod%73",
                "create pods shop/",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/shop/pods/web/%65xec",
                "exec pods shop/web",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/shop",
                "delete namespaces shop",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/shop/deployments/web/scale",
                "patch deployments.apps/scale shop/web",
            ),
            (Method::PUT, "/api/v1/nodes/node1", "update nodes node1"),
            (
                Method::GET,
                "/api/v1/namespaces/shop/pods/web/exec",
                "exec pods shop/web",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/shop/services/http:web:80/proxy/a/b",
                "proxy services shop/http:web:80",
            ),
        ] {
            assert_eq!(described(method, path), wanted);
        }
    }

    #[test]
    fn paths_without_a_resource_are_discovery() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps/v1",
            "/version",
            "/openapi/v3",
        ] {
            assert!(is_discovery(path), "{path}");
        }
        for path in ["/api/v1/pods", "/apis/apps/v1/deployments"] {
            assert!(!is_discovery(path), "{path}");
        }
    }

    #[test]
    fn reading_changes_nothing() {
        for path in [
            "/api/v1/namespaces/shop/pods",
            "/api/v1/namespaces/shop/pods/web/log",
            "/version",
            "/apis",
            "/openapi/v3/apis/apps/v1",
        ] {
            assert_eq!(described(Method::GET, path), "");
        }
        let asked = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert_eq!(described(Method::POST, asked), "");
    }
}
