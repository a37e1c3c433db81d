//! A router as a process: one loop owns the state machine; journal, provider links, clients and chain feed it and carry out what
//! it wants. The loop never waits for any of them.

use super::audits::{Keeper, Kept};
use super::journal::{OpenJournal, RouterJournal, Written};
use super::shelf::Shelf;
use super::statistics::Statistics;
use super::traces::CallTraces;
use super::undelivered::Undeliveries;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stoa_api::{ApiError, KeyName, WrittenTokens};
use stoa_ledger::book::Entry;
use stoa_market::Decision;
use stoa_net::{CloseCode, JOBS_PER_LINK_MAX, JobStream, ProviderLink, RouterEndpoint};
use stoa_nodes::client::{
    Cause, ClientEvent, ClientRequest, Done, Failure, SpendAlert, Undelivered,
};
use stoa_nodes::message::{Dispatch, Hello, RefusalReason, ToProvider, ToRouter};
use stoa_nodes::router::{ChainCall, Input, Output, Router};
use stoa_types::{Address, EndpointId, JobId, Timestamp, TokenAmount, TraceId, TraceParent};
use tokio::sync::{mpsc, watch};
use tracing::field::display;

/// Events that a client may leave unread before its stream is cut.
const CLIENT_QUEUE: usize = 1024;
/// Room that is kept for the end of a call: `Complete`, then `Done` or `Failed`.
const LAST_EVENTS: usize = 2;
/// Messages that wait for a provider's stream.
const JOB_QUEUE: usize = 16;
/// How often the state machine learns that time passed.
const TICK: Duration = Duration::from_millis(100);
/// Decisions kept in memory for `explain`; older ones are read from the decision log.
const DECISIONS_KEPT: usize = 4096;

/// Milliseconds since the Unix epoch, never fewer than said before: see [`SteadyClock`].
pub fn now() -> Timestamp {
    static CLOCK: Mutex<Option<SteadyClock>> = Mutex::new(None);
    let (wall, steady) = (wall_clock(), Instant::now());
    let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    clock
        .get_or_insert_with(|| SteadyClock::new(wall, steady))
        .read(wall, steady)
}

fn wall_clock() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The wall clock, made steady. Where it jumps ahead (the machine slept, or was wrong) so does this one. Where it is set back, this one
/// goes on at half the pace until the wall clock has caught up: deadlines and retries come late by at most as long again, and nothing
/// happens before what happened earlier. A clock that was far ahead is believed again after a restart.
struct SteadyClock {
    said: u64,
    steady: Instant,
    /// Microseconds that were not given out yet.
    rest_us: u128,
}

impl SteadyClock {
    fn new(wall: Timestamp, steady: Instant) -> Self {
        Self {
            said: wall.0,
            steady,
            rest_us: 0,
        }
    }

    fn read(&mut self, wall: Timestamp, steady: Instant) -> Timestamp {
        let passed = steady.saturating_duration_since(self.steady).as_micros();
        self.steady = self.steady.max(steady);
        if wall.0 >= self.said {
            (self.said, self.rest_us) = (wall.0, 0);
        } else {
            self.rest_us += passed / 2;
            let ms = self.rest_us / 1000;
            self.rest_us %= 1000;
            self.said = self
                .said
                .saturating_add(u64::try_from(ms).unwrap_or(u64::MAX));
        }
        Timestamp(self.said)
    }
}

/// What the loop is told.
enum Event {
    Input(Box<Input>),
    Submit {
        account: Address,
        request: Box<ClientRequest>,
        above: Option<TraceParent>,
        /// Of each choice, the first one first.
        clients: Vec<(JobId, ClientLine)>,
    },
    /// A client whose queue is full: it still hears the end.
    Cut(Box<Input>),
    Link(ProviderLink),
    LinkGone {
        provider: Address,
        link: u64,
    },
    /// The chain may have changed its mind about who is let in.
    Recheck(Allowed),
    Journal(Written),
}

