//! OTLP over HTTP, in its JSON form: what a span looks like there, and a task that sends them in batches.

use super::span::{Origin, Span};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// The variable by which OpenTelemetry names what else a request carries, such as a key for the collector.
pub const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// Spans that wait to be sent; those beyond are lost.
const QUEUE: usize = 4096;
/// Spans in one request.
const BATCH: usize = 512;
/// How long spans wait for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why traces cannot be sent. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Not an address.
    #[error(
        "traces cannot be sent to `{0}`: write the collector's URL with http:// or https://, for example http://127.0.0.1:4318"
    )]
    Url(String),
    /// The variable with headers; it may hold a key and is not repeated.
    #[error("{HEADERS} must hold name=value pairs, separated by commas")]
    Headers,
}

enum Message {
    Span(Box<Span>),
    Flush(oneshot::Sender<()>),
}

/// Takes spans. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Exporter(mpsc::Sender<Message>);

impl Exporter {
    /// Starts to send to the collector at `url`. `headers` is as in [`HEADERS`].
    pub fn start(url: &str, headers: &str) -> Result<Self, TelemetryError> {
        let bad = || TelemetryError::Url(without_secrets(url));
        let mut target = reqwest::Url::parse(url).map_err(|_| bad())?;
        if !matches!(target.scheme(), "http" | "https") || !target.has_host() {
            return Err(bad());
        }
        let path = target.path().trim_end_matches('/');
        // A whole address is taken as it is; of a base OpenTelemetry says what stands behind it.
        if !path.ends_with("/v1/traces") {
            target.set_path(&format!("{path}/v1/traces"));
        }
        let client = crate::http::client()
            .timeout(PATIENCE)
            .default_headers(parse_headers(headers)?)
            .build()
            .map_err(|_| bad())?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let sending = Sending {
            client,
            target,
            lost: 0,
            away: false,
        };
        tokio::spawn(sending.run(receiver));
        Ok(Self(sender))
    }

    /// Puts a span into the queue, or drops it where there is no room.
    pub fn take(&self, span: Span) {
        if self.0.try_send(Message::Span(Box::new(span))).is_err() {
            count("lost", 1);
        }
    }

    /// Ends when what was taken before was sent or given up.
    pub async fn flush(&self) {
        let (done, told) = oneshot::channel();
        if self.0.send(Message::Flush(done)).await.is_ok() {
            let _ = told.await;
        }
    }
}

fn count(outcome: &'static str, spans: usize) {
    metrics::counter!("stoa_telemetry_spans_total", "outcome" => outcome).increment(spans as u64);
}

/// A user or a password in an address is not for the log.
fn without_secrets(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("(...)@{host}"),
        None => url.chars().take(200).collect(),
    }
}

