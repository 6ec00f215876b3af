//! Memory for outputs, used again.
//!
//! Responsible for: giving the memory of dropped tensors to the next ones. A training step makes the same tensors as the
//! one before; without this every one of them would cost page faults and zeroing. What lies idle never adds to the peak:
//! whenever nothing idle fits, as much idle memory is freed as is allocated.
#![expect(unsafe_code, reason = "Burn asks for its memory as uninitialised bytes")]

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{AllocationProperty, Bytes};
use burn_std::{AccessError, AccessPolicy, AllocationController};

/// Shorter ones are left to the allocator, which is good at them.
const SHORTEST: usize = 16 * 1024;

/// Idle vectors by length; every element of them is initialised.
static IDLE: Mutex<BTreeMap<usize, Vec<Vec<f32>>>> = Mutex::new(BTreeMap::new());

/// An idle vector of at least `len` and at most a quarter more elements.
fn reuse(len: usize) -> Option<Vec<f32>> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let (&fitting, vectors) = idle.range_mut(len..=len + len / 4).next()?;
    let values = vectors.pop();
    if vectors.is_empty() {
        idle.remove(&fitting);
    }
    values
}

/// Frees idle memory of at least `bytes` bytes, as far as there is so much, before something else allocates them.
pub fn release_idle(bytes: u64) {
    make_room(usize::try_from(bytes).unwrap_or(usize::MAX) / size_of::<f32>());
}

/// Frees idle vectors of at least `len` elements together, the longest first.
fn make_room(len: usize) {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut freed = 0;
    while freed < len
        && let Some(mut entry) = idle.last_entry()
    {
        freed += entry.get_mut().pop().map_or(0, |values| values.len());
        if entry.get().is_empty() {
            entry.remove();
        }
    }
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
        if len < SHORTEST {
            return Self::zeroed(len);
        }
        let values = reuse(len).unwrap_or_else(|| {
            make_room(len);
            vec![0.0; len]
        });
        let mut buffer = Self { values, len };
        if cfg!(test) {
            // An element that nobody overwrites is found by the tests.
            buffer.fill(f32::NAN);
        }
        buffer
    }

    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        match (len >= SHORTEST).then(|| reuse(len)).flatten() {
            Some(values) => {
                let mut buffer = Self { values, len };
                buffer.fill(0.0);
                buffer
            }
            None => {
                if len >= SHORTEST {
                    make_room(len);
                }
                Self { values: vec![0.0; len], len }
            }
        }
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
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            idle.entry(values.len()).or_default().push(values);
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
        assert!(reuse(len).is_some_and(|values| values.len() == len));
        drop(Buffer::from(vec![0.0; len]));
        release_idle(u64::MAX);
        assert!(reuse(len).is_none());
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
