//! The executable model of the vault against the real bytecode: the same random calls, the same outcome.
//!
//! After each call both must agree on success or on the named error, on the events, and on everything that the views
//! say; and the model's conservation equation must hold.
#![allow(missing_docs)]

mod error;
mod evm;
#[path = "../machine/mod.rs"]
mod machine;

use std::cell::RefCell;
use std::collections::BTreeMap;

use alloy_primitives::{Bytes, FixedBytes, U256};
use evm::{Evm, STRANGER};
use machine::Reverted;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use stoa_chain::bindings::{PaymentVault as V, ProviderRegistry, TestDollar};
use stoa_chain::{ContractEvent, address, digest, evm_address, evm_digest, explain_revert};
use stoa_crypto::{MerkleTree, debit_leaf, keccak256, payout_leaf};
use stoa_ledger::roots::pay_root;
use stoa_ledger::vault::{Claim, DebitProof, Event, Payee, Vault, VaultError, VaultParams};
use stoa_types::{Address, Digest, NetworkProfile, Timestamp, TokenAmount};

const START: u64 = 1_800_000_000;
const DEVELOPERS: usize = 3;
const ROUTERS: usize = 2;
const PROVIDERS: usize = 3;

fn who(kind: &str, number: usize) -> Address {
    let hash = keccak256(format!("{kind} {number}"));
    Address(hash.0[..20].try_into().expect("20 of 32"))
}

fn developer(number: u8) -> Address {
    who("developer", usize::from(number) % DEVELOPERS)
}

fn router(number: u8) -> Address {
    who("router", usize::from(number) % ROUTERS)
}

fn provider(number: u8) -> Address {
    who("provider", usize::from(number) % PROVIDERS)
}

fn admin() -> Address {
    who("admin", 0)
}

fn params() -> VaultParams {
    let text = NetworkProfile::builtin_text("stoa").expect("listed");
    let profile = NetworkProfile::parse(text).expect("valid");
    VaultParams::from_profile(
        &profile,
        [who("treasury", 0), who("validators", 0), who("buyback", 0)],
    )
}

fn deployed() -> Evm {
    let payers: Vec<Address> = (0..DEVELOPERS)
        .map(|number| who("developer", number))
        .collect();
    Evm::deploy(admin(), &params(), &payers)
}

/// One random call before it is made concrete by what the model holds.
#[derive(Debug, Clone, Copy)]
struct Draw {
    kind: u8,
    a: u8,
    b: u8,
    n: u32,
    twist: u8,
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let draw = (
        any::<u8>(),
        any::<u8>(),
        any::<u8>(),
        any::<u32>(),
        any::<u8>(),
    );
    let draw = draw.prop_map(|(kind, a, b, n, twist)| Draw {
        kind,
        a,
        b,
        n,
        twist,
    });
    proptest::collection::vec(draw, 1..90)
}

/// An amount near the edges of `have`, or any.
fn near(have: TokenAmount, draw: &Draw) -> TokenAmount {
    let have = have.units();
    TokenAmount::from_units(match draw.twist % 16 {
        0 => 0,
        1 => have + 1,
        2 => 1 << 90,
        3..=5 => have,
        6..=9 => have / 2,
        _ => u128::from(draw.n % 50_000_000),
    })
}

/// Lifetime totals under a payout root.
#[derive(Debug, Clone, Default)]
struct Payouts {
    earned: BTreeMap<(Address, u16), u128>,
    charged: BTreeMap<(Address, u32), u128>,
}

impl Payouts {
    fn providers(&self, router: Address) -> MerkleTree {
        let leaf = |((provider, version), gross): (&(Address, u16), &u128)| {
            payout_leaf(
                router,
                0,
                *provider,
                *version,
                TokenAmount::from_units(*gross),
            )
        };
        MerkleTree::new(self.earned.iter().map(leaf).collect())
    }

    fn debits(&self, router: Address) -> MerkleTree {
        let leaf = |((developer, generation), debit): (&(Address, u32), &u128)| {
            debit_leaf(
                router,
                0,
                *developer,
                *generation,
                TokenAmount::from_units(*debit),
            )
        };
        MerkleTree::new(self.charged.iter().map(leaf).collect())
    }

