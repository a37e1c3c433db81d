//! Sentences about audits, tried on random rounds.

use super::ballot::{Ballot, BallotTree, Verdict, root_from};
use super::panel::{Member, panel};
use super::place::{Place, Post};
use super::rounds::{AuditRounds, Block, PLANT_ROUNDS, Phase, RoundsError, RoundsParams};
use super::standing::{FULL, Mark, Record, START, Sampling, Standing};
use super::verdict::{
    Evidence, Market, PanelVerdict, VerdictError, VerdictEvent, VerdictParams, Vote, most_charge,
};
use super::{Outcome, PANEL, hash};
use crate::fees::{FeeSchedule, SlashShares};
use crate::stake::{Role, StakeParams, StakeRegistry};
use crate::vault::{Vault, VaultParams};
use proptest::prelude::*;
use std::collections::BTreeSet;
use stoa_crypto::{MerkleTree, SecretKey, keccak256, receipt_digest, receipt_leaf};
use stoa_types::*;

const T0: u64 = 1_790_000_000;
const CHAIN: u64 = 2_147_483_649;
const STAKE: u128 = 10_000 * 10u128.pow(18);
const TIMES: RoundsParams = RoundsParams {
    interval: 1,
    reveal: 10,
    ballot: 40,
    unseal: 10,
    plants: 10,
    rulings: 500_000,
    devnet: false,
};

fn name(label: &str) -> Address {
    Address(keccak256(label).0[..20].try_into().expect("20 of 32"))
}

fn validator_key(n: usize) -> SecretKey {
    SecretKey::for_tests(&format!("validator {n}"))
}

fn validator(n: usize) -> Address {
    validator_key(n).address()
}

fn provider_key() -> SecretKey {
    SecretKey::for_tests("provider")
}

fn bps(value: u16) -> Bps {
    Bps::new(value).expect("at most 10,000")
}

/// A market with `validators` seats taken, one router, and one provider.
struct World {
    rounds: AuditRounds,
    stakes: StakeRegistry,
    vault: Vault,
    verdict: PanelVerdict,
    chains: Vec<Vec<Digest>>,
    now: u64,
    block: u64,
    posts: Vec<Post>,
    honest: BTreeSet<usize>,
}

impl World {
    fn new(validators: usize, times: RoundsParams) -> Self {
        let admin = name("admin");
        let own = name("verdict");
        let mut vault = Vault::new(vault_params(), admin).expect("valid");
        vault.set_verdict(admin, own).expect("admin");
        let mut stakes = StakeRegistry::new(stake_params(), admin).expect("valid");
        stakes.set_slasher(admin, own).expect("admin");
        let mut rounds = AuditRounds::new(times, admin);
        rounds.set_verdict(admin, own).expect("admin");
        rounds
            .set_planter(admin, name("planter"), true)
            .expect("admin");
        let verdict = PanelVerdict::new(VerdictParams {
            chain_id: CHAIN,
            vault: name("vault"),
            own,
            answer: 600,
            sampling: Sampling {
                most: bps(10_000),
                least: bps(50),
                first_jobs: 20,
            },
        });
        let mut world = Self {
            rounds,
            stakes,
            vault,
            verdict,
            chains: Vec::new(),
            now: T0,
            block: 1,
            posts: Vec::new(),
            honest: (0..validators).collect(),
        };
        let amount = StakeAmount::from_units(STAKE);
        let router = name("router");
        let stakes = &mut world.stakes;
        stakes.stake(Role::Router, router, amount).expect("stakes");
        let provider = provider_key().address();
        stakes
            .stake(Role::Provider, provider, amount)
            .expect("stakes");
        world
            .rounds
            .enrol(&world.stakes, router)
            .expect("is staked");
        for n in 0..validators {
            world.seat(n);
        }
        world
    }

    fn seat(&mut self, n: usize) {
        let who = validator(n);
        let amount = StakeAmount::from_units(STAKE);
        self.stakes
            .stake(Role::Validator, who, amount)
            .expect("stakes");
        let mut chain = vec![keccak256(format!("secret {n}"))];
        for link in 0..64 {
            chain.push(hash::link(chain[link]));
        }
        let tip = chain.pop().expect("has links");
        let key = validator_key(n).public_key().point();
        self.rounds
            .join(&self.stakes, who, tip, key)
            .expect("joins");
        self.chains.push(chain);
    }

