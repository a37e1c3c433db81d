//! Audits in one process: the validators of production over the models of the contracts, with one party that cheats.
//!
//! Real: validators, ballots, sealed work, receipts, signatures, the router's book. Simulated: contracts (their executable models), fetches that
//! get lost, crashes and outages, planters, and the judge, which knows what each provider did.
//!
//! One line per schedule: honest parties keep all their stake, the cheat loses some within two batches after its first audited job, and
//! developers pay exactly what was right.

mod campaign;
mod cheat;
mod outages;
mod plants;

pub use campaign::{AuditCampaign, AuditReport};
pub use cheat::Cheat;
pub use outages::Outages;
pub use plants::{Planted, run_planted};

use crate::rng::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use stoa_crypto::{
    Domain, MerkleTree, SecretKey, keccak256, receipt_digest, receipt_leaf, ticket_digest,
    token_root,
};
use stoa_ledger::audit::Outcome;
use stoa_ledger::audit::hash::{self, kind};
use stoa_ledger::audit::place::Post;
use stoa_ledger::audit::rounds::{AuditRounds, Block, Phase, RoundsParams};
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::verdict::{Market, PanelVerdict, VerdictEvent, VerdictParams};
use stoa_ledger::book::{Entry, LeafFile, RouterBook, SealedBatch};
use stoa_ledger::stake::{Role, StakeParams, StakeRegistry};
use stoa_ledger::vault::{DebitProof, Event, Vault, VaultParams};
use stoa_nodes::audit::KeptWork;
use stoa_nodes::receipts::{Facts, expected_receipt};
use stoa_nodes::validator::{
    ChainView, Claim, Covered, Input, Output, RoundView, RulingView, Validator, ValidatorConfig,
    Voted,
};
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_types::{
    Address, Bps, Digest, FinishReason, JobId, Millis, NetworkProfile, Price, Q16, Receipt,
    SamplingParameters, SignedReceipt, SignedTicket, StakeAmount, Ticket, Tier, Timestamp,
    TokenAmount,
};
use stoa_verify::Content;
use stoa_verify::judge::{Answered, Finding};

const START: u64 = 1_790_000_000;
/// Seconds from one batch to the next.
const BATCH: u64 = 60;
/// Batches before the last customer.
const BATCHES: u64 = 4;
const WINDOW: u64 = 90;
const VALIDATORS: usize = 3;
const STAKE: u128 = 10_000 * 10u128.pow(18);
const CAP: u128 = 1_000_000;
const TIMES: RoundsParams = RoundsParams {
    interval: 5,
    reveal: 10,
    ballot: 40,
    unseal: 10,
    plants: 10,
    rulings: 400,
    devnet: false,
};

/// What a schedule is made of.
#[derive(Debug, Clone)]
pub struct AuditPlan {
    /// Who cheats, and how.
    pub cheat: Cheat,
    /// Validators with a seat; the first is the one that cheats.
    pub validators: usize,
    /// Batches before the last customer.
    pub batches: u64,
    /// Least and most jobs of a batch.
    pub jobs: (u64, u64),
    /// Which jobs are audited.
    pub sampling: Sampling,
    /// What is away, and for how long.
    pub outages: Outages,
    /// Planted jobs of a batch.
    pub plants: u64,
    /// Share of its jobs that a lazy validator calls good without looking, per mille.
    pub lazy: u64,
}

impl AuditPlan {
    /// A few small batches; every job is audited, or two in five of them, by the seed.
    pub fn small(seed: u64, cheat: Cheat) -> Self {
        let first_jobs = if seed.is_multiple_of(2) { 1_000 } else { 0 };
        Self {
            cheat,
            validators: VALIDATORS,
            batches: BATCHES,
            jobs: (1, 3),
            sampling: Sampling {
                most: bps(4_000),
                least: bps(2_000),
                first_jobs,
            },
            outages: Outages::Short,
            plants: 0,
            lazy: 1_000,
        }
    }

    /// Nobody cheats; large batches are sampled as in the devnet's profile.
    pub fn honest(outages: Outages) -> Self {
        Self {
            batches: 6,
            jobs: (150, 250),
            sampling: Sampling {
                most: bps(1_000),
                least: bps(500),
                first_jobs: 20,
            },
            outages,
            ..Self::small(0, Cheat::Nobody)
        }
    }
}

/// What a schedule came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditOutcome {
    /// Receipts posted.
    pub jobs: u64,
    /// Of them drawn for an audit.
    pub audited: u64,
    /// Rulings.
    pub rulings: u64,
    /// Convictions.
    pub convictions: u64,
    /// Verdicts other than good in the ballots that were kept, those about whole batches not counted.
    pub accusations: u64,
    /// Crashes of validators.
    pub crashes: u64,
    /// Outages of validators' links, of routers and of the chain.
    pub outages: u64,
    /// Planted jobs that were named.
    pub plants: u64,
    /// For the party that cheated: batches from its first audited cheated job to its first slash. `None` where it had no occasion.
    pub batches_to_slash: Option<u64>,
    /// Charges that were taken back from a convicted provider.
    pub reversed: u64,
}

struct Node {
    core: Validator,
    config: ValidatorConfig,
    disk: Vec<Voted>,
    away: outages::Away,
    inbox: Vec<(u64, Input)>,
    cheat: Option<Cheat>,
    /// What of the chain it saw last.
    seen: u64,
}

