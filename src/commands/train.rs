//! `tonfall train RECIPE`: a new run.
//!
//! Responsible for: recipe → plan → open inputs → run directory. Nothing is written before everything could be opened.

use tonfall_recipes::RunDir;

use crate::args::Train;
use crate::commands::estimate;
use crate::diagnostics::Result;
use crate::inputs;
use crate::launch::{Launch, launch};
use crate::metrics_server::{MetricsServer, Scrape};
use crate::progress::Reporter;
use crate::quickstart;
use crate::summary;

pub(crate) fn run(args: &Train, reporter: &mut Reporter) -> Result<i32> {
    let (recipe, plan) = quickstart::plan(&args.recipe)?;
    let compute = inputs::compute(args.device.device, reporter)?.deterministic(plan.training.deterministic);
    let metrics = MetricsServer::bind(&args.metrics)?;
    let inputs = inputs::open(&plan, reporter)?;
    estimate::refuse_too_much(&plan, &inputs, &compute)?;
    let run = RunDir::create(&plan, &recipe, &args.recipe.set, args.run_name.as_deref())?;
    reporter.note(&format!("run {}", summary::shown(run.path())));
    if let Some(server) = metrics {
        server.serve_beside(Scrape::runs(vec![run.clone()]))?;
    }
    let launched = Launch {
        compute: &compute,
        plan: &plan,
        inputs: &inputs,
        run: &run,
        resume_from: None,
        grace: args.grace.grace,
    };
    launch(launched, reporter)
}