    fn root(&self, router: Address) -> Digest {
        pay_root(self.providers(router).root(), self.debits(router).root())
    }

    fn gross(&self) -> u128 {
        self.earned.values().sum()
    }
}

/// What a call did in the model.
type Expected = Result<Vec<Event>, VaultError>;
/// What it did in the EVM.
type Found = Result<Vec<ContractEvent>, Reverted>;

struct World {
    model: Vault,
    evm: Evm,
    now: u64,
    /// Newest totals of each router, posted or not.
    latest: BTreeMap<Address, Payouts>,
    /// Everything ever posted, by payout root.
    posted: BTreeMap<Digest, Payouts>,
    /// Calls that succeeded, by name: a test that only ever fails proves little.
    succeeded: BTreeMap<&'static str, usize>,
}

impl World {
    fn new(base: &Evm) -> Self {
        Self {
            model: Vault::new(params(), admin()).expect("the parameters are valid"),
            evm: base.fork(),
            now: START,
            latest: BTreeMap::new(),
            posted: BTreeMap::new(),
            succeeded: BTreeMap::new(),
        }
    }

    fn send(&mut self, from: Address, call: &impl alloy_sol_types::SolCall) -> Found {
        let vault = self.evm.contracts.vault;
        self.evm.send(from, vault, call)
    }

    fn step(&mut self, draw: &Draw) {
        self.evm.set_time(self.now);
        let (name, expected, found) = match draw.kind % 32 {
            0..=2 => self.deposit(draw),
            3 => self.withdraw(draw),
            4..=6 => self.allot(draw),
            7 => self.top_up(draw),
            8 => self.revoke(draw),
            9 => self.release(draw),
            10..=15 => self.post(draw),
            16 => self.promote(draw),
            17 => self.void(draw),
            18..=20 => self.sync(draw),
            21..=23 => self.claim(draw),
            24 => self.collect(draw),
            25 => self.collect_protocol(),
            26 => self.administer(draw),
            27 => return self.register(draw),
            28..=30 => return self.cycle(draw),
            _ => {
                let steps = [1, 45, 90, 90, 600, 3_600, 7_200, 30 * 86_400];
                self.now += steps[usize::from(draw.a) % steps.len()];
                return;
            }
        };
        self.compare(name, &expected, &found);
        self.compare_views();
        self.model.check_conservation().expect("the equation holds");
    }

    /// What makes random calls meet: money, allotments and providers are there from the start.
    fn prepare(&mut self) {
        let draw = Draw {
            kind: 0,
            a: 0,
            b: 0,
            n: 40_000_001,
            twist: 15,
        };
        for number in 0..DEVELOPERS as u8 {
            self.step(&Draw {
                a: number + 1,
                b: number,
                ..draw
            });
            for router in 0..ROUTERS as u8 {
                self.step(&Draw {
                    kind: 4,
                    a: number,
                    b: router,
                    n: 10_000_004,
                    ..draw
                });
            }
        }
        self.register(&Draw { n: 1, ..draw });
        self.register(&Draw { a: 1, n: 4, ..draw });
    }

    /// A settlement from post to claim, each step compared like any other.
    fn cycle(&mut self, draw: &Draw) {
        let calm = Draw {
            twist: 5 + draw.twist % 6,
            ..*draw
        };
        self.step(&Draw { kind: 10, ..calm });
        self.now += params().window;
        let router = Draw { a: draw.b, ..calm };
        self.step(&Draw { kind: 16, ..router });
        self.step(&Draw { kind: 18, ..router });
        self.step(&Draw { kind: 21, ..router });
        self.step(&Draw {
            kind: 21,
            b: draw.a,
            twist: draw.twist,
            ..router
        });
    }

