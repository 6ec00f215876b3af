//! The summary that is printed after a finished run.
//!
//! Responsible for: the metrics before and after training, the paths of the artefacts, and the next commands.
//! Must not depend on: how the metrics are measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use tonfall_adapters::export::{shell_word, vllm_rank};
use tonfall_adapters::peft::{self, AdapterConfig};
use tonfall_adapters::{GENERATION_FILE, TEMPLATE_FILE};
use tonfall_recipes::plan::{AdapterKind, Base};
use tonfall_recipes::{Plan, counted};
use tonfall_runs::RunDir;
use tonfall_runs::numbers::{bytes, duration};
use tonfall_trainer::{EvalReport, Outcome};

/// Number of generations shown before and after training.
const SHOWN_SAMPLES: usize = 3;

/// The summary of a finished run, as text or as one line of JSON.
pub(crate) fn text(plan: &Plan, run: &RunDir, outcome: &Outcome, as_json: bool) -> String {
    match as_json {
        true => json!({
            "run": run.path(),
            "steps": outcome.step,
            "seconds": outcome.seconds,
            "tokens": outcome.tokens,
            "peak_rss_bytes": outcome.peak_rss_bytes,
            "peak_accelerator_bytes": outcome.peak_accelerator_bytes,
            "predicted_bytes": outcome.predicted_bytes,
            "before": outcome.before,
            "after": outcome.after,
            "exports": outcome.exports.iter().map(|export| (export.name, &export.path)).collect::<BTreeMap<_, _>>(),
            "notices": outcome.notices,
        })
        .to_string(),
        false => for_people(plan, run, outcome),
    }
}

fn for_people(plan: &Plan, run: &RunDir, outcome: &Outcome) -> String {
    let mut head = format!(
        "{}: {} in {}, {}",
        run.id(),
        counted(outcome.step, "step"),
        duration(outcome.seconds),
        counted(outcome.tokens, "token")
    );
    if let Some(peak) = outcome.peak_accelerator_bytes.or(outcome.peak_rss_bytes) {
        head += &format!(", peak memory {}, predicted {}", bytes(peak as f64), bytes(outcome.predicted_bytes as f64));
    }
    let mut parts = vec![head];
    let nothing = EvalReport::default();
    let before = outcome.before.as_ref().unwrap_or(&nothing);
    let after = outcome.after.as_ref().unwrap_or(&nothing);
    parts.extend(table(before, after));
    parts.extend(samples(before, after));
    parts.push(artefacts(outcome));
    parts.extend(outcome.notices.iter().map(|notice| format!("note: {notice}")));
    parts.push(next(plan, run, outcome));
    parts.join("\n\n")
}

/// Loss and terms, before and after training; `None` if nothing was measured.
fn table(before: &EvalReport, after: &EvalReport) -> Option<String> {
    let mut rows = Vec::new();
    if let (Some(before), Some(after)) = (before.loss, after.loss) {
        rows.push(("loss on held-out data", format!("{before:.4}"), format!("{after:.4}")));
    }
    if let (Some(before), Some(after)) = (before.adherence, after.adherence) {
        let of = |used: usize, all: usize| format!("{used} of {all}");
        rows.push((
            "right terms used",
            of(before.expected_used, before.expected),
            of(after.expected_used, after.expected),
        ));
        rows.push(("wrong terms used", of(before.avoided_used, before.avoided), of(after.avoided_used, after.avoided)));
    }
    if rows.is_empty() {
        return None;
    }
    let mut text = format!("{:<24}{:>14}{:>14}", "", "before", "after");
    for (name, before, after) in rows {
        let written = write!(text, "\n{name:<24}{before:>14}{after:>14}");
        debug_assert!(written.is_ok(), "writing to a string");
    }
    Some(text)
}

/// The first prompts, with their generations before and after training.
fn samples(before: &EvalReport, after: &EvalReport) -> Vec<String> {
    let shown = before.samples.iter().zip(&after.samples).take(SHOWN_SAMPLES);
    shown
        .map(|(before, after)| {
            format!("prompt  {}\nbefore  {}\nafter   {}", line(&before.prompt), line(&before.text), line(&after.text))
        })
        .collect()
}

/// Text on one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn artefacts(outcome: &Outcome) -> String {
    let lines: Vec<String> =
        outcome.exports.iter().map(|export| format!("{:<13}{}", export.name, shown(&export.path))).collect();
    if lines.is_empty() { "nothing was exported, as the recipe says".to_owned() } else { lines.join("\n") }
}

/// The directory of an export of this run.
fn exported<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a Path> {
    outcome.exports.iter().find(|export| export.name == name).map(|export| export.path.as_path())
}

/// The next commands.
fn next(plan: &Plan, run: &RunDir, outcome: &Outcome) -> String {
    let place = in_shell(run.path());
    let mut lines = vec!["next".to_owned()];
    if plan.adapter.kind == AdapterKind::Full {
        lines.push(format!("  tonfall chat {place}"));
        return lines.join("\n");
    }
    lines.push(format!("  tonfall chat {place} --compare"));
    if exported(outcome, "safetensors").is_none() {
        lines.push(format!("  tonfall merge {place} --out merged-model"));
    }
    // The adapter was read back after it was written.
    if let Some(adapter) = exported(outcome, "peft")
        && let Ok(config) = peft::read_config(adapter)
    {
        lines.push(serve(plan, adapter, &config));
    }
    lines.join("\n")
}

/// The command that serves base and adapter with vLLM. Rank, base and revision are those of the exported adapter.
fn serve(plan: &Plan, adapter: &Path, config: &AdapterConfig) -> String {
    let rank = match vllm_rank(config.r) {
        Ok(rank) => rank,
        Err(why) => return format!("  {why}"),
    };
    let base = match (&plan.base, &config.base_model_name_or_path) {
        (Base::Hub(_), Some(name)) => shell_word(name),
        (Base::Hub(name), None) => shell_word(name),
        (Base::Local(path), _) => in_shell(path),
    };
    let mut line = format!("  vllm serve {base}");
    if let Some(revision) = &config.revision {
        line += &format!(" --revision {}", shell_word(revision));
    }
    let named = shell_word(&format!("{}={}", plan.name, shown(adapter)));
    line += &format!(" --enable-lora --max-lora-rank {rank} --lora-modules {named}");
    if adapter.join(TEMPLATE_FILE).is_file() {
        line += &format!(" --chat-template {}", in_shell(&adapter.join(TEMPLATE_FILE)));
    }
    if adapter.join(GENERATION_FILE).is_file() {
        line += &format!(" --generation-config {}", in_shell(adapter));
    }
    line
}

/// The path that is shown to users: relative to the working directory if the path is inside it.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    below.unwrap_or(path).display().to_string()
}

/// The same as one word of a shell command.
pub(crate) fn in_shell(path: &Path) -> String {
    shell_word(&shown(path))
}
