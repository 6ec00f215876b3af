//! Where an artefact comes from: hashes of everything that it was made from.
//!
//! Responsible for: the lineage of a run. It has no paths, because artefacts leave the machine.

use tonfall_recipes::Plan;
use tonfall_runs::{RunDir, RunInputs};

/// Inputs of a run by the prefix of their names, and their keys in the lineage.
const INPUTS: [(&str, &str); 7] = [
    ("base config", "base_config"),
    ("base weights", "base_weights"),
    ("tokenizer", "tokenizer"),
    ("base chat template", "chat_template"),
    ("chat template ", "chat_template"),
    ("data file", "data"),
    ("held-out prompts ", "prompts"),
];

/// The lineage of what a run with these inputs makes.
pub(crate) fn of_inputs(plan: &Plan, inputs: &RunInputs) -> Vec<(String, String)> {
    let mut lineage =
        vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()), ("recipe".to_owned(), plan.hash())];
    for (prefix, key) in INPUTS {
        lineage.extend(inputs.digest(prefix).map(|digest| (key.to_owned(), digest)));
    }
    lineage
}

/// The lineage of a run that has not exported yet.
pub(crate) fn of_run(run: &RunDir, plan: &Plan) -> Vec<(String, String)> {
    of_inputs(plan, &run.info().inputs.clone().unwrap_or_default())
}
