//! Key bindings.
//!
//! Responsible for: the table of bindings, from which dispatch, help page and footer are generated.
//! Must not depend on: how an action is performed.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::layout::Panel;

/// An action of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Quit,
    Help,
    Back,
    NextPanel,
    PreviousPanel,
    Panel(Panel),
    Maximise,
    Up,
    Down,
    PageUp,
    PageDown,
    NextRun,
    PreviousRun,
    Mark,
    Compare,
    Filter,
    Smooth,
    LogScale,
    Axis,
    Raw,
    Outliers,
    ZoomIn,
    ZoomOut,
    Left,
    Right,
    Whole,
    Follow,
    Freeze,
    Background,
    Stop,
}

/// A pressed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Ctrl(char),
    Code(KeyCode),
}

/// Keys and their action.
pub(crate) struct Binding {
    pub(crate) keys: &'static [Key],
    /// The displayed names of the keys.
    pub(crate) shown: &'static str,
    pub(crate) action: Action,
    pub(crate) help: &'static str,
    /// A word for the footer. Earlier bindings in the table are more important.
    pub(crate) foot: Option<&'static str>,
}

macro_rules! bindings {
    ($($shown:literal [$($key:expr),+] $action:expr, $help:literal $(, foot $foot:literal)?;)*) => {
        &[$(Binding {
            keys: &[$($key),+],
            shown: $shown,
            action: $action,
            help: $help,
            foot: bindings!(@foot $($foot)?),
        }),*]
    };
    (@foot $foot:literal) => { Some($foot) };
    (@foot) => { None };
}

use Key::{Char, Code, Ctrl};

/// All bindings, in the order of the help page.
pub(crate) const BINDINGS: &[Binding] = bindings![
    "q" [Char('q'), Ctrl('c')] Action::Quit, "leave; the run goes on", foot "leave";
    "?" [Char('?')] Action::Help, "this page", foot "help";
    "Tab" [Code(KeyCode::Tab)] Action::NextPanel, "next panel", foot "focus";
    "Shift-Tab" [Code(KeyCode::BackTab)] Action::PreviousPanel, "panel before";
    "Enter" [Code(KeyCode::Enter)] Action::Maximise, "the panel alone, and back", foot "large";
    "s" [Char('s')] Action::Smooth, "smoothing: 0.9, 0.95, 0.99, none, 0.6", foot "smooth";
    "y" [Char('y')] Action::LogScale, "logarithmic vertical axis", foot "log";
    "x" [Char('x')] Action::Axis, "horizontal axis: step, tokens, time", foot "axis";
    "/" [Char('/')] Action::Filter, "filter the runs by name and state", foot "filter";
    "Esc" [Code(KeyCode::Esc)] Action::Back, "back: from a page, a large panel, a zoom, a filter";
    "1" [Char('1')] Action::Panel(Panel::Loss), "loss";
    "2" [Char('2')] Action::Panel(Panel::Now), "now";
    "3" [Char('3')] Action::Panel(Panel::Events), "events";
    "4" [Char('4')] Action::Panel(Panel::Runs), "runs";
    "5" [Char('5')] Action::Panel(Panel::Samples), "samples";
    "6" [Char('6')] Action::Panel(Panel::LearningRate), "learning rate";
    "7" [Char('7')] Action::Panel(Panel::GradNorm), "gradient norm";
    "8" [Char('8')] Action::Panel(Panel::Throughput), "throughput and MFU";
    "9" [Char('9')] Action::Panel(Panel::Memory), "memory";
    "d" [Char('d')] Action::Panel(Panel::Data), "data, lengths and the gate's verdict";
    "j Down" [Char('j'), Code(KeyCode::Down)] Action::Down, "down: next line, sample or run";
    "k Up" [Char('k'), Code(KeyCode::Up)] Action::Up, "up";
    "PgDn" [Code(KeyCode::PageDown)] Action::PageDown, "ten down";
    "PgUp" [Code(KeyCode::PageUp)] Action::PageUp, "ten up";
    "]" [Char(']')] Action::NextRun, "next run of the table";
    "[" [Char('[')] Action::PreviousRun, "run before";
    "Space" [Char(' ')] Action::Mark, "mark the run for comparing";
    "c" [Char('c')] Action::Compare, "overlay the curves of marked runs";
    "r" [Char('r')] Action::Raw, "raw values on and off";
    "o" [Char('o')] Action::Outliers, "cut the highest and lowest hundredth off the axis";
    "+" [Char('+'), Char('=')] Action::ZoomIn, "zoom in";
    "-" [Char('-')] Action::ZoomOut, "zoom out";
    "h Left" [Char('h'), Code(KeyCode::Left)] Action::Left, "zoomed: to the left";
    "l Right" [Char('l'), Code(KeyCode::Right)] Action::Right, "zoomed: to the right";
    "0" [Char('0')] Action::Whole, "the whole run";
    "f" [Char('f')] Action::Follow, "zoomed: follow the newest step";
    "p" [Char('p')] Action::Freeze, "hold the screen still, and go on";
    "b" [Char('b')] Action::Background, "colours for a light or a dark background";
    "X" [Char('X')] Action::Stop, "ask the run to save and stop (asks back)";
];

/// The action of a key outside text fields.
pub(crate) fn action(event: KeyEvent) -> Option<Action> {
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    let matches = |key: &Key| match *key {
        Char(char) => event.code == KeyCode::Char(char) && !control,
        Ctrl(char) => event.code == KeyCode::Char(char) && control,
        Code(code) => event.code == code,
    };
    BINDINGS.iter().find(|binding| binding.keys.iter().any(matches)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_meanings() {
        let keys: Vec<Key> = BINDINGS.iter().flat_map(|binding| binding.keys).copied().collect();
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key:?} is bound twice");
        }
    }

    #[test]
    fn every_panel_has_a_key() {
        for panel in Panel::ALL {
            assert!(BINDINGS.iter().any(|binding| binding.action == Action::Panel(panel)), "{panel:?}");
        }
    }

    #[test]
    fn the_document_lists_all_bindings() {
        let document = include_str!("../../docs/dashboard.md");
        let table: String =
            BINDINGS.iter().map(|binding| format!("| `{}` | {} |\n", binding.shown, binding.help)).collect();
        assert!(document.contains(&table), "docs/dashboard.md needs this table:\n{table}");
    }

    #[test]
    fn control_c_leaves_and_c_compares() {
        let press = |code, modifiers| action(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Action::Quit));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), Some(Action::Compare));
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::CONTROL), None);
        assert_eq!(press(KeyCode::Char('X'), KeyModifiers::SHIFT), Some(Action::Stop));
        assert_eq!(press(KeyCode::F(5), KeyModifiers::NONE), None);
    }
}
