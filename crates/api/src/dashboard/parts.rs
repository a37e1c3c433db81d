//! What all pages are made of: tables, ids, times, states.

use crate::calendar;
use maud::{Markup, html};
use serde_json::Value;
use std::fmt::Display;
use stoa_types::{Address, JobId, JobState, Timestamp, TokenAmount};

/// Values nested deeper than this are shown as JSON text.
const NESTING_MAX: usize = 6;

/// Head of a column; numbers are set to the right.
pub(super) type Column = (&'static str, bool);

/// A row: what it is about, so that the script finds it again, and its cells.
pub(super) type Row = (String, Vec<Markup>);

/// A table, or one sentence where there is nothing to show. On a narrow screen each row becomes a card, so every cell repeats its head;
/// the roles keep the table a table for screen readers then.
pub(super) fn table(name: &str, columns: &[Column], rows: &[Row], nothing: &str) -> Markup {
    html! {
        @if rows.is_empty() {
            p.none { (nothing) }
        } @else {
            div.scroll tabindex="0" role="group" aria-label=(name) {
                table role="table" aria-label=(name) {
                    thead role="rowgroup" {
                        tr role="row" {
                            @for (head, number) in columns { th.number[*number] role="columnheader" scope="col" { (head) } }
                        }
                    }
                    tbody role="rowgroup" {
                        @for (key, cells) in rows {
                            tr role="row" data-key=(key) {
                                @for ((head, number), cell) in columns.iter().zip(cells) {
                                    td.number[*number] role="cell" data-head=(head) { (cell) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Terms and what they are.
pub(super) fn terms(pairs: &[(&str, Markup)]) -> Markup {
    html! { dl { @for (term, what) in pairs { dt { (term) } dd { (what) } } } }
}

pub(super) fn text(value: impl Display) -> Markup {
    html! { (value.to_string()) }
}

pub(super) fn or_dash(value: Option<impl Display>) -> Markup {
    value.map_or_else(dash, text)
}

pub(super) fn dash() -> Markup {
    html! { span.none { "–" } }
}

pub(super) fn ms(value: Option<u64>) -> Markup {
    value.map_or_else(dash, |ms| html! { (ms) " ms" })
}

/// Parts per million as percent.
pub(super) fn percent(ppm: u32) -> Markup {
    html! { (ppm / 10_000) "." (ppm / 1_000 % 10) " %" }
}

/// A share of a whole in percent; a dash where the whole is nothing.
pub(super) fn share(part: u64, whole: u64) -> Markup {
    match (part * 1_000).checked_div(whole) {
        None => dash(),
        Some(tenths) => html! { (tenths / 10) "." (tenths % 10) " %" },
    }
}

/// A state with its colour; the word says it too.
pub(super) fn state(word: &str) -> Markup {
    html! { span.state data-state=(word) { (word.replace('_', " ")) } }
}

/// An instant. The script turns the text into an age and keeps it right; the instant itself never changes, so that a page without news is
/// the same text.
pub(super) fn time(at: Timestamp) -> Markup {
    let written = calendar::rfc3339(at);
    html! { time datetime=(written) title=(written) { (written) } }
}

pub(super) fn time_or_dash(at: Option<Timestamp>) -> Markup {
    at.map_or_else(dash, time)
}

pub(super) fn job_link(job: JobId) -> Markup {
    html! { a.id href={ "/dashboard/jobs/" (job) } title=(job) { (abbreviated(job)) } }
}

pub(super) fn provider_link(id: Address) -> Markup {
    html! { a.id href={ "/dashboard/providers/" (id) } title=(id) { (abbreviated(id)) } }
}

pub(super) fn provider_or_dash(id: Option<Address>) -> Markup {
    id.map_or_else(dash, provider_link)
}

pub(super) fn short(id: impl Display + Copy) -> Markup {
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

/// A bar whose length is `part` of `whole`; what it says stands beside it in words.
pub(super) fn bar(part: u128, whole: u128) -> Markup {
    let width = part.min(whole).saturating_mul(100).checked_div(whole);
    html! {
        svg.bar viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            rect.track width="100" height="8" {}
            rect.fill width=(width.unwrap_or(0)) height="8" {}
        }
    }
}

/// A command to be run elsewhere, with a button that copies it.
pub(super) fn command(line: &str) -> Markup {
    html! {
        div.command {
            code { (line) }
            button type="button" data-copy=(line) { "Copy" }
        }
    }
}

pub(super) fn units(amount: TokenAmount) -> Markup {
    text(amount)
}

pub(super) fn state_word(state: JobState) -> &'static str {
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

/// Any JSON: objects as lists of terms, arrays as lists, the rest as text.
pub(super) fn tree(value: &Value, depth: usize) -> Markup {
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
        Value::Array(items) => {
            html! { ul { @for item in items { li { (tree(item, depth + 1)) } } } }
        }
        Value::String(text) => html! { (text) },
        Value::Null => dash(),
        other => html! { (other.to_string()) },
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
        let row = (hostile.to_owned(), vec![text(hostile), state(hostile)]);
        let columns = [("a", false), ("b", true)];
        for shown in [
            tree(&value, 0),
            table(hostile, &columns, &[row], ""),
            command(hostile),
        ] {
            let shown = shown.into_string();
            assert!(!shown.contains("<script>"), "{shown}");
            assert!(shown.contains("&lt;script&gt;") && !shown.contains("\"'&"));
        }
    }

    #[test]
    fn shares_are_cut_and_never_divide_by_nothing() {
        assert_eq!(share(2, 3).into_string(), "66.6 %");
        assert!(share(0, 0).into_string().contains('–'));
        assert_eq!(percent(1_000_000).into_string(), "100.0 %");
        assert!(bar(3, 0).into_string().contains("width=\"0\""));
    }
}
