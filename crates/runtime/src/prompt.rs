//! From a request's prompt to tokens, the same at the provider and at whoever recomputes the answer.

use crate::answer::Shape;
use crate::apart::ApartError;
use crate::control::ControlTokens;
use crate::exact::OpenError;
use crate::grammars::Grammars;
use crate::templates::{RenderError, Templates};
use crate::tools::{Catalogue, Syntax};
use crate::trial::trials;
use aho_corasick::BuildError;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use stoa_engine::{EngineError, Model};
use stoa_grammar::{CallSyntax, Calls, Compiled, Grammar, GrammarError, SEMANTICS, Vocabulary};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_types::SamplingParameters;
use stoa_verify::reasoning;

/// How prompts of one model are made.
#[derive(Debug)]
pub(crate) struct PromptMaker {
    templates: Templates,
    grammars: Grammars,
    syntax: Option<Syntax>,
    control: ControlTokens,
    /// Made when first needed: few answers are held to a grammar.
    vocabulary: OnceLock<Result<Vocabulary, GrammarError>>,
    calls: OnceLock<CallSyntax>,
}

impl PromptMaker {
    pub fn new(
        model: &Model,
        templates: Templates,
        grammars: Grammars,
    ) -> Result<Self, BuildError> {
        let tokenizer = model.tokenizer();
        let ids = 0..u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
        let control: Vec<String> = ids
            .filter(|id| tokenizer.is_special(*id))
            .map(|id| tokenizer.decode(&[id], true))
            .filter(|text| !text.is_empty())
            .collect();
        Ok(Self {
            templates,
            grammars,
            syntax: model.template().and_then(Syntax::of_template),
            control: ControlTokens::new(&control)?,
            vocabulary: OnceLock::new(),
            calls: OnceLock::new(),
        })
    }

    /// What the answer may be. Tools are left out of the prompt where the answer must not use them.
    pub fn shape(&self, work: &Work) -> Result<Shape, RefusalReason> {
        let tools = match &work.prompt {
            Prompt::Chat { tools, .. } => tools.as_str(),
            Prompt::Text(_) | Prompt::Tokens(_) | Prompt::Embed { .. } => "[]",
        };
        let (required, several, instead) = match work.answer {
            AnswerShape::NoTools | AnswerShape::Regex(_) => return Ok(Shape::Text),
            // JSON, or one call where there are tools.
            AnswerShape::JsonObject => (false, false, Some(true)),
            AnswerShape::JsonSchema { .. } => (false, false, Some(false)),
            AnswerShape::Any => (false, true, None),
            AnswerShape::ToolCall => (true, true, None),
            AnswerShape::OneCallAtMost => (false, false, None),
            AnswerShape::OneCall => (true, false, None),
        };
        let catalogue = Catalogue::parse(tools).map_err(|reason| unsupported("tools", reason))?;
        match self.syntax {
            _ if catalogue.is_empty() && required => Err(unsupported(
                "tool_choice",
                "a tool call is demanded but no tool is given",
            )),
            _ if catalogue.is_empty() => Ok(match instead {
                Some(object) => Shape::Json { object },
                None => Shape::Text,
            }),
            None => Err(unsupported(
                "tools",
                "this model's chat template has no known form of tool calls",
            )),
            Some(syntax) => Ok(Shape::Tools {
                syntax,
                catalogue,
                required,
                several,
                instead,
            }),
        }
    }

    /// What the answer is held to while it is decoded, ready to begin. Everybody who computes the answer makes the same of the work, or
    /// refuses it with the same words.
    pub fn grammar(
        &self,
        model: &Model,
        work: &Work,
        shape: &Shape,
    ) -> Result<Option<Compiled>, RefusalReason> {
        if !work.has_rules() {
            let reason = format!(
                "the parameters name the rules `{}`, this engine holds answers to `{SEMANTICS}` where there is a grammar",
                work.sampling.grammar.escape_default()
            );
            return Err(unsupported("grammar", reason));
        }
        let (parameter, text) = match &work.answer {
            AnswerShape::JsonObject => ("response_format", Some(Grammar::JsonObject)),
            AnswerShape::JsonSchema { schema, strict } => {
                let (schema, strict) = (schema.clone(), *strict);
                (
                    "response_format.json_schema.schema",
                    Some(Grammar::JsonSchema { schema, strict }),
                )
            }
            AnswerShape::Regex(expression) => ("regex", Some(Grammar::Regex(expression.clone()))),
            _ => ("tools", None),
        };
        match (text, shape) {
            (text, Shape::Tools { .. }) => {
                let calls = self.calls(model, shape, text.clone())?;
                let begun = Instant::now();
                let compiled = self.compile(model, "tools", &calls);
                let at_fault = match (&compiled, text) {
                    (Err(RefusalReason::Unsupported { .. }), Some(text))
                        if begun.elapsed() < BLAME_MAX =>
                    {
                        self.compile(model, parameter, &text).err()
                    }
                    _ => None,
                };
                match at_fault {
                    Some(unsupported @ RefusalReason::Unsupported { .. }) => Err(unsupported),
                    _ => compiled.map(Some),
                }
            }
            (Some(text), _) => self.compile(model, parameter, &text).map(Some),
            (None, _) => Ok(None),
        }
    }

