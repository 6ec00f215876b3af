//! Intel's matrix unit (AMX), which multiplies bfloat16 and adds in f32.
//!
//! Responsible for: products of f32 by it. A number is the sum of two bfloat16, `x ≈ hi + lo`, to 2^-17 of its size; a
//! product is `hi·hi + hi·lo + lo·hi`, and what is left out is below 2^-16 of it (Henry, Tang and Heinecke, "Leveraging the
//! bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019). That is seven more bits than
//! bfloat16 and five more than TF32 have, at a third of the unit's speed. Infinities become NaN.
//!
//! Operands are copied into tiles of 1 KiB: 16 rows of 32 numbers of the left one, 16 pairs of rows of 16 columns of the
//! right one, first all `hi` of a tile, then all `lo`. Reference: Intel 64 and IA-32 Architectures Software Developer's
//! Manual, volume 1, chapter 18.
#![expect(unsafe_code, reason = "raw addresses and instructions that Rust has no names for")]

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512i, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_setzero_ps,
    _mm512_slli_epi32, _mm512_storeu_si512, _mm512_sub_ps,
};
use std::cell::Cell;
use std::sync::OnceLock;

use super::product::Left;
use super::tile::LANES;

/// Rows and columns of the output that are computed at once: two tiles each way.
pub(crate) const SIDE: usize = 32;
/// Terms of the sum in a tile.
const STEP: usize = 32;
/// Numbers of a tile, all `hi` or all `lo`.
const TILE: usize = 512;

/// Whether this processor has the unit, and the system lets this process use it.
pub(crate) fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| present() && permitted())
}

fn present() -> bool {
    // Leaf 7, EDX: bit 22 AMX-BF16, bit 24 AMX-TILE.
    let wanted = (1 << 22) | (1 << 24);
    is_x86_feature_detected!("avx512bf16") && std::arch::x86_64::__cpuid_count(7, 0).edx & wanted == wanted
}

/// Asks Linux for the unit's registers, on behalf of all threads (<https://docs.kernel.org/arch/x86/xstate.html>).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call changes nothing but what the process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Numbers that a packed operand of so many rows (of the left) or columns (of the right one) takes.
pub(crate) fn packed_len(lines: usize, depth: usize) -> usize {
    lines.next_multiple_of(SIDE) / LANES * depth.div_ceil(STEP) * 2 * TILE
}

/// `hi` and `lo` of 32 numbers, those of `x` before those of `y`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn split(x: __m512, y: __m512) -> (__m512i, __m512i) {
    let both = |x, y| {
        // SAFETY: both are 32 numbers of 16 bits.
        unsafe { std::mem::transmute::<std::arch::x86_64::__m512bh, __m512i>(_mm512_cvtne2ps_pbh(y, x)) }
    };
    let wide = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    let hi = both(x, y);
    let (hi_x, hi_y) = (wide(_mm512_castsi512_si256(hi)), wide(_mm512_extracti64x4_epi64::<1>(hi)));
    (hi, both(_mm512_sub_ps(x, hi_x), _mm512_sub_ps(y, hi_y)))
}

/// The first `count` of 16 numbers from `from` on, zeros behind them.
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const f32, count: usize) -> __m512 {
    // SAFETY: masked lanes are not read; the caller promises the others.
    unsafe { _mm512_maskz_loadu_ps(((1u32 << count.min(LANES)) - 1) as u16, from) }
}

