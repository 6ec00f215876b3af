#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

use proptest::prelude::*;

use super::*;
use crate::plan::{AdapterKind, Base, Quantization, Split, TargetModules, Variable};
use crate::settings::name_of;

const RIGHT: &str = "base = \"model\"\n[data]\ntrain = \"a.jsonl\"\n";

/// A folder with a model, data and a GGUF file.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::create_dir(dir.path().join("model")).expect("made");
    for name in ["a.jsonl", "b.jsonl", "base.gguf"] {
        std::fs::write(dir.path().join(name), "").expect("written");
    }
    dir
}

fn plan_in(dir: &tempfile::TempDir, source: &str, overrides: &[&str]) -> Result<Plan, Diagnostics> {
    let recipe = RecipeFile { path: dir.path().join("style.toml"), source: source.to_owned() };
    recipe.plan(&overrides.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
}

fn right(source: &str, overrides: &[&str]) -> Plan {
    plan_in(&folder(), source, overrides).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The printed faults, without the folder's path.
fn wrong(source: &str, overrides: &[&str]) -> String {
    let dir = folder();
    let faults = plan_in(&dir, source, overrides).expect_err("faulty");
    faults.to_string().replace(&format!("{}/", dir.path().display()), "")
}

fn messages(source: &str, overrides: &[&str]) -> Vec<String> {
    let dir = folder();
    let faults = plan_in(&dir, source, overrides).expect_err("faulty");
    faults.items.into_iter().map(|fault| fault.message).collect()
}

#[test]
fn a_short_recipe_has_every_default() {
    let dir = folder();
    let plan = plan_in(&dir, RIGHT, &[]).expect("right");
    assert_eq!(plan.name, "style");
    assert_eq!(plan.base, Base::Local(dir.path().join("model")));
    assert_eq!(plan.data.train, [dir.path().join("a.jsonl")]);
    assert!(plan.data.eval.is_empty());
    assert!(plan.output_dir.is_absolute() && plan.output_dir.ends_with("runs"));
    assert_eq!((plan.seed, plan.lora.rank, plan.lora.alpha), (42, 16, 32.0));
}

#[test]
fn explicit_values_are_in_the_plan() {
    let source = "name = \"x-1\"\nbase = \"hf:owner/name@v1\"\nquantization = \"none\"\nseed = 0x10\n\
                  lora = { alpha = 8, target_modules = [\"q_proj\"] }\n\
                  data.train = [\"a.jsonl\", \"b.jsonl\"]\ndata.eval_fraction = 1e-1\n\
                  [training]\nepochs = 1_0\nwarmup_steps = 5\n";
    let plan = right(source, &[]);
    assert_eq!((plan.name.as_str(), plan.seed, plan.lora.alpha), ("x-1", 16, 8.0));
    assert_eq!(plan.base, Base::Hub("owner/name@v1".into()));
    assert_eq!(plan.lora.target_modules, TargetModules::List(vec!["q_proj".into()]));
    assert_eq!((plan.data.train.len(), plan.data.eval_fraction), (2, 0.1));
    assert_eq!((plan.training.epochs, plan.training.warmup_steps), (Some(10.0), Some(5)));
}

#[test]
fn max_steps_alone_decides_the_length_unless_epochs_is_set() {
    let length = |set: &[&str]| {
        let training = right(RIGHT, set).training;
        (training.epochs, training.max_steps)
    };
    assert_eq!(length(&[]), (Some(1.0), None));
    assert_eq!(length(&["training.max_steps=50"]), (None, Some(50)));
    assert_eq!(length(&["training.max_steps=50", "training.epochs=2"]), (Some(2.0), Some(50)));
}

#[test]
fn a_misspelt_key_gets_a_suggestion_at_its_place() {
    let source = format!("{RIGHT}\n[lora]\nrnak = 16\n");
    insta::assert_snapshot!(wrong(&source, &[]), @r##"
    error: unknown key `lora.rnak`
     --> style.toml:6:1
      |
    6 | rnak = 16
      | ^^^^ did you mean `rank`?
    hint: `tonfall check --keys` lists every key
    "##);
}

#[test]
fn a_misspelt_override_gets_a_suggestion_at_its_place() {
    insta::assert_snapshot!(wrong(RIGHT, &["seed=1", "lora.rnak=3"]), @r##"
    error: unknown key `lora.rnak`
     |
     | --set lora.rnak=3
     |            ^^^^ did you mean `lora.rank`?
    hint: `tonfall check --keys` lists every key
    "##);
}

#[test]
fn all_faults_come_at_once() {
    let source = "seed = -1\nlr = 1e-3\nquantization = \"nf5\"\n[lora]\nrank = \"16\"\ndropout = 1.0\n[trainig]\nepochs = 3\n\
                  [data]\neval = [\"b.jsonl\", \"gone.jsonl\", 3]\n[training]\nlearning_rate = inf\nsave_every = 2.5\n";
    insta::assert_snapshot!(wrong(source, &[]), @r##"
    error: `seed` must be a whole number of at least 0, not -1
     --> style.toml:1:8
      |
    1 | seed = -1
      |        ^^ out of range

    error: unknown key `lr`
     --> style.toml:2:1
      |
    2 | lr = 1e-3
      | ^^ did you mean `training.learning_rate`?
    hint: `tonfall check --keys` lists every key

    error: `quantization` must be "nf4", "native" or "none", not "nf5"
     --> style.toml:3:16
      |
    3 | quantization = "nf5"
      |                ^^^^^ did you mean "nf4"?

    error: `lora.rank` must be a whole number from 1 to 4096, not a text
     --> style.toml:5:8
      |
    5 | rank = "16"
      |        ^^^^ this is a text

    error: `lora.dropout` must be a number of at least 0 and below 1, not 1.0
     --> style.toml:6:11
      |
    6 | dropout = 1.0
      |           ^^^ out of range

    error: unknown table `trainig`
     --> style.toml:7:2
      |
    7 | [trainig]
      |  ^^^^^^^ did you mean `training`?

    error: `data.eval` names a path that does not exist
      --> style.toml:10:20
       |
    10 | eval = ["b.jsonl", "gone.jsonl", 3]
       |                    ^^^^^^^^^^^^ looked for gone.jsonl

    error: `data.eval` must be a path or a list of paths, not a whole number
      --> style.toml:10:34
       |
    10 | eval = ["b.jsonl", "gone.jsonl", 3]
       |                                  ^ this is a whole number

    error: `training.learning_rate` must be a number above 0 and at most 10, not inf
      --> style.toml:12:17
       |
    12 | learning_rate = inf
       |                 ^^^ out of range

    error: `training.save_every` must be a whole number of at least 0, not a number with a fraction
      --> style.toml:13:14
       |
    13 | save_every = 2.5
       |              ^^^ this is a number with a fraction

    error: `base` is missing
    --> style.toml
    hint: write `base = "path/to/model"` at the top: Hugging Face directory, GGUF file or hf:owner/name[@revision]

    error: there is nothing to train on
    --> style.toml
    hint: write `train = "train.jsonl"` under [data], or a [[source]] with its files
    "##);
}

#[test]
fn every_toml_syntax_error_is_reported() {
    insta::assert_snapshot!(wrong("base = model\nseed = \n[data\ntrain = \"a.jsonl\"\n", &[]), @r##"
    error: this is not TOML
     --> style.toml:1:8
      |
    1 | base = model
      |        ^^^^^ string values must be quoted, expected literal string

    error: this is not TOML
     --> style.toml:2:8
      |
    2 | seed = 
      |        ^ string values must be quoted, expected literal string

    error: this is not TOML
     --> style.toml:3:6
      |
    3 | [data
      |      ^ unclosed table, expected `]`
    "##);
}

#[test]
fn a_missing_base_gets_a_hint_about_the_hub() {
    insta::assert_snapshot!(wrong(&RIGHT.replace("model", "HuggingFaceTB/SmolLM2-135M"), &[]), @r##"
    error: `base` names a path that does not exist
     --> style.toml:1:8
      |
    1 | base = "HuggingFaceTB/SmolLM2-135M"
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ looked for HuggingFaceTB/SmolLM2-135M
    hint: a model on the Hugging Face Hub is written `base = "hf:HuggingFaceTB/SmolLM2-135M"`
    "##);
}

#[test]
fn a_hub_dataset_gets_a_download_hint() {
    let shown = wrong(&RIGHT.replace("a.jsonl", "hf:owner/letters"), &[]);
    assert!(
        shown.contains("`data.train` names a dataset on the Hugging Face Hub; only `base` is read from there"),
        "{shown}"
    );
    assert!(shown.contains("`hf download --repo-type dataset owner/letters --local-dir letters`"), "{shown}");
}

#[test]
fn types_of_tables_and_keys() {
    assert_eq!(messages("base = \"model\"\nlora = 3\ndata.train = \"a.jsonl\"", &[]), ["`lora` must be a table"]);
    assert_eq!(messages(&format!("{RIGHT}[[lora]]\nrank = 1"), &[]), ["`lora` must be a table"]);
    assert_eq!(messages(&format!("{RIGHT}[training.beta1]\nx = 1"), &[]).len(), 1);
    assert_eq!(messages(&format!("{RIGHT}[lora.deep]\nx = 1"), &[]), ["unknown table `lora.deep`"]);
    assert_eq!(messages(&format!("\"lora.rank\" = 3\n{RIGHT}"), &[]), ["unknown key `\"lora.rank\"`"]);
    assert_eq!(messages("base = \"model\"\ndata.train = []", &[]), ["there is nothing to train on"]);
    assert_eq!(messages("base = \"a\\u0000b\"\ndata.train = \"model\"", &[]).len(), 1);
}

#[test]
fn template_variables_have_values_of_several_kinds() {
    let inline = "template_variables = { enable_thinking = false, effort = \"low\", depth = 3, share = 0.5, builtin_tools = [\"a\"] }\n";
    let table = "[data.template_variables]\nenable_thinking = false\neffort = \"low\"\ndepth = 3\nshare = 0.5\nbuiltin_tools = [\"a\"]\n";
    for written in [inline, table] {
        let variables = right(&format!("{RIGHT}{written}"), &[]).data.template_variables;
        let expected = [
            ("builtin_tools", Variable::List(vec!["a".to_owned()])),
            ("depth", Variable::Integer(3)),
            ("effort", Variable::Text("low".to_owned())),
            ("enable_thinking", Variable::Bool(false)),
            ("share", Variable::Number(0.5)),
        ];
        assert_eq!(variables.into_iter().collect::<Vec<_>>(), expected.map(|(name, value)| (name.to_owned(), value)));
    }
    let set = right(RIGHT, &["data.template_variables={enable_thinking=true}"]).data.template_variables;
    assert_eq!(set["enable_thinking"], Variable::Bool(true));
    let reserved = messages(&format!("{RIGHT}template_variables = {{ messages = 1, when = 2026-01-01 }}\n"), &[]);
    assert_eq!(reserved.len(), 2, "{reserved:?}");
    assert!(reserved.iter().any(|fault| fault.contains("`messages` can't be set")), "{reserved:?}");
}

#[test]
fn ranges_hold_at_their_ends() {
    let fails = |set: &str| assert_eq!(messages(RIGHT, &[set]).len(), 1, "{set}");
    for set in [
        "lora.rank=0",
        "lora.rank=4097",
        "lora.rank=99999999999999999999",
        "lora.alpha=0",
        "lora.alpha=-1",
        "lora.alpha=nan",
        "lora.alpha=inf",
        "lora.dropout=1",
        "lora.dropout=-0.1",
        "training.warmup_ratio=1.0",
        "training.epochs=0",
        "training.micro_batch_size=0",
        "training.learning_rate=0",
        "training.max_steps=0",
        "training.keep_checkpoints=0",
        "training.log_every=0",
        "data.max_seq_len=1",
        "data.eval_fraction=1",
        "name=House",
        "name=-x",
        "name=a/b",
        "seed=-1",
        "seed=9223372036854775808",
        "base=hf:name",
        "base=hf:a/b/c",
        "base=hf:../b",
        "base=",
        "lora.target_modules=q_proj",
        "lora.target_modules=[]",
        "data.columns={text = ''}",
        "data.columns={text = 1}",
        "data.columns=text",
        "data.max_bad_rows=-1",
        "audit.leakage=fatal",
        "source.weight=2",
        "source=3",
        "source=[3]",
        "source=[{files = \"b.jsonl\", weight = 0}]",
        "source=[{files = \"b.jsonl\", wieght = 1}]",
        "source=[{split = \"eval\"}]",
        "shuffle=true",
        "data.shuffle=1",
        "data.shuffle=yes",
    ] {
        fails(set);
    }
    for set in [
        "lora.rank=1",
        "lora.rank=4096",
        "lora.dropout=0.999",
        "training.warmup_ratio=0",
        "training.warmup_steps=0",
        "training.max_grad_norm=0",
        "training.weight_decay=0",
        "seed=9223372036854775807",
        "data.eval_fraction=0.5",
    ] {
        right(RIGHT, &[set]);
    }
}

#[test]
fn overrides_replace_values() {
    let source = format!("{RIGHT}[lora]\nrank = \"wrong\"\n");
    let plan =
        right(&source, &["lora.rank=2", "lora.rank = 3 ", "name=2026", "training.recompute=on", "lora={alpha=4}"]);
    assert_eq!((plan.lora.rank, plan.lora.alpha, plan.name.as_str()), (3, 4.0, "2026"));
    let plan = right(RIGHT, &["data.train=[\"a.jsonl\", \"b.jsonl\"]", "base=base.gguf", "quantization=native"]);
    assert_eq!((plan.data.train.len(), plan.quantization), (2, Quantization::Native));
}

#[test]
fn lists_of_tables() {
    let lists = "[[source]]\nfiles = [\"b.jsonl\", \"letters/*.csv\"]\nweight = 2\n[[source]]\nfiles = \".\"\nsplit = \"eval\"\n\
                 columns = { prompt = \"question\" }\n[[template]]\nkind = \"rewrite\"\nuser = \"{a}\"\nassistant = \"{b}\"\n";
    let plan = right(&format!("{RIGHT}{lists}"), &[]);
    assert_eq!((plan.source.len(), plan.template.len(), plan.source[0].weight), (2, 1, 2.0));
    assert!(plan.source[0].files[1].ends_with("letters/*.csv"));
    assert_eq!(plan.source[1].columns["prompt"], "question");
    // The splits of `[data]` and `[[source]]`.
    let splits: Vec<Split> = plan.sources().iter().map(|source| source.split).collect();
    assert_eq!(splits, [Split::Train, Split::Train, Split::Eval]);
    let plan = right(&format!("{RIGHT}{lists}"), &["source=[{files = \"b.jsonl\"}]"]);
    assert_eq!((plan.source.len(), plan.template.len()), (1, 1));

    let faulty = format!("{RIGHT}[[source]]\nfiels = \"b.jsonl\"\n[[source]]\nfiles = \"none.jsonl\"\n");
    insta::assert_snapshot!(wrong(&faulty, &[]), @r##"
    error: `source.files` is missing
     --> style.toml:4:1
      |
    4 | [[source]]
      | ^^^^^^^^^^
    hint: write `files = "terms.tbx"` under [[source]]: as data.train

    error: unknown key `source.fiels`
     --> style.toml:5:1
      |
    5 | fiels = "b.jsonl"
      | ^^^^^ did you mean `files`?
    hint: `tonfall check --keys` lists every key

    error: `source.files` names a path that does not exist
     --> style.toml:7:9
      |
    7 | files = "none.jsonl"
      |         ^^^^^^^^^^^^ looked for none.jsonl
    "##);
}

#[test]
fn invalid_overrides_are_reported() {
    let shown = wrong(RIGHT, &["seed", "lora.target_modules=[\"a\"", "=3", "a b=x", "seed=1\nlr=2", "lora.rank=\"x\""]);
    insta::assert_snapshot!(shown, @r##"
    error: an override is one `key=value`
     |
     | --set seed
     |       ^^^^ such as training.epochs=2

    error: an override is one `key=value`, the value in TOML
     |
     | --set lora.target_modules=["a"
     |                               ^ unclosed array, expected `]`

    error: an override is one `key=value`, the value in TOML
     |
     | --set =3
     |       ^ unquoted keys cannot be empty, expected letters, numbers, `-`, `_`

    error: an override is one `key=value`, the value in TOML
     |
     | --set a b=x
     |         ^ key with no value, expected `=`

    error: an override is one `key=value`
     |
     |   --set seed=1
     |  _______^
     | | lr=2
     | |____^ such as training.epochs=2

    error: `lora.rank` must be a whole number from 1 to 4096, not a text
     |
     | --set lora.rank="x"
     |                 ^^^ this is a text
    "##);
}

#[test]
fn keys_without_effect_are_refused() {
    let full = "[adapter]\nkind = \"full\"\n";
    let source =
        format!("quantization = \"none\"\n{RIGHT}{full}[lora]\nrank = 8\nalpha = 16\n[export]\nto = [\"peft\"]\n");
    insta::assert_snapshot!(wrong(&source, &[]), @r##"
    error: `lora.rank` has no effect with `adapter.kind = "full"`: full training has no adapter
     --> style.toml:8:1
      |
    6 | kind = "full"
      |        ------
    7 | [lora]
    8 | rank = 8
      | ^^^^ remove this

    error: `lora.alpha` has no effect with `adapter.kind = "full"`: full training has no adapter
     --> style.toml:9:1
      |
    6 | kind = "full"
      |        ------
    ...
    9 | alpha = 16
      | ^^^^^ remove this

    error: full training has no adapter to write as `peft`
      --> style.toml:11:6
       |
    11 | to = ["peft"]
       |      ^^^^^^^^ write "safetensors" or "gguf"
    "##);
    let source = format!("quantization = \"none\"\n{RIGHT}{full}");
    let plan = right(&source, &[]);
    assert_eq!((plan.adapter.kind, plan.export.to), (AdapterKind::Full, vec!["safetensors".to_owned()]));
}

#[test]
fn contradictions_are_refused() {
    let fails = |sets: &[&str], part: &str| {
        let messages = messages(RIGHT, sets);
        assert!(messages.len() == 1 && messages[0].contains(part), "{sets:?}: {messages:?}");
    };
    fails(&["adapter.kind=full"], "quantization");
    fails(&["quantization=native"], "GGUF");
    fails(&["data.eval=b.jsonl", "data.eval_fraction=0.1"], "contradict");
    fails(&["training.warmup_ratio=0.1", "training.warmup_steps=3"], "contradict");
    fails(&["evaluation.every=10"], "something to evaluate");
    fails(&["export.to=[]"], "nothing would be written");
    fails(&["export.calibrate=true", "data.eval_fraction=0.1", "export.types=Q4_K_M"], "a quantised GGUF model");
    fails(&["export.calibrate=true", "data.eval_fraction=0.1", "export.to=gguf"], "a quantised GGUF model");
    fails(&["export.calibrate=true", "export.to=gguf", "export.types=Q4_K_M"], "needs held-out texts");
    fails(&["data.eval=a.jsonl"], "both the training data and the eval split");
    fails(&["template=[{kind = \"usage\", user = \"a\"}]"], "needs `assistant`");
    fails(&["template=[{kind = \"context\", user = \"a\", assistant = \"b\"}]"], "has no answer");
    fails(&["source=[{files = \"b.jsonl\", language = \"de\", translate_from = \"DE\"}]"], "nothing is translated");
    fails(&["data.train=[]"], "nothing to train on");
    fails(&["data.train=[]", "source=[{files = \"b.jsonl\", split = \"eval\"}]"], "nothing to train on");
    fails(&["data.format=text", "data.train_on=assistant"], "no assistant");
    fails(&["lora.init=model", "lora.rank=8"], "no effect");
    right(RIGHT, &["evaluation.every=10", "data.eval_fraction=0.1"]);
    right(RIGHT, &["data.format=text", "data.train_on=all", "data.columns={text = \"body\"}"]);
    right(RIGHT, &["evaluation.every=10", "source=[{files = \"b.jsonl\", split = \"eval\"}]"]);
    right(RIGHT, &["data.train=[]", "source=[{files = \"b.jsonl\"}]"]);
}

#[test]
fn rules_of_style_are_checked() {
    let fails = |style: &str, part: &str| {
        let messages = messages(RIGHT, &[&format!("style=[{style}]")]);
        assert!(messages.len() == 1 && messages[0].contains(part), "{style}: {messages:?}");
    };
    fails("{name = \"a\"}", "demands nothing");
    fails("{name = \"a\", must_use = []}", "demands nothing");
    fails("{name = \"a\", must_match = \"(\"}", "`style.must_match` is no regular expression");
    fails("{name = \"a\", must_match = \"(\\\\w{1000}){1000}\"}", "`style.must_match` is no regular expression");
    fails("{name = \"a\", must_use = [\" \"]}", "an empty text");
    fails("{name = \"a\", must_use = \"b\", language = \"fr\"}", "must be \"de\" or \"en\"");
    fails("{name = \"a\", must_use = \"b\"}, {name = \"a\", must_not_use = \"c\"}", "two rules of style");
    fails("{name = \"A b\", must_use = \"b\"}", "`style.name`");
    let plan =
        right(RIGHT, &["style=[{name = \"a\", must_match = \"^D\", must_not_use = \"b\", language = \"de-CH\"}]"]);
    assert_eq!((plan.style[0].must_not_use.as_slice(), plan.style[0].must_use.len()), (&["b".to_owned()][..], 0));
}

#[test]
fn unreadable_recipes_are_reported() {
    let dir = folder();
    let load = |name: &str| RecipeFile::load(&dir.path().join(name), &[]).expect_err("unreadable").to_string();
    assert!(load("gone.toml").contains("can't read the recipe"));
    assert!(load("model").contains("can't read the recipe"));
    std::fs::write(dir.path().join("latin1.toml"), b"name = \"M\xfcller\"").expect("written");
    assert!(load("latin1.toml").contains("byte 9"), "{}", load("latin1.toml"));
    std::fs::write(dir.path().join("big.toml"), vec![b'#'; MAX_RECIPE as usize + 1]).expect("written");
    assert!(load("big.toml").contains("longer"));
    std::fs::write(dir.path().join("deep.toml"), format!("a = {}", "[".repeat(100_000))).expect("written");
    assert!(load("deep.toml").contains("not TOML"));
}

#[test]
fn the_run_name_is_the_file_name_or_the_folder_of_recipe_toml() {
    for (file, name) in [
        ("x/House Style.toml", "house-style"),
        ("x/é.toml", "run"),
        ("x/a_b.v2.toml", "a-b-v2"),
        ("x/--.toml", "run"),
        ("x/my-style/recipe.toml", "my-style"),
        ("x/My Style/Recipe.toml", "my-style"),
        ("/recipe.toml", "run"),
    ] {
        let path = Path::new(file);
        assert_eq!(name_of(path, path.parent().expect("a folder")), name, "{file}");
        assert!(values::is_name(name));
    }
    // A recipe in the current directory, by its file name only.
    let here = std::env::current_dir().expect("a folder");
    let recipe =
        RecipeFile { path: FILE_NAME.into(), source: "base = \"hf:a/b\"\ndata.train = \"Cargo.toml\"\n".into() };
    assert_eq!(Some(recipe.plan(&[]).expect("right").name.as_str()), here.file_name().and_then(|name| name.to_str()));
}

#[test]
fn paths_are_simplified_unless_a_link_is_in_them() {
    let dir = folder();
    std::fs::create_dir_all(dir.path().join("deep/er")).expect("made");
    let plan = plan_in(&dir, "base = \"model\"\ndata.train = \"deep/er/../../new/../*.jsonl\"\n", &[]).expect("right");
    assert_eq!(plan.data.train, [dir.path().join("*.jsonl")]);
    // `link/..` is the parent of the link's target.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("deep/er"), dir.path().join("link")).expect("linked");
        std::fs::write(dir.path().join("deep/c.jsonl"), "").expect("written");
        let plan = plan_in(&dir, "base = \"model\"\ndata.train = \"link/../c.jsonl\"\n", &[]).expect("right");
        assert_eq!(plan.data.train, [dir.path().join("link/../c.jsonl")]);
    }
}

#[test]
fn keys_of_other_trainers_get_our_name_as_a_hint() {
    let source =
        format!("{RIGHT}[training]\nlr = 1e-4\nbatch_size = 4\nbf16 = true\nload_in_4bit = true\n[trainer]\nx = 1\n");
    insta::assert_snapshot!(wrong(&source, &[]), @r##"
    error: unknown key `training.lr`
     --> style.toml:5:1
      |
    5 | lr = 1e-4
      | ^^ did you mean `learning_rate`?

    error: unknown key `training.batch_size`
     --> style.toml:6:1
      |
    6 | batch_size = 4
      | ^^^^^^^^^^ did you mean `micro_batch_size`?

    error: unknown key `training.bf16`
     --> style.toml:7:1
      |
    7 | bf16 = true
      | ^^^^ remove this: the device decides the precision; `tonfall doctor` prints it

    error: unknown key `training.load_in_4bit`
     --> style.toml:8:1
      |
    8 | load_in_4bit = true
      | ^^^^^^^^^^^^ write `quantization = "nf4"` at the top instead
    hint: `tonfall check --keys` lists every key

    error: unknown table `trainer`
     --> style.toml:9:2
      |
    9 | [trainer]
      |  ^^^^^^^ did you mean `training`?
    "##);
}

proptest! {
    #[test]
    fn any_text_is_a_recipe_or_faults(text in "(\\PC|\n|\\[|\\]|=|\"|base|data|lora|\\.){0,120}", set in "(\\PC|=|lora|rank|\"|\\.|\n){0,40}") {
        let recipe = RecipeFile { path: "/nowhere/x.toml".into(), source: text };
        if let Err(faults) = recipe.plan(&[set]) {
            prop_assert!(!faults.items.is_empty());
            faults.render(true, 80);
        }
    }
}
