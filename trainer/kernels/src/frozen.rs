//! Frozen weights, in the bytes of their file.
//!
//! Responsible for: holding the bytes on a device. Must not depend on: files, or the use of the weight.

use burn::tensor::{Bytes, DType, Device, Int, Tensor, TensorData};
use tonfall_blocks::{Format, byte_len};

use crate::buffer::Buffer;
use crate::cpu::dequantize::Stored;
#[cfg(feature = "cube")]
use crate::resident::resident;

/// Number format and shape of a stored matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixLayout {
    pub format: Format,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl MatrixLayout {
    pub(crate) fn view(self, bytes: &[u8]) -> Stored<'_> {
        Stored::new(bytes, self.format, self.rows, self.cols)
    }
}

/// A frozen weight `[rows, cols]` = `[out_features, in_features]` in one of the stored number formats. Clones share the
/// bytes. On the CPU it is never dequantized as a whole: operations decode panels that fit in the cache.
#[derive(Clone, Debug)]
pub struct FrozenMatrix {
    data: Tensor<1, Int>,
    layout: MatrixLayout,
}

impl FrozenMatrix {
    /// A matrix from bytes laid out as `tonfall_blocks` describes. The bytes are moved, not copied.
    ///
    /// # Panics
    /// When `bytes` doesn't have the length that format and shape require. Readers of files check that first.
    #[must_use]
    pub fn new(bytes: Vec<u8>, format: Format, rows: usize, cols: usize, device: &Device) -> Self {
        assert_eq!(bytes.len(), byte_len(format, rows, cols), "bytes of a {rows} x {cols} matrix in {format}");
        let layout = MatrixLayout { format, rows, cols };
        let device = device.clone().inner();
        #[cfg(feature = "cube")]
        if device != Device::flex() {
            let words = crate::cube::device_words(&bytes, format);
            let len = words.len();
            let data = TensorData::new(words, [len]);
            return resident(&device, data, |data| Self::on_device(data, layout, &device));
        }
        Self::on_cpu(bytes, layout, &device)
    }

    /// A matrix that exists for one pass only, in any format but NF4. `words` holds its bytes.
    pub(crate) fn passing(words: Buffer, layout: MatrixLayout, device: &Device) -> Self {
        let device = device.clone().inner();
        if device != Device::flex() {
            let len = words.len();
            return Self::on_device(TensorData::from_bytes(words.into_bytes(), [len], DType::U32), layout, &device);
        }
        let len = byte_len(layout.format, layout.rows, layout.cols);
        Self::on_cpu(bytemuck::cast_slice(&words[..])[..len].to_vec(), layout, &device)
    }

    fn on_device(words: TensorData, layout: MatrixLayout, device: &Device) -> Self {
        Self { data: Tensor::from_data(words, (device, DType::U32)), layout }
    }

    fn on_cpu(bytes: Vec<u8>, layout: MatrixLayout, device: &Device) -> Self {
        let len = bytes.len();
        // `from_bytes_vec` would copy them.
        let data = TensorData::from_bytes(Bytes::from_elems(bytes), [len], DType::U8);
        Self { data: Tensor::from_data(data, (device, DType::U8)), layout }
    }

    #[must_use]
    pub const fn layout(&self) -> MatrixLayout {
        self.layout
    }

    #[must_use]
    pub const fn format(&self) -> Format {
        self.layout.format
    }

    /// Output features.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Input features.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.layout.cols
    }

    /// The stored bytes, outside autodiff: `u8` on the CPU, little-endian `u32` words elsewhere.
    #[must_use]
    pub const fn data(&self) -> &Tensor<1, Int> {
        &self.data
    }
}
