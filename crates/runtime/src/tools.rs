//! Tool calls: how a model writes them, and whether one may be handed on.

use serde_json::Value;
use std::collections::BTreeMap;
use stoa_grammar::Tool;
use stoa_verify::ToolCall;

/// Markers around a tool call in a model's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Syntax {
    pub open: &'static str,
    /// Empty where the next call or the end of the answer closes a call.
    pub close: &'static str,
}

impl Syntax {
    /// Recognised by the marker that the model's own chat template writes.
    pub fn of_template(template: &str) -> Option<Self> {
        let known = [
            Self {
                open: "<|tool_call|>",
                close: "",
            },
            Self {
                open: "<tool_call>",
                close: "</tool_call>",
            },
        ];
        known.into_iter().find(|s| template.contains(s.open))
    }

    /// The objects between markers, in order; `None` if there is anything else. A marker within a string is a part of it.
    fn bodies<'a>(&self, text: &'a str) -> Option<Vec<&'a str>> {
        let (mut bodies, mut rest) = (Vec::new(), text.trim_start());
        while !rest.is_empty() {
            let (body, after) = leading_value(rest.strip_prefix(self.open)?.trim_start())?;
            bodies.push(body);
            let after = after.trim_start();
            rest = match after.is_empty() && self.close.is_empty() {
                true => after,
                false => after.strip_prefix(self.close)?.trim_start(),
            };
        }
        Some(bodies)
    }

    /// The text without its markers: how a failed call is shown.
    pub fn strip(&self, text: &str) -> String {
        let text = text.replace(self.open, "");
        if self.close.is_empty() {
            text
        } else {
            text.replace(self.close, "")
        }
    }
}

/// The tools of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Catalogue {
    schemas: BTreeMap<String, Schema>,
    /// As a grammar takes them.
    tools: Vec<Tool>,
}

/// What is checked of a tool's arguments: required properties, and type and allowed values of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Schema {
    required: Vec<String>,
    properties: BTreeMap<String, Value>,
}

impl Catalogue {
    /// Reads OpenAI's `tools` array; the error names what is wrong.
    pub fn parse(tools: &str) -> Result<Self, String> {
        let tools: Vec<Value> =
            serde_json::from_str(tools).map_err(|_| "not a JSON array".to_owned())?;
        let mut functions = Vec::new();
        let mut latest = BTreeMap::new();
        for (index, tool) in tools.iter().enumerate() {
            let function = tool.get("function").unwrap_or(tool);
            let name = function.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| format!("tool {index} has no function name"))?;
            latest.insert(name, index);
            functions.push((name, function));
        }
        let mut catalogue = Self::default();
        for (index, (name, function)) in functions.into_iter().enumerate() {
            // Of two of one name the later is meant, to the checks as to the grammar.
            if latest.get(name) != Some(&index) {
                continue;
            }
            let parameters = function.get("parameters").filter(|p| !p.is_null());
            let schema = Schema::parse(parameters.unwrap_or(&Value::Null));
            catalogue.tools.push(Tool {
                name: name.to_owned(),
                // Properties keep their order: the grammar's library switches that on for the whole build.
                parameters: parameters.map(Value::to_string),
                strict: function.get("strict") == Some(&Value::Bool(true)),
            });
            catalogue.schemas.insert(name.to_owned(), schema);
        }
        Ok(catalogue)
    }

    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty()
    }

    /// The tools, for a grammar of their calls.
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// The calls in `text`, which begins with a marker; the error says why they must not be handed on.
    pub fn calls(&self, syntax: Syntax, text: &str) -> Result<Vec<ToolCall>, String> {
        let bodies = syntax.bodies(text).ok_or(
            "there is something else than calls between their markers, or text outside of them",
        )?;
        if bodies.is_empty() {
            return Err("there is no call".to_owned());
        }
        bodies.into_iter().map(|body| self.call(body)).collect()
    }

    fn call(&self, body: &str) -> Result<ToolCall, String> {
        let (name, arguments) =
            split_call(body).ok_or("it is not an object of name and arguments")?;
        self.check(&name, arguments)
    }

    /// A call whose parts are known; the error says why it must not be handed on.
    pub fn check(&self, name: &str, arguments: &str) -> Result<ToolCall, String> {
        let schema = self
            .schemas
            .get(name)
            .ok_or_else(|| format!("no tool is named `{name}`"))?;
        schema.check(arguments)?;
        Ok(ToolCall {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        })
    }
}

