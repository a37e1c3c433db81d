//! Transactions that wait for a block.
//!
//! Per sender the pool holds an unbroken run of nonces, ready to be sealed, and beyond a gap a few that wait for the
//! missing ones (clients send in parallel, and the second may arrive first). Nothing is replaced.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use tokio::sync::oneshot;

use crate::error::SubmitError;
use crate::records::Receipt;
use crate::tx::SignedTransaction;

/// What may wait at once. Without a fee anybody may send, so memory is bounded here.
struct Limits {
    /// Transactions altogether.
    pending: usize,
    /// Of these, behind a gap. They are not sealed soon and must not take the place of those that are.
    queued: usize,
    /// Raw bytes altogether.
    bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending: 65_536,
            queued: 4_096,
            bytes: 64 << 20,
        }
    }
}

/// How far beyond a gap a nonce may lie.
const GAP_MAX: u64 = 1_024;

pub(crate) type Answer = oneshot::Sender<Result<Box<Receipt>, SubmitError>>;

/// A transaction with its sender and the one who waits for its receipt.
pub(crate) struct Waiting {
    pub transaction: SignedTransaction,
    pub sender: Address,
    pub answer: Answer,
    since: Instant,
}

impl Waiting {
    pub(crate) fn new(transaction: SignedTransaction, sender: Address, answer: Answer) -> Self {
        Self {
            transaction,
            sender,
            answer,
            since: Instant::now(),
        }
    }
}

#[derive(Default)]
struct Run {
    /// Nonce after the last one that is ready or being sealed.
    next: u64,
    /// Hashes by nonce of those ready or being sealed.
    hashes: BTreeMap<u64, B256>,
}

#[derive(Default)]
pub(crate) struct Pool {
    ready: VecDeque<Waiting>,
    queued: BTreeMap<(Address, u64), Waiting>,
    runs: HashMap<Address, Run>,
    /// Everything that waits or is being sealed, for lookups by hash.
    known: HashMap<B256, (Address, SignedTransaction)>,
    /// Raw bytes of all that is known.
    bytes: usize,
    limits: Limits,
    pub(crate) closed: bool,
}

impl Pool {
    /// Takes a transaction whose sender's next nonce in the newest block is `state_nonce`.
    /// Returns whether it is ready for the next block.
    pub(crate) fn add(&mut self, waiting: Waiting, state_nonce: u64) -> Result<bool, SubmitError> {
        if self.closed {
            return Err(SubmitError::Closed);
        }
        let (sender, nonce, hash) = (
            waiting.sender,
            waiting.transaction.body.nonce,
            waiting.transaction.hash,
        );
        if self.known.contains_key(&hash) {
            return Err(SubmitError::AlreadyKnown(hash));
        }
        let expected = self.next_nonce(sender, state_nonce);
        if nonce < expected {
            let taken = self
                .runs
                .get(&sender)
                .and_then(|run| run.hashes.get(&nonce));
            return Err(taken.map_or(
                SubmitError::NonceTooLow {
                    expected,
                    got: nonce,
                },
                |pending| SubmitError::Replacement {
                    nonce,
                    pending: *pending,
                },
            ));
        }
        if let Some(other) = self.queued.get(&(sender, nonce)) {
            return Err(SubmitError::Replacement {
                nonce,
                pending: other.transaction.hash,
            });
        }
        if nonce - expected > GAP_MAX {
            return Err(SubmitError::NonceGap {
                expected,
                got: nonce,
            });
        }
        let bytes = self.bytes + waiting.transaction.raw.len();
        if self.known.len() >= self.limits.pending
            || bytes > self.limits.bytes
            || (nonce > expected && self.queued.len() >= self.limits.queued)
        {
            return Err(SubmitError::PoolFull {
                pending: self.known.len(),
                queued: self.queued.len(),
                bytes: self.bytes,
            });
        }
        self.bytes = bytes;
        self.known
            .insert(hash, (sender, waiting.transaction.clone()));
        if nonce > expected {
            self.queued.insert((sender, nonce), waiting);
            return Ok(false);
        }
        self.make_ready(waiting);
        self.advance(sender, nonce + 1);
        Ok(true)
    }

    fn make_ready(&mut self, waiting: Waiting) {
        let nonce = waiting.transaction.body.nonce;
        let run = self.runs.entry(waiting.sender).or_default();
        run.next = nonce + 1;
        run.hashes.insert(nonce, waiting.transaction.hash);
        self.ready.push_back(waiting);
    }

    /// Moves queued transactions of `sender` from `nonce` on to the ready ones, up to the next gap.
    fn advance(&mut self, sender: Address, mut nonce: u64) {
        while let Some(waiting) = self.queued.remove(&(sender, nonce)) {
            self.make_ready(waiting);
            nonce += 1;
        }
    }

    /// The nonce that the next transaction of `sender` needs.
    pub(crate) fn next_nonce(&self, sender: Address, state_nonce: u64) -> u64 {
        self.runs
            .get(&sender)
            .map_or(state_nonce, |run| run.next.max(state_nonce))
    }

