//! Model files: what they hold, before any of it is turned into integer weights.

pub(crate) mod elements;
pub(crate) mod exact;
mod families;
mod formats;
mod gguf;
mod gguf_model;
mod hf_model;
mod reader;
mod roles;

pub use elements::{Squares, Values};
pub use formats::Format;
pub use roles::{Kind, Part, Role};

use crate::cache::CacheShape;
use crate::config::{Config, MAX_EXPERTS, positive_fixed};
use crate::error::ImportError;
use crate::fixed::{round_shift, saturate};
use crate::ops::{FRACTION, Norm};
use crate::packed::{PackedMatrix, TILE_ROWS};
use crate::parallel;
use crate::tokenizer::TokenizerSource;
use elements::{Pieces, RawTensor, Visit};
use exact::Exact;
use reader::Reader;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Integer weights of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tensor {
    /// Of a matrix.
    Matrix(PackedMatrix),
    /// Of a norm, or of what chooses an expert.
    Norm(Norm),
    /// A bias, 16 fraction bits.
    Bias(Vec<i32>),
}

impl Tensor {
    pub(crate) fn as_ref(&self) -> crate::model::Tensor<'_> {
        match self {
            Self::Matrix(matrix) => crate::model::Tensor::Matrix(matrix),
            Self::Norm(norm) => crate::model::Tensor::Norm(norm),
            Self::Bias(bias) => crate::model::Tensor::Bias(bias),
        }
    }
}

/// All tensors of a model, loaded.
#[derive(Debug, Default)]
pub struct Tensors {
    by_role: BTreeMap<Role, Tensor>,
    /// What their quantisation cost.
    pub losses: Vec<Loss>,
}

impl Tensors {
    /// Takes a matrix out.
    pub fn matrix(&mut self, role: Role) -> Result<PackedMatrix, ImportError> {
        match self.by_role.remove(&role) {
            Some(Tensor::Matrix(matrix)) => Ok(matrix),
            other => Err(not_a(role, "matrix", other.is_some())),
        }
    }

    /// Takes the weights of a norm out.
    pub fn norm(&mut self, role: Role) -> Result<Norm, ImportError> {
        match self.by_role.remove(&role) {
            Some(Tensor::Norm(norm)) => Ok(norm),
            other => Err(not_a(role, "norm", other.is_some())),
        }
    }

    /// Takes a bias out, empty when there is none.
    pub fn maybe_bias(&mut self, role: Role) -> Result<Vec<i32>, ImportError> {
        match self.by_role.remove(&role) {
            None => Ok(Vec::new()),
            Some(Tensor::Bias(bias)) => Ok(bias),
            Some(_) => Err(not_a(role, "bias", true)),
        }
    }

    pub(crate) fn take(&mut self, role: Role) -> Option<Tensor> {
        self.by_role.remove(&role)
    }

    /// Whether there is a tensor of this role.
    pub fn has(&self, role: Role) -> bool {
        self.by_role.contains_key(&role)
    }

    pub(crate) fn put(&mut self, role: Role, tensor: Tensor) {
        self.by_role.insert(role, tensor);
    }
}

fn not_a(role: Role, kind: &str, there: bool) -> ImportError {
    let reason = if there {
        format!("is no {kind}")
    } else {
        "is absent from the file".to_owned()
    };
    ImportError::tensor(format!("{role:?}"), reason)
}

/// What the integer weights of a model's matrices lost against the values in the file, one entry for each format of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The format.
    pub format: Format,
    /// Matrices stored so.
    pub matrices: u32,
    /// Their elements.
    pub elements: u64,
    /// Root mean square of their relative errors, in parts of 10^9.
    pub relative_error_ppb: u64,
}

impl Loss {
    /// Entries of matrices, each with its elements, brought together by format.
    fn collect(matrices: &[(Format, u64, Squares)]) -> Vec<Self> {
        let of = |format| {
            let of_format = matrices.iter().filter(move |(f, ..)| *f == format);
            let elements: u64 = of_format.clone().map(|(_, elements, _)| elements).sum();
            let weighed = of_format.clone().map(|(_, elements, squares)| {
                u128::from(squares.relative_error_ppb()).pow(2) * u128::from(*elements)
            });
            let mean = weighed.sum::<u128>().checked_div(u128::from(elements))?;
            Some(Self {
                format,
                matrices: of_format.count() as u32,
                elements,
                relative_error_ppb: mean.isqrt() as u64,
            })
        };
        Format::ALL.into_iter().filter_map(of).collect()
    }
}

