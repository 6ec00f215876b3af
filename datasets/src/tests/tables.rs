//! Tables: CSV as spreadsheets write it, Parquet as common writers write it.

use polars_arrow::array::{Array, BinaryViewArray, DictionaryArray, PrimitiveArray};
use polars_arrow::datatypes::{ArrowDataType, TimeUnit};
use proptest::prelude::*;
use serde_json::{Value, json};
use tonfall_recipes::plan::{DataFormat, DataPlan, SourcePlan};

use super::parquet_files::{parquet, texts};
use super::sources::{samples, source};
use super::tiny::{chatml, conversations, plan, with, write};
use crate::read::files::DataFile;
use crate::read::rows;
use crate::{DataError, PreparedDataset, Sample, prepare};

/// The rows of a file with their numbers, up to the first fault.
fn read(name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<(u64, Value)>, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    rows_of(&write(folder.path(), name, bytes), None)
}

fn rows_of(path: &std::path::Path, wanted: Option<&[String]>) -> Result<Vec<(u64, Value)>, String> {
    let file = DataFile::new(path.to_owned()).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    let read = rows::read(&file, wanted, &mut |chunk| {
        for row in chunk {
            let number = row.number;
            all.push((number, Value::Object(row.parse().map_err(|fault| DataError::row(path, number, fault))?)));
        }
        Ok(())
    });
    read.map(|()| all).map_err(|error| error.to_string())
}

fn sample(path: &std::path::Path) -> Result<Vec<(u64, Sample)>, String> {
    samples(path, &source(DataFormat::Auto)).map_err(|error| error.to_string())
}

fn text(text: &str) -> Sample {
    Sample::Text(text.to_owned())
}

#[test]
fn a_separator_line_of_excel_sets_the_delimiter() {
    for first in ["sep=;\r\n", "\"sep=;\"\r\n", "\u{feff}sep=;\n"] {
        let rows = read("a.csv", format!("{first}prompt;completion\r\na,b;c\r\n")).expect("a table");
        assert_eq!(rows, [(3, json!({"prompt": "a,b", "completion": "c"}))], "{first}");
    }
    assert_eq!(
        read("a.csv", "sep=\t\nprompt\ttext\na\tb\n").expect("a table")[0].1,
        json!({"prompt": "a", "text": "b"})
    );
}

#[test]
fn row_numbers_are_lines_with_any_line_end() {
    let expected =
        vec![(2, json!({"a": "1", "b": "x"})), (4, json!({"a": "2", "b": "y\nz"})), (6, json!({"a": "3", "b": "w"}))];
    let table = "a,b\n1,x\n\n2,\"y\nz\"\n3,w\n";
    assert_eq!(read("a.csv", table).expect("a table"), expected);
    let windows = read("a.csv", table.replace('\n', "\r\n")).expect("a table");
    assert_eq!(windows.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 6]);
    assert_eq!(windows[1].1, json!({"a": "2", "b": "y\r\nz"}));
    let error = read("a.csv", "a,b\r\n1,2\r\n3\r\n").expect_err("a cell is missing");
    assert!(error.contains("a.csv:3: 1 cells, the header has 2"), "{error}");
}

#[test]
fn text_after_a_closing_quote_is_a_fault() {
    let error = read("a.csv", "prompt,completion\r\na,b\r\n\"Hello\" he said,b\r\n").expect_err("lost quotes");
    assert!(error.contains("a.csv:3: text after the closing quote in line 3") && error.contains("\"\""), "{error}");
    let quoted = read("a.csv", "prompt,completion\n\"\"\"Hello\"\" he said\",\"b\"\n").expect("a table");
    assert_eq!(quoted[0].1, json!({"prompt": "\"Hello\" he said", "completion": "b"}));
    let error = read("a.csv", "a,b\n1,2\n3,\"4\n5,6\n").expect_err("never closed");
    assert!(error.contains("a.csv:3: a quote that is never closed begins here"), "{error}");
}

#[test]
fn an_empty_cell_of_a_required_column_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "a.csv", "prompt,completion\na,\n");
    let error = sample(&path).expect_err("no completion");
    assert!(error.contains("a.csv:2: the cell in column `completion` is empty"), "{error}");
}

