//! `demonstration RUN FILE.png`: replays the event log of a run on the dashboard, as an animated PNG.
//! `docs/demonstration` uses it for the image in the README.
#![expect(clippy::disallowed_methods, reason = "a picture and a copy of a log can be made again")]

mod cells;

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use png::{BitDepth, ColorType, Compression, Encoder};
use tonfall_runs::{EventKind, EventReader, RunDir, RunLock};
use tonfall_tui::{Depth, Look, Still, Symbols, Watch};

use crate::cells::Canvas;

const SIZE: (u16, u16) = (124, 46);
/// Number of frames of the live run. One frame of the finished run follows.
const FRAMES: usize = 14;
/// Seconds per frame, and of the last frame.
const SECONDS: u16 = 1;
const LAST_SECONDS: u16 = 6;
const LOOK: Look = Look { depth: Depth::Rgb, light: false, symbols: Symbols::Braille };

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [run, out] = &arguments[..] else { return Err("usage: demonstration RUN FILE.png".into()) };
    let run = RunDir::open(run)?;
    let log = fs::read_to_string(run.events())?;
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let steps = EventReader::read_all(&run.events())?;
    let steps = steps.iter().filter(|event| matches!(event.kind, EventKind::Step { .. })).count();

    // A copy of the run. Its log grows and its lock is held, as in a live run.
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join(run.id());
    fs::create_dir(&copy)?;
    fs::copy(run.path().join("run.json"), copy.join("run.json"))?;
    let copy = RunDir::open(&copy)?;
    let mut canvas = Canvas::new(SIZE)?;
    let mut pictures = Vec::with_capacity(FRAMES + 1);
    let lock = RunLock::acquire(copy.path())?;
    for frame in 1..=FRAMES {
        let end = behind_step(&lines, (steps * frame).div_ceil(FRAMES + 1));
        fs::write(copy.events(), lines[..end].concat())?;
        pictures.push(canvas.draw(&frame_of(&copy)));
    }
    if !run.is_held()? {
        drop(lock);
    }
    fs::write(copy.events(), &log)?;
    pictures.push(canvas.draw(&frame_of(&copy)));
    Ok(write(out, &canvas, &pictures)?)
}

/// Number of lines up to the end of step `number`.
fn behind_step(lines: &[&str], number: usize) -> usize {
    let is_step = |line: &&str| line.contains(r#""kind":"step""#);
    lines.iter().enumerate().filter(|(_, line)| is_step(line)).nth(number - 1).map_or(lines.len(), |(at, _)| at + 1)
}

fn frame_of(run: &RunDir) -> ratatui::buffer::Buffer {
    let what = Watch { runs: vec![run.path().to_owned()], directory: None, look: LOOK };
    Still::read(&what).frame(SIZE.0, SIZE.1)
}

/// Writes an animated PNG. Every frame but the first contains only the rows that changed. A viewer without animation
/// shows the last frame.
fn write(path: &Path, canvas: &Canvas, pictures: &[Vec<u8>]) -> Result<(), png::EncodingError> {
    let (width, height) = canvas.pixels();
    let mut encoder = Encoder::new(File::create(path)?, width, height);
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(canvas.palette());
    encoder.set_compression(Compression::High);
    encoder.set_animated(pictures.len() as u32, 0)?;
    encoder.set_sep_def_img(true)?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pictures[pictures.len() - 1])?;
    let row = width as usize;
    let mut before: Option<&Vec<u8>> = None;
    for (number, picture) in pictures.iter().enumerate() {
        let changed = |at: &usize| before.is_none_or(|before| before[at * row..][..row] != picture[at * row..][..row]);
        let first = (0..height as usize).find(changed).unwrap_or(0);
        let last = (0..height as usize).rfind(changed).unwrap_or(first);
        writer.reset_frame_position()?;
        writer.set_frame_dimension(width, (last - first + 1) as u32)?;
        writer.set_frame_position(0, first as u32)?;
        writer.set_frame_delay(if number + 1 == pictures.len() { LAST_SECONDS } else { SECONDS }, 1)?;
        writer.write_image_data(&picture[first * row..(last + 1) * row])?;
        before = Some(picture);
    }
    writer.finish()
}
