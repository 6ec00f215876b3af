//! Byte-pair encoding, with a cache of words.
//!
//! Responsible for: a piece of text → its tokens. Must not depend on: how texts are split.
//!
//! Merges over bytes as in "Neural Machine Translation of Rare Words with Subword Units" (Sennrich et al., 2016): the
//! neighbouring pair with the lowest rank is merged first. Of several equal pairs, the leftmost is merged first.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::RandomState;
use serde::Deserialize;

use super::Encoded;

/// Maximum number of words in the cache of a thread.
const WORDS: usize = 1 << 16;
/// Maximum number of bytes of a cached word.
const LONGEST: usize = 128;

/// `model` of a `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct BpeFile<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: HashMap<Cow<'a, str>, u32, RandomState>,
    #[serde(borrow)]
    merges: Vec<MergeFile<'a>>,
}

/// A pair (newer files), or one text with a space between both tokens.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeFile<'a> {
    #[serde(borrow)]
    Joined(Cow<'a, str>),
    Pair(String, String),
}

/// The rank of a merge, and the resulting token.
type Merge = (u32, u32);

#[derive(Debug)]
pub(super) struct Bpe {
    /// Byte → token, if the vocabulary has one.
    bytes: Vec<Option<u32>>,
    merges: HashMap<(u32, u32), Merge, RandomState>,
    /// Pieces that are tokens themselves. Empty if `ignore_merges` is off.
    whole: HashMap<Vec<u8>, u32, RandomState>,
}

/// A token and its number of bytes.
#[derive(Clone, Copy, Debug)]
struct Token {
    id: u32,
    bytes: u32,
}

/// A cache of words and their tokens.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The range in `tokens` of each word.
    known: HashMap<Box<str>, (u32, u32), RandomState>,
    tokens: Vec<Token>,
}

impl Bpe {
    /// # Errors
    /// If a part of the file isn't supported. The text names the part.
    pub(super) fn new(file: &BpeFile<'_>) -> Result<Self, String> {
        if let Some(kind) = file.kind.as_deref().filter(|kind| *kind != "BPE") {
            return Err(format!("the model {kind}"));
        }
        let affix = |affix: &Option<String>| affix.as_deref().is_some_and(|affix| !affix.is_empty());
        let unknown = [
            ("dropout", file.dropout.is_some_and(|dropout| dropout != 0.0)),
            ("continuing_subword_prefix", affix(&file.continuing_subword_prefix)),
            ("end_of_word_suffix", affix(&file.end_of_word_suffix)),
        ];
        if let Some((name, _)) = unknown.iter().find(|(_, is_set)| *is_set) {
            return Err(format!("the model's {name}"));
        }
        let alphabet = alphabet();
        let id = |token: &str| file.vocab.get(token).copied().ok_or_else(|| format!("a vocabulary without {token:?}"));
        // Printable ASCII is required. Otherwise the reference would have to encode most texts.
        alphabet[usize::from(b' ')..=usize::from(b'~')].iter().try_for_each(|c| id(&c.to_string()).map(drop))?;
        let bytes = alphabet.iter().map(|c| file.vocab.get(c.encode_utf8(&mut [0; 4]) as &str).copied()).collect();
        let merges = file.merges.iter().zip(0..).map(|(merge, rank)| {
            let (left, right) = match merge {
                MergeFile::Pair(left, right) => (left.as_str(), right.as_str()),
                MergeFile::Joined(both) => both.split_once(' ').ok_or_else(|| format!("the merge {both:?}"))?,
            };
            Ok(((id(left)?, id(right)?), (rank, id(&format!("{left}{right}"))?)))
        });
        let merges = merges.collect::<Result<_, String>>()?;
        let whole = match file.ignore_merges {
            true => {
                let byte: HashMap<char, u8> = alphabet.into_iter().zip(0..=255).collect();
                // Tokens with other characters can't match a piece.
                let bytes = |token: &str| token.chars().map(|c| byte.get(&c).copied()).collect::<Option<Vec<u8>>>();
                file.vocab.iter().filter_map(|(token, id)| Some((bytes(token)?, *id))).collect()
            }
            false => HashMap::default(),
        };
        Ok(Self { bytes, merges, whole })
    }

