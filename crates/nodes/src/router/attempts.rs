//! One call on its way through providers: dispatch, tokens, receipt, fail-over before the first token, cancellation.

use super::admission::{parameters_digest, reserve};
use super::{After, Current, Job, Keeping, Output, Phase, Router, reasoning, room, vectors};
use crate::client::{Cause, ClientEvent, Done, Failure, Started, Undelivered};
use crate::message::{
    Dispatch, Final, ModelOffer, REASON_CHARS_MAX, RefusalReason, ToProvider, ToRouter, clipped,
};
use crate::receipts::{Facts, expected_receipt};
use crate::work::Prompt;
use std::sync::Arc;
use stoa_crypto::{Domain, SecretKey, acceptance_digest, receipt_digest, recover, ticket_digest};
use stoa_ledger::book::{BookError, Entry, ReleaseCause};
use stoa_types::{
    Address, Digest, FinishReason, JobId, Logprobs, Millis, SignedAcceptance, SignedReceipt,
    SignedTicket, Ticket, Tier, Timestamp, TokenAmount,
};

/// Text that one token can stand for, in bytes: far above any vocabulary, and a bound on what a provider can make us hold.
const TOKEN_BYTES_MAX: usize = 1024;

/// Bytes of tokens that log-probabilities of an answer may name for each entry, over all of it: some tokens are long, not all are.
const ENTRY_BYTES: usize = 64;
/// Bytes that they may name beyond that, so that a short answer may be of long tokens.
const ENTRIES_BYTES: usize = 64 << 10;

/// How far clocks may be apart.
const CLOCKS: Millis = Millis::from_secs(600);

/// A provider that says that nobody could serve the request.
#[derive(Debug, Clone)]
pub(super) struct Blame {
    provider: Address,
    model_root: Digest,
    cause: Cause,
}

/// An order that a provider took.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    /// Prompt tokens: exact, or for tier `none` an upper bound.
    pub(super) input_units: u64,
    acceptance: SignedAcceptance,
}

/// What became of an attempt that ends without a receipt.
pub(super) enum Lost {
    /// The provider's doing: counts against it, and where it had taken the order it can be claimed.
    Fault(Cause),
    /// The provider's doing, but this router ended its connection: it could not have delivered.
    CutOff(Cause),
    /// Nobody's fault, for example all its slots were taken meanwhile.
    Declined(Cause),
    /// Nobody's fault: this provider has no room for the request, and another one's may. Told to the client only where no attempt ended by
    /// something that may be otherwise in a moment.
    Limited(Cause),
    /// The request's fault, says the provider: a second one is asked before it is believed, so that nobody fails calls for free.
    Blamed(Cause),
    /// Nobody could do better.
    Hopeless(Cause),
}

impl Router {
    /// The reservation is durable: order the work.
    pub(super) fn reserved(&mut self, job: JobId, now: Timestamp, outputs: &mut Vec<Output>) {
        match self.jobs.get(&job).map(|state| &state.phase) {
            Some(Phase::Reserving) => self.dispatch(job, now, outputs),
            Some(Phase::Abandoned) => {
                self.end_job(job);
                self.release(job, ReleaseCause::Cancelled, outputs);
            }
            _ => {}
        }
    }

    /// Tries the next provider, or gives up.
    fn dispatch(&mut self, job: JobId, now: Timestamp, outputs: &mut Vec<Output>) {
        loop {
            let Some(state) = self.jobs.get_mut(&job) else {
                return;
            };
            state.current = None;
            if let Some(provider) = state.claimed.take() {
                self.stock.unclaim(provider);
            }
            let Some(provider) = state.remaining.pop() else {
                // Where nobody is left to contradict it, a blame is believed.
                let blame = state.blamed.take().map(|blame| blame.cause);
                let cause = blame
                    .or(state.last_failure.take())
                    .or(state.limit.take())
                    .unwrap_or(Cause::ProviderDown);
                return self.give_up(job, cause, TokenAmount::ZERO, outputs);
            };
            if !self.stock.can_take(provider) {
                // The provider may have taken work elsewhere since the call was admitted.
                if state.last_failure.is_none() && self.stock.is_full(provider) {
                    let model = state.request.model.clone();
                    let full = self.over_capacity(&model);
                    if let Some(state) = self.jobs.get_mut(&job) {
                        state.last_failure = Some(full);
                    }
                }
                continue;
            }
            self.limit_output(job, provider);
            let Some(ticket) = self.ticket(job, provider, now) else {
                continue;
            };
            return self.order(job, ticket, now, outputs);
        }
    }

    /// The order's output limit, by the provider's own context.
    fn limit_output(&mut self, job: JobId, provider: Address) {
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        if let Some(offer) = self.stock.offer(provider, &state.request.model) {
            let (prompt, most) = (&state.request.prompt, state.output_units_max);
            state.parameters.max_output_tokens = room::output_limit(offer, prompt, most);
        }
    }

