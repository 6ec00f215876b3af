//! What `merge` and `export` have in common: the run, adapter or model on the command line, and one export of it.
//!
//! Responsible for: finding adapter, base and chat template, progress, and signals. `tonfall_adapters::export` writes and
//! verifies.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tonfall_adapters::export::{
    Artifact, Export, ExportError, ExportSettings, RenderChat, Trained, Unpublished, read_lineage,
};
use tonfall_adapters::peft::{self, Adapter, AdapterConfig};
use tonfall_adapters::{BaseModel, ChatSettings, TEMPLATE_FILE};
use tonfall_datasets::ChatTokenizer;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{Base, Variable};
use tonfall_trainer::{Compute, chat_renderer};

use crate::args::ExportOptions;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::hub::HubName;
use crate::inputs;
use crate::lineage;
use crate::output;
use crate::progress::Reporter;
use crate::runs::{self, Made};
use crate::signals::{self, Signals};
use crate::verifying::{self, Reference};

/// A run, an adapter or a model, with everything that its exports need.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) base: BaseModel,
    pub(crate) adapter: Option<Adapter>,
    chat: ChatSettings,
    /// With the run's chat template. `None` if the base has no usable one.
    pub(crate) tokenizer: Option<ChatTokenizer>,
    lineage: Vec<(String, String)>,
    /// The plan of a run.
    pub(crate) plan: Option<Plan>,
}

/// The inputs of a source. `None`: the user must name it, or the base's own is used.
#[derive(Default)]
struct Parts {
    name: String,
    adapter: Option<Adapter>,
    base: Option<Base>,
    allow_download: bool,
    chat_template: Option<PathBuf>,
    /// Empty if the chat template sets them itself, as an exported one does.
    template_variables: BTreeMap<String, Variable>,
    lineage: Vec<(String, String)>,
    /// The plan of a run.
    plan: Option<Plan>,
}

impl Source {
    /// Opens what is at `path`, and combines it with further adapters.
    pub(crate) fn open(path: &Path, options: &ExportOptions, reporter: &mut Reporter) -> Result<Self> {
        let mut parts = parts(path)?;
        if !options.others.is_empty() || options.weight != 1.0 {
            parts = combined(path, parts, options)?;
        }
        let base = open_base(options.base.as_deref(), &parts, reporter)?;
        let tokenizer = tokenizer(&base, &parts, reporter)?;
        let chat = match &tokenizer {
            Some(tokenizer) => {
                let (template, variables) = (parts.chat_template.as_deref(), &parts.template_variables);
                inputs::chat_settings(&base, template, variables, tokenizer)?
            }
            None => ChatSettings::default(),
        };
        let Parts { name, adapter, lineage, plan, .. } = parts;
        Ok(Self { name, base, adapter, chat, tokenizer, lineage, plan })
    }

