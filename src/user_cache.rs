//! The user's cache directory.

use std::ffi::OsString;
use std::path::PathBuf;

/// `$XDG_CACHE_HOME`, else `~/.cache`, on every platform, as the Hugging Face libraries do. `None` without a home
/// directory. As the specification says, an empty or relative `$XDG_CACHE_HOME` does not count
/// (<https://specifications.freedesktop.org/basedir-spec/latest/>).
pub(crate) fn directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let given = |name| variable(name).map(PathBuf::from);
    let xdg = given("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    xdg.or_else(|| Some(given("HOME").filter(|home| !home.as_os_str().is_empty())?.join(".cache")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_place_does_not_count() {
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
