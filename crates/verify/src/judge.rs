//! What an auditor does with one receipt: is the order its router's, and is the answer what the model gives?
//!
//! [`check_order`] needs signatures alone. [`Judge`] needs the model; [`compare`] is the rule by which a recomputed answer agrees with a
//! receipt. Two honest judges that recompute the same case find the same and give the same digest.

use crate::{Content, ToolCall};
use stoa_crypto::{Domain, Words, keccak256, receipt_digest, recover, ticket_digest, token_root};
use stoa_types::{
    Address, Digest, FinishReason, Receipt, SignedReceipt, SignedTicket, Ticket, Tier,
};

/// A receipt and the work that its provider was ordered to do, as canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What the provider signed.
    pub receipt: Receipt,
    /// What it was ordered to do; its keccak stands in the ticket.
    pub work: Vec<u8>,
}

/// What comes of recomputing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// What the receipt says.
    Good,
    /// Another answer: output root, response digest or finish.
    WrongOutput,
    /// Another prompt than was counted, or more tokens than the model gives.
    WrongCount,
}

/// What a judge found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Whether the receipt holds.
    pub answered: Answered,
    /// keccak of what was recomputed; zero where the model gives nothing for this work.
    pub digest: Digest,
}

/// Why a case was not judged. Nobody is accused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotJudged {
    /// Recomputing says nothing about this tier.
    #[error("answers of tier `{0}` cannot be judged by recomputing")]
    Tier(Tier),
    /// The judge has not got this model.
    #[error("the model of root {0} is not here; add it to the models of this validator")]
    NoModel(Digest),
    /// Its answer was held to rules of grammars that the judge has not got: those of another version.
    #[error("the answer was held to the rules of grammars {0:?}, which this program has not got")]
    Rules(String),
    /// The bytes are no work.
    #[error("the bytes kept for this job are no work in canonical form")]
    NotWork,
    /// The judge's own limits of memory, time or context do not allow it, now or later.
    #[error("the answer is beyond what this program may take: {0}")]
    Limits(String),
    /// The judge itself failed.
    #[error("the answer could not be recomputed: {0}")]
    Failed(String),
}

/// Says whether an answer is right. Recomputing is the first way; a dispute game can be another.
pub trait Judge {
    /// Judges one case. Must give the same wherever it runs.
    fn judge(&self, case: &Case) -> Result<Finding, NotJudged>;
}

/// What is wrong with an order, whatever the model says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderFault {
    /// The router shows something else than it signed and posted.
    #[error("the router withholds what an audit needs: {0}")]
    Withheld(&'static str),
    /// What it posted was never agreed.
    #[error("the posted receipt is forged: {0}")]
    Forged(&'static str),
}

/// Whether a receipt that `posted_by` posted is of this network, this router's, and signed by its provider: what the leaf file alone shows.
pub fn check_receipt(
    domain: &Domain,
    posted_by: Address,
    signed: &SignedReceipt,
) -> Result<(), OrderFault> {
    let receipt = &signed.receipt;
    let here = (receipt.chain_id, receipt.vault) == (domain.chain_id, domain.vault);
    if !here || receipt.router != posted_by {
        return Err(OrderFault::Forged("it is of another network or router"));
    }
    let signer = recover(receipt_digest(receipt), &signed.provider_signature);
    if signer != Ok(receipt.provider) {
        return Err(OrderFault::Forged("the provider did not sign it"));
    }
    Ok(())
}

/// Whether a receipt that `posted_by` posted is the provider's, its ticket the router's, and `work` what the ticket orders. A fault here is the router's:
/// it posted the receipt and it alone hands out ticket and work.
pub fn check_order(
    domain: &Domain,
    posted_by: Address,
    signed: &SignedReceipt,
    ticket: &SignedTicket,
    work: &[u8],
) -> Result<(), OrderFault> {
    check_receipt(domain, posted_by, signed)?;
    let receipt = &signed.receipt;
    let digest = ticket_digest(domain, &ticket.ticket);
    if digest != receipt.ticket_hash {
        return Err(OrderFault::Withheld("this is another job's ticket"));
    }
    if recover(digest, &ticket.signature) != Ok(receipt.router) {
        return Err(OrderFault::Forged("the router did not sign its ticket"));
    }
    if !follows(receipt, &ticket.ticket) {
        return Err(OrderFault::Forged("it does not follow from its ticket"));
    }
    if keccak256(work) != ticket.ticket.work_digest {
        return Err(OrderFault::Withheld("this is other work than was ordered"));
    }
    Ok(())
}

fn follows(r: &Receipt, t: &Ticket) -> bool {
    let parties = (r.job_id, r.account, r.router, r.provider, r.attempt)
        == (t.job_id, t.account, t.router, t.provider, t.attempt);
    let order = (r.model_root, r.parameters_digest, r.request_digest, r.tier)
        == (t.model_root, t.parameters_digest, t.request_digest, t.tier);
    let money = (r.input_price, r.output_price, r.fee_version)
        == (t.input_price, t.output_price, t.fee_version);
    let bounds = r.input_units <= t.input_units_max
        && r.output_units <= t.output_units_max
        && r.charge <= t.reserve;
    parties && order && money && bounds
}

/// Work done again, as far as it was needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// The tokens, at most one more than the receipt counts.
    pub output: Vec<u32>,
    /// Text, and its length after each token.
    pub text: String,
    /// Bytes of `text` that stand after so many tokens, from none on.
    pub marks: Vec<usize>,
    /// How the answer ended; `None` when it went on beyond what the receipt counts, or ended in a failure.
    pub end: Option<(Vec<ToolCall>, FinishReason)>,
}

