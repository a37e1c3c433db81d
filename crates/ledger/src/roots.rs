//! Roots that the vault computes and the book foretells.

pub use stoa_crypto::chain_head;
use stoa_crypto::{Words, keccak256};
use stoa_types::Digest;

/// Payout root over the tree of providers and the tree of debits: `keccak256(abi.encode(providerRoot, debitRoot))`.
pub fn pay_root(provider_root: Digest, debit_root: Digest) -> Digest {
    keccak256(
        Words::new()
            .digest(provider_root)
            .digest(debit_root)
            .as_bytes(),
    )
}
