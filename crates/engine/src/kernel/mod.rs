//! The inner loops: a scalar reference, and vector paths that give the same bits.
//!
//! Integer sums below the overflow bounds do not depend on their order, so a path is right exactly when it forms the same
//! products. The bounds: a block product sum is at most `32 * 127 * 127 < 2^19`; times a 16-bit activation scale and a 15-bit
//! weight scale it stays below `2^50`; over at most [`MAX_BLOCKS`] blocks below `2^62`.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::packed::{PackedMatrix, PackedValues, TILE_BLOCK, TILE_ROWS, Tile};
use crate::quant::{BLOCK, Quantised};

/// Most blocks in a row that the overflow bound allows.
pub const MAX_BLOCKS: usize = 4096;
/// Vectors that one pass over a tile serves.
pub const LANES: usize = 4;

/// Sums of a tile's rows with each of some vectors.
pub type Sums = [[i64; TILE_ROWS]; LANES];

/// Pairs of positions whose products an `i32` holds: `256 * 2 * 32767 * 127 < 2^31`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const PAIRS_PER_FLUSH: usize = 256;

/// Two weights as one 32-bit lane, the earlier position low.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn weight_pair(pair: &[i16]) -> i32 {
    i32::from(pair[0] as u16) | i32::from(pair[1]) << 16
}

/// Which inner loops run. All give the same bits. A value other than [`Kernel::SCALAR`] comes only from [`Kernel::available`],
/// so that a kernel never runs on a processor without its instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Path);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Plain Rust, the reference.
    Scalar,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors with int8 dot-product instructions.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// 128-bit vectors of every 64-bit ARM processor.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same with int8 dot-product instructions.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

/// Work that is compiled once per kernel. `run` and what it calls must be `#[inline(always)]`: only what is inlined uses the
/// kernel's instructions (a closure would not be).
pub(crate) trait Work {
    /// Does it.
    fn run(self);
}

impl Kernel {
    /// Plain Rust, the reference.
    pub const SCALAR: Self = Self(Path::Scalar);