/// Where a tensor's bytes are.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    format: Format,
    rows: usize,
    columns: usize,
    file: PathBuf,
    offset: u64,
    bytes: u64,
    /// Whether rotary pairs are split halves, to be brought together.
    split_halves: bool,
}

/// A model on disk: its description read and checked, its tensors found, nothing loaded.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    config: Config,
    tensors: BTreeMap<Role, Entry>,
    tokenizer: TokenizerSource,
    template: Option<String>,
}

/// Memory that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Bytes of integer weights.
    pub weights: u64,
    /// Bytes of the KV cache of one session that fills the context.
    pub cache: u64,
    /// Pieces of the file, held only while loading: one for each thread.
    pub loading: u64,
}

impl MemoryEstimate {
    /// Of a model in a pack of `weights` bytes.
    pub(crate) fn packed(config: &Config, weights: u64) -> Self {
        Self {
            weights,
            cache: CacheShape::of(config).bytes(config.context),
            loading: 0,
        }
    }

    /// Highest need: while loading, or with one full session.
    pub fn peak(&self) -> u64 {
        self.weights + self.cache.max(self.loading)
    }
}

impl Checkpoint {
    /// Opens a GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let checkpoint = if path.is_dir() {
            hf_model::open(path)?
        } else {
            gguf_model::open(path)?
        };
        checkpoint.config.check()?;
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// Every tensor is there with its right shape, and no other.
    fn check_tensors(&self) -> Result<(), ImportError> {
        check_shapes(&self.config, self.shapes()).map_err(|error| match error {
            // The file's own name for it says more.
            ImportError::Tensor { name, reason } => {
                let entry = self.tensors.iter().find(|(r, _)| format!("{r:?}") == name);
                let name = entry.map_or(name, |(_, entry)| entry.name.clone());
                ImportError::Tensor { name, reason }
            }
            other => other,
        })
    }

    /// Every tensor with its rows and columns, in the order of the model root.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (Role, usize, usize)> {
        self.tensors.iter().map(|(r, e)| (*r, e.rows, e.columns))
    }

    /// Bytes of all tensors in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors.values().map(|e| e.bytes).sum()
    }

    /// Bytes of a tensor in the file.
    pub(crate) fn bytes_of(&self, role: Role) -> u64 {
        self.tensors.get(&role).map_or(0, |e| e.bytes)
    }

    /// What was lost, by format.
    pub(crate) fn losses(&self, lost: &BTreeMap<Role, Squares>) -> Vec<Loss> {
        let of_entry = |(role, squares): (&Role, &Squares)| {
            let entry = self.tensors.get(role)?;
            Some((entry.format, entry.elements(), *squares))
        };
        Loss::collect(&lost.iter().filter_map(of_entry).collect::<Vec<_>>())
    }

    fn entry(&self, role: Role) -> Result<&Entry, ImportError> {
        self.tensors
            .get(&role)
            .ok_or_else(|| ImportError::tensor(format!("{role:?}"), "is absent from the file"))
    }

    /// Name of the model, as its file gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Source of the tokenizer.
    pub fn tokenizer(&self) -> &TokenizerSource {
        &self.tokenizer
    }

    /// Chat template, when the file has one.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Whether the file has a tensor of this role.
    pub fn has(&self, role: Role) -> bool {
        self.tensors.contains_key(&role)
    }

    /// Parameters of the tensors in the file.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(Entry::elements).sum()
    }

    /// Memory that this model will take.
    pub fn memory_estimate(&self) -> MemoryEstimate {
        let c = &self.config;
        let packed = |e: &Entry| PackedMatrix::bytes_for(e.rows as u64, e.columns as u64);
        let piece = |e: &Entry| e.piece_rows() as u64 * (e.bytes / e.rows.max(1) as u64);
        MemoryEstimate {
            weights: self.tensors.values().map(packed).sum(),
            cache: CacheShape::of(c).bytes(c.context),
            loading: self.tensors.values().map(piece).max().unwrap_or(0)
                * parallel::threads() as u64,
        }
    }

    /// Loads all tensors with several threads. `progress` hears the bytes of the file that were read so far, and of how many.
    pub fn load(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Tensors, ImportError> {
        let entries: Vec<_> = self.tensors.iter().collect();
        let (mut tensors, mut lost, mut read) = (Tensors::default(), BTreeMap::new(), 0);
        let work = |index: usize| self.tensor(*entries[index].0);
        parallel::as_done(entries.len(), work, |index, (tensor, squares)| {
            let (role, entry) = entries[index];
            lost.extend(squares.map(|s| (*role, s)));
            tensors.put(*role, tensor);
            read += entry.bytes;
            progress(read, self.bytes());
            Ok(())
        })?;
        tensors.losses = self.losses(&lost);
        Ok(tensors)
    }

    /// Integer weights of a tensor, and what was lost when it is a matrix.
    pub fn tensor(&self, role: Role) -> Result<(Tensor, Option<Squares>), ImportError> {
        let entry = self.entry(role)?;
        let place = |row| self.place(entry, row);
        match role.kind() {
            Kind::Matrix => {
                let (matrix, squares) = entry.raw().matrix(&place)?;
                Ok((Tensor::Matrix(matrix), Some(squares)))
            }
            Kind::Norm => {
                let mut norm = entry.raw().norm()?;
                norm.g = self.in_place(entry, &norm.g);
                Ok((Tensor::Norm(norm), None))
            }
            Kind::Bias => {
                let values = entry.raw().values()?;
                let to_q16 = |x: &i64| saturate(round_shift(*x, values.fraction - FRACTION));
                let bias: Vec<i32> = values.x.iter().map(to_q16).collect();
                Ok((Tensor::Bias(self.in_place(entry, &bias)), None))
            }
        }
    }

    /// Where row or element `from` of a tensor goes: rotary pairs are brought together.
    fn place(&self, entry: &Entry, from: usize) -> usize {
        if !entry.split_halves {
            return from;
        }
        let half = self.config.head_width / 2;
        let (head, within) = (from / (2 * half), from % (2 * half));
        head * 2 * half + 2 * (within % half) + within / half
    }

    /// Elements of a vector with rotary pairs brought together.
    fn in_place<T: Copy>(&self, entry: &Entry, elements: &[T]) -> Vec<T> {
        let mut placed = elements.to_vec();
        for (from, element) in elements.iter().enumerate() {
            placed[self.place(entry, from)] = *element;
        }
        placed
    }

    /// The values of a tensor before quantisation, in the file's own row order, for reference engines.
    pub fn values(&self, role: Role) -> Result<Values, ImportError> {
        self.entry(role)?.raw().values()
    }

    /// Whether the rotary pairs of query and key rows are split halves (safetensors) rather than neighbours (GGUF).
    pub fn split_halves(&self) -> bool {
        self.tensors
            .get(&Role::Layer(0, Part::Query))
            .is_some_and(|e| e.split_halves)
    }
}

