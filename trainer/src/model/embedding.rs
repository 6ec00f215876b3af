//! Token embeddings.
//!
//! Responsible for: looking up rows in a table on the device or in host memory.
//! Must not depend on: files.

use burn::tensor::{DType, Tensor};
use tonfall_adapters::ModelDescription;
use tonfall_kernels::HostTable;

use super::linear::Matrix;
use super::load::LoadOptions;
use crate::device::DeviceKind;
use crate::params::Binding;

/// The token embeddings, `[vocab_size, hidden]`.
#[derive(Debug)]
pub(super) enum Embedding {
    OnDevice(Matrix),
    OnHost(HostTable),
}

/// Whether the table stays in host memory. It does if the device has its own memory, and neither a tied head nor
/// training needs the whole table on the device.
pub(crate) fn embeds_from_host(model: &ModelDescription, options: LoadOptions, device: DeviceKind) -> bool {
    device != DeviceKind::Cpu && !model.tie_word_embeddings && !options.trainable
}

impl Embedding {
    /// `[tokens]` → `[tokens, hidden]`.
    pub(super) fn rows(&self, ids: &[u32], dtype: DType, binding: &Binding<'_>) -> Tensor<2> {
        match self {
            Self::OnDevice(matrix) => matrix.embed(ids, dtype, binding),
            Self::OnHost(table) => table.embedding(ids, dtype),
        }
    }

    /// Looks up the rows of the next pass early, if the table is in host memory.
    pub(super) fn look_ahead(&self, ids: impl FnOnce() -> Option<Vec<u32>>, dtype: DType) {
        if let Self::OnHost(table) = self
            && let Some(ids) = ids()
        {
            table.look_ahead(&ids, dtype);
        }
    }

    pub(super) fn is_trained(&self) -> bool {
        matches!(self, Self::OnDevice(Matrix::Trainable(_)))
    }
}
