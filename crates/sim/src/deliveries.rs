//! Claims of non-delivery in one process: the models of the contracts over two weeks, hour by hour, with one party that vanishes or lies.
//!
//! Real: claims, answers and slashes (the models of the contracts), tickets, acceptances, receipts, signatures. Simulated: who is up, what gets
//! lost on the way, and what the roles' processes do when they look: a router claims what it was not delivered, a provider answers with its
//! receipt, anybody punishes silence.
//!
//! One line per schedule: deposits are conserved; no honest party loses stake, though providers are away for up to 22 hours and whatever a
//! router keeps to itself; who takes work and is gone is slashed once for that day, and a router that claims what it signed for pays.

use crate::rng::Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use stoa_crypto::{Domain, SecretKey, acceptance_digest, keccak256, receipt_digest, ticket_digest};
use stoa_ledger::audit::delivery::{ClaimEvent, ClaimParams, ClaimState, Decided, DeliveryClaims};
use stoa_ledger::audit::rounds::{AuditRounds, RoundsParams};
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::verdict::{Market, PanelVerdict, VerdictEvent, VerdictParams};
use stoa_ledger::stake::{Role, StakeParams, StakeRegistry};
use stoa_ledger::vault::{Vault, VaultParams};
use stoa_types::{
    Acceptance, Address, Bps, Digest, JobId, NetworkProfile, PaidBy, Price, RECEIPT_VERSION,
    Receipt, StakeAmount, Ticket, Tier, Timestamp, TokenAmount,
};

const START: u64 = 1_790_000_000;
const HOUR: u64 = 3_600;
const HOURS: u64 = 14 * 24;
/// The last hour in which work is ordered: what is claimed after it has its time until the end.
const LAST_ORDER: u64 = 9 * 24;
const PROVIDERS: usize = 3;
const STAKE: u128 = 10_000 * 10u128.pow(18);

/// Rounds stand still here; nothing is audited.
const TIMES: RoundsParams = RoundsParams {
    interval: 5,
    reveal: 10,
    ballot: 40,
    unseal: 10,
    plants: 10,
    rulings: 400,
    devnet: false,
};

/// What one party does that it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trick {
    /// Everybody is honest; providers are away for less than a day.
    Nobody,
    /// A provider takes jobs and is gone.
    AcceptAndVanish,
    /// The router claims jobs whose receipts it signed.
    ClaimDelivered,
    /// The router keeps deliveries to itself, signs nothing, and claims them.
    KeepDelivery,
}

impl Trick {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Nobody,
        Self::AcceptAndVanish,
        Self::ClaimDelivered,
        Self::KeepDelivery,
    ];
}

/// What a schedule came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeliveryOutcome {
    /// Tickets that were accepted.
    pub jobs: u64,
    /// Outages of providers.
    pub outages: u64,
    /// Claims.
    pub claims: u64,
    /// Claims that the provider's receipt ended.
    pub answered: u64,
    /// Claims that a receipt with both signatures ended.
    pub refuted: u64,
    /// Claims that nobody answered.
    pub punished: u64,
    /// Slashes.
    pub slashes: u64,
    /// Hours from the first job that was taken and left, or the first false claim, to the first slash.
    pub hours_to_slash: Option<u64>,
}

impl DeliveryOutcome {
    /// Adds another schedule; of the times to a slash the longest stays.
    pub fn add(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.outages += other.outages;
        self.claims += other.claims;
        self.answered += other.answered;
        self.refuted += other.refuted;
        self.punished += other.punished;
        self.slashes += other.slashes;
        self.hours_to_slash = self.hours_to_slash.max(other.hours_to_slash);
    }
}

struct Job {
    ticket: Ticket,
    hash: Digest,
    accepted: Acceptance,
    provider: usize,
    /// The provider has a receipt, and the router's signature on it.
    delivered: bool,
    countersigned: bool,
    /// When the router claims it, if it does.
    claim_at: Option<u64>,
}

/// What becomes of a job that was taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The router gets the answer.
    Arrives,
    /// The work is done, and the router gets nothing.
    Lost,
    /// The provider is gone with it.
    Left,
}

struct Provider {
    up_at: u64,
    calm_until: u64,
    gone: bool,
}

struct World {
    trick: Trick,
    rng: Rng,
    hour: u64,
    rounds: AuditRounds,
    stakes: StakeRegistry,
    vault: Vault,
    verdict: PanelVerdict,
    claims: DeliveryClaims,
    jobs: Vec<Job>,
    providers: Vec<Provider>,
    /// What deposits moved, by account.
    moved: BTreeMap<Address, i128>,
    first_offence: Option<u64>,
    outcome: DeliveryOutcome,
}

