//! Chat templates: Jinja as model files carry it, rendered as Python's Jinja would.

use crate::error::{EngineError, ImportError};
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;

/// Steps that one rendering may take: some seconds. Honest templates take some dozens for each message.
const STEPS_MAX: u64 = 20_000_000;
/// Longest prompt that a template may write: four million tokens of the usual length.
const PROMPT_BYTES_MAX: usize = 16 << 20;
/// Bytes of a prompt for each token of the context: no text has so few tokens.
const TOKEN_BYTES: usize = 128;
/// Longest template; those of model files have up to some 30 KB. The parser's depth grows with the length (`a.b.b.b`).
const TEMPLATE_BYTES_MAX: usize = 128 << 10;
/// Stack of the thread that parses: for a level of depth in every second byte.
const PARSER_STACK_BYTES: usize = 256 << 20;

/// A template, compiled for each use, with what templates of model files expect around them.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
}

fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
}

fn environment<'a>() -> Result<Environment<'a>, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(STEPS_MAX));
    environment.set_syntax(syntax()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    Ok(environment)
}

impl ChatTemplate {
    /// Checks that it is a template. It is not compiled yet: that computes what is constant, which thirty letters can make gigabytes of.
    pub fn new(source: &str) -> Result<Self, ImportError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(ImportError::Template(format!(
                "it has {} bytes, and {TEMPLATE_BYTES_MAX} are allowed",
                source.len()
            )));
        }
        check_syntax(source).map_err(ImportError::Template)?;
        Ok(Self {
            source: source.to_owned(),
        })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// Parses on a stack that no template overflows: to go down is bounded by the parser where it nests, and not where it chains.
fn check_syntax(source: &str) -> Result<(), String> {
    let parsed = || -> Result<(), Error> { parse(source, "template", syntax()?).map(drop) };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
        let parsing = thread
            .spawn_scoped(scope, parsed)
            .map_err(|e| e.to_string())?;
        let ended = parsing.join();
        ended
            .map_err(|_| "it broke the template library".to_owned())?
            .map_err(|e| e.to_string())
    })
}

/// Everything that a prompt follows from, so that it can be made elsewhere: steps and output of a template are bounded here, its memory is not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rendering<'a> {
    /// The template's text.
    pub template: Cow<'a, str>,
    /// A JSON array whose members keep the order in which they are written.
    pub messages: Cow<'a, str>,
    /// As the messages.
    pub tools: Option<Cow<'a, str>>,
    /// A JSON object of further names for the template, or empty; none of them takes the place of what a template always gets.
    pub arguments: Cow<'a, str>,
    /// Whether the prompt ends where an answer begins.
    pub add_generation_prompt: bool,
    /// Text of the begin token.
    pub begin: Cow<'a, str>,
    /// Text of the end token.
    pub end: Cow<'a, str>,
    /// Tokens of the model's context: a prompt that cannot fit is not written to its end.
    pub context: usize,
}

