//! A backend that follows a script instead of a model: for tests of everything around a model, never for paid work.
//!
//! | model | answer |
//! |---|---|
//! | `script-echo` | the last user text again |
//! | `script-fixed-N` | exactly N tokens `t0 t1 …` |
//!
//! A token is a run of ASCII letters and digits or one other character; white space attaches to the next token. The prompt counts
//! four tokens per message and two more besides those of its texts. Faults and timings come from a [`Script`].

use crate::backend::{
    Backend, CancelFlag, Emit, Generation, ModelFacts, Piece, Prepared, RunError,
};
use serde_json::Value;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use stoa_crypto::keccak256;
use stoa_engine::StopScanner;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{Prompt, Work};
use stoa_types::{Digest, FinishReason, Tier};

/// What goes wrong in a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Every job is refused.
    Refuse(RefusalReason),
    /// Says nothing more after this many tokens, until it is cancelled.
    StallAfter(u32),
    /// Fails after this many tokens.
    FailAfter(u32),
    /// Drops the connection after this many tokens.
    DisconnectAfter(u32),
    /// Panics after this many tokens.
    PanicAfter(u32),
    /// Claims this many prompt tokens more than there are.
    OvercountPrompt(u64),
    /// Claims another prompt than it was given.
    FalsePromptRoot,
    /// Emits token ids that belong to no vocabulary, with text that belongs to no token.
    Garbage,
    /// Keeps on emitting after it was cancelled, for this many tokens.
    LateAfterCancel(u32),
}

/// Timings and faults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// Before the first token.
    pub first_token: Duration,
    /// Before each later token.
    pub between_tokens: Duration,
    /// What goes wrong, if anything.
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Echo,
    Fixed(u32),
}

/// A scripted model.
#[derive(Debug, Clone)]
pub struct ScriptedBackend {
    facts: ModelFacts,
    behaviour: Behaviour,
    script: Script,
}

impl ScriptedBackend {
    /// The scripted model of that name; `None` for an unknown name.
    pub fn named(name: &str, script: Script) -> Option<Self> {
        let behaviour = match name.strip_prefix("script-")? {
            "echo" => Behaviour::Echo,
            other => Behaviour::Fixed(other.strip_prefix("fixed-")?.parse().ok()?),
        };
        let facts = ModelFacts {
            model: name.to_owned(),
            model_root: Digest::ZERO,
            runtime_digest: keccak256("stoa.scripted.v1"),
            tier: Tier::None,
            context: 4096,
            quantization: "none".to_owned(),
            reasons: false,
            message_overhead: 6,
        };
        Some(Self {
            facts,
            behaviour,
            script,
        })
    }

    /// The same with other claims about itself, for example a model root or tier that it cannot keep.
    #[must_use]
    pub fn claiming(mut self, change: impl FnOnce(&mut ModelFacts)) -> Self {
        change(&mut self.facts);
        self
    }

    fn answer(&self, work: &Work) -> String {
        match self.behaviour {
            Behaviour::Fixed(count) => (0..count)
                .map(|n| {
                    if n == 0 {
                        "t0".to_owned()
                    } else {
                        format!(" t{n}")
                    }
                })
                .collect(),
            Behaviour::Echo => texts(&work.prompt)
                .into_iter()
                .rfind(|(role, _)| role == "user")
                .map(|(_, text)| text)
                .unwrap_or_default(),
        }
    }

