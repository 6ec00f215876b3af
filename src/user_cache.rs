//! The user's cache directory, and the directories of tonfall in it.

use std::ffi::OsString;
use std::path::PathBuf;

/// `$XDG_CACHE_HOME`, or `~/.cache`, on every platform, like the Hugging Face libraries. `None` without a home
/// directory. An empty or relative `$XDG_CACHE_HOME` is ignored, as the specification demands
/// (<https://specifications.freedesktop.org/basedir-spec/latest/>).
pub(crate) fn directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let given = |name| variable(name).map(PathBuf::from);
    let xdg = given("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    xdg.or_else(|| Some(given("HOME").filter(|home| !home.as_os_str().is_empty())?.join(".cache")))
}

/// The directory for cached data of one kind, such as `datasets`: in `$TONFALL_CACHE_DIR`, or in `tonfall` in the user's
/// cache directory. `None` without a home directory.
pub(crate) fn own(kind: &str) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name);
    let own = variable("TONFALL_CACHE_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    Some(own.or_else(|| Some(directory(variable)?.join("tonfall")))?.join(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_cache_directory_is_ignored() {
        let with = |variables: &[(&str, &str)]| {
            let of =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
            directory(of)
        };
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x".into()));
        for ignored in ["", "x"] {
            assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", ignored)]), Some("/h/.cache".into()));
        }
        assert_eq!(with(&[("HOME", "")]), None);
    }
}
