//! A router: admits calls, reserves their cost durably, orders work, meters it, countersigns, settles.
//!
//! Promise (design: reliability 2): every acknowledged reservation is settled or released; nothing is charged twice; it spends
//! within allotments only. The order that keeps it: an entry is applied to the book, written to the journal, and only when the
//! journal says it is durable do the effects that depend on it leave ([`After`]).

mod admission;
mod attempts;
mod pool;
mod reasoning;
mod room;
mod settlement;
mod spending;
mod summary;
mod vectors;
mod waiting;

pub use pool::{Standing, Stock, Track};
pub use spending::{day_of, spend_alerts};
pub use summary::{JobSummary, Loss};

use crate::client::{Cause, ClientEvent, ClientRequest, Failure, Undelivered};
use crate::message::{Hello, ToProvider, ToRouter};
use crate::work::Work;
use attempts::Lost;
use std::collections::BTreeMap;
use std::sync::Arc;
use stoa_crypto::{Domain, SecretKey};
use stoa_ledger::book::{Entry, ReleaseCause, RouterBook};
use stoa_market::Decision;
use stoa_types::{
    Address, Digest, JobId, NetworkProfile, SamplingParameters, SignedTicket, Ticket, Tier,
    Timestamp, TokenAmount,
};

/// Who a router is.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// Signs tickets, receipts and batches.
    pub key: SecretKey,
    /// Chain and vault it settles in.
    pub domain: Domain,
    /// Rules in force.
    pub profile: NetworkProfile,
    /// keccak of the profile's text.
    pub profile_hash: Digest,
}

/// What happens to a router.
#[derive(Debug, Clone)]
pub enum Input {
    /// A client calls. Authentication is done; the job id is fresh. Where it asks for several choices, each is a job of its own under
    /// [`Router::choice_id`]: all of them are taken in or none, and each is told on its own how it goes.
    Submit {
        /// Fresh random id, also that of the first choice.
        job: JobId,
        /// Whose key it was.
        account: Address,
        /// What is asked.
        request: Box<ClientRequest>,
        /// Randomness for a missing seed.
        entropy: u64,
    },
    /// The client went away.
    ClientGone {
        /// Its call.
        job: JobId,
        /// Tokens that were written to it: it owes these and no more, however many were passed on.
        read: u64,
    },
    /// So much was written to the client so far: what it owes if its ticket ends first. Nothing is charged for it now, not even where that
    /// is all, as it is from the start of an answer without tokens.
    Written {
        /// Its call.
        job: JobId,
        /// Tokens, counted from the first.
        tokens: u64,
    },
    /// This much was delivered to the client, and all of it is charged. Must follow [`ClientEvent::Complete`]; may come earlier.
    Delivered {
        /// Its call.
        job: JobId,
        /// Tokens, counted from the first.
        tokens: u64,
    },
    /// A provider connected; the shell checked that its endpoint belongs to its account.
    ProviderUp(Box<Hello>),
    /// Its connection is gone.
    ProviderDown(Address),
    /// Its connection was ended here, because it may not serve any more: what it did not deliver then is not held against its stake.
    ProviderCutOff(Address),
    /// A message of a connected provider.
    Provider {
        /// Who.
        provider: Address,
        /// What.
        message: ToRouter,
    },
    /// All journal entries up to this number are durable.
    Synced {
        /// Number.
        up_to: u64,
    },
    /// The journal has no room: this reservation was not written.
    NotWritten {
        /// Number of the refused entry.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// Something happened on chain.
    Chain(ChainEvent),
    /// Whether the chain can be read. While it cannot, calls are served on the cover that is known.
    ChainReachable(bool),
    /// Take no new calls; finish those that run.
    Drain,
    /// Time passed.
    Tick,
}

/// Events of the vault that concern this router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEvent {
    /// An allotment was made, raised, or its expiry moved.
    Allotment {
        /// Developer.
        account: Address,
        /// Generation.
        generation: u32,
        /// Cap.
        cap: TokenAmount,
        /// Debited so far on chain.
        debited: TokenAmount,
        /// When it ends.
        expiry: Timestamp,
        /// Fee version for new tickets.
        fee_version: u16,
    },
    /// An allotment was released: nothing can be debited from it any more.
    AllotmentClosed {
        /// Developer.
        account: Address,
        /// Generation.
        generation: u32,
    },
    /// A batch of this router stands in the vault.
    BatchPosted {
        /// Its number.
        index: u64,
        /// Head of the chain of batches after it.
        head: Digest,
        /// Block that holds it.
        block: u64,
        /// When the block was made.
        at: Timestamp,
        /// Payout root that was posted with it, or zero.
        pay_root: Digest,
    },
    /// A payout root was cancelled by verdict before it became claimable.
    PayoutVoided {
        /// The root.
        pay_root: Digest,
        /// Block of the cancelling.
        block: u64,
    },
    /// A payout root became claimable.
    PayoutPromoted {
        /// The root.
        pay_root: Digest,
        /// Its lifetime gross.
        gross: TokenAmount,
        /// Block in which it did.
        block: u64,
    },
    /// A verdict says that nobody owes this job.
    JobReversed {
        /// The job.
        job: JobId,
    },
    /// No ruling is taken any more on what this router posted first.
    AuditsOver {
        /// So many posts, counted from the first.
        posts: u64,
    },
    /// What a staked provider offers by its word on chain, connected or not; nothing once it has not the stake.
    Published {
        /// Whose.
        provider: Address,
        /// Names and tiers.
        models: Vec<(String, Tier)>,
    },
    /// A verdict wrote a provider's reputation.
    ProviderRated {
        /// Whose.
        provider: Address,
        /// In millionths; zero after a proven fraud.
        reputation_ppm: u32,
    },
    /// A debit was synced.
    DebitSynced {
        /// Developer.
        account: Address,
        /// Generation.
        generation: u32,
        /// Lifetime debit now.
        debited: TokenAmount,
    },
}

