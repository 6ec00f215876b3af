//! HTTP requests with JSON, under limits.
//!
//! Responsible for: limits on time and size, no proxies, no redirects, and the API key.
//! Must not depend on: which server answers, the meaning of what it answers.

use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderValue, Response, header};
use ureq::{Agent, Body};

use crate::ServingError;
use crate::base_url::BaseUrl;
use crate::error::printable;

/// Maximum bytes of an answer. A parsed JSON value takes up to 48 bytes for 2 bytes of text, so a hostile answer takes
/// at most about 100 MiB. The token ids of a prompt of 128k tokens take less than 1 MiB.
const MAX_ANSWER: usize = 4 << 20;

/// How long a server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Until the connection is open.
    pub connect: Duration,
    /// Until the answer of a generation is complete. Without a GPU, a server can take minutes for a long prompt.
    pub generate: Duration,
    /// Until any other answer is complete.
    pub ask: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), generate: seconds(300), ask: seconds(30) }
    }
}

/// A key for `Authorization: Bearer …`. It is never shown.
#[derive(Clone)]
pub struct ApiKey {
    header: Option<HeaderValue>,
    variable: String,
}

impl ApiKey {
    /// Reads the key from an environment variable. If the variable is not set or empty, requests have no key.
    ///
    /// # Errors
    /// [`ServingError::ApiKey`] if the value can't be sent in a header.
    pub fn from_env(variable: &str) -> Result<Self, ServingError> {
        Self::from_value(variable, std::env::var(variable))
    }

    fn from_value(variable: &str, value: Result<String, std::env::VarError>) -> Result<Self, ServingError> {
        let refuse = |reason| ServingError::ApiKey { variable: variable.to_owned(), reason };
        let value = match value {
            Ok(value) => value.trim().to_owned(),
            Err(std::env::VarError::NotPresent) => String::new(),
            Err(std::env::VarError::NotUnicode(_)) => return Err(refuse("it is not UTF-8")),
        };
        let header = match value.is_empty() {
            true => None,
            false => {
                let mut header = HeaderValue::from_str(&format!("Bearer {value}"))
                    .map_err(|_| refuse("it has characters that no HTTP header may have"))?;
                header.set_sensitive(true);
                Some(header)
            }
        };
        Ok(Self { header, variable: variable.to_owned() })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.header.is_some() { "set" } else { "not set" };
        write!(f, "ApiKey({}, {shown})", self.variable)
    }
}

/// Sends requests to one server.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) base: BaseUrl,
    pub(crate) limits: Limits,
    agent: Agent,
    key: ApiKey,
}

impl Client {
    pub(crate) fn new(base: BaseUrl, key: ApiKey, limits: Limits) -> Self {
        let config = Agent::config_builder()
            // A proxy from the environment would see prompts and the key.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(limits.connect))
            // llama-server closes idle connections after 5 s; a request on such a connection fails. Opening one costs
            // microseconds compared with a generation.
            .max_idle_connections(0)
            .user_agent(concat!("tonfall/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { base, limits, agent: config.into(), key }
    }

    /// GET with a JSON answer.
    pub(crate) fn get(&self, path: &str) -> Result<Value, ServingError> {
        let url = self.base.join(path);
        let request = self.agent.get(&url).config().timeout_global(Some(self.limits.ask)).build();
        let request = match &self.key.header {
            Some(key) => request.header(header::AUTHORIZATION, key.clone()),
            None => request,
        };
        let text = self.text(&url, self.limits.ask, request.call())?;
        parse(&url, &text)
    }

    /// POST of JSON with a JSON answer.
    pub(crate) fn post(&self, path: &str, limit: Duration, body: &Value) -> Result<Value, ServingError> {
        let text = self.post_for_text(path, limit, body)?;
        parse(&self.base.join(path), &text)
    }

    /// POST of JSON. The answer may be any text.
    pub(crate) fn post_for_text(&self, path: &str, limit: Duration, body: &Value) -> Result<Vec<u8>, ServingError> {
        let url = self.base.join(path);
        let request = self.agent.post(&url).config().timeout_global(Some(limit)).build();
        let request = match &self.key.header {
            Some(key) => request.header(header::AUTHORIZATION, key.clone()),
            None => request,
        };
        self.text(&url, limit, request.send_json(body))
    }

    fn text(
        &self,
        url: &str,
        limit: Duration,
        answer: Result<Response<Body>, ureq::Error>,
    ) -> Result<Vec<u8>, ServingError> {
        let mut answer = answer.map_err(|error| failed(url, limit, error))?;
        let status = answer.status().as_u16();
        if (300..400).contains(&status) {
            let target = answer.headers().get(header::LOCATION).and_then(|target| target.to_str().ok());
            let target = printable(target.unwrap_or("an unreadable address"));
            return Err(ServingError::Redirect { url: url.to_owned(), target });
        }
        let mut bytes = Vec::new();
        // Limited after decompression, so a small compressed answer can't become a large one.
        let mut reader = answer.body_mut().as_reader().take(MAX_ANSWER as u64 + 1);
        reader.read_to_end(&mut bytes).map_err(|error| failed(url, limit, error.into()))?;
        if bytes.len() > MAX_ANSWER {
            return Err(ServingError::TooLarge { url: url.to_owned(), limit: MAX_ANSWER });
        }
        let (url, message) = (url.to_owned(), || printable(&message(&bytes)));
        match status {
            200..300 => Ok(bytes),
            401 | 403 => {
                Err(ServingError::Unauthorized { url, status, message: message(), variable: self.key.variable.clone() })
            }
            _ => Err(ServingError::Status { url, status, message: message() }),
        }
    }
}

fn parse(url: &str, bytes: &[u8]) -> Result<Value, ServingError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let start = printable(&String::from_utf8_lossy(&bytes[..bytes.len().min(80)]));
        let reason = match bytes.is_empty() {
            true => "it is empty".to_owned(),
            false => format!("it is not JSON ({error}): {start}"),
        };
        ServingError::Nonsense { url: url.to_owned(), reason }
    })
}

