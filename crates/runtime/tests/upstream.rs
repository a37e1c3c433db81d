//! The upstream backend against stand-ins: small servers written here after what vLLM, SGLang, TGI and llama.cpp's server send. The
//! real llama.cpp is met in `cargo xtask e2e`; the others are not.

use serde_json::{Value, json};
use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::provider::{Counted, Generated};
use stoa_nodes::work::{AnswerShape, Input, Prompt, Work};
use stoa_runtime::{
    Backend, CancelFlag, Event, Executor, Generation, Piece, RunError, ServerKind, UpstreamBackend,
    UpstreamError, UpstreamFault, UpstreamOptions,
};
use stoa_types::{Digest, FinishReason, Q16, SamplingParameters, Tier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One answer: status, content type, and the body in pieces, each with a pause before it.
#[derive(Clone, Default)]
struct Reply {
    status: u16,
    kind: &'static str,
    pieces: Vec<(u64, Vec<u8>)>,
    /// Breaks off instead of ending: the body is announced as longer than it is.
    broken: bool,
}

fn json_reply(status: u16, body: &Value) -> Reply {
    Reply {
        status,
        kind: "application/json",
        pieces: vec![(0, body.to_string().into_bytes())],
        broken: false,
    }
}

fn stream_reply(events: &[&str]) -> Reply {
    let event = |event: &&str| (0, format!("data: {event}\n\n").into_bytes());
    Reply {
        status: 200,
        kind: "text/event-stream; charset=utf-8",
        pieces: events.iter().map(event).collect(),
        broken: false,
    }
}

type Handler = dyn Fn(&str, &Value) -> Reply + Send + Sync;

/// A stand-in for a server, on a port of its own.
struct StandIn {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// Connections on which the client went away in mid-answer.
    left: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StandIn {
    async fn start(handler: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), handler).await
    }

    async fn at(
        address: SocketAddr,
        handler: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (asked, left) = (Arc::default(), Arc::default());
        let (seen, gone) = (Arc::clone(&asked), Arc::clone(&left));
        let handler: Arc<Handler> = Arc::new(handler);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, seen, gone) = (handler.clone(), Arc::clone(&seen), Arc::clone(&gone));
                tokio::spawn(serve(stream, handler, seen, gone));
            }
        });
        Self {
            address,
            asked,
            left,
            task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Bodies that were sent to a route.
    fn bodies(&self, route: &str) -> Vec<Value> {
        let asked = self.asked.lock().expect("not poisoned");
        let of_route = asked.iter().filter(|(to, _)| to == route);
        of_route.map(|(_, body)| body.clone()).collect()
    }

    async fn backend(&self) -> UpstreamBackend {
        self.connect(|_| {}).await.expect("usable")
    }

    async fn connect(
        &self,
        change: impl FnOnce(&mut UpstreamOptions),
    ) -> Result<UpstreamBackend, UpstreamError> {
        let mut options = UpstreamOptions::new(self.url());
        options.timeouts.first_event = Duration::from_millis(400);
        options.timeouts.silence = Duration::from_millis(200);
        change(&mut options);
        UpstreamBackend::connect(options).await
    }
}

async fn serve(
    mut stream: TcpStream,
    handler: Arc<Handler>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    left: Arc<AtomicUsize>,
) {
    let mut request = Vec::new();
    let (route, body) = loop {
        let mut buffer = [0; 4096];
        let Ok(count @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        request.extend_from_slice(&buffer[..count]);
        if let Some(whole) = parse(&request) {
            break whole;
        }
    };
    let reply = handler(&route, &body);
    asked.lock().expect("not poisoned").push((route, body));
    let encoding = if reply.broken {
        "content-length: 1000000\r\n"
    } else {
        ""
    };
    let head = format!(
        "HTTP/1.1 {} X\r\ncontent-type: {}\r\n{encoding}connection: close\r\n\r\n",
        reply.status, reply.kind
    );
    let (mut reader, mut writer) = stream.into_split();
    let writing = async {
        writer.write_all(head.as_bytes()).await?;
        for (pause, piece) in &reply.pieces {
            tokio::time::sleep(Duration::from_millis(*pause)).await;
            writer.write_all(piece).await?;
        }
        writer.shutdown().await
    };
    let mut end = [0; 1];
    tokio::select! {
        _ = writing => {}
        // The client sends nothing more: this ends when it closes.
        _ = reader.read(&mut end) => { left.fetch_add(1, Ordering::SeqCst); }
    }
}

/// Route and body, once all of a request is there.
fn parse(request: &[u8]) -> Option<(String, Value)> {
    let end = request.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let route = head.split(' ').nth(1)?.to_owned();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0usize);
    let body = request.get(end + 4..end + 4 + length)?;
    Some((route, serde_json::from_slice(body).unwrap_or_default()))
}

const FIRST: &str = r#"{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":"He"},"finish_reason":null}]}"#;
const SECOND: &str =
    r#"{"id":"a","choices":[{"index":0,"delta":{"content":"llo"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"id":"a","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
const DONE: &str = "[DONE]";
const WHOLE: &[&str] = &[FIRST, SECOND, STOP, USAGE, DONE];

