//! A planter: buys answers that it knows to be wrong, and so shows which validators look (docs/audits.md).
//!
//! Promise: nobody is convicted for a plant. Its provider answers wrongly only after the commitment was seen in a block, and a round that
//! covers the job opens later still: a job whose commitment did not come in time is answered right. The commitment is on disk before it is
//! sent, so that a planter that was killed names what it stored.
//!
//! Nobody is believed where a plant was posted: it is looked for in the leaf files, as validators do, and a file is what its post names or
//! nothing. Where the router of a plant keeps a file back, the plants that may stand in it are named: a name holds for the job in whatever
//! round, so that one that comes too early costs no more than what the plant would have shown. Before that the router was asked for some
//! seconds in this life, and the phase is near its end.
//!
//! One set at a time: nothing is bought while a plant of the set before is not named, and could be.

use crate::audit::posted_file;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use stoa_crypto::SecretKey;
use stoa_ledger::audit::hash::{plant_commitment, plant_digest};
use stoa_ledger::audit::place::Post;
use stoa_ledger::audit::rounds::Phase;
use stoa_types::{Address, Digest, JobId, Millis, Signature, Timestamp};

/// What was asked for and did not happen is asked for again after this.
const RETRY: Millis = Millis::from_secs(2);
/// The same for what a phase of a few seconds waits for.
const RETRY_NAME: Millis = Millis(500);

/// A leaf file is kept back when its router was asked for it for so long in this life.
const KEPT_BACK: Millis = Millis::from_secs(3);
/// So long before the end of their phase plants are named that may stand in a file that is kept back.
const LAST_CALL: Millis = Millis::from_secs(2);

/// Between two purchases at least: where its provider gets few of them, they must not become a flood.
const PAUSE_MIN: Millis = Millis(100);

/// Who a planter is and how much it plants.
#[derive(Debug, Clone)]
pub struct PlanterConfig {
    /// The customer that pays for the plants; it signs when they are named.
    pub key: SecretKey,
    /// The chain that judges.
    pub chain_id: u64,
    /// The contract of the rounds on it.
    pub rounds: Address,
    /// Whom it buys from.
    pub router: Address,
    /// Plants of one set.
    pub set: u32,
    /// Sets that this customer buys; 0 for no end. A start counts anew.
    pub sets: u32,
    /// From the end of a set to the beginning of the next: this long at most, and half of it at least.
    pub rest: Millis,
    /// Between two purchases of a set: this long at most.
    pub pause: Millis,
    /// How long its provider waits for a commitment to be in a block before it answers right instead.
    pub patience: Millis,
    /// A job that no router has posted this long after it was ordered is not posted any more.
    pub settling: Millis,
}

/// A job that is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plant {
    /// Which.
    pub job: JobId,
    /// Hides it until it is named.
    pub salt: Digest,
    /// When its provider got it.
    pub ordered_at: Timestamp,
    /// Who ordered it, and posts it if anybody does; records of before this do not say.
    #[serde(default)]
    pub router: Option<Address>,
}

impl Plant {
    fn may_be_of(&self, router: Address) -> bool {
        self.router.is_none_or(|of| of == router)
    }
}

/// What a planter keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PlantRecord {
    /// Before its commitment is sent.
    Planted(Plant),
    /// It was named, or never stored.
    Over {
        /// Which.
        job: JobId,
    },
}

/// One round as far as a planter looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlantRound {
    /// Its number.
    pub number: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Until when at the latest.
    pub ends: Timestamp,
    /// The posts that it covers, by router and number, which is counted from one.
    pub covers: BTreeMap<(Address, u64), Post>,
}

/// The contracts as a planter sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlantView {
    /// Those of its commitments that are stored, and the first round of each that its name holds in.
    pub stored: BTreeMap<Digest, u64>,
    /// Those of its jobs that were named.
    pub named: BTreeSet<JobId>,
    /// Rounds that are not closed.
    pub rounds: Vec<PlantRound>,
}

/// What happens to a planter.
#[derive(Debug, Clone)]
pub enum Input {
    /// What the contracts show now.
    Chain(Box<PlantView>),
    /// Its provider got a job of its customer and asks what to do with it.
    Ordered {
        /// Which.
        job: JobId,
        /// Random, for this job alone.
        salt: Digest,
    },
    /// The record about this job is on disk.
    Durable {
        /// Which.
        job: JobId,
    },
    /// A purchase ended.
    Bought {
        /// Whether there was an answer.
        answered: bool,
    },
    /// What a router gave as the leaf file of a post.
    Leaves {
        /// Whose post.
        router: Address,
        /// Which one, counted from one.
        post: u64,
        /// The file, if it is that.
        bytes: Vec<u8>,
    },
    /// Time passed.
    Tick,
}

