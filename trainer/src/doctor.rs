//! The report of `tonfall doctor`.
//!
//! Responsible for: listing every device that this program can use, running one operation on each, and naming the
//! missing parts of the others and how to install them.
//! Must not depend on: models, terminals.

use burn::tensor::{Tensor, TensorData};
use tonfall_blocks::{Format, quantize_nf4};
use tonfall_kernels::{FrozenMatrix, cpu_level, linear};
use tonfall_recipes::counted;

use crate::device::{Compute, DeviceChoice, DeviceError};
use crate::memory;

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: &'static str,
    pub state: State,
    pub text: String,
    /// How to fix it.
    pub remedy: Option<String>,
}

/// The state of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A test computation had the right result.
    Works,
    /// The device is not available, or this program was built without it.
    Absent,
    /// The device is available and a test computation failed.
    Faulty,
}

/// Opens every device and runs one computation on it.
#[must_use]
pub fn examine() -> Vec<Finding> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let free = memory::available().map_or_else(String::new, |bytes| format!(", {:.1} GiB free", gib(bytes)));
    let cpu = match cpu_level() {
        Ok(level) => used(
            "cpu",
            &Compute::cpu(),
            &format!("{}, {level}{free}; computes in f32", counted(threads as u64, "thread")),
        ),
        Err(text) => Finding { what: "cpu", state: State::Faulty, text, remedy: None },
    };
    let gpus = [("cuda", DeviceChoice::Cuda(0)), ("vulkan", DeviceChoice::Vulkan)];
    let gpus = gpus.into_iter().map(|(what, choice)| match Compute::open(choice, 0) {
        Ok(compute) => used(what, &compute, compute.name()),
        Err(DeviceError::NotThere { why, remedy, .. }) => Finding { what, state: State::Absent, text: why, remedy },
        Err(error) => Finding { what, state: State::Absent, text: error.to_string(), remedy: None },
    });
    std::iter::once(cpu).chain(gpus).collect()
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// The finding about a device, after a matrix product with an NF4 matrix.
fn used(what: &'static str, compute: &Compute, text: &str) -> Finding {
    match probe(compute) {
        Ok(()) => Finding { what, state: State::Works, text: text.to_owned(), remedy: None },
        Err(why) => Finding {
            what,
            state: State::Faulty,
            text: format!("{text}: {why}"),
            remedy: Some("update the driver; if that does not help, please report it with this text".to_owned()),
        },
    }
}

/// Multiplies by an NF4 matrix and compares the result with the host's.
fn probe(compute: &Compute) -> Result<(), String> {
    const TOKENS: usize = 32;
    const SIZE: usize = 64;
    let numbers = |len: usize| (0..len).map(|i| (i * 37 % 64) as f32 / 32.0 - 1.0).collect::<Vec<f32>>();
    let (x, bytes) = (numbers(TOKENS * SIZE), quantize_nf4(&numbers(SIZE * SIZE)));
    let mut dense = vec![0.0; SIZE * SIZE];
    tonfall_blocks::dequantize(Format::Nf4, &bytes, SIZE, SIZE, 0, &mut dense);

    let device = &compute.device;
    let weight = FrozenMatrix::new(bytes, Format::Nf4, SIZE, SIZE, device);
    let input = Tensor::<2>::from_data(TensorData::new(x.clone(), [TOKENS, SIZE]), device).cast(compute.dtype);
    let product = linear(input, &weight, None).try_into_data().map_err(|error| error.to_string())?;
    let product = product.convert::<f32>().try_to_vec::<f32>().map_err(|error| format!("{error:?}"))?;
    for (row, got) in product.chunks(SIZE).enumerate() {
        for (column, got) in got.iter().enumerate() {
            let products = (0..SIZE).map(|k| x[row * SIZE + k] * dense[column * SIZE + k]);
            let want: f32 = products.sum();
            if (got - want).abs() > 0.02 * want.abs().max(SIZE as f32 / 8.0) {
                return Err(format!("a matrix product gave {got} instead of {want}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_works_and_the_rest_is_explained() {
        let findings = examine();
        assert_eq!(findings[0].state, State::Works, "{findings:?}");
        for finding in &findings[1..] {
            assert!(finding.state == State::Works || !finding.text.is_empty(), "{finding:?}");
        }
    }
}
