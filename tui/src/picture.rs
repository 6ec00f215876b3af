//! Loss curves as image files.
//!
//! Responsible for: drawing the curves of runs as SVG or PNG with an embedded font, so that every machine draws the
//! same image.
//! Must not depend on: installed fonts, terminals.

use std::sync::OnceLock;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use thiserror::Error;
use tonfall_runs::curve::{pieces, spans};
use tonfall_runs::events::EventReadError;
use tonfall_runs::history::{Metric, RunData};
use tonfall_runs::numbers::{measure, short};
use tonfall_runs::series::Axis;
use tonfall_runs::{EventReader, RunDir};

use crate::plot::Plot;
use crate::theme::PRINT;

/// The family name of the font, which the SVG uses too.
const FONT: &str = "sans-serif";
const SIZE: (u32, u32) = (1000, 560);
/// Maximum points of a curve. If there are more, each column keeps its minimum and maximum.
const COLUMNS: usize = 1500;
/// Fraction of the height that stays empty above and below.
const MARGIN: f64 = 0.05;

/// Why no image could be drawn.
#[derive(Debug, Error)]
pub enum PictureError {
    #[error(transparent)]
    Log(#[from] EventReadError),
    #[error("no run has a step or an evaluation yet")]
    Empty,
    #[error("the picture can't be drawn: {0}")]
    Draw(String),
}

/// The curves of runs as an SVG document.
///
/// # Errors
/// If a log can't be read or has no values to draw.
pub fn svg(runs: &[RunDir]) -> Result<String, PictureError> {
    let curves = read(runs)?;
    let mut text = String::new();
    draw(SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), &curves)?;
    Ok(text)
}

/// The curves of runs as a PNG file.
///
/// # Errors
/// If a log can't be read or has no values to draw.
pub fn png(runs: &[RunDir]) -> Result<Vec<u8>, PictureError> {
    let curves = read(runs)?;
    let mut pixels = vec![255; SIZE.0 as usize * SIZE.1 as usize * 3];
    draw(BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area(), &curves)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    written.map_err(|error| PictureError::Draw(error.to_string()))?;
    Ok(bytes)
}

/// The curves of a run, split at gaps.
struct Curves {
    id: String,
    raw: Vec<Vec<(f64, f64)>>,
    smooth: Vec<Vec<(f64, f64)>>,
    evals: Vec<(f64, f64)>,
}

fn read(runs: &[RunDir]) -> Result<Vec<Curves>, PictureError> {
    let mut all = Vec::with_capacity(runs.len());
    for run in runs {
        let mut data = RunData::default();
        EventReader::new(run.events()).scan(|event| data.observe(event))?;
        all.push(curves(run.id(), &data));
    }
    match all.iter().all(|curves| curves.raw.is_empty() && curves.evals.is_empty()) {
        true => Err(PictureError::Empty),
        false => Ok(all),
    }
}

fn curves(id: String, data: &RunData) -> Curves {
    let loss = Metric::Loss.index();
    let smooth = data.steps.smoothed(loss, Plot::default().past());
    let xs = data.steps.buckets().iter().map(|bucket| bucket.x(Axis::Step));
    let smooth = xs.zip(smooth).map(|(x, value)| (x, f64::from(value), f64::from(value)));
    let evals = spans(&data.evals, 0).filter(|(_, low, _)| low.is_finite()).map(|(x, low, _)| (x, low)).collect();
    Curves { id, raw: pieces(spans(&data.steps, loss), COLUMNS), smooth: pieces(smooth, COLUMNS), evals }
}

fn draw<B: DrawingBackend>(area: DrawingArea<B, plotters::coord::Shift>, runs: &[Curves]) -> Result<(), PictureError> {
    font()?;
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| PictureError::Draw(error.to_string());
    area.fill(&WHITE).map_err(failed)?;
    let points = || runs.iter().flat_map(|run| run.raw.iter().chain(&run.smooth).flatten().chain(&run.evals));
    let last = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let (low, high) =
        points().map(|(_, y)| *y).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    let margin = ((high - low) * MARGIN).max(high.abs() * 1e-3).max(f64::MIN_POSITIVE);
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last, low - margin..high + margin)
        .map_err(failed)?;
    let axis = TextStyle::from((FONT, 15).into_font()).color(&RGBColor(60, 60, 60));
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss")
        .label_style(axis.clone())
        .axis_desc_style(axis.clone())
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| measure(*y))
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(228, 228, 228))
        .axis_style(RGBColor(150, 150, 150))
        .draw()
        .map_err(failed)?;
    for (number, run) in runs.iter().enumerate() {
        let [red, green, blue] = PRINT[number % PRINT.len()];
        let colour = RGBColor(red, green, blue);
        for piece in &run.raw {
            chart
                .draw_series(LineSeries::new(piece.iter().copied(), colour.mix(0.3).stroke_width(1)))
                .map_err(failed)?;
        }
        let mut named = false;
        for piece in &run.smooth {
            let drawn =
                chart.draw_series(LineSeries::new(piece.iter().copied(), colour.stroke_width(2))).map_err(failed)?;
            if !std::mem::replace(&mut named, true) {
                let line = move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], colour.stroke_width(2));
                drawn.label(format!("{}, smoothed", run.id)).legend(line);
            }
        }
        let diamonds = run.evals.iter().map(|point| {
            EmptyElement::at(*point) + Polygon::new(vec![(0, -6), (6, 0), (0, 6), (-6, 0)], colour.filled())
        });
        let drawn = chart.draw_series(diamonds).map_err(failed)?;
        if !run.evals.is_empty() {
            let mark = move |(x, y)| {
                let corners = vec![(x + 11, y - 6), (x + 17, y), (x + 11, y + 6), (x + 5, y)];
                Polygon::new(corners, colour.filled())
            };
            drawn.label(format!("{}, held-out data", run.id)).legend(mark);
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(axis)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()
        .map_err(failed)?;
    area.present().map_err(failed)
}

/// Registers the font, once.
fn font() -> Result<(), PictureError> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let register = || register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok();
    match KNOWN.get_or_init(register) {
        true => Ok(()),
        false => Err(PictureError::Draw("its font is damaged".to_owned())),
    }
}
