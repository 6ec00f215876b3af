//! `tonfall check RECIPE`: everything that can be known before training.
//!
//! Responsible for: the report of what was found, and the arithmetic of the base's memory.

use tonfall_adapters::{BaseKind, BaseModel, Shape};
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AdapterKind, Quantization};
use tonfall_recipes::schema::KEYS;
use tonfall_trainer::memory;

use crate::args::Check;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs::{self, Inputs};
use crate::output;
use crate::progress::{Reporter, bytes, grouped};
use crate::quickstart;

/// Bits of a weight in NF4 with double quantisation (Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>, §3).
const NF4_BITS: f64 = 4.127;

pub(crate) fn run(args: &Check, reporter: &mut Reporter) -> Result<()> {
    let (_, plan) = match quickstart::plan(&args.recipe) {
        Ok(valid) => valid,
        Err(faults) => {
            output::data(&keys())?;
            return Err(faults);
        }
    };
    let inputs = inputs::open(&plan, reporter)?;
    reporter.clear();
    output::data(&report(&plan, &inputs))?;
    memory(&plan, &inputs)
}

/// Every key that a recipe can have, for one that has others.
fn keys() -> String {
    let width = KEYS.iter().map(|key| key.path.len()).max().unwrap_or(0);
    let lines = KEYS.iter().map(|key| format!("{:<width$}  {}", key.path, key.kind));
    lines.collect::<Vec<_>>().join("\n")
}

/// What the recipe amounts to, a line a topic.
pub(crate) fn report(plan: &Plan, inputs: &Inputs) -> String {
    let model = inputs.base.description();
    let kind = match inputs.base.kind() {
        BaseKind::HuggingFace => "Hugging Face directory",
        BaseKind::Gguf => "GGUF file",
    };
    let parameters: u64 = model.tensors().iter().map(|(_, shape)| elements(*shape)).sum();
    let mut lines = vec![
        format!("base       {} ({kind})", inputs.base.path().display()),
        format!(
            "           {:?}, {} layers, hidden {}, {} parameters, context {}",
            model.family,
            model.num_hidden_layers,
            model.hidden_size,
            grouped(parameters),
            grouped(model.max_position_embeddings as u64)
        ),
        format!("tokenizer  {} tokens", grouped(model.vocab_size as u64)),
    ];
    let data = inputs.data.report.to_string();
    let topics = std::iter::once("data       ").chain(std::iter::repeat("           "));
    lines.extend(data.lines().zip(topics).map(|(line, topic)| format!("{topic}{line}")));
    if !inputs.prompts.is_empty() {
        lines.push(format!("prompts    {} held out", inputs.prompts.len()));
    }
    lines.push(format!(
        "memory     base weights about {} ({}), as files {}",
        bytes(base_bytes(plan, &inputs.base)),
        quantization(plan),
        bytes(inputs.base.weight_bytes())
    ));
    lines.push("the recipe is valid".to_owned());
    lines.join("\n")
}

/// Refuses a plan whose base alone can't fit into the memory that is free.
pub(crate) fn memory(plan: &Plan, inputs: &Inputs) -> Result<()> {
    let needed = base_bytes(plan, &inputs.base);
    match memory::available() {
        Some(available) if needed > available => Err(Failure::new(
            ExitCode::Memory,
            format!(
                "the base weights alone take about {} ({}), {} are free; take a smaller base or `quantization = \"nf4\"`",
                bytes(needed),
                quantization(plan),
                bytes(available)
            ),
        )),
        _ => Ok(()),
    }
}

/// Bytes of the base's weights in memory: linear layers as the plan keeps them, everything else as in the file.
fn base_bytes(plan: &Plan, base: &BaseModel) -> u64 {
    if plan.adapter.kind == AdapterKind::Full {
        return base.description().tensors().iter().map(|(_, shape)| 4 * elements(*shape)).sum();
    }
    match plan.quantization {
        Quantization::Native => base.weight_bytes(),
        Quantization::None if !base.is_quantized() => base.weight_bytes(),
        Quantization::None => base.description().tensors().iter().map(|(_, shape)| 4 * elements(*shape)).sum(),
        Quantization::Nf4 => {
            let tensors = base.description().tensors();
            let linear = |name: &str| name.ends_with("_proj.weight");
            let (in_four_bits, kept): (Vec<_>, Vec<_>) = tensors.iter().partition(|(name, _)| linear(name));
            let four_bits: u64 = in_four_bits.iter().map(|(_, shape)| elements(*shape)).sum();
            let kept: u64 = kept.iter().map(|(name, shape)| stored_bytes(base, name, *shape)).sum();
            (four_bits as f64 * NF4_BITS / 8.0) as u64 + kept
        }
    }
}

fn quantization(plan: &Plan) -> &'static str {
    match (plan.adapter.kind, plan.quantization) {
        (AdapterKind::Full, _) => "f32, all trained",
        (_, Quantization::Nf4) => "nf4",
        (_, Quantization::Native) => "native blocks",
        (_, Quantization::None) => "not quantised",
    }
}

/// Bytes of a weight as its file has it.
fn stored_bytes(base: &BaseModel, name: &str, shape: Shape) -> u64 {
    base.weight_format(name)
        .map_or(0, |(format, _)| elements(shape).div_ceil(format.block_len() as u64) * format.block_bytes() as u64)
}

fn elements(shape: Shape) -> u64 {
    let (rows, cols) = shape.rows_cols();
    rows as u64 * cols as u64
}
