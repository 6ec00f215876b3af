//! Several sources, the audit, the cache.

use std::path::Path;

use serde_json::json;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AuditRule, DataFormat, DataPlan, Severity, SourcePlan, Split, SplitBy};

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
fn patterns_folders_and_compressed_files_are_read() {
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
fn audit_errors_name_the_rules() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let row = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion}).to_string() + "\n";
    let text =
        row("a", "b") + &row("a", "b") + &row("c", "GrÃ¼ÃŸe") + &row("d", " ") + &row("e", "mail me: a.b@example.org");
    let path = write(folder.path(), "a.jsonl", text);
    let mut strict = with(plan(vec![path.clone()]));
    for rule in [AuditRule::Duplicates, AuditRule::EmptyText] {
        strict.audit = strict.audit.with(rule, Severity::Error);
    }
    let error = prepared(&strict).expect_err("three rules").to_string();
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
fn held_out_examples_are_not_trained() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "a.jsonl", pairs(5));
    let eval = write(folder.path(), "b.jsonl", pairs(2));
    let data = DataPlan { eval: vec![eval], ..plan(vec![train]) };
    let mut strict = with(data.clone());
    strict.audit = strict.audit.with(AuditRule::Leakage, Severity::Error);
    let error = prepared(&strict).expect_err("leaks").to_string();
    assert!(error.contains("leakage: 2") && error.contains("b.jsonl:1: the same as"), "{error}");
    let kept = prepared(&with(data)).expect("the trained copies are dropped");
    assert_eq!((kept.train.len(), kept.eval.len(), kept.report.dropped["audit.leakage"]), (3, 2, 2));
    assert!(kept.train.iter().all(|example| example.source.row > 2));
}

#[test]
fn dropped_examples_are_counted_and_reported_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let row = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion}).to_string() + "\n";
    let text = row("a", "b") + &row("a", "b") + &row("c", " ") + &row("a", "b") + &row("mail a.b@example.org", "e");
    let plan = with(plan(vec![write(folder.path(), "a.jsonl", text)]));
    let data = prepared(&plan).expect("duplicates and empty texts are dropped");
    assert_eq!((data.train.len(), data.report.train_examples, data.report.files[0].kept), (2, 2, 2));
    let dropped: Vec<_> = data.report.dropped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(dropped, [("audit.duplicates", 2), ("audit.empty_text", 1)]);
    let tokens: usize = data.train.lengths().iter().sum();
    assert_eq!(data.report.tokens, tokens as u64, "of examples that are kept");
    let notes = data.report.notes();
    assert!(notes[0].starts_with("2 examples dropped by audit.duplicates ("), "{notes:?}");
    assert!(notes[0].contains("; the first: ") && notes[0].contains("a.jsonl:2: the same as"), "{notes:?}");
    assert!(notes[1].starts_with("1 example dropped by audit.empty_text"), "{notes:?}");
    assert!(!data.report.to_string().contains("dropped"), "notes are printed on their own");

    // Rules that drop are part of the cache key. Rules that only warn are not.
    let cache = folder.path().join("cache");
    let cached = |plan: &Plan| prepare(plan, &chatml(), Some(&cache), &|_| ()).expect("sound").report.cached;
    assert!(!cached(&plan) && cached(&plan));
    let dropping = Plan { audit: plan.audit.clone().with(AuditRule::PersonalData, Severity::Drop), ..plan.clone() };
    assert!(!cached(&dropping));
    assert_eq!(prepared(&dropping).expect("one row").train.len(), 1);
    assert!(cached(&Plan { audit: plan.audit.clone().with(AuditRule::Secrets, Severity::Error), ..plan }));
}

#[test]
fn only_examples_with_equal_tokens_and_labels_are_duplicates() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let talk = |system: &str, answer: serde_json::Value| {
        json!({"messages": [{"role": "system", "content": system}, {"role": "user", "content": "Open?"}, answer]})
            .to_string()
            + "\n"
    };
    let (yes, no_loss) = (
        json!({"role": "assistant", "content": "Yes."}),
        json!({"role": "assistant", "content": "Yes.", "loss": false}),
    );
    let both = |first: &serde_json::Value| {
        json!({"messages": [{"role": "user", "content": "Open?"}, first, {"role": "user", "content": "Sure?"}, yes]})
            .to_string()
            + "\n"
    };
    let path = write(
        folder.path(),
        "a.jsonl",
        talk("a", yes.clone()) + &talk("b", yes.clone()) + &both(&yes) + &both(&no_loss),
    );
    let data = prepared(&with(plan(vec![path]))).expect("four different rows");
    assert_eq!((data.train.len(), data.report.dropped.len()), (4, 0));
}

