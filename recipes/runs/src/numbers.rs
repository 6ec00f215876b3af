//! Short numbers for users.
//!
//! Responsible for: formatting losses, counts, sizes, rates and times in a few characters, for all crates.
//! Must not depend on: the meaning of the numbers, terminals.

pub use tonfall_recipes::{counted, grouped};

/// `1.842`, `0.0312`, `1.2e-5`: about four digits.
pub fn measure(value: f64) -> String {
    let size = value.abs();
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        _ if value.is_infinite() => if value > 0.0 { "inf" } else { "-inf" }.to_owned(),
        _ if size == 0.0 => "0".to_owned(),
        _ if size < 0.001 => scientific(value),
        _ if size < 0.1 => format!("{value:.4}"),
        _ if size < 100.0 => format!("{value:.3}"),
        _ if size < 10_000.0 => format!("{value:.1}"),
        _ => scientific(value),
    }
}

/// `2e-4`, `1.95e-4`
pub fn scientific(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((digits, exponent)) => format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.')),
        None => text,
    }
}

/// `950`, `3.1k`, `2.5M`, `1.2G`, `4.0T`
pub fn short(value: f64) -> String {
    let size = value.abs();
    match value {
        _ if !value.is_finite() => measure(value),
        _ if size >= 1e15 => scientific(value),
        _ if size >= 1e12 => format!("{:.1}T", value / 1e12),
        _ if size >= 1e9 => format!("{:.1}G", value / 1e9),
        _ if size >= 1e6 => format!("{:.1}M", value / 1e6),
        _ if size >= 1e4 => format!("{:.1}k", value / 1e3),
        _ if size >= 10.0 || size.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

/// `15.3 GFLOP/s`
pub fn flops(rate: f64) -> String {
    let text = short(rate);
    let digits = text.trim_end_matches(['k', 'M', 'G', 'T']);
    format!("{digits} {}FLOP/s", &text[digits.len()..])
}

/// `412 MiB`, `52.3 MiB`, `14.3 GiB`
pub fn bytes(count: f64) -> String {
    match count {
        _ if !count.is_finite() => measure(count),
        _ if count < 1024.0 => format!("{count:.0} B"),
        _ if count < 1_048_576.0 => format!("{} KiB", three_digits(count / 1024.0)),
        _ if count < 1_073_741_824.0 => format!("{} MiB", three_digits(count / 1_048_576.0)),
        _ => format!("{:.1} GiB", count / 1_073_741_824.0),
    }
}

/// One decimal below 100.
fn three_digits(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// `12s`, `3m 20s`, `1h 02m`, `4d 03h`
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e12) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Hours and minutes of a Unix time, UTC.
pub fn clock(t: f64) -> String {
    let minutes = (t.clamp(0.0, 1e15) / 60.0) as u64;
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let measures = [1.8421, 0.03121, 1.2e-5, 523.44, 123_456.0, f64::NAN, 0.0, -2.5].map(measure);
        assert_eq!(measures, ["1.842", "0.0312", "1.2e-5", "523.4", "1.23e5", "NaN", "0", "-2.500"]);
        let shorts = [0.0, 950.0, 3120.0, 31_200.0, 2.5e6, 4e12, 0.25, 1e20].map(short);
        assert_eq!(shorts, ["0", "950", "3120", "31.2k", "2.5M", "4.0T", "0.25", "1e20"]);
        assert_eq!([2e-4, 1.949e-4, 0.0].map(scientific), ["2e-4", "1.95e-4", "0"]);
        assert_eq!([1.53e10, 950.0].map(flops), ["15.3 GFLOP/s", "950 FLOP/s"]);
        assert_eq!([12.2, 200.0, 3725.0, 356_400.0].map(duration), ["12s", "3m 20s", "1h 02m", "4d 03h"]);
        let sizes = [12.0, 1536.0, 54_840_000.0, 432_013_312.0, 15_354_658_816.0].map(bytes);
        assert_eq!(sizes, ["12 B", "1.5 KiB", "52.3 MiB", "412 MiB", "14.3 GiB"]);
        assert_eq!([0, 999, 1_234_567].map(grouped), ["0", "999", "1,234,567"]);
        assert_eq!(clock(81_700.0), "22:41");
    }
}
