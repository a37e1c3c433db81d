//! Writing a pack from a model file, a few tensors at a time.

use super::{ALIGNMENT, Header, MAGIC, PlacedTensor, Segment, VERSION, blake3_of, tensor_bytes};
use crate::chat::ChatTemplate;
use crate::config::Config;
use crate::error::ImportError;
use crate::import::{Checkpoint, Loss, Role, Tensor};
use crate::mapping::bytes_of;
use crate::parallel;
use crate::root::{self, SEMANTICS};
use crate::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use stoa_types::Digest;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Name of the pack: BLAKE3 of its header.
    pub digest: Digest,
    /// Root of the model.
    pub root: Digest,
    /// Length of the file.
    pub bytes: u64,
    /// What quantisation cost, by format of the source.
    pub losses: Vec<Loss>,
}

/// A tensor ready to be written.
struct Ready {
    content: Vec<u8>,
    exponent: i32,
    blake3: Digest,
    leaves: Vec<Digest>,
}

/// Writes the model to `file`, which is empty. `progress` hears the bytes of the source that are done and all of them, and may stop
/// the work.
pub fn write(
    source: &Checkpoint,
    file: &mut (impl Write + Seek),
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Packed, ImportError> {
    super::read::refuse_big_endian()?;
    let config = checked_config(source)?;
    let mut header = plan(source, config);
    let texts = [Some(source.tokenizer().json()), source.template()];
    let placed = [Some(header.tokenizer_json), header.template];
    for (text, segment) in texts
        .into_iter()
        .flatten()
        .zip(placed.into_iter().flatten())
    {
        put(file, segment.offset, text.as_bytes())?;
    }
    let (leaves, losses) = write_tensors(source, &mut header, file, progress)?;
    header.root = root::of_leaves(
        &header.config,
        source.tokenizer(),
        source.template(),
        leaves,
    );
    header.losses = losses;
    let end = header.segments().last().and_then(Segment::next);
    let offset = end.ok_or_else(|| ImportError::metadata("model", "is too large for a pack"))?;
    let json = serde_json::to_vec(&header)
        .map_err(|e| ImportError::metadata("header of the pack", e.to_string()))?;
    put(file, offset, &json)?;
    let digest = blake3_of(&json);
    let mut first = MAGIC.to_vec();
    first.extend(VERSION.to_le_bytes());
    first.extend([0; 4]);
    first.extend(offset.to_le_bytes());
    first.extend((json.len() as u64).to_le_bytes());
    first.extend(digest.0);
    put(file, 0, &first)?;
    file.flush().map_err(failed)?;
    Ok(Packed {
        digest,
        root: header.root,
        bytes: offset + json.len() as u64,
        losses: header.losses,
    })
}

/// The shape with the vocabulary that the tokenizer has, once tokenizer and template are known to work.
fn checked_config(source: &Checkpoint) -> Result<Config, ImportError> {
    let tokenizer = Tokenizer::new(source.tokenizer())?;
    source.template().map(ChatTemplate::new).transpose()?;
    source.config().with_tokens(tokenizer.len())
}

/// Where everything will lie. Hashes, exponents and the root are still open.
fn plan(source: &Checkpoint, config: Config) -> Header {
    let mut at = ALIGNMENT;
    let mut place = |bytes: u64, blake3: Digest| {
        let segment = Segment {
            offset: at,
            bytes,
            blake3,
        };
        at = segment.next().unwrap_or(u64::MAX);
        segment
    };
    let mut text = |text: &str| place(text.len() as u64, blake3_of(text.as_bytes()));
    let tokenizer_json = text(source.tokenizer().json());
    let template = source.template().map(text);
    let tensors = source.shapes().map(|(role, rows, columns)| {
        let bytes = tensor_bytes(role.kind(), rows as u64, columns as u64);
        PlacedTensor {
            role,
            rows,
            columns,
            exponent: 0,
            segment: place(bytes, Digest::ZERO),
        }
    });
    Header {
        semantics: SEMANTICS.to_owned(),
        root: Digest::ZERO,
        name: source.name().to_owned(),
        config,
        parameters: source.parameters(),
        losses: Vec::new(),
        tokenizer: source.tokenizer().clone(),
        tokenizer_json,
        template,
        tensors: tensors.collect(),
    }
}

/// Leaves of the tensors in the order of the model root, and what was lost.
type Written = (Vec<Digest>, Vec<Loss>);

fn write_tensors(
    source: &Checkpoint,
    header: &mut Header,
    file: &mut (impl Write + Seek),
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Written, ImportError> {
    // The largest first: what is left at the end is small, and all threads finish at about the same time.
    let mut order: Vec<(usize, Role)> = header.tensors.iter().map(|t| t.role).enumerate().collect();
    order.sort_by_key(|(index, _)| std::cmp::Reverse(header.tensors[*index].segment.bytes));
    let work = |i: usize| {
        let (tensor, squares) = source.tensor(order[i].1)?;
        Ok((ready(order[i].1, tensor), squares))
    };
    let all = source.bytes();
    let (mut done, mut leaves, mut lost) = (0, BTreeMap::new(), BTreeMap::new());
    parallel::as_done(order.len(), work, |i, (ready, squares)| {
        let (index, role) = order[i];
        let tensor = &mut header.tensors[index];
        put(file, tensor.segment.offset, &ready.content)?;
        tensor.exponent = ready.exponent;
        tensor.segment.blake3 = ready.blake3;
        leaves.insert(role, ready.leaves);
        lost.extend(squares.map(|s| (role, s)));
        done += source.bytes_of(role);
        match progress(done, all) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ImportError::Stopped),
        }
    })?;
    let leaves = leaves.into_values().flatten().collect();
    Ok((leaves, source.losses(&lost)))
}

fn ready(role: Role, tensor: Tensor) -> Ready {
    let leaves = root::tensor_leaves(role.number(), tensor.as_ref());
    let (content, exponent) = match tensor {
        Tensor::Matrix(matrix) => {
            let (q, scale) = matrix.numbers();
            let mut content = Vec::with_capacity(q.len() + 2 * scale.len());
            content.extend_from_slice(bytes_of(q));
            content.extend_from_slice(bytes_of(scale));
            (content, matrix.exponent)
        }
        Tensor::Norm(norm) => (
            norm.g.iter().flat_map(|g| g.to_le_bytes()).collect(),
            norm.exponent,
        ),
        Tensor::Bias(bias) => (bias.iter().flat_map(|b| b.to_le_bytes()).collect(), 0),
    };
    Ready {
        blake3: blake3_of(&content),
        content,
        exponent,
        leaves,
    }
}

/// Writes at `offset`. What lies between two writes is zeros, as in every new file.
fn put(file: &mut (impl Write + Seek), offset: u64, bytes: &[u8]) -> Result<(), ImportError> {
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}

fn failed(source: std::io::Error) -> ImportError {
    ImportError::Write { source }
}
