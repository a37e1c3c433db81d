//! `abi.encode` of static values: each becomes one 32-byte word.

use stoa_types::{Address, Digest};

/// Builds the ABI encoding of a tuple of static values, in order.
#[derive(Debug, Default, Clone)]
pub struct Words(Vec<u8>);

impl Words {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an unsigned integer of any Solidity width up to 128 bits.
    #[must_use]
    pub fn uint(mut self, value: impl Into<u128>) -> Self {
        self.0.extend([0; 16]);
        self.0.extend(value.into().to_be_bytes());
        self
    }

    /// Appends an address.
    #[must_use]
    pub fn address(mut self, address: Address) -> Self {
        self.0.extend([0; 12]);
        self.0.extend(address.0);
        self
    }

    /// Appends a `bytes32`.
    #[must_use]
    pub fn digest(mut self, digest: Digest) -> Self {
        self.0.extend(digest.0);
        self
    }

    /// The encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
