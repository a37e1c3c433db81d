//! Sealing: bytes that only the holders of some account keys can read.
//!
//! A key per seal encrypts the bytes (ChaCha20-Poly1305). It is wrapped for each recipient under a key that both sides compute: ECDH of one
//! ephemeral secp256k1 key with the recipient's, hashed together with both public keys. Each of these keys encrypts one message, so nonces
//! are zero. Ephemeral key, recipients and wraps are authenticated with the bytes, so that no flipped bit anywhere opens, whoever opens it.
//!
//! The sealer gives 32 fresh random bytes and forgets them. Whoever keeps them, or uses them twice, gives the secret away.

use crate::{KeyError, PublicKey, SecretKey, keccak256};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use secp256k1::ecdh::shared_secret_point;
use stoa_types::{Address, Digest};

/// The most recipients of one seal.
pub const RECIPIENTS_MAX: usize = 64;

const VERSION: u8 = 1;
const PUBLIC_KEY: usize = 33;
const TAG: usize = 16;
const WRAP: usize = 20 + 32 + TAG;
const HEAD: usize = 1 + PUBLIC_KEY + 1;

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// None, or too many.
    #[error("{0} recipients: a seal has 1 to {RECIPIENTS_MAX}, each once")]
    Recipients(usize),
    /// The bytes given as randomness make no key; odds of 2^-127 for random ones.
    #[error("the random bytes make no key: draw others")]
    Entropy,
    /// More than 256 GiB.
    #[error("the bytes are too long to seal")]
    TooLong,
}

/// Why sealed bytes were not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bytes are no seal in its one canonical form.
    #[error("these bytes are no seal: {0}")]
    Malformed(&'static str),
    /// The key is none of the recipients'.
    #[error("nothing is sealed for {0} here")]
    NotForThisKey(Address),
    /// It is addressed to this key, but was changed or belongs to another context.
    #[error("the seal was changed, or was made for something else")]
    Broken,
}

/// The content's key, encrypted for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wrap {
    recipient: Address,
    key: [u8; 32 + TAG],
}

/// Sealed bytes. They tell who can read them and how long the content is, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    ephemeral: PublicKey,
    /// Rising by recipient.
    wraps: Vec<Wrap>,
    body: Vec<u8>,
}

impl Sealed {
    /// Seals `content` for the holders of `recipients`. It opens in the same `context` only. `fresh` must be random and never used again.
    pub fn seal(
        content: &[u8],
        context: Digest,
        recipients: &[PublicKey],
        fresh: [u8; 32],
    ) -> Result<Self, SealError> {
        let mut keys: Vec<_> = recipients.iter().map(|key| (key.address(), key)).collect();
        keys.sort_by_key(|(address, _)| *address);
        let twice = keys.windows(2).any(|pair| pair[0].0 == pair[1].0);
        if keys.is_empty() || keys.len() > RECIPIENTS_MAX || twice {
            return Err(SealError::Recipients(recipients.len()));
        }
        let ephemeral = SecretKey::from_bytes(derived(b"stoa.seal.ephemeral.v1", &fresh))
            .map_err(|_: KeyError| SealError::Entropy)?;
        let content_key = derived(b"stoa.seal.content.v1", &fresh);
        let public = ephemeral.public_key();
        let wrap = |(recipient, key): (Address, &PublicKey)| {
            let under = shared(&ephemeral, key, &public, key);
            let wrapped = encrypt(under, &content_key, recipient.as_bytes())?;
            let key = wrapped.try_into().map_err(|_| SealError::TooLong)?;
            Ok(Wrap { recipient, key })
        };
        let wraps = keys.into_iter().map(wrap).collect::<Result<_, _>>()?;
        let mut sealed = Self {
            ephemeral: public,
            wraps,
            body: Vec::new(),
        };
        sealed.body = encrypt(content_key, content, &sealed.bound(context))?;
        Ok(sealed)
    }

