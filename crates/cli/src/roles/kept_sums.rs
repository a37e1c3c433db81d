//! What payout roots hold that later ones are measured by, on a validator's disk: a file for each. Nothing waits for them and what is lost is
//! fetched from its router, so that they are not synced; one that is damaged is as good as none and goes. One that cannot be read stays: it may
//! be whole, and a router that is asked for it again could refuse.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use stoa_ledger::audit::sums::KeptSet;
use stoa_types::Address;

/// Folder of these files below a validator's data folder.
pub fn folder(data: &Path) -> PathBuf {
    data.join("sums")
}

const SUFFIX: &str = "sums";
/// A digest of the bytes stands before them.
const DIGEST: usize = 32;

enum Item {
    Keep(Box<KeptSet>),
    Forget { router: Address, below: u64 },
}

/// Writes and deletes the files on a thread of its own, which ends with this.
pub struct KeptSums {
    items: Option<Sender<Item>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for KeptSums {
    fn drop(&mut self) {
        drop(self.items.take());
        let _ = self.writer.take().map(JoinHandle::join);
    }
}

impl KeptSums {
    /// Opens the folder and gives all that is whole in it.
    pub fn open(folder: &Path) -> io::Result<(Self, Vec<KeptSet>)> {
        fs::create_dir_all(folder)?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match fs::read(&path) {
                Ok(bytes) => match whole(&path, &bytes) {
                    Some(set) => kept.push(set),
                    None => drop(fs::remove_file(&path)),
                },
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "kept sums cannot be read and stay where they are; routers are asked for their leaf files again");
                }
            }
        }
        let (items, receiver) = channel();
        let folder = folder.to_owned();
        let writer = std::thread::Builder::new()
            .name("validator-sums".to_owned())
            .spawn(move || run(&folder, &receiver))?;
        let (items, writer) = (Some(items), Some(writer));
        Ok((Self { items, writer }, kept))
    }

    /// Keeps a set.
    pub fn keep(&self, set: Box<KeptSet>) {
        self.send(Item::Keep(set));
    }

    /// Lets go of a router's sets of posts below one.
    pub fn forget(&self, router: Address, below: u64) {
        self.send(Item::Forget { router, below });
    }

    fn send(&self, item: Item) {
        // The writer ends after its sender.
        let _ = self.items.as_ref().map(|items| items.send(item));
    }
}

fn run(folder: &Path, items: &Receiver<Item>) {
    for item in items {
        let done = match &item {
            Item::Keep(set) => write(folder, set),
            Item::Forget { router, below } => forget(folder, *router, *below),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "sums could not be kept or let go on disk: after a restart routers are asked for their leaf files again");
        }
    }
}

fn name(router: Address, post: u64) -> String {
    format!("{router}-{post}.{SUFFIX}")
}

/// Router and post of a file, by its name.
fn named(path: &Path) -> Option<(Address, u64)> {
    let stem = path.file_stem()?.to_str()?;
    let (router, post) = stem.split_once('-')?;
    let is_ours = path.extension().is_some_and(|suffix| suffix == SUFFIX);
    let key = (router.parse().ok()?, post.parse().ok()?);
    is_ours.then_some(key)
}

/// What a file holds, if it is the whole of what its name says.
fn whole(path: &Path, bytes: &[u8]) -> Option<KeptSet> {
    let (digest, body) = bytes.split_at_checked(DIGEST)?;
    let is_whole = blake3::hash(body).as_bytes() == digest;
    let set = KeptSet::decode(body).ok().filter(|_| is_whole)?;
    (named(path) == Some((set.router, set.post))).then_some(set)
}

/// Under another name first, so that no half of it is ever under its own.
fn write(folder: &Path, set: &KeptSet) -> io::Result<()> {
    let body = set.encode();
    let bytes = [&blake3::hash(&body).as_bytes()[..], &body].concat();
    let path = folder.join(name(set.router, set.post));
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes)?;
    fs::rename(fresh, path)
}

fn forget(folder: &Path, router: Address, below: u64) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if named(&path).is_some_and(|(of, post)| of == router && post < below) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_ledger::book::PayoutSet;
    use stoa_types::{Digest, TokenAmount};

    fn set(router: u8, post: u64) -> KeptSet {
        let router = Address([router; 20]);
        let amount = TokenAmount::from_units(u128::from(post));
        KeptSet {
            router,
            post,
            content_id: Digest([7; 32]),
            payout: PayoutSet {
                providers: [((router, 1), amount)].into(),
                debits: [((router, 1), amount)].into(),
            },
        }
    }

    #[test]
    fn what_was_kept_comes_back_after_a_restart_and_what_was_let_go_or_damaged_does_not() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = folder(temporary.path());
        let (sums, kept) = KeptSums::open(&folder).expect("opens");
        assert_eq!(kept, []);
        for (router, post) in [(1, 9), (1, 10), (1, 11), (2, 9)] {
            sums.keep(Box::new(set(router, post)));
        }
        sums.forget(Address([1; 20]), 10);
        drop(sums);
        let expected = [set(1, 10), set(1, 11), set(2, 9)];
        let (sums, mut kept) = KeptSums::open(&folder).expect("opens");
        kept.sort_by_key(|set| (set.router, set.post));
        assert_eq!(kept, expected);
        drop(sums);
        let damaged = folder.join(name(Address([1; 20]), 11));
        let mut bytes = fs::read(&damaged).expect("written");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(&damaged, bytes).expect("written");
        let wrong_name = folder.join(name(Address([2; 20]), 8));
        fs::rename(folder.join(name(Address([2; 20]), 9)), wrong_name).expect("moved");
        let (_, kept) = KeptSums::open(&folder).expect("opens");
        assert_eq!(kept, [set(1, 10)]);
        assert!(!damaged.exists());
    }

    /// A link whose target is away stands for a file that the disk does not give at the moment.
    #[cfg(unix)]
    #[test]
    fn what_cannot_be_read_stays_and_is_there_again_when_it_can() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = folder(temporary.path());
        let (sums, _) = KeptSums::open(&folder).expect("opens");
        sums.keep(Box::new(set(1, 9)));
        drop(sums);
        let here = folder.join(name(Address([1; 20]), 9));
        let away = temporary.path().join("away");
        let back = temporary.path().join("back");
        fs::rename(&here, &back).expect("moved");
        std::os::unix::fs::symlink(&away, &here).expect("linked");
        let (_, kept) = KeptSums::open(&folder).expect("opens");
        assert_eq!(kept, []);
        fs::rename(&back, &away).expect("moved");
        let (_, kept) = KeptSums::open(&folder).expect("opens");
        assert_eq!(kept, [set(1, 9)]);
    }
}
