//! The weights of a decoder on the CPU, for decoding without tensors.
//!
//! Responsible for: sharing the memory of every weight with the decoder, and choosing the adapter's part.
//! Must not depend on: caches, the forward pass.

use tonfall_kernels::decode::{HostMatrix, host_vector};
use tonfall_kernels::{Activation, RopeTable};

use super::decoder::Decoder;
use super::embedding::Embedding;
use super::layer::{AttentionShape, Layer, Norm};
use super::linear::{Linear, Matrix, Vector};
use crate::params::Binding;

/// A LoRA adapter of a linear layer.
#[derive(Debug)]
pub(crate) struct HostLora {
    /// `[r, in_features]`
    pub a: HostMatrix,
    /// `[out_features, r]`
    pub b: HostMatrix,
    pub scale: f32,
}

#[derive(Debug)]
pub(crate) struct HostLinear {
    pub weight: HostMatrix,
    pub bias: Option<Vec<f32>>,
    pub lora: Option<HostLora>,
}

#[derive(Debug)]
pub(crate) struct HostNorm {
    pub gamma: Vec<f32>,
    pub epsilon: f64,
}

/// The weights of a block; see [`Layer`].
#[derive(Debug)]
pub(crate) struct HostLayer {
    pub shape: AttentionShape,
    pub rope: RopeTable,
    pub input_norm: HostNorm,
    pub q: HostLinear,
    pub k: HostLinear,
    pub v: HostLinear,
    pub o: HostLinear,
    pub qk_norm: Option<(HostNorm, HostNorm)>,
    pub mlp_norm: HostNorm,
    pub output_norms: Option<(HostNorm, HostNorm)>,
    pub activation: Activation,
    pub gate: HostLinear,
    pub up: HostLinear,
    pub down: HostLinear,
}

/// The weights of a decoder.
#[derive(Debug)]
pub(crate) struct HostDecoder {
    pub embedding: HostMatrix,
    pub embedding_scale: Option<f32>,
    pub layers: Vec<HostLayer>,
    pub norm: HostNorm,
    /// `[vocab_size, hidden]`
    pub head: HostMatrix,
    pub soft_cap: Option<f32>,
}

impl Decoder {
    /// The weights in host memory; `None` if the decoder is on another device.
    pub(crate) fn on_host(&self, with_adapter: bool) -> Option<HostDecoder> {
        let binding = Binding::untracked(&self.params);
        let reader = Reader { binding: &binding, with_adapter };
        let Embedding::OnDevice(embedding) = &self.embedding else { return None };
        Some(HostDecoder {
            embedding: reader.matrix(embedding)?,
            embedding_scale: self.description.embedding_scale.map(|scale| scale as f32),
            layers: self.layers.iter().map(|layer| reader.layer(layer)).collect::<Option<_>>()?,
            norm: reader.norm(&self.norm)?,
            head: reader.matrix(&self.head)?,
            soft_cap: self.description.final_logit_softcapping.map(|cap| cap as f32),
        })
    }
}

struct Reader<'a> {
    binding: &'a Binding<'a>,
    with_adapter: bool,
}

impl Reader<'_> {
    fn matrix(&self, matrix: &Matrix) -> Option<HostMatrix> {
        match matrix {
            Matrix::Frozen(matrix) => HostMatrix::frozen(matrix),
            Matrix::Trainable(id) => HostMatrix::dense(self.binding.get(*id)),
        }
    }

    fn linear(&self, linear: &Linear) -> Option<HostLinear> {
        let bias = linear.bias.as_ref().map(|bias| host_vector(bias.get(self.binding)));
        let bias = match bias {
            Some(bias) => Some(bias?),
            None => None,
        };
        let lora = match linear.lora.filter(|_| self.with_adapter) {
            Some(site) => Some(HostLora {
                a: HostMatrix::dense(self.binding.get(site.a))?,
                b: HostMatrix::dense(self.binding.get(site.b))?,
                scale: site.scale,
            }),
            None => None,
        };
        Some(HostLinear { weight: self.matrix(&linear.weight)?, bias, lora })
    }

    fn norm(&self, norm: &Norm) -> Option<HostNorm> {
        let mut gamma = host_vector(norm.weight.get(self.binding))?;
        if matches!(norm.weight, Vector::Trainable(_)) {
            gamma.iter_mut().for_each(|gamma| *gamma += norm.offset);
        }
        Some(HostNorm { gamma, epsilon: norm.epsilon })
    }

    fn pair(&self, norms: Option<&(Norm, Norm)>) -> Option<Option<(HostNorm, HostNorm)>> {
        match norms {
            Some((first, second)) => Some(Some((self.norm(first)?, self.norm(second)?))),
            None => Some(None),
        }
    }

    fn layer(&self, layer: &Layer) -> Option<HostLayer> {
        Some(HostLayer {
            shape: layer.shape.clone(),
            rope: layer.rope.clone(),
            input_norm: self.norm(&layer.input_norm)?,
            q: self.linear(&layer.q)?,
            k: self.linear(&layer.k)?,
            v: self.linear(&layer.v)?,
            o: self.linear(&layer.o)?,
            qk_norm: self.pair(layer.qk_norm.as_ref())?,
            mlp_norm: self.norm(&layer.mlp_norm)?,
            output_norms: self.pair(layer.output_norms.as_ref())?,
            activation: layer.activation,
            gate: self.linear(&layer.gate)?,
            up: self.linear(&layer.up)?,
            down: self.linear(&layer.down)?,
        })
    }
}
