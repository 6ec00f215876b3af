//! Evaluation of a base model and of what was trained on it.
//!
//! Responsible for: opening both, asking each of them once, and their reports. `tonfall eval` and nightly runs call this.
//! Must not depend on: how reports are shown, verdicts.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tonfall_adapters::BaseModel;
use tonfall_adapters::peft::{self, Adapter, TENSOR_FILE};
use tonfall_datasets::{
    ChatTokenizer, Examples, HeldOutPrompt, Message as Turn, TermConcept, read_prompts, term_concepts,
};
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{Address, Base, EvaluationPlan, Quantization, StylePlan};
use tonfall_runs::evaluation::{Report, Subject};
use tonfall_runs::events::Phase;
use tonfall_runs::{RunDir, RunInputs};
use tonfall_serving::{Finish, Message, Server};
use tonfall_trainer::{Answered, Asked, Compute, EvalSuite, RETENTION, Session, passages};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::evaluation_cache::{Entry, Found};
use crate::inputs;
use crate::progress::Reporter;
use crate::run_inputs;
use crate::runs::{self, Made};
use crate::summary;

/// File names of reports in the run directory's `eval`.
pub(crate) const BASE_FILE: &str = "base.json";
pub(crate) const TRAINED_FILE: &str = "adapter.json";
pub(crate) const SERVER_FILE: &str = "server.json";

/// Maximum tokens of a passage of the general text.
const PASSAGE: usize = 512;

/// The questions of an evaluation.
pub(crate) struct Questions {
    pub(crate) prompts: Vec<HeldOutPrompt>,
    pub(crate) style: Vec<StylePlan>,
    /// Concepts of the plan's term bases.
    pub(crate) concepts: Vec<TermConcept>,
    pub(crate) address: Address,
    pub(crate) max_new_tokens: usize,
    /// The eval split; empty without one.
    pub(crate) eval: Examples,
    /// Passages of a general text; empty without a tokenizer.
    pub(crate) retention: Examples,
}

/// What was trained on the base.
pub(crate) enum Trained {
    /// The directory of a PEFT adapter.
    Adapter(PathBuf),
    /// The directory of a fully trained model.
    Model(PathBuf),
}

/// Everything that an evaluation needs, opened.
pub(crate) struct Evaluation {
    /// For people.
    pub(crate) name: String,
    pub(crate) base: BaseModel,
    pub(crate) quantization: Quantization,
    pub(crate) tokenizer: ChatTokenizer,
    /// The plan's chat template, which replaces that of the base.
    pub(crate) chat_template: Option<PathBuf>,
    pub(crate) trained: Option<Trained>,
    pub(crate) questions: Questions,
}

/// The reports of an evaluation.
pub(crate) struct Evaluated {
    /// `None` if only a server was asked.
    pub(crate) base: Option<Report>,
    /// The adapter, the fully trained model, or the model of a server.
    pub(crate) trained: Option<Report>,
}

impl Questions {
    /// The questions of a plan. `prompts` replaces the plan's held-out prompts.
    pub(crate) fn of_plan(
        plan: &Plan,
        prompts: Vec<HeldOutPrompt>,
        eval: Examples,
        tokenizer: &ChatTokenizer,
        context: usize,
    ) -> Result<Self> {
        let EvaluationPlan { max_new_tokens, ref retention, address, .. } = plan.evaluation;
        let retention = general_text(retention.as_deref(), tokenizer, context)?;
        let (style, concepts) = (plan.style.clone(), term_concepts(plan)?);
        Ok(Self { prompts, style, concepts, address, max_new_tokens, eval, retention })
    }

    /// The questions without a plan.
    pub(crate) fn of_prompts(prompts: Vec<HeldOutPrompt>, retention: Examples) -> Self {
        let EvaluationPlan { max_new_tokens, address, .. } = EvaluationPlan::default();
        Self {
            prompts,
            style: Vec::new(),
            concepts: Vec::new(),
            address,
            max_new_tokens,
            eval: no_examples(),
            retention,
        }
    }

    pub(crate) fn suite(&self) -> EvalSuite<'_> {
        let Self { prompts, style, concepts, address, max_new_tokens, eval, retention } = self;
        EvalSuite { prompts, style, concepts, address: *address, max_new_tokens: *max_new_tokens, eval, retention }
    }

    fn report(&self, subject: Subject, asked: &Asked, reporter: &mut Reporter) -> Result<Report> {
        let created = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let (report, notices) = self.suite().report(subject, created, asked)?;
        notices.iter().for_each(|notice| reporter.note(&format!("note: {notice}")));
        Ok(report)
    }
}

fn no_examples() -> Examples {
    [].into_iter().collect()
}

/// The passages of a text file or of the built-in text.
fn general_text(path: Option<&Path>, tokenizer: &ChatTokenizer, context: usize) -> Result<Examples> {
    let own = path.map(|path| {
        std::fs::read_to_string(path).map_err(|error| {
            Failure::new(ExitCode::Invalid, format!("`evaluation.retention`: {}: {error}", path.display()))
        })
    });
    let own = own.transpose()?;
    Ok(passages(own.as_deref().unwrap_or(RETENTION), tokenizer, PASSAGE.min(context))?)
}

