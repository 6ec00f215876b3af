//! The CUDA files that are opened at run time.
//!
//! Responsible for: checking, before anything panics, that the driver, NVRTC, cuBLASLt and the headers for compiling
//! kernels are installed. Must not depend on: devices, models.

use std::path::{Path, PathBuf};

/// A missing file and how to install it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub why: String,
    pub remedy: String,
}

impl Fault {
    fn new(why: impl Into<String>, remedy: &str) -> Self {
        Self { why: why.into(), remedy: remedy.to_owned() }
    }
}

/// The directory of the toolkit: `CUDA_PATH`, or one of the default directories that CubeCL tries too.
#[must_use]
pub fn toolkit() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CUDA_PATH") {
        return Some(path.into());
    }
    let installed = [("/usr/local/cuda", "/usr/local/cuda"), ("/opt/cuda", "/opt/cuda"), ("/usr/bin/nvcc", "/usr")];
    installed.iter().find(|(there, _)| Path::new(there).exists()).map(|(_, root)| root.into())
}

/// Checks everything that a kernel needs.
///
/// # Errors
/// The first missing file.
#[expect(unsafe_code, reason = "opening a shared library runs its initialisers")]
pub fn check() -> Result<(), Fault> {
    // SAFETY: computing would open the same libraries; they are only opened and closed.
    let libraries = unsafe {
        [
            (
                cudarc::driver::sys::is_culib_present(),
                "libcuda, the driver's library, is missing",
                "install the driver of your GPU; in a container, start it with `--gpus all`",
            ),
            (
                cudarc::nvrtc::sys::is_culib_present(),
                "libnvrtc, which compiles the kernels, is missing",
                "install it (`apt-get install cuda-nvrtc-13-0`, or the CUDA toolkit), and name its folder in LD_LIBRARY_PATH",
            ),
            (
                cudarc::cublaslt::sys::is_culib_present(),
                "libcublasLt, which multiplies matrices, is missing",
                "install it (`apt-get install libcublas-13-0`, or the CUDA toolkit), and name its folder in LD_LIBRARY_PATH",
            ),
        ]
    };
    if let Some((_, why, remedy)) = libraries.into_iter().find(|(there, ..)| !there) {
        return Err(Fault::new(why, remedy));
    }
    let Some(root) = toolkit() else {
        return Err(Fault::new(
            "the headers of the CUDA toolkit are missing",
            "install them (`apt-get install cuda-cudart-dev-13-0 cuda-cccl-13-0`), or name the toolkit in CUDA_PATH",
        ));
    };
    let header = root.join("include/cuda_fp16.h");
    if !header.exists() {
        return Err(Fault::new(
            format!("{} is missing", header.display()),
            "name a toolkit that has its headers in CUDA_PATH, or install `cuda-cudart-dev-13-0`",
        ));
    }
    Ok(())
}
