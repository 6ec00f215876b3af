//! Compares rendered chat templates with transformers, and token ids and labels with TRL.
//!
//! Usage: `templates DIR`, where DIR is the output of `tests/reference/template_parity.py`: `cases.jsonl`, `labels.jsonl` and
//! `pairs/`. Prints one line per template. Exits 1 on any difference other than those that [`Pairs`] explains.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tonfall_datasets::{
    ChatTemplate, ChatTokenizer, Conversation, LabelOptions, Message, Rendering, Sample, TokenizerSpec, label_sample,
    prepare,
};
use tonfall_recipes::RecipeFile;
use tonfall_recipes::plan::{Thinking, TrainOn};

/// Results of a template's cases.
#[derive(Default)]
struct Tally {
    same: usize,
    /// Refused by both.
    refused: usize,
    marked: usize,
    tokenized: usize,
    differences: Vec<String>,
}

#[expect(clippy::print_stdout, reason = "prints a report")]
fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("usage: templates DIR")?;
    let folder = Path::new(&folder);
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut tokenizers: HashMap<String, ChatTokenizer> = HashMap::new();
    for line in BufReader::new(File::open(folder.join("cases.jsonl"))?).lines() {
        let case: Value = serde_json::from_str(&line?)?;
        let tally = tallies.entry(text(&case["template"]).to_owned()).or_default();
        if let Err(difference) = compare(&case, tally, &mut tokenizers) {
            let prompt = if case["add_generation_prompt"] == true { ", prompt" } else { "" };
            tally.differences.push(format!("{}{prompt}: {difference:#}", text(&case["case"])));
        }
    }
    println!("{:<36} {:>5} {:>8} {:>7} {:>10} {:>7}", "template", "same", "refused", "marked", "tokenized", "differ");
    for (name, tally) in &tallies {
        let Tally { same, refused, marked, tokenized, differences } = tally;
        println!("{name:<36} {same:>5} {refused:>8} {marked:>7} {tokenized:>10} {:>7}", differences.len());
        differences.iter().for_each(|difference| println!("    {difference}"));
    }
    let cases: usize = tallies.values().map(|tally| tally.same + tally.refused).sum();
    let differ: usize = tallies.values().map(|tally| tally.differences.len()).sum();
    println!("{} templates, {cases} cases agree, {differ} differ", tallies.len());
    let labelled = labels(&folder.join("labels.jsonl"), &tokenizers)?;
    println!("{labelled} conversations: token ids and labels equal TRL's (assistant_only_loss)");
    let base = tokenizers.keys().find(|folder| folder.contains("SmolLM2")).context("no tokenizer of SmolLM2")?;
    for name in ["messages", "completion"] {
        let Pairs { same, after, before, across } = pairs(&folder.join("pairs"), name, Path::new(base))?;
        println!(
            "{name}: token ids and labels of {same} prompts and completions equal TRL's (completion_only_loss). Known \
            differences: {after} where TRL also trains the last line break, {before} where TRL doesn't train the first one, \
            and {across} where a token spans prompt and completion"
        );
    }
    if differ > 0 { bail!("templates render differently") } else { Ok(()) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn messages(value: &Value) -> Result<Vec<Message>> {
    let list = value.as_array().context("no list of messages")?;
    list.iter().map(|row| Ok(Message::from_json(row.clone())?)).collect()
}

/// Renders a case, marks the assistant's turns, and tokenizes it.
fn compare(case: &Value, tally: &mut Tally, tokenizers: &mut HashMap<String, ChatTokenizer>) -> Result<()> {
    const NAMES: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];
    let special = NAMES.into_iter().filter_map(|name| Some((name, case["special"].get(name)?.as_str()?.to_owned())));
    let messages = messages(&case["messages"])?;
    let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
    let rendering =
        Rendering { messages: &messages, tools, add_generation_prompt: case["add_generation_prompt"] == true };
    let template = ChatTemplate::new(text(&case["source"]), special.collect(), jiff::Zoned::now());
    let rendered = template
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|template| template.render(rendering).map_err(|error| error.to_string()));
    let (rendered, expected) = match (rendered, case["text"].as_str()) {
        (Err(_), None) => {
            tally.refused += 1;
            return Ok(());
        }
        (Ok(_), None) => bail!("transformers refuses it: {}", text(&case["refused"])),
        (Err(error), Some(_)) => bail!("refused: {error}"),
        (Ok(rendered), Some(expected)) => (rendered, expected),
    };
    if rendered != expected {
        let at = rendered.bytes().zip(expected.bytes()).take_while(|(ours, theirs)| ours == theirs).count();
        let around = |text: &str| {
            let bytes = &text.as_bytes()[at.saturating_sub(20)..(at + 40).min(text.len())];
            String::from_utf8_lossy(bytes).into_owned()
        };
        bail!("byte {at}: {:?} instead of {:?}", around(&rendered), around(expected));
    }
    tally.same += 1;
    // An empty generation block marks no token. transformers lists such blocks, tonfall doesn't.
    let wrote = |range: &&Value| range[0] != range[1];
    let ranges: Option<Vec<Value>> =
        case["generation"].as_array().map(|all| all.iter().filter(wrote).cloned().collect());
    let ranges = ranges.filter(|ranges| !ranges.is_empty());
    if let (Some(ranges), Ok(template)) = (ranges, &template) {
        let (_, marked) = template.render_marked(rendering)?;
        let marked: Vec<Value> = marked.iter().map(|range| Value::from(vec![range.start, range.end])).collect();
        if marked != ranges {
            bail!("generation blocks at {marked:?} instead of {ranges:?}");
        }
        tally.marked += 1;
    }
    let folder = text(&case["tokenizer"]);
    if !tokenizers.contains_key(folder) {
        let bytes = std::fs::read(Path::new(folder).join("tokenizer.json"))?;
        let spec = TokenizerSpec { tokenizer_json: bytes, vocab_size: usize::MAX, ..TokenizerSpec::default() };
        tokenizers.insert(folder.to_owned(), ChatTokenizer::new(spec)?);
    }
    let ids = tokenizers[folder].encode(expected)?;
    if Value::from(ids) != case["input_ids"] {
        bail!("token ids differ");
    }
    tally.tokenized += 1;
    Ok(())
}

