//! A validator: reveals its preimages, judges the jobs whose panels it sits on, and answers for what it found (docs/audits.md).
//!
//! Promise (design: reliability 2): it never equivocates. A ballot is durable before it is committed, and no second one is ever made for a
//! round, whatever crashed in between. Salt and preimages follow from the key, so that the ballots are all that has to be kept.
//!
//! It works from what the contracts show *now*, not from a history of events: each input brings the state forward, and then everything that
//! is due and not done is asked for again. A restart, an event told twice and a lost answer are therefore the same as waiting. The shell
//! carries out what it can and need not remember what was asked before; calls that came too late fail on chain and change nothing.

mod chain;
mod duties;
mod rulings;
mod sums;

pub use chain::{ChainView, Covered, HashChain, RoundView, RulingView};

use crate::audit::{KeptWork, PostedFile, WorkRequest, posted_file};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use stoa_crypto::{Domain, SecretKey, keccak256};
use stoa_ledger::audit::Outcome;
use stoa_ledger::audit::ballot::{Ballot, BallotTree, Verdict};
use stoa_ledger::audit::hash::job_subject;
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::sums::{KeptSet, PostSums};
use stoa_ledger::audit::verdict::{Evidence, Vote};
use stoa_types::{Address, Digest, JobId, Millis, SignedReceipt, Timestamp};
use stoa_verify::judge::{Case, Finding, NotJudged};

/// What was asked for and did not happen is asked for again after this.
const RETRY: Millis = Millis::from_secs(2);

/// How long a validator has to open a round before the next one does, and how many are waited for at most.
const TURN: Millis = Millis(1_000);
const TURNS_MAX: usize = 3;

/// Who a validator is.
#[derive(Debug, Clone)]
pub struct ValidatorConfig {
    /// Signs requests and transactions, opens sealed work, and is the source of salts and preimages.
    pub key: SecretKey,
    /// Chain and vault whose receipts it judges.
    pub domain: Domain,
    /// How much is audited.
    pub sampling: Sampling,
    /// Reveals in one hash chain.
    pub chain_length: u32,
    /// How long before the end of the ballot phase it commits what it has.
    pub margin: Millis,
    /// The longest time between the order of a job and its post. Routers seal work to who has a seat when it is charged, so that a validator
    /// cannot have the work of jobs that were posted sooner than this after it joined.
    pub settling: Millis,
}

/// A ballot that was made, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voted {
    /// The round.
    pub round: u64,
    /// Subject, outcome, digest.
    pub verdicts: Vec<(Digest, Outcome, Digest)>,
}

impl Voted {
    /// The ballot.
    pub fn ballot(&self) -> Ballot {
        let mut ballot = Ballot::new();
        for (subject, outcome, digest) in &self.verdicts {
            let (outcome, digest) = (*outcome, *digest);
            ballot.insert(*subject, Verdict { outcome, digest });
        }
        ballot
    }
}

/// What happens to a validator.
#[derive(Debug, Clone)]
pub enum Input {
    /// What the contracts show now.
    Chain(Box<ChainView>),
    /// A leaf file, or anything else that came in its place.
    Leaves {
        /// Whose.
        router: Address,
        /// Which post.
        post: u64,
        /// The file.
        bytes: Vec<u8>,
    },
    /// What a router kept of a job.
    Work {
        /// For which round.
        round: u64,
        /// About what.
        subject: Digest,
        /// What came.
        kept: Box<KeptWork>,
    },
    /// A judge is done.
    Found {
        /// For which round.
        round: u64,
        /// About what.
        subject: Digest,
        /// What it found.
        result: Result<Finding, NotJudged>,
    },
    /// The ballot of this round is on disk.
    Durable {
        /// The round.
        round: u64,
    },
    /// Another validator's ballot, after it was shown.
    Ballot {
        /// Whose.
        validator: Address,
        /// What it says.
        voted: Voted,
    },
    /// Time passed.
    Tick,
}

