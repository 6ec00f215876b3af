//! The search for scales and minima of eight sub-blocks at a time.
//!
//! Responsible for: weighted least squares. For given codes, the best scale and minimum follow from three sums, and so does
//! their error. The search tries several ranges of codes, one pass over the values each, and keeps the best.
//! llama.cpp's `make_qkx3_quants` and `make_qx_quants` also try ranges. Theirs differ at one end only, and they measure the
//! error in a second pass.

use super::lanes::{LANES, Lanes, ROUNDER};

/// How many codes a range of codes leaves unused at one end. Values are clipped if the number is below -0.5.
const MARGINS: [f32; 5] = [-0.8, -0.4, 0.0, 0.4, 0.8];

/// As [`MARGINS`], at the end of the largest magnitude. Zero has a fixed code, so that one number describes the range.
const SYMMETRIC_MARGINS: [f32; 13] = [-0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0];

/// Eight sub-blocks of `N` values: lane `j` of row `i` is value `i` of sub-block `j`. All weights are positive.
pub(super) struct Group<const N: usize> {
    values: [Lanes; N],
    weights: [Lanes; N],
    pub(super) total_weight: Lanes,
    low: Lanes,
    high: Lanes,
}

/// Sums over the values `x`, weights `w` and codes `q` of each sub-block.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// Σ w q
    pub(super) codes: Lanes,
    /// Σ w q²
    pub(super) squares: Lanes,
    /// Σ w q x
    pub(super) products: Lanes,
}

/// The model `x ≈ scale q - min` of each sub-block.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) scale: Lanes,
    pub(super) min: Lanes,
}

impl<const N: usize> Group<N> {
    /// The `8 N` values of eight sub-blocks, one after the other, each multiplied by its factor.
    #[inline(always)]
    pub(super) fn new(values: &[f32], weights: &[f32], factors: Lanes) -> Self {
        let zeros = [Lanes::ZERO; N];
        let mut group =
            Self { values: zeros, weights: zeros, total_weight: Lanes::ZERO, low: Lanes::ZERO, high: Lanes::ZERO };
        for lane in 0..LANES {
            for (row, value) in group.values.iter_mut().zip(&values[lane * N..][..N]) {
                row.0[lane] = *value;
            }
            for (row, weight) in group.weights.iter_mut().zip(&weights[lane * N..][..N]) {
                row.0[lane] = *weight;
            }
        }
        for (value, weight) in group.values.iter_mut().zip(&group.weights) {
            *value = *value * factors;
            group.total_weight = group.total_weight + *weight;
        }
        group.measure();
        group
    }

    #[inline(always)]
    fn measure(&mut self) {
        (self.low, self.high) = (self.values[0], self.values[0]);
        for value in &self.values {
            self.low = self.low.at_most(*value);
            self.high = self.high.at_least(*value);
        }
    }

    /// Subtracts the weighted mean of each sub-block, and returns it. Sums over a sub-block with a large mean would cancel.
    #[inline(always)]
    pub(super) fn center(&mut self) -> Lanes {
        let mut sum = Lanes::ZERO;
        for (value, weight) in self.values.iter().zip(&self.weights) {
            sum = sum + *value * *weight;
        }
        let mean = sum.over(self.total_weight);
        for value in &mut self.values {
            *value = *value - mean;
        }
        self.measure();
        mean
    }

    /// The sums for the codes `round(x inverse + offset)`, limited to `min ..= max`.
    #[inline(always)]
    pub(super) fn sums(&self, inverse: Lanes, offset: Lanes, min: f32, max: f32) -> Sums {
        let mut sums = Sums::ZERO;
        for (value, weight) in self.values.iter().zip(&self.weights) {
            let code = (*value * inverse + offset).between(min, max).rounded();
            let weighted = *weight * code;
            sums.codes = sums.codes + weighted;
            sums.squares = sums.squares + weighted * code;
            sums.products = sums.products + weighted * *value;
        }
        sums
    }

