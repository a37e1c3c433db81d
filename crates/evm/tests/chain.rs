//! The chain by its library interface.

mod common;

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use common::*;
use stoa_evm::tx::{Authorization, SignedAuthorization, Transaction, TransactionType};
use stoa_evm::{
    CallError, CallRequest, Chain, ChainConfig, ChainError, DecodeError, Genesis, LogFilter,
    LogsError, SubmitError, TX_GAS_LIMIT_CAP,
};

#[test]
fn a_contract_is_deployed_called_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let target = deploy_box(&chain);
    assert_eq!(read_box(&chain, target, None), U256::ZERO);
    let receipt = chain
        .submit_and_wait(&set_box(&chain, &Key::new(1), 1, target, 42).raw)
        .unwrap();
    assert!(receipt.success);
    assert_eq!((receipt.block_number, receipt.logs.len()), (2, 1));
    assert_eq!(read_box(&chain, target, None), U256::from(42));
    assert_eq!(
        chain.receipt(receipt.transaction_hash).unwrap().unwrap(),
        receipt
    );
    assert_eq!(chain.head().number, 2);
    assert_eq!(chain.nonce(Key::new(1).address(), None).unwrap(), 2);
}

#[test]
fn after_a_restart_every_call_answers_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |chain: &Chain, target: Address| {
        let filter = LogFilter {
            addresses: vec![target],
            ..LogFilter::default()
        };
        (
            chain.head(),
            read_box(chain, target, None),
            chain.code(target, None).unwrap(),
            chain.balance(Key::new(2).address(), None).unwrap(),
            chain.logs(&filter).unwrap(),
            (0..=chain.head().number)
                .map(|n| chain.block(n).unwrap())
                .collect::<Vec<_>>(),
            (0..=chain.head().number)
                .map(|n| chain.block_receipts(n).unwrap())
                .collect::<Vec<_>>(),
        )
    };
    let (target, before) = {
        let chain = open(folder.path());
        let target = deploy_box(&chain);
        for nonce in 1..5 {
            chain
                .submit_and_wait(&set_box(&chain, &Key::new(1), nonce, target, nonce * 7).raw)
                .unwrap();
        }
        chain.set_label("contracts", b"box").unwrap();
        (target, ask(&chain, target))
    };
    let chain = open(folder.path());
    assert_eq!(ask(&chain, target), before);
    assert!(!before.2.is_empty(), "code must survive");
    assert_eq!(chain.label("contracts").unwrap().unwrap(), b"box");
    // And it goes on from there.
    assert!(
        chain
            .submit_and_wait(&set_box(&chain, &Key::new(1), 5, target, 1).raw)
            .unwrap()
            .success
    );
}

#[test]
fn past_states_can_be_called_until_they_are_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let config = ChainConfig {
        history_blocks: 5,
        ..config().0
    };
    let chain = Chain::open(folder.path().join("c"), config).unwrap();
    let target = deploy_box(&chain);
    for nonce in 1..10u64 {
        // Values go up and back to zero, so that removed slots are undone too.
        let value = if nonce % 3 == 0 { 0 } else { nonce };
        chain
            .submit_and_wait(&set_box(&chain, &Key::new(1), nonce, target, value).raw)
            .unwrap();
    }
    assert_eq!(chain.head().number, 10);
    for block in 5..=10u64 {
        let nonce = block - 1;
        let value = if nonce % 3 == 0 { 0 } else { nonce };
        assert_eq!(
            read_box(&chain, target, Some(block)),
            U256::from(value),
            "block {block}"
        );
        assert_eq!(
            chain.nonce(Key::new(1).address(), Some(block)).unwrap(),
            block
        );
    }
    let pruned = chain
        .call(Address::ZERO, target, Bytes::new(), Some(4))
        .unwrap_err();
    assert!(
        matches!(
            pruned,
            CallError::Pruned {
                asked: 4,
                oldest: 5
            }
        ),
        "{pruned}"
    );
    let future = chain
        .call(Address::ZERO, target, Bytes::new(), Some(11))
        .unwrap_err();
    assert!(
        matches!(
            future,
            CallError::UnknownBlock {
                asked: 11,
                head: 10
            }
        ),
        "{future}"
    );
}

