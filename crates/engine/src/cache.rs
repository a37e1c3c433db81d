//! Keys and values of earlier positions, int8, in pages that sequences may share.

use crate::config::Config;
use crate::packed::{PackedMatrix, PackedValues};
use crate::quant::{BLOCK, CACHE_BITS, Quantised, quantise_whole};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Positions of a page.
pub const PAGE: usize = 64;

/// One key and value head of one layer for the positions of a page.
///
/// A key has 15-bit scales per block of 32 and an exponent; a value has one 15-bit scale for the head and an exponent.
#[derive(Debug, Clone)]
pub(crate) struct HeadPage {
    pub keys: PackedMatrix,
    pub key_exponents: [i16; PAGE],
    pub values: PackedValues,
    pub value_scales: [u16; PAGE],
    pub value_exponents: [i16; PAGE],
}

impl HeadPage {
    fn new(width: usize) -> Self {
        let mut values = PackedValues::new(width);
        values.resize(PAGE);
        Self {
            keys: PackedMatrix::zeros(PAGE, width),
            key_exponents: [0; PAGE],
            values,
            value_scales: [0; PAGE],
            value_exponents: [0; PAGE],
        }
    }

    /// Writes the key (after rotation) and value of one position, both with 16 fraction bits.
    #[inline(always)]
    pub fn put(&mut self, position: usize, key: &[i32], value: &[i32], room: &mut PutRoom) {
        widen(key, &mut room.wide);
        room.key
            .assign(&room.wide, crate::ops::FRACTION, CACHE_BITS);
        let blocks = room.key.q.chunks_exact(BLOCK).zip(&room.key.scale);
        for (block, (q, scale)) in blocks.enumerate() {
            self.keys.set_block(position, block, q, *scale as u16);
        }
        self.key_exponents[position] = room.key.exponent as i16;
        widen(value, &mut room.wide);
        let (scale, exponent) = quantise_whole(
            &room.wide,
            crate::ops::FRACTION,
            CACHE_BITS,
            &mut room.value,
        );
        self.values.set(position, &room.value);
        self.value_scales[position] = scale as u16;
        self.value_exponents[position] = exponent as i16;
    }
}

/// Room that [`HeadPage::put`] works in.
#[derive(Debug, Clone)]
pub(crate) struct PutRoom {
    wide: Vec<i64>,
    key: Quantised,
    value: Vec<i8>,
}

impl PutRoom {
    /// Room for heads of `width`.
    pub fn new(width: usize) -> Self {
        Self {
            wide: vec![0; width],
            key: Quantised::with_len(width),
            value: vec![0; width],
        }
    }
}

fn widen(from: &[i32], to: &mut [i64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = i64::from(*from);
    }
}

/// [`PAGE`] positions of every key head of every layer. Its memory goes back to where it came from.
#[derive(Debug)]
pub(crate) struct Page {
    /// Layer after layer, head after head.
    pub heads: Vec<HeadPage>,
    pages: Arc<Pages>,
}

impl Clone for Page {
    fn clone(&self) -> Self {
        let mut page = self.pages.page();
        page.heads.clone_from(&self.heads);
        page
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.pages.take_back(std::mem::take(&mut self.heads));
    }
}

/// What sequences of a model keep for each position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_width: usize,
}

impl CacheShape {
    pub fn of(config: &Config) -> Self {
        Self {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_width: config.head_width,
        }
    }

    /// Bytes of the pages of `positions`.
    pub fn bytes(self, positions: usize) -> u64 {
        self.page_bytes() * positions.div_ceil(PAGE) as u64
    }

    /// Bytes of a page.
    pub fn page_bytes(self) -> u64 {
        let (heads, width) = (
            self.layers as u64 * self.kv_heads as u64,
            self.head_width as u64,
        );
        // Keys with their block scales and exponents, values with their scales and exponents.
        let position = width + width / BLOCK as u64 * 2 + 2 + width + 2 + 2;
        let head = PAGE as u64 * position + size_of::<HeadPage>() as u64 - 6 * PAGE as u64;
        heads * head
    }
}

/// Where sequences get pages from. It counts those in use and keeps the memory of some that are not, so that a machine that serves
/// one answer after the other asks the system for nothing.
#[derive(Debug)]
pub(crate) struct Pages {
    shape: CacheShape,
    /// Pages in use.
    live: AtomicUsize,
    /// Most free ones that are kept.
    keep: usize,
    free: Mutex<Vec<Vec<HeadPage>>>,
}

