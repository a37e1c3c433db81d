//! A life of a router's book, the same at every run: allotments, reservations and their ends, batches, payout roots, debits.

use stoa_crypto::{Domain, SecretKey, receipt_digest};
use stoa_ledger::book::{Entry, ReleaseCause, RouterBook};
use stoa_ledger::fees::{Usage, charge};
use stoa_types::{
    Address, Digest, JobId, PaidBy, Price, RECEIPT_VERSION, Receipt, Signature, SignedReceipt,
    Tier, Timestamp, TokenAmount,
};

pub const DOMAIN: Domain = Domain {
    chain_id: 31_337,
    vault: Address([0xaa; 20]),
};
const ACCOUNTS: u64 = 5;
const PRICE: Price = Price::per_million(TokenAmount::from_units(1_000_000));
const FAR: Timestamp = Timestamp::from_secs(1_000_000);

pub fn router_key() -> SecretKey {
    SecretKey::for_tests("router of the journal")
}

/// Says of two books whether they are the same: the snapshot has one encoding.
pub fn fingerprint(book: &RouterBook) -> [u8; 32] {
    *blake3::hash(&book.snapshot()).as_bytes()
}

/// Entries, and the book after each of them.
pub struct Workload {
    pub router: Address,
    pub entries: Vec<Entry>,
    pub payloads: Vec<Vec<u8>>,
    /// Fingerprint of the book after the first so many entries.
    pub books: Vec<[u8; 32]>,
}

impl Workload {
    pub fn new(operations: usize) -> Self {
        let mut life = Life::new();
        let (mut entries, mut books) = (Vec::new(), vec![fingerprint(&life.book)]);
        while entries.len() < operations {
            entries.push(life.next());
            books.push(fingerprint(&life.book));
        }
        Self {
            router: life.book.router(),
            payloads: entries.iter().map(Entry::encode).collect(),
            entries,
            books,
        }
    }
}

/// The book and what decides its next entry.
pub struct Life {
    pub book: RouterBook,
    keys: Option<[SecretKey; 4]>,
    router: SecretKey,
    random: u64,
    jobs: u64,
    time: u64,
}

impl Life {
    /// Every receipt carries both signatures.
    pub fn new() -> Self {
        let keys = std::array::from_fn(|i| SecretKey::for_tests(&format!("provider {i}")));
        Self {
            keys: Some(keys),
            ..Self::unsigned()
        }
    }

