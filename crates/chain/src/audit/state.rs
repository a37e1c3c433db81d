//! What the contracts' events say of audits, kept up to date: seats, rounds, ballots, rulings, reputation, and where routers are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stoa_crypto::PublicKey;
use stoa_ledger::audit::caps::Caps;
use stoa_ledger::audit::panel::{Member, panel};
use stoa_ledger::audit::place::Post;
use stoa_ledger::audit::rounds::{Phase, RoundsParams};
use stoa_ledger::audit::standing::{Sampling, Standing};
use stoa_ledger::audit::sums::{POSTS_MAX, PostedRoot, Reversed};
use stoa_ledger::audit::{Outcome, PANEL, VOTES};
use stoa_nodes::planter::{PlantRound, PlantView};
use stoa_nodes::validator::{ChainView, Covered, RoundView, RulingView};
use stoa_types::{Address, Digest, EndpointId, JobId, Millis, Timestamp};

use super::event::seconds;
use crate::event::ContractEvent;
use crate::indexer::Indexed;

/// Rounds are looked at so long after their rulings began, beside twice the time for answers: what nobody brought by then, nobody will.
const FOLLOWED: Millis = Millis::from_secs(600);

/// What the contracts were built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditParams {
    /// Times of a round.
    pub times: RoundsParams,
    /// Seconds that a panel member has to show its verdict after a ruling without it.
    pub answer: u64,
    /// How much is audited.
    pub sampling: Sampling,
}

/// Where a router says that it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Its endpoint key, proved to be its own.
    pub endpoint: EndpointId,
    /// Socket addresses, separated by commas.
    pub addresses: String,
}

/// Posts of a router that a round may still ask for.
#[derive(Debug, Clone, Default)]
struct Posts {
    /// Posts before those kept.
    dropped: u64,
    kept: Vec<KeptPost>,
    /// Posts under the newest snapshot.
    covered: u64,
    /// Number of the post whose payout root is in its window; zero for none.
    pending: u64,
    /// Number of the post whose payout root is claimable; zero for none.
    claimable: u64,
    /// Charges that a verdict reversed, of posts that are kept.
    reversed: Vec<Reversed>,
    /// What was allotted to the router.
    caps: Caps,
}

#[derive(Debug, Clone)]
struct KeptPost {
    post: Post,
    at: Timestamp,
    root: PostedRoot,
}

impl Posts {
    fn count(&self) -> u64 {
        self.dropped + self.kept.len() as u64
    }

    /// The posts after the first `from`, up to the first `to`.
    fn between(&self, from: u64, to: u64) -> Option<&[KeptPost]> {
        let place = |posts: u64| usize::try_from(posts.checked_sub(self.dropped)?).ok();
        self.kept.get(place(from)?..place(to)?)
    }

    /// The posts before the first `before` that the payout roots after them are measured by.
    fn earlier(&self, before: u64) -> &[KeptPost] {
        // Bases never fall, so that the first root reaches back the farthest.
        let first = self.between(before, self.count()).and_then(<[_]>::first);
        let base = first.map_or(before, |kept| kept.root.base);
        let from = base.saturating_sub(1).max(before.saturating_sub(POSTS_MAX));
        let from = from.max(self.dropped).min(before);
        self.between(from, before).unwrap_or_default()
    }

    /// Forgets posts that neither a round nor a payout root reaches back to, when rounds need those after the first `needed`.
    fn prune(&mut self, needed: u64) {
        let first = self.between(needed, self.count()).and_then(<[_]>::first);
        let base = first.map_or(self.claimable, |kept| kept.root.base);
        // Of what lies too far back no root is measured any more.
        let needed = needed.min(base.saturating_sub(1).max(needed.saturating_sub(POSTS_MAX)));
        let dead = usize::try_from(needed.saturating_sub(self.dropped)).unwrap_or(0);
        if dead > 0 && dead <= self.kept.len() {
            self.kept.drain(..dead);
            self.dropped += dead as u64;
            let dropped = self.dropped;
            self.reversed.retain(|reversed| reversed.after > dropped);
        }
    }
}

