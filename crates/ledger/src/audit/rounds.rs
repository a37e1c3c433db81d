//! Model of AuditRounds: who may judge, when, and what the beacon was.

use super::panel::Member;
use super::{MAX_SEATS, PANEL, VOTES, hash, panel::panel};
use crate::stake::{Role, StakeError, StakeRegistry};
use crate::vault::{RouterTotals, Vault};
use std::collections::{BTreeMap, BTreeSet};
use stoa_types::{Address, Digest, JobId, TokenAmount};

/// Rounds that wait for a plant after it was stored. One that is not named by then is forgotten: it can still be named, and no round waits
/// for it.
pub const PLANT_ROUNDS: u64 = 32;

/// A router without stake keeps its seat while its next payout root could move as much as this.
pub const KEEPS_SEAT: TokenAmount = TokenAmount::from_units(1_000_000);

/// Times of a round in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundsParams {
    /// Least time between two openings.
    pub interval: u64,
    /// Longest reveal.
    pub reveal: u64,
    /// Longest work on ballots.
    pub ballot: u64,
    /// Longest unsealing.
    pub unseal: u64,
    /// Longest naming of plants.
    pub plants: u64,
    /// How long rulings are taken.
    pub rulings: u64,
    /// Whether a committee of one may decide alone.
    pub devnet: bool,
}

/// Where a round stands. It only moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not opened.
    None,
    /// Preimages are revealed.
    Reveal,
    /// Drawn; ballots are worked out and committed.
    Ballot,
    /// Ballots are shown.
    Unseal,
    /// Plants are named.
    Plants,
    /// Rulings are taken.
    Rulings,
    /// Over.
    Closed,
}

impl Phase {
    /// Its number in the contract.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// A router when a round opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Its posts.
    pub posts: u64,
    /// The round of its snapshot before this one; zero for none.
    pub previous: u64,
    /// Head of its job chain.
    pub head: Digest,
    /// Its claimable payout root.
    pub claimable: Digest,
    /// Its pending payout root; zero for none.
    pub pending: Digest,
}

impl Snapshot {
    /// Of a router that no round covered.
    pub const NONE: Self = Self {
        posts: 0,
        previous: 0,
        head: Digest::ZERO,
        claimable: Digest::ZERO,
        pending: Digest::ZERO,
    };
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// When it opened.
    pub opened_at: u64,
    /// In which block.
    pub open_block: u64,
    /// When its beacon was drawn; zero before.
    pub drawn_at: u64,
    /// When the last ballot was committed; zero when some are missing.
    pub ballots_at: u64,
    /// When the last committed ballot was shown; zero when some are missing.
    pub unsealed_at: u64,
    /// Validators and their weights.
    pub committee: Vec<Member>,
    /// Hash that the beacon takes from the chain; zero until fixed.
    pub block_hash: Digest,
    /// Contributions so far.
    pub mix: Digest,
    /// Zero until drawn.
    pub beacon: Digest,
    /// Places in the committee that revealed.
    pub revealed: BTreeSet<usize>,
    /// Places that committed a ballot.
    pub committed: BTreeSet<usize>,
    /// Places that showed it.
    pub unsealed: BTreeSet<usize>,
    /// Commitments, then roots, by place.
    pub ballots: BTreeMap<usize, Digest>,
    /// Plants stored and not named when it opened.
    pub plants_due: u64,
    /// Plants named in it.
    pub plants_named: u64,
}

