//! Adapters of running servers are replaced and switched.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tonfall_serving::{AdapterFiles, Offer, ServingError, webhook};

use crate::fake::{Fake, Reply, json as reply, not_found};

fn files(number: u32) -> AdapterFiles {
    AdapterFiles {
        peft: format!("/srv/store/style/{number:06}/adapter"),
        gguf: Some(format!("/srv/store/style/{number:06}/exports/gguf-adapter/adapter.gguf")),
    }
}

fn refused(message: &str) -> Reply {
    Reply::Text(400, json!({"error": {"message": message}}).to_string())
}

/// A vLLM that has the adapters in its list. Adapters of version 9 are refused.
fn vllm(in_place: bool) -> Fake {
    let loaded: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    Fake::start(move |request| {
        let mut loaded = loaded.lock().unwrap();
        let text = |key: &str| request.body[key].as_str().unwrap_or_default().to_owned();
        let (name, path) = (text("lora_name"), text("lora_path"));
        match request.path.as_str() {
            "/version" => reply(json!({"version": "0.1"})),
            "/v1/models" => {
                let mut models = vec![json!({"id": "base"})];
                models.extend(loaded.iter().map(|(name, path)| json!({"id": name, "root": path})));
                reply(json!({"data": models}))
            }
            "/v1/load_lora_adapter" => {
                let known = loaded.iter().any(|(known, _)| *known == name);
                let replaces = in_place && request.body["load_inplace"] == true;
                if path.contains("000009") {
                    return refused("no adapter there");
                }
                if known && !replaces {
                    return refused("already been loaded");
                }
                loaded.retain(|(known, _)| *known != name);
                loaded.push((name, path));
                Reply::Text(200, "Success".to_owned())
            }
            "/v1/unload_lora_adapter" => {
                let before = loaded.len();
                loaded.retain(|(known, _)| *known != name);
                if loaded.len() < before { Reply::Text(200, "Success".to_owned()) } else { refused("not loaded") }
            }
            _ => not_found(),
        }
    })
}

/// What the fake vLLM uses as `style`.
fn used(fake: &Fake) -> Vec<(String, String)> {
    let answer = ureq::get(&format!("{}/v1/models", fake.url)).call().unwrap().body_mut().read_to_string().unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let models = answer["data"].as_array().unwrap().iter().skip(1);
    models.map(|model| (model["id"].as_str().unwrap().to_owned(), model["root"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn vllm_uses_the_new_adapter_under_the_old_name() {
    for in_place in [true, false] {
        let fake = vllm(in_place);
        let server = fake.connect().unwrap();
        for number in [1, 2, 2, 1] {
            assert_eq!(server.use_adapter("style", Some(&files(number))).unwrap(), Offer::Given(()));
            assert_eq!(used(&fake), [("style".to_owned(), files(number).peft)], "in place: {in_place}");
        }
        let unloads = fake.requests().iter().filter(|request| request.path.ends_with("unload_lora_adapter")).count();
        assert_eq!(unloads, if in_place { 0 } else { 6 });
        assert!(matches!(server.use_adapter("style", Some(&files(9))), Err(ServingError::Status { .. })));
        assert_eq!(used(&fake), [("style".to_owned(), files(1).peft)], "a refused adapter changes nothing");
        for _ in 0..2 {
            assert_eq!(server.use_adapter("style", None).unwrap(), Offer::Given(()));
            assert_eq!(used(&fake), []);
        }
    }
}

#[test]
fn llama_server_switches_between_the_adapters_of_its_command_line() {
    let scales = Mutex::new([0.0, 0.0]);
    let fake = Fake::start(move |request| {
        let mut scales = scales.lock().unwrap();
        match (request.method.as_str(), request.path.as_str()) {
            (_, "/props") => reply(json!({"default_generation_settings": {}})),
            (_, "/v1/models") => reply(json!({"data": [{"id": "base"}]})),
            ("POST", "/lora-adapters") => {
                for slot in request.body.as_array().unwrap() {
                    scales[slot["id"].as_u64().unwrap() as usize] = slot["scale"].as_f64().unwrap();
                }
                reply(json!({}))
            }
            (_, "/lora-adapters") => {
                let path = |number: u32| format!("/mnt/style/{number:06}/exports/gguf-adapter/adapter.gguf");
                reply(json!([
                    {"id": 0, "path": path(1), "scale": scales[0]},
                    {"id": 1, "path": path(2), "scale": scales[1]},
                ]))
            }
            _ => not_found(),
        }
    });
    let server = fake.connect().unwrap();
    let now = || server.adapters().unwrap().given().unwrap().iter().map(|slot| slot.scale).collect::<Vec<_>>();
    for (version, expected) in [(Some(1), [1.0, 0.0]), (Some(2), [0.0, 1.0]), (None, [0.0, 0.0]), (Some(1), [1.0, 0.0])]
    {
        assert_eq!(server.use_adapter("style", version.map(files).as_ref()).unwrap(), Offer::Given(()));
        assert_eq!(now(), expected, "the store is mounted elsewhere");
    }
    let error = server.use_adapter("style", Some(&files(3))).unwrap_err();
    assert!(matches!(error, ServingError::NoSlot { count: 2, .. }), "{error:?}");
    let without = AdapterFiles { gguf: None, ..files(1) };
    let error = server.use_adapter("style", Some(&without)).unwrap_err().to_string();
    assert!(error.contains("gguf-adapter"), "{error}");
    assert_eq!(now(), [1.0, 0.0]);
}

#[test]
fn other_servers_offer_no_change() {
    let fake = Fake::start(|request| match request.path.as_str() {
        "/v1/models" => reply(json!({"data": []})),
        _ => not_found(),
    });
    let found = fake.connect().unwrap().use_adapter("style", Some(&files(1))).unwrap();
    assert!(matches!(found, Offer::NotOffered(_)));
}

#[test]
fn webhooks_get_json_and_their_token() {
    let fake = Fake::start(|request| match request.path.as_str() {
        "/ok/secret" => Reply::Text(204, String::new()),
        "/silent/secret" => Reply::Silence,
        "/elsewhere/secret" => {
            Reply::Raw(b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec())
        }
        _ => Reply::Text(500, "no \u{1b}[2J".to_owned()),
    });
    let message = json!({"result": "published"});
    let send =
        |path: &str, token| webhook::post(&format!("{}{path}", fake.url), token, &message, Duration::from_secs(2));
    send("/ok/secret", Some("sk-1")).unwrap();
    let request = fake.requests().pop().unwrap();
    assert_eq!((request.method.as_str(), &request.body), ("POST", &message));
    assert!(
        request.headers.iter().any(|header| header.eq_ignore_ascii_case("authorization: Bearer sk-1")),
        "{request:?}"
    );
    send("/ok/secret", None).unwrap();
    assert!(
        !fake.requests().pop().unwrap().headers.iter().any(|header| header.to_lowercase().starts_with("authorization"))
    );
    for path in ["/fails/secret", "/silent/secret", "/elsewhere/secret"] {
        let error = send(path, Some("sk-1")).unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains("sk-1") && !error.contains('\u{1b}'), "{error}");
    }
    let error = send("/ok/secret", Some("sk\n1")).unwrap_err().to_string();
    assert!(!error.contains("secret"), "{error}");
    assert!(webhook::post("ftp://x/secret", None, &message, Duration::from_secs(1)).is_err());
}