/// Whether an endpoint may speak for the account in a hello, as the chain has it now.
pub type Allowed = Box<dyn Fn(EndpointId, &Hello) -> Result<(), String> + Send>;

/// Why a router stopped.
#[derive(Debug, thiserror::Error)]
pub enum RouterStopped {
    /// The journal's disk failed; nothing more was acknowledged.
    #[error("the router's journal failed and the router stopped, nothing more was promised: {0}")]
    Journal(String),
}

/// The loop's end of one call.
struct ClientLine {
    events: mpsc::Sender<ClientEvent>,
    written: WrittenTokens,
    /// It was told that all text was sent: what it got ends the call.
    complete: bool,
    /// Its queue was full: it hears the end of the call and nothing before it.
    cut: bool,
    pace: Pace,
}

/// When a call began and how its tokens come, for the metrics.
struct Pace {
    began: Instant,
    /// When the first tokens came.
    first: Option<Instant>,
    /// Tokens after the first ones.
    later: u64,
}

impl Pace {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            first: None,
            later: 0,
        }
    }

    fn see(&mut self, event: &ClientEvent) {
        match (event, self.first) {
            (ClientEvent::Delta { .. }, None) => self.first = Some(Instant::now()),
            (ClientEvent::Delta { tokens, .. }, Some(_)) => self.later += u64::from(*tokens),
            (ClientEvent::Complete(_), Some(first)) if self.later > 0 => {
                let gap = first.elapsed().as_secs_f64() / self.later as f64;
                metrics::histogram!("stoa_router_token_gap_seconds").record(gap);
            }
            (ClientEvent::Done(_), _) => {
                metrics::histogram!("stoa_router_call_seconds").record(self.began.elapsed());
            }
            _ => {}
        }
    }
}

/// Calls and queries for a running router. Clones share it.
#[derive(Clone)]
pub struct RouterHandle {
    events: mpsc::UnboundedSender<Event>,
    core: Arc<Mutex<Router>>,
    decisions: Arc<Mutex<DecisionLog>>,
    shelf: Option<Arc<Mutex<Shelf>>>,
    undelivered: Undeliveries,
    statistics: Arc<Statistics>,
    changes: Arc<watch::Sender<u64>>,
}

impl RouterHandle {
    /// What is kept for audits, where it is.
    pub fn shelf(&self) -> Option<Arc<Mutex<Shelf>>> {
        self.shelf.clone()
    }

    /// Starts a call, below a span of its client where that names one. `choices` are its jobs, as [`Router::choice_ids`] has them, with
    /// the counts of what the client got of each; the events of each arrive in its receiver. Dropping a receiver does not cancel its job:
    /// use [`RouterHandle::cancel`].
    pub fn submit(
        &self,
        account: Address,
        (request, above): (ClientRequest, Option<TraceParent>),
        choices: &[(JobId, WrittenTokens)],
    ) -> Vec<mpsc::Receiver<ClientEvent>> {
        let line = |(job, written): &(JobId, WrittenTokens)| {
            let (events, receiver) = mpsc::channel(CLIENT_QUEUE + LAST_EVENTS);
            let line = ClientLine {
                events,
                written: written.clone(),
                complete: false,
                cut: false,
                pace: Pace::new(),
            };
            ((*job, line), receiver)
        };
        let (clients, receivers) = choices.iter().map(line).unzip();
        let _ = self.events.send(Event::Submit {
            account,
            request: Box::new(request),
            above,
            clients,
        });
        receivers
    }

    /// A call that is refused at the door.
    pub fn refused(reason: &str) -> mpsc::Receiver<ClientEvent> {
        let (events, receiver) = mpsc::channel(1);
        let cause = Cause::RouterUnavailable {
            reason: reason.to_owned(),
        };
        let _ = events.try_send(ClientEvent::Failed(Failure::new(cause, TokenAmount::ZERO)));
        receiver
    }

    /// The client of `job` is gone and got `read` tokens.
    pub fn cancel(&self, job: JobId, read: u64) {
        self.input(Input::ClientGone { job, read });
    }

