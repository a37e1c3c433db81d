//! Plants: receipts known to be false, put among the others to see which validators look.
//!
//! A plant is as real as can be: ordered and paid by the planter's account, done wrong by a provider that is in on it, signed by all, stored as
//! a commitment before its round opens, named with the payer's signature after the ballots are shown. No validator can tell it from another job.

use super::{AuditOutcome, AuditPlan, Cheat, Outages, World, bps, domain, key, planter, validator};
use std::collections::BTreeSet;
use stoa_crypto::{keccak256, recover};
use stoa_ledger::audit::rounds::Phase;
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::{PANEL, hash};
use stoa_types::{Address, Digest, JobId, SignedReceipt};
use stoa_verify::judge::Answered;

/// What the planter keeps to itself.
#[derive(Debug, Default)]
pub(super) struct Plants {
    /// Jobs and salts that were stored and not named yet.
    open: Vec<(JobId, Digest)>,
    /// Subjects of those that were named, with their rounds.
    named: BTreeSet<(u64, Digest)>,
}

/// How a lazy validator fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planted {
    /// Plants on whose panel it sat, up to and with the one that cost it stake; all of them where none did.
    pub checks: u64,
    /// Plants named in all.
    pub plants: u64,
    /// Whether it lost stake.
    pub caught: bool,
}

impl World {
    /// Plants of the next batch, stored before it is posted.
    pub(super) fn plant(&mut self) -> Result<Vec<SignedReceipt>, String> {
        let mut receipts = Vec::new();
        let who = planter().address();
        for _ in 0..self.plan.plants {
            let signed = self.served(2, who, Answered::WrongOutput, true);
            let job = signed.receipt.job_id;
            let salt = keccak256([b"salt".as_slice(), &job.0].concat());
            let commitment = hash::plant_commitment(job, who, salt);
            let stored = self.rounds.plant(who, commitment);
            stored.map_err(|error| format!("a plant is refused: {error}"))?;
            self.plants.open.push((job, salt));
            receipts.push(signed);
        }
        Ok(receipts)
    }

    /// Names the plants of each round whose ballots are shown.
    pub(super) fn name_plants(&mut self) {
        let (latest, block) = (self.rounds.latest(), self.block());
        let (who, rounds) = (planter(), key("audit rounds").address());
        for round in 1..=latest {
            if self.rounds.phase(round, self.now) != Phase::Plants {
                continue;
            }
            let snapshot = self.rounds.snapshot(round, super::router());
            let before = self
                .rounds
                .snapshot(snapshot.previous, super::router())
                .posts;
            let covered = self.leaves.iter().take(snapshot.posts as usize);
            let covered = covered.skip(before as usize).flatten();
            let due: Vec<_> = covered
                .filter_map(|leaf| {
                    let at = self
                        .plants
                        .open
                        .iter()
                        .position(|(job, _)| *job == leaf.job)?;
                    Some((at, leaf.subject))
                })
                .collect();
            let mut named = BTreeSet::new();
            for (at, subject) in due {
                let (job, salt) = self.plants.open[at];
                let digest = hash::plant_digest(domain().chain_id, rounds, job);
                // Whose signature it is, the contract recovers.
                let signer = recover(digest, &who.sign(digest));
                let signer = signer.unwrap_or(Address::ZERO);
                let account = who.address();
                let done = self
                    .rounds
                    .name_plant(round, job, account, salt, signer, block);
                if done.is_ok() {
                    named.insert(job);
                    self.plants.named.insert((round, subject));
                    self.outcome.plants += 1;
                    self.dirty = true;
                }
            }
            self.plants.open.retain(|(job, _)| !named.contains(job));
        }
    }

    /// Named plants on whose panel validator 0 sits.
    fn checks(&self) -> u64 {
        let me = validator(0).address();
        let sits = |(round, subject): &&(u64, Digest)| {
            let place = self.rounds.place(*round, me);
            let seats = self.rounds.panel(*round, *subject);
            place.is_ok_and(|place| seats.contains(&place))
        };
        self.plants.named.iter().filter(sits).count() as u64
    }
}

/// One validator of `validators` calls `lazy` per mille of its jobs good without looking. Everybody else is honest. Plants, five in a batch,
/// show who looks: enough of them that it sits on the panels of some 500.
pub fn run_planted(
    seed: u64,
    validators: usize,
    lazy: u64,
) -> Result<(Planted, AuditOutcome), String> {
    let plan = AuditPlan {
        validators,
        batches: 100 * validators.div_ceil(PANEL) as u64,
        plants: 5,
        lazy,
        outages: Outages::Short,
        sampling: Sampling {
            most: bps(10_000),
            least: bps(10_000),
            first_jobs: 0,
        },
        ..AuditPlan::small(seed, Cheat::Idle)
    };
    let lazy_one = validator(0).address();
    let mut world = World::new(seed, plan);
    world.run(|world| world.slashed_at.contains_key(&lazy_one))?;
    world.check_honest()?;
    let planted = Planted {
        checks: world.checks(),
        plants: world.outcome.plants,
        caught: world.slashed_at.contains_key(&lazy_one),
    };
    Ok((planted, world.outcome))
}
