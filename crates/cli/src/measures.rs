//! Every metric that a process of Stoa may show, by name: what `/metrics` says of each, what `docs/operations.md` lists, and what the
//! dashboard and the alerts in `deploy/` may use. The code that measures is where the thing happens; a test compares.

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at each start.
    Counter,
    /// A state.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

/// One metric.
pub struct Metric {
    /// Its name: `stoa_`, the part, what is measured, the unit.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Of its values.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static str,
    /// What it says.
    pub text: &'static str,
}

const fn metric(
    kind: Kind,
    name: &'static str,
    unit: Unit,
    labels: &'static str,
    text: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        labels,
        text,
    }
}

use Kind::{Counter, Gauge, Histogram};
use Unit::{Bytes, Count, Seconds};

/// All of them, by part.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric(Gauge, "stoa_build_info", Count, "version", "Always 1; the version is in the label."),
    metric(Gauge, "stoa_start_time_seconds", Seconds, "", "When the process began to serve metrics, since 1970."),

    metric(Counter, "stoa_router_calls_total", Count, "", "Calls that the router took up; each choice of a request is one."),
    metric(Counter, "stoa_router_calls_shed_total", Count, "", "Calls turned away because router.calls_max were under way."),
    metric(Counter, "stoa_router_calls_ended_total", Count, "outcome", "Calls that ended: `delivered`, or the error code that the client was told."),
    metric(Gauge, "stoa_router_calls_active", Count, "", "Calls under way, those that wait for a countersignature included."),
    metric(Histogram, "stoa_router_ttft_seconds", Seconds, "", "From the call's arrival to its first token, of delivered calls."),
    metric(Histogram, "stoa_router_token_gap_seconds", Seconds, "", "Time per token after the first ones, the mean of each delivered call."),
    metric(Histogram, "stoa_router_call_seconds", Seconds, "", "From the call's arrival to its receipt, of delivered calls."),
    metric(Counter, "stoa_router_failovers_total", Count, "", "Attempts that another provider took over, of delivered calls."),
    metric(Counter, "stoa_router_undelivered_total", Count, "", "Orders that a provider took and did not deliver; nothing is billed for them."),
    metric(Counter, "stoa_claims_total", Count, "call, outcome", "Claims of non-delivery by what this process did: `claim`, `answer`, `punish` or `take_back`; outcome `done`, `failed` (looked at again) or `no_deposit`."),
    metric(Gauge, "stoa_router_deposits_lost_units", Count, "", "Deposits of its claims of non-delivery that went to providers which answered within 30 days, in smallest units of the stake token; nothing more is claimed of these meanwhile."),
    metric(Counter, "stoa_router_tokens_total", Count, "kind", "Tokens of delivered calls: `input` and `output`."),
    metric(Counter, "stoa_router_charged_units_total", Count, "", "Charged for delivered calls, in smallest units of the payment token."),
    metric(Counter, "stoa_router_spend_alerts_total", Count, "percent", "API keys that spent this share of their limit; the log names them."),
    metric(Gauge, "stoa_router_providers_online", Count, "", "Providers that are connected."),
    metric(Gauge, "stoa_router_slots_free", Count, "", "Jobs that connected providers could take at once, beyond those they have."),
    metric(Gauge, "stoa_router_charges_unsealed", Count, "", "Charges that are in no batch yet; one may rightly remain."),
    metric(Gauge, "stoa_router_batches_unposted", Count, "", "Sealed batches that the chain does not hold yet."),
    metric(Gauge, "stoa_router_unsettled_age_seconds", Seconds, "", "Age of the oldest charge that no posted batch holds; 0 while there is none."),
    metric(Gauge, "stoa_router_batch_seconds", Seconds, "", "The network's rule: how often a batch is sealed."),
    metric(Gauge, "stoa_router_chain_reachable", Count, "", "1 while the chain can be read."),
    metric(Gauge, "stoa_router_chain_block", Count, "", "Highest block that was read."),
    metric(Gauge, "stoa_router_books_match", Count, "", "0 once the chain holds other batches than the books: one of the two was restored from an older copy."),
    metric(Counter, "stoa_router_chain_calls_total", Count, "call, outcome", "Transactions by what they do; outcome `sent`, `present` (was on chain already) or `failed` (tried again)."),
    metric(Histogram, "stoa_router_journal_seconds", Seconds, "", "From an entry's writing until it was durable."),
    metric(Counter, "stoa_router_journal_refused_total", Count, "", "Entries that the journal refused; each is a call that was turned away."),
    metric(Gauge, "stoa_router_journal_waiting", Count, "", "Entries that wait for room on the disk."),
    metric(Gauge, "stoa_router_works_kept", Count, "", "Works that are kept, sealed, for audits."),
    metric(Counter, "stoa_router_audit_questions_total", Count, "kind, given", "Questions of validators and providers, and whether there was something to give."),

    metric(Counter, "stoa_api_requests_total", Count, "route, code", "HTTP requests by status."),
    metric(Histogram, "stoa_api_head_seconds", Seconds, "route", "From a request's head to the answer's."),
    metric(Counter, "stoa_api_errors_total", Count, "code, cause", "Errors told before an answer began."),
    metric(Counter, "stoa_api_stream_errors_total", Count, "code, cause", "Errors told within a stream."),
    metric(Counter, "stoa_api_clients_lost_total", Count, "", "Streams whose client went away."),
    metric(Counter, "stoa_api_connections_refused_total", Count, "", "Connections refused because there were too many."),

    metric(Gauge, "stoa_provider_link_up", Count, "provider, router", "1 while the router has let it in."),
    metric(Gauge, "stoa_provider_slots_free", Count, "provider, router", "Jobs that it could take at once, beyond those it has."),
    metric(Gauge, "stoa_provider_open", Count, "provider, router", "1 while it takes jobs: within its windows and with a backend that works."),
    metric(Counter, "stoa_provider_jobs_total", Count, "provider, router, outcome", "Jobs that were ordered: `earned`, `refused` or `failed`."),
    metric(Gauge, "stoa_provider_earned_units", Count, "provider", "Gross of all receipts in its folder, in smallest units of the payment token."),
    metric(Gauge, "stoa_provider_receipts_unkept", Count, "provider", "Receipts that are not on disk yet."),
    metric(Gauge, "stoa_provider_answers_affordable", Count, "provider", "Answers to claims of non-delivery whose gas its account can pay; infinite where gas costs nothing or nobody answers for it any more, NaN while that cannot be read."),

    metric(Gauge, "stoa_engine_loaded", Count, "model", "1 when the model is in memory, 0 when it is loaded by the next that asks for it."),
    metric(Gauge, "stoa_engine_memory_bytes", Bytes, "model", "Memory of its weights, and most memory of its keys and values."),
    metric(Counter, "stoa_engine_loads_total", Count, "model", "Times that the model was loaded."),
    metric(Gauge, "stoa_engine_answers", Count, "model", "Answers that the exact engine makes now, together."),
    metric(Gauge, "stoa_engine_waiting", Count, "model", "Requests that wait for a place or for memory."),
    metric(Gauge, "stoa_engine_cache_bytes", Bytes, "model", "Memory of keys and values in use, of beginnings kept for later too."),
    metric(Gauge, "stoa_engine_cache_kept_bytes", Bytes, "model", "Memory of beginnings kept for later, some of it in use now."),
    metric(Gauge, "stoa_engine_cache_max_bytes", Bytes, "model", "Most memory for keys and values."),
    metric(Counter, "stoa_engine_passes_total", Count, "model", "Passes through the model; tokens of all answers and prompts share them."),
    metric(Counter, "stoa_engine_rows_total", Count, "model", "Tokens of prompts and answers that went through the model."),
    metric(Counter, "stoa_engine_tokens_total", Count, "model", "Tokens that were chosen."),
    metric(Counter, "stoa_engine_tokens_reused_total", Count, "model", "Tokens of prompts whose keys and values were kept from earlier."),
    metric(Counter, "stoa_engine_tokens_guessed_total", Count, "model", "Tokens that were guessed, so that one pass gives several."),
    metric(Counter, "stoa_engine_tokens_guessed_right_total", Count, "model", "Guessed tokens that were chosen."),

    metric(Gauge, "stoa_validator_jobs_open", Count, "validator", "Jobs that it judges and has no verdict on yet."),
    metric(Counter, "stoa_validator_verdicts_total", Count, "outcome", "Verdicts by what was found."),
    metric(Counter, "stoa_validator_calls_total", Count, "call, result", "Transactions by what they do; result `done`, `refused` by the contract (another one was faster, or the phase is over) or `failed` (tried again)."),

    metric(Gauge, "stoa_planter_plants_open", Count, "", "Plants that are ordered and not named yet."),
    metric(Counter, "stoa_planter_calls_total", Count, "call, result", "A planter's transactions by what they do; result as of a validator's."),

    metric(Gauge, "stoa_upstream_healthy", Count, "", "1 while the upstream server can be used."),
    metric(Counter, "stoa_upstream_requests_total", Count, "outcome", "Requests to the upstream server."),
    metric(Histogram, "stoa_upstream_first_event_seconds", Seconds, "", "From a request to the upstream server to the beginning of its answer."),
    metric(Counter, "stoa_upstream_usage_differs_total", Count, "kind", "Answers whose token count the upstream server gave otherwise than they were counted."),

    metric(Counter, "stoa_telemetry_spans_total", Count, "outcome", "Spans of traces by outcome: `sent`, or `lost` because the collector was away or slow."),

    metric(Gauge, "stoa_chain_head_block", Count, "", "Height of the embedded chain."),
    metric(Counter, "stoa_chain_transactions_total", Count, "", "Transactions in blocks since the start."),
];