    /// Makes a grammar, if that keeps within the limits of memory and time.
    fn compile(
        &self,
        model: &Model,
        parameter: &str,
        grammar: &Grammar,
    ) -> Result<Compiled, RefusalReason> {
        let tried = self.grammars.try_out(grammar);
        tried.map_err(|error| not_made(model, "a grammar", parameter, &error))?;
        let vocabulary = self.vocabulary(model);
        let compiled = vocabulary.and_then(|vocabulary| vocabulary.compile(grammar));
        compiled.map_err(|error| match error {
            GrammarError::Machine(_) => {
                tracing::error!(model = %model.info().name, %error, "a grammar was not made now");
                RefusalReason::Busy
            }
            error => unsupported(parameter, error.to_string()),
        })
    }

    fn vocabulary(&self, model: &Model) -> Result<&Vocabulary, GrammarError> {
        let made = self
            .vocabulary
            .get_or_init(|| Vocabulary::new(model.tokenizer()));
        made.as_ref().map_err(Clone::clone)
    }

    /// The grammar of a shape's tool calls, and of what may come in their place.
    fn calls(
        &self,
        model: &Model,
        shape: &Shape,
        instead: Option<Grammar>,
    ) -> Result<Grammar, RefusalReason> {
        let Shape::Tools {
            syntax,
            catalogue,
            required,
            several,
            ..
        } = shape
        else {
            return Err(unsupported("tools", "the answer may call none"));
        };
        let vocabulary = self
            .vocabulary(model)
            .map_err(|error| unsupported("tools", error.to_string()))?;
        let written = self
            .calls
            .get_or_init(|| CallSyntax::new(vocabulary, syntax.open, syntax.close));
        Ok(Grammar::Calls(Calls {
            syntax: written.clone(),
            tools: catalogue.tools().to_vec(),
            required: *required,
            several: *several,
            instead: instead.map(Box::new),
        }))
    }

    /// The prompt's tokens.
    pub fn tokens(
        &self,
        model: &Model,
        prompt: &Prompt,
        shape: &Shape,
    ) -> Result<Vec<u32>, RefusalReason> {
        let tokens = match prompt {
            Prompt::Chat {
                messages,
                tools,
                arguments,
            } => {
                let with_tools = matches!(shape, Shape::Tools { .. });
                let tools = with_tools.then(|| self.control.defuse(&without_strict(tools)));
                let (messages, arguments) = (
                    self.control.defuse(messages),
                    self.control.defuse(arguments),
                );
                let text = model
                    .rendering(&messages, tools.as_deref(), &arguments, true)
                    .map_err(RenderError::Refused)
                    .and_then(|rendering| self.templates.render(&rendering))
                    .map_err(|error| not_rendered(model, error))?;
                model.tokenizer().encode(&text, true)
            }
            Prompt::Text(text) => model.tokenizer().encode_prompt(text),
            Prompt::Tokens(ids) => known(model, ids),
            Prompt::Embed { .. } => {
                return Err(unsupported("input", "vectors are no continuation"));
            }
        }
        .map_err(|error| refusal("prompt", error))?;
        if tokens.is_empty() {
            return Err(refusal("prompt", EngineError::EmptyPrompt));
        }
        Ok(tokens)
    }
}

/// The tools as a model sees them. Whether a client wants strictness is none of its business, and would be letters that it never learned.
fn without_strict(tools: &str) -> Cow<'_, str> {
    if !tools.contains("\"strict\"") {
        return Cow::Borrowed(tools);
    }
    let Ok(mut list) = serde_json::from_str::<Vec<Value>>(tools) else {
        // Not an array: the template's reader says so.
        return Cow::Borrowed(tools);
    };
    for tool in &mut list {
        let function = tool.get_mut("function").and_then(Value::as_object_mut);
        if let Some(function) = function {
            // The rest keeps its order.
            function.retain(|name, _| name != "strict");
        }
    }
    Cow::Owned(Value::from(list).to_string())
}

/// How long a grammar of tools and JSON may have taken where it is found out which of the two is at fault: both together keep a caller from
/// the first token.
const BLAME_MAX: Duration = Duration::from_millis(200);

fn not_rendered(model: &Model, error: RenderError) -> RefusalReason {
    match error {
        RenderError::Refused(error) => refusal("messages", error),
        RenderError::Lost(error) => not_made(model, "a prompt", "messages", &error),
    }
}

/// What a process of limited memory and time did not make of a parameter. A limit of this machine is not the request's fault: elsewhere there
/// may be more.
fn not_made(model: &Model, what: &str, parameter: &str, error: &ApartError) -> RefusalReason {
    let model = &model.info().name;
    match error {
        ApartError::Limits(error) => {
            tracing::warn!(%model, parameter, %error, "{what} was not made");
            RefusalReason::Limit {
                parameter: parameter.to_owned(),
                reason: format!(
                    "to make {what} of it takes more memory or time than there is for one; make it simpler"
                ),
            }
        }
        ApartError::Interrupted(error) => {
            tracing::warn!(%model, parameter, %error, "{what} was not made now");
            RefusalReason::Busy
        }
        ApartError::Busy => RefusalReason::Busy,
        // For want of memory or processes, since it could be started before.
        ApartError::NotStarted(error) => {
            tracing::error!(%model, parameter, %error, "{what} was not made now");
            RefusalReason::Busy
        }
        ApartError::Failed(error) => {
            tracing::error!(%model, parameter, %error, "{what} cannot be made here");
            RefusalReason::UnknownModel
        }
    }
}

