//! The summary that is printed when a run is finished.
//!
//! Responsible for: the figures before and after, the paths of the artefacts, and the next commands.
//! Must not depend on: how the figures are measured.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use tonfall_recipes::plan::{AdapterKind, Base};
use tonfall_recipes::{Plan, counted};
use tonfall_runs::RunDir;
use tonfall_runs::numbers::{bytes, duration};
use tonfall_trainer::{EvalReport, Outcome};

/// Generations that are shown before and after.
const SHOWN_SAMPLES: usize = 3;

/// Ranks that vLLM's `--max-lora-rank` accepts.
const VLLM_RANKS: [usize; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

/// The summary of a finished run, for people or as one line of JSON.
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
            "artefact": outcome.artefact,
            "merged": outcome.merged,
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
    parts.push(next(plan, run, outcome));
    parts.join("\n\n")
}

/// Loss and terms, before and after; `None` when nothing was measured.
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

/// The first prompts, with their generations before and after.
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
    let places = [("adapter", &outcome.artefact), ("merged", &outcome.merged)];
    let lines = places.iter().filter_map(|(name, path)| {
        let path = path.as_ref()?;
        let name = if path.ends_with("model") { "model" } else { name };
        Some(format!("{name:<9}{}", shown(path)))
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { "nothing was exported, as the recipe says".to_owned() } else { lines.join("\n") }
}

/// The next commands.
fn next(plan: &Plan, run: &RunDir, outcome: &Outcome) -> String {
    let place = shown(run.path());
    let mut lines = vec!["next".to_owned()];
    if plan.adapter.kind == AdapterKind::Full {
        lines.push(format!("  tonfall chat {place}"));
        return lines.join("\n");
    }
    lines.push(format!("  tonfall chat {place} --compare"));
    if outcome.merged.is_none() {
        lines.push(format!("  tonfall merge {place} --out merged-model"));
    }
    if let (Some(adapter), Some(rank)) = (&outcome.artefact, outcome.rank) {
        lines.push(serve(plan, adapter, rank));
    }
    lines.join("\n")
}

/// The command that serves base and adapter, or why there is none.
fn serve(plan: &Plan, adapter: &Path, rank: usize) -> String {
    let Some(allowed) = VLLM_RANKS.iter().find(|allowed| **allowed >= rank) else {
        let most = VLLM_RANKS[VLLM_RANKS.len() - 1];
        return format!("  vLLM takes adapters up to rank {most}, this one has {rank}: serve the merged model instead");
    };
    let (base, revision) = match &plan.base {
        Base::Local(path) => (shown(path), None),
        Base::Hub(name) => match name.split_once('@') {
            Some((name, revision)) => (name.to_owned(), Some(revision)),
            None => (name.clone(), None),
        },
    };
    let mut command = format!("  vllm serve {}", quoted(&base));
    if let Some(revision) = revision {
        command += &format!(" --revision {}", quoted(revision));
    }
    if let Some(template) = &plan.data.chat_template {
        command += &format!(" --chat-template {}", quoted(&shown(template)));
    }
    let module = quoted(&format!("{}={}", plan.name, shown(adapter)));
    format!("{command} --enable-lora --max-lora-rank {allowed} --lora-modules {module}")
}

/// A word as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=@:+,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A path for people: relative to the current directory, if it is below.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    below.unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(base: &str) -> Plan {
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(folder.path().join("data")).expect("made");
        let source = format!("name = \"style\"\nbase = \"{base}\"\n[data]\ntrain = \"data\"\n");
        let recipe = tonfall_recipes::RecipeFile { path: folder.path().join("a.toml"), source };
        recipe.plan(&[]).expect("a plan")
    }

    #[test]
    fn the_serving_line_has_the_rank_of_the_adapter_and_can_be_pasted() {
        let line = |base: &str, rank| serve(&plan(base), Path::new("/runs/a b/adapter"), rank);
        let expected =
            "  vllm serve o/n --revision v1 --enable-lora --max-lora-rank 64 --lora-modules 'style=/runs/a b/adapter'";
        assert_eq!(line("hf:o/n@v1", 40), expected);
        assert!(line("hf:o/n", 512).starts_with("  vllm serve o/n --enable-lora --max-lora-rank 512"));
        assert!(line("hf:o/n", 640).contains("up to rank 512, this one has 640"));
        let own_template = Plan { base: Base::Local("/m/it's mine".into()), ..plan("hf:o/n") };
        let own_template = Plan {
            data: tonfall_recipes::plan::DataPlan {
                chat_template: Some("/t.jinja".into()),
                ..own_template.data.clone()
            },
            ..own_template
        };
        let line = serve(&own_template, Path::new("/a"), 8);
        assert!(line.starts_with("  vllm serve '/m/it'\\''s mine' --chat-template /t.jinja --enable-lora"), "{line}");
    }
}
