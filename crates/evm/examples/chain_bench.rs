//! Durable speed of the chain beside that of the bare disk, in one run.
//!
//! `cargo run --release -p stoa-evm --example chain_bench [FOLDER]`
//!
//! Measured: signed transactions per second in blocks of 1,000 (signature check, execution, receipts, log index,
//! commit), the time from submit to receipt at one transaction per block, and for each the loop that only appends
//! the same number of bytes to a file and calls `fdatasync`.
#![allow(missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bytes, U256};
use common::Key;
use stoa_evm::tx::Transaction;
use stoa_evm::{Allocation, Chain, ChainConfig, Genesis};

const BLOCKS: usize = 12;
const PER_BLOCK: usize = 1_000;
const SINGLES: u64 = 200;
const SENDERS: u8 = 20;

fn main() {
    let folder = tempfile::tempdir_in(
        std::env::args()
            .nth(1)
            .map_or_else(std::env::temp_dir, PathBuf::from),
    )
    .expect("a folder for the file");
    // The window lets a whole batch into one block; it counts in the time.
    let window = Duration::from_millis(5);
    let chain =
        Chain::open(folder.path().join("blocks.redb"), config(window)).expect("the chain opens");

    let batches = signed_batches(chain.chain_id());
    let bytes: usize = batches.iter().flatten().map(|raw| raw.len()).sum();
    let (mut sealing, mut appending) = (Vec::new(), Vec::new());
    let mut log = log_file(folder.path());
    // Alternating, so that a busy moment of the machine meets both.
    for batch in &batches {
        appending.push(append(&mut log, &batch.concat()));
        let started = Instant::now();
        for pending in chain.submit_batch(batch) {
            assert!(pending.expect("taken").wait().expect("sealed").success);
        }
        sealing.push(started.elapsed());
    }
    let (sealing, appending) = (median(sealing), median(appending));
    let per_second = PER_BLOCK as f64 / sealing.as_secs_f64();
    println!(
        "transactions             {} of {} bytes on average",
        BLOCKS * PER_BLOCK,
        bytes / (BLOCKS * PER_BLOCK)
    );
    println!("blocks sealed            {}", chain.head().number);
    println!(
        "signed tx/s, durable     {per_second:.0}   (1,000 per block: {:.1} ms)",
        millis(sealing)
    );
    println!(
        "raw append + fdatasync   {:.2} ms per 1,000",
        millis(appending)
    );
    println!(
        "ratio                    {:.1}",
        sealing.as_secs_f64() / appending.as_secs_f64()
    );

    let chain = Chain::open(folder.path().join("singles.redb"), config(Duration::ZERO))
        .expect("the chain opens");
    let key = Key::new(1);
    let nonce = chain.nonce(key.address(), None).expect("readable");
    let (mut receipts, mut syncs) = (Vec::new(), Vec::new());
    for nonce in nonce..nonce + SINGLES {
        let raw = transfer(&key, chain.chain_id(), nonce);
        syncs.push(append(&mut log, &raw));
        let started = Instant::now();
        chain.submit_and_wait(&raw).expect("sealed");
        receipts.push(started.elapsed());
    }
    let (receipt, sync) = (median(receipts), median(syncs));
    println!(
        "receipt latency          {:.2} ms (median, 1 per block)",
        millis(receipt)
    );
    println!("raw append + fdatasync   {:.2} ms (median)", millis(sync));
    println!(
        "ratio                    {:.1}",
        receipt.as_secs_f64() / sync.as_secs_f64()
    );
}

fn config(seal_window: Duration) -> ChainConfig {
    let allocations = (1..=SENDERS).map(|seed| Allocation {
        address: Key::new(seed).address(),
        balance: U256::from(u64::MAX),
    });
    ChainConfig {
        genesis: Some(Genesis {
            timestamp: 0,
            salt: B256::ZERO,
            allocations: allocations.collect(),
        }),
        seal_window,
        ..ChainConfig::default()
    }
}

fn transfer(key: &Key, chain_id: u64, nonce: u64) -> Bytes {
    // A fresh receiver each time: the dearer case for the store.
    let to = Address::from_word(alloy_primitives::keccak256(
        [key.address().as_slice(), &nonce.to_be_bytes()].concat(),
    ));
    let mut body = Transaction::call(chain_id, nonce, to, Bytes::new(), 21_000);
    body.value = U256::from(1);
    key.sign(body).raw
}

fn signed_batches(chain_id: u64) -> Vec<Vec<Bytes>> {
    let keys: Vec<Key> = (1..=SENDERS).map(Key::new).collect();
    let each = PER_BLOCK as u64 / u64::from(SENDERS);
    (0..BLOCKS as u64)
        .map(|block| {
            let of_key = |key| (0..each).map(move |n| transfer(key, chain_id, block * each + n));
            keys.iter().flat_map(of_key).collect()
        })
        .collect()
}

fn log_file(folder: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("raw.log"))
        .expect("a file to append to")
}

fn append(log: &mut File, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    log.write_all(bytes).expect("written");
    log.sync_data().expect("synced");
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
