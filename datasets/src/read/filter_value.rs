//! Evaluates the expression of a filter for one row.
//!
//! Responsible for: comparison, arithmetic and SQL's three-valued logic. A text of a row is converted to a number when
//! it is compared with one, because CSV has no number type. Must not depend on: the syntax of expressions.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use crate::formats::conversation::kind;
use crate::read::filter::{Comparison, Function, Node, Operation, Type};

/// A value of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    /// A text of a row. Has the column's name, for errors, if it is the unchanged value of a column.
    Text(Cow<'a, str>, Option<&'a str>),
    /// A text literal in the expression. It is never converted to a number.
    Literal(String),
    /// A list or an object: the column's name, and the type of the value.
    Other(&'a str, &'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    True,
    False,
    Unknown,
}

/// A column's name and its value in the row.
type Columns<'c, 'a> = &'c dyn Fn(usize) -> (&'a str, Option<&'a Value>);

impl Truth {
    fn cell(self) -> Cell<'static> {
        match self {
            Self::True => Cell::Bool(true),
            Self::False => Cell::Bool(false),
            Self::Unknown => Cell::Null,
        }
    }

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }
}

/// The truth value of a cell.
pub(super) fn truth(cell: &Cell<'_>) -> Result<Truth, String> {
    match cell {
        Cell::Null => Ok(Truth::Unknown),
        Cell::Bool(true) => Ok(Truth::True),
        Cell::Bool(false) => Ok(Truth::False),
        Cell::Text(text, _) if spelled_bool(text).is_some() => truth(&Cell::Bool(spelled_bool(text) == Some(true))),
        other => Err(format!("{} is neither true nor false", describe(other))),
    }
}

pub(super) fn evaluate<'a>(node: &Node, columns: Columns<'_, 'a>) -> Result<Cell<'a>, String> {
    let value = |node: &Node| evaluate(node, columns);
    let is = |node: &Node| truth(&evaluate(node, columns)?);
    Ok(match node {
        Node::Column(index) => column(columns(*index)),
        Node::Literal(cell) => cell.clone(),
        Node::Not(inner) => is(inner)?.not().cell(),
        Node::And(left, right) => match (is(left)?, is(right)?) {
            (Truth::False, _) | (_, Truth::False) => Cell::Bool(false),
            (Truth::True, Truth::True) => Cell::Bool(true),
            _ => Cell::Null,
        },
        Node::Or(left, right) => match (is(left)?, is(right)?) {
            (Truth::True, _) | (_, Truth::True) => Cell::Bool(true),
            (Truth::False, Truth::False) => Cell::Bool(false),
            _ => Cell::Null,
        },
        Node::Compare(comparison, left, right) => compare(*comparison, &value(left)?, &value(right)?)?.cell(),
        Node::Distinct(left, right) => {
            let (left, right) = (value(left)?, value(right)?);
            Cell::Bool(match (left == Cell::Null, right == Cell::Null) {
                (true, true) => false,
                (true, false) | (false, true) => true,
                (false, false) => compare(Comparison::NotEqual, &left, &right)? == Truth::True,
            })
        }
        Node::IsNull(inner) => Cell::Bool(value(inner)? == Cell::Null),
        Node::Is(wanted, inner) => Cell::Bool(is(inner)? == if *wanted { Truth::True } else { Truth::False }),
        Node::In(inner, list) => {
            let (inner, mut found) = (value(inner)?, Truth::False);
            for item in list {
                match compare(Comparison::Equal, &inner, &value(item)?)? {
                    Truth::True => return Ok(Cell::Bool(true)),
                    Truth::Unknown => found = Truth::Unknown,
                    Truth::False => {}
                }
            }
            found.cell()
        }
        Node::Between(inner, low, high) => {
            let inner = value(inner)?;
            let above = compare(Comparison::GreaterOrEqual, &inner, &value(low)?)?;
            let below = compare(Comparison::LessOrEqual, &inner, &value(high)?)?;
            match (above, below) {
                (Truth::False, _) | (_, Truth::False) => Cell::Bool(false),
                (Truth::True, Truth::True) => Cell::Bool(true),
                _ => Cell::Null,
            }
        }
        Node::Matches(inner, pattern) => match text(&value(inner)?)? {
            None => Cell::Null,
            Some(text) => Cell::Bool(pattern.is_match(text)),
        },
        Node::Arithmetic(operation, left, right) => arithmetic(*operation, &value(left)?, &value(right)?)?,
        Node::Concatenate(left, right) => match (text(&value(left)?)?, text(&value(right)?)?) {
            (Some(left), Some(right)) => owned(format!("{left}{right}")),
            _ => Cell::Null,
        },
        Node::Call(function, arguments) => {
            let arguments = arguments.iter().map(value).collect::<Result<Vec<_>, _>>()?;
            call(*function, arguments)?
        }
        Node::Cast(inner, to, lenient) => match cast(value(inner)?, *to) {
            Err(_) if *lenient => Cell::Null,
            cast => cast?,
        },
    })
}

