//! What tenants are cloned from.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Shape, shape::InvalidShape};

/// A template: an image, the nodes that are frozen together, and how what runs on them is set up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TemplateRef {
    /// The image's name: a recipe.
    pub image: String,
    /// Its nodes and their roles.
    pub shape: Shape,
    /// What runs on them.
    pub profile: Profile,
}

/// What runs on a template's nodes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// No cluster: plain machines.
    #[default]
    Plain,
    /// A cluster in which what runs on timers runs rarely, so that it costs little while it stands idle.
    Tuned,
    /// A cluster as kubeadm makes it.
    Stock,
}

impl TemplateRef {
    /// Plain machines.
    #[must_use]
    pub fn plain(image: impl Into<String>, shape: Shape) -> Self {
        Self {
            image: image.into(),
            shape,
            profile: Profile::Plain,
        }
    }

    /// Whether a cluster runs in it.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        !matches!(self.profile, Profile::Plain)
    }

    /// Whether its cluster is as kubeadm makes it.
    #[must_use]
    pub const fn is_stock(&self) -> bool {
        matches!(self.profile, Profile::Stock)
    }

    /// Its shape and, where that is said, its profile.
    #[must_use]
    pub const fn form(&self) -> Form {
        Form {
            shape: self.shape,
            stock: self.is_stock(),
        }
    }
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with shape {}", self.image, self.form())
    }
}

/// What ends the name of a form whose cluster is stock.
const STOCK: &str = "-stock";

/// The name of a template among those of one image: its shape, such as `1+2`, with `-stock` for a cluster as kubeadm makes
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form {
    /// The nodes.
    pub shape: Shape,
    /// Whether a cluster is as kubeadm makes it.
    pub stock: bool,
}

impl Form {
    /// The template of an image in this form, or why there is none: plain machines are never stock.
    #[must_use]
    pub fn of(self, image: impl Into<String>, is_cluster: bool) -> Option<TemplateRef> {
        let profile = match (is_cluster, self.stock) {
            (true, true) => Profile::Stock,
            (true, false) => Profile::Tuned,
            (false, false) => Profile::Plain,
            (false, true) => return None,
        };
        Some(TemplateRef {
            image: image.into(),
            shape: self.shape,
            profile,
        })
    }

    /// Every form there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Shape::all().flat_map(|shape| [false, true].map(|stock| Self { shape, stock }))
    }
}

impl Default for Form {
    fn default() -> Self {
        Self {
            shape: Shape::SINGLE,
            stock: false,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.shape, if self.stock { STOCK } else { "" })
    }
}

impl FromStr for Form {
    type Err = InvalidShape;
    fn from_str(text: &str) -> Result<Self, InvalidShape> {
        let (shape, stock) = match text.strip_suffix(STOCK) {
            Some(shape) => (shape, true),
            None => (text, false),
        };
        Ok(Self {
            shape: shape.parse()?,
            stock,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_written_and_read_and_makes_a_template() {
        for (text, cluster, profile) in [
            ("1+0", false, Some(Profile::Plain)),
            ("1+2", true, Some(Profile::Tuned)),
            ("3+2-stock", true, Some(Profile::Stock)),
            ("1+0-stock", false, None),
        ] {
            let form: Form = text.parse().unwrap();
            assert_eq!(form.to_string(), text);
            let template = form.of("some", cluster);
            assert_eq!(template.as_ref().map(|t| t.profile), profile, "{text}");
            assert!(template.is_none_or(|t| t.form() == form && t.is_cluster() == cluster));
        }
        for wrong in ["", "1+2-", "1+2-fast", "-stock", "2+0-stock"] {
            assert!(wrong.parse::<Form>().is_err(), "{wrong}");
        }
        assert!(Form::all().any(|f| f.to_string() == "3+1-stock"));
    }
}
