//! The models that were imported into a data folder: packs, each named by its digest, and the names that people gave them.
//!
//! `packs/DIGEST.pack` and `packs/names/NAME`, a file with the digest. Both appear whole or not at all. A pack that stands here was
//! written or compared here, so its model root need not be computed again.

use crate::data::{DataError, io_error, make_dir, write_private};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use stoa_engine::ImportError;
use stoa_engine::pack::Pack;
use stoa_types::Digest;

/// Folder of the packs in a data folder. No network made it: `up --fresh` leaves it.
pub const FOLDER: &str = "packs";
/// Longest name.
const LONGEST_NAME: usize = 64;
/// Fewest digits that stand for a digest.
const FEWEST_DIGITS: usize = 4;

/// Why something was not done with the imported models. They are as they were.
#[derive(Debug, thiserror::Error)]
pub enum PacksError {
    /// The file system refused.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model refused.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Neither a name nor the beginning of a digest.
    #[error(
        "{0} is no file, and no imported model is called so; `stoa model list` lists them, `stoa model import` adds one"
    )]
    Unknown(String),
    /// Digits that two digests begin with.
    #[error("the digests of several imported models begin with {0}; give more digits")]
    Ambiguous(String),
    /// A name that would not do as a file's.
    #[error(
        "{0:?} is no name for a model: up to 64 letters, digits, '.', '_' and '-', the first a letter or a digit"
    )]
    BadName(String),
    /// The name is another model's, or this one's already.
    #[error(
        "a model is called {0} already; choose another name with --name, or `stoa model remove {0}` first"
    )]
    Taken(String),
    /// The lock is held.
    #[error("another import or removal is at work in {0}; wait for it")]
    Busy(PathBuf),
    /// A file of another digest than its name says.
    #[error("{path} holds the pack {found}; it was renamed or replaced, remove it", path = .path.display())]
    Misplaced {
        /// Which file.
        path: PathBuf,
        /// What is in it.
        found: Digest,
    },
}

/// An imported model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Digest of the pack.
    pub digest: Digest,
    /// Its file.
    pub path: PathBuf,
    /// What people call it.
    pub names: Vec<String>,
}

impl Imported {
    /// Opens the pack, whose digest must be the one it is named by.
    pub fn open(&self) -> Result<Pack, PacksError> {
        let pack = Pack::open(&self.path)?;
        if pack.digest() != self.digest {
            return Err(PacksError::Misplaced {
                path: self.path.clone(),
                found: pack.digest(),
            });
        }
        Ok(pack)
    }
}

/// A model to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// GGUF file, safetensors folder or pack.
    pub path: PathBuf,
    /// Whether it is an imported pack: its root was compared then, and its file, which nothing changes, may be mapped.
    pub trusted: bool,
}

impl ModelFile {
    /// A file about which nothing is known.
    pub fn unknown(path: PathBuf) -> Self {
        Self {
            path,
            trusted: false,
        }
    }

    /// What a person named: a path where there is something, else an imported model.
    pub fn named(data: &Path, wanted: &Path) -> Result<Self, PacksError> {
        let text = wanted.to_str().filter(|text| !text.contains('/'));
        let Some(text) = text.filter(|_| !wanted.exists()) else {
            return Ok(Self::unknown(wanted.to_owned()));
        };
        let found = Packs::of(data).find(text)?;
        found.open()?;
        Ok(Self {
            path: found.path,
            trusted: true,
        })
    }
}

/// The imported models of a data folder.
#[derive(Debug, Clone)]
pub struct Packs {
    folder: PathBuf,
}

impl Packs {
    /// Those of a data folder, which need not be there.
    pub fn of(data: &Path) -> Self {
        Self {
            folder: data.join(FOLDER),
        }
    }