    fn ticket(&self, job: JobId, provider: Address, now: Timestamp) -> Option<Ticket> {
        let state = self.jobs.get(&job)?;
        let offer = self.stock.offer(provider, &state.request.model)?;
        let until = self.book.reservation(job)?.until;
        // A provider that came back with other prices than it was chosen by is not ordered from.
        let prompt = &state.request.prompt;
        let output_price = offer.output_price_for(prompt);
        let cost = reserve(
            std::slice::from_ref(offer),
            prompt,
            state.input_units_max,
            state.parameters.max_output_tokens,
        );
        let limits = &state.request.constraints;
        let dearer = !cost.is_ok_and(|cost| cost <= state.reserve)
            || limits
                .input_price_max
                .is_some_and(|most| offer.input_price > most)
            || limits
                .output_price_max
                .is_some_and(|most| output_price > most);
        if dearer {
            return None;
        }
        Some(Ticket {
            job_id: job,
            account: state.account,
            router: self.config.key.address(),
            provider,
            model_root: offer.model_root,
            parameters_digest: parameters_digest(&state.parameters),
            request_digest: state.request.request_digest,
            work_digest: state.work().digest(),
            input_price: offer.input_price,
            output_price,
            input_units_max: state.input_units_max,
            output_units_max: u64::from(state.parameters.max_output_tokens),
            reserve: state.reserve,
            fee_version: state.fee_version,
            tier: offer.tier,
            attempt: state.attempt,
            issued_at: now,
            deadline: until,
        })
    }

    fn order(&mut self, job: JobId, ticket: Ticket, now: Timestamp, outputs: &mut Vec<Output>) {
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        let provider = ticket.provider;
        let signature = self
            .config
            .key
            .sign(ticket_digest(&self.config.domain, &ticket));
        let work = state.work();
        let signed = SignedTicket {
            ticket: ticket.clone(),
            signature,
        };
        let dispatch = Dispatch {
            ticket: signed,
            work,
            profile_hash: self.config.profile_hash,
            // The shell puts it in: the state machine knows no traces.
            trace: None,
        };
        state.phase = Phase::Running;
        state.current = Some(Current {
            provider,
            ticket,
            taken: None,
            output: Vec::new(),
            text: String::new(),
            marks: Vec::new(),
            named_bytes: 0,
            ordered_at: now,
            holds_slot: true,
            waiting_since: now,
        });
        self.stock.take_slot(provider);
        outputs.push(Output::Send {
            provider,
            message: Box::new(ToProvider::Dispatch(Box::new(dispatch))),
        });
    }

    pub(super) fn provider_message(
        &mut self,
        provider: Address,
        message: ToRouter,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        match message {
            // A connection says hello once; the shell turns that into `ProviderUp`.
            ToRouter::Hello(_) => {}
            ToRouter::Status {
                free_slots,
                draining,
            } => self.stock.status(provider, free_slots, draining),
            ToRouter::Accepted {
                job,
                attempt,
                acceptance,
                input_units,
            } => {
                let taken = Taken {
                    input_units,
                    acceptance,
                };
                self.accepted(provider, (job, attempt), taken, now, outputs);
            }
            ToRouter::Refused {
                job,
                attempt,
                reason,
            } => {
                if self.is_current(provider, (job, attempt)) {
                    let how = self.refused_attempt(provider, job, reason);
                    self.lost(job, how, now, outputs);
                }
            }
            ToRouter::Delta {
                job,
                attempt,
                tokens,
                text,
                logprobs,
            } => {
                let pieces = (text, logprobs);
                self.delta(provider, (job, attempt), &tokens, pieces, now, outputs);
            }
            ToRouter::Final(end) => self.finished(provider, *end, now, outputs),
            ToRouter::Failed {
                job,
                attempt,
                reason,
            } => {
                if self.is_current(provider, (job, attempt)) {
                    let reason = clipped(&reason, REASON_CHARS_MAX);
                    outputs.push(Output::Warn {
                        job: Some(job),
                        text: format!("provider {provider} failed {job}: {reason}"),
                    });
                    let cause = Cause::ProviderDown;
                    // What the model makes of a prompt need not have the shape that the client demands, and nobody's would.
                    let how = if self.demands_shape(job) {
                        Lost::Declined(cause)
                    } else {
                        Lost::Fault(cause)
                    };
                    self.lost(job, how, now, outputs);
                }
            }
        }
    }

    /// Whether an answer must have a shape that a model may miss.
    fn demands_shape(&self, job: JobId) -> bool {
        let state = self.jobs.get(&job);
        state.is_some_and(|state| state.request.answer.is_demanding())
    }

    fn is_current(&self, provider: Address, (job, attempt): (JobId, u32)) -> bool {
        let Some(state) = self.jobs.get(&job) else {
            return false;
        };
        let running = matches!(state.phase, Phase::Running | Phase::Cancelling { .. });
        running
            && state.attempt == attempt
            && state
                .current
                .as_ref()
                .is_some_and(|current| current.provider == provider)
    }

