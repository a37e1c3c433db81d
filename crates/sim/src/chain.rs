//! The chain: the vault's executable model, blocks at intervals, events with positions that a reader follows by cursor.

use stoa_ledger::book::{DebitEntry, RouterBook};
use stoa_ledger::vault::{Claim, DebitProof, Event, Payee, Vault, VaultError, VaultParams};
use stoa_nodes::router::{ChainCall, ChainEvent};
use stoa_types::{Address, Digest, NetworkProfile, Timestamp, TokenAmount};

const ADMIN: Address = Address([0xad; 20]);
const VERDICT: Address = Address([0xae; 20]);

/// One event and its block.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Block number.
    pub block: u64,
    /// Block time in seconds.
    pub at: u64,
    /// Event.
    pub event: Event,
}

/// A transaction on its way.
#[derive(Debug, Clone)]
pub enum Transaction {
    /// From the router, with the arguments it had when it was sent.
    Call(ChainCall, Vec<DebitEntry>, Digest, Digest),
}

/// What a developer does to its allotment.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// Deposits, raises the cap, and moves the expiry to `life` seconds from now (0: not).
    TopUp {
        /// Units.
        add: u128,
        /// Seconds.
        life: u64,
    },
    /// Ends it after the notice.
    Revoke,
    /// Takes back what is left.
    Release,
    /// Allots all that is free as the next generation.
    Allot {
        /// Seconds.
        life: u64,
    },
    /// Deposits, and allots anew or tops up, so that it can call for a while.
    Renew,
}

const RENEWED_UNITS: u128 = 1_000;
const RENEWED_SECONDS: u64 = 1_000;

/// The simulated chain.
pub struct ModelChain {
    /// The vault.
    pub vault: Vault,
    /// All events so far.
    pub log: Vec<Logged>,
    /// Height.
    pub block: u64,
    router: Address,
    mempool: Vec<Transaction>,
}

impl ModelChain {
    /// A chain with a funded developer and an allotment.
    pub fn new(
        profile: &NetworkProfile,
        router: Address,
        developers: &[Address],
        providers: &[Address],
        cap: u128,
        now: u64,
    ) -> Self {
        let pots = [
            Address([0xa1; 20]),
            Address([0xa2; 20]),
            Address([0xa3; 20]),
        ];
        let mut vault = Vault::new(VaultParams::from_profile(profile, pots), ADMIN)
            .expect("parameters of a checked profile");
        vault
            .set_verdict(ADMIN, VERDICT)
            .expect("the admin names the verdict");
        for provider in providers {
            vault.set_payee(
                *provider,
                Payee {
                    payee: *provider,
                    leaving: true,
                },
            );
        }
        let mut chain = Self {
            vault,
            log: Vec::new(),
            block: 0,
            router,
            mempool: Vec::new(),
        };
        let deposit = TokenAmount::from_units(cap + 5);
        let expiry = now + profile.settlement.allotment_seconds;
        for developer in developers.iter().copied() {
            let deposited = chain
                .vault
                .deposit(developer, developer, deposit)
                .expect("a fresh vault takes a deposit");
            let allotted = chain
                .vault
                .allot(developer, router, TokenAmount::from_units(cap), expiry, now)
                .expect("it was just deposited");
            chain.note(deposited, now);
            chain.note(allotted, now);
        }
        chain
    }

