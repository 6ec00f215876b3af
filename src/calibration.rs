//! `export --calibrate`, `--calibrate-on` and `--imatrix`: the importance matrix of quantised models.
//!
//! Responsible for: choosing the texts, running the model on them, or reading an existing matrix.
//! Must not depend on: the quantisation.

use std::path::Path;

use tonfall_adapters::export::{GgufTypes, Importance};
use tonfall_datasets::{ChatTokenizer, HeldOutPrompt, read_prompts};
use tonfall_recipes::schema::KEYS;
use tonfall_recipes::{Plan, RecipeFile};
use tonfall_trainer::{CalibrationTexts, Session, calibration_examples};

use crate::args::ExportArgs;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::exporting::Source;
use crate::inputs;
use crate::progress::Reporter;
use crate::summary;

/// Maximum tokens of a sequence of `--calibrate-on`. Longer texts and conversations are divided, as llama.cpp does.
const LONGEST: usize = 2048;

/// The importance matrix that the arguments ask for; `None` without such arguments.
pub(crate) fn importance(source: &Source, args: &ExportArgs, reporter: &mut Reporter) -> Result<Option<Importance>> {
    let asked = &args.calibration;
    if !asked.calibrate && asked.calibrate_on.is_none() && asked.imatrix.is_none() {
        return Ok(None);
    }
    has_effect(args)?;
    if let Some(path) = &asked.imatrix {
        return Ok(Some(Importance::read(path, source.base.description())?));
    }
    let own;
    let tokenizer = match &source.tokenizer {
        Some(tokenizer) => tokenizer,
        None => {
            own = inputs::tokenizer(&source.base, None)?;
            &own
        }
    };
    let texts = match (&asked.calibrate_on, &source.plan) {
        (Some(path), _) => Texts::Sequences(of_file(path, source, tokenizer, reporter)?, summary::shown(path)),
        (None, Some(plan)) => of_run(plan, source, tokenizer, reporter)?,
        (None, None) => {
            let message = format!(
                "{} is no run, so that it has no texts to calibrate on\nhint: give texts with `--calibrate-on FILE`",
                summary::shown(&args.source)
            );
            return Err(Failure::new(ExitCode::Invalid, message));
        }
    };
    measure(texts, source, args, tokenizer, reporter).map(Some)
}

/// # Errors
/// If no export of `args` uses an importance matrix.
fn has_effect(args: &ExportArgs) -> Result<()> {
    if !args.to.iter().any(|export| ["gguf", "ollama"].contains(&export.name)) {
        return Err(Failure::new(ExitCode::Usage, "only GGUF models are calibrated\nhint: add `--to gguf`"));
    }
    if !args.types.iter().any(GgufTypes::use_importance) {
        let types = args.types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("a calibration changes nothing in {types}\nhint: add a type such as `--types Q4_K_M`");
        return Err(Failure::new(ExitCode::Usage, message));
    }
    Ok(())
}

/// Texts to calibrate on, with the name under which the importance matrix records them.
enum Texts {
    Sequences(CalibrationTexts, String),
    /// The answers are generated, up to this number of tokens.
    Prompts(Vec<HeldOutPrompt>, usize, String),
}

/// The run's eval split if it has one, otherwise its held-out prompts.
fn of_run(plan: &Plan, source: &Source, tokenizer: &ChatTokenizer, reporter: &mut Reporter) -> Result<Texts> {
    let eval = inputs::prepared(plan, tokenizer, reporter)?.eval;
    if !eval.is_empty() {
        return Ok(Texts::Sequences(calibration_examples(&eval)?, format!("eval split of {}", source.name)));
    }
    match &plan.evaluation.prompts {
        Some(path) => Ok(Texts::Prompts(read_prompts(path)?, plan.evaluation.max_new_tokens, summary::shown(path))),
        None => {
            let message = "the run has no held-out texts to calibrate on: neither an eval split nor `evaluation.prompts`\n\
                           hint: give texts with `--calibrate-on FILE`";
            Err(Failure::new(ExitCode::Invalid, message))
        }
    }
}

/// The texts or conversations of a data file. The audit of training data doesn't apply to them.
fn of_file(
    path: &Path,
    source: &Source,
    tokenizer: &ChatTokenizer,
    reporter: &mut Reporter,
) -> Result<CalibrationTexts> {
    let context = source.base.description().max_position_embeddings;
    let file = toml::Value::from(std::path::absolute(path)?.display().to_string());
    let recipe = format!(
        "base = \".\"\n[data]\ntrain = {file}\nmax_seq_len = {context}\noverflow = \"split\"\nshuffle = false\ncache = false\n"
    );
    let recipe = RecipeFile { path: path.to_owned(), source: recipe };
    let rules = KEYS.iter().filter(|key| key.split().0 == "audit").map(|key| format!("{}=off", key.path));
    let plan = recipe.plan(&rules.collect::<Vec<_>>())?;
    let texts = calibration_examples(&inputs::prepared(&plan, tokenizer, reporter)?.train)?;
    let longest = context.min(LONGEST);
    let sequences = texts.sequences.iter().flat_map(|text| text.chunks(longest)).map(<[u32]>::to_vec).collect();
    Ok(CalibrationTexts { sequences, ..texts })
}

/// Runs the model, with the adapter if there is one, on the texts.
fn measure(
    texts: Texts,
    source: &Source,
    args: &ExportArgs,
    tokenizer: &ChatTokenizer,
    reporter: &mut Reporter,
) -> Result<Importance> {
    let compute = inputs::compute(args.device.device, 0, reporter)?;
    let mut loading = |done, total| reporter.phase("loading the base model", done, total);
    let mut session = Session::load(&source.base, inputs::as_stored(&source.base), &compute, &mut loading)?;
    if let Some(adapter) = &source.adapter {
        session.attach(adapter)?;
    }
    let (texts, dataset) = match texts {
        Texts::Sequences(texts, name) => (texts, name),
        Texts::Prompts(prompts, max_new_tokens, name) => {
            let mut answering = |done, total| reporter.phase("answering the held-out prompts", done, total);
            let texts = session.answered(tokenizer, &prompts, max_new_tokens, &mut answering)?;
            session.take_notices().iter().for_each(|notice| reporter.note(notice));
            (texts, name)
        }
    };
    let mut calibrating = |done, total| reporter.phase("calibrating (tokens)", done, total);
    let mut importance = session.importance(&texts.sequences, true, &mut calibrating)?;
    reporter.clear();
    reporter.note(&format!("calibrated on {dataset}: {texts}"));
    importance.datasets = vec![dataset];
    Ok(importance)
}
