//! What the book can be asked.

use super::batch::{BatchRecord, PayoutSet};
use super::error::CoverError;
use super::payout_tree::PayoutLeaves;
use super::state::{AllotmentKey, AllotmentState, ChargedJob, Ended, Reservation, RouterBook};
use super::{Entry, Posted};
use std::collections::BTreeMap;
use stoa_crypto::{Domain, MerkleTree};
use stoa_types::{Address, Digest, JobId, JobState, Millis, SignedReceipt, Timestamp, TokenAmount};

/// What an account can spend now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// The most that a new reservation may take.
    pub amount: TokenAmount,
    /// From which generation.
    pub generation: u32,
    /// Fee version for the ticket.
    pub fee_version: u16,
    /// No ticket counts after this.
    pub expiry: Timestamp,
}

/// Where a job's leaf is and how it is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobProof {
    /// Number of the post, from 1.
    pub index: u64,
    /// Position of the leaf in the batch, from 0.
    pub leaf_index: u32,
    /// The leaf.
    pub leaf: Digest,
    /// From the leaf to the job root.
    pub siblings: Vec<Digest>,
    /// Job root.
    pub job_root: Digest,
    /// Number of receipts in the batch.
    pub job_count: u32,
    /// BLAKE3 of the leaf file.
    pub content_id: Digest,
    /// Head of the job chain before the batch.
    pub previous_head: Digest,
    /// Head after it.
    pub head: Digest,
    /// On chain, once it is.
    pub posted: Option<Posted>,
}

/// One link of the job chain after a batch: hashed onto the head it leads to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLink {
    /// Job root.
    pub job_root: Digest,
    /// Number of receipts.
    pub job_count: u32,
    /// BLAKE3 of the leaf file.
    pub content_id: Digest,
}

/// Arguments of `claim` on the vault, beside the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayoutClaim {
    /// Provider.
    pub provider: Address,
    /// Fee version.
    pub fee_version: u16,
    /// Lifetime gross under the claimable root.
    pub lifetime_gross: TokenAmount,
    /// From the provider's leaf to the provider root.
    pub proof: Vec<Digest>,
    /// Root over providers.
    pub provider_root: Digest,
    /// Root over debits.
    pub debit_root: Digest,
}

/// One entry of `syncDebits` on the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebitEntry {
    /// Developer.
    pub account: Address,
    /// Generation.
    pub generation: u32,
    /// Lifetime debit under the claimable root.
    pub lifetime_debit: TokenAmount,
    /// From the developer's leaf to the debit root.
    pub proof: Vec<Digest>,
}

/// When a batch is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealRule {
    /// The oldest leaf waits at most this long, while the payout slot is free.
    pub age: Millis,
    /// Most leaves of one batch.
    pub job_limit: u32,
    /// How long a posted payout root waits until it is claimable; add what the clocks may differ by.
    pub window: Millis,
}

impl RouterBook {
    /// The router whose book this is.
    pub fn router(&self) -> Address {
        self.router
    }

    /// Chain and vault.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    // ---- money of an account

    /// What `account` can reserve now for a ticket that lives `ticket_lifetime`.
    pub fn available(
        &self,
        account: Address,
        now: Timestamp,
        ticket_lifetime: Millis,
    ) -> Result<Available, CoverError> {
        let (generation, allotment) = self.allotment(account).ok_or(CoverError::NoAllotment)?;
        if now.plus(ticket_lifetime) >= allotment.expiry {
            return Err(CoverError::Expired);
        }
        Ok(Available {
            amount: allotment.available(),
            generation,
            fee_version: allotment.fee_version,
            expiry: allotment.expiry,
        })
    }

    /// The live generation of an account and its state.
    pub fn allotment(&self, account: Address) -> Option<(u32, &AllotmentState)> {
        let generation = *self.live.get(&account)?;
        let state = self.allotments.get(&(account, generation))?;
        Some((generation, state))
    }

    /// All generations of all accounts.
    pub fn allotments(&self) -> impl Iterator<Item = (Address, u32, &AllotmentState)> {
        self.allotments
            .iter()
            .map(|((account, generation), state)| (*account, *generation, state))
    }