/// Packs rows `m0 ..` and columns `k0 ..` of the left operand, `rows` by `depth` of them.
pub(crate) fn pack_left(left: &Left<'_>, (m0, rows): (usize, usize), (k0, depth): (usize, usize), to: &mut [u16]) {
    assert!(to.len() >= packed_len(rows, depth) && usable(), "too little room for the left operand");
    assert!(left.holds(m0 + rows, k0 + depth), "the left operand is too small");
    // SAFETY: the processor has the instructions; the places are within the slices by the assertions.
    unsafe { pack_left_rows(left, (m0, rows), (k0, depth), to) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_left_rows(left: &Left<'_>, (m0, rows): (usize, usize), (k0, depth): (usize, usize), to: &mut [u16]) {
    let steps = depth.div_ceil(STEP);
    for m in 0..rows.next_multiple_of(SIDE) {
        for step in 0..steps {
            let (mut x, mut y) = (_mm512_setzero_ps(), _mm512_setzero_ps());
            let (k, count) = (step * STEP, (depth - step * STEP).min(STEP));
            if m < rows {
                let at = (m0 + m) * left.row + (k0 + k) * left.depth;
                let mut line = [0.0; STEP];
                let from = if left.depth == 1 {
                    left.values[at..].as_ptr()
                } else {
                    let column = left.values[at..].iter().step_by(left.depth);
                    line[..count].iter_mut().zip(column).for_each(|(to, from)| *to = *from);
                    line.as_ptr()
                };
                // SAFETY: `count` numbers lie there.
                unsafe {
                    x = load(from, count);
                    y = load(from.wrapping_add(LANES), count.saturating_sub(LANES));
                }
            }
            let (hi, lo) = split(x, y);
            let place = ((m / LANES * steps + step) * 2) * TILE + m % LANES * STEP;
            store(hi, &mut to[place..][..STEP]);
            store(lo, &mut to[place + TILE..][..STEP]);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn store(numbers: __m512i, to: &mut [u16]) {
    assert!(to.len() == STEP, "32 numbers");
    // SAFETY: there is room for them.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), numbers) };
}

/// Packs a panel, `depth` rows of `width` numbers (a multiple of 16), as columns `n ..` of a right operand.
pub(crate) fn pack_right(panel: &[f32], width: usize, depth: usize, n: usize, to: &mut [u16]) {
    assert!(panel.len() >= width * depth && width.is_multiple_of(LANES) && n.is_multiple_of(LANES), "no whole panel");
    assert!(to.len() >= (n + width) / LANES * depth.div_ceil(STEP) * 2 * TILE && usable(), "too little room");
    // SAFETY: the processor has the instructions; the places are within the slices by the assertions.
    unsafe { pack_right_columns(panel, width, depth, n, to) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_right_columns(panel: &[f32], width: usize, depth: usize, n: usize, to: &mut [u16]) {
    // Numbers of the first row at even places, of the second one at odd places.
    let order: [u16; STEP] = std::array::from_fn(|i| (i / 2 + i % 2 * LANES) as u16);
    // SAFETY: 32 numbers lie there.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let steps = depth.div_ceil(STEP);
    for tile in 0..width / LANES {
        for pair in 0..steps * LANES {
            let row = |k: usize| match k < depth {
                // SAFETY: `width` numbers lie in the row.
                true => unsafe { load(panel[k * width + tile * LANES..].as_ptr(), LANES) },
                false => _mm512_setzero_ps(),
            };
            let (hi, lo) = split(row(2 * pair), row(2 * pair + 1));
            let place = (((n / LANES + tile) * steps + pair / LANES) * 2) * TILE + pair % LANES * STEP;
            store(_mm512_permutexvar_epi16(order, hi), &mut to[place..][..STEP]);
            store(_mm512_permutexvar_epi16(order, lo), &mut to[place + TILE..][..STEP]);
        }
    }
}

/// `C[m, n] (+)= Σ_k A[m, k] · B[k, n]` for 32 rows and columns: rows `32 · m ..` of a packed left operand, columns `32 · n ..`
/// of a packed right one, both of `depth` terms. `C[m, n]` lies at `c + m · c_row + n`.
///
/// # Safety
/// The addresses of all of `C` are valid, and nobody else uses it.
pub(crate) unsafe fn square(
    a: (&[u16], usize),
    b: (&[u16], usize),
    depth: usize,
    c: *mut f32,
    c_row: usize,
    accumulate: bool,
) {
    configure();
    let steps = depth.div_ceil(STEP);
    let len = steps * 2 * TILE;
    let tiles = |(packed, square): (&[u16], usize)| {
        let both = &packed[square * 2 * len..][..2 * len];
        [both.as_ptr(), both[len..].as_ptr()]
    };
    let ([a0, a1], [b0, b1]) = (tiles(a), tiles(b));
    let (c1, stride) = (c.wrapping_add(LANES * c_row), c_row * size_of::<f32>());
    // SAFETY: the thread's tiles are configured; the tiles that are read lie within the slices, C within what the caller
    // promises.
    unsafe {
        asm!(
            "test {accumulate}, {accumulate}",
            "jz 3f",
            "tileloadd tmm0, [{c0} + {stride}*1]",
            "tileloadd tmm1, [{c0} + {stride}*1 + 64]",
            "tileloadd tmm2, [{c1} + {stride}*1]",
            "tileloadd tmm3, [{c1} + {stride}*1 + 64]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a0} + {line}*1 + 1024]",
            "tileloadd tmm6, [{b0} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {line}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {line}*1 + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a0} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {line}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b0} + {line}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b1} + {line}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 2048",
            "add {a1}, 2048",
            "add {b0}, 2048",
            "add {b1}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c0} + {stride}*1], tmm0",
            "tilestored [{c0} + {stride}*1 + 64], tmm1",
            "tilestored [{c1} + {stride}*1], tmm2",
            "tilestored [{c1} + {stride}*1 + 64], tmm3",
            a0 = inout(reg) a0 => _, a1 = inout(reg) a1 => _, b0 = inout(reg) b0 => _, b1 = inout(reg) b1 => _,
            steps = inout(reg) steps => _, line = in(reg) 64usize, accumulate = in(reg) usize::from(accumulate),
            c0 = in(reg) c, c1 = in(reg) c1, stride = in(reg) stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
            out("tmm7") _,
            options(nostack),
        );
    }
}

/// Tells the unit, once for each thread, that its eight tiles are of 16 rows of 64 bytes.
fn configure() {
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if DONE.replace(true) {
        return;
    }
    let mut palette = [0u8; 64];
    palette[0] = 1;
    palette[16..32].chunks_mut(2).for_each(|columns| columns[0] = 64);
    palette[48..56].fill(16);
    // SAFETY: `usable` was asked by whoever packed the operands; the configuration is a valid one of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) palette.as_ptr(), options(nostack, readonly, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_two_halves() {
        if !usable() {
            return;
        }
        let numbers: Vec<f32> = (0..32).map(|i| (i as f32 * 0.37 - 5.0) * 1.000_123).collect();
        let mut packed = vec![0; packed_len(1, 32)];
        pack_left(&Left::rows(&numbers, 32), (0, 1), (0, 32), &mut packed);
        let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        for (i, number) in numbers.iter().enumerate() {
            let sum = value(packed[i]) + value(packed[TILE + i]);
            assert!((sum - number).abs() <= number.abs() / f32::from(1u16 << 15) / 4.0, "{sum} for {number}");
        }
    }
}
