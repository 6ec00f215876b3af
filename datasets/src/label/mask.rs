//! Which tokens carry loss, exactly.
//!
//! Responsible for: a sample → token ids and labels. Must not depend on: files, batches.
//!
//! A conversation is rendered once and that text is tokenized once: what is trained is what a server will see. The
//! assistant's turns are found in that text as byte ranges:
//!
//! 1. by the template's own `{% generation %}` blocks, if it has them; else
//! 2. a turn starts where the rendering of everything before it, with the generation prompt, ends. If that rendering
//!    isn't a prefix of the whole (templates that open a thinking block, say), the turn starts where a marker in place of
//!    the answer would stand; that rendering must agree with the whole up to there;
//! 3. a turn ends with the token that ends turns: the one that closes the rendering which stops after this message, if
//!    that is a prefix of the whole; else the one behind the marker, if the rendering with the marker goes on from there
//!    just as the whole does.
//!
//! If none of it holds, the row is refused: a range is never guessed. The end token is trained, so that the model learns
//! to stop; the line break that templates write behind it is not.
//!
//! A token that lies partly inside a trained range is not trained (in use, its first half would belong to the prompt);
//! such tokens are counted.

use std::borrow::Cow;
use std::ops::Range;
use std::slice;

use tonfall_recipes::plan::{DataPlan, Thinking, TrainOn};

use crate::error::RowFault;
use crate::formats::conversation::{Conversation, Message, Sample};
use crate::formats::thinking;
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
    /// Tokens across the border of a trained range, left untrained.
    pub straddling: usize,
    /// Trained turns that no end token closes, so that nothing teaches the model to stop there.
    pub unterminated: usize,
    /// Thoughts of the row that the chat template leaves out, as many do with those of earlier turns.
    pub thoughts_left_out: usize,
    /// Tools that the row offers or calls and that the chat template leaves out.
    pub tools_left_out: Vec<String>,
}

/// What is trained.
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

/// Ids are below a vocabulary's size, which fits in 31 bits.
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
    let mut conversation = Cow::Borrowed(conversation);
    if thinking == Thinking::Drop {
        conversation.to_mut().messages.iter_mut().for_each(thinking::drop_thoughts);
    }
    let turns = Turns {
        seen: Seen::new(&conversation.messages, conversation.tools.as_ref()),
        conversation: &conversation,
        template,
        stops: tokenizer.stop_tokens().collect(),
    };
    let (text, mut trained, unterminated) = match (train_on, template.has_generation_blocks()) {
        (TrainOn::All, _) => turns.whole()?,
        (_, true) => turns.marked(train_on)?,
        (_, false) => turns.located(train_on)?,
    };
    if thinking == Thinking::Mask {
        trained = thinking::without(&trained, &thinking::spans(&text));
    }
    let mut labelled = Labelled::new(tokenizer.encode_ranges(&text)?, &trained);
    labelled.unterminated = unterminated;
    let thoughts = conversation.messages.iter().filter(|message| message.is_assistant()).flat_map(thinking::thoughts);
    labelled.thoughts_left_out = thoughts.filter(|thought| !text.contains(thought)).count();
    let tools = conversation.tool_names().into_iter();
    labelled.tools_left_out = tools.filter(|tool| !text.contains(tool)).map(str::to_owned).collect();
    Ok(labelled)
}

/// Finds the assistant's turns in a rendered conversation.
struct Turns<'a> {
    conversation: &'a Conversation,
    seen: Seen,
    template: &'a ChatTemplate,
    /// Texts of the tokens that end a turn.
    stops: Vec<String>,
}

/// Rendered text, trained byte ranges, and how many of these no end token closes.
type Located = (String, Vec<Range<usize>>, usize);

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

    /// Everything but the turns that the row takes out.
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
        Ok((text, thinking::without(slice::from_ref(&whole), &untrained), 0))
    }

    /// By the template's own `{% generation %}` blocks.
    fn marked(&self, train_on: TrainOn) -> Result<Located, RowFault> {
        let (text, mut ranges) = self.template.render_marked(self.rendering(&self.conversation.messages, false))?;
        let last = self.assistant_turns().next_back();
        let wanted = |turn: usize| self.trained(turn) && (train_on != TrainOn::LastAssistant || Some(turn) == last);
        if !self.assistant_turns().all(wanted) {
            // A block belongs to the last turn that starts before it ends: some begin with the line break of the prompt.
            let starts: Result<Vec<(usize, bool)>, RowFault> =
                self.assistant_turns().map(|turn| Ok((self.start(turn, &text)?, wanted(turn)))).collect();
            let starts = starts?;
            ranges.retain(|range| {
                starts.iter().rev().find(|(start, _)| *start < range.end).is_some_and(|(_, wanted)| *wanted)
            });
        }
        let unterminated = ranges.iter().filter(|range| self.closing(&text[(*range).clone()]).is_none()).count();
        Ok((text, ranges, unterminated))
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
        Ok((text, ranges, unterminated))
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

    /// What is written before and behind the answer `turn`, whatever it says.
    fn around(&self, turn: usize) -> Result<(String, String), RowFault> {
        // Two noncharacters of Unicode; no text contains them by accident, and one that does is refused below.
        const MARKER: &str = "\u{FDD0}\u{FDD1}";
        let mut messages = self.conversation.messages.clone();
        messages[turn].content = MARKER.to_owned();
        messages[turn].fields.shift_remove("content");
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
        // Later messages change how this turn is written (earlier thoughts are dropped, say); what follows it stays.
        let (_, after) = self.around(turn)?;
        let calls_tools = self.conversation.messages[turn].fields.contains_key("tool_calls");
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

    /// Where the end token that closes `turn` ends; blanks and further end tokens may follow it.
    fn closing(&self, turn: &str) -> Option<usize> {
        let (mut rest, mut end) = (turn.trim_end(), None);
        while let Some(stop) = self.stops.iter().find(|stop| rest.ends_with(stop.as_str())) {
            end = Some(rest.len());
            rest = rest[..rest.len() - stop.len()].trim_end();
        }
        end
    }
}