    fn block(&self) -> Block {
        Block {
            now: self.now,
            number: self.block,
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        self.block += 1;
    }

    /// Posts one batch of these receipts; gives the place of each but for round and walk.
    fn post(&mut self, receipts: &[Receipt], pay_root: Digest) -> Vec<Place> {
        let tree = MerkleTree::new(receipts.iter().map(receipt_leaf).collect());
        let post = Post {
            job_root: tree.root(),
            job_count: receipts.len() as u32,
            content_id: keccak256("leaf file"),
        };
        let from = self.rounds.last_of(name("router")).posts;
        self.vault
            .post_batch(
                name("router"),
                post.job_root,
                post.job_count,
                pay_root,
                TokenAmount::ZERO,
                post.content_id,
                self.now,
            )
            .expect("posts");
        self.posts.push(post);
        let place = |index| Place {
            router: name("router"),
            from,
            posts: self.posts[from as usize..].to_vec(),
            at: self.posts.len() - 1 - from as usize,
            proof: tree.proof(index).expect("in range"),
        };
        (0..receipts.len()).map(place).collect()
    }

    /// Opens a round and lets everyone reveal.
    fn draw(&mut self) -> u64 {
        self.pass(1);
        let block = self.block();
        let round = self.rounds.open(&self.stakes, &self.vault, block);
        let round = round.expect("opens");
        self.pass(1);
        for n in 0..self.chains.len() {
            if self.rounds.place(round, validator(n)).is_err() {
                continue;
            }
            let preimage = self.chains[n].pop().expect("has links");
            let block = self.block();
            self.rounds
                .reveal(validator(n), preimage, keccak256("block"), block)
                .expect("reveals");
        }
        round
    }

    /// Everyone with a ballot commits and shows it; then the plants' time passes.
    fn cast(&mut self, round: u64, ballots: &[Option<Ballot>]) {
        let salt = keccak256("salt");
        for (n, ballot) in ballots.iter().enumerate() {
            let (who, block) = (validator(n), self.block());
            if let Some(ballot) = ballot {
                let commitment = hash::commitment(round, who, ballot.root(), salt);
                self.rounds
                    .commit(who, round, commitment, block)
                    .expect("commits");
            }
        }
        if self.rounds.phase(round, self.now) == Phase::Ballot {
            self.pass(40);
        }
        for (n, ballot) in ballots.iter().enumerate() {
            if let Some(ballot) = ballot {
                let block = self.block();
                self.rounds
                    .unseal(validator(n), round, ballot.root(), salt, block)
                    .expect("unseals");
            }
        }
        self.pass(0);
    }

    fn vote(&self, round: u64, subject: Digest, ballot: &Ballot, n: usize) -> Option<Vote> {
        let place = self.rounds.place(round, validator(n)).ok()?;
        if !self.rounds.panel(round, subject).contains(&place) {
            return None;
        }
        Some(Vote {
            validator: validator(n),
            verdict: ballot.get(&subject)?,
            proof: ballot.proof(&subject)?,
        })
    }

    fn votes(&self, round: u64, subject: Digest, ballots: &[Option<Ballot>]) -> Vec<Vote> {
        let shown = ballots.iter().enumerate();
        shown
            .filter_map(|(n, ballot)| self.vote(round, subject, ballot.as_ref()?, n))
            .collect()
    }

    fn rule(
        &mut self,
        evidence: &Evidence,
        votes: &[Vote],
    ) -> Result<Vec<VerdictEvent>, VerdictError> {
        let now = self.now;
        let (verdict, mut market) = self.parts();
        verdict.rule(&mut market, evidence, votes, now)
    }

    fn parts(&mut self) -> (&mut PanelVerdict, Market<'_>) {
        let market = Market {
            rounds: &mut self.rounds,
            stakes: &mut self.stakes,
            vault: &mut self.vault,
        };
        (&mut self.verdict, market)
    }

    fn stake(&self, role: Role, who: Address) -> u128 {
        self.stakes.slashable(role, who).units()
    }

    /// One posted job, drawn and judged: `says[n]` is what validator `n` says about it, `None` nothing.
    fn judged(&mut self, says: &[Option<Outcome>]) -> (Evidence, Vec<Option<Ballot>>) {
        let receipt = receipt(7);
        let place = self.post(std::slice::from_ref(&receipt), keccak256("pay root"));
        let evidence = signed(receipt, place[0].clone(), self.draw());
        let ballots: Vec<_> = says
            .iter()
            .map(|say| Some(ballot_of(evidence.subject(), *say)))
            .collect();
        self.cast(evidence.round, &ballots);
        (evidence, ballots)
    }
}

fn vault_params() -> VaultParams {
    VaultParams {
        window: 90,
        notice: 600,
        settle_delay: 3_600,
        claim_min: TokenAmount::from_units(10_000),
        fees: FeeSchedule {
            router: bps(150),
            treasury: bps(50),
            validators: bps(50),
            buyback: bps(50),
        },
        treasury: name("treasury"),
        validators_pool: name("pool"),
        buyback: name("buyback"),
    }
}

fn stake_params() -> StakeParams {
    StakeParams {
        unbonding: 604_800,
        exposure: 150,
        floors: [TokenAmount::from_units(100_000_000); 3],
        job_max: TokenAmount::from_units(1),
        sampling_floor: bps(50),
        stake_price: TokenAmount::from_units(100_000),
        shares: SlashShares {
            developer: bps(4_000),
            challenger: bps(4_000),
        },
    }
}

fn receipt(job: u64) -> Receipt {
    let zero = Digest::ZERO;
    Receipt {
        version: RECEIPT_VERSION,
        chain_id: CHAIN,
        vault: name("vault"),
        profile_hash: keccak256("profile"),
        job_id: JobId(keccak256(job.to_be_bytes()).0),
        account: SecretKey::for_tests("developer").address(),
        router: name("router"),
        provider: provider_key().address(),
        model_root: keccak256("model"),
        runtime_digest: zero,
        parameters_digest: zero,
        prompt_root: zero,
        request_digest: zero,
        output_root: zero,
        response_digest: zero,
        input_units: 3,
        output_units: 2,
        input_price: Price::per_million(TokenAmount::from_units(1_000_000)),
        output_price: Price::per_million(TokenAmount::from_units(2_000_000)),
        charge: TokenAmount::from_units(7),
        fee_version: 1,
        paid_by: PaidBy::Allotment,
        tier: Tier::Exact,
        evidence_digest: zero,
        ticket_hash: zero,
        attempt: 0,
        segments_root: zero,
        accepted_at: Timestamp(1),
        delivered_at: Timestamp(2),
    }
}

fn signed(receipt: Receipt, place: Place, round: u64) -> Evidence {
    Evidence {
        round,
        provider_signature: provider_key().sign(receipt_digest(&receipt)),
        receipt,
        place,
    }
}

fn ballot_of(subject: Digest, say: Option<Outcome>) -> Ballot {
    let mut ballot = Ballot::new();
    if let Some(outcome) = say {
        let digest = Digest::ZERO;
        ballot.insert(subject, Verdict { outcome, digest });
    }
    ballot
}

const WRONG: Option<Outcome> = Some(Outcome::WrongOutput);
const GOOD: Option<Outcome> = Some(Outcome::Good);

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn a_ballot_proves_its_own_verdicts_and_no_other(
        subjects in proptest::collection::btree_set(any::<[u8; 32]>(), 1..40),
        near in any::<u8>(),
    ) {
        let mut ballot = Ballot::new();
        let mut all: Vec<_> = subjects.into_iter().map(Digest).collect();
        // A neighbour that differs in the last bit alone.
        let mut twin = all[usize::from(near) % all.len()];
        twin.0[31] ^= 1;
        all.push(twin);
        for (n, subject) in all.iter().enumerate() {
            let outcome = Outcome::ALL[n % Outcome::ALL.len()];
            ballot.insert(*subject, Verdict { outcome, digest: keccak256([n as u8]) });
        }
        let tree = BallotTree::new(ballot.clone());
        prop_assert_eq!((tree.root(), tree.ballot()), (ballot.root(), &ballot));
        for subject in &all {
            let (verdict, proof) = (ballot.get(subject).expect("in"), ballot.proof(subject).expect("in"));
            prop_assert_eq!(root_from(*subject, verdict, &proof), ballot.root());
            prop_assert_eq!(tree.proof(subject), Some(proof.clone()));
            for outcome in Outcome::ALL.into_iter().filter(|o| *o != verdict.outcome) {
                let other = Verdict { outcome, ..verdict };
                prop_assert_ne!(root_from(*subject, other, &proof), ballot.root());
            }
        }
        let stranger = keccak256("stranger");
        prop_assert!(ballot.proof(&stranger).is_none() && tree.proof(&stranger).is_none());
        prop_assert_eq!(BallotTree::new(Ballot::new()).root(), Digest::ZERO);
    }

