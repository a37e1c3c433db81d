//! A small world around the vault: three developers, two routers with their (honest or false) books, three providers, a clock.
#![allow(dead_code)]

use stoa_ledger::book::PayoutSet;
use stoa_ledger::roots::pay_root;
use stoa_ledger::vault::{Claim, DebitProof, Event, Payee, Vault, VaultError, VaultParams};
use stoa_types::{Address, Digest, NetworkProfile, TokenAmount};

pub const ADMIN: Address = Address([0xad; 20]);
pub const VERDICT: Address = Address([0x0e; 20]);
pub const DEVELOPERS: [Address; 3] = [Address([1; 20]), Address([2; 20]), Address([3; 20])];
pub const ROUTERS: [Address; 2] = [Address([0x11; 20]), Address([0x12; 20])];
pub const PROVIDERS: [Address; 3] = [
    Address([0x21; 20]),
    Address([0x22; 20]),
    Address([0x23; 20]),
];
pub const DAY: u64 = 86_400;
pub const WINDOW: u64 = 90;
pub const NOTICE: u64 = 600;
pub const SETTLE_DELAY: u64 = 3_600;

pub fn units(units: u128) -> TokenAmount {
    TokenAmount::from_units(units)
}

/// A call, by numbers of developers, routers and providers.
#[derive(Debug, Clone)]
pub enum Step {
    Deposit(usize, u128),
    Withdraw(usize, u128),
    Donate(u128),
    /// Developer, router, cap, seconds to live.
    Allot(usize, usize, u128, u64),
    /// Developer, router, more cap, new end counted from the start of the world.
    TopUp(usize, usize, u128, Option<u64>),
    Revoke(usize, usize),
    Release(usize, usize),
    /// Post with the router's current totals as payout root.
    Post(usize),
    /// Post the job root alone.
    PostJobs(usize),
    /// Post with another gross than the sum of the leaves.
    PostFalseGross(usize, u128),
    Promote(usize),
    Void(usize),
    /// Book the debits of the claimable root whose allotments live, as an honest router does.
    Sync(usize),
    /// Book all of them.
    SyncAll(usize),
    /// Book one of them.
    SyncOne(usize, usize),
    /// Book from the newest posted root, claimable or not.
    SyncNewest(usize),
    /// Book a debit that is not in the root.
    SyncForged(usize, usize, u128),
    /// Claim under the claimable root.
    Claim(usize, usize),
    /// Claim under the newest posted root, claimable or not.
    ClaimNewest(usize, usize),
    /// Claim more than the leaf holds.
    ClaimForged(usize, usize, u128),
    Collect(Address),
    CollectProtocol,
    Leave(usize),
    Wait(u64),
}

/// Which debits of a set to book.
#[derive(Clone, Copy)]
pub enum Pick {
    All,
    /// Those that the vault would take.
    Open,
    /// Those of one developer.
    Only(usize),
}

/// See the module's page.
#[derive(Clone)]
pub struct World {
    pub vault: Vault,
    pub now: u64,
    pub start: u64,
    /// Lifetime totals that each router claims to have.
    pub books: [PayoutSet; 2],
    /// Payout sets that each router has posted, oldest first.
    pub posted: [Vec<PayoutSet>; 2],
}

impl World {
    /// Providers 0 and 1 are registered, with payees of their own; provider 2 is not.
    pub fn new() -> Self {
        let text = NetworkProfile::builtin_text("stoa").expect("listed");
        let profile = NetworkProfile::parse(text).expect("valid");
        let pools = [
            Address([0x31; 20]),
            Address([0x32; 20]),
            Address([0x33; 20]),
        ];
        let params = VaultParams::from_profile(&profile, pools);
        assert_eq!(
            (params.window, params.notice, params.settle_delay),
            (WINDOW, NOTICE, SETTLE_DELAY)
        );
        let mut vault = Vault::new(params, ADMIN).expect("valid");
        vault.set_verdict(ADMIN, VERDICT).expect("by the admin");
        for provider in &PROVIDERS[..2] {
            let payee = Payee {
                payee: Address([provider.0[0] + 0x20; 20]),
                leaving: false,
            };
            vault.set_payee(*provider, payee);
        }
        Self {
            vault,
            now: 1_000_000,
            start: 1_000_000,
            books: Default::default(),
            posted: Default::default(),
        }
    }

    fn generation(&self, router: usize, developer: usize) -> u32 {
        self.vault
            .allotment(DEVELOPERS[developer], ROUTERS[router])
            .map_or(1, |(generation, _)| generation)
    }