/// Every tensor of the shape is there with its right size, and no other.
pub(crate) fn check_shapes(
    c: &Config,
    tensors: impl Iterator<Item = (Role, usize, usize)>,
) -> Result<(), ImportError> {
    let mut tensors: BTreeMap<Role, (usize, usize)> = tensors
        .map(|(role, rows, columns)| (role, (rows, columns)))
        .collect();
    for role in Role::all(c) {
        let (rows, columns) = role.shape(c);
        let Some(found) = tensors.remove(&role) else {
            if role == Role::Output {
                continue;
            }
            let reason = "is absent from the file";
            return Err(ImportError::tensor(format!("{role:?}"), reason));
        };
        let more_rows = matches!(role, Role::Embedding | Role::Output) && found.0 > rows;
        if found.1 != columns || (found.0 != rows && !more_rows) {
            let reason = format!("is {} x {}; {rows} x {columns} is right", found.0, found.1);
            return Err(ImportError::tensor(format!("{role:?}"), reason));
        }
    }
    match tensors.keys().next() {
        Some(role @ Role::Layer(layer, _)) if *layer as usize >= c.layers => {
            let reason = format!(
                "belongs to layer {layer} of a model with {} layers",
                c.layers
            );
            Err(ImportError::tensor(format!("{role:?}"), reason))
        }
        Some(role) => Err(no_place(&format!("{role:?}"))),
        None => Ok(()),
    }
}

