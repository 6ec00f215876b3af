//! `tonfall verify ARTEFACT [--server URL]`: whether an artefact, or the server that runs it, answers like the trained model.
//!
//! Responsible for: comparing greedy generations with those in `verify.json`, which an export writes.

use std::path::Path;

use serde_json::json;
use tonfall_adapters::export::{is_gguf_adapter, read_gguf_adapter};
use tonfall_adapters::peft::{self, Adapter};
use tonfall_adapters::{BaseModel, Format};
use tonfall_recipes::plan::Base;
use tonfall_serving::compare::{self, Difference, Expected, Summary};
use tonfall_serving::{Completion, Offer, Prompt as Input, Server, ToTokenize};
use tonfall_trainer::{Sampling, Session};

use crate::args::Verify;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs;
use crate::output;
use crate::progress::Reporter;
use crate::served_model;
use crate::summary;
use crate::verification::{Prompt, Turn, Verification};

/// One comparison over all prompts.
struct Outcome {
    /// What was asked.
    what: String,
    summary: Summary,
    at_least: usize,
}

pub(crate) fn run(args: &Verify, reporter: &mut Reporter) -> Result<i32> {
    let is_file = args.artefact.is_file();
    let dir = if is_file { args.artefact.parent().unwrap_or(Path::new("")) } else { &args.artefact };
    let verification = Verification::read(dir)?;
    let outcomes = match &args.server.server {
        Some(url) => of_server(args, url, &verification)?,
        None => {
            let only = args.artefact.file_name().filter(|_| is_file).map(|name| name.to_string_lossy().into_owned());
            let chosen = verification.artefacts.iter().map(|verified| verified.artefact.clone());
            let chosen: Vec<String> = chosen.filter(|name| only.as_ref().is_none_or(|only| only == name)).collect();
            let mut outcomes = Vec::new();
            for name in chosen {
                let path = if name == "." { dir.to_owned() } else { dir.join(&name) };
                outcomes.push(of_file(args, &path, &verification, reporter)?);
            }
            outcomes
        }
    };
    print(args, &outcomes)?;
    match outcomes.iter().all(|outcome| outcome.summary.equal >= outcome.at_least) {
        true => Ok(ExitCode::Done.number()),
        false => Ok(ExitCode::GateFailed.number()),
    }
}

fn print(args: &Verify, outcomes: &[Outcome]) -> Result<()> {
    if args.json {
        let rows = outcomes.iter().map(|Outcome { what, summary, at_least }| {
            json!({ "asked": what, "equal": summary.equal, "of": summary.total, "at_least": at_least, "first_difference": summary.first })
        });
        return Ok(output::json(&json!({ "artefact": args.artefact, "comparisons": rows.collect::<Vec<_>>() }))?);
    }
    for Outcome { what, summary, at_least } in outcomes {
        output::data(&format!("{what}: {summary} (at least {at_least})"))?;
    }
    Ok(())
}

/// Generates with the artefact itself.
fn of_file(args: &Verify, path: &Path, verification: &Verification, reporter: &mut Reporter) -> Result<Outcome> {
    let compute = inputs::compute(args.device.device, 0, reporter)?;
    let (model, adapter) = open(args, path, reporter)?;
    let mut progress = |done, total| reporter.phase("loading the model", done, total);
    let mut session = Session::load(&model, inputs::as_stored(&model), &compute, &mut progress)?;
    if let Some(adapter) = &adapter {
        session.attach(adapter)?;
    }
    let sampling = Sampling::greedy(verification.max_new_tokens);
    let prompts: Vec<Vec<u32>> = verification.prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
    let mut asking = |done, total| reporter.phase("asking the artefact", done, total);
    let answers = session.answers(adapter.is_some(), &prompts, &verification.end_tokens, &sampling, &mut asking)?;
    session.take_notices().iter().for_each(|notice| reporter.note(notice));
    let pairs = verification.prompts.iter().zip(&answers);
    let differences: Vec<_> = pairs.map(|(prompt, found)| compare::tokens(&prompt.expected, &found.tokens)).collect();
    reporter.clear();
    // An adapter on a quantised base is compared with the same base.
    let is_exact = adapter.is_some() || model.formats().all(Format::is_dense);
    let all = if is_exact { differences.len() } else { 0 };
    Ok(Outcome {
        what: summary::shown(path),
        summary: Summary::of(differences),
        at_least: args.at_least.unwrap_or(all),
    })
}

