//! Up to the ballot: preimages, leaf files, work, verdicts.

use super::chain::RoundView;
use super::{Ask, Duty, HashChain, Output, State, Validator, Voted};
use crate::audit::{KeptWork, WorkRequest};
use std::collections::{BTreeMap, BTreeSet};
use stoa_ledger::audit::ballot::{BallotTree, Verdict};
use stoa_ledger::audit::panel::panel;
use stoa_ledger::audit::rounds::Phase;
use stoa_ledger::audit::{Outcome, PANEL, hash};
use stoa_types::{Address, Digest, Millis, Tier, Timestamp};
use stoa_verify::judge::{
    Answered, Case, Finding, NotJudged, OrderFault, check_order, check_receipt,
};

/// A chain with fewer reveals left is replaced.
pub(super) const LEFT_MIN: usize = 64;

const fn verdict(outcome: Outcome) -> Verdict {
    Verdict {
        outcome,
        digest: Digest::ZERO,
    }
}

impl Validator {
    /// What a round asks of this validator now.
    pub(super) fn serve(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        if view.number < self.floor || self.settled.contains(&view.number) {
            return;
        }
        let member = view.place_of(self.me).is_some();
        match view.phase {
            Phase::Reveal => self.reveal(view, member, now, outputs),
            Phase::Ballot => {
                self.fetch_leaves(view, now, outputs);
                if member {
                    self.vote(view, now, outputs);
                }
            }
            Phase::Unseal => self.unseal(view, now, outputs),
            Phase::Plants | Phase::Rulings => {
                self.fetch_leaves(view, now, outputs);
                self.bring(view, now, outputs);
            }
            Phase::None | Phase::Closed => {}
        }
    }

    fn reveal(
        &mut self,
        view: &RoundView,
        member: bool,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        if now >= view.ends {
            if self.ask(Ask::Draw(view.number), now) {
                outputs.push(Output::Draw);
            }
        } else if member
            && !view.revealed.contains(&self.me)
            && self.ask(Ask::Reveal(view.number), now)
        {
            outputs.push(match self.next_preimage(view.number) {
                Some(preimage) => Output::Reveal { preimage },
                None => Output::Warn(format!(
                    "the published top {} is of no hash chain of this key, so that nothing can be revealed in round {}; join with this key",
                    self.view.tip, view.number
                )),
            });
        }
    }

    /// One preimage for a round, whatever top is shown meanwhile: a second one would be known to all before its own round.
    fn next_preimage(&mut self, round: u64) -> Option<Digest> {
        if let Some((_, before)) = self.revealed.filter(|(of, _)| *of == round) {
            return Some(before);
        }
        let preimage = self.hashes.below(self.view.tip)?;
        self.revealed = Some((round, preimage));
        Some(preimage)
    }

    /// Publishes the next chain while the present one still has links.
    pub(super) fn renew(
        &mut self,
        rounds: &[RoundView],
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let revealing = rounds.iter().any(|view| view.phase == Phase::Reveal);
        let ends = self
            .hashes
            .left(self.view.tip)
            .is_some_and(|left| left < LEFT_MIN);
        if self.view.seated && ends && !revealing && self.ask(Ask::Renew, now) {
            let next = self.hashes.generation() + 1;
            let tip = HashChain::new(&self.config.key, next, self.config.chain_length).top();
            outputs.push(Output::Renew { tip });
        }
    }

    fn fetch_leaves(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        for covered in &view.covers {
            for (post, posted) in (covered.before + 1..).zip(&covered.posts) {
                let key = (covered.router, post);
                if !self.leaves.contains_key(&key) && self.ask(Ask::Leaves(key.0, post), now) {
                    self.sums.asked(key, now);
                    outputs.push(Output::FetchLeaves {
                        router: key.0,
                        post,
                        content_id: posted.content_id,
                        is_older: false,
                    });
                }
            }
        }
    }

