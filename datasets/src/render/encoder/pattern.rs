//! Pre-tokenization: splits a text into pieces. BPE merges only within a piece.
//!
//! Responsible for: the supported steps of pre-tokenizers. Must not depend on: tokens.
//!
//! Nearly all families use an expression that ends with [`BLANKS`]: the last blank of a run belongs to the next word.
//! This is the only look-ahead in these expressions, and automata don't support look-ahead. Therefore the rest of the
//! expression and `\s+` are compiled as two expressions of one automaton, and a match of `\s+` is shortened by its last
//! blank.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::{Anchored, Input, MatchKind, PatternID};
use regex_syntax::ast::Ast;

/// The expression of ByteLevel, from GPT-2.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const BLANKS: &str = r"|\s+(?!\S)|\s+";
/// Size limit in bytes of an automaton and of its construction. Those of known families need less than a tenth.
const SIZE: usize = 32 << 20;

/// One step of a pre-tokenizer.
#[derive(Debug)]
pub(super) enum Splitter {
    /// Numeric characters are pieces: one piece for each, or one for each run.
    Numbers { each: bool },
    /// Matches of the expression are pieces, and so are the texts between them.
    Pattern { automaton: Box<dense::DFA<Vec<u32>>>, start: StateID },
}

impl Splitter {
    /// `None` if the expression is too large, or if a backtracking engine might find other matches.
    pub(super) fn pattern(pattern: &str) -> Option<Self> {
        let (rest, blanks) = pattern.strip_suffix(BLANKS).map_or((pattern, None), |rest| (rest, Some(r"\s+")));
        let expressions: Vec<&str> = std::iter::once(rest).chain(blanks).collect();
        for expression in &expressions {
            let ast = regex_syntax::ast::parse::Parser::new().parse(expression).ok()?;
            let hir = regex_syntax::parse(expression).ok()?;
            if !is_plain(&ast) || hir.properties().minimum_len().unwrap_or(0) == 0 {
                return None;
            }
        }
        let config = dense::Config::new()
            .match_kind(MatchKind::LeftmostFirst)
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(SIZE))
            .determinize_size_limit(Some(SIZE));
        let automaton = dense::Builder::new()
            .configure(config)
            .thompson(thompson::Config::new().nfa_size_limit(Some(SIZE)))
            .build_many(&expressions)
            .ok()?;
        // The expressions have no assertions, so the start state doesn't depend on the position in the text.
        let start = automaton.start_state_forward(&Input::new("").anchored(Anchored::Yes)).ok()?;
        Some(Self::Pattern { automaton: Box::new(automaton), start })
    }

    /// The end of the piece that starts at `at`.
    fn end(&self, text: &str, at: usize) -> usize {
        match self {
            Self::Numbers { each } => {
                let numbers = next(text, at, true);
                match (numbers > at, *each) {
                    (true, _) => numbers,
                    (false, true) => text.ceil_char_boundary(at + 1),
                    (false, false) => next(text, at, false),
                }
            }
            Self::Pattern { automaton, start } => {
                let found = |at| longest(automaton, *start, &text.as_bytes()[at..]);
                match found(at) {
                    Some((length, PatternID::ZERO)) => at + length,
                    Some((length, _)) => at + blanks(&text[at..], length),
                    None => {
                        let behind = text[at..].char_indices().map(|(behind, _)| at + behind).skip(1);
                        behind.into_iter().find(|behind| found(*behind).is_some()).unwrap_or(text.len())
                    }
                }
            }
        }
    }
}

/// The longest match at the start of a text: its length, and the expression that matched.
fn longest(automaton: &dense::DFA<Vec<u32>>, start: StateID, text: &[u8]) -> Option<(usize, PatternID)> {
    let (mut state, mut found) = (start, None);
    for (at, byte) in text.iter().enumerate() {
        state = automaton.next_state(state, *byte);
        if automaton.is_special_state(state) {
            // The automaton reports a match one byte late.
            if automaton.is_match_state(state) {
                found = Some((at, state));
            } else if automaton.is_dead_state(state) {
                return found.map(|(at, state)| (at, automaton.match_pattern(state, 0)));
            }
        }
    }
    state = automaton.next_eoi_state(state);
    if automaton.is_match_state(state) {
        found = Some((text.len(), state));
    }
    found.map(|(at, state)| (at, automaton.match_pattern(state, 0)))
}

/// The length of a run of blanks. The last blank is excluded if text follows and at least one other blank remains.
fn blanks(text: &str, run: usize) -> usize {
    let before_last = text.floor_char_boundary(run - 1);
    if run < text.len() && before_last > 0 { before_last } else { run }
}

/// The offset of the next character that is numeric or, with `numeric` = false, not numeric.
fn next(text: &str, at: usize, numeric: bool) -> usize {
    let mut rest = text[at..].char_indices();
    rest.find(|(_, c)| c.is_numeric() == numeric).map_or(text.len(), |(next, _)| at + next)
}

/// Whether an expression has no assertions, no flags and no possessive quantifiers (parsed as nested repetitions).
fn is_plain(ast: &Ast) -> bool {
    match ast {
        Ast::Literal(_) | Ast::Dot(_) | Ast::ClassUnicode(_) | Ast::ClassPerl(_) | Ast::ClassBracketed(_) => true,
        Ast::Empty(_) | Ast::Flags(_) | Ast::Assertion(_) => false,
        Ast::Repetition(repetition) => !matches!(*repetition.ast, Ast::Repetition(_)) && is_plain(&repetition.ast),
        Ast::Group(group) => is_plain(&group.ast),
        Ast::Alternation(alternation) => alternation.asts.iter().all(is_plain),
        Ast::Concat(concat) => concat.asts.iter().all(is_plain),
    }
}

/// Calls `each` with every piece of a text and its offset, in order. `start` is the offset of the text itself.
pub(super) fn split(splitters: &[Splitter], text: &str, start: usize, each: &mut impl FnMut(&str, usize)) {
    let Some((splitter, splitters)) = splitters.split_first() else { return each(text, start) };
    let mut at = 0;
    while at < text.len() {
        let end = splitter.end(text, at);
        split(splitters, &text[at..end], start + at, each);
        at = end;
    }
}
