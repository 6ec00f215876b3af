//! Modelfiles and Go templates.

use tonfall_adapters::ollama::{GoTemplate, Message, Modelfile, Role, literal, parse_modelfile, render};

use crate::heap;

/// The lines of an accepted Modelfile increase. Its values are written and read again, unless they contain three
/// quotes.
pub fn modelfile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    heap::bounded(bytes.len(), || {
        let Ok(instructions) = parse_modelfile(text) else { return };
        assert!(instructions.windows(2).all(|pair| pair[0].line <= pair[1].line), "{instructions:?}");
        for instruction in instructions {
            let system = Some(instruction.value.clone());
            let written = Modelfile { from: "m".to_owned(), system, ..Modelfile::default() }.text();
            assert!(written.is_ok() || instruction.value.contains("\"\"\""), "{instruction:?}: {written:?}");
        }
    });
}

/// A template renders conversations within its limits. Any text renders as itself if it is written as a literal.
pub fn go_template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    heap::bounded(bytes.len(), || {
        let escaped = literal(source, |character| character.is_control());
        let rendered = GoTemplate::parse(&format!("{escaped}{{{{ range .Messages }}}}{{{{ end }}}}"))
            .map_err(|error| error.to_string())
            .and_then(|template| render(&template, &[]).map_err(|error| error.to_string()));
        assert_eq!(rendered.as_deref(), Ok(source));
        let Ok(template) = GoTemplate::parse(source) else { return };
        let talk =
            [(Role::System, "Be brief."), (Role::User, " Grüße {{ }} "), (Role::Assistant, ""), (Role::User, "\n")];
        let talk = talk.map(|(role, text)| Message::new(role, text));
        for end in 0..=talk.len() {
            let _ = render(&template, &talk[..end]);
        }
    });
}
