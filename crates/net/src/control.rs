//! Small frames of the control stream that are the transport's own.

use serde::{Deserialize, Serialize};
use stoa_nodes::message::ToProvider;
use stoa_types::{Address, Digest};

/// What a router says of itself to a provider that it takes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// The router's account: signs the tickets of this connection.
    pub router: Address,
    /// Chain of the vault.
    pub chain_id: u64,
    /// PaymentVault that settles the tickets.
    pub vault: Address,
    /// keccak of the network profile's text.
    pub profile_hash: Digest,
}

/// Router to provider on the control stream: one `Welcome` or `Refuse`, then receipts that no job stream is left for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RouterControl {
    /// Taken in; jobs may come.
    Welcome(Welcome),
    /// Turned away; the connection closes.
    Refuse {
        /// Why, for the operator of the provider.
        reason: String,
    },
    /// Answer to a `Final` that the provider repeated after its job's stream was lost.
    Late(Box<ToProvider>),
}

/// How much work a provider takes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderStatus {
    /// Free slots.
    pub free_slots: u32,
    /// True while it drains or stands outside its availability window.
    pub draining: bool,
}