/// One posted receipt.
struct Leaf {
    subject: Digest,
    job: JobId,
    provider: Address,
}

struct World {
    plan: AuditPlan,
    cheat: Cheat,
    rng: Rng,
    now: u64,
    rounds: AuditRounds,
    stakes: StakeRegistry,
    vault: Vault,
    verdict: PanelVerdict,
    book: RouterBook,
    files: BTreeMap<u64, Vec<u8>>,
    posts: Vec<Post>,
    /// What each post holds.
    leaves: Vec<Vec<Leaf>>,
    /// What the router kept of each job, to be sealed when it is asked for.
    orders: BTreeMap<Digest, (SignedTicket, Vec<u8>)>,
    kept: BTreeMap<Digest, KeptWork>,
    truth: BTreeMap<JobId, Answered>,
    /// Who pays for each job, and what.
    charges: BTreeMap<JobId, (Address, TokenAmount)>,
    /// Jobs in which somebody cheated.
    cheated: BTreeSet<JobId>,
    /// Jobs that the beacon drew, with their posts.
    audited: BTreeMap<JobId, u64>,
    /// Rounds whose draw is in `audited`.
    drawn: u64,
    plants: plants::Plants,
    away: outages::Common,
    /// A batch waits for the chain; whether it is the last one.
    due: Option<bool>,
    /// Rounds as validators see them, and whether one may be opened; the number rises with every change.
    shown: (u64, Vec<RoundView>, bool),
    dirty: bool,
    /// Subjects with a ruling, by round.
    ruled: BTreeMap<u64, BTreeSet<Digest>>,
    nodes: Vec<Node>,
    /// Ids of all faults that were punished.
    convicted: BTreeSet<Digest>,
    /// Jobs that the verdict reversed.
    reversed: BTreeSet<JobId>,
    /// Number of the post with the first cheated job.
    first_cheat: Option<u64>,
    /// Posts when each party was slashed first, and for what kinds of faults ever.
    slashed_at: BTreeMap<Address, (u64, BTreeSet<u8>)>,
    next_job: u64,
    outcome: AuditOutcome,
}

thread_local! {
    /// Keys by label: deriving one costs more than most of what is done with it.
    static KEYS: RefCell<BTreeMap<String, SecretKey>> = const { RefCell::new(BTreeMap::new()) };
}

fn key(label: &str) -> SecretKey {
    KEYS.with_borrow_mut(|keys| match keys.get(label) {
        Some(key) => key.clone(),
        None => {
            let key = SecretKey::for_tests(label);
            keys.insert(label.to_owned(), key.clone());
            key
        }
    })
}

fn router() -> Address {
    key("router").address()
}

fn provider(n: u64) -> SecretKey {
    key(&format!("provider {n}"))
}

fn validator(n: usize) -> SecretKey {
    key(&format!("validator {n}"))
}

fn validator_address(node: &Node) -> Address {
    node.core.account()
}

fn developer() -> Address {
    key("developer").address()
}

/// Pays for planted jobs.
fn planter() -> SecretKey {
    key("planter")
}

fn units(units: u128) -> TokenAmount {
    TokenAmount::from_units(units)
}

fn bps(value: u16) -> Bps {
    Bps::new(value).expect("at most 10,000")
}

fn domain() -> Domain {
    Domain {
        chain_id: 31_337,
        vault: key("vault").address(),
    }
}

/// Runs one small schedule.
pub fn run_audits(seed: u64, cheat: Cheat) -> Result<AuditOutcome, String> {
    run_plan(seed, AuditPlan::small(seed, cheat))
}

/// Runs one schedule.
pub fn run_plan(seed: u64, plan: AuditPlan) -> Result<AuditOutcome, String> {
    let mut world = World::new(seed, plan);
    world.run(|_| false)?;
    world.settle()?;
    world.check()?;
    Ok(world.outcome)
}

impl World {
    /// Goes on until all batches had their time, or it is `over`.
    fn run(&mut self, over: impl Fn(&Self) -> bool) -> Result<(), String> {
        let last = START + (self.plan.batches + 1) * BATCH;
        while !over(self) && (self.now < last + WINDOW + BATCH || self.due.is_some()) {
            self.now += 1;
            let since = self.now - START;
            if since.is_multiple_of(BATCH) && self.now <= last {
                // A batch that could not be posted yet goes with the next one.
                self.due = Some(self.now == last);
            }
            self.fail();
            if let Some(end) = self.due.take_if(|_| self.away.chain_is_up(self.now)) {
                self.batch(end)?;
            }
            self.second()?;
        }
        Ok(())
    }

