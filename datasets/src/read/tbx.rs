//! TermBase eXchange (ISO 30042:2019 and its 2008 edition) → rows of terms.
//!
//! Responsible for: the XML of concepts, languages, terms and their data categories. Reads the dialects TBX-Core,
//! TBX-Min and TBX-Basic in both styles (DCT: categories as elements; DCA: categories as attributes), TBX-Min before
//! 2019 (`<entry>`), and TBX of 2008 (`martif`). [`crate::read::tbx_concept`] builds the rows of a concept.
//! Must not depend on: how terms are used.
//!
//! Only the file itself is read. Entities of a document type declaration are not expanded, so a small file can't grow
//! in memory; a text that uses such an entity is an error. References between entries are not followed.

use std::path::Path;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};

use crate::error::DataError;
use crate::read::files::DataFile;
use crate::read::rows::{Chunks, WHOLE_BYTES};
use crate::read::tbx_concept::{Concept, is_read};
use crate::read::xml_text;

/// Maximum nesting depth of elements. TBX needs about ten levels.
const DEPTH: usize = 64;

const ROOTS: [&str; 2] = ["tbx", "martif"];
const CONCEPTS: [&str; 3] = ["conceptentry", "termentry", "entry"];
const LANGUAGES: [&str; 3] = ["langsec", "langset", "langgroup"];
/// `termGrp` (2008) is missing on purpose: it occurs only inside `ntig`. `termGroup` (TBX-Min) occurs alone.
const TERMS: [&str; 4] = ["termsec", "tig", "ntig", "termgroup"];

/// Reads all concepts: one row for each language. The number of a row is its concept's line.
pub(crate) fn read(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let text = xml_text::decode(file.content(WHOLE_BYTES)?);
    let text = text.map_err(|why| DataError::Unreadable { path: file.path.clone(), why })?;
    concepts(&file.path, &text, chunks)
}

/// Like [`read`], for a text. `path` is used in errors. No row is pushed before the whole text is parsed.
pub(crate) fn concepts(path: &Path, text: &str, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let mut lines = Lines { text, at: 0, line: 1 };
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut document = Document::default();
    loop {
        let at = reader.buffer_position();
        let fault = match reader.read_event() {
            Ok(Event::Eof) => match document.end() {
                Ok(()) => break,
                Err(why) => (at, why),
            },
            Ok(event) => match document.take(&event, at) {
                Ok(()) => continue,
                Err(why) => (at, why),
            },
            Err(error) => (reader.error_position(), format!("no XML: {error}")),
        };
        return Err(DataError::row(path, lines.of(fault.0 as usize), fault.1));
    }
    for (at, concept) in document.concepts {
        let line = lines.of(at as usize);
        for content in concept.rows() {
            chunks.push(line, content)?;
        }
    }
    Ok(())
}

/// The state of the parser.
#[derive(Default)]
struct Document {
    /// Names of the open elements.
    open: Vec<String>,
    closed: bool,
    concept: Option<Open>,
    /// Finished concepts, each with its byte offset.
    concepts: Vec<(u64, Concept)>,
    text: Option<Text>,
}

/// The open concept.
struct Open {
    at: u64,
    /// Number of open elements around it.
    depth: usize,
    concept: Concept,
}

/// The text of an open element with a data category, including the text of its child elements.
struct Text {
    category: String,
    /// Number of open elements around it.
    depth: usize,
    text: String,
}

impl Document {
    fn take(&mut self, event: &Event<'_>, at: u64) -> Result<(), String> {
        match event {
            Event::Start(tag) => self.start(tag, at),
            Event::End(_) => {
                self.finish_element();
                Ok(())
            }
            Event::Text(text) => self.append(&text.decode().map_err(|error| error.to_string())?),
            Event::CData(text) => self.append(&text.decode().map_err(|error| error.to_string())?),
            Event::GeneralRef(reference) => self.append(&resolved(reference)?),
            // An empty element has neither text nor terms.
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Eof => {
                Ok(())
            }
        }
    }

