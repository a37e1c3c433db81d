//! What validators see of the contracts, and what the beacons drew.

use super::*;

impl World {
    /// Brings what the contracts show up to date, if anything changed.
    pub(super) fn show(&mut self) {
        let openable = self.openable();
        let phases = |rounds: &[RoundView]| {
            let same = |view: &RoundView| self.rounds.phase(view.number, self.now) == view.phase;
            rounds.iter().all(same)
        };
        if !self.dirty && openable == self.shown.2 && phases(&self.shown.1) {
            return;
        }
        let open = (1..=self.rounds.latest())
            .filter(|round| self.rounds.phase(*round, self.now) != Phase::Closed);
        let rounds = open.filter_map(|round| self.round_view(round));
        self.shown = (self.shown.0 + 1, rounds.collect(), openable);
        self.dirty = false;
    }

    pub(super) fn openable(&self) -> bool {
        let latest = self.rounds.round(self.rounds.latest());
        let rested =
            latest.is_none_or(|r| r.drawn_at != 0 && self.now >= r.opened_at + TIMES.interval);
        rested && self.posts.len() as u64 > self.rounds.last_of(router()).posts
    }

    /// What the beacons drew, computed apart from the validators.
    pub(super) fn note_draws(&mut self) {
        while let Some(round) = self
            .rounds
            .round(self.drawn + 1)
            .filter(|r| r.drawn_at != 0)
        {
            let (number, beacon) = (self.drawn + 1, round.beacon);
            let snapshot = self.rounds.snapshot(number, router());
            let before = self.rounds.snapshot(snapshot.previous, router()).posts;
            let mut counts: BTreeMap<Address, u32> = BTreeMap::new();
            for post in before..snapshot.posts {
                for leaf in &self.leaves[usize::try_from(post).expect("few posts")] {
                    let standing = self.verdict.record(leaf.provider).at(number);
                    let count = counts.entry(leaf.provider).or_default();
                    let sampling = self.plan.sampling;
                    if sampling.audits(beacon, leaf.subject, standing, *count) {
                        self.audited.entry(leaf.job).or_insert(post + 1);
                    }
                    *count += 1;
                }
            }
            self.drawn = number;
        }
        self.outcome.audited = self.audited.len() as u64;
    }

    pub(super) fn round_view(&self, number: u64) -> Option<RoundView> {
        let round = self.rounds.round(number)?;
        let phase = self.rounds.phase(number, self.now);
        let who = |place: &usize| round.committee.get(*place).map(|m| m.validator);
        let ends = match phase {
            Phase::Reveal => round.opened_at + TIMES.reveal,
            _ => round.drawn_at + TIMES.ballot,
        };
        let snapshot = self.rounds.snapshot(number, router());
        let before = self.rounds.snapshot(snapshot.previous, router()).posts;
        let range = before.min(snapshot.posts) as usize..snapshot.posts as usize;
        let roots = self.roots.get(range.clone())?.to_vec();
        let base = roots.first().map_or(before, |root| root.base);
        let earlier = base.saturating_sub(1).min(before) as usize..range.start;
        let standings = [0, 1, 2]
            .map(|n| provider(n).address())
            .map(|who| (who, self.verdict.record(who).at(number)));
        Some(RoundView {
            number,
            phase,
            ends: Timestamp(ends * 1_000),
            committee: round.committee.clone(),
            beacon: round.beacon,
            revealed: round.revealed.iter().filter_map(who).collect(),
            committed: round
                .ballots
                .iter()
                .filter_map(|(place, digest)| Some((who(place)?, *digest)))
                .collect(),
            shown: round.unsealed.iter().filter_map(who).collect(),
            votes_needed: self.rounds.votes_needed(number),
            covers: vec![Covered {
                router: router(),
                before,
                posts: self.posts.get(range)?.to_vec(),
                posted_at: Vec::new(),
                roots,
                earlier: self.posts.get(earlier)?.to_vec(),
                reversed: self.reversals.clone(),
                caps: self.caps.clone(),
            }],
            standings: standings.into_iter().collect(),
            rulings: self.rulings(number),
        })
    }

    pub(super) fn rulings(&self, round: u64) -> BTreeMap<Digest, RulingView> {
        let seen = |subject: &Digest| {
            let ruling = self.verdict.ruling(round, *subject)?;
            let seats = self.rounds.panel(round, *subject);
            let committee = &self.rounds.round(round)?.committee;
            let seats = seats.iter().enumerate();
            let seen = seats.filter(|(seat, _)| ruling.seen >> seat & 1 == 1);
            let view = RulingView {
                outcome: ruling.outcome,
                seen: seen
                    .filter_map(|(_, at)| Some(committee.get(*at)?.validator))
                    .collect(),
                combined: ruling.combined,
                answer_until: Timestamp((ruling.at + 20) * 1_000),
            };
            Some((*subject, view))
        };
        let ruled = self.ruled.get(&round).into_iter().flatten();
        ruled.filter_map(seen).collect()
    }
}
