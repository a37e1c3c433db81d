//! Ticket and receipt (SPEC C.6.3, DECISIONS 7). Hashing and signing live in `crypto`; rules about them in `verify`.

use crate::{Address, Digest, JobId, Price, Signature, Tier, Timestamp, TokenAmount};
use serde::{Deserialize, Serialize};

/// The only receipt version so far.
pub const RECEIPT_VERSION: u16 = 1;

/// What pays for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaidBy {
    /// An allotment of the account to the router.
    Allotment,
    /// A payment channel (reserved; not built yet).
    Voucher,
}

impl PaidBy {
    /// Its number in receipts.
    pub const fn code(self) -> u8 {
        match self {
            Self::Allotment => 0,
            Self::Voucher => 1,
        }
    }
}

/// The router's signed order to one provider for one attempt of one job.
///
/// It bounds what the provider may claim: unit prices, most units, the reserve behind it, and the deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The job.
    pub job_id: JobId,
    /// Who pays.
    pub account: Address,
    /// Who signed this and answers for it.
    pub router: Address,
    /// Who may work on it.
    pub provider: Address,
    /// Model asked for; zero for an upstream server.
    pub model_root: Digest,
    /// keccak of the sampling parameters' canonical bytes.
    pub parameters_digest: Digest,
    /// keccak of the exact body bytes of the client.
    pub request_digest: Digest,
    /// keccak of the canonical bytes of the work that goes with it: what the provider was ordered to do, whatever the router says later.
    pub work_digest: Digest,
    /// Price of input tokens.
    pub input_price: Price,
    /// Price of output tokens.
    pub output_price: Price,
    /// Most input tokens the reserve covers.
    pub input_units_max: u64,
    /// Most output tokens the reserve covers.
    pub output_units_max: u64,
    /// What the router holds for this job.
    pub reserve: TokenAmount,
    /// Fee version the split will use.
    pub fee_version: u16,
    /// How the answer must be checkable.
    pub tier: Tier,
    /// 0 for the first provider, then one more per fail-over.
    pub attempt: u32,
    /// When the router signed.
    pub issued_at: Timestamp,
    /// After this the provider can claim nothing from it.
    pub deadline: Timestamp,
}

/// A ticket with the router's signature over its EIP-712 digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedTicket {
    /// What was signed.
    pub ticket: Ticket,
    /// By the router.
    pub signature: Signature,
}

/// The provider's word that it took a ticket: from then on it owes a delivery until the ticket's deadline. Who the provider is stands in the
/// ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// EIP-712 digest of the ticket.
    pub ticket: Digest,
    /// When the provider took it; not after the ticket's deadline.
    pub accepted_at: Timestamp,
}

/// An acceptance with the provider's signature over its EIP-712 digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedAcceptance {
    /// What was signed.
    pub acceptance: Acceptance,
    /// By the ticket's provider.
    pub signature: Signature,
}

/// What was computed, from what, by whom, at which price. One struct, one byte form: field order is the EIP-712 order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`RECEIPT_VERSION`].
    pub version: u16,
    /// Chain of the vault.
    pub chain_id: u64,
    /// PaymentVault that settles this.
    pub vault: Address,
    /// keccak of the network profile's text.
    pub profile_hash: Digest,
    /// The job.
    pub job_id: JobId,
    /// Who pays.
    pub account: Address,
    /// Who routed and metered.
    pub router: Address,
    /// Who computed.
    pub provider: Address,
    /// Root of the model's integer weights and tables; zero for an upstream server.
    pub model_root: Digest,
    /// Digest of the semantics version or of the backend's identity.
    pub runtime_digest: Digest,
    /// keccak of the sampling parameters' canonical bytes, seed included.
    pub parameters_digest: Digest,
    /// keccak tree over the prompt's token ids (openable by the EVM).
    pub prompt_root: Digest,
    /// keccak of the exact body bytes of the client.
    pub request_digest: Digest,
    /// keccak tree over the output token ids.
    pub output_root: Digest,
    /// keccak of the canonical content: text, tool calls, finish reason, counts.
    pub response_digest: Digest,
    /// Prompt tokens.
    pub input_units: u64,
    /// Output tokens.
    pub output_units: u64,
    /// Price of input tokens.
    pub input_price: Price,
    /// Price of output tokens.
    pub output_price: Price,
    /// What the account pays.
    pub charge: TokenAmount,
    /// Fee version of the split.
    pub fee_version: u16,
    /// Allotment or voucher.
    pub paid_by: PaidBy,
    /// How the answer can be checked.
    pub tier: Tier,
    /// Attestation, trace root or proof; zero where the tier needs none.
    pub evidence_digest: Digest,
    /// EIP-712 digest of the ticket.
    pub ticket_hash: Digest,
    /// The ticket's attempt.
    pub attempt: u32,
    /// Root over segments by several providers; zero while there is one.
    pub segments_root: Digest,
    /// When the provider accepted the ticket.
    pub accepted_at: Timestamp,
    /// When the last token left the provider.
    pub delivered_at: Timestamp,
}

/// A receipt with both signatures over its EIP-712 digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedReceipt {
    /// What was signed.
    pub receipt: Receipt,
    /// By the provider, over the whole receipt.
    pub provider_signature: Signature,
    /// By the router, over the same digest.
    pub router_signature: Signature,
}
