//! The chain: taking transactions, sealing blocks, answering questions.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bytes, U256};
use redb::Database;
use tokio::sync::{oneshot, watch};

use crate::config::{ChainConfig, Genesis, TX_GAS_LIMIT_CAP};
use crate::db::{self, BlockWrite, Snapshot};
use crate::error::{CallError, ChainError, DecodeError, LogsError, StoreError, SubmitError};
use crate::exec::{
    BlockFrame, CallOutcome, CallRequest, ExecutedBlock, Refusal, estimate, execute_block,
    refusal_text,
};
use crate::logs::{self, LogFilter};
use crate::pool::{Pool, Waiting};
use crate::records::{BlockHeader, Head, LogEntry, Receipt, SealedBlock};
use crate::state::{BlockState, CodeCache};
use crate::tx::{SignedTransaction, Transaction, TransactionType};

/// How often transactions behind a gap are looked at.
const GAP_CHECK: Duration = Duration::from_secs(1);

/// Gas of one authorization before anything runs (EIP-7702).
const AUTHORIZATION_GAS: u64 = 25_000;

/// A transaction that the chain has taken; its receipt comes when the block is durable.
#[derive(Debug)]
pub struct PendingTransaction {
    /// Hash of the transaction.
    pub hash: B256,
    /// False when it waits for a transaction with a lower nonce.
    pub ready: bool,
    answer: oneshot::Receiver<Result<Box<Receipt>, SubmitError>>,
}

impl PendingTransaction {
    /// Waits for the receipt.
    pub async fn receipt(self) -> Result<Receipt, SubmitError> {
        self.answer
            .await
            .map_err(|_| SubmitError::Closed)?
            .map(|receipt| *receipt)
    }

    /// Waits for the receipt, blocking the thread. Not for use inside an async task.
    pub fn wait(self) -> Result<Receipt, SubmitError> {
        self.answer
            .blocking_recv()
            .map_err(|_| SubmitError::Closed)?
            .map(|receipt| *receipt)
    }
}

struct Inner {
    database: Database,
    genesis: Genesis,
    chain_id: u64,
    config: ChainConfig,
    pool: Mutex<Pool>,
    arrived: Condvar,
    code: Arc<CodeCache>,
    head: watch::Sender<Head>,
}

/// A durable EVM chain in one file with one writer. Cheap to share behind an `Arc`; all methods take `&self`.
///
/// A block becomes durable whole or not at all, and a receipt is given out only after that. The file stays locked
/// until the value is dropped.
pub struct Chain {
    inner: Arc<Inner>,
    sealer: Mutex<Option<JoinHandle<()>>>,
}

impl Chain {
    /// Opens the chain in the file at `path`, or creates it from the genesis of `config`.
    pub fn open(path: impl AsRef<Path>, config: ChainConfig) -> Result<Self, ChainError> {
        let (database, genesis) = db::open(path.as_ref(), &config)?;
        let (header, hash) = Snapshot::new(&database)?.head()?;
        let head = Head {
            number: header.number,
            hash,
            timestamp: header.timestamp,
        };
        let inner = Arc::new(Inner {
            chain_id: genesis.chain_id(),
            genesis,
            database,
            config,
            pool: Mutex::default(),
            arrived: Condvar::new(),
            code: Arc::default(),
            head: watch::Sender::new(head),
        });
        let for_thread = Arc::clone(&inner);
        let sealer = std::thread::Builder::new()
            .name("chain-sealer".to_owned())
            .spawn(move || for_thread.seal_until_closed())
            .map_err(|source| ChainError::Io {
                path: path.as_ref().to_owned(),
                source,
            })?;
        Ok(Self {
            inner,
            sealer: Mutex::new(Some(sealer)),
        })
    }

    /// Id that transactions must name.
    pub fn chain_id(&self) -> u64 {
        self.inner.chain_id
    }

