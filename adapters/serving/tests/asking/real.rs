//! A real server, if one is named. `TONFALL_SERVER=URL cargo test --release -p tonfall-serving -- --ignored --nocapture`

use tonfall_serving::{ApiKey, Limits, Message, Offer, Prompt, Server, ToTokenize};

#[test]
#[ignore = "needs a server at TONFALL_SERVER"]
fn a_real_server_answers_everything_that_its_kind_offers() {
    let url = std::env::var("TONFALL_SERVER").unwrap();
    let server = Server::with(&url, ApiKey::from_env("TONFALL_API_KEY").unwrap(), Limits::default()).unwrap();
    let models = server.models().unwrap();
    let model = models.first().unwrap();
    eprintln!("{} at {}: {models:?}", server.kind(), server.url());

    let text = "The capital of France is";
    let from_text = server.complete(model, Prompt::Text(text), 6).unwrap();
    eprintln!("{from_text:?}");
    let special = |add_special| ToTokenize::Text { text, add_special };
    if let Offer::Given(ids) = server.tokenize(model, special(true)).unwrap() {
        assert_eq!(server.complete(model, Prompt::Tokens(&ids), 6).unwrap(), from_text);
        eprintln!("{ids:?}, without special tokens {:?}", server.tokenize(model, special(false)).unwrap());
    }
    let messages = [Message { role: "user".to_owned(), content: "Say hi".to_owned() }];
    eprintln!("{:?}", server.chat(model, &messages, 8).unwrap());
    eprintln!("{:?}", server.tokenize(model, ToTokenize::Messages(&messages)).unwrap());

    if let Offer::Given(slots) = server.adapters().unwrap() {
        eprintln!("{slots:?}");
        server.set_adapters(&[]).unwrap();
        let base = server.complete(model, Prompt::Text(text), 6).unwrap();
        let all: Vec<(u32, f64)> = slots.iter().map(|slot| (slot.id, 0.5)).collect();
        server.set_adapters(&all).unwrap();
        let with_adapters = server.complete(model, Prompt::Text(text), 6).unwrap();
        assert_eq!(base == with_adapters, slots.is_empty(), "{base:?} {with_adapters:?}");
        let before: Vec<(u32, f64)> = slots.iter().map(|slot| (slot.id, slot.scale)).collect();
        server.set_adapters(&before).unwrap();
    }
}
