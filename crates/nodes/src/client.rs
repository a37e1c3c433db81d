//! What a client asks of a router and what it is told: the port that `api` and the simulator share.

use crate::work::{AnswerShape, Prompt};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use stoa_types::{
    Address, Digest, Logprobs, Price, Q16, Region, SamplingParameters, SignedAcceptance, SignedQ16,
    SignedReceipt, SignedTicket, Tier, Timestamp, TokenAmount,
};
use stoa_verify::Content;

/// One paid call, parsed. The body itself is reduced to its digest and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRequest {
    /// Model name as asked.
    pub model: String,
    /// Input.
    pub prompt: Prompt,
    /// Shape of the answer.
    pub answer: AnswerShape,
    /// Temperature.
    pub temperature: Q16,
    /// Least relative probability.
    pub min_p: Q16,
    /// Seed; the router draws one when absent.
    pub seed: Option<u64>,
    /// Output limit; the profile's default when absent.
    pub output_tokens_max: Option<u32>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// What else is asked of the choice of tokens.
    pub controls: Controls,
    /// How many answers are asked for, each a job of its own: from 1 to [`CHOICES_MAX`].
    pub choices: u32,
    /// Number of messages, for the template's overhead.
    pub message_count: u32,
    /// keccak of the exact body bytes.
    pub request_digest: Digest,
    /// Length of the body in bytes.
    pub body_bytes: u64,
    /// What the market must respect.
    pub constraints: Constraints,
}

/// Most answers to one request: all of them run at once.
pub const CHOICES_MAX: u32 = 8;

/// What a request may ask of the choice of tokens beside temperature, `min_p` and seed; by default nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Controls {
    /// What is added to the logits of single tokens, by id.
    pub logit_bias: BTreeMap<u32, SignedQ16>,
    /// Taken off the logit of a token that stands in the answer already.
    pub presence_penalty: SignedQ16,
    /// Taken off for each time that it stands there.
    pub frequency_penalty: SignedQ16,
    /// Log-probabilities are asked for, with so many alternatives to each token.
    pub logprobs: Option<u8>,
}

/// Hard limits and preferences of one request (the `stoa` object; design: API section 5).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    /// Lowest acceptable tier; the profile's default when absent.
    pub tier: Option<Tier>,
    /// Highest input price.
    pub input_price_max: Option<Price>,
    /// Highest output price.
    pub output_price_max: Option<Price>,
    /// Highest cost of the whole call; lowers the output limit so that the reserve fits.
    pub cost_max: Option<TokenAmount>,
    /// Only these regions; empty = any.
    pub regions_only: BTreeSet<Region>,
    /// Not these regions.
    pub regions_exclude: BTreeSet<Region>,
    /// Only these providers; empty = any.
    pub providers_only: BTreeSet<Address>,
    /// Not these providers.
    pub providers_ignore: BTreeSet<Address>,
    /// What the API key may spend. It stands on the key: no request can name it.
    #[serde(skip)]
    pub budget: Option<Budget>,
}

/// Id of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

/// What the calls of one key may cost in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The key.
    pub key: KeyId,
    /// All that its calls may cost in the period.
    pub amount: TokenAmount,
    /// First day of the period, in days since the Unix epoch.
    pub first_day: u64,
    /// When the next period begins; `None` for a limit for ever.
    pub resets_at: Option<Timestamp>,
}

/// What a key spent in its period reached a share of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendAlert {
    /// The key.
    pub key: KeyId,
    /// The share that was reached, in percent of the limit.
    pub percent: u32,
    /// Spent in the period.
    pub spent: TokenAmount,
    /// The limit.
    pub amount: TokenAmount,
}

/// What a client hears about its call, in order: `Started`, deltas, `Complete`, then exactly one of `Done`, `Failed` (which may come
/// earlier).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The first token is there: headers may leave.
    Started(Started),
    /// New text.
    Delta {
        /// Text.
        text: String,
        /// How many tokens it stands for.
        tokens: u32,
        /// Log-probabilities of these tokens, one entry for each where they are asked for.
        logprobs: Vec<Logprobs>,
    },
    /// All text was told. Whoever carries it to the client answers with [`crate::router::Input::Delivered`] once everything before
    /// this was written: only then is the call charged and ended. What [`Self::Done`] will say stands here already, so that it can be
    /// kept before anything is charged; until then it is worth nothing and must not be told.
    Complete(Arc<Done>),
    /// The answer is complete and charged.
    Done(Arc<Done>),
    /// The call failed.
    Failed(Failure),
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Provider.
    pub provider: Address,
    /// Tier of its offer.
    pub tier: Tier,
    /// Region of the provider.
    pub region: Region,
    /// Providers that failed before it.
    pub failovers: u32,
    /// Whether its model's answers may begin with reasoning that is to be set apart from what follows.
    pub reasons: bool,
}

/// A complete, charged answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Text, tool calls, finish reason, counts.
    pub content: Content,
    /// Output units up to the end of the reasoning; 0 where there is none, or where nothing tells.
    pub reasoning_units: u64,
    /// With both signatures.
    pub receipt: SignedReceipt,
    /// The parameters whose digest the receipt carries.
    pub parameters: SamplingParameters,
    /// Who answered.
    pub started: Started,
    /// Time to first token at the router, in ms.
    pub ttft_ms: u64,
    /// What was held and is free again.
    pub refund: TokenAmount,
    /// The output limit was lowered until the call fitted its cost ceiling or the spend limit of its key.
    pub shortened: bool,
}

