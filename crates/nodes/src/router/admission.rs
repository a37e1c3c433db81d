//! From a client's call to a durable reservation. Nothing is sent to a provider before the reservation is on disk.

use super::pool::{constraints, part};
use super::vectors;
use super::waiting::Call;
use super::{After, Job, Output, Phase, Router, refused, room};
use crate::client::{CHOICES_MAX, Cause, ClientRequest};
use crate::message::ModelOffer;
use crate::work::{Prompt, grammar_rules};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use stoa_crypto::{choice_seed, keccak256};
use stoa_ledger::book::{CoverError, Entry};
use stoa_ledger::fees::{self, Usage};
use stoa_market::{Candidate, Decision, NoMatch, Rule, Snapshot, Weights, decide, draw_seed};
use stoa_types::{Address, Digest, JobId, Millis, SamplingParameters, Timestamp, TokenAmount};

/// Tokens that a prompt may gain beyond its bytes and per-message overhead: begin and end marks.
const PROMPT_MARGIN_TOKENS: u64 = 64;

/// What admission decided, before anything is changed.
pub(super) struct Admitted {
    /// One for each choice, made in their order: each takes a slot that the next one does not see.
    decisions: Vec<Decision>,
    priced: Priced,
    input_units_max: u64,
    prompt_bound: u64,
    /// Why the reserve does not cover all with longer contexts, where it does not.
    uncovered: Option<Cause>,
    generation: u32,
    fee_version: u16,
    until: Timestamp,
}

/// What a call asks of any of its providers, and holds for it.
struct Priced {
    /// Of the first choice: the others differ in the seed alone.
    parameters: SamplingParameters,
    shortened: bool,
    /// Of each choice.
    reserve: TokenAmount,
}

impl Priced {
    /// Whether the reserve suffices for one more.
    fn covers(&self, offer: &ModelOffer, prompt: &Prompt, input_units: u64) -> bool {
        let most = self.parameters.max_output_tokens;
        reserve(std::slice::from_ref(offer), prompt, input_units, most)
            .is_ok_and(|cost| cost <= self.reserve)
    }
}

/// Part of what is free that a reserve may take for the sake of a longer context: other calls of the account and the key need the rest.
const LONGER_SHARE: u32 = 4;

/// So many times what the others need may be reserved for the sake of a longer context: three that refuse what they could take must not make a
/// fourth one's price the call's.
const LONGER_TIMES: u32 = 16;

impl Router {
    pub(super) fn submit(
        &mut self,
        job: JobId,
        account: Address,
        request: Box<ClientRequest>,
        entropy: u64,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let jobs = self.choice_ids(job, request.choices.min(CHOICES_MAX));
        let known =
            |job: &JobId| self.account_of(*job).is_some() || self.book.job_state(*job).is_some();
        if jobs.iter().any(known) {
            return outputs.extend(refused(&jobs, &Cause::Internal));
        }
        let call = Call {
            account,
            jobs,
            request: Arc::from(request),
            entropy,
            since: now,
        };
        match self.admit(&call, now) {
            Ok(admitted) => self.take_in(call, admitted, outputs),
            Err(Cause::OverCapacity { .. }) => self.wait(call, outputs),
            Err(cause) => outputs.extend(refused(&call.jobs, &cause)),
        }
    }

    /// Reserves what an admitted call may cost, all its choices in one entry, and keeps a slot for each.
    pub(super) fn take_in(&mut self, call: Call, admitted: Admitted, outputs: &mut Vec<Output>) {
        for ((index, job), decision) in (0..).zip(&call.jobs).zip(&admitted.decisions) {
            outputs.push(Output::Decided {
                job: *job,
                decision: Box::new(decision.clone()),
            });
            let mut remaining: Vec<_> = self.to_try(decision).collect();
            remaining.reverse();
            if let Some(provider) = remaining.last() {
                self.stock.claim(*provider);
            }
            let mut state = self.job_of(&call, *job, index, remaining, &admitted);
            let covered = |provider: &Address| {
                let offer = self.stock.offer(*provider, &call.request.model);
                let (prompt, most) = (&call.request.prompt, admitted.input_units_max);
                offer.is_some_and(|offer| admitted.priced.covers(offer, prompt, most))
            };
            let (longer, dear): (Vec<_>, Vec<_>) =
                self.longer(decision).into_iter().partition(covered);
            state.longer = longer;
            state.too_dear = admitted.uncovered.clone().map(|cause| (dear, cause));
            if longer_was_busy(decision) {
                state.last_failure = Some(self.over_capacity(&call.request.model));
            }
            self.jobs.insert(*job, state);
        }
        let entry = reservation(&call, &admitted);
        self.journal(entry, After::Dispatch(call.jobs), outputs);
    }

