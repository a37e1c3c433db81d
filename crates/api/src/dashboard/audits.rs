//! Who checks, what was ruled, who was slashed.

use super::pages::{Section, section};
use super::parts::{
    Column, Row, dash, job_link, or_dash, provider_or_dash, short, state, table, text, time,
    time_or_dash,
};
use crate::board::{Audits, RoundRow, RulingRow, SlashRow, ValidatorRow};
use maud::{Markup, html};

pub(super) fn sections(audits: &Audits) -> Vec<Section> {
    let none = if audits.followed {
        "No audits yet: no validator has staked or taken a seat on this chain."
    } else {
        "No audits yet: on this chain nobody may slash."
    };
    vec![
        section(
            "validators",
            "Validators",
            validator_table(&audits.validators, none),
        ),
        section("rounds", "Rounds", round_table(&audits.rounds)),
        section(
            "rulings",
            "Rulings",
            ruling_table(&audits.rulings, "Nothing was ruled yet."),
        ),
        section(
            "slashes",
            "Slashes",
            slash_table(&audits.slashes, "Nobody was slashed yet."),
        ),
    ]
}

fn validator_table(validators: &[ValidatorRow], nothing: &str) -> Markup {
    let columns: [Column; 9] = [
        ("Validator", false),
        ("State", false),
        ("Stake", true),
        ("Reveals", true),
        ("Ballots", true),
        ("Shown", true),
        ("Differed", true),
        ("Slashes", true),
        ("Last heard of", true),
    ];
    let row = |row: &ValidatorRow| -> Row {
        let cells = vec![
            short(row.id),
            state(if row.seated { "seated" } else { "no seat" }),
            row.stake.map_or_else(dash, |stake| text(stake.active)),
            text(row.revealed),
            text(row.ballots),
            text(row.unsealed),
            text(row.differed),
            text(row.slashes),
            time_or_dash(row.last_at),
        ];
        (row.id.to_string(), cells)
    };
    let rows: Vec<Row> = validators.iter().map(row).collect();
    table("Validators", &columns, &rows, nothing)
}

fn round_table(rounds: &[RoundRow]) -> Markup {
    let columns: [Column; 5] = [
        ("Round", true),
        ("Where it stands", false),
        ("Committee", true),
        ("Beacon", false),
        ("Opened", true),
    ];
    let row = |row: &RoundRow| -> Row {
        let cells = vec![
            text(row.round),
            text(&row.phase),
            text(row.committee),
            row.beacon.map_or_else(dash, short),
            time(row.opened_at),
        ];
        (row.round.to_string(), cells)
    };
    let rows: Vec<Row> = rounds.iter().map(row).collect();
    table("Rounds", &columns, &rows, "No round was opened yet.")
}

pub(super) fn ruling_table(rulings: &[RulingRow], nothing: &str) -> Markup {
    let columns: [Column; 6] = [
        ("Found", false),
        ("Provider", false),
        ("Job", false),
        ("Subject", false),
        ("Transaction", false),
        ("When", true),
    ];
    let row = |row: &RulingRow| -> Row {
        let cells = vec![
            html! { (state(if row.fault { "fault" } else { "ruled" })) " " span.prose { (row.outcome) } },
            provider_or_dash(row.about),
            row.job.map_or_else(dash, job_link),
            short(row.subject),
            short(row.transaction),
            time(row.at),
        ];
        // A subject that no panel could judge may be ruled on again.
        (format!("{}-{}", row.subject, row.transaction), cells)
    };
    let rows: Vec<Row> = rulings.iter().map(row).collect();
    table("Rulings", &columns, &rows, nothing)
}

pub(super) fn slash_table(slashes: &[SlashRow], nothing: &str) -> Markup {
    let columns: [Column; 8] = [
        ("Why", false),
        ("Who", false),
        ("As", false),
        ("Share", true),
        ("Taken", true),
        ("To developer / challenger / burned", true),
        ("Transaction", false),
        ("When", true),
    ];
    let row = |row: &SlashRow| -> Row {
        let cells = vec![
            html! { span.prose { (or_dash(row.why.as_ref())) } },
            short(row.offender),
            text(row.role),
            html! { (row.severity_bps / 100) "." (format!("{:02}", row.severity_bps % 100)) " %" },
            text(row.taken),
            html! { (row.developer) " / " (row.challenger) " / " (row.burned) },
            short(row.transaction),
            time(row.at),
        ];
        (row.fault.to_string(), cells)
    };
    let rows: Vec<Row> = slashes.iter().map(row).collect();
    table("Slashes", &columns, &rows, nothing)
}
