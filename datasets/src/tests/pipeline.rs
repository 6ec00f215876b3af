//! Several sources, the audit, the cache.

use std::path::Path;

use serde_json::json;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AuditRule, DataFormat, DataPlan, Severity, SourcePlan, Split};

use super::sources::source;
use super::tiny::{CHATML, chatml, conversations, plan, spec, with, write};
use crate::{ChatTokenizer, DataError, OtherTemplate, PreparedDataset, TokenizerSpec, prepare};

fn prepared(plan: &Plan) -> Result<PreparedDataset, DataError> {
    prepare(plan, &chatml(), None, &|_| ())
}

fn sources(list: Vec<SourcePlan>) -> Plan {
    Plan { source: list, ..with(plan(Vec::new())) }
}

fn files(path: &Path) -> SourcePlan {
    SourcePlan { files: vec![path.to_owned()], ..source(DataFormat::Auto) }
}

fn pairs(count: usize) -> String {
    (0..count)
        .map(|index| {
            json!({"prompt": format!("Question {index}?"), "completion": format!("Answer {index}"), "rating": index})
                .to_string()
                + "\n"
        })
        .collect()
}

#[test]
fn sources_have_filters_weights_and_sides() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (a, b) = (write(folder.path(), "a.jsonl", conversations(10)), write(folder.path(), "b.jsonl", pairs(20)));
    let held_out = write(folder.path(), "c.csv", "prompt,completion,rating\nwho?,we,7\nwhy?,because,3\n");
    let rated = |path: &Path| SourcePlan { filter: Some("rating >= 5 AND prompt <> 'x'".to_owned()), ..files(path) };
    let data = prepared(&sources(vec![
        SourcePlan { weight: 2.0, ..files(&a) },
        rated(&b),
        SourcePlan { split: Split::Eval, ..rated(&held_out) },
    ]));
    let data = data.expect("three sources");
    assert_eq!((data.train.len(), data.eval.len(), data.report.train_examples), (35, 1, 25));
    assert_eq!(data.report.files.iter().map(|file| file.filtered).collect::<Vec<_>>(), [0, 5, 1]);
    let wrong = |filter: &str| {
        prepared(&sources(vec![SourcePlan { filter: Some(filter.to_owned()), ..files(&b) }]))
            .expect_err(filter)
            .to_string()
    };
    assert!(wrong("rating >=").contains("the filter `rating >=` can't be used"));
    assert!(wrong("rating + 1").contains("neither true nor false"), "{}", wrong("rating + 1"));
    assert!(wrong("ratign > 3").contains("did you mean `rating`?"), "{}", wrong("ratign > 3"));
}

#[test]
fn patterns_directories_and_packed_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("deep")).expect("made");
    write(folder.path(), "b.jsonl", conversations(2));
    write(&folder.path().join("deep"), "notes.docx", "x");
    let lines = pairs(3);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, lines.as_bytes()).expect("packed");
    write(&folder.path().join("deep"), "a.jsonl.gz", packed.finish().expect("packed"));
    write(
        folder.path(),
        "z.jsonl.zst",
        zstd::encode_all(lines.replace("Question", "Request").as_bytes(), 1).expect("packed"),
    );
    let all = prepared(&sources(vec![files(folder.path())])).expect("three files");
    assert_eq!((all.train.len(), all.report.skipped_files.len()), (8, 1));
    let some = prepared(&sources(vec![files(&folder.path().join("*.jsonl*"))])).expect("two files");
    assert_eq!(some.train.len(), 5);
    let none = prepared(&sources(vec![files(&folder.path().join("*.csv"))])).expect_err("none").to_string();
    assert!(none.contains("no data file is there"), "{none}");
}

