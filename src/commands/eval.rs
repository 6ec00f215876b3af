//! `tonfall eval RUN|MODEL|ADAPTER [--server URL]`: measures a model and its base on the same questions.
//!
//! Responsible for: the files and the table of an evaluation.

use std::path::Path;

use serde_json::json;
use tonfall_durable as durable;
use tonfall_runs::RunDir;
use tonfall_runs::evaluation::{Better, Measure, Report};
use tonfall_runs::numbers::measure as number;
use tonfall_serving::Server;

use crate::args::Eval;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::evaluating::{self, BASE_FILE, Evaluated, Evaluation, Questions, SERVER_FILE, TRAINED_FILE};
use crate::progress::Reporter;
use crate::{inputs, output, runs, served_model, user_cache};

/// Number of answers shown.
const SHOWN: usize = 3;

pub(crate) fn run(args: &Eval, reporter: &mut Reporter) -> Result<()> {
    let run = args.target.as_deref().map(|target| runs::find(Path::new(target))).transpose()?.flatten();
    let evaluation = open(args, run.as_ref(), reporter)?;
    let evaluated = match &args.server.server {
        Some(url) => served(args, url, evaluation, reporter)?,
        None => {
            let mut evaluation = evaluation.ok_or_else(|| Failure::new(ExitCode::Usage, "give a run or a model"))?;
            evaluation.questions.max_new_tokens =
                args.max_new_tokens.map_or(evaluation.questions.max_new_tokens, |tokens| tokens as usize);
            let compute = inputs::compute(args.device.device, 0, reporter)?;
            let cache = user_cache::own("evaluations").filter(|_| !args.no_cache);
            evaluation.evaluate(&compute, cache.as_deref(), reporter)?
        }
    };
    keep(args, run.as_ref(), &evaluated)?;
    let Evaluated { base, trained } = &evaluated;
    if args.json {
        return Ok(output::json(&json!({ "base": base, "trained": trained }))?);
    }
    output::data(&table(base.as_ref(), trained.as_ref(), args.terms))?;
    let samples = samples(base.as_ref(), trained.as_ref());
    if !samples.is_empty() {
        output::data(&format!("\n{}", samples.join("\n\n")))?;
    }
    Ok(())
}

fn open(args: &Eval, run: Option<&RunDir>, reporter: &mut Reporter) -> Result<Option<Evaluation>> {
    let prompts = args.prompts.as_deref();
    match (run, &args.target) {
        (Some(run), _) => evaluating::of_run(run, prompts, reporter).map(Some),
        (None, Some(target)) => evaluating::of_files(target, args.base.as_deref(), prompts, reporter).map(Some),
        (None, None) => Ok(None),
    }
}

/// Asks a server. Without a run or a model, the questions are the prompts alone.
fn served(args: &Eval, url: &str, evaluation: Option<Evaluation>, reporter: &mut Reporter) -> Result<Evaluated> {
    let mut questions = match evaluation {
        Some(evaluation) => evaluation.questions,
        None => Questions::of_prompts(evaluating::prompts(args.prompts.as_deref())?, [].into_iter().collect()),
    };
    if questions.prompts.is_empty() {
        let message = "a server is asked held-out prompts, and there are none: give them with --prompts FILE";
        return Err(Failure::new(ExitCode::Usage, message));
    }
    questions.max_new_tokens = args.max_new_tokens.map_or(questions.max_new_tokens, |tokens| tokens as usize);
    let server = Server::at(url)?;
    let model = served_model::choose(args.server.model.as_deref(), &server)?;
    reporter.note("note: a server gives no losses, so that loss, perplexity and retention are not measured");
    let mut ask = |model: &str| evaluating::of_server(&server, model, &questions, reporter);
    let base = args.server.base_model.as_deref().map(&mut ask).transpose()?;
    Ok(Evaluated { base, trained: Some(ask(&model)?) })
}

/// Writes the reports into the run directory, and the report of the evaluated model to `--out`.
fn keep(args: &Eval, run: Option<&RunDir>, Evaluated { base, trained }: &Evaluated) -> Result<()> {
    if let Some(run) = run {
        let directory = run.eval();
        durable::create_dir_all(&directory)?;
        let files = if args.server.server.is_some() {
            [None, Some(SERVER_FILE)]
        } else {
            [Some(BASE_FILE), Some(TRAINED_FILE)]
        };
        for (file, report) in files.into_iter().zip([base, trained]) {
            if let (Some(file), Some(report)) = (file, report) {
                report.write(&directory.join(file))?;
            }
        }
    }
    match (&args.out, trained.as_ref().or(base.as_ref())) {
        (Some(path), Some(report)) => Ok(report.write(path)?),
        _ => Ok(()),
    }
}

/// One line per measure: name, base, trained, difference, 95 % interval of the last model. Measures that apply to no
/// prompt are left out, and those of single terms unless `terms`.
fn table(base: Option<&Report>, trained: Option<&Report>, terms: bool) -> String {
    let Some(last) = trained.or(base) else { return String::new() };
    let is_shown = |measure: &&Measure| {
        let is_term = ["terms.preferred.", "terms.forbidden.", "termbase.preferred."]
            .iter()
            .any(|prefix| measure.name.starts_with(prefix));
        let before = base.and_then(|base| base.measure(&measure.name)).and_then(Measure::value);
        (terms || !is_term) && (measure.value().is_some() || before.is_some())
    };
    let has_both = base.is_some() && trained.is_some();
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    let head = match (base.is_some(), trained.is_some()) {
        (true, true) => ["measure", "base", "trained", "difference", "95 % interval"],
        _ => ["measure", "", "value", "", "95 % interval"],
    };
    let mut rows = vec![head.map(str::to_owned)];
    for measure in last.measures.iter().filter(is_shown) {
        let before = base.filter(|_| has_both).and_then(|base| base.measure(&measure.name)).and_then(Measure::value);
        let difference = before.zip(measure.value()).map(|(before, after)| {
            let mark = match measure.better {
                Better::Higher if after > before => " better",
                Better::Lower if after < before => " better",
                Better::Neither => "",
                _ if after == before => "",
                _ => " worse",
            };
            let sign = if after > before { "+" } else { "" };
            format!("{sign}{}{mark}", number(after - before))
        });
        let interval = measure.interval.map(|(low, high)| format!("{} to {}", number(low), number(high)));
        rows.push([
            measure.name.clone(),
            if has_both { shown(before) } else { String::new() },
            shown(measure.value()),
            difference.unwrap_or_default(),
            interval.unwrap_or_default(),
        ]);
    }
    let widths: [usize; 5] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let line = |row: &[String; 5]| {
        let [name, base, trained, difference, interval] = row;
        let [w0, w1, w2, w3, _] = widths;
        format!("{name:<w0$}  {base:>w1$}  {trained:>w2$}  {difference:<w3$}  {interval}").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The first prompts with the answers.
fn samples(base: Option<&Report>, trained: Option<&Report>) -> Vec<String> {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some(last) = trained.or(base) else { return Vec::new() };
    let sample = |(index, answer): (usize, &tonfall_runs::evaluation::Answer)| {
        let mut lines = vec![format!("prompt   {}", flat(&answer.prompt))];
        if let (Some(base), Some(_)) = (base, trained) {
            lines.extend(base.answers.get(index).map(|answer| format!("base     {}", flat(&answer.text))));
        }
        let name = if trained.is_some() { "trained" } else { "answer" };
        lines.push(format!("{name:<9}{}", flat(&answer.text)));
        lines.join("\n")
    };
    last.answers.iter().enumerate().take(SHOWN).map(sample).collect()
}
