//! `tonfall check RECIPE`: opens everything that training needs, and reports all faults at once.
//!
//! Responsible for: the report, and the list of keys of `--keys`.

use tonfall_adapters::{BaseKind, Shape};
use tonfall_recipes::plan::{AdapterKind, Quantization};
use tonfall_recipes::schema::{KEYS, Key, KeyDefault};
use tonfall_recipes::{Plan, counted};
use tonfall_runs::numbers::{bytes, grouped};
use tonfall_trainer::RunLength;
use tonfall_trainer::estimate::Choice;

use crate::args::{Check, RecipeArgs};
use crate::diagnostics::Result;
use crate::inputs::{self, Inputs};
use crate::progress::Reporter;
use crate::{fit, output, quickstart};

pub(crate) fn run(args: &Check, reporter: &mut Reporter) -> Result<()> {
    let Some(recipe) = args.recipe.clone().filter(|_| !args.keys) else {
        return Ok(output::data(&keys())?);
    };
    let (_, plan) = quickstart::plan(&RecipeArgs { recipe, set: args.set.clone() })?;
    let compute = inputs::compute(args.device.device, 0, reporter)?;
    let inputs = inputs::open(&plan, reporter)?;
    let length = inputs.preflight(&plan, 1)?;
    let (workload, choice) = fit::estimated(&plan, &inputs, &compute)?;
    reporter.clear();
    output::data(&report(&plan, &inputs, &length, &choice))?;
    if !choice.fits() {
        reporter.note(&format!("warning: {}", workload.refusal(&choice)));
    }
    Ok(())
}

/// Every key of a recipe with its values and its default, one per line.
fn keys() -> String {
    let width = KEYS.iter().map(|key| key.path.len()).max().unwrap_or(0);
    let default = |key: &Key| match key.default {
        KeyDefault::Required(_) => "required".to_owned(),
        KeyDefault::Value(value) => format!("default {value}"),
        KeyDefault::Unset(_) => "not set by default".to_owned(),
        KeyDefault::Derived(from) => format!("default: {from}"),
    };
    let lines = KEYS.iter().map(|key| format!("{:<width$}  {}; {}", key.path, key.kind, default(key)));
    lines.collect::<Vec<_>>().join("\n")
}

/// The settings that the recipe resolves to, one topic per line.
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
            "           {:?}, {}, hidden size {}, {}, context of {}",
            model.family,
            counted(model.num_hidden_layers as u64, "layer"),
            model.hidden_size,
            counted(parameters, "parameter"),
            counted(model.max_position_embeddings as u64, "token")
        ),
        format!("tokenizer  vocabulary of {}", counted(model.vocab_size as u64, "token")),
    ];
    let data = inputs.data.report.to_string();
    let topics = std::iter::once("data       ").chain(std::iter::repeat("           "));
    lines.extend(data.lines().zip(topics).map(|(line, topic)| format!("{topic}{line}")));
    if !inputs.prompts.is_empty() {
        lines.push(format!("prompts    {} held out", grouped(inputs.prompts.len() as u64)));
    }
    lines.push(format!("steps      {length}"));
    let available = choice.limit.map_or_else(String::new, |limit| format!(" of {} available", bytes(limit as f64)));
    lines.push(format!(
        "memory     about {}{available}; base model {}",
        bytes(choice.estimate.peak() as f64),
        quantization(plan)
    ));
    lines.push("the recipe is valid".to_owned());
    lines.join("\n")
}

fn quantization(plan: &Plan) -> &'static str {
    match (plan.adapter.kind, plan.quantization) {
        (AdapterKind::Full, _) => "in f32, all weights trained",
        (_, Quantization::Nf4) => "in nf4",
        (_, Quantization::Native) => "in its GGUF blocks",
        (_, Quantization::None) => "dense",
    }
}

fn elements(shape: Shape) -> u64 {
    let (rows, cols) = shape.rows_cols();
    rows as u64 * cols as u64
}