/// What a planter wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Buy one answer as its customer.
    Buy,
    /// Keep this on disk; for a plant, answer with [`Input::Durable`].
    Keep(PlantRecord),
    /// Store a commitment.
    Commit {
        /// What hides the job.
        commitment: Digest,
    },
    /// Tell the provider what to do.
    Answer {
        /// Which job.
        job: JobId,
        /// Whether to answer wrongly.
        wrongly: bool,
    },
    /// Ask a router for the leaf file of a post.
    FetchLeaves {
        /// Whose post.
        router: Address,
        /// Which one, counted from one.
        post: u64,
    },
    /// Name a plant.
    Name {
        /// In which round.
        round: u64,
        /// Which.
        job: JobId,
        /// Its salt.
        salt: Digest,
        /// Of the customer.
        signature: Signature,
    },
    /// Something for the operator's log.
    Warn(String),
}

/// A plant that is not over.
#[derive(Debug, Clone)]
struct Open {
    plant: Plant,
    durable: bool,
    /// The provider waits for a word, since then.
    waits: Option<Timestamp>,
    /// Where it was posted.
    place: Option<(Address, u64)>,
    /// When each thing was asked for last.
    asked: BTreeMap<Ask, Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Keep,
    Commit,
    Name,
}

/// State of one planter.
#[derive(Debug, Clone)]
pub struct Planter {
    config: PlanterConfig,
    account: Address,
    view: PlantView,
    open: BTreeMap<JobId, Open>,
    /// Posts under rounds whose leaf files were read.
    read: BTreeSet<(Address, u64)>,
    /// When a leaf file was asked for first in this life, and last.
    asked: BTreeMap<(Address, u64), (Timestamp, Timestamp)>,
    /// Plants that are still to be ordered of the present set.
    left: u32,
    buying: bool,
    /// Sets that were begun.
    sets: u32,
    /// Nothing is bought before.
    next_at: Timestamp,
    /// Random bytes of the newest plant: how long to wait must not follow from a rule that all know.
    jitter: u16,
}

impl Planter {
    /// Comes back with all that was ever kept.
    pub fn recover(config: PlanterConfig, kept: impl IntoIterator<Item = PlantRecord>) -> Self {
        let mut open = BTreeMap::new();
        for record in kept {
            match record {
                PlantRecord::Planted(plant) => {
                    open.insert(plant.job, Open::of(plant, true));
                }
                PlantRecord::Over { job } => drop(open.remove(&job)),
            }
        }
        Self {
            account: config.key.address(),
            config,
            view: PlantView::default(),
            open,
            read: BTreeSet::new(),
            asked: BTreeMap::new(),
            left: 0,
            buying: false,
            sets: 0,
            next_at: Timestamp(0),
            jitter: 0,
        }
    }

    /// The customer that pays.
    pub fn account(&self) -> Address {
        self.account
    }