fn failed(url: &str, limit: Duration, error: ureq::Error) -> ServingError {
    let url = url.to_owned();
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) | ureq::Error::HostNotFound => {
            ServingError::NotThere { url, source: Box::new(error) }
        }
        ureq::Error::Timeout(_) => ServingError::NoAnswer { url, seconds: limit.as_secs() },
        ureq::Error::Io(ref io) if io.kind() == ErrorKind::TimedOut => {
            ServingError::NoAnswer { url, seconds: limit.as_secs() }
        }
        ureq::Error::ConnectionFailed => ServingError::NotThere { url, source: Box::new(error) },
        // Only open connections fail in these ways. A name that can't be resolved has no kind of its own in std.
        ureq::Error::Io(ref io)
            if !matches!(
                io.kind(),
                ErrorKind::UnexpectedEof
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::InvalidData
            ) =>
        {
            ServingError::NotThere { url, source: Box::new(error) }
        }
        other => ServingError::Broken { url, source: Box::new(other) },
    }
}

/// The message in the body of an error. Servers have it in one of these places; the last resort is the body itself.
fn message(bytes: &[u8]) -> String {
    let text = || match String::from_utf8_lossy(bytes).trim() {
        "" => "(no message)".to_owned(),
        text => text.to_owned(),
    };
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return text() };
    let places = ["/error/message", "/error", "/message", "/detail"];
    let found = places.iter().find_map(|place| json.pointer(place)?.as_str());
    found.map_or_else(text, str::to_owned)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test panics on purpose")]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_where_servers_put_them() {
        for (body, expected) in [
            (r#"{"error":{"message":"File Not Found","code":404}}"#, "File Not Found"),
            (r#"{"error":"model 'x' not found"}"#, "model 'x' not found"),
            (r#"{"object":"error","message":"no such model"}"#, "no such model"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            ("plain text\n", "plain text"),
            ("", "(no message)"),
        ] {
            assert_eq!(message(body.as_bytes()), expected);
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::from_value("KEY", Ok(" sk-secret\n".to_owned())).unwrap();
        assert_eq!(format!("{key:?}"), "ApiKey(KEY, set)");
        assert_eq!(key.header.as_ref().unwrap().to_str().unwrap(), "Bearer sk-secret");
        assert!(ApiKey::from_value("KEY", Err(std::env::VarError::NotPresent)).unwrap().header.is_none());
        let refused = ApiKey::from_value("KEY", Ok("se\ncret".to_owned())).unwrap_err();
        assert!(refused.to_string().contains("KEY") && !refused.to_string().contains("cret:"), "{refused}");
    }
}