    pub(crate) fn find(&self, hash: &B256) -> Option<&(Address, SignedTransaction)> {
        self.known.get(hash)
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Up to `max` ready transactions in order. They stay known until [`Self::finish`].
    pub(crate) fn take(&mut self, max: usize) -> Vec<Waiting> {
        let count = self.ready.len().min(max);
        self.ready.drain(..count).collect()
    }

    /// Puts back, in order and before all others, what did not fit into the block.
    pub(crate) fn put_back(&mut self, waiting: Vec<Waiting>) {
        for one in waiting.into_iter().rev() {
            self.ready.push_front(one);
        }
    }

    /// Forgets a transaction that is in a block or was refused.
    pub(crate) fn finish(&mut self, sender: Address, nonce: u64, hash: &B256) {
        self.forget(hash);
        if let Some(run) = self.runs.get_mut(&sender) {
            run.hashes.remove(&nonce);
            if run.hashes.is_empty() {
                self.runs.remove(&sender);
            }
        }
    }

    /// After a block: what waited for exactly `state_nonce` of `sender` is ready now.
    pub(crate) fn after_block(&mut self, sender: Address, state_nonce: u64) {
        let next = self.next_nonce(sender, state_nonce);
        self.advance(sender, next);
        let stale: Vec<u64> = self
            .queued
            .range((sender, 0)..(sender, next))
            .map(|((_, nonce), _)| *nonce)
            .collect();
        for nonce in stale {
            self.drop_queued(
                (sender, nonce),
                SubmitError::NonceTooLow {
                    expected: next,
                    got: nonce,
                },
            );
        }
    }

    /// Refuses what has waited behind a gap for longer than `limit`.
    pub(crate) fn expire(&mut self, limit: Duration, next_nonce: impl Fn(&Self, Address) -> u64) {
        let now = Instant::now();
        let late: Vec<(Address, u64)> = self
            .queued
            .iter()
            .filter(|(_, waiting)| now.duration_since(waiting.since) > limit)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            let expected = next_nonce(self, key.0);
            self.drop_queued(
                key,
                SubmitError::NonceGap {
                    expected,
                    got: key.1,
                },
            );
        }
    }

    fn forget(&mut self, hash: &B256) {
        if let Some((_, transaction)) = self.known.remove(hash) {
            self.bytes = self.bytes.saturating_sub(transaction.raw.len());
        }
    }

    fn drop_queued(&mut self, key: (Address, u64), error: SubmitError) {
        if let Some(waiting) = self.queued.remove(&key) {
            self.forget(&waiting.transaction.hash);
            // Nobody may be waiting for the answer any more.
            let _ = waiting.answer.send(Err(error));
        }
    }

    /// Refuses everything that waits, and all that comes.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        let queued = std::mem::take(&mut self.queued);
        for waiting in self.ready.drain(..).chain(queued.into_values()) {
            let _ = waiting.answer.send(Err(SubmitError::Closed));
        }
        self.runs.clear();
        self.known.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tx::Transaction;
    use alloy_primitives::{Bytes, U256};

    fn sender(number: u8) -> Address {
        Address::repeat_byte(number)
    }

    /// Adds a transaction with 1,000 bytes of call data; the pool does not look at signatures.
    fn add(pool: &mut Pool, from: u8, nonce: u64) -> Result<B256, SubmitError> {
        let input = Bytes::from(vec![from; 1_000]);
        let body = Transaction::call(1, nonce, Address::ZERO, input, 100_000);
        let transaction = body.into_signed(false, U256::ONE, U256::ONE);
        let hash = transaction.hash;
        let (answer, _) = oneshot::channel();
        pool.add(Waiting::new(transaction, sender(from), answer), 0)
            .map(|_| hash)
    }

    fn bounded(pending: usize, queued: usize, bytes: usize) -> Pool {
        Pool {
            limits: Limits {
                pending,
                queued,
                bytes,
            },
            ..Pool::default()
        }
    }

    fn is_full(result: Result<B256, SubmitError>) -> bool {
        matches!(result, Err(SubmitError::PoolFull { .. }))
    }

    #[test]
    fn what_waits_behind_gaps_leaves_room_for_what_is_ready() {
        let mut pool = bounded(10, 2, 1 << 20);
        add(&mut pool, 1, 5).unwrap();
        add(&mut pool, 2, 5).unwrap();
        assert!(is_full(add(&mut pool, 3, 5)));
        let ready = add(&mut pool, 3, 0).unwrap();
        // One that is ready moves on those behind it; then there is room behind gaps again.
        for nonce in 0..5 {
            add(&mut pool, 1, nonce).unwrap();
        }
        add(&mut pool, 3, 5).unwrap();
        assert!(pool.find(&ready).is_some());
    }

    #[test]
    fn the_bytes_that_wait_are_bounded_and_given_back() {
        let mut pool = bounded(10, 10, 2_500);
        let first = add(&mut pool, 1, 0).unwrap();
        add(&mut pool, 1, 2).unwrap();
        assert!(is_full(add(&mut pool, 2, 0)));
        assert_eq!(pool.take(10).len(), 1);
        assert!(is_full(add(&mut pool, 2, 0)), "it is still being sealed");
        pool.finish(sender(1), 0, &first);
        pool.finish(sender(1), 0, &first);
        add(&mut pool, 2, 0).unwrap();
        assert!(is_full(add(&mut pool, 2, 1)));
        std::thread::sleep(Duration::from_millis(5));
        pool.expire(Duration::from_millis(1), |_, _| 1);
        let third = add(&mut pool, 2, 1).unwrap();
        assert!(pool.find(&third).is_some());
        pool.close();
        assert_eq!(pool.bytes, 0);
    }

    #[test]
    fn the_number_that_waits_is_bounded() {
        let mut pool = bounded(2, 2, 1 << 20);
        add(&mut pool, 1, 0).unwrap();
        add(&mut pool, 1, 1).unwrap();
        assert!(is_full(add(&mut pool, 1, 2)));
    }
}
