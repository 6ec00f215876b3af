//! Answers of a real llama-server, recorded by `tests/reference/make_serving.py`. A request that was not recorded, byte
//! for byte in its JSON, is refused: the requests of this crate are therefore those that the real server understood.

use serde_json::Value;
use tonfall_serving::{Finish, Kind, Message, Offer, Prompt, ServingError, ToTokenize};

use crate::fake::{Fake, Reply};

const MODEL: &str = "smollm2";

fn replay() -> Fake {
    let records: Vec<Value> = serde_json::from_str(include_str!("../fixtures/llama-server.json")).unwrap();
    Fake::start(move |request| {
        let same = |record: &&Value| {
            record["method"] == request.method.as_str()
                && record["path"] == request.path.as_str()
                && record["body"] == request.body
        };
        match records.iter().find(same) {
            Some(record) => Reply::Text(record["status"].as_u64().unwrap() as u16, record["answer"].to_string()),
            None => Reply::Text(500, format!("not recorded: {request:?}")),
        }
    })
}

fn rendered() -> String {
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
     <|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n"
        .to_owned()
}

#[test]
fn llama_server_is_recognised_with_its_models_and_adapters() {
    let server = replay().connect().unwrap();
    assert_eq!(server.kind(), Kind::LlamaServer);
    assert_eq!(server.models().unwrap(), [MODEL]);
    let slots = server.adapters().unwrap().given().unwrap();
    assert_eq!((slots.len(), slots[0].id, slots[0].scale), (1, 0, 1.0));
}

#[test]
fn token_ids_and_texts_are_completed_with_all_ids() {
    let server = replay().connect().unwrap();
    let complete = |prompt, n| server.complete(MODEL, prompt, n).unwrap().given().unwrap();
    let from_ids = complete(Prompt::Tokens(&[504, 3575, 282, 4649, 314]), 6);
    assert_eq!(from_ids.text, " Paris.\n\nThe United");
    assert_eq!((from_ids.tokens.as_ref().unwrap().len(), &from_ids.finish), (6, &Finish::Length));
    assert_eq!(complete(Prompt::Text("The capital of France is"), 6), from_ids);

    // Eight ids for less than three characters: ids that are part of a character are returned too.
    let emoji = complete(Prompt::Text("The animals are 🦊🐼🦁🐯"), 8);
    assert_eq!(emoji.tokens.unwrap(), [10813, 234, 137, 10813, 234, 137, 10813, 234]);

    let stopped = complete(Prompt::Text(&rendered()), 40);
    assert_eq!((stopped.finish, stopped.tokens.unwrap().last()), (Finish::Stop, Some(&2)));
}

#[test]
fn chats_and_templates() {
    let server = replay().connect().unwrap();
    let messages = [Message { role: "user".to_owned(), content: "Say hi".to_owned() }];
    assert_eq!(server.chat(MODEL, &messages, 8).unwrap().text, "Hello there, welcome to my world!");
    let ids = server.tokenize(MODEL, ToTokenize::Messages(&messages)).unwrap().given().unwrap();
    let text = server.tokenize(MODEL, ToTokenize::Text { text: &rendered(), add_special: true }).unwrap();
    assert_eq!(Offer::Given(ids.clone()), text);
    assert_eq!((ids.len(), &ids[..2]), (32, &[1, 9690][..]));
    let part = ToTokenize::Text { text: "<|im_start|>user", add_special: false };
    assert_eq!(server.tokenize(MODEL, part).unwrap(), Offer::Given(vec![1, 4093]));
}

#[test]
fn the_servers_own_words_for_a_bad_prompt() {
    let server = replay().connect().unwrap();
    let error = server.complete(MODEL, Prompt::Tokens(&[504, 99_999_999]), 4).unwrap_err();
    assert!(error.to_string().ends_with("the server answers 400: Prompt contains invalid tokens"), "{error}");
}

#[test]
fn adapters_that_do_not_exist_or_do_not_change_are_errors() {
    let server = replay().connect().unwrap();
    // The real server answers `success` for any number.
    let error = server.set_adapters(&[(7, 1.0)]).unwrap_err();
    assert!(matches!(error, ServingError::UnknownAdapter { id: 7, count: 1, .. }), "{error:?}");
    // The recorded list shows the scale 1.0 before and after.
    let error = server.set_adapters(&[]).unwrap_err();
    assert!(error.to_string().contains("adapter 0 has the scale 1 instead of 0"), "{error}");
}
