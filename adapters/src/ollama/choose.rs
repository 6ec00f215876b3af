//! Which row renders the same text as the Jinja template of the training.
//!
//! Responsible for: the proof. Must not depend on: Jinja (a callback renders it), names of models.

use super::OllamaError;
use super::conversation::{Message, render};
use super::go_template::GoTemplate;
use super::probes::{Probe, probes};
use super::templates::{HOLE, ROWS, Row};

/// A row that is equal to the Jinja template, with all its texts.
#[derive(Clone, Debug)]
pub struct Choice {
    pub row: &'static Row,
    /// The Go template for `TEMPLATE`.
    pub template: String,
    /// The text that the Jinja template writes and the row doesn't know: a default system prompt, or a preamble with a
    /// date. The Modelfile keeps it as it is now.
    pub recovered: Option<String>,
    /// Text at the very start of the template, such as a BOS token that the server doesn't add. Usually empty.
    pub prefix: String,
    /// Names of the probes with equal text.
    pub equal: Vec<&'static str>,
    /// Names of the probes that the Jinja template refuses, with its reasons. Ollama refuses no conversation, so
    /// nothing is known about its text for these.
    pub refused: Vec<(&'static str, String)>,
}

/// Renders a conversation with the Jinja template of the training, as text with all special tokens. The flag is
/// `add_generation_prompt`. [`Message::thinking`] is `reasoning_content` in Jinja. The error is why the template
/// refuses the conversation.
pub type RenderJinja<'a> = dyn FnMut(&[Message], bool) -> Result<String, String> + 'a;

/// Chooses a row by rendering all [`probes`] with the Jinja template of the training and with each row.
///
/// `added_bos` is the text of the BOS token if the tokenizer adds it (`tokenizer.ggml.add_bos_token`), otherwise
/// empty. Ollama's runner tokenizes the rendered text and adds BOS then, so the Jinja text must start with it, and the
/// Go template must not contain it.
///
/// Two texts are compared for each probe:
/// - The last message is the user's: the texts must be equal, with the start of the assistant's turn.
/// - The last message is the assistant's: Ollama continues it. The Jinja text (`add_generation_prompt` false) must be
///   the Go text followed by the row's stop text.
///
/// A probe that the Jinja template refuses proves nothing and is skipped, but the probes "question" and "turns" must
/// be rendered. A row may have a hole: its text is taken from the Jinja text of a probe, and then all probes must be
/// equal.
///
/// # Errors
/// [`OllamaError::Refused`], [`OllamaError::Bos`], and [`OllamaError::NoRow`] with the first difference of the row
/// that agrees longest.
pub fn choose(added_bos: &str, render_jinja: &mut RenderJinja<'_>) -> Result<Choice, OllamaError> {
    let mut rendered = Vec::new();
    let mut refused = Vec::new();
    for probe in probes() {
        match render_jinja(&probe.messages, probe.generates()) {
            Ok(text) => match text.strip_prefix(added_bos) {
                Some(text) => rendered.push((probe, text.to_owned())),
                None => {
                    let start = text.chars().take(CONTEXT).collect();
                    return Err(OllamaError::Bos { bos: added_bos.to_owned(), start });
                }
            },
            Err(why) if probe.is_essential() => return Err(OllamaError::Refused { probe: probe.name, why }),
            Err(why) => refused.push((probe.name, why)),
        }
    }
    let mut nearest: Option<(usize, OllamaError)> = None;
    for row in &ROWS {
        let (prefix, recovered) = recover(row, &rendered)?;
        let template = row.template(&prefix, recovered.as_deref().unwrap_or_default());
        match compare(row, &template, &rendered)? {
            None => {
                let equal = rendered.iter().map(|(probe, _)| probe.name).collect();
                return Ok(Choice { row, template, recovered, prefix, equal, refused });
            }
            Some((agreement, difference)) => {
                if nearest.as_ref().is_none_or(|(best, _)| agreement > *best) {
                    nearest = Some((agreement, difference));
                }
            }
        }
    }
    Err(nearest.map_or(OllamaError::WithoutMessages, |(_, difference)| difference))
}

/// Characters around a difference in an error.
const CONTEXT: usize = 40;

/// The text before the row's own start, and the text of its hole, as far as the texts of the probes show them. Wrong
/// guesses are found when all probes are compared.
fn recover(row: &Row, rendered: &[(Probe, String)]) -> Result<(String, Option<String>), OllamaError> {
    let Some((probe, expected)) = rendered.first() else { return Ok((String::new(), None)) };
    let found = render(&GoTemplate::parse(&row.template("", HOLE))?, &probe.messages)?;
    if !row.has_hole() {
        return Ok((expected.strip_suffix(&found[..]).unwrap_or_default().to_owned(), None));
    }
    let parts = found.split_once(HOLE).and_then(|(before, after)| {
        let (prefix, rest) = expected.split_once(before)?;
        Some((prefix.to_owned(), Some(rest.strip_suffix(after)?.to_owned())))
    });
    Ok(parts.unwrap_or_default())
}

/// `None` if all texts are equal. Otherwise the first difference, and how many bytes agree before it.
fn compare(
    row: &Row,
    template: &str,
    rendered: &[(Probe, String)],
) -> Result<Option<(usize, OllamaError)>, OllamaError> {
    let template = GoTemplate::parse(template)?;
    let mut agreement = 0;
    for (probe, expected) in rendered {
        let mut found = render(&template, &probe.messages)?;
        if !probe.generates() {
            found.push_str(row.stops.first().copied().unwrap_or_default());
        }
        let equal = match probe.generates() {
            true => found == *expected,
            false => expected.starts_with(&found),
        };
        let common = expected.bytes().zip(found.bytes()).take_while(|(first, second)| first == second).count();
        agreement += common;
        if !equal {
            let difference = OllamaError::NoRow {
                row: row.name,
                probe: probe.name,
                at: common,
                expected: around(expected, common),
                found: around(&found, common),
            };
            return Ok(Some((agreement, difference)));
        }
    }
    Ok(None)
}

/// The text before and after a byte offset.
fn around(text: &str, at: usize) -> String {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let start = text[..at].char_indices().rev().take(CONTEXT).last().map_or(at, |(position, _)| position);
    text[start..at].chars().chain(text[at..].chars().take(CONTEXT)).collect()
}
