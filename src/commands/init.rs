//! `tonfall init DIR --base MODEL --data FILE`: a commented recipe that fits the base and the data.
//!
//! Responsible for: the values that can be seen from both. The text is the schema's own.

use std::path::PathBuf;

use tonfall_adapters::BaseKind;
use tonfall_datasets::PreparedDataset;
use tonfall_durable as durable;
use tonfall_recipes::RecipeFile;
use tonfall_recipes::plan::Base;
use tonfall_recipes::recipe_text::commented_recipe;
use tonfall_runs::numbers::grouped;

use crate::args::Init;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs;
use crate::output;
use crate::progress::Reporter;
use crate::summary;

/// Share of the rows that is held out when there are rows enough for it.
const HELD_OUT: f64 = 0.1;
const ENOUGH_ROWS: usize = 50;
/// `data.max_seq_len` is at least so long, for rows to come.
const ROOM: usize = 128;

pub(crate) fn run(args: &Init, reporter: &mut Reporter) -> Result<()> {
    let path = args.dir.join("recipe.toml");
    if path.exists() {
        let message = format!("{} exists already and is not overwritten; give another directory", path.display());
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let named = absolute(Base::from(args.base.clone()));
    let base = inputs::model(&named, false, reporter)?;
    let tokenizer = inputs::tokenizer(&base, None)?;
    let model = base.description();
    let context = model.max_position_embeddings;

    // First with room for everything, to see how long the rows are.
    let seen = {
        let plan = RecipeFile { path: path.clone(), source: recipe(args, &named, &base, context, false) }.plan(&[])?;
        inputs::data(&plan, &tokenizer, reporter)?
    };
    let longest = seen.report.longest as usize;
    let room = longest.next_power_of_two().max(ROOM).min(context);
    let text = recipe(args, &named, &base, room, seen.train.len() >= ENOUGH_ROWS);
    let written = RecipeFile { path: path.clone(), source: header(model, &seen) + &text };
    written.plan(&[])?;

    durable::create_dir_all(&args.dir)?;
    durable::write_file(&path, written.source.as_bytes())?;
    reporter.clear();
    let place = summary::shown(&path);
    output::data(&format!("{place}\n\nnext\n  tonfall check {place}\n  tonfall train {place}"))?;
    Ok(())
}

/// The schema's commented recipe with what is known.
fn recipe(args: &Init, named: &Base, base: &tonfall_adapters::BaseModel, max_seq_len: usize, hold_out: bool) -> String {
    let data = std::path::absolute(&args.data).unwrap_or_else(|_| args.data.clone());
    let quantization = if base.kind() == BaseKind::Gguf { "native" } else { "nf4" };
    let mut values = vec![
        ("base", named.to_string().into()),
        ("quantization", quantization.into()),
        ("data.train", data.to_string_lossy().as_ref().into()),
        ("data.max_seq_len", (max_seq_len as i64).into()),
    ];
    if hold_out {
        values.push(("data.eval_fraction", HELD_OUT.into()));
    }
    commented_recipe(&values)
}

/// What was seen, as comments.
fn header(model: &tonfall_adapters::ModelDescription, seen: &PreparedDataset) -> String {
    let format = seen.report.files.first().map_or("", |file| file.format.as_str());
    format!(
        "# base: {:?}, {} layers, {} tokens in the vocabulary, context of {}\n\
         # data: {} rows ({format}), {} tokens, {} of them learned, {} in the longest row\n",
        model.family,
        model.num_hidden_layers,
        grouped(model.vocab_size as u64),
        grouped(model.max_position_embeddings as u64),
        grouped(seen.report.rows),
        grouped(seen.report.tokens),
        grouped(seen.report.trained_tokens),
        grouped(seen.report.longest),
    )
}

/// A base that means the same from the recipe's directory.
fn absolute(base: Base) -> Base {
    match base {
        Base::Local(path) => {
            Base::Local(std::path::absolute(&path).unwrap_or_else(|_: std::io::Error| PathBuf::from(&path)))
        }
        hub => hub,
    }
}
