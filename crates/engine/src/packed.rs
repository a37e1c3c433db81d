//! Weight matrices and key caches in the order in which kernels read them.
//!
//! Sixteen rows form a tile. Inside a tile, block after block of 32 columns; inside a block, eight groups of four columns; inside
//! a group, row after row, four bytes each. One 64-byte load thus holds four columns of sixteen rows. The order is private to
//! this crate: hashes and disputes see rows ([`PackedMatrix::row`]).

use crate::mapping::MappedNumbers;
use crate::quant::BLOCK;
use crate::storage::Storage;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a group.
const GROUP: usize = 4;
/// Bytes of one block of a tile.
pub const TILE_BLOCK: usize = TILE_ROWS * BLOCK;

/// Sixteen rows in kernel order.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// Elements: block after block, each of [`TILE_BLOCK`] bytes.
    q: &'a [i8],
    /// Scales: block after block, one for each row.
    scale: &'a [u16],
}

impl<'a> Tile<'a> {
    /// Elements: block after block, each of [`TILE_BLOCK`] bytes.
    pub fn q(self) -> &'a [i8] {
        self.q
    }

    /// Scales: block after block, one for each row.
    pub fn scale(self) -> &'a [u16] {
        self.scale
    }

    /// Blocks in a row.
    pub fn blocks(self) -> usize {
        self.scale.len() / TILE_ROWS
    }

    /// One block of one row.
    pub fn block(self, row: usize, block: usize) -> ([i8; BLOCK], u16) {
        let mut q = [0; BLOCK];
        let start = block * TILE_BLOCK + row * GROUP;
        for (group, four) in q.chunks_exact_mut(GROUP).enumerate() {
            four.copy_from_slice(&self.q[start + group * TILE_ROWS * GROUP..][..GROUP]);
        }
        (q, self.scale[block * TILE_ROWS + row])
    }
}

/// Rows of int8 blocks with a scale per block. Element `(r, c)` stands for `q * scale[r][c / 32] * 2^exponent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedMatrix {
    rows: usize,
    blocks: usize,
    q: Storage<i8>,
    scale: Storage<u16>,
    /// Exponent of the whole matrix; key caches keep theirs per row elsewhere.
    pub exponent: i32,
}

impl PackedMatrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        let mut matrix = Self {
            rows: 0,
            blocks: columns / BLOCK,
            q: Storage::default(),
            scale: Storage::default(),
            exponent: 0,
        };
        matrix.resize_rows(rows);
        matrix
    }

    /// A matrix in a mapped file. The lengths are those that [`Self::lengths`] gives.
    pub fn mapped(
        rows: usize,
        columns: usize,
        q: MappedNumbers<i8>,
        scale: MappedNumbers<u16>,
    ) -> Self {
        debug_assert_eq!((q.len(), scale.len()), Self::lengths(rows, columns));
        Self {
            rows,
            blocks: columns / BLOCK,
            q: Storage::Mapped(q),
            scale: Storage::Mapped(scale),
            exponent: 0,
        }
    }

    /// Numbers of elements and of scales that a matrix holds, its last tile filled up.
    pub fn lengths(rows: usize, columns: usize) -> (usize, usize) {
        let blocks = rows.div_ceil(TILE_ROWS) * (columns / BLOCK);
        (blocks * TILE_BLOCK, blocks * TILE_ROWS)
    }

    /// All elements and all scales, in kernel order.
    pub fn numbers(&self) -> (&[i8], &[u16]) {
        (&self.q, &self.scale)
    }

    /// Whether the rows that fill up the last tile are zeros.
    pub fn padding_is_zero(&self) -> bool {
        let padding = self.rows..self.tiles() * TILE_ROWS;
        let mut blocks = padding.flat_map(|row| (0..self.blocks).map(move |b| (row, b)));
        blocks.all(|(row, block)| self.block(row, block) == ([0; BLOCK], 0))
    }

    /// Bytes that `rows` x `columns` take.
    pub fn bytes_for(rows: u64, columns: u64) -> u64 {
        let padded = rows.div_ceil(TILE_ROWS as u64) * TILE_ROWS as u64;
        padded.saturating_mul(columns + columns / BLOCK as u64 * 2)
    }

    /// Adds rows of zeros, or forgets the last ones.
    pub fn resize_rows(&mut self, rows: usize) {
        let tiles = rows.div_ceil(TILE_ROWS);
        let q = self.q.to_mut();
        q.resize(tiles * self.blocks * TILE_BLOCK, 0);
        let scale = self.scale.to_mut();
        scale.resize(tiles * self.blocks * TILE_ROWS, 0);
        self.rows = rows;
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Blocks in a row.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Number of tiles, the last one padded with zeros.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// One tile.
    #[inline(always)]
    pub fn tile(&self, tile: usize) -> Tile<'_> {
        Tile {
            q: &self.q[tile * self.blocks * TILE_BLOCK..][..self.blocks * TILE_BLOCK],
            scale: &self.scale[tile * self.blocks * TILE_ROWS..][..self.blocks * TILE_ROWS],
        }
    }

    fn offset(&self, row: usize, block: usize) -> usize {
        ((row / TILE_ROWS) * self.blocks + block) * TILE_BLOCK + (row % TILE_ROWS) * GROUP
    }

    fn scale_index(&self, row: usize, block: usize) -> usize {
        ((row / TILE_ROWS) * self.blocks + block) * TILE_ROWS + row % TILE_ROWS
    }

    /// Writes one block of a row.
    pub fn set_block(&mut self, row: usize, block: usize, q: &[i8], scale: u16) {
        let start = self.offset(row, block);
        let own = &mut self.q.to_mut()[start..];
        for (group, four) in q.chunks_exact(GROUP).enumerate() {
            own[group * TILE_ROWS * GROUP..][..GROUP].copy_from_slice(four);
        }
        let index = self.scale_index(row, block);
        self.scale.to_mut()[index] = scale;
    }

    /// Reads one block of a row.
    pub fn block(&self, row: usize, block: usize) -> ([i8; BLOCK], u16) {
        self.tile(row / TILE_ROWS).block(row % TILE_ROWS, block)
    }

    /// One row as hashes see it: all elements, then all scales.
    pub fn row(&self, row: usize) -> (Vec<i8>, Vec<u16>) {
        let (mut q, mut scales) = (Vec::with_capacity(self.columns()), Vec::new());
        for block in 0..self.blocks {
            let (elements, scale) = self.block(row, block);
            q.extend(elements);
            scales.push(scale);
        }
        (q, scales)
    }
}

/// A value cache of one head: positions in pairs, and inside a pair column after column, two bytes each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedValues {
    columns: usize,
    q: Vec<i8>,
}

impl PackedValues {
    /// An empty cache of vectors of `columns` elements.
    pub fn new(columns: usize) -> Self {
        Self {
            columns,
            q: Vec::new(),
        }
    }

    /// Elements of a vector.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Makes room for `positions` vectors.
    pub fn resize(&mut self, positions: usize) {
        self.q.resize(positions.div_ceil(2) * 2 * self.columns, 0);
    }

    /// Writes the vector of one position.
    pub fn set(&mut self, position: usize, q: &[i8]) {
        let start = position / 2 * 2 * self.columns + position % 2;
        for (column, value) in q.iter().enumerate() {
            self.q[start + 2 * column] = *value;
        }
    }

    /// One element.
    pub fn get(&self, position: usize, column: usize) -> i8 {
        self.q[position / 2 * 2 * self.columns + 2 * column + position % 2]
    }

    /// All elements in kernel order.
    pub fn elements(&self) -> &[i8] {
        &self.q
    }
}