    /// The client of `job` got all `tokens` of its answer.
    pub fn delivered(&self, job: JobId, tokens: u64) {
        self.input(Input::Delivered { job, tokens });
    }

    /// Feeds the state machine, for example with a chain event.
    pub fn input(&self, input: Input) {
        let _ = self.events.send(Event::Input(Box::new(input)));
    }

    /// Closes the links of providers that `allowed` no longer lets in.
    pub fn recheck(&self, allowed: Allowed) {
        let _ = self.events.send(Event::Recheck(allowed));
    }

    /// The state machine, for queries: hold it briefly.
    pub fn core(&self) -> MutexGuard<'_, Router> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders that were taken and not delivered.
    pub fn undelivered(&self) -> &Undeliveries {
        &self.undelivered
    }

    /// How calls went since the start.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Counts up whenever something happened that somebody may look at.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Something may look different now.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Why a provider was chosen.
    pub fn decision(&self, job: JobId) -> Option<Decision> {
        // The loop waits for this lock: it is let go before the file is read.
        let kept = self
            .decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .newest(job);
        match kept {
            Ok(decision) => Some(decision),
            Err(path) => DecisionLog::read(&path, job),
        }
    }
}

/// Everything a router's loop needs.
pub struct RouterParts {
    /// The state machine, recovered.
    pub core: Router,
    /// Outputs of the recovery, to be carried out first.
    pub outputs: Vec<Output>,
    /// Its journal, read.
    pub journal: OpenJournal,
    /// Where providers connect.
    pub endpoint: Arc<RouterEndpoint>,
    /// Takes chain calls.
    pub chain: mpsc::UnboundedSender<ChainCall>,
    /// Where decisions are kept.
    pub decisions: DecisionLog,
    /// Where works are kept for audits; `None` where nobody judges.
    pub audits: Option<Kept>,
    /// Orders that were taken and not delivered.
    pub undelivered: Undeliveries,
    /// Traces of its calls.
    pub traces: CallTraces,
}

struct Loop {
    core: Arc<Mutex<Router>>,
    journal: Arc<RouterJournal>,
    keeper: Option<Keeper>,
    events: mpsc::UnboundedSender<Event>,
    clients: HashMap<JobId, ClientLine>,
    links: HashMap<Address, (u64, ProviderLink)>,
    /// Streams of running attempts. The provider is part of the key: what it is told must not reach another one's stream.
    streams: HashMap<(Address, JobId, u32), mpsc::Sender<ToProvider>>,
    chain: mpsc::UnboundedSender<ChainCall>,
    decisions: Arc<Mutex<DecisionLog>>,
    statistics: Arc<Statistics>,
    undelivered: Undeliveries,
    traces: CallTraces,
    /// Traced calls whose client left before they were over.
    left: Vec<JobId>,
    changes: Arc<watch::Sender<u64>>,
    next_link: u64,
}

/// Starts the router's loop. The task ends when every handle is gone, or with the reason why it had to stop.
pub fn start(
    parts: RouterParts,
) -> std::io::Result<(
    RouterHandle,
    tokio::task::JoinHandle<Result<(), RouterStopped>>,
)> {
    let (events, receiver) = mpsc::unbounded_channel();
    let core = Arc::new(Mutex::new(parts.core));
    let decisions = Arc::new(Mutex::new(parts.decisions));
    let weak = events.downgrade();
    let tell = move |written| {
        if let Some(events) = weak.upgrade() {
            let _ = events.send(Event::Journal(written));
        }
    };
    let journal = Arc::new(RouterJournal::start(parts.journal, Arc::new(tell))?);
    let keeper = parts
        .audits
        .map(|kept| Keeper::start(kept, journal.clone()));
    let keeper = keeper.transpose()?;
    let shelf = keeper.as_ref().map(Keeper::shelf);
    let statistics = Arc::new(Statistics::new(now()));
    let changes = Arc::new(watch::Sender::new(0));
    let handle = RouterHandle {
        events: events.clone(),
        core: core.clone(),
        decisions: decisions.clone(),
        shelf,
        undelivered: parts.undelivered.clone(),
        statistics: statistics.clone(),
        changes: changes.clone(),
    };
    tokio::spawn(accept_links(parts.endpoint, events.clone()));
    let state = Loop {
        core,
        journal,
        keeper,
        events,
        clients: HashMap::new(),
        links: HashMap::new(),
        streams: HashMap::new(),
        chain: parts.chain,
        decisions,
        statistics,
        undelivered: parts.undelivered,
        traces: parts.traces,
        left: Vec::new(),
        changes,
        next_link: 0,
    };
    let task = tokio::spawn(state.run(receiver, parts.outputs));
    Ok((handle, task))
}

