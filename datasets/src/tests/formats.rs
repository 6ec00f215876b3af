//! Samples of the rows of each format.

use serde_json::{Value, json};
use tonfall_recipes::plan::{DataFormat, SourcePlan};

use super::sources::{samples, source};
use super::tiny::write;
use crate::Sample;

/// Roles and texts of the conversations in a file.
fn talks(name: &str, text: impl AsRef<[u8]>, source: &SourcePlan) -> Result<Vec<Vec<(String, String)>>, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = samples(&write(folder.path(), name, text), source).map_err(|error| error.to_string())?;
    let turns = |sample: Sample| match sample {
        Sample::Conversation(conversation) => {
            conversation.messages.into_iter().map(|message| (message.role, message.content)).collect()
        }
        Sample::PromptCompletion { prompt, completion } => {
            vec![("user".to_owned(), prompt), ("assistant".to_owned(), completion)]
        }
        Sample::Text(text) => vec![("text".to_owned(), text)],
    };
    Ok(rows.into_iter().map(|(_, sample)| turns(sample)).collect())
}

fn talk(row: Value, source: &SourcePlan) -> Result<String, String> {
    let rows = talks("data.jsonl", row.to_string(), source)?;
    let turns = |turns: &Vec<(String, String)>| {
        turns.iter().map(|(role, text)| format!("{role}: {text}")).collect::<Vec<_>>().join(" / ")
    };
    Ok(rows.iter().map(turns).collect::<Vec<_>>().join("\n"))
}

fn auto(row: Value) -> String {
    talk(row, &source(DataFormat::Auto)).expect("a sound row")
}

#[test]
fn every_conversation_format_is_read() {
    let turns = json!([{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]);
    assert_eq!(auto(json!({"conversations": turns, "system": "s"})), "system: s / user: a? / assistant: b");
    assert_eq!(auto(json!({"instruction": "i", "input": "x", "output": "o"})), "user: i\n\nx / assistant: o");
    assert_eq!(auto(json!({"instruction": "i", "input": "", "output": "o"})), "user: i / assistant: o");
    assert_eq!(auto(json!({"prompt": "p", "chosen": "c", "rejected": "r"})), "user: p / assistant: c");
    let (asked, good) = (json!({"role": "user", "content": "p"}), json!({"role": "assistant", "content": "c"}));
    let both = json!({"prompt": [asked], "chosen": [asked, good], "rejected": [asked, good]});
    assert_eq!(auto(both), "user: p / assistant: c");
    assert_eq!(auto(json!({"prompt": [asked], "completion": [good]})), "user: p / assistant: c");
    assert_eq!(auto(json!({"prompt": "p", "completion": "c", "system": "s"})), "system: s / user: p / assistant: c");
    let unknown = json!({"conversations": [{"from": "martian", "value": "a"}]});
    let error = talk(unknown, &source(DataFormat::Auto)).expect_err("nobody");
    assert!(error.contains("message 0: `from` is \"martian\", none of system, user, human"), "{error}");
}

fn messages(row: Value) -> Result<Vec<crate::Message>, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = samples(&write(folder.path(), "data.jsonl", row.to_string()), &source(DataFormat::Auto));
    match rows.map_err(|error| error.to_string())?.remove(0).1 {
        Sample::Conversation(conversation) => Ok(conversation.messages),
        other => panic!("{other:?} is no conversation"),
    }
}

