//! Batches: sealed by age or size, posted once, promoted after the window, debits synced after each promotion.
//!
//! Every chain call is asked for again until the event that ends it arrives. The shell makes each idempotent (it compares the
//! vault's number of posts first), so a crash anywhere posts neither twice nor never.

use super::{After, ChainCall, ChainEvent, Keeping, Output, Router};
use stoa_ledger::audit::sums::POSTS_MAX;
use stoa_ledger::book::{BookError, Entry, RENEW_AFTER, SealRule};
use stoa_types::{Address, Digest, Millis, Timestamp, TokenAmount};

/// A chain call without its event is asked for again after this.
const RETRY: Millis = Millis::from_secs(10);
/// Block time and our clock may differ by this much before a call is sent too early.
const CLOCK_MARGIN: Millis = Millis::from_secs(1);
/// A claimable root that lies further back each time is warned of once in so many posts.
const WARN_EVERY: u64 = 16;

impl Router {
    /// Seals what is due, takes over what came too late, and asks for the next chain call.
    pub(super) fn settle(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        while let Some(entry) = self.book.absorb_due() {
            self.journal(entry, After::Nothing, outputs);
        }
        self.take_back(outputs);
        if self.book.next_post().is_none()
            && let Some(entry) = self.book.seal_due(now, &self.seal_rule())
        {
            self.warn_of_distance(outputs);
            self.journal(entry, After::Post, outputs);
        }
        if let Some(batch) = self.book.unpostable_payout() {
            let pay_root = batch.sealed.pay_root;
            outputs.push(Output::Warn { job: None, text: format!(
                "batch {} is posted without its payout root: allotments were released before their debits were booked, and the vault \
                 covers {} of {}; a later batch carries the root",
                batch.sealed.index,
                self.book.covered(),
                batch.sealed.gross
            ) });
            self.journal(Entry::PayoutVoided { pay_root }, After::Post, outputs);
        }
        self.ask_next(now, outputs);
    }

    /// Says in time that no payout root becomes claimable any more, and why calls will end.
    fn warn_of_distance(&self, outputs: &mut Vec<Output>) {
        let posts = self.book.posts_since_claimable();
        if posts > RENEW_AFTER && posts.is_multiple_of(WARN_EVERY) {
            let text = format!(
                "no payout root became claimable for {posts} posts, and after {POSTS_MAX} none can any more: this router then takes no calls. \
                 Verdicts cancelled its roots, or the vault does not cover its totals; the log says which"
            );
            outputs.push(Output::Warn { job: None, text });
        }
    }

    /// Why no new calls are taken, where the claimable root lies so far back that validators would let no root of theirs stand.
    pub(super) fn out_of_reach(&self) -> Option<String> {
        if self.book.posts_since_claimable() <= POSTS_MAX {
            return None;
        }
        let waits = self.book.outstanding_payouts().next().is_some();
        let next = if waits {
            "the one that waits for its window is the last that can: calls are taken again once it is claimable"
        } else {
            "no later one can, and what it served would be paid to nobody. Its operator has to begin anew under another key"
        };
        Some(format!(
            "no payout root of this router became claimable for {POSTS_MAX} posts; {next}"
        ))
    }

    /// Takes reversed charges out of the totals, and keeps payout roots that still hold them from being posted.
    fn take_back(&mut self, outputs: &mut Vec<Output>) {
        while let Some(batch) = self.book.payout_of_reversed() {
            let pay_root = batch.sealed.pay_root;
            self.journal(Entry::PayoutVoided { pay_root }, After::Post, outputs);
        }
        while let Some(entry) = self.book.take_back_due() {
            self.journal(entry, After::Nothing, outputs);
        }
    }