/// What a router wants done.
#[derive(Debug, Clone)]
pub enum Output {
    /// Write this entry; answer with [`Input::Synced`] or, for reservations only, [`Input::NotWritten`].
    Journal {
        /// Number, rising by one.
        sequence: u64,
        /// What to keep.
        entry: Box<Entry>,
    },
    /// Tell the client.
    Client {
        /// Which call.
        job: JobId,
        /// What.
        event: ClientEvent,
    },
    /// Send to a provider.
    Send {
        /// To whom.
        provider: Address,
        /// What.
        message: Box<ToProvider>,
    },
    /// Why this provider: for the decision log (RG-38).
    Decided {
        /// Which call.
        job: JobId,
        /// Inputs, scores and choice.
        decision: Box<Decision>,
    },
    /// Something to keep for audits or to erase; only after [`Router::keep_for_audits`].
    Audits(Keeping),
    /// What a key spent passed a share of its limit.
    SpendAlert(crate::client::SpendAlert),
    /// Keep durably: a provider took an order and did not deliver. From the ticket's deadline on it can be claimed.
    Undelivered(Box<Undelivered>),
    /// Something to do on chain; repeated until the event that ends it arrives, so the shell makes each idempotent.
    Chain(ChainCall),
    /// Something for the operator's log.
    Warn {
        /// The job that it is about, if it is about one.
        job: Option<JobId>,
        /// What happened.
        text: String,
    },
}

/// What validators need of a router's jobs. The shell seals the work to them: nobody who takes the disk can read it, the router included.
#[derive(Debug, Clone)]
pub enum Keeping {
    /// Keep this, durable no later than the charge that is journaled after it: a job that was charged and cannot be shown is withheld.
    Keep {
        /// The job.
        job: JobId,
        /// The order that was carried out.
        ticket: Box<SignedTicket>,
        /// Canonical bytes of the work.
        work: Vec<u8>,
    },
    /// Nobody may ask for these any more. Told again after a start; what is gone is gone.
    Erase {
        /// The jobs.
        jobs: Vec<JobId>,
    },
}

