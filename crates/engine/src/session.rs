//! One sequence of tokens going through the model.

use crate::cache::{HeadCache, Push};
use crate::error::EngineError;
use crate::kernel::{Kernel, LANES, Work};
use crate::model::{Layer, Model};
use crate::ops::{self, FRACTION};
use crate::packed::{PackedMatrix, TILE_ROWS};
use crate::pooling::{self, TextVector};
use crate::quant::{ACTIVATION_BITS, Quantised};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens that go through the model together. The bits do not depend on it.
const CHUNK: usize = 4 * LANES;

/// A sequence and its KV cache. Uses the thread that calls it and no other.
#[derive(Debug, Clone)]
pub struct Session {
    model: Arc<Model>,
    /// Layer after layer, head after head.
    caches: Vec<HeadCache>,
    length: usize,
    logits: Vec<i32>,
    room: Room,
}

/// Buffers, so that a token allocates nothing once the cache has grown.
#[derive(Debug, Clone)]
struct Room {
    residual: Vec<Vec<i32>>,
    rotations: Vec<Vec<(i32, i32)>>,
    wide: Vec<i64>,
    sums: Vec<i64>,
    narrow: Vec<Quantised>,
    heads: Vec<Quantised>,
    hidden: Vec<Quantised>,
    query: Vec<i32>,
    key: Vec<i32>,
    value: Vec<i32>,
    gate: Vec<i32>,
    up: Vec<i32>,
    attention: AttentionRoom,
}

#[derive(Debug, Clone)]
struct AttentionRoom {
    queries: Vec<Quantised>,
    scores: Vec<i32>,
    weights: Vec<u32>,
    blend: Vec<i16>,
    sums: Vec<i64>,
    blended: Vec<i64>,
    wide: Vec<i64>,
    push: Push,
}

impl Room {
    fn new(model: &Model) -> Self {
        let c = model.config();
        let vectors = |width: usize| vec![Quantised::with_len(width); CHUNK];
        Self {
            residual: vec![vec![0; c.width]; CHUNK],
            rotations: vec![Vec::new(); CHUNK],
            wide: vec![0; c.width.max(c.ffn).max(c.query_width())],
            sums: Vec::new(),
            narrow: vectors(c.width),
            heads: vectors(c.query_width()),
            hidden: vectors(c.ffn),
            query: vec![0; CHUNK * c.query_width()],
            key: vec![0; CHUNK * c.kv_width()],
            value: vec![0; CHUNK * c.kv_width()],
            gate: vec![0; CHUNK * c.ffn],
            up: vec![0; CHUNK * c.ffn],
            attention: AttentionRoom {
                queries: vec![Quantised::with_len(c.head_width); c.heads / c.kv_heads],
                scores: Vec::new(),
                weights: Vec::new(),
                blend: Vec::new(),
                sums: Vec::new(),
                blended: vec![0; c.head_width],
                wide: vec![0; c.head_width],
                push: Push::new(c.head_width),
            },
        }
    }
}

impl Session {
    /// An empty sequence.
    pub fn new(model: &Arc<Model>) -> Self {
        let c = model.config();
        Self {
            caches: vec![HeadCache::new(c.head_width); c.layers * c.kv_heads],
            length: 0,
            logits: vec![0; c.vocab],
            room: Room::new(model),
            model: Arc::clone(model),
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens in the sequence.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the sequence is empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets all tokens from `length` on, to continue from a shared beginning.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        for cache in &mut self.caches {
            cache.truncate(length);
        }
    }

    /// Appends tokens and gives the logits after the last one (16 fraction bits). The bits are the same whether tokens come
    /// together or one by one. Nothing is appended when there is an error.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[i32], EngineError> {
        self.prefill_unless(tokens, &AtomicBool::new(false))?;
        Ok(&self.logits)
    }

