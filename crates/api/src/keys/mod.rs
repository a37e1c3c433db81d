//! API keys: kept as hashes only; what each may do; how they are made, replaced and revoked.

mod grant;

pub(crate) use grant::MODELS_MAX;
pub use grant::{Grant, Period, RateLimit, Scope, SpendLimit};

use crate::port::{Account, KeyError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use stoa_nodes::client::KeyId;
use stoa_types::{Address, Millis, Timestamp};

/// Keys of one account that are not revoked.
const LIVE_MAX: usize = 100;
/// Keys of one account, revoked ones included: the longest revoked is forgotten first.
const KNOWN_MAX: usize = 1_000;
/// Version of the written form.
const VERSION: u32 = 1;

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

    /// Id of a key that was not made here.
    fn id(self) -> KeyId {
        let hash = blake3::derive_key("stoa 2026 id of a configured api key", self.0.as_bytes());
        KeyId(
            hash.iter()
                .take(8)
                .fold(0, |id, byte| id << 8 | u64::from(*byte)),
        )
    }
}

impl Serialize for KeyHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0.to_hex())
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let hash = blake3::Hash::from_hex(text).map_err(serde::de::Error::custom)?;
        Ok(Self(hash))
    }
}

/// A key's id as clients see it: `key_` and 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName(pub KeyId);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{:016x}", self.0.0)
    }
}

impl FromStr for KeyName {
    type Err = NotAKeyName;

    fn from_str(text: &str) -> Result<Self, NotAKeyName> {
        let digits = text
            .strip_prefix("key_")
            .filter(|digits| digits.len() == 16);
        let lower = digits.filter(|d| d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        let id = lower.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        id.map(|id| Self(KeyId(id))).ok_or(NotAKeyName)
    }
}

/// It is no key's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key's id is `key_` and 16 hexadecimal digits")]
pub struct NotAKeyName;

impl Serialize for KeyName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a new key should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What it may do; the time of its end is reckoned from `lifetime`.
    pub grant: Grant,
    /// How long it is accepted.
    pub lifetime: Option<Millis>,
}

/// One key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyName,
    /// Who pays.
    pub account: Address,
    /// For people.
    pub name: String,
    /// What it may do.
    #[serde(with = "shared")]
    pub grant: Arc<Grant>,
    /// When it was made.
    pub created_at: Timestamp,
    /// By which key.
    pub created_by: KeyName,
    /// Of the secret.
    hash: KeyHash,
    /// Of the secret before the last rotation, and until when that is still accepted.
    before: Option<(KeyHash, Timestamp)>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// It stands in the configuration of the router and is not written down with the others.
    #[serde(skip)]
    pub configured: bool,
}

/// A shared value is written like the value.
mod shared {
    use super::{Arc, Grant};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(grant: &Arc<Grant>, s: S) -> Result<S::Ok, S::Error> {
        Grant::serialize(grant, s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<Grant>, D::Error> {
        Grant::deserialize(d).map(Arc::new)
    }
}

/// Why a key was not made, replaced or revoked. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The account has no such key.
    #[error("there is no such key")]
    NotFound,
    /// The state of the keys does not allow it.
    #[error("{0}")]
    State(&'static str),
    /// The disk, or the source of random bytes, failed.
    #[error("the keys could not be written down: {0}")]
    NotWritten(String),
}

/// The keys that a router accepts.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    records: BTreeMap<KeyName, KeyRecord>,
    /// By hash. Looking up takes different times for different hashes; whoever could tell them apart would learn of hashes, and no key.
    by_hash: HashMap<[u8; 32], KeyName>,
}

/// Why written keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// They are damaged.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Another program wrote them.
    #[error("it has version {0}, this program reads version {VERSION}")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    keys: Vec<KeyRecord>,
}

impl KeyRing {
    /// Accepts the key behind `hash` for `account`, without limits. It is not among those that are written down.
    pub fn add(&mut self, hash: KeyHash, account: Address) {
        let id = KeyName(hash.id());
        self.insert(KeyRecord {
            id,
            account,
            name: "configured".to_owned(),
            grant: Arc::default(),
            created_at: Timestamp(0),
            created_by: id,
            hash,
            before: None,
            revoked_at: None,
            configured: true,
        });
    }

    /// Refuses the key from now on; it is told that it was revoked.
    pub fn revoke(&mut self, hash: KeyHash) {
        let id = self.by_hash.get(&hash.to_bytes());
        if let Some(record) = id.and_then(|id| self.records.get_mut(id)) {
            record.revoked_at = Some(Timestamp(0));
        }
    }

    /// Everything that is written down.
    pub fn to_bytes(&self) -> Vec<u8> {
        let kept = self.records.values().filter(|record| !record.configured);
        let keys = kept.cloned().collect();
        let written = Written {
            version: VERSION,
            keys,
        };
        serde_json::to_vec(&written).expect("keys hold only text and numbers")
    }

