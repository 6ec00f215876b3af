//! Colours and characters.
//!
//! Responsible for: the style of each role on this terminal. A terminal has true colour, 256 colours, 16 colours or
//! none; a dark or a light background; braille, blocks or ASCII. The colours are from Okabe and Ito (2008); people with
//! common kinds of colour blindness can distinguish them. No information is in colour alone.
//! Must not depend on: panels.

use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;

/// Number of colours of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    Mono,
    Ansi16,
    Indexed,
    Rgb,
}

/// The characters that draw curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbols {
    /// 2 × 4 dots per character.
    Braille,
    /// 1 × 2 half blocks, which every Unicode font has.
    Block,
    Ascii,
}

/// The role of an element, which determines its style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    Faint,
    Strong,
    /// The curve of a run, by index.
    Curve(usize),
    Eval,
    Good,
    Bad,
    Border,
    Focus,
    Selected,
    /// An expected term in a generation.
    Hit,
    /// A forbidden term.
    Violation,
}

/// The look of a dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub depth: Depth,
    pub light: bool,
    pub symbols: Symbols,
}

/// The environment variables that describe the terminal.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub no_color: Option<String>,
    pub term: Option<String>,
    pub colorterm: Option<String>,
    /// `foreground;background` as numbers of the 16 colours, set by several terminals.
    pub colorfgbg: Option<String>,
    /// The first of `LC_ALL`, `LC_CTYPE` and `LANG` that is not empty.
    pub locale: Option<String>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            no_color: text("NO_COLOR"),
            term: text("TERM"),
            colorterm: text("COLORTERM"),
            colorfgbg: text("COLORFGBG"),
            locale: text("LC_ALL").or_else(|| text("LC_CTYPE")).or_else(|| text("LANG")),
        }
    }
}

impl Look {
    /// The look that fits a terminal, by its environment variables.
    pub fn detect(environment: &Environment) -> Self {
        let Environment { no_color, term, colorterm, colorfgbg, locale } = environment;
        let term = term.as_deref().unwrap_or_default();
        let depth = match colorterm.as_deref() {
            _ if no_color.is_some() || term == "dumb" => Depth::Mono,
            Some("truecolor" | "24bit") => Depth::Rgb,
            _ if term.contains("direct") => Depth::Rgb,
            _ if term.contains("256color") => Depth::Indexed,
            _ => Depth::Ansi16,
        };
        let background = colorfgbg.as_deref().and_then(|text| text.rsplit(';').next()?.parse::<u8>().ok());
        let utf8 = |locale: &String| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        };
        let symbols = match locale {
            // Without a locale, UTF-8 is assumed.
            Some(locale) if !utf8(locale) => Symbols::Ascii,
            _ if term == "dumb" => Symbols::Ascii,
            // The Linux console has block characters but no braille.
            _ if term == "linux" => Symbols::Block,
            _ => Symbols::Braille,
        };
        Self { depth, light: matches!(background, Some(7 | 15)), symbols }
    }

    pub(crate) fn style(self, role: Role) -> Style {
        let plain = Style::new();
        if self.depth == Depth::Mono {
            return match role {
                Role::Faint | Role::Border => plain.add_modifier(Modifier::DIM),
                Role::Strong | Role::Curve(0) | Role::Eval | Role::Good | Role::Focus => {
                    plain.add_modifier(Modifier::BOLD)
                }
                Role::Bad | Role::Selected => plain.add_modifier(Modifier::REVERSED),
                Role::Hit => plain.add_modifier(Modifier::UNDERLINED),
                Role::Violation => plain.add_modifier(Modifier::CROSSED_OUT | Modifier::BOLD),
                Role::Plain | Role::Curve(_) => plain,
            };
        }
        match role {
            Role::Plain => plain,
            // In some palettes, bright black equals the background.
            Role::Faint | Role::Border if self.depth == Depth::Ansi16 => plain.add_modifier(Modifier::DIM),
            Role::Faint | Role::Border => plain.fg(self.grey()),
            Role::Strong => plain.add_modifier(Modifier::BOLD),
            Role::Curve(number) => plain.fg(self.paint(self.curves()[number % 6])),
            Role::Eval => plain.fg(self.paint(if self.light { RED } else { YELLOW })).add_modifier(Modifier::BOLD),
            Role::Good => plain.fg(self.paint(if self.light { BLUE } else { SKY })).add_modifier(Modifier::BOLD),
            Role::Bad => plain.fg(self.paint(if self.light { RED } else { ORANGE })).add_modifier(Modifier::BOLD),
            Role::Focus => plain.fg(self.paint(if self.light { BLUE } else { SKY })).add_modifier(Modifier::BOLD),
            Role::Selected => plain.add_modifier(Modifier::REVERSED),
            Role::Hit => plain.fg(self.paint(if self.light { BLUE } else { SKY })).add_modifier(Modifier::UNDERLINED),
            Role::Violation => {
                plain.fg(self.paint(if self.light { RED } else { ORANGE })).add_modifier(Modifier::CROSSED_OUT)
            }
        }
    }

    fn curves(self) -> [Paint; 6] {
        match self.light {
            true => [BLUE, RED, GREEN, PURPLE, ORANGE, SKY],
            false => [SKY, ORANGE, GREEN, PURPLE, YELLOW, RED],
        }
    }

    fn grey(self) -> Color {
        match (self.depth, self.light) {
            (Depth::Rgb, true) => Color::Rgb(120, 120, 120),
            (Depth::Rgb, false) => Color::Rgb(130, 130, 130),
            _ => Color::Indexed(244),
        }
    }

    fn paint(self, paint: Paint) -> Color {
        match self.depth {
            Depth::Rgb => Color::Rgb(paint.rgb[0], paint.rgb[1], paint.rgb[2]),
            Depth::Indexed => Color::Indexed(paint.index),
            Depth::Ansi16 | Depth::Mono => paint.ansi,
        }
    }

    /// The frame of a panel.
    pub(crate) fn border(self) -> border::Set<'static> {
        match self.symbols {
            Symbols::Ascii => ASCII_BORDER,
            _ => border::PLAIN,
        }
    }

    /// `symbol`, or `ascii` on a terminal with ASCII only.
    pub(crate) fn symbol<'a>(self, symbol: &'a str, ascii: &'a str) -> &'a str {
        if self.symbols == Symbols::Ascii { ascii } else { symbol }
    }
}

