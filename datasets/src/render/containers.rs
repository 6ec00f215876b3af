//! Limits for lists and mappings that a chat template creates.
//!
//! Responsible for: consuming fuel for containers that are free in the template engine. Must not depend on: messages.
//!
//! The engine consumes fuel for texts, list items and instructions. Three operations consume none, or too little:
//!
//! - `a + b` of lists is lazy. Forty doublings create a list of 2^40 items.
//! - Slices are lazy. For nested slices, the time is quadratic in the nesting depth.
//! - Lists nested some thousand levels deep overflow the stack when they are compared, written or dropped.
//!
//! The source of a template is therefore rewritten. Expressions that create containers become arguments of a function
//! that consumes fuel and returns its argument. Expressions that can only be a text or a number are not changed, so
//! ordinary templates have no overhead.

use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::Value as Json;

/// A function and a filter. Consumes fuel for a container that may hold other containers.
const MADE: &str = "__tonfall_made";
/// Consumes fuel for a sum of lists.
const SUM: &str = "__tonfall_sum";
/// Consumes fuel for an object whose content can be changed later.
const OBJECT: &str = "__tonfall_object";

/// Maximum number of nested and lazy containers that one rendering may create. About 4,000 levels of nesting overflow a
/// stack of 2 MiB when the containers are compared.
const CONTAINERS: u64 = 3000;

/// Filters that don't return a new container. Sorted.
const PLAIN_FILTERS: [&str; 24] = [
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "e",
    "escape",
    "first",
    "float",
    "indent",
    "int",
    "join",
    "last",
    "length",
    "lower",
    "max",
    "min",
    "replace",
    "round",
    "safe",
    "string",
    "title",
    "tojson",
    "trim",
];
/// Methods that don't return a container, or only one of texts. Sorted.
const PLAIN_METHODS: [&str; 20] = [
    "capitalize",
    "count",
    "endswith",
    "find",
    "format",
    "get",
    "isdigit",
    "join",
    "lower",
    "lstrip",
    "removeprefix",
    "removesuffix",
    "replace",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
];
/// Objects whose calls the engine compiles in a special way.
const SPECIAL: [&str; 3] = ["loop", "self", "super"];

/// Adds the functions that rewritten sources call.
pub(super) fn add_functions(environment: &mut Environment<'static>) {
    let made = |state: &State, value: Value| -> Result<Value, Error> {
        let containers = if is_nested(&value)? { container(state) } else { 0 };
        state.consume_fuel(containers + value.len().unwrap_or(0) as u64 / 64)?;
        Ok(value)
    };
    environment.add_function(MADE, made);
    environment.add_filter(MADE, made);
    environment.add_function(OBJECT, |state: &State, value: Value| -> Result<Value, Error> {
        state.consume_fuel(container(state))?;
        Ok(value)
    });
    environment.add_function(SUM, |state: &State, value: Value| -> Result<Value, Error> {
        if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            // A sum of more than 32 lists is copied, item by item.
            state.consume_fuel(value.len().unwrap_or(0) as u64 / 8 + 1)?;
        }
        Ok(value)
    });
}

/// Fuel for one container: a fraction of the initial fuel of the rendering.
fn container(state: &State) -> u64 {
    state.fuel_levels().map_or(0, |(consumed, remaining)| (consumed + remaining) / CONTAINERS)
}

/// Whether the value holds other containers. Lazy values are not evaluated and count as nested.
fn is_nested(value: &Value) -> Result<bool, Error> {
    let is_container = |item: &Value| item.as_object().is_some();
    Ok(match value.kind() {
        ValueKind::Iterable => true,
        ValueKind::Seq => value.try_iter()?.any(|item| is_container(&item)),
        ValueKind::Map => value.try_iter()?.any(|key| value.get_item(&key).is_ok_and(|item| is_container(&item))),
        _ => is_container(value),
    })
}

/// Rewrites `source`: wraps the expressions that create containers in calls. The byte ranges `bodies` are adjusted to
/// the rewritten source. Line numbers don't change.
///
/// # Errors
/// If the source is not a template, or uses the reserved names of the functions.
pub(super) fn charge(
    source: &str,
    syntax: SyntaxConfig,
    bodies: &mut [std::ops::Range<usize>],
) -> Result<String, Error> {
    if let Some(name) = [MADE, SUM, OBJECT].into_iter().find(|name| source.contains(name)) {
        return Err(Error::new(ErrorKind::SyntaxError, format!("the name `{name}` is reserved")));
    }
    let tree = parse(source, "", syntax)?;
    let tree = serde_json::to_value(&tree).map_err(|error| Error::new(ErrorKind::SyntaxError, error.to_string()))?;
    let mut charges = Vec::new();
    find(&tree, &mut charges);
    // Insertions. At the same offset: closing before opening, inner closing first, outer opening first.
    let mut pieces: Vec<(usize, bool, usize, String)> = Vec::new();
    for Charge { start, end, by } in charges {
        let (before, after) = match by {
            By::Call(name) => (format!("{name}("), ")".to_owned()),
            // Without its own parentheses, a tuple would become several arguments.
            By::CallWithTuple => (format!("{MADE}(("), "))".to_owned()),
            By::Filter => (String::new(), format!("|{MADE}")),
        };
        pieces.push((start, true, usize::MAX - end, before));
        pieces.push((end, false, usize::MAX - start, after));
    }
    pieces.sort_unstable();
    let (mut charged, mut copied) = (String::with_capacity(2 * source.len()), 0);
    for (at, _, _, text) in &pieces {
        charged.push_str(source.get(copied..*at).unwrap_or_default());
        charged.push_str(text);
        copied = *at;
    }
    charged.push_str(source.get(copied..).unwrap_or_default());
    let moved = |at: usize| {
        let inserted = pieces.iter().filter(|(place, ..)| *place < at).map(|(.., text)| text.len());
        at + inserted.sum::<usize>()
    };
    for body in bodies {
        *body = moved(body.start)..moved(body.end);
    }
    Ok(charged)
}