    /// The router books `amount` of `developer` for `provider`.
    pub fn earn(&mut self, router: usize, provider: usize, developer: usize, amount: u128) {
        let generation = self.generation(router, developer);
        let book = &mut self.books[router];
        let raise = |total: &mut TokenAmount| *total = units(total.units() + amount);
        raise(book.providers.entry((PROVIDERS[provider], 1)).or_default());
        raise(
            book.debits
                .entry((DEVELOPERS[developer], generation))
                .or_default(),
        );
    }

    /// The same within what the live allotment still covers, as an honest router does.
    pub fn earn_covered(&mut self, router: usize, provider: usize, developer: usize, amount: u128) {
        let newest = self.vault.allotment(DEVELOPERS[developer], ROUTERS[router]);
        let Some((generation, allotment)) = newest.filter(|(_, allotment)| allotment.live) else {
            return;
        };
        let key = (DEVELOPERS[developer], generation);
        let booked = self.books[router].debits.get(&key).copied();
        let room = allotment.cap.checked_sub(booked.unwrap_or_default());
        let amount = amount.min(room.unwrap_or_default().units());
        self.earn(router, provider, developer, amount);
    }

    /// The router takes back what it booked: a lie that the vault must not follow.
    pub fn earn_back(&mut self, router: usize, provider: usize, developer: usize, amount: u128) {
        let generation = self.generation(router, developer);
        let book = &mut self.books[router];
        let lower = |total: &mut TokenAmount| *total = units(total.units().saturating_sub(amount));
        lower(book.providers.entry((PROVIDERS[provider], 1)).or_default());
        lower(
            book.debits
                .entry((DEVELOPERS[developer], generation))
                .or_default(),
        );
    }

    fn roots(router: usize, set: &PayoutSet) -> (Digest, Digest) {
        (
            set.provider_tree(ROUTERS[router]).root(),
            set.debit_tree(ROUTERS[router]).root(),
        )
    }

    /// The posted set that is claimable, else the newest, else the router's own totals.
    fn claimable_set(&self, router: usize) -> PayoutSet {
        let claimable = self.vault.totals(ROUTERS[router]).claimable.0;
        let found = self.posted[router].iter().rev().find(|set| {
            let (providers, debits) = Self::roots(router, set);
            pay_root(providers, debits) == claimable
        });
        found.cloned().unwrap_or_else(|| self.newest_set(router))
    }

    fn newest_set(&self, router: usize) -> PayoutSet {
        let newest = self.posted[router].last();
        newest
            .cloned()
            .unwrap_or_else(|| self.books[router].clone())
    }

    fn post(
        &mut self,
        router: usize,
        set: Option<PayoutSet>,
        gross: TokenAmount,
    ) -> Result<Vec<Event>, VaultError> {
        let root = set.as_ref().map_or(Digest::ZERO, |set| {
            let (providers, debits) = Self::roots(router, set);
            pay_root(providers, debits)
        });
        let events = self.vault.post_batch(
            ROUTERS[router],
            Digest([7; 32]),
            3,
            root,
            gross,
            Digest([8; 32]),
            self.now,
        )?;
        self.posted[router].extend(set);
        Ok(events)
    }

    fn sync(
        &mut self,
        router: usize,
        set: &PayoutSet,
        pick: Pick,
    ) -> Result<Vec<Event>, VaultError> {
        let tree = set.debit_tree(ROUTERS[router]);
        let entries: Vec<_> = set
            .debits
            .iter()
            .enumerate()
            .filter(|(_, (key, debit))| self.picked(router, pick, key, debit))
            .map(|(position, ((developer, generation), debit))| DebitProof {
                developer: *developer,
                generation: *generation,
                lifetime_debit: *debit,
                proof: tree.proof(position).expect("in the tree"),
            })
            .collect();
        let (providers, debits) = Self::roots(router, set);
        self.vault
            .sync_debits(ROUTERS[router], providers, debits, &entries)
    }

    fn picked(&self, router: usize, pick: Pick, key: &(Address, u32), debit: &TokenAmount) -> bool {
        match pick {
            Pick::All => true,
            Pick::Only(developer) => key.0 == DEVELOPERS[developer],
            Pick::Open => self.vault.allotment(key.0, ROUTERS[router]).is_some_and(
                |(generation, allotment)| {
                    allotment.live
                        && generation == key.1
                        && (allotment.debited..=allotment.cap).contains(debit)
                },
            ),
        }
    }