/// The model, or the adapter and its base.
fn open(args: &Verify, path: &Path, reporter: &mut Reporter) -> Result<(BaseModel, Option<Adapter>)> {
    let named = || -> Result<Base> {
        let of_config = peft::read_config(path).ok().and_then(|config| config.base_model_name_or_path);
        let named = args.base.clone().or(of_config).map(Base::from);
        named.ok_or_else(|| Failure::new(ExitCode::Usage, "an adapter needs its base: give it with --base MODEL"))
    };
    if peft::is_adapter(path) {
        let base = inputs::model(&named()?, false, reporter)?;
        return Ok((base, Some(peft::read(path)?)));
    }
    if is_gguf_adapter(path) {
        let base = inputs::model(&named()?, false, reporter)?;
        let adapter = read_gguf_adapter(path, &base)?;
        return Ok((base, Some(adapter)));
    }
    Ok((BaseModel::open(path)?, None))
}

/// Asks a running server.
fn of_server(args: &Verify, url: &str, verification: &Verification) -> Result<Vec<Outcome>> {
    let server = Server::at(url)?;
    let model = served_model::choose(args.server.model.as_deref(), &server)?;
    let all = args.at_least.unwrap_or(verification.prompts.len());
    let mut outcomes =
        vec![ask(&server, &model, verification, all, |prompt| (&prompt.expected, &prompt.expected_text))?];
    if let Some(base) = &args.server.base_model {
        outcomes.push(ask(&server, base, verification, all, |prompt| (&prompt.base, &prompt.base_text))?);
    }
    outcomes.extend(template(&server, &model, verification)?);
    Ok(outcomes)
}

fn ask<'a>(
    server: &Server,
    model: &str,
    verification: &'a Verification,
    at_least: usize,
    expected: impl Fn(&'a Prompt) -> (&'a Vec<u32>, &'a String),
) -> Result<Outcome> {
    let limit = verification.max_new_tokens as u32;
    let mut differences: Vec<Option<Difference>> = Vec::new();
    for prompt in &verification.prompts {
        let found: Completion = match server.complete(model, Input::Tokens(&prompt.tokens), limit)? {
            Offer::Given(completion) => completion,
            Offer::NotOffered(_) => match server.complete(model, Input::Text(&prompt.text), limit)? {
                Offer::Given(completion) => completion,
                Offer::NotOffered(not) => return Err(Failure::new(ExitCode::Invalid, not.to_string())),
            },
        };
        let (tokens, text) = expected(prompt);
        let expected = Expected { tokens: tokens.clone(), text: text.clone() };
        differences.push(compare::completion(&expected, &found, &verification.end_tokens));
    }
    let what = format!("{} at {}, model {model}", server.kind(), server.url());
    Ok(Outcome { what, summary: Summary::of(differences), at_least })
}

/// Whether the server's own chat template and tokenizer give the tokens of the training. `None` if it can't be asked.
fn template(server: &Server, model: &str, verification: &Verification) -> Result<Option<Outcome>> {
    let mut differences = Vec::new();
    for prompt in &verification.prompts {
        let message = |turn: &Turn| tonfall_serving::Message { role: turn.role.clone(), content: turn.content.clone() };
        let messages: Vec<_> = prompt.messages.iter().map(message).collect();
        match server.tokenize(model, ToTokenize::Messages(&messages))? {
            Offer::Given(tokens) => differences.push(compare::tokens(&prompt.tokens, &tokens)),
            Offer::NotOffered(_) => return Ok(None),
        }
    }
    let what = format!("{} at {}, tokens of the conversations", server.kind(), server.url());
    let at_least = differences.len();
    Ok(Some(Outcome { what, summary: Summary::of(differences), at_least }))
}