impl Pages {
    /// Keeps the memory of at most `keep` pages that nobody uses.
    pub fn new(shape: CacheShape, keep: usize) -> Arc<Self> {
        Arc::new(Self {
            shape,
            live: AtomicUsize::new(0),
            keep,
            free: Mutex::default(),
        })
    }

    /// Pages in use.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// A page of any content: each position is written before it is read.
    fn page(self: &Arc<Self>) -> Page {
        self.live.fetch_add(1, Ordering::Relaxed);
        let kept = self.free().pop();
        let (c, heads) = (self.shape, self.shape.layers * self.shape.kv_heads);
        Page {
            heads: kept.unwrap_or_else(|| vec![HeadPage::new(c.head_width); heads]),
            pages: Arc::clone(self),
        }
    }

    fn take_back(&self, heads: Vec<HeadPage>) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        let mut free = self.free();
        if free.len() < self.keep {
            free.push(heads);
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<HeadPage>>> {
        // A list is whole after each of its changes.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens that a model has seen one after the other: their keys and values. A clone shares the pages that both leave as they are.
#[derive(Debug, Clone)]
pub struct Sequence {
    from: Arc<Pages>,
    pages: Vec<Arc<Page>>,
    length: usize,
}

impl Sequence {
    /// An empty one, for models of this shape.
    pub fn new(config: &Config) -> Self {
        Self::with_pages(&Pages::new(CacheShape::of(config), 0))
    }

    /// An empty one that takes its pages from there.
    pub(crate) fn with_pages(from: &Arc<Pages>) -> Self {
        Self {
            from: Arc::clone(from),
            pages: Vec::new(),
            length: 0,
        }
    }

    /// One that begins with full pages of another.
    pub(crate) fn beginning_with(from: &Arc<Pages>, pages: Vec<Arc<Page>>) -> Self {
        Self {
            from: Arc::clone(from),
            length: pages.len() * PAGE,
            pages,
        }
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets all tokens from `length` on, to go on from a shared beginning.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.pages.truncate(self.length.div_ceil(PAGE));
    }

    pub(crate) fn shape(&self) -> CacheShape {
        self.from.shape
    }

    /// Key and value head of a layer at a position: for replays.
    pub(crate) fn entry(&self, layer: usize, head: usize, position: usize) -> [CacheEntry; 2] {
        let page = &self.pages[position / PAGE].heads[layer * self.from.shape.kv_heads + head];
        let at = position % PAGE;
        let (q, scales) = page.keys.row(at);
        let key = CacheEntry {
            q,
            scales,
            exponent: page.key_exponents[at],
        };
        let columns = 0..page.values.columns();
        let value = CacheEntry {
            q: columns.map(|column| page.values.get(at, column)).collect(),
            scales: vec![page.value_scales[at]],
            exponent: page.value_exponents[at],
        };
        [key, value]
    }

    pub(crate) fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// Pages for `more` positions after the last one.
    pub(crate) fn make_room(&mut self, more: usize) {
        let pages = (self.length + more).div_ceil(PAGE);
        while self.pages.len() < pages {
            self.pages.push(Arc::new(self.from.page()));
        }
    }

    /// The pages of the next `more` positions, this sequence's own from now on, each with the positions of it that they are:
    /// their number in the page and among the `more`.
    pub(crate) fn next_pages(&mut self, more: usize) -> impl Iterator<Item = (&mut Page, Span)> {
        let (first, end) = (self.length, self.length + more);
        let from = first / PAGE;
        self.pages[from..end.div_ceil(PAGE)]
            .iter_mut()
            .enumerate()
            .map(move |(i, page)| {
                let start = (from + i) * PAGE;
                let begin = first.max(start);
                let span = Span {
                    in_page: begin - start,
                    in_pass: begin - first,
                    count: end.min(start + PAGE) - begin,
                };
                (Arc::make_mut(page), span)
            })
    }

    /// Counts `more` positions as filled.
    pub(crate) fn grow(&mut self, more: usize) {
        self.length += more;
    }
}

/// A key or value head of one position, out of the order in which kernels read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheEntry {
    pub q: Vec<i8>,
    pub scales: Vec<u16>,
    pub exponent: i16,
}

/// Neighbouring positions, seen from a page and from a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// First of them in the page.
    pub in_page: usize,
    /// First of them among a sequence's tokens of the pass.
    pub in_pass: usize,
    /// How many.
    pub count: usize,
}
