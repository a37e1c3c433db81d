//! Posting batches and payout roots.

use super::{
    CHECKPOINT_EVERY, Event, MAX_JOBS, PendingRoot, RouterTotals, Vault, VaultError, minus,
};
use crate::roots::chain_head;
use stoa_types::{Address, Digest, TokenAmount};

impl Vault {
    /// `router` posts a batch of `job_count` receipts and, unless `pay_root` is zero, a payout root over its lifetime `gross`. A payout
    /// root whose window is over is promoted first.
    #[allow(clippy::too_many_arguments)] // the contract's own
    pub fn post_batch(
        &mut self,
        router: Address,
        job_root: Digest,
        job_count: u32,
        pay_root: Digest,
        gross: TokenAmount,
        content_id: Digest,
        now: u64,
    ) -> Result<Vec<Event>, VaultError> {
        if job_count == 0 || job_count > MAX_JOBS {
            return Err(VaultError::BadJobCount {
                count: job_count,
                max: MAX_JOBS,
            });
        }
        let mut totals = self.totals(router);
        let mut events = Vec::new();
        let due = totals
            .pending
            .filter(|pending| now >= self.promotable_at(pending));
        if let Some(pending) = due {
            events.push(promote(&mut totals, pending, router));
        }
        let gross = if pay_root == Digest::ZERO {
            TokenAmount::ZERO
        } else {
            self.set_pending(
                &mut totals,
                router,
                PendingRoot {
                    pay_root,
                    gross,
                    at: now,
                },
            )?;
            gross
        };
        totals.posts = totals.posts.checked_add(1).ok_or(VaultError::TooLarge)?;
        totals.chain_head = chain_head(totals.chain_head, job_root, job_count, content_id);
        if totals.posts.is_multiple_of(CHECKPOINT_EVERY) {
            let number = totals.posts / CHECKPOINT_EVERY;
            totals.checkpoints.insert(number, totals.chain_head);
        }
        events.push(Event::BatchPosted {
            router,
            index: totals.posts,
            job_root,
            job_count,
            pay_root,
            gross,
            content_id,
            chain_head: totals.chain_head,
        });
        self.routers.insert(router, totals);
        Ok(events)
    }

    /// Anyone makes a payout root claimable whose window is over.
    pub fn promote(&mut self, router: Address, now: u64) -> Result<Vec<Event>, VaultError> {
        let mut totals = self.totals(router);
        let pending = totals
            .pending
            .ok_or(VaultError::NothingPending { router })?;
        let promotable_at = self.promotable_at(&pending);
        if now < promotable_at {
            return Err(VaultError::PayRootPending {
                router,
                promotable_at,
            });
        }
        let event = promote(&mut totals, pending, router);
        self.routers.insert(router, totals);
        Ok(vec![event])
    }

    /// The verdict, or the router itself, cancels a payout root in its window: since nothing is debited from a pending root, the refund
    /// needs no transfer. A router does so when a post that was under way brought a charge back that a ruling had reversed.
    pub fn void_pending(
        &mut self,
        caller: Address,
        router: Address,
    ) -> Result<Vec<Event>, VaultError> {
        if caller == Address::ZERO || (caller != self.verdict && caller != router) {
            return Err(VaultError::NotAllowed { caller });
        }
        let pending = self.totals(router).pending;
        let pending = pending.ok_or(VaultError::NothingPending { router })?;
        self.router_mut(router).pending = None;
        Ok(vec![Event::PendingVoided {
            router,
            pay_root: pending.pay_root,
            gross: pending.gross,
        }])
    }

    fn promotable_at(&self, pending: &PendingRoot) -> u64 {
        pending.at.saturating_add(self.params.window)
    }

    fn set_pending(
        &self,
        totals: &mut RouterTotals,
        router: Address,
        next: PendingRoot,
    ) -> Result<(), VaultError> {
        if let Some(pending) = &totals.pending {
            return Err(VaultError::PayRootPending {
                router,
                promotable_at: self.promotable_at(pending),
            });
        }
        let (_, claimable) = totals.claimable;
        if next.gross < claimable {
            return Err(VaultError::GrossFell {
                gross: next.gross,
                claimable,
            });
        }
        let covered = minus(totals.cap_total, totals.released_total)?;
        if next.gross > covered {
            return Err(VaultError::Insolvent {
                gross: next.gross,
                covered,
            });
        }
        totals.pending = Some(next);
        Ok(())
    }
}

fn promote(totals: &mut RouterTotals, pending: PendingRoot, router: Address) -> Event {
    totals.pending = None;
    totals.claimable = (pending.pay_root, pending.gross);
    Event::Promoted {
        router,
        pay_root: pending.pay_root,
        gross: pending.gross,
    }
}
