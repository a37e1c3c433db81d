//! Reading a JSON Schema: its bounds, and the keywords that answers are held to.
//!
//! What remains is a schema in which every keyword is enforced. Annotations are left out, so that they cost nothing and decide nothing.
//! A keyword that cannot be enforced, for its word or for its value, is refused with its place where the client wants strictness, and left
//! out otherwise.

use crate::error::GrammarError;
use crate::grammar::Grammar;
use crate::{COUNT_MAX, DEPTH_MAX, VALUES_MAX};
use serde_json::{Map, Value, json};

/// White space between two parts of a JSON text, which may stand there once: a space, or a line's end and an indentation, as writers of
/// JSON make it. A model that knows no better would fill an answer with more.
pub(crate) const SPACE: &str = r"\x20|\x0A[\x20\x09]{0,32}";

/// Words of `type`.
const TYPES: [&str; 7] = [
    "string", "number", "integer", "boolean", "object", "array", "null",
];
/// Formats of strings that have a grammar.
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];
/// Keywords of JSON Schema that say what is valid and that answers cannot be held to. Every other word is an annotation, as the standard
/// has it.
const UNENFORCED: [&str; 17] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    // OpenAPI's word for a further type.
    "nullable",
];
/// Greatest magnitude of a number in a schema: all whole ones up to it are told apart.
const NUMBER_MAX: f64 = 1e15;
/// Least magnitude of one that is not 0.
const NUMBER_MIN: f64 = 1e-9;
/// What may be made of a schema.
#[derive(Clone, Copy)]
pub(crate) enum Reading<'a> {
    /// Every keyword is enforced, or the schema is refused.
    Strict,
    /// What this crate knows that it cannot enforce is left out.
    Relaxed,
    /// So are the expressions that the library does not take by themselves.
    Tried(&'a dyn Fn(&str) -> bool),
}

impl Reading<'_> {
    fn is_strict(self) -> bool {
        matches!(self, Self::Strict)
    }
}

/// The schema of an answer that is JSON, with this crate's options; nothing for other grammars. `relaxed` says how it is read where it is
/// not strict.
pub(crate) fn of_answer(
    grammar: &Grammar,
    relaxed: Reading<'_>,
) -> Result<Option<Value>, GrammarError> {
    Ok(match grammar {
        Grammar::JsonObject => Some(with_options(json!({"type": "object"}), true)),
        Grammar::JsonSchema { schema, strict } => {
            let reading = if *strict { Reading::Strict } else { relaxed };
            Some(with_options(read(schema, reading, "#")?, *strict))
        }
        Grammar::Regex(_) | Grammar::Calls(_) => None,
    })
}

/// Reads a schema whose root will stand at `root` in a larger one (`#` for itself).
pub(crate) fn read(text: &str, reading: Reading<'_>, root: &str) -> Result<Value, GrammarError> {
    let document: Value =
        serde_json::from_str(text).map_err(|error| GrammarError::NotJson(error.to_string()))?;
    let mut reader = Reader {
        reading,
        root,
        document: &document,
        values: 0,
        path: Vec::new(),
    };
    reader.schema(&document)
}

/// Reads the schema of a tool's arguments, which are an object whether or not it says so.
pub(crate) fn arguments(
    text: &str,
    reading: Reading<'_>,
    root: &str,
) -> Result<Value, GrammarError> {
    let mut schema = read(text, reading, root)?;
    let Some(members) = schema.as_object_mut() else {
        return Ok(json!({"type": "object"}));
    };
    match members.get("type") {
        None => {
            members.insert("type".to_owned(), json!("object"));
        }
        Some(Value::String(word)) if word == "object" => {}
        Some(_) => {
            return Err(GrammarError::Value {
                at: "#".to_owned(),
                keyword: "type".to_owned(),
                reason: "must be `object`: a tool's arguments are one".to_owned(),
            });
        }
    }
    Ok(schema)
}

/// The schema with this crate's options for the library. They stand in the schema's root, where a client's own were left out.
pub(crate) fn with_options(schema: Value, strict: bool) -> Value {
    let options = json!({
        "whitespace_flexible": true,
        "whitespace_pattern": SPACE,
        "json_allow_general_unicode_escapes": true,
        "lenient": !strict,
    });
    match schema {
        Value::Object(mut members) => {
            members.insert("x-guidance".to_owned(), options);
            Value::Object(members)
        }
        // `true` and `false` have no room for options.
        other => json!({"allOf": [other], "x-guidance": options}),
    }
}

struct Reader<'a> {
    reading: Reading<'a>,
    root: &'a str,
    document: &'a Value,
    values: usize,
    path: Vec<String>,
}