    fn compare(&mut self, name: &'static str, expected: &Expected, found: &Found) {
        match (expected, found) {
            (Ok(events), Ok(logs)) => {
                let events: Vec<ContractEvent> = events.iter().map(in_contract_words).collect();
                assert_eq!(&events, logs, "{name}");
                *self.succeeded.entry(name).or_default() += 1;
            }
            (Err(error), Err(data)) => match error::in_contract_words(error) {
                Some(expected) => assert_eq!(
                    &expected,
                    data,
                    "{name}: the model says {error}, the contract {}",
                    explain_revert(data)
                ),
                // Solidity's own panic, or the cast library's error.
                None => assert!(
                    data.starts_with(&[0x4e, 0x48, 0x7b, 0x71])
                        || explain_revert(data).contains("SafeCast"),
                    "{name}: the model says {error}, the contract {}",
                    explain_revert(data)
                ),
            },
            _ => panic!("{name}: the model says {expected:?}, the contract {found:?}"),
        }
    }

    fn deposit(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let (payer, target) = (developer(draw.a), developer(draw.b));
        let amount = near(TokenAmount::from_units(u128::from(u64::MAX)), draw);
        // A deposit that fills the vault would end every run early: mostly ordinary sums.
        let amount = if draw.a.is_multiple_of(8) {
            amount
        } else {
            near(TokenAmount::from_units(40_000_000), draw)
        };
        let expected = self.model.deposit(payer, target, amount);
        let call = V::depositForCall {
            developer: evm_address(target),
            amount: amount.units(),
        };
        ("deposit", expected, self.send(payer, &call))
    }

    fn withdraw(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let developer = developer(draw.a);
        let amount = near(self.model.free(developer), draw);
        let expected = self.model.withdraw(developer, amount);
        (
            "withdraw",
            expected,
            self.send(
                developer,
                &V::withdrawCall {
                    amount: amount.units(),
                },
            ),
        )
    }

    fn expiry(&self, draw: &Draw) -> u64 {
        match draw.n % 8 {
            0 => self.now,
            1 => self.now + 1,
            2 => self.now + 30 * 86_400,
            3 => self.now + 30 * 86_400 + 1,
            _ => self.now + 7_200,
        }
    }

    fn allot(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let developer = developer(draw.a);
        let router = if draw.b == 255 {
            Address::ZERO
        } else {
            router(draw.b)
        };
        let (cap, expiry) = (near(self.model.free(developer), draw), self.expiry(draw));
        let expected = self.model.allot(developer, router, cap, expiry, self.now);
        let call = V::allotCall {
            router: evm_address(router),
            cap: cap.units(),
            expiry,
        };
        ("allot", expected, self.send(developer, &call))
    }

    fn top_up(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let (developer, router) = (developer(draw.a), router(draw.b));
        let add = near(self.model.free(developer), draw);
        let expiry = if draw.n.is_multiple_of(3) {
            0
        } else {
            self.expiry(draw)
        };
        let expected = self.model.top_up(developer, router, add, expiry, self.now);
        let call = V::topUpCall {
            router: evm_address(router),
            addCap: add.units(),
            newExpiry: expiry,
        };
        ("topUp", expected, self.send(developer, &call))
    }

    fn revoke(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let (developer, router) = (developer(draw.a), router(draw.b));
        let expected = self.model.revoke(developer, router, self.now);
        (
            "revoke",
            expected,
            self.send(
                developer,
                &V::revokeCall {
                    router: evm_address(router),
                },
            ),
        )
    }

    fn release(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let (developer, router) = (developer(draw.a), router(draw.b));
        let expected = self.model.release(developer, router, self.now);
        let call = V::releaseCall {
            developer: evm_address(developer),
            router: evm_address(router),
        };
        ("release", expected, self.send(address(STRANGER), &call))
    }

    /// Lets a provider earn and a developer owe, mostly within the cap.
    fn grow(&self, router: Address, draw: &Draw) -> Payouts {
        let mut payouts = self.latest.get(&router).cloned().unwrap_or_default();
        match draw.twist % 16 {
            // A router that forgets what it posted, or takes a charge back.
            14 => payouts = Payouts::default(),
            15 => payouts
                .charged
                .values_mut()
                .for_each(|charged| *charged /= 2),
            _ => {}
        }
        let developer = developer(draw.a);
        if let Some((generation, allotment)) = self.model.allotment(developer, router) {
            let charged = payouts.charged.entry((developer, generation)).or_default();
            // A quarter at a time: an allotment lasts for several posts.
            let left = allotment.cap.units().saturating_sub(*charged).div_ceil(4);
            let amount = near(TokenAmount::from_units(left), draw)
                .units()
                .min(1 << 80);
            *charged += amount;
            let version = if draw.n.is_multiple_of(16) { 2 } else { 1 };
            *payouts
                .earned
                .entry((provider(draw.b), version))
                .or_default() += amount;
        }
        payouts
    }

