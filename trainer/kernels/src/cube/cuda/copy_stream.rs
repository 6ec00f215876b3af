//! Copies between a card and the host that run beside the card's work, on a stream of their own.
//!
//! Responsible for: the order of both streams. A copy begins when all work that was enqueued before it is done, and what is
//! enqueued behind `sent` or `arrived` begins when the copy is done. Copies follow one another. The host's memory for them is
//! page-locked, made when first needed, and kept for as long as the device is used: a slot for each place in a stack.
//! Reference: <https://docs.nvidia.com/cuda/cuda-driver-api/>, streams, events and memory.
#![expect(unsafe_code, reason = "CUDA's driver is a C library")]

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
    /// Of the device whose kernels this thread launches.
    static COPY_STREAM: RefCell<Option<CopyStream>> = const { RefCell::new(None) };
}

/// Starts to copy a tensor into the slot of a place. Its memory has to be held until [`sent`].
pub(in crate::cube) fn send(tensor: &CubeTensor, place: usize) {
    let bytes = len(tensor) * tensor.dtype.size();
    run(tensor, move |copies, stream, address| {
        copies.make_slot(place, bytes)?;
        copies.follow(stream)?;
        let slot = copies.slot(place, bytes)?;
        // SAFETY: the slot has so many bytes that live as long as the device is used, nothing else on this stream touches them
        // before the copy, and nobody reads them here. The tensor is held until the copy is done.
        unsafe {
            let to = slice::from_raw_parts_mut(slot.at.cast::<u8>(), bytes);
            driver::memcpy_dtoh_async(to, address, copies.stream)?;
            event::record(slot.done, copies.stream)
        }
    });
}

/// What is enqueued from now on begins when the copy of a tensor is done; then its memory is free.
pub(in crate::cube) fn sent(tensor: CubeTensor, place: usize) {
    // The binding that `enqueue` holds is the last one and is dropped behind the wait.
    arrived(&tensor, place);
}

/// Starts to copy what is in the slot of a place into a tensor, which nobody uses before [`arrived`].
pub(in crate::cube) fn fetch(tensor: &CubeTensor, place: usize) {
    let bytes = len(tensor) * tensor.dtype.size();
    run(tensor, move |copies, stream, address| {
        // Whoever had the tensor's memory before is done by then.
        copies.follow(stream)?;
        let slot = copies.slot(place, bytes)?;
        // SAFETY: the slot is as large as the tensor, and was filled by an earlier copy on the same stream.
        unsafe {
            let from = slice::from_raw_parts(slot.at.cast::<u8>(), bytes);
            driver::memcpy_htod_async(address, from, copies.stream)?;
            event::record(slot.done, copies.stream)
        }
    });
}

/// What is enqueued from now on begins when the copy of a place is done.
pub(in crate::cube) fn arrived(tensor: &CubeTensor, place: usize) {
    run(tensor, move |copies, stream, _| copies.precede(place, stream));
}

/// Runs `work` on the thread that launches kernels, with the card's own stream and the address of a tensor, whose error it
/// is when it fails.
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
            .map_err(|error| format!("a copy beside the card's work: {error}"))
    });
}

/// Page-locked memory, and the last copy from or to it.
struct Slot {
    at: *mut c_void,
    bytes: usize,
    done: CUevent,
}

/// The stream of the copies. It, its events and its memory stay for as long as the device is used.
struct CopyStream {
    stream: CUstream,
    /// Where the card's own stream stands.
    reached: CUevent,
    /// By place.
    slots: BTreeMap<usize, Slot>,
}

impl CopyStream {
    fn new() -> Result<Self, driver::DriverError> {
        let stream = stream::create(stream::StreamKind::NonBlocking)?;
        Ok(Self { stream, reached: new_event()?, slots: BTreeMap::new() })
    }

    /// A slot for a place.
    fn make_slot(&mut self, place: usize, bytes: usize) -> Result<(), driver::DriverError> {
        if self.slots.get(&place).is_some_and(|slot| slot.bytes >= bytes) {
            return Ok(());
        }
        // SAFETY: the memory is given back here alone, when no copy uses it any more.
        unsafe {
            let at = driver::malloc_host(bytes, 0)?;
            match self.slots.get_mut(&place) {
                Some(slot) => {
                    stream::synchronize(self.stream)?;
                    driver::free_host(slot.at)?;
                    (slot.at, slot.bytes) = (at, bytes);
                }
                None => drop(self.slots.insert(place, Slot { at, bytes, done: new_event()? })),
            }
        }
        Ok(())
    }

    /// The slot of a place, with room for so many bytes; there is none where it could not be made.
    fn slot(&self, place: usize, bytes: usize) -> Result<&Slot, driver::DriverError> {
        let slot = self.slots.get(&place).filter(|slot| slot.bytes >= bytes);
        slot.ok_or(driver::DriverError(CUresult::CUDA_ERROR_INVALID_HANDLE))
    }

    /// Copies from now on begin behind what is enqueued on the card's own stream.
    fn follow(&self, own: CUstream) -> Result<(), driver::DriverError> {
        // SAFETY: both streams and the event live.
        unsafe {
            event::record(self.reached, own)?;
            stream::wait_event(self.stream, self.reached, WAIT)
        }
    }

    /// The card's own stream goes on behind the copy of a place.
    fn precede(&self, place: usize, own: CUstream) -> Result<(), driver::DriverError> {
        // SAFETY: as above; the event was recorded when the copy was enqueued.
        unsafe { stream::wait_event(own, self.slot(place, 0)?.done, WAIT) }
    }
}

fn new_event() -> Result<CUevent, driver::DriverError> {
    event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
}
