//! The router's book against the vault: the same calls, batches, proofs and events as in life, in random rhythm, with restarts.

mod common;

use common::*;
use proptest::prelude::*;
use stoa_ledger::book::{Entry, RouterBook, SealRule};
use stoa_ledger::vault::{Claim, DebitProof, Event, Payee, Vault, VaultParams};
use stoa_types::{Address, Millis, NetworkProfile, Timestamp, TokenAmount};

const PROVIDER_IDS: [u8; 2] = [8, 9];
const ACCOUNT_IDS: [u8; 3] = [1, 2, 3];
const CAP: u128 = 10_000_000;

struct Loop {
    vault: Vault,
    book: RouterBook,
    journal: Vec<Vec<u8>>,
    now: u64,
    jobs: u64,
}

impl Loop {
    fn new() -> Self {
        let text = NetworkProfile::builtin_text("stoa").expect("listed");
        let profile = NetworkProfile::parse(text).expect("valid");
        let params =
            VaultParams::from_profile(&profile, [address(0x31), address(0x32), address(0x33)]);
        let mut this = Self {
            vault: Vault::new(params, address(0xad)).expect("valid"),
            book: book(),
            journal: Vec::new(),
            now: 1_000,
            jobs: 0,
        };
        for id in PROVIDER_IDS {
            this.vault.set_payee(
                address(id),
                Payee {
                    payee: address(id),
                    leaving: true,
                },
            );
        }
        for id in ACCOUNT_IDS {
            this.vault
                .deposit(address(id), address(id), units(CAP))
                .expect("deposits");
            let events = this.vault.allot(
                address(id),
                ROUTER,
                units(CAP),
                this.now + 20 * 86_400,
                this.now,
            );
            this.hear(events.expect("allots"));
        }
        this
    }

    fn write(&mut self, entry: Entry) {
        self.book
            .apply(&entry)
            .unwrap_or_else(|error| panic!("{entry:?}: {error}"));
        self.journal.push(entry.encode());
    }

