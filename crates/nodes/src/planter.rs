//! A planter: buys answers that it knows to be wrong, and so shows which validators look (docs/audits.md).
//!
//! Promise: nobody is convicted for a plant. Its provider answers wrongly only after the commitment was seen in a block, and a round that
//! covers the job opens later still: a job whose commitment did not come in time is answered right. The commitment is on disk before it is
//! sent, so that a planter that was killed names what it stored. A plant that is named in vain harms nobody: the contract only stops
//! waiting for it.
//!
//! One set at a time: nothing is bought while a plant of the set before is not named, and could be.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use stoa_crypto::SecretKey;
use stoa_ledger::audit::hash::{plant_commitment, plant_digest};
use stoa_ledger::audit::rounds::Phase;
use stoa_types::{Address, Digest, JobId, Millis, Signature, Timestamp};

/// What was asked for and did not happen is asked for again after this.
const RETRY: Millis = Millis::from_secs(2);
/// The same for what a phase of a few seconds waits for.
const RETRY_NAME: Millis = Millis(500);

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
    /// Plants of one set.
    pub set: u32,
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
    /// Routers, and their posts before and up to this round.
    pub covers: Vec<(Address, u64, u64)>,
}

impl PlantRound {
    fn has(&self, (router, post): (Address, u64)) -> bool {
        let mut covers = self.covers.iter();
        covers.any(|(of, before, last)| *of == router && *before < post && post <= *last)
    }
}

/// The contracts as a planter sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlantView {
    /// Those of its commitments that are stored.
    pub stored: BTreeSet<Digest>,
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
    /// Where a router has posted a job.
    Posted {
        /// Which.
        job: JobId,
        /// Whose post.
        router: Address,
        /// Which one, counted from one.
        post: u64,
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
    /// Ask the router where it has posted a job.
    Locate {
        /// Which.
        job: JobId,
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
    /// Whether the log says that it was named too late.
    told: bool,
    /// When each thing was asked for last.
    asked: BTreeMap<Ask, Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Keep,
    Commit,
    Locate,
    Name,
}

/// State of one planter.
#[derive(Debug, Clone)]
pub struct Planter {
    config: PlanterConfig,
    account: Address,
    view: PlantView,
    open: BTreeMap<JobId, Open>,
    /// Plants that are still to be ordered of the present set.
    left: u32,
    buying: bool,
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
            left: 0,
            buying: false,
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
            Input::Chain(view) => self.view = *view,
            Input::Ordered { job, salt } => self.ordered(job, salt, now, &mut outputs),
            Input::Durable { job } => {
                if let Some(open) = self.open.get_mut(&job) {
                    open.durable = true;
                }
            }
            Input::Bought { answered } => self.bought(answered, now),
            Input::Posted { job, router, post } => {
                if let Some(open) = self.open.get_mut(&job) {
                    open.place = Some((router, post));
                }
            }
            Input::Tick => {}
        }
        self.step(now, &mut outputs);
        outputs
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
            self.left = self.config.set;
        }
        if self.left > 0 && !self.buying && now >= self.next_at {
            self.buying = true;
            outputs.push(Output::Buy);
        }
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
        let stored = self.view.stored.contains(&commitment);
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
        if !stored {
            // Nobody waits for it any more, and it was answered right: it is not sent again. What is under way is waited for.
            if open.waits.is_some() && open.asks(Ask::Commit, RETRY, now) {
                outputs.push(Output::Commit { commitment });
            }
            return late && self.end(open, now, outputs);
        }
        if open.place.is_none() && !late && open.asks(Ask::Locate, RETRY_NAME, now) {
            outputs.push(Output::Locate { job });
        }
        let missed = open.place.is_some_and(|place| self.is_missed(place));
        if missed && !std::mem::replace(&mut open.told, true) {
            outputs.push(Output::Warn(format!(
                "plant {job} was not named in time: its provider, which is this planter's own, pays for a wrong answer"
            )));
        }
        if let Some(round) = self.round_of(open, late)
            && open.asks(Ask::Name, RETRY_NAME, now)
        {
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

    /// The round in which a plant is to be named now: the one that covers it. Where its time was missed, and for one that was never posted,
    /// any round will do: then no later one waits for it.
    fn round_of(&self, open: &Open, late: bool) -> Option<u64> {
        let missed = open.place.is_some_and(|place| self.is_missed(place));
        let mut rounds = self.view.rounds.iter();
        let found = rounds.find(|round| {
            let right = match open.place {
                Some(place) => missed || round.has(place),
                None => late,
            };
            right && round.phase == Phase::Plants
        });
        found.map(|round| round.number)
    }

    /// Whether the phase is over in which a plant at this place should have been named.
    fn is_missed(&self, (router, post): (Address, u64)) -> bool {
        let mut rounds = self.view.rounds.iter();
        if let Some(round) = rounds.find(|round| round.has((router, post))) {
            return round.phase > Phase::Plants;
        }
        let covers = self.view.rounds.iter().flat_map(|round| &round.covers);
        let mut of_router = covers.filter(|(of, ..)| *of == router).peekable();
        of_router.peek().is_some() && of_router.all(|(_, before, _)| *before >= post)
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
            told: false,
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
