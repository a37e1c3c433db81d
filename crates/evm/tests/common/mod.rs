//! What the tests share: keys, a small contract, a fresh chain.
#![allow(dead_code, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use secp256k1::{Message, SECP256K1, SecretKey};
use stoa_evm::tx::{SignedTransaction, Transaction};
use stoa_evm::{Allocation, Chain, ChainConfig, Genesis, ManualClock};

/// A contract that keeps one word. Without call data it returns it; with a word it keeps that and emits it under
/// topic 1; with 0xdead it reverts with that word as data.
pub const BOX: &str = "36600f57600054600052602060\
                       00f35b600035\
                       8061dead14602a5780600055600052600160206000a1005b60005260206000fd";

/// Init code that deploys the given runtime code.
pub fn init_code(runtime: &str) -> Bytes {
    let runtime = hex::decode(runtime).expect("the test's own hex");
    let size = u8::try_from(runtime.len()).expect("the test contracts are small");
    let mut code = vec![
        0x60, size, 0x80, 0x60, 0x0b, 0x60, 0x00, 0x39, 0x60, 0x00, 0xf3,
    ];
    code.extend(runtime);
    code.into()
}

pub struct Key(SecretKey);

impl Key {
    pub fn new(seed: u8) -> Self {
        Self(SecretKey::from_byte_array([seed; 32]).expect("a small number is a valid key"))
    }

    pub fn address(&self) -> Address {
        let public = self.0.public_key(SECP256K1).serialize_uncompressed();
        Address::from_slice(&keccak256(&public[1..])[12..])
    }

    pub fn sign(&self, transaction: Transaction) -> SignedTransaction {
        let (parity, r, s) = self.sign_digest(transaction.signing_hash());
        transaction.into_signed(parity, r, s)
    }

    pub fn sign_digest(&self, digest: B256) -> (bool, U256, U256) {
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.0);
        let (id, compact) = signature.serialize_compact();
        let half = |range| U256::from_be_slice(&compact[range]);
        (i32::from(id) == 1, half(0..32), half(32..64))
    }
}

pub const START: u64 = 1_800_000_000;

pub fn genesis() -> Genesis {
    let allocations = (1..=3).map(|seed| Allocation {
        address: Key::new(seed).address(),
        balance: U256::from(1_000_000),
    });
    Genesis {
        timestamp: START,
        salt: B256::ZERO,
        allocations: allocations.collect(),
    }
}

pub fn config() -> (ChainConfig, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(START));
    let config = ChainConfig {
        genesis: Some(genesis()),
        seal_window: Duration::ZERO,
        clock: clock.clone(),
        ..ChainConfig::default()
    };
    (config, clock)
}

pub fn open(folder: &Path) -> Chain {
    Chain::open(folder.join("chain.redb"), config().0).expect("the chain opens")
}

/// Deploys the box from key 1 at nonce 0.
pub fn deploy_box(chain: &Chain) -> Address {
    let create = Transaction::create(chain.chain_id(), 0, init_code(BOX), 500_000);
    let receipt = chain
        .submit_and_wait(&Key::new(1).sign(create).raw)
        .expect("the deployment is taken");
    assert!(receipt.success);
    receipt
        .contract_address
        .expect("a creation names its address")
}

pub fn word(value: u64) -> Bytes {
    B256::from(U256::from(value)).to_vec().into()
}

/// A signed call of the box.
pub fn set_box(
    chain: &Chain,
    key: &Key,
    nonce: u64,
    target: Address,
    value: u64,
) -> SignedTransaction {
    key.sign(Transaction::call(
        chain.chain_id(),
        nonce,
        target,
        word(value),
        100_000,
    ))
}

pub fn read_box(chain: &Chain, target: Address, block: Option<u64>) -> U256 {
    let output = chain
        .call(Address::ZERO, target, Bytes::new(), block)
        .expect("the call succeeds");
    U256::from_be_slice(&output)
}
