//! Following the contracts' events block by block, across restarts and reorganisations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stoa_types::{Digest, Timestamp};

use crate::access::{AccessError, BlockId, ChainAccess};
use crate::audit::AuditContracts;
use crate::deploy::Contracts;
use crate::event::ContractEvent;

/// Blocks read in one step.
const STEP: u64 = 1_000;
/// Past blocks whose hashes are remembered; a deeper reorganisation starts over from the beginning.
const REMEMBERED: usize = 128;

/// How far an indexer has read. Keep it with what was made of the events, and both survive a restart together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// First block to be read at all.
    #[serde(default)]
    start: u64,
    /// First block not yet read.
    next: u64,
    /// Hashes of blocks read before, by number, the newest last.
    recent: BTreeMap<u64, Digest>,
}

impl Cursor {
    /// Starts at a block, for example the one in which the contracts were deployed.
    pub fn starting_at(block: u64) -> Self {
        Self {
            start: block,
            next: block,
            recent: BTreeMap::new(),
        }
    }

    /// First block not yet read.
    pub fn next_block(&self) -> u64 {
        self.next
    }
}

/// An event with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    /// What happened.
    pub event: ContractEvent,
    /// Block that holds it.
    pub block: u64,
    /// When that block was made.
    pub at: Timestamp,
    /// Transaction that caused it.
    pub transaction: Digest,
    /// Position in the block.
    pub log_index: u64,
}

/// What one step brought, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Set when blocks that were read are no longer in the chain: forget all events in this block and after it.
    pub rolled_back_to: Option<u64>,
    /// New events.
    pub events: Vec<Indexed>,
    /// Whether the newest block has been read.
    pub at_head: bool,
}

/// Reads events from a cursor on.
pub struct Indexer<C> {
    chain: C,
    contracts: Contracts,
    cursor: Cursor,
    confirmations: u64,
    /// The vault's events are told from this block on; the registries' from the cursor on.
    vault_from: u64,
    /// Contracts that judge, if they are followed too.
    audits: Option<AuditContracts>,
}

impl<C: ChainAccess> Indexer<C> {
    /// Follows `contracts` from `cursor` on, staying `confirmations` blocks behind the head (0 on an embedded chain,
    /// whose blocks are final).
    pub fn new(chain: C, contracts: Contracts, cursor: Cursor, confirmations: u64) -> Self {
        Self {
            chain,
            contracts,
            cursor,
            confirmations,
            vault_from: 0,
            audits: None,
        }
    }

    /// Tells also what happens in the contracts that judge.
    pub fn with_audits(mut self, audits: Option<AuditContracts>) -> Self {
        self.audits = audits;
        self
    }

    /// Leaves out the vault's events before `block`: for a reader whose own books already hold what came of them.
    pub fn vault_from(mut self, block: u64) -> Self {
        self.vault_from = block;
        self
    }

    /// How far it has read.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// One step forward. An error leaves the cursor where it was.
    pub async fn step(&mut self) -> Result<Progress, AccessError> {
        let head = self
            .chain
            .block(None)
            .await?
            .ok_or_else(|| missing(u64::MAX))?;
        let mut cursor = self.cursor.clone();
        let mut progress = Progress::default();
        let common = self.common_block(&cursor).await?;
        if common < cursor.recent.keys().next_back().copied() {
            // Deeper than what is remembered, or another chain altogether: nothing that was read can be relied on.
            let next = common.map_or(cursor.start, |number| number + 1);
            cursor.recent.retain(|number, _| Some(*number) <= common);
            cursor.next = next;
            progress.rolled_back_to = Some(next);
        }
        let readable = head.number.checked_sub(self.confirmations);
        let Some(last) = readable.filter(|last| *last >= cursor.next) else {
            self.cursor = cursor;
            progress.at_head = true;
            return Ok(progress);
        };
        if progress.rolled_back_to.is_some() {
            self.vault_from = cursor.start;
        }
        let to = last.min(cursor.next.saturating_add(STEP - 1));
        progress.events = self.read(cursor.next, to, &mut cursor).await?;
        progress.at_head = to == last;
        cursor.next = to.saturating_add(1);
        while cursor.recent.len() > REMEMBERED {
            cursor.recent.pop_first();
        }
        self.cursor = cursor;
        Ok(progress)
    }

    /// The newest block read that is still in the chain.
    async fn common_block(&self, cursor: &Cursor) -> Result<Option<u64>, AccessError> {
        for (number, hash) in cursor.recent.iter().rev() {
            let now = self.chain.block(Some(*number)).await?;
            if now.is_some_and(|block| block.hash == *hash) {
                return Ok(Some(*number));
            }
        }
        Ok(None)
    }

    async fn read(
        &self,
        from: u64,
        to: u64,
        cursor: &mut Cursor,
    ) -> Result<Vec<Indexed>, AccessError> {
        let mut addresses = vec![
            self.contracts.provider_registry,
            self.contracts.stake_registry,
        ];
        if to >= self.vault_from {
            addresses.push(self.contracts.vault);
        }
        if let Some(audits) = &self.audits {
            addresses.extend([audits.rounds, audits.verdict, audits.reputation]);
            addresses.extend(audits.claims);
        }
        let mut logs = self.chain.logs(addresses, from, to).await?;
        // Told out of order or from elsewhere, events would mean something else: a later release before an earlier debit.
        let places = || logs.iter().map(|log| (log.block, log.log_index));
        let in_order = places().zip(places().skip(1)).all(|(one, next)| one < next);
        if !in_order || !places().all(|(block, _)| (from..=to).contains(&block)) {
            return Err(AccessError::Malformed {
                what: format!("events of the blocks {from} to {to}"),
            });
        }
        logs.retain(|log| log.address != self.contracts.vault || log.block >= self.vault_from);
        let last = self.block(to).await?;
        let mut blocks: BTreeMap<u64, BlockId> = BTreeMap::from([(to, last)]);
        let mut events = Vec::with_capacity(logs.len());
        for log in logs {
            let block = match blocks.get(&log.block) {
                Some(block) => *block,
                None => self.block(log.block).await?,
            };
            if block.hash != log.block_hash {
                // The chain was reorganised between the two questions: the next step sees it whole.
                return Err(AccessError::Unreachable(format!(
                    "block {} changed while it was read",
                    log.block
                )));
            }
            blocks.insert(log.block, block);
            let judged = || self.audits.and_then(|audits| audits.decode(&log));
            match ContractEvent::decode(&self.contracts, &log).or_else(judged) {
                Some(event) => events.push(Indexed {
                    event,
                    block: log.block,
                    at: block.at,
                    transaction: log.transaction,
                    log_index: log.log_index,
                }),
                None => {
                    tracing::warn!(contract = %log.address, block = log.block, "an event cannot be read; skipped")
                }
            }
        }
        cursor.recent.extend(
            blocks
                .into_iter()
                .map(|(number, block)| (number, block.hash)),
        );
        Ok(events)
    }

    async fn block(&self, number: u64) -> Result<BlockId, AccessError> {
        self.chain
            .block(Some(number))
            .await?
            .ok_or_else(|| missing(number))
    }
}

fn missing(number: u64) -> AccessError {
    AccessError::Unreachable(format!("block {number} is not there"))
}
