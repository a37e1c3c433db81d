//! Opening a pack: everything about it is checked before a number of it is used.

use super::{
    ALIGNMENT, HEADER_LIMIT, Header, MAGIC, PlacedTensor, Segment, VERSION, blake3_of, tensor_bytes,
};
use crate::config::Config;
use crate::error::ImportError;
use crate::import::{self, Kind, Loss, MemoryEstimate, Tensor, Tensors};
use crate::mapping::{MappedNumbers, Mapping};
use crate::ops::Norm;
use crate::packed::PackedMatrix;
use crate::parallel;
use crate::root::{self, SEMANTICS};
use crate::tokenizer::{Tokenizer, TokenizerSource};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_types::Digest;

/// Greatest magnitude of an exponent; import makes none beyond 256.
const EXPONENT_LIMIT: u32 = 1 << 10;
/// Bytes that are hashed and looked at while they are in the processor's cache.
const PIECE: usize = 1 << 18;

/// An opened pack. Its header is sound; its tensors are checked when they are loaded.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    mapping: Arc<Mapping>,
    header: Header,
    digest: Digest,
    tokenizer: TokenizerSource,
    template: Option<String>,
}

/// Packs are in the byte order of most machines, and mapped as they are.
pub(super) fn refuse_big_endian() -> Result<(), ImportError> {
    if cfg!(target_endian = "big") {
        let reason = "need a little-endian machine; load the model's own file here";
        return Err(ImportError::metadata("packs", reason));
    }
    Ok(())
}

