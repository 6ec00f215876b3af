//! TermBase eXchange (ISO 30042:2019 and its 2008 edition) → rows of terms.
//!
//! Responsible for: concepts, languages, terms and their status, definitions and contexts; the dialects TBX-Core,
//! TBX-Min and TBX-Basic in both styles (categories as elements, DCT, or as attributes, DCA), and TBX of 2008 (`martif`).
//! Must not depend on: what is made of a term.
//!
//! Nothing outside the file is ever read. Entities that a document type declares are not expanded, so that a small file
//! stays small; a text that uses one is refused. References between entries are not followed.

use std::path::Path;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Value, json};

use crate::error::{DataError, RowFault};
use crate::read::files::DataFile;
use crate::read::rows::{Chunks, Content, Row, WHOLE_BYTES};

/// Elements inside of each other; TBX needs about ten.
const DEPTH: usize = 64;

/// What a concept says in one language, or, without one, in all.
#[derive(Default)]
struct Section {
    language: Option<String>,
    definition: Option<String>,
    subject: Option<String>,
    terms: Vec<Term>,
}

#[derive(Default)]
struct Term {
    text: String,
    status: Option<String>,
    part_of_speech: Option<String>,
    contexts: Vec<String>,
}

/// Every concept, a row for each of its languages; the number of a row is that of its line.
pub(crate) fn read(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    concepts(&file.path, &file.text(WHOLE_BYTES)?, chunks)
}

