//! Words of the domain: ids, amounts, times, jobs, receipts, network profiles.
//!
//! Nothing here does anything: no clock, no socket, no disk. Every other crate speaks in these types, so that an amount is never
//! confused with a count and a router's address never with a job's id.

mod amount;
mod hardware;
mod id;
mod job;
mod logprob;
mod profile;
mod receipt;
mod sampling;
mod time;
mod trace;

pub use amount::{AmountError, Bps, Price, StakeAmount, TokenAmount};
pub use hardware::{Accelerator, Hardware};
pub use id::{Address, Digest, EndpointId, HexError, JobId, Region, Signature};
pub use job::{FinishReason, JobState, Tier, UnknownTier};
pub use logprob::{Logprobs, LogprobsError, TOP_LOGPROBS_MAX, TokenBytes, TokenLogprob};
pub use profile::{
    ChainParameters, DeliveryParameters, FeeParameters, Limits, NetworkProfile, ProfileError,
    RoutingParameters, SettlementParameters, StakeParameters,
};
pub use receipt::{
    Acceptance, PaidBy, RECEIPT_VERSION, Receipt, SignedAcceptance, SignedReceipt, SignedTicket,
    Ticket,
};
pub use sampling::{
    LOGIT_BIAS_ENTRIES_MAX, LOGIT_BIAS_MAX, PENALTY_MAX, ParametersError, Q16, STOP_BYTES_MAX,
    STOP_STRINGS_MAX, SamplingParameters, SignedQ16,
};
pub use time::{Millis, Timestamp};
pub use trace::{NoTraceParent, SpanId, TraceId, TraceParent};
