//! The base model's chat template (Jinja), rendered in the same way as transformers renders it.
//!
//! Responsible for: the environment that chat templates expect (trimmed blocks, loop controls, Python's string methods,
//! `raise_exception`, `strftime_now`, `tojson`, `{% generation %}`), and limits, because a template is untrusted code.
//! Must not depend on: tokenizers, how the text is used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use jiff::Zoned;
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use tonfall_recipes::plan::Variable;

use crate::error::TemplateError;
use crate::formats::conversation::Message;
use crate::render::forms::Forms;
use crate::render::{containers, python};

/// Fuel of one rendering, in addition to one for each input byte. An instruction costs 1, a written byte 1/64.
const FUEL: u64 = 1_000_000;
/// Maximum output of one rendering in bytes, in addition to eight for each input byte.
const OUTPUT: usize = 4 << 20;
/// Recursion limit of macros: enough for nested JSON schemas, and small enough for the stack of a worker thread.
const RECURSION: usize = 100;
/// The template's name in its environment.
const NAME: &str = "chat_template";
/// The name of a template without a file, for errors.
const PLACE: &str = "chat template";

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The tokenizer's special tokens, by transformers' names (`bos_token`, …).
    special: Vec<(&'static str, Value)>,
    /// Byte ranges of the bodies of `{% generation %}` blocks in the compiled source.
    generation: Vec<Range<usize>>,
    /// `data.template_variables`.
    variables: Vec<(String, Value)>,
    /// The template's name in errors.
    place: String,
    /// Detected on first use.
    forms: OnceLock<Forms>,
}

/// The input of a template.
#[derive(Clone, Copy, Debug)]
pub struct Rendering<'a> {
    pub messages: &'a [Message],
    pub tools: Option<&'a serde_json::Value>,
    /// Whether the text ends with the start of an assistant turn.
    pub add_generation_prompt: bool,
}

