//! Batches and payout roots: which leaves, which roots, which totals.

use super::entry::SealedBatch;
use super::leaf_file::LeafFile;
use super::state::{AllotmentKey, ChargedJob, PayoutKey, RouterBook};
use super::{BookError, Entry};
use crate::CLASS;
use crate::audit::sums::POSTS_MAX;
use crate::roots::{chain_head, pay_root};
use crate::wire::wire_struct;
use std::collections::BTreeMap;
use stoa_crypto::{MerkleTree, debit_leaf, payout_leaf};
use stoa_types::{Address, Digest, Timestamp, TokenAmount};

/// So many posts after the claimable root the next one is posted again though it says nothing new: validators measure no root more than
/// [`POSTS_MAX`] posts after it. Half of that leaves time for roots that are cancelled.
pub const RENEW_AFTER: u64 = POSTS_MAX / 2;

/// Where a batch stands on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    /// Block.
    pub block: u64,
    /// Time of the block.
    pub at: Timestamp,
}

wire_struct!(Posted { block, at });

/// The leaves of a payout root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PayoutSet {
    /// Lifetime gross of each provider and fee version, in the order of the leaves.
    pub providers: BTreeMap<(Address, u16), TokenAmount>,
    /// Lifetime debit of each developer and generation, in the order of the leaves.
    pub debits: BTreeMap<(Address, u32), TokenAmount>,
}

wire_struct!(PayoutSet { providers, debits });

impl PayoutSet {
    /// Tree over the providers' leaves.
    pub fn provider_tree(&self, router: Address) -> MerkleTree {
        let leaf = |(key, gross): (&PayoutKey, &TokenAmount)| {
            payout_leaf(router, CLASS, key.0, key.1, *gross)
        };
        MerkleTree::new(self.providers.iter().map(leaf).collect())
    }

    /// Tree over the developers' leaves.
    pub fn debit_tree(&self, router: Address) -> MerkleTree {
        let leaf = |(key, debit): (&AllotmentKey, &TokenAmount)| {
            debit_leaf(router, CLASS, key.0, key.1, *debit)
        };
        MerkleTree::new(self.debits.iter().map(leaf).collect())
    }
}

/// A batch as the book keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRecord {
    /// What was sealed.
    pub sealed: SealedBatch,
    /// Head of the job chain after it.
    pub head: Digest,
    /// Leaves of its payout root, when it has one.
    pub payout: Option<PayoutSet>,
    /// The payout root was cancelled or could not be posted.
    pub voided: bool,
    /// On chain, once it is.
    pub posted: Option<Posted>,
}

wire_struct!(BatchRecord {
    sealed,
    head,
    payout,
    voided,
    posted,
});

impl BatchRecord {
    /// Payout root and gross to post: zero without a payout root, or when it was voided.
    pub fn pay_root_to_post(&self) -> (Digest, TokenAmount) {
        if self.voided {
            (Digest::ZERO, TokenAmount::ZERO)
        } else {
            (self.sealed.pay_root, self.sealed.gross)
        }
    }
}

/// A batch that the book would accept next, with all that accepting it changes.
pub(crate) struct Composed {
    pub record: BatchRecord,
    pub sealed_gross: BTreeMap<PayoutKey, TokenAmount>,
    /// New sealed totals of the allotments that the batch touches.
    pub sealed_debits: BTreeMap<AllotmentKey, TokenAmount>,
}

impl RouterBook {
    /// Number of leaves in sealed batches.
    pub(crate) fn sealed_leaves(&self) -> u64 {
        self.batches.last().map_or(0, |batch| {
            batch.sealed.first + u64::from(batch.sealed.job_count)
        })
    }

    /// The charged jobs with leaf numbers `first..first + count`; `None` when there are not so many.
    pub(crate) fn leaf_range(&self, first: u64, count: u32) -> Option<Vec<&ChargedJob>> {
        let start = usize::try_from(first).ok()?;
        let end = start.checked_add(usize::try_from(count).ok()?)?;
        let jobs = self.leaves.get(start..end)?;
        jobs.iter().map(|job| self.charged_job(*job)).collect()
    }

    /// Leaves of the newest payout root that is claimable or waits for it.
    fn newest_payout(&self) -> Option<&PayoutSet> {
        let newest = self.outstanding.last().copied().or(self.claimable)?;
        self.batch(newest)?.payout.as_ref()
    }

    /// How many posts after the claimable payout root the next batch is; of the first one where none ever was claimable.
    pub fn posts_since_claimable(&self) -> u64 {
        let next = self.batches.len() as u64 + 1;
        next.saturating_sub(self.claimable.unwrap_or(0))
    }

    /// Whether a payout root may say nothing new: the claimable one lies far back and none waits to follow it.
    fn renews(&self) -> bool {
        self.outstanding.is_empty() && self.posts_since_claimable() >= RENEW_AFTER
    }

