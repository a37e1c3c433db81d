//! One planter against a chain, a router and a disk that are slow, lose things and kill it in any order: what it promises holds all the
//! same.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use stoa_crypto::{MerkleTree, SecretKey, keccak256, recover};
use stoa_ledger::audit::hash::{plant_commitment, plant_digest};
use stoa_ledger::audit::place::Post;
use stoa_ledger::audit::rounds::Phase;
use stoa_ledger::book::LeafFile;
use stoa_nodes::planter::*;
use stoa_types::*;

const SET: u32 = 3;
const SETTLING: u64 = 60_000;
/// From one post to the next.
const POST: u64 = 9_000;

fn customer() -> SecretKey {
    SecretKey::for_tests("customer")
}

fn rounds_contract() -> Address {
    Address([7; 20])
}

fn router() -> Address {
    Address([9; 20])
}

fn config() -> PlanterConfig {
    PlanterConfig {
        key: customer(),
        chain_id: 31_337,
        rounds: rounds_contract(),
        router: router(),
        set: SET,
        sets: 0,
        rest: Millis::from_secs(20),
        pause: Millis::from_secs(1),
        patience: Millis::from_secs(4),
        settling: Millis(SETTLING),
    }
}

/// A plant's receipt, as far as anybody looks here.
fn signed(job: JobId) -> SignedReceipt {
    let zero = Digest::ZERO;
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        chain_id: 31_337,
        vault: Address([8; 20]),
        job_id: job,
        account: customer().address(),
        router: router(),
        provider: Address([6; 20]),
        profile_hash: zero,
        model_root: zero,
        runtime_digest: zero,
        parameters_digest: zero,
        prompt_root: zero,
        request_digest: zero,
        output_root: zero,
        response_digest: zero,
        input_units: 3,
        output_units: 2,
        input_price: Price::per_million(TokenAmount::from_units(1)),
        output_price: Price::per_million(TokenAmount::from_units(1)),
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
    };
    SignedReceipt {
        receipt,
        provider_signature: Signature([0; 65]),
        router_signature: Signature([0; 65]),
    }
}

/// What a post says of its leaf file.
fn posted(file: &LeafFile) -> Post {
    let leaves = file.leaves.iter();
    let leaves = leaves.map(|(signed, _)| stoa_crypto::receipt_leaf(&signed.receipt));
    Post {
        job_root: MerkleTree::new(leaves.collect()).root(),
        job_count: u32::try_from(file.leaves.len()).expect("few"),
        content_id: file.content_id(),
    }
}

/// What can go wrong in a step of half a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Kill,
    LoseCalls,
    SlowDisk,
    NoRouter,
    /// The router gives no leaf file, or another one.
    HidesFiles,
    WrongFiles,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        6 => Just(Trouble::None),
        1 => Just(Trouble::Kill),
        1 => Just(Trouble::LoseCalls),
        1 => Just(Trouble::SlowDisk),
        1 => Just(Trouble::NoRouter),
        1 => Just(Trouble::HidesFiles),
        1 => Just(Trouble::WrongFiles),
    ]
}

struct World {
    planter: Planter,
    now: u64,
    disk: Vec<PlantRecord>,
    /// Written, and not told to be durable yet.
    written: Vec<JobId>,
    /// With the first round that a name holds in.
    stored: BTreeMap<Digest, u64>,
    named: BTreeMap<JobId, u64>,
    /// Jobs that wait for the next post, and whether they were answered wrongly.
    done: Vec<(JobId, bool)>,
    /// Jobs of each post.
    posts: Vec<Vec<(JobId, bool)>>,
    /// What each post says of its leaf file.
    said: Vec<Post>,
    /// Posts when each round opened, and when.
    rounds: Vec<(u64, u64)>,
    bought: u64,
    waiting: Vec<JobId>,
}

impl World {
    fn new() -> Self {
        Self {
            planter: Planter::recover(config(), []),
            now: 1_790_000_000_000,
            disk: Vec::new(),
            written: Vec::new(),
            stored: BTreeMap::new(),
            named: BTreeMap::new(),
            done: Vec::new(),
            posts: Vec::new(),
            said: Vec::new(),
            rounds: Vec::new(),
            bought: 0,
            waiting: Vec::new(),
        }
    }

