//! What a client reads: the whole answer, or the pieces of a stream. Joined pieces equal the whole.

use crate::codec::{Delivery, ReceiptPlace, VectorForm};
use crate::error::ApiError;
use crate::logprobs;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use stoa_nodes::client::{Done, Failure, Started};
use stoa_openai::{
    AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChunkChoice, Completion,
    CompletionChoice, Delta, Embedding, EmbeddingList, EmbeddingUsage, FunctionCall,
    FunctionCallDelta, ToolCall, ToolCallDelta, Usage, Vector,
};
use stoa_types::{FinishReason, JobId, Logprobs, Receipt, TokenAmount};
use stoa_verify::read_vectors;
use stoa_verify::reasoning::{self, Parts, Splitter};

/// Argument text of one tool-call piece, in characters.
const ARGUMENT_PIECE: usize = 256;

/// Which of the three forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Chat,
    Completion,
    Embeddings,
}

impl Form {
    /// Its route.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// The field that holds the prompt.
    const fn prompt(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completion => "prompt",
            Self::Embeddings => "input",
        }
    }

    /// A failed call of this form.
    pub(crate) fn error(self, failure: Failure) -> ApiError {
        if self == Self::Chat {
            return ApiError::Failed(failure);
        }
        ApiError::FailedPrompt {
            failure: Box::new(failure),
            prompt: self.prompt(),
        }
    }

    /// A request of this form that failed by one of its choices, while others of it were `charged`.
    pub(crate) fn choice_error(
        self,
        choice: usize,
        failure: Failure,
        charged: Vec<JobId>,
        delivered: bool,
    ) -> ApiError {
        ApiError::FailedChoice {
            failure: Box::new(failure),
            prompt: self.prompt(),
            choice,
            charged,
            delivered,
        }
    }
}

/// What surrounds the content of one answer.
#[derive(Debug, Clone)]
pub(crate) struct Framing {
    pub(crate) form: Form,
    /// One for each choice, in their order; the first is also the request's.
    pub(crate) jobs: Vec<JobId>,
    /// Seconds since the Unix epoch.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) delivery: Delivery,
    pub(crate) ignored: Vec<String>,
}

/// One choice, complete, with its log-probabilities where they were asked for.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) done: Arc<Done>,
    pub(crate) likely: Vec<Logprobs>,
}

/// The streamed text is no beginning of the final text, or no vectors where these were ordered: the router contradicts itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

impl Framing {
    /// The request's id: its first job.
    pub(crate) fn request(&self) -> JobId {
        self.jobs.first().copied().unwrap_or(JobId::ZERO)
    }

    fn id(&self) -> String {
        let prefix = match self.form {
            Form::Chat => "chatcmpl",
            Form::Completion => "cmpl",
            Form::Embeddings => "embd",
        };
        format!("{prefix}-{}", hex::encode(self.request().0))
    }

    /// Id of a tool call: a function of job and index, so that whoever stores it finds it again.
    fn call_id(&self, choice: usize, index: usize) -> String {
        let mut bytes = self.jobs[choice].0.to_vec();
        bytes.extend((index as u64).to_be_bytes());
        format!("call_{}", &blake3::hash(&bytes).to_hex()[..24])
    }

    /// A single call goes out as `function_call` where only the deprecated fields came in; more than one does not fit there.
    fn is_legacy_call(&self, done: &Done) -> bool {
        self.delivery.legacy_functions && done.content.tool_calls.len() == 1
    }

    fn finish_reason(&self, done: &Done) -> String {
        let word = if self.is_legacy_call(done) {
            "function_call"
        } else {
            done.content.finish_reason.as_openai()
        };
        word.to_owned()
    }