impl Rendering<'_> {
    /// What the context can hold, beside what was given, which templates may write twice: a text that is too long is for whoever counts its
    /// tokens to refuse.
    fn most_bytes(&self) -> usize {
        let tools = self.tools.as_ref().map_or(0, |tools| tools.len());
        let given = self.messages.len() + tools + self.arguments.len();
        let held = self.context.saturating_mul(TOKEN_BYTES);
        PROMPT_BYTES_MAX.min(held.saturating_add(2 * given))
    }

    /// The prompt.
    pub fn render(&self) -> Result<String, EngineError> {
        let failed = |e: &dyn std::fmt::Display| EngineError::Template(e.to_string());
        let messages: Value = serde_json::from_str(&self.messages).map_err(|e| failed(&e))?;
        let tools: Value = match &self.tools {
            Some(tools) => serde_json::from_str(tools).map_err(|e| failed(&e))?,
            None => Value::from(()),
        };
        let arguments: BTreeMap<String, Value> = match &*self.arguments {
            "" => BTreeMap::new(),
            arguments => serde_json::from_str(arguments).map_err(|e| failed(&e))?,
        };
        let environment = environment().map_err(|e| failed(&e))?;
        let template = environment
            .template_from_str(&self.template)
            .map_err(|e| failed(&e))?;
        let mut prompt = Bounded {
            written: Vec::new(),
            most: self.most_bytes(),
            is_full: false,
        };
        let (begin, end) = (&*self.begin, &*self.end);
        let context = context! {
            messages, tools, add_generation_prompt => self.add_generation_prompt, bos_token => begin, eos_token => end,
            ..Value::from(arguments)
        };
        let render = || template.render_captured_to(context, &mut prompt).map(drop);
        // The library panics at an empty list turned round (`[][::-1]`). Nothing that it was doing is looked at after that.
        let rendered = std::panic::catch_unwind(AssertUnwindSafe(render))
            .map_err(|_| failed(&"it broke the template library"))?;
        if prompt.is_full {
            return Err(EngineError::Template(format!(
                "the prompt has more than {} bytes, more than this model's context holds",
                prompt.most
            )));
        }
        rendered.map_err(|e| failed(&e))?;
        String::from_utf8(prompt.written).map_err(|e| failed(&e))
    }
}

/// A prompt in the making that cannot outgrow a bound.
struct Bounded {
    written: Vec<u8>,
    /// Bytes.
    most: usize,
    /// More was to be written.
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.len() + bytes.len() > self.most {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `tojson` as model templates are written for: Python's spaces, nothing escaped for HTML.
fn to_json(value: Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    // Python's other arguments change nothing that we write.
    let _: (Option<bool>, Option<Value>) =
        (arguments.get("ensure_ascii")?, arguments.get("separators")?);
    arguments.assert_all_used()?;
    let mut bytes = Vec::new();
    let result = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, PythonFormatter)),
    };
    result.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(text))
}

/// JSON with a space after commas and colons, as Python's `json.dumps` writes it.
struct PythonFormatter;

fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
    if first {
        Ok(())
    } else {
        writer.write_all(b", ")
    }
}

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, messages: &str, tools: Option<&str>) -> Result<String, EngineError> {
        with_arguments(template, messages, tools, "")
    }

    fn with_arguments(
        template: &str,
        messages: &str,
        tools: Option<&str>,
        arguments: &str,
    ) -> Result<String, EngineError> {
        ChatTemplate::new(template).expect("compiles");
        let rendering = Rendering {
            template: template.into(),
            messages: messages.into(),
            tools: tools.map(Cow::from),
            arguments: arguments.into(),
            add_generation_prompt: true,
            begin: "<s>".into(),
            end: "</s>".into(),
            context: 1 << 16,
        };
        rendering.render()
    }

    #[test]
    fn json_keeps_its_order_and_gets_pythons_spaces() {
        let tools = r#"[{"type":"function","function":{"name":"b","a":[1,2.5,"<é>"]}}]"#;
        let text = render(
            "{% for t in tools %}{{ t | tojson }}{% endfor %}",
            "[]",
            Some(tools),
        );
        assert_eq!(
            text.as_deref(),
            Ok(r#"{"type": "function", "function": {"name": "b", "a": [1, 2.5, "<é>"]}}"#)
        );
        let indented = render(
            "{{ messages | tojson(indent=2) }}",
            r#"[{"b":1,"a":2}]"#,
            None,
        );
        assert_eq!(
            indented.as_deref(),
            Ok("[\n  {\n    \"b\": 1,\n    \"a\": 2\n  }\n]")
        );
    }

    #[test]
    fn blocks_are_trimmed_and_python_methods_work() {
        let template = "{{ bos_token }}{% for m in messages %}\n  {% if m.role.startswith('us') %}\n<|{{ m['role'] }}|>{{ m.content.strip() }}{{ eos_token }}\n  {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}<|assistant|>{% endif %}";
        let text = render(
            template,
            r#"[{"role":"user","content":" hi "},{"role":"x","content":""}]"#,
            None,
        );
        assert_eq!(text.as_deref(), Ok("<s><|user|>hi</s>\n<|assistant|>"));
    }

    #[test]
    fn a_template_that_loops_recurses_or_writes_without_end_is_stopped() {
        let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}";
        let recurses = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        let writes = "{% set s = 'x' * 1000000 %}{% for a in range(99999) %}{{ s }}{% endfor %}";
        for (template, word) in [
            (loops, "fuel"),
            (recurses, "recursion"),
            (writes, "more than"),
        ] {
            let error = render(template, "[]", None)
                .expect_err("stopped")
                .to_string();
            assert!(error.to_lowercase().contains(word), "{error}");
        }
        let many = format!(
            "[{}]",
            vec![r#"{"role":"user","content":"a"}"#; 20_000].join(",")
        );
        let honest = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% endfor %}";
        assert_eq!(
            render(honest, &many, None).expect("renders").len(),
            20_000 * 9
        );
    }

    #[test]
    fn a_template_that_chains_without_end_is_refused_or_read_and_breaks_nothing() {
        for link in [".b", "|b", "+a", "()"] {
            let template = |links: usize| format!("{{{{ a{} }}}}", link.repeat(links));
            let longest = (TEMPLATE_BYTES_MAX - 10) / link.len();
            ChatTemplate::new(&template(longest)).expect("a template");
            let refused = ChatTemplate::new(&template(longest * 2)).expect_err("too long");
            assert!(refused.to_string().contains("bytes"), "{refused}");
        }
    }

    #[test]
    fn a_template_that_breaks_the_library_is_an_error() {
        // Found by fuzzing.
        for template in ["{{ messages[::-1][::-1] }}", "{{ none_such[::-1][::-1] }}"] {
            let refused = render(template, "[]", None);
            assert!(
                matches!(&refused, Ok(_) | Err(EngineError::Template(_))),
                "{refused:?}"
            );
        }
        let broken = render(
            "{% for m in messages[::-1] | list %}{% endfor %}{{ [][::-1] }}",
            "[]",
            None,
        );
        let broken = broken.expect_err("until the library is mended").to_string();
        assert!(broken.contains("template library"), "{broken}");
    }

    #[test]
    fn a_template_can_refuse_and_a_broken_one_is_told_when_loading() {
        let refused = render("{{ raise_exception('roles must alternate') }}", "[]", None);
        assert!(
            refused
                .expect_err("refused")
                .to_string()
                .contains("roles must alternate")
        );
        assert!(ChatTemplate::new("{% if %}").is_err());
        assert!(matches!(
            render("", "{", None),
            Err(EngineError::Template(_))
        ));
    }

    #[test]
    fn arguments_and_earlier_reasoning_reach_the_template_and_replace_nothing_that_it_always_gets()
    {
        // The way of Qwen3's template, in small.
        let template = "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>\
            {% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>\
            {% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}{{ bos_token }}";
        let messages = r#"[{"role":"assistant","content":"4","reasoning_content":"2+2"},{"role":"user","content":"5?"}]"#;
        let render = |arguments: &str| with_arguments(template, messages, None, arguments);
        let begun = "<assistant><think>2+2</think>4<user>5?<assistant>";
        assert_eq!(render("").expect("renders"), format!("{begun}<s>"));
        let thinking = render(r#"{"enable_thinking":true}"#).expect("renders");
        assert_eq!(thinking, format!("{begun}<s>"));
        let hostile = r#"{"enable_thinking":false,"bos_token":"x","messages":[],"add_generation_prompt":false}"#;
        let silent = render(hostile).expect("renders");
        assert_eq!(silent, format!("{begun}<think></think><s>"));
        for bad in ["[]", "{", "1", "{\"a\":}"] {
            assert!(
                matches!(render(bad), Err(EngineError::Template(_))),
                "{bad}"
            );
        }
    }
}
