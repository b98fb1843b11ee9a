//! What a request to an API server is about, read from its method and path.

use hyper::Method;

/// A change that somebody asks for, in the words of the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Kubernetes' verb: `create`, `update`, `patch`, `delete`; or what is opened in a pod: `exec`, `attach`,
    /// `portforward`, `proxy`.
    pub verb: &'static str,
    /// What is changed: `pods shop/web`, `deployments.apps/scale shop/web`, `nodes node1`.
    pub resource: String,
}

/// Subresources that lead into a pod, a service or a node, whatever the method.
const OPENED: [&str; 4] = ["exec", "attach", "portforward", "proxy"];
/// Created to ask a question, not to change anything.
const QUESTIONS: [&str; 5] = [
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
    "selfsubjectreviews",
    "subjectaccessreviews",
    "localsubjectaccessreviews",
];

/// The environment that a path names, and the path at its API server.
#[must_use]
pub fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/environments/")?;
    match rest.find('/') {
        Some(end) => rest.split_at_checked(end),
        None => Some((rest, "/")),
    }
}

/// Whether a path is asked to discover the API, and is no resource: `/api`, `/apis/apps/v1`, `/version`.
#[must_use]
pub fn is_discovery(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    !matches!(parts.as_slice(), ["api", _, _, ..] | ["apis", _, _, _, ..])
}

/// What a request changes; nothing when it only looks.
#[must_use]
pub fn change(method: &Method, path: &str) -> Option<Change> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        // Outside the API's groups there are only questions, such as /version.
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
        (None, &Method::POST) if !QUESTIONS.contains(&kind) => "create",
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
    // A client says what it likes, and an operator reads it.
    let resource = (resource + &place).chars().take(300).collect();
    Some(Change { verb, resource })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(method: Method, path: &str) -> String {
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
    fn changes_are_told_with_their_resource() {
        let post = || Method::POST;
        for (method, path, wanted) in [
            (post(), "/api/v1/namespaces/shop/pods", "create pods shop/"),
            (post(), "/api/v1/namespaces", "create namespaces"),
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
            assert_eq!(told(method, path), wanted);
        }
    }

    #[test]
    fn what_leads_to_no_resource_is_discovery() {
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
    fn who_only_looks_changes_nothing() {
        for path in [
            "/api/v1/namespaces/shop/pods",
            "/api/v1/namespaces/shop/pods/web/log",
            "/version",
            "/apis",
            "/openapi/v3/apis/apps/v1",
        ] {
            assert_eq!(told(Method::GET, path), "");
        }
        let asked = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert_eq!(told(Method::POST, asked), "");
    }
}
