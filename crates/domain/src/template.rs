//! The templates that tenants are cloned from.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Shape, shape::InvalidShape};

/// A reference to a template: an image, the nodes that are frozen together, and what runs on them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TemplateRef {
    /// The image: the name of a recipe.
    pub image: String,
    /// The nodes and their roles.
    pub shape: Shape,
    /// What runs on the nodes.
    pub profile: Profile,
}

/// What runs on a template's nodes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Plain machines, without a cluster.
    #[default]
    Plain,
    /// A cluster whose periodic work runs less often, so that it uses little CPU while idle.
    Tuned,
    /// A cluster with kubeadm's default settings.
    Stock,
}

impl TemplateRef {
    /// Returns a template of plain machines.
    #[must_use]
    pub fn plain(image: impl Into<String>, shape: Shape) -> Self {
        Self {
            image: image.into(),
            shape,
            profile: Profile::Plain,
        }
    }

    /// Returns true if it runs a cluster.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        !matches!(self.profile, Profile::Plain)
    }

    /// Returns true if it runs a cluster with kubeadm's default settings.
    #[must_use]
    pub const fn is_stock(&self) -> bool {
        matches!(self.profile, Profile::Stock)
    }

    /// Returns the name of the template within its image.
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

/// The suffix of a form whose cluster has kubeadm's default settings.
const STOCK: &str = "-stock";

/// The name of a template within its image: the shape, such as `1+2`, with the suffix `-stock` for a cluster with
/// kubeadm's default settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form {
    /// The nodes.
    pub shape: Shape,
    /// True for a cluster with kubeadm's default settings.
    pub stock: bool,
}

impl Form {
    /// Returns the template of an image in this form. Returns `None` for stock plain machines, which don't exist.
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

    /// Returns all forms.
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