    fn accepted(
        &mut self,
        provider: Address,
        id: (JobId, u32),
        taken: Taken,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        if !self.is_current(provider, id) {
            return;
        }
        let domain = self.config.domain;
        let Some(current) = self
            .jobs
            .get_mut(&id.0)
            .and_then(|state| state.current.as_mut())
        else {
            return;
        };
        if current.taken.is_some() {
            return; // Repeated: what it signed first stands, as what it counted first.
        }
        if let Err(reason) = check_taken(&domain, &current.ticket, &taken) {
            let reason = reason.to_owned();
            let cause = Cause::VerificationFailed { reason };
            return self.lost(id.0, Lost::Fault(cause), now, outputs);
        }
        current.taken = Some(taken);
        let root = current.ticket.model_root;
        // Tier `none` names no weights, and finds out whether a prompt fits by running it: its acceptance contradicts nobody.
        if root.is_zero() {
            return;
        }
        // The same weights count and render alike: whoever blamed the request was wrong.
        let blamed = self.jobs.get_mut(&id.0).and_then(|s| s.blamed.take());
        if let Some(blame) = blamed.filter(|blame| blame.model_root == root) {
            outputs.push(Output::Warn {
                job: Some(id.0),
                text: format!(
                    "provider {} refused {} ({}), which {provider} can serve with the same weights",
                    blame.provider, id.0, blame.cause
                ),
            });
            self.stock.failed(blame.provider, now, true);
        }
    }

    fn delta(
        &mut self,
        provider: Address,
        id: (JobId, u32),
        tokens: &[u32],
        (text, logprobs): (String, Vec<Logprobs>),
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        if !self.is_current(provider, id) || tokens.is_empty() {
            return;
        }
        let Some(state) = self
            .jobs
            .get_mut(&id.0)
            .filter(|state| state.phase == Phase::Running)
        else {
            return;
        };
        let Some(current) = state.current.as_mut() else {
            return;
        };
        let asked = state.parameters.logprobs;
        let checked = check_delta(&state.request.prompt, current, tokens, &text)
            .map_err(str::to_owned)
            .and_then(|()| check_logprobs(current, &logprobs, tokens, asked));
        if let Err(reason) = checked {
            let cause = Cause::ProviderInvalid { reason };
            return self.lost(id.0, Lost::Fault(cause), now, outputs);
        }
        current.output.extend(tokens);
        current.text.push_str(&text);
        current
            .marks
            .push((current.output.len(), current.text.len()));
        let waited = now.since(current.ordered_at);
        current.waiting_since = now;
        if state.first_token_at.is_none() {
            state.first_token_at = Some(now);
            outputs.push(Output::Client {
                job: id.0,
                event: ClientEvent::Started(self.started(id.0, provider)),
            });
            self.stock.first_token(provider, waited);
        }
        let tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        outputs.push(Output::Client {
            job: id.0,
            event: ClientEvent::Delta {
                text,
                tokens,
                logprobs,
            },
        });
    }

    fn started(&self, job: JobId, provider: Address) -> Started {
        let standing = self.stock.get(provider);
        let state = self.jobs.get(&job);
        let tier = state
            .and_then(|s| s.current.as_ref())
            .map_or(stoa_types::Tier::None, |current| current.ticket.tier);
        let region = standing.map_or(stoa_types::Region(*b"XX"), |s| s.hello.region);
        Started {
            provider,
            tier,
            region,
            failovers: state.map_or(0, |s| s.attempt),
            reasons: state
                .and_then(|s| self.stock.offer(provider, &s.request.model))
                .is_some_and(|offer| offer.reasons),
        }
    }

    /// A final receipt: compared field by field with the one that ticket and delivered tokens demand.
    fn finished(
        &mut self,
        provider: Address,
        end: Final,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let id = (end.receipt.job_id, end.receipt.attempt);
        if !self.is_current(provider, id) {
            return self.late_final(provider, &end, outputs);
        }
        if self
            .jobs
            .get(&id.0)
            .is_some_and(|state| cut_elsewhere(state, &end))
        {
            return; // Made before our cancellation arrived: the receipt for what was delivered follows.
        }
        match self.check_final(&end) {
            Ok(()) => self.complete(end, now, outputs),
            Err(cause) => {
                let refused = ToProvider::ReceiptRefused {
                    job: id.0,
                    attempt: id.1,
                    reason: cause.to_string(),
                };
                outputs.push(Output::Send {
                    provider,
                    message: Box::new(refused),
                });
                self.lost(id.0, Lost::Fault(cause), now, outputs);
            }
        }
    }

    /// The provider is done. A client that is still there is charged once it has got everything; one that left has got what is
    /// charged.
    fn complete(&mut self, end: Final, now: Timestamp, outputs: &mut Vec<Output>) {
        let job = end.receipt.job_id;
        let started = self.started(job, end.receipt.provider);
        self.free_slot(job);
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        if let Some(current) = &state.current {
            self.slot_time.observe(now.since(current.ordered_at).0);
        }
        let is_there = state.phase == Phase::Running;
        let first = is_there && state.first_token_at.is_none();
        let done = Arc::new(done_of(state, &self.config.key, end, started, now));
        if !is_there {
            return self.charge(done, now, outputs);
        }
        state.phase = Phase::Delivering(done.clone());
        if first {
            outputs.push(Output::Client {
                job,
                event: ClientEvent::Started(done.started.clone()),
            });
        }
        outputs.push(Output::Client {
            job,
            event: ClientEvent::Complete(done),
        });
    }

