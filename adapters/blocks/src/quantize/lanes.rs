//! Eight f32 side by side.
//!
//! Responsible for: arithmetic on eight independent numbers, which the compiler turns into vector instructions. With one
//! sub-block per lane, a search for scales needs no sum across a vector.

use std::array;
use std::ops::{Add, Mul, Neg, Sub};

pub(super) const LANES: usize = 8;

/// Adding this number rounds one below 2^22 to an integer (ties to even), and puts it in the low bits of the mantissa.
pub(super) const ROUNDER: f32 = 12_582_912.0;

#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

// Comparisons are written out: `f32::max` and `f32::min` take more instructions, because they ignore NaN.
impl Lanes {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub(super) const fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    #[inline(always)]
    pub(super) fn at_least(self, bound: Self) -> Self {
        self.zip(bound, |value, bound| if value > bound { value } else { bound })
    }

    #[inline(always)]
    pub(super) fn at_most(self, bound: Self) -> Self {
        self.zip(bound, |value, bound| if value < bound { value } else { bound })
    }

    #[inline(always)]
    pub(super) fn between(self, low: f32, high: f32) -> Self {
        self.at_least(Self::splat(low)).at_most(Self::splat(high))
    }

    /// The nearest integers, ties to even, of numbers below 2^22.
    #[inline(always)]
    pub(super) fn rounded(self) -> Self {
        self + Self::splat(ROUNDER) - Self::splat(ROUNDER)
    }

    /// `self / divisor`, and 0 where the divisor is not positive.
    #[inline(always)]
    pub(super) fn over(self, divisor: Self) -> Self {
        self.zip(divisor, |value, divisor| if divisor > 0.0 { value / divisor } else { 0.0 })
    }

    /// `self / divisor`, and 0 where the divisor is 0 or its square rounds to 0.
    #[inline(always)]
    pub(super) fn over_signed(self, divisor: Self) -> Self {
        (self * divisor).over(divisor * divisor)
    }

    /// `self` where `left < right`, else `other`.
    #[inline(always)]
    pub(super) fn where_less(self, left: Self, right: Self, other: Self) -> Self {
        Self(array::from_fn(|i| if left.0[i] < right.0[i] { self.0[i] } else { other.0[i] }))
    }

    #[inline(always)]
    pub(super) fn magnitude(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    pub(super) fn smallest(self) -> f32 {
        self.0.into_iter().fold(self.0[0], |a, b| if b < a { b } else { a })
    }

    pub(super) fn largest(self) -> f32 {
        self.0.into_iter().fold(self.0[0], |a, b| if b > a { b } else { a })
    }

    pub(super) fn sum(self) -> f32 {
        self.0.into_iter().sum()
    }
}

impl Add for Lanes {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

impl Sub for Lanes {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

impl Mul for Lanes {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
}

impl Neg for Lanes {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(self.0.map(|a| -a))
    }
}