#[test]
fn a_revert_changes_nothing_and_carries_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let target = deploy_box(&chain);
    let error = chain
        .call(Address::ZERO, target, word(0xdead), None)
        .unwrap_err();
    let CallError::Revert { data } = error else {
        panic!("{error}")
    };
    assert_eq!(data, word(0xdead));
    let receipt = chain
        .submit_and_wait(&set_box(&chain, &Key::new(1), 1, target, 0xdead).raw)
        .unwrap();
    assert!(!receipt.success);
    assert_eq!(receipt.revert_data, word(0xdead));
    assert!(receipt.logs.is_empty());
    assert_eq!(read_box(&chain, target, None), U256::ZERO);
    assert_eq!(chain.nonce(Key::new(1).address(), None).unwrap(), 2);
}

#[test]
fn wrong_nonces_are_refused_and_gaps_wait_for_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let target = deploy_box(&chain);
    let key = Key::new(1);
    let low = chain
        .submit(&set_box(&chain, &key, 0, target, 9).raw)
        .unwrap_err();
    assert!(
        matches!(
            low,
            SubmitError::NonceTooLow {
                expected: 1,
                got: 0
            }
        ),
        "{low}"
    );
    // 3 and 2 wait for 1; then all three are sealed in order.
    let three = chain
        .submit(&set_box(&chain, &key, 3, target, 33).raw)
        .unwrap();
    let two = chain
        .submit(&set_box(&chain, &key, 2, target, 22).raw)
        .unwrap();
    assert!(!three.ready && !two.ready);
    let taken = chain
        .submit(&set_box(&chain, &key, 3, target, 44).raw)
        .unwrap_err();
    assert!(
        matches!(taken, SubmitError::Replacement { nonce: 3, .. }),
        "{taken}"
    );
    let again = chain
        .submit(&set_box(&chain, &key, 3, target, 33).raw)
        .unwrap_err();
    assert!(matches!(again, SubmitError::AlreadyKnown(_)), "{again}");
    chain
        .submit_and_wait(&set_box(&chain, &key, 1, target, 11).raw)
        .unwrap();
    assert!(two.wait().unwrap().success);
    assert!(three.wait().unwrap().success);
    assert_eq!(read_box(&chain, target, None), U256::from(33));
    let known = chain
        .submit(&set_box(&chain, &key, 3, target, 33).raw)
        .unwrap_err();
    assert!(matches!(known, SubmitError::AlreadyKnown(_)), "{known}");
    let far = chain
        .submit(&set_box(&chain, &key, 5_000, target, 1).raw)
        .unwrap_err();
    assert!(
        matches!(
            far,
            SubmitError::NonceGap {
                expected: 4,
                got: 5_000
            }
        ),
        "{far}"
    );
}

#[test]
fn a_gap_that_is_never_filled_is_refused_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let config = ChainConfig {
        nonce_gap_wait: Duration::from_millis(50),
        ..config().0
    };
    let chain = Chain::open(folder.path().join("c"), config).unwrap();
    let pending = chain
        .submit(&set_box(&chain, &Key::new(1), 2, Address::ZERO, 1).raw)
        .unwrap();
    let error = pending.wait().unwrap_err();
    assert!(
        matches!(
            error,
            SubmitError::NonceGap {
                expected: 0,
                got: 2
            }
        ),
        "{error}"
    );
}

#[test]
fn transactions_for_other_chains_with_too_much_gas_or_without_funds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let key = Key::new(1);
    let base = Transaction::call(chain.chain_id(), 0, Address::ZERO, Bytes::new(), 21_000);
    let refuse = |transaction: Transaction| chain.submit(&key.sign(transaction).raw).unwrap_err();

    let other = refuse(Transaction {
        chain_id: 1,
        ..base.clone()
    });
    assert!(
        matches!(other, SubmitError::WrongChain { got: 1, .. }),
        "{other}"
    );
    let gas = refuse(Transaction {
        gas_limit: (1 << 24) + 1,
        ..base.clone()
    });
    assert!(matches!(gas, SubmitError::GasLimit { .. }), "{gas}");
    let funds = refuse(Transaction {
        value: U256::from(1_000_001),
        ..base.clone()
    });
    assert!(matches!(funds, SubmitError::Funds { .. }), "{funds}");
    let too_little = chain
        .submit_and_wait(
            &key.sign(Transaction {
                gas_limit: 20_999,
                ..base.clone()
            })
            .raw,
        )
        .unwrap_err();
    assert!(
        matches!(too_little, SubmitError::Invalid(_)),
        "{too_little}"
    );
    // None of them used the nonce.
    assert!(chain.submit_and_wait(&key.sign(base).raw).unwrap().success);
}

