//! Plans and faults of whole recipes.

#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

use std::path::Path;

use proptest::prelude::*;
use tonfall_recipes::plan::{AdapterKind, Quantization, TargetModules};
use tonfall_recipes::{Plan, RecipeFile};

/// The outcome of a recipe in a folder with a base and data. Faults don't have the folder's path.
fn resolve(text: &str, overrides: &[&str]) -> Result<Plan, String> {
    let folder = tempfile::tempdir().expect("temporary directory");
    for file in ["base", "base.gguf", "train.jsonl", "eval.jsonl"] {
        std::fs::write(folder.path().join(file), "x").expect("write");
    }
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let recipe = RecipeFile { path: folder.path().join("House Style.toml"), source: text.to_owned() };
    recipe.plan(&overrides).map_err(|faults| faults.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

const SHORTEST: &str = "base = \"base\"\ndata.train = \"train.jsonl\"\n";

#[test]
fn the_shortest_recipe_gets_every_default() {
    let plan = resolve(SHORTEST, &[]).expect("valid");
    assert_eq!(plan.name, "house-style");
    assert_eq!((plan.quantization, plan.adapter.kind), (Quantization::Nf4, AdapterKind::Lora));
    assert_eq!((plan.lora.rank, plan.lora.alpha, plan.training.learning_rate), (16, 32.0, 2e-4));
    assert!(matches!(plan.lora.target_modules, TargetModules::AllLinear));
    assert!(plan.base.local().is_some_and(Path::is_absolute) && plan.data.train[0].is_absolute());
    assert_eq!((plan.training.max_steps, plan.evaluation.prompts), (None, None));
}

#[test]
fn all_faults_come_at_once_and_point_at_their_places() {
    let text = "base = \"base\"\nquantization = \"nf5\"\n\n[data]\ntrain = \"missing.jsonl\"\n\n[lora]\nrnak = 16\ndropout = 1.0\n\n[training]\nepochs = \"two\"\n";
    insta::assert_snapshot!(resolve(text, &["lora.rnak=3", "seed"]).expect_err("five faults"), @r##"
    error: `quantization` must be "nf4", "native" or "none", not "nf5"
     --> House Style.toml:2:16
      |
    2 | quantization = "nf5"
      |                ^^^^^ did you mean "nf4"?

    error: `data.train` names a path that does not exist
     --> House Style.toml:5:9
      |
    5 | train = "missing.jsonl"
      |         ^^^^^^^^^^^^^^^ looked for missing.jsonl

    error: unknown key `lora.rnak`
     --> House Style.toml:8:1
      |
    8 | rnak = 16
      | ^^^^ did you mean `rank`?

    error: `lora.dropout` must be a number of at least 0 and below 1, not 1.0
     --> House Style.toml:9:11
      |
    9 | dropout = 1.0
      |           ^^^ out of range

    error: `training.epochs` must be a number above 0 and at most 1000000, not a text
      --> House Style.toml:12:10
       |
    12 | epochs = "two"
       |          ^^^^^ this is a text

    error: unknown key `lora.rnak`
     |
     | --set lora.rnak=3
     |            ^^^^ did you mean `lora.rank`?
    hint: `tonfall check --keys` lists every key

    error: an override is one `key=value`
     |
     | --set seed
     |       ^^^^ such as training.epochs=2
    "##);
}

#[test]
fn a_key_in_the_wrong_table_is_found() {
    let fault = resolve(&format!("{SHORTEST}rank = 8\n"), &[]).expect_err("unknown");
    assert!(fault.contains("did you mean `lora.rank`?"), "{fault}");
}

#[test]
fn toml_syntax_errors_are_shown_at_their_place() {
    let fault = resolve("base = \"base\nquantization = 1\n", &[]).expect_err("not TOML");
    assert!(fault.contains("not TOML") && fault.contains("House Style.toml:1:"), "{fault}");
}

#[test]
fn overrides_win_and_may_be_unquoted() {
    let plan = resolve(SHORTEST, &["quantization=none", "training.max_steps=7", "lora.target_modules=[\"q_proj\"]"]);
    let plan = plan.expect("valid");
    assert_eq!((plan.quantization, plan.training.max_steps), (Quantization::None, Some(7)));
    assert_eq!(plan.lora.target_modules.matching("model.layers.0.self_attn.q_proj"), Some("q_proj"));
    assert_eq!(plan.lora.target_modules.matching("model.layers.0.self_attn.k_proj"), None);
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    for (overrides, expected) in [
        (&["quantization=native"][..], "needs a GGUF file"),
        (&["adapter.kind=full"], "needs `quantization = \"none\"`"),
        (&["adapter.kind=full", "quantization=none", "lora.rank=4"], "`lora.rank` has no effect"),
        (&["training.warmup_steps=3", "training.warmup_ratio=0.1"], "contradict each other"),
        (&["data.eval=eval.jsonl", "data.eval_fraction=0.1"], "contradict each other"),
    ] {
        let fault = resolve(SHORTEST, overrides).expect_err("contradiction");
        assert!(fault.contains(expected), "{overrides:?}: {fault}");
    }
    resolve("base = \"base.gguf\"\nquantization = \"native\"\ndata.train = [\"train.jsonl\"]\n", &[]).expect("valid");
}

#[test]
fn plans_round_trip_and_their_hashes_differ() {
    let plan = resolve(SHORTEST, &["training.max_steps=7", "training.learning_rate=1"]).expect("valid");
    let text = plan.to_toml();
    assert!(text.contains("\nlearning_rate = 1.0  # peak of the schedule\n"), "{text}");
    let read = Plan::from_toml(&text).expect("complete");
    assert_eq!((&read, read.hash()), (&plan, plan.hash()));
    assert_ne!(Plan { seed: 1, ..plan.clone() }.hash(), plan.hash());
}

proptest! {
    #[test]
    fn any_text_gives_a_plan_or_faults(text in "\\PC{0,200}", set in "\\PC{0,30}") {
        let _ = resolve(&text, &[&set]).map_err(|faults| assert!(faults.starts_with("error: ")));
    }

    #[test]
    fn any_value_is_checked(value in prop_oneof![any::<i64>().prop_map(|n| n.to_string()), any::<f64>().prop_map(|n| format!("{n:e}"))]) {
        for key in ["lora.rank", "lora.alpha", "training.epochs", "training.beta1", "seed", "data.max_seq_len"] {
            if let Ok(plan) = resolve(SHORTEST, &[&format!("{key}={value}")]) {
                prop_assert_eq!(Plan::from_toml(&plan.to_toml()).expect("complete"), plan);
            }
        }
    }
}
