//! Recipes and their reference, generated from the schema.
//!
//! Responsible for: the commented recipe of `tonfall init` and the table of keys in the documentation.
//! Must not depend on: other modules than the schema.

use toml::Value;

use crate::schema::{Key, KeyDefault, LISTS, TABLES, table};

/// A recipe with every key. The keys in `values` (path and value) are set; the others are comments with their default.
///
/// ```
/// let recipe = tonfall_recipes::recipe_text::commented_recipe(&[("lora.rank", 8.into())]);
/// assert!(recipe.contains("\nrank = 8  # rank r of"));
/// assert!(recipe.contains("\n# alpha = 32.0  # the"));
/// ```
pub fn commented_recipe(values: &[(&str, Value)]) -> String {
    let mut text = String::from(
        "# A tonfall recipe. Paths are relative to this file. A line that begins with # shows a default, or an example\n\
         # for a key that is not set; remove the # to change it.\n",
    );
    for (name, about) in TABLES {
        let is_list = LISTS.contains(&name);
        text.push_str(&match name {
            "" => "\n".to_owned(),
            name if is_list => format!("\n# [[{name}]]  # {about}\n"),
            name => format!("\n[{name}]  # {about}\n"),
        });
        for key in table(name) {
            if is_list && matches!(key.default, KeyDefault::Required(_)) {
                text.push_str("# ");
            }
            text.push_str(&line(key, values.iter().find(|(path, _)| *path == key.path).map(|(_, value)| value)));
        }
    }
    text
}

fn line(key: &Key, value: Option<&Value>) -> String {
    let (name, doc) = (key.split().1, key.doc);
    match (value, key.default) {
        (Some(value), _) => format!("{name} = {value}  # {doc}\n"),
        (None, KeyDefault::Value(default)) => format!("# {name} = {default}  # {doc}\n"),
        (None, KeyDefault::Required(example)) => format!("{name} = \"{example}\"  # {doc}\n"),
        (None, KeyDefault::Unset(example)) => match example.parse::<f64>() {
            Ok(_) => format!("# {name} = {example}  # {doc}\n"),
            Err(_) => format!("# {name} = \"{example}\"  # {doc}\n"),
        },
        (None, KeyDefault::Derived(from)) => format!("# {name} = \"…\"  # {doc}; default: {from}\n"),
    }
}

/// Every key as a Markdown table.
pub fn key_reference() -> String {
    let mut text = String::from("| key | value | default | |\n|---|---|---|---|\n");
    for key in TABLES.iter().flat_map(|(name, _)| table(name)) {
        let default = match key.default {
            KeyDefault::Value(value) => format!("`{value}`"),
            KeyDefault::Required(_) => "required".to_owned(),
            KeyDefault::Unset(_) => "not set".to_owned(),
            KeyDefault::Derived(from) => from.to_owned(),
        };
        let cell = |text: &str| text.replace('|', "\\|");
        let row =
            format!("| `{}` | {} | {} | {} |\n", key.path, cell(&key.kind.to_string()), cell(&default), cell(key.doc));
        text.push_str(&row);
    }
    text
}

#[cfg(test)]
mod tests;
