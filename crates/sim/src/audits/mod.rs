//! Audits in one process: the validators of production over the models of the contracts, with one party that cheats.
//!
//! Real: validators, ballots, sealed work, receipts, signatures, the router's book. Simulated: contracts (their executable models), fetches that
//! get lost, crashes and outages, planters, and the judge, which knows what each provider did.
//!
//! One line per schedule: honest parties keep all their stake, the cheat loses some within two batches after its first audited job, and
//! developers pay exactly what was right.

mod calls;
mod campaign;
mod cheat;
mod end;
mod jobs;
mod outages;
mod plants;
mod view;

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
use stoa_ledger::audit::caps::Caps;
use stoa_ledger::audit::hash::{self, kind};
use stoa_ledger::audit::place::Post;
use stoa_ledger::audit::rounds::{AuditRounds, Block, Phase, RoundsParams};
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::sums::{KeptSet, PostedRoot, Reversed};
use stoa_ledger::audit::verdict::{Market, PanelVerdict, VerdictEvent, VerdictParams};
use stoa_ledger::book::{Entry, LeafFile, PayoutSet, RouterBook, SealedBatch};
use stoa_ledger::roots::pay_root;
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
/// What a developer allots to a router that serves it beyond that.
const SMALL_CAP: u128 = 20;
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
    /// Payout roots that were ruled not to follow from the leaves.
    pub bad_sums: u64,
    /// Payout roots that were cancelled and cost nobody anything.
    pub void: u64,
}

struct Node {
    core: Validator,
    config: ValidatorConfig,
    disk: Vec<Voted>,
    /// What of payout roots is on its disk, by post.
    sums: BTreeMap<u64, KeptSet>,
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
    /// Payout roots of the posts, and the posts whose roots are claimable and in their window.
    roots: Vec<PostedRoot>,
    claimable: u64,
    pending: u64,
    /// A post that takes its time, and when it gets there.
    under_way: Option<(u64, SealedBatch, Vec<u8>)>,
    /// Roots that were posted in place of those in the books, which have this root and gross.
    falsified: BTreeMap<Digest, (Digest, TokenAmount)>,
    /// Number of the first post whose payout root was wrong by its router's doing, and all those roots.
    first_bad_root: Option<u64>,
    bad_roots: BTreeSet<Digest>,
    /// The router has taken its stake.
    left: bool,
    /// What was allotted to the router.
    caps: Caps,
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
    reversals: Vec<Reversed>,
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
        let moves = |world: &Self| world.due.is_some() || world.under_way.is_some();
        while !over(self) && (self.now < last + WINDOW + BATCH || moves(self)) {
            self.now += 1;
            let since = self.now - START;
            if since.is_multiple_of(BATCH) && self.now <= last {
                // A batch that could not be posted yet goes with the next one.
                self.due = Some(self.now == last);
            }
            self.fail();
            self.land()?;
            if let Some(end) = self.due.take_if(|_| self.away.chain_is_up(self.now)) {
                self.batch(end)?;
            }
            self.cancel_own();
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
            roots: Vec::new(),
            claimable: 0,
            pending: 0,
            under_way: None,
            falsified: BTreeMap::new(),
            first_bad_root: None,
            bad_roots: BTreeSet::new(),
            left: false,
            caps: Caps::default(),
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
            reversals: Vec::new(),
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
                settling: Millis(0),
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
                sums: BTreeMap::new(),
                away: outages::Away::default(),
                inbox: Vec::new(),
                cheat: cheats.then_some(self.cheat),
                seen: 0,
            });
        }
    }

    fn fund(&mut self, who: Address) {
        let small = self.cheat == Cheat::OverIssue && who == developer();
        let allotted = units(if small { SMALL_CAP } else { CAP });
        let (cap, expiry) = (units(CAP), START + 1_000_000);
        self.vault.deposit(who, who, allotted).expect("deposits");
        let done = self.vault.allot(who, router(), allotted, expiry, START);
        done.expect("allots");
        self.caps.raise((who, 1), 0, allotted, 0);
        // A router that ignores the cap of an allotment reads it in its books as a large one.
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
}