#[test]
fn role_names_are_mapped() {
    let talk = |roles: [&str; 2]| {
        auto(json!({"messages": [{"role": roles[0], "content": "a"}, {"role": roles[1], "content": "b"}]}))
    };
    for roles in [["human", "gpt"], ["User", "Assistant"], ["user", "model"], ["prompter", "bot"]] {
        assert_eq!(talk(roles), "user: a / assistant: b");
    }
    let call = json!({"role": "tool_call", "content": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"});
    let row = json!({"messages": [{"role": "user", "content": "a"}, call, {"role": "tool_response", "content": "b"},
                                  {"role": "assistant", "content": "c"}]});
    let messages = messages(row).expect("a sound row");
    assert_eq!(
        messages.iter().map(|message| message.role.as_str()).collect::<Vec<_>>(),
        ["user", "assistant", "tool", "assistant"]
    );
    assert_eq!(
        messages[1].tool_calls(),
        [json!({"type": "function", "function": {"name": "f", "arguments": {"a": 1}}})]
    );
    let unknown = json!({"messages": [{"role": "usr", "content": "a"}, {"role": "bott", "content": "b"}]});
    let error = self::talk(unknown, &source(DataFormat::Auto)).expect_err("nobody answers");
    assert!(error.contains("its roles are usr, bott") && error.contains("must be named assistant"), "{error}");
}

#[test]
fn null_and_empty_keys_are_absent() {
    let asked = json!({"role": "user", "content": "Hi", "tool_calls": null, "name": null, "reasoning_content": ""});
    let call = json!([{"id": null, "type": "function", "function": {"name": "f", "description": null, "arguments": {"a": null}}}]);
    let row = json!({"messages": [asked, {"role": "assistant", "content": null, "tool_calls": call},
                                  {"role": "assistant", "content": "b", "tool_calls": []}]});
    let messages = messages(row).expect("a sound row");
    assert_eq!(messages[0], crate::Message::new("user", "Hi"));
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"a": null}}}]);
    assert_eq!(json!(messages[1].fields), json!({"content": null, "tool_calls": call}), "arguments are the tool's own");
    assert_eq!(messages[2], crate::Message::new("assistant", "b"));
}

#[test]
fn parts_with_text_are_joined_and_others_are_refused() {
    let row = |parts: Value| json!({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}], "context": "c"});
    let parts = json!([{"type": "text", "text": "Hi, ", "image_url": null}, {"type": "text", "text": "you"}]);
    assert_eq!(auto(row(parts)), "user: c\n\nHi, you / assistant: b");
    assert_eq!(auto(row(json!(["Hi"]))), "user: c\n\nHi / assistant: b");
    let image = json!([{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "x"}}]);
    let error = messages(row(image)).expect_err("an image");
    assert!(error.contains("message 0: part 1 of `content` is of type \"image_url\"; only text is trained"), "{error}");
}

#[test]
fn the_loss_of_a_message_can_be_switched_off_by_several_keys() {
    let trained = |key: &str, value: Value| {
        let mut answer = json!({"role": "assistant", "content": "b"});
        answer[key] = value;
        messages(json!({"messages": [{"role": "user", "content": "a"}, answer]})).map(|messages| messages[1].trained)
    };
    for key in ["train", "training", "loss", "weight", "loss_scale"] {
        assert_eq!(trained(key, json!(false)), Ok(false), "{key}");
        assert_eq!(trained(key, json!(0)), Ok(false), "{key}");
        assert_eq!(trained(key, json!(true)), Ok(true), "{key}");
        assert_eq!(trained(key, json!(null)), Ok(true), "{key}");
        assert!(trained(key, json!(0.5)).expect_err("half").contains(&format!("`{key}` is 0.5")));
    }
    let both = json!({"messages": [{"role": "assistant", "content": "b", "train": true, "loss": false}]});
    assert!(messages(both).expect_err("both").contains("`train` and `loss` contradict each other"));
}

#[test]
fn a_system_column_becomes_the_first_message() {
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    assert_eq!(auto(json!({"messages": turns, "system": "s"})), "system: s / user: a / assistant: b");
    assert_eq!(auto(json!({"messages": turns, "system": ""})), "user: a / assistant: b");
    let with = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    assert_eq!(auto(json!({"messages": with, "system": "s"})), "system: s / user: a / assistant: b");
    let error = messages(json!({"messages": with, "system": "t"})).expect_err("two of them");
    assert!(error.contains("a system message that says something else"), "{error}");
    let pair = json!({"prompt": [turns[0]], "completion": [turns[1]], "system": "s"});
    assert_eq!(auto(pair), "system: s / user: a / assistant: b");
}

#[test]
fn answers_within_a_prompt_are_not_trained() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let learned = |row: Value| {
        let rows = samples(&write(folder.path(), "data.jsonl", row.to_string()), &source(DataFormat::Auto));
        let Sample::Conversation(talk) = rows.expect("a sound row").remove(0).1 else { panic!("no conversation") };
        let learned = talk.messages.into_iter().filter(|message| message.is_assistant() && message.trained);
        learned.map(|message| message.content).collect::<Vec<_>>()
    };
    let say = |role: &str, content: &str| json!({"role": role, "content": content});
    let asked = [say("user", "a?"), say("assistant", "b"), say("user", "c?")];
    assert_eq!(learned(json!({"prompt": asked, "completion": [say("assistant", "d")]})), ["d"]);
    let answered = |answer: &str| [asked.as_slice(), &[say("assistant", answer)]].concat();
    assert_eq!(learned(json!({"prompt": asked, "chosen": answered("d"), "rejected": answered("e")})), ["d"]);
    assert_eq!(learned(json!({"chosen": answered("d"), "rejected": answered("e")})), ["d"]);
}

