//! Finds every violation of the schema in a `lab.yaml`, where deserialization would report only the first.
//!
//! Deserialization decides whether a lab is valid. Only if it fails is the text compared with the schema; scalars are
//! then accepted as leniently as by deserialization: a number where a string belongs is a string.

use regex::Regex;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::{
    Diagnostic, schema,
    tree::Node,
    yaml::{FILE, SEE, point, spoken},
};

/// Finds all violations. Returns none if the text is not YAML, or if the schema has no objection to it.
pub(crate) fn all(text: &str) -> Vec<Diagnostic> {
    let Ok(root) = serde_saphyr::from_str::<Spanned<Node>>(text) else {
        return Vec::new();
    };
    let schema = schema::value();
    let mut walk = Walk {
        text,
        schema: &schema,
        path: Vec::new(),
        found: Vec::new(),
    };
    walk.node(&root, &schema);
    walk.found
}

struct Walk<'a> {
    text: &'a str,
    schema: &'a Value,
    /// Names and indices, from the root.
    path: Vec<String>,
    found: Vec<Diagnostic>,
}

impl Walk<'_> {
    fn wrong<T>(&mut self, at: &Spanned<T>, what: impl Into<String>) {
        let found = Diagnostic::error(FILE, what).help(SEE);
        self.found.push(point(found, self.text, Some(at)));
    }

    /// Reports a value of the right type that is out of bounds, with the message of the type's own validation.
    fn bounds(&mut self, at: &Spanned<Node>, what: &str) {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let meaning = schema::meaning(&path).unwrap_or_else(|| SEE.to_owned());
        let found = Diagnostic::error(FILE, format!("{}: {what}", spoken(&path))).help(meaning);
        self.found.push(point(found, self.text, Some(at)));
    }

    fn node(&mut self, node: &Spanned<Node>, schema: &Value) {
        let root = self.schema;
        if let Some(target) = schema::target(root, schema) {
            return self.node(node, target);
        }
        let choices = schema.get("oneOf").or_else(|| schema.get("anyOf"));
        if let Some(choices) = choices.and_then(Value::as_array) {
            return self.choice(node, choices);
        }
        let allows = |kind: &str| match schema.get("type") {
            Some(Value::String(one)) => one == kind,
            Some(Value::Array(any)) => any.iter().any(|one| one == kind),
            _ => true,
        };
        match &node.value {
            Node::Nothing if allows("null") => {}
            Node::Fields(fields) if allows("object") => self.fields(node, fields, schema),
            Node::List(items) if allows("array") => self.list(node, items, schema),
            Node::Whole(number) if allows("integer") => self.whole(node, *number, schema),
            Node::Whole(_) | Node::Fraction(_) if allows("number") => {}
            Node::Truth(_) if allows("boolean") => {}
            Node::Text(text) if allows("string") => self.string(node, text, schema),
            Node::Whole(_) | Node::Fraction(_) | Node::Truth(_) if allows("string") => {}
            _ => {
                let belongs = [
                    (
                        "object",
                        "fields belong here: `name: value`, one per line and further in",
                    ),
                    (
                        "array",
                        "a list belongs here: `[one, two]`, or `- ` and one per line",
                    ),
                    ("integer", "a whole number belongs here, 0 or more"),
                    ("number", "a number belongs here"),
                    ("boolean", "true or false belongs here"),
                    ("string", "a single value belongs here"),
                ];
                let what = belongs.iter().find(|(kind, _)| allows(kind));
                self.wrong(
                    node,
                    what.map_or("another kind of value belongs here", |(_, say)| say),
                );
            }
        }
    }

    /// Checks a choice: words, optional values, or an object of which exactly one field is set.
    fn choice(&mut self, node: &Spanned<Node>, choices: &[Value]) {
        let root = self.schema;
        let is = |choice: &Value, kind: &str| {
            let choice = schema::target(root, choice).unwrap_or(choice);
            choice.get("type").and_then(Value::as_str) == Some(kind)
        };
        let words: Vec<&str> = choices
            .iter()
            .filter_map(|c| c.get("const")?.as_str())
            .collect();
        let names: Vec<&str> = choices.iter().filter_map(only_field).collect();
        match &node.value {
            Node::Nothing if choices.iter().any(|c| is(c, "null")) => {}
            Node::Text(text) if !words.is_empty() => {
                if !words.contains(&text.as_str()) {
                    self.wrong(node, format!("`{text}` is none of: {}", words.join(", ")));
                }
            }
            Node::Fields(fields) if names.len() == choices.len() => {
                let [(name, value)] = fields.as_slice() else {
                    return self.wrong(
                        node,
                        format!(
                            "one of these belongs here, and only one: {}",
                            names.join(", ")
                        ),
                    );
                };
                match choices.iter().find(|c| only_field(c) == Some(&name.value)) {
                    Some(choice) => {
                        let inner = choice
                            .get("properties")
                            .and_then(|all| all.get(&name.value));
                        self.below(&name.value, value, inner);
                    }
                    None => self.wrong(
                        name,
                        format!("`{}` is none of: {}", name.value, names.join(", ")),
                    ),
                }
            }
            value => {
                let kind = match value {
                    Node::Fields(_) => "object",
                    Node::List(_) => "array",
                    _ => "string",
                };
                let fitting = choices.iter().find(|c| is(c, kind));
                let only = || {
                    let mut set = choices.iter().filter(|c| !is(c, "null"));
                    set.next().filter(|_| set.next().is_none())
                };
                match fitting.or_else(only) {
                    Some(choice) => self.node(node, choice),
                    None if !words.is_empty() => {
                        self.wrong(
                            node,
                            format!("one of these belongs here: {}", words.join(", ")),
                        );
                    }
                    None => self.wrong(
                        node,
                        format!("fields belong here, one of: {}", names.join(", ")),
                    ),
                }
            }
        }
    }

    fn below(&mut self, name: &str, node: &Spanned<Node>, schema: Option<&Value>) {
        let Some(schema) = schema else {
            return;
        };
        self.path.push(name.to_owned());
        self.node(node, schema);
        self.path.pop();
    }

    fn fields(
        &mut self,
        node: &Spanned<Node>,
        fields: &[(Spanned<String>, Spanned<Node>)],
        schema: &Value,
    ) {
        let known = schema.get("properties").and_then(Value::as_object);
        let further = schema.get("additionalProperties");
        for (name, value) in fields {
            match known.and_then(|all| all.get(&name.value)) {
                Some(inner) => self.below(&name.value, value, Some(inner)),
                None if further == Some(&Value::Bool(false)) => {
                    let all = known.into_iter().flat_map(|all| all.keys());
                    let all: Vec<String> = all.map(|name| format!("`{name}`")).collect();
                    let what = format!(
                        "unknown field `{}`, expected one of {}",
                        name.value,
                        all.join(", ")
                    );
                    self.wrong(name, what);
                }
                None => self.below(&name.value, value, further),
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !fields.iter().any(|(there, _)| there.value == name) {
                self.wrong(node, format!("`{name}` is missing among these fields"));
            }
        }
    }

    fn list(&mut self, node: &Spanned<Node>, items: &[Spanned<Node>], schema: &Value) {
        self.length(node, items.len(), schema, ["minItems", "maxItems"]);
        for (index, item) in items.iter().enumerate() {
            self.below(&index.to_string(), item, schema.get("items"));
        }
    }

    fn string(&mut self, node: &Spanned<Node>, text: &str, schema: &Value) {
        self.length(
            node,
            text.chars().count(),
            schema,
            ["minLength", "maxLength"],
        );
        let pattern = schema.get("pattern").and_then(Value::as_str);
        if let Some((pattern, Ok(regex))) = pattern.map(|p| (p, Regex::new(p)))
            && !regex.is_match(text)
        {
            self.bounds(node, &format!("does not match pattern /{pattern}/"));
        }
    }

    fn length(
        &mut self,
        node: &Spanned<Node>,
        length: usize,
        schema: &Value,
        [min, max]: [&str; 2],
    ) {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let bound = |key| schema.get(key).and_then(Value::as_u64);
        if let Some(min) = bound(min).filter(|min| length < *min) {
            self.bounds(node, &format!("length is lower than {min}"));
        }
        if let Some(max) = bound(max).filter(|max| length > *max) {
            self.bounds(node, &format!("length is greater than {max}"));
        }
    }

    fn whole(&mut self, node: &Spanned<Node>, number: i128, schema: &Value) {
        let bound = |key| schema.get(key).and_then(Value::as_i64).map(i128::from);
        match (bound("minimum"), bound("maximum")) {
            _ if number < 0 => self.wrong(node, "a whole number belongs here, 0 or more"),
            (Some(min), _) if number < min => self.bounds(node, &format!("lower than {min}")),
            (_, Some(max)) if number > max => self.bounds(node, &format!("greater than {max}")),
            _ => {}
        }
    }
}

/// Returns the name of a choice's only field.
fn only_field(choice: &Value) -> Option<&str> {
    let mut names = choice.get("properties")?.as_object()?.keys();
    names
        .next()
        .filter(|_| names.next().is_none())
        .map(String::as_str)
}