    /// So much was written to the client.
    pub(super) fn written(&mut self, job: JobId, tokens: u64) {
        if let Some(state) = self.jobs.get_mut(&job) {
            state.read = state.read.max(tokens);
        }
    }

    /// So much reached the client. The last of it ends the call.
    pub(super) fn delivered(
        &mut self,
        job: JobId,
        tokens: u64,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        self.written(job, tokens);
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        if let Phase::Delivering(done) = &state.phase
            && state.read >= done.content.output_units
        {
            let done = done.clone();
            self.charge(done, now, outputs);
        }
    }

    /// A receipt offered again after a lost connection: countersigned if it was charged, refused if not.
    fn late_final(&mut self, provider: Address, end: &Final, outputs: &mut Vec<Output>) {
        let (job, attempt) = (end.receipt.job_id, end.receipt.attempt);
        let pending = |state: &Job| match &state.phase {
            Phase::Charging(_) => true,
            Phase::Delivering(held) => held.receipt.receipt == end.receipt,
            _ => false,
        };
        if self.jobs.get(&job).is_some_and(pending) {
            return; // The answer leaves when the charge is durable.
        }
        let message = match self.book.receipt(job) {
            Some(signed) if signed.receipt == end.receipt => {
                ToProvider::Countersigned(Box::new(signed.clone()))
            }
            _ => ToProvider::ReceiptRefused {
                job,
                attempt,
                reason: "no charge was made for this attempt".to_owned(),
            },
        };
        outputs.push(Output::Send {
            provider,
            message: Box::new(message),
        });
    }

    /// What ails a final: a contradiction in what it tells, or a receipt that does not prove it.
    fn check_final(&self, end: &Final) -> Result<(), Cause> {
        let job = end.receipt.job_id;
        let nothing = |reason: &str| Cause::ProviderInvalid {
            reason: reason.to_owned(),
        };
        let state = self.jobs.get(&job);
        let state = state.ok_or_else(|| nothing("the job is not running"))?;
        let current = state.current.as_ref();
        let current = current.ok_or_else(|| nothing("nothing was ordered"))?;
        check_content(state, current, end).map_err(|reason| Cause::ProviderInvalid { reason })?;
        let offer = self.stock.offer(current.provider, &state.request.model);
        let offer = offer.ok_or_else(|| nothing("the offer is gone"))?;
        let facts = Facts {
            prompt_root: end.receipt.prompt_root,
            runtime_digest: offer.runtime_digest,
            accepted_at: end.receipt.accepted_at,
            delivered_at: end.receipt.delivered_at,
        };
        let (domain, profile) = (&self.config.domain, self.config.profile_hash);
        let (ticket, output) = (&current.ticket, &current.output);
        let expected = expected_receipt(domain, profile, ticket, &end.content, output, facts)
            .ok_or_else(|| nothing("the charge does not fit an amount"))?;
        let unproven = |reason: &str| Cause::VerificationFailed {
            reason: reason.to_owned(),
        };
        if expected != end.receipt {
            return Err(unproven(
                "its receipt differs from what ticket and answer demand",
            ));
        }
        match recover(receipt_digest(&expected), &end.signature) {
            Ok(signer) if signer == current.provider => Ok(()),
            _ => Err(unproven("its receipt is not signed by it")),
        }
    }

    /// Charges; the client hears `Done` once that is durable.
    fn charge(&mut self, done: Arc<Done>, now: Timestamp, outputs: &mut Vec<Output>) {
        let entry = Entry::Charged {
            receipt: Box::new(done.receipt.clone()),
        };
        if let Err(error) = self.book.check(&entry) {
            return self.not_chargeable(&done.receipt, &error, now, outputs);
        }
        let receipt = &done.receipt.receipt;
        let job = receipt.job_id;
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        state.phase = Phase::Charging(done.clone());
        let account = receipt.account;
        self.by_account.entry(account).or_default().push(job);
        self.spend(job, receipt.charge, now, outputs);
        self.remember_ttft(job, done.ttft_ms);
        self.stock.delivered(receipt.provider, now);
        self.keep(job, outputs);
        self.journal(entry, After::Deliver(job), outputs);
    }

    /// What a validator needs to compute the answer again.
    fn keep(&self, job: JobId, outputs: &mut Vec<Output>) {
        let state = self.jobs.get(&job).filter(|_| self.audited_posts.is_some());
        let Some((state, current)) = state.and_then(|s| Some((s, s.current.as_ref()?))) else {
            return;
        };
        let ticket = current.ticket.clone();
        if ticket.tier != Tier::Exact {
            return; // Nothing else is judged by its content.
        }
        let digest = ticket_digest(&self.config.domain, &ticket);
        let signature = self.config.key.sign(digest);
        outputs.push(Output::Audits(Keeping::Keep {
            job,
            ticket: Box::new(SignedTicket { ticket, signature }),
            work: state.work().canonical_bytes(),
        }));
    }

