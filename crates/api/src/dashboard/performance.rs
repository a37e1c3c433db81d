//! How calls went since the router started.

use super::pages::{Section, section};
use super::parts::{Column, Row, bar, dash, share, table, terms, text, time};
use crate::board::{Histogram, Performance};
use maud::{Markup, html};

pub(super) fn sections(performance: &Performance) -> Vec<Section> {
    vec![
        section("calls", "Calls", calls(performance)),
        section("causes", "Why calls failed", causes(performance)),
        section(
            "first-token",
            "From the call to the first token",
            histogram("First token", &performance.first_token),
        ),
        section(
            "total",
            "From the call to its charged receipt",
            histogram("Total", &performance.total),
        ),
        section(
            "queue",
            "From the call to the choice of a provider",
            histogram("Queue", &performance.queue),
        ),
    ]
}

fn calls(p: &Performance) -> Markup {
    let sought = p.matched + p.unmatched;
    terms(&[
        ("Counted since", time(p.since)),
        ("Calls", text(p.calls)),
        (
            "Match rate",
            html! { (share(p.matched, sought)) ", " (p.matched) " of " (sought) " for which a provider was looked for" },
        ),
        (
            "Refused before",
            html! { (p.refused) ": the request or its cover" },
        ),
        ("Answered", text(p.delivered)),
        ("Failed after the match", text(p.failed)),
        ("Left by their clients", text(p.left)),
        (
            "Answered by another than the first choice",
            text(p.failovers),
        ),
        (
            "Cold starts",
            html! { (p.cold_starts) " (first choices that had to load the model)" },
        ),
    ])
}

fn causes(p: &Performance) -> Markup {
    let columns: [Column; 3] = [("Cause", false), ("Calls", true), ("Share", false)];
    let all: u64 = p.causes.iter().map(|(_, count)| count).sum();
    let row = |(cause, count): &(&'static str, u64)| -> Row {
        let cells = vec![
            html! { code { (cause) } },
            text(count),
            bar(u128::from(*count), u128::from(all)),
        ];
        ((*cause).to_owned(), cells)
    };
    let rows: Vec<Row> = p.causes.iter().map(row).collect();
    table("Causes", &columns, &rows, "No call has failed.")
}

fn histogram(name: &str, histogram: &Histogram) -> Markup {
    let columns: [Column; 3] = [("Within", true), ("Calls", true), ("Share", false)];
    let all = histogram.count();
    let bound =
        |bound: Option<u64>| bound.map_or_else(|| "longer".to_owned(), |ms| format!("{ms} ms"));
    // Empty buckets at both ends say nothing.
    let last = histogram.buckets().filter(|(_, n)| *n > 0).count();
    let mut seen = 0;
    let shown = histogram.buckets().filter(|(_, count)| {
        let between = seen > 0 && seen < last;
        seen += usize::from(*count > 0);
        *count > 0 || between
    });
    let rows: Vec<Row> = shown
        .map(|(limit, count)| {
            let cells = vec![
                text(bound(limit)),
                text(count),
                bar(u128::from(count), u128::from(all)),
            ];
            (bound(limit), cells)
        })
        .collect();
    let quantile = |percent| {
        histogram
            .quantile(percent)
            .map_or_else(dash, |b| text(bound(b)))
    };
    html! {
        @if all > 0 {
            p.note { "Half within " (quantile(50)) ", 95 % within " (quantile(95)) ", 99 % within " (quantile(99)) "." }
        }
        (table(name, &columns, &rows, "No call was counted yet."))
    }
}
