//! A **simulated** disk in memory that fails and loses power on demand. For tests and the simulator; it stores nothing.
//!
//! What it models, all drawn from one seed:
//! - a call that fails (any error kind, full disk), at the *n*th call or at every one of a kind; a failed write may have been
//!   written in part; a failed sync leaves some blocks durable, some not, and **all of them looking clean**, as Linux does;
//! - a power cut before or in the middle of the *n*th call, after which unsynced blocks are old, new, torn in the middle or
//!   garbage, and unsynced creations, renames and deletions happened up to some point;
//! - blocks that reach the medium early, without a sync;
//! - a write that lands at another offset (misdirected), flipped bits, truncated files;
//! - a process that is killed while the machine goes on: what was written stays visible, synced or not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, LockError};

const BLOCK: usize = 4096;

/// What to do to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails; a write may have been written in part.
    Fail(io::ErrorKind),
    /// The power goes before the call.
    CutBefore,
    /// The power goes in the middle of the call.
    CutDuring,
    /// A write lands that many bytes behind its place, and reports success. Other calls are unharmed.
    Misdirect(u64),
}

/// What becomes of unsynced blocks in a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerCut {
    /// All are lost.
    LoseAll,
    /// All reach the medium.
    KeepAll,
    /// The first few, in the order of files and offsets, reach the medium.
    Prefix,
    /// Each reaches it or not.
    Scatter,
    /// Each is old, new, new in its first part only, or garbage.
    Torn,
}

impl PowerCut {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::LoseAll,
        Self::KeepAll,
        Self::Prefix,
        Self::Scatter,
        Self::Torn,
    ];
}

/// Kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Call {
    Lock,
    List,
    Create,
    Open,
    Read,
    Rename,
    Remove,
    SyncDir,
    Write,
    Allocate,
    Sync,
}

/// Called in front of every call with its kind and a copy of the disk as it stands.
pub type Observer = Box<dyn FnMut(Call, FaultyDisk) + Send>;

/// The simulated disk. Clones are the same disk; [`FaultyDisk::fork`] makes another.
#[derive(Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyDisk")
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    content: Content,
    random: u64,
    calls: u64,
    plan: BTreeMap<u64, Fault>,
    always: BTreeMap<Call, io::ErrorKind>,
    capacity: Option<u64>,
    early_writeback: bool,
    off: bool,
    holder: Option<u64>,
    locks: u64,
    observer: Option<Observer>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending: Vec<NameChange>,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    seen: Blocks,
    durable: Blocks,
    dirty: BTreeSet<usize>,
}

/// Bytes in shared blocks: a copy costs nothing until it is written to.
#[derive(Debug, Default, Clone)]
struct Blocks {
    blocks: Vec<Arc<[u8; BLOCK]>>,
    len: usize,
}

impl Blocks {
    /// Zeros fill what is new.
    fn grow(&mut self, len: usize) {
        if len > self.blocks.len() * BLOCK {
            self.blocks
                .resize(len.div_ceil(BLOCK), Arc::new([0; BLOCK]));
        }
        self.len = self.len.max(len);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.grow(offset + bytes.len());
        let mut done = 0;
        while done < bytes.len() {
            let (block, start) = ((offset + done) / BLOCK, (offset + done) % BLOCK);
            let step = (BLOCK - start).min(bytes.len() - done);
            let part = &bytes[done..done + step];
            // Zeros over zeros need no block of their own.
            if self.blocks[block][start..start + step] != *part {
                Arc::make_mut(&mut self.blocks[block])[start..start + step].copy_from_slice(part);
            }
            done += step;
        }
    }

