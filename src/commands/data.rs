//! `tonfall data RECIPE`: the data as the model will see it.
//!
//! Responsible for: the report on the prepared data, and examples with the tokens with loss marked.

use std::io::IsTerminal;

use serde_json::{Value, json};
use tonfall_datasets::{ChatTokenizer, DataError, Example, PrepareReport, Sampler, Stretch, stretches};
use tonfall_recipes::printable::escaped;
use tonfall_recipes::{Plan, counted};
use tonfall_runs::numbers::grouped;

use crate::args::Data;
use crate::diagnostics::Result;
use crate::progress::Reporter;
use crate::{inputs, output, quickstart};

/// Columns of the longest bar.
const BAR: u64 = 40;

pub(crate) fn run(args: &Data, reporter: &mut Reporter) -> Result<()> {
    let (_, plan) = quickstart::plan(&args.recipe)?;
    let base = inputs::model(&plan.base, plan.allow_download, reporter)?;
    let tokenizer = inputs::tokenizer(&base, plan.data.chat_template.as_deref())?;
    let tokenizer = tokenizer.with_template_variables(&plan.data.template_variables);
    let prepared = inputs::data(&plan, &tokenizer, reporter)?;
    let sampler = Sampler::new(&prepared.train, &plan, 1);
    reporter.clear();
    let examples = prepared.train.iter().take(args.show);
    let shown =
        examples.map(|example| Shown::new(&example, &prepared.report, &tokenizer)).collect::<Result<Vec<_>>>()?;
    if args.json {
        return Ok(output::json(&json(&plan, &prepared.report, &sampler, &shown)?)?);
    }
    let color = std::io::stdout().is_terminal() && output::escapes_welcome();
    for example in &shown {
        output::painted(&example.text(color))?;
    }
    output::data(&text(&plan, &prepared.report, &sampler))?;
    Ok(())
}

/// An example of `--show`.
struct Shown {
    file: String,
    /// Number of the line or row in its file.
    row: u64,
    tokens: usize,
    trained_tokens: usize,
    stretches: Vec<Stretch>,
}

impl Shown {
    fn new(example: &Example, report: &PrepareReport, tokenizer: &ChatTokenizer) -> Result<Self> {
        let file = report.files.get(example.source.file).map(|file| file.path.display().to_string());
        Ok(Self {
            file: file.unwrap_or_default(),
            row: example.source.row,
            tokens: example.input_ids.len(),
            trained_tokens: example.trained_tokens(),
            stretches: stretches(example, tokenizer).map_err(DataError::from)?,
        })
    }

    /// Text with loss is green, or in ⟦…⟧ without colours. Control characters of the data are escaped.
    fn text(&self, color: bool) -> String {
        let (open, close) = if color { ("\u{1b}[32m", "\u{1b}[0m") } else { ("⟦", "⟧") };
        let text = |stretch: &Stretch| match stretch.trained {
            true => format!("{open}{}{close}", escaped(&stretch.text)),
            false => escaped(&stretch.text).into_owned(),
        };
        let (tokens, trained) = (counted(self.tokens as u64, "token"), grouped(self.trained_tokens as u64));
        let place = format!("── {}:{}, {tokens}, {trained} with loss", escaped(&self.file), self.row);
        format!("{place}\n{}", self.stretches.iter().map(text).collect::<String>())
    }

    fn json(&self) -> Value {
        let stretch =
            |stretch: &Stretch| json!({"text": stretch.text, "trained": stretch.trained, "tokens": stretch.tokens});
        json!({
            "file": self.file,
            "row": self.row,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "stretches": self.stretches.iter().map(stretch).collect::<Vec<_>>(),
        })
    }
}

/// The report as text.
fn text(plan: &Plan, report: &PrepareReport, sampler: &Sampler) -> String {
    let mut lines = vec![report.to_string().trim_end().to_owned()];
    if report.cached {
        lines.push("read from the cache of prepared data".to_owned());
    }
    let most = report.lengths.values().max().copied().unwrap_or(1).max(1);
    lines.push("examples by length in tokens".to_owned());
    lines.extend(report.lengths.iter().map(|(below, count)| {
        let bar = "█".repeat((count * BAR).div_ceil(most) as usize);
        format!("  ≤ {:>9}  {bar} {}", grouped(*below), grouped(*count))
    }));
    if let Some(share) = sampler.packing_efficiency() {
        let (sequences, length) =
            (counted(sampler.sequences() as u64, "sequence"), grouped(plan.data.max_seq_len as u64));
        lines.push(format!("packed into {sequences} of {length} tokens, {:.1} % filled", 100.0 * share));
    }
    lines.push(format!("{} per epoch", counted(sampler.steps_per_epoch(), "optimizer step")));
    lines.join("\n")
}

/// The report as JSON, with the examples of `--show`.
fn json(plan: &Plan, report: &PrepareReport, sampler: &Sampler, shown: &[Shown]) -> Result<Value> {
    let mut value = serde_json::to_value(report)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("cached".to_owned(), report.cached.into());
        object.insert("sequences".to_owned(), sampler.sequences().into());
        object.insert("packing_efficiency".to_owned(), sampler.packing_efficiency().into());
        object.insert("steps_per_epoch".to_owned(), sampler.steps_per_epoch().into());
        object.insert("max_seq_len".to_owned(), plan.data.max_seq_len.into());
        if !shown.is_empty() {
            object.insert("examples".to_owned(), shown.iter().map(Shown::json).collect());
        }
    }
    Ok(value)
}
