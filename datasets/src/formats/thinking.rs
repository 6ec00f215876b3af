//! Thinking blocks of reasoning models: `<think>…</think>` in the text, or a key such as `reasoning_content`.
//!
//! Responsible for: removing thinking blocks from messages, and finding them in texts. Must not depend on: tokenizers.

use std::ops::Range;

use crate::formats::conversation::{Message, Sample};

/// Opening and closing thinking tags of all supported model families.
const MARKS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<|channel|>analysis<|message|>", HARMONY_END),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
];
/// In the Harmony format this token ends every message, not only thinking blocks.
const HARMONY_END: &str = "<|end|>";

/// Message keys that hold reasoning.
pub(crate) const KEYS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// The reasoning of a message, from its text and from its keys.
pub(crate) fn thoughts(message: &Message) -> Vec<&str> {
    let inside = spans(&message.content).into_iter().map(|span| {
        let text = &message.content[span];
        MARKS.iter().fold(text, |text, (open, close)| {
            text.strip_prefix(open).map_or(text, |text| text.strip_suffix(close).unwrap_or(text))
        })
    });
    let beside = KEYS.iter().filter_map(|key| message.fields.get(*key)?.as_str());
    inside.chain(beside).map(str::trim).filter(|text| !text.is_empty()).collect()
}

/// Removes the thinking blocks of an assistant message.
pub(crate) fn drop_thoughts(message: &mut Message) {
    if !message.is_assistant() {
        return;
    }
    for key in KEYS {
        message.fields.shift_remove(key);
    }
    let spans = spans(&message.content);
    if spans.is_empty() {
        return;
    }
    let mut content = message.content.clone();
    for span in spans.into_iter().rev() {
        let after = content[span.end..].trim_start().len();
        let end = content.len() - after;
        content.replace_range(span.start..end, "");
    }
    message.set_text(content);
}

/// The sample without the thinking blocks of its answers.
pub(crate) fn dropped(sample: &Sample) -> Sample {
    let mut sample = sample.clone();
    match &mut sample {
        Sample::Conversation(conversation) => conversation.messages.iter_mut().for_each(drop_thoughts),
        Sample::PromptCompletion { completion, .. } => {
            let mut answer = Message::new("assistant", std::mem::take(completion));
            drop_thoughts(&mut answer);
            *completion = answer.content;
        }
        Sample::Text(_) => {}
    }
    sample
}

/// The ranges of thinking blocks in a text, including their tags. A block without a closing tag ends with the text.
fn spans(text: &str) -> Vec<Range<usize>> {
    let (mut spans, mut at) = (Vec::new(), 0);
    while let Some((start, open, close)) = first_opening(&text[at..]) {
        let inside = at + start + open.len();
        let start = at + start;
        at = text[inside..].find(close).map_or(text.len(), |end| inside + end + close.len());
        spans.push(start..at);
    }
    spans
}

/// The thinking blocks of the answer at `range` of a rendered text. If the text before the answer ends with an opening
/// tag (some generation prompts do), the answer starts inside a block.
pub(crate) fn within(text: &str, range: &Range<usize>) -> Vec<Range<usize>> {
    let answer = &text[range.clone()];
    let begun = opened(&text[..range.start]).and_then(|close| Some(answer.find(close)? + close.len()));
    let begun = begun.filter(|end| first_opening(answer).is_none_or(|(open, ..)| open >= *end)).unwrap_or(0);
    let rest = range.start + begun;
    let first = (begun > 0).then_some(range.start..rest);
    let others = spans(&text[rest..range.end]).into_iter().map(|span| rest + span.start..rest + span.end);
    first.into_iter().chain(others).collect()
}

/// The closing tag of the block that the end of `prompt` opens.
fn opened(prompt: &str) -> Option<&'static str> {
    let prompt = prompt.trim_end();
    MARKS.iter().find(|(open, _)| prompt.ends_with(open)).map(|(_, close)| *close)
}

/// Whether a token is a thinking tag.
pub(crate) fn is_mark(token: &str) -> bool {
    MARKS.iter().any(|(open, close)| token == *open || token == *close)
}

/// A thinking tag without its counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    NeverClosed(&'static str),
    /// Correct if the generation prompt opens the block.
    NeverOpened(&'static str),
}