/// Why a call failed. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each field is named in its sentence
pub enum RoundsError {
    /// Not the caller for this.
    #[error("{caller} does not hold the role that this call needs")]
    NotAllowed { caller: Address },
    /// A digest that must not be zero.
    #[error("a value that must not be zero is zero")]
    ZeroValue,
    /// Somebody else's key.
    #[error("the public key is not {who}'s: its hash gives another address")]
    WrongKey { who: Address },
    /// Too little stake.
    #[error("{who} does not hold the minimum stake")]
    NotStaked { who: Address },
    /// It still holds its stake, or still has jobs to audit.
    #[error("{who} may keep its seat")]
    StillSeated { who: Address },
    /// Twice.
    #[error("{who} has a seat")]
    AlreadySeated { who: Address },
    /// Not there.
    #[error("{who} has no seat")]
    NotSeated { who: Address },
    /// All taken.
    #[error("all {max} seats are taken")]
    SeatsTaken { max: usize },
    /// A chain must not change while preimages are revealed.
    #[error("round {round} reveals its preimages; wait until it is drawn")]
    RevealRunning { round: u64 },
    /// Too soon after the last one.
    #[error("the next round may open at {at}")]
    TooSoon { at: u64 },
    /// Nobody to judge.
    #[error("no validator holds its stake")]
    NoValidators,
    /// Nothing to judge.
    #[error("no router with a seat has posted since the round before")]
    NothingPosted,
    /// Another phase.
    #[error("round {round} is in phase {phase:?}")]
    WrongPhase { round: u64, phase: Phase },
    /// Same block as the opening.
    #[error("the hash of block {block} is not known yet")]
    SameBlock { block: u64 },
    /// The time is up, or is not up yet.
    #[error("the time for this ends or begins at {at}")]
    WrongTime { at: u64 },
    /// Not of the round's validators.
    #[error("{who} is not of the committee of round {round}")]
    NotOfCommittee { round: u64, who: Address },
    /// Done before.
    #[error("{who} has done this in round {round}")]
    AlreadyDone { round: u64, who: Address },
    /// Not the next link.
    #[error("this is not the preimage of {tip}")]
    WrongPreimage { tip: Digest },
    /// Not what was committed.
    #[error("root and salt do not give what {who} committed")]
    WrongOpening { who: Address },
    /// Stored before.
    #[error("plant {commitment} has been stored or named before")]
    AlreadyPlanted { commitment: Digest },
    /// Not stored, or too late for this round.
    #[error("plant {commitment} was not stored before round {round}")]
    NotPlanted { commitment: Digest, round: u64 },
    /// Not signed by the account that paid.
    #[error("the signature over the plant is not {account}'s")]
    WrongSigner { account: Address },
    /// The registry failed.
    #[error(transparent)]
    Stake(#[from] StakeError),
}

/// What a call needs to know of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its time.
    pub now: u64,
    /// Its number.
    pub number: u64,
}

/// The contract. See the module's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRounds {
    params: RoundsParams,
    admin: Address,
    verdict: Address,
    planters: BTreeSet<Address>,
    validators: Vec<Address>,
    routers: Vec<Address>,
    tips: BTreeMap<Address, Digest>,
    keys: BTreeMap<Address, (Digest, Digest)>,
    /// The newest round when a validator took its seat.
    joined_in: BTreeMap<Address, u64>,
    rounds: Vec<Round>,
    snapshots: BTreeMap<(u64, Address), Snapshot>,
    last_snapshot: BTreeMap<Address, u64>,
    /// Commitment to the newest round when it was stored, plus one.
    plants: BTreeMap<Digest, u64>,
    /// Of `outstanding`, those that may be of a round at the earliest.
    stored_for: BTreeMap<u64, u64>,
    outstanding: u64,
    /// The first round in which a name holds.
    named: BTreeMap<(JobId, Address), u64>,
}

impl AuditRounds {
    /// No validators, no rounds.
    pub fn new(params: RoundsParams, admin: Address) -> Self {
        Self {
            params,
            admin,
            verdict: Address::ZERO,
            planters: BTreeSet::new(),
            validators: Vec::new(),
            routers: Vec::new(),
            tips: BTreeMap::new(),
            keys: BTreeMap::new(),
            joined_in: BTreeMap::new(),
            rounds: Vec::new(),
            snapshots: BTreeMap::new(),
            last_snapshot: BTreeMap::new(),
            plants: BTreeMap::new(),
            stored_for: BTreeMap::new(),
            outstanding: 0,
            named: BTreeMap::new(),
        }
    }