/// Only what OpenAI's protocol itself says, with this answer to everything.
async fn plain(answer: Reply) -> StandIn {
    StandIn::start(move |route, _| match route {
        "/v1/models" => json_reply(200, &json!({"data":[{"id":"m"}]})),
        "/v1/chat/completions" | "/v1/completions" => answer.clone(),
        _ => json_reply(404, &json!({})),
    })
    .await
}

fn work(most: u32) -> Work {
    Work {
        prompt: Prompt::Chat {
            messages: r#"[{"role":"user","content":"Hello"}]"#.to_owned(),
            tools: "[]".to_owned(),
            arguments: String::new(),
        },
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 1,
            max_output_tokens: most,
            stop: Vec::new(),
            ..SamplingParameters::default()
        },
        answer: AnswerShape::Any,
    }
}

/// What a job brought.
#[derive(Debug, Default, PartialEq)]
struct Told {
    ids: Vec<u32>,
    text: String,
    /// Counts, each with the units that had been handed on before it.
    counted: Vec<(usize, Counted)>,
}

async fn run(backend: &UpstreamBackend, work: Work) -> (Told, Result<Generation, RunError>) {
    run_until(backend, work, CancelFlag::new()).await
}

async fn run_until(
    backend: &UpstreamBackend,
    work: Work,
    cancel: CancelFlag,
) -> (Told, Result<Generation, RunError>) {
    let backend = backend.clone();
    let ran = tokio::task::spawn_blocking(move || {
        let mut told = Told::default();
        let (mut counted, units) = (Vec::new(), Cell::new(0));
        let prepared = backend.prepare(&work).expect("taken");
        let mut emit = |piece: Piece| {
            told.ids.extend(piece.tokens);
            units.set(told.ids.len());
            told.text.push_str(&piece.text);
            ControlFlow::Continue(())
        };
        let mut count = |now| counted.push((units.get(), now));
        let result = backend.run_counted(&prepared, &cancel, &mut emit, &mut count);
        told.counted = counted;
        (told, result)
    });
    ran.await.expect("no panic")
}

fn fault(result: Result<Generation, RunError>) -> UpstreamFault {
    match result {
        Err(RunError::Upstream(fault)) => fault,
        other => panic!("no fault of the upstream: {other:?}"),
    }
}

