//! Calls: the list, and one call with its rationale, its attempts and its receipt.

use super::pages::{Section, section};
use super::parts::{
    Column, Row, command, dash, job_link, ms, or_dash, percent, provider_link, provider_or_dash,
    short, state, state_word, table, terms, text, time, tree, units,
};
use crate::board::{CallView, Calls, FailedCall, LossRow};
use crate::port::{JobRow, ReceiptView};
use maud::{Markup, html};
use serde_json::Value;
use stoa_market::{Candidate, Decision, Rule, Score};
use stoa_types::{Address, Digest, JobId, Receipt, TokenAmount};
use stoa_verify::{Outcome, Report};

pub(super) fn list(calls: &Calls) -> Vec<Section> {
    vec![
        section("jobs", "Under way and charged", job_table(&calls.jobs)),
        section("failed", "Failed calls", failed_table(&calls.failed)),
        section("verify", "Check a receipt file", verify_form()),
    ]
}

pub(super) fn job_table(jobs: &[JobRow]) -> Markup {
    let columns: [Column; 9] = [
        ("Job", false),
        ("State", false),
        ("Model", false),
        ("Provider", false),
        ("First token", true),
        ("Tokens in", true),
        ("Tokens out", true),
        ("Amount", true),
        ("Since", true),
    ];
    let row = |job: &JobRow| -> Row {
        let cells = vec![
            job_link(job.job),
            state(state_word(job.state)),
            text(&job.model),
            provider_or_dash(job.provider),
            ms(job.ttft_ms),
            text(job.input_units),
            text(job.output_units),
            units(job.amount),
            time(job.reserved_at),
        ];
        (job.job.to_string(), cells)
    };
    let rows: Vec<Row> = jobs.iter().map(row).collect();
    table("Jobs", &columns, &rows, "No call yet.")
}

fn failed_table(calls: &[FailedCall]) -> Markup {
    let columns: [Column; 5] = [
        ("Job", false),
        ("Model", false),
        ("Why", false),
        ("Billed", true),
        ("When", true),
    ];
    let row = |call: &FailedCall| -> Row {
        let cells = vec![
            job_link(call.job),
            text(&call.model),
            html! { span.prose { (call.cause) } },
            units(call.billed),
            time(call.at),
        ];
        (call.job.to_string(), cells)
    };
    let rows: Vec<Row> = calls.iter().map(row).collect();
    let nothing = "No call has failed since the router started.";
    table("Failed calls", &columns, &rows, nothing)
}

