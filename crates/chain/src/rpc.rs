//! A chain behind Ethereum JSON-RPC, for roles that run apart from it and for public networks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use stoa_types::{Address, Digest, Timestamp};
use tokio::time::Instant;

use crate::access::{AccessError, BlockId, ChainAccess, Fees, RawLog, TransactionReceipt};

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often a question is asked again that nobody answered.
const AGAIN: Duration = Duration::from_millis(200);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What is kept of a reason that a server gives.
const REASON_CHARS_MAX: usize = 500;

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum RpcClientError {
    /// Not an address of an HTTP server.
    #[error("`{0}` is not an http:// or https:// URL")]
    Url(String),
    /// The TLS set-up failed.
    #[error("the TLS set-up failed: {0}")]
    Tls(String),
}

/// [`ChainAccess`] over HTTP. Clones share the connections.
#[derive(Clone)]
pub struct Rpc {
    client: reqwest::Client,
    url: reqwest::Url,
    next_id: Arc<AtomicU64>,
    /// How long a question that nobody answers is asked again.
    patience: Duration,
}

impl Rpc {
    /// A client of the server at `url`. Uses no proxy and only the embedded certificate roots.
    pub fn new(url: &str) -> Result<Self, RpcClientError> {
        let parsed = reqwest::Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = parsed.ok_or_else(|| RpcClientError::Url(url.to_owned()))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            // A proxy from the environment would get the calls to 127.0.0.1 as well.
            .no_proxy()
            // A server that answers "elsewhere" is not the one that the operator named.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| RpcClientError::Tls(error.to_string()))?;
        Ok(Self {
            client,
            url,
            next_id: Arc::new(AtomicU64::new(1)),
            patience: Duration::ZERO,
        })
    }

    /// Host and port of the server: what may be told of a URL that holds the operator's key.
    pub fn server(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// All questions may be repeated: the bytes of a transaction count once, however often they are handed over.
    async fn ask(&self, method: &str, params: Value) -> Result<Value, AccessError> {
        let end = Instant::now() + self.patience;
        let mut told = false;
        loop {
            match self.ask_once(method, &params).await {
                Err(error @ AccessError::Unreachable(_)) if Instant::now() < end => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "waiting for the chain");
                    }
                }
                answer => return answer,
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn ask_once(&self, method: &str, params: &Value) -> Result<Value, AccessError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let unreachable =
            |error: reqwest::Error| AccessError::Unreachable(error.without_url().to_string());
        let response = self
            .client
            .post(self.url.clone())
            .json(&request)
            .send()
            .await
            .map_err(unreachable)?;
        if response.status().is_server_error()
            || response.status() == reqwest::StatusCode::TOO_MANY_REQUESTS
        {
            return Err(AccessError::Unreachable(format!(
                "HTTP status {}",
                response.status()
            )));
        }
        let body = read_limited(response).await?;
        let malformed = || AccessError::Malformed {
            what: method.to_owned(),
        };
        let mut answer: Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
        if answer["id"] != id {
            return Err(malformed());
        }
        match answer.get("error").filter(|error| !error.is_null()) {
            Some(error) => Err(refusal(error)),
            None => Ok(answer["result"].take()),
        }
    }

    async fn ask_number(&self, method: &str, params: Value) -> Result<u64, AccessError> {
        let answer = self.ask(method, params).await?;
        number(&answer).ok_or_else(|| AccessError::Malformed {
            what: method.to_owned(),
        })
    }

    async fn ask_bytes(&self, method: &str, params: Value) -> Result<Vec<u8>, AccessError> {
        let answer = self.ask(method, params).await?;
        bytes(&answer).ok_or_else(|| AccessError::Malformed {
            what: method.to_owned(),
        })
    }
}

