//! The functions of templates. `and` and `or` are evaluated by `execute`, because they skip arguments.
//!
//! Source of the rules: Go's documentation of `text/template`, section "Functions".

use std::cmp::Ordering;

use super::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Len,
    Slice,
    Index,
}

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "and" => Self::And,
            "or" => Self::Or,
            "not" => Self::Not,
            "eq" => Self::Eq,
            "ne" => Self::Ne,
            "lt" => Self::Lt,
            "le" => Self::Le,
            "gt" => Self::Gt,
            "ge" => Self::Ge,
            "len" => Self::Len,
            "slice" => Self::Slice,
            "index" => Self::Index,
            _ => return None,
        })
    }

    pub(super) fn call<'a>(self, arguments: &[Value<'a>]) -> Result<Value<'a>, String> {
        let bool = |truth| Ok(Value::Bool(truth));
        match (self, arguments) {
            // Go's `and` and `or` return the argument that decides.
            (Self::And | Self::Or, [first, ..]) => {
                let decides = |value: &&Value<'a>| value.is_true() == (self == Self::Or);
                Ok(*arguments.iter().find(decides).or(arguments.last()).unwrap_or(first))
            }
            (Self::Not, [value]) => bool(!value.is_true()),
            (Self::Eq, [first, others @ ..]) if !others.is_empty() => {
                for other in others {
                    if equal(*first, *other)? {
                        return bool(true);
                    }
                }
                bool(false)
            }
            (Self::Ne, [first, second]) => bool(!equal(*first, *second)?),
            (Self::Lt, [first, second]) => bool(order(*first, *second)?.is_lt()),
            (Self::Le, [first, second]) => bool(order(*first, *second)?.is_le()),
            (Self::Gt, [first, second]) => bool(order(*first, *second)?.is_gt()),
            (Self::Ge, [first, second]) => bool(order(*first, *second)?.is_ge()),
            (Self::Len, [Value::Text(bytes)]) => Ok(length(bytes.len())),
            (Self::Len, [Value::List(items)]) => Ok(length(items.len())),
            (Self::Len, [Value::Map(entries)]) => Ok(length(entries.len())),
            (Self::Len, [other]) => Err(format!("len of {}", other.kind())),
            (Self::Slice, [item, bounds @ ..]) => slice(*item, bounds),
            (Self::Index, [Value::Nil, ..]) => Err("index of nil".to_owned()),
            (Self::Index, [item, indices @ ..]) => indices.iter().try_fold(*item, |item, index| element(item, *index)),
            _ => Err(format!("wrong number of arguments for {self:?}: {}", arguments.len())),
        }
    }
}

fn length(length: usize) -> Value<'static> {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

fn equal(first: Value<'_>, second: Value<'_>) -> Result<bool, String> {
    match (first, second) {
        (Value::Bool(first), Value::Bool(second)) => Ok(first == second),
        (Value::Int(first), Value::Int(second)) => Ok(first == second),
        (Value::Text(first), Value::Text(second)) => Ok(first == second),
        (Value::Nil, Value::Nil) => Ok(true),
        (Value::Nil, _) | (_, Value::Nil) => Ok(false),
        (first, second) => Err(format!("incompatible types for comparison: {} and {}", first.kind(), second.kind())),
    }
}

fn order(first: Value<'_>, second: Value<'_>) -> Result<Ordering, String> {
    match (first, second) {
        (Value::Int(first), Value::Int(second)) => Ok(first.cmp(&second)),
        (Value::Text(first), Value::Text(second)) => Ok(first.cmp(second)),
        (first, second) => Err(format!("incompatible types for comparison: {} and {}", first.kind(), second.kind())),
    }
}

/// `slice x`, `slice x 1` and `slice x 1 2`. Go also allows a list's end beyond its length, up to its capacity; this
/// is refused here.
fn slice<'a>(item: Value<'a>, bounds: &[Value<'a>]) -> Result<Value<'a>, String> {
    let size = match item {
        Value::Text(bytes) => bytes.len(),
        Value::List(items) => items.len(),
        other => return Err(format!("can't slice {}", other.kind())),
    };
    let bound = |position: usize, default: usize| match bounds.get(position) {
        None => Ok(default),
        Some(Value::Int(number)) => match usize::try_from(*number) {
            Ok(number) if number <= size => Ok(number),
            _ => Err(format!("index out of range: {number}")),
        },
        Some(other) => Err(format!("can't slice with {}", other.kind())),
    };
    let (start, end) = (bound(0, 0)?, bound(1, size)?);
    if bounds.len() > 2 {
        return Err("slicing with three indices is not supported".to_owned());
    }
    if start > end {
        return Err(format!("invalid slice index: {start} > {end}"));
    }
    Ok(match item {
        Value::Text(bytes) => Value::Text(&bytes[start..end]),
        Value::List(items) => Value::List(&items[start..end]),
        other => other,
    })
}

/// A byte of a string, an element of a list, or a value of a map.
fn element<'a>(item: Value<'a>, index: Value<'a>) -> Result<Value<'a>, String> {
    let position = |size: usize| match index {
        Value::Int(number) => match usize::try_from(number) {
            Ok(number) if number < size => Ok(number),
            _ => Err(format!("index out of range: {number}")),
        },
        other => Err(format!("can't index with {}", other.kind())),
    };
    match (item, index) {
        (Value::Text(bytes), _) => Ok(Value::Int(i64::from(bytes[position(bytes.len())?]))),
        (Value::List(items), _) => Ok(items[position(items.len())?]),
        (Value::Map(entries), Value::Text(key)) => {
            Ok(entries.iter().find(|(name, _)| name.as_bytes() == key).map_or(Value::Nil, |(_, value)| *value))
        }
        (item, index) => Err(format!("can't index {} with {}", item.kind(), index.kind())),
    }
}
