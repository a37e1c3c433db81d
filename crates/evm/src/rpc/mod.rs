//! Ethereum JSON-RPC 2.0 over HTTP and WebSocket.
//!
//! The 35 methods that cast, alloy, ethers, viem and MetaMask put on the wire; every other name answers -32601, which
//! those clients take as "not offered" and work around. Batches and cross-origin requests are answered; revert data
//! stands in `error.data` with code 3. `eth_sendRawTransaction` answers once the block is durable, as developer chains
//! do, unless the transaction waits for one with a lower nonce.
//!
//! `latest` and `pending` mean the block being built for calls and estimates, and the newest block for everything
//! else; `safe` and `finalized` are the newest block, because a durable block is final here.

mod filters;
mod format;
mod listen;
mod methods;
mod params;
mod ws;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower_http::cors::CorsLayer;

use crate::chain::{Chain, PendingTransaction};
use crate::error::{CallError, LogsError, StoreError, SubmitError};
use filters::Filters;

/// Limits of the listener.
#[derive(Debug, Clone)]
pub struct RpcConfig {
    /// Bytes of one request body or one WebSocket message.
    pub body_bytes_max: usize,
    /// Requests in one batch.
    pub batch_max: usize,
    /// Filters that exist at once, over all connections.
    pub filters_max: usize,
    /// Bytes of the answers to one batch, after which its remaining requests are refused with -32003.
    pub answer_bytes_max: usize,
    /// How long the requests of one batch may run, after which its remaining ones are refused with -32002.
    pub time_max: Duration,
    /// How long the body of one request may take to arrive.
    pub upload_time_max: Duration,
    /// Connections open at once.
    pub connections_max: usize,
    /// How long a connection may be silent, both ways. WebSockets are pinged three times as often.
    pub silence_max: Duration,
    /// How long open requests may take to finish once the server shuts down.
    pub grace: Duration,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 8 << 20,
            batch_max: 1_000,
            filters_max: 1_024,
            answer_bytes_max: 25_000_000,
            time_max: Duration::from_secs(5),
            upload_time_max: Duration::from_secs(30),
            connections_max: 512,
            silence_max: Duration::from_secs(120),
            grace: Duration::from_secs(5),
        }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub chain: Arc<Chain>,
    pub config: RpcConfig,
    pub filters: Filters,
    /// Requests that may run at once.
    pub turns: Semaphore,
}

/// The routes: `POST /` for requests and batches, `GET /` upgraded to a WebSocket.
pub fn router(chain: Arc<Chain>, config: RpcConfig) -> Router {
    let limit = DefaultBodyLimit::max(config.body_bytes_max);
    let filters = Filters::new(config.filters_max);
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    Router::new()
        .route("/", get(upgrade).post(over_http))
        .layer(limit)
        .layer(CorsLayer::permissive())
        .with_state(Arc::new(Shared {
            chain,
            config,
            filters,
            turns: Semaphore::new(processors.max(4)),
        }))
}

/// Serves until `shutdown` completes, then lets open requests finish for the grace of `config`.
pub async fn serve(
    listener: TcpListener,
    chain: Arc<Chain>,
    config: RpcConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let bounded = listen::Bounded::new(listener, config.connections_max, config.silence_max);
    let grace = config.grace;
    let (stop, mut stopped) = watch::channel(());
    let mut late = stopped.clone();
    let server = axum::serve(bounded, router(chain, config)).with_graceful_shutdown(async move {
        // An error means that the sender is gone: stop as well.
        let _ = stopped.changed().await;
    });
    tokio::spawn(async move {
        shutdown.await;
        stop.send_replace(());
    });
    tokio::select! {
        served = server => served,
        // One that reads or writes a byte now and then must not hold the process.
        () = async {
            let _ = late.changed().await;
            tokio::time::sleep(grace).await;
        } => Ok(()),
    }
}

/// An error object of JSON-RPC.
#[derive(Debug)]
pub(crate) struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    fn invalid_request(message: &str) -> Self {
        Self::new(-32600, message)
    }

    pub(crate) fn server(message: impl Into<String>) -> Self {
        Self::new(-32000, message)
    }

    /// A transaction was rejected (EIP-1474).
    pub(crate) fn rejected(message: impl Into<String>) -> Self {
        Self::new(-32003, message)
    }

    fn into_json(self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = self.data {
            error["data"] = data;
        }
        error
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        Self::new(-32603, error.to_string())
    }
}

impl From<CallError> for RpcError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Store(error) => error.into(),
            // Wallets decode custom errors from the data of code 3.
            CallError::Revert { ref data } => Self {
                data: Some(format::data(data)),
                ..Self::new(3, error.to_string())
            },
            other => Self::server(other.to_string()),
        }
    }
}

impl From<SubmitError> for RpcError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Store(error) => error.into(),
            SubmitError::Decode(error) => Self::invalid_params(error.to_string()),
            other => Self::rejected(other.to_string()),
        }
    }
}

impl From<LogsError> for RpcError {
    fn from(error: LogsError) -> Self {
        match error {
            LogsError::Store(error) => error.into(),
            LogsError::Range { .. } => Self::invalid_params(error.to_string()),
            LogsError::TooWide { .. }
            | LogsError::TooMany { .. }
            | LogsError::TooMuchToRead { .. }
            | LogsError::TooLarge { .. } => Self::new(-32005, error.to_string()),
        }
    }
}

/// The result of a method, or a transaction whose block is being sealed.
pub(crate) enum Outcome {
    Done(Value),
    Sealing(PendingTransaction),
}

