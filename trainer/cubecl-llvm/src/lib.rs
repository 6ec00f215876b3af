//! A stub of the crate `cubecl-llvm`: the items that `cubecl-cuda` imports, without LLVM.
//!
//! `cubecl-cuda` compiles kernels either as CUDA C++ with NVRTC, or with LLVM, and links both. The build script of the real
//! `cubecl-llvm` downloads a compiled LLVM, which tonfall must not need. tonfall uses NVRTC (feature `cuda-cpp` of `cubecl`),
//! so nothing in this crate is called; the compiler returns an error. `[patch.crates-io]` selects this crate. `docs/adr/0001`
//! explains when it can be removed.
//!
//! Must not depend on: tonfall's crates.

use std::ffi::c_char;
use std::fmt;

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_server::compiler::{CompilationError, Compiler};
use cubecl_server::kernel::BufferIOAttr;

/// PTX versions, which only the LLVM compiler needs.
pub mod nvptx {
    pub mod ptx_version {
        use std::fmt;

        /// A PTX version; this stub has none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// The newest version that a driver loads: always `None`.
            #[must_use]
            pub const fn for_driver(_driver_version: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

/// Features that the LLVM compiler doesn't support on a device.
pub mod shared {
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// Devices that LLVM compiles for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            Nvptx,
        }

        /// Removes unsupported features. Does nothing, since the LLVM compiler isn't used.
        pub const fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

/// The compilation target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    #[default]
    Cpu,
    Nvptx,
}

/// A compiler that always returns an error.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    pub target: LlvmTarget,
}

/// Options of the compiler.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    pub arch: Option<()>,
    pub sm_arch: Option<SmArch>,
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    pub grid_constants: bool,
}

/// A kernel compiled to PTX; never created.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    pub ptx: Vec<c_char>,
    pub entrypoint: String,
    pub ir: String,
    pub shared_memory_size: usize,
    pub io: Vec<BufferIOAttr>,
}

/// The compiler's output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PlironArtifact {
    NvptxCode(NvptxModule),
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NvptxCode(module) = self;
        formatter.write_str(&module.ir)
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "tonfall is built without LLVM; NVRTC compiles its kernels".to_owned(),
            backtrace: cubecl_environment::backtrace::BackTrace::capture(),
        })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "ll"
    }
}