    fn sync_forged(
        &mut self,
        router: usize,
        developer: usize,
        debit: u128,
    ) -> Result<Vec<Event>, VaultError> {
        let set = self.claimable_set(router);
        let (providers, debits) = Self::roots(router, &set);
        let entry = DebitProof {
            developer: DEVELOPERS[developer],
            generation: self.generation(router, developer),
            lifetime_debit: units(debit),
            proof: vec![Digest([9; 32])],
        };
        self.vault
            .sync_debits(ROUTERS[router], providers, debits, &[entry])
    }

    fn claim(
        &mut self,
        router: usize,
        provider: usize,
        set: &PayoutSet,
        extra: u128,
    ) -> Result<Vec<Event>, VaultError> {
        let key = (PROVIDERS[provider], 1);
        let position = set.providers.range(..key).count();
        let tree = set.provider_tree(ROUTERS[router]);
        let gross = set.providers.get(&key).copied().unwrap_or_default();
        let (provider_root, debit_root) = Self::roots(router, set);
        self.vault.claim(&Claim {
            router: ROUTERS[router],
            provider: PROVIDERS[provider],
            fee_version: 1,
            lifetime_gross: units(gross.units() + extra),
            provider_root,
            debit_root,
            proof: tree.proof(position).unwrap_or_default(),
        })
    }

    /// Makes the call.
    pub fn take(&mut self, step: &Step) -> Result<Vec<Event>, VaultError> {
        let now = self.now;
        match *step {
            Step::Deposit(d, n) => self.vault.deposit(DEVELOPERS[d], DEVELOPERS[d], units(n)),
            Step::Withdraw(d, n) => self.vault.withdraw(DEVELOPERS[d], units(n)),
            Step::Donate(n) => self.vault.transfer_in(units(n)).map(|()| Vec::new()),
            Step::Allot(d, r, cap, life) => {
                self.vault
                    .allot(DEVELOPERS[d], ROUTERS[r], units(cap), now + life, now)
            }
            Step::TopUp(d, r, n, end) => {
                let end = end.map_or(0, |end| self.start + end);
                self.vault
                    .top_up(DEVELOPERS[d], ROUTERS[r], units(n), end, now)
            }
            Step::Revoke(d, r) => self.vault.revoke(DEVELOPERS[d], ROUTERS[r], now),
            Step::Release(d, r) => self.vault.release(DEVELOPERS[d], ROUTERS[r], now),
            Step::Post(r) => {
                let set = self.books[r].clone();
                let gross = TokenAmount::checked_sum(set.providers.values().copied());
                self.post(r, Some(set), gross.expect("small"))
            }
            Step::PostJobs(r) => self.post(r, None, TokenAmount::ZERO),
            Step::PostFalseGross(r, gross) => {
                let set = self.books[r].clone();
                self.post(r, Some(set), units(gross))
            }
            Step::Promote(r) => self.vault.promote(ROUTERS[r], now),
            Step::Void(r) => self.vault.void_pending(VERDICT, ROUTERS[r]),
            Step::Sync(r) => self.sync(r, &self.claimable_set(r), Pick::Open),
            Step::SyncAll(r) => self.sync(r, &self.claimable_set(r), Pick::All),
            Step::SyncOne(r, d) => self.sync(r, &self.claimable_set(r), Pick::Only(d)),
            Step::SyncNewest(r) => self.sync(r, &self.newest_set(r), Pick::All),
            Step::SyncForged(r, d, debit) => self.sync_forged(r, d, debit),
            Step::Claim(r, p) => self.claim(r, p, &self.claimable_set(r), 0),
            Step::ClaimNewest(r, p) => self.claim(r, p, &self.newest_set(r), 0),
            Step::ClaimForged(r, p, extra) => self.claim(r, p, &self.claimable_set(r), extra),
            Step::Collect(who) => self.vault.collect(who),
            Step::CollectProtocol => self.vault.collect_protocol(),
            Step::Leave(p) => {
                let payee = PROVIDERS[p];
                self.vault.set_payee(
                    payee,
                    Payee {
                        payee,
                        leaving: true,
                    },
                );
                Ok(Vec::new())
            }
            Step::Wait(seconds) => {
                self.now += seconds;
                Ok(Vec::new())
            }
        }
    }

    /// A call that must succeed.
    pub fn must(&mut self, step: Step) -> Vec<Event> {
        let events = self
            .take(&step)
            .unwrap_or_else(|error| panic!("{step:?}: {error}"));
        self.vault.check_conservation().expect("sums hold");
        events
    }

    /// A call that must fail and change nothing.
    pub fn refuse(&mut self, step: Step) -> VaultError {
        let before = self.vault.clone();
        let error = self.take(&step).expect_err("must be refused");
        assert_eq!(self.vault, before, "a refused call changed the vault");
        error
    }
}
