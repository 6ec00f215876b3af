//! Fitting text to a width.
//!
//! Responsible for: wrapping text, truncating it with a mark, and bars.
//! Must not depend on: panels, colours.

use ratatui::text::Span;

use crate::theme::Look;

/// Width of a bar in characters.
const BAR: usize = 10;

/// Width of a text in cells.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Wraps a text into lines of at most `room` cells; returns at least one line. Words longer than a line are broken.
pub(super) fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            match width(&line) + 1 + width(word) <= room {
                true => line.push(' '),
                false => lines.push(std::mem::take(&mut line)),
            }
        }
        for char in word.chars() {
            line.push(char);
            if width(&line) > room && line.chars().nth(1).is_some() {
                line.pop();
                lines.push(std::mem::replace(&mut line, char.to_string()));
            }
        }
    }
    lines.push(line);
    lines
}

/// Truncates a text to `room` cells and marks the cut.
pub(super) fn fitted(text: &str, room: usize, look: Look) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mark = look.symbol("…", "~");
    let mut cut: String = text.chars().take(room).collect();
    while !cut.is_empty() && width(&cut) + 1 > room {
        cut.pop();
    }
    if room > 0 { cut + mark } else { cut }
}

/// A fraction as a bar: `▇▇▇▇▇▇╌╌╌╌ 61%`
pub(super) fn bar(share: f64, look: Look) -> String {
    let share = share.clamp(0.0, 1.0);
    let full = (share * BAR as f64).round() as usize;
    let (on, off) = (look.symbol("▇", "#"), look.symbol("╌", "."));
    format!("{}{} {:.0}%", on.repeat(full), off.repeat(BAR - full), share * 100.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::theme::{Depth, Symbols};

    const LOOK: Look = Look { depth: Depth::Rgb, light: false, symbols: Symbols::Braille };

    #[test]
    fn words_are_not_broken_if_they_fit() {
        assert_eq!(wrapped("no space left on device", 10), ["no space", "left on", "device"]);
        assert_eq!(wrapped("a/very/long/path x", 6), ["a/very", "/long/", "path x"]);
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("語語語", 4), ["語語", "語"]);
    }

    #[test]
    fn truncated_text_is_marked() {
        assert_eq!(fitted("nightly-7f3a", 12, LOOK), "nightly-7f3a");
        assert_eq!(fitted("nightly-7f3a", 8, LOOK), "nightly…");
        assert_eq!(fitted("語語語", 4, LOOK), "語…");
        assert_eq!(fitted("abc", 0, LOOK), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn lines_fit_and_nothing_is_lost(text in "(\\PC| ){0,60}", room in 2usize..30) {
            let lines = wrapped(&text, room);
            prop_assert!(lines.iter().all(|line| width(line) <= room), "{lines:?}");
            let letters = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
            prop_assert!(width(&fitted(&text, room, LOOK)) <= room);
        }
    }
}