    /// Asks for one call of those that are wanted: they take turns, so that one that always fails does not keep the others waiting.
    /// The next is asked for when the event of the one before arrived, or after [`RETRY`].
    pub(super) fn ask_next(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        if let Some((_, since)) = &self.asked
            && now.since(*since) < RETRY
        {
            return;
        }
        let wanted = [
            self.wanted_void(),
            self.wanted_post(),
            self.wanted_promote(now),
            (!self.book.debit_entries().is_empty()).then_some(ChainCall::SyncDebits),
            self.wanted_cover(now),
        ];
        let turns = wanted.len();
        // A root can be cancelled only within its window: that goes before the others, but not twice running.
        let urgent = wanted[0].is_some() && self.next_turn != 1;
        let first = if urgent { 0 } else { self.next_turn };
        let next = (0..turns)
            .map(|n| (first + n) % turns)
            .find_map(|turn| Some((turn, wanted[turn].clone()?)));
        if let Some((turn, call)) = next {
            self.next_turn = turn + 1;
            self.asked = Some((call.clone(), now));
            outputs.push(Output::Chain(call));
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

    /// The sealed batch is posted once all that decides how is durable.
    fn wanted_post(&self) -> Option<ChainCall> {
        if self.waiting.values().any(|after| *after == After::Post) {
            return None;
        }
        let batch = self.book.next_post()?;
        let (pay_root, gross) = batch.pay_root_to_post();
        let sealed = &batch.sealed;
        Some(ChainCall::Post {
            index: sealed.index,
            job_root: sealed.job_root,
            job_count: sealed.job_count,
            pay_root,
            gross,
            content_id: sealed.content_id,
        })
    }

    /// A post that was under way when the verdict cancelled the root before it brings the reversed charge back: nobody else cancels that.
    fn wanted_void(&self) -> Option<ChainCall> {
        let pay_root = self.book.pending_of_reversed()?.sealed.pay_root;
        Some(ChainCall::VoidOwn { pay_root })
    }

    /// A payout root that the next batch would have promoted, had there been one, is promoted by itself.
    fn wanted_promote(&self, now: Timestamp) -> Option<ChainCall> {
        let settlement = &self.config.profile.settlement;
        let patience = Millis::from_secs(settlement.window_seconds + settlement.batch_seconds).0
            + CLOCK_MARGIN.0;
        let posted = self.book.outstanding_payouts().next()?.posted?;
        (now >= posted.at.plus(Millis(patience))).then_some(ChainCall::Promote)
    }

    /// Charges whose allotments were released before they were debited are the router's own loss: it covers them by an allotment to
    /// itself, so that providers are paid and the vault goes on taking its roots.
    fn wanted_cover(&self, now: Timestamp) -> Option<ChainCall> {
        let cap = self.book.own_cap_needed()?;
        let life = Millis::from_secs(self.config.profile.settlement.allotment_seconds);
        Some(ChainCall::CoverLate {
            generation: self.book.newest_generation(self.book.router()),
            cap,
            expiry: now.plus(life),
        })
    }

    pub(super) fn chain_event(&mut self, event: ChainEvent, outputs: &mut Vec<Output>) {
        if let Some((call, _)) = &self.asked
            && ends(&event, call, &self.book.router())
        {
            self.asked = None;
        }
        if let Some(entry) = self.about_payout(&event) {
            self.journal(entry, After::Nothing, outputs);
        }
        match event {
            ChainEvent::AuditsOver { posts } => return self.erase(posts, outputs),
            ChainEvent::ProviderRated {
                provider,
                reputation_ppm,
            } => return self.stock.rate(provider, reputation_ppm),
            ChainEvent::Published { provider, models } => {
                return self.stock.publish(provider, models);
            }
            _ => {}
        }
        let entry = match entry(event) {
            Told::Nothing => return,
            Told::Entry(entry) => entry,
            Told::Voided(pay_root, block) => match self.book.pending_at(pay_root, block) {
                Some(_) => {
                    let posts = self.book.posts_since_claimable();
                    outputs.push(Output::Warn { job: None, text: format!(
                        "payout root {pay_root} was cancelled by a verdict: on a job that it pays, or on its batch; what is not reversed enters the \
                         next one, which is {posts} posts after the claimable one and can stand up to {POSTS_MAX}"
                    ) });
                    Entry::PayoutVoided { pay_root }
                }
                None => return,
            },
            Told::Promoted(pay_root, gross, block) => {
                // An equal root that was posted later is not meant: this one is told again.
                let later = self.book.outstanding_payouts().any(|batch| {
                    batch.sealed.pay_root == pay_root
                        && batch.posted.is_some_and(|posted| posted.block > block)
                });
                if later {
                    return;
                }
                Entry::PayoutPromoted { pay_root, gross }
            }
        };
        if self.book.knows(&entry) {
            return;
        }
        // Events may be told again after a restart or a reorganisation; what the book already knows changes nothing.
        match self.book.check(&entry) {
            Ok(()) => {
                self.journal(entry, After::Nothing, outputs);
                self.take_back(outputs);
            }
            Err(
                BookError::AlreadyPosted { .. }
                | BookError::AlreadyPromoted { .. }
                | BookError::ChainWentBack { .. }
                | BookError::AllotmentReleased { .. },
            ) => {}
            Err(error) => outputs.push(Output::Warn {
                job: None,
                text: format!("a chain event contradicts the books: {error}"),
            }),
        }
    }

    /// Lets go of what was kept for audits of the first `posts` batches.
    fn erase(&mut self, posts: u64, outputs: &mut Vec<Output>) {
        let Some(over) = self.audited_posts.filter(|over| *over < posts) else {
            return;
        };
        let posts = posts.min(self.book.posted_count());
        let batches = over + 1..=posts;
        let jobs: Vec<_> = batches
            .flat_map(|index| self.book.jobs_of(index).iter().copied())
            .collect();
        self.audited_posts = Some(posts.max(over));
        if !jobs.is_empty() {
            outputs.push(Output::Audits(Keeping::Erase { jobs }));
        }
    }

    /// What the book must learn before a post: the transaction that got there may be an older one, sent before the payout root was
    /// cancelled here.
    fn about_payout(&self, event: &ChainEvent) -> Option<Entry> {
        let ChainEvent::BatchPosted {
            index,
            pay_root: found,
            ..
        } = event
        else {
            return None;
        };
        let batch = self
            .book
            .next_post()
            .filter(|batch| batch.sealed.index == *index)?;
        let pay_root = batch.sealed.pay_root;
        match (batch.voided, *found == pay_root) {
            _ if pay_root == Digest::ZERO => None,
            (true, true) => Some(Entry::PayoutStands { pay_root }),
            (false, false) => Some(Entry::PayoutVoided { pay_root }),
            _ => None,
        }
    }
}

fn ends(event: &ChainEvent, call: &ChainCall, router: &Address) -> bool {
    match (event, call) {
        (ChainEvent::BatchPosted { index, .. }, ChainCall::Post { index: asked, .. }) => {
            index == asked
        }
        (ChainEvent::PayoutVoided { pay_root, .. }, ChainCall::VoidOwn { pay_root: asked }) => {
            pay_root == asked
        }
        (ChainEvent::PayoutPromoted { .. }, ChainCall::Promote)
        | (ChainEvent::DebitSynced { .. }, ChainCall::SyncDebits) => true,
        (ChainEvent::Allotment { account, .. }, ChainCall::CoverLate { .. }) => account == router,
        _ => false,
    }
}

/// What the book is to learn of an event.
enum Told {
    Nothing,
    Entry(Entry),
    /// A payout root was cancelled in this block: which batch's depends on the book.
    Voided(Digest, u64),
    /// A payout root of this gross became claimable in this block.
    Promoted(Digest, TokenAmount, u64),
}

fn entry(event: ChainEvent) -> Told {
    Told::Entry(match event {
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
            pay_root: _,
        } => Entry::BatchPosted {
            index,
            chain_head: head,
            block,
            at,
        },
        ChainEvent::PayoutPromoted {
            pay_root,
            gross,
            block,
        } => return Told::Promoted(pay_root, gross, block),
        ChainEvent::JobReversed { job } => Entry::JobReversed { job },
        ChainEvent::AuditsOver { .. }
        | ChainEvent::ProviderRated { .. }
        | ChainEvent::Published { .. } => return Told::Nothing,
        ChainEvent::PayoutVoided { pay_root, block } => return Told::Voided(pay_root, block),
        ChainEvent::DebitSynced {
            account,
            generation,
            debited,
        } => Entry::DebitsSynced {
            account,
            generation,
            debited,
        },
    })
}
