//! Jobs, batches and posts.

use super::*;

impl World {
    /// What provider `who` does with its next job.
    pub(super) fn deed(&mut self, who: u64) -> Answered {
        if who != 0 || !self.cheat.is_provider() {
            return Answered::Good;
        }
        match self.cheat {
            Cheat::Overcount => Answered::WrongCount,
            Cheat::AlterOutput if self.rng.chance(500) => Answered::Good,
            _ => Answered::WrongOutput,
        }
    }

    pub(super) fn job(&mut self, honest: bool) -> SignedReceipt {
        // Routing leaves whom a verdict found out.
        let first = self.verdict.record(provider(0).address());
        let left = honest || first.now().reputation == 0;
        let who = if left { 1 } else { self.rng.below(2) };
        let deed = self.deed(who);
        self.served(who, developer(), deed, honest)
    }

    /// A job that provider `who` did for `account`.
    pub(super) fn served(
        &mut self,
        who: u64,
        account: Address,
        deed: Answered,
        honest: bool,
    ) -> SignedReceipt {
        self.next_job += 1;
        let id = JobId(keccak256(self.next_job.to_be_bytes()).0);
        let (work, ticket) = order(id, &provider(who), account);
        let mut receipt = receipt(&ticket.ticket, 1 + self.rng.below(9));
        if self.cheat == Cheat::Overcharge && !honest {
            receipt.charge = receipt.charge.checked_add(units(1)).expect("small");
        }
        let subject = hash::job_subject(router(), receipt_leaf(&receipt));
        let withheld = matches!(self.cheat, Cheat::WithholdWork | Cheat::Forge) && !honest;
        if !withheld {
            self.orders
                .insert(subject, (ticket, work.canonical_bytes()));
        }
        let by_router = self.cheat.is_by_hand() && !honest;
        if account == developer() && (deed != Answered::Good || by_router) {
            let next = self.posts.len() as u64 + 1;
            self.first_cheat.get_or_insert(next);
            self.cheated.insert(id);
        }
        self.truth.insert(id, deed);
        self.charges.insert(id, (account, receipt.charge));
        self.outcome.jobs += 1;
        let digest = receipt_digest(&receipt);
        let signer = if self.cheat == Cheat::Forge && !honest {
            key("router")
        } else {
            provider(who)
        };
        SignedReceipt {
            provider_signature: signer.sign(digest),
            router_signature: key("router").sign(digest),
            receipt,
        }
    }

    pub(super) fn batch(&mut self, last: bool) -> Result<(), String> {
        self.dirty = true;
        if self.cheat == Cheat::WithholdBase {
            for n in 0..self.nodes.len() {
                self.nodes[n].sums.clear();
                self.restart(n);
            }
        }
        if self.cheat == Cheat::LeaveAndPost {
            self.leave();
        }
        let (least, most) = self.plan.jobs;
        let count = self.rng.between(least, most);
        let mut receipts: Vec<_> = (0..count).map(|_| self.job(last)).collect();
        if !last {
            receipts.extend(self.plant()?);
        }
        if self.cheat.is_by_hand() {
            if self.cheat == Cheat::DoublePost && !last {
                let mut again = receipts[0].receipt.clone();
                again.delivered_at = again.delivered_at.plus(Millis(1));
                let digest = receipt_digest(&again);
                receipts.push(SignedReceipt {
                    provider_signature: provider(u64::from(
                        again.provider != provider(0).address(),
                    ))
                    .sign(digest),
                    router_signature: key("router").sign(digest),
                    receipt: again,
                });
            }
            return self.post_by_hand(receipts, last);
        }
        for signed in receipts {
            let receipt = &signed.receipt;
            self.entry(Entry::Reserved {
                job: receipt.job_id,
                account: receipt.account,
                generation: 1,
                amount: units(40),
                until: self.time().plus(Millis::from_secs(60)),
            });
            self.entry(Entry::Charged {
                receipt: Box::new(signed),
            });
        }
        self.land()?;
        if self.under_way.is_some() {
            return Ok(()); // The chain has been down since the last batch: a router posts one after the other.
        }
        let free = self
            .book
            .payout_slot_free(self.time(), Millis::from_secs(WINDOW));
        let Some(Entry::BatchSealed(sealed)) = self.book.seal(self.time(), 1_000, free) else {
            return Ok(()); // The only leaf waits to carry the next root.
        };
        self.entry(Entry::BatchSealed(sealed.clone()));
        let file = self
            .book
            .leaf_file(sealed.index)
            .ok_or("a sealed batch has a file")?;
        let (sealed, file) = self.falsified(sealed, file)?;
        // A post takes its time, in which rulings may come.
        let slow = !last && self.plan.outages != Outages::None && self.rng.chance(300);
        let delay = if slow {
            self.rng.between(1, BATCH - 5)
        } else {
            0
        };
        self.under_way = Some((self.now + delay, sealed, file.encode()));
        self.land()
    }

