//! The data folder: one lock, one file per secret, one folder per role.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
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
    /// A key file holds no key.
    #[error(
        "the key file {0} is damaged: it must hold 64 hexadecimal digits; restore it from your backup"
    )]
    DamagedKey(PathBuf),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
    move |source| DataError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// A locked data folder. The lock ends with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: File,
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
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(DataError::Locked(root.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
        }
    }

    /// Removes everything in the folder but the lock itself: `--fresh`.
    pub fn clear(&self) -> Result<(), DataError> {
        let entries = fs::read_dir(&self.root).map_err(io_error("read", &self.root))?;
        for entry in entries {
            let path = entry.map_err(io_error("read", &self.root))?.path();
            if path.ends_with("lock") {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(io_error("remove", &path))?;
        }
        Ok(())
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
                let mut bytes = [0; 32];
                hex::decode_to_slice(text.trim(), &mut bytes)
                    .map_err(|_| DataError::DamagedKey(path))?;
                Ok(bytes)
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
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| DataError::DamagedKey(path))?;
    Ok(bytes)
}

fn make_dir(path: &Path) -> Result<(), DataError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("create", path))
}

/// Writes a file of mode 0600 whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let temporary = path.with_extension("new");
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
