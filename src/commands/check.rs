//! `tonfall check RECIPE`: everything that can be known before training.
//!
//! Responsible for: the report of what was found.

use tonfall_adapters::{BaseKind, Shape};
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AdapterKind, Quantization};
use tonfall_recipes::schema::KEYS;
use tonfall_runs::numbers::{bytes, grouped};
use tonfall_trainer::RunLength;
use tonfall_trainer::estimate::Choice;

use crate::args::Check;
use crate::commands::estimate;
use crate::diagnostics::Result;
use crate::inputs::{self, Inputs};
use crate::output;
use crate::progress::Reporter;
use crate::quickstart;

pub(crate) fn run(args: &Check, reporter: &mut Reporter) -> Result<()> {
    let (_, plan) = match quickstart::plan(&args.recipe) {
        Ok(valid) => valid,
        Err(faults) => {
            output::data(&keys())?;
            return Err(faults);
        }
    };
    let compute = inputs::compute(args.device.device, 0, reporter)?;
    let inputs = inputs::open(&plan, reporter)?;
    let length = inputs.preflight(&plan, 1)?;
    let (workload, choice) = estimate::chosen(&plan, &inputs, &compute)?;
    reporter.clear();
    output::data(&report(&plan, &inputs, &length, &choice))?;
    if !choice.fits() {
        reporter.note(&format!("warning: {}", workload.refusal(&choice)));
    }
    Ok(())
}

/// Every key that a recipe can have, for one that has others.
fn keys() -> String {
    let width = KEYS.iter().map(|key| key.path.len()).max().unwrap_or(0);
    let lines = KEYS.iter().map(|key| format!("{:<width$}  {}", key.path, key.kind));
    lines.collect::<Vec<_>>().join("\n")
}

/// What the recipe amounts to, a line a topic.
fn report(plan: &Plan, inputs: &Inputs, length: &RunLength, choice: &Choice) -> String {
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
    lines.push(format!("steps      {length}"));
    let there = choice.limit.map_or_else(String::new, |limit| format!(" of {} that are there", bytes(limit as f64)));
    lines.push(format!(
        "memory     about {}{there}; the base {}",
        bytes(choice.estimate.peak() as f64),
        quantization(plan)
    ));
    lines.push("the recipe is valid".to_owned());
    lines.join("\n")
}

fn quantization(plan: &Plan) -> &'static str {
    match (plan.adapter.kind, plan.quantization) {
        (AdapterKind::Full, _) => "f32, all trained",
        (_, Quantization::Nf4) => "nf4",
        (_, Quantization::Native) => "native blocks",
        (_, Quantization::None) => "not quantised",
    }
}

fn elements(shape: Shape) -> u64 {
    let (rows, cols) = shape.rows_cols();
    rows as u64 * cols as u64
}
