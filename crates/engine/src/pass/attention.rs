//! Keys and values into pages, and attention over them.

use super::room::{Worker, grow};
use super::{Entry, Row, gather};
use crate::cache::{HeadPage, PAGE, Page, PutRoom, Span};
use crate::config::Config;
use crate::kernel::{LANES, Sums, Work};
use crate::model::Model;
use crate::norms::norm_in_place;
use crate::ops::{self, Norm};
use crate::packed::TILE_ROWS;
use crate::quant::{ACTIVATION_BITS, Quantised};
use std::ops::Range;
use std::sync::Arc;

/// Queries that go over the keys together.
const QUERIES_MAX: usize = 16;

/// Memory of one thread for attention.
#[derive(Debug)]
pub(super) struct AttentionRoom {
    head: Vec<i32>,
    value: Vec<i32>,
    wide: Vec<i64>,
    put: PutRoom,
    queries: Vec<Quantised>,
    scores: Vec<i32>,
    weights: Vec<u32>,
    blend: Vec<i16>,
    value_scales: Vec<u16>,
    value_exponents: Vec<i16>,
    blended: Vec<i64>,
}

impl AttentionRoom {
    pub fn new(head_width: usize) -> Self {
        Self {
            head: vec![0; head_width],
            value: vec![0; head_width],
            wide: vec![0; head_width],
            put: PutRoom::new(head_width),
            queries: Vec::new(),
            scores: Vec::new(),
            weights: Vec::new(),
            blend: Vec::new(),
            value_scales: Vec::new(),
            value_exponents: Vec::new(),
            blended: vec![0; head_width],
        }
    }

    /// Room for the queries of `rows` rows to `positions` positions. It grows by whole pages, so no more often than sequences do.
    pub fn take(&mut self, c: &Config, rows: usize, positions: usize) {
        let queries = rows_together(c).min(rows) * (c.heads / c.kv_heads);
        let positions = positions.next_multiple_of(PAGE);
        if self.queries.len() < queries {
            let query = || Quantised::with_len(c.head_width);
            self.queries.resize_with(queries, query);
        }
        grow(&mut self.scores, queries * positions);
        grow(&mut self.weights, positions);
        grow(&mut self.blend, positions);
        self.value_scales.clear();
        self.value_scales.reserve(positions);
        self.value_exponents.clear();
        self.value_exponents.reserve(positions);
    }
}

/// Most rows of one sequence whose queries go over the keys together.
#[inline(always)]
fn rows_together(c: &Config) -> usize {
    (QUERIES_MAX * c.kv_heads / c.heads).max(1)
}

/// Keys and values of neighbouring positions of some heads into their page.
pub(super) struct Append<'a> {
    pub model: &'a Model,
    /// Queries, keys and values of all rows.
    pub tiled: &'a [i32],
    pub count: usize,
    /// Row of the first position.
    pub first_row: usize,
    pub rotations: &'a [Vec<(i32, i32)>],
    pub span: Span,
    pub first_head: usize,
    /// Of the key heads, where they have one.
    pub norm: Option<&'a Norm>,
    pub heads: &'a mut [HeadPage],
    pub worker: &'a mut Worker,
}

impl Work for Append<'_> {
    #[inline(always)]
    fn run(self) {
        let c = self.model.config();
        let room = &mut self.worker.attention;
        for (head, page) in (self.first_head..).zip(self.heads) {
            let key_at = c.query_width() + head * c.head_width;
            let value_at = key_at + c.kv_width();
            for i in 0..self.span.count {
                let row = self.first_row + i;
                let from = |at: usize| &self.tiled[at * self.count..];
                gather(from(key_at), self.count, row, &mut room.head);
                gather(from(value_at), self.count, row, &mut room.value);
                if let Some(norm) = self.norm {
                    norm_in_place(&mut room.head, norm, c.epsilon_q32, &mut room.wide);
                }
                ops::rotate(&mut room.head, &self.rotations[row]);
                let position = self.span.in_page + i;
                page.put(position, &room.head, &room.value, &mut room.put);
            }
        }
    }
}

/// Attention of the query heads that share one key head, for neighbouring rows of any sequences.
pub(super) struct Attend<'a> {
    pub model: &'a Model,
    pub entries: &'a [Entry<'a>],
    pub rows: &'a [Row],
    pub first_row: usize,
    /// Queries, keys and values of all rows.
    pub tiled: &'a [i32],
    pub count: usize,
    pub rotations: &'a [Vec<(i32, i32)>],
    /// Number of the key head.
    pub head: usize,
    /// Its place in a page.
    pub page_head: usize,
    /// Of the query heads, where they have one.
    pub norm: Option<&'a Norm>,
    /// Positions that a row sees, its own included.
    pub window: usize,
    pub worker: &'a mut Worker,
    /// Row after row, head after head.
    pub out: &'a mut [i32],
}

impl Work for Attend<'_> {
    #[inline(always)]
    fn run(mut self) {
        let group = self.out.len() / self.rows.len();
        let mut out = std::mem::take(&mut self.out);
        let encoder = self.model.config().architecture.encoder.is_some();
        let (mut rows, mut row) = (self.rows, self.first_row);
        let block = rows_together(self.model.config());
        // Rows of one sequence go over its keys together.
        while let Some(first) = rows.first() {
            let alike = rows.iter().take_while(|r| r.entry == first.entry);
            let together = alike.take(block).count();
            let (own, rest) = out.split_at_mut(together * group);
            let pages = self.entries[first.entry].sequence.pages();
            // An encoder's text comes whole, and each of its tokens sees all of it.
            let whole = encoder.then(|| self.entries[first.entry].tokens.len());
            self.attend(pages, row, first.position, whole, own);
            (rows, row, out) = (&rows[together..], row + together, rest);
        }
    }
}