#[test]
fn all_four_transaction_types_run() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let target = deploy_box(&chain);
    let key = Key::new(1);
    let authority = Key::new(3);
    let authorization = Authorization {
        chain_id: U256::from(chain.chain_id()),
        address: target,
        nonce: 0,
    };
    let signed = authority.sign_digest(authorization.signature_hash());
    let kinds = [
        TransactionType::Legacy,
        TransactionType::AccessList,
        TransactionType::DynamicFee,
        TransactionType::SetCode,
    ];
    for (nonce, kind) in (1..).zip(kinds) {
        let mut transaction = Transaction {
            kind,
            value: U256::from(1),
            ..Transaction::call(
                chain.chain_id(),
                nonce,
                Key::new(2).address(),
                Bytes::new(),
                100_000,
            )
        };
        if kind == TransactionType::SetCode {
            let (parity, r, s) = signed;
            transaction.authorization_list = vec![SignedAuthorization::new_unchecked(
                authorization.clone(),
                parity.into(),
                r,
                s,
            )];
        }
        let signed = key.sign(transaction);
        let receipt = chain.submit_and_wait(&signed.raw).unwrap();
        assert!(receipt.success, "{kind:?}");
        assert_eq!(receipt.kind, kind as u8);
        assert_eq!(
            chain
                .transaction(receipt.transaction_hash)
                .unwrap()
                .unwrap()
                .signed,
            signed
        );
    }
    assert_eq!(
        chain.balance(Key::new(2).address(), None).unwrap(),
        U256::from(1_000_004)
    );
    // The authority now runs the box's code on its own storage, also after a restart.
    let code = chain.code(authority.address(), None).unwrap();
    assert_eq!(&code[..3], &[0xef, 0x01, 0x00]);
    drop(chain);
    let chain = open(folder.path());
    assert_eq!(chain.code(authority.address(), None).unwrap(), code);
    chain
        .submit_and_wait(&set_box(&chain, &key, 5, authority.address(), 77).raw)
        .unwrap();
    assert_eq!(read_box(&chain, authority.address(), None), U256::from(77));
    assert_eq!(read_box(&chain, target, None), U256::ZERO);
}

#[test]
fn logs_are_found_by_address_topic_and_range() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let target = deploy_box(&chain);
    let key = Key::new(1);
    let raws: Vec<Bytes> = (1..=6)
        .map(|n| set_box(&chain, &key, n, target, n * 10).raw)
        .collect();
    for pending in chain.submit_batch(&raws) {
        pending.unwrap().wait().unwrap();
    }
    let topic = B256::from(U256::from(1));
    let all = chain.logs(&LogFilter::default()).unwrap();
    assert_eq!(all.len(), 6);
    let values: Vec<U256> = all
        .iter()
        .map(|entry| U256::from_be_slice(&entry.log.data.data))
        .collect();
    assert_eq!(
        values,
        (1..=6).map(|n| U256::from(n * 10)).collect::<Vec<_>>()
    );
    let by = |addresses: Vec<Address>, topics: Vec<Vec<B256>>, from: u64, to: Option<u64>| {
        chain
            .logs(&LogFilter {
                from_block: from,
                to_block: to,
                addresses,
                topics,
            })
            .unwrap()
            .len()
    };
    assert_eq!(by(vec![target], vec![], 0, None), 6);
    assert_eq!(by(vec![target], vec![vec![topic]], 0, None), 6);
    assert_eq!(by(vec![target], vec![vec![B256::ZERO, topic]], 0, None), 6);
    assert_eq!(by(vec![target], vec![vec![B256::ZERO]], 0, None), 0);
    assert_eq!(by(vec![target], vec![vec![], vec![topic]], 0, None), 0);
    assert_eq!(by(vec![Address::ZERO], vec![], 0, None), 0);
    assert_eq!(by(vec![Address::ZERO, target], vec![], 0, None), 6);
    assert_eq!(by(vec![target], vec![], 0, Some(1)), 0);
    assert_eq!(by(vec![target], vec![], chain.head().number + 1, None), 0);
    let block = all[3].block_number;
    assert_eq!(
        by(vec![target], vec![], block, Some(block)),
        all.iter()
            .filter(|entry| entry.block_number == block)
            .count()
    );
    assert!(
        chain
            .logs(&LogFilter {
                from_block: 3,
                to_block: Some(2),
                ..LogFilter::default()
            })
            .is_err()
    );
}

