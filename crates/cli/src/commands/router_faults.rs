//! What a job's router was punished for about this job or its batch, as the chain tells it.

use serde::Serialize;
use stoa_chain::{ContractEvent, Indexed};
use stoa_crypto::receipt_leaf;
use stoa_ledger::audit;
use stoa_ledger::audit::hash::{batch_subject, job_subject, kind};
use stoa_types::{Digest, SignedReceipt, StakeAmount};

/// A fault of the router.
#[derive(Debug, Serialize)]
pub struct RouterFault {
    /// What it did.
    pub kind: String,
    /// Share of its stake, in 1/10,000.
    pub severity_bps: u16,
    /// Taken from its stake.
    pub slashed: StakeAmount,
    /// The transaction that punished it.
    pub transaction: Digest,
}

/// Faults of the router that were punished by a ruling on the job or its batch, or together with the reversal of the job, in order.
pub fn of_job(events: &[Indexed], signed: &SignedReceipt, batch: Option<u64>) -> Vec<RouterFault> {
    let receipt = &signed.receipt;
    let router = receipt.router;
    let job = job_subject(router, receipt_leaf(receipt));
    let batch = batch.map(|batch| batch_subject(router, batch));
    let about = |event: &ContractEvent| match event {
        ContractEvent::Ruled { subject, .. } => *subject == job || Some(*subject) == batch,
        // What was posted may be another receipt than the one that the developer has.
        ContractEvent::JobReversed {
            job, router: of, ..
        } => (*job, *of) == (receipt.job_id, router),
        _ => false,
    };
    let causes = events.iter().filter(|told| about(&told.event));
    let causes: Vec<_> = causes.map(|told| told.transaction).collect();
    let faults = events
        .iter()
        .filter(|told| causes.contains(&told.transaction));
    let faults = faults.filter_map(|told| match &told.event {
        ContractEvent::Convicted {
            fault,
            offender,
            kind,
            severity_bps,
        } if *offender == router => {
            let sums = events.iter().filter_map(|told| match &told.event {
                ContractEvent::Slashed {
                    fault: of, sigma, ..
                } if of == fault => Some(*sigma),
                _ => None,
            });
            Some(RouterFault {
                kind: kind_name(*kind),
                severity_bps: *severity_bps,
                slashed: StakeAmount::checked_sum(sums).unwrap_or_default(),
                transaction: told.transaction,
            })
        }
        _ => None,
    });
    faults.collect()
}

fn kind_name(code: u8) -> String {
    let name = match code {
        kind::OVERCHARGE => "overcharge",
        kind::DOUBLE_POST => "double_post",
        kind::FALSE_CLAIM => "false_claim",
        other => {
            let outcome = audit::Outcome::ALL.into_iter().find(|o| o.code() == other);
            match outcome {
                Some(audit::Outcome::Withheld) => "withheld",
                Some(audit::Outcome::Forged) => "forged",
                Some(audit::Outcome::BadSums) => "bad_sums",
                _ => return format!("kind {other}"),
            }
        }
    };
    name.to_owned()
}
