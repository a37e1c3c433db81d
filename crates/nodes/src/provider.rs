//! A provider: takes tickets, runs a backend, signs receipts, keeps those that the router countersigned.
//!
//! Promise (design: reliability 2): it can claim all acknowledged work alone; it works on no ticket that would not be paid (wrong
//! signature, price below its own, dead deadline, foreign chain); it never claims a token that did not reach the client.
//!
//! Counting: an exact backend counts the prompt before it starts and one unit for each token. A backend of tier `none` may learn the
//! counts from somebody else's server while it runs ([`Counted`]); they can only lower what is claimed.

use crate::message::{Dispatch, Final, Hello, ModelOffer, RefusalReason, ToProvider, ToRouter};
use crate::receipts::{Facts, expected_receipt};
use crate::work::Work;
use std::collections::BTreeMap;
use stoa_crypto::{Domain, SecretKey, acceptance_digest, receipt_digest, recover, ticket_digest};
use stoa_ledger::fees::{self, Usage};
use stoa_types::{
    Acceptance, Address, Digest, FinishReason, Hardware, JobId, Logprobs, Millis, Receipt, Region,
    Signature, SignedAcceptance, SignedReceipt, Ticket, Tier, Timestamp,
};
use stoa_verify::{Content, ToolCall, check_signatures};

/// Who a provider is and what it offers.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Signs tickets and receipts.
    pub key: SecretKey,
    /// Chain and vault it works for.
    pub domain: Domain,
    /// keccak of the profile in force.
    pub profile_hash: Digest,
    /// Router it dials.
    pub router: Address,
    /// Where it stands.
    pub region: Region,
    /// What it runs on.
    pub hardware: Hardware,
    /// Jobs at once, reserved compute already taken off (RG-7).
    pub slots: u32,
    /// Models with prices.
    pub offers: Vec<ModelOffer>,
    /// How long a ticket of this network lives at most.
    pub ticket_life: Millis,
}

/// How far clocks may be apart: a deadline beyond the life of a ticket and this is nobody's clock.
const CLOCKS: Millis = Millis::from_secs(600);

/// Attempts that are remembered: a router that orders and cancels faster than this is refused until tickets end.
const SEEN_MAX: usize = 100_000;

/// How long after its ticket's deadline an unanswered receipt is still offered to a router that comes back.
const OFFER_KEPT: Millis = Millis::from_secs(3600);

/// One attempt of one job.
pub type Attempt = (JobId, u32);

/// What happens to a provider.
#[derive(Debug, Clone)]
pub enum Input {
    /// The connection to the router stands.
    Connected,
    /// It is gone; running work is stopped, nobody waits for it.
    Disconnected,
    /// A message of the router.
    Router(ToProvider),
    /// The backend tokenized a prompt, or refuses the work.
    Prepared {
        /// Which.
        attempt: Attempt,
        /// Prompt's length and root.
        result: Result<Prepared, RefusalReason>,
    },
    /// The backend made something.
    Generated {
        /// Which.
        attempt: Attempt,
        /// What.
        event: Generated,
    },
    /// The operator drains the machine, or its availability window closed or opened (RG-6).
    Drain(bool),
    /// Time passed.
    Tick,
}

/// A prompt ready to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Prompt tokens.
    pub input_units: u64,
    /// keccak tree over them.
    pub prompt_root: Digest,
}

/// What a server that counts by itself has counted so far. Each word of it replaces the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Prompt tokens; what was accepted is the most that is claimed.
    pub input_units: u64,
    /// Tokens of the answer, known at its end; what was sent is the most that is claimed.
    pub output_units: Option<u64>,
}

/// What a backend makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Generated {
    /// New tokens and their text.
    Tokens {
        /// Ids in order.
        tokens: Vec<u32>,
        /// Text; the concatenation of all texts is the answer's text.
        text: String,
        /// One entry for each token where they are asked for. They are passed on and not kept: no receipt names them.
        logprobs: Vec<Logprobs>,
    },
    /// The end.
    End {
        /// Validated tool calls.
        tool_calls: Vec<ToolCall>,
        /// Why.
        finish_reason: FinishReason,
    },
    /// Tier `none` only: the backend learned how much there is to claim.
    Counted(Counted),
    /// Before the first token: the backend finds that it cannot take the work after all.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
    /// The backend failed.
    Failed {
        /// For logs.
        reason: String,
    },
}

