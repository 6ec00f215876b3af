//! Any terminal size, any bytes in a log and any keys make frames without a panic.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use tonfall_runs::follow::News;
use tonfall_runs::printable::is_unsafe;
use tonfall_runs::{EventReader, Status};

use super::stories::{app, story};
use crate::app::App;
use crate::theme::{Depth, Look, Symbols};
use crate::update::{Message, update};
use crate::watch::draw;

/// A number as it may occur in a damaged or foreign log.
fn number() -> impl Strategy<Value = String> {
    const ODD: &[&str] =
        &["null", "-1", "0", "1e308", "-1e308", "1e-320", "18446744073709551615", "1e400", "\"NaN\"", "\"inf\"", "[]"];
    prop_oneof![
        any::<f64>().prop_map(|value| if value.is_finite() { format!("{value:e}") } else { "null".into() }),
        any::<u64>().prop_map(|value| value.to_string()),
        (0..300u64).prop_map(|value| value.to_string()),
        proptest::sample::select(ODD).prop_map(str::to_owned),
    ]
}

/// A line of a log with other numbers.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<String> = Status::ALL
        .into_iter()
        .flat_map(|status| story(status).events)
        .filter_map(|event| serde_json::to_string(&event).ok())
        .step_by(13)
        .collect();
    (proptest::sample::select(lines), vec((any::<prop::sample::Index>(), number()), 0..4), any::<bool>()).prop_map(
        |(line, changes, torn)| {
            let mut parts: Vec<String> = line.split_inclusive([':', ',', '}']).map(str::to_owned).collect();
            for (index, value) in changes {
                let part = index.get(&parts).clone();
                let at = index.index(parts.len());
                if part.trim_end_matches([',', '}']).parse::<f64>().is_ok() {
                    parts[at] = format!("{value}{}", &part[part.trim_end_matches([',', '}']).len()..]);
                }
            }
            let mut bytes = parts.concat().into_bytes();
            if torn {
                bytes.truncate(bytes.len() / 2);
            }
            bytes.push(b'\n');
            bytes
        },
    )
}

fn log() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![4 => line(), 1 => vec(any::<u8>(), 0..60)], 0..40).prop_map(|lines| lines.concat())
}

fn message() -> impl Strategy<Value = Message> {
    let keys = [
        '\t', '\n', 'q', '?', 's', 'y', 'x', 'o', 'r', '+', '-', 'h', 'l', '0', 'f', 'p', 'b', 'c', ' ', '/', 'X', 'j',
        'k', ']', '[', '4', '5', 'd',
    ];
    let key = |char| {
        let code = match char {
            '\t' => KeyCode::Tab,
            '\n' => KeyCode::Enter,
            char => KeyCode::Char(char),
        };
        Message::Key(KeyEvent::new(code, KeyModifiers::NONE))
    };
    let kinds = [MouseEventKind::Down(MouseButton::Left), MouseEventKind::ScrollUp, MouseEventKind::ScrollDown];
    let mouse =
        (proptest::sample::select(kinds.to_vec()), any::<u16>(), any::<u16>()).prop_map(|(kind, column, row)| {
            Message::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })
        });
    let code =
        prop_oneof![Just(KeyCode::Esc), Just(KeyCode::Backspace), Just(KeyCode::PageDown), Just(KeyCode::BackTab)];
    prop_oneof![
        6 => proptest::sample::select(keys.to_vec()).prop_map(key),
        1 => any::<char>().prop_map(key),
        1 => code.prop_map(|code| Message::Key(KeyEvent::new(code, KeyModifiers::NONE))),
        2 => mouse,
        1 => any::<f64>().prop_map(Message::Tick),
        1 => (0u16..400, 0u16..200).prop_map(|(width, height)| Message::Resize(width, height)),
    ]
}

fn look() -> impl Strategy<Value = Look> {
    let depths = [Depth::Mono, Depth::Ansi16, Depth::Indexed, Depth::Rgb];
    let symbols = [Symbols::Braille, Symbols::Block, Symbols::Ascii];
    (proptest::sample::select(depths.to_vec()), any::<bool>(), proptest::sample::select(symbols.to_vec()))
        .prop_map(|(depth, light, symbols)| Look { depth, light, symbols })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_panics(
        width in 1u16..=300, height in 1u16..=100, look in look(), bytes in log(), messages in vec(message(), 0..12),
        status in proptest::sample::select(&Status::ALL[..]),
    ) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), bytes).expect("written");
        let mut events = Vec::new();
        EventReader::new(file.path()).scan(|event| events.push(event)).expect("any bytes are a log");
        let mut app = app(look, status);
        update(&mut app, Message::Resize(width, height));
        update(&mut app, Message::News(0, News::Events(events)));
        let draws = |app: &App| {
            let frame = draw(app, width, height);
            // Text from a log must not reach the terminal as an escape sequence.
            assert!(frame.content.iter().all(|cell| !cell.symbol().contains(is_unsafe)));
        };
        draws(&app);
        for message in messages {
            update(&mut app, message);
            draws(&app);
        }
    }
}