    // ---- views

    /// The newest round; zero before the first.
    pub fn latest(&self) -> u64 {
        self.rounds.len() as u64
    }

    /// A round, counted from one.
    pub fn round(&self, round: u64) -> Option<&Round> {
        let place = usize::try_from(round).ok()?.checked_sub(1)?;
        self.rounds.get(place)
    }

    /// Validators that will be asked when the next round opens, if they hold their stake.
    pub fn validators(&self) -> &[Address] {
        &self.validators
    }

    /// The same with the two coordinates of their public keys, to which routers seal what an audit needs.
    pub fn validator_keys(&self) -> Vec<(Address, (Digest, Digest))> {
        let with_key = |who: &Address| Some((*who, *self.keys.get(who)?));
        self.validators.iter().filter_map(with_key).collect()
    }

    /// Routers whose posts are audited.
    pub fn routers(&self) -> &[Address] {
        &self.routers
    }

    /// Top of a validator's hash chain; zero when it never joined.
    pub fn tip(&self, validator: Address) -> Digest {
        self.tips.get(&validator).copied().unwrap_or(Digest::ZERO)
    }

    /// A router when a round opened.
    pub fn snapshot(&self, round: u64, router: Address) -> Snapshot {
        self.snapshots
            .get(&(round, router))
            .copied()
            .unwrap_or(Snapshot::NONE)
    }

    /// Whether an account planted a job, and stored that before the round opened.
    pub fn is_plant(&self, round: u64, job: JobId, account: Address) -> bool {
        let first = self.named.get(&(job, account));
        first.is_some_and(|first| *first <= round)
    }

    /// Plants stored and neither named nor forgotten.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Where a round stands at a time.
    pub fn phase(&self, round: u64, now: u64) -> Phase {
        let Some(r) = self.round(round) else {
            return Phase::None;
        };
        if r.drawn_at == 0 {
            return Phase::Reveal;
        }
        let or = |early: u64, late: u64| if early == 0 { late } else { early };
        let ballots = or(r.ballots_at, r.drawn_at + self.params.ballot);
        let unsealed = or(r.unsealed_at, ballots + self.params.unseal);
        let all_named = r.plants_named >= r.plants_due;
        let plants = unsealed + if all_named { 0 } else { self.params.plants };
        let rulings = plants + self.params.rulings;
        [
            (ballots, Phase::Ballot),
            (unsealed, Phase::Unseal),
            (plants, Phase::Plants),
            (rulings, Phase::Rulings),
        ]
        .into_iter()
        .find(|(end, _)| now < *end)
        .map_or(Phase::Closed, |(_, phase)| phase)
    }

    /// Seats for a subject, as places in the round's committee; empty before the draw.
    pub fn panel(&self, round: u64, subject: Digest) -> Vec<usize> {
        match self.round(round) {
            Some(r) if r.drawn_at != 0 => panel(&r.committee, r.beacon, subject, PANEL),
            _ => Vec::new(),
        }
    }

    /// How many equal verdicts decide in a round.
    pub fn votes_needed(&self, round: u64) -> usize {
        let alone = self.round(round).is_some_and(|r| r.committee.len() == 1);
        if self.params.devnet && alone {
            1
        } else {
            VOTES
        }
    }

    /// The place of a validator in a round's committee.
    pub fn place(&self, round: u64, who: Address) -> Result<usize, RoundsError> {
        self.round(round)
            .and_then(|r| r.committee.iter().position(|m| m.validator == who))
            .ok_or(RoundsError::NotOfCommittee { round, who })
    }

    /// The root that a place showed; `None` when it showed none.
    pub fn ballot_root(&self, round: u64, place: usize) -> Option<Digest> {
        let r = self.round(round)?;
        r.unsealed
            .contains(&place)
            .then(|| r.ballots.get(&place).copied().unwrap_or(Digest::ZERO))
    }

    // ---- admin