    /// The `stoa` object of one choice.
    fn stoa_of(&self, choice: usize, done: &Done) -> Value {
        let r = &done.receipt.receipt;
        let mut stoa = json!({
            "request_id": self.request(),
            "provider": r.provider,
            "model_digest": r.model_root,
            "region": done.started.region,
            "tier": r.tier,
            "cost": cost([r]),
            "refund": done.refund.to_string(),
            "ttft_ms": done.ttft_ms,
            "failovers": done.started.failovers,
            "receipt_id": self.jobs[choice],
            "parameters": done.parameters,
            "ignored_parameters": self.ignored,
            "settlement": "pending",
        });
        if self.jobs.len() > 1 {
            stoa["choice"] = json!(choice);
        }
        if self.form != Form::Embeddings {
            stoa["stop"] = json!(stop(done));
        }
        if self.delivery.receipt == ReceiptPlace::Inline {
            stoa["receipt"] = json!(done.receipt);
        }
        stoa
    }

    /// The `stoa` object of the whole answer: of several choices their sums, and the object of each.
    fn stoa(&self, answers: &[Answered]) -> Value {
        if let [only] = answers {
            return self.stoa_of(0, &only.done);
        }
        let receipts = answers.iter().map(|answer| &answer.done.receipt.receipt);
        let refunds = answers.iter().map(|answer| answer.done.refund);
        let choices = answers.iter().enumerate();
        let choices = choices.map(|(at, answer)| self.stoa_of(at, &answer.done));
        json!({
            "request_id": self.request(),
            "cost": cost(receipts),
            "refund": sum(refunds).to_string(),
            "ignored_parameters": self.ignored,
            "settlement": "pending",
            "choices": choices.collect::<Vec<_>>(),
        })
    }

    /// The whole answer: its choices in their order, as many as there are jobs.
    pub(crate) fn whole(&self, answers: &[Answered]) -> Result<String, Contradiction> {
        Ok(match self.form {
            Form::Chat => text(&self.whole_chat(answers)),
            Form::Embeddings => text(&self.vectors(answers)?),
            Form::Completion => text(&Completion {
                choices: (0..)
                    .zip(answers)
                    .map(|(at, a)| self.completion_choice(at, a))
                    .collect(),
                usage: Some(Some(usage(answers.iter().map(|a| &*a.done)))),
                stoa: Some(self.stoa(answers)),
                ..self.completion_piece()
            }),
        })
    }

    fn completion_choice(&self, choice: u32, answer: &Answered) -> CompletionChoice {
        let done = &answer.done;
        CompletionChoice {
            index: choice,
            text: self.echo() + &done.content.text,
            logprobs: self
                .delivery
                .logprobs
                .then(|| logprobs::completion(&answer.likely, &mut self.echo_length())),
            finish_reason: Some(self.finish_reason(done)),
        }
    }

    /// The lines of the text, as they are or as numbers: the router took nothing that is not vectors.
    fn vectors(&self, answers: &[Answered]) -> Result<EmbeddingList, Contradiction> {
        let [Answered { done, .. }] = answers else {
            return Err(Contradiction);
        };
        let all: Vec<Vector> = match self.delivery.vectors {
            VectorForm::Base64 => {
                let lines = done.content.text.lines();
                lines.map(|line| Vector::Base64(line.to_owned())).collect()
            }
            VectorForm::Float => {
                let vectors = read_vectors(&done.content.text).ok_or(Contradiction)?;
                let numbers = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
                vectors
                    .into_iter()
                    .map(numbers)
                    .map(Vector::Float)
                    .collect()
            }
        };
        let one = |(index, embedding)| Embedding {
            object: "embedding".to_owned(),
            index,
            embedding,
        };
        let usage = usage([&**done]);
        Ok(EmbeddingList {
            object: "list".to_owned(),
            data: (0..).zip(all).map(one).collect(),
            model: self.model.clone(),
            usage: EmbeddingUsage {
                prompt_tokens: usage.prompt_tokens,
                total_tokens: usage.prompt_tokens,
            },
            stoa: Some(self.stoa(answers)),
        })
    }

    fn whole_chat(&self, answers: &[Answered]) -> ChatCompletion {
        ChatCompletion {
            id: self.id(),
            object: "chat.completion".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices: (0..)
                .zip(answers)
                .map(|(at, a)| self.chat_choice(at, a))
                .collect(),
            usage: Some(usage(answers.iter().map(|a| &*a.done))),
            service_tier: Some("default".to_owned()),
            system_fingerprint: None,
            stoa: Some(self.stoa(answers)),
        }
    }