/// The colour of a role at each depth.
#[derive(Clone, Copy)]
struct Paint {
    rgb: [u8; 3],
    index: u8,
    ansi: Color,
}

const SKY: Paint = Paint { rgb: [86, 180, 233], index: 74, ansi: Color::Cyan };
const ORANGE: Paint = Paint { rgb: [230, 159, 0], index: 214, ansi: Color::Yellow };
const GREEN: Paint = Paint { rgb: [0, 158, 115], index: 36, ansi: Color::Green };
const YELLOW: Paint = Paint { rgb: [240, 228, 66], index: 227, ansi: Color::LightYellow };
const BLUE: Paint = Paint { rgb: [0, 114, 178], index: 25, ansi: Color::Blue };
const RED: Paint = Paint { rgb: [213, 94, 0], index: 166, ansi: Color::Red };
const PURPLE: Paint = Paint { rgb: [204, 121, 167], index: 175, ansi: Color::Magenta };

/// The colours of curves on white paper, for pictures.
pub(crate) const PRINT: [[u8; 3]; 6] = [BLUE.rgb, RED.rgb, GREEN.rgb, PURPLE.rgb, ORANGE.rgb, SKY.rgb];

const ASCII_BORDER: border::Set<'static> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(pairs: &[(&str, &str)]) -> Look {
        let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Look::detect(&Environment {
            no_color: get("NO_COLOR"),
            term: get("TERM"),
            colorterm: get("COLORTERM"),
            colorfgbg: get("COLORFGBG"),
            locale: get("LANG"),
        })
    }

    #[test]
    fn the_environment_determines_the_look() {
        let look = |depth, light, symbols| Look { depth, light, symbols };
        let table = [
            (vec![], look(Depth::Ansi16, false, Symbols::Braille)),
            (vec![("TERM", "xterm-256color"), ("LANG", "C.UTF-8")], look(Depth::Indexed, false, Symbols::Braille)),
            (vec![("COLORTERM", "truecolor"), ("COLORFGBG", "0;15")], look(Depth::Rgb, true, Symbols::Braille)),
            (vec![("COLORTERM", "truecolor"), ("NO_COLOR", "1")], look(Depth::Mono, false, Symbols::Braille)),
            (vec![("TERM", "linux"), ("COLORFGBG", "15;0")], look(Depth::Ansi16, false, Symbols::Block)),
            (vec![("TERM", "xterm"), ("LANG", "POSIX")], look(Depth::Ansi16, false, Symbols::Ascii)),
            (vec![("TERM", "dumb")], look(Depth::Mono, false, Symbols::Ascii)),
        ];
        for (pairs, expected) in table {
            assert_eq!(detected(&pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn no_colour_of_the_sixteen_is_a_background() {
        for light in [false, true] {
            let look = Look { depth: Depth::Ansi16, light, symbols: Symbols::Braille };
            let roles = [Role::Faint, Role::Border, Role::Eval, Role::Good, Role::Bad, Role::Focus, Role::Hit];
            for role in roles.into_iter().chain((0..6).map(Role::Curve)) {
                let backgrounds = [Color::Black, Color::DarkGray, Color::Gray, Color::White];
                assert!(look.style(role).fg.is_none_or(|colour| !backgrounds.contains(&colour)), "{role:?}");
            }
        }
    }

    #[test]
    fn mono_styles_have_no_colours() {
        let look = Look { depth: Depth::Mono, light: false, symbols: Symbols::Braille };
        let roles = [Role::Faint, Role::Curve(3), Role::Eval, Role::Good, Role::Bad, Role::Hit, Role::Violation];
        assert!(roles.map(|role| look.style(role)).iter().all(|style| style.fg.is_none() && style.bg.is_none()));
    }
}
