//! Frames compared with snapshots, and the effect of keys on frames.

use ratatui::buffer::{Buffer, Cell};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use tonfall_runs::Status;
use tonfall_runs::follow::News;

use super::stories::app;
use crate::app::App;
use crate::input::Effect;
use crate::theme::{Depth, Look, Symbols};
use crate::update::{Message, update};
use crate::watch::{draw, text};

/// Layouts: one line, the smallest with panels, with charts, with the table of runs.
const SIZES: [(u16, u16); 4] = [(50, 4), (80, 24), (120, 40), (200, 50)];
const COLOURED: Look = Look { depth: Depth::Rgb, light: false, symbols: Symbols::Braille };
const MONO: Look = Look { depth: Depth::Mono, light: false, symbols: Symbols::Ascii };

/// The style of each character of a line, run-length encoded: `3 plain, 5 fg=…`.
fn styles(buffer: &Buffer) -> String {
    let style = |cell: &Cell| {
        let mut words = Vec::new();
        if cell.fg != ratatui::style::Color::Reset {
            words.push(cell.fg.to_string());
        }
        if !cell.modifier.is_empty() {
            words.push(format!("{:?}", cell.modifier).to_lowercase().replace(" | ", "+"));
        }
        words.join(" ")
    };
    let mut lines = Vec::new();
    for (row, cells) in buffer.content.chunks(usize::from(buffer.area.width)).enumerate() {
        let runs = cells.chunk_by(|a, b| style(a) == style(b)).map(|run| (run.len(), style(&run[0])));
        let runs: Vec<String> =
            runs.filter(|(_, style)| !style.is_empty()).map(|(count, style)| format!("{count} {style}")).collect();
        lines.push(format!("{row:>3}: {}", runs.join(", ")));
    }
    lines.join("\n")
}

fn of_all_states(look: Look, (width, height): (u16, u16), show: fn(&Buffer) -> String) -> String {
    let frame = |status: Status| {
        let mut app = app(look, status);
        update(&mut app, Message::Resize(width, height));
        assert_eq!(app.run().map(|run| run.status()), Some(status));
        format!("== {}\n{}\n", status.name(), show(&draw(&app, width, height)))
    };
    Status::ALL.into_iter().map(frame).collect()
}

#[test]
fn every_state_in_every_size() {
    for size @ (width, height) in SIZES {
        insta::assert_snapshot!(format!("colour_{width}x{height}"), of_all_states(COLOURED, size, text));
        insta::assert_snapshot!(format!("mono_{width}x{height}"), of_all_states(MONO, size, text));
    }
}

#[test]
fn frames_with_and_without_colours() {
    for size @ (width, height) in SIZES {
        insta::assert_snapshot!(format!("colour_{width}x{height}_styles"), of_all_states(COLOURED, size, styles));
        insta::assert_snapshot!(format!("mono_{width}x{height}_styles"), of_all_states(MONO, size, styles));
        let mono = of_all_states(MONO, size, styles);
        assert!(!mono.contains('#'), "monochrome has no colour: {mono}");
        assert!(of_all_states(MONO, size, text).is_ascii(), "ASCII is ASCII");
    }
}

fn press(app: &mut App, keys: &str) -> Option<Effect> {
    let mut effect = None;
    for char in keys.chars() {
        let code = match char {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            char => KeyCode::Char(char),
        };
        effect = update(app, Message::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }
    effect
}

fn shown(app: &App) -> String {
    text(&draw(app, app.size.width, app.size.height))
}

#[test]
fn the_help_page_and_the_confirmation() {
    let mut app = app(COLOURED, Status::Running);
    update(&mut app, Message::Resize(80, 50));
    press(&mut app, "?");
    insta::assert_snapshot!("help", shown(&app));
    press(&mut app, "?X");
    insta::assert_snapshot!("stop", shown(&app));
}

#[test]
fn a_stop_has_to_be_typed() {
    let mut app = app(COLOURED, Status::Running);
    assert_eq!(press(&mut app, "X\n"), None, "an empty word stops nothing");
    assert_eq!(press(&mut app, "Xsto\n"), None);
    assert_eq!(press(&mut app, "Xstop\x1b"), None);
    assert_eq!(press(&mut app, "Xstop\n"), Some(Effect::RequestStop { run: 0 }));
    assert_eq!(press(&mut app, "q"), Some(Effect::Quit));
    press(&mut app, "]");
    assert_eq!(app.selected, 1);
    assert_eq!(press(&mut app, "Xstop\n"), None, "a finished run can't be stopped");
}

#[test]
fn zoom_can_be_reset_and_the_filter_selects_a_visible_run() {
    let mut app = app(COLOURED, Status::Running);
    update(&mut app, Message::Resize(200, 50));
    press(&mut app, "+++hh");
    let (start, end) = app.plot.window();
    assert!(end - start < 0.2 && end < 1.0 && start > 0.0);
    press(&mut app, "0");
    assert_eq!(app.plot.window(), (0.0, 1.0));
    press(&mut app, "/11c0 finished\n");
    assert_eq!((app.rows(), app.selected), (vec![1], 1));
    press(&mut app, "\x1b");
    assert_eq!(app.rows(), [0, 1], "newest first");
}

#[test]
fn runs_that_are_marked_are_compared() {
    let mut app = app(COLOURED, Status::Running);
    update(&mut app, Message::Resize(80, 24));
    press(&mut app, "c");
    assert!(shown(&app).contains("nothing to compare with"), "{}", shown(&app));
    press(&mut app, "4] ");
    assert!(app.runs[1].marked && app.wants(1));
    press(&mut app, "[1");
    let events = super::stories::story(Status::Finished).events;
    update(&mut app, Message::News(1, News::Restart { whole: true }));
    update(&mut app, Message::News(1, News::Events(events)));
    assert_eq!(app.compared(), [0, 1]);
    let frame = shown(&app);
    assert!(frame.contains("a nightly-7f3a") && frame.contains("b nightly-11c0"), "{frame}");
}

#[test]
fn a_click_shows_a_run_and_the_wheel_zooms() {
    let mut app = app(COLOURED, Status::Running);
    update(&mut app, Message::Resize(200, 50));
    let mouse = |kind, column, row| Message::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE });
    // The table is on the left: border, header, the newest run, the run before it.
    update(&mut app, mouse(MouseEventKind::Down(MouseButton::Left), 5, 4));
    assert_eq!(app.selected, 1);
    update(&mut app, mouse(MouseEventKind::ScrollUp, 100, 8));
    assert!(app.plot.is_zoomed());
}

