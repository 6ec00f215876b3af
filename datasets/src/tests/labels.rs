//! Tests which tokens are trained.

use tonfall_recipes::plan::{Thinking, TrainOn};

use super::tiny::{CHATML, chatml, conversation, spec, tokenizer_json};
use crate::{ChatTokenizer, Conversation, IGNORED, LabelOptions, Labelled, Message, RowFault, Sample};

fn with_template(template: &str, eos: Option<&str>) -> ChatTokenizer {
    ChatTokenizer::new(spec(Some(template), eos)).expect("a sound tokenizer")
}

/// The runs of trained tokens, as text.
fn trained(tokenizer: &ChatTokenizer, labelled: &Labelled) -> Vec<String> {
    assert_eq!(labelled.input_ids.len(), labelled.labels.len());
    let mut stretches: Vec<Vec<u32>> = vec![Vec::new()];
    for (&id, &label) in labelled.input_ids.iter().zip(&labelled.labels) {
        match label {
            IGNORED => stretches.push(Vec::new()),
            label => {
                assert_eq!(label, i32::try_from(id).expect("small"), "a label is its own id");
                stretches.last_mut().expect("never empty").push(id);
            }
        }
    }
    let texts = stretches.iter().filter(|ids| !ids.is_empty()).map(|ids| tokenizer.decode_with_special(ids));
    texts.collect::<Result<_, _>>().expect("ids of this tokenizer")
}

fn label_sample(sample: &Sample, tokenizer: &ChatTokenizer, train_on: TrainOn) -> Result<Labelled, RowFault> {
    crate::label_sample(sample, tokenizer, LabelOptions { train_on, thinking: Thinking::Keep })
}

fn label(tokenizer: &ChatTokenizer, sample: &Sample, train_on: TrainOn) -> Labelled {
    label_sample(sample, tokenizer, train_on).expect("a sample that can be labelled")
}

const TALK: [(&str, &str); 5] =
    [("system", "Be kind."), ("user", "Grüezi?"), ("assistant", "Grüße 🎈."), ("user", "And?"), ("assistant", "Bye\n")];

#[test]
fn only_answers_and_their_end_tokens_are_trained() {
    let tokenizer = chatml();
    let labelled = label(&tokenizer, &conversation(&TALK), TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &labelled), ["Grüße 🎈.<|im_end|>", "Bye\n<|im_end|>"]);
    assert_eq!((labelled.straddling, labelled.unterminated), (0, 0));
    let text = tokenizer.decode_with_special(&labelled.input_ids).expect("its own ids");
    assert!(
        text.starts_with("<|im_start|>system\nBe kind.<|im_end|>\n") && text.ends_with("Bye\n<|im_end|>\n"),
        "{text}"
    );
}

#[test]
fn train_on_selects_the_last_answer_or_everything() {
    let tokenizer = chatml();
    let last = label(&tokenizer, &conversation(&TALK), TrainOn::LastAssistant);
    assert_eq!(trained(&tokenizer, &last), ["Bye\n<|im_end|>"]);
    let all = label(&tokenizer, &conversation(&TALK), TrainOn::All);
    assert!(all.labels.iter().all(|label| *label != IGNORED));
}

/// The same format as ChatML, with `{% generation %}` blocks around the answers.
const MARKED: &str = "{% for message in messages %}{% if message.role == 'assistant' %}\
<|im_start|>assistant\n{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}\
{% else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

#[test]
fn generation_blocks_mark_the_same_tokens() {
    let (plain, marked) = (chatml(), with_template(MARKED, Some("<|im_end|>")));
    for train_on in [TrainOn::Assistant, TrainOn::LastAssistant, TrainOn::All] {
        assert_eq!(label(&marked, &conversation(&TALK), train_on), label(&plain, &conversation(&TALK), train_on));
    }
}

/// Removes the thinking blocks of earlier answers, like the templates of reasoning models.
const FORGETFUL: &str = "{% for message in messages %}{% set content = message.content %}\
{% if message.role == 'assistant' and not loop.last %}{% set content = content.split('</think>')[-1] %}{% endif %}\
{{ '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