fn column<'a>((name, cell): (&'a str, Option<&'a Value>)) -> Cell<'a> {
    match cell {
        None | Some(Value::Null) => Cell::Null,
        Some(Value::Bool(truth)) => Cell::Bool(*truth),
        Some(Value::String(text)) => Cell::Text(Cow::Borrowed(text), Some(name)),
        Some(Value::Number(number)) => match number.as_i128() {
            Some(number) => Cell::Int(number),
            None => Cell::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Some(other) => Cell::Other(name, kind(other)),
    }
}

fn owned<'a>(text: String) -> Cell<'a> {
    Cell::Text(Cow::Owned(text), None)
}

/// The number that a text spells.
pub(super) fn number(text: &str) -> Option<Cell<'static>> {
    let text = text.trim();
    match text.parse() {
        Ok(number) => Some(Cell::Int(number)),
        Err(_) => text.parse().ok().map(Cell::Float),
    }
}

fn spelled_bool(text: &str) -> Option<bool> {
    [("true", true), ("false", false)]
        .into_iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text.trim()))
        .map(|(_, truth)| truth)
}

fn text<'c>(cell: &'c Cell<'_>) -> Result<Option<&'c str>, String> {
    match cell {
        Cell::Null => Ok(None),
        Cell::Text(text, _) => Ok(Some(text)),
        Cell::Literal(text) => Ok(Some(text)),
        other => Err(format!("{} is not a text", describe(other))),
    }
}

/// The number of a cell. A text of a row is parsed.
fn numeric(cell: &Cell<'_>) -> Result<Cell<'static>, String> {
    match cell {
        Cell::Int(number) => Ok(Cell::Int(*number)),
        Cell::Float(number) => Ok(Cell::Float(*number)),
        Cell::Text(text, _) if let Some(number) = number(text) => Ok(number),
        other => Err(format!("{}, which is not a number", describe(other))),
    }
}

fn float(cell: &Cell<'_>) -> f64 {
    match cell {
        Cell::Int(number) => *number as f64,
        Cell::Float(number) => *number,
        _ => f64::NAN,
    }
}

fn compare(comparison: Comparison, left: &Cell<'_>, right: &Cell<'_>) -> Result<Truth, String> {
    let is_number = |cell: &Cell<'_>| matches!(cell, Cell::Int(_) | Cell::Float(_));
    let order = match (left, right) {
        (Cell::Null, _) | (_, Cell::Null) => return Ok(Truth::Unknown),
        (Cell::Other(..), _) | (_, Cell::Other(..)) => {
            let other = if matches!(left, Cell::Other(..)) { left } else { right };
            return Err(format!("{}, which can't be compared", describe(other)));
        }
        (Cell::Bool(_), _) | (_, Cell::Bool(_)) => match (truth(left)?, truth(right)?) {
            (left, right) if left == right => Some(Ordering::Equal),
            (Truth::True, _) => Some(Ordering::Greater),
            _ => Some(Ordering::Less),
        },
        (left, right) if is_number(left) || is_number(right) => order_of_numbers(&numeric(left)?, &numeric(right)?),
        // Two texts of a row, for example from CSV: compared as numbers if both are numbers.
        (Cell::Text(left, _), Cell::Text(right, _)) => match (number(left), number(right)) {
            (Some(left), Some(right)) => order_of_numbers(&left, &right),
            _ => Some(left.as_ref().cmp(right.as_ref())),
        },
        (left, right) => text(left)?.zip(text(right)?).map(|(left, right)| left.cmp(right)),
    };
    let holds = match (comparison, order) {
        // NaN is unequal to everything.
        (Comparison::NotEqual, order) => order != Some(Ordering::Equal),
        (_, None) => false,
        (Comparison::Equal, Some(order)) => order.is_eq(),
        (Comparison::Less, Some(order)) => order.is_lt(),
        (Comparison::LessOrEqual, Some(order)) => order.is_le(),
        (Comparison::Greater, Some(order)) => order.is_gt(),
        (Comparison::GreaterOrEqual, Some(order)) => order.is_ge(),
    };
    Ok(if holds { Truth::True } else { Truth::False })
}

fn order_of_numbers(left: &Cell<'_>, right: &Cell<'_>) -> Option<Ordering> {
    match (left, right) {
        (Cell::Int(left), Cell::Int(right)) => Some(left.cmp(right)),
        (left, right) => float(left).partial_cmp(&float(right)),
    }
}

/// Integers stay integers, except in a division with a remainder. Division by zero returns null.
fn arithmetic(operation: Operation, left: &Cell<'_>, right: &Cell<'_>) -> Result<Cell<'static>, String> {
    if *left == Cell::Null || *right == Cell::Null {
        return Ok(Cell::Null);
    }
    let (left, right) = (numeric(left)?, numeric(right)?);
    let divides = matches!(operation, Operation::Divide | Operation::Remainder);
    if divides && float(&right) == 0.0 {
        return Ok(Cell::Null);
    }
    if let (Cell::Int(left), Cell::Int(right)) = (&left, &right) {
        let whole = match operation {
            Operation::Add => left.checked_add(*right),
            Operation::Subtract => left.checked_sub(*right),
            Operation::Multiply => left.checked_mul(*right),
            Operation::Divide => (left.checked_rem(*right) == Some(0)).then(|| left / right),
            Operation::Remainder => left.checked_rem(*right),
        };
        if let Some(whole) = whole {
            return Ok(Cell::Int(whole));
        }
    }
    let (left, right) = (float(&left), float(&right));
    Ok(Cell::Float(match operation {
        Operation::Add => left + right,
        Operation::Subtract => left - right,
        Operation::Multiply => left * right,
        Operation::Divide => left / right,
        Operation::Remainder => left % right,
    }))
}

