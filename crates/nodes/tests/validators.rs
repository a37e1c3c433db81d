//! One validator against contracts, routers, judges and disks that do anything in any order: what it promises holds all the same.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use stoa_crypto::{
    Domain, MerkleTree, SecretKey, keccak256, receipt_digest, receipt_leaf, ticket_digest,
    token_root,
};
use stoa_ledger::audit::Outcome;
use stoa_ledger::audit::caps::Caps;
use stoa_ledger::audit::hash::{self, kind, link};
use stoa_ledger::audit::panel::Member;
use stoa_ledger::audit::place::Post;
use stoa_ledger::audit::rounds::Phase;
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::sums::{KeptSet, POSTS_MAX, PostedRoot, Reversed};
use stoa_ledger::book::{LeafFile, PayoutSet};
use stoa_ledger::roots::pay_root;
use stoa_nodes::audit::KeptWork;
use stoa_nodes::receipts::{Facts, expected_receipt};
use stoa_nodes::validator::*;
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_types::*;
use stoa_verify::Content;
use stoa_verify::judge::{Answered, Finding, NotJudged};

const START: u64 = 1_790_000_000_000;
const ENDS: Timestamp = Timestamp(START + 40_000);
const JOBS: usize = 4;

fn key(label: &str) -> SecretKey {
    SecretKey::for_tests(label)
}

fn domain() -> Domain {
    Domain {
        chain_id: 31_337,
        vault: key("vault").address(),
    }
}

fn config() -> ValidatorConfig {
    ValidatorConfig {
        key: key("validator 0"),
        domain: domain(),
        sampling: Sampling {
            most: Bps::new(1_000).expect("valid"),
            least: Bps::new(500).expect("valid"),
            first_jobs: 20,
        },
        chain_length: 200,
        margin: Millis::from_secs(5),
        settling: Millis(0),
    }
}

fn work(n: usize) -> Work {
    Work {
        prompt: Prompt::Text(format!("question {n}")),
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 1,
            max_output_tokens: 4,
            stop: Vec::new(),
            ..SamplingParameters::default()
        },
        answer: AnswerShape::Any,
    }
}

fn ticket(n: usize) -> SignedTicket {
    let price = Price::per_million(TokenAmount::from_units(1_000_000));
    let ticket = Ticket {
        job_id: JobId(keccak256(format!("job {n}")).0),
        account: key("developer").address(),
        router: key("router").address(),
        provider: key("provider").address(),
        model_root: keccak256("model"),
        parameters_digest: keccak256("parameters"),
        request_digest: keccak256("request"),
        work_digest: work(n).digest(),
        input_price: price,
        output_price: price,
        input_units_max: 10,
        output_units_max: 4,
        reserve: TokenAmount::from_units(20),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: Timestamp(START),
        deadline: Timestamp(START + 1_000),
    };
    let signature = key("router").sign(ticket_digest(&domain(), &ticket));
    SignedTicket { ticket, signature }
}

fn signed(n: usize) -> SignedReceipt {
    let content = Content {
        text: format!("answer {n}"),
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
        input_units: 3,
        output_units: 2,
    };
    let facts = Facts {
        prompt_root: token_root(&[1, 2, 3]),
        runtime_digest: keccak256("iq8"),
        accepted_at: Timestamp(START),
        delivered_at: Timestamp(START + 1),
    };
    let ticket = ticket(n).ticket;
    let receipt = expected_receipt(&domain(), Digest::ZERO, &ticket, &content, &[4, 5], facts);
    let receipt = receipt.expect("fits");
    let digest = receipt_digest(&receipt);
    SignedReceipt {
        provider_signature: key("provider").sign(digest),
        router_signature: key("router").sign(digest),
        receipt,
    }
}

/// The same, changed before both signed it.
fn signed_as(n: usize, change: impl Fn(&mut Receipt)) -> SignedReceipt {
    let mut receipt = signed(n).receipt;
    change(&mut receipt);
    let digest = receipt_digest(&receipt);
    SignedReceipt {
        provider_signature: key("provider").sign(digest),
        router_signature: key("router").sign(digest),
        receipt,
    }
}

fn subject(receipt: &Receipt) -> Digest {
    hash::job_subject(key("router").address(), receipt_leaf(receipt))
}

fn file(receipts: &[SignedReceipt]) -> LeafFile {
    LeafFile {
        router: key("router").address(),
        index: 1,
        first: 0,
        leaves: receipts.iter().map(|signed| (signed.clone(), 1)).collect(),
        payout: None,
    }
}

fn post(file: &LeafFile) -> Post {
    let leaves = file
        .leaves
        .iter()
        .map(|(signed, _)| receipt_leaf(&signed.receipt));
    let leaves: Vec<_> = leaves.collect();
    Post {
        job_root: MerkleTree::new(leaves.clone()).root(),
        job_count: u32::try_from(leaves.len()).expect("few"),
        content_id: file.content_id(),
    }
}

fn members() -> Vec<Member> {
    let member = |n| Member {
        validator: key(&format!("validator {n}")).address(),
        weight: 5,
    };
    (0..3).map(member).collect()
}

/// Round 1, which covers one post; everybody sits on every panel.
fn round(phase: Phase, post: Post) -> RoundView {
    RoundView {
        number: 1,
        phase,
        ends: ENDS,
        committee: members(),
        beacon: keccak256("beacon"),
        revealed: members().iter().map(|member| member.validator).collect(),
        committed: BTreeMap::new(),
        shown: BTreeSet::new(),
        votes_needed: 2,
        covers: vec![Covered {
            router: key("router").address(),
            before: 0,
            posts: vec![post],
            posted_at: vec![Timestamp(START)],
            roots: Vec::new(),
            earlier: Vec::new(),
            reversed: Vec::new(),
            caps: Caps::default(),
        }],
        standings: BTreeMap::new(),
        rulings: BTreeMap::new(),
    }
}

fn view(round: RoundView) -> Input {
    Input::Chain(Box::new(ChainView {
        seated: true,
        tip: Validator::recover(config(), []).first_tip(),
        openable: false,
        rounds: vec![round],
        convicted: Default::default(),
        joined: BTreeMap::new(),
    }))
}

