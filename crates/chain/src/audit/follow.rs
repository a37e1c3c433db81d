//! Follows the audits of a chain: every event is read once, what cannot change is asked for once.

use alloy_sol_types::SolCall;
use stoa_ledger::audit::panel::Member;
use stoa_ledger::audit::rounds::RoundsParams;
use stoa_ledger::audit::standing::Sampling;
use stoa_types::{Bps, Timestamp};

use super::AuditContracts;
use super::state::{AuditParams, AuditState};
use crate::access::{AccessError, ChainAccess, view};
use crate::bindings::{AuditRounds, PanelVerdict, Reputation};
use crate::convert::{address, evm_digest};
use crate::deploy::Contracts;
use crate::event::ContractEvent;
use crate::indexer::{Cursor, Indexer};

/// Keeps an [`AuditState`] up to date.
pub struct AuditFollower<C> {
    chain: C,
    contracts: Contracts,
    audits: AuditContracts,
    chain_id: u64,
    start: u64,
    confirmations: u64,
    indexer: Indexer<C>,
    state: AuditState,
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
            state: AuditState::new(params),
            seen_at: 0,
        })
    }

    /// What is known.
    pub fn state(&self) -> &AuditState {
        &self.state
    }

    /// Reads up to the head. An error leaves what is known as it is; the next call goes on. Blocks that were read and are no longer in the
    /// chain make it begin anew.
    pub async fn catch_up(&mut self, now: Timestamp) -> Result<(), AccessError> {
        loop {
            let progress = self.indexer.step().await?;
            if let Some(block) = progress.rolled_back_to {
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
                self.state = AuditState::new(*self.state.params());
                self.seen_at = 0;
                continue;
            }
            for indexed in &progress.events {
                let registry = self.contracts.provider_registry;
                let is_router = matches!(indexed.event, ContractEvent::RouterRegistered { .. });
                if is_router
                    && indexed
                        .event
                        .check_endpoint(self.chain_id, registry)
                        .is_err()
                {
                    continue;
                }
                self.state.apply(indexed);
            }
            if progress.at_head {
                break;
            }
        }
        self.state.prune(now);
        self.ask_missing(now).await
    }

    /// What no event says: committees, once each, and which seats of a ruling were seen, until all were.
    async fn ask_missing(&mut self, now: Timestamp) -> Result<(), AccessError> {
        for (id, round) in self.state.missing_committees() {
            let call = AuditRounds::committeeCall { round };
            let members = view(&self.chain, self.audits.rounds, &call).await?;
            let members = members.into_iter().map(|member| Member {
                validator: address(member.validator),
                weight: member.weight.to::<u128>(),
            });
            self.state.set_committee(id, members.collect());
        }
        let next = self.indexer.cursor().next_block();
        if next == self.seen_at {
            return Ok(());
        }
        for (round, subject) in self.state.unseen(now) {
            let call = PanelVerdict::seenOfCall {
                round,
                subject: evm_digest(subject),
            };
            let seen = view(&self.chain, self.audits.verdict, &call).await?;
            self.state.set_seen(round, subject, seen);
        }
        self.seen_at = next;
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