    /// A developer does something to its allotment; true when the vault let it.
    pub fn act(&mut self, developer: Address, act: Act, now: u64) -> bool {
        let (vault, router) = (&mut self.vault, self.router);
        let result = match act {
            Act::TopUp { add, life } => {
                let add = TokenAmount::from_units(add);
                let deposited = vault.deposit(developer, developer, add);
                let expiry = if life == 0 { 0 } else { now + life };
                deposited.and_then(|mut events| {
                    events.extend(vault.top_up(developer, router, add, expiry, now)?);
                    Ok(events)
                })
            }
            Act::Revoke => vault.revoke(developer, router, now),
            Act::Release => vault.release(developer, router, now),
            Act::Renew => {
                let add = TokenAmount::from_units(RENEWED_UNITS);
                let end = now + RENEWED_SECONDS;
                let deposited = vault.deposit(developer, developer, add);
                deposited.and_then(|mut events| {
                    let renewed = vault
                        .allot(developer, router, add, end, now)
                        .or_else(|_| vault.top_up(developer, router, add, end, now))
                        .or_else(|_| vault.top_up(developer, router, add, 0, now))?;
                    events.extend(renewed);
                    Ok(events)
                })
            }
            Act::Allot { life } => {
                let cap = vault.free(developer);
                vault.allot(developer, router, cap, now + life, now)
            }
        };
        let Ok(events) = result else { return false };
        self.note(events, now);
        true
    }

    /// The verdict cancels the payout root that waits; false when none does.
    pub fn void(&mut self, now: u64) -> bool {
        let Ok(events) = self.vault.void_pending(VERDICT, self.router) else {
            return false;
        };
        self.note(events, now);
        true
    }

    /// The router's allotment to itself reaches `cap`, as the real sender brings it there: what stands there already is not done again.
    fn cover(
        &mut self,
        known: u32,
        cap: TokenAmount,
        expiry: u64,
        now: u64,
    ) -> Result<Vec<Event>, VaultError> {
        let (vault, router) = (&mut self.vault, self.router);
        let own = vault.allotment(router, router);
        let own = own.map(|(generation, allotment)| (generation, allotment.clone()));
        match own {
            Some((generation, _)) if generation > known => Ok(Vec::new()),
            Some((_, own)) if own.live && own.cap >= cap => Ok(Vec::new()),
            Some((_, own)) if own.live && now >= own.expiry => vault.release(router, router, now),
            Some((_, own)) if own.live => {
                let add = cap.checked_sub(own.cap).unwrap_or_default();
                let mut events = vault.deposit(router, router, add)?;
                events.extend(vault.top_up(router, router, add, expiry.max(own.expiry), now)?);
                Ok(events)
            }
            _ => {
                let mut events = vault.deposit(router, router, cap)?;
                events.extend(vault.allot(router, router, cap, expiry, now)?);
                Ok(events)
            }
        }
    }

    fn note(&mut self, events: Vec<Event>, at: u64) {
        self.log.extend(events.into_iter().map(|event| Logged {
            block: self.block,
            at,
            event,
        }));
    }

    /// Sends a call with the arguments that the router's book gives now. Like the real sender it looks at the vault first: a batch
    /// that is there already is not sent again.
    pub fn send(&mut self, call: ChainCall, book: &RouterBook) {
        if let ChainCall::Post { index, .. } = call
            && self.vault.totals(self.router).posts >= index
        {
            return;
        }
        let (provider_root, debit_root) = book
            .claimable_batch()
            .map_or((Digest::ZERO, Digest::ZERO), |batch| {
                (batch.sealed.provider_root, batch.sealed.debit_root)
            });
        self.mempool.push(Transaction::Call(
            call,
            book.debit_entries(),
            provider_root,
            debit_root,
        ));
    }

    /// Drops a waiting transaction; false when there is none.
    pub fn drop_one(&mut self) -> bool {
        self.mempool.pop().is_some()
    }

    /// Repeats a waiting transaction under its own nonce: only one of the two can be mined, so a repeated post is void.
    pub fn repeat_one(&mut self) -> bool {
        let last = self.mempool.last().cloned();
        match last {
            Some(Transaction::Call(ChainCall::Post { .. }, ..)) | None => false,
            Some(again) => {
                self.mempool.push(again);
                true
            }
        }
    }

