//! Work that CubeCL does not know, in the order of its own.
//!
//! Responsible for: running a closure on the thread that launches CubeCL's kernels, with the addresses of tensors and the
//! stream that their kernels run on. What it enqueues there comes after the kernels launched before and ahead of those
//! launched later, as a kernel would; nobody waits for it.

use cubecl::cuda::CudaRuntime;
use cubecl_common::device_handle::DeviceHandle;
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::stream::StreamId;
use cubecl_server::runtime::Runtime;
use cubecl_server::server::{BufferBinding, ServerError, ServerStorage};
use cubecl_server::stream::{WriteScoped, failed_writing};
use cudarc::driver::sys::CUstream;

use burn_cubecl::tensor::CubeTensor;

type CudaServer = <CudaRuntime as Runtime>::Server;

/// Runs `work` with the stream and the addresses of the tensors that are read, then of those that are written. What it
/// says went wrong is the error of whoever reads a tensor that it should have written.
///
/// # Panics
/// When nothing is written.
pub(super) fn enqueue(
    read: &[&CubeTensor],
    written: &[&CubeTensor],
    work: impl FnOnce(CUstream, &[u64]) -> Result<(), String> + Send + 'static,
) {
    let binding = |tensor: &&CubeTensor| tensor.handle.clone().binding();
    let bindings: Vec<BufferBinding> = read.iter().chain(written).map(binding).collect();
    let outputs: Vec<BufferBinding> = written.iter().map(binding).collect();
    let (stream, device) = (written[0].handle.stream, written[0].client.service_id().device);
    DeviceHandle::<CudaServer>::new(device).submit(move |server| {
        if let Err(error) = run(server, stream, bindings, work) {
            failed_writing(server, stream, outputs, error);
        }
    });
}

fn run(
    server: &mut CudaServer,
    stream: StreamId,
    bindings: Vec<BufferBinding>,
    work: impl FnOnce(CUstream, &[u64]) -> Result<(), String>,
) -> Result<(), ServerError> {
    // Held until the work is enqueued: an address is good as long as its memory is held.
    let held =
        bindings.into_iter().map(|binding| server.get_resource(binding, stream)).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<u64> = held.iter().map(|memory| memory.resource().ptr).collect();
    let raw = server.write_streams().resolve(stream, std::iter::empty())?.current().sys;
    work(raw, &addresses).map_err(|reason| ServerError::Generic { reason, backtrace: BackTrace::capture() })
}
