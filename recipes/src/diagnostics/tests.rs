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
    1 |     grüße = ä␛[31m    ü # é
      |              ^^ here
    "##);
}

#[test]
fn carets_are_as_wide_as_wide_characters() {
    insta::assert_snapshot!(one("name = \"東京\u{85}の文体\" # x", 7..26), @r##"
    error: wrong
     --> a.toml:1:8
      |
    1 | name = "東京�の文体" # x
      |        ^^^^^^^^^^^^^ here
    "##);
}

#[test]
fn two_places_of_a_fault_are_shown_together() {
    let text = "[training]\nwarmup_ratio = 0.1\nepochs = 2\nwarmup_steps = 10\n";
    let fault = Diagnostic::error("wrong").at(Place::new(0, 11..23)).label("remove one of them");
    let fault = fault.context(Place::new(0, 41..53), "the other one");
    insta::assert_snapshot!(Diagnostics::of_file(Path::new("a.toml"), text, vec![fault.clone()]), @r##"
    error: wrong
     --> a.toml:2:1
      |
    2 | warmup_ratio = 0.1
      | ^^^^^^^^^^^^ remove one of them
    3 | epochs = 2
    4 | warmup_steps = 10
      | ------------ the other one
    "##);
    let mut faults = Diagnostics::of_file(Path::new("a.toml"), text, vec![fault]);
    faults.sources.push(Source::Override("training.warmup_steps=3".to_owned()));
    faults.items[0].context = Some(Box::new((Place::new(1, 0..21), "the other one".to_owned())));
    insta::assert_snapshot!(faults, @r##"
    error: wrong
     --> a.toml:2:1
      |
    2 | warmup_ratio = 0.1
      | ^^^^^^^^^^^^ remove one of them
      |
     ::: command line:1:7
      |
      | --set training.warmup_steps=3
      |       --------------------- the other one
    "##);
}

#[test]
fn a_long_line_is_shown_around_the_place_and_within_the_terminal() {
    let text = format!("a = \"{}\" # {}", "x".repeat(300), "y".repeat(300));
    for width in [40, 80, DEFAULT_WIDTH] {
        let shown = one(&text, 306..307).render(false, width);
        assert!(shown.lines().all(|line| line.chars().count() <= width), "{width}: {shown}");
        let lines: Vec<_> = shown.lines().collect();
        let caret = lines[4].chars().position(|c| c == '^').expect("a caret");
        assert_eq!(lines[3].chars().nth(caret), Some(' '), "{shown}");
        assert_eq!(lines[3].chars().nth(caret - 1), Some('"'), "{shown}");
    }
}

#[test]
fn a_shared_hint_is_printed_once_after_the_last_fault() {
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
    let mut faults = one("rank = x", 7..8);
    faults.items[0].hint = Some("look it up".to_owned());
    let painted = faults.render(true, DEFAULT_WIDTH);
    assert!(painted.starts_with(&format!("{}error{}", ERROR[0], ERROR[1])), "{painted:?}");
    assert!(painted.ends_with(&format!("{}hint{}: look it up\n", HINT[0], HINT[1])), "{painted:?}");
    let bare: String = painted
        .split('\x1b')
        .enumerate()
        .map(|(index, part)| if index == 0 { part } else { part.split_once('m').expect("a colour").1 })
        .collect();
    assert_eq!(bare, faults.render(false, DEFAULT_WIDTH));
}

proptest! {
    #[test]
    fn any_span_of_any_text_can_be_shown(text in "(\\PC|\t|\n|\r|\u{1b}|\u{9b}|\u{202e}){0,300}", start in 0usize..400, length in 0usize..400, source in 0usize..3, width in 0usize..200) {
        let mut faults = one(&text, start..start + length);
        faults.sources.push(Source::Override(text));
        faults.items[0].place = Some(Place::new(source, start..start + length));
        faults.items[0].context = Some(Box::new((Place::new(0, length..start), "also".to_owned())));
        let shown = faults.render(false, width);
        prop_assert!(!shown.chars().any(is_unsafe));
    }
}
