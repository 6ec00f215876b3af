//! The terminal.
//!
//! Responsible for: setting up the terminal and restoring it, also after a panic.
//! Must not depend on: drawing.

use std::io::{self, Stdout, stdout};
use std::panic;
use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

type Hook = dyn Fn(&panic::PanicHookInfo<'_>) + Send + Sync;

/// The terminal in raw mode. It is restored on drop.
pub(crate) struct Screen {
    pub(crate) terminal: Terminal<CrosstermBackend<Stdout>>,
    hook: Arc<Hook>,
}

impl Screen {
    /// Enables raw mode, the alternate screen and mouse events.
    pub(crate) fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let taken = execute!(stdout(), EnterAlternateScreen, EnableMouseCapture)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        let terminal = match taken {
            Ok(terminal) => terminal,
            Err(error) => {
                give_back();
                return Err(error);
            }
        };
        // A panic message would be lost on the alternate screen, so the terminal is restored before the message is
        // printed.
        let hook: Arc<Hook> = panic::take_hook().into();
        let before = Arc::clone(&hook);
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        Ok(Self { terminal, hook })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
        // The hook can't be changed during unwinding. The process ends in this case anyway.
        if !std::thread::panicking() {
            let before = Arc::clone(&self.hook);
            panic::set_hook(Box::new(move |info| before(info)));
        }
    }
}

fn give_back() {
    // An error here can't be reported anywhere.
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
}
