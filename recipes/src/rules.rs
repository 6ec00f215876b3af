//! Rules that involve several keys.
//!
//! Responsible for: values that are valid alone but contradict each other. A key without effect is a contradiction too:
//! no key of a recipe is ignored.
//! Must not depend on: the syntax of values.

mod publishing;

use std::collections::BTreeSet;

use toml::Value;

use crate::diagnostics::{Diagnostic, Place};
use crate::plan::{AdapterKind, Plan};
use crate::settings::Settings;

/// Keys that have no effect if another key has a certain value.
struct WithoutEffect {
    when: &'static str,
    /// The value of the other key; `None` for any value.
    is: Option<&'static str>,
    keys: &'static [&'static str],
    because: &'static str,
}

const WITHOUT_EFFECT: &[WithoutEffect] = &[
    WithoutEffect {
        when: "adapter.kind",
        is: Some("full"),
        keys: &["lora.rank", "lora.alpha", "lora.dropout", "lora.use_rslora", "lora.target_modules", "lora.init"],
        because: "full training has no adapter",
    },
    WithoutEffect {
        when: "lora.init",
        is: None,
        keys: &["lora.rank", "lora.alpha", "lora.use_rslora", "lora.target_modules"],
        because: "the adapter at `lora.init` decides it",
    },
];

/// Exports of an adapter.
const NEED_ADAPTER: [&str; 2] = ["peft", "gguf-adapter"];

/// File types of GGUF models that a calibration doesn't change.
const NOT_CALIBRATED: [&str; 4] = ["F32", "BF16", "F16", "Q8_0"];

/// All contradictions of a recipe.
pub(crate) fn check(settings: &Settings) -> Vec<Diagnostic> {
    let mut faults = without_effect(settings);
    let rules = [
        full_is_dense,
        native_is_gguf,
        one_eval_split,
        one_warmup,
        something_to_evaluate,
        something_to_export,
        something_to_calibrate,
        something_to_calibrate_on,
        full_has_no_adapter,
        text_has_no_assistant,
        something_to_train_on,
    ];
    faults.extend(rules.iter().filter_map(|rule| rule(settings)));
    faults.extend(templates_have_answers(settings));
    faults.extend(translated_from_another_language(settings));
    faults.extend(held_out_is_held_out(settings));
    faults.extend(styles_demand_something(settings));
    faults.extend(publishing::check(settings));
    faults
}

/// Sets values that depend on other keys: full training writes no adapter, and a run without a length has one epoch.
pub(crate) fn settle(plan: &mut Plan) {
    if plan.training.max_steps.is_none() {
        plan.training.epochs.get_or_insert(1.0);
    }
    if plan.adapter.kind == AdapterKind::Full && plan.export.to.iter().any(|name| NEED_ADAPTER.contains(&name.as_str()))
    {
        plan.export.to = vec!["safetensors".to_owned()];
    }
    for list in [&mut plan.export.to, &mut plan.export.types] {
        let mut seen = BTreeSet::new();
        list.retain(|name| seen.insert(name.clone()));
    }
}

fn without_effect(settings: &Settings) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    for rule in WITHOUT_EFFECT {
        let Some(value) = settings.value(rule.when) else { continue };
        if rule.is.is_some_and(|is| value.as_str() != Some(is)) {
            continue;
        }
        let when = match rule.is {
            Some(is) => format!("`{} = \"{is}\"`", rule.when),
            None => format!("`{}`", rule.when),
        };
        for (key, setting) in rule.keys.iter().filter_map(|key| Some((key, settings.explicit(key)?))) {
            let message = format!("`{key}` has no effect with {when}: {}", rule.because);
            let fault = Diagnostic::error(message).at(setting.key.clone()).label("remove this");
            let context = settings.explicit(rule.when).map(|when| Box::new((when.place.clone(), String::new())));
            faults.push(Diagnostic { context, ..fault });
        }
    }
    faults
}

fn full_is_dense(settings: &Settings) -> Option<Diagnostic> {
    let wrong = is(settings, "adapter.kind", "full") && !is(settings, "quantization", "none");
    wrong.then(|| {
        fault(settings, &["quantization", "adapter.kind"], "full training needs `quantization = \"none\"`")
            .label("trained weights must be dense")
    })
}

fn native_is_gguf(settings: &Settings) -> Option<Diagnostic> {
    let base = settings.value("base")?;
    let is_gguf = base.as_str().is_some_and(|base| !base.starts_with("hf:") && base.to_lowercase().ends_with(".gguf"));
    (is(settings, "quantization", "native") && !is_gguf).then(|| {
        fault(settings, &["quantization", "base"], "`quantization = \"native\"` needs a GGUF file as `base`")
            .label("write \"nf4\" or \"none\"")
    })
}

