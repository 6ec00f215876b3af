//! A replacement for `flock` that behaves like a file system without locks, for LD_PRELOAD.

const ENOLCK: i32 = 37;

unsafe extern "C" {
    fn __errno_location() -> *mut i32;
}

/// Fails like NFS without a lock daemon.
#[unsafe(no_mangle)]
pub extern "C" fn flock(_file: i32, _operation: i32) -> i32 {
    // SAFETY: glibc returns a pointer to this thread's errno.
    unsafe { *__errno_location() = ENOLCK };
    -1
}
