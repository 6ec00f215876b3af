//! The number formats of a GGUF file: llama.cpp's file types.
//!
//! Source: llama.cpp, `llama_ftype` in `llama.h` for names and numbers, `llama-quant.cpp` for the format of each tensor.
//! Must not depend on: how weights are encoded.

use std::fmt;

use tonfall_blocks::Format;

use crate::description::{ModelDescription, Shape};

/// A file type. Vectors are always F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileType {
    /// As in `--types`.
    pub name: &'static str,
    /// `general.file_type`.
    pub number: u32,
    /// The format of most matrices.
    format: Format,
    /// Whether some matrices of the attention and the MLP get more bits.
    is_mix: bool,
}

const fn plain(name: &'static str, number: u32, format: Format) -> FileType {
    FileType { name, number, format, is_mix: false }
}

/// All file types that can be written.
pub const FILE_TYPES: [FileType; 9] = [
    plain("F32", 0, Format::F32),
    plain("BF16", 32, Format::Bf16),
    FileType::F16,
    plain("Q8_0", 7, Format::Q8_0),
    plain("Q6_K", 18, Format::Q6K),
    FileType { name: "Q5_K_M", number: 17, format: Format::Q5K, is_mix: true },
    FileType { name: "Q4_K_M", number: 15, format: Format::Q4K, is_mix: true },
    plain("Q4_1", 3, Format::Q4_1),
    plain("Q4_0", 2, Format::Q4_0),
];

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// The number formats of a GGUF export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufTypes {
    Type(FileType),
    /// The format of each weight in the base.
    Base,
}

impl fmt::Display for GgufTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(file_type) => file_type.fmt(f),
            Self::Base => f.pad("base"),
        }
    }
}

impl GgufTypes {
    /// `base`, or the name of a file type in upper or lower case.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("base") { Some(Self::Base) } else { FileType::find(name).map(Self::Type) }
    }

    /// Whether an importance matrix can change the values of a file.
    #[must_use]
    pub fn use_importance(&self) -> bool {
        match self {
            Self::Type(file_type) => uses_importance(file_type.format),
            Self::Base => true,
        }
    }
}

/// Whether the quantiser of a format uses importance. Q8_0 is always that of ggml, because its error is small.
pub(super) fn uses_importance(format: Format) -> bool {
    !format.is_dense() && format != Format::Q8_0
}

impl FileType {
    pub const F16: Self = plain("F16", 1, Format::F16);

    /// Values per block of the format of most matrices.
    pub(super) fn block_len(self) -> usize {
        self.format.block_len()
    }

    /// The file type with this name, in upper or lower case.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        FILE_TYPES.into_iter().find(|file_type| file_type.name.eq_ignore_ascii_case(name))
    }

    /// The format of a weight, by its Hugging Face name.
    #[must_use]
    pub fn format_of(self, name: &str, shape: Shape, model: &ModelDescription) -> Format {
        let Shape::Matrix(_, cols) = shape else { return Format::F32 };
        let wanted = self.wanted(name, model);
        if cols.is_multiple_of(wanted.block_len()) { wanted } else { smaller_blocks(wanted, cols) }
    }

    fn wanted(self, name: &str, model: &ModelDescription) -> Format {
        if self.format.is_dense() || self.format == Format::Q8_0 {
            return self.format;
        }
        let is_head = name == "lm_head.weight" || (name == "model.embed_tokens.weight" && model.tie_word_embeddings);
        let gets_more = name.ends_with(".self_attn.v_proj.weight") || name.ends_with(".mlp.down_proj.weight");
        let more =
            self.is_mix && gets_more && layer(name).is_some_and(|layer| more_bits(layer, model.num_hidden_layers));
        // In 70B models, eight heads share v: more bits cost little.
        let is_shared_v = self.is_mix
            && self.format == Format::Q4K
            && name.ends_with(".self_attn.v_proj.weight")
            && model.num_hidden_layers == 80
            && model.num_attention_heads != model.num_key_value_heads;
        match (is_head || more, is_shared_v) {
            (true, _) => Format::Q6K,
            (_, true) => Format::Q5K,
            _ => self.format,
        }
    }
}

/// The number of the layer in a Hugging Face name.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// The first and the last eighth of the layers, and every third layer between them.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The format of a matrix whose rows are not a whole number of blocks.
fn smaller_blocks(wanted: Format, cols: usize) -> Format {
    let smaller = match wanted {
        Format::Q4K => Format::Q5_0,
        Format::Q5K => Format::Q5_1,
        Format::Q6K => Format::Q8_0,
        _ => Format::F16,
    };
    if cols.is_multiple_of(smaller.block_len()) { smaller } else { Format::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{Family, Sizes};

    fn model(layers: usize, hidden_size: usize) -> ModelDescription {
        let sizes = Sizes {
            vocab_size: 100,
            hidden_size,
            intermediate_size: 512,
            num_hidden_layers: layers,
            num_attention_heads: 8,
            num_key_value_heads: 2,
            head_dim: 64,
        };
        ModelDescription { tie_word_embeddings: true, ..ModelDescription::plain(Family::Llama, sizes) }
    }

    fn format(name: &str, model: &ModelDescription, file_type: &str) -> Format {
        let shape = model.tensors().into_iter().find(|(found, _)| found == name).expect("a weight").1;
        FileType::find(file_type).expect("a file type").format_of(name, shape, model)
    }

    /// The first 3 and the last 4 of 30 layers, and every third between them.
    #[test]
    fn a_mix_gives_more_bits_to_some_layers() {
        let model = model(30, 512);
        let down = |layer: usize| format(&format!("model.layers.{layer}.mlp.down_proj.weight"), &model, "q4_k_m");
        let more: Vec<usize> = (0..30).filter(|layer| down(*layer) == Format::Q6K).collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
        assert_eq!(format("model.layers.0.mlp.up_proj.weight", &model, "Q4_K_M"), Format::Q4K);
        assert_eq!(format("model.embed_tokens.weight", &model, "Q4_K_M"), Format::Q6K, "it is the head as well");
        assert_eq!(format("model.embed_tokens.weight", &model, "Q8_0"), Format::Q8_0);
        assert_eq!(format("model.norm.weight", &model, "Q4_0"), Format::F32);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_smaller_blocks() {
        let odd = model(2, 576);
        assert_eq!(format("model.layers.0.self_attn.q_proj.weight", &odd, "Q4_K_M"), Format::Q5_0);
        assert_eq!(format("model.embed_tokens.weight", &odd, "Q4_K_M"), Format::Q8_0);
        let odder = model(2, 520);
        assert_eq!(format("model.layers.0.self_attn.q_proj.weight", &odder, "Q8_0"), Format::F16);
    }
}
