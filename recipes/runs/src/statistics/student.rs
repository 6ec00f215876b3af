//! Student's t distribution.

use std::f64::consts::FRAC_PI_2;

/// The distribution function of Student's t; of the normal distribution for infinite degrees of freedom.
pub(super) fn distribution(t: f64, freedom: f64) -> f64 {
    let half = 0.5 * (area(t.abs(), freedom) / area(f64::INFINITY, freedom)).min(1.0);
    if t < 0.0 { 0.5 - half } else { 0.5 + half }
}

/// The integral of the density from 0 to `t`, without its constant factor, with Simpson's rule.
///
/// With x = √ν · tan θ, the density of Student's t is proportional to cos^(ν−1) θ.
fn area(t: f64, freedom: f64) -> f64 {
    const STEPS: u32 = 400;
    // With more degrees of freedom, the quantiles of the normal distribution differ by less than 0.2 %.
    let is_normal = freedom > 1000.0;
    let to = if is_normal { t.min(12.0) } else { (t / freedom.sqrt()).atan().min(FRAC_PI_2) };
    let density = |x: f64| if is_normal { (-x * x / 2.0).exp() } else { x.cos().powf(freedom - 1.0) };
    let step = to / f64::from(STEPS);
    let weight = |index| if index == 0 || index == STEPS { 1.0 } else { f64::from(2 + 2 * (index % 2)) };
    (0..=STEPS).map(|index| weight(index) * density(f64::from(index) * step)).sum::<f64>() * step / 3.0
}

/// The value that Student's t stays below with this probability of at least 0.5, by bisection.
pub(super) fn quantile(probability: f64, freedom: f64) -> f64 {
    let wanted = (2.0 * probability - 1.0) * area(f64::INFINITY, freedom);
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if area(middle, freedom) < wanted { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of Student's t and of the normal distribution.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (probability, freedom, expected) in [
            (0.95, 1.0, 6.3138),
            (0.95, 4.0, 2.1318),
            (0.95, 30.0, 1.6973),
            (0.99, 10.0, 2.7638),
            (0.975, f64::INFINITY, 1.9600),
        ] {
            let found = quantile(probability, freedom);
            assert!((found - expected).abs() < 1e-4, "{probability} {freedom}: {found}");
        }
        assert!((distribution(-1.6449, f64::INFINITY) - 0.05).abs() < 1e-5);
        assert!((distribution(0.0, 7.0) - 0.5).abs() < 1e-12);
    }
}
