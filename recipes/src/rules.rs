//! Rules that tie several keys of a recipe together.

use toml::{Table, Value};

use crate::diagnostics::Diagnostic;
use crate::recipe::Entries;

/// Adds a fault for each rule that the plan breaks.
pub(crate) fn check(entries: &Entries, plan: &Table, faults: &mut Vec<Diagnostic>) {
    let text = |table: &str, name: &str| {
        let holder = if table.is_empty() { Some(plan) } else { plan.get(table).and_then(Value::as_table) };
        holder.and_then(|holder| holder.get(name)).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut fault = |path: &str, message: &str, label: &str, help: &str| {
        faults.push(Diagnostic {
            message: message.to_owned(),
            place: entries.get(path).map(|entry| entry.value_place.clone()),
            label: label.to_owned(),
            help: Some(help.to_owned()),
        });
    };
    let (base, quantization) = (text("", "base"), text("", "quantization"));
    let full = text("adapter", "kind") == "full";

    if quantization == "native" && !base.is_empty() && !base.ends_with(".gguf") {
        fault(
            "quantization",
            "`quantization = \"native\"` needs a GGUF base",
            "this base is not a .gguf file",
            "native keeps a GGUF file's own blocks; use \"nf4\" for other bases",
        );
    }
    if full && quantization != "none" {
        fault(
            "adapter.kind",
            "`adapter.kind = \"full\"` needs `quantization = \"none\"`",
            "",
            "weights of 4 bits can't be trained themselves; use \"none\", or train an adapter",
        );
    }
    if full {
        for key in crate::schema::KEYS.iter().filter(|key| key.parts().0 == "lora" && entries.get(key.path).is_some()) {
            fault(
                key.path,
                &format!("`{}` has no effect with `adapter.kind = \"full\"`", key.path),
                "",
                "remove it, or use kind = \"lora\"",
            );
        }
        if entries.get("export.merged").is_some_and(|entry| entry.value == Value::Boolean(true)) {
            fault(
                "export.merged",
                "there is nothing to merge with `adapter.kind = \"full\"`",
                "",
                "the whole model is written in any case",
            );
        }
    }
    if entries.get("training.warmup_steps").is_some() && entries.get("training.warmup_ratio").is_some() {
        fault(
            "training.warmup_steps",
            "`training.warmup_steps` and `training.warmup_ratio` are both set",
            "",
            "keep one of them",
        );
    }
    let has_eval =
        entries.get("data.eval").is_some_and(|entry| entry.value.as_array().is_none_or(|list| !list.is_empty()));
    let fraction = plan.get("data").and_then(|data| data.get("eval_fraction")).and_then(Value::as_float).unwrap_or(0.0);
    if has_eval && fraction > 0.0 {
        fault("data.eval_fraction", "`data.eval` and `data.eval_fraction` are both set", "", "keep one of them");
    }
}