/// Why a call failed, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Cause.
    pub cause: Cause,
    /// What was charged; zero in nearly every case.
    pub billed: TokenAmount,
    /// What providers took of this call and did not deliver.
    pub undelivered: Box<[Undelivered]>,
}

impl Failure {
    /// A failure of a call that no provider had taken.
    pub fn new(cause: Cause, billed: TokenAmount) -> Self {
        Self {
            cause,
            billed,
            undelivered: Box::default(),
        }
    }
}

/// An order that a provider took and did not deliver. From the ticket's deadline on, whoever holds these two signatures can claim that
/// on chain; delivery is then the provider's to show (decision 0030).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undelivered {
    /// What was ordered, signed by the router.
    pub ticket: SignedTicket,
    /// The provider's word that it took it.
    pub acceptance: SignedAcceptance,
}

/// Causes of failure; `api` maps each to one row of the truth table (design: API 4.3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Nobody has ever offered it.
    #[error("no model `{model}` is offered here; GET /v1/models lists what is")]
    UnknownModel {
        /// As asked.
        model: String,
    },
    /// Offered before, but no provider is online.
    #[error("no provider of `{model}` is online")]
    ModelOffline {
        /// As asked.
        model: String,
    },
    /// The prompt does not fit.
    #[error("the prompt has {tokens} tokens; the model's context is {context}")]
    ContextLength {
        /// Tokens of the prompt, or a lower bound.
        tokens: u64,
        /// Context of the model.
        context: u64,
    },
    /// The servers that could answer refuse the content.
    #[error(
        "every provider that could answer refuses the request by the content policy of its server"
    )]
    ContentPolicy,
    /// The model cannot do what is asked.
    #[error("`{parameter}` is not supported: {reason}")]
    Unsupported {
        /// Which parameter.
        parameter: String,
        /// Why.
        reason: String,
    },
    /// The account has no allotment to this router.
    #[error("the account has no allotment to this router; deposit and allot first")]
    NoAllotment,
    /// The allotment is over or ends before a ticket could.
    #[error("the allotment expired; renew it to go on")]
    AllotmentExpired,
    /// The cap does not cover this call beside what is reserved and charged.
    #[error("{needed} would be reserved{} but only {available} of the allotment is free", of_choices(*.choices))]
    CapReached {
        /// Reserve of this call, all its choices together.
        needed: TokenAmount,
        /// How many choices were asked for.
        choices: u32,
        /// What is free.
        available: TokenAmount,
    },
    /// The spend limit of the API key does not cover this call beside what its other calls cost and hold.
    #[error("{needed} would be reserved{} but the key's spend limit leaves {available}", of_choices(*.choices))]
    BudgetExceeded {
        /// Reserve of this call, all its choices together.
        needed: TokenAmount,
        /// How many choices were asked for.
        choices: u32,
        /// What the limit leaves.
        available: TokenAmount,
        /// When the next period begins.
        resets_at: Option<Timestamp>,
    },
    /// Capacity exists, all above the ceiling.
    #[error(
        "every matching provider is above the price ceiling; the lowest asks {lowest} per million tokens"
    )]
    PriceCeiling {
        /// Lowest output price among the matching providers; input price where vectors are asked for.
        lowest: Price,
    },
    /// No provider meets the constraints.
    #[error("no provider meets the constraints")]
    NoProviderMatches {
        /// How many were excluded by which rule.
        excluded: BTreeMap<String, u32>,
    },
    /// All matching providers are full.
    #[error("all matching providers are busy; try again in {retry_ms} ms")]
    OverCapacity {
        /// Estimate of when a slot is free.
        retry_ms: u64,
    },
    /// The router itself sheds load, drains, or cannot write its journal.
    #[error("the router takes no new calls now: {reason}")]
    RouterUnavailable {
        /// Which.
        reason: String,
    },
    /// Providers refused, reset or died and no other is left.
    #[error("the provider failed and no other was left to try")]
    ProviderDown,
    /// A provider was lost after tokens had been delivered.
    #[error("the provider was lost after the answer had begun")]
    ProviderLost,
    /// First token or total deadline missed.
    #[error("no answer within the deadline")]
    DeadlineExceeded,
    /// The provider's messages or receipt contradict what was ordered or delivered.
    #[error("the provider's answer was invalid: {reason}")]
    ProviderInvalid {
        /// What contradicts.
        reason: String,
    },
    /// A signature or receipt of the provider does not prove what it must.
    #[error("what the provider signed could not be verified: {reason}")]
    VerificationFailed {
        /// Which check failed.
        reason: String,
    },
    /// The client took its answer too slowly and was cut off. Told by the HTTP side.
    #[error("the answer was not read fast enough and was cut off")]
    ClientTooSlow,
    /// No view of the chain fresh enough to serve on.
    #[error("the chain cannot be reached and no cover is known")]
    SettlementUnavailable,
    /// A fault of the router's own.
    #[error("internal error")]
    Internal,
}

fn of_choices(choices: u32) -> String {
    match choices {
        0 | 1 => String::new(),
        n => format!(" for {n} choices"),
    }
}
