//! The tokenizer of a base model, and its chat template.
//!
//! Responsible for: text ↔ token ids, streaming decoding, prompts for generation, the tokens that end a turn.
//! Must not depend on: datasets, the files of a base.
//!
//! A text is tokenized once, as a whole. The tokenizer's own post-processor is removed, because it would add special
//! tokens: chat templates write their special tokens themselves, and [`ChatTokenizer::encode_plain`] adds those of
//! plain texts. Therefore no sequence starts with two of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use jiff::Zoned;
use sha2::{Digest, Sha256};
use tonfall_recipes::plan::Variable;

use crate::error::{DataError, TemplateError, TokenizerError};
use crate::foreign_panics::caught;
use crate::formats::conversation::{Conversation, Message};
use crate::render::encoder::{Encoded, Encoder};
use crate::render::growth::{self, Tokenizer};
use crate::render::template::{ChatTemplate, Rendering};

/// The error when the crate `tokenizers` panics.
const DAMAGED: &str = "the tokenizer.json is damaged; fetch it again";

/// The tokenizer of a base model, from its files.
#[derive(Clone, Debug, Default)]
pub struct TokenizerSpec {
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// Jinja source. `None` if the base has no chat template.
    pub chat_template: Option<String>,
    /// The name of the chat template in errors, such as its file. `None`: "chat template".
    pub template_place: Option<String>,
    /// Other chat templates of the base, which the audit compares with this one.
    pub other_templates: Vec<OtherTemplate>,
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
    pub pad_token: Option<String>,
    pub unk_token: Option<String>,
    /// Whether plain texts (those without a chat template) start with `bos_token`.
    pub add_bos: bool,
    /// Further tokens that end an answer, for example from `eos_token_id` in `generation_config.json`.
    pub stop_ids: Vec<u32>,
    /// Number of rows of the base's embedding. Every token id must be below it.
    pub vocab_size: usize,
    /// The time that `strftime_now` writes. `None`: the time at which the tokenizer is created.
    pub now: Option<Zoned>,
}

/// A chat template of the base that is not used.
#[derive(Clone, Debug)]
pub struct OtherTemplate {
    /// Its file, for display.
    pub place: String,
    /// Jinja source.
    pub source: String,
    /// Whether it is only used for conversations with tools.
    pub with_tools: bool,
}

/// Another template, compiled, or the reason why it can't be compiled.
#[derive(Clone, Debug)]
pub(crate) struct Other {
    pub(crate) place: String,
    pub(crate) with_tools: bool,
    pub(crate) template: Result<ChatTemplate, String>,
}

/// A tokenizer and the chat template of its base model.
#[derive(Clone, Debug)]
pub struct ChatTokenizer {
    /// The reference: decodes, and encodes texts that `encoder` does not support.
    tokenizer: Arc<Tokenizer>,
    /// The fast encoder, or the part of `tokenizer.json` that it does not support.
    encoder: Result<Arc<Encoder>, String>,
    template: Option<ChatTemplate>,
    others: Vec<Other>,
    bos: Option<(u32, String)>,
    eos: Option<u32>,
    pad: Option<u32>,
    add_bos: bool,
    stop_ids: Vec<u32>,
    /// Finds the special tokens in a text. `None` if there are no special tokens.
    special: Option<Arc<AhoCorasick>>,
    fingerprint: [u8; 32],
}

