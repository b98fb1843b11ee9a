//! The settings of what environments expose.

use faultline_domain::exposure::{ExposureDomain, Place};
use serde::{Deserialize, Serialize};

use super::Config;

/// How what environments expose is reached, and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExposureSettings {
    /// The domain below which exposures have their host names, `<name>-<environment>.<domain>`. Default: `localhost` if the
    /// public URL's host is a loopback address; otherwise none, and nothing is exposed. It must be another site than the
    /// public URL.
    pub domain: Option<ExposureDomain>,
    /// The maximum number of open requests to an environment's exposures, including WebSockets. Default: 64.
    pub max_requests: usize,
    /// The maximum average rate of requests to an environment's exposures, per second. Default: 50.
    pub requests_per_second: u32,
    /// The maximum number of MiB that an environment's exposures transfer within an hour. Default: 2048.
    pub mib_per_hour: u64,
}

impl Default for ExposureSettings {
    fn default() -> Self {
        Self {
            domain: None,
            max_requests: 64,
            requests_per_second: 50,
            mib_per_hour: 2048,
        }
    }
}

/// An error in the settings of what environments expose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExposureError {
    /// Browsers would treat pages of students and of the platform as one site.
    #[error(
        "{domain} belongs to the same site as the public URL, {site}. Use a domain that is registered for this alone, \
         so that pages of students can't set cookies for this server"
    )]
    SameSite {
        /// The domain.
        domain: String,
        /// The site of both.
        site: String,
    },
}

/// Returns the site of a host: the registrable domain, or the host itself if it is an address or has none.
fn site(host: &str) -> &str {
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let domain = psl::domain_str(host).filter(|_| !is_address);
    domain.unwrap_or(host)
}

impl Config {
    /// Returns the domain below which exposures have their host names; none if nothing is exposed.
    #[must_use]
    pub fn exposure_domain(&self) -> Option<ExposureDomain> {
        let default = || self.is_loopback().then(ExposureDomain::localhost);
        self.exposure.domain.clone().or_else(default)
    }

    /// Returns the URL of an exposure; none if nothing is exposed. It has the scheme and the port of the public URL.
    #[must_use]
    pub fn exposure_url(&self, place: &Place) -> Option<String> {
        let host = self.exposure_domain()?.host(place);
        let scheme = if self.is_https() { "https" } else { "http" };
        let port = self.port().map_or_else(String::new, |p| format!(":{p}"));
        Some(format!("{scheme}://{host}{port}"))
    }

    /// Returns the public URL's port, if it names one.
    fn port(&self) -> Option<u16> {
        let (_, rest) = self.public_url.split_once("://")?;
        let authority = rest.split('/').next()?;
        let (_, port) = authority.rsplit_once(':')?;
        port.parse().ok()
    }

    /// Checks that pages of students and of the platform are different sites.
    pub(crate) fn check_exposure(&self) -> Result<(), ExposureError> {
        let Some(domain) = self.exposure_domain() else {
            return Ok(());
        };
        let exposed = format!("name-environment.{}", domain.as_str());
        let own = site(self.host());
        if own == site(&exposed) {
            return Err(ExposureError::SameSite {
                domain: domain.as_str().to_owned(),
                site: own.to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, domain: Option<&str>) -> Config {
        Config {
            public_url: url.to_owned(),
            exposure: ExposureSettings {
                domain: domain.map(|domain| domain.parse().unwrap()),
                ..ExposureSettings::default()
            },
            ..Config::default()
        }
    }

    #[test]
    fn exposures_have_the_scheme_and_port_of_the_public_url() {
        let place = Place {
            environment: "abcdefghjk".parse().unwrap(),
            name: "web".parse().unwrap(),
        };
        for (url, domain, expected) in [
            (
                "http://127.0.0.1:7890",
                None,
                Some("http://web-abcdefghjk.localhost:7890"),
            ),
            (
                "http://[::1]:80/",
                None,
                Some("http://web-abcdefghjk.localhost:80"),
            ),
            (
                "http://[::1]",
                None,
                Some("http://web-abcdefghjk.localhost"),
            ),
            ("https://labs.example.org", None, None),
            (
                "https://labs.example.org",
                Some("apps.example.net"),
                Some("https://web-abcdefghjk.apps.example.net"),
            ),
        ] {
            let found = config(url, domain).exposure_url(&place);
            assert_eq!(found.as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn students_pages_are_another_site_than_the_platform() {
        for (url, domain, fits) in [
            ("http://127.0.0.1:7890", None, true),
            ("http://localhost:7890", None, true),
            ("http://192.0.2.7", Some("apps.example.net"), true),
            ("https://labs.example.org", Some("apps.example.net"), true),
            ("https://labs.example.org", Some("example.net"), true),
            ("https://labs.example.org", Some("apps.example.org"), false),
            ("https://labs.example.org", Some("labs.example.org"), false),
            (
                "https://labs.example.org",
                Some("a.labs.example.org"),
                false,
            ),
            ("https://example.org", Some("apps.example.org"), false),
            ("https://a.example.co.uk", Some("b.example.co.uk"), false),
            ("https://one.co.uk", Some("two.co.uk"), true),
            ("https://one.github.io", Some("two.github.io"), true),
        ] {
            let checked = config(url, domain).check_exposure();
            assert_eq!(checked.is_ok(), fits, "{url} {domain:?}");
        }
    }
}
