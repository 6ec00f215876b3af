//! Loading the weights of a base model into a decoder on a device.
//!
//! Responsible for: the place of each tensor in the decoder, and its storage format.
//! Must not depend on: file formats (that is `tonfall_adapters`), training.

use std::borrow::Cow;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use tonfall_adapters::{self as adapters, BaseModel, ModelDescription, Rope, Weight};
use tonfall_blocks::{Format, Nf4Piece, dequantize, first_non_finite, join_nf4};
use tonfall_kernels::{Activation, FrozenMatrix, HostTable, RopeTable, resident};
use tonfall_recipes::plan::Quantization;

use super::decoder::Decoder;
use super::embedding::{Embedding, embeds_from_host};
use super::layer::{AttentionShape, Layer, Norm};
use super::linear::{Linear, Matrix, Vector};
use crate::device::Compute;
use crate::error::TrainError;
use crate::params::ParamStore;

/// How a base model is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadOptions {
    pub quantization: Quantization,
    /// Whether every weight is trained (`adapter.kind = "full"`); such weights are stored in f32.
    pub trainable: bool,
}

/// Loads a base model onto a device, block by block.
pub(crate) struct Loader<'a> {
    pub base: &'a BaseModel,
    pub options: LoadOptions,
    pub compute: &'a Compute,
    /// Receives the number of loaded blocks and of all blocks.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

impl Loader<'_> {
    /// # Errors
    /// If a weight can't be read from its file, or contains a value that is not finite.
    pub(crate) fn load(self) -> Result<Decoder, TrainError> {
        let Self { base, options, compute, progress } = self;
        let description = base.description().clone();
        let table = |rope: &Rope| {
            let inv_freq = description.inv_freq(rope);
            RopeTable::new(&inv_freq, description.attention_factor(), description.max_position_embeddings)
        };
        let rope = table(&description.rope);
        let local_rope = description.local_rope.as_ref().map_or_else(|| rope.clone(), table);
        let mut source = Source { base, options, device: &compute.device, params: ParamStore::default() };

        let embedding = match embeds_from_host(&description, options, compute.kind()) {
            true => Embedding::OnHost(source.host_table(EMBEDDING)?),
            false => Embedding::OnDevice(source.matrix(EMBEDDING, Role::Table)?),
        };
        let count = description.num_hidden_layers;
        let mut layers = Vec::with_capacity(count);
        for index in 0..count {
            let rope = if description.layer_windows[index].is_some() { &local_rope } else { &rope };
            layers.push(source.layer(index, &description, rope)?);
            base.release_pages();
            progress(index as u64 + 1, count as u64);
        }
        let norm = source.norm("model.norm.weight", &description)?;
        let head = match &embedding {
            Embedding::OnDevice(table) if description.tie_word_embeddings => table.clone(),
            _ => source.matrix("lm_head.weight", Role::Table)?,
        };
        base.release_pages();
        Ok(Decoder { params: source.params, embedding, layers, norm, head, description, dtype: compute.dtype })
    }
}

/// Name of the token embeddings.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// The use of a matrix. Only linear layers are quantized to NF4; embeddings and head keep the format of their file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Table,
    Linear,
}

/// Values that a thread converts to NF4 at a time; a multiple of the block length of every format.
pub(crate) const NF4_PIECE: usize = 1 << 20;

/// Values that a thread checks for NaN and infinities at a time; a multiple of the block length of every format.
const FINITE_PIECE: usize = 1 << 18;

/// A tensor in its storage format.
struct Prepared {
    bytes: Vec<u8>,
    format: Format,
    rows: usize,
    cols: usize,
}

struct Source<'a> {
    base: &'a BaseModel,
    options: LoadOptions,
    device: &'a Device,
    params: ParamStore,
}

