//! A pass: tokens of one or more sequences through all layers of the model at once.
//!
//! Rows (one for each token) share every reading of the weights. Between the operators numbers stand *tiled*: sixteen columns of
//! every row, then the next sixteen columns of every row. So a tile of a matrix writes one piece of memory whatever the number of
//! rows, and threads share a matrix by its tiles without touching each other's numbers.

mod attention;
mod encoder;
mod feed_forward;
mod product;
mod room;

use crate::cache::{CacheShape, Sequence};
use crate::config::Pooling;
use crate::error::EngineError;
use crate::kernel::Work;
use crate::model::{Layer, LayerNorm, Linear, Model};
use crate::ops::{self, FRACTION};
use crate::packed::{PackedMatrix, TILE_ROWS};
use crate::quant::{ACTIVATION_BITS, Quantised};
use crate::threads::Threads;
use attention::{Append, Attend};
use product::{Product, Term};
use room::{Room, Worker};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows that a pass takes well: more gain little and need more memory.
pub const ROWS: usize = 64;

/// The tokens of one sequence in a pass.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Where they are appended.
    pub sequence: &'a mut Sequence,
    /// At least one.
    pub tokens: &'a [u32],
    /// What is made of them besides their place in the cache.
    pub wanted: Wanted<'a>,
}

