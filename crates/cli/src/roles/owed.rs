//! What a provider took and owes, one small file an order, so that after a kill it can still answer a claim of non-delivery: the order until
//! there is a receipt for it, then the receipt. What both signed is erased here once it stands in its earnings; so is an order that came to
//! nothing, for the claim alone is enough to answer for it, and what nobody can claim any more. The order's work is sealed to the provider's
//! own key: who takes the folder without the key reads no prompt. Files are written beside the work, which does not wait for them: a cut of
//! power may lose the newest. Nothing that was signed is let go of for lack of room: where there is none, no new orders are taken.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stoa_crypto::{Sealed, SecretKey};
use stoa_nodes::work::Work;
use stoa_types::{Address, Digest, Millis, Receipt, Signature, Ticket, Timestamp};

/// Bytes on disk for all orders. The orders of one router take at most half of what others leave of it, so that none takes another's room.
const BYTES_MAX: u64 = 1 << 30;
/// What the smallest file takes of a disk.
const FILE_BYTES: u64 = 4096;
/// Orders and receipts that wait to be written before new orders are refused.
const WAITING_MAX: usize = 256;
/// After the end of the last answer, for clocks that differ.
const SPARE: Millis = Millis::from_secs(600);
/// Between two looks for what nobody can claim any more.
const EXPIRES: Millis = Millis::from_secs(10);

/// Folder of these below a provider's data folder.
pub fn folder(data: &Path) -> PathBuf {
    data.join("owed")
}

/// An order that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// What was ordered.
    pub ticket: Ticket,
    /// When it was taken.
    pub accepted_at: Timestamp,
    /// What there is to answer with.
    pub holds: Holds,
}

/// What there is to answer a claim with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    /// The work, to be computed.
    Work(Box<Work>),
    /// A receipt that the router has not signed.
    Receipt {
        /// The receipt.
        receipt: Box<Receipt>,
        /// The provider's signature.
        signature: Signature,
    },
}

/// The file of one order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    ticket: Ticket,
    accepted_at: Timestamp,
    holds: WrittenHolds,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WrittenHolds {
    /// The work's canonical bytes, sealed, in hexadecimal.
    Sealed(String),
    Receipt {
        receipt: Box<Receipt>,
        signature: Signature,
    },
}

impl Written {
    /// Seals the work.
    fn of(order: Digest, owed: &Owed, key: &SecretKey) -> Result<Self, String> {
        let holds = match &owed.holds {
            Holds::Work(work) => {
                let mut fresh = [0; 32];
                getrandom::fill(&mut fresh).map_err(|error| format!("no random bytes: {error}"))?;
                let work = work.canonical_bytes();
                let sealed = Sealed::seal(&work, order, &[key.public_key()], fresh);
                let sealed = sealed.map_err(|error| error.to_string())?;
                WrittenHolds::Sealed(hex::encode(sealed.to_bytes()))
            }
            Holds::Receipt { receipt, signature } => WrittenHolds::Receipt {
                receipt: receipt.clone(),
                signature: *signature,
            },
        };
        Ok(Self {
            ticket: owed.ticket.clone(),
            accepted_at: owed.accepted_at,
            holds,
        })
    }

    /// Opens the work.
    fn owed(self, order: Digest, key: &SecretKey) -> Option<Owed> {
        let holds = match self.holds {
            WrittenHolds::Sealed(sealed) => {
                let sealed = Sealed::parse(&hex::decode(sealed).ok()?).ok()?;
                let work = sealed.open(key, order).ok()?;
                Holds::Work(Box::new(Work::from_canonical_bytes(&work)?))
            }
            WrittenHolds::Receipt { receipt, signature } => Holds::Receipt { receipt, signature },
        };
        Some(Owed {
            ticket: self.ticket,
            accepted_at: self.accepted_at,
            holds,
        })
    }
}

enum Deed {
    Keep(Digest, Box<Owed>),
    Forget(Digest),
    Expire(Timestamp),
}

/// A file of the folder.
#[derive(Debug, Clone, Copy)]
struct Filed {
    router: Address,
    bytes: u64,
    deadline: Timestamp,
}