impl Source<'_> {
    fn layer(&mut self, index: usize, description: &ModelDescription, rope: &RopeTable) -> Result<Layer, TrainError> {
        let name = |module: &str| format!("model.layers.{index}.{module}");
        let linears = [
            ("self_attn.q_proj", description.attention_bias),
            ("self_attn.k_proj", description.attention_bias),
            ("self_attn.v_proj", description.attention_bias),
            ("self_attn.o_proj", description.output_bias),
            ("mlp.gate_proj", description.mlp_bias),
            ("mlp.up_proj", description.mlp_bias),
            ("mlp.down_proj", description.mlp_bias),
        ];
        let prepared: Vec<_> = linears
            .par_iter()
            .map(|(module, _)| self.prepare(&name(&format!("{module}.weight")), Role::Linear))
            .collect::<Result<_, _>>()?;
        let mut built = Vec::with_capacity(linears.len());
        for ((module, has_bias), prepared) in linears.into_iter().zip(prepared) {
            let weight = self.place(name(&format!("{module}.weight")), prepared);
            let bias = has_bias.then(|| self.vector(&name(&format!("{module}.bias")))).transpose()?;
            built.push(Linear { weight, bias, lora: None });
        }
        let [q, k, v, o, gate, up, down]: [Linear; 7] =
            built.try_into().unwrap_or_else(|_| unreachable!("seven modules in, seven out"));
        let mut norm = |module: &str| self.norm(&name(&format!("{module}.weight")), description);
        let input_norm = norm("input_layernorm")?;
        let mut pair = |wanted: bool, [first, second]: [&str; 2]| {
            wanted.then(|| Ok::<_, TrainError>((norm(first)?, norm(second)?))).transpose()
        };
        let qk_norm = pair(description.qk_norm, ["self_attn.q_norm", "self_attn.k_norm"])?;
        // In models with norms after both halves, the norm before the MLP has another name.
        let after = ["post_attention_layernorm", "post_feedforward_layernorm"];
        let output_norms = pair(description.output_norms, after)?;
        let before = if description.output_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        Ok(Layer {
            shape: AttentionShape {
                heads: description.num_attention_heads,
                kv_heads: description.num_key_value_heads,
                head_dim: description.head_dim,
                scale: description.attention_scale() as f32,
                soft_cap: description.attn_logit_softcapping.map(|cap| cap as f32),
                window: description.layer_windows[index],
            },
            rope: rope.clone(),
            input_norm,
            mlp_norm: norm(before)?,
            output_norms,
            activation: match description.activation {
                adapters::Activation::Silu => Activation::Silu,
                adapters::Activation::GeluTanh => Activation::GeluTanh,
            },
            qk_norm,
            q,
            k,
            v,
            o,
            gate,
            up,
            down,
        })
    }

    fn matrix(&mut self, name: &str, role: Role) -> Result<Matrix, TrainError> {
        let prepared = self.prepare(name, role)?;
        Ok(self.place(name.to_owned(), prepared))
    }

    fn host_table(&self, name: &str) -> Result<HostTable, TrainError> {
        let Prepared { bytes, format, rows, cols } = self.prepare(name, Role::Table)?;
        Ok(HostTable::new(bytes, format, rows, cols, self.device))
    }

    /// A norm. Its weight is the weight in the file, plus 1 in families that store the weight minus 1.
    fn norm(&mut self, name: &str, description: &ModelDescription) -> Result<Norm, TrainError> {
        let offset = if description.unit_offset { 1.0 } else { 0.0 };
        let frozen_offset = if self.options.trainable { 0.0 } else { offset };
        let weight = self.offset_vector(name, frozen_offset)?;
        Ok(Norm { weight, offset, epsilon: description.rms_norm_eps })
    }

    fn vector(&mut self, name: &str) -> Result<Vector, TrainError> {
        self.offset_vector(name, 0.0)
    }

    fn offset_vector(&mut self, name: &str, offset: f32) -> Result<Vector, TrainError> {
        let weight = self.weight(name)?;
        let values: Vec<f32> = dense(&weight).into_iter().map(|value| value + offset).collect();
        let len = values.len();
        Ok(match self.options.trainable {
            true => Vector::Trainable(self.params.register(name, self.tensor(values, [1, len]), vec![len])),
            false => Vector::Frozen(self.tensor(values, [len])),
        })
    }

    /// Reads a matrix and converts it to its storage format.
    fn prepare(&self, name: &str, role: Role) -> Result<Prepared, TrainError> {
        let weight = self.weight(name)?;
        let (rows, cols) = (weight.rows, weight.cols);
        let target = kept_format(weight.format, role, self.options);
        let bytes = match target {
            same if same == weight.format => weight.bytes.into_owned(),
            Format::Nf4 => nf4(&weight),
            _ => bytemuck::cast_slice(&dense(&weight)).to_vec(),
        };
        Ok(Prepared { bytes, format: target, rows, cols })
    }

    /// A weight of the base. Fails if a value is not finite.
    fn weight(&self, name: &str) -> Result<Weight<'_>, TrainError> {
        let weight = self.base.weight(name)?;
        let Some(at) = non_finite(&weight) else { return Ok(weight) };
        let mut value = [0.0];
        dequantize(weight.format, &weight.bytes, weight.rows, weight.cols, at, &mut value);
        let (path, [value]) = (self.base.path().to_owned(), value);
        Err(TrainError::NotFinite {
            path,
            name: name.to_owned(),
            row: at / weight.cols,
            column: at % weight.cols,
            value,
        })
    }

    fn place(&mut self, name: String, prepared: Prepared) -> Matrix {
        let Prepared { bytes, format, rows, cols } = prepared;
        if !self.options.trainable {
            return Matrix::Frozen(FrozenMatrix::new(bytes, format, rows, cols, self.device));
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let value = self.tensor(values, [rows, cols]);
        Matrix::Trainable(self.params.register(name, value, vec![rows, cols]))
    }

    fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        resident(self.device, TensorData::new(values, shape), |data| Tensor::from_data(data, self.device))
    }
}