/// What a validator wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open the next round.
    Open,
    /// Reveal a preimage in the newest round.
    Reveal {
        /// Of its own chain.
        preimage: Digest,
    },
    /// Draw the beacon of a round whose time to reveal is over.
    Draw,
    /// Publish the top of a new chain: the present one ends soon.
    Renew {
        /// The top.
        tip: Digest,
    },
    /// Get the leaf file of a post.
    FetchLeaves {
        /// Whose.
        router: Address,
        /// Which post.
        post: u64,
        /// BLAKE3 of the file.
        content_id: Digest,
        /// Whether a root is measured by it and no round covers it any more: whatever else is asked for goes before.
        is_older: bool,
    },
    /// Ask a router for what it kept of a job.
    FetchWork {
        /// Whom.
        router: Address,
        /// For which round.
        round: u64,
        /// Of which job.
        subject: Digest,
        /// To be sent.
        request: WorkRequest,
    },
    /// Judge this; the work in it is plain, so that it must not be written anywhere.
    Judge {
        /// For which round.
        round: u64,
        /// About what.
        subject: Digest,
        /// What to judge.
        case: Box<Case>,
    },
    /// Keep this on disk for ever; answer with [`Input::Durable`].
    Keep(Voted),
    /// Commit the ballot of a round.
    Commit {
        /// The round.
        round: u64,
        /// What hides it.
        commitment: Digest,
    },
    /// Show the ballot of a round.
    Unseal {
        /// The round.
        round: u64,
        /// Its root.
        root: Digest,
        /// Its salt.
        salt: Digest,
    },
    /// Get a ballot that was shown.
    FetchBallot {
        /// The round.
        round: u64,
        /// Whose.
        validator: Address,
    },
    /// Bring a ruling, or a proof of a fault.
    Bring(Box<Claim>),
    /// Keep on disk what a payout root holds, for [`Validator::with_sums`] after a restart. Nothing waits for it: what was lost is fetched.
    KeepSums(Box<KeptSet>),
    /// What payout roots of posts below hold is not needed any more.
    ForgetSums {
        /// Whose.
        router: Address,
        /// The first post that is.
        below: u64,
    },
    /// The round is over: nothing of it is needed any more but the ballot.
    Forget {
        /// The round.
        round: u64,
    },
    /// Something for the operator's log.
    Warn(String),
}

/// What anyone may bring to the verdict contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Votes on a job.
    Rule {
        /// Receipt and place.
        evidence: Box<Evidence>,
        /// In the order of seats.
        votes: Vec<Vote>,
    },
    /// Votes on a batch.
    RuleBatch {
        /// The round.
        round: u64,
        /// Whose batch.
        router: Address,
        /// Which post.
        post: u64,
        /// In the order of seats.
        votes: Vec<Vote>,
    },
    /// A verdict that a ruling did not hold.
    Show {
        /// The round.
        round: u64,
        /// About what.
        subject: Digest,
        /// The verdict.
        vote: Vote,
        /// Whether it is about the batch that could not be had.
        excuse: bool,
    },
    /// A panel member that has a ballot and no verdict.
    Silence {
        /// The round.
        round: u64,
        /// About what.
        subject: Digest,
        /// Who.
        validator: Address,
    },
    /// A validator that did not reveal, or did not show a ballot.
    Missed {
        /// The round.
        round: u64,
        /// `MISSED_REVEAL` or `MISSED_BALLOT`.
        kind: u8,
        /// Who.
        validator: Address,
    },
    /// A posted charge above what counts and prices give.
    Overcharge(Box<Evidence>),
    /// Two leaves for one job.
    DoublePost(Box<Evidence>, Box<Evidence>),
}

/// What is asked for once and then again after [`RETRY`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Open,
    Reveal(u64),
    Draw(u64),
    Renew,
    Leaves(Address, u64),
    Work(u64, Digest),
    Keep(u64),
    Commit(u64),
    Unseal(u64),
    Ballot(u64, Address),
    Rule(u64, Digest),
    Show(u64, Digest, Address),
    Excuse(u64, Digest, Address, Digest),
    Silence(u64, Digest, Address),
    Missed(u64, u8, Address),
    Proof(Digest),
}