#[test]
fn many_transactions_share_blocks_and_all_get_their_own_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let config = ChainConfig {
        seal_window: Duration::from_millis(5),
        ..config().0
    };
    let chain = Chain::open(folder.path().join("c"), config).unwrap();
    let target = deploy_box(&chain);
    let mut raws: Vec<Bytes> = (1..200)
        .map(|n| set_box(&chain, &Key::new(1), n, target, n).raw)
        .collect();
    raws.extend((0..200).map(|n| set_box(&chain, &Key::new(2), n, target, 1_000 + n).raw));
    let receipts: Vec<_> = chain
        .submit_batch(&raws)
        .into_iter()
        .map(|pending| pending.unwrap().wait().unwrap())
        .collect();
    for (raw, receipt) in raws.iter().zip(&receipts) {
        assert_eq!(receipt.transaction_hash, alloy_primitives::keccak256(raw));
        assert!(receipt.success);
    }
    assert!(
        chain.head().number < 40,
        "{} blocks for 399 transactions",
        chain.head().number
    );
    let mut total = 0;
    for number in 1..=chain.head().number {
        let (header, hash) = chain.block(number).unwrap().unwrap();
        let receipts = chain.block_receipts(number).unwrap().unwrap();
        assert_eq!(
            header.gas_used,
            receipts.iter().map(|receipt| receipt.gas_used).sum::<u64>()
        );
        assert_eq!(
            header.parent_hash,
            chain.block(number - 1).unwrap().unwrap().1
        );
        assert_eq!(hash, header.hash());
        total += receipts.len();
    }
    assert_eq!(total, 400);
}

#[test]
fn a_full_block_leaves_the_rest_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let config = ChainConfig {
        block_gas_limit: 700_000,
        ..config().0
    };
    let chain = Chain::open(folder.path().join("c"), config).unwrap();
    let target = deploy_box(&chain);
    let raws: Vec<Bytes> = (1..40)
        .map(|n| set_box(&chain, &Key::new(1), n, target, n).raw)
        .collect();
    for pending in chain.submit_batch(&raws) {
        assert!(pending.unwrap().wait().unwrap().success);
    }
    for number in 1..=chain.head().number {
        assert!(chain.block(number).unwrap().unwrap().0.gas_used <= 700_000);
    }
    assert_eq!(read_box(&chain, target, None), U256::from(39));
}

#[test]
fn block_time_follows_the_clock_and_never_falls() {
    let folder = tempfile::tempdir().unwrap();
    let (config, clock) = config();
    let chain = Chain::open(folder.path().join("c"), config).unwrap();
    let send = |nonce| {
        let transaction =
            Transaction::call(chain.chain_id(), nonce, Address::ZERO, Bytes::new(), 21_000);
        chain
            .submit_and_wait(&Key::new(1).sign(transaction).raw)
            .unwrap()
            .timestamp
    };
    assert_eq!(send(0), START);
    clock.advance(86_400);
    assert_eq!(send(1), START + 86_400);
    clock.set(5);
    assert_eq!(send(2), START + 86_400);
    // A call without a block runs at the clock's time, not at that of the last transaction.
    clock.set(START + 90_000);
    // TIMESTAMP PUSH1 0 MSTORE PUSH1 32 PUSH1 0 RETURN as init code: the "created code" is the time.
    let now = CallRequest {
        input: hex::decode("4260005260206000f3").unwrap().into(),
        ..CallRequest::default()
    };
    let read = |block| U256::from_be_slice(&chain.run_call(&now, block).unwrap().output);
    assert_eq!(read(None), U256::from(START + 90_000));
    assert_eq!(read(Some(1)), U256::from(START));
}