fn key(label: &str) -> SecretKey {
    SecretKey::for_tests(label)
}

fn provider_key(n: usize) -> SecretKey {
    key(&format!("provider {n}"))
}

fn domain() -> Domain {
    Domain {
        chain_id: 31_337,
        vault: key("vault").address(),
    }
}

fn bps(value: u16) -> Bps {
    Bps::new(value).expect("at most 10,000")
}

/// Runs one schedule of two weeks.
pub fn run_deliveries(seed: u64, trick: Trick) -> Result<DeliveryOutcome, String> {
    let mut world = World::new(seed, trick);
    for hour in 1..=HOURS {
        world.hour = hour;
        world.fail();
        world.order();
        world.claim()?;
        world.answer()?;
        world.punish()?;
        world.check()?;
    }
    world.check_end()?;
    Ok(world.outcome)
}

impl World {
    fn new(seed: u64, trick: Trick) -> Self {
        let text = NetworkProfile::builtin_text("stoa").expect("built in");
        let profile = NetworkProfile::parse(text).expect("checked by its own tests");
        let (admin, own) = (key("admin").address(), key("verdict").address());
        let vault = VaultParams::from_profile(&profile, [1, 2, 3].map(|n| Address([n; 20])));
        let stakes = StakeParams::from_profile(&profile, TokenAmount::from_units(1));
        let mut stakes = StakeRegistry::new(stakes, admin).expect("valid");
        stakes.set_slasher(admin, own).expect("admin");
        let amount = StakeAmount::from_units(STAKE);
        let router = key("router").address();
        let mut stake = |role, who| stakes.stake(role, who, amount).expect("stakes");
        stake(Role::Router, router);
        (0..PROVIDERS).for_each(|n| drop(stake(Role::Provider, provider_key(n).address())));
        let verdict = PanelVerdict::new(VerdictParams {
            chain_id: domain().chain_id,
            vault: domain().vault,
            own,
            answer: 600,
            sampling: Sampling {
                most: bps(1_000),
                least: bps(500),
                first_jobs: 20,
            },
        });
        let delivery = &profile.delivery;
        Self {
            trick,
            rng: Rng::stream(seed, "deliveries"),
            hour: 0,
            rounds: AuditRounds::new(TIMES, admin),
            stakes,
            vault: Vault::new(vault, admin).expect("valid"),
            verdict,
            claims: DeliveryClaims::new(ClaimParams {
                domain: domain(),
                claim: delivery.claim_seconds,
                answer: delivery.answer_seconds,
                deposit: delivery.deposit,
            }),
            jobs: Vec::new(),
            providers: (0..PROVIDERS).map(|_| Provider::up()).collect(),
            moved: BTreeMap::new(),
            first_offence: None,
            outcome: DeliveryOutcome::default(),
        }
    }

    fn now(&self) -> u64 {
        START + self.hour * HOUR
    }

    // ---- an hour

    /// Lets providers go away, for less than a day, and lets the one that vanishes vanish.
    fn fail(&mut self) {
        for n in 0..PROVIDERS {
            let provider = &mut self.providers[n];
            let calm = self.hour < provider.calm_until || provider.gone;
            if calm || !self.rng.chance(40) {
                continue;
            }
            let length = self.rng.between(1, 22);
            provider.up_at = self.hour + length;
            // It is up for long enough to look at what it has to answer.
            provider.calm_until = provider.up_at + 3;
            self.outcome.outages += 1;
        }
    }

    fn is_up(&self, n: usize) -> bool {
        !self.providers[n].gone && self.hour >= self.providers[n].up_at
    }

    /// Some jobs, each taken by a provider that is up or goes away with it.
    fn order(&mut self) {
        if self.hour > LAST_ORDER {
            return;
        }
        if self.vanishes() {
            // It takes what it gets in one hour, and is not seen again.
            for _ in 0..self.rng.between(1, 6) {
                self.take(0, Fate::Left);
            }
            self.providers[0].gone = true;
            self.first_offence = Some(self.hour);
        }
        for n in 0..PROVIDERS {
            if !self.is_up(n) || !self.rng.chance(300) {
                continue;
            }
            // Now and then the work is done and gets lost on its way.
            let lost = self.rng.chance(100);
            self.take(n, if lost { Fate::Lost } else { Fate::Arrives });
        }
    }

    /// Whether the provider that vanishes does so now: it has answered what was claimed before.
    fn vanishes(&self) -> bool {
        let account = provider_key(0).address();
        let claims = self.claims.claims().map(|(_, claim)| claim);
        let mut open = claims.filter(|claim| claim.state == ClaimState::Open);
        let answered = open.all(|claim| claim.provider != account);
        let turn = self.trick == Trick::AcceptAndVanish && self.hour >= 48;
        turn && answered && self.is_up(0)
    }