    fn new(seed: u64, plan: AuditPlan) -> Self {
        let text = NetworkProfile::builtin_text("stoa").expect("built in");
        let profile = NetworkProfile::parse(text).expect("checked by its own tests");
        let (admin, own) = (key("admin").address(), key("verdict").address());
        let mut vault = VaultParams::from_profile(&profile, [1, 2, 3].map(|n| Address([n; 20])));
        vault.window = WINDOW;
        let mut vault = Vault::new(vault, admin).expect("valid");
        vault.set_verdict(admin, own).expect("admin");
        let stakes = StakeParams::from_profile(&profile, units(1));
        let mut stakes = StakeRegistry::new(stakes, admin).expect("valid");
        stakes.set_slasher(admin, own).expect("admin");
        let mut rounds = AuditRounds::new(TIMES, admin);
        rounds.set_verdict(admin, own).expect("admin");
        let verdict = PanelVerdict::new(VerdictParams {
            chain_id: domain().chain_id,
            vault: domain().vault,
            own,
            answer: 20,
            sampling: plan.sampling,
        });
        let mut world = Self {
            cheat: plan.cheat,
            plan,
            rng: Rng::stream(seed, "audits"),
            now: START,
            rounds,
            stakes,
            vault,
            verdict,
            book: RouterBook::new(domain(), router()),
            files: BTreeMap::new(),
            posts: Vec::new(),
            leaves: Vec::new(),
            orders: BTreeMap::new(),
            kept: BTreeMap::new(),
            truth: BTreeMap::new(),
            charges: BTreeMap::new(),
            cheated: BTreeSet::new(),
            audited: BTreeMap::new(),
            drawn: 0,
            plants: plants::Plants::default(),
            away: outages::Common::default(),
            due: None,
            shown: (0, Vec::new(), false),
            dirty: true,
            ruled: BTreeMap::new(),
            nodes: Vec::new(),
            convicted: BTreeSet::new(),
            reversed: BTreeSet::new(),
            first_cheat: None,
            slashed_at: BTreeMap::new(),
            next_job: 0,
            outcome: AuditOutcome::default(),
        };
        world.seat();
        world.fund(developer());
        world.fund(planter().address());
        world
    }

    fn seat(&mut self) {
        let amount = StakeAmount::from_units(STAKE);
        let mut stake = |role, who| self.stakes.stake(role, who, amount).expect("stakes");
        stake(Role::Router, router());
        (0..3).for_each(|n| drop(stake(Role::Provider, provider(n).address())));
        (0..self.plan.validators)
            .for_each(|n| drop(stake(Role::Validator, validator(n).address())));
        self.rounds.enrol(&self.stakes, router()).expect("staked");
        let planter = planter().address();
        let allowed = self
            .rounds
            .set_planter(key("admin").address(), planter, true);
        allowed.expect("the admin allows it");
        for n in 0..self.plan.validators {
            let config = ValidatorConfig {
                key: validator(n),
                domain: domain(),
                sampling: self.plan.sampling,
                chain_length: 80,
                margin: Millis::from_secs(12),
            };
            let core = Validator::recover(config.clone(), []);
            let (who, tip) = (core.account(), core.first_tip());
            let key = config.key.public_key().point();
            self.rounds
                .join(&self.stakes, who, tip, key)
                .expect("joins");
            let cheats = n == 0 && self.cheat.is_validator();
            self.nodes.push(Node {
                core,
                config,
                disk: Vec::new(),
                away: outages::Away::default(),
                inbox: Vec::new(),
                cheat: cheats.then_some(self.cheat),
                seen: 0,
            });
        }
    }

    fn fund(&mut self, who: Address) {
        let (cap, expiry) = (units(CAP), START + 1_000_000);
        self.vault.deposit(who, who, cap).expect("deposits");
        let allotted = self.vault.allot(who, router(), cap, expiry, START);
        allotted.expect("allots");
        self.entry(Entry::AllotmentSeen {
            account: who,
            generation: 1,
            cap,
            debited: TokenAmount::ZERO,
            expiry: Timestamp(expiry * 1_000),
            fee_version: self.vault.latest_fee_version(),
        });
    }

    fn entry(&mut self, entry: Entry) {
        self.book
            .apply(&entry)
            .expect("an honest book takes what happened");
    }