impl Reader<'_> {
    fn at(&self) -> String {
        let mut at = "#".to_owned();
        for step in &self.path {
            at.push('/');
            at.push_str(step);
        }
        at.chars().take(200).collect()
    }

    fn wrong(&self, keyword: &str, reason: impl Into<String>) -> GrammarError {
        GrammarError::Value {
            at: self.at(),
            keyword: keyword.chars().take(64).collect(),
            reason: reason.into(),
        }
    }

    /// Refuses a keyword, or leaves it out.
    fn unenforced(&self, keyword: &str) -> Result<Option<Value>, GrammarError> {
        if !self.reading.is_strict() {
            return Ok(None);
        }
        Err(GrammarError::Keyword {
            at: self.at(),
            keyword: keyword.chars().take(64).collect(),
        })
    }

    /// Counts one more value, one step deeper.
    fn count(&mut self) -> Result<(), GrammarError> {
        self.values += 1;
        let too_large = |what, most: usize| {
            let most = most as u64;
            Err(GrammarError::TooLarge { what, most })
        };
        if self.values > VALUES_MAX {
            return too_large("the values of a schema", VALUES_MAX);
        }
        if self.path.len() > DEPTH_MAX {
            return too_large("the depth of a schema", DEPTH_MAX);
        }
        Ok(())
    }

    /// Goes one step deeper for `read`.
    fn within<T>(
        &mut self,
        step: &str,
        read: impl FnOnce(&mut Self) -> Result<T, GrammarError>,
    ) -> Result<T, GrammarError> {
        self.path.push(step.to_owned());
        let result = read(self);
        self.path.pop();
        result
    }

    fn schema(&mut self, value: &Value) -> Result<Value, GrammarError> {
        self.count()?;
        let members = match value {
            Value::Bool(_) => return Ok(value.clone()),
            Value::Object(members) => members,
            // What is no schema says nothing; the whole must be one.
            _ if !self.reading.is_strict() && !self.path.is_empty() => {
                return Ok(Value::Bool(true));
            }
            _ => {
                let (keyword, reason) = ("schema", "must be an object or a boolean");
                return Err(self.wrong(keyword, reason));
            }
        };
        let mut kept = Map::new();
        for (keyword, value) in members {
            match self.member(keyword, value) {
                Ok(Some(value)) => drop(kept.insert(keyword.clone(), value)),
                Ok(None) => {}
                // A value that cannot be enforced is left out with its keyword.
                Err(GrammarError::Value { .. }) if !self.reading.is_strict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Value::Object(kept))
    }

    /// What a keyword becomes; nothing where it has no effect.
    fn member(&mut self, keyword: &str, value: &Value) -> Result<Option<Value>, GrammarError> {
        let kept = match keyword {
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                self.named(keyword, value)?
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => self.listed(keyword, value)?,
            "items" if value.is_array() => self.listed(keyword, value)?,
            "items" | "additionalItems" | "additionalProperties" => {
                self.within(keyword, |reader| reader.schema(value))?
            }
            "$ref" => self.reference(value)?,
            "enum" | "const" => {
                self.within(keyword, |reader| reader.constant(keyword, value))?;
                value.clone()
            }
            "type" => self.types(value)?,
            "required" => self.names(keyword, value)?,
            "pattern" => {
                let kept = self.text(keyword, value)?;
                if !kept.as_str().is_some_and(|text| self.takes(text)) {
                    return Ok(None);
                }
                kept
            }
            "format" => return self.format(value),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                self.number(keyword, value)?
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
            | "maxProperties" => self.size(keyword, value)?,
            "uniqueItems" | "nullable" if value == &Value::Bool(false) => return Ok(None),
            keyword if UNENFORCED.contains(&keyword) => return self.unenforced(keyword),
            _ => return Ok(None),
        };
        Ok(Some(kept))
    }

    fn named(&mut self, keyword: &str, value: &Value) -> Result<Value, GrammarError> {
        let members = value
            .as_object()
            .ok_or_else(|| self.wrong(keyword, "must be an object"))?;
        self.within(keyword, |reader| {
            let mut kept = Map::new();
            for (name, schema) in members {
                if keyword == "patternProperties" && !reader.takes(name) {
                    continue;
                }
                let schema = reader.within(&name.clone(), |reader| reader.schema(schema))?;
                kept.insert(name.clone(), schema);
            }
            Ok(Value::Object(kept))
        })
    }

    fn listed(&mut self, keyword: &str, value: &Value) -> Result<Value, GrammarError> {
        let schemas = value
            .as_array()
            .ok_or_else(|| self.wrong(keyword, "must be an array"))?;
        self.within(keyword, |reader| {
            let each = schemas.iter().enumerate();
            each.map(|(index, schema)| {
                reader.within(&index.to_string(), |reader| reader.schema(schema))
            })
            .collect()
        })
    }

    /// Whether an expression is one that the library takes, as far as that is asked.
    fn takes(&self, expression: &str) -> bool {
        match self.reading {
            Reading::Strict | Reading::Relaxed => true,
            Reading::Tried(takes) => takes(expression),
        }
    }

    /// A reference within the schema, moved to where the schema will stand.
    fn reference(&self, value: &Value) -> Result<Value, GrammarError> {
        let target = value.as_str().and_then(|text| text.strip_prefix('#'));
        match target {
            Some("" | "/") => Ok(Value::from(self.root)),
            Some(path) if path.starts_with('/') && self.document.pointer(path).is_none() => {
                Err(self.wrong("$ref", "points at nothing in the schema"))
            }
            Some(path) if path.starts_with('/') => Ok(Value::from(format!("{}{path}", self.root))),
            _ => Err(self.wrong(
                "$ref",
                "must point into the schema itself, as `#/$defs/name`",
            )),
        }
    }

    /// A value that an answer may have to be. Its numbers are compared by value, so they must be ones that are told apart.
    fn constant(&mut self, keyword: &str, value: &Value) -> Result<(), GrammarError> {
        self.count()?;
        match value {
            Value::Number(_) => self.number(keyword, value).map(drop),
            Value::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| {
                self.within(&index.to_string(), |reader| reader.constant(keyword, item))
            }),
            Value::Object(members) => members.iter().try_for_each(|(name, member)| {
                self.within(name, |reader| reader.constant(keyword, member))
            }),
            _ => Ok(()),
        }
    }

    fn types(&self, value: &Value) -> Result<Value, GrammarError> {
        let known = |word: &Value| word.as_str().is_some_and(|word| TYPES.contains(&word));
        let fits = match value {
            Value::Array(words) => !words.is_empty() && words.iter().all(known),
            word => known(word),
        };
        match fits {
            true => Ok(value.clone()),
            false => Err(self.wrong("type", format!("must be one or more of {TYPES:?}"))),
        }
    }

    fn names(&self, keyword: &str, value: &Value) -> Result<Value, GrammarError> {
        let names = value.as_array();
        match names.is_some_and(|names| names.iter().all(Value::is_string)) {
            true => Ok(value.clone()),
            false => Err(self.wrong(keyword, "must be an array of strings")),
        }
    }

    fn text(&self, keyword: &str, value: &Value) -> Result<Value, GrammarError> {
        match value.is_string() {
            true => Ok(value.clone()),
            false => Err(self.wrong(keyword, "must be a string")),
        }
    }

    fn format(&self, value: &Value) -> Result<Option<Value>, GrammarError> {
        let text = self.text("format", value)?;
        if text.as_str().is_some_and(|word| FORMATS.contains(&word)) {
            return Ok(Some(text));
        }
        if !self.reading.is_strict() {
            return Ok(None);
        }
        Err(self.wrong(
            "format",
            format!("must be one of {FORMATS:?} to be enforced"),
        ))
    }

    fn number(&self, keyword: &str, value: &Value) -> Result<Value, GrammarError> {
        // Draft 4 wrote whether a bound is exclusive beside the bound.
        if keyword.starts_with("exclusive") && value.is_boolean() {
            return Ok(value.clone());
        }
        let number = value
            .as_f64()
            .ok_or_else(|| self.wrong(keyword, "must be a number"))?
            .abs();
        if number > NUMBER_MAX || (number != 0.0 && number < NUMBER_MIN) {
            return Err(self.wrong(keyword, "must lie between 10^-9 and 10^15, or be 0"));
        }
        Ok(value.clone())
    }

    fn size(&self, keyword: &str, value: &Value) -> Result<Value, GrammarError> {
        match value.as_u64() {
            Some(count) if count <= COUNT_MAX => Ok(value.clone()),
            _ => {
                let reason = format!("must be a whole number up to {COUNT_MAX}");
                Err(self.wrong(keyword, reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(schema: Value) -> Result<Value, GrammarError> {
        read(&schema.to_string(), Reading::Strict, "#")
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_with_its_place_or_left_out() {
        let schema = json!({"type": "object", "properties": {"a": {"anyOf": [
            {"type": "array", "uniqueItems": true}, {"not": {"type": "null"}}]}}});
        let error = strict(schema.clone()).expect_err("strict").to_string();
        assert!(
            error.contains("`uniqueItems` at #/properties/a/anyOf/0 "),
            "{error}"
        );
        let relaxed = relaxed(&schema).expect("relaxed");
        assert_eq!(
            relaxed["properties"]["a"]["anyOf"][0],
            json!({"type": "array"})
        );
        assert_eq!(relaxed["properties"]["a"]["anyOf"][1], json!({}));
        let error = strict(json!({"items": {"format": "regex"}})).expect_err("unknown format");
        assert!(
            error.to_string().contains("`format` at #/items "),
            "{error}"
        );
    }

    fn relaxed(schema: &Value) -> Result<Value, GrammarError> {
        read(&schema.to_string(), Reading::Relaxed, "#")
    }

    #[test]
    fn values_that_cannot_be_enforced_are_left_out_with_their_keyword_and_nothing_else_is() {
        let beyond = 9_007_199_254_740_993_u64;
        let cases = [
            (
                json!({"minimum": beyond, "maximum": 1e300, "type": "integer"}),
                json!({"type": "integer"}),
            ),
            (json!({"enum": [1, beyond]}), json!({})),
            (
                json!({"const": {"a": [beyond]}, "type": "object"}),
                json!({"type": "object"}),
            ),
            (
                json!({"maxLength": COUNT_MAX + 1, "minLength": 1.5}),
                json!({}),
            ),
            (
                json!({"multipleOf": 1e-30, "minimum": 3}),
                json!({"minimum": 3}),
            ),
            (
                json!({"type": "strin", "pattern": 5, "format": 5}),
                json!({}),
            ),
            (
                json!({"required": true, "properties": {"a": {"required": true, "type": "null"}}}),
                json!({"properties": {"a": {"type": "null"}}}),
            ),
            (
                json!({"$ref": "http://example.org/a", "anyOf": {}}),
                json!({}),
            ),
            (
                json!({"$ref": "#/$defs/gone", "$defs": {"there": {}}}),
                json!({"$defs": {"there": {}}}),
            ),
            (
                json!({"items": 5, "allOf": [7, {"type": "array"}]}),
                json!({"items": true, "allOf": [true, {"type": "array"}]}),
            ),
        ];
        for (schema, expected) in cases {
            assert_eq!(relaxed(&schema), Ok(expected));
            assert!(strict(schema).is_err());
        }
        // Bounds of size hold for every schema, and the whole must be one.
        assert!(relaxed(&json!({"enum": vec![0; VALUES_MAX]})).is_err());
        assert!(relaxed(&json!([])).is_err());
    }

    #[test]
    fn expressions_that_the_library_does_not_take_are_left_out() {
        let takes = |expression: &str| !expression.contains('?');
        let schema = json!({"pattern": "(?=a)", "patternProperties": {"^a": {"pattern": "b"}, "^(?!b)": {}}});
        assert_eq!(
            read(&schema.to_string(), Reading::Tried(&takes), "#"),
            Ok(json!({"patternProperties": {"^a": {"pattern": "b"}}}))
        );
    }

    #[test]
    fn annotations_decide_nothing_but_properties_may_have_their_names() {
        let schema = json!({"title": "T", "x-guidance": {"lenient": true}, "default": 1, "type": "object",
            "properties": {"title": {"description": "d", "type": "string"}, "$ref": {"type": "null"}}});
        assert_eq!(
            strict(schema).expect("valid"),
            json!({"type": "object", "properties": {"title": {"type": "string"}, "$ref": {"type": "null"}}})
        );
    }

    #[test]
    fn references_move_with_their_schema_and_constants_do_not() {
        let schema = json!({"$defs": {"a": {"type": "null"}}, "anyOf": [{"$ref": "#/$defs/a"}, {"const": {"$ref": "#/x"}}, {"$ref": "#"}]});
        let moved = read(
            &schema.to_string(),
            Reading::Strict,
            "#/properties/arguments",
        )
        .expect("valid");
        assert_eq!(
            moved["anyOf"],
            json!([{"$ref": "#/properties/arguments/$defs/a"}, {"const": {"$ref": "#/x"}}, {"$ref": "#/properties/arguments"}])
        );
        assert!(strict(json!({"$ref": "http://example.org/a"})).is_err());
    }

    #[test]
    fn sizes_are_bounded() {
        let mut deep = json!({"type": "null"});
        for _ in 0..=DEPTH_MAX {
            deep = json!({"items": deep});
        }
        let wide = json!({"enum": vec![0; VALUES_MAX]});
        let cases = [
            (deep, "depth"),
            (wide, "values"),
            (json!({"maxLength": COUNT_MAX + 1}), "whole number"),
            (json!({"minimum": 1e300}), "10^15"),
            (json!({"const": 9_007_199_254_740_993_u64}), "10^15"),
            (json!({"multipleOf": 1e-30}), "10^-9"),
            (json!({"type": "strin"}), "one or more"),
            (json!({"required": true}), "array of strings"),
            (json!({"properties": []}), "object"),
            (json!([]), "object or a boolean"),
        ];
        for (schema, expected) in cases {
            let error = strict(schema).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_arguments_of_a_tool_are_an_object() {
        assert_eq!(
            arguments("{}", Reading::Relaxed, "#").expect("valid"),
            json!({"type": "object"})
        );
        assert!(arguments(r#"{"type":"array"}"#, Reading::Relaxed, "#").is_err());
    }
}
