//! `stoa take-back`: what a planter's identities that are over still hold.

use super::Outcome;
use super::show::{ShowArgs, print_json};
use crate::data::DataDir;
use crate::join::JoinFile;
use crate::launch::Joined;
use crate::launch::planter::present_in;
use crate::launch::planter::take_back::{IdentityKeys, TakenBack, take_back};
use crate::process::say;
use std::path::Path;
use stoa_chain::{ChainAccess, Rpc};
use stoa_types::Address;

/// Arguments of `stoa take-back`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Takes back from the identity that acts, too: the planter must be stopped, and needs another deposit and stake to go on.
    #[arg(long)]
    all: bool,
    /// Sends what is in their own hands then to this account.
    #[arg(long, value_name = "ADDRESS")]
    to: Option<Address>,
    #[command(flatten)]
    show: ShowArgs,
}

/// Takes back what can be had by now, and says what waits and until when. Run again it goes on.
pub async fn run(data: &Path, args: &Args) -> Outcome {
    if args.to.is_some_and(|to| to.is_zero()) {
        return Err("nobody has the key of the zero address; nothing was taken back".into());
    }
    let file = JoinFile::load(data)?;
    let planter = data.join("planter");
    if !planter.is_dir() {
        return Err(format!(
            "{} holds no planter: `stoa take-back` runs in the folder of one",
            data.display()
        )
        .into());
    }
    // Held to the end: who starts the planter meanwhile is refused.
    let _lock = args.all.then(|| DataDir::open(data)).transpose()?;
    let present = present_in(data)?;
    let end = present.saturating_add(u32::from(args.all));
    let (identities, left_out) = keys_of(data, end);
    let (chain, profile) = (Rpc::new(&file.rpc)?, file.profile()?);
    let chain_id = chain.chain_id().await?;
    if chain_id != file.chain_id {
        return Err(format!(
            "the chain at {} is chain {chain_id}, the network's is chain {}; nothing was taken back",
            chain.server(),
            file.chain_id
        )
        .into());
    }
    let joined = Joined {
        chain,
        chain_id,
        contracts: file.contracts,
        profile,
    };
    let mut told = take_back(&joined, &identities, args.to).await?;
    told.extend(left_out);
    told.sort_by_key(|one| one.identity);
    if args.show.json {
        print_json(&told)?;
    } else {
        print(&told, present)?;
    }
    // What was done is told before what went wrong.
    no_failure(&told)
}

/// The keys of all identities before `end`, and those whose keys cannot be read: they keep no other waiting.
fn keys_of(data: &Path, end: u32) -> (Vec<IdentityKeys>, Vec<TakenBack>) {
    let (mut identities, mut left_out) = (Vec::new(), Vec::new());
    for n in 0..end {
        match IdentityKeys::read(data, n) {
            Ok(keys) => identities.push(keys),
            Err(error) => left_out.push(TakenBack::left_out(n, &error)),
        }
    }
    (identities, left_out)
}

fn no_failure(told: &[TakenBack]) -> Outcome {
    let failed = told
        .iter()
        .find_map(|one| Some((one.identity, one.errors.first()?)));
    match failed {
        None => Ok(()),
        Some((identity, error)) => Err(format!(
            "not all of identity {identity} was taken back: {error}; what was done is done, run it again for the rest"
        )
        .into()),
    }
}

fn print(told: &[TakenBack], present: u32) -> std::io::Result<()> {
    if told.is_empty() {
        return say(format_args!(
            "nothing to take back: identity {present} of this planter acts, and none was before it; with --all it is taken back from too"
        ));
    }
    for one in told {
        let number = one.identity;
        match (one.customer, one.provider) {
            (Some(customer), Some(provider)) => say(format_args!(
                "identity {number}, customer {customer}, provider {provider}"
            ))?,
            _ => say(format_args!("identity {number}"))?,
        }
        for moved in &one.moved {
            say(format_args!("  {moved}"))?;
        }
        for waits in &one.waits {
            say(format_args!("  {waits}"))?;
        }
        if one.moved.is_empty() && one.waits.is_empty() && one.errors.is_empty() {
            say("  holds nothing any more")?;
        }
        for error in &one.errors {
            say(format_args!("  failed: {error}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_whose_keys_cannot_be_read_is_told_of_and_is_a_failure() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = DataDir::open(folder.path()).expect("opens");
        let (_, all) = keys_of(folder.path(), 2);
        assert_eq!(all.len(), 2, "there are none");
        crate::launch::planter::identity(&data, 1).expect("made");
        let (identities, left_out) = keys_of(folder.path(), 2);
        assert_eq!(identities.len(), 1, "one that is lost keeps no other");
        assert_eq!(identities[0].number, 1);
        let shown = serde_json::to_value(&left_out).expect("plain values");
        assert_eq!(shown[0]["identity"], 0);
        assert_eq!(shown[0]["customer"], serde_json::Value::Null);
        let error = shown[0]["errors"][0].as_str().expect("why");
        assert!(error.contains("left out"), "{error}");
        let refused = no_failure(&left_out).expect_err("a failure").to_string();
        assert!(refused.contains("identity 0"), "{refused}");
        assert!(no_failure(&[]).is_ok());
    }
}
