//! The names that data sets give to roles.
//!
//! Responsible for: one table of them, used for `role` as for ShareGPT's `from`. Must not depend on: messages.

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A role of chat templates.
    Role(&'static str),
    /// The assistant calls a tool; the text is the call as JSON.
    Call,
}

use Meaning::{Call, Role};

/// Names in lower case. Others, such as `developer`, are left to the chat template.
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

/// The meaning of a name, in capitals or not.
pub(crate) fn meaning(name: &str) -> Option<Meaning> {
    let lower = name.to_lowercase();
    NAMES.iter().find(|(known, _)| *known == lower).map(|(_, meaning)| *meaning)
}

/// All names, for error messages.
pub(crate) fn known() -> String {
    NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
