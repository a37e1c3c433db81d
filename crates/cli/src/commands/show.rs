//! Commands that only look: `account`, `jobs`, `providers`, `explain`.

use super::Outcome;
use crate::http::Api;
use crate::network::Network;
use crate::process::say;
use comfy_table::Table;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use stoa_api::rfc3339;
use stoa_nodes::client::Undelivered;
use stoa_types::{Address, JobId, JobState, Price, Region, SignedReceipt, Timestamp, TokenAmount};
use stoa_verify::SettlementProof;

/// Arguments that every looking command has.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Prints JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `stoa explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The job's id, from the answer's `stoa` object or the header `x-stoa-job`.
    job: JobId,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct ProviderLine {
    id: Address,
    online: bool,
    stake: String,
    slashed: String,
    reputation: u32,
    /// What verdicts wrote, and of how many audited jobs.
    rated: u32,
    audited: u32,
    jobs: u64,
    models: Vec<String>,
    price: Price,
    region: Region,
}

#[derive(Debug, Serialize, Deserialize)]
struct JobLine {
    job: JobId,
    state: JobState,
    model: String,
    provider: Option<Address>,
    amount: TokenAmount,
    ttft_ms: Option<u64>,
    input_units: u64,
    output_units: u64,
    reserved_at: Timestamp,
}

#[derive(Deserialize)]
struct List<T> {
    data: Vec<T>,
}

/// A table of that header.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(header);
    table
}

/// A state as the API writes it.
pub fn word(state: JobState) -> Outcome<String> {
    let value = serde_json::to_value(state)?;
    Ok(value.as_str().unwrap_or_default().to_owned())
}

/// Prints a value as one line of JSON.
pub fn print_json(value: &impl Serialize) -> Outcome {
    Ok(say(serde_json::to_string(value)?)?)
}

/// `stoa jobs`.
pub async fn jobs(data: &Path, args: &ShowArgs) -> Outcome {
    let api = Api::new(&Network::load(data)?);
    let jobs: List<JobLine> = api.get("/stoa/jobs").await?;
    if args.json {
        return print_json(&jobs.data);
    }
    let mut table = table(&[
        "job", "state", "model", "provider", "amount", "ttft ms", "in", "out",
    ]);
    for job in jobs.data {
        let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let state = word(job.state)?;
        table.add_row([
            job.job.to_string(),
            state,
            job.model,
            known(job.provider.map(|p| p.to_string())),
            job.amount.to_string(),
            known(job.ttft_ms.map(|ms| ms.to_string())),
            job.input_units.to_string(),
            job.output_units.to_string(),
        ]);
    }
    Ok(say(table)?)
}

/// `stoa providers`: what the router knows, with the stake that the chain holds.
pub async fn providers(data: &Path, args: &ShowArgs) -> Outcome {
    let network = Network::load(data)?;
    let api = Api::new(&network);
    let listed: List<Value> = api.get("/stoa/providers").await?;
    let chain = super::money::reader(&network)?;
    let mut lines = Vec::new();
    for row in listed.data {
        let id: Address = serde_json::from_value(row["id"].clone())?;
        let stake = chain.provider_stake(id).await?;
        lines.push(ProviderLine {
            id,
            online: serde_json::from_value(row["online"].clone())?,
            stake: stake.staked.to_string(),
            slashed: stake.slashed.to_string(),
            reputation: serde_json::from_value(row["reputation_ppm"].clone())?,
            rated: stake.standing.reputation,
            audited: stake.standing.verified,
            jobs: serde_json::from_value(row["jobs"].clone())?,
            models: serde_json::from_value(row["models"].clone())?,
            price: serde_json::from_value(row["output_price"].clone())?,
            region: serde_json::from_value(row["region"].clone())?,
        });
    }
    if args.json {
        return print_json(&lines);
    }
    let mut table = table(&[
        "id",
        "online",
        "stake",
        "slashed",
        "reputation",
        "rated",
        "audited",
        "jobs",
        "models",
        "price per 10^6 output tokens",
        "region",
    ]);
    for line in lines {
        table.add_row([
            line.id.to_string(),
            if line.online { "yes" } else { "no" }.to_owned(),
            line.stake,
            line.slashed,
            line.reputation.to_string(),
            line.rated.to_string(),
            line.audited.to_string(),
            line.jobs.to_string(),
            line.models.join(" "),
            line.price.to_string(),
            line.region.to_string(),
        ]);
    }
    Ok(say(table)?)
}

