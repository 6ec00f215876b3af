//! `tonfall train RECIPE`: starts a new run.
//!
//! Responsible for: recipe → plan → open inputs → run directory. Nothing is written before all inputs are open and pass
//! all checks of `tonfall check`.

use jiff::Zoned;
use tonfall_runs::{RunDir, RunLock, StartedWith};

use crate::args::Train;
use crate::diagnostics::Result;
use crate::fit;
use crate::launch::{Launch, join_in, launch};
use crate::metrics_server::{MetricsServer, Scrape};
use crate::processes;
use crate::progress::Reporter;
use crate::quickstart;
use crate::run_inputs;
use crate::summary;

pub(crate) fn run(args: &Train, reporter: &mut Reporter) -> Result<i32> {
    let now = Zoned::now();
    let (recipe, plan) = quickstart::plan(&args.recipe)?;
    let (mut group, compute) = processes::meet(&args.device, reporter)?;
    let compute = compute.deterministic(plan.training.deterministic);
    let metrics = if group.is_first() { MetricsServer::bind(&args.metrics)? } else { None };
    let inputs = processes::open(&plan, &now, &mut group, reporter)?;
    inputs.preflight(&plan, group.size())?;
    fit::refuse_too_much(&plan, &inputs, &compute)?;
    let first = group.is_first();
    let launched = Launch {
        compute: &compute,
        plan: &plan,
        inputs: &inputs,
        group: &mut group,
        resume_from: None,
        notices: Vec::new(),
        grace: args.grace.grace,
    };
    if !first {
        return join_in(launched);
    }
    let started = StartedWith { inputs: run_inputs::fingerprints(&plan, &inputs, plan.lora.init.as_deref())?, now };
    let run = RunDir::create_started(&plan, &recipe, &args.recipe.set, args.run_name.as_deref(), Some(started))?;
    let lock = RunLock::acquire(run.path())?;
    reporter.note(&format!("run {}", summary::shown(run.path())));
    if let Some(server) = metrics {
        server.serve_beside(Scrape::runs(vec![run.clone()]))?;
    }
    launch(launched, &run, &lock, reporter)
}
