//! A data folder as one file: every folder and file in it, and behind them a BLAKE3 hash over all that stands before.
//!
//! ```text
//! "stoa backup 1\n"
//! 1, length of the path (u16), path                              a folder; before what is in it
//! 2, length of the path (u16), path, length (u64), bytes         a file
//! 0                                                              the end
//! hash (32 bytes)
//! ```
//!
//! Numbers are big-endian, paths relative, of UTF-8, with `/` between their parts.

use crate::data::{DataError, io_error};
use crate::packs;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

const MAGIC: &[u8] = b"stoa backup 1\n";
const HASH: u64 = 32;
const END: u8 = 0;
const FOLDER: u8 = 1;
const FILE: u8 = 2;

/// Written into a folder that a restore is filling, so that a later one knows it as its own.
const MARK: &str = ".restoring";

/// Why a copy was not made or not restored. Neither the data folder nor the file was changed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The data folder or the operating system.
    #[error(transparent)]
    Data(#[from] DataError),
    /// There is no such folder.
    #[error("there is no data folder {0}; name it with --data")]
    NoFolder(PathBuf),
    /// A copy is never written over something.
    #[error("{0} is there already; name another file")]
    Exists(PathBuf),
    /// It would copy itself.
    #[error("{0} is within the data folder; name a file elsewhere, best on another disk")]
    Within(PathBuf),
    /// A link, a pipe, or a name that is no text.
    #[error(
        "{0} is neither a file nor a folder with a name of UTF-8; no role makes such, move it away first"
    )]
    Odd(PathBuf),
    /// Not as it was written.
    #[error(
        "{file} is no backup that can be trusted: {what}; nothing was restored, take another copy"
    )]
    Damaged {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A restore overwrites nothing.
    #[error("{0} is not empty; restore into a folder that is empty or not there")]
    NotEmpty(PathBuf),
    /// Beside the folder stands something that an earlier restore did not leave.
    #[error("{0} is in the way and no restore made it; move it away")]
    InTheWay(PathBuf),
}

/// Left out: the lock belongs to the place, models are made or imported again, and half-written files are nothing.
fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let unfinished = name.is_some_and(|name| name.starts_with('.') && name.ends_with(".new"));
    path == Path::new("lock")
        || path == Path::new("models")
        || path == Path::new(packs::FOLDER)
        || unfinished
}

