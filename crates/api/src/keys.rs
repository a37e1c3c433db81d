//! API keys, kept as hashes and compared in constant time.

use crate::port::{Account, KeyError};
use stoa_types::Address;

/// BLAKE3 of an API key: what a router stores instead of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(blake3::Hash);

impl KeyHash {
    /// Hash of `key`.
    pub fn of(key: &str) -> Self {
        Self(
            blake3::Hasher::new_derive_key("stoa 2026 api key v1")
                .update(key.as_bytes())
                .finalize(),
        )
    }

    /// From stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(bytes))
    }

    /// For storing.
    pub fn to_bytes(self) -> [u8; 32] {
        *self.0.as_bytes()
    }
}

/// The keys that a router accepts.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    entries: Vec<(KeyHash, Address, bool)>,
}

impl KeyRing {
    /// Accepts the key behind `hash` for `account`.
    pub fn add(&mut self, hash: KeyHash, account: Address) {
        self.entries.retain(|(known, ..)| *known != hash);
        self.entries.push((hash, account, true));
    }

    /// Refuses the key from now on; it is told that it was revoked.
    pub fn revoke(&mut self, hash: KeyHash) {
        for (known, _, valid) in &mut self.entries {
            if *known == hash {
                *valid = false;
            }
        }
    }

    /// Account of `key`. Looks at every entry, and each comparison takes the same time whatever the bytes (`blake3::Hash`).
    pub fn authenticate(&self, key: &str) -> Result<Account, KeyError> {
        let hash = KeyHash::of(key);
        let mut found = Err(KeyError::Unknown);
        for (known, address, valid) in &self.entries {
            if *known == hash {
                found = if *valid {
                    Ok(Account { address: *address })
                } else {
                    Err(KeyError::Revoked)
                };
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_its_account_until_it_is_revoked() {
        let mut ring = KeyRing::default();
        let account = Address([7; 20]);
        let hash = KeyHash::from_bytes(KeyHash::of("a key with spaces").to_bytes());
        ring.add(hash, account);
        assert_eq!(
            ring.authenticate("a key with spaces"),
            Ok(Account { address: account })
        );
        assert_eq!(
            ring.authenticate("a key with space"),
            Err(KeyError::Unknown)
        );
        ring.revoke(hash);
        assert_eq!(
            ring.authenticate("a key with spaces"),
            Err(KeyError::Revoked)
        );
    }
}
