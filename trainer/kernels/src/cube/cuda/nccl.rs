//! All-reduce over the GPUs of several processes with NCCL.
//!
//! Responsible for: opening the library, joining a group, and summing tensors in place on CubeCL's stream.
//! Reference: <https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html>.
//!
//! The library is opened as `libnccl.so.2`, the name in all its packages. cudarc only tries the name of the development package.
#![expect(unsafe_code, reason = "NCCL is a C library")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use burn_cubecl::tensor::CubeTensor;
use cudarc::driver::sys::CUstream;
use libloading::Library;

use super::stream::enqueue;
use crate::all_reduce::{Communicator, GroupId};
use crate::cube::tensors::len;

/// ncclResult_t, ncclComm_t.
type Status = c_int;
type Handle = *mut c_void;

/// ncclFloat32 and ncclSum.
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

/// ncclUniqueId.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId(GroupId);

/// The functions in use.
struct Nccl {
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    join: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> Status,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, CUstream) -> Status,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    words: unsafe extern "C" fn(Status) -> *const c_char,
    /// Must outlive the functions.
    _library: Library,
}

impl Nccl {
    fn open() -> Result<Self, libloading::Error> {
        // SAFETY: the library's initialisers have no other effects, and the types are those of its header.
        unsafe {
            let library = Library::new("libnccl.so.2").or_else(|_| Library::new("libnccl.so"))?;
            Ok(Self {
                unique_id: *library.get(b"ncclGetUniqueId")?,
                join: *library.get(b"ncclCommInitRank")?,
                all_reduce: *library.get(b"ncclAllReduce")?,
                group_start: *library.get(b"ncclGroupStart")?,
                group_end: *library.get(b"ncclGroupEnd")?,
                words: *library.get(b"ncclGetErrorString")?,
                _library: library,
            })
        }
    }

    /// The library, opened once.
    fn get() -> Result<&'static Self, String> {
        static NCCL: OnceLock<Result<Nccl, String>> = OnceLock::new();
        NCCL.get_or_init(|| Self::open().map_err(|error| error.to_string())).as_ref().map_err(Clone::clone)
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: for every number it returns a text that is never freed.
        let words = unsafe { CStr::from_ptr((self.words)(status)) };
        Err(format!("NCCL: {}", words.to_string_lossy()))
    }
}

thread_local! {
    /// The groups that the device of this thread has joined, until the process ends.
    static JOINED: RefCell<HashMap<GroupId, Handle>> = RefCell::default();
}

pub(crate) fn available() -> bool {
    Nccl::get().is_ok()
}

/// The id of a new group.
pub(crate) fn new_id() -> Result<GroupId, String> {
    let nccl = Nccl::get()?;
    let mut id = UniqueId([0; 128]);
    // SAFETY: the call writes the id.
    nccl.check(unsafe { (nccl.unique_id)(&raw mut id) })?;
    Ok(id.0)
}

/// Replaces contiguous f32 tensors, whose memory no other tensor shares, by their sums over the group. The first call blocks
/// until all processes of the group have called it.
pub(in crate::cube) fn sum(communicator: Communicator, tensors: &[CubeTensor]) {
    let lengths: Vec<usize> = tensors.iter().map(len).collect();
    let written: Vec<&CubeTensor> = tensors.iter().collect();
    enqueue(&[], &written, move |stream, addresses| {
        let nccl = Nccl::get()?;
        let handle = JOINED.with_borrow_mut(|joined| join(nccl, communicator, joined))?;
        // SAFETY: each address points to `len` f32, held until all sums are enqueued; the communicator is never destroyed.
        unsafe {
            nccl.check((nccl.group_start)())?;
            for (address, len) in addresses.iter().zip(&lengths) {
                let at = *address as *mut c_void;
                nccl.check((nccl.all_reduce)(at, at, *len, FLOAT32, SUM, handle, stream))?;
            }
            nccl.check((nccl.group_end)())
        }
    });
}

fn join(nccl: &Nccl, communicator: Communicator, joined: &mut HashMap<GroupId, Handle>) -> Result<Handle, String> {
    let Communicator { id, rank, size } = communicator;
    if let Some(handle) = joined.get(&id) {
        return Ok(*handle);
    }
    let mut handle = ptr::null_mut();
    let [size, rank] = [size, rank].map(|number| c_int::try_from(number).map_err(|error| error.to_string()));
    // SAFETY: the call writes the handle; this thread's GPU is the current device.
    nccl.check(unsafe { (nccl.join)(&raw mut handle, size?, UniqueId(id), rank?) })?;
    joined.insert(id, handle);
    Ok(handle)
}