impl Pack {
    /// Maps a pack and checks its header: every length, offset and shape. A pack that is cut short, damaged or of another version
    /// is refused with the reason. For packs of a store, which nobody changes, and for a command that ends with what it looks at: a file
    /// that is cut short while it is mapped ends the process, and one that is changed changes the weights.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        Self::of(path, Mapping::open)
    }

    /// The same with a copy in memory, which is what is checked: whatever becomes of the file afterwards.
    pub fn read(path: &Path) -> Result<Self, ImportError> {
        Self::of(path, Mapping::copy)
    }

    fn of(
        path: &Path,
        bytes: impl FnOnce(&Path) -> io::Result<Arc<Mapping>>,
    ) -> Result<Self, ImportError> {
        refuse_big_endian()?;
        let mapping = bytes(path).map_err(unreadable(path))?;
        let damaged = damaged(path);
        let (header, digest, offset) = header(mapping.bytes()).map_err(&damaged)?;
        check_header(path, &header, offset)?;
        check_gaps(&header, mapping.bytes()).map_err(&damaged)?;
        let text = |name: &str, segment: &Segment| {
            check_hash(name, segment, mapping.bytes()).map_err(&damaged)?;
            let bytes = slice(segment, mapping.bytes()).to_vec();
            String::from_utf8(bytes).map_err(|_| damaged(format!("the {name} is not UTF-8")))
        };
        let json = text("tokenizer", &header.tokenizer_json)?;
        let template = header.template.as_ref().map(|s| text("template", s));
        Ok(Self {
            path: path.to_owned(),
            tokenizer: header.tokenizer.clone().with_json(json),
            template: template.transpose()?,
            mapping,
            header,
            digest,
        })
    }

    /// BLAKE3 of its header, from which every byte of it follows: its name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Model root, as whoever wrote the pack computed it. [`Pack::recomputed_root`] says what it is.
    pub fn claimed_root(&self) -> Digest {
        self.header.root
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.header.name
    }

    /// Shape of the model.
    pub fn config(&self) -> &Config {
        &self.header.config
    }

    /// Source of the tokenizer.
    pub fn tokenizer(&self) -> &TokenizerSource {
        &self.tokenizer
    }

    /// Chat template.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Parameters of the file that it was made from.
    pub fn parameters(&self) -> u64 {
        self.header.parameters
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.mapping.bytes().len() as u64
    }

    /// What quantisation cost, by format of the source.
    pub fn losses(&self) -> &[Loss] {
        &self.header.losses
    }

    /// Memory that the model takes: its file's length for weights. Of a mapped pack these are pages of the file, which the system may drop
    /// and read again.
    pub fn memory_estimate(&self) -> MemoryEstimate {
        MemoryEstimate::packed(&self.header.config, self.bytes())
    }

    /// All tensors, matrices in the mapping. Each was compared with its hash, with all processors, and holds no number that the
    /// kernels' bounds do not allow.
    pub fn load(&self) -> Result<Tensors, ImportError> {
        let tensors = &self.header.tensors;
        // The largest first, so that the threads finish together.
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(tensors[*index].segment.bytes));
        let damaged = damaged(&self.path);
        let mut loaded = Tensors::default();
        let work = |i: usize| self.tensor(&tensors[order[i]]).map_err(&damaged);
        parallel::as_done(order.len(), work, |i, tensor| {
            loaded.put(tensors[order[i]].role, tensor);
            Ok(())
        })?;
        loaded.losses = self.header.losses.clone();
        Ok(loaded)
    }

    /// Writes the same pack to a file that is empty. `progress` hears how far it is, and may stop it.
    pub fn copy(
        &self,
        file: &mut impl Write,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<(), ImportError> {
        let mut done = 0;
        for piece in self.mapping.bytes().chunks(PIECE) {
            file.write_all(piece)
                .map_err(|source| ImportError::Write { source })?;
            done += piece.len() as u64;
            if progress(done, self.bytes()).is_break() {
                return Err(ImportError::Stopped);
            }
        }
        Ok(())
    }

    /// The shape, once it is known to be that of this many tokens: a pack is written with no more of them than its tokenizer has, and with
    /// more it would have a root that nobody who runs the model computes.
    pub(crate) fn config_for(&self, tokens: usize) -> Result<Config, ImportError> {
        let config = self.config().with_tokens(tokens)?;
        if config == *self.config() {
            return Ok(config);
        }
        let vocab = self.config().vocab;
        let reason = format!("its vocabulary has {vocab} tokens, and its tokenizer {tokens}");
        Err(damaged(&self.path)(reason))
    }

    /// The model root, from every byte of the pack.
    pub fn recomputed_root(&self) -> Result<Digest, ImportError> {
        self.config_for(Tokenizer::new(&self.tokenizer)?.len())?;
        let mut tensors = self.load()?;
        let (mut leaves, roles) = (Vec::new(), self.header.tensors.iter().map(|t| t.role));
        let taken: Vec<_> = roles
            .filter_map(|role| Some((role.number(), tensors.take(role)?)))
            .collect();
        let mut of_tensor: Vec<Vec<Digest>> = vec![Vec::new(); taken.len()];
        let work = |i: usize| {
            let (number, tensor) = &taken[i];
            Ok::<_, ImportError>(root::tensor_leaves(*number, tensor.as_ref()))
        };
        parallel::as_done(taken.len(), work, |i, leaves| {
            of_tensor[i] = leaves;
            Ok(())
        })?;
        leaves.extend(of_tensor.into_iter().flatten());
        Ok(root::of_leaves(
            &self.header.config,
            &self.tokenizer,
            self.template(),
            leaves,
        ))
    }

    fn tensor(&self, placed: &PlacedTensor) -> Result<Tensor, String> {
        let name = format!("tensor {:?}", placed.role);
        let segment = &placed.segment;
        match placed.role.kind() {
            Kind::Matrix => {
                let matrix = self
                    .matrix(placed)
                    .ok_or("a tensor lies outside the file")?;
                check_matrix(&name, segment, &matrix, self.mapping.bytes())?;
                Ok(Tensor::Matrix(matrix))
            }
            Kind::Norm => {
                check_hash(&name, segment, self.mapping.bytes())?;
                let (twos, _) = slice(segment, self.mapping.bytes()).as_chunks::<2>();
                Ok(Tensor::Norm(Norm {
                    g: twos.iter().map(|two| i16::from_le_bytes(*two)).collect(),
                    exponent: placed.exponent,
                }))
            }
            Kind::Bias => {
                check_hash(&name, segment, self.mapping.bytes())?;
                let (fours, _) = slice(segment, self.mapping.bytes()).as_chunks::<4>();
                let numbers = fours.iter().map(|four| i32::from_le_bytes(*four));
                Ok(Tensor::Bias(numbers.collect()))
            }
        }
    }

    fn matrix(&self, placed: &PlacedTensor) -> Option<PackedMatrix> {
        let start = usize::try_from(placed.segment.offset).ok()?;
        let (q, scales) = PackedMatrix::lengths(placed.rows, placed.columns);
        let q = MappedNumbers::new(&self.mapping, start, q)?;
        let scales = MappedNumbers::new(&self.mapping, start + q.len(), scales)?;
        let mut matrix = PackedMatrix::mapped(placed.rows, placed.columns, q, scales);
        matrix.exponent = placed.exponent;
        Some(matrix)
    }
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> ImportError {
    move |source| ImportError::Read {
        path: path.to_owned(),
        source,
    }
}

fn damaged(path: &Path) -> impl Fn(String) -> ImportError {
    move |reason| ImportError::Damaged {
        path: path.to_owned(),
        reason,
    }
}

/// Shape of the model in the pack at `path` and the memory that it takes. Its header is read and nothing else.
pub(crate) fn memory_estimate(path: &Path) -> Result<(Config, MemoryEstimate), ImportError> {
    refuse_big_endian()?;
    let (unreadable, damaged) = (unreadable(path), damaged(path));
    let mut file = File::open(path).map_err(&unreadable)?;
    let whole = file.metadata().map_err(&unreadable)?.len();
    let (mut first, mut json) = (Vec::new(), Vec::new());
    let preamble = (&mut file).take(ALIGNMENT).read_to_end(&mut first);
    preamble.map_err(&unreadable)?;
    let place = preamble_of(&first, whole).map_err(&damaged)?;
    file.seek(SeekFrom::Start(place.offset))
        .and_then(|_| file.take(place.length).read_to_end(&mut json))
        .map_err(&unreadable)?;
    let header = parse(&json, place.digest).map_err(&damaged)?;
    check_header(path, &header, place.offset)?;
    let estimate = MemoryEstimate::packed(&header.config, whole);
    Ok((header.config, estimate))
}

/// What a header says is of these semantics, and right in itself.
fn check_header(path: &Path, header: &Header, offset: u64) -> Result<(), ImportError> {
    if header.semantics != SEMANTICS {
        return Err(ImportError::NotAModel {
            path: path.to_owned(),
            reason: format!(
                "it is a pack of {}, and this engine computes {SEMANTICS}: import the model again",
                header.semantics
            ),
        });
    }
    let damaged = damaged(path);
    check_segments(header, offset).map_err(&damaged)?;
    header.config.check()?;
    check_tensors(header).map_err(&damaged)
}

/// Where a pack's header lies, and its hash.
struct Place {
    offset: u64,
    length: u64,
    digest: Digest,
}

/// Reads preamble and header, and says where the header begins.
fn header(bytes: &[u8]) -> Result<(Header, Digest, u64), String> {
    let place = preamble_of(bytes, bytes.len() as u64)?;
    let header = parse(&bytes[place.offset as usize..], place.digest)?;
    Ok((header, place.digest, place.offset))
}

fn parse(json: &[u8], digest: Digest) -> Result<Header, String> {
    if blake3_of(json) != digest {
        return Err("its header is not the one that was written".to_owned());
    }
    serde_json::from_slice(json).map_err(|e| format!("its header cannot be read: {e}"))
}

/// Reads the first bytes of a pack of `whole` bytes.
fn preamble_of(bytes: &[u8], whole: u64) -> Result<Place, String> {
    let first = bytes.first_chunk::<{ ALIGNMENT as usize }>();
    let first = first.ok_or_else(|| format!("it has {whole} bytes, no pack has so few"))?;
    if first[..8] != *MAGIC {
        return Err("it does not begin with the letters STOAPACK".to_owned());
    }
    let word =
        |at: usize| u32::from_le_bytes([first[at], first[at + 1], first[at + 2], first[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    if word(8) != VERSION || word(12) != 0 {
        return Err(format!(
            "it is a pack of version {}; {VERSION} is read",
            word(8)
        ));
    }
    let (offset, length) = (long(16), long(24));
    let end = offset.checked_add(length);
    match end {
        _ if length > HEADER_LIMIT => return Err(format!("its header claims {length} bytes")),
        Some(end) if end == whole => {}
        Some(end) if end > whole => {
            return Err(format!("it is cut short: {whole} of {end} bytes are there"));
        }
        _ => return Err("its header does not end where the file does".to_owned()),
    }
    if offset < ALIGNMENT {
        return Err("its header lies before the first segment".to_owned());
    }
    let mut digest = Digest::ZERO;
    digest.0.copy_from_slice(&first[32..]);
    Ok(Place {
        offset,
        length,
        digest,
    })
}

/// Segments lie one after another from the first byte after the preamble to the header at `offset`.
fn check_segments(header: &Header, offset: u64) -> Result<(), String> {
    let mut at = ALIGNMENT;
    for segment in header.segments() {
        let next = segment.next().filter(|next| *next <= offset);
        let (true, Some(next)) = (segment.offset == at, next) else {
            let reason = format!(
                "a segment lies at byte {} where {at} is right",
                segment.offset
            );
            return Err(reason);
        };
        at = next;
    }
    if at == offset {
        return Ok(());
    }
    Err(format!(
        "the segments end at byte {at}, the header begins at {offset}"
    ))
}

/// Between the segments that `check_segments` has seen stand zeros.
fn check_gaps(header: &Header, bytes: &[u8]) -> Result<(), String> {
    for segment in header.segments() {
        let end = (segment.offset + segment.bytes) as usize;
        let gap = &bytes[end..end.next_multiple_of(ALIGNMENT as usize)];
        if gap.iter().any(|b| *b != 0) {
            return Err(format!("there is something between segments at byte {end}"));
        }
    }
    Ok(())
}

/// Tensors are those of the shape, each once, in order, of the right size.
fn check_tensors(header: &Header) -> Result<(), String> {
    let c = &header.config;
    let turns = c.architecture.encoder.is_none() || !c.rotary.is_empty();
    if turns && c.rotary.len() != c.head_width / 2 {
        return Err(format!(
            "it has {} rotary frequencies for heads of {}",
            c.rotary.len(),
            c.head_width
        ));
    }
    if c.epsilon_q32 > i64::MAX as u64 {
        return Err(format!("it has the epsilon {}", c.epsilon_q32));
    }
    let mut last = None;
    for tensor in &header.tensors {
        let (role, rows, columns) = (tensor.role, tensor.rows as u64, tensor.columns as u64);
        if last >= Some(role) {
            return Err(format!("tensor {role:?} is out of order"));
        }
        last = Some(role);
        if rows.max(columns) > u64::from(u32::MAX) {
            return Err(format!("tensor {role:?} is {rows} x {columns}"));
        }
        if tensor.exponent.unsigned_abs() > EXPONENT_LIMIT {
            return Err(format!(
                "tensor {role:?} has the exponent {}",
                tensor.exponent
            ));
        }
        let bytes = tensor_bytes(role.kind(), rows, columns);
        if tensor.segment.bytes != bytes {
            return Err(format!(
                "tensor {role:?} of {rows} x {columns} has {} bytes where {bytes} are right",
                tensor.segment.bytes
            ));
        }
    }
    let shapes = header.tensors.iter().map(|t| (t.role, t.rows, t.columns));
    import::check_shapes(&header.config, shapes).map_err(|e| e.to_string())
}

/// Bytes of a segment that `check_segments` has seen.
fn slice<'a>(segment: &Segment, bytes: &'a [u8]) -> &'a [u8] {
    &bytes[segment.offset as usize..][..segment.bytes as usize]
}

fn check_hash(name: &str, segment: &Segment, bytes: &[u8]) -> Result<(), String> {
    if blake3_of(slice(segment, bytes)) == segment.blake3 {
        return Ok(());
    }
    Err(format!("the {name} is not what was written"))
}

/// Compares a matrix with its hash, and refuses numbers beyond what the bounds of docs/iq8.md section 5 allow: -128, a scale of 16 bits,
/// anything in the rows that fill up the last tile.
fn check_matrix(
    name: &str,
    segment: &Segment,
    matrix: &PackedMatrix,
    bytes: &[u8],
) -> Result<(), String> {
    let mut hash = blake3::Hasher::new();
    let (q, scales) = matrix.numbers();
    let mut lowest = 0;
    let content = slice(segment, bytes);
    for piece in content[..q.len()].chunks(PIECE) {
        hash.update(piece);
        lowest = piece.iter().map(|b| *b as i8).fold(lowest, i8::min);
    }
    hash.update(&content[q.len()..]);
    if *hash.finalize().as_bytes() != segment.blake3.0 {
        return Err(format!("the {name} is not what was written"));
    }
    let large = scales.iter().fold(0, |all, scale| all | scale);
    if lowest == i8::MIN || large >> 15 != 0 || !matrix.padding_is_zero() {
        return Err(format!("the {name} holds numbers that no import writes"));
    }
    Ok(())
}
