//! Traces of real calls: what a collector receives of them, and that one which is away costs nothing.

use crate::support::{self, PATIENCE, Up, refused, stoa};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const ABOVE: &str = "00f067aa0ba902b7";
const PROMPT: &str = "Say xylophone-canary-7431";

/// Stands in for an OpenTelemetry collector: takes OTLP/HTTP requests in JSON and keeps their spans.
struct CollectorStandIn {
    url: String,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// Each with the service that it came from.
    spans: Vec<(String, Value)>,
    text: String,
    keys: Vec<String>,
}

impl CollectorStandIn {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let taken = Arc::new(Mutex::new(Taken::default()));
        let kept = taken.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                std::thread::spawn(move || serve(stream, &kept));
            }
        });
        Self { url, taken }
    }

    /// The spans of a trace, once those called `names` are all there.
    fn wait_for(&self, trace: &str, names: &[&str]) -> Vec<(String, Value)> {
        let end = Instant::now() + PATIENCE;
        loop {
            let spans: Vec<_> = self.taken.lock().expect("whole").spans.clone();
            let of_it: Vec<_> = spans
                .into_iter()
                .filter(|(_, span)| span["traceId"] == trace)
                .collect();
            let there = |name: &&str| of_it.iter().any(|(_, span)| span["name"] == **name);
            if names.iter().all(there) {
                return of_it;
            }
            assert!(Instant::now() < end, "never all of {names:?}: {of_it:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// One connection, request after request.
fn serve(stream: TcpStream, kept: &Mutex<Taken>) {
    let mut answers = stream.try_clone().expect("a socket");
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            match reader.read_line(&mut head) {
                Ok(read) if read > 0 => {}
                _ => return,
            }
        }
        let mut key = String::new();
        for line in head.lines() {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().expect("a length"),
                "x-collector-key" => key = value.to_owned(),
                _ => {}
            }
        }
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        kept.lock().expect("whole").take(&body, key);
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        answers.write_all(answer).expect("sent");
    }
}

impl Taken {
    fn take(&mut self, body: &[u8], key: String) {
        let body: Value = serde_json::from_slice(body).expect("JSON");
        self.text += &body.to_string();
        self.keys.push(key);
        for resource in body["resourceSpans"].as_array().expect("a list") {
            let attributes = attributes(&resource["resource"]);
            let service = attributes["service.name"].clone();
            for scope in resource["scopeSpans"].as_array().expect("a list") {
                for span in scope["spans"].as_array().expect("a list") {
                    self.spans.push((service.clone(), span.clone()));
                }
            }
        }
    }
}

/// Texts and numbers, as texts.
fn attributes(of: &Value) -> BTreeMap<String, String> {
    let list = of["attributes"].as_array().expect("a list").iter();
    let pair = |one: &Value| {
        let value = ["stringValue", "intValue"].map(|kind| one["value"][kind].as_str());
        let value = value.into_iter().flatten().next().expect("a value");
        (
            one["key"].as_str().expect("a key").to_owned(),
            value.to_owned(),
        )
    };
    list.map(pair).collect()
}

/// One paid call, with these headers besides; gives the whole answer.
fn call(up: &Up, headers: &str) -> String {
    let api = up.ready["api"].as_str().expect("a URL");
    let address = api.strip_prefix("http://").expect("plain HTTP");
    let (address, base) = address.split_once('/').expect("a path");
    let (key, model) = (&up.ready["key"], &up.ready["models"][0]);
    let body =
        json!({"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8});
    let (key, body) = (key.as_str().expect("a key"), body.to_string());
    let mut stream = TcpStream::connect(address).expect("listens");
    let head = format!(
        "POST /{base}/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream
        .write_all((head + &body).as_bytes())
        .expect("the request leaves");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// The one span of this name.
fn one<'a>(spans: &'a [(String, Value)], service: &str, name: &str) -> &'a Value {
    let mut found = spans
        .iter()
        .filter(|(of, span)| of == service && span["name"] == name);
    let (_, span) = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "{name} twice");
    span
}

fn nanos(span: &Value, key: &str) -> u128 {
    span[key].as_str().expect("a text").parse().expect("nanos")
}

#[test]
fn a_collector_gets_the_spans_of_a_call_below_its_client_s_and_the_provider_s_below_the_router_s() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let collector = CollectorStandIn::start();
    let headers = [(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "x-collector-key=canary%2Dheader",
    )];
    let up = Up::start_with(&data, 1, &log, &["--otlp", &collector.url], &headers);
    call(
        &up,
        &format!("traceparent: 00-{TRACE}-{ABOVE}-01\r\ntracestate: vendor=canary-state\r\n"),
    );
    let steps = [
        "call",
        "admission",
        "queue",
        "dispatch",
        "settlement",
        "job",
    ];
    let spans = collector.wait_for(TRACE, &steps);
    let router = |name| one(&spans, "stoa-router", name);
    let provider = |name| one(&spans, "stoa-provider", name);
    let top = router("call");
    assert_eq!(top["parentSpanId"], ABOVE);
    for (span, above) in [
        (router("admission"), top),
        (router("queue"), router("admission")),
        (router("dispatch"), top),
        (router("first token"), router("dispatch")),
        (router("settlement"), top),
        (provider("job"), router("dispatch")),
        (provider("prepare"), provider("job")),
        (provider("generate"), provider("job")),
        (provider("first token"), provider("generate")),
    ] {
        assert_eq!(span["parentSpanId"], above["spanId"], "{span}");
        let (began, ended) = (
            nanos(span, "startTimeUnixNano"),
            nanos(span, "endTimeUnixNano"),
        );
        assert!(began <= ended, "{span}");
        assert!(span.get("status").is_none(), "nothing failed: {span}");
    }
    assert_eq!(spans.len(), 10, "nothing else");
    let told = attributes(top);
    assert_eq!(told["gen_ai.request.model"], "stoa-tiny");
    assert_eq!(told["stoa.job"], attributes(provider("job"))["stoa.job"]);
    assert!(told["gen_ai.usage.output_tokens"].parse::<u32>().is_ok());

    // A header that is none is as no header: the call has a trace of its own.
    call(
        &up,
        &format!("traceparent: 00-{TRACE}-0000000000000000-01\r\n"),
    );
    // Who asks not to be recorded is not.
    let quiet = TRACE.replace('4', "5");
    call(&up, &format!("traceparent: 00-{quiet}-{ABOVE}-00\r\n"));
    up.stop();
    let taken = collector.taken.lock().expect("whole");
    let own: Vec<_> = taken
        .spans
        .iter()
        .filter(|(_, s)| s["traceId"] != TRACE)
        .collect();
    assert_eq!(taken.spans.len(), spans.len() + own.len());
    let roots = own
        .iter()
        .filter(|(_, span)| span.get("parentSpanId").is_none());
    assert!(
        roots
            .clone()
            .any(|(of, span)| of == "stoa-router" && span["name"] == "call")
    );
    assert!(
        own.iter()
            .all(|(_, span)| span["traceId"] != quiet.as_str())
    );

    let secrets = ["xylophone", "canary-state", up_key(&data).as_str()].map(str::to_owned);
    for secret in secrets {
        assert!(!taken.text.contains(&secret), "{secret} is in a span");
    }
    assert!(
        taken.keys.iter().all(|key| key == "canary-header"),
        "{:?}",
        taken.keys
    );
    let log = fs::read_to_string(&log).expect("UTF-8");
    assert!(
        !log.contains("canary"),
        "what is sent to the collector is not logged"
    );
    check_log(&log, &[TRACE, &quiet]);
}