/// From a fast disk's sync to a long answer: 0.5 ms to two minutes.
const BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0,
];

/// Makes this process measure. Call it once, before anything is measured.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(seconds, BUCKETS)?
        .install_recorder()?;
    for metric in METRICS {
        let text = match metric.labels {
            "" => metric.text.to_owned(),
            labels => format!("{} Labels: {labels}.", metric.text),
        };
        match metric.kind {
            Counter => metrics::describe_counter!(metric.name, metric.unit, text),
            Gauge => metrics::describe_gauge!(metric.name, metric.unit, text),
            Histogram => metrics::describe_histogram!(metric.name, metric.unit, text),
        }
    }
    metrics::gauge!("stoa_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    metrics::gauge!("stoa_start_time_seconds").set(since.unwrap_or_default().as_secs_f64());
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fmt::Write;
    use std::path::Path;

    const BEGIN: &str = "<!-- metrics: written by STOA_BLESS=1 cargo test -p stoa measures -->\n";
    const END: &str = "<!-- end of metrics -->";

    fn table() -> String {
        let mut text = "\n| metric | kind | labels | says |\n|---|---|---|---|\n".to_owned();
        for metric in METRICS {
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let (name, labels, says) = (metric.name, metric.labels, metric.text);
            let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {says} |");
        }
        text + "\n"
    }

    #[test]
    fn the_page_for_operators_lists_the_metrics_that_there_are() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
        let page = std::fs::read_to_string(&path).expect("there is a page");
        let (before, rest) = page.split_once(BEGIN).expect("the table begins");
        let (kept, after) = rest.split_once(END).expect("the table ends");
        if std::env::var_os("STOA_BLESS").is_some() {
            let page = [before, BEGIN, &table(), END, after].concat();
            return std::fs::write(&path, page).expect("writes");
        }
        assert!(
            kept == table(),
            "the table of docs/operations.md is stale: STOA_BLESS=1 cargo test -p stoa measures"
        );
    }

    fn sources(folder: &Path, found: &mut String) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs")
                && !path.ends_with("measures.rs")
            {
                *found += &std::fs::read_to_string(&path).expect("a source");
            }
        }
    }

    #[test]
    fn what_the_code_measures_is_listed_and_what_is_listed_is_measured() {
        let mut source = String::new();
        for member in
            std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("the crates")
        {
            sources(&member.expect("readable").path().join("src"), &mut source);
        }
        let listed: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        for kind in ["counter", "gauge", "histogram"] {
            for behind in source.split(&format!("metrics::{kind}!(")).skip(1) {
                // A name that is handed over is written elsewhere.
                if let Some(name) = behind.trim_start().strip_prefix('"') {
                    let name = name.split('"').next().unwrap_or_default();
                    assert!(listed.contains(name), "{name} is not listed");
                }
            }
        }
        let own = ["stoa_build_info", "stoa_start_time_seconds"];
        for name in listed.iter().filter(|name| !own.contains(name)) {
            assert!(source.contains(&format!("\"{name}\"")), "{name}: nobody");
        }
    }

    #[test]
    fn names_say_their_unit_and_are_unique() {
        let mut seen = BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("stoa_"), "{name}");
            assert_eq!(name.ends_with("_seconds"), metric.unit == Seconds, "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Counter, "{name}");
        }
    }
}