fn server(kind: ServerKind) -> impl Fn(&str, &Value) -> Reply + Send + Sync {
    move |route, _| {
        let model = match kind {
            ServerKind::LlamaCpp => {
                json!({"id":"/models/a.Q8_0.gguf","owned_by":"llamacpp","meta":{"n_ctx_train":8192,"ftype":"Q8_0"}})
            }
            ServerKind::Vllm => json!({"id":"org/a","owned_by":"vllm","max_model_len":4096}),
            ServerKind::Sglang => json!({"id":"org/a","owned_by":"sglang","max_model_len":4096}),
            ServerKind::Tgi => json!({"id":"org/a","owned_by":"org/a"}),
            ServerKind::Other => json!({"id":"a","owned_by":"somebody"}),
        };
        let ok = |body: Value| json_reply(200, &body);
        match (kind, route) {
            (_, "/v1/models") => ok(json!({"object":"list","data":[model]})),
            (ServerKind::LlamaCpp, "/props") => ok(
                json!({"default_generation_settings":{"n_ctx":2048},"total_slots":3,"build_info":"b9999"}),
            ),
            (ServerKind::Sglang, "/get_server_info") => ok(
                json!({"version":"0.5.23","model_path":"org/a","context_length":2048,"max_running_requests":9,"dtype":"bfloat16"}),
            ),
            (ServerKind::Tgi, "/info") => ok(
                json!({"model_id":"org/a","max_total_tokens":2048,"max_concurrent_requests":128,"version":"3.3.0","router":"text-generation-router","model_dtype":"float16"}),
            ),
            (ServerKind::Vllm, "/version") => ok(json!({"version":"0.11.0"})),
            (kind, "/health") if kind != ServerKind::Other => ok(json!({})),
            (ServerKind::Vllm | ServerKind::Sglang, "/v1/chat/completions") => stream_reply(&[
                r#"{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":{"prompt_tokens":5,"completion_tokens":0}}"#,
                r#"{"id":"a","choices":[{"index":0,"delta":{"content":"Hello"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
                r#"{"id":"a","choices":[{"index":0,"delta":{"content":"!"},"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":3}}"#,
                r#"{"id":"a","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}"#,
                DONE,
            ]),
            (ServerKind::LlamaCpp, "/v1/chat/completions") => stream_reply(&[
                r#"{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}"#,
                r#"{"id":"a","choices":[{"index":0,"delta":{"content":"Hello"}}],"timings":{"cache_n":4,"prompt_n":1,"predicted_n":2}}"#,
                r#"{"id":"a","choices":[{"index":0,"delta":{"content":"!"}}],"timings":{"cache_n":4,"prompt_n":1,"predicted_n":3}}"#,
                r#"{"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#,
                r#"{"id":"a","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3},"timings":{"predicted_n":3}}"#,
                DONE,
            ]),
            (_, "/v1/chat/completions") => stream_reply(&[
                r#"{"id":"","choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"}}]}"#,
                r#"{"id":"","choices":[{"index":0,"delta":{"content":"!"},"finish_reason":"length"}],"usage":null}"#,
                r#"{"id":"","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}"#,
                DONE,
            ]),
            _ => json_reply(404, &json!({"error":{"message":"Not Found"}})),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_server_is_recognised_and_asked_in_its_own_words() {
    let mut digests = Vec::new();
    for (kind, context, slots, units) in [
        (ServerKind::LlamaCpp, 2048, 3, vec![5, 0, 1]),
        (ServerKind::Vllm, 4096, 64, vec![5, 0, 1]),
        (ServerKind::Sglang, 2048, 9, vec![5, 0, 1]),
        (ServerKind::Tgi, 2048, 128, vec![5, 1]),
        (ServerKind::Other, 4096, 64, vec![5, 1]),
    ] {
        let stand_in = StandIn::start(server(kind)).await;
        let backend = stand_in.backend().await;
        let (info, facts) = (backend.info(), backend.facts());
        assert_eq!(info.kind, kind);
        assert_eq!(
            (facts.context, info.concurrency),
            (context, slots),
            "{kind:?}"
        );
        assert_eq!(info.context_known, kind != ServerKind::Other);
        assert_eq!(info.version.is_some(), kind != ServerKind::Other);
        assert_eq!((facts.tier, facts.model_root), (Tier::None, Digest::ZERO));
        assert!(!facts.model.contains("models/"), "no path of the operator");
        assert!(!digests.contains(&facts.runtime_digest), "names the server");
        digests.push(facts.runtime_digest);

        let (told, end) = run(&backend, work(9)).await;
        assert_eq!(end.expect("whole").finish_reason, FinishReason::Length);
        assert_eq!(
            (told.text.as_str(), &told.ids),
            ("Hello!", &units),
            "{kind:?}"
        );
        // Two units are seen of the three that a server without running counts names: the smaller number is billed.
        let last = Counted {
            input_units: 5,
            output_units: Some(units.len() as u64),
        };
        assert_eq!(told.counted.last(), Some(&(units.len(), last)));
        let early = |(before, c): &(usize, Counted)| *before < 2 && c.input_units == 5;
        let counts_early = told.counted.iter().any(early);
        assert_eq!(
            counts_early,
            units.len() == 3,
            "{kind:?}: {:?}",
            told.counted
        );
        let asked = &stand_in.bodies("/v1/chat/completions")[0];
        assert_eq!(asked["stream_options"]["include_usage"], true);
        assert_eq!(asked["model"], info.model);
        let continuous = asked["stream_options"]["continuous_usage_stats"] == true;
        assert_eq!(
            continuous,
            matches!(kind, ServerKind::Vllm | ServerKind::Sglang)
        );
        assert_eq!(
            asked["timings_per_token"] == true,
            kind == ServerKind::LlamaCpp
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_stream_fails_by_its_name() {
    let raw = |pieces: Vec<(u64, Vec<u8>)>| Reply {
        pieces,
        ..stream_reply(&[])
    };
    let giant = format!("data: {}", "a".repeat(2 << 20)).into_bytes();
    let mut broken = stream_reply(&[FIRST]);
    broken.broken = true;
    let mut paused = stream_reply(WHOLE);
    paused.pieces[1].0 = 2_000;
    let mut late = stream_reply(WHOLE);
    late.pieces[0].0 = 2_000;
    // Comments keep a connection open, but are no answer.
    let pings = (0..100).map(|_| (20, b": ping\n\n".to_vec())).collect();
    let cases = [
        ("missing_done", stream_reply(&[FIRST, STOP, USAGE])),
        ("missing_done", stream_reply(&[])),
        ("missing_usage", stream_reply(&[FIRST, STOP, DONE])),
        ("missing_finish", stream_reply(&[FIRST, DONE])),
        (
            "out_of_order",
            stream_reply(&[FIRST, STOP, SECOND, USAGE, DONE]),
        ),
        ("out_of_order", stream_reply(&[FIRST, USAGE, STOP, DONE])),
        ("malformed", stream_reply(&[FIRST, "{\"choices\":"])),
        (
            "error_event",
            stream_reply(&[
                FIRST,
                r#"{"error":{"message":"CUDA error","type":"server_error"}}"#,
            ]),
        ),
        (
            "not_utf8",
            raw(vec![(0, b"data: \"\xff\xfe\"\n\n".to_vec())]),
        ),
        ("too_long", raw(vec![(0, giant)])),
        ("broken", broken),
        ("silent", paused),
        ("silent", late),
        ("silent", raw(pings)),
        ("not_a_stream", json_reply(200, &json!({"choices":[]}))),
    ];
    for (name, reply) in cases {
        let stand_in = plain(reply).await;
        let backend = stand_in.backend().await;
        let (_, end) = run(&backend, work(9)).await;
        let fault = fault(end);
        assert_eq!(fault.label(), name, "{fault}");
        assert_eq!(fault.refusal(), None, "{fault}: a failure, not a refusal");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_no_to_is_told_as_it_is() {
    let secret = "the client's own words";
    let error = |kind: &str| json!({"error":{"message":secret,"type":kind,"param":"temperature"}});
    let too_long = json!({"error":{"code":400,"message":secret,"type":"exceed_context_size_error","n_prompt_tokens":10003,"n_ctx":1024}});
    let unsupported = RefusalReason::Unsupported {
        parameter: "temperature".to_owned(),
        reason: "the inference server refuses it (invalid_request_error)".to_owned(),
    };
    let context = RefusalReason::ContextLength {
        tokens: 10003,
        context: 4096,
    };
    let cases = [
        (429, error("rate_limit"), "busy", Some(RefusalReason::Busy)),
        (
            503,
            error("unavailable_error"),
            "busy",
            Some(RefusalReason::Busy),
        ),
        (400, too_long, "context_length", Some(context)),
        (
            400,
            error("invalid_request_error"),
            "rejected",
            Some(unsupported.clone()),
        ),
        (
            422,
            error("invalid_request_error"),
            "rejected",
            Some(unsupported),
        ),
        (
            400,
            error("content_policy_violation"),
            "policy",
            Some(RefusalReason::Policy),
        ),
        (
            403,
            json!({"error":{"message":secret,"code":"content_filter","param":"prompt"}}),
            "policy",
            Some(RefusalReason::Policy),
        ),
        (500, error("server_error"), "server", None),
        (502, json!("no JSON object"), "server", None),
        (401, error("auth"), "unauthorized", None),
        (404, error("model"), "not_found", None),
        (302, json!({}), "server", None),
    ];
    for (status, body, label, refusal) in cases {
        let stand_in = plain(json_reply(status, &body)).await;
        let (_, end) = run(&stand_in.backend().await, work(9)).await;
        let fault = fault(end);
        assert_eq!(
            (fault.label(), fault.refusal()),
            (label, refusal),
            "status {status}"
        );
        assert!(!fault.to_string().contains(secret), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_executor_tells_a_refusal_apart_from_a_failure() {
    for (status, refused) in [(429, true), (500, false)] {
        let stand_in = plain(json_reply(status, &json!({}))).await;
        let backend: Arc<dyn Backend> = Arc::new(stand_in.backend().await);
        let executor = Executor::new(1).expect("threads");
        let prepared = executor
            .prepare(backend.clone(), work(9))
            .await
            .expect("taken");
        let mut events = executor
            .start(backend, prepared, CancelFlag::new())
            .expect("a slot");
        let mut last = None;
        while let Some(event) = events.recv().await {
            last = Some(event);
        }
        match last {
            Some(Event::Generated(Generated::Refused { reason })) => {
                assert!(refused && reason == RefusalReason::Busy);
            }
            Some(Event::Generated(Generated::Failed { .. })) => assert!(!refused),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_closes_the_request_at_once() {
    let mut endless = stream_reply(&[FIRST]);
    endless
        .pieces
        .extend((0..1000).map(|_| (10, format!("data: {SECOND}\n\n").into_bytes())));
    let mut unanswered = stream_reply(WHOLE);
    unanswered.pieces[0].0 = 60_000;
    for reply in [endless, unanswered] {
        let stand_in = plain(reply).await;
        let backend = stand_in
            .connect(|options| options.timeouts.first_event = Duration::from_secs(60))
            .await
            .expect("usable");
        let cancel = CancelFlag::new();
        let raised = cancel.clone();
        let canceller = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            raised.cancel();
            Instant::now()
        });
        let (_, end) = run_until(&backend, work(5000), cancel).await;
        let after = canceller.await.expect("raised").elapsed();
        assert_eq!(end.expect("cut").finish_reason, FinishReason::Cancelled);
        assert!(after < Duration::from_millis(50), "{after:?}");
        let closed = async {
            while stand_in.left.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_millis(200), closed)
            .await
            .expect("the server sees the client leave");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_beyond_the_context_is_asked_for_again_with_what_fits() {
    let stand_in = StandIn::start(|route, body| match route {
        "/v1/models" => json_reply(200, &json!({"data":[{"id":"m","owned_by":"vllm","max_model_len":100}]})),
        "/v1/chat/completions" if body["max_tokens"].as_u64() > Some(88) => json_reply(400, &json!({
            "object":"error","type":"BadRequestError","code":400,
            "message":"'max_tokens' or 'max_completion_tokens' is too large: 100. This model's maximum context length is 100 tokens and your request has 12 input tokens",
        })),
        "/v1/chat/completions" => stream_reply(WHOLE),
        _ => json_reply(200, &json!({"version":"0"})),
    })
    .await;
    let backend = stand_in.backend().await;
    let (told, end) = run(&backend, work(100)).await;
    assert_eq!(end.expect("whole").finish_reason, FinishReason::Stop);
    assert_eq!(told.text, "Hello");
    let limits: Vec<_> = stand_in
        .bodies("/v1/chat/completions")
        .iter()
        .map(|body| body["max_tokens"].as_u64())
        .collect();
    assert_eq!(limits, [Some(100), Some(88)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_requests_at_once_a_job_is_refused_and_not_sent() {
    let mut slow = stream_reply(WHOLE);
    slow.pieces[0].0 = 150;
    let stand_in = plain(slow).await;
    let backend = stand_in
        .connect(|options| {
            options.concurrency = Some(2);
            options.timeouts.place = Duration::from_millis(20);
        })
        .await
        .expect("usable");
    let jobs = (0..3).map(|_| {
        let backend = backend.clone();
        tokio::spawn(async move { run(&backend, work(9)).await.1 })
    });
    let mut busy = 0;
    for job in jobs.collect::<Vec<_>>() {
        match job.await.expect("no panic") {
            Ok(_) => {}
            Err(RunError::Upstream(UpstreamFault::Busy { .. })) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(busy, 1);
    assert_eq!(stand_in.bodies("/v1/chat/completions").len(), 2);
    assert!(
        run(&backend, work(9)).await.1.is_ok(),
        "its place is free again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_takes_no_jobs_until_it_is_back() {
    let stand_in = plain(stream_reply(WHOLE)).await;
    let address = stand_in.address;
    let backend = stand_in.backend().await;
    assert_eq!(backend.ready(), Ok(()));
    drop(stand_in);
    let prepared = backend.prepare(&work(9)).expect("nobody has noticed");
    let other = backend.clone();
    let ran = tokio::task::spawn_blocking(move || {
        let mut emit = |_: Piece| ControlFlow::Continue(());
        other.run(&prepared, &CancelFlag::new(), &mut emit)
    });
    let fault = fault(ran.await.expect("no panic"));
    assert!(matches!(fault.label(), "unreachable" | "broken"), "{fault}");
    wait_until(|| backend.ready().is_err()).await;
    assert_eq!(backend.prepare(&work(9)), Err(RefusalReason::UnknownModel));
    let back = StandIn::at(address, |route, _| match route {
        "/v1/models" => json_reply(200, &json!({"data":[{"id":"m"}]})),
        _ => stream_reply(WHOLE),
    })
    .await;
    wait_until(|| backend.ready().is_ok()).await;
    assert!(run(&backend, work(9)).await.1.is_ok());
    drop(back);
}

async fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < end, "not within 5 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_calls_pass_through_and_are_checked() {
    let call = |arguments: &str| {
        let arguments = Value::from(arguments);
        [
r#"{"id":"a","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"get_weather","arguments":""}}]}}]}"#.to_owned(),
            format!(
                r#"{{"id":"a","choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":{arguments}}}}}]}}}}]}}"#
            ),
        ]
    };
    for (arguments, valid) in [
        (r#"{"city":"Paris"}"#, true),
        (r#"{"town":"Paris"}"#, false),
    ] {
        let [first, second] = call(arguments);
        let stop = STOP.replace("stop", "tool_calls");
        let usage = USAGE.replace("\"completion_tokens\":2", "\"completion_tokens\":17");
        let stand_in = plain(stream_reply(&[&first, &second, &stop, &usage, DONE])).await;
        let mut with_tools = work(50);
        with_tools.prompt = Prompt::Chat {
            messages: r#"[{"role":"user","content":"Weather?"}]"#.to_owned(),
            tools: r#"[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","required":["city"]}}}]"#.to_owned(), arguments: String::new() };
        let (told, end) = run(&stand_in.backend().await, with_tools).await;
        let end = end.expect("whole");
        assert_eq!(told.ids.len(), 2);
        if valid {
            assert_eq!(end.finish_reason, FinishReason::ToolCalls);
            assert_eq!(end.tool_calls[0].arguments, arguments);
            assert_eq!(told.text, "");
        } else {
            assert_eq!(
                (end.finish_reason, end.tool_calls.len()),
                (FinishReason::Stop, 0)
            );
            assert!(told.text.contains("town"), "as text: {}", told.text);
        }
        let asked = &stand_in.bodies("/v1/chat/completions")[0];
        assert_eq!(asked["tools"][0]["function"]["name"], "get_weather");
    }
}

/// A stream as vLLM writes it, counts on every piece: each delta with the tokens so far.
fn vllm_stream(deltas: &[(Value, u64)], finish: &str) -> Reply {
    let piece = |choices: Value, so_far: u64| {
        json!({"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"org/a","choices":choices,
            "usage":{"prompt_tokens":5,"completion_tokens":so_far,"total_tokens":5 + so_far}})
    };
    let choice = |delta: &Value, finish: Value| json!([{"index":0,"delta":delta,"logprobs":null,"finish_reason":finish}]);
    let role = json!({"role":"assistant","content":""});
    let last = deltas.last().map_or(0, |(_, so_far)| *so_far);
    let mut events = vec![piece(choice(&role, Value::Null), 0)];
    events.extend(
        deltas
            .iter()
            .map(|(delta, so_far)| piece(choice(delta, Value::Null), *so_far)),
    );
    events.push(piece(choice(&json!({}), finish.into()), last));
    events.push(piece(json!([]), last));
    streamed(&events)
}

/// A stream as llama.cpp's server writes it, with `timings_per_token`.
fn llama_stream(deltas: &[(Value, u64)], finish: &str) -> Reply {
    let piece = |delta: &Value, finish: Value, so_far: u64| {
        json!({"choices":[{"finish_reason":finish,"index":0,"delta":delta}],"created":1,"id":"chatcmpl-1","model":"a.gguf",
            "system_fingerprint":"b9999","object":"chat.completion.chunk",
            "timings":{"cache_n":4,"prompt_n":1,"predicted_n":so_far}})
    };
    let role = json!({"role":"assistant","content":null});
    let last = deltas.last().map_or(0, |(_, so_far)| *so_far);
    let mut events = vec![piece(&role, Value::Null, 1)];
    events.extend(
        deltas
            .iter()
            .map(|(delta, so_far)| piece(delta, Value::Null, *so_far)),
    );
    events.push(piece(&json!({}), finish.into(), last));
    events.push(json!({"choices":[],"id":"chatcmpl-1","usage":{"prompt_tokens":5,"completion_tokens":last,"total_tokens":5 + last}}));
    streamed(&events)
}

fn streamed(events: &[Value]) -> Reply {
    let events: Vec<String> = events.iter().map(Value::to_string).collect();
    let mut events: Vec<&str> = events.iter().map(String::as_str).collect();
    events.push(DONE);
    stream_reply(&events)
}

/// A server of this kind that answers every chat so.
async fn answering(kind: ServerKind, reply: Reply) -> StandIn {
    let others = server(kind);
    StandIn::start(move |route, body| match route {
        "/v1/chat/completions" => reply.clone(),
        _ => others(route, body),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn reasoning_that_a_server_sets_apart_is_handed_on_in_front_of_the_answer() {
    let of = |name: &str, text: &str| json!({ name: text });
    // vLLM's tokens of the marks bring nothing; its next piece counts them.
    let vllm = |name: &str| {
        let both = json!({"reasoning": " two", "reasoning_content": " two"});
        let deltas = [(of(name, "Two"), 2), (both, 3), (of("content", "\n\n4"), 5)];
        vllm_stream(&deltas, "stop")
    };
    let llama = [
        (of("reasoning_content", "Two"), 2),
        (of("reasoning_content", " two"), 3),
        (of("content", "\n\n4"), 5),
    ];
    // The end of one and the begin of the other come together where several tokens make a piece.
    let together = [(json!({"reasoning":"Two two","content":"\n\n4"}), 5)];
    let whole = "<think>Two two</think>\n\n4";
    for (kind, reply, units) in [
        (ServerKind::Vllm, vllm("reasoning"), vec![3, 0, 4, 3, 0]),
        (
            ServerKind::Sglang,
            vllm("reasoning_content"),
            vec![3, 0, 4, 3, 0],
        ),
        (
            ServerKind::LlamaCpp,
            llama_stream(&llama, "stop"),
            vec![3, 0, 4, 3, 0],
        ),
        (
            ServerKind::Vllm,
            vllm_stream(&together, "stop"),
            vec![10, 0, 0, 0, 0],
        ),
    ] {
        let stand_in = answering(kind, reply).await;
        let backend = stand_in.backend().await;
        assert!(backend.facts().reasons);
        let (told, end) = run(&backend, work(99)).await;
        assert_eq!(end.expect("whole").finish_reason, FinishReason::Stop);
        assert_eq!((told.text.as_str(), &told.ids), (whole, &units), "{kind:?}");
        let billed = told.counted.last().and_then(|(_, c)| c.output_units);
        assert_eq!(billed, Some(units.len() as u64), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reasoning_that_is_cut_or_comes_again_or_is_marked_by_the_model_is_handed_on_whole() {
    let thought = |text: &str, so_far: u64| (json!({ "reasoning": text }), so_far);
    let said = |text: &str, so_far: u64| (json!({ "content": text }), so_far);
    for (deltas, finish, expected) in [
        // All that was ordered went into it.
        (
            vec![thought("Two", 1), thought(" and", 2)],
            "length",
            "<think>Two and",
        ),
        (
            vec![thought("a", 1), said("b", 2), thought("c", 3), said("d", 4)],
            "stop",
            "<think>a</think>b<think>c</think>d",
        ),
        // No parser: the marks are the model's own text.
        (
            vec![
                said("<think>", 1),
                said("a", 2),
                said("</think>", 3),
                said("b", 4),
            ],
            "stop",
            "<think>a</think>b",
        ),
        (
            vec![thought("no </thi", 1), thought("nk> yet", 2), said("b", 3)],
            "stop",
            "<think>no </think > yet</think>b",
        ),
    ] {
        let units = deltas.len();
        let stand_in = answering(ServerKind::Vllm, vllm_stream(&deltas, finish)).await;
        let (told, end) = run(&stand_in.backend().await, work(99)).await;
        let reason = end.expect("whole").finish_reason;
        assert_eq!(reason == FinishReason::Length, finish == "length");
        assert_eq!((told.text.as_str(), told.ids.len()), (expected, units));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_demanded_is_looked_for_behind_the_reasoning() {
    let thought = (json!({"reasoning": "{a}"}), 1);
    let mut object = work(99);
    object.answer = AnswerShape::JsonObject;
    for (said, met) in [("{\"a\":1}", true), ("one", false)] {
        let deltas = [thought.clone(), (json!({ "content": said }), 3)];
        let stand_in = answering(ServerKind::Vllm, vllm_stream(&deltas, "stop")).await;
        let (told, end) = run(&stand_in.backend().await, object.clone()).await;
        if met {
            assert_eq!(end.expect("met").finish_reason, FinishReason::Stop);
            assert_eq!(told.text, format!("<think>{{a}}</think>{said}"));
        } else {
            assert_eq!(fault(end).label(), "unmet");
            assert_eq!(told.text, "");
        }
    }
    let call = |arguments: &str| {
        let function = json!({"name": "get_weather", "arguments": arguments});
        json!({"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": function}]})
    };
    let tools = r#"[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","required":["city"]}}}]"#;
    for (answer, arguments, met) in [
        (AnswerShape::Any, r#"{"city":"Paris"}"#, true),
        (AnswerShape::ToolCall, r#"{"city":"Paris"}"#, true),
        (AnswerShape::Any, r#"{"town":"Paris"}"#, false),
    ] {
        let mut work = work(99);
        work.answer = answer;
        if let Prompt::Chat { tools: to, .. } = &mut work.prompt {
            *to = tools.to_owned();
        }
        let deltas = [thought.clone(), (call(arguments), 9)];
        let stand_in = answering(ServerKind::Vllm, vllm_stream(&deltas, "tool_calls")).await;
        let (told, end) = run(&stand_in.backend().await, work).await;
        let end = end.expect("whole");
        let parts = stoa_verify::reasoning::split(&told.text, true);
        assert_eq!((parts.reasoning.as_str(), told.ids.len()), ("{a}", 9));
        assert_eq!(end.tool_calls.len(), usize::from(met));
        // A call that is not one is text behind the reasoning, and not a part of it.
        assert_eq!(parts.content.contains("town"), !met, "{}", told.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_token_ids_are_completed_and_nothing_is_asked_for_an_empty_answer() {
    let completion = stream_reply(&[
        r#"{"id":"c","choices":[{"index":0,"text":" upon","finish_reason":null}]}"#,
        r#"{"id":"c","choices":[{"index":0,"text":"","finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
        DONE,
    ]);
    let stand_in = plain(completion).await;
    let backend = stand_in.backend().await;
    for (prompt, sent) in [
        (Prompt::Text("Once".to_owned()), json!("Once")),
        (Prompt::Tokens(vec![7, 8]), json!([7, 8])),
    ] {
        let mut work = work(1);
        work.prompt = prompt;
        let (told, end) = run(&backend, work).await;
        assert_eq!(end.expect("whole").finish_reason, FinishReason::Length);
        assert_eq!((told.text.as_str(), told.ids), (" upon", vec![5]));
        assert_eq!(
            stand_in.bodies("/v1/completions").last().expect("asked")["prompt"],
            sent
        );
    }
    let before = stand_in.bodies("/v1/chat/completions").len();
    let (told, end) = run(&backend, work(0)).await;
    assert_eq!(end.expect("empty").finish_reason, FinishReason::Length);
    assert!(told.ids.is_empty());
    assert_eq!(stand_in.bodies("/v1/chat/completions").len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_used_is_refused_at_the_start_with_its_reason() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("bound")
    };
    let refused = UpstreamBackend::connect(UpstreamOptions::new(format!("http://{nobody}"))).await;
    let error = refused.err().expect("nobody is there").to_string();
    assert!(error.contains("cannot be reached"), "{error}");
    for (models, named) in [
        (json!({"data":[]}), "lists no model"),
        (
            json!({"data":[{"id":"a"},{"id":"b"}]}),
            "--upstream-model: a, b",
        ),
    ] {
        let stand_in = StandIn::start(move |_, _| json_reply(200, &models)).await;
        let error = stand_in
            .connect(|_| {})
            .await
            .err()
            .expect("no choice")
            .to_string();
        assert!(error.contains(named), "{error}");
    }
    let locked = StandIn::start(|_, _| json_reply(401, &json!({}))).await;
    let error = locked
        .connect(|_| {})
        .await
        .err()
        .expect("locked")
        .to_string();
    assert!(error.contains("--upstream-key-file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_says_how_fast_a_server_is_and_falls_back_to_completions() {
    let told_once = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&told_once);
    let stand_in = StandIn::start(move |route, _| match route {
        "/v1/models" => json_reply(200, &json!({"data":[{"id":"base-model"}]})),
        "/v1/chat/completions" => {
            told.store(true, Ordering::SeqCst);
            json_reply(400, &json!({"error":{"type":"BadRequestError","message":"no chat template"}}))
        }
        "/v1/completions" => {
            let mut reply = stream_reply(&[
                r#"{"choices":[{"index":0,"text":" four"}]}"#,
                r#"{"choices":[{"index":0,"text":" five","finish_reason":"length"}],"usage":{"prompt_tokens":6,"completion_tokens":2}}"#,
                DONE,
            ]);
            reply.pieces[1].0 = 30;
            reply
        }
        _ => json_reply(404, &json!({})),
    })
    .await;
    let probe = stand_in.backend().await.probe(2).await.expect("answers");
    assert!(told_once.load(Ordering::SeqCst), "chat was tried first");
    assert_eq!(
        (probe.output_units, probe.output_told, probe.input_units),
        (2, 2, 6)
    );
    assert!(probe.rest >= Duration::from_millis(25), "{probe:?}");
}

fn vectors_work(inputs: Vec<Input>, dimensions: u32) -> Work {
    let mut work = work(inputs.len() as u32);
    work.prompt = Prompt::Embed { inputs, dimensions };
    work
}

/// A server that answers every request for vectors so.
async fn of_vectors(answer: Reply) -> StandIn {
    StandIn::start(move |route, _| match route {
        "/v1/models" => json_reply(200, &json!({"data":[{"id":"m"}]})),
        "/v1/embeddings" => answer.clone(),
        _ => json_reply(404, &json!({})),
    })
    .await
}

fn two_texts() -> Vec<Input> {
    ["ab", "c"].map(|text| Input::Text(text.to_owned())).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_a_server_are_handed_on_in_the_order_of_the_inputs_and_counted_by_its_usage() {
    let body = json!({"data": [{"index": 1, "embedding": [0.5, -1]}, {"index": 0, "embedding": [0.1, 2.5]}],
        "usage": {"prompt_tokens": 5, "total_tokens": 5}});
    let stand_in = of_vectors(json_reply(200, &body)).await;
    let backend = stand_in.backend().await;
    let order = vectors_work(two_texts(), 2);
    let root = backend.prepare(&order).expect("taken").facts.prompt_root;
    assert_eq!(root, stoa_runtime::upstream_prompt_root(&order.prompt));
    let (told, result) = run(&backend, order).await;
    assert_eq!(result.expect("ends").finish_reason, FinishReason::Stop);
    assert_eq!(told.ids, [2, 2]);
    let bits = [[0.1f32, 2.5], [0.5, -1.0]].map(|v| v.map(f32::to_bits).to_vec());
    assert_eq!(stoa_verify::read_vectors(&told.text), Some(bits.to_vec()));
    let count = |input_units| Counted {
        input_units,
        output_units: None,
    };
    assert_eq!(told.counted, [(0, count(0)), (0, count(5))]);
    let asked =
        json!({"model": "m", "input": ["ab", "c"], "encoding_format": "float", "dimensions": 2});
    assert_eq!(stand_in.bodies("/v1/embeddings"), [asked]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_the_ordered_vectors_is_not_handed_on() {
    let usage = json!({"prompt_tokens": 5});
    let one = |index: u32, vector: Value| json!({"index": index, "embedding": vector});
    let of = |data: Value| json!({"data": data, "usage": usage});
    let bad = [
        json!({"data": [one(0, json!([1])), one(1, json!([1]))]}),
        of(json!([one(0, json!([1]))])),
        of(json!([one(0, json!([1])), one(0, json!([1]))])),
        of(json!([one(0, json!([1])), one(2, json!([1]))])),
        of(json!([one(0, json!([1])), one(1, json!([1, 2]))])),
        of(json!([one(0, json!([])), one(1, json!([]))])),
        of(json!([one(0, json!([1])), one(1, json!([1e39]))])),
        of(json!([one(0, json!("AAAA")), one(1, json!("AAAA"))])),
        json!([]),
    ];
    for body in bad {
        let stand_in = of_vectors(json_reply(200, &body)).await;
        let backend = stand_in.backend().await;
        let (told, result) = run(&backend, vectors_work(two_texts(), 0)).await;
        let found = fault(result);
        let named = matches!(
            found,
            UpstreamFault::Malformed { .. } | UpstreamFault::MissingUsage
        );
        assert!(named && told.ids.is_empty(), "{body}: {found}");
    }
    // A server that knows no `dimensions` gives more: that is declined, and no fault of the provider.
    let body = of(json!([one(0, json!([1, 2])), one(1, json!([1, 2]))]));
    let stand_in = of_vectors(json_reply(200, &body)).await;
    let (told, result) = run(&stand_in.backend().await, vectors_work(two_texts(), 1)).await;
    let declined = fault(result).refusal();
    let named = matches!(declined, Some(RefusalReason::Unsupported { parameter, .. }) if parameter == "dimensions");
    assert!(named && told.ids.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_vectors_or_for_shorter_texts_declines_by_name_and_stays_in_good_health() {
    for status in [400, 404, 500, 501] {
        let error = json!({"error": {"message": "input (1400 tokens) is too large to process.", "type": "not_supported_error"}});
        let stand_in = of_vectors(json_reply(status, &error)).await;
        let backend = stand_in.backend().await;
        let (_, result) = run(&backend, vectors_work(two_texts(), 0)).await;
        match fault(result).refusal() {
            Some(RefusalReason::Unsupported { parameter, .. }) => assert_eq!(parameter, "input"),
            other => panic!("status {status}: {other:?}"),
        }
        assert_eq!(backend.fault(), None);
    }
    let stand_in = StandIn::start(server(ServerKind::Tgi)).await;
    let ids = vectors_work(vec![Input::Tokens(vec![1])], 0);
    let refused = stand_in.backend().await.prepare(&ids);
    assert!(
        matches!(refused, Err(RefusalReason::Unsupported { parameter, .. }) if parameter == "input")
    );
}
