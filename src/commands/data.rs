//! `tonfall data RECIPE`: the data as a model will see it.
//!
//! Responsible for: the report of a preparation, and examples with the trained tokens marked.

use std::io::IsTerminal;

use tonfall_datasets::{ChatTokenizer, Example, PrepareReport, Sampler, stretches};
use tonfall_recipes::Plan;
use tonfall_runs::numbers::grouped;

use crate::args::Data;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs;
use crate::output;
use crate::progress::Reporter;
use crate::quickstart;

/// Columns of the longest bar.
const BAR: u64 = 40;

pub(crate) fn run(args: &Data, reporter: &mut Reporter) -> Result<()> {
    let (_, plan) = quickstart::plan(&args.recipe)?;
    let base = inputs::model(&plan.base, plan.allow_download, reporter)?;
    let tokenizer = inputs::tokenizer(&base, plan.data.chat_template.as_deref())?;
    let prepared = inputs::data(&plan, &tokenizer, reporter)?;
    let sampler = Sampler::new(&prepared.train, &plan, 1);
    reporter.clear();
    if args.json {
        output::data(&json(&plan, &prepared.report, &sampler)?)?;
        return Ok(());
    }
    let color = std::io::stdout().is_terminal() && output::escapes_welcome();
    for example in prepared.train.iter().take(args.show) {
        let path = prepared.report.files.get(example.source.file).map(|file| file.path.display().to_string());
        let place = format!("── {}:{}", path.unwrap_or_default(), example.source.row);
        output::data(&format!("{place}, {} tokens, {} trained", example.input_ids.len(), example.trained_tokens()))?;
        output::data(&marked(&example, &tokenizer, color)?)?;
    }
    output::data(&text(&plan, &prepared.report, &sampler))?;
    Ok(())
}

/// An example as text; what is trained is green, or stands in ⟦…⟧ where there are no colours.
fn marked(example: &Example, tokenizer: &ChatTokenizer, color: bool) -> Result<String> {
    let stretches = stretches(example, tokenizer).map_err(tonfall_datasets::DataError::from)?;
    let (open, close) = if color { ("\u{1b}[32m", "\u{1b}[0m") } else { ("⟦", "⟧") };
    let text = |trained: bool, text: &str| if trained { format!("{open}{text}{close}") } else { text.to_owned() };
    Ok(stretches.iter().map(|stretch| text(stretch.trained, &stretch.text)).collect())
}

/// The report for people.
fn text(plan: &Plan, report: &PrepareReport, sampler: &Sampler) -> String {
    let mut lines = vec![report.to_string().trim_end().to_owned()];
    if report.cached {
        lines.push("prepared before, and found in the cache".to_owned());
    }
    let most = report.lengths.values().max().copied().unwrap_or(1).max(1);
    lines.push("tokens of an example".to_owned());
    lines.extend(report.lengths.iter().map(|(below, count)| {
        let bar = "█".repeat((count * BAR).div_ceil(most) as usize);
        format!("  ≤ {:>9}  {bar} {}", grouped(*below), grouped(*count))
    }));
    if let Some(share) = sampler.packing_efficiency() {
        let (sequences, length) = (grouped(sampler.sequences() as u64), grouped(plan.data.max_seq_len as u64));
        lines.push(format!(
            "packed into {sequences} sequences of {length}, {:.1} % of their tokens used",
            100.0 * share
        ));
    }
    lines.push(format!("{} optimizer steps an epoch", grouped(sampler.steps_per_epoch())));
    lines.join("\n")
}

fn json(plan: &Plan, report: &PrepareReport, sampler: &Sampler) -> Result<String> {
    let failed = |error: serde_json::Error| Failure::new(ExitCode::Unexpected, error.to_string());
    let mut value = serde_json::to_value(report).map_err(failed)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("cached".to_owned(), report.cached.into());
        object.insert("sequences".to_owned(), sampler.sequences().into());
        object.insert("packing_efficiency".to_owned(), sampler.packing_efficiency().into());
        object.insert("steps_per_epoch".to_owned(), sampler.steps_per_epoch().into());
        object.insert("max_seq_len".to_owned(), plan.data.max_seq_len.into());
    }
    serde_json::to_string(&value).map_err(failed)
}
