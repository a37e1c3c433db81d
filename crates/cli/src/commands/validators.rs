//! `stoa validators`: who judges, with what at stake, and what it was punished for, as the chain tells it.

use super::Outcome;
use super::ruling::audit_events;
use super::show::{ShowArgs, print_json, table};
use crate::network::Network;
use crate::process::say;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use stoa_chain::{ContractEvent, Rpc, StakeRole, View};
use stoa_ledger::audit::hash::kind;
use stoa_types::{Address, StakeAmount};

/// One validator.
#[derive(Debug, Default)]
struct Line {
    seated: bool,
    /// Whether its stake lets it judge.
    active: bool,
    stake: StakeAmount,
    slashed: StakeAmount,
    /// Ballots committed, and shown.
    ballots: u64,
    shown: u64,
    /// How often it was punished for what.
    faults: BTreeMap<&'static str, u64>,
    slashes: Vec<StakeAmount>,
}

/// One validator as JSON: amounts in whole tokens, as `stoa providers` writes them.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a Address,
    seated: bool,
    active: bool,
    stake: String,
    slashed: String,
    ballots: u64,
    shown: u64,
    faults: &'a BTreeMap<&'static str, u64>,
}

/// Faults of validators in one word each.
const fn fault_word(code: u8) -> &'static str {
    match code {
        kind::MISSED_REVEAL => "missed_reveal",
        kind::MISSED_BALLOT => "missed_ballot",
        kind::DISSENT => "dissent",
        _ => "other",
    }
}

fn fold(lines: &mut BTreeMap<Address, Line>, event: &ContractEvent) {
    let (id, note): (&Address, &dyn Fn(&mut Line)) = match event {
        ContractEvent::Joined { validator, .. } => (validator, &|line| line.seated = true),
        ContractEvent::Left { validator } => (validator, &|line| line.seated = false),
        ContractEvent::BallotCommitted { validator, .. } => (validator, &|line| line.ballots += 1),
        ContractEvent::BallotUnsealed { validator, .. } => (validator, &|line| line.shown += 1),
        ContractEvent::Convicted { offender, kind, .. } if is_of_validators(*kind) => {
            (offender, &|line| {
                *line.faults.entry(fault_word(*kind)).or_default() += 1;
            })
        }
        ContractEvent::Slashed {
            offender,
            role: StakeRole::Validator,
            sigma,
            ..
        } => (offender, &|line| line.slashes.push(*sigma)),
        _ => return,
    };
    note(lines.entry(*id).or_default());
}

const fn is_of_validators(code: u8) -> bool {
    matches!(
        code,
        kind::MISSED_REVEAL | kind::MISSED_BALLOT | kind::DISSENT
    )
}

/// Prints them.
pub async fn validators(data: &Path, args: &ShowArgs) -> Outcome {
    let network = Network::load(data)?;
    let Some(events) = audit_events(&network).await? else {
        return Err("nobody may slash on this network: it has no validators".into());
    };
    let mut lines = BTreeMap::new();
    events.iter().for_each(|event| fold(&mut lines, event));
    let view = View::new(Rpc::new(&network.rpc)?, super::money::contracts(&network)?);
    for (id, line) in &mut lines {
        let stake = view.stake(StakeRole::Validator, *id).await?;
        (line.stake, line.active) = (stake.active, stake.is_active);
        let slashes = std::mem::take(&mut line.slashes);
        line.slashed =
            StakeAmount::checked_sum(slashes).ok_or("the slashes do not fit an amount")?;
    }
    if args.json {
        let rows = lines.iter().map(|(id, line)| Row {
            id,
            seated: line.seated,
            active: line.active,
            stake: line.stake.to_string(),
            slashed: line.slashed.to_string(),
            ballots: line.ballots,
            shown: line.shown,
            faults: &line.faults,
        });
        return print_json(&rows.collect::<Vec<_>>());
    }
    let mut table = table(&[
        "id", "seat", "stake", "slashed", "ballots", "shown", "faults",
    ]);
    for (id, line) in lines {
        let faults = line.faults.iter();
        let faults: Vec<_> = faults
            .map(|(what, times)| format!("{times} {what}"))
            .collect();
        table.add_row([
            id.to_string(),
            match (line.seated, line.active) {
                (true, true) => "yes",
                (true, false) => "too little stake",
                (false, _) => "no",
            }
            .to_owned(),
            line.stake.to_string(),
            line.slashed.to_string(),
            line.ballots.to_string(),
            line.shown.to_string(),
            faults.join(", "),
        ]);
    }
    Ok(say(table)?)
}
