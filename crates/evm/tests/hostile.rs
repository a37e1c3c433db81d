//! Bytes from strangers.

mod common;

use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use common::*;
use proptest::prelude::*;
use stoa_evm::tx::{
    AccessListItem, Authorization, SignedAuthorization, SignedTransaction, Transaction,
    TransactionType,
};

fn any_transaction() -> impl Strategy<Value = Transaction> {
    let kinds = prop_oneof![
        Just(TransactionType::Legacy),
        Just(TransactionType::AccessList),
        Just(TransactionType::DynamicFee),
        Just(TransactionType::SetCode),
    ];
    let numbers = (
        0..u64::MAX,
        0..u64::MAX,
        0..u64::MAX,
        any::<u128>(),
        any::<u128>(),
    );
    let to = proptest::option::of(any::<[u8; 20]>());
    let bytes = (
        any::<[u8; 32]>(),
        proptest::collection::vec(any::<u8>(), 0..200),
    );
    let keys = proptest::collection::vec(any::<[u8; 32]>(), 0..3);
    (kinds, numbers, to, bytes, keys).prop_map(|(kind, numbers, to, (value, input), keys)| {
        let (chain_id, nonce, gas_limit, fee, tip) = numbers;
        let legacy = kind == TransactionType::Legacy;
        let dynamic = matches!(kind, TransactionType::DynamicFee | TransactionType::SetCode);
        let item = AccessListItem {
            address: Address::repeat_byte(7),
            storage_keys: keys.into_iter().map(B256::from).collect(),
        };
        let inner = Authorization {
            chain_id: U256::from(chain_id),
            address: Address::repeat_byte(9),
            nonce,
        };
        let authorization =
            SignedAuthorization::new_unchecked(inner, 1, U256::from(fee), U256::from(tip));
        Transaction {
            kind,
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: fee,
            max_priority_fee_per_gas: if dynamic { tip } else { 0 },
            to: to.map_or(TxKind::Create, |to| TxKind::Call(to.into())),
            value: U256::from_be_bytes(value),
            input: Bytes::from(input),
            access_list: if legacy { Vec::new() } else { vec![item] },
            authorization_list: if kind == TransactionType::SetCode {
                vec![authorization]
            } else {
                Vec::new()
            },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_transaction_reads_back_as_it_was_written_and_names_its_signer(transaction in any_transaction()) {
        let key = Key::new(5);
        let signed = key.sign(transaction);
        let read = SignedTransaction::decode(&signed.raw).unwrap();
        prop_assert_eq!(&read, &signed);
        prop_assert_eq!(read.recover_sender().unwrap(), key.address());
    }

    #[test]
    fn a_changed_byte_never_passes_as_the_same_signer_and_content(
        transaction in any_transaction(), at in any::<prop::sample::Index>(), flip in 1u8..
    ) {
        let key = Key::new(5);
        let signed = key.sign(transaction);
        let mut raw = signed.raw.to_vec();
        let at = at.index(raw.len());
        raw[at] ^= flip;
        if let Ok(read) = SignedTransaction::decode(&raw) {
            prop_assert_ne!(read.hash, signed.hash);
            if let Ok(sender) = read.recover_sender() {
                prop_assert_ne!(sender, key.address());
            }
        }
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(
        kind in prop_oneof![Just(None), (0u8..5).prop_map(Some)],
        bytes in proptest::collection::vec(any::<u8>(), 0..400)
    ) {
        let raw: Vec<u8> = kind.into_iter().chain(bytes).collect();
        if let Ok(read) = SignedTransaction::decode(&raw) {
            prop_assert_eq!(&*read.raw, &raw[..]);
            let _ = read.recover_sender();
        }
    }
}
