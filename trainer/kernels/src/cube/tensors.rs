//! Between Burn's tensors on a CubeCL device and the arguments of kernels.

use std::cell::RefCell;

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{self, empty_device_contiguous_dtype};
use burn_cubecl::tensor::CubeTensor;
use cubecl::bytes::Bytes;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::BufferArg;

use crate::index32::index;

/// The tensor with its elements in one run of memory.
pub(crate) fn contiguous(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// The tensor contiguous and as the only owner of its memory, copied where it isn't: a kernel may change it in place.
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

/// A new tensor on the device of another one, its elements undefined.
pub(crate) fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
}

/// A new f32 matrix of zeros. (What Burn allocates may have gaps between its rows.)
pub(crate) fn zeros(like: &CubeTensor, rows: usize, columns: usize) -> CubeTensor {
    contiguous(numeric::zeros(like.device.clone(), Shape::from([rows, columns]), DType::F32))
}

/// Stands for a gradient that nobody asked for.
pub(crate) fn nothing(like: &CubeTensor) -> CubeTensor {
    empty(like, [0, 0], like.dtype)
}

/// Words uploaded to the device of a tensor.
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

/// As `upload`, for words that one operation after the other reads: positions, ranges of keys, tables. Those of the last few
/// calls stay on the device, and words that are already there are not sent again. No kernel may change them.
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
    /// The last one first.
    static UPLOADED: RefCell<Vec<(Vec<u32>, CubeTensor)>> = const { RefCell::new(Vec::new()) };
}

/// The same elements as a matrix of another shape; the tensor is contiguous.
pub(crate) fn reshaped<const D: usize>(tensor: CubeTensor, shape: [usize; D]) -> CubeTensor {
    CubeTensor::new_contiguous(tensor.client, tensor.device, Shape::from(shape), tensor.handle, tensor.dtype)
}

/// Rows `start .. start + count` of a contiguous matrix, sharing its memory.
pub(crate) fn rows(tensor: &CubeTensor, start: usize, count: usize) -> CubeTensor {
    let (total, columns) = dims(tensor);
    assert!(start + count <= total, "rows {start} + {count} of {total}");
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
        other => panic!("the kernels compute with floats, not {other:?}"),
    })
}

/// Bytes as little-endian words, padded with zeros.
pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    let mut words = vec![0_u32; bytes.len().div_ceil(4)];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}