    /// The books refuse a right receipt: the vault released the allotment while the job ran (a revocation, or clocks that disagree).
    /// Nobody can be paid from it any more, so nothing is charged.
    fn not_chargeable(
        &mut self,
        signed: &SignedReceipt,
        error: &BookError,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let (job, provider) = (signed.receipt.job_id, signed.receipt.provider);
        outputs.push(Output::Warn {
            job: Some(job),
            text: format!("{job} cannot be charged: {error}"),
        });
        outputs.push(Output::Send {
            provider,
            message: Box::new(ToProvider::ReceiptRefused {
                job,
                attempt: signed.receipt.attempt,
                reason: error.to_string(),
            }),
        });
        self.lost(job, Lost::Hopeless(Cause::AllotmentExpired), now, outputs);
    }

    /// The charge is durable: tell both sides.
    pub(super) fn charged(&mut self, job: JobId, outputs: &mut Vec<Output>) {
        let Some(Job {
            phase: Phase::Charging(done),
            ..
        }) = self.end_job(job)
        else {
            return;
        };
        let receipt = done.receipt.clone();
        let provider = receipt.receipt.provider;
        outputs.push(Output::Client {
            job,
            event: ClientEvent::Done(done),
        });
        outputs.push(Output::Send {
            provider,
            message: Box::new(ToProvider::Countersigned(Box::new(receipt))),
        });
    }

    /// An attempt ended without a receipt: the next provider, unless tokens were delivered or nobody could do better.
    fn lost(&mut self, job: JobId, how: Lost, now: Timestamp, outputs: &mut Vec<Output>) {
        self.free_slot(job);
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        let Some(current) = state.current.take() else {
            return;
        };
        let delivered = !current.output.is_empty();
        let cancelled = matches!(state.phase, Phase::Cancelling { .. });
        let claimable = matches!(how, Lost::Fault(_)) && !cancelled;
        let limited = matches!(how, Lost::Limited(_));
        let (fault, hopeless, cause) = match how {
            Lost::Fault(cause) | Lost::CutOff(cause) => (true, false, cause),
            Lost::Declined(cause) | Lost::Limited(cause) => (false, false, cause),
            Lost::Hopeless(cause) => (false, true, cause),
            Lost::Blamed(cause) if state.blamed.is_some() => (false, true, cause),
            Lost::Blamed(cause) => {
                state.blamed = Some(Blame {
                    provider: current.provider,
                    model_root: current.ticket.model_root,
                    cause: cause.clone(),
                });
                (false, false, cause)
            }
        };
        if fault {
            let dishonest = matches!(
                cause,
                Cause::ProviderInvalid { .. } | Cause::VerificationFailed { .. }
            );
            self.stock.failed(current.provider, now, dishonest);
        }
        let undelivered = claimable.then(|| self.undelivered(&current)).flatten();
        self.remember_loss(
            &current.ticket,
            cause.clone(),
            fault,
            now,
            undelivered.clone(),
        );
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        if let Some(undelivered) = undelivered {
            state.undelivered.push(undelivered.clone());
            outputs.push(Output::Undelivered(Box::new(undelivered)));
        }
        match limited {
            true => state.limit = Some(cause.clone()),
            false => state.last_failure = Some(cause.clone()),
        }
        if cancelled {
            self.give_up(job, cause, TokenAmount::ZERO, outputs);
        } else if delivered {
            let told = if cause == Cause::ProviderDown {
                Cause::ProviderLost
            } else {
                cause
            };
            self.give_up(job, told, TokenAmount::ZERO, outputs);
        } else if hopeless {
            self.give_up(job, cause, TokenAmount::ZERO, outputs);
        } else {
            state.attempt += 1;
            if limited {
                self.try_longer(job, current.provider, &cause);
            }
            self.dispatch(job, now, outputs);
        }
    }

    /// One that offers more context than who had no room for the request is tried too, after those that are to be tried anyway.
    fn try_longer(&mut self, job: JobId, short: Address, cause: &Cause) {
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        let model = &state.request.model;
        let context = |provider| {
            let offer = self.stock.offer(provider, model);
            offer.map_or(0, |offer| offer.context)
        };
        let counted = match cause {
            Cause::ContextLength { tokens, .. } => *tokens,
            _ => 0,
        };
        let has_room = |other: &Address| {
            context(*other) > context(short) && u64::from(context(*other)) >= counted
        };
        if let Some(place) = state.longer.iter().position(has_room) {
            let other = state.longer.remove(place);
            state.remaining.insert(0, other);
        } else if let Some((dear, why)) = &state.too_dear
            && dear.iter().any(has_room)
        {
            state.limit = Some(why.clone());
        }
    }

    fn give_up(
        &mut self,
        job: JobId,
        cause: Cause,
        billed: TokenAmount,
        outputs: &mut Vec<Output>,
    ) {
        let ended = self.end_job(job);
        let release = if cause == Cause::DeadlineExceeded {
            ReleaseCause::TimedOut
        } else {
            ReleaseCause::ProviderFailed
        };
        self.release(job, release, outputs);
        outputs.push(Output::Client {
            job,
            event: ClientEvent::Failed(Failure {
                cause,
                billed,
                undelivered: ended.map_or_else(Box::default, |job| job.undelivered.into()),
            }),
        });
    }

