//! What must hold after every event, and what must hold at the end (design: reliability 4.4).

use crate::chain::ModelChain;
use std::collections::BTreeMap;
use stoa_ledger::book::RouterBook;
use stoa_nodes::client::Undelivered;
use stoa_nodes::router::{Stock, Track};
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
    /// Orders that providers took and, as it was told, did not deliver.
    pub undelivered: Vec<Undelivered>,
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
    for Undelivered { ticket, acceptance } in &told.undelivered {
        let (job, order) = (ticket.ticket.job_id, acceptance.acceptance.ticket);
        let charged = book.receipt(job);
        if charged.is_some_and(|signed| signed.receipt.ticket_hash == order) {
            return Err(format!(
                "{job}: said to be undelivered, and charged all the same"
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
    developers: &[Address],
) -> Result<(), String> {
    if let Some((job, _)) = book.open_reservations().next() {
        return Err(format!("{job} is still reserved"));
    }
    if book.unsealed_count() > 0
        || book.next_post().is_some()
        || book.outstanding_payouts().next().is_some()
    {
        return Err(format!(
            "charges are left that were not settled: {} unsealed, next post {:?}, {} payout roots outstanding, vault at {} posts",
            book.unsealed_count(),
            book.next_post().map(|batch| (
                batch.sealed.index,
                batch.sealed.pay_root.is_zero(),
                batch.voided
            )),
            book.outstanding_payouts().count(),
            chain.vault.totals(book.router()).posts,
        ));
    }
    let gross = providers
        .iter()
        .map(|provider| book.lifetime_gross(*provider, 1));
    let gross = TokenAmount::checked_sum(gross).ok_or("the charges do not fit an amount")?;
    let totals = chain.vault.totals(book.router());
    // Also what allotments were released too early for: the router took that over, and every provider is paid to the unit.
    if totals.debited_total != gross || totals.claimed_gross != gross {
        return Err(format!(
            "charged {gross}, debited {}, late {:?}, claimed {}",
            totals.debited_total,
            book.late_debits(),
            totals.claimed_gross
        ));
    }
    for developer in developers {
        let on_chain = chain.vault.allotment(*developer, book.router());
        let on_chain = on_chain
            .filter(|(_, allotment)| allotment.live)
            .map(|(generation, allotment)| (generation, allotment.cap, allotment.debited));
        let here = book
            .allotment(*developer)
            .map(|(generation, allotment)| (generation, allotment.cap, allotment.debited));
        if on_chain != here {
            return Err(format!(
                "{developer}: the vault holds {on_chain:?}, the book {here:?}"
            ));
        }
    }
    Ok(())
}

/// What the router counts about its providers, given how many charges it made with each since it started, and who of them is `honest`
/// over links that change nothing.
pub fn check_stock(
    stock: &Stock,
    charged: &BTreeMap<Address, u64>,
    honest: impl Fn(Address) -> bool,
) -> Result<(), String> {
    let start = Track::default().reputation.ppm();
    for (provider, standing) in stock.iter() {
        let (free, slots) = (standing.free_slots, standing.hello.slots);
        if free > slots || (free > 0 && !standing.online) {
            return Err(format!(
                "{provider} has {free} of {slots} slots free, connected: {}",
                standing.online
            ));
        }
        let delivered = charged.get(provider).copied().unwrap_or_default();
        if standing.track.delivered != delivered {
            return Err(format!(
                "{provider}: {} jobs counted, {delivered} charged",
                standing.track.delivered
            ));
        }
        if honest(*provider) && standing.track.reputation.ppm() < start {
            return Err(format!(
                "{provider} was honest and its reputation fell to {}",
                standing.track.reputation.ppm()
            ));
        }
    }
    Ok(())
}

/// When no call is under way, every slot of those that are connected is free again.
pub fn check_slots(stock: &Stock) -> Result<(), String> {
    let leaked = stock
        .iter()
        .find(|(_, standing)| standing.online && standing.free_slots != standing.hello.slots);
    match leaked {
        None => Ok(()),
        Some((provider, standing)) => Err(format!(
            "{provider}: {} of {} slots free though no call is under way",
            standing.free_slots, standing.hello.slots
        )),
    }
}