    fn post(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let router = router(draw.b);
        let payouts = self.grow(router, draw);
        let jobs = match draw.n % 32 {
            0 => 0,
            1 => 10_001,
            _ => draw.n % 10_000 + 1,
        };
        let alone = draw.twist.is_multiple_of(11) || payouts.earned.is_empty();
        let root = if alone {
            Digest::ZERO
        } else {
            payouts.root(router)
        };
        let gross = TokenAmount::from_units(payouts.gross());
        let (job_root, content) = (keccak256(draw.n.to_be_bytes()), keccak256([draw.twist]));
        let expected = self
            .model
            .post_batch(router, job_root, jobs, root, gross, content, self.now);
        let call = V::postBatchCall {
            jobRoot: evm_digest(job_root),
            jobCount: jobs,
            payRoot: evm_digest(root),
            gross: gross.units(),
            contentId: evm_digest(content),
        };
        if expected.is_ok() && !alone {
            self.latest.insert(router, payouts.clone());
            self.posted.insert(root, payouts);
        }
        ("postBatch", expected, self.send(router, &call))
    }

    fn promote(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let router = router(draw.a);
        let expected = self.model.promote(router, self.now);
        (
            "promote",
            expected,
            self.send(
                address(STRANGER),
                &V::promoteCall {
                    router: evm_address(router),
                },
            ),
        )
    }

    fn void(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let router = router(draw.a);
        let caller = match draw.b % 4 {
            0 => address(STRANGER),
            1 => router,
            _ => who("verdict", 0),
        };
        let expected = self.model.void_pending(caller, router);
        if expected.is_ok() {
            // What was only pending is no total to build on.
            let claimable = self.model.totals(router).claimable.0;
            self.latest.insert(
                router,
                self.posted.get(&claimable).cloned().unwrap_or_default(),
            );
        }
        (
            "voidPending",
            expected,
            self.send(
                caller,
                &V::voidPendingCall {
                    router: evm_address(router),
                },
            ),
        )
    }

    fn claimable(&self, router: Address) -> Payouts {
        self.posted
            .get(&self.model.totals(router).claimable.0)
            .cloned()
            .unwrap_or_default()
    }

    fn sync(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let router = router(draw.a);
        let payouts = self.claimable(router);
        let (providers, tree) = (payouts.providers(router), payouts.debits(router));
        let mut entries = Vec::new();
        for (position, ((developer, generation), debit)) in payouts.charged.iter().enumerate() {
            let live = self
                .model
                .allotment(*developer, router)
                .is_some_and(|(n, a)| a.live && n == *generation);
            if live || draw.twist.is_multiple_of(13) {
                entries.push(DebitProof {
                    developer: *developer,
                    generation: *generation,
                    lifetime_debit: TokenAmount::from_units(*debit),
                    proof: tree.proof(position).expect("in the tree"),
                });
            }
        }
        let mut root = providers.root();
        match (draw.twist % 12, entries.first_mut()) {
            (0, _) => root = keccak256("another"),
            (1, Some(entry)) => entry.proof.push(Digest::ZERO),
            (2, Some(entry)) => entry.generation += 1,
            (3, Some(entry)) => {
                entry.lifetime_debit = TokenAmount::from_units(entry.lifetime_debit.units() + 1)
            }
            (4, Some(entry)) => {
                let again = entry.clone();
                entries.push(again);
            }
            _ => {}
        }
        let expected = self.model.sync_debits(router, root, tree.root(), &entries);
        let call = V::syncDebitsCall {
            router: evm_address(router),
            providerRoot: evm_digest(root),
            debitRoot: evm_digest(tree.root()),
            entries: entries.iter().map(debit_entry).collect(),
        };
        ("syncDebits", expected, self.send(address(STRANGER), &call))
    }