    #[test]
    fn a_panel_has_distinct_members_with_stake_and_is_the_same_for_everyone(
        weights in proptest::collection::vec(0u128..1 << 96, 1..64),
        beacon in any::<[u8; 32]>(),
        subject in any::<[u8; 32]>(),
    ) {
        let members: Vec<_> = weights.iter().enumerate()
            .map(|(n, weight)| Member { validator: validator(n), weight: *weight }).collect();
        let seats = panel(&members, Digest(beacon), Digest(subject), PANEL);
        let staked = weights.iter().filter(|weight| **weight != 0).count();
        prop_assert_eq!(seats.len(), PANEL.min(staked));
        prop_assert_eq!(seats.iter().collect::<BTreeSet<_>>().len(), seats.len());
        prop_assert!(seats.iter().all(|seat| weights[*seat] != 0));
        prop_assert_eq!(panel(&members.clone(), Digest(beacon), Digest(subject), PANEL), seats);
    }

    #[test]
    fn with_two_honest_of_three_no_honest_party_is_slashed_and_every_liar_that_votes_pays(
        liar in 0usize..3,
        lie in 0usize..5,
        is_wrong in any::<bool>(),
        omit in any::<bool>(),
    ) {
        let truth = if is_wrong { Outcome::WrongOutput } else { Outcome::Good };
        let lie = Outcome::ALL[lie];
        let mut world = World::new(3, TIMES);
        world.honest.remove(&liar);
        let says: Vec<_> = (0..3).map(|n| Some(if n == liar { lie } else { truth })).collect();
        let (evidence, ballots) = world.judged(&says);
        let subject = evidence.subject();
        let mut votes = world.votes(evidence.round, subject, &ballots);
        if omit {
            votes.retain(|vote| vote.validator != validator(liar));
        }
        world.rule(&evidence, &votes).expect("rules");
        if omit {
            let vote = world.vote(evidence.round, subject, ballots[liar].as_ref().expect("has one"), liar);
            let now = world.now;
            let (verdict, mut market) = world.parts();
            verdict.show(&mut market, evidence.round, subject, &vote.expect("votes"), false, now).expect("shows");
        }
        for honest in &world.honest {
            prop_assert_eq!(world.stake(Role::Validator, validator(*honest)), STAKE);
        }
        let pays = lie != truth && lie.is_content();
        prop_assert_eq!(world.stake(Role::Validator, validator(liar)) < STAKE, pays);
        let provider = provider_key().address();
        prop_assert_eq!(world.stake(Role::Provider, provider) == STAKE, !is_wrong);
        prop_assert_eq!(world.verdict.record(provider).now().reputation, if is_wrong { 0 } else { START + (FULL - START) / 64 });
        prop_assert_eq!(world.stake(Role::Router, name("router")), STAKE);
        world.stakes.check_conservation().expect("the equation holds");
        let again = world.rule(&evidence, &votes);
        prop_assert_eq!(again, Err(VerdictError::AlreadyRuled { subject }));
    }

    #[test]
    fn phases_only_go_forward_and_no_committed_ballot_changes(
        steps in proptest::collection::vec((0u8..6, 0usize..3, 0u64..25), 1..40),
    ) {
        let mut world = World::new(3, TIMES);
        world.post(&[receipt(1)], Digest::ZERO);
        let block = world.block();
        world.rounds.open(&world.stakes, &world.vault, block).expect("opens");
        let mut last = Phase::Reveal;
        let salt = keccak256("salt");
        for (kind, n, wait) in steps {
            world.pass(wait / 5);
            let (who, block) = (validator(n), world.block());
            let before = world.rounds.round(1).expect("open").clone();
            let commitment = hash::commitment(1, who, Digest::ZERO, salt);
            match kind {
                0 => {
                    let tip = *world.chains[n].last().expect("has links");
                    if world.rounds.reveal(who, tip, keccak256("block"), block).is_ok() {
                        world.chains[n].pop();
                    }
                }
                1 => drop(world.rounds.draw(keccak256("block"), block)),
                2 => drop(world.rounds.commit(who, 1, commitment, block)),
                3 => drop(world.rounds.commit(who, 1, keccak256("another"), block)),
                4 => drop(world.rounds.unseal(who, 1, Digest::ZERO, salt, block)),
                _ => world.pass(wait),
            }
            let after = world.rounds.round(1).expect("open");
            for (place, committed) in &before.ballots {
                let shown = after.unsealed.contains(place);
                prop_assert!(shown || after.ballots.get(place) == Some(committed));
            }
            let phase = world.rounds.phase(1, world.now);
            prop_assert!(phase >= last, "{last:?} to {phase:?}");
            last = phase;
        }
    }