    fn job_of(
        &self,
        call: &Call,
        job: JobId,
        index: u32,
        remaining: Vec<Address>,
        admitted: &Admitted,
    ) -> Job {
        Job {
            account: call.account,
            key: self.key_of(job),
            request: call.request.clone(),
            parameters: SamplingParameters {
                seed: choice_seed(admitted.priced.parameters.seed, index),
                ..admitted.priced.parameters.clone()
            },
            output_units_max: admitted.priced.parameters.max_output_tokens,
            shortened: admitted.priced.shortened,
            submitted_at: call.since,
            first_token_at: None,
            input_units_max: admitted.input_units_max,
            prompt_bound: admitted.prompt_bound,
            reserve: admitted.priced.reserve,
            fee_version: admitted.fee_version,
            claimed: remaining.last().copied(),
            remaining,
            longer: Vec::new(),
            too_dear: None,
            read: 0,
            blamed: None,
            attempt: 0,
            current: None,
            phase: Phase::Reserving,
            last_failure: None,
            limit: None,
            undelivered: Vec::new(),
        }
    }

    pub(super) fn admit(&self, call: &Call, now: Timestamp) -> Result<Admitted, Cause> {
        let request = &*call.request;
        if self.draining {
            return Err(Cause::RouterUnavailable {
                reason: "it drains; running calls end, no new one begins".to_owned(),
            });
        }
        if let Some(reason) = self.out_of_reach() {
            return Err(Cause::RouterUnavailable { reason });
        }
        if !self.stock.knows(&request.model) {
            // What is offered is for the chain to say.
            if !self.chain_reachable {
                return Err(Cause::SettlementUnavailable);
            }
            return Err(Cause::UnknownModel {
                model: request.model.clone(),
            });
        }
        check_choices(request)?;
        vectors::check_order(request, &self.config.profile.limits)?;
        let settlement = &self.config.profile.settlement;
        let lifetime = Millis::from_secs(settlement.ticket_seconds);
        let cover =
            self.book
                .available(call.account, now, lifetime)
                .map_err(|error| match error {
                    // Whether there is cover is for the chain to say, and nobody can ask it now.
                    _ if !self.chain_reachable => Cause::SettlementUnavailable,
                    CoverError::NoAllotment => Cause::NoAllotment,
                    CoverError::Expired => Cause::AllotmentExpired,
                })?;
        let offered = self.stock.offers(&request.model);
        let (prompt_bound, input_units_max) = input_bounds(request, &offered);
        let decisions =
            self.decide_all(call, input_units_max, now)
                .map_err(|cause| match cause {
                    // Nobody waits in line for what he cannot pay for.
                    Cause::OverCapacity { .. } => self
                        .not_covered(call, &offered, input_units_max, cover.amount)
                        .unwrap_or(cause),
                    cause => cause,
                })?;
        let providers: BTreeSet<_> = decisions.iter().flat_map(|d| self.to_try(d)).collect();
        let offers: Vec<_> = providers
            .into_iter()
            .filter_map(|p| self.stock.offer(p, &request.model).cloned())
            .collect();
        let priced = self.priced(call, &offers, input_units_max, cover.amount)?;
        let longer = self.longer_offers(&decisions, &request.model);
        let (priced, uncovered) = self.covering_longer(
            call,
            priced,
            &offers,
            &longer,
            input_units_max,
            cover.amount,
        );
        let (generation, fee_version) = (cover.generation, cover.fee_version);
        Ok(Admitted {
            decisions,
            priced,
            input_units_max,
            prompt_bound,
            uncovered,
            generation,
            fee_version,
            until: now.plus(lifetime),
        })
    }

