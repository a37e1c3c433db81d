//! Signed transactions: legacy (EIP-155), EIP-2930, EIP-1559 and EIP-7702.
//!
//! Decoding is strict: bytes that could be written shorter, or that are followed by others, are refused, so that a
//! transaction has one hash only.

use alloy_primitives::{Address, B256, B512, Bytes, TxKind, U256, keccak256};
use alloy_rlp::{BufMut, Decodable, Encodable, Header};
use revm::context::TxEnv;
use revm::context_interface::either::Either;
use revm::context_interface::transaction::{
    AccessList, RecoveredAuthority, RecoveredAuthorization,
};
use revm::precompile::secp256k1::ecrecover;

pub use revm::context_interface::transaction::{
    AccessListItem, Authorization, SignedAuthorization,
};

use crate::config::TX_BYTES_MAX;
use crate::error::DecodeError;

/// Half of the order of secp256k1: a higher `s` has a lower twin and is refused (EIP-2).
const HALF_ORDER: U256 = U256::from_be_bytes([
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
]);

/// The four transaction types of this chain; the number is the type byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TransactionType {
    /// Gas price, chain id in `v`.
    Legacy = 0,
    /// Access list (EIP-2930).
    AccessList = 1,
    /// Priority fee (EIP-1559).
    DynamicFee = 2,
    /// Code of an account set by its signature (EIP-7702).
    SetCode = 4,
}

/// What a signature covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Which of the four encodings.
    pub kind: TransactionType,
    /// Chain that may run it.
    pub chain_id: u64,
    /// Position among the sender's transactions.
    pub nonce: u64,
    /// Gas it may use.
    pub gas_limit: u64,
    /// Highest price per gas in wei; the gas price of the two older types.
    pub max_fee_per_gas: u128,
    /// Price per gas above the base fee; unused by the two older types.
    pub max_priority_fee_per_gas: u128,
    /// Receiver, or a contract creation.
    pub to: TxKind,
    /// Wei sent along.
    pub value: U256,
    /// Call data or init code.
    pub input: Bytes,
    /// Slots declared beforehand.
    pub access_list: Vec<AccessListItem>,
    /// Accounts that set their code.
    pub authorization_list: Vec<SignedAuthorization>,
}

impl Transaction {
    /// An EIP-1559 call that costs nothing, for chains with base fee 0.
    pub fn call(chain_id: u64, nonce: u64, to: Address, input: Bytes, gas_limit: u64) -> Self {
        Self::dynamic_fee(chain_id, nonce, TxKind::Call(to), input, gas_limit)
    }

    /// An EIP-1559 contract creation that costs nothing, for chains with base fee 0.
    pub fn create(chain_id: u64, nonce: u64, init_code: Bytes, gas_limit: u64) -> Self {
        Self::dynamic_fee(chain_id, nonce, TxKind::Create, init_code, gas_limit)
    }

    fn dynamic_fee(chain_id: u64, nonce: u64, to: TxKind, input: Bytes, gas_limit: u64) -> Self {
        Self {
            kind: TransactionType::DynamicFee,
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: 0,
            max_priority_fee_per_gas: 0,
            to,
            value: U256::ZERO,
            input,
            access_list: Vec::new(),
            authorization_list: Vec::new(),
        }
    }

    /// The digest that the sender signs.
    pub fn signing_hash(&self) -> B256 {
        let mut out = Vec::new();
        let mut fields = Vec::new();
        self.encode_fields(&mut fields);
        if self.kind == TransactionType::Legacy {
            // EIP-155: chain id and two zeros stand where the signature will be.
            self.chain_id.encode(&mut fields);
            0u8.encode(&mut fields);
            0u8.encode(&mut fields);
        } else {
            out.put_u8(self.kind as u8);
        }
        put_list(&fields, &mut out);
        keccak256(out)
    }

    /// Adds a signature. `y_parity` is the recovery id, 0 or 1.
    pub fn into_signed(self, y_parity: bool, r: U256, s: U256) -> SignedTransaction {
        let raw = self.encode_signed(y_parity, r, s);
        SignedTransaction {
            hash: keccak256(&raw),
            raw: raw.into(),
            y_parity,
            r,
            s,
            body: self,
        }
    }

