//! The data formats, their fields, and format detection by column names.
//!
//! Responsible for: the table of formats, detecting a file's format, and reading the fields of a row by name.
//! Must not depend on: how samples are built from the fields.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tonfall_recipes::plan::{DataFormat, SourcePlan};
use tonfall_terms::language;

use crate::error::{DataError, RowFault};
use crate::formats::conversation::kind;
use crate::formats::term_columns::{LanguageColumns, TermColumns};
use crate::read::files::{DataFile, Kind};
use crate::read::rows::{self, Row};

/// One entry of the table of formats.
#[derive(Debug)]
pub(crate) struct Format {
    pub(crate) format: DataFormat,
    /// The name in recipes.
    pub(crate) name: &'static str,
    pub(crate) required: &'static [&'static str],
    optional: &'static [&'static str],
}

/// Fields with context documents for a prompt: one text or a list.
pub(crate) const CONTEXT: [&str; 2] = ["context", "documents"];

const FORMATS: &[Format] = &[
    Format {
        format: DataFormat::Messages,
        name: "messages",
        required: &["messages"],
        optional: &["system", "tools", "context", "documents"],
    },
    Format {
        format: DataFormat::Sharegpt,
        name: "sharegpt",
        required: &["conversations"],
        optional: &["system", "tools", "context", "documents"],
    },
    Format {
        format: DataFormat::Alpaca,
        name: "alpaca",
        required: &["instruction", "output"],
        optional: &["input", "system", "context", "documents"],
    },
    Format {
        format: DataFormat::PromptCompletion,
        name: "prompt_completion",
        required: &["prompt", "completion"],
        optional: &["system", "tools", "context", "documents"],
    },
    Format { format: DataFormat::Text, name: "text", required: &["text"], optional: &[] },
    Format {
        format: DataFormat::Preference,
        name: "preference",
        required: &["chosen", "rejected"],
        optional: &["prompt", "system", "tools", "context", "documents"],
    },
    Format { format: DataFormat::Style, name: "style", required: &["styled"], optional: &["neutral", "topic"] },
    Format {
        format: DataFormat::Terminology,
        name: "terminology",
        required: &["term"],
        optional: &[
            "concept",
            "language",
            "forbidden",
            "admitted",
            "definition",
            "examples",
            "subject",
            "part_of_speech",
            "status",
            "unknown_status",
            "translations",
        ],
    },
];

/// Common alternative names of required fields.
const ALIASES: &[(DataFormat, &[(&str, &str)])] = &[
    (DataFormat::PromptCompletion, &[("prompt", "question"), ("completion", "answer")]),
    (DataFormat::PromptCompletion, &[("prompt", "prompt"), ("completion", "response")]),
    (DataFormat::Alpaca, &[("instruction", "instruction"), ("output", "response")]),
];

/// All formats with their required columns, for error messages.
pub(crate) fn known() -> String {
    let names = FORMATS.iter().map(|format| format!("{} ({})", format.name, format.required.join(", ")));
    names.collect::<Vec<_>>().join(", ")
}

/// The format of a file, and the columns of its fields.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) format: &'static Format,
    kind: Kind,
    /// Field → column. Only fields whose column has another name.
    columns: BTreeMap<String, String>,
    /// The columns of each language, if the file is a term list with columns for several languages.
    languages: Vec<LanguageColumns>,
    /// The columns of the file. For JSON: the keys of the first rows.
    pub(crate) present: Vec<String>,
    /// Columns that are read, even if the file doesn't have them.
    pub(crate) read: Vec<String>,
    /// Columns of the file that are not read.
    pub(crate) unused: Vec<String>,
}

impl Layout {
    /// Returns the format that the recipe sets. For `auto`, returns the only format that fits the file's columns.
    /// `also_read` lists columns that are read in addition to the format's fields.
    ///
    /// # Errors
    /// If no format fits, if several formats fit, or if a column is missing.
    pub(crate) fn resolve(file: &DataFile, source: &SourcePlan, also_read: &[String]) -> Result<Self, DataError> {
        Self::choose(&file.path, file.kind, rows::columns(file)?, source, also_read)
    }