    fn claim(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let router = router(draw.a);
        let payouts = self.claimable(router);
        let (tree, debits) = (payouts.providers(router), payouts.debits(router));
        let position = usize::from(draw.b) % payouts.earned.len().max(1);
        let leaf = payouts.earned.iter().nth(position);
        let ((provider, fee_version), gross) =
            leaf.map_or(((provider(draw.b), 1), 1), |(key, gross)| (*key, *gross));
        let mut claim = Claim {
            router,
            provider,
            fee_version,
            lifetime_gross: TokenAmount::from_units(gross),
            provider_root: tree.root(),
            debit_root: debits.root(),
            proof: tree.proof(position).unwrap_or_default(),
        };
        match draw.twist % 12 {
            0 => claim.lifetime_gross = TokenAmount::from_units(gross + 1),
            1 => claim.proof.push(Digest::ZERO),
            2 => claim.debit_root = keccak256("another"),
            3 => claim.provider = admin(),
            _ => {}
        }
        let expected = self.model.claim(&claim);
        let call = V::claimCall {
            router: evm_address(router),
            provider: evm_address(claim.provider),
            feeVersion: fee_version,
            lifetimeGross: claim.lifetime_gross.units(),
            providerRoot: evm_digest(claim.provider_root),
            debitRoot: evm_digest(claim.debit_root),
            proof: claim.proof.iter().map(|node| evm_digest(*node)).collect(),
        };
        ("claim", expected, self.send(address(STRANGER), &call))
    }

    fn collect(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let who = if draw.b.is_multiple_of(2) {
            provider(draw.a)
        } else {
            router(draw.a)
        };
        let expected = self.model.collect(who);
        (
            "collect",
            expected,
            self.send(
                address(STRANGER),
                &V::collectCall {
                    who: evm_address(who),
                },
            ),
        )
    }

    fn collect_protocol(&mut self) -> (&'static str, Expected, Found) {
        let expected = self.model.collect_protocol();
        (
            "collectProtocol",
            expected,
            self.send(address(STRANGER), &V::collectProtocolCall {}),
        )
    }

    fn administer(&mut self, draw: &Draw) -> (&'static str, Expected, Found) {
        let caller = if draw.b.is_multiple_of(4) {
            address(STRANGER)
        } else {
            admin()
        };
        if draw.a.is_multiple_of(2) {
            let verdict = who("verdict", 0);
            let expected = self.model.set_verdict(caller, verdict);
            let call = V::setVerdictCall {
                newVerdict: evm_address(verdict),
            };
            return ("setVerdict", expected, self.send(caller, &call));
        }
        let share = |at: u32| u16::try_from((draw.n >> at) % 210).expect("below 210");
        let bps = |at| stoa_types::Bps::new(share(at)).expect("below 10,000");
        let schedule = stoa_ledger::fees::FeeSchedule {
            router: bps(0),
            treasury: bps(8),
            validators: bps(16),
            buyback: bps(24),
        };
        let expected = self.model.add_fee_version(caller, schedule);
        let schedule = V::FeeSchedule {
            routerBps: share(0),
            treasuryBps: share(8),
            validatorsBps: share(16),
            buybackBps: share(24),
        };
        (
            "addFeeVersion",
            expected,
            self.send(caller, &V::addFeeVersionCall { schedule }),
        )
    }

    /// A provider registers or leaves: the registry is real, the model is told.
    fn register(&mut self, draw: &Draw) {
        let (account, payee) = (provider(draw.a), who("payee", usize::from(draw.b % 2)));
        let registry = self.evm.contracts.provider_registry;
        let call = ProviderRegistry::registerCall {
            endpointId: FixedBytes([1; 32]),
            endpointProof: Bytes::from(vec![0; 64]),
            region: FixedBytes(*b"XA"),
            payee: evm_address(payee),
        };
        self.evm
            .send(account, registry, &call)
            .expect("anyone may register");
        let leaving = draw.n.is_multiple_of(4);
        if leaving {
            self.evm
                .send(account, registry, &ProviderRegistry::announceLeaveCall {})
                .expect("registered");
        }
        self.model.set_payee(account, Payee { payee, leaving });
    }

