//! Decides which tokens have loss.
//!
//! Responsible for: a sample → token ids and labels. Must not depend on: files, batches.
//!
//! A conversation is rendered once, and the text is tokenized once, so training sees the same tokens as inference. The
//! assistant's turns are byte ranges of this text:
//!
//! 1. If the template has `{% generation %}` blocks, the turns are these blocks. Otherwise:
//! 2. A turn starts at the end of the rendering of all previous messages with the generation prompt. That
//!    rendering must be a prefix of the whole text. If it is not (for example because the prompt opens a thinking
//!    block), the conversation is rendered with a marker in place of the answer, and the turn starts at the marker. Both
//!    renderings must be equal up to that point.
//! 3. A turn ends with its end token. If the rendering up to and including this message is a prefix of the whole text,
//!    the end token is at its end. Otherwise the end is found in the rendering with the marker, if it continues after
//!    the answer in the same way as the whole text.
//!
//! If neither holds, the row is refused: a range is never guessed. The end token is trained, so that the model learns
//! to stop. The line break that templates write after the end token is not trained.
//!
//! A token that is only partly inside a trained range is not trained, because its first part belongs to the prompt at
//! inference. Such tokens are counted.

use std::borrow::Cow;
use std::ops::Range;
use std::slice;

use tonfall_recipes::plan::{DataPlan, Thinking, TrainOn};

use crate::error::{RowFault, TemplateError};
use crate::formats::conversation::{Conversation, Message, Sample};
use crate::formats::thinking;
use crate::label::traces::LeftOut;
use crate::render::encoder::Encoded;
use crate::render::template::{ChatTemplate, Rendering, Seen};
use crate::render::tokenizer::ChatTokenizer;

/// The label of a token without loss, as in PyTorch and transformers.
pub const IGNORED: i32 = -100;

/// Token ids and labels of a sample. A label is the token's own id, or [`IGNORED`]. Labels are not shifted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    pub input_ids: Vec<u32>,
    pub labels: Vec<i32>,
    /// Number of tokens that are partly inside a trained range. They are not trained.
    pub straddling: usize,
    /// Number of trained turns without an end token. The model doesn't learn to stop after them.
    pub unterminated: usize,
    /// Number of thinking blocks that the chat template does not write. Many templates omit them in earlier turns.
    pub thoughts_left_out: usize,
    /// Tools that the row offers or calls but the chat template does not write.
    pub tools_left_out: Vec<String>,
    /// Messages that the chat template does not write: index and role.
    pub messages_left_out: Vec<(usize, String)>,
    /// Description of the first opening or closing thinking tag without its counterpart in an answer.
    pub broken_reasoning: Option<String>,
}

/// Settings that decide which tokens are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelOptions {
    pub train_on: TrainOn,
    pub thinking: Thinking,
}

impl From<&DataPlan> for LabelOptions {
    fn from(data: &DataPlan) -> Self {
        Self { train_on: data.train_on, thinking: data.thinking }
    }
}

impl Labelled {
    /// Labels the tokens that are completely inside the byte ranges `trained`.
    fn new(encoded: Encoded, trained: &[Range<usize>]) -> Self {
        let mut straddling = 0;
        let labels = encoded.ids.iter().zip(&encoded.ranges).map(|(&id, token)| {
            let inside = trained
                .iter()
                .any(|range| range.start <= token.start && token.end <= range.end && token.start < range.end);
            let touching = trained.iter().any(|range| token.start < range.end && range.start < token.end);
            straddling += usize::from(touching && !inside);
            if inside { label(id) } else { IGNORED }
        });
        Self { labels: labels.collect(), input_ids: encoded.ids, straddling, ..Self::default() }
    }

    fn push(&mut self, id: u32, trained: bool) {
        self.input_ids.push(id);
        self.labels.push(if trained { label(id) } else { IGNORED });
    }
}

/// Token ids are below the vocabulary size, which fits in 31 bits.
fn label(id: u32) -> i32 {
    i32::try_from(id).unwrap_or(IGNORED)
}