/// The developer's API key.
fn up_key(data: &std::path::Path) -> String {
    let info = fs::read_to_string(data.join("network.json")).expect("a file");
    let info: Value = serde_json::from_str(&info).expect("JSON");
    info["key"].as_str().expect("a key").to_owned()
}

/// The lines about a traced job name its trace, whether it is recorded or not.
fn check_log(log: &str, traces: &[&str]) {
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for trace in traces {
        for message in ["job ordered", "job delivered"] {
            let found = lines
                .iter()
                .any(|line| line["message"] == message && line["trace_id"] == *trace);
            assert!(found, "`{message}` without {trace}");
        }
    }
    let taken = lines.iter().filter(|line| line["message"] == "job taken");
    assert_eq!(taken.clone().count(), 3);
    assert!(taken.clone().any(|line| line["trace_id"] == traces[0]));
}

#[test]
fn a_collector_gets_one_trace_for_each_round_of_a_validator() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let collector = CollectorStandIn::start();
    let up = Up::start_with(&data, 1, &log, &["--otlp", &collector.url], &[]);
    call(&up, "");
    let end = Instant::now() + PATIENCE;
    let trace = loop {
        let spans = collector.taken.lock().expect("whole").spans.clone();
        let mut judged = spans.iter().filter(|(_, span)| span["name"] == "judge");
        if let Some((_, span)) = judged.next() {
            break span["traceId"].as_str().expect("a text").to_owned();
        }
        assert!(Instant::now() < end, "nothing was judged: {spans:#?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let steps = ["fetch", "judge", "commit", "unseal", "rulings", "round"];
    let spans = collector.wait_for(&trace, &steps);
    assert_eq!(spans.len(), steps.len(), "nothing else: {spans:#?}");
    let of = |name| one(&spans, "stoa-validator", name);
    let mut began = 0;
    for name in &steps[..5] {
        let span = of(name);
        assert_eq!(span["parentSpanId"], of("round")["spanId"], "{span}");
        assert!(span.get("status").is_none(), "nothing failed: {span}");
        let start = nanos(span, "startTimeUnixNano");
        assert!(began <= start, "one after the other: {spans:#?}");
        began = start;
        assert!(start <= nanos(span, "endTimeUnixNano"), "{span}");
    }
    assert_eq!(attributes(of("judge"))["stoa.outcome"], "good");
    assert_ne!(attributes(of("rulings"))["stoa.brought"], "0");
    assert_eq!(attributes(of("round"))["stoa.judged"], "1");
    up.stop();
}

#[test]
fn a_collector_that_is_away_or_silent_costs_no_call_and_is_told_of_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("bound"));
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())];
    let up = Up::start_with(&data, 1, &log, &[], &environment);
    for _ in 0..3 {
        call(&up, "");
    }
    // From now on nobody listens there.
    drop(silent);
    for _ in 0..2 {
        call(&up, "");
        up.scrape_until("lost", |page| {
            support::value_of(page, "stoa_telemetry_spans_total{outcome=\"lost\"}") >= Some(1.0)
        });
    }
    up.stop();
    let log = fs::read_to_string(&log).expect("UTF-8");
    let told = log.matches("traces do not reach the collector").count();
    assert_eq!(told, 1, "{log}");
    assert!(log.matches("\"job delivered\"").count() == 5, "{log}");
}

#[test]
fn an_address_that_is_none_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let error = refused(stoa(&data).args(["up", "--otlp", "localhost:4318"]));
    assert!(error.contains("http://127.0.0.1:4318"), "{error}");
    assert!(!data.exists(), "nothing was made");
}
