//! The chat template of the training, for exports that need its texts.
//!
//! Must not depend on: the exports that use it.

use tonfall_adapters::ollama::Message as ExportMessage;
use tonfall_datasets::{ChatTokenizer, Message};

/// Renders conversations with the chat template of `tokenizer`; see [`tonfall_adapters::export::RenderChat`].
pub fn chat_renderer(tokenizer: &ChatTokenizer) -> impl Fn(&[ExportMessage], bool) -> Result<String, String> {
    |messages, add_generation_prompt| {
        let messages: Vec<Message> = messages.iter().map(converted).collect();
        tokenizer.render_text(&messages, add_generation_prompt).map_err(|error| error.to_string())
    }
}

fn converted(message: &ExportMessage) -> Message {
    let mut converted = Message::new(message.role.name(), message.content.as_str());
    if let Some(thinking) = &message.thinking {
        converted.fields.insert("reasoning_content".to_owned(), thinking.as_str().into());
    }
    converted
}