    /// Both signatures under an order that was taken; nothing where it was not.
    fn undelivered(&self, current: &Current) -> Option<Undelivered> {
        let acceptance = current.taken.as_ref()?.acceptance.clone();
        let ticket = current.ticket.clone();
        let signature = self.config.key.sign(acceptance.acceptance.ticket);
        Some(Undelivered {
            ticket: SignedTicket { ticket, signature },
            acceptance,
        })
    }

    pub(super) fn provider_down(
        &mut self,
        provider: Address,
        how: fn(Cause) -> Lost,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        self.stock.down(provider);
        let hit = |state: &&Job| {
            state
                .current
                .as_ref()
                .is_some_and(|current| current.provider == provider)
        };
        let running =
            |state: &&Job| matches!(state.phase, Phase::Running | Phase::Cancelling { .. });
        let jobs: Vec<_> = self
            .jobs
            .iter()
            .filter(|(_, s)| hit(s) && running(s))
            .map(|(job, _)| *job)
            .collect();
        for job in jobs {
            self.lost(job, how(Cause::ProviderDown), now, outputs);
        }
    }

    /// The client is gone: it owes what it got and nothing else.
    pub(super) fn client_gone(
        &mut self,
        job: JobId,
        read: u64,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        if self.queue.leave(job).is_some() {
            return;
        }
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        state.read = state.read.max(read);
        let read = state.read;
        match (&state.phase, state.current.as_mut()) {
            (Phase::Charging(_) | Phase::Cancelling { .. } | Phase::Abandoned, _) => {}
            // Whether there is anything to release is known once the journal has answered.
            (Phase::Reserving, _) => state.phase = Phase::Abandoned,
            // Of an answer without tokens, none was got before it was said to be delivered.
            (Phase::Delivering(done), Some(_)) if read > 0 && read >= done.content.output_units => {
                let done = done.clone();
                self.charge(done, now, outputs);
            }
            (Phase::Running | Phase::Delivering(_), Some(current)) => {
                let delivered = current.cut(read);
                let (provider, attempt) = (current.provider, state.attempt);
                current.waiting_since = now;
                let cancel = ToProvider::Cancel {
                    job,
                    attempt,
                    delivered,
                };
                outputs.push(Output::Send {
                    provider,
                    message: Box::new(cancel),
                });
                if delivered > 0 {
                    state.phase = Phase::Cancelling { delivered };
                } else {
                    self.free_slot(job);
                    self.end_job(job);
                    self.release(job, ReleaseCause::Cancelled, outputs);
                }
            }
            _ => {
                self.end_job(job);
                self.release(job, ReleaseCause::Cancelled, outputs);
            }
        }
    }

    /// Gives up on providers that are silent for too long.
    pub(super) fn deadlines(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        let routing = &self.config.profile.routing;
        let (first, next) = (
            Millis(routing.first_token_ms_max),
            Millis(routing.inter_token_ms_max),
        );
        let silent = |state: &Job| {
            let waiting = matches!(state.phase, Phase::Running | Phase::Cancelling { .. });
            let current = state.current.as_ref().filter(|_| waiting)?;
            let most = if current.output.is_empty() {
                first
            } else {
                next
            };
            (now.since(current.waiting_since) >= most || now >= current.ticket.deadline)
                .then_some(current.provider)
        };
        let late: Vec<_> = self
            .jobs
            .iter()
            .filter_map(|(job, s)| Some((*job, s.attempt, silent(s)?)))
            .collect();
        // Whoever carries the answer says when the client got it or left; past the ticket's deadline nobody waits for that.
        let undelivered = |state: &Job| {
            let current = state.current.as_ref();
            matches!(state.phase, Phase::Delivering(_))
                && current.is_some_and(|current| now >= current.ticket.deadline)
        };
        let left: Vec<_> = self
            .jobs
            .iter()
            .filter(|(_, state)| undelivered(state))
            .map(|(job, _)| *job)
            .collect();
        for job in left {
            self.client_gone(job, 0, now, outputs);
        }
        for (job, attempt, provider) in late {
            let cancel = ToProvider::Cancel {
                job,
                attempt,
                delivered: 0,
            };
            outputs.push(Output::Send {
                provider,
                message: Box::new(cancel),
            });
            self.lost(job, Lost::Fault(Cause::DeadlineExceeded), now, outputs);
        }
    }
}

/// Whether two offers are of one model, as far as anyone can tell: the same weights have the same context.
fn same_weights(offer: Option<&ModelOffer>, other: &ModelOffer) -> bool {
    !other.model_root.is_zero() && offer.is_some_and(|o| o.model_root == other.model_root)
}

/// Whether a provider's word is for this order, by it, and within what was ordered.
fn check_taken(domain: &Domain, ticket: &Ticket, taken: &Taken) -> Result<(), &'static str> {
    let SignedAcceptance {
        acceptance,
        signature,
    } = &taken.acceptance;
    if acceptance.ticket != ticket_digest(domain, ticket) {
        return Err("its acceptance is of another order");
    }
    if recover(acceptance_digest(domain, acceptance), signature) != Ok(ticket.provider) {
        return Err("its acceptance is not signed by it");
    }
    if acceptance.accepted_at.plus(CLOCKS) < ticket.issued_at {
        return Err("it accepted long before it was ordered");
    }
    if acceptance.accepted_at > ticket.deadline {
        return Err("it accepted after the ticket's deadline");
    }
    if taken.input_units > ticket.input_units_max {
        return Err("it counts more input than the ticket covers");
    }
    Ok(())
}

