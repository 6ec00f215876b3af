//! Each way in which a server can fail.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use tonfall_serving::{ApiKey, Limits, Prompt, Server, ServingError};

use crate::fake::{Fake, Reply, Request, connect, json as reply, not_found};

/// A server with a list of models that does `otherwise` for everything else.
fn with_models(otherwise: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Fake {
    Fake::start(move |request| match request.path.as_str() {
        "/v1/models" => reply(json!({"data": [{"id": "house"}, {"id": "base"}]})),
        "/v1/completions" => otherwise(request),
        _ => not_found(),
    })
}

fn complete(fake: &Fake) -> ServingError {
    fake.connect().unwrap().complete("house", Prompt::Text("p"), 4).unwrap_err()
}

#[test]
fn nobody_listens() {
    // The port was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = connect(&format!("http://{address}")).unwrap_err();
    assert!(matches!(error, ServingError::NotThere { .. }), "{error:?}");
    assert!(error.to_string().contains("start the server"), "{error}");
    let error = connect("http://no-such-host.invalid:80").unwrap_err();
    assert!(matches!(error, ServingError::NotThere { .. }), "{error:?}");
}

#[test]
fn answers_that_are_no_answers() {
    for nonsense in ["<html>Welcome to nginx</html>", "", "[1, 2", "{}", "[]", "null", r#"{"data":[{"name":"x"}]}"#] {
        let fake = Fake::start(move |_| Reply::Text(200, nonsense.to_owned()));
        let error = fake.connect().unwrap_err();
        assert!(matches!(error, ServingError::Nonsense { .. }), "{nonsense}: {error:?}");
        assert!(error.to_string().contains("/v1/models"), "{error}");
    }
    for nonsense in [json!({}), json!({"choices": []}), json!({"choices": [{"text": 5}]})] {
        let error = complete(&with_models(move |_| reply(nonsense.clone())));
        assert!(matches!(error, ServingError::Nonsense { .. }), "{error:?}");
    }
    let tokens = json!({"choices": [{"text": "a", "token_ids": [1, -1]}]});
    let error = complete(&with_models(move |_| reply(tokens.clone())));
    assert!(error.to_string().contains("no list of token ids"), "{error}");
}

#[test]
fn something_else_than_http() {
    for bytes in [&b"SSH-2.0-OpenSSH_9.6\r\n"[..], b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"] {
        let fake = Fake::start(move |_| Reply::Raw(bytes.to_vec()));
        let error = fake.connect().unwrap_err();
        assert!(matches!(error, ServingError::Broken { .. }), "{error:?}");
    }
}

#[test]
fn silence_and_dripping_end_at_the_time_limit() {
    for silent in [true, false] {
        let fake = with_models(move |_| if silent { Reply::Silence } else { Reply::Drip });
        let start = Instant::now();
        let error = complete(&fake);
        assert!(matches!(error, ServingError::NoAnswer { seconds: 2, .. }), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

#[test]
fn endless_answers_end_at_the_size_limit() {
    let fake = with_models(|_| Reply::Text(200, " ".repeat(5 << 20)));
    assert!(matches!(complete(&fake), ServingError::TooLarge { .. }));
}

#[test]
fn an_error_of_the_server_is_shown_with_its_message() {
    let fake = with_models(|_| Reply::Text(500, r#"{"error":{"message":"out of memory \u001b[31m"}}"#.to_owned()));
    let error = complete(&fake);
    assert!(matches!(error, ServingError::Status { status: 500, .. }), "{error:?}");
    assert!(error.to_string().ends_with("the server answers 500: out of memory \\u{1b}[31m"), "{error}");
}

#[test]
fn redirects_are_not_followed() {
    let target = Fake::start(|_| reply(json!({"data": []})));
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {}/x\r\nContent-Length: 0\r\n\r\n", target.url);
    let fake = Fake::start(move |_| Reply::Raw(answer.clone().into_bytes()));
    let error = fake.connect().unwrap_err();
    assert!(matches!(error, ServingError::Redirect { .. }), "{error:?}");
    assert!(error.to_string().contains(&target.url), "{error}");
    assert!(target.requests().is_empty());
}

#[test]
fn an_unknown_model_is_not_asked_for_and_the_known_ones_are_listed() {
    let fake = with_models(|_| reply(json!({"choices": [{"text": "from another model"}]})));
    let error = fake.connect().unwrap().complete("hosue", Prompt::Text("p"), 4).unwrap_err();
    assert!(matches!(error, ServingError::UnknownModel { .. }), "{error:?}");
    assert!(error.to_string().contains("no model `hosue`; the server has `house`, `base`"), "{error}");
    assert!(!fake.requests().iter().any(|request| request.path == "/v1/completions"));
}

#[test]
fn the_key_is_sent_and_a_refusal_names_its_variable_but_not_its_value() {
    // Any variable of the environment will do; this one is always set by Cargo.
    let variable = "CARGO_MANIFEST_DIR";
    let value = std::env::var(variable).unwrap();
    let fake = Fake::start(|request| match request.path.as_str() {
        "/v1/models" => Reply::Text(401, r#"{"error":"invalid key"}"#.to_owned()),
        _ => not_found(),
    });
    let error = Server::with(&fake.url, ApiKey::from_env(variable).unwrap(), Limits::default()).unwrap_err();
    assert!(matches!(error, ServingError::Unauthorized { status: 401, .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("set {variable}")), "{error}");
    assert!(!format!("{error} {error:?}").contains(&value));
    let sent = format!("bearer {}", value.to_lowercase());
    for request in fake.requests() {
        assert!(request.headers.iter().any(|header| header.to_lowercase().ends_with(&sent)), "{:?}", request.headers);
    }
}
