//! Curves with a bounded number of points.
//!
//! Responsible for: reducing the values of a series to the minimum and maximum of each column, and splitting them at
//! gaps. Pictures and pages share it.
//! Must not depend on: how a curve is drawn.

use crate::series::{Axis, Series};

/// Connected points `(x, y)`.
pub type Piece = Vec<(f64, f64)>;

/// Step, minimum and maximum of value `index` in each bucket. NaN marks a gap.
pub fn spans<const N: usize>(series: &Series<N>, index: usize) -> impl ExactSizeIterator<Item = (f64, f64, f64)> {
    series.buckets().iter().map(move |bucket| {
        let span = bucket.values[index];
        (bucket.x(Axis::Step), f64::from(span.low), f64::from(span.high))
    })
}

/// The points of spans `(x, minimum, maximum)`, split at gaps. If there are more spans than columns, only the minimum
/// and the maximum of each column are kept.
pub fn pieces(spans: impl ExactSizeIterator<Item = (f64, f64, f64)>, columns: usize) -> Vec<Piece> {
    let group = spans.len().div_ceil(columns.max(1)).max(1);
    let (mut pieces, mut piece) = (Vec::new(), Piece::new());
    let mut open: Option<(usize, f64, f64, f64)> = None;
    let flush = |open: &mut Option<(usize, f64, f64, f64)>, piece: &mut Piece| {
        if let Some((_, x, low, high)) = open.take() {
            piece.push((x, low));
            if high > low {
                piece.push((x, high));
            }
        }
    };
    for (index, (x, low, high)) in spans.enumerate() {
        if !(low.is_finite() && high.is_finite()) {
            flush(&mut open, &mut piece);
            pieces.push(std::mem::take(&mut piece));
            continue;
        }
        let slot = index / group;
        match &mut open {
            Some((at, _, lowest, highest)) if *at == slot => {
                (*lowest, *highest) = (lowest.min(low), highest.max(high));
            }
            _ => {
                flush(&mut open, &mut piece);
                open = Some((slot, x, low, high));
            }
        }
    }
    flush(&mut open, &mut piece);
    pieces.push(piece);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64], columns: usize) -> Vec<Piece> {
        pieces(values.iter().enumerate().map(|(x, y)| (x as f64, *y, *y)), columns)
    }

    #[test]
    fn a_gap_splits_a_curve() {
        assert_eq!(of(&[1.0, f64::NAN, f64::INFINITY, 2.0, 3.0], 10), [vec![(0.0, 1.0)], vec![(3.0, 2.0), (4.0, 3.0)]]);
        assert_eq!(of(&[f64::NAN], 10), Vec::<Piece>::new());
        assert_eq!(of(&[], 10), Vec::<Piece>::new());
    }

    #[test]
    fn columns_keep_their_extremes() {
        let mut long = vec![1.0; 100_000];
        (long[333], long[77_777]) = (-1.0, 50.0);
        let curve = &of(&long, 1500)[0];
        assert!(curve.len() <= 1502, "{}", curve.len());
        assert!([-1.0, 50.0].iter().all(|spike| curve.iter().any(|(_, y)| y == spike)));
    }
}
