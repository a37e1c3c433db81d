//! Brings up a validator: stake, its seat, its ballots, its loop.

use super::stake::{self, StakeSource};
use super::{CHAIN_PATIENCE, Joined, KNOCK};
use crate::cheats::ValidatorCheat;
use crate::data::{DataDir, DataError};
use crate::process::Failure;
use crate::roles::audit_watch::AuditWatch;
use crate::roles::kept_sums::{self, KeptSums};
use crate::roles::records::{self, Records};
use crate::roles::round_traces::RoundTraces;
use crate::roles::router::now;
use crate::roles::validator::{self, ValidatorHandle, ValidatorParts};
use crate::telemetry::tracer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use stoa_chain::{
    AccessError, AuditAccount, AuditContracts, AuditFollower, ChainAccess, StakeRole,
};
use stoa_crypto::SecretKey;
use stoa_net::{AuditClient, Timeouts};
use stoa_nodes::validator::{Input, Validator, ValidatorConfig};
use stoa_runtime::{Backend, ExactJudge};
use stoa_types::{Millis, NetworkProfile, StakeAmount};
use tokio::sync::Semaphore;

/// Reveals in one hash chain: at a round a minute it lasts for days, and it is computed anew at every start.
const CHAIN_LENGTH: u32 = 4096;
/// One core in so many judges; the others serve.
const CORES_PER_JUDGE: u32 = 4;

/// What the validators of one process share.
pub struct Bench {
    audits: AuditContracts,
    watch: AuditWatch,
    judge: Arc<ExactJudge>,
    places: Arc<Semaphore>,
    client: Arc<AuditClient>,
}

/// Follows audits, if the network has contracts that judge.
pub async fn watch<C: ChainAccess + Clone>(
    joined: &Joined<C>,
) -> Result<Option<(AuditContracts, AuditWatch)>, Failure> {
    let patient = joined.patiently();
    let Some(audits) = AuditContracts::find(&patient.chain, &patient.contracts).await? else {
        return Ok(None);
    };
    let end = Instant::now() + CHAIN_PATIENCE;
    loop {
        match follow(joined, audits).await {
            Ok(watch) => return Ok(Some((audits, watch))),
            Err(AccessError::Unreachable(_)) if Instant::now() < end => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(KNOCK).await;
    }
}

async fn follow<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    audits: AuditContracts,
) -> Result<AuditWatch, AccessError> {
    let (chain, contracts) = (joined.chain.clone(), joined.contracts);
    let follower = AuditFollower::open(chain, contracts, audits, 0, 0).await?;
    AuditWatch::start(follower).await
}

impl Bench {
    /// Judges with these models. `bind` is the local address from which routers are asked.
    pub async fn new(
        (audits, watch): (AuditContracts, AuditWatch),
        models: &[Arc<dyn Backend>],
        cores: u32,
        bind: SocketAddr,
    ) -> Result<Self, Failure> {
        let places = (cores / CORES_PER_JUDGE).max(1) as usize;
        Ok(Self {
            audits,
            watch,
            judge: Arc::new(ExactJudge::new(models.iter().cloned())),
            places: Arc::new(Semaphore::new(places)),
            client: Arc::new(AuditClient::bind(bind, Timeouts::default()).await?),
        })
    }
}

/// The key of validator `n`.
pub fn key(data: &DataDir, n: u32) -> Result<SecretKey, DataError> {
    data.account_key(&format!("validator-{n}"))
}

/// Starts validator `n` of a data folder. It has its seat when this returns. On a devnet it may be asked to cheat.
pub async fn start<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    bench: &Bench,
    n: u32,
    (wanted, source): (StakeAmount, &StakeSource<'_, C>),
    cheat: Option<ValidatorCheat>,
) -> Result<ValidatorHandle, Failure> {
    let key = key(data, n)?;
    let public = key.public_key();
    let account = joined.account(key.clone()).await?;
    stake::ensure(joined, &account, StakeRole::Validator, wanted, source).await?;
    let folder = data.folder(&format!("validator-{n}"))?;
    let (votes, kept) = Records::open(&records::ballots(&folder))
        .map_err(|error| format!("validator {n}'s ballots: {error}"))?;
    let (sums, kept_sets) = KeptSums::open(&kept_sums::folder(&folder))
        .map_err(|error| format!("validator {n}'s sums: {error}"))?;
    let config = ValidatorConfig {
        key,
        domain: joined.domain(),
        sampling: bench.watch.state().params().sampling,
        chain_length: CHAIN_LENGTH,
        margin: margin(&joined.profile.rules),
        settling: settling(&joined.profile.rules),
    };
    let mut core = Validator::recover(config, kept).with_sums(kept_sets);
    let who = core.account();
    let account = AuditAccount::new(account, bench.audits);
    let seated = bench.watch.state().is_seated(who);
    if !seated {
        let now = now();
        let view = bench.watch.state().view_of(who, now);
        // What it wants done is asked for again when its loop runs.
        drop(core.handle(Input::Chain(Box::new(view)), now));
        if let Err(error) = account.join(core.tip_to_join(), &public).await {
            tracing::warn!(validator = %who, %error, "no seat yet; it is tried again");
        }
    }
    tracing::info!(validator = %who, "validator");
    if let Some(cheat) = cheat {
        tracing::warn!(validator = %who, ?cheat, "this validator cheats, as was asked for");
    }
    Ok(validator::start(ValidatorParts {
        core,
        account,
        key: public,
        watch: bench.watch.clone(),
        judge: bench.judge.clone(),
        bench: bench.places.clone(),
        votes,
        sums,
        client: bench.client.clone(),
        traces: RoundTraces::new(tracer("stoa-validator", who)),
        cheat,
    }))
}

/// A ballot must be on disk, in a block and seen before its phase ends: a quarter of it, ten seconds at most.
fn margin(profile: &NetworkProfile) -> Millis {
    let quarter = Millis::from_secs(profile.audit.ballot_seconds).0 / 4;
    Millis(quarter.min(10_000))
}

/// The longest time from the order of a job to its post: its ticket's life, a batch, and some time for both chains and clocks.
pub fn settling(profile: &NetworkProfile) -> Millis {
    let settlement = &profile.settlement;
    Millis::from_secs(settlement.ticket_seconds + 2 * settlement.batch_seconds)
}