    /// The router takes its stake and has its seat taken, if it can, once nothing of what it posted is left to be covered.
    fn leave(&mut self) {
        let posts = self.posts.len() as u64;
        if posts == 0 || self.rounds.last_of(router()).posts < posts {
            return;
        }
        let active = self.stakes.stake_of(Role::Router, router()).active;
        let now = self.now;
        self.left |= self
            .stakes
            .request_unbond(Role::Router, router(), active, now)
            .is_ok();
        let struck = self.rounds.strike(&self.stakes, &self.vault, router());
        self.dirty |= struck.is_ok();
    }

    /// Posts what has been under way for long enough.
    pub(super) fn land(&mut self) -> Result<(), String> {
        let up = self.away.chain_is_up(self.now);
        let ripe = |(at, ..): &mut (u64, SealedBatch, Vec<u8>)| up && *at <= self.now;
        let Some((_, sealed, file)) = self.under_way.take_if(ripe) else {
            return Ok(());
        };
        self.dirty = true;
        let pay_root = self.honest_root(sealed.pay_root);
        // It was cancelled in the books, and got there before that was known.
        if self
            .book
            .batch(sealed.index)
            .is_some_and(|batch| batch.voided)
        {
            self.entry(Entry::PayoutStands { pay_root });
        }
        self.post(&sealed, file)
    }

    /// The root in the books of one that was posted.
    pub(super) fn honest_root(&self, posted: Digest) -> Digest {
        self.falsified
            .get(&posted)
            .map_or(posted, |(root, _)| *root)
    }

    /// What the router posts and shows in place of what its books hold.
    fn falsified(
        &mut self,
        mut sealed: SealedBatch,
        mut file: LeafFile,
    ) -> Result<(SealedBatch, LeafFile), String> {
        let Some(set) = file.payout.as_mut() else {
            return Ok((sealed, file));
        };
        let (honest, gross) = (sealed.pay_root, sealed.gross);
        match self.cheat {
            // Its first root is right, and later ones are measured by that.
            Cheat::WithholdBase if self.claimable == 0 && self.pending == 0 => {
                return Ok((sealed, file));
            }
            Cheat::LeaveAndPost if !self.left => return Ok((sealed, file)),
            Cheat::OverpaySelf | Cheat::WithholdBase | Cheat::LeaveAndPost => {
                let more = units(5);
                set.providers.insert((router(), 1), more);
                let debit = set.debits.entry((developer(), 1)).or_default();
                *debit = debit.checked_add(more).ok_or("small")?;
                sealed.gross = gross.checked_add(more).ok_or("small")?;
            }
            Cheat::DropPay => {
                let Some(((_, fees), pay)) = set.providers.pop_first() else {
                    return Ok((sealed, file));
                };
                let other = provider(2).address();
                let total = set.providers.entry((other, fees)).or_default();
                *total = total.checked_add(pay).ok_or("small")?;
            }
            _ => return Ok((sealed, file)),
        }
        sealed.provider_root = set.provider_tree(router()).root();
        sealed.debit_root = set.debit_tree(router()).root();
        sealed.pay_root = pay_root(sealed.provider_root, sealed.debit_root);
        sealed.content_id = file.content_id();
        self.falsified.insert(sealed.pay_root, (honest, gross));
        Ok((sealed, file))
    }

    /// Whether the root of a post is wrong by its router's doing: falsified, with a charge whose reversal it must have seen before, or above
    /// what was allotted.
    fn is_bad_root(&self, sealed: &SealedBatch, payout: Option<&PayoutSet>) -> bool {
        let debited = payout.and_then(|set| set.debits.get(&(developer(), 1)));
        let over = debited.is_some_and(|debited| debited.units() > SMALL_CAP);
        let seen = |r: &Reversed| r.after + 1 < sealed.index;
        let keeps = self.cheat == Cheat::KeepReversed && self.reversals.iter().any(seen);
        let issues = self.cheat == Cheat::OverIssue && over;
        let wrong = keeps || issues || self.falsified.contains_key(&sealed.pay_root);
        sealed.pay_root != Digest::ZERO && wrong
    }

    pub(super) fn post_by_hand(
        &mut self,
        receipts: Vec<SignedReceipt>,
        last: bool,
    ) -> Result<(), String> {
        let file = LeafFile {
            router: router(),
            index: self.posts.len() as u64 + 1,
            first: 0,
            leaves: receipts.into_iter().map(|signed| (signed, 1)).collect(),
            payout: None,
        };
        let leaves = file.leaves.iter();
        let leaves: Vec<_> = leaves.map(|(s, _)| receipt_leaf(&s.receipt)).collect();
        let zero = Digest::ZERO;
        let sealed = SealedBatch {
            index: file.index,
            first: 0,
            job_count: u32::try_from(leaves.len()).expect("few"),
            job_root: MerkleTree::new(leaves).root(),
            provider_root: zero,
            debit_root: zero,
            pay_root: zero,
            gross: TokenAmount::ZERO,
            content_id: file.content_id(),
            sealed_at: self.time(),
        };
        self.post(&sealed, file.encode())?;
        if self.cheat == Cheat::WithholdLeaves && !last {
            self.files.remove(&sealed.index);
        }
        Ok(())
    }

