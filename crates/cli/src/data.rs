//! The data folder: one lock, one file per secret, one folder per role.

use crate::packs;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_crypto::SecretKey;

/// Why the data folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Somebody else runs on it.
    #[error(
        "the data folder {0} is in use by another process; stop that one or choose another with --data"
    )]
    Locked(PathBuf),
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in the folder was not made by this program.
    #[error(
        "--fresh would delete {0}, which no network of Stoa made; nothing was deleted. Name the network's own folder with --data, \
         or move that away"
    )]
    Foreign(PathBuf),
    /// A key file holds no key.
    #[error(
        "the key file {0} is damaged: it must hold 64 hexadecimal digits; restore it from your backup"
    )]
    DamagedKey(PathBuf),
}

/// Says what was tried where.
pub fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
    move |source| DataError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// What a network writes into the top of its folder, besides one folder for each provider and validator.
const OURS: &[&str] = &[
    "lock",
    "profile.toml",
    "network.json",
    "join.json",
    "chain.redb",
    "keys",
    "models",
    "router",
    "planter",
];

/// Whether a network made the entry of that name: also what a power cut left of [`write_private`].
fn is_ours(name: &str) -> bool {
    let name = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".new"))
        .unwrap_or(name);
    let number = name
        .strip_prefix("provider-")
        .or_else(|| name.strip_prefix("validator-"));
    OURS.contains(&name)
        || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// A locked data folder. The lock ends with the process, however it ends. Clones share it.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
    lock: Arc<File>,
}

impl DataDir {
    /// Creates (mode 0700) or opens the folder and locks it.
    pub fn open(root: &Path) -> Result<Self, DataError> {
        make_dir(root)?;
        let path = root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let lock = file.map_err(io_error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                lock: Arc::new(lock),
            }),
            Err(fs::TryLockError::WouldBlock) => Err(DataError::Locked(root.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
        }
    }

