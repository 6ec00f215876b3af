//! The base model's own chat template (Jinja), rendered as transformers renders it.
//!
//! Responsible for: the environment such templates expect (trimmed blocks, loop controls, Python's string methods,
//! `raise_exception`, `strftime_now`, `tojson`, `{% generation %}`), and the limits under which foreign code runs.
//! Must not depend on: tokenizers, what is done with the text.

use std::ops::Range;

use jiff::Zoned;
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::conversation::Message;
use crate::error::TemplateError;
use crate::python;

/// Steps that one rendering may take, besides one a byte of its input. A step is an instruction, or 64 bytes written.
const FUEL: u64 = 1_000_000;
/// Bytes that one rendering may give, besides eight for each byte of its input.
const OUTPUT: usize = 4 << 20;
/// Depth of macros that call each other; deep enough for nested JSON schemas, and it fits a worker's stack.
const RECURSION: usize = 100;
const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Special tokens by transformers' names (`bos_token`, …), as far as the tokenizer has them.
    special: Vec<(&'static str, String)>,
    /// Byte ranges of the bodies of `{% generation %}` blocks in the compiled source.
    generation: Vec<Range<usize>>,
}

/// What a template is asked to render.
#[derive(Clone, Copy, Debug)]
pub struct Rendering<'a> {
    pub messages: &'a [Message],
    pub tools: Option<&'a serde_json::Value>,
    /// End with the opening of an assistant's turn.
    pub add_generation_prompt: bool,
}

impl ChatTemplate {
    /// Compiles `source`. `now` is the moment that `strftime_now` tells, the same for every row.
    ///
    /// # Errors
    /// Names the line of a fault in the template.
    pub fn new(source: &str, special: Vec<(&'static str, String)>, now: Zoned) -> Result<Self, TemplateError> {
        let syntax = || {
            let mut builder = SyntaxConfig::builder();
            builder.trim_blocks(true).lstrip_blocks(true);
            builder.build().map_err(|error| fault(&error))
        };
        let (source, generation) = scope_generation(source, syntax()?)?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax()?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(python::method);
        environment.set_formatter(python::format);
        environment.add_filter("tojson", python::tojson);
        environment.add_filter("string", python::text);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
        });
        environment.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
            jiff::fmt::strtime::format(format, &now)
                .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
        });
        environment.add_template_owned(NAME, source).map_err(|error| fault(&error))?;
        Ok(Self { environment, special, generation })
    }

    /// Does the template itself mark what the assistant generates?
    pub fn has_generation_blocks(&self) -> bool {
        !self.generation.is_empty()
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails, or exceeds its limits.
    pub fn render(&self, rendering: Rendering<'_>) -> Result<String, TemplateError> {
        self.run(rendering).map(|(text, _)| text)
    }

    /// The conversation as text, with the byte ranges that `{% generation %}` blocks wrote, in order.
    ///
    /// # Errors
    /// As [`render`](Self::render), and when a block writes through a macro, where its text can't be followed.
    pub fn render_marked(&self, rendering: Rendering<'_>) -> Result<(String, Vec<Range<usize>>), TemplateError> {
        let (text, spans) = self.run(rendering)?;
        let mut marked: Vec<Range<usize>> = Vec::new();
        // Ranges that touch belong to one block, unless another run of the template's text lies between.
        let mut open = None;
        for span in spans {
            let source = span.source_range();
            let block = self.generation.iter().position(|block| block.start <= source.start && source.end <= block.end);
            let output = span.output_range();
            match (block, open, marked.last_mut()) {
                (Some(block), Some(previous), Some(last)) if block == previous && last.end == output.start => {
                    last.end = output.end;
                }
                (Some(_), ..) => marked.push(output),
                (None, ..) => {}
            }
            open = block;
        }
        if marked.is_empty() && rendering.messages.iter().any(Message::is_assistant) {
            return Err(TemplateError::Marks);
        }
        Ok((text, marked))
    }

    fn run(&self, rendering: Rendering<'_>) -> Result<(String, Vec<minijinja::OutputSpan>), TemplateError> {
        let mut size = 0;
        let messages: Vec<Value> =
            rendering.messages.iter().map(|message| python::message(message, &mut size)).collect();
        let tools = rendering.tools.map_or_else(|| Value::from(()), |tools| python::value(tools, &mut size));
        let context = self.special.iter().map(|(name, token)| (*name, Value::from(token.clone()))).chain([
            ("messages", Value::from(messages)),
            ("tools", tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(rendering.add_generation_prompt)),
        ]);
        let context = Value::from_pairs(context);
        // Fuel is a property of the environment, which is shared by reference counts: cloning costs little.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + size as u64));
        let template = environment.get_template(NAME).map_err(|error| fault(&error))?;
        let (text, spans) = template.render_with_spans(context).map_err(|error| fault(&error))?;
        let limit = OUTPUT + 8 * size;
        if text.len() > limit {
            return Err(TemplateError::Output { limit });
        }
        Ok((text, spans))
    }
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Turns `{% generation %}` blocks, which are transformers' own, into scoped blocks that write the same text, and gives
/// the byte ranges of their bodies. Lines stay where they are, so that faults are reported as the author counts.
fn scope_generation(source: &str, syntax: SyntaxConfig) -> Result<(String, Vec<Range<usize>>), TemplateError> {
    let mut compiled = String::with_capacity(source.len());
    let (mut bodies, mut open) = (Vec::new(), Vec::new());
    let (mut copied, mut in_tag) = (0, false);
    for token in tokenize(source, false, syntax) {
        let (token, span) = token.map_err(|error| fault(&error))?;
        let replacement = match token {
            Token::Ident("generation") if in_tag => Some("with"),
            Token::Ident("endgeneration") if in_tag => Some("endwith"),
            _ => None,
        };
        in_tag = matches!(token, Token::BlockStart);
        let Some(replacement) = replacement else { continue };
        compiled.push_str(source.get(copied..span.start_offset as usize).unwrap_or_default());
        compiled.push_str(replacement);
        copied = span.end_offset as usize;
        if replacement == "with" {
            open.push(compiled.len());
        } else if let Some(start) = open.pop() {
            bodies.push(start..compiled.len());
        }
    }
    compiled.push_str(source.get(copied..).unwrap_or_default());
    Ok((compiled, bodies))
}

/// Tells apart what a template engine reports as one kind of error.
fn fault(error: &Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut line = error.line().unwrap_or(0);
    let mut why =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<Raised>() {
            return TemplateError::Raised(raised.0.clone());
        }
        if let Some(inner) = current.downcast_ref::<Error>() {
            line = inner.line().unwrap_or(line);
            if inner.kind() == ErrorKind::OutOfFuel {
                return TemplateError::Fuel { line };
            }
            if let Some(detail) = inner.detail() {
                why = format!("{}: {detail}", inner.kind());
            }
        }
        cause = current.source();
    }
    match error.kind() {
        ErrorKind::SyntaxError => TemplateError::Syntax { line, why },
        _ => TemplateError::Render { line, why },
    }
}
