//! Modelfiles: reading. Nothing is executed, and no named file is opened.
//!
//! Responsible for: the same values as Ollama reads, with limits. Must not depend on: what the values mean.
//!
//! Format: `parser/parser.go` of Ollama. Where Ollama's parser fails, this one fails too. A file in UTF-16, which
//! Ollama accepts, is refused.

use std::path::Path;

use super::modelfile::{ModelfileError, is_dropped};
use crate::regular_file::read_up_to;

/// Maximum size in bytes. Licences are the largest part of known files, up to about 40 KB each.
const SIZE: usize = 4 << 20;
const INSTRUCTIONS: usize = 10_000;

const KEYWORDS: [&str; 11] = [
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
];

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The line of the keyword, from 1.
    pub line: usize,
    /// In lower case, for example `from`.
    pub keyword: String,
    /// The name of a `PARAMETER`, or the role of a `MESSAGE`.
    pub key: Option<String>,
    /// Without quotes.
    pub value: String,
}

/// Reads a Modelfile of at most 4 MiB.
///
/// # Errors
/// If the file can't be read, is too large, is not UTF-8, or is not a Modelfile.
pub fn read_modelfile(path: &Path) -> Result<Vec<Instruction>, ModelfileError> {
    let bytes = read_up_to(path, SIZE as u64)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
        ModelfileError::Syntax { line, what: "the file is not UTF-8".to_owned() }
    })?;
    parse_modelfile(&text)
}

/// Parses a Modelfile.
///
/// # Errors
/// If the text is too large or not a Modelfile. The error names the line.
pub fn parse_modelfile(text: &str) -> Result<Vec<Instruction>, ModelfileError> {
    if text.len() > SIZE {
        return Err(ModelfileError::Limit { limit: SIZE, of: "bytes" });
    }
    let mut reader = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let mut instructions = Vec::new();
    while let Some(instruction) = reader.instruction()? {
        if instructions.len() == INSTRUCTIONS {
            return Err(ModelfileError::Limit { limit: INSTRUCTIONS, of: "instructions" });
        }
        instructions.push(instruction);
    }
    match instructions.iter().any(|instruction| instruction.keyword == "from") {
        true => Ok(instructions),
        false => Err(reader.fault("there is no FROM")),
    }
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    /// The next instruction, after empty lines and comments.
    fn instruction(&mut self) -> Result<Option<Instruction>, ModelfileError> {
        loop {
            self.take(|character| matches!(character, ' ' | '\t' | '\r' | '\n'));
            match self.rest.starts_with('#') {
                true => self.take(|character| !matches!(character, '\r' | '\n')),
                false => break,
            };
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let line = self.line;
        let word = self.take(|character| character.is_ascii_alphabetic());
        let keyword = word.to_ascii_lowercase();
        self.space()?;
        if !KEYWORDS.contains(&&keyword[..]) {
            return Err(self.fault(&format!("{word:?} is not an instruction; known are {}", KEYWORDS.join(", "))));
        }
        let key = match &keyword[..] {
            "parameter" => {
                Some(self.take(|character| character.is_ascii_alphanumeric() || character == '_').to_owned())
            }
            "message" => Some(self.take(|character| character.is_ascii_alphabetic()).to_owned()),
            _ => None,
        };
        if let Some(key) = &key {
            self.space()?;
            if key.is_empty() {
                return Err(self.fault(&format!("{keyword} without a name")));
            }
            if keyword == "message" && !matches!(&key[..], "system" | "user" | "assistant") {
                return Err(self.fault(&format!("the role {key:?} is not system, user or assistant")));
            }
        }
        let value = self.value()?;
        Ok(Some(Instruction { line, keyword, key, value }))
    }

    /// A value up to the end of its line, or of a later line if its opening quotes are not closed there.
    fn value(&mut self) -> Result<String, ModelfileError> {
        let (mut value, line) = (String::new(), self.line);
        loop {
            let part = self.take(|character| !matches!(character, '\r' | '\n'));
            let before = value.len();
            let part = part.chars().filter(|character| !is_dropped(*character));
            value.extend(part.skip_while(|character| before == 0 && matches!(character, ' ' | '\t')));
            // Spaces at the end are no part of a value. A line of spaces changes nothing, so it is not looked at again.
            let trimmed = value[before..].trim_end().len();
            if (before == 0 || trimmed > 0)
                && let Some(text) = unquote(&value[..before + trimmed])
            {
                return Ok(text.to_owned());
            }
            let Some(end) = self.rest.chars().next() else {
                self.line = line;
                return Err(self.fault("the quotes of this value are not closed"));
            };
            value.push(end);
            self.take_one();
        }
    }

    /// The space after a word.
    fn space(&mut self) -> Result<(), ModelfileError> {
        match self.rest.starts_with([' ', '\t']) {
            true => {
                self.take_one();
                Ok(())
            }
            false => {
                let found =
                    self.rest.chars().next().map_or("the end of the file".to_owned(), |found| format!("{found:?}"));
                Err(self.fault(&format!("expected an instruction and a space, found {found}")))
            }
        }
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let length = self.rest.find(|character| !wanted(character)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.bytes().filter(|byte| *byte == b'\n').count();
        self.rest = rest;
        taken
    }

    fn take_one(&mut self) {
        let mut characters = self.rest.chars();
        self.line += usize::from(characters.next() == Some('\n'));
        self.rest = characters.as_str();
    }

    fn fault(&self, what: &str) -> ModelfileError {
        ModelfileError::Syntax { line: self.line, what: what.to_owned() }
    }
}

/// The value without its quotes, or `None` if they are not closed.
fn unquote(text: &str) -> Option<&str> {
    if let Some(text) = text.strip_prefix("\"\"\"") {
        return text.strip_suffix("\"\"\"");
    }
    match text.strip_prefix('"') {
        Some(text) => text.strip_suffix('"'),
        None => Some(text),
    }
}