#[test]
fn documents_are_inserted_before_the_question() {
    let row = json!({"prompt": "How long?", "completion": "Two years.", "context": "The guarantee is two years."});
    assert_eq!(auto(row), "user: The guarantee is two years.\n\nHow long? / assistant: Two years.");
    let documents = json!([{"title": "T", "text": "a"}, "b"]);
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}], "documents": documents});
    assert_eq!(auto(row), "user: [1] T\na\n\n[2] b\n\nq / assistant: x");
    let honest = SourcePlan { no_answer: Some("Not in the documents.".to_owned()), ..source(DataFormat::Auto) };
    let row = json!({"prompt": "q", "completion": null, "context": "c"});
    assert_eq!(talk(row.clone(), &honest).expect("an answer"), "user: c\n\nq / assistant: Not in the documents.");
    assert!(talk(row, &source(DataFormat::Auto)).is_err());
}

#[test]
fn style_rows_become_rewriting_or_writing_tasks() {
    let pair = auto(json!({"neutral": "The parcel is late.", "styled": "Your handover is late, dear guest."}));
    assert!(pair.contains("The parcel is late.") && pair.ends_with("assistant: Your handover is late, dear guest."));
    assert!(auto(json!({"styled": "Welcome!", "topic": "a greeting"})).contains("a greeting"));
    let bare = talk(json!({"styled": "Welcome!"}), &source(DataFormat::Auto)).expect_err("about what?");
    assert!(bare.contains("[[template]] of kind \"write\"") && bare.contains("{styled}"), "{bare}");
}

#[test]
fn an_entry_of_a_term_base_becomes_tasks() {
    let row = json!({"term": "handover", "forbidden": ["delivery"], "definition": "When a guest gets it.",
                     "examples": ["Handovers take two days."], "language": "en"});
    let tasks = auto(row.clone());
    let lines: Vec<&str> = tasks.lines().collect();
    assert_eq!(lines.len(), 4, "{tasks}");
    assert!(lines[0].contains("“handover”") && lines[0].ends_with("assistant: Handovers take two days."));
    assert!(
        lines[1].contains("Deliveries take two days.") && lines[1].ends_with("Handovers take two days."),
        "{tasks}"
    );
    assert!(lines[2].ends_with("assistant: When a guest gets it."));
    assert!(lines[3].contains("“delivery”") && lines[3].ends_with("assistant: No. We say “handover”."));
    let german = SourcePlan { language: Some("de".to_owned()), ..source(DataFormat::Auto) };
    assert_eq!(talk(row, &german).expect("another language"), "");
    let error = talk(json!({"term": "a", "forbidden": "A"}), &source(DataFormat::Auto)).expect_err("both");
    assert!(error.contains("preferred and forbidden"), "{error}");
    let error = talk(json!({"term": "a"}), &source(DataFormat::Auto)).expect_err("bare");
    assert!(error.contains("nothing to ask"), "{error}");
}

#[test]
fn tables_and_text_files_are_read() {
    let plain = source(DataFormat::Auto);
    let rows = talks("a.csv", "\u{feff}prompt;completion\n\"a;\n\"\"x\"\"\";007\n", &plain).expect("a table");
    assert_eq!(rows, [[("user".to_owned(), "a;\n\"x\"".to_owned()), ("assistant".to_owned(), "007".to_owned())]]);
    assert_eq!(talks("a.tsv", "text\nb\n", &plain).expect("a table"), [[("text".to_owned(), "b".to_owned())]]);
    let json = "[{\"text\": \"a\"}, {\"text\": \"b\"}]";
    assert_eq!(talks("a.json", json, &plain).expect("a list").len(), 2);
    assert_eq!(talks("letter.txt", "Dear guest", &plain).expect("a text").len(), 1);
    let term = "term,forbidden,definition\nguest,customer|client,Who visits.\n";
    assert_eq!(talks("a.csv", term, &plain).expect("terms").len(), 3);
}

