//! Compares rendering, token ids and labels with transformers (`tests/fixtures/chat`, created by
//! `tests/reference/make_chat.py`).

use std::path::Path;

use serde_json::Value;
use tonfall_recipes::plan::{Thinking, TrainOn};

use crate::{
    ChatTemplate, ChatTokenizer, Conversation, LabelOptions, Message, Rendering, Sample, TokenizerSpec, label_sample,
};

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chat").join(name);
    std::fs::read(&path).expect("the repository's fixtures")
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fixture(name)).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn messages(rows: &Value) -> Vec<Message> {
    let message =
        |row: &Value| Message::from_fields(row.as_object().expect("a message").clone()).expect("a sound message");
    list(rows).iter().map(message).collect()
}

#[test]
fn templates_render_mark_and_refuse_like_transformers() {
    let fixture = json("templates.json");
    let special = || {
        let name = |name: &'static str| (name, fixture["special_tokens"][name].as_str().expect("a token").to_owned());
        ["bos_token", "eos_token", "pad_token", "unk_token"].map(name).to_vec()
    };
    for case in list(&fixture["cases"]) {
        let name = format!("{}, {}", case["template"], case["name"]);
        let source = fixture["templates"][case["template"].as_str().expect("a name")].as_str().expect("Jinja");
        let template = ChatTemplate::new(source, special(), jiff::Zoned::now()).expect("sound");
        let messages = messages(&case["messages"]);
        let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
        let add_generation_prompt = case["add_generation_prompt"] == true;
        let rendering = Rendering { messages: &messages, tools, add_generation_prompt };
        let Some(expected) = case["text"].as_str() else {
            template.render(rendering).expect_err(&name);
            continue;
        };
        assert_eq!(template.render(rendering).expect(&name), expected, "{name}");
        if let Some(ranges) = case["generation"].as_array().filter(|ranges| !ranges.is_empty()) {
            let (_, marked) = template.render_marked(rendering).expect(&name);
            let marked: Vec<[usize; 2]> = marked.into_iter().map(|range| [range.start, range.end]).collect();
            assert_eq!(
                Value::from(marked.iter().map(|range| Value::from(range.to_vec())).collect::<Vec<_>>()),
                Value::from(ranges.clone()),
                "{name}"
            );
        }
    }
}

#[test]
fn conversations_get_the_token_ids_and_labels_of_the_reference() {
    let fixture_json = json("smollm2.json");
    let special = |name: &str| fixture_json["special_tokens"][name].as_str().map(str::to_owned);
    let tokenizer = ChatTokenizer::new(TokenizerSpec {
        tokenizer_json: fixture("tokenizer.json"),
        chat_template: Some(String::from_utf8(fixture("chat_template.jinja")).expect("UTF-8")),
        bos_token: special("bos_token"),
        eos_token: special("eos_token"),
        vocab_size: 512,
        ..TokenizerSpec::default()
    })
    .expect("a sound tokenizer");
    for row in list(&fixture_json["conversations"]) {
        let (name, expected) = (row["name"].as_str().expect("a name"), &row["small"]);
        let messages = messages(&row["messages"]);
        let text = |add_generation_prompt| {
            let rendering = Rendering { messages: &messages, tools: None, add_generation_prompt };
            tokenizer.template().expect("it has one").render(rendering).expect(name)
        };
        assert_eq!(
            (text(false).as_str(), text(true).as_str()),
            (row["text"].as_str().expect(name), row["prompt"].as_str().expect(name))
        );
        let prompt = tokenizer.render_prompt(&messages).expect(name);
        assert_eq!(prompt, tokenizer.encode(&text(true)).expect(name));
        let sample = Sample::Conversation(Conversation { messages, tools: None });
        let labelled =
            label_sample(&sample, &tokenizer, LabelOptions { train_on: TrainOn::Assistant, thinking: Thinking::Keep })
                .expect(name);
        assert_eq!(Value::from(labelled.input_ids), expected["input_ids"], "{name}");
        assert_eq!(Value::from(labelled.labels), expected["labels"], "{name}");
        assert_eq!(Value::from(labelled.straddling), expected["straddling"], "{name}");
    }
}
