//! Keys, signatures, Merkle trees, canonical bytes, EIP-712 digests.
//!
//! keccak stands only where the EVM opens a value; secp256k1 signs tickets, receipts and transactions; ed25519 is the identity of a
//! transport endpoint and nothing else (DECISIONS 4). Golden bytes of all of it: `vectors/receipt.json`.

mod abi;
mod choice;
mod eip712;
mod endpoint;
mod key;
mod merkle;
mod personal;
mod seal;
mod tokens;

pub use abi::Words;
pub use alloy_primitives::keccak256 as keccak256_b256;
pub use choice::{choice_of_seed, choice_seed};
pub use eip712::{
    Domain, acceptance_digest, receipt_bytes, receipt_digest, receipt_leaf, ticket_bytes,
    ticket_digest,
};
pub use endpoint::{EndpointProofError, endpoint_message, verify_endpoint_proof};
pub use key::{KeyError, PublicKey, SecretKey, SignatureError, recover};
pub use merkle::{MerkleFrontier, MerkleTree, hash_pair, verify_proof, verify_range};
pub use personal::{checksummed, personal_digest};
pub use seal::{OpenError, RECIPIENTS_MAX, SealError, Sealed};
pub use tokens::{chain_head, debit_leaf, payout_leaf, token_root};

use stoa_types::Digest;

/// keccak-256 of `bytes`.
pub fn keccak256(bytes: impl AsRef<[u8]>) -> Digest {
    Digest(alloy_primitives::keccak256(bytes.as_ref()).0)
}

/// keccak of keccak: the leaf hash of every tree that a contract opens, so that an inner node never passes for a leaf.
pub fn double_keccak(bytes: impl AsRef<[u8]>) -> Digest {
    keccak256(keccak256(bytes).as_bytes())
}
