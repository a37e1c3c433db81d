//! The router's side of the chain: events become inputs of the state machine, its chain calls become transactions.

use super::gateway::ChainView;
use super::router::{RouterHandle, now};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stoa_chain::{
    Account, ChainAccess, ContractEvent, Contracts, Cursor, Debit, Done, Indexed, Indexer, Offer,
    PayRoots, Post, StakeRole, View,
};
use stoa_nodes::message::{Hello, ModelOffer};
use stoa_nodes::router::{ChainCall, ChainEvent, Input};
use stoa_types::{Address, EndpointId, Timestamp};
use tokio::sync::mpsc;

const POLL: Duration = Duration::from_millis(250);

/// Providers as the chain knows them: who may connect with which endpoint key.
#[derive(Debug, Default)]
pub struct Registered {
    endpoints: BTreeMap<Address, EndpointId>,
    staked: BTreeMap<Address, bool>,
    loadouts: BTreeMap<Address, Vec<Offer>>,
}

/// Most tokens that a template may add per message: the bound enters every reserve.
const MESSAGE_OVERHEAD_MAX: u32 = 1024;

impl Registered {
    /// Whether this endpoint may speak for the account in its hello.
    pub fn authorize(&self, endpoint: EndpointId, hello: &Hello) -> Result<(), String> {
        let account = hello.account;
        match self.endpoints.get(&account) {
            None => Err(format!(
                "{account} is not registered on chain, or not yet seen there"
            )),
            Some(known) if *known != endpoint => Err(format!(
                "{account} is registered with endpoint {known}, not {endpoint}"
            )),
            Some(_) if !self.staked.get(&account).copied().unwrap_or(false) => {
                Err(format!("{account} has less stake than its loadout demands"))
            }
            Some(_) => {
                let loadout = self.loadouts.get(&account).map_or(&[][..], Vec::as_slice);
                hello
                    .models
                    .iter()
                    .try_for_each(|model| as_published(model, loadout))
            }
        }
    }
}

/// What a provider offers must be what it published and staked for; what the chain does not hold is bounded.
fn as_published(model: &ModelOffer, loadout: &[Offer]) -> Result<(), String> {
    let same = |offer: &&Offer| {
        (&offer.name, offer.model_root, offer.tier) == (&model.model, model.model_root, model.tier)
            && (offer.input_price, offer.output_price) == (model.input_price, model.output_price)
    };
    if loadout.iter().find(same).is_none() {
        return Err(format!(
            "`{}` is not in the loadout on chain with this root, tier and price",
            model.model
        ));
    }
    if model.context == 0 || model.message_overhead > MESSAGE_OVERHEAD_MAX {
        return Err(format!(
            "`{}` has context {} and {} tokens of template per message: at least 1 and at most {MESSAGE_OVERHEAD_MAX} are taken",
            model.model, model.context, model.message_overhead
        ));
    }
    Ok(())
}

/// Shared with the endpoint's check of providers.
pub type SharedRegistered = Arc<Mutex<Registered>>;

/// Follows the chain for one router. Runs until the router's loop ends.
pub struct Follower<C> {
    /// The chain.
    pub chain: C,
    /// The contracts.
    pub contracts: Contracts,
    /// Chain id, for endpoint proofs.
    pub chain_id: u64,
    /// The router.
    pub router: RouterHandle,
    /// Its account.
    pub account: Address,
    /// Providers by the chain's word.
    pub registered: SharedRegistered,
    /// What pages show of the chain.
    pub view: Arc<Mutex<ChainView>>,
}