/// The storage format of a matrix on the device. Dense formats are unchanged. A quantized matrix that must be dense
/// becomes f32, because no smaller dense type represents all of its values.
pub(crate) fn kept_format(file: Format, role: Role, options: LoadOptions) -> Format {
    let dense = matches!(file, Format::F32 | Format::F16 | Format::Bf16);
    match (options.trainable, options.quantization, role) {
        (true, _, _) => Format::F32,
        (_, Quantization::Native, _) | (_, Quantization::Nf4, Role::Table) => file,
        (_, Quantization::Nf4, Role::Linear) => Format::Nf4,
        (_, Quantization::None, _) if dense => file,
        (_, Quantization::None, _) => Format::F32,
    }
}

/// The index of the first NaN or infinite element of a weight. All threads search.
fn non_finite(weight: &Weight<'_>) -> Option<usize> {
    let (format, bytes) = (weight.format, &weight.bytes[..]);
    if format == Format::Nf4 {
        return first_non_finite(format, bytes, weight.rows * weight.cols);
    }
    let blocks = FINITE_PIECE / format.block_len();
    let pieces = bytes.par_chunks(blocks * format.block_bytes()).enumerate();
    pieces.find_map_first(|(index, piece)| {
        let elements = piece.len() / format.block_bytes() * format.block_len();
        Some(index * FINITE_PIECE + first_non_finite(format, piece, elements)?)
    })
}

/// A weight quantized to NF4, in pieces on all threads.
fn nf4(weight: &Weight<'_>) -> Vec<u8> {
    let (rows, cols) = (weight.rows, weight.cols);
    let len = rows * cols;
    let piece = |index: usize| {
        let start = index * NF4_PIECE;
        let mut values = vec![0.0; NF4_PIECE.min(len - start)];
        dequantize(weight.format, &weight.bytes, rows, cols, start, &mut values);
        Nf4Piece::new(&values)
    };
    let pieces: Vec<_> = (0..len.div_ceil(NF4_PIECE)).into_par_iter().map(piece).collect();
    join_nf4(len, &pieces)
}

/// All values of a weight as f32.
fn dense(weight: &Weight<'_>) -> Vec<f32> {
    let mut values = vec![0.0; weight.rows * weight.cols];
    let bytes: &Cow<'_, [u8]> = &weight.bytes;
    dequantize(weight.format, bytes, weight.rows, weight.cols, 0, &mut values);
    values
}