    /// All of them, by digest.
    pub fn list(&self) -> Result<Vec<Imported>, PacksError> {
        let mut names: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for (name, digest) in self.names()? {
            names.entry(digest).or_default().push(name);
        }
        let found = entries(&self.folder)?.into_iter().filter_map(|name| {
            let digest = digest_of(name.strip_suffix(".pack")?)?;
            Some(Imported {
                digest,
                path: self.path(digest),
                names: names.get(&digest).cloned().unwrap_or_default(),
            })
        });
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|one| one.digest);
        Ok(found)
    }

    /// The one of that name, or whose digest begins so.
    pub fn find(&self, wanted: &str) -> Result<Imported, PacksError> {
        let all = self.list()?;
        if let Some(named) = all.iter().find(|one| one.names.iter().any(|n| n == wanted)) {
            return Ok(named.clone());
        }
        let digits = wanted.strip_prefix("0x").unwrap_or(wanted);
        let begins = |one: &&Imported| hex::encode(one.digest.0).starts_with(digits);
        let mut beginning = all.iter().filter(begins);
        match (beginning.next(), beginning.next()) {
            (Some(one), None) if digits.len() >= FEWEST_DIGITS => Ok(one.clone()),
            (Some(_), Some(_)) if digits.len() >= FEWEST_DIGITS => {
                Err(PacksError::Ambiguous(wanted.to_owned()))
            }
            _ => Err(PacksError::Unknown(wanted.to_owned())),
        }
    }

    /// Begins an import under a free name. What an import that was killed left is removed.
    pub fn begin(&self, name: &str) -> Result<Import, PacksError> {
        let lock = self.lock()?;
        check_name(name)?;
        // A name whose pack somebody deleted is free again.
        let taken = self.names()?.get(name).copied();
        if taken.is_some_and(|digest| self.path(digest).exists()) {
            return Err(PacksError::Taken(name.to_owned()));
        }
        for left in entries(&self.folder)? {
            if left.ends_with(".partial") {
                let path = self.folder.join(left);
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        let path = self.folder.join("import.partial");
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path);
        Ok(Import {
            file: file.map_err(io_error("create", &path))?,
            path,
            name: name.to_owned(),
            packs: self.clone(),
            _lock: lock,
        })
    }

    /// Removes a model with all its names, or one name of several.
    pub fn remove(&self, wanted: &str) -> Result<Removed, PacksError> {
        let _lock = self.lock()?;
        let found = self.find(wanted)?;
        let by_name = found.names.iter().any(|name| name == wanted);
        let one_of_several = by_name && found.names.len() > 1;
        let names = if one_of_several {
            vec![wanted.to_owned()]
        } else {
            found.names.clone()
        };
        for name in &names {
            let path = self.name_path(name);
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        if !one_of_several {
            fs::remove_file(&found.path).map_err(io_error("remove", &found.path))?;
        }
        Ok(Removed {
            digest: found.digest,
            names,
            file: !one_of_several,
        })
    }

    /// Only one process changes the folder at a time; the lock ends with it.
    fn lock(&self) -> Result<File, PacksError> {
        if let Some(data) = self.folder.parent() {
            make_dir(data)?;
        }
        make_dir(&self.folder)?;
        make_dir(&self.folder.join("names"))?;
        let path = self.folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(fs::TryLockError::WouldBlock) => Err(PacksError::Busy(self.folder.clone())),
            Err(fs::TryLockError::Error(source)) => Err(io_error("lock", &path)(source).into()),
        }
    }

    fn names(&self) -> Result<BTreeMap<String, Digest>, PacksError> {
        let mut names = BTreeMap::new();
        for name in entries(&self.folder.join("names"))? {
            let path = self.name_path(&name);
            let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
            if let (Ok(()), Some(digest)) = (check_name(&name), digest_of(text.trim())) {
                names.insert(name, digest);
            }
        }
        Ok(names)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{}.pack", hex::encode(digest.0)))
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.folder.join("names").join(name)
    }
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Digest of the pack.
    pub digest: Digest,
    /// Names that are gone.
    pub names: Vec<String>,
    /// Whether the pack is gone, rather than a name of it.
    pub file: bool,
}

/// An import under way. Unless it is finished, nothing of it stays.
#[derive(Debug)]
pub struct Import {
    file: File,
    path: PathBuf,
    name: String,
    packs: Packs,
    _lock: File,
}

impl Import {
    /// The file to write the pack to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Puts the written pack in its place, and its name beside it, on the disk for good.
    pub fn finish(self, digest: Digest) -> Result<Imported, PacksError> {
        let place = self.packs.path(digest);
        let read_only = fs::Permissions::from_mode(0o444);
        let moved = self
            .file
            .set_permissions(read_only)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.path, &place))
            .and_then(|()| File::open(&self.packs.folder)?.sync_all());
        moved.map_err(io_error("write", &place))?;
        write_private(
            &self.packs.name_path(&self.name),
            format!("{}\n", hex::encode(digest.0)).as_bytes(),
        )?;
        self.packs.find(&self.name)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = fs::remove_file(&self.path);
    }
}