    fn read(&self, bytes: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(bytes.min(self.len) + BLOCK);
        for block in self.blocks.iter().take(bytes.min(self.len).div_ceil(BLOCK)) {
            all.extend_from_slice(&block[..]);
        }
        all.truncate(bytes.min(self.len));
        all
    }
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Set(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

/// A call that goes on: normally, or in part and then ends with the error.
enum Go {
    Whole,
    Part(io::Error),
    Elsewhere(u64),
}

fn power_is_off() -> io::Error {
    io::Error::other("simulated power cut")
}

impl State {
    /// A small generator (xorshift64*): the disk must draw the same from the same seed everywhere.
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below.max(1)
    }

    fn used(&self) -> u64 {
        let Content { inodes, names, .. } = &self.content;
        names
            .values()
            .map(|inode| inodes[inode].seen.len as u64)
            .sum()
    }

    fn drop_unreachable(&mut self) {
        let Content {
            inodes,
            names,
            durable_names,
            pending,
            ..
        } = &mut self.content;
        let pending_target = |inode: &u64| {
            pending
                .iter()
                .any(|change| matches!(change, NameChange::Set(_, target) if target == inode))
        };
        inodes.retain(|inode, _| {
            names
                .values()
                .chain(durable_names.values())
                .any(|used| used == inode)
                || pending_target(inode)
        });
    }

    fn change_names(&mut self, change: NameChange) {
        apply(&mut self.content.names, &change);
        self.content.pending.push(change);
    }

    fn sync_names(&mut self, count: usize) {
        for change in self.content.pending.drain(..count) {
            apply(&mut self.content.durable_names, &change);
        }
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.content
            .inodes
            .get_mut(&inode)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        let grown = end.saturating_sub(self.inode(inode)?.seen.len) as u64;
        if grown > 0
            && self
                .capacity
                .is_some_and(|capacity| self.used() + grown > capacity)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.early_writeback && self.draw(8) == 0 {
            self.write_back(inode, None)?;
        }
        let file = self.inode(inode)?;
        file.seen.write(start, bytes);
        if !bytes.is_empty() {
            file.dirty.extend(start / BLOCK..=(end - 1) / BLOCK);
        }
        Ok(())
    }

    /// Copies dirty blocks to the medium: all, or each of them or not as the mode says. Leaves them clean.
    fn write_back(&mut self, inode: u64, mode: Option<PowerCut>) -> io::Result<()> {
        let dirty: Vec<usize> = std::mem::take(&mut self.inode(inode)?.dirty)
            .into_iter()
            .collect();
        let kept = self.draw(dirty.len() as u64 + 1) as usize;
        for (index, block) in dirty.into_iter().enumerate() {
            let fate = match mode {
                None | Some(PowerCut::KeepAll) => 1,
                Some(PowerCut::LoseAll) => 0,
                Some(PowerCut::Prefix) => u64::from(index < kept),
                Some(PowerCut::Scatter) => self.draw(2),
                Some(PowerCut::Torn) => self.draw(4),
            };
            let (torn_at, garbage) = (self.draw(BLOCK as u64) as usize, self.draw(256) as u8);
            self.inode(inode)?.settle(block, fate, torn_at, garbage);
        }
        Ok(())
    }
}

impl Inode {
    fn settle(&mut self, block: usize, fate: u64, torn_at: usize, garbage: u8) {
        let start = block * BLOCK;
        let end = (start + BLOCK).min(self.seen.len);
        if fate == 0 || start >= end {
            return;
        }
        self.durable.grow(end);
        let new = self.seen.blocks[block].clone();
        match fate {
            1 => self.durable.blocks[block] = new,
            2 => self.durable.write(start, &new[..torn_at.min(end - start)]),
            _ => self.durable.write(start, &vec![garbage; end - start]),
        }
    }
}

impl FaultyDisk {
    /// An empty disk that draws its accidents from the seed.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk with the same content and no faults planned. Nobody holds its lock.
    pub fn fork(&self) -> Self {
        let state = self.state();
        let fork = State {
            content: state.content.clone(),
            random: state.random,
            capacity: state.capacity,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(fork)),
        }
    }

    /// Number of calls so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Plans a fault for the call with this number; the first call is number 1.
    pub fn fault_at(&self, call: u64, fault: Fault) {
        self.state().plan.insert(call, fault);
    }

    /// Lets every call of a kind fail, until `None` is given.
    pub fn fail_all(&self, call: Call, error: Option<io::ErrorKind>) {
        let mut state = self.state();
        match error {
            Some(error) => state.always.insert(call, error),
            None => state.always.remove(&call),
        };
    }

    /// Limits the bytes that files may take; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes that files take.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Lets blocks reach the medium now and then without a sync.
    pub fn write_back_early(&self, on: bool) {
        self.state().early_writeback = on;
    }

    /// Calls `observer` in front of every call with a fork of the disk.
    pub fn observe(&self, observer: Option<Observer>) {
        self.state().observer = observer;
    }

    /// Cuts the power, with the given fate of what was not synced, and puts it on again. Open files of before are gone.
    pub fn power_cycle(&self, seed: u64, cut: PowerCut) {
        let mut state = self.state();
        state.random ^= seed.wrapping_mul(0xD134_2543_DE82_EF95);
        state.random |= 1;
        let inodes: Vec<u64> = state.content.inodes.keys().copied().collect();
        for inode in inodes {
            state
                .write_back(inode, Some(cut))
                .expect("the inode was just listed");
        }
        let count = state.content.pending.len();
        let kept = match cut {
            PowerCut::LoseAll => 0,
            PowerCut::KeepAll => count,
            PowerCut::Prefix | PowerCut::Scatter | PowerCut::Torn => {
                state.draw(count as u64 + 1) as usize
            }
        };
        state.sync_names(kept);
        state.content.pending.clear();
        state.content.names = state.content.durable_names.clone();
        for inode in state.content.inodes.values_mut() {
            inode.seen = inode.durable.clone();
        }
        state.drop_unreachable();
        state.restart();
    }