    /// Block 0.
    pub fn genesis(&self) -> &Genesis {
        &self.inner.genesis
    }

    /// Gas one block may use.
    pub fn block_gas_limit(&self) -> u64 {
        self.inner.config.block_gas_limit
    }

    /// The newest block.
    pub fn head(&self) -> Head {
        *self.inner.head.borrow()
    }

    /// Follows the newest block. Several may have been added between two looks: read those between by their number.
    pub fn watch_head(&self) -> watch::Receiver<Head> {
        self.inner.head.subscribe()
    }

    /// Takes a signed transaction. The receipt can be waited for from the returned value.
    pub fn submit(&self, raw: &[u8]) -> Result<PendingTransaction, SubmitError> {
        let (transaction, sender) = self.inner.check(raw)?;
        self.inner.admit(transaction, sender)
    }

    /// Takes a signed transaction and blocks until its block is durable. Not for use inside an async task.
    pub fn submit_and_wait(&self, raw: &[u8]) -> Result<Receipt, SubmitError> {
        self.submit(raw)?.wait()
    }

    /// Takes many transactions in order; their signatures are checked on all cores.
    pub fn submit_batch(&self, raws: &[Bytes]) -> Vec<Result<PendingTransaction, SubmitError>> {
        let threads = std::thread::available_parallelism()
            .map_or(1, |n| n.get())
            .min(raws.len().max(1));
        let share = raws.len().div_ceil(threads).max(1);
        let checked: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = raws
                .chunks(share)
                .map(|part| {
                    scope.spawn(|| {
                        part.iter()
                            .map(|raw| self.inner.check(raw))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, Vec<_>>| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().flat_map(join).collect()
        });
        checked
            .into_iter()
            .map(|checked| {
                checked.and_then(|(transaction, sender)| self.inner.admit(transaction, sender))
            })
            .collect()
    }

    /// Calls a contract without changing anything; `block` absent means "in the block being built now".
    pub fn call(
        &self,
        from: Address,
        to: Address,
        input: impl Into<Bytes>,
        block: Option<u64>,
    ) -> Result<Bytes, CallError> {
        let request = CallRequest {
            from,
            to: Some(to),
            input: input.into(),
            ..CallRequest::default()
        };
        Ok(self.run_call(&request, block)?.output)
    }

    /// As [`Self::call`], with all that a call can say and all that is learned from it.
    ///
    /// Without a block it runs in the next one, at the time of the clock: blocks are sealed on demand, so the head may
    /// be old, and what a contract allows "now" would otherwise be judged by the time of the last transaction.
    pub fn run_call(
        &self,
        request: &CallRequest,
        block: Option<u64>,
    ) -> Result<CallOutcome, CallError> {
        let (state, header) = self.inner.state_at(block)?;
        request.run(
            state,
            self.inner.chain_id,
            &header,
            self.inner.config.call_gas_limit,
        )
    }

    /// Gas limit with which a transaction like this call would succeed.
    pub fn estimate_gas(
        &self,
        request: &CallRequest,
        block: Option<u64>,
    ) -> Result<u64, CallError> {
        let cap = request.gas.unwrap_or(TX_GAS_LIMIT_CAP);
        estimate(cap, |gas| {
            let (state, header) = self.inner.state_at(block)?;
            CallRequest {
                gas: Some(gas),
                ..request.clone()
            }
            .run(
                state,
                self.inner.chain_id,
                &header,
                self.inner.config.call_gas_limit,
            )
        })
    }

    /// Wei of an account.
    pub fn balance(&self, account: Address, block: Option<u64>) -> Result<U256, CallError> {
        Ok(self
            .inner
            .state_at(block)?
            .0
            .account(account)?
            .map_or(U256::ZERO, |row| row.balance))
    }

    /// Transactions that an account has sent.
    pub fn nonce(&self, account: Address, block: Option<u64>) -> Result<u64, CallError> {
        Ok(self
            .inner
            .state_at(block)?
            .0
            .account(account)?
            .map_or(0, |row| row.nonce))
    }

    /// The nonce for the next transaction of an account, after those that wait.
    pub fn pending_nonce(&self, account: Address) -> Result<u64, StoreError> {
        let pool = self.inner.lock_pool();
        let state_nonce = self.inner.state_nonce(account)?;
        Ok(pool.next_nonce(account, state_nonce))
    }

    /// Code of a contract; empty for other accounts.
    pub fn code(&self, account: Address, block: Option<u64>) -> Result<Bytes, CallError> {
        let mut state = self.inner.state_at(block)?.0;
        let Some(row) = state.account(account)? else {
            return Ok(Bytes::new());
        };
        Ok(state.code(row.code_hash)?.original_bytes())
    }

    /// One storage slot of a contract.
    pub fn storage_at(
        &self,
        account: Address,
        slot: U256,
        block: Option<u64>,
    ) -> Result<U256, CallError> {
        Ok(self.inner.state_at(block)?.0.slot(account, slot)?)
    }

    /// Header and hash of a block.
    pub fn block(&self, number: u64) -> Result<Option<(BlockHeader, B256)>, StoreError> {
        self.inner.snapshot()?.header(number)
    }

    /// Height of the block with this hash.
    pub fn block_number(&self, hash: B256) -> Result<Option<u64>, StoreError> {
        self.inner.snapshot()?.number_of(hash)
    }

    /// Receipts of a block, in order.
    pub fn block_receipts(&self, number: u64) -> Result<Option<Vec<Receipt>>, StoreError> {
        let snapshot = self.inner.snapshot()?;
        let Some((header, hash)) = snapshot.header(number)? else {
            return Ok(None);
        };
        let receipts = (0..header.transaction_count).map(|index| {
            snapshot
                .receipt_in(&header, hash, index)?
                .ok_or(StoreError::Record { table: "receipts" })
        });
        receipts.collect::<Result<_, _>>().map(Some)
    }

    /// Receipt of a transaction that is in a block.
    pub fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, StoreError> {
        let snapshot = self.inner.snapshot()?;
        match snapshot.place_of(transaction)? {
            Some(place) => snapshot.receipt(place),
            None => Ok(None),
        }
    }

    /// A transaction with its sender, and its block and position once it has them.
    pub fn transaction(&self, hash: B256) -> Result<Option<FoundTransaction>, StoreError> {
        if let Some((sender, signed)) = self.inner.lock_pool().find(&hash) {
            return Ok(Some(FoundTransaction {
                sender: *sender,
                signed: signed.clone(),
                place: None,
                timestamp: None,
            }));
        }
        let snapshot = self.inner.snapshot()?;
        match snapshot.place_of(hash)? {
            Some(place) => found(&snapshot, place),
            None => Ok(None),
        }
    }

    /// The transaction at a position of a block.
    pub fn transaction_at(
        &self,
        number: u64,
        index: u32,
    ) -> Result<Option<FoundTransaction>, StoreError> {
        found(&self.inner.snapshot()?, (number, index))
    }

    /// Events that match, in order.
    pub fn logs(&self, filter: &LogFilter) -> Result<Vec<LogEntry>, LogsError> {
        logs::query(&self.inner.snapshot()?, filter)
    }

    /// Bytes kept with the chain under `name`, for example which contracts were deployed from which artefacts.
    pub fn label(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.snapshot()?.label(name)
    }

    /// Keeps bytes with the chain; durable when this returns.
    pub fn set_label(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        db::write_label(&self.inner.database, name, bytes)
    }

    /// Takes no more transactions, seals those that are ready, and stops. The answers to questions go on.
    pub fn close(&self) {
        self.inner.lock_pool().closed = true;
        self.inner.arrived.notify_all();
        let sealer = self
            .sealer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(sealer) = sealer {
            // A panic of the sealer has already refused what was pending.
            let _ = sealer.join();
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.close();
    }
}

/// A transaction as the chain knows it.
#[derive(Debug, Clone)]
pub struct FoundTransaction {
    /// Who signed it.
    pub sender: Address,
    /// The transaction.
    pub signed: SignedTransaction,
    /// Block number, block hash and position; absent while it waits.
    pub place: Option<(u64, B256, u32)>,
    /// Time of that block.
    pub timestamp: Option<u64>,
}

fn found(snapshot: &Snapshot, place: db::Place) -> Result<Option<FoundTransaction>, StoreError> {
    let Some((sender, raw)) = snapshot.transaction(place)? else {
        return Ok(None);
    };
    let damaged = StoreError::Record {
        table: "transactions",
    };
    let signed = SignedTransaction::decode(&raw).map_err(|_| damaged)?;
    let (header, hash) = snapshot
        .header(place.0)?
        .ok_or(StoreError::Record { table: "blocks" })?;
    Ok(Some(FoundTransaction {
        sender,
        signed,
        place: Some((place.0, hash, place.1)),
        timestamp: Some(header.timestamp),
    }))
}

/// What a set-code transaction must have before its authorizations are worth the work of recovering their signers.
fn check_set_code(body: &Transaction) -> Result<(), SubmitError> {
    if body.kind != TransactionType::SetCode {
        return Ok(());
    }
    if body.to.is_create() {
        return Err(SubmitError::Invalid(
            "a set-code transaction names a receiver (EIP-7702)".to_owned(),
        ));
    }
    let count = body.authorization_list.len() as u64;
    let least = count
        .saturating_mul(AUTHORIZATION_GAS)
        .saturating_add(21_000);
    if body.gas_limit < least {
        return Err(SubmitError::Invalid(format!(
            "intrinsic gas too low: gas {}, minimum needed {least}",
            body.gas_limit
        )));
    }
    Ok(())
}

impl Inner {
    fn lock_pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Snapshot::new(&self.database)
    }

    fn state_nonce(&self, account: Address) -> Result<u64, StoreError> {
        Ok(self
            .snapshot()?
            .account(account)?
            .map_or(0, |row| row.nonce))
    }

    /// Everything about a transaction that needs no lock: form, chain, limits, signature.
    fn check(&self, raw: &[u8]) -> Result<(SignedTransaction, Address), SubmitError> {
        let transaction = SignedTransaction::decode(raw)?;
        let body = &transaction.body;
        if body.chain_id != self.chain_id {
            return Err(SubmitError::WrongChain {
                expected: self.chain_id,
                got: body.chain_id,
            });
        }
        let max = TX_GAS_LIMIT_CAP.min(self.config.block_gas_limit);
        if body.gas_limit > max {
            return Err(SubmitError::GasLimit {
                asked: body.gas_limit,
                max,
            });
        }
        if body.nonce == u64::MAX {
            return Err(SubmitError::Invalid(
                "the nonce has no successor (EIP-2681)".to_owned(),
            ));
        }
        check_set_code(body)?;
        let sender = transaction.recover_sender()?;
        Ok((transaction, sender))
    }

    fn admit(
        &self,
        transaction: SignedTransaction,
        sender: Address,
    ) -> Result<PendingTransaction, SubmitError> {
        let needed = transaction
            .body
            .cost_max()
            .ok_or(DecodeError::Rlp(alloy_rlp::Error::Overflow))?;
        let hash = transaction.hash;
        let (answer, receiver) = oneshot::channel();
        let mut pool = self.lock_pool();
        // The state is read under the lock, so that no block can slip in between its nonce and the pool's.
        let snapshot = self.snapshot()?;
        if snapshot.place_of(hash)?.is_some() {
            return Err(SubmitError::AlreadyKnown(hash));
        }
        let row = snapshot.account(sender)?;
        let balance = row.map_or(U256::ZERO, |row| row.balance);
        if needed > balance {
            return Err(SubmitError::Funds {
                account: sender,
                balance,
                needed,
            });
        }
        let ready = pool.add(
            Waiting::new(transaction, sender, answer),
            row.map_or(0, |row| row.nonce),
        )?;
        drop(pool);
        // Also for one that waits behind a gap: the sealer watches its time from now on.
        self.arrived.notify_one();
        Ok(PendingTransaction {
            hash,
            ready,
            answer: receiver,
        })
    }

    /// State and header for a call: of a past block, or of the one being built.
    fn state_at(&self, block: Option<u64>) -> Result<(BlockState, BlockHeader), CallError> {
        let snapshot = self.snapshot()?;
        let (head, head_hash) = snapshot.head()?;
        let Some(asked) = block else {
            let frame = self.frame(head, head_hash);
            return Ok((
                BlockState::new(snapshot, Arc::clone(&self.code)),
                frame.header(),
            ));
        };
        if asked > head.number {
            return Err(CallError::UnknownBlock {
                asked,
                head: head.number,
            });
        }
        let oldest = head.number.saturating_sub(self.config.history_blocks);
        if asked < oldest {
            return Err(CallError::Pruned { asked, oldest });
        }
        let (header, _) = snapshot
            .header(asked)?
            .ok_or(StoreError::Record { table: "blocks" })?;
        let mut state = BlockState::new(snapshot, Arc::clone(&self.code));
        for number in (asked + 1..=head.number).rev() {
            let undo = state.snapshot().undo(number)?;
            state.undo(&undo.ok_or(CallError::Pruned {
                asked,
                oldest: number,
            })?);
        }
        Ok((state, header))
    }

    fn frame(&self, parent: BlockHeader, parent_hash: B256) -> BlockFrame {
        BlockFrame {
            chain_id: self.chain_id,
            // Time never falls, whatever the clock does.
            timestamp: parent.timestamp.max(self.config.clock.unix_seconds()),
            gas_limit: self.config.block_gas_limit,
            beneficiary: self.config.beneficiary,
            parent,
            parent_hash,
        }
    }

    fn seal_until_closed(&self) {
        /// Refuses what is pending also when the sealer panics: nobody may wait for ever.
        struct Closing<'a>(&'a Inner);
        impl Drop for Closing<'_> {
            fn drop(&mut self) {
                self.0.lock_pool().close();
            }
        }
        let _closing = Closing(self);
        let mut gaps_checked = Instant::now();
        while self.wait_for_transactions(&mut gaps_checked) {
            if !self.config.seal_window.is_zero() {
                std::thread::sleep(self.config.seal_window);
            }
            let batch = self.lock_pool().take(self.config.block_transactions_max);
            if let Err(refused) = self.seal(batch) {
                let (error, batch) = *refused;
                tracing::error!(%error, transactions = batch.len(), "a block could not be made durable");
                self.refuse(batch, &error);
            }
        }
    }