    // ---- jobs

    /// What is held for a job.
    pub fn reservation(&self, job: JobId) -> Option<&Reservation> {
        self.open.get(&job)
    }

    /// All open reservations.
    pub fn open_reservations(&self) -> impl Iterator<Item = (JobId, &Reservation)> {
        self.open.iter().map(|(job, held)| (*job, held))
    }

    /// Where a job stands. `Dispatched` and `Accepted` are not the book's to know: they show as `Reserved`.
    pub fn job_state(&self, job: JobId) -> Option<JobState> {
        if self.open.contains_key(&job) {
            return Some(JobState::Reserved);
        }
        match self.ended.get(&job)? {
            Ended::Released(cause) => Some(cause.state()),
            Ended::Charged(_) => Some(match self.batch_of(job) {
                Some(_) if self.reversed.get(&job) == Some(&true) => JobState::Reversed,
                Some((index, _)) if self.claimable.is_some_and(|paid| index <= paid) => {
                    JobState::Settled
                }
                Some((index, _)) if index <= self.posted_count() => JobState::Committed,
                _ => JobState::Delivered,
            }),
        }
    }

    pub(crate) fn charged_job(&self, job: JobId) -> Option<&ChargedJob> {
        match self.ended.get(&job)? {
            Ended::Charged(charged) => Some(charged),
            Ended::Released(_) => None,
        }
    }

    /// The receipt of a charged job.
    pub fn receipt(&self, job: JobId) -> Option<&SignedReceipt> {
        self.charged_job(job).map(|charged| &*charged.receipt)
    }

    /// Charged jobs, newest first.
    pub fn newest_jobs(&self) -> impl Iterator<Item = JobId> {
        self.leaves.iter().rev().copied()
    }

    /// Number of the post and position in it, once the job is in a sealed batch.
    pub fn batch_of(&self, job: JobId) -> Option<(u64, u32)> {
        let number = self.charged_job(job)?.number;
        if number >= self.sealed_leaves() {
            return None;
        }
        let after = self
            .batches
            .partition_point(|batch| batch.sealed.first <= number);
        let batch = self.batches.get(after.checked_sub(1)?)?;
        let position = u32::try_from(number - batch.sealed.first).ok()?;
        Some((batch.sealed.index, position))
    }

    /// The proof of a job in a sealed batch. Whoever asks for many keeps the trees: [`RouterBook::proof_in`].
    pub fn proof(&self, job: JobId) -> Option<JobProof> {
        let (index, _) = self.batch_of(job)?;
        self.proof_in(job, &MerkleTree::new(self.leaves_of(index)?))
    }

    /// Leaves of sealed batch `index` in their order; they never change.
    pub fn leaves_of(&self, index: u64) -> Option<Vec<Digest>> {
        let sealed = &self.batch(index)?.sealed;
        let jobs = self.leaf_range(sealed.first, sealed.job_count)?;
        Some(jobs.iter().map(|job| job.leaf).collect())
    }

    /// The proof of a job in a sealed batch whose tree is at hand; `None` for another batch's tree.
    pub fn proof_in(&self, job: JobId, tree: &MerkleTree) -> Option<JobProof> {
        let (index, leaf_index) = self.batch_of(job)?;
        let batch = self.batch(index)?;
        if tree.root() != batch.sealed.job_root {
            return None;
        }
        let previous = index
            .checked_sub(1)
            .and_then(|previous| self.batch(previous));
        Some(JobProof {
            index,
            leaf_index,
            leaf: self.charged_job(job)?.leaf,
            siblings: tree.proof(usize::try_from(leaf_index).ok()?)?,
            job_root: batch.sealed.job_root,
            job_count: batch.sealed.job_count,
            content_id: batch.sealed.content_id,
            previous_head: previous.map_or(Digest::ZERO, |previous| previous.head),
            head: batch.head,
            posted: batch.posted,
        })
    }

    // ---- batches

