//! GEMM with cuBLASLt.
//!
//! Responsible for: `y = α · left · right + β · y` for f32, f16 or bf16 factors, accumulated in f32. TF32 is never used. The
//! algorithm is the first that cuBLASLt's heuristic returns, chosen once per shape, so equal products are bit-identical.
//! Reference: <https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api>.
#![expect(unsafe_code, reason = "cuBLASLt is a C library")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::sys::CUstream;

use super::stream::enqueue;
use crate::cube::tensors::empty;

/// Bytes of workspace: NVIDIA's recommendation for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Most entries of the cache of algorithms.
const CACHED: usize = 1 << 14;

/// Shape and dtypes of a product. Matrices are row-major and contiguous; so are batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cube) struct Kind {
    pub(in crate::cube) batch: i32,
    pub(in crate::cube) m: usize,
    pub(in crate::cube) n: usize,
    pub(in crate::cube) k: usize,
    /// Whether the left factor is stored as `[k, m]`.
    pub(in crate::cube) left_transposed: bool,
    /// Whether the right factor is stored as `[n, k]`.
    pub(in crate::cube) right_transposed: bool,
    /// The dtype of both factors.
    pub(in crate::cube) factors: DType,
    pub(in crate::cube) output: DType,
}

/// `y = α · left · right + β · y`.
pub(in crate::cube) fn product(
    kind: Kind,
    left: &CubeTensor,
    right: &CubeTensor,
    y: &CubeTensor,
    alpha: f32,
    beta: f32,
) {
    let workspace = empty(y, [WORKSPACE], DType::U8);
    enqueue(&[left, right], &[y, &workspace], move |stream, addresses| {
        let operands = Operands { left: addresses[0], right: addresses[1], y: addresses[2], workspace: addresses[3] };
        LIBRARY
            .with_borrow_mut(|library| library.multiply(kind, &operands, alpha, beta, stream))
            .map_err(|error| format!("cuBLASLt: {error} in {kind:?}"))
    });
}

thread_local! {
    /// The state for the device whose kernels this thread launches.
    static LIBRARY: RefCell<Library> = RefCell::default();
}

/// Addresses on the device.
struct Operands {
    left: u64,
    right: u64,
    y: u64,
    workspace: u64,
}

impl Operands {
    /// The largest powers of two, up to 256, that divide the addresses.
    fn alignments(&self) -> [u32; 3] {
        [self.left, self.right, self.y].map(|address| 1 << address.trailing_zeros().min(8))
    }
}

#[derive(Default)]
struct Library {
    handle: Option<sys::cublasLtHandle_t>,
    /// The cache, by kind and alignments.
    algorithms: HashMap<(Kind, [u32; 3]), sys::cublasLtMatmulAlgo_t>,
}

impl Library {
    fn multiply(
        &mut self,
        kind: Kind,
        operands: &Operands,
        alpha: f32,
        beta: f32,
        stream: CUstream,
    ) -> Result<(), lt::CublasError> {
        let handle = match self.handle {
            Some(handle) => handle,
            None => *self.handle.insert(lt::create_handle()?),
        };
        let problem = Problem::new(kind)?;
        let key = (kind, operands.alignments());
        let algorithm = match self.algorithms.get(&key) {
            Some(algorithm) => *algorithm,
            None => {
                if self.algorithms.len() >= CACHED {
                    self.algorithms.clear();
                }
                let found = problem.algorithm(handle, key.1)?;
                self.algorithms.insert(key, found);
                found
            }
        };
        let at = |address: u64| address as *mut c_void;
        let (alpha, beta) = (ptr::from_ref(&alpha).cast(), ptr::from_ref(&beta).cast());
        // SAFETY: the operands are tensors of the sizes in the layouts, and held until this call returns; work that is
        // enqueued on the stream later runs after it. Row-major matrices are transposed column-major matrices, so the
        // factors are exchanged.
        unsafe {
            lt::matmul(
                handle,
                problem.description.0,
                alpha,
                beta,
                at(operands.right),
                problem.right.0,
                at(operands.left),
                problem.left.0,
                at(operands.y),
                problem.y.0,
                at(operands.y),
                problem.y.0,
                &algorithm,
                at(operands.workspace),
                WORKSPACE,
                stream.cast(),
            )
        }
    }
}

