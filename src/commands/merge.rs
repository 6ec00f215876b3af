//! `tonfall merge RUN|ADAPTER --out DIR`: an adapter and its base as one model.
//!
//! Responsible for: finding adapter and base. The merge itself and its proof are `tonfall_adapters::merge`.

use tonfall_adapters::merge::{self, MergeOptions};
use tonfall_adapters::peft;
use tonfall_recipes::plan::Base;

use crate::args::Merge;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs;
use crate::output;
use crate::progress::Reporter;
use crate::runs::{self, Made};
use crate::summary;

pub(crate) fn run(args: &Merge, reporter: &mut Reporter) -> Result<()> {
    if args.out.exists() {
        let message = format!("{} exists already; give a new directory", args.out.display());
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let (adapter, own_base, allow_download) = match runs::find(&args.adapter)? {
        Some(run) => {
            let plan = run.plan()?;
            match runs::made(&run, &plan)? {
                Made::Adapter(path) => (peft::read(&path)?, Some(plan.base), plan.allow_download),
                Made::Model(path) => {
                    let message =
                        format!("{} is a whole model already; there is nothing to merge", summary::shown(&path));
                    return Err(Failure::new(ExitCode::Invalid, message));
                }
            }
        }
        None => {
            let adapter = peft::read(&args.adapter)?;
            let base = adapter.config.base_model_name_or_path.clone().map(Base::from);
            (adapter, base, false)
        }
    };
    let base = args.base.clone().map(Base::from).or(own_base).ok_or_else(|| {
        Failure::new(ExitCode::Invalid, "the adapter does not name its base model; give it with --base MODEL")
    })?;
    let base = inputs::model(&base, allow_download, reporter)?;
    let mut progress = |done, total| reporter.phase("merging", done, total);
    let report = merge::merge(&base, &adapter, &args.out, &MergeOptions::default(), &mut progress)?;
    reporter.clear();
    for notice in &report.notices {
        reporter.note(&format!("note: {notice}"));
    }
    output::data(&format!("merged, read back and compared: {}", summary::shown(&args.out)))?;
    Ok(())
}