/// Tokenizes and labels a sample.
///
/// # Errors
/// If the template refuses the sample, or if the trained part can't be located exactly.
pub fn label_sample(sample: &Sample, tokenizer: &ChatTokenizer, options: LabelOptions) -> Result<Labelled, RowFault> {
    match (sample, tokenizer.template()) {
        (Sample::Conversation(conversation), Some(template)) => {
            label_conversation(conversation, template, tokenizer, options)
        }
        (Sample::PromptCompletion { prompt, completion }, Some(template)) => {
            let messages = vec![Message::new("user", prompt), Message::new("assistant", completion)];
            label_conversation(&Conversation { messages, tools: None }, template, tokenizer, options)
        }
        (Sample::Conversation(_), None) => Err(RowFault::NoTemplate),
        (Sample::PromptCompletion { prompt, completion }, None) => {
            let start = if options.train_on == TrainOn::All { 0 } else { prompt.len() };
            label_plain(&format!("{prompt}{completion}"), start, tokenizer)
        }
        (Sample::Text(text), _) => label_plain(text, 0, tokenizer),
    }
}

/// Labels a text without a chat template. It is trained from byte `start`, and an end-of-sequence token is appended.
fn label_plain(text: &str, start: usize, tokenizer: &ChatTokenizer) -> Result<Labelled, RowFault> {
    let encoded = tokenizer.encode_ranges(text)?;
    let mut labelled = Labelled::default();
    if let Some(bos) = tokenizer.plain_bos(&encoded.ids) {
        labelled.push(bos, start == 0);
    }
    let ended = encoded.ids.last().copied().is_some_and(|last| Some(last) == tokenizer.eos());
    let body = Labelled::new(encoded, slice::from_ref(&(start..text.len())));
    labelled.input_ids.extend(body.input_ids);
    labelled.labels.extend(body.labels);
    labelled.straddling = body.straddling;
    let eos = tokenizer.eos().ok_or(RowFault::NoEndToken)?;
    if !ended {
        labelled.push(eos, true);
    }
    Ok(labelled)
}

fn label_conversation(
    conversation: &Conversation,
    template: &ChatTemplate,
    tokenizer: &ChatTokenizer,
    options: LabelOptions,
) -> Result<Labelled, RowFault> {
    let LabelOptions { train_on, thinking } = options;
    let original = conversation;
    let mut conversation = Cow::Borrowed(original);
    if thinking == Thinking::Drop {
        conversation.to_mut().messages.iter_mut().for_each(thinking::drop_thoughts);
    }
    let conversation = template.forms().apply(&conversation)?;
    let turns = TurnLocator {
        seen: Seen::new(&conversation.messages, conversation.tools.as_ref()),
        conversation: &conversation,
        template,
        stops: tokenizer.stop_tokens().collect(),
    };
    let Located { text, mut trained, unterminated } = match (train_on, template.has_generation_blocks()) {
        (TrainOn::All, _) => turns.whole(),
        (_, true) => turns.marked(train_on),
        (_, false) => turns.located(train_on),
    }
    .map_err(|fault| with_null_content(fault, &conversation))?;
    if thinking == Thinking::Mask {
        let answers = match (train_on, template.has_generation_blocks()) {
            (TrainOn::All, true) => Cow::Owned(turns.marked(TrainOn::Assistant)?.trained),
            (TrainOn::All, false) => Cow::Owned(turns.located(TrainOn::Assistant)?.trained),
            _ => Cow::Borrowed(&trained),
        };
        let thoughts: Vec<Range<usize>> = answers.iter().flat_map(|answer| thinking::within(&text, answer)).collect();
        trained = thinking::without(&trained, &thoughts);
    }
    let mut labelled = Labelled::new(tokenizer.encode_ranges(&text)?, &trained);
    labelled.unterminated = unterminated;
    let left_out = LeftOut::of(&conversation, template, &text);
    let role = |index: &usize| (*index, conversation.messages[*index].role.clone());
    labelled.messages_left_out = left_out.messages.iter().map(role).collect();
    (labelled.tools_left_out, labelled.thoughts_left_out) = (left_out.tools, left_out.thoughts);
    labelled.broken_reasoning = original.messages.iter().enumerate().find_map(|(index, message)| {
        let broken =
            Some(message).filter(|message| message.is_assistant()).and_then(|said| thinking::broken(&said.content))?;
        let mended = turns.render(index, true).is_ok_and(|prompt| broken.is_mended_by(&prompt));
        (!mended).then(|| broken.describe())
    });
    Ok(labelled)
}

