//! Which tokens carry loss.
//!
//! Responsible for: a sample → token ids and labels. Must not depend on: files, batches.
//!
//! A conversation is rendered once, and that text is tokenized once: training sees the same tokens as a server. The
//! assistant's turns are byte ranges of that text:
//!
//! 1. The template's own `{% generation %}` blocks, if it has any. Otherwise:
//! 2. A turn starts where the rendering of all messages before it, with the generation prompt, ends. If that rendering
//!    is no prefix of the whole text (some prompts open a thinking block, say), a marker replaces the answer, and the turn
//!    starts at the marker. Both renderings must be equal up to there.
//! 3. A turn ends with its end token. If the rendering that stops after this message is a prefix of the whole text, the
//!    end token is at its end. Otherwise the marker's rendering gives it, if it goes on after the answer as the whole text
//!    does.
//!
//! If neither holds, the row is refused: a range is never guessed. The end token is trained, so that the model learns to
//! stop. The line break that templates write after it is not.
//!
//! A token that is partly inside a trained range is not trained: at inference its first half belongs to the prompt. Such
//! tokens are counted.

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

/// Label of a token without loss, as in PyTorch and transformers.
pub const IGNORED: i32 = -100;

/// A sample as token ids with one label each (its own id, or [`IGNORED`]); labels are not shifted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    pub input_ids: Vec<u32>,
    pub labels: Vec<i32>,
    /// Tokens across the border of a trained range, not trained.
    pub straddling: usize,
    /// Trained turns without an end token, so that the model doesn't learn to stop there.
    pub unterminated: usize,
    /// Thinking blocks that the chat template leaves out, as many templates do in earlier turns.
    pub thoughts_left_out: usize,
    /// Tools that the row offers or calls and that the chat template leaves out.
    pub tools_left_out: Vec<String>,
    /// Messages that the chat template leaves out: index and role.
    pub messages_left_out: Vec<(usize, String)>,
    /// The first thinking mark of an answer that lacks its other half, described.
    pub broken_reasoning: Option<String>,
}

/// Which tokens are trained.
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
    /// Labels `encoded` by the byte ranges that are trained.
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

/// Ids are below the size of a vocabulary, which fits in 31 bits.
fn label(id: u32) -> i32 {
    i32::try_from(id).unwrap_or(IGNORED)
}

/// Tokenizes and labels a sample.
///
/// # Errors
/// When the template refuses it, or the trained part can't be located exactly.
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

/// A text without a template: trained from byte `start` on, closed by the end-of-sequence token.
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
    let turns = Turns {
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

/// A template that fails on a message without text fails because of it: few say so.
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

/// Finds the assistant's turns in a rendered conversation.
struct Turns<'a> {
    conversation: &'a Conversation,
    seen: Seen,
    template: &'a ChatTemplate,
    /// Texts of the tokens that end a turn.
    stops: Vec<String>,
}

/// A rendered text and the turns that are trained.
struct Located {
    text: String,
    /// Byte ranges, ascending.
    trained: Vec<Range<usize>>,
    /// How many of these have no end token.
    unterminated: usize,
}

impl Turns<'_> {
    fn rendering<'b>(&'b self, messages: &'b [Message], add_generation_prompt: bool) -> Rendering<'b> {
        Rendering { messages, tools: self.conversation.tools.as_ref(), add_generation_prompt }
    }

    /// The first `count` messages.
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

    /// Everything but the turns that the row excludes.
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

    /// By the template's own `{% generation %}` blocks.
    fn marked(&self, train_on: TrainOn) -> Result<Located, RowFault> {
        let (text, mut ranges) = self.template.render_marked(self.rendering(&self.conversation.messages, false))?;
        let last = self.assistant_turns().next_back();
        let wanted = |turn: usize| self.trained(turn) && (train_on != TrainOn::LastAssistant || Some(turn) == last);
        if !self.assistant_turns().all(wanted) {
            // A block belongs to the last turn that starts before the block ends: some begin with the prompt's line break.
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

    /// By rendering parts of the conversation.
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

    /// Where the answer `turn` starts in `text`.
    fn start(&self, turn: usize, text: &str) -> Result<usize, RowFault> {
        // Some templates refuse a conversation without a single message, or one that ends with this role.
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

    /// The text before and after the answer `turn`, whatever the answer says.
    fn around(&self, turn: usize) -> Result<(String, String), RowFault> {
        // Two noncharacters of Unicode: no text contains them by accident, and one that does is refused below.
        const MARKER: &str = "\u{FDD0}\u{FDD1}";
        let mut messages = self.conversation.messages.clone();
        messages[turn].set_text(MARKER);
        let marked = self.template.render(self.rendering(&messages, false))?;
        match marked.split_once(MARKER) {
            Some((before, after)) if !after.contains(MARKER) => Ok((before.to_owned(), after.to_owned())),
            _ => Err(RowFault::Turn { turn, why: "the template doesn't write the answer exactly once" }),
        }
    }

    /// Where it ends, and whether an end token closes it.
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
        // Later messages change how this turn is written (earlier thinking blocks are dropped, say), but not what follows it.
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

    /// The end of the end token that closes `turn`; blanks and further end tokens may follow it.
    fn closing(&self, turn: &str) -> Option<usize> {
        let (mut rest, mut end) = (turn.trim_end(), None);
        while let Some(stop) = self.stops.iter().find(|stop| rest.ends_with(stop.as_str())) {
            end = Some(rest.len());
            rest = rest[..rest.len() - stop.len()].trim_end();
        }
        end
    }
}