    /// Reads the content with one recipient's key.
    pub fn open(&self, key: &SecretKey, context: Digest) -> Result<Vec<u8>, OpenError> {
        let own = key.public_key();
        let me = own.address();
        let at = self.wraps.binary_search_by_key(&me, |wrap| wrap.recipient);
        let wrap = &self.wraps[at.map_err(|_| OpenError::NotForThisKey(me))?];
        let under = shared(key, &self.ephemeral, &self.ephemeral, &own);
        let content_key = decrypt(under, &wrap.key, me.as_bytes())?;
        let content_key = content_key.try_into().map_err(|_| OpenError::Broken)?;
        decrypt(content_key, &self.body, &self.bound(context))
    }

    /// Who can read it, rising.
    pub fn recipients(&self) -> impl Iterator<Item = Address> {
        self.wraps.iter().map(|wrap| wrap.recipient)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.extend(&self.body);
        bytes
    }

    /// The inverse of [`Sealed::to_bytes`]; takes no other bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let bad = OpenError::Malformed;
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(bad("too short"))?;
        if head[0] != VERSION {
            return Err(bad("another version"));
        }
        let ephemeral = PublicKey::from_bytes(&head[1..=PUBLIC_KEY])
            .map_err(|_| bad("its ephemeral key is no key"))?;
        let count = usize::from(head[HEAD - 1]);
        if count == 0 || count > RECIPIENTS_MAX {
            return Err(bad("no or too many recipients"));
        }
        let (wraps, body) = rest
            .split_at_checked(count * WRAP)
            .filter(|(_, body)| body.len() >= TAG)
            .ok_or(bad("too short"))?;
        let wraps: Vec<Wrap> = wraps.chunks_exact(WRAP).map(wrap_from).collect();
        if wraps.windows(2).any(|w| w[0].recipient >= w[1].recipient) {
            return Err(bad("its recipients are not in order"));
        }
        Ok(Self {
            ephemeral,
            wraps,
            body: body.to_vec(),
        })
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.ephemeral.to_bytes());
        bytes.push(u8::try_from(self.wraps.len()).expect("at most RECIPIENTS_MAX"));
        for wrap in &self.wraps {
            bytes.extend(wrap.recipient.as_bytes());
            bytes.extend(wrap.key);
        }
        bytes
    }

    /// What is authenticated beside the content.
    fn bound(&self, context: Digest) -> Vec<u8> {
        let mut bytes = context.0.to_vec();
        bytes.extend(self.header());
        bytes
    }
}

fn wrap_from(bytes: &[u8]) -> Wrap {
    let (address, key) = bytes.split_at(20);
    Wrap {
        recipient: Address(address.try_into().expect("split at 20")),
        key: key.try_into().expect("a chunk holds 20 and 48 bytes"),
    }
}

fn derived(purpose: &[u8], fresh: &[u8; 32]) -> [u8; 32] {
    keccak256([purpose, fresh].concat()).0
}

/// The key that sealer and recipient share, bound to both public keys.
fn shared(
    secret: &SecretKey,
    public: &PublicKey,
    ephemeral: &PublicKey,
    recipient: &PublicKey,
) -> [u8; 32] {
    let point = shared_secret_point(public.inner(), secret.inner());
    let mut bytes = b"stoa.seal.wrap.v1".to_vec();
    bytes.extend(ephemeral.to_bytes());
    bytes.extend(recipient.to_bytes());
    bytes.extend(point);
    keccak256(bytes).0
}

fn encrypt(key: [u8; 32], msg: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
    ChaCha20Poly1305::new(&key.into())
        .encrypt(&Nonce::default(), Payload { msg, aad })
        .map_err(|_| SealError::TooLong)
}

