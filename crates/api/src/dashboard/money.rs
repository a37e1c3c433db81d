//! Balances, batches, payouts, keys, and what of it needs a hand soon.

use super::pages::{Section, section};
use super::parts::{
    Column, Row, bar, dash, job_link, or_dash, provider_link, short, state, table, text, time,
    time_or_dash, units,
};
use crate::board::{KeyUse, Money, Overview, PayoutRow};
use crate::calendar;
use crate::keys::{Grant, Scope};
use crate::port::{AccountRow, BatchRow};
use maud::{Markup, html};
use stoa_types::{Millis, Timestamp, TokenAmount};

/// From this share of a limit on there is an alert, in percent.
const ALERT_PERCENT: u128 = 80;
/// An end that is nearer than this is an alert.
const ALERT_AHEAD: Millis = Millis::from_secs(3_600);

pub(super) fn sections(money: &Money) -> Vec<Section> {
    vec![
        section("balances", "Balances", account_table(&money.accounts)),
        section("batches", "Batches", batch_table(&money.batches)),
        section("payouts", "Payouts", payout_table(&money.payouts)),
    ]
}

fn account_table(accounts: &[AccountRow]) -> Markup {
    let columns: [Column; 7] = [
        ("Account", false),
        ("Vault", true),
        ("Allotment", true),
        ("Reserved", true),
        ("Charged", true),
        ("Available", true),
        ("Expires", true),
    ];
    let row = |row: &AccountRow| -> Row {
        let cells = vec![
            short(row.account),
            units(row.vault_balance),
            units(row.allotment_cap),
            units(row.reserved),
            units(row.charged),
            units(row.available),
            time(row.expires_at),
        ];
        (row.account.to_string(), cells)
    };
    let rows: Vec<Row> = accounts.iter().map(row).collect();
    table("Balances", &columns, &rows, "No allotment to this router.")
}

pub(super) fn batch_table(batches: &[BatchRow]) -> Markup {
    let columns: [Column; 8] = [
        ("Batch", true),
        ("State", false),
        ("Receipts", true),
        ("Total", true),
        ("Root", false),
        ("Transaction", false),
        ("Posted", true),
        ("Jobs", false),
    ];
    let row = |row: &BatchRow| -> Row {
        let cells = vec![
            text(row.batch),
            state(&row.state),
            text(row.receipts),
            units(row.total),
            short(row.root),
            row.transaction.map_or_else(dash, short),
            time_or_dash(row.posted_at),
            html! {
                details {
                    summary { (row.jobs.len()) " shown" }
                    @for job in &row.jobs { (job_link(*job)) " " }
                }
            },
        ];
        (row.batch.to_string(), cells)
    };
    let rows: Vec<Row> = batches.iter().map(row).collect();
    table("Batches", &columns, &rows, "No batch yet.")
}

pub(super) fn payout_table(payouts: &[PayoutRow]) -> Markup {
    let columns: [Column; 5] = [
        ("Provider", false),
        ("Fee version", true),
        ("Earned before fees", true),
        ("Claimable in all", true),
        ("Claimed", true),
    ];
    let row = |row: &PayoutRow| -> Row {
        let cells = vec![
            provider_link(row.provider),
            text(row.fee_version),
            units(row.gross),
            units(row.claimable),
            or_dash(row.claimed),
        ];
        (format!("{}-{}", row.provider, row.fee_version), cells)
    };
    let rows: Vec<Row> = payouts.iter().map(row).collect();
    table("Payouts", &columns, &rows, "Nothing was earned yet.")
}

/// The keys' page.
pub(super) fn keys(uses: &[KeyUse], now: Timestamp) -> Vec<Section> {
    vec![
        section("keys", "Keys", key_table(uses, now)),
        section("spend", "Spending by day", spend_table(uses)),
    ]
}

fn key_table(uses: &[KeyUse], now: Timestamp) -> Markup {
    let columns: [Column; 9] = [
        ("Key", false),
        ("Name", false),
        ("State", false),
        ("May", false),
        ("Spent", true),
        ("Held", true),
        ("Limit", true),
        ("Begins anew", true),
        ("Account", false),
    ];
    let row = |used: &KeyUse| -> Row {
        let (row, record) = (&used.row, &used.row.record);
        let limit = record.grant.spend_limit;
        let cells = vec![
            html! { code { (record.id) } },
            text(&record.name),
            state(key_state(used, now)),
            html! { span.prose { (grant_words(&record.grant)) } },
            units(row.spent),
            units(row.held),
            limit.map_or_else(dash, |limit| {
                html! { (limit.amount) " a " (limit.period.as_str())
                (bar(row.spent.units(), limit.amount.units())) }
            }),
            time_or_dash(row.resets_at),
            short(record.account),
        ];
        (record.id.to_string(), cells)
    };
    let rows: Vec<Row> = uses.iter().map(row).collect();
    table("Keys", &columns, &rows, "No key.")
}

fn key_state(used: &KeyUse, now: Timestamp) -> &'static str {
    let record = &used.row.record;
    let ends = record.grant.expires_at;
    if record.revoked_at.is_some() {
        "revoked"
    } else if ends.is_some_and(|end| end <= now) {
        "expired"
    } else {
        match used_percent(used) {
            Some(100..) => "limit reached",
            Some(ALERT_PERCENT..) => "near its limit",
            _ => "valid",
        }
    }
}

