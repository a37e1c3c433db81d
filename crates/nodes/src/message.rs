//! Messages between router and provider.
//!
//! One bidirectional stream per job: the router sends [`ToProvider::Dispatch`]; the provider answers `Accepted`, deltas and one
//! `Final` (or `Refused`, `Failed`); the router ends with `Countersigned`. `Cancel` may come at any time. A control stream per
//! connection carries [`ToRouter::Hello`] first and [`ToRouter::Status`] afterwards. Every message names job and attempt, so that
//! a late, repeated or reordered one is recognised and dropped.

use crate::work::{Prompt, Work};
use serde::{Deserialize, Serialize};
use stoa_types::{
    Address, Digest, FinishReason, Hardware, JobId, Logprobs, Price, Receipt, Region, Signature,
    SignedAcceptance, SignedReceipt, SignedTicket, Tier, TraceParent,
};
use stoa_verify::Content;

/// Largest encoded message in bytes; a longer frame ends the stream.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Longest name of a parameter that is taken over from a refusal, in characters.
pub const PARAMETER_CHARS_MAX: usize = 64;

/// Longest reason that is taken over from a provider, in characters: it is logged, kept and told to the customer.
pub const REASON_CHARS_MAX: usize = 1_000;

/// The beginning of a stranger's text, on one line: control characters could forge lines of a log or drive a terminal.
pub fn clipped(text: &str, chars_max: usize) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).take(chars_max).collect()
}

/// One model that a provider serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelOffer {
    /// Name that clients ask for.
    pub model: String,
    /// Root of the integer weights; zero for an upstream server.
    pub model_root: Digest,
    /// Digest of the semantics version or backend identity.
    pub runtime_digest: Digest,
    /// How answers can be checked.
    pub tier: Tier,
    /// Context length in tokens.
    pub context: u32,
    /// Price of input tokens.
    pub input_price: Price,
    /// Price of output tokens.
    pub output_price: Price,
    /// Weight format, for example `q8_0`.
    pub quantization: String,
    /// Upper bound of the tokens that template and specials add per message.
    pub message_overhead: u32,
    /// Whether answers may begin with reasoning between the marks of [`stoa_verify::reasoning`]. It stays part of an answer's text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reasons: bool,
}

impl ModelOffer {
    /// Price of the units of an answer to `prompt`: vectors are paid by their input alone.
    pub fn output_price_for(&self, prompt: &Prompt) -> Price {
        match prompt.vectors() {
            Some(_) => Price::default(),
            None => self.output_price,
        }
    }
}

/// First message of a provider on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The provider's account; the connection's endpoint key is registered to it on chain.
    pub account: Address,
    /// Where the machine stands.
    pub region: Region,
    /// Jobs it runs at once (reserved compute already taken off).
    pub slots: u32,
    /// What it runs on.
    pub hardware: Hardware,
    /// What it serves.
    pub models: Vec<ModelOffer>,
}

/// Router to provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToProvider {
    /// Do this job.
    Dispatch(Box<Dispatch>),
    /// Stop. The client got `delivered` tokens: the receipt covers exactly these, and none is made for zero.
    Cancel {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// Tokens that reached the client, counted from the first.
        delivered: u64,
    },
    /// The router signed the receipt too: the provider may keep it and claim.
    Countersigned(Box<SignedReceipt>),
    /// The receipt was refused; the reason is for the operator's log.
    ReceiptRefused {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// Why.
        reason: String,
    },
}

/// One job for one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatch {
    /// Bound on what can be claimed.
    pub ticket: SignedTicket,
    /// What to run.
    pub work: Work,
    /// keccak of the profile text in force.
    pub profile_hash: Digest,
    /// The router's span above the provider's, where the call is traced. Nothing that is signed or kept holds it, and without it a
    /// dispatch has the bytes that it had before there were traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceParent>,
}