    /// For a long life: fewer batches and closed allotments, and placeholders for signatures, which the book does not look at.
    pub fn unsigned() -> Self {
        let router = router_key();
        Self {
            book: RouterBook::new(DOMAIN, router.address()),
            keys: None,
            router,
            random: 0x5707,
            jobs: 0,
            time: 1_000,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// The next entry; the book has taken it.
    pub fn next(&mut self) -> Entry {
        loop {
            self.time += 1;
            let Some(entry) = self.propose() else {
                continue;
            };
            if self.book.apply(&entry).is_ok() {
                return entry;
            }
        }
    }

    fn propose(&mut self) -> Option<Entry> {
        match self.draw(100) {
            0..=1 => Some(self.seen()),
            2..=41 => self.reserved(),
            42..=45 => self.changed(),
            46..=54 => self.released(),
            55..=89 => self.charged(),
            // A long life is mostly calls.
            90 | 91 if self.keys.is_none() && self.draw(20) > 0 => None,
            90 => self.settled_late(),
            91 => self.sealed(),
            _ => self.settled(),
        }
    }

    fn account(&mut self) -> Address {
        Address([1 + self.draw(ACCOUNTS) as u8; 20])
    }

    fn seen(&mut self) -> Entry {
        let account = self.account();
        let live = self.book.allotment(account);
        let newest = self
            .book
            .allotments()
            .filter(|(who, ..)| *who == account)
            .map(|(_, generation, _)| generation)
            .max();
        let (generation, cap, debited) = match live {
            Some((generation, state)) => (generation, state.cap, state.debited),
            None => (
                newest.unwrap_or(0) + 1,
                TokenAmount::ZERO,
                TokenAmount::ZERO,
            ),
        };
        Entry::AllotmentSeen {
            account,
            generation,
            cap: TokenAmount::from_units(cap.units() + 100_000_000),
            debited,
            expiry: FAR,
            fee_version: 1,
        }
    }

    fn reserved(&mut self) -> Option<Entry> {
        let account = self.account();
        let (generation, _) = self.book.allotment(account)?;
        let job = self.job();
        let amount = TokenAmount::from_units(u128::from(self.draw(2_000)));
        let until = Timestamp::from_secs(self.time);
        // Some requests have three choices.
        Some(match self.draw(5) {
            0 => Entry::ReservedTogether {
                jobs: vec![job, self.job(), self.job()],
                account,
                generation,
                amount,
                until,
            },
            _ => Entry::Reserved {
                job,
                account,
                generation,
                amount,
                until,
            },
        })
    }

    fn job(&mut self) -> JobId {
        self.jobs += 1;
        JobId(*blake3::hash(&self.jobs.to_be_bytes()).as_bytes())
    }

    /// One of the first open jobs.
    fn open(&mut self) -> Option<JobId> {
        let skip = self.draw(8) as usize;
        self.book.open_reservations().map(|(job, _)| job).nth(skip)
    }

    fn changed(&mut self) -> Option<Entry> {
        Some(Entry::ReserveChanged {
            job: self.open()?,
            amount: TokenAmount::from_units(u128::from(self.draw(2_000))),
            until: Timestamp::from_secs(self.time),
        })
    }

    fn released(&mut self) -> Option<Entry> {
        let cause = match self.draw(3) {
            0 => ReleaseCause::NoProvider,
            1 => ReleaseCause::Cancelled,
            _ => ReleaseCause::TimedOut,
        };
        let job = self.open()?;
        Some(Entry::Released { job, cause })
    }

    fn charged(&mut self) -> Option<Entry> {
        let job = self.open()?;
        let held = self.book.reservation(job)?.clone();
        let usage = Usage {
            input_units: self.draw(500),
            output_units: self.draw(500),
            input_price: PRICE,
            output_price: PRICE,
        };
        let provider = self.draw(4) as usize;
        let provider_account = match &self.keys {
            Some(keys) => keys[provider].address(),
            None => Address([0x60 + provider as u8; 20]),
        };
        let receipt = Receipt {
            version: RECEIPT_VERSION,
            chain_id: DOMAIN.chain_id,
            vault: DOMAIN.vault,
            profile_hash: Digest([1; 32]),
            job_id: job,
            account: held.account,
            router: self.book.router(),
            provider: provider_account,
            model_root: Digest([2; 32]),
            runtime_digest: Digest([3; 32]),
            parameters_digest: Digest([4; 32]),
            prompt_root: Digest([5; 32]),
            request_digest: Digest([6; 32]),
            output_root: Digest([7; 32]),
            response_digest: Digest([8; 32]),
            input_units: usage.input_units,
            output_units: usage.output_units,
            input_price: PRICE,
            output_price: PRICE,
            charge: charge(&usage, held.amount).ok()?,
            fee_version: held.fee_version,
            paid_by: PaidBy::Allotment,
            tier: Tier::Exact,
            evidence_digest: Digest::ZERO,
            ticket_hash: Digest([9; 32]),
            attempt: 0,
            segments_root: Digest::ZERO,
            accepted_at: Timestamp::from_secs(self.time),
            delivered_at: Timestamp::from_secs(self.time + 1),
        };
        let digest = receipt_digest(&receipt);
        let (by_provider, by_router) = match &self.keys {
            Some(keys) => (keys[provider].sign(digest), self.router.sign(digest)),
            None => (Signature([1; 65]), Signature([2; 65])),
        };
        Some(Entry::Charged {
            receipt: Box::new(SignedReceipt {
                receipt,
                provider_signature: by_provider,
                router_signature: by_router,
            }),
        })
    }

    fn sealed(&mut self) -> Option<Entry> {
        let with_payout = self.book.outstanding_payouts().next().is_none();
        let now = Timestamp::from_secs(self.time);
        self.book.seal(now, 10_000, with_payout)
    }

    /// The next step of a batch on its way through the chain.
    fn settled(&mut self) -> Option<Entry> {
        if let Some(batch) = self.book.next_post() {
            return Some(Entry::BatchPosted {
                index: batch.sealed.index,
                chain_head: batch.head,
                block: self.time,
                at: Timestamp::from_secs(self.time),
            });
        }
        if let Some(debit) = self.book.debit_entries().first() {
            return Some(Entry::DebitsSynced {
                account: debit.account,
                generation: debit.generation,
                debited: debit.lifetime_debit,
            });
        }
        let batch = self.book.outstanding_payouts().next()?;
        let (pay_root, gross) = (batch.sealed.pay_root, batch.sealed.gross);
        if self.draw(8) == 0 {
            return Some(Entry::PayoutVoided { pay_root });
        }
        Some(Entry::PayoutPromoted { pay_root, gross })
    }

    /// What a developer's leaving brings: the allotment is closed, and the router takes over what came too late.
    fn settled_late(&mut self) -> Option<Entry> {
        if let Some((account, generation, amount)) = self.book.late_debits().first().copied() {
            let router = self.book.router();
            let Some((router_generation, _)) = self.book.allotment(router) else {
                return Some(Entry::AllotmentSeen {
                    account: router,
                    generation: 1,
                    cap: TokenAmount::from_units(1_000_000_000),
                    debited: TokenAmount::ZERO,
                    expiry: FAR,
                    fee_version: 1,
                });
            };
            return Some(Entry::LateDebitsAbsorbed {
                account,
                generation,
                amount,
                router_generation,
            });
        }
        let account = self.account();
        let (generation, _) = self.book.allotment(account)?;
        Some(Entry::AllotmentClosed {
            account,
            generation,
        })
    }
}
