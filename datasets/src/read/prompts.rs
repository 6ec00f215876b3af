//! Held-out prompts: the model generates answers to them before and after training. Each prompt may list terms that an
//! answer should use or avoid, and how a person answered.
//!
//! Responsible for: reading `evaluation.prompts`, one JSON object per line:
//! `{"prompt": "…" | "messages": […], "expect": ["term", …], "avoid": ["term", …], "reference": "…", "language": "de"}`.
//! Must not depend on: how answers are generated.

use std::path::Path;

use serde::Deserialize;
use tonfall_terms::language::is_known;

use crate::{DataError, Message};

/// One held-out prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldOutPrompt {
    pub messages: Vec<Message>,
    /// Terms that a good answer uses.
    pub expect: Vec<String>,
    /// Terms that a good answer doesn't use.
    pub avoid: Vec<String>,
    /// A good answer. Answers are compared with it.
    pub reference: Option<String>,
    /// The language of a good answer, as a tag or a name. `None`: recognized from the answer.
    pub language: Option<String>,
}

impl HeldOutPrompt {
    /// The text of the last message, for display.
    pub fn text(&self) -> String {
        self.messages.last().map(|message| message.content.clone()).unwrap_or_default()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt: Option<String>,
    messages: Option<Vec<RowMessage>>,
    #[serde(default)]
    expect: Vec<String>,
    #[serde(default)]
    avoid: Vec<String>,
    reference: Option<String>,
    language: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowMessage {
    role: String,
    content: String,
}

/// Reads held-out prompts.
///
/// # Errors
/// If a row isn't a prompt. The error names the file and the line.
pub fn read_prompts(path: &Path) -> Result<Vec<HeldOutPrompt>, DataError> {
    let text = std::fs::read_to_string(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| parse(line).map_err(|why| DataError::row(path, index as u64 + 1, why))).collect()
}

fn parse(line: &str) -> Result<HeldOutPrompt, String> {
    let row: Row = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let messages = match (row.prompt, row.messages) {
        (Some(prompt), None) => vec![Message::new("user", prompt)],
        (None, Some(messages)) if !messages.is_empty() => {
            messages.into_iter().map(|message| Message::new(message.role, message.content)).collect()
        }
        _ => return Err("a held-out prompt needs either `prompt` or non-empty `messages`".to_owned()),
    };
    let language = row.language.map(|tag| match is_known(&tag) {
        true => Ok(tag),
        false => Err(format!("`language`: \"{tag}\" is no language; write a tag such as \"de\" or \"en-US\"")),
    });
    let language = language.transpose()?;
    Ok(HeldOutPrompt { messages, expect: row.expect, avoid: row.avoid, reference: row.reference, language })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_prompt_is_text_or_messages() {
        let prompt = parse(r#"{"prompt": "Hello?", "expect": ["guest"]}"#).expect("valid");
        assert_eq!((prompt.text().as_str(), prompt.expect.len()), ("Hello?", 1));
        assert!(parse(r#"{"expect": ["guest"]}"#).is_err());
        assert!(parse(r#"{"prompt": "a", "messages": []}"#).is_err());
        assert!(parse(r#"{"prompt": "a", "expcet": []}"#).is_err());
    }

    #[test]
    fn a_prompt_may_have_a_reference_and_a_language() {
        let prompt = parse(r#"{"prompt": "a", "reference": "b", "language": "de-CH"}"#).expect("valid");
        assert_eq!((prompt.reference.as_deref(), prompt.language.as_deref()), (Some("b"), Some("de-CH")));
        let fault = parse(r#"{"prompt": "a", "language": "klingon"}"#).expect_err("unknown");
        assert!(fault.contains("klingon"), "{fault}");
    }
}