    /// Turns the vault's events into journal entries, as the router does.
    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Allotted {
                    developer,
                    generation,
                    cap,
                    expiry,
                    ..
                } => self.write(Entry::AllotmentSeen {
                    account: developer,
                    generation,
                    cap,
                    debited: TokenAmount::ZERO,
                    expiry: Timestamp::from_secs(expiry),
                    fee_version: 1,
                }),
                Event::BatchPosted {
                    index, chain_head, ..
                } => {
                    self.write(Entry::BatchPosted {
                        index,
                        chain_head,
                        block: index,
                        at: secs(self.now),
                    });
                }
                Event::Promoted {
                    pay_root, gross, ..
                } => self.write(Entry::PayoutPromoted { pay_root, gross }),
                Event::DebitSynced {
                    developer,
                    generation,
                    lifetime_debit,
                    ..
                } => self.write(Entry::DebitsSynced {
                    account: developer,
                    generation,
                    debited: lifetime_debit,
                }),
                _ => {}
            }
        }
    }

    fn serve(&mut self, account: u8, provider: u8, cost: u64) {
        self.jobs += 1;
        let reserve = u128::from(cost) + 3;
        let cover = self
            .book
            .available(address(account), secs(self.now), Millis::from_secs(120));
        if cover.is_ok_and(|cover| cover.amount >= units(reserve)) {
            let mut reserved = reserved(self.jobs, account, 1, reserve);
            if let Entry::Reserved { until, .. } = &mut reserved {
                *until = secs(self.now + 120);
            }
            self.write(reserved);
            let mut signed = receipt(self.jobs, account, provider, cost, reserve);
            signed.receipt.delivered_at = secs(self.now);
            self.write(charged(signed));
        }
    }

    /// What a router does whenever it wakes up.
    fn settle(&mut self) {
        let rule = SealRule {
            age: Millis::from_secs(60),
            job_limit: 7,
            window: Millis::from_secs(90),
        };
        if let Some(sealed) = self.book.seal_due(secs(self.now), &rule) {
            self.write(sealed);
        }
        while let Some(batch) = self.book.next_post() {
            let (sealed, (pay_root, gross)) = (batch.sealed.clone(), batch.pay_root_to_post());
            let posted = self.vault.post_batch(
                ROUTER,
                sealed.job_root,
                sealed.job_count,
                pay_root,
                gross,
                sealed.content_id,
                self.now,
            );
            self.hear(posted.expect("what the book seals, the vault takes"));
        }
        if let Ok(events) = self.vault.promote(ROUTER, self.now) {
            self.hear(events);
        }
        let entries: Vec<_> = self
            .book
            .debit_entries()
            .into_iter()
            .map(|entry| DebitProof {
                developer: entry.account,
                generation: entry.generation,
                lifetime_debit: entry.lifetime_debit,
                proof: entry.proof,
            })
            .collect();
        if let (false, Some(batch)) = (entries.is_empty(), self.book.claimable_batch()) {
            let (providers, debits) = (batch.sealed.provider_root, batch.sealed.debit_root);
            let synced = self.vault.sync_debits(ROUTER, providers, debits, &entries);
            self.hear(synced.expect("proofs hold"));
        }
    }

    fn claim(&mut self, provider: u8) -> bool {
        let Some(claim) = self.book.payout_claim(address(provider), 1) else {
            return false;
        };
        self.vault
            .claim(&Claim {
                router: ROUTER,
                provider: claim.provider,
                fee_version: claim.fee_version,
                lifetime_gross: claim.lifetime_gross,
                provider_root: claim.provider_root,
                debit_root: claim.debit_root,
                proof: claim.proof,
            })
            .is_ok()
    }

    /// The process dies; only the journal's bytes are left.
    fn restart(&mut self) {
        let entries: Vec<_> = self
            .journal
            .iter()
            .map(|bytes| Entry::decode(bytes).expect("reads back"))
            .collect();
        let again = book().replay(&entries).expect("replays");
        assert_eq!(again, self.book, "P2");
    }

    fn check(&self) {
        self.vault
            .check_conservation()
            .expect("the vault's sums hold");
        self.book
            .check_conservation()
            .expect("the book's sums hold");
        for (account, generation, state) in self.book.allotments() {
            let (newest, chain) = self
                .vault
                .allotment(account, ROUTER)
                .expect("seen on chain");
            assert_eq!(
                (newest, chain.debited, chain.cap),
                (generation, state.debited, state.cap)
            );
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Serve(u8, u8, u64),
    Settle,
    Claim(u8),
    Restart,
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let account = prop::sample::select(&ACCOUNT_IDS[..]);
    let provider = || prop::sample::select(&PROVIDER_IDS[..]);
    prop_oneof![
        10 => (account, provider(), 0u64..40_000).prop_map(|(a, p, cost)| Step::Serve(a, p, cost)),
        5 => Just(Step::Settle),
        2 => provider().prop_map(Step::Claim),
        1 => Just(Step::Restart),
        4 => (0u64..120).prop_map(Step::Wait),
    ]
}

fn paid(vault: &Vault, who: Address) -> u128 {
    vault.owed(who).units()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_charge_is_debited_once_and_paid_once_whatever_the_rhythm(steps in prop::collection::vec(any_step(), 1..150)) {
        let mut world = Loop::new();
        for step in steps {
            match step {
                Step::Serve(account, provider, cost) => world.serve(account, provider, cost),
                Step::Settle => world.settle(),
                Step::Claim(provider) => { world.claim(provider); }
                Step::Restart => world.restart(),
                Step::Wait(seconds) => world.now += seconds,
            }
            world.check();
        }
        // Traffic has stopped: the loop alone must bring everything home.
        for _ in 0..6 {
            world.now += 100;
            world.settle();
            world.check();
        }
        for provider in PROVIDER_IDS {
            world.claim(provider);
            let earned = world.book.lifetime_gross(address(provider), 1);
            prop_assert_eq!(world.vault.claimed(ROUTER, address(provider), 1), earned);
        }
        prop_assert_eq!(world.book.unsealed_count(), 0);
        let totals = world.vault.totals(ROUTER);
        let charged: u128 = world.book.allotments().map(|(_, _, state)| state.charged.units()).sum();
        prop_assert_eq!(totals.debited_total.units(), charged);
        prop_assert_eq!(totals.claimed_gross.units(), charged);
        let protocol = world.vault.owed_protocol();
        let fees: u128 = [protocol.treasury, protocol.validators, protocol.buyback].iter().map(|a| a.units()).sum();
        let net: u128 = PROVIDER_IDS.iter().map(|id| paid(&world.vault, address(*id))).sum();
        prop_assert_eq!(net + fees + paid(&world.vault, ROUTER), charged);
    }
}
