//! Binding of a transport endpoint (ed25519) to an account (secp256k1), both ways (DECISIONS 4): the account signs the registering
//! transaction, the endpoint signs this message.

use crate::{Words, keccak256};
use ed25519_dalek::{Signature, VerifyingKey};
use stoa_types::{Address, Digest, EndpointId};

/// Why an endpoint's proof of possession was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointProofError {
    /// The endpoint id is no ed25519 key.
    #[error("endpoint {0} is not an ed25519 public key")]
    NotAKey(EndpointId),
    /// The signature is not 64 bytes.
    #[error("the endpoint proof has {0} bytes; an ed25519 signature has 64")]
    Length(usize),
    /// The signature is for something else or by somebody else.
    #[error("endpoint {endpoint} did not sign for account {account}")]
    Refused {
        /// Claimed endpoint.
        endpoint: EndpointId,
        /// Account that claims it.
        account: Address,
    },
}

/// What the endpoint's key signs: `keccak256(abi.encode(keccak256("stoa.endpoint.v1"), chainId, registry, account))`.
pub fn endpoint_message(chain_id: u64, registry: Address, account: Address) -> Digest {
    let words = Words::new()
        .digest(keccak256("stoa.endpoint.v1"))
        .uint(chain_id)
        .address(registry)
        .address(account);
    keccak256(words.as_bytes())
}

/// Checks that `endpoint` agreed to belong to `account`. Strict: no small-order keys, no malleable signatures.
pub fn verify_endpoint_proof(
    endpoint: EndpointId,
    chain_id: u64,
    registry: Address,
    account: Address,
    proof: &[u8],
) -> Result<(), EndpointProofError> {
    let key =
        VerifyingKey::from_bytes(&endpoint.0).map_err(|_| EndpointProofError::NotAKey(endpoint))?;
    let signature =
        Signature::from_slice(proof).map_err(|_| EndpointProofError::Length(proof.len()))?;
    key.verify_strict(&endpoint_message(chain_id, registry, account).0, &signature)
        .map_err(|_| EndpointProofError::Refused { endpoint, account })
}