/// An epsilon of a model description. LayerNorm's may be so small that nothing is left of it.
fn epsilon(key: &str, value: Option<Exact>, may_vanish: bool) -> Result<u64, ImportError> {
    match value {
        Some(v) if may_vanish && v.mantissa > 0 && v.to_fixed(32) == 0 => Ok(0),
        value => positive_fixed(key, value, 32),
    }
}

/// Fewest bytes of a part of an expert: a block of the smallest format.
const EXPERT_BYTES_MIN: u64 = 18;

/// The parts of a tensor that holds those of all experts of a layer, one after the other.
fn each_expert(
    whole: &Entry,
    count: u64,
    layer: u32,
    part: roles::ExpertPart,
) -> Result<Vec<(Role, Entry)>, ImportError> {
    if count == 0 || count > MAX_EXPERTS as u64 {
        let reason = format!("has {count} experts; 1 to {MAX_EXPERTS} are read");
        return Err(ImportError::tensor(&whole.name, reason));
    }
    let bytes = whole.bytes / count;
    // Each takes memory for its place, so a file must spend bytes on it.
    if bytes < EXPERT_BYTES_MIN {
        let reason = format!("has {bytes} bytes for each of {count} experts");
        return Err(ImportError::tensor(&whole.name, reason));
    }
    let of_expert = |expert: u64| {
        let entry = Entry {
            name: format!("{}[{expert}]", whole.name),
            rows: whole.rows / count as usize,
            offset: whole.offset + expert * bytes,
            bytes,
            ..whole.clone()
        };
        (Role::Layer(layer, part(expert as u32)), entry)
    };
    Ok((0..count).map(of_expert).collect())
}

/// Puts a tensor in its place, which no other may have: which of them the model was meant to have is not known.
fn put(tensors: &mut BTreeMap<Role, Entry>, role: Role, entry: Entry) -> Result<(), ImportError> {
    if let Some(first) = tensors.get(&role) {
        let there = match first.file == entry.file {
            true => String::new(),
            false => format!(" in another file, {}", first.file.display()),
        };
        let reason = format!("has the place of {}{there}", first.name);
        return Err(ImportError::tensor(entry.name, reason));
    }
    tensors.insert(role, entry);
    Ok(())
}

/// The error that a tensor is not one of the architecture's.
fn no_place(name: &str) -> ImportError {
    let reason = "has no place in the architecture; leaving it out would change the answers";
    ImportError::tensor(name, reason)
}

/// Most bytes of a file that are read at once, as far as whole rows allow.
const PIECE_BYTES: u64 = 1 << 20;

impl Entry {
    fn elements(&self) -> u64 {
        self.rows as u64 * self.columns as u64
    }

    /// Rows of a piece, whole tiles where they are short.
    fn piece_rows(&self) -> usize {
        let row = (self.bytes / self.rows.max(1) as u64).max(1);
        let rows = (PIECE_BYTES / row).min(self.rows as u64) as usize;
        if rows > TILE_ROWS {
            rows / TILE_ROWS * TILE_ROWS
        } else {
            rows.max(1)
        }
    }

    fn raw(&self) -> RawTensor<'_> {
        RawTensor {
            name: &self.name,
            format: self.format,
            rows: self.rows,
            columns: self.columns,
            pieces: self,
        }
    }
}

impl Pieces for Entry {
    fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ImportError> {
        let mut reader = Reader::open(&self.file)?;
        reader.seek(self.offset)?;
        reader.expect(&self.name, self.bytes)?;
        let row_bytes = self.bytes as usize / self.rows.max(1);
        let mut piece = vec![0; self.piece_rows() * row_bytes];
        for first in (0..self.rows).step_by(self.piece_rows()) {
            let rows = self.piece_rows().min(self.rows - first);
            let piece = &mut piece[..rows * row_bytes];
            reader.fill(piece)?;
            visit(first, piece)?;
        }
        Ok(())
    }
}