/// What a provider wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to the router.
    Send(ToRouter),
    /// Tokenize and check; answer with [`Input::Prepared`].
    Prepare {
        /// Which.
        attempt: Attempt,
        /// What to run.
        work: Work,
        /// Whose model.
        model_root: Digest,
        /// Who pays for it.
        account: Address,
    },
    /// Run what was prepared.
    Run(Attempt),
    /// Stop and forget it.
    Stop(Attempt),
    /// It is about to give its word: keep what was ordered, until there is something to show for it.
    Took(Box<Taken>),
    /// Keep this in place of the order: with it a claim of non-delivery is answered.
    Owes(Box<Shown>),
    /// The order with this hash ended, and there is nothing to show for it: keep nothing of it. A claim of it is answered by
    /// [`nothing_delivered`](crate::receipts::nothing_delivered), which the claim alone is enough for. Whoever orders and leaves, which
    /// costs nothing, must not fill the disk.
    Lapsed(Digest),
    /// Keep durably: both signatures are there and the work can be claimed.
    Earned(Box<SignedReceipt>),
    /// Something for the operator's log.
    Warn {
        /// The job that it is about.
        job: JobId,
        /// What happened.
        text: String,
    },
}

/// An order that a provider takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What was ordered.
    pub ticket: Ticket,
    /// Digest of the ticket.
    pub order: Digest,
    /// When it was taken.
    pub accepted_at: Timestamp,
    /// What is to be computed.
    pub work: Work,
}

/// What a provider has to show for an order that it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What was ordered.
    pub ticket: Ticket,
    /// What came of it; its ticket's digest is the order's.
    pub receipt: Receipt,
    /// The provider's signature.
    pub signature: Signature,
}

#[derive(Debug, Clone)]
struct Running {
    ticket: Ticket,
    /// What was ordered, until it is taken.
    work: Option<Work>,
    facts: Facts,
    /// Prompt tokens that the ticket was accepted with.
    accepted_units: u64,
    /// Prompt tokens to claim.
    input_units: u64,
    /// Output tokens to claim, where the backend counts them itself.
    output_units: Option<u64>,
    output: Vec<u32>,
    text: String,
    /// Length of output and text after each delta: where a cancelled answer may be cut.
    marks: Vec<(usize, usize)>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preparing,
    Generating,
    /// A final receipt was sent; the router has not countersigned yet.
    Offered,
}

/// The provider's word that it took a ticket.
fn accept(config: &ProviderConfig, ticket: &Ticket, now: Timestamp) -> SignedAcceptance {
    let acceptance = Acceptance {
        ticket: ticket_digest(&config.domain, ticket),
        accepted_at: now,
    };
    let digest = acceptance_digest(&config.domain, &acceptance);
    let signature = config.key.sign(digest);
    SignedAcceptance {
        acceptance,
        signature,
    }
}

/// State of one provider.
#[derive(Debug, Clone)]
pub struct Provider {
    config: ProviderConfig,
    attempts: BTreeMap<Attempt, Running>,
    offered: BTreeMap<Attempt, Final>,
    /// Attempts that it looked at, and until when: of each it takes one ticket, or work for one could be given out as the other's.
    seen: BTreeMap<Attempt, Timestamp>,
    draining: bool,
    connected: bool,
}

impl Provider {
    /// A provider without work.
    pub fn new(config: ProviderConfig) -> Self {
        Self {
            config,
            attempts: BTreeMap::new(),
            offered: BTreeMap::new(),
            seen: BTreeMap::new(),
            draining: false,
            connected: false,
        }
    }

    /// Its account.
    pub fn account(&self) -> Address {
        self.config.key.address()
    }

    /// Slots not taken.
    pub fn free_slots(&self) -> u32 {
        let running = self
            .attempts
            .values()
            .filter(|r| r.phase != Phase::Offered)
            .count();
        self.config
            .slots
            .saturating_sub(u32::try_from(running).unwrap_or(u32::MAX))
    }

    /// Whether nothing runs and nothing waits for a countersignature.
    pub fn is_idle(&self) -> bool {
        self.attempts.is_empty()
    }

