//! `tonfall init DIR --base MODEL --data FILE`: writes a commented recipe that fits the base and the data.
//!
//! Responsible for: the values that follow from base and data, paths relative to the recipe, and printing the faults
//! that `tonfall check` will report. The recipe is written even if the data is faulty, because the faults are fixed
//! there. Keys and comments come from the schema.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use tonfall_adapters::{BaseKind, BaseModel, ModelDescription};
use tonfall_datasets::{ChatTokenizer, PreparedDataset};
use tonfall_durable as durable;
use tonfall_recipes::plan::Base;
use tonfall_recipes::recipe::FILE_NAME;
use tonfall_recipes::recipe_text::commented_recipe;
use tonfall_recipes::schema::KEYS;
use tonfall_recipes::{Plan, RecipeFile, counted};

use crate::args::Init;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::progress::Reporter;
use crate::{inputs, output, summary};

/// Fraction of the rows to hold out if there are enough rows.
const HELD_OUT: f64 = 0.1;
const ENOUGH_ROWS: usize = 50;
/// Minimum of `data.max_seq_len`, for longer rows that are added later.
const SHORTEST: usize = 128;

pub(crate) fn run(args: &Init, reporter: &mut Reporter) -> Result<()> {
    let path = args.dir.join(FILE_NAME);
    if path.exists() {
        let message = format!("{} exists already and is not overwritten; give another directory", path.display());
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    if !args.data.exists() && !is_pattern(&args.data) {
        let message = format!("--data names a path that does not exist: {}", args.data.display());
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let named = Base::from(args.base.clone());
    let base = inputs::model(&named, args.allow_download, reporter)?;
    let tokenizer = inputs::tokenizer(&base, None)?;
    let model = base.description();
    let context = model.max_position_embeddings;

    let recipe = |max_seq_len: Option<usize>, hold_out: bool| -> Result<RecipeFile> {
        let source = commented_recipe(&values(args, &named, &base, max_seq_len, hold_out)?);
        Ok(RecipeFile { path: path.clone(), source })
    };
    // The first pass finds the longest row, so its `max_seq_len` is the base model's context length.
    let seen = lenient(&recipe(Some(context), false)?, &tokenizer, reporter)?;
    let max_seq_len = seen.as_ref().map(|seen| {
        let longest = seen.report.longest as usize;
        longest.next_power_of_two().max(SHORTEST).min(context)
    });
    let hold_out = seen.as_ref().is_some_and(|seen| seen.train.len() >= ENOUGH_ROWS);
    let mut written = recipe(max_seq_len, hold_out)?;
    let plan = written.plan(&[])?;
    written.source = header(model, seen.as_ref()) + &written.source;

    // The second pass finds the faults that `check` will report.
    let faults = inputs::data(&plan, &tokenizer, reporter).err();
    durable::create_dir_all(&args.dir)?;
    durable::write_file(&path, written.source.as_bytes())?;
    reporter.clear();
    let (place, quoted) = (summary::shown(&path), summary::in_shell(&path));
    if let Some(faults) = &faults {
        let text = faults.render(false, output::stderr_width());
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        reporter.note(&format!("warning: `tonfall check {quoted}` will refuse the data: {text}"));
    }
    let train = if faults.is_none() { format!("\n  tonfall train {quoted}") } else { String::new() };
    output::data(&format!("{place}\n\nnext\n  tonfall check {quoted}{train}"))?;
    Ok(())
}

/// The recipe's values that follow from base and data.
fn values(
    args: &Init,
    named: &Base,
    base: &BaseModel,
    max_seq_len: Option<usize>,
    hold_out: bool,
) -> Result<Vec<(&'static str, toml::Value)>> {
    let named = match named {
        Base::Local(path) => text(relative(&args.dir, path)?)?,
        hub @ Base::Hub(_) => hub.to_string(),
    };
    let quantization = if base.kind() == BaseKind::Gguf { "native" } else { "nf4" };
    let mut values = vec![("base", named.into()), ("quantization", quantization.into())];
    if args.allow_download {
        values.push(("allow_download", true.into()));
    }
    values.push(("data.train", text(relative(&args.dir, &args.data)?)?.into()));
    if let Some(length) = max_seq_len {
        values.push(("data.max_seq_len", (length as i64).into()));
    }
    if hold_out {
        values.push(("data.eval_fraction", HELD_OUT.into()));
    }
    Ok(values)
}

/// Prepares the data with every audit rule off and any number of faulty rows; `None` if that fails too.
fn lenient(recipe: &RecipeFile, tokenizer: &ChatTokenizer, reporter: &mut Reporter) -> Result<Option<PreparedDataset>> {
    let rules = KEYS.iter().filter(|key| key.split().0 == "audit").map(|key| format!("{}=off", key.path));
    let any = ["data.max_bad_rows=1000000000", "data.overflow=truncate", "data.cache=false"].map(str::to_owned);
    let plan: Plan = recipe.plan(&rules.chain(any).collect::<Vec<_>>())?;
    Ok(inputs::prepared(&plan, tokenizer, reporter).ok())
}

/// Facts about base and data, as comments.
fn header(model: &ModelDescription, seen: Option<&PreparedDataset>) -> String {
    let base = format!(
        "# base: {:?}, {}, vocabulary of {}, context of {}\n",
        model.family,
        counted(model.num_hidden_layers as u64, "layer"),
        counted(model.vocab_size as u64, "token"),
        counted(model.max_position_embeddings as u64, "token"),
    );
    let Some(seen) = seen else { return base };
    let formats: BTreeSet<&str> = seen.report.files.iter().map(|file| file.format.as_str()).collect();
    let formats = formats.into_iter().collect::<Vec<_>>().join(", ");
    base + &format!(
        "# data: {} ({formats}), {}, {} with loss, longest row {}\n",
        counted(seen.report.rows, "row"),
        counted(seen.report.tokens, "token"),
        counted(seen.report.trained_tokens, "token"),
        counted(seen.report.longest, "token"),
    )
}

/// Whether a path is a pattern such as `*.jsonl`.
fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

/// The path as UTF-8, which a recipe requires.
fn text(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().map_err(|path| {
        let message = format!("{} is not UTF-8, so a recipe can't name it; rename it or use a link", path.display());
        Failure::new(ExitCode::Invalid, message)
    })
}

/// The path of `target` relative to `folder` if the two share a directory other than the root; otherwise absolute.
/// `folder` need not exist.
fn relative(folder: &Path, target: &Path) -> io::Result<PathBuf> {
    let target = std::path::absolute(target)?;
    let folder = std::path::absolute(folder)?;
    // After a symbolic link, `..` is another directory. So both paths are resolved as far as they exist.
    let from = resolved(&folder)?;
    let to = match target.parent().zip(target.file_name()) {
        Some((parent, name)) => resolved(parent)?.join(name),
        None => return Ok(target),
    };
    let shared = from.components().zip(to.components()).take_while(|(left, right)| left == right).count();
    let is_near = from.components().take(shared).any(|part| matches!(part, Component::Normal(_)));
    if !is_near {
        return Ok(target);
    }
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(to.components().skip(shared)).collect();
    Ok(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path })
}

/// `path` without symbolic links and `..`, as far as it exists.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => match path.parent().zip(path.file_name()) {
            Some((parent, name)) => Ok(resolved(parent)?.join(name)),
            None => Ok(path.to_owned()),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_recipe() {
        let folder = tempfile::tempdir().expect("a directory");
        let root = folder.path();
        durable::create_dir_all(&root.join("data/deep")).expect("made");
        durable::write_file(&root.join("data/train.jsonl"), b"").expect("written");
        let from = |recipe: &str, target: &str| relative(&root.join(recipe), &root.join(target)).expect("a path");
        assert_eq!(from("my-style", "data/train.jsonl"), Path::new("../data/train.jsonl"));
        assert_eq!(from("new/my-style", "data"), Path::new("../../data"));
        assert_eq!(from("data", "data/*.jsonl"), Path::new("*.jsonl"));
        assert_eq!(from("data", "data"), Path::new("."));
        assert_eq!(from("data/deep/..", "data/deep/../train.jsonl"), Path::new("train.jsonl"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root.join("data/deep"), root.join("link")).expect("linked");
            // The parent of the linked folder is `data`.
            assert_eq!(from("link", "data/train.jsonl"), Path::new("../train.jsonl"));
            assert_eq!(relative(Path::new("/nowhere/at/all"), root).expect("a path"), root);
        }
    }
}