    /// Removes what networks made in the folder, but not the lock itself nor imported models: `--fresh`. Deletes nothing when anything else is there:
    /// the folder may have been named by mistake.
    pub fn clear(&self) -> Result<(), DataError> {
        let entries = fs::read_dir(&self.root)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(io_error("read", &self.root))?;
        let kept = |name: &std::ffi::OsStr| name == "lock" || name == packs::FOLDER;
        let foreign = |entry: &&fs::DirEntry| {
            let name = entry.file_name();
            !kept(&name) && !name.to_str().is_some_and(is_ours)
        };
        if let Some(entry) = entries.iter().find(foreign) {
            return Err(DataError::Foreign(entry.path()));
        }
        for entry in entries.iter().filter(|entry| !kept(&entry.file_name())) {
            let path = entry.path();
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// Whether the folder still stands where it was opened. What is written into a deleted one is lost.
    pub fn is_there(&self) -> bool {
        let held = self.lock.metadata();
        let named = fs::metadata(self.root.join("lock"));
        match (held, named) {
            (Ok(held), Ok(named)) => held.ino() == named.ino() && held.dev() == named.dev(),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A sub-folder, created if absent.
    pub fn folder(&self, name: &str) -> Result<PathBuf, DataError> {
        let path = self.root.join(name);
        make_dir(&path)?;
        Ok(path)
    }

    /// The secret of that name, made at the first call.
    pub fn secret(&self, name: &str) -> Result<[u8; 32], DataError> {
        let path = self.folder("keys")?.join(format!("{name}.key"));
        match fs::read_to_string(&path) {
            Ok(text) => {
                let bytes = decode_secret(&text);
                bytes.ok_or(DataError::DamagedKey(path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; 32];
                getrandom::fill(&mut bytes)
                    .map_err(|e| io_error("draw random bytes for", &path)(e.into()))?;
                write_private(&path, format!("{}\n", hex::encode(bytes)).as_bytes())?;
                Ok(bytes)
            }
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// The account key of that name.
    pub fn account_key(&self, name: &str) -> Result<SecretKey, DataError> {
        let path = self.root.join("keys").join(format!("{name}.key"));
        SecretKey::from_bytes(self.secret(name)?).map_err(|_| DataError::DamagedKey(path))
    }
}

/// A secret of a network that may be running: the folder is not locked, and nothing is made.
pub fn read_secret(root: &Path, name: &str) -> Result<[u8; 32], DataError> {
    let path = root.join("keys").join(format!("{name}.key"));
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    decode_secret(&text).ok_or(DataError::DamagedKey(path))
}

/// Names of the providers whose keys are in the folder, by number.
pub fn providers(root: &Path) -> Result<Vec<String>, DataError> {
    let keys = root.join("keys");
    let mut numbers = Vec::new();
    for entry in fs::read_dir(&keys).map_err(io_error("read", &keys))? {
        let name = entry.map_err(io_error("read", &keys))?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("provider-")?.strip_suffix(".key"));
        numbers.extend(number.and_then(|n| n.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers.iter().map(|n| format!("provider-{n}")).collect())
}

fn decode_secret(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
    Some(bytes)
}

/// Makes a folder that only its owner enters, and those above it.
pub fn make_dir(path: &Path) -> Result<(), DataError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("create", path))
}

/// Writes a file of mode 0600 whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    // Beside it and of a name that nobody gives: `a.json` and `a.txt` must not meet, nor a file of the user's be overwritten.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // A bare file name has the empty path as its parent: the present folder.
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(io_error("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_made_once_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = DataDir::open(folder.path()).expect("opens");
        let first = data.secret("router").expect("made");
        assert_eq!(data.secret("router").expect("read"), first);
        let mode = fs::metadata(folder.path().join("keys/router.key"))
            .expect("exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(folder.path().join("keys/router.key"), "zz").expect("writes");
        assert!(matches!(
            data.secret("router"),
            Err(DataError::DamagedKey(_))
        ));
    }

    #[test]
    fn fresh_deletes_a_network_and_nothing_at_all_where_something_else_stands() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = DataDir::open(folder.path()).expect("opens");
        let secret = data.secret("router").expect("made");
        data.folder("provider-12").expect("made");
        data.folder("validator-0").expect("made");
        fs::write(folder.path().join(".profile.toml.new"), "half").expect("writes");
        for foreign in ["thesis.tex", "provider-x", "validator-", "lock.old"] {
            let path = folder.path().join(foreign);
            fs::write(&path, "dear").expect("writes");
            assert!(matches!(data.clear(), Err(DataError::Foreign(named)) if named == path));
            assert_eq!(data.secret("router").expect("still there"), secret);
            fs::remove_file(path).expect("removed");
        }
        let pack = folder.path().join(packs::FOLDER);
        fs::create_dir(&pack).expect("made");
        data.clear().expect("cleared");
        fs::remove_dir(pack).expect("imported models stay");
        let left: Vec<_> = fs::read_dir(folder.path()).expect("reads").collect();
        assert_eq!(left.len(), 1, "the lock: {left:?}");
        assert_ne!(data.secret("router").expect("made anew"), secret);
    }

    #[test]
    fn a_folder_that_was_deleted_or_replaced_is_noticed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = folder.path().join("data");
        let data = DataDir::open(&root).expect("opens");
        assert!(data.is_there());
        fs::remove_dir_all(&root).expect("removed");
        assert!(!data.is_there());
        let _other = DataDir::open(&root).expect("another one");
        assert!(!data.is_there());
    }

    #[test]
    fn providers_are_found_by_their_keys_and_endpoints_are_none() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = DataDir::open(folder.path()).expect("opens");
        for name in ["router", "provider-10", "provider-2", "provider-2-endpoint"] {
            data.secret(name).expect("made");
        }
        let found = providers(folder.path()).expect("reads");
        assert_eq!(found, ["provider-2", "provider-10"]);
    }

    #[test]
    fn a_written_file_leaves_its_neighbours_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let neighbour = folder.path().join("receipt.new");
        fs::write(&neighbour, "dear").expect("writes");
        write_private(&folder.path().join("receipt.json"), b"{}").expect("writes");
        assert_eq!(fs::read(neighbour).expect("still there"), b"dear");
        assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 2);
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_runs() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let first = DataDir::open(folder.path()).expect("opens");
        assert!(matches!(
            DataDir::open(folder.path()),
            Err(DataError::Locked(_))
        ));
        drop(first);
        assert!(DataDir::open(folder.path()).is_ok());
    }
}
