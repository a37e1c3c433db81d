//! A planter as a process: one loop owns the state machine; the chain, its provider and a router's API feed it and carry out what it wants.

use super::audit_watch::AuditWatch;
use super::provider::PlantOrder;
use super::questions::{self, Questions};
use super::records::Records;
use super::router::now;
use super::validator::result_of;
use crate::http::{Api, HttpError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stoa_chain::{AccessError, AuditAccount, ChainAccess, SendError};
use stoa_net::{Answer, AuditClient, Received, Room, Urgency};
use stoa_nodes::audit::Question;
use stoa_nodes::planter::{Input, Output, PlantRecord, Planter};
use stoa_types::{Address, Digest, JobId};
use tokio::sync::{mpsc, oneshot, watch};

/// How often the state machine learns that time passed.
const TICK: Duration = Duration::from_millis(250);
/// How long the router may take to see that the provider takes work.
const OPENING: Duration = Duration::from_millis(100);
/// How often a purchase is tried while the router does not see it.
const TRIES: usize = 10;

/// What a planter asks for.
#[derive(Debug, Clone)]
pub struct Purchases {
    /// Model.
    pub model: String,
    /// Prompts, one after the other.
    pub prompts: Vec<String>,
    /// The one provider that may serve, where it serves nobody else.
    pub only: Option<Address>,
}

impl Purchases {
    /// The body of purchase `n`; `random` chooses what ordinary customers choose, too.
    fn body(&self, n: usize, random: u16) -> Value {
        let prompt = self.prompts.get(n % self.prompts.len().max(1));
        let prompt = prompt.map_or("Hello", String::as_str);
        let tokens = 8 + u32::from(random % 25);
        let mut body = json!({
            "model": self.model, "max_completion_tokens": tokens,
            "messages": [{"role": "user", "content": prompt}],
        });
        if let Some(provider) = self.only {
            body["stoa"] = json!({"providers": {"only": [provider]}});
        }
        body
    }
}

/// Everything a planter's loop needs.
pub struct PlanterParts<C> {
    /// The state machine, recovered.
    pub core: Planter,
    /// The account that may plant.
    pub account: AuditAccount<C>,
    /// What the chain says of audits.
    pub watch: AuditWatch,
    /// Asks routers for their leaf files.
    pub client: Arc<AuditClient>,
    /// The customer's way to the router.
    pub api: Api,
    /// What it buys.
    pub purchases: Purchases,
    /// Its plants.
    pub records: Records<PlantRecord>,
    /// What its provider asks.
    pub orders: mpsc::UnboundedReceiver<PlantOrder>,
    /// Opens and closes its provider, where it serves nobody else.
    pub open: Option<watch::Sender<bool>>,
}

/// A running planter.
pub struct PlanterHandle {
    stop: watch::Sender<bool>,
    /// Whether its customer has bought all its sets.
    task: tokio::task::JoinHandle<bool>,
}

impl PlanterHandle {
    /// Waits for the end: whether its customer has bought all its sets, or the loop failed. Not to be asked again after that.
    pub async fn over(&mut self) -> bool {
        (&mut self.task).await.unwrap_or(false)
    }

    /// Stops. What was promised is on disk and on chain.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

enum Event {
    Input(Input),
    /// A leaf file, and the room that it takes up until it is read.
    Came(Input, Room),
    /// A call was carried out or refused.
    Sent,
    /// A router was asked for the leaf file of a post.
    Asked(Address, u64),
}

struct Loop<C> {
    core: Planter,
    account: Arc<AuditAccount<C>>,
    watch: AuditWatch,
    api: Arc<Api>,
    purchases: Purchases,
    records: Records<PlantRecord>,
    open: Option<Arc<watch::Sender<bool>>>,
    events: mpsc::UnboundedSender<Event>,
    /// Orders of its provider that wait for a word.
    waiting: BTreeMap<JobId, Vec<oneshot::Sender<bool>>>,
    questions: Questions<(Address, u64)>,
    bought: usize,
    /// Whether the log says that purchases fail.
    told: Arc<AtomicBool>,
}

/// Starts the planter's loop.
pub fn start<C: ChainAccess + Clone>(parts: PlanterParts<C>) -> PlanterHandle {
    let (events, receiver) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let state = Loop {
        core: parts.core,
        account: Arc::new(parts.account),
        watch: parts.watch,
        api: Arc::new(parts.api),
        purchases: parts.purchases,
        records: parts.records,
        open: parts.open.map(Arc::new),
        events,
        waiting: BTreeMap::new(),
        questions: Questions::new(parts.client),
        bought: 0,
        told: Arc::default(),
    };
    let task = tokio::spawn(state.run(receiver, parts.orders, stopped));
    PlanterHandle { stop, task }
}

impl<C: ChainAccess + Clone> Loop<C> {
    async fn run(
        mut self,
        receiver: mpsc::UnboundedReceiver<Event>,
        orders: mpsc::UnboundedReceiver<PlantOrder>,
        stopped: watch::Receiver<bool>,
    ) -> bool {
        let over = self.work(receiver, orders, stopped).await;
        self.questions.close().await;
        over
    }

    /// Whether its customer has bought all its sets.
    async fn work(
        &mut self,
        mut receiver: mpsc::UnboundedReceiver<Event>,
        mut orders: mpsc::UnboundedReceiver<PlantOrder>,
        mut stopped: watch::Receiver<bool>,
    ) -> bool {
        let mut changes = self.watch.changes();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.core.is_over() {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return false,
                event = receiver.recv() => match event {
                    Some(Event::Input(input)) => self.handle(input),
                    Some(Event::Came(input, room)) => {
                        self.handle(input);
                        drop(room);
                    }
                    Some(Event::Sent) => self.look(),
                    Some(Event::Asked(router, post)) => self.questions.ended(&(router, post)),
                    None => return false,
                },
                order = orders.recv() => match order {
                    Some(order) => self.ordered(order),
                    None => return false,
                },
                changed = changes.changed() => {
                    if changed.is_err() { return false }
                    self.look();
                }
                _ = ticks.tick() => self.look(),
            }
        }
        true
    }

    /// Shows the state machine what the contracts say now.
    fn look(&mut self) {
        let view = self
            .watch
            .state()
            .plant_view(self.core.account(), self.core.open(), now());
        self.handle(Input::Chain(Box::new(view)));
        metrics::gauge!("stoa_planter_plants_open").set(self.core.open().count() as f64);
    }

    fn ordered(&mut self, order: PlantOrder) {
        let mut salt = [0; 32];
        if let Err(error) = getrandom::fill(&mut salt) {
            // Who gets no word answers right.
            return tracing::warn!(%error, "no random bytes: a job is not planted");
        }
        let (job, salt) = (order.job, Digest(salt));
        self.waiting.entry(job).or_default().push(order.wrongly);
        self.handle(Input::Ordered { job, salt });
    }

    fn handle(&mut self, input: Input) {
        for output in self.core.handle(input, now()) {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Buy => self.buy(),
            Output::Keep(record) => self.keep(record),
            Output::Answer { job, wrongly } => {
                for waits in self.waiting.remove(&job).into_iter().flatten() {
                    // One that is not there any more was ended by its router.
                    let _ = waits.send(wrongly);
                }
            }
            Output::FetchLeaves { router, post } => self.fetch(router, post),
            Output::Commit { .. } | Output::Name { .. } => self.call(output),
            Output::Warn(text) => tracing::warn!("{text}"),
        }
    }

    fn keep(&mut self, record: PlantRecord) {
        let events = self.events.clone();
        let durable = move || {
            if let PlantRecord::Planted(plant) = record {
                let _ = events.send(Event::Input(Input::Durable { job: plant.job }));
            }
        };
        if let Err(error) = self.records.keep(&record, durable) {
            tracing::error!(%error, "a plant is not on disk and is not stored; it is tried again");
        }
    }

    fn call(&mut self, call: Output) {
        let (account, events) = (self.account.clone(), self.events.clone());
        let customer = self.core.account();
        tokio::spawn(async move {
            let (name, sent) = match &call {
                Output::Commit { commitment } => ("plant", account.plant(*commitment).await),
                Output::Name {
                    round,
                    job,
                    salt,
                    signature,
                } => {
                    let hidden = (customer, *salt);
                    let named = account.name_plant(*round, *job, hidden, signature);
                    ("name", named.await)
                }
                _ => return,
            };
            let result = result_of(&sent);
            metrics::counter!("stoa_planter_calls_total", "call" => name, "result" => result)
                .increment(1);
            match sent {
                Ok(_) => tracing::debug!(call = name, "on chain"),
                // Sent twice, or the phase is over.
                Err(
                    error @ (SendError::NotSent(AccessError::Reverted { .. })
                    | SendError::Reverted { .. }),
                ) => tracing::debug!(call = name, %error, "refused by the contract"),
                Err(error) => {
                    tracing::warn!(call = name, %error, "a planter's call failed; it is asked for again where it is still due");
                }
            }
            let _ = events.send(Event::Sent);
        });
    }

    /// Asks a router for the leaf file of a post, where the registry says that it is by then.
    fn fetch(&mut self, router: Address, post: u64) {
        let events = self.events.clone();
        let then = move |answer| {
            match answer {
                Ok(Received {
                    answer: Answer::Leaves(bytes),
                    room,
                }) => {
                    let bytes = bytes.to_vec();
                    let leaves = Input::Leaves {
                        router,
                        post,
                        bytes,
                    };
                    let _ = events.send(Event::Came(leaves, room));
                }
                // It is asked again, and what may stand in the file is named where it does not come.
                Ok(_) => tracing::debug!(%router, post, "a router gives no leaf file"),
                Err(error) => tracing::debug!(%router, post, %error, "a router does not answer"),
            }
            let _ = events.send(Event::Asked(router, post));
        };
        let reached = questions::reached(&self.watch, router);
        let question = (Question::Leaves { post }, Urgency::Now);
        self.questions
            .ask((router, post), router, reached, question, then);
    }

    fn buy(&mut self) {
        let mut random = [0; 2];
        if let Err(error) = getrandom::fill(&mut random) {
            tracing::debug!(%error, "no random bytes: the length of the answer is not random");
        }
        let body = self.purchases.body(self.bought, u16::from_be_bytes(random));
        self.bought += 1;
        let (api, events, open) = (self.api.clone(), self.events.clone(), self.open.clone());
        let (told, customer) = (self.told.clone(), self.core.account());
        tokio::spawn(async move {
            let bought = purchase(&api, &body.to_string(), open.as_deref()).await;
            let said = told.swap(bought.is_err(), Ordering::Relaxed);
            if let (Err(error), false) = (&bought, said) {
                tracing::warn!(%customer, %error, "a planter's purchase failed; it is tried again. Where the key is refused, the router's operator has to let this customer in");
            }
            let answered = bought.is_ok();
            let _ = events.send(Event::Input(Input::Bought { answered }));
        });
    }
}

/// Buys once. Its provider takes work meanwhile; the router learns it a moment later.
async fn purchase(
    api: &Api,
    body: &str,
    open: Option<&watch::Sender<bool>>,
) -> Result<(), HttpError> {
    if let Some(open) = open {
        open.send_replace(true);
    }
    let mut tries = 0;
    let bought = loop {
        tokio::time::sleep(if open.is_some() {
            OPENING
        } else {
            Duration::ZERO
        })
        .await;
        tries += 1;
        match api
            .post::<Value>("/chat/completions", body.to_owned())
            .await
        {
            Err(HttpError::Refused { status: 503, .. }) if open.is_some() && tries < TRIES => {}
            other => break other.map(drop),
        }
    };
    if let Some(open) = open {
        open.send_replace(false);
    }
    bought
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_failed_is_not_taken_for_one_whose_sets_are_bought() {
        let ends: [(fn() -> bool, bool); 3] = [
            (|| true, true),
            (|| false, false),
            (|| panic!("a defect"), false),
        ];
        for (end, expected) in ends {
            let task = tokio::spawn(async move { end() });
            let (stop, _) = watch::channel(false);
            assert_eq!(PlanterHandle { stop, task }.over().await, expected);
        }
    }
}
