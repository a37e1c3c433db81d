//! Vector paths for x86-64.
//!
//! Each public function is reached only through a [`super::Kernel`] value that `Kernel::available` made after asking the
//! processor for the features, and after [`super::Kernel`] has checked the lengths that the pointers below rely on.
#![allow(unsafe_code)]

use super::{PAIRS_PER_FLUSH, Sums, Work, weight_pair};
use crate::packed::{PackedValues, TILE_BLOCK, TILE_ROWS, Tile};
use crate::quant::{BLOCK, Quantised};
use std::arch::x86_64::*;

/// Bytes of weights that are asked for before they are needed. A single row of a long stream would otherwise wait for memory:
/// measured on matrices that no cache holds, 1 KiB to 2 KiB give the most.
const AHEAD: usize = 1536;

/// Calls `$tile::<N>` for as many vectors as there are.
macro_rules! by_lanes {
    ($lanes:ident, $tile:ident, $vectors:ident, $sums:ident) => {
        // SAFETY: the kernel was chosen after detection of its features; lengths were checked by the caller.
        unsafe {
            match *$vectors {
                [a] => $lanes::<1>($tile, [a], $sums),
                [a, b] => $lanes::<2>($tile, [a, b], $sums),
                [a, b, c] => $lanes::<3>($tile, [a, b, c], $sums),
                [a, b, c, d] => $lanes::<4>($tile, [a, b, c, d], $sums),
                _ => {}
            }
        }
    };
}

#[inline(always)]
pub(super) fn tile_avx512(tile: Tile<'_>, vectors: &[&Quantised], sums: &mut Sums) {
    by_lanes!(lanes_avx512, tile, vectors, sums);
}

#[inline(always)]
pub(super) fn tile_avx2(tile: Tile<'_>, vectors: &[&Quantised], sums: &mut Sums) {
    by_lanes!(lanes_avx2, tile, vectors, sums);
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

/// Asks for the weights that follow `AHEAD` bytes later. Harmless beyond their end.
#[inline(always)]
fn ask_for(weights: *const i8) {
    // SAFETY: a hint, which reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(AHEAD)) };
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
/// Needs the features named; the tile holds whole blocks and every vector as many.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn lanes_avx512<const N: usize>(tile: Tile<'_>, vectors: [&Quantised; N], sums: &mut Sums) {
    let (q, scale) = (tile.q(), tile.scale());
    let flip = _mm512_set1_epi8(-128);
    let mut even = [_mm512_setzero_si512(); N];
    let mut odd = [_mm512_setzero_si512(); N];
    for block in 0..tile.blocks() {
        // SAFETY: a tile holds `blocks * 512` elements and `blocks * 16` scales; vectors hold `blocks * 32` elements.
        unsafe {
            let weights = q.as_ptr().add(block * TILE_BLOCK).cast::<__m512i>();
            let scales = scale.as_ptr().add(block * TILE_ROWS).cast::<__m256i>();
            let row_scale = _mm512_cvtepu16_epi32(_mm256_loadu_si256(scales));
            let mut w = [_mm512_setzero_si512(); 8];
            for (group, w) in w.iter_mut().enumerate() {
                ask_for(weights.add(group).cast());
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
        interleave(&e, &o, &mut sums[n]);
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
/// Needs AVX2; the tile holds whole blocks and every vector as many.
#[target_feature(enable = "avx2")]
unsafe fn lanes_avx2<const N: usize>(tile: Tile<'_>, vectors: [&Quantised; N], sums: &mut Sums) {
    // SAFETY: as for the caller.
    unsafe {
        half_tile_avx2::<0, N>(tile, vectors, sums);
        half_tile_avx2::<1, N>(tile, vectors, sums);
    }
}

/// Sums of eight rows of a tile.
///
/// # Safety
/// Needs AVX2; the tile holds whole blocks and every vector as many.
#[target_feature(enable = "avx2")]
unsafe fn half_tile_avx2<const HALF: usize, const N: usize>(
    tile: Tile<'_>,
    vectors: [&Quantised; N],
    sums: &mut Sums,
) {
    let (q, scale) = (tile.q(), tile.scale());
    let ones = _mm256_set1_epi16(1);
    let mut even = [_mm256_setzero_si256(); N];
    let mut odd = [_mm256_setzero_si256(); N];
    for block in 0..tile.blocks() {
        // SAFETY: a tile holds `blocks * 512` elements and `blocks * 16` scales; vectors hold `blocks * 32` elements.
        unsafe {
            let weights = q.as_ptr().add(block * TILE_BLOCK + HALF * 32);
            let scales = scale.as_ptr().add(block * TILE_ROWS + HALF * 8);
            let row_scale = _mm256_cvtepu16_epi32(_mm_loadu_si128(scales.cast()));
            let mut dot = [_mm256_setzero_si256(); N];
            for group in 0..8 {
                if HALF == 0 {
                    ask_for(weights.add(group * 64));
                }
                let w = _mm256_loadu_si256(weights.add(group * 64).cast());
                let magnitude = _mm256_abs_epi8(w);
                for n in 0..N {
                    let x = _mm256_set1_epi32(four(vectors[n], block, group));
                    // |w| times x with the sign of w: pairs are at most 2 * 127 * 127 < 2^15, so nothing saturates.
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
                    dot[n] = _mm256_add_epi32(dot[n], _mm256_madd_epi16(pairs, ones));
                }
            }
            for n in 0..N {
                let own = _mm256_set1_epi32(*vectors[n].scale.get_unchecked(block));
                let factor = _mm256_mullo_epi32(row_scale, own);
                even[n] = _mm256_add_epi64(even[n], _mm256_mul_epi32(dot[n], factor));
                let high = _mm256_mul_epi32(
                    _mm256_srli_epi64::<32>(dot[n]),
                    _mm256_srli_epi64::<32>(factor),
                );
                odd[n] = _mm256_add_epi64(odd[n], high);
            }
        }
    }
    for n in 0..N {
        let (mut e, mut o) = ([0i64; 4], [0i64; 4]);
        // SAFETY: both arrays are 32 bytes.
        unsafe {
            _mm256_storeu_si256(e.as_mut_ptr().cast(), even[n]);
            _mm256_storeu_si256(o.as_mut_ptr().cast(), odd[n]);
        }
        interleave(&e, &o, &mut sums[n][HALF * 8..][..8]);
    }
}

pub(super) fn blend_avx512(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    // SAFETY: the kernel was chosen after detection of its features; lengths were checked by the caller.
    unsafe { columns_avx512(values, weights, out) }
}

pub(super) fn blend_avx2(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    // SAFETY: the kernel was chosen after detection of its features; lengths were checked by the caller.
    unsafe { columns_avx2(values, weights, out) }
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
            let (first, second) = (sums.as_mut_ptr(), sums.as_mut_ptr().add(8));
            low = _mm512_add_epi64(low, _mm512_loadu_si512(first.cast()));
            high = _mm512_add_epi64(high, _mm512_loadu_si512(second.cast()));
            _mm512_storeu_si512(first.cast(), low);
            _mm512_storeu_si512(second.cast(), high);
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
            let (first, second) = (sums.as_mut_ptr(), sums.as_mut_ptr().add(4));
            low = _mm256_add_epi64(low, _mm256_loadu_si256(first.cast()));
            high = _mm256_add_epi64(high, _mm256_loadu_si256(second.cast()));
            _mm256_storeu_si256(first.cast(), low);
            _mm256_storeu_si256(second.cast(), high);
        }
    }
}