/// What is in the folder and on its way there.
#[derive(Default)]
struct Room {
    files: BTreeMap<Digest, Filed>,
    of_router: BTreeMap<Address, u64>,
    bytes: u64,
    /// Handed over and not written.
    waiting: usize,
}

impl Room {
    fn put(&mut self, order: Digest, filed: Filed) {
        self.take(order);
        *self.of_router.entry(filed.router).or_default() += filed.bytes;
        self.bytes += filed.bytes;
        self.files.insert(order, filed);
    }

    fn take(&mut self, order: Digest) -> Option<Filed> {
        let filed = self.files.remove(&order)?;
        self.bytes -= filed.bytes;
        if let Some(bytes) = self.of_router.get_mut(&filed.router) {
            *bytes -= filed.bytes;
            if *bytes == 0 {
                self.of_router.remove(&filed.router);
            }
        }
        Some(filed)
    }

    fn is_for(&self, router: Address, most: u64) -> bool {
        let own = self.of_router.get(&router).copied().unwrap_or_default();
        let left = most.saturating_sub(self.bytes - own);
        self.waiting < WAITING_MAX && own < left / 2
    }
}

/// The folder. Clones share its thread.
#[derive(Clone)]
pub struct OwedFolder {
    folder: PathBuf,
    key: SecretKey,
    deeds: Sender<Deed>,
    room: Arc<Mutex<Room>>,
}

impl OwedFolder {
    /// Opens the folder of the provider with this key; what was taken stays for so long after its deadline.
    pub fn open(folder: &Path, key: SecretKey, claimable: Millis) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let room = Arc::new(Mutex::new(read_all(folder)?));
        let (deeds, orders) = channel();
        let writer = Writer {
            folder: folder.to_owned(),
            key: key.clone(),
            after_deadline: Millis(claimable.0.saturating_add(SPARE.0)),
            room: room.clone(),
            unwritten: VecDeque::new(),
            expired_at: Timestamp(0),
        };
        std::thread::Builder::new()
            .name("owed".to_owned())
            .spawn(move || writer.run(&orders))?;
        Ok(Self {
            folder: folder.to_owned(),
            key,
            deeds,
            room,
        })
    }

    /// Whether there is room for one more order of this router. Who has none takes no order: what it signs it must be able to keep.
    pub fn has_room(&self, router: Address) -> bool {
        lock(&self.room).is_for(router, BYTES_MAX)
    }

    /// Keeps what is owed for the order with this hash, in place of what was kept for it before.
    pub fn keep(&self, order: Digest, owed: Owed) {
        lock(&self.room).waiting += 1;
        let job = owed.ticket.job_id;
        if self.deeds.send(Deed::Keep(order, Box::new(owed))).is_err() {
            tracing::error!(%job, "what is owed for this job is not kept: the thread that writes it is gone; no new orders are taken");
        }
    }

    /// Nothing is owed for it any more.
    pub fn forget(&self, order: Digest) {
        // One that is not told stays until nobody can claim it.
        let _ = self.deeds.send(Deed::Forget(order));
    }

    /// Erases what nobody can claim any more, and tries again what could not be written. Call it every now and then.
    pub fn expire(&self, now: Timestamp) {
        let _ = self.deeds.send(Deed::Expire(now));
    }

    /// What is owed for the order, as far as it is written.
    pub fn find(&self, order: Digest) -> Option<Owed> {
        read(&path(&self.folder, order))?.owed(order, &self.key)
    }
}

fn lock(room: &Mutex<Room>) -> MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path(folder: &Path, order: Digest) -> PathBuf {
    folder.join(format!("{order}.json"))
}

fn read(path: &Path) -> Option<Written> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn filed(ticket: &Ticket, bytes: usize) -> Filed {
    Filed {
        router: ticket.router,
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX).max(FILE_BYTES),
        deadline: ticket.deadline,
    }
}