#[test]
fn a_killed_run_is_shown_as_interrupted_without_eta() {
    let mut app = app(COLOURED, Status::Running);
    assert!(app.eta().is_some());
    update(&mut app, Message::News(0, News::Held { held: false, stop_requested: false }));
    assert_eq!(app.eta(), None);
    let frame = shown(&app);
    assert!(frame.contains("INTERRUPTED") && frame.contains("killed, no end logged"), "{frame}");
}

#[test]
fn a_later_attempt_removes_superseded_steps() {
    let mut app = app(COLOURED, Status::Interrupted);
    let mut events = super::stories::story(Status::Running).events;
    events.truncate(1);
    events[0].attempt = 2;
    if let tonfall_runs::EventKind::AttemptStarted { from_step, .. } = &mut events[0].kind {
        *from_step = 50;
    }
    update(&mut app, Message::News(0, News::Events(events)));
    let run = app.run().expect("a run");
    let data = run.data.as_ref().expect("its data");
    assert_eq!((run.summary.step, data.steps.last().map(|bucket| bucket.last)), (50, Some(50)));
}

#[test]
fn a_frozen_screen_does_not_change() {
    let mut app = app(COLOURED, Status::Running);
    update(&mut app, Message::Resize(120, 24));
    press(&mut app, "p");
    let before = shown(&app);
    assert!(before.contains("FROZEN"), "{before}");
    update(&mut app, Message::Tick(500.0));
    assert_eq!(shown(&app), before, "neither the time to go nor the silence moves");
    press(&mut app, "p");
    assert!(shown(&app).contains("no news for 8m 20s"), "{}", shown(&app));
    press(&mut app, "p]");
    assert!(!shown(&app).contains("FROZEN"), "another run is shown as it is now");
}

#[test]
fn long_events_can_be_scrolled_to_their_end() {
    let mut app = app(COLOURED, Status::Running);
    let words: Vec<String> = (0..40).map(|word| format!("word{word}")).collect();
    let kind = tonfall_runs::EventKind::Notice { message: words.join(" ") };
    let event = tonfall_runs::Event { v: 1, seq: 1, attempt: 1, t: 0.0, kind };
    update(&mut app, Message::News(0, News::Events(vec![event])));
    let small = shown(&app);
    assert!(small.contains("word0") && !small.contains("word39") && small.contains("Enter shows all"), "{small}");
    press(&mut app, "3\n");
    let large = shown(&app);
    assert!(words.iter().all(|word| large.contains(word)), "{large}");
    press(&mut app, &"k".repeat(200));
    let oldest = shown(&app);
    assert!(
        oldest.contains("attempt 1, 200 steps") && oldest.contains("checkpoint step-000100"),
        "a full page: {oldest}"
    );
}

#[test]
fn terms_are_marked_in_answers() {
    let mut app = app(COLOURED, Status::Finished);
    update(&mut app, Message::Resize(160, 24));
    press(&mut app, "5");
    let frame = draw(&app, 160, 24);
    let words = text(&frame);
    assert!(
        words.contains("@0      Your delivery is on its way.") && words.contains("(to avoid: delivery)"),
        "{words}"
    );
    assert!(words.contains("@200    Your handover is on its way."), "{words}");
    let marked = |modifier| {
        let cells = frame.content.iter().filter(|cell| cell.modifier.contains(modifier));
        cells.map(|cell| cell.symbol()).collect::<String>()
    };
    assert_eq!(marked(ratatui::style::Modifier::CROSSED_OUT), "delivery");
    assert_eq!(marked(ratatui::style::Modifier::UNDERLINED), "handover");
}