/// The same of a text; `path` stands in errors.
pub(crate) fn concepts(path: &Path, text: &str, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Lines { text, at: 0, line: 1 };
    let mut unreadable = |at: u64, why: String| {
        let line = lines.of(at as usize);
        DataError::row(path, line, why)
    };
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut open: Vec<(String, String)> = Vec::new();
    let mut entry: Option<Entry> = None;
    let (mut is_tbx, mut closed) = (false, false);
    let mut entries = Vec::new();
    loop {
        let at = reader.buffer_position();
        let event =
            reader.read_event().map_err(|error| unreadable(reader.error_position(), format!("no XML: {error}")))?;
        match event {
            Event::Start(tag) => {
                let (name, category) = names(&tag).map_err(|why| unreadable(at, why))?;
                is_tbx |= open.is_empty() && matches!(name.as_str(), "tbx" | "martif" | "TBX");
                if open.is_empty() && !is_tbx {
                    return Err(unreadable(at, format!("<{name}> begins no TBX; expected <tbx> or <martif>")));
                }
                if open.len() >= DEPTH {
                    return Err(unreadable(at, format!("elements lie more than {DEPTH} deep")));
                }
                match (name.as_str(), &mut entry) {
                    ("conceptEntry" | "termEntry", slot) => {
                        let id = attribute(&tag, "id").map_err(|why| unreadable(at, why))?;
                        *slot = Some(Entry { id, at, ..Entry::default() });
                    }
                    ("langSec" | "langSet", Some(entry)) => {
                        let language = attribute(&tag, "xml:lang").map_err(|why| unreadable(at, why))?;
                        entry.sections.push(Section { language, ..Section::default() });
                    }
                    ("termSec" | "tig" | "ntig", Some(entry)) => {
                        if let Some(section) = entry.sections.last_mut() {
                            section.terms.push(Term::default());
                        }
                    }
                    _ => {}
                }
                open.push((name, category));
            }
            Event::End(_) => {
                let Some((name, category)) = open.pop() else { continue };
                closed |= open.is_empty();
                if matches!(name.as_str(), "conceptEntry" | "termEntry") {
                    entries.extend(entry.take());
                } else if let Some(entry) = &mut entry {
                    let text = std::mem::take(&mut entry.text);
                    entry.take(&category, text.split_whitespace().collect::<Vec<_>>().join(" "));
                }
            }
            Event::Text(text) => {
                if let Some(entry) = &mut entry {
                    entry.text.push_str(&text.decode().map_err(|error| unreadable(at, error.to_string()))?);
                }
            }
            Event::CData(text) => {
                if let Some(entry) = &mut entry {
                    entry.text.push_str(&text.decode().map_err(|error| unreadable(at, error.to_string()))?);
                }
            }
            Event::GeneralRef(reference) => {
                let name = reference.decode().map_err(|error| unreadable(at, error.to_string()))?;
                let character = reference.resolve_char_ref().map_err(|error| unreadable(at, error.to_string()))?;
                let text = match (character, quick_xml::escape::resolve_predefined_entity(&name)) {
                    (Some(character), _) => character.to_string(),
                    (None, Some(text)) => text.to_owned(),
                    (None, None) => {
                        let why = format!("the entity &{name}; is not expanded; write its text instead");
                        return Err(unreadable(at, why));
                    }
                };
                if let Some(entry) = &mut entry {
                    entry.text.push_str(&text);
                }
            }
            Event::Eof if !closed => {
                let why = match open.last() {
                    Some((name, _)) => format!("the file ends inside of <{name}>; is it cut off?"),
                    None => "the file holds no XML; expected <tbx> or <martif>".to_owned(),
                };
                return Err(unreadable(at, why));
            }
            Event::Eof => break,
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
    for entry in entries {
        let line = lines.of(entry.at as usize);
        for content in entry.rows() {
            chunks.push(line, content)?;
        }
    }
    Ok(())
}

/// A concept while it is read.
#[derive(Default)]
struct Entry {
    id: Option<String>,
    /// Byte at which it begins.
    at: u64,
    definition: Option<String>,
    subject: Option<String>,
    sections: Vec<Section>,
    /// Of the element that is open.
    text: String,
}

impl Entry {
    /// Takes the text of an element that is closed.
    fn take(&mut self, category: &str, text: String) {
        if text.is_empty() {
            return;
        }
        let section = self.sections.last_mut();
        match (category, section) {
            ("term", Some(section)) => match section.terms.last_mut() {
                Some(term) if term.text.is_empty() => term.text = text,
                _ => section.terms.push(Term { text, ..Term::default() }),
            },
            ("definition", Some(section)) => drop(section.definition.get_or_insert(text)),
            ("definition", None) => drop(self.definition.get_or_insert(text)),
            ("subjectField", Some(section)) => drop(section.subject.get_or_insert(text)),
            ("subjectField", None) => drop(self.subject.get_or_insert(text)),
            (category, Some(section)) => {
                let Some(term) = section.terms.last_mut() else { return };
                match category {
                    "context" | "example" | "sampleSentence" => term.contexts.push(text),
                    "administrativeStatus" | "normativeAuthorization" | "usageStatus" => {
                        term.status.get_or_insert(text);
                    }
                    "partOfSpeech" => drop(term.part_of_speech.get_or_insert(text)),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// A row for each language that has a term.
    fn rows(self) -> Vec<Content> {
        let Self { id, definition, subject, sections, at, .. } = self;
        let concept = id.unwrap_or_else(|| format!("at byte {at}"));
        if sections.iter().all(|section| section.terms.iter().all(|term| term.text.is_empty())) {
            return vec![Content::Fault(RowFault::Syntax(format!("the concept {concept} has no term")))];
        }
        let rows = sections.into_iter().map(|section| {
            let Some(language) = section.language else {
                let why = format!("a language section of the concept {concept} has no xml:lang");
                return Content::Fault(RowFault::Syntax(why));
            };
            let (mut allowed, mut forbidden): (Vec<Term>, Vec<Term>) =
                section.terms.into_iter().filter(|term| !term.text.is_empty()).partition(|term| !is_forbidden(term));
            // The preferred one first; else the first that isn't forbidden.
            allowed.sort_by_key(|term| !is_preferred(term));
            let Some(preferred) = allowed.first() else {
                let names: Vec<String> = forbidden.drain(..).map(|term| term.text).collect();
                let why = format!(
                    "the concept {concept} has only forbidden terms in {language} ({}); name one to use",
                    names.join(", ")
                );
                return Content::Fault(RowFault::Syntax(why));
            };
            let examples: Vec<&String> = allowed.iter().flat_map(|term| &term.contexts).collect();
            let mut row = Row::from_iter([
                ("concept".to_owned(), json!(concept)),
                ("language".to_owned(), json!(language)),
                ("term".to_owned(), json!(preferred.text)),
                ("admitted".to_owned(), json!(allowed[1..].iter().map(|term| &term.text).collect::<Vec<_>>())),
                ("forbidden".to_owned(), json!(forbidden.iter().map(|term| &term.text).collect::<Vec<_>>())),
                ("examples".to_owned(), json!(examples)),
            ]);
            let optional = [
                ("definition", section.definition.or_else(|| definition.clone())),
                ("subject", section.subject.or_else(|| subject.clone())),
                ("part_of_speech", preferred.part_of_speech.clone()),
            ];
            row.extend(optional.into_iter().filter_map(|(key, text)| Some((key.to_owned(), Value::String(text?)))));
            Content::Row(row)
        });
        rows.collect()
    }
}

/// By the picklist of the data category administrativeStatus (DatCatInfo 1962), in the spellings of both editions.
fn is_forbidden(term: &Term) -> bool {
    let status = term.status.as_deref().unwrap_or_default();
    ["deprecated", "superseded", "notRecommended", "obsolete", "forbidden"].iter().any(|word| status.starts_with(word))
}

fn is_preferred(term: &Term) -> bool {
    term.status.as_deref().is_some_and(|status| status.starts_with("preferred") || status.starts_with("standardized"))
}

/// An element's name without its prefix, and the data category it carries: its `type` (DCA) or that name (DCT).
fn names(tag: &BytesStart<'_>) -> Result<(String, String), String> {
    let name = String::from_utf8(tag.local_name().as_ref().to_vec()).map_err(|error| error.to_string())?;
    // One that stands twice is found only by looking at all.
    tag.attributes().try_for_each(|attribute| attribute.map(drop)).map_err(|error| error.to_string())?;
    let category = attribute(tag, "type")?.unwrap_or_else(|| name.clone());
    Ok((name, category))
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let found = tag.try_get_attribute(name).map_err(|error| error.to_string())?;
    let value = found.map(|found| found.unescape_value().map(std::borrow::Cow::into_owned));
    value.transpose().map_err(|error| format!("attribute `{name}`: {error}"))
}

/// Lines of growing offsets.
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
