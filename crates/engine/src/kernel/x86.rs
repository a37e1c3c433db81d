//! Vector paths for x86-64, and the only unsafe code of the crate.
//!
//! Each public function is reached only through a [`super::Kernel`] value that `Kernel::available` made after asking the
//! processor for the features, and after [`super::Kernel`] has checked the lengths that the pointers below rely on.
#![allow(unsafe_code)]

use super::Work;
use crate::packed::{PackedMatrix, PackedValues, TILE_BLOCK, TILE_ROWS};
use crate::quant::{BLOCK, Quantised};
use std::arch::x86_64::*;

/// Pairs of positions whose products an `i32` holds: `256 * 2 * 32767 * 127 < 2^31`.
const PAIRS_PER_FLUSH: usize = 256;

/// Calls `$tile::<N>` for the vectors in groups of four, then for what remains.
macro_rules! by_lanes {
    ($tile:ident, $matrix:ident, $vectors:ident, $out:ident) => {{
        let stride = $matrix.tiles() * TILE_ROWS;
        for (group, out) in $vectors.chunks(4).zip($out.chunks_mut(4 * stride)) {
            // SAFETY: the kernel was chosen after detection of its features; lengths were checked by the caller.
            unsafe {
                match group {
                    [a, b, c, d] => $tile::<4>($matrix, [a, b, c, d], out),
                    [a, b, c] => $tile::<3>($matrix, [a, b, c], out),
                    [a, b] => $tile::<2>($matrix, [a, b], out),
                    [a] => $tile::<1>($matrix, [a], out),
                    _ => {}
                }
            }
        }
    }};
}

pub(super) fn multiply_avx512(matrix: &PackedMatrix, vectors: &[Quantised], out: &mut [i64]) {
    by_lanes!(tiles_avx512, matrix, vectors, out);
}

pub(super) fn multiply_avx2(matrix: &PackedMatrix, vectors: &[Quantised], out: &mut [i64]) {
    by_lanes!(tiles_avx2, matrix, vectors, out);
}

/// Runs `work` with AVX2.
pub(super) fn run_avx2(work: impl Work) {
    #[target_feature(enable = "avx2")]
    unsafe fn inner(work: impl Work) {
        work.run();
    }
    // SAFETY: the kernel was chosen after detection of its features.
    unsafe { inner(work) }
}

/// Runs `work` with AVX-512.
pub(super) fn run_avx512(work: impl Work) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn inner(work: impl Work) {
        work.run();
    }
    // SAFETY: the kernel was chosen after detection of its features.
    unsafe { inner(work) }
}

/// Four bytes of a vector, as one 32-bit lane.
///
/// # Safety
/// `q` holds at least `4 * (group + 1)` bytes from `block` on.
#[inline(always)]
unsafe fn four(vector: &Quantised, block: usize, group: usize) -> i32 {
    // SAFETY: the caller's promise; unaligned reads are allowed.
    unsafe {
        vector
            .q
            .as_ptr()
            .add(block * BLOCK + group * 4)
            .cast::<i32>()
            .read_unaligned()
    }
}