const TBX: &str = r#"<?xml version="1.0"?>
<tbx type="TBX-Basic" style="dca" xml:lang="en" xmlns="urn:iso:std:iso:30042:ed-2"><text><body>
<conceptEntry id="c1"><descrip type="subjectField">retail</descrip>
 <langSec xml:lang="de"><descripGrp><descrip type="definition">Wer &amp; was uns besucht.</descrip></descripGrp>
  <termSec><term>Kunde</term><termNote type="administrativeStatus">deprecatedTerm-admn-sts</termNote></termSec>
  <termSec><term>Gast</term><termNote type="administrativeStatus">preferredTerm-admn-sts</termNote>
   <descrip type="context">Der Gast zahlt.</descrip></termSec></langSec>
 <langSec xml:lang="en"><termSec><term>guest</term></termSec></langSec>
</conceptEntry></body></text></tbx>"#;

/// The same term base in the DCT style, and in the edition of 2008.
const STYLES: [&str; 2] = [
    r#"<tbx style="dct" type="TBX-Basic" xml:lang="en" xmlns:b="x"><text><body><conceptEntry id="c1">
    <langSec xml:lang="de"><b:definition>Wer &#38; was uns besucht.</b:definition>
    <termSec><term>Kunde</term><b:administrativeStatus>deprecatedTerm-admn-sts</b:administrativeStatus></termSec>
    <termSec><term>Gast</term><b:context>Der Gast zahlt.</b:context></termSec></langSec></conceptEntry></body></text></tbx>"#,
    r#"<!DOCTYPE martif SYSTEM "TBXBasiccoreStructV02.dtd"><martif type="TBX-Basic" xml:lang="en"><text><body>
    <termEntry id="c1"><langSet xml:lang="de"><descrip type="definition">Wer <![CDATA[&]]> was uns besucht.</descrip>
    <ntig><termGrp><term>Kunde</term><termNote type="administrativeStatus">supersededTerm-admn-sts</termNote></termGrp></ntig>
    <tig><term>Gast</term><descrip type="context">Der Gast zahlt.</descrip></tig></langSet></termEntry></body></text></martif>"#,
];

#[test]
fn term_bases_of_every_dialect_are_read() {
    let german = SourcePlan { language: Some("de-CH".to_owned()), ..source(DataFormat::Auto) };
    let expected = talks("a.tbx", TBX, &german).expect("a term base");
    assert_eq!(expected.len(), 5);
    let texts: Vec<&str> = expected.iter().map(|turns| turns[1].1.as_str()).collect();
    assert_eq!(
        texts,
        ["Der Gast zahlt.", "Der Gast zahlt.", "Wer & was uns besucht.", "Nein. Wir sagen „Gast“.", "Gast"]
    );
    assert!(expected[1][0].1.contains("Der Kunde zahlt."), "{expected:?}");
    for style in STYLES {
        assert_eq!(talks("a.tbx", style, &german).expect("a term base").len(), 4);
    }
}

#[test]
fn invalid_term_bases_are_refused() {
    let bomb: String = (0..9).map(|level| format!("<!ENTITY l{} \"&l{level};&l{level};\">", level + 1)).collect();
    let entry =
        "<conceptEntry id='a'><langSec xml:lang='de'><termSec><term>&l9;</term></termSec></langSec></conceptEntry>";
    let wrap = |entry: &str| format!("<tbx><text><body>\n{entry}</body></text></tbx>");
    let deep = wrap(&"<note>".repeat(100_000));
    let forbidden = entry
        .replace("&l9;</term>", "Kunde</term><termNote type='administrativeStatus'>deprecatedTerm-admn-sts</termNote>");
    let cases = [
        (format!("<!DOCTYPE tbx [{bomb}]>{}", wrap(entry)), "a.tbx:2: the entity &l9; is not expanded"),
        (wrap(&entry.replace("&l9;", "x")).replace("</langSec>", ""), "no XML"),
        (TBX[..400].to_owned(), "the file ends inside of <"),
        ("<html></html>".to_owned(), "<html> begins no TBX"),
        ("no XML at all".to_owned(), "the file holds no XML"),
        (deep, "64 deep"),
        (wrap("<conceptEntry id='c7'></conceptEntry>"), "the concept c7 has no term"),
        (wrap(&entry.replace(" xml:lang='de'", "")), "has no xml:lang"),
        (wrap(&forbidden), "only forbidden terms in de (Kunde)"),
        (wrap(""), "no rows"),
    ];
    for (text, expected) in cases {
        let text = if expected.contains("xml:lang") { text.replace("&l9;", "x") } else { text };
        let error = talks("a.tbx", text, &source(DataFormat::Auto)).expect_err(expected);
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}