/// Counts the conversations, whose token ids and labels must all equal TRL's.
fn labels(path: &Path, tokenizers: &HashMap<String, ChatTokenizer>) -> Result<usize> {
    let mut lines = BufReader::new(File::open(path)?).lines();
    let first: Value = serde_json::from_str(&lines.next().context("labels.jsonl is empty")??)?;
    let folder = tokenizers.keys().find(|folder| folder.contains("SmolLM2")).context("no tokenizer of SmolLM2")?;
    let tokenizer = ChatTokenizer::new(TokenizerSpec {
        tokenizer_json: std::fs::read(Path::new(folder).join("tokenizer.json"))?,
        chat_template: Some(text(&first["template"]).to_owned()),
        eos_token: Some("<|im_end|>".to_owned()),
        vocab_size: usize::MAX,
        ..TokenizerSpec::default()
    })?;
    let options = LabelOptions { train_on: TrainOn::Assistant, thinking: Thinking::Keep };
    let mut count = 0;
    for line in lines {
        let row: Value = serde_json::from_str(&line?)?;
        let sample = Sample::Conversation(Conversation { messages: messages(&row["messages"])?, tools: None });
        let ours = label_sample(&sample, &tokenizer, options)?;
        if Value::from(ours.input_ids) != row["input_ids"] || Value::from(ours.labels) != row["labels"] {
            bail!("conversation {count}: token ids or labels differ: {}", row["messages"]);
        }
        count += 1;
    }
    Ok(count)
}

/// Number of prompts with completions, by their difference from TRL.
#[derive(Default)]
struct Pairs {
    same: usize,
    /// TRL trains all tokens up to the end of the text. tonfall ends the turn with its end token.
    after: usize,
    /// The template's generation block begins with the line break that ends the prompt. TRL doesn't train it.
    before: usize,
    /// TRL's completion begins with the first token that differs from the prompt's tokens. tonfall doesn't train a token that
    /// begins in the prompt, since its first half is given at inference.
    across: usize,
}

/// Prepares `NAME.jsonl` as `tonfall train` does, with the template `NAME.jinja` if it exists, and compares it with TRL.
fn pairs(folder: &Path, name: &str, base: &Path) -> Result<Pairs> {
    let rows = folder.join(format!("{name}.jsonl"));
    let template = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).ok();
    let off = tonfall_recipes::schema::KEYS.iter().filter_map(|key| key.path.strip_prefix("audit."));
    let audit: String = off.map(|rule| format!("{rule} = \"off\"\n")).collect();
    let recipe = format!(
        "base = {base:?}\n[data]\ntrain = {rows:?}\nformat = \"prompt_completion\"\nmax_seq_len = 100000\n[audit]\n{audit}"
    );
    let path = folder.join(format!("{name}.toml"));
    tonfall_durable::write_file(&path, recipe.as_bytes())?;
    let (_, plan) = RecipeFile::load(&path, &[])?;
    let tokenizer = ChatTokenizer::new(TokenizerSpec {
        tokenizer_json: std::fs::read(base.join("tokenizer.json"))?,
        chat_template: template,
        eos_token: Some("<|im_end|>".to_owned()),
        vocab_size: usize::MAX,
        ..TokenizerSpec::default()
    })?;
    let prepared = prepare(&plan, &tokenizer, None, &|_| ())?;
    let expected: Vec<Value> = BufReader::new(File::open(&rows)?)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_>>()?;
    if prepared.train.len() != expected.len() {
        bail!("{name}: only {} of {} rows were prepared", prepared.train.len(), expected.len());
    }
    let mut pairs = Pairs::default();
    for (ours, theirs) in prepared.train.iter().zip(&expected) {
        let row = ours.source.row;
        if Value::from(ours.input_ids.clone()) != theirs["input_ids"] {
            bail!("{name}.jsonl:{row}: token ids differ");
        }
        let labels: Vec<i32> = serde_json::from_value(theirs["labels"].clone())?;
        let range = |labels: &[i32]| {
            let trained = |label: &i32| *label >= 0;
            Some((labels.iter().position(trained)?, labels.iter().rposition(trained)?))
        };
        let ((first, last), (from, to)) = range(&ours.labels)
            .zip(range(&labels))
            .with_context(|| format!("{name}.jsonl:{row}: no token has a loss"))?;
        let (start, end) = (first.max(from), last.min(to) + 1);
        if ours.labels.get(start..end) != labels.get(start..end) {
            bail!("{name}.jsonl:{row}: labels differ");
        }
        match (first as i64 - from as i64, to as i64 - last as i64) {
            (0, 0) => pairs.same += 1,
            (0, 1) => pairs.after += 1,
            (1, 0 | 1) => pairs.across += 1,
            (-1, 0) => pairs.before += 1,
            (before, after) => {
                bail!("{name}.jsonl:{row}: TRL's labels begin {before} tokens earlier and end {after} tokens later")
            }
        }
    }
    Ok(pairs)
}