    /// False when the chain is closed and nothing is ready.
    fn wait_for_transactions(&self, gaps_checked: &mut Instant) -> bool {
        let mut pool = self.lock_pool();
        loop {
            // Before looking for ready ones: under steady load there always are some, and gaps must run out all the same.
            if pool.has_queued() && gaps_checked.elapsed() >= GAP_CHECK {
                pool.expire(self.config.nonce_gap_wait, |pool, sender| {
                    pool.next_nonce(sender, self.state_nonce(sender).unwrap_or(0))
                });
                *gaps_checked = Instant::now();
            }
            if pool.has_ready() {
                return true;
            }
            if pool.closed {
                return false;
            }
            if pool.has_queued() {
                pool = self
                    .arrived
                    .wait_timeout(pool, GAP_CHECK)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            } else {
                pool = self
                    .arrived
                    .wait(pool)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Executes, writes and only then answers. On an error nothing was written, and the batch comes back.
    fn seal(&self, batch: Vec<Waiting>) -> Result<(), Box<(StoreError, Vec<Waiting>)>> {
        let executed = match self.execute(&batch) {
            Ok(executed) => executed,
            Err(error) => return Err(Box::new((error, batch))),
        };
        let hash = executed.header.hash();
        let receipts = executed.receipts.iter().zip(0u32..);
        let receipts = receipts
            .map(|(row, index)| row.clone().into_receipt(&executed.header, hash, index))
            .collect();
        let block = SealedBlock {
            header: executed.header.clone(),
            hash,
            receipts,
        };
        if !block.receipts.is_empty()
            && let Err(error) = self.write(&block, &executed, &batch)
        {
            return Err(Box::new((error, batch)));
        }
        self.answer(batch, &executed, block);
        Ok(())
    }

    fn execute(&self, batch: &[Waiting]) -> Result<ExecutedBlock, StoreError> {
        let snapshot = self.snapshot()?;
        let (parent, parent_hash) = snapshot.head()?;
        let frame = self.frame(parent, parent_hash);
        let transactions: Vec<_> = batch
            .iter()
            .map(|waiting| (waiting.sender, &waiting.transaction))
            .collect();
        execute_block(
            &frame,
            BlockState::new(snapshot, Arc::clone(&self.code)),
            &transactions,
        )
    }

    fn write(
        &self,
        block: &SealedBlock,
        executed: &ExecutedBlock,
        batch: &[Waiting],
    ) -> Result<(), StoreError> {
        let included = batch
            .iter()
            .zip(&executed.outcomes)
            .filter(|(_, outcome)| outcome.is_ok());
        let transactions: Vec<Vec<u8>> = included
            .map(|(waiting, _)| [waiting.sender.as_slice(), &waiting.transaction.raw].concat())
            .collect();
        db::write_block(
            &self.database,
            &BlockWrite {
                block,
                receipt_rows: &executed.receipt_rows,
                transactions: &transactions,
                after: &executed.changes.after,
                before: &executed.changes.before,
                code: &executed.changes.code,
                history_blocks: self.config.history_blocks,
            },
        )
    }

    fn answer(&self, batch: Vec<Waiting>, executed: &ExecutedBlock, block: SealedBlock) {
        if !block.receipts.is_empty() {
            self.head.send_replace(block.head());
        }
        let mut left_over = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        let mut pool = self.lock_pool();
        let mut senders = Vec::new();
        for (waiting, outcome) in batch.into_iter().zip(&executed.outcomes) {
            let result = match outcome {
                Ok(index) => Ok(Box::new(block.receipts[*index as usize].clone())),
                Err(Refusal::Invalid(reason)) => Err(SubmitError::Invalid(refusal_text(reason))),
                Err(Refusal::BlockFull) => {
                    left_over.push(waiting);
                    continue;
                }
            };
            pool.finish(
                waiting.sender,
                waiting.transaction.body.nonce,
                &waiting.transaction.hash,
            );
            senders.push(waiting.sender);
            answers.push((waiting.answer, result));
        }
        pool.put_back(left_over);
        senders.sort_unstable();
        senders.dedup();
        for sender in senders {
            if let Ok(nonce) = self.state_nonce(sender) {
                pool.after_block(sender, nonce);
            }
        }
        drop(pool);
        for (answer, result) in answers {
            // Whoever asked may have gone away; the block stands all the same.
            let _ = answer.send(result);
        }
    }

    fn refuse(&self, batch: Vec<Waiting>, error: &StoreError) {
        let mut pool = self.lock_pool();
        for waiting in batch {
            pool.finish(
                waiting.sender,
                waiting.transaction.body.nonce,
                &waiting.transaction.hash,
            );
            let _ = waiting.answer.send(Err(SubmitError::Store(error.clone())));
        }
    }
}
