//! The inputs of a plan: base model, tokenizer, data, held-out prompts.
//!
//! Responsible for: opening all of them and collecting every fault. `check` ends here, `train` continues.
//! Must not depend on: run directories.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use jiff::Zoned;
use tonfall_adapters::{
    BaseKind, BaseModel, ChatSettings, HubOrigin, OtherTemplate as OtherFile, SpecialToken, read_text,
};
use tonfall_datasets::{ChatTokenizer, HeldOutPrompt, OtherTemplate, Phase, PreparedDataset, Progress};
use tonfall_datasets::{Sampler, TokenizerSpec, prepare, read_prompts};
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{Base, Quantization, Severity, Variable};
use tonfall_trainer::estimate::Workload;
use tonfall_trainer::{Compute, DeviceChoice, DeviceKind, RunLength, adapter_start, preflight};

use crate::allocator;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::hub::{Hub, HubName};
use crate::progress::Reporter;
use crate::template_variables;
use crate::user_cache;

/// The inputs of training, besides the plan.
pub(crate) struct Inputs {
    pub(crate) base: BaseModel,
    pub(crate) tokenizer: ChatTokenizer,
    pub(crate) chat: ChatSettings,
    pub(crate) data: PreparedDataset,
    pub(crate) prompts: Vec<HeldOutPrompt>,
}

impl Inputs {
    /// The memory workload of `plan`. The memory that this process uses now counts as that of the program itself.
    pub(crate) fn workload(&self, plan: &Plan, device: DeviceKind) -> Result<Workload> {
        let adapter = adapter_start(plan, None);
        Ok(Workload::new(plan, &self.base, &self.data, (&self.tokenizer, &self.prompts), device, 1, adapter)?)
    }

    /// Checks everything that can be known before training, for `processes` processes that train together. The failure
    /// lists all faults.
    pub(crate) fn preflight(&self, plan: &Plan, processes: usize) -> Result<RunLength> {
        preflight(plan, &self.base, &self.data, (&self.tokenizer, &self.prompts), processes).map_err(|faults| {
            let faults = faults.into_iter().map(Failure::from).collect();
            Failure::all(faults).unwrap_or_else(|| unreachable!("an error has at least one fault"))
        })
    }

    /// The number of steps of the run.
    pub(crate) fn length(&self, plan: &Plan, processes: usize) -> RunLength {
        RunLength::of(plan, Sampler::new(&self.data.train, plan, processes).steps_per_epoch())
    }
}

/// Opens all inputs; the failure lists all faults that could be found.
pub(crate) fn open(plan: &Plan, reporter: &mut Reporter) -> Result<Inputs> {
    open_at(plan, &Zoned::now(), reporter)
}

/// Like [`open`]; `now` is the time that `strftime_now` of a chat template returns.
pub(crate) fn open_at(plan: &Plan, now: &Zoned, reporter: &mut Reporter) -> Result<Inputs> {
    let mut faults = Vec::new();
    let prompts =
        plan.evaluation.prompts.as_deref().map_or(Ok(Vec::new()), |path| read_prompts(path).map_err(Failure::from));
    let base = model(&plan.base, plan.allow_download, reporter);
    let chat_template = plan.data.chat_template.as_deref();
    let tokenizer = base.as_ref().ok().map(|base| tokenizer_at(base, chat_template, Some(now.clone())));
    let variables = &plan.data.template_variables;
    let tokenizer = tokenizer.map(|made| made.map(|made| made.with_template_variables(variables)));
    let data = match &tokenizer {
        Some(Ok(tokenizer)) => Some(data(plan, tokenizer, reporter)),
        _ => None,
    };
    let base = kept(Some(base), &mut faults);
    let tokenizer = kept(tokenizer, &mut faults);
    let data = kept(data, &mut faults);
    let prompts = kept(Some(prompts), &mut faults);
    match (base, tokenizer, data, prompts) {
        (Some(base), Some(tokenizer), Some(data), Some(prompts)) => {
            allocator::give_back();
            let chat = chat_settings(&base, chat_template, variables, &tokenizer)?;
            Ok(Inputs { base, tokenizer, chat, data, prompts })
        }
        _ => Err(Failure::all(faults).unwrap_or_else(|| unreachable!("what is missing left a fault"))),
    }
}

fn kept<T>(result: Option<Result<T>>, faults: &mut Vec<Failure>) -> Option<T> {
    match result? {
        Ok(value) => Some(value),
        Err(fault) => {
            faults.push(fault);
            None
        }
    }
}

/// Opens the device that the user chose; prints a note if it opens another device.
pub(crate) fn compute(choice: DeviceChoice, local_rank: usize, reporter: &mut Reporter) -> Result<Compute> {
    let compute = Compute::open(choice, local_rank)?;
    if let Some(notice) = compute.notice() {
        reporter.note(notice);
    }
    reporter.detail(&format!("computing on {}", compute.name()));
    Ok(compute)
}

