use proptest::prelude::*;

use toml::{Table, Value};

use super::*;
use crate::schema::{KEYS, Kind};

fn source() -> SourcePlan {
    SourcePlan {
        files: vec!["/data/terms.tbx".into()],
        split: Split::Train,
        format: DataFormat::Terminology,
        columns: [("term".to_owned(), "Benennung".to_owned())].into(),
        filter: Some("status = 'approved'".to_owned()),
        weight: 0.5,
        language: Some("de".to_owned()),
        translate_from: Some("en".to_owned()),
        no_answer: Some("Dazu sagen die Unterlagen nichts.".to_owned()),
    }
}

fn template() -> TemplatePlan {
    TemplatePlan {
        kind: TemplateKind::Usage,
        user: "a".to_owned(),
        assistant: Some("b".to_owned()),
        system: Some("c".to_owned()),
        language: Some("de".to_owned()),
    }
}

fn style() -> StylePlan {
    StylePlan {
        name: "no-shouting".to_owned(),
        must_match: Some("a".to_owned()),
        must_not_match: Some("!{2}".to_owned()),
        must_use: vec!["b".to_owned()],
        must_not_use: vec!["c".to_owned()],
        language: Some("de".to_owned()),
    }
}

fn plan() -> Plan {
    Plan {
        name: "house-style".into(),
        base: Base::Local("/models/base.gguf".into()),
        quantization: Quantization::Nf4,
        allow_download: false,
        seed: 42,
        output_dir: "/srv/runs".into(),
        adapter: AdapterPlan::default(),
        lora: LoraPlan::default(),
        data: DataPlan {
            train: vec!["/data/a.jsonl".into()],
            eval: vec![],
            eval_fraction: 0.0,
            split_by: SplitBy::Similar,
            format: DataFormat::Auto,
            columns: BTreeMap::new(),
            max_bad_rows: 0,
            train_on: TrainOn::Assistant,
            thinking: Thinking::Keep,
            chat_template: None,
            template_variables: BTreeMap::new(),
            max_seq_len: 1024,
            overflow: Overflow::Error,
            packing: Packing::Off,
            shuffle: true,
            cache: true,
        },
        source: vec![],
        template: vec![],
        audit: AuditPlan::default(),
        training: TrainingPlan::default(),
        evaluation: EvaluationPlan::default(),
        export: ExportPlan::default(),
        style: vec![],
        gate: vec![],
        publish: PublishPlan::default(),
        hook: vec![],
        nightly: NightlyPlan::default(),
        notify: NotifyPlan::default(),
    }
}

fn gate() -> GatePlan {
    GatePlan {
        measure: "terms.preferred".to_owned(),
        at_least: Some(0.9),
        at_most: Some(1.0),
        over_base: Some(0.1),
        over_published: Some(-0.02),
        confidence: 0.95,
    }
}

fn hook() -> HookPlan {
    HookPlan { server: Some("http://localhost:8000".to_owned()), command: Some("true".to_owned()), timeout: 120 }
}

#[test]
fn defaults_are_those_of_the_schema() {
    let training = TrainingPlan::default();
    assert_eq!((training.learning_rate, training.warmup_steps, training.schedule), (2e-4, None, Schedule::Cosine));
    assert_eq!(LoraPlan::default().target_modules, TargetModules::AllLinear);
    let export = ExportPlan::default();
    let (to, types) = (vec!["peft".to_owned()], vec!["F16".to_owned()]);
    assert_eq!(export, ExportPlan { to, types, calibrate: false, verify: true });
}

