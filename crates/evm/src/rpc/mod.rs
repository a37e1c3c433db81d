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
mod methods;
mod params;
mod ws;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
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
    /// Filters and, per connection, subscriptions that exist at once.
    pub filters_max: usize,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 8 << 20,
            batch_max: 1_000,
            filters_max: 1_024,
        }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub chain: Arc<Chain>,
    pub config: RpcConfig,
    pub filters: Filters,
}

/// The routes: `POST /` for requests and batches, `GET /` upgraded to a WebSocket.
pub fn router(chain: Arc<Chain>, config: RpcConfig) -> Router {
    let limit = DefaultBodyLimit::max(config.body_bytes_max);
    let filters = Filters::new(config.filters_max);
    Router::new()
        .route("/", get(upgrade).post(over_http))
        .layer(limit)
        .layer(CorsLayer::permissive())
        .with_state(Arc::new(Shared {
            chain,
            config,
            filters,
        }))
}

/// Serves until `shutdown` completes, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    chain: Arc<Chain>,
    config: RpcConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(chain, config))
        .with_graceful_shutdown(shutdown)
        .await
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
            other => Self::server(other.to_string()),
        }
    }
}

impl From<LogsError> for RpcError {
    fn from(error: LogsError) -> Self {
        match error {
            LogsError::Store(error) => error.into(),
            LogsError::Range { .. } => Self::invalid_params(error.to_string()),
            LogsError::TooWide { .. } | LogsError::TooMany { .. } => {
                Self::new(-32005, error.to_string())
            }
        }
    }
}

/// The result of a method, or a transaction whose block is being sealed.
pub(crate) enum Outcome {
    Done(Value),
    Sealing(PendingTransaction),
}

/// One answer in the making; `id` is absent for a notification, which gets none.
struct Started {
    id: Option<Value>,
    outcome: Result<Outcome, RpcError>,
}

impl Started {
    async fn finish(self) -> Option<Value> {
        let result = match self.outcome {
            Ok(Outcome::Done(value)) => Ok(value),
            Ok(Outcome::Sealing(pending)) => {
                let hash = pending.hash;
                pending
                    .receipt()
                    .await
                    .map(|_| format::hash(hash))
                    .map_err(RpcError::from)
            }
            Err(error) => Err(error),
        };
        let id = self.id?;
        Some(match result {
            Ok(value) => json!({ "jsonrpc": "2.0", "id": id, "result": value }),
            Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error.into_json() }),
        })
    }
}

fn refusal(error: RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": null, "error": error.into_json() })
}

/// Takes one request of a batch up to the point where it would wait for a block.
fn start(shared: &Shared, request: Value) -> Started {
    let Value::Object(mut request) = request else {
        return Started {
            id: Some(Value::Null),
            outcome: Err(RpcError::invalid_request("a request is a JSON object")),
        };
    };
    let id = request.remove("id");
    let params = request.remove("params").unwrap_or(Value::Null);
    let outcome = match (
        request.get("jsonrpc"),
        request.get("method").and_then(Value::as_str),
    ) {
        (Some(version), Some(method)) if version == "2.0" => {
            methods::dispatch(shared, method, params)
        }
        _ => Err(RpcError::invalid_request(
            "a request has \"jsonrpc\": \"2.0\" and a method name",
        )),
    };
    // A request that cannot be read gets an answer even without an id.
    let unreadable = matches!(&outcome, Err(error) if error.code == -32600);
    Started {
        id: id.or(unreadable.then_some(Value::Null)),
        outcome,
    }
}

/// Answers one request or one batch; `None` when it held notifications only.
pub(crate) async fn answer(shared: &Arc<Shared>, body: Bytes) -> Option<Value> {
    let for_thread = Arc::clone(shared);
    // Reading the file and running the EVM block: not on the threads that serve sockets. All transactions of a batch
    // are taken before any is waited for, so that they share blocks.
    let started = tokio::task::spawn_blocking(move || {
        let shared = &*for_thread;
        let request: Value = serde_json::from_slice(&body)
            .map_err(|error| RpcError::new(-32700, format!("the request is not JSON: {error}")))?;
        match request {
            Value::Array(batch) if batch.is_empty() => {
                Err(RpcError::invalid_request("the batch is empty"))
            }
            Value::Array(batch) if batch.len() > shared.config.batch_max => {
                Err(RpcError::invalid_request(&format!(
                    "the batch has {} requests, the limit is {}",
                    batch.len(),
                    shared.config.batch_max
                )))
            }
            Value::Array(batch) => Ok((
                true,
                batch.into_iter().map(|one| start(shared, one)).collect(),
            )),
            one => Ok((false, vec![start(shared, one)])),
        }
    })
    .await;
    let (is_batch, started): (bool, Vec<Started>) = match started {
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
        (!answers.is_empty()).then_some(Value::Array(answers))
    } else {
        answers.pop()
    }
}

async fn over_http(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match answer(&shared, body).await {
        Some(answer) => (
            [(header::CONTENT_TYPE, "application/json")],
            answer.to_string(),
        )
            .into_response(),
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
