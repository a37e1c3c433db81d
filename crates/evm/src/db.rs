//! The file: tables, opening and creating, reading, and writing one block.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256, Bytes, U256};
use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    StorageError, TableDefinition, WriteTransaction,
};

use crate::config::{ChainConfig, Genesis};
use crate::error::{ChainError, StoreError};
use crate::records::{
    AccountRow, BlockHeader, Diff, EMPTY_CODE, Receipt, ReceiptRow, SealedBlock, decode, encode,
};

/// Layout of the file. A change of any table or record raises it.
const SCHEMA: u64 = 1;

/// Block number and position in the block.
pub(crate) type Place = (u64, u32);

const ACCOUNTS: TableDefinition<&[u8; 20], &[u8; 72]> = TableDefinition::new("accounts");
/// Address ‖ slot to value; a slot that holds zero has no row.
const STORAGE: TableDefinition<&[u8; 52], &[u8; 32]> = TableDefinition::new("storage");
const CODE: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("code");
const BLOCKS: TableDefinition<u64, &[u8]> = TableDefinition::new("blocks");
const BLOCK_NUMBERS: TableDefinition<&[u8; 32], u64> = TableDefinition::new("block_numbers");
/// Sender ‖ raw signed transaction.
const TRANSACTIONS: TableDefinition<Place, &[u8]> = TableDefinition::new("transactions");
const TRANSACTION_PLACES: TableDefinition<&[u8; 32], Place> =
    TableDefinition::new("transaction_places");
const RECEIPTS: TableDefinition<Place, &[u8]> = TableDefinition::new("receipts");
/// Address ‖ topic 0 (zeros when there is none) ‖ block ‖ log index, to the transaction's position.
const LOGS: TableDefinition<&[u8; 64], u32> = TableDefinition::new("logs");
const UNDO: TableDefinition<u64, &[u8]> = TableDefinition::new("undo");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

const META_SCHEMA: &str = "schema";
const META_GENESIS: &str = "genesis";
/// Bytes that the owner keeps with the chain, for example which contract artefacts were deployed.
const META_LABEL: &str = "label:";

/// Opens the file at `path`, or creates it from the genesis of `config`.
pub(crate) fn open(path: &Path, config: &ChainConfig) -> Result<(Database, Genesis), ChainError> {
    if !path.exists() {
        create(path, config)?;
    }
    let database = open_file(path, config)?;
    let genesis = read_identity(path, &database)?;
    if let Some(asked) = &config.genesis
        && asked.to_bytes() != genesis.to_bytes()
    {
        return Err(ChainError::OtherChain {
            path: path.to_owned(),
            found: genesis.chain_id(),
            asked: asked.chain_id(),
        });
    }
    Ok((database, genesis))
}

fn open_file(path: &Path, config: &ChainConfig) -> Result<Database, ChainError> {
    let size = fs::metadata(path)
        .map_err(|source| io_error(path, source))?
        .len();
    let mut builder = Database::builder();
    builder.set_cache_size(config.cache_bytes);
    builder.set_check_integrity_on_open(size <= config.check_on_open_bytes_max);
    // The store may panic on a file that someone altered: that, too, is a damaged file and not a crash.
    catch_unwind(AssertUnwindSafe(|| builder.open(path)))
        .map_err(|_| damaged(path, "it does not read as a database"))?
        .map_err(|error| open_error(path, error))
}

fn open_error(path: &Path, error: DatabaseError) -> ChainError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            ChainError::Locked {
                path: path.to_owned(),
            }
        }
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() == std::io::ErrorKind::InvalidData =>
        {
            ChainError::Foreign {
                path: path.to_owned(),
                reason: source.to_string(),
            }
        }
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            io_error(path, source)
        }
        other => damaged(path, &other.to_string()),
    }
}

fn io_error(path: &Path, source: std::io::Error) -> ChainError {
    ChainError::Io {
        path: path.to_owned(),
        source,
    }
}