/// A name for a model that has this one in its file.
pub fn name_like(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let replaced: String = text
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .take(LONGEST_NAME)
        .collect();
    let trimmed = replaced
        .trim_start_matches(['.', '_', '-'])
        .trim_end_matches('-');
    if trimmed.is_empty() { "model" } else { trimmed }.to_owned()
}

fn check_name(name: &str) -> Result<(), PacksError> {
    if name.len() <= LONGEST_NAME && !name.is_empty() && name_like(name) == name {
        return Ok(());
    }
    Err(PacksError::BadName(name.to_owned()))
}

fn digest_of(digits: &str) -> Option<Digest> {
    format!("0x{digits}").parse().ok()
}

/// Names of a folder's entries; none of a folder that is not there.
fn entries(folder: &Path) -> Result<Vec<String>, PacksError> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let read = read.map_err(io_error("read", folder))?;
    let names = read
        .into_iter()
        .map(|entry| entry.file_name().into_string());
    Ok(names.filter_map(Result::ok).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn digest(first: u8) -> Digest {
        let mut bytes = [7; 32];
        bytes[0] = first;
        Digest(bytes)
    }

    fn add(packs: &Packs, name: &str, first: u8) -> Imported {
        let mut import = packs.begin(name).expect("free");
        import.file().write_all(name.as_bytes()).expect("written");
        import.finish(digest(first)).expect("moved")
    }

    #[test]
    fn models_are_found_by_name_and_by_the_beginning_of_their_digest() {
        let data = tempfile::tempdir().expect("a folder");
        let packs = Packs::of(data.path());
        assert_eq!(packs.list().expect("none"), []);
        let a = add(&packs, "a", 0x10);
        let b = add(&packs, "b", 0x11);
        let same = add(&packs, "second-name", 0x11);
        assert_eq!(same.names, ["b", "second-name"]);
        assert_eq!(packs.find("a").expect("there"), a);
        assert_eq!(packs.find("1007").expect("there"), a);
        assert_eq!(
            packs.find(&b.digest.to_string()).expect("there").path,
            b.path
        );
        assert!(matches!(packs.find("07"), Err(PacksError::Unknown(_))));
        assert!(matches!(packs.find("c"), Err(PacksError::Unknown(_))));
        assert!(matches!(packs.begin("a"), Err(PacksError::Taken(_))));
        for bad in ["", "../a", ".a", "-a", "a/b", "a b", &"x".repeat(65)] {
            assert!(
                matches!(packs.begin(bad), Err(PacksError::BadName(_))),
                "{bad}"
            );
        }
        let mode = fs::metadata(&a.path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
        let removed = packs.remove("b").expect("one name");
        assert!(!removed.file && b.path.exists());
        let removed = packs.remove("1107").expect("the rest");
        assert!(removed.file && !b.path.exists());
        assert_eq!(removed.names, ["second-name"]);
        assert_eq!(packs.list().expect("one"), [a]);
    }

    #[test]
    fn digits_that_two_digests_begin_with_find_neither() {
        let data = tempfile::tempdir().expect("a folder");
        let packs = Packs::of(data.path());
        let mut other = digest(0x20);
        other.0[31] = 0;
        add(&packs, "a", 0x20);
        packs
            .begin("b")
            .expect("free")
            .finish(other)
            .expect("moved");
        assert!(matches!(packs.find("2007"), Err(PacksError::Ambiguous(_))));
        assert!(packs.find(&hex::encode(other.0)).is_ok());
    }

    #[test]
    fn an_import_that_was_not_finished_leaves_nothing() {
        let data = tempfile::tempdir().expect("a folder");
        let packs = Packs::of(data.path());
        let import = packs.begin("a").expect("free");
        let second = packs.begin("b");
        assert!(matches!(second, Err(PacksError::Busy(_))));
        drop(import);
        // What a killed process leaves.
        let left = data.path().join(FOLDER).join("import.partial");
        fs::write(&left, "half").expect("written");
        assert_eq!(packs.list().expect("none"), []);
        drop(packs.begin("a").expect("free"));
        assert!(!left.exists());
        assert_eq!(packs.list().expect("none"), []);
    }

    #[test]
    fn a_model_is_named_after_its_file() {
        let cases = [
            ("TinyLlama 1.1B/chat", "TinyLlama-1.1B-chat"),
            ("..", "model"),
            ("a b ", "a-b"),
        ];
        for (text, name) in cases {
            assert_eq!(name_like(text), name);
            assert!(check_name(name).is_ok());
        }
    }
}