impl Schema {
    fn parse(parameters: &Value) -> Self {
        let required = parameters.get("required").and_then(Value::as_array);
        let properties = parameters.get("properties").and_then(Value::as_object);
        Self {
            required: required
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), schema.clone()))
                .collect(),
        }
    }

    fn check(&self, arguments: &str) -> Result<(), String> {
        let Ok(Value::Object(arguments)) = serde_json::from_str::<Value>(arguments) else {
            return Err("its arguments are not a JSON object".to_owned());
        };
        if let Some(name) = self.required.iter().find(|n| !arguments.contains_key(*n)) {
            return Err(format!("the required argument `{name}` is absent"));
        }
        for (name, value) in &arguments {
            let Some(schema) = self.properties.get(name) else {
                continue;
            };
            if !type_fits(schema.get("type"), value) {
                return Err(format!("argument `{name}` has the wrong type"));
            }
            let allowed = schema.get("enum").and_then(Value::as_array);
            if allowed.is_some_and(|values| !values.iter().any(|other| same(other, value))) {
                return Err(format!("argument `{name}` is none of the allowed values"));
            }
        }
        Ok(())
    }
}

/// Whether two values are equal to JSON Schema, to which 1 and 1.0 are.
fn same(a: &Value, b: &Value) -> bool {
    let numbers = a.as_f64().zip(b.as_f64());
    a == b || numbers.is_some_and(|(a, b)| a == b)
}

/// JSON Schema's `type`: one word or several; absent or unknown words allow anything.
fn type_fits(allowed: Option<&Value>, value: &Value) -> bool {
    match allowed {
        Some(Value::String(word)) => match word.as_str() {
            "string" => value.is_string(),
            // A whole number of any length and form, as JSON Schema has it.
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "null" => value.is_null(),
            _ => true,
        },
        Some(Value::Array(words)) => words.iter().any(|word| type_fits(Some(word), value)),
        _ => true,
    }
}

/// Name and arguments of `{"name":"…","arguments":{…}}`. The arguments keep the model's own bytes: writing them anew would make
/// them depend on how this program orders keys.
fn split_call(body: &str) -> Option<(String, &str)> {
    let mut rest = body.strip_prefix('{')?;
    let (mut name, mut arguments) = (None, None);
    loop {
        let (key, after) = leading_value(rest.trim_start())?;
        let (value, after_value) =
            leading_value(after.trim_start().strip_prefix(':')?.trim_start())?;
        match serde_json::from_str::<String>(key).ok()?.as_str() {
            "name" if name.is_none() => name = Some(serde_json::from_str(value).ok()?),
            "arguments" | "parameters" if arguments.is_none() => arguments = Some(value),
            _ => return None,
        }
        match after_value.trim_start().strip_prefix(',') {
            Some(more) => rest = more,
            None => break (after_value.trim_start() == "}").then_some((name?, arguments?)),
        }
    }
}

