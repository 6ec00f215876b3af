//! Term bases in common formats: how they are read, which tasks they have, and which rows are counted.

use std::path::Path;

use serde_json::json;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AuditRule, DataFormat, Severity, SourcePlan};

use super::sources::{samples, source};
use super::tiny::{chatml, plan, with, write};
use crate::{DataError, PreparedDataset, Sample, TermConcept, prepare, term_concepts};

const DEPRECATED: &str = "deprecatedTerm-admn-sts";

fn tbx(entries: &str) -> String {
    format!("<tbx type=\"TBX-Basic\" style=\"dca\" xml:lang=\"en\"><text><body>\n{entries}</body></text></tbx>")
}

fn concept(id: &str, sections: &[(&str, &str)]) -> String {
    let sections = sections.iter().map(|(tag, inside)| format!("<langSec xml:lang=\"{tag}\">{inside}</langSec>"));
    format!("<conceptEntry id=\"{id}\">{}</conceptEntry>\n", sections.collect::<String>())
}

fn term(text: &str) -> String {
    format!("<termSec><term>{text}</term></termSec>")
}

fn with_status(text: &str, status: &str) -> String {
    format!("<termSec><term>{text}</term><termNote type=\"administrativeStatus\">{status}</termNote></termSec>")
}

fn in_language(language: &str) -> SourcePlan {
    SourcePlan { language: Some(language.to_owned()), ..source(DataFormat::Auto) }
}

/// Prompts and answers of a file.
fn asked(name: &str, bytes: impl AsRef<[u8]>, source: &SourcePlan) -> Result<Vec<(String, String)>, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = samples(&write(folder.path(), name, bytes), source).map_err(|error| error.to_string())?;
    let turns = |sample| match sample {
        Sample::Conversation(mut talk) => {
            let answer = talk.messages.pop().expect("an answer").content;
            (talk.messages.pop().expect("a question").content, answer)
        }
        other => panic!("{other:?} is no conversation"),
    };
    Ok(rows.into_iter().map(|(_, sample)| turns(sample)).collect())
}

fn answers(name: &str, bytes: impl AsRef<[u8]>, source: &SourcePlan) -> Vec<String> {
    asked(name, bytes, source).expect(name).into_iter().map(|(_, answer)| answer).collect()
}

fn of_file(path: &Path, language: Option<&str>) -> Plan {
    let source =
        SourcePlan { files: vec![path.to_owned()], language: language.map(str::to_owned), ..source(DataFormat::Auto) };
    Plan { source: vec![source], ..with(plan(Vec::new())) }
}

fn prepared(name: &str, bytes: impl AsRef<[u8]>, language: Option<&str>) -> Result<PreparedDataset, DataError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), name, bytes);
    prepare(&of_file(&path, language), &chatml(), None, &|_| ())
}

#[test]
fn the_text_of_an_element_includes_its_child_elements() {
    let inside = "<descrip type=\"definition\">Who <hi>vis<hi>its</hi></hi> &amp; buys<!-- or asks --> &#102;rom<?pi x?>\n \
                  <![CDATA[<us>]]>.</descrip><termSec><term>gu<hi type=\"math\">est</hi></term>\
                  <descrip type=\"context\">Every <hi type=\"entailedTerm\">handover</hi> to a guest is free.</descrip></termSec>";
    let found = asked("a.tbx", tbx(&concept("c1", &[("en", inside)])), &source(DataFormat::Auto)).expect("a concept");
    assert_eq!(found[0].1, "Every handover to a guest is free.");
    assert_eq!(
        (found[1].0.as_str(), found[1].1.as_str()),
        ("What do we mean by “guest”?", "Who visits & buys from <us>.")
    );
}

