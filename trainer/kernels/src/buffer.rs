//! A pool of memory for output tensors on the CPU.
//!
//! Responsible for: reusing the memory of dropped tensors. A training step allocates the same tensors as the step before;
//! without reuse each of them would cost page faults and zeroing. Idle memory never raises the peak: it is freed as soon as
//! idle and used memory together would exceed the largest amount that was requested at one time. Freed pages are returned to
//! the operating system, since an allocator would keep them for requests of the same size, and sequence lengths vary.
#![expect(unsafe_code, reason = "Burn takes memory as uninitialised bytes")]

use std::alloc::{Layout, handle_alloc_error};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{AllocationProperty, Bytes};
use burn_std::{AccessError, AccessPolicy, AllocationController};
use memmap2::MmapMut;

/// Shorter buffers, in elements, come from the allocator, which is fast for small sizes.
const SHORTEST: usize = 16 * 1024;

/// Initialised floats: in their own pages, or in an allocation if they are few.
#[derive(Debug)]
enum Memory {
    Pages(MmapMut),
    Allocated(Vec<f32>),
}

impl Memory {
    /// `len` zeros.
    fn new(len: usize) -> Self {
        if len < SHORTEST {
            return Self::Allocated(vec![0.0; len]);
        }
        // Out of memory is handled as by an allocator.
        let pages = MmapMut::map_anon(len * size_of::<f32>())
            .unwrap_or_else(|_| handle_alloc_error(Layout::array::<f32>(len).expect("a length in memory")));
        // Huge pages need fewer page faults and TLB entries. A kernel without them returns an error, which does no harm.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        Self::Pages(pages)
    }
}

impl Deref for Memory {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Pages(pages) => bytemuck::cast_slice(pages),
            Self::Allocated(values) => values,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Pages(pages) => bytemuck::cast_slice_mut(pages),
            Self::Allocated(values) => values,
        }
    }
}

/// Idle memory and counters, all in elements.
struct Pool {
    /// Idle memory by length.
    idle: BTreeMap<usize, Vec<Memory>>,
    idle_len: usize,
    /// Elements in use.
    used: usize,
    /// Elements that the users requested: less than `used`, since a reused buffer may be longer than its request.
    requested: usize,
    /// The largest `requested` so far.
    peak: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    const fn new() -> Self {
        Self { idle: BTreeMap::new(), idle_len: 0, used: 0, requested: 0, peak: 0 }
    }

    /// Counts `len` elements as used. Returns idle memory of at least `len` and at most `1.25 · len` elements. If there is none,
    /// it frees idle memory so that the caller can allocate `len` elements without raising the peak.
    fn begin_use(&mut self, len: usize) -> Option<Memory> {
        let fitting = self.idle.range(len..=len + len / 4).next().map(|(&fitting, _)| fitting);
        let memory = fitting.and_then(|fitting| self.take(fitting));
        self.used += memory.as_ref().map_or(len, |memory| memory.len());
        self.requested += len;
        self.peak = self.peak.max(self.requested);
        if memory.is_none() {
            self.free((self.used + self.idle_len).saturating_sub(self.peak));
        }
        memory
    }

    /// Returns memory to the pool; `len` is the number of elements that were requested.
    fn end_use(&mut self, memory: Memory, len: usize) {
        self.used -= memory.len();
        self.requested -= len;
        self.idle_len += memory.len();
        self.idle.entry(memory.len()).or_default().push(memory);
    }

    /// Frees at least `len` elements of idle memory, or all of it, the longest buffers first.
    fn free(&mut self, len: usize) {
        let enough = self.idle_len.saturating_sub(len);
        while self.idle_len > enough
            && let Some((&longest, _)) = self.idle.last_key_value()
        {
            self.take(longest);
        }
    }

    /// Takes idle memory of exactly `len` elements.
    fn take(&mut self, len: usize) -> Option<Memory> {
        let memories = self.idle.get_mut(&len)?;
        let memory = memories.pop();
        if memories.is_empty() {
            self.idle.remove(&len);
        }
        self.idle_len -= memory.as_ref().map_or(0, |memory| memory.len());
        memory
    }
}

/// Frees all idle memory, for instance before a large allocation elsewhere.
pub fn release_idle() {
    pool().free(usize::MAX);
}

/// Floats whose memory returns to the pool when they are dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// At least `len` elements.
    memory: Memory,
    len: usize,
}