/// What is kept. What is no order, or half written, is of no use to anybody. A file that the disk does not give back is left alone: without
/// it a claim is answered with nothing, and a provider that did not start for it would answer none.
fn read_all(folder: &Path) -> std::io::Result<Room> {
    let mut room = Room::default();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Ok(bytes) = std::fs::read(&path).inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "an order that was taken cannot be read");
        }) else {
            continue;
        };
        let is_whole = path.extension().is_some_and(|ending| ending == "json");
        let name = path.file_stem().and_then(|name| name.to_str());
        let order = name.and_then(|name| name.parse::<Digest>().ok());
        let order = order.filter(|_| is_whole);
        match (order, serde_json::from_slice::<Written>(&bytes)) {
            (Some(order), Ok(owed)) => room.put(order, filed(&owed.ticket, bytes.len())),
            _ => std::fs::remove_file(&path)?,
        }
    }
    Ok(room)
}

struct Writer {
    folder: PathBuf,
    key: SecretKey,
    after_deadline: Millis,
    room: Arc<Mutex<Room>>,
    /// The disk refused these.
    unwritten: VecDeque<(Digest, Box<Owed>)>,
    expired_at: Timestamp,
}

impl Writer {
    fn run(mut self, deeds: &Receiver<Deed>) {
        while let Ok(deed) = deeds.recv() {
            match deed {
                Deed::Keep(order, owed) => {
                    // What came later for an order is what counts.
                    self.drop_unwritten(order);
                    self.keep(order, owed);
                }
                Deed::Forget(order) => {
                    self.drop_unwritten(order);
                    self.forget(order);
                }
                Deed::Expire(now) => self.expire(now),
            }
        }
    }

    fn drop_unwritten(&mut self, order: Digest) {
        let before = self.unwritten.len();
        self.unwritten.retain(|(other, _)| *other != order);
        lock(&self.room).waiting -= before - self.unwritten.len();
    }

    fn keep(&mut self, order: Digest, owed: Box<Owed>) {
        let (path, half) = (
            path(&self.folder, order),
            self.folder.join(format!("{order}.part")),
        );
        let written = Written::of(order, &owed, &self.key).and_then(|written| {
            let bytes = serde_json::to_vec(&written).expect("an order holds only plain values");
            let written = write(&half, &bytes).and_then(|()| std::fs::rename(&half, &path));
            written.map_err(|error| error.to_string())?;
            Ok(bytes.len())
        });
        match written {
            Ok(bytes) => {
                let mut room = lock(&self.room);
                room.waiting -= 1;
                room.put(order, filed(&owed.ticket, bytes));
            }
            Err(error) => {
                let _ = std::fs::remove_file(&half);
                if self.unwritten.is_empty() {
                    tracing::warn!(job = %owed.ticket.job_id, %error,
                        "what is owed for this job is not written yet; it is tried again, and no new orders are taken when many wait");
                }
                self.unwritten.push_back((order, owed));
            }
        }
    }

    fn expire(&mut self, now: Timestamp) {
        if now < self.expired_at.plus(EXPIRES) {
            return;
        }
        self.expired_at = now;
        for (order, owed) in std::mem::take(&mut self.unwritten) {
            self.keep(order, owed);
        }
        let over = |filed: &Filed| filed.deadline.plus(self.after_deadline) < now;
        let old: Vec<_> = {
            let room = lock(&self.room);
            let old = room.files.iter().filter(|(_, filed)| over(filed));
            old.map(|(order, _)| *order).collect()
        };
        old.into_iter().for_each(|order| self.forget(order));
    }

    fn forget(&mut self, order: Digest) {
        if lock(&self.room).take(order).is_some()
            && let Err(error) = std::fs::remove_file(path(&self.folder, order))
        {
            tracing::warn!(%order, %error, "an order that is not owed any more could not be erased");
        }
    }
}