    /// Works through what this validator owes a verdict on; makes the ballot when all is found, or when it must.
    fn vote(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        let round = view.number;
        if self.voted.contains_key(&round) {
            return self.commit(view, now, outputs);
        }
        if view.committed.contains_key(&self.me) {
            if self.ask(Ask::Commit(round), now) {
                outputs.push(Output::Warn(format!(
                    "a ballot of round {round} is committed and not here: it was lost with the disk, and no other one is made"
                )));
            }
            return;
        }
        let last_call = now.plus(self.config.margin) >= view.ends;
        self.draw(view, last_call);
        let sums = self.fetch_sums(view, now, outputs);
        let complete = self.fetch_work(view, now, outputs) && sums;
        let progress = self.progress.entry(round).or_default();
        let since = *progress.since.get_or_insert(now);
        // Routers are waited for until the last call, judges half of what is left then, and routers too by who has only just come back:
        // it would say that they withhold what it has hardly asked for.
        let left = Millis(self.config.margin.0 / 2);
        let busy = self.is_judging(round) || now.since(since) < left;
        let waits = !last_call || (busy && now.plus(left) < view.ends);
        if !complete && waits {
            return;
        }
        let voted = self.conclude(view, now, outputs);
        let ballot = BallotTree::new(voted.ballot());
        self.voted.insert(round, (voted, false));
        self.ballots.insert((round, self.me), ballot);
        self.commit(view, now, outputs);
    }

    fn is_judging(&self, round: u64) -> bool {
        let progress = self.progress.get(&round);
        let mut duties = progress.into_iter().flat_map(|p| p.duties.values());
        duties.any(|duty| matches!(duty.state, State::Judging { .. } | State::Failed))
    }

    fn commit(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        let round = view.number;
        let durable = self.voted.get(&round).is_some_and(|(_, durable)| *durable);
        if !durable {
            if self.ask(Ask::Keep(round), now) {
                let voted = self.voted.get(&round).map(|(voted, _)| voted.clone());
                outputs.extend(voted.map(Output::Keep));
            }
        } else if !view.committed.contains_key(&self.me) && self.ask(Ask::Commit(round), now) {
            let opening = self.opening(round);
            outputs.extend(opening.map(|(root, salt)| Output::Commit {
                round,
                commitment: hash::commitment(round, self.me, root, salt),
            }));
        }
    }

    /// Root and salt of the own ballot.
    fn opening(&self, round: u64) -> Option<(Digest, Digest)> {
        let ballot = self.ballots.get(&(round, self.me))?;
        Some((ballot.root(), self.salt(round)))
    }

    /// Finds the audited jobs of posts whose leaves are here. Where the first jobs of a provider are all audited, posts are taken in their
    /// order, for the others count them so too; at the last call it goes on without those that are missing. A provider's jobs in posts
    /// that are missing are then not counted, so that more is audited here than elsewhere and never less.
    fn draw(&mut self, view: &RoundView, last_call: bool) {
        let posts: usize = view.covers.iter().map(|covered| covered.posts.len()).sum();
        let progress = self.progress.entry(view.number).or_default();
        if progress.drawn.len() == posts {
            return;
        }
        let in_order = self.config.sampling.first_jobs > 0 && !last_call;
        let mut before: BTreeMap<Address, u32> = BTreeMap::new();
        for covered in &view.covers {
            for post in (covered.before + 1..).take(covered.posts.len()) {
                let key = (covered.router, post);
                let progress = self.progress.entry(view.number).or_default();
                if !progress.drawn.contains_key(&key) {
                    if self.leaves.contains_key(&key) {
                        self.draw_post(view, key, &before);
                    } else if in_order {
                        break;
                    }
                }
                let drawn = self.progress.get(&view.number).map(|p| &p.drawn);
                for (provider, count) in drawn
                    .and_then(|drawn| drawn.get(&key))
                    .into_iter()
                    .flatten()
                {
                    let sum = before.entry(*provider).or_default();
                    *sum = sum.saturating_add(*count);
                }
            }
        }
    }

