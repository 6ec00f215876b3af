//! The rows against the Jinja templates of `tests/fixtures/ollama.json` (written by `tests/reference/make_ollama.py`).

use proptest::prelude::*;
use serde_json::Value;
use tonfall_adapters::ollama::{
    Choice, GoTemplate, Message, Modelfile, OllamaError, ROWS, Role, choose, literal, prefers_jinja, probes, render,
};

/// The row of each template of the fixture, and how many probes its Jinja template refuses. `None`: no row.
const EXPECTED: [(&str, Option<&str>, usize); 56] = [
    ("quickstart", Some("ChatML"), 0),
    ("smollm2", Some("ChatML with a default system prompt"), 0),
    ("hermes2_5", Some("ChatML"), 0),
    ("chatml_strict", Some("ChatML"), 0),
    ("qwen2_5", Some("ChatML with a default system prompt"), 0),
    ("qwen2_5_training", Some("ChatML with a default system prompt"), 0),
    ("qwen3", Some("Qwen 3 with thinking"), 0),
    ("qwen3 enable_thinking=false", Some("Qwen 3 without thinking"), 0),
    ("qwen3_training", None, 0),
    ("qwen3_training enable_thinking=false", None, 0),
    ("qwen3_instruct_2507", Some("ChatML"), 0),
    ("qwen3_instruct_2507_training", Some("ChatML"), 0),
    ("qwen3_instruct_2507_training enable_thinking=false", Some("ChatML"), 0),
    ("qwen3_5_think", Some("Qwen 3.5 with thinking"), 0),
    ("qwen3_5_think enable_thinking=false", Some("Qwen 3.5 without thinking"), 0),
    ("qwen3_5_think_training", Some("Qwen 3.5 with thinking in all turns"), 0),
    ("qwen3_5_think_training enable_thinking=false", Some("Qwen 3.5 without thinking, with reasoning in all turns"), 0),
    ("qwen3_6", Some("Qwen 3.5 with thinking"), 0),
    ("qwen3_6 enable_thinking=false", Some("Qwen 3.5 without thinking"), 0),
    ("lfm2", Some("ChatML without empty system prompts"), 0),
    ("lfm2_training", Some("ChatML without empty system prompts"), 0),
    ("llama3", Some("Llama 3"), 0),
    ("llama3_training", Some("Llama 3"), 0),
    ("llama3_1", Some("Llama 3 with a preamble"), 0),
    ("llama3_2", Some("Llama 3 with a preamble"), 0),
    ("gemma", Some("Gemma"), 9),
    ("gemma_training", Some("Gemma"), 9),
    ("gemma_7b", Some("Gemma"), 9),
    ("gemma3", Some("Gemma"), 0),
    ("gemma3_training", Some("Gemma"), 0),
    ("phi3", Some("Phi-3"), 0),
    ("phi3_training", Some("Phi-3"), 0),
    ("phi3_5", Some("Phi-3 without empty system prompts"), 0),
    ("phi3_5_training", Some("Phi-3 without empty system prompts"), 0),
    ("phi3_mini", Some("Phi-3 without system prompts"), 0),
    ("phi3_medium", Some("Phi-3 without system prompts"), 0),
    ("phi3_small", Some("Phi-3"), 0),
    ("phi4", Some("Phi-4"), 0),
    ("phi4_mini", Some("Phi-4-mini"), 0),
    ("zephyr", Some("Zephyr"), 0),
    ("cohere", Some("Cohere"), 0),
    ("cohere_training", Some("Cohere"), 0),
    ("mistral_v0_1", Some("Mistral before v1"), 9),
    ("mistral_v1", Some("Mistral v1"), 0),
    ("mistral_v3", Some("Mistral v3"), 0),
    ("mistral_v3_tekken", Some("Mistral v3 tekken"), 0),
    ("mistral_v7", Some("Mistral v7"), 0),
    ("deepseekv3", None, 0),
    ("deepseek_r1_distill", None, 0),
    ("glm4moe", None, 0),
    ("glm4moe enable_thinking=false", None, 0),
    ("gptoss", None, 0),
    ("gemma4", None, 0),
    ("gemma4 enable_thinking=false", None, 0),
    ("smolvlm", None, 0),
    ("brackets", None, 0),
];