/// Countersigns; what the client will hear once the call is charged.
fn done_of(state: &Job, key: &SecretKey, end: Final, started: Started, now: Timestamp) -> Done {
    let Final {
        content,
        receipt,
        signature,
    } = end;
    let first = state.first_token_at.unwrap_or(now);
    let refund = state.reserve.checked_sub(receipt.charge);
    let receipt = SignedReceipt {
        router_signature: key.sign(receipt_digest(&receipt)),
        provider_signature: signature,
        receipt,
    };
    let marks = state.current.as_ref().map(|current| &current.marks[..]);
    let reasoning_units = match started.reasons {
        true => reasoning::units(&content, marks.unwrap_or_default()),
        false => 0,
    };
    Done {
        content,
        reasoning_units,
        receipt,
        parameters: state.parameters.clone(),
        started,
        ttft_ms: first.since(state.submitted_at).0,
        refund: refund.unwrap_or(TokenAmount::ZERO),
        // Where the provider's context cut it further, that is why it ended.
        shortened: state.shortened && state.parameters.max_output_tokens == state.output_units_max,
    }
}

/// Whether more tokens and their text may follow what came.
fn check_delta(
    prompt: &Prompt,
    current: &Current,
    tokens: &[u32],
    text: &str,
) -> Result<(), &'static str> {
    let count = current.output.len() + tokens.len();
    if count as u64 > current.ticket.output_units_max {
        return Err("it sent more tokens than were ordered");
    }
    if current.taken.is_none() {
        return Err("it sent tokens before it accepted");
    }
    if let Some(checked) = vectors::check_lines(prompt, current, tokens, text) {
        return checked;
    }
    if current.text.len() + text.len() > count.saturating_mul(TOKEN_BYTES_MAX) {
        return Err("it sent more text than its tokens can stand for");
    }
    Ok(())
}

/// Whether log-probabilities are what was asked for, and do not make us hold more than those of an answer can come to: a provider may
/// be its own customer.
fn check_logprobs(
    current: &mut Current,
    logprobs: &[Logprobs],
    tokens: &[u32],
    asked: Option<u8>,
) -> Result<(), String> {
    Logprobs::check(logprobs, tokens, asked, TOKEN_BYTES_MAX).map_err(|error| error.to_string())?;
    current.named_bytes += logprobs.iter().map(Logprobs::named_bytes).sum::<usize>();
    let entries = (current.output.len() + tokens.len()) * (usize::from(asked.unwrap_or(0)) + 1);
    if current.named_bytes > entries * ENTRY_BYTES + ENTRIES_BYTES {
        return Err("its log-probabilities name more bytes than so many tokens have".to_owned());
    }
    Ok(())
}

/// Whether a final tells the same as what was ordered, accepted and sent before it.
fn check_content(state: &Job, current: &Current, end: &Final) -> Result<(), String> {
    let taken = current.taken.as_ref();
    let Taken {
        input_units,
        acceptance,
    } = taken.ok_or("the ticket was not accepted")?;
    let input_units = *input_units;
    // A float server counts by itself, and may claim less than was accepted and sent (0021).
    let may_claim_less = current.ticket.tier == Tier::None;
    let right =
        |claimed: u64, counted: u64| claimed == counted || (may_claim_less && claimed < counted);
    let content = &end.content;
    if !right(content.input_units, input_units) {
        return Err(format!(
            "it counts {} input tokens after accepting {input_units}",
            content.input_units
        ));
    }
    if content.text != current.text || !right(content.output_units, current.output.len() as u64) {
        return Err("text or count of the answer differ from what was streamed".to_owned());
    }
    if !content.tool_calls.is_empty() && content.finish_reason != FinishReason::ToolCalls {
        return Err("tool calls without that finish reason".to_owned());
    }
    let (accepted_at, delivered_at) = (end.receipt.accepted_at, end.receipt.delivered_at);
    if accepted_at != acceptance.acceptance.accepted_at {
        return Err("the receipt names another time of acceptance than was signed".to_owned());
    }
    if delivered_at < accepted_at || delivered_at > current.ticket.deadline {
        return Err("delivered before it was accepted or after the ticket's deadline".to_owned());
    }
    let ordered = state.request.prompt.vectors().map(u64::from);
    let whole =
        content.finish_reason == FinishReason::Stop && Some(current.output.len() as u64) == ordered;
    if ordered.is_some() && state.phase == Phase::Running && !whole {
        return Err("it ended before every vector was there".to_owned());
    }
    if content.finish_reason == FinishReason::Cancelled && state.phase == Phase::Running {
        return Err("it counts as cancelled what nobody cancelled".to_owned());
    }
    Ok(())
}

/// Whether a final belongs to a longer answer than the one that was cut when its client left.
fn cut_elsewhere(state: &Job, end: &Final) -> bool {
    matches!(state.phase, Phase::Cancelling { delivered } if end.content.output_units != delivered
        || end.content.finish_reason != FinishReason::Cancelled)
}