#[test]
fn the_estimate_is_enough_and_one_less_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let target = deploy_box(&chain);
    let request = CallRequest {
        to: Some(target),
        input: word(5),
        ..CallRequest::default()
    };
    let gas = chain.estimate_gas(&request, None).unwrap();
    let run = |gas: u64| {
        chain.run_call(
            &CallRequest {
                gas: Some(gas),
                ..request.clone()
            },
            None,
        )
    };
    assert!(run(gas).is_ok());
    assert!(run(gas - 1).is_err());
    let reverting = CallRequest {
        input: word(0xdead),
        ..request
    };
    assert!(matches!(
        chain.estimate_gas(&reverting, None),
        Err(CallError::Revert { .. })
    ));
}

#[test]
fn calls_from_a_contract_and_with_value_are_possible() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let target = deploy_box(&chain);
    assert!(chain.call(target, target, Bytes::new(), None).is_ok());
    let rich = CallRequest {
        from: Key::new(2).address(),
        to: Some(Key::new(3).address()),
        value: U256::from(1_000_000),
        ..CallRequest::default()
    };
    assert!(chain.run_call(&rich, None).is_ok());
    let poor = CallRequest {
        value: U256::from(1_000_001),
        ..rich
    };
    assert!(matches!(
        chain.run_call(&poor, None),
        Err(CallError::Invalid(_))
    ));
}

#[test]
fn a_destroyed_account_is_gone_and_its_past_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    // Init code that stores 1 in slot 0 and destroys itself towards address 0: it never becomes a contract.
    let code: Bytes = hex::decode("60016000556000ff").unwrap().into();
    let create = Transaction::create(chain.chain_id(), 0, code, 200_000);
    let receipt = chain
        .submit_and_wait(&Key::new(1).sign(create).raw)
        .unwrap();
    assert!(receipt.success);
    let gone = receipt.contract_address.unwrap();
    assert_eq!(chain.nonce(gone, None).unwrap(), 0);
    assert_eq!(
        chain.storage_at(gone, U256::ZERO, None).unwrap(),
        U256::ZERO
    );
}

#[test]
fn chains_with_different_genesis_have_different_ids_and_files_do_not_mix() {
    let base = genesis();
    let later = Genesis {
        timestamp: START + 1,
        ..base.clone()
    };
    let salted = Genesis {
        salt: B256::repeat_byte(1),
        ..base.clone()
    };
    let mut richer = base.clone();
    richer.allocations[0].balance += U256::from(1);
    let ids = [&base, &later, &salted, &richer].map(|genesis| genesis.chain_id());
    for (position, id) in ids.iter().enumerate() {
        assert!((1 << 31..1 << 32).contains(id));
        assert!(!ids[..position].contains(id));
    }
    let mut shuffled = base.clone();
    shuffled.allocations.reverse();
    assert_eq!(shuffled.chain_id(), base.chain_id());

    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let other = ChainConfig {
        genesis: Some(later),
        ..config().0
    };
    let error = Chain::open(folder.path().join("chain.redb"), other)
        .err()
        .unwrap();
    assert!(matches!(error, ChainError::OtherChain { .. }), "{error}");
    // Without a genesis an existing chain opens as it is.
    let as_is = ChainConfig {
        genesis: None,
        ..config().0
    };
    let chain = Chain::open(folder.path().join("chain.redb"), as_is).unwrap();
    assert_eq!(chain.chain_id(), ids[0]);
}

#[test]
fn locked_missing_foreign_and_damaged_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.redb");
    let open = || {
        Chain::open(&path, config().0)
            .err()
            .map(|error| error.to_string())
    };

    let missing = Chain::open(
        &path,
        ChainConfig {
            genesis: None,
            ..config().0
        },
    )
    .err()
    .unwrap();
    assert!(matches!(missing, ChainError::Missing { .. }), "{missing}");
    assert!(!path.exists());

    let chain = common::open(folder.path());
    deploy_box(&chain);
    let locked = Chain::open(&path, config().0).err().unwrap();
    assert!(matches!(locked, ChainError::Locked { .. }), "{locked}");
    drop(chain);
    assert_eq!(open(), None);

    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, b"a letter to my aunt, and certainly not a database").unwrap();
    let foreign = Chain::open(&path, config().0).err().unwrap();
    assert!(
        matches!(
            foreign,
            ChainError::Foreign { .. } | ChainError::Damaged { .. }
        ),
        "{foreign}"
    );
    assert_eq!(
        std::fs::read(&path).unwrap().len(),
        49,
        "a foreign file is left as it is"
    );

    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(open().is_some(), "half a file must not open");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    // Every page is checked at this size: whatever this bit belongs to, it opens whole or not at all.
    for at in [4_096, 8_192 + 100, middle, middle + 4_097] {
        flipped.copy_from_slice(&good);
        flipped[at] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        if open().is_none() {
            let chain = common::open(folder.path());
            assert_eq!(chain.head().number, 1);
            assert!(chain.block_receipts(1).unwrap().unwrap()[0].success);
        }
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(open(), None);

    let other = folder.path().join("other.redb");
    drop(redb::Database::create(&other).unwrap());
    let foreign = Chain::open(&other, config().0).err().unwrap();
    assert!(matches!(foreign, ChainError::Foreign { .. }), "{foreign}");
}

