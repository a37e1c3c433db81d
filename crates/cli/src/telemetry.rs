//! Traces for whoever runs a collector: spans go out by OTLP over HTTP, in JSON. Off unless an address is set, and then it only watches:
//! the queue is bounded, nobody waits for it, and a collector that is away costs spans and nothing else.
//!
//! No span holds a prompt, an answer or a key.

mod otlp;
mod span;

pub use otlp::{Exporter, TelemetryError};
pub use span::{Clock, Kind, Span, Tracer};

use crate::config::Telemetry as Settings;
use std::sync::OnceLock;
use std::time::Duration;

/// How long a process that ends waits for its last spans to leave.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// As with log and metrics, there is one for the process.
static EXPORTER: OnceLock<(Exporter, u32)> = OnceLock::new();

/// Options by which traces are switched on.
#[derive(Debug, Clone, clap::Args)]
pub struct TelemetryArgs {
    /// Sends traces to this OTLP/HTTP collector, for example http://127.0.0.1:4318.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp: Option<String>,
}

impl TelemetryArgs {
    /// Starts to send spans, if any address is set.
    pub fn start(&self, settings: &Settings) -> Result<(), TelemetryError> {
        let given = self.otlp.as_ref().filter(|url| !url.is_empty());
        let url = given.unwrap_or(&settings.otlp);
        if !url.is_empty() {
            let headers = std::env::var(otlp::HEADERS).unwrap_or_default();
            let exporter = Exporter::start(url, &headers)?;
            let _ = EXPORTER.set((exporter, settings.traces_per_second));
        }
        Ok(())
    }
}

/// Makes the spans of one role; `instance` tells it from others of its kind.
pub fn tracer(service: &'static str, instance: impl ToString) -> Tracer {
    match EXPORTER.get() {
        Some((exporter, per_second)) => {
            Tracer::new(exporter.clone(), service, instance.to_string(), *per_second)
        }
        None => Tracer::off(),
    }
}

/// Gives the last spans a moment to leave. Call it when a role has stopped.
pub async fn finish() {
    if let Some((exporter, _)) = EXPORTER.get() {
        // A collector that is away does not hold up the end.
        let _ = tokio::time::timeout(LAST_WORDS, exporter.flush()).await;
    }
}
