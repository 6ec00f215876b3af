//! The address of a server, as a user gives it.
//!
//! Must not depend on: the network.

use crate::ServingError;

/// Scheme, host, port and path prefix, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseUrl(String);

impl BaseUrl {
    /// Accepts `http://` and `https://`. An ending `/v1` is removed: many programs ask for the address in that form.
    ///
    /// # Errors
    /// [`ServingError::Url`]. Also for an address with a password, because addresses are shown in messages.
    pub(crate) fn parse(text: &str) -> Result<Self, ServingError> {
        let trimmed = text.trim();
        let Some((scheme, rest)) = trimmed.split_once("://") else {
            return Err(refuse(text, "it must begin with http:// or https://"));
        };
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(refuse(text, "it must begin with http:// or https://"));
        }
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            // The text is not shown: it may hold a password.
            return Err(refuse("…@…", "it holds a user name; give an API key in the environment instead"));
        }
        if host.is_empty() || host.starts_with(':') {
            return Err(refuse(text, "the host is missing"));
        }
        if rest.contains(['?', '#']) || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(refuse(text, "it must end after the host, the port and the path"));
        }
        let rest = rest.trim_end_matches('/');
        let rest = rest.strip_suffix("/v1").unwrap_or(rest).trim_end_matches('/');
        Ok(Self(format!("{scheme}://{rest}")))
    }

    /// `path` begins with a slash.
    pub(crate) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn refuse(url: &str, reason: &'static str) -> ServingError {
    ServingError::Url { url: crate::error::printable(url), reason }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test panics on purpose")]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_users_write_them() {
        for (text, expected) in [
            ("http://localhost:8080", "http://localhost:8080"),
            (" HTTP://localhost:8080/ ", "http://localhost:8080"),
            ("http://localhost:8000/v1", "http://localhost:8000"),
            ("https://llm.example/team/v1/", "https://llm.example/team"),
            ("http://[::1]:11434/v1", "http://[::1]:11434"),
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn other_addresses_are_refused() {
        for text in [
            "localhost:8080",
            "ftp://a",
            "file:///etc/passwd",
            "http://",
            "http://:80",
            "http://a?b=c",
            "http://a b",
            "",
        ] {
            assert!(matches!(BaseUrl::parse(text), Err(ServingError::Url { .. })), "{text}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_shown() {
        let error = BaseUrl::parse("http://me:secret@host").unwrap_err().to_string();
        assert!(error.contains("user name") && !error.contains("secret"), "{error}");
    }
}