impl ChatTokenizer {
    /// Reads the tokenizer and compiles the template.
    ///
    /// # Errors
    /// If one of them is faulty, a special token is unknown, or a token id has no embedding in the base.
    pub fn new(spec: TokenizerSpec) -> Result<Self, DataError> {
        let fingerprint = fingerprint(&spec);
        let mut tokenizer = caught(|| Tokenizer::from_bytes(&spec.tokenizer_json))
            .ok_or_else(|| TokenizerError::Parse(DAMAGED.to_owned()))?
            .map_err(|error| TokenizerError::Parse(error.to_string()))?;
        // The file may carry settings from the base's own training, which would truncate, pad or extend texts.
        tokenizer.with_truncation(None).map_err(|error| TokenizerError::Parse(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        check_fit(&tokenizer, spec.vocab_size)?;

        let special = [
            ("bos_token", spec.bos_token),
            ("eos_token", spec.eos_token),
            ("pad_token", spec.pad_token),
            ("unk_token", spec.unk_token),
        ];
        let special: Vec<(&'static str, String)> =
            special.into_iter().filter_map(|(role, token)| Some((role, token?))).collect();
        let find = |wanted: &str| -> Result<Option<(u32, String)>, TokenizerError> {
            let Some((role, token)) = special.iter().find(|(role, _)| *role == wanted) else { return Ok(None) };
            let id = tokenizer
                .token_to_id(token)
                .ok_or_else(|| TokenizerError::UnknownSpecial { role, token: token.clone() })?;
            Ok(Some((id, token.clone())))
        };
        let (bos, eos, pad) = (find("bos_token")?, find("eos_token")?, find("pad_token")?);
        let now = spec.now.unwrap_or_else(Zoned::now);
        let compile =
            |place: &str, source: &str| ChatTemplate::from_file(place.to_owned(), source, special.clone(), now.clone());
        let place = spec.template_place.as_deref().unwrap_or("chat template");
        let template = spec.chat_template.as_deref().map(|source| compile(place, source)).transpose()?;
        let others = spec.other_templates.into_iter().map(|other| Other {
            template: compile("chat template", &other.source).map_err(|error| error.to_string()),
            place: other.place,
            with_tools: other.with_tools,
        });
        let others = others.collect();
        let mut stop_ids: Vec<u32> = eos.iter().map(|(id, _)| *id).chain(spec.stop_ids).collect();
        let eos = eos.map(|(id, _)| id);
        stop_ids.extend(template.as_ref().and_then(|template| end_of_turn(&tokenizer, template)));
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let encoder = Encoder::new(&spec.tokenizer_json, added.iter().map(|(id, token)| (*id, token)));
        let special: Vec<&str> =
            added.values().filter(|token| token.special).map(|token| token.content.as_str()).collect();
        let special = special.into_iter().filter(|token| !token.is_empty());
        let special = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(special);
        Ok(Self {
            special: special.ok().filter(|special| special.patterns_len() > 0).map(Arc::new),
            encoder: encoder.map(Arc::new),
            tokenizer: Arc::new(tokenizer),
            template,
            others,
            bos,
            eos,
            pad: pad.map(|(id, _)| id),
            add_bos: spec.add_bos,
            stop_ids,
            fingerprint,
        })
    }

    /// Passes further variables to the chat templates (`data.template_variables`).
    #[must_use]
    pub fn with_template_variables(mut self, variables: &BTreeMap<String, Variable>) -> Self {
        if variables.is_empty() {
            return self;
        }
        self.template = self.template.map(|template| template.with_variables(variables));
        for other in &mut self.others {
            other.template = other.template.clone().map(|template| template.with_variables(variables));
        }
        let digest = Sha256::new().chain_update(self.fingerprint).chain_update(format!("{variables:?}"));
        self.fingerprint = digest.finalize().into();
        self
    }

    /// SHA-256 of everything that token ids and labels depend on.
    pub(crate) fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The part of `tokenizer.json` that the fast encoder does not support. Then the reference encodes, about ten times
    /// slower. `None` if the fast encoder is used.
    pub fn slow_because(&self) -> Option<&str> {
        self.encoder.as_ref().err().map(String::as_str)
    }

    /// A copy for one thread. Threads that share an instance of the reference would block each other.
    pub(crate) fn for_thread(&self) -> Self {
        let tokenizer = match &self.encoder {
            Ok(_) => self.tokenizer.clone(),
            Err(_) => Arc::new(Tokenizer::clone(&self.tokenizer)),
        };
        Self { tokenizer, ..self.clone() }
    }

    /// The chat template, if the base has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The other chat templates of the base.
    pub(crate) fn other_templates(&self) -> &[Other] {
        &self.others
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos.as_ref().map(|(id, _)| *id)
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The padding token. Batches aren't padded, but exported configurations name it.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The tokens that end an answer, ascending: end of sequence, the tokens in the base's files, and the token that
    /// the chat template writes after an assistant turn.
    pub fn stop_ids(&self) -> Vec<u32> {
        self.stop_ids.clone()
    }

    /// Encodes a text. Special tokens in the text are recognised. No special token is added.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encode_ranges(text)?.ids)
    }

    /// Encodes a text without a chat template. `bos_token` is prepended if the base requires it.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.encode(text)?;
        Ok(self.plain_bos(&ids).into_iter().chain(ids).collect())
    }

    /// The token to prepend to a plain text. `None` if the text already starts with it.
    pub(crate) fn plain_bos(&self, ids: &[u32]) -> Option<u32> {
        self.bos().filter(|bos| self.add_bos && ids.first() != Some(bos))
    }

    /// The beginning-of-sequence token, if `ids` start with two of them.
    pub(crate) fn double_bos(&self, ids: &[u32]) -> Option<&str> {
        let (bos, name) = self.bos.as_ref()?;
        (ids.len() > 1 && ids[..2] == [*bos, *bos]).then_some(name)
    }

    /// The special tokens in a text, as the tokenizer recognises them.
    pub(crate) fn special_in<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        self.special.iter().flat_map(move |special| special.find_iter(text)).map(move |hit| &text[hit.range()])
    }

    /// A plain text without a beginning-of-sequence token at its start and an end-of-sequence token at its end.
    pub(crate) fn without_ends<'t>(&self, text: &'t str) -> &'t str {
        let text = self.bos.as_ref().and_then(|(_, bos)| text.strip_prefix(bos.as_str())).unwrap_or(text);
        let eos = self.eos.and_then(|eos| self.tokenizer.id_to_token(eos));
        eos.and_then(|eos| text.strip_suffix(eos.as_str())).unwrap_or(text)
    }

    /// Encodes a text. Also returns the byte range of each token.
    pub(crate) fn encode_ranges(&self, text: &str) -> Result<Encoded, TokenizerError> {
        match self.encoder.as_ref().ok().and_then(|encoder| encoder.encode(text)) {
            Some(encoded) => Ok(encoded),
            None => self.encode_by_reference(text),
        }
    }

    /// Like [`encode_ranges`](Self::encode_ranges), but always with the crate `tokenizers`.
    pub(crate) fn encode_by_reference(&self, text: &str) -> Result<Encoded, TokenizerError> {
        let encoding = caught(|| growth::with_errors(|| self.tokenizer.encode(text, false)))
            .ok_or_else(|| TokenizerError::Encode(DAMAGED.to_owned()))?
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        let added = self.tokenizer.get_added_vocabulary();
        let ranges = encoding.get_ids().iter().zip(encoding.get_offsets()).map(|(id, &(start, end))| {
            // Some special tokens include the white space around them. The range must be that of the token itself.
            match added.simple_id_to_token(*id).and_then(|token| Some(start + text.get(start..end)?.find(&token)?)) {
                Some(inner) => inner..inner + added.simple_id_to_token(*id).map_or(0, |token| token.len()),
                None => start..end,
            }
        });
        Ok(Encoded { ids: encoding.get_ids().to_vec(), ranges: ranges.collect() })
    }

    /// Decodes token ids, without special tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decode_by(ids, true)
    }

    /// Decodes token ids, with special tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decode_by(ids, false)
    }

    fn decode_by(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        caught(|| self.tokenizer.decode(ids, skip_special))
            .ok_or_else(|| TokenizerError::Decode(DAMAGED.to_owned()))?
            .map_err(|error| TokenizerError::Decode(error.to_string()))
    }

    /// Starts a decoder that receives one token at a time.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, ids: Vec::new(), shown: 0 }
    }

    /// Token ids of a conversation up to the start of the assistant's answer. Without a chat template, the texts of the
    /// messages are concatenated, as in training.
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub fn render_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, DataError> {
        match &self.template {
            Some(_) => Ok(self.encode(&self.render_text(messages, true)?)?),
            None => Ok(self.encode_plain(&self.render_text(messages, true)?)?),
        }
    }

    /// The text of a conversation with all special tokens. Without a chat template, the messages are concatenated, as in
    /// training.
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub fn render_text(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, DataError> {
        let Some(template) = &self.template else {
            return Ok(messages.iter().map(|message| message.content.as_str()).collect());
        };
        let conversation = Conversation { messages: messages.to_vec(), tools: None };
        let conversation = template.forms().apply(&conversation);
        let conversation = conversation.map_err(|fault| TokenizerError::Encode(fault.to_string()))?;
        let messages = &conversation.messages;
        Ok(template.render(Rendering { messages, tools: None, add_generation_prompt })?)
    }

    /// The texts of the tokens that end a turn.
    pub(crate) fn stop_tokens(&self) -> impl Iterator<Item = String> + '_ {
        self.stop_ids.iter().filter_map(|id| self.tokenizer.id_to_token(*id))
    }
}