impl Buffer {
    /// `len` elements with arbitrary values. The caller must overwrite all of them.
    pub(crate) fn dirty(len: usize) -> Self {
        let memory = Self::reused(len).unwrap_or_else(|| Memory::new(len));
        let mut buffer = Self { memory, len };
        if cfg!(test) {
            // Tests find an element that was not overwritten.
            buffer.fill(f32::NAN);
        }
        buffer
    }

    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        match Self::reused(len) {
            Some(memory) => {
                let mut buffer = Self { memory, len };
                buffer.fill(0.0);
                buffer
            }
            None => Self { memory: Memory::new(len), len },
        }
    }

    /// Idle memory of a fitting length, if there is some.
    fn reused(len: usize) -> Option<Memory> {
        (len >= SHORTEST).then(|| pool().begin_use(len)).flatten()
    }

    /// The elements as the memory of a Burn tensor.
    pub(crate) fn into_bytes(self) -> Bytes {
        let bytes = self.len * size_of::<f32>();
        // SAFETY: all elements are initialised.
        unsafe { Bytes::from_controller(Box::new(self), bytes) }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Allocated(Vec::new()));
        if memory.len() >= SHORTEST {
            pool().end_use(memory, self.len);
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl AllocationController for Buffer {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self[..]);
        let len = bytes.len();
        // SAFETY: the same bytes; the caller promises to write only initialised values.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(&self[..]);
        // SAFETY: the same bytes; initialised bytes are valid `MaybeUninit` values.
        Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_requested_length_and_zeroed_ones_are_zero() {
        for len in [0, 1, SHORTEST - 1, SHORTEST, 3 * SHORTEST + 5] {
            drop(Buffer::dirty(len));
            assert_eq!(Buffer::dirty(len).len(), len);
            let zeros = Buffer::zeroed(len);
            assert!(zeros.len() == len && zeros.iter().all(|value| *value == 0.0));
        }
    }

    #[test]
    fn idle_memory_can_be_released() {
        let len = 1 << 22;
        drop(Buffer::dirty(len));
        release_idle();
        let other_tests = pool().idle_len;
        assert!(other_tests < len, "{other_tests} elements are idle");
    }

    #[test]
    fn idle_memory_is_reused_and_never_raises_the_peak() {
        let mut pool = Pool::new();
        let mut allocated = Vec::new();
        let mut begin = |pool: &mut Pool, len: usize| {
            let values = pool.begin_use(len).unwrap_or_else(|| {
                allocated.push(len);
                assert!(pool.used + pool.idle_len <= pool.peak, "idle memory raises the peak");
                Memory::new(len)
            });
            (values, len)
        };
        let end = |pool: &mut Pool, (values, len): (Memory, usize)| pool.end_use(values, len);
        for _ in 0..3 {
            let activations = [100, 110, 120].map(|len| begin(&mut pool, len));
            let logits = begin(&mut pool, 1000);
            end(&mut pool, logits);
            activations.into_iter().for_each(|buffer| end(&mut pool, buffer));
            let gradient = begin(&mut pool, 80);
            assert_eq!((pool.used, pool.requested), (100, 80), "the gradient reuses an idle activation");
            end(&mut pool, gradient);
        }
        assert_eq!(pool.peak, 1330);
        let larger = begin(&mut pool, 2000);
        assert_eq!((pool.idle_len, pool.peak), (0, 2000), "idle memory is freed first");
        end(&mut pool, larger);
        assert_eq!(allocated, [100, 110, 120, 1000, 2000]);
    }

    #[test]
    fn bytes_of_a_buffer_can_be_read_written_and_copied() {
        let len = 2 * SHORTEST + 3;
        let mut buffer = Buffer::dirty(len);
        buffer.iter_mut().enumerate().for_each(|(i, value)| *value = i as f32);
        let mut bytes = buffer.into_bytes();
        assert_eq!(bytes.len(), 4 * len);
        bytemuck::cast_slice_mut::<u8, f32>(&mut bytes)[1] = 7.0;
        let copy = bytes.clone();
        drop(bytes);
        let values: &[f32] = bytemuck::cast_slice(&copy);
        assert_eq!(values[..3], [0.0, 7.0, 2.0]);
        assert_eq!(values[len - 1], (len - 1) as f32);
    }
}