/// Whether the parameters lie within what is offered, and every token that they name within the vocabulary, where that is known.
pub(crate) fn check_sampling(
    sampling: &SamplingParameters,
    vocab: Option<usize>,
) -> Result<(), RefusalReason> {
    sampling
        .check()
        .map_err(|error| unsupported(error.parameter(), error.to_string()))?;
    // The ids ascend: the last is the greatest.
    match (sampling.logit_bias.last_key_value(), vocab) {
        (Some((id, _)), Some(vocab)) if *id as usize >= vocab => Err(refusal(
            "logit_bias",
            EngineError::UnknownToken { id: *id, vocab },
        )),
        _ => Ok(()),
    }
}

pub(crate) fn known(model: &Model, ids: &[u32]) -> Result<Vec<u32>, EngineError> {
    let vocab = model.info().vocab;
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(EngineError::UnknownToken { id: *id, vocab }),
        None => Ok(ids.to_vec()),
    }
}

pub(crate) fn unsupported(parameter: &str, reason: impl Into<String>) -> RefusalReason {
    RefusalReason::Unsupported {
        parameter: parameter.to_owned(),
        reason: reason.into(),
    }
}

pub(crate) fn refusal(parameter: &str, error: EngineError) -> RefusalReason {
    match error {
        EngineError::ContextExceeded {
            used,
            more,
            context,
        } => RefusalReason::ContextLength {
            tokens: (used + more) as u64,
            context: context as u64,
        },
        other => unsupported(parameter, other.to_string()),
    }
}

/// Whether the model's own template knows the marks of reasoning, and answers hold both: none is a control token, which is no text, and the
/// template does not write the first of them before the answer begins.
pub(crate) fn reasons(model: &Model, templates: &Templates) -> Result<bool, RenderError> {
    let marks = [reasoning::OPEN, reasoning::CLOSE];
    let known = |template: &str| marks.iter().all(|mark| template.contains(mark));
    let tokenizer = model.tokenizer();
    let is_text = |mark: &str| {
        let ids = tokenizer.encode(mark, true).unwrap_or_default();
        tokenizer.decode(&ids, false) == mark
    };
    if !model.template().is_some_and(known) || !marks.into_iter().all(is_text) {
        return Ok(false);
    }
    let prompt = tried(
        model,
        templates,
        (r#"[{"role":"user","content":"a"}]"#, None, ""),
    )?;
    Ok(!prompt.is_some_and(|prompt| prompt.trim_end().ends_with(reasoning::OPEN)))
}

/// The prompt for messages, tools and arguments, where the template takes them.
fn tried(
    model: &Model,
    templates: &Templates,
    (messages, tools, arguments): (&str, Option<&str>, &str),
) -> Result<Option<String>, RenderError> {
    let Ok(rendering) = model.rendering(messages, tools, arguments, true) else {
        return Ok(None);
    };
    match templates.render(&rendering) {
        Ok(prompt) => Ok(Some(prompt)),
        Err(RenderError::Refused(_)) => Ok(None),
        // What a machine could not do says nothing of the template.
        Err(error) => Err(error),
    }
}

/// Upper bound of the tokens per message that are not bytes of the request: measured on the template with one-letter messages of
/// every role, with and without a tool, beginning and generation prompt included. A template that refuses all of them would refuse whoever
/// comes: its model is not opened.
pub(crate) fn message_overhead(model: &Model, templates: &Templates) -> Result<u32, OpenError> {
    let (mut longest, mut refused) = (None, None);
    for chat in trials() {
        let rendered = model
            .rendering(&chat.messages, chat.tools, chat.arguments, true)
            .map_err(RenderError::Refused)
            .and_then(|rendering| templates.render(&rendering));
        match rendered {
            Ok(text) => {
                let ids = model.tokenizer().encode(&text, true);
                longest = longest.max(Some(ids.map_or(1, |ids| ids.len())));
            }
            // Templates may refuse a role as the first one.
            Err(RenderError::Refused(error)) => {
                refused.get_or_insert(error);
            }
            // What a machine could not do says nothing of the template.
            Err(error) => return Err(error.into()),
        }
    }
    let answers = model.config().architecture.encoder.is_none() && model.template().is_some();
    if let (true, None, Some(error)) = (answers, longest, refused) {
        return Err(OpenError::NoChat(error));
    }
    // What stands around every text, as an encoder has it.
    let frame = model
        .tokenizer()
        .encode_prompt("")
        .map_or(0, |ids| ids.len());
    Ok(u32::try_from(longest.unwrap_or(1).max(frame)).unwrap_or(u32::MAX))
}