/// What is made of the tokens of an entry.
#[derive(Debug)]
pub enum Wanted<'a> {
    /// Nothing: a part of a prompt that is not the last.
    Nothing,
    /// Logits after the last token, 16 fraction bits.
    Last(&'a mut Vec<i32>),
    /// Logits after each token, one after the other.
    Each(&'a mut Vec<i32>),
    /// The first elements of each token's last state, added up here.
    States(&'a mut [i128]),
    /// Logits after the last token, and the residual after the last layer that they are made of.
    LastState {
        /// 16 fraction bits.
        residual: &'a mut Vec<i32>,
        /// 16 fraction bits.
        logits: &'a mut Vec<i32>,
    },
    /// The residual after the last layer of each token, one after the other, and logits after the last token.
    Residuals {
        /// 16 fraction bits.
        residuals: &'a mut Vec<i32>,
        /// 16 fraction bits.
        logits: &'a mut Vec<i32>,
    },
}

/// A token of a pass.
#[derive(Debug, Clone, Copy)]
struct Row {
    entry: usize,
    position: usize,
}

/// Runs passes: threads and the memory they work in. Nothing of a sequence stays here.
#[derive(Debug)]
pub struct Runner {
    model: Arc<Model>,
    threads: Threads,
    room: Room,
}

impl Runner {
    /// A runner with threads of its own.
    pub fn new(model: &Arc<Model>, threads: Threads) -> Self {
        Self {
            model: Arc::clone(model),
            room: Room::new(model, threads.count()),
            threads,
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Threads that share a pass.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Takes a token through the model, so that all weights are in memory when the first caller comes.
    pub(crate) fn warm_up(&mut self) {
        let mut sequence = Sequence::new(self.model.config());
        let entry = Entry {
            sequence: &mut sequence,
            tokens: &[0],
            wanted: Wanted::Last(&mut Vec::new()),
        };
        // A vocabulary has a token 0 and a context one position: nothing to refuse.
        let _ = self.run(&mut [entry]);
    }

    /// Appends the tokens of every entry to its sequence. The bits of each are the same whatever other entries there are and however
    /// its tokens are cut into passes. On an error nothing is appended anywhere.
    pub fn run(&mut self, entries: &mut [Entry<'_>]) -> Result<(), EngineError> {
        for entry in entries.iter() {
            self.check(entry.sequence, entry.tokens)?;
            self.check_encoder(entry)?;
        }
        let (model, room) = (&*self.model, &mut self.room);
        let rows: usize = entries.iter().map(|entry| entry.tokens.len()).sum();
        let mut pass = |threads: &Threads| Pass::begin(model, threads, room, entries).run(entries);
        // To share less would cost others more time than it saves.
        match (model.info().bytes).saturating_mul(rows as u64) {
            0 => {}
            work if work < PASS => pass(&Threads::one()),
            _ => self.threads.run_closely(|| pass(&self.threads)),
        }
        Ok(())
    }

    /// Whether the model continues texts.
    pub(crate) fn check_answers(&self) -> Result<(), EngineError> {
        match self.model.config().architecture.encoder {
            None => Ok(()),
            Some(_) => Err(EngineError::Encoder),
        }
    }

    /// An encoder's text comes whole, and nothing is made of it but its states.
    fn check_encoder(&self, entry: &Entry<'_>) -> Result<(), EngineError> {
        if self.model.config().architecture.encoder.is_none() {
            return Ok(());
        }
        match entry.wanted {
            Wanted::States(_) if entry.sequence.is_empty() => Ok(()),
            Wanted::States(_) => Err(EngineError::TextInParts),
            _ => Err(EngineError::Encoder),
        }
    }

    /// Whether these tokens can be appended to this sequence.
    pub(crate) fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<(), EngineError> {
        let c = self.model.config();
        if sequence.shape() != CacheShape::of(c) {
            return Err(EngineError::OtherShape);
        }
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if sequence.len() + tokens.len() > c.context {
            return Err(EngineError::ContextExceeded {
                used: sequence.len(),
                more: tokens.len(),
                context: c.context,
            });
        }
        match tokens.iter().find(|id| **id as usize >= c.vocab) {
            Some(id) => Err(EngineError::UnknownToken {
                id: *id,
                vocab: c.vocab,
            }),
            None => Ok(()),
        }
    }
}

struct Pass<'a> {
    model: &'a Model,
    threads: &'a Threads,
    room: &'a mut Room,
    /// Rows of the pass.
    count: usize,
}

impl<'a> Pass<'a> {
    /// Room for the pass, and the embeddings and rotations of its rows.
    fn begin(
        model: &'a Model,
        threads: &'a Threads,
        room: &'a mut Room,
        entries: &mut [Entry<'_>],
    ) -> Self {
        room.rows.clear();
        for (number, entry) in entries.iter_mut().enumerate() {
            let first = entry.sequence.len();
            entry.sequence.make_room(entry.tokens.len());
            room.rows.extend((0..entry.tokens.len()).map(|i| Row {
                entry: number,
                position: first + i,
            }));
        }
        let count = room.rows.len();
        room.take(model, count);
        let (c, weights) = (model.config(), model.weights());
        let tokens = entries.iter().flat_map(|entry| entry.tokens);
        for (row, id) in tokens.enumerate() {
            let place = &mut room.workers[0]
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .row;
            ops::embed(&weights.embedding, *id as usize, &mut place[..c.width]);
            if let Some(encoder) = &weights.encoder {
                let (position, more) = (room.rows[row].position, &mut room.normalised[..c.width]);
                encoder::embed(encoder, position, &mut place[..c.width], more);
            }
            spread(&place[..c.width], &mut room.residual, count, row);
        }
        for (row, rotation) in room.rows.iter().zip(&mut room.rotations) {
            ops::rotation(&c.rotary, row.position, rotation);
        }
        let mut pass = Self {
            model,
            threads,
            room,
            count,
        };
        if let Some(encoder) = &weights.encoder {
            pass.layer_norm(&encoder.norm);
        }
        pass
    }

    fn run(mut self, entries: &mut [Entry<'_>]) {
        let model = self.model;
        for (number, layer) in model.weights().layers.iter().enumerate() {
            self.attention(number, layer, entries);
            self.feed_forward(layer);
        }
        for entry in entries.iter_mut() {
            entry.sequence.grow(entry.tokens.len());
        }
        self.residuals(entries);
        self.logits(entries);
        self.pool(entries);
    }

    /// Residuals for the entries that want them.
    fn residuals(&self, entries: &mut [Entry<'_>]) {
        let width = self.model.config().width;
        let mut first = 0;
        for entry in entries.iter_mut() {
            let rows = first..first + entry.tokens.len();
            first = rows.end;
            let (rows, residuals) = match &mut entry.wanted {
                Wanted::Residuals { residuals, .. } => (rows, residuals),
                Wanted::LastState { residual, .. } => (rows.end - 1..rows.end, residual),
                _ => continue,
            };
            residuals.resize(rows.len() * width, 0);
            for (row, out) in rows.zip(residuals.chunks_exact_mut(width)) {
                gather(&self.room.residual, self.count, row, out);
            }
        }
    }

    fn attention(&mut self, number: usize, layer: &Layer, entries: &mut [Entry<'_>]) {
        self.enter(&layer.attention_norm);
        let matrices = [&layer.query, &layer.key, &layer.value].map(term);
        self.product(&matrices, Rows::Narrow, Out::QueryKeyValue);
        self.append(number, layer, entries);
        self.attend(number, layer, entries);
        self.gather_heads();
        let output = [term(&layer.attention_output)];
        self.product(&output, Rows::Heads, Out::Residual);
        self.leave(&layer.attention_norm);
    }

    /// What a part of a layer takes: the residual, normalised first unless the part is followed by its norm.
    fn enter(&mut self, norm: &LayerNorm) {
        let encoder = self.model.config().architecture.encoder.is_some();
        self.normalise((!encoder).then_some(&norm.norm));
    }

    /// What a part of a layer leaves: the residual, normalised where the norm follows.
    fn leave(&mut self, norm: &LayerNorm) {
        if self.model.config().architecture.encoder.is_some() {
            self.layer_norm(norm);
        }
    }

    /// Normalised and quantised residuals, in `narrow`.
    fn normalise(&mut self, norm: Option<&ops::Norm>) {
        let (model, threads, count) = (self.model, self.threads, self.count);
        let Room {
            residual,
            narrow,
            workers,
            ..
        } = &mut *self.room;
        let residual = &residual[..];
        let work = model.config().width * ELEMENT;
        threads.share(&mut narrow[..count], 1, work, |first, out| {
            model.kernel().run(Normalise {
                residual,
                count,
                first,
                norm,
                epsilon_q32: model.config().epsilon_q32,
                worker: &mut own(threads, workers),
                out,
            });
        });
    }

    /// Matrices times rows: into a place of its own, or added to the residual.
    fn product(&mut self, matrices: &[Term<'_>], rows: Rows, out: Out) {
        let (kernel, threads, count) = (self.model.kernel(), self.threads, self.count);
        let tiles = matrices.iter().map(|(m, _)| m.tiles()).sum::<usize>();
        let work = tile_work(matrices[0].0, count);
        let Room {
            narrow,
            heads,
            hidden,
            query_key_value,
            residual,
            ..
        } = &mut *self.room;
        let vectors = match rows {
            Rows::Narrow => &narrow[..count],
            Rows::Heads => &heads[..count],
            Rows::Hidden => &hidden[..count],
        };
        let (out, add) = match out {
            Out::QueryKeyValue => (query_key_value, false),
            Out::Residual => (residual, true),
        };
        let row = count * TILE_ROWS;
        threads.share(&mut out[..tiles * row], row, work, |first_tile, out| {
            kernel.run(Product {
                kernel,
                matrices,
                first_tile,
                vectors,
                add,
                out,
            });
        });
    }

    /// Keys and values of the rows into their pages.
    fn append(&mut self, number: usize, layer: &Layer, entries: &mut [Entry<'_>]) {
        let (model, threads, count) = (self.model, self.threads, self.count);
        let (kv_heads, width) = (model.config().kv_heads, model.config().head_width);
        let room = &*self.room;
        let mut first = 0;
        for entry in entries.iter_mut() {
            let more = entry.tokens.len();
            for (page, span) in entry.sequence.next_pages(more) {
                let heads = &mut page.heads[number * kv_heads..][..kv_heads];
                let work = span.count * 2 * width * ELEMENT;
                threads.share(heads, 1, work, |first_head, heads| {
                    model.kernel().run(Append {
                        model,
                        tiled: &room.query_key_value,
                        count,
                        first_row: first + span.in_pass,
                        rotations: &room.rotations,
                        span,
                        first_head,
                        norm: layer.head_norms.as_ref().map(|[_, key]| key),
                        heads,
                        worker: &mut own(threads, &room.workers),
                    });
                });
            }
            first += more;
        }
    }

    /// Attention of all heads: `attended` holds, key head after key head, the heads of every row that share it.
    fn attend(&mut self, number: usize, layer: &Layer, entries: &[Entry<'_>]) {
        let (model, threads, count) = (self.model, self.threads, self.count);
        let c = model.config();
        let group = c.query_width() / c.kv_heads;
        let Room {
            query_key_value,
            rotations,
            rows,
            workers,
            attended,
            ..
        } = &mut *self.room;
        let (tiled, rotations, rows, workers) = (
            &query_key_value[..],
            &rotations[..],
            &rows[..],
            &workers[..],
        );
        let positions: usize = rows.iter().map(|row| row.position + 1).sum();
        let head_work = positions * (2 * group + c.heads / c.kv_heads * ELEMENT);
        let out = &mut attended[..count * c.query_width()];
        threads.share(out, count * group, head_work, |first_head, out| {
            for (i, out) in out.chunks_exact_mut(count * group).enumerate() {
                let head = first_head + i;
                threads.share(out, group, head_work / count, |first_row, out| {
                    model.kernel().run(Attend {
                        model,
                        entries,
                        rows: &rows[first_row..][..out.len() / group],
                        first_row,
                        tiled,
                        count,
                        rotations,
                        head,
                        page_head: number * c.kv_heads + head,
                        norm: layer.head_norms.as_ref().map(|[query, _]| query),
                        window: c.window(number),
                        worker: &mut own(threads, workers),
                        out,
                    });
                });
            }
        });
    }

    /// The heads of every row together, quantised.
    fn gather_heads(&mut self) {
        let (model, threads, count) = (self.model, self.threads, self.count);
        let c = model.config();
        let group = c.query_width() / c.kv_heads;
        let Room {
            attended,
            heads,
            workers,
            ..
        } = &mut *self.room;
        let attended = &attended[..];
        let work = c.query_width() * ELEMENT;
        threads.share(&mut heads[..count], 1, work, |first, out| {
            let mut worker = own(threads, workers);
            let wide = &mut worker.wide[..c.query_width()];
            for (i, out) in out.iter_mut().enumerate() {
                let row = first + i;
                for (head, wide) in wide.chunks_exact_mut(group).enumerate() {
                    let from = &attended[(head * count + row) * group..][..group];
                    wide.iter_mut()
                        .zip(from)
                        .for_each(|(to, from)| *to = i64::from(*from));
                }
                model.kernel().run(Quantise {
                    wide,
                    fraction: FRACTION,
                    out,
                });
            }
        });
    }

    /// Logits of the rows that somebody wants them of.
    fn logits(&mut self, entries: &mut [Entry<'_>]) {
        let (model, threads, count) = (self.model, self.threads, self.count);
        let weights = model.weights();
        let output = weights.output.as_ref().unwrap_or(&weights.embedding);
        let vocab = model.config().vocab;
        let Room {
            residual,
            narrow,
            output: tiled,
            wanted: rows,
            workers,
            ..
        } = &mut *self.room;
        rows.clear();
        visit_logits(entries, |more, _| rows.extend(more));
        if rows.is_empty() {
            return;
        }
        for (row, out) in rows.iter().zip(narrow.iter_mut()) {
            model.kernel().run(Normalise {
                residual,
                count,
                first: *row,
                norm: weights.output_norm.as_ref(),
                epsilon_q32: model.config().epsilon_q32,
                worker: &mut own(threads, workers),
                out: std::slice::from_mut(out),
            });
        }
        let (tiles, row) = (output.tiles(), rows.len() * TILE_ROWS);
        if tiled.len() < tiles * row {
            tiled.resize(tiles * row, 0);
        }
        let work = tile_work(output, rows.len());
        let vectors = &narrow[..rows.len()];
        let kernel = model.kernel();
        threads.share(&mut tiled[..tiles * row], row, work, |first_tile, out| {
            kernel.run(Product {
                kernel,
                matrices: &[(output, &[])],
                first_tile,
                vectors,
                add: false,
                out,
            });
        });
        let mut next = 0;
        visit_logits(entries, |wanted, logits| {
            logits.resize(wanted.len() * vocab, 0);
            for logits in logits.chunks_exact_mut(vocab) {
                gather(tiled, rows.len(), next, logits);
                next += 1;
            }
        });
    }

    /// Sums of last states for the entries that want them.
    fn pool(&mut self, entries: &mut [Entry<'_>]) {
        let mut first = 0;
        for entry in entries.iter_mut() {
            if let Wanted::States(sums) = &mut entry.wanted {
                for row in first..first + entry.tokens.len() {
                    self.add_state(row, sums);
                }
            }
            first += entry.tokens.len();
        }
    }

    fn add_state(&mut self, row: usize, sums: &mut [i128]) {
        let (c, weights) = (self.model.config(), self.model.weights());
        let first_alone = matches!(c.architecture.encoder, Some(e) if e.pooling == Pooling::First);
        if first_alone && self.room.rows[row].position != 0 {
            return;
        }
        let mut worker = own(self.threads, &self.room.workers);
        let Worker {
            row: place, wide, ..
        } = &mut *worker;
        let (place, wide) = (&mut place[..c.width], &mut wide[..c.width]);
        gather(&self.room.residual, self.count, row, place);
        match &weights.output_norm {
            Some(norm) => {
                ops::rms_norm(place, norm, c.epsilon_q32, wide);
            }
            None => widen(place, wide),
        }
        for (sum, z) in sums.iter_mut().zip(wide.iter()) {
            *sum += i128::from(*z);
        }
    }
}

/// Calls `visit` with the rows of every entry that logits are wanted of, and where these go.
fn visit_logits(entries: &mut [Entry<'_>], mut visit: impl FnMut(Range<usize>, &mut Vec<i32>)) {
    let mut first = 0;
    for entry in entries {
        let rows = first..first + entry.tokens.len();
        first = rows.end;
        match &mut entry.wanted {
            Wanted::Nothing | Wanted::States(_) => {}
            Wanted::Last(logits)
            | Wanted::LastState { logits, .. }
            | Wanted::Residuals { logits, .. } => visit(first - 1..first, logits),
            Wanted::Each(logits) => visit(rows, logits),
        }
    }
}

/// A matrix with its bias, as a product takes it.
fn term(linear: &Linear) -> Term<'_> {
    (&linear.matrix, &linear.bias)
}

#[inline(always)]
fn widen(from: &[i32], to: &mut [i64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = i64::from(*from);
    }
}

/// Which vectors a product takes.
#[derive(Clone, Copy)]
enum Rows {
    Narrow,
    Heads,
    Hidden,
}

/// Where a product goes.
#[derive(Clone, Copy)]
enum Out {
    QueryKeyValue,
    Residual,
}

/// RMSNorm, where there is one, and quantisation of neighbouring rows.
struct Normalise<'a> {
    residual: &'a [i32],
    count: usize,
    first: usize,
    norm: Option<&'a ops::Norm>,
    epsilon_q32: u64,
    worker: &'a mut Worker,
    out: &'a mut [Quantised],
}

impl Work for Normalise<'_> {
    #[inline(always)]
    fn run(self) {
        for (i, out) in self.out.iter_mut().enumerate() {
            let width = out.q.len();
            let (place, wide) = (
                &mut self.worker.row[..width],
                &mut self.worker.wide[..width],
            );
            gather(self.residual, self.count, self.first + i, place);
            let fraction = match self.norm {
                Some(norm) => ops::rms_norm(place, norm, self.epsilon_q32, wide),
                None => {
                    widen(place, wide);
                    FRACTION
                }
            };
            out.assign(wide, fraction, ACTIVATION_BITS);
        }
    }
}

struct Quantise<'a> {
    wide: &'a [i64],
    fraction: i32,
    out: &'a mut Quantised,
}

impl Work for Quantise<'_> {
    #[inline(always)]
    fn run(self) {
        self.out.assign(self.wide, self.fraction, ACTIVATION_BITS);
    }
}

/// Weights times rows of a pass from which on other threads help, and stay awake between its products.
const PASS: u64 = 1 << 24;
/// A weight is read in the time of so many multiplications, whatever the number of rows (measured with weights in the last cache).
const READ: usize = 8;
/// An element of a row takes as long in RMSNorm, softmax or quantisation as so many multiplications in a matrix.
const ELEMENT: usize = 64;

/// Multiplications of a tile with some rows, and the time of reading it.
fn tile_work(matrix: &PackedMatrix, rows: usize) -> usize {
    TILE_ROWS * matrix.columns() * (READ + rows)
}

/// The memory of the thread that asks. Nobody else uses it, so the lock is always free.
fn own<'a>(threads: &Threads, workers: &'a [Mutex<Worker>]) -> MutexGuard<'a, Worker> {
    let worker = &workers[threads.own_number()];
    // Whatever a thread that panicked left there is overwritten before it is read.
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One row of tiled numbers.
#[inline(always)]
fn gather<T: Copy>(tiled: &[T], count: usize, row: usize, out: &mut [T]) {
    for (tile, out) in out.chunks_mut(TILE_ROWS).enumerate() {
        out.copy_from_slice(&tiled[(tile * count + row) * TILE_ROWS..][..out.len()]);
    }
}

/// One row into tiled numbers.
#[inline(always)]
fn spread<T: Copy>(row_of: &[T], tiled: &mut [T], count: usize, row: usize) {
    for (tile, from) in row_of.chunks(TILE_ROWS).enumerate() {
        tiled[(tile * count + row) * TILE_ROWS..][..from.len()].copy_from_slice(from);
    }
}