    fn take(&mut self, n: usize, fate: Fate) {
        self.outcome.jobs += 1;
        let ticket = ticket(self.outcome.jobs, n, self.now());
        let hash = ticket_digest(&domain(), &ticket);
        let lies = match self.trick {
            Trick::ClaimDelivered | Trick::KeepDelivery => self.rng.chance(300),
            _ => false,
        };
        let keeps = lies && self.trick == Trick::KeepDelivery;
        let arrives = fate == Fate::Arrives;
        let claimed = !arrives || lies;
        // At once, or at the last moment at which it may.
        let prompt = self.trick == Trick::AcceptAndVanish || self.rng.chance(500);
        let delay = if prompt { 1 } else { 24 };
        let claim_at = claimed.then_some(self.hour + delay);
        self.jobs.push(Job {
            hash,
            accepted: Acceptance {
                ticket: hash,
                accepted_at: ticket.issued_at,
            },
            provider: n,
            delivered: fate != Fate::Left,
            countersigned: arrives && !keeps,
            claim_at,
            ticket,
        });
    }

    /// The router claims what it was not delivered, or says that it was not.
    fn claim(&mut self) -> Result<(), String> {
        let (router, now) = (key("router"), self.now());
        for at in 0..self.jobs.len() {
            let job = &self.jobs[at];
            if job.claim_at != Some(self.hour) {
                continue;
            }
            let by_router = router.sign(job.hash);
            let word = acceptance_digest(&domain(), &job.accepted);
            let by_provider = provider_key(job.provider).sign(word);
            let claimed = self.claims.claim(
                router.address(),
                (&job.ticket, &by_router),
                (job.accepted.accepted_at, &by_provider),
                now,
            );
            claimed.map_err(|e| format!("a claim in time is refused: {e}"))?;
            if job.countersigned {
                self.first_offence.get_or_insert(self.hour);
            }
            self.outcome.claims += 1;
            self.pay(router.address(), -1);
        }
        Ok(())
    }

    /// Providers that are up answer what is claimed against them, with the best receipt that they have.
    fn answer(&mut self) -> Result<(), String> {
        for at in 0..self.jobs.len() {
            let job = &self.jobs[at];
            let open = self.claims.claim_on(job.hash);
            let open = open.is_some_and(|claim| claim.state == ClaimState::Open);
            if !open || !job.delivered || !self.is_up(job.provider) {
                continue;
            }
            let receipt = receipt(job);
            let digest = receipt_digest(&receipt);
            let own = provider_key(job.provider).sign(digest);
            let other = job.countersigned.then(|| key("router").sign(digest));
            let (hash, now) = (job.hash, self.now());
            let (claims, verdict, mut market) = self.parts();
            let signatures = (&own, other.as_ref());
            let decided = claims.answer((verdict, &mut market), hash, &receipt, signatures, now);
            self.decided(&decided.map_err(|e| format!("an answer is refused: {e}"))?);
        }
        Ok(())
    }

    /// Anybody punishes what nobody answered in time.
    fn punish(&mut self) -> Result<(), String> {
        let now = self.now();
        let answer = 24 * HOUR;
        let overdue = |claimed: u64, state| state == ClaimState::Open && now >= claimed + answer;
        let late = self.claims.claims();
        let late = late.filter(|(_, claim)| overdue(claim.claimed_at, claim.state));
        let late: Vec<_> = late.map(|(ticket, _)| ticket).collect();
        for ticket in late {
            let (claims, verdict, mut market) = self.parts();
            let decided = claims.punish((verdict, &mut market), ticket, now);
            self.decided(&decided.map_err(|e| format!("a punishment is refused: {e}"))?);
        }
        Ok(())
    }

    fn parts(&mut self) -> (&mut DeliveryClaims, &mut PanelVerdict, Market<'_>) {
        let market = Market {
            rounds: &mut self.rounds,
            stakes: &mut self.stakes,
            vault: &mut self.vault,
        };
        (&mut self.claims, &mut self.verdict, market)
    }

    fn decided(&mut self, decided: &Decided) {
        match decided.event {
            ClaimEvent::Answered { .. } => self.outcome.answered += 1,
            ClaimEvent::Refuted { .. } => self.outcome.refuted += 1,
            ClaimEvent::Punished { .. } => self.outcome.punished += 1,
            ClaimEvent::Claimed { .. } | ClaimEvent::TakenBack { .. } => {}
        }
        if let Some(VerdictEvent::Convicted { .. }) = decided.conviction {
            self.outcome.slashes += 1;
            let took = self.first_offence.map(|first| self.hour - first);
            self.outcome.hours_to_slash = self.outcome.hours_to_slash.or(took);
        }
        if let Some(to) = decided.deposit_to {
            self.pay(to, 1);
        }
    }