    fn chat_choice(&self, choice: u32, answer: &Answered) -> ChatChoice {
        let (done, content) = (&answer.done, &answer.done.content);
        let parts = reasoning::split(&content.text, done.started.reasons);
        let calls = content
            .tool_calls
            .iter()
            .enumerate()
            .map(|(index, call)| ToolCall {
                id: self.call_id(choice as usize, index),
                kind: "function".to_owned(),
                function: FunctionCall {
                    name: call.name.clone(),
                    arguments: call.arguments.clone(),
                },
            });
        let mut tool_calls: Vec<_> = calls.collect();
        let silent = parts.content.is_empty() && !tool_calls.is_empty();
        let function_call = if self.is_legacy_call(done) {
            tool_calls.pop().map(|call| call.function)
        } else {
            None
        };
        ChatChoice {
            index: choice,
            message: AssistantMessage {
                role: "assistant".to_owned(),
                content: (!silent).then_some(parts.content),
                reasoning_content: Some(parts.reasoning).filter(|text| !text.is_empty()),
                tool_calls,
                function_call,
                ..AssistantMessage::default()
            },
            finish_reason: Some(self.finish_reason(done)),
            logprobs: self
                .delivery
                .logprobs
                .then(|| logprobs::chat(&answer.likely)),
        }
    }

    fn echo(&self) -> String {
        self.delivery.echo.clone().unwrap_or_default()
    }

    /// Characters that stand before the answer.
    fn echo_length(&self) -> u64 {
        let echo = self.delivery.echo.as_deref();
        echo.map_or(0, |echo| echo.chars().count() as u64)
    }

    /// `null` where a usage piece will come, else no key at all.
    fn no_usage(&self) -> Option<Option<Usage>> {
        self.delivery.include_usage.then_some(None)
    }

    fn completion_piece(&self) -> Completion {
        Completion {
            id: self.id(),
            object: "text_completion".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices: Vec::new(),
            usage: self.no_usage(),
            system_fingerprint: None,
            stoa: None,
        }
    }

    fn chat_piece(&self, choice: u32, delta: Delta) -> ChatChunk {
        ChatChunk {
            id: self.id(),
            object: "chat.completion.chunk".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices: vec![ChunkChoice {
                index: choice,
                delta,
                finish_reason: None,
                logprobs: None,
            }],
            usage: self.no_usage(),
            service_tier: Some("default".to_owned()),
            system_fingerprint: None,
            stoa: None,
        }
    }

    /// What follows the last choice of a stream: the counts of all together, where they are asked for.
    pub(crate) fn usage_piece<'a>(
        &self,
        answers: impl IntoIterator<Item = &'a Done>,
    ) -> Option<String> {
        if !self.delivery.include_usage {
            return None;
        }
        let usage = Some(Some(usage(answers)));
        Some(match self.form {
            Form::Chat => text(&ChatChunk {
                choices: Vec::new(),
                usage,
                ..self.chat_piece(0, Delta::default())
            }),
            Form::Completion | Form::Embeddings => text(&Completion {
                usage,
                ..self.completion_piece()
            }),
        })
    }
}

/// The pieces of one choice of a streamed answer, each the JSON of one `data:` line. Vectors are never streamed: no request for them can ask for it.
#[derive(Debug)]
pub(crate) struct Pieces {
    framing: Arc<Framing>,
    choice: u32,
    sent: String,
    begun: bool,
    /// Tells reasoning from the rest of a chat's answer, once it is known who answers.
    splitter: Splitter,
    /// Log-probabilities that wait for a piece to go with.
    likely: Vec<Logprobs>,
    /// Characters that the tokens told so far begin.
    offset: u64,
}

impl Pieces {
    pub(crate) fn new(framing: Arc<Framing>, choice: u32) -> Self {
        Self {
            offset: framing.echo_length(),
            framing,
            choice,
            sent: String::new(),
            begun: false,
            splitter: Splitter::new(false),
            likely: Vec::new(),
        }
    }

    /// Pieces for more text. Log-probabilities of tokens without text go with the next piece.
    pub(crate) fn text(&mut self, more: &str, likely: Vec<Logprobs>) -> Vec<String> {
        self.likely.extend(likely);
        self.sent.push_str(more);
        let parts = self.splitter.push(more);
        self.parts(parts)
    }