struct Fixture(Value);

impl Fixture {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/ollama.json");
        Self(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    fn names(&self) -> Vec<&str> {
        self.0["templates"].as_array().unwrap().iter().map(|template| template["name"].as_str().unwrap()).collect()
    }

    /// Chooses a row for a template whose BOS is `bos`, or the fixture's.
    fn choose(&self, name: &str, bos: Option<&str>) -> Result<Choice, OllamaError> {
        let templates = self.0["templates"].as_array().unwrap();
        let template = templates.iter().find(|template| template["name"] == name).unwrap();
        let probes = probes();
        let bos = bos.unwrap_or(template["bos"].as_str().unwrap());
        choose(bos, &mut |messages, _| {
            let probe = probes.iter().position(|probe| probe.messages == messages).unwrap();
            match &template["renderings"][probe] {
                Value::String(why) => Err(why.clone()),
                text => Ok(self.0["texts"][text.as_u64().unwrap() as usize].as_str().unwrap().to_owned()),
            }
        })
    }
}

#[test]
fn the_probes_are_those_of_the_fixture() {
    let fixture = Fixture::read();
    let stored = fixture.0["probes"].as_object().unwrap();
    assert_eq!(stored.len(), probes().len());
    for (probe, (name, messages)) in probes().iter().zip(stored) {
        assert_eq!(probe.name, name);
        let of = |message: &Value, key: &str| message[key].as_str().map(str::to_owned);
        let stored: Vec<_> = messages
            .as_array()
            .unwrap()
            .iter()
            .map(|message| {
                (of(message, "role").unwrap(), of(message, "content").unwrap(), of(message, "reasoning_content"))
            })
            .collect();
        let ours: Vec<_> = probe
            .messages
            .iter()
            .map(|message| (message.role.name().to_owned(), message.content.clone(), message.thinking.clone()))
            .collect();
        assert_eq!(ours, stored, "{name}");
    }
}

#[test]
fn every_known_template_has_its_row_and_every_other_one_is_refused() {
    let fixture = Fixture::read();
    let mut names: Vec<_> = EXPECTED.iter().map(|(name, ..)| *name).collect();
    let mut stored = fixture.names();
    names.sort_unstable();
    stored.sort_unstable();
    assert_eq!(names, stored);
    for (name, row, refused) in EXPECTED {
        match (fixture.choose(name, None), row) {
            (Ok(choice), Some(row)) => {
                assert_eq!(choice.row.name, row, "{name}");
                assert_eq!((choice.refused.len(), choice.equal.len()), (refused, probes().len() - refused), "{name}");
                let stops = choice.row.stops.iter().map(|stop| (*stop).to_owned()).collect();
                let file = Modelfile {
                    from: "./m.gguf".into(),
                    template: Some(choice.template),
                    stops,
                    ..Modelfile::default()
                };
                file.text().unwrap();
            }
            (Err(OllamaError::NoRow { .. }), None) => {}
            (found, row) => panic!("{name}: expected {row:?}, found {found:?}"),
        }
    }
}

#[test]
fn texts_of_the_jinja_template_are_recovered() {
    let fixture = Fixture::read();
    for (name, text) in [
        ("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        ("qwen2_5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        ("llama3_1", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"),
        ("llama3_2", "Cutting Knowledge Date: December 2023\nToday Date: 30 Nov 2026\n\n"),
    ] {
        let choice = fixture.choose(name, None).unwrap();
        assert_eq!(choice.recovered.as_deref(), Some(text), "{name}");
        assert!(choice.template.contains(text), "{name}");
    }
    assert_eq!(fixture.choose("quickstart", None).unwrap().recovered, None);
}

#[test]
fn a_recovered_text_may_contain_what_go_and_modelfiles_treat_specially() {
    let default = "Sei „{{nett}}“\u{a0}\"\"\"\"{{/* */}} 👩‍👩‍👧\u{feff}!\n{{-  -}}";
    let mut jinja = |messages: &[Message], generation| {
        let text = chatml(messages, generation);
        Ok(match messages[0].role {
            Role::System => text,
            _ => format!("<|im_start|>system\n{default}<|im_end|>\n{text}"),
        })
    };
    let choice = choose("", &mut jinja).unwrap();
    assert_eq!(choice.recovered.as_deref(), Some(default));
    let file = Modelfile { from: "m".into(), template: Some(choice.template), ..Modelfile::default() };
    file.text().unwrap();
}

#[test]
fn bos_is_left_to_the_server_if_the_tokenizer_adds_it() {
    let fixture = Fixture::read();
    let added = fixture.choose("llama3_1", Some("<|begin_of_text|>")).unwrap();
    assert_eq!((&added.prefix[..], added.template.contains("begin_of_text")), ("", false));
    let written = fixture.choose("llama3_1", Some("")).unwrap();
    assert_eq!(written.prefix, "<|begin_of_text|>");
    assert!(written.template.starts_with("<|begin_of_text|>"));
    match fixture.choose("quickstart", Some("<s>")) {
        Err(OllamaError::Bos { bos, start }) => {
            assert_eq!((&bos[..], start.starts_with("<|im_start|>")), ("<s>", true))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_template_that_differs_in_one_conversation_is_refused_with_that_conversation() {
    let mut trims = |messages: &[Message], generation| {
        let system = |message: &Message| message.role == Role::System && message.content.trim().is_empty();
        let kept: Vec<_> = messages.iter().filter(|message| !system(message)).cloned().collect();
        Ok(chatml(&kept, generation))
    };
    match choose("", &mut trims) {
        Err(OllamaError::NoRow { row, probe, expected, found, .. }) => {
            assert_eq!((row, probe), ("ChatML without empty system prompts", "blank system"));
            assert!(expected.contains("fuel cell") && found.contains("system"), "{expected:?} {found:?}");
        }
        other => panic!("{other:?}"),
    }
    let error = Fixture::read().choose("brackets", None).unwrap_err().to_string();
    assert!(error.contains("\"question\" differs at byte 1") && error.contains("llama.cpp"), "{error}");
}

#[test]
fn a_template_that_ends_turns_in_another_way_is_refused() {
    // Equal while the user speaks last, but its assistant's last turn has no end.
    let mut endless = |messages: &[Message], generation| {
        let text = chatml(messages, generation);
        Ok(if generation { text } else { text.trim_end_matches("<|im_end|>\n").to_owned() })
    };
    assert!(matches!(choose("", &mut endless), Err(OllamaError::NoRow { probe: "continued", .. })));
}

#[test]
fn conversations_that_every_server_needs_must_be_rendered() {
    let mut refuses = |messages: &[Message], generation| match messages.len() {
        3 => Err("one turn only".to_owned()),
        _ => Ok(chatml(messages, generation)),
    };
    assert_eq!(
        choose("", &mut refuses).unwrap_err(),
        OllamaError::Refused { probe: "turns", why: "one turn only".to_owned() }
    );
}

#[test]
fn the_rows_continue_the_last_message_and_need_no_system_prompt() {
    let talk = [Message::new(Role::User, "Hi"), Message::new(Role::Assistant, "Hel")];
    for row in &ROWS {
        let template = GoTemplate::parse(&row.template("", "")).unwrap();
        let text = render(&template, &talk).unwrap();
        assert!(text.ends_with("Hel"), "{}: {text}", row.name);
        assert!(template.mentions("Messages") && !template.mentions("Prompt"), "{}", row.name);
    }
}

#[test]
fn adjacent_messages_of_one_role_are_merged() {
    let template =
        GoTemplate::parse("{{ .System }}|{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}").unwrap();
    let talk: Vec<_> =
        [(Role::System, "a"), (Role::User, "b"), (Role::User, "c"), (Role::System, "d"), (Role::System, "e")]
            .into_iter()
            .map(|(role, text)| Message::new(role, text))
            .collect();
    assert_eq!(render(&template, &talk).unwrap(), "a\n\nd\n\ne|[system:a][user:b\n\nc][system:d\n\ne]");
    let old = GoTemplate::parse("{{ .Prompt }}").unwrap();
    assert_eq!(render(&old, &talk).unwrap_err(), OllamaError::WithoutMessages);
}

#[test]
fn ollama_ignores_the_template_if_the_jinja_template_can_do_more() {
    let fixture = Fixture::read();
    let plain = GoTemplate::parse(&fixture.choose("qwen2_5", None).unwrap().template).unwrap();
    let thinking = GoTemplate::parse(&fixture.choose("qwen3", None).unwrap().template).unwrap();
    let reasons = "<think>{{ content }}</think>";
    let tools = "{% if tools %}";
    let both = format!("{tools}{reasons}");
    assert!(!prefers_jinja("{{ messages }}", &plain));
    assert!(prefers_jinja(tools, &plain) && !prefers_jinja(tools, &thinking));
    assert!(prefers_jinja(reasons, &plain) && !prefers_jinja(reasons, &thinking));
    assert!(prefers_jinja(&both, &plain) && prefers_jinja(&both, &thinking));
    assert!(prefers_jinja("content.split('</think>')", &plain));
    assert!(!prefers_jinja("content.split('</think>') reasoning_content", &plain));
}

/// ChatML, written a second time.
fn chatml(messages: &[Message], generation: bool) -> String {
    let turn = |message: &Message| format!("<|im_start|>{}\n{}<|im_end|>\n", message.role.name(), message.content);
    let turns: String = messages.iter().map(turn).collect();
    turns + if generation { "<|im_start|>assistant\n" } else { "" }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,40}", "[ \\t\\r\\n{}\"a-c\u{a0}ü]{0,12}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn chatml_is_what_a_formatter_writes(system in proptest::option::of(text()), turns in proptest::collection::vec(text(), 1..9)) {
        let mut messages: Vec<_> = system.iter().map(|text| Message::new(Role::System, text)).collect();
        let roles = [Role::User, Role::Assistant];
        messages.extend(turns.iter().enumerate().map(|(turn, text)| Message::new(roles[turn % 2], text)));
        let template = GoTemplate::parse(&ROWS[0].template("", "")).unwrap();
        let mut expected = chatml(&messages, turns.len() % 2 == 1);
        if turns.len() % 2 == 0 {
            expected.truncate(expected.len() - "<|im_end|>\n".len());
        }
        prop_assert_eq!(render(&template, &messages).unwrap(), expected);
    }

    #[test]
    fn llama_3_trims_what_rust_trims(content in "[ \\t\\r\\n\u{b}\u{c}xü]{0,20}") {
        let row = ROWS.iter().find(|row| row.name == "Llama 3").unwrap();
        let template = GoTemplate::parse(&row.template("", "")).unwrap();
        let rendered = render(&template, &[Message::new(Role::Assistant, &content[..])]).unwrap();
        prop_assert_eq!(rendered, format!("<|start_header_id|>assistant<|end_header_id|>\n\n{}", content.trim()));
    }

    #[test]
    fn a_literal_renders_as_itself(text in text(), braces in "[{}\"/*% a-]{0,12}") {
        for text in [text, braces] {
            let template = GoTemplate::parse(&literal(&text, |character| character == 'b' || !character.is_ascii())).unwrap();
            prop_assert_eq!(template.execute(tonfall_adapters::ollama::Value::Nil).unwrap(), text);
        }
    }
}
