//! Brings roles up: what each registers and stakes on chain, its sockets, its journal, its loop. `stoa up` does it for all of them in one
//! process, `stoa router` and its like for one. The loops themselves are in [`crate::roles`].

pub mod chain;
pub mod customer;
pub mod developer;
#[cfg(test)]
pub mod devnet;
pub mod models;
pub mod planter;
pub mod provider;
pub mod router;
pub mod routers;
pub mod service;
pub mod stake;
pub mod validator;

use crate::data::DataDir;
use crate::join::JoinFile;
use crate::process::{Failure, complain};
use crate::profile::Profile;
use crate::roles::router::now;
use std::path::PathBuf;
use std::time::Duration;
use stoa_chain::{AccessError, Account, ChainAccess, Contracts, Rpc, Sender, View};
use stoa_crypto::{Domain, SecretKey};
use stoa_types::Timestamp;

/// How long a transaction may take to be mined before it is sent again.
const MINING_PATIENCE: Duration = Duration::from_secs(10);

/// The network that a role takes part in.
#[derive(Clone)]
pub struct Joined<C> {
    /// Its chain.
    pub chain: C,
    /// Id of it.
    pub chain_id: u64,
    /// Its contracts.
    pub contracts: Contracts,
    /// Its rules.
    pub profile: Profile,
}

impl<C: ChainAccess + Clone> Joined<C> {
    /// The account of a key, with nothing pending: what a killed process sent is in a block before anybody looks at what is still to be
    /// sent, or it would be sent twice.
    pub async fn account(&self, key: SecretKey) -> Result<Account<C>, Failure> {
        let sender = Sender::new(self.chain.clone(), key, MINING_PATIENCE).await?;
        drop(sender.turn().await?);
        Ok(Account::new(sender, self.contracts))
    }

    /// What the contracts say.
    pub fn view(&self) -> View<C> {
        View::new(self.chain.clone(), self.contracts)
    }

    /// The same network for starting up in it: a chain that is away for a moment is waited for.
    pub fn patiently(&self) -> Self {
        Self {
            chain: self.chain.patiently(CHAIN_PATIENCE),
            ..self.clone()
        }
    }

    /// What receipts and tickets are signed for.
    pub fn domain(&self) -> Domain {
        Domain {
            chain_id: self.chain_id,
            vault: self.contracts.vault,
        }
    }
}

/// What time it is for a contract: a chain that makes blocks only for transactions has none of the newest time.
pub async fn chain_time<C: ChainAccess>(chain: &C) -> Result<Timestamp, AccessError> {
    let head = chain.block(None).await?;
    Ok(head.map_or_else(now, |head| head.at.max(now())))
}

/// Fresh random bytes.
pub fn random() -> Result<[u8; 32], Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(bytes)
}

/// How long a start waits for an answer of a chain that is away.
const CHAIN_PATIENCE: Duration = Duration::from_secs(60);
/// How often a chain is asked again that did not answer at the start.
const KNOCK: Duration = Duration::from_secs(2);

/// Options by which a role on its own finds its network.
#[derive(Debug, Clone, clap::Args)]
pub struct JoinArgs {
    /// The network's join.json, from the folder of its chain; kept in the data folder, so that later starts need it no more.
    #[arg(long, value_name = "FILE")]
    join: Option<PathBuf>,
    /// URL of the chain's JSON-RPC as it is reached from here, where that is another than join.json says.
    #[arg(long, value_name = "URL")]
    rpc: Option<String>,
}

impl JoinArgs {
    /// Finds the network of a data folder. Waits for its chain to answer; only what was found to be true is kept.
    pub async fn join(&self, data: &DataDir) -> Result<Joined<Rpc>, Failure> {
        let file = JoinFile::settle(data, self.join.as_deref(), self.rpc.as_deref())?;
        let (chain, profile) = (Rpc::new(&file.rpc)?, file.profile()?);
        // The URL may hold a key to the server: it is not repeated.
        let server = chain.server();
        let mut told = false;
        let chain_id = loop {
            match chain.chain_id().await {
                Ok(id) => break id,
                Err(error) if !std::mem::replace(&mut told, true) => {
                    complain(format_args!("waiting for the chain at {server}: {error}"))?;
                }
                Err(_) => {}
            }
            tokio::time::sleep(KNOCK).await;
        };
        if chain_id != file.chain_id {
            return Err(format!(
                "the chain at {server} is chain {chain_id}, the network's is chain {}; name the right one with --rpc",
                file.chain_id
            )
            .into());
        }
        let patient = chain.patiently(CHAIN_PATIENCE);
        if patient.code(file.contracts.vault).await?.is_empty() {
            return Err(format!(
                "the chain at {server} has no contract at {}, where the network's vault should be; it was started anew, or is another one",
                file.contracts.vault
            )
            .into());
        }
        file.save(data)?;
        Ok(Joined {
            chain,
            chain_id,
            contracts: file.contracts,
            profile,
        })
    }
}

/// Starts that are killed.
#[cfg(test)]
mod killed {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    /// Drops a future at its `polls`-th wait, as a kill would.
    pub async fn cut(future: impl Future, polls: usize) -> bool {
        let (mut future, mut left) = (pin!(future), polls);
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(false);
            }
            left -= 1;
            future.as_mut().poll(context).map(|_| true)
        })
        .await
    }
}
