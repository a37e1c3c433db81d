//! What a provider took and owes, one small file an order, so that after a kill it can still answer a claim of non-delivery: the order until
//! there is a receipt for it, then the receipt. What both signed stands in its earnings and is erased here; so is what nobody can claim any
//! more. The order's work is sealed to the provider's own key: who takes the folder without the key reads no prompt. Files are written beside
//! the work, which does not wait for them: a cut of power may lose the newest.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use stoa_crypto::{Sealed, SecretKey};
use stoa_nodes::work::Work;
use stoa_types::{Digest, Millis, Receipt, Signature, Ticket, Timestamp};

/// Orders that are kept: the oldest go first.
const OWED_MAX: usize = 10_000;
/// Orders that wait to be written: a disk that stands still must not hold more of them in memory.
const WAITING_MAX: usize = 256;
/// After the end of the last answer, for clocks that differ.
const SPARE: Millis = Millis::from_secs(600);

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

/// The folder. Clones share its thread.
#[derive(Clone)]
pub struct OwedFolder {
    folder: PathBuf,
    key: SecretKey,
    deeds: SyncSender<Deed>,
}

impl OwedFolder {
    /// Opens the folder of the provider with this key; what was taken stays for so long after its deadline.
    pub fn open(folder: &Path, key: SecretKey, claimable: Millis) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let kept = read_all(folder)?;
        let (deeds, orders) = sync_channel(WAITING_MAX);
        let writer = Writer {
            folder: folder.to_owned(),
            key: key.clone(),
            after_deadline: Millis(claimable.0.saturating_add(SPARE.0)),
            kept,
        };
        std::thread::Builder::new()
            .name("owed".to_owned())
            .spawn(move || writer.run(&orders))?;
        Ok(Self {
            folder: folder.to_owned(),
            key,
            deeds,
        })
    }

    /// Keeps what is owed for the order with this hash, in place of what was kept for it before.
    pub fn keep(&self, order: Digest, owed: Owed) {
        let job = owed.ticket.job_id;
        if self
            .deeds
            .try_send(Deed::Keep(order, Box::new(owed)))
            .is_err()
        {
            tracing::warn!(%job, "the disk is too slow to keep what is owed for this job; a claim cannot be answered after a restart");
        }
    }

    /// Nothing is owed for it any more.
    pub fn forget(&self, order: Digest) {
        // One that is not told stays until nobody can claim it.
        let _ = self.deeds.try_send(Deed::Forget(order));
    }

    /// Erases what nobody can claim any more.
    pub fn expire(&self, now: Timestamp) {
        let _ = self.deeds.try_send(Deed::Expire(now));
    }

    /// What is owed for the order, as far as it is written.
    pub fn find(&self, order: Digest) -> Option<Owed> {
        read(&path(&self.folder, order))?.owed(order, &self.key)
    }
}

fn path(folder: &Path, order: Digest) -> PathBuf {
    folder.join(format!("{order}.json"))
}

fn read(path: &Path) -> Option<Written> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Deadlines of what is kept. A file that cannot be read is of no use to anybody.
fn read_all(folder: &Path) -> std::io::Result<BTreeMap<Digest, Timestamp>> {
    let mut kept = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let order = name.and_then(|name| name.parse::<Digest>().ok());
        match (order, read(&path)) {
            (Some(order), Some(owed)) => drop(kept.insert(order, owed.ticket.deadline)),
            _ => std::fs::remove_file(&path)?,
        }
    }
    Ok(kept)
}

struct Writer {
    folder: PathBuf,
    key: SecretKey,
    after_deadline: Millis,
    kept: BTreeMap<Digest, Timestamp>,
}

impl Writer {
    fn run(mut self, deeds: &Receiver<Deed>) {
        while let Ok(deed) = deeds.recv() {
            match deed {
                Deed::Keep(order, owed) => self.keep(order, &owed),
                Deed::Forget(order) => self.forget(order),
                Deed::Expire(now) => {
                    let over = |deadline: &Timestamp| deadline.plus(self.after_deadline) < now;
                    let kept = self.kept.iter().filter(|(_, deadline)| over(deadline));
                    let old: Vec<_> = kept.map(|(order, _)| *order).collect();
                    old.into_iter().for_each(|order| self.forget(order));
                }
            }
        }
    }

    fn keep(&mut self, order: Digest, owed: &Owed) {
        let (path, half) = (
            path(&self.folder, order),
            self.folder.join(format!("{order}.part")),
        );
        let written = Written::of(order, owed, &self.key).and_then(|written| {
            let bytes = serde_json::to_vec(&written).expect("an order holds only plain values");
            let written = write(&half, &bytes).and_then(|()| std::fs::rename(&half, &path));
            written.map_err(|error| error.to_string())
        });
        if let Err(error) = written {
            let _ = std::fs::remove_file(&half);
            return tracing::warn!(job = %owed.ticket.job_id, %error,
                "what is owed for this job could not be written; a claim cannot be answered after a restart");
        }
        self.kept.insert(order, owed.ticket.deadline);
        if self.kept.len() > OWED_MAX {
            let oldest = self.kept.iter().min_by_key(|(_, deadline)| **deadline);
            let oldest = oldest.map(|(order, _)| *order);
            oldest.into_iter().for_each(|order| self.forget(order));
        }
    }

    fn forget(&mut self, order: Digest) {
        if self.kept.remove(&order).is_some()
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
mod tests {
    use super::*;
    use std::time::Duration;
    use stoa_nodes::work::{AnswerShape, Prompt};
    use stoa_types::{Address, JobId, Price, Q16, SamplingParameters, Tier, TokenAmount};

    fn owed(deadline: u64) -> Owed {
        let ticket = Ticket {
            job_id: JobId([1; 32]),
            account: Address([1; 20]),
            router: Address([2; 20]),
            provider: Address([3; 20]),
            model_root: Digest([4; 32]),
            parameters_digest: Digest([5; 32]),
            request_digest: Digest([6; 32]),
            work_digest: Digest([7; 32]),
            input_price: Price::default(),
            output_price: Price::default(),
            input_units_max: 1,
            output_units_max: 1,
            reserve: TokenAmount::ZERO,
            fee_version: 1,
            tier: Tier::Exact,
            attempt: 0,
            issued_at: Timestamp(1),
            deadline: Timestamp(deadline),
        };
        let work = Work {
            prompt: Prompt::Text("say it".to_owned()),
            sampling: SamplingParameters {
                temperature: Q16(0),
                min_p: Q16(0),
                seed: 7,
                max_output_tokens: 1,
                stop: Vec::new(),
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
}