    /// The admin names the contract that may take a seat away.
    pub fn set_verdict(&mut self, caller: Address, verdict: Address) -> Result<(), RoundsError> {
        self.only(caller, self.admin)?;
        self.verdict = verdict;
        Ok(())
    }

    /// The admin allows or refuses a planter.
    pub fn set_planter(
        &mut self,
        caller: Address,
        planter: Address,
        allowed: bool,
    ) -> Result<(), RoundsError> {
        self.only(caller, self.admin)?;
        if allowed {
            self.planters.insert(planter);
        } else {
            self.planters.remove(&planter);
        }
        Ok(())
    }

    // ---- seats

    /// A staked validator takes a seat and publishes the top of its hash chain and its public key, by its coordinates.
    pub fn join(
        &mut self,
        stakes: &StakeRegistry,
        caller: Address,
        tip: Digest,
        key: (Digest, Digest),
    ) -> Result<(), RoundsError> {
        if tip == Digest::ZERO {
            return Err(RoundsError::ZeroValue);
        }
        if hash::key_owner(key) != caller {
            return Err(RoundsError::WrongKey { who: caller });
        }
        self.not_revealing()?;
        take_seat(&mut self.validators, stakes, Role::Validator, caller)?;
        self.tips.insert(caller, tip);
        self.keys.insert(caller, key);
        self.joined_in.insert(caller, self.latest());
        Ok(())
    }

    /// A validator gives its seat up. What it owes to rounds that are open stays.
    pub fn quit(&mut self, caller: Address) -> Result<(), RoundsError> {
        give_seat(&mut self.validators, caller)
    }

    /// A validator publishes the top of a new chain.
    pub fn renew(&mut self, caller: Address, tip: Digest) -> Result<(), RoundsError> {
        if tip == Digest::ZERO {
            return Err(RoundsError::ZeroValue);
        }
        self.not_revealing()?;
        if !self.validators.contains(&caller) {
            return Err(RoundsError::NotSeated { who: caller });
        }
        self.tips.insert(caller, tip);
        Ok(())
    }

    /// Anyone takes the seat of a validator that lost its stake.
    pub fn unseat(&mut self, stakes: &StakeRegistry, who: Address) -> Result<(), RoundsError> {
        if stakes.is_active(Role::Validator, who)? {
            return Err(RoundsError::StillSeated { who });
        }
        give_seat(&mut self.validators, who)
    }

    /// The verdict takes the seat of a validator that missed a duty in `round`, so that one outage is not punished round after round. False
    /// when it has none, or one that it took after the round opened.
    pub fn suspend(
        &mut self,
        caller: Address,
        who: Address,
        round: u64,
    ) -> Result<bool, RoundsError> {
        self.only(caller, self.verdict)?;
        if self.joined_in.get(&who).copied().unwrap_or_default() >= round {
            return Ok(false);
        }
        Ok(give_seat(&mut self.validators, who).is_ok())
    }

    /// Anyone gives a staked router its seat: from then on its posts are audited.
    pub fn enrol(&mut self, stakes: &StakeRegistry, router: Address) -> Result<(), RoundsError> {
        take_seat(&mut self.routers, stakes, Role::Router, router)
    }

    /// Anyone takes the seat of a router that lost its stake, has nothing posted that no round covers and next to nothing left that a payout
    /// root could move: without a seat nobody judges what it posts.
    pub fn strike(
        &mut self,
        stakes: &StakeRegistry,
        vault: &Vault,
        router: Address,
    ) -> Result<(), RoundsError> {
        let covered = self.last_of(router).posts;
        let totals = vault.totals(router);
        let leaves = totals.posts <= covered && movable(&totals) < KEEPS_SEAT;
        if stakes.is_active(Role::Router, router)? || !leaves {
            return Err(RoundsError::StillSeated { who: router });
        }
        give_seat(&mut self.routers, router)
    }

    // ---- a round