    #[test]
    fn the_rate_falls_with_reputation_and_stays_between_its_bounds(r in 0u32..=FULL, verified in 0u32..400) {
        let sampling = Sampling { most: bps(1_000), least: bps(50), first_jobs: 0 };
        let rate = sampling.rate(Standing { reputation: r, verified });
        prop_assert!((50..=1_000).contains(&rate.get()));
        if verified < 200 || r <= START {
            prop_assert_eq!(rate.get(), 1_000);
        }
        let better = sampling.rate(Standing { reputation: (r + 1_000).min(FULL), verified });
        prop_assert!(better <= rate);
    }
}

#[test]
fn seats_are_drawn_in_proportion_to_stake() {
    let members: Vec<_> = [2u128, 1, 1]
        .iter()
        .enumerate()
        .map(|(n, weight)| Member {
            validator: validator(n),
            weight: *weight,
        })
        .collect();
    let drawn = 4_000u32;
    let first = (0..drawn)
        .filter(|n| panel(&members, keccak256("beacon"), keccak256(n.to_be_bytes()), 1) == [0])
        .count();
    assert!((1_900..2_100).contains(&first), "{first} of {drawn}");
}

#[test]
fn no_ruling_without_two_equal_verdicts_of_panel_members() {
    let mut world = World::new(4, TIMES);
    let says = [WRONG, WRONG, WRONG, WRONG];
    let (evidence, ballots) = world.judged(&says);
    let subject = evidence.subject();
    let votes = world.votes(evidence.round, subject, &ballots);
    assert_eq!(votes.len(), 3);
    let one = world.rule(&evidence, &votes[..1]);
    assert_eq!(one, Err(VerdictError::NoMajority { needed: 2 }));
    let twice = [votes[0].clone(), votes[0].clone()];
    let who = votes[0].validator;
    assert_eq!(
        world.rule(&evidence, &twice),
        Err(VerdictError::AlreadySeen { who })
    );
    let seated: Vec<_> = votes.iter().map(|vote| vote.validator).collect();
    let outside = (0..4)
        .find(|n| !seated.contains(&validator(*n)))
        .expect("one of four");
    let ballot = ballots[outside].as_ref().expect("has one");
    let stranger = Vote {
        validator: validator(outside),
        verdict: ballot.get(&subject).expect("says it"),
        proof: ballot.proof(&subject).expect("says it"),
    };
    let who = validator(outside);
    assert_eq!(
        world.rule(&evidence, &[votes[0].clone(), stranger]),
        Err(VerdictError::NotOnPanel { who })
    );
    let mut changed = votes.clone();
    changed[1].verdict.outcome = Outcome::Good;
    let who = changed[1].validator;
    assert_eq!(
        world.rule(&evidence, &changed),
        Err(VerdictError::NotInBallot { who })
    );
    assert!(world.rule(&evidence, &votes[1..]).is_ok());
}

#[test]
fn one_validator_decides_alone_only_in_a_devnet() {
    for devnet in [false, true] {
        let mut world = World::new(1, RoundsParams { devnet, ..TIMES });
        let (evidence, ballots) = world.judged(&[WRONG]);
        let votes = world.votes(evidence.round, evidence.subject(), &ballots);
        assert_eq!(world.rule(&evidence, &votes).is_ok(), devnet);
    }
}

#[test]
fn a_conviction_slashes_once_and_repeats_take_all() {
    let mut world = World::new(3, TIMES);
    let provider = provider_key().address();
    for (job, left) in [(1, STAKE * 3 / 4), (2, 0)] {
        let posted = receipt(job);
        let place = world.post(std::slice::from_ref(&posted), Digest::ZERO);
        let evidence = signed(posted, place[0].clone(), world.draw());
        let ballot = ballot_of(evidence.subject(), WRONG);
        let ballots = vec![Some(ballot); 3];
        world.cast(evidence.round, &ballots);
        let votes = world.votes(evidence.round, evidence.subject(), &ballots);
        let events = world.rule(&evidence, &votes).expect("rules");
        assert_eq!(world.stake(Role::Provider, provider), left);
        assert!(matches!(events[2], VerdictEvent::JobReversed { .. }));
        let again = world.rule(&evidence, &votes);
        assert!(matches!(again, Err(VerdictError::AlreadyRuled { .. })));
        assert_eq!(world.stake(Role::Provider, provider), left);
    }
    world.stakes.check_conservation().expect("holds");
}

#[test]
fn a_conviction_voids_what_is_pending_and_compensates_what_is_claimable() {
    let mut world = World::new(3, TIMES);
    let (evidence, ballots) = world.judged(&[WRONG; 3]);
    let votes = world.votes(evidence.round, evidence.subject(), &ballots);
    world.rule(&evidence, &votes).expect("rules");
    assert!(world.vault.totals(name("router")).pending.is_none());
    assert!(world.verdict.is_reversed(evidence.subject()));
    let developer = evidence.receipt.account;
    assert!(world.stakes.owed(developer).is_zero());

    let mut world = World::new(3, TIMES);
    let (evidence, ballots) = world.judged(&[WRONG; 3]);
    world.pass(120);
    let now = world.now;
    world
        .vault
        .promote(name("router"), now)
        .expect("its window is over");
    let votes = world.votes(evidence.round, evidence.subject(), &ballots);
    world.rule(&evidence, &votes).expect("rules");
    assert!(!world.verdict.is_reversed(evidence.subject()));
    let sigma = STAKE / 4;
    assert_eq!(world.stakes.owed(developer).units(), sigma * 4 / 10);
    let seats = world.rounds.panel(evidence.round, evidence.subject());
    let first = world.rounds.round(1).expect("drawn").committee[seats[0]].validator;
    assert_eq!(world.stakes.owed(first).units(), sigma * 4 / 10);
}