    /// [`Session::prefill`] that stops between chunks when the flag is raised; says whether it came to the end.
    pub(crate) fn prefill_unless(
        &mut self,
        tokens: &[u32],
        cancel: &AtomicBool,
    ) -> Result<bool, EngineError> {
        self.check(tokens)?;
        let chunks = tokens.chunks(CHUNK);
        let last = chunks.len() - 1;
        for (index, chunk) in chunks.enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let wanted = if index == last {
                Wanted::Logits
            } else {
                Wanted::Nothing
            };
            self.forward(chunk, wanted);
        }
        Ok(true)
    }

    /// The vector of a text: its first `dimensions` elements, or all where that is 0. What the session held is forgotten, and the text
    /// stands in it afterwards. `None` when the flag was raised before the end; it is looked at between parts of the text.
    pub fn text_vector(
        &mut self,
        tokens: &[u32],
        dimensions: usize,
        cancel: &AtomicBool,
    ) -> Result<Option<TextVector>, EngineError> {
        let width = self.model.config().width;
        if dimensions > width {
            return Err(EngineError::TooManyDimensions { dimensions, width });
        }
        self.truncate(0);
        let taken = if dimensions == 0 { width } else { dimensions };
        let mut sums = vec![0; taken];
        let whole = self.add_states(tokens, &mut sums, cancel)?;
        Ok(whole.then(|| pooling::text_vector(&sums)))
    }

    /// Appends tokens and adds the first elements of each one's last state to `sums`; says whether it came to the end. The sums are the
    /// same however a text is cut into calls.
    pub fn add_states(
        &mut self,
        tokens: &[u32],
        sums: &mut [i128],
        cancel: &AtomicBool,
    ) -> Result<bool, EngineError> {
        self.check(tokens)?;
        for chunk in tokens.chunks(CHUNK) {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            self.forward(chunk, Wanted::States(sums));
        }
        Ok(true)
    }

    /// Appends one token and gives the logits after it.
    pub fn step(&mut self, token: u32) -> Result<&[i32], EngineError> {
        self.prefill(&[token])
    }

    /// Logits after the last token.
    pub fn logits(&self) -> &[i32] {
        &self.logits
    }

    fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let c = self.model.config();
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if self.length + tokens.len() > c.context {
            return Err(EngineError::ContextExceeded {
                used: self.length,
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

    fn forward(&mut self, tokens: &[u32], wanted: Wanted<'_>) {
        let model = Arc::clone(&self.model);
        let (c, weights, kernel) = (model.config(), model.weights(), model.kernel());
        for (i, id) in tokens.iter().enumerate() {
            ops::embed(&weights.embedding, *id as usize, &mut self.room.residual[i]);
            ops::rotation(&c.rotary, self.length + i, &mut self.room.rotations[i]);
        }
        let per_layer = self.caches.chunks_exact_mut(c.kv_heads);
        for (layer, caches) in weights.layers.iter().zip(per_layer) {
            kernel.run(LayerPass {
                room: &mut self.room,
                model: &model,
                layer,
                caches,
                count: tokens.len(),
            });
        }
        self.length += tokens.len();
        match wanted {
            Wanted::Nothing => {}
            Wanted::Logits => kernel.run(OutputPass {
                room: &mut self.room,
                model: &model,
                last: tokens.len() - 1,
                logits: &mut self.logits,
            }),
            Wanted::States(sums) => kernel.run(PoolingPass {
                room: &mut self.room,
                model: &model,
                count: tokens.len(),
                sums,
            }),
        }
    }
}

/// What is made of some tokens besides their place in the cache.
enum Wanted<'a> {
    Nothing,
    /// Logits after the last of them.
    Logits,
    /// The first elements of each one's last state, added up here.
    States(&'a mut [i128]),
}

/// One layer for some tokens.
struct LayerPass<'a> {
    room: &'a mut Room,
    model: &'a Model,
    layer: &'a Layer,
    caches: &'a mut [HeadCache],
    count: usize,
}

impl Work for LayerPass<'_> {
    #[inline(always)]
    fn run(self) {
        self.room
            .attend(self.model, self.layer, self.caches, self.count);
        self.room.feed_forward(self.model, self.layer, self.count);
    }
}

/// Logits of one token.
struct OutputPass<'a> {
    room: &'a mut Room,
    model: &'a Model,
    last: usize,
    logits: &'a mut [i32],
}

