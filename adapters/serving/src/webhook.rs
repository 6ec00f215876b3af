//! Sending a JSON message to a webhook.
//!
//! Responsible for: one POST with limits on time, without proxies and redirects.
//! Must not depend on: the content of the message.
//!
//! The URL is a secret with many services, so no error shows more of it than scheme and host.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::header;

use crate::ServingError;
use crate::error::printable;

/// Sends `message` with POST; `token` is sent as `Authorization: Bearer`.
///
/// # Errors
/// If the receiver can't be reached or does not answer with a status from 200 to 299.
pub fn post(url: &str, token: Option<&str>, message: &Value, limit: Duration) -> Result<(), ServingError> {
    let shown = host(url);
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(ServingError::Url { url: "…".to_owned(), reason: "it must begin with http:// or https://" });
    }
    let config = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(limit))
        .user_agent(concat!("tonfall/", env!("CARGO_PKG_VERSION")))
        .build();
    let mut request = Agent::from(config).post(url);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let answer = request.send_json(message).map_err(|error| match error {
        ureq::Error::Timeout(_) => ServingError::NoAnswer { url: shown.clone(), seconds: limit.as_secs() },
        // The message of some errors holds the URL.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => ServingError::Url {
            url: shown.clone(),
            reason: "it is no URL, or the token has characters that no header may have",
        },
        error => ServingError::NotThere { url: shown.clone(), source: Box::new(error) },
    })?;
    match answer.status().as_u16() {
        200..300 => Ok(()),
        status => {
            let mut answer = answer;
            let text = answer.body_mut().with_config().limit(1 << 10).read_to_string().unwrap_or_default();
            Err(ServingError::Status { url: shown, status, message: printable(text.trim()) })
        }
    }
}

/// Scheme and host of a URL, without user and path.
fn host(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{}://{}/…", printable(scheme), printable(host))
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn secrets_in_a_url_are_not_shown() {
        assert_eq!(host("https://hooks.example/services/T0/B0/secret"), "https://hooks.example/…");
        assert_eq!(host("https://me:secret@hooks.example:8443?token=secret"), "https://hooks.example:8443/…");
    }
}
