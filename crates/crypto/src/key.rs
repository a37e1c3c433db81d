//! secp256k1 keys of accounts.

use crate::keccak256;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, SECP256K1};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use stoa_types::{Address, Digest, Signature};

/// The bytes are no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes in hexadecimal.
    #[error("a secret key is 64 hexadecimal digits, with or without 0x")]
    Malformed,
    /// Zero or not below the group order.
    #[error("these 32 bytes are not a secp256k1 secret key")]
    OutOfRange,
    /// Not the compressed form of a point of the curve.
    #[error("these bytes are not a compressed secp256k1 public key of 33 bytes")]
    NoPublicKey,
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
///
/// Public key and address are computed once, with the key: who they are of is asked far more often than anything is signed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey {
    secret: secp256k1::SecretKey,
    public: PublicKey,
    address: Address,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.address())
    }
}

impl SecretKey {
    /// From 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let secret =
            secp256k1::SecretKey::from_byte_array(bytes).map_err(|_| KeyError::OutOfRange)?;
        let public = PublicKey(secp256k1::PublicKey::from_secret_key(SECP256K1, &secret));
        Ok(Self {
            secret,
            public,
            address: public.address(),
        })
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
        self.secret.secret_bytes()
    }

    /// Its account.
    pub fn address(&self) -> Address {
        self.address
    }

    /// What others seal to.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn inner(&self) -> &secp256k1::SecretKey {
        &self.secret
    }

    /// Signs a 32-byte digest; deterministic (RFC 6979), low s.
    pub fn sign(&self, digest: Digest) -> Signature {
        let (id, compact) = SECP256K1
            .sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.secret)
            .serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = 27 + u8::try_from(i32::from(id)).expect("a recovery id lies in 0..4");
        Signature(bytes)
    }
}

/// Public key of an account, as text 66 hexadecimal digits with 0x. Whose it is needs no proof: the address is its hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(secp256k1::PublicKey);

