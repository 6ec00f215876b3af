//! Frames as pixels.
//!
//! Responsible for: drawing the cells of a frame. Lines and dots are drawn here; letters are from the Hack font.
//! Must not depend on: runs, files.

use std::collections::HashMap;

use ab_glyph::{Font, FontRef, InvalidFont, PxScale, ScaleFont, point};
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

type Rgb = [u8; 3];

/// Width and height of a cell in pixels.
const CELL: (u32, u32) = (9, 18);
const FOREGROUND: Rgb = [212, 212, 212];
const BACKGROUND: Rgb = [24, 26, 31];
/// Position of the baseline, in pixels from the top of a cell.
const BASELINE: f32 = 13.5;
/// Number of shades between foreground and background. It is small, so that all colours fit in a palette.
const SHADES: f32 = 6.0;
/// Half the side of a braille dot.
const DOT: f32 = 1.1;
/// Fraction of the foreground colour in dim text.
const DIM: f32 = 0.6;

/// Draws frames of one size with one palette.
pub(crate) struct Canvas {
    size: (u16, u16),
    font: FontRef<'static>,
    scale: PxScale,
    colours: HashMap<Rgb, u8>,
    palette: Vec<u8>,
}

/// The covered fraction of each pixel of a cell.
type Coverage = [[f32; CELL.0 as usize]; CELL.1 as usize];

impl Canvas {
    pub(crate) fn new(size: (u16, u16)) -> Result<Self, InvalidFont> {
        let font = FontRef::try_from_slice(epaint_default_fonts::HACK_REGULAR)?;
        let any = PxScale::from(100.0);
        let advance = font.as_scaled(any).h_advance(font.glyph_id('m'));
        let scale = PxScale::from(100.0 * CELL.0 as f32 / advance);
        Ok(Self { size, font, scale, colours: HashMap::new(), palette: Vec::new() })
    }

    pub(crate) fn pixels(&self) -> (u32, u32) {
        (u32::from(self.size.0) * CELL.0, u32::from(self.size.1) * CELL.1)
    }

    /// Red, green and blue of each colour.
    pub(crate) fn palette(&self) -> Vec<u8> {
        self.palette.clone()
    }

    /// The pixels of a frame, as indices into the palette.
    pub(crate) fn draw(&mut self, frame: &Buffer) -> Vec<u8> {
        let (width, height) = self.pixels();
        let mut picture = vec![0; (width * height) as usize];
        for (index, cell) in frame.content.iter().enumerate() {
            let (column, row) = (index as u32 % u32::from(self.size.0), index as u32 / u32::from(self.size.0));
            let (foreground, background) = colours(cell);
            let coverage = self.coverage(cell);
            for (y, line) in coverage.iter().enumerate() {
                for (x, share) in line.iter().enumerate() {
                    let share = (share.clamp(0.0, 1.0) * SHADES).round() / SHADES;
                    let at = (row * CELL.1 + y as u32) * width + column * CELL.0 + x as u32;
                    picture[at as usize] = self.number(mixed(foreground, background, share));
                }
            }
        }
        picture
    }

    fn number(&mut self, colour: Rgb) -> u8 {
        let next = self.colours.len();
        *self.colours.entry(colour).or_insert_with(|| {
            self.palette.extend(colour);
            u8::try_from(next).expect("a frame has few colours")
        })
    }

    fn coverage(&self, cell: &Cell) -> Coverage {
        let mut covered = [[0.0; CELL.0 as usize]; CELL.1 as usize];
        for char in cell.symbol().chars() {
            match char {
                '\u{2800}'..='\u{28ff}' => braille(char, &mut covered),
                '─' => rectangle(&mut covered, (0.0, 8.5), (9.0, 9.5)),
                '│' => rectangle(&mut covered, (4.0, 0.0), (5.0, 18.0)),
                '┌' | '┐' | '└' | '┘' => {
                    let (left, top) = (matches!(char, '┐' | '┘'), matches!(char, '└' | '┘'));
                    let across = if left { (0.0, 5.0) } else { (4.0, 9.0) };
                    let down = if top { (0.0, 9.5) } else { (8.5, 18.0) };
                    rectangle(&mut covered, (across.0, 8.5), (across.1, 9.5));
                    rectangle(&mut covered, (4.0, down.0), (5.0, down.1));
                }
                '▇' => rectangle(&mut covered, (0.0, 4.0), (9.0, 15.0)),
                '╌' => rectangle(&mut covered, (1.0, 8.5), (8.0, 9.5)),
                // The font has no check mark.
                '✓' => self.letter('√', &mut covered),
                _ => self.letter(char, &mut covered),
            }
        }
        for (modifier, y) in [(Modifier::UNDERLINED, 15.0), (Modifier::CROSSED_OUT, 9.0)] {
            if cell.modifier.contains(modifier) {
                rectangle(&mut covered, (0.0, y), (9.0, y + 1.0));
            }
        }
        covered
    }

    fn letter(&self, char: char, covered: &mut Coverage) {
        let glyph = self.font.glyph_id(char).with_scale_and_position(self.scale, point(0.0, BASELINE));
        let Some(outline) = self.font.outline_glyph(glyph) else { return };
        let corner = outline.px_bounds().min;
        outline.draw(|x, y, share| {
            let (x, y) = (x as i32 + corner.x as i32, y as i32 + corner.y as i32);
            if let Some(pixel) = covered.get_mut(y as usize).and_then(|line| line.get_mut(x as usize)) {
                *pixel = f32::max(*pixel, share);
            }
        });
    }
}

fn braille(char: char, covered: &mut Coverage) {
    let bits = u32::from(char) - 0x2800;
    // The dots in the order of their bits: left column, right column, fourth row.
    let places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)];
    for (bit, (x, y)) in places.into_iter().enumerate() {
        if bits >> bit & 1 == 1 {
            let middle = (2.25 + 4.5 * x as f32, 2.25 + 4.5 * y as f32);
            rectangle(covered, (middle.0 - DOT, middle.1 - DOT), (middle.0 + DOT, middle.1 + DOT));
        }
    }
}

/// Covers a rectangle between two corners. Pixels at its edge are covered in part.
fn rectangle(covered: &mut Coverage, from: (f32, f32), to: (f32, f32)) {
    let overlap = |at: usize, from: f32, to: f32| (to.min(at as f32 + 1.0) - from.max(at as f32)).max(0.0);
    for (y, line) in covered.iter_mut().enumerate() {
        for (x, pixel) in line.iter_mut().enumerate() {
            *pixel = f32::max(*pixel, overlap(x, from.0, to.0) * overlap(y, from.1, to.1));
        }
    }
}

fn colours(cell: &Cell) -> (Rgb, Rgb) {
    let mut foreground = match cell.fg {
        Color::Rgb(red, green, blue) => [red, green, blue],
        _ if cell.modifier.contains(Modifier::BOLD) => [255; 3],
        _ => FOREGROUND,
    };
    if cell.modifier.contains(Modifier::DIM) {
        foreground = mixed(foreground, BACKGROUND, DIM);
    }
    match cell.modifier.contains(Modifier::REVERSED) {
        true => (BACKGROUND, foreground),
        false => (foreground, BACKGROUND),
    }
}

fn mixed(foreground: Rgb, background: Rgb, share: f32) -> Rgb {
    let mix = |index: usize| {
        let (foreground, background) = (f32::from(foreground[index]), f32::from(background[index]));
        (background + (foreground - background) * share).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}