    /// The oldest unsealed leaves as the next batch: at most `job_limit` of them. `None` when there is nothing to seal.
    ///
    /// With a payout root, it covers all sealed batches and this one; it is left out when it would say nothing new, but not from
    /// [`RENEW_AFTER`] posts after the claimable one on. Without one the
    /// newest leaf is held back: a post needs a leaf, and without any the last earnings would wait for the next customer. A root that
    /// the vault would refuse, because allotments were released with charges that nothing covers, is left out.
    pub fn seal(&self, now: Timestamp, job_limit: u32, with_payout: bool) -> Option<Entry> {
        let unsealed = self.unsealed_count();
        let takeable = if with_payout {
            unsealed
        } else {
            unsealed.saturating_sub(1)
        };
        let count = u32::try_from(takeable).unwrap_or(u32::MAX).min(job_limit);
        let composed = self.compose(count, with_payout, now).ok()?;
        if composed.record.sealed.gross > self.covered() {
            return self.seal(now, job_limit, false);
        }
        Some(Entry::BatchSealed(composed.record.sealed))
    }

    /// The next batch of exactly `count` leaves.
    pub(crate) fn compose(
        &self,
        count: u32,
        with_payout: bool,
        now: Timestamp,
    ) -> Result<Composed, BookError> {
        let index = self.batches.len() as u64 + 1;
        let wrong = |what| BookError::WrongBatch { index, what };
        let first = self.sealed_leaves();
        let jobs = self
            .leaf_range(first, count)
            .filter(|jobs| !jobs.is_empty())
            .ok_or(wrong("number of leaves"))?;
        let (sealed_gross, sealed_debits) = self.totals_with(&jobs)?;
        let payout = with_payout
            .then(|| self.payout_set(&sealed_gross, &sealed_debits))
            .transpose()?;
        let payout = payout.filter(|(gross, set)| {
            let is_new = !gross.is_zero() && self.newest_payout() != Some(set);
            is_new || self.renews()
        });
        let job_root = MerkleTree::new(jobs.iter().map(|job| job.leaf).collect()).root();
        let file = LeafFile {
            router: self.router,
            index,
            first,
            leaves: jobs
                .iter()
                .map(|job| ((*job.receipt).clone(), job.generation))
                .collect(),
            payout: payout.as_ref().map(|(_, set)| set.clone()),
        };
        let mut sealed = SealedBatch {
            index,
            first,
            job_count: count,
            job_root,
            provider_root: Digest::ZERO,
            debit_root: Digest::ZERO,
            pay_root: Digest::ZERO,
            gross: TokenAmount::ZERO,
            content_id: file.content_id(),
            sealed_at: now,
        };
        if let Some((gross, set)) = &payout {
            sealed.provider_root = set.provider_tree(self.router).root();
            sealed.debit_root = set.debit_tree(self.router).root();
            sealed.pay_root = pay_root(sealed.provider_root, sealed.debit_root);
            sealed.gross = *gross;
        }
        let previous = self.batches.last().map_or(Digest::ZERO, |last| last.head);
        let record = BatchRecord {
            head: chain_head(previous, job_root, count, sealed.content_id),
            sealed,
            payout: payout.map(|(_, set)| set),
            voided: false,
            posted: None,
        };
        Ok(Composed {
            record,
            sealed_gross,
            sealed_debits,
        })
    }

    /// Lifetime totals of sealed batches with `jobs` added: of all providers, and of the allotments that the jobs touch.
    #[allow(clippy::type_complexity)]
    fn totals_with(
        &self,
        jobs: &[&ChargedJob],
    ) -> Result<
        (
            BTreeMap<PayoutKey, TokenAmount>,
            BTreeMap<AllotmentKey, TokenAmount>,
        ),
        BookError,
    > {
        let mut gross = self.sealed_gross.clone();
        let mut debits = BTreeMap::new();
        for job in jobs {
            let receipt = &job.receipt.receipt;
            if receipt.charge.is_zero() {
                continue;
            }
            let total: &mut TokenAmount = gross
                .entry((receipt.provider, receipt.fee_version))
                .or_default();
            *total = total
                .checked_add(receipt.charge)
                .ok_or(BookError::TooLarge)?;
            let key = (receipt.account, job.generation);
            let before = self.allotments.get(&key).map(|allotment| allotment.sealed);
            let total = debits.entry(key).or_insert(before.unwrap_or_default());
            *total = total
                .checked_add(receipt.charge)
                .ok_or(BookError::TooLarge)?;
        }
        Ok((gross, debits))
    }

    fn payout_set(
        &self,
        gross: &BTreeMap<PayoutKey, TokenAmount>,
        touched: &BTreeMap<AllotmentKey, TokenAmount>,
    ) -> Result<(TokenAmount, PayoutSet), BookError> {
        let total = TokenAmount::checked_sum(gross.values().copied()).ok_or(BookError::TooLarge)?;
        let mut debits: BTreeMap<_, _> = self
            .allotments
            .iter()
            .map(|(key, allotment)| (*key, allotment.sealed))
            .collect();
        debits.extend(touched);
        debits.retain(|_, debit| !debit.is_zero());
        let set = PayoutSet {
            providers: gross.clone(),
            debits,
        };
        Ok((total, set))
    }
}