#[test]
fn closing_seals_what_is_ready_and_refuses_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let config = ChainConfig {
        seal_window: Duration::from_millis(20),
        ..config().0
    };
    let chain = Arc::new(Chain::open(folder.path().join("c"), config).unwrap());
    let ready = chain
        .submit(&set_box(&chain, &Key::new(1), 0, Address::ZERO, 1).raw)
        .unwrap();
    let behind_a_gap = chain
        .submit(&set_box(&chain, &Key::new(2), 1, Address::ZERO, 1).raw)
        .unwrap();
    chain.close();
    assert!(ready.wait().is_ok());
    assert!(matches!(behind_a_gap.wait(), Err(SubmitError::Closed)));
    let late = chain
        .submit(&set_box(&chain, &Key::new(1), 1, Address::ZERO, 1).raw)
        .unwrap_err();
    assert!(matches!(late, SubmitError::Closed));
    assert_eq!(chain.head().number, 1, "questions are still answered");
}

#[test]
fn malformed_transactions_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let good = set_box(&chain, &Key::new(1), 0, Address::ZERO, 1);
    let refuse = |raw: &[u8]| match chain.submit(raw) {
        Err(SubmitError::Decode(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refuse(&[]), DecodeError::Empty);
    assert_eq!(refuse(&[0x03, 0xc0]), DecodeError::UnsupportedType(3));
    assert_eq!(refuse(&[0x7f]), DecodeError::UnsupportedType(0x7f));
    assert!(matches!(
        refuse(&good.raw[..good.raw.len() - 1]),
        DecodeError::Rlp(_)
    ));
    let mut longer = good.raw.to_vec();
    longer.push(0);
    assert_eq!(refuse(&longer), DecodeError::NotCanonical);
    assert!(matches!(
        refuse(&vec![2; 200_000]),
        DecodeError::TooLarge { .. }
    ));
    // The other signature of the same transaction, with s in the upper half, is refused.
    let order = U256::from_str_radix(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        16,
    )
    .unwrap();
    let twin = good
        .body
        .clone()
        .into_signed(!good.y_parity, good.r, order - good.s);
    assert!(matches!(refuse(&twin.raw), DecodeError::Signature(_)));
    let nobody = good.body.clone().into_signed(false, U256::ZERO, U256::ZERO);
    assert!(matches!(refuse(&nobody.raw), DecodeError::Signature(_)));
    // An empty creation is valid bytes of a legacy transaction without chain id.
    let unprotected = hex::decode("c9808080808080 1b0101".replace(' ', "")).unwrap();
    assert_eq!(refuse(&unprotected), DecodeError::Unprotected);
    assert_eq!(
        Transaction::create(1, 0, Bytes::new(), 1).to,
        TxKind::Create
    );
}

#[test]
fn what_does_not_fit_into_a_block_is_never_overtaken_by_the_next_of_its_sender() {
    let folder = tempfile::tempdir().unwrap();
    let config = ChainConfig {
        block_gas_limit: 700_000,
        seal_window: Duration::from_millis(100),
        ..config().0
    };
    let chain = Chain::open(folder.path().join("c"), config).unwrap();
    let target = deploy_box(&chain);
    let raw = |nonce, gas| {
        let call = Transaction::call(chain.chain_id(), nonce, target, word(nonce), gas);
        Key::new(1).sign(call).raw
    };
    // After the first there is no room for 690,000, but for 100,000 there is.
    let raws = [raw(1, 100_000), raw(2, 690_000), raw(3, 100_000)];
    let other = set_box(&chain, &Key::new(2), 0, target, 9).raw;
    let pending = chain.submit_batch(&[&raws[..], &[other]].concat());
    let receipts: Vec<_> = pending
        .into_iter()
        .map(|pending| pending.unwrap().wait().unwrap())
        .collect();
    assert!(receipts.iter().all(|receipt| receipt.success));
    let blocks: Vec<u64> = receipts
        .iter()
        .map(|receipt| receipt.block_number)
        .collect();
    assert_eq!(
        blocks,
        [2, 3, 3, 2],
        "another sender's may use the room that is left"
    );
}

#[test]
fn a_gap_runs_out_also_while_others_send_without_pause() {
    let folder = tempfile::tempdir().unwrap();
    let config = ChainConfig {
        nonce_gap_wait: Duration::from_millis(50),
        seal_window: Duration::from_millis(5),
        block_transactions_max: 2,
        ..config().0
    };
    let chain = Chain::open(folder.path().join("c"), config).unwrap();
    let waits = chain
        .submit(&set_box(&chain, &Key::new(1), 2, Address::ZERO, 1).raw)
        .unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut nonce = 0;
            let mut send = || {
                nonce += 1;
                let raw = set_box(&chain, &Key::new(2), nonce - 1, Address::ZERO, 1).raw;
                chain.submit(&raw).unwrap()
            };
            // More than fits into a block, at any time: whenever one is sealed, the next is due.
            let mut waiting: std::collections::VecDeque<_> = (0..12).map(|_| send()).collect();
            while !done.load(std::sync::atomic::Ordering::SeqCst) && chain.head().number < 1_000 {
                waiting.pop_front().unwrap().wait().unwrap();
                waiting.push_back(send());
            }
        });
        let error = waits.wait().unwrap_err();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(error, SubmitError::NonceGap { .. }), "{error}");
    });
    assert!(chain.head().number < 1_000, "the load outlived the gap");
}

