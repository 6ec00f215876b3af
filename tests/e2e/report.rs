//! `tonfall report`.

use std::fs;

use crate::program::run;
use crate::tiny_model::Workshop;

#[test]
fn a_run_has_a_page() {
    let workshop = Workshop::new();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    let written = run(workshop.home(), &["report", "a", "--out", "a.html"]).expect(0);
    assert!(written.stdout.is_empty() && written.stderr.contains("wrote a.html"), "{}", written.stderr);
    let page = fs::read_to_string(workshop.path("a.html")).unwrap();
    for text in ["<!doctype html>", "<h1>a</h1>", "No gate: the run finished", "id=\"loss-title\"", "base weights"] {
        assert!(page.contains(text), "{text}");
    }
    for text in ["<script", "src=", "href=\"http", "@import", "url("] {
        assert!(!page.contains(text), "a page needs no script and no network: {text}");
    }

    // A run compared with itself.
    run(workshop.home(), &["report", "runs/a", "--out", "b.html", "--published", "a"]).expect(0);
    let page = fs::read_to_string(workshop.path("b.html")).unwrap();
    assert!(page.contains("All inputs are the same") && page.contains("Every value is the same"));

    for args in [["report", "none", "--out", "c.html"], ["report", ".", "--out", "c.html"]] {
        let none = run(workshop.home(), &args).expect(3);
        assert!(none.stderr.contains("no run at"), "{}", none.stderr);
    }
    assert!(!workshop.path("c.html").exists());
}

#[test]
fn a_damaged_run_has_a_page_and_an_exit_code() {
    let workshop = Workshop::new();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    let plan = workshop.path("runs/a/plan.toml");
    let text = fs::read_to_string(&plan).unwrap();
    fs::write(&plan, text.replacen("seed = ", "seed = 1", 1)).unwrap();
    let damaged = run(workshop.home(), &["report", "a", "--out", "a.html"]).expect(9);
    assert!(
        damaged.stderr.contains("wrote a.html") && damaged.stderr.contains("plan.toml is damaged"),
        "{}",
        damaged.stderr
    );
    let page = fs::read_to_string(workshop.path("a.html")).unwrap();
    assert!(page.contains("Damaged:") && page.contains("No gate"), "{page}");
    fs::write(workshop.path("runs/a/run.json"), "{").unwrap();
    run(workshop.home(), &["report", "a", "--out", "a.html"]).expect(9);
}
