//! Chat templates.

use jiff::Zoned;
use jiff::tz::TimeZone;
use serde_json::json;
use tonfall_recipes::plan::{Thinking, TrainOn};

use crate::formats::conversation::{Conversation, Message, Sample};
use crate::heap;
use crate::label::mask::{IGNORED, LabelOptions, label_sample};
use crate::render::template::Rendering;
use crate::render::tokenizer::{ChatTokenizer, TokenizerSpec};

const TOKENIZER: &[u8] = include_bytes!("../../tests/fixtures/runs/base/tokenizer.json");
/// The limit of a rendering, for an input of less than 4 KiB.
const OUTPUT: usize = (4 << 20) + 8 * (4 << 10);

/// A template renders conversations with tools, reasoning and a system message within its output limit. The ranges of
/// `{% generation %}` blocks are ordered and lie in the text; a labelled conversation has one label per token.
pub fn chat_template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    heap::bounded(bytes.len(), || {
        let spec = TokenizerSpec {
            tokenizer_json: TOKENIZER.to_vec(),
            chat_template: Some(source.to_owned()),
            vocab_size: 1 << 10,
            now: Some(Zoned::new(jiff::Timestamp::UNIX_EPOCH, TimeZone::UTC)),
            ..TokenizerSpec::default()
        };
        let Ok(tokenizer) = ChatTokenizer::new(spec) else { return };
        let template = tokenizer.template().expect("the given template");
        for conversation in conversations() {
            for add_generation_prompt in [false, true] {
                let Conversation { messages, tools } = &conversation;
                let rendering = Rendering { messages, tools: tools.as_ref(), add_generation_prompt };
                let text = template.render(rendering);
                if let Ok(text) = &text {
                    assert!(text.len() <= OUTPUT, "{} bytes", text.len());
                }
                if let Ok((marked, ranges)) = template.render_marked(rendering) {
                    assert_eq!(text.ok().as_deref(), Some(marked.as_str()));
                    assert!(ranges.iter().all(|range| marked.get(range.clone()).is_some()), "{ranges:?}");
                    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
                }
            }
            let options = LabelOptions { train_on: TrainOn::Assistant, thinking: Thinking::Keep };
            if let Ok(labelled) = label_sample(&Sample::Conversation(conversation), &tokenizer, options) {
                assert_eq!(labelled.input_ids.len(), labelled.labels.len());
                let pairs = labelled.input_ids.iter().zip(&labelled.labels);
                assert!(pairs.into_iter().all(|(id, label)| *label == IGNORED || *label == *id as i32));
            }
        }
    });
}

fn conversations() -> [Conversation; 2] {
    let plain = vec![
        Message::new("system", "Be brief."),
        Message::new("user", "Grüße <b> & 'x'"),
        Message::new("assistant", "<think>\nhm\n</think>\n\nHi."),
        Message::new("user", "More?"),
        Message::new("assistant", "No."),
    ];
    let call = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "a1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2.5, "x", null]}}}]});
    let mut with_tools = vec![Message::new("user", "1 + 2?")];
    with_tools.extend(Message::from_json(call));
    with_tools.extend([Message::new("tool", "3"), Message::new("assistant", "It is 3.")]);
    let tools = json!([{"type": "function", "function": {"name": "add", "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}}}]);
    [Conversation { messages: plain, tools: None }, Conversation { messages: with_tools, tools: Some(tools) }]
}
