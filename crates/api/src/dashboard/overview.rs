//! The first page: is it well, what happens, what needs a hand.

use super::calls::job_table;
use super::money::{alerts, batch_table};
use super::pages::{Section, section};
use super::parts::{Column, Row, percent, provider_link, short, state, table, terms, text};
use crate::board::{Board, Overview};
use crate::port::{ProviderRow, Viewer};
use maud::{Markup, html};

/// Batches on the first page.
const BATCHES: usize = 5;

pub(super) fn sections(board: &dyn Board, viewer: Viewer) -> Vec<Section> {
    let overview = board.overview(viewer);
    let keys = board.key_uses(viewer);
    let newest = overview.batches.iter().take(BATCHES).cloned();
    vec![
        section("state", "State", facts(&overview)),
        section("alerts", "Alerts", alerts(&overview, &keys)),
        section("jobs", "Newest jobs", job_table(&overview.jobs)),
        section(
            "providers",
            "Providers",
            provider_table(&overview.providers),
        ),
        section(
            "batches",
            "Newest batches",
            batch_table(&newest.collect::<Vec<_>>()),
        ),
    ]
}

fn facts(overview: &Overview) -> Markup {
    let parts = html! {
        @for part in &overview.parts {
            span.part {
                (state(if part.problem.is_some() { "failing" } else { "ok" })) " " (part.part)
                @if let Some(problem) = &part.problem { ": " (problem) }
            }
        }
    };
    terms(&[
        ("Parts", parts),
        ("Calls under way", text(overview.active)),
        ("Chain", text(overview.chain_id)),
        ("Block", text(overview.block)),
        ("Router", short(overview.router)),
    ])
}

fn provider_table(providers: &[ProviderRow]) -> Markup {
    let columns: [Column; 6] = [
        ("Provider", false),
        ("State", false),
        ("Models", false),
        ("Free slots", true),
        ("Reputation", true),
        ("Jobs since start", true),
    ];
    let row = |row: &ProviderRow| -> Row {
        let cells = vec![
            provider_link(row.id),
            state(if row.online { "online" } else { "offline" }),
            text(row.models.join(", ")),
            html! { (row.free_slots) "/" (row.slots) },
            percent(row.reputation_ppm),
            text(row.jobs),
        ];
        (row.id.to_string(), cells)
    };
    let rows: Vec<Row> = providers.iter().map(row).collect();
    table("Providers", &columns, &rows, "No provider is known.")
}
