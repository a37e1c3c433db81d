//! Vector paths for 64-bit ARM, beside `x86` and the mapped file the only unsafe code of the crate.
//!
//! Each public function is reached only through a [`super::Kernel`] value that `Kernel::available` made after asking the
//! processor for the features, and after [`super::Kernel`] has checked the lengths that the pointers below rely on.
#![allow(unsafe_code)]

use super::{PAIRS_PER_FLUSH, Sums, Work, weight_pair};
use crate::packed::{PackedValues, TILE_BLOCK, TILE_ROWS, Tile};
use crate::quant::{BLOCK, Quantised};
use std::arch::aarch64::*;
use std::arch::asm;

/// Calls `$lanes::<N>` for as many vectors as there are.
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
pub(super) fn tile_neon(tile: Tile<'_>, vectors: &[&Quantised], sums: &mut Sums) {
    by_lanes!(lanes_neon, tile, vectors, sums);
}

#[inline(always)]
pub(super) fn tile_dot(tile: Tile<'_>, vectors: &[&Quantised], sums: &mut Sums) {
    by_lanes!(lanes_dot, tile, vectors, sums);
}

/// Runs `work` with the dot product instructions.
pub(super) fn run_dot(work: impl Work) {
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn inner(work: impl Work) {
        work.run();
    }
    // SAFETY: the kernel was chosen after detection of its features.
    unsafe { inner(work) }
}

/// # Safety
/// The tile holds whole blocks and every vector as many.
#[target_feature(enable = "neon")]
unsafe fn lanes_neon<const N: usize>(tile: Tile<'_>, vectors: [&Quantised; N], sums: &mut Sums) {
    // SAFETY: as for the caller.
    (0..4).for_each(|quarter| unsafe { quarter_tile::<false, N>(tile, quarter, vectors, sums) });
}

/// # Safety
/// Needs the dot product instructions; the tile holds whole blocks and every vector as many.
#[target_feature(enable = "neon,dotprod")]
unsafe fn lanes_dot<const N: usize>(tile: Tile<'_>, vectors: [&Quantised; N], sums: &mut Sums) {
    // SAFETY: as for the caller.
    (0..4).for_each(|quarter| unsafe { quarter_tile::<true, N>(tile, quarter, vectors, sums) });
}

/// Sums of four rows of a tile. A group of 16 bytes is four columns of the four rows.
///
/// # Safety
/// With `DOT` needs the dot product instructions; the tile holds whole blocks and every vector as many.
#[inline(always)]
unsafe fn quarter_tile<const DOT: bool, const N: usize>(
    tile: Tile<'_>,
    quarter: usize,
    vectors: [&Quantised; N],
    sums: &mut Sums,
) {
    // SAFETY: a tile holds `blocks * 512` elements and `blocks * 16` scales; vectors hold `blocks * 32` elements; sums of a vector are
    // sixteen.
    unsafe {
        let (mut low, mut high) = ([vdupq_n_s64(0); N], [vdupq_n_s64(0); N]);
        for block in 0..tile.blocks() {
            let weights = tile.q().as_ptr().add(block * TILE_BLOCK + quarter * 16);
            let scales = tile.scale().as_ptr().add(block * TILE_ROWS + quarter * 4);
            let scales = vreinterpretq_s32_u32(vmovl_u16(vld1_u16(scales)));
            let (mut first, mut second) = ([vdupq_n_s32(0); N], [vdupq_n_s32(0); N]);
            for group in 0..8 {
                let w = vld1q_s8(weights.add(group * 64));
                for n in 0..N {
                    let x = four(vectors[n], block, group);
                    if DOT {
                        first[n] = dot(first[n], w, x);
                    } else {
                        // Products of rows 0 and 1, then of 2 and 3, added in pairs: at most 2 * 127 * 127.
                        let (w_low, x_low) = (vget_low_s8(w), vget_low_s8(x));
                        first[n] = vpadalq_s16(first[n], vmull_s8(w_low, x_low));
                        second[n] = vpadalq_s16(second[n], vmull_high_s8(w, x));
                    }
                }
            }
            for n in 0..N {
                let dot = if DOT {
                    first[n]
                } else {
                    vpaddq_s32(first[n], second[n])
                };
                let factor = vmulq_n_s32(scales, *vectors[n].scale.get_unchecked(block));
                low[n] = vmlal_s32(low[n], vget_low_s32(dot), vget_low_s32(factor));
                high[n] = vmlal_high_s32(high[n], dot, factor);
            }
        }
        for n in 0..N {
            let out = sums[n].as_mut_ptr().add(quarter * 4);
            vst1q_s64(out, low[n]);
            vst1q_s64(out.add(2), high[n]);
        }
    }
}

/// Four bytes of a vector, for each of four rows.
///
/// # Safety
/// The vector holds at least `4 * (group + 1)` bytes from `block` on.
#[inline(always)]
unsafe fn four(vector: &Quantised, block: usize, group: usize) -> int8x16_t {
    // SAFETY: the caller's promise; unaligned reads are allowed.
    unsafe {
        let at = vector.q.as_ptr().add(block * BLOCK + group * 4);
        vreinterpretq_s8_s32(vdupq_n_s32(at.cast::<i32>().read_unaligned()))
    }
}

/// `sum` and in each lane the four products of that lane. The intrinsic of it is not stable yet.
///
/// # Safety
/// Needs the dot product instructions.
#[inline(always)]
unsafe fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: works on registers alone; the caller promises that the processor has it.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

pub(super) fn blend_neon(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    // SAFETY: every processor of this kind has these instructions; lengths were checked by the caller.
    unsafe { columns_neon(values, weights, out) }
}

/// # Safety
/// `values` holds at least as many positions as `weights`.
#[target_feature(enable = "neon")]
unsafe fn columns_neon(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    let (columns, q) = (values.columns(), values.elements());
    for (chunk, sums) in out.chunks_exact_mut(8).enumerate() {
        for (run, weights) in weights.chunks(2 * PAIRS_PER_FLUSH).enumerate() {
            let mut products = [vdupq_n_s32(0); 4];
            for (pair, w) in weights.chunks_exact(2).enumerate() {
                let index = (run * PAIRS_PER_FLUSH + pair) * 2 * columns + chunk * 16;
                // SAFETY: `index + 16` is within the pair's `2 * columns` elements.
                let v = unsafe { vld1q_s8(q.as_ptr().add(index)) };
                let w = vreinterpretq_s16_s32(vdupq_n_s32(weight_pair(w)));
                let (low, high) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
                let half = vget_low_s16(w);
                products[0] = vmlal_s16(products[0], vget_low_s16(low), half);
                products[1] = vmlal_high_s16(products[1], low, w);
                products[2] = vmlal_s16(products[2], vget_low_s16(high), half);
                products[3] = vmlal_high_s16(products[3], high, w);
            }
            for (half, sums) in sums.chunks_exact_mut(4).enumerate() {
                let four = vpaddq_s32(products[2 * half], products[2 * half + 1]);
                // SAFETY: `sums` holds four elements here.
                unsafe {
                    let at = sums.as_mut_ptr();
                    vst1q_s64(at, vaddw_s32(vld1q_s64(at), vget_low_s32(four)));
                    vst1q_s64(at.add(2), vaddw_high_s32(vld1q_s64(at.add(2)), four));
                }
            }
        }
    }
}
