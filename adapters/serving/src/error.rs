//! Why a server could not be asked, or why its answer is of no use.

use thiserror::Error;

/// Faults of a server, or of the way to it. No variant holds the API key.
#[derive(Debug, Error)]
pub enum ServingError {
    #[error("`{url}` is no server's address: {reason}; write for example http://localhost:8080")]
    Url { url: String, reason: &'static str },

    #[error("the environment variable {variable} holds no API key: {reason}")]
    ApiKey { variable: String, reason: &'static str },

    #[error("{url}: no server answers there ({source}); start the server, or correct the address")]
    NotThere { url: String, source: Box<ureq::Error> },

    #[error("{url}: no complete answer within {seconds} s; give the server more time, or ask for fewer tokens")]
    NoAnswer { url: String, seconds: u64 },

    #[error("{url}: the connection failed ({source}); look into the server's log")]
    Broken { url: String, source: Box<ureq::Error> },

    #[error("{url}: the server redirects to {target}; redirects are not followed, so give that address yourself")]
    Redirect { url: String, target: String },

    #[error("{url}: the answer has more than {limit} bytes; this is no answer of an inference server")]
    TooLarge { url: String, limit: usize },

    #[error("{url}: the server refuses the API key or misses one ({status}: {message}); set {variable}")]
    Unauthorized { url: String, status: u16, message: String, variable: String },

    #[error("{url}: the server answers {status}: {message}")]
    Status { url: String, status: u16, message: String },

    #[error("{url}: the answer is of no use: {reason}; is this the address of an inference server?")]
    Nonsense { url: String, reason: String },

    #[error("{url}: there is no model `{model}`; the server has {}", list(known))]
    UnknownModel { url: String, model: String, known: Vec<String> },

    #[error("{url}: there is no adapter number {id}; the server was started with {count} adapters")]
    UnknownAdapter { url: String, id: u32, count: usize },

    #[error(
        "{url}: none of the {count} adapters that the server was started with is {path}; restart it with --lora and \
         --lora-init-without-apply for each version, or use a hook with a command that restarts it"
    )]
    NoSlot { url: String, path: String, count: usize },

    #[error("{url}: the server reports success, but {reason}; look into the server's log")]
    NoEffect { url: String, reason: String },
}

/// Names for an error message. Servers such as Ollama can have hundreds of models.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{}`", printable(name))).collect();
    match names.len() {
        0 => "none".to_owned(),
        count if count > SHOWN => format!("{} and {} more", shown.join(", "), count - SHOWN),
        _ => shown.join(", "),
    }
}

/// Text of a server for a message: at most 300 characters, and control characters escaped, because they could change
/// what a terminal shows.
pub(crate) fn printable(text: &str) -> String {
    const LIMIT: usize = 300;
    let mut out = String::new();
    for (count, c) in text.trim().chars().enumerate() {
        if count == LIMIT {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_cannot_control_the_terminal_or_fill_it() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb c");
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), 301);
    }

    #[test]
    fn long_lists_of_models_are_cut_and_counted() {
        let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert!(list(&names).ends_with("`9` and 2 more"), "{}", list(&names));
        assert_eq!(list(&[]), "none");
    }
}