async fn accept_links(endpoint: Arc<RouterEndpoint>, events: mpsc::UnboundedSender<Event>) {
    while let Some(link) = endpoint.accept().await {
        if events.send(Event::Link(link)).is_err() {
            return;
        }
    }
}

impl Loop {
    async fn run(
        mut self,
        mut receiver: mpsc::UnboundedReceiver<Event>,
        outputs: Vec<Output>,
    ) -> Result<(), RouterStopped> {
        self.carry_out(outputs);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = receiver.recv() => match event {
                    Some(event) => self.event(event)?,
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    self.journal.retry();
                    self.report_progress();
                    self.handle(Input::Tick);
                    for job in std::mem::take(&mut self.left) {
                        self.forget_trace(job);
                    }
                }
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<(), RouterStopped> {
        match event {
            Event::Input(input) => {
                let gone = match &*input {
                    Input::ClientGone { job, .. } => Some(*job),
                    _ => None,
                };
                if let Some(job) = gone {
                    self.clients.remove(&job);
                    self.statistics.left(job);
                }
                self.handle(*input);
                if let Some(job) = gone {
                    self.forget_trace(job);
                }
            }
            Event::Submit {
                account,
                request,
                above,
                clients,
            } => {
                let Some(job) = clients.first().map(|(job, _)| *job) else {
                    return Ok(());
                };
                for (job, client) in clients {
                    self.clients.insert(job, client);
                    self.traces.submitted(job, &request.model, above);
                    metrics::counter!("stoa_router_calls_total").increment(1);
                    self.statistics
                        .submitted(job, account, &request.model, now());
                }
                let mut entropy = [0; 8];
                getrandom::fill(&mut entropy)
                    .map_err(|e| RouterStopped::Journal(format!("no random bytes: {e}")))?;
                self.handle(Input::Submit {
                    job,
                    account,
                    request,
                    entropy: u64::from_be_bytes(entropy) >> 1,
                });
            }
            Event::Cut(gone) => self.handle(*gone),
            Event::Link(link) => self.link(link),
            Event::Recheck(allowed) => self.recheck(&allowed),
            Event::LinkGone { provider, link } => {
                if self
                    .links
                    .get(&provider)
                    .is_some_and(|(number, _)| *number == link)
                {
                    self.links.remove(&provider);
                    tracing::info!(%provider, "provider disconnected");
                    self.handle(Input::ProviderDown(provider));
                }
            }
            Event::Journal(Written::Durable(sequence)) => {
                self.handle(Input::Synced { up_to: sequence })
            }
            Event::Journal(Written::Refused { sequence, reason }) => {
                self.handle(Input::NotWritten { sequence, reason })
            }
            Event::Journal(Written::Fatal(reason)) => return Err(RouterStopped::Journal(reason)),
        }
        Ok(())
    }

    /// The trace of a call whose client left ends now, unless it is still to be charged for what was delivered.
    fn forget_trace(&mut self, job: JobId) {
        let over = || {
            let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            core.account_of(job).is_none()
        };
        if self.traces.id(job).is_none() {
            return;
        }
        if over() {
            self.traces.abandoned(job);
        } else {
            // The router may end it without a word, for nobody hears it: looked at again.
            self.left.push(job);
        }
    }

    fn handle(&mut self, input: Input) {
        let quiet = matches!(input, Input::Tick | Input::ChainReachable(_));
        let outputs = self
            .core
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .handle(input, now());
        let seen = !quiet || !outputs.is_empty();
        self.carry_out(outputs);
        if seen {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Journal { sequence, entry } => {
                    if let Entry::Charged { receipt } = &*entry {
                        self.traces.charging(receipt.receipt.job_id);
                    }
                    match &self.keeper {
                        Some(keeper) => keeper.write(sequence, entry),
                        None => self.journal.write(sequence, &entry),
                    }
                }
                Output::Client { job, event } => self.tell_client(job, event),
                Output::Send { provider, message } => self.send(provider, *message),
                Output::Decided { job, decision } => {
                    self.traces.decided(job, &decision);
                    self.statistics.decided(job, &decision, now());
                    self.decisions
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .keep(job, *decision);
                }
                Output::Chain(call) => drop(self.chain.send(call)),
                Output::Warn {
                    job: Some(job),
                    text,
                } => {
                    let trace_id = self.traces.id(job).map(display);
                    tracing::warn!(%job, trace_id, "{text}");
                }
                Output::Warn { job: None, text } => tracing::warn!("{text}"),
                Output::SpendAlert(alert) => warn_of_spending(&alert),
                Output::Undelivered(undelivered) => self.not_delivered(*undelivered),
                Output::Audits(keeping) => {
                    if let Some(keeper) = &self.keeper {
                        keeper.keep(keeping);
                    }
                }
            }
        }
    }