/// An expression to wrap.
struct Charge {
    /// Byte range.
    start: usize,
    end: usize,
    by: By,
}

/// How an expression is wrapped.
enum By {
    /// As the argument of a function.
    Call(&'static str),
    CallWithTuple,
    /// By an additional filter after it, because the range of a filter starts at its name.
    Filter,
}

/// Finds the expressions to wrap.
fn find(node: &Json, charges: &mut Vec<Charge>) {
    match node {
        Json::Array(items) => items.iter().for_each(|item| find(item, charges)),
        Json::Object(fields) => {
            if let Some((by, (start, end))) = charge_of(node).zip(place(node)) {
                charges.push(Charge { start, end, by });
            }
            for (name, field) in fields {
                match (name.as_str(), field) {
                    // Assignment targets.
                    ("target", _) => {}
                    ("assignments", Json::Array(pairs)) => pairs.iter().for_each(|pair| find(&pair[1], charges)),
                    _ => find(field, charges),
                }
            }
        }
        _ => {}
    }
}

/// How an expression must be wrapped. `None` if it creates no container, or if another call already covers it.
fn charge_of(node: &Json) -> Option<By> {
    let inner = &node["inner"][0];
    let made = |wanted: bool| wanted.then_some(By::Call(MADE));
    let name = |node: &Json| node.as_str().unwrap_or_default().to_owned();
    match node["expr"].as_str()? {
        "BinOp" if inner["op"] == "Add" => (!has_constant_term(node)).then_some(By::Call(SUM)),
        "BinOp" => made(inner["op"] == "Mul"),
        "List" | "Map" => made(!is_constant(node)),
        "Tuple" => (!is_constant(node)).then_some(By::CallWithTuple),
        "Slice" => made(true),
        // A filter block has no expression of its own.
        "Filter" if inner["expr"].is_null() => None,
        "Filter" => (!PLAIN_FILTERS.contains(&name(&inner["name"]).as_str())).then_some(By::Filter),
        "Call" => {
            let callee = &inner["expr"];
            let target = &callee["inner"][0];
            match callee["expr"].as_str() {
                Some("GetAttr") => {
                    let special = SPECIAL.contains(&name(&target["expr"]["inner"][0]["id"]).as_str());
                    made(!special && !PLAIN_METHODS.contains(&name(&target["name"]).as_str()))
                }
                Some("Var") => {
                    let makes = matches!(name(&target["id"]).as_str(), "dict" | "namespace");
                    makes.then_some(By::Call(OBJECT))
                }
                _ => made(true),
            }
        }
        _ => None,
    }
}

/// Whether a sum has a text or a number among its terms. Then it is not a list.
fn has_constant_term(node: &Json) -> bool {
    let inner = &node["inner"][0];
    match (node["expr"].as_str(), inner["op"].as_str()) {
        (Some("BinOp"), Some("Add")) => has_constant_term(&inner["left"]) || has_constant_term(&inner["right"]),
        (Some("BinOp"), Some("Concat" | "Sub")) | (Some("Const"), _) => true,
        _ => false,
    }
}

fn is_constant(node: &Json) -> bool {
    match node["expr"].as_str() {
        Some("Const") => true,
        Some("List" | "Tuple") => {
            node["inner"][0]["items"].as_array().is_some_and(|items| items.iter().all(is_constant))
        }
        _ => false,
    }
}

/// The byte range of a node. In a chain, the engine starts an attribute, item, slice or call at its own dot or bracket.
/// This function starts it at the start of the chain.
fn place(node: &Json) -> Option<(usize, usize)> {
    let offset = |name: &str| usize::try_from(node["inner"][1][name].as_u64()?).ok();
    let (start, end) = (offset("start_offset")?, offset("end_offset")?);
    let chained = matches!(node["expr"].as_str(), Some("GetAttr" | "GetItem" | "Slice" | "Call"));
    let base = Some(&node["inner"][0]["expr"]).filter(|_| chained).and_then(place);
    Some((base.map_or(start, |(base, _)| base.min(start)), end))
}
