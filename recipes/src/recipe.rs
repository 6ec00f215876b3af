//! From the text of a recipe to a plan, or to all of its faults.
//!
//! Responsible for: parsing, overrides, unknown and missing keys, and building the plan.
//! Must not depend on: the values that a key accepts (`values.rs`), values that contradict each other (`rules.rs`).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{self, Path, PathBuf};

use crate::diagnostics::{Diagnostic, Diagnostics, Place, Source};
use crate::entries;
use crate::overrides;
use crate::plan::Plan;
use crate::rules;
use crate::schema::{self, Key, KeyDefault, TABLES};
use crate::settings::{Setting, Settings, name_of};
use crate::suggest;
use crate::synonyms::Meaning;
use crate::values::{self, Folders};

/// Maximum bytes of a recipe. Recipes are written by hand.
const MAX_RECIPE: u64 = 1 << 20;

/// The file name that `tonfall init` uses for a recipe.
pub const FILE_NAME: &str = "recipe.toml";

/// The text of a recipe and its path. Paths in the text are relative to the folder of `path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeFile {
    pub path: PathBuf,
    pub source: String,
}

impl RecipeFile {
    /// Reads a recipe.
    ///
    /// # Errors
    /// If the file doesn't exist or isn't UTF-8.
    pub fn read(path: &Path) -> Result<Self, Diagnostics> {
        let fault = |message: String| Diagnostics::of_file(path, "", vec![Diagnostic::error(message)]);
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_RECIPE + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            let mut faults = fault(format!("can't read the recipe: {error}"));
            faults.items[0].hint = unreadable_hint(path, error.kind());
            return Err(faults);
        }
        if bytes.len() as u64 > MAX_RECIPE {
            return Err(fault(format!("the recipe is longer than {MAX_RECIPE} bytes")));
        }
        match String::from_utf8(bytes) {
            Ok(source) => Ok(Self { path: path.to_owned(), source }),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                Err(fault(format!("the recipe is not UTF-8: look at byte {offset}")))
            }
        }
    }

    /// Reads a recipe and creates its plan.
    ///
    /// # Errors
    /// All of its faults.
    pub fn load(path: &Path, overrides: &[String]) -> Result<(Self, Plan), Diagnostics> {
        let recipe = Self::read(path)?;
        let plan = recipe.plan(overrides)?;
        Ok((recipe, plan))
    }

    /// The plan of this recipe. `overrides` (`key=value`) replace its values.
    ///
    /// # Errors
    /// All faults of the recipe and the overrides. After a TOML syntax error, only the syntax errors.
    pub fn plan(&self, overrides: &[String]) -> Result<Plan, Diagnostics> {
        let plan = self.make_plan(overrides);
        plan.map_err(|mut items| {
            items.sort_by_key(|item| {
                item.place.as_ref().map_or((usize::MAX, 0), |place| (place.source, place.span.start))
            });
            let file = Source::File { name: self.path.display().to_string(), text: self.source.clone() };
            let overrides = overrides.iter().map(|text| Source::Override(text.clone()));
            Diagnostics { sources: std::iter::once(file).chain(overrides).collect(), items }
        })
    }

    fn make_plan(&self, overrides: &[String]) -> Result<Plan, Vec<Diagnostic>> {
        let (mut entries, mut faults) = entries::parse(&self.source)?;
        for (index, text) in overrides.iter().enumerate() {
            match overrides::parse(text, index + 1) {
                // An override replaces a known key. An unknown key in the recipe is still a fault.
                Ok(given) => {
                    let list = |path: &str| path.split_once('[').map(|(list, _)| list.to_owned());
                    entries.retain(|(path, _)| {
                        // An override of a list replaces the whole list.
                        let replaced =
                            |other: &str| other == path || list(path).is_some_and(|l| list(other) == Some(l));
                        let known = schema::find(path).is_some() || schema::item(path).is_some();
                        !(known && given.iter().any(|(other, _)| replaced(other)))
                    });
                    entries.extend(given);
                }
                Err(more) => faults.extend(more),
            }
        }
        let (folder, current) = self.folders()?;
        let folders = Folders { recipe: &folder, current: &current };
        let mut settings = Settings::default();
        for (path, given) in entries {
            match (schema::find(&path), schema::item(&path)) {
                (Some(key), _) => {
                    let value = values::check(key, &given, &folders).map_err(|more| faults.extend(more)).ok();
                    settings.insert(path, Setting { value, key: given.key, place: given.place });
                }
                (None, Some((list, _))) => settings.insert_item(list, given.key),
                (None, None) => faults.push(unknown_key(&path, given.key)),
            }
        }
        for (table, _) in TABLES {
            for (prefix, place) in settings.tables(table) {
                let absent = |key: &&Key| settings.explicit(&format!("{prefix}{}", key.split().1)).is_none();
                let missing = schema::table(table).filter(absent).filter_map(missing);
                faults.extend(missing.map(|fault| Diagnostic { place: place.cloned(), ..fault }));
            }
        }
        if settings.explicit("output_dir").is_none() && current.to_str().is_none() {
            let fault =
                Diagnostic::error(format!("the name of the current directory is not UTF-8: {}", current.display()));
            let hint = "run directories are made in it, and a plan holds paths as UTF-8; start tonfall in another directory, or \
                        set `output_dir` to an absolute path";
            faults.push(fault.hint(hint));
        }
        faults.extend(rules::check(&settings));
        match faults.is_empty() {
            true => {
                let mut plan = settings.into_plan(&name_of(&self.path, &folder), &current);
                rules::settle(&mut plan);
                Ok(plan)
            }
            false => Err(faults),
        }
    }

    /// The folder of the recipe and the current directory, both absolute.
    fn folders(&self) -> Result<(PathBuf, PathBuf), Vec<Diagnostic>> {
        let fault = |error| vec![Diagnostic::error(format!("can't determine the current directory: {error}"))];
        let recipe = path::absolute(&self.path).map_err(fault)?;
        // Resolves paths such as `café/../recipe.toml` with a Latin-1 `café`: the folder's real path may be UTF-8.
        let recipe = if recipe.to_str().is_none() { recipe.canonicalize().unwrap_or(recipe) } else { recipe };
        let current = path::absolute(".").map_err(fault)?;
        Ok((recipe.parent().unwrap_or(&recipe).to_owned(), current))
    }
}

