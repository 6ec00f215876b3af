//! Memory that kernels write: outputs shared by tasks, and scratch buffers per thread.
//!
//! Responsible for: the writes whose disjointness the compiler can't check.
#![expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]

use std::cell::RefCell;
use std::marker::PhantomData;

/// An output of which several tasks write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: the buffer is borrowed exclusively for 'a; callers of `part` promise that parts are disjoint.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), lifetime: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A part of the output.
    ///
    /// # Safety
    /// No other reference to any element of the part exists.
    #[expect(clippy::mut_from_ref, reason = "tasks share the output and write disjoint parts")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a task left its output");
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// The address of an element, or of the end.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index <= self.len, "a task left its output");
        self.start.wrapping_add(index)
    }
}

/// Prefetches the cache line of an address. The address may be invalid. Does nothing on architectures other than x86-64.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: x86-64 has the instruction, which never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// One cache line of sixteen floats, which aligns scratch buffers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Calls `use_it` with `len` floats of scratch memory with arbitrary contents, aligned to 64 bytes. Each thread reuses its
/// memory; a nested call gets another buffer.
pub(crate) fn with_scratch<R>(len: usize, use_it: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
    }
    let mut lines = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if lines.len() * 16 < len {
        lines.resize(len.div_ceil(16), Line([0.0; 16]));
    }
    // SAFETY: `Line` is sixteen f32 without padding.
    let floats = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), lines.len() * 16) };
    let result = use_it(&mut floats[..len]);
    KEPT.with_borrow_mut(|kept| kept.push(lines));
    result
}
