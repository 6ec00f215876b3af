//! Speed and error of the quantizers, on one core.
//!
//! Per format, without and with importance: MB/s of f32 values (the fastest of several rounds), and the squared error relative
//! to the squared values, weighted by the importance, for normally and for Laplace distributed values.
//! `cargo bench -p tonfall-blocks --bench quantize`, with `ROWS` (128), `COLS` (2048) and `ROUNDS` (5) in the environment.
//! `MODE=speed` prints MB/s only.
//!
//! `tests/reference/compare_quantizers.py` measures llama.cpp's quantizers on the same values.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::Instant;

use tonfall_blocks::{Format, dequantize, quantize};

/// Uniform numbers in 0 … 1, without either end.
fn uniform(count: usize, mut state: u64) -> Vec<f64> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..count).map(|_| next()).collect()
}

/// Normally distributed, by the method of Box and Muller.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let radii = uniform(count, seed).into_iter().map(|u| (-2.0 * u.ln()).sqrt());
    let angles = uniform(count, !seed).into_iter().map(|u| (std::f64::consts::TAU * u).cos());
    radii.zip(angles).map(|(radius, angle)| (radius * angle) as f32).collect()
}

fn laplace(count: usize, seed: u64) -> Vec<f32> {
    let values = uniform(count, seed).into_iter().map(|u| u - 0.5);
    values.map(|u| (-u.signum() * (1.0 - 2.0 * u.abs()).ln()) as f32).collect()
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn speed(format: Format, values: &[f32], cols: usize, importance: Option<&[f32]>, rounds: usize) -> f64 {
    let mut out = Vec::new();
    let mut round = || {
        out.clear();
        let start = Instant::now();
        quantize(format, black_box(values), cols, importance, &mut out);
        black_box(&out);
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..=rounds).map(|_| round()).fold(f64::INFINITY, f64::min);
    size_of_val(values) as f64 / fastest / 1e6
}

fn relative_error(format: Format, values: &[f32], cols: usize, importance: Option<&[f32]>) -> f64 {
    let mut bytes = Vec::new();
    quantize(format, values, cols, importance, &mut bytes);
    let mut back = vec![0.0; values.len()];
    dequantize(format, &bytes, values.len() / cols, cols, 0, &mut back);
    let weights = (0..values.len()).map(|i| importance.map_or(1.0, |weights| f64::from(weights[i % cols])));
    let (mut error, mut total) = (0.0, 0.0);
    for ((value, back), weight) in values.iter().zip(&back).zip(weights) {
        error += weight * f64::from(value - back).powi(2);
        total += weight * f64::from(*value).powi(2);
    }
    error / total
}

fn main() {
    let (rows, cols, rounds) = (setting("ROWS", 128), setting("COLS", 2048), setting("ROUNDS", 5));
    let only_speed = std::env::var("MODE").is_ok_and(|mode| mode == "speed");
    let (normal, laplace) = (normal(rows * cols, 1), laplace(rows * cols, 2));
    let importance: Vec<f32> = self::normal(cols, 3).into_iter().map(|value| (1.5 * value).exp()).collect();
    println!("{:<6} {:>10} {:>8} {:>12} {:>12}", "format", "importance", "MB/s", "normal", "laplace");
    for format in Format::ALL.into_iter().filter(|format| *format != Format::Nf4) {
        for importance in [None, Some(importance.as_slice())] {
            let speed = speed(format, &normal, cols, importance, rounds);
            let name = if importance.is_some() { "yes" } else { "no" };
            print!("{format:<6} {name:>10} {speed:>8.0}");
            if !only_speed {
                let error = |values: &[f32]| relative_error(format, values, cols, importance);
                print!(" {:>12.3e} {:>12.3e}", error(&normal), error(&laplace));
            }
            println!();
        }
    }
}
