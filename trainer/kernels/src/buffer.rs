//! Memory for outputs, used again.
//!
//! Responsible for: giving the memory of dropped tensors to the next ones. A training step makes the same tensors as the
//! one before; without this every one of them would cost page faults and zeroing. What lies idle never adds to the peak:
//! idle and used memory together are never more than what was once used at the same time.
#![expect(unsafe_code, reason = "Burn asks for its memory as uninitialised bytes")]

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{AllocationProperty, Bytes};
use burn_std::{AccessError, AccessPolicy, AllocationController};

/// Shorter ones are left to the allocator, which is good at them.
const SHORTEST: usize = 16 * 1024;

/// Memory of buffers, in elements.
#[derive(Default)]
struct Pool {
    /// Idle vectors by length; every element of them is initialised.
    idle: BTreeMap<usize, Vec<Vec<f32>>>,
    idle_len: usize,
    used: usize,
    most_used: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: BTreeMap::new(), idle_len: 0, used: 0, most_used: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// An idle vector of at least `len` and at most a quarter more elements, which is used from now on.
    fn reuse(&mut self, len: usize) -> Option<Vec<f32>> {
        let (&fitting, _) = self.idle.range(len..=len + len / 4).next()?;
        let values = self.take(fitting)?;
        self.begin_use(values.len());
        Some(values)
    }

    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let vectors = self.idle.get_mut(&len)?;
        let values = vectors.pop();
        if vectors.is_empty() {
            self.idle.remove(&len);
        }
        self.idle_len -= values.as_ref().map_or(0, Vec::len);
        values
    }

    /// `len` more elements are used; what would lift the peak is freed, the longest first.
    fn begin_use(&mut self, len: usize) {
        self.used += len;
        self.most_used = self.most_used.max(self.used);
        self.free((self.used + self.idle_len).saturating_sub(self.most_used));
    }

    fn end_use(&mut self, values: Vec<f32>) {
        self.used -= values.len();
        self.idle_len += values.len();
        self.idle.entry(values.len()).or_default().push(values);
    }

    /// Frees idle vectors of at least `len` elements together, as far as there are so many.
    fn free(&mut self, len: usize) {
        let enough = self.idle_len.saturating_sub(len);
        while self.idle_len > enough
            && let Some((&longest, _)) = self.idle.last_key_value()
        {
            self.take(longest);
        }
    }
}

/// Frees idle memory of at least `bytes` bytes, as far as there is so much, before something else allocates them.
pub fn release_idle(bytes: u64) {
    pool().free(usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(size_of::<f32>()));
}

/// Floats that go back to the idle ones when they are dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// At least `len` elements, all initialised.
    values: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// `len` elements of any value: the caller overwrites all of them.
    pub(crate) fn dirty(len: usize) -> Self {
        let values = Self::reused(len).unwrap_or_else(|| vec![0.0; len]);
        let mut buffer = Self { values, len };
        if cfg!(test) {
            // An element that nobody overwrites is found by the tests.
            buffer.fill(f32::NAN);
        }
        buffer
    }

    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        match Self::reused(len) {
            Some(values) => {
                let mut buffer = Self { values, len };
                buffer.fill(0.0);
                buffer
            }
            None => Self { values: vec![0.0; len], len },
        }
    }

    /// An idle vector that fits, or none: then the caller allocates one, and its use has been noted.
    fn reused(len: usize) -> Option<Vec<f32>> {
        if len < SHORTEST {
            return None;
        }
        let mut pool = pool();
        let values = pool.reuse(len);
        if values.is_none() {
            pool.begin_use(len);
        }
        values
    }

    /// The elements as the memory of a tensor.
    pub(crate) fn into_bytes(self) -> Bytes {
        let bytes = self.len * size_of::<f32>();
        // SAFETY: all elements are initialised.
        unsafe { Bytes::from_controller(Box::new(self), bytes) }
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Self {
        if values.len() >= SHORTEST {
            pool().begin_use(values.len());
        }
        Self { len: values.len(), values }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        if values.len() >= SHORTEST {
            pool().end_use(values);
        }
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
        // SAFETY: the same bytes; the caller promises to write initialised ones alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(&self[..]);
        // SAFETY: the same bytes, read as what may be uninitialised.
        Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_their_length_and_zeros_are_zeros() {
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
        drop(Buffer::from(vec![0.0; len]));
        release_idle(u64::MAX);
        let other_tests = pool().idle_len;
        assert!(other_tests < len, "{other_tests} elements are idle");
    }

    #[test]
    fn idle_memory_is_used_again_and_never_adds_to_the_peak() {
        let mut pool = Pool::default();
        let mut allocated = Vec::new();
        let mut begin = |pool: &mut Pool, len: usize| {
            let values = pool.reuse(len).unwrap_or_else(|| {
                pool.begin_use(len);
                allocated.push(len);
                vec![0.0; len]
            });
            assert!(pool.used + pool.idle_len <= pool.most_used, "idle memory adds to the peak");
            values
        };
        for _ in 0..3 {
            let activations = [100, 110, 120].map(|len| begin(&mut pool, len));
            let logits = begin(&mut pool, 1000);
            pool.end_use(logits);
            activations.into_iter().for_each(|values| pool.end_use(values));
            let gradient = begin(&mut pool, 80);
            pool.end_use(gradient);
        }
        assert_eq!(pool.most_used, 1330);
        let larger = begin(&mut pool, 2000);
        assert!(pool.idle_len == 0 && pool.most_used == 2000, "what was idle had to make room");
        pool.end_use(larger);
        assert_eq!(allocated, [100, 110, 120, 1000, 2000], "the gradient is given the memory of an activation");
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
