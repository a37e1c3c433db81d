//! The API keys of a router on its disk: one file of hashes, written whole and synced before a change is acknowledged.

use super::router::now;
use crate::data::{DataError, write_private};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use stoa_api::{
    Account, KeyError, KeyFault, KeyHash, KeyName, KeyRecord, KeyRing, NewKey, RingError,
};
use stoa_nodes::client::KeyId;
use stoa_types::{Address, Millis};

const FILE: &str = "keys.json";

/// Why the keys cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error(
        "the API keys in {path} cannot be read: {source}; check the disk and start again. Nothing was changed"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What it holds is of no use.
    #[error(
        "the API keys in {path} cannot be used: {why}. Nothing was changed; restore the file from your backup, or start the program \
         that wrote it. Without the file every key but the configured one is unknown"
    )]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: RingError,
    },
}

/// The keys in force and their file.
pub struct KeyStore {
    path: PathBuf,
    ring: RwLock<KeyRing>,
    /// One change at a time; callers that are only let in do not wait for the disk.
    writing: Mutex<()>,
}

impl KeyStore {
    /// Reads the keys in the router's folder; `configured` are accepted besides, without limits, and never written.
    pub fn open(folder: &Path, configured: &[(KeyHash, Address)]) -> Result<Self, KeysError> {
        let path = folder.join(FILE);
        let mut ring = match std::fs::read(&path) {
            Ok(bytes) => KeyRing::from_bytes(&bytes).map_err(|why| KeysError::Content {
                path: path.clone(),
                why,
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => KeyRing::default(),
            Err(source) => return Err(KeysError::Read { path, source }),
        };
        for (hash, account) in configured {
            ring.add(*hash, *account);
        }
        Ok(Self {
            path,
            ring: RwLock::new(ring),
            writing: Mutex::new(()),
        })
    }

    fn ring(&self) -> RwLockReadGuard<'_, KeyRing> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change to a copy, writes the copy down, and only then puts it in force.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut KeyRing) -> Result<T, KeyFault>,
    ) -> Result<T, KeyFault> {
        let _alone = self.alone();
        let mut next = self.ring().clone();
        let result = change(&mut next)?;
        let written = write_private(&self.path, &next.to_bytes());
        written.map_err(|error: DataError| {
            tracing::error!(%error, "the API keys could not be written");
            KeyFault::NotWritten("the disk refused".to_owned())
        })?;
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(result)
    }

    /// Account of a key.
    pub fn authenticate(&self, key: &str) -> Result<Account, KeyError> {
        self.ring().authenticate(key, now())
    }

    /// Keys of an account, newest first.
    pub fn of(&self, account: Address) -> Vec<KeyRecord> {
        self.ring().of(account)
    }

    /// One key of an account.
    pub fn get(&self, account: Address, key: KeyName) -> Option<KeyRecord> {
        self.ring().get(account, key)
    }

    /// Keys of all accounts, newest first.
    pub fn all(&self) -> Vec<KeyRecord> {
        self.ring().all()
    }

    /// Whose key it is.
    pub fn account_of(&self, key: KeyId) -> Option<Address> {
        self.ring().account_of(key)
    }

    /// A new key and its secret.
    pub fn create(&self, by: &Account, new: NewKey) -> Result<(String, KeyRecord), KeyFault> {
        let id = KeyId(u64::from_be_bytes(draw()?));
        let secret = secret()?;
        let hash = KeyHash::of(&secret);
        let record = self.change(|ring| ring.create(by, new, id, hash, now()))?;
        Ok((secret, record))
    }

    /// Another secret for a key.
    pub fn rotate(
        &self,
        by: &Account,
        key: KeyName,
        grace: Millis,
    ) -> Result<(String, KeyRecord), KeyFault> {
        let secret = secret()?;
        let hash = KeyHash::of(&secret);
        let record = self.change(|ring| ring.rotate(by.address, key, hash, grace, now()))?;
        Ok((secret, record))
    }

    /// Refuses a key from now on.
    pub fn revoke(&self, by: &Account, key: KeyName) -> Result<KeyRecord, KeyFault> {
        self.change(|ring| ring.revoke_own(by.address, key, now()))
    }
}

fn draw<const N: usize>() -> Result<[u8; N], KeyFault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| KeyFault::NotWritten(format!("no random bytes: {error}")))?;
    Ok(bytes)
}

fn secret() -> Result<String, KeyFault> {
    Ok(format!("sk-stoa-{}", hex::encode(draw::<32>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn open(folder: &Path) -> (KeyStore, Account) {
        let configured = [(KeyHash::of("configured"), Address([1; 20]))];
        let store = KeyStore::open(folder, &configured).expect("opens");
        let owner = store.authenticate("configured").expect("known");
        (store, owner)
    }

    #[test]
    fn a_key_that_was_acknowledged_is_there_after_a_restart_and_a_revoked_one_is_not() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (store, owner) = open(folder.path());
        let (kept, _) = store.create(&owner, NewKey::default()).expect("made");
        let (revoked, record) = store.create(&owner, NewKey::default()).expect("made");
        store.revoke(&owner, record.id).expect("revoked");
        drop(store);
        let (store, _) = open(folder.path());
        assert!(store.authenticate(&kept).is_ok());
        assert_eq!(store.authenticate(&revoked), Err(KeyError::Revoked));
        let text = std::fs::read_to_string(folder.path().join(FILE)).expect("written");
        assert!(!text.contains(&kept) && !text.contains("configured\":true"));
    }

    #[test]
    fn a_change_that_the_disk_refuses_is_not_in_force() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (store, owner) = open(folder.path());
        let (secret, record) = store.create(&owner, NewKey::default()).expect("made");
        std::fs::remove_dir_all(folder.path()).expect("removed");
        assert!(matches!(
            store.revoke(&owner, record.id),
            Err(KeyFault::NotWritten(_))
        ));
        assert!(store.authenticate(&secret).is_ok(), "and it was told so");
    }

    #[test]
    fn a_damaged_file_is_refused_by_name_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join(FILE);
        std::fs::write(&path, "{\"version\":1,\"ke").expect("writes");
        let Err(error) = KeyStore::open(folder.path(), &[]) else {
            panic!("a damaged file was read");
        };
        assert!(error.to_string().contains("keys.json"), "{error}");
        assert_eq!(
            std::fs::read(path).expect("still there"),
            b"{\"version\":1,\"ke"
        );
    }

    #[test]
    fn a_revoked_key_is_refused_at_once_while_others_are_let_in() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (store, owner) = open(folder.path());
        let store = Arc::new(store);
        let (secret, record) = store.create(&owner, NewKey::default()).expect("made");
        let asking = {
            let (store, secret) = (store.clone(), secret.clone());
            std::thread::spawn(move || {
                while store.authenticate(&secret).is_ok() {
                    assert!(store.authenticate("configured").is_ok());
                }
                Instant::now()
            })
        };
        std::thread::sleep(Duration::from_millis(20));
        store.revoke(&owner, record.id).expect("revoked");
        let acknowledged = Instant::now();
        let refused = asking.join().expect("ends");
        assert!(refused.saturating_duration_since(acknowledged) < Duration::from_secs(1));
    }
}
