use proptest::prelude::*;

use super::*;

fn one(text: &str, span: Range<usize>) -> Diagnostics {
    let fault = Diagnostic::error("wrong").at(Place::new(0, span)).label("here");
    Diagnostics::of_file(Path::new("a.toml"), text, vec![fault])
}

#[test]
fn a_fault_points_into_its_line() {
    insta::assert_snapshot!(one("x = 1\nrank = \"a\"\n", 13..16), @r##"
    error: wrong
     --> a.toml:2:8
      |
    2 | rank = "a"
      |        ^^^ here
    "##);
}

#[test]
fn columns_are_characters_and_tabs_are_wide() {
    insta::assert_snapshot!(one("\tgrüße = ä\u{1b}[31m\tü # é", 13..15), @r##"
    error: wrong
     --> a.toml:1:11
      |
    1 |     grüße = ä�[31m    ü # é
      |              ^^ here
    "##);
}

#[test]
fn of_a_long_line_the_part_around_the_place_is_shown() {
    let text = format!("a = \"{}\" # {}", "x".repeat(300), "y".repeat(300));
    let shown = one(&text, 306..307).render(false);
    assert!(shown.lines().all(|line| line.chars().count() < 175), "{shown}");
    let lines: Vec<_> = shown.lines().collect();
    let caret = lines[4].chars().position(|c| c == '^').expect("a caret");
    assert_eq!(lines[3].chars().nth(caret), Some(' '), "{shown}");
    assert_eq!(lines[3].chars().nth(caret - 1), Some('"'), "{shown}");
}

#[test]
fn the_same_hint_is_shown_once_behind_the_last_fault() {
    let fault = |message: &str| Diagnostic::error(message).hint("look it up");
    let faults = Diagnostics::of_file(Path::new("a.toml"), "", vec![fault("one"), fault("two")]);
    insta::assert_snapshot!(faults, @r##"
    error: one
     --> a.toml

    error: two
     --> a.toml
    hint: look it up
    "##);
}

#[test]
fn colour_adds_escapes_and_nothing_else() {
    let faults = one("rank = x", 7..8);
    let painted = faults.render(true);
    assert!(painted.starts_with("\x1b[1;31merror\x1b[0m: wrong\n"), "{painted}");
    let mut bare = painted;
    for escape in [Paint::COLOR.error, Paint::COLOR.frame, Paint::COLOR.hint, Paint::COLOR.reset] {
        bare = bare.replace(escape, "");
    }
    assert_eq!(bare, faults.render(false));
}

proptest! {
    #[test]
    fn any_span_of_any_text_can_be_shown(text in "(\\PC|\t|\n|\r|\u{1b}){0,300}", start in 0usize..400, length in 0usize..400, source in 0usize..3) {
        let mut faults = one(&text, start..start + length);
        faults.sources.push(Source::Override(text));
        faults.items[0].place = Some(Place::new(source, start..start + length));
        let shown = faults.render(false);
        prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
    }
}
