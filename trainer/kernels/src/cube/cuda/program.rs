//! Kernels in CUDA C++, compiled by NVRTC for the current GPU at their first launch.
//!
//! Must be used on the thread that launches kernels, inside `stream::enqueue`.
#![expect(unsafe_code, reason = "the CUDA driver is a C library")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CString, c_void};

use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use crate::index32::signed;

/// A source and its preprocessor definitions.
#[derive(Clone, Copy)]
pub(super) struct Program<'a> {
    pub(super) source: &'static str,
    pub(super) definitions: &'a [(&'static str, usize)],
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Argument<'a> {
    Address(u64),
    Word(u32),
    Float(f32),
    /// A structure of 64-bit words, passed by value. All arguments together have at most 4 KiB.
    Structure(&'a [u64]),
}

impl Argument<'_> {
    fn pointer(&self) -> *mut c_void {
        match self {
            Self::Address(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::Word(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::Structure(numbers) => numbers.as_ptr().cast_mut().cast(),
        }
    }
}

/// Launch dimensions.
pub(super) struct Launch {
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(super) shared: u32,
}

/// The address of a source, which is faster to compare than its text, and its definitions.
type Key = (*const u8, String);

thread_local! {
    /// Loaded modules. They stay loaded as long as the thread exists, which is as long as the device is used.
    static LOADED: RefCell<HashMap<Key, Module>> = RefCell::default();
}

/// A compiled source, and the kernels that were launched.
struct Module {
    handle: sys::CUmodule,
    kernels: HashMap<&'static str, sys::CUfunction>,
}

impl Program<'_> {
    /// Enqueues a kernel. The arguments must match its parameters.
    ///
    /// # Errors
    /// The error text of the compiler or the driver.
    pub(super) fn launch(
        &self,
        name: &'static str,
        launch: &Launch,
        arguments: &[Argument<'_>],
        stream: sys::CUstream,
    ) -> Result<(), String> {
        let definitions: String = self.definitions.iter().map(|(name, value)| format!("-D{name}={value}\n")).collect();
        let function = LOADED
            .with_borrow_mut(|loaded| match loaded.entry((self.source.as_ptr(), definitions)) {
                Entry::Occupied(module) => module.into_mut().kernel(name),
                Entry::Vacant(place) => {
                    let module = Module::compile(self.source, &place.key().1)?;
                    place.insert(module).kernel(name)
                }
            })
            .map_err(|why| format!("{name}: {why}"))?;
        let Launch { grid: [x, y, z], threads, shared } = *launch;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        // SAFETY: the function is loaded, the pointers refer to arguments that live until the call returns, and `enqueue`
        // holds the memory that they address.
        unsafe {
            use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
            driver::function::set_function_attribute(function, SHARED, signed(shared as usize))
                .and_then(|()| {
                    driver::launch_kernel(function, (x, y, z), (threads, 1, 1), shared, stream, &mut pointers)
                })
                .map_err(|error| format!("{name}: {error}"))
        }
    }
}

impl Module {
    fn compile(source: &str, definitions: &str) -> Result<Self, String> {
        let options = CompileOptions {
            options: std::iter::once(format!("--gpu-architecture={}", architecture()?))
                .chain(definitions.lines().map(str::to_owned))
                .collect(),
            ..CompileOptions::default()
        };
        let compiled = compile_ptx_with_opts(source, options).map_err(|error| format!("{error:?}"))?;
        let text = CString::new(compiled.to_src()).map_err(|error| error.to_string())?;
        // SAFETY: the text is a whole PTX module that ends with a zero.
        let handle = unsafe { driver::module::load_data(text.as_ptr().cast()) }.map_err(said)?;
        Ok(Self { handle, kernels: HashMap::new() })
    }

    fn kernel(&mut self, name: &'static str) -> Result<sys::CUfunction, String> {
        if let Some(kernel) = self.kernels.get(name) {
            return Ok(*kernel);
        }
        let text = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the module is never unloaded.
        let kernel = unsafe { driver::module::get_function(self.handle, text) }.map_err(said)?;
        self.kernels.insert(name, kernel);
        Ok(kernel)
    }
}

/// The compute capability of the current GPU, major and minor.
///
/// # Errors
/// The driver's error text.
pub(super) fn capability() -> Result<(i32, i32), String> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let mut device = 0;
    // SAFETY: the GPU's context is current on this thread; the attributes exist.
    unsafe {
        sys::cuCtxGetDevice(&mut device).result().map_err(said)?;
        let attribute = |which| driver::device::get_attribute(device, which).map_err(said);
        Ok((attribute(MAJOR)?, attribute(MINOR)?))
    }
}

/// NVRTC's name of the architecture. `compute_90a` includes the instructions that only Hopper has.
fn architecture() -> Result<String, String> {
    let (major, minor) = capability()?;
    Ok(format!("compute_{major}{minor}{}", if (major, minor) == (9, 0) { "a" } else { "" }))
}

fn said(error: driver::DriverError) -> String {
    error.to_string()
}
