//! Rules of the tables for publishing: `[[gate]]`, `[[hook]]`, `[nightly]` and `[notify]`.
//!
//! Must not depend on: the syntax of values.

use crate::diagnostics::Diagnostic;
use crate::settings::{Setting, Settings};

use super::{fault, is};

const CONDITIONS: [&str; 4] = ["at_least", "at_most", "over_base", "over_published"];

/// All contradictions of these tables.
pub(super) fn check(settings: &Settings) -> Vec<Diagnostic> {
    let mut faults = gates_have_conditions(settings);
    faults.extend(hooks_have_one_target(settings));
    faults.extend(secrets_are_elsewhere(settings));
    faults.extend(token_has_a_webhook(settings));
    faults.extend(one_start(settings));
    faults
}

fn gates_have_conditions(settings: &Settings) -> Vec<Diagnostic> {
    let gates = settings.tables("gate").into_iter();
    let without = gates.filter(|(prefix, _)| {
        CONDITIONS.iter().all(|condition| settings.explicit(&format!("{prefix}{condition}")).is_none())
    });
    let fault = |(prefix, _): (String, _)| {
        let measure = settings.explicit(&format!("{prefix}measure"))?;
        let fault = Diagnostic::error("a gate without a condition lets everything pass").at(measure.place.clone());
        Some(fault.label("write at_least, at_most, over_base or over_published below"))
    };
    without.filter_map(fault).collect()
}

fn hooks_have_one_target(settings: &Settings) -> Vec<Diagnostic> {
    let hooks = settings.tables("hook").into_iter();
    let faults = hooks.filter_map(|(prefix, place)| {
        let set = |name: &str| settings.explicit(&format!("{prefix}{name}"));
        match (set("server"), set("command")) {
            (None, None) => {
                let fault = Diagnostic::error("a hook needs `server` or `command`");
                Some(Diagnostic { place: place.cloned(), ..fault })
            }
            (Some(_), Some(command)) => Some(
                Diagnostic::error("a hook has `server` or `command`, not both")
                    .at(command.key.clone())
                    .label("write a second [[hook]] for it"),
            ),
            _ => None,
        }
    });
    faults.collect()
}

/// A plan is copied into every run, so it must not contain a password.
fn secrets_are_elsewhere(settings: &Settings) -> Vec<Diagnostic> {
    let written = |path: &str| {
        let setting = settings.explicit(path)?;
        Some((setting.value.as_ref()?.as_str()?.to_owned(), setting))
    };
    let elsewhere = |text: &str| {
        ["env:", "file:"].iter().any(|kind| text.strip_prefix(kind).is_some_and(|place| !place.is_empty()))
    };
    let refuse = |setting: &Setting, message: &str| {
        let fault = Diagnostic::error(message).at(setting.place.clone());
        fault.hint("write \"env:NAME\" for an environment variable, or \"file:/path\" for a file with the secret")
    };
    let webhook = written("notify.webhook").filter(|(text, _)| {
        let is_url = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
        !elsewhere(text) && (!is_url || text.contains(['?', '@', '#']) || text.contains(char::is_whitespace))
    });
    let webhook = webhook.map(|(_, setting)| {
        refuse(setting, "`notify.webhook` must be env:NAME, file:PATH, or an http(s) URL without user and query")
    });
    let token = written("notify.token").filter(|(text, _)| !elsewhere(text));
    let token = token.map(|(_, setting)| refuse(setting, "`notify.token` must be env:NAME or file:PATH"));
    webhook.into_iter().chain(token).collect()
}

fn token_has_a_webhook(settings: &Settings) -> Option<Diagnostic> {
    let token = settings.explicit("notify.token")?;
    settings.explicit("notify.webhook").is_none().then(|| {
        Diagnostic::error("`notify.token` has no effect without `notify.webhook`")
            .at(token.key.clone())
            .label("set `webhook`, or remove this")
    })
}

fn one_start(settings: &Settings) -> Option<Diagnostic> {
    let both = is(settings, "nightly.start_from", "published") && settings.explicit("lora.init").is_some();
    let full = is(settings, "nightly.start_from", "published") && is(settings, "adapter.kind", "full");
    let keys = ["nightly.start_from", if full { "adapter.kind" } else { "lora.init" }];
    (both || full).then(|| {
        let why = if full { "full training has no adapter to continue" } else { "`lora.init` decides the start" };
        fault(settings, &keys, &format!("`nightly.start_from = \"published\"` contradicts the recipe: {why}"))
            .label("write \"base\", or remove this")
    })
}