#[test]
fn turns_are_located_in_a_template_that_changes_earlier_turns() {
    let tokenizer = with_template(FORGETFUL, Some("<|im_end|>"));
    let talk =
        [("user", "1?"), ("assistant", "<think>x</think>one"), ("user", "2?"), ("assistant", "<think>y</think>two")];
    let labelled = label(&tokenizer, &conversation(&talk), TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &labelled), ["one<|im_end|>", "<think>y</think>two<|im_end|>"]);

    // An end token inside an answer is part of the answer.
    let quoting =
        [("user", "1?"), ("assistant", "<think>x</think>say <|im_end|>."), ("user", "2?"), ("assistant", "two")];
    let labelled = label(&tokenizer, &conversation(&quoting), TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &labelled), ["say <|im_end|>.<|im_end|>", "two<|im_end|>"]);

    // Without an end token, the end of the turn can't be located.
    let endless = with_template(&FORGETFUL.replace("<|im_end|>", ""), Some("</s>"));
    let refused = label_sample(&conversation(&talk), &endless, TrainOn::Assistant);
    assert!(matches!(refused, Err(RowFault::Turn { turn: 1, .. })), "{refused:?}");
}

#[test]
fn a_thinking_tag_in_the_generation_prompt_is_no_part_of_a_finished_turn() {
    let template =
        CHATML.replace("'<|im_start|>assistant\\n' }}{% endif", "'<|im_start|>assistant\\n<think>' }}{% endif");
    let tokenizer = with_template(&template, Some("<|im_end|>"));
    let labelled = label(&tokenizer, &conversation(&[("user", "1?"), ("assistant", "one")]), TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &labelled), ["one<|im_end|>"]);
}

#[test]
fn an_answer_that_changes_the_text_before_it_is_refused() {
    let template =
        "{% for message in messages %}{{ messages[-1].content | length ~ message.role ~ message.content }}{% endfor %}";
    let tokenizer = with_template(template, Some("</s>"));
    let refused = label_sample(&conversation(&[("user", "1?"), ("assistant", "one")]), &tokenizer, TrainOn::Assistant);
    assert!(matches!(refused, Err(RowFault::Turn { turn: 1, .. })), "{refused:?}");
}

#[test]
fn a_turn_without_an_end_token_is_counted() {
    let template = "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
    let tokenizer = with_template(template, Some("</s>"));
    let labelled = label(&tokenizer, &conversation(&[("user", "1?"), ("assistant", "one!")]), TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &labelled), ["one!"]);
    assert_eq!(labelled.unterminated, 1);
    // A full stop and a line break are one token. The line break belongs to the template, so the token is not trained.
    let labelled = label(&tokenizer, &conversation(&[("user", "1?"), ("assistant", "one.")]), TrainOn::Assistant);
    assert_eq!((trained(&tokenizer, &labelled), labelled.straddling), (vec!["one".to_owned()], 1));
}

#[test]
fn a_token_that_starts_in_the_prompt_is_not_trained() {
    let tokenizer = chatml();
    let labelled = label(&tokenizer, &conversation(&[("user", "1?"), ("assistant", "\none")]), TrainOn::Assistant);
    assert_eq!((trained(&tokenizer, &labelled), labelled.straddling), (vec!["one<|im_end|>".to_owned()], 1));
}

#[test]
fn an_end_token_that_strips_white_space_is_trained() {
    let mut spec = spec(Some(CHATML), Some("<|im_end|>"));
    let mut json = tokenizer_json(&[]);
    for token in json["added_tokens"].as_array_mut().expect("a list") {
        token["rstrip"] = true.into();
    }
    spec.tokenizer_json = json.to_string().into_bytes();
    let tokenizer = ChatTokenizer::new(spec).expect("a sound tokenizer");
    let labelled = label(&tokenizer, &conversation(&[("user", "1?"), ("assistant", "one")]), TrainOn::Assistant);
    assert_eq!((trained(&tokenizer, &labelled), labelled.straddling), (vec!["one<|im_end|>".to_owned()], 0));
}

