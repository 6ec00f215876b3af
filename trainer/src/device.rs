//! The compute device and the dtype of activations.
//!
//! Responsible for: opening the device that the user chose, and explaining why one is not available.
//! Must not depend on: models, command lines.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device, Tensor};
use thiserror::Error;
use tonfall_kernels::cpu_level;

use crate::memory;

/// The value of `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this program supports it and this machine has one; otherwise the CPU.
    #[default]
    Auto,
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
    Vulkan,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':').unwrap_or((text, "0")) {
            ("auto", "0") => Ok(Self::Auto),
            ("cpu", "0") => Ok(Self::Cpu),
            ("vulkan", "0") => Ok(Self::Vulkan),
            ("cuda", index) if index.parse::<usize>().is_ok() => Ok(Self::Cuda(index.parse().unwrap_or_default())),
            _ => Err("devices are auto, cpu, cuda, cuda:1, …, and vulkan".to_owned()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(index) => write!(formatter, "cuda:{index}"),
            Self::Vulkan => formatter.write_str("vulkan"),
        }
    }
}

/// Why a device can't be used.
#[derive(Debug, Error)]
pub enum DeviceError {
    #[error(
        "this program was built without {api}, so it can't use {choice}; build it with `cargo build --release --features {feature}`"
    )]
    NotBuilt { choice: DeviceChoice, api: &'static str, feature: &'static str },

    #[error("{choice} can't be used: {why}\n{remedy}", remedy = remedy.as_deref().unwrap_or("`tonfall doctor` says more"))]
    NotThere { choice: DeviceChoice, why: String, remedy: Option<String> },

    #[error("{0}")]
    Instructions(String),
}

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// f32, in host memory.
    Cpu,
    /// bf16, in GPU memory.
    Cuda,
    /// f32, in GPU memory.
    Vulkan,
}

impl DeviceKind {
    /// The dtype of activations.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Cpu | Self::Vulkan => DType::F32,
            Self::Cuda => DType::BF16,
        }
    }

    /// The kind and the dtype of activations, as shown to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU, f32",
            Self::Cuda => "CUDA, bf16",
            Self::Vulkan => "Vulkan, f32",
        }
    }
}

/// Bytes that CUDA is assumed to use besides a process's buffers: context, kernels, workspace of cuBLASLt.
pub(crate) const CUDA_CONTEXT: u64 = 512 << 20;

/// A device and the dtype of activations on it.
#[derive(Clone, Debug)]
pub struct Compute {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    kind: DeviceKind,
    /// Index among the CUDA devices.
    #[cfg(feature = "cuda")]
    card: usize,
    deterministic: bool,
    name: String,
    notice: Option<String>,
}

impl Compute {
    /// The CPU, in f32.
    #[must_use]
    pub fn cpu() -> Self {
        Self::new(DeviceKind::Cpu, Device::flex(), DeviceKind::Cpu.name().to_owned())
    }

    fn new(kind: DeviceKind, device: Device, name: String) -> Self {
        Self {
            device,
            dtype: kind.dtype(),
            kind,
            #[cfg(feature = "cuda")]
            card: 0,
            deterministic: false,
            name,
            notice: None,
        }
    }

    /// Opens a device. `auto` falls back to the CPU, with a notice if this program supports GPUs. `local_rank` is added
    /// to the index of a CUDA device, so that processes that share a machine use different GPUs.
    ///
    /// # Errors
    /// If the device is not available, this program was built without it, or `TONFALL_CPU` names instructions that the
    /// processor lacks.
    pub fn open(choice: DeviceChoice, local_rank: usize) -> Result<Self, DeviceError> {
        cpu_level().map_err(DeviceError::Instructions)?;
        match choice {
            DeviceChoice::Cpu => Ok(Self::cpu()),
            DeviceChoice::Cuda(index) => cuda(choice, index + local_rank),
            DeviceChoice::Vulkan => vulkan(choice),
            DeviceChoice::Auto => match cuda(choice, local_rank) {
                Ok(compute) => Ok(compute),
                Err(DeviceError::NotThere { why, .. }) => {
                    Ok(Self { notice: Some(format!("no CUDA device ({why}): computing on the CPU")), ..Self::cpu() })
                }
                Err(DeviceError::NotBuilt { .. }) => Ok(Self::cpu()),
                Err(other) => Err(other),
            },
        }
    }

    /// The same device, computing in f32 throughout.
    #[must_use]
    pub fn in_f32(self) -> Self {
        let name = self.name.rsplit_once(',').map_or(self.name.as_str(), |(device, _)| device);
        Self { name: format!("{name}, f32"), dtype: DType::F32, ..self }
    }

    /// The same device with deterministic computation (`training.deterministic`): no reduction in an order that depends
    /// on timing, no kernel chosen by timing. The CPU is always deterministic.
    #[must_use]
    pub fn deterministic(self, wanted: bool) -> Self {
        Self { deterministic: wanted, ..self }
    }