    /// The first message on a connection.
    pub fn hello(&self) -> Hello {
        Hello {
            account: self.account(),
            region: self.config.region,
            slots: self.config.slots,
            hardware: self.config.hardware.clone(),
            models: self.config.offers.clone(),
        }
    }

    /// Advances the provider. No clock, no socket, no await.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Output> {
        match input {
            Input::Connected => self.on_connected(),
            Input::Disconnected => self.on_disconnected(),
            Input::Router(ToProvider::Dispatch(dispatch)) => self.on_dispatch(*dispatch, now),
            Input::Router(ToProvider::Cancel {
                job,
                attempt,
                delivered,
            }) => self.on_cancel((job, attempt), delivered, now),
            Input::Router(ToProvider::Countersigned(receipt)) => self.on_countersigned(*receipt),
            Input::Router(ToProvider::ReceiptRefused {
                job,
                attempt,
                reason,
            }) => self.on_refused((job, attempt), &reason),
            Input::Prepared { attempt, result } => self.on_prepared(attempt, result, now),
            Input::Generated { attempt, event } => self.on_generated(attempt, event, now),
            Input::Drain(draining) => {
                self.draining = draining;
                vec![Output::Send(self.status())]
            }
            Input::Tick => self.on_tick(now),
        }
    }

    fn status(&self) -> ToRouter {
        ToRouter::Status {
            free_slots: self.free_slots(),
            draining: self.draining,
        }
    }

    fn on_connected(&mut self) -> Vec<Output> {
        self.connected = true;
        let mut outputs = vec![
            Output::Send(ToRouter::Hello(Box::new(self.hello()))),
            Output::Send(self.status()),
        ];
        // What was offered before the connection broke may have been charged: ask again, the router knows.
        outputs.extend(
            self.offered
                .values()
                .map(|end| Output::Send(ToRouter::Final(Box::new(end.clone())))),
        );
        outputs
    }

    /// Ends an attempt that has nothing to show, also one for which it gave its word.
    fn let_go(&mut self, attempt: Attempt) -> Option<Output> {
        self.offered.remove(&attempt);
        let running = self.attempts.remove(&attempt)?;
        if running.phase != Phase::Generating {
            return None;
        }
        let order = ticket_digest(&self.config.domain, &running.ticket);
        Some(Output::Lapsed(order))
    }

    fn on_disconnected(&mut self) -> Vec<Output> {
        self.connected = false;
        let running: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, r)| r.phase != Phase::Offered)
            .map(|(a, _)| *a)
            .collect();
        running
            .into_iter()
            .flat_map(|attempt| {
                let owes = self.let_go(attempt);
                [Output::Stop(attempt)].into_iter().chain(owes)
            })
            .collect()
    }

    fn on_dispatch(&mut self, dispatch: Dispatch, now: Timestamp) -> Vec<Output> {
        let ticket = dispatch.ticket.ticket.clone();
        let attempt = (ticket.job_id, ticket.attempt);
        if self.attempts.contains_key(&attempt) {
            return vec![Output::Warn {
                job: ticket.job_id,
                text: format!(
                    "dispatch of {} repeated; the first one stands",
                    ticket.job_id
                ),
            }];
        }
        if let Err(reason) = self.accept(&dispatch, now) {
            return vec![Output::Send(ToRouter::Refused {
                job: attempt.0,
                attempt: attempt.1,
                reason,
            })];
        }
        let Some(offer) = self.offer(&ticket) else {
            return Vec::new();
        };
        let facts = Facts {
            prompt_root: Digest::ZERO,
            runtime_digest: offer.runtime_digest,
            accepted_at: now,
            delivered_at: now,
        };
        let (model_root, account) = (ticket.model_root, ticket.account);
        let running = Running {
            ticket,
            work: Some(dispatch.work.clone()),
            facts,
            accepted_units: 0,
            input_units: 0,
            output_units: None,
            output: Vec::new(),
            text: String::new(),
            marks: Vec::new(),
            phase: Phase::Preparing,
        };
        self.seen.insert(attempt, running.ticket.deadline);
        self.attempts.insert(attempt, running);
        vec![
            Output::Prepare {
                attempt,
                work: dispatch.work,
                model_root,
                account,
            },
            Output::Send(self.status()),
        ]
    }

    fn offer(&self, ticket: &Ticket) -> Option<&ModelOffer> {
        self.config
            .offers
            .iter()
            .find(|offer| offer.model_root == ticket.model_root && offer.tier == ticket.tier)
    }

    /// Whether the ticket would be paid and there is room.
    fn accept(&self, dispatch: &Dispatch, now: Timestamp) -> Result<(), RefusalReason> {
        let ticket = &dispatch.ticket.ticket;
        if self.draining {
            return Err(RefusalReason::Draining);
        }
        if self.free_slots() == 0 {
            return Err(RefusalReason::Busy);
        }
        let offer = self.offer(ticket).ok_or(RefusalReason::UnknownModel)?;
        let bad = |reason: &str| {
            Err(RefusalReason::BadTicket {
                reason: reason.to_owned(),
            })
        };
        // What no judge could read would be worked for in vain.
        if Work::from_canonical_bytes(&dispatch.work.canonical_bytes()).as_ref()
            != Some(&dispatch.work)
        {
            return bad("its work is none that can be judged");
        }
        if !dispatch.work.has_rules() {
            return bad(
                "its answer is to be held to other rules of grammars than this program has",
            );
        }
        if dispatch.profile_hash != self.config.profile_hash {
            return bad("another network profile is in force here");
        }
        if ticket.provider != self.account() || ticket.router != self.config.router {
            return bad("it names another provider or router");
        }
        let output_price = offer.output_price_for(&dispatch.work.prompt);
        if ticket.input_price < offer.input_price || ticket.output_price < output_price {
            return bad("its prices are below the offer");
        }
        if ticket.deadline <= now {
            return bad("its deadline has passed");
        }
        if ticket.deadline > now.plus(self.config.ticket_life).plus(CLOCKS) {
            return bad("its deadline is later than a ticket of this network can live");
        }
        if self.seen.contains_key(&(ticket.job_id, ticket.attempt)) {
            return bad("another ticket of this attempt came before");
        }
        if self.seen.len() >= SEEN_MAX {
            return Err(RefusalReason::Busy);
        }
        let most = fees::reserve(&Usage {
            input_units: ticket.input_units_max,
            output_units: ticket.output_units_max,
            input_price: ticket.input_price,
            output_price: ticket.output_price,
        });
        if !most.is_ok_and(|most| most <= ticket.reserve) {
            return bad("its reserve does not cover what it orders");
        }
        if dispatch.work.sampling.max_output_tokens as u64 > ticket.output_units_max {
            return bad("the work asks for more tokens than the ticket covers");
        }
        if stoa_crypto::keccak256(dispatch.work.sampling.canonical_bytes())
            != ticket.parameters_digest
        {
            return bad("its parameters are not those of the work");
        }
        if dispatch.work.digest() != ticket.work_digest {
            return bad("it was signed for other work");
        }
        match recover(
            ticket_digest(&self.config.domain, ticket),
            &dispatch.ticket.signature,
        ) {
            Ok(signer) if signer == ticket.router => Ok(()),
            _ => bad("it is not signed by the router for this chain and vault"),
        }
    }

    fn on_prepared(
        &mut self,
        attempt: Attempt,
        result: Result<Prepared, RefusalReason>,
        now: Timestamp,
    ) -> Vec<Output> {
        let Some(running) = self
            .attempts
            .get_mut(&attempt)
            .filter(|r| r.phase == Phase::Preparing)
        else {
            return Vec::new();
        };
        let result = result.and_then(|prepared| {
            let room = prepared.input_units <= running.ticket.input_units_max;
            if room {
                Ok(prepared)
            } else {
                Err(RefusalReason::TicketTooSmall {
                    tokens: prepared.input_units,
                })
            }
        });
        match result {
            Ok(prepared) => {
                running.phase = Phase::Generating;
                running.accepted_units = prepared.input_units;
                running.input_units = prepared.input_units;
                running.facts.prompt_root = prepared.prompt_root;
                running.facts.accepted_at = now;
                let acceptance = accept(&self.config, &running.ticket, now);
                let taken = running.work.take().map(|work| Taken {
                    ticket: running.ticket.clone(),
                    order: acceptance.acceptance.ticket,
                    accepted_at: now,
                    work,
                });
                let (job, number) = attempt;
                let accepted = ToRouter::Accepted {
                    job,
                    attempt: number,
                    acceptance,
                    input_units: prepared.input_units,
                };
                let taken = taken.map(|taken| Output::Took(Box::new(taken)));
                let mut outputs: Vec<_> = taken.into_iter().collect();
                outputs.extend([Output::Send(accepted), Output::Run(attempt)]);
                outputs
            }
            Err(reason) => {
                self.attempts.remove(&attempt);
                let refused = ToRouter::Refused {
                    job: attempt.0,
                    attempt: attempt.1,
                    reason,
                };
                vec![
                    Output::Stop(attempt),
                    Output::Send(refused),
                    Output::Send(self.status()),
                ]
            }
        }
    }

    fn on_generated(&mut self, attempt: Attempt, event: Generated, now: Timestamp) -> Vec<Output> {
        let Some(running) = self
            .attempts
            .get_mut(&attempt)
            .filter(|r| r.phase == Phase::Generating)
        else {
            return Vec::new();
        };
        match event {
            Generated::Tokens {
                tokens,
                text,
                logprobs,
            } => {
                running.output.extend(&tokens);
                running.text.push_str(&text);
                running
                    .marks
                    .push((running.output.len(), running.text.len()));
                vec![Output::Send(ToRouter::Delta {
                    job: attempt.0,
                    attempt: attempt.1,
                    tokens,
                    text,
                    logprobs,
                })]
            }
            Generated::End {
                tool_calls,
                finish_reason,
            } => {
                let sent = running.output.len() as u64;
                let content = Content {
                    text: running.text.clone(),
                    tool_calls,
                    finish_reason,
                    input_units: running.input_units,
                    output_units: running.output_units.map_or(sent, |units| units.min(sent)),
                };
                self.offer_receipt(attempt, content, now)
            }
            Generated::Counted(counted) => {
                // Where anyone can recount, there is nothing to learn from others.
                if running.ticket.tier == Tier::None {
                    running.input_units = counted.input_units.min(running.accepted_units);
                    running.output_units = counted.output_units;
                }
                Vec::new()
            }
            Generated::Refused { reason }
                if running.output.is_empty() && running.ticket.tier == Tier::None =>
            {
                let refused = ToRouter::Refused {
                    job: attempt.0,
                    attempt: attempt.1,
                    reason,
                };
                self.without_receipt(attempt, refused)
            }
            Generated::Refused { reason } => {
                let reason = format!("refused after the order was taken: {reason:?}");
                self.on_generated(attempt, Generated::Failed { reason }, now)
            }
            Generated::Failed { reason } => {
                let failed = ToRouter::Failed {
                    job: attempt.0,
                    attempt: attempt.1,
                    reason,
                };
                self.without_receipt(attempt, failed)
            }
        }
    }

    /// Ends an attempt that was taken with this word to the router.
    fn without_receipt(&mut self, attempt: Attempt, word: ToRouter) -> Vec<Output> {
        let mut outputs: Vec<_> = self.let_go(attempt).into_iter().collect();
        outputs.extend([Output::Send(word), Output::Send(self.status())]);
        outputs
    }

    /// Signs the receipt for `content` and sends it; an answer cut short has been truncated by the caller.
    fn offer_receipt(&mut self, attempt: Attempt, content: Content, now: Timestamp) -> Vec<Output> {
        let Some(running) = self.attempts.get_mut(&attempt) else {
            return Vec::new();
        };
        if now > running.ticket.deadline {
            let failed = ToRouter::Failed {
                job: attempt.0,
                attempt: attempt.1,
                reason: "the ticket's deadline passed".to_owned(),
            };
            return self.without_receipt(attempt, failed);
        }
        running.facts.delivered_at = now.max(running.facts.accepted_at);
        let (domain, profile) = (&self.config.domain, self.config.profile_hash);
        let Some(receipt) = expected_receipt(
            domain,
            profile,
            &running.ticket,
            &content,
            &running.output,
            running.facts,
        ) else {
            let warn = Output::Warn {
                job: attempt.0,
                text: format!(
                    "the charge of {} does not fit an amount; nothing is claimed",
                    attempt.0
                ),
            };
            return self.let_go(attempt).into_iter().chain([warn]).collect();
        };
        running.phase = Phase::Offered;
        let signature = self.config.key.sign(receipt_digest(&receipt));
        let shown = Shown {
            ticket: running.ticket.clone(),
            receipt: receipt.clone(),
            signature,
        };
        let end = Final {
            content,
            receipt,
            signature,
        };
        self.offered.insert(attempt, end.clone());
        vec![
            Output::Owes(Box::new(shown)),
            Output::Send(ToRouter::Final(Box::new(end))),
            Output::Send(self.status()),
        ]
    }

    fn on_cancel(&mut self, attempt: Attempt, delivered: u64, now: Timestamp) -> Vec<Output> {
        let Some(running) = self.attempts.get_mut(&attempt) else {
            return Vec::new();
        };
        let mut outputs = if running.phase == Phase::Offered {
            Vec::new()
        } else {
            vec![Output::Stop(attempt)]
        };
        let mark = running
            .marks
            .iter()
            .find(|(tokens, _)| *tokens as u64 == delivered)
            .copied();
        let Some((tokens, bytes)) = mark.filter(|_| delivered > 0) else {
            outputs.extend(self.let_go(attempt));
            outputs.push(Output::Send(self.status()));
            return outputs;
        };
        let cut_before = running.phase == Phase::Offered
            && self.offered.get(&attempt).is_some_and(|end| {
                end.content.output_units == delivered
                    && end.content.finish_reason == FinishReason::Cancelled
            });
        if cut_before {
            return outputs; // Repeated: a second receipt would not be the one that was charged.
        }
        running.output.truncate(tokens);
        running.text.truncate(bytes);
        let content = Content {
            text: running.text.clone(),
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Cancelled,
            input_units: running.input_units,
            output_units: delivered,
        };
        outputs.extend(self.offer_receipt(attempt, content, now));
        outputs
    }

    fn on_countersigned(&mut self, signed: SignedReceipt) -> Vec<Output> {
        let attempt = (signed.receipt.job_id, signed.receipt.attempt);
        let Some(end) = self.offered.get(&attempt) else {
            return Vec::new();
        };
        if end.receipt != signed.receipt {
            return vec![Output::Warn {
                job: attempt.0,
                text: format!(
                    "the router countersigned another receipt of {} than was offered",
                    attempt.0
                ),
            }];
        }
        if let Err(reason) = check_signatures(&signed) {
            return vec![Output::Warn {
                job: attempt.0,
                text: format!("the countersignature of {} is wrong: {reason}", attempt.0),
            }];
        }
        self.offered.remove(&attempt);
        self.attempts.remove(&attempt);
        vec![Output::Earned(Box::new(signed))]
    }

    fn on_refused(&mut self, attempt: Attempt, reason: &str) -> Vec<Output> {
        self.offered.remove(&attempt);
        match self.attempts.remove(&attempt) {
            Some(_) => vec![Output::Warn {
                job: attempt.0,
                text: format!("the router refused the receipt of {}: {reason}", attempt.0),
            }],
            None => Vec::new(),
        }
    }

    /// Drops what can no longer be claimed: work past its deadline, and receipts that no router answered for long after it.
    fn on_tick(&mut self, now: Timestamp) -> Vec<Output> {
        // A ticket that is over is refused by its deadline.
        self.seen.retain(|_, deadline| *deadline > now);
        let dead = |r: &Running| {
            let end = if r.phase == Phase::Offered {
                r.ticket.deadline.plus(OFFER_KEPT)
            } else {
                r.ticket.deadline
            };
            end <= now
        };
        let dead: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, r)| dead(r))
            .map(|(attempt, _)| *attempt)
            .collect();
        let mut outputs = Vec::new();
        for attempt in dead {
            outputs.extend(self.let_go(attempt));
            outputs.push(Output::Stop(attempt));
            outputs.push(Output::Warn {
                job: attempt.0,
                text: format!("{} passed its deadline and was stopped", attempt.0),
            });
        }
        if !outputs.is_empty() {
            outputs.push(Output::Send(self.status()));
        }
        outputs
    }
}
