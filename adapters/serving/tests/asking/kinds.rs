//! Each kind of server is recognised, and asked in its own way.

use serde_json::{Value, json};
use tonfall_serving::{Kind, Message, Offer, Prompt, ServingError, ToTokenize};

use crate::fake::{Fake, Reply, Request, json as reply, not_found};

/// A server that answers GET requests with these documents and POST requests with `post`.
fn server(documents: &[(&'static str, Value)], post: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Fake {
    let documents = documents.to_vec();
    Fake::start(move |request| {
        let document = documents.iter().find(|(path, _)| *path == request.path);
        match (request.method.as_str(), document) {
            ("GET", Some((_, document))) => reply(document.clone()),
            ("GET", None) => not_found(),
            _ => post(request),
        }
    })
}

fn models() -> Value {
    json!({"data": [{"id": "house:latest"}]})
}

fn vllm(post: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Fake {
    server(&[("/version", json!({"version": "0.12.0"})), ("/v1/models", models())], post)
}

fn hello() -> Vec<Message> {
    vec![Message { role: "user".to_owned(), content: "hi".to_owned() }]
}

#[test]
fn servers_are_recognised_by_what_only_they_have() {
    let version = || ("/version", json!({"version": "1"}));
    for (kind, models_path, probe) in [
        (Kind::LlamaServer, "/v1/models", ("/props", json!({"default_generation_settings": {}}))),
        (Kind::OpenWebui, "/api/models", ("/api/config", json!({"name": "Our chat", "features": {}}))),
        (Kind::LmStudio, "/v1/models", ("/api/v0/models", json!({"data": []}))),
        (Kind::Tgi, "/v1/models", ("/info", json!({"model_id": "m", "max_concurrent_requests": 128}))),
        (Kind::Sglang, "/v1/models", ("/get_model_info", json!({"model_path": "m"}))),
        (Kind::Ollama, "/v1/models", ("/api/tags", json!({"models": []}))),
        (Kind::Vllm, "/v1/models", version()),
        (Kind::Other, "/v1/models", ("/unknown", json!({}))),
    ] {
        let fake = server(&[probe, (models_path, models())], |_| not_found());
        assert_eq!(fake.connect().unwrap().kind(), kind);
        assert_eq!(fake.connect().unwrap().models().unwrap(), ["house:latest"]);
    }
}

#[test]
fn pages_for_unknown_paths_do_not_make_a_server_another_one() {
    let fake = Fake::start(|request| match request.path.as_str() {
        "/v1/models" => reply(models()),
        "/api/v0/models" => reply(json!({"error": "Unexpected endpoint or method. (GET /api/v0/models)"})),
        _ => Reply::Text(200, "<!doctype html>".to_owned()),
    });
    assert_eq!(fake.connect().unwrap().kind(), Kind::Other);
}

#[test]
fn vllm_returns_token_ids() {
    let fake = vllm(|request| match request.path.as_str() {
        "/v1/completions" => {
            reply(json!({"choices": [{"text": " Paris", "token_ids": [7042, 2], "finish_reason": "stop"}]}))
        }
        "/tokenize" => reply(json!({"count": 2, "tokens": [1, 5], "max_model_len": 8})),
        _ => not_found(),
    });
    let server = fake.connect().unwrap();
    let found = server.complete("house", Prompt::Tokens(&[1, 2]), 4).unwrap().given().unwrap();
    assert_eq!((found.text.as_str(), found.tokens.as_deref()), (" Paris", Some(&[7042, 2][..])));
    let request = fake.requests().pop().unwrap();
    let expected = json!({
        "model": "house", "prompt": [1, 2], "max_tokens": 4, "temperature": 0, "seed": 0, "repetition_penalty": 1.0,
        "return_token_ids": true,
    });
    assert_eq!(request.body, expected);

    let ids = server.tokenize("house", ToTokenize::Messages(&hello())).unwrap();
    assert_eq!(ids, Offer::Given(vec![1, 5]));
    assert_eq!(fake.requests().pop().unwrap().body["add_generation_prompt"], true);
}

#[test]
fn ollama_completes_text_without_the_template_and_nothing_else() {
    let fake = server(&[("/api/tags", json!({"models": []})), ("/v1/models", models())], |request| {
        match request.path.as_str() {
            "/api/generate" => reply(json!({"response": "ab", "done": true, "done_reason": "length"})),
            "/api/chat" => reply(json!({"message": {"role": "assistant", "content": "cd"}, "done_reason": "stop"})),
            _ => not_found(),
        }
    });
    let server = fake.connect().unwrap();
    let found = server.complete("house", Prompt::Text("p"), 4).unwrap().given().unwrap();
    assert_eq!((found.text.as_str(), found.tokens), ("ab", None));
    let body = fake.requests().pop().unwrap().body;
    assert_eq!((&body["raw"], &body["options"]["repeat_penalty"]), (&json!(true), &json!(1.0)));
    assert_eq!(server.chat("house:latest", &hello(), 4).unwrap().text, "cd");

    let Offer::NotOffered(reason) = server.complete("house", Prompt::Tokens(&[1]), 4).unwrap() else { panic!() };
    assert_eq!(reason.to_string(), "Ollama does not offer completing token ids");
    let text = ToTokenize::Text { text: "a", add_special: false };
    assert!(matches!(server.tokenize("house", text).unwrap(), Offer::NotOffered(_)));
    assert!(matches!(server.adapters().unwrap(), Offer::NotOffered(_)));
    assert!(matches!(server.load_adapter("x", "/x").unwrap(), Offer::NotOffered(_)));
}

#[test]
fn vllm_without_its_switch_does_not_offer_loading() {
    let fake = vllm(|_| Reply::Text(404, r#"{"detail":"Not Found"}"#.to_owned()));
    let Offer::NotOffered(reason) = fake.connect().unwrap().load_adapter("x", "/x").unwrap() else { panic!() };
    assert!(reason.to_string().contains("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"), "{reason}");
}

#[test]
fn a_refused_adapter_is_an_error_with_the_servers_reason() {
    let message = r#"{"error":{"message":"No adapter found for /x","type":"NotFoundError","code":404}}"#;
    let fake = vllm(move |_| Reply::Text(404, message.to_owned()));
    let error = fake.connect().unwrap().load_adapter("x", "/x").unwrap_err();
    assert!(error.to_string().contains("No adapter found for /x"), "{error}");
}

#[test]
fn an_adapter_that_is_not_listed_after_loading_has_no_effect() {
    let fake = vllm(|_| Reply::Text(200, "Success: LoRA adapter 'x' added successfully.".to_owned()));
    let server = fake.connect().unwrap();
    let error = server.load_adapter("x", "/x").unwrap_err();
    assert!(matches!(error, ServingError::NoEffect { .. }), "{error:?}");
    assert_eq!(server.load_adapter("house:latest", "/x").unwrap(), Offer::Given(()));
    assert_eq!(server.unload_adapter("x").unwrap(), Offer::Given(()));
    assert!(matches!(server.unload_adapter("house:latest"), Err(ServingError::NoEffect { .. })));
}
