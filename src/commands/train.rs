//! `tonfall train RECIPE`: a new run.
//!
//! Responsible for: recipe → plan → open inputs → run directory. Nothing is written before everything could be opened.

use tonfall_runs::{RunDir, RunLock};

use crate::args::Train;
use crate::commands::estimate;
use crate::diagnostics::Result;
use crate::launch::{Launch, join_in, launch};
use crate::metrics_server::{MetricsServer, Scrape};
use crate::processes;
use crate::progress::Reporter;
use crate::quickstart;
use crate::summary;

pub(crate) fn run(args: &Train, reporter: &mut Reporter) -> Result<i32> {
    let (recipe, plan) = quickstart::plan(&args.recipe)?;
    let (mut group, compute) = processes::meet(&args.device, reporter)?;
    let compute = compute.deterministic(plan.training.deterministic);
    let metrics = if group.is_first() { MetricsServer::bind(&args.metrics)? } else { None };
    let inputs = processes::open(&plan, &mut group, reporter)?;
    estimate::refuse_too_much(&plan, &inputs, &compute)?;
    let first = group.is_first();
    let launched = Launch {
        compute: &compute,
        plan: &plan,
        inputs: &inputs,
        group: &mut group,
        resume_from: None,
        grace: args.grace.grace,
    };
    if !first {
        return join_in(launched);
    }
    let run = RunDir::create(&plan, &recipe, &args.recipe.set, args.run_name.as_deref())?;
    reporter.note(&format!("run {}", summary::shown(run.path())));
    if let Some(server) = metrics {
        server.serve_beside(Scrape::runs(vec![run.clone()]))?;
    }
    let lock = RunLock::acquire(run.path())?;
    launch(launched, &run, &lock, reporter)
}