/// What a copy holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Hashes what goes through to the file.
struct Hashing<W> {
    inner: W,
    hash: blake3::Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Copies the folder `root`, which must be locked, into `file`, which must not exist: whole or not at all, readable by its owner only.
pub fn write(root: &Path, file: &Path) -> Result<Size, ArchiveError> {
    if file.exists() {
        return Err(ArchiveError::Exists(file.to_owned()));
    }
    let folder = parent(file);
    let real = |path: &Path| fs::canonicalize(path).map_err(io_error("find", path));
    if real(folder)?.starts_with(real(root)?) {
        return Err(ArchiveError::Within(file.to_owned()));
    }
    let unfinished = beside(file, "new");
    let written = write_unfinished(root, &unfinished).and_then(|size| {
        fs::rename(&unfinished, file).map_err(io_error("write", file))?;
        sync_folder(folder)?;
        Ok(size)
    });
    if written.is_err() {
        // What is half written is nobody's; that it cannot be removed is not the news.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write_unfinished(root: &Path, file: &Path) -> Result<Size, ArchiveError> {
    // What a copy left that was broken off goes; what stands there then is somebody else's, who would read the keys in it.
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", file)(error).into());
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.create_new(true).write(true).mode(0o600);
    let opened = options.open(file).map_err(io_error("write", file))?;
    let mut out = Hashing {
        inner: BufWriter::new(opened),
        hash: blake3::Hasher::new(),
    };
    let failed = || io_error("write", file);
    out.write_all(MAGIC).map_err(failed())?;
    let mut size = Size::default();
    write_folder(root, Path::new(""), &mut out, &mut size)?;
    out.write_all(&[END]).map_err(failed())?;
    let hash = out.hash.finalize();
    let mut inner = out.inner;
    inner.write_all(hash.as_bytes()).map_err(failed())?;
    let opened = inner
        .into_inner()
        .map_err(|error| failed()(error.into_error()))?;
    opened.sync_all().map_err(failed())?;
    Ok(size)
}

fn write_folder(
    root: &Path,
    below: &Path,
    out: &mut impl Write,
    size: &mut Size,
) -> Result<(), ArchiveError> {
    let folder = root.join(below);
    let entries = fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(io_error("read", &folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (below.join(entry.file_name()), entry.path());
        if is_left_out(&name) {
            continue;
        }
        let text = name
            .to_str()
            .filter(|text| u16::try_from(text.len()).is_ok());
        let text = text.ok_or_else(|| ArchiveError::Odd(path.clone()))?;
        let kind = entry.file_type().map_err(io_error("read", &path))?;
        let failed = || io_error("copy", &path);
        if kind.is_dir() {
            write_name(out, FOLDER, text).map_err(failed())?;
            write_folder(root, &name, out, size)?;
        } else if kind.is_file() {
            write_name(out, FILE, text).map_err(failed())?;
            size.bytes += write_file(&path, out).map_err(failed())?;
            size.files += 1;
        } else {
            return Err(ArchiveError::Odd(path));
        }
    }
    Ok(())
}

fn write_name(out: &mut impl Write, kind: u8, text: &str) -> io::Result<()> {
    let length = u16::try_from(text.len()).map_err(io::Error::other)?;
    out.write_all(&[kind])?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(text.as_bytes())
}

fn write_file(path: &Path, out: &mut impl Write) -> io::Result<u64> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    out.write_all(&length.to_be_bytes())?;
    let copied = io::copy(&mut file.take(length), out)?;
    if copied != length {
        return Err(io::Error::other("it became shorter while it was read"));
    }
    Ok(length)
}

/// Makes `root`, which must be empty or not there, of what `file` holds: whole or not at all.
pub fn restore(file: &Path, root: &Path) -> Result<Size, ArchiveError> {
    let mut opened = File::open(file).map_err(io_error("read", file))?;
    let length = check(file, &mut opened)?;
    if !is_empty(root)? {
        return Err(ArchiveError::NotEmpty(root.to_owned()));
    }
    let staging = beside(root, "restoring");
    clear_staging(&staging)?;
    make_folder(&staging)?;
    let mark = staging.join(MARK);
    File::create_new(&mark).map_err(io_error("write", &mark))?;
    let size = fill(file, opened, length, &staging)?;
    fs::remove_file(&mark).map_err(io_error("remove", &mark))?;
    sync_folder(&staging)?;
    fs::rename(&staging, root).map_err(io_error("move the restored folder to", root))?;
    sync_folder(parent(root))?;
    Ok(size)
}

/// Whether nothing is in the folder, or it is not there.
fn is_empty(folder: &Path) -> Result<bool, DataError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("read", folder)(error)),
    }
}

/// Length of what stands before the hash, if the hash is right.
fn check(file: &Path, opened: &mut File) -> Result<u64, ArchiveError> {
    let damaged = |what| ArchiveError::Damaged {
        file: file.to_owned(),
        what,
    };
    let failed = || io_error("read", file);
    let total = opened.metadata().map_err(failed())?.len();
    let length = total
        .checked_sub(HASH)
        .filter(|length| *length > MAGIC.len() as u64)
        .ok_or_else(|| damaged("it is too short"))?;
    let mut reader = BufReader::new(&mut *opened);
    let mut magic = vec![0; MAGIC.len()];
    reader.read_exact(&mut magic).map_err(failed())?;
    if magic != MAGIC {
        return Err(damaged("it does not begin like one of this version"));
    }
    let mut hash = blake3::Hasher::new();
    hash.update(&magic);
    let rest = length - MAGIC.len() as u64;
    io::copy(&mut reader.by_ref().take(rest), &mut hash).map_err(failed())?;
    let mut kept = [0; HASH as usize];
    reader.read_exact(&mut kept).map_err(failed())?;
    if hash.finalize() != blake3::Hash::from_bytes(kept) {
        return Err(damaged("its checksum is wrong"));
    }
    opened
        .seek(SeekFrom::Start(MAGIC.len() as u64))
        .map_err(failed())?;
    Ok(length)
}

