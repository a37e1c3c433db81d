//! GGUF version 3: header, metadata, tensor table.

use super::exact::Exact;
use super::formats::Format;
use super::reader::Reader;
use crate::error::ImportError;
use std::collections::BTreeMap;

/// One value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any integer that fits.
    Integer(i64),
    /// A float of 32 or 64 bits; `None` when not finite.
    Float(Option<Exact>),
    /// true or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list of integers or booleans.
    Integers(Vec<i64>),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of binary32 numbers, as their bits; empty for one of binary64, which nothing here needs.
    Floats(Vec<u32>),
}

/// One entry of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Storage of the elements.
    pub format: Format,
    /// Elements of a row, then rows: the file's order.
    pub shape: Vec<u64>,
    /// Where the bytes begin in the file.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

/// Header of a file.
#[derive(Debug)]
pub struct Gguf {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// Bytes of a value of each type code; 0 where the length varies.
const TYPE_BYTES: [u64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
const TEXT: u32 = 8;
const LIST: u32 = 9;
/// Longest header that is read. Lists take several times their bytes in memory, and all of it before the model's size is known.
const HEADER_LIMIT: u64 = 100 << 20;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;

/// Storage types that are not read, by code, for errors.
const TYPE_NAMES: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl Gguf {
    /// Reads the header of a file.
    pub fn read(reader: &mut Reader) -> Result<Self, ImportError> {
        let whole = reader.length();
        reader.limit(HEADER_LIMIT);
        let mut file = Self::read_tables(reader).map_err(|error| match error {
            ImportError::Truncated { what, .. } if whole > HEADER_LIMIT => reader.not_a_model(
                format!("{what} reaches beyond {HEADER_LIMIT} bytes of header"),
            ),
            other => other,
        })?;
        reader.limit(whole);
        file.place_tensors(reader)?;
        Ok(file)
    }

    fn read_tables(reader: &mut Reader) -> Result<Self, ImportError> {
        if reader.array::<4>("the magic number")? != *b"GGUF" {
            return Err(reader.not_a_model("it does not begin with the letters GGUF"));
        }
        let version = u32::from_le_bytes(reader.array("the version")?);
        if version != 3 {
            return Err(
                reader.not_a_model(format!("it is GGUF version {version}; version 3 is read"))
            );
        }
        let tensor_count = u64::from_le_bytes(reader.array("the number of tensors")?);
        let value_count = u64::from_le_bytes(reader.array("the number of metadata values")?);
        // A value takes at least 13 bytes, a tensor at least 24: counts beyond the file are refused before any loop.
        reader.expect("the metadata", value_count.saturating_mul(13))?;
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = text(reader, "a metadata key")?;
            let code = u32::from_le_bytes(reader.array(&key)?);
            let value = value(reader, &key, code)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(ImportError::metadata(key, "appears twice"));
            }
        }
        reader.expect("the tensor table", tensor_count.saturating_mul(24))?;
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let (name, info) = tensor(reader)?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(ImportError::tensor(name, "appears twice"));
            }
        }
        Ok(Self { metadata, tensors })
    }

    /// Turns offsets within the data section into offsets within the file, and refuses what lies outside.
    fn place_tensors(&mut self, reader: &Reader) -> Result<(), ImportError> {
        let alignment = match self.metadata.get("general.alignment") {
            None => 32,
            Some(Value::Integer(a)) if *a > 0 && *a <= 1 << 20 => *a as u64,
            Some(_) => {
                return Err(ImportError::metadata(
                    "general.alignment",
                    "is not from 1 to 2^20",
                ));
            }
        };
        let start = reader.position().next_multiple_of(alignment);
        for (name, info) in &mut self.tensors {
            let end = start
                .checked_add(info.offset)
                .and_then(|o| o.checked_add(info.bytes));
            if end.is_none_or(|end| end > reader.length()) {
                let reason = format!(
                    "needs {} bytes at offset {} of the data, beyond the end of the file ({} bytes)",
                    info.bytes,
                    info.offset,
                    reader.length()
                );
                return Err(ImportError::tensor(name, reason));
            }
            info.offset += start;
        }
        self.refuse_overlaps()
    }

    /// Bytes that belong to two tensors would take memory twice, and a file could name the same ones a thousand times.
    fn refuse_overlaps(&self) -> Result<(), ImportError> {
        let mut places: Vec<_> = self.tensors.iter().collect();
        places.sort_by_key(|(_, info)| (info.offset, info.bytes));
        let mut end = 0;
        for (name, info) in places {
            if info.offset < end {
                let reason = format!("lies at byte {}, where another one does", info.offset);
                return Err(ImportError::tensor(name, reason));
            }
            end = info.offset + info.bytes;
        }
        Ok(())
    }

    /// An integer of the metadata.
    pub fn integer(&self, key: &str) -> Result<Option<usize>, ImportError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) if *value >= 0 => Ok(Some(*value as usize)),
            Some(Value::Integers(list))
                if !list.is_empty() && list.iter().all(|v| *v == list[0] && *v >= 0) =>
            {
                Ok(Some(list[0] as usize))
            }
            Some(_) => Err(ImportError::metadata(key, "is not one positive integer")),
        }
    }

    /// An integer that must be there.
    pub fn need_integer(&self, key: &str) -> Result<usize, ImportError> {
        self.integer(key)?
            .ok_or_else(|| ImportError::metadata(key, "is absent"))
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A float of the metadata.
    pub fn float(&self, key: &str) -> Option<Option<Exact>> {
        match self.metadata.get(key) {
            Some(Value::Float(value)) => Some(*value),
            Some(_) => Some(None),
            None => None,
        }
    }
}