#[test]
fn further_end_tokens_after_a_turn_are_not_trained() {
    let template = format!("{CHATML}{{% if not add_generation_prompt %}}</s>{{% endif %}}");
    let tokenizer = with_template(&template, Some("</s>"));
    let labelled = label(&tokenizer, &conversation(&[("user", "1?"), ("assistant", "one")]), TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &labelled), ["one<|im_end|>"]);
}

#[test]
fn a_turn_of_tool_calls_is_trained() {
    let template = "{% for message in messages %}<|im_start|>{{ message.role + '\\n' }}{{ message.content or '' }}\
                    {% for call in message.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let tokenizer = with_template(template, Some("<|im_end|>"));
    let mut call = Message::new("assistant", "");
    call.fields.insert("tool_calls".to_owned(), serde_json::json!([{"b": 1, "a": 2.0}]));
    let messages = vec![Message::new("user", "?"), call, Message::new("tool", "3"), Message::new("assistant", "three")];
    let sample = Sample::Conversation(Conversation { messages, tools: None });
    let labelled = label(&tokenizer, &sample, TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &labelled), [r#"{"b": 1, "a": 2.0}<|im_end|>"#, "three<|im_end|>"]);
}

#[test]
fn a_block_that_starts_in_the_prompt_belongs_to_the_following_turn() {
    let template = "{% for message in messages %}<|im_start|>{{ message.role }}\
                    {% if message.role == 'assistant' %}{% generation %}{{ '\n' + message.content }}<|im_end|>{% endgeneration %}\
                    {% else %}{{ '\n' + message.content }}<|im_end|>{% endif %}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let tokenizer = with_template(template, Some("<|im_end|>"));
    let turns = [("user", "1?"), ("assistant", "one"), ("user", "2?"), ("assistant", "two")];
    let last = label(&tokenizer, &conversation(&turns), TrainOn::LastAssistant);
    assert_eq!(trained(&tokenizer, &last), ["\ntwo<|im_end|>"]);
    let Sample::Conversation(mut talk) = conversation(&turns) else { panic!("no conversation") };
    talk.messages[3].trained = false;
    let first = label(&tokenizer, &Sample::Conversation(talk), TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &first), ["\none<|im_end|>"]);
}

#[test]
fn with_a_template_prompts_and_completions_are_conversations() {
    let tokenizer = chatml();
    let pair = Sample::PromptCompletion { prompt: "1?".to_owned(), completion: "one".to_owned() };
    let talk = conversation(&[("user", "1?"), ("assistant", "one")]);
    assert_eq!(label(&tokenizer, &pair, TrainOn::Assistant), label(&tokenizer, &talk, TrainOn::Assistant));
}

#[test]
fn plain_texts_have_one_bos_and_one_eos() {
    let mut plain = spec(None, Some("</s>"));
    plain.add_bos = true;
    let tokenizer = ChatTokenizer::new(plain).expect("a sound tokenizer");
    let text = |text: &str| label(&tokenizer, &Sample::Text(text.to_owned()), TrainOn::Assistant);
    let shown = |labelled: &Labelled| tokenizer.decode_with_special(&labelled.input_ids).expect("its own ids");
    assert_eq!(shown(&text("one")), "<s>one</s>");
    assert_eq!(shown(&text("<s>one</s>")), "<s>one</s>");
    assert_eq!(trained(&tokenizer, &text("one")), ["<s>one</s>"]);

    let pair = Sample::PromptCompletion { prompt: "1? ".to_owned(), completion: "one".to_owned() };
    let labelled = label(&tokenizer, &pair, TrainOn::Assistant);
    assert_eq!(
        (shown(&labelled).as_str(), trained(&tokenizer, &labelled)),
        ("<s>1? one</s>", vec!["one</s>".to_owned()])
    );
}

#[test]
fn a_base_without_a_template_or_an_end_token_is_an_error() {
    let bare = ChatTokenizer::new(spec(None, None)).expect("a sound tokenizer");
    let talk = label_sample(&conversation(&[("assistant", "one")]), &bare, TrainOn::All);
    assert!(matches!(talk, Err(RowFault::NoTemplate)), "{talk:?}");
    let text = label_sample(&Sample::Text("one".to_owned()), &bare, TrainOn::All);
    assert!(matches!(text, Err(RowFault::NoEndToken)), "{text:?}");
}