    /// Makes a block of all that waits; a call that the vault refuses changes nothing.
    pub fn mine(&mut self, now: u64) {
        self.block += 1;
        for Transaction::Call(call, entries, provider_root, debit_root) in
            std::mem::take(&mut self.mempool)
        {
            let router = self.router;
            let result = match call {
                ChainCall::Post {
                    index,
                    job_root,
                    job_count,
                    pay_root,
                    gross,
                    content_id,
                } => {
                    // One nonce per batch: a post that comes late finds its nonce used.
                    if self.vault.totals(router).posts + 1 != index {
                        continue;
                    }
                    self.vault.post_batch(
                        router, job_root, job_count, pay_root, gross, content_id, now,
                    )
                }
                ChainCall::Promote => self.vault.promote(router, now),
                ChainCall::VoidOwn { pay_root } => {
                    let pending = self.vault.totals(router).pending;
                    if pending.is_none_or(|pending| pending.pay_root != pay_root) {
                        continue;
                    }
                    self.vault.void_pending(router, router)
                }
                ChainCall::CoverLate {
                    generation,
                    cap,
                    expiry,
                } => self.cover(generation, cap, expiry.secs(), now),
                ChainCall::SyncDebits => {
                    let proofs: Vec<_> = entries
                        .into_iter()
                        .map(|e| DebitProof {
                            developer: e.account,
                            generation: e.generation,
                            lifetime_debit: e.lifetime_debit,
                            proof: e.proof,
                        })
                        .collect();
                    self.vault
                        .sync_debits(router, provider_root, debit_root, &proofs)
                }
            };
            if let Ok(events) = result {
                self.note(events, now);
            }
        }
    }

    /// Claims all that a provider can under the claimable root, and collects it. Returns what was paid out to it.
    pub fn claim(&mut self, provider: Address, book: &RouterBook, now: u64) -> TokenAmount {
        let Some(claim) = book.payout_claim(provider, 1) else {
            return TokenAmount::ZERO;
        };
        let claim = Claim {
            router: self.router,
            provider,
            fee_version: 1,
            lifetime_gross: claim.lifetime_gross,
            provider_root: claim.provider_root,
            debit_root: claim.debit_root,
            proof: claim.proof,
        };
        let claimed = self.vault.claim(&claim).unwrap_or_default();
        self.note(claimed, now);
        match self.vault.collect(provider).as_deref() {
            Ok([Event::Collected { amount, .. }]) => *amount,
            _ => TokenAmount::ZERO,
        }
    }

    /// An event as the router's shell tells it.
    pub fn told(&self, position: usize) -> Option<ChainEvent> {
        let logged = self.log.get(position)?;
        let at = Timestamp::from_secs(logged.at);
        Some(match &logged.event {
            // Like the real reader: the allotment as it stands now, not as it stood at the event.
            Event::Allotted {
                developer,
                generation: meant,
                ..
            }
            | Event::ToppedUp {
                developer,
                generation: meant,
                ..
            }
            | Event::Revoked {
                developer,
                generation: meant,
                ..
            } => {
                let (generation, allotment) = self.vault.allotment(*developer, self.router)?;
                if !allotment.live || generation != *meant {
                    return None;
                }
                ChainEvent::Allotment {
                    account: *developer,
                    generation,
                    cap: allotment.cap,
                    debited: allotment.debited,
                    expiry: Timestamp::from_secs(allotment.expiry),
                    fee_version: 1,
                }
            }
            Event::Released {
                developer,
                generation,
                ..
            } => ChainEvent::AllotmentClosed {
                account: *developer,
                generation: *generation,
            },
            Event::PendingVoided { pay_root, .. } => ChainEvent::PayoutVoided {
                pay_root: *pay_root,
                block: logged.block,
            },
            Event::BatchPosted {
                index,
                chain_head,
                pay_root,
                ..
            } => ChainEvent::BatchPosted {
                pay_root: *pay_root,
                index: *index,
                head: *chain_head,
                block: logged.block,
                at,
            },
            Event::Promoted {
                pay_root, gross, ..
            } => ChainEvent::PayoutPromoted {
                pay_root: *pay_root,
                gross: *gross,
                block: logged.block,
            },
            Event::DebitSynced {
                developer,
                generation,
                lifetime_debit,
                ..
            } => ChainEvent::DebitSynced {
                account: *developer,
                generation: *generation,
                debited: *lifetime_debit,
            },
            _ => return None,
        })
    }
}
