//! Batches: sealed by age or size, posted once, promoted after the window, debits synced after each promotion.
//!
//! Every chain call is asked for again until the event that ends it arrives. The shell makes each idempotent (it compares the
//! vault's number of posts first), so a crash anywhere posts neither twice nor never.

use super::{After, ChainCall, ChainEvent, Output, Router};
use stoa_ledger::book::{BookError, Entry, SealRule};
use stoa_types::{Millis, Timestamp};

/// A chain call without its event is asked for again after this.
const RETRY: Millis = Millis::from_secs(10);
/// Block time and our clock may differ by this much before a call is sent too early.
const CLOCK_MARGIN: Millis = Millis::from_secs(1);

impl Router {
    /// Seals what is due and asks for the next chain call. One at a time: the next follows the event of the one before.
    pub(super) fn settle(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        if self.book.next_post().is_none()
            && let Some(entry) = self.book.seal_due(now, &self.seal_rule())
        {
            self.journal(entry, After::Post, outputs);
        }
        self.post(now, outputs);
        if self.book.next_post().is_none() {
            self.promote(now, outputs);
            if !self.book.debit_entries().is_empty() {
                self.ask(ChainCall::SyncDebits, now, outputs);
            }
        }
    }

    fn seal_rule(&self) -> SealRule {
        let settlement = &self.config.profile.settlement;
        // A router that shuts down does not wait for a batch to age.
        let age = if self.draining {
            Millis(0)
        } else {
            Millis::from_secs(settlement.batch_seconds)
        };
        let window = Millis(Millis::from_secs(settlement.window_seconds).0 + CLOCK_MARGIN.0);
        SealRule {
            age,
            job_limit: settlement.batch_receipts_max,
            window,
        }
    }

    /// Asks for the sealed batch to be posted, once its entry is durable.
    pub(super) fn post(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        if self.waiting.values().any(|after| *after == After::Post) {
            return;
        }
        let Some(batch) = self.book.next_post() else {
            return;
        };
        let (pay_root, gross) = batch.pay_root_to_post();
        let sealed = &batch.sealed;
        let call = ChainCall::Post {
            index: sealed.index,
            job_root: sealed.job_root,
            job_count: sealed.job_count,
            pay_root,
            gross,
            content_id: sealed.content_id,
        };
        self.ask(call, now, outputs);
    }

    /// A payout root that the next batch would have promoted, had there been one, is promoted by itself.
    fn promote(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        let settlement = &self.config.profile.settlement;
        let patience = Millis::from_secs(settlement.window_seconds + settlement.batch_seconds).0
            + CLOCK_MARGIN.0;
        let posted = self
            .book
            .outstanding_payouts()
            .next()
            .and_then(|batch| batch.posted);
        if posted.is_some_and(|posted| now >= posted.at.plus(Millis(patience))) {
            self.ask(ChainCall::Promote, now, outputs);
        }
    }

    /// Asks once, then again after [`RETRY`]; another call waits its turn.
    fn ask(&mut self, call: ChainCall, now: Timestamp, outputs: &mut Vec<Output>) {
        if let Some((_, since)) = &self.asked
            && now.since(*since) < RETRY
        {
            return;
        }
        self.asked = Some((call.clone(), now));
        outputs.push(Output::Chain(call));
    }

    pub(super) fn chain_event(&mut self, event: ChainEvent, outputs: &mut Vec<Output>) {
        if let Some((call, _)) = &self.asked
            && ends(&event, call)
        {
            self.asked = None;
        }
        let entry = entry(event);
        // Events may be told again after a restart or a reorganisation; what the book already knows changes nothing.
        match self.book.check(&entry) {
            Ok(()) => self.journal(entry, After::Nothing, outputs),
            Err(
                BookError::AlreadyPosted { .. }
                | BookError::AlreadyPromoted { .. }
                | BookError::ChainWentBack { .. }
                | BookError::AllotmentReleased { .. },
            ) => {}
            Err(error) => outputs.push(Output::Warn(format!(
                "a chain event contradicts the books: {error}"
            ))),
        }
    }
}

fn ends(event: &ChainEvent, call: &ChainCall) -> bool {
    match (event, call) {
        (ChainEvent::BatchPosted { index, .. }, ChainCall::Post { index: asked, .. }) => {
            index == asked
        }
        (ChainEvent::PayoutPromoted { .. }, ChainCall::Promote)
        | (ChainEvent::DebitSynced { .. }, ChainCall::SyncDebits) => true,
        _ => false,
    }
}

fn entry(event: ChainEvent) -> Entry {
    match event {
        ChainEvent::Allotment {
            account,
            generation,
            cap,
            debited,
            expiry,
            fee_version,
        } => Entry::AllotmentSeen {
            account,
            generation,
            cap,
            debited,
            expiry,
            fee_version,
        },
        ChainEvent::AllotmentClosed {
            account,
            generation,
        } => Entry::AllotmentClosed {
            account,
            generation,
        },
        ChainEvent::BatchPosted {
            index,
            head,
            block,
            at,
        } => Entry::BatchPosted {
            index,
            chain_head: head,
            block,
            at,
        },
        ChainEvent::PayoutPromoted { pay_root, gross } => Entry::PayoutPromoted { pay_root, gross },
        ChainEvent::DebitSynced {
            account,
            generation,
            debited,
        } => Entry::DebitsSynced {
            account,
            generation,
            debited,
        },
    }
}
