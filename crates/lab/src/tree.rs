//! A YAML tree whose values have positions.

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

/// Any YAML value.
#[derive(Debug)]
pub(crate) enum Node {
    Nothing,
    Truth(bool),
    Whole(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Spanned<Node>>),
    Fields(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Node, E> {
        Ok(Node::Truth(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Whole(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Whole(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Fraction(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Fields(fields))
    }
}

impl Node {
    /// Returns the value at a path of names and indices.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&Self> {
        match (self, path) {
            (_, []) => Some(self),
            (Self::Fields(fields), [name, rest @ ..]) => {
                let (_, value) = fields.iter().find(|(key, _)| key.value == *name)?;
                value.value.get(rest)
            }
            (Self::List(items), [index, rest @ ..]) => {
                items.get(index.parse::<usize>().ok()?)?.value.get(rest)
            }
            _ => None,
        }
    }

    /// Returns the string at a path.
    pub(crate) fn text(&self, path: &[&str]) -> Option<&str> {
        match self.get(path)? {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the items of the list at a path.
    pub(crate) fn items(&self, path: &[&str]) -> &[Spanned<Self>] {
        match self.get(path) {
            Some(Self::List(items)) => items,
            _ => &[],
        }
    }

    /// Returns the position of the field or item at a path. If the path doesn't exist, returns the position of its
    /// nearest existing parent.
    pub(crate) fn place(&self, path: &[&str]) -> Option<Location> {
        let [first, rest @ ..] = path else {
            return None;
        };
        let (at, inner) = match self {
            Self::Fields(fields) => {
                let (key, value) = fields.iter().find(|(key, _)| key.value == *first)?;
                (key.referenced, &value.value)
            }
            Self::List(items) => {
                let item = items.get(first.parse::<usize>().ok()?)?;
                (item.referenced, &item.value)
            }
            _ => return None,
        };
        inner.place(rest).or(Some(at))
    }

    /// Converts the value into JSON without empty fields, which an API server treats as not set.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Truth(truth) => (*truth).into(),
            Self::Whole(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => Value::Null,
            },
            Self::Fraction(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().map(|item| item.value.json()).collect(),
            Self::Fields(fields) => fields
                .iter()
                .filter(|(_, value)| !matches!(value.value, Self::Nothing))
                .map(|(name, value)| (name.value.clone(), value.value.json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}
