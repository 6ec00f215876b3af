//! Tokens per second of generation, for `benches/generation.py`.
//!
//! Usage: `generation MODEL PROMPT_TOKENS NEW_TOKENS PROMPTS`. Loads the model as it is stored and waits for lines on
//! stdin; each of them answers PROMPTS random prompts at a time. Prints one JSON line for each: seconds of the whole, and,
//! for a single prompt, seconds until its first token.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tonfall_adapters::BaseModel;
use tonfall_recipes::plan::Quantization;
use tonfall_trainer::{Compute, Sampling, Session, memory};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, numbers @ ..] = arguments.as_slice() else {
        bail!("usage: generation MODEL PROMPT_TOKENS NEW_TOKENS PROMPTS")
    };
    let numbers = numbers.iter().map(|number| Ok(number.parse()?)).collect::<Result<Vec<usize>>>()?;
    let [tokens, new, count] = numbers[..] else { bail!("three numbers: PROMPT_TOKENS NEW_TOKENS PROMPTS") };
    let model = BaseModel::open(Path::new(path)).context("opening the model")?;
    let quantization = if path.ends_with(".gguf") { Quantization::Native } else { Quantization::None };
    let session = Session::load(&model, quantization, &Compute::cpu(), &mut |_, _| ())?;
    let vocabulary = session.vocab_size();
    // The same ids in every round, and other ids for every prompt.
    let id = |prompt: usize, place: usize| ((prompt * 7919 + place * 104_729 + place * place * 31) % vocabulary) as u32;
    let prompts: Vec<Vec<u32>> =
        (0..count).map(|prompt| (0..tokens).map(|place| id(prompt, place)).collect()).collect();
    let sampling = Sampling::greedy(new);
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let started = Instant::now();
        let (mut first, mut generated) = (None, 0);
        if let [prompt] = &prompts[..] {
            let mut on_token = |_| {
                first.get_or_insert_with(|| started.elapsed().as_secs_f64());
            };
            generated += session.generate(false, prompt, &[], &sampling, &mut on_token)?.len();
        } else {
            let answers = session.answers(false, &prompts, &[], &sampling, &mut |_, _| ())?;
            generated += answers.iter().map(|answer| answer.tokens.len()).sum::<usize>();
        }
        let seconds = started.elapsed().as_secs_f64();
        ensure!(generated == count * new, "{generated} of {} tokens", count * new);
        let first = first.map_or("null".to_owned(), |seconds| seconds.to_string());
        let peak = memory::peak_rss().unwrap_or(0);
        writeln!(out, "{{\"seconds\": {seconds}, \"first\": {first}, \"peak\": {peak}}}")?;
    }
    Ok(())
}
