//! Files: which ones are read, and which ones are refused with their name and line.

use std::path::Path;

use polars_arrow::array::{Array, PrimitiveArray};
use proptest::prelude::*;
use serde_json::json;
use tonfall_recipes::plan::{DataFormat, DataPlan, SourcePlan, Split};

use super::parquet_files::{message_lists, parquet, texts};
use super::tiny::{plan, write};
use crate::formats::entry::NoTask;
use crate::formats::format::Layout;
use crate::formats::samples::build;
use crate::formats::tasks::Tasks;
use crate::read::files::DataFile;
use crate::read::rows;
use crate::{DataError, Sample};

/// A row with its only sample.
#[derive(Debug)]
struct Row {
    number: u64,
    sample: Sample,
}

pub(super) fn source(format: DataFormat) -> SourcePlan {
    SourcePlan {
        files: Vec::new(),
        split: Split::Train,
        format,
        columns: std::collections::BTreeMap::new(),
        filter: None,
        weight: 1.0,
        language: None,
        translate_from: None,
        no_answer: None,
    }
}

/// The samples of a file, row by row, up to the first fault.
pub(super) fn samples(path: &Path, source: &SourcePlan) -> Result<Vec<(u64, Sample)>, DataError> {
    let file = DataFile::new(path.to_owned())?;
    let layout = Layout::resolve(&file, source, &[])?;
    let (tasks, mut all) = (Tasks::new(&[]), Vec::new());
    rows::read(&file, None, &mut |chunk| {
        for row in chunk {
            let number = row.number;
            let built = row.parse().and_then(|row| build(&row, &layout, source, &tasks, number));
            let built = built.map_err(|fault| DataError::row(path, number, fault))?;
            if let Some(why) = built.no_task.filter(|why| !matches!(why, NoTask::Foreign { .. })) {
                return Err(DataError::row(path, number, why.to_string()));
            }
            all.extend(built.samples.into_iter().map(|sample| (number, sample)));
        }
        Ok(())
    })?;
    Ok(all)
}

fn read_with(data: &DataPlan, path: &Path) -> Result<Vec<Row>, DataError> {
    let source = SourcePlan { columns: data.columns.clone(), ..source(data.format) };
    let rows = samples(path, &source)?;
    Ok(rows.into_iter().map(|(number, sample)| Row { number, sample }).collect())
}

fn read_lines(text: impl AsRef<[u8]>) -> Result<Vec<Row>, DataError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    read_with(&plan(Vec::new()), &write(folder.path(), "data.jsonl", text))
}

fn messages(row: &Row) -> &[crate::Message] {
    match &row.sample {
        Sample::Conversation(conversation) => &conversation.messages,
        other => panic!("{other:?} is no conversation"),
    }
}

#[test]
fn rows_have_their_line_numbers() {
    let text = "\n{\"text\": \"a\"}\r\n   \n{\"text\": \"b\", \"id\": 7}\n\n{\"id\": null, \"text\": \"c\\u00fc\"}";
    let rows = read_lines(text).expect("three rows");
    let found: Vec<_> = rows.iter().map(|row| (row.number, row.sample.clone())).collect();
    let text = |text: &str| Sample::Text(text.to_owned());
    assert_eq!(found, [(2, text("a")), (4, text("b")), (6, text("cü"))]);
}

#[test]
fn json_values_are_kept_unchanged() {
    let call = |arguments: serde_json::Value| json!([{"function": {"name": "f", "arguments": arguments}}]);
    let first = json!({"messages": [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": call(json!({"z": null, "a": 1, "m": "1"}))},
        {"role": "tool", "content": "{}", "name": "f"},
        {"role": "assistant", "content": "one"},
    ], "tools": [{"type": "function"}]});
    let second = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
        {"role": "assistant", "content": null, "tool_calls": call(json!({"a": "text here, a number above"}))},
        {"role": "assistant", "content": "", "thinking": "hm"},
    ], "tools": "[]"});
    let rows = read_lines(format!("{first}\n{second}\n")).expect("two rows");
    for (row, source) in rows.iter().zip([first, second]) {
        for (message, source) in messages(row).iter().zip(source["messages"].as_array().expect("a list")) {
            let mut source = source.as_object().expect("an object").clone();
            source.shift_remove("role");
            match source.get("content").cloned() {
                Some(content) if content.is_array() => assert_eq!(message.content, "?", "the text of the parts"),
                Some(content) if !message.content.is_empty() => {
                    assert_eq!(content, message.content.as_str());
                    source.shift_remove("content");
                }
                _ => {}
            }
            // Values, nulls, missing keys and the order of keys are unchanged.
            assert_eq!(json!(message.fields).to_string(), json!(source).to_string());
        }
    }
    let tools = |row: &Row| match &row.sample {
        Sample::Conversation(conversation) => conversation.tools.clone(),
        _ => None,
    };
    assert_eq!((tools(&rows[0]), tools(&rows[1])), (Some(json!([{"type": "function"}])), None));
}