impl<C: ChainAccess + Clone> Follower<C> {
    /// Reads from the first block: the state machine recognises what it knows.
    pub async fn run(self, caught_up: tokio::sync::oneshot::Sender<()>) {
        let mut indexer = Indexer::new(
            self.chain.clone(),
            self.contracts,
            Cursor::starting_at(0),
            0,
        );
        let mut caught_up = Some(caught_up);
        loop {
            match indexer.step().await {
                Ok(progress) => {
                    for indexed in progress.events {
                        self.told(indexed).await;
                    }
                    self.router.input(Input::ChainReachable(true));
                    self.refresh(indexer.cursor().next_block().saturating_sub(1), None)
                        .await;
                    if progress.at_head {
                        if let Some(told) = caught_up.take() {
                            let _ = told.send(());
                        }
                        tokio::time::sleep(POLL).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the chain cannot be read");
                    self.router.input(Input::ChainReachable(false));
                    self.refresh(0, Some(error.to_string())).await;
                    tokio::time::sleep(4 * POLL).await;
                }
            }
        }
    }

    async fn told(&self, indexed: Indexed) {
        let Indexed {
            event,
            block,
            at,
            transaction,
            ..
        } = indexed;
        if let Err(error) = event.check_endpoint(self.chain_id, self.contracts.provider_registry) {
            return tracing::warn!(%error, "a registration without proof of its endpoint is ignored");
        }
        match &event {
            ContractEvent::ProviderRegistered {
                provider, endpoint, ..
            } => {
                self.lock().endpoints.insert(*provider, *endpoint);
                self.check_stake(*provider).await;
            }
            ContractEvent::LoadoutSet { provider, offers } => {
                self.first_offered(offers, at);
                self.lock().loadouts.insert(*provider, offers.clone());
                self.check_stake(*provider).await;
            }
            ContractEvent::BatchPosted { router, index, .. } if *router == self.account => {
                let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
                view.posted.insert(*index, transaction);
            }
            ContractEvent::Staked { who, .. }
            | ContractEvent::UnbondRequested { who, .. }
            | ContractEvent::Slashed { offender: who, .. } => {
                self.check_stake(*who).await;
            }
            _ => {}
        }
        if let Some(event) = self.as_router_event(event, block, at).await {
            self.router.input(Input::Chain(event));
        }
    }

    fn first_offered(&self, offers: &[Offer], at: Timestamp) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        for offer in offers {
            view.first_offered.entry(offer.name.clone()).or_insert(at);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registered> {
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn check_stake(&self, provider: Address) {
        let view = View::new(self.chain.clone(), self.contracts);
        match view.stake(StakeRole::Provider, provider).await {
            Ok(stake) => drop(self.lock().staked.insert(provider, stake.is_active)),
            Err(error) => tracing::warn!(%provider, %error, "the stake cannot be read"),
        }
    }

    async fn as_router_event(
        &self,
        event: ContractEvent,
        block: u64,
        at: Timestamp,
    ) -> Option<ChainEvent> {
        let mine = |router: Address| router == self.account;
        Some(match event {
            ContractEvent::Allotted {
                developer,
                router,
                generation,
                ..
            }
            | ContractEvent::ToppedUp {
                developer,
                router,
                generation,
                ..
            }
            | ContractEvent::Revoked {
                developer,
                router,
                generation,
                ..
            } if mine(router) => {
                return self.allotment(developer, generation).await;
            }
            ContractEvent::Released {
                developer,
                router,
                generation,
                ..
            } if mine(router) => ChainEvent::AllotmentClosed {
                account: developer,
                generation,
            },
            ContractEvent::BatchPosted {
                router,
                index,
                chain_head,
                pay_root,
                ..
            } if mine(router) => ChainEvent::BatchPosted {
                index,
                head: chain_head,
                block,
                at,
                pay_root,
            },
            ContractEvent::PendingVoided {
                router, pay_root, ..
            } if mine(router) => ChainEvent::PayoutVoided { pay_root, block },
            ContractEvent::Promoted {
                router,
                pay_root,
                gross,
            } if mine(router) => ChainEvent::PayoutPromoted { pay_root, gross },
            ContractEvent::DebitSynced {
                router,
                developer,
                generation,
                lifetime_debit,
            } if mine(router) => ChainEvent::DebitSynced {
                account: developer,
                generation,
                debited: lifetime_debit,
            },
            _ => return None,
        })
    }

    /// The allotment as it stands now: an event of an old block must not take back what a newer one gave. Of a generation that is over
    /// nothing is told: were a newer one told in its place, debits that were booked in between would seem to have come too late.
    async fn allotment(&self, developer: Address, generation: u32) -> Option<ChainEvent> {
        let view = View::new(self.chain.clone(), self.contracts);
        // The event is told once: without an answer it waits here, or a revocation would be missed until the next start.
        let found = loop {
            match view.allotment(developer, self.account).await {
                Ok(found) => break found,
                Err(error) => {
                    tracing::warn!(%developer, %error, "an allotment cannot be read; it is tried again");
                    self.router.input(Input::ChainReachable(false));
                    tokio::time::sleep(4 * POLL).await;
                }
            }
        };
        (found.live && found.generation == generation).then(|| ChainEvent::Allotment {
            account: developer,
            generation: found.generation,
            cap: found.cap,
            debited: found.debited,
            expiry: found.expiry,
            fee_version: self.router.core().config().profile.fees.version,
        })
    }

    async fn refresh(&self, block: u64, problem: Option<String>) {
        let accounts: Vec<Address> = self
            .router
            .core()
            .book()
            .allotments()
            .map(|(account, ..)| account)
            .collect();
        let chain = View::new(self.chain.clone(), self.contracts);
        let mut balances = BTreeMap::new();
        if problem.is_none() {
            for account in accounts {
                if let Ok(free) = chain.free(account).await {
                    balances.insert(account, free);
                }
            }
        }
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.block = view.block.max(block);
        view.problem = problem;
        view.vault_balances.extend(balances);
    }
}

/// Carries out chain calls, one after the other. A call that fails is asked for again by the state machine; what was asked for again
/// while another call took its time is carried out once.
pub async fn carry_out<C: ChainAccess>(
    account: Account<C>,
    router: RouterHandle,
    mut calls: mpsc::UnboundedReceiver<ChainCall>,
) {
    while let Some(call) = calls.recv().await {
        let mut waiting = vec![call];
        while let Ok(call) = calls.try_recv() {
            waiting.retain(|earlier| *earlier != call);
            waiting.push(call);
        }
        for call in waiting {
            let what = format!("{call:?}");
            match carry(&account, &router, call).await {
                Ok(true) => tracing::info!(call = %what, "on chain"),
                Ok(false) => tracing::debug!(call = %what, "was on chain already"),
                Err(error) => {
                    tracing::warn!(call = %what, %error, "a chain call failed; it will be tried again")
                }
            }
        }
    }
}

async fn carry<C: ChainAccess>(
    account: &Account<C>,
    router: &RouterHandle,
    call: ChainCall,
) -> Result<bool, String> {
    match call {
        ChainCall::Post {
            index,
            job_root,
            job_count,
            pay_root,
            gross,
            content_id,
        } => {
            let post = Post {
                index,
                job_root,
                job_count,
                pay_root,
                gross,
                content_id,
            };
            account
                .post(&post)
                .await
                .map(|done| matches!(done, Done::Now(_)))
                .map_err(|e| e.to_string())
        }
        ChainCall::Promote => account
            .promote(account.address())
            .await
            .map(|done| matches!(done, Done::Now(_)))
            .map_err(|e| e.to_string()),
        ChainCall::CoverLate {
            generation,
            cap,
            expiry,
        } => {
            let devnet = router.core().config().profile.devnet;
            account
                .cover_late(generation, cap, expiry, now(), devnet)
                .await
                .map(|done| matches!(done, Done::Now(_)))
                .map_err(|e| e.to_string())
        }
        ChainCall::SyncDebits => {
            let (roots, debits) = {
                let core = router.core();
                let Some(batch) = core.book().claimable_batch() else {
                    return Ok(false);
                };
                let roots = PayRoots {
                    provider_root: batch.sealed.provider_root,
                    debit_root: batch.sealed.debit_root,
                };
                let debit = |entry: stoa_ledger::book::DebitEntry| Debit {
                    developer: entry.account,
                    generation: entry.generation,
                    lifetime_debit: entry.lifetime_debit,
                    proof: entry.proof,
                };
                (
                    roots,
                    core.book()
                        .debit_entries()
                        .into_iter()
                        .map(debit)
                        .collect::<Vec<_>>(),
                )
            };
            account
                .sync_debits(account.address(), &roots, &debits)
                .await
                .map(|sent| !sent.is_empty())
                .map_err(|e| e.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::{Digest, Hardware, Price, Region, Tier, TokenAmount};

    fn price(units: u128) -> Price {
        Price::per_million(TokenAmount::from_units(units))
    }

    fn model() -> ModelOffer {
        ModelOffer {
            model: "m".to_owned(),
            model_root: Digest([1; 32]),
            runtime_digest: Digest([2; 32]),
            tier: Tier::Exact,
            context: 1024,
            input_price: price(1),
            output_price: price(2),
            quantization: "iq8".to_owned(),
            message_overhead: 8,
        }
    }

    fn refused(
        change: impl FnOnce(&mut ModelOffer, &mut Registered, &mut EndpointId),
    ) -> Option<String> {
        let (account, mut endpoint, mut offered) = (Address([7; 20]), EndpointId([8; 32]), model());
        let offer = Offer {
            model_root: offered.model_root,
            input_price: offered.input_price,
            output_price: offered.output_price,
            tokens_per_second: 1,
            tier: offered.tier,
            name: offered.model.clone(),
        };
        let mut registered = Registered::default();
        registered.endpoints.insert(account, endpoint);
        registered.staked.insert(account, true);
        registered.loadouts.insert(account, vec![offer]);
        change(&mut offered, &mut registered, &mut endpoint);
        let hello = Hello {
            account,
            region: Region(*b"XA"),
            slots: 1,
            hardware: Hardware::default(),
            models: vec![offered],
        };
        registered.authorize(endpoint, &hello).err()
    }

    #[test]
    fn a_provider_is_taken_in_as_it_is_published_and_staked_and_not_otherwise() {
        assert_eq!(refused(|_, _, _| {}), None);
        assert!(refused(|_, r, _| r.staked.clear()).is_some_and(|e| e.contains("stake")));
        assert!(
            refused(|_, r, _| r.endpoints.clear()).is_some_and(|e| e.contains("not registered"))
        );
        assert!(refused(|_, _, endpoint| *endpoint = EndpointId([9; 32])).is_some());
        assert!(
            refused(|m, _, _| m.output_price = price(1)).is_some_and(|e| e.contains("loadout"))
        );
        assert!(refused(|m, _, _| m.model_root = Digest::ZERO).is_some());
        assert!(refused(|m, _, _| m.tier = Tier::Zk).is_some());
        assert!(refused(|m, _, _| m.context = 0).is_some_and(|e| e.contains("context 0")));
        assert!(refused(|m, _, _| m.message_overhead = u32::MAX).is_some());
    }
}