    /// Sleeps, but not longer than until the flag is raised.
    fn wait(&self, index: u32, cancel: &CancelFlag) {
        let wait = if index == 0 {
            self.script.first_token
        } else {
            self.script.between_tokens
        };
        let until = Instant::now() + wait;
        while !cancel.is_cancelled() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(5)));
        }
    }

    /// What the script does before token `index`.
    fn strike(&self, index: u32, cancel: &CancelFlag) -> Result<(), RunError> {
        match &self.script.fault {
            Some(Fault::FailAfter(n)) if *n == index => {
                Err(RunError::Failed("the script fails here".to_owned()))
            }
            Some(Fault::DisconnectAfter(n)) if *n == index => Err(RunError::Disconnect),
            Some(Fault::PanicAfter(n)) if *n == index => panic!("the script panics here"),
            Some(Fault::StallAfter(n)) if *n == index => {
                while !cancel.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn token(&self, piece: &str, text: String) -> (u32, String) {
        if self.script.fault == Some(Fault::Garbage) {
            (u32::MAX, "\u{fffd}garbage".to_owned())
        } else {
            (id_of(piece), text)
        }
    }
}

impl Backend for ScriptedBackend {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn prepare(&self, work: &Work) -> Result<Prepared, RefusalReason> {
        if let Some(Fault::Refuse(reason)) = &self.script.fault {
            return Err(reason.clone());
        }
        if work.prompt.vectors().is_some() {
            return Err(RefusalReason::Unsupported {
                parameter: "input".to_owned(),
                reason: "a script makes no vectors".to_owned(),
            });
        }
        if work.sampling.logprobs.is_some() {
            return Err(RefusalReason::Unsupported {
                parameter: "logprobs".to_owned(),
                reason: "a script holds nothing likely".to_owned(),
            });
        }
        let prompt = prompt_tokens(&work.prompt);
        let context = u64::from(self.facts.context);
        if prompt.len() as u64 > context {
            return Err(RefusalReason::ContextLength {
                tokens: prompt.len() as u64,
                context,
            });
        }
        let mut prepared = Prepared::new(work.clone(), prompt);
        match &self.script.fault {
            Some(Fault::OvercountPrompt(more)) => prepared.facts.input_units += more,
            Some(Fault::FalsePromptRoot) => prepared.facts.prompt_root = keccak256("another"),
            _ => {}
        }
        Ok(prepared)
    }

    fn run(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
    ) -> Result<Generation, RunError> {
        let sampling = &prepared.work.sampling;
        let answer = self.answer(&prepared.work);
        let pieces = pieces(&answer);
        let mut stops = StopScanner::new(&sampling.stop);
        let mut late = match self.script.fault {
            Some(Fault::LateAfterCancel(tokens)) => tokens,
            _ => 0,
        };
        let ended = |finish_reason| {
            Ok(Generation {
                tool_calls: Vec::new(),
                finish_reason,
            })
        };
        for (index, piece) in (0_u32..).zip(&pieces) {
            if index == sampling.max_output_tokens {
                return ended(FinishReason::Length);
            }
            self.wait(index, cancel);
            self.strike(index, cancel)?;
            if cancel.is_cancelled() {
                if late == 0 {
                    return ended(FinishReason::Cancelled);
                }
                late -= 1;
            }
            let (mut text, stopped) = stops.push(piece);
            let last =
                index as usize + 1 == pieces.len() || index + 1 == sampling.max_output_tokens;
            if last && !stopped {
                text.push_str(&stops.finish());
            }
            let (id, text) = self.token(piece, text);
            if emit(Piece::new(vec![id], text)) == ControlFlow::Break(()) {
                return ended(FinishReason::Cancelled);
            }
            if stopped {
                break;
            }
        }
        self.strike(u32::try_from(pieces.len()).unwrap_or(u32::MAX), cancel)?;
        ended(FinishReason::Stop)
    }
}

/// Roles and texts of a prompt in order.
fn texts(prompt: &Prompt) -> Vec<(String, String)> {
    let messages = match prompt {
        Prompt::Text(text) => return vec![("user".to_owned(), text.clone())],
        Prompt::Tokens(_) | Prompt::Embed { .. } => return Vec::new(),
        Prompt::Chat { messages, .. } => messages,
    };
    let messages: Vec<Value> = serde_json::from_str(messages).unwrap_or_default();
    messages.iter().map(role_and_text).collect()
}

fn role_and_text(message: &Value) -> (String, String) {
    let part = |part: &Value| part["text"].as_str().unwrap_or_default().to_owned();
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => String::new(),
    };
    let role = message["role"].as_str().unwrap_or_default().to_owned();
    (role, text)
}

fn prompt_tokens(prompt: &Prompt) -> Vec<u32> {
    if let Prompt::Tokens(ids) = prompt {
        return ids.clone();
    }
    let texts = texts(prompt);
    let frame = match prompt {
        Prompt::Chat { .. } => 4 * texts.len() + 2,
        _ => 0,
    };
    let ids = texts.iter().flat_map(|(_, text)| pieces(text)).map(id_of);
    std::iter::repeat_n(0, frame).chain(ids).collect()
}

/// Stands for a piece of text; the same text has the same id everywhere.
fn id_of(piece: &str) -> u32 {
    let [a, b, c, d, ..] = keccak256(piece).0;
    u32::from_be_bytes([0, b, c, d]) ^ u32::from(a)
}

/// The tokens of a text, white space before each included; white space at the end belongs to the last.
fn pieces(text: &str) -> Vec<&str> {
    let mut cuts = vec![0];
    let mut previous = ' ';
    for (at, character) in text.char_indices() {
        let continues = previous.is_whitespace()
            || character.is_whitespace() && text[at..].trim_start().is_empty()
            || previous.is_ascii_alphanumeric() && character.is_ascii_alphanumeric();
        if at > 0 && !continues {
            cuts.push(at);
        }
        previous = character;
    }
    cuts.push(text.len());
    cuts.windows(2)
        .map(|cut| &text[cut[0]..cut[1]])
        .filter(|piece| !piece.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_words_and_characters_and_lose_nothing() {
        assert_eq!(
            pieces("Hello, wörld 42!  "),
            ["Hello", ",", " w", "ö", "rld", " 42", "!  "]
        );
        assert_eq!(pieces(""), [""; 0]);
        assert_eq!(pieces("  "), ["  "]);
    }

    #[test]
    fn names_are_read_strictly() {
        for name in ["script-echo", "script-fixed-0", "script-fixed-12"] {
            assert!(
                ScriptedBackend::named(name, Script::default()).is_some(),
                "{name}"
            );
        }
        for name in ["echo", "script-fixed-", "script-fixed-x", "script-"] {
            assert!(
                ScriptedBackend::named(name, Script::default()).is_none(),
                "{name}"
            );
        }
    }
}