/// `name=value,name=value`, values percent-encoded.
fn parse_headers(text: &str) -> Result<HeaderMap, TelemetryError> {
    let mut headers = HeaderMap::new();
    let pairs = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    for pair in pairs {
        let (name, value) = pair.split_once('=').ok_or(TelemetryError::Headers)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| TelemetryError::Headers)?;
        let value = HeaderValue::from_bytes(&percent_decoded(value.trim()));
        let mut value = value.map_err(|_| TelemetryError::Headers)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let mut value = [0];
        let digits = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        if digits.is_some_and(|digits| hex::decode_to_slice(digits, &mut value).is_ok()) {
            decoded.push(value[0]);
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    decoded
}

struct Sending {
    client: reqwest::Client,
    target: reqwest::Url,
    /// Spans that were lost since the collector went away.
    lost: usize,
    /// Whether the log has said that it is away.
    away: bool,
}

impl Sending {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        while let Some(message) = receiver.recv().await {
            let (mut spans, mut waiting) = (Vec::new(), Vec::new());
            let end = Instant::now() + GATHER;
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Span(span) => spans.push(*span),
                    Message::Flush(done) => waiting.push(done),
                }
                if spans.len() >= BATCH || !waiting.is_empty() {
                    break;
                }
                next = timeout_at(end, receiver.recv()).await.ok().flatten();
            }
            if !spans.is_empty() {
                self.send(spans).await;
            }
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    /// A batch that does not arrive is lost: keeping it would only move the loss to the queue's end.
    async fn send(&mut self, spans: Vec<Span>) {
        let (number, body) = (spans.len(), body(spans).to_string());
        let request = self.client.post(self.target.clone());
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let problem = match request.send().await {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.without_url().to_string()),
        };
        let outcome = if problem.is_none() { "sent" } else { "lost" };
        count(outcome, number);
        let host = self.target.host_str().unwrap_or_default();
        match problem {
            Some(problem) => {
                self.lost += number;
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(collector = host, %problem, "traces do not reach the collector and are dropped until they do; calls go on");
                }
            }
            None if std::mem::take(&mut self.away) => {
                let lost = std::mem::take(&mut self.lost);
                tracing::info!(collector = host, lost, "traces reach the collector again");
            }
            None => {}
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn body(spans: Vec<Span>) -> Value {
    let mut origins: BTreeMap<Arc<Origin>, Vec<Value>> = BTreeMap::new();
    for span in spans {
        let place = origins.entry(span.origin.clone()).or_default();
        place.push(encoded(span));
    }
    let resources = origins.into_iter().map(|(origin, spans)| {
        json!({
            "resource": {"attributes": [
                {"key": "service.name", "value": {"stringValue": origin.service}},
                {"key": "service.instance.id", "value": {"stringValue": origin.instance}},
                {"key": "service.version", "value": {"stringValue": env!("CARGO_PKG_VERSION")}},
            ]},
            "scopeSpans": [{"scope": {"name": "stoa"}, "spans": spans}],
        })
    });
    json!({"resourceSpans": resources.collect::<Vec<_>>()})
}

fn encoded(span: Span) -> Value {
    let attributes = span.attributes.into_iter();
    let attributes = attributes.map(|(key, value)| json!({"key": key, "value": value}));
    let mut encoded = json!({
        "traceId": span.trace.to_string(),
        "spanId": span.id.to_string(),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": span.began.to_string(),
        "endTimeUnixNano": span.ended.to_string(),
        "attributes": attributes.collect::<Vec<_>>(),
    });
    if let Some(parent) = span.parent {
        encoded["parentSpanId"] = parent.to_string().into();
    }
    if let Some(fault) = span.fault {
        encoded["status"] = json!({"code": 2, "message": fault});
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Clock, Tracer};

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_and_no_password_in_it_is_repeated() {
        for wrong in [
            "127.0.0.1:4318",
            "grpc://127.0.0.1:4317",
            "http://",
            "collector",
        ] {
            let error = Exporter::start(wrong, "").expect_err(wrong).to_string();
            assert!(error.contains("http://127.0.0.1:4318"), "{error}");
        }
        let error = Exporter::start("ftp://me:canary@host/", "").expect_err("no FTP");
        assert!(!error.to_string().contains("canary"), "{error}");
        let error = Exporter::start("http://host", "canary").expect_err("no pair");
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn headers_are_pairs_with_percent_encoded_values() {
        let headers = parse_headers("x-key=a%20b, authorization=Basic%20Zm8=,").expect("pairs");
        assert_eq!(headers["x-key"], "a b");
        assert_eq!(headers["authorization"], "Basic Zm8=");
        assert!(headers["x-key"].is_sensitive());
        assert_eq!(percent_decoded("100%"), b"100%");
    }

    #[tokio::test]
    async fn a_dead_collector_costs_spans_and_never_waits() {
        // Nobody listens there, and no span leaves before this test gives way to the sender.
        let exporter = Exporter::start("http://127.0.0.1:9", "").expect("a URL");
        let tracer = Tracer::new(exporter.clone(), "test", "one".to_owned(), u32::MAX);
        let clock = Clock::start();
        for _ in 0..2 * QUEUE {
            tracer.end(tracer.begin("call", None, &clock), clock.nanos());
        }
        assert_eq!(exporter.0.capacity(), 0, "full, and no more than that");
        exporter.flush().await;
        assert_eq!(exporter.0.capacity(), QUEUE, "given up");
    }
}