impl Work for OutputPass<'_> {
    #[inline(always)]
    fn run(self) {
        self.room.logits(self.model, self.last, self.logits);
    }
}

/// Sums of the last states of some tokens.
struct PoolingPass<'a> {
    room: &'a mut Room,
    model: &'a Model,
    count: usize,
    sums: &'a mut [i128],
}

impl Work for PoolingPass<'_> {
    #[inline(always)]
    fn run(self) {
        self.room.pool(self.model, self.count, self.sums);
    }
}

impl Room {
    #[inline(always)]
    fn attend(&mut self, model: &Model, layer: &Layer, caches: &mut [HeadCache], count: usize) {
        let (c, kernel) = (model.config(), model.kernel());
        self.normalise(&layer.attention_norm, c.epsilon_q32, count);
        let (narrow, sums) = (&self.narrow[..count], &mut self.sums);
        project(kernel, &layer.query, narrow, sums, &mut self.query);
        project(kernel, &layer.key, narrow, sums, &mut self.key);
        project(kernel, &layer.value, narrow, sums, &mut self.value);
        for i in 0..count {
            let query = &mut self.query[i * c.query_width()..][..c.query_width()];
            let key = &mut self.key[i * c.kv_width()..][..c.kv_width()];
            let value = &self.value[i * c.kv_width()..][..c.kv_width()];
            ops::rotate(query, &self.rotations[i]);
            ops::rotate(key, &self.rotations[i]);
            let (w, group) = (c.head_width, c.query_width() / c.kv_heads);
            for (head, cache) in caches.iter_mut().enumerate() {
                cache.push(
                    &key[head * w..][..w],
                    &value[head * w..][..w],
                    &mut self.attention.push,
                );
                self.attention
                    .run(model, cache, &mut query[head * group..][..group]);
            }
            let wide = &mut self.wide[..c.query_width()];
            for (to, from) in wide.iter_mut().zip(query.iter()) {
                *to = i64::from(*from);
            }
            self.heads[i].assign(wide, FRACTION, ACTIVATION_BITS);
        }
        let vectors = &self.heads[..count];
        add_projection(
            kernel,
            &layer.attention_output,
            vectors,
            &mut self.sums,
            &mut self.residual,
        );
    }

    #[inline(always)]
    fn feed_forward(&mut self, model: &Model, layer: &Layer, count: usize) {
        let (c, kernel) = (model.config(), model.kernel());
        self.normalise(&layer.ffn_norm, c.epsilon_q32, count);
        let (narrow, sums) = (&self.narrow[..count], &mut self.sums);
        project(kernel, &layer.gate, narrow, sums, &mut self.gate);
        project(kernel, &layer.up, narrow, sums, &mut self.up);
        for i in 0..count {
            let range = i * c.ffn..(i + 1) * c.ffn;
            let wide = &mut self.wide[..c.ffn];
            ops::swiglu(&self.gate[range.clone()], &self.up[range], wide);
            self.hidden[i].assign(wide, 2 * FRACTION, ACTIVATION_BITS);
        }
        add_projection(
            kernel,
            &layer.down,
            &self.hidden[..count],
            &mut self.sums,
            &mut self.residual,
        );
    }

    /// Normalised and quantised residuals, in `narrow`.
    #[inline(always)]
    fn normalise(&mut self, norm: &ops::Norm, epsilon_q32: u64, count: usize) {
        for i in 0..count {
            self.normalise_one(norm, epsilon_q32, i, i);
        }
    }

    #[inline(always)]
    fn normalise_one(&mut self, norm: &ops::Norm, epsilon_q32: u64, from: usize, to: usize) {
        let wide = &mut self.wide[..norm.g.len()];
        let fraction = ops::rms_norm(&self.residual[from], norm, epsilon_q32, wide);
        self.narrow[to].assign(wide, fraction, ACTIVATION_BITS);
    }

