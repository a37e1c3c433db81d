//! The state that the EVM reads and changes: a snapshot of the file, and over it what has been touched since.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::{Address, B256, Bytes, U256};
use revm::primitives::{AddressMap, HashMap as FastMap};
use revm::state::{Account, AccountInfo, Bytecode};
use revm::{Database, DatabaseCommit};

use crate::db::Snapshot;
use crate::error::StoreError;
use crate::records::{AccountChange, AccountRow, Diff, EMPTY_CODE, SlotChange};

/// Analysed code by hash, shared by all calls: analysing a contract costs more than most calls of it.
#[derive(Default)]
pub(crate) struct CodeCache(Mutex<HashMap<B256, Bytecode>>);

/// Contracts kept analysed. Beyond it the cache starts anew.
const CACHED_CONTRACTS_MAX: usize = 1_024;

impl CodeCache {
    fn get(&self, hash: &B256) -> Option<Bytecode> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(hash)
            .cloned()
    }

    fn put(&self, hash: B256, code: Bytecode) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_CONTRACTS_MAX {
            cache.clear();
        }
        cache.insert(hash, code);
    }
}

/// A value with what it was when first read.
#[derive(Debug, Clone, Copy)]
struct Cell<T> {
    before: T,
    now: T,
}

impl<T: Copy> Cell<T> {
    fn read(value: T) -> Self {
        Self {
            before: value,
            now: value,
        }
    }
}

/// State of one block while it is executed, or of a past block for a call.
pub(crate) struct BlockState {
    snapshot: Snapshot,
    cache: Arc<CodeCache>,
    accounts: AddressMap<Cell<Option<AccountRow>>>,
    slots: FastMap<(Address, U256), Cell<U256>>,
    new_code: BTreeMap<B256, Bytes>,
    /// A read that failed inside `commit`, which cannot report it. Asked for before anything is written.
    failure: Option<StoreError>,
}

/// What a block changed.
pub(crate) struct Changes {
    pub before: Diff,
    pub after: Diff,
    pub code: Vec<(B256, Bytes)>,
}

impl BlockState {
    /// The state at the head of the snapshot.
    pub(crate) fn new(snapshot: Snapshot, cache: Arc<CodeCache>) -> Self {
        Self {
            snapshot,
            cache,
            accounts: AddressMap::default(),
            slots: FastMap::default(),
            new_code: BTreeMap::new(),
            failure: None,
        }
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Goes one block back. Blocks must be undone from the newest on.
    pub(crate) fn undo(&mut self, before: &Diff) {
        for change in &before.accounts {
            self.accounts
                .insert(change.address, Cell::read(change.row.first().copied()));
        }
        for change in &before.slots {
            self.slots
                .insert((change.address, change.slot), Cell::read(change.value));
        }
    }

    pub(crate) fn account(&mut self, address: Address) -> Result<Option<AccountRow>, StoreError> {
        if let Some(cell) = self.accounts.get(&address) {
            return Ok(cell.now);
        }
        let row = self.snapshot.account(address)?;
        self.accounts.insert(address, Cell::read(row));
        Ok(row)
    }

    pub(crate) fn slot(&mut self, address: Address, slot: U256) -> Result<U256, StoreError> {
        if let Some(cell) = self.slots.get(&(address, slot)) {
            return Ok(cell.now);
        }
        let value = self.snapshot.slot(address, slot)?;
        self.slots.insert((address, slot), Cell::read(value));
        Ok(value)
    }

    pub(crate) fn code(&self, hash: B256) -> Result<Bytecode, StoreError> {
        if hash == EMPTY_CODE || hash.is_zero() {
            return Ok(Bytecode::default());
        }
        if let Some(code) = self.cache.get(&hash) {
            return Ok(code);
        }
        let bytes = match self.new_code.get(&hash) {
            Some(bytes) => bytes.clone(),
            None => self
                .snapshot
                .code(hash)?
                .ok_or(StoreError::Record { table: "code" })?,
        };
        let code =
            Bytecode::new_raw_checked(bytes).map_err(|_| StoreError::Record { table: "code" })?;
        self.cache.put(hash, code.clone());
        Ok(code)
    }

    /// All that changed, sorted by address and slot; an error if a read failed on the way.
    pub(crate) fn into_changes(self) -> Result<Changes, StoreError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let mut accounts: Vec<_> = self
            .accounts
            .into_iter()
            .filter(|(_, cell)| cell.before != cell.now)
            .collect();
        let mut slots: Vec<_> = self
            .slots
            .into_iter()
            .filter(|(_, cell)| cell.before != cell.now)
            .collect();
        accounts.sort_unstable_by_key(|(address, _)| *address);
        slots.sort_unstable_by_key(|(key, _)| *key);
        let diff = |now: bool| Diff {
            accounts: accounts
                .iter()
                .map(|(address, cell)| AccountChange {
                    address: *address,
                    row: if now { cell.now } else { cell.before }
                        .into_iter()
                        .collect(),
                })
                .collect(),
            slots: slots
                .iter()
                .map(|((address, slot), cell)| SlotChange {
                    address: *address,
                    slot: *slot,
                    value: if now { cell.now } else { cell.before },
                })
                .collect(),
        };
        Ok(Changes {
            before: diff(false),
            after: diff(true),
            code: self.new_code.into_iter().collect(),
        })
    }

