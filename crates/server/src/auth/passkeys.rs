//! Passkeys: what they need, and the ceremonies of WebAuthn that have begun.
//!
//! Browsers bind a passkey to a domain and offer it only over an encrypted connection, or on `localhost`. With another public
//! URL, such as one with an IP address, there are no passkeys.

use faultline_domain::PersonId;
use sha2::{Digest, Sha256};
use webauthn_rs::prelude::{
    DiscoverableAuthentication, PasskeyRegistration, Url, Uuid, Webauthn, WebauthnBuilder,
};

use super::pending::Pending;

/// What is needed to register passkeys and to sign in with them.
#[derive(Debug)]
pub(crate) struct Passkeys {
    pub webauthn: Webauthn,
    /// The registrations that have begun, with the person who registers.
    pub registrations: Pending<(PersonId, PasskeyRegistration)>,
    /// The sign-ins that have begun.
    pub sign_ins: Pending<DiscoverableAuthentication>,
}

impl Passkeys {
    /// Returns `None` if browsers offer no passkeys at this URL.
    pub(crate) fn at(public_url: &str) -> Option<Self> {
        let url = Url::parse(public_url).ok()?;
        let domain = url.domain()?;
        if url.scheme() != "https" && domain != "localhost" {
            return None;
        }
        let webauthn = WebauthnBuilder::new(domain, &url).ok()?;
        Some(Self {
            webauthn: webauthn.rp_name("Faultline").build().ok()?,
            registrations: Pending::default(),
            sign_ins: Pending::default(),
        })
    }
}

/// Returns the ID by which authenticators know a person. It reveals nothing about the person.
pub(crate) fn handle(person: &PersonId) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"passkey\0");
    hash.update(person.as_str());
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passkeys_need_a_domain_and_encryption() {
        for (url, has) in [
            ("https://labs.example.org", true),
            ("https://labs.example.org:8443/", true),
            ("http://localhost:7890", true),
            ("http://labs.example.org", false),
            ("http://127.0.0.1:7890", false),
            ("https://192.0.2.1", false),
            ("", false),
        ] {
            assert_eq!(Passkeys::at(url).is_some(), has, "{url}");
        }
    }

    #[test]
    fn each_person_has_another_handle() {
        let of = |id: &str| handle(&id.parse().unwrap());
        assert_eq!(of("ann"), of("ann"));
        assert_ne!(of("ann"), of("ben"));
    }
}