    #[inline(always)]
    fn pool(&mut self, model: &Model, count: usize, sums: &mut [i128]) {
        let norm = &model.weights().output_norm;
        let wide = &mut self.wide[..norm.g.len()];
        for residual in &self.residual[..count] {
            ops::rms_norm(residual, norm, model.config().epsilon_q32, wide);
            for (sum, z) in sums.iter_mut().zip(wide.iter()) {
                *sum += i128::from(*z);
            }
        }
    }

    #[inline(always)]
    fn logits(&mut self, model: &Model, last: usize, logits: &mut [i32]) {
        let weights = model.weights();
        let output = weights.output.as_ref().unwrap_or(&weights.embedding);
        self.normalise_one(&weights.output_norm, model.config().epsilon_q32, last, 0);
        let vectors = &self.narrow[..1];
        multiply(model.kernel(), output, vectors, &mut self.sums);
        ops::finish(&self.sums, output.exponent + vectors[0].exponent, logits);
    }
}

impl AttentionRoom {
    /// Attention of the query heads that share one key head; the output takes the place of the queries.
    #[inline(always)]
    fn run(&mut self, model: &Model, cache: &HeadCache, queries: &mut [i32]) {
        let (width, length) = (model.config().head_width, cache.len());
        for (query, head) in self.queries.iter_mut().zip(queries.chunks_exact(width)) {
            let fraction = ops::scale_query(head, model.query_factor(), &mut self.wide);
            query.assign(&self.wide, fraction, ACTIVATION_BITS);
        }
        self.scores.resize(length, 0);
        self.weights.resize(length, 0);
        self.blend.resize(length.next_multiple_of(2), 0);
        multiply(model.kernel(), &cache.keys, &self.queries, &mut self.sums);
        let stride = cache.keys.tiles() * TILE_ROWS;
        for (i, out) in queries.chunks_exact_mut(width).enumerate() {
            let sums = &self.sums[i * stride..][..length];
            let total = ops::softmax_weights(
                sums,
                self.queries[i].exponent,
                &cache.key_exponents,
                &mut self.scores,
                &mut self.weights,
            );
            // The last position of an odd number has no partner: its weight is zero.
            if let Some(partner) = self.blend.get_mut(length) {
                *partner = 0;
            }
            let exponent = ops::blend_weights(
                &mut self.weights,
                &cache.value_scales,
                &cache.value_exponents,
                &mut self.blend,
            );
            model
                .kernel()
                .blend(&cache.values, &self.blend, &mut self.blended);
            ops::normalise_blend(&self.blended, exponent, total, out);
        }
    }
}

/// `sums` = matrix times vectors, rows padded to tiles.
#[inline(always)]
fn multiply(kernel: Kernel, matrix: &PackedMatrix, vectors: &[Quantised], sums: &mut Vec<i64>) {
    let length = matrix.tiles() * TILE_ROWS * vectors.len();
    // Never shortened: growing again would write zeros over and over.
    if sums.len() < length {
        sums.resize(length, 0);
    }
    kernel.multiply(matrix, vectors, &mut sums[..length]);
}

#[inline(always)]
fn project(
    kernel: Kernel,
    matrix: &PackedMatrix,
    vectors: &[Quantised],
    sums: &mut Vec<i64>,
    out: &mut [i32],
) {
    multiply(kernel, matrix, vectors, sums);
    let stride = matrix.tiles() * TILE_ROWS;
    let rows = out.chunks_exact_mut(matrix.rows());
    for ((vector, sums), out) in vectors.iter().zip(sums.chunks_exact(stride)).zip(rows) {
        ops::finish(sums, matrix.exponent + vector.exponent, out);
    }
}

#[inline(always)]
fn add_projection(
    kernel: Kernel,
    matrix: &PackedMatrix,
    vectors: &[Quantised],
    sums: &mut Vec<i64>,
    residual: &mut [Vec<i32>],
) {
    multiply(kernel, matrix, vectors, sums);
    let stride = matrix.tiles() * TILE_ROWS;
    for ((vector, sums), residual) in vectors.iter().zip(sums.chunks_exact(stride)).zip(residual) {
        ops::finish_onto(sums, matrix.exponent + vector.exponent, residual);
    }
}
