//! What must hold after every event, and what must hold at the end (design: reliability 4.4).

use crate::chain::ModelChain;
use std::collections::BTreeMap;
use stoa_ledger::book::RouterBook;
use stoa_types::{Address, JobId, SignedReceipt, TokenAmount};

/// What the outside was told: none of it may ever be untrue.
#[derive(Debug, Default)]
pub struct Told {
    /// Receipts that clients were given.
    pub done: BTreeMap<JobId, SignedReceipt>,
    /// Receipts that providers keep.
    pub earned: BTreeMap<JobId, SignedReceipt>,
    /// Jobs whose client heard a failure, with what it was billed.
    pub failed: BTreeMap<JobId, TokenAmount>,
}

/// Safety of the books and of what was told, given the router's book as it is now.
pub fn check(book: &RouterBook, chain: &ModelChain, told: &Told) -> Result<(), String> {
    book.check_conservation()
        .map_err(|e| format!("router's book: {e}"))?;
    chain
        .vault
        .check_conservation()
        .map_err(|e| format!("vault: {e}"))?;
    for (job, receipt) in told.done.iter().chain(&told.earned) {
        match book.receipt(*job) {
            Some(kept) if kept == receipt => {}
            Some(_) => return Err(format!("{job}: another receipt is kept than was given")),
            None => return Err(format!("{job}: a receipt was given, but no charge is kept")),
        }
    }
    for (job, billed) in &told.failed {
        let kept = book
            .receipt(*job)
            .map_or(TokenAmount::ZERO, |signed| signed.receipt.charge);
        if kept != *billed {
            return Err(format!(
                "{job}: the client was told it was billed {billed}, the books say {kept}"
            ));
        }
    }
    Ok(())
}

/// After healing and draining: nothing open, everything settled, claimed and accounted for to the unit.
pub fn check_drained(
    book: &RouterBook,
    chain: &ModelChain,
    providers: &[Address],
    developer: Address,
    cap: u128,
) -> Result<(), String> {
    if let Some((job, _)) = book.open_reservations().next() {
        return Err(format!("{job} is still reserved"));
    }
    if book.unsealed_count() > 0
        || book.next_post().is_some()
        || book.outstanding_payouts().next().is_some()
    {
        return Err("charges are left that were not settled".to_owned());
    }
    let gross = providers
        .iter()
        .map(|provider| book.lifetime_gross(*provider, 1));
    let gross = TokenAmount::checked_sum(gross).ok_or("the charges do not fit an amount")?;
    let totals = chain.vault.totals(book.router());
    if totals.debited_total != gross || totals.claimed_gross != gross {
        return Err(format!(
            "charged {gross}, debited {}, claimed {}",
            totals.debited_total, totals.claimed_gross
        ));
    }
    let left = book
        .allotment(developer)
        .map(|(_, allotment)| allotment.available());
    let expected = TokenAmount::from_units(cap).checked_sub(gross);
    if left != expected {
        return Err(format!(
            "{left:?} of the allotment is free, {expected:?} should be"
        ));
    }
    Ok(())
}
