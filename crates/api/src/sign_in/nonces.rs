//! Nonces of sign-in messages. One that was drawn costs no memory, since it proves itself; only those that were used are remembered, and
//! these only for as long as they would still be taken. Those of an earlier start are of another seed, hence of no worth.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use stoa_types::{Millis, Timestamp};

/// How long a nonce is taken.
pub(super) const LIFE: Millis = Millis::from_secs(600);

/// Why a nonce was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NonceFault {
    /// Not drawn here since this start.
    Unknown,
    /// Drawn too long ago.
    Old,
    /// A session was opened with it.
    Used,
}

/// A nonce that proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Drawn {
    at: Timestamp,
    salt: [u8; 8],
}

/// Draws and remembers.
pub(crate) struct Nonces {
    seed: [u8; 32],
    drawn: AtomicU64,
    used: Mutex<BTreeSet<Drawn>>,
}

impl Nonces {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self {
            seed: *blake3::keyed_hash(seed, b"sign-in nonces").as_bytes(),
            drawn: AtomicU64::new(0),
            used: Mutex::default(),
        }
    }

    fn hash(&self, parts: &[&[u8]]) -> [u8; 32] {
        *blake3::keyed_hash(&self.seed, &parts.concat()).as_bytes()
    }

    fn written(&self, nonce: Drawn) -> String {
        let at = nonce.at.0.to_be_bytes();
        let proof = self.hash(&[b"proof", &at, &nonce.salt]);
        hex::encode([&at[..], &nonce.salt[..], &proof[..16]].concat())
    }

    /// A new one: letters and digits.
    pub(super) fn draw(&self, now: Timestamp) -> String {
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        // Hashed, so that it does not tell how many were drawn.
        let hash = self.hash(&[b"salt", &count.to_be_bytes()]);
        let mut salt = [0; 8];
        salt.copy_from_slice(&hash[..8]);
        self.written(Drawn { at: now, salt })
    }

    /// Whether a session could be opened with it now.
    pub(super) fn check(&self, text: &str, now: Timestamp) -> Result<Drawn, NonceFault> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NonceFault::Unknown)?;
        let (mut at, mut salt) = ([0; 8], [0; 8]);
        at.copy_from_slice(&bytes[..8]);
        salt.copy_from_slice(&bytes[8..16]);
        let at = Timestamp(u64::from_be_bytes(at));
        let nonce = Drawn { at, salt };
        // Hashed once more, the comparison tells nothing of the proof by its time.
        if blake3::hash(self.written(nonce).as_bytes()) != blake3::hash(text.as_bytes()) {
            return Err(NonceFault::Unknown);
        }
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(at) >= LIFE {
            Err(NonceFault::Old)
        } else if used.contains(&nonce) {
            Err(NonceFault::Used)
        } else {
            Ok(nonce)
        }
    }

    /// Uses it up; of two that try at once, one is told that it was used.
    pub(super) fn use_up(&self, nonce: Drawn, now: Timestamp) -> Result<(), NonceFault> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while used
            .first()
            .is_some_and(|first| now.since(first.at) >= LIFE)
        {
            used.pop_first();
        }
        if used.insert(nonce) {
            Ok(())
        } else {
            Err(NonceFault::Used)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    #[test]
    fn a_nonce_is_taken_once_for_a_while_and_by_its_own_server() {
        let nonces = Nonces::new(&[1; 32]);
        let (one, other) = (nonces.draw(NOW), nonces.draw(NOW));
        assert_ne!(one, other);
        assert!(one.len() >= 8 && one.bytes().all(|b| b.is_ascii_alphanumeric()));
        let drawn = nonces.check(&one, NOW).expect("drawn");
        assert_eq!(nonces.use_up(drawn, NOW), Ok(()));
        assert_eq!(nonces.use_up(drawn, NOW), Err(NonceFault::Used));
        assert_eq!(nonces.check(&one, NOW), Err(NonceFault::Used));
        let last = Timestamp(NOW.0 + LIFE.0 - 1);
        assert!(nonces.check(&other, last).is_ok());
        assert_eq!(nonces.check(&other, NOW.plus(LIFE)), Err(NonceFault::Old));
        assert_eq!(
            Nonces::new(&[2; 32]).check(&other, NOW),
            Err(NonceFault::Unknown)
        );
    }

    #[test]
    fn what_was_not_drawn_is_unknown_and_one_nonce_has_one_text() {
        let nonces = Nonces::new(&[1; 32]);
        let sound = nonces.draw(NOW);
        let later = format!("{:016x}{}", NOW.0 + 1, &sound[16..]);
        let upper = sound.to_ascii_uppercase();
        for text in [
            "",
            "aB3dE5gH",
            &later,
            &sound[..62],
            &upper,
            &"0".repeat(64),
        ] {
            assert_eq!(nonces.check(text, NOW), Err(NonceFault::Unknown), "{text}");
        }
    }

    #[test]
    fn only_used_nonces_that_would_still_be_taken_are_remembered() {
        let nonces = Nonces::new(&[1; 32]);
        for minute in 0..100 {
            let now = Timestamp(NOW.0 + minute * 60_000);
            for _ in 0..50 {
                nonces.draw(now);
            }
            let drawn = nonces.check(&nonces.draw(now), now).expect("drawn");
            nonces.use_up(drawn, now).expect("new");
        }
        assert!(nonces.used.lock().expect("sound").len() <= 10);
    }
}
