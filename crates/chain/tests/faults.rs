//! Chains that break off, lose answers and change their past.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use stoa_chain::*;
use stoa_crypto::keccak256;
use stoa_types::{Address, Digest, Timestamp};

/// What happens to the next submissions.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The connection breaks before the bytes arrive.
    Lost,
    /// The bytes arrive, the answer does not.
    AnswerLost,
    /// A server that has seen the block says that the nonce is used.
    NonceUsed,
}

#[derive(Clone)]
struct Faulty {
    inner: Embedded,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    submitted: Arc<AtomicUsize>,
    /// So many questions for receipts are answered as though there were none.
    receipts_hidden: Arc<AtomicUsize>,
}

fn broken() -> AccessError {
    AccessError::Unreachable("the connection broke".to_owned())
}

impl ChainAccess for Faulty {
    async fn chain_id(&self) -> Result<u64, AccessError> {
        self.inner.chain_id().await
    }
    async fn call(
        &self,
        from: Address,
        to: Address,
        input: Vec<u8>,
    ) -> Result<Vec<u8>, AccessError> {
        self.inner.call(from, to, input).await
    }
    async fn estimate(
        &self,
        from: Address,
        to: Option<Address>,
        input: Vec<u8>,
    ) -> Result<u64, AccessError> {
        self.inner.estimate(from, to, input).await
    }
    async fn fees(&self) -> Result<Fees, AccessError> {
        self.inner.fees().await
    }
    async fn balance(&self, account: Address) -> Result<u128, AccessError> {
        self.inner.balance(account).await
    }
    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, AccessError> {
        self.inner.nonce(account, pending).await
    }
    async fn submit(&self, raw: Vec<u8>) -> Result<(), AccessError> {
        let fault = self.faults.lock().unwrap().pop_front();
        self.submitted.fetch_add(1, Ordering::SeqCst);
        match fault {
            None => self.inner.submit(raw).await,
            Some(Fault::Lost) => Err(broken()),
            Some(Fault::NonceUsed) => Err(AccessError::NonceUsed("nonce too low".to_owned())),
            Some(Fault::AnswerLost) => {
                self.inner.submit(raw).await?;
                Err(broken())
            }
        }
    }
    async fn receipt(
        &self,
        transaction: Digest,
    ) -> Result<Option<TransactionReceipt>, AccessError> {
        let hidden = self.receipts_hidden.load(Ordering::SeqCst);
        if hidden > 0 {
            self.receipts_hidden.store(hidden - 1, Ordering::SeqCst);
            return Ok(None);
        }
        self.inner.receipt(transaction).await
    }
    async fn logs(
        &self,
        addresses: Vec<Address>,
        from: u64,
        to: u64,
    ) -> Result<Vec<RawLog>, AccessError> {
        self.inner.logs(addresses, from, to).await
    }
    async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, AccessError> {
        self.inner.block(number).await
    }
    async fn code(&self, account: Address) -> Result<Vec<u8>, AccessError> {
        self.inner.code(account).await
    }
}

fn post(index: u64) -> Post {
    Post {
        index,
        job_root: keccak256(index.to_be_bytes()),
        job_count: 1,
        pay_root: Digest::ZERO,
        gross: units(0),
        content_id: Digest::ZERO,
    }
}

#[tokio::test]
async fn whatever_breaks_off_each_batch_is_posted_exactly_once() {
    let network = network().await;
    let faults = Arc::new(Mutex::new(VecDeque::new()));
    let faulty = Faulty {
        inner: network.access(),
        faults: faults.clone(),
        submitted: Arc::new(AtomicUsize::new(0)),
        receipts_hidden: Arc::default(),
    };
    let patterns: [&[Fault]; 5] = [
        &[],
        &[Fault::Lost],
        &[Fault::AnswerLost],
        &[Fault::Lost, Fault::AnswerLost],
        &[Fault::Lost, Fault::Lost, Fault::Lost],
    ];
    for (index, pattern) in (1..).zip(patterns) {
        faults.lock().unwrap().extend(pattern);
        // A new account each time, as after a restart.
        let router = Account::new(sender(faulty.clone(), "router").await, network.contracts);
        router.post(&post(index)).await.expect("posted in the end");
        assert_eq!(
            router.post(&post(index)).await.expect("stands there"),
            Done::Before
        );
        assert_eq!(
            network
                .view()
                .head(router.address())
                .await
                .expect("readable")
                .0,
            index
        );
    }
}