    /// Anyone opens the next round.
    pub fn open(
        &mut self,
        stakes: &StakeRegistry,
        vault: &Vault,
        block: Block,
    ) -> Result<u64, RoundsError> {
        self.not_revealing()?;
        if let Some(last) = self.rounds.last() {
            let at = last.opened_at + self.params.interval;
            if block.now < at {
                return Err(RoundsError::TooSoon { at });
            }
        }
        let committee = self.committee(stakes)?;
        if committee.is_empty() {
            return Err(RoundsError::NoValidators);
        }
        let snapshots: Vec<_> = self
            .routers
            .iter()
            .map(|router| (*router, vault.totals(*router)))
            .filter(|(router, totals)| totals.posts > self.last_of(*router).posts)
            .collect();
        if snapshots.is_empty() {
            return Err(RoundsError::NothingPosted);
        }
        let round = self.latest() + 1;
        let forgotten = round.checked_sub(PLANT_ROUNDS);
        self.outstanding -= forgotten.map_or(0, |round| self.waiting_since(round));
        for (router, totals) in snapshots {
            let previous = self.last_snapshot.get(&router).copied().unwrap_or_default();
            self.snapshots
                .insert((round, router), taken(&totals, previous));
            self.last_snapshot.insert(router, round);
        }
        self.rounds.push(Round {
            opened_at: block.now,
            open_block: block.number,
            drawn_at: 0,
            ballots_at: 0,
            unsealed_at: 0,
            committee,
            block_hash: Digest::ZERO,
            mix: Digest::ZERO,
            beacon: Digest::ZERO,
            revealed: BTreeSet::new(),
            committed: BTreeSet::new(),
            unsealed: BTreeSet::new(),
            ballots: BTreeMap::new(),
            plants_due: self.outstanding,
            plants_named: 0,
        });
        Ok(round)
    }

    /// A validator reveals its next preimage. `block_hash` is what the contract reads from the chain. Gives whether this drew the beacon.
    pub fn reveal(
        &mut self,
        caller: Address,
        preimage: Digest,
        block_hash: Digest,
        block: Block,
    ) -> Result<bool, RoundsError> {
        let round = self.revealing(block)?;
        let end = self.at(round).opened_at + self.params.reveal;
        if block.now >= end {
            return Err(RoundsError::WrongTime { at: end });
        }
        let place = self.place(round, caller)?;
        if self.at(round).revealed.contains(&place) {
            return Err(RoundsError::AlreadyDone { round, who: caller });
        }
        let tip = self.tip(caller);
        if hash::link(preimage) != tip {
            return Err(RoundsError::WrongPreimage { tip });
        }
        self.tips.insert(caller, preimage);
        let r = self.at_mut(round);
        fix(r, block_hash);
        r.mix = hash::mixed(r.mix, hash::contribution(caller, preimage));
        r.revealed.insert(place);
        let all = r.revealed.len() == r.committee.len();
        if all {
            drawn(r, round, block.now);
        }
        Ok(all)
    }

    /// Anyone draws the beacon when the time to reveal is over. Who did not reveal, where others did, loses its seat.
    pub fn draw(&mut self, block_hash: Digest, block: Block) -> Result<(), RoundsError> {
        let round = self.revealing(block)?;
        let at = self.at(round).opened_at + self.params.reveal;
        if block.now < at {
            return Err(RoundsError::WrongTime { at });
        }
        let r = self.at_mut(round);
        fix(r, block_hash);
        drawn(r, round, block.now);
        if !r.revealed.is_empty() {
            let missed = |(place, member): (usize, &Member)| {
                (!r.revealed.contains(&place)).then_some(member.validator)
            };
            let members = r.committee.iter().enumerate();
            let missed: Vec<_> = members.filter_map(missed).collect();
            for who in missed {
                // One that has quit has no seat to lose.
                let _ = give_seat(&mut self.validators, who);
            }
        }
        Ok(())
    }