    fn compare_views(&mut self) {
        for number in 0..DEVELOPERS {
            self.compare_developer(who("developer", number));
        }
        for number in 0..ROUTERS {
            self.compare_router(who("router", number));
        }
        for number in 0..PROVIDERS {
            let provider = who("provider", number);
            let owed = self.evm.vault(&V::owedCall {
                who: evm_address(provider),
            });
            assert_eq!(owed, self.model.owed(provider).units());
        }
        let owed = self.evm.vault(&V::owedProtocolCall {});
        let model = self.model.owed_protocol();
        assert_eq!(
            [owed.treasury, owed.validators, owed.buyback],
            [model.treasury, model.validators, model.buyback].map(TokenAmount::units)
        );
        assert_eq!(
            self.evm.vault(&V::latestFeeVersionCall {}),
            self.model.latest_fee_version()
        );
        let (token, vault) = (self.evm.contracts.payment_token, self.evm.contracts.vault);
        let balance = self.evm.view(
            token,
            &TestDollar::balanceOfCall {
                account: evm_address(vault),
            },
        );
        assert_eq!(balance, U256::from(self.model.balance().units()));
    }

    fn compare_developer(&mut self, developer: Address) {
        let free = self.evm.vault(&V::freeCall {
            developer: evm_address(developer),
        });
        assert_eq!(free, self.model.free(developer).units());
        for number in 0..ROUTERS {
            let router = who("router", number);
            let call = V::allotmentCall {
                developer: evm_address(developer),
                router: evm_address(router),
            };
            let found = self.evm.vault(&call);
            let expected = self.model.allotment(developer, router);
            let expected = expected.map_or((0, 0, 0, 0, 0, false), |(generation, a)| {
                (
                    generation,
                    a.cap.units(),
                    a.debited.units(),
                    a.released.units(),
                    a.expiry,
                    a.live,
                )
            });
            let found = (
                found.generation,
                found.cap,
                found.debited,
                found.released,
                found.expiry,
                found.live,
            );
            assert_eq!(found, expected);
        }
    }

    fn compare_router(&mut self, router: Address) {
        let model = self.model.totals(router);
        let evm_router = evm_address(router);
        let totals = self.evm.vault(&V::totalsCall { router: evm_router });
        assert_eq!(
            [
                totals.capTotal,
                totals.releasedTotal,
                totals.debitedTotal,
                totals.claimedGross
            ],
            [
                model.cap_total,
                model.released_total,
                model.debited_total,
                model.claimed_gross
            ]
            .map(TokenAmount::units)
        );
        let head = self.evm.vault(&V::headCall { router: evm_router });
        assert_eq!(
            (head.posts, digest(head.chainHead)),
            (model.posts, model.chain_head)
        );
        let claimable = self.evm.vault(&V::claimableCall { router: evm_router });
        assert_eq!(
            (digest(claimable.payRoot), claimable.gross),
            (model.claimable.0, model.claimable.1.units())
        );
        let pending = self.evm.vault(&V::pendingOfCall { router: evm_router });
        let expected = model.pending.map_or((Digest::ZERO, 0, 0), |p| {
            (p.pay_root, p.gross.units(), p.at)
        });
        assert_eq!(
            (digest(pending.payRoot), pending.gross, pending.postedAt),
            expected
        );
        let owed = self.evm.vault(&V::owedCall { who: evm_router });
        assert_eq!(owed, self.model.owed(router).units());
        for number in 0..PROVIDERS {
            let provider = who("provider", number);
            let call = V::claimedCall {
                router: evm_router,
                provider: evm_address(provider),
                feeVersion: 1,
            };
            assert_eq!(
                self.evm.vault(&call),
                self.model.claimed(router, provider, 1).units()
            );
        }
    }
}

fn debit_entry(entry: &DebitProof) -> V::DebitEntry {
    V::DebitEntry {
        developer: evm_address(entry.developer),
        generation: entry.generation,
        lifetimeDebit: entry.lifetime_debit.units(),
        proof: entry.proof.iter().map(|node| evm_digest(*node)).collect(),
    }
}