struct Description(sys::cublasLtMatmulDesc_t);

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created by this library and destroyed once. It only fails for invalid pointers.
        let _ = unsafe { lt::destroy_matmul_desc(self.0) };
    }
}

struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    /// A contiguous batch of contiguous column-major matrices.
    fn new(dtype: DType, rows: usize, columns: usize, batch: i32) -> Result<Self, lt::CublasError> {
        use sys::cublasLtMatrixLayoutAttribute_t::{
            CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
        };
        let layout = Self(lt::create_matrix_layout(type_name(dtype), rows as u64, columns as u64, rows as i64)?);
        let (count, offset) = (batch, (rows * columns) as i64);
        // SAFETY: the attributes are an i32 and an i64, copied by the call.
        unsafe {
            lt::set_matrix_layout_attribute(
                layout.0,
                CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                ptr::from_ref(&count).cast(),
                size_of_val(&count),
            )?;
            lt::set_matrix_layout_attribute(
                layout.0,
                CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                ptr::from_ref(&offset).cast(),
                size_of_val(&offset),
            )?;
        }
        Ok(layout)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: as for `Description`.
        let _ = unsafe { lt::destroy_matrix_layout(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn set<T>(&self, what: sys::cublasLtMatmulPreferenceAttributes_t, value: T) -> Result<(), lt::CublasError> {
        // SAFETY: callers pass values of the attributes' types, which the call copies.
        unsafe { lt::set_matmul_pref_attribute(self.0, what, ptr::from_ref(&value).cast(), size_of::<T>()) }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: as for `Description`.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
    }
}

/// A product as cuBLASLt's descriptors.
struct Problem {
    description: Description,
    left: Layout,
    right: Layout,
    y: Layout,
}

impl Problem {
    fn new(kind: Kind) -> Result<Self, lt::CublasError> {
        use sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};

        let Kind { batch, m, n, k, left_transposed, right_transposed, factors, output } = kind;
        let description = Description(lt::create_matmul_desc(CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)?);
        for (what, transposed) in
            [(CUBLASLT_MATMUL_DESC_TRANSA, right_transposed), (CUBLASLT_MATMUL_DESC_TRANSB, left_transposed)]
        {
            let operation = i32::from(transposed);
            // SAFETY: the attribute is an i32 (CUBLAS_OP_N or CUBLAS_OP_T), copied by the call.
            unsafe {
                lt::set_matmul_desc_attribute(
                    description.0,
                    what,
                    ptr::from_ref(&operation).cast(),
                    size_of_val(&operation),
                )?;
            }
        }
        let layout = |dtype, rows, columns, transposed| {
            // Row-major `[rows, columns]` is column-major `[columns, rows]`.
            let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
            Layout::new(dtype, columns, rows, batch)
        };
        Ok(Self {
            description,
            left: layout(factors, m, k, left_transposed)?,
            right: layout(factors, k, n, right_transposed)?,
            y: layout(output, m, n, false)?,
        })
    }

    fn algorithm(
        &self,
        handle: sys::cublasLtHandle_t,
        [left, right, y]: [u32; 3],
    ) -> Result<sys::cublasLtMatmulAlgo_t, lt::CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;

        let preference = Preference(lt::create_matmul_pref()?);
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, right)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, left)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y)?;
        // SAFETY: all handles were created above and still exist.
        let found = unsafe {
            lt::get_matmul_algo_heuristic(
                handle,
                self.description.0,
                self.right.0,
                self.left.0,
                self.y.0,
                self.y.0,
                preference.0,
            )?
        };
        Ok(found.algo)
    }
}

fn type_name(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        other => panic!("the factors of a product are floats, not {other:?}"),
    }
}
