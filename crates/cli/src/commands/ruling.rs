//! What a panel ruled on a job, as the chain tells it.

use super::Outcome;
use super::money::contracts;
use crate::network::Network;
use serde::Serialize;
use stoa_chain::{AuditContracts, ContractEvent, Cursor, Indexed, Indexer, Rpc};
use stoa_crypto::receipt_leaf;
use stoa_ledger::audit;
use stoa_ledger::audit::hash::{fault_id, job_subject};
use stoa_types::{Digest, SignedReceipt, StakeAmount};

/// A ruling and what followed.
#[derive(Debug, Serialize)]
pub struct JobRuling {
    /// The round.
    pub round: u64,
    /// What was ruled.
    pub outcome: audit::Outcome,
    /// Whether the job was planted to see who looks.
    pub plant: bool,
    /// Taken from the stake of who answers for it.
    pub slashed: StakeAmount,
    /// Whether the account owes nothing for the job any more.
    pub reversed: bool,
    /// The batch that holds the job.
    pub batch: Option<u64>,
    /// Batches that the router posted after that one before the slash stood.
    pub batches_to_slash: Option<u64>,
}

/// All that the contracts told so far; `None` where nobody may judge.
pub async fn audit_events(network: &Network) -> Outcome<Option<Vec<ContractEvent>>> {
    let trail = audit_trail(network).await?;
    Ok(trail.map(|trail| trail.into_iter().map(|told| told.event).collect()))
}

/// The same, with the transactions that told it.
pub async fn audit_trail(network: &Network) -> Outcome<Option<Vec<Indexed>>> {
    let (chain, contracts) = (Rpc::new(&network.rpc)?, contracts(network)?);
    let Some(judges) = AuditContracts::find(&chain, &contracts).await? else {
        return Ok(None);
    };
    let cursor = Cursor::starting_at(0);
    let mut indexer = Indexer::new(chain, contracts, cursor, 0).with_audits(Some(judges));
    let mut events = Vec::new();
    loop {
        let progress = indexer.step().await?;
        events.extend(progress.events);
        if progress.at_head {
            return Ok(Some(events));
        }
    }
}

/// The ruling on a posted job; `None` when there is none.
pub fn of_job(
    trail: &[Indexed],
    signed: &SignedReceipt,
    batch: Option<u64>,
) -> Outcome<Option<JobRuling>> {
    let events: Vec<_> = trail.iter().map(|told| &told.event).collect();
    let receipt = &signed.receipt;
    let subject = job_subject(receipt.router, receipt_leaf(receipt));
    let mut rulings = events.iter().filter_map(|event| match event {
        ContractEvent::Ruled {
            round,
            subject: about,
            outcome,
            plant,
        } if *about == subject => Some((*round, *outcome, *plant)),
        _ => None,
    });
    let Some((round, outcome, plant)) = rulings.next() else {
        return Ok(None);
    };
    let faults: [Digest; 2] = [receipt.provider, receipt.router]
        .map(|offender| fault_id(outcome.code(), offender, subject));
    let sums = events.iter().filter_map(|event| match event {
        ContractEvent::Slashed { fault, sigma, .. } if faults.contains(fault) => Some(*sigma),
        _ => None,
    });
    let slashed = StakeAmount::checked_sum(sums).ok_or("the slashes do not fit an amount")?;
    let reversed = events.iter().any(
        |event| matches!(event, ContractEvent::JobReversed { job, .. } if *job == receipt.job_id),
    );
    let slashed_at = events.iter().position(
        |event| matches!(event, ContractEvent::Slashed { fault, .. } if faults.contains(fault)),
    );
    let posted = |before: usize| {
        let posts = events[..before].iter().filter(
            |event| matches!(event, ContractEvent::BatchPosted { router, .. } if *router == receipt.router),
        );
        posts.count() as u64
    };
    let posts = slashed_at.map(posted);
    Ok(Some(JobRuling {
        batch,
        batches_to_slash: posts
            .zip(batch)
            .and_then(|(posts, batch)| posts.checked_sub(batch)),
        round,
        outcome,
        plant,
        slashed,
        reversed,
    }))
}