fn decrypt(key: [u8; 32], msg: &[u8], aad: &[u8]) -> Result<Vec<u8>, OpenError> {
    ChaCha20Poly1305::new(&key.into())
        .decrypt(&Nonce::default(), Payload { msg, aad })
        .map_err(|_| OpenError::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(n: usize) -> Vec<SecretKey> {
        (0..n)
            .map(|i| SecretKey::for_tests(&format!("sealed for {i}")))
            .collect()
    }

    fn public(keys: &[SecretKey]) -> Vec<PublicKey> {
        keys.iter().map(SecretKey::public_key).collect()
    }

    fn sealed(content: &[u8], n: usize) -> (Sealed, Vec<SecretKey>) {
        let keys = keys(n);
        let sealed = Sealed::seal(content, keccak256("job"), &public(&keys), [7; 32]);
        (sealed.expect("seals"), keys)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_recipient_reads_it_and_nobody_else(
            content in proptest::collection::vec(any::<u8>(), 0..300), n in 1usize..6, fresh in any::<[u8; 32]>(), context in any::<[u8; 32]>(),
        ) {
            let keys = keys(n);
            let context = Digest(context);
            let sealed = Sealed::seal(&content, context, &public(&keys), fresh).expect("seals");
            let sealed = Sealed::parse(&sealed.to_bytes()).expect("its own bytes");
            prop_assert_eq!(sealed.recipients().count(), n);
            for key in &keys {
                prop_assert_eq!(sealed.open(key, context), Ok(content.clone()));
                prop_assert_eq!(sealed.open(key, keccak256("another job")), Err(OpenError::Broken));
            }
            let stranger = SecretKey::for_tests("stranger");
            prop_assert_eq!(sealed.open(&stranger, context), Err(OpenError::NotForThisKey(stranger.address())));
        }

        #[test]
        fn arbitrary_bytes_are_no_panic_and_what_parses_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            let (sound, _) = sealed(b"content", 2);
            let mut sound = sound.to_bytes();
            sound.truncate(cut);
            for bytes in [bytes, sound] {
                if let Ok(parsed) = Sealed::parse(&bytes) {
                    prop_assert_eq!(parsed.to_bytes(), bytes);
                }
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_refused_by_every_recipient() {
        let (sound, keys) = sealed(b"a prompt", 3);
        let bytes = sound.to_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let Ok(parsed) = Sealed::parse(&changed) else {
                    continue;
                };
                for key in &keys {
                    assert!(parsed.open(key, keccak256("job")).is_err(), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn whoever_takes_another_s_wrap_for_its_own_reads_nothing() {
        let (sound, keys) = sealed(b"a prompt", 2);
        let thief = SecretKey::for_tests("thief");
        let mut stolen = sound.clone();
        stolen.wraps.truncate(1);
        stolen.wraps[0].recipient = thief.address();
        let read = stolen.open(&thief, keccak256("job"));
        assert_eq!(read, Err(OpenError::Broken));
        assert!(sound.open(&keys[0], keccak256("job")).is_ok());
    }

    #[test]
    fn the_same_bytes_sealed_twice_share_no_key_and_no_ciphertext() {
        let keys = public(&keys(1));
        let seal = |fresh| Sealed::seal(b"a prompt", Digest::ZERO, &keys, fresh).expect("seals");
        let (a, b) = (seal([1; 32]), seal([2; 32]));
        assert_ne!(a.ephemeral, b.ephemeral);
        assert_ne!(a.body, b.body);
        assert_ne!(a.wraps[0].key, b.wraps[0].key);
    }

    #[test]
    fn nobody_one_twice_or_too_many_is_refused() {
        let one = SecretKey::for_tests("one").public_key();
        let seal = |keys: &[PublicKey]| Sealed::seal(b"", Digest::ZERO, keys, [1; 32]);
        assert_eq!(seal(&[]), Err(SealError::Recipients(0)));
        assert_eq!(seal(&[one, one]), Err(SealError::Recipients(2)));
        let many = public(&keys(RECIPIENTS_MAX + 1));
        assert_eq!(seal(&many), Err(SealError::Recipients(RECIPIENTS_MAX + 1)));
        assert!(seal(&many[1..]).is_ok());
    }
}
