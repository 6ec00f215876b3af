//! Merges of a BPE tokenizer → scores of its pieces, as in SentencePiece.
//!
//! GGUF's tokenizer `llama` has no merges. llama.cpp joins the neighbouring pieces whose joined text is the token with the
//! highest score, the leftmost ones among equals. The `tokenizers` library joins the pair with the lowest rank in the list of
//! merges, the leftmost one among equals. Both give the same tokens if
//! 1. every split of a piece into two pieces is in the list, so that both consider the same pairs, and
//! 2. the splits of a piece follow each other in the list, so that the order of the pairs is an order of pieces.
//!
//! Both hold for lists that were made from a SentencePiece model, and both are checked. Runs of one character, such as `▁▁▁`,
//! are an exception: models give them all the same score, and transformers sorts their merges by the length of the first part
//! and then of the second, longest first. See [`runs`].
//!
//! One difference remains: if a text has two overlapping ways to form the same piece, `tokenizers` takes the split with the
//! lower rank, llama.cpp (like SentencePiece) the leftmost one.
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
    let mut formed: Vec<(&str, usize)> = Vec::new();
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
        *splits.entry(piece).or_default() += 1;
        formed.push((piece, left.len()));
    }
    let order = order(&formed)?;
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

/// The pieces in the order of their merges. `formed` has, for each merge, the joined piece and the bytes of its first part.
fn order<'a>(formed: &[(&'a str, usize)]) -> Result<Vec<&'a str>, String> {
    let mut order = Vec::new();
    let same_group = |a: &(&str, usize), b: &(&str, usize)| a.0 == b.0 || is_run(a.0) && is_run(b.0);
    for group in formed.chunk_by(same_group) {
        let mut pieces: Vec<&str> = group.iter().map(|(piece, _)| *piece).collect();
        pieces.dedup();
        let distinct: HashSet<&str> = pieces.iter().copied().collect();
        if distinct.len() < pieces.len() {
            pieces = runs(group, formed)?;
        }
        order.extend(pieces);
    }
    let mut seen = HashSet::new();
    match order.iter().find(|piece| !seen.insert(**piece)) {
        Some(piece) => Err(format!("the merges that form {piece:?} don't follow each other")),
        None => Ok(order),
    }
}

fn is_run(piece: &str) -> bool {
    let mut letters = piece.chars();
    let first = letters.next();
    letters.all(|letter| Some(letter) == first)
}

/// The order of runs whose merges don't follow each other: longest first.
///
/// In the order of transformers, `tokenizers` joins from the left: the first piece A of a run takes its neighbour B as long
/// as A + B is a piece, because A is the longest first part. If it isn't, B takes its own neighbour C in the same way. If
/// longer pieces have higher scores, llama.cpp does the same: A is at least as long as B, which is at least as long as C, so
/// A + B is the longest piece that can be formed, and B + C the next.
fn runs<'a>(group: &[(&'a str, usize)], all: &[(&str, usize)]) -> Result<Vec<&'a str>, String> {
    let letters: HashSet<Option<char>> = group.iter().map(|(piece, _)| piece.chars().next()).collect();
    for letter in &letters {
        let own = |(piece, _): &&(&str, usize)| is_run(piece) && piece.chars().next() == *letter;
        let lengths: Vec<(usize, usize)> =
            group.iter().filter(own).map(|(piece, left)| (*left, piece.len() - left)).collect();
        if !lengths.is_sorted_by(|a, b| a > b) || all.iter().filter(own).count() != lengths.len() {
            let letter = letter.unwrap_or_default();
            return Err(format!("the merges that form runs of {letter:?} have another order than transformers writes"));
        }
    }
    let mut pieces: Vec<&str> = group.iter().map(|(piece, _)| *piece).collect();
    pieces.sort_by_key(|piece| (std::cmp::Reverse(piece.len()), *piece));
    pieces.dedup();
    Ok(pieces)
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
        // The merges of runs are sorted by their first parts. Longer runs have higher scores.
        let merges = [("a", "b"), ("▁▁▁", "▁▁"), ("▁▁", "▁▁▁"), ("▁▁", "▁"), ("▁", "▁▁"), ("▁", "▁")];
        let found = scores_of(&["a", "b", "ab", "▁", "▁▁", "▁▁▁", "▁▁▁▁▁"], &[], &merges).expect("scores");
        assert_eq!(found, [-4.0, -5.0, 0.0, -6.0, -3.0, -2.0, -1.0]);
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
        let pieces = ["▁", "▁▁", "▁▁▁", "a"];
        let error = scores_of(&pieces, &[], &[("▁", "▁▁"), ("▁", "▁"), ("▁▁", "▁")]).expect_err("refused");
        assert!(error.contains("runs of '▁' have another order"), "{error}");
        let long = "a".repeat(LONGEST_PIECE + 1);
        assert!(scores_of(&[&long], &[], &[]).expect_err("refused").contains("longer than 256 bytes"));
    }
}