#[test]
fn a_status_is_recognised_in_every_spelling() {
    for status in [DEPRECATED, "DEPRECATED", "notRecommended", "not recommended", "Rejected", "obsolete", "Verboten"] {
        let entry = concept("c1", &[("en", &(with_status("client", status) + &with_status("guest", "PreferredTerm")))]);
        let found = asked("a.tbx", tbx(&entry), &source(DataFormat::Auto)).expect(status);
        assert_eq!(found, [("Is “client” the right term?".to_owned(), "No. We say “guest”.".to_owned())], "{status}");
    }
    let definition = "<descrip type=\"definition\">Who visits.</descrip>";
    let entry = concept("c1", &[("en", &(definition.to_owned() + &with_status("guest", "purple")))]);
    let data = prepared("a.tbx", tbx(&entry), None).expect("a term");
    let plan = with(plan(Vec::new()));
    let warnings = data.report.findings.of(Severity::Warn, &plan.audit).join("\n");
    assert!(
        warnings.contains("unknown_status: 1") && warnings.contains("a.tbx:2: the status \"purple\""),
        "{warnings}"
    );
}

#[test]
fn concepts_in_other_languages_are_counted() {
    let guest = concept("c1", &[("en", &(with_status("client", DEPRECATED) + &term("guest")))]);
    let german =
        concept("c2", &[("de", &with_status("Handy", DEPRECATED))]) + &concept("c3", &[("DE-at", &term("Jause"))]);
    let data = prepared("a.tbx", tbx(&(guest.clone() + &german)), Some("en-GB")).expect("one concept");
    assert_eq!((data.train.len(), data.report.rows), (1, 3));
    let notes = data.report.notes().join("\n");
    assert!(notes.contains("2 dropped: terms in languages that the recipe doesn't ask for"), "{notes}");
    // Without a language, the German concept is used, but it has only forbidden terms.
    let data = prepared("a.tbx", tbx(&(guest + &german)), None).expect("one concept with a task");
    let notes = data.report.notes().join("\n");
    assert!(notes.contains("1 dropped: concepts with forbidden terms only"), "{notes}");
    let error = prepared("a.tbx", tbx(&german), Some("fr")).expect_err("no concept in French").to_string();
    assert!(error.contains("nothing is left to train on") && error.contains("2 terms in languages"), "{error}");
}

#[test]
fn bare_terms_are_counted_and_are_an_error_if_there_are_no_others() {
    let csv = "term,definition\nguest,Who visits.\nhandover,\nsnag,\n";
    let data = prepared("a.csv", csv, None).expect("one term with a definition");
    assert_eq!((data.train.len(), data.report.dropped.values().sum::<u64>()), (1, 2));
    assert!(data.report.notes()[0].starts_with("2 dropped: terms with nothing to ask"), "{:?}", data.report.notes());
    let error = prepared("a.csv", "term,definition\nguest,\nsnag,\n", None).expect_err("nothing to ask").to_string();
    let expected = "a.csv:2: there is nothing to ask about the term \"guest\"";
    assert!(error.contains(expected) && error.contains("no row of this term base gives a task"), "{error}");
    let empty = concept("c1", &[("en", ""), ("de", "<termSec><term/></termSec>")]);
    let error = prepared("a.tbx", tbx(&empty), None).expect_err("no term").to_string();
    assert!(error.contains("a.tbx:2: the concept c1 has no term"), "{error}");
}

