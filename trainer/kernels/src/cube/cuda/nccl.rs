//! Sums over the cards of several processes, by NCCL.
//!
//! Responsible for: opening the library, joining a group, and adding tensors in place on CubeCL's stream.
//! Reference: <https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html>.
//!
//! The library is opened by the name that every package of it has; cudarc looks only for the one that comes with the headers.
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
use crate::index32::signed;

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

/// What is called of it.
struct Nccl {
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    join: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> Status,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, CUstream) -> Status,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    words: unsafe extern "C" fn(Status) -> *const c_char,
    /// The functions live as long as it does.
    _library: Library,
}

impl Nccl {
    fn open() -> Result<Self, libloading::Error> {
        // SAFETY: the library's initialisers do nothing but that, and the types are those of its header.
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
        // SAFETY: it returns a text that is never freed, for every number.
        let words = unsafe { CStr::from_ptr((self.words)(status)) };
        Err(format!("NCCL: {}", words.to_string_lossy()))
    }
}

thread_local! {
    /// The groups that the device of this thread has joined. They are left when the process ends.
    static JOINED: RefCell<HashMap<GroupId, Handle>> = RefCell::default();
}

pub(crate) fn available() -> bool {
    Nccl::get().is_ok()
}

/// The name of a new group.
pub(crate) fn new_id() -> Result<GroupId, String> {
    let nccl = Nccl::get()?;
    let mut id = UniqueId([0; 128]);
    // SAFETY: it writes the identifier.
    nccl.check(unsafe { (nccl.unique_id)(&raw mut id) })?;
    Ok(id.0)
}

/// Replaces the elements of contiguous f32 tensors, which nobody else has, by their sums over the group. The first call
/// waits until all of the group have made it.
pub(in crate::cube) fn sum(communicator: Communicator, tensors: &[CubeTensor]) {
    let lengths: Vec<usize> = tensors.iter().map(len).collect();
    let written: Vec<&CubeTensor> = tensors.iter().collect();
    enqueue(&[], &written, move |stream, addresses| {
        let nccl = Nccl::get()?;
        let handle = JOINED.with_borrow_mut(|joined| join(nccl, communicator, joined))?;
        // SAFETY: each address is that of so many f32, held until all sums are enqueued; the handle is never given back.
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
    // SAFETY: it writes the handle; the card of this thread is the current one.
    nccl.check(unsafe { (nccl.join)(&raw mut handle, signed(size), UniqueId(id), signed(rank)) })?;
    joined.insert(id, handle);
    Ok(handle)
}