    /// Why a call would be refused now, should it come; nothing is changed.
    pub fn would_refuse(
        &self,
        account: Address,
        request: &ClientRequest,
        now: Timestamp,
    ) -> Option<Cause> {
        let call = Call {
            account,
            jobs: Vec::new(),
            request: Arc::new(request.clone()),
            entropy: 0,
            since: now,
        };
        self.admit(&call, now).err()
    }

    /// Whether even the cheapest provider would need more than `available`, or than the key may spend.
    fn not_covered(
        &self,
        call: &Call,
        offers: &[&ModelOffer],
        input_units: u64,
        available: TokenAmount,
    ) -> Option<Cause> {
        let request = &*call.request;
        let whole = request.prompt.vectors().is_some();
        if request.constraints.cost_max.is_some() && !whole {
            return None; // It shortens the answer until it fits.
        }
        let output_units = self.output_limit(request);
        let least = |output_units| {
            let cost = |offer: &&ModelOffer| {
                let offer = std::slice::from_ref(*offer);
                let each = reserve(offer, &request.prompt, input_units, output_units).ok()?;
                of_all(each, request.choices).ok()
            };
            offers.iter().filter_map(cost).min()
        };
        let needed = least(output_units)?;
        if needed > available {
            return Some(Cause::CapReached {
                needed,
                choices: request.choices,
                available,
            });
        }
        // A spend limit shortens an answer that is text, down to one token.
        let fewest = if whole {
            output_units
        } else {
            output_units.min(1)
        };
        self.within_budget(call, least(fewest)?).err()
    }

    /// Who gets each choice. All run at once, so each takes a slot that the next one does not see.
    fn decide_all(
        &self,
        call: &Call,
        input_units: u64,
        now: Timestamp,
    ) -> Result<Vec<Decision>, Cause> {
        let request = &*call.request;
        let room = self.room_needed(call, input_units);
        let (mut decisions, mut taken) = (Vec::new(), BTreeMap::<_, u32>::new());
        for _ in 0..request.choices.max(1) {
            let free = |c: &Candidate| {
                let taken = taken.get(&c.provider).copied().unwrap_or(0);
                c.free_slots.saturating_sub(taken)
            };
            let decision = match self.decide(request, (input_units, room), free, now) {
                Ok(decision) => decision,
                Err(cause @ Cause::OverCapacity { .. }) => {
                    return Err(self
                        .never_room(request, (input_units, room), now)
                        .unwrap_or(cause));
                }
                Err(cause) => return Err(cause),
            };
            if let Some(first) = self.to_try(&decision).next() {
                *taken.entry(first).or_insert(0) += 1;
            }
            decisions.push(decision);
        }
        Ok(decisions)
    }

    /// Refuses for good what would find no room if all were idle: the providers that may answer run fewer jobs at once than there are
    /// choices.
    fn never_room(
        &self,
        request: &ClientRequest,
        needs: (u64, u64),
        now: Timestamp,
    ) -> Option<Cause> {
        if request.choices <= 1 {
            return None;
        }
        let all = |c: &Candidate| self.stock.slots_of(&[c.provider]);
        let idle = self.decide(request, needs, all, now).ok()?;
        let slots = self.stock.slots_of(&idle.ranking);
        (slots < request.choices).then(|| Cause::Unsupported {
            parameter: "n".to_owned(),
            reason: format!(
                "all choices run at once, and the providers that may answer this request run {slots} answers at once; ask for at most \
                 {slots}"
            ),
        })
    }

