//! The router's side of the chain: events become inputs of the state machine, its chain calls become transactions.

use super::forger::Forger;
use super::gateway::SharedView;
use super::router::{RouterHandle, now};
use super::trail::Trail;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stoa_api::StakeRow;
use stoa_chain::{
    Account, AuditContracts, ChainAccess, ContractEvent, Contracts, Cursor, Debit, Done, Indexed,
    Indexer, Offer, PayRoots, Post, StakeRole, StakeView, View,
};
use stoa_nodes::message::{Hello, ModelOffer};
use stoa_nodes::router::{ChainCall, ChainEvent, Input};
use stoa_types::{Address, EndpointId, Tier, Timestamp};
use tokio::sync::mpsc;

const POLL: Duration = Duration::from_millis(250);

/// Posts whose transactions the pages show at least.
const POSTS_SHOWN: usize = 32;

/// Providers as the chain knows them: who may connect with which endpoint key.
#[derive(Debug, Default)]
pub struct Registered {
    endpoints: BTreeMap<Address, EndpointId>,
    staked: BTreeMap<Address, bool>,
    loadouts: BTreeMap<Address, Vec<Offer>>,
    /// Providers whose stake changed and could not be read since.
    unread: BTreeSet<Address>,
}

/// Most tokens that a template may add per message: the bound enters every reserve.
const MESSAGE_OVERHEAD_MAX: u32 = 1024;

/// Longest context that is taken: the engine's own bound. It decides who is asked first, and bounds what is reserved for a prompt.
const CONTEXT_MAX: u32 = 1 << 20;