/// A transaction that a router wants on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainCall {
    /// Post a batch; done already if the vault holds `index` posts or more.
    Post {
        /// Its number.
        index: u64,
        /// Root over the receipts.
        job_root: Digest,
        /// Number of receipts.
        job_count: u32,
        /// Payout root, or zero.
        pay_root: Digest,
        /// Lifetime gross under the payout root.
        gross: TokenAmount,
        /// BLAKE3 of the leaf file.
        content_id: Digest,
    },
    /// Make the pending payout root claimable.
    Promote,
    /// Cancel the router's own pending payout root, because it pays a charge that a verdict reversed; done already if another root is
    /// pending, or none.
    VoidOwn {
        /// The root.
        pay_root: Digest,
    },
    /// Bring debits of the claimable root on chain.
    SyncDebits,
    /// Give the router's allotment to itself at least this cap, from the router's own money; a new generation where none is live. Done
    /// already if the vault knows a newer generation than `generation`, or this one with that cap.
    CoverLate {
        /// The newest generation that the router knows; 0 for none.
        generation: u32,
        /// Cap.
        cap: TokenAmount,
        /// When it should end.
        expiry: Timestamp,
    },
}

/// What waits for an entry to be durable.
#[derive(Debug, Clone, PartialEq, Eq)]
enum After {
    /// All choices of one request.
    Dispatch(Vec<JobId>),
    Deliver(JobId),
    Post,
    Nothing,
}

/// A call in progress.
#[derive(Debug, Clone)]
struct Job {
    account: Address,
    /// With which key it came.
    key: crate::client::KeyId,
    /// Shared by the choices of one request.
    request: Arc<ClientRequest>,
    /// Of the order under way: what is asked for, within the context of the provider that is tried.
    parameters: SamplingParameters,
    /// Output limit of the call, whatever a provider's context.
    output_units_max: u32,
    /// That limit was lowered until it fitted its money.
    shortened: bool,
    submitted_at: Timestamp,
    first_token_at: Option<Timestamp>,
    input_units_max: u64,
    /// What the prompt can have at most, whatever the model's context.
    prompt_bound: u64,
    reserve: TokenAmount,
    fee_version: u16,
    /// Providers still to try, best last.
    remaining: Vec<Address>,
    /// Providers with longer contexts than some of these that the reserve covers, the longest first: one of them is tried for each that has
    /// no room for the request.
    longer: Vec<Address>,
    /// Those that the reserve does not cover, and why: what the client hears where only these would have room.
    too_dear: Option<(Vec<Address>, Cause)>,
    /// Whose slot is kept free for it until it is dispatched.
    claimed: Option<Address>,
    /// Tokens that the client is known to have got.
    read: u64,
    /// A provider that blamed the request, until a second one agrees or shows that it was wrong.
    blamed: Option<attempts::Blame>,
    attempt: u32,
    current: Option<Current>,
    phase: Phase,
    last_failure: Option<Cause>,
    /// What the last provider said that had no room for the request: where nothing else went wrong, the request asks for too much.
    limit: Option<Cause>,
    /// What providers took of it and did not deliver.
    undelivered: Vec<Undelivered>,
}

impl Job {
    /// What a provider is ordered to do.
    fn work(&self) -> Work {
        Work {
            prompt: self.request.prompt.clone(),
            sampling: self.parameters.clone(),
            answer: self.request.answer.clone(),
        }
    }
}

/// The running attempt of a job.
#[derive(Debug, Clone)]
struct Current {
    provider: Address,
    ticket: Ticket,
    /// The provider's word that it took the order.
    taken: Option<attempts::Taken>,
    output: Vec<u32>,
    text: String,
    /// Length of output and text after each delta: where an answer may be cut, as the provider cuts it.
    marks: Vec<(usize, usize)>,
    /// Bytes of all tokens that its log-probabilities named.
    named_bytes: usize,
    ordered_at: Timestamp,
    /// Whether the provider works on it; once its receipt is here its slot is free.
    holds_slot: bool,
    /// Since when the next sign of life is awaited.
    waiting_since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The reservation is being written.
    Reserving,
    /// The client left while the reservation was being written: what is written is released, what is not leaves no trace.
    Abandoned,
    /// A provider works on it.
    Running,
    /// The provider's receipt is right; it is charged once the client has got everything.
    Delivering(Arc<crate::client::Done>),
    /// The client is gone; the provider owes a receipt for `delivered` tokens.
    Cancelling { delivered: u64 },
    /// The receipt is being written; then the client hears `Done`.
    Charging(Arc<crate::client::Done>),
}