/// How much of its limit a key has spent or holds.
fn used_percent(used: &KeyUse) -> Option<u128> {
    let limit = used.row.record.grant.spend_limit?;
    let all = used.row.spent.units().saturating_add(used.row.held.units());
    Some(
        all.saturating_mul(100)
            .checked_div(limit.amount.units())
            .unwrap_or(100),
    )
}

fn grant_words(grant: &Grant) -> String {
    let mut words = Vec::new();
    if let Some(routes) = &grant.routes {
        let names: Vec<_> = routes.iter().copied().map(Scope::as_str).collect();
        words.push(format!("only {}", names.join(", ")));
    }
    if let Some(models) = &grant.models {
        let names: Vec<_> = models.iter().map(String::as_str).collect();
        words.push(format!("only the models {}", names.join(", ")));
    }
    if let Some(rate) = grant.rate_limit {
        words.push(format!(
            "{} calls and {} tokens a minute",
            rate.requests_per_minute, rate.tokens_per_minute
        ));
    }
    if let Some(end) = grant.expires_at {
        words.push(format!("until {}", calendar::rfc3339(end)));
    }
    if words.is_empty() {
        "everything".to_owned()
    } else {
        words.join("; ")
    }
}

fn spend_table(uses: &[KeyUse]) -> Markup {
    let columns: [Column; 4] = [
        ("Day", false),
        ("Key", false),
        ("Charged", true),
        ("Beside the dearest", false),
    ];
    let mut days: Vec<(u64, &KeyUse, TokenAmount)> = uses
        .iter()
        .flat_map(|used| used.days.iter().map(move |(day, sum)| (*day, used, *sum)))
        .collect();
    days.sort_by_key(|(day, used, _)| (std::cmp::Reverse(*day), used.row.record.id));
    let dearest = days.iter().map(|(.., sum)| sum.units()).max().unwrap_or(0);
    let row = |(day, used, sum): &(u64, &KeyUse, TokenAmount)| -> Row {
        let record = &used.row.record;
        let cells = vec![
            text(calendar::date(*day)),
            html! { code { (record.id) } " " (record.name) },
            units(*sum),
            bar(sum.units(), dearest),
        ];
        (format!("{day}-{}", record.id), cells)
    };
    let rows: Vec<Row> = days.iter().map(row).collect();
    table(
        "Spending by day",
        &columns,
        &rows,
        "Nothing was charged in the last 14 days.",
    )
}

/// What needs a hand soon. Nothing is sent anywhere: the same numbers are in the metrics, for alerts that are.
pub(super) fn alerts(overview: &Overview, uses: &[KeyUse]) -> Markup {
    let now = overview.now;
    let mut told: Vec<Markup> = Vec::new();
    for part in overview.parts.iter().filter(|part| part.problem.is_some()) {
        told.push(html! { "The part “" (part.part) "” does not work: " (or_dash(part.problem.as_ref())) "." });
    }
    for row in &overview.accounts {
        told.extend(account_alert(row, now));
    }
    for used in uses
        .iter()
        .filter(|used| used.row.record.revoked_at.is_none())
    {
        told.extend(key_alert(used, now));
    }
    for row in overview.providers.iter().filter(|row| !row.online) {
        told.push(html! { "Provider " (provider_link(row.id)) " is not connected." });
    }
    html! {
        @if told.is_empty() {
            p.none { "Nothing needs a hand." }
        } @else {
            ul.alerts { @for alert in &told { li { (alert) } } }
        }
    }
}

fn account_alert(row: &AccountRow, now: Timestamp) -> Option<Markup> {
    let used = row
        .allotment_cap
        .units()
        .saturating_sub(row.available.units());
    let percent = used
        .saturating_mul(100)
        .checked_div(row.allotment_cap.units());
    if row.expires_at <= now {
        Some(
            html! { "The allotment of " (short(row.account)) " is over: its calls are refused until it is renewed." },
        )
    } else if row.expires_at.since(now) < ALERT_AHEAD {
        Some(html! { "The allotment of " (short(row.account)) " ends " (time(row.expires_at)) "." })
    } else if percent.is_some_and(|percent| percent >= ALERT_PERCENT) {
        Some(
            html! { "Of the allotment of " (short(row.account)) " only " (row.available) " of " (row.allotment_cap) " is free." },
        )
    } else {
        None
    }
}

fn key_alert(used: &KeyUse, now: Timestamp) -> Option<Markup> {
    let record = &used.row.record;
    let name = html! { code { (record.id) } " (" (record.name) ")" };
    match (used_percent(used), record.grant.expires_at) {
        (_, Some(end)) if end <= now => None,
        (Some(100..), _) => {
            Some(html! { "Key " (name) " has used its limit up: its calls are refused." })
        }
        (Some(percent @ ALERT_PERCENT..), _) => {
            Some(html! { "Key " (name) " has used " (percent) " % of its limit." })
        }
        (_, Some(end)) if end.since(now) < ALERT_AHEAD => {
            Some(html! { "Key " (name) " ends " (time(end)) "." })
        }
        _ => None,
    }
}