    pub(super) fn post(&mut self, sealed: &SealedBatch, file: Vec<u8>) -> Result<(), String> {
        let (root, count, content) = (sealed.job_root, sealed.job_count, sealed.content_id);
        let (pay, gross) = (sealed.pay_root, sealed.gross);
        let events = self
            .vault
            .post_batch(router(), root, count, pay, gross, content, self.now);
        let events = events.map_err(|error| format!("the vault refuses a post: {error}"))?;
        let promoted = |event: &Event| matches!(event, Event::Promoted { .. });
        if events.iter().any(promoted) {
            self.claimable = self.pending;
        }
        self.roots.push(PostedRoot {
            pay_root: pay,
            gross,
            base: self.claimable,
        });
        if pay != Digest::ZERO {
            self.pending = sealed.index;
        }
        self.posts.push(Post {
            job_root: root,
            job_count: count,
            content_id: content,
        });
        let shown = LeafFile::decode(&file).map_err(|error| error.to_string())?;
        if self.is_bad_root(sealed, shown.payout.as_ref()) {
            self.first_bad_root.get_or_insert(sealed.index);
            self.bad_roots.insert(pay);
        }
        let leaves = shown.leaves.iter().map(|(signed, _)| Leaf {
            subject: hash::job_subject(router(), receipt_leaf(&signed.receipt)),
            job: signed.receipt.job_id,
            provider: signed.receipt.provider,
        });
        self.leaves.push(leaves.collect());
        self.files.insert(sealed.index, file);
        self.told(&events);
        Ok(())
    }

    /// A router that sees a pending root of its own pay a reversed charge cancels it.
    pub(super) fn cancel_own(&mut self) {
        if self.cheat.is_by_hand() || !self.away.chain_is_up(self.now) {
            return;
        }
        let pending = self.book.pending_of_reversed();
        let Some(pay_root) = pending.map(|batch| batch.sealed.pay_root) else {
            return;
        };
        if self.away.router_is_up(self.now) && self.vault.void_pending(router(), router()).is_ok() {
            self.entry(Entry::PayoutVoided { pay_root });
            self.take_back();
            self.dirty = true;
        }
    }

    /// Takes out of the books what was reversed, and out of posts what they have not seen leave.
    pub(super) fn take_back(&mut self) {
        while let Some(batch) = self.book.payout_of_reversed() {
            let pay_root = batch.sealed.pay_root;
            self.entry(Entry::PayoutVoided { pay_root });
        }
        while let Some(entry) = self.book.take_back_due() {
            self.entry(entry);
        }
    }

    /// What an honest router's book learns of the vault's events.
    pub(super) fn told(&mut self, events: &[Event]) {
        for event in events {
            let entry = match event {
                Event::BatchPosted {
                    index, chain_head, ..
                } => Entry::BatchPosted {
                    index: *index,
                    // A router knows what it falsified.
                    chain_head: match self.cheat.is_falsifier() {
                        true => self.book.chain_head(*index).unwrap_or(*chain_head),
                        false => *chain_head,
                    },
                    block: self.block().number,
                    at: self.time(),
                },
                Event::Promoted {
                    pay_root, gross, ..
                } => {
                    let honest = self.falsified.get(pay_root).copied();
                    let (pay_root, gross) = honest.unwrap_or((*pay_root, *gross));
                    Entry::PayoutPromoted { pay_root, gross }
                }
                _ => continue,
            };
            if !self.cheat.is_by_hand() {
                self.entry(entry);
            }
        }
    }
}

fn order(job: JobId, provider: &SecretKey, account: Address) -> (Work, SignedTicket) {
    let work = Work {
        prompt: Prompt::Text(format!("question of {job}")),
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 1,
            max_output_tokens: 10,
            stop: Vec::new(),
            ..SamplingParameters::default()
        },
        answer: AnswerShape::Any,
    };
    let price = Price::per_million(units(1_000_000));
    let ticket = Ticket {
        job_id: job,
        account,
        router: router(),
        provider: provider.address(),
        model_root: keccak256("model"),
        parameters_digest: keccak256(work.sampling.canonical_bytes()),
        request_digest: keccak256(job.0),
        work_digest: work.digest(),
        input_price: price,
        output_price: price,
        input_units_max: 30,
        output_units_max: 10,
        reserve: units(40),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: Timestamp(START * 1_000),
        deadline: Timestamp((START + 10_000) * 1_000),
    };
    let signature = key("router").sign(ticket_digest(&domain(), &ticket));
    (work, SignedTicket { ticket, signature })
}

fn receipt(ticket: &Ticket, tokens: u64) -> Receipt {
    let content = Content {
        text: String::new(),
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
        input_units: 3,
        output_units: tokens,
    };
    let facts = Facts {
        prompt_root: token_root(&[1, 2, 3]),
        runtime_digest: keccak256("iq8"),
        accepted_at: Timestamp(START * 1_000),
        delivered_at: Timestamp(START * 1_000),
    };
    let receipt = expected_receipt(&domain(), Digest::ZERO, ticket, &content, &[4, 5], facts);
    receipt.expect("a small charge fits")
}
