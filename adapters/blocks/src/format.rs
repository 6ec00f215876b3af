//! Names and block sizes of the number formats.

use std::fmt;

/// The number format of a stored weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 signed bytes with an f16 scale.
    Q8_0,
    /// Blocks of 32 four-bit codes, offset by 8, with an f16 scale.
    Q4_0,
    /// Blocks of 32 four-bit codes with an f16 scale and an f16 minimum.
    Q4_1,
    /// Blocks of 32 five-bit codes, offset by 16, with an f16 scale.
    Q5_0,
    /// Blocks of 32 five-bit codes with an f16 scale and an f16 minimum.
    Q5_1,
    /// Blocks of 256 four-bit codes, in eight sub-blocks with six-bit scales and minima.
    Q4K,
    /// As [`Format::Q4K`] with five-bit codes.
    Q5K,
    /// Blocks of 256 six-bit codes, in sixteen sub-blocks with eight-bit scales.
    Q6K,
    /// bitsandbytes' NF4 with double quantization: blocks of 64 over the flattened matrix, whose scales are quantized too.
    Nf4,
}

impl Format {
    /// All formats, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Nf4,
    ];

    /// Name, elements per block and bytes per block.
    const fn row(self) -> (&'static str, usize, usize) {
        match self {
            Self::F32 => ("F32", 1, 4),
            Self::F16 => ("F16", 1, 2),
            Self::Bf16 => ("BF16", 1, 2),
            Self::Q8_0 => ("Q8_0", 32, 34),
            Self::Q4_0 => ("Q4_0", 32, 18),
            Self::Q4_1 => ("Q4_1", 32, 20),
            Self::Q5_0 => ("Q5_0", 32, 22),
            Self::Q5_1 => ("Q5_1", 32, 24),
            Self::Q4K => ("Q4_K", 256, 144),
            Self::Q5K => ("Q5_K", 256, 176),
            Self::Q6K => ("Q6_K", 256, 210),
            Self::Nf4 => ("NF4", 64, 32),
        }
    }

    /// The usual spelling of the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Elements per block; 1 for the dense formats.
    #[must_use]
    pub const fn block_len(self) -> usize {
        self.row().1
    }

    /// Bytes per block; for [`Format::Nf4`] only the codes.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        self.row().2
    }

    /// Whether the format stores floats without blocks: F32, F16, BF16.
    #[must_use]
    pub const fn is_dense(self) -> bool {
        self.block_len() == 1
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