#[tokio::test]
async fn a_router_that_gave_up_finds_its_batch_after_the_restart() {
    let network = network().await;
    let faulty = Faulty {
        inner: network.access(),
        faults: Arc::new(Mutex::new(VecDeque::from([Fault::Lost; 40]))),
        submitted: Arc::new(AtomicUsize::new(0)),
        receipts_hidden: Arc::default(),
    };
    let impatient = Sender::new(faulty.clone(), key("router"), Duration::from_millis(50))
        .await
        .expect("answers");
    let router = Account::new(impatient, network.contracts);
    let error = router.post(&post(1)).await.expect_err("nothing arrives");
    assert!(
        matches!(error, PostError::Send(SendError::Unknown { .. })),
        "{error}"
    );
    faulty.faults.lock().unwrap().clear();
    assert!(matches!(
        router.post(&post(1)).await.expect("posts"),
        Done::Now(_)
    ));
    assert_eq!(
        network
            .view()
            .head(router.address())
            .await
            .expect("readable")
            .0,
        1
    );
    assert!(faulty.submitted.load(Ordering::SeqCst) > 2);
}

#[tokio::test]
async fn transactions_of_one_account_do_not_collide_when_sent_at_once() {
    let network = network().await;
    let account = Arc::new(network.account("busy").await);
    let tasks: Vec<_> = (0..12)
        .map(|_| {
            let account = account.clone();
            tokio::spawn(async move { account.mint_test_dollars(who("rich"), units(1)).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("runs").expect("mints");
    }
    assert_eq!(
        network
            .view()
            .token_balance(who("rich"))
            .await
            .expect("readable"),
        units(12)
    );
}

/// Hash and events of a made-up block.
type MadeUp = (Digest, Vec<RawLog>);

/// A chain of made-up blocks that can be rewritten.
#[derive(Clone, Default)]
struct Rewritable(Arc<Mutex<Vec<MadeUp>>>);

impl Rewritable {
    /// Cuts the chain after block `keep` and appends blocks of fork `fork`, each with one deposit.
    fn rewrite(&self, keep: usize, fork: u8, blocks: usize, contracts: &Contracts) {
        use alloy_sol_types::SolEvent;
        let mut chain = self.0.lock().unwrap();
        chain.truncate(keep + 1);
        while chain.len() < keep + 1 + blocks {
            let number = chain.len() as u64;
            let hash = keccak256([number.to_be_bytes().as_slice(), &[fork]].concat());
            let developer = evm_address(Address([fork; 20]));
            let amount = u128::from(number);
            let event = bindings::PaymentVault::Deposited {
                developer,
                payer: developer,
                amount,
            };
            let data = event.encode_log_data();
            let log = RawLog {
                address: contracts.vault,
                topics: data.topics().iter().map(|topic| digest(*topic)).collect(),
                data: data.data.to_vec(),
                block: number,
                block_hash: hash,
                transaction: hash,
                log_index: 0,
            };
            chain.push((hash, if number == 0 { Vec::new() } else { vec![log] }));
        }
    }
}

impl ChainAccess for Rewritable {
    async fn chain_id(&self) -> Result<u64, AccessError> {
        Ok(1)
    }
    async fn call(&self, _: Address, _: Address, _: Vec<u8>) -> Result<Vec<u8>, AccessError> {
        Err(broken())
    }
    async fn estimate(
        &self,
        _: Address,
        _: Option<Address>,
        _: Vec<u8>,
    ) -> Result<u64, AccessError> {
        Err(broken())
    }
    async fn fees(&self) -> Result<Fees, AccessError> {
        Err(broken())
    }
    async fn balance(&self, _: Address) -> Result<u128, AccessError> {
        Err(broken())
    }
    async fn nonce(&self, _: Address, _: bool) -> Result<u64, AccessError> {
        Err(broken())
    }
    async fn submit(&self, _: Vec<u8>) -> Result<(), AccessError> {
        Err(broken())
    }
    async fn receipt(&self, _: Digest) -> Result<Option<TransactionReceipt>, AccessError> {
        Err(broken())
    }
    async fn logs(&self, _: Vec<Address>, from: u64, to: u64) -> Result<Vec<RawLog>, AccessError> {
        let chain = self.0.lock().unwrap();
        let logs = chain.iter().flat_map(|(_, logs)| logs.clone());
        Ok(logs
            .filter(|log| (from..=to).contains(&log.block))
            .collect())
    }
    async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, AccessError> {
        let chain = self.0.lock().unwrap();
        let number = number.unwrap_or(chain.len() as u64 - 1);
        let at = |number: u64| {
            chain
                .get(usize::try_from(number).unwrap())
                .map(|(hash, _)| *hash)
        };
        Ok(at(number).map(|hash| BlockId {
            number,
            hash,
            parent: number.checked_sub(1).and_then(at).unwrap_or(Digest::ZERO),
            at: Timestamp::from_secs(number),
        }))
    }
    async fn code(&self, _: Address) -> Result<Vec<u8>, AccessError> {
        Err(broken())
    }
}

#[tokio::test]
async fn after_a_reorganisation_the_index_equals_that_of_a_fresh_reader() {
    let contracts = Contracts::of_deployer(who("deployer"));
    let chain = Rewritable::default();
    let mut indexer = Indexer::new(chain.clone(), contracts, Cursor::default(), 0);
    let mut known: BTreeMap<u64, ContractEvent> = BTreeMap::new();
    let mut rollbacks = Vec::new();
    chain.rewrite(0, 0, 0, &contracts);
    for (keep, fork, blocks) in [
        (0, 1, 10),
        (10, 1, 5),
        (12, 2, 6),
        (3, 3, 20),
        (22, 4, 1),
        (0, 5, 2),
    ] {
        chain.rewrite(keep, fork, blocks, &contracts);
        loop {
            let progress = indexer.step().await.expect("reads");
            if let Some(block) = progress.rolled_back_to {
                rollbacks.push(block);
                known.retain(|number, _| *number < block);
            }
            for indexed in progress.events {
                assert!(
                    known.insert(indexed.block, indexed.event).is_none(),
                    "an event is told once"
                );
            }
            if progress.at_head {
                break;
            }
        }
        let mut fresh = Indexer::new(chain.clone(), contracts, Cursor::default(), 0);
        let all = fresh.step().await.expect("reads").events;
        let all: BTreeMap<u64, ContractEvent> = all
            .into_iter()
            .map(|indexed| (indexed.block, indexed.event))
            .collect();
        assert_eq!(known, all);
    }
    assert_eq!(rollbacks.len(), 4, "{rollbacks:?}");
    // With confirmations the newest blocks are left alone.
    let mut careful = Indexer::new(chain.clone(), contracts, Cursor::default(), 1);
    assert_eq!(careful.step().await.expect("reads").events.len(), 1);
}

#[tokio::test]
async fn a_chain_replaced_deeper_than_is_remembered_is_read_again_from_the_beginning() {
    let contracts = Contracts::of_deployer(who("deployer"));
    let chain = Rewritable::default();
    chain.rewrite(0, 1, 400, &contracts);
    let mut indexer = Indexer::new(chain.clone(), contracts, Cursor::default(), 0);
    let first = indexer.step().await.expect("reads").events.len();
    assert_eq!(first, 400);
    chain.rewrite(0, 2, 300, &contracts);
    let again = indexer.step().await.expect("reads");
    assert_eq!(again.rolled_back_to, Some(0));
    assert_eq!(again.events.len(), 300);
    // A cursor that was kept and meets another chain does the same, from where it was told to begin.
    let kept = indexer.cursor().clone();
    chain.rewrite(0, 3, 500, &contracts);
    let mut indexer = Indexer::new(chain.clone(), contracts, kept, 0);
    assert_eq!(indexer.step().await.expect("reads").events.len(), 500);
}

#[tokio::test]
async fn events_out_of_order_or_from_other_blocks_are_refused_and_the_cursor_stays() {
    let contracts = Contracts::of_deployer(who("deployer"));
    for wrong in [
        |logs: &mut Vec<RawLog>| logs.reverse(),
        |logs: &mut Vec<RawLog>| logs.push(logs[1].clone()),
        |logs: &mut Vec<RawLog>| logs[2].block = 900,
    ] {
        let chain = Rewritable::default();
        chain.rewrite(0, 1, 10, &contracts);
        let mut evil = Indexer::new(
            Liar {
                inner: chain.clone(),
                wrong,
            },
            contracts,
            Cursor::default(),
            0,
        );
        let error = evil.step().await.expect_err("refused");
        assert!(matches!(error, AccessError::Malformed { .. }), "{error}");
        assert_eq!(evil.cursor(), &Cursor::default());
    }
}

/// A server that changes the events that it tells.
struct Liar {
    inner: Rewritable,
    wrong: fn(&mut Vec<RawLog>),
}

impl ChainAccess for Liar {
    async fn chain_id(&self) -> Result<u64, AccessError> {
        self.inner.chain_id().await
    }
    async fn call(&self, _: Address, _: Address, _: Vec<u8>) -> Result<Vec<u8>, AccessError> {
        Err(broken())
    }
    async fn estimate(
        &self,
        _: Address,
        _: Option<Address>,
        _: Vec<u8>,
    ) -> Result<u64, AccessError> {
        Err(broken())
    }
    async fn fees(&self) -> Result<Fees, AccessError> {
        Err(broken())
    }
    async fn balance(&self, _: Address) -> Result<u128, AccessError> {
        Err(broken())
    }
    async fn nonce(&self, _: Address, _: bool) -> Result<u64, AccessError> {
        Err(broken())
    }
    async fn submit(&self, _: Vec<u8>) -> Result<(), AccessError> {
        Err(broken())
    }
    async fn receipt(&self, _: Digest) -> Result<Option<TransactionReceipt>, AccessError> {
        Err(broken())
    }
    async fn logs(
        &self,
        addresses: Vec<Address>,
        from: u64,
        to: u64,
    ) -> Result<Vec<RawLog>, AccessError> {
        let mut logs = self.inner.logs(addresses, from, to).await?;
        (self.wrong)(&mut logs);
        Ok(logs)
    }
    async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, AccessError> {
        self.inner.block(number).await
    }
    async fn code(&self, _: Address) -> Result<Vec<u8>, AccessError> {
        Err(broken())
    }
}

#[tokio::test]
async fn a_transaction_whose_answer_was_lost_is_found_though_its_receipt_comes_late() {
    let network = network().await;
    let lagging = Faulty {
        inner: network.access(),
        faults: Arc::new(Mutex::new(VecDeque::from([
            Fault::AnswerLost,
            Fault::NonceUsed,
            Fault::NonceUsed,
        ]))),
        submitted: Arc::new(AtomicUsize::new(0)),
        receipts_hidden: Arc::new(AtomicUsize::new(3)),
    };
    let account = Account::new(sender(lagging, "late").await, network.contracts);
    account
        .mint_test_dollars(who("rich"), units(5))
        .await
        .expect("it was sent, once");
    let held = network.view().token_balance(who("rich")).await;
    assert_eq!(held.expect("readable"), units(5));
}

#[tokio::test]
async fn a_reader_whose_books_hold_the_older_events_of_the_vault_is_told_the_newer_ones_only() {
    let contracts = Contracts::of_deployer(who("deployer"));
    let chain = Rewritable::default();
    chain.rewrite(0, 1, 2_500, &contracts);
    let told = async |from: u64| {
        let indexer = Indexer::new(chain.clone(), contracts, Cursor::default(), 0);
        let mut indexer = indexer.vault_from(from);
        let mut blocks = Vec::new();
        loop {
            let progress = indexer.step().await.expect("reads");
            blocks.extend(progress.events.iter().map(|indexed| indexed.block));
            if progress.at_head {
                return (blocks, indexer);
            }
        }
    };
    assert_eq!(told(2_490).await.0, (2_490..=2_500).collect::<Vec<_>>());
    assert_eq!(told(1_000).await.0.len(), 1_501);
    // A chain that was replaced under it is told whole.
    let (_, mut indexer) = told(2_490).await;
    chain.rewrite(0, 2, 700, &contracts);
    assert_eq!(indexer.step().await.expect("reads").events.len(), 700);
}