fn tls() -> Result<rustls::ClientConfig, RpcClientError> {
    // The provider is named here, so that no process-wide one needs to be installed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RpcClientError::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

async fn read_limited(mut response: reqwest::Response) -> Result<Vec<u8>, AccessError> {
    let mut body = Vec::new();
    loop {
        let chunk = response
            .chunk()
            .await
            // The address may hold the operator's key to the server: it is not repeated.
            .map_err(|error| AccessError::Unreachable(error.without_url().to_string()))?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(AccessError::Refused(format!(
                "an answer is longer than {ANSWER_BYTES_MAX} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
}

/// Sorts the errors of the common nodes.
fn refusal(error: &Value) -> AccessError {
    let message = error["message"].as_str().unwrap_or("no reason given");
    let message: String = message.chars().take(REASON_CHARS_MAX).collect();
    let revert = error["data"]
        .as_str()
        .and_then(|data| bytes(&Value::String(data.to_owned())));
    if error["code"] == 3 || (message.contains("revert") && revert.is_some()) {
        return AccessError::Reverted {
            data: revert.unwrap_or_default(),
        };
    }
    let lower = message.to_lowercase();
    if lower.contains("nonce too low") || lower.contains("replacement") {
        AccessError::NonceUsed(message)
    } else if error["code"] == -32603 {
        AccessError::Unreachable(message)
    } else {
        AccessError::Refused(message)
    }
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    hex::decode(value.as_str()?.strip_prefix("0x")?).ok()
}

fn number(value: &Value) -> Option<u64> {
    u64::try_from(wide_number(value)?).ok()
}

fn wide_number(value: &Value) -> Option<u128> {
    let digits = value.as_str()?.strip_prefix("0x")?;
    // `from_str_radix` would also take a sign.
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u128::from_str_radix(digits, 16).ok().filter(|_| plain)
}

fn digest(value: &Value) -> Option<Digest> {
    Some(Digest(bytes(value)?.try_into().ok()?))
}

fn address(value: &Value) -> Option<Address> {
    Some(Address(bytes(value)?.try_into().ok()?))
}

fn hex0x(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn transaction(from: Address, to: Option<Address>, input: &[u8]) -> Value {
    let mut object = json!({ "from": hex0x(&from.0), "input": hex0x(input) });
    if let Some(to) = to {
        object["to"] = Value::String(hex0x(&to.0));
    }
    object
}

fn read_block(value: &Value) -> Option<BlockId> {
    Some(BlockId {
        number: number(&value["number"])?,
        hash: digest(&value["hash"])?,
        parent: digest(&value["parentHash"])?,
        at: Timestamp::from_secs(number(&value["timestamp"])?),
    })
}

fn read_receipt(value: &Value) -> Option<TransactionReceipt> {
    Some(TransactionReceipt {
        hash: digest(&value["transactionHash"])?,
        block: number(&value["blockNumber"])?,
        success: number(&value["status"])? == 1,
        gas_used: number(&value["gasUsed"])?,
        contract: address(&value["contractAddress"]),
        revert_data: bytes(&value["revertReason"]).unwrap_or_default(),
    })
}

fn read_log(value: &Value) -> Option<RawLog> {
    Some(RawLog {
        address: address(&value["address"])?,
        topics: value["topics"]
            .as_array()?
            .iter()
            .map(digest)
            .collect::<Option<_>>()?,
        data: bytes(&value["data"])?,
        block: number(&value["blockNumber"])?,
        block_hash: digest(&value["blockHash"])?,
        transaction: digest(&value["transactionHash"])?,
        log_index: number(&value["logIndex"])?,
    })
}

impl ChainAccess for Rpc {
    fn patiently(&self, patience: Duration) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    async fn chain_id(&self) -> Result<u64, AccessError> {
        self.ask_number("eth_chainId", json!([])).await
    }

    async fn call(
        &self,
        from: Address,
        to: Address,
        input: Vec<u8>,
    ) -> Result<Vec<u8>, AccessError> {
        self.ask_bytes(
            "eth_call",
            json!([transaction(from, Some(to), &input), "latest"]),
        )
        .await
    }

    async fn estimate(
        &self,
        from: Address,
        to: Option<Address>,
        input: Vec<u8>,
    ) -> Result<u64, AccessError> {
        self.ask_number("eth_estimateGas", json!([transaction(from, to, &input)]))
            .await
    }

    async fn fees(&self) -> Result<Fees, AccessError> {
        let price = self.ask_number("eth_gasPrice", json!([])).await?;
        let tip = self
            .ask_number("eth_maxPriorityFeePerGas", json!([]))
            .await?;
        // Twice the price of now outlasts six full blocks of rising base fees.
        Ok(Fees {
            max_fee: u128::from(price) * 2 + u128::from(tip),
            tip: u128::from(tip),
        })
    }

    async fn balance(&self, account: Address) -> Result<u128, AccessError> {
        let method = "eth_getBalance";
        let answer = self.ask(method, json!([hex0x(&account.0), "latest"]));
        wide_number(&answer.await?).ok_or_else(|| AccessError::Malformed {
            what: method.to_owned(),
        })
    }

    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, AccessError> {
        let tag = if pending { "pending" } else { "latest" };
        self.ask_number("eth_getTransactionCount", json!([hex0x(&account.0), tag]))
            .await
    }

    async fn submit(&self, raw: Vec<u8>) -> Result<(), AccessError> {
        match self
            .ask("eth_sendRawTransaction", json!([hex0x(&raw)]))
            .await
        {
            Err(AccessError::Refused(reason))
                if reason.to_lowercase().contains("already known") =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn receipt(
        &self,
        transaction: Digest,
    ) -> Result<Option<TransactionReceipt>, AccessError> {
        let answer = self
            .ask("eth_getTransactionReceipt", json!([hex0x(&transaction.0)]))
            .await?;
        let what = "eth_getTransactionReceipt";
        let receipt = optional(&answer, read_receipt, what)?;
        about(receipt, |receipt| receipt.hash == transaction, what)
    }

    async fn logs(
        &self,
        addresses: Vec<Address>,
        from: u64,
        to: u64,
    ) -> Result<Vec<RawLog>, AccessError> {
        let addresses: Vec<String> = addresses.iter().map(|address| hex0x(&address.0)).collect();
        let filter = json!([{
            "address": addresses, "fromBlock": format!("{from:#x}"), "toBlock": format!("{to:#x}"),
        }]);
        let answer = self.ask("eth_getLogs", filter).await?;
        let logs = answer
            .as_array()
            .and_then(|logs| logs.iter().map(read_log).collect());
        logs.ok_or_else(|| AccessError::Malformed {
            what: "eth_getLogs".to_owned(),
        })
    }

    async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, AccessError> {
        let tag = number.map_or("latest".to_owned(), |number| format!("{number:#x}"));
        let answer = self
            .ask("eth_getBlockByNumber", json!([tag, false]))
            .await?;
        let what = "eth_getBlockByNumber";
        let block = optional(&answer, read_block, what)?;
        about(
            block,
            |block| number.is_none_or(|n| block.number == n),
            what,
        )
    }

    async fn code(&self, account: Address) -> Result<Vec<u8>, AccessError> {
        self.ask_bytes("eth_getCode", json!([hex0x(&account.0), "latest"]))
            .await
    }
}

/// The answer, if it is about what was asked.
fn about<T>(
    answer: Option<T>,
    same: impl Fn(&T) -> bool,
    what: &str,
) -> Result<Option<T>, AccessError> {
    if answer.as_ref().is_none_or(same) {
        return Ok(answer);
    }
    Err(AccessError::Malformed {
        what: what.to_owned(),
    })
}

fn optional<T>(
    answer: &Value,
    read: impl Fn(&Value) -> Option<T>,
    what: &str,
) -> Result<Option<T>, AccessError> {
    if answer.is_null() {
        return Ok(None);
    }
    read(answer)
        .map(Some)
        .ok_or_else(|| AccessError::Malformed {
            what: what.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wei_may_be_more_than_64_bits_and_a_nonce_may_not() {
        let thousand_coins = json!("0x3635c9adc5dea00000");
        assert_eq!(
            wide_number(&thousand_coins),
            Some(1_000_000_000_000_000_000_000)
        );
        assert_eq!(number(&thousand_coins), None);
        assert_eq!(number(&json!("0xff")), Some(255));
        for wrong in [
            "ff",
            "0x",
            "0x-1",
            "0xg",
            "0x100000000000000000000000000000000",
        ] {
            assert_eq!(wide_number(&json!(wrong)), None, "{wrong}");
        }
    }
}
