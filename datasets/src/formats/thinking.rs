//! Thoughts of reasoning models: `<think>…</think>` in a text, `reasoning_content` beside it.
//!
//! Responsible for: taking thoughts out of messages, and finding them in rendered text. Must not depend on: tokenizers.

use std::ops::Range;

use crate::formats::conversation::Message;

/// How thoughts begin and end in the texts of the families that have them.
const MARKS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
];

/// Keys of a message that hold its thought.
const KEYS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// The thoughts of a message, however it carries them.
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

/// Takes the thoughts out of an assistant's message.
pub(crate) fn drop_thoughts(message: &mut Message) {
    if !message.is_assistant() {
        return;
    }
    for key in KEYS {
        message.fields.shift_remove(key);
    }
    for span in spans(&message.content).into_iter().rev() {
        let after = message.content[span.end..].trim_start().len();
        let end = message.content.len() - after;
        message.content.replace_range(span.start..end, "");
    }
}

/// Where thoughts stand in a text, marks included. One that is never closed goes on to the end.
pub(crate) fn spans(text: &str) -> Vec<Range<usize>> {
    let (mut spans, mut at) = (Vec::new(), 0);
    let next = |at: usize| {
        let found = MARKS.iter().filter_map(|(open, close)| Some((at + text[at..].find(open)?, *open, *close)));
        found.min_by_key(|(start, ..)| *start)
    };
    while let Some((start, open, close)) = next(at) {
        let inside = start + open.len();
        at = text[inside..].find(close).map_or(text.len(), |end| inside + end + close.len());
        spans.push(start..at);
    }
    spans
}

/// `ranges` without the parts that `holes` cover; both ascending.
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
    use super::{drop_thoughts, spans, thoughts, without};
    use crate::formats::conversation::Message;

    #[test]
    fn thoughts_are_found_and_taken_out() {
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
    fn ranges_have_holes() {
        assert_eq!(spans("<think>a</think><think>b"), [0..16, 16..24]);
        assert_eq!(without(&[0..10, 20..30], &[2..4, 8..22, 30..40]), [0..2, 4..8, 22..30]);
        assert_eq!(without(&[5..6, 8..9], &[]), [5..6, 8..9]);
    }
}
