//! The evaluator of Go templates. The expected texts are those of Go 1.27's `text/template`.

use proptest::prelude::*;
use tonfall_adapters::ollama::{GoTemplate, GoTemplateError, Value};

fn run(source: &str) -> Result<String, GoTemplateError> {
    let text = Value::text;
    let letters = [text("x"), text("y"), text("z")];
    let messages: Vec<_> = [("user", "Hi ü"), ("assistant", " x "), ("user", "")]
        .iter()
        .map(|(role, content)| [("Role", text(role)), ("Content", text(content))])
        .collect();
    let messages: Vec<_> = messages.iter().map(|message| Value::Struct(message)).collect();
    let data = [
        ("A", text("abc")),
        ("B", text("")),
        ("T", Value::Bool(true)),
        ("L", Value::List(&letters)),
        ("E", Value::List(&[])),
        ("M", Value::List(&messages)),
    ];
    GoTemplate::parse(source)?.execute(Value::Map(&data))
}

#[test]
fn templates_render_as_in_go() {
    for (source, expected) in [
        ("a {{ .A }} b", "a abc b"),
        ("a {{- .A -}} b", "aabcb"),
        ("a\n\t {{- /* note */ -}} \r\n b", "ab"),
        ("{{/* {{ not an action }} */}}x", "x"),
        ("{{ \"}}\" }}{{ `\\n` }}{{ \"\\t\\x41\\101\\u00e4\\U0001F642\\\"\" }}", "}}\\n\tAAä🙂\""),
        ("{{ .Missing }}{{ if .Missing }}yes{{ else }}no{{ end }}", "<no value>no"),
        ("{{ if .B }}1{{ else if eq .A \"abc\" }}2{{ else }}3{{ end }}", "2"),
        ("{{ range $i, $x := .L }}{{ $i }}={{ $x }},{{ end }}", "0=x,1=y,2=z,"),
        ("{{ range .E }}x{{ else }}none{{ end }}", "none"),
        ("{{ range 3 }}{{ . }}{{ end }}{{ range $n := len .A }}{{ $n }}{{ end }}", "012012"),
        ("{{ range .L }}{{ if eq . \"y\" }}{{ continue }}{{ end }}{{ . }}{{ end }}", "xz"),
        ("{{ range .L }}{{ if eq . \"y\" }}{{ break }}{{ end }}{{ . }}{{ end }}", "x"),
        ("{{ range $i, $_ := .M }}{{ eq (len (slice $.M $i)) 1 }} {{ end }}", "false false true "),
        ("{{ $last := false }}{{ range .M }}{{ $last = eq .Role \"user\" }}{{ end }}{{ $last }}", "true"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        ("{{ (index .M 1).Role }} {{ index .L 2 }} {{ index .A 0 }}", "assistant z 97"),
        ("{{ slice .A 1 }}{{ slice .A 0 1 }}{{ len (slice .L 1 2) }}", "bca1"),
        ("{{ and .A .B }}|{{ or .B .A }}|{{ not .B }}|{{ and .B (index .E 9) }}", "|abc|true|"),
        ("{{ eq .A \"x\" \"abc\" }} {{ ne 1 2 }} {{ lt \"a\" \"b\" }} {{ ge 2 2 }}", "true true true true"),
        ("{{ .A | len | eq 3 }}", "true"),
        ("{{ with .A }}{{ . }}{{ $.T }}{{ end }}{{ with .B }}x{{ else }}{{ .A }}{{ end }}", "abctrueabc"),
        ("{{ define \"d\" }}<{{ . }}{{ $ }}>{{ end }}{{ template \"d\" .A }}{{ template \"d\" 5 }}", "<abcabc><55>"),
        ("{{ with index .M 0 }}{{ slice .Content 3 5 }}{{ len .Content }}{{ end }}", "ü5"),
    ] {
        assert_eq!(run(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn wrong_templates_are_refused_with_their_line() {
    for (source, line, part) in [
        ("a\n{{ .A", 2, "no end"),
        ("{{ if .A }}\nx", 1, "has no `end`"),
        ("x\n\n{{ end }}", 3, "`end` without a block"),
        ("{{ else }}", 1, "`else` without"),
        ("{{ break }}", 1, "outside of `range`"),
        ("{{ $x }}", 1, "undefined variable $x"),
        ("{{ if true }}{{ define \"a\" }}{{ end }}{{ end }}", 1, "inside a block"),
        ("{{ json .A }}", 1, "`json` is not supported"),
        ("{{ printf \"%d\" 1 }}", 1, "`printf` is not supported"),
        ("{{ 1.5 }}", 1, "not supported"),
        ("{{ 'a' }}", 1, "not supported"),
        ("{{ .A .B }}", 1, "only functions have arguments"),
        ("{{ eq .A\"x\" }}", 1, "unexpected"),
        ("{{ \"a\nb\" }}", 2, "a string ends"),
        ("{{ \"\\q\" }}", 1, "unknown escape"),
        ("{{ }}", 1, "without a value"),
        ("\n{{ (index .M 0).Name }}", 2, "can't evaluate field Name"),
        ("{{ .A.B }}", 1, "can't evaluate field B in a string"),
        ("{{ index .L 3 }}", 1, "out of range"),
        ("{{ slice .A 2 1 }}", 1, "invalid slice index"),
        ("{{ slice .A 4 }}", 1, "out of range"),
        ("{{ eq .A 1 }}", 1, "incompatible types"),
        ("{{ len 3 }}", 1, "len of an integer"),
        ("{{ range .A }}{{ end }}", 1, "can't range over a string"),
        ("{{ template \"none\" }}", 1, "no template"),
        ("{{ .L }}", 1, "printing a list is not supported"),
        ("{{ not }}", 1, "wrong number of arguments"),
    ] {
        let error = run(source).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(&format!("line {line}:")), "{source}: {error}");
    }
    assert_eq!(run("{{ slice (index .M 0).Content 0 4 }}"), Err(GoTemplateError::NotUtf8));
}

#[test]
fn limits_hold() {
    let nested = |count: usize| format!("{}x{}", "{{ if true }}".repeat(count), "{{ end }}".repeat(count));
    assert_eq!(run(&nested(40)).as_deref(), Ok("x"));
    assert!(matches!(run(&nested(5_000)), Err(GoTemplateError::Depth { .. })));
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(matches!(run(&parentheses), Err(GoTemplateError::Depth { .. })));
    let recursive = "{{ define \"r\" }}{{ template \"r\" . }}{{ end }}{{ template \"r\" . }}";
    assert!(matches!(run(recursive), Err(GoTemplateError::Depth { .. })));
    assert_eq!(run("{{ range 9000000000000000000 }}{{ end }}"), Err(GoTemplateError::Steps));
    let long = format!("{{{{ range 100000 }}}}{}{{{{ end }}}}", "x".repeat(1 << 10));
    assert_eq!(run(&long), Err(GoTemplateError::Output));
    let variables: String = (0..200).map(|number| format!("{{{{ $x{number} := 1 }}}}")).collect();
    assert!(matches!(run(&variables), Err(GoTemplateError::Unsupported { .. })));
    // Takes seconds if the parser copies the tokens that follow.
    let arguments = format!("{{{{ eq 1 {}(1) }}}}", "($) ".repeat(200_000));
    assert!(matches!(run(&arguments), Err(GoTemplateError::Execution { .. })));
    assert_eq!(run(&" ".repeat((1 << 20) + 1)), Err(GoTemplateError::Size((1 << 20) + 1)));
}

const PARTS: [&str; 44] = [
    "{{", "}}", "{{-", "-}}", " ", "-", "\n", "\"", "`", "\\", "$", "$x", ":=", "=", "|", "(", ")", ".", ".A", ".M",
    ",", "if", "end", "else", "range", "with", "define", "template", "break", "continue", "block", "/*", "*/", "0",
    "1", "-1", "ü", "nil", "true", "len", "slice", "index", "eq", "and",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = run(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_tokens_make_it_panic(parts in proptest::collection::vec(proptest::sample::select(&PARTS[..]), 0..40)) {
        let _ = run(&parts.concat());
        let _ = run(&format!("{{{{ {} }}}}", parts.join(" ")));
    }
}
