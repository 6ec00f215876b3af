//! From files to examples: splits, limits and counts.

use tonfall_recipes::plan::{AuditRule, DataPlan, Overflow, Severity};

use super::tiny::{chatml, conversations, plan, with, write};
use crate::{DataError, Example, Examples, Phase, PreparedDataset, prepare};

fn prepared(data: &DataPlan) -> Result<PreparedDataset, DataError> {
    prepare(&with(data.clone()), &chatml(), None, &|_| ())
}

fn all(examples: &Examples) -> Vec<Example> {
    examples.iter().collect()
}

#[test]
fn everything_is_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(30));
    let eval = write(folder.path(), "eval.jsonl", "{\"id\": 1, \"text\": \"Hello\"}\n");
    let plan = DataPlan { eval: vec![eval], ..plan(vec![train]) };
    let data = prepared(&plan).expect("31 rows");
    assert_eq!((data.train.len(), data.eval.len(), data.report.rows), (30, 1, 31));
    let (train, eval) = (all(&data.train), all(&data.eval));
    assert_eq!((eval[0].source.file, eval[0].source.row), (1, 1));
    assert_eq!(train[29].source.row, 30);
    let all = || train.iter().chain(&eval);
    assert_eq!(data.report.tokens, all().map(|example| example.input_ids.len() as u64).sum::<u64>());
    // The conversations have 1 + 2 + … + 30 letters and an end token each. The text has 5 letters and an end token,
    // but its first token has no loss.
    assert_eq!(data.report.trained_tokens, 30 * 31 / 2 + 30 + 5);
    assert_eq!(data.report.longest, all().map(|example| example.input_ids.len() as u64).max().expect("some"));
    let shown = data.report.to_string();
    assert!(shown.starts_with("31 rows, 31 examples: 30 train, 1 eval\n"), "{shown}");
    assert!(
        shown.contains("eval.jsonl (text): 1 row, 1 example, 6 tokens") && shown.contains("not read: id"),
        "{shown}"
    );
}

#[test]
fn the_split_depends_on_the_seed_and_not_on_threads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(40));
    let plan = DataPlan { eval_fraction: 0.25, ..plan(vec![train]) };
    let with = |threads, seed| {
        let plan = tonfall_recipes::Plan { seed, ..with(plan.clone()) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let data = pool.install(|| prepare(&plan, &chatml(), None, &|_| ())).expect("40 rows");
        (all(&data.train), all(&data.eval), data.report)
    };
    let (one, five, other) = (with(1, 7), with(5, 7), with(1, 8));
    assert_eq!(one, five);
    assert_eq!((one.0.len(), one.1.len()), (30, 10));
    assert_ne!(one.1, other.1);
    assert!(one.1.iter().all(|example| !one.0.contains(example)));
}

#[test]
fn rows_that_are_too_long_stop_the_run_or_are_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(30));
    let full = prepared(&plan(vec![train.clone()])).expect("30 rows");
    let full = all(&full.train);
    let limit = full[9].input_ids.len();
    let with = |overflow, max_seq_len| prepared(&DataPlan { overflow, max_seq_len, ..plan(vec![train.clone()]) });

    let error = with(Overflow::Error, limit).expect_err("20 rows are longer").to_string();
    assert!(error.contains("train.jsonl:11: ") && error.contains("20 of 30 rows are too long"), "{error}");

    let dropped = with(Overflow::Drop, limit).expect("10 rows");
    assert_eq!((all(&dropped.train).as_slice(), dropped.report.dropped.values().sum::<u64>()), (&full[..10], 20));

    let cut = with(Overflow::Truncate, limit).expect("30 rows");
    assert_eq!((cut.train.len(), cut.report.truncated, cut.report.longest), (30, 20, limit as u64));
    assert_eq!(all(&cut.train)[29].input_ids, full[29].input_ids[..limit]);

    let nothing = with(Overflow::Truncate, 5).expect_err("no answer begins there").to_string();
    assert!(nothing.contains("nothing is left to train on") && nothing.contains("cut before"), "{nothing}");
}

#[test]
fn a_row_without_a_trained_token_stops_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unheard =
        r#"{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a", "train": false}]}"#;
    let train = write(folder.path(), "train.jsonl", format!("{}{unheard}\n", conversations(2)));
    let error = prepared(&plan(vec![train.clone()])).expect_err("nothing to learn").to_string();
    assert!(error.contains("no_trained_token: 1") && error.contains("train.jsonl:3: "), "{error}");
    let mut lenient = with(plan(vec![train]));
    lenient.audit = lenient.audit.with(AuditRule::NoTrainedToken, Severity::Warn);
    let data = prepare(&lenient, &chatml(), None, &|_| ()).expect("two rows");
    assert_eq!((data.train.len(), data.report.dropped.values().sum::<u64>()), (2, 1));
}

#[test]
fn the_first_fault_is_reported_for_any_number_of_threads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refusing = super::tiny::CHATML.replace(
        "{% for message in messages %}",
        "{% for message in messages %}{% if 'aaaaa' in message.content %}{{ raise_exception('no') }}{% endif %}",
    );
    let tokenizer = crate::ChatTokenizer::new(super::tiny::spec(Some(&refusing), Some("</s>"))).expect("sound");
    let train = write(folder.path(), "train.jsonl", conversations(30));
    for threads in [1, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let error =
            pool.install(|| prepare(&with(plan(vec![train.clone()])), &tokenizer, None, &|_| ())).expect_err("refused");
        assert!(error.to_string().contains("train.jsonl:5: the chat template refuses"), "{error}");
    }
}

#[test]
fn a_split_with_an_empty_side_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(1));
    let error = prepared(&DataPlan { eval_fraction: 0.5, ..plan(vec![train]) }).expect_err("one row");
    assert!(matches!(error, DataError::Split { .. }), "{error}");
}

#[test]
fn progress_is_reported_to_the_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", conversations(200));
    let told = std::sync::Mutex::new(Vec::new());
    prepare(&with(plan(vec![train])), &chatml(), None, &|progress| told.lock().expect("no panic").push(progress))
        .expect("200 rows");
    let told = told.into_inner().expect("no panic");
    let last = told.last().expect("told");
    assert!(last.phase == Phase::Preparing && last.done == last.total && last.total > 0);
    assert!(told.is_sorted_by_key(|progress| progress.done));
}