    /// Adds a 65-byte signature `r ‖ s ‖ v` with `v` 0, 1, 27 or 28; `None` for another `v`.
    pub fn into_signed_bytes(self, signature: &[u8; 65]) -> Option<SignedTransaction> {
        let parity = match signature[64] {
            0 | 27 => false,
            1 | 28 => true,
            _ => return None,
        };
        let r = U256::from_be_slice(&signature[..32]);
        let s = U256::from_be_slice(&signature[32..64]);
        Some(self.into_signed(parity, r, s))
    }

    /// Price per gas actually paid on a chain with base fee 0.
    pub fn effective_gas_price(&self) -> u128 {
        match self.kind {
            TransactionType::Legacy | TransactionType::AccessList => self.max_fee_per_gas,
            _ => self.max_priority_fee_per_gas.min(self.max_fee_per_gas),
        }
    }

    /// Wei the sender must hold: value and the highest possible fee. `None` when that overflows.
    pub fn cost_max(&self) -> Option<U256> {
        U256::from(self.gas_limit)
            .checked_mul(U256::from(self.max_fee_per_gas))
            .and_then(|fee| fee.checked_add(self.value))
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        if self.kind != TransactionType::Legacy {
            self.chain_id.encode(out);
        }
        self.nonce.encode(out);
        if matches!(
            self.kind,
            TransactionType::DynamicFee | TransactionType::SetCode
        ) {
            self.max_priority_fee_per_gas.encode(out);
        }
        self.max_fee_per_gas.encode(out);
        self.gas_limit.encode(out);
        self.to.encode(out);
        self.value.encode(out);
        self.input.encode(out);
        if self.kind != TransactionType::Legacy {
            self.access_list.encode(out);
        }
        if self.kind == TransactionType::SetCode {
            self.authorization_list.encode(out);
        }
    }

    fn encode_signed(&self, y_parity: bool, r: U256, s: U256) -> Vec<u8> {
        let mut fields = Vec::with_capacity(self.input.len() + 192);
        self.encode_fields(&mut fields);
        let mut out = Vec::with_capacity(fields.len() + 80);
        if self.kind == TransactionType::Legacy {
            legacy_v(self.chain_id, y_parity).encode(&mut fields);
        } else {
            out.put_u8(self.kind as u8);
            y_parity.encode(&mut fields);
        }
        r.encode(&mut fields);
        s.encode(&mut fields);
        put_list(&fields, &mut out);
        out
    }
}

fn legacy_v(chain_id: u64, y_parity: bool) -> u128 {
    35 + 2 * u128::from(chain_id) + u128::from(y_parity)
}

fn put_list(fields: &[u8], out: &mut Vec<u8>) {
    Header {
        list: true,
        payload_length: fields.len(),
    }
    .encode(out);
    out.extend_from_slice(fields);
}

/// A transaction with its signature, its bytes and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTransaction {
    /// What was signed.
    pub body: Transaction,
    /// Recovery id of the signature.
    pub y_parity: bool,
    /// First half of the signature.
    pub r: U256,
    /// Second half of the signature.
    pub s: U256,
    /// keccak-256 of `raw`.
    pub hash: B256,
    /// The bytes on the wire.
    pub raw: Bytes,
}

impl SignedTransaction {
    /// Reads the bytes of one transaction. Does not look at the signature; see [`Self::recover_sender`].
    pub fn decode(raw: &[u8]) -> Result<Self, DecodeError> {
        if raw.len() > TX_BYTES_MAX {
            return Err(DecodeError::TooLarge {
                size: raw.len(),
                max: TX_BYTES_MAX,
            });
        }
        let (kind, mut rest) = match *raw.first().ok_or(DecodeError::Empty)? {
            0xc0.. => (TransactionType::Legacy, raw),
            1 => (TransactionType::AccessList, &raw[1..]),
            2 => (TransactionType::DynamicFee, &raw[1..]),
            4 => (TransactionType::SetCode, &raw[1..]),
            other => return Err(DecodeError::UnsupportedType(other)),
        };
        let mut fields = Header::decode_bytes(&mut rest, true).map_err(DecodeError::Rlp)?;
        if !rest.is_empty() {
            return Err(DecodeError::NotCanonical);
        }
        let (body, y_parity, r, s) = decode_fields(kind, &mut fields)?;
        if !fields.is_empty() {
            return Err(DecodeError::NotCanonical);
        }
        let signed = body.into_signed(y_parity, r, s);
        if *signed.raw != *raw {
            return Err(DecodeError::NotCanonical);
        }
        Ok(signed)
    }

