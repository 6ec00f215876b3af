//! `tonfall chat RUN|MODEL`: talk to a model, with and without its adapter.
//!
//! Responsible for: the conversation, with prompts from the terminal or one from the command line.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use tonfall_adapters::{BaseModel, peft};
use tonfall_datasets::{ChatTokenizer, Message};
use tonfall_recipes::plan::{Base, Quantization, Variable};
use tonfall_trainer::{Sampling, Session};

use crate::args::Chat;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs;
use crate::output;
use crate::progress::Reporter;
use crate::run_inputs;
use crate::runs::{self, Made};

/// One side of a comparison: the base, or the base with its adapter.
struct Voice {
    name: &'static str,
    with_adapter: bool,
    history: Vec<Message>,
}

struct Conversation {
    session: Session,
    tokenizer: ChatTokenizer,
    sampling: Sampling,
    voices: Vec<Voice>,
}

pub(crate) fn run(args: &Chat, reporter: &mut Reporter) -> Result<()> {
    let mut conversation = open(args, reporter)?;
    reporter.clear();
    match &args.prompt {
        Some(prompt) => conversation.turn(prompt),
        None => conversation.talk(),
    }
}

/// Loads the model, and the adapter if there is one.
fn open(args: &Chat, reporter: &mut Reporter) -> Result<Conversation> {
    let compute = inputs::compute(args.device.device, 0, reporter)?;
    let Located { base, adapter, quantization, chat_template, template_variables } = locate(args, reporter)?;
    if args.compare && adapter.is_none() {
        return Err(Failure::new(
            ExitCode::Usage,
            "--compare needs an adapter: give a run, or MODEL with --adapter DIR",
        ));
    }
    let tokenizer = inputs::tokenizer(&base, chat_template.as_deref())?.with_template_variables(&template_variables);
    let mut progress = |done, total| reporter.phase("loading the base model", done, total);
    let mut session = Session::load(&base, quantization, &compute, &mut progress)?;
    if let Some(adapter) = &adapter {
        session.attach(adapter)?;
    }
    let system = args.system.iter().map(|text| Message::new("system", text));
    let voice = |name, with_adapter| Voice { name, with_adapter, history: system.clone().collect() };
    let voices = match args.compare {
        true => vec![voice("base", false), voice("adapter", true)],
        false => vec![voice("", adapter.is_some())],
    };
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k.map(|k| k as usize),
        top_p: args.top_p,
        max_new_tokens: args.max_new_tokens as usize,
        seed: args.seed,
    };
    Ok(Conversation { session, tokenizer, sampling, voices })
}

/// The inputs of a conversation.
struct Located {
    base: BaseModel,
    adapter: Option<peft::Adapter>,
    quantization: Quantization,
    /// Replaces the base's template.
    chat_template: Option<PathBuf>,
    template_variables: BTreeMap<String, Variable>,
}

/// Base, quantization and chat template of a run, or of a model as its files define them.
fn locate(args: &Chat, reporter: &mut Reporter) -> Result<Located> {
    let given = args.adapter.as_deref().map(peft::read).transpose()?;
    let Some(run) = runs::find(args.model.as_ref())? else {
        let base = inputs::model(&Base::from(args.model.clone()), false, reporter)?;
        let quantization = inputs::as_stored(&base);
        let (chat_template, template_variables) = (None, Default::default());
        return Ok(Located { base, adapter: given, quantization, chat_template, template_variables });
    };
    let plan = run.plan()?;
    run_inputs::warn_of_changed_template(&run, &plan, reporter)?;
    let made = match given {
        Some(_) => None,
        None => Some(runs::made(&run, &plan)?),
    };
    let (base, quantization) = match &made {
        Some(Made::Model(path)) => (BaseModel::open(path)?, Quantization::None),
        _ => (inputs::model(&plan.base, plan.allow_download, reporter)?, plan.quantization),
    };
    let adapter = match made {
        Some(Made::Adapter(path)) => Some(peft::read(&path)?),
        Some(Made::Model(_)) => None,
        None => given,
    };
    let (chat_template, template_variables) = (plan.data.chat_template, plan.data.template_variables);
    Ok(Located { base, adapter, quantization, chat_template, template_variables })
}

impl Conversation {
    /// Reads prompts line by line until the input ends.
    fn talk(&mut self) -> Result<()> {
        let asks = io::stdin().is_terminal() && io::stderr().is_terminal();
        if asks {
            output::note("Ctrl-D ends the conversation");
        }
        let mut lines = io::stdin().lock().lines();
        loop {
            if asks {
                // The prompt sign is not data, so it goes to stderr, and only to a terminal.
                io::stderr().write_all(b"> ").and_then(|()| io::stderr().flush())?;
            }
            let Some(line) = lines.next() else { return Ok(()) };
            let line = line?;
            if !line.trim().is_empty() {
                self.turn(line.trim())?;
            }
        }
    }

    /// Generates a reply of each side.
    fn turn(&mut self, question: &str) -> Result<()> {
        for index in 0..self.voices.len() {
            if self.voices.len() > 1 {
                output::data(&format!("[{}]", self.voices[index].name))?;
            }
            self.voices[index].history.push(Message::new("user", question));
            let answer = self.answer(index)?;
            self.voices[index].history.push(Message::new("assistant", answer));
            output::data("")?;
        }
        Ok(())
    }

    /// Generates a reply and prints it token by token.
    fn answer(&self, index: usize) -> Result<String> {
        let Voice { with_adapter, history, .. } = &self.voices[index];
        let prompt = self.tokenizer.render_prompt(history)?;
        let mut stream = self.tokenizer.decode_stream();
        let mut problem: Option<Failure> = None;
        let mut write = |text: Option<String>| -> Result<()> { Ok(output::piece(&text.unwrap_or_default())?) };
        let mut on_token = |id: u32| {
            let written = stream.push(id).map_err(Failure::from).and_then(&mut write);
            if let Err(fault) = written {
                problem.get_or_insert(fault);
            }
        };
        let stop_ids = self.tokenizer.stop_ids();
        let ids = self.session.generate(*with_adapter, &prompt, &stop_ids, &self.sampling, &mut on_token)?;
        if let Some(fault) = problem {
            return Err(fault);
        }
        write(stream.finish()?)?;
        Ok(self.tokenizer.decode(&ids)?)
    }
}
