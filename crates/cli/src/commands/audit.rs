//! `stoa audit`: the router's books, rebuilt from its journal while the network is stopped.

use super::Outcome;
use crate::data::{DataDir, read_secret};
use crate::join::JoinFile;
use crate::process::say;
use crate::roles::journal;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use stoa_crypto::{Domain, SecretKey};
use stoa_types::{JobId, JobState, TokenAmount};

/// Rebuilds the books, checks that they balance, and prints the sums.
pub fn audit(path: &Path, args: &super::show::ShowArgs) -> Outcome {
    let network = JoinFile::load(path)?;
    let router = SecretKey::from_bytes(read_secret(path, "router")?)?.address();
    let data = DataDir::open(path)?;
    let domain = Domain {
        chain_id: network.chain_id,
        vault: network.contracts.vault,
    };
    let (_, recovered) = journal::open(&data.folder("router/journal")?, domain, router)?;
    let book = recovered.book;
    let conserved = book.check_conservation();
    let charged: BTreeMap<JobId, TokenAmount> = book
        .newest_jobs()
        .filter_map(|job| Some((job, book.receipt(job)?.receipt.charge)))
        .collect();
    let reversed = |job: &JobId| book.job_state(*job) == Some(JobState::Reversed);
    let reversed: Vec<_> = charged.keys().copied().filter(reversed).collect();
    let open = book.open_reservations().count();
    let sum = TokenAmount::checked_sum(charged.values().copied())
        .ok_or("the charges of all jobs do not fit an amount")?;
    if args.json {
        say(
            json!({"entries": recovered.entries, "conserved": conserved.is_ok(), "open": open, "sum": sum, "charged": charged, "reversed": reversed}),
        )?;
    } else {
        say(format_args!(
            "{} journal entries, {} jobs charged {sum} in all, {open} reservations open",
            recovered.entries,
            charged.len()
        ))?;
        say(if conserved.is_ok() {
            "the books balance"
        } else {
            "THE BOOKS DO NOT BALANCE"
        })?;
    }
    conserved.map_err(Into::into)
}
