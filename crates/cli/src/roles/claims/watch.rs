//! The claims of a network, as the chain tells of them.

use super::losses::Lost;
use super::made::FAULT;
use super::{PAUSE, POLL, TAKE_BACK};
use crate::launch::Joined;
use crate::roles::router::now;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stoa_chain::{
    AccessError, AuditContracts, ChainAccess, ClaimRules, ContractEvent, Contracts, Cursor,
    Indexer, OpenClaim, OpenClaims,
};
use stoa_types::{Address, Digest, Millis, Timestamp};

/// Before the oldest claim that anything can be done about, for clocks that differ.
const SPARE: Millis = Millis::from_secs(3_600);

/// The open claims of the network. Clones share them.
#[derive(Clone, Default)]
pub struct ClaimsWatch(Arc<Mutex<Followed>>);

#[derive(Default)]
pub(super) struct Followed {
    /// What was read of them, by block: a reorganisation takes the newest back.
    events: Vec<(u64, ContractEvent)>,
    open: OpenClaims,
    /// Whether the chain was read to its head once: before that, what looks open may be decided long ago.
    pub(super) caught_up: bool,
}

impl Followed {
    pub(super) fn take(&mut self, block: u64, event: ContractEvent) {
        let before = self.open.clone();
        self.open.take(&event);
        // Events of other contracts change nothing, and are not kept.
        if self.open != before {
            self.events.push((block, event));
        }
    }

    /// Tickets on which this router claimed, and those of its own that somebody else did and that wait or were punished: a provider could have one
    /// of those answered that it did deliver, to have another one of that day not claimed.
    fn made(&self, router: Address) -> BTreeSet<Digest> {
        let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (_, event) in &self.events {
            match *event {
                ContractEvent::DeliveryClaimed {
                    ticket, claimant, ..
                } if claimant == router => drop(own.insert(ticket)),
                ContractEvent::DeliveryClaimed {
                    ticket,
                    router: ordered,
                    ..
                } if ordered == router => drop(others.insert(ticket)),
                ContractEvent::ClaimAnswered { ticket, .. }
                | ContractEvent::ClaimRefuted { ticket, .. }
                | ContractEvent::ClaimTakenBack { ticket, .. } => drop(others.remove(&ticket)),
                _ => {}
            }
        }
        own.append(&mut others);
        own
    }

    /// Claims by this account whose deposit went to the provider, by ticket: an answer ended them, whatever it showed.
    fn lost(&self, claimant: Address) -> BTreeMap<Digest, Lost> {
        let (mut open, mut lost) = (BTreeMap::new(), BTreeMap::new());
        for (_, event) in &self.events {
            match *event {
                ContractEvent::DeliveryClaimed {
                    ticket,
                    provider,
                    claimant: by,
                    answer_by,
                    ..
                } if by == claimant => {
                    open.insert(
                        ticket,
                        Lost {
                            provider,
                            answer_by,
                        },
                    );
                }
                ContractEvent::ClaimAnswered { ticket, .. }
                | ContractEvent::ClaimRefuted { ticket, .. } => {
                    lost.extend(open.remove_entry(&ticket));
                }
                // The deposit went back.
                ContractEvent::NonDeliveryPunished { ticket, .. }
                | ContractEvent::ClaimTakenBack { ticket, .. } => drop(open.remove(&ticket)),
                _ => {}
            }
        }
        lost
    }

    /// Forgets what happened in this block and after it.
    pub(super) fn roll_back(&mut self, to: u64) {
        self.events.retain(|(block, _)| *block < to);
        self.open = OpenClaims::default();
        for (_, event) in &self.events {
            self.open.take(event);
        }
    }
}

/// The first block up to `head` that is not older than `since`, by when blocks were made.
pub(super) async fn block_since<F>(
    head: u64,
    since: Timestamp,
    made: impl Fn(u64) -> F,
) -> Result<u64, AccessError>
where
    F: Future<Output = Result<Option<Timestamp>, AccessError>>,
{
    let (mut low, mut high) = (0, head);
    while low < high {
        let middle = low + (high - low) / 2;
        match made(middle).await? {
            Some(at) if at >= since => high = middle,
            _ => low = middle + 1,
        }
    }
    Ok(low)
}

