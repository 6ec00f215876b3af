//! `tonfall estimate RECIPE`: the memory that a run needs, by part, and the memory that models of other sizes would
//! need.
//!
//! Responsible for: the tables and the JSON. `tonfall_trainer::estimate` computes the numbers.

use serde_json::json;
use tonfall_recipes::Plan;
use tonfall_runs::numbers::bytes;
use tonfall_trainer::estimate::{Choice, ClassEstimate, Part};
use tonfall_trainer::{Activations, DeviceChoice, DeviceKind};

use crate::args::Estimate;
use crate::diagnostics::Result;
use crate::fit;
use crate::inputs;
use crate::output;
use crate::progress::Reporter;
use crate::quickstart;

pub(crate) fn run(args: &Estimate, reporter: &mut Reporter) -> Result<()> {
    let (_, plan) = quickstart::plan(&args.recipe)?;
    let (device, limit) = match args.device {
        DeviceChoice::Cuda(_) => (DeviceKind::Cuda, None),
        DeviceChoice::Vulkan => (DeviceKind::Vulkan, None),
        choice @ (DeviceChoice::Auto | DeviceChoice::Cpu) => {
            let compute = inputs::compute(choice, 0, reporter)?;
            (compute.kind(), compute.memory())
        }
    };
    let inputs = inputs::open(&plan, reporter)?;
    let workload = inputs.workload(&plan, device)?;
    let choice = fit::choose(&plan, &workload, limit);
    let classes = workload.size_classes();
    reporter.clear();
    if args.json {
        return Ok(output::json(&as_json(device, &choice, &classes))?);
    }
    output::data(&for_people(&plan, device, &choice, &classes))?;
    Ok(())
}

fn as_json(device: DeviceKind, choice: &Choice, classes: &[ClassEstimate]) -> serde_json::Value {
    json!({
        "device": device.name(),
        "micro_batch_size": choice.micro_batch_size,
        "recompute": choice.activations.again(),
        "offload": choice.activations == Activations::Offloaded,
        "lasting": choice.estimate.lasting,
        "stages": choice.estimate.stages,
        "highest_stage": choice.estimate.highest().map(|stage| stage.name),
        "peak_bytes": choice.estimate.peak(),
        "limit_bytes": choice.limit,
        "fits": choice.fits(),
        "size_classes": classes,
    })
}

fn for_people(plan: &Plan, device: DeviceKind, choice: &Choice, classes: &[ClassEstimate]) -> String {
    let estimate = &choice.estimate;
    let highest = estimate.highest().map_or("", |stage| stage.name);
    let recompute = match choice.activations {
        Activations::Kept => "",
        Activations::Recomputed => ", activations recomputed",
        Activations::Offloaded => ", activations recomputed, layer inputs in host memory",
    };
    let mut lines =
        vec![format!("{} on {}: micro-batches of {}{recompute}", plan.name, device.name(), choice.micro_batch_size)];
    lines.push("\nduring the whole run".to_owned());
    lines.extend(estimate.lasting.iter().filter(|part| part.bytes > 0).map(|part| row("", part)));
    lines.push("in addition, one stage at a time".to_owned());
    for stage in &estimate.stages {
        let parts = stage.parts.iter().filter(|part| part.bytes > 0);
        lines.extend(parts.map(|part| row(&format!("{}: ", stage.name), part)));
    }
    lines.push(row("", &Part { name: "peak", bytes: estimate.peak() }) + &format!("  while {highest}"));
    if let Some(limit) = choice.limit {
        lines.push(row("", &Part { name: "available", bytes: limit }));
    }
    let (tokens, size) = (plan.data.max_seq_len, plan.training.micro_batch_size);
    lines.push(format!(
        "\nother models, micro-batches of {size} × {tokens} tokens; in brackets with recomputed activations"
    ));
    lines.push(format!("{:<16}{:>26}{:>26}", "", "4-bit base", "dense base"));
    let pair = |[plain, again]: [u64; 2]| format!("{} ({})", bytes(plain as f64), bytes(again as f64));
    lines.extend(classes.iter().map(|class| {
        let four_bits = class.four_bits.map_or_else(|| "-".to_owned(), pair);
        format!("{:<16}{four_bits:>26}{:>26}", class.class, pair(class.dense))
    }));
    lines.join("\n")
}

fn row(stage: &str, part: &Part) -> String {
    format!("  {:<34}{:>12}", format!("{stage}{}", part.name), bytes(part.bytes as f64))
}