impl Registered {
    /// What a provider offers by its word on chain; nothing while it has not the stake for it.
    fn published(&self, provider: Address) -> Vec<(String, Tier)> {
        if !self.staked.get(&provider).copied().unwrap_or(false) {
            return Vec::new();
        }
        let loadout = self.loadouts.get(&provider);
        let offers = loadout.into_iter().flatten();
        offers.map(|o| (o.name.clone(), o.tier)).collect()
    }

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
    if !(1..=CONTEXT_MAX).contains(&model.context) {
        return Err(format!(
            "`{}` has a context of {} tokens: at least 1 and at most {CONTEXT_MAX} are taken; offer a shorter one",
            model.model, model.context
        ));
    }
    if model.message_overhead > MESSAGE_OVERHEAD_MAX {
        return Err(format!(
            "`{}` has {} tokens of template per message: at most {MESSAGE_OVERHEAD_MAX} are taken",
            model.model, model.message_overhead
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
    /// Those that judge, if there are any.
    pub audits: Option<AuditContracts>,
    /// Chain id, for endpoint proofs.
    pub chain_id: u64,
    /// The router.
    pub router: RouterHandle,
    /// Its account.
    pub account: Address,
    /// Providers by the chain's word.
    pub registered: SharedRegistered,
    /// What pages show of the chain.
    pub view: SharedView,
    /// Where the router cheats.
    pub forger: Option<Arc<Forger>>,
}

impl<C: ChainAccess + Clone> Follower<C> {
    /// Reads what the registries tell from the first block, and what the vault tells from the last blocks that the books hold.
    pub async fn run(self, caught_up: tokio::sync::oneshot::Sender<()>) {
        let mut indexer = Indexer::new(
            self.chain.clone(),
            self.contracts,
            Cursor::starting_at(0),
            0,
        )
        .with_audits(self.audits)
        .vault_from(self.books_hold());
        let followed = self.audits.is_some();
        self.trail(|trail| trail.followed = followed);
        let mut foreign = None;
        let mut caught_up = Some(caught_up);
        loop {
            match indexer.step().await {
                Ok(progress) => {
                    if let Some(block) = progress.rolled_back_to {
                        tracing::error!(
                            block,
                            "blocks that were read are no longer in the chain: it was replaced or rolled back"
                        );
                    }
                    for indexed in progress.events {
                        self.told(indexed).await;
                    }
                    self.router.input(Input::ChainReachable(true));
                    metrics::gauge!("stoa_router_chain_reachable").set(1.0);
                    if progress.at_head {
                        self.recheck().await;
                    }
                    if progress.at_head
                        && (caught_up.is_some() || progress.rolled_back_to.is_some())
                    {
                        foreign = self.not_ours().await;
                        if foreign.is_some() {
                            // What it would charge now could never be settled.
                            self.router.input(Input::Drain);
                        }
                    }
                    let block = indexer.cursor().next_block().saturating_sub(1);
                    metrics::gauge!("stoa_router_chain_block").set(block as f64);
                    let matches = if foreign.is_none() { 1.0 } else { 0.0 };
                    metrics::gauge!("stoa_router_books_match").set(matches);
                    self.refresh(block, foreign.clone()).await;
                    if progress.at_head {
                        // Whose stake is not known is nobody yet: calls for its model would be told that there is no such model.
                        let known = self.lock().unread.is_empty();
                        if let Some(told) = caught_up.take_if(|_| known) {
                            self.read_claims().await;
                            let _ = told.send(());
                        }
                        tokio::time::sleep(POLL).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the chain cannot be read");
                    self.router.input(Input::ChainReachable(false));
                    metrics::gauge!("stoa_router_chain_reachable").set(0.0);
                    self.refresh(0, Some(error.to_string())).await;
                    tokio::time::sleep(4 * POLL).await;
                }
            }
        }
    }

    fn trail(&self, change: impl FnOnce(&mut Trail)) {
        self.view
            .change(|view| change(Arc::make_mut(&mut view.trail)));
    }

    /// The block from which on the vault's events may be news. Events are journaled in the chain's order: when a post is in the books, so
    /// is all that came before it. Some posts more are read for the pages, which show their transactions.
    fn books_hold(&self) -> u64 {
        let core = self.router.core();
        let posted = core.book().batches().iter().rev();
        let mut posted = posted.filter_map(|batch| batch.posted);
        posted.nth(POSTS_SHOWN).map_or(0, |posted| posted.block)
    }

    /// Why this cannot be the chain that the books are about, if it cannot: it holds fewer batches than they have seen there, others, or
    /// more than they ever sealed.
    async fn not_ours(&self) -> Option<String> {
        if self.forger.is_some() {
            return None; // It posted what its books do not hold.
        }
        let view = View::new(self.chain.clone(), self.contracts);
        let (posts, head) = view.head(self.account).await.ok()?;
        let (seen, sealed, expected) = {
            let core = self.router.core();
            let book = core.book();
            (
                book.posted_count(),
                book.batches().len(),
                book.chain_head(posts),
            )
        };
        if posts >= seen && expected == Some(head) {
            return None;
        }
        let older = if expected.is_none() {
            "the router's folder was restored from an older copy, or another process posts with its key"
        } else {
            "the chain was replaced or restored from an older copy"
        };
        let reason = format!(
            "the vault holds {posts} batches of this router, its books hold {sealed}, of which they saw {seen} there: {older}; no new calls are taken, and nothing can be settled until the right one is back"
        );
        tracing::error!("{reason}");
        Some(reason)
    }

    async fn told(&self, indexed: Indexed) {
        self.trail(|trail| trail.told(&indexed));
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
                self.view
                    .change(|view| view.posted.insert(*index, transaction));
            }
            ContractEvent::Staked { role, who, .. }
            | ContractEvent::UnbondRequested { role, who, .. }
            | ContractEvent::StakeWithdrawn { role, who, .. }
            | ContractEvent::Slashed {
                role,
                offender: who,
                ..
            } => match role {
                StakeRole::Provider => self.check_stake(*who).await,
                role => self.show_stake(*role, *who).await,
            },
            ContractEvent::Claimed {
                router,
                provider,
                fee_version,
                lifetime_claimed,
                ..
            } if *router == self.account => {
                let claimed = (*provider, *fee_version);
                self.view
                    .change(|view| view.claimed.insert(claimed, *lifetime_claimed));
            }
            // A new stake price moves everybody's minimum.
            ContractEvent::Administration { .. } => {
                let mut registered = self.lock();
                let all: Vec<_> = registered.staked.keys().copied().collect();
                registered.unread.extend(all);
            }
            _ => {}
        }
        if let Some(mut event) = self.as_router_event(event, block, at).await {
            if let Some(forger) = &self.forger {
                event = forger.as_of_books(self.router.core().book(), event);
            }
            self.router.input(Input::Chain(event));
        }
    }

    fn first_offered(&self, offers: &[Offer], at: Timestamp) {
        self.view.change(|view| {
            for offer in offers {
                view.first_offered.entry(offer.name.clone()).or_insert(at);
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registered> {
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The event is told once: without an answer the stake is asked for again with the next blocks.
    async fn check_stake(&self, provider: Address) {
        let view = View::new(self.chain.clone(), self.contracts);
        match view.stake(StakeRole::Provider, provider).await {
            Ok(stake) => {
                self.show(StakeRole::Provider, provider, &stake);
                let models = {
                    let mut registered = self.lock();
                    registered.unread.remove(&provider);
                    registered.staked.insert(provider, stake.is_active);
                    registered.published(provider)
                };
                let event = ChainEvent::Published { provider, models };
                self.router.input(Input::Chain(event));
            }
            Err(error) => {
                tracing::warn!(%provider, %error, "the stake cannot be read; it is tried again");
                self.lock().unread.insert(provider);
            }
        }
    }

    fn show(&self, role: StakeRole, who: Address, stake: &StakeView) {
        let row = StakeRow {
            active: stake.active,
            unbonding: stake.unbonding,
            minimum: stake.minimum,
        };
        self.trail(|trail| {
            trail.stakes.insert((role, who), row);
        });
    }

    /// Of other roles the stake is only shown: without an answer the pages go without.
    async fn show_stake(&self, role: StakeRole, who: Address) {
        let view = View::new(self.chain.clone(), self.contracts);
        match view.stake(role, who).await {
            Ok(stake) => self.show(role, who, &stake),
            Err(error) => {
                tracing::warn!(%who, %error, "a stake that the pages show cannot be read")
            }
        }
    }

    /// What providers claimed before the first block that is read again.
    async fn read_claims(&self) {
        let known: Vec<_> = self.router.core().book().lifetime_grosses().collect();
        let chain = View::new(self.chain.clone(), self.contracts);
        for (provider, fee_version, _) in known {
            if let Ok(claimed) = chain.claimed(self.account, provider, fee_version).await {
                self.view.change(|view| {
                    let most = view.claimed.entry((provider, fee_version)).or_default();
                    *most = (*most).max(claimed);
                });
            }
        }
    }

    /// Providers that are connected are held to what the chain says now, also those that came in while it was changing.
    async fn recheck(&self) {
        let unread: Vec<_> = self.lock().unread.iter().copied().collect();
        for provider in unread {
            self.check_stake(provider).await;
        }
        let registered = self.registered.clone();
        self.router.recheck(Box::new(move |endpoint, hello| {
            registered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .authorize(endpoint, hello)
        }));
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
            } if mine(router) => ChainEvent::PayoutPromoted {
                pay_root,
                gross,
                block,
            },
            ContractEvent::JobReversed { job, router, .. } if mine(router) => {
                tracing::warn!(%job, "a verdict reversed this job: its account owes nothing for it");
                ChainEvent::JobReversed { job }
            }
            ContractEvent::ProviderRated {
                provider,
                reputation_ppm,
                ..
            } => ChainEvent::ProviderRated {
                provider,
                reputation_ppm,
            },
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
        let moved = self.view.change(|view| {
            let moved = view.block < block || view.problem != problem;
            view.block = view.block.max(block);
            view.problem = problem;
            view.vault_balances.extend(balances);
            moved
        });
        if moved {
            self.router.changed();
        }
    }
}

/// Carries out chain calls, one after the other. A call that fails is asked for again by the state machine; what was asked for again
/// while another call took its time is carried out once.
pub async fn carry_out<C: ChainAccess>(
    account: Account<C>,
    router: RouterHandle,
    forger: Option<Arc<Forger>>,
    mut calls: mpsc::UnboundedReceiver<ChainCall>,
) {
    while let Some(call) = calls.recv().await {
        let mut waiting = vec![call];
        while let Ok(call) = calls.try_recv() {
            waiting.retain(|earlier| *earlier != call);
            waiting.push(call);
        }
        for call in waiting {
            let (what, name) = (format!("{call:?}"), name_of(&call));
            let outcome = match carry(&account, &router, forger.as_deref(), call).await {
                Ok(true) => {
                    tracing::info!(call = %what, "on chain");
                    "sent"
                }
                Ok(false) => {
                    tracing::debug!(call = %what, "was on chain already");
                    "present"
                }
                Err(error) => {
                    tracing::warn!(call = %what, %error, "a chain call failed; it will be tried again");
                    "failed"
                }
            };
            metrics::counter!("stoa_router_chain_calls_total", "call" => name, "outcome" => outcome)
                .increment(1);
        }
    }
}

fn name_of(call: &ChainCall) -> &'static str {
    match call {
        ChainCall::Post { .. } => "post",
        ChainCall::Promote => "promote",
        ChainCall::VoidOwn { .. } => "void_own",
        ChainCall::CoverLate { .. } => "cover_late",
        ChainCall::SyncDebits => "sync_debits",
    }
}

async fn carry<C: ChainAccess>(
    account: &Account<C>,
    router: &RouterHandle,
    forger: Option<&Forger>,
    call: ChainCall,
) -> Result<bool, String> {
    match call {
        // Its own books have no way to what it posted.
        ChainCall::SyncDebits | ChainCall::VoidOwn { .. } if forger.is_some() => Ok(false),
        ChainCall::Post {
            index,
            job_root,
            job_count,
            pay_root,
            gross,
            content_id,
        } => {
            let mut post = Post {
                index,
                job_root,
                job_count,
                pay_root,
                gross,
                content_id,
            };
            if let Some(forger) = forger {
                post = forger.post(router.core().book(), post);
            }
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
        ChainCall::VoidOwn { pay_root } => account
            .void_own(pay_root)
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
    use crate::roles::router::{self, DecisionLog, RouterParts};
    use stoa_crypto::{Domain, SecretKey};
    use stoa_net::{Backoff, EndpointSecret, ProviderEndpoint, RouterEndpoint, Welcome};
    use stoa_nodes::router::Router;
    use stoa_types::{Digest, Hardware, NetworkProfile, Price, Region, TokenAmount};

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
            reasons: false,
            message_overhead: 8,
        }
    }

    fn published(offered: &ModelOffer) -> Offer {
        Offer {
            model_root: offered.model_root,
            input_price: offered.input_price,
            output_price: offered.output_price,
            tokens_per_second: 1,
            tier: offered.tier,
            name: offered.model.clone(),
        }
    }

    fn refused(
        change: impl FnOnce(&mut ModelOffer, &mut Registered, &mut EndpointId),
    ) -> Option<String> {
        let (account, mut endpoint, mut offered) = (Address([7; 20]), EndpointId([8; 32]), model());
        let offer = published(&offered);
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
        for context in [0, CONTEXT_MAX + 1, u32::MAX] {
            let error = refused(|m, _, _| m.context = context);
            let told = format!("context of {context} tokens");
            assert!(error.is_some_and(|e| e.contains(&told)), "{context}");
        }
        assert_eq!(refused(|m, _, _| m.context = CONTEXT_MAX), None);
        assert!(refused(|m, _, _| m.message_overhead = u32::MAX).is_some());
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..500 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: not within 5 s");
    }

    #[tokio::test]
    async fn a_provider_that_loses_its_stake_is_cut_off_and_comes_back_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = SecretKey::for_tests("router");
        let domain = Domain {
            chain_id: 7,
            vault: Address([1; 20]),
        };
        let secret = EndpointSecret::generate();
        let provider = SecretKey::for_tests("provider").address();
        let registered = SharedRegistered::default();
        {
            let mut registered = registered.lock().expect("unpoisoned");
            registered.endpoints.insert(provider, secret.endpoint_id());
            registered.staked.insert(provider, true);
            let offer = published(&model());
            registered.loadouts.insert(provider, vec![offer]);
        }
        let allowed = |registered: &SharedRegistered| {
            let known = registered.clone();
            move |endpoint, hello: &Hello| {
                known.lock().expect("unpoisoned").authorize(endpoint, hello)
            }
        };
        let bind = "127.0.0.1:0".parse().expect("an address");
        let listen = stoa_net::RouterConfig {
            secret: EndpointSecret::generate(),
            bind,
            welcome: Welcome {
                router: key.address(),
                chain_id: domain.chain_id,
                vault: domain.vault,
                profile_hash: Digest([3; 32]),
            },
            timeouts: stoa_net::Timeouts::default(),
        };
        let endpoint = RouterEndpoint::bind(listen, Arc::new(allowed(&registered)));
        let endpoint = Arc::new(endpoint.await.expect("a socket"));
        let (journal, recovered) =
            crate::roles::journal::open(folder.path(), domain, key.address()).expect("opens");
        let text = NetworkProfile::builtin_text("stoa").expect("built in");
        let config = stoa_nodes::router::RouterConfig {
            key,
            domain,
            profile: NetworkProfile::parse(text).expect("valid"),
            profile_hash: Digest([3; 32]),
        };
        let (core, outputs) = Router::recover(config, recovered.book, 1);
        let (chain, _calls) = mpsc::unbounded_channel();
        let decisions = DecisionLog::open(folder.path().join("decisions")).expect("opens");
        let (router, _task) = router::start(RouterParts {
            core,
            outputs,
            journal,
            endpoint: endpoint.clone(),
            chain,
            decisions,
            audits: None,
            undelivered: super::super::undelivered::Undeliveries::open(
                &folder.path().join("undelivered"),
            )
            .expect("opens"),
            traces: super::super::traces::CallTraces::new(crate::telemetry::Tracer::off()),
        })
        .expect("starts");
        let dial = stoa_net::ProviderConfig {
            secret,
            bind,
            router: endpoint.address(),
            hello: Hello {
                account: provider,
                region: Region(*b"XA"),
                slots: 1,
                hardware: Hardware::default(),
                models: vec![model()],
            },
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_millis(40)),
            timeouts: stoa_net::Timeouts::default(),
        };
        let _provider = ProviderEndpoint::connect(dial).await.expect("dials");
        let online = || {
            let core = router.core();
            core.stock()
                .get(provider)
                .is_some_and(|standing| standing.online)
        };
        until("let in", online).await;
        router.recheck(Box::new(allowed(&registered)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(online(), "who is in order stays");
        let stake = |active| {
            let mut registered = registered.lock().expect("unpoisoned");
            registered.staked.insert(provider, active);
        };
        stake(false);
        router.recheck(Box::new(allowed(&registered)));
        until("cut off", || !online()).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!online(), "it dials in vain");
        stake(true);
        until("let in again", online).await;
    }
}
