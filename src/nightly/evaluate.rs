//! The evaluation of a night: tonight's adapter, the base, and the published adapter.
//!
//! Must not depend on: verdicts.

use tonfall_recipes::Plan;
use tonfall_runs::RunDir;
use tonfall_runs::evaluation::Report;
use tonfall_runs::store::Store;
use tonfall_trainer::Compute;

use crate::args::DeviceArgs;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::evaluating::{self, BASE_FILE, Evaluated, Evaluation, TRAINED_FILE, Trained};
use crate::gating::{self, Reports};
use crate::hooks::ADAPTER;
use crate::inputs;
use crate::progress::Reporter;
use crate::user_cache;

/// The report of the published adapter on tonight's questions, in `eval/` of a run.
const PUBLISHED_FILE: &str = "published.json";

/// Evaluates a finished run. The published adapter is asked again if a rule compares with it and its report is of other
/// questions.
pub(super) fn run(
    run: &RunDir,
    plan: &Plan,
    store: &Store,
    device: &DeviceArgs,
    reporter: &mut Reporter,
) -> Result<Reports> {
    let mut evaluation = evaluating::of_run(run, None, reporter)?;
    let compute = inputs::compute(device.device, 0, reporter)?;
    let Evaluated { base, trained } = asked(&evaluation, &compute, reporter)?;
    let adapter = trained.ok_or_else(|| Failure::new(ExitCode::Unexpected, "the run was not evaluated"))?;
    for (name, report) in [(BASE_FILE, &base), (TRAINED_FILE, &Some(adapter.clone()))] {
        report.as_ref().map_or(Ok(()), |report| report.write(&run.eval().join(name)))?;
    }
    let is_compared = plan.gate.iter().any(|rule| rule.over_published.is_some());
    let published = match (store.current()?, gating::of_published(store)?) {
        (Some(number), report) if is_compared && must_be_asked(report.as_ref(), &adapter) => {
            store.verify(number)?;
            reporter.record(&format!("note: version {number} is asked tonight's questions"));
            evaluation.name = format!("{} version {number}", store.name());
            evaluation.trained = Some(Trained::Adapter(store.path(number).join(ADAPTER)));
            let report = asked(&evaluation, &compute, reporter)?.trained;
            report.as_ref().map_or(Ok(()), |report| report.write(&run.eval().join(PUBLISHED_FILE)))?;
            report
        }
        (_, report) => report,
    };
    Ok(Reports { adapter, base, published })
}

fn asked(evaluation: &Evaluation, compute: &Compute, reporter: &mut Reporter) -> Result<Evaluated> {
    evaluation.evaluate(compute, user_cache::own("evaluations").as_deref(), reporter)
}

/// Whether the published adapter has no report on tonight's questions. An adapter of another base can't be asked again: the
/// gate refuses to compare its report.
fn must_be_asked(published: Option<&Report>, tonight: &Report) -> bool {
    fn base(report: &Report) -> Option<&str> {
        report.subject.sha256.get("base weights")
    }
    published.is_none_or(|report| report.questions != tonight.questions && base(report) == base(tonight))
}