    /// Who answers. Nothing was told of the answer before.
    pub(crate) fn start(&mut self, started: &Started) {
        let is_told_apart = started.reasons && self.framing.form == Form::Chat;
        self.splitter = Splitter::new(is_told_apart);
    }

    /// Reasoning, then what follows it: a piece for each of them that there is.
    fn parts(&mut self, parts: Parts) -> Vec<String> {
        let mut pieces = Vec::new();
        if !parts.reasoning.is_empty() {
            pieces.extend(self.begin(Some(String::new())));
            let likely = std::mem::take(&mut self.likely);
            let mut piece = self.framing.chat_piece(
                self.choice,
                Delta {
                    reasoning_content: Some(parts.reasoning),
                    ..Delta::default()
                },
            );
            piece.choices[0].logprobs = chat_logprobs(&likely);
            pieces.push(text(&piece));
        }
        if !parts.content.is_empty() {
            pieces.extend(self.begin(Some(String::new())));
            let likely = std::mem::take(&mut self.likely);
            pieces.push(self.text_piece(&parts.content, &likely));
        }
        pieces
    }

    /// The last pieces of the choice: what was not sent yet, tool calls, the finish reason with its `stoa` object.
    pub(crate) fn finish(&mut self, done: &Done) -> Result<Vec<String>, Contradiction> {
        let rest = done
            .content
            .text
            .strip_prefix(self.sent.as_str())
            .ok_or(Contradiction)?
            .to_owned();
        let mut pieces = self.text(&rest, Vec::new());
        let held = self.splitter.finish();
        pieces.extend(self.parts(held));
        let silent = !done.content.tool_calls.is_empty();
        pieces.extend(self.begin(if silent { None } else { Some(String::new()) }));
        pieces.extend(self.call_pieces(done));
        pieces.push(self.finish_piece(done));
        Ok(pieces)
    }

    /// Once: the role (chat), or the echoed prompt (completions).
    fn begin(&mut self, content: Option<String>) -> Vec<String> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        match self.framing.form {
            Form::Chat => {
                let role = Some("assistant".to_owned());
                let delta = Delta {
                    role,
                    content: Some(content),
                    ..Delta::default()
                };
                vec![text(&self.framing.chat_piece(self.choice, delta))]
            }
            Form::Completion | Form::Embeddings => {
                let echo = self.framing.echo();
                if echo.is_empty() {
                    Vec::new()
                } else {
                    vec![self.text_piece(&echo, &[])]
                }
            }
        }
    }

    fn text_piece(&mut self, more: &str, likely: &[Logprobs]) -> String {
        match self.framing.form {
            Form::Chat => {
                let delta = Delta {
                    content: Some(Some(more.to_owned())),
                    ..Delta::default()
                };
                let mut piece = self.framing.chat_piece(self.choice, delta);
                piece.choices[0].logprobs = chat_logprobs(likely);
                text(&piece)
            }
            Form::Completion | Form::Embeddings => text(&self.completion_text(more, likely, None)),
        }
    }

    fn completion_text(
        &mut self,
        more: &str,
        likely: &[Logprobs],
        finish_reason: Option<String>,
    ) -> Completion {
        let offset = &mut self.offset;
        let choice = CompletionChoice {
            index: self.choice,
            text: more.to_owned(),
            logprobs: (!likely.is_empty()).then(|| logprobs::completion(likely, offset)),
            finish_reason,
        };
        Completion {
            choices: vec![choice],
            ..self.framing.completion_piece()
        }
    }

    /// Tool calls: id, type and name on the first piece of each, then the arguments.
    fn call_pieces(&self, done: &Done) -> Vec<String> {
        let mut pieces = Vec::new();
        if self.framing.form != Form::Chat {
            return pieces; // It has no place for calls, whatever a provider says.
        }
        let mut push = |delta| pieces.push(text(&self.framing.chat_piece(self.choice, delta)));
        let legacy = self.framing.is_legacy_call(done);
        for (index, call) in done.content.tool_calls.iter().enumerate() {
            let name = FunctionCallDelta {
                name: Some(call.name.clone()),
                arguments: Some(String::new()),
            };
            push(self.call_delta(legacy, index, true, name));
            for piece in split(&call.arguments) {
                let more = FunctionCallDelta {
                    name: None,
                    arguments: Some(piece),
                };
                push(self.call_delta(legacy, index, false, more));
            }
        }
        pieces
    }

    fn call_delta(
        &self,
        legacy: bool,
        index: usize,
        first: bool,
        function: FunctionCallDelta,
    ) -> Delta {
        if legacy {
            return Delta {
                function_call: Some(function),
                ..Delta::default()
            };
        }
        let call = ToolCallDelta {
            index: u32::try_from(index)
                .expect("an answer of a few MiB holds fewer calls than that"),
            id: first.then(|| self.framing.call_id(self.choice as usize, index)),
            kind: first.then(|| "function".to_owned()),
            function,
        };
        Delta {
            tool_calls: vec![call],
            ..Delta::default()
        }
    }

    fn finish_piece(&mut self, done: &Done) -> String {
        let likely = std::mem::take(&mut self.likely);
        let (reason, stoa) = (
            Some(self.framing.finish_reason(done)),
            Some(self.framing.stoa_of(self.choice as usize, done)),
        );
        match self.framing.form {
            Form::Chat => {
                let mut piece = self.framing.chat_piece(self.choice, Delta::default());
                piece.choices[0].finish_reason = reason;
                piece.choices[0].logprobs = chat_logprobs(&likely);
                text(&ChatChunk { stoa, ..piece })
            }
            Form::Completion | Form::Embeddings => text(&Completion {
                stoa,
                ..self.completion_text("", &likely, reason)
            }),
        }
    }
}