#[test]
fn a_set_code_transaction_needs_a_receiver_and_the_gas_of_its_authorizations() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    let inner = Authorization {
        chain_id: U256::from(chain.chain_id()),
        address: Address::repeat_byte(9),
        nonce: 0,
    };
    let (parity, r, s) = Key::new(3).sign_digest(inner.signature_hash());
    let one = SignedAuthorization::new_unchecked(inner, parity.into(), r, s);
    let transaction = |to, count, gas_limit| {
        let body = Transaction {
            kind: TransactionType::SetCode,
            to,
            gas_limit,
            authorization_list: vec![one.clone(); count],
            ..Transaction::create(chain.chain_id(), 0, Bytes::new(), 0)
        };
        chain.submit(&Key::new(1).sign(body).raw)
    };
    let receiver = TxKind::Call(Address::repeat_byte(7));
    for (refused, reason) in [
        (transaction(TxKind::Create, 1, 1_000_000), "receiver"),
        (transaction(receiver, 3, 95_999), "intrinsic gas too low"),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(
        transaction(receiver, 3, 200_000)
            .unwrap()
            .wait()
            .unwrap()
            .success
    );
}

#[test]
fn logs_that_are_too_large_together_are_refused_and_fewer_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path());
    // Emits 1 MiB of zeros without a topic.
    let create = Transaction::create(chain.chain_id(), 0, init_code("621000006000a000"), 500_000);
    let target = chain
        .submit_and_wait(&Key::new(1).sign(create).raw)
        .unwrap()
        .contract_address
        .unwrap();
    for nonce in 1..=17 {
        let call = Transaction::call(
            chain.chain_id(),
            nonce,
            target,
            Bytes::new(),
            TX_GAS_LIMIT_CAP,
        );
        assert!(
            chain
                .submit_and_wait(&Key::new(1).sign(call).raw)
                .unwrap()
                .success
        );
    }
    for addresses in [vec![target], Vec::new()] {
        let all = LogFilter {
            addresses,
            ..LogFilter::default()
        };
        let error = chain.logs(&all).unwrap_err();
        assert!(matches!(error, LogsError::TooLarge { .. }), "{error}");
        let fewer = LogFilter {
            from_block: 3,
            ..all
        };
        assert_eq!(chain.logs(&fewer).unwrap().len(), 16);
    }
}
