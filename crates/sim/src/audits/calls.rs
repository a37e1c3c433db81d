//! What validators ask for, and what comes of it.

use super::*;

impl World {
    pub(super) fn turn(&mut self, n: usize) -> Result<(), String> {
        let (now, due) = (self.time(), self.now);
        if self.fails(n) {
            return Ok(());
        }
        let me = validator_address(&self.nodes[n]);
        let sees = self.sees_chain(n) && self.nodes[n].seen != self.shown.0;
        let first = if sees {
            let (version, rounds, openable) = &self.shown;
            self.nodes[n].seen = *version;
            Input::Chain(Box::new(ChainView {
                seated: self.rounds.validators().contains(&me),
                tip: self.rounds.tip(me),
                openable: *openable,
                rounds: rounds.clone(),
                convicted: self.convicted.clone().into(),
                joined: Default::default(),
            }))
        } else {
            Input::Tick
        };
        let node = &mut self.nodes[n];
        let (ripe, later): (Vec<_>, Vec<_>) = std::mem::take(&mut node.inbox)
            .into_iter()
            .partition(|(at, _)| *at <= due);
        node.inbox = later;
        let inputs = std::iter::once(first);
        let mut outputs = Vec::new();
        for input in inputs.chain(ripe.into_iter().map(|(_, input)| input)) {
            outputs.extend(node.core.handle(input, now));
        }
        for output in outputs {
            self.carry_out(n, output)?;
        }
        Ok(())
    }

    /// An answer that comes later, or is lost.
    pub(super) fn answer(&mut self, n: usize, input: Input) {
        let at = self.now + 1 + self.rng.below(3);
        self.nodes[n].inbox.push((at, input));
    }

    pub(super) fn carry_out(&mut self, n: usize, output: Output) -> Result<(), String> {
        match output {
            Output::FetchLeaves { .. } | Output::FetchWork { .. } | Output::FetchBallot { .. } => {
                self.fetch(n, output)?
            }
            Output::Judge {
                round,
                subject,
                case,
            } => {
                let answered = self.judged(n, case.receipt.job_id)?;
                let digest = keccak256(subject.0);
                let result = Ok(Finding { answered, digest });
                self.answer(
                    n,
                    Input::Found {
                        round,
                        subject,
                        result,
                    },
                );
            }
            Output::Keep(voted) => {
                let round = voted.round;
                let before = self.nodes[n].disk.iter().find(|v| v.round == round);
                if before.is_some_and(|before| *before != voted) {
                    return Err(format!("validator {n} made two ballots for round {round}"));
                }
                self.nodes[n].disk.push(voted);
                self.answer(n, Input::Durable { round });
            }
            Output::KeepSums(set) => drop(self.nodes[n].sums.insert(set.post, *set)),
            Output::ForgetSums { below, .. } => {
                let sums = &mut self.nodes[n].sums;
                *sums = sums.split_off(&below);
            }
            Output::Forget { .. } | Output::Warn(_) => {}
            // Lost on the way; asked for again.
            _ if !self.sees_chain(n) => {}
            call => self.call(n, call)?,
        }
        Ok(())
    }

    /// What a validator finds about a job.
    pub(super) fn judged(&mut self, n: usize, job: JobId) -> Result<Answered, String> {
        let truth = self.truth.get(&job).copied();
        let truth = truth.ok_or("a job that nobody did was judged")?;
        Ok(match self.nodes[n].cheat {
            Some(Cheat::Accuse) => Answered::WrongOutput,
            Some(Cheat::Lazy | Cheat::Idle) if self.rng.chance(self.plan.lazy) => Answered::Good,
            _ => truth,
        })
    }

    /// Calls of contracts. Those that come too late or twice fail on chain and change nothing.
    pub(super) fn call(&mut self, n: usize, output: Output) -> Result<(), String> {
        let (block, me) = (self.block(), validator(n).address());
        let block_hash = keccak256(self.now.to_be_bytes());
        self.dirty = true;
        match output {
            Output::Open => drop(self.rounds.open(&self.stakes, &self.vault, block)),
            Output::Reveal { preimage } => {
                drop(self.rounds.reveal(me, preimage, block_hash, block));
            }
            Output::Draw => drop(self.rounds.draw(block_hash, block)),
            Output::Renew { tip } => drop(self.rounds.renew(me, tip)),
            Output::Commit { round, commitment } => self.commit(n, round, commitment)?,
            Output::Unseal { round, root, salt } => {
                drop(self.rounds.unseal(me, round, root, salt, block));
            }
            Output::Bring(claim) => self.bring(*claim),
            _ => {}
        }
        Ok(())
    }

    /// What a validator asks others for: one fetch in ten is lost.
    pub(super) fn fetch(&mut self, n: usize, output: Output) -> Result<(), String> {
        let lost = self.rng.chance(100) || !self.reaches_peers(n);
        // A router that serves the others only.
        let kept_from = self.cheat == Cheat::ServeSome && n == 0;
        let served = !kept_from && self.away.router_is_up(self.now);
        let answer = match output {
            Output::FetchLeaves { router, post, .. } => {
                let served = served && !self.is_refused(post);
                let file = self.files.get(&post).filter(|_| served).cloned();
                file.map(|bytes| Input::Leaves {
                    router,
                    post,
                    bytes,
                })
            }
            Output::FetchWork {
                round,
                subject,
                request,
                ..
            } => {
                if !request.is_signed_for(router()) {
                    return Err("a request for work is not signed".to_owned());
                }
                let kept = if served && !lost {
                    self.kept_of(subject)
                } else {
                    None
                };
                kept.map(|kept| Input::Work {
                    round,
                    subject,
                    kept: Box::new(kept),
                })
            }
            Output::FetchBallot { round, validator } => {
                let peer = self.nodes.iter().find(|p| p.core.account() == validator);
                let voted = peer.and_then(|peer| peer.core.shown_ballot(round)).cloned();
                voted.map(|voted| Input::Ballot { validator, voted })
            }
            _ => None,
        };
        if let Some(answer) = answer.filter(|_| !lost) {
            self.answer(n, answer);
        }
        Ok(())
    }

