//! What a run holds in memory: measured, and by arithmetic.
//!
//! Responsible for: peak resident memory of this process and the predicted size of each part of a training run.
//! Must not depend on: tensors.

use tonfall_adapters::ModelDescription;
use tonfall_blocks::{Format, byte_len};

/// Highest resident set size of this process so far in bytes, where the system tells (Linux: `VmHWM`).
pub fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Memory that is free for new allocations in bytes, where the system tells (Linux: `MemAvailable`).
pub fn available() -> Option<u64> {
    meminfo("MemAvailable:")
}

/// Memory of the machine in bytes, where the system tells (Linux: `MemTotal`).
pub fn total() -> Option<u64> {
    meminfo("MemTotal:")
}

fn meminfo(name: &str) -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Shapes `[out_features, in_features]` of the seven linear layers of a block.
pub fn linear_shapes(model: &ModelDescription) -> [[usize; 2]; 7] {
    let (hidden, ff) = (model.hidden_size, model.intermediate_size);
    let q = model.num_attention_heads * model.head_dim;
    let kv = model.num_key_value_heads * model.head_dim;
    [[q, hidden], [kv, hidden], [kv, hidden], [hidden, q], [ff, hidden], [ff, hidden], [hidden, ff]]
}

/// Bytes of all linear layers of all blocks in one format.
pub fn linear_bytes(model: &ModelDescription, format: Format) -> u64 {
    let block: usize = linear_shapes(model).iter().map(|[rows, cols]| byte_len(format, *rows, *cols)).sum();
    (block * model.num_hidden_layers) as u64
}

/// Bytes of activations that the backward pass of `tokens` tokens needs, f32.
/// Without recomputation every block keeps the inputs of its operations, with it every block keeps its own input and
/// one block at a time keeps all.
pub fn activation_bytes(model: &ModelDescription, tokens: usize, recompute: bool) -> u64 {
    let (hidden, ff) = (model.hidden_size, model.intermediate_size);
    let q = model.num_attention_heads * model.head_dim;
    let kv = model.num_key_value_heads * model.head_dim;
    // Two block inputs, two norms' outputs; q, k, v before and after RoPE, attention's output; gate, up, their product.
    let block = 4 * hidden + 3 * q + 3 * kv + 3 * ff;
    let layers = model.num_hidden_layers;
    let kept = if recompute { layers * hidden + block } else { layers * block };
    (kept * tokens * size_of::<f32>()) as u64
}