    /// Kills the process and not the machine: all that was written stays visible; planned faults are forgotten.
    pub fn restart_process(&self) {
        self.state().restart();
    }

    /// Whether a planned power cut has happened.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Names and sizes of the files, in order of the names.
    pub fn files(&self) -> Vec<(String, usize)> {
        let state = self.state();
        state
            .content
            .names
            .iter()
            .map(|(name, inode)| (name.clone(), state.content.inodes[inode].seen.len))
            .collect()
    }

    /// Changes a file behind everybody's back, on the medium too. Answers `false` when there is no such file.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state();
        let Some(inode) = state.content.names.get(name).copied() else {
            return false;
        };
        let inode = state
            .content
            .inodes
            .get_mut(&inode)
            .expect("a name has an inode");
        let mut bytes = inode.seen.read(usize::MAX);
        change(&mut bytes);
        inode.seen = Blocks::default();
        inode.seen.write(0, &bytes);
        inode.durable = inode.seen.clone();
        inode.dirty.clear();
        true
    }

    /// Flips one bit. Answers `false` when there is no such file or it is shorter.
    pub fn flip_bit(&self, name: &str, offset: usize, bit: u8) -> bool {
        let mut state = self.state();
        let Some(inode) = state.content.names.get(name).copied() else {
            return false;
        };
        let inode = state
            .content
            .inodes
            .get_mut(&inode)
            .expect("a name has an inode");
        if offset >= inode.seen.len {
            return false;
        }
        Arc::make_mut(&mut inode.seen.blocks[offset / BLOCK])[offset % BLOCK] ^= 1 << (bit % 8);
        inode.durable = inode.seen.clone();
        inode.dirty.clear();
        true
    }

    /// Deletes a file behind everybody's back.
    pub fn lose(&self, name: &str) -> bool {
        let mut state = self.state();
        state.content.durable_names.remove(name);
        state.content.names.remove(name).is_some()
    }

    fn enter(&self, call: Call) -> io::Result<(MutexGuard<'_, State>, Go)> {
        let observer = self.state().observer.take();
        if let Some(mut observer) = observer {
            observer(call, self.fork());
            self.state().observer = Some(observer);
        }
        let mut state = self.state();
        if state.off {
            return Err(power_is_off());
        }
        state.calls += 1;
        let number = state.calls;
        let fault = state
            .plan
            .remove(&number)
            .or_else(|| state.always.get(&call).map(|kind| Fault::Fail(*kind)));
        let go = match fault {
            None => Go::Whole,
            Some(Fault::Fail(kind)) => Go::Part(kind.into()),
            Some(Fault::CutBefore) => {
                state.off = true;
                return Err(power_is_off());
            }
            Some(Fault::CutDuring) => {
                state.off = true;
                Go::Part(power_is_off())
            }
            Some(Fault::Misdirect(by)) => Go::Elsewhere(by),
        };
        Ok((state, go))
    }

    /// For calls that happen or not, and may have happened although they report an error.
    fn name_call(
        &self,
        call: Call,
        change: impl FnOnce(&mut State) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut state, go) = self.enter(call)?;
        match go {
            Go::Whole | Go::Elsewhere(_) => change(&mut state),
            Go::Part(error) => {
                if state.draw(2) == 0 {
                    change(&mut state)?;
                }
                Err(error)
            }
        }
    }
}

impl State {
    fn restart(&mut self) {
        self.off = false;
        self.holder = None;
        self.plan.clear();
        self.always.clear();
    }