/// Removes what a restore left that was broken off; refuses to remove anything else.
fn clear_staging(staging: &Path) -> Result<(), ArchiveError> {
    if !is_empty(staging)? && !staging.join(MARK).exists() {
        return Err(ArchiveError::InTheWay(staging.to_owned()));
    }
    match fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", staging)(error).into())
        }
        _ => Ok(()),
    }
}

fn fill(file: &Path, opened: File, length: u64, staging: &Path) -> Result<Size, ArchiveError> {
    let damaged = || ArchiveError::Damaged {
        file: file.to_owned(),
        what: "it is not put together like one",
    };
    let failed = || io_error("read", file);
    let mut reader = BufReader::new(opened.take(length - MAGIC.len() as u64));
    let (mut size, mut folders) = (Size::default(), vec![staging.to_owned()]);
    loop {
        let mut kind = [0];
        reader.read_exact(&mut kind).map_err(failed())?;
        if kind == [END] {
            break;
        }
        let name = read_name(&mut reader).map_err(failed())?;
        let path = staging.join(name.ok_or_else(damaged)?);
        match kind[0] {
            FOLDER => {
                make_folder(&path)?;
                folders.push(path);
            }
            FILE => {
                size.bytes += read_file(&mut reader, &path).map_err(io_error("write", &path))?;
                size.files += 1;
            }
            _ => return Err(damaged()),
        }
    }
    folders.iter().try_for_each(|folder| sync_folder(folder))?;
    Ok(size)
}

/// A path that leads nowhere but down.
fn read_name(reader: &mut impl Read) -> io::Result<Option<PathBuf>> {
    let mut length = [0; 2];
    reader.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    reader.read_exact(&mut bytes)?;
    let path = String::from_utf8(bytes).ok().map(PathBuf::from);
    let down = |part: Component<'_>| matches!(part, Component::Normal(_));
    Ok(path.filter(|path| path.components().all(down)))
}

fn read_file(reader: &mut impl Read, path: &Path) -> io::Result<u64> {
    let mut length = [0; 8];
    reader.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    let mut options = OpenOptions::new();
    let mut file = options
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    let copied = io::copy(&mut reader.take(length), &mut file)?;
    if copied != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.sync_all()?;
    Ok(length)
}

fn make_folder(path: &Path) -> Result<(), DataError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(io_error("create", path))
}

/// The folder that `path` is in; of a bare name, the present one.
fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// A hidden name beside `path` that nobody gives.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(end);
    path.with_file_name(name)
}

