//! `tonfall train RECIPE`: starts a new run.

use crate::args::Train;
use crate::diagnostics::Result;
use crate::output;
use crate::progress::Reporter;
use crate::quickstart;
use crate::training::{self, New, Options};

pub(crate) fn run(args: &Train, reporter: &mut Reporter) -> Result<i32> {
    let (recipe, plan) = quickstart::plan(&args.recipe)?;
    let options = Options { device: &args.device, metrics: &args.metrics, grace: args.grace.grace };
    let opened = training::open(&plan, options, reporter)?;
    let new = New { recipe: &recipe, plan: &plan, overrides: &args.recipe.set, run_name: args.run_name.as_deref() };
    let launched = training::start(&new, opened, None, &mut |_| (), options, reporter)?;
    if let Some(summary) = launched.summary {
        output::data(&summary)?;
    }
    Ok(launched.code)
}
