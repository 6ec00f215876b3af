//! Escaping text from files before printing.
//!
//! Responsible for: escaping characters that move the cursor, change colours or reorder text on a terminal.
//! Must not depend on: where the text is printed.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with every unsafe character escaped like in Python: `\x1b`, `\u202e`. Line feeds and tabs are unchanged.
///
/// ```
/// assert_eq!(tonfall_recipes::printable::escaped("a\u{1b}[2J\r\n"), "a\\x1b[2J\\x0d\n");
/// ```
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        let code = u32::from(c);
        let written = match c {
            _ if !is_unsafe(c) => safe.write_char(c),
            '\0'..='\u{ff}' => write!(safe, "\\x{code:02x}"),
            _ => write!(safe, "\\u{code:04x}"),
        };
        debug_assert!(written.is_ok(), "writing to a string");
    }
    Cow::Owned(safe)
}

/// JSON text with every unsafe character as `\u00XX`. JSON has such characters only inside strings, so the value is
/// unchanged.
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let escape = |c: char| if is_unsafe(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(json.chars().map(escape).collect())
}

/// Control characters (C0 without line feed and tab, DEL, C1) and the characters with Unicode's property `Bidi_Control`
/// (<https://www.unicode.org/reports/tr9/>), which reorder the text around them.
pub fn is_unsafe(c: char) -> bool {
    let bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && !matches!(c, '\n' | '\t')) || bidi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidi_characters_are_escaped_and_nothing_else() {
        assert_eq!(escaped("clear\u{1b}[2J\u{7}\u{7f}"), "clear\\x1b[2J\\x07\\x7f");
        // C1: U+009B is CSI in one character.
        assert_eq!(escaped("\u{9b}2J\u{85}"), "\\x9b2J\\x85");
        assert_eq!(escaped("a\u{202e}b\u{2066}c\u{200f}"), "a\\u202eb\\u2066c\\u200f");
        assert_eq!(escaped("one\r\ntwo\tthree"), "one\\x0d\ntwo\tthree");
        for safe in ["", "Grüße 東京 👩‍👩‍👧", "a\n\tb"] {
            assert!(matches!(escaped(safe), Cow::Borrowed(same) if same == safe));
        }
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let value = serde_json::json!({"a\u{202e}": "x\u{9b}\u{1b}\n\"\\"});
        let text = value.to_string();
        let safe = escaped_json(&text);
        assert!(!safe.chars().any(is_unsafe) && safe != text, "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("JSON"), value);
    }
}