/// Provider to router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToRouter {
    /// Who this is and what it serves.
    Hello(Box<Hello>),
    /// Slots free now, and whether new jobs are declined.
    Status {
        /// Free slots.
        free_slots: u32,
        /// True while the provider drains or stands outside its availability window.
        draining: bool,
    },
    /// The ticket is taken: from now on the provider owes a delivery until the ticket's deadline, and its word for it makes that provable.
    Accepted {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// The provider's word for it. The first one for an attempt stands.
        acceptance: SignedAcceptance,
        /// Number of prompt tokens: exact, or for tier `none` an upper bound of what the receipt may count.
        input_units: u64,
    },
    /// The job will not be done here. After an acceptance only for a server of others (tier `none`) and before the first token; whoever
    /// computes answers itself says `Failed` then.
    Refused {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// Why.
        reason: RefusalReason,
    },
    /// Tokens.
    Delta {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// New token ids, in order.
        tokens: Vec<u32>,
        /// New text; may be empty while a multi-byte character or a tool call is incomplete.
        text: String,
        /// Log-probabilities of these tokens, one entry for each where they are asked for. Without them a delta has the bytes that it
        /// had before there were any.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<Logprobs>,
    },
    /// The end of a generation.
    Final(Box<Final>),
    /// The generation failed after acceptance; nothing is claimed.
    Failed {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// For the operator's log.
        reason: String,
    },
}

/// End of a generation: whole content and the provider's receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Final {
    /// Tool calls, finish reason, counts and whole text.
    pub content: Content,
    /// The receipt, complete but for the router's signature.
    pub receipt: Receipt,
    /// Provider's signature over the receipt's digest.
    pub signature: Signature,
}

impl Final {
    /// Why generation ended.
    pub fn finish_reason(&self) -> FinishReason {
        self.content.finish_reason
    }
}

/// Why a provider does not take a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RefusalReason {
    /// All slots are taken.
    Busy,
    /// It drains or stands outside its availability window.
    Draining,
    /// It does not serve this model root, or cannot now.
    UnknownModel,
    /// The prompt does not fit: the request's fault, no other provider will differ.
    ContextLength {
        /// Tokens of the prompt.
        tokens: u64,
        /// Context of the model.
        context: u64,
    },
    /// The prompt has more tokens than the ticket covers: the router's estimate was wrong.
    TicketTooSmall {
        /// Tokens of the prompt.
        tokens: u64,
    },
    /// The server behind it refuses the content.
    Policy,
    /// The request asks for something this model cannot do: the request's fault.
    Unsupported {
        /// Which parameter.
        parameter: String,
        /// Why.
        reason: String,
    },
    /// Its own limits of memory, time or context do not allow it: another provider's may.
    Limit {
        /// Which parameter asks for more.
        parameter: String,
        /// What there is.
        reason: String,
    },
    /// The ticket is not valid (signature, price, deadline, chain).
    BadTicket {
        /// What is wrong.
        reason: String,
    },
}

impl RefusalReason {
    /// With no more of a stranger's text than is kept and handed on.
    #[must_use]
    pub fn clipped(self) -> Self {
        let parameter = |text: String| clipped(&text, PARAMETER_CHARS_MAX);
        let reason = |text: String| clipped(&text, REASON_CHARS_MAX);
        match self {
            Self::Unsupported {
                parameter: p,
                reason: r,
            } => Self::Unsupported {
                parameter: parameter(p),
                reason: reason(r),
            },
            Self::Limit {
                parameter: p,
                reason: r,
            } => Self::Limit {
                parameter: parameter(p),
                reason: reason(r),
            },
            Self::BadTicket { reason: r } => Self::BadTicket { reason: reason(r) },
            Self::Busy
            | Self::Draining
            | Self::UnknownModel
            | Self::ContextLength { .. }
            | Self::TicketTooSmall { .. }
            | Self::Policy => self,
        }
    }
}

impl ToRouter {
    /// Job and attempt that the message is about; `None` for control messages.
    pub fn job(&self) -> Option<(JobId, u32)> {
        match self {
            Self::Hello(_) | Self::Status { .. } => None,
            Self::Accepted { job, attempt, .. }
            | Self::Refused { job, attempt, .. }
            | Self::Delta { job, attempt, .. }
            | Self::Failed { job, attempt, .. } => Some((*job, *attempt)),
            Self::Final(end) => Some((end.receipt.job_id, end.receipt.attempt)),
        }
    }
}
