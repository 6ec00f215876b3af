//! Run-time dispatch to the processor's vector instructions.
//!
//! Responsible for: detecting instructions, and compiling functions once per set of instructions. The binary runs on any
//! processor of its architecture.

use std::env;
use std::sync::OnceLock;

/// The environment variable that overrides the choice of the level.
const VARIABLE: &str = "TONFALL_CPU";

/// A set of instructions. A value other than [`Level::Portable`] proves that the processor has them, since only
/// [`Level::best`] and [`Level::available`] create one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// The baseline of the architecture.
    Portable,
    /// AVX2, FMA, F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 and AMX with bf16.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Level {
    /// The level that operations use: the one that `TONFALL_CPU` names, or the fastest of this processor.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let available = Self::available();
            asked(&available).ok().flatten().or(available.last().copied()).unwrap_or(Self::Portable)
        })
    }

    /// The value of `TONFALL_CPU`, and the name in messages.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Portable => ("portable", "portable instructions"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => ("avx2", "AVX2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => ("avx512", "AVX-512"),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => ("amx", "AVX-512 and AMX"),
        }
    }

    /// All levels of this processor, the fastest last.
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                levels.push(Self::Avx2);
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                levels.push(Self::Avx512);
                if super::amx::tiles::granted() {
                    levels.push(Self::Amx);
                }
            }
        }
        levels
    }
}

/// The instructions in use on this processor, for messages.
///
/// # Errors
/// When `TONFALL_CPU` names instructions that this processor doesn't have. The text lists those it has.
pub fn cpu_level() -> Result<&'static str, String> {
    asked(&Level::available())?;
    Ok(Level::best().names().1)
}

/// The available level that `TONFALL_CPU` names, if it is set.
fn asked(available: &[Level]) -> Result<Option<Level>, String> {
    let Some(name) = env::var_os(VARIABLE).filter(|name| !name.is_empty()) else { return Ok(None) };
    let level = available.iter().copied().find(|level| name == level.names().0);
    level.map(Some).ok_or_else(|| {
        let known: Vec<_> = available.iter().map(|level| level.names().0).collect();
        format!("{VARIABLE} is {name:?}, but this processor has: {}", known.join(", "))
    })
}

/// Whether the baseline has a hardware fused multiply-add. Without one, `mul_add` would call a slow library function.
pub(crate) const PORTABLE_FMA: bool = cfg!(target_arch = "aarch64");

/// `a * b + c`, fused where the level has the instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Defines a function that is compiled once per [`Level`] and takes the level as its first argument. In the body, the constant
/// `FMA` is true if multiply-adds are fused. Loops over slices are vectorised.
macro_rules! multiversion {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        $visibility fn $name(level: $crate::cpu::level::Level, $($argument: $type),*) $(-> $result)? {
            #[allow(clippy::too_many_arguments, clippy::allow_attributes, reason = "the caller's signature")]
            #[inline(always)]
            fn generic<const FMA: bool>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments, clippy::allow_attributes, reason = "the caller's signature")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                generic::<true>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments, clippy::allow_attributes, reason = "the caller's signature")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                generic::<true>($($argument),*)
            }

            match level {
                $crate::cpu::level::Level::Portable => {
                    generic::<{ $crate::cpu::level::PORTABLE_FMA }>($($argument),*)
                }
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "the level is proof of the instructions")]
                // SAFETY: a `Level` other than `Portable` exists only if the processor has its instructions.
                $crate::cpu::level::Level::Avx2 => unsafe { avx2($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "the level is proof of the instructions")]
                // SAFETY: as above.
                $crate::cpu::level::Level::Avx512 | $crate::cpu::level::Level::Amx => unsafe { avx512($($argument),*) },
            }
        }
    };
}
pub(crate) use multiversion;