/// The model's event as the indexer tells that of the contract.
fn in_contract_words(event: &Event) -> ContractEvent {
    use ContractEvent as C;
    let at = Timestamp::from_secs;
    match event.clone() {
        Event::Deposited {
            developer,
            payer,
            amount,
        } => C::Deposited {
            developer,
            payer,
            amount,
        },
        Event::Withdrawn { developer, amount } => C::Withdrawn { developer, amount },
        Event::Allotted {
            developer,
            router,
            generation,
            cap,
            expiry,
        } => C::Allotted {
            developer,
            router,
            generation,
            cap,
            expiry: at(expiry),
        },
        Event::ToppedUp {
            developer,
            router,
            generation,
            cap,
            expiry,
        } => C::ToppedUp {
            developer,
            router,
            generation,
            cap,
            expiry: at(expiry),
        },
        Event::Revoked {
            developer,
            router,
            generation,
            expiry,
        } => C::Revoked {
            developer,
            router,
            generation,
            expiry: at(expiry),
        },
        Event::Released {
            developer,
            router,
            generation,
            released,
        } => C::Released {
            developer,
            router,
            generation,
            released,
        },
        other => settlement_in_contract_words(other),
    }
}

fn settlement_in_contract_words(event: Event) -> ContractEvent {
    use ContractEvent as C;
    match event {
        Event::BatchPosted {
            router,
            index,
            job_root,
            job_count,
            pay_root,
            gross,
            content_id,
            chain_head,
        } => C::BatchPosted {
            router,
            index,
            job_root,
            job_count,
            pay_root,
            gross,
            content_id,
            chain_head,
        },
        Event::Promoted {
            router,
            pay_root,
            gross,
        } => C::Promoted {
            router,
            pay_root,
            gross,
        },
        Event::PendingVoided {
            router,
            pay_root,
            gross,
        } => C::PendingVoided {
            router,
            pay_root,
            gross,
        },
        Event::DebitSynced {
            router,
            developer,
            generation,
            lifetime_debit,
        } => C::DebitSynced {
            router,
            developer,
            generation,
            lifetime_debit,
        },
        Event::Claimed {
            router,
            provider,
            fee_version,
            lifetime_claimed,
            gross,
            net,
        } => C::Claimed {
            router,
            provider,
            fee_version,
            lifetime_claimed,
            gross,
            net,
        },
        Event::Collected { who, to, amount } => C::Collected { who, to, amount },
        Event::ProtocolCollected {
            treasury,
            validators,
            buyback,
        } => C::ProtocolCollected {
            treasury,
            validators,
            buyback,
        },
        Event::FeeVersionAdded { version, .. } => C::FeeVersionAdded { version },
        Event::VerdictSet { verdict } => C::Administration {
            what: format!("the vault's verdict contract is {}", evm_address(verdict)),
        },
        Event::AdminSet { admin } => C::Administration {
            what: format!("the vault's admin is {}", evm_address(admin)),
        },
        other => unreachable!("an event of allotments: {other:?}"),
    }
}

/// Calls that succeeded, by name, over all runs.
fn run(mut runner: TestRunner) -> BTreeMap<&'static str, usize> {
    let base = deployed();
    let succeeded: RefCell<BTreeMap<&'static str, usize>> = RefCell::default();
    let outcome = runner.run(&draws(), |draws| {
        let mut world = World::new(&base);
        world.prepare();
        for draw in &draws {
            world.step(draw);
        }
        for (name, count) in world.succeeded {
            *succeeded.borrow_mut().entry(name).or_default() += count;
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    succeeded.into_inner()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn model_and_bytecode_agree_on_fresh_random_calls() {
    run(TestRunner::new(config(24)));
}

#[test]
fn model_and_bytecode_agree_and_every_call_has_succeeded() {
    // Always the same calls, so that the count below is no matter of luck.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let succeeded = run(TestRunner::new_with_rng(config(40), rng));
    let all = [
        "deposit",
        "withdraw",
        "allot",
        "topUp",
        "revoke",
        "release",
        "postBatch",
        "promote",
        "voidPending",
        "syncDebits",
        "claim",
        "collect",
        "collectProtocol",
        "setVerdict",
        "addFeeVersion",
    ];
    for name in all {
        assert!(
            succeeded.contains_key(name),
            "no {name} ever succeeded: {succeeded:?}"
        );
    }
}
