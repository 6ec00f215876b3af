//! The key of a night: a hash of everything that decides what is trained and asked.
//!
//! Must not depend on: the time, the version that is published, where results are kept and sent.

use tonfall_recipes::Plan;
use tonfall_recipes::plan::{NightlyPlan, NotifyPlan, PublishPlan, text_hash};

use crate::diagnostics::Result;
use crate::inputs::Inputs;
use crate::lineage;
use crate::run_inputs;

/// SHA-256 of recipe, base and data.
pub(crate) fn of(plan: &Plan, inputs: &Inputs) -> Result<String> {
    let found = run_inputs::fingerprints(plan, inputs, plan.lora.init.as_deref())?;
    let mut lines = vec![format!("recipe {}", what_matters(plan).hash())];
    // Another version of tonfall trains the same.
    let others = lineage::of_inputs(plan, &found).into_iter().filter(|(name, _)| name != "version" && name != "recipe");
    lines.extend(others.map(|(name, hash)| format!("{name} {hash}")));
    lines.extend(found.digest("lora.init ").map(|hash| format!("lora.init {hash}")));
    Ok(text_hash(&lines.join("\n")))
}

/// The plan without settings that change neither the adapter nor the questions.
fn what_matters(plan: &Plan) -> Plan {
    Plan {
        output_dir: Default::default(),
        // A run is judged again if the rules have changed.
        gate: Vec::new(),
        publish: PublishPlan::default(),
        hook: Vec::new(),
        nightly: NightlyPlan { start_from: plan.nightly.start_from, ..NightlyPlan::default() },
        notify: NotifyPlan::default(),
        ..plan.clone()
    }
}