    fn append(&mut self, text: &str) -> Result<(), String> {
        if let Some(open) = &mut self.text {
            open.text.push_str(text);
        }
        Ok(())
    }

    fn start(&mut self, tag: &BytesStart<'_>, at: u64) -> Result<(), String> {
        let name = String::from_utf8(tag.local_name().as_ref().to_vec()).map_err(|error| error.to_string())?;
        // The parser detects a repeated attribute only if all attributes are read.
        tag.attributes().try_for_each(|attribute| attribute.map(drop)).map_err(|error| error.to_string())?;
        let element = name.to_lowercase();
        if self.open.is_empty() && !ROOTS.contains(&element.as_str()) {
            return Err(format!("<{name}> begins no TBX; expected <tbx> or <martif>"));
        }
        if self.open.len() >= DEPTH {
            return Err(format!("elements lie more than {DEPTH} deep"));
        }
        // Child elements of a text belong to the text.
        if self.text.is_none() {
            if CONCEPTS.contains(&element.as_str()) && self.concept.is_none() {
                let concept = Concept::new(attribute(tag, &["id", "xml:id"])?);
                self.concept = Some(Open { at, depth: self.open.len(), concept });
            } else if let Some(Open { concept, .. }) = &mut self.concept {
                if LANGUAGES.contains(&element.as_str()) {
                    concept.begin_language(attribute(tag, &["xml:lang", "lang"])?);
                } else if TERMS.contains(&element.as_str()) {
                    concept.begin_term();
                }
                // The data category is the attribute `type` (DCA) or the element's name (DCT).
                let category = attribute(tag, &["type"])?.unwrap_or_else(|| name.clone()).to_lowercase();
                if is_read(&category) {
                    self.text = Some(Text { category, depth: self.open.len(), text: String::new() });
                }
            }
        }
        self.open.push(name);
        Ok(())
    }

    fn finish_element(&mut self) {
        self.open.pop();
        let depth = self.open.len();
        self.closed |= depth == 0;
        let text = self.text.take_if(|text| text.depth == depth);
        if let Some((text, open)) = text.zip(self.concept.as_mut()) {
            open.concept.take(&text.category, text.text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        let closed = self.concept.take_if(|open| open.depth == depth);
        self.concepts.extend(closed.map(|open| (open.at, open.concept)));
    }

    fn end(&self) -> Result<(), String> {
        match self.open.last() {
            Some(name) => Err(format!("the file ends inside of <{name}>; is it cut off?")),
            None if !self.closed => Err("the file holds no XML; expected <tbx> or <martif>".to_owned()),
            None => Ok(()),
        }
    }
}

/// The character of a reference such as `&#252;`, or of one of XML's five predefined entities.
fn resolved(reference: &BytesRef<'_>) -> Result<String, String> {
    let name = reference.decode().map_err(|error| error.to_string())?;
    let character = reference.resolve_char_ref().map_err(|error| error.to_string())?;
    let predefined = || resolve_predefined_entity(&name).map(str::to_owned);
    let text = character.map(String::from).or_else(predefined);
    text.ok_or_else(|| format!("the entity &{name}; is not expanded; write its text instead"))
}

/// The value of the first of `names` that the tag has.
fn attribute(tag: &BytesStart<'_>, names: &[&str]) -> Result<Option<String>, String> {
    for name in names {
        if let Some(found) = tag.try_get_attribute(name).map_err(|error| error.to_string())? {
            let value = found.unescape_value().map_err(|error| format!("attribute `{name}`: {error}"))?;
            return Ok(Some(value.into_owned()));
        }
    }
    Ok(None)
}

/// Line numbers of byte offsets. Fast if the offsets ascend.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: u64,
}

impl Lines<'_> {
    fn of(&mut self, at: usize) -> u64 {
        if at < self.at {
            (self.at, self.line) = (0, 1);
        }
        let passed = self.text.as_bytes().get(self.at..at).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.at = at;
        self.line
    }
}