    fn decide(
        &self,
        request: &ClientRequest,
        (input_units, room): (u64, u64),
        free: impl Fn(&Candidate) -> u32,
        now: Timestamp,
    ) -> Result<Decision, Cause> {
        let routing = &self.config.profile.routing;
        let mut candidates =
            self.stock
                .candidates(&request.model, &request.prompt, routing.ttft_target_ms, now);
        for candidate in &mut candidates {
            candidate.free_slots = free(candidate);
        }
        let output_units = self.output_limit(request);
        let cheapest_input = candidates.iter().map(|c| c.input_price).min();
        let snapshot = Snapshot::new(
            candidates,
            Weights::from(routing),
            input_units,
            u64::from(output_units),
        )
        .needing(room);
        // Neither router nor provider controls the seed: the last anchored batch and the client's bytes (SPEC C.6.1).
        let seed = draw_seed(self.anchor(), request.request_digest);
        decide(
            &snapshot,
            &constraints(request, self.stock.default_tier(&request.model)),
            seed,
        )
        .map_err(|no_match| match no_match {
            NoMatch::NoneOnline => Cause::ModelOffline {
                model: request.model.clone(),
            },
            NoMatch::PolicyExcludes { excluded } => Cause::NoProviderMatches {
                excluded: excluded
                    .into_iter()
                    .map(|(rule, count)| (rule.to_string(), count))
                    .collect(),
            },
            NoMatch::PriceCeiling { lowest } => Cause::PriceCeiling {
                lowest: match request.prompt.vectors() {
                    Some(_) => cheapest_input.unwrap_or_default(),
                    None => lowest,
                },
            },
            NoMatch::AllBusy { .. } => self.over_capacity(&request.model),
        })
    }

    /// Context that the call needs, as far as can be told: no more than its money buys of an answer where that is cheapest.
    fn room_needed(&self, call: &Call, input_units: u64) -> u64 {
        let request = &*call.request;
        let output_units = self.output_limit(request);
        let offers = self.stock.offers(&request.model);
        let each = |amount| part(amount, request.choices);
        let ceilings = [request.constraints.cost_max, self.left_of_budget(call)];
        let money = ceilings.into_iter().flatten().map(each).min();
        let bought = money.map(|money| {
            let of = |offer: &&ModelOffer| {
                let offer = std::slice::from_ref(*offer);
                affordable(offer, &request.prompt, input_units, output_units, money)
            };
            let each = offers.iter().filter_map(|offer| of(offer).ok().flatten());
            each.max().unwrap_or(0)
        });
        let usual = self.config.profile.limits.output_tokens_default;
        let contexts = offers.iter().map(|offer| u64::from(offer.context));
        room::needed(
            &request.prompt,
            bought.unwrap_or(output_units),
            usual,
            contexts.collect(),
        )
    }

    /// Head of the chain of batches that the vault holds.
    fn anchor(&self) -> Digest {
        self.book
            .chain_head(self.book.posted_count())
            .unwrap_or(Digest::ZERO)
    }

