//! What chat templates are tried with before anybody asks for a chat.

use crate::templates::{RenderError, Templates};
use stoa_engine::{EngineError, Rendering, Source, Tokenizer};

/// A chat to try, as JSON: messages, tools, arguments.
pub(crate) struct Trial {
    pub messages: String,
    pub tools: Option<&'static str>,
    pub arguments: &'static str,
}

const TOOL: &str = r#"[{"type":"function","function":{"name":"a","description":"a","parameters":{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}}}]"#;

/// The first is one that nearly every template takes: what it says of that is told.
const ROLES: [&str; 4] = ["user", "system", "assistant", "tool"];

/// With an argument that most templates for it write something for, and without.
const ARGUMENTS: [&str; 3] = [
    "",
    r#"{"enable_thinking":false}"#,
    r#"{"enable_thinking":true}"#,
];

/// One-letter messages of every role, with and without a tool.
pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    let with_role = |role: &str| {
        let messages = format!(r#"[{{"role":"{role}","content":"a"}}]"#);
        [None, Some(TOOL)].into_iter().flat_map(move |tools| {
            ARGUMENTS.map(|arguments| Trial {
                messages: messages.clone(),
                tools,
                arguments,
            })
        })
    };
    ROLES.into_iter().flat_map(with_role)
}

/// Why no chat can be made with the template of a model that is not loaded: what it says of a short message, where it refuses every trial.
/// `None` where it takes one, and of a model that has none.
pub fn template_fault(
    source: &Source,
    templates: &Templates,
) -> Result<Option<EngineError>, RenderError> {
    let encoder = source.config().architecture.encoder.is_some();
    let Some(template) = source.template().filter(|_| !encoder) else {
        return Ok(None);
    };
    // One that cannot be made is told when the model is imported or loaded.
    let Ok(tokenizer) = Tokenizer::new(source.tokenizer()) else {
        return Ok(None);
    };
    let text = |id: Option<u32>| id.map_or(String::new(), |id| tokenizer.decode(&[id], true));
    let (begin, end) = (text(tokenizer.begin().0), text(tokenizer.eos()));
    let mut first = None;
    for trial in trials() {
        let rendering = Rendering {
            template: template.into(),
            messages: trial.messages.into(),
            tools: trial.tools.map(Into::into),
            arguments: trial.arguments.into(),
            add_generation_prompt: true,
            begin: begin.as_str().into(),
            end: end.as_str().into(),
            context: source.config().context,
        };
        match templates.render(&rendering) {
            Ok(_) => return Ok(None),
            Err(RenderError::Refused(error)) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(first)
}
