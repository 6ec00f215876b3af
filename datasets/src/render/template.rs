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

use crate::error::TemplateError;
use crate::formats::conversation::Message;
use crate::render::python;

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
    special: Vec<(&'static str, Value)>,
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
        let special = special.into_iter().map(|(name, token)| (name, Value::from(token))).collect();
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
        let Rendering { messages, tools, add_generation_prompt } = rendering;
        self.render_seen(&Seen::new(messages, tools), messages.len(), add_generation_prompt)
    }

    /// The first `count` messages as text.
    pub(crate) fn render_seen(
        &self,
        seen: &Seen,
        count: usize,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.run(seen, count, add_generation_prompt, |template, context| template.render(context))
    }

    /// The conversation as text, with the byte ranges that `{% generation %}` blocks wrote, in order.
    ///
    /// # Errors
    /// As [`render`](Self::render), and when a block writes through a macro, where its text can't be followed.
    pub fn render_marked(&self, rendering: Rendering<'_>) -> Result<(String, Vec<Range<usize>>), TemplateError> {
        let Rendering { messages, tools, add_generation_prompt } = rendering;
        let seen = Seen::new(messages, tools);
        let (text, spans) = self.run(&seen, messages.len(), add_generation_prompt, |template, context| {
            template.render_with_spans(context)
        })?;
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
        if marked.is_empty() && messages.iter().any(Message::is_assistant) {
            return Err(TemplateError::Marks);
        }
        Ok((text, marked))
    }

    fn run<T: Rendered>(
        &self,
        seen: &Seen,
        count: usize,
        add_generation_prompt: bool,
        render: impl FnOnce(&minijinja::Template<'_, '_>, Value) -> Result<T, Error>,
    ) -> Result<T, TemplateError> {
        let messages = &seen.messages[..count];
        let size = seen.tools.1 + messages.iter().map(|(_, size)| size).sum::<usize>();
        let context = self.special.iter().map(|(name, token)| (*name, token.clone())).chain([
            ("messages", messages.iter().map(|(message, _)| message.clone()).collect()),
            ("tools", seen.tools.0.clone()),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ]);
        let context = Value::from_pairs(context);
        // Fuel is a property of the environment, which is shared by reference counts: cloning costs little.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + size as u64));
        let template = environment.get_template(NAME).map_err(|error| fault(&error))?;
        let rendered = render(&template, context).map_err(|error| fault(&error))?;
        let limit = OUTPUT + 8 * size;
        if rendered.text().len() > limit {
            return Err(TemplateError::Output { limit });
        }
        Ok(rendered)
    }
}

/// A conversation as templates see it, made once for several renderings.
#[derive(Debug)]
pub(crate) struct Seen {
    /// With the bytes that each holds, as `tools`.
    messages: Vec<(Value, usize)>,
    tools: (Value, usize),
}

impl Seen {
    pub(crate) fn new(messages: &[Message], tools: Option<&serde_json::Value>) -> Self {
        let sized = |value: &dyn Fn(&mut usize) -> Value| {
            let mut size = 0;
            (value(&mut size), size)
        };
        Self {
            messages: messages.iter().map(|message| sized(&|size| python::message(message, size))).collect(),
            tools: sized(&|size| tools.map_or_else(|| Value::from(()), |tools| python::value(tools, size))),
        }
    }
}

/// What a rendering gives.
trait Rendered {
    fn text(&self) -> &str;
}

impl Rendered for String {
    fn text(&self) -> &str {
        self
    }
}

impl Rendered for (String, Vec<minijinja::OutputSpan>) {
    fn text(&self) -> &str {
        &self.0
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