/// State of one router.
#[derive(Debug, Clone)]
pub struct Router {
    config: RouterConfig,
    book: RouterBook,
    stock: Stock,
    jobs: BTreeMap<JobId, Job>,
    /// Calls that wait for a slot.
    queue: waiting::Queue,
    /// How long a job holds a slot.
    slot_time: stoa_market::track::Latency,
    /// Charged jobs of each account, oldest first.
    by_account: BTreeMap<Address, Vec<JobId>>,
    /// What the calls of each key cost.
    spending: spending::Spending,
    next_sequence: u64,
    waiting: BTreeMap<u64, After>,
    /// What is kept for audits: nothing, or all jobs above so many posts.
    audited_posts: Option<u64>,
    draining: bool,
    chain_reachable: bool,
    /// The last chain call and when it was asked for.
    asked: Option<(ChainCall, Timestamp)>,
    /// Which kind of chain call is asked for first when several are wanted.
    next_turn: usize,
    /// Times to first token of the newest delivered jobs, for display.
    recent_ttft: std::collections::VecDeque<(JobId, u64)>,
    /// The newest attempts that ended without a receipt, for display.
    losses: std::collections::VecDeque<Loss>,
}

impl Router {
    /// A router that goes on from `book`, as recovered from the journal. Calls that were open when it stopped are released: their
    /// clients were cut off and owe nothing.
    pub fn recover(
        config: RouterConfig,
        book: RouterBook,
        next_sequence: u64,
    ) -> (Self, Vec<Output>) {
        let mut router = Self {
            config,
            book,
            stock: Stock::default(),
            jobs: BTreeMap::new(),
            queue: waiting::Queue::default(),
            slot_time: stoa_market::track::Latency::default(),
            by_account: BTreeMap::new(),
            spending: spending::Spending::default(),
            next_sequence,
            waiting: BTreeMap::new(),
            audited_posts: None,
            draining: false,
            chain_reachable: true,
            asked: None,
            next_turn: 0,
            recent_ttft: std::collections::VecDeque::new(),
            losses: std::collections::VecDeque::new(),
        };
        router.index_accounts();
        let mut outputs = Vec::new();
        let open: Vec<_> = router
            .book
            .open_reservations()
            .map(|(job, _)| job)
            .collect();
        for job in open {
            router.release(job, ReleaseCause::Restarted, &mut outputs);
        }
        (router, outputs)
    }

    /// The books.
    pub fn book(&self) -> &RouterBook {
        &self.book
    }

    /// Providers and what they serve.
    pub fn stock(&self) -> &Stock {
        &self.stock
    }

    /// Who this is.
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// From now on asks for what audits need to be kept ([`Output::Audits`]).
    pub fn keep_for_audits(&mut self) {
        self.audited_posts.get_or_insert(0);
    }

    /// Whether a validator may still ask for this job; what is kept of any other job is a leftover of a crash.
    pub fn is_auditable(&self, job: JobId) -> bool {
        let over = self.audited_posts.unwrap_or(u64::MAX);
        let posted = self.book.batch_of(job).map_or(u64::MAX, |(post, _)| post);
        self.book.receipt(job).is_some() && posted > over
    }

    /// Calls in progress, those that wait for a slot included.
    pub fn active(&self) -> usize {
        self.jobs.len() + self.queue.jobs()
    }