fn call<'a>(function: Function, arguments: Vec<Cell<'a>>) -> Result<Cell<'a>, String> {
    if function == Function::Coalesce {
        return Ok(arguments.into_iter().find(|cell| *cell != Cell::Null).unwrap_or(Cell::Null));
    }
    if arguments.contains(&Cell::Null) {
        return Ok(Cell::Null);
    }
    if function == Function::Abs {
        return Ok(match numeric(&arguments[0])? {
            Cell::Int(number) => Cell::Int(number.saturating_abs()),
            number => Cell::Float(float(&number).abs()),
        });
    }
    let texts = arguments.iter().map(|cell| Ok(text(cell)?.unwrap_or_default())).collect::<Result<Vec<_>, String>>()?;
    let (first, second) = (texts[0], texts.get(1).copied().unwrap_or_default());
    Ok(match function {
        Function::Length => Cell::Int(first.chars().count() as i128),
        Function::OctetLength => Cell::Int(first.len() as i128),
        Function::Lower => owned(first.to_lowercase()),
        Function::Upper => owned(first.to_uppercase()),
        Function::Trim => owned(first.trim().to_owned()),
        Function::StartsWith => Cell::Bool(first.starts_with(second)),
        Function::EndsWith => Cell::Bool(first.ends_with(second)),
        Function::Contains => Cell::Bool(first.contains(second)),
        Function::Abs | Function::Coalesce => Cell::Null,
    })
}

fn cast<'a>(cell: Cell<'a>, to: Type) -> Result<Cell<'a>, String> {
    // A literal is cast in the same way as any other text.
    let cell = if let Cell::Literal(text) = cell { owned(text) } else { cell };
    Ok(match (to, &cell) {
        (_, Cell::Null) => Cell::Null,
        (Type::Boolean, _) => truth(&cell)?.cell(),
        (Type::Integer, Cell::Bool(truth)) => Cell::Int(i128::from(*truth)),
        (Type::Integer, _) => match numeric(&cell)? {
            Cell::Float(number) if number.is_finite() => Cell::Int(number.trunc() as i128),
            Cell::Float(number) => return Err(format!("{number} is no whole number")),
            number => number,
        },
        (Type::Float, _) => Cell::Float(float(&numeric(&cell)?)),
        (Type::Text, Cell::Int(number)) => owned(number.to_string()),
        (Type::Text, Cell::Float(number)) => owned(number.to_string()),
        (Type::Text, Cell::Bool(truth)) => owned(truth.to_string()),
        (Type::Text, Cell::Text(..)) => cell,
        (Type::Text, _) => return Err(format!("{} is not a text", describe(&cell))),
    })
}

/// A value in a message.
fn describe(cell: &Cell<'_>) -> String {
    let short = |text: &str| match text.char_indices().nth(40) {
        Some((end, _)) => format!("\"{}…\"", &text[..end]),
        None => format!("\"{text}\""),
    };
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::Bool(truth) => truth.to_string(),
        Cell::Int(number) => number.to_string(),
        Cell::Float(number) => number.to_string(),
        Cell::Text(text, Some(name)) => format!("`{name}` is {}", short(text)),
        Cell::Text(text, None) => short(text),
        Cell::Literal(text) => short(text),
        Cell::Other(name, kind) => format!("`{name}` is {kind}"),
    }
}
