//! Column names of term lists.
//!
//! Responsible for: alternative names of term base fields (`Benennung`, `Synonyms`), and tables with a column for each
//! language (`en`, `de`, `Forbidden DE`). Must not depend on: cells.

use std::collections::BTreeMap;

use tonfall_terms::language;

/// The columns of one language, in a table with columns for several languages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LanguageColumns {
    /// The language as the column name spells it.
    pub(crate) language: String,
    /// Field → column.
    pub(crate) columns: BTreeMap<&'static str, String>,
}

/// The columns of a table that were recognised as term base fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TermColumns {
    /// Field → column. Only fields whose column has another name.
    pub(crate) columns: BTreeMap<String, String>,
    /// Either empty, or at least two languages with a term column each.
    pub(crate) languages: Vec<LanguageColumns>,
    /// Columns with a term base field, but without the language that they belong to.
    pub(crate) unclear: Vec<String>,
}

/// Names of each field: lower case, words separated by single spaces.
const NAMES: &[(&str, &[&str])] = &[
    (
        "term",
        &["term", "preferred term", "benennung", "vorzugsbenennung", "bevorzugte benennung", "terminus", "begriff"],
    ),
    (
        "forbidden",
        &[
            "forbidden",
            "forbidden term",
            "forbidden terms",
            "deprecated",
            "deprecated terms",
            "avoid",
            "do not use",
            "not recommended",
            "verboten",
            "verbotene benennung",
            "verbotene benennungen",
            "nicht verwenden",
            "unerwünscht",
            "unzulässig",
        ],
    ),
    (
        "admitted",
        &[
            "admitted",
            "admitted term",
            "admitted terms",
            "synonym",
            "synonyms",
            "allowed",
            "synonyme",
            "erlaubte benennung",
            "erlaubte benennungen",
            "zulässig",
        ],
    ),
    ("definition", &["definition", "meaning", "erklärung", "bedeutung"]),
    (
        "examples",
        &[
            "examples",
            "example",
            "example sentence",
            "beispiel",
            "beispiele",
            "beispielsatz",
            "beispielsätze",
            "anwendungsbeispiel",
        ],
    ),
    ("language", &["language", "lang", "sprache"]),
    ("concept", &["concept", "concept id", "concept number", "begriffsnummer", "begriffs id"]),
    ("subject", &["subject", "subject field", "domain", "fachgebiet", "sachgebiet"]),
    ("part_of_speech", &["part of speech", "pos", "wortart"]),
    ("status", &["status", "term status", "administrative status", "benennungsstatus"]),
];

/// The fields that may have a column for each language.
const OF_A_LANGUAGE: [&str; 5] = ["term", "forbidden", "admitted", "definition", "examples"];

/// `id` and `no` usually name a number column, not Indonesian or Norwegian. `columns` in a recipe can still map them.
const NO_LANGUAGES: [&str; 2] = ["id", "no"];

impl TermColumns {
    /// Recognises the columns `present`. `named` is the recipe's `columns`: field or language → column.
    pub(crate) fn find(present: &[String], named: &BTreeMap<String, String>) -> Self {
        let taken: Vec<&String> = named.values().collect();
        let mut found = Self::default();
        for (field, column) in named.iter().filter(|(field, _)| language::is_known(field)) {
            found.put(field, "term", column);
        }
        let free: Vec<&String> = present.iter().filter(|column| !taken.contains(column)).collect();
        for column in &free {
            if let Some((language, field)) = of_a_language(column) {
                found.put(&language, field, column);
            }
        }
        found.languages.retain(|language| language.columns.contains_key("term"));
        if found.languages.len() < 2 || present.iter().any(|column| column == "term") || named.contains_key("term") {
            found.languages.clear();
        }
        let is_list = !found.languages.is_empty();
        for column in free {
            let Some(field) = field(column) else { continue };
            let is_new = field != column && !named.contains_key(field) && !present.iter().any(|other| other == field);
            if is_list && OF_A_LANGUAGE.contains(&field) {
                found.unclear.push(column.clone());
            } else if is_new && !found.columns.contains_key(field) {
                found.columns.insert(field.to_owned(), column.clone());
            }
        }
        found
    }

    /// Adds a column. If a language has several columns for a field, the first one is used.
    fn put(&mut self, tag: &str, field: &'static str, column: &str) {
        let place = self.languages.iter().position(|known| known.language.eq_ignore_ascii_case(tag));
        let place = place.unwrap_or_else(|| {
            self.languages.push(LanguageColumns { language: tag.to_owned(), ..LanguageColumns::default() });
            self.languages.len() - 1
        });
        self.languages[place].columns.entry(field).or_insert_with(|| column.to_owned());
    }
}