/// A file is checked by the server: browsers have neither keccak nor secp256k1.
fn verify_form() -> Markup {
    html! {
        p { "A file saved by " code { "stoa ask --save FILE" } " is sent to this router, checked there as far as the file alone \
             allows, and not kept." }
        p { label for="receipt-file" { "Receipt file " } input #receipt-file type="file" accept=".json,application/json"; }
        div #receipt-report role="status" {}
        p { "Nobody has to believe this router. On your own machine, with the chain and the model:" }
        (command("stoa verify FILE --rpc RPC_URL --rerun MODEL"))
    }
}

pub(super) fn one(job: JobId, call: &CallView) -> Vec<Section> {
    let mut sections = vec![section("job", "The call", facts(job, call))];
    let why = match &call.decision {
        Some(decision) => rationale(decision),
        None => html! { p.none { "No choice of a provider is logged for this call." } },
    };
    sections.push(section("why", "Why this provider", why));
    if !call.losses.is_empty() {
        sections.push(section(
            "losses",
            "Lost attempts",
            loss_table(&call.losses, false),
        ));
    }
    let receipt = match &call.receipt {
        Some(view) => receipt_part(view),
        None => html! { p.none { "No receipt yet." } },
    };
    sections.push(section("receipt", "Receipt", receipt));
    if let Some(report) = &call.report {
        sections.push(section("checks", "Checked by this router", checks(report)));
    }
    sections
}

fn facts(job: JobId, call: &CallView) -> Markup {
    let mut pairs = vec![("Job", html! { code { (job) } })];
    if let Some(row) = &call.row {
        pairs.extend([
            ("State", state(state_word(row.state))),
            ("Model", text(&row.model)),
            ("Provider", provider_or_dash(row.provider)),
            ("Amount", units(row.amount)),
            ("Tokens in", text(row.input_units)),
            ("Tokens out", text(row.output_units)),
            ("First token", ms(row.ttft_ms)),
            ("Since", time(row.reserved_at)),
        ]);
    }
    if let Some(failed) = &call.failed {
        pairs.extend([
            ("State", state("failed")),
            ("Model", text(&failed.model)),
            ("Why", text(&failed.cause)),
            ("Billed", units(failed.billed)),
            ("When", time(failed.at)),
        ]);
    }
    if let Some((batch, transaction)) = call.batch {
        let posted = transaction.map_or_else(dash, |hash: Digest| short(hash));
        pairs.push(("Batch", html! { (batch) ", transaction " (posted) }));
    }
    terms(&pairs)
}

fn rationale(decision: &Decision) -> Markup {
    let place = |id: Address| decision.ranking.iter().position(|p| *p == id);
    let mut scores: Vec<&Score> = decision.scores.iter().collect();
    scores.sort_by_key(|score| place(score.provider).unwrap_or(usize::MAX));
    let weights = &decision.snapshot.weights;
    let replayed = match decision.replay() {
        Ok(()) => "Decided again from the logged inputs just now: the same choice.".to_owned(),
        Err(error) => format!("Decided again from the logged inputs just now: {error}!"),
    };
    html! {
        p { "The score is the sum of price × " (weights.price.get()) ", latency × " (weights.latency.get()) ", reliability × "
            (weights.reliability.get()) " and reputation × " (weights.reputation.get()) ", in ten-thousandths. Scores within "
            (weights.tie_bps.get()) " ten-thousandths of the best draw lots. " (replayed) }
        (score_table(decision, &scores))
        @if scores.iter().any(|score| score.behind) { p { (behind(&scores)) } }
        (left_out(&decision.excluded))
    }
}

/// Who was not placed by its score.
fn behind(scores: &[&Score]) -> String {
    let last = scores.iter().filter(|score| score.behind).count();
    format!(
        "The last {last} were placed after all others: their context is too short for the request, or another's is and they failed more \
         than they delivered or cost much more than the median."
    )
}

fn score_table(decision: &Decision, scores: &[&Score]) -> Markup {
    let columns: [Column; 9] = [
        ("Place", true),
        ("Provider", false),
        ("Score", true),
        ("Price", true),
        ("Latency", true),
        ("Reliability", true),
        ("Reputation", true),
        ("Asked per 10⁶ out", true),
        ("Predicted first token", true),
    ];
    let candidate = |id: Address| -> Option<&Candidate> {
        decision
            .snapshot
            .candidates
            .iter()
            .find(|c| c.provider == id)
    };
    let row = |(place, score): (usize, &&Score)| -> Row {
        let known = candidate(score.provider);
        let cells = vec![
            text(place + 1),
            provider_link(score.provider),
            percent(score.total),
            percent(score.price),
            percent(score.latency),
            percent(score.reliability),
            percent(score.reputation),
            or_dash(known.map(|c| c.output_price)),
            ms(known.map(|c| c.ttft_ms)),
        ];
        (score.provider.to_string(), cells)
    };
    let rows: Vec<Row> = scores.iter().enumerate().map(row).collect();
    table("Scores", &columns, &rows, "Nobody was scored.")
}

fn left_out(excluded: &[(Address, Rule)]) -> Markup {
    html! {
        @if !excluded.is_empty() {
            h3 { "Left out" }
            ul { @for (provider, rule) in excluded { li { (provider_link(*provider)) ": " (rule_words(rule.as_str())) } } }
        }
    }
}

/// A rule in words.
pub(super) fn rule_words(rule: &str) -> &str {
    match rule {
        "offline" => "not connected, or takes no new jobs",
        "tier" => "its answers cannot be checked as well as was asked",
        "region" => "its region was excluded or not asked for",
        "provider" => "the caller excluded it or asked for others",
        "reputation" => "its reputation is below the least",
        "price" => "it asks more than the caller pays",
        "busy" => "it had no free slot",
        other => other,
    }
}

/// Lost attempts; with the provider or with the job, whichever the page is not about.
pub(super) fn loss_table(losses: &[LossRow], of_provider: bool) -> Markup {
    let columns: [Column; 4] = [
        (if of_provider { "Job" } else { "Provider" }, false),
        ("Why", false),
        ("Counts against it", false),
        ("When", true),
    ];
    let row = |loss: &LossRow| -> Row {
        let first = if of_provider {
            job_link(loss.job)
        } else {
            provider_link(loss.provider)
        };
        let cells = vec![
            first,
            html! { span.prose {
                (loss.cause)
                @if let Some((at, deadline)) = loss.taken {
                    "; accepted at " (time(at)) ", deadline " (time(deadline)) ", not delivered"
                }
            } },
            text(if loss.counts { "yes" } else { "no" }),
            time(loss.at),
        ];
        (format!("{}-{}", loss.job, loss.attempt), cells)
    };
    let rows: Vec<Row> = losses.iter().map(row).collect();
    let nothing = "No attempt was lost since the router started.";
    table("Lost attempts", &columns, &rows, nothing)
}

fn receipt_part(view: &ReceiptView) -> Markup {
    let receipt: &Receipt = &view.receipt.receipt;
    let value = serde_json::to_value(view).unwrap_or(Value::Null);
    let price = |what: TokenAmount| html! { (what) " per 10⁶" };
    let pairs = [
        ("Charge", units(receipt.charge)),
        (
            "Input price",
            price(receipt.input_price.amount_per_million()),
        ),
        (
            "Output price",
            price(receipt.output_price.amount_per_million()),
        ),
        ("Tier", text(receipt.tier)),
        ("Model root", short(receipt.model_root)),
        ("Accepted", time(receipt.accepted_at)),
        ("Delivered", time(receipt.delivered_at)),
    ];
    html! {
        (terms(&pairs))
        details { summary { "Every field" } (tree(&value, 0)) }
    }
}

/// What was checked; also the answer to a file.
pub(crate) fn checks(report: &Report) -> Markup {
    html! {
        ul.checks {
            @for check in &report.checks {
                @match &check.outcome {
                    Outcome::Holds => li { (state("holds")) " " (check.claim) },
                    Outcome::False(reason) => li { (state("false")) " " (check.claim) ": " (reason) },
                    Outcome::NotChecked(needed) => li { (state("not checked")) " " (check.claim) ": " (needed) },
                }
            }
        }
        p { "This router says so about itself. To know it, check the file that " code { "stoa ask --save" } " wrote, on your own machine:" }
        (command("stoa receipt FILE && stoa verify FILE --rpc RPC_URL --rerun MODEL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_market::{Constraints, Snapshot, Weights, decide};
    use stoa_types::{NetworkProfile, Price, Region, Tier};

    #[test]
    fn a_rationale_says_when_a_place_is_not_by_the_score() {
        let candidate = |n: u8, context| Candidate {
            provider: Address([n; 20]),
            input_price: Price::default(),
            output_price: Price::default(),
            ttft_ms: 1,
            ok: 1,
            total: 1,
            reputation_ppm: 900_000,
            region: Region(*b"XA"),
            tier: Tier::Exact,
            free_slots: 1,
            warm: true,
            online: true,
            context,
        };
        let profile = NetworkProfile::builtin_text("stoa").expect("built in");
        let profile = NetworkProfile::parse(profile).expect("valid");
        let both = [candidate(1, 256), candidate(2, 1_024)];
        let snapshot = Snapshot::new(both, Weights::from(&profile.routing), 1, 1);
        let said = |room| {
            let snapshot = snapshot.clone().needing(room);
            let decision = decide(&snapshot, &Constraints::default(), Digest([7; 32]));
            rationale(&decision.expect("both match")).into_string()
        };
        assert!(said(300).contains("The last 1 were placed after all others"));
        assert!(!said(256).contains("placed after all others"));
    }
}
