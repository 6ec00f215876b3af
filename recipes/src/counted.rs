//! Numbers with nouns.
//!
//! Responsible for: "1 step" and "12,345 steps". Must not depend on: the counted things.

/// `count` with thousands separators, and `noun` in the singular or plural.
///
/// ```
/// use tonfall_recipes::counted;
/// assert_eq!((counted(1, "optimizer step"), counted(1_234, "batch")), ("1 optimizer step".into(), "1,234 batches".into()));
/// ```
pub fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{} {}", grouped(count), plural(noun)),
    }
}

/// `12,345`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The regular plural of an English noun.
fn plural(noun: &str) -> String {
    let consonant_y = |stem: &str| !stem.ends_with(['a', 'e', 'i', 'o', 'u']);
    match noun.strip_suffix('y').filter(|stem| consonant_y(stem)) {
        Some(stem) => format!("{stem}ies"),
        None if ["s", "x", "z", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => format!("{noun}es"),
        None => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_the_rest_plural() {
        let shown = [0, 1, 2, 12_345].map(|count| counted(count, "step"));
        assert_eq!(shown, ["0 steps", "1 step", "2 steps", "12,345 steps"]);
        let plurals = ["process", "micro-batch", "entry", "day", "near-duplicate"].map(|noun| counted(2, noun));
        assert_eq!(plurals, ["2 processes", "2 micro-batches", "2 entries", "2 days", "2 near-duplicates"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
