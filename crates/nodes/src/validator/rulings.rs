//! After the ballots: rulings, own verdicts to be shown, faults of others.

use super::chain::{Covered, RoundView, RulingView};
use super::{Ask, Claim, Output, Validator, Voted};
use std::collections::BTreeMap;
use stoa_ledger::audit::ballot::Verdict;
use stoa_ledger::audit::hash::{self, kind};
use stoa_ledger::audit::panel::panel;
use stoa_ledger::audit::rounds::Phase;
use stoa_ledger::audit::verdict::{Evidence, Vote, most_charge};
use stoa_ledger::audit::{Outcome, PANEL};
use stoa_types::{Address, Digest, JobId, Timestamp};

/// Where a posted receipt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaf {
    router: Address,
    post: u64,
    position: usize,
}

impl Validator {
    /// Brings what is due after the ballots.
    pub(super) fn bring(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        self.fetch_ballots(view, now, outputs);
        self.missed(view, now, outputs);
        self.prove(view, now, outputs);
        if view.phase != Phase::Rulings {
            return;
        }
        let own = match self.voted.get(&view.number) {
            Some((voted, _)) if view.shown.contains(&self.me) => voted.clone(),
            _ => return,
        };
        for (subject, ..) in &own.verdicts {
            self.rule(view, *subject, now, outputs);
        }
        self.excuse(view, &own, now, outputs);
    }

    fn fetch_ballots(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        let round = view.number;
        let me = self.me;
        for validator in view.shown.iter().copied().filter(|who| *who != me) {
            // A ballot without verdicts needs no fetching.
            let empty = view.committed.get(&validator) == Some(&Digest::ZERO);
            let here = self.ballots.contains_key(&(round, validator));
            if !empty && !here && self.ask(Ask::Ballot(round, validator), now) {
                outputs.push(Output::FetchBallot { round, validator });
            }
        }
    }

    /// Validators that did not do their duty.
    fn missed(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        let round = view.number;
        for validator in view.committee.iter().map(|member| member.validator) {
            let faults = [
                (kind::MISSED_REVEAL, view.revealed.contains(&validator)),
                (kind::MISSED_BALLOT, view.shown.contains(&validator)),
            ];
            for (kind, done) in faults {
                let punished = view.punished.contains(&(kind, validator));
                let mine = validator == self.me;
                if !done && !punished && !mine && self.ask(Ask::Missed(round, kind, validator), now)
                {
                    outputs.push(bring(Claim::Missed {
                        round,
                        kind,
                        validator,
                    }));
                }
            }
        }
    }

    fn ballot_of(&self, round: u64, validator: Address) -> Option<&Voted> {
        if validator == self.me {
            return self.voted.get(&round).map(|(voted, _)| voted);
        }
        self.ballots.get(&(round, validator))
    }

    fn vote_of(&self, view: &RoundView, validator: Address, subject: Digest) -> Option<Vote> {
        if !view.shown.contains(&validator) {
            return None;
        }
        let ballot = self.ballot_of(view.number, validator)?.ballot();
        let verdict: Verdict = ballot.get(&subject)?;
        let proof = ballot.proof(&subject)?;
        Some(Vote {
            validator,
            verdict,
            proof,
        })
    }

    /// A ruling when enough votes agree; after it, what it did not hold.
    fn rule(
        &mut self,
        view: &RoundView,
        subject: Digest,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let round = view.number;
        let seats = panel(&view.committee, view.beacon, subject, PANEL);
        let seated = seats.iter().filter_map(|place| view.committee.get(*place));
        let seated: Vec<_> = seated.map(|member| member.validator).collect();
        if !seated.contains(&self.me) {
            return;
        }
        if let Some(ruling) = view.rulings.get(&subject) {
            return self.after_ruling(view, subject, ruling, &seated, now, outputs);
        }
        let votes = seated
            .iter()
            .filter_map(|who| self.vote_of(view, *who, subject));
        let votes: Vec<_> = votes.collect();
        let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
        for vote in &votes {
            *counts.entry(vote.verdict.outcome).or_default() += 1;
        }
        // Ballots still on their way come before the deadline; votes left out cost nobody anything if they are shown later.
        let decided = counts.values().any(|count| *count >= view.votes_needed);
        if !decided || !self.ask(Ask::Rule(round, subject), now) {
            return;
        }
        if let Some(claim) = self.claim(view, subject, votes) {
            outputs.push(bring(claim));
        }
    }

    fn claim(&self, view: &RoundView, subject: Digest, votes: Vec<Vote>) -> Option<Claim> {
        let round = view.number;
        for covered in &view.covers {
            for post in (covered.before + 1..).take(covered.posts.len()) {
                let router = covered.router;
                if hash::batch_subject(router, post) == subject {
                    return Some(Claim::RuleBatch {
                        round,
                        router,
                        post,
                        votes,
                    });
                }
            }
        }
        let leaf = self.leaf_of(view, subject)?;
        let evidence = self.evidence(view, leaf)?;
        Some(Claim::Rule { evidence, votes })
    }

