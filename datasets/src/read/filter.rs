//! Filters the rows of a source by an SQL expression over its columns.
//!
//! Responsible for: the nodes of an expression, and the columns that it reads. [`crate::read::filter_syntax`] parses
//! it, [`crate::read::filter_value`] evaluates it. Must not depend on: the source of rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use regex::Regex;
use tonfall_recipes::suggest;

use crate::error::{DataError, RowFault};
use crate::read::files::Kind;
use crate::read::filter_syntax;
use crate::read::filter_value::{self as value, Cell, Truth};
use crate::read::rows::Row;

/// A parsed expression.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    text: Arc<str>,
    expression: Arc<Node>,
    columns: Arc<[String]>,
    /// For each of `columns`: whether any row had the column.
    seen: Arc<[AtomicBool]>,
}

/// A node of the expression tree.
#[derive(Debug)]
pub(super) enum Node {
    /// Index among the filter's columns.
    Column(usize),
    Literal(Cell<'static>),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    Arithmetic(Operation, Box<Node>, Box<Node>),
    Concatenate(Box<Node>, Box<Node>),
    IsNull(Box<Node>),
    Is(bool, Box<Node>),
    Distinct(Box<Node>, Box<Node>),
    In(Box<Node>, Vec<Node>),
    Between(Box<Node>, Box<Node>, Box<Node>),
    Matches(Box<Node>, Regex),
    Call(Function, Vec<Node>),
    /// If the last value is true (`TRY_CAST`), a value that can't be cast becomes null instead of an error.
    Cast(Box<Node>, Type, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Length,
    OctetLength,
    Lower,
    Upper,
    Trim,
    StartsWith,
    EndsWith,
    Contains,
    Abs,
    Coalesce,
}

/// Functions by name, with their number of arguments. `None`: any number.
pub(super) const FUNCTIONS: &[(&str, Function, Option<usize>)] = &[
    ("length", Function::Length, Some(1)),
    ("char_length", Function::Length, Some(1)),
    ("character_length", Function::Length, Some(1)),
    ("octet_length", Function::OctetLength, Some(1)),
    ("lower", Function::Lower, Some(1)),
    ("upper", Function::Upper, Some(1)),
    ("trim", Function::Trim, Some(1)),
    ("starts_with", Function::StartsWith, Some(2)),
    ("ends_with", Function::EndsWith, Some(2)),
    ("contains", Function::Contains, Some(2)),
    ("abs", Function::Abs, Some(1)),
    ("coalesce", Function::Coalesce, None),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Integer,
    Float,
    Text,
    Boolean,
}

impl Filter {
    /// # Errors
    /// If the text is not an SQL expression, has an unsupported part, or can never be true or false.
    pub(crate) fn new(text: &str) -> Result<Self, DataError> {
        let fault = |why: String| DataError::Filter { filter: text.to_owned(), why };
        let (expression, columns) = filter_syntax::parse(text).map_err(fault)?;
        if !expression.may_be_truth() {
            return Err(fault("it is neither true nor false for a row".to_owned()));
        }
        Ok(Self {
            text: text.into(),
            expression: Arc::new(expression),
            seen: columns.iter().map(|_| AtomicBool::new(false)).collect(),
            columns: columns.into(),
        })
    }

    /// The columns that the filter reads.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Compares the filter's columns with those of a file.
    ///
    /// # Errors
    /// If a table lacks a column. In JSON a later row may have the key, so only a key that looks misspelt is an error.
    pub(crate) fn check(&self, kind: Kind, present: &[String]) -> Result<(), DataError> {
        for column in self.columns.iter().filter(|column| !present.contains(column)) {
            let similar = suggest::word(column, present.iter().map(String::as_str));
            let why = match similar {
                Some(similar) => format!("there is no column `{column}`; did you mean `{similar}`?"),
                None if kind.is_table() => {
                    let names: Vec<String> = present.iter().map(|name| format!("`{name}`")).collect();
                    format!("there is no column `{column}`; the file has {}", names.join(", "))
                }
                None => continue,
            };
            return Err(DataError::Filter { filter: self.text.to_string(), why });
        }
        Ok(())
    }

    /// # Errors
    /// If no tested row had one of the columns.
    pub(crate) fn check_seen(&self) -> Result<(), DataError> {
        match self.columns.iter().zip(self.seen.iter()).find(|(_, seen)| !seen.load(Ordering::Relaxed)) {
            None => Ok(()),
            Some((column, _)) => {
                let why = format!("no row has the column `{column}`");
                Err(DataError::Filter { filter: self.text.to_string(), why })
            }
        }
    }

    /// Whether the expression is true for a row. False and unknown (null) both return false.
    ///
    /// # Errors
    /// If the row has values that can't be compared.
    pub(crate) fn keep(&self, row: &Row) -> Result<bool, RowFault> {
        let column = |index: usize| {
            let cell = row.get(&self.columns[index]);
            if cell.is_some() && !self.seen[index].load(Ordering::Relaxed) {
                self.seen[index].store(true, Ordering::Relaxed);
            }
            (self.columns[index].as_str(), cell)
        };
        let truth = value::evaluate(&self.expression, &column).and_then(|cell| value::truth(&cell));
        let truth = truth.map_err(|why| RowFault::Syntax(format!("the filter `{}`: {why}", self.text)))?;
        Ok(truth == Truth::True)
    }
}

impl Node {
    /// Whether the node can be true or false, judged by its kind.
    fn may_be_truth(&self) -> bool {
        match self {
            Self::Arithmetic(..) | Self::Concatenate(..) => false,
            Self::Literal(cell) => matches!(cell, Cell::Bool(_) | Cell::Null),
            Self::Call(function, _) => {
                use Function::{Coalesce, Contains, EndsWith, StartsWith};
                matches!(function, StartsWith | EndsWith | Contains | Coalesce)
            }
            Self::Cast(_, to, _) => *to == Type::Boolean,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::Filter;

    fn keep(filter: &str, row: &Value) -> Result<bool, String> {
        let filter = Filter::new(filter).map_err(|error| error.to_string())?;
        filter.keep(row.as_object().expect("an object")).map_err(|fault| fault.to_string())
    }

    #[test]
    fn expressions_are_evaluated_as_in_sql() {
        let row = json!({
            "rating": 4, "score": 0.5, "text": "Dear guest,\n50% off", "language": "de", "good": true, "missing": null,
            "count": "12", "flag": "false", "day": "2026-11-30", "name of it": "x", "big": 9_007_199_254_740_993_i64,
        });
        let cases = [
            ("rating >= 4 AND language = 'de'", true),
            ("rating > 4 OR language <> 'de'", false),
            ("NOT rating > 4", true),
            ("rating IN (1, 4)", true),
            ("rating NOT IN (1, 4)", false),
            ("language IN ('en', 'de')", true),
            ("rating BETWEEN 4 AND 5 AND day BETWEEN '2026-01-01' AND '2026-12-31'", true),
            ("rating NOT BETWEEN 1 AND 3", true),
            ("text LIKE 'Dear %off'", true),
            ("text LIKE '%50\\%%'", true),
            ("text LIKE '%50!%%' ESCAPE '!'", true),
            ("text LIKE 'dear%'", false),
            ("text ILIKE 'dear%'", true),
            ("text NOT LIKE '%spam%'", true),
            ("text RLIKE '^Dear .*5[0-9]'", true),
            ("text ~ 'guest' AND text !~ 'Guest' AND text ~* 'GUEST'", true),
            ("missing IS NULL AND rating IS NOT NULL", true),
            ("absent IS NULL", true),
            ("length(text) > 10 AND LENGTH(language) = 2", true),
            ("(rating + 2) * 2 = 12 AND rating / 8 = score AND rating % 3 = 1 AND -rating < 0", true),
            ("CAST(count AS INTEGER) = 12 AND count::int > 11 AND TRY_CAST(text AS INT) IS NULL", true),
            ("count > 11 AND count < 12.5", true),
            ("lower(language) = 'de' AND upper(language) || '!' = 'DE!' AND trim(' a ') = 'a'", true),
            ("starts_with(text, 'Dear') AND ends_with(text, 'off') AND contains(text, 'guest')", true),
            ("coalesce(missing, rating) = 4", true),
            ("abs(-rating) = 4", true),
            ("good", true),
            ("good = true AND good IS TRUE AND flag = false", true),
            ("\"name of it\" = 'x'", true),
            ("big = 9007199254740993", true),
            ("big = 9007199254740992", false),
            ("rating IS DISTINCT FROM missing", true),
            ("missing IS NOT DISTINCT FROM absent", true),
            ("1 = 1", true),
        ];
        for (filter, expected) in cases {
            assert_eq!(keep(filter, &row), Ok(expected), "{filter}");
        }
    }

    #[test]
    fn unknown_values_follow_three_valued_logic() {
        let row = json!({"a": null, "b": 1});
        let cases = [
            ("a = 1", false),
            ("NOT a = 1", false),
            ("a = 1 OR b = 1", true),
            ("a = 1 AND b = 1", false),
            ("NOT (a = 1 AND b = 2)", true),
            ("a IN (1, 2)", false),
            ("b IN (1, a)", true),
            ("b NOT IN (2, a)", false),
            ("a <> a", false),
            ("a + b > 0", false),
            ("b / 0 > 0", false),
            ("a LIKE '%'", false),
            ("a IS TRUE", false),
            ("a IS NOT TRUE", true),
        ];
        for (filter, expected) in cases {
            assert_eq!(keep(filter, &row), Ok(expected), "{filter}");
        }
    }

    #[test]
    fn unsupported_expressions_are_errors_that_name_the_cause() {
        let row = json!({"a": "text", "b": 1, "list": [1]});
        let cases = [
            ("rating >=", "the filter `rating >=` can't be used"),
            ("a = 1 b", "`b` does not continue the expression"),
            ("b + 1", "neither true nor false"),
            ("length(a)", "neither true nor false"),
            ("b", "neither true nor false"),
            ("a > 3", "`a` is \"text\", which is not a number"),
            ("list = 1", "`list` is a list"),
            ("b LIKE 'x'", "not a text"),
            ("CAST(a AS INT) = 1", "\"text\""),
            ("b IN (SELECT 1)", "`SELECT` is not supported"),
            ("strftime(a) = 1", "`strftime()` is not supported"),
            ("length(a, a) = 1", "wrong number of arguments"),
            ("a LIKE b", "must be a text"),
            ("a ~ '('", "can't be used"),
            ("CASE WHEN b = 1 THEN true END", "`CASE` is not supported"),
            ("a = 'x", "never closed"),
            ("(a = 1", "`)` is expected before the end"),
            ("a NOT 1", "NOT can't stand before `1`"),
            ("a BETWEEN 1 OR 2", "BETWEEN needs AND"),
            ("a = 1; DROP", "`;` does not continue the expression"),
            ("a = §", "`§` is not supported"),
            (&"(".repeat(100_000), "nested too deeply"),
            (&"NOT ".repeat(100_000), "nested too deeply"),
            (&"b = 1 AND ".repeat(100_000), "more than 500 operators"),
        ];
        for (filter, expected) in cases {
            let error = keep(filter, &row).expect_err(filter);
            assert!(error.contains(expected), "{filter}: {error} lacks {expected}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "([a-c]|'[a-z%]*'|[0-9.e]{1,4}|AND|OR|NOT|IN|LIKE|IS|NULL|BETWEEN|CAST|AS|int|::|[-+*/%()=<>~!|,;\"`'é]| ){0,20}") {
            if let Ok(filter) = Filter::new(&text) {
                let row = json!({"a": "x", "b": 1, "c": null});
                let _ = filter.keep(row.as_object().expect("an object"));
            }
        }
    }
}
