//! A chat's whole answer as the API gives it, and what of it goes into receipt files.

use super::Outcome;
use serde::Deserialize;
use stoa_types::{Address, FinishReason, SamplingParameters, SignedReceipt};
use stoa_verify::reasoning::Parts;
use stoa_verify::{Bundle, Content, ToolCall};

/// An answer of `/v1/chat/completions`.
#[derive(Deserialize)]
pub struct Answer {
    choices: Vec<Choice>,
    stoa: Extras,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: End,
}

/// Why it ended.
#[derive(Deserialize)]
#[serde(untagged)]
enum End {
    Usual(FinishReason),
    Legacy(LegacyCall),
}

/// The word where only the deprecated `functions` were given.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum LegacyCall {
    FunctionCall,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
    /// The only call, where only the deprecated `functions` were given.
    #[serde(default)]
    function_call: Option<ToolCall>,
}

#[derive(Deserialize)]
struct Call {
    function: ToolCall,
}

/// Of one choice alone, or of each.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "its `stoa` holds no receipt: leave `stoa.receipt` of the request at `inline`"
)]
enum Extras {
    One(Box<Facts>),
    Several { choices: Vec<Facts> },
}

#[derive(Deserialize)]
struct Facts {
    receipt: SignedReceipt,
    parameters: SamplingParameters,
}

/// One choice.
#[derive(Debug)]
pub struct Said {
    /// What it reasons and what it says, as they were told apart.
    pub parts: Parts,
    /// The file of its receipt.
    pub bundle: Bundle,
}

impl Answer {
    /// Who signed the receipts.
    pub fn routers(&self) -> impl Iterator<Item = Address> {
        let facts = match &self.stoa {
            Extras::One(facts) => std::slice::from_ref(&**facts),
            Extras::Several { choices } => choices,
        };
        facts.iter().map(|facts| facts.receipt.receipt.router)
    }

    /// Each choice of the answer to `request`, the exact body that was sent.
    pub fn choices(self, request: &str) -> Outcome<Vec<Said>> {
        let facts = match self.stoa {
            Extras::One(facts) => vec![*facts],
            Extras::Several { choices } => choices,
        };
        if self.choices.is_empty() || self.choices.len() != facts.len() {
            return Err("the answer does not hold a receipt for each choice".into());
        }
        let choices = self.choices.into_iter().zip(facts);
        let said = |(choice, facts)| said(choice, facts, request);
        Ok(choices.map(said).collect())
    }
}

/// The text is the one of these parts that the receipt is for. Where it is for none, the file says what was got, and its check says no.
fn said(choice: Choice, facts: Facts, request: &str) -> Said {
    let receipt = &facts.receipt.receipt;
    let Message {
        content,
        reasoning_content,
        tool_calls,
        function_call,
    } = choice.message;
    let parts = Parts {
        reasoning: reasoning_content.unwrap_or_default(),
        content: content.unwrap_or_default(),
    };
    let calls = tool_calls.unwrap_or_default().into_iter();
    let calls = calls.map(|call| call.function).chain(function_call);
    let response = Content {
        text: String::new(),
        tool_calls: calls.collect(),
        finish_reason: match choice.finish_reason {
            End::Usual(reason) => reason,
            End::Legacy(LegacyCall::FunctionCall) => FinishReason::ToolCalls,
        },
        input_units: receipt.input_units,
        output_units: receipt.output_units,
    };
    let bundle = Bundle {
        response: response.of_parts(&parts, receipt.response_digest),
        receipt: facts.receipt,
        proof: None,
        parameters: facts.parameters,
        request: request.to_owned(),
    };
    Said { parts, bundle }
}

#[cfg(test)]
mod tests;