/// The JSON string, object or array that `text` begins with, and what follows it.
fn leading_value(text: &str) -> Option<(&str, &str)> {
    if !text.starts_with(['"', '{', '[']) {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    Some(text.split_at(values.byte_offset()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: &str = r#"[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object",
        "properties":{"city":{"type":"string"},"days":{"type":"integer"},"unit":{"enum":["C","F"]}},"required":["city"]}}},
        {"name":"now"}]"#;

    fn stoa() -> Syntax {
        Syntax::of_template("… <|tool_call|> …").expect("known")
    }

    fn calls(text: &str) -> Result<Vec<ToolCall>, String> {
        Catalogue::parse(TOOLS).expect("valid").calls(stoa(), text)
    }

    #[test]
    fn a_valid_call_keeps_the_bytes_of_its_arguments() {
        let text =
            r#"<|tool_call|>{"name":"get_weather","arguments":{"days": 2,"city":"Z\u00fcrich"}}"#;
        let call = ToolCall {
            name: "get_weather".to_owned(),
            arguments: r#"{"days": 2,"city":"Z\u00fcrich"}"#.to_owned(),
        };
        assert_eq!(calls(text), Ok(vec![call.clone()]));
        let marked = r#"<|tool_call|>{"name":"get_weather","arguments":{"city":"<|tool_call|>{"}}"#;
        assert_eq!(calls(marked).map(|calls| calls.len()), Ok(1));
        let two = format!(r#"{text}<|tool_call|>{{"arguments":{{}},"name":"now"}}"#);
        assert_eq!(calls(&two).expect("valid").len(), 2);
    }

    #[test]
    fn an_invalid_call_is_never_handed_on() {
        let wrong = [
            ("", "no call"),
            ("<|tool_call|>", "outside"),
            ("text <|tool_call|>{}", "outside"),
            (
                r#"<|tool_call|>{"name":"get_weather","arguments":{"city":"a"}"#,
                "outside",
            ),
            (
                r#"<|tool_call|>{"name":"get_weather","arguments":{"city":"a"}} and"#,
                "outside",
            ),
            (
                r#"<|tool_call|>{"name":"rm","arguments":{}}"#,
                "no tool is named",
            ),
            (
                r#"<|tool_call|>{"name":"get_weather","arguments":{}}"#,
                "`city` is absent",
            ),
            (
                r#"<|tool_call|>{"name":"get_weather","arguments":{"city":1}}"#,
                "wrong type",
            ),
            (
                r#"<|tool_call|>{"name":"get_weather","arguments":{"city":"a","days":1.5}}"#,
                "wrong type",
            ),
            (
                r#"<|tool_call|>{"name":"get_weather","arguments":{"city":"a","unit":"K"}}"#,
                "allowed values",
            ),
            (
                r#"<|tool_call|>{"name":"get_weather","arguments":["city"]}"#,
                "not a JSON object",
            ),
            (
                r#"<|tool_call|>{"name":"now","arguments":{},"name":"now"}"#,
                "not an object",
            ),
            (
                r#"<|tool_call|>{"name":"now","arguments":{},"x":[]}"#,
                "not an object",
            ),
            (
                r#"<|tool_call|>{"name":"now","arguments":{}}<|tool_call|>{"name":"x","arguments":{}}"#,
                "no tool is named",
            ),
        ];
        for (text, expected) in wrong {
            let error = calls(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_syntax_of_qwen_and_hermes_templates_is_known_too() {
        let syntax = Syntax::of_template("<tool_call>\n{…}\n</tool_call>").expect("known");
        let catalogue = Catalogue::parse(TOOLS).expect("valid");
        let text = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n";
        assert_eq!(
            catalogue.calls(syntax, text).map(|calls| calls.len()),
            Ok(1)
        );
        assert_eq!(
            catalogue
                .calls(syntax, &text.repeat(3))
                .map(|calls| calls.len()),
            Ok(3)
        );
        assert!(catalogue.calls(syntax, &text[..text.len() - 4]).is_err());
        assert_eq!(syntax.strip("<tool_call>x</tool_call>"), "x");
        assert_eq!(Syntax::of_template("{{ messages }}"), None);
    }

    #[test]
    fn tools_that_are_no_tools_are_named() {
        assert!(Catalogue::parse("{").is_err());
        let error = Catalogue::parse(r#"[{"name":"a"},{"function":{}}]"#).expect_err("no name");
        assert!(error.contains("tool 1"), "{error}");
    }
}