#[test]
fn a_message_can_be_excluded_from_the_loss() {
    let mut messages: Vec<Message> = TALK.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    messages[2].trained = false;
    let sample = Sample::Conversation(Conversation { messages, tools: None });
    for tokenizer in [chatml(), with_template(MARKED, Some("<|im_end|>"))] {
        let labelled = label(&tokenizer, &sample, TrainOn::Assistant);
        assert_eq!(trained(&tokenizer, &labelled), ["Bye\n<|im_end|>"]);
    }
    let tokenizer = chatml();
    let stretches = trained(&tokenizer, &label(&tokenizer, &sample, TrainOn::All));
    assert!(stretches.len() == 2 && !stretches.concat().contains("Grüße"), "{stretches:?}");
}

#[test]
fn thinking_blocks_are_kept_dropped_or_masked() {
    let tokenizer = chatml();
    let talk = conversation(&[("user", "1?"), ("assistant", "<think>hm</think>\n\none")]);
    let with = |thinking| {
        let options = LabelOptions { train_on: TrainOn::Assistant, thinking };
        let labelled = crate::label_sample(&talk, &tokenizer, options).expect("labelled");
        let text = tokenizer.decode_with_special(&labelled.input_ids).expect("its own ids");
        (trained(&tokenizer, &labelled).concat(), text.contains("<think>hm</think>"))
    };
    assert_eq!(with(Thinking::Keep), ("<think>hm</think>\n\none<|im_end|>".to_owned(), true));
    assert_eq!(with(Thinking::Mask), ("\n\none<|im_end|>".to_owned(), true));
    assert_eq!(with(Thinking::Drop), ("one<|im_end|>".to_owned(), false));

    let forgetful = with_template(FORGETFUL, Some("<|im_end|>"));
    let talk =
        conversation(&[("user", "1?"), ("assistant", "<think>hm</think>one"), ("user", "2?"), ("assistant", "two")]);
    assert_eq!(label(&forgetful, &talk, TrainOn::Assistant).thoughts_left_out, 1);
}

#[test]
fn tools_that_the_template_does_not_write_are_named() {
    let turns = [("user", "How many parcels?"), ("assistant", ""), ("tool", "4"), ("assistant", "Four")];
    let Sample::Conversation(mut talk) = conversation(&turns) else { panic!("a conversation") };
    talk.tools = Some(serde_json::json!([{"type": "function", "function": {"name": "count"}}, {"name": "parcels"}]));
    // As in a row with `"content": ""`.
    talk.messages[1].fields.insert("content".to_owned(), "".into());
    talk.messages[1].fields.insert("tool_calls".to_owned(), serde_json::json!([{"function": {"name": "weigh"}}]));
    let left_out = label(&chatml(), &Sample::Conversation(talk), TrainOn::Assistant).tools_left_out;
    assert_eq!(left_out, ["count", "parcels", "weigh"], "that the question names parcels is no trace of the tool");
}

/// Writes contents, tools and tool calls. Arguments are written with `tojson`.
const WITH_TOOLS: &str = "{{ tools | tojson if tools else '' }}{% for message in messages %}\
<|im_start|>{{ message.role + '\n' + message.content }}{% for call in message.tool_calls or [] %}\
{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn from_rows(rows: serde_json::Value) -> Vec<Message> {
    let rows = rows.as_array().expect("a list").iter();
    rows.map(|row| Message::from_json(row.clone()).expect("a message")).collect()
}

fn text_of(tokenizer: &ChatTokenizer, messages: &serde_json::Value) -> Result<String, String> {
    let sample = Sample::Conversation(Conversation { messages: from_rows(messages.clone()), tools: None });
    let labelled = label_sample(&sample, tokenizer, TrainOn::Assistant).map_err(|fault| fault.to_string())?;
    Ok(tokenizer.decode_with_special(&labelled.input_ids).expect("its own ids"))
}