#[test]
fn nobody_gains_by_leaving_votes_out() {
    let mut world = World::new(3, TIMES);
    let (evidence, ballots) = world.judged(&[WRONG; 3]);
    let seats = world.rounds.panel(evidence.round, evidence.subject());
    let first = world.rounds.round(1).expect("drawn").committee[seats[0]].validator;
    let mut votes = world.votes(evidence.round, evidence.subject(), &ballots);
    votes.retain(|vote| vote.validator != first);
    world.rule(&evidence, &votes).expect("rules");
    for n in 0..3 {
        assert!(world.stakes.owed(validator(n)).is_zero());
    }
}

/// Posts a planted job and runs its round; `says` as in `judged`.
fn planted(world: &mut World, says: &[Option<Outcome>]) -> (Evidence, Vec<Option<Ballot>>) {
    let planted = receipt(3);
    let (job, account) = (planted.job_id, planted.account);
    let salt = keccak256("plant");
    let commitment = hash::plant_commitment(job, account, salt);
    world
        .rounds
        .plant(name("planter"), commitment)
        .expect("a planter");
    let place = world.post(std::slice::from_ref(&planted), Digest::ZERO);
    let evidence = signed(planted, place[0].clone(), world.draw());
    let ballots: Vec<_> = says
        .iter()
        .map(|say| Some(ballot_of(evidence.subject(), *say)))
        .collect();
    world.cast(evidence.round, &ballots);
    assert_eq!(world.rounds.phase(evidence.round, world.now), Phase::Plants);
    let block = world.block();
    let stranger = name("stranger");
    let named = world
        .rounds
        .name_plant(1, job, account, salt, stranger, block);
    assert_eq!(named, Err(RoundsError::WrongSigner { account }));
    let named = world
        .rounds
        .name_plant(1, job, account, salt, account, block);
    assert_eq!(named, Ok((1, true)), "from the first round, that waited");
    (evidence, ballots)
}

fn developer() -> Address {
    SecretKey::for_tests("developer").address()
}

/// Stores a plant of the developer's.
fn stored(world: &mut World, job: JobId, salt: Digest) {
    let commitment = hash::plant_commitment(job, developer(), salt);
    let stored = world.rounds.plant(name("planter"), commitment);
    stored.expect("a planter");
}

/// Names it in a round.
fn named(
    world: &mut World,
    round: u64,
    job: JobId,
    salt: Digest,
) -> Result<(u64, bool), RoundsError> {
    let (who, block) = (developer(), world.block());
    world.rounds.name_plant(round, job, who, salt, who, block)
}

#[test]
fn a_name_holds_for_its_job_in_all_rounds_since_it_was_stored_and_in_none_before() {
    let mut world = World::new(3, TIMES);
    let (job, salt) = (receipt(3).job_id, keccak256("plant"));
    world.post(&[receipt(1)], Digest::ZERO);
    let before = world.draw();
    world.cast(before, &[(); 3].map(|()| Some(Ballot::default())));
    world.pass(TIMES.plants);
    stored(&mut world, job, salt);
    for n in [3, 4] {
        world.post(&[receipt(n)], Digest::ZERO);
        let round = world.draw();
        world.cast(round, &[(); 3].map(|()| Some(Ballot::default())));
    }
    let wrong = RoundsError::NotPlanted {
        commitment: hash::plant_commitment(job, developer(), salt),
        round: before,
    };
    assert_eq!(named(&mut world, before, job, salt), Err(wrong));
    assert_eq!(named(&mut world, 3, job, salt), Ok((2, true)));
    let holds = |world: &World, who| [1, 2, 3].map(|round| world.rounds.is_plant(round, job, who));
    assert_eq!(holds(&world, developer()), [false, true, true]);
    assert_eq!(holds(&world, name("stranger")), [false; 3]);
    let again = keccak256("again");
    stored(&mut world, job, again);
    world.post(&[receipt(5)], Digest::ZERO);
    let round = world.draw();
    world.cast(round, &[(); 3].map(|()| Some(Ballot::default())));
    assert_eq!(named(&mut world, round, job, again), Ok((4, true)));
    assert_eq!(
        holds(&world, developer()),
        [false, true, true],
        "the first name stays"
    );
}

#[test]
fn a_plant_that_is_named_late_shields_what_is_not_ruled_yet_and_nothing_else() {
    for late in [false, true] {
        let mut world = World::new(3, TIMES);
        let (job, salt) = (receipt(3).job_id, keccak256("plant"));
        stored(&mut world, job, salt);
        let place = world.post(&[receipt(3)], Digest::ZERO);
        let evidence = signed(receipt(3), place[0].clone(), world.draw());
        let ballots = [(); 3].map(|()| Some(ballot_of(evidence.subject(), WRONG)));
        world.cast(1, &ballots);
        world.pass(TIMES.plants);
        let votes = world.votes(1, evidence.subject(), &ballots);
        if late {
            world.rule(&evidence, &votes).expect("rules");
        }
        assert_eq!(
            named(&mut world, 1, job, salt),
            Ok((1, false)),
            "nobody waited for it"
        );
        let stake = world.stake(Role::Provider, provider_key().address());
        match world.rule(&evidence, &votes) {
            Ok(events) => assert!(matches!(events[0], VerdictEvent::Ruled { plant: true, .. })),
            Err(error) => assert!(late, "{error}"),
        }
        assert_eq!(stake < STAKE, late);
        assert_eq!(world.stake(Role::Provider, provider_key().address()), stake);
    }
}

