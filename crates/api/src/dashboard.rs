//! The dashboard: server-rendered pages behind a login link. One small script replaces the tables every second with what the server
//! renders; everything is escaped by the template, and the content policy allows no other script.

use crate::error::ApiError;
use crate::guard::text_value;
use crate::info::{documents, job_id};
use crate::port::{
    AccountRow, BatchRow, Gateway, JobRow, Overview, ProviderRow, ReceiptView, Viewer,
};
use crate::server::App;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use serde_json::Value;
use std::fmt::Display;
use std::sync::Arc;
use stoa_types::{JobId, JobState, Timestamp};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Values nested deeper than this are shown as JSON text.
const NESTING_MAX: usize = 6;

fn page_response(status: StatusCode, body: Markup) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ];
    (status, headers, body.into_string()).into_response()
}

fn layout(title: &str, live: bool, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/dashboard/page.css";
                @if live { script type="module" src="/dashboard/page.js" {} }
            }
            body { (body) }
        }
    }
}

/// The login link: sets the cookie. The page moves on by itself, because a redirect that began on another site would leave a
/// strict cookie behind.
pub(crate) async fn login(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let token = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))
        .unwrap_or_default();
    if !app.login.accepts(token) {
        return Err(ApiError::BadLogin);
    }
    let body = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content="0;url=/";
                title { "Stoa: logged in" }
            }
            body { p { "Logged in. " a href="/" { "To the dashboard" } } }
        }
    };
    let mut response = page_response(StatusCode::OK, body);
    response
        .headers_mut()
        .insert(header::SET_COOKIE, text_value(app.login.set_cookie()));
    Ok(response)
}

pub(crate) async fn page(State(app): State<Arc<App>>) -> Response {
    let body = html! {
        header {
            h1 { "Stoa" }
            p #connection role="status" { "live" }
        }
        main #live { (tables(&app.gateway.overview())) }
    };
    page_response(StatusCode::OK, layout("Stoa", true, &body))
}

/// The tables alone, for the script.
pub(crate) async fn live(State(app): State<Arc<App>>) -> Response {
    page_response(StatusCode::OK, tables(&app.gateway.overview()))
}

/// The same as JSON.
pub(crate) async fn data(State(app): State<Arc<App>>) -> Json<Overview> {
    Json(app.gateway.overview())
}

/// Receipt and rationale of one job.
pub(crate) async fn job(
    State(app): State<Arc<App>>,
    Path(job): Path<String>,
) -> Result<Response, ApiError> {
    let id = job_id(&job).ok_or(ApiError::NotFound { what: "job" })?;
    let viewer = Viewer::Operator;
    let look_up =
        move |gateway: &dyn Gateway| (gateway.receipt(viewer, id), gateway.explain(viewer, id));
    let (receipt, rationale) = documents(&app, look_up).await?;
    if receipt.is_none() && rationale.is_none() {
        return Err(ApiError::NotFound { what: "job" });
    }
    let body = html! {
        header { h1 { a href="/" { "Stoa" } " / job" } }
        main {
            p.id { (id) }
            section {
                h2 { "Why this provider" }
                @match &rationale {
                    Some(value) => (tree(value, 0)),
                    None => p.none { "No decision is logged for this job." },
                }
            }
            section {
                h2 { "Receipt" }
                @match &receipt {
                    Some(view) => (receipt_section(view)),
                    None => p.none { "No receipt yet." },
                }
            }
        }
    };
    Ok(page_response(
        StatusCode::OK,
        layout("Stoa: job", false, &body),
    ))
}

fn receipt_section(view: &ReceiptView) -> Markup {
    let value = serde_json::to_value(view).unwrap_or(Value::Null);
    html! {
        p { "State: " strong { (state_word(view.state)) } ". Charge: " (view.receipt.receipt.charge) "." }
        (tree(&value, 0))
    }
}

pub(crate) async fn script() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")],
        include_str!("../assets/page.js"),
    )
}