#[test]
fn schema_and_plan_have_the_same_choices() {
    let plan = Plan { source: vec![source()], template: vec![template()], style: vec![style()], ..plan() };
    let plan = Table::try_from(plan).expect("a plan");
    for key in KEYS {
        let Kind::Choice(choices) = key.kind else { continue };
        for choice in choices {
            let mut changed = plan.clone();
            let (table, name) = key.split();
            let table = match table {
                "" => &mut changed,
                table => match &mut changed[table] {
                    Value::Array(items) => items[0].as_table_mut().expect("a table"),
                    table => table.as_table_mut().expect("a table"),
                },
            };
            table.insert(name.to_owned(), Value::String((*choice).to_owned()));
            Plan::from_toml(&toml::to_string(&changed).expect("TOML"))
                .unwrap_or_else(|error| panic!("{}: {error}", key.path));
        }
    }
}

#[test]
fn every_field_of_the_plan_is_a_row_of_the_schema() {
    let mut plan = plan();
    plan.lora.init = Some("/a".into());
    (plan.training.epochs, plan.training.max_steps) = (Some(1.0), Some(1));
    plan.training.warmup_steps = Some(1);
    plan.training.max_memory = Some(1.0);
    plan.data.chat_template = Some("/t".into());
    (plan.evaluation.prompts, plan.evaluation.retention) = (Some("/p".into()), Some("/r".into()));
    (plan.source, plan.template, plan.style) = (vec![source()], vec![template()], vec![style()]);
    (plan.gate, plan.hook) = (vec![gate()], vec![hook()]);
    plan.publish.name = Some("a".into());
    plan.nightly.max_duration = Some(1.0);
    let text = || Some("a".to_owned());
    plan.notify = NotifyPlan { webhook: text(), token: text(), command: text() };
    let mut fields = Vec::new();
    for (name, value) in Table::try_from(plan).expect("a plan") {
        match value {
            Value::Table(table) => fields.extend(table.keys().map(|key| format!("{name}.{key}"))),
            Value::Array(items) => {
                fields.extend(items[0].as_table().expect("a table").keys().map(|key| format!("{name}.{key}")));
            }
            _ => fields.push(name),
        }
    }
    let mut keys: Vec<_> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    fields.sort();
    keys.sort();
    assert_eq!(fields, keys);
}

#[test]
fn plans_of_older_builds_keep_the_behaviour_of_their_build() {
    let text = plan().to_toml();
    let without = |text: &str, name: &str| -> String {
        text.lines().filter(|line| !line.starts_with(name)).map(|line| format!("{line}\n")).collect()
    };
    let old = without(&without(&without(&text, "split_by = "), "template_variables = "), "messages_left_out = ");
    let old = Plan::from_toml(&old).expect("keys that came later may be missing");
    assert_eq!((plan().data.split_by, old.data.split_by), (SplitBy::Similar, SplitBy::Row));
    assert!(old.data.template_variables.is_empty());
    assert_eq!(plan().audit.severity(AuditRule::MessagesLeftOut), Severity::Error);
    assert_eq!(old.audit.severity(AuditRule::MessagesLeftOut), Severity::Warn, "a new rule stops no old run");
}

#[test]
fn plan_toml_has_a_comment_for_each_key() {
    let text = plan().to_toml();
    assert!(text.contains("\nlearning_rate = 0.0002  # peak of the schedule\n"), "{text}");
    assert!(text.contains("\n# warmup_steps is not set: "), "{text}");
    assert_eq!(Plan::from_toml(&text).expect("it reads its own"), plan());

    let listed = Plan {
        source: vec![source(), source()],
        template: vec![template()],
        style: vec![style(), style()],
        gate: vec![gate()],
        hook: vec![hook()],
        ..plan()
    };
    let text = listed.to_toml();
    assert!(text.contains("\ncolumns = { term = \"Benennung\" }  # "), "{text}");
    assert_eq!(Plan::from_toml(&text).expect("it reads its own"), listed, "{text}");
}

