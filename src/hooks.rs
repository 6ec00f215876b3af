//! The hooks of a recipe.
//!
//! Responsible for: from `[[hook]]` to [`Hook`]: servers through `tonfall_serving`, and commands.
//! Must not depend on: the order of a publication, which is the store's.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use tonfall_recipes::plan::HookPlan;
use tonfall_runs::store::{Hook, HookError, Target};
use tonfall_serving::{AdapterFiles, ApiKey, Limits, Offer, Server};

use crate::shell::{Printed, Shell};

/// The directory of the PEFT adapter in a version.
pub(crate) const ADAPTER: &str = "adapter";
/// The adapter of llama.cpp in a version, if the recipe exports one.
pub(crate) const GGUF: &str = "exports/gguf-adapter/adapter.gguf";

/// Characters of a command in messages.
const SHOWN: usize = 40;

/// A hook, and the lines that it printed.
pub(crate) struct PlannedHook<'a> {
    plan: &'a HookPlan,
    printed: RefCell<Vec<String>>,
}

impl<'a> PlannedHook<'a> {
    pub(crate) fn all(plans: &'a [HookPlan]) -> Vec<Self> {
        plans.iter().map(|plan| Self { plan, printed: RefCell::default() }).collect()
    }

    /// URL, or the beginning of the command.
    fn shown(&self) -> String {
        let text = self.plan.server.as_deref().or(self.plan.command.as_deref()).unwrap_or_default();
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("`{}…`", &text[..end]),
            None => format!("`{text}`"),
        }
    }

    /// The lines that were printed since the last call, each with the name of the hook.
    pub(crate) fn take_printed(&self) -> Vec<String> {
        self.printed.take().into_iter().map(|line| format!("{}: {line}", self.shown())).collect()
    }

    fn server(&self, url: &str, target: &Target) -> Result<(), String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let files = target.path.as_deref().map(|version| AdapterFiles {
            peft: text(&version.join(ADAPTER)),
            gguf: Some(version.join(GGUF)).filter(|path| path.is_file()).as_deref().map(text),
        });
        let limits = Limits { generate: Duration::from_secs(self.plan.timeout), ..Limits::default() };
        let key = ApiKey::from_env("TONFALL_API_KEY");
        let server = key.and_then(|key| Server::with(url, key, limits)).map_err(|error| error.to_string())?;
        match server.use_adapter(&target.name, files.as_ref()).map_err(|error| error.to_string())? {
            Offer::Given(()) => Ok(()),
            Offer::NotOffered(reason) => Err(reason.to_string()),
        }
    }

    fn command(&self, command: &str, target: &Target) -> Result<(), String> {
        let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        let directory = |path: &Option<std::path::PathBuf>, inner: &str| {
            path.as_ref().map_or_else(String::new, |path| path.join(inner).to_string_lossy().into_owned())
        };
        let environment = vec![
            ("TONFALL_NAME", target.name.clone()),
            ("TONFALL_VERSION", number(target.number)),
            ("TONFALL_DIRECTORY", directory(&target.path, "")),
            ("TONFALL_ADAPTER", directory(&target.path, ADAPTER)),
            ("TONFALL_PREVIOUS", number(target.instead_of)),
            ("TONFALL_PREVIOUS_ADAPTER", directory(&target.instead_of_path, ADAPTER)),
        ];
        let limit = Duration::from_secs(self.plan.timeout);
        let (result, Printed(lines)) = match (Shell { command, environment, stdin: String::new(), limit }.run()) {
            Ok(printed) => (Ok(()), printed),
            Err((why, printed)) => (Err(why), printed),
        };
        self.printed.borrow_mut().extend(lines);
        result
    }
}

impl Hook for PlannedHook<'_> {
    fn apply(&self, target: &Target) -> Result<(), HookError> {
        let result = match (&self.plan.server, &self.plan.command) {
            (Some(url), _) => self.server(url, target),
            (None, Some(command)) => self.command(command, target),
            (None, None) => Ok(()),
        };
        result.map_err(|message| HookError { hook: self.shown(), message })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn commands_know_the_version_and_what_it_replaces() {
        let plan = HookPlan {
            server: None,
            command: Some(
                "echo $TONFALL_NAME $TONFALL_VERSION $TONFALL_ADAPTER $TONFALL_PREVIOUS $TONFALL_PREVIOUS_ADAPTER; \
                 test -n \"$TONFALL_VERSION\""
                    .to_owned(),
            ),
            timeout: 60,
        };
        let hooks = PlannedHook::all(std::slice::from_ref(&plan));
        let target = |number: Option<u64>, instead_of: Option<u64>| {
            let path = |number| format!("/s/{number}").into();
            let (path, instead_of_path) = (number.map(path), instead_of.map(path));
            Target { name: "style".to_owned(), number, path, instead_of, instead_of_path }
        };
        hooks[0].apply(&target(Some(4), Some(3))).expect("it exits with 0");
        let printed = hooks[0].take_printed();
        assert!(printed[0].ends_with("style 4 /s/4/adapter 3 /s/3/adapter"), "{printed:?}");
        let error = hooks[0].apply(&target(None, Some(1))).expect_err("it exits with 1");
        assert!(error.message.contains('1'), "{error}");
        assert!(hooks[0].take_printed()[0].ends_with("style 1 /s/1/adapter"));
    }
}