    fn not_delivered(&self, undelivered: Undelivered) {
        let ticket = &undelivered.ticket.ticket;
        metrics::counter!("stoa_router_undelivered_total").increment(1);
        tracing::warn!(job = %ticket.job_id, attempt = ticket.attempt, provider = %ticket.provider,
            accepted_at_ms = undelivered.acceptance.acceptance.accepted_at.0, deadline_ms = ticket.deadline.0,
            "an order was taken and not delivered; nothing is billed for it");
        self.undelivered.keep(undelivered);
    }

    /// How far the clients are that still take the end of their answers: should their tickets end first, they owe that much.
    fn report_progress(&mut self) {
        let taking = self
            .clients
            .iter()
            .filter(|(_, line)| line.complete && !line.cut);
        let progress: Vec<_> = taking
            .map(|(job, line)| (*job, line.written.tokens()))
            .collect();
        for (job, tokens) in progress {
            self.handle(Input::Written { job, tokens });
        }
    }

    fn tell_client(&mut self, job: JobId, event: ClientEvent) {
        log_end(job, self.traces.id(job), &event);
        self.traces.told(job, &event);
        self.statistics.told(job, &event, now());
        if let Some(line) = self.clients.get_mut(&job) {
            line.pace.see(&event);
        }
        if matches!(event, ClientEvent::Done(_) | ClientEvent::Failed(_)) {
            if let Some(line) = self.clients.remove(&job) {
                // There is room for it; a receiver that is gone needs it no more.
                let _ = line.events.try_send(event);
            }
            return;
        }
        let Some(line) = self.clients.get_mut(&job).filter(|line| !line.cut) else {
            return;
        };
        line.complete |= matches!(event, ClientEvent::Complete(_));
        let full = !line.complete && line.events.capacity() <= LAST_EVENTS;
        if full {
            tracing::warn!(%job, "the client reads too slowly; its stream is cut");
            line.cut = true;
            let read = line.written.tokens();
            let gone = Input::ClientGone { job, read };
            let _ = self.events.send(Event::Cut(Box::new(gone)));
        } else {
            // A receiver that is gone is told of by its own end.
            let _ = line.events.try_send(event);
        }
    }