#[test]
fn no_round_waits_for_a_plant_that_nobody_names_for_long() {
    let mut world = World::new(3, TIMES);
    let salt = keccak256("plant");
    stored(&mut world, receipt(1).job_id, salt);
    let due = |world: &World, round| world.rounds.round(round).expect("opened").plants_due;
    for n in 1..=PLANT_ROUNDS + 1 {
        world.post(&[receipt(n)], Digest::ZERO);
        let round = world.draw();
        assert_eq!(due(&world, round), u64::from(n <= PLANT_ROUNDS));
        world.cast(round, &[(); 3].map(|()| Some(Ballot::default())));
        world.pass(TIMES.plants);
    }
    assert_eq!(
        named(&mut world, PLANT_ROUNDS + 1, receipt(1).job_id, salt),
        Ok((1, false))
    );
    assert_eq!(world.rounds.outstanding(), 0);
}

#[test]
fn a_plant_slashes_only_the_validators_that_did_not_look() {
    for lazy in [GOOD, None] {
        let mut world = World::new(3, TIMES);
        let (evidence, ballots) = planted(&mut world, &[WRONG, lazy, WRONG]);
        let votes = world.votes(evidence.round, evidence.subject(), &ballots);
        let events = world.rule(&evidence, &votes).expect("rules");
        assert!(matches!(events[0], VerdictEvent::Ruled { plant: true, .. }));
        if lazy.is_none() {
            world.pass(600);
            let now = world.now;
            let (verdict, mut market) = world.parts();
            for n in [0, 2] {
                let silent =
                    verdict.punish_silence(&mut market, 1, evidence.subject(), validator(n), now);
                let who = validator(n);
                assert_eq!(silent, Err(VerdictError::AlreadySeen { who }));
            }
            verdict
                .punish_silence(&mut market, 1, evidence.subject(), validator(1), now)
                .expect("it said nothing");
        }
        assert_eq!(world.stake(Role::Provider, provider_key().address()), STAKE);
        assert_eq!(world.stake(Role::Router, name("router")), STAKE);
        for n in 0..3 {
            let expected = if n == 1 { STAKE * 95 / 100 } else { STAKE };
            assert_eq!(world.stake(Role::Validator, validator(n)), expected);
        }
        let provider = provider_key().address();
        assert_eq!(world.verdict.record(provider).now(), Standing::default());
    }
}

#[test]
fn who_got_no_leaf_file_is_excused_by_its_verdict_on_the_batch() {
    let mut world = World::new(3, TIMES);
    let posted = receipt(5);
    let place = world.post(std::slice::from_ref(&posted), Digest::ZERO);
    let evidence = signed(posted, place[0].clone(), world.draw());
    let batch = hash::batch_subject(name("router"), evidence.place.post());
    let mut ballots = vec![Some(ballot_of(evidence.subject(), GOOD)); 3];
    ballots[1] = Some(ballot_of(batch, Some(Outcome::Withheld)));
    world.cast(evidence.round, &ballots);
    let votes = world.votes(evidence.round, evidence.subject(), &ballots);
    assert_eq!(votes.len(), 2);
    world.rule(&evidence, &votes).expect("rules");
    let ballot = ballots[1].as_ref().expect("has one");
    let excuse = Vote {
        validator: validator(1),
        verdict: ballot.get(&batch).expect("says it"),
        proof: ballot.proof(&batch).expect("says it"),
    };
    world.pass(600);
    let now = world.now;
    let (verdict, mut market) = world.parts();
    let subject = evidence.subject();
    verdict
        .show(&mut market, 1, subject, &excuse, true, now)
        .expect("is an excuse");
    let silent = verdict.punish_silence(&mut market, 1, subject, validator(1), now);
    let who = validator(1);
    assert_eq!(silent, Err(VerdictError::AlreadySeen { who }));
    assert_eq!(world.stake(Role::Validator, who), STAKE);
}

#[test]
fn missed_duties_cost_one_percent_and_the_seat() {
    let mut world = World::new(3, TIMES);
    world.post(&[receipt(1)], Digest::ZERO);
    world.pass(1);
    let block = world.block();
    world
        .rounds
        .open(&world.stakes, &world.vault, block)
        .expect("opens");
    world.pass(1);
    let in_time = world.block();
    world.pass(9);
    let block = world.block();
    for (n, block) in [(0, in_time), (1, block)] {
        let preimage = *world.chains[n].last().expect("has links");
        let revealed = world
            .rounds
            .reveal(validator(n), preimage, keccak256("block"), block);
        let at = block.now;
        let late = Err(RoundsError::WrongTime { at });
        assert_eq!(revealed, if n == 0 { Ok(false) } else { late });
    }
    world
        .rounds
        .draw(keccak256("block"), block)
        .expect("the time is up");
    assert_eq!(world.rounds.validators(), [validator(0)]);
    let now = world.now;
    let (verdict, mut market) = world.parts();
    verdict
        .punish_reveal(&mut market, 1, validator(2), now)
        .expect("missed it");
    let again = verdict.punish_reveal(&mut market, 1, validator(2), now);
    assert!(matches!(again, Err(VerdictError::Stake(_))));
    assert_eq!(world.stake(Role::Validator, validator(2)), STAKE * 99 / 100);
    assert!(!world.rounds.validators().contains(&validator(2)));
}

