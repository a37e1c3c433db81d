//! The JSON-RPC, over a real socket.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256, keccak256};
use common::*;
use serde_json::{Value, json};
use stoa_evm::Chain;
use stoa_evm::rpc::{RpcConfig, serve};
use stoa_evm::tx::{SignedTransaction, Transaction};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

struct Server {
    address: SocketAddr,
    chain: Arc<Chain>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
    _folder: tempfile::TempDir,
}

async fn start() -> Server {
    start_with(small()).await
}

fn small() -> RpcConfig {
    RpcConfig {
        body_bytes_max: 300_000,
        batch_max: 50,
        filters_max: 8,
        ..RpcConfig::default()
    }
}

async fn start_with(config: RpcConfig) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let chain = Arc::new(open(folder.path()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        let _ = stopped.await;
    };
    let serving = tokio::spawn(serve(listener, chain.clone(), config, stopped));
    Server {
        address,
        chain,
        stop: Some(stop),
        serving,
        _folder: folder,
    }
}

impl Server {
    /// One HTTP exchange: status line and headers, body.
    async fn http(&self, head: &str, body: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses the body may close before it has read all of it.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    async fn post(&self, body: &str) -> Value {
        let (head, body) = self
            .http(
                "POST / HTTP/1.1\r\ncontent-type: application/json",
                body.as_bytes(),
            )
            .await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        serde_json::from_str(&body).unwrap()
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let answer = self.post(&request.to_string()).await;
        assert_eq!(
            (&answer["jsonrpc"], &answer["id"]),
            (&json!("2.0"), &json!(7))
        );
        answer
    }

    async fn get(&self, method: &str, params: Value) -> Value {
        let mut answer = self.ask(method, params).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    async fn error(&self, method: &str, params: Value) -> (i64, String) {
        let answer = self.ask(method, params).await;
        let error = &answer["error"];
        (
            error["code"].as_i64().unwrap(),
            error["message"].as_str().unwrap().to_owned(),
        )
    }

    async fn send(&self, signed: &SignedTransaction) -> Value {
        self.get("eth_sendRawTransaction", json!([hex0x(&signed.raw)]))
            .await
    }

    async fn deploy(&self) -> Address {
        let chain = self.chain.clone();
        tokio::task::spawn_blocking(move || deploy_box(&chain))
            .await
            .unwrap()
    }
}

fn hex0x(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

#[tokio::test]
async fn a_wallet_finds_all_it_needs_to_add_the_network_and_send() {
    let server = start().await;
    let id = server.chain.chain_id();
    assert_eq!(
        server.get("eth_chainId", json!([])).await,
        format!("{id:#x}")
    );
    assert_eq!(server.get("net_version", json!([])).await, id.to_string());
    assert_eq!(server.get("net_listening", Value::Null).await, true);
    assert_eq!(server.get("eth_syncing", json!([])).await, false);
    assert_eq!(server.get("eth_accounts", json!([])).await, json!([]));
    assert_eq!(server.get("eth_gasPrice", json!([])).await, "0x0");
    assert_eq!(
        server.get("eth_maxPriorityFeePerGas", json!([])).await,
        "0x0"
    );
    assert_eq!(server.get("eth_blobBaseFee", json!([])).await, "0x1");
    assert!(
        server
            .get("web3_clientVersion", json!([]))
            .await
            .as_str()
            .unwrap()
            .starts_with("stoa/")
    );
    let key = Key::new(1);
    let sender = hex0x(key.address().as_slice());
    assert_eq!(
        server
            .get("eth_getBalance", json!([sender, "latest"]))
            .await,
        "0xf4240"
    );

    let to = hex0x(Key::new(2).address().as_slice());
    let filled = server
        .get(
            "eth_fillTransaction",
            json!([{ "from": sender, "to": to, "value": "0x5" }]),
        )
        .await;
    assert_eq!(filled["tx"]["gas"], "0x5208");
    assert_eq!(filled["tx"]["nonce"], "0x0");
    let mut transaction =
        Transaction::call(id, 0, Key::new(2).address(), Default::default(), 0x5208);
    transaction.value = U256::from(5);
    let signed = key.sign(transaction);
    assert_eq!(server.send(&signed).await, hex0x(signed.hash.as_slice()));
    // The answer came after the block: the receipt is there at once.
    let receipt = server
        .get(
            "eth_getTransactionReceipt",
            json!([hex0x(signed.hash.as_slice())]),
        )
        .await;
    assert_eq!(
        (&receipt["status"], &receipt["blockNumber"]),
        (&json!("0x1"), &json!("0x1"))
    );
    assert_eq!(receipt["contractAddress"], Value::Null);
    assert_eq!(server.get("eth_blockNumber", json!([])).await, "0x1");
    assert_eq!(
        server
            .get("eth_getTransactionCount", json!([sender, "pending"]))
            .await,
        "0x1"
    );
    let found = server
        .get(
            "eth_getTransactionByHash",
            json!([hex0x(signed.hash.as_slice())]),
        )
        .await;
    assert_eq!(
        (&found["from"], &found["value"], &found["type"]),
        (&json!(sender), &json!("0x5"), &json!("0x2"))
    );
    let block = server
        .get("eth_getBlockByNumber", json!(["0x1", true]))
        .await;
    assert_eq!(found["blockTimestamp"], block["timestamp"]);
    assert_eq!(found, block["transactions"][0]);
    let history = server
        .get("eth_feeHistory", json!(["0x5", "latest", [25, 75]]))
        .await;
    assert_eq!(history["oldestBlock"], "0x0");
    assert_eq!(history["baseFeePerGas"].as_array().unwrap().len(), 3);
    assert_eq!(history["reward"], json!([["0x0", "0x0"], ["0x0", "0x0"]]));
    for none in [json!(["0x5", "latest"]), json!(["0x5", "latest", []])] {
        assert_eq!(
            server.get("eth_feeHistory", none).await["reward"],
            json!([])
        );
    }
}

#[tokio::test]
async fn blocks_are_shown_by_number_hash_and_tag() {
    let server = start().await;
    server.deploy().await;
    let block = server
        .get("eth_getBlockByNumber", json!(["latest", true]))
        .await;
    assert_eq!(block["number"], "0x1");
    assert_eq!(block["transactions"].as_array().unwrap().len(), 1);
    let by_hash = server
        .get("eth_getBlockByHash", json!([block["hash"], true]))
        .await;
    assert_eq!(by_hash, block);
    let first = server
        .get("eth_getBlockByNumber", json!(["earliest", false]))
        .await;
    assert_eq!(first["number"], "0x0");
    assert_eq!(block["parentHash"], first["hash"]);
    for tag in ["safe", "finalized", "pending"] {
        assert_eq!(
            server.get("eth_getBlockByNumber", json!([tag, true])).await,
            block,
            "{tag}"
        );
    }
    assert_eq!(
        server
            .get("eth_getBlockByNumber", json!(["0x9", false]))
            .await,
        Value::Null
    );
    assert_eq!(
        server
            .get("eth_getBlockByHash", json!([hex0x(&[9; 32]), false]))
            .await,
        Value::Null
    );
    assert_eq!(
        server
            .get("eth_getBlockTransactionCountByNumber", json!(["0x1"]))
            .await,
        "0x1"
    );
    assert_eq!(
        server
            .get("eth_getBlockTransactionCountByHash", json!([first["hash"]]))
            .await,
        "0x0"
    );
    let receipts = server.get("eth_getBlockReceipts", json!(["0x1"])).await;
    assert_eq!(
        receipts[0]["transactionHash"],
        block["transactions"][0]["hash"]
    );
    assert!(receipts[0]["contractAddress"].is_string());
}

#[tokio::test]
async fn a_revert_carries_its_data_with_code_3() {
    let server = start().await;
    let target = hex0x(server.deploy().await.as_slice());
    let call = json!([{ "to": target, "data": hex0x(&word(0xdead)) }, "latest"]);
    for method in ["eth_call", "eth_estimateGas"] {
        let answer = server.ask(method, call.clone()).await;
        assert_eq!(answer["error"]["code"], 3);
        assert_eq!(answer["error"]["data"], hex0x(&word(0xdead)));
    }
    let (code, message) = server
        .error("eth_call", json!([{ "to": target }, "0x99"]))
        .await;
    assert_eq!((code, message.contains("does not exist")), (-32000, true));
    let ok = server
        .get(
            "eth_call",
            json!([{ "to": target, "input": "0x" }, { "blockNumber": "0x1" }]),
        )
        .await;
    assert_eq!(ok, hex0x(&[0; 32]));
    let list = server
        .get("eth_createAccessList", json!([{ "to": target }]))
        .await;
    assert_eq!(
        list["accessList"][0]["storageKeys"],
        json!([hex0x(&[0; 32])])
    );
    assert!(
        server
            .get("eth_getCode", json!([target]))
            .await
            .as_str()
            .unwrap()
            .len()
            > 100
    );
    let slot = server
        .get("eth_getStorageAt", json!([target, "0x0", "latest"]))
        .await;
    assert_eq!(slot, hex0x(&[0; 32]));
}

#[tokio::test]
async fn errors_have_the_codes_of_the_standard() {
    let server = start().await;
    for unknown in ["anvil_nodeInfo", "eth_getProof", "debug_traceCall", ""] {
        assert_eq!(
            server.error(unknown, json!([])).await.0,
            -32601,
            "{unknown}"
        );
    }
    assert_eq!(server.error("eth_getBalance", json!([])).await.0, -32602);
    assert_eq!(
        server.error("eth_getBalance", json!(["0x12"])).await.0,
        -32602
    );
    assert_eq!(
        server.error("eth_getBalance", json!({ "a": 1 })).await.0,
        -32602
    );
    assert_eq!(
        server
            .error("eth_call", json!([{}, "latest", { "0x0": {} }]))
            .await
            .0,
        -32602
    );
    assert_eq!(
        server
            .error("eth_sendRawTransaction", json!(["0x"]))
            .await
            .0,
        -32602
    );
    assert_eq!(
        server.error("eth_subscribe", json!(["newHeads"])).await.0,
        -32000
    );
    assert_eq!(server.post("{").await["error"]["code"], -32700);
    assert_eq!(server.post("[]").await["error"]["code"], -32600);
    assert_eq!(server.post("[1]").await[0]["error"]["code"], -32600);
    assert_eq!(
        server.post(r#"{"id":1,"method":"eth_chainId"}"#).await["error"]["code"],
        -32600
    );
    let low = {
        let chain = server.chain.clone();
        server.deploy().await;
        set_box(&chain, &Key::new(1), 0, Address::ZERO, 1)
    };
    let (code, message) = server
        .error("eth_sendRawTransaction", json!([hex0x(&low.raw)]))
        .await;
    assert_eq!(
        (code, message.starts_with("nonce too low")),
        (-32003, true),
        "{message}"
    );
    // Libraries tell these apart by their words.
    let sent = set_box(&server.chain, &Key::new(1), 1, Address::ZERO, 1);
    server.send(&sent).await;
    let (code, message) = server
        .error("eth_sendRawTransaction", json!([hex0x(&sent.raw)]))
        .await;
    assert_eq!(
        (code, message.contains("nonce too low: already known")),
        (-32003, true),
        "{message}"
    );
    let id = server.chain.chain_id();
    let transfer = |gas_limit, tip| {
        let to = Key::new(2).address();
        let mut body = Transaction::call(id, 2, to, Default::default(), gas_limit);
        body.max_priority_fee_per_gas = tip;
        hex0x(&Key::new(1).sign(body).raw)
    };
    for (raw, words) in [
        (
            transfer(20_000, 0),
            "intrinsic gas too low: gas 20000, minimum needed 21000",
        ),
        (
            transfer(21_000, 1),
            "max priority fee per gas higher than max fee per gas",
        ),
    ] {
        let (code, message) = server.error("eth_sendRawTransaction", json!([raw])).await;
        assert_eq!((code, message.contains(words)), (-32003, true), "{message}");
    }
    let nobody = hex0x(&[0; 20]);
    let poor = json!([{ "from": nobody, "to": nobody, "value": "0x1" }]);
    let (_, message) = server.error("eth_call", poor).await;
    assert!(
        message.contains("insufficient funds for gas * price + value"),
        "{message}"
    );
}

#[tokio::test]
async fn batches_are_answered_in_order_and_their_transactions_share_blocks() {
    let server = start().await;
    let target = server.deploy().await;
    let mut batch: Vec<Value> = (1..=20)
        .map(|nonce| {
            let raw = hex0x(&set_box(&server.chain, &Key::new(1), nonce, target, nonce).raw);
            json!({ "jsonrpc": "2.0", "id": nonce, "method": "eth_sendRawTransaction", "params": [raw] })
        })
        .collect();
    batch.push(json!({ "jsonrpc": "2.0", "method": "eth_chainId" }));
    batch.push(json!({ "jsonrpc": "2.0", "id": "last", "method": "nope" }));
    let answers = server.post(&Value::Array(batch).to_string()).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 21, "the notification gets no answer");
    for (position, answer) in answers[..20].iter().enumerate() {
        assert_eq!(answer["id"], position + 1);
        assert!(answer["result"].is_string(), "{answer}");
    }
    assert_eq!(
        (&answers[20]["id"], &answers[20]["error"]["code"]),
        (&json!("last"), &json!(-32601))
    );
    assert_eq!(read_box(&server.chain, target, None), U256::from(20));
    assert!(
        server.chain.head().number < 15,
        "{} blocks",
        server.chain.head().number
    );
    let only_notifications = r#"[{"jsonrpc":"2.0","method":"eth_chainId"}]"#;
    let (head, _) = server
        .http("POST / HTTP/1.1", only_notifications.as_bytes())
        .await;
    assert!(head.starts_with("http/1.1 204"), "{head}");
    let too_many = vec![json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" }); 51];
    assert_eq!(
        server.post(&Value::Array(too_many).to_string()).await["error"]["code"],
        -32600
    );
}

#[tokio::test]
async fn browsers_may_ask_and_large_bodies_may_not() {
    let server = start().await;
    let preflight = "OPTIONS / HTTP/1.1\r\norigin: http://wallet.example\r\n\
                     access-control-request-method: POST\r\naccess-control-request-headers: content-type";
    let (head, _) = server.http(preflight, b"").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    assert!(head.contains("access-control-allow-headers: *"), "{head}");
    let (head, _) = server.http("POST / HTTP/1.1", &vec![b' '; 400_000]).await;
    assert!(head.starts_with("http/1.1 413"), "{head}");
}

#[tokio::test]
async fn logs_and_filters_report_events_once() {
    let server = start().await;
    let target = server.deploy().await;
    let address = hex0x(target.as_slice());
    let topic = hex0x(B256::from(U256::from(1)).as_slice());
    let logs = server
        .get(
            "eth_newFilter",
            json!([{ "address": address, "topics": [[topic]] }]),
        )
        .await;
    let bounded = server
        .get(
            "eth_newFilter",
            json!([{ "address": address, "fromBlock": "0x0", "toBlock": "0x2" }]),
        )
        .await;
    let blocks = server.get("eth_newBlockFilter", json!([])).await;
    for nonce in 1..=3 {
        server
            .send(&set_box(&server.chain, &Key::new(1), nonce, target, nonce))
            .await;
    }
    let changes = server.get("eth_getFilterChanges", json!([logs])).await;
    assert_eq!(changes.as_array().unwrap().len(), 3);
    assert_eq!(changes[0]["topics"], json!([topic]));
    assert_eq!(changes[2]["data"], hex0x(&word(3)));
    assert_eq!(
        server.get("eth_getFilterChanges", json!([logs])).await,
        json!([])
    );
    assert_eq!(
        server.get("eth_getFilterLogs", json!([logs])).await,
        changes
    );
    assert_eq!(
        server
            .get("eth_getFilterChanges", json!([bounded]))
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        server
            .get("eth_getFilterChanges", json!([blocks]))
            .await
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let all = server
        .get(
            "eth_getLogs",
            json!([{ "fromBlock": "earliest", "address": [address], "topics": [null] }]),
        )
        .await;
    assert_eq!(all, changes, "null stands for any topic");
    assert_eq!(server.get("eth_uninstallFilter", json!([logs])).await, true);
    assert_eq!(
        server.get("eth_uninstallFilter", json!([logs])).await,
        false
    );
    assert_eq!(
        server.error("eth_getFilterChanges", json!([logs])).await.0,
        -32000
    );
    let by_hash = server
        .get(
            "eth_getLogs",
            json!([{ "blockHash": changes[1]["blockHash"] }]),
        )
        .await;
    assert_eq!(by_hash, json!([changes[1]]));
    let backwards = json!([{ "fromBlock": "0x3", "toBlock": "0x2" }]);
    assert_eq!(server.error("eth_getLogs", backwards).await.0, -32602);
    for _ in 0..20 {
        server.ask("eth_newBlockFilter", json!([])).await;
    }
    assert_eq!(
        server.error("eth_newBlockFilter", json!([])).await.0,
        -32000,
        "the number of filters is limited"
    );
}

#[tokio::test]
async fn a_transaction_ahead_of_its_turn_is_answered_at_once_and_shown_as_pending() {
    let server = start().await;
    let key = Key::new(2);
    let second = set_box(&server.chain, &key, 1, Address::ZERO, 1);
    let hash = server.send(&second).await;
    let found = server.get("eth_getTransactionByHash", json!([hash])).await;
    assert_eq!(
        (&found["blockNumber"], &found["nonce"]),
        (&Value::Null, &json!("0x1"))
    );
    assert_eq!(
        server.get("eth_getTransactionReceipt", json!([hash])).await,
        Value::Null
    );
    server
        .send(&set_box(&server.chain, &key, 0, Address::ZERO, 1))
        .await;
    while server.get("eth_getTransactionReceipt", json!([hash])).await == Value::Null {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(keccak256(&second.raw), second.hash);
}

/// A client's WebSocket frame, masked with zeros.
fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [
        &[0x81, 0xfe, length[0], length[1], 0, 0, 0, 0],
        text.as_bytes(),
    ]
    .concat()
}

async fn read_frame(stream: &mut TcpStream) -> Value {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[0], 0x81, "a whole text frame");
    let length = match head[1] {
        126 => usize::from(stream.read_u16().await.unwrap()),
        short => usize::from(short),
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_websocket_answers_methods_and_pushes_heads_and_logs() {
    let server = start().await;
    let target = server.deploy().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    let mut ask = async |request: &str| {
        stream.write_all(&frame(request)).await.unwrap();
        read_frame(&mut stream).await
    };
    let id = ask(r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#).await;
    assert_eq!(id["result"], format!("{:#x}", server.chain.chain_id()));
    let heads =
        ask(r#"{"jsonrpc":"2.0","id":2,"method":"eth_subscribe","params":["newHeads"]}"#).await;
    let subscribe = json!({
        "jsonrpc": "2.0", "id": 3, "method": "eth_subscribe",
        "params": ["logs", { "address": hex0x(target.as_slice()) }],
    });
    let logs = ask(&subscribe.to_string()).await;
    assert_eq!(
        (&heads["result"], &logs["result"]),
        (&json!("0x1"), &json!("0x2"))
    );
    server
        .send(&set_box(&server.chain, &Key::new(1), 1, target, 5))
        .await;
    let first = read_frame(&mut stream).await;
    assert_eq!(first["params"]["subscription"], "0x1");
    assert_eq!(first["params"]["result"]["number"], "0x2");
    let second = read_frame(&mut stream).await;
    assert_eq!(second["params"]["subscription"], "0x2");
    assert_eq!(second["params"]["result"]["data"], hex0x(&word(5)));
    stream
        .write_all(&frame(
            r#"{"jsonrpc":"2.0","id":4,"method":"eth_unsubscribe","params":["0x1"]}"#,
        ))
        .await
        .unwrap();
    assert_eq!(read_frame(&mut stream).await["result"], true);
}

fn many(request: &Value, count: usize) -> String {
    Value::Array(vec![request.clone(); count]).to_string()
}

#[tokio::test]
async fn a_batch_whose_answers_grow_too_large_is_cut_off_by_name() {
    let server = start_with(RpcConfig {
        answer_bytes_max: 10_000,
        ..small()
    })
    .await;
    let block = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["latest", true] });
    let answers = server.post(&many(&block, 50)).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 50, "each request gets its answer");
    let given = answers.iter().take_while(|a| a["result"].is_object());
    let given = given.count();
    assert!(
        (1..12).contains(&given),
        "{given} blocks of about 1,700 bytes"
    );
    for answer in &answers[given..] {
        assert_eq!(answer["error"]["code"], -32003, "{answer}");
    }
}

#[tokio::test]
async fn a_batch_that_runs_too_long_is_cut_off_and_the_rest_is_not_run() {
    let server = start_with(RpcConfig {
        time_max: Duration::ZERO,
        ..small()
    })
    .await;
    let raw = hex0x(&set_box(&server.chain, &Key::new(1), 0, Address::ZERO, 1).raw);
    let error = server.error("eth_sendRawTransaction", json!([raw])).await;
    assert_eq!(error, (-32002, "request timed out".to_owned()));
    let nonce = server.chain.pending_nonce(Key::new(1).address()).unwrap();
    assert_eq!((nonce, server.chain.head().number), (0, 0));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let server = start_with(RpcConfig {
        upload_time_max: Duration::from_millis(200),
        ..small()
    })
    .await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    let mut head = [0; 12];
    timeout(Duration::from_secs(10), stream.read_exact(&mut head))
        .await
        .expect("an answer comes")
        .unwrap();
    assert_eq!(&head, b"HTTP/1.1 408");
}

#[tokio::test]
async fn silent_connections_give_their_places_back() {
    let silence_max = Duration::from_millis(700);
    let server = start_with(RpcConfig {
        connections_max: 3,
        silence_max,
        ..small()
    })
    .await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"POST / HT").await.unwrap();
        silent.push(stream);
    }
    // All places are taken: this one waits for one of them.
    let id = timeout(
        Duration::from_secs(20),
        server.get("eth_chainId", json!([])),
    );
    assert!(id.await.expect("it is served in the end").is_string());
    assert!(begun.elapsed() >= silence_max, "{:?}", begun.elapsed());
    for mut stream in silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}

#[tokio::test]
async fn a_stalled_client_does_not_hold_up_the_end() {
    let mut server = start_with(RpcConfig {
        grace: Duration::from_millis(100),
        ..small()
    })
    .await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST / HT").await.unwrap();
    server.get("eth_chainId", json!([])).await;
    server.stop.take().unwrap().send(()).unwrap();
    timeout(Duration::from_secs(10), &mut server.serving)
        .await
        .expect("serving ends")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_filter_is_not_found_by_counting() {
    let server = start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = server.get("eth_newBlockFilter", json!([])).await;
        let id = id.as_str().unwrap().trim_start_matches("0x").to_owned();
        ids.push(u64::from_str_radix(&id, 16).unwrap());
    }
    for guess in (0..64).chain(ids.iter().map(|id| id.wrapping_add(1))) {
        let guess = json!([format!("{guess:#x}")]);
        assert_eq!(server.get("eth_uninstallFilter", guess).await, false);
    }
    for id in ids {
        let id = json!([format!("{id:#x}")]);
        assert_eq!(server.get("eth_uninstallFilter", id).await, true);
    }
}
