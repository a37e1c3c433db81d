//! What `kill -9` leaves behind. This file is its own program: with a folder as argument it is the victim.
#![allow(missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use alloy_primitives::{Address, B256, U256};
use common::*;
use stoa_evm::{Chain, LogFilter};

const VICTIM: &str = "STOA_CRASH_FOLDER";

fn main() {
    match std::env::var_os(VICTIM) {
        Some(folder) => send_until_killed(Path::new(&folder)),
        None => {
            acknowledged_transactions_survive_kill_and_blocks_are_whole();
            a_copy_taken_between_submit_and_commit_never_shows_half_a_block();
            println!("crash: 2 tests passed");
        }
    }
}

fn target(chain: &Chain) -> Address {
    Key::new(1).address().create(if chain.head().number == 0 {
        u64::MAX
    } else {
        0
    })
}

/// Sends one transaction after the other, several at a time, and prints each nonce once its receipt is there.
fn send_until_killed(folder: &Path) {
    let chain = open(folder);
    let target = if chain.head().number == 0 {
        deploy_box(&chain)
    } else {
        target(&chain)
    };
    let key = Key::new(1);
    let mut nonce = chain.nonce(key.address(), None).unwrap();
    let mut out = std::io::stdout();
    loop {
        let raws: Vec<_> = (nonce..nonce + 5)
            .map(|n| set_box(&chain, &key, n, target, n).raw)
            .collect();
        for pending in chain.submit_batch(&raws) {
            pending.unwrap().wait().unwrap();
            writeln!(out, "{nonce}").unwrap();
            out.flush().unwrap();
            nonce += 1;
        }
    }
}

/// Account, contract and receipts of a whole chain agree, whatever was interrupted.
fn assert_whole(chain: &Chain) -> u64 {
    let key = Key::new(1);
    let nonce = chain.nonce(key.address(), None).unwrap();
    let mut parent = B256::ZERO;
    let mut transactions = 0;
    for number in 0..=chain.head().number {
        let (header, hash) = chain.block(number).unwrap().expect("no block is missing");
        assert_eq!(header.parent_hash, parent);
        parent = hash;
        for receipt in chain.block_receipts(number).unwrap().unwrap() {
            assert_eq!(
                chain.receipt(receipt.transaction_hash).unwrap().unwrap(),
                receipt
            );
            assert!(
                chain
                    .transaction(receipt.transaction_hash)
                    .unwrap()
                    .is_some()
            );
            transactions += 1;
        }
    }
    assert_eq!(
        transactions, nonce,
        "each counted transaction has its receipt"
    );
    if nonce > 1 {
        let target = target(chain);
        assert_eq!(
            read_box(chain, target, None),
            U256::from(nonce - 1),
            "the contract holds the last value"
        );
        let filter = LogFilter {
            addresses: vec![target],
            ..LogFilter::default()
        };
        assert_eq!(chain.logs(&filter).unwrap().len() as u64, nonce - 1);
    }
    nonce
}

fn acknowledged_transactions_survive_kill_and_blocks_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    for round in 0..4u32 {
        let mut victim = Command::new(&program)
            .env(VICTIM, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut last = 0;
        for _ in 0..7 + 13 * round {
            last = lines
                .next()
                .expect("the victim runs until it is killed")
                .unwrap()
                .parse()
                .unwrap();
        }
        // SIGKILL, at whatever the sealer is doing.
        victim.kill().unwrap();
        victim.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            last = line.parse().unwrap_or(last);
        }
        let chain = open(folder.path());
        let nonce = assert_whole(&chain);
        assert!(
            nonce > last,
            "receipt of nonce {last} was given out, the chain knows only {nonce}"
        );
    }
}

fn a_copy_taken_between_submit_and_commit_never_shows_half_a_block() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let target = deploy_box(&chain);
    let raws: Vec<_> = (1..400)
        .map(|n| set_box(&chain, &Key::new(1), n, target, n).raw)
        .collect();
    let waiting: Vec<_> = chain
        .submit_batch(&raws)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(
            folder.path().join("chain.redb"),
            copy.path().join("chain.redb"),
        )
        .unwrap();
        // A copy taken while pages are written may be refused as damaged; it may not open with half a block.
        if let Ok(copied) = Chain::open(copy.path().join("chain.redb"), config().0) {
            seen.push(assert_whole(&copied));
        }
    }
    for pending in waiting {
        assert!(pending.wait().unwrap().success);
    }
    assert_eq!(assert_whole(&chain), 400);
    assert!(seen.is_sorted() && !seen.is_empty(), "{seen:?}");
}
