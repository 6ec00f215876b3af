//! Weights in host memory, shared with the tensors of a model.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use tonfall_blocks::Format;

use crate::cpu::dequantize::Stored;
use crate::flex::contiguous;
use crate::frozen::{FrozenMatrix, MatrixLayout};
use crate::op::Flex;

/// A weight `[rows, cols]` = `[out_features, in_features]` of a model on the CPU. It shares the memory of the tensor.
#[derive(Clone, Debug)]
pub struct HostMatrix {
    data: FlexTensor,
    layout: MatrixLayout,
}

impl HostMatrix {
    /// A frozen weight; `None` if it is on another device.
    #[must_use]
    pub fn frozen(matrix: &FrozenMatrix) -> Option<Self> {
        let data = matrix.data().clone().try_into_primitive::<Flex>().ok()?;
        Some(Self { data, layout: matrix.layout() })
    }

    /// An f32 matrix; `None` if it is on another device.
    #[must_use]
    pub fn dense(matrix: Tensor<2>) -> Option<Self> {
        let [rows, cols] = matrix.dims();
        let data = contiguous(matrix.inner().try_into_primitive::<Flex>().ok()?);
        Some(Self { data, layout: MatrixLayout { format: Format::F32, rows, cols } })
    }

    /// Output features.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Input features.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// The stored bytes.
    pub(crate) fn view(&self) -> Stored<'_> {
        let bytes = match self.layout.format {
            Format::F32 if self.data.as_slice::<f32>().is_some() => {
                bytemuck::cast_slice(self.data.as_slice::<f32>().unwrap_or_default())
            }
            _ => crate::flex::bytes(&self.data),
        };
        self.layout.view(bytes)
    }
}

/// The values of a vector; `None` if it is on another device.
#[must_use]
pub fn host_vector(vector: Tensor<1>) -> Option<Vec<f32>> {
    let data = contiguous(vector.inner().try_into_primitive::<Flex>().ok()?);
    Some(crate::flex::floats(&data).to_vec())
}
