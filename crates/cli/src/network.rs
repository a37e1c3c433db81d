//! The file by which a running network tells the other commands how to reach it.

use crate::data::{DataError, write_private};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use stoa_chain::Contracts;
use stoa_types::Address;

/// Where a network listens and who is who in it. Holds the developer's API key: mode 0600.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Base URL of the OpenAI surface, ending in `/v1`.
    pub api: String,
    /// API key of the developer.
    pub key: String,
    /// JSON-RPC of the chain.
    pub rpc: String,
    /// Prometheus metrics.
    pub metrics: String,
    /// Chain id.
    pub chain_id: u64,
    /// Contract addresses by name.
    pub contracts: BTreeMap<String, Address>,
    /// Router's account.
    pub router: Address,
    /// Developer's account.
    pub developer: Address,
    /// Providers' accounts, in order.
    pub providers: Vec<Address>,
    /// Validators' accounts, in order.
    #[serde(default)]
    pub validators: Vec<Address>,
    /// Other routers to turn to when the first does not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<RouterAccess>,
}

/// How one router is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterAccess {
    /// Base URL of its OpenAI surface, ending in `/v1`.
    pub api: String,
    /// API key of the developer there.
    pub key: String,
    /// Its account.
    pub router: Address,
}

/// Contract addresses by name.
pub fn contract_names(contracts: &Contracts) -> BTreeMap<String, Address> {
    let names = [
        ("TestDollar", contracts.payment_token),
        ("StoaToken", contracts.stake_token),
        ("ProviderRegistry", contracts.provider_registry),
        ("StakeRegistry", contracts.stake_registry),
        ("PaymentVault", contracts.vault),
    ];
    let names = names.map(|(name, address)| (name.to_owned(), address));
    names.into()
}

/// Why the network cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No file.
    #[error(
        "no network was started in {0}; run `stoa up` first, or name its data folder with --data"
    )]
    NotStarted(PathBuf),
    /// Unreadable.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Network {
    fn path(data: &Path) -> PathBuf {
        data.join("network.json")
    }

    /// Writes the file.
    pub fn save(&self, data: &Path) -> Result<(), DataError> {
        let text = serde_json::to_vec_pretty(self).expect("plain values");
        write_private(&Self::path(data), &text)
    }

    /// Reads the file.
    pub fn load(data: &Path) -> Result<Self, NetworkError> {
        let path = Self::path(data);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(NetworkError::NotStarted(data.to_owned()));
            }
            Err(error) => {
                return Err(NetworkError::Unreadable {
                    path,
                    reason: error.to_string(),
                });
            }
        };
        serde_json::from_slice(&text).map_err(|error| NetworkError::Unreadable {
            path,
            reason: error.to_string(),
        })
    }

    /// All routers, in the order in which they are tried.
    pub fn routers(&self) -> Vec<RouterAccess> {
        let first = RouterAccess {
            api: self.api.clone(),
            key: self.key.clone(),
            router: self.router,
        };
        let mut routers = vec![first];
        routers.extend(self.more.iter().cloned());
        routers
    }

    /// Address of a contract.
    pub fn contract(&self, name: &str) -> Option<Address> {
        self.contracts.get(name).copied()
    }
}