/// Opens a base model by path or by `hf:` name.
pub(crate) fn model(base: &Base, allow_download: bool, reporter: &mut Reporter) -> Result<BaseModel> {
    let (path, origin) = match base {
        Base::Local(path) => (path.clone(), None),
        Base::Hub(name) => {
            let name = HubName::parse(name)?;
            let mut progress =
                |file: &str, done: u64, total: u64| reporter.phase(&format!("downloading {file}"), done, total);
            let path = Hub::from_env().resolve(&name, allow_download, &mut progress)?;
            (path, Some(HubOrigin { name: name.repo, revision: name.revision }))
        }
    };
    reporter.detail(&format!("base model {}", path.display()));
    let base = BaseModel::open(&path)?;
    Ok(match origin {
        Some(origin) => base.with_origin(origin),
        None => base,
    })
}

/// Prepares the data of a plan, and prints warnings about it.
pub(crate) fn data(plan: &Plan, tokenizer: &ChatTokenizer, reporter: &mut Reporter) -> Result<PreparedDataset> {
    let prepared = prepared(plan, tokenizer, reporter)?;
    reporter.detail(prepared.report.to_string().trim_end());
    let findings = prepared.report.findings.of(Severity::Warn, &plan.audit);
    for warning in prepared.report.notes().iter().chain(&findings) {
        reporter.note(&format!("warning: {warning}"));
    }
    Ok(prepared)
}

/// Prepares the data of a plan.
pub(crate) fn prepared(plan: &Plan, tokenizer: &ChatTokenizer, reporter: &mut Reporter) -> Result<PreparedDataset> {
    let shared = Mutex::new(&mut *reporter);
    let progress = |Progress { phase, done, total }: Progress| {
        let name = match phase {
            Phase::Looking => "looking for prepared data (KiB)",
            Phase::Preparing => "preparing the data (KiB)",
        };
        if let Ok(mut reporter) = shared.lock() {
            reporter.phase(name, done.div_ceil(1024), total.div_ceil(1024));
        }
    };
    let prepared = prepare(plan, tokenizer, user_cache::own("datasets").as_deref(), &progress)?;
    reporter.clear();
    Ok(prepared)
}

/// The tokenizer of a base model, checked against the base. The file `chat_template` replaces the base's template.
pub(crate) fn tokenizer(base: &BaseModel, chat_template: Option<&Path>) -> Result<ChatTokenizer> {
    tokenizer_at(base, chat_template, None)
}

/// Like [`tokenizer`]; `now` is the time that `strftime_now` of the template returns, `None` for the current time.
fn tokenizer_at(base: &BaseModel, chat_template: Option<&Path>, now: Option<Zoned>) -> Result<ChatTokenizer> {
    let files = base.tokenizer()?;
    let others = files.other_templates.into_iter();
    let mut others: Vec<OtherTemplate> =
        others.map(|OtherFile { place, source, with_tools }| OtherTemplate { place, source, with_tools }).collect();
    let template = match chat_template {
        Some(path) => {
            let own = files.chat_template.into_iter();
            let own = own.map(|source| OtherTemplate { place: "the base's own".to_owned(), source, with_tools: false });
            others.splice(0..0, own);
            Some(template_source(path)?)
        }
        None => files.chat_template,
    };
    let description = base.description();
    let content = |token: &Option<SpecialToken>| token.as_ref().map(|token| token.content.clone());
    let mut stop_ids = description.eos_token_ids.clone();
    stop_ids.extend(files.eot.as_ref().map(|token| token.id));
    Ok(ChatTokenizer::new(TokenizerSpec {
        chat_template: template,
        other_templates: others,
        bos_token: content(&files.bos),
        eos_token: content(&files.eos),
        pad_token: content(&files.pad),
        unk_token: content(&files.unk),
        add_bos: files.add_bos.unwrap_or(false),
        stop_ids,
        vocab_size: description.vocab_size,
        now,
        tokenizer_json: files.tokenizer_json,
        template_place: chat_template.map(|path| format!("chat template {}", path.display())),
    })?)
}

/// The quantization that keeps the stored numbers: native blocks for GGUF, NF4 for a quantized directory.
pub(crate) fn as_stored(base: &BaseModel) -> Quantization {
    match base.kind() {
        BaseKind::Gguf => Quantization::Native,
        BaseKind::HuggingFace if base.is_quantized() => Quantization::Nf4,
        BaseKind::HuggingFace => Quantization::None,
    }
}

/// The source of a chat template from a recipe or an adapter.
fn template_source(path: &Path) -> Result<String> {
    let bytes = read_text(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("{}: the chat template is not valid UTF-8: {}", path.display(), error.utf8_error());
        Failure::new(ExitCode::Invalid, message)
    })
}

/// The chat settings of an export: the template if the run changes that of the base, and the tokens that end a turn.
pub(crate) fn chat_settings(
    base: &BaseModel,
    chat_template: Option<&Path>,
    variables: &BTreeMap<String, Variable>,
    tokenizer: &ChatTokenizer,
) -> Result<ChatSettings> {
    let own = chat_template.map(template_source).transpose()?;
    let template = match own {
        None if !variables.is_empty() => base.tokenizer()?.chat_template,
        own => own,
    };
    let template = template.map(|source| template_variables::set_before(&source, variables));
    Ok(ChatSettings { template, end_tokens: tokenizer.stop_ids() })
}