/// Whom one works for is nobody else's to read.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    std::io::Write::write_all(&mut options.open(path)?, bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::roles::test_ticket;
    use std::time::Duration;
    use stoa_nodes::work::{AnswerShape, Prompt};
    use stoa_types::{Q16, SamplingParameters};

    pub(in crate::roles) fn owed(deadline: u64) -> Owed {
        let ticket = test_ticket(1, 0, deadline);
        let work = Work {
            prompt: Prompt::Text("say it".to_owned()),
            sampling: SamplingParameters {
                temperature: Q16(0),
                min_p: Q16(0),
                seed: 7,
                max_output_tokens: 1,
                stop: Vec::new(),
                ..SamplingParameters::default()
            },
            answer: AnswerShape::Any,
        };
        Owed {
            ticket,
            accepted_at: Timestamp(1),
            holds: Holds::Work(Box::new(work)),
        }
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what}: not within 10 s");
    }

    #[test]
    fn what_is_owed_is_there_after_a_kill_until_it_is_earned_or_nobody_can_claim_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let claimable = Millis::from_secs(10);
        let key = || SecretKey::for_tests("provider");
        let open = || OwedFolder::open(folder.path(), key(), claimable).expect("opens");
        let [first, second, third] = [1, 2, 3].map(|n| Digest([n; 32]));
        let kept = open();
        kept.keep(first, owed(1_000));
        kept.keep(second, owed(5_000_000));
        kept.keep(third, owed(5_000_000));
        kept.forget(third);
        until("written", || {
            kept.find(second).is_some() && kept.find(third).is_none()
        });
        let bytes = std::fs::read(path(folder.path(), second)).expect("written");
        let text = String::from_utf8(bytes).expect("text");
        let prompt = hex::encode("say it");
        assert!(
            !text.contains("say it") && !text.contains(&prompt),
            "{text}"
        );
        let other = SecretKey::for_tests("another provider");
        let other = OwedFolder::open(folder.path(), other, claimable).expect("opens");
        assert_eq!(other.find(second), None, "nobody else reads the work");
        std::fs::write(folder.path().join("half.part"), "{").expect("writes");
        let kept = open();
        assert_eq!(kept.find(first), Some(owed(1_000)));
        assert_eq!(kept.find(second), Some(owed(5_000_000)));
        assert!(!folder.path().join("half.part").exists());
        kept.expire(Timestamp(1_000 + 10_000 + SPARE.0 + 1));
        until("expired", || kept.find(first).is_none());
        assert_eq!(kept.find(second), Some(owed(5_000_000)));
    }

    #[test]
    fn a_router_that_fills_the_folder_is_refused_and_others_are_not_and_nothing_is_let_go() {
        let mut room = Room::default();
        let most = 64 * FILE_BYTES;
        let [greedy, other] = [1, 2].map(|n| Address([n; 20]));
        let small = |router| Filed {
            router,
            bytes: FILE_BYTES,
            deadline: Timestamp(1),
        };
        let mut taken = 0;
        for n in 0..200 {
            if room.is_for(greedy, most) {
                room.put(Digest([n; 32]), small(greedy));
                taken += 1;
            }
        }
        assert_eq!((taken, room.files.len()), (32, 32), "half of the room");
        assert!(!room.is_for(greedy, most));
        assert!(room.is_for(other, most), "another router has room");
        room.put(Digest([0; 32]), small(greedy));
        assert_eq!(room.bytes, 32 * FILE_BYTES, "the same order once");
        assert!(room.take(Digest([0; 32])).is_some());
        assert!(room.is_for(greedy, most), "what ends makes room");
        room.waiting = WAITING_MAX;
        assert!(!room.is_for(other, most), "the disk is behind");
    }

    #[test]
    fn what_a_disk_refuses_is_written_when_it_takes_it_and_not_forgotten() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("owed");
        let key = SecretKey::for_tests("provider");
        let claimable = Millis::from_secs(10);
        let kept = OwedFolder::open(&folder, key, claimable).expect("opens");
        std::fs::remove_dir_all(&folder).expect("removed");
        let router = owed(1).ticket.router;
        for n in 0..WAITING_MAX {
            let mut order = [0; 32];
            order[0] = u8::try_from(n).expect("few");
            kept.keep(Digest(order), owed(5_000_000));
        }
        assert!(!kept.has_room(router), "nothing more is taken");
        std::fs::create_dir_all(&folder).expect("there again");
        kept.expire(Timestamp(EXPIRES.0));
        until("written", || {
            kept.find(Digest([0; 32])).is_some() && kept.has_room(router)
        });
        let files = std::fs::read_dir(&folder).expect("reads").count();
        until("all of it", || lock(&kept.room).waiting == 0);
        assert!(files <= WAITING_MAX);
        let files = std::fs::read_dir(&folder).expect("reads").count();
        assert_eq!(files, WAITING_MAX);
    }
}
