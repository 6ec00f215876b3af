//! Modelfiles, written and read.

use proptest::prelude::*;
use tonfall_adapters::ollama::{Modelfile, ModelfileError, parse_modelfile, read_modelfile};

#[test]
fn a_modelfile_has_all_its_parts_in_order() {
    let file = Modelfile {
        from: "./base model.gguf".into(),
        adapter: Some("./adapter.gguf".into()),
        template: Some("{{ range .Messages }}{{ .Content }}\n{{ end }}".into()),
        system: Some("Schreibe „Größe“.".into()),
        stops: vec!["<|im_end|>".into(), "\"".into(), "\n\n".into()],
        num_ctx: Some(4096),
        licences: vec!["Apache License\n\n  1. \"You\"\n".into()],
    };
    let expected = "FROM ./base model.gguf\n\
                    ADAPTER ./adapter.gguf\n\
                    TEMPLATE \"\"\"{{ range .Messages }}{{ .Content }}\n{{ end }}\"\"\"\n\
                    SYSTEM \"\"\"Schreibe „Größe“.\"\"\"\n\
                    PARAMETER stop \"<|im_end|>\"\n\
                    PARAMETER stop \"\"\"\"\"\"\"\n\
                    PARAMETER stop \"\"\"\n\n\"\"\"\n\
                    PARAMETER num_ctx 4096\n\
                    LICENSE \"\"\"Apache License\n\n  1. \"You\"\n\"\"\"\n";
    assert_eq!(file.text().unwrap(), expected);
    let read = parse_modelfile(expected).unwrap();
    let lines: Vec<_> = read.iter().map(|instruction| instruction.line).collect();
    assert_eq!(lines, [1, 2, 3, 5, 6, 7, 8, 11, 12]);
    assert_eq!(
        (&read[7].keyword[..], read[7].key.as_deref(), &read[7].value[..]),
        ("parameter", Some("num_ctx"), "4096")
    );
}

#[test]
fn what_ollama_would_read_in_another_way_is_refused() {
    let of = |file: Modelfile| Modelfile { from: "m".into(), ..file }.text().unwrap_err().to_string();
    let system = |text: &str| of(Modelfile { system: Some(text.into()), ..Modelfile::default() });
    assert!(system("a \"\"\" b").contains("SYSTEM of the Modelfile contains \"\"\""));
    for (text, part) in [
        ("10\u{a0}km", "'\\u{a0}' at byte 2"),
        ("👩\u{200d}👩", "'\\u{200d}' at byte 4"),
        ("x\u{c}", "'\\u{c}' at byte 1"),
        ("\u{feff}", "at byte 0"),
    ] {
        assert!(system(text).contains(part), "{text:?}: {}", system(text));
    }
    for from in ["", " m", "a\nb", "\"m\""] {
        assert!(
            matches!(Modelfile { from: from.into(), ..Modelfile::default() }.text(), Err(ModelfileError::Line { .. })),
            "{from:?}"
        );
    }
}

#[test]
fn foreign_modelfiles_are_read_as_ollama_reads_them() {
    let text = "\u{feff}# note\r\n\n  from llama3.2:latest  \nParameter  temperature 0.7\r\nSYSTEM You are # Mario.\nTEMPLATE \"\"\"a\n\
                \"quoted\"  \n\"\"\" \nMESSAGE user Is it?\nPARAMETER stop \"a \"b\" c\"\nLICENSE \"two\nlines\"\nREQUIRES 0.14.0";
    let read = parse_modelfile(text);
    // `PARAMETER` with two spaces has an empty name, as in Ollama.
    assert!(read.unwrap_err().to_string().contains("line 4: parameter without a name"));
    let read = parse_modelfile(&text.replace("Parameter  ", "Parameter ")).unwrap();
    let read: Vec<_> = read.iter().map(|found| (&found.keyword[..], found.key.as_deref(), &found.value[..])).collect();
    assert_eq!(
        read,
        [
            ("from", None, "llama3.2:latest"),
            ("parameter", Some("temperature"), "0.7"),
            ("system", None, "You are # Mario."),
            ("template", None, "a\n\"quoted\"  \n"),
            ("message", Some("user"), "Is it?"),
            ("parameter", Some("stop"), "a \"b\" c"),
            ("license", None, "two\nlines"),
            ("requires", None, "0.14.0"),
        ]
    );
}

#[test]
fn faults_name_the_line() {
    for (text, part) in [
        ("", "there is no FROM"),
        ("SYSTEM x", "there is no FROM"),
        ("FROM a\nRUN rm\n", "line 2: \"RUN\" is not an instruction"),
        ("FROM a\n\n/bin/sh x", "line 3: expected an instruction"),
        ("FROM a\nSYSTEM\n", "line 2: expected an instruction and a space"),
        ("FROM a\nSYSTEM \"\"\"x\ny\"\"\" z\n\n", "line 2: the quotes of this value are not closed"),
        ("FROM a\nMESSAGE tool x", "line 2: the role \"tool\""),
        ("FROM a\nPARAMETER num-ctx 1", "line 2: expected an instruction and a space, found '-'"),
    ] {
        let error = parse_modelfile(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
    }
    let many = format!("FROM a\n{}", "SYSTEM x\n".repeat(10_001));
    assert!(matches!(parse_modelfile(&many), Err(ModelfileError::Limit { of: "instructions", .. })));
    assert!(matches!(parse_modelfile(&" ".repeat((4 << 20) + 1)), Err(ModelfileError::Limit { of: "bytes", .. })));
}

#[test]
fn a_file_is_read_with_limits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("Modelfile");
    let write = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
    write(b"FROM a\n");
    assert_eq!(read_modelfile(&path).unwrap().len(), 1);
    write(b"FROM a\nSYSTEM \xff\n");
    assert!(read_modelfile(&path).unwrap_err().to_string().contains("line 2: the file is not UTF-8"));
    write(&vec![b' '; (4 << 20) + 1]);
    assert!(matches!(read_modelfile(&path), Err(ModelfileError::Open(_))));
    assert!(matches!(read_modelfile(dir.path()), Err(ModelfileError::Open(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Whatever is written is read again unchanged: `text` compares. Everything printable without `"""` is written.
    #[test]
    fn printable_texts_are_written(text in "[ -~\\t\\n\\rä東é🙂]{0,60}", quotes in "[\" \\nx]{0,12}") {
        for text in [text, quotes] {
            let file = Modelfile {
                from: "m".into(),
                template: Some(text.clone()),
                system: Some(text.clone()),
                stops: vec![text.clone()],
                licences: vec![text.clone(), text.clone()],
                ..Modelfile::default()
            };
            match file.text() {
                Ok(_) => {}
                Err(error) => prop_assert!(text.contains("\"\"\""), "{:?}: {}", text, error),
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), lines in "(FROM|SYSTEM|[ \"\\n\\rax#])*") {
        let _ = parse_modelfile(&String::from_utf8_lossy(&bytes));
        let _ = parse_modelfile(&lines);
    }
}