    /// Reads what [`KeyRing::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RingError> {
        let damaged = |error: serde_json::Error| RingError::Damaged(error.to_string());
        let head: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
        match head["version"]
            .as_u64()
            .and_then(|version| u32::try_from(version).ok())
        {
            Some(VERSION) => {}
            Some(other) => return Err(RingError::Version(other)),
            None => return Err(RingError::Damaged("it names no version".to_owned())),
        }
        let written: Written = serde_json::from_slice(bytes).map_err(damaged)?;
        let mut ring = Self::default();
        for record in written.keys {
            ring.insert(record);
        }
        Ok(ring)
    }

    fn insert(&mut self, record: KeyRecord) {
        self.by_hash.insert(record.hash.to_bytes(), record.id);
        if let Some((before, _)) = record.before {
            self.by_hash.insert(before.to_bytes(), record.id);
        }
        self.records.insert(record.id, record);
    }

    fn remove(&mut self, id: KeyName) {
        self.records.remove(&id);
        self.by_hash.retain(|_, known| *known != id);
    }

    /// Account of `key`.
    pub fn authenticate(&self, key: &str, now: Timestamp) -> Result<Account, KeyError> {
        let hash = KeyHash::of(key);
        let id = self
            .by_hash
            .get(&hash.to_bytes())
            .ok_or(KeyError::Unknown)?;
        let record = self.records.get(id).ok_or(KeyError::Unknown)?;
        let replaced = record.before.filter(|(before, _)| *before == hash);
        if record.revoked_at.is_some() || replaced.is_some_and(|(_, until)| now >= until) {
            return Err(KeyError::Revoked);
        }
        if record.grant.expires_at.is_some_and(|end| now >= end) {
            return Err(KeyError::Expired);
        }
        Ok(Account {
            address: record.account,
            key: record.id.0,
            grant: record.grant.clone(),
        })
    }

    /// Keys of an account, newest first.
    pub fn of(&self, account: Address) -> Vec<KeyRecord> {
        self.newest(|record| record.account == account)
    }

    /// Keys of all accounts, newest first.
    pub fn all(&self) -> Vec<KeyRecord> {
        self.newest(|_| true)
    }

    fn newest(&self, wanted: impl Fn(&KeyRecord) -> bool) -> Vec<KeyRecord> {
        let found = self.records.values().filter(|record| wanted(record));
        let mut found: Vec<_> = found.cloned().collect();
        found.sort_by_key(|record| std::cmp::Reverse((record.created_at, record.id)));
        found
    }

    /// One key of an account.
    pub fn get(&self, account: Address, key: KeyName) -> Option<KeyRecord> {
        let record = self.records.get(&key)?;
        (record.account == account).then(|| record.clone())
    }

    /// Whose key it is.
    pub fn account_of(&self, key: KeyId) -> Option<Address> {
        self.records.get(&KeyName(key)).map(|record| record.account)
    }

    /// Makes a key. `id` and the secret behind `hash` are drawn at random by the caller.
    pub fn create(
        &mut self,
        by: &Account,
        new: NewKey,
        id: KeyId,
        hash: KeyHash,
        now: Timestamp,
    ) -> Result<KeyRecord, KeyFault> {
        let id = KeyName(id);
        if self.records.contains_key(&id) || self.by_hash.contains_key(&hash.to_bytes()) {
            return Err(KeyFault::NotWritten("a key was drawn twice".to_owned()));
        }
        let own = || self.records.values().filter(|r| r.account == by.address);
        let live = own().filter(|record| record.revoked_at.is_none()).count();
        if live >= LIVE_MAX {
            return Err(KeyFault::State(
                "the account has 100 keys; revoke one first",
            ));
        }
        if own().count() >= KNOWN_MAX {
            let revoked = own().filter(|record| record.revoked_at.is_some());
            if let Some(oldest) = revoked.min_by_key(|r| r.revoked_at).map(|r| r.id) {
                self.remove(oldest);
            }
        }
        let expires_at = new.lifetime.map(|lifetime| now.plus(lifetime));
        let record = KeyRecord {
            id,
            account: by.address,
            name: new.name,
            grant: Arc::new(Grant {
                expires_at,
                ..new.grant
            }),
            created_at: now,
            created_by: KeyName(by.key),
            hash,
            before: None,
            revoked_at: None,
            configured: false,
        };
        self.insert(record.clone());
        Ok(record)
    }

    /// The account's own key, to be changed.
    fn own(&mut self, account: Address, id: KeyName) -> Result<&mut KeyRecord, KeyFault> {
        let record = self.records.get_mut(&id).filter(|r| r.account == account);
        let record = record.ok_or(KeyFault::NotFound)?;
        if record.configured {
            return Err(KeyFault::State(
                "this key stands in the router's own data folder and can be changed only there",
            ));
        }
        Ok(record)
    }

    /// Gives a key another secret; the one before is accepted for `grace` more.
    pub fn rotate(
        &mut self,
        account: Address,
        id: KeyName,
        hash: KeyHash,
        grace: Millis,
        now: Timestamp,
    ) -> Result<KeyRecord, KeyFault> {
        let record = self.own(account, id)?;
        if record.revoked_at.is_some() {
            return Err(KeyFault::State("this key is revoked; make another one"));
        }
        let forgotten = record.before.replace((record.hash, now.plus(grace)));
        record.hash = hash;
        let record = record.clone();
        if let Some((forgotten, _)) = forgotten {
            self.by_hash.remove(&forgotten.to_bytes());
        }
        self.insert(record.clone());
        Ok(record)
    }

    /// Refuses a key from now on. A key that is revoked already stays as it is.
    pub fn revoke_own(
        &mut self,
        account: Address,
        id: KeyName,
        now: Timestamp,
    ) -> Result<KeyRecord, KeyFault> {
        let record = self.own(account, id)?;
        record.revoked_at.get_or_insert(now);
        Ok(record.clone())
    }
}

#[cfg(test)]
mod tests;
