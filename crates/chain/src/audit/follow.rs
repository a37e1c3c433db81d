//! Follows the audits of a chain: every event is read once, what cannot change is asked for once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_sol_types::SolCall;
use stoa_ledger::audit::panel::Member;
use stoa_ledger::audit::rounds::RoundsParams;
use stoa_ledger::audit::standing::Sampling;
use stoa_types::{Bps, Millis, Timestamp};

use super::AuditContracts;
use super::state::{AuditParams, AuditState};
use crate::access::{AccessError, ChainAccess, view};
use crate::bindings::{AuditRounds, PanelVerdict, Reputation};
use crate::convert::{address, evm_digest};
use crate::deploy::Contracts;
use crate::event::ContractEvent;
use crate::indexer::{Cursor, Indexer, Progress};

/// Keeps an [`AuditState`] up to date.
pub struct AuditFollower<C> {
    chain: C,
    contracts: Contracts,
    audits: AuditContracts,
    chain_id: u64,
    start: u64,
    confirmations: u64,
    indexer: Indexer<C>,
    /// Events that were read and are not taken in yet: what they need could not be asked for.
    pending: Option<Progress>,
    state: Arc<Mutex<AuditState>>,
    /// The next block when rulings were last asked for their seats.
    seen_at: u64,
}

impl<C: ChainAccess + Clone> AuditFollower<C> {
    /// Follows from block `start` on, `confirmations` blocks behind the head. Asks what the contracts were built with.
    pub async fn open(
        chain: C,
        contracts: Contracts,
        audits: AuditContracts,
        start: u64,
        confirmations: u64,
    ) -> Result<Self, AccessError> {
        let params = params(&chain, &audits).await?;
        let chain_id = chain.chain_id().await?;
        let indexer = indexer(&chain, contracts, audits, start, confirmations);
        Ok(Self {
            chain,
            contracts,
            audits,
            chain_id,
            start,
            confirmations,
            indexer,
            pending: None,
            state: Arc::new(Mutex::new(AuditState::new(params))),
            seen_at: 0,
        })
    }

    /// What is known, for everybody who wants to know it. It is at all times what the chain was after some block.
    pub fn shared(&self) -> Arc<Mutex<AuditState>> {
        self.state.clone()
    }

    /// What is known: hold it briefly.
    pub fn state(&self) -> MutexGuard<'_, AuditState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads up to the head. An error leaves what is known as it is; the next call goes on. Blocks that were read and are no longer in the
    /// chain make it begin anew.
    pub async fn catch_up(&mut self, now: Timestamp) -> Result<(), AccessError> {
        loop {
            let progress = match self.pending.take() {
                Some(progress) => progress,
                None => self.indexer.step().await?,
            };
            if let Some(block) = progress.rolled_back_to {
                self.begin_anew(block);
                continue;
            }
            let committees = match self.committees_of(&progress, now).await {
                Ok(committees) => committees,
                Err(error) => {
                    self.pending = Some(progress);
                    return Err(error);
                }
            };
            let at_head = progress.at_head;
            self.take_in(progress, committees, now);
            if at_head {
                return self.ask_seen(now).await;
            }
        }
    }

    fn begin_anew(&mut self, block: u64) {
        tracing::warn!(
            block,
            "blocks that were read are no longer in the chain; audits are read anew"
        );
        self.indexer = indexer(
            &self.chain,
            self.contracts,
            self.audits,
            self.start,
            self.confirmations,
        );
        let mut state = self.state();
        *state = AuditState::new(*state.params());
        drop(state);
        self.seen_at = 0;
    }

    /// Committees of rounds that opened, once each; of rounds that are over nobody needs them.
    async fn committees_of(
        &self,
        progress: &Progress,
        now: Timestamp,
    ) -> Result<Vec<(u32, Vec<Member>)>, AccessError> {
        let life = Millis::from_secs(self.state().life_of_round());
        let mut found: BTreeMap<u32, Vec<Member>> = BTreeMap::new();
        for indexed in &progress.events {
            let ContractEvent::RoundOpened {
                round, committee, ..
            } = indexed.event
            else {
                continue;
            };
            let over = indexed.at.plus(life) < now;
            let known = found.contains_key(&committee) || !self.state().lacks_committee(committee);
            if over || known {
                continue;
            }
            let call = AuditRounds::committeeCall { round };
            let members = view(&self.chain, self.audits.rounds, &call).await?;
            let members = members.into_iter().map(|member| Member {
                validator: address(member.validator),
                weight: member.weight.to::<u128>(),
            });
            found.insert(committee, members.collect());
        }
        Ok(found.into_iter().collect())
    }

    fn take_in(&self, progress: Progress, committees: Vec<(u32, Vec<Member>)>, now: Timestamp) {
        let registry = self.contracts.provider_registry;
        let mut state = self.state();
        for indexed in &progress.events {
            let is_router = matches!(indexed.event, ContractEvent::RouterRegistered { .. });
            if is_router
                && indexed
                    .event
                    .check_endpoint(self.chain_id, registry)
                    .is_err()
            {
                continue;
            }
            state.apply(indexed);
        }
        for (id, members) in committees {
            state.set_committee(id, members);
        }
        if progress.at_head {
            state.prune(now);
        }
    }

    /// What of a ruling may still change, until all seats were seen: not every call that shows one emits an event.
    async fn ask_seen(&mut self, now: Timestamp) -> Result<(), AccessError> {
        let next = self.indexer.cursor().next_block();
        if next == self.seen_at {
            return Ok(());
        }
        let unseen = self.state().unseen(now);
        let mut is_behind = false;
        for (round, subject) in unseen {
            let call = PanelVerdict::seenOfCall {
                round,
                subject: evm_digest(subject),
            };
            let now = view(&self.chain, self.audits.verdict, &call).await?;
            // Whoever answered has not got the block of the ruling yet: it is asked again.
            is_behind |= now.seen == 0;
            let mut state = self.state();
            state.set_seen(round, subject, now.seen, now.combined);
        }
        if !is_behind {
            self.seen_at = next;
        }
        Ok(())
    }
}

fn indexer<C: ChainAccess + Clone>(
    chain: &C,
    contracts: Contracts,
    audits: AuditContracts,
    start: u64,
    confirmations: u64,
) -> Indexer<C> {
    let cursor = Cursor::starting_at(start);
    Indexer::new(chain.clone(), contracts, cursor, confirmations).with_audits(Some(audits))
}

async fn params<C: ChainAccess>(
    chain: &C,
    audits: &AuditContracts,
) -> Result<AuditParams, AccessError> {
    let times = view(chain, audits.rounds, &AuditRounds::paramsCall {}).await?;
    let answer = view(chain, audits.verdict, &PanelVerdict::ANSWERCall {}).await?;
    let ask = Reputation::samplingCall {};
    let sampling = view(chain, audits.reputation, &ask).await?;
    let bps = |value| {
        Bps::new(value).ok_or_else(|| AccessError::Malformed {
            what: Reputation::samplingCall::SIGNATURE.to_owned(),
        })
    };
    Ok(AuditParams {
        times: RoundsParams {
            interval: times.interval,
            reveal: times.reveal,
            ballot: times.ballot,
            unseal: times.unseal,
            plants: times.plants,
            rulings: times.rulings,
            devnet: times.devnet,
        },
        answer,
        sampling: Sampling {
            most: bps(sampling.mostBps)?,
            least: bps(sampling.leastBps)?,
            first_jobs: sampling.firstJobs,
        },
    })
}