    /// Whether there is an adapter to merge.
    pub(crate) fn has_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    /// Writes an export for the directory `out`, and compares it with what `reference` computes. It does not appear there
    /// before it is published. `Break` has the exit code of the signal that stopped it.
    pub(crate) fn export(
        &self,
        export: &Export,
        settings: &ExportSettings,
        out: &Path,
        reference: Option<(&Reference, &Compute)>,
        reporter: &mut Reporter,
    ) -> Result<ControlFlow<i32, Unpublished>> {
        let trained = self.adapter.as_ref().map_or(Trained::Nothing, Trained::Adapter);
        let renderer = self.tokenizer.as_ref().map(chat_renderer);
        let has_template = self.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.template().is_some());
        let render_chat = renderer.as_ref().map(|renderer| renderer as &RenderChat<'_>).filter(|_| has_template);
        let (name, base, chat, lineage) = (&self.name, &self.base, &self.chat, &self.lineage);
        let artifact = Artifact { name, base, trained, chat, lineage, render_chat };
        let signals = Signals::stop_early()?;
        let mut progress = |done, total| {
            reporter.phase(&format!("writing {}", export.name), done, total);
            if signals.received().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let written = export.write(&artifact, settings, out, &mut progress);
        reporter.clear();
        let written = match (written, signals.received()) {
            (Err(ExportError::Interrupted), Some(signal)) => {
                output::note("interrupted; nothing was written");
                return Ok(ControlFlow::Break(signals::exit_code(signal)));
            }
            (written, _) => written?,
        };
        if let Some((reference, compute)) = reference {
            let verification = reference.check(export, written.path(), &self.base, compute, reporter)?;
            verification.write(written.path())?;
            let failures = verification.failures();
            if !failures.is_empty() {
                let kept = refused(out);
                written.keep_as(&kept)?;
                return Err(verifying::failure(export, &failures, &kept));
            }
        }
        Ok(ControlFlow::Continue(written))
    }

    /// What the model computes for its held-out prompts, or for built-in ones.
    ///
    /// # Errors
    /// Also if the base has no usable tokenizer.
    pub(crate) fn reference(
        &self,
        max_new_tokens: usize,
        compute: &Compute,
        reporter: &mut Reporter,
    ) -> Result<Reference> {
        let own;
        let tokenizer = match &self.tokenizer {
            Some(tokenizer) => tokenizer,
            None => {
                own = inputs::tokenizer(&self.base, None)?;
                &own
            }
        };
        let prompts = self.plan.as_ref().and_then(|plan| plan.evaluation.prompts.as_deref());
        let conversations = verifying::conversations(prompts)?;
        let adapter = self.adapter.as_ref();
        Reference::measure(&self.base, adapter, tokenizer, &conversations, max_new_tokens, compute, reporter)
    }
}

/// Makes a written export appear, and shows its notices.
pub(crate) fn publish(written: Unpublished, reporter: &mut Reporter) -> Result<()> {
    for notice in &written.publish()?.notices {
        reporter.note(&format!("note: {notice}"));
    }
    Ok(())
}

/// Where an export is kept that is not as it must be.
pub(crate) fn refused(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".refused");
    out.with_file_name(name)
}

/// The weighted sum of the adapters. Everything else is that of the first; the lineage has that of each.
fn combined(path: &Path, first: Parts, options: &ExportOptions) -> Result<Parts> {
    let mut adapters = Vec::new();
    let mut lineage = Vec::new();
    let mut bases: BTreeMap<String, PathBuf> = BTreeMap::new();
    let (name, base, chat_template) = (first.name.clone(), first.base.clone(), first.chat_template.clone());
    let (allow_download, template_variables) = (first.allow_download, first.template_variables.clone());
    let plan = first.plan.clone();
    let mut all = vec![(path.to_owned(), options.weight, first)];
    for (path, weight) in &options.others {
        all.push((path.clone(), *weight, parts(path)?));
    }
    for (number, (path, weight, parts)) in all.into_iter().enumerate() {
        let Some(adapter) = parts.adapter else {
            let message = format!("{} is no adapter; only adapters can be combined", path.display());
            return Err(Failure::new(ExitCode::Invalid, message));
        };
        adapters.push((adapter, weight));
        lineage.push((format!("adapter{}.weight", number + 1), weight.to_string()));
        for (key, value) in parts.lineage {
            if key == "base_weights" {
                bases.insert(value.clone(), path.clone());
            }
            lineage.push((format!("adapter{}.{key}", number + 1), value));
        }
    }
    if bases.len() > 1 {
        let places: Vec<String> = bases.values().map(|path| path.display().to_string()).collect();
        let message = format!("the adapters were trained on different base models: {}", places.join(", "));
        return Err(Failure::new(ExitCode::Refused, message));
    }
    let adapter = Some(peft::combine(&adapters)?);
    Ok(Parts { name, adapter, base, allow_download, chat_template, template_variables, lineage, plan })
}