    fn draw_post(
        &mut self,
        view: &RoundView,
        (router, post): (Address, u64),
        before: &BTreeMap<Address, u32>,
    ) {
        let (Some(leaves), Some(place)) =
            (self.leaves.get(&(router, post)), view.place_of(self.me))
        else {
            return;
        };
        let progress = self.progress.entry(view.number).or_default();
        let mut counts: BTreeMap<Address, u32> = BTreeMap::new();
        let subjects = leaves.receipts.iter().zip(&leaves.subjects);
        for (position, (signed, subject)) in subjects.enumerate() {
            let (receipt, subject) = (&signed.receipt, *subject);
            let provider = receipt.provider;
            let count = counts.entry(provider).or_default();
            let ordinal = before
                .get(&provider)
                .copied()
                .unwrap_or_default()
                .saturating_add(*count);
            *count = count.saturating_add(1);
            let standing = view.standings.get(&provider).copied().unwrap_or_default();
            let drawn = self
                .config
                .sampling
                .audits(view.beacon, subject, standing, ordinal);
            let seats = || panel(&view.committee, view.beacon, subject, PANEL);
            if !drawn || !seats().contains(&place) {
                continue;
            }
            // What the leaf file alone shows waits for nothing that its router could keep back, whatever the tier.
            let state = match check_receipt(&self.config.domain, router, signed) {
                Err(_) => State::Found(verdict(Outcome::Forged)),
                // Content of other tiers cannot be ruled on, and nobody is asked about it.
                Ok(()) if receipt.tier != Tier::Exact => continue,
                Ok(()) => State::Wanted,
            };
            // The same leaf at another place is the same subject.
            progress.duties.entry(subject).or_insert(Duty {
                router,
                post,
                position,
                state,
                since: None,
            });
        }
        progress.drawn.insert((router, post), counts);
    }

    /// Asks for work that is not here. Whether nothing is missing.
    fn fetch_work(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) -> bool {
        let round = view.number;
        let progress = self.progress.entry(round).or_default();
        let posts: usize = view.covers.iter().map(|covered| covered.posts.len()).sum();
        let done = |duty: &Duty| matches!(duty.state, State::Found(_));
        let complete = progress.drawn.len() == posts && progress.duties.values().all(done);
        let wants = |duty: &Duty| matches!(duty.state, State::Wanted | State::Failed);
        let wanted = progress.duties.iter_mut();
        let wanted = wanted
            .filter(|(_, duty)| wants(duty))
            .map(|(subject, duty)| {
                duty.since.get_or_insert(now);
                (*subject, duty.clone())
            });
        let wanted: Vec<_> = wanted.collect();
        for (subject, duty) in wanted {
            let Some(job) = self.job_id(&duty) else {
                continue;
            };
            if self.ask(Ask::Work(round, subject), now) {
                let router = duty.router;
                outputs.push(Output::FetchWork {
                    router,
                    round,
                    subject,
                    request: WorkRequest::sign(&self.config.key, router, round, job),
                });
            }
        }
        complete
    }

    pub(super) fn work_came(
        &mut self,
        round: u64,
        subject: Digest,
        kept: &KeptWork,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let duties = self.progress.get(&round).map(|progress| &progress.duties);
        let duty = duties.and_then(|duties| duties.get(&subject)).cloned();
        let wants = |duty: &Duty| matches!(duty.state, State::Wanted | State::Failed);
        let Some(duty) = duty.filter(wants) else {
            return;
        };
        let Some(signed) = self.job_of(&duty) else {
            return;
        };
        let domain = &self.config.domain;
        // What cannot be opened is not what was asked for: it is asked for again, and missing in the end.
        let Ok(work) = kept.open(domain, &self.config.key) else {
            return;
        };
        let state = match check_order(domain, duty.router, signed, &kept.ticket, &work) {
            // A router may show it yet.
            Err(OrderFault::Withheld(_)) => return,
            Err(OrderFault::Forged(_)) => State::Found(verdict(Outcome::Forged)),
            Ok(()) => {
                let receipt = signed.receipt.clone();
                let case = Box::new(Case { receipt, work });
                outputs.push(Output::Judge {
                    round,
                    subject,
                    case,
                });
                let waited = duty.since.map_or(Millis(0), |since| now.since(since));
                State::Judging {
                    late: duty.state == State::Wanted && waited >= self.config.margin,
                }
            }
        };
        self.set(round, subject, state);
    }

    fn set(&mut self, round: u64, subject: Digest, state: State) {
        let duties = self.progress.get_mut(&round).map(|p| &mut p.duties);
        if let Some(duty) = duties.and_then(|duties| duties.get_mut(&subject)) {
            duty.state = state;
        }
    }

