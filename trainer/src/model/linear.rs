//! A linear layer: a frozen or trainable weight, an optional bias, an optional LoRA adapter.
//!
//! Responsible for: choosing the operation for a weight that is frozen, trained or has an adapter.
//! Must not depend on: the source of weights, the use of the layer.

use burn::tensor::{DType, Tensor};
use tonfall_kernels::{Adapter, Dropout, FrozenMatrix, HeadWeight, Rematerialized};

use super::forward_pass::ForwardPass;
use crate::params::{Binding, ParamId};

/// A weight matrix `[out_features, in_features]`.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a model has a few hundred of these: a box would save nothing")]
pub(crate) enum Matrix {
    Frozen(FrozenMatrix),
    Trainable(ParamId),
}

impl Matrix {
    /// Rows of the matrix for token ids: `[tokens]` → `[tokens, in_features]`.
    pub(crate) fn embed(&self, ids: &[u32], dtype: DType, binding: &Binding<'_>) -> Tensor<2> {
        match self {
            Self::Frozen(matrix) => tonfall_kernels::embedding(ids, matrix, dtype),
            Self::Trainable(id) => tonfall_kernels::trainable_embedding(ids, binding.get(*id), dtype),
        }
    }

    /// The matrix as the weight of the output head.
    pub(crate) fn head(&self, binding: &Binding<'_>) -> HeadWeight {
        match self {
            Self::Frozen(matrix) => HeadWeight::Frozen(matrix.clone()),
            Self::Trainable(id) => HeadWeight::Trainable(binding.get(*id)),
        }
    }

    /// `x · Wᵀ`: `[tokens, in]` → `[tokens, out]`.
    pub(crate) fn project(&self, x: Tensor<2>, bias: Option<Tensor<1>>, binding: &Binding<'_>) -> Tensor<2> {
        match self {
            Self::Frozen(matrix) => tonfall_kernels::linear(x, matrix, bias),
            Self::Trainable(id) => tonfall_kernels::trainable_linear(x, binding.get(*id), bias),
        }
    }
}

/// A vector: a norm's weight or a bias.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a model has a few hundred of these: a box would save nothing")]
pub(crate) enum Vector {
    Frozen(Tensor<1>),
    Trainable(ParamId),
}

impl Vector {
    pub(crate) fn get(&self, binding: &Binding<'_>) -> Tensor<1> {
        match self {
            Self::Frozen(vector) => vector.clone(),
            Self::Trainable(id) => {
                let matrix = binding.get(*id);
                let [_, len] = matrix.dims();
                matrix.reshape([len])
            }
        }
    }
}

/// The adapter of a linear layer: `s·(drop(x)·Aᵀ)·Bᵀ` (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>).
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoraSite {
    /// `[r, in_features]`
    pub a: ParamId,
    /// `[out_features, r]`
    pub b: ParamId,
    /// `alpha / r`, or `alpha / √r` with rsLoRA.
    pub scale: f32,
    pub dropout: f32,
    /// Index of the linear layer in the model; part of the key of its dropout mask.
    pub site: u32,
}

/// A linear layer of the decoder.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub weight: Matrix,
    pub bias: Option<Vector>,
    pub lora: Option<LoraSite>,
}

impl Linear {
    /// `[tokens, in_features]` → `[tokens, out_features]`.
    pub(crate) fn forward(&self, x: impl Into<Rematerialized>, pass: &ForwardPass<'_>) -> Tensor<2> {
        let bias = self.bias.as_ref().map(|bias| bias.get(pass.binding));
        match (&self.weight, self.adapter(pass)) {
            (Matrix::Frozen(matrix), Some(adapter)) => tonfall_kernels::lora_linear(x, matrix, bias, adapter),
            (weight, _) => weight.project(x.into().value(), bias, pass.binding),
        }
    }

    /// A zero. Its `backward()` starts with `gradient` as the gradient of the output, `[tokens, out_features]`. The
    /// output is computed only if the backward pass needs it.
    pub(crate) fn with_cotangent(
        &self,
        x: impl Into<Rematerialized>,
        gradient: Tensor<2>,
        pass: &ForwardPass<'_>,
    ) -> Tensor<1> {
        match (&self.weight, self.adapter(pass), &self.bias) {
            (Matrix::Frozen(matrix), Some(adapter), None) => {
                tonfall_kernels::lora_linear_with_cotangent(x, matrix, adapter, gradient)
            }
            _ => tonfall_kernels::with_cotangent(self.forward(x, pass), gradient),
        }
    }

    fn adapter(&self, pass: &ForwardPass<'_>) -> Option<Adapter> {
        let lora = self.lora.filter(|_| pass.with_adapter)?;
        let dropout = pass.dropout.filter(|_| lora.dropout > 0.0).map(|key| {
            let (seed, stream) = key.seed_and_stream(lora.site);
            Dropout { p: lora.dropout, seed, stream }
        });
        Some(Adapter { a: pass.binding.get(lora.a), b: pass.binding.get(lora.b), scale: lora.scale, dropout })
    }
}
