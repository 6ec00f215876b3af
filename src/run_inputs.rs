//! The inputs of a run, and whether a resumed run has the same inputs.
//!
//! Responsible for: fingerprints of everything that a plan names by path, which `run.json` stores, and comparing them
//! before a run continues.
//! Must not depend on: the use of the inputs.

use std::path::{Path, PathBuf};

use tonfall_adapters::peft::{CONFIG_FILE, TENSOR_FILE};
use tonfall_adapters::{BaseKind, BaseModel};
use tonfall_recipes::Plan;
use tonfall_runs::{RunDir, RunInputs};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs::Inputs;
use crate::progress::Reporter;
use crate::summary;

/// Maximum number of data files that are recorded separately. More files are recorded as one input, so that `run.json`
/// stays small.
const NAMED_FILES: usize = 200;
/// Prefix of the name of the run's own chat template.
const TEMPLATE: &str = "chat template ";
/// Prefix of the names of the files of `lora.init`.
const ADAPTER: &str = "lora.init ";

/// Fingerprints of all inputs; `adapter` is the directory `lora.init` if the run still needs it.
pub(crate) fn fingerprints(plan: &Plan, inputs: &Inputs, adapter: Option<&Path>) -> Result<RunInputs> {
    let mut found = of_model(&inputs.base, plan.data.chat_template.is_some())?;
    record_data(&mut found, &inputs.data.sources);
    let files = [(TEMPLATE, &plan.data.chat_template), ("held-out prompts ", &plan.evaluation.prompts)];
    for (what, path) in files {
        let Some(path) = path else { continue };
        found.record_file(format!("{what}{}", path.display()), path)?;
    }
    for name in adapter.iter().flat_map(|_| [CONFIG_FILE, TENSOR_FILE]) {
        let path = adapter.unwrap_or(Path::new("")).join(name);
        found.record_file(format!("{ADAPTER}{}", path.display()), &path)?;
    }
    Ok(found)
}

/// Fingerprints of a model and of its tokenizer's files, byte for byte. A GGUF file has its tokenizer in the header, which
/// the config includes. `own_template`: whether another chat template replaces that of the model.
pub(crate) fn of_model(base: &BaseModel, own_template: bool) -> Result<RunInputs> {
    let mut found = RunInputs::default();
    found.record("base config", base.config_fingerprint());
    found.record("base weights", base.weights_fingerprint());
    if base.kind() == BaseKind::Gguf {
        return Ok(found);
    }
    let files = base.tokenizer()?;
    let special = [&files.bos, &files.eos, &files.pad, &files.unk, &files.eot];
    let special = special.map(|token| token.as_ref().map_or("", |token| token.content.as_str()));
    let add = [files.add_bos, files.add_eos].map(|add| add.map_or("", |add| if add { "yes" } else { "no" }));
    found.record_bytes("tokenizer", &files.tokenizer_json);
    found.record_bytes("special tokens", [&special[..], &add[..]].concat().join("\0").as_bytes());
    if !own_template {
        found.record_bytes("base chat template", files.chat_template.unwrap_or_default().as_bytes());
    }
    Ok(found)
}

/// Warns if the run's own chat template is not the one of its first start.
pub(crate) fn warn_of_changed_template(run: &RunDir, plan: &Plan, reporter: &mut Reporter) -> Result<()> {
    let (Some(path), Some(before)) = (&plan.data.chat_template, &run.info().inputs) else { return Ok(()) };
    let (name, mut now) = (format!("{TEMPLATE}{}", path.display()), RunInputs::default());
    now.record_file(name.as_str(), path)?;
    if before.get(&name) != now.get(&name) {
        let place = summary::shown(path);
        reporter.note(&format!("warning: the chat template {place} has changed since the run was started"));
    }
    Ok(())
}

fn record_data(found: &mut RunInputs, sources: &[(PathBuf, [u8; 32])]) {
    if sources.len() <= NAMED_FILES {
        for (path, hash) in sources {
            found.record_bytes(format!("data file {}", path.display()), hash);
        }
        return;
    }
    let mut all = Vec::new();
    for (path, hash) in sources {
        all.extend(path.as_os_str().as_encoded_bytes());
        all.push(0);
        all.extend(hash);
    }
    found.record_bytes("data files", &all);
}

/// Compares the inputs of a run with those of its first start. Returns notices for the run's log: the changes that
/// `accept` allows, or that no fingerprints were stored.
///
/// # Errors
/// If an input has changed and `accept` is false.
pub(crate) fn compare(
    run: &RunDir,
    plan: &Plan,
    inputs: &Inputs,
    checkpoint: Option<&Path>,
    accept: bool,
    reporter: &mut Reporter,
) -> Result<Vec<String>> {
    let Some(before) = &run.info().inputs else {
        let notice = "the run was started by an older tonfall, which stored no fingerprints: whether its base and data \
                      are still the same is not known";
        reporter.note(&format!("warning: {notice}"));
        return Ok(vec![notice.to_owned()]);
    };
    // A checkpoint contains the adapter, so the adapter that the run started from is not needed again.
    let adapter = plan.lora.init.as_deref().filter(|_| checkpoint.is_none());
    let now = fingerprints(plan, inputs, adapter)?;
    let changes = before.changes(&now, |name| checkpoint.is_some() && name.starts_with(ADAPTER));
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    if !accept {
        let place = summary::shown(run.path());
        let message = format!(
            "the run was started with other inputs:\n  {}\nhint: restore them, or go on knowingly with `tonfall resume \
             {place} --accept-changes`",
            changes.join("\n  ")
        );
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let notices: Vec<String> = changes.iter().map(|change| format!("going on with other inputs: {change}")).collect();
    notices.iter().for_each(|notice| reporter.note(&format!("warning: {notice}")));
    Ok(notices)
}