/// Age of the oldest claim that counts for anything: it may still be taken back, is the same fault as what may be claimed now, or was to be
/// answered no longer ago than `answered`.
pub(super) fn read_back(rules: &ClaimRules, answered: Millis) -> Millis {
    let [answer, claim] = [rules.answer_seconds, rules.claim_seconds].map(Millis::from_secs);
    let decided = answer.0.saturating_add(TAKE_BACK.0.max(answered.0));
    Millis(decided.max(claim.0.saturating_add(FAULT.0)))
}

impl ClaimsWatch {
    /// Follows the claims for as long as somebody else holds the watch, and those that were to be answered so long ago.
    pub fn start<C: ChainAccess + Clone>(
        chain: C,
        contracts: Contracts,
        audits: AuditContracts,
        answered: Millis,
    ) -> Self {
        let watch = Self::default();
        let followed = watch.clone();
        tokio::spawn(async move { followed.follow(&chain, contracts, audits, answered).await });
        watch
    }

    /// The block from which on claims are read: no older one counts for anything.
    async fn first_block<C: ChainAccess>(
        chain: &C,
        audits: &AuditContracts,
        answered: Millis,
    ) -> Result<u64, AccessError> {
        let rules = audits.claim_rules(chain).await?;
        let age = rules.map_or(Millis(0), |rules| read_back(&rules, answered));
        let since = now().0.saturating_sub(age.0).saturating_sub(SPARE.0);
        let head = chain.block(None).await?.map_or(0, |head| head.number);
        let made = |number| async move {
            let block = chain.block(Some(number)).await?;
            Ok(block.map(|block| block.at))
        };
        block_since(head, Timestamp(since), made).await
    }

    async fn follow<C: ChainAccess + Clone>(
        self,
        chain: &C,
        contracts: Contracts,
        audits: AuditContracts,
        answered: Millis,
    ) {
        let (mut indexer, mut told) = (None, false);
        while Arc::strong_count(&self.0) > 1 {
            let step = async {
                let indexer = match &mut indexer {
                    Some(indexer) => indexer,
                    none => {
                        let first = Self::first_block(chain, &audits, answered).await?;
                        // Of the vault nothing is asked.
                        let from = Cursor::starting_at(first);
                        let read = Indexer::new(chain.clone(), contracts, from, 0)
                            .with_audits(Some(audits))
                            .vault_from(u64::MAX);
                        none.insert(read)
                    }
                };
                indexer.step().await
            };
            let pause = match step.await {
                Ok(progress) => {
                    told = false;
                    let mut followed = self.lock();
                    progress
                        .rolled_back_to
                        .into_iter()
                        .for_each(|block| followed.roll_back(block));
                    for event in progress.events {
                        followed.take(event.block, event.event);
                    }
                    followed.caught_up |= progress.at_head;
                    if progress.at_head {
                        POLL
                    } else {
                        Duration::ZERO
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "claims of non-delivery cannot be followed; they are read on when the chain answers");
                    }
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Followed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tickets on which claims stand that this router made, or that count as if it had; `None` before the chain was read to its head once.
    pub(super) fn made(&self, router: Address) -> Option<BTreeSet<Digest>> {
        let followed = self.lock();
        followed.caught_up.then(|| followed.made(router))
    }

    /// Claims by this account whose deposit went to the provider; `None` before the chain was read to its head once.
    pub(super) fn lost(&self, claimant: Address) -> Option<BTreeMap<Digest, Lost>> {
        let followed = self.lock();
        followed.caught_up.then(|| followed.lost(claimant))
    }

    pub(super) fn all(&self) -> Vec<OpenClaim> {
        let followed = self.lock();
        let open = followed.open.all().filter(|_| followed.caught_up);
        open.copied().collect()
    }
}

/// The claims of a network, and where they are made. Clones share the watch.
#[derive(Clone)]
pub struct Claims {
    /// Who judges.
    pub audits: AuditContracts,
    /// Claims that are open.
    pub watch: ClaimsWatch,
}

impl Claims {
    /// Follows them, where the network has any: from before now on those that were to be answered so long ago, which matter to who claims by
    /// itself alone, and all that may be open.
    pub fn start<C: ChainAccess + Clone>(
        joined: &Joined<C>,
        audits: AuditContracts,
        answered: Millis,
    ) -> Option<Self> {
        audits.claims?;
        let chain = joined.chain.clone();
        let watch = ClaimsWatch::start(chain, joined.contracts, audits, answered);
        Some(Self { audits, watch })
    }
}