    /// Batch number `index`, from 1.
    pub fn batch(&self, index: u64) -> Option<&BatchRecord> {
        self.batches
            .get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    pub(crate) fn batch_mut(&mut self, index: u64) -> Option<&mut BatchRecord> {
        self.batches
            .get_mut(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// Jobs of batch `index` in the order of its leaves; none for a batch that does not exist.
    pub fn jobs_of(&self, index: u64) -> &[JobId] {
        let leaves = |batch: &BatchRecord| {
            let first = usize::try_from(batch.sealed.first).ok()?;
            let count = usize::try_from(batch.sealed.job_count).ok()?;
            self.leaves.get(first..first.checked_add(count)?)
        };
        self.batch(index).and_then(leaves).unwrap_or_default()
    }

    /// All batches, oldest first.
    pub fn batches(&self) -> &[BatchRecord] {
        &self.batches
    }

    /// How many batches are on chain; compare with the vault's count before posting.
    pub fn posted_count(&self) -> u64 {
        self.batches
            .partition_point(|batch| batch.posted.is_some())
            .try_into()
            .unwrap_or(u64::MAX)
    }

    /// The oldest batch that is not on chain.
    pub fn next_post(&self) -> Option<&BatchRecord> {
        self.batch(self.posted_count() + 1)
    }

    /// Head of the job chain after batch `index`; zero for 0.
    pub fn chain_head(&self, index: u64) -> Option<Digest> {
        if index == 0 {
            return Some(Digest::ZERO);
        }
        self.batch(index).map(|batch| batch.head)
    }

    /// Links that lead from the head after batch `from` to the head after batch `to` (at most 64 to the chain's next checkpoint).
    pub fn chain_links(&self, from: u64, to: u64) -> Option<Vec<ChainLink>> {
        let link = |index| {
            let sealed = &self.batch(index)?.sealed;
            Some(ChainLink {
                job_root: sealed.job_root,
                job_count: sealed.job_count,
                content_id: sealed.content_id,
            })
        };
        (from.checked_add(1)?..=to).map(link).collect()
    }

    /// Charged jobs that are in no batch yet.
    pub fn unsealed_count(&self) -> u64 {
        self.leaves.len() as u64 - self.sealed_leaves()
    }

    /// When the oldest unsealed job was delivered, by its receipt.
    pub fn oldest_unsealed(&self) -> Option<Timestamp> {
        let number = usize::try_from(self.sealed_leaves()).ok()?;
        let job = self.leaves.get(number)?;
        Some(self.receipt(*job)?.receipt.delivered_at)
    }

    /// Whether a payout root posted at `now` would find the slot free: none waits, or the only one's window is over (the post promotes it).
    pub fn payout_slot_free(&self, now: Timestamp, window: Millis) -> bool {
        match self.outstanding[..] {
            [] => true,
            [index] => self
                .batch(index)
                .and_then(|batch| batch.posted)
                .is_some_and(|posted| posted.at.plus(window) <= now),
            _ => false,
        }
    }

    /// The batch that is due, if one is: full, or both its oldest leaf and the batch before old enough. It carries a payout root when the
    /// slot is free.
    pub fn seal_due(&self, now: Timestamp, rule: &SealRule) -> Option<Entry> {
        let full = self.unsealed_count() >= u64::from(rule.job_limit);
        // The leaf held back by the batch before stays old; the batch's own age keeps it from making a batch of each later leaf.
        // Times of receipts are providers' and clocks jump: what seems to lie ahead of us must not hold up everybody's settlement.
        let since = |earlier| earlier > now || now.since(earlier) >= rule.age;
        let rested = self
            .batches
            .last()
            .is_none_or(|batch| since(batch.sealed.sealed_at));
        let old = self.oldest_unsealed().is_some_and(since) && rested;
        if !old && !full {
            return None;
        }
        self.seal(now, rule.job_limit, self.payout_slot_free(now, rule.window))
    }

    // ---- payouts

    /// Batches whose payout roots wait, oldest first.
    pub fn outstanding_payouts(&self) -> impl Iterator<Item = &BatchRecord> {
        self.outstanding
            .iter()
            .filter_map(|index| self.batch(*index))
    }

    /// The batch whose payout root is claimable.
    pub fn claimable_batch(&self) -> Option<&BatchRecord> {
        self.batch(self.claimable?)
    }

    fn claimable_set(&self) -> Option<(&BatchRecord, &PayoutSet)> {
        let batch = self.claimable_batch()?;
        Some((batch, batch.payout.as_ref()?))
    }

    /// What a provider can claim under the claimable root. It can lie below [`RouterBook::lifetime_gross`] until the next one.
    pub fn payout_claim(&self, provider: Address, fee_version: u16) -> Option<PayoutClaim> {
        let key = (provider, fee_version);
        // No tree is hashed for who has no leaf.
        self.claimable_grosses()?.get(&key)?;
        let tree = self.claimable_leaves()?.hash();
        tree.claims(|leaf| leaf == key).pop()
    }

    /// The batch whose root is claimable, if it has leaves.
    pub fn claimable_index(&self) -> Option<u64> {
        Some(self.claimable_set()?.0.sealed.index)
    }

    /// The providers' leaves of the claimable root, whose tree is not hashed yet.
    pub fn claimable_leaves(&self) -> Option<PayoutLeaves> {
        let (batch, set) = self.claimable_set()?;
        Some(PayoutLeaves {
            router: self.router,
            batch: batch.sealed.index,
            set: PayoutSet {
                providers: set.providers.clone(),
                debits: BTreeMap::new(),
            },
            provider_root: batch.sealed.provider_root,
            debit_root: batch.sealed.debit_root,
        })
    }

    /// Lifetime gross of each provider and fee version under the claimable root.
    pub fn claimable_grosses(&self) -> Option<&BTreeMap<(Address, u16), TokenAmount>> {
        self.claimable_set().map(|(_, set)| &set.providers)
    }

    /// Debits under the claimable root that the vault has not booked and still would: arguments of `syncDebits`.
    pub fn debit_entries(&self) -> Vec<DebitEntry> {
        let Some((_, set)) = self.claimable_set() else {
            return Vec::new();
        };
        let due = |key: &AllotmentKey, debit: TokenAmount| {
            let allotment = self.allotments.get(key);
            allotment.is_some_and(|allotment| !allotment.released && debit > allotment.debited)
        };
        // The tree is only built when something is due: this is asked often.
        if !set.debits.iter().any(|(key, debit)| due(key, *debit)) {
            return Vec::new();
        }
        let tree = set.debit_tree(self.router);
        let entry = |(position, (key, debit)): (usize, (&AllotmentKey, &TokenAmount))| {
            Some(DebitEntry {
                account: key.0,
                generation: key.1,
                lifetime_debit: *debit,
                proof: tree.proof(position)?,
            })
        };
        set.debits
            .iter()
            .enumerate()
            .filter(|(_, (key, debit))| due(key, **debit))
            .filter_map(entry)
            .collect()
    }

    /// Charges of released generations that the router must take over.
    pub fn late_debits(&self) -> Vec<(Address, u32, TokenAmount)> {
        self.allotments()
            .map(|(account, generation, state)| (account, generation, state.late()))
            .filter(|(_, _, late)| !late.is_zero())
            .collect()
    }

    /// What the vault still covers of this router's lifetime gross, as far as the book has seen it: the caps of live allotments and the
    /// booked debits of released ones. A payout root above it is refused there.
    pub fn covered(&self) -> TokenAmount {
        let part = |state: &AllotmentState| {
            if state.released {
                state.debited
            } else {
                state.cap
            }
        };
        // What exceeds 128 bits exceeds any gross.
        TokenAmount::checked_sum(self.allotments.values().map(part))
            .unwrap_or(TokenAmount::from_units(u128::MAX))
    }

    /// The batch to be posted next, if it stands in the way of others with a payout root that the vault refuses as insolvent: without
    /// the root it can be posted, and the next one carries it. The last batch waits instead: there is no leaf yet to carry its root.
    pub fn unpostable_payout(&self) -> Option<&BatchRecord> {
        let (_, gross) = self.next_post()?.pay_root_to_post();
        self.next_post()
            .filter(|_| gross > self.covered() && self.unsealed_count() > 0)
    }

    /// Cap of the router's allotment to itself from which it could take over all charges that came too late for their own allotments,
    /// sealed or not; `None` while it has that.
    pub fn own_cap_needed(&self) -> Option<TokenAmount> {
        let lost = |state: &AllotmentState| state.charged.checked_sub(state.debited);
        let released = self.allotments.values().filter(|state| state.released);
        let uncovered = TokenAmount::checked_sum(released.filter_map(lost))?;
        let own = self.allotment(self.router).map(|(_, state)| state);
        let needed = own.map_or(Some(uncovered), |own| {
            TokenAmount::checked_sum([own.charged, own.held, uncovered])
        })?;
        let cap = own.map_or(TokenAmount::ZERO, |own| own.cap);
        (!uncovered.is_zero() && needed > cap).then_some(needed)
    }

    /// The newest generation of an account's allotments, live or not; 0 when there never was one.
    pub fn newest_generation(&self, account: Address) -> u32 {
        let mut known = self.allotments.range((account, 0)..=(account, u32::MAX));
        known
            .next_back()
            .map_or(0, |((_, generation), _)| *generation)
    }

    /// The next late debit that the router's allotment to itself has room for, as the entry that takes it over.
    pub fn absorb_due(&self) -> Option<Entry> {
        let (router_generation, own) = self.allotment(self.router)?;
        let (account, generation, late) = self.late_debits().into_iter().next()?;
        let amount = late.min(own.available());
        (!amount.is_zero()).then_some(Entry::LateDebitsAbsorbed {
            account,
            generation,
            amount,
            router_generation,
        })
    }

    /// Whether the entry is a fact of the chain that changes nothing here: events are told again after each start.
    pub fn knows(&self, entry: &Entry) -> bool {
        match entry {
            Entry::AllotmentSeen {
                account,
                generation,
                cap,
                debited,
                expiry,
                fee_version,
            } => self.allotment(*account).is_some_and(|(live, known)| {
                (live, known.cap, known.debited) == (*generation, *cap, *debited)
                    && (known.expiry, known.fee_version) == (*expiry, *fee_version)
            }),
            Entry::DebitsSynced {
                account,
                generation,
                debited,
            } => self
                .allotments
                .get(&(*account, *generation))
                .is_some_and(|known| known.debited == *debited),
            // Nothing was ever taken from a generation that the book has not seen.
            Entry::AllotmentClosed {
                account,
                generation,
            } => self
                .allotments
                .get(&(*account, *generation))
                .is_none_or(|known| known.released),
            Entry::JobReversed { job } => self.reversed.contains_key(job),
            _ => false,
        }
    }

    /// The posted batch whose payout root waited when block `block` was made: the one that a cancelling in that block means. Equal
    /// roots can stand in a later batch, posted after it.
    pub fn pending_at(&self, pay_root: Digest, block: u64) -> Option<&BatchRecord> {
        self.outstanding_payouts().find(|batch| {
            batch.sealed.pay_root == pay_root
                && batch.posted.is_some_and(|posted| posted.block <= block)
        })
    }

    /// Lifetime gross of every provider under every fee version, all charges.
    pub fn lifetime_grosses(&self) -> impl Iterator<Item = (Address, u16, TokenAmount)> {
        self.gross
            .iter()
            .map(|((provider, fee_version), gross)| (*provider, *fee_version, *gross))
    }

    /// Lifetime gross of a provider under each fee version, all charges.
    pub fn lifetime_grosses_of(
        &self,
        provider: Address,
    ) -> impl Iterator<Item = (u16, TokenAmount)> {
        let own = self.gross.range((provider, 0)..=(provider, u16::MAX));
        own.map(|((_, fee_version), gross)| (*fee_version, *gross))
    }

    /// Lifetime gross of a provider under a fee version, all charges.
    pub fn lifetime_gross(&self, provider: Address, fee_version: u16) -> TokenAmount {
        let gross = self.gross.get(&(provider, fee_version));
        gross.copied().unwrap_or_default()
    }
}