    fn block(&self) -> Block {
        Block {
            now: self.now,
            number: self.now - START,
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp(self.now * 1_000)
    }

    // ---- jobs and posts

    /// What provider `who` does with its next job.
    fn deed(&mut self, who: u64) -> Answered {
        if who != 0 || !self.cheat.is_provider() {
            return Answered::Good;
        }
        match self.cheat {
            Cheat::Overcount => Answered::WrongCount,
            Cheat::AlterOutput if self.rng.chance(500) => Answered::Good,
            _ => Answered::WrongOutput,
        }
    }

    fn job(&mut self, honest: bool) -> SignedReceipt {
        // Routing leaves whom a verdict found out.
        let first = self.verdict.record(provider(0).address());
        let left = honest || first.now().reputation == 0;
        let who = if left { 1 } else { self.rng.below(2) };
        let deed = self.deed(who);
        self.served(who, developer(), deed, honest)
    }

    /// A job that provider `who` did for `account`.
    fn served(
        &mut self,
        who: u64,
        account: Address,
        deed: Answered,
        honest: bool,
    ) -> SignedReceipt {
        self.next_job += 1;
        let id = JobId(keccak256(self.next_job.to_be_bytes()).0);
        let (work, ticket) = order(id, &provider(who), account);
        let mut receipt = receipt(&ticket.ticket, 1 + self.rng.below(9));
        if self.cheat == Cheat::Overcharge && !honest {
            receipt.charge = receipt.charge.checked_add(units(1)).expect("small");
        }
        let subject = hash::job_subject(router(), receipt_leaf(&receipt));
        let withheld = matches!(self.cheat, Cheat::WithholdWork | Cheat::Forge) && !honest;
        if !withheld {
            self.orders
                .insert(subject, (ticket, work.canonical_bytes()));
        }
        let by_router = self.cheat.is_router() && !honest;
        if account == developer() && (deed != Answered::Good || by_router) {
            let next = self.posts.len() as u64 + 1;
            self.first_cheat.get_or_insert(next);
            self.cheated.insert(id);
        }
        self.truth.insert(id, deed);
        self.charges.insert(id, (account, receipt.charge));
        self.outcome.jobs += 1;
        let digest = receipt_digest(&receipt);
        let signer = if self.cheat == Cheat::Forge && !honest {
            key("router")
        } else {
            provider(who)
        };
        SignedReceipt {
            provider_signature: signer.sign(digest),
            router_signature: key("router").sign(digest),
            receipt,
        }
    }

    fn batch(&mut self, last: bool) -> Result<(), String> {
        self.dirty = true;
        let (least, most) = self.plan.jobs;
        let count = self.rng.between(least, most);
        let mut receipts: Vec<_> = (0..count).map(|_| self.job(last)).collect();
        if !last {
            receipts.extend(self.plant()?);
        }
        if self.cheat.is_router() {
            if self.cheat == Cheat::DoublePost && !last {
                let mut again = receipts[0].receipt.clone();
                again.delivered_at = again.delivered_at.plus(Millis(1));
                let digest = receipt_digest(&again);
                receipts.push(SignedReceipt {
                    provider_signature: provider(u64::from(
                        again.provider != provider(0).address(),
                    ))
                    .sign(digest),
                    router_signature: key("router").sign(digest),
                    receipt: again,
                });
            }
            return self.post_by_hand(receipts, last);
        }
        for signed in receipts {
            let receipt = &signed.receipt;
            self.entry(Entry::Reserved {
                job: receipt.job_id,
                account: receipt.account,
                generation: 1,
                amount: units(40),
                until: self.time().plus(Millis::from_secs(60)),
            });
            self.entry(Entry::Charged {
                receipt: Box::new(signed),
            });
        }
        let free = self
            .book
            .payout_slot_free(self.time(), Millis::from_secs(WINDOW));
        let Some(Entry::BatchSealed(sealed)) = self.book.seal(self.time(), 1_000, free) else {
            return Ok(()); // The only leaf waits to carry the next root.
        };
        self.entry(Entry::BatchSealed(sealed.clone()));
        let file = self
            .book
            .leaf_file(sealed.index)
            .ok_or("a sealed batch has a file")?;
        self.post(&sealed, file.encode())
    }

    fn post_by_hand(&mut self, receipts: Vec<SignedReceipt>, last: bool) -> Result<(), String> {
        let file = LeafFile {
            router: router(),
            index: self.posts.len() as u64 + 1,
            first: 0,
            leaves: receipts.into_iter().map(|signed| (signed, 1)).collect(),
            payout: None,
        };
        let leaves = file.leaves.iter();
        let leaves: Vec<_> = leaves.map(|(s, _)| receipt_leaf(&s.receipt)).collect();
        let zero = Digest::ZERO;
        let sealed = SealedBatch {
            index: file.index,
            first: 0,
            job_count: u32::try_from(leaves.len()).expect("few"),
            job_root: MerkleTree::new(leaves).root(),
            provider_root: zero,
            debit_root: zero,
            pay_root: zero,
            gross: TokenAmount::ZERO,
            content_id: file.content_id(),
            sealed_at: self.time(),
        };
        self.post(&sealed, file.encode())?;
        if self.cheat == Cheat::WithholdLeaves && !last {
            self.files.remove(&sealed.index);
        }
        Ok(())
    }

    fn post(&mut self, sealed: &SealedBatch, file: Vec<u8>) -> Result<(), String> {
        let (root, count, content) = (sealed.job_root, sealed.job_count, sealed.content_id);
        let (pay, gross) = (sealed.pay_root, sealed.gross);
        let events = self
            .vault
            .post_batch(router(), root, count, pay, gross, content, self.now);
        let events = events.map_err(|error| format!("the vault refuses a post: {error}"))?;
        self.posts.push(Post {
            job_root: root,
            job_count: count,
            content_id: content,
        });
        let leaves = LeafFile::decode(&file)
            .map_err(|error| error.to_string())?
            .leaves;
        let leaves = leaves.iter().map(|(signed, _)| Leaf {
            subject: hash::job_subject(router(), receipt_leaf(&signed.receipt)),
            job: signed.receipt.job_id,
            provider: signed.receipt.provider,
        });
        self.leaves.push(leaves.collect());
        self.files.insert(sealed.index, file);
        self.told(&events);
        Ok(())
    }

    /// What an honest router's book learns of the vault's events.
    fn told(&mut self, events: &[Event]) {
        for event in events {
            let entry = match event {
                Event::BatchPosted {
                    index, chain_head, ..
                } => Entry::BatchPosted {
                    index: *index,
                    chain_head: *chain_head,
                    block: self.block().number,
                    at: self.time(),
                },
                Event::Promoted {
                    pay_root, gross, ..
                } => Entry::PayoutPromoted {
                    pay_root: *pay_root,
                    gross: *gross,
                },
                _ => continue,
            };
            if !self.cheat.is_router() {
                self.entry(entry);
            }
        }
    }

    // ---- one second

    fn second(&mut self) -> Result<(), String> {
        if self.away.chain_is_up(self.now) {
            self.show();
            self.note_draws();
            self.name_plants();
            self.join_again();
        }
        // Where nothing moves, it is looked at now and then.
        let (_, rounds, openable) = &self.shown;
        let still = rounds.iter().all(|round| round.phase == Phase::Rulings)
            && self.nodes.iter().all(|node| node.inbox.is_empty());
        if still && !openable && !self.now.is_multiple_of(5) {
            return Ok(());
        }
        for n in 0..self.nodes.len() {
            self.turn(n)?;
        }
        Ok(())
    }

    /// Brings what the contracts show up to date, if anything changed.
    fn show(&mut self) {
        let openable = self.openable();
        let phases = |rounds: &[RoundView]| {
            let same = |view: &RoundView| self.rounds.phase(view.number, self.now) == view.phase;
            rounds.iter().all(same)
        };
        if !self.dirty && openable == self.shown.2 && phases(&self.shown.1) {
            return;
        }
        let open = (1..=self.rounds.latest())
            .filter(|round| self.rounds.phase(*round, self.now) != Phase::Closed);
        let rounds = open.filter_map(|round| self.round_view(round));
        self.shown = (self.shown.0 + 1, rounds.collect(), openable);
        self.dirty = false;
    }

    fn openable(&self) -> bool {
        let latest = self.rounds.round(self.rounds.latest());
        let rested =
            latest.is_none_or(|r| r.drawn_at != 0 && self.now >= r.opened_at + TIMES.interval);
        rested && self.posts.len() as u64 > self.rounds.last_of(router()).posts
    }

    /// What the beacons drew, computed apart from the validators.
    fn note_draws(&mut self) {
        while let Some(round) = self
            .rounds
            .round(self.drawn + 1)
            .filter(|r| r.drawn_at != 0)
        {
            let (number, beacon) = (self.drawn + 1, round.beacon);
            let snapshot = self.rounds.snapshot(number, router());
            let before = self.rounds.snapshot(snapshot.previous, router()).posts;
            let mut counts: BTreeMap<Address, u32> = BTreeMap::new();
            for post in before..snapshot.posts {
                for leaf in &self.leaves[usize::try_from(post).expect("few posts")] {
                    let standing = self.verdict.record(leaf.provider).at(number);
                    let count = counts.entry(leaf.provider).or_default();
                    let sampling = self.plan.sampling;
                    if sampling.audits(beacon, leaf.subject, standing, *count) {
                        self.audited.entry(leaf.job).or_insert(post + 1);
                    }
                    *count += 1;
                }
            }
            self.drawn = number;
        }
        self.outcome.audited = self.audited.len() as u64;
    }

    fn turn(&mut self, n: usize) -> Result<(), String> {
        let (now, due) = (self.time(), self.now);
        if self.fails(n) {
            return Ok(());
        }
        let me = validator_address(&self.nodes[n]);
        let sees = self.sees_chain(n) && self.nodes[n].seen != self.shown.0;
        let first = if sees {
            let (version, rounds, openable) = &self.shown;
            self.nodes[n].seen = *version;
            Input::Chain(Box::new(ChainView {
                seated: self.rounds.validators().contains(&me),
                tip: self.rounds.tip(me),
                openable: *openable,
                rounds: rounds.clone(),
                convicted: self.convicted.clone(),
            }))
        } else {
            Input::Tick
        };
        let node = &mut self.nodes[n];
        let (ripe, later): (Vec<_>, Vec<_>) = std::mem::take(&mut node.inbox)
            .into_iter()
            .partition(|(at, _)| *at <= due);
        node.inbox = later;
        let inputs = std::iter::once(first);
        let mut outputs = Vec::new();
        for input in inputs.chain(ripe.into_iter().map(|(_, input)| input)) {
            outputs.extend(node.core.handle(input, now));
        }
        for output in outputs {
            self.carry_out(n, output)?;
        }
        Ok(())
    }

    /// An answer that comes later, or is lost.
    fn answer(&mut self, n: usize, input: Input) {
        let at = self.now + 1 + self.rng.below(3);
        self.nodes[n].inbox.push((at, input));
    }

    fn carry_out(&mut self, n: usize, output: Output) -> Result<(), String> {
        match output {
            Output::FetchLeaves { .. } | Output::FetchWork { .. } | Output::FetchBallot { .. } => {
                self.fetch(n, output)?
            }
            Output::Judge {
                round,
                subject,
                case,
            } => {
                let answered = self.judged(n, case.receipt.job_id)?;
                let digest = keccak256(subject.0);
                let result = Ok(Finding { answered, digest });
                self.answer(
                    n,
                    Input::Found {
                        round,
                        subject,
                        result,
                    },
                );
            }
            Output::Keep(voted) => {
                let round = voted.round;
                let before = self.nodes[n].disk.iter().find(|v| v.round == round);
                if before.is_some_and(|before| *before != voted) {
                    return Err(format!("validator {n} made two ballots for round {round}"));
                }
                self.nodes[n].disk.push(voted);
                self.answer(n, Input::Durable { round });
            }
            Output::Forget { .. } | Output::Warn(_) => {}
            // Lost on the way; asked for again.
            _ if !self.sees_chain(n) => {}
            call => self.call(n, call)?,
        }
        Ok(())
    }

    /// What a validator finds about a job.
    fn judged(&mut self, n: usize, job: JobId) -> Result<Answered, String> {
        let truth = self.truth.get(&job).copied();
        let truth = truth.ok_or("a job that nobody did was judged")?;
        Ok(match self.nodes[n].cheat {
            Some(Cheat::Accuse) => Answered::WrongOutput,
            Some(Cheat::Lazy | Cheat::Idle) if self.rng.chance(self.plan.lazy) => Answered::Good,
            _ => truth,
        })
    }

    /// Calls of contracts. Those that come too late or twice fail on chain and change nothing.
    fn call(&mut self, n: usize, output: Output) -> Result<(), String> {
        let (block, me) = (self.block(), validator(n).address());
        let block_hash = keccak256(self.now.to_be_bytes());
        self.dirty = true;
        match output {
            Output::Open => drop(self.rounds.open(&self.stakes, &self.vault, block)),
            Output::Reveal { preimage } => {
                drop(self.rounds.reveal(me, preimage, block_hash, block));
            }
            Output::Draw => drop(self.rounds.draw(block_hash, block)),
            Output::Renew { tip } => drop(self.rounds.renew(me, tip)),
            Output::Commit { round, commitment } => self.commit(n, round, commitment)?,
            Output::Unseal { round, root, salt } => {
                drop(self.rounds.unseal(me, round, root, salt, block));
            }
            Output::Bring(claim) => self.bring(*claim),
            _ => {}
        }
        Ok(())
    }

    /// What a validator asks others for: one fetch in ten is lost.
    fn fetch(&mut self, n: usize, output: Output) -> Result<(), String> {
        let lost = self.rng.chance(100) || !self.reaches_peers(n);
        // A router that serves the others only.
        let kept_from = self.cheat == Cheat::ServeSome && n == 0;
        let served = !kept_from && self.away.router_is_up(self.now);
        let answer = match output {
            Output::FetchLeaves { router, post, .. } => {
                let file = self.files.get(&post).filter(|_| served).cloned();
                file.map(|bytes| Input::Leaves {
                    router,
                    post,
                    bytes,
                })
            }
            Output::FetchWork {
                round,
                subject,
                request,
                ..
            } => {
                if !request.is_signed_for(router()) {
                    return Err("a request for work is not signed".to_owned());
                }
                let kept = if served && !lost {
                    self.kept_of(subject)
                } else {
                    None
                };
                kept.map(|kept| Input::Work {
                    round,
                    subject,
                    kept: Box::new(kept),
                })
            }
            Output::FetchBallot { round, validator } => {
                let peer = self.nodes.iter().find(|p| p.core.account() == validator);
                let voted = peer.and_then(|peer| peer.core.shown_ballot(round)).cloned();
                voted.map(|voted| Input::Ballot { validator, voted })
            }
            _ => None,
        };
        if let Some(answer) = answer.filter(|_| !lost) {
            self.answer(n, answer);
        }
        Ok(())
    }

    fn kept_of(&mut self, subject: Digest) -> Option<KeptWork> {
        if let Some(kept) = self.kept.get(&subject) {
            return Some(kept.clone());
        }
        let (ticket, work) = self.orders.get(&subject)?;
        let keys: Vec<_> = (0..self.plan.validators)
            .map(|n| validator(n).public_key())
            .collect();
        let fresh = keccak256(subject.0).0;
        let kept = KeptWork::seal(&domain(), ticket.clone(), work, &keys, fresh);
        let kept = kept.expect("a few recipients");
        self.kept.insert(subject, kept.clone());
        Some(kept)
    }

    fn commit(&mut self, n: usize, round: u64, own: Digest) -> Result<(), String> {
        let (me, block) = (validator(n).address(), self.block());
        let durable = self.nodes[n].disk.iter().any(|voted| voted.round == round);
        if !durable {
            return Err(format!("validator {n} committed before it wrote"));
        }
        let commitment = match self.nodes[n].cheat {
            // All that there is to copy before ballots are shown.
            Some(Cheat::Copy) => {
                let ballots = self.rounds.round(round).map(|r| &r.ballots);
                let other = ballots.and_then(|ballots| ballots.values().next().copied());
                match other {
                    Some(other) => other,
                    None => return Ok(()),
                }
            }
            _ => own,
        };
        drop(self.rounds.commit(me, round, commitment, block));
        Ok(())
    }

    // ---- verdicts

    fn bring(&mut self, claim: Claim) {
        let mut market = Market {
            rounds: &mut self.rounds,
            stakes: &mut self.stakes,
            vault: &mut self.vault,
        };
        let (verdict, now) = (&mut self.verdict, self.now);
        let pending = market.vault.totals(router()).pending;
        let market = &mut market;
        let done = match claim {
            Claim::Rule { evidence, votes } => verdict.rule(market, &evidence, &votes, now),
            Claim::RuleBatch {
                round,
                router,
                post,
                votes,
            } => verdict.rule_batch(market, round, router, post, &votes, now),
            Claim::Show {
                round,
                subject,
                vote,
                excuse,
            } => verdict.show(market, round, subject, &vote, excuse, now),
            Claim::Silence {
                round,
                subject,
                validator,
            } => verdict.punish_silence(market, round, subject, validator, now),
            Claim::Missed {
                round,
                kind: kind::MISSED_REVEAL,
                validator,
            } => verdict.punish_reveal(market, round, validator, now),
            Claim::Missed {
                round, validator, ..
            } => verdict.punish_ballot(market, round, validator, now),
            Claim::Overcharge(evidence) => verdict.prove_overcharge(market, &evidence, now),
            Claim::DoublePost(first, second) => {
                verdict.prove_double_post(market, &first, &second, now)
            }
        };
        // What another one brought before changes nothing.
        let Ok(events) = done else { return };
        let voided = pending.filter(|_| self.vault.totals(router()).pending.is_none());
        self.ruled(&events, voided.map(|pending| pending.pay_root));
    }

    fn ruled(&mut self, events: &[VerdictEvent], voided: Option<Digest>) {
        let honest = !self.cheat.is_router();
        if let Some(pay_root) = voided.filter(|_| honest) {
            self.entry(Entry::PayoutVoided { pay_root });
        }
        for event in events {
            match event {
                VerdictEvent::Ruled { round, subject, .. } => {
                    self.outcome.rulings += 1;
                    self.ruled.entry(*round).or_default().insert(*subject);
                }
                VerdictEvent::Convicted {
                    offender,
                    kind,
                    fault_id,
                    ..
                } => {
                    self.convicted.insert(*fault_id);
                    self.outcome.convictions += 1;
                    let posts = self.posts.len() as u64;
                    let slashed = self.slashed_at.entry(*offender);
                    slashed.or_insert((posts, BTreeSet::new())).1.insert(*kind);
                }
                VerdictEvent::JobReversed { job, .. } => {
                    self.reversed.insert(*job);
                    if honest {
                        self.entry(Entry::JobReversed { job: *job });
                    }
                }
                VerdictEvent::Differed { .. } => {}
            }
        }
        while let Some(entry) = self.book.take_back_due() {
            self.entry(entry);
        }
    }

    // ---- what a validator sees

    fn round_view(&self, number: u64) -> Option<RoundView> {
        let round = self.rounds.round(number)?;
        let phase = self.rounds.phase(number, self.now);
        let who = |place: &usize| round.committee.get(*place).map(|m| m.validator);
        let ends = match phase {
            Phase::Reveal => round.opened_at + TIMES.reveal,
            _ => round.drawn_at + TIMES.ballot,
        };
        let snapshot = self.rounds.snapshot(number, router());
        let before = self.rounds.snapshot(snapshot.previous, router()).posts;
        let range = before.min(snapshot.posts) as usize..snapshot.posts as usize;
        let standings = [0, 1, 2]
            .map(|n| provider(n).address())
            .map(|who| (who, self.verdict.record(who).at(number)));
        Some(RoundView {
            number,
            phase,
            ends: Timestamp(ends * 1_000),
            committee: round.committee.clone(),
            beacon: round.beacon,
            revealed: round.revealed.iter().filter_map(who).collect(),
            committed: round
                .ballots
                .iter()
                .filter_map(|(place, digest)| Some((who(place)?, *digest)))
                .collect(),
            shown: round.unsealed.iter().filter_map(who).collect(),
            votes_needed: self.rounds.votes_needed(number),
            covers: vec![Covered {
                router: router(),
                before,
                posts: self.posts.get(range)?.to_vec(),
            }],
            standings: standings.into_iter().collect(),
            rulings: self.rulings(number),
        })
    }

    fn rulings(&self, round: u64) -> BTreeMap<Digest, RulingView> {
        let seen = |subject: &Digest| {
            let ruling = self.verdict.ruling(round, *subject)?;
            let seats = self.rounds.panel(round, *subject);
            let committee = &self.rounds.round(round)?.committee;
            let seats = seats.iter().enumerate();
            let seen = seats.filter(|(seat, _)| ruling.seen >> seat & 1 == 1);
            let view = RulingView {
                outcome: ruling.outcome,
                seen: seen
                    .filter_map(|(_, at)| Some(committee.get(*at)?.validator))
                    .collect(),
                answer_until: Timestamp((ruling.at + 20) * 1_000),
            };
            Some((*subject, view))
        };
        let ruled = self.ruled.get(&round).into_iter().flatten();
        ruled.filter_map(seen).collect()
    }

    // ---- the end

    fn settle(&mut self) -> Result<(), String> {
        if self.cheat.is_router() {
            return Ok(());
        }
        // One more customer carries the root over everything, whose window passes.
        self.batch(true)?;
        self.now += WINDOW + 1;
        if let Ok(events) = self.vault.promote(router(), self.now) {
            self.told(&events);
        }
        let batch = self
            .book
            .claimable_batch()
            .ok_or("nothing became claimable")?;
        let (providers, debits) = (batch.sealed.provider_root, batch.sealed.debit_root);
        let entries: Vec<_> = self.book.debit_entries().into_iter().collect();
        let proofs: Vec<_> = entries
            .iter()
            .map(|entry| DebitProof {
                developer: entry.account,
                generation: entry.generation,
                lifetime_debit: entry.lifetime_debit,
                proof: entry.proof.clone(),
            })
            .collect();
        let synced = self.vault.sync_debits(router(), providers, debits, &proofs);
        synced.map_err(|error| format!("debits are refused: {error}"))?;
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        self.check_honest()?;
        self.check_caught()?;
        let verdicts = self.nodes.iter().filter(|node| node.cheat.is_none());
        let verdicts = verdicts
            .flat_map(|node| &node.disk)
            .flat_map(|voted| &voted.verdicts);
        let jobs: BTreeSet<_> = self
            .leaves
            .iter()
            .flatten()
            .map(|leaf| leaf.subject)
            .collect();
        let accused = verdicts
            .filter(|(about, outcome, _)| *outcome != Outcome::Good && jobs.contains(about));
        self.outcome.accusations = accused.count() as u64;
        self.outcome.reversed = self.reversed.len() as u64;
        if self.cheat.is_router() {
            return Ok(());
        }
        // What was not audited is paid for, whatever it was.
        let wrong = |job: &JobId| self.cheated.contains(job) && self.audited.contains_key(job);
        for account in [developer(), planter().address()] {
            let owed = self.charges.iter();
            let owed = owed.filter(|(job, (who, _))| *who == account && !wrong(job));
            let owed = TokenAmount::checked_sum(owed.map(|(_, (_, charge))| *charge));
            let owed = owed.ok_or("too large")?;
            let allotment = self.vault.allotment(account, router());
            let debited = allotment.map_or(TokenAmount::ZERO, |(_, a)| a.debited);
            if debited != owed {
                return Err(format!("{account} paid {debited} and owes {owed}"));
            }
        }
        Ok(())
    }

    /// Sums hold, and nobody honest was slashed: but for duties that it missed while it was away for long.
    fn check_honest(&self) -> Result<(), String> {
        self.stakes
            .check_conservation()
            .map_err(|e| e.to_string())?;
        self.book.check_conservation().map_err(|e| e.to_string())?;
        let guilty = self.guilty();
        for (who, (posts, kinds)) in &self.slashed_at {
            let missed = [kind::MISSED_REVEAL, kind::MISSED_BALLOT];
            let excused = self.was_away(*who) && kinds.iter().all(|kind| missed.contains(kind));
            if !guilty.contains(who) && !excused {
                return Err(format!(
                    "{who} is honest and was slashed for faults {kinds:?} after post {posts}"
                ));
            }
        }
        Ok(())
    }

    fn guilty(&self) -> BTreeSet<Address> {
        let mut guilty = BTreeSet::new();
        if self.cheat.is_router() && self.cheat != Cheat::ServeSome {
            guilty.insert(router());
        }
        if self.cheat.is_provider() {
            guilty.insert(provider(0).address());
        }
        if self.cheat.is_validator() {
            guilty.insert(validator(0).address());
        }
        guilty
    }

    /// The post with the first cheated job that was audited; where no audit is needed, the first cheated one.
    fn first_audited(&self) -> Option<u64> {
        if !self.cheat.needs_audit() {
            return self.first_cheat;
        }
        let posts = self.cheated.iter();
        posts.filter_map(|job| self.audited.get(job)).min().copied()
    }

    fn check_caught(&mut self) -> Result<(), String> {
        for who in self.guilty() {
            let is_validator = who == validator(0).address();
            let first = match self.cheat {
                // How long that takes is measured, not asked for.
                Cheat::Idle => None,
                Cheat::Copy | Cheat::Sleep | Cheat::Accuse if is_validator => Some(1),
                _ => self.first_audited(),
            };
            // It may never have had the occasion.
            let Some(first) = first else { continue };
            match self.slashed_at.get(&who) {
                Some((posts, _)) if *posts <= first + 2 => {
                    let took = posts.saturating_sub(first);
                    let slowest = self.outcome.batches_to_slash.unwrap_or_default();
                    self.outcome.batches_to_slash = Some(slowest.max(took));
                }
                Some((posts, _)) => {
                    return Err(format!(
                        "{who} cheated in post {first}, slashed after {posts}"
                    ));
                }
                None => return Err(format!("{who} cheated in post {first} and was not slashed")),
            }
        }
        Ok(())
    }
}

fn order(job: JobId, provider: &SecretKey, account: Address) -> (Work, SignedTicket) {
    let work = Work {
        prompt: Prompt::Text(format!("question of {job}")),
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 1,
            max_output_tokens: 10,
            stop: Vec::new(),
        },
        answer: AnswerShape::Any,
    };
    let price = Price::per_million(units(1_000_000));
    let ticket = Ticket {
        job_id: job,
        account,
        router: router(),
        provider: provider.address(),
        model_root: keccak256("model"),
        parameters_digest: keccak256(work.sampling.canonical_bytes()),
        request_digest: keccak256(job.0),
        work_digest: work.digest(),
        input_price: price,
        output_price: price,
        input_units_max: 30,
        output_units_max: 10,
        reserve: units(40),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: Timestamp(START * 1_000),
        deadline: Timestamp((START + 10_000) * 1_000),
    };
    let signature = key("router").sign(ticket_digest(&domain(), &ticket));
    (work, SignedTicket { ticket, signature })
}

fn receipt(ticket: &Ticket, tokens: u64) -> Receipt {
    let content = Content {
        text: String::new(),
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
        input_units: 3,
        output_units: tokens,
    };
    let facts = Facts {
        prompt_root: token_root(&[1, 2, 3]),
        runtime_digest: keccak256("iq8"),
        accepted_at: Timestamp(START * 1_000),
        delivered_at: Timestamp(START * 1_000),
    };
    let receipt = expected_receipt(&domain(), Digest::ZERO, ticket, &content, &[4, 5], facts);
    receipt.expect("a small charge fits")
}