fn unknown_key(path: &str, place: Place) -> Diagnostic {
    let in_file = place.source == 0;
    // The place shows the index in the list, so the name is enough.
    let plain = path.split_once('.').and_then(|(table, name)| Some(format!("{}.{name}", schema::item(table)?.0)));
    let path = plain.as_deref().unwrap_or(path);
    let fault = Diagnostic::error(format!("unknown key `{path}`")).at(place);
    let fault = fault.hint("`tonfall check --keys` lists every key");
    let table = |path: &str| path.rsplit_once('.').map_or("", |(table, _)| table).to_owned();
    match suggest::key(path) {
        // In the file, the table is a header; after `--set`, it is part of the key.
        Some(Meaning::Key(meant)) if in_file && table(meant) == table(path) => {
            fault.label(format!("did you mean `{}`?", meant.rsplit('.').next().unwrap_or(meant)))
        }
        Some(Meaning::Key(meant)) => fault.label(format!("did you mean `{meant}`?")),
        Some(Meaning::Write(words)) => fault.label(format!("write {words} instead")),
        Some(Meaning::Remove(why)) => fault.label(format!("remove this: {why}")),
        None => fault,
    }
}

/// A hint if there is no readable recipe at `path`.
fn unreadable_hint(path: &Path, kind: ErrorKind) -> Option<String> {
    match kind {
        ErrorKind::IsADirectory => Some(format!("this is a directory; is {} meant?", path.join(FILE_NAME).display())),
        ErrorKind::NotFound => Some("`tonfall init DIR --base MODEL --data FILE` writes a recipe".to_owned()),
        _ => None,
    }
}

fn missing(key: &Key) -> Option<Diagnostic> {
    let KeyDefault::Required(example) = key.default else { return None };
    let (table, name) = key.split();
    let table = if schema::LISTS.contains(&table) { format!("[[{table}]]") } else { format!("[{table}]") };
    let place = if key.split().0.is_empty() { "at the top".to_owned() } else { format!("under {table}") };
    let fault = Diagnostic::error(format!("`{}` is missing", key.path));
    Some(fault.hint(format!("write `{name} = \"{example}\"` {place}: {}", key.doc)))
}

#[cfg(test)]
mod tests;
