//! Chat templates with the variables of a recipe (`data.template_variables`).
//!
//! Responsible for: a template source that sets the variables itself, for servers that don't know the recipe.
//! Must not depend on: how templates are rendered.

use std::collections::BTreeMap;

use tonfall_recipes::plan::Variable;

/// `source` with a line `{% set name = value %}` for each variable before it. Chat templates are rendered with
/// `trim_blocks`, which removes the line break after a block, so the lines add nothing to the text.
pub(crate) fn set_before(source: &str, variables: &BTreeMap<String, Variable>) -> String {
    let lines = variables.iter().map(|(name, value)| format!("{{% set {name} = {} %}}\n", literal(value)));
    lines.chain([source.to_owned()]).collect()
}

/// A Jinja literal. JSON's numbers, texts and lists are Jinja's too.
fn literal(value: &Variable) -> String {
    match value {
        Variable::Bool(truth) => truth.to_string(),
        Variable::Integer(number) => number.to_string(),
        Variable::Number(number) => format!("{number:?}"),
        Variable::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        Variable::List(items) => serde_json::Value::from(items.clone()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_set_in_lines_before_the_template() {
        let variables = BTreeMap::from([
            ("enable_thinking".to_owned(), Variable::Bool(false)),
            ("house".to_owned(), Variable::Text("\"Lamp\" & Co".to_owned())),
            ("share".to_owned(), Variable::Number(1.0)),
        ]);
        let expected =
            "{% set enable_thinking = false %}\n{% set house = \"\\\"Lamp\\\" & Co\" %}\n{% set share = 1.0 %}\nx";
        assert_eq!(set_before("x", &variables), expected);
        assert_eq!(set_before("x", &BTreeMap::new()), "x");
    }
}