impl Broken {
    /// Whether `prompt`, the rendered text before the answer, has the missing tag.
    pub(crate) fn is_mended_by(self, prompt: &str) -> bool {
        matches!(self, Self::NeverOpened(close) if opened(prompt) == Some(close))
    }

    pub(crate) fn describe(self) -> String {
        match self {
            Self::NeverClosed(open) => format!("an answer has {open} and no end of it"),
            Self::NeverOpened(close) => format!("an answer has {close} and no beginning before it"),
        }
    }
}

/// The first thinking tag of an answer without its counterpart.
pub(crate) fn broken(answer: &str) -> Option<Broken> {
    let mut rest = answer;
    loop {
        let closing = MARKS.iter().filter(|(_, close)| *close != HARMONY_END);
        let closing = closing.filter_map(|(_, close)| Some((rest.find(close)?, *close))).min();
        match (first_opening(rest), closing) {
            (None, None) => return None,
            (opening, Some((at, close))) if opening.is_none_or(|(open_at, ..)| at < open_at) => {
                return Some(Broken::NeverOpened(close));
            }
            (Some((at, open, close)), _) => match rest[at + open.len()..].find(close) {
                Some(end) => rest = &rest[at + open.len() + end + close.len()..],
                None => return Some(Broken::NeverClosed(open)),
            },
            (None, Some(_)) => return None,
        }
    }
}

/// The first opening tag: its offset, the tag, and its closing tag.
fn first_opening(text: &str) -> Option<(usize, &'static str, &'static str)> {
    MARKS.iter().filter_map(|(open, close)| Some((text.find(open)?, *open, *close))).min()
}

/// `ranges` without the parts that `holes` cover. Both must be ascending.
pub(crate) fn without(ranges: &[Range<usize>], holes: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut left = Vec::new();
    for range in ranges {
        let mut start = range.start;
        for hole in holes.iter().filter(|hole| hole.start < range.end && range.start < hole.end) {
            if start < hole.start {
                left.push(start..hole.start);
            }
            start = start.max(hole.end);
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::{Broken, broken, drop_thoughts, spans, thoughts, within, without};
    use crate::formats::conversation::Message;

    #[test]
    fn thinking_blocks_are_found_and_removed() {
        let mut message = Message::new("assistant", "<think>\nhm\n</think>\n\nYes. <think>so</think> Done.");
        message.fields.insert("reasoning_content".to_owned(), "because".into());
        assert_eq!(thoughts(&message), ["hm", "so", "because"]);
        drop_thoughts(&mut message);
        assert_eq!((message.content.as_str(), message.fields.len()), ("Yes. Done.", 0));

        let mut user = Message::new("user", "What does <think> mean?");
        drop_thoughts(&mut user);
        assert_eq!(user.content, "What does <think> mean?");
    }

    #[test]
    fn tags_without_their_counterpart_are_found() {
        assert_eq!(broken("<think>a</think> b [THINK]c[/THINK]"), None);
        assert_eq!(broken("<think>a"), Some(Broken::NeverClosed("<think>")));
        assert_eq!(broken("a</think>b <think>c"), Some(Broken::NeverOpened("</think>")));
        assert_eq!(broken("<think>a</think></think>"), Some(Broken::NeverOpened("</think>")));
        // In Harmony, <|end|> also ends answers.
        assert_eq!(broken("<|channel|>analysis<|message|>a<|end|>b<|end|>"), None);
        assert!(Broken::NeverOpened("</think>").is_mended_by("<|assistant|><think>\n"));
        assert!(!Broken::NeverClosed("<think>").is_mended_by("<think>"));
    }

    #[test]
    fn a_block_may_begin_in_the_prompt() {
        let text = "x <think>\nhm</think>one";
        assert_eq!(within(text, &(10..text.len())), vec![10..20; 1]);
        assert_eq!(within(text, &(2..text.len())), vec![2..20; 1]);
        assert_eq!(within("<think> said the user. one", &(22..26)), Vec::<std::ops::Range<usize>>::new());
    }

    #[test]
    fn holes_are_cut_out_of_ranges() {
        assert_eq!(spans("<think>a</think><think>b"), [0..16, 16..24]);
        assert_eq!(without(&[0..10, 20..30], &[2..4, 8..22, 30..40]), [0..2, 4..8, 22..30]);
        assert_eq!(without(&[5..6, 8..9], &[]), [5..6, 8..9]);
    }
}