    /// Like [`Layout::resolve`], for a file with the columns `present`.
    pub(crate) fn choose(
        path: &Path,
        kind: Kind,
        present: Vec<String>,
        source: &SourcePlan,
        also_read: &[String],
    ) -> Result<Self, DataError> {
        let column = |field: &str| source.columns.get(field).map_or(field, String::as_str).to_owned();
        let fits = |format: &&Format| format.required.iter().all(|field| present.contains(&column(field)));
        let mut columns = source.columns.clone();
        // Term lists accept many column names, so they are tried only after all other formats.
        let terms = match kind {
            Kind::Tbx => TermColumns::default(),
            _ => TermColumns::find(&present, &source.columns),
        };
        let is_list = !terms.languages.is_empty();
        let format = match source.format {
            _ if kind == Kind::Tbx => find(DataFormat::Terminology),
            DataFormat::Auto => {
                let fitting: Vec<&'static Format> = FORMATS.iter().filter(fits).collect();
                match fitting[..] {
                    [format] => format,
                    [] => match by_other_names(&present, &source.columns) {
                        Some((format, names)) if format.format != DataFormat::Terminology => {
                            columns.extend(names);
                            format
                        }
                        _ if is_list || terms.columns.contains_key("term") => find(DataFormat::Terminology),
                        _ => return Err(DataError::UnknownFormat { path: path.to_owned(), present }),
                    },
                    _ => {
                        let formats = fitting.iter().map(|format| format.name).collect();
                        return Err(DataError::AmbiguousFormat { path: path.to_owned(), formats });
                    }
                }
            }
            format => find(format),
        };
        let is_terms = format.format == DataFormat::Terminology;
        let terms = if is_terms { terms } else { TermColumns::default() };
        for (field, column) in terms.columns {
            columns.entry(field).or_insert(column);
        }
        let column = |field: &str| columns.get(field).map_or(field, String::as_str).to_owned();
        let fields: Vec<&str> = format.required.iter().chain(format.optional).copied().collect();
        let is_field = |field: &str| fields.contains(&field) || is_terms && language::is_known(field);
        if let Some(field) = source.columns.keys().find(|field| !is_field(field)) {
            return Err(DataError::UnknownField {
                path: path.to_owned(),
                field: field.clone(),
                format: format.name,
                fields,
            });
        }
        // A table with a column for each language has no column `term`, and a TBX concept may have no term.
        let is_required = kind != Kind::Tbx && terms.languages.is_empty();
        let required = format.required.iter().filter(|_| is_required).map(|field| (*field).to_owned());
        for field in required.chain(source.columns.keys().cloned()) {
            let column = column(&field);
            // `present` has only the keys of the first JSON rows. Required and mapped fields must be among them.
            if !present.contains(&column) {
                return Err(DataError::MissingColumn { path: path.to_owned(), column, field, present });
            }
        }
        let mut read: Vec<String> = fields.iter().map(|field| column(field)).collect();
        read.extend(terms.languages.iter().flat_map(|language| language.columns.values().cloned()));
        read.extend_from_slice(also_read);
        let unused = present.iter().filter(|name| !read.contains(name)).cloned().collect();
        Ok(Self { format, kind, columns, languages: terms.languages, present, read, unused })
    }

    /// The fields that are read from a column with another name, as text for the report.
    pub(crate) fn renamed(&self) -> Vec<String> {
        self.columns
            .iter()
            .filter(|(field, column)| field != column)
            .map(|(field, column)| format!("{field} = `{column}`"))
            .collect()
    }

    /// The fields of a row.
    pub(crate) fn fields<'a>(&'a self, row: &'a Row) -> Fields<'a> {
        Fields { row, columns: &self.columns, languages: &self.languages, kind: self.kind }
    }
}

/// The only format whose required columns are found when case is ignored and aliases are allowed. Returns the format
/// and a map of field → column.
fn by_other_names(
    present: &[String],
    mapped: &BTreeMap<String, String>,
) -> Option<(&'static Format, BTreeMap<String, String>)> {
    let column = |name: &str| present.iter().find(|column| column.eq_ignore_ascii_case(name));
    let own =
        FORMATS.iter().map(|format| (format, format.required.iter().map(|field| (*field, *field)).collect::<Vec<_>>()));
    let aliased = ALIASES.iter().map(|(format, names)| (find(*format), names.to_vec()));
    let mut fitting = own.chain(aliased).filter_map(|(format, names)| {
        let required = names.into_iter().map(|(field, name)| match mapped.get(field) {
            Some(column) => present.contains(column).then(|| (field.to_owned(), column.clone())),
            None => Some((field.to_owned(), column(name)?.clone())),
        });
        let mut columns = required.collect::<Option<BTreeMap<_, _>>>()?;
        let optional = format.optional.iter().filter_map(|field| Some(((*field).to_owned(), column(field)?.clone())));
        columns.extend(optional.filter(|(field, _)| !mapped.contains_key(field)).collect::<Vec<_>>());
        columns.retain(|field, column| field != column);
        Some((format, columns))
    });
    let first = fitting.next()?;
    fitting.next().is_none().then_some(first)
}

fn find(format: DataFormat) -> &'static Format {
    FORMATS.iter().find(|row| row.format == format).unwrap_or(&FORMATS[0])
}

