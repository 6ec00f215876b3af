//! `tokenizer.json`.

use crate::heap;
use crate::render::tokenizer::{ChatTokenizer, TokenizerSpec};

const VOCAB_SIZE: usize = 1 << 17;

const TEXTS: [&str; 8] = [
    "",
    "Hello, world! It's 12345 o'clock.",
    "  two  blanks\n\n\tand tabs \r\n",
    "Grüße aus Köln: „Straße“, ﬁn, Å, e\u{301}",
    "日本語のテキストと한국어",
    "👩‍👩‍👧 \u{feff}\u{0}\u{7f}",
    "<s>special</s> <|im_start|>user\n",
    "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
];

/// An accepted tokenizer: the fast encoder gives the reference's tokens and byte ranges, ids lie in the vocabulary,
/// ranges lie in the text, and decoding token by token doesn't panic.
pub fn tokenizer(bytes: &[u8]) {
    heap::bounded(bytes.len(), || {
        let spec = TokenizerSpec { tokenizer_json: bytes.to_vec(), vocab_size: VOCAB_SIZE, ..TokenizerSpec::default() };
        let Ok(tokenizer) = ChatTokenizer::new(spec) else { return };
        for text in TEXTS {
            let (fast, reference) = (tokenizer.encode_ranges(text), tokenizer.encode_by_reference(text));
            let (Ok(fast), Ok(reference)) = (fast, reference) else { continue };
            assert_eq!((&fast.ids, &fast.ranges), (&reference.ids, &reference.ranges), "{text:?}");
            assert!(fast.ids.iter().all(|id| (*id as usize) < VOCAB_SIZE), "{:?}", fast.ids);
            assert!(fast.ranges.iter().all(|range| range.start <= range.end && range.end <= text.len()));
            let mut stream = tokenizer.decode_stream();
            for id in fast.ids {
                if stream.push(id).is_err() {
                    break;
                }
            }
            let _ = stream.finish();
        }
    });
}