fn damaged(path: &Path, reason: &str) -> ChainError {
    ChainError::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Writes block 0 into a file beside `path` and renames it, so that a crash leaves either no chain or a whole one.
fn create(path: &Path, config: &ChainConfig) -> Result<(), ChainError> {
    let genesis = config.genesis.as_ref().ok_or_else(|| ChainError::Missing {
        path: path.to_owned(),
    })?;
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let wrap = |source| io_error(path, source);
    fs::create_dir_all(folder).map_err(wrap)?;
    if fresh.exists() {
        fs::remove_file(&fresh).map_err(wrap)?;
    }
    let database = Database::create(&fresh).map_err(|error| open_error(&fresh, error))?;
    write_genesis(&database, genesis, config)?;
    database.close().map_err(StoreError::from)?;
    fs::rename(&fresh, path).map_err(wrap)?;
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(wrap)
}

fn write_genesis(
    database: &Database,
    genesis: &Genesis,
    config: &ChainConfig,
) -> Result<(), StoreError> {
    let header = genesis_header(genesis, config);
    let transaction = database.begin_write()?;
    {
        // Every table is opened once here: reading one that was never opened is an error.
        let mut accounts = transaction.open_table(ACCOUNTS)?;
        for allocation in &genesis.allocations {
            let row = AccountRow {
                nonce: 0,
                balance: allocation.balance,
                code_hash: EMPTY_CODE,
            };
            accounts.insert(&allocation.address.0.0, &row.to_bytes())?;
        }
        transaction.open_table(STORAGE)?;
        transaction.open_table(CODE)?;
        transaction.open_table(TRANSACTIONS)?;
        transaction.open_table(TRANSACTION_PLACES)?;
        transaction.open_table(RECEIPTS)?;
        transaction.open_table(LOGS)?;
        transaction.open_table(UNDO)?;
        transaction
            .open_table(BLOCKS)?
            .insert(0, encode(&header).as_slice())?;
        transaction
            .open_table(BLOCK_NUMBERS)?
            .insert(&header.hash().0, 0)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_SCHEMA, SCHEMA.to_be_bytes().as_slice())?;
        meta.insert(META_GENESIS, genesis.to_bytes().as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

fn genesis_header(genesis: &Genesis, config: &ChainConfig) -> BlockHeader {
    BlockHeader {
        parent_hash: B256::ZERO,
        number: 0,
        timestamp: genesis.timestamp,
        gas_limit: config.block_gas_limit,
        gas_used: 0,
        transaction_count: 0,
        beneficiary: config.beneficiary,
        transactions_digest: alloy_primitives::keccak256([]),
        receipts_digest: alloy_primitives::keccak256([]),
        state_digest: genesis.digest(),
        logs_bloom: Default::default(),
    }
}

/// Schema and genesis of the file; refuses databases of other programs.
fn read_identity(path: &Path, database: &Database) -> Result<Genesis, ChainError> {
    let foreign = |reason: &str| ChainError::Foreign {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let transaction = database.begin_read().map_err(StoreError::from)?;
    let meta = transaction
        .open_table(META)
        .map_err(|_| foreign("a database without the tables of a chain"))?;
    let schema = meta
        .get(META_SCHEMA)
        .map_err(StoreError::from)?
        .ok_or_else(|| foreign("no schema version"))?;
    let found = <[u8; 8]>::try_from(schema.value()).map_err(|_| foreign("no schema version"))?;
    let found = u64::from_be_bytes(found);
    if found != SCHEMA {
        return Err(ChainError::Schema {
            path: path.to_owned(),
            found,
            known: SCHEMA,
        });
    }
    let genesis = meta
        .get(META_GENESIS)
        .map_err(StoreError::from)?
        .ok_or_else(|| damaged(path, "no genesis"))?;
    Genesis::from_bytes(genesis.value())
        .ok_or_else(|| damaged(path, "the genesis does not read back"))
}

/// The whole file as it was at one moment.
pub(crate) struct Snapshot {
    transaction: ReadTransaction,
    accounts: ReadOnlyTable<&'static [u8; 20], &'static [u8; 72]>,
    storage: ReadOnlyTable<&'static [u8; 52], &'static [u8; 32]>,
    blocks: ReadOnlyTable<u64, &'static [u8]>,
}

pub(crate) fn slot_key(address: Address, slot: U256) -> [u8; 52] {
    let mut key = [0; 52];
    key[..20].copy_from_slice(address.as_slice());
    key[20..].copy_from_slice(&slot.to_be_bytes::<32>());
    key
}

impl Snapshot {
    pub(crate) fn new(database: &Database) -> Result<Self, StoreError> {
        let transaction = database.begin_read()?;
        Ok(Self {
            accounts: transaction.open_table(ACCOUNTS)?,
            storage: transaction.open_table(STORAGE)?,
            blocks: transaction.open_table(BLOCKS)?,
            transaction,
        })
    }

    pub(crate) fn account(&self, address: Address) -> Result<Option<AccountRow>, StoreError> {
        Ok(self
            .accounts
            .get(&address.0.0)?
            .map(|row| AccountRow::from_bytes(row.value())))
    }

    pub(crate) fn slot(&self, address: Address, slot: U256) -> Result<U256, StoreError> {
        let row = self.storage.get(&slot_key(address, slot))?;
        Ok(row.map_or(U256::ZERO, |row| U256::from_be_bytes(*row.value())))
    }

    /// All slots of an account that hold something.
    pub(crate) fn slots_of(&self, address: Address) -> Result<Vec<(U256, U256)>, StoreError> {
        let (from, to) = (slot_key(address, U256::ZERO), slot_key(address, U256::MAX));
        let mut slots = Vec::new();
        for row in self.storage.range::<&[u8; 52]>(&from..=&to)? {
            let (key, value) = row?;
            slots.push((
                U256::from_be_slice(&key.value()[20..]),
                U256::from_be_bytes(*value.value()),
            ));
        }
        Ok(slots)
    }

    pub(crate) fn code(&self, hash: B256) -> Result<Option<Bytes>, StoreError> {
        let table = self.transaction.open_table(CODE)?;
        Ok(table
            .get(&hash.0)?
            .map(|code| Bytes::copy_from_slice(code.value())))
    }

    pub(crate) fn head(&self) -> Result<(BlockHeader, B256), StoreError> {
        let last = self
            .blocks
            .last()?
            .ok_or(StoreError::Record { table: "blocks" })?;
        read_header(last.1.value())
    }

    pub(crate) fn header(&self, number: u64) -> Result<Option<(BlockHeader, B256)>, StoreError> {
        self.blocks
            .get(number)?
            .map(|row| read_header(row.value()))
            .transpose()
    }

    pub(crate) fn block_hash(&self, number: u64) -> Result<Option<B256>, StoreError> {
        Ok(self
            .blocks
            .get(number)?
            .map(|row| alloy_primitives::keccak256(row.value())))
    }

    pub(crate) fn number_of(&self, hash: B256) -> Result<Option<u64>, StoreError> {
        Ok(self
            .transaction
            .open_table(BLOCK_NUMBERS)?
            .get(&hash.0)?
            .map(|row| row.value()))
    }

    pub(crate) fn place_of(&self, transaction: B256) -> Result<Option<Place>, StoreError> {
        Ok(self
            .transaction
            .open_table(TRANSACTION_PLACES)?
            .get(&transaction.0)?
            .map(|row| row.value()))
    }

    /// Sender and raw bytes.
    pub(crate) fn transaction(&self, place: Place) -> Result<Option<(Address, Bytes)>, StoreError> {
        let table = self.transaction.open_table(TRANSACTIONS)?;
        let Some(row) = table.get(place)? else {
            return Ok(None);
        };
        let (sender, raw) = row.value().split_at_checked(20).ok_or(StoreError::Record {
            table: "transactions",
        })?;
        Ok(Some((
            Address::from_slice(sender),
            Bytes::copy_from_slice(raw),
        )))
    }

    pub(crate) fn receipt(&self, place: Place) -> Result<Option<Receipt>, StoreError> {
        let Some((header, hash)) = self.header(place.0)? else {
            return Ok(None);
        };
        self.receipt_in(&header, hash, place.1)
    }

    pub(crate) fn receipt_in(
        &self,
        header: &BlockHeader,
        hash: B256,
        index: u32,
    ) -> Result<Option<Receipt>, StoreError> {
        let table = self.transaction.open_table(RECEIPTS)?;
        let Some(row) = table.get((header.number, index))? else {
            return Ok(None);
        };
        let row: ReceiptRow = decode("receipts", row.value())?;
        Ok(Some(row.into_receipt(header, hash, index)))
    }

    /// Values before block `number`, if they are still kept.
    pub(crate) fn undo(&self, number: u64) -> Result<Option<Diff>, StoreError> {
        let table = self.transaction.open_table(UNDO)?;
        table
            .get(number)?
            .map(|row| decode("undo", row.value()))
            .transpose()
    }

    pub(crate) fn label(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.transaction.open_table(META)?;
        Ok(table
            .get(format!("{META_LABEL}{name}").as_str())?
            .map(|row| row.value().to_vec()))
    }

    /// Places of logs of `address` in a block range, by the first topic where one is given, sorted. Every index entry that is
    /// read counts against `visits`; at 0 the search has stopped early.
    pub(crate) fn log_places(
        &self,
        address: Address,
        topics: &[B256],
        blocks: (u64, u64),
        visits: &mut usize,
    ) -> Result<Vec<Place>, StoreError> {
        let table = self.transaction.open_table(LOGS)?;
        let mut places = Vec::new();
        if topics.is_empty() {
            let mut next = Some(B256::ZERO);
            while let (Some(from), 1..) = (next, *visits) {
                *visits -= 1;
                let (low, high) = (
                    log_key(address, from, 0, 0),
                    log_key(address, B256::repeat_byte(0xff), u64::MAX, u32::MAX),
                );
                let Some(row) = table.range::<&[u8; 64]>(&low..=&high)?.next() else {
                    break;
                };
                let topic = B256::from_slice(&row?.0.value()[20..52]);
                collect_places(&table, address, topic, blocks, visits, &mut places)?;
                next = U256::from_be_bytes(topic.0)
                    .checked_add(U256::ONE)
                    .map(B256::from);
            }
        }
        for topic in topics {
            collect_places(&table, address, *topic, blocks, visits, &mut places)?;
        }
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }
}

fn collect_places(
    table: &ReadOnlyTable<&'static [u8; 64], u32>,
    address: Address,
    topic: B256,
    (from, to): (u64, u64),
    visits: &mut usize,
    places: &mut Vec<Place>,
) -> Result<(), StoreError> {
    let (low, high) = (
        log_key(address, topic, from, 0),
        log_key(address, topic, to, u32::MAX),
    );
    for row in table.range::<&[u8; 64]>(&low..=&high)? {
        let (key, index) = row?;
        let mut block = [0; 8];
        block.copy_from_slice(&key.value()[52..60]);
        let place = (u64::from_be_bytes(block), index.value());
        if places.last() != Some(&place) {
            places.push(place);
        }
        *visits = visits.saturating_sub(1);
        if *visits == 0 {
            break;
        }
    }
    Ok(())
}

fn log_key(address: Address, topic: B256, block: u64, index: u32) -> [u8; 64] {
    let mut key = [0; 64];
    key[..20].copy_from_slice(address.as_slice());
    key[20..52].copy_from_slice(topic.as_slice());
    key[52..60].copy_from_slice(&block.to_be_bytes());
    key[60..].copy_from_slice(&index.to_be_bytes());
    key
}

fn read_header(bytes: &[u8]) -> Result<(BlockHeader, B256), StoreError> {
    Ok((decode("blocks", bytes)?, alloy_primitives::keccak256(bytes)))
}

/// Everything one block writes.
pub(crate) struct BlockWrite<'a> {
    pub block: &'a SealedBlock,
    pub receipt_rows: &'a [Vec<u8>],
    /// Sender ‖ raw bytes of each transaction.
    pub transactions: &'a [Vec<u8>],
    /// Values after the block.
    pub after: &'a Diff,
    /// Values before the block.
    pub before: &'a Diff,
    pub code: &'a [(B256, Bytes)],
    pub history_blocks: u64,
}

/// Writes one block in one transaction: when this returns, all of it is durable; when it fails, none of it is there.
pub(crate) fn write_block(database: &Database, write: &BlockWrite<'_>) -> Result<(), StoreError> {
    let transaction = database.begin_write()?;
    write_state(&transaction, write)?;
    write_body(&transaction, write)?;
    transaction.commit()?;
    Ok(())
}

fn write_state(transaction: &WriteTransaction, write: &BlockWrite<'_>) -> Result<(), StoreError> {
    let mut accounts = transaction.open_table(ACCOUNTS)?;
    for change in &write.after.accounts {
        match change.row.first() {
            Some(row) => accounts.insert(&change.address.0.0, &row.to_bytes())?,
            None => accounts.remove(&change.address.0.0)?,
        };
    }
    let mut storage = transaction.open_table(STORAGE)?;
    for change in &write.after.slots {
        let key = slot_key(change.address, change.slot);
        if change.value.is_zero() {
            storage.remove(&key)?;
        } else {
            storage.insert(&key, &change.value.to_be_bytes::<32>())?;
        }
    }
    let mut code = transaction.open_table(CODE)?;
    for (hash, bytes) in write.code {
        code.insert(&hash.0, bytes.as_ref())?;
    }
    let mut undo = transaction.open_table(UNDO)?;
    let number = write.block.header.number;
    undo.insert(number, encode(write.before).as_slice())?;
    if let Some(old) = number.checked_sub(write.history_blocks) {
        undo.remove(old)?;
    }
    Ok(())
}

fn write_body(transaction: &WriteTransaction, write: &BlockWrite<'_>) -> Result<(), StoreError> {
    let number = write.block.header.number;
    transaction
        .open_table(BLOCKS)?
        .insert(number, encode(&write.block.header).as_slice())?;
    transaction
        .open_table(BLOCK_NUMBERS)?
        .insert(&write.block.hash.0, number)?;
    let mut transactions = transaction.open_table(TRANSACTIONS)?;
    let mut receipts = transaction.open_table(RECEIPTS)?;
    let mut places = transaction.open_table(TRANSACTION_PLACES)?;
    let mut logs = transaction.open_table(LOGS)?;
    for (index, receipt) in (0u32..).zip(&write.block.receipts) {
        let at = index as usize;
        transactions.insert((number, index), write.transactions[at].as_slice())?;
        receipts.insert((number, index), write.receipt_rows[at].as_slice())?;
        places.insert(&receipt.transaction_hash.0, (number, index))?;
        for (log_index, log) in (receipt.first_log_index..).zip(&receipt.logs) {
            let topic = log.topics().first().copied().unwrap_or_default();
            logs.insert(&log_key(log.address, topic, number, log_index), index)?;
        }
    }
    Ok(())
}

/// Keeps `bytes` under `name`.
pub(crate) fn write_label(database: &Database, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let transaction = database.begin_write()?;
    transaction
        .open_table(META)?
        .insert(format!("{META_LABEL}{name}").as_str(), bytes)?;
    transaction.commit()?;
    Ok(())
}
