//! AMX tile registers: permission, configuration, and the innermost loop of a GEMM.
#![expect(unsafe_code, reason = "the standard library has no AMX intrinsics")]

use std::marker::PhantomData;

/// Rows and f32 columns of a tile.
pub(super) const EDGE: usize = 16;
/// bf16 columns of a tile.
pub(super) const DEPTH: usize = 2 * EDGE;
/// bf16 parts of an f32 number.
pub(super) const PARTS: usize = 3;
/// Words of a tile; a word holds two bf16 numbers.
pub(super) const TILE: usize = EDGE * EDGE;
/// Words of a block: 16 rows of a left operand, or 16 columns of a right operand, for 32 steps of `k`. It has three tiles,
/// with the high, middle and low parts.
pub(super) const BLOCK: usize = PARTS * TILE;
/// Rows and columns of the output of [`Tiles::product`].
pub(super) const OUTPUT: usize = 2 * EDGE;

/// Whether the processor has AMX with bf16, and the operating system permits this process to use it. Linux 5.16 and later
/// require a request (`ARCH_REQ_XCOMP_PERM`).
pub(crate) fn granted() -> bool {
    #[cfg(target_os = "linux")]
    {
        use std::arch::x86_64::{__cpuid, __cpuid_count};

        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        let present = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES;
        // SAFETY: the system call requests a permission and accesses no memory of this process.
        present && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// The operand of `LDTILECFG`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight tiles of 16 rows of 64 bytes.
static WHOLE_TILES: Configuration = {
    const fn eight<T: Copy>(value: T, none: T) -> [T; 16] {
        let mut values = [none; 16];
        let mut tile = 0;
        while tile < 8 {
            values[tile] = value;
            tile += 1;
        }
        values
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: eight(64, 0), rows: eight(16, 0) }
};

/// The tile registers of this thread, configured as long as this value exists. It proves [`super::super::level::Level::Amx`].
pub(super) struct Tiles {
    /// Destination of a store whose result is not read.
    discarded: Discarded,
    of_this_thread: PhantomData<*const ()>,
}

#[repr(align(64))]
struct Discarded([u32; TILE]);

/// The output of [`Tiles::product`]: 32 rows of 32 sums.
#[repr(align(64))]
pub(super) struct Sums([[f32; OUTPUT]; OUTPUT]);

impl Sums {
    pub(super) fn new() -> Self {
        Self([[0.0; OUTPUT]; OUTPUT])
    }

    /// `C[r, n] (+)= sums[r, n]` for the first `rows` and `columns`. `C[r, n]` is at `c + r * stride + n`.
    ///
    /// # Safety
    /// These elements are valid and not accessed otherwise, and the processor has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn add_to(&self, c: *mut f32, stride: usize, rows: usize, columns: usize, accumulate: bool) {
        use std::arch::x86_64::{_mm512_add_ps, _mm512_load_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps};
        let masks = [0, EDGE].map(|n| ((1_u32 << columns.saturating_sub(n).min(EDGE)) - 1) as u16);
        for (r, sums) in self.0.iter().take(rows).enumerate() {
            for (half, mask) in masks.into_iter().enumerate() {
                let c = c.wrapping_add(r * stride + half * EDGE);
                // SAFETY: existing lanes are valid by the caller's promise; masked lanes are neither read nor written.
                unsafe {
                    let sum = _mm512_load_ps(sums.as_ptr().add(half * EDGE));
                    let sum = if accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum) } else { sum };
                    _mm512_mask_storeu_ps(c, mask, sum);
                }
            }
        }
    }
}

macro_rules! load_left {
    ($offset:literal) => {
        concat!(
            "tileloadd tmm4, [{upper} + {line} + ",
            $offset,
            "]\ntileloadd tmm5, [{lower} + {line} + ",
            $offset,
            "]"
        )
    };
}
macro_rules! load_right {
    ($offset:literal) => {
        concat!("tileloadd tmm6, [{near} + {line} + ", $offset, "]\ntileloadd tmm7, [{far} + {line} + ", $offset, "]")
    };
}
macro_rules! multiply {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7"
    };
}

impl Tiles {
    /// # Safety
    /// [`granted`] has returned true, the processor has AVX-512 F and BW, and this thread has no other `Tiles`.
    pub(super) unsafe fn configure() -> Self {
        // SAFETY: the processor has the instruction by the caller's promise; it reads the 64 bytes.
        unsafe {
            std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(nostack, readonly, preserves_flags));
        }
        Self { discarded: Discarded([0; TILE]), of_this_thread: PhantomData }
    }

    /// `sums[r, n] = Σ_k A[r, k] · B[k, n]` for 32 rows and 32 columns. The operands are blocks from [`super::split`]: the upper
    /// and lower 16 rows of `A`, the left and right 16 columns of `B`.
    ///
    /// # Panics
    /// When the operands are empty, or differ in their number of blocks.
    pub(super) fn product(&mut self, left: [&[u32]; 2], right: [&[u32]; 2], sums: &mut Sums) {
        let blocks = left[0].len() / BLOCK;
        assert!(blocks > 0 && left.iter().chain(&right).all(|operand| operand.len() == blocks * BLOCK));
        // SAFETY: `self` proves that the instructions exist and the tiles are configured. The assertion checks that all
        // blocks exist. Compiled code keeps nothing in tile registers.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                // In this order: middle · middle, high · middle, high · low, high · high, low · high, middle · high.
                load_left!(1024),
                load_right!(1024),
                multiply!(),
                load_left!(0),
                multiply!(),
                load_right!(2048),
                multiply!(),
                load_right!(0),
                multiply!(),
                load_left!(2048),
                multiply!(),
                load_left!(1024),
                multiply!(),
                // A tile store that followed about 2,000 cycles without one took about 900 cycles on the processor this was
                // measured on. One store per iteration avoids that for the stores of the sums.
                "tilestored [{discarded} + {line}], tmm4",
                "add {upper}, 3072",
                "add {lower}, 3072",
                "add {near}, 3072",
                "add {far}, 3072",
                "dec {blocks}",
                "jnz 2b",
                "add {line}, 64",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 64], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 2112], tmm3",
                upper = inout(reg) left[0].as_ptr() => _,
                lower = inout(reg) left[1].as_ptr() => _,
                near = inout(reg) right[0].as_ptr() => _,
                far = inout(reg) right[1].as_ptr() => _,
                blocks = inout(reg) blocks => _,
                line = inout(reg) 4 * EDGE => _,
                discarded = in(reg) self.discarded.0.as_mut_ptr(),
                sums = in(reg) sums.0.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `configure` ran. After the release, context switches don't save the tile registers.
        unsafe { std::arch::asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