fn one_eval_split(settings: &Settings) -> Option<Diagnostic> {
    let both = has_items(settings, "data.eval") && number(settings, "data.eval_fraction") > 0.0;
    both.then(|| {
        fault(
            settings,
            &["data.eval_fraction", "data.eval"],
            "`data.eval` and `data.eval_fraction` contradict each other",
        )
        .label("remove this, or `eval`")
    })
}

fn one_warmup(settings: &Settings) -> Option<Diagnostic> {
    settings.explicit("training.warmup_ratio").zip(settings.explicit("training.warmup_steps")).map(|_| {
        fault(
            settings,
            &["training.warmup_ratio", "training.warmup_steps"],
            "`training.warmup_ratio` and `training.warmup_steps` contradict each other",
        )
        .label("remove one of them")
    })
}

/// Whether no key defines an eval split. A faulty value counts as one, because it was reported before.
fn no_eval_split(settings: &Settings) -> bool {
    let sources = settings.tables("source").into_iter();
    let held_out = sources.map(|(prefix, _)| format!("{prefix}split")).any(|split| is(settings, &split, "eval"));
    let nothing = !held_out && !has_items(settings, "data.eval") && number(settings, "data.eval_fraction") <= 0.0;
    let known = settings.value("data.eval").is_some() && settings.value("data.eval_fraction").is_some();
    nothing && known
}

fn something_to_evaluate(settings: &Settings) -> Option<Diagnostic> {
    (number(settings, "evaluation.every") > 0.0 && no_eval_split(settings)).then(|| {
        fault(settings, &["evaluation.every"], "`evaluation.every` needs something to evaluate")
            .label("set `data.eval` or `data.eval_fraction`, or remove this")
    })
}

fn something_to_export(settings: &Settings) -> Option<Diagnostic> {
    let is_empty = settings.value("export.to")?.as_array()?.is_empty();
    is_empty.then(|| {
        fault(settings, &["export.to"], "nothing would be written at the end").label("name at least one export")
    })
}

fn calibrates(settings: &Settings) -> bool {
    settings.value("export.calibrate") == Some(Value::Boolean(true))
}