impl Attend<'_> {
    /// Rows of one sequence from `row` on, the first of them at `position`; `whole` is the length that all see.
    #[inline(always)]
    fn attend(
        &mut self,
        pages: &[Arc<Page>],
        row: usize,
        position: usize,
        whole: Option<usize>,
        out: &mut [i32],
    ) {
        let c = self.model.config();
        let (width, shared) = (c.head_width, c.heads / c.kv_heads);
        let queries = out.len() / width;
        let window = self.window;
        let begin = |row: usize| (position + row + 1).saturating_sub(window);
        let ends = |row: usize| whole.unwrap_or(position + row + 1);
        let seen = begin(0)..ends(queries / shared - 1);
        self.make_queries(row, queries, shared);
        let stride = self.score(pages, seen.clone(), queries);
        self.take_values(pages, seen.end);
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let row = i / shared;
            self.blend(pages, i * stride, begin(row)..ends(row), out);
        }
    }

    #[inline(always)]
    fn make_queries(&mut self, row: usize, queries: usize, shared: usize) {
        let width = self.model.config().head_width;
        let room = &mut self.worker.attention;
        for (i, query) in room.queries[..queries].iter_mut().enumerate() {
            let (row, head) = (row + i / shared, self.head * shared + i % shared);
            let tiled = &self.tiled[head * width * self.count..];
            gather(tiled, self.count, row, &mut room.head);
            if let Some(norm) = self.norm {
                let epsilon = self.model.config().epsilon_q32;
                norm_in_place(&mut room.head, norm, epsilon, &mut room.wide);
            }
            ops::rotate(&mut room.head, &self.rotations[row]);
            let factor = self.model.query_factor();
            let fraction = ops::scale_query(&room.head, factor, &mut room.wide);
            query.assign(&room.wide, fraction, ACTIVATION_BITS);
        }
    }

    /// Scores of every query with the positions that are seen, by their number, `stride` (which is returned) of them for a query.
    #[inline(always)]
    fn score(&mut self, pages: &[Arc<Page>], seen: Range<usize>, queries: usize) -> usize {
        let room = &mut self.worker.attention;
        let stride = seen.end.next_multiple_of(TILE_ROWS);
        let mut sums = Sums::default();
        for tile in seen.start / TILE_ROWS..stride / TILE_ROWS {
            let (at, in_page) = (tile * TILE_ROWS, tile % (PAGE / TILE_ROWS));
            let page = &pages[at / PAGE].heads[self.page_head];
            let exponents = &page.key_exponents[in_page * TILE_ROWS..][..TILE_ROWS];
            for (lane, lanes) in room.queries[..queries].chunks(LANES).enumerate() {
                let mut vectors = [&lanes[0]; LANES];
                vectors.iter_mut().zip(lanes).for_each(|(to, v)| *to = v);
                let keys = page.keys.tile(in_page);
                let kernel = self.model.kernel();
                kernel.tile(keys, &vectors[..lanes.len()], &mut sums);
                for (i, (query, sums)) in lanes.iter().zip(&sums).enumerate() {
                    let scores = &mut room.scores[(lane * LANES + i) * stride + at..][..TILE_ROWS];
                    ops::scores(sums, query.exponent, exponents, scores);
                }
            }
        }
        stride
    }

    /// Scales and exponents of the values before `end`, side by side.
    #[inline(always)]
    fn take_values(&mut self, pages: &[Arc<Page>], end: usize) {
        let room = &mut self.worker.attention;
        room.value_scales.clear();
        room.value_exponents.clear();
        for page in &pages[..end.div_ceil(PAGE)] {
            let page = &page.heads[self.page_head];
            room.value_scales.extend_from_slice(&page.value_scales);
            room.value_exponents
                .extend_from_slice(&page.value_exponents);
        }
    }

    /// The value that a query finds at the positions that it sees; its scores begin at `scores`.
    #[inline(always)]
    fn blend(&mut self, pages: &[Arc<Page>], scores: usize, seen: Range<usize>, out: &mut [i32]) {
        let room = &mut self.worker.attention;
        let even = seen.end.next_multiple_of(2);
        let weights = &mut room.weights[..seen.len()];
        let total = ops::softmax_weights(&room.scores[scores..][seen.clone()], weights);
        // The last position of an odd number has no partner: its weight is zero, as are those of the page that are not seen.
        room.blend[even - 1] = 0;
        let first_page = seen.start / PAGE;
        room.blend[first_page * PAGE..seen.start].fill(0);
        let exponent = ops::blend_weights(
            weights,
            &room.value_scales[seen.clone()],
            &room.value_exponents[seen.clone()],
            &mut room.blend[seen],
        );
        room.blended.fill(0);
        let weights = room.blend[first_page * PAGE..even].chunks(PAGE);
        for (page, weights) in pages[first_page..].iter().zip(weights) {
            let values = &page.heads[self.page_head].values;
            let kernel = self.model.kernel();
            kernel.blend(values, weights, &mut room.blended);
        }
        ops::normalise_blend(&room.blended, exponent, total, out);
    }
}