    fn pay(&mut self, who: Address, deposits: i128) {
        *self.moved.entry(who).or_default() += deposits;
    }

    // ---- what must hold

    fn lost(&self, role: Role, who: Address) -> bool {
        self.stakes.slashable(role, who).units() != STAKE
    }

    /// After every hour: deposits are conserved, and nobody honest lost stake.
    fn check(&self) -> Result<(), String> {
        let hour = self.hour;
        let conserved = self.stakes.check_conservation();
        conserved.map_err(|e| e.to_string())?;
        let open = self.claims.claims().map(|(_, claim)| claim.state);
        let open = open.filter(|state| *state == ClaimState::Open).count() as i128;
        if self.moved.values().sum::<i128>() != -open {
            return Err(format!("hour {hour}: a deposit appeared or vanished"));
        }
        let router = key("router").address();
        if self.trick != Trick::ClaimDelivered && self.lost(Role::Router, router) {
            return Err(format!("hour {hour}: the router is honest and was slashed"));
        }
        for n in 0..PROVIDERS {
            let guilty = self.trick == Trick::AcceptAndVanish && n == 0;
            if !guilty && self.lost(Role::Provider, provider_key(n).address()) {
                let why = "was away for less than a day and slashed";
                return Err(format!("hour {hour}: provider {n} {why}"));
            }
        }
        Ok(())
    }

    /// At the end: nothing is open, and who took work and left, or claimed what it had signed for, was slashed.
    fn check_end(&self) -> Result<(), String> {
        if !self.claims.held().is_zero() {
            return Err("a deposit is still held".to_owned());
        }
        let offender = match self.trick {
            Trick::AcceptAndVanish => (Role::Provider, provider_key(0).address()),
            Trick::ClaimDelivered => (Role::Router, key("router").address()),
            Trick::Nobody | Trick::KeepDelivery => return Ok(()),
        };
        if self.first_offence.is_none() {
            return Err("there was no occasion".to_owned());
        }
        if !self.lost(offender.0, offender.1) {
            return Err("nobody was slashed".to_owned());
        }
        if self.trick == Trick::AcceptAndVanish && self.outcome.slashes != 1 {
            let slashes = self.outcome.slashes;
            return Err(format!("one outage was slashed {slashes} times"));
        }
        Ok(())
    }
}

impl Provider {
    fn up() -> Self {
        Self {
            up_at: 0,
            calm_until: 0,
            gone: false,
        }
    }
}

fn ticket(number: u64, provider: usize, now: u64) -> Ticket {
    let price = Price::per_million(TokenAmount::from_units(1_000_000));
    Ticket {
        job_id: JobId(keccak256(number.to_be_bytes()).0),
        account: key("developer").address(),
        router: key("router").address(),
        provider: provider_key(provider).address(),
        model_root: keccak256("model"),
        parameters_digest: keccak256("parameters"),
        request_digest: keccak256("request"),
        work_digest: keccak256("work"),
        input_price: price,
        output_price: price,
        input_units_max: 30,
        output_units_max: 10,
        reserve: TokenAmount::from_units(40),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: Timestamp::from_secs(now),
        deadline: Timestamp::from_secs(now + 120),
    }
}

fn receipt(job: &Job) -> Receipt {
    let t = &job.ticket;
    Receipt {
        version: RECEIPT_VERSION,
        chain_id: domain().chain_id,
        vault: domain().vault,
        profile_hash: Digest::ZERO,
        job_id: t.job_id,
        account: t.account,
        router: t.router,
        provider: t.provider,
        model_root: t.model_root,
        runtime_digest: Digest::ZERO,
        parameters_digest: t.parameters_digest,
        prompt_root: Digest::ZERO,
        request_digest: t.request_digest,
        output_root: Digest::ZERO,
        response_digest: Digest::ZERO,
        input_units: 3,
        output_units: 2,
        input_price: t.input_price,
        output_price: t.output_price,
        charge: TokenAmount::from_units(5),
        fee_version: t.fee_version,
        paid_by: PaidBy::Allotment,
        tier: t.tier,
        evidence_digest: Digest::ZERO,
        ticket_hash: job.hash,
        attempt: t.attempt,
        segments_root: Digest::ZERO,
        accepted_at: job.accepted.accepted_at,
        delivered_at: t.issued_at,
    }
}
