//! The log: lines for a person, or one JSON object a line for a program. What concerns a job carries its id as the field `job`. No line
//! holds a prompt, an answer or a key.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// What is logged unless `RUST_LOG` says otherwise.
const STANDARD: &str = "info,iroh=warn,noq=warn";

/// Form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// One object a line, with `timestamp`, `level`, `target`, `message` and the fields of the event.
    Json,
}

static FORMAT: OnceLock<Format> = OnceLock::new();

/// A line for whoever started the program, in the form of the log: what reads one as JSON must be able to read the other.
pub fn line(text: impl Display) -> String {
    if FORMAT.get() != Some(&Format::Json) {
        return text.to_string();
    }
    let mut timestamp = String::new();
    // Into memory; without a time the line still says what it must.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let message = text.to_string();
    serde_json::json!({"timestamp": timestamp, "level": "WARN", "message": message}).to_string()
}

/// Starts to log to standard error. Call it once.
pub fn start(format: Format) {
    let _ = FORMAT.set(format);
    let asked = EnvFilter::try_from_default_env();
    // What is not set or empty is no mistake.
    let wrong =
        std::env::var(EnvFilter::DEFAULT_ENV).is_ok_and(|text| !text.is_empty()) && asked.is_err();
    let filter = asked.unwrap_or_else(|_| STANDARD.into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log that nobody reads any more is not worth a panic.
        .log_internal_errors(false);
    match format {
        Format::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).init();
        }
        Format::Json => log.json().flatten_event(true).init(),
    }
    if wrong {
        tracing::warn!(
            standard = STANDARD,
            "RUST_LOG cannot be read; the standard is logged"
        );
    }
}
