//! The limits that keep a page small, and the sentences that report what they leave out.
//!
//! Responsible for: maximum counts and lengths. Nothing is left out without its number.
//! Must not depend on: the meaning of what is left out.

use tonfall_recipes::counted;

use crate::html::{Html, html};

/// Characters of a text: a prompt, an answer, a notice.
pub(crate) const TEXT: usize = 4000;
/// Held-out prompts.
pub(crate) const SAMPLES: usize = 200;
/// Bytes of all samples together.
pub(crate) const SAMPLE_BYTES: usize = 2 << 20;
/// Terms listed after an answer, for each kind.
pub(crate) const TERMS: usize = 50;
/// Rows of a table.
pub(crate) const ROWS: usize = 300;
/// Characters of a name, a path, a value.
pub(crate) const VALUE: usize = 500;
/// Bytes of the plan.
pub(crate) const PLAN: usize = 64 << 10;

/// At most `max` characters of `text`, and the number of characters left out.
pub(crate) fn cut(text: &str, max: usize) -> (&str, usize) {
    match text.char_indices().nth(max) {
        Some((end, _)) => (&text[..end], text[end..].chars().count()),
        None => (text, 0),
    }
}

/// At most [`VALUE`] characters of a name, a path or a value, with a mark where it was cut.
pub(crate) fn value(text: &str) -> String {
    match cut(text, VALUE) {
        (text, 0) => text.to_owned(),
        (text, rest) => format!("{text} […{} left out]", counted(rest as u64, "character")),
    }
}

/// Writes how many of `noun` are not on the page, if any.
pub(crate) fn left_out(page: &mut Html, count: u64, noun: &str) {
    if count > 0 {
        html!(page, "<p class=\"left-out\">{} left out of this page.</p>\n", counted(count, noun));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_text_is_counted() {
        assert_eq!(cut("Grüße", 5), ("Grüße", 0));
        assert_eq!(cut("Grüße", 3), ("Grü", 2));
        assert_eq!(value(&"é".repeat(VALUE + 2)), format!("{} […2 characters left out]", "é".repeat(VALUE)));
        let mut page = Html::default();
        left_out(&mut page, 0, "row");
        assert_eq!(page.len(), 0);
        left_out(&mut page, 1, "row");
        assert!(page.into_string().contains("1 row left out"));
    }
}