    /// All leaves of a round that are here.
    fn leaves_of<'a>(
        &'a self,
        view: &'a RoundView,
    ) -> impl Iterator<Item = (Leaf, Digest, JobId)> + 'a {
        let posts = |covered: &'a Covered| {
            let numbers = (covered.before + 1..).take(covered.posts.len());
            numbers.map(|post| (covered.router, post))
        };
        view.covers
            .iter()
            .flat_map(posts)
            .flat_map(move |(router, post)| {
                let leaves = self.leaves.get(&(router, post));
                let leaves = leaves
                    .into_iter()
                    .flat_map(|l| l.receipts.iter().zip(&l.subjects));
                leaves
                    .enumerate()
                    .map(move |(position, (signed, subject))| {
                        let leaf = Leaf {
                            router,
                            post,
                            position,
                        };
                        (leaf, *subject, signed.receipt.job_id)
                    })
            })
    }

    fn leaf_of(&self, view: &RoundView, subject: Digest) -> Option<Leaf> {
        let mut leaves = self.leaves_of(view);
        leaves.find_map(|(leaf, of, _)| (of == subject).then_some(leaf))
    }

    fn evidence(&self, view: &RoundView, leaf: Leaf) -> Option<Box<Evidence>> {
        let leaves = self.leaves.get(&(leaf.router, leaf.post))?;
        let signed = leaves.receipts.get(leaf.position)?;
        let covered = view.covers.iter().find(|c| c.router == leaf.router)?;
        let proof = leaves.tree.proof(leaf.position)?;
        Some(Box::new(Evidence {
            round: view.number,
            receipt: signed.receipt.clone(),
            provider_signature: signed.provider_signature,
            place: covered.place(leaf.post, proof)?,
        }))
    }

    /// Own verdict if it was not counted, those of others that differ, and the silence of the rest.
    fn after_ruling(
        &mut self,
        view: &RoundView,
        subject: Digest,
        ruling: &RulingView,
        seated: &[Address],
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let round = view.number;
        for validator in seated.iter().copied() {
            if ruling.seen.contains(&validator) {
                continue;
            }
            let vote = self.vote_of(view, validator, subject);
            let differs = |vote: &Vote| vote.verdict.outcome != ruling.outcome;
            if let Some(vote) = vote.filter(|vote| validator == self.me || differs(vote)) {
                if self.ask(Ask::Show(round, subject), now) {
                    outputs.push(bring(Claim::Show {
                        round,
                        subject,
                        vote,
                        excuse: false,
                    }));
                }
                continue;
            }
            let silent = self.is_silent(view, validator, subject) && now >= ruling.answer_until;
            if silent && self.ask(Ask::Silence(round, subject, validator), now) {
                outputs.push(bring(Claim::Silence {
                    round,
                    subject,
                    validator,
                }));
            }
        }
    }

    /// Whether a validator has shown a ballot without a verdict on the subject.
    fn is_silent(&self, view: &RoundView, validator: Address, subject: Digest) -> bool {
        if view.committed.get(&validator) == Some(&Digest::ZERO) {
            return view.shown.contains(&validator);
        }
        let ballot = self.ballot_of(view.number, validator);
        ballot.is_some_and(|voted| voted.ballot().get(&subject).is_none())
    }

    /// Rulings on jobs of a batch that this validator could not get: its verdict on the batch excuses it.
    fn excuse(&mut self, view: &RoundView, own: &Voted, now: Timestamp, outputs: &mut Vec<Output>) {
        let missing = |subject: Digest| own.verdicts.iter().all(|(about, ..)| *about != subject);
        let ruled: Vec<_> = self
            .leaves_of(view)
            .filter(|(_, subject, _)| missing(*subject))
            .filter_map(|(leaf, subject, _)| Some((leaf, subject, view.rulings.get(&subject)?)))
            .filter(|(_, _, ruling)| !ruling.seen.contains(&self.me))
            .map(|(leaf, subject, _)| (leaf, subject))
            .collect();
        for (leaf, subject) in ruled {
            let seats = panel(&view.committee, view.beacon, subject, PANEL);
            let mine = view.place_of(self.me).is_some_and(|me| seats.contains(&me));
            let batch = hash::batch_subject(leaf.router, leaf.post);
            let vote = self.vote_of(view, self.me, batch).filter(|_| mine);
            if let Some(vote) = vote
                && self.ask(Ask::Show(view.number, subject), now)
            {
                outputs.push(bring(Claim::Show {
                    round: view.number,
                    subject,
                    vote,
                    excuse: true,
                }));
            }
        }
    }

    /// Faults that the contract recomputes: charges that are too high, jobs that were posted twice.
    fn prove(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        let mut first: BTreeMap<(Address, JobId), (Leaf, (u64, Digest))> = BTreeMap::new();
        let mut claims = Vec::new();
        for (leaf, subject, job) in self.leaves_of(view) {
            let leaves = self.leaves.get(&(leaf.router, leaf.post));
            let receipt = leaves.and_then(|leaves| leaves.receipts.get(leaf.position));
            let over = receipt.is_some_and(|s| s.receipt.charge.units() > most_charge(&s.receipt));
            if over && !view.proven.contains(&subject) {
                claims.push((subject, leaf, None));
            }
            let about = Digest(job.0);
            match first.get(&(leaf.router, job)) {
                // The contract cannot tell one leaf in two positions of a post from one that is shown twice.
                Some((_, first)) if *first == (leaf.post, subject) => {}
                Some((before, _)) if !view.proven.contains(&about) => {
                    claims.push((about, leaf, Some(*before)));
                }
                Some(_) => {}
                None => {
                    first.insert((leaf.router, job), (leaf, (leaf.post, subject)));
                }
            }
        }
        for (about, leaf, before) in claims {
            if !self.ask(Ask::Proof(about), now) {
                continue;
            }
            let evidence = self.evidence(view, leaf);
            let claim = match before {
                None => evidence.map(Claim::Overcharge),
                Some(before) => self
                    .evidence(view, before)
                    .zip(evidence)
                    .map(|(first, second)| Claim::DoublePost(first, second)),
            };
            outputs.extend(claim.map(bring));
        }
    }
}

fn bring(claim: Claim) -> Output {
    Output::Bring(Box::new(claim))
}