#[test]
fn columns_without_a_name_are_not_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "a.csv", ",,text\n0,7,a\n1,8,b\n");
    assert_eq!(sample(&path).expect("a table"), [(2, text("a")), (3, text("b"))]);
    let data = prepare(&with(plan(vec![path])), &chatml(), None, &|_| ()).expect("two rows");
    assert!(data.report.to_string().contains("; not read: a column without a name"), "{}", data.report);
}

#[test]
fn cells_may_hold_lists() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let forbidden = |name: &str, bytes: &str| {
        let path = write(folder.path(), name, bytes);
        let rows = sample(&path).expect("a term base");
        let asked = rows.into_iter().filter_map(|(_, sample)| match sample {
            Sample::Conversation(talk) => talk.messages[0].content.split(['“', '”']).nth(1).map(str::to_owned),
            _ => None,
        });
        asked.collect::<Vec<_>>()
    };
    let table = "term,forbidden\nguest,\"[\"\"customer\"\", \"\"a|b\"\"]\"\n";
    assert_eq!(forbidden("a.csv", table), ["customer", "a|b"]);
    assert_eq!(forbidden("a.csv", "term,forbidden\nguest,customer | a\\|b|\n"), ["customer", "a|b"]);
    assert_eq!(forbidden("a.csv", "term,forbidden\nguest,[old] client|customer\n"), ["[old] client", "customer"]);
    // In JSON, `|` doesn't separate items: a list is a list, and a text is one text.
    assert_eq!(forbidden("a.jsonl", r#"{"term": "guest", "forbidden": "a|b"}"#), ["a|b"]);
    assert_eq!(forbidden("a.jsonl", r#"{"term": "guest", "forbidden": ["a|b", "c"]}"#), ["a|b", "c"]);
    let path = write(
        folder.path(),
        "b.csv",
        "prompt,completion,documents\nq,a,\"[\"\"x\"\", {\"\"title\"\": \"\"T\"\", \"\"text\"\": \"\"y\"\"}]\"\n",
    );
    let Sample::Conversation(talk) = sample(&path).expect("a table").remove(0).1 else { panic!("no conversation") };
    assert_eq!(talk.messages[0].content, "[1] x\n\n[2] T\ny\n\nq");
}

#[test]
fn dictionaries_and_bytes_are_read_as_texts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = PrimitiveArray::<u32>::from_slice([1, 0, 1]);
    let dictionary =
        DictionaryArray::try_from_keys(keys, texts(&[Some("On Monday."), Some("On Tuesday.")]), false).expect("sound");
    let path = parquet(folder.path(), "a.parquet", &["text"], vec![vec![dictionary.boxed()]]);
    let expected = [(1, text("On Tuesday.")), (2, text("On Monday.")), (3, text("On Tuesday."))];
    assert_eq!(sample(&path).expect("texts"), expected);

    let bytes = |bytes: &[u8]| BinaryViewArray::from_slice([Some(b"On Monday.".as_slice()), Some(bytes)]).boxed();
    let path = parquet(folder.path(), "b.parquet", &["text"], vec![vec![bytes("Grüße".as_bytes())]]);
    assert_eq!(sample(&path).expect("texts"), [(1, text("On Monday.")), (2, text("Grüße"))]);
    let path = parquet(folder.path(), "b.parquet", &["text"], vec![vec![bytes(b"Gr\xfc\xdfe")]]);
    let error = sample(&path).expect_err("Latin-1");
    assert!(error.contains("b.parquet:2: column `text`: bytes that are not UTF-8, invalid at offset 2"), "{error}");
}

/// A file written by pyarrow (`tests/fixtures/parquet/make.py`).
fn fixture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parquet").join(name)
}

#[test]
fn files_of_pyarrow_are_read() {
    let expected = [(1, text("On Monday.")), (2, text("On Tuesday.")), (3, text("On Monday."))];
    assert_eq!(sample(&fixture("dictionary.parquet")).expect("texts"), expected);
    assert_eq!(sample(&fixture("empty_group.parquet")).expect("texts"), [(1, text("a")), (2, text("b"))]);
}

#[test]
fn only_needed_columns_are_read() {
    let path = fixture("other_types.parquet");
    let data = prepare(&with(plan(vec![path.clone()])), &chatml(), None, &|_| ()).expect("two texts");
    let unused = ["half", "wide", "duration", "map", "nothing"];
    assert_eq!(
        (data.train.len(), data.report.files[0].unused_columns.as_slice()),
        (2, unused.map(str::to_owned).as_slice())
    );
    let columns = ["half", "duration", "map", "nothing"].map(str::to_owned);
    let first = json!({"half": 1.0, "duration": 1, "map": [{"key": "k", "value": "v"}], "nothing": null});
    assert_eq!(rows_of(&path, Some(&columns)).expect("two rows")[0].1, first);
    let error = rows_of(&path, Some(&["wide".to_owned()])).expect_err("no such number");
    assert!(error.contains("other_types.parquet: column `wide`"), "{error}");
}

#[test]
fn values_of_other_types_are_converted_to_text() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let milliseconds = |zone: Option<&str>| ArrowDataType::Timestamp(TimeUnit::Millisecond, zone.map(Into::into));
    let columns: Vec<(&str, Box<dyn Array>)> = vec![
        ("date", PrimitiveArray::<i32>::from_slice([-1]).to(ArrowDataType::Date32).boxed()),
        (
            "time",
            PrimitiveArray::<i64>::from_slice([3_661_000_500]).to(ArrowDataType::Time64(TimeUnit::Microsecond)).boxed(),
        ),
        ("moment", PrimitiveArray::<i64>::from_slice([1_500]).to(milliseconds(None)).boxed()),
        ("instant", PrimitiveArray::<i64>::from_slice([0]).to(milliseconds(Some("UTC"))).boxed()),
        ("price", PrimitiveArray::<i128>::from_slice([-1205]).to(ArrowDataType::Decimal(10, 3)).boxed()),
        ("count", PrimitiveArray::<u64>::from_slice([u64::MAX]).boxed()),
        ("share", PrimitiveArray::<f64>::from_slice([0.25]).boxed()),
    ];
    let (names, columns): (Vec<&str>, Vec<_>) = columns.into_iter().unzip();
    let path = parquet(folder.path(), "a.parquet", &names, vec![columns]);
    let expected = json!({
        "date": "1969-12-31", "time": "01:01:01.0005", "moment": "1970-01-01 00:00:01.5",
        "instant": "1970-01-01 00:00:00 UTC", "price": "-1.205", "count": u64::MAX, "share": 0.25,
    });
    assert_eq!(rows_of(&path, None).expect("a row"), [(1, expected)]);
}