    fn phase(&self, round: usize) -> Phase {
        match self.now - self.rounds[round].1 {
            0..=1_499 => Phase::Reveal,
            1_500..=3_499 => Phase::Ballot,
            3_500..=4_999 => Phase::Unseal,
            5_000..=7_999 => Phase::Plants,
            _ => Phase::Rulings,
        }
    }

    fn ends(&self, round: usize) -> u64 {
        let passed = self.now - self.rounds[round].1;
        let ends = [1_500, 3_500, 5_000, 8_000, u64::from(u32::MAX)];
        let end = ends.into_iter().find(|end| passed < *end);
        self.rounds[round].1 + end.expect("the test is shorter")
    }

    fn view(&self) -> PlantView {
        let rounds = (0..self.rounds.len()).map(|n| {
            let before = n.checked_sub(1).map_or(0, |before| self.rounds[before].0);
            let covers = (before + 1..=self.rounds[n].0)
                .map(|post| ((router(), post), self.said[post as usize - 1]));
            PlantRound {
                number: n as u64 + 1,
                phase: self.phase(n),
                ends: Timestamp(self.ends(n)),
                covers: covers.collect(),
            }
        });
        PlantView {
            stored: self.stored.clone(),
            named: self.named.keys().copied().collect(),
            rounds: rounds.collect(),
        }
    }

    /// The leaf file of a post, counted from one.
    fn file(&self, post: u64) -> LeafFile {
        let at = usize::try_from(post - 1).expect("small");
        let leaves = self.posts[at].iter().map(|(job, _)| (signed(*job), 1));
        LeafFile {
            router: router(),
            index: post,
            first: 0,
            leaves: leaves.collect(),
            payout: None,
        }
    }

    fn salt(&self, job: JobId) -> Digest {
        keccak256([b"salt".as_slice(), &job.0, &self.now.to_be_bytes()].concat())
    }

    fn step(&mut self, trouble: Trouble) {
        self.now += 500;
        if self.now.is_multiple_of(POST) && !self.done.is_empty() {
            self.posts.push(std::mem::take(&mut self.done));
            self.said.push(posted(&self.file(self.posts.len() as u64)));
            self.rounds.push((self.posts.len() as u64, self.now));
        }
        if trouble == Trouble::Kill {
            self.written.clear();
            // Its provider is killed with it: orders that wait get no answer.
            self.waiting.clear();
            self.planter = Planter::recover(config(), self.disk.clone());
        }
        let mut inputs = VecDeque::from([Input::Chain(Box::new(self.view()))]);
        if trouble != Trouble::SlowDisk {
            let told = std::mem::take(&mut self.written).into_iter();
            inputs.extend(told.map(|job| Input::Durable { job }));
        }
        while let Some(input) = inputs.pop_front() {
            for output in self.planter.handle(input, Timestamp(self.now)) {
                self.carry_out(output, trouble, &mut inputs);
            }
        }
    }

