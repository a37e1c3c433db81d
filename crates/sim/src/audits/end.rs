//! The end of a schedule: what must hold.

use super::*;

impl World {
    pub(super) fn settle(&mut self) -> Result<(), String> {
        if self.cheat.is_router() {
            return self.no_wrong_root();
        }
        // What came late, after an outage, has its window too.
        self.now += WINDOW + 1;
        if let Ok(events) = self.vault.promote(router(), self.now) {
            self.told(&events);
        }
        // One more customer carries the root over everything, whose window passes.
        self.batch(true)?;
        self.now += WINDOW + 1;
        if let Ok(events) = self.vault.promote(router(), self.now) {
            self.told(&events);
        }
        let batch = self
            .book
            .claimable_batch()
            .ok_or("nothing became claimable")?;
        let (providers, debits) = (batch.sealed.provider_root, batch.sealed.debit_root);
        let entries: Vec<_> = self.book.debit_entries().into_iter().collect();
        let proofs: Vec<_> = entries
            .iter()
            .map(|entry| DebitProof {
                developer: entry.account,
                generation: entry.generation,
                lifetime_debit: entry.lifetime_debit,
                proof: entry.proof.clone(),
            })
            .collect();
        let synced = self.vault.sync_debits(router(), providers, debits, &proofs);
        synced.map_err(|error| format!("debits are refused: {error}"))?;
        Ok(())
    }

    /// No payout root that is wrong by its router's doing ever becomes claimable.
    fn no_wrong_root(&mut self) -> Result<(), String> {
        let promoted = self.vault.promote(router(), self.now + WINDOW);
        let (claimable, _) = self.vault.totals(router()).claimable;
        if self.bad_roots.contains(&claimable) {
            return Err(format!("a wrong payout root is claimable ({promoted:?})"));
        }
        Ok(())
    }

    pub(super) fn check(&mut self) -> Result<(), String> {
        self.check_honest()?;
        self.check_caught()?;
        let verdicts = self.nodes.iter().filter(|node| node.cheat.is_none());
        let verdicts = verdicts
            .flat_map(|node| &node.disk)
            .flat_map(|voted| &voted.verdicts);
        let jobs: BTreeSet<_> = self
            .leaves
            .iter()
            .flatten()
            .map(|leaf| leaf.subject)
            .collect();
        let accused = verdicts
            .filter(|(about, outcome, _)| *outcome != Outcome::Good && jobs.contains(about));
        self.outcome.accusations = accused.count() as u64;
        self.outcome.reversed = self.reversed.len() as u64;
        if self.cheat.is_router() {
            return Ok(());
        }
        // What was not audited is paid for, whatever it was.
        let wrong = |job: &JobId| self.cheated.contains(job) && self.audited.contains_key(job);
        for account in [developer(), planter().address()] {
            let owed = self.charges.iter();
            let owed = owed.filter(|(job, (who, _))| *who == account && !wrong(job));
            let owed = TokenAmount::checked_sum(owed.map(|(_, (_, charge))| *charge));
            let owed = owed.ok_or("too large")?;
            let allotment = self.vault.allotment(account, router());
            let debited = allotment.map_or(TokenAmount::ZERO, |(_, a)| a.debited);
            if debited != owed {
                return Err(format!("{account} paid {debited} and owes {owed}"));
            }
        }
        Ok(())
    }

    /// Sums hold, and nobody honest was slashed: but for duties that it missed while it was away for long.
    pub(super) fn check_honest(&self) -> Result<(), String> {
        self.stakes
            .check_conservation()
            .map_err(|e| e.to_string())?;
        self.book.check_conservation().map_err(|e| e.to_string())?;
        let guilty = self.guilty();
        for (who, (posts, kinds)) in &self.slashed_at {
            let missed = [kind::MISSED_REVEAL, kind::MISSED_BALLOT];
            let excused = self.was_away(*who) && kinds.iter().all(|kind| missed.contains(kind));
            if !guilty.contains(who) && !excused {
                return Err(format!(
                    "{who} is honest and was slashed for faults {kinds:?} after post {posts}"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn guilty(&self) -> BTreeSet<Address> {
        let mut guilty = BTreeSet::new();
        if self.cheat.is_router() && self.cheat != Cheat::ServeSome {
            guilty.insert(router());
        }
        if self.cheat.is_provider() {
            guilty.insert(provider(0).address());
        }
        if self.cheat.is_validator() {
            guilty.insert(validator(0).address());
        }
        guilty
    }

    /// The post with the first cheated job that was audited; where no audit is needed, the first cheated one.
    pub(super) fn first_audited(&self) -> Option<u64> {
        if !self.cheat.needs_audit() {
            return self.first_cheat;
        }
        let posts = self.cheated.iter();
        posts.filter_map(|job| self.audited.get(job)).min().copied()
    }

    pub(super) fn check_caught(&mut self) -> Result<(), String> {
        for who in self.guilty() {
            let is_validator = who == validator(0).address();
            let first = match self.cheat {
                // How long that takes is measured, not asked for.
                Cheat::Idle => None,
                Cheat::Copy | Cheat::Sleep | Cheat::Accuse if is_validator => Some(1),
                _ if who == router() && self.cheat.is_of_sums() => self.first_bad_root,
                _ => self.first_audited(),
            };
            // It may never have had the occasion.
            let Some(first) = first else { continue };
            match self.slashed_at.get(&who) {
                Some((posts, _)) if *posts <= first + 2 => {
                    let took = posts.saturating_sub(first);
                    let slowest = self.outcome.batches_to_slash.unwrap_or_default();
                    self.outcome.batches_to_slash = Some(slowest.max(took));
                }
                Some((posts, _)) => {
                    return Err(format!(
                        "{who} cheated in post {first}, slashed after {posts}"
                    ));
                }
                None => return Err(format!("{who} cheated in post {first} and was not slashed")),
            }
        }
        Ok(())
    }
}
