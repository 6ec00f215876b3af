//! A tree and data → text.
//!
//! Source of the rules: Go's documentation of `text/template`, sections "Actions" and "Variables".

use super::functions::Function;
use super::parser::{Base, Branch, Command, Node, Operand, Pipeline};
use super::{DEPTH, GoTemplate, GoTemplateError, OUTPUT, STEPS, Value, line};

pub(super) fn run<'a>(template: &'a GoTemplate, data: Value<'a>) -> Result<Vec<u8>, GoTemplateError> {
    let mut run = Run { template, variables: vec![("", data)], output: Vec::new(), steps: 0, depth: 0 };
    run.nodes(&template.root, data)?;
    Ok(run.output)
}

struct Run<'a> {
    template: &'a GoTemplate,
    /// Visible variables. Later ones hide earlier ones of the same name. The first is `$`.
    variables: Vec<(&'a str, Value<'a>)>,
    output: Vec<u8>,
    steps: usize,
    depth: usize,
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl<'a> Run<'a> {
    fn nodes(&mut self, nodes: &'a [Node], dot: Value<'a>) -> Result<Flow, GoTemplateError> {
        self.depth += 1;
        for node in nodes {
            self.step()?;
            let flow = match node {
                Node::Text(text) => self.write(text.as_bytes())?,
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    match pipeline.variables.is_empty() {
                        true => self.print(value, pipeline.at)?,
                        false => Flow::On,
                    }
                }
                Node::If(branch) | Node::With(branch) => {
                    let visible = self.variables.len();
                    let value = self.pipeline(&branch.pipeline, dot)?;
                    let inner = if matches!(node, Node::With(_)) { value } else { dot };
                    let flow = match value.is_true() {
                        true => self.nodes(&branch.then, inner)?,
                        false => self.nodes(&branch.otherwise, dot)?,
                    };
                    self.variables.truncate(visible);
                    flow
                }
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
                Node::Template { at, name, data } => self.template(*at, name, data.as_ref(), dot)?,
            };
            if flow != Flow::On {
                self.depth -= 1;
                return Ok(flow);
            }
        }
        self.depth -= 1;
        Ok(Flow::On)
    }

    fn range(&mut self, branch: &'a Branch, dot: Value<'a>) -> Result<Flow, GoTemplateError> {
        let visible = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        let fault = |what: String| self.fault(branch.pipeline.at, what);
        let count = match value {
            Value::Nil => 0,
            Value::List(items) => items.len(),
            Value::Int(_) if branch.pipeline.variables.len() > 1 => {
                return Err(fault("`range` over an integer has one variable".to_owned()));
            }
            Value::Int(number) => usize::try_from(number).unwrap_or(0),
            other => return Err(fault(format!("can't range over {}", other.kind()))),
        };
        let mark = self.variables.len();
        for position in 0..count {
            self.step()?;
            let index = Value::Int(i64::try_from(position).unwrap_or(i64::MAX));
            let element = match value {
                Value::List(items) => items[position],
                _ => index,
            };
            let names = &branch.pipeline.variables;
            let values = if names.len() == 2 { [index, element] } else { [element, element] };
            for (offset, (name, value)) in names.iter().zip(values).enumerate() {
                match branch.pipeline.declares {
                    true => self.variables[mark - names.len() + offset].1 = value,
                    false => self.assign(name, value, branch.pipeline.at)?,
                }
            }
            let flow = self.nodes(&branch.then, element)?;
            self.variables.truncate(mark);
            if flow == Flow::Break {
                break;
            }
        }
        let flow = match count {
            0 => self.nodes(&branch.otherwise, dot)?,
            _ => Flow::On,
        };
        self.variables.truncate(visible);
        Ok(flow)
    }

    fn template(
        &mut self,
        at: usize,
        name: &str,
        data: Option<&'a Pipeline>,
        dot: Value<'a>,
    ) -> Result<Flow, GoTemplateError> {
        let template: &'a GoTemplate = self.template;
        // A template may call itself. The parser limits blocks, so this limits the stack.
        if self.depth > DEPTH {
            return Err(GoTemplateError::Depth { line: line(&self.template.source, at) });
        }
        let nodes = template.defined.get(name).ok_or_else(|| self.fault(at, format!("no template {name:?}")))?;
        let data = match data {
            Some(pipeline) => self.pipeline(pipeline, dot)?,
            None => Value::Nil,
        };
        let outer = std::mem::replace(&mut self.variables, vec![("", data)]);
        self.nodes(nodes, data)?;
        self.variables = outer;
        Ok(Flow::On)
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline, dot: Value<'a>) -> Result<Value<'a>, GoTemplateError> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped, pipeline.at)?);
        }
        let value = piped.unwrap_or(Value::Nil);
        for name in &pipeline.variables {
            match pipeline.declares {
                true => self.variables.push((name, value)),
                false => self.assign(name, value, pipeline.at)?,
            }
        }
        Ok(value)
    }

    fn command(
        &mut self,
        command: &'a Command,
        dot: Value<'a>,
        piped: Option<Value<'a>>,
        at: usize,
    ) -> Result<Value<'a>, GoTemplateError> {
        let (function, operands) = match command {
            Command::Value(operand) => return self.operand(operand, dot, at),
            Command::Call(function, operands) => (*function, operands),
        };
        let mut arguments = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            let value = self.operand(operand, dot, at)?;
            arguments.push(value);
            // `and` and `or` don't evaluate what follows the argument that decides.
            let decided = match function {
                Function::And => !value.is_true(),
                Function::Or => value.is_true(),
                _ => false,
            };
            if decided {
                return Ok(value);
            }
        }
        arguments.extend(piped);
        function.call(&arguments).map_err(|what| self.fault(at, what))
    }

    fn operand(&mut self, operand: &'a Operand, dot: Value<'a>, at: usize) -> Result<Value<'a>, GoTemplateError> {
        self.step()?;
        let base = match &operand.base {
            Base::Dot => dot,
            Base::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => *value,
                None => return Err(self.fault(at, format!("undefined variable ${name}"))),
            },
            Base::Text(bytes) => Value::Text(bytes),
            Base::Int(number) => Value::Int(*number),
            Base::Bool(truth) => Value::Bool(*truth),
            Base::Nil => Value::Nil,
            Base::Pipeline(pipeline) => {
                let visible = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                self.variables.truncate(visible);
                value
            }
        };
        operand.fields.iter().try_fold(base, |value, name| value.field(name)).map_err(|what| self.fault(at, what))
    }

    fn assign(&mut self, name: &str, value: Value<'a>, at: usize) -> Result<(), GoTemplateError> {
        match self.variables.iter_mut().rev().find(|(known, _)| *known == name) {
            Some(variable) => variable.1 = value,
            // Defined in another branch of an `if`.
            None => return Err(self.fault(at, format!("undefined variable ${name}"))),
        }
        Ok(())
    }

    fn print(&mut self, value: Value<'a>, at: usize) -> Result<Flow, GoTemplateError> {
        match value {
            Value::Text(bytes) => self.write(bytes),
            Value::Int(number) => self.write(number.to_string().as_bytes()),
            Value::Bool(truth) => self.write(truth.to_string().as_bytes()),
            Value::Nil => self.write(b"<no value>"),
            Value::List(_) | Value::Map(_) | Value::Struct(_) => {
                let what = format!("printing {}", value.kind());
                Err(GoTemplateError::Unsupported { line: line(&self.template.source, at), what })
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<Flow, GoTemplateError> {
        if self.output.len() + bytes.len() > OUTPUT {
            return Err(GoTemplateError::Output);
        }
        self.output.extend_from_slice(bytes);
        Ok(Flow::On)
    }

    fn step(&mut self) -> Result<(), GoTemplateError> {
        self.steps += 1;
        if self.steps > STEPS { Err(GoTemplateError::Steps) } else { Ok(()) }
    }

    fn fault(&self, at: usize, what: String) -> GoTemplateError {
        GoTemplateError::Execution { line: line(&self.template.source, at), what }
    }
}