/// `null` on a piece that no token goes with.
fn chat_logprobs(likely: &[Logprobs]) -> Option<ChatLogprobs> {
    (!likely.is_empty()).then(|| logprobs::chat(likely))
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("an answer holds only text and numbers")
}

/// Why the answer ended, finer than a finish reason can say.
fn stop(done: &Done) -> &'static str {
    match done.content.finish_reason {
        FinishReason::Stop => "eos",
        FinishReason::Length if done.shortened => "budget",
        FinishReason::Length => "length",
        other => other.as_str(),
    }
}

/// Each choice has its own prompt and answer.
fn usage<'a>(answers: impl IntoIterator<Item = &'a Done>) -> Usage {
    let (mut input, mut output, mut reasoning) = (0u64, 0u64, 0u64);
    for done in answers {
        input = input.saturating_add(done.content.input_units);
        output = output.saturating_add(done.content.output_units);
        reasoning = reasoning.saturating_add(done.reasoning_units);
    }
    Usage::of_text(input, output, reasoning)
}

/// Pieces of at most [`ARGUMENT_PIECE`] characters; a character is never cut.
fn split(arguments: &str) -> Vec<String> {
    let characters: Vec<char> = arguments.chars().collect();
    characters
        .chunks(ARGUMENT_PIECE)
        .map(|chunk| chunk.iter().collect())
        .collect()
}

/// Parts of the charges in whole payment tokens. The output part takes the rounding, so that the parts sum to the total.
fn cost<'a>(receipts: impl IntoIterator<Item = &'a Receipt>) -> Value {
    let (mut inputs, mut charges) = (Vec::new(), Vec::new());
    for r in receipts {
        let input = r
            .input_price
            .raw_cost(r.input_units)
            .map_or(0, |raw| raw / 1_000_000);
        inputs.push(TokenAmount::from_units(input.min(r.charge.units())));
        charges.push(r.charge);
    }
    let (input, total) = (sum(inputs), sum(charges));
    let output = total.checked_sub(input).unwrap_or_default();
    json!({"input": input.to_string(), "output": output.to_string(), "total": total.to_string()})
}

/// What jobs of one allotment cost or got back: it fits wherever their reserves did.
pub(crate) fn sum(amounts: impl IntoIterator<Item = TokenAmount>) -> TokenAmount {
    TokenAmount::checked_sum(amounts).unwrap_or_default()
}