#[derive(Debug, Clone)]
struct RulingState {
    outcome: Outcome,
    at: u64,
    /// One bit for each seat.
    seen: u8,
    /// Whether a heavier ruling may take its place. Taken for so until the contract was asked.
    combined: bool,
}

#[derive(Debug, Clone)]
struct RoundState {
    opened_at: u64,
    committee: u32,
    plants_due: u32,
    plants_named: u32,
    drawn_at: Option<u64>,
    beacon: Digest,
    revealed: BTreeSet<Address>,
    /// Commitments; the roots of those that were shown.
    ballots: BTreeMap<Address, Digest>,
    shown: BTreeSet<Address>,
    last_commit: u64,
    last_shown: u64,
    /// Router, its posts when the round before it opened, and at this one.
    covers: Vec<(Address, u64, u64)>,
    standings: Arc<BTreeMap<Address, Standing>>,
    rulings: BTreeMap<Digest, RulingState>,
}

impl RoundState {
    /// Nothing of it was told yet.
    fn new() -> Self {
        Self {
            opened_at: 0,
            committee: 0,
            plants_due: 0,
            plants_named: 0,
            drawn_at: None,
            beacon: Digest::ZERO,
            revealed: BTreeSet::new(),
            ballots: BTreeMap::new(),
            shown: BTreeSet::new(),
            last_commit: 0,
            last_shown: 0,
            covers: Vec::new(),
            standings: Arc::default(),
            rulings: BTreeMap::new(),
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct AuditState {
    params: AuditParams,
    /// Validators with a seat, the keys that work is sealed to, and since when.
    seats: BTreeMap<Address, (PublicKey, Timestamp)>,
    tips: BTreeMap<Address, Digest>,
    enrolled: BTreeSet<Address>,
    reached: BTreeMap<Address, Reached>,
    posts: BTreeMap<Address, Posts>,
    committees: BTreeMap<u32, Arc<Vec<Member>>>,
    standings: Arc<BTreeMap<Address, Standing>>,
    rounds: BTreeMap<u64, RoundState>,
    /// Shared with the views: they are taken for each change and tick, and convictions are few.
    convicted: Arc<BTreeSet<Digest>>,
    /// Commitments of plants, each with the first round that its name holds in.
    stored: BTreeMap<Digest, u64>,
    /// Planted jobs that were named, and who paid them.
    named: BTreeSet<(JobId, Address)>,
    latest: u64,
    /// For each router the posts that no ruling can be about any more.
    over: BTreeMap<Address, u64>,
    /// Rises with every change.
    version: u64,
}

impl AuditState {
    /// Before anything happened.
    pub fn new(params: AuditParams) -> Self {
        Self {
            params,
            seats: BTreeMap::new(),
            tips: BTreeMap::new(),
            enrolled: BTreeSet::new(),
            reached: BTreeMap::new(),
            posts: BTreeMap::new(),
            committees: BTreeMap::new(),
            standings: Arc::default(),
            rounds: BTreeMap::new(),
            convicted: Arc::default(),
            stored: BTreeMap::new(),
            named: BTreeSet::new(),
            latest: 0,
            over: BTreeMap::new(),
            version: 0,
        }
    }

    /// What the contracts were built with.
    pub fn params(&self) -> &AuditParams {
        &self.params
    }

    /// Rises with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Validators that have a seat, and the keys that work is sealed to.
    pub fn validators(&self) -> impl Iterator<Item = (Address, PublicKey)> {
        self.seats.iter().map(|(who, (key, _))| (*who, *key))
    }

    /// Whether a validator has a seat.
    pub fn is_seated(&self, validator: Address) -> bool {
        self.seats.contains_key(&validator)
    }

    /// Whether a router's posts are audited.
    pub fn is_enrolled(&self, router: Address) -> bool {
        self.enrolled.contains(&router)
    }

    /// Routers that say where they are reached, and are not audited yet.
    pub fn not_enrolled(&self) -> impl Iterator<Item = Address> {
        let known = self.reached.keys().copied();
        known.filter(|router| !self.enrolled.contains(router))
    }

    /// Where a router is reached.
    pub fn reached(&self, router: Address) -> Option<&Reached> {
        self.reached.get(&router)
    }

    /// The newest round; zero before the first.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// How many of a router's first posts no ruling can be about any more.
    pub fn over(&self, router: Address) -> u64 {
        self.over.get(&router).copied().unwrap_or(0)
    }

    /// Takes one event in. Events come in the chain's order.
    pub fn apply(&mut self, indexed: &Indexed) {
        let at = seconds(indexed.at);
        self.version += 1;
        match &indexed.event {
            ContractEvent::RouterRegistered {
                router,
                endpoint,
                addresses,
                ..
            } => {
                let (endpoint, addresses) = (*endpoint, addresses.clone());
                self.reached.insert(
                    *router,
                    Reached {
                        endpoint,
                        addresses,
                    },
                );
            }
            ContractEvent::BatchPosted { .. }
            | ContractEvent::Promoted { .. }
            | ContractEvent::PendingVoided { .. }
            | ContractEvent::JobReversed { .. }
            | ContractEvent::Allotted { .. }
            | ContractEvent::ToppedUp { .. } => self.of_posts(indexed),
            ContractEvent::Joined {
                validator,
                tip,
                key,
            } => {
                self.seats.insert(*validator, (*key, indexed.at));
                self.tips.insert(*validator, *tip);
            }
            ContractEvent::Renewed { validator, tip } => {
                self.tips.insert(*validator, *tip);
            }
            ContractEvent::Left { validator } => drop(self.seats.remove(validator)),
            ContractEvent::Enrolled { router } => drop(self.enrolled.insert(*router)),
            ContractEvent::Struck { router } => drop(self.enrolled.remove(router)),
            ContractEvent::ProviderRated {
                provider,
                reputation_ppm,
                verified,
            } => {
                let standing = Standing {
                    reputation: *reputation_ppm,
                    verified: *verified,
                };
                Arc::make_mut(&mut self.standings).insert(*provider, standing);
            }
            ContractEvent::Convicted { fault, .. } => {
                Arc::make_mut(&mut self.convicted).insert(*fault);
            }
            ContractEvent::Planted { commitment, .. } => {
                self.stored.insert(*commitment, self.latest + 1);
            }
            ContractEvent::Covered {
                round,
                router,
                posts,
                ..
            } => {
                let known = self.posts.entry(*router).or_default();
                let before = std::mem::replace(&mut known.covered, *posts);
                self.round(*round).covers.push((*router, before, *posts));
            }
            ContractEvent::RoundOpened {
                round,
                committee,
                plants_due,
            } => {
                let standings = self.standings.clone();
                let state = self.round(*round);
                state.opened_at = at;
                state.committee = *committee;
                state.plants_due = *plants_due;
                state.standings = standings;
                self.latest = *round;
            }
            _ => self.of_round(&indexed.event, at),
        }
    }

    /// What a router posted, and what became of its payout roots and charges.
    fn of_posts(&mut self, indexed: &Indexed) {
        match &indexed.event {
            ContractEvent::BatchPosted {
                router,
                job_root,
                job_count,
                content_id,
                pay_root,
                gross,
                ..
            } => {
                let post = Post {
                    job_root: *job_root,
                    job_count: *job_count,
                    content_id: *content_id,
                };
                let posts = self.posts.entry(*router).or_default();
                let root = PostedRoot {
                    pay_root: *pay_root,
                    gross: *gross,
                    base: posts.claimable,
                };
                let at = indexed.at;
                posts.kept.push(KeptPost { post, at, root });
                if *pay_root != Digest::ZERO {
                    posts.pending = posts.count();
                }
            }
            ContractEvent::Allotted {
                developer,
                router,
                generation,
                cap,
                ..
            }
            | ContractEvent::ToppedUp {
                developer,
                router,
                generation,
                cap,
                ..
            } => {
                if cap.is_zero() {
                    return; // Anybody may allot nothing to anybody.
                }
                let posts = self.posts.entry(*router).or_default();
                let (count, settled) = (posts.count(), posts.dropped);
                posts
                    .caps
                    .raise((*developer, *generation), count, *cap, settled);
            }
            ContractEvent::Promoted { router, .. } => {
                let posts = self.posts.entry(*router).or_default();
                posts.claimable = std::mem::take(&mut posts.pending);
            }
            ContractEvent::PendingVoided { router, .. } => {
                self.posts.entry(*router).or_default().pending = 0;
            }
            ContractEvent::JobReversed {
                job,
                router,
                account,
                charge,
            } => {
                let posts = self.posts.entry(*router).or_default();
                let after = posts.count();
                posts.reversed.push(Reversed {
                    after,
                    job: *job,
                    account: *account,
                    charge: *charge,
                });
            }
            _ => {}
        }
    }

    fn round(&mut self, round: u64) -> &mut RoundState {
        self.rounds.entry(round).or_insert_with(RoundState::new)
    }

    fn of_round(&mut self, event: &ContractEvent, at: u64) {
        match event {
            ContractEvent::Revealed {
                round,
                validator,
                preimage,
            } => {
                self.tips.insert(*validator, *preimage);
                self.round(*round).revealed.insert(*validator);
            }
            ContractEvent::Drawn { round, beacon } => {
                let state = self.round(*round);
                (state.drawn_at, state.beacon) = (Some(at), *beacon);
            }
            ContractEvent::BallotCommitted {
                round,
                validator,
                commitment,
            } => {
                let state = self.round(*round);
                state.ballots.insert(*validator, *commitment);
                state.last_commit = at;
            }
            ContractEvent::BallotUnsealed {
                round,
                validator,
                root,
            } => {
                let state = self.round(*round);
                state.ballots.insert(*validator, *root);
                state.shown.insert(*validator);
                state.last_shown = at;
            }
            ContractEvent::PlantNamed {
                round,
                job,
                account,
                waited,
                ..
            } => {
                self.round(*round).plants_named += u32::from(*waited);
                self.named.insert((*job, *account));
            }
            ContractEvent::Ruled {
                round,
                subject,
                outcome,
                ..
            } => {
                let ruling = RulingState {
                    outcome: *outcome,
                    at,
                    seen: 0,
                    combined: true,
                };
                self.round(*round).rulings.insert(*subject, ruling);
            }
            _ => {}
        }
    }

    // ---- what no event says

    /// Whether a committee has to be asked for.
    pub(super) fn lacks_committee(&self, id: u32) -> bool {
        !self.committees.contains_key(&id)
    }

    /// Seconds within which a round is over, if its beacon is drawn in time.
    pub(super) fn life_of_round(&self) -> u64 {
        let times = &self.params.times;
        [
            times.reveal,
            times.ballot,
            times.unseal,
            times.plants,
            times.rulings,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    pub(super) fn set_committee(&mut self, id: u32, members: Vec<Member>) {
        self.version += 1;
        self.committees.insert(id, Arc::new(members));
    }

    /// Rulings that do not hold the whole panel yet.
    pub(super) fn unseen(&self, now: Timestamp) -> Vec<(u64, Digest)> {
        let mut unseen = Vec::new();
        for (number, round) in &self.rounds {
            let Some(members) = self.committees.get(&round.committee) else {
                continue;
            };
            if !self.is_followed(round, members, seconds(now)) {
                continue;
            }
            let seats = members.len().min(PANEL);
            let all = (1u8 << seats) - 1;
            let rulings = round.rulings.iter().filter(|(_, r)| r.seen != all);
            unseen.extend(rulings.map(|(subject, _)| (*number, *subject)));
        }
        unseen
    }

    /// What the contract says of a ruling. It says nothing where no seat was seen: whoever was asked has not got the ruling yet.
    pub(super) fn set_seen(&mut self, round: u64, subject: Digest, seen: u8, combined: bool) {
        if seen == 0 {
            return;
        }
        let rulings = self.rounds.get_mut(&round).map(|r| &mut r.rulings);
        if let Some(ruling) = rulings.and_then(|rulings| rulings.get_mut(&subject))
            && (ruling.seen, ruling.combined) != (seen, combined)
        {
            (ruling.seen, ruling.combined) = (seen, combined);
            self.version += 1;
        }
    }

    /// Forgets closed rounds, and posts that no other round can cover.
    pub(super) fn prune(&mut self, now: Timestamp) {
        let now = seconds(now);
        while let Some((number, round)) = self.rounds.first_key_value() {
            // Without its committee the phase is that of the latest end possible.
            let nobody = Arc::default();
            let members = self.committees.get(&round.committee).unwrap_or(&nobody);
            if round.opened_at == 0 || self.phase(round, members, now).0 != Phase::Closed {
                break;
            }
            let (number, covers) = (*number, round.covers.clone());
            for (router, _, posts) in covers {
                self.over.insert(router, posts);
            }
            self.rounds.remove(&number);
            self.version += 1;
        }
        let used: BTreeSet<u32> = self.rounds.values().map(|round| round.committee).collect();
        let newest = self.committees.keys().next_back().copied();
        self.committees
            .retain(|id, _| used.contains(id) || Some(*id) == newest);
        let mut first: BTreeMap<Address, u64> = BTreeMap::new();
        for (router, from, _) in self.rounds.values().flat_map(|round| &round.covers) {
            let least = first.entry(*router).or_insert(*from);
            *least = (*least).min(*from);
        }
        // Of others no post was ever covered, so that there is nothing to forget; strangers can name any number of those.
        let followed: BTreeSet<Address> = first.keys().chain(self.over.keys()).copied().collect();
        for router in followed {
            if let Some(posts) = self.posts.get_mut(&router) {
                let needed = first.get(&router).copied().unwrap_or(posts.covered);
                posts.prune(needed);
            }
        }
    }

    // ---- what it looks like

    /// Where a round stands, and until when at the latest, in seconds: the contract's `phase`.
    fn phase(&self, round: &RoundState, members: &[Member], now: u64) -> (Phase, u64) {
        let times = &self.params.times;
        let Some(drawn_at) = round.drawn_at else {
            return (Phase::Reveal, round.opened_at + times.reveal);
        };
        let full = !members.is_empty() && round.ballots.len() == members.len();
        let ballots = if full {
            round.last_commit
        } else {
            drawn_at + times.ballot
        };
        let all_shown = !round.shown.is_empty() && round.shown.len() == round.ballots.len();
        let unsealed = if all_shown {
            round.last_shown
        } else {
            ballots + times.unseal
        };
        let named = round.plants_named >= round.plants_due;
        let plants = unsealed + if named { 0 } else { times.plants };
        let rulings = plants + times.rulings;
        let phases = [
            (ballots, Phase::Ballot),
            (unsealed, Phase::Unseal),
            (plants, Phase::Plants),
            (rulings, Phase::Rulings),
        ];
        let found = phases.into_iter().find(|(end, _)| now < *end);
        found.map_or((Phase::Closed, rulings), |(end, phase)| (phase, end))
    }

    fn is_followed(&self, round: &RoundState, members: &[Member], now: u64) -> bool {
        let (phase, end) = self.phase(round, members, now);
        let began = end.saturating_sub(self.params.times.rulings);
        let patience = FOLLOWED.0 / 1_000 + 2 * self.params.answer;
        phase != Phase::Closed && (phase != Phase::Rulings || now < began + patience)
    }

    /// Whether a round could be opened now.
    fn is_openable(&self, now: u64) -> bool {
        let rested = self.rounds.get(&self.latest).is_none_or(|round| {
            round.drawn_at.is_some() && now >= round.opened_at + self.params.times.interval
        });
        let mut posts = self.enrolled.iter().filter_map(|who| self.posts.get(who));
        rested && !self.seats.is_empty() && posts.any(|posts| posts.count() > posts.covered)
    }

    /// What a validator looks at.
    pub fn view_of(&self, validator: Address, now: Timestamp) -> ChainView {
        let rounds = self.rounds.iter();
        ChainView {
            seated: self.seats.contains_key(&validator),
            tip: self.tips.get(&validator).copied().unwrap_or(Digest::ZERO),
            openable: self.is_openable(seconds(now)),
            rounds: rounds
                .filter_map(|(number, round)| self.round_view(*number, round, seconds(now)))
                .collect(),
            convicted: self.convicted.clone(),
            joined: self
                .seats
                .iter()
                .map(|(who, (_, at))| (*who, *at))
                .collect(),
        }
    }

    /// What a planter with these plants looks at: jobs that `account` paid, and what hides them.
    pub fn plant_view(
        &self,
        account: Address,
        open: impl Iterator<Item = (JobId, Digest)>,
        now: Timestamp,
    ) -> PlantView {
        let now = seconds(now);
        let rounds = self.rounds.iter().filter_map(|(number, round)| {
            let members = self.committees.get(&round.committee)?;
            let shown = round.opened_at > 0 && self.is_followed(round, members, now);
            let (phase, ends) = self.phase(round, members, now);
            shown.then(|| PlantRound {
                number: *number,
                phase,
                ends: Timestamp(ends.saturating_mul(1_000)),
                covers: self.posts_under(round),
            })
        });
        let mut view = PlantView {
            rounds: rounds.collect(),
            ..PlantView::default()
        };
        for (job, commitment) in open {
            let first = self.stored.get(&commitment);
            view.stored.extend(first.map(|first| (commitment, *first)));
            if self.named.contains(&(job, account)) {
                view.named.insert(job);
            }
        }
        view
    }

    fn posts_under(&self, round: &RoundState) -> BTreeMap<(Address, u64), Post> {
        let mut under = BTreeMap::new();
        for (router, before, posts) in &round.covers {
            let known = self.posts.get(router);
            let covered = known.and_then(|known| known.between(*before, *posts));
            let covered = (*before + 1..).zip(covered.unwrap_or_default());
            under.extend(covered.map(|(post, kept)| ((*router, post), kept.post)));
        }
        under
    }

    /// One round, if it is not closed and all about it is known.
    pub fn round_of(&self, number: u64, now: Timestamp) -> Option<RoundView> {
        self.round_view(number, self.rounds.get(&number)?, seconds(now))
    }

    fn round_view(&self, number: u64, round: &RoundState, now: u64) -> Option<RoundView> {
        let members = self.committees.get(&round.committee)?;
        if round.opened_at == 0 || !self.is_followed(round, members, now) {
            return None;
        }
        let (phase, ends) = self.phase(round, members, now);
        let single = self.params.times.devnet && members.len() == 1;
        // Who was drawn, and what sums are measured by, is needed until the ballot is made.
        let draws = phase <= Phase::Ballot;
        let covers = round.covers.iter().map(|(router, before, posts)| {
            let known = self.posts.get(router)?;
            let posts = known.between(*before, *posts)?;
            let earlier = known.earlier(*before).iter().filter(|_| draws);
            let reversed = known.reversed.iter().filter(|_| draws);
            Some(Covered {
                router: *router,
                before: *before,
                posts: posts.iter().map(|kept| kept.post).collect(),
                posted_at: posts.iter().map(|kept| kept.at).collect(),
                roots: posts.iter().map(|kept| kept.root).collect(),
                earlier: earlier.map(|kept| kept.post).collect(),
                reversed: reversed.copied().collect(),
                caps: if draws {
                    known.caps.clone()
                } else {
                    Caps::default()
                },
            })
        });
        Some(RoundView {
            number,
            phase,
            ends: Timestamp(ends.saturating_mul(1_000)),
            committee: members.to_vec(),
            beacon: round.beacon,
            revealed: round.revealed.clone(),
            committed: round.ballots.clone(),
            shown: round.shown.clone(),
            votes_needed: if single { 1 } else { VOTES },
            covers: covers.collect::<Option<_>>()?,
            standings: if draws {
                (*round.standings).clone()
            } else {
                BTreeMap::new()
            },
            rulings: self.rulings_of(round, members),
        })
    }

    fn rulings_of(&self, round: &RoundState, members: &[Member]) -> BTreeMap<Digest, RulingView> {
        let view = |(subject, ruling): (&Digest, &RulingState)| {
            let seats = panel(members, round.beacon, *subject, PANEL);
            let seen = seats.iter().enumerate();
            let seen = seen.filter(|(seat, _)| ruling.seen >> seat & 1 == 1);
            let seen = seen.filter_map(|(_, place)| Some(members.get(*place)?.validator));
            let view = RulingView {
                outcome: ruling.outcome,
                seen: seen.collect(),
                combined: ruling.combined,
                answer_until: Timestamp((ruling.at + self.params.answer).saturating_mul(1_000)),
            };
            (*subject, view)
        };
        round.rulings.iter().map(view).collect()
    }

    /// The standings of providers when a round opened, also after its ballots.
    pub fn standings_at(&self, round: u64) -> Option<&BTreeMap<Address, Standing>> {
        self.rounds.get(&round).map(|round| &*round.standings)
    }

    /// The newest round whose snapshot of `router` is above so many of its posts.
    pub fn round_covering(&self, router: Address, post: u64) -> Option<u64> {
        let mut rounds = self.rounds.iter().rev();
        let found = rounds.find(|(_, round)| {
            let mut covers = round.covers.iter();
            covers.any(|(of, from, to)| *of == router && post > *from && post <= *to)
        });
        found.map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::{Bps, JobId, TokenAmount};

    const ROUTER: Address = Address([1; 20]);

    fn told(state: &mut AuditState, event: ContractEvent) {
        state.apply(&Indexed {
            event,
            block: 7,
            at: Timestamp::from_secs(1_000),
            transaction: Digest([7; 32]),
            log_index: 0,
        });
    }

    fn post(state: &mut AuditState, index: u64, pay_root: Option<u8>) {
        let root = pay_root.map_or(Digest::ZERO, |byte| Digest([byte; 32]));
        told(
            state,
            ContractEvent::BatchPosted {
                router: ROUTER,
                index,
                job_root: Digest([2; 32]),
                job_count: 1,
                pay_root: root,
                gross: TokenAmount::from_units(u128::from(index)),
                content_id: Digest([u8::try_from(index).expect("few"); 32]),
                chain_head: Digest::ZERO,
            },
        );
    }

    fn promote(state: &mut AuditState) {
        let (pay_root, gross) = (Digest::ZERO, TokenAmount::ZERO);
        told(
            state,
            ContractEvent::Promoted {
                router: ROUTER,
                pay_root,
                gross,
            },
        );
    }

    /// A round that covers the posts so far.
    fn open(state: &mut AuditState, round: u64, posts: u64) {
        let covered = ContractEvent::Covered {
            round,
            router: ROUTER,
            posts,
            previous: round - 1,
        };
        told(state, covered);
        let opened = ContractEvent::RoundOpened {
            round,
            committee: 1,
            plants_due: 0,
        };
        told(state, opened);
        let beacon = Digest([6; 32]);
        told(state, ContractEvent::Drawn { round, beacon });
    }

    fn nothing_yet() -> AuditState {
        let bps = |value| Bps::new(value).expect("valid");
        AuditState::new(AuditParams {
            times: RoundsParams {
                interval: 1,
                reveal: 10,
                ballot: 40,
                unseal: 10,
                plants: 10,
                rulings: 100,
                devnet: true,
            },
            answer: 10,
            sampling: Sampling {
                most: bps(1_000),
                least: bps(500),
                first_jobs: 20,
            },
        })
    }

    #[test]
    fn a_chain_server_that_is_behind_does_not_say_that_a_ruling_is_final() {
        let (mut state, subject) = (nothing_yet(), Digest([9; 32]));
        let ruled = ContractEvent::Ruled {
            round: 1,
            subject,
            outcome: Outcome::Withheld,
            plant: false,
        };
        told(&mut state, ruled);
        let ruling = |state: &AuditState| {
            let ruling = &state.rounds[&1].rulings[&subject];
            (ruling.seen, ruling.combined)
        };
        // What a contract without the ruling answers.
        state.set_seen(1, subject, 0, false);
        assert_eq!(ruling(&state), (0, true));
        state.set_seen(1, subject, 3, false);
        assert_eq!(ruling(&state), (3, false));
    }

    #[test]
    fn who_allots_nothing_to_strangers_leaves_nothing_behind() {
        let mut state = nothing_yet();
        let mut allot = |router: u8, cap: u128| {
            let allotted = ContractEvent::Allotted {
                developer: Address([1; 20]),
                router: Address([router; 20]),
                generation: 1,
                cap: TokenAmount::from_units(cap),
                expiry: Timestamp(0),
            };
            told(&mut state, allotted);
        };
        for router in 1..=100 {
            allot(router, 0);
        }
        allot(200, 1);
        let kept: Vec<_> = state.posts.keys().collect();
        assert_eq!(kept, [&Address([200; 20])]);
    }

    #[test]
    fn a_round_shows_what_its_payout_roots_are_measured_by_and_keeps_it_as_long() {
        let mut state = nothing_yet();
        let member = Member {
            validator: Address([5; 20]),
            weight: 1,
        };
        state.set_committee(1, vec![member]);
        post(&mut state, 1, Some(1));
        promote(&mut state);
        post(&mut state, 2, Some(2));
        // Cancelled: what comes after is still measured by the first.
        told(
            &mut state,
            ContractEvent::PendingVoided {
                router: ROUTER,
                pay_root: Digest([2; 32]),
                gross: TokenAmount::ZERO,
            },
        );
        told(
            &mut state,
            ContractEvent::JobReversed {
                job: JobId([3; 32]),
                router: ROUTER,
                account: Address([4; 20]),
                charge: TokenAmount::from_units(1),
            },
        );
        open(&mut state, 1, 2);
        post(&mut state, 3, Some(3));
        post(&mut state, 4, None);
        open(&mut state, 2, 4);
        let now = Timestamp::from_secs(1_001);
        let view = state.round_of(2, now).expect("open");
        let covered = &view.covers[0];
        let bases: Vec<_> = covered.roots.iter().map(|root| root.base).collect();
        assert_eq!(bases, [1, 1]);
        let earlier: Vec<_> = covered
            .earlier
            .iter()
            .map(|post| post.content_id.0[0])
            .collect();
        assert_eq!(earlier, [1, 2], "back to the claimable one");
        assert_eq!(covered.reversed[0].after, 2);
        // A root of its own window becomes claimable: what was before it is needed by nobody once the rounds are over.
        promote(&mut state);
        post(&mut state, 5, Some(5));
        state.prune(Timestamp::from_secs(10_000));
        let posts = &state.posts[&ROUTER];
        assert_eq!((posts.dropped, posts.claimable), (2, 3));
        assert!(
            posts.reversed.is_empty(),
            "it was before the claimable root"
        );
        open(&mut state, 3, 5);
        let view = state
            .round_of(3, Timestamp::from_secs(1_001))
            .expect("open");
        assert_eq!(view.covers[0].roots[0].base, 3);
        assert_eq!(view.covers[0].earlier.len(), 2);
    }
}