/// # Safety
/// Needs the features named; every vector is as long as a row; `out` holds `N * tiles * 16` sums.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tiles_avx512<const N: usize>(
    matrix: &PackedMatrix,
    vectors: [&Quantised; N],
    out: &mut [i64],
) {
    let stride = matrix.tiles() * TILE_ROWS;
    let flip = _mm512_set1_epi8(-128);
    for tile in 0..matrix.tiles() {
        let (q, scale) = (matrix.tile_q(tile), matrix.tile_scale(tile));
        let mut even = [_mm512_setzero_si512(); N];
        let mut odd = [_mm512_setzero_si512(); N];
        for block in 0..matrix.blocks() {
            // SAFETY: a tile holds `blocks * 512` elements and `blocks * 16` scales; vectors hold `blocks * 32` elements.
            unsafe {
                let weights = q.as_ptr().add(block * TILE_BLOCK).cast::<__m512i>();
                let scales = scale.as_ptr().add(block * TILE_ROWS).cast::<__m256i>();
                let row_scale = _mm512_cvtepu16_epi32(_mm256_loadu_si256(scales));
                let mut w = [_mm512_setzero_si512(); 8];
                for (group, w) in w.iter_mut().enumerate() {
                    // w + 128 as unsigned: the instruction multiplies unsigned by signed bytes.
                    *w = _mm512_xor_si512(_mm512_loadu_si512(weights.add(group)), flip);
                }
                for n in 0..N {
                    let mut dot = _mm512_set1_epi32(*vectors[n].offset.get_unchecked(block));
                    for (group, w) in w.iter().enumerate() {
                        let x = _mm512_set1_epi32(four(vectors[n], block, group));
                        dot = _mm512_dpbusd_epi32(dot, *w, x);
                    }
                    let own = _mm512_set1_epi32(*vectors[n].scale.get_unchecked(block));
                    let factor = _mm512_mullo_epi32(row_scale, own);
                    even[n] = _mm512_add_epi64(even[n], _mm512_mul_epi32(dot, factor));
                    let high = _mm512_mul_epi32(
                        _mm512_srli_epi64::<32>(dot),
                        _mm512_srli_epi64::<32>(factor),
                    );
                    odd[n] = _mm512_add_epi64(odd[n], high);
                }
            }
        }
        for n in 0..N {
            let (mut e, mut o) = ([0i64; 8], [0i64; 8]);
            // SAFETY: both arrays are 64 bytes.
            unsafe {
                _mm512_storeu_si512(e.as_mut_ptr().cast(), even[n]);
                _mm512_storeu_si512(o.as_mut_ptr().cast(), odd[n]);
            }
            interleave(
                &e,
                &o,
                &mut out[n * stride + tile * TILE_ROWS..][..TILE_ROWS],
            );
        }
    }
}

/// Even rows and odd rows back into row order.
#[inline(always)]
fn interleave(even: &[i64], odd: &[i64], out: &mut [i64]) {
    for (pair, (e, o)) in out.chunks_exact_mut(2).zip(even.iter().zip(odd)) {
        pair[0] = *e;
        pair[1] = *o;
    }
}

/// # Safety
/// Needs AVX2; every vector is as long as a row; `out` holds `N * tiles * 16` sums.
#[target_feature(enable = "avx2")]
unsafe fn tiles_avx2<const N: usize>(
    matrix: &PackedMatrix,
    vectors: [&Quantised; N],
    out: &mut [i64],
) {
    let stride = matrix.tiles() * TILE_ROWS;
    for half_tile in 0..2 * matrix.tiles() {
        let (tile, half) = (half_tile / 2, half_tile % 2);
        let (q, scale) = (matrix.tile_q(tile), matrix.tile_scale(tile));
        for (n, vector) in vectors.iter().enumerate() {
            // SAFETY: as for the caller.
            let (even, odd) = unsafe { half_tile_avx2(q, scale, half, matrix.blocks(), vector) };
            let start = n * stride + tile * TILE_ROWS + half * 8;
            interleave(&even, &odd, &mut out[start..][..8]);
        }
    }
}

/// Sums of eight rows of a tile with one vector: the even rows, the odd rows.
///
/// # Safety
/// Needs AVX2; `q` and `scale` are a tile of `blocks` blocks, the vector has as many.
#[target_feature(enable = "avx2")]
unsafe fn half_tile_avx2(
    q: &[i8],
    scale: &[u16],
    half: usize,
    blocks: usize,
    vector: &Quantised,
) -> ([i64; 4], [i64; 4]) {
    let ones = _mm256_set1_epi16(1);
    let mut even = _mm256_setzero_si256();
    let mut odd = _mm256_setzero_si256();
    for block in 0..blocks {
        // SAFETY: a tile holds `blocks * 512` elements and `blocks * 16` scales; the vector holds `blocks * 32` elements.
        unsafe {
            let weights = q.as_ptr().add(block * TILE_BLOCK + half * 32);
            let scales = scale.as_ptr().add(block * TILE_ROWS + half * 8);
            let row_scale = _mm256_cvtepu16_epi32(_mm_loadu_si128(scales.cast()));
            let mut dot = _mm256_setzero_si256();
            for group in 0..8 {
                let w = _mm256_loadu_si256(weights.add(group * 64).cast());
                let x = _mm256_set1_epi32(four(vector, block, group));
                // |x| times w with the sign of x: pairs are at most 2 * 127 * 127 < 2^15, so nothing saturates.
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
                dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
            }
            let own = _mm256_set1_epi32(*vector.scale.get_unchecked(block));
            let factor = _mm256_mullo_epi32(row_scale, own);
            even = _mm256_add_epi64(even, _mm256_mul_epi32(dot, factor));
            let high = _mm256_mul_epi32(
                _mm256_srli_epi64::<32>(dot),
                _mm256_srli_epi64::<32>(factor),
            );
            odd = _mm256_add_epi64(odd, high);
        }
    }
    let (mut e, mut o) = ([0i64; 4], [0i64; 4]);
    // SAFETY: both arrays are 32 bytes.
    unsafe {
        _mm256_storeu_si256(e.as_mut_ptr().cast(), even);
        _mm256_storeu_si256(o.as_mut_ptr().cast(), odd);
    }
    (e, o)
}

