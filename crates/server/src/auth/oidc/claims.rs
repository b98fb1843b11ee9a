//! What the claims of an identity provider mean, as the operator has configured it.

use faultline_domain::authz::Role;
use serde_json::{Map, Value};

use crate::config::oidc::Oidc;

/// The verified claims about a person.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Map<String, Value>);

/// The claims that are only valid together.
const EMAIL: [&str; 2] = ["email", "email_verified"];

impl Claims {
    /// Combines the claims of an ID token with those of the userinfo endpoint, which only adds what the token doesn't have.
    pub(crate) fn new(token: Map<String, Value>, userinfo: Map<String, Value>) -> Self {
        let mut all = token;
        let has_email = EMAIL.iter().any(|name| all.contains_key(*name));
        for (name, value) in userinfo {
            if !(has_email && EMAIL.contains(&name.as_str())) {
                all.entry(name).or_insert(value);
            }
        }
        Self(all)
    }

    /// Returns a claim: the one with exactly this name, or one in an object of which the name is a path.
    fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let (first, rest) = name.split_once('.')?;
        let object = self.0.get(first)?;
        rest.split('.')
            .try_fold(object, |value, key| value.get(key))
    }

    fn text(&self, name: &str) -> Option<&str> {
        let text = self.get(name)?.as_str()?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// Returns true if a claim is this text or a list with it.
    fn has(&self, name: &str, wanted: &str) -> bool {
        match self.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(all)) => all.iter().any(|value| value.as_str() == Some(wanted)),
            _ => false,
        }
    }

    /// Returns the e-mail address if the provider has verified it.
    fn verified_email(&self) -> Option<&str> {
        let is_verified = self.get("email_verified") == Some(&Value::Bool(true));
        self.text("email").filter(|_| is_verified)
    }

    /// Returns a name for others to see.
    pub(crate) fn name(&self) -> Option<&str> {
        let all = ["name", "preferred_username", "nickname", "given_name"];
        all.into_iter().find_map(|name| self.text(name))
    }

    /// Returns a name by which the person recognises their account at the provider.
    pub(crate) fn account(&self) -> &str {
        let all = ["email", "preferred_username", "name", "sub"];
        let mut found = all.into_iter().filter_map(|name| self.text(name));
        found.next().unwrap_or_default()
    }

    /// Returns the role that a sign-in sets; none if no roles are configured.
    pub(crate) fn role(&self, settings: &Oidc) -> Option<Role> {
        let claim = settings.roles_claim.as_ref()?;
        let given = |role: &Role| {
            let mut values = settings.roles.iter().filter(|(_, gives)| *gives == role);
            values.any(|(value, _)| self.has(claim, value))
        };
        let highest = Role::ALL.into_iter().rev().find(given);
        Some(highest.unwrap_or(Role::Student))
    }

    /// Returns true if the person may join without an invitation.
    pub(crate) fn may_join(&self, settings: &Oidc) -> bool {
        let join = &settings.join;
        let domain = self
            .verified_email()
            .and_then(|email| email.rsplit_once('@'))
            .map(|(_, domain)| domain);
        let is_of_domain = domain.is_some_and(|domain| {
            let mut all = join.email_domains.iter();
            all.any(|wanted| wanted.trim_start_matches('@').eq_ignore_ascii_case(domain))
        });
        let mut claims = join.claims.iter();
        join.everyone
            || is_of_domain
            || claims.any(|(name, values)| values.iter().any(|value| self.has(name, value)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::oidc::Join;

    fn claims(of: Value) -> Claims {
        Claims::new(of.as_object().unwrap().clone(), Map::new())
    }

    #[test]
    fn the_highest_role_that_matches_is_given_and_otherwise_student() {
        let mut settings = Oidc::example("https://login.example.org");
        let some = claims(json!({ "groups": ["platform"] }));
        assert_eq!(some.role(&settings), None, "not configured");
        settings.roles_claim = Some("groups".to_owned());
        settings.roles = [
            ("platform".to_owned(), Role::Operator),
            ("teachers".to_owned(), Role::Instructor),
        ]
        .into();
        for (of, role) in [
            (
                json!({ "groups": ["teachers", "platform"] }),
                Role::Operator,
            ),
            (json!({ "groups": ["teachers"] }), Role::Instructor),
            (json!({ "groups": "platform" }), Role::Operator),
            (
                json!({ "groups": ["Platform", "platform2", "operator"] }),
                Role::Student,
            ),
            (json!({ "groups": "platform teachers" }), Role::Student),
            (json!({ "groups": { "platform": true } }), Role::Student),
            (json!({ "groups": [["platform"]] }), Role::Student),
            (
                json!({ "role": "operator", "roles": ["platform"] }),
                Role::Student,
            ),
            (json!({}), Role::Student),
        ] {
            assert_eq!(claims(of.clone()).role(&settings), Some(role), "{of}");
        }
        settings.roles_claim = Some("realm_access.roles".to_owned());
        let nested = claims(json!({ "realm_access": { "roles": ["platform"] } }));
        assert_eq!(nested.role(&settings), Some(Role::Operator));
        settings.roles_claim = Some("https://example.org/roles".to_owned());
        let named = claims(json!({ "https://example.org/roles": ["teachers"] }));
        assert_eq!(named.role(&settings), Some(Role::Instructor));
    }

    #[test]
    fn only_verified_addresses_of_exactly_these_domains_join() {
        let mut settings = Oidc::example("https://login.example.org");
        let email = |email: &str, verified: Value| {
            claims(json!({ "email": email, "email_verified": verified }))
        };
        let ann = email("ann@example.org", true.into());
        assert!(!ann.may_join(&settings), "default: only by invitation");
        settings.join.email_domains = vec!["example.org".to_owned()];
        assert!(ann.may_join(&settings));
        assert!(email("Ann@EXAMPLE.org", true.into()).may_join(&settings));
        for (address, verified) in [
            ("ann@example.org", Value::Bool(false)),
            ("ann@example.org", json!("true")),
            ("ann@example.org", Value::Null),
            ("ann@sub.example.org", Value::Bool(true)),
            ("ann@example.org.evil.test", Value::Bool(true)),
            ("ann@example.org@evil.test", Value::Bool(true)),
            ("example.org", Value::Bool(true)),
        ] {
            assert!(!email(address, verified).may_join(&settings), "{address}");
        }
        settings.join = Join {
            claims: [("groups".to_owned(), vec!["students".to_owned()])].into(),
            ..Join::default()
        };
        assert!(!ann.may_join(&settings));
        assert!(claims(json!({ "groups": ["students"] })).may_join(&settings));
        settings.join = Join {
            everyone: true,
            ..Join::default()
        };
        assert!(claims(json!({})).may_join(&settings));
    }

    #[test]
    fn userinfo_only_adds_claims() {
        let of = |value: Value| value.as_object().unwrap().clone();
        let token = of(json!({ "sub": "1", "email": "ann@evil.test", "groups": [] }));
        let userinfo = of(json!({
            "sub": "2", "email": "ann@example.org", "email_verified": true, "groups": ["platform"],
            "name": "Ann",
        }));
        let all = Claims::new(token, userinfo);
        assert_eq!(all.account(), "ann@evil.test");
        assert_eq!(all.verified_email(), None, "verified is another address");
        assert!(!all.has("groups", "platform"));
        assert_eq!(all.name(), Some("Ann"));
    }
}
