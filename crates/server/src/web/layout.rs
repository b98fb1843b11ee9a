//! The layout that all pages share.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use faultline_domain::authz::Role;

use crate::{
    app::{App, Shared},
    assets,
    auth::{Caller, cookie, device::Device},
    problem::Problem,
};

/// Dark, light, or the system's preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Theme {
    #[default]
    System,
    Dark,
    Light,
}

impl Theme {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match cookie(headers, "theme") {
            Some("dark") => Self::Dark,
            Some("light") => Self::Light,
            _ => Self::System,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Dark => "dark",
            Self::Light => "light",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub title: String,
    pub path: String,
    pub theme: Theme,
    pub csrf: String,
    pub signed_in: bool,
    pub operator: bool,
    /// True for authors and operators.
    pub author: bool,
    /// True for instructors and operators.
    pub instructor: bool,
    /// What everybody must know of the maintenance that is in effect; empty if there is none.
    pub banner: String,
}

/// Returns the text of the banner.
pub(crate) fn banner(app: &App) -> String {
    let maintenance = app.maintenance();
    maintenance.map_or_else(String::new, |m| m.announcement(app.suspends(), app.now()))
}

impl Layout {
    pub(crate) fn signed_out(title: &str, theme: Theme, banner: String) -> Self {
        Self {
            title: title.to_owned(),
            path: String::new(),
            theme,
            csrf: String::new(),
            signed_in: false,
            operator: false,
            author: false,
            instructor: false,
            banner,
        }
    }

    pub(crate) fn signed_in(
        title: &str,
        path: &str,
        theme: Theme,
        csrf: &str,
        role: Role,
        banner: String,
    ) -> Self {
        Self {
            title: title.to_owned(),
            path: path.to_owned(),
            theme,
            csrf: csrf.to_owned(),
            signed_in: true,
            operator: role == Role::Operator,
            author: matches!(role, Role::Author | Role::Operator),
            instructor: matches!(role, Role::Instructor | Role::Operator),
            banner,
        }
    }

    /// Returns the link to an asset, given its plain name.
    pub(crate) fn asset(&self, name: &str) -> &'static str {
        assets::link(name)
    }

    /// Returns true if a link of the navigation leads to this page.
    pub(crate) fn at(&self, path: &str) -> bool {
        self.path == path
    }
}

/// Extractor: what a handler needs from the request to build the layout.
#[derive(Debug)]
pub(crate) struct Frame {
    path: String,
    theme: Theme,
    banner: String,
    /// The browser and its system.
    pub device: Device,
    /// True if a script requests only a part of the page.
    pub partial: bool,
}

impl FromRequestParts<Shared> for Frame {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        Ok(Self {
            path: parts.uri.path().to_owned(),
            theme: Theme::of(&parts.headers),
            banner: banner(app),
            device: Device::of(&parts.headers),
            partial: parts.headers.contains_key("hx-request"),
        })
    }
}

impl Frame {
    pub(crate) fn layout(&self, title: &str, caller: &Caller) -> Layout {
        Layout::signed_in(
            title,
            &self.path,
            self.theme,
            &caller.csrf,
            caller.signed_in.role(),
            self.banner.clone(),
        )
    }

    pub(crate) fn outside(&self, title: &str) -> Layout {
        Layout::signed_out(title, self.theme, self.banner.clone())
    }
}

/// Returns the path that a form redirects back to; never a different host.
pub(crate) fn back(headers: &HeaderMap, otherwise: &str) -> String {
    let referrer = headers.get(header::REFERER).and_then(|v| v.to_str().ok());
    referrer
        .and_then(|r| r.split_once("://"))
        .and_then(|(_, rest)| rest.find('/').and_then(|at| rest.get(at..)))
        .filter(|path| path.starts_with('/') && !path.starts_with("//") && !path.contains('\\'))
        .unwrap_or(otherwise)
        .to_owned()
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        crate::auth::Signed::from_request_parts(parts, app)
            .await
            .map(|s| s.0)
    }
}
