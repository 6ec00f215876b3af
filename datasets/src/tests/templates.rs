//! Chat templates: errors, limits, and the environment of transformers.

use std::collections::BTreeMap;

use serde_json::json;
use tonfall_recipes::plan::Variable;

use super::tiny::{CHATML, spec};
use crate::{ChatTemplate, ChatTokenizer, Message, Rendering, TemplateError, TokenizerSpec};

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
    assert!(matches!(raised, Err(TemplateError::Raised { message, .. }) if message == "roles must alternate"));
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
fn containers_are_limited() {
    // Without limits, each of these would need unlimited memory or time, or overflow the stack of a thread.
    let in_a_loop = |start: &str, step: &str| {
        format!(
            "{{% set ns = namespace(x={start}) %}}{{% for i in range(99999) %}}{{% set ns.x = {step} %}}{{% endfor %}}"
        )
    };
    let hostile = [
        format!("{{% set x = [1] %}}{}{{{{ x | length }}}}", "{% set x = x + x %}".repeat(40)),
        in_a_loop("[]", "ns.x + [i]"),
        in_a_loop("[]", "[i] + ns.x"),
        in_a_loop("[1]", "[ns.x]"),
        in_a_loop("[1]", "(ns.x,)"),
        in_a_loop("[1]", "{'a': ns.x}"),
        in_a_loop("[1]", "namespace(x=ns.x)"),
        in_a_loop("[1]", "ns.x | batch(1)"),
        in_a_loop("[1]", "ns.x[::1]"),
        in_a_loop("[1]", "ns.x | reverse"),
        "{{ ([1] * 900000) | tojson | length }}{{ ([1] * 900000) | tojson | length }}".to_owned(),
        "{% for i in range(999) %}{% set x = ([1] * 900000) | string %}{% endfor %}".to_owned(),
        "{{ [[1]] | tojson(indent='x' * 9999999) }}".to_owned(),
    ];
    for source in hostile {
        let stopped = render(&source).expect_err(&source);
        let limited = matches!(stopped, TemplateError::Fuel { .. } | TemplateError::Render { .. });
        assert!(limited, "{source}: {stopped}");
    }
    let reserved = template("{% set __tonfall_made = dict %}").expect_err("a way around the limits");
    assert!(reserved.to_string().contains("reserved"), "{reserved}");
    // Conversations of 500 messages stay far below the limits.
    let source = "{% set ns = namespace(list=[]) %}{% for m in messages %}{% set found = namespace(any=false) %}\
                  {% set ns.list = ns.list + [m] %}{{ m.content.split(' ')[-1] }}{{ {'role': m.role} | tojson }}\
                  {% for part in messages[:2] %}{{ part.role }}{% endfor %}{% endfor %}{{ ns.list | length }}";
    let messages = vec![Message::new("user", "one two ".repeat(40)); 500];
    let long = template(source).expect("sound");
    let rendered = long.render(Rendering { messages: &messages, tools: None, add_generation_prompt: false });
    assert!(rendered.expect("within the limits").ends_with("500"));
}

#[test]
fn rewritten_templates_render_the_same_text() {
    let cases = [
        ("{% set a, b = 1, 2 %}{{ (a + b) }}{{ 'x' ~ a }}{{ [a] + [b] + [3] }}", "3x1[1, 2, 3]"),
        (
            "{% set m = {'a': {'b': [1, 2, 3]}} %}{{ (m.a)['b'][1:][0] }}{{ m.a.items() | list }}{{ m['a'].b[:2] }}",
            "2[('b', [1, 2, 3])][1, 2]",
        ),
        ("{{ (messages[0].extra.z + [4])[::-1] | list | first }}{{ 'a,b'.split(',')[1:][0].upper() }}", "4B"),
        ("{% macro f(x, y=[1]) %}{{ x }}{{ y | sort }}{% endmacro %}{{ f([tools]) }}", "[None][1]"),
        ("{% for k, v in {'a': [tools]} | items %}{{ k }}{{ v }}{{ loop.cycle('x', 'y') }}{% endfor %}", "a[None]x"),
        ("{% for x in [1, [tools]] if x in [1, tools] %}{{ x }}{% endfor %}{{ (1, tools) | length }}", "12"),
        ("{% with q = (1, tools) %}{{ q + q }}{% endwith %}{% filter upper %}x{% endfilter %}", "(1, None, 1, None)X"),
        ("{% generation %}{{ ([1] + [2]) | list }}{% endgeneration %}", "[1, 2]"),
        ("{{ dict(a=[tools]) }}{{ (['b', 'a'] | sort) + ['c'] }}", "{'a': [None]}['a', 'b', 'c']"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source).expect(source), expected, "{source}");
    }
    let marked =
        template("{{ [1] + [2] }}{% generation %}{{ [3] + messages[:1] | list }}{% endgeneration %}!").expect("sound");
    let messages = [Message::new("assistant", "4")];
    let rendering = Rendering { messages: &messages, tools: None, add_generation_prompt: false };
    let (text, ranges) = marked.render_marked(rendering).expect("marks");
    assert_eq!(ranges, vec![6..text.len() - 1; 1], "{text}");
}