#[test]
fn arguments_are_converted_to_the_form_that_the_template_needs() {
    let talk = |arguments: serde_json::Value| {
        let call = serde_json::json!([{"type": "function", "function": {"name": "f", "arguments": arguments}}]);
        serde_json::json!([{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": call}])
    };
    let (as_text, as_object) = (talk("{\"sku\":7}".into()), talk(serde_json::json!({"sku": 7})));
    // One template needs objects, one needs texts, one accepts both.
    let wants_text = WITH_TOOLS.replace("arguments | tojson", "arguments + ''");
    let takes_both = WITH_TOOLS.replace(
        "{{ call.function.arguments | tojson }}",
        "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}{{ call.function.arguments | tojson }}{% endif %}",
    );
    let wants_items = WITH_TOOLS.replace(
        "{{ call.function.arguments | tojson }}",
        "{% for key, value in call.function.arguments | items %}<{{ key }}>{{ value }}{% endfor %}",
    );
    let cases = [
        (WITH_TOOLS, r#"f{"sku": 7}"#, r#"f{"sku": 7}"#),
        (wants_text.as_str(), r#"f{"sku":7}"#, r#"f{"sku": 7}"#),
        (takes_both.as_str(), r#"f{"sku":7}"#, r#"f{"sku": 7}"#),
        (wants_items.as_str(), "f<sku>7", "f<sku>7"),
    ];
    for (template, of_text, of_object) in cases {
        let tokenizer = with_template(template, Some("<|im_end|>"));
        for (talk, expected) in [(&as_text, of_text), (&as_object, of_object)] {
            let text = text_of(&tokenizer, talk).expect("written");
            assert!(text.contains(&format!("assistant\n{expected}<|im_end|>")), "{template}: {text}");
        }
    }
    let tokenizer = with_template(WITH_TOOLS, Some("<|im_end|>"));
    let error = text_of(&tokenizer, &talk("sku 7".into())).expect_err("no JSON");
    assert!(error.contains("message 1: the arguments of its tool call are a text that is no JSON object"), "{error}");
    assert!(text_of(&tokenizer, &talk("".into())).expect("no arguments").contains("f{}<|im_end|>"));
}

#[test]
fn contents_are_converted_to_the_form_that_the_template_needs() {
    let parts = serde_json::json!([
        {"role": "user", "content": [{"type": "text", "text": "Hi, "}, {"type": "text", "text": "you"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
    ]);
    let texts = serde_json::json!([{"role": "user", "content": "Hi, you"}, {"role": "assistant", "content": "Hello"}]);
    let wants_parts = CHATML.replace(
        "+ message['content'] + '<|im_end|>' + '\\n' }}",
        "}}{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}",
    );
    assert_ne!(wants_parts, CHATML);
    let expected = "<|im_start|>user\nHi, you<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n";
    for template in [CHATML, wants_parts.as_str()] {
        let tokenizer = with_template(template, Some("<|im_end|>"));
        for talk in [&parts, &texts] {
            assert_eq!(text_of(&tokenizer, talk).expect("written"), expected, "{template}");
        }
        let prompt = tokenizer.render_prompt(&[Message::new("user", "Hi, you")]).expect("renders");
        let prompt = tokenizer.decode_with_special(&prompt).expect("its own ids");
        assert_eq!(prompt, "<|im_start|>user\nHi, you<|im_end|>\n<|im_start|>assistant\n");
    }
}

#[test]
fn a_template_that_fails_on_null_content_names_the_message() {
    let call = serde_json::json!([{"type": "function", "function": {"name": "f", "arguments": {}}}]);
    let null = serde_json::json!([{"role": "user", "content": "?"}, {"role": "assistant", "content": null, "tool_calls": call}]);
    let tokenizer = with_template(WITH_TOOLS, Some("<|im_end|>"));
    let error = text_of(&tokenizer, &null).expect_err("a text and null");
    assert!(
        error.contains("message 1 has no text (`content` is null)") && error.contains("\"content\": \"\""),
        "{error}"
    );
    let careful =
        with_template(&WITH_TOOLS.replace("message.content }}", "(message.content or '') }}"), Some("<|im_end|>"));
    assert!(text_of(&careful, &null).expect("written").contains("assistant\nf{}<|im_end|>"));
}

#[test]
fn messages_that_the_template_does_not_write_are_named() {
    let strict = CHATML.replace(
        "{% for message in messages %}",
        "{% for message in messages if message.role in ['system', 'user', 'assistant'] %}",
    );
    let left_out = |template: &str, turns: &[(&str, &str)]| {
        let tokenizer = with_template(template, Some("<|im_end|>"));
        label(&tokenizer, &conversation(turns), TrainOn::Assistant).messages_left_out
    };
    let turns = [
        ("user", "Hi"),
        ("usr", "Are you open on Sundays?"),
        ("assistant", "Yes."),
        ("user", "Hi"),
        ("assistant", "Hi"),
    ];
    assert_eq!(left_out(&strict, &turns), [(1, "usr".to_owned())]);
    assert!(left_out(CHATML, &turns).is_empty());
    // Texts that are written in another form are found.
    let escaped = CHATML.replace("message['content']", "message['content'] | tojson");
    assert!(left_out(&escaped, &[("user", "a \"b\""), ("assistant", "Yes.")]).is_empty());
    // A short text may also occur in the template's own text.
    let short = [("usr", "a"), ("user", "is it?"), ("assistant", "yes")];
    assert_eq!(left_out(&strict, &short), [(0, "usr".to_owned())]);
    let thoughtful = [("user", "1?"), ("assistant", "<think>hm</think>one"), ("user", "2?"), ("assistant", "two")];
    assert!(left_out(FORGETFUL, &thoughtful).is_empty());
}

#[test]
fn only_thinking_of_the_assistant_is_masked() {
    let tokenizer = chatml();
    let with = |tokenizer: &ChatTokenizer, turns: &[(&str, &str)], train_on| {
        let options = LabelOptions { train_on, thinking: Thinking::Mask };
        let labelled = crate::label_sample(&conversation(turns), tokenizer, options).expect("labelled");
        trained(tokenizer, &labelled).concat()
    };
    let asked = [("user", "What does <think> mean?"), ("assistant", "<think>hm</think>It begins a thought.")];
    assert_eq!(with(&tokenizer, &asked, TrainOn::Assistant), "It begins a thought.<|im_end|>");
    let all = with(&tokenizer, &asked, TrainOn::All);
    assert!(all.contains("What does <think> mean?") && !all.contains("hm") && all.contains("It begins"), "{all}");
    // The generation prompt opens the block, and the answer closes it.
    let opening = CHATML
        .replace(
            "message['role'] + '\\n' +",
            "message['role'] + '\\n' + ('<think>' if message.role == 'assistant' else '') +",
        )
        .replace("'<|im_start|>assistant\\n' }}{% endif", "'<|im_start|>assistant\\n<think>' }}{% endif");
    let tokenizer = with_template(&opening, Some("<|im_end|>"));
    assert_eq!(
        with(&tokenizer, &[("user", "1?"), ("assistant", "hm</think>one")], TrainOn::Assistant),
        "one<|im_end|>"
    );
}

#[test]
fn thinking_tags_without_their_counterpart_are_found() {
    let broken = |tokenizer: &ChatTokenizer, answer: &str| {
        label(tokenizer, &conversation(&[("user", "1?"), ("assistant", answer)]), TrainOn::Assistant).broken_reasoning
    };
    let tokenizer = chatml();
    assert_eq!(broken(&tokenizer, "<think>hm</think>one"), None);
    assert!(broken(&tokenizer, "<think>hm").expect("no end").contains("<think> and no end"));
    assert!(broken(&tokenizer, "hm</think>one").expect("no beginning").contains("</think> and no beginning"));
    let opening =
        CHATML.replace("'<|im_start|>assistant\\n' }}{% endif", "'<|im_start|>assistant\\n<think>' }}{% endif");
    assert_eq!(broken(&with_template(&opening, Some("<|im_end|>")), "hm</think>one"), None);
}