fn kept(n: usize) -> KeptWork {
    let keys: Vec<_> = (0..3)
        .map(|n| key(&format!("validator {n}")).public_key())
        .collect();
    let bytes = work(n).canonical_bytes();
    KeptWork::seal(&domain(), ticket(n), &bytes, &keys, [n as u8 + 1; 32]).expect("seals")
}

fn good() -> Finding {
    Finding {
        answered: Answered::Good,
        digest: keccak256("recomputed"),
    }
}

/// A validator with its disk and what the contract took from it.
struct World {
    validator: Validator,
    now: Timestamp,
    view: RoundView,
    file: LeafFile,
    /// Written, not yet said to be durable.
    unsynced: Vec<Voted>,
    disk: Vec<Voted>,
    wanted: BTreeSet<Digest>,
    judging: BTreeSet<Digest>,
    outputs: Vec<Output>,
}

impl World {
    fn new(receipts: &[SignedReceipt]) -> Self {
        let file = file(receipts);
        let mut world = Self {
            validator: Validator::recover(config(), []),
            now: Timestamp(START),
            view: round(Phase::Ballot, post(&file)),
            file,
            unsynced: Vec::new(),
            disk: Vec::new(),
            wanted: BTreeSet::new(),
            judging: BTreeSet::new(),
            outputs: Vec::new(),
        };
        world.look();
        world
    }

    fn look(&mut self) {
        self.input(view(self.view.clone()));
    }

    fn input(&mut self, input: Input) {
        for output in self.validator.handle(input, self.now) {
            self.outputs.push(output.clone());
            let me = self.validator.account();
            match output {
                Output::FetchWork {
                    subject, request, ..
                } => {
                    assert!(request.is_signed_for(key("router").address()));
                    assert!(!request.is_signed_for(key("provider").address()));
                    self.wanted.insert(subject);
                }
                Output::Judge { subject, case, .. } => {
                    assert!(Work::from_canonical_bytes(&case.work).is_some());
                    self.judging.insert(subject);
                }
                Output::Keep(voted) => self.unsynced.push(voted),
                Output::Commit { round, commitment } => {
                    assert_eq!(round, 1);
                    assert!(
                        self.disk.iter().any(|voted| voted.round == round),
                        "sent before it was durable"
                    );
                    let before = self.view.committed.insert(me, commitment);
                    assert!(
                        before.is_none_or(|before| before == commitment),
                        "two ballots"
                    );
                }
                Output::Unseal { round, root, salt } => {
                    let opened = hash::commitment(round, me, root, salt);
                    // Asked for again until it is seen on the chain.
                    let expected = if self.view.shown.contains(&me) {
                        root
                    } else {
                        opened
                    };
                    assert_eq!(
                        self.view.committed.get(&me),
                        Some(&expected),
                        "another ballot is shown"
                    );
                    self.view.committed.insert(me, root);
                    self.view.shown.insert(me);
                }
                _ => {}
            }
        }
    }

    /// The disk says that what was written is durable.
    fn sync(&mut self) {
        for voted in std::mem::take(&mut self.unsynced) {
            self.disk.push(voted);
            self.input(Input::Durable { round: 1 });
        }
    }

    /// The process ends and comes back with its disk.
    fn crash(&mut self, lose: bool) {
        let written = std::mem::take(&mut self.unsynced);
        if !lose {
            self.disk.extend(written);
        }
        self.wanted.clear();
        self.judging.clear();
        self.validator = Validator::recover(config(), self.disk.clone());
        self.look();
    }

    fn leaves(&mut self) {
        let bytes = self.file.encode();
        let (router, post) = (key("router").address(), 1);
        self.input(Input::Leaves {
            router,
            post,
            bytes,
        });
    }

    fn work(&mut self, n: usize) {
        let subject = subject(&signed(n).receipt);
        let kept = Box::new(kept(n));
        self.input(Input::Work {
            round: 1,
            subject,
            kept,
        });
    }

    fn found(&mut self, n: usize, result: Result<Finding, NotJudged>) {
        let subject = subject(&signed(n).receipt);
        self.input(Input::Found {
            round: 1,
            subject,
            result,
        });
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.plus(Millis(ms));
        self.input(Input::Tick);
    }

    fn phase(&mut self, phase: Phase) {
        self.view.phase = phase;
        self.look();
    }

    fn outcomes(&self) -> Vec<Outcome> {
        let verdicts = self.disk.first().map(|voted| &voted.verdicts);
        let of = |n: usize| {
            let about = subject(&signed(n).receipt);
            let mut found = verdicts.into_iter().flatten();
            found
                .find(|(of, ..)| *of == about)
                .map(|(_, outcome, _)| *outcome)
        };
        (0..JOBS).filter_map(of).collect()
    }
}

fn jobs() -> Vec<SignedReceipt> {
    (0..JOBS).map(signed).collect()
}

/// Everything that can happen to it, in any order.
#[derive(Debug, Clone)]
enum Step {
    Leaves,
    Work(usize),
    Found(usize, u8),
    Sync,
    Crash(bool),
    Pass(u64),
    Phase,
    Look,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Leaves),
        6 => (0..JOBS).prop_map(Step::Work),
        6 => (0..JOBS, 0u8..4).prop_map(|(n, what)| Step::Found(n, what)),
        3 => Just(Step::Sync),
        3 => any::<bool>().prop_map(Step::Crash),
        3 => (0u64..9_000).prop_map(Step::Pass),
        1 => Just(Step::Phase),
        2 => Just(Step::Look),
    ]
}