impl PublicKey {
    /// From its compressed form of 33 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: &[u8; 33] = bytes.try_into().map_err(|_| KeyError::NoPublicKey)?;
        secp256k1::PublicKey::from_slice(bytes)
            .map(Self)
            .map_err(|_| KeyError::NoPublicKey)
    }

    /// Its compressed form.
    pub fn to_bytes(&self) -> [u8; 33] {
        self.0.serialize()
    }

    /// From its two coordinates, as contracts hold it.
    pub fn from_point(x: Digest, y: Digest) -> Result<Self, KeyError> {
        let mut bytes = [4; 65];
        bytes[1..33].copy_from_slice(&x.0);
        bytes[33..].copy_from_slice(&y.0);
        secp256k1::PublicKey::from_slice(&bytes)
            .map(Self)
            .map_err(|_| KeyError::NoPublicKey)
    }

    /// Its two coordinates. The account is the hash of both.
    pub fn point(&self) -> (Digest, Digest) {
        let bytes = self.0.serialize_uncompressed();
        let (mut x, mut y) = ([0; 32], [0; 32]);
        x.copy_from_slice(&bytes[1..33]);
        y.copy_from_slice(&bytes[33..]);
        (Digest(x), Digest(y))
    }

    /// Its account.
    pub fn address(&self) -> Address {
        address_of(&self.0)
    }

    pub(crate) fn inner(&self) -> &secp256k1::PublicKey {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.to_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Strict: `0x` and lower-case digits only, so that one key has one text.
impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let digits = text.strip_prefix("0x").ok_or(KeyError::NoPublicKey)?;
        let bytes = hex::decode(digits).map_err(|_| KeyError::NoPublicKey)?;
        let key = Self::from_bytes(&bytes)?;
        if key.to_string() == text {
            Ok(key)
        } else {
            Err(KeyError::NoPublicKey)
        }
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
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

fn address_of(key: &secp256k1::PublicKey) -> Address {
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
    fn bytes_that_are_no_key_or_no_signature_are_refused() {
        let order = hex::decode("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
            .expect("hex");
        let order: [u8; 32] = order.try_into().expect("32 bytes");
        for bytes in [[0; 32], order, [0xff; 32]] {
            assert_eq!(SecretKey::from_bytes(bytes), Err(KeyError::OutOfRange));
        }
        for text in ["", "0x", "0x01", "zz", &"0".repeat(63), &"0".repeat(65)] {
            assert_eq!(SecretKey::from_hex(text), Err(KeyError::Malformed));
        }
        let digest = keccak256("message");
        let sound = SecretKey::for_tests("a").sign(digest).0;
        let with = |range: std::ops::Range<usize>, part: &[u8]| {
            let mut bytes = sound;
            bytes[range].copy_from_slice(part);
            recover(digest, &Signature(bytes))
        };
        assert_eq!(with(0..32, &[0; 32]), Err(SignatureError::Invalid), "r = 0");
        assert_eq!(
            with(32..64, &[0; 32]),
            Err(SignatureError::Invalid),
            "s = 0"
        );
        assert_eq!(with(0..32, &order), Err(SignatureError::Invalid), "r = n");
        assert_eq!(with(32..64, &order), Err(SignatureError::Invalid), "s = n");
        assert_eq!(
            recover(digest, &Signature::ZERO),
            Err(SignatureError::RecoveryByte(0))
        );
        for v in [1, 26, 29, 255] {
            assert_eq!(with(64..65, &[v]), Err(SignatureError::RecoveryByte(v)));
        }
    }

    #[test]
    fn a_public_key_has_one_text_and_its_secret_s_address() {
        let key = SecretKey::for_tests("a");
        let public = key.public_key();
        assert_eq!(public.address(), key.address());
        let text = public.to_string();
        assert_eq!(text.parse(), Ok(public));
        let (upper, no_point) = (text.to_uppercase(), format!("0x05{}", &text[4..]));
        for bad in ["", "0x", &text[2..], &upper, &text[..66], &no_point] {
            assert_eq!(bad.parse::<PublicKey>(), Err(KeyError::NoPublicKey));
        }
    }

    #[test]
    fn a_public_key_is_its_point_and_a_point_off_the_curve_is_none() {
        let public = SecretKey::for_tests("a").public_key();
        let (x, y) = public.point();
        assert_eq!(PublicKey::from_point(x, y), Ok(public));
        let hash = keccak256([x.0, y.0].concat());
        assert_eq!(public.address().0, hash.0[12..]);
        let refused = Err(KeyError::NoPublicKey);
        assert_eq!(PublicKey::from_point(y, x), refused);
        assert_eq!(PublicKey::from_point(x, x), refused);
        assert_eq!(PublicKey::from_point(Digest::ZERO, Digest::ZERO), refused);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

        #[test]
        fn arbitrary_signatures_are_no_panic_and_a_changed_one_is_by_nobody_known(
            r in proptest::prelude::any::<[u8; 32]>(), s in proptest::prelude::any::<[u8; 32]>(), v in proptest::prelude::any::<u8>(),
            at in 0usize..65, bit in 0u8..8,
        ) {
            let key = SecretKey::for_tests("a");
            let digest = keccak256(r);
            let mut arbitrary = [0; 65];
            arbitrary[..32].copy_from_slice(&r);
            arbitrary[32..64].copy_from_slice(&s);
            arbitrary[64] = if v < 200 { 27 + v % 2 } else { v };
            proptest::prop_assert_ne!(recover(digest, &Signature(arbitrary)), Ok(key.address()));
            let mut changed = key.sign(digest);
            changed.0[at] ^= 1 << bit;
            proptest::prop_assert_ne!(recover(digest, &changed), Ok(key.address()));
            let again: Signature = changed.to_string().parse().expect("its own text");
            proptest::prop_assert_eq!(again, changed);
        }
    }

    #[test]
    fn a_key_never_prints_itself() {
        let key = SecretKey::for_tests("a");
        assert!(!format!("{key:?}").contains(&hex::encode(key.to_bytes())));
    }
}