    /// Whether a router that shows nobody what its payout roots are measured by refuses a leaf file: those of posts without a root, which
    /// costs it little, and those that no round covers any more.
    fn is_refused(&self, post: u64) -> bool {
        let newest = self.rounds.snapshot(self.rounds.latest(), router());
        let before = self.rounds.snapshot(newest.previous, router()).posts;
        let root = self.roots.get((post - 1) as usize);
        let has_root = root.is_some_and(|root| root.pay_root != Digest::ZERO);
        self.cheat == Cheat::WithholdBase && (post <= before || !has_root)
    }

    pub(super) fn kept_of(&mut self, subject: Digest) -> Option<KeptWork> {
        if let Some(kept) = self.kept.get(&subject) {
            return Some(kept.clone());
        }
        let (ticket, work) = self.orders.get(&subject)?;
        let keys: Vec<_> = (0..self.plan.validators)
            .map(|n| validator(n).public_key())
            .collect();
        let fresh = keccak256(subject.0).0;
        let kept = KeptWork::seal(&domain(), ticket.clone(), work, &keys, fresh);
        let kept = kept.expect("a few recipients");
        self.kept.insert(subject, kept.clone());
        Some(kept)
    }

    pub(super) fn commit(&mut self, n: usize, round: u64, own: Digest) -> Result<(), String> {
        let (me, block) = (validator(n).address(), self.block());
        let durable = self.nodes[n].disk.iter().any(|voted| voted.round == round);
        if !durable {
            return Err(format!("validator {n} committed before it wrote"));
        }
        let commitment = match self.nodes[n].cheat {
            // All that there is to copy before ballots are shown.
            Some(Cheat::Copy) => {
                let ballots = self.rounds.round(round).map(|r| &r.ballots);
                let other = ballots.and_then(|ballots| ballots.values().next().copied());
                match other {
                    Some(other) => other,
                    None => return Ok(()),
                }
            }
            _ => own,
        };
        drop(self.rounds.commit(me, round, commitment, block));
        Ok(())
    }

    pub(super) fn bring(&mut self, claim: Claim) {
        let mut market = Market {
            rounds: &mut self.rounds,
            stakes: &mut self.stakes,
            vault: &mut self.vault,
        };
        let (verdict, now) = (&mut self.verdict, self.now);
        let pending = market.vault.totals(router()).pending;
        let market = &mut market;
        let done = match claim {
            Claim::Rule { evidence, votes } => verdict.rule(market, &evidence, &votes, now),
            Claim::RuleBatch {
                round,
                router,
                post,
                votes,
            } => verdict.rule_batch(market, round, router, post, &votes, now),
            Claim::Show {
                round,
                subject,
                vote,
                excuse,
            } => verdict.show(market, round, subject, &vote, excuse, now),
            Claim::Silence {
                round,
                subject,
                validator,
            } => verdict.punish_silence(market, round, subject, validator, now),
            Claim::Missed {
                round,
                kind: kind::MISSED_REVEAL,
                validator,
            } => verdict.punish_reveal(market, round, validator, now),
            Claim::Missed {
                round, validator, ..
            } => verdict.punish_ballot(market, round, validator, now),
            Claim::Overcharge(evidence) => verdict.prove_overcharge(market, &evidence, now),
            Claim::DoublePost(first, second) => {
                verdict.prove_double_post(market, &first, &second, now)
            }
        };
        // What another one brought before changes nothing.
        let Ok(events) = done else { return };
        let voided = pending.filter(|_| self.vault.totals(router()).pending.is_none());
        self.ruled(&events, voided.map(|pending| pending.pay_root));
    }

    pub(super) fn ruled(&mut self, events: &[VerdictEvent], voided: Option<Digest>) {
        let honest = !self.cheat.is_by_hand();
        if let Some(pay_root) = voided.filter(|_| honest) {
            let pay_root = self.honest_root(pay_root);
            self.entry(Entry::PayoutVoided { pay_root });
        }
        for event in events {
            match event {
                VerdictEvent::Ruled {
                    round,
                    subject,
                    outcome,
                    ..
                } => {
                    self.outcome.rulings += 1;
                    self.outcome.bad_sums += u64::from(*outcome == Outcome::BadSums);
                    self.outcome.void += u64::from(*outcome == Outcome::Void);
                    self.ruled.entry(*round).or_default().insert(*subject);
                }
                VerdictEvent::Convicted {
                    offender,
                    kind,
                    fault_id,
                    ..
                } => {
                    self.convicted.insert(*fault_id);
                    self.outcome.convictions += 1;
                    let posts = self.posts.len() as u64;
                    let slashed = self.slashed_at.entry(*offender);
                    slashed.or_insert((posts, BTreeSet::new())).1.insert(*kind);
                }
                VerdictEvent::JobReversed {
                    job,
                    account,
                    charge,
                    ..
                } => {
                    self.reversed.insert(*job);
                    self.reversals.push(Reversed {
                        after: self.posts.len() as u64,
                        job: *job,
                        account: *account,
                        charge: *charge,
                    });
                    if honest && self.cheat != Cheat::KeepReversed {
                        self.entry(Entry::JobReversed { job: *job });
                    }
                }
                VerdictEvent::Differed { .. } => {}
            }
        }
        self.take_back();
    }
}