    /// Every kernel that this processor can run, the fastest first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                found.push(Self(Path::Avx512Vnni));
            }
            if is_x86_feature_detected!("avx2") {
                found.push(Self(Path::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                found.push(Self(Path::NeonDot));
            }
            found.push(Self(Path::Neon));
        }
        found.push(Self::SCALAR);
        found
    }

    /// The fastest available kernel.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Its name for reports.
    pub fn name(self) -> &'static str {
        match self.0 {
            Path::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Path::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Path::NeonDot => "neon-dot",
        }
    }

    /// Runs `work`, compiled for this kernel's instructions. Integer code has the same result with any instructions.
    pub(crate) fn run(self, work: impl Work) {
        match self.0 {
            Path::Scalar => work.run(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => x86::run_avx2(work),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Vnni => x86::run_avx512(work),
            // What this processor always has is used without asking.
            #[cfg(target_arch = "aarch64")]
            Path::Neon => work.run(),
            #[cfg(target_arch = "aarch64")]
            Path::NeonDot => neon::run_dot(work),
        }
    }

    /// `sums[v][r] = sum over blocks of (row r . vector v) * scale * scale`, for at most [`LANES`] vectors as long as a row.
    #[inline(always)]
    pub fn tile(self, tile: Tile<'_>, vectors: &[&Quantised], sums: &mut Sums) {
        let blocks = tile.blocks();
        assert!(blocks <= MAX_BLOCKS, "checked at import");
        assert!(
            vectors.len() <= LANES,
            "a pass serves this many vectors at most"
        );
        // The vector paths read these without looking at their lengths.
        assert_eq!(tile.q().len(), blocks * TILE_BLOCK, "whole blocks");
        for vector in vectors {
            assert!(
                vector.q.len() == blocks * BLOCK
                    && vector.scale.len() == blocks
                    && vector.offset.len() == blocks,
                "vector and row are as long"
            );
        }
        match self.0 {
            Path::Scalar => scalar::tile(tile, vectors, sums),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => x86::tile_avx2(tile, vectors, sums),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Vnni => x86::tile_avx512(tile, vectors, sums),
            #[cfg(target_arch = "aarch64")]
            Path::Neon => neon::tile_neon(tile, vectors, sums),
            #[cfg(target_arch = "aarch64")]
            Path::NeonDot => neon::tile_dot(tile, vectors, sums),
        }
    }

    /// A whole matrix: `out[v][r] = sum over blocks of (row r . vector v) * scale * scale`, rows padded to whole tiles.
    pub fn multiply(self, matrix: &PackedMatrix, vectors: &[Quantised], out: &mut [i64]) {
        let stride = matrix.tiles() * TILE_ROWS;
        assert_eq!(
            out.len(),
            stride * vectors.len(),
            "one sum per row and vector"
        );
        let mut sums = Sums::default();
        for (vectors, out) in vectors.chunks(LANES).zip(out.chunks_mut(LANES * stride)) {
            let vectors: Vec<&Quantised> = vectors.iter().collect();
            for tile in 0..matrix.tiles() {
                self.tile(matrix.tile(tile), &vectors, &mut sums);
                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(stride)) {
                    out[tile * TILE_ROWS..][..TILE_ROWS].copy_from_slice(sums);
                }
            }
        }
    }

    /// `out[c] += sum over positions of weight * value[position][c]`, weights in `[0, 2^15)`.
    #[inline(always)]
    pub fn blend(self, values: &PackedValues, weights: &[i16], out: &mut [i64]) {
        assert_eq!(out.len(), values.columns(), "one sum per column");
        assert_eq!(values.columns() % BLOCK, 0, "checked at import");
        assert_eq!(weights.len() % 2, 0, "positions come in pairs");
        assert!(weights.len() * values.columns() <= values.elements().len());
        match self.0 {
            Path::Scalar => scalar::blend(values, weights, out),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => x86::blend_avx2(values, weights, out),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Vnni => x86::blend_avx512(values, weights, out),
            #[cfg(target_arch = "aarch64")]
            Path::Neon | Path::NeonDot => neon::blend_neon(values, weights, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::ACTIVATION_BITS;
    use proptest::prelude::*;

    /// A small generator: tests need variety, not quality.
    fn noise(state: &mut u64) -> i64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 16) as i64
    }

    fn random_matrix(rows: usize, blocks: usize, extreme: bool, state: &mut u64) -> PackedMatrix {
        let mut matrix = PackedMatrix::zeros(rows, blocks * BLOCK);
        for row in 0..rows {
            for block in 0..blocks {
                let mut q = [0i8; BLOCK];
                for q in &mut q {
                    *q = if extreme {
                        if noise(state) & 1 == 0 { 127 } else { -127 }
                    } else {
                        (noise(state).rem_euclid(255) - 127) as i8
                    };
                }
                let scale = if extreme {
                    32_767
                } else {
                    noise(state).rem_euclid(32_768) as u16
                };
                matrix.set_block(row, block, &q, scale);
            }
        }
        matrix
    }

    fn random_vectors(count: usize, len: usize, state: &mut u64) -> Vec<Quantised> {
        (0..count)
            .map(|_| {
                let values: Vec<i64> = (0..len)
                    .map(|_| (noise(state) % (1 << 31)) - (1 << 30))
                    .collect();
                let mut vector = Quantised::with_len(len);
                vector.assign(&values, 16, ACTIVATION_BITS);
                vector
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_kernel_multiplies_like_the_reference(
            rows in 1usize..70, blocks in 1usize..9, count in 1usize..10, extreme in any::<bool>(), seed in any::<u64>(),
        ) {
            let mut state = seed;
            let matrix = random_matrix(rows, blocks, extreme, &mut state);
            let vectors = random_vectors(count, blocks * BLOCK, &mut state);
            let len = matrix.tiles() * TILE_ROWS * count;
            let mut reference = vec![0; len];
            Kernel::SCALAR.multiply(&matrix, &vectors, &mut reference);
            for kernel in Kernel::available() {
                let mut out = vec![1; len];
                kernel.multiply(&matrix, &vectors, &mut out);
                prop_assert_eq!(&out, &reference, "{}", kernel.name());
            }
        }

        #[test]
        fn every_kernel_blends_like_the_reference(
            pairs in 1usize..600, blocks in 1usize..5, extreme in any::<bool>(), seed in any::<u64>(),
        ) {
            let mut state = seed;
            let mut values = PackedValues::new(blocks * BLOCK);
            values.resize(2 * pairs);
            for position in 0..2 * pairs {
                let q: Vec<i8> = (0..blocks * BLOCK)
                    .map(|_| if extreme { -127 } else { (noise(&mut state).rem_euclid(255) - 127) as i8 })
                    .collect();
                values.set(position, &q);
            }
            let weights: Vec<i16> = (0..2 * pairs)
                .map(|_| if extreme { 32_767 } else { noise(&mut state).rem_euclid(32_768) as i16 })
                .collect();
            let mut reference = vec![5; blocks * BLOCK];
            Kernel::SCALAR.blend(&values, &weights, &mut reference);
            for kernel in Kernel::available() {
                let mut out = vec![5; blocks * BLOCK];
                kernel.blend(&values, &weights, &mut out);
                prop_assert_eq!(&out, &reference, "{}", kernel.name());
            }
        }
    }

    #[test]
    fn a_vector_whose_parts_differ_in_length_is_refused_before_any_pointer_is_made() {
        let matrix = PackedMatrix::zeros(16, 2 * BLOCK);
        for kernel in Kernel::available() {
            for part in 0..2 {
                let mut vector = Quantised::with_len(2 * BLOCK);
                [&mut vector.scale, &mut vector.offset][part].pop();
                let refused = std::panic::catch_unwind(|| {
                    kernel.multiply(&matrix, std::slice::from_ref(&vector), &mut [0; 16]);
                });
                assert!(refused.is_err(), "{}", kernel.name());
            }
        }
    }

    #[test]
    fn the_longest_row_of_extreme_values_does_not_overflow() {
        let mut state = 7;
        let mut matrix = PackedMatrix::zeros(1, MAX_BLOCKS * BLOCK);
        for block in 0..MAX_BLOCKS {
            matrix.set_block(0, block, &[-127; BLOCK], 32_767);
        }
        let mut vectors = random_vectors(1, MAX_BLOCKS * BLOCK, &mut state);
        vectors[0].q.fill(127);
        vectors[0].scale.fill(65_535);
        vectors[0].offset.fill(-128 * 127 * 32);
        let expected = -(32 * 127 * 127) * 32_767 * 65_535 * MAX_BLOCKS as i64;
        for kernel in Kernel::available() {
            let mut out = vec![0; TILE_ROWS];
            kernel.multiply(&matrix, &vectors, &mut out);
            assert_eq!(out[0], expected, "{}", kernel.name());
        }
    }
}
