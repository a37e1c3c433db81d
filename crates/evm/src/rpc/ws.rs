//! WebSocket: the same methods, and subscriptions to new blocks and logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use serde_json::{Value, json};

use super::params::{self, Params};
use super::{RpcError, Shared, answer, format};
use crate::logs::LogFilter;

/// Subscriptions of one connection.
const SUBSCRIPTIONS_MAX: usize = 64;
/// The longest message that can be a subscription: a filter with all the values that one may name.
const SUBSCRIBE_BYTES_MAX: usize = 128 << 10;

enum Subscription {
    Heads,
    Logs(LogFilter),
}

#[derive(Default)]
struct Subscriptions {
    next_id: u64,
    open: BTreeMap<u64, Subscription>,
}

/// Serves one connection until it ends.
pub(crate) async fn run(shared: Arc<Shared>, mut socket: WebSocket) {
    let mut head = shared.chain.watch_head();
    let mut reported = shared.chain.head().number;
    let mut subscriptions = Subscriptions::default();
    // The answers show that the other side is still there, and keep the connection from being silent.
    let mut ping =
        tokio::time::interval((shared.config.silence_max / 3).max(Duration::from_millis(1)));
    ping.reset();
    loop {
        let sent = tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    reply(&shared, &mut subscriptions, text.into(), &mut socket).await
                }
                Some(Ok(Message::Binary(body))) => reply(&shared, &mut subscriptions, body, &mut socket).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            changed = head.changed() => {
                if changed.is_err() {
                    return;
                }
                let newest = head.borrow_and_update().number;
                // Blocks may have come faster than they were sent: each is read by its number, none is lost.
                let from = std::mem::replace(&mut reported, newest) + 1;
                notify(&shared, &subscriptions, from, newest, &mut socket).await
            }
            _ = ping.tick() => socket.send(Message::Ping(Bytes::new())).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn reply(
    shared: &Arc<Shared>,
    subscriptions: &mut Subscriptions,
    body: Bytes,
    socket: &mut WebSocket,
) -> Result<(), axum::Error> {
    let answer = match subscriptions.take(&body) {
        Some(answer) => Some(answer.to_string()),
        None => answer(shared, body).await,
    };
    match answer {
        Some(answer) => socket.send(Message::Text(answer.into())).await,
        None => Ok(()),
    }
}

impl Subscriptions {
    /// Answers the two methods that belong to the connection; `None` for everything else.
    fn take(&mut self, body: &[u8]) -> Option<Value> {
        if body.len() > SUBSCRIBE_BYTES_MAX {
            return None;
        }
        let request: Value = serde_json::from_slice(body).ok()?;
        let result = match request.get("method")?.as_str()? {
            "eth_subscribe" => self.add(request.get("params").cloned().unwrap_or_default()),
            "eth_unsubscribe" => self.remove(request.get("params").cloned().unwrap_or_default()),
            _ => return None,
        };
        let id = request.get("id").cloned().unwrap_or_default();
        Some(match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error.into_json() }),
        })
    }

    fn add(&mut self, params: Value) -> Result<Value, RpcError> {
        let params = Params::new(params)?;
        let subscription = match params.need(0, "what")?.as_str() {
            Some("newHeads") => Subscription::Heads,
            Some("logs") => {
                let none = Value::Object(Default::default());
                Subscription::Logs(params::log_criteria(params::object(
                    params.get(1).unwrap_or(&none),
                )?)?)
            }
            _ => {
                return Err(RpcError::invalid_params(
                    "newHeads and logs can be subscribed to",
                ));
            }
        };
        if self.open.len() >= SUBSCRIPTIONS_MAX {
            return Err(RpcError::server(format!(
                "{SUBSCRIPTIONS_MAX} subscriptions are open, the limit"
            )));
        }
        self.next_id += 1;
        self.open.insert(self.next_id, subscription);
        Ok(format::quantity(self.next_id))
    }

    fn remove(&mut self, params: Value) -> Result<Value, RpcError> {
        let id = Params::new(params)?.number(0, "subscription id")?;
        Ok(Value::Bool(self.open.remove(&id).is_some()))
    }
}

async fn notify(
    shared: &Arc<Shared>,
    subscriptions: &Subscriptions,
    from: u64,
    to: u64,
    socket: &mut WebSocket,
) -> Result<(), axum::Error> {
    if subscriptions.open.is_empty() {
        return Ok(());
    }
    for number in from..=to {
        let shared = Arc::clone(shared);
        let read = tokio::task::spawn_blocking(move || {
            let block = shared.chain.block(number)?;
            Ok::<_, crate::StoreError>(block.zip(shared.chain.block_receipts(number)?))
        });
        let Ok(Ok(Some(((header, hash), receipts)))) = read.await else {
            // Closing tells the client that it missed something; going on would not.
            tracing::warn!(
                number,
                "a block could not be read for a subscription; its connection is closed"
            );
            return Err(axum::Error::new("a block could not be read"));
        };
        for (id, subscription) in &subscriptions.open {
            let results: Vec<Value> = match subscription {
                Subscription::Heads => vec![format::header(&header, hash)],
                Subscription::Logs(filter) => receipts
                    .iter()
                    .flat_map(|receipt| receipt.log_entries().collect::<Vec<_>>())
                    .filter(|entry| filter.matches(&entry.log))
                    .map(|entry| format::log(&entry))
                    .collect(),
            };
            for result in results {
                let params = json!({ "subscription": format::quantity(*id), "result": result });
                let message =
                    json!({ "jsonrpc": "2.0", "method": "eth_subscription", "params": params });
                socket
                    .send(Message::Text(message.to_string().into()))
                    .await?;
            }
        }
    }
    Ok(())
}