fn parts(path: &Path) -> Result<Parts> {
    let name = path.canonicalize().ok().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    let name = name.unwrap_or_else(|| "model".to_owned());
    let Some(run) = runs::find(path)? else {
        return if peft::is_adapter(path) { parts_of_adapter(path, name) } else { Ok(parts_of_model(path, name)) };
    };
    let plan = run.plan()?;
    let (name, allow_download) = (plan.name.clone(), plan.allow_download);
    let parts = Parts { name, allow_download, plan: Some(plan.clone()), ..Parts::default() };
    match runs::made(&run, &plan)? {
        Made::Adapter(path) => {
            // A checkpoint has no lineage of its own.
            let lineage = match read_lineage(&path)? {
                own if own.is_empty() => lineage::of_run(&run, &plan),
                own => own,
            };
            let (chat_template, template_variables) = match exported_template(&path) {
                Some(exported) => (Some(exported), BTreeMap::new()),
                None => (plan.data.chat_template, plan.data.template_variables),
            };
            let adapter = Some(peft::read(&path)?);
            Ok(Parts { adapter, base: Some(plan.base), chat_template, template_variables, lineage, ..parts })
        }
        Made::Model(path) => {
            Ok(Parts { base: Some(Base::Local(path)), lineage: lineage::of_run(&run, &plan), ..parts })
        }
    }
}

fn parts_of_adapter(path: &Path, name: String) -> Result<Parts> {
    let adapter = peft::read(path)?;
    let base = adapter.config.base_model_name_or_path.as_deref().map(|name| named_base(name, &adapter.config));
    let lineage = read_lineage(path)?;
    let chat_template = exported_template(path);
    Ok(Parts { name, adapter: Some(adapter), base, chat_template, lineage, ..Parts::default() })
}

/// A model without an adapter: only its format changes.
fn parts_of_model(path: &Path, name: String) -> Parts {
    Parts { name, base: Some(Base::from(path.display().to_string())), ..Parts::default() }
}

/// The chat template that an export of this program has written next to an adapter.
fn exported_template(adapter: &Path) -> Option<PathBuf> {
    Some(adapter.join(TEMPLATE_FILE)).filter(|path| path.exists())
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

fn open_base(given: Option<&str>, parts: &Parts, reporter: &mut Reporter) -> Result<BaseModel> {
    if let Some(given) = given {
        return inputs::model(&Base::from(given.to_owned()), parts.allow_download, reporter);
    }
    let Some(base) = &parts.base else {
        let message = "the adapter does not name its base model; give it with --base MODEL";
        return Err(Failure::new(ExitCode::Invalid, message));
    };
    if parts.adapter.is_none() {
        return inputs::model(base, parts.allow_download, reporter);
    }
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

/// The tokenizer with the run's chat template. A base without a usable tokenizer can still be merged.
fn tokenizer(base: &BaseModel, parts: &Parts, reporter: &mut Reporter) -> Result<Option<ChatTokenizer>> {
    let template = parts.chat_template.as_deref();
    match inputs::tokenizer(base, template) {
        Ok(tokenizer) => Ok(Some(tokenizer.with_template_variables(&parts.template_variables))),
        Err(failure) if template.is_some() => Err(failure),
        Err(failure) => {
            reporter.note(&format!("note: end tokens were not checked: {}", failure.message()));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use tonfall_adapters::export::{EXPORTS, FILE_TYPES};
    use tonfall_recipes::schema::{Kind, find};

    #[test]
    fn recipes_name_all_exports_and_file_types() {
        let choices = |path: &str| match find(path).expect("a key").kind {
            Kind::Choices(choices) => choices.to_vec(),
            _ => Vec::new(),
        };
        assert_eq!(choices("export.to"), EXPORTS.each_ref().map(|export| export.name));
        let types: Vec<&str> = FILE_TYPES.iter().map(|file_type| file_type.name).chain(["base"]).collect();
        assert_eq!(choices("export.types"), types);
    }
}