/// One post's leaves, found to be what was posted.
#[derive(Debug, Clone)]
struct Leaves {
    receipts: Vec<SignedReceipt>,
    subjects: Vec<Digest>,
    tree: stoa_crypto::MerkleTree,
}

/// A job of which this validator owes a verdict.
#[derive(Debug, Clone)]
struct Duty {
    router: Address,
    post: u64,
    position: usize,
    state: State,
    /// When its work was asked for first, in this life.
    since: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The router has not given what it kept.
    Wanted,
    /// Being judged; what comes again is not judged again.
    Judging {
        /// Its router took longer to give the work than it may.
        late: bool,
    },
    /// The judge failed; another try is made.
    Failed,
    Found(Verdict),
}

/// Work on one round.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// Since when it is worked on in this life.
    since: Option<Timestamp>,
    /// Posts whose jobs have been looked through, with the number of leaves of each provider.
    drawn: BTreeMap<(Address, u64), BTreeMap<Address, u32>>,
    duties: BTreeMap<Digest, Duty>,
}

/// State of one validator.
#[derive(Debug, Clone)]
pub struct Validator {
    config: ValidatorConfig,
    me: Address,
    hashes: HashChain,
    view: ChainView,
    leaves: BTreeMap<(Address, u64), Leaves>,
    sums: sums::Sums,
    progress: BTreeMap<u64, Progress>,
    /// Own ballots, and whether they are durable.
    voted: BTreeMap<u64, (Voted, bool)>,
    /// Own ballots, and those of others that were shown and compared with their roots.
    ballots: BTreeMap<(u64, Address), BallotTree>,
    asked: BTreeMap<Ask, Timestamp>,
    /// Since when a round can be opened.
    openable_since: Option<Timestamp>,
    /// The newest round in which it revealed, and what.
    revealed: Option<(u64, Digest)>,
    /// Rounds below are closed. Their ballots are not here any more, so that nothing is ever said about them again.
    floor: u64,
    /// Rounds after whose rulings nothing is left to do: looking at them again would cost time and find nothing.
    settled: BTreeSet<u64>,
}

impl Validator {
    /// Comes back with all ballots that were ever kept.
    pub fn recover(config: ValidatorConfig, kept: impl IntoIterator<Item = Voted>) -> Self {
        let me = config.key.address();
        let voted: BTreeMap<_, _> = kept.into_iter().map(|v| (v.round, (v, true))).collect();
        let own = voted.iter();
        let own = own.map(|(round, (voted, _))| ((*round, me), BallotTree::new(voted.ballot())));
        Self {
            hashes: HashChain::new(&config.key, 0, config.chain_length),
            me,
            config,
            view: ChainView::default(),
            leaves: BTreeMap::new(),
            sums: sums::Sums::default(),
            progress: BTreeMap::new(),
            ballots: own.collect(),
            voted,
            asked: BTreeMap::new(),
            openable_since: None,
            revealed: None,
            floor: 0,
            settled: BTreeSet::new(),
        }
    }

    /// Its account.
    pub fn account(&self) -> Address {
        self.me
    }

    /// What it publishes when it joins for the first time.
    pub fn first_tip(&self) -> Digest {
        HashChain::new(&self.config.key, 0, self.config.chain_length).top()
    }

    /// What it publishes when it joins, also again after it lost its seat: never a top whose links have been revealed.
    pub fn tip_to_join(&self) -> Digest {
        let (tip, length) = (self.view.tip, self.config.chain_length);
        if tip == Digest::ZERO {
            return self.first_tip();
        }
        match self.hashes.left(tip) {
            Some(left) if left >= duties::LEFT_MIN => tip,
            Some(_) => HashChain::new(&self.config.key, self.hashes.generation() + 1, length).top(),
            None => self.first_tip(),
        }
    }