    /// Providers that may be tried, best first: the reserve must cover the dearest of them.
    fn to_try<'a>(&self, decision: &'a Decision) -> impl Iterator<Item = Address> + use<'a> {
        decision
            .ranking
            .iter()
            .copied()
            .take(self.config.profile.routing.attempts_max as usize)
    }

    /// Of those that come after the ones to try, as many that offer more context than one of these, the longest first.
    fn longer(&self, decision: &Decision) -> Vec<Address> {
        let all = &decision.snapshot.candidates;
        let context = |provider: &Address| {
            let known = all.iter().find(|c| c.provider == *provider);
            known.map_or(0, |c| c.context)
        };
        let tried: Vec<_> = self.to_try(decision).collect();
        let shortest = tried.iter().map(context).min().unwrap_or(0);
        let others = decision.ranking.iter().skip(tried.len());
        let mut longer: Vec<_> = others.copied().filter(|p| context(p) > shortest).collect();
        longer.sort_by_key(|provider| std::cmp::Reverse(context(provider)));
        longer.truncate(tried.len());
        longer
    }

    /// What those offer that may be tried where the prompt has no room, for any of the choices.
    fn longer_offers(&self, decisions: &[Decision], model: &str) -> Vec<ModelOffer> {
        let mut longer: Vec<_> = decisions.iter().flat_map(|d| self.longer(d)).collect();
        let mut seen = BTreeSet::new();
        longer.retain(|provider| seen.insert(*provider));
        let offer = |provider| self.stock.offer(provider, model).cloned();
        longer.into_iter().filter_map(offer).collect()
    }

    /// The same with the first of those with longer contexts that the call can pay for as well, where the prompt may not fit without it; and
    /// why not with each of them. It gets no shorter answer by that, and leaves the account and the key most of what is free.
    fn covering_longer(
        &self,
        call: &Call,
        priced: Priced,
        offers: &[ModelOffer],
        longer: &[ModelOffer],
        input_units: u64,
        available: TokenAmount,
    ) -> (Priced, Option<Cause>) {
        let shortest = offers.iter().map(|offer| u64::from(offer.context)).min();
        let limit = u64::from(self.output_limit(&call.request));
        // An answer may have to fit beside its prompt to its limit (`engine.context_max` of the exact engine).
        let together = input_units.saturating_add(limit);
        let may_not_fit = shortest.is_some_and(|shortest| shortest < together);
        let free = self
            .left_of_budget(call)
            .map_or(available, |left| left.min(available));
        let share = part(part(free, LONGER_SHARE), call.request.choices);
        let too_dear = too_dear_for_room(offers);
        let prompt = &call.request.prompt;
        // What those asked first give at most.
        let limit = priced.parameters.max_output_tokens;
        let each = offers
            .iter()
            .map(|offer| room::output_limit(offer, prompt, limit));
        let most = each.max().unwrap_or(0);
        let mut uncovered = None;
        for offer in longer {
            if priced.covers(offer, prompt, input_units) {
                continue;
            }
            let with: Vec<_> = offers.iter().chain([offer]).cloned().collect();
            let wider = self.priced(call, &with, input_units, available);
            let fits = |wider: &Priced| {
                let whole = wider.parameters.max_output_tokens;
                // By the price, not by how much shorter the answers of the others are.
                let others = dearest(offers, prompt, input_units, |_| whole);
                let within = others.is_ok_and(|others| part(wider.reserve, LONGER_TIMES) <= others);
                may_not_fit && whole >= most && within && wider.reserve <= share
            };
            let cause = match wider {
                Ok(wider) if fits(&wider) => return (wider, uncovered.or(Some(too_dear))),
                // The lowest price is theirs, which is not too high.
                Ok(_) | Err(Cause::PriceCeiling { .. }) => too_dear.clone(),
                Err(cause) => cause,
            };
            uncovered.get_or_insert(cause);
        }
        (priced, uncovered)
    }

    /// Parameters and reserve of a call that any of these may answer.
    fn priced(
        &self,
        call: &Call,
        offers: &[ModelOffer],
        input_units: u64,
        available: TokenAmount,
    ) -> Result<Priced, Cause> {
        let request = &*call.request;
        let (parameters, shortened) = self.parameters(call, offers, input_units)?;
        let most = parameters.max_output_tokens;
        let reserve = reserve(offers, &request.prompt, input_units, most)?;
        let needed = of_all(reserve, request.choices)?;
        if needed > available {
            return Err(Cause::CapReached {
                needed,
                choices: request.choices,
                available,
            });
        }
        Ok(Priced {
            parameters,
            shortened,
            reserve,
        })
    }

    fn output_limit(&self, request: &ClientRequest) -> u32 {
        if let Some(vectors) = request.prompt.vectors() {
            return vectors;
        }
        let limits = &self.config.profile.limits;
        request
            .output_tokens_max
            .unwrap_or(limits.output_tokens_default)
            .min(limits.output_tokens_max)
    }

    /// Parameters of the call, and whether its output limit was lowered until the reserve fitted `max_cost` and the key's spend limit. A call
    /// for vectors fits whole or is refused.
    fn parameters(
        &self,
        call: &Call,
        offers: &[ModelOffer],
        input_units: u64,
    ) -> Result<(SamplingParameters, bool), Cause> {
        let request = &*call.request;
        let too_dear = || {
            let price = |offer: &ModelOffer| match request.prompt.vectors() {
                Some(_) => offer.input_price,
                None => offer.output_price,
            };
            let lowest = offers.iter().map(price).min();
            Cause::PriceCeiling {
                lowest: lowest.unwrap_or_default(),
            }
        };
        if let Some(vectors) = request.prompt.vectors() {
            let needed = reserve(offers, &request.prompt, input_units, vectors)?;
            let ceiling = request.constraints.cost_max;
            if ceiling.is_some_and(|most| needed > most) {
                return Err(too_dear());
            }
            self.within_budget(call, needed)?;
            return Ok((parameters(call, vectors), false));
        }
        let limit = self.output_limit(request);
        let each = offers
            .iter()
            .map(|offer| room::output_limit(offer, &request.prompt, limit));
        // What these could give. Who has a longer context and comes after them is not held to it: each order is cut by its own (`reserve`).
        let asked = each.max().unwrap_or(0);
        let mut most = limit;
        let choices = request.choices;
        if let Some(cost_max) = request.constraints.cost_max.map(|most| part(most, choices)) {
            most = affordable(offers, &request.prompt, input_units, most, cost_max)?
                .ok_or_else(too_dear)?;
        }
        if let Some(left) = self.left_of_budget(call).map(|left| part(left, choices)) {
            match affordable(offers, &request.prompt, input_units, most, left)? {
                Some(fits) => most = fits,
                None => {
                    let least = reserve(offers, &request.prompt, input_units, most.min(1))?;
                    self.within_budget(call, of_all(least, choices)?)?;
                }
            }
        }
        Ok((parameters(call, most), most < asked))
    }
}