    pub(super) fn found(
        &mut self,
        round: u64,
        subject: Digest,
        result: Result<Finding, NotJudged>,
        outputs: &mut Vec<Output>,
    ) {
        let duties = self.progress.get(&round).map(|progress| &progress.duties);
        let duty = duties.and_then(|duties| duties.get(&subject));
        if duty.is_none_or(|duty| !matches!(duty.state, State::Judging { .. })) {
            return;
        }
        let state = match result {
            Ok(finding) => State::Found(Verdict {
                outcome: match finding.answered {
                    Answered::Good => Outcome::Good,
                    Answered::WrongOutput => Outcome::WrongOutput,
                    Answered::WrongCount => Outcome::WrongCount,
                },
                digest: finding.digest,
            }),
            // The bytes are what the ticket orders, so that no provider can have taken them: the router made the order up.
            Err(NotJudged::NotWork) => State::Found(verdict(Outcome::Forged)),
            Err(reason @ NotJudged::Failed(_)) => {
                outputs.push(Output::Warn(format!(
                    "{subject} in round {round} is judged again: {reason}"
                )));
                State::Failed
            }
            Err(reason) => {
                outputs.push(Output::Warn(format!(
                    "{subject} of round {round} cannot be judged here, which the ballot says: {reason}"
                )));
                State::Found(verdict(Outcome::Unable))
            }
        };
        self.set(round, subject, state);
    }

    /// All that is known becomes the ballot; what a router did not give is withheld.
    fn conclude(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) -> Voted {
        let mut verdicts = Vec::new();
        let mut of_sums = BTreeSet::new();
        for (batch, outcome, why) in self.bad_sums(view, now) {
            outputs.push(Output::Warn(format!(
                "the payout root of batch {batch} of round {} must not become claimable: {why}",
                view.number
            )));
            verdicts.push((batch, outcome, Digest::ZERO));
            of_sums.insert(batch);
        }
        for covered in &view.covers {
            for post in (covered.before + 1..).take(covered.posts.len()) {
                let subject = hash::batch_subject(covered.router, post);
                let here = self.leaves.contains_key(&(covered.router, post));
                if !here && !of_sums.contains(&subject) {
                    verdicts.push((subject, Outcome::Withheld, Digest::ZERO));
                }
            }
        }
        let progress = self.progress.remove(&view.number).unwrap_or_default();
        for (subject, duty) in progress.duties {
            match duty.state {
                State::Found(found) => verdicts.push((subject, found.outcome, found.digest)),
                State::Wanted if self.is_too_new(view, &duty) => {
                    verdicts.push((subject, Outcome::Unable, Digest::ZERO));
                }
                State::Wanted => verdicts.push((subject, Outcome::Withheld, Digest::ZERO)),
                // What was given too late to be judged was not given.
                State::Judging { late: true } => {
                    verdicts.push((subject, Outcome::Withheld, Digest::ZERO));
                }
                State::Judging { late: false } | State::Failed => {
                    verdicts.push((subject, Outcome::Unable, Digest::ZERO));
                }
            }
        }
        verdicts.sort_by_key(|(subject, ..)| *subject);
        Voted {
            round: view.number,
            verdicts,
        }
    }

    /// Whether the work of a job may be missing only because it was sealed before this validator had its seat.
    fn is_too_new(&self, view: &RoundView, duty: &Duty) -> bool {
        let covers = view.covers.iter();
        let mut posted = covers
            .filter(|covered| covered.router == duty.router)
            .filter_map(|covered| covered.posted_at(duty.post));
        let joined = self.view.joined.get(&self.me);
        let pair = posted.next().zip(joined);
        pair.is_some_and(|(posted, joined)| posted < joined.plus(self.config.settling))
    }

    fn unseal(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        let round = view.number;
        let committed = view.committed.get(&self.me);
        if view.shown.contains(&self.me) || committed.is_none() {
            return;
        }
        let Some((root, salt)) = self.opening(round) else {
            return;
        };
        let same = committed == Some(&hash::commitment(round, self.me, root, salt));
        if self.ask(Ask::Unseal(round), now) {
            outputs.push(if same {
                Output::Unseal { round, root, salt }
            } else {
                Output::Warn(format!(
                    "what is committed in round {round} is not the ballot that is kept here: another process votes with this key"
                ))
            });
        }
    }
}