/// What is known of an attempt that was taken and not delivered.
fn not_delivered(undelivered: &Undelivered) -> String {
    let ticket = &undelivered.ticket.ticket;
    format!(
        "attempt {}: accepted by {} at {}, deadline {}, not delivered; nothing is billed for it",
        ticket.attempt,
        ticket.provider,
        rfc3339(undelivered.acceptance.acceptance.accepted_at),
        rfc3339(ticket.deadline)
    )
}

/// `stoa explain JOB`.
pub async fn explain(data: &Path, args: &ExplainArgs) -> Outcome {
    #[derive(Deserialize)]
    struct Given {
        receipt: SignedReceipt,
        proof: Option<SettlementProof>,
    }
    let network = Network::load(data)?;
    let api = Api::new(&network);
    let mut told: Value = api.get(&format!("/stoa/explain/{}", args.job)).await?;
    // A call that failed has no receipt, and nobody rules on it.
    let given: Option<Given> = api.get(&format!("/receipts/{}", args.job)).await.ok();
    let (mut audit, mut faults) = (None, Vec::new());
    if let Some(Given { receipt, proof }) = given
        && let Some(trail) = super::ruling::audit_trail(&network).await?
    {
        let batch = proof.map(|proof| proof.batch.index);
        audit = super::ruling::of_job(&trail, &receipt, batch)?;
        faults = super::router_faults::of_job(&trail, &receipt, batch);
    }
    if args.json {
        told["audit"] = serde_json::to_value(&audit)?;
        told["router_faults"] = serde_json::to_value(&faults)?;
        return Ok(say(told)?);
    }
    for fault in &faults {
        say(format_args!(
            "router   {}: slashed {} in {}",
            fault.kind, fault.slashed, fault.transaction
        ))?;
    }
    if let Some(audit) = &audit {
        say(format_args!(
            "audit    round {}: {:?}{}; slashed {}; {}",
            audit.round,
            audit.outcome,
            if audit.plant { ", a plant" } else { "" },
            audit.slashed,
            if audit.reversed {
                "reversed, the account owes nothing for it"
            } else {
                "charged as it was"
            }
        ))?;
    }
    let decision: stoa_market::Decision = serde_json::from_value(told["decision"].clone())?;
    say(format_args!("job      {}", args.job))?;
    say(format_args!("choice   {}", decision.choice()))?;
    match decision.replay() {
        Ok(()) => say("replayed from the logged inputs: the same choice")?,
        Err(error) => return Err(format!("the decision cannot be replayed: {error}").into()),
    }
    let undelivered: Vec<Undelivered> = serde_json::from_value(told["undelivered"].clone())?;
    for undelivered in &undelivered {
        say(not_delivered(undelivered))?;
    }
    let mut table = table(&[
        "rank",
        "provider",
        "score",
        "price",
        "latency",
        "reliability",
        "reputation",
    ]);
    let mut scores = decision.scores.clone();
    let rank = |provider: Address| {
        decision
            .ranking
            .iter()
            .position(|p| *p == provider)
            .unwrap_or(usize::MAX)
    };
    scores.sort_by_key(|score| rank(score.provider));
    for score in scores {
        let rank = rank(score.provider).saturating_add(1).to_string();
        let parts = [
            score.total,
            score.price,
            score.latency,
            score.reliability,
            score.reputation,
        ]
        .map(|part| part.to_string());
        let [total, price, latency, reliability, reputation] = parts;
        table.add_row([
            rank,
            score.provider.to_string(),
            total,
            price,
            latency,
            reliability,
            reputation,
        ]);
    }
    say(table)?;
    for score in decision.scores.iter().filter(|score| score.behind) {
        say(format_args!(
            "behind {}: its context is too short for the request, or another's is and it failed more than it delivered or costs much more than the median",
            score.provider
        ))?;
    }
    for (provider, rule) in &decision.excluded {
        say(format_args!("left out {provider}: {rule}"))?;
    }
    Ok(())
}