/// The same concept in every dialect. The German word for size has non-ASCII letters, so that encodings differ.
fn dialects() -> Vec<String> {
    let terms = |outer: &str, status: &str, forbidden: &str| {
        format!(
            "<{outer}><term>Größe</term><{status}>preferred</{status}></{outer}>\
             <{outer}><term>Format</term><{status}>{forbidden}</{status}></{outer}>"
        )
    };
    let min = terms("termGroup", "termStatus", "notRecommended");
    let dct = terms("basic:termSec", "basic:administrativeStatus", DEPRECATED);
    vec![
        format!(
            "<?xml version=\"1.0\" encoding=\"ENC\"?><TBX dialect=\"TBX-Min\"><header><id>x</id><languages source=\"de\" \
             target=\"en\"/></header><body><entry id=\"C1\"><subjectField>shoes</subjectField><langGroup xml:lang=\"de\">{min}\
             </langGroup></entry></body></TBX>"
        ),
        format!(
            "<?xml version=\"1.0\" encoding=\"ENC\"?><!DOCTYPE tbx SYSTEM \"x.dtd\" [<!ENTITY a \"b\">]>\
             <b:tbx type=\"TBX-Basic\" style=\"dct\" xmlns:b=\"urn:iso\" xmlns:basic=\"x\"><b:text><b:body><b:conceptEntry id=\"C1\">\
             <b:langSec xml:lang=\"DE\">{dct}</b:langSec></b:conceptEntry></b:body></b:text></b:tbx>"
        ),
    ]
}

#[test]
fn dialects_and_encodings_have_the_same_tasks() {
    let expected = [("Ist „Format“ die richtige Benennung?".to_owned(), "Nein. Wir sagen „Größe“.".to_owned())];
    for dialect in dialects() {
        let text = |encoding: &str| dialect.replace("ENC", encoding);
        let latin = text("ISO-8859-1").chars().map(|c| c as u8).collect();
        let wide = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            format!("\u{feff}{}", text("UTF-16")).encode_utf16().flat_map(unit).collect()
        };
        for bytes in [text("UTF-8").into_bytes(), latin, wide(u16::to_le_bytes), wide(u16::to_be_bytes)] {
            assert_eq!(asked("a.tbx", bytes, &in_language("de")).expect("a concept"), expected);
        }
    }
}

#[test]
fn unusual_but_valid_term_bases_are_read() {
    // An empty section, a language twice, a concept twice, languages in capitals and with regions.
    let entries =
        concept("c1", &[("fr", ""), ("EN", &term("guest")), ("en-US", &term("patron")), ("de-AT", &term("Gast"))])
            + &concept("c1", &[("en", &term("guest")), ("de", &term("Gast"))]);
    let german = asked("a.tbx", tbx(&entries), &in_language("de")).expect("two concepts");
    assert_eq!(german.iter().map(|(_, answer)| answer.as_str()).collect::<Vec<_>>(), ["Gast", "Gast", "Gast"]);
    let american = answers("a.tbx", tbx(&entries), &in_language("en-us"));
    assert_eq!(american, ["patron", "guest"], "the wanted region, or else what is there");
    let nested = concept("c1", &[("en", "<note>an <entry>entry</entry> of a book</note>")])
        .replace("</langSec>", &(term("guest") + "</langSec>"));
    let error = asked("a.tbx", tbx(&nested), &source(DataFormat::Auto)).expect_err("a bare term");
    assert!(error.contains("about the term \"guest\""), "{error}");
    let many: Vec<String> = (0..300).map(|index| format!("q{index:03}")).collect();
    let sections: Vec<(&str, &str)> =
        many.iter().map(|tag| (tag.as_str(), "<termSec><term>x</term></termSec>")).collect();
    let error = asked("a.tbx", tbx(&concept("c1", &sections)), &source(DataFormat::Auto)).expect_err("too many");
    assert!(error.contains("the concept c1 has 300 language sections, more than 256"), "{error}");
}