    /// The codes `round(x inverse + offset)`, limited to `min ..= max`, less `min`: one array per sub-block.
    #[inline(always)]
    pub(super) fn codes(&self, inverse: Lanes, offset: Lanes, min: f32, max: f32) -> [[u8; N]; LANES] {
        let mut codes = [[0; N]; LANES];
        for (i, value) in self.values.iter().enumerate() {
            let row = (*value * inverse + offset).between(min, max).rounded() + Lanes::splat(ROUNDER - min);
            for (codes, code) in codes.iter_mut().zip(row.0) {
                codes[i] = code.to_bits() as u8;
            }
        }
        codes
    }
}

impl Sums {
    pub(super) const ZERO: Self = Self { codes: Lanes::ZERO, squares: Lanes::ZERO, products: Lanes::ZERO };

    /// `self` where `left < right`, else `other`.
    #[inline(always)]
    pub(super) fn where_less(self, left: Lanes, right: Lanes, other: Self) -> Self {
        Self {
            codes: self.codes.where_less(left, right, other.codes),
            squares: self.squares.where_less(left, right, other.squares),
            products: self.products.where_less(left, right, other.products),
        }
    }

    /// Σ w (x - scale q + min)² of centered sub-blocks, less Σ w x².
    #[inline(always)]
    pub(super) fn error(&self, total_weight: Lanes, Affine { scale, min }: Affine) -> Lanes {
        let products = self.products + min * self.codes;
        scale * (scale * self.squares - products - products) + min * min * total_weight
    }

    /// Σ w (x - scale q)², less Σ w x².
    #[inline(always)]
    pub(super) fn symmetric_error(&self, scale: Lanes) -> Lanes {
        scale * (scale * self.squares - self.products - self.products)
    }
}

/// The best model of centered sub-blocks with codes of 0 … `max`, whose minimum is at least `floor`.
#[inline(always)]
pub(super) fn affine<const N: usize>(group: &Group<N>, floor: Lanes, max: f32) -> Affine {
    let total = group.total_weight;
    let low = group.low.at_most(-floor);
    let range = group.high - low;
    let mut best = Affine { scale: Lanes::ZERO, min: -low };
    let mut least = Lanes::splat(f32::MAX);
    for below in MARGINS {
        for above in MARGINS {
            let codes = max - below - above;
            let inverse = Lanes::splat(codes).over(range);
            let sums = group.sums(inverse, Lanes::splat(below) - low * inverse, 0.0, max);
            let square = total * sums.squares;
            let determinant = square - sums.codes * sums.codes;
            // With equal codes, the determinant is a rounding error: the scale stays that of the range.
            let equal = square * Lanes::splat(1e-5);
            let scale = (range * Lanes::splat(1.0 / codes)).where_less(
                determinant,
                equal,
                (total * sums.products).over(determinant),
            );
            let min = (-low).where_less(determinant, equal, (scale * sums.codes).over(total));
            let bound = (sums.products + floor * sums.codes).over(sums.squares);
            let found = Affine { scale: scale.where_less(floor, min, bound), min: min.at_least(floor) };
            let error = sums.error(total, found);
            best.scale = found.scale.where_less(error, least, best.scale);
            best.min = found.min.where_less(error, least, best.min);
            least = error.at_most(least);
        }
    }
    best
}

/// The best scale, of either sign, of sub-blocks with codes of `-half ..= half - 1`.
#[inline(always)]
pub(super) fn symmetric<const N: usize>(group: &Group<N>, half: f32) -> Lanes {
    // The value of largest magnitude has the code nearest to -half.
    let per_extreme = Lanes::splat(-1.0).over_signed(group.low.where_less(group.high, -group.low, group.high));
    let (mut best, mut most) = (Lanes::ZERO, Lanes::ZERO);
    for margin in SYMMETRIC_MARGINS {
        let sums = group.sums(per_extreme * Lanes::splat(half - margin), Lanes::ZERO, -half, half - 1.0);
        let scale = sums.products.over(sums.squares);
        let gain = scale * sums.products;
        best = scale.where_less(most, gain, best);
        most = gain.at_least(most);
    }
    best
}
