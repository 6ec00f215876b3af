//! A writer of GGUF files for tests.

use std::path::PathBuf;

use tempfile::TempDir;
use tonfall_adapters::BaseModel;

use super::{f32_bytes, values};

/// A metadata value as stored in the file, with its type.
#[derive(Clone)]
pub struct Meta(pub Vec<u8>);

fn text_bytes(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn text(text: &str) -> Meta {
    Meta([&8u32.to_le_bytes()[..], &text_bytes(text)].concat())
}

pub fn u32(value: u32) -> Meta {
    Meta([4u32.to_le_bytes(), value.to_le_bytes()].concat())
}

pub fn f32(value: f32) -> Meta {
    Meta([6u32.to_le_bytes(), value.to_le_bytes()].concat())
}

pub fn flag(value: bool) -> Meta {
    Meta([&7u32.to_le_bytes()[..], &[u8::from(value)]].concat())
}

fn list(kind: u32, count: usize, elements: Vec<u8>) -> Meta {
    Meta([&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(count as u64).to_le_bytes(), &elements].concat())
}

pub fn texts(texts: &[&str]) -> Meta {
    list(8, texts.len(), texts.iter().flat_map(|text| text_bytes(text)).collect())
}

pub fn floats(values: &[f32]) -> Meta {
    list(6, values.len(), f32_bytes(values))
}

pub fn integers(values: &[i32]) -> Meta {
    list(5, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// A tensor: name, dimensions in the file's order, type, bytes.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
}

/// The content of a GGUF file. Every field may be invalid.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub metadata: Vec<(String, Meta)>,
    pub tensors: Vec<Tensor>,
    /// Written instead of the true numbers of tensors and keys.
    pub counts: Option<(u64, u64)>,
}

impl Gguf {
    pub fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(known, _)| known != key);
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of that name")
    }

    /// The bytes of the file, with data aligned to 32 bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let (tensors, keys) = self.counts.unwrap_or((self.tensors.len() as u64, self.metadata.len() as u64));
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        for (key, value) in &self.metadata {
            bytes.extend(text_bytes(key));
            bytes.extend(&value.0);
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(text_bytes(&tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        bytes
    }

    /// Writes the file into a new directory.
    pub fn write(&self) -> (TempDir, PathBuf) {
        write(&self.bytes())
    }
}

/// Writes any bytes to a `.gguf` file.
pub fn write(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// A fixture's model in the form of llama.cpp's converter: F32 tensors and, if `permute`, rows of q and k in
/// llama.cpp's order.
pub fn of_model(model: &BaseModel, architecture: &str, permute: bool) -> Gguf {
    let description = model.description();
    let key = |name: &str| format!("{architecture}.{name}");
    let number = |value: usize| u32(value as u32);
    let metadata = vec![
        ("general.architecture".to_owned(), text(architecture)),
        (key("block_count"), number(description.num_hidden_layers)),
        (key("context_length"), number(description.max_position_embeddings)),
        (key("embedding_length"), number(description.hidden_size)),
        (key("feed_forward_length"), number(description.intermediate_size)),
        (key("attention.head_count"), number(description.num_attention_heads)),
        (key("attention.head_count_kv"), number(description.num_key_value_heads)),
        (key("attention.key_length"), number(description.head_dim)),
        (key("attention.value_length"), number(description.head_dim)),
        (key("attention.layer_norm_rms_epsilon"), f32(description.rms_norm_eps as f32)),
        (key("rope.freq_base"), f32(description.rope.theta as f32)),
        (key("rope.dimension_count"), number(description.head_dim)),
        (key("vocab_size"), number(description.vocab_size)),
        ("tokenizer.ggml.eos_token_id".to_owned(), u32(2)),
    ];
    let tensors = description.tensors().into_iter().map(|(name, shape)| {
        let mut values = values(model, &name);
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") => Some(description.num_attention_heads),
            Some("k_proj") => Some(description.num_key_value_heads),
            _ => None,
        };
        if let Some(heads) = heads.filter(|_| permute) {
            values = interleave(&values, shape.dims()[0], heads);
        }
        let dims = shape.dims().iter().rev().map(|dim| *dim as u64).collect();
        Tensor { name: gguf_name(&name), dims, kind: 0, data: f32_bytes(&values) }
    });
    Gguf { version: 3, metadata, tensors: tensors.collect(), counts: None }
}

/// `reshape(heads, 2, rows / heads / 2, cols).swapaxes(1, 2)`, as in llama.cpp's converter.
fn interleave(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (cols, half) = (values.len() / rows, rows / heads / 2);
    let row = |head: usize, side: usize, at: usize| &values[(head * 2 * half + side * half + at) * cols..][..cols];
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for at in 0..half {
            out.extend_from_slice(row(head, 0, at));
            out.extend_from_slice(row(head, 1, at));
        }
    }
    out
}

fn gguf_name(name: &str) -> String {
    const PARTS: [(&str, &str); 15] = [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    PARTS.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Quantizes rows to Q8_0.
pub fn q8_0(values: &[f32]) -> Vec<u8> {
    values
        .chunks(32)
        .flat_map(|block| {
            let scale = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs())) / 127.0;
            let scale_bits = tonfall_blocks::f16_from_f32(scale);
            let scale = tonfall_blocks::f16_to_f32(scale_bits);
            let code = move |value: &f32| if scale == 0.0 { 0 } else { (value / scale).round() as i8 as u8 };
            scale_bits.to_le_bytes().into_iter().chain(block.iter().map(code).collect::<Vec<_>>())
        })
        .collect()
}

/// The tensors of a file in two parts, with the keys of llama.cpp's `gguf-split`.
pub fn split_in_two(gguf: &Gguf) -> [Gguf; 2] {
    let mut first = gguf.clone();
    let mut second = Gguf { metadata: Vec::new(), ..gguf.clone() };
    second.tensors = first.tensors.split_off(gguf.tensors.len() / 2);
    let short = |value: u16| Meta([&2u32.to_le_bytes()[..], &value.to_le_bytes()].concat());
    for (number, part) in [&mut first, &mut second].into_iter().enumerate() {
        let count = Meta([5u32.to_le_bytes(), (gguf.tensors.len() as i32).to_le_bytes()].concat());
        part.set("split.no", short(number as u16)).set("split.count", short(2)).set("split.tensors.count", count);
    }
    [first, second]
}

/// Writes parts into a new directory.
pub fn write_parts(parts: &[Gguf]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, part) in parts.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.gguf", number + 1, parts.len());
        std::fs::write(dir.path().join(name), part.bytes()).unwrap();
    }
    dir
}

/// Encodes rows as Q5_0 with low precision.
pub fn q5_0(values: &[f32]) -> Vec<u8> {
    values
        .chunks(32)
        .flat_map(|block| {
            let scale = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs())) / 15.0;
            let bits = tonfall_blocks::f16_from_f32(scale);
            let scale = tonfall_blocks::f16_to_f32(bits);
            let codes: Vec<u32> = block
                .iter()
                .map(|value| if scale == 0.0 { 16 } else { ((value / scale).round() + 16.0).clamp(0.0, 31.0) as u32 })
                .collect();
            let fifth = codes.iter().enumerate().fold(0u32, |fifth, (i, code)| fifth | (code >> 4) << i);
            let nibbles = (0..16).map(|i| (codes[i] & 15 | (codes[i + 16] & 15) << 4) as u8);
            [&bits.to_le_bytes()[..], &fifth.to_le_bytes(), &nibbles.collect::<Vec<_>>()].concat()
        })
        .collect()
}
