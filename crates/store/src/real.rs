//! [`RealDisk`]: the operating system's files.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, LockError};

const LOCK_FILE: &str = "LOCK";
const ZEROS_BYTES: usize = 1 << 20;

/// A folder of the file system. Files are readable by the owner alone.
#[derive(Debug, Clone)]
pub struct RealDisk {
    folder: Arc<PathBuf>,
}

impl RealDisk {
    /// Uses the folder; creates it, and its parents, if it is not there.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        let naming = folders_that_name(&folder, Path::is_dir);
        let is_there = folder.is_dir();
        if !is_there {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)?;
        }
        for parent in naming {
            match File::open(&parent).and_then(|parent| parent.sync_all()) {
                // Above a folder that is there already, reading may be forbidden.
                Err(error) if is_there && error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
        }
        Ok(Self {
            folder: Arc::new(folder),
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn lock_error(&self, source: io::Error) -> LockError {
        LockError::Io {
            folder: self.folder.display().to_string(),
            source,
        }
    }
}

/// The folders to sync so that `folder` is still found after a power cut: its parent, and the parent of each parent that is not there yet.
/// The parent of a folder that is there too: who made it may have died before the sync.
fn folders_that_name(folder: &Path, is_there: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut naming = Vec::new();
    for below in folder.ancestors() {
        let Some(parent) = below.parent() else { break };
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        naming.push(parent.to_owned());
        if parent == Path::new(".") || is_there(parent) {
            break;
        }
    }
    naming
}

/// The lock file of a folder; the system frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct RealLock {
    _file: File,
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    fn lock(&self) -> Result<RealLock, LockError> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options
            .open(self.path(LOCK_FILE))
            .map_err(|error| self.lock_error(error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The number is a courtesy to the reader of the message; without it the lock still holds.
                let _ = file.read_to_string(&mut text);
                return Err(LockError::Held {
                    folder: self.folder.display().to_string(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(self.lock_error(error)),
        }
        let number = format!("{}\n", std::process::id());
        let written = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(number.as_bytes()));
        // On a full disk the number stays out; the lock is held all the same.
        if let Err(error) = written
            && !matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        {
            return Err(self.lock_error(error));
        }
        Ok(RealLock { _file: file })
    }

    fn describe(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.folder.as_path())? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<RealFile> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600);
        Ok(RealFile {
            file: options.open(self.path(name))?,
        })
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        Ok(RealFile {
            file: OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path(name))?,
        })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    fn read_head(&self, name: &str, bytes: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(bytes);
        File::open(self.path(name))?
            .take(bytes as u64)
            .read_to_end(&mut head)?;
        Ok(head)
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(name))?.len())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(self.folder.as_path())?.sync_all()
    }

    fn fresh_id(&self) -> [u8; 16] {
        // `RandomState` is seeded by the system; the name of the folder, the process and the time make two equal draws harmless.
        let mut hasher = blake3::Hasher::new();
        for _ in 0..4 {
            hasher.update(&RandomState::new().build_hasher().finish().to_le_bytes());
        }
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        hasher.update(&now.as_nanos().to_le_bytes());
        hasher.update(&std::process::id().to_le_bytes());
        hasher.update(self.folder.as_os_str().as_encoded_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        id
    }
}

/// A file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Writes zeros instead of asking for unwritten extents: a later fdatasync then has no metadata to write.
    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut offset = self.file.metadata()?.len();
        while offset < bytes {
            let step = usize::try_from(bytes - offset)
                .unwrap_or(ZEROS_BYTES)
                .min(ZEROS_BYTES);
            self.file.write_all_at(&zeros[..step], offset)?;
            offset += step as u64;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_that_gets_a_new_name_in_it_is_synced() {
        let naming = |folder: &str, there: &[&str]| -> Vec<String> {
            let is_there = |path: &Path| there.iter().any(|known| path == Path::new(known));
            folders_that_name(Path::new(folder), is_there)
                .iter()
                .map(|path| path.display().to_string())
                .collect()
        };
        assert_eq!(
            naming("/data/stoa/router/journal", &["/", "/data"]),
            ["/data/stoa/router", "/data/stoa", "/data"]
        );
        assert_eq!(
            naming("/data/stoa", &["/", "/data", "/data/stoa"]),
            ["/data"]
        );
        assert_eq!(naming("stoa/journal", &[]), ["stoa", "."]);
        assert_eq!(naming("stoa", &[]), ["."]);
        assert_eq!(naming("/", &["/"]), [""; 0]);
    }

    #[test]
    fn a_folder_of_new_folders_is_made_for_its_owner_alone_and_opened_again() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().expect("temporary folder");
        let folder = top.path().join("a/b/c");
        for _ in 0..2 {
            let disk = RealDisk::open(&folder).expect("opened");
            assert_eq!(disk.folder(), folder);
        }
        for made in ["a", "a/b", "a/b/c"] {
            let mode = fs::metadata(top.path().join(made))
                .expect("made")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o700, "{made}");
        }
    }
}