    fn named(&self, name: &str) -> io::Result<u64> {
        self.content
            .names
            .get(name)
            .copied()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// The lock of a [`FaultyDisk`].
#[derive(Debug)]
pub struct FaultyLock {
    disk: FaultyDisk,
    number: u64,
}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // After a restart the lock may be another's.
        if state.holder == Some(self.number) {
            state.holder = None;
        }
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;
    type Lock = FaultyLock;

    fn lock(&self) -> Result<FaultyLock, LockError> {
        let folder = || self.describe("");
        let (mut state, go) = self.enter(Call::Lock).map_err(|source| LockError::Io {
            folder: folder(),
            source,
        })?;
        if let Go::Part(source) = go {
            return Err(LockError::Io {
                folder: folder(),
                source,
            });
        }
        if state.holder.is_some() {
            return Err(LockError::Held {
                folder: folder(),
                pid: Some(std::process::id()),
            });
        }
        state.locks += 1;
        state.holder = Some(state.locks);
        Ok(FaultyLock {
            disk: self.clone(),
            number: state.locks,
        })
    }

    fn describe(&self, name: &str) -> String {
        format!("simulated/{name}")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        match self.enter(Call::List)? {
            (_, Go::Part(error)) => Err(error),
            (state, _) => Ok(state.content.names.keys().cloned().collect()),
        }
    }

    fn create(&self, name: &str) -> io::Result<FaultyFile> {
        let mut created = 0;
        self.name_call(Call::Create, |state| {
            state.content.next_inode += 1;
            created = state.content.next_inode;
            state.content.inodes.insert(created, Inode::default());
            state.change_names(NameChange::Set(name.to_owned(), created));
            state.drop_unreachable();
            Ok(())
        })?;
        Ok(FaultyFile {
            disk: self.clone(),
            inode: created,
        })
    }

    fn open(&self, name: &str) -> io::Result<FaultyFile> {
        match self.enter(Call::Open)? {
            (_, Go::Part(error)) => Err(error),
            (state, _) => Ok(FaultyFile {
                disk: self.clone(),
                inode: state.named(name)?,
            }),
        }
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.read_head(name, usize::MAX)
    }

    fn read_head(&self, name: &str, bytes: usize) -> io::Result<Vec<u8>> {
        match self.enter(Call::Read)? {
            (_, Go::Part(error)) => Err(error),
            (mut state, _) => {
                let inode = state.named(name)?;
                Ok(state.inode(inode)?.seen.read(bytes))
            }
        }
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        match self.enter(Call::Read)? {
            (_, Go::Part(error)) => Err(error),
            (mut state, _) => {
                let inode = state.named(name)?;
                Ok(state.inode(inode)?.seen.len as u64)
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.name_call(Call::Rename, |state| {
            state.named(from)?;
            state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.name_call(Call::Remove, |state| {
            state.named(name)?;
            state.change_names(NameChange::Remove(name.to_owned()));
            state.drop_unreachable();
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        let (mut state, go) = self.enter(Call::SyncDir)?;
        let count = state.content.pending.len();
        let (synced, result) = match go {
            Go::Part(error) => (state.draw(count as u64 + 1) as usize, Err(error)),
            Go::Whole | Go::Elsewhere(_) => (count, Ok(())),
        };
        state.sync_names(synced);
        state.drop_unreachable();
        result
    }

    fn fresh_id(&self) -> [u8; 16] {
        let mut state = self.state();
        std::array::from_fn(|_| state.draw(256) as u8)
    }
}

/// A file of a [`FaultyDisk`].
#[derive(Debug)]
pub struct FaultyFile {
    disk: FaultyDisk,
    inode: u64,
}

impl DiskFile for FaultyFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut state, go) = self.disk.enter(Call::Write)?;
        match go {
            Go::Whole => state.write(self.inode, offset, bytes),
            Go::Elsewhere(by) => state.write(self.inode, offset + by, bytes),
            Go::Part(error) => {
                let part = state.draw(bytes.len() as u64 + 1) as usize;
                state.write(self.inode, offset, &bytes[..part])?;
                Err(error)
            }
        }
    }

    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        let (mut state, go) = self.disk.enter(Call::Allocate)?;
        let from = state.inode(self.inode)?.seen.len as u64;
        let (to, result) = match go {
            Go::Whole | Go::Elsewhere(_) => (bytes, Ok(())),
            Go::Part(error) => (
                from + state.draw(bytes.saturating_sub(from) + 1),
                Err(error),
            ),
        };
        let room = state
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used()));
        let wanted = to.saturating_sub(from);
        // Like a real disk, take what there is and then fail.
        state.write(self.inode, from, &vec![0; wanted.min(room) as usize])?;
        if wanted > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let (mut state, go) = self.disk.enter(Call::Sync)?;
        match go {
            Go::Whole | Go::Elsewhere(_) => state.write_back(self.inode, None),
            Go::Part(error) if state.off => {
                // The rest stays unsynced; the power cut decides about it.
                let dirty = state.inode(self.inode)?.dirty.clone();
                state.write_back(self.inode, Some(PowerCut::Scatter))?;
                state.inode(self.inode)?.dirty = dirty;
                Err(error)
            }
            Go::Part(error) => {
                state.write_back(self.inode, Some(PowerCut::Scatter))?;
                Err(error)
            }
        }
    }
}