/// The field with this column name.
fn field(column: &str) -> Option<&'static str> {
    let words = words(column).join(" ");
    NAMES.iter().find(|(_, names)| names.contains(&words.as_str())).map(|(field, _)| *field)
}

/// The language and field of a column such as `de`, `Deutsch`, `en-US`, `forbidden_de` or `Benennung (DE)`.
fn of_a_language(column: &str) -> Option<(String, &'static str)> {
    let is_language = |tag: &str| language::is_known(tag) && !NO_LANGUAGES.contains(&tag.to_lowercase().as_str());
    if is_language(column) {
        return Some((column.trim().to_owned(), "term"));
    }
    let words = words(column);
    // The language is the first or the last part of the name, with or without a region.
    let splits = (1..words.len()).flat_map(|at| {
        let (first, last) = words.split_at(at);
        [(first, last), (last, first)]
    });
    let mut found = splits.filter_map(|(tag, rest)| {
        let tag = tag.join("-");
        let field = field(&rest.join(" ")).filter(|field| OF_A_LANGUAGE.contains(field))?;
        is_language(&tag).then_some((tag, field))
    });
    found.next()
}

/// The words of a column name: lower case, Unicode-normalized.
fn words(column: &str) -> Vec<String> {
    let column = tonfall_terms::normalized(column, tonfall_terms::Case::Any);
    let words = column.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::TermColumns;

    fn find(present: &[&str], named: &[(&str, &str)]) -> TermColumns {
        let named = named.iter().map(|(field, column)| ((*field).to_owned(), (*column).to_owned())).collect();
        TermColumns::find(&present.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>(), &named)
    }

    fn languages(present: &[&str], named: &[(&str, &str)]) -> Vec<String> {
        find(present, named)
            .languages
            .into_iter()
            .map(|found| format!("{}={}", found.language, found.columns["term"]))
            .collect()
    }

    #[test]
    fn a_table_may_have_a_column_for_each_language() {
        assert_eq!(languages(&["en", "de"], &[]), ["en=en", "de=de"]);
        assert_eq!(languages(&["id", "EN", "de-DE", "no"], &[]), ["EN=EN", "de-DE=de-DE"]);
        assert_eq!(languages(&["Deutsch", "Englisch", "Anmerkung"], &[]), ["Deutsch=Deutsch", "Englisch=Englisch"]);
        assert_eq!(languages(&["Benennung (DE)", "term_en"], &[]), ["de=Benennung (DE)", "en=term_en"]);
        assert_eq!(languages(&["Begriff", "Deutsch", "English"], &[]), ["Deutsch=Deutsch", "English=English"]);
        assert_eq!(languages(&["Quelle", "Ziel"], &[("en", "Quelle"), ("de", "Ziel")]), ["de=Ziel", "en=Quelle"]);
        // One language alone is no term list, and a column `term` makes the table a list of one language.
        for columns in [&["de", "definition"][..], &["term", "en", "de"], &["text", "prompt"], &["id", "no"]] {
            assert!(languages(columns, &[]).is_empty(), "{columns:?}");
        }
    }

    #[test]
    fn a_language_may_have_columns_for_several_fields() {
        let found = find(&["en", "de", "de_forbidden", "Synonyms EN", "definition", "Beispiel (de-AT)"], &[]);
        let [english, german] = &found.languages[..] else { panic!("{found:?}") };
        assert_eq!(
            (english.columns["admitted"].as_str(), german.columns["forbidden"].as_str()),
            ("Synonyms EN", "de_forbidden")
        );
        assert_eq!((german.columns.len(), found.unclear), (2, vec!["definition".to_owned()]));
    }

    #[test]
    fn fields_are_recognised_by_alternative_names() {
        let found = find(&["Benennung", "Definition", "Verbotene Benennungen", "Synonyme", "Sprache", "Nummer"], &[]);
        let expected = [
            ("admitted", "Synonyme"),
            ("definition", "Definition"),
            ("forbidden", "Verbotene Benennungen"),
            ("language", "Sprache"),
            ("term", "Benennung"),
        ];
        assert_eq!(
            found.columns.iter().map(|(field, column)| (field.as_str(), column.as_str())).collect::<Vec<_>>(),
            expected
        );
        // A column with the field's own name takes precedence, and the recipe's mapping is not overridden.
        assert!(find(&["term", "Benennung"], &[]).columns.is_empty());
        assert!(find(&["Term", "x"], &[("term", "x")]).columns.is_empty());
    }
}
