//! Memory of a base model's weights: stored on the device, and during loading.
//!
//! Responsible for: the memory of `model::load`.
//! Must not depend on: files; the caller passes the formats.

use tonfall_adapters::{ModelDescription, Shape};
use tonfall_blocks::{Format, byte_len};

use super::computed;
use crate::device::DeviceKind;
use crate::model::{EMBEDDING, LoadOptions, NF4_PIECE, Role, embeds_from_host, kept_format};

/// Bytes of a base on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Storage {
    /// All weights in their storage format.
    pub(super) kept: u64,
    /// The peak during loading: weights stored so far, mapped pages of the file, and values in conversion.
    pub(super) loading: u64,
    /// The largest tensor of the file.
    pub(super) largest: u64,
    /// Elements of the largest matrix whose storage format differs from the format of matrix products.
    pub(super) dense_copy: u64,
}

impl Storage {
    /// The memory on a device. `file` returns the format of a tensor in the file; `threads` threads convert at the same
    /// time.
    pub(super) fn new(
        model: &ModelDescription,
        options: LoadOptions,
        threads: usize,
        device: DeviceKind,
        file: impl Fn(&str) -> Format,
    ) -> Self {
        let (mut kept, mut mapped, mut loading, mut largest, mut dense_copy) = (0, 0, 0, 0, 0);
        let mut block = None;
        for (name, shape) in model.tensors() {
            if name == EMBEDDING && embeds_from_host(model, options, device) {
                continue;
            }
            let (rows, cols) = shape.rows_cols();
            let (bytes, wide) = (|format| byte_len(format, rows, cols) as u64, 4 * (rows * cols) as u64);
            let role = if name.ends_with("_proj.weight") { Role::Linear } else { Role::Table };
            let to = match shape {
                Shape::Vector(_) => Format::F32,
                Shape::Matrix(..) => kept_format(file(&name), role, options),
            };
            // Mapped pages are released after each block.
            let this = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()).map(str::to_owned);
            if block.is_some() && this != block {
                mapped = 0;
            }
            block = this;
            mapped += bytes(file(&name));
            largest = largest.max(bytes(file(&name)));
            kept += bytes(to);
            if matches!(shape, Shape::Matrix(..)) && to != computed(device) {
                dense_copy = dense_copy.max((rows * cols) as u64);
            }
            let at_once = if role == Role::Linear { threads.min(7) as u64 } else { 1 };
            let converted = match to {
                same if same == file(&name) => 0,
                Format::Nf4 => at_once * bytes(to) + wide.min((threads * NF4_PIECE * size_of::<f32>()) as u64),
                _ => at_once * wide,
            };
            let copied = if options.trainable { wide } else { 0 };
            loading = loading.max(kept + mapped + converted + copied);
        }
        Self { kept, loading, largest, dense_copy }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SIZE_CLASSES;
    use super::*;
    use tonfall_recipes::plan::Quantization;

    #[test]
    fn embeddings_are_on_a_gpu_only_if_the_whole_table_is_needed_there() {
        let kept = |class: &str, trainable, device| {
            let class = SIZE_CLASSES.iter().find(|known| known.name == class).expect("a size class");
            let options = LoadOptions { quantization: Quantization::None, trainable };
            Storage::new(&class.description(), options, 1, device, |_| Format::Bf16).kept
        };
        let spared =
            |class, trainable| kept(class, trainable, DeviceKind::Cpu) - kept(class, trainable, DeviceKind::Cuda);
        assert_eq!(spared("Llama-3.1-8B", false), 128_256 * 4096 * 2);
        assert_eq!(spared("Llama-3.1-8B", true), 0, "trained");
        assert_eq!(spared("Llama-3.2-1B", false), 0, "the head is tied to them");
    }
}
