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

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    const CHAIN: u64 = 31_337;
    const REGISTRY: Address = Address([1; 20]);
    const ACCOUNT: Address = Address([2; 20]);

    fn check(endpoint: EndpointId, proof: &[u8]) -> Result<(), EndpointProofError> {
        verify_endpoint_proof(endpoint, CHAIN, REGISTRY, ACCOUNT, proof)
    }

    #[test]
    fn a_proof_holds_for_its_chain_registry_account_and_key_alone() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let endpoint = EndpointId(key.verifying_key().to_bytes());
        let proof = key
            .sign(&endpoint_message(CHAIN, REGISTRY, ACCOUNT).0)
            .to_bytes();
        assert_eq!(check(endpoint, &proof), Ok(()));
        for (chain, registry, account) in [
            (CHAIN + 1, REGISTRY, ACCOUNT),
            (CHAIN, ACCOUNT, ACCOUNT),
            (CHAIN, REGISTRY, REGISTRY),
        ] {
            let refused = verify_endpoint_proof(endpoint, chain, registry, account, &proof);
            assert_eq!(
                refused,
                Err(EndpointProofError::Refused { endpoint, account })
            );
        }
        let other = EndpointId(SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes());
        assert!(check(other, &proof).is_err());
        for bit in 0..512 {
            let mut changed = proof;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(check(endpoint, &changed).is_err(), "bit {bit}");
        }
        for length in [0, 63] {
            assert_eq!(
                check(endpoint, &proof[..length]),
                Err(EndpointProofError::Length(length))
            );
        }
    }

    #[test]
    fn a_key_of_small_order_proves_nothing() {
        // The neutral element, with a signature that a tolerant check takes for any message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut proof = [0; 64];
        proof[0] = 1;
        let message = endpoint_message(CHAIN, REGISTRY, ACCOUNT).0;
        let tolerant = VerifyingKey::from_bytes(&neutral).expect("a point");
        let signature = Signature::from_bytes(&proof);
        assert!(
            ed25519_dalek::Verifier::verify(&tolerant, &message, &signature).is_ok(),
            "the attack is real"
        );
        assert!(check(EndpointId(neutral), &proof).is_err());
    }
}