pub(crate) async fn style() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("../assets/page.css"),
    )
}

fn tables(overview: &Overview) -> Markup {
    html! {
        p.facts { "Chain " (overview.chain_id) ", block " (overview.block) }
        section { h2 { "Jobs" } (job_table(&overview.jobs, overview.now)) }
        section { h2 { "Balances" } (account_table(&overview.accounts, overview.now)) }
        section { h2 { "Batches" } (batch_table(&overview.batches, overview.now)) }
        section { h2 { "Providers" } (provider_table(&overview.providers)) }
    }
}

/// A table, or one sentence where there is nothing to show.
fn table(heads: &[(&str, bool)], empty: bool, nothing: &str, rows: &Markup) -> Markup {
    html! {
        @if empty {
            p.none { (nothing) }
        } @else {
            div.scroll {
                table {
                    thead { tr { @for (head, number) in heads { th.number[*number] scope="col" { (head) } } } }
                    tbody { (rows) }
                }
            }
        }
    }
}

fn job_table(jobs: &[JobRow], now: Timestamp) -> Markup {
    let heads = [
        ("Job", false),
        ("State", false),
        ("Model", false),
        ("Provider", false),
        ("Price / 10⁶", true),
        ("TTFT", true),
        ("Tokens in", true),
        ("Tokens out", true),
        ("Amount", true),
        ("Age", true),
    ];
    let rows = html! {
        @for job in jobs {
            tr {
                td { (job_link(job.job)) }
                td { span.state data-state=(state_word(job.state)) { (state_word(job.state)) } }
                td { (job.model) }
                td { @if let Some(provider) = job.provider { (short(provider)) } @else { "–" } }
                td.number { (or_dash(job.output_price)) }
                td.number { @if let Some(ms) = job.ttft_ms { (ms) " ms" } @else { "–" } }
                td.number { (job.input_units) }
                td.number { (job.output_units) }
                td.number { (job.amount) }
                td.number { (age(now, job.reserved_at)) }
            }
        }
    };
    table(&heads, jobs.is_empty(), "No call yet.", &rows)
}

fn account_table(accounts: &[AccountRow], now: Timestamp) -> Markup {
    let heads = [
        ("Account", false),
        ("Vault", true),
        ("Allotment", true),
        ("Reserved", true),
        ("Charged", true),
        ("Available", true),
        ("Expires in", true),
    ];
    let rows = html! {
        @for row in accounts {
            tr {
                td { (short(row.account)) }
                td.number { (row.vault_balance) }
                td.number { (row.allotment_cap) }
                td.number { (row.reserved) }
                td.number { (row.charged) }
                td.number { (row.available) }
                td.number { (age(row.expires_at, now)) }
            }
        }
    };
    table(&heads, accounts.is_empty(), "No account.", &rows)
}

fn batch_table(batches: &[BatchRow], now: Timestamp) -> Markup {
    let heads = [
        ("Batch", true),
        ("State", false),
        ("Receipts", true),
        ("Total", true),
        ("Root", false),
        ("Transaction", false),
        ("Age", true),
        ("Jobs", false),
    ];
    let rows = html! {
        @for row in batches {
            tr {
                td.number { (row.batch) }
                td { span.state data-state=(row.state) { (row.state) } }
                td.number { (row.receipts) }
                td.number { (row.total) }
                td { (short(row.root)) }
                td { @if let Some(hash) = row.transaction { (short(hash)) } @else { "–" } }
                td.number { @if let Some(at) = row.posted_at { (age(now, at)) } @else { "–" } }
                td {
                    details {
                        summary { (row.jobs.len()) }
                        @for job in &row.jobs { (job_link(*job)) " " }
                    }
                }
            }
        }
    };
    table(&heads, batches.is_empty(), "No batch yet.", &rows)
}