    fn carry_out(&mut self, output: Output, trouble: Trouble, inputs: &mut VecDeque<Input>) {
        match output {
            Output::Buy if trouble == Trouble::NoRouter => {
                inputs.push_back(Input::Bought { answered: false });
            }
            Output::Buy => {
                self.bought += 1;
                let job = JobId(keccak256(self.bought.to_be_bytes()).0);
                self.waiting.push(job);
                let salt = self.salt(job);
                inputs.push_back(Input::Ordered { job, salt });
                inputs.push_back(Input::Bought { answered: true });
            }
            Output::Keep(record) => {
                self.disk.push(record);
                if let PlantRecord::Planted(plant) = record {
                    self.written.push(plant.job);
                }
            }
            Output::Commit { commitment } => {
                if trouble != Trouble::LoseCalls {
                    let first = self.rounds.len() as u64 + 1;
                    self.stored.entry(commitment).or_insert(first);
                }
            }
            Output::Answer { job, wrongly } => self.answered(job, wrongly),
            Output::FetchLeaves { router: of, post } => {
                assert_eq!(of, router());
                let mut file = self.file(post);
                if matches!(trouble, Trouble::NoRouter | Trouble::HidesFiles) {
                    return;
                }
                if trouble == Trouble::WrongFiles {
                    // As if there were no plants in it.
                    file.leaves.clear();
                }
                let (router, bytes) = (of, file.encode());
                inputs.push_back(Input::Leaves {
                    router,
                    post,
                    bytes,
                });
            }
            Output::Name {
                round,
                job,
                salt,
                signature,
            } => {
                let digest = plant_digest(31_337, rounds_contract(), job);
                assert_eq!(recover(digest, &signature), Ok(customer().address()));
                let hidden = plant_commitment(job, customer().address(), salt);
                let first = self.stored.get(&hidden).expect("what is named is stored");
                assert!(*first <= round, "the contract refuses it");
                let at = usize::try_from(round - 1).expect("small");
                assert!(
                    self.phase(at) >= Phase::Plants,
                    "named before ballots are shown"
                );
                if trouble != Trouble::LoseCalls {
                    self.named.entry(job).or_insert(round);
                }
            }
            Output::Warn(_) => {}
        }
    }

    fn answered(&mut self, job: JobId, wrongly: bool) {
        if wrongly {
            let planted = self.disk.iter().find_map(|record| match record {
                PlantRecord::Planted(plant) if plant.job == job => Some(*plant),
                _ => None,
            });
            let plant = planted.expect("it is on disk before it is answered wrongly");
            let hidden = plant_commitment(job, customer().address(), plant.salt);
            assert!(
                self.stored.contains_key(&hidden),
                "wrong, and nothing is stored"
            );
        }
        if let Some(at) = self.waiting.iter().position(|waits| *waits == job) {
            self.waiting.remove(at);
            self.done.push((job, wrongly));
        }
    }

    /// The round that covers a job.
    fn round_of(&self, job: JobId) -> Option<u64> {
        let mut posts = self.posts.iter();
        let at = posts.position(|jobs| jobs.iter().any(|(of, _)| *of == job))? as u64 + 1;
        let round = self.rounds.iter().position(|(posts, _)| *posts >= at)?;
        Some(round as u64 + 1)
    }