    /// A validator commits its ballot.
    pub fn commit(
        &mut self,
        caller: Address,
        round: u64,
        commitment: Digest,
        block: Block,
    ) -> Result<(), RoundsError> {
        self.in_phase(round, Phase::Ballot, block)?;
        if commitment == Digest::ZERO {
            return Err(RoundsError::ZeroValue);
        }
        let place = self.place(round, caller)?;
        let r = self.at_mut(round);
        if !r.committed.insert(place) {
            return Err(RoundsError::AlreadyDone { round, who: caller });
        }
        r.ballots.insert(place, commitment);
        if r.committed.len() == r.committee.len() {
            r.ballots_at = block.now;
        }
        Ok(())
    }

    /// A validator shows its ballot.
    pub fn unseal(
        &mut self,
        caller: Address,
        round: u64,
        root: Digest,
        salt: Digest,
        block: Block,
    ) -> Result<(), RoundsError> {
        self.in_phase(round, Phase::Unseal, block)?;
        let place = self.place(round, caller)?;
        let r = self.at_mut(round);
        if r.unsealed.contains(&place) {
            return Err(RoundsError::AlreadyDone { round, who: caller });
        }
        let committed = r.ballots.get(&place).copied();
        if committed != Some(hash::commitment(round, caller, root, salt)) {
            return Err(RoundsError::WrongOpening { who: caller });
        }
        r.ballots.insert(place, root);
        r.unsealed.insert(place);
        if r.unsealed.len() == r.committed.len() {
            r.unsealed_at = block.now;
        }
        Ok(())
    }

    // ---- plants

    /// A planter stores the commitment to a plant, before the round that covers it opens.
    pub fn plant(&mut self, caller: Address, commitment: Digest) -> Result<(), RoundsError> {
        if !self.planters.contains(&caller) {
            return Err(RoundsError::NotAllowed { caller });
        }
        if self.plants.contains_key(&commitment) {
            return Err(RoundsError::AlreadyPlanted { commitment });
        }
        let first = self.latest() + 1;
        self.plants.insert(commitment, first);
        *self.stored_for.entry(first).or_default() += 1;
        self.outstanding += 1;
        Ok(())
    }

    /// Anyone who knows it names a plant, when the ballots of the round are shown. `signer` is whoever signed [`hash::plant_digest`]. The name
    /// holds in all rounds that opened after the plant was stored, and changes no ruling that has come. Gives the first of
    /// those rounds, and whether this one waited for it.
    pub fn name_plant(
        &mut self,
        round: u64,
        job: JobId,
        account: Address,
        salt: Digest,
        signer: Address,
        block: Block,
    ) -> Result<(u64, bool), RoundsError> {
        let phase = self.phase(round, block.now);
        if !matches!(phase, Phase::Plants | Phase::Rulings) {
            return Err(RoundsError::WrongPhase { round, phase });
        }
        let commitment = hash::plant_commitment(job, account, salt);
        let first = match self.plants.get(&commitment) {
            Some(0) => return Err(RoundsError::AlreadyPlanted { commitment }),
            Some(first) if *first <= round => *first,
            _ => return Err(RoundsError::NotPlanted { commitment, round }),
        };
        if signer != account || account == Address::ZERO {
            return Err(RoundsError::WrongSigner { account });
        }
        self.plants.insert(commitment, 0);
        if self.latest() < first + PLANT_ROUNDS {
            *self.stored_for.entry(first).or_default() -= 1;
            self.outstanding -= 1;
        }
        // One that was forgotten when the round opened is none of those that the round waits for.
        let waited = phase == Phase::Plants && round < first + PLANT_ROUNDS;
        self.at_mut(round).plants_named += u64::from(waited);
        let known = self.named.entry((job, account)).or_insert(first);
        *known = first.min(*known);
        Ok((first, waited))
    }

    // ---- private

    fn only(&self, caller: Address, holder: Address) -> Result<(), RoundsError> {
        if caller == holder && caller != Address::ZERO {
            Ok(())
        } else {
            Err(RoundsError::NotAllowed { caller })
        }
    }