fn text(reader: &mut Reader, what: &str) -> Result<String, ImportError> {
    let length = u64::from_le_bytes(reader.array(what)?);
    let bytes = reader.bytes(what, length)?;
    String::from_utf8(bytes).map_err(|_| reader.not_a_model(format!("{what} is not UTF-8")))
}

fn value(reader: &mut Reader, key: &str, code: u32) -> Result<Value, ImportError> {
    match code {
        TEXT => Ok(Value::Text(text(reader, key)?)),
        LIST => list(reader, key),
        4 | 5 | 0..=3 | 10 | 11 => Ok(Value::Integer(integer(reader, key, code)?)),
        7 => Ok(Value::Bool(reader.array::<1>(key)? != [0])),
        6 => {
            let bits = u32::from_le_bytes(reader.array(key)?);
            Ok(Value::Float(Exact::from_f32(bits)))
        }
        12 => {
            let bits = u64::from_le_bytes(reader.array(key)?);
            Ok(Value::Float(Exact::from_f64(f64::from_bits(bits))))
        }
        _ => Err(ImportError::metadata(
            key,
            format!("has the unknown type {code}"),
        )),
    }
}

fn integer(reader: &mut Reader, key: &str, code: u32) -> Result<i64, ImportError> {
    let raw = reader.bytes(key, TYPE_BYTES[code as usize])?;
    integer_of(&raw, key, code)
}

fn integer_of(raw: &[u8], key: &str, code: u32) -> Result<i64, ImportError> {
    let count = raw.len();
    let signed = matches!(code, 1 | 3 | 5 | 11);
    let fill = if signed && raw[count - 1] & 0x80 != 0 {
        0xff
    } else {
        0
    };
    let mut eight = [fill; 8];
    eight[..count].copy_from_slice(raw);
    let value = i64::from_le_bytes(eight);
    if !signed && value < 0 {
        return Err(ImportError::metadata(key, "is beyond 2^63"));
    }
    Ok(value)
}

fn list(reader: &mut Reader, key: &str) -> Result<Value, ImportError> {
    let code = u32::from_le_bytes(reader.array(key)?);
    let count = u64::from_le_bytes(reader.array(key)?);
    match code {
        TEXT => {
            reader.expect(key, count.saturating_mul(8))?;
            let texts = (0..count).map(|_| text(reader, key));
            Ok(Value::Texts(texts.collect::<Result<_, _>>()?))
        }
        6 => {
            let raw = reader.bytes(key, count.saturating_mul(4))?;
            let (words, _) = raw.as_chunks::<4>();
            let words = words.iter().map(|four| u32::from_le_bytes(*four));
            Ok(Value::Floats(words.collect()))
        }
        12 => {
            let bytes = count.saturating_mul(8);
            reader.expect(key, bytes)?;
            reader.seek(reader.position() + bytes)?;
            Ok(Value::Floats(Vec::new()))
        }
        0..=5 | 7 | 10 | 11 => {
            let width = TYPE_BYTES[code as usize];
            let raw = reader.bytes(key, count.saturating_mul(width))?;
            let code = if code == 7 { 0 } else { code };
            let integers = raw.chunks_exact(width as usize);
            let integers = integers.map(|raw| integer_of(raw, key, code));
            Ok(Value::Integers(integers.collect::<Result<_, _>>()?))
        }
        _ => Err(ImportError::metadata(
            key,
            format!("is a list of the unknown type {code}"),
        )),
    }
}

fn tensor(reader: &mut Reader) -> Result<(String, TensorInfo), ImportError> {
    let name = text(reader, "a tensor's name")?;
    let dimensions = u32::from_le_bytes(reader.array(&name)?);
    if dimensions == 0 || dimensions > MAX_DIMENSIONS {
        return Err(ImportError::tensor(
            name,
            format!("has {dimensions} dimensions"),
        ));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(u64::from_le_bytes(reader.array(&name)?));
    }
    let code = u32::from_le_bytes(reader.array(&name)?);
    let format = Format::of_gguf(code).ok_or_else(|| {
        let known = TYPE_NAMES.iter().find(|(c, _)| *c == code);
        let word = known.map_or_else(|| format!("number {code}"), |(_, n)| (*n).to_owned());
        let read = Format::ALL.map(Format::name).join(", ");
        let reason = format!(
            "is stored as {word}; {read} are read: convert the model to Q8_0, from its original where you can"
        );
        ImportError::tensor(&name, reason)
    })?;
    let offset = u64::from_le_bytes(reader.array(&name)?);
    let rows = shape[1..].iter().try_fold(1u64, |a, b| a.checked_mul(*b));
    let bytes = rows
        .and_then(|rows| format.bytes(rows, shape[0]))
        .ok_or_else(|| ImportError::tensor(&name, format!("has the impossible shape {shape:?}")))?;
    Ok((
        name,
        TensorInfo {
            format,
            shape,
            offset,
            bytes,
        },
    ))
}