#[test]
fn a_list_in_two_languages_is_translated_both_ways() {
    let found =
        asked("a.csv", "en;de\nguest|visitor;Gast\nhandover;Übergabe\n", &source(DataFormat::Auto)).expect("a list");
    assert_eq!(
        found.iter().map(|(_, answer)| answer.as_str()).collect::<Vec<_>>(),
        ["guest", "Gast", "Gast", "handover", "Übergabe"]
    );
    for ((question, _), term) in found.iter().zip(["Gast", "guest", "visitor", "Übergabe", "handover"]) {
        assert!(question.ends_with(term), "{question}");
        let names = if ["Gast", "Übergabe"].contains(&term) { ["English", "Englisch"] } else { ["German", "Deutsch"] };
        assert!(names.iter().any(|name| question.contains(name)), "{question}");
    }
    for header in ["EN;DE", "English;Deutsch", "term_en;term_de", "Benennung (en-GB);Benennung (DE)"] {
        assert_eq!(
            answers("a.csv", format!("{header}\nguest;Gast\n"), &source(DataFormat::Auto)),
            ["guest", "Gast"],
            "{header}"
        );
    }
    let columns =
        [("en", "Quelle"), ("de", "Ziel")].map(|(field, column)| (field.to_owned(), column.to_owned())).into();
    let named = SourcePlan { columns, ..source(DataFormat::Auto) };
    assert_eq!(answers("a.csv", "Quelle;Ziel\nguest;Gast\n", &named), ["guest", "Gast"]);
    let error = asked("a.csv", "Quelle;Ziel\nguest;Gast\n", &source(DataFormat::Auto)).expect_err("no languages");
    assert!(error.contains("columns = { en = \"…\", de = \"…\" }"), "{error}");
    let error = asked("a.csv", "en;de;id\n;;3\n", &source(DataFormat::Auto)).expect_err("an empty row");
    assert!(error.contains("a.csv:2: no term in any of the columns `de`, `en`"), "{error}");
}

#[test]
fn a_term_base_in_two_languages_is_translated() {
    let german = with_status("Kunde", DEPRECATED) + &with_status("Gast", "preferred");
    let entry = tbx(&concept("c1", &[("en", &term("guest")), ("de", &german)]));
    let found = answers("a.tbx", &entry, &source(DataFormat::Auto));
    assert_eq!(found, ["Gast", "Nein. Wir sagen „Gast“.", "guest"]);
    // The recipe selects the direction.
    assert_eq!(answers("a.tbx", &entry, &in_language("en")), ["guest"]);
    assert_eq!(answers("a.tbx", &entry, &in_language("de")), ["Gast", "Nein. Wir sagen „Gast“."]);
    let from = |from: &str| SourcePlan { translate_from: Some(from.to_owned()), ..source(DataFormat::Auto) };
    assert_eq!(answers("a.tbx", &entry, &from("EN-us")), ["Gast", "Nein. Wir sagen „Gast“."]);
    let error = asked("a.tbx", &entry, &from("fr")).expect_err("nothing in French");
    assert!(error.contains("nothing to ask about the term \"guest\""), "{error}");
}

#[test]
fn sentences_are_translated_if_a_row_has_them_in_both_languages() {
    let header = "en;de;forbidden_de;examples_en;examples_de\n";
    let row = "guest;Gast;Kunde;A guest pays.|Guests wait.;Ein Gast zahlt.|Kunden warten.\n";
    let data = prepared("a.csv", format!("{header}{row}"), Some("de")).expect("a concept");
    let warnings = data.report.findings.of(Severity::Warn, &with(plan(Vec::new())).audit).join("\n");
    assert!(
        warnings.contains("forbidden_term: 1") && warnings.contains("\"Kunden warten.\" says \"Kunde\""),
        "{warnings}"
    );
    let found = asked("a.csv", format!("{header}{row}"), &in_language("de")).expect("a concept");
    let translated: Vec<&str> =
        found.iter().map(|(_, answer)| answer.as_str()).filter(|answer| answer.len() < 16).collect();
    assert!(translated.contains(&"Ein Gast zahlt.") && translated.contains(&"Gast"), "{found:?}");
    let sentence = found.iter().find(|(question, _)| question.ends_with("A guest pays."));
    assert_eq!(sentence.map(|(_, answer)| answer.as_str()), Some("Ein Gast zahlt."));
    assert!(!found.iter().any(|(question, _)| question.ends_with("Guests wait.")), "{found:?}");
}

