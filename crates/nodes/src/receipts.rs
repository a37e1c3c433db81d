//! The receipt that a ticket and its result demand: both sides build it by this one function and compare.

use stoa_crypto::{Domain, ticket_digest, token_root};
use stoa_ledger::fees::{self, Usage};
use stoa_types::{
    Address, Digest, JobId, PaidBy, Price, RECEIPT_VERSION, Receipt, Ticket, Tier, Timestamp,
    TokenAmount,
};
use stoa_verify::Content;

/// What a provider says of one generation beside the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// keccak tree over the prompt's token ids.
    pub prompt_root: Digest,
    /// Digest of the semantics version or backend identity.
    pub runtime_digest: Digest,
    /// When the ticket was accepted.
    pub accepted_at: Timestamp,
    /// When the last token left.
    pub delivered_at: Timestamp,
}

/// The charge of `ticket` for these counts; `None` when it does not fit an amount.
pub fn charge(ticket: &Ticket, input_units: u64, output_units: u64) -> Option<TokenAmount> {
    let usage = Usage {
        input_units,
        output_units,
        input_price: ticket.input_price,
        output_price: ticket.output_price,
    };
    fees::charge(&usage, ticket.reserve).ok()
}

/// The only receipt that is right for `ticket`, `content` and `output` ids; `None` when the charge does not fit.
pub fn expected_receipt(
    domain: &Domain,
    profile_hash: Digest,
    ticket: &Ticket,
    content: &Content,
    output: &[u32],
    facts: Facts,
) -> Option<Receipt> {
    Some(Receipt {
        version: RECEIPT_VERSION,
        chain_id: domain.chain_id,
        vault: domain.vault,
        profile_hash,
        job_id: ticket.job_id,
        account: ticket.account,
        router: ticket.router,
        provider: ticket.provider,
        model_root: ticket.model_root,
        runtime_digest: facts.runtime_digest,
        parameters_digest: ticket.parameters_digest,
        prompt_root: facts.prompt_root,
        request_digest: ticket.request_digest,
        output_root: token_root(output),
        response_digest: content.digest(),
        input_units: content.input_units,
        output_units: content.output_units,
        input_price: ticket.input_price,
        output_price: ticket.output_price,
        charge: charge(ticket, content.input_units, content.output_units)?,
        fee_version: ticket.fee_version,
        paid_by: PaidBy::Allotment,
        tier: ticket.tier,
        evidence_digest: Digest::ZERO,
        ticket_hash: ticket_digest(domain, ticket),
        attempt: ticket.attempt,
        segments_root: Digest::ZERO,
        accepted_at: facts.accepted_at,
        delivered_at: facts.delivered_at,
    })
}

/// An order, as far as a claim of non-delivery names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderName {
    /// Digest of the ticket.
    pub ticket: Digest,
    /// The job.
    pub job: JobId,
    /// Who pays for it.
    pub account: Address,
    /// Who ordered.
    pub router: Address,
    /// Who took it.
    pub provider: Address,
}

impl OrderName {
    /// Of a ticket.
    pub fn of(domain: &Domain, ticket: &Ticket) -> Self {
        Self {
            ticket: ticket_digest(domain, ticket),
            job: ticket.job_id,
            account: ticket.account,
            router: ticket.router,
            provider: ticket.provider,
        }
    }
}

/// What a provider signs for an order that it took and has nothing to show for: it counts nothing and charges nothing. It answers a claim of
/// non-delivery and is of no use for anything else: it names no model, parameters or tier, so that it follows from no ticket, and a router
/// that posted it with its own signature would be at fault itself.
pub fn nothing_delivered(
    domain: &Domain,
    profile_hash: Digest,
    order: &OrderName,
    now: Timestamp,
) -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        chain_id: domain.chain_id,
        vault: domain.vault,
        profile_hash,
        job_id: order.job,
        account: order.account,
        router: order.router,
        provider: order.provider,
        model_root: Digest::ZERO,
        runtime_digest: Digest::ZERO,
        parameters_digest: Digest::ZERO,
        prompt_root: Digest::ZERO,
        request_digest: Digest::ZERO,
        output_root: Digest::ZERO,
        response_digest: Digest::ZERO,
        input_units: 0,
        output_units: 0,
        input_price: Price::default(),
        output_price: Price::default(),
        charge: TokenAmount::ZERO,
        fee_version: 0,
        paid_by: PaidBy::Allotment,
        tier: Tier::None,
        evidence_digest: Digest::ZERO,
        ticket_hash: order.ticket,
        attempt: 0,
        segments_root: Digest::ZERO,
        accepted_at: now,
        delivered_at: now,
    }
}