    /// Nothing that is stored stays unnamed for ever: later rounds would wait for it.
    fn quiet_down(&mut self) {
        for _ in 0..(4 * SETTLING / 500) {
            self.step(Trouble::None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_no_answer_is_wrong_before_it_is_stored_and_what_is_stored_is_named(
        troubles in prop::collection::vec(trouble(), 1..240),
    ) {
        let mut world = World::new();
        for trouble in troubles {
            world.step(trouble);
        }
        world.quiet_down();
        let kept = world.disk.iter().filter_map(|record| match record {
            PlantRecord::Planted(plant) => Some(*plant),
            PlantRecord::Over { .. } => None,
        });
        for plant in kept.collect::<Vec<_>>() {
            let hidden = plant_commitment(plant.job, customer().address(), plant.salt);
            let old = plant.ordered_at.0 + 2 * SETTLING < world.now;
            if world.stored.contains_key(&hidden) && old {
                prop_assert!(world.named.contains_key(&plant.job), "{} stays open", plant.job);
            }
        }
    }
}

#[test]
fn where_nothing_fails_each_wrong_answer_is_named_in_the_round_that_covers_it() {
    let mut world = World::new();
    world.quiet_down();
    let wrong: Vec<JobId> = world
        .posts
        .iter()
        .flatten()
        .filter(|(_, wrong)| *wrong)
        .map(|(job, _)| *job)
        .collect();
    assert!(wrong.len() > 10, "{}", wrong.len());
    let newest = world.rounds.len();
    for job in wrong {
        let round = world.round_of(job).expect("covered");
        if (round as usize) < newest {
            assert_eq!(world.named.get(&job), Some(&round));
        }
    }
}

#[test]
fn a_router_that_hides_leaf_files_or_gives_others_does_not_keep_a_plant_from_being_named_in_time() {
    for trouble in [Trouble::HidesFiles, Trouble::WrongFiles] {
        let mut world = World::new();
        let mut wrong = BTreeSet::new();
        for _ in 0..(4 * SETTLING / 500) {
            world.step(trouble);
            let rounds = (1..=world.rounds.len() as u64).filter(|round| {
                world.phase(usize::try_from(*round - 1).expect("small")) == Phase::Rulings
            });
            for round in rounds.collect::<Vec<_>>() {
                let under = world.posts.iter().flatten().filter(|(_, wrong)| *wrong);
                for (job, _) in under.filter(|(job, _)| world.round_of(*job) == Some(round)) {
                    assert!(
                        world.named.contains_key(job),
                        "{job} is judged as any other"
                    );
                    wrong.insert(*job);
                }
            }
        }
        assert!(wrong.len() > 10, "{}", wrong.len());
    }
}

#[test]
fn who_was_away_names_its_plants_when_it_is_back_whatever_the_phase() {
    let mut world = World::new();
    while world.rounds.is_empty() {
        world.step(Trouble::None);
    }
    let jobs: Vec<_> = world.posts[0].iter().map(|(job, _)| *job).collect();
    assert!(!jobs.is_empty() && world.named.is_empty());
    world.now += 20_000;
    world.step(Trouble::Kill);
    for job in jobs {
        assert_eq!(world.named.get(&job), Some(&1));
    }
}

#[test]
fn a_customer_is_over_when_its_sets_are_bought_and_their_plants_named_and_not_before() {
    let mut world = World::new();
    world.planter = Planter::recover(
        PlanterConfig {
            sets: 2,
            ..config()
        },
        [],
    );
    let mut over = false;
    for _ in 0..(4 * SETTLING / 500) {
        world.step(Trouble::None);
        over |= world.planter.is_over();
        assert!(!over || world.planter.open().count() == 0);
    }
    assert!(over);
    assert_eq!(world.bought, 2 * u64::from(SET));
    assert_eq!(world.named.len(), 2 * SET as usize);
}

#[test]
fn a_set_is_bought_only_when_the_one_before_is_named() {
    let mut world = World::new();
    let mut most = 0;
    for _ in 0..400 {
        world.step(Trouble::None);
        most = most.max(world.planter.open().count());
    }
    assert_eq!(most, SET as usize);
    assert!(world.bought > u64::from(SET), "{}", world.bought);
}

#[test]
fn an_order_that_was_not_bought_for_a_plant_is_answered_right() {
    let mut planter = Planter::recover(config(), []);
    let (job, salt) = (JobId([1; 32]), Digest([2; 32]));
    let now = Timestamp(1_790_000_000_000);
    let outputs = planter.handle(Input::Ordered { job, salt }, now);
    let right = Output::Answer {
        job,
        wrongly: false,
    };
    assert!(outputs.contains(&right), "{outputs:?}");
    assert_eq!(planter.open().count(), 0);
}

#[test]
fn an_answer_that_waited_too_long_for_its_commitment_is_right() {
    let mut planter = Planter::recover(config(), []);
    let start = 1_790_000_000_000;
    assert!(
        planter
            .handle(Input::Tick, Timestamp(start))
            .contains(&Output::Buy)
    );
    let (job, salt) = (JobId([1; 32]), Digest([2; 32]));
    let outputs = planter.handle(Input::Ordered { job, salt }, Timestamp(start));
    assert!(
        matches!(outputs[..], [Output::Keep(PlantRecord::Planted(_))]),
        "{outputs:?}"
    );
    planter.handle(Input::Durable { job }, Timestamp(start + 10));
    let outputs = planter.handle(Input::Tick, Timestamp(start + 4_000));
    let right = Output::Answer {
        job,
        wrongly: false,
    };
    assert!(outputs.contains(&right), "{outputs:?}");
}

/// A planter that was started anew, with plants of a round in `phase` of which it knows where two routers posted.
fn started_anew(phase: Phase, ends: u64) -> (Planter, PlantView) {
    let (job, salt) = (JobId([1; 32]), Digest([2; 32]));
    let plant = Plant {
        job,
        salt,
        ordered_at: Timestamp(1_000_000),
        router: Some(router()),
    };
    let covers = [router(), Address([10; 20])].map(|of| {
        let digest = Digest([3; 32]);
        let post = Post {
            job_root: digest,
            job_count: 1,
            content_id: digest,
        };
        ((of, 1), post)
    });
    let round = PlantRound {
        number: 1,
        phase,
        ends: Timestamp(ends),
        covers: covers.into(),
    };
    let view = PlantView {
        stored: [(plant_commitment(job, customer().address(), salt), 1)].into(),
        named: BTreeSet::new(),
        rounds: vec![round],
    };
    let planter = Planter::recover(config(), [PlantRecord::Planted(plant)]);
    (planter, view)
}

/// Whether it names the plant within `millis` of silence from routers, and after how long.
fn named_after(planter: &mut Planter, view: &PlantView, start: u64, millis: u64) -> Option<u64> {
    let mut times = (0..=millis).step_by(250);
    times.find(|passed| {
        let now = Timestamp(start + passed);
        let outputs = planter.handle(Input::Chain(Box::new(view.clone())), now);
        for output in &outputs {
            if let Output::FetchLeaves { router: of, .. } = output {
                assert_eq!(*of, router(), "no other one can have posted it");
            }
        }
        outputs
            .iter()
            .any(|output| matches!(output, Output::Name { .. }))
    })
}

#[test]
fn who_starts_anew_asks_for_leaf_files_for_some_seconds_before_it_names_what_it_did_not_find() {
    let start = 1_010_000;
    let (mut planter, view) = started_anew(Phase::Rulings, start + 600_000);
    assert_eq!(named_after(&mut planter, &view, start, 5_000), Some(3_000));
    // Nor before the end of the phase is near.
    let (mut planter, view) = started_anew(Phase::Plants, start + 8_000);
    assert_eq!(named_after(&mut planter, &view, start, 8_000), Some(6_000));
}

#[test]
fn a_plant_whose_round_is_still_judged_is_not_named_however_old_it_is() {
    let start = 1_000_000 + 2 * SETTLING;
    let (mut planter, mut view) = started_anew(Phase::Ballot, start + 600_000);
    let mut older = view.rounds[0].clone();
    older.number = 2;
    older.phase = Phase::Rulings;
    older.covers.clear();
    view.rounds.push(older);
    assert_eq!(named_after(&mut planter, &view, start, 20_000), None);
}

#[test]
fn a_round_that_has_only_just_opened_does_not_delay_what_another_one_waits_for() {
    let start = 1_010_000;
    let (mut planter, mut view) = started_anew(Phase::Plants, start + 8_000);
    assert_eq!(named_after(&mut planter, &view, start, 5_000), None);
    let mut newer = view.rounds[0].clone();
    newer.number = 2;
    newer.phase = Phase::Reveal;
    let post = newer.covers[&(router(), 1)];
    newer.covers = [((router(), 2), post)].into();
    view.rounds.push(newer);
    let named = named_after(&mut planter, &view, start + 5_250, 2_000);
    assert_eq!(named, Some(750));
}

#[test]
fn a_file_that_another_router_keeps_back_has_no_plant_named() {
    let start = 1_010_000;
    let (mut planter, mut view) = started_anew(Phase::Rulings, start + 600_000);
    view.rounds[0].covers.remove(&(router(), 1));
    assert_eq!(named_after(&mut planter, &view, start, 10_000), None);
}

#[test]
fn records_of_before_routers_stood_in_them_are_read() {
    let zero = "00".repeat(32);
    let text = format!(r#"{{"planted":{{"job":"0x{zero}","salt":"0x{zero}","ordered_at":7}}}}"#);
    let read: PlantRecord = serde_json::from_str(&text).expect("an older record");
    assert!(matches!(
        read,
        PlantRecord::Planted(Plant { router: None, .. })
    ));
}
