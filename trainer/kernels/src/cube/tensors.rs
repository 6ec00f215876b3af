//! Conversions between Burn's tensors on a CubeCL device and arguments of kernels.

use std::cell::RefCell;

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{self, empty_device_contiguous_dtype};
use burn_cubecl::tensor::CubeTensor;
use cubecl::bytes::Bytes;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::BufferArg;

use crate::index32::index;

/// The tensor with contiguous elements.
pub(crate) fn contiguous(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// The tensor as the only owner of contiguous memory, copied if it is not. A kernel may change it in place.
pub(crate) fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = contiguous(tensor);
    if tensor.can_mut() { tensor } else { contiguous(tensor.copy()) }
}

/// A tensor as an argument of a kernel that addresses single elements.
///
/// # Panics
/// When it has more elements than a kernel can address.
pub(crate) fn argument(tensor: CubeTensor) -> BufferArg {
    vector_argument(tensor, 1)
}

/// A tensor as an argument of a kernel that addresses vectors of `size` elements.
///
/// # Panics
/// When it has more vectors than a kernel can address.
pub(crate) fn vector_argument(tensor: CubeTensor, size: usize) -> BufferArg {
    index(len(&tensor).div_ceil(size));
    tensor.into_buffer_arg()
}

/// Number of elements.
pub(crate) fn len(tensor: &CubeTensor) -> usize {
    tensor.meta.num_elements()
}

/// Rows and columns.
pub(crate) fn dims(tensor: &CubeTensor) -> (usize, usize) {
    match tensor.meta.shape()[..] {
        [rows, columns] => (rows, columns),
        ref shape => panic!("expected a matrix, not shape {shape:?}"),
    }
}

/// A new tensor on the device of `like`, with undefined elements.
pub(crate) fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
}

/// A new contiguous f32 matrix of zeros. (Burn may pad the rows of a new matrix.)
pub(crate) fn zeros(like: &CubeTensor, rows: usize, columns: usize) -> CubeTensor {
    contiguous(numeric::zeros(like.device.clone(), Shape::from([rows, columns]), DType::F32))
}

/// An empty tensor, in place of a gradient that was not requested.
pub(crate) fn nothing(like: &CubeTensor) -> CubeTensor {
    empty(like, [0, 0], like.dtype)
}

/// Uploads words to the device of `like`.
pub(crate) fn upload(like: &CubeTensor, values: &[u32]) -> CubeTensor {
    let handle = like.client.create(Bytes::from_elems(values.to_vec()));
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        Shape::from([values.len()]),
        handle,
        DType::U32,
    )
}

/// As [`upload`], for words that several operations read: positions, ranges of keys, tables. The tensors of the last few calls
/// are cached, so equal words are not uploaded again. No kernel may change them.
pub(crate) fn upload_shared(like: &CubeTensor, values: &[u32]) -> CubeTensor {
    UPLOADED.with_borrow_mut(|kept| {
        let same = |(words, tensor): &(Vec<u32>, CubeTensor)| tensor.device == like.device && words == values;
        let entry = match kept.iter().position(same) {
            Some(place) => kept.remove(place),
            None => (values.to_vec(), upload(like, values)),
        };
        let tensor = entry.1.clone();
        kept.insert(0, entry);
        kept.truncate(UPLOADS_KEPT);
        tensor
    })
}

const UPLOADS_KEPT: usize = 8;

thread_local! {
    /// The most recent first.
    static UPLOADED: RefCell<Vec<(Vec<u32>, CubeTensor)>> = const { RefCell::new(Vec::new()) };
}

/// The elements of a contiguous tensor in another shape.
pub(crate) fn reshaped<const D: usize>(tensor: CubeTensor, shape: [usize; D]) -> CubeTensor {
    CubeTensor::new_contiguous(tensor.client, tensor.device, Shape::from(shape), tensor.handle, tensor.dtype)
}

/// Rows `start .. start + count` of a contiguous matrix, as a view of its memory.
pub(crate) fn rows(tensor: &CubeTensor, start: usize, count: usize) -> CubeTensor {
    let (total, columns) = dims(tensor);
    assert!(start + count <= total, "rows {start} .. {start} + {count} of a matrix with {total} rows");
    let size = (columns * tensor.dtype.size()) as u64;
    let handle = tensor.handle.clone();
    let handle = handle.offset_start(start as u64 * size).offset_end((total - start - count) as u64 * size);
    CubeTensor::new_contiguous(
        tensor.client.clone(),
        tensor.device.clone(),
        Shape::from([count, columns]),
        handle,
        tensor.dtype,
    )
}

/// CubeCL's name of a float type.
pub(crate) fn float(tensor: &CubeTensor) -> ElemType {
    ElemType::Float(match tensor.dtype {
        DType::F32 => FloatKind::F32,
        DType::BF16 => FloatKind::BF16,
        DType::F16 => FloatKind::F16,
        other => panic!("the kernels compute in floats, not in {other:?}"),
    })
}

/// Bytes as little-endian words, padded with zeros.
pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    let mut words = vec![0_u32; bytes.len().div_ceil(4)];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}
