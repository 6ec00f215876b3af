//! Tensor types that are listed but not read as weights.
//!
//! Source: the ggml repository, `ggml.h` (numbers) and `ggml-common.h` (blocks).

/// A tensor type.
pub(super) struct OtherType {
    number: u32,
    pub(super) name: &'static str,
    /// Elements of a block.
    pub(super) elements: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
}

const fn row(number: u32, name: &'static str, elements: usize, bytes: usize) -> OtherType {
    OtherType { number, name, elements, bytes }
}

const OTHER_TYPES: [OtherType; 23] = [
    row(9, "Q8_1", 32, 36),
    row(10, "Q2_K", 256, 84),
    row(11, "Q3_K", 256, 110),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    row(39, "MXFP4", 32, 17),
    row(40, "NVFP4", 64, 36),
    row(41, "Q1_0", 128, 18),
];

/// `None` for a number that is not known either.
pub(super) fn other_type(number: u32) -> Option<&'static OtherType> {
    OTHER_TYPES.iter().find(|row| row.number == number)
}
