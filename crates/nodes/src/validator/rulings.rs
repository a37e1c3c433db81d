//! After the ballots: rulings, own verdicts to be shown, faults of others.

use super::chain::{Covered, RoundView, RulingView};
use super::{Ask, Claim, Output, Validator};
use std::collections::{BTreeMap, BTreeSet};
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
        let proven = self.prove(view, now, outputs);
        if view.phase != Phase::Rulings {
            return;
        }
        if proven && self.is_settled(view) {
            self.settled.insert(view.number);
            let me = self.me;
            self.ballots
                .retain(|(round, who), _| *round != view.number || *who == me);
            return;
        }
        let own = match self.voted.get(&view.number) {
            Some((voted, _)) if view.shown.contains(&self.me) => voted.clone(),
            _ => return,
        };
        for (subject, ..) in &own.verdicts {
            self.rule(view, *subject, now, outputs);
        }
        self.excuse_itself(view, now, outputs);
    }

    /// Whether all that this validator could still bring is on the chain: duties done or punished, and each of its verdicts under a ruling
    /// that holds the whole panel. Faults that anyone can prove are looked for apart from this.
    fn is_settled(&self, view: &RoundView) -> bool {
        let round = view.number;
        let about = hash::round_digest(round);
        let punished = |kind, who| self.is_convicted(kind, who, about);
        let mut members = view.committee.iter().map(|member| member.validator);
        let duties_over = members.all(|who| {
            let did = |done: &BTreeSet<Address>, kind| {
                done.is_empty() || done.contains(&who) || punished(kind, who)
            };
            let revealed = did(&view.revealed, kind::MISSED_REVEAL);
            let shown = did(&view.shown, kind::MISSED_BALLOT);
            who == self.me || (revealed && shown)
        });
        let all_here = posts_of(view).all(|post| self.leaves.contains_key(&post));
        let own = self
            .voted
            .get(&round)
            .filter(|_| view.shown.contains(&self.me));
        let mut own = own.into_iter().flat_map(|(voted, _)| &voted.verdicts);
        let all_ruled = own.all(|(subject, ..)| {
            let seats = panel(&view.committee, view.beacon, *subject, PANEL);
            let mut seated = seats.iter().filter_map(|place| view.committee.get(*place));
            let Some(ruling) = view.rulings.get(subject) else {
                return false;
            };
            seated.all(|m| ruling.seen.contains(&m.validator))
                && self.is_final(view, *subject, ruling)
        });
        duties_over && all_here && all_ruled
    }

    /// Whether no ballot of the panel, known or still to come, could overrule a ruling.
    fn is_final(&self, view: &RoundView, subject: Digest, ruling: &RulingView) -> bool {
        if !ruling.combined {
            return true;
        }
        let seats = panel(&view.committee, view.beacon, subject, PANEL);
        let members = seats.iter().filter_map(|place| view.committee.get(*place));
        let seated: Vec<_> = members.map(|member| member.validator).collect();
        let here = |who: &Address| {
            let empty = view.committed.get(who) == Some(&Digest::ZERO);
            empty || !view.shown.contains(who) || self.ballots.contains_key(&(view.number, *who))
        };
        seated.iter().all(here) && !self.overrules(view, subject, ruling, &seated)
    }

    /// Whether the verdicts known here come to a heavier ruling than one that was added up.
    fn overrules(
        &self,
        view: &RoundView,
        subject: Digest,
        ruling: &RulingView,
        seated: &[Address],
    ) -> bool {
        if !ruling.combined {
            return false;
        }
        let said = seated.iter();
        let said = said.filter_map(|who| Some(self.verdict_of(view, *who, subject)?.outcome));
        let decided = Outcome::decided(said, view.votes_needed, true);
        is_batch(view, subject) && decided.is_some_and(|heavier| heavier.overrules(ruling.outcome))
    }

    fn is_convicted(&self, kind: u8, offender: Address, about: Digest) -> bool {
        let fault = hash::fault_id(kind, offender, about);
        self.view.convicted.contains(&fault)
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

    /// Validators that did not do their duty. What nobody did was nobody's fault: then chain or network were away.
    fn missed(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        let round = view.number;
        let about = hash::round_digest(round);
        for validator in view.committee.iter().map(|member| member.validator) {
            let faults = [
                (kind::MISSED_REVEAL, &view.revealed),
                (kind::MISSED_BALLOT, &view.shown),
            ];
            for (kind, who) in faults {
                let done = who.is_empty() || who.contains(&validator);
                let punished = self.is_convicted(kind, validator, about);
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

    /// What a validator has shown about a subject.
    fn verdict_of(&self, view: &RoundView, validator: Address, subject: Digest) -> Option<Verdict> {
        let ballot = self.ballots.get(&(view.number, validator));
        let ballot = ballot.filter(|_| view.shown.contains(&validator))?;
        ballot.ballot().get(&subject)
    }

    /// The same with its way to the root, which costs as many hashes as the ballot has verdicts.
    fn vote_of(&self, view: &RoundView, validator: Address, subject: Digest) -> Option<Vote> {
        let verdict = self.verdict_of(view, validator, subject)?;
        let proof = self
            .ballots
            .get(&(view.number, validator))?
            .proof(&subject)?;
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
        if let Some(ruling) = view.rulings.get(&subject)
            && !self.overrules(view, subject, ruling, &seated)
        {
            return self.after_ruling(view, subject, ruling, &seated, now, outputs);
        }
        let said = seated.iter();
        let said = said.filter_map(|who| Some(self.verdict_of(view, *who, subject)?.outcome));
        let is_batch = is_batch(view, subject);
        // Ballots still on their way come before the deadline; votes left out cost nobody anything if they are shown later.
        let decided = Outcome::decided(said, view.votes_needed, is_batch).is_some();
        if !decided || !self.ask(Ask::Rule(round, subject), now) {
            return;
        }
        let votes = seated.iter();
        let votes = votes
            .filter_map(|who| self.vote_of(view, *who, subject))
            .collect();
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

    /// Own verdict if it was not counted, those of others that differ, and the silence of the rest. What a validator that is away has shown
    /// is brought for it when its time is nearly over: it did its duty.
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
        let late = now.plus(self.config.margin) >= ruling.answer_until;
        for validator in seated.iter().copied() {
            if ruling.seen.contains(&validator) {
                continue;
            }
            if let Some(verdict) = self.verdict_of(view, validator, subject) {
                let due = validator == self.me || late || verdict.outcome != ruling.outcome;
                if due && self.ask(Ask::Show(round, subject, validator), now) {
                    let vote = self.vote_of(view, validator, subject);
                    outputs.extend(vote.map(|vote| show(round, subject, vote, false)));
                }
            } else if late && self.has_excuse(view, validator, subject) {
                self.excuse(view, validator, subject, now, outputs);
            } else if now >= ruling.answer_until
                && self.is_silent(view, validator)
                && self.ask(Ask::Silence(round, subject, validator), now)
            {
                outputs.push(bring(Claim::Silence {
                    round,
                    subject,
                    validator,
                }));
            }
        }
    }

    /// Whether a validator's ballot was shown and is known here.
    fn is_silent(&self, view: &RoundView, validator: Address) -> bool {
        let empty = view.committed.get(&validator) == Some(&Digest::ZERO);
        let here = self.ballots.contains_key(&(view.number, validator));
        view.shown.contains(&validator) && (empty || here)
    }

    fn has_excuse(&self, view: &RoundView, validator: Address, subject: Digest) -> bool {
        !self.excuses(view, validator, subject).is_empty()
    }

    /// Batches that a validator could not get and one of which may hold the subject. Where the leaf is not here either, it may be any of
    /// them: the contract takes the right one.
    fn excuses(&self, view: &RoundView, validator: Address, subject: Digest) -> Vec<Digest> {
        let lacks = |batch: &Digest| {
            let verdict = self.verdict_of(view, validator, *batch);
            verdict.is_some_and(|verdict| verdict.outcome == Outcome::Withheld)
        };
        let batches: Vec<Digest> = match self.leaf_of(view, subject) {
            Some(leaf) => vec![hash::batch_subject(leaf.router, leaf.post)],
            None => {
                let posts = posts_of(view).filter(|post| !self.leaves.contains_key(post));
                posts
                    .map(|(router, post)| hash::batch_subject(router, post))
                    .collect()
            }
        };
        batches.into_iter().filter(lacks).collect()
    }

    /// The verdict of a validator on a batch that it could not get excuses its silence about the jobs in it.
    fn excuse(
        &mut self,
        view: &RoundView,
        validator: Address,
        subject: Digest,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let round = view.number;
        for batch in self.excuses(view, validator, subject) {
            if self.ask(Ask::Excuse(round, subject, validator, batch), now) {
                let vote = self.vote_of(view, validator, batch);
                outputs.extend(vote.map(|vote| show(round, subject, vote, true)));
            }
        }
    }

    /// Excuses itself from rulings on jobs of batches that it could not get, whether they came later or never.
    fn excuse_itself(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) {
        let me = self.me;
        let Some(place) = view.place_of(me) else {
            return;
        };
        for (subject, ruling) in &view.rulings {
            let silent = self.verdict_of(view, me, *subject).is_none();
            let seats = || panel(&view.committee, view.beacon, *subject, PANEL);
            if silent && !ruling.seen.contains(&me) && seats().contains(&place) {
                self.excuse(view, me, *subject, now, outputs);
            }
        }
    }

    /// Faults that the contract recomputes: charges that are too high, jobs that were posted twice. Whether none is left to be proven.
    fn prove(&mut self, view: &RoundView, now: Timestamp, outputs: &mut Vec<Output>) -> bool {
        let mut first: BTreeMap<(Address, JobId), Leaf> = BTreeMap::new();
        let mut claims = Vec::new();
        for (leaf, subject, job) in self.leaves_of(view) {
            let leaves = self.leaves.get(&(leaf.router, leaf.post));
            let receipt = leaves.and_then(|leaves| leaves.receipts.get(leaf.position));
            let over = receipt.is_some_and(|s| s.receipt.charge.units() > most_charge(&s.receipt));
            if over && !self.is_convicted(kind::OVERCHARGE, leaf.router, subject) {
                claims.push((subject, leaf, None));
            }
            let about = Digest(job.0);
            match first.get(&(leaf.router, job)) {
                Some(before) if !self.is_convicted(kind::DOUBLE_POST, leaf.router, about) => {
                    claims.push((about, leaf, Some(*before)));
                }
                Some(_) => {}
                None => {
                    first.insert((leaf.router, job), leaf);
                }
            }
        }
        let none_left = claims.is_empty();
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
        none_left
    }
}

fn bring(claim: Claim) -> Output {
    Output::Bring(Box::new(claim))
}

fn show(round: u64, subject: Digest, vote: Vote, excuse: bool) -> Output {
    bring(Claim::Show {
        round,
        subject,
        vote,
        excuse,
    })
}

/// All posts that a round covers.
fn is_batch(view: &RoundView, subject: Digest) -> bool {
    let mut batches = posts_of(view).map(|(router, post)| hash::batch_subject(router, post));
    batches.any(|batch| batch == subject)
}

fn posts_of(view: &RoundView) -> impl Iterator<Item = (Address, u64)> + '_ {
    let of_router = |covered: &'_ Covered| {
        let (router, numbers) = (covered.router, covered.before + 1..);
        let numbers = numbers.take(covered.posts.len());
        numbers.map(move |post| (router, post))
    };
    view.covers.iter().flat_map(of_router)
}
