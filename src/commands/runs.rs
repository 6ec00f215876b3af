//! `tonfall runs`: lists all runs of a directory.
//!
//! Responsible for: one line per run, from its lock and its event log.

use serde_json::json;
use tonfall_runs::{RunDir, Status, Summary};

use crate::args::Runs;
use crate::diagnostics::Result;
use crate::output;
use crate::runs;

/// A run with its state.
struct Row<'a> {
    run: &'a RunDir,
    summary: Summary,
    status: Status,
}

pub(crate) fn run(args: &Runs) -> Result<()> {
    let found = runs::all(&args.dir)?;
    let mut rows = Vec::with_capacity(found.len());
    for run in &found {
        match tonfall_runs::summary::read(run) {
            Ok((summary, status)) => rows.push(Row { run, summary, status }),
            Err(error) => output::note(&format!("warning: {error}")),
        }
    }
    match args.json {
        true => rows.iter().try_for_each(|row| output::json(&json(row)))?,
        false => table(&rows).iter().try_for_each(|line| output::data(line))?,
    }
    Ok(())
}

/// A header and one line per run; empty if there are no runs.
fn table(rows: &[Row<'_>]) -> Vec<String> {
    let Some(width) = rows.iter().map(|row| row.run.id().len()).max() else { return Vec::new() };
    let line = |id: &str, state: &str, step: &str, numbers: [&str; 3], verdict: &str| {
        let [loss, eval, best] = numbers;
        let line = format!("{id:<width$}  {state:<11}  {step:>13}  {loss:>8}  {eval:>8}  {best:>8}  {verdict}");
        line.trim_end().to_owned()
    };
    let mut lines = vec![line("run", "state", "step", ["loss", "eval", "best"], "verdict")];
    lines.extend(rows.iter().map(|Row { run, summary, status }| {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        let loss = number(summary.now.map(|now| now.loss));
        let eval = number(summary.eval.map(|(_, loss)| loss));
        let best = number(summary.best().map(|(_, loss)| loss));
        let step = format!("{}/{}", summary.step, summary.total_steps);
        line(&run.id(), status.name(), &step, [&loss, &eval, &best], verdict(summary).unwrap_or_default())
    }));
    lines
}

fn verdict(summary: &Summary) -> Option<&'static str> {
    summary.verdict.as_ref().map(|verdict| if verdict.passed { "passed" } else { "failed" })
}

fn json(row: &Row<'_>) -> serde_json::Value {
    let Row { run, summary, status } = row;
    json!({
        "id": run.id(),
        "state": status.name(),
        "created": run.info().created,
        "step": summary.step,
        "total_steps": summary.total_steps,
        "loss": summary.now.map(|now| now.loss),
        "eval_loss": summary.eval.map(|(_, loss)| loss),
        "best_eval_loss": summary.best().map(|(_, loss)| loss),
        "best_eval_step": summary.best().map(|(step, _)| step),
        "attempt": summary.attempt,
        "verdict": verdict(summary),
        "published": summary.published,
        "end": summary.end,
    })
}