fn provider_table(providers: &[ProviderRow]) -> Markup {
    let heads = [
        ("Provider", false),
        ("State", false),
        ("Region", false),
        ("Models", false),
        ("In / 10⁶", true),
        ("Out / 10⁶", true),
        ("Free", true),
        ("Reputation", true),
        ("Jobs", true),
        ("TTFT", true),
    ];
    let rows = html! {
        @for row in providers {
            tr {
                td { (short(row.id)) }
                td {
                    @let word = if row.online { "online" } else { "offline" };
                    span.state data-state=(word) { (word) }
                }
                td { (row.region) }
                td { (row.models.join(", ")) }
                td.number { (row.input_price) }
                td.number { (row.output_price) }
                td.number { (row.free_slots) "/" (row.slots) }
                td.number { (row.reputation_ppm / 10_000) " %" }
                td.number { (row.jobs) }
                td.number { @if let Some(ms) = row.ttft_ms { (ms) " ms" } @else { "–" } }
            }
        }
    };
    table(&heads, providers.is_empty(), "No provider is known.", &rows)
}

/// Any JSON: objects as lists of terms, arrays of objects as tables, the rest as text.
fn tree(value: &Value, depth: usize) -> Markup {
    match value {
        Value::Object(_) | Value::Array(_) if depth >= NESTING_MAX => {
            html! { code { (value.to_string()) } }
        }
        Value::Object(fields) => html! {
            dl {
                @for (name, value) in fields {
                    dt { (name) }
                    dd { (tree(value, depth + 1)) }
                }
            }
        },
        Value::Array(items) if items.is_empty() => html! { span.none { "none" } },
        Value::Array(items) => match columns(items) {
            Some(columns) => tree_table(items, &columns, depth),
            None => html! { ul { @for item in items { li { (tree(item, depth + 1)) } } } },
        },
        Value::String(text) => html! { (text) },
        Value::Null => html! { "–" },
        other => html! { (other.to_string()) },
    }
}

fn tree_table(items: &[Value], columns: &[String], depth: usize) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { @for name in columns { th scope="col" { (name) } } } }
                tbody {
                    @for item in items {
                        tr { @for name in columns { td { (tree(item.get(name).unwrap_or(&Value::Null), depth + 1)) } } }
                    }
                }
            }
        }
    }
}

/// Names of the fields, when every item is an object.
fn columns(items: &[Value]) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for item in items {
        for name in item.as_object()?.keys() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    Some(names)
}

fn job_link(job: JobId) -> Markup {
    html! { a.id href={ "/dashboard/jobs/" (job) } title=(job) { (abbreviated(job)) } }
}

fn short(id: impl Display + Copy) -> Markup {
    html! { span.id title=(id) { (abbreviated(id)) } }
}

/// `0x12345678…9abc`.
fn abbreviated(id: impl Display) -> String {
    let text = id.to_string();
    if text.len() > 16 && text.is_ascii() {
        format!("{}…{}", &text[..10], &text[text.len() - 4..])
    } else {
        text
    }
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

fn age(later: Timestamp, earlier: Timestamp) -> String {
    match later.since(earlier).0 / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Reserved => "reserved",
        JobState::Dispatched => "dispatched",
        JobState::Accepted => "accepted",
        JobState::Delivered => "delivered",
        JobState::Committed => "committed",
        JobState::Settled => "settled",
        JobState::Refunded => "refunded",
        JobState::TimedOut => "timed_out",
        JobState::Reversed => "reversed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_of_strangers_is_escaped_wherever_it_stands() {
        let hostile = "<script>alert(1)</script>\"'&";
        let value = json!({hostile: [{hostile: hostile}, {"b": [hostile]}]});
        let shown = tree(&value, 0).into_string();
        assert!(!shown.contains("<script>"), "{shown}");
        assert!(shown.contains("&lt;script&gt;"));
    }

    #[test]
    fn ages_are_read_at_a_glance() {
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h")] {
            assert_eq!(age(Timestamp::from_secs(seconds), Timestamp(0)), text);
        }
        assert_eq!(age(Timestamp(0), Timestamp::from_secs(9)), "0 s");
    }
}