    /// Who lost its stake, or offers what it no longer publishes, is worked with no more: its calls fail over or end unbilled.
    fn recheck(&mut self, allowed: &Allowed) {
        let refused = |(provider, (_, link)): (&Address, &(u64, ProviderLink))| {
            let reason = allowed(link.endpoint_id(), link.hello()).err()?;
            Some((*provider, reason))
        };
        let refused: Vec<_> = self.links.iter().filter_map(refused).collect();
        for (provider, reason) in refused {
            if let Some((_, link)) = self.links.remove(&provider) {
                tracing::warn!(%provider, %reason, "provider disconnected: it may not serve any more");
                link.close(CloseCode::Refused, &reason);
                self.handle(Input::ProviderCutOff(provider));
            }
        }
    }

    fn link(&mut self, link: ProviderLink) {
        let provider = link.hello().account;
        self.next_link += 1;
        let number = self.next_link;
        tracing::info!(%provider, region = %link.hello().region, slots = link.hello().slots, "provider connected");
        self.links.insert(provider, (number, link.clone()));
        let mut hello = link.hello().clone();
        // The link carries no more at once, whatever the provider could run.
        hello.slots = hello.slots.min(JOBS_PER_LINK_MAX);
        self.handle(Input::ProviderUp(Box::new(hello)));
        let (late, late_events) = (link.clone(), self.events.clone());
        tokio::spawn(async move {
            while let Some(message) = late.next_late().await {
                let _ = late_events.send(Event::Input(Box::new(Input::Provider {
                    provider,
                    message,
                })));
            }
        });
        let events = self.events.clone();
        tokio::spawn(async move {
            let mut status = link.status();
            loop {
                let current = *status.borrow_and_update();
                let message = ToRouter::Status {
                    free_slots: current.free_slots,
                    draining: current.draining,
                };
                let _ = events.send(Event::Input(Box::new(Input::Provider {
                    provider,
                    message,
                })));
                tokio::select! {
                    changed = status.changed() => if changed.is_err() { break },
                    _ = link.closed() => break,
                }
            }
            let _ = events.send(Event::LinkGone {
                provider,
                link: number,
            });
        });
    }

    fn send(&mut self, provider: Address, message: ToProvider) {
        let attempt = match &message {
            ToProvider::Dispatch(dispatch) => return self.dispatch(provider, (**dispatch).clone()),
            ToProvider::Cancel { job, attempt, .. }
            | ToProvider::ReceiptRefused { job, attempt, .. } => (*job, *attempt),
            ToProvider::Countersigned(signed) => (signed.receipt.job_id, signed.receipt.attempt),
        };
        let open = self
            .streams
            .get(&(provider, attempt.0, attempt.1))
            .filter(|stream| !stream.is_closed());
        if let Some(stream) = open {
            // A stream that takes no message is about to be given up by its own task.
            let _ = stream.try_send(message);
        } else if let Some((_, link)) = self.links.get(&provider)
            && !matches!(message, ToProvider::Cancel { .. })
        {
            let link = link.clone();
            tokio::spawn(async move {
                if let Err(error) = link.answer_late(message).await {
                    tracing::debug!(job = %attempt.0, %error, "an answer to a repeated receipt was not sent");
                }
            });
        }
    }

    fn dispatch(&mut self, provider: Address, mut dispatch: Dispatch) {
        let ticket = &dispatch.ticket.ticket;
        let attempt = (ticket.job_id, ticket.attempt);
        let trace_id = self.traces.id(attempt.0).map(display);
        tracing::info!(job = %attempt.0, trace_id, attempt = attempt.1, %provider, "job ordered");
        dispatch.trace = self.traces.ordered(attempt.0, attempt.1, provider);
        self.streams.retain(|_, sender| !sender.is_closed());
        let open = self.streams.keys().filter(|(to, ..)| *to == provider);
        if open.count() >= JOBS_PER_LINK_MAX as usize {
            // Receipts of finished jobs wait on the other streams: the link is full, which is not the provider's fault.
            let message = ToRouter::Refused {
                job: attempt.0,
                attempt: attempt.1,
                reason: RefusalReason::Busy,
            };
            let refused = Input::Provider { provider, message };
            let _ = self.events.send(Event::Input(Box::new(refused)));
            return;
        }
        let (sender, receiver) = mpsc::channel(JOB_QUEUE);
        self.streams
            .insert((provider, attempt.0, attempt.1), sender);
        let events = self.events.clone();
        let link = self.links.get(&provider).map(|(_, link)| link.clone());
        tokio::spawn(async move {
            let reason = match link {
                Some(link) => run_stream(&link, dispatch, provider, receiver, &events).await,
                None => Some("it is not connected".to_owned()),
            };
            if let Some(reason) = reason {
                let message = ToRouter::Failed {
                    job: attempt.0,
                    attempt: attempt.1,
                    reason,
                };
                let _ = events.send(Event::Input(Box::new(Input::Provider {
                    provider,
                    message,
                })));
            }
        });
    }
}