#[test]
fn a_concept_stays_on_one_side_of_the_split() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Each concept has two rows that share a German term.
    let rows = (0..40).map(|index| format!("guestword{index};Gastwort{}\n", index / 2)).collect::<String>();
    let path = write(folder.path(), "terms.csv", format!("en;de\n{rows}"));
    let mut plan = of_file(&path, None);
    plan.data.eval_fraction = 0.25;
    plan.audit = plan.audit.with(AuditRule::Duplicates, Severity::Off).with(AuditRule::Leakage, Severity::Off);
    let data = prepare(&plan, &chatml(), None, &|_| ()).expect("20 concepts");
    let concepts = |examples: &crate::Examples| {
        let mut concepts: Vec<u64> = examples.iter().map(|example| (example.source.row - 2) / 2).collect();
        concepts.dedup();
        concepts
    };
    let (train, eval) = (concepts(&data.train), concepts(&data.eval));
    assert_eq!((train.len(), eval.len()), (15, 5));
    assert!(eval.iter().all(|concept| !train.contains(concept)), "{train:?} {eval:?}");
    assert_eq!(data.train.len() + data.eval.len(), 80);
}

#[test]
fn composed_and_decomposed_letters_are_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let term = json!({"term": "Gäste", "forbidden": ["Ku\u{308}nde"], "examples": ["Die Ga\u{308}ste zahlen."], "language": "de"});
    let found = asked("a.jsonl", term.to_string(), &source(DataFormat::Auto)).expect("a term");
    assert!(found.iter().any(|(question, _)| question.contains("Die Ku\u{308}nde zahlen.")), "{found:?}");
    let terms = write(folder.path(), "terms.jsonl", term.to_string());
    let letters =
        write(folder.path(), "letters.jsonl", json!({"prompt": "q", "completion": "Alle Künde."}).to_string());
    let files = |path: &Path| SourcePlan { files: vec![path.to_owned()], ..source(DataFormat::Auto) };
    let plan = Plan { source: vec![files(&terms), files(&letters)], ..with(plan(Vec::new())) };
    let data = prepare(&plan, &chatml(), None, &|_| ()).expect("a term and a letter");
    let warnings = data.report.findings.of(Severity::Warn, &plan.audit).join("\n");
    assert!(warnings.contains("forbidden_term: 1") && !warnings.contains("unused_term"), "{warnings}");
    let same = json!({"term": "Gäste", "forbidden": ["ga\u{308}ste"]});
    let error = asked("a.jsonl", same.to_string(), &source(DataFormat::Auto)).expect_err("both");
    assert!(error.contains("preferred and forbidden at once"), "{error}");
}

#[test]
fn a_forbidden_term_inside_of_the_preferred_one_is_no_finding() {
    let header = "en;de;forbidden_en;examples_en;examples_de\n";
    let row = "key account;Stammgast;account;A key account pays.|An account pays.;Ein Stammgast zahlt.|Einer zahlt.\n";
    let found = answers("a.csv", format!("{header}{row}"), &in_language("en"));
    assert!(found.contains(&"A key account pays.".to_owned()), "{found:?}");
    let data = prepared("a.csv", format!("{header}{row}"), Some("en")).expect("a concept");
    let warnings = data.report.findings.of(Severity::Warn, &with(plan(Vec::new())).audit).join("\n");
    assert!(warnings.contains("forbidden_term: 1") && warnings.contains("\"An account pays.\" says"), "{warnings}");
}

#[test]
fn forbidden_terms_of_other_languages_are_no_finding() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let terms =
        json!({"term": "Schadstoff", "forbidden": ["Gift", "Bad"], "language": "de", "examples": ["Ein Schadstoff."]});
    let terms = write(folder.path(), "terms.jsonl", terms.to_string());
    let answers = ["Gift for a guest.", "The gift was a Schadstoff, not a key account."];
    let rows: String =
        answers.iter().map(|text| json!({"prompt": text, "completion": text}).to_string() + "\n").collect();
    let letters = write(folder.path(), "letters.jsonl", rows);
    let of = |language: Option<&str>| {
        let files = |path: &Path, language: Option<&str>| SourcePlan {
            files: vec![path.to_owned()],
            language: language.map(str::to_owned),
            ..source(DataFormat::Auto)
        };
        let plan = Plan { source: vec![files(&terms, None), files(&letters, language)], ..with(plan(Vec::new())) };
        let data = prepare(&plan, &chatml(), None, &|_| ()).expect("a term and letters");
        data.report.findings.of(Severity::Warn, &plan.audit).join("\n").contains("forbidden_term: 1")
    };
    assert!(of(None) && of(Some("de")) && !of(Some("en")));
}

