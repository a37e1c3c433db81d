//! A provider as a process: one loop owns the state machine; the router's link, the backend's threads and the journal of earned
//! receipts feed it and carry out what it wants.

use super::earnings::Earnings;
use super::owed::{Holds, Owed, OwedFolder};
use super::router::now;
use super::traces::JobTraces;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoa_net::{
    IncomingJob, LinkState, MessageSender, NetError, ProviderEndpoint, ProviderStatus,
    RouterAddress,
};
use stoa_nodes::message::{RefusalReason, ToProvider, ToRouter};
use stoa_nodes::provider::{Attempt, Generated, Input, Output, Provider, Shown as Owing, Taken};
use stoa_nodes::work::Work;
use stoa_runtime::{
    Backend, CancelFlag, Cheat, CheatingBackend, Event as Made, Executor, LocalTime, Paced,
    Prepared, ProviderPolicy,
};
use stoa_types::{Address, Digest, JobId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::field::display;

const TICK: Duration = Duration::from_secs(1);

enum Event {
    Input(Box<Input>),
    Job(Box<IncomingJob>),
    Ready {
        attempt: Attempt,
        result: Result<Ready, RefusalReason>,
    },
}

/// A prompt that can be run, and on what.
type Ready = Box<(Arc<dyn Backend>, Prepared)>;

/// Everything a provider's loop needs.
pub struct ProviderParts {
    /// The state machine.
    pub core: Provider,
    /// Its link to the router.
    pub endpoint: Arc<ProviderEndpoint>,
    /// What computes, one for each model.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Threads for it.
    pub executor: Arc<Executor>,
    /// When it takes work.
    pub policy: ProviderPolicy,
    /// Offset of the clock that the policy's windows mean.
    pub utc_offset_minutes: i32,
    /// Its receipts.
    pub earnings: Arc<Earnings>,
    /// What it takes, until both signed a receipt for it.
    pub owed: OwedFolder,
    /// The router's account, for the metrics.
    pub router: Address,
    /// Traces of its jobs.
    pub traces: JobTraces,
    /// Orders that it takes, if it goes away for good then, as a cheat does.
    pub vanishes_after: Option<u32>,
    /// Where it asks what to do with a planter's jobs, if it is a planter's own.
    pub desk: Option<Desk>,
}

/// A planter's word about one of its own jobs.
pub struct PlantOrder {
    /// Which job.
    pub job: JobId,
    /// Whether to answer wrongly; who gets no word answers right.
    pub wrongly: oneshot::Sender<bool>,
}

/// What ties a provider to its planter. It answers wrongly where its planter's customer ordered and the planter says so, and nowhere else.
#[derive(Clone)]
pub struct Desk {
    /// The planter's customer.
    pub customer: Address,
    /// Asks the planter.
    pub orders: mpsc::UnboundedSender<PlantOrder>,
    /// Whether it takes work now.
    pub open: watch::Receiver<bool>,
}

impl Desk {
    /// Asks about one job.
    async fn asks(orders: mpsc::UnboundedSender<PlantOrder>, job: JobId) -> bool {
        let (wrongly, answer) = oneshot::channel();
        let asked = orders.send(PlantOrder { job, wrongly });
        asked.is_ok() && answer.await.unwrap_or(false)
    }
}

/// What a loop shows of itself: its provider's and its router's account are the labels.
struct Shown {
    provider: String,
    router: String,
}

impl Shown {
    fn gauge(&self, name: &'static str) -> metrics::Gauge {
        metrics::gauge!(name, "provider" => self.provider.clone(), "router" => self.router.clone())
    }

    fn job(&self, outcome: &'static str) {
        let (provider, router) = (self.provider.clone(), self.router.clone());
        metrics::counter!("stoa_provider_jobs_total", "provider" => provider, "router" => router, "outcome" => outcome)
            .increment(1);
    }

    fn earned(&self, earnings: &Earnings) {
        let (_, gross) = earnings.total();
        metrics::gauge!("stoa_provider_earned_units", "provider" => self.provider.clone())
            .set(gross.units() as f64);
        metrics::gauge!("stoa_provider_receipts_unkept", "provider" => self.provider.clone())
            .set(earnings.unkept() as f64);
    }
}

/// A running provider. Dropped it ends where it stands: what it holds open is free for who begins again.
pub struct ProviderHandle {
    events: mpsc::UnboundedSender<Event>,
    endpoint: Arc<ProviderEndpoint>,
    /// The loop.
    task: JoinSet<()>,
    /// What brings it jobs and late messages.
    feeders: JoinSet<()>,
}

impl ProviderHandle {
    /// Its router started anew, there.
    pub fn redial(&self, router: &RouterAddress) -> Result<(), NetError> {
        self.endpoint.redial(router)
    }

    /// Whether the router has let it in.
    pub fn is_connected(&self) -> bool {
        matches!(*self.endpoint.state().borrow(), LinkState::Connected { .. })
    }

    /// Takes no new work, lets running work end (up to `patience`), and closes the link.
    pub async fn drain(self, patience: Duration) {
        let _ = self.events.send(Event::Input(Box::new(Input::Drain(true))));
        let (mut task, mut feeders) = (self.task, self.feeders);
        let _ = tokio::time::timeout(patience, task.join_next()).await;
        task.shutdown().await;
        self.endpoint.close().await;
        feeders.shutdown().await;
    }
}

struct Loop {
    core: Provider,
    endpoint: Arc<ProviderEndpoint>,
    backends: Vec<Arc<dyn Backend>>,
    executor: Arc<Executor>,
    policy: ProviderPolicy,
    utc_offset_minutes: i32,
    earnings: Arc<Earnings>,
    owed: OwedFolder,
    /// Whose orders these are.
    router: Address,
    /// Orders that it may still take before it goes away for good, as a cheat does.
    vanishes_after: Option<u32>,
    traces: JobTraces,
    desk: Option<Desk>,
    /// The attempt that is being taken in, if it is at a job of the planter's customer.
    planted: Option<Attempt>,
    shown: Shown,
    events: mpsc::UnboundedSender<Event>,
    streams: HashMap<Attempt, mpsc::UnboundedSender<ToRouter>>,
    prepared: HashMap<Attempt, Ready>,
    flags: HashMap<Attempt, CancelFlag>,
    /// Number of the present connection; 0 while there is none.
    connection: u64,
    draining: bool,
    /// Outside its hours, or without a backend that could work.
    closed: bool,
}

/// Starts the provider's loop.
pub fn start(parts: ProviderParts) -> ProviderHandle {
    let (events, receiver) = mpsc::unbounded_channel();
    let endpoint = parts.endpoint;
    let jobs = endpoint.clone();
    let job_events = events.clone();
    let (mut task, mut feeders) = (JoinSet::new(), JoinSet::new());
    feeders.spawn(async move {
        while let Some(job) = jobs.next_job().await {
            if job_events.send(Event::Job(Box::new(job))).is_err() {
                return;
            }
        }
    });
    let (late, late_events) = (endpoint.clone(), events.clone());
    feeders.spawn(async move {
        while let Some(message) = late.next_late().await {
            if late_events
                .send(Event::Input(Box::new(Input::Router(message))))
                .is_err()
            {
                return;
            }
        }
    });
    let shown = Shown {
        provider: parts.core.account().to_string(),
        router: parts.router.to_string(),
    };
    // Seen before the first link, so that one that never comes is seen too.
    shown.gauge("stoa_provider_link_up").set(0.0);
    shown.gauge("stoa_provider_open").set(1.0);
    let state = Loop {
        core: parts.core,
        shown,
        endpoint: endpoint.clone(),
        backends: parts.backends,
        executor: parts.executor,
        policy: parts.policy,
        utc_offset_minutes: parts.utc_offset_minutes,
        earnings: parts.earnings,
        owed: parts.owed,
        router: parts.router,
        vanishes_after: parts.vanishes_after,
        traces: parts.traces,
        desk: parts.desk,
        planted: None,
        events: events.clone(),
        streams: HashMap::new(),
        prepared: HashMap::new(),
        flags: HashMap::new(),
        connection: 0,
        draining: false,
        closed: false,
    };
    task.spawn(state.run(receiver));
    ProviderHandle {
        events,
        endpoint,
        task,
        feeders,
    }
}

impl Loop {
    async fn run(mut self, mut receiver: mpsc::UnboundedReceiver<Event>) {
        let mut link = self.endpoint.state();
        let mut ticks = tokio::time::interval(TICK);
        let mut door = self.desk.as_ref().map(|desk| desk.open.clone());
        self.window();
        loop {
            tokio::select! {
                () = moved(&mut door) => self.window(),
                event = receiver.recv() => match event {
                    Some(event) => self.event(event),
                    None => return,
                },
                changed = link.changed() => {
                    if changed.is_err() { return }
                    let state = link.borrow_and_update().clone();
                    self.link(&state);
                }
                _ = ticks.tick() => {
                    self.window();
                    self.earnings.retry(Instant::now());
                    self.owed.expire(now());
                    self.shown.earned(&self.earnings);
                    self.handle(Input::Tick);
                }
            }
            if self.draining && self.core.is_idle() {
                return;
            }
            if self.vanishes_after == Some(0) {
                tracing::warn!(account = %self.core.account(), "this provider goes away, as its cheat does");
                return self.endpoint.close().await;
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Input(input) => {
                if let Input::Drain(draining) = *input {
                    self.draining = draining;
                }
                self.handle(*input);
            }
            Event::Job(job) => self.job(*job),
            Event::Ready { attempt, result } => {
                let facts = result
                    .as_ref()
                    .map(|ready| ready.1.facts)
                    .map_err(Clone::clone);
                if let Ok(prepared) = result {
                    self.prepared.insert(attempt, prepared);
                }
                self.handle(Input::Prepared {
                    attempt,
                    result: facts,
                });
                // Cancelled or refused meanwhile: nobody will run it.
                self.prepared.remove(&attempt);
            }
        }
    }

    /// Opens and closes for new work by the operator's windows (RG-6), and by whether anything could work.
    fn window(&mut self) {
        let time = LocalTime::at(now(), self.utc_offset_minutes);
        let faults = self.backends.iter().map(|backend| backend.ready().err());
        // With one backend left, work for the others is refused by name.
        let fault = faults.min_by_key(Option::is_some).flatten();
        let shut = self.desk.as_ref().is_some_and(|desk| !*desk.open.borrow());
        let closed = shut || !self.policy.is_open(time) || fault.is_some();
        if closed != self.closed && !self.draining {
            self.closed = closed;
            let open = if closed { 0.0 } else { 1.0 };
            self.shown.gauge("stoa_provider_open").set(open);
            let minutes = self.policy.minutes_to_change(time).unwrap_or_default();
            let state = if closed { "closed" } else { "open" };
            let fault = fault.unwrap_or_default();
            if self.desk.is_none() {
                tracing::info!(account = %self.core.account(), state, changes_in_minutes = minutes, %fault, "availability");
            }
            self.handle(Input::Drain(closed));
        }
    }

    fn link(&mut self, state: &LinkState) {
        let connection = if let LinkState::Connected { connection, .. } = state {
            *connection
        } else {
            0
        };
        if let LinkState::Waiting { reason, wait } = state {
            tracing::warn!(account = %self.core.account(), %reason, ?wait, "not connected to the router");
        }
        if connection != self.connection {
            // A watcher that was slow may have missed that one link ended before the next began.
            if self.connection != 0 {
                self.handle(Input::Disconnected);
            }
            self.connection = connection;
            let up = if connection == 0 { 0.0 } else { 1.0 };
            self.shown.gauge("stoa_provider_link_up").set(up);
            if connection != 0 {
                self.handle(Input::Connected);
            }
        }
    }

    fn handle(&mut self, input: Input) {
        for output in self.core.handle(input, now()) {
            match output {
                Output::Send(message) => self.send(message),
                Output::Prepare {
                    attempt,
                    work,
                    model_root,
                    account,
                } => self.prepare(attempt, work, (model_root, account)),
                Output::Run(attempt) => self.run_job(attempt),
                Output::Stop(attempt) => {
                    self.prepared.remove(&attempt);
                    if let Some(flag) = self.flags.remove(&attempt) {
                        flag.cancel();
                    }
                }
                Output::Took(taken) => self.took(*taken),
                Output::Owes(shown) => self.owes(*shown),
                Output::Lapsed(order) => {
                    self.owed.forget(order);
                    self.took_enough();
                }
                Output::Earned(receipt) => {
                    let attempt = (receipt.receipt.job_id, receipt.receipt.attempt);
                    self.flags.remove(&attempt);
                    self.earnings.keep(&receipt);
                    self.shown.job("earned");
                    tracing::info!(account = %self.core.account(), job = %attempt.0, charge = %receipt.receipt.charge, "job earned");
                }
                Output::Warn { job, text } => {
                    tracing::warn!(account = %self.core.account(), %job, "{text}");
                }
            }
        }
        self.streams.retain(|_, stream| !stream.is_closed());
        self.traces
            .keep(|attempt| self.streams.contains_key(attempt));
    }

    fn send(&mut self, message: ToRouter) {
        match message {
            // The transport says hello itself, on every connection.
            ToRouter::Hello(_) => {}
            ToRouter::Status {
                free_slots,
                draining,
            } => {
                self.shown
                    .gauge("stoa_provider_slots_free")
                    .set(f64::from(free_slots));
                self.endpoint.set_status(ProviderStatus {
                    free_slots,
                    draining,
                });
            }
            message => {
                self.traces.says(&message);
                match &message {
                    ToRouter::Refused { .. } => self.shown.job("refused"),
                    ToRouter::Failed { .. } => self.shown.job("failed"),
                    _ => {}
                }
                let stream = message
                    .job()
                    .and_then(|attempt| self.streams.get(&attempt))
                    .filter(|stream| !stream.is_closed());
                match stream {
                    Some(stream) => drop(stream.send(message)),
                    // A receipt whose stream is gone is offered again on the control stream.
                    None if matches!(message, ToRouter::Final(_)) => {
                        let endpoint = self.endpoint.clone();
                        tokio::spawn(async move { endpoint.repeat(message).await });
                    }
                    None => {}
                }
            }
        }
    }

    /// It gives its word: what was ordered is kept until there is something to show for it, beside the work and not before it.
    fn took(&self, taken: Taken) {
        let owed = Owed {
            ticket: taken.ticket,
            accepted_at: taken.accepted_at,
            holds: Holds::Work(Box::new(taken.work)),
        };
        self.owed.keep(taken.order, owed);
    }

    /// What there is to show takes the order's place: with it a claim is answered.
    fn owes(&mut self, shown: Owing) {
        let order = shown.receipt.ticket_hash;
        let owed = Owed {
            ticket: shown.ticket,
            accepted_at: shown.receipt.accepted_at,
            holds: Holds::Receipt {
                receipt: Box::new(shown.receipt),
                signature: shown.signature,
            },
        };
        self.owed.keep(order, owed);
        self.took_enough();
    }

    /// One order less until a cheat vanishes.
    fn took_enough(&mut self) {
        self.vanishes_after = self.vanishes_after.map(|orders| orders.saturating_sub(1));
    }

    fn job(&mut self, mut job: IncomingJob) {
        let ticket = &job.dispatch.ticket.ticket;
        let attempt = (ticket.job_id, ticket.attempt);
        let above = job.dispatch.trace.take();
        let trace_id = above.map(|above| display(above.trace));
        tracing::info!(account = %self.core.account(), job = %attempt.0, trace_id, attempt = attempt.1, "job taken");
        self.traces.ordered(attempt, above);
        let customer = self.desk.as_ref().map(|desk| desk.customer);
        self.planted = (customer == Some(ticket.account)).then_some(attempt);
        let (sender, receiver) = mpsc::unbounded_channel();
        self.streams.insert(attempt, sender);
        let (to_router, mut from_router) = job.stream.split();
        let events = self.events.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(message)) = from_router.recv().await {
                let _ = events.send(Event::Input(Box::new(Input::Router(message))));
            }
        });
        tokio::spawn(write_stream(to_router, receiver, reader));
        self.handle(Input::Router(ToProvider::Dispatch(job.dispatch)));
    }

    fn prepare(&mut self, attempt: Attempt, work: Work, (model_root, account): (Digest, Address)) {
        let mut backends = self.backends.iter();
        let backend = backends.find(|backend| backend.facts().model_root == model_root);
        let (executor, backend, events) =
            (self.executor.clone(), backend.cloned(), self.events.clone());
        // What it signs it must be able to keep.
        let has_room = self.owed.has_room(self.router);
        let router = self.router;
        let planted = self.planted.take() == Some(attempt);
        let desk = self.desk.as_ref().filter(|_| planted);
        let orders = desk.map(|desk| desk.orders.clone());
        tokio::spawn(async move {
            let wrongly = match orders {
                Some(orders) => Desk::asks(orders, attempt.0).await,
                None => false,
            };
            let backend = backend.map(|honest| match wrongly {
                true => Arc::new(CheatingBackend::new(honest, plant_cheat(attempt.0))) as _,
                false => honest,
            });
            let result = match backend {
                _ if !has_room => Err(RefusalReason::Busy),
                Some(backend) => {
                    let prepared = executor.prepare(backend.clone(), work).await;
                    prepared.map(|prepared| Box::new((backend, prepared.asked_by(router, account))))
                }
                None => Err(RefusalReason::UnknownModel),
            };
            let _ = events.send(Event::Ready { attempt, result });
        });
    }

    fn run_job(&mut self, attempt: Attempt) {
        let Some(ready) = self.prepared.remove(&attempt) else {
            return;
        };
        let (backend, prepared) = *ready;
        let flag = CancelFlag::new();
        self.flags.insert(attempt, flag.clone());
        self.traces.runs(attempt);
        let made = match self.executor.start(backend, prepared, flag) {
            Ok(made) => made,
            Err(busy) => {
                let event = Generated::Failed {
                    reason: busy.to_string(),
                };
                return drop(
                    self.events
                        .send(Event::Input(Box::new(Input::Generated { attempt, event }))),
                );
            }
        };
        let events = self.events.clone();
        let mut made = Paced::new(made);
        tokio::spawn(async move {
            while let Some(event) = made.next().await {
                let event = match event {
                    Made::Generated(event) => event,
                    Made::Disconnect => Generated::Failed {
                        reason: "the script ends the connection here".to_owned(),
                    },
                };
                let _ = events.send(Event::Input(Box::new(Input::Generated { attempt, event })));
            }
        });
    }
}

/// Waits until a planter's provider is to open or to close; for ever where it is nobody's.
async fn moved(door: &mut Option<watch::Receiver<bool>>) {
    let told = match door {
        Some(open) => open.changed().await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending().await
    }
}

/// What is wrong with a plant: who looks at one thing only must miss some.
fn plant_cheat(job: JobId) -> Cheat {
    if job.0[0].is_multiple_of(2) {
        Cheat::AlterOutput
    } else {
        Cheat::Overcount
    }
}

/// Ends with the last message, or when the router ended its direction: a stream left half open would count against those that
/// the link may carry at once, until no further job could be ordered.
async fn write_stream(
    mut stream: MessageSender<ToRouter>,
    mut messages: mpsc::UnboundedReceiver<ToRouter>,
    mut reader: tokio::task::JoinHandle<()>,
) {
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            _ = &mut reader => None,
        };
        let Some(message) = message else { break };
        let last = matches!(message, ToRouter::Refused { .. } | ToRouter::Failed { .. });
        if let Err(error) = stream.send(&message).await {
            tracing::debug!(%error, "a job's stream to the router broke");
            return;
        }
        if last {
            break;
        }
    }
    let _ = stream.finish().await;
}