    /// Who signed it.
    pub fn recover_sender(&self) -> Result<Address, DecodeError> {
        recover(self.body.signing_hash(), self.y_parity, self.r, self.s)
    }

    pub(crate) fn to_env(&self, sender: Address) -> TxEnv {
        let body = &self.body;
        let dynamic = matches!(
            body.kind,
            TransactionType::DynamicFee | TransactionType::SetCode
        );
        TxEnv {
            tx_type: body.kind as u8,
            caller: sender,
            gas_limit: body.gas_limit,
            gas_price: body.max_fee_per_gas,
            kind: body.to,
            value: body.value,
            data: body.input.clone(),
            nonce: body.nonce,
            chain_id: Some(body.chain_id),
            access_list: AccessList(body.access_list.clone()),
            gas_priority_fee: dynamic.then_some(body.max_priority_fee_per_gas),
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: body
                .authorization_list
                .iter()
                .map(|a| Either::Right(recover_authority(a)))
                .collect(),
        }
    }
}

fn decode_fields(
    kind: TransactionType,
    fields: &mut &[u8],
) -> Result<(Transaction, bool, U256, U256), DecodeError> {
    fn next<T: Decodable>(fields: &mut &[u8]) -> Result<T, DecodeError> {
        T::decode(fields).map_err(DecodeError::Rlp)
    }
    let legacy = kind == TransactionType::Legacy;
    let dynamic = matches!(kind, TransactionType::DynamicFee | TransactionType::SetCode);
    let mut body = Transaction {
        kind,
        chain_id: if legacy { 0 } else { next(fields)? },
        nonce: next(fields)?,
        max_priority_fee_per_gas: if dynamic { next(fields)? } else { 0 },
        max_fee_per_gas: next(fields)?,
        gas_limit: next(fields)?,
        to: next(fields)?,
        value: next(fields)?,
        input: next(fields)?,
        access_list: if legacy { Vec::new() } else { next(fields)? },
        authorization_list: if kind == TransactionType::SetCode {
            next(fields)?
        } else {
            Vec::new()
        },
    };
    let y_parity = if legacy {
        let v: u128 = next(fields)?;
        let beyond = v.checked_sub(35).ok_or(DecodeError::Unprotected)?;
        body.chain_id =
            u64::try_from(beyond / 2).map_err(|_| DecodeError::Signature("v is out of range"))?;
        beyond % 2 == 1
    } else {
        next(fields)?
    };
    Ok((body, y_parity, next(fields)?, next(fields)?))
}

/// The account whose key made the signature over `digest`.
fn recover(digest: B256, y_parity: bool, r: U256, s: U256) -> Result<Address, DecodeError> {
    if s > HALF_ORDER {
        return Err(DecodeError::Signature("s is in the upper half (EIP-2)"));
    }
    let mut signature = [0u8; 64];
    signature[..32].copy_from_slice(&r.to_be_bytes::<32>());
    signature[32..].copy_from_slice(&s.to_be_bytes::<32>());
    let word = ecrecover(&B512::from(signature), u8::from(y_parity), &digest)
        .map_err(|_| DecodeError::Signature("no key fits it"))?;
    Ok(Address::from_word(word))
}

fn recover_authority(signed: &SignedAuthorization) -> RecoveredAuthorization {
    let authority = if signed.y_parity() > 1 {
        RecoveredAuthority::Invalid
    } else {
        recover(
            signed.inner().signature_hash(),
            signed.y_parity() == 1,
            signed.r(),
            signed.s(),
        )
        .map_or(RecoveredAuthority::Invalid, RecoveredAuthority::Valid)
    };
    RecoveredAuthorization::new_unchecked(signed.inner().clone(), authority)
}