#[test]
fn a_term_with_only_a_definition_is_no_unused_term() {
    let row = |term: &str, more: &str| format!("{{\"term\": \"{term}\"{more}}}\n");
    let defined =
        row("guest", ", \"definition\": \"Who visits.\"") + &row("snag", ", \"definition\": \"What is wrong.\"");
    let unused = row("handover", ", \"examples\": [\"It is on Thursday.\"]");
    let data = prepared("a.jsonl", defined + &unused, None).expect("three terms");
    let warnings = data.report.findings.of(Severity::Warn, &with(plan(Vec::new())).audit).join("\n");
    assert!(warnings.contains("unused_term: 1") && warnings.contains("says \"handover\""), "{warnings}");
    let notes = data.report.notes().join("\n");
    assert!(notes.contains("2 terms with only a definition"), "{notes}");
}

#[test]
fn columns_may_have_other_names() {
    let csv = "Benennung;Definition;Verbotene Benennungen;Sprache\nGast;Wer uns besucht.;Kunde|Klient;de\n";
    let found = answers("a.csv", csv, &source(DataFormat::Auto));
    assert_eq!(found, ["Wer uns besucht.", "Nein. Wir sagen „Gast“.", "Nein. Wir sagen „Gast“."]);
    let csv = "Term,Status,Definition\nguest,preferred,Who visits.\nclient,Not recommended,Who pays.\n";
    let data = prepared("a.csv", csv, None).expect("two terms");
    assert_eq!((data.train.len(), data.report.dropped.len()), (1, 1), "a forbidden term is not taught");
}

#[test]
fn a_text_of_many_words_is_not_searched_as_a_term() {
    let sentence = "This is a whole sentence of a parallel corpus, which nobody says twice in a row.";
    let data = prepared("a.csv", format!("en;de\n\"{sentence}\";Ein Satz.\n"), None).expect("a pair");
    assert!(data.report.notes().join("\n").contains("1 term base text longer than 12 words"));
}

#[test]
fn the_evaluation_gets_concepts_with_forbidden_terms() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let both = |term_: &str, bad: &str| format!("{}{}", term(term_), with_status(bad, DEPRECATED));
    let entries = [
        concept("c1", &[("en", &both("guest", "customer")), ("de", &both("Gast", "Kunde"))]),
        concept("c2", &[("en", &term("basket"))]),
    ];
    let path = write(folder.path(), "terms.tbx", tbx(&entries.concat()));
    let found = |language| term_concepts(&of_file(&path, language)).expect("readable");
    let concept = |name: &str, language: &str, bad: &str| TermConcept {
        name: name.to_owned(),
        language: language.to_owned(),
        preferred: vec![name.to_owned()],
        forbidden: vec![bad.to_owned()],
    };
    assert_eq!(found(None), [concept("guest", "en", "customer"), concept("Gast", "de", "Kunde")]);
    assert_eq!(found(Some("de")), [concept("Gast", "de", "Kunde")]);
    // A table with a row for each term.
    let table = "concept,term,status,language\n7,guest,preferred,en\n8,Gast,preferred,de\n7,client,deprecated,en\n";
    let path = write(folder.path(), "terms.csv", table);
    let found = term_concepts(&of_file(&path, None)).expect("readable");
    assert_eq!(found, [concept("guest", "en", "client")]);
}