impl Replay {
    /// Nothing generated yet.
    pub fn of(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            output: Vec::new(),
            text: String::new(),
            marks: vec![0],
            end: None,
        }
    }

    /// One more token and the text that was certain with it.
    pub fn push(&mut self, token: u32, text: &str) {
        self.output.push(token);
        self.text.push_str(text);
        self.marks.push(self.text.len());
    }

    fn content(
        &self,
        tool_calls: Vec<ToolCall>,
        finish_reason: FinishReason,
        tokens: usize,
    ) -> Content {
        let text = self.marks.get(tokens).and_then(|end| self.text.get(..*end));
        Content {
            text: text.unwrap_or(&self.text).to_owned(),
            tool_calls,
            finish_reason,
            input_units: self.prompt.len() as u64,
            output_units: tokens as u64,
        }
    }

    /// The whole answer, if it ended.
    fn whole(&self) -> Option<Content> {
        let (calls, finish) = self.end.clone()?;
        Some(self.content(calls, finish, self.output.len()))
    }

    /// The answer as it is when its client leaves after so many tokens.
    fn cut(&self, tokens: u64) -> Option<Content> {
        let tokens = usize::try_from(tokens).ok()?;
        let enough = tokens > 0 && tokens <= self.output.len();
        enough.then(|| self.content(Vec::new(), FinishReason::Cancelled, tokens))
    }
}

/// How a recomputed answer agrees with a receipt. `None` is work that the model does not take: any answer to it is wrong.
///
/// A client may leave at any token, so that the beginning of the right answer is right too when it is called cancelled. Beyond that, the
/// prompt's count comes first, then a count of tokens above what the model gives, then the answer.
pub fn compare(receipt: &Receipt, replay: Option<&Replay>) -> Finding {
    let Some(replay) = replay else {
        return Finding {
            answered: Answered::WrongOutput,
            digest: Digest::ZERO,
        };
    };
    let cut = replay.cut(receipt.output_units);
    let candidates = [replay.whole(), cut];
    let agrees = |content: &&Content| {
        let tokens = usize::try_from(content.output_units).unwrap_or(usize::MAX);
        content.output_units == receipt.output_units
            && content.digest() == receipt.response_digest
            && replay.output.get(..tokens).map(token_root) == Some(receipt.output_root)
    };
    let found = candidates.iter().flatten().find(agrees);
    let counted = replay.prompt.len() as u64 == receipt.input_units
        && token_root(&replay.prompt) == receipt.prompt_root;
    let answered = match found {
        _ if !counted => Answered::WrongCount,
        Some(_) => Answered::Good,
        None if receipt.output_units > replay.output.len() as u64 => Answered::WrongCount,
        None => Answered::WrongOutput,
    };
    let shown = found.or(candidates.iter().flatten().next());
    Finding {
        answered,
        digest: shown.map_or(Digest::ZERO, |content| recomputed(replay, content)),
    }
}

/// keccak of what a judge recomputed: prompt root, tokens and content.
fn recomputed(replay: &Replay, content: &Content) -> Digest {
    let tokens = usize::try_from(content.output_units).unwrap_or(usize::MAX);
    let output = replay.output.get(..tokens).unwrap_or(&replay.output);
    let words = Words::new()
        .digest(token_root(&replay.prompt))
        .digest(token_root(output))
        .digest(content.digest());
    keccak256(words.as_bytes())
}