/// One answer in the making; without an id it was a notification, which gets none.
enum Started {
    Answered(Option<String>),
    Sealing {
        id: Option<Value>,
        pending: PendingTransaction,
    },
}

impl Started {
    async fn finish(self) -> Option<String> {
        match self {
            Self::Answered(text) => text,
            Self::Sealing { id, pending } => {
                let hash = pending.hash;
                let receipt = pending.receipt().await;
                Some(reply(
                    &id?,
                    receipt.map(|_| format::hash(hash)).map_err(RpcError::from),
                ))
            }
        }
    }
}

fn reply(id: &Value, result: Result<Value, RpcError>) -> String {
    match result {
        Ok(value) => json!({ "jsonrpc": "2.0", "id": id, "result": value }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error.into_json() }),
    }
    .to_string()
}

fn refusal(error: RpcError) -> String {
    reply(&Value::Null, Err(error))
}

/// Takes one request of a batch up to the point where it would wait for a block. With `spent` it is not run but refused.
fn start(shared: &Shared, request: Value, spent: Option<RpcError>) -> Started {
    let Value::Object(mut request) = request else {
        return Started::Answered(Some(refusal(RpcError::invalid_request(
            "a request is a JSON object",
        ))));
    };
    let id = request.remove("id");
    let params = request.remove("params").unwrap_or(Value::Null);
    let method = request.get("method").and_then(Value::as_str);
    let outcome = match (request.get("jsonrpc"), method, spent) {
        (Some(version), Some(_), Some(spent)) if version == "2.0" => Err(spent),
        (Some(version), Some(method), None) if version == "2.0" => {
            methods::dispatch(shared, method, params)
        }
        _ => Err(RpcError::invalid_request(
            "a request has \"jsonrpc\": \"2.0\" and a method name",
        )),
    };
    // A request that cannot be read gets an answer even without an id.
    let unreadable = matches!(&outcome, Err(error) if error.code == -32600);
    let id = id.or(unreadable.then_some(Value::Null));
    let result = match outcome {
        Ok(Outcome::Sealing(pending)) => return Started::Sealing { id, pending },
        Ok(Outcome::Done(value)) => Ok(value),
        Err(error) => Err(error),
    };
    Started::Answered(id.map(|id| reply(&id, result)))
}

/// Starts the requests of a batch in order, until time or room for the answers runs out; the rest is refused.
fn start_all(shared: &Shared, batch: Vec<Value>) -> Vec<Started> {
    let until = Instant::now() + shared.config.time_max;
    let mut room = shared.config.answer_bytes_max;
    let one = |request| {
        let spent = if room == 0 {
            Some(RpcError::new(-32003, "response too large"))
        } else if Instant::now() >= until {
            Some(RpcError::new(-32002, "request timed out"))
        } else {
            None
        };
        let started = start(shared, request, spent);
        if let Started::Answered(Some(text)) = &started {
            room = room.saturating_sub(text.len());
        }
        started
    };
    batch.into_iter().map(one).collect()
}

/// Reads a body and starts what it asks; also says whether it was a batch.
fn start_body(shared: &Shared, body: &[u8]) -> Result<(bool, Vec<Started>), RpcError> {
    let request: Value = serde_json::from_slice(body)
        .map_err(|error| RpcError::new(-32700, format!("the request is not JSON: {error}")))?;
    let max = shared.config.batch_max;
    match request {
        Value::Array(batch) if batch.is_empty() => {
            Err(RpcError::invalid_request("the batch is empty"))
        }
        Value::Array(batch) if batch.len() > max => Err(RpcError::invalid_request(&format!(
            "batch too large: {} requests, the limit is {max}",
            batch.len(),
        ))),
        Value::Array(batch) => Ok((true, start_all(shared, batch))),
        one => Ok((false, start_all(shared, vec![one]))),
    }
}

/// Answers one request or one batch; `None` when it held notifications only.
pub(crate) async fn answer(shared: &Arc<Shared>, body: Bytes) -> Option<String> {
    let for_thread = Arc::clone(shared);
    // More at once than there are processors would only share them, and each holds its parsed body in memory.
    let turn = shared.turns.acquire().await;
    // Reading the file and running the EVM block: not on the threads that serve sockets. All transactions of a batch
    // are taken before any is waited for, so that they share blocks.
    let started = tokio::task::spawn_blocking(move || start_body(&for_thread, &body)).await;
    drop(turn);
    let (is_batch, started) = match started {
        Ok(Ok(started)) => started,
        Ok(Err(error)) => return Some(refusal(error)),
        Err(_) => {
            return Some(refusal(RpcError::new(
                -32603,
                "the request could not be completed",
            )));
        }
    };
    let mut answers = Vec::with_capacity(started.len());
    for one in started {
        answers.extend(one.finish().await);
    }
    if is_batch {
        (!answers.is_empty()).then(|| format!("[{}]", answers.join(",")))
    } else {
        answers.pop()
    }
}

async fn over_http(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let upload = Bytes::from_request(request, &());
    let body = match tokio::time::timeout(shared.config.upload_time_max, upload).await {
        Ok(Ok(body)) => body,
        Ok(Err(rejected)) => return rejected.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    match answer(&shared, body).await {
        Some(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn upgrade(State(shared): State<Arc<Shared>>, upgrade: WebSocketUpgrade) -> Response {
    let limit = shared.config.body_bytes_max;
    upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |socket| ws::run(shared, socket))
}
