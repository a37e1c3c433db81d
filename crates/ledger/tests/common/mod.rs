//! Entries and receipts for tests of the book.
#![allow(dead_code)]

use stoa_crypto::Domain;
use stoa_ledger::book::{Entry, RouterBook};
use stoa_ledger::fees::{Usage, charge};
use stoa_types::{
    Address, Digest, JobId, PaidBy, Price, RECEIPT_VERSION, Receipt, Signature, SignedReceipt,
    Tier, Timestamp, TokenAmount,
};

pub const ROUTER: Address = Address([0xee; 20]);
pub const DOMAIN: Domain = Domain {
    chain_id: 31_337,
    vault: Address([0xaa; 20]),
};
/// Units per token of every test receipt: a price of 10^6 per 10^6 tokens.
const PRICE: Price = Price::per_million(TokenAmount::from_units(1_000_000));

pub fn address(id: u8) -> Address {
    Address([id; 20])
}

pub fn units(units: u128) -> TokenAmount {
    TokenAmount::from_units(units)
}

pub fn secs(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

pub fn job(id: u64) -> JobId {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&id.to_be_bytes());
    JobId(bytes)
}

pub fn seen(account: u8, generation: u32, cap: u128) -> Entry {
    Entry::AllotmentSeen {
        account: address(account),
        generation,
        cap: units(cap),
        debited: TokenAmount::ZERO,
        expiry: secs(1_000_000),
        fee_version: 1,
    }
}

pub fn reserved(id: u64, account: u8, generation: u32, amount: u128) -> Entry {
    Entry::Reserved {
        job: job(id),
        account: address(account),
        generation,
        amount: units(amount),
        until: secs(1_000),
    }
}

/// A receipt whose cost before the reserve's limit is `cost` (no output for 0).
pub fn receipt(id: u64, account: u8, provider: u8, cost: u64, reserve: u128) -> SignedReceipt {
    let usage = Usage {
        input_units: 0,
        output_units: cost,
        input_price: PRICE,
        output_price: PRICE,
    };
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        chain_id: DOMAIN.chain_id,
        vault: DOMAIN.vault,
        profile_hash: Digest([1; 32]),
        job_id: job(id),
        account: address(account),
        router: ROUTER,
        provider: address(provider),
        model_root: Digest([2; 32]),
        runtime_digest: Digest([3; 32]),
        parameters_digest: Digest([4; 32]),
        prompt_root: Digest([5; 32]),
        request_digest: Digest([6; 32]),
        output_root: Digest([7; 32]),
        response_digest: Digest([8; 32]),
        input_units: usage.input_units,
        output_units: usage.output_units,
        input_price: usage.input_price,
        output_price: usage.output_price,
        charge: charge(&usage, units(reserve)).expect("small"),
        fee_version: 1,
        paid_by: PaidBy::Allotment,
        tier: Tier::Exact,
        evidence_digest: Digest::ZERO,
        ticket_hash: Digest([9; 32]),
        attempt: 0,
        segments_root: Digest::ZERO,
        accepted_at: secs(10),
        delivered_at: secs(20),
    };
    SignedReceipt {
        receipt,
        provider_signature: Signature([1; 65]),
        router_signature: Signature([2; 65]),
    }
}

pub fn charged(signed: SignedReceipt) -> Entry {
    Entry::Charged {
        receipt: Box::new(signed),
    }
}

pub fn book() -> RouterBook {
    RouterBook::new(DOMAIN, ROUTER)
}

/// Applies entries that must be taken.
pub fn apply(book: &mut RouterBook, entries: &[Entry]) {
    for entry in entries {
        book.apply(entry)
            .unwrap_or_else(|error| panic!("{entry:?}: {error}"));
        book.check_conservation().expect("sums hold");
    }
}

/// Reserves and charges one job of `cost`.
pub fn run_job(book: &mut RouterBook, id: u64, account: u8, provider: u8, cost: u64) {
    let generation = book.allotment(address(account)).expect("allotted").0;
    let reserve = u128::from(cost) + 5;
    apply(
        book,
        &[
            reserved(id, account, generation, reserve),
            charged(receipt(id, account, provider, cost, reserve)),
        ],
    );
}

/// Seals the next batch and posts it in block 5 at `at`.
pub fn seal_and_post(book: &mut RouterBook, with_payout: bool, at: Timestamp) -> u64 {
    let sealed = book
        .seal(at, 10_000, with_payout)
        .expect("something to seal");
    apply(book, &[sealed]);
    let index = book.batches().len() as u64;
    let posted = Entry::BatchPosted {
        index,
        chain_head: book.chain_head(index).expect("sealed"),
        block: 5,
        at,
    };
    apply(book, &[posted]);
    index
}

/// Makes the oldest outstanding payout root claimable.
pub fn promote(book: &mut RouterBook) {
    let batch = book.outstanding_payouts().next().expect("outstanding");
    let promoted = Entry::PayoutPromoted {
        pay_root: batch.sealed.pay_root,
        gross: batch.sealed.gross,
    };
    apply(book, &[promoted]);
}