#[test]
fn empty_row_groups_and_empty_files_are_skipped() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let group = |rows: &[Option<&str>]| vec![texts(rows)];
    let groups = vec![group(&[Some("a")]), group(&[]), group(&[Some("b"), Some("c")])];
    let path = parquet(folder.path(), "part-0.parquet", &["text"], groups);
    assert_eq!(sample(&path).expect("three texts"), [(1, text("a")), (2, text("b")), (3, text("c"))]);
    let empty = parquet(folder.path(), "part-1.parquet", &["text"], vec![group(&[])]);
    write(folder.path(), "part-2.parquet", "");
    write(folder.path(), "part-3.csv", "text\n");
    write(folder.path(), "part-4.jsonl", "\n");
    let prepared = |path| prepare(&with(plan(vec![path])), &chatml(), None, &|_| ()).map_err(|error| error.to_string());
    let data = prepared(folder.path().to_owned()).expect("three texts");
    assert_eq!((data.train.len(), data.report.empty_files.len()), (3, 4));
    assert!(
        data.report.notes().iter().any(|note| note.starts_with("files without rows: 4 (")),
        "{:?}",
        data.report.notes()
    );
    // A file that the recipe names must have rows. So must a folder as a whole.
    assert!(prepared(empty).expect_err("nothing").contains("part-1.parquet: no rows"));
    std::fs::remove_file(folder.path().join("part-0.parquet")).expect("removed");
    assert!(prepared(folder.path().to_owned()).expect_err("nothing").contains(": no rows"));
}