    fn waiting_since(&self, round: u64) -> u64 {
        self.stored_for.get(&round).copied().unwrap_or_default()
    }

    fn not_revealing(&self) -> Result<(), RoundsError> {
        match self.rounds.last() {
            Some(last) if last.drawn_at == 0 => Err(RoundsError::RevealRunning {
                round: self.latest(),
            }),
            _ => Ok(()),
        }
    }

    /// The newest round, if it waits for its beacon and the hash of its block can be known.
    fn revealing(&self, block: Block) -> Result<u64, RoundsError> {
        let round = self.latest();
        self.in_phase(round, Phase::Reveal, block)?;
        let opened = self.at(round).open_block;
        if block.number <= opened {
            return Err(RoundsError::SameBlock { block: opened });
        }
        Ok(round)
    }

    fn in_phase(&self, round: u64, wanted: Phase, block: Block) -> Result<(), RoundsError> {
        let phase = self.phase(round, block.now);
        if phase == wanted {
            Ok(())
        } else {
            Err(RoundsError::WrongPhase { round, phase })
        }
    }

    fn committee(&self, stakes: &StakeRegistry) -> Result<Vec<Member>, StakeError> {
        let mut committee = Vec::new();
        for validator in &self.validators {
            if stakes.is_active(Role::Validator, *validator)? {
                let active = stakes.stake_of(Role::Validator, *validator).active.units();
                committee.push(Member {
                    validator: *validator,
                    weight: active.min((1 << 96) - 1),
                });
            }
        }
        Ok(committee)
    }

    /// The newest snapshot of a router.
    pub fn last_of(&self, router: Address) -> Snapshot {
        let round = self.last_snapshot.get(&router).copied().unwrap_or_default();
        self.snapshot(round, router)
    }

    fn at(&self, round: u64) -> &Round {
        self.round(round)
            .expect("a round in a phase has been opened")
    }

    fn at_mut(&mut self, round: u64) -> &mut Round {
        let place = usize::try_from(round - 1).expect("rounds are counted by the length of a list");
        &mut self.rounds[place]
    }
}

fn fix(round: &mut Round, block_hash: Digest) {
    if round.block_hash == Digest::ZERO {
        round.block_hash = block_hash;
    }
}

fn drawn(r: &mut Round, round: u64, now: u64) {
    r.beacon = hash::beacon(round, r.block_hash, r.mix);
    r.drawn_at = now;
}

/// What the next payout root of a router could move: what its allotments hold, and what was debited and nobody claimed.
fn movable(totals: &RouterTotals) -> TokenAmount {
    let held = totals.cap_total.checked_sub(totals.released_total);
    let left = held.and_then(|held| held.checked_sub(totals.claimed_gross));
    left.expect("a vault releases and pays what was allotted, once")
}

fn taken(totals: &RouterTotals, previous: u64) -> Snapshot {
    let pending = totals.pending.map(|pending| pending.pay_root);
    Snapshot {
        posts: totals.posts,
        previous,
        head: totals.chain_head,
        claimable: totals.claimable.0,
        pending: pending.unwrap_or(Digest::ZERO),
    }
}

fn take_seat(
    seats: &mut Vec<Address>,
    stakes: &StakeRegistry,
    role: Role,
    who: Address,
) -> Result<(), RoundsError> {
    if seats.contains(&who) {
        return Err(RoundsError::AlreadySeated { who });
    }
    if seats.len() >= MAX_SEATS {
        return Err(RoundsError::SeatsTaken { max: MAX_SEATS });
    }
    if !stakes.is_active(role, who)? {
        return Err(RoundsError::NotStaked { who });
    }
    seats.push(who);
    Ok(())
}

fn give_seat(seats: &mut Vec<Address>, who: Address) -> Result<(), RoundsError> {
    let place = seats.iter().position(|seat| *seat == who);
    let place = place.ok_or(RoundsError::NotSeated { who })?;
    seats.swap_remove(place);
    Ok(())
}
