//! Between the words of Stoa and those of the EVM libraries.

use alloy_primitives::{B256, U256};
use stoa_types::{Address, Digest, TokenAmount};

/// The account as the EVM libraries name it.
pub fn evm_address(address: Address) -> alloy_primitives::Address {
    alloy_primitives::Address::from(address.0)
}

/// The account as Stoa names it.
pub fn address(address: alloy_primitives::Address) -> Address {
    Address(address.0.0)
}

/// The digest as the EVM libraries name it.
pub fn evm_digest(digest: Digest) -> B256 {
    B256::from(digest.0)
}

/// The digest as Stoa names it.
pub fn digest(word: B256) -> Digest {
    Digest(word.0)
}

/// An amount of the payment token.
pub fn tokens(units: u128) -> TokenAmount {
    TokenAmount::from_units(units)
}

/// A 256-bit number that has to fit.
pub fn narrow(number: U256) -> Option<u128> {
    u128::try_from(number).ok()
}