#[test]
fn row_groups_and_slices_keep_the_order_of_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all: Vec<String> = (0..40_000).map(|index| format!("text {index}")).collect();
    let group = |texts_: &[String]| vec![texts(&texts_.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>())];
    let path = parquet(folder.path(), "a.parquet", &["text"], vec![group(&all[..35_000]), group(&all[35_000..])]);
    let read = rows_of(&path, None).expect("40,000 rows");
    assert_eq!(read.len(), all.len());
    assert!(
        read.iter()
            .zip(&all)
            .enumerate()
            .all(|(index, ((number, row), text))| *number == index as u64 + 1 && row["text"] == text.as_str())
    );
}

fn filtered(path: &std::path::Path, filter: &str) -> Result<PreparedDataset, String> {
    let source =
        SourcePlan { files: vec![path.to_owned()], filter: Some(filter.to_owned()), ..source(DataFormat::Auto) };
    let plan = tonfall_recipes::Plan { source: vec![source], ..with(plan(Vec::new())) };
    prepare(&plan, &chatml(), None, &|_| ()).map_err(|error| error.to_string())
}

#[test]
fn a_filter_with_an_unknown_column_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let table = write(folder.path(), "a.csv", "prompt,completion,rating\na,b,5\nc,d,3\n");
    assert_eq!(filtered(&table, "rating >= 4").expect("one row").train.len(), 1);
    let error = filtered(&table, "rating >= 4 OR ratign = 5").expect_err("a slip");
    assert!(error.contains("there is no column `ratign`; did you mean `rating`?"), "{error}");
    let error = filtered(&table, "quality > 1").expect_err("no such column");
    assert!(error.contains("no column `quality`; the file has `completion`, `prompt`, `rating`"), "{error}");
    let row = |rest: &str| format!("{{\"prompt\": \"q{}\", \"completion\": \"b\"{rest}}}\n", rest.len());
    let lines = write(folder.path(), "a.jsonl", row("") + &row(", \"flagged\": true"));
    assert_eq!(filtered(&lines, "flagged IS NULL").expect("one row").train.len(), 1);
    let error = filtered(&lines, "flaged IS NULL").expect_err("a slip");
    assert!(error.contains("did you mean `flagged`?"), "{error}");
    let error = filtered(&lines, "quality IS NULL").expect_err("no such key");
    assert!(error.contains("no row has the column `quality`"), "{error}");
    let words = write(folder.path(), "b.csv", "prompt,completion,rating\na,b,5\nc,d,good\n");
    let error = filtered(&words, "rating >= 4").expect_err("a word");
    assert!(
        error.contains("b.csv:3: the filter `rating >= 4`: `rating` is \"good\", which is not a number"),
        "{error}"
    );
}

