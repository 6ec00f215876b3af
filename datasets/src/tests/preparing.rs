//! From files to examples: splits, limits, counts.

use tonfall_recipes::plan::{DataPlan, Overflow};

use super::tiny::{chatml, conversations, plan, write};
use crate::{DataError, Phase, PreparedDataset, prepare};

fn prepared(plan: &DataPlan) -> Result<PreparedDataset, DataError> {
    prepare(plan, &chatml(), 7, &|_| ())
}

#[test]
fn everything_is_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(30));
    let eval = write(folder.path(), "eval.jsonl", "{\"id\": 1, \"text\": \"Hello\"}\n");
    let plan = DataPlan { eval: vec![eval], ..plan(vec![train]) };
    let data = prepared(&plan).expect("31 rows");
    assert_eq!((data.train.len(), data.eval.len(), data.report.rows), (30, 1, 31));
    assert_eq!((data.eval[0].source.file, data.eval[0].source.row), (0, 1));
    assert_eq!(data.train[29].source.row, 30);
    let all = || data.train.iter().chain(&data.eval);
    assert_eq!(data.report.tokens, all().map(|example| example.input_ids.len() as u64).sum::<u64>());
    // 1 + 2 + … + 30 letters and an end token each; 5 letters and an end token, less the first, which nothing predicts.
    assert_eq!(data.report.trained_tokens, 30 * 31 / 2 + 30 + 5);
    assert_eq!(data.report.longest, all().map(|example| example.input_ids.len() as u64).max().expect("some"));
    let shown = data.report.to_string();
    assert!(shown.starts_with("31 of 31 rows kept: 30 train, 1 eval\n"), "{shown}");
    assert!(shown.contains("eval.jsonl (text): 1 rows, 1 kept") && shown.contains("not read: id"), "{shown}");
}

#[test]
fn the_split_depends_on_the_seed_and_not_on_threads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(40));
    let plan = DataPlan { eval_fraction: 0.25, ..plan(vec![train]) };
    let with = |threads, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| prepare(&plan, &chatml(), seed, &|_| ())).expect("40 rows")
    };
    let (one, five, other) = (with(1, 7), with(5, 7), with(1, 8));
    assert_eq!(one, five);
    assert_eq!((one.train.len(), one.eval.len()), (30, 10));
    assert_ne!(one.eval, other.eval);
    assert!(one.eval.iter().all(|example| !one.train.contains(example)));
}

#[test]
fn rows_that_are_too_long_stop_the_run_or_are_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(30));
    let full = prepared(&plan(vec![train.clone()])).expect("30 rows");
    let limit = full.train[9].input_ids.len();
    let with = |overflow, max_seq_len| prepared(&DataPlan { overflow, max_seq_len, ..plan(vec![train.clone()]) });

    let error = with(Overflow::Error, limit).expect_err("20 rows are longer").to_string();
    assert!(error.contains("train.jsonl:11: ") && error.contains("20 of 30 rows are too long"), "{error}");

    let dropped = with(Overflow::Drop, limit).expect("10 rows");
    assert_eq!((dropped.train.as_slice(), dropped.report.dropped.values().sum::<u64>()), (&full.train[..10], 20));

    let cut = with(Overflow::Truncate, limit).expect("30 rows");
    assert_eq!((cut.train.len(), cut.report.truncated, cut.report.longest), (30, 20, limit as u64));
    assert_eq!(cut.train[29].input_ids, full.train[29].input_ids[..limit]);

    let nothing = with(Overflow::Truncate, 5).expect_err("no answer begins there").to_string();
    assert!(nothing.contains("nothing is left to train on") && nothing.contains("cut before"), "{nothing}");
}

#[test]
fn a_row_without_a_trained_token_stops_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let empty = r#"{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": ""}]}"#;
    let train = write(folder.path(), "train.jsonl", format!("{}{empty}\n", conversations(2)));
    // An empty answer still teaches to stop; without an end token it teaches nothing.
    assert_eq!(prepared(&plan(vec![train.clone()])).expect("an end token").train[2].trained_tokens(), 1);
    let endless = super::tiny::CHATML.replace(" + '<|im_end|>'", "");
    let tokenizer = crate::ChatTokenizer::new(super::tiny::spec(Some(&endless), Some("</s>"))).expect("sound");
    let error = prepare(&plan(vec![train]), &tokenizer, 7, &|_| ()).expect_err("nothing to learn").to_string();
    assert!(error.contains("train.jsonl:3: no token of this row is trained"), "{error}");
}

#[test]
fn the_first_fault_is_named_whatever_the_threads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refusing = super::tiny::CHATML.replace(
        "{% for message in messages %}",
        "{% for message in messages %}{% if 'aaaaa' in message.content %}{{ raise_exception('no') }}{% endif %}",
    );
    let tokenizer = crate::ChatTokenizer::new(super::tiny::spec(Some(&refusing), Some("</s>"))).expect("sound");
    let train = write(folder.path(), "train.jsonl", conversations(30));
    for threads in [1, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let error = pool.install(|| prepare(&plan(vec![train.clone()]), &tokenizer, 7, &|_| ())).expect_err("refused");
        assert!(error.to_string().contains("train.jsonl:5: the chat template refuses"), "{error}");
    }
}

#[test]
fn a_split_that_leaves_nothing_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(1));
    let error = prepared(&DataPlan { eval_fraction: 0.5, ..plan(vec![train]) }).expect_err("one row");
    assert!(matches!(error, DataError::Split { .. }), "{error}");
}

#[test]
fn progress_is_told_to_its_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(200));
    let told = std::sync::Mutex::new(Vec::new());
    prepare(&plan(vec![train]), &chatml(), 7, &|progress| told.lock().expect("no panic").push(progress))
        .expect("200 rows");
    let told = told.into_inner().expect("no panic");
    assert!(told.iter().any(|progress| (progress.phase, progress.done) == (Phase::Reading, 1)));
    assert!(
        told.iter().any(|progress| (progress.phase, progress.done, progress.total) == (Phase::Tokenizing, 200, 200))
    );
}
