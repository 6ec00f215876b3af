//! Chat templates: faults, limits, and what transformers gives them.

use serde_json::json;

use super::tiny::{CHATML, spec};
use crate::{ChatTemplate, ChatTokenizer, Message, Rendering, TemplateError};

fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
    let now = spec(None, None).now.expect("the tests' moment");
    ChatTemplate::new(source, vec![("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())], now)
}

fn render(source: &str) -> Result<String, TemplateError> {
    let mut messages = [Message::new("user", "Grüße <b> & 'x'")];
    messages[0]
        .fields
        .insert("extra".to_owned(), json!({"z": [1, 2.0, 1e16, 1e-7], "a": null, "t": true, "s": "it's"}));
    template(source)?.render(Rendering { messages: &messages, tools: None, add_generation_prompt: true })
}

#[test]
fn faults_name_their_line() {
    let syntax = render("line one\n{% if %}").expect_err("not a condition");
    assert!(matches!(syntax, TemplateError::Syntax { line: 2, .. }), "{syntax}");
    let run = render("one\ntwo\n{{ nothing.at.all }}").expect_err("an attribute of nothing");
    assert!(matches!(run, TemplateError::Render { line: 3, .. }), "{run}");
    let unclosed = render("{% generation %}x").expect_err("no end");
    assert!(matches!(unclosed, TemplateError::Syntax { .. }), "{unclosed}");
    let raised = render("{% macro m() %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ m() }}");
    assert!(matches!(raised, Err(TemplateError::Raised(why)) if why == "roles must alternate"));
}

#[test]
fn a_template_that_loops_forever_is_stopped() {
    let nested = "{% for a in range(9999) %}\n{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    let stopped = render(nested).expect_err("too many steps");
    assert!(matches!(stopped, TemplateError::Fuel { .. }), "{stopped}");
    let recursive = render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").expect_err("too deep");
    assert!(matches!(recursive, TemplateError::Render { .. } | TemplateError::Fuel { .. }), "{recursive}");
    let long = render("{% for a in range(9999) %}{% for b in range(9) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}");
    assert!(matches!(long, Err(TemplateError::Output { .. })), "{long:?}");
    let vast = render("{{ 'x' * 99999999 * 99999999 }}").expect_err("too much memory");
    assert!(matches!(vast, TemplateError::Fuel { .. } | TemplateError::Render { .. }), "{vast}");
}

#[test]
fn the_environment_is_that_of_transformers() {
    let cases = [
        ("{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}", "<s></s>False"),
        ("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueTrue"),
        ("{{ strftime_now('%d %b %Y') }}", "24 Nov 2026"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ messages[0].content | tojson }}", "\"Grüße <b> & 'x'\""),
        ("{{ messages[0].extra | tojson }}", r#"{"z": [1, 2.0, 1e+16, 1e-07], "a": null, "t": true, "s": "it's"}"#),
        ("{{ messages[0].extra.z | tojson(indent=2) }}", "[\n  1,\n  2.0,\n  1e+16,\n  1e-07\n]"),
        ("{{ {'b': 1, 'a': 'ü'} | tojson(sort_keys=true, ensure_ascii=true) }}", r#"{"a": "\u00fc", "b": 1}"#),
        ("{{ [1, 2] | tojson(separators=[',', ':']) }}", "[1,2]"),
        ("{{ messages[0].extra }}", r#"{'z': [1, 2.0, 1e+16, 1e-07], 'a': None, 't': True, 's': "it's"}"#),
        (
            "{{ none is iterable }}{{ 'x' is sequence }}{{ messages is sequence }}{{ 1 is iterable }}",
            "FalseTrueTrueFalse",
        ),
        ("{{ 'a-b-c'.rsplit('-', 1)[0] }}{{ 'a-b'.partition('-')[2] }}{{ 'abc'.removeprefix('a') }}", "a-bbbc"),
        ("{% set n = namespace(x=1) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}", "4"),
        ("{% generation %}{% set x = 1 %}a{% endgeneration %}{{ x is defined }}", "aFalse"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source).expect(source), expected, "{source}");
    }
}

#[test]
fn reasoning_is_given_under_every_name_it_is_asked_by() {
    let mut message = Message::new("assistant", "4");
    message.fields.insert("reasoning".to_owned(), json!("easy"));
    let source = "{{ messages[0].thinking }} {{ messages[0].reasoning_content }} {{ messages[0].reasoning }}";
    let template = template(source).expect("sound");
    let rendered = template.render(Rendering { messages: &[message], tools: None, add_generation_prompt: false });
    assert_eq!(rendered.expect("sound"), "easy easy easy");
}

#[test]
fn a_block_inside_a_macro_can_not_be_followed() {
    let source = "{% macro m(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}{{ m(messages[0].content) }}";
    let template = template(source).expect("sound");
    let messages = [Message::new("assistant", "4")];
    let rendering = Rendering { messages: &messages, tools: None, add_generation_prompt: false };
    assert_eq!(template.render(rendering).expect("renders"), "4");
    assert!(matches!(template.render_marked(rendering), Err(TemplateError::Marks)));
}

#[test]
fn a_prompt_ends_where_the_assistant_speaks() {
    let tokenizer = ChatTokenizer::new(spec(Some(CHATML), Some("</s>"))).expect("a sound tokenizer");
    let ids = tokenizer.render_prompt(&[Message::new("user", "Hi")]).expect("renders");
    let text = tokenizer.decode_with_special(&ids).expect("its own ids");
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    // The end of a turn is found in the template, beside the end of sequence.
    assert_eq!(tokenizer.decode_with_special(&tokenizer.stop_ids()).expect("its own ids"), "</s><|im_end|>");
}