impl ChatTemplate {
    /// Compiles `source`. `now` is the time that `strftime_now` writes, the same for every row.
    ///
    /// # Errors
    /// If the template is faulty. The error names the line.
    pub fn new(source: &str, special: Vec<(&'static str, String)>, now: Zoned) -> Result<Self, TemplateError> {
        Self::from_file(PLACE.to_owned(), source, special, now)
    }

    /// Like [`new`](Self::new). Errors name the template `place`.
    pub(crate) fn from_file(
        place: String,
        source: &str,
        special: Vec<(&'static str, String)>,
        now: Zoned,
    ) -> Result<Self, TemplateError> {
        let fault = |error: &Error| fault(&place, error);
        let syntax = || {
            let mut builder = SyntaxConfig::builder();
            builder.trim_blocks(true).lstrip_blocks(true);
            builder.build().map_err(|error| fault(&error))
        };
        let (source, mut generation) = scope_generation(source, syntax()?).map_err(|error| fault(&error))?;
        let source = containers::charge(&source, syntax()?, &mut generation).map_err(|error| fault(&error))?;
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
        containers::add_functions(&mut environment);
        environment.add_template_owned(NAME, source).map_err(|error| fault(&error))?;
        let special = special.into_iter().map(|(name, token)| (name, Value::from(token))).collect();
        Ok(Self { environment, special, generation, variables: Vec::new(), place, forms: OnceLock::new() })
    }

    /// Passes further variables to the template.
    #[must_use]
    pub fn with_variables(mut self, variables: &BTreeMap<String, Variable>) -> Self {
        self.variables = variables.iter().map(|(name, value)| (name.clone(), variable(value))).collect();
        self.forms = OnceLock::new();
        self
    }

    /// The forms of contents and arguments that the template supports.
    pub(crate) fn forms(&self) -> Forms {
        *self.forms.get_or_init(|| Forms::of(self))
    }

    /// Whether the template marks the assistant's text with `{% generation %}` blocks.
    pub fn has_generation_blocks(&self) -> bool {
        !self.generation.is_empty()
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails, or exceeds its limits.
    pub fn render(&self, rendering: Rendering<'_>) -> Result<String, TemplateError> {
        let Rendering { messages, tools, add_generation_prompt } = rendering;
        self.render_seen(&Seen::new(messages, tools), messages.len(), add_generation_prompt)
    }

    /// Renders the first `count` messages.
    pub(crate) fn render_seen(
        &self,
        seen: &Seen,
        count: usize,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.run(seen, count, add_generation_prompt, |template, context| template.render(context))
    }

    /// Renders a conversation. Also returns the byte ranges of the text in `{% generation %}` blocks, in order.
    ///
    /// # Errors
    /// As [`render`](Self::render). Also if a block writes through a macro, because such text can't be located.
    pub fn render_marked(&self, rendering: Rendering<'_>) -> Result<(String, Vec<Range<usize>>), TemplateError> {
        let Rendering { messages, tools, add_generation_prompt } = rendering;
        let seen = Seen::new(messages, tools);
        let (text, spans) = self.run(&seen, messages.len(), add_generation_prompt, |template, context| {
            template.render_with_spans(context)
        })?;
        let mut marked: Vec<Range<usize>> = Vec::new();
        // Adjacent ranges belong to the same block, unless another part of the template ran between them.
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
            return Err(TemplateError::Marks { place: self.place.clone() });
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
        let variables = self.variables.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let special = self.special.iter().map(|(name, token)| (*name, token.clone()));
        let context = variables.chain(special).chain([
            ("messages", messages.iter().map(|(message, _)| message.clone()).collect()),
            ("tools", seen.tools.0.clone()),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ]);
        let context = Value::from_pairs(context);
        let fault = |error: Error| fault(&self.place, &error);
        // Fuel is a setting of the environment. Its parts are reference-counted, so cloning is cheap.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + size as u64));
        let template = environment.get_template(NAME).map_err(fault)?;
        let rendered = render(&template, context).map_err(fault)?;
        let limit = OUTPUT + 8 * size;
        if rendered.text().len() > limit {
            return Err(TemplateError::Output { place: self.place.clone(), limit });
        }
        Ok(rendered)
    }
}

/// Converts a variable to a template value.
fn variable(value: &Variable) -> Value {
    match value {
        Variable::Bool(truth) => Value::from(*truth),
        Variable::Integer(number) => Value::from(*number),
        Variable::Number(number) => Value::from(*number),
        Variable::Text(text) => Value::from(text.clone()),
        Variable::List(texts) => texts.iter().cloned().map(Value::from).collect(),
    }
}

/// A conversation as template values, converted once for several renderings.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Each value with its size in bytes.
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

/// The output of a rendering.
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

/// The argument of `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Replaces `{% generation %}` blocks, an extension of transformers, by scoped blocks that write the same text. Returns
/// the new source and the byte ranges of the blocks' bodies. Line numbers don't change, so errors name the correct
/// lines.
fn scope_generation(source: &str, syntax: SyntaxConfig) -> Result<(String, Vec<Range<usize>>), Error> {
    let mut compiled = String::with_capacity(source.len());
    let (mut bodies, mut open) = (Vec::new(), Vec::new());
    let (mut copied, mut in_tag) = (0, false);
    for token in tokenize(source, false, syntax) {
        let (token, span) = token?;
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

/// Distinguishes causes that the template engine reports as the same kind of error.
fn fault(place: &str, error: &Error) -> TemplateError {
    let place = place.to_owned();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut line = error.line().unwrap_or(0);
    let mut why =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<Raised>() {
            return TemplateError::Raised { place, message: raised.0.clone() };
        }
        if let Some(inner) = current.downcast_ref::<Error>() {
            line = inner.line().unwrap_or(line);
            if inner.kind() == ErrorKind::OutOfFuel {
                return TemplateError::Fuel { place, line };
            }
            if let Some(detail) = inner.detail() {
                why = format!("{}: {detail}", inner.kind());
            }
        }
        cause = current.source();
    }
    match error.kind() {
        ErrorKind::SyntaxError => TemplateError::Syntax { place, line, why },
        _ => TemplateError::Render { place, line, why },
    }
}