    /// Whether every byte of the text has a token. Vocabularies may lack bytes that were not in their training data.
    pub(super) fn knows(&self, text: &str) -> bool {
        text.bytes().all(|byte| self.bytes[usize::from(byte)].is_some())
    }

    /// Appends the tokens of `piece`, which starts at offset `start`. Every byte of it must have a token.
    pub(super) fn encode(&self, piece: &str, start: usize, words: &mut Words, encoded: &mut Encoded) {
        if let Some(&(first, end)) = words.known.get(piece) {
            return encoded.extend(piece, start, &words.tokens[first as usize..end as usize]);
        }
        let tokens = match self.whole.get(piece.as_bytes()) {
            Some(&id) => vec![Token { id, bytes: piece.len() as u32 }],
            None => self.merge(piece.as_bytes()),
        };
        encoded.extend(piece, start, &tokens);
        if words.known.len() < WORDS && piece.len() <= LONGEST {
            let first = words.tokens.len() as u32;
            words.tokens.extend(tokens);
            words.known.insert(piece.into(), (first, words.tokens.len() as u32));
        }
    }

    fn merge(&self, piece: &[u8]) -> Vec<Token> {
        // A symbol that was merged into its left neighbour has 0 bytes.
        let token = |byte: &u8| Some(Token { id: self.bytes[usize::from(*byte)]?, bytes: 1 });
        let mut symbols: Vec<Token> = piece.iter().filter_map(token).collect();
        // The offset of the previous symbol. The next symbol starts at the end of this symbol's bytes.
        let mut before: Vec<usize> = (0..symbols.len()).map(|at| at.wrapping_sub(1)).collect();
        let merge = |left: Token, right: Token| self.merges.get(&(left.id, right.id)).copied();
        let candidate = |at: usize, (rank, id): Merge| Reverse((rank, at, id));
        let pairs = symbols.windows(2).enumerate();
        let mut queue: BinaryHeap<_> =
            pairs.filter_map(|(at, pair)| Some(candidate(at, merge(pair[0], pair[1])?))).collect();
        while let Some(Reverse((_, at, id))) = queue.pop() {
            let next = at + symbols[at].bytes as usize;
            if symbols[at].bytes == 0 || next >= symbols.len() {
                continue;
            }
            // Skip outdated entries: another merge may have changed this pair.
            if merge(symbols[at], symbols[next]).is_none_or(|(_, merged)| merged != id) {
                continue;
            }
            symbols[at] = Token { id, bytes: symbols[at].bytes + symbols[next].bytes };
            symbols[next].bytes = 0;
            let behind = at + symbols[at].bytes as usize;
            if let Some(before) = before.get_mut(behind) {
                *before = at;
                queue.extend(merge(symbols[at], symbols[behind]).map(|merge| candidate(at, merge)));
            }
            if at > 0 {
                let left = before[at];
                queue.extend(merge(symbols[left], symbols[at]).map(|merge| candidate(left, merge)));
            }
        }
        symbols.retain(|symbol| symbol.bytes > 0);
        symbols
    }
}

impl Encoded {
    fn extend(&mut self, piece: &str, start: usize, tokens: &[Token]) {
        let mut at = 0;
        for token in tokens {
            let end = at + token.bytes as usize;
            self.ids.push(token.id);
            self.ranges.push(start + piece.floor_char_boundary(at)..start + piece.ceil_char_boundary(end));
            at = end;
        }
    }
}

/// The character of each byte in a byte-level vocabulary: the byte itself if it is printable, otherwise a character
/// from U+0100 on.
fn alphabet() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..) => char::from(byte),
        _ => others.next().unwrap_or_default(),
    })
}