fn sync_folder(path: &Path) -> Result<(), DataError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(io_error("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder_to_copy(root: &Path) {
        for folder in ["keys", "router/journal", "models", "provider-0"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        for (name, text) in [
            ("lock", &b""[..]),
            ("keys/router.key", b"secret"),
            ("router/journal/1.log", &[7; 300]),
            ("router/empty", b""),
            ("models/large.gguf", b"weights"),
            (".join.json.new", b"half"),
        ] {
            fs::write(root.join(name), text).expect("written");
        }
    }

    #[test]
    fn a_copy_brings_everything_back_but_lock_models_and_half_files() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let (root, file) = (temporary.path().join("data"), temporary.path().join("copy"));
        folder_to_copy(&root);
        let size = write(&root, &file).expect("copied");
        assert_eq!((size.files, size.bytes), (3, 306));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        let back = temporary.path().join("back");
        assert_eq!(restore(&file, &back).expect("restored"), size);
        let again = temporary.path().join("again");
        write(&back, &again).expect("copied");
        assert_eq!(
            fs::read(&again).expect("there"),
            fs::read(&file).expect("there")
        );
        assert!(back.join("provider-0").is_dir());
        assert_eq!(mode(&back), 0o700);
        assert_eq!(mode(&back.join("keys/router.key")), 0o600);
        for absent in ["lock", "models", ".join.json.new", MARK] {
            assert!(!back.join(absent).exists(), "{absent}");
        }
        assert!(matches!(write(&root, &file), Err(ArchiveError::Exists(_))));
        assert!(matches!(
            restore(&file, &back),
            Err(ArchiveError::NotEmpty(_))
        ));
        let within = root.join("router/copy");
        assert!(matches!(
            write(&root, &within),
            Err(ArchiveError::Within(_))
        ));
        std::os::unix::fs::symlink("/etc", root.join("keys/link")).expect("linked");
        assert!(matches!(
            write(&root, &temporary.path().join("third")),
            Err(ArchiveError::Odd(_))
        ));
        assert_eq!(
            fs::read_dir(temporary.path()).expect("reads").count(),
            4,
            "nothing half is left"
        );
    }

    #[test]
    fn a_copy_is_written_through_no_file_or_link_that_somebody_else_put_there() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let (root, file) = (temporary.path().join("data"), temporary.path().join("copy"));
        folder_to_copy(&root);
        let open = temporary.path().join("open");
        fs::write(&open, "theirs").expect("written");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("set");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        for link in [true, false] {
            let unfinished = temporary.path().join(".copy.new");
            if link {
                std::os::unix::fs::symlink(&open, &unfinished).expect("linked");
            } else {
                fs::hard_link(&open, &unfinished).expect("linked");
            }
            write(&root, &file).expect("copied");
            assert_eq!(fs::read(&open).expect("there"), b"theirs");
            assert_eq!(mode(&file), 0o600);
            fs::remove_file(&file).expect("removed");
        }
    }

    #[test]
    fn a_copy_with_any_byte_changed_missing_or_added_is_refused_and_nothing_is_made() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let (root, file) = (temporary.path().join("data"), temporary.path().join("copy"));
        folder_to_copy(&root);
        write(&root, &file).expect("copied");
        let good = fs::read(&file).expect("there");
        let back = temporary.path().join("back");
        let refused = |bytes: &[u8], what: &str| {
            fs::write(&file, bytes).expect("written");
            let told = restore(&file, &back);
            assert!(
                matches!(told, Err(ArchiveError::Damaged { .. })),
                "{what}: {told:?}"
            );
            assert!(!back.exists(), "{what}");
        };
        for place in 0..good.len() {
            let mut bytes = good.clone();
            bytes[place] ^= 1 << (place % 8);
            refused(&bytes, &format!("byte {place} changed"));
        }
        for length in (0..good.len()).step_by(17) {
            refused(&good[..length], &format!("cut to {length}"));
        }
        refused(&[&good[..], b"x"].concat(), "a byte more");
    }

    #[test]
    fn a_forged_copy_writes_nothing_outside_its_folder() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let (file, back) = (temporary.path().join("copy"), temporary.path().join("back"));
        for name in ["../out", "/tmp/stoa-out", "a/../../out"] {
            let mut bytes = MAGIC.to_vec();
            write_name(&mut bytes, FILE, name).expect("memory");
            bytes.extend(3_u64.to_be_bytes());
            bytes.extend(b"bad\0");
            bytes.extend(blake3::hash(&bytes).as_bytes());
            fs::write(&file, &bytes).expect("written");
            let told = restore(&file, &back);
            assert!(
                matches!(told, Err(ArchiveError::Damaged { .. })),
                "{name}: {told:?}"
            );
            assert!(!back.exists() && !temporary.path().join("out").exists());
        }
    }

    #[test]
    fn what_a_broken_off_restore_left_is_cleared_and_nothing_else() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let (root, file) = (temporary.path().join("data"), temporary.path().join("copy"));
        folder_to_copy(&root);
        write(&root, &file).expect("copied");
        let back = temporary.path().join("back");
        let staging = temporary.path().join(".back.restoring");
        fs::create_dir(&staging).expect("made");
        fs::write(staging.join("thesis.tex"), "dear").expect("written");
        assert!(matches!(
            restore(&file, &back),
            Err(ArchiveError::InTheWay(_))
        ));
        assert!(staging.join("thesis.tex").exists() && !back.exists());
        fs::write(staging.join(MARK), "").expect("written");
        restore(&file, &back).expect("restored");
        assert!(!staging.exists() && !back.join("thesis.tex").exists());
    }
}