/// Held-out prompts of a file.
pub(crate) fn prompts(path: Option<&Path>) -> Result<Vec<HeldOutPrompt>> {
    path.map_or(Ok(Vec::new()), |path| Ok(read_prompts(path)?))
}

/// Opens a run: its base, its newest adapter, and the questions of its plan. `prompts` replaces the plan's prompts.
pub(crate) fn of_run(run: &RunDir, prompts_file: Option<&Path>, reporter: &mut Reporter) -> Result<Evaluation> {
    let plan = run.plan()?;
    let trained = match runs::made(run, &plan)? {
        Made::Adapter(path) => Trained::Adapter(path),
        Made::Model(path) => Trained::Model(path),
    };
    let inputs = inputs::open_at(&plan, &run.now()?, reporter)?;
    run_inputs::compare(run, &plan, &inputs, Some(run.path()), true, reporter)?;
    let prompts = match prompts_file {
        Some(path) => read_prompts(path)?,
        None => inputs.prompts,
    };
    of_plan(&plan, run.id().to_owned(), inputs.base, inputs.tokenizer, prompts, inputs.data.eval, Some(trained))
}

/// An evaluation of a plan whose inputs are open.
pub(crate) fn of_plan(
    plan: &Plan,
    name: String,
    base: BaseModel,
    tokenizer: ChatTokenizer,
    prompts: Vec<HeldOutPrompt>,
    eval: Examples,
    trained: Option<Trained>,
) -> Result<Evaluation> {
    let context = base.description().max_position_embeddings;
    let questions = Questions::of_plan(plan, prompts, eval, &tokenizer, context)?;
    let (quantization, chat_template) = (plan.quantization, plan.data.chat_template.clone());
    Ok(Evaluation { name, base, quantization, tokenizer, chat_template, trained, questions })
}

/// Opens a model, or an adapter with its base, without a plan.
pub(crate) fn of_files(
    path: &str,
    base: Option<&str>,
    prompts_file: Option<&Path>,
    reporter: &mut Reporter,
) -> Result<Evaluation> {
    let directory = Path::new(path);
    let (name, trained) = match peft::is_adapter(directory) {
        true => {
            let of_config = peft::read_config(directory).ok().and_then(|config| config.base_model_name_or_path);
            let named = base.map(str::to_owned).or(of_config);
            let missing = || Failure::new(ExitCode::Usage, "an adapter needs its base: give it with --base MODEL");
            (named.ok_or_else(missing)?, Some(Trained::Adapter(directory.to_owned())))
        }
        false => (path.to_owned(), None),
    };
    let base = inputs::model(&Base::from(name), false, reporter)?;
    let tokenizer = inputs::tokenizer(&base, None)?;
    let context = base.description().max_position_embeddings;
    let retention = general_text(None, &tokenizer, context)?;
    let questions = Questions::of_prompts(prompts(prompts_file)?, retention);
    let quantization = inputs::as_stored(&base);
    Ok(Evaluation { name: path.to_owned(), base, quantization, tokenizer, chat_template: None, trained, questions })
}

impl Evaluation {
    /// Asks the base and what was trained on it, and makes their reports. The base's answers come from the directory
    /// `cache` if they are there; otherwise they are stored there.
    ///
    /// # Errors
    /// If a model can't be loaded or asked.
    pub(crate) fn evaluate(
        &self,
        compute: &Compute,
        cache: Option<&Path>,
        reporter: &mut Reporter,
    ) -> Result<Evaluated> {
        let suite = self.questions.suite();
        let of_base = run_inputs::of_model(&self.base, self.chat_template.is_some())?;
        let entry = cache.map(|directory| self.entry(directory, &of_base, compute)).transpose()?;
        let cached = self.cached(entry.as_ref(), reporter);
        let adapter = match &self.trained {
            Some(Trained::Adapter(path)) => Some((peft::read(path)?, path)),
            _ => None,
        };
        let mut session = match (&cached, &adapter) {
            (Some(_), None) => None,
            _ => Some(load(&self.base, self.quantization, compute, reporter)?),
        };
        if let (Some(session), Some((adapter, _))) = (&mut session, &adapter) {
            attach(session, adapter)?;
        }
        let asked_base = match (cached, &session) {
            (Some(asked), _) => *asked,
            (None, Some(session)) => {
                let asked = ask(session, false, &self.tokenizer, &suite, "the base", reporter)?;
                let written = entry.as_ref().map_or(Ok(()), |entry| entry.write(&asked));
                if let Err(why) = written {
                    reporter.note(&format!("warning: the base's answers can't be kept for the next evaluation: {why}"));
                }
                asked
            }
            (None, None) => unreachable!("without cached answers the base is loaded"),
        };
        let base_name = summary::shown(self.base.path());
        let subject = Subject { name: base_name, sha256: of_base.clone() };
        let base = self.questions.report(subject, &asked_base, reporter)?;
        let trained = match (&self.trained, session) {
            (None, _) => None,
            (Some(Trained::Adapter(path)), Some(session)) => {
                let asked = ask(&session, true, &self.tokenizer, &suite, "the adapter", reporter)?;
                let mut sha256 = of_base;
                sha256.record_file("adapter", &path.join(TENSOR_FILE))?;
                Some(self.questions.report(Subject { name: self.name.clone(), sha256 }, &asked, reporter)?)
            }
            (Some(Trained::Adapter(_)), None) => unreachable!("an adapter is attached to its base"),
            (Some(Trained::Model(path)), session) => {
                // Both models together may not fit.
                drop(session);
                let model = BaseModel::open(path)?;
                let session = load(&model, Quantization::None, compute, reporter)?;
                let asked = ask(&session, false, &self.tokenizer, &suite, "the trained model", reporter)?;
                let sha256 = run_inputs::of_model(&model, self.chat_template.is_some())?;
                Some(self.questions.report(Subject { name: self.name.clone(), sha256 }, &asked, reporter)?)
            }
        };
        reporter.clear();
        Ok(Evaluated { base: Some(base), trained })
    }