    /// Whether repeated runs have the same bits.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        self.deterministic || self.kind == DeviceKind::Cpu
    }

    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// Total bytes that a run may use on this device: the bytes in use and the free bytes. `None` if unknown.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        match self.kind {
            DeviceKind::Cpu => Some(memory::rss()? + memory::available()?),
            DeviceKind::Cuda | DeviceKind::Vulkan => Some(self.held()? + self.card_memory()?.0),
        }
    }

    /// Bytes that this process may still allocate on the device; `None` if unknown.
    pub(crate) fn free(&self) -> Option<u64> {
        match self.kind {
            DeviceKind::Cpu => memory::available(),
            DeviceKind::Cuda | DeviceKind::Vulkan => Some(self.card_memory()?.0),
        }
    }

    /// Bytes that this process uses on a device with its own memory, including freed buffers kept for reuse.
    pub(crate) fn held(&self) -> Option<u64> {
        let beside = match self.kind {
            DeviceKind::Cpu => return None,
            DeviceKind::Cuda => CUDA_CONTEXT,
            DeviceKind::Vulkan => 0,
        };
        Some(beside + self.device.memory_pool_usage()?.bytes_reserved)
    }

    /// Allocates a buffer of a step's largest size once. The page size of a GPU's memory pools is the size of the
    /// largest buffer so far. If that buffer were allocated last, the driver would hold smaller and larger pages at the
    /// same time.
    pub(crate) fn expect_buffer(&self, bytes: u64) {
        if self.kind == DeviceKind::Cuda {
            drop(Tensor::<1>::zeros([bytes as usize / size_of::<f32>()], (&self.device, DType::F32)));
        }
    }

    /// Total bytes of a device that has its own memory; `None` if unknown.
    pub(crate) fn own_memory(&self) -> Option<u64> {
        Some(self.card_memory()?.1)
    }

    /// Peak floating-point operations per second of the device in its dtype, if its data sheet is known.
    pub(crate) fn peak_flops(&self) -> Option<f64> {
        match self.dtype {
            #[cfg(feature = "cuda")]
            DType::BF16 => crate::cuda_card::peak_flops(&self.name),
            _ => None,
        }
    }

    /// Free and total memory of a GPU, in bytes. `None` on Vulkan.
    fn card_memory(&self) -> Option<(u64, u64)> {
        match self.kind {
            #[cfg(feature = "cuda")]
            DeviceKind::Cuda => crate::cuda_card::memory(self.card),
            _ => None,
        }
    }

    /// The device and its dtype, as shown to users.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why `auto` did not choose a GPU.
    #[must_use]
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }
}

#[cfg(feature = "cuda")]
fn cuda(choice: DeviceChoice, index: usize) -> Result<Compute, DeviceError> {
    use burn::tensor::DeviceType;

    let missing = |why: &str, remedy: &str| DeviceError::NotThere {
        choice,
        why: why.to_owned(),
        remedy: Some(remedy.to_owned()),
    };
    crate::cuda_files::check().map_err(|fault| missing(&fault.why, &fault.remedy))?;
    let devices = Device::enumerate(DeviceType::Cuda);
    let Some(device) = devices.into_iter().nth(index) else {
        return Err(missing("the driver reports no such device", "`nvidia-smi` lists the devices"));
    };
    let name = device.identity().map_or_else(|| format!("CUDA device {index}"), |identity| identity.name);
    Ok(Compute { card: index, ..Compute::new(DeviceKind::Cuda, device, format!("{name}, bf16")) })
}

#[cfg(not(feature = "cuda"))]
fn cuda(choice: DeviceChoice, _: usize) -> Result<Compute, DeviceError> {
    Err(DeviceError::NotBuilt { choice, api: "CUDA", feature: "cuda" })
}

#[cfg(feature = "vulkan")]
fn vulkan(choice: DeviceChoice) -> Result<Compute, DeviceError> {
    use burn::tensor::DeviceType;

    let Some(device) = Device::enumerate(DeviceType::Vulkan).into_iter().next() else {
        return Err(DeviceError::NotThere {
            choice,
            why: "no Vulkan driver reports a device".to_owned(),
            remedy: Some("install the driver of your card, or `apt-get install mesa-vulkan-drivers`".to_owned()),
        });
    };
    let name = device.identity().map_or_else(|| "Vulkan device".to_owned(), |identity| identity.name);
    Ok(Compute::new(DeviceKind::Vulkan, device, format!("{name}, f32")))
}

#[cfg(not(feature = "vulkan"))]
fn vulkan(choice: DeviceChoice) -> Result<Compute, DeviceError> {
    Err(DeviceError::NotBuilt { choice, api: "Vulkan", feature: "vulkan" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_choices_round_trip() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3), DeviceChoice::Vulkan] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "CUDA"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn builds_without_cuda_print_how_to_build_with_cuda() {
        let error = Compute::open(DeviceChoice::Cuda(0), 0).expect_err("no CUDA").to_string();
        assert!(error.contains("--features cuda"), "{error}");
        assert_eq!(Compute::open(DeviceChoice::Auto, 0).expect("the CPU").notice(), None);
    }
}