#[test]
fn errors_name_the_faulty_line() {
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let deep = format!("{{\"messages\": null, \"x\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&[u8], &str)> = vec![
        (b"{\"messages\": [", "EOF while parsing"),
        (b"[1]", "a list; expected a JSON object"),
        (b"7", "a number; expected a JSON object"),
        (b"{} {}", "trailing characters"),
        (b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}", "not UTF-8: invalid byte at column"),
        (b"{\"other\": 1}", "no column `messages`"),
        (b"{\"messages\": null}", "column `messages` is null"),
        (b"{\"messages\": \"hello\"}", "expected a list"),
        (b"{\"messages\": []}", "`messages` of the row is empty"),
        (b"{\"messages\": [7]}", "message 0: it is a number"),
        (b"{\"messages\": [{\"role\": 7, \"content\": \"a\"}]}", "`role` is a number"),
        (b"{\"messages\": [{\"role\": \"user\", \"content\": 7}]}", "`content` is a number, not text"),
        (b"{\"messages\": [{\"content\": \"a\"}]}", "no `role`"),
        (b"{\"messages\": [{\"role\": \"user\"}]}", "no `content`"),
        (b"{\"messages\": [], \"messages\": []}", "stands twice"),
        (b"{\"messages\": [{\"role\": \"a\", \"role\": \"b\", \"content\": \"\"}]}", "stands twice"),
        (b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "no assistant turn"),
        (b"{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"weight\": 0.5}]}", "`weight` is 0.5"),
        (b"{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}], \"tools\": 3}", "`tools` must be a list"),
        (deep.as_bytes(), "recursion limit"),
    ];
    for (line, expected) in cases {
        let error = read_lines([good.as_bytes(), b"\n\n", line, b"\n", good.as_bytes()].concat()).expect_err(expected);
        let text = error.to_string();
        assert!(text.contains("data.jsonl:3: ") && text.contains(expected), "{text:.300} lacks {expected}");
    }
}

#[test]
fn numbers_are_not_converted_to_text() {
    let error = read_lines("{\"text\": \"a\"}\n{\"text\": 5}\n").expect_err("a number");
    assert!(error.to_string().contains("data.jsonl:2: ") && error.to_string().contains("expected text"), "{error}");
}

#[test]
fn files_that_are_not_data_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let read = |path: &Path| read_with(&plan(Vec::new()), path).expect_err("no data").to_string();
    assert!(read(&folder.path().join("absent.jsonl")).contains("absent.jsonl: No such file"));
    assert!(read(&write(folder.path(), "a.xyz", "text\n")).contains("not a data file"));
    for name in ["empty.jsonl", "empty.parquet"] {
        assert!(read(&write(folder.path(), name, "")).contains("no rows"), "{name}");
    }
    #[cfg(unix)]
    {
        let pipe = folder.path().join("pipe.jsonl");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_err() || read(&pipe).contains("a pipe or a device is no data file"));
    }
    assert!(read(&write(folder.path(), "blank.jsonl", "\n  \n")).contains("no rows"));
}

#[test]
fn the_format_is_detected_or_set_by_the_recipe() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let resolve = |names: &[&str], format| {
        let row: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!("x"))).collect();
        let file = DataFile::new(write(folder.path(), "x.jsonl", json!(row).to_string())).expect("a file");
        Layout::resolve(&file, &source(format), &[]).map(|layout| (layout.format.name, layout.unused))
    };
    let auto = |names: &[&str]| resolve(names, DataFormat::Auto);
    assert_eq!(auto(&["id", "messages"]).expect("one fits"), ("messages", vec!["id".to_owned()]));
    assert_eq!(auto(&["prompt", "completion"]).expect("one fits").0, "prompt_completion");
    assert_eq!(auto(&["prompt", "text"]).expect("one fits").0, "text");
    assert_eq!(auto(&["conversations"]).expect("one fits").0, "sharegpt");
    assert_eq!(auto(&["instruction", "input", "output"]).expect("one fits").0, "alpaca");
    assert_eq!(auto(&["prompt", "chosen", "rejected"]).expect("one fits").0, "preference");
    assert_eq!(auto(&["neutral", "styled"]).expect("one fits").0, "style");
    assert_eq!(auto(&["term", "forbidden"]).expect("one fits").0, "terminology");
    assert_eq!(auto(&["question", "answer", "context"]).expect("other names").0, "prompt_completion");
    assert_eq!(auto(&["instruction", "response"]).expect("other names").0, "alpaca");
    assert_eq!(auto(&["Prompt", "Completion", "System"]).expect("other cases"), ("prompt_completion", Vec::new()));
    let none = auto(&["frage", "antwort"]).expect_err("none fits").to_string();
    assert!(none.contains("`antwort`, `frage`") && none.contains("prompt_completion (prompt, completion)"), "{none}");
    let several = auto(&["text", "messages"]).expect_err("two fit").to_string();
    assert!(several.contains("messages, text"), "{several}");
    assert_eq!(resolve(&["text", "messages"], DataFormat::Text).expect("named").0, "text");
}