/// Carries one job's messages both ways. Returns why the stream broke, or `None` after a proper end.
async fn run_stream(
    link: &ProviderLink,
    dispatch: Dispatch,
    provider: Address,
    mut outgoing: mpsc::Receiver<ToProvider>,
    events: &mpsc::UnboundedSender<Event>,
) -> Option<String> {
    let ticket = &dispatch.ticket.ticket;
    let attempt = (ticket.job_id, ticket.attempt);
    let stream: JobStream = match link.open_job(dispatch).await {
        Ok(stream) => stream,
        Err(error) => return Some(error.to_string()),
    };
    let (mut sender, mut receiver) = stream.split();
    let mut answered = false;
    loop {
        tokio::select! {
            incoming = receiver.recv() => match incoming {
                Ok(Some(message)) => {
                    if message.job() != Some(attempt) {
                        return Some("it spoke of another job on this job's stream".to_owned());
                    }
                    // After these there is nothing more to say: a provider cannot keep the stream open.
                    let over = matches!(message, ToRouter::Refused { .. } | ToRouter::Failed { .. });
                    answered |= matches!(message, ToRouter::Final(_));
                    let _ = events.send(Event::Input(Box::new(Input::Provider { provider, message })));
                    if over {
                        return None;
                    }
                }
                Ok(None) => return (!answered).then(|| "it ended the stream without a receipt".to_owned()),
                Err(error) => return (!answered).then(|| error.to_string()),
            },
            message = outgoing.recv() => {
                let message = message?;
                let last = matches!(message, ToProvider::Countersigned(_) | ToProvider::ReceiptRefused { .. }
                    | ToProvider::Cancel { delivered: 0, .. });
                if let Err(error) = sender.send(&message).await {
                    return (!answered).then(|| error.to_string());
                }
                if last {
                    let _ = sender.finish().await;
                    return None;
                }
            }
        }
    }
}

fn count_delivered(done: &Done) {
    let receipt = &done.receipt.receipt;
    metrics::counter!("stoa_router_calls_ended_total", "outcome" => "delivered").increment(1);
    metrics::histogram!("stoa_router_ttft_seconds").record(Duration::from_millis(done.ttft_ms));
    metrics::counter!("stoa_router_failovers_total").increment(done.started.failovers.into());
    for (kind, tokens) in [
        ("input", receipt.input_units),
        ("output", receipt.output_units),
    ] {
        metrics::counter!("stoa_router_tokens_total", "kind" => kind).increment(tokens);
    }
    let units = u64::try_from(receipt.charge.units()).unwrap_or(u64::MAX);
    metrics::counter!("stoa_router_charged_units_total").increment(units);
}

fn log_end(job: JobId, trace: Option<TraceId>, event: &ClientEvent) {
    let trace_id = trace.map(display);
    match event {
        ClientEvent::Done(done) => {
            let receipt = &done.receipt.receipt;
            count_delivered(done);
            tracing::info!(%job, trace_id, provider = %receipt.provider, input = receipt.input_units, output = receipt.output_units,
                charge = %receipt.charge, ttft_ms = done.ttft_ms, failovers = done.started.failovers, "job delivered");
        }
        ClientEvent::Failed(failure) => {
            let outcome = ApiError::Failed(failure.clone()).row().code;
            metrics::counter!("stoa_router_calls_ended_total", "outcome" => outcome).increment(1);
            tracing::info!(%job, trace_id, cause = %failure.cause, billed = %failure.billed, "job failed");
        }
        ClientEvent::Started(_) | ClientEvent::Delta { .. } | ClientEvent::Complete(_) => {}
    }
}