    /// Advances the router. No clock, no socket, no await.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Submit {
                job,
                account,
                request,
                entropy,
            } => self.submit(job, account, request, entropy, now, &mut outputs),
            Input::ClientGone { job, read } => self.client_gone(job, read, now, &mut outputs),
            Input::Written { job, tokens } => self.written(job, tokens),
            Input::Delivered { job, tokens } => self.delivered(job, tokens, now, &mut outputs),
            Input::ProviderUp(hello) => self.stock.up(*hello, self.config.profile.limits.price_max),
            Input::ProviderDown(provider) => {
                self.provider_down(provider, Lost::Fault, now, &mut outputs)
            }
            Input::ProviderCutOff(provider) => {
                self.provider_down(provider, Lost::CutOff, now, &mut outputs)
            }
            Input::Provider { provider, message } => {
                self.provider_message(provider, message, now, &mut outputs)
            }
            Input::Synced { up_to } => self.synced(up_to, now, &mut outputs),
            Input::NotWritten { sequence, reason } => {
                self.not_written(sequence, &reason, &mut outputs)
            }
            Input::Chain(event) => self.chain_event(event, &mut outputs),
            Input::ChainReachable(reachable) => self.chain_reachable = reachable,
            Input::Drain => {
                self.draining = true;
                self.turn_waiting_away(&mut outputs);
            }
            Input::Tick => {
                self.deadlines(now, &mut outputs);
                self.end_waits(now, &mut outputs);
                self.settle(now, &mut outputs);
            }
        }
        self.serve_waiting(now, &mut outputs);
        outputs
    }

    /// Applies an entry and asks for it to be written. An entry of ours that the book refuses is a broken invariant.
    fn journal(&mut self, entry: Entry, after: After, outputs: &mut Vec<Output>) {
        self.book
            .apply(&entry)
            .expect("entries are made from the book's own answers, so the book accepts them");
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.waiting.insert(sequence, after);
        outputs.push(Output::Journal {
            sequence,
            entry: Box::new(entry),
        });
    }

    fn synced(&mut self, up_to: u64, now: Timestamp, outputs: &mut Vec<Output>) {
        let later = self.waiting.split_off(&up_to.saturating_add(1));
        for after in std::mem::replace(&mut self.waiting, later).into_values() {
            match after {
                After::Dispatch(jobs) => {
                    for job in jobs {
                        self.reserved(job, now, outputs);
                    }
                }
                After::Deliver(job) => self.charged(job, outputs),
                After::Post => self.ask_next(now, outputs),
                After::Nothing => {}
            }
        }
    }

    /// A reservation that never became durable never was: the book lets go of it, unwritten like the reservation itself, and the
    /// client is told.
    fn not_written(&mut self, sequence: u64, reason: &str, outputs: &mut Vec<Output>) {
        let Some(After::Dispatch(jobs)) = self.waiting.remove(&sequence) else {
            outputs.push(Output::Warn {
                job: None,
                text: format!(
                    "journal entry {sequence} was refused but is no reservation: {reason}"
                ),
            });
            return;
        };
        for job in jobs {
            let forgotten = Entry::Released {
                job,
                cause: ReleaseCause::NoProvider,
            };
            self.book
                .apply(&forgotten)
                .expect("the reservation was applied when it was asked to be written");
            let cause = Cause::RouterUnavailable {
                reason: reason.to_owned(),
            };
            if self
                .end_job(job)
                .is_some_and(|j| j.phase == Phase::Reserving)
            {
                outputs.push(failed(job, cause));
            }
        }
    }

    /// The call is over: forgets it, and the slot that was kept for it is anybody's.
    fn end_job(&mut self, job: JobId) -> Option<Job> {
        let state = self.jobs.remove(&job)?;
        if let Some(provider) = state.claimed {
            self.stock.unclaim(provider);
        }
        Some(state)
    }

    /// The provider no longer works on the job.
    fn free_slot(&mut self, job: JobId) {
        let current = self.jobs.get_mut(&job).and_then(|s| s.current.as_mut());
        if let Some(current) = current.filter(|current| current.holds_slot) {
            current.holds_slot = false;
            self.stock.give_slot(current.provider);
        }
    }

    fn release(&mut self, job: JobId, cause: ReleaseCause, outputs: &mut Vec<Output>) {
        self.journal(Entry::Released { job, cause }, After::Nothing, outputs);
    }
}

/// A request that is not taken in: each of its choices hears why.
fn refused<'a>(
    jobs: impl IntoIterator<Item = &'a JobId>,
    cause: &Cause,
) -> impl Iterator<Item = Output> {
    let refuse = |job: &JobId| failed(*job, cause.clone());
    jobs.into_iter().map(refuse)
}

fn failed(job: JobId, cause: Cause) -> Output {
    Output::Client {
        job,
        event: ClientEvent::Failed(Failure::new(cause, TokenAmount::ZERO)),
    }
}