#[test]
fn bad_rows_are_counted_up_to_a_limit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "a.jsonl", format!("{}nonsense\n{{\"prompt\": 3}}\n", pairs(3)));
    let with_limit = |max_bad_rows| prepared(&with(DataPlan { max_bad_rows, ..plan(vec![path.clone()]) }));
    assert!(with_limit(0).expect_err("none").to_string().contains("a.jsonl:4: "));
    let error = with_limit(1).expect_err("two").to_string();
    assert!(
        error.contains("2 rows are faulty, more than `data.max_bad_rows` = 1") && error.contains("a.jsonl:5"),
        "{error}"
    );
    let data = with_limit(2).expect("enough");
    assert_eq!((data.train.len(), data.report.files[0].faulty), (3, 2));
    assert!(data.report.notes()[0].starts_with("2 faulty rows left out:\n  "), "{:?}", data.report.notes());
}

#[test]
fn the_audit_names_its_rules() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let row = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion}).to_string() + "\n";
    let text =
        row("a", "b") + &row("a", "b") + &row("c", "GrÃ¼ÃŸe") + &row("d", " ") + &row("e", "mail me: a.b@example.org");
    let path = write(folder.path(), "a.jsonl", text);
    let error = prepared(&with(plan(vec![path.clone()]))).expect_err("three rules").to_string();
    for expected in
        ["duplicates: 1", "a.jsonl:2: the same as", "mojibake: 1", "a.jsonl:3: ", "empty_text: 1", "[audit]"]
    {
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
    assert!(!error.contains("personal_data"), "a warning is no error: {error}");
    let mut lenient = with(plan(vec![path]));
    for rule in [AuditRule::Duplicates, AuditRule::Mojibake, AuditRule::EmptyText] {
        lenient.audit = lenient.audit.with(rule, Severity::Warn);
    }
    let data = prepared(&lenient).expect("warnings only");
    assert_eq!(data.report.findings.of(Severity::Warn, &lenient.audit).len(), 4);
    lenient.audit = lenient.audit.with(AuditRule::PersonalData, Severity::Off);
    assert_eq!(data.report.findings.of(Severity::Warn, &lenient.audit).len(), 3);
}

#[test]
fn what_is_held_out_is_not_trained_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "a.jsonl", pairs(5));
    let eval = write(folder.path(), "b.jsonl", pairs(2));
    let error = prepared(&with(DataPlan { eval: vec![eval], ..plan(vec![train]) })).expect_err("leaks").to_string();
    assert!(error.contains("leakage: 2") && error.contains("b.jsonl:1: the same as"), "{error}");
}

#[test]
fn two_beginnings_and_other_templates_are_findings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "a.jsonl", conversations(3));
    let other = |source: String, with_tools| OtherTemplate { place: "other.json".to_owned(), source, with_tools };
    let found = |template: &str, others: Vec<OtherTemplate>| {
        let spec = TokenizerSpec { other_templates: others, ..spec(Some(template), Some("<|im_end|>")) };
        let tokenizer = ChatTokenizer::new(spec).expect("a sound tokenizer");
        prepare(&with(plan(vec![path.clone()])), &tokenizer, None, &|_| ()).map_err(|error| error.to_string())
    };
    let twice = found(&format!("{{{{ bos_token }}}}{{{{ bos_token }}}}{CHATML}"), Vec::new()).expect_err("two of them");
    assert!(twice.contains("double_bos: 3") && twice.contains("a.jsonl:1: it begins with two <s>"), "{twice}");

    let changed = other(CHATML.replace("im_start", "user"), false);
    let differs = found(CHATML, vec![changed.clone()]).expect_err("another text");
    assert!(differs.contains("other_template: 3") && differs.contains("by other.json \"user"), "{differs}");
    // Where only the prompt is written differently, servers prompt differently.
    let prompt = other(CHATML.replace("<|im_start|>assistant", "<|assistant|>"), false);
    assert!(found(CHATML, vec![prompt]).expect_err("another prompt").contains("other_template: 3"));
    let faulty = found(CHATML, vec![other("{% for %}".to_owned(), false)]).expect_err("no template");
    assert!(faulty.contains("other.json can't write it: chat template, line 1"), "{faulty}");
    // The same text by other means, and a template for tools where there are none.
    let same = other(format!("{{# a note #}}{CHATML}"), false);
    found(CHATML, vec![same, OtherTemplate { with_tools: true, ..changed }]).expect("no difference");
}