/// What a request without room in these is told where one with room asks more than is held for it.
fn too_dear_for_room(offers: &[ModelOffer]) -> Cause {
    let short = u32::try_from(offers.len()).unwrap_or(u32::MAX);
    let excluded = [("context".to_owned(), short), ("price".to_owned(), 1)];
    Cause::NoProviderMatches {
        excluded: excluded.into(),
    }
}

/// Whether a longer context than those to choose from was only busy: where these have no room for the request, it may come again.
fn longer_was_busy(decision: &Decision) -> bool {
    let busy = |provider| decision.excluded.contains(&(provider, Rule::Busy));
    let longest =
        |candidates: &mut dyn Iterator<Item = &Candidate>| candidates.map(|c| c.context).max();
    let all = &decision.snapshot.candidates;
    let chosen = longest(
        &mut all
            .iter()
            .filter(|c| decision.ranking.contains(&c.provider)),
    );
    longest(&mut all.iter().filter(|c| busy(c.provider))) > chosen
}

/// The entry that holds what the call may cost.
fn reservation(call: &Call, admitted: &Admitted) -> Entry {
    let (account, generation) = (call.account, admitted.generation);
    let (amount, until) = (admitted.priced.reserve, admitted.until);
    match call.jobs.as_slice() {
        [job] => Entry::Reserved {
            job: *job,
            account,
            generation,
            amount,
            until,
        },
        jobs => Entry::ReservedTogether {
            jobs: jobs.to_vec(),
            account,
            generation,
            amount,
            until,
        },
    }
}

fn check_choices(request: &ClientRequest) -> Result<(), Cause> {
    let most = match request.prompt.vectors() {
        Some(_) => 1,
        None => CHOICES_MAX,
    };
    if (1..=most).contains(&request.choices) {
        return Ok(());
    }
    Err(Cause::Unsupported {
        parameter: "n".to_owned(),
        reason: format!(
            "one request takes 1 to {most} choices, not {}",
            request.choices
        ),
    })
}

/// What so many choices cost together.
fn of_all(each: TokenAmount, choices: u32) -> Result<TokenAmount, Cause> {
    TokenAmount::checked_sum((0..choices.max(1)).map(|_| each)).ok_or(Cause::Internal)
}

fn parameters(call: &Call, max_output_tokens: u32) -> SamplingParameters {
    let request = &*call.request;
    let controls = &request.controls;
    SamplingParameters {
        temperature: request.temperature,
        min_p: request.min_p,
        seed: request.seed.unwrap_or(call.entropy),
        max_output_tokens,
        stop: request.stop.clone(),
        logit_bias: controls.logit_bias.clone(),
        presence_penalty: controls.presence_penalty,
        frequency_penalty: controls.frequency_penalty,
        logprobs: controls.logprobs,
        grammar: grammar_rules(&request.prompt, &request.answer).to_owned(),
    }
}

