//! Rules of a house style: regular expressions and words that answers must or must not have.
//!
//! Responsible for: whether an answer keeps a rule. Must not depend on: where rules are declared.

use regex::{Regex, RegexBuilder};
use thiserror::Error;
use tonfall_terms::{Matcher, Term, TermsError};

use crate::Part;
use crate::language::Language;

/// A compiled regular expression may take this many bytes.
const SIZE: usize = 1 << 20;

/// A rule as it is declared. An answer keeps the rule if it keeps all of its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleText {
    /// Regular expressions in the syntax of the crate regex.
    pub must_match: Option<String>,
    pub must_not_match: Option<String>,
    /// At least one of these words occurs; an empty list demands nothing.
    pub must_use: Vec<String>,
    /// None of these words occurs.
    pub must_not_use: Vec<String>,
    /// The rule applies to answers in this language; `None`: to all.
    pub language: Option<String>,
}

/// Why a rule can't be used.
#[derive(Debug, Error)]
pub enum RuleError {
    #[error("`{pattern}` is no regular expression: {reason}")]
    Pattern { pattern: String, reason: String },

    #[error(transparent)]
    Words(#[from] TermsError),
}

/// A rule of a style.
#[derive(Debug)]
pub struct Rule {
    must_match: Option<Regex>,
    must_not_match: Option<Regex>,
    /// `None` if no word has to occur.
    must_use: Option<Matcher>,
    must_not_use: Matcher,
    language: Option<String>,
}

impl Rule {
    /// # Errors
    /// [`RuleError`].
    pub fn new(text: &RuleText) -> Result<Self, RuleError> {
        let compiled = |pattern: &Option<String>| pattern.as_deref().map(compile).transpose();
        let matcher = |words: &[String]| {
            let language = text.language.as_deref();
            Matcher::in_prose(words.iter().map(|text| Term { text, language }))
        };
        Ok(Self {
            must_match: compiled(&text.must_match)?,
            must_not_match: compiled(&text.must_not_match)?,
            must_use: (!text.must_use.is_empty()).then(|| matcher(&text.must_use)).transpose()?,
            must_not_use: matcher(&text.must_not_use)?,
            language: text.language.clone(),
        })
    }

    /// Whether `answer`, in `language`, keeps the rule. A rule for one language does not apply to answers in another or an
    /// unknown one.
    pub fn part(&self, answer: &str, language: Option<Language>) -> Part {
        let applies =
            self.language.as_deref().is_none_or(|wanted| language.is_some() && Language::of_tag(wanted) == language);
        if !applies {
            return Part::NONE;
        }
        let matches =
            |pattern: &Option<Regex>, otherwise| pattern.as_ref().map_or(otherwise, |regex| regex.is_match(answer));
        Part::is(
            matches(&self.must_match, true)
                && !matches(&self.must_not_match, false)
                && self.must_use.as_ref().is_none_or(|words| !words.used(answer).is_empty())
                && self.must_not_use.used(answer).is_empty(),
        )
    }
}

fn compile(pattern: &str) -> Result<Regex, RuleError> {
    RegexBuilder::new(pattern).size_limit(SIZE).build().map_err(|error| {
        let reason = match error {
            regex::Error::CompiledTooBig(limit) => format!("compiled, it has more than {limit} bytes"),
            // The message repeats the pattern in several lines; its last line is the reason.
            other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        };
        RuleError::Pattern { pattern: pattern.to_owned(), reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(rule: &RuleText, answer: &str) -> Part {
        Rule::new(rule).expect("a valid rule").part(answer, Language::of_text(answer))
    }

    #[test]
    fn patterns_must_or_must_not_match() {
        let rule = RuleText {
            must_match: Some("^Dear ".to_owned()),
            must_not_match: Some("[!]{2}|(?i)asap".to_owned()),
            ..RuleText::default()
        };
        assert_eq!(keeps(&rule, "Dear guest, hello!"), Part::is(true));
        assert_eq!(keeps(&rule, "Hello"), Part::is(false));
        assert_eq!(keeps(&rule, "Dear guest!!"), Part::is(false));
        assert_eq!(keeps(&rule, "Dear guest, ASAP"), Part::is(false));
    }

    #[test]
    fn words_must_or_must_not_occur() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let rule = RuleText {
            must_use: words(&["regards", "yours"]),
            must_not_use: words(&["customer"]),
            language: Some("en".to_owned()),
            ..RuleText::default()
        };
        assert_eq!(keeps(&rule, "This is it. Kind regards"), Part::is(true));
        assert_eq!(keeps(&rule, "This is it."), Part::is(false));
        assert_eq!(keeps(&rule, "This is for our customers. Yours"), Part::is(false));
        // Another language.
        assert_eq!(keeps(&rule, "Das ist nicht für den customer."), Part::NONE);
    }

    #[test]
    fn faulty_patterns_are_refused() {
        let fault = |pattern: &str| {
            let rule = RuleText { must_match: Some(pattern.to_owned()), ..RuleText::default() };
            Rule::new(&rule).expect_err("faulty").to_string()
        };
        assert_eq!(fault("a("), "`a(` is no regular expression: unclosed group");
        // Two megabytes, and gigabytes.
        for pattern in [r"\w{200}", r"(\w{1000}){1000}"] {
            assert!(fault(pattern).contains("bytes"), "{}", fault(pattern));
        }
    }
}
