//! Faulty data files and their errors. All of them end with exit code 3.
//!
//! One snapshot has all errors. Every file is generated here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use crate::parquet_file::parquet;
use crate::program::run;
use crate::tiny_model::{Workshop, conversations};

/// A file with one fault.
struct Bad {
    fault: &'static str,
    file: &'static str,
    bytes: Vec<u8>,
    /// Additional keys of the recipe.
    set: &'static [&'static str],
}

fn bad(fault: &'static str, file: &'static str, bytes: impl Into<Vec<u8>>) -> Bad {
    Bad { fault, file, bytes: bytes.into(), set: &[] }
}

/// JSONL with a faulty third line.
fn line(fault: &'static str, line: impl AsRef<[u8]>) -> Bad {
    bad(fault, "rows.jsonl", [conversations(2).as_bytes(), line.as_ref(), b"\n"].concat())
}

/// JSONL in another format than `messages`, which the recipe names.
fn row(fault: &'static str, set: &'static [&'static str], row: &str) -> Bad {
    Bad { set, ..bad(fault, "rows.jsonl", format!("{row}\n")) }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// TBX with `body` inside its body element.
fn tbx(body: &str) -> String {
    format!("<tbx type=\"TBX-Basic\" style=\"dca\" xml:lang=\"en\">\n<text><body>\n{body}\n</body></text></tbx>")
}

fn concept(inside: &str) -> String {
    tbx(&format!("<conceptEntry id=\"c1\"><langSec xml:lang=\"en\">{inside}</langSec></conceptEntry>"))
}

fn term(text: &str) -> String {
    format!("<termSec><term>{text}</term></termSec>")
}

fn json_lines() -> Vec<Bad> {
    let deep = format!("{{\"messages\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let torn = conversations(3);
    vec![
        bad("empty", "rows.jsonl", ""),
        bad("blank lines only", "rows.jsonl", "\n \n\n"),
        bad("cut off in a line", "rows.jsonl", &torn.as_bytes()[..torn.len() - 40]),
        line("no JSON", "messages: hello"),
        line("a comma too many", "{\"messages\": [],}"),
        line("two objects in a line", "{\"messages\": []} {\"messages\": []}"),
        line("a list", "[1, 2]"),
        line("a number that is none", "{\"messages\": NaN}"),
        line("half a character", r#"{"messages": "\ud800"}"#),
        line("a key twice", "{\"messages\": [], \"messages\": []}"),
        line("nested too deeply", deep),
        line("zeros of a file that was never written", [0; 64]),
        line("a control character in a text", "{\"messages\": \"a\0b\"}"),
        line("not UTF-8", b"{\"messages\": [{\"role\": \"user\", \"content\": \"Gr\xfc\xdfe\"}]}"),
        line("a line of 100 MB", "x".repeat(100 << 20)),
        bad(
            "UTF-16",
            "rows.jsonl",
            conversations(1).encode_utf16().fold(vec![0xff, 0xfe], |mut bytes, unit| {
                bytes.extend(unit.to_le_bytes());
                bytes
            }),
        ),
        bad("Parquet by another name", "rows.jsonl", parquet(&["one"])),
    ]
}

fn faulty_conversations() -> Vec<Bad> {
    const PREFERENCE: &[&str] = &["data.format=preference"];
    const PAIRS: &[&str] = &["data.format=prompt_completion"];
    const AUTO: &[&str] = &[];
    vec![
        line("another key", "{\"massages\": []}"),
        line("null", "{\"messages\": null}"),
        line("no messages", "{\"messages\": []}"),
        line("a text in the place of messages", "{\"messages\": \"Hello\"}"),
        line("a text among messages", "{\"messages\": [\"Hello\"]}"),
        line("a role that is a number", "{\"messages\": [{\"role\": 7, \"content\": \"a\"}]}"),
        line("no role", "{\"messages\": [{\"content\": \"a\"}]}"),
        line("no content", "{\"messages\": [{\"role\": \"user\"}]}"),
        line("a content that is a number", "{\"messages\": [{\"role\": \"user\", \"content\": 7}]}"),
        line("nobody answers", "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello?\"}]}"),
        line("half a weight", r#"{"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}"#),
        line("the user's words to be learned", r#"{"messages": [{"role": "user", "content": "a", "train": true}]}"#),
        line(
            "tools that are no list",
            r#"{"messages": [{"role": "assistant", "content": "a"}], "tools": {"name": "f"}}"#,
        ),
        line("documents and no question", r#"{"messages": [{"role": "assistant", "content": "a"}], "context": "b"}"#),
        line(
            "an image",
            r#"{"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, {"role": "assistant", "content": "a"}]}"#,
        ),
        line(
            "two system messages",
            r#"{"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}], "system": "c"}"#,
        ),
        row("an unknown speaker", AUTO, r#"{"conversations": [{"from": "narrator", "value": "a"}]}"#),
        row("a call that is no JSON", AUTO, r#"{"conversations": [{"from": "function_call", "value": "f(x)"}]}"#),
        row("an answer that is a number", AUTO, r#"{"instruction": "a", "output": 7}"#),
        row("an empty completion", AUTO, r#"{"prompt": "a", "completion": ""}"#),
        row("messages and a text", PAIRS, r#"{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}"#),
        row("nothing rejected", PREFERENCE, r#"{"prompt": "a", "chosen": "b"}"#),
        row("an empty text", AUTO, r#"{"text": ""}"#),
        row("nothing styled", AUTO, r#"{"styled": "  ", "neutral": "a"}"#),
        row("a style without a task", AUTO, r#"{"styled": "a"}"#),
        row("a term that is its own error", AUTO, r#"{"term": "guest", "forbidden": ["Guest"]}"#),
        row("an empty term", AUTO, r#"{"term": " ", "definition": "a"}"#),
        row("nothing to say about a term", AUTO, r#"{"term": "guest"}"#),
        bad("a list in two languages without a term", "terms.csv", "en;de;note\nguest;Gast;\n;;nothing\n"),
        row("no format", AUTO, r#"{"frage": "a", "antwort": "b"}"#),
        row("two formats", AUTO, r#"{"text": "a", "prompt": "b", "completion": "c"}"#),
        row("a column that isn't there", &["data.columns={prompt=\"frage\"}"], r#"{"prompt": "a", "completion": "b"}"#),
        row("a field that isn't one", &["data.columns={promt=\"prompt\"}"], r#"{"prompt": "a", "completion": "b"}"#),
        Bad {
            set: &["audit.duplicates=error"],
            ..bad("a text twice", "rows.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \"a\"}\n")
        },
        bad("mojibake", "rows.jsonl", "{\"text\": \"Sch\u{c3}\u{b6}ne Gr\u{c3}\u{bc}\u{c3}\u{178}e\"}\n"),
    ]
}

fn other_files() -> Vec<Bad> {
    let lines = conversations(200);
    let (packed, tables) = (gzip(lines.as_bytes()), parquet(&["one", "two", "three"]));
    let mut flipped = packed.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let zstd = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    let mut footer = tables.clone();
    let at = footer.len() - 8;
    footer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut count = tables.clone();
    // The number of values in the page header.
    let page = count.iter().position(|byte| *byte == 0x2c).unwrap() + 2;
    count[page] = 0x7e;
    vec![
        bad("an object over several lines", "rows.json", "{\n  \"messages\": []\n}"),
        bad("text after a list", "rows.json", "[{\"text\": \"a\"}]\n{\"text\": \"b\"}"),
        bad("a list that is cut off", "rows.json", "[{\"text\": \"a\"}, {\"te"),
        bad("a list of numbers", "rows.json", "[{\"text\": \"a\"}, 7]"),
        bad("gzip that is cut off", "rows.jsonl.gz", &packed[..packed.len() / 2]),
        bad("gzip with a wrong byte", "rows.jsonl.gz", flipped),
        bad("no gzip", "rows.jsonl.gz", conversations(2)),
        bad("zstd that is cut off", "rows.jsonl.zst", &zstd[..zstd.len() / 2]),
        bad("no zstd", "rows.jsonl.zst", conversations(2)),
        bad("a line of 100 MB, packed", "rows.jsonl.gz", gzip(&vec![b'x'; 100 << 20])),
        bad("Parquet, empty", "rows.parquet", ""),
        bad("Parquet that is cut off", "rows.parquet", &tables[..tables.len() - 20]),
        bad("no Parquet", "rows.parquet", conversations(2)),
        bad("a footer of 4 GiB", "rows.parquet", footer),
        bad("a page with more values than it can hold", "rows.parquet", count),
        bad("Parquet, packed", "rows.parquet.gz", gzip(&tables)),
        bad("Parquet of other columns", "rows.parquet", replaced(&tables, b"text", b"tixt")),
        bad("Parquet with no UTF-8", "rows.parquet", replaced(&tables, b"three", b"thr\xff\xfe")),
        bad("text after a closing quote", "rows.csv", "prompt,completion\r\na,b\r\n\"Hello\" he said,b\r\n"),
        bad("a ragged table", "rows.csv", "prompt,completion\na,b\nc,d,e\n"),
        bad("a column twice", "rows.csv", "prompt,completion,prompt\na,b,c\n"),
        bad("a quote that is never closed", "rows.csv", "prompt,completion\na,\"b\nc,d\n"),
        bad("a table without rows", "rows.csv", "prompt,completion\n"),
        bad("a table in Latin-1", "rows.csv", b"prompt;completion\na;Gr\xfc\xdfe\n"),
        bad("an empty cell", "rows.tsv", "prompt\tcompletion\na\t\n"),
        bad("a cell of 100 MB", "rows.csv", [b"text\n\"", "x".repeat(100 << 20).as_bytes()].concat()),
        bad("a text in Latin-1", "letter.txt", b"Gr\xfc\xdfe"),
        bad("another kind of file", "letter.docx", "PK\u{3}\u{4}"),
    ]
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

fn term_bases() -> Vec<Bad> {
    let bomb: String = (1..30).fold("<!ENTITY e0 \"ha\">".to_owned(), |mut text, level| {
        write!(text, "<!ENTITY e{level} \"&e{0};&e{0};\">", level - 1).unwrap();
        text
    });
    let with_entities = |entities: &str, used: &str| {
        format!("<?xml version=\"1.0\"?>\n<!DOCTYPE tbx [{entities}]>\n{}", concept(&term(used)))
    };
    let cycle = "<!ENTITY a \"&b;\"><!ENTITY b \"&a;\">";
    let outside = "<!ENTITY outside SYSTEM \"file:///etc/passwd\">";
    let deprecated = "<termNote type=\"administrativeStatus\">deprecatedTerm-admn-sts</termNote>";
    vec![
        bad("a bomb of entities", "terms.tbx", with_entities(&bomb, "&e29;")),
        bad("entities in a circle", "terms.tbx", with_entities(cycle, "&a;")),
        bad("an entity from outside", "terms.tbx", with_entities(outside, "&outside;")),
        bad("elements without end", "terms.tbx", tbx(&"<p>".repeat(100_000))),
        bad(
            "TBX that is cut off",
            "terms.tbx",
            concept(&term("guest")).replace("</langSec>", "\u{0}").split('\0').next().unwrap_or_default(),
        ),
        bad("an end that fits no beginning", "terms.tbx", concept("<termSec><term>guest</termSec>")),
        bad("another XML", "terms.tbx", "<html><body>guest</body></html>"),
        bad("no XML", "terms.tbx", "guest;customer\n"),
        bad("TBX, empty", "terms.tbx", ""),
        bad("TBX without a concept", "terms.tbx", tbx("")),
        bad("a concept without a term", "terms.tbx", concept("<descrip type=\"definition\">A</descrip>")),
        bad(
            "a language that isn't named",
            "terms.tbx",
            concept(&term("guest"))
                .replace(" xml:lang=\"en\">\n", ">\n")
                .replace("<langSec xml:lang=\"en\">", "<langSec>"),
        ),
        bad(
            "only terms that are forbidden",
            "terms.tbx",
            concept(&format!("<termSec><term>client</term>{deprecated}</termSec>")),
        ),
        bad("an attribute twice", "terms.tbx", tbx("<conceptEntry id=\"a\" id=\"b\"></conceptEntry>")),
        bad("a number of no character", "terms.tbx", concept(&term("guest&#xD800;"))),
        bad(
            "TBX in Latin-1 that doesn't say so",
            "terms.tbx",
            replaced(concept(&term("Gruesse")).as_bytes(), b"ue", b"\xfc "),
        ),
        bad("TBX in an encoding that nobody reads", "terms.tbx", {
            let declaration = "<?xml version=\"1.0\" encoding=\"Shift_JIS\"?>\n".to_owned();
            declaration + &concept(&term("guest"))
        }),
        bad("UTF-16 that is cut off", "terms.tbx", b"\xff\xfe<\0t\0b\0x"),
        bad("TBX, packed and cut off", "terms.tbx.gz", {
            let packed = gzip(concept(&term("guest")).as_bytes());
            packed[..packed.len() - 12].to_vec()
        }),
    ]
}

#[test]
fn every_bad_file_is_named_with_its_fault() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "eval = \"eval.jsonl\"\n", "");
    workshop.edit("recipe.toml", "prompts = \"prompts.jsonl\"\n", "");
    let (mut texts, mut shown) = (BTreeSet::new(), String::new());
    let resolved = fs::canonicalize(workshop.home()).unwrap().display().to_string();
    for Bad { fault, file, bytes, set } in
        [json_lines(), faulty_conversations(), other_files(), term_bases()].into_iter().flatten()
    {
        fs::write(workshop.path(file), bytes).unwrap();
        let train = format!("data.train={file}");
        let mut args = vec!["check", "recipe.toml", "--set", &train];
        args.extend(set.iter().flat_map(|set| ["--set", set]));
        let finished = run(workshop.home(), &args);
        let text = finished.stderr.replace(&resolved, "[dir]").replace(&workshop.home().display().to_string(), "[dir]");
        assert_eq!(finished.code, 3, "{fault}\n{text}");
        assert!(text.contains(file) && !text.contains("panicked"), "{fault}: {text}");
        assert!(text.len() < 1500, "{fault}: {text}");
        writeln!(shown, "── {fault}\n{}", text.trim_end()).unwrap();
        texts.insert(text.replace(file, ""));
        fs::remove_file(workshop.path(file)).unwrap();
    }
    assert!(texts.len() >= 60, "{} different texts", texts.len());
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("bad_files_of_data", shown);
    });
}

#[test]
fn mutually_referring_concepts_are_read_once() {
    let workshop = Workshop::new();
    let concept = |id: &str, other: &str, text: &str| {
        format!(
            "<conceptEntry id=\"{id}\"><ref type=\"crossReference\" target=\"{other}\">see</ref>\
             <langSec xml:lang=\"en\"><descrip type=\"definition\">What {text} means.</descrip>{}</langSec></conceptEntry>",
            term(text)
        )
    };
    let circle = tbx(&(concept("c1", "c2", "guest") + &concept("c2", "c1", "handover")));
    fs::write(workshop.path("terms.tbx"), circle).unwrap();
    workshop.edit("recipe.toml", "eval = \"eval.jsonl\"\n", "");
    let shown = run(workshop.home(), &["data", "recipe.toml", "--set", "data.train=terms.tbx"]).expect(0).stdout;
    assert!(shown.contains("2 rows, 2 examples"), "{shown}");
}