fn longest_context(offers: &[&ModelOffer]) -> u64 {
    let contexts = offers.iter().map(|offer| u64::from(offer.context));
    contexts.max().unwrap_or(0)
}

/// Upper bounds of the prompt's tokens: whatever the models' contexts, and within the longest of them.
fn input_bounds(request: &ClientRequest, offers: &[&ModelOffer]) -> (u64, u64) {
    let context = longest_context(offers);
    match &request.prompt {
        Prompt::Embed { inputs, .. } => (
            vectors::input_bound(inputs, u64::MAX),
            vectors::input_bound(inputs, context),
        ),
        Prompt::Chat { .. } | Prompt::Text(_) | Prompt::Tokens(_) => {
            let bound = prompt_bound(request, offers);
            (bound, bound.min(context))
        }
    }
}

/// Upper bound of the prompt's tokens: a byte-level tokenizer makes at most one token of a byte (SPEC C.6.6), and a template writes JSON with
/// spaces that the body need not have.
fn prompt_bound(request: &ClientRequest, offers: &[&ModelOffer]) -> u64 {
    let overhead = offers
        .iter()
        .map(|offer| offer.message_overhead)
        .max()
        .unwrap_or(0);
    let messages = u64::from(request.message_count) + 1;
    request
        .body_bytes
        .saturating_add(spaces_of_json(&request.prompt))
        .saturating_add(messages.saturating_mul(u64::from(overhead)))
        .saturating_add(PROMPT_MARGIN_TOKENS)
}

/// Spaces that templates put after commas and colons where they write tools and calls, as Python does.
fn spaces_of_json(prompt: &Prompt) -> u64 {
    let Prompt::Chat {
        messages, tools, ..
    } = prompt
    else {
        return 0;
    };
    let separators = |text: &str| text.bytes().filter(|b| matches!(b, b',' | b':')).count() as u64;
    let calls = match messages.contains("\"tool_calls\"") {
        true => separators(messages),
        false => 0,
    };
    separators(tools) + calls
}

/// The most that any of the offers can cost, each with what its context allows of the output.
pub(super) fn reserve(
    offers: &[ModelOffer],
    prompt: &Prompt,
    input_units: u64,
    output_units: u32,
) -> Result<TokenAmount, Cause> {
    let within = |offer: &ModelOffer| room::output_limit(offer, prompt, output_units);
    dearest(offers, prompt, input_units, within)
}

/// The most that any of the offers costs for so much of the output of each.
fn dearest(
    offers: &[ModelOffer],
    prompt: &Prompt,
    input_units: u64,
    output_units: impl Fn(&ModelOffer) -> u32,
) -> Result<TokenAmount, Cause> {
    let cost = |offer: &ModelOffer| {
        fees::reserve(&Usage {
            input_units,
            input_price: offer.input_price,
            output_units: u64::from(output_units(offer)),
            output_price: offer.output_price_for(prompt),
        })
    };
    let mut most = TokenAmount::ZERO;
    for offer in offers {
        most = most.max(cost(offer).map_err(|_| Cause::Internal)?);
    }
    Ok(most)
}

/// Largest output limit, up to `most`, whose reserve stays within `limit`; `None` when not even one token fits, or, where none is asked
/// for, the prompt alone.
fn affordable(
    offers: &[ModelOffer],
    prompt: &Prompt,
    input_units: u64,
    most: u32,
    limit: TokenAmount,
) -> Result<Option<u32>, Cause> {
    let fits =
        |output_units| Ok::<_, Cause>(reserve(offers, prompt, input_units, output_units)? <= limit);
    if !fits(most.min(1))? {
        return Ok(None);
    }
    let (mut low, mut high) = (most.min(1), most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle)? {
            low = middle
        } else {
            high = middle - 1
        }
    }
    Ok(Some(low))
}

/// Digest of the parameters as ticket and receipt carry it.
pub(super) fn parameters_digest(parameters: &SamplingParameters) -> Digest {
    keccak256(parameters.canonical_bytes())
}