    /// Its own ballot, for others to fetch: not before the contract shows the root, or they could copy it.
    pub fn shown_ballot(&self, round: u64) -> Option<&Voted> {
        let view = self.view.rounds.iter().find(|view| view.number == round)?;
        let shown = view.shown.contains(&self.me);
        self.voted.get(&round).map(|(v, _)| v).filter(|_| shown)
    }

    /// Jobs whose work it waits for or judges.
    pub fn busy(&self) -> usize {
        let open = |duty: &&Duty| !matches!(duty.state, State::Found(_));
        let rounds = self.progress.values();
        rounds.flat_map(|p| p.duties.values()).filter(open).count()
    }

    /// Advances the validator. No clock, no socket, no await.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Output> {
        let mut outputs = Vec::new();
        let about = about(&input);
        match input {
            Input::Chain(view) => self.look(*view, &mut outputs),
            Input::Leaves {
                router,
                post,
                bytes,
            } => self.leaves_came(router, post, &bytes, &mut outputs),
            Input::Work {
                round,
                subject,
                kept,
            } => self.work_came(round, subject, &kept, now, &mut outputs),
            Input::Found {
                round,
                subject,
                result,
            } => self.found(round, subject, result, &mut outputs),
            Input::Durable { round } => {
                if let Some((_, durable)) = self.voted.get_mut(&round) {
                    *durable = true;
                }
            }
            Input::Ballot { validator, voted } => self.ballot_came(validator, voted),
            Input::Tick => {}
        }
        self.step(about, now, &mut outputs);
        outputs
    }

    fn look(&mut self, view: ChainView, outputs: &mut Vec<Output>) {
        let here: BTreeSet<u64> = view.rounds.iter().map(|round| round.number).collect();
        for round in self.view.rounds.iter().map(|round| round.number) {
            if !here.contains(&round) {
                self.progress.remove(&round);
                self.ballots
                    .retain(|(of, who), _| *of != round || *who == self.me);
                self.settled.remove(&round);
                outputs.push(Output::Forget { round });
            }
        }
        let covered = |(router, post): &(Address, u64)| {
            let open = view.rounds.iter();
            let open = open.filter(|round| !self.settled.contains(&round.number));
            let covers = open.flat_map(|round| &round.covers);
            let mut of_router = covers.filter(|covered| covered.router == *router);
            of_router.any(|covered| covered.post(*post).is_some())
        };
        self.leaves.retain(|key, _| covered(key));
        for (router, below) in self.sums.keep(&view) {
            outputs.push(Output::ForgetSums { router, below });
        }
        if view.tip != self.view.tip && self.hashes.left(view.tip).is_none() {
            let length = self.config.chain_length;
            self.hashes = self.hashes.holding(&self.config.key, view.tip, length);
        }
        if let Some(oldest) = here.first() {
            self.floor = self.floor.max(*oldest);
            self.voted = self.voted.split_off(&self.floor);
            self.ballots = self.ballots.split_off(&(self.floor, Address::ZERO));
        }
        self.view = view;
    }

    fn leaves_came(&mut self, router: Address, post: u64, bytes: &[u8], outputs: &mut Vec<Output>) {
        let covers = self.view.rounds.iter().flat_map(|round| &round.covers);
        let mut known = covers
            .filter(|covered| covered.router == router)
            .filter_map(|covered| Some((covered.known(post)?, covered.post(post).is_some())));
        let Some((posted, mut covered)) = known.next() else {
            return;
        };
        covered |= known.any(|(_, covered)| covered);
        let content_id = posted.content_id;
        let Some(posted) = posted_file(bytes, (router, post), posted) else {
            return;
        };
        let PostedFile { file, hashes, tree } = posted;
        let kept = self
            .sums
            .came((router, post), content_id, PostSums::of(&file));
        outputs.extend(kept.map(|kept| Output::KeepSums(Box::new(kept))));
        if covered {
            let subjects = hashes.iter().map(|leaf| job_subject(router, *leaf));
            let subjects = subjects.collect();
            let receipts = file.leaves.into_iter().map(|(signed, _)| signed);
            let leaves = Leaves {
                receipts: receipts.collect(),
                subjects,
                tree,
            };
            self.leaves.insert((router, post), leaves);
        }
    }

    fn ballot_came(&mut self, validator: Address, voted: Voted) {
        let mut rounds = self.view.rounds.iter();
        let Some(view) = rounds.find(|view| view.number == voted.round) else {
            return;
        };
        let due = view.shown.contains(&validator)
            && !self.ballots.contains_key(&(voted.round, validator));
        // No more than there is something to say about, and nothing twice: what is kept here is bounded by what was posted.
        let jobs = view.covers.iter().flat_map(|covered| &covered.posts);
        let subjects: u64 = jobs.map(|post| u64::from(post.job_count) + 1).sum();
        let pairs = voted.verdicts.windows(2);
        let sound = voted.verdicts.len() as u64 <= subjects
            && pairs.into_iter().all(|pair| pair[0].0 < pair[1].0);
        if !due || !sound {
            return;
        }
        let ballot = BallotTree::new(voted.ballot());
        if view.committed.get(&validator) == Some(&ballot.root()) {
            self.ballots.insert((voted.round, validator), ballot);
        }
    }

    /// Asks for everything that is due and not done: of one round where only that one moved.
    fn step(&mut self, about: Option<u64>, now: Timestamp, outputs: &mut Vec<Output>) {
        if self.is_turn_to_open(now) && self.ask(Ask::Open, now) {
            outputs.push(Output::Open);
        }
        let rounds = std::mem::take(&mut self.view.rounds);
        let moved = |view: &&RoundView| about.is_none_or(|round| round == view.number);
        for view in rounds.iter().filter(moved) {
            self.serve(view, now, outputs);
        }
        self.renew(&rounds, now, outputs);
        self.view.rounds = rounds;
        self.asked.retain(|_, since| now.since(*since) < RETRY);
    }

    /// Whether a round can be opened, and those whose turn it is before had their time: all at once would pay for one call that counts.
    fn is_turn_to_open(&mut self, now: Timestamp) -> bool {
        if !self.view.openable {
            self.openable_since = None;
            return false;
        }
        let since = *self.openable_since.get_or_insert(now);
        let seats = &self.view.joined;
        let Some(place) = seats.keys().position(|who| *who == self.me) else {
            return true;
        };
        // The turn moves on with each round.
        let latest = self.view.rounds.last().map_or(0, |round| round.number);
        let first = (latest % seats.len() as u64) as usize;
        let before = (place + seats.len() - first) % seats.len();
        let wait = TURN.0.saturating_mul(before.min(TURNS_MAX) as u64);
        now.since(since) >= Millis(wait)
    }

    /// Whether to ask now.
    fn ask(&mut self, what: Ask, now: Timestamp) -> bool {
        let waits = |since: &Timestamp| now.since(*since) < RETRY;
        if self.asked.get(&what).is_some_and(waits) {
            return false;
        }
        self.asked.insert(what, now);
        true
    }

    /// A salt that only the key's holder knows, the same after every restart.
    fn salt(&self, round: u64) -> Digest {
        let mut bytes = b"stoa.audit.salt.v1".to_vec();
        bytes.extend(round.to_be_bytes());
        bytes.extend(self.config.domain.separator().0);
        bytes.extend(self.config.key.to_bytes());
        keccak256(bytes)
    }

    fn job_of(&self, duty: &Duty) -> Option<&SignedReceipt> {
        let leaves = self.leaves.get(&(duty.router, duty.post))?;
        leaves.receipts.get(duty.position)
    }

    fn job_id(&self, duty: &Duty) -> Option<JobId> {
        self.job_of(duty).map(|signed| signed.receipt.job_id)
    }
}

/// The round that an input is about, if it is about one.
fn about(input: &Input) -> Option<u64> {
    match input {
        Input::Work { round, .. } | Input::Found { round, .. } | Input::Durable { round } => {
            Some(*round)
        }
        Input::Ballot { voted, .. } => Some(voted.round),
        Input::Chain(_) | Input::Leaves { .. } | Input::Tick => None,
    }
}
