//! Copies between a GPU and the host on a separate stream, so that they overlap with kernels.
//!
//! Responsible for: synchronising both streams. A copy starts after all work that was enqueued before it. Kernels that are
//! enqueued after `finish_offload` or `wait` start after the copy. Copies run one after another. Their host memory is
//! page-locked, allocated at first use and kept as long as the device is used: one slot per position in a stack.
//! Reference: <https://docs.nvidia.com/cuda/cuda-driver-api/>, streams, events and memory.
#![expect(unsafe_code, reason = "the CUDA driver is a C library")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::slice;

use burn_cubecl::tensor::CubeTensor;
use cudarc::driver::result::{self as driver, event, stream};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUevent_wait_flags, CUresult, CUstream};

use super::stream::enqueue;
use crate::cube::tensors::len;

const WAIT: CUevent_wait_flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;

thread_local! {
    /// The copy stream of the device whose kernels this thread launches.
    static COPY_STREAM: RefCell<Option<CopyStream>> = const { RefCell::new(None) };
}

/// Starts to copy a tensor into slot `index`. The caller holds the tensor until [`finish_offload`].
pub(in crate::cube) fn start_offload(tensor: &CubeTensor, index: usize) {
    let bytes = len(tensor) * tensor.dtype.size();
    run(tensor, move |copies, stream, address| {
        copies.make_slot(index, bytes)?;
        copies.wait_for_kernels(stream)?;
        let slot = copies.slot(index, bytes)?;
        // SAFETY: the slot has `bytes` bytes that live as long as the device is used. No other copy accesses them at the same
        // time, and the host doesn't read them. The tensor is held until the copy has finished.
        unsafe {
            let to = slice::from_raw_parts_mut(slot.at.cast::<u8>(), bytes);
            driver::memcpy_dtoh_async(to, address, copies.stream)?;
            event::record(slot.done, copies.stream)
        }
    });
}

/// Lets later work wait for the copy of a tensor, and then frees the tensor.
pub(in crate::cube) fn finish_offload(tensor: CubeTensor, index: usize) {
    // `enqueue` holds the last reference and drops it after the wait is enqueued.
    wait(&tensor, index);
}

/// Starts to copy slot `index` into a tensor, which must not be used before [`wait`].
pub(in crate::cube) fn start_prefetch(tensor: &CubeTensor, index: usize) {
    let bytes = len(tensor) * tensor.dtype.size();
    run(tensor, move |copies, stream, address| {
        // Kernels may still use the tensor's memory for its previous owner.
        copies.wait_for_kernels(stream)?;
        let slot = copies.slot(index, bytes)?;
        // SAFETY: the slot is as large as the tensor, and was filled by an earlier copy on the same stream.
        unsafe {
            let from = slice::from_raw_parts(slot.at.cast::<u8>(), bytes);
            driver::memcpy_htod_async(address, from, copies.stream)?;
            event::record(slot.done, copies.stream)
        }
    });
}

/// Lets later work wait for the copy of slot `index`.
pub(in crate::cube) fn wait(tensor: &CubeTensor, index: usize) {
    run(tensor, move |copies, stream, _| copies.make_kernels_wait(index, stream));
}

/// Runs `work` on the thread that launches kernels, with the stream of the kernels and the address of a tensor. An error
/// surfaces when the tensor is read.
fn run(
    tensor: &CubeTensor,
    work: impl FnOnce(&mut CopyStream, CUstream, u64) -> Result<(), driver::DriverError> + Send + 'static,
) {
    enqueue(&[], &[tensor], move |stream, addresses| {
        let address = addresses[0];
        COPY_STREAM
            .with_borrow_mut(|copies| {
                let copies = match copies {
                    Some(copies) => copies,
                    None => copies.insert(CopyStream::new()?),
                };
                work(copies, stream, address)
            })
            .map_err(|error| format!("copying between GPU and host memory: {error}"))
    });
}

/// Page-locked host memory, and the event of its last copy.
struct Slot {
    at: *mut c_void,
    bytes: usize,
    done: CUevent,
}

/// The stream of the copies. The stream, its events and its memory exist as long as the device is used.
struct CopyStream {
    stream: CUstream,
    /// Recorded on the kernels' stream before each copy.
    reached: CUevent,
    /// By position in the stack.
    slots: BTreeMap<usize, Slot>,
}

impl CopyStream {
    fn new() -> Result<Self, driver::DriverError> {
        let stream = stream::create(stream::StreamKind::NonBlocking)?;
        Ok(Self { stream, reached: new_event()?, slots: BTreeMap::new() })
    }

    /// Allocates slot `index`, or enlarges it.
    fn make_slot(&mut self, index: usize, bytes: usize) -> Result<(), driver::DriverError> {
        if self.slots.get(&index).is_some_and(|slot| slot.bytes >= bytes) {
            return Ok(());
        }
        // SAFETY: only this function frees the memory, after all copies have finished.
        unsafe {
            let at = driver::malloc_host(bytes, 0)?;
            match self.slots.get_mut(&index) {
                Some(slot) => {
                    stream::synchronize(self.stream)?;
                    driver::free_host(slot.at)?;
                    (slot.at, slot.bytes) = (at, bytes);
                }
                None => drop(self.slots.insert(index, Slot { at, bytes, done: new_event()? })),
            }
        }
        Ok(())
    }

    /// Slot `index`, with at least `bytes` bytes. An error if it could not be allocated.
    fn slot(&self, index: usize, bytes: usize) -> Result<&Slot, driver::DriverError> {
        let slot = self.slots.get(&index).filter(|slot| slot.bytes >= bytes);
        slot.ok_or(driver::DriverError(CUresult::CUDA_ERROR_INVALID_HANDLE))
    }

    /// Lets later copies wait for the kernels that are enqueued so far.
    fn wait_for_kernels(&self, own: CUstream) -> Result<(), driver::DriverError> {
        // SAFETY: both streams and the event exist.
        unsafe {
            event::record(self.reached, own)?;
            stream::wait_event(self.stream, self.reached, WAIT)
        }
    }

    /// Lets later kernels wait for the copy of slot `index`.
    fn make_kernels_wait(&self, index: usize, own: CUstream) -> Result<(), driver::DriverError> {
        // SAFETY: as above; the event was recorded when the copy was enqueued.
        unsafe { stream::wait_event(own, self.slot(index, 0)?.done, WAIT) }
    }
}

fn new_event() -> Result<CUevent, driver::DriverError> {
    event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
}
