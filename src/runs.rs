//! Runs named on the command line.
//!
//! Responsible for: finding runs, distinguishing them from models, and finding the newest adapter of a run.
//! Must not depend on: training.

use std::path::{Path, PathBuf};

use tonfall_adapters::export;
use tonfall_adapters::peft::{CONFIG_FILE, TENSOR_FILE};
use tonfall_recipes::Plan;
use tonfall_recipes::plan::AdapterKind;
use tonfall_runs::checkpoint_dir::latest_verified;
use tonfall_runs::{RunDir, RunDirError, RunState};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;
use crate::summary;

/// The default `output_dir`.
pub(crate) const DIRECTORY: &str = "runs";

/// The run `name`: a path, or a name within `runs`.
pub(crate) fn open(name: &Path) -> Result<RunDir> {
    Ok(RunDir::open(&place(name)?)?)
}

/// The directory of the run `name`, which may be damaged.
pub(crate) fn place(name: &Path) -> Result<PathBuf> {
    let within = Path::new(DIRECTORY).join(name);
    match [name, &within].into_iter().find(|path| is_run(path)) {
        Some(found) => Ok(found.to_owned()),
        None => Err(Failure::new(
            ExitCode::Invalid,
            format!("no run at {} or {}\nhint: `tonfall runs` lists the runs", name.display(), within.display()),
        )),
    }
}

/// Whether there is a run, possibly a damaged one.
fn is_run(path: &Path) -> bool {
    !matches!(RunDir::open(path), Err(RunDirError::NotFound { .. }))
}

/// The runs `names`; without names, the newest run.
pub(crate) fn named_or_newest(names: &[PathBuf]) -> Result<Vec<RunDir>> {
    if !names.is_empty() {
        return names.iter().map(|name| open(name)).collect();
    }
    let newest = RunDir::latest(Path::new(DIRECTORY))?;
    let none =
        || Failure::new(ExitCode::Invalid, "there are no runs in ./runs\nhint: `tonfall train RECIPE` makes one");
    newest.map(|run| vec![run]).ok_or_else(none)
}

/// All runs of a directory, oldest first; prints a warning for each unreadable run.
pub(crate) fn all(directory: &Path) -> Result<Vec<RunDir>> {
    let found = RunDir::list(directory)?;
    for damaged in found.damaged {
        output::note(&format!("warning: {damaged}"));
    }
    Ok(found.runs)
}

/// The run `name`. `None` if there is no such run, because `name` may also be a model or an adapter.
pub(crate) fn find(name: &Path) -> Result<Option<RunDir>> {
    match is_run(name) || is_run(&Path::new(DIRECTORY).join(name)) {
        true => open(name).map(Some),
        false => Ok(None),
    }
}

/// The weights that a run has written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// A PEFT adapter.
    Adapter(PathBuf),
    /// A full model.
    Model(PathBuf),
}

/// The exported weights, or the adapter of the newest checkpoint that verifies.
pub(crate) fn made(run: &RunDir, plan: &Plan) -> Result<Made> {
    let is_full = plan.adapter.kind == AdapterKind::Full;
    let (name, files): (_, &[&str]) =
        if is_full { ("safetensors", &["config.json"]) } else { ("peft", &[CONFIG_FILE, TENSOR_FILE]) };
    let directory = export::find(name).and_then(|export| export.directory(is_full)).unwrap_or_default();
    let exported = run.exports().join(directory);
    let finished = run.logged_state()? == RunState::Finished;
    if finished && files.iter().all(|file| exported.join(file).is_file()) {
        return Ok(if is_full { Made::Model(exported) } else { Made::Adapter(exported) });
    }
    let (checkpoint, damaged) = latest_verified(run)?;
    for damage in damaged {
        output::note(&format!("warning: {damage}"));
    }
    match checkpoint {
        Some(found) if found.path.join(CONFIG_FILE).is_file() => {
            if !finished {
                let (place, step) = (summary::shown(run.path()), found.manifest.step);
                output::note(&format!("note: the run {place} is not finished; this is its adapter after step {step}"));
            }
            Ok(Made::Adapter(found.path))
        }
        _ => Err(Failure::new(
            ExitCode::Invalid,
            format!("the run {0} has no adapter yet; `tonfall resume {0}` goes on", summary::in_shell(run.path())),
        )),
    }
}