#[test]
fn json_lists_are_read_under_any_file_name() {
    let list = " [\n {\"text\": \"a, ] \\\" }\"},\n\n{\"text\": \"b\"} ]\n";
    let expected = [(1, json!({"text": "a, ] \" }"})), (2, json!({"text": "b"}))];
    for name in ["a.json", "a.jsonl", "a.jsonlines"] {
        assert_eq!(read(name, list).expect("a list"), expected, "{name}");
    }
    assert_eq!(read("a.json", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n").expect("lines").len(), 2);
    assert_eq!(read("a.json", "[]").expect("an empty list").len(), 0);
    let cases = [
        ("[{\"text\": \"a\"}, 7]", "a.json:2: a number; expected a JSON object"),
        ("[{\"text\": \"a\"}, {\"te", "a.json:2: the list ends here without `]`"),
        ("[{\"text\": \"a\"}] {\"text\": \"b\"}", "text after the end of the list"),
        ("[{\"text\": \"a\"},]", "a.json:2: an empty element"),
        ("[{\"text\": \"a\", \"text\": \"b\"}]", "a.json:1: key `text` stands twice"),
        ("[{\"text\":\n \"a\" \"b\"}]", "a.json:1: expected `,` or `}` (line 2 of the element, column"),
    ];
    for (text, expected) in cases {
        let error = read("a.json", text).expect_err(expected);
        assert!(error.contains(expected), "{text}: {error} lacks {expected}");
    }
}

#[test]
fn byte_order_marks_are_skipped() {
    for (name, text_) in
        [("a.txt", "a"), ("a.jsonl", "{\"text\": \"a\"}"), ("a.json", "[{\"text\": \"a\"}]"), ("a.csv", "text\na\n")]
    {
        assert_eq!(read(name, format!("\u{feff}{text_}")).expect(name)[0].1, json!({"text": "a"}), "{name}");
    }
    let packed = zstd::encode_all("\u{feff}{\"text\": \"a\"}".as_bytes(), 1).expect("packed");
    assert_eq!(read("a.jsonl.zst", packed).expect("lines")[0].1, json!({"text": "a"}));
}

#[test]
fn unsupported_files_are_errors_that_name_the_solution() {
    let cases = [
        ("a.xlsx", "save the sheet as CSV"),
        ("a.arrow", "to_parquet"),
        ("a.zip", "unpack"),
        ("a.pkl", "can hold code"),
        ("a.jsonl.xz", "pack it with gzip or zstd"),
        ("a.docx", "save it as plain text"),
        ("a.unknown", "not a data file this program reads; use .jsonl, .jsonlines"),
    ];
    for (name, expected) in cases {
        let error = read(name, "x").expect_err(name);
        assert!(error.contains(expected), "{name}: {error} lacks {expected}");
    }
}

#[test]
fn long_texts_are_split_into_examples() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let book = write(folder.path(), "book.txt", "abcdefghij".repeat(10));
    let split = |max_seq_len, train: Vec<std::path::PathBuf>| {
        let data =
            DataPlan { overflow: tonfall_recipes::plan::Overflow::Split, max_seq_len, shuffle: false, ..plan(train) };
        prepare(&with(data), &chatml(), None, &|_| ())
    };
    let whole = split(4096, vec![book.clone()]).expect("one example");
    let whole = whole.train.iter().next().expect("one example");
    let pieces = split(32, vec![book.clone()]).expect("pieces");
    let examples: Vec<_> = pieces.train.iter().collect();
    assert!(examples.len() > 1 && examples.iter().all(|piece| piece.input_ids.len() <= 32));
    assert_eq!((pieces.report.split, pieces.report.truncated), (1, 0));
    // Every token except the first is a target in exactly one piece.
    let targets: Vec<u32> = examples.iter().flat_map(|piece| piece.input_ids[1..].to_vec()).collect();
    assert_eq!(targets, whole.input_ids[1..]);
    // Conversations are not split.
    let talks = write(folder.path(), "talks.jsonl", conversations(60));
    assert!(split(32, vec![talks]).expect_err("too long").to_string().contains("rows are too long"));
}

proptest! {
    #[test]
    fn list_elements_are_found_for_any_buffer_size(
        texts in proptest::collection::vec("[a-c\\[\\]{},\"\\\\ é\n]{0,12}", 0..6),
        space in "[ \n\t\r]{0,3}",
        capacity in 1_usize..9,
    ) {
        let elements: Vec<String> = texts.iter().map(|text| json!({"text": text, "list": [text]}).to_string()).collect();
        let list = format!("{space}[{space}{}{space}]{space}", elements.join(&format!("{space},{space}")));
        let mut found = Vec::new();
        let mut each = |chunk: Vec<rows::RawRow>| {
            found.extend(chunk.into_iter().map(|row| row.parse().expect("an object")["text"].as_str().map(str::to_owned)));
            Ok(())
        };
        let mut chunks = rows::Chunks::new(&mut each);
        let reader = std::io::BufReader::with_capacity(capacity, list.as_bytes());
        crate::read::jsonl::elements(std::path::Path::new("a.json"), reader, &|error| panic!("{error}"), &mut chunks).expect("a list");
        chunks.flush().expect("taken");
        prop_assert_eq!(found, texts.into_iter().map(Some).collect::<Vec<_>>());
    }
}
