//! The conversations that decide whether two templates are equal.
//!
//! Responsible for: this list. Must not depend on: templates.

use super::conversation::{Message, Role};

/// A conversation with a name for errors. The last message decides what is compared: see [`super::choose()`].
#[derive(Clone, Debug)]
pub struct Probe {
    pub name: &'static str,
    pub messages: Vec<Message>,
}

impl Probe {
    /// Whether the text ends with the start of an assistant turn. Otherwise, the assistant's last message is
    /// continued.
    #[must_use]
    pub fn generates(&self) -> bool {
        self.messages.last().is_none_or(|message| message.role != Role::Assistant)
    }

    /// Whether a template must render this probe, because without it nothing is served.
    pub(super) fn is_essential(&self) -> bool {
        matches!(self.name, "question" | "turns")
    }
}

/// An optional system message, then turns of user and assistant in order: what a template must render like Jinja.
const PROBES: [(&str, Option<&str>, &[&str]); 18] = [
    ("question", None, &["What is a fuel cell?"]),
    ("turns", None, &["Hi!", "Hello. How can I help?", "Say more."]),
    ("system", Some("You write for engineers."), &["What is a fuel cell?"]),
    ("system and turns", Some("Be brief."), &["One?", "1", "Two?", "2", "Three?"]),
    ("many turns", None, &["a", "b", "c", "d", "e", "f", "g", "h", "i"]),
    ("padded", None, &["  Left\n", " \tBoth \r\n\n", "Right  \n"]),
    ("padded system", Some("\n  Be brief. \n\n"), &[" Hi ", "\nHello\n", "\tBye\t"]),
    ("lines", Some("1. Short.\n2. Plain.\n"), &["def f():\n\n    return 1\n", "```\nx\n```", "a\r\nb\n\n\nc"]),
    ("unicode", Some("Schreibe „Größe“."), &["Grüße aus 東京 🙂", "Ångström ﬁ naïve – 👩‍👩‍👧‍👦", "é e\u{301} ß\u{a0}€"]),
    ("braces", Some("{{ .System }} {{- end }}"), &["{% if x %}{{ y }}{# z #}", "{{ .Content }}}} {", "\"\"\" '''"]),
    ("markup", None, &["<b>&amp;</b> \\n %s $x `y`", "a|b | c", "$ . .. -}} {{-"]),
    ("empty", None, &["", "", "?"]),
    ("blank", None, &[" ", "\n", " \n\t "]),
    ("empty system", Some(""), &["What is a fuel cell?"]),
    ("blank system", Some(" \n"), &["What is a fuel cell?"]),
    ("thoughts", None, &["1?", "one", "2?", "two", "3?"]),
    ("continued", None, &["Count to 3.", "1, 2,"]),
    ("continued turns", Some("Be brief."), &["One?", "1", "Two?", "It is"]),
];

/// All probes.
#[must_use]
pub fn probes() -> Vec<Probe> {
    let mut probes = Vec::with_capacity(PROBES.len());
    for (name, system, turns) in PROBES {
        let mut messages: Vec<_> = system.map(|text| Message::new(Role::System, text)).into_iter().collect();
        for (number, text) in turns.iter().enumerate() {
            let mut message = Message::new(if number % 2 == 0 { Role::User } else { Role::Assistant }, *text);
            if name == "thoughts" && message.role == Role::Assistant {
                message.thinking = Some(format!("Is it {text}?"));
            }
            messages.push(message);
        }
        probes.push(Probe { name, messages });
    }
    probes
}
