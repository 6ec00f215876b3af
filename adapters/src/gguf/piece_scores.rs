//! Merges of a BPE tokenizer → scores of its pieces, as in SentencePiece.
//!
//! GGUF's tokenizer `llama` has no merges. llama.cpp joins the neighbouring pieces whose joined text is the token with the
//! highest score, the leftmost ones among equals. The `tokenizers` library joins the pair with the lowest rank in the list of
//! merges, the leftmost one among equals. Both give the same tokens if
//! 1. every split of a piece into two pieces is in the list, so that both consider the same pairs, and
//! 2. the splits of a piece follow each other in the list, so that the order of the pairs is an order of pieces.
//!
//! Both hold for lists that were made from a SentencePiece model, and both are checked. One difference remains: if a text has
//! two overlapping ways to form the same piece, `tokenizers` takes the split with the lower rank, llama.cpp (like
//! SentencePiece) the leftmost one.
//!
//! Added tokens take no part: both programs cut them out of the text before they join pieces.
//! Source: llama.cpp, `llm_tokenizer_spm_session`.

use std::collections::{HashMap, HashSet};

use super::tokenizer_json::Merge;

/// Maximum length of a piece in bytes. It is limited because every split of a piece is tried.
pub(super) const LONGEST_PIECE: usize = 256;

/// The score of each piece in `vocab`, without the tokens in `added`: pieces with merges in the order of the merges from 0
/// downwards, then single characters and other pieces without merges in the order of their ids.
///
/// # Errors
/// If the merges can't be expressed as scores; the text says why.
pub(super) fn scores<'a>(
    vocab: &'a HashMap<String, u32>,
    added: &HashSet<&str>,
    merges: &[Merge],
) -> Result<HashMap<&'a str, f32>, String> {
    let is_piece = |text: &str| vocab.contains_key(text) && !added.contains(text);
    let mut seen = HashSet::new();
    let mut splits: HashMap<&str, usize> = HashMap::new();
    let mut order: Vec<&str> = Vec::new();
    for Merge(left, right) in merges {
        let joined = format!("{left}{right}");
        let Some((piece, _)) = vocab.get_key_value(&joined) else {
            return Err(format!("the merge of {left:?} and {right:?} forms no piece of the vocabulary"));
        };
        if !seen.insert((left, right)) {
            return Err(format!("the merge of {left:?} and {right:?} is listed twice"));
        }
        if !is_piece(left) || !is_piece(right) || !is_piece(piece) {
            // Spaces are replaced after the added tokens are cut out. Such a token can therefore also come from merges.
            if is_piece(piece) && [left, right].into_iter().any(|part| added.contains(&**part) && part.contains('▁'))
            {
                return Err(format!("the merge of {left:?} and {right:?} joins an added token"));
            }
            continue;
        }
        let count = splits.entry(piece).or_default();
        if *count > 0 && order.last() != Some(&&**piece) {
            return Err(format!("the merges that form {piece:?} don't follow each other"));
        }
        if *count == 0 {
            order.push(piece);
        }
        *count += 1;
    }
    for piece in vocab.keys().filter(|piece| is_piece(piece)) {
        if piece.len() > LONGEST_PIECE {
            return Err(format!("the token {piece:?} is longer than {LONGEST_PIECE} bytes"));
        }
        let ways = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let ways = ways.filter(|(left, right)| is_piece(left) && is_piece(right));
        let (found, listed) = (ways.count(), splits.get(&**piece).copied().unwrap_or(0));
        if found != listed {
            return Err(format!(
                "the vocabulary has {found} pairs of pieces that form {piece:?}, but {listed} of them are merges"
            ));
        }
    }
    let mut others: Vec<(&str, u32)> =
        vocab.iter().map(|(piece, id)| (&**piece, *id)).filter(|(piece, _)| !splits.contains_key(piece)).collect();
    others.sort_by_key(|(_, id)| *id);
    let ordered = order.into_iter().chain(others.into_iter().map(|(piece, _)| piece));
    Ok(ordered.enumerate().map(|(place, piece)| (piece, -(place as f32))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores_of(pieces: &[&str], added: &[&str], merges: &[(&str, &str)]) -> Result<Vec<f32>, String> {
        let vocab = (0..).zip(pieces).map(|(id, piece)| ((*piece).to_owned(), id)).collect();
        let merges: Vec<Merge> =
            merges.iter().map(|(left, right)| Merge((*left).to_owned(), (*right).to_owned())).collect();
        let scores = scores(&vocab, &added.iter().copied().collect(), &merges)?;
        Ok(pieces.iter().map(|piece| scores[piece]).collect())
    }

    #[test]
    fn pieces_have_the_order_of_their_merges() {
        let pieces = ["a", "abc", "b", "c", "ab", "bc", "<x>"];
        let merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")];
        let found = scores_of(&pieces, &["<x>"], &merges).expect("scores");
        assert_eq!(found, [-3.0, -2.0, -4.0, -5.0, -1.0, 0.0, -6.0]);
    }

    #[test]
    fn merges_that_scores_can_not_express_are_refused() {
        let pieces = ["a", "b", "c", "ab", "bc", "abc"];
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[("a", "b"), ("b", "c"), ("ab", "c")], "2 pairs of pieces that form \"abc\", but 1 of them"),
            (&[("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")], "form \"abc\" don't follow each other"),
            (&[("a", "b"), ("a", "b")], "listed twice"),
            (&[("a", "c")], "forms no piece"),
        ];
        for (merges, reason) in cases {
            let error = scores_of(&pieces, &[], merges).expect_err("refused");
            assert!(error.contains(reason), "{reason} is not in {error}");
        }
        // Runs of spaces are added tokens in Gemma. The merges that form them don't matter, but no other merge may use them.
        let pieces = ["▁", "▁▁", "a", "▁a"];
        assert!(scores_of(&pieces, &["▁▁"], &[("▁", "▁"), ("▁", "a")]).is_ok());
        let error = scores_of(&["▁", "▁▁", "a", "▁▁a"], &["▁▁"], &[("▁", "▁"), ("▁▁", "a")]).expect_err("refused");
        assert!(error.contains("joins an added token"), "{error}");
        let long = "a".repeat(LONGEST_PIECE + 1);
        assert!(scores_of(&[&long], &[], &[]).expect_err("refused").contains("longer than 256 bytes"));
    }
}