/// Decodes one token at a time, and returns only complete characters.
pub struct DecodeStream<'a> {
    tokenizer: &'a ChatTokenizer,
    /// The tokens of the last returned text, as context for the decoder, and all later tokens.
    ids: Vec<u32>,
    shown: usize,
}

impl DecodeStream<'_> {
    /// Adds a token. Returns the text that is now complete, if any.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        self.ids.push(id);
        self.advance(false)
    }

    /// Returns the remaining text, with replacement characters for incomplete characters.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn finish(mut self) -> Result<Option<String>, TokenizerError> {
        self.advance(true)
    }

    fn advance(&mut self, all: bool) -> Result<Option<String>, TokenizerError> {
        let shown = self.tokenizer.decode(&self.ids[..self.shown])?;
        let text = self.tokenizer.decode(&self.ids)?;
        let whole = all || !text.ends_with(char::REPLACEMENT_CHARACTER);
        let Some(fresh) = text.strip_prefix(&shown).filter(|fresh| whole && !fresh.is_empty()) else { return Ok(None) };
        let fresh = fresh.to_owned();
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(Some(fresh))
    }
}

fn fingerprint(spec: &TokenizerSpec) -> [u8; 32] {
    // A template that writes the date renders other texts on another day.
    let dated = spec.chat_template.as_ref().is_some_and(|template| template.contains("strftime_now"));
    let date = dated.then(|| spec.now.clone().unwrap_or_else(Zoned::now).date().to_string());
    let names = [&spec.bos_token, &spec.eos_token, &spec.pad_token, &spec.unk_token];
    let others: Vec<(&String, bool)> =
        spec.other_templates.iter().map(|other| (&other.source, other.with_tools)).collect();
    let rest = format!("{names:?} {} {:?} {} {date:?} {others:?}", spec.add_bos, spec.stop_ids, spec.vocab_size);
    let mut digest = Sha256::new();
    for part in [&spec.tokenizer_json, spec.chat_template.as_deref().unwrap_or_default().as_bytes(), rest.as_bytes()] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn check_fit(tokenizer: &Tokenizer, vocab_size: usize) -> Result<(), TokenizerError> {
    let highest = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
    match highest {
        Some((token, id)) if id as usize >= vocab_size => Err(TokenizerError::Misfit { token, id, vocab_size }),
        _ => Ok(()),
    }
}

/// The special token that the template writes directly after an assistant's last answer.
fn end_of_turn(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<u32> {
    const ANSWER: &str = "an answer";
    let messages = [Message::new("user", "a question"), Message::new("assistant", ANSWER)];
    let rendered: Result<String, TemplateError> =
        template.render(Rendering { messages: &messages, tools: None, add_generation_prompt: false });
    let text = rendered.ok()?;
    let rest = &text[text.rfind(ANSWER)? + ANSWER.len()..];
    let first = *caught(|| tokenizer.encode_fast(rest.trim_start(), false))?.ok()?.get_ids().first()?;
    let token = tokenizer.get_added_vocabulary().simple_id_to_token(first)?;
    tokenizer.get_added_vocabulary().is_special_token(&token).then_some(first)
}