/// If a template fails and a message has no text, the error names this message. Few templates name the cause
/// themselves.
fn with_null_content(fault: RowFault, conversation: &Conversation) -> RowFault {
    let null = conversation.messages.iter().position(|message| {
        message.content.is_empty() && message.fields.get("content").is_none_or(serde_json::Value::is_null)
    });
    match (fault, null) {
        (RowFault::Template(error @ TemplateError::Render { .. }), Some(index)) => {
            RowFault::NullContent { index, error }
        }
        (fault, _) => fault,
    }
}

/// Locates the assistant's turns in a rendered conversation.
struct TurnLocator<'a> {
    conversation: &'a Conversation,
    seen: Seen,
    template: &'a ChatTemplate,
    /// The texts of the end-of-turn tokens.
    stops: Vec<String>,
}

/// A rendered text, and the ranges of its trained turns.
struct Located {
    text: String,
    /// Byte ranges, ascending.
    trained: Vec<Range<usize>>,
    /// Number of trained turns without an end token.
    unterminated: usize,
}

impl TurnLocator<'_> {
    fn rendering<'b>(&'b self, messages: &'b [Message], add_generation_prompt: bool) -> Rendering<'b> {
        Rendering { messages, tools: self.conversation.tools.as_ref(), add_generation_prompt }
    }

    /// Renders the first `count` messages.
    fn render(&self, count: usize, add_generation_prompt: bool) -> Result<String, RowFault> {
        Ok(self.template.render_seen(&self.seen, count, add_generation_prompt)?)
    }

    fn trained(&self, turn: usize) -> bool {
        self.conversation.messages[turn].trained
    }

    fn assistant_turns(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        let messages = self.conversation.messages.iter().enumerate();
        messages.filter(|(_, message)| message.is_assistant()).map(|(index, _)| index)
    }

    /// Trains the whole text except the turns that the row excludes.
    fn whole(&self) -> Result<Located, RowFault> {
        let text = self.render(self.conversation.messages.len(), false)?;
        let mut untrained = Vec::new();
        for (turn, message) in self.conversation.messages.iter().enumerate().filter(|(_, message)| !message.trained) {
            if !message.is_assistant() {
                let why = format!("it is the {}'s, and can't be left out of train_on = \"all\"", message.role);
                return Err(RowFault::Message { index: turn, why });
            }
            let start = self.start(turn, &text)?;
            untrained.push(start..self.end(turn, start, &text)?.0);
        }
        let whole = 0..text.len();
        Ok(Located { text, trained: thinking::without(slice::from_ref(&whole), &untrained), unterminated: 0 })
    }

    /// Locates turns by the template's `{% generation %}` blocks.
    fn marked(&self, train_on: TrainOn) -> Result<Located, RowFault> {
        let (text, mut ranges) = self.template.render_marked(self.rendering(&self.conversation.messages, false))?;
        let last = self.assistant_turns().next_back();
        let wanted = |turn: usize| self.trained(turn) && (train_on != TrainOn::LastAssistant || Some(turn) == last);
        if !self.assistant_turns().all(wanted) {
            // A block may start with the line break of the prompt. It belongs to the last turn that starts before the
            // block's end.
            let starts: Result<Vec<(usize, bool)>, RowFault> =
                self.assistant_turns().map(|turn| Ok((self.start(turn, &text)?, wanted(turn)))).collect();
            let starts = starts?;
            ranges.retain(|range| {
                starts.iter().rev().find(|(start, _)| *start < range.end).is_some_and(|(_, wanted)| *wanted)
            });
        }
        let unterminated = ranges.iter().filter(|range| self.closing(&text[(*range).clone()]).is_none()).count();
        Ok(Located { text, trained: ranges, unterminated })
    }

    /// Locates turns by rendering parts of the conversation.
    fn located(&self, train_on: TrainOn) -> Result<Located, RowFault> {
        let text = self.render(self.conversation.messages.len(), false)?;
        let (mut ranges, mut unterminated): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
        let skipped = match train_on {
            TrainOn::LastAssistant => self.assistant_turns().count().saturating_sub(1),
            TrainOn::Assistant | TrainOn::All => 0,
        };
        for turn in self.assistant_turns().skip(skipped).filter(|turn| self.trained(*turn)) {
            let start = self.start(turn, &text)?;
            let (end, terminated) = self.end(turn, start, &text)?;
            if ranges.last().is_some_and(|previous| start < previous.end) {
                return Err(RowFault::Turn { turn, why: "it overlaps the turn before it" });
            }
            unterminated += usize::from(!terminated);
            ranges.push(start..end);
        }
        Ok(Located { text, trained: ranges, unterminated })
    }

    /// The offset in `text` at which the answer `turn` starts.
    fn start(&self, turn: usize, text: &str) -> Result<usize, RowFault> {
        // Some templates refuse a conversation without messages, or one that ends with this role.
        if let Ok(prompt) = self.render(turn, true)
            && text.starts_with(&prompt)
        {
            return Ok(prompt.len());
        }
        match self.around(turn)? {
            (before, _) if text.starts_with(&before) => Ok(before.len()),
            _ => Err(RowFault::Turn { turn, why: "its beginning is written differently with another answer" }),
        }
    }

    /// The text before and after the answer `turn`, rendered with a marker in place of the answer.
    fn around(&self, turn: usize) -> Result<(String, String), RowFault> {
        // Two Unicode noncharacters. Texts don't contain them by accident; if one does, it is refused below.
        const MARKER: &str = "\u{FDD0}\u{FDD1}";
        let mut messages = self.conversation.messages.clone();
        messages[turn].set_text(MARKER);
        let marked = self.template.render(self.rendering(&messages, false))?;
        match marked.split_once(MARKER) {
            Some((before, after)) if !after.contains(MARKER) => Ok((before.to_owned(), after.to_owned())),
            _ => Err(RowFault::Turn { turn, why: "the template doesn't write the answer exactly once" }),
        }
    }

    /// The offset at which the turn ends, and whether it ends with an end token.
    fn end(&self, turn: usize, start: usize, text: &str) -> Result<(usize, bool), RowFault> {
        let whole;
        let through = if turn + 1 == self.conversation.messages.len() {
            Some(text)
        } else {
            whole = self.render(turn + 1, false).ok();
            whole.as_deref().filter(|through| through.len() >= start && text.starts_with(through))
        };
        if let Some(through) = through {
            let answer = &through[start..];
            return Ok(match self.closing(answer) {
                Some(end) => (start + end, true),
                None => (start + answer.trim_end().len(), false),
            });
        }
        // Later messages change this turn (for example, the template drops earlier thinking blocks), but not the text
        // after it.
        let (_, after) = self.around(turn)?;
        let calls_tools = !self.conversation.messages[turn].tool_calls().is_empty();
        let closing = |stop: &String| match calls_tools {
            true => after.find(stop.as_str()).map(|at| at + stop.len()),
            false => after.trim_start().strip_prefix(stop.as_str()).map(|rest| after.len() - rest.len()),
        };
        let Some(closed) = self.stops.iter().filter_map(closing).min() else {
            return Err(RowFault::Turn {
                turn,
                why: "later messages change how it is written, and no end token closes it",
            });
        };
        match text.strip_suffix(&after[closed..]) {
            Some(through)
                if through.len() > start && self.stops.iter().any(|stop| through.ends_with(stop.as_str())) =>
            {
                Ok((through.len(), true))
            }
            _ => Err(RowFault::Turn { turn, why: "what follows it is written differently with another answer" }),
        }
    }

    /// The offset after the turn's first end token in the final run of end tokens and white space.
    fn closing(&self, turn: &str) -> Option<usize> {
        let (mut rest, mut end) = (turn.trim_end(), None);
        while let Some(stop) = self.stops.iter().find(|stop| rest.ends_with(stop.as_str())) {
            end = Some(rest.len());
            rest = rest[..rest.len() - stop.len()].trim_end();
        }
        end
    }
}
