//! secp256k1 keys of accounts.

use crate::keccak256;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey, SECP256K1};
use std::fmt;
use stoa_types::{Address, Digest, Signature};

/// The bytes are no secret key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes in hexadecimal.
    #[error("a secret key is 64 hexadecimal digits, with or without 0x")]
    Malformed,
    /// Zero or not below the group order.
    #[error("these 32 bytes are not a secp256k1 secret key")]
    OutOfRange,
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// v is not 27 or 28.
    #[error("the recovery byte is {0}, not 27 or 28")]
    RecoveryByte(u8),
    /// s lies in the upper half: a second signature for the same message.
    #[error("the signature is malleable (high s)")]
    HighS,
    /// No key could have made it.
    #[error("no key could have made this signature")]
    Invalid,
}

/// Secret key of an account. Prints as its address, never as itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(secp256k1::SecretKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.address())
    }
}

impl SecretKey {
    /// From 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        secp256k1::SecretKey::from_byte_array(bytes)
            .map(Self)
            .map_err(|_| KeyError::OutOfRange)
    }

    /// From hexadecimal text.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        let digits = text.trim();
        hex::decode_to_slice(digits.strip_prefix("0x").unwrap_or(digits), &mut bytes)
            .map_err(|_| KeyError::Malformed)?;
        Self::from_bytes(bytes)
    }

    /// A key for tests and simulations, derived from a label. Anyone can derive it: never fund it outside a devnet.
    pub fn for_tests(label: &str) -> Self {
        Self::from_bytes(keccak256(format!("stoa test key {label}")).0)
            .expect("a keccak output is in range but with odds of 2^-127")
    }

    /// The secret bytes, for storing in a file of mode 0600.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.secret_bytes()
    }

    /// Its account.
    pub fn address(&self) -> Address {
        address_of(&PublicKey::from_secret_key(SECP256K1, &self.0))
    }

    /// Signs a 32-byte digest; deterministic (RFC 6979), low s.
    pub fn sign(&self, digest: Digest) -> Signature {
        let (id, compact) = SECP256K1
            .sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.0)
            .serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = 27 + u8::try_from(i32::from(id)).expect("a recovery id lies in 0..4");
        Signature(bytes)
    }
}

/// Account whose key signed `digest`.
pub fn recover(digest: Digest, signature: &Signature) -> Result<Address, SignatureError> {
    let v = signature.0[64];
    if !(27..=28).contains(&v) {
        return Err(SignatureError::RecoveryByte(v));
    }
    let id = RecoveryId::try_from(i32::from(v - 27)).map_err(|_| SignatureError::Invalid)?;
    let recoverable = RecoverableSignature::from_compact(&signature.0[..64], id)
        .map_err(|_| SignatureError::Invalid)?;
    let standard = recoverable.to_standard();
    let mut normalized = standard;
    normalized.normalize_s();
    if normalized != standard {
        return Err(SignatureError::HighS);
    }
    let key = SECP256K1
        .recover_ecdsa(Message::from_digest(digest.0), &recoverable)
        .map_err(|_| SignatureError::Invalid)?;
    Ok(address_of(&key))
}

fn address_of(key: &PublicKey) -> Address {
    let hash = keccak256(&key.serialize_uncompressed()[1..]);
    let mut address = [0; 20];
    address.copy_from_slice(&hash.0[12..]);
    Address(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signer_is_recovered_and_agrees_with_another_implementation() {
        let key = SecretKey::for_tests("a");
        let digest = keccak256("message");
        let signature = key.sign(digest);
        assert_eq!(recover(digest, &signature), Ok(key.address()));

        let peer = k256::ecdsa::SigningKey::from_slice(&key.to_bytes()).expect("same range");
        let (peer_signature, id) = peer.sign_prehash_recoverable(&digest.0).expect("signs");
        assert_eq!(peer_signature.to_bytes().as_slice(), &signature.0[..64]);
        assert_eq!(id.to_byte() + 27, signature.0[64]);
    }

    #[test]
    fn a_malleated_signature_is_refused() {
        let key = SecretKey::for_tests("a");
        let digest = keccak256("message");
        let mut bytes = key.sign(digest).0;
        let s = k256::ecdsa::Signature::from_slice(&bytes[..64]).expect("valid");
        let (r, s) = s.split_scalars();
        let flipped = k256::ecdsa::Signature::from_scalars(r, -s).expect("valid");
        bytes[..64].copy_from_slice(&flipped.to_bytes());
        bytes[64] = 27 + 28 - bytes[64];
        assert_eq!(
            recover(digest, &Signature(bytes)),
            Err(SignatureError::HighS)
        );
        bytes[64] = 0;
        assert_eq!(
            recover(digest, &Signature(bytes)),
            Err(SignatureError::RecoveryByte(0))
        );
    }

    #[test]
    fn a_key_never_prints_itself() {
        let key = SecretKey::for_tests("a");
        assert!(!format!("{key:?}").contains(&hex::encode(key.to_bytes())));
    }
}
