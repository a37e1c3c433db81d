//! A validator's hash chain and what it sees of the contracts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use stoa_crypto::{SecretKey, keccak256};
use stoa_ledger::audit::Outcome;
use stoa_ledger::audit::caps::Caps;
use stoa_ledger::audit::hash::link;
use stoa_ledger::audit::panel::Member;
use stoa_ledger::audit::place::{MAX_STEPS, Place, Post};
use stoa_ledger::audit::rounds::Phase;
use stoa_ledger::audit::standing::Standing;
use stoa_ledger::audit::sums::{PostedRoot, Reversed};
use stoa_types::{Address, Digest, Timestamp};

/// Links of one key's chains that are looked through for the published top: a second of work, and decades of rounds.
const LINKS: u32 = 1 << 22;

/// A chain of preimages. It follows from the key alone: nothing of it has to be kept, and nobody without the key knows a link that was not
/// revealed.
#[derive(Debug, Clone)]
pub struct HashChain {
    generation: u32,
    /// From the secret end to the top.
    links: Vec<Digest>,
}

impl HashChain {
    /// Chain number `generation` of a key, with so many reveals in it.
    pub fn new(key: &SecretKey, generation: u32, length: u32) -> Self {
        let mut seed = b"stoa.audit.chain.v1".to_vec();
        seed.extend(generation.to_be_bytes());
        seed.extend(key.to_bytes());
        let first = keccak256(seed);
        let links = std::iter::successors(Some(first), |below| Some(link(*below)));
        Self {
            generation,
            links: links.take(length as usize + 1).collect(),
        }
    }

    /// The chain of `key` that `top` stands in; the first one for an unknown top. That after `self` is the likeliest.
    pub(super) fn holding(&self, key: &SecretKey, top: Digest, length: u32) -> Self {
        let generations = if top == Digest::ZERO {
            0
        } else {
            LINKS / length.max(1)
        };
        std::iter::once(self.generation + 1)
            .chain(0..generations)
            .map(|generation| Self::new(key, generation, length))
            .find(|chain| chain.links.contains(&top))
            .unwrap_or_else(|| Self::new(key, 0, length))
    }

    /// What is published on joining.
    pub fn top(&self) -> Digest {
        self.links.last().copied().unwrap_or(Digest::ZERO)
    }

    /// Its number.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// How many reveals are left under `top`; `None` when it is no link of this chain.
    pub fn left(&self, top: Digest) -> Option<usize> {
        self.links.iter().rposition(|link| *link == top)
    }

    /// The link below `top`.
    pub fn below(&self, top: Digest) -> Option<Digest> {
        let at = self.left(top)?.checked_sub(1)?;
        self.links.get(at).copied()
    }
}

/// The audit contracts as far as a validator looks: always all of it, so that no event can be missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainView {
    /// Whether this validator has its seat.
    pub seated: bool,
    /// Top of its hash chain.
    pub tip: Digest,
    /// Whether a round could be opened now.
    pub openable: bool,
    /// Rounds that are not closed, oldest first.
    pub rounds: Vec<RoundView>,
    /// Ids of all faults that were punished; shared, because a view is taken for each change.
    pub convicted: Arc<BTreeSet<Digest>>,
    /// Since when each validator has its seat.
    pub joined: BTreeMap<Address, Timestamp>,
}

impl Default for ChainView {
    /// Before anything was seen.
    fn default() -> Self {
        Self {
            seated: false,
            tip: Digest::ZERO,
            openable: false,
            rounds: Vec::new(),
            convicted: Arc::default(),
            joined: BTreeMap::new(),
        }
    }
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundView {
    /// Its number.
    pub number: u64,
    /// Where it stands.
    pub phase: Phase,
    /// When this phase is over at the latest.
    pub ends: Timestamp,
    /// Who judges, with stake.
    pub committee: Vec<Member>,
    /// Zero before the draw.
    pub beacon: Digest,
    /// Who revealed.
    pub revealed: BTreeSet<Address>,
    /// What was committed, by whom; the root instead once it is shown.
    pub committed: BTreeMap<Address, Digest>,
    /// Who showed its ballot.
    pub shown: BTreeSet<Address>,
    /// Equal verdicts that decide.
    pub votes_needed: usize,
    /// What it covers, by router.
    pub covers: Vec<Covered>,
    /// Standings of providers when it opened; who is not in it is unknown.
    pub standings: BTreeMap<Address, Standing>,
    /// Rulings by subject.
    pub rulings: BTreeMap<Digest, RulingView>,
}

/// A ruling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulingView {
    /// What was ruled.
    pub outcome: Outcome,
    /// Members of the panel whose verdicts were counted, shown, or punished.
    pub seen: BTreeSet<Address>,
    /// Whether different votes on a batch were added up to reach it, so that a heavier one may take its place.
    pub combined: bool,
    /// From when on the silent ones can be punished.
    pub answer_until: Timestamp,
}

/// A router's posts under a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// Whose.
    pub router: Address,
    /// Its posts when the round before opened.
    pub before: u64,
    /// Those since, in order.
    pub posts: Vec<Post>,
    /// When each of them was posted.
    pub posted_at: Vec<Timestamp>,
    /// The payout root of each of them.
    pub roots: Vec<PostedRoot>,
    /// The posts right before them, as far back as their payout roots are measured by. Only until the ballot.
    pub earlier: Vec<Post>,
    /// Charges that a verdict reversed since the first of all these.
    pub reversed: Vec<Reversed>,
    /// What was allotted to it. Only until the ballot.
    pub caps: Caps,
}

impl Covered {
    /// A post by its number, counted from one.
    pub(super) fn post(&self, number: u64) -> Option<&Post> {
        let at = number.checked_sub(self.before)?.checked_sub(1)?;
        self.posts.get(usize::try_from(at).ok()?)
    }

    /// A post by its number, also one of those before.
    pub(super) fn known(&self, number: u64) -> Option<&Post> {
        let back = self.before.checked_sub(number);
        match back.and_then(|back| usize::try_from(back).ok()) {
            Some(back) => self.earlier.iter().rev().nth(back),
            None => self.post(number),
        }
    }

    /// The posts whose payout roots are to be judged, by number.
    pub(super) fn rooted(&self) -> impl Iterator<Item = (u64, &PostedRoot)> {
        let numbered = (self.before + 1..).zip(&self.roots);
        numbered.filter(|(_, root)| root.pay_root != Digest::ZERO)
    }

    /// When a post was posted; `None` when that is not known.
    pub(super) fn posted_at(&self, number: u64) -> Option<Timestamp> {
        let at = number.checked_sub(self.before)?.checked_sub(1)?;
        self.posted_at.get(usize::try_from(at).ok()?).copied()
    }

    /// The shortest walk over post `number` between two heads that the chain stores.
    pub(super) fn place(&self, number: u64, proof: Vec<Digest>) -> Option<Place> {
        self.post(number)?;
        let step = MAX_STEPS as u64;
        let last = self.before + self.posts.len() as u64;
        let below = (number - 1) / step * step;
        let from = below.max(self.before);
        let to = (below + step).min(last);
        let index = |posts: u64| usize::try_from(posts - self.before).ok();
        Some(Place {
            router: self.router,
            from,
            posts: self.posts.get(index(from)?..index(to)?)?.to_vec(),
            at: usize::try_from(number - from - 1).ok()?,
            proof,
        })
    }
}

impl RoundView {
    /// The place of a validator in the committee.
    pub(super) fn place_of(&self, who: Address) -> Option<usize> {
        self.committee.iter().position(|m| m.validator == who)
    }
}
