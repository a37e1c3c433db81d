//! Bytes of journal entries, snapshots and leaf files: fixed-width big-endian integers, `u32` counts, fields in the order of their
//! declaration. One value has one encoding; a reader refuses what it cannot read whole.

use std::collections::{BTreeMap, VecDeque};
use stoa_types::{
    Address, Digest, JobId, PaidBy, Price, Receipt, Signature, SignedReceipt, Tier, Timestamp,
    TokenAmount,
};

/// Why bytes were refused. Nothing was taken from them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("the record ends inside a value, at byte {at}: it was cut off or damaged")]
    Truncated {
        /// Offset of the value.
        at: usize,
    },
    /// Bytes are left after the value.
    #[error("{left} bytes follow the record: it was damaged or written by a newer version")]
    TrailingBytes {
        /// How many.
        left: usize,
    },
    /// A number that names nothing.
    #[error("{value} is not a {what}: the record was damaged or written by a newer version")]
    Unknown {
        /// What was expected.
        what: &'static str,
        /// What was found.
        value: u64,
    },
    /// Keys of a map out of order or double.
    #[error("the keys of a table are not in ascending order: the record was damaged")]
    Unordered,
}

/// Reads values off a byte string.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// From the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let end = self.at.checked_add(N);
        let slice = end.and_then(|end| self.bytes.get(self.at..end));
        let array = slice.and_then(|slice| <[u8; N]>::try_from(slice).ok());
        let array = array.ok_or(WireError::Truncated { at: self.at })?;
        self.at += N;
        Ok(array)
    }

    /// A count of elements, each at least one byte: bounded by what is left, so that damage cannot ask for much memory.
    fn count(&mut self) -> Result<usize, WireError> {
        let at = self.at;
        let count = u32::read(self)? as usize;
        if count > self.bytes.len() - self.at {
            return Err(WireError::Truncated { at });
        }
        Ok(count)
    }

    /// Succeeds when every byte was read.
    pub fn finish(self) -> Result<(), WireError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(WireError::TrailingBytes { left }),
        }
    }
}

/// A value with one byte form.
pub trait Wire: Sized {
    /// Appends the value.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads the value.
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError>;

    /// The value's bytes.
    fn to_wire(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// The value that the whole of `bytes` is.
    fn from_wire(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let value = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}

macro_rules! wire_uint {
    ($($int:ty),*) => {$(
        impl Wire for $int {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.to_be_bytes());
            }
            fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                reader.take().map(<$int>::from_be_bytes)
            }
        }
    )*};
}
wire_uint!(u8, u16, u32, u64, u128);

macro_rules! wire_bytes {
    ($($name:ident),*) => {$(
        impl Wire for $name {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.0);
            }
            fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                reader.take().map($name)
            }
        }
    )*};
}
wire_bytes!(Address, Digest, JobId, Signature);

/// Writes and reads a struct field by field.
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn write(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($crate::wire::Wire::write($field, out);)*
            }
            fn read(reader: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                $(let $field = $crate::wire::Wire::read(reader)?;)*
                Ok(Self { $($field),* })
            }
        }
    };
}
pub(crate) use wire_struct;

impl Wire for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::read(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(unknown("flag", value)),
        }
    }
}

impl Wire for Timestamp {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        u64::read(reader).map(Self)
    }
}

impl Wire for TokenAmount {
    fn write(&self, out: &mut Vec<u8>) {
        self.units().write(out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        u128::read(reader).map(Self::from_units)
    }
}

impl Wire for Price {
    fn write(&self, out: &mut Vec<u8>) {
        self.amount_per_million().write(out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        TokenAmount::read(reader).map(Self::per_million)
    }
}

impl Wire for Tier {
    fn write(&self, out: &mut Vec<u8>) {
        self.code().write(out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let code = u8::read(reader)?;
        Self::from_code(code).ok_or(unknown("verification tier", code))
    }
}

impl Wire for PaidBy {
    fn write(&self, out: &mut Vec<u8>) {
        self.code().write(out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let code = u8::read(reader)?;
        [Self::Allotment, Self::Voucher]
            .into_iter()
            .find(|paid_by| paid_by.code() == code)
            .ok_or(unknown("way of paying", code))
    }
}

pub(crate) fn unknown(what: &'static str, value: impl Into<u64>) -> WireError {
    WireError::Unknown {
        what,
        value: value.into(),
    }
}

wire_struct!(Receipt {
    version,
    chain_id,
    vault,
    profile_hash,
    job_id,
    account,
    router,
    provider,
    model_root,
    runtime_digest,
    parameters_digest,
    prompt_root,
    request_digest,
    output_root,
    response_digest,
    input_units,
    output_units,
    input_price,
    output_price,
    charge,
    fee_version,
    paid_by,
    tier,
    evidence_digest,
    ticket_hash,
    attempt,
    segments_root,
    accepted_at,
    delivered_at,
});
wire_struct!(SignedReceipt {
    receipt,
    provider_signature,
    router_signature,
});

impl<T: Wire> Wire for Box<T> {
    fn write(&self, out: &mut Vec<u8>) {
        T::write(self, out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        T::read(reader).map(Self::new)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        bool::read(reader)?.then(|| T::read(reader)).transpose()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((A::read(reader)?, B::read(reader)?))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_count(self.len(), out);
        self.iter().for_each(|item| item.write(out));
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.count()?;
        (0..count).map(|_| T::read(reader)).collect()
    }
}

impl<T: Wire> Wire for VecDeque<T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_count(self.len(), out);
        self.iter().for_each(|item| item.write(out));
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Vec::read(reader).map(Self::from)
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn write(&self, out: &mut Vec<u8>) {
        write_count(self.len(), out);
        for (key, value) in self {
            key.write(out);
            value.write(out);
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.count()?;
        let mut map = Self::new();
        for _ in 0..count {
            let key = K::read(reader)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(WireError::Unordered);
            }
            map.insert(key, V::read(reader)?);
        }
        Ok(map)
    }
}

fn write_count(count: usize, out: &mut Vec<u8>) {
    u32::try_from(count)
        .expect("a table in memory has fewer than 2^32 rows")
        .write(out);
}
