//! What a chain is started with: genesis, limits, clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use revm::primitives::hardfork::SpecId;

/// The hard fork every block is executed under. A constant, never "latest": gas must not drift with a dependency.
pub const FORK: SpecId = SpecId::OSAKA;

/// Largest gas limit of one transaction (EIP-7825).
pub const TX_GAS_LIMIT_CAP: u64 = 1 << 24;

/// Largest raw transaction accepted, in bytes (the limit of the common Ethereum clients).
pub const TX_BYTES_MAX: usize = 128 * 1024;

/// Where block time comes from, so that a test can move it.
pub trait Clock: Send + Sync {
    /// Seconds since the Unix epoch.
    fn unix_seconds(&self) -> u64;
}

/// The wall clock of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_seconds(&self) -> u64 {
        // A clock before 1970 reads as 0: block time never falls anyway.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `seconds`.
    pub fn new(seconds: u64) -> Self {
        Self(AtomicU64::new(seconds))
    }

    /// Shows `seconds` from now on.
    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    /// Moves forward by `seconds`.
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_seconds(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Native balance of one account in block 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, RlpEncodable, RlpDecodable)]
pub struct Allocation {
    /// Who owns it.
    pub address: Address,
    /// How much, in wei.
    pub balance: U256,
}

/// The first block. Its hash names the chain: two chains that differ in one byte here have different chain ids.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Genesis {
    /// Time of block 0, in seconds since the Unix epoch.
    pub timestamp: u64,
    /// Anything that tells this chain from others, for example the hash of its profile or random bytes.
    pub salt: B256,
    /// Balances of block 0.
    pub allocations: Vec<Allocation>,
}

impl Genesis {
    /// Canonical bytes: allocations sorted by address, the last one of a repeated address counts.
    pub fn to_bytes(&self) -> Vec<u8> {
        let by_address: std::collections::BTreeMap<Address, U256> = self
            .allocations
            .iter()
            .map(|a| (a.address, a.balance))
            .collect();
        let allocations = by_address
            .into_iter()
            .map(|(address, balance)| Allocation { address, balance })
            .collect();
        let canonical = Self {
            timestamp: self.timestamp,
            salt: self.salt,
            allocations,
        };
        let mut out = Vec::new();
        canonical.encode(&mut out);
        out
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let genesis = Self::decode(&mut bytes).ok()?;
        bytes.is_empty().then_some(genesis)
    }

    /// keccak-256 of the canonical bytes.
    pub fn digest(&self) -> B256 {
        keccak256(self.to_bytes())
    }

    /// 2^31 plus the low 31 bits of the digest, so that a transaction of one devnet is void on every other.
    pub fn chain_id(&self) -> u64 {
        let digest = self.digest();
        let low = u32::from_be_bytes([digest[28], digest[29], digest[30], digest[31]]);
        (1 << 31) + u64::from(low & 0x7fff_ffff)
    }
}

/// How a chain is opened and sealed.
#[derive(Clone)]
pub struct ChainConfig {
    /// Block 0. Needed to create a chain; when the file exists already it must be the same or absent.
    pub genesis: Option<Genesis>,
    /// How long the sealer waits after the first pending transaction for more to share its block. 0 to 5 ms is sensible.
    pub seal_window: Duration,
    /// Gas of one block.
    pub block_gas_limit: u64,
    /// Transactions of one block.
    pub block_transactions_max: usize,
    /// For how many past blocks `eth_call` and balances can be asked.
    pub history_blocks: u64,
    /// Gas that one `eth_call` or one estimate may burn.
    pub call_gas_limit: u64,
    /// Memory for cached pages of the file, in bytes.
    pub cache_bytes: usize,
    /// Files up to this size are checked page by page when opened; larger ones only after a crash.
    pub check_on_open_bytes_max: u64,
    /// How long a transaction may wait for the missing one before it.
    pub nonce_gap_wait: Duration,
    /// Receives fees, and is `block.coinbase`.
    pub beneficiary: Address,
    /// Block time.
    pub clock: Arc<dyn Clock>,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            genesis: None,
            seal_window: Duration::from_millis(1),
            block_gas_limit: 300_000_000,
            block_transactions_max: 4_096,
            history_blocks: 256,
            call_gas_limit: 50_000_000,
            cache_bytes: 64 << 20,
            check_on_open_bytes_max: 64 << 20,
            nonce_gap_wait: Duration::from_secs(60),
            beneficiary: Address::ZERO,
            clock: Arc::new(SystemClock),
        }
    }
}

impl fmt::Debug for ChainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainConfig")
            .field("genesis", &self.genesis)
            .field("seal_window", &self.seal_window)
            .field("block_gas_limit", &self.block_gas_limit)
            .field("history_blocks", &self.history_blocks)
            .finish_non_exhaustive()
    }
}
