//! Sending transactions of one account, one after the other, each exactly once.
//!
//! A transaction whose fate is unknown (the connection broke) is never signed anew: the same bytes are handed over
//! again, and the nonce decides that they count once. After a restart nothing is known of what was under way;
//! [`Turn`] then waits until the account has nothing pending, so that the caller can look at the contract and decide
//! from what it sees.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Bytes, TxKind};
use alloy_sol_types::SolCall;
use stoa_crypto::SecretKey;
use stoa_evm::TX_GAS_LIMIT_CAP;
use stoa_evm::tx::Transaction;
use stoa_types::{Address, Digest};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use crate::access::{AccessError, ChainAccess, TransactionReceipt, view};
use crate::convert::{digest, evm_address};
use crate::explain::explain_revert;

/// First pause between two looks for a receipt; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Gas beside the share of the estimate: a few words of storage. Who reveals last draws, and did not know it when it estimated.
const GAS_SPARE: u64 = 100_000;

/// The most that is paid for a unit of gas, in wei: a hundred times a busy day of the dearest chain. Who runs the server names the
/// price, and must not be able to burn the account with it.
const FEE_MAX: u128 = 10_000_000_000_000;

/// Why a transaction did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SendError {
    /// It would revert, or the chain does not take it: it was not sent.
    #[error("not sent: {0}")]
    NotSent(AccessError),
    /// It is in a block and reverted; it changed nothing but the nonce.
    #[error("transaction {} reverted: {}", .receipt.hash, explain_revert(&.receipt.revert_data))]
    Reverted {
        /// Its receipt.
        receipt: Box<TransactionReceipt>,
    },
    /// Another transaction of this account used the nonce.
    #[error("another transaction of {account} used nonce {nonce}; the key is in use elsewhere")]
    NonceTaken {
        /// The account.
        account: Address,
        /// The nonce.
        nonce: u64,
    },
    /// It was handed over and is not in a block yet. It may still get there: look before sending it anew.
    #[error("transaction {hash} is not in a block after {waited:?}: {last}")]
    Unknown {
        /// Its hash.
        hash: Digest,
        /// How long was waited.
        waited: Duration,
        /// The last obstacle.
        last: String,
    },
}

/// One account that sends transactions. Clones take turns.
#[derive(Clone)]
pub struct Sender<C> {
    chain: C,
    key: SecretKey,
    chain_id: u64,
    patience: Duration,
    turn: Arc<Mutex<()>>,
}

impl<C: ChainAccess> Sender<C> {
    /// The account of `key` on `chain`. Waits at most `patience` for a transaction.
    pub async fn new(chain: C, key: SecretKey, patience: Duration) -> Result<Self, AccessError> {
        let chain_id = chain.chain_id().await?;
        Ok(Self {
            chain,
            key,
            chain_id,
            patience,
            turn: Arc::default(),
        })
    }

    /// The account.
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// The chain it sends to.
    pub fn chain(&self) -> &C {
        &self.chain
    }

    /// Id of the chain.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The right to send: while it is held nobody else sends from this account, and nothing of it is pending.
    pub async fn turn(&self) -> Result<Turn<'_, C>, SendError> {
        let guard = self.turn.lock().await;
        let turn = Turn {
            sender: self,
            _guard: guard,
        };
        turn.settle().await?;
        Ok(turn)
    }

    /// Sends one call of a contract and waits for its block.
    pub async fn send(
        &self,
        to: Address,
        call: &impl SolCall,
    ) -> Result<TransactionReceipt, SendError> {
        self.turn().await?.send(Some(to), call.abi_encode()).await
    }
}

/// See [`Sender::turn`].
pub struct Turn<'a, C> {
    sender: &'a Sender<C>,
    _guard: MutexGuard<'a, ()>,
}

