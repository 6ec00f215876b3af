//! Compares the chat template with the other templates of the base, which servers and other trainers may use.
//!
//! Responsible for: conversations that another template writes differently. Must not depend on: tokenizers.

use tonfall_recipes::plan::Thinking;

use crate::formats::conversation::{Conversation, Message, Sample};
use crate::formats::thinking::drop_thoughts;
use crate::render::template::{ChatTemplate, Rendering};
use crate::render::tokenizer::ChatTokenizer;

/// Describes the first difference between the chat template and another template of the base, for this sample.
pub(crate) fn difference(sample: &Sample, tokenizer: &ChatTokenizer, thinking: Thinking) -> Option<String> {
    let template = tokenizer.template().filter(|_| !tokenizer.other_templates().is_empty())?;
    let mut conversation = match sample {
        Sample::Conversation(conversation) => conversation.clone(),
        Sample::PromptCompletion { prompt, completion } => Conversation {
            messages: vec![Message::new("user", prompt), Message::new("assistant", completion)],
            tools: None,
        },
        Sample::Text(_) => return None,
    };
    if thinking == Thinking::Drop {
        conversation.messages.iter_mut().for_each(drop_thoughts);
    }
    let taken = texts(template, &conversation).ok()?;
    let others = tokenizer.other_templates().iter();
    let mut others = others.filter(|other| !other.with_tools || conversation.tools.is_some());
    others.find_map(|other| {
        let written = match &other.template {
            Ok(template) => texts(template, &conversation),
            Err(why) => Err(why.clone()),
        };
        match written {
            Err(why) => Some(format!("{} can't write it: {why}", other.place)),
            Ok(written) => taken.iter().zip(&written).find_map(|(taken, written)| {
                let at = taken.char_indices().zip(written.chars()).find(|((_, ours), theirs)| ours != theirs);
                let at = at.map_or(taken.len().min(written.len()), |((at, _), _)| at);
                let after = |text: &str| text.get(at..).unwrap_or_default().chars().take(20).collect::<String>();
                (taken != written)
                    .then(|| format!("byte {at} is {:?}, by {} {:?}", after(taken), other.place, after(written)))
            }),
        }
    })
}

/// The rendered conversation, and the rendered prompt of its last answer.
fn texts(template: &ChatTemplate, conversation: &Conversation) -> Result<[String; 2], String> {
    let conversation = template.forms().apply(conversation).map_err(|fault| fault.to_string())?;
    let messages = &conversation.messages;
    let last = messages.iter().rposition(Message::is_assistant).unwrap_or(messages.len());
    let render = |messages: &[Message], add_generation_prompt| {
        let tools = conversation.tools.as_ref();
        template.render(Rendering { messages, tools, add_generation_prompt }).map_err(|error| error.to_string())
    };
    // Some templates refuse a conversation that starts with the assistant. Then there is no prompt to compare.
    Ok([render(messages, false)?, render(&messages[..last], true).unwrap_or_default()])
}
