//! Problems that rendering and labelling show, such as omitted messages and answers without an end token.
//!
//! Responsible for: findings in one labelled sample. Must not depend on: how samples are labelled.

use tonfall_recipes::plan::AuditRule;

use crate::formats::conversation::Sample;
use crate::formats::thinking;
use crate::label::mask::Labelled;
use crate::render::tokenizer::ChatTokenizer;

/// The findings in a labelled sample, at most one for each rule.
pub(crate) fn inspect(sample: &Sample, labelled: &Labelled, tokenizer: &ChatTokenizer) -> Vec<(AuditRule, String)> {
    let mut findings = Vec::new();
    if let Some(token) = tokenizer.double_bos(&labelled.input_ids) {
        let detail = format!("it begins with two {token}; the template adds one already, so remove it from the text");
        findings.push((AuditRule::DoubleBos, detail));
    }
    if labelled.unterminated > 0 {
        let detail = format!("{} answers are not closed by an end token", labelled.unterminated);
        findings.push((AuditRule::NoEndToken, detail));
    }
    if let Some((index, role)) = labelled.messages_left_out.first() {
        let others = match labelled.messages_left_out.len() {
            1 => String::new(),
            count => format!(", nor {} more", count - 1),
        };
        let detail = format!("the chat template doesn't write message {index} (role {role}){others}");
        findings.push((AuditRule::MessagesLeftOut, detail));
    }
    if !labelled.tools_left_out.is_empty() {
        let detail = format!("the chat template leaves out {}", labelled.tools_left_out.join(", "));
        findings.push((AuditRule::ToolsLeftOut, detail));
    }
    findings.extend(labelled.broken_reasoning.iter().map(|detail| (AuditRule::BrokenReasoning, detail.clone())));
    let special = special_token(sample, tokenizer);
    findings.extend(special.map(|detail| (AuditRule::SpecialTokens, detail)));
    findings
}

/// The first special token in the data itself. Only the chat template should write special tokens.
fn special_token(sample: &Sample, tokenizer: &ChatTokenizer) -> Option<String> {
    let (speaker, token) = match sample {
        Sample::Text(text) => ("the text", tokenizer.special_in(tokenizer.without_ends(text)).next()?),
        Sample::PromptCompletion { prompt, completion } => {
            let answer = || tokenizer.special_in(completion).find(|token| !thinking::is_mark(token));
            let prompt = tokenizer.special_in(prompt).next().map(|token| ("the prompt", token));
            prompt.or_else(|| Some(("the completion", answer()?)))?
        }
        Sample::Conversation(conversation) => conversation.messages.iter().find_map(|message| {
            let speaker = if message.is_assistant() { "an answer" } else { "a message" };
            // In some tokenizers, thinking tags are special tokens. In answers they are allowed.
            let marks = |token: &&str| message.is_assistant() && thinking::is_mark(token);
            Some((speaker, tokenizer.special_in(&message.content).find(|token| !marks(token))?))
        })?,
    };
    Some(format!("{speaker} has {token}, which the tokenizer reads as a special token"))
}