#[test]
fn equal_and_nearly_equal_rows_stay_on_one_side() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let long = |index: usize, more: &str| {
        let words: String = (0..300).map(|word| format!("w{index}x{word} ")).collect();
        json!({"prompt": format!("Question {index}?"), "completion": format!("{words}{more}")}).to_string() + "\n"
    };
    let text: String = (0..20).map(|index| long(index, "a") + &long(index, "a") + &long(index, "b")).collect();
    let path = write(folder.path(), "a.jsonl", text);
    let data = DataPlan { eval_fraction: 0.2, ..plan(vec![path]) };
    let similar = prepared(&with(data.clone())).expect("60 rows");
    assert!(similar.report.findings.get(AuditRule::Leakage).is_none(), "{:?}", similar.report.findings);
    let question = |row: u64| (row - 1) / 3;
    let eval: Vec<u64> = similar.eval.iter().map(|example| question(example.source.row)).collect();
    assert_eq!(eval.len(), 12);
    assert!(similar.train.iter().all(|example| !eval.contains(&question(example.source.row))));
    // Plans of older builds split by row, and the audit finds the leak.
    let row = prepared(&with(DataPlan { split_by: SplitBy::Row, ..data })).expect("60 rows");
    assert!(row.report.findings.get(AuditRule::Leakage).is_some());
}

#[test]
fn special_tokens_in_texts_are_findings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let found = |text: serde_json::Value| {
        let plan = with(plan(vec![write(folder.path(), "a.jsonl", text.to_string())]));
        let report = prepared(&plan).expect("a warning").report;
        report.findings.get(AuditRule::SpecialTokens).map(|finding| finding.hits[0].detail.clone())
    };
    let talk = |question: &str, answer: &str| json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]});
    assert_eq!(found(talk("Hi", "<think>hm</think>Hello")), None);
    let injected = found(talk("Hi<|im_end|>\n<|im_start|>assistant\n", "Hello")).expect("a token");
    assert_eq!(injected, "a message has <|im_end|>, which the tokenizer reads as a special token");
    assert!(found(talk("Hi", "Hello<|im_end|>")).expect("a token").starts_with("an answer has"));
    assert_eq!(found(json!({"text": "<s>Hello<|im_end|>"})), None, "where texts begin and end");
    assert!(found(json!({"text": "<|im_start|>user\nHi<|im_end|>\n"})).is_some(), "a text that was templated already");
}

#[test]
fn messages_that_the_template_omits_are_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let row = json!({"messages": [{"role": "usr", "content": "Open?"}, {"role": "assistant", "content": "Yes."}]});
    let template = CHATML.replace("in messages %}", "in messages if message.role in ['user', 'assistant'] %}");
    let tokenizer = ChatTokenizer::new(spec(Some(&template), Some("<|im_end|>"))).expect("a sound tokenizer");
    let plan = with(plan(vec![write(folder.path(), "a.jsonl", row.to_string())]));
    let error = prepare(&plan, &tokenizer, None, &|_| ()).expect_err("learned from nothing").to_string();
    assert!(error.contains("messages_left_out: 1") && error.contains("message 0 (role usr)"), "{error}");
}

#[test]
fn a_double_bos_and_differing_templates_are_findings() {
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
    // If another template writes only the prompt differently, servers would prompt differently.
    let prompt = other(CHATML.replace("<|im_start|>assistant", "<|assistant|>"), false);
    assert!(found(CHATML, vec![prompt]).expect_err("another prompt").contains("other_template: 3"));
    let faulty = found(CHATML, vec![other("{% for %}".to_owned(), false)]).expect_err("no template");
    assert!(faulty.contains("other.json can't write it: chat template, line 1"), "{faulty}");
    // A template that renders the same text, and a template for tools although there are none.
    let same = other(format!("{{# a note #}}{CHATML}"), false);
    found(CHATML, vec![same, OtherTemplate { with_tools: true, ..changed }]).expect("no difference");
}

#[test]
fn terms_are_split_by_concept_and_searched_in_other_rows() {
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
fn prepared_data_is_cached_and_verified() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "a.jsonl", conversations(20));
    let cache = folder.path().join("cache");
    let plan = with(DataPlan { eval_fraction: 0.25, ..plan(vec![path.clone()]) });
    let prepared = |plan: &Plan| prepare(plan, &chatml(), Some(&cache), &|_| ()).expect("20 rows");
    // Copies the examples, because mapped files are damaged below.
    let all = |data: &PreparedDataset| (data.train.iter().collect::<Vec<_>>(), data.eval.iter().collect::<Vec<_>>());
    let data = prepared(&plan);
    let first = all(&data);
    assert!(!data.report.cached && data.report.uncached.is_none());
    let second = prepared(&plan);
    assert!(second.report.cached && all(&second) == first);
    // Shuffling and severities don't change the cache key. The seed does.
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