impl<C: ChainAccess> Turn<'_, C> {
    /// The account.
    pub fn address(&self) -> Address {
        self.sender.address()
    }

    /// Asks a contract.
    pub async fn view<S: SolCall>(
        &self,
        contract: Address,
        call: &S,
    ) -> Result<S::Return, SendError> {
        view(&self.sender.chain, contract, call)
            .await
            .map_err(SendError::NotSent)
    }

    /// Waits until everything that this account sent before, perhaps before a restart, is in a block.
    async fn settle(&self) -> Result<(), SendError> {
        let (chain, account) = (&self.sender.chain, self.address());
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let pending = chain
                .nonce(account, true)
                .await
                .map_err(SendError::NotSent)?;
            let sealed = chain
                .nonce(account, false)
                .await
                .map_err(SendError::NotSent)?;
            if pending <= sealed {
                return Ok(());
            }
            if started.elapsed() > self.sender.patience {
                let reason = format!(
                    "{} earlier transactions of {account} are still pending",
                    pending - sealed
                );
                return Err(SendError::NotSent(AccessError::Refused(reason)));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Sends one transaction and waits for its block.
    pub async fn send(
        &self,
        to: Option<Address>,
        input: Vec<u8>,
    ) -> Result<TransactionReceipt, SendError> {
        let (chain, account) = (&self.sender.chain, self.address());
        let nonce = chain
            .nonce(account, false)
            .await
            .map_err(SendError::NotSent)?;
        let estimate = chain
            .estimate(account, to, input.clone())
            .await
            .map_err(SendError::NotSent)?;
        let fees = chain.fees().await.map_err(SendError::NotSent)?;
        // State may change between estimate and block: a quarter more, and what it costs to come last where the last one has more to do.
        let spare = (estimate / 4).saturating_add(GAS_SPARE);
        let gas_limit = estimate.saturating_add(spare).min(TX_GAS_LIMIT_CAP);
        if fees.max_fee > FEE_MAX {
            let reason = format!(
                "it asks {} wei per gas, more than the {FEE_MAX} that are ever paid",
                fees.max_fee
            );
            return Err(SendError::NotSent(AccessError::Refused(reason)));
        }
        let mut body =
            Transaction::create(self.sender.chain_id, nonce, Bytes::from(input), gas_limit);
        body.to = to.map_or(TxKind::Create, |to| TxKind::Call(evm_address(to)));
        body.max_fee_per_gas = fees.max_fee;
        body.max_priority_fee_per_gas = fees.tip;
        let (hash, raw) = sign(body, &self.sender.key);
        self.deliver(hash, raw, nonce).await
    }

    async fn deliver(
        &self,
        hash: Digest,
        raw: Vec<u8>,
        nonce: u64,
    ) -> Result<TransactionReceipt, SendError> {
        let chain = &self.sender.chain;
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        // Once the bytes may have arrived, a refusal no longer proves that the transaction is not there.
        let mut may_have_arrived = false;
        let mut nonce_used = false;
        loop {
            let last = match chain.submit(raw.clone()).await {
                Ok(()) => "it waits for a block".to_owned(),
                Err(AccessError::NonceUsed(_)) if !may_have_arrived => {
                    let receipt = chain.receipt(hash).await.map_err(SendError::NotSent)?;
                    let taken = SendError::NonceTaken {
                        account: self.address(),
                        nonce,
                    };
                    return receipt.ok_or(taken).and_then(outcome);
                }
                // Used by this very transaction, perhaps, whose receipt a server behind the others does not have yet.
                Err(AccessError::NonceUsed(reason)) => {
                    nonce_used = true;
                    reason
                }
                Err(AccessError::Unreachable(reason)) => reason,
                Err(refused) if !may_have_arrived => return Err(SendError::NotSent(refused)),
                Err(refused) => refused.to_string(),
            };
            may_have_arrived = true;
            if let Ok(Some(receipt)) = chain.receipt(hash).await {
                return outcome(receipt);
            }
            if started.elapsed() > self.sender.patience && nonce_used {
                return Err(SendError::NonceTaken {
                    account: self.address(),
                    nonce,
                });
            }
            if started.elapsed() > self.sender.patience {
                return Err(SendError::Unknown {
                    hash,
                    waited: started.elapsed(),
                    last,
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn outcome(receipt: TransactionReceipt) -> Result<TransactionReceipt, SendError> {
    if receipt.success {
        Ok(receipt)
    } else {
        Err(SendError::Reverted {
            receipt: Box::new(receipt),
        })
    }
}

fn sign(body: Transaction, key: &SecretKey) -> (Digest, Vec<u8>) {
    let signature = key.sign(digest(body.signing_hash()));
    let signed = body
        .into_signed_bytes(&signature.0)
        .expect("our own signatures end in 27 or 28");
    (digest(signed.hash), signed.raw.to_vec())
}
