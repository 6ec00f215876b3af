//! `tonfall runs`: all runs of a directory.
//!
//! Responsible for: a line a run, from its lock and its event log.

use serde_json::json;
use tonfall_recipes::events::drop_superseded;
use tonfall_recipes::{EventKind, EventReader, RunDir, RunState};

use crate::args::Runs;
use crate::diagnostics::Result;
use crate::output;

/// What is told of a run.
struct Row {
    id: String,
    state: RunState,
    created: String,
    step: u64,
    total_steps: u64,
    loss: Option<f64>,
    eval_loss: Option<f64>,
}

pub(crate) fn run(args: &Runs) -> Result<()> {
    let found = RunDir::list(&args.dir)?;
    for damaged in found.damaged {
        output::note(&format!("warning: {damaged}"));
    }
    let rows: Vec<Row> = found.runs.iter().map(row).collect::<Result<_>>()?;
    if args.json {
        for row in &rows {
            output::data(&json(row))?;
        }
        return Ok(());
    }
    let width = rows.iter().map(|row| row.id.len()).max().unwrap_or(0).max(3);
    if !rows.is_empty() {
        output::data(&format!("{:<width$}  {:<11}  {:>13}  {:>8}  {:>8}", "run", "state", "step", "loss", "eval"))?;
    }
    for row in rows {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        output::data(&format!(
            "{:<width$}  {:<11}  {:>13}  {:>8}  {:>8}",
            row.id,
            row.state.name(),
            format!("{}/{}", row.step, row.total_steps),
            number(row.loss),
            number(row.eval_loss)
        ))?;
    }
    Ok(())
}

fn row(run: &RunDir) -> Result<Row> {
    let (state, created) = (run.state()?, run.info().created.clone());
    let mut row = Row { id: run.id(), state, created, step: 0, total_steps: 0, loss: None, eval_loss: None };
    let mut events = EventReader::read_all(&run.events())?;
    drop_superseded(&mut events);
    for event in events {
        match event.kind {
            EventKind::AttemptStarted { from_step, total_steps, .. } => {
                (row.step, row.total_steps) = (from_step, total_steps)
            }
            EventKind::Step { step, loss, .. } => (row.step, row.loss) = (step, Some(loss)),
            EventKind::Eval { loss, .. } => row.eval_loss = Some(loss),
            _ => {}
        }
    }
    Ok(row)
}

fn json(row: &Row) -> String {
    json!({
        "id": row.id,
        "state": row.state,
        "created": row.created,
        "step": row.step,
        "total_steps": row.total_steps,
        "loss": row.loss,
        "eval_loss": row.eval_loss,
    })
    .to_string()
}