fn result(what: u8) -> Result<Finding, NotJudged> {
    let answered = match what {
        0 => Answered::Good,
        1 => Answered::WrongOutput,
        2 => Answered::WrongCount,
        _ => return Err(NotJudged::Failed("out of memory".to_owned())),
    };
    Ok(Finding { answered, ..good() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_happens_and_whenever_it_crashes_there_is_one_ballot_and_it_is_durable_first(steps in prop::collection::vec(any_step(), 0..60)) {
        let mut world = World::new(&jobs());
        let mut phases = [Phase::Unseal, Phase::Plants, Phase::Rulings].into_iter();
        for step in steps {
            match step {
                Step::Leaves => world.leaves(),
                Step::Work(n) => world.work(n),
                Step::Found(n, what) => world.found(n, result(what)),
                Step::Sync => world.sync(),
                Step::Crash(lose) => world.crash(lose),
                Step::Pass(ms) => world.pass(ms),
                Step::Phase => if let Some(phase) = phases.next() { world.phase(phase) },
                Step::Look => world.look(),
            }
            prop_assert!(world.disk.iter().all(|voted| *voted == world.disk[0]), "two ballots on disk");
        }
    }
}

#[test]
fn a_round_goes_through_though_it_crashes_after_every_single_step() {
    let mut world = World::new(&jobs());
    for again in 0..40 {
        // Whatever was in memory is gone; what the disk has stays.
        world.crash(false);
        world.leaves();
        for n in 0..JOBS {
            world.work(n);
            world.found(n, Ok(good()));
            if again == n {
                world.crash(true);
                world.leaves();
            }
        }
        world.sync();
        if again == 20 {
            world.phase(Phase::Unseal);
        }
        world.pass(500);
    }
    assert!(world.view.shown.contains(&world.validator.account()));
    assert_eq!(world.outcomes(), [Outcome::Good; JOBS]);
    assert_eq!(world.disk.len(), 1);
}

#[test]
fn it_commits_as_soon_as_all_is_found_and_not_before() {
    let mut world = World::new(&jobs());
    world.leaves();
    assert_eq!(world.wanted.len(), JOBS);
    for n in 0..JOBS {
        assert!(world.unsynced.is_empty());
        world.work(n);
        world.found(n, Ok(good()));
    }
    assert_eq!(world.unsynced.len(), 1);
    assert!(world.view.committed.is_empty(), "it is not durable yet");
    world.sync();
    assert!(
        world
            .view
            .committed
            .contains_key(&world.validator.account())
    );
    assert_eq!(world.validator.busy(), 0);
}

#[test]
fn what_a_router_does_not_give_is_withheld_at_the_last_call_and_what_no_judge_found_cannot_be_said()
{
    let mut world = World::new(&jobs());
    world.leaves();
    world.work(0);
    world.found(0, Ok(good()));
    world.work(1);
    // Other work than was ordered, and a seal that does not open, are as good as none.
    let mut other = kept(2);
    other.sealed[60] ^= 1;
    let subject = subject(&signed(2).receipt);
    let mut input = |kept| {
        world.input(Input::Work {
            round: 1,
            subject,
            kept: Box::new(kept),
        })
    };
    input(other);
    let keys = [key("validator 0").public_key()];
    let bytes = work(3).canonical_bytes();
    input(KeptWork::seal(&domain(), ticket(2), &bytes, &keys, [9; 32]).expect("seals"));
    assert_eq!(world.judging.len(), 2);
    world.pass(34_000);
    assert!(world.unsynced.is_empty());
    world.pass(1_000);
    assert!(world.unsynced.is_empty(), "a judge is at work");
    world.pass(2_500);
    world.sync();
    let unable = Outcome::Unable;
    let (good, withheld) = (Outcome::Good, Outcome::Withheld);
    assert_eq!(world.outcomes(), [good, unable, withheld, withheld]);
}

#[test]
fn a_leaf_file_that_does_not_come_or_is_another_one_is_withheld_as_a_whole() {
    let mut world = World::new(&jobs());
    let mut other = file(&jobs()[1..]);
    let (router, post) = (key("router").address(), 1);
    for bytes in [other.encode(), b"nothing".to_vec()] {
        world.input(Input::Leaves {
            router,
            post,
            bytes,
        });
    }
    other.leaves = file(&jobs()).leaves;
    world.pass(36_000);
    world.sync();
    let batch = hash::batch_subject(router, 1);
    let expected = [(batch, Outcome::Withheld, Digest::ZERO)];
    assert_eq!(world.disk[0].verdicts, expected);
}

#[test]
fn a_receipt_that_was_never_agreed_is_forged() {
    let mut forged = signed(0);
    forged.receipt.output_units = 1;
    let mut world = World::new(&[forged.clone()]);
    world.leaves();
    let about = subject(&forged.receipt);
    let kept = Box::new(kept(0));
    world.input(Input::Work {
        round: 1,
        subject: about,
        kept,
    });
    world.sync();
    assert_eq!(
        world.disk[0].verdicts,
        [(about, Outcome::Forged, Digest::ZERO)]
    );
}

#[test]
fn nobody_is_asked_about_answers_that_cannot_be_recomputed() {
    let float = signed_as(0, |receipt| receipt.tier = Tier::None);
    let mut world = World::new(&[float]);
    world.leaves();
    world.sync();
    assert!(world.wanted.is_empty());
    assert_eq!(world.disk[0].verdicts, []);
}

#[test]
fn a_ballot_lost_with_the_disk_is_not_made_again() {
    let mut world = World::new(&jobs());
    world
        .view
        .committed
        .insert(world.validator.account(), Digest([1; 32]));
    world.look();
    world.leaves();
    world.pass(36_000);
    assert!(world.unsynced.is_empty());
    let told = |output: &Output| matches!(output, Output::Warn(text) if text.contains("lost with the disk"));
    assert!(world.outputs.iter().any(told));
}

#[test]
fn a_ruling_is_brought_with_the_votes_of_all_who_showed_and_own_ballots_stay_secret_until_then() {
    let mut world = World::new(&jobs());
    world.leaves();
    for n in 0..JOBS {
        world.work(n);
        world.found(n, Ok(good()));
    }
    world.sync();
    assert_eq!(world.validator.shown_ballot(1), None, "they could copy it");
    world.phase(Phase::Unseal);
    world.look();
    assert_eq!(world.validator.shown_ballot(1), world.disk.first());
    let peer = members()[1].validator;
    let mut other = world.disk[0].clone();
    other.verdicts[0].1 = Outcome::WrongOutput;
    world.view.committed.insert(peer, other.ballot().root());
    world.view.shown.insert(peer);
    world.outputs.clear();
    world.phase(Phase::Rulings);
    let missed = |output: &Output| matches!(output, Output::Bring(claim) if matches!(&**claim, Claim::Missed { kind: kind::MISSED_BALLOT, validator, .. } if *validator == members()[2].validator));
    assert!(world.outputs.iter().any(missed));
    let mut copied = other.clone();
    copied.verdicts.pop();
    for voted in [copied, other.clone()] {
        world.input(Input::Ballot {
            validator: peer,
            voted,
        });
    }
    let rules = world.outputs.iter().filter_map(|output| match output {
        Output::Bring(claim) => match &**claim {
            Claim::Rule { evidence, votes } => Some((evidence.subject(), votes.len())),
            _ => None,
        },
        _ => None,
    });
    let ruled: BTreeMap<_, _> = rules.collect();
    assert_eq!(ruled.len(), JOBS - 1, "on one job the two differ");
    assert!(ruled.values().all(|votes| *votes == 2));
    assert!(!ruled.contains_key(&other.verdicts[0].0));
}

#[test]
fn charges_that_are_too_high_and_jobs_posted_twice_are_brought_by_whoever_sees_them() {
    let mut dear = signed(0);
    dear.receipt.charge = TokenAmount::from_units(6);
    let mut again = signed(1);
    again.receipt.delivered_at = Timestamp(START + 2);
    let twice = [dear.clone(), signed(1), again, signed(2), signed(2)];
    let mut world = World::new(&twice);
    world.phase(Phase::Rulings);
    world.leaves();
    let claims = world.outputs.iter().filter_map(|output| match output {
        Output::Bring(claim) => Some(&**claim),
        _ => None,
    });
    let (mut over, mut double) = (0, 0);
    for claim in claims {
        match claim {
            Claim::Overcharge(evidence) => {
                assert_eq!(evidence.receipt, dear.receipt);
                over += 1;
            }
            Claim::DoublePost(first, second) => {
                assert_eq!(first.receipt.job_id, second.receipt.job_id);
                assert_ne!(first.place.proof, second.place.proof);
                double += 1;
            }
            _ => {}
        }
    }
    assert_eq!(
        (over, double),
        (1, 2),
        "one leaf at two positions is a double"
    );
}

#[test]
fn preimages_follow_from_the_key_and_the_next_chain_is_published_before_this_one_ends() {
    let mut validator = Validator::recover(config(), []);
    let mut tip = validator.first_tip();
    let mut renewed = false;
    for number in 1..=300u64 {
        let mut round = round(Phase::Reveal, post(&file(&jobs())));
        round.number = number;
        round.revealed.clear();
        let seen = |rounds| {
            Input::Chain(Box::new(ChainView {
                seated: true,
                tip,
                openable: false,
                convicted: Default::default(),
                joined: BTreeMap::new(),
                rounds,
            }))
        };
        let now = Timestamp(START + number);
        let outputs = validator.handle(seen(vec![round]), now);
        let [Output::Reveal { preimage }] = outputs[..] else {
            panic!("{outputs:?}");
        };
        assert_eq!(link(preimage), tip);
        tip = preimage;
        if number % 7 == 0 {
            validator = Validator::recover(config(), []);
        }
        let seen = Input::Chain(Box::new(ChainView {
            seated: true,
            tip,
            openable: false,
            convicted: Default::default(),
            joined: BTreeMap::new(),
            rounds: Vec::new(),
        }));
        for output in validator.handle(seen, now.plus(Millis(500_000 * number))) {
            if let Output::Renew { tip: next } = output {
                tip = next;
                renewed = true;
            }
        }
    }
    assert!(renewed, "300 reveals need a second chain of 200");
    let other = ValidatorConfig {
        key: key("validator 1"),
        ..config()
    };
    assert_ne!(
        Validator::recover(other, []).first_tip(),
        Validator::recover(config(), []).first_tip()
    );
}

#[test]
fn a_receipt_that_no_provider_signed_is_forged_though_its_router_keeps_the_work_back() {
    for tier in [Tier::Exact, Tier::None] {
        let mut forged = signed_as(0, |receipt| receipt.tier = tier);
        forged.provider_signature = key("router").sign(receipt_digest(&forged.receipt));
        let foreign = signed_as(1, |receipt| receipt.chain_id += 1);
        let mut world = World::new(&[forged.clone(), foreign.clone()]);
        world.leaves();
        world.sync();
        assert!(world.wanted.is_empty(), "no work is needed to see it");
        let mut expected: Vec<_> = [forged, foreign]
            .iter()
            .map(|signed| (subject(&signed.receipt), Outcome::Forged, Digest::ZERO))
            .collect();
        expected.sort_by_key(|(subject, ..)| *subject);
        assert_eq!(world.disk[0].verdicts, expected);
    }
}

/// A round after its ballots: this validator found all jobs good, or lacks the leaf file, and both others showed `peers`.
fn after_ballots(has_leaves: bool, peers: [Voted; 2]) -> World {
    let mut world = before_others_come(has_leaves, &peers);
    for (member, voted) in members()[1..].iter().zip(peers) {
        let validator = member.validator;
        world.input(Input::Ballot { validator, voted });
    }
    world
}

/// The same before it got the ballots of the others.
fn before_others_come(has_leaves: bool, peers: &[Voted; 2]) -> World {
    let mut world = World::new(&jobs());
    if has_leaves {
        world.leaves();
        for n in 0..JOBS {
            world.work(n);
            world.found(n, Ok(good()));
        }
    }
    world.pass(38_000);
    world.sync();
    world.phase(Phase::Unseal);
    world.look();
    for (member, voted) in members()[1..].iter().zip(peers) {
        world
            .view
            .committed
            .insert(member.validator, voted.ballot().root());
        world.view.shown.insert(member.validator);
    }
    world.phase(Phase::Rulings);
    world
}

/// What the others show: every job good, or nothing but that the leaf file could not be had.
fn good_ballot() -> Voted {
    let mut verdicts: Vec<_> = (0..JOBS)
        .map(|n| (subject(&signed(n).receipt), Outcome::Good, good().digest))
        .collect();
    verdicts.sort_by_key(|(subject, ..)| *subject);
    Voted { round: 1, verdicts }
}

fn lacking_ballot() -> Voted {
    let batch = hash::batch_subject(key("router").address(), 1);
    Voted {
        round: 1,
        verdicts: vec![(batch, Outcome::Withheld, Digest::ZERO)],
    }
}

#[test]
fn two_who_found_the_sums_wrong_are_brought_against_a_ruling_that_was_only_added_up() {
    let (router, mut bad) = (key("router").address(), lacking_ballot());
    bad.verdicts[0].1 = Outcome::BadSums;
    let batch = hash::batch_subject(router, 1);
    for (outcome, combined, overruled) in [
        (Outcome::Void, true, true),
        (Outcome::Withheld, true, true),
        // The contract would refuse it.
        (Outcome::Withheld, false, false),
        (Outcome::BadSums, false, false),
    ] {
        let mut world = after_ballots(false, [bad.clone(), bad.clone()]);
        let ruling = RulingView {
            outcome,
            seen: members().iter().map(|m| m.validator).collect(),
            combined,
            answer_until: world.now.plus(Millis::from_secs(600)),
        };
        world.view.rulings.insert(batch, ruling);
        world.look();
        world.outputs.clear();
        world.pass(60_000);
        let brought = world.outputs.iter().any(|output| match output {
            Output::Bring(claim) => {
                matches!(&**claim, Claim::RuleBatch { votes, .. } if votes.len() == 3)
            }
            _ => false,
        });
        assert_eq!(brought, overruled, "{outcome:?}, {combined}");
    }
}

#[test]
fn a_ruling_on_a_batch_on_which_two_agreed_is_not_looked_at_until_all_ballots_are_here() {
    let batch = hash::batch_subject(key("router").address(), 1);
    for (outcome, combined) in [
        (Outcome::Withheld, false),
        (Outcome::Void, false),
        (Outcome::Withheld, true),
        (Outcome::Void, true),
    ] {
        let peers = [lacking_ballot(), lacking_ballot()];
        let mut world = before_others_come(false, &peers);
        // The file came after the ballot.
        world.leaves();
        let ruling = RulingView {
            outcome,
            seen: members().iter().map(|m| m.validator).collect(),
            combined,
            answer_until: world.now.plus(Millis::from_secs(600)),
        };
        world.view.rulings.insert(batch, ruling);
        world.look();
        world.outputs.clear();
        world.pass(600_000);
        let asks = |output: &&Output| matches!(output, Output::FetchBallot { .. });
        let asked = world.outputs.iter().filter(asks).count();
        assert_eq!(asked > 0, combined, "{outcome:?}, {combined}: {asked}");
    }
}

/// All jobs are ruled good by the votes of `seen`; answers are taken for another 600 s.
fn ruled_good(world: &mut World, seen: &[usize]) {
    for n in 0..JOBS {
        let ruling = RulingView {
            outcome: Outcome::Good,
            seen: seen.iter().map(|n| members()[*n].validator).collect(),
            combined: false,
            answer_until: world.now.plus(Millis::from_secs(600)),
        };
        let about = subject(&signed(n).receipt);
        world.view.rulings.insert(about, ruling);
    }
    world.outputs.clear();
    world.look();
}

/// Who was shown, excused, or accused of silence, with the number of times.
fn claims(world: &World) -> BTreeMap<(&'static str, usize), usize> {
    let place = |who: &Address| members().iter().position(|m| m.validator == *who);
    let mut counts = BTreeMap::new();
    for output in &world.outputs {
        let Output::Bring(claim) = output else {
            continue;
        };
        let (what, who) = match &**claim {
            Claim::Show { vote, excuse, .. } => {
                (if *excuse { "excused" } else { "shown" }, vote.validator)
            }
            Claim::Silence { validator, .. } => ("silent", *validator),
            _ => continue,
        };
        *counts
            .entry((what, place(&who).expect("a member")))
            .or_default() += 1;
    }
    counts
}

#[test]
fn a_router_that_serves_the_others_and_not_it_costs_it_nothing() {
    let mut world = after_ballots(false, [good_ballot(), good_ballot()]);
    ruled_good(&mut world, &[1, 2]);
    assert_eq!(claims(&world), BTreeMap::from([(("excused", 0), JOBS)]));
    for output in &world.outputs {
        if let Output::Bring(claim) = output
            && let Claim::Show { vote, .. } = &**claim
        {
            let batch = hash::batch_subject(key("router").address(), 1);
            let root = stoa_ledger::audit::ballot::root_from(batch, vote.verdict, &vote.proof);
            assert_eq!(root, world.disk[0].ballot().root());
        }
    }
}

#[test]
fn who_is_away_when_its_answer_is_due_is_answered_for_by_the_others() {
    let mut world = after_ballots(true, [good_ballot(), lacking_ballot()]);
    ruled_good(&mut world, &[0]);
    assert_eq!(
        claims(&world),
        BTreeMap::new(),
        "they have time to come themselves"
    );
    world.pass(596_000);
    let expected = BTreeMap::from([(("excused", 2), JOBS), (("shown", 1), JOBS)]);
    assert_eq!(claims(&world), expected);
}

#[test]
fn who_says_nothing_about_its_job_is_accused_of_silence_when_the_time_is_over() {
    let mut silent = good_ballot();
    silent.verdicts.remove(0);
    let mut world = after_ballots(true, [good_ballot(), silent]);
    ruled_good(&mut world, &[0, 1]);
    world.pass(599_000);
    let shown = BTreeMap::from([(("shown", 2), JOBS - 1)]);
    assert_eq!(claims(&world), shown);
    world.outputs.clear();
    world.pass(1_500);
    assert_eq!(claims(&world), BTreeMap::from([(("silent", 2), 1)]));
}

#[test]
fn a_ballot_that_is_padded_or_larger_than_its_round_is_not_kept() {
    let (whole, lacking) = (good_ballot(), lacking_ballot());
    let mut twice = whole.clone();
    twice.verdicts.insert(0, whole.verdicts[0]);
    let mut turned = whole.clone();
    turned.verdicts.reverse();
    let mut large = whole.clone();
    for n in 0..9u8 {
        large
            .verdicts
            .push((Digest([n; 32]), Outcome::Good, Digest::ZERO));
    }
    large.verdicts.sort_by_key(|(subject, ..)| *subject);
    for (padded, committed) in [(twice, &whole), (turned, &whole), (large.clone(), &large)] {
        assert_eq!(padded.ballot().root(), committed.ballot().root());
        let mut world = after_ballots(true, [padded, lacking.clone()]);
        world.outputs.clear();
        world.pass(3_000);
        let fetch = Output::FetchBallot {
            round: 1,
            validator: members()[1].validator,
        };
        assert!(world.outputs.contains(&fetch), "it is still asked for");
        let rules = |output: &Output| matches!(output, Output::Bring(claim) if matches!(&**claim, Claim::Rule { .. }));
        assert!(!world.outputs.iter().any(rules));
    }
}

#[test]
fn a_leaf_file_that_comes_late_is_audited_no_less_than_by_those_who_had_it() {
    // Two routers, each with a post of two jobs of one provider, of whose jobs the first three are audited.
    let none = Bps::new(0).expect("valid");
    let sampling = Sampling {
        most: none,
        least: none,
        first_jobs: 3,
    };
    let config = ValidatorConfig {
        sampling,
        ..config()
    };
    let routers = ["router", "another router"].map(|label| key(label).address());
    let files = routers.map(|router| {
        let receipts = [0, 1].map(|n| signed_as(n, |receipt| receipt.router = router));
        LeafFile {
            router,
            ..file(&receipts)
        }
    });
    let mut view = round(Phase::Ballot, post(&files[0]));
    view.covers.push(Covered {
        router: routers[1],
        before: 0,
        posts: vec![post(&files[1])],
        posted_at: Vec::new(),
        roots: Vec::new(),
        earlier: Vec::new(),
        reversed: Vec::new(),
        caps: Caps::default(),
    });
    let asked = |order: [usize; 2]| {
        let mut validator = Validator::recover(config.clone(), []);
        let tip = validator.first_tip();
        let seen = ChainView {
            convicted: Default::default(),
            joined: BTreeMap::new(),
            seated: true,
            tip,
            openable: false,
            rounds: vec![view.clone()],
        };
        validator.handle(Input::Chain(Box::new(seen)), Timestamp(START));
        let come = |at: usize| {
            let leaves = Input::Leaves {
                router: routers[at],
                post: 1,
                bytes: files[at].encode(),
            };
            validator.handle(leaves, Timestamp(START))
        };
        let outputs: Vec<_> = order.into_iter().flat_map(come).collect();
        let wanted = outputs.into_iter().filter_map(|output| match output {
            Output::FetchWork { subject, .. } => Some(subject),
            _ => None,
        });
        wanted.collect::<BTreeSet<_>>()
    };
    let (in_order, turned) = (asked([0, 1]), asked([1, 0]));
    assert_eq!(in_order.len(), 3);
    assert!(turned.is_superset(&in_order), "{turned:?}, {in_order:?}");
}

#[test]
fn one_preimage_is_revealed_in_a_round_whatever_top_is_shown() {
    let mut validator = Validator::recover(config(), []);
    let chain = HashChain::new(&config().key, 0, 200);
    let mut revealed = BTreeSet::new();
    let mut tip = chain.top();
    for second in 0..10 {
        let mut view = round(Phase::Reveal, post(&file(&jobs())));
        view.revealed.clear();
        let rounds = vec![view];
        let seen = ChainView {
            convicted: Default::default(),
            joined: BTreeMap::new(),
            seated: true,
            tip,
            openable: false,
            rounds,
        };
        let now = Timestamp(START + 3_000 * second);
        for output in validator.handle(Input::Chain(Box::new(seen)), now) {
            if let Output::Reveal { preimage } = output {
                revealed.insert(preimage);
            }
        }
        // The chain's server shows the new top beside the old round.
        tip = chain.below(chain.top()).expect("200 links");
    }
    assert_eq!(revealed, BTreeSet::from([tip]));
}

#[test]
fn ballots_of_closed_rounds_are_let_go_and_nothing_is_said_in_those_rounds_again() {
    let mut world = after_ballots(true, [good_ballot(), good_ballot()]);
    let shown = world.view.clone();
    world.view.number = 2;
    world.view.phase = Phase::Reveal;
    world.look();
    world.view = shown;
    world.view.phase = Phase::Ballot;
    world.view.shown.clear();
    world.view.committed.clear();
    world.outputs.clear();
    world.look();
    world.leaves();
    assert_eq!(world.validator.shown_ballot(1), None);
    assert_eq!(world.outputs, [Output::Forget { round: 2 }]);
}

#[test]
fn a_duty_that_nobody_did_is_nobody_s_fault() {
    let missed = |world: &World| {
        let count = |output: &&Output| matches!(output, Output::Bring(claim) if matches!(**claim, Claim::Missed { .. }));
        world.outputs.iter().filter(count).count()
    };
    let mut world = World::new(&jobs());
    world.view.revealed.clear();
    world.phase(Phase::Rulings);
    assert_eq!(missed(&world), 0, "chain or network were away");
    world.view.revealed.insert(members()[1].validator);
    world.view.shown.insert(members()[1].validator);
    world.look();
    assert_eq!(missed(&world), 2, "the third did neither");
}

#[test]
fn work_that_a_router_gives_too_late_to_be_judged_is_withheld() {
    let mut world = World::new(&jobs());
    world.leaves();
    for n in 1..JOBS {
        world.work(n);
        world.found(n, Ok(good()));
    }
    world.pass(6_000);
    world.work(0);
    assert!(world.judging.contains(&subject(&signed(0).receipt)));
    world.pass(30_000);
    assert!(world.unsynced.is_empty(), "its judge has time yet");
    world.pass(2_000);
    world.sync();
    let (good, withheld) = (Outcome::Good, Outcome::Withheld);
    assert_eq!(world.outcomes(), [withheld, good, good, good]);
}

#[test]
fn a_judge_that_failed_is_asked_again_and_the_ballot_waits_for_it() {
    let mut world = World::new(&jobs());
    world.leaves();
    for n in 0..JOBS {
        world.work(n);
        let failed = NotJudged::Failed("out of memory".to_owned());
        world.found(n, if n == 0 { Err(failed) } else { Ok(good()) });
    }
    world.pass(36_000);
    assert!(world.unsynced.is_empty());
    world.work(0);
    world.found(0, Ok(good()));
    world.sync();
    assert_eq!(world.outcomes(), [Outcome::Good; JOBS]);
}

#[test]
fn what_was_ordered_under_older_rules_of_grammars_is_called_unable_and_nobody_is_accused() {
    let mut world = World::new(&jobs());
    world.leaves();
    for n in 0..JOBS {
        world.work(n);
        let older = NotJudged::Rules("stoa.grammar.v0".to_owned());
        world.found(n, if n == 0 { Err(older) } else { Ok(good()) });
    }
    world.sync();
    let (good, unable) = (Outcome::Good, Outcome::Unable);
    assert_eq!(world.outcomes(), [unable, good, good, good]);
}

#[test]
fn who_comes_back_at_the_last_call_asks_before_it_says_that_anything_is_withheld() {
    let mut world = World::new(&jobs());
    world.now = Timestamp(ENDS.0 - 4_900);
    world.crash(true);
    assert!(world.unsynced.is_empty());
    world.leaves();
    world.pass(300);
    for n in 0..JOBS {
        world.work(n);
        world.found(n, Ok(good()));
    }
    world.sync();
    assert_eq!(world.outcomes(), [Outcome::Good; JOBS]);
}

#[test]
fn the_chain_of_preimages_is_found_after_a_restart_however_many_came_before_it() {
    for generation in [1, 63, 64, 500] {
        let chain = HashChain::new(&config().key, generation, 200);
        let mut validator = Validator::recover(config(), []);
        let mut view = round(Phase::Reveal, post(&file(&jobs())));
        view.revealed.clear();
        let seen = ChainView {
            seated: true,
            tip: chain.top(),
            rounds: vec![view],
            ..ChainView::default()
        };
        let outputs = validator.handle(Input::Chain(Box::new(seen)), Timestamp(START));
        let preimage = chain.below(chain.top()).expect("200 links");
        assert_eq!(outputs, [Output::Reveal { preimage }]);
        assert_eq!(validator.tip_to_join(), chain.top());
    }
}

#[test]
fn who_joins_again_publishes_no_top_whose_links_are_known() {
    let chain = HashChain::new(&config().key, 0, 200);
    let mut tip = chain.top();
    for _ in 0..150 {
        tip = chain.below(tip).expect("200 links");
    }
    let mut validator = Validator::recover(config(), []);
    let seen = ChainView {
        tip,
        ..ChainView::default()
    };
    validator.handle(Input::Chain(Box::new(seen)), Timestamp(START));
    let next = HashChain::new(&config().key, 1, 200).top();
    assert_eq!(validator.tip_to_join(), next);
}

/// A file whose payout root pays `pay` units, and the root as it is posted.
fn paying(receipts: &[SignedReceipt], index: u64, pay: u128, base: u64) -> (LeafFile, PostedRoot) {
    let receipt = &receipts[0].receipt;
    let gross = TokenAmount::from_units(pay);
    let set = PayoutSet {
        providers: [((receipt.provider, receipt.fee_version), gross)].into(),
        debits: [((receipt.account, 1), gross)].into(),
    };
    let router = key("router").address();
    let (providers, debits) = (set.provider_tree(router), set.debit_tree(router));
    let root = PostedRoot {
        pay_root: pay_root(providers.root(), debits.root()),
        gross,
        base,
    };
    let payout = Some(set);
    let file = LeafFile {
        index,
        payout,
        ..file(receipts)
    };
    (file, root)
}

/// A round over posts of a router whose first payout root is claimable, and what the router gives of them.
struct Sums {
    /// All posts, the first of which came before the round.
    files: Vec<LeafFile>,
    roots: Vec<PostedRoot>,
    /// Posts whose files it refuses.
    refused: Vec<u64>,
    kept: Vec<KeptSet>,
    /// When the validator sees the round first.
    from: Timestamp,
    reversed: Vec<Reversed>,
    /// What the developer allotted before the first post, and before the last.
    caps: [u128; 2],
}

impl Sums {
    /// Posts 1, 2 and 3 with a job each; the roots of 1 and 3 pay all before them, 3 pays `more` than follows, and 2 has none.
    fn new(more: u128) -> Self {
        let jobs = [0, 1, 2].map(|n| [signed(n)]);
        let charge = jobs[0][0].receipt.charge.units();
        let (first, root) = paying(&jobs[0], 1, charge, 0);
        let (third, judged) = paying(&jobs[2], 3, 3 * charge + more, 1);
        let second = LeafFile {
            index: 2,
            ..file(&jobs[1])
        };
        let none = PostedRoot {
            pay_root: Digest::ZERO,
            gross: TokenAmount::ZERO,
            base: 1,
        };
        Self {
            files: vec![first, second, third],
            roots: vec![root, none, judged],
            refused: Vec::new(),
            kept: Vec::new(),
            from: Timestamp(START),
            reversed: Vec::new(),
            caps: [1_000, 1_000],
        }
    }

    /// What the ballot says about post 3, the files that were asked for, and what was to be kept. Posts from `before` on are of the round.
    fn said(&self, before: usize) -> (Option<Outcome>, BTreeSet<u64>, Vec<KeptSet>) {
        let posts: Vec<_> = self.files.iter().map(post).collect();
        let mut view = round(Phase::Ballot, posts[before]);
        let covered = &mut view.covers[0];
        covered.before = before as u64;
        covered.posts = posts[before..].to_vec();
        covered.roots = self.roots[before..].to_vec();
        covered.earlier = posts[..before].to_vec();
        covered.reversed = self.reversed.clone();
        let developer = (key("developer").address(), 1);
        for (posts, cap) in [0, 2].into_iter().zip(self.caps) {
            let cap = TokenAmount::from_units(cap);
            covered.caps.raise(developer, posts, cap, 0);
        }
        let mut validator = Validator::recover(config(), []).with_sums(self.kept.clone());
        let router = key("router").address();
        let mut outputs = validator.handle(self::view(view), self.from);
        let asked = outputs.iter().filter_map(|output| match output {
            Output::FetchLeaves { post, .. } => Some(*post),
            _ => None,
        });
        let asked: BTreeSet<_> = asked.collect();
        for file in &self.files {
            if asked.contains(&file.index) && !self.refused.contains(&file.index) {
                let leaves = Input::Leaves {
                    router,
                    post: file.index,
                    bytes: file.encode(),
                };
                outputs.extend(validator.handle(leaves, self.from));
            }
        }
        // Half a margin before the end nothing is waited for any more.
        outputs.extend(validator.handle(Input::Tick, Timestamp(ENDS.0 - 2_400)));
        let batch = hash::batch_subject(router, 3);
        let (mut said, mut kept) = (None, Vec::new());
        for output in outputs {
            match output {
                Output::Keep(voted) => {
                    let of = voted.verdicts.iter().filter(|(about, ..)| *about == batch);
                    let of: Vec<_> = of.map(|(_, outcome, _)| *outcome).collect();
                    assert!(of.len() < 2, "one verdict on a subject");
                    said = of.first().copied();
                }
                Output::KeepSums(set) => kept.push(*set),
                _ => {}
            }
        }
        (said, asked, kept)
    }
}

#[test]
fn a_payout_root_that_does_not_follow_from_the_leaves_is_bad_and_all_since_the_claimable_one_is_fetched_to_know_it()
 {
    let all = BTreeSet::from([1, 2, 3]);
    for before in [1, 2] {
        let (said, asked, _) = Sums::new(0).said(before);
        assert_eq!((said, &asked), (None, &all));
        let (said, asked, _) = Sums::new(1).said(before);
        assert_eq!((said, &asked), (Some(Outcome::BadSums), &all));
    }
}

#[test]
fn a_root_that_cannot_be_measured_because_an_older_file_is_refused_is_withheld() {
    // Of the claimable root, of a post without a root that no round covers any more, and of one that this round covers.
    for (refused, before) in [(1, 1), (1, 2), (2, 2), (2, 1), (3, 1)] {
        let sums = Sums {
            refused: vec![refused],
            ..Sums::new(1)
        };
        let (said, ..) = sums.said(before);
        assert_eq!(said, Some(Outcome::Withheld), "{refused}, {before}");
    }
}

#[test]
fn who_has_only_just_asked_for_an_older_file_does_not_call_it_withheld() {
    let mut sums = Sums {
        refused: vec![1],
        from: Timestamp(ENDS.0 - 2_600),
        ..Sums::new(1)
    };
    assert_eq!(sums.said(1).0, None);
    sums.from = Timestamp(ENDS.0 - 5_000);
    assert_eq!(sums.said(1).0, Some(Outcome::Withheld));
}

#[test]
fn what_a_claimable_root_holds_is_on_disk_and_its_file_is_not_asked_for_again() {
    let (_, _, kept) = Sums::new(0).said(1);
    let posts: Vec<_> = kept.iter().map(|kept| kept.post).collect();
    assert_eq!(posts, [1, 3], "post 2 has no root");
    for (more, outcome) in [(0, None), (1, Some(Outcome::BadSums))] {
        let sums = Sums {
            kept: kept.clone(),
            refused: vec![1],
            ..Sums::new(more)
        };
        let (said, asked, _) = sums.said(1);
        assert_eq!((said, asked), (outcome, BTreeSet::from([2, 3])));
    }
    // What is on disk of a chain that was replaced is worth nothing.
    let mut sums = Sums {
        kept,
        refused: vec![1],
        ..Sums::new(0)
    };
    sums.kept[0].content_id = keccak256("another file");
    let (said, asked, _) = sums.said(1);
    assert_eq!(
        (said, asked),
        (Some(Outcome::Withheld), BTreeSet::from([1, 2, 3]))
    );
}

#[test]
fn a_root_is_cancelled_for_what_was_reversed_under_way_and_bad_for_anything_else() {
    let mut sums = Sums::new(0);
    let job = &sums.files[1].leaves[0].0.receipt;
    let reversal = |after| Reversed {
        after,
        job: job.job_id,
        account: job.account,
        charge: job.charge,
    };
    let (late, seen) = (reversal(2), reversal(1));
    sums.reversed = vec![late];
    assert_eq!(sums.said(1).0, Some(Outcome::Void));
    sums.reversed = vec![seen];
    assert_eq!(sums.said(1).0, Some(Outcome::BadSums));
    sums = Sums::new(1);
    sums.reversed = vec![late];
    assert_eq!(sums.said(1).0, Some(Outcome::BadSums));
}

#[test]
fn a_root_that_debits_a_developer_above_all_that_it_ever_allotted_is_bad() {
    let mut sums = Sums::new(0);
    let owed: u128 = sums.roots[2].gross.units();
    sums.caps = [owed, owed];
    assert_eq!(sums.said(1).0, None);
    sums.caps = [owed - 1, owed - 1];
    assert_eq!(sums.said(1).0, Some(Outcome::BadSums));
    sums.caps = [owed - 1, owed];
    assert_eq!(sums.said(1).0, None, "it was topped up in time");
}

#[test]
fn a_root_too_far_from_the_claimable_one_is_cancelled_unseen() {
    let mut sums = Sums::new(0);
    let mut view = round(Phase::Ballot, post(&sums.files[2]));
    let covered = &mut view.covers[0];
    covered.before = POSTS_MAX + 1;
    covered.roots = vec![sums.roots.remove(2)];
    covered.earlier = vec![post(&sums.files[0]); POSTS_MAX as usize + 1];
    let mut validator = Validator::recover(config(), []);
    let mut outputs = validator.handle(self::view(view), Timestamp(START));
    outputs.extend(validator.handle(Input::Tick, ENDS));
    let asked = |output: &&Output| matches!(output, Output::FetchLeaves { post, .. } if *post <= POSTS_MAX + 1);
    assert_eq!(outputs.iter().find(asked), None);
    let batch = hash::batch_subject(key("router").address(), POSTS_MAX + 2);
    let said = outputs.iter().find_map(|output| match output {
        Output::Keep(voted) => Some(voted.verdicts.clone()),
        _ => None,
    });
    assert_eq!(said, Some(vec![(batch, Outcome::Void, Digest::ZERO)]));
}

#[test]
fn one_validator_opens_a_round_and_the_next_one_only_where_it_does_not() {
    let keys: Vec<_> = (0..3).map(|n| key(&format!("validator {n}"))).collect();
    let joined = keys.iter().map(|key| (key.address(), Timestamp(0)));
    let view = ChainView {
        openable: true,
        joined: joined.collect(),
        ..ChainView::default()
    };
    let open_after = |key: &SecretKey| {
        let config = ValidatorConfig {
            key: key.clone(),
            ..config()
        };
        let mut validator = Validator::recover(config, []);
        let opens = |at: &u64| {
            let input = Input::Chain(Box::new(view.clone()));
            let outputs = validator.handle(input, Timestamp(START + at));
            outputs.contains(&Output::Open)
        };
        (0..10_000).step_by(500).find(opens)
    };
    let mut after: Vec<_> = keys.iter().map(open_after).collect();
    after.sort_unstable();
    assert_eq!(after, [Some(0), Some(1_000), Some(2_000)]);
}
