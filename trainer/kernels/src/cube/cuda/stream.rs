//! Enqueues our own CUDA work in the order of CubeCL's kernels.
//!
//! Responsible for: running a closure on the thread that launches CubeCL's kernels, with the addresses of tensors and the
//! stream of their kernels. Work that it enqueues runs after the kernels launched before and before those launched later. The
//! caller doesn't wait.

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

/// Runs `work` with the stream and the addresses of the tensors in `read`, then in `written`. An error of `work` surfaces when
/// a tensor in `written` is read.
///
/// # Panics
/// When `written` is empty.
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
    // An address is valid as long as its memory is held: until the work is enqueued.
    let held =
        bindings.into_iter().map(|binding| server.get_resource(binding, stream)).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<u64> = held.iter().map(|memory| memory.resource().ptr).collect();
    let raw = server.write_streams().resolve(stream, std::iter::empty())?.current().sys;
    work(raw, &addresses).map_err(|reason| ServerError::Generic { reason, backtrace: BackTrace::capture() })
}