#[test]
fn a_router_pays_for_overcharge_and_double_posts() {
    let mut world = World::new(3, TIMES);
    let mut dear = receipt(1);
    dear.charge = TokenAmount::from_units(8);
    assert_eq!(most_charge(&dear), 7);
    let mut other = receipt(2);
    let twin = other.clone();
    other.attempt = 1;
    let places = world.post(&[dear.clone(), other.clone(), twin.clone()], Digest::ZERO);
    let round = world.draw();
    let now = world.now;
    let dear = signed(dear, places[0].clone(), round);
    let other = signed(other, places[1].clone(), round);
    let twin = signed(twin, places[2].clone(), round);
    let (verdict, mut market) = world.parts();
    let fair = verdict.prove_overcharge(&mut market, &other, now);
    assert!(matches!(fair, Err(VerdictError::NotOvercharged { .. })));
    let same = verdict.prove_double_post(&mut market, &twin, &twin, now);
    assert_eq!(same, Err(VerdictError::NotDouble));
    let two_jobs = verdict.prove_double_post(&mut market, &twin, &dear, now);
    assert_eq!(two_jobs, Err(VerdictError::NotDouble));
    verdict
        .prove_double_post(&mut market, &twin, &other, now)
        .expect("two leaves");
    assert_eq!(world.stake(Role::Router, name("router")), 0);
    let (verdict, mut market) = world.parts();
    verdict
        .prove_overcharge(&mut market, &dear, now)
        .expect("8 for 7");
    world.stakes.check_conservation().expect("holds");
}

#[test]
fn one_leaf_at_two_positions_of_a_post_is_a_double_and_at_one_it_is_not() {
    // Which of the leaves are the same: beside each other, in other branches, in branches of other heights, a whole branch.
    for jobs in [
        vec![1, 1],
        vec![1, 2, 3, 1, 4],
        vec![1, 2, 3, 4, 1],
        vec![1, 2, 1, 2],
    ] {
        let mut world = World::new(3, TIMES);
        let receipts: Vec<_> = jobs.iter().map(|job| receipt(*job)).collect();
        let places = world.post(&receipts, Digest::ZERO);
        let round = world.draw();
        let now = world.now;
        let last = jobs.iter().rposition(|job| *job == 1).expect("twice");
        let evidence = |at: usize| signed(receipt(jobs[at]), places[at].clone(), round);
        let (first, second, single) = (evidence(0), evidence(last), evidence(last - 1));
        let (verdict, mut market) = world.parts();
        if jobs[last - 1] == 3 {
            let once = verdict.prove_double_post(&mut market, &single, &single, now);
            assert_eq!(once, Err(VerdictError::NotDouble));
        }
        verdict
            .prove_double_post(&mut market, &first, &second, now)
            .unwrap_or_else(|error| panic!("{jobs:?}: {error}"));
        assert_eq!(world.stake(Role::Router, name("router")), 0);
    }
}

#[test]
fn a_validator_joins_with_its_own_public_key_and_routers_read_it() {
    let mut world = World::new(3, TIMES);
    let who = validator(0);
    let own = validator_key(0).public_key().point();
    assert_eq!(world.rounds.validator_keys()[0], (who, own));
    world.rounds.quit(who).expect("sits");
    assert_eq!(world.rounds.validator_keys().len(), 2);
    let tip = keccak256("tip");
    let other = validator_key(1).public_key().point();
    for key in [other, (own.1, own.0), (Digest::ZERO, Digest::ZERO)] {
        let refused = world.rounds.join(&world.stakes, who, tip, key);
        assert_eq!(refused, Err(RoundsError::WrongKey { who }));
    }
    world
        .rounds
        .join(&world.stakes, who, tip, own)
        .expect("its own");
    assert_eq!(world.rounds.validator_keys()[2], (who, own));
}

#[test]
fn a_long_round_is_walked_from_the_nearest_checkpoint() {
    let mut world = World::new(3, TIMES);
    for job in 0..130 {
        world.post(&[receipt(job)], Digest::ZERO);
    }
    let round = world.draw();
    let walk = |from: usize, to: usize, at: usize| Place {
        router: name("router"),
        from: from as u64,
        posts: world.posts[from..to].to_vec(),
        at,
        proof: Vec::new(),
    };
    let check = |place: &Place, job: u64| {
        place.check(
            &world.rounds,
            &world.vault,
            round,
            receipt_leaf(&receipt(job)),
        )
    };
    assert_eq!(check(&walk(64, 128, 6), 70), Ok(()));
    assert_eq!(check(&walk(128, 130, 1), 129), Ok(()));
    assert!(check(&walk(64, 128, 7), 70).is_err());
    assert!(check(&walk(0, 130, 70), 70).is_err(), "longer than 64");
    assert!(check(&walk(65, 128, 5), 70).is_err(), "no head at 65");
    assert!(check(&walk(64, 127, 6), 70).is_err(), "no head at 127");
}

#[test]
fn a_standing_is_the_one_when_the_round_opened() {
    let mut record = Record::default();
    assert_eq!(record.at(3), Standing::default());
    record = record.after(Mark::Good, 3).after(Mark::Bad, 3);
    let third = record.now();
    record = record.after(Mark::Fraud, 7);
    assert_eq!(record.at(2), Standing::default());
    assert_eq!(record.at(3), Standing::default());
    assert_eq!((record.at(4), record.at(7)), (third, third));
    assert_eq!(record.at(8), record.now());
    let up = START + (FULL - START) / 64;
    assert_eq!(third.reputation, up - up / 8);
    assert_eq!(third.verified, 2);
    assert_eq!(record.now().reputation, 0);
}

/// Posts a batch with a payout root, and has it ruled on by these votes.
fn ruled_sums(world: &mut World, job: u64, says: [Outcome; 3]) -> Vec<VerdictEvent> {
    ruled_root(world, job, keccak256(job.to_be_bytes()), says)
}