/// For whoever watches the router; the key's holder reads it in the header `x-stoa-budget-remaining` and at `/v1/stoa/keys/self`.
fn warn_of_spending(alert: &SpendAlert) {
    let SpendAlert {
        key,
        percent,
        spent,
        amount,
    } = alert;
    let key = KeyName(*key);
    metrics::counter!("stoa_router_spend_alerts_total", "percent" => percent.to_string())
        .increment(1);
    tracing::warn!(%key, percent, %spent, limit = %amount, "a key spent this share of its limit");
}

/// Decisions of the router: the newest in memory, all in a file of one JSON object a line (RG-38).
pub struct DecisionLog {
    newest: std::collections::VecDeque<(JobId, Decision)>,
    path: std::path::PathBuf,
    file: std::fs::File,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct DecisionLine {
    job: JobId,
    decision: Decision,
}

impl DecisionLog {
    /// Opens the file, or makes it.
    pub fn open(path: std::path::PathBuf) -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)?;
        Ok(Self {
            newest: std::collections::VecDeque::new(),
            path,
            file,
        })
    }

    fn keep(&mut self, job: JobId, decision: Decision) {
        let line = DecisionLine { job, decision };
        if let Ok(mut bytes) = serde_json::to_vec(&line) {
            bytes.push(b'\n');
            if let Err(error) = std::io::Write::write_all(&mut self.file, &bytes) {
                tracing::warn!(%error, "a decision could not be logged");
            }
        }
        self.newest.push_back((job, line.decision));
        if self.newest.len() > DECISIONS_KEPT {
            self.newest.pop_front();
        }
    }

    /// A decision that is kept in memory, or the file to look for it in.
    fn newest(&self, job: JobId) -> Result<Decision, std::path::PathBuf> {
        let kept = self.newest.iter().rev().find(|(id, _)| *id == job);
        kept.map(|(_, decision)| decision.clone())
            .ok_or_else(|| self.path.clone())
    }

    fn read(path: &std::path::Path, job: JobId) -> Option<Decision> {
        let file = std::fs::File::open(path).ok()?;
        let needle = job.to_string();
        std::io::BufRead::lines(std::io::BufReader::new(file))
            .map_while(Result::ok)
            .filter(|line| line.contains(&needle))
            .find_map(|line| {
                serde_json::from_str::<DecisionLine>(&line)
                    .ok()
                    .filter(|found| found.job == job)
            })
            .map(|found| found.decision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_the_wall_clock_ahead_and_never_goes_back_nor_stands_still() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = SteadyClock::new(Timestamp(1_000_000), start);
        assert_eq!(
            clock.read(Timestamp(1_000_500), at(500)),
            Timestamp(1_000_500)
        );
        // The machine slept for an hour, unseen by the steady clock.
        let woken = Timestamp(1_000_500 + 3_600_000);
        assert_eq!(clock.read(woken, at(501)), woken);
        // Set back by that hour: half the pace.
        assert_eq!(clock.read(Timestamp(1_001_500), at(1_501)).0, woken.0 + 500);
        // Read often, nothing is lost to rounding.
        for ms in 1_502..=3_501 {
            clock.read(Timestamp(1_000_000 + ms), at(ms));
        }
        assert_eq!(
            clock.read(Timestamp(1_003_501), at(3_501)).0,
            woken.0 + 1_500
        );
        // The wall clock has caught up: it leads again.
        let caught_up = Timestamp(woken.0 + 1_600);
        assert_eq!(clock.read(caught_up, at(3_600)), caught_up);
    }
}
