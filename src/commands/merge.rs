//! `tonfall merge RUN|ADAPTER --out DIR`: merges an adapter into its base model.
//!
//! Responsible for: finding adapter, base and chat template. `tonfall_adapters::export` writes and verifies.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tonfall_adapters::export::{self, Artifact, ExportError, ExportSettings, Trained};
use tonfall_adapters::peft::{self, Adapter, AdapterConfig};
use tonfall_adapters::{BaseModel, ChatSettings, TEMPLATE_FILE};
use tonfall_recipes::plan::{Base, Variable};

use crate::args::Merge;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::hub::HubName;
use crate::inputs;
use crate::output;
use crate::progress::Reporter;
use crate::runs::{self, Made};
use crate::signals::{self, Signals};
use crate::summary;

/// The inputs of a merge. `None`: the user must name it, or the base's own is used.
struct Parts {
    adapter: Adapter,
    base: Option<Base>,
    allow_download: bool,
    chat_template: Option<PathBuf>,
    /// Empty if the chat template sets them itself, as an exported one does.
    template_variables: BTreeMap<String, Variable>,
}

/// Returns the exit code: 0, or the code of the signal that stopped the merge.
pub(crate) fn run(args: &Merge, reporter: &mut Reporter) -> Result<i32> {
    if args.out.exists() {
        let message = format!("{} exists already; give a new directory", args.out.display());
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let parts = parts(args)?;
    let base = open_base(args, &parts, reporter)?;
    let chat = chat_settings(&base, &parts, reporter)?;
    let signals = Signals::stop_early()?;
    let mut progress = |done, total| {
        reporter.phase("merging", done, total);
        if signals.received().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let artifact = Artifact { base: &base, trained: Trained::Adapter(&parts.adapter), chat: &chat };
    let export = export::find("safetensors").unwrap_or_else(|| unreachable!("a row of the table"));
    let merged = export.run(&artifact, &ExportSettings::default(), &args.out, &mut progress);
    reporter.clear();
    let report = match (merged, signals.received()) {
        (Err(ExportError::Interrupted), Some(signal)) => {
            output::note("interrupted; nothing was written");
            return Ok(signals::exit_code(signal));
        }
        (merged, _) => merged?,
    };
    for notice in &report.notices {
        reporter.note(&format!("note: {notice}"));
    }
    output::data(&format!("merged, read back and compared: {}", summary::shown(&args.out)))?;
    Ok(ExitCode::Done.number())
}

fn parts(args: &Merge) -> Result<Parts> {
    let exported_template = |adapter: &Path| Some(adapter.join(TEMPLATE_FILE)).filter(|path| path.exists());
    let Some(run) = runs::find(&args.adapter)? else {
        let adapter = peft::read(&args.adapter)?;
        let base = adapter.config.base_model_name_or_path.as_deref().map(|name| named_base(name, &adapter.config));
        let chat_template = exported_template(&args.adapter);
        let template_variables = BTreeMap::new();
        return Ok(Parts { adapter, base, allow_download: false, chat_template, template_variables });
    };
    let plan = run.plan()?;
    match runs::made(&run, &plan)? {
        Made::Adapter(path) => {
            let (chat_template, template_variables) = match exported_template(&path) {
                Some(exported) => (Some(exported), BTreeMap::new()),
                None => (plan.data.chat_template, plan.data.template_variables),
            };
            let (adapter, base) = (peft::read(&path)?, Some(plan.base));
            Ok(Parts { adapter, base, allow_download: plan.allow_download, chat_template, template_variables })
        }
        Made::Model(path) => {
            let message = format!("{} is a whole model already; there is nothing to merge", summary::shown(&path));
            Err(Failure::new(ExitCode::Invalid, message))
        }
    }
}

/// The base that an adapter names: a path if it exists, otherwise a name on the Hub.
fn named_base(name: &str, config: &AdapterConfig) -> Base {
    let hub_name = match &config.revision {
        Some(revision) => format!("{name}@{revision}"),
        None => name.to_owned(),
    };
    match !Path::new(name).exists() && HubName::parse(&hub_name).is_ok() {
        true => Base::Hub(hub_name),
        false => Base::from(name.to_owned()),
    }
}

fn open_base(args: &Merge, parts: &Parts, reporter: &mut Reporter) -> Result<BaseModel> {
    if let Some(given) = &args.base {
        return inputs::model(&Base::from(given.clone()), parts.allow_download, reporter);
    }
    let Some(base) = &parts.base else {
        let message = "the adapter does not name its base model; give it with --base MODEL";
        return Err(Failure::new(ExitCode::Invalid, message));
    };
    let wanted = |hint: &str| {
        Failure::new(
            ExitCode::Invalid,
            format!(
                "the adapter was trained on `{base}`, {hint}\nhint: give its base with --base DIR or --base hf:owner/name"
            ),
        )
    };
    match base {
        Base::Local(path) if !path.exists() => Err(wanted("which is not there")),
        Base::Local(_) => inputs::model(base, parts.allow_download, reporter),
        Base::Hub(_) => inputs::model(base, parts.allow_download, reporter).map_err(|failure| {
            let first = wanted("a model of the Hugging Face Hub");
            Failure::all(vec![first, failure]).unwrap_or_else(|| unreachable!("two failures"))
        }),
    }
}

/// The run's template, and the tokens that end its turns. A base without a usable tokenizer can still be merged.
fn chat_settings(base: &BaseModel, parts: &Parts, reporter: &mut Reporter) -> Result<ChatSettings> {
    let template = parts.chat_template.as_deref();
    match inputs::tokenizer(base, template) {
        Ok(tokenizer) => inputs::chat_settings(base, template, &parts.template_variables, &tokenizer),
        Err(failure) if template.is_some() => Err(failure),
        Err(failure) => {
            reporter.note(&format!("note: end tokens were not checked: {}", failure.message()));
            Ok(ChatSettings::default())
        }
    }
}