pub(super) fn blend_avx512(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    // SAFETY: the kernel was chosen after detection of its features; lengths were checked by the caller.
    unsafe { columns_avx512(values, weights, out) }
}

pub(super) fn blend_avx2(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    // SAFETY: the kernel was chosen after detection of its features; lengths were checked by the caller.
    unsafe { columns_avx2(values, weights, out) }
}

/// Two weights as one 32-bit lane, the earlier position low.
#[inline(always)]
fn weight_pair(pair: &[i16]) -> i32 {
    i32::from(pair[0] as u16) | i32::from(pair[1]) << 16
}

/// # Safety
/// Needs the features named; `values` holds at least as many positions as `weights`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn columns_avx512(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    let (columns, q) = (values.columns(), values.elements());
    for (chunk, sums) in out.chunks_exact_mut(16).enumerate() {
        let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for (run, weights) in weights.chunks(2 * PAIRS_PER_FLUSH).enumerate() {
            let mut sum = _mm512_setzero_si512();
            for (pair, w) in weights.chunks_exact(2).enumerate() {
                let index = (run * PAIRS_PER_FLUSH + pair) * 2 * columns + chunk * 32;
                // SAFETY: `index + 32` is within the pair's `2 * columns` elements.
                let v = unsafe { _mm256_loadu_si256(q.as_ptr().add(index).cast()) };
                let w = _mm512_set1_epi32(weight_pair(w));
                sum = _mm512_dpwssd_epi32(sum, _mm512_cvtepi8_epi16(v), w);
            }
            low = _mm512_add_epi64(low, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum)));
            let upper = _mm512_extracti64x4_epi64::<1>(sum);
            high = _mm512_add_epi64(high, _mm512_cvtepi32_epi64(upper));
        }
        // SAFETY: `sums` holds sixteen elements.
        unsafe {
            _mm512_storeu_si512(sums.as_mut_ptr().cast(), low);
            _mm512_storeu_si512(sums.as_mut_ptr().add(8).cast(), high);
        }
    }
}

/// # Safety
/// Needs AVX2; `values` holds at least as many positions as `weights`.
#[target_feature(enable = "avx2")]
unsafe fn columns_avx2(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    let (columns, q) = (values.columns(), values.elements());
    for (chunk, sums) in out.chunks_exact_mut(8).enumerate() {
        let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (run, weights) in weights.chunks(2 * PAIRS_PER_FLUSH).enumerate() {
            let mut sum = _mm256_setzero_si256();
            for (pair, w) in weights.chunks_exact(2).enumerate() {
                let index = (run * PAIRS_PER_FLUSH + pair) * 2 * columns + chunk * 16;
                // SAFETY: `index + 16` is within the pair's `2 * columns` elements.
                let v = unsafe { _mm_loadu_si128(q.as_ptr().add(index).cast()) };
                let w = _mm256_set1_epi32(weight_pair(w));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepi8_epi16(v), w));
            }
            low = _mm256_add_epi64(low, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sum)));
            let upper = _mm256_extracti128_si256::<1>(sum);
            high = _mm256_add_epi64(high, _mm256_cvtepi32_epi64(upper));
        }
        // SAFETY: `sums` holds eight elements.
        unsafe {
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(sums.as_mut_ptr().add(4).cast(), high);
        }
    }
}