fn something_to_calibrate(settings: &Settings) -> Option<Diagnostic> {
    let names = |key: &str| -> Option<Vec<String>> {
        Some(settings.value(key)?.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let (to, types) = (names("export.to")?, names("export.types")?);
    let none = !to.iter().any(|name| ["gguf", "ollama"].contains(&name.as_str()))
        || types.iter().all(|name| NOT_CALIBRATED.contains(&name.as_str()));
    (calibrates(settings) && none).then(|| {
        fault(settings, &["export.calibrate"], "`export.calibrate` needs a quantised GGUF model")
            .label("add \"gguf\" to `export.to` and a type such as \"Q4_K_M\" to `export.types`, or remove this")
    })
}

fn something_to_calibrate_on(settings: &Settings) -> Option<Diagnostic> {
    let has_prompts = settings.explicit("evaluation.prompts").is_some();
    (calibrates(settings) && no_eval_split(settings) && !has_prompts).then(|| {
        fault(settings, &["export.calibrate"], "`export.calibrate` needs held-out texts")
            .label("set `data.eval`, `data.eval_fraction` or `evaluation.prompts`, or remove this")
    })
}

fn full_has_no_adapter(settings: &Settings) -> Option<Diagnostic> {
    let Some(Value::Array(wanted)) = &settings.explicit("export.to")?.value else { return None };
    let adapter = wanted.iter().filter_map(Value::as_str).find(|name| NEED_ADAPTER.contains(name));
    adapter.filter(|_| is(settings, "adapter.kind", "full")).map(|name| {
        fault(settings, &["export.to"], &format!("full training has no adapter to write as `{name}`"))
            .label("write \"safetensors\" or \"gguf\"")
    })
}

fn text_has_no_assistant(settings: &Settings) -> Option<Diagnostic> {
    let asked = settings.explicit("data.train_on").is_some() && !is(settings, "data.train_on", "all");
    (is(settings, "data.format", "text") && asked).then(|| {
        fault(settings, &["data.train_on", "data.format"], "plain text has no assistant turns")
            .label("write \"all\", or remove this")
    })
}

fn something_to_train_on(settings: &Settings) -> Option<Diagnostic> {
    let mut sources = settings.tables("source").into_iter().map(|(prefix, _)| prefix);
    let none = (settings.explicit("data.train").is_none_or(|train| train.value.is_some()))
        && !has_items(settings, "data.train")
        && !sources.any(|prefix| is(settings, &format!("{prefix}split"), "train"));
    none.then(|| {
        Diagnostic::error("there is nothing to train on")
            .hint("write `train = \"train.jsonl\"` under [data], or a [[source]] with its files")
    })
}

/// Every template needs an answer, except those of kind `context`.
fn templates_have_answers(settings: &Settings) -> Vec<Diagnostic> {
    let templates = settings.tables("template").into_iter();
    let faults = templates.filter_map(|(prefix, _)| {
        let kind = settings.explicit(&format!("{prefix}kind"))?;
        let assistant = settings.explicit(&format!("{prefix}assistant"));
        match (is(settings, &format!("{prefix}kind"), "context"), assistant) {
            (true, Some(assistant)) => Some(
                Diagnostic::error("a template of kind \"context\" has no answer: the row has one")
                    .at(assistant.key.clone())
                    .label("remove this"),
            ),
            (false, None) if kind.value.is_some() => Some(
                Diagnostic::error("a template needs `assistant`, the text of the answer")
                    .at(kind.place.clone())
                    .label("write, say, assistant = \"{styled}\" below"),
            ),
            _ => None,
        }
    });
    faults.collect()
}

/// `translate_from` must not be the target language.
fn translated_from_another_language(settings: &Settings) -> Vec<Diagnostic> {
    let sources = settings.tables("source").into_iter();
    let faults = sources.filter_map(|(prefix, _)| {
        let text = |key: &str| Some(settings.value(&format!("{prefix}{key}"))?.as_str()?.to_lowercase());
        let from = settings.explicit(&format!("{prefix}translate_from"))?;
        (text("translate_from") == text("language")).then(|| {
            Diagnostic::error("`translate_from` and `language` are the same language, so that nothing is translated")
                .at(from.place.clone())
                .label("name another language, or remove this")
        })
    });
    faults.collect()
}

/// A training file must not be in the eval split.
fn held_out_is_held_out(settings: &Settings) -> Vec<Diagnostic> {
    let files = |path| match settings.value(path) {
        Some(Value::Array(files)) => files,
        _ => Vec::new(),
    };
    let train = files("data.train");
    let both = files("data.eval").into_iter().filter(|file| train.contains(file));
    both.map(|file| {
        fault(
            settings,
            &["data.eval", "data.train"],
            &format!("{file} is in both the training data and the eval split"),
        )
        .label("name another file, or use `eval_fraction`")
    })
    .collect()
}

/// Every rule of style demands something, in a language that the evaluation knows, and has a name of its own.
fn styles_demand_something(settings: &Settings) -> Vec<Diagnostic> {
    const DEMANDS: [&str; 4] = ["must_match", "must_not_match", "must_use", "must_not_use"];
    let (mut faults, mut names) = (Vec::new(), BTreeSet::new());
    for (prefix, place) in settings.tables("style") {
        let is_empty = |setting: &crate::settings::Setting| matches!(&setting.value, Some(Value::Array(items)) if items.is_empty());
        let demands = DEMANDS.iter().filter_map(|key| settings.explicit(&format!("{prefix}{key}")));
        if demands.into_iter().all(is_empty) {
            let fault = Diagnostic::error("a rule of style demands nothing");
            let fault = Diagnostic { place: place.cloned(), ..fault };
            faults.push(fault.label("write must_match, must_not_match, must_use or must_not_use below"));
        }
        if let Some(language) = settings.explicit(&format!("{prefix}language"))
            && let Some(Value::String(tag)) = &language.value
            && !["de", "en"].contains(&tag.to_lowercase().split(['-', '_']).next().unwrap_or_default())
        {
            let fault = Diagnostic::error(format!("`style.language` must be \"de\" or \"en\", not \"{tag}\""));
            faults.push(
                fault.at(language.place.clone()).label("the languages of generations are recognized only for these"),
            );
        }
        let name = settings.explicit(&format!("{prefix}name"));
        if let Some((setting, name)) = name.and_then(|setting| Some((setting, setting.value.as_ref()?.as_str()?)))
            && !names.insert(name.to_owned())
        {
            let fault = Diagnostic::error(format!("two rules of style are named \"{name}\""));
            faults.push(fault.at(setting.place.clone()).label("give this one another name"));
        }
    }
    faults
}

/// A fault at the value of the first of `keys` that is set; the second one is shown as context.
fn fault(settings: &Settings, keys: &[&str], message: &str) -> Diagnostic {
    let mut places = keys.iter().filter_map(|key| Some(settings.explicit(key)?.place.clone()));
    let place: Option<Place> = places.next();
    Diagnostic {
        place,
        context: places.next().map(|place| Box::new((place, String::new()))),
        ..Diagnostic::error(message)
    }
}

fn is(settings: &Settings, path: &str, text: &str) -> bool {
    settings.value(path).is_some_and(|value| value.as_str() == Some(text))
}

fn has_items(settings: &Settings, path: &str) -> bool {
    settings.value(path).is_some_and(|value| value.as_array().is_some_and(|items| !items.is_empty()))
}

/// The number of a key; 0 if it is unset or faulty.
fn number(settings: &Settings, path: &str) -> f64 {
    match settings.value(path) {
        Some(Value::Float(number)) => number,
        Some(Value::Integer(number)) => number as f64,
        _ => 0.0,
    }
}