impl Current {
    /// Cuts the answer to what the client has got: after the last delta that it got whole. Returns the number of tokens.
    fn cut(&mut self, read: u64) -> u64 {
        let whole = |(tokens, _): &&(usize, usize)| *tokens as u64 <= read;
        let (tokens, bytes) = self
            .marks
            .iter()
            .rev()
            .find(whole)
            .copied()
            .unwrap_or((0, 0));
        self.output.truncate(tokens);
        self.text.truncate(bytes);
        self.marks.retain(|mark| mark.0 <= tokens);
        tokens as u64
    }
}

impl Router {
    /// What a refusal makes of the attempt. A server behind a provider may refuse what the provider took, but nothing of the answer has come
    /// then; whoever computes answers itself knows before it takes an order, and afterwards it fails.
    fn refused_attempt(&self, provider: Address, job: JobId, reason: RefusalReason) -> Lost {
        let state = self.jobs.get(&job);
        let current = state.and_then(|state| state.current.as_ref());
        let too_late = current.is_some_and(|current| {
            let may_refuse = current.ticket.tier == Tier::None && current.output.is_empty();
            current.taken.is_some() && !may_refuse
        });
        if too_late {
            let reason = "it refused after it had accepted".to_owned();
            return Lost::Fault(Cause::ProviderInvalid { reason });
        }
        self.refusal(provider, job, reason.clipped())
    }

    fn refusal(&self, provider: Address, job: JobId, reason: RefusalReason) -> Lost {
        match reason {
            RefusalReason::Busy | RefusalReason::Draining => {
                let model = self.jobs.get(&job).map(|s| s.request.model.as_str());
                Lost::Declined(self.over_capacity(model.unwrap_or_default()))
            }
            RefusalReason::ContextLength { tokens, context } => {
                self.context_refusal(provider, job, tokens, context)
            }
            RefusalReason::Policy => Lost::Blamed(Cause::ContentPolicy),
            RefusalReason::Unsupported { parameter, reason } => {
                Lost::Blamed(Cause::Unsupported { parameter, reason })
            }
            RefusalReason::Limit { parameter, reason } => {
                Lost::Limited(Cause::Unsupported { parameter, reason })
            }
            RefusalReason::TicketTooSmall { tokens } => self.above_bound(job, tokens),
            RefusalReason::UnknownModel => Lost::Fault(Cause::ProviderDown),
            RefusalReason::BadTicket { reason } => {
                Lost::Declined(Cause::ProviderInvalid { reason })
            }
        }
    }

    /// The parameter that the model's template may write any text for, indented tools for example: where there is one the router knows no
    /// bound of the prompt.
    fn written_freely(&self, job: JobId) -> Option<&'static str> {
        let prompt = self.jobs.get(&job).map(|state| &state.request.prompt);
        match prompt {
            Some(Prompt::Chat { arguments, .. }) if !arguments.is_empty() => {
                Some("chat_template_kwargs")
            }
            Some(Prompt::Chat { tools, .. }) if !matches!(tools.as_str(), "" | "[]") => {
                Some("tools")
            }
            _ => None,
        }
    }

    /// A prompt that is said to have more tokens than were reserved for.
    fn above_bound(&self, job: JobId, tokens: u64) -> Lost {
        let Some(parameter) = self.written_freely(job) else {
            let reason = format!("it counts {tokens} input tokens, above any bound of the request");
            return Lost::Fault(Cause::ProviderInvalid { reason });
        };
        let reason = format!(
            "with these the model's template makes {tokens} tokens of the messages, more than are reserved for a request of this length; \
             leave some out"
        );
        Lost::Blamed(Cause::Unsupported {
            parameter: parameter.to_owned(),
            reason,
        })
    }

    /// A prompt that is said not to fit: it must be possible by what the router knows itself. The model's own context may be longer than the
    /// one that is offered, and a longer one makes fewer prompts too long.
    fn context_refusal(&self, provider: Address, job: JobId, tokens: u64, context: u64) -> Lost {
        let state = self.jobs.get(&job);
        let bound = match self.written_freely(job) {
            Some(_) => u64::MAX,
            None => state.map_or(0, |state| state.prompt_bound),
        };
        let offer = state.and_then(|state| self.stock.offer(provider, &state.request.model));
        let offered = offer.map_or(0, |offer| u64::from(offer.context));
        if context >= offered && tokens > context && tokens <= bound {
            let cause = Cause::ContextLength { tokens, context };
            let others = state.map(|state| self.stock.offers(&state.request.model));
            let longer = |other: &&ModelOffer| {
                u64::from(other.context) >= tokens && !same_weights(offer, other)
            };
            // Of other weights under this name the context may be longer: it says nothing about them.
            return match others.iter().flatten().any(longer) {
                true => Lost::Limited(cause),
                false => Lost::Blamed(cause),
            };
        }
        let reason = format!(
            "it refuses {tokens} input tokens for a context of {context}; the request has at most {bound} and it \
             offers {offered}"
        );
        Lost::Fault(Cause::ProviderInvalid { reason })
    }
}
