//! The style sheet.

use std::collections::BTreeMap;

const STYLE: &str = include_str!("../style.css");

/// The colours of a `:root` block.
fn colours(block: &str) -> BTreeMap<&str, [f64; 3]> {
    let (_, rest) = block.split_once(":root {").expect("a block");
    let (block, _) = rest.split_once('}').expect("its end");
    let pairs = block.split(';').filter_map(|line| line.trim().split_once(": #"));
    let channel =
        |hex: &str, at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")) / 255.0;
    pairs.map(|(name, hex)| (name, [channel(hex, 0), channel(hex, 2), channel(hex, 4)])).collect()
}

/// WCAG 2.2, relative luminance.
fn luminance(colour: [f64; 3]) -> f64 {
    let linear = colour.map(|c| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) });
    0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}

/// WCAG 2.2, contrast ratio.
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn texts_and_curves_have_the_contrast_of_level_aa() {
    let starts: Vec<usize> = STYLE.match_indices(":root {").map(|(at, _)| at).collect();
    assert_eq!(starts.len(), 3, "light, dark and print");
    for start in starts {
        let colours = colours(&STYLE[start..]);
        for text in ["--text", "--faint", "--accent", "--good", "--bad"] {
            for back in ["--back", "--panel"] {
                let found = contrast(colours[text], colours[back]);
                assert!(found >= 4.5, "{text} on {back} in block {start}: {found:.2}");
            }
        }
        for back in ["--used", "--forbidden"] {
            assert!(contrast(colours["--text"], colours[back]) >= 4.5, "{back} in block {start}");
        }
        assert!(contrast(colours["--eval"], colours["--back"]) >= 3.0, "a graphic");
    }
    assert!((contrast([0.0; 3], [1.0; 3]) - 21.0).abs() < 1e-9);
}

#[test]
fn the_style_sheet_loads_nothing_and_ends_nowhere_else() {
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains('<'));
}
