//! Tokens → a tree.
//!
//! Source of the rules: Go's documentation of `text/template`, sections "Actions", "Arguments", "Pipelines",
//! "Variables".

use std::collections::{BTreeMap, BTreeSet};

use super::functions::Function;
use super::lexer::{Kind, Piece, Token, pieces};
use super::{DEPTH, GoTemplateError, VARIABLES, line};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    Range(Branch),
    With(Branch),
    Break,
    Continue,
    Template { at: usize, name: String, data: Option<Pipeline> },
}

/// A control structure: its condition or list, and its two bodies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Branch {
    pub(super) pipeline: Pipeline,
    pub(super) then: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pipeline {
    /// Byte offset, for errors.
    pub(super) at: usize,
    /// The variables on the left of `:=` or `=`, without `$`.
    pub(super) variables: Vec<String>,
    /// Whether the variables are new (`:=`).
    pub(super) declares: bool,
    pub(super) commands: Vec<Command>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Value(Operand),
    Call(Function, Vec<Operand>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operand {
    pub(super) base: Base,
    /// The names after it: `.Name.Other`.
    pub(super) fields: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Text(Vec<u8>),
    Int(i64),
    Bool(bool),
    Nil,
    Pipeline(Box<Pipeline>),
}

pub(super) struct Parsed {
    pub(super) root: Vec<Node>,
    pub(super) defined: BTreeMap<String, Vec<Node>>,
    /// Names of all fields.
    pub(super) fields: BTreeSet<String>,
}

pub(super) fn parse(source: &str) -> Result<Parsed, GoTemplateError> {
    let mut parser = Parser {
        source,
        pieces: pieces(source)?.into_iter(),
        at: 0,
        depth: 0,
        ranges: 0,
        variables: vec![String::new()],
        defined: BTreeMap::new(),
        fields: BTreeSet::new(),
    };
    let (root, end) = parser.nodes(true)?;
    match end {
        Stop::Source => Ok(Parsed { root, defined: parser.defined, fields: parser.fields }),
        Stop::End => Err(parser.syntax("`end` without a block")),
        Stop::Else(_) => Err(parser.syntax("`else` without `if`, `range` or `with`")),
    }
}

/// What ended a list of nodes.
enum Stop {
    Source,
    End,
    /// The tokens after `else`.
    Else(Tokens),
}

/// The tokens of an action, and the position of the next one.
struct Tokens {
    list: Vec<Token>,
    at: usize,
}

impl Tokens {
    fn peek(&self) -> Option<&Token> {
        self.list.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.list.get(self.at).cloned();
        self.at += 1;
        token
    }
}

struct Parser<'a> {
    source: &'a str,
    pieces: std::vec::IntoIter<Piece<'a>>,
    /// Offset of the current action.
    at: usize,
    depth: usize,
    /// Number of `range` blocks around the current action.
    ranges: usize,
    /// The visible variables, `$` first.
    variables: Vec<String>,
    defined: BTreeMap<String, Vec<Node>>,
    fields: BTreeSet<String>,
}

impl Parser<'_> {
    /// Nodes up to `end`, `else` or the end of the source. `top`: outside of every block, where `define` may stand.
    fn nodes(&mut self, top: bool) -> Result<(Vec<Node>, Stop), GoTemplateError> {
        self.enter()?;
        let mut nodes = Vec::new();
        let end = loop {
            let Some(piece) = self.pieces.next() else { break Stop::Source };
            let (at, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action { at, tokens } => (at, tokens),
            };
            self.at = at;
            let mut tokens = Tokens { list: tokens, at: 0 };
            let word = match tokens.peek() {
                Some(Token { kind: Kind::Word(word), .. }) => word.clone(),
                _ => String::new(),
            };
            if !matches!(
                &word[..],
                "if" | "range" | "with" | "break" | "continue" | "define" | "template" | "block" | "end" | "else"
            ) {
                let node = Node::Action(self.pipeline(&mut tokens, false)?);
                self.finish(tokens)?;
                nodes.push(node);
                continue;
            }
            tokens.next();
            match &word[..] {
                "end" => {
                    self.finish(tokens)?;
                    break Stop::End;
                }
                "else" => break Stop::Else(tokens),
                "define" if top => self.define(tokens)?,
                "define" => return Err(self.syntax("`define` inside a block")),
                "block" => return Err(self.unsupported("`block`")),
                "template" => nodes.push(self.template(tokens)?),
                "break" | "continue" => {
                    self.finish(tokens)?;
                    if self.ranges == 0 {
                        return Err(self.syntax(&format!("`{word}` outside of `range`")));
                    }
                    nodes.push(if word == "break" { Node::Break } else { Node::Continue });
                }
                control => nodes.push(self.control(control, tokens)?),
            }
        };
        self.depth -= 1;
        Ok((nodes, end))
    }

    /// The rest of `if`, `range` or `with`, up to its `end`.
    fn control(&mut self, word: &str, mut tokens: Tokens) -> Result<Node, GoTemplateError> {
        self.enter()?;
        let visible = self.variables.len();
        let pipeline = self.pipeline(&mut tokens, word == "range")?;
        self.finish(tokens)?;
        self.ranges += usize::from(word == "range");
        let (then, end) = self.nodes(false)?;
        self.ranges -= usize::from(word == "range");
        let otherwise = match end {
            Stop::End => Vec::new(),
            Stop::Source => return Err(self.syntax(&format!("`{word}` has no `end`"))),
            Stop::Else(mut after) => match after.next() {
                None => match self.nodes(false)? {
                    (nodes, Stop::End) => nodes,
                    (_, Stop::Source) => return Err(self.syntax("`else` has no `end`")),
                    (_, Stop::Else(_)) => return Err(self.syntax("a second `else`")),
                },
                // `else if` needs no `end` of its own.
                Some(Token { kind: Kind::Word(next), .. }) if next == word && word != "range" => {
                    vec![self.control(word, after)?]
                }
                Some(_) => return Err(self.syntax("unexpected text after `else`")),
            },
        };
        self.variables.truncate(visible);
        self.depth -= 1;
        let branch = Branch { pipeline, then, otherwise };
        Ok(match word {
            "if" => Node::If(branch),
            "range" => Node::Range(branch),
            _ => Node::With(branch),
        })
    }

    fn define(&mut self, mut tokens: Tokens) -> Result<(), GoTemplateError> {
        let name = self.template_name(&mut tokens)?;
        self.finish(tokens)?;
        let variables = std::mem::replace(&mut self.variables, vec![String::new()]);
        let (nodes, end) = self.nodes(false)?;
        self.variables = variables;
        match end {
            Stop::End => {}
            _ => return Err(self.syntax("`define` has no `end`")),
        }
        match self.defined.insert(name.clone(), nodes) {
            None => Ok(()),
            Some(_) => Err(self.syntax(&format!("the template {name:?} is defined twice"))),
        }
    }

    fn template(&mut self, mut tokens: Tokens) -> Result<Node, GoTemplateError> {
        let (at, name) = (self.at, self.template_name(&mut tokens)?);
        let data = match tokens.peek() {
            None => None,
            Some(_) => Some(self.pipeline(&mut tokens, false)?),
        };
        self.finish(tokens)?;
        Ok(Node::Template { at, name, data })
    }

    fn template_name(&mut self, tokens: &mut Tokens) -> Result<String, GoTemplateError> {
        match tokens.next() {
            Some(Token { kind: Kind::Text(bytes), .. }) if !bytes.is_empty() => {
                String::from_utf8(bytes).map_err(|_| self.syntax("the name of a template is not UTF-8"))
            }
            _ => Err(self.syntax("expected the name of a template in quotes")),
        }
    }

    /// A pipeline. Stops before `)` and at the end of the tokens.
    fn pipeline(&mut self, tokens: &mut Tokens, in_range: bool) -> Result<Pipeline, GoTemplateError> {
        self.enter()?;
        let (variables, declares) = self.variables(tokens, in_range)?;
        let mut commands = Vec::new();
        loop {
            commands.push(self.command(tokens, commands.is_empty())?);
            match tokens.peek() {
                Some(Token { kind: Kind::Pipe, .. }) => tokens.next(),
                _ => break,
            };
        }
        // A variable is not visible in its own definition.
        if declares {
            self.variables.extend(variables.iter().cloned());
        }
        self.depth -= 1;
        Ok(Pipeline { at: self.at, variables, declares, commands })
    }

    /// `$x :=`, `$x =` and, for `range`, `$i, $x :=`. Nothing if the pipeline begins with another term.
    fn variables(&mut self, tokens: &mut Tokens, in_range: bool) -> Result<(Vec<String>, bool), GoTemplateError> {
        let kind = |ahead: usize| tokens.list.get(tokens.at + ahead).map(|token| &token.kind);
        let Some(Kind::Variable(first)) = kind(0) else { return Ok((Vec::new(), false)) };
        let (names, sign) = match (kind(1), kind(2)) {
            (Some(Kind::Comma), Some(Kind::Variable(second))) if in_range => (vec![first, second], kind(3)),
            (sign, _) => (vec![first], sign),
        };
        let declares = match sign {
            Some(Kind::Declare) => true,
            Some(Kind::Assign) => false,
            _ => return Ok((Vec::new(), false)),
        };
        if names.iter().any(|name| name.is_empty()) {
            return Err(self.unsupported("an assignment to `$`"));
        }
        if !declares && let Some(name) = names.iter().find(|name| !self.variables.contains(name)) {
            return Err(self.syntax(&format!("undefined variable ${name}")));
        }
        if self.variables.len() + names.len() > VARIABLES {
            return Err(self.unsupported(&format!("more than {VARIABLES} variables")));
        }
        let names: Vec<_> = names.into_iter().cloned().collect();
        tokens.at += 2 * names.len();
        Ok((names, declares))
    }

    fn command(&mut self, tokens: &mut Tokens, first: bool) -> Result<Command, GoTemplateError> {
        let function = match tokens.peek() {
            None => return Err(self.syntax("an action without a value")),
            Some(Token { kind: Kind::Word(word), .. }) if !matches!(&word[..], "true" | "false" | "nil") => {
                let function =
                    Function::named(word).ok_or_else(|| self.unsupported(&format!("the function `{word}`")))?;
                tokens.next();
                Some(function)
            }
            Some(_) => None,
        };
        let mut operands = Vec::new();
        while let Some(Token { kind, spaced }) = tokens.peek() {
            if matches!(kind, Kind::Pipe | Kind::Close) {
                break;
            }
            if !spaced && (function.is_some() || !operands.is_empty()) {
                return Err(self.syntax("arguments must be separated by spaces"));
            }
            operands.push(self.operand(tokens)?);
        }
        match (function, operands.len()) {
            (Some(function), _) => Ok(Command::Call(function, operands)),
            (None, 1) if first => match operands.pop() {
                Some(Operand { base: Base::Nil, .. }) => Err(self.syntax("nil is not a command")),
                Some(operand) => Ok(Command::Value(operand)),
                None => Err(self.syntax("a missing value")),
            },
            (None, 0) => Err(self.syntax("a missing value")),
            (None, _) if first => Err(self.syntax("only functions have arguments")),
            (None, _) => Err(self.syntax("only a function can follow `|`")),
        }
    }

    fn operand(&mut self, tokens: &mut Tokens) -> Result<Operand, GoTemplateError> {
        let Some(token) = tokens.next() else { return Err(self.syntax("a missing value")) };
        let mut fields = Vec::new();
        let base = match token.kind {
            Kind::Dot => Base::Dot,
            Kind::Field(name) => {
                self.fields.insert(name.clone());
                fields.push(name);
                Base::Dot
            }
            Kind::Variable(name) if self.variables.contains(&name) => Base::Variable(name),
            Kind::Variable(name) => return Err(self.syntax(&format!("undefined variable ${name}"))),
            Kind::Text(bytes) => Base::Text(bytes),
            Kind::Int(number) => Base::Int(number),
            Kind::Word(word) => match &word[..] {
                "true" => Base::Bool(true),
                "false" => Base::Bool(false),
                "nil" => Base::Nil,
                _ => return Err(self.unsupported(&format!("`{word}` as an argument without parentheses"))),
            },
            Kind::Open => {
                let inner = self.pipeline(tokens, false)?;
                match tokens.next() {
                    Some(Token { kind: Kind::Close, .. }) => Base::Pipeline(Box::new(inner)),
                    _ => return Err(self.syntax("`(` has no `)`")),
                }
            }
            Kind::Pipe | Kind::Comma | Kind::Assign | Kind::Declare | Kind::Close => {
                return Err(self.syntax("expected a value"));
            }
        };
        let takes_fields = !fields.is_empty() || matches!(base, Base::Variable(_) | Base::Pipeline(_));
        while let Some(Token { kind: Kind::Field(_), spaced: false }) = tokens.peek() {
            if !takes_fields {
                return Err(self.syntax("this value has no fields"));
            }
            if let Some(Token { kind: Kind::Field(name), .. }) = tokens.next() {
                self.fields.insert(name.clone());
                fields.push(name);
            }
        }
        Ok(Operand { base, fields })
    }

    fn finish(&self, mut tokens: Tokens) -> Result<(), GoTemplateError> {
        match tokens.next() {
            None => Ok(()),
            Some(token) => Err(self.syntax(&format!("unexpected {:?}", token.kind))),
        }
    }

    fn enter(&mut self) -> Result<(), GoTemplateError> {
        self.depth += 1;
        match self.depth > DEPTH {
            true => Err(GoTemplateError::Depth { line: line(self.source, self.at) }),
            false => Ok(()),
        }
    }

    fn syntax(&self, what: &str) -> GoTemplateError {
        GoTemplateError::Syntax { line: line(self.source, self.at), what: what.to_owned() }
    }

    fn unsupported(&self, what: &str) -> GoTemplateError {
        GoTemplateError::Unsupported { line: line(self.source, self.at), what: what.to_owned() }
    }
}