#[test]
fn errors_about_a_missing_column_list_the_existing_ones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "a.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n");
    let read = |columns: &[(&str, &str)]| {
        let columns = columns.iter().map(|(field, column)| ((*field).to_owned(), (*column).to_owned())).collect();
        samples(&path, &SourcePlan { columns, ..source(DataFormat::PromptCompletion) })
            .map_err(|error| error.to_string())
    };
    let error = read(&[("prompt", "question")]).expect_err("no completion");
    assert!(error.contains("no column `completion`") && error.contains("`answer`, `question`"), "{error}");
    let error = read(&[("prompt", "question"), ("competion", "answer")]).expect_err("no such field");
    assert!(error.contains("`competion`") && error.contains("prompt, completion"), "{error}");
    let rows = read(&[("prompt", "question"), ("completion", "answer")]).expect("mapped");
    assert_eq!(rows, [(1, Sample::PromptCompletion { prompt: "a".to_owned(), completion: "b".to_owned() })]);
}

#[test]
fn parquet_has_the_same_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lists = message_lists(&[
        &[("user", Some("a")), ("assistant", Some("b"))],
        &[("user", Some("c")), ("tool", None), ("assistant", Some("d"))],
    ]);
    let ids = PrimitiveArray::<i64>::from_slice([1, 2]).boxed();
    let path = parquet(folder.path(), "a.parquet", &["messages", "id"], vec![vec![lists, ids]]);
    let rows = read_with(&plan(Vec::new()), &path).expect("two rows");
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(messages(&rows[0]), [crate::Message::new("user", "a"), crate::Message::new("assistant", "b")]);
    // A null means that the key is absent, except for `content`.
    assert_eq!(json!(messages(&rows[1])[1].fields), json!({"content": null, "count": 3}));
}

#[test]
fn faulty_parquet_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, column: Box<dyn Array>| parquet(folder.path(), "a.parquet", &[name], vec![vec![column]]);
    let path = file("text", texts(&[Some("a"), None]));
    let null = read_with(&plan(Vec::new()), &path).expect_err("a null").to_string();
    assert!(null.contains("a.parquet:2: column `text` is null"), "{null}");

    let whole = std::fs::read(&path).expect("just written");
    for cut in 0..whole.len() {
        let path = write(folder.path(), "cut.parquet", &whole[..cut]);
        let error = read_with(&plan(Vec::new()), &path).expect_err("cut off");
        assert!(error.to_string().contains("cut.parquet"), "{error}");
    }

    let path = file("text", PrimitiveArray::<i64>::from_slice([1, 2]).boxed());
    let numbers = read_with(&plan(Vec::new()), &path).expect_err("numbers").to_string();
    assert!(numbers.contains("a.parquet:1: column `text` is a number, expected text"), "{numbers}");
    let path = file("messages", texts(&[Some("[]"), Some("[]")]));
    let texts = read_with(&plan(Vec::new()), &path).expect_err("texts").to_string();
    assert!(texts.contains("a.parquet:1: `messages` of the row is empty"), "{texts}");
}

#[test]
fn damaged_parquet_never_ends_the_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let talk: &[(&str, Option<&str>)] =
        &[("user", Some("a question")), ("tool", None), ("assistant", Some("an answer"))];
    let columns = vec![message_lists(&[talk, talk]), PrimitiveArray::<i64>::from_slice([1, 2]).boxed()];
    let path = parquet(folder.path(), "a.parquet", &["messages", "id"], vec![columns]);
    let whole = std::fs::read(&path).expect("just written");
    let mut refused = 0;
    for at in 0..whole.len() {
        for damage in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= damage;
            let path = write(folder.path(), "damaged.parquet", bytes);
            // Damage to a value is not detected. All other damage must be an error that names the file.
            if let Err(error) = read_with(&plan(Vec::new()), &path) {
                assert!(error.to_string().contains("damaged.parquet"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > whole.len() / 2, "{refused} of {} damages seen", 3 * whole.len());
}

proptest! {
    #[test]
    fn no_line_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = crate::read::jsonl::parse(&bytes);
        let _ = crate::read::jsonl::parse(&[b"{\"messages\":[{\"role\":\"user\",\"content\":", bytes.as_slice(), b"}]}"].concat());
    }

    #[test]
    fn no_file_makes_the_reader_panic(lines in proptest::collection::vec("\\PC{0,30}|\\{\"text\": *(\"[a-z\\\\\\\\\"\u{0}ü]{0,9}\"|[0-9eE.-]{1,30}|null)\\}", 0..6)) {
        // Every text that is read must equal the text in its line.
        if let Ok(rows) = read_lines(lines.join("\n")) {
            for row in rows {
                let all: Vec<&str> = lines.iter().flat_map(|line| line.split('\n')).collect();
                let line: serde_json::Value = serde_json::from_str(all[row.number as usize - 1]).expect("it was read");
                let Sample::Text(text) = row.sample else { panic!("no text") };
                prop_assert_eq!(line["text"].as_str(), Some(text.as_str()));
            }
        }
    }
}