    /// Plants that are not over, and what hides them.
    pub fn open(&self) -> impl Iterator<Item = (JobId, Digest)> + '_ {
        let hidden = |(job, open): (&JobId, &Open)| (*job, self.commitment(&open.plant));
        self.open.iter().map(hidden)
    }

    fn commitment(&self, plant: &Plant) -> Digest {
        plant_commitment(plant.job, self.account, plant.salt)
    }

    /// Advances the planter. No clock, no socket, no await.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Chain(view) => self.look(*view),
            Input::Ordered { job, salt } => self.ordered(job, salt, now, &mut outputs),
            Input::Durable { job } => {
                if let Some(open) = self.open.get_mut(&job) {
                    open.durable = true;
                }
            }
            Input::Bought { answered } => self.bought(answered, now),
            Input::Leaves {
                router,
                post,
                bytes,
            } => self.leaves_came((router, post), &bytes),
            Input::Tick => {}
        }
        self.step(now, &mut outputs);
        outputs
    }

    fn look(&mut self, view: PlantView) {
        let covered = |key: &(Address, u64)| view.rounds.iter().any(|r| r.covers.contains_key(key));
        self.read.retain(covered);
        self.asked.retain(|key, _| covered(key));
        self.view = view;
    }

    /// Looks for plants in a leaf file. What is not the file that was posted is nothing.
    fn leaves_came(&mut self, key: (Address, u64), bytes: &[u8]) {
        let mut rounds = self.view.rounds.iter();
        let Some(posted) = rounds.find_map(|round| round.covers.get(&key)) else {
            return;
        };
        let Some(found) = posted_file(bytes, key, posted) else {
            return;
        };
        let receipts = found.file.leaves.iter().map(|(signed, _)| &signed.receipt);
        for receipt in receipts.filter(|receipt| receipt.account == self.account) {
            if let Some(open) = self.open.get_mut(&receipt.job_id) {
                open.place.get_or_insert(key);
            }
        }
        self.read.insert(key);
    }

    /// Asks for the leaf files in which plants may stand.
    fn fetch(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        let open = self.open.values().filter(|open| open.place.is_none());
        let unread: BTreeSet<_> = open
            .filter_map(|open| Some((open, *self.view.stored.get(&self.commitment(&open.plant))?)))
            .flat_map(|(open, first)| self.unread(&open.plant, first).map(|(_, key)| key))
            .collect();
        for key in unread {
            let (_, last) = self.asked.entry(key).or_insert((now, Timestamp(0)));
            if now.since(*last) >= RETRY_NAME {
                *last = now;
                let (router, post) = key;
                outputs.push(Output::FetchLeaves { router, post });
            }
        }
    }

    /// The posts under rounds from the `first` on in which a plant may stand and whose leaf files were not read.
    fn unread(
        &self,
        plant: &Plant,
        first: u64,
    ) -> impl Iterator<Item = (&PlantRound, (Address, u64))> {
        let plant = *plant;
        let rounds = self.view.rounds.iter();
        let rounds = rounds.filter(move |round| round.number >= first);
        let posts = rounds.flat_map(|round| round.covers.keys().map(move |key| (round, *key)));
        posts.filter(move |(_, key)| plant.may_be_of(key.0) && !self.read.contains(key))
    }

    fn ordered(&mut self, job: JobId, salt: Digest, now: Timestamp, outputs: &mut Vec<Output>) {
        if let Some(open) = self.open.get_mut(&job) {
            // Another attempt of the same job.
            open.waits = Some(now);
            return;
        }
        if self.left == 0 {
            let wrongly = false;
            return outputs.push(Output::Answer { job, wrongly });
        }
        self.left -= 1;
        self.jitter = u16::from_be_bytes([salt.0[0], salt.0[1]]);
        let plant = Plant {
            job,
            salt,
            ordered_at: now,
            router: Some(self.config.router),
        };
        let mut open = Open::of(plant, false);
        open.waits = Some(now);
        self.open.insert(job, open);
    }

    fn bought(&mut self, answered: bool, now: Timestamp) {
        self.buying = false;
        self.next_at = if !answered {
            now.plus(RETRY)
        } else {
            now.plus(PAUSE_MIN).plus(self.some_of(self.config.pause))
        };
    }

    /// A random part of a time.
    fn some_of(&self, most: Millis) -> Millis {
        let part = u128::from(most.0) * u128::from(self.jitter) / u128::from(u16::MAX);
        Millis(u64::try_from(part).unwrap_or(most.0))
    }

    fn step(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        self.fetch(now, outputs);
        let jobs: Vec<JobId> = self.open.keys().copied().collect();
        for job in jobs {
            if let Some(mut open) = self.open.remove(&job)
                && !self.serve(&mut open, now, outputs)
            {
                self.open.insert(job, open);
            }
        }
        // One that was never posted is named when there is a round again: in a network without other calls it takes the next set for that.
        let waits = self.open.values().any(|open| !self.is_late(open, now));
        if self.left == 0 && !self.buying && !waits && now >= self.next_at {
            if self.is_over() {
                return;
            }
            self.left = self.config.set;
            self.sets += 1;
        }
        if self.left > 0 && !self.buying && now >= self.next_at {
            self.buying = true;
            outputs.push(Output::Buy);
        }
    }

    /// Whether its sets are all bought and each of their plants is over or was never posted: another customer and provider are to go on.
    pub fn is_over(&self) -> bool {
        let most = self.config.sets;
        most > 0 && self.sets >= most && self.left == 0 && !self.buying && self.open.is_empty()
    }

    /// Whether no router posts it any more, if none has.
    fn is_late(&self, open: &Open, now: Timestamp) -> bool {
        now.since(open.plant.ordered_at) >= self.config.settling
    }

    /// What a plant asks for now. Whether it is over.
    fn serve(&mut self, open: &mut Open, now: Timestamp, outputs: &mut Vec<Output>) -> bool {
        let plant = open.plant;
        let job = plant.job;
        if self.view.named.contains(&job) {
            return self.end(open, now, outputs);
        }
        let commitment = self.commitment(&plant);
        let first = self.view.stored.get(&commitment).copied();
        let stored = first.is_some();
        if let Some(since) = open.waits
            && (stored || now.since(since) >= self.config.patience)
        {
            open.waits = None;
            let wrongly = stored;
            outputs.push(Output::Answer { job, wrongly });
        }
        if !open.durable {
            if open.asks(Ask::Keep, RETRY, now) {
                outputs.push(Output::Keep(PlantRecord::Planted(plant)));
            }
            return false;
        }
        let late = self.is_late(open, now);
        let Some(first) = first else {
            // Nobody waits for it any more, and it was answered right: it is not sent again. What is under way is waited for.
            if open.waits.is_some() && open.asks(Ask::Commit, RETRY, now) {
                outputs.push(Output::Commit { commitment });
            }
            return late && self.end(open, now, outputs);
        };
        if let Some((round, phase)) = self.round_of(open, first, now)
            && open.asks(Ask::Name, RETRY_NAME, now)
        {
            if phase > Phase::Plants && open.place.is_some() {
                outputs.push(Output::Warn(format!(
                    "plant {job} is named after its phase in round {round}: where its ruling has come, its provider, which is this planter's \
                     own, pays for a wrong answer"
                )));
            }
            let digest = plant_digest(self.config.chain_id, self.config.rounds, job);
            outputs.push(Output::Name {
                round,
                job,
                salt: plant.salt,
                signature: self.config.key.sign(digest),
            });
        }
        false
    }

    /// The round in which a plant is to be named now, if its ballots are shown: the one that covers it, or may cover it because a leaf file
    /// is kept back. One that was never posted is named in any round: then no later one waits for it.
    fn round_of(&self, open: &Open, first: u64, now: Timestamp) -> Option<(u64, Phase)> {
        let shown = |round: &&PlantRound| matches!(round.phase, Phase::Plants | Phase::Rulings);
        let rounds = self.view.rounds.iter();
        let mut rounds = rounds.filter(|round| round.number >= first).filter(shown);
        let found = match open.place {
            Some(place) => rounds.find(|round| round.covers.contains_key(&place)),
            None => {
                let unread: Vec<_> = self.unread(&open.plant, first).collect();
                let kept_back = |key: &(Address, u64)| {
                    let asked = self.asked.get(key);
                    asked.is_some_and(|(since, _)| now.since(*since) >= KEPT_BACK)
                };
                let at_last = |(round, key): &&(&PlantRound, (Address, u64))| {
                    let ends = round.phase > Phase::Plants || now.plus(LAST_CALL) >= round.ends;
                    shown(round) && ends && kept_back(key)
                };
                // Validators have not looked at what a round before its ballots covers, and what was only just asked for may come yet.
                let nowhere = || {
                    let hidden = |(round, key): &(&PlantRound, (Address, u64))| {
                        shown(round) && kept_back(key)
                    };
                    self.is_late(open, now) && unread.iter().all(hidden)
                };
                let hidden = unread.iter().find(at_last).map(|(round, _)| *round);
                hidden.or_else(|| rounds.next().filter(|_| nowhere()))
            }
        };
        found.map(|round| (round.number, round.phase))
    }

    fn end(&mut self, open: &Open, now: Timestamp, outputs: &mut Vec<Output>) -> bool {
        let job = open.plant.job;
        outputs.push(Output::Keep(PlantRecord::Over { job }));
        if self.left == 0 && self.open.is_empty() {
            let half = Millis(self.config.rest.0 / 2);
            self.next_at = now.plus(half).plus(self.some_of(half));
        }
        true
    }
}

impl Open {
    fn of(plant: Plant, durable: bool) -> Self {
        Self {
            plant,
            durable,
            waits: None,
            place: None,
            asked: BTreeMap::new(),
        }
    }

    /// Whether to ask now.
    fn asks(&mut self, what: Ask, retry: Millis, now: Timestamp) -> bool {
        let due = self
            .asked
            .get(&what)
            .is_none_or(|at| now.since(*at) >= retry);
        if due {
            self.asked.insert(what, now);
        }
        due
    }
}