fn ruled_root(
    world: &mut World,
    job: u64,
    pay_root: Digest,
    says: [Outcome; 3],
) -> Vec<VerdictEvent> {
    world.post(&[receipt(job)], pay_root);
    let (round, post) = (world.draw(), world.posts.len() as u64);
    let subject = hash::batch_subject(name("router"), post);
    let ballots: Vec<_> = says
        .map(|outcome| Some(ballot_of(subject, Some(outcome))))
        .into();
    world.cast(round, &ballots);
    let votes = world.votes(round, subject, &ballots);
    let now = world.now;
    let (verdict, mut market) = world.parts();
    let ruled = verdict.rule_batch(&mut market, round, name("router"), post, &votes, now);
    let ruled = ruled.expect("rules");
    assert!(world.vault.totals(name("router")).pending.is_none());
    ruled
}

#[test]
fn a_root_that_is_right_but_for_what_was_reversed_under_way_is_cancelled_and_costs_nothing() {
    let mut world = World::new(3, TIMES);
    let (evidence, ballots) = world.judged(&[WRONG; 3]);
    let votes = world.votes(evidence.round, evidence.subject(), &ballots);
    world.rule(&evidence, &votes).expect("rules");
    let events = ruled_sums(&mut world, 8, [Outcome::Void; 3]);
    assert!(
        matches!(events[..], [VerdictEvent::Ruled { .. }]),
        "{events:?}"
    );
    assert_eq!(world.stake(Role::Router, name("router")), STAKE);
    // A root that is wrong in another way costs all, also right after a reversal.
    ruled_sums(&mut world, 9, [Outcome::BadSums; 3]);
    assert_eq!(world.stake(Role::Router, name("router")), 0);
}

#[test]
fn votes_on_a_batch_agree_that_its_root_must_not_stand_whatever_files_each_was_given() {
    use Outcome::{BadSums, Good, Unable, Void, Withheld};
    let cases = [
        ([BadSums, Withheld, Good], Some(Withheld)),
        ([BadSums, BadSums, Withheld], Some(BadSums)),
        ([BadSums, Void, Withheld], Some(Withheld)),
        ([Void, Withheld, Unable], Some(Void)),
        ([Void, Withheld, Withheld], Some(Withheld)),
        ([Void, Void, BadSums], Some(Void)),
        ([Void, BadSums, Good], None),
        ([Withheld, Good, Unable], None),
        ([Unable, Unable, Good], None),
    ];
    for (votes, ruled) in cases {
        assert_eq!(Outcome::decided(votes, 2, true), ruled, "{votes:?}");
    }
    // About a job nothing is put together.
    for votes in [[BadSums, Withheld, Good], [Void, Withheld, Unable]] {
        assert_eq!(Outcome::decided(votes, 2, false), None, "{votes:?}");
    }
    let mut world = World::new(3, TIMES);
    let ruled = ruled_sums(&mut world, 8, [BadSums, Withheld, Good]);
    assert!(matches!(
        ruled[..],
        [
            VerdictEvent::Ruled {
                outcome: Withheld,
                ..
            },
            VerdictEvent::Convicted { kind: 3, .. },
            VerdictEvent::Differed { .. },
            VerdictEvent::Differed { .. },
        ]
    ));
}

/// Posts a batch, has the three say this of it, and brings those two and then those.
fn overruled(says: [Outcome; 3], first: [usize; 2], then: [usize; 2]) -> (World, Vec<Outcome>) {
    let mut world = World::new(3, TIMES);
    world.post(&[receipt(8)], keccak256("pay root"));
    let (round, router) = (world.draw(), name("router"));
    let subject = hash::batch_subject(router, 1);
    let ballots: Vec<_> = says
        .map(|outcome| Some(ballot_of(subject, Some(outcome))))
        .into();
    world.cast(round, &ballots);
    let mut ruled = Vec::new();
    for pair in [first, then, first] {
        let of = |n: usize| world.vote(round, subject, ballots[n].as_ref()?, n);
        let votes: Vec<_> = pair.into_iter().filter_map(of).collect();
        let now = world.now;
        let (verdict, mut market) = world.parts();
        match verdict.rule_batch(&mut market, round, router, 1, &votes, now) {
            Ok(_) => ruled.extend(verdict.ruling(round, subject).map(|r| r.outcome)),
            Err(error) => assert_eq!(error, VerdictError::AlreadyRuled { subject }),
        }
    }
    (world, ruled)
}

#[test]
fn whoever_brings_a_ruling_gains_nothing_by_leaving_votes_out() {
    use Outcome::{BadSums, Void, Withheld};
    let left = |world: &World| world.stake(Role::Router, name("router"));
    let (world, ruled) = overruled([Withheld, BadSums, BadSums], [0, 1], [1, 2]);
    assert_eq!((ruled, left(&world)), (vec![Withheld, BadSums], 0));
    let (world, ruled) = overruled([Withheld, BadSums, BadSums], [1, 2], [0, 1]);
    assert_eq!((ruled, left(&world)), (vec![BadSums], 0));
    let (world, ruled) = overruled([Void, Withheld, BadSums], [0, 1], [1, 2]);
    assert_eq!(ruled, [Void, Withheld]);
    assert_eq!(left(&world), STAKE / 100 * 95);
    // Who was right and not counted pays nothing, nor does who could not know.
    for n in 0..3 {
        assert_eq!(world.stake(Role::Validator, validator(n)), STAKE);
    }
}

#[test]
fn a_cancelled_root_that_is_posted_again_is_cancelled_again() {
    let mut world = World::new(3, TIMES);
    for job in 8..11 {
        // Which asks that nothing is pending after the ruling.
        ruled_root(
            &mut world,
            job,
            keccak256("the same"),
            [Outcome::Withheld; 3],
        );
    }
}