#[test]
fn absent_keys_have_their_defaults() {
    let listed = Plan { source: vec![source()], template: vec![template()], ..plan() };
    let text = listed.to_toml();
    for (key, line) in [("lora.rank", "rank = 16"), ("source.split", "split = \"train\""), ("data.eval", "eval = []")] {
        let without: String =
            text.lines().filter(|written| !written.starts_with(line)).flat_map(|l| [l, "\n"]).collect();
        assert!(without.len() < text.len(), "{key}");
        assert_eq!(Plan::from_toml(&without).unwrap_or_else(|error| panic!("{key}: {error}")), listed, "{key}");
    }
    let tables = text.find("\n[evaluation]").expect("a table");
    assert_eq!(Plan::from_toml(&text[..tables]).expect("whole tables may be absent"), listed);
    let top = "name = \"a\"\nbase = \"/b\"\n";
    let plan = Plan::from_toml(top).expect("these two keys have no default");
    assert_eq!((plan.source.len(), plan.training), (0, TrainingPlan::default()));
    let missing = Plan::from_toml("name = \"a\"\n").expect_err("no base");
    assert!(matches!(missing, PlanError::Missing("base")), "{missing}");
}

#[test]
fn keys_and_choices_of_later_versions_are_named() {
    let text = Plan { source: vec![source()], ..plan() }.to_toml();
    for (from, to, named) in [
        ("\nrank = 16", "\nrank = 16\nspan = 2", "`lora.span` is a key"),
        ("\nweight = 0.5", "\nweight = 0.5\nspan = 2", "`source.span` is a key"),
        ("\nseed = 42", "\nseed = 42\nspan = { a = 2 }", "`span` is a key"),
        ("kind = \"lora\"", "kind = \"dora\"", "`adapter.kind = \"dora\"` is a choice"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = Plan::from_toml(&text.replace(from, to)).expect_err(named);
        assert!(matches!(&error, PlanError::Unknown(what) if what == named), "{error}");
    }
    let error = Plan::from_toml(&text.replace("rank = 16", "rank = true")).expect_err("no number");
    assert!(matches!(error, PlanError::Value(_)), "{error}");
    for text in ["lora = 1\nname = \"a\"\nbase = \"b\"", "source = [1]\nname = \"a\"\nbase = \"b\""] {
        assert!(Plan::from_toml(text).is_err(), "{text}");
    }
}

/// Text and hash were written by tonfall 0.1.0.
#[test]
fn the_hash_of_the_first_version_is_verified() {
    let text = include_str!("first_version.toml");
    let hash = "72b7c5d3aad313a02b5b5e50a0403b440b6f57c8cc6dd5100f674a0fabebaa06";
    assert!(text_matches(text, hash));
    assert!(text_matches(&text.replace("seed = 42  ", "seed = 42 "), hash), "it was a hash of the values");
    for (from, to) in [
        ("seed = 42", "seed = 43"),
        ("0.0002", "0.0003"),
        ("Benennung", "Name"),
        ("rank = 16", "# rank"),
        ("rank = 16", "span = 1\nrank = 16"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(!text_matches(&text.replace(from, to), hash), "{from}");
    }
    assert!(text_matches(text, &text_hash(text)) && !text_matches("no plan", hash));
}

#[test]
fn the_hash_changes_with_any_value_and_with_nothing_else() {
    let hash = plan().hash();
    assert_eq!(hash.len(), 64);
    assert_eq!(hash, Plan::from_toml(&plan().to_toml()).expect("a plan").hash());
    let mut changed = plan();
    changed.training.max_steps = Some(1);
    assert_ne!(hash, changed.hash());
}

#[test]
fn plans_without_translate_from_keep_their_text() {
    let source = SourcePlan { translate_from: None, ..source() };
    let text = serde_json::to_string(&source).expect("JSON");
    assert!(!text.contains("translate_from"), "the hash of plans of builds without the key: {text}");
    assert_eq!(serde_json::from_str::<SourcePlan>(&text).expect("it reads its own"), source);
}

#[test]
fn a_rule_that_an_older_plan_lacks_warns() {
    let old: AuditPlan = toml::from_str("duplicates = \"error\"").expect("a table of rules");
    assert_eq!(old.severity(AuditRule::Duplicates), Severity::Error);
    assert_eq!(old.severity(AuditRule::UnknownStatus), Severity::Warn);
}

#[test]
fn modules_match_as_in_peft() {
    let list = TargetModules::List(vec!["q_proj".into(), "model.layers.0.mlp.up_proj".into()]);
    assert_eq!(list.matching("model.layers.3.self_attn.q_proj"), Some("q_proj"));
    assert_eq!(list.matching("q_proj"), Some("q_proj"));
    assert_eq!(list.matching("model.layers.0.mlp.up_proj"), Some("model.layers.0.mlp.up_proj"));
    assert_eq!(list.matching("model.layers.1.mlp.up_proj"), None);
    assert_eq!(list.matching("model.layers.3.self_attn.xq_proj"), None);
    assert_eq!(TargetModules::AllLinear.matching("anything"), Some("all-linear"));
    assert_eq!(TargetModules::AllLinear.names().count(), 0);
}

#[test]
fn a_base_is_a_path_or_a_name() {
    assert_eq!(Base::from("hf:a/b@main".to_owned()), Base::Hub("a/b@main".into()));
    assert!(Base::from("/x/y.GGUF".to_owned()).is_gguf());
    assert!(!Base::from("hf:a/b.gguf".to_owned()).is_gguf());
    assert_eq!(Base::from("/x/y".to_owned()).to_string(), "/x/y");
}

prop_compose! {
    fn any_plan()(
        name in "[a-z0-9][a-z0-9-]{0,20}",
        path in "/[a-zA-Z0-9 é\"'\\\\#\n\t=\\[\\]-]{1,30}",
        hub in proptest::option::of("[a-z]{1,5}/[a-z]{1,5}"),
        seed in 0..i64::MAX as u64,
        numbers in proptest::array::uniform8(proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::SUBNORMAL),
        steps in proptest::option::of(0..1u64 << 40),
        modules in proptest::option::of(proptest::collection::vec("[a-z_.\"]{1,8}", 1..4)),
        files in proptest::collection::vec("/[a-z\u{4e00}-\u{4e10}]{1,8}", 0..4),
        flags in any::<[bool; 4]>(),
        init in proptest::option::of("/[a-z]{1,8}"),
    ) -> Plan {
        let mut plan = plan();
        plan.name = name;
        plan.base = hub.map_or(Base::Local(path.clone().into()), Base::Hub);
        plan.output_dir = path.clone().into();
        plan.seed = seed;
        plan.lora = LoraPlan {
            rank: 1 + seed as usize % 4096,
            alpha: numbers[0],
            dropout: numbers[1],
            use_rslora: flags[0],
            target_modules: modules.map_or(TargetModules::AllLinear, TargetModules::List),
            init: init.map(PathBuf::from),
        };
        plan.data.train = files.iter().map(PathBuf::from).collect();
        plan.data.columns = [("text".to_owned(), path)].into();
        plan.data.shuffle = flags[1];
        plan.training.epochs = flags[0].then_some(numbers[2]);
        plan.training.learning_rate = numbers[3];
        plan.training.epsilon = numbers[4];
        plan.training.weight_decay = numbers[5];
        plan.training.max_grad_norm = numbers[6];
        plan.training.beta2 = numbers[7];
        plan.training.max_steps = steps;
        let names = [(flags[2], "peft"), (flags[3], "gguf")];
        plan.export.to = names.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()).collect();
        plan
    }
}

proptest! {
    #[test]
    fn plan_toml_round_trips(plan in any_plan()) {
        let back = Plan::from_toml(&plan.to_toml()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(back.hash(), plan.hash());
        prop_assert_eq!(back, plan);
    }

    #[test]
    fn any_text_is_a_plan_or_an_error(text in "\\PC{0,200}") {
        let _ = Plan::from_toml(&text);
    }
}