    fn set_slot(&mut self, address: Address, slot: U256, value: U256) -> Result<(), StoreError> {
        self.slot(address, slot)?;
        if let Some(cell) = self.slots.get_mut(&(address, slot)) {
            cell.now = value;
        }
        Ok(())
    }

    /// Empties the storage of an account that is destroyed or created anew.
    fn wipe(&mut self, address: Address) -> Result<(), StoreError> {
        for (slot, _) in self.snapshot.slots_of(address)? {
            self.set_slot(address, slot, U256::ZERO)?;
        }
        Ok(())
    }

    fn commit_account(&mut self, address: Address, account: Account) -> Result<(), StoreError> {
        if !account.is_touched() {
            return Ok(());
        }
        let before = self.account(address)?;
        if account.is_selfdestructed() || account.is_created() {
            self.wipe(address)?;
        }
        // An account without nonce, balance and code does not exist (EIP-161).
        let gone = account.is_selfdestructed() || account.info.is_empty();
        if !gone {
            for (slot, value) in account.changed_storage_slots() {
                self.set_slot(address, *slot, value.present_value)?;
            }
        }
        let row = (!gone).then(|| {
            let code_hash = self.keep_code(&account.info, before);
            AccountRow {
                nonce: account.info.nonce,
                balance: account.info.balance,
                code_hash,
            }
        });
        if let Some(cell) = self.accounts.get_mut(&address) {
            cell.now = row;
        }
        Ok(())
    }

    fn keep_code(&mut self, info: &AccountInfo, before: Option<AccountRow>) -> B256 {
        if info.is_empty_code_hash() || info.code_hash.is_zero() {
            return EMPTY_CODE;
        }
        let known = before.is_some_and(|row| row.code_hash == info.code_hash);
        if let (false, Some(code)) = (known, &info.code) {
            self.new_code.insert(info.code_hash, code.original_bytes());
        }
        info.code_hash
    }
}

impl Database for BlockState {
    type Error = StoreError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StoreError> {
        Ok(self.account(address)?.map(|row| AccountInfo {
            balance: row.balance,
            nonce: row.nonce,
            code_hash: row.code_hash,
            // `None` makes the EVM ask `code_by_hash`. The default here is `Some(empty)`, with which every contract
            // would silently have no code after a restart.
            code: None,
            ..AccountInfo::default()
        }))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, StoreError> {
        self.code(code_hash)
    }

    fn storage(&mut self, address: Address, index: U256) -> Result<U256, StoreError> {
        self.slot(address, index)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StoreError> {
        Ok(self.snapshot.block_hash(number)?.unwrap_or_default())
    }
}

impl DatabaseCommit for BlockState {
    fn commit(&mut self, changes: AddressMap<Account>) {
        for (address, account) in changes {
            if let Err(error) = self.commit_account(address, account) {
                self.failure.get_or_insert(error);
            }
        }
    }
}
