//! Where chat templates are rendered: in this process, or in one of its own whose memory and processor time are limited.
//!
//! A template is a program that came with a model's file. The library that runs it bounds its steps, not what it keeps: forty lines that
//! double a text need a terabyte. So whoever serves files of others renders apart ([`serve_renderings`]).

use crate::apart::{self, Apart, ApartError};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::sync::Arc;
use stoa_engine::{EngineError, Rendering};

/// Letters of what the library said that are told.
const REASON_MAX: usize = 1_000;

/// Where templates are rendered.
#[derive(Debug, Clone, Default)]
pub enum Templates {
    /// In this process: for files that one trusts.
    #[default]
    Here,
    /// In processes of their own, which call [`serve_renderings`].
    Apart(Arc<Apart>),
}

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The template or what it was given is at fault: the same everywhere.
    #[error(transparent)]
    Refused(EngineError),
    /// The process that renders gave no answer.
    #[error("no template was rendered: {0}")]
    Lost(#[from] ApartError),
}

/// What comes back from the other process.
#[derive(Serialize, Deserialize)]
enum Rendered {
    Prompt(String),
    /// What the library said.
    Refused(String),
}

impl Templates {
    /// The prompt. Waits for it.
    pub fn render(&self, rendering: &Rendering<'_>) -> Result<String, RenderError> {
        let apart = match self {
            Self::Here => return rendering.render().map_err(RenderError::Refused),
            Self::Apart(apart) => apart,
        };
        match apart.ask(rendering)? {
            Rendered::Prompt(prompt) => Ok(prompt),
            Rendered::Refused(reason) => Err(RenderError::Refused(EngineError::Template(reason))),
        }
    }
}

/// Renders what comes from `input` until it ends: the main loop of the other process, which has limited its own memory before. `limit` is
/// called before each rendering: processor time is limited for each.
pub fn serve_renderings(
    input: impl Read,
    output: impl Write,
    limit: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    apart::serve(input, output, limit, |rendering: &Rendering<'_>| {
        let rendered = match rendering.render() {
            Ok(prompt) => Rendered::Prompt(prompt),
            Err(EngineError::Template(reason)) => Rendered::Refused(short(&reason)),
            Err(other) => Rendered::Refused(short(&other.to_string())),
        };
        Ok(serde_json::to_vec(&rendered)?)
    })
}

/// A template may raise an error of any length.
fn short(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apart::Times;
    use std::time::Duration;

    fn rendering(template: &str) -> Rendering<'_> {
        Rendering {
            template: template.into(),
            messages: r#"[{"role":"user","content":"é"}]"#.into(),
            tools: None,
            arguments: "".into(),
            add_generation_prompt: true,
            begin: "<s>".into(),
            end: "</s>".into(),
            context: 4096,
        }
    }

    #[test]
    fn a_refusal_is_told_in_few_words() {
        let mut asked = Vec::new();
        for template in [
            "{{ bos_token }}{{ messages[0].content }}",
            "{{ raise_exception('no' * 1000000) }}",
        ] {
            let message = serde_json::to_vec(&rendering(template)).expect("JSON");
            asked.extend((message.len() as u32).to_le_bytes());
            asked.extend(message);
        }
        let mut answered = Vec::new();
        serve_renderings(&asked[..], &mut answered, || Ok(())).expect("served");
        let mut next = || -> Rendered {
            let (length, rest) = answered.split_first_chunk().expect("a length");
            let (message, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
            let rendered = serde_json::from_slice(message).expect("JSON");
            answered = rest.to_vec();
            rendered
        };
        assert!(matches!(next(), Rendered::Prompt(text) if text == "<s>é"));
        assert!(
            matches!(next(), Rendered::Refused(reason) if reason.contains("no") && reason.len() <= REASON_MAX)
        );
        assert!(answered.is_empty());
    }

    #[test]
    fn a_process_that_ends_is_of_this_machine_and_here_needs_none() {
        let times = Times {
            patience: Duration::ZERO,
            wall: Duration::from_secs(60),
            processor: Duration::from_secs(60),
        };
        let program = Apart::new("/bin/false".into(), [], times);
        let apart = Templates::Apart(Arc::new(program));
        let error = apart.render(&rendering("a")).expect_err("nobody renders");
        assert!(matches!(error, RenderError::Lost(_)), "{error}");
        let prompt = Templates::Here.render(&rendering("{{ 1 + 1 }}"));
        assert_eq!(prompt.expect("here"), "2");
    }
}