#[test]
fn terms_are_split_by_concept_and_looked_for_elsewhere() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let entry = |index: usize| {
        json!({"concept": index, "term": format!("guestword{index}"), "forbidden": [format!("badword{index}")],
               "definition": format!("Meaning {index}.")})
        .to_string()
            + "\n"
    };
    let terms = write(folder.path(), "terms.jsonl", (0..10).map(entry).collect::<String>());
    let letters =
        write(folder.path(), "letters.jsonl", json!({"prompt": "q", "completion": "A badword3 is here."}).to_string());
    let mut plan = sources(vec![files(&terms), files(&letters)]);
    plan.data.eval_fraction = 0.3;
    let data = prepared(&plan).expect("ten concepts and a letter");
    let concepts = |examples: &crate::Examples| {
        let mut rows: Vec<(usize, u64)> =
            examples.iter().map(|example| (example.source.file, example.source.row)).collect();
        rows.dedup();
        rows
    };
    let (train, eval) = (concepts(&data.train), concepts(&data.eval));
    assert_eq!((train.len() + eval.len(), eval.len()), (11, 3));
    assert!(eval.iter().all(|concept| !train.contains(concept)), "{train:?} {eval:?}");
    let warnings = data.report.findings.of(Severity::Warn, &plan.audit).join("\n");
    assert!(warnings.contains("forbidden_term: 1") && warnings.contains("letters.jsonl:1"), "{warnings}");
}

#[test]
fn prepared_data_is_found_again_and_verified() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "a.jsonl", conversations(20));
    let cache = folder.path().join("cache");
    let plan = with(DataPlan { eval_fraction: 0.25, ..plan(vec![path.clone()]) });
    let prepared = |plan: &Plan| prepare(plan, &chatml(), Some(&cache), &|_| ()).expect("20 rows");
    // Copies: what is mapped would change with the damage below.
    let all = |data: &PreparedDataset| (data.train.iter().collect::<Vec<_>>(), data.eval.iter().collect::<Vec<_>>());
    let data = prepared(&plan);
    let first = all(&data);
    assert!(!data.report.cached && data.report.uncached.is_none());
    let second = prepared(&plan);
    assert!(second.report.cached && all(&second) == first);
    // Neither another order nor other severities are other data; another seed is.
    let mut changed = plan.clone();
    changed.data.shuffle = false;
    assert!(prepared(&changed).report.cached);
    assert!(!prepared(&Plan { seed: 8, ..plan.clone() }).report.cached);
    let off = with(DataPlan { cache: false, ..plan.data.clone() });
    assert!(!prepared(&off).report.cached);

    for name in ["tokens.bin", "examples.bin", "order.bin", "index.json"] {
        let entries = std::fs::read_dir(&cache).expect("a cache").map(|entry| entry.expect("an entry").path());
        for entry in entries.filter(|entry| entry.is_dir()) {
            let mut bytes = std::fs::read(entry.join(name)).expect("a column");
            bytes[8] ^= 1;
            write(&entry, name, bytes);
        }
        let again = prepared(&plan);
        assert!(!again.report.cached && all(&again) == first, "damage in {name} is seen, and made good");
    }
    assert!(prepared(&plan).report.cached);

    write(folder.path(), "a.jsonl", conversations(21));
    assert_eq!(prepared(&plan).report.rows, 21);
    let nowhere = write(folder.path(), "file", "");
    let uncached = prepare(&plan, &chatml(), Some(&nowhere), &|_| ()).expect("21 rows");
    assert!(uncached.report.uncached.is_some() && all(&uncached) == all(&prepared(&plan)));
}