    /// The cache entry of the base's answers: its fingerprints, its number format, the device, the rendered prompts, the
    /// questions, and the version of tonfall.
    fn entry(&self, directory: &Path, of_base: &RunInputs, compute: &Compute) -> Result<Entry> {
        let mut prompts = Vec::with_capacity(self.questions.prompts.len());
        for prompt in &self.questions.prompts {
            prompts.push(self.tokenizer.render_prompt(&prompt.messages)?);
        }
        let asked = format!("{prompts:?} {:?} {of_base:?}", self.tokenizer.stop_ids());
        let (quantization, questions) = (format!("{:?}", self.quantization), self.questions.suite().questions()?);
        let parts = [env!("CARGO_PKG_VERSION"), compute.name(), &quantization, &questions, &asked];
        Ok(Entry::of(directory, &parts))
    }

    fn cached(&self, entry: Option<&Entry>, reporter: &mut Reporter) -> Option<Box<Asked>> {
        match entry?.read() {
            Found::Asked(asked) if asked.answers.len() == self.questions.prompts.len() => {
                reporter.note("note: the base was asked the same before; its answers come from the cache");
                Some(asked)
            }
            Found::Nothing => None,
            Found::Asked(_) => {
                reporter.note("warning: the cached answers of the base are of other prompts; it is asked again");
                None
            }
            Found::Damaged(why) => {
                reporter.note(&format!(
                    "warning: the cached answers of the base are damaged, so that it is asked again: {why}"
                ));
                None
            }
        }
    }
}

fn load(model: &BaseModel, quantization: Quantization, compute: &Compute, reporter: &mut Reporter) -> Result<Session> {
    let mut progress = |done, total| reporter.phase("loading the model", done, total);
    Ok(Session::load(model, quantization, compute, &mut progress)?)
}

fn attach(session: &mut Session, adapter: &Adapter) -> Result<()> {
    Ok(session.attach(adapter)?)
}

fn ask(
    session: &Session,
    with_adapter: bool,
    tokenizer: &ChatTokenizer,
    suite: &EvalSuite<'_>,
    who: &str,
    reporter: &mut Reporter,
) -> Result<Asked> {
    let mut progress = |phase: Phase, done, total| {
        let what = if phase == Phase::Evaluating { "losses of" } else { "asking" };
        reporter.phase(&format!("{what} {who}"), done, total);
    };
    let asked = session.ask(with_adapter, tokenizer, suite, &mut progress)?;
    session.take_notices().iter().for_each(|notice| reporter.note(notice));
    Ok(asked)
}

/// Asks a model of a server, and makes its report. A server gives no losses, so that these measures are absent.
///
/// # Errors
/// If the server can't be asked.
pub(crate) fn of_server(
    server: &Server,
    model: &str,
    questions: &Questions,
    reporter: &mut Reporter,
) -> Result<Report> {
    let limit = u32::try_from(questions.max_new_tokens).unwrap_or(u32::MAX);
    let mut answers = Vec::with_capacity(questions.prompts.len());
    for (number, prompt) in questions.prompts.iter().enumerate() {
        reporter.phase(&format!("asking {model}"), number as u64, questions.prompts.len() as u64);
        let message = |turn: &Turn| Message { role: turn.role.clone(), content: turn.content.clone() };
        let messages: Vec<Message> = prompt.messages.iter().map(message).collect();
        let completion = server.chat(model, &messages, limit)?;
        answers.push(Answered {
            text: completion.text.trim().to_owned(),
            tokens: completion.tokens.map_or(0, |tokens| tokens.len() as u64),
            ended: completion.finish != Finish::Length,
        });
    }
    reporter.clear();
    let subject = Subject { name: format!("{model} at {}", server.url()), ..Subject::default() };
    questions.report(subject, &Asked { answers, ..Asked::default() }, reporter)
}