/// A row whose values are read by field name.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    row: &'a Row,
    columns: &'a BTreeMap<String, String>,
    languages: &'a [LanguageColumns],
    kind: Kind,
}

impl<'a> Fields<'a> {
    fn column(&self, field: &'a str) -> &'a str {
        self.columns.get(field).map_or(field, String::as_str)
    }

    /// The columns of each language, if the file is a term list with columns for several languages.
    pub(crate) fn languages(&self) -> &'a [LanguageColumns] {
        self.languages
    }

    /// The value of a field. `None` if it is missing or null.
    pub(crate) fn value(&self, field: &'a str) -> Option<&'a Value> {
        self.row.get(self.column(field)).filter(|value| !value.is_null())
    }

    /// The value of a required field.
    pub(crate) fn required(&self, field: &'a str) -> Result<&'a Value, RowFault> {
        let column = self.column(field);
        match self.row.get(column) {
            None => Err(RowFault::Missing(column.to_owned())),
            Some(Value::Null) if matches!(self.kind, Kind::Csv | Kind::Tsv) => {
                Err(RowFault::EmptyCell(column.to_owned()))
            }
            Some(Value::Null) => Err(RowFault::Null(column.to_owned())),
            Some(value) => Ok(value),
        }
    }

    /// The text of a required field.
    pub(crate) fn text(&self, field: &'a str) -> Result<&'a str, RowFault> {
        let value = self.required(field)?;
        value.as_str().ok_or_else(|| self.no_text(field, value))
    }

    /// The text of an optional field.
    pub(crate) fn optional_text(&self, field: &'a str) -> Result<Option<&'a str>, RowFault> {
        match self.value(field) {
            None => Ok(None),
            Some(value) => Ok(Some(value.as_str().ok_or_else(|| self.no_text(field, value))?)),
        }
    }

    fn no_text(&self, field: &'a str, value: &Value) -> RowFault {
        RowFault::Syntax(format!("column `{}` is {}, expected text", self.column(field), kind(value)))
    }

    /// The texts of a field: a list or one text. In a table, a cell holds a JSON list, or items separated by `|`. `\|`
    /// is a literal `|`.
    pub(crate) fn texts(&self, field: &'a str) -> Result<Vec<String>, RowFault> {
        let Some(value) = self.listed(field) else { return Ok(Vec::new()) };
        match value.as_ref() {
            Value::String(text) if self.kind.is_table() => Ok(items(text)),
            Value::String(text) => {
                Ok([text.trim()].into_iter().filter(|text| !text.is_empty()).map(str::to_owned).collect())
            }
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| self.no_text(field, item)))
                .collect(),
            other => Err(self.no_text(field, other)),
        }
    }

    /// The value of a field. In a table, a text that is a JSON list is parsed.
    pub(crate) fn listed(&self, field: &'a str) -> Option<Cow<'a, Value>> {
        let value = self.value(field)?;
        let text = value.as_str().filter(|text| self.kind.is_table() && text.trim_start().starts_with('['));
        match text.and_then(|text| serde_json::from_str(text).ok()) {
            Some(list @ Value::Array(_)) => Some(Cow::Owned(list)),
            _ => Some(Cow::Borrowed(value)),
        }
    }

    /// The list of a required field. A text is parsed as a JSON list.
    pub(crate) fn list(&self, field: &'a str) -> Result<Vec<Value>, RowFault> {
        let parsed = match self.required(field)? {
            Value::Array(items) => return Ok(items.clone()),
            Value::String(text) => serde_json::from_str(text).ok(),
            _ => None,
        };
        parsed.ok_or_else(|| {
            let column = self.column(field);
            let found = self.value(field).map_or("null", kind);
            RowFault::Syntax(format!("column `{column}` is {found}, expected a list"))
        })
    }

    /// The values for template placeholders: all texts and numbers of the row, by column name and by field name.
    pub(crate) fn placeholders(&self) -> BTreeMap<&'a str, String> {
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let mut named: BTreeMap<&'a str, String> =
            self.row.iter().filter_map(|(column, value)| Some((column.as_str(), text(value)?))).collect();
        for (field, column) in self.columns {
            if let Some(text) = self.row.get(column).and_then(text) {
                named.insert(field, text);
            }
        }
        named
    }
}

/// Splits a cell at `|`.
fn items(cell: &str) -> Vec<String> {
    let (mut items, mut item) = (Vec::new(), String::new());
    let mut characters = cell.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '|' => items.push(std::mem::take(&mut item)),
            '\\' if characters.next_if_eq(&'|').is_some() => item.push('|'),
            other => item.push(other),
        }
    }
    items.push(item);
    items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}
