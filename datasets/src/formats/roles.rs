//! Role names in data sets.
//!
//! Responsible for: one table of names, used for `role` and for ShareGPT's `from`. Must not depend on: messages.

/// The meaning of a role name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A role that chat templates know.
    Role(&'static str),
    /// A tool call by the assistant. The text is the call as JSON.
    Call,
}

use Meaning::{Call, Role};

/// Names in lower case. Other names, such as `developer`, are passed to the chat template unchanged.
const NAMES: &[(&str, Meaning)] = &[
    ("system", Role("system")),
    ("user", Role("user")),
    ("human", Role("user")),
    ("prompter", Role("user")),
    ("assistant", Role("assistant")),
    ("gpt", Role("assistant")),
    ("chatgpt", Role("assistant")),
    ("bot", Role("assistant")),
    ("model", Role("assistant")),
    ("function_call", Call),
    ("tool_call", Call),
    ("tool", Role("tool")),
    ("observation", Role("tool")),
    ("tool_response", Role("tool")),
    ("function_response", Role("tool")),
];

/// The meaning of a name. Case is ignored.
pub(crate) fn meaning(name: &str) -> Option<Meaning> {
    let lower = name.to_lowercase();
    NAMES.iter().find(|(known, _)| *known == lower).map(|(_, meaning)| *meaning)
}

/// All names, for error messages.
pub(crate) fn known() -> String {
    NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