#[test]
fn templates_receive_the_variables_of_the_recipe() {
    let variables = BTreeMap::from([
        ("enable_thinking".to_owned(), Variable::Bool(false)),
        ("effort".to_owned(), Variable::Text("low".to_owned())),
        ("builtin_tools".to_owned(), Variable::List(vec!["search".to_owned()])),
        ("count".to_owned(), Variable::Integer(3)),
    ]);
    let source = "{{ enable_thinking }} {{ effort }} {{ builtin_tools[0] }} {{ count + 1 }} {{ bos_token }}";
    let without = ChatTokenizer::new(spec(Some(source), None)).expect("a sound tokenizer");
    let tokenizer = without.clone().with_template_variables(&variables);
    let ids = tokenizer.render_prompt(&[Message::new("user", "Hi")]).expect("renders");
    assert_eq!(tokenizer.decode_with_special(&ids).expect("its own ids"), "False low search 4 <s>");
    assert_ne!(tokenizer.fingerprint(), without.fingerprint(), "another key in the cache");
}

#[test]
fn errors_name_the_file_of_the_template() {
    let place = Some("chat template house.jinja".to_owned());
    let named = |source: &str| TokenizerSpec { template_place: place.clone(), ..spec(Some(source), None) };
    let syntax = ChatTokenizer::new(named("{% if %}")).expect_err("not a condition").to_string();
    assert!(syntax.starts_with("chat template house.jinja, line 1: "), "{syntax}");
    let tokenizer = ChatTokenizer::new(named("{{ raise_exception('no') }}")).expect("compiles");
    let raised = tokenizer.render_prompt(&[Message::new("user", "Hi")]).expect_err("refused").to_string();
    assert_eq!(raised, "the chat template house.jinja refuses the conversation: no");
}

#[test]
fn the_environment_equals_that_of_transformers() {
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
fn reasoning_is_available_under_every_name() {
    let mut message = Message::new("assistant", "4");
    message.fields.insert("reasoning".to_owned(), json!("easy"));
    let source = "{{ messages[0].thinking }} {{ messages[0].reasoning_content }} {{ messages[0].reasoning }}";
    let template = template(source).expect("sound");
    let rendered = template.render(Rendering { messages: &[message], tools: None, add_generation_prompt: false });
    assert_eq!(rendered.expect("sound"), "easy easy easy");
}

#[test]
fn a_generation_block_inside_a_macro_is_an_error() {
    let source = "{% macro m(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}{{ m(messages[0].content) }}";
    let template = template(source).expect("sound");
    let messages = [Message::new("assistant", "4")];
    let rendering = Rendering { messages: &messages, tools: None, add_generation_prompt: false };
    assert_eq!(template.render(rendering).expect("renders"), "4");
    assert!(matches!(template.render_marked(rendering), Err(TemplateError::Marks { .. })));
}

#[test]
fn a_prompt_ends_with_the_start_of_the_assistant_turn() {
    let tokenizer = ChatTokenizer::new(spec(Some(CHATML), Some("</s>"))).expect("a sound tokenizer");
    let ids = tokenizer.render_prompt(&[Message::new("user", "Hi")]).expect("renders");
    let text = tokenizer.decode_with_special(&ids).expect("its own ids");
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    // The end-of-turn token is found in the template, in addition to the end-of-sequence token.
    assert_eq!(tokenizer.decode_with_special(&tokenizer.stop_ids()).expect("its own ids"), "</s><|im_end|>");
}
