//! Parses the SQL expressions of filters: text → tokens → nodes.
//!
//! Responsible for: the grammar, and errors that name unsupported parts. Must not depend on: values of rows.
//!
//! A complete SQL parser would take a tenth of the program's build time for this small grammar.
//!
//! Precedence from weak to strong, as in SQL: `OR`, `AND`, `NOT`, comparisons and predicates, `+ - ||`, `* / %`, signs,
//! `::`.

use regex::{Regex, RegexBuilder};

use crate::read::filter::{Comparison, FUNCTIONS, Node, Operation, Type};
use crate::read::filter_value::{self as value, Cell};

/// Maximum nesting depth of parentheses, signs and `NOT`s.
const DEPTH: usize = 64;
/// Maximum number of operators in a filter. A chain of operators is evaluated recursively.
const OPERATORS: usize = 500;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(String),
    Text(String),
    /// A word without quotes: a keyword, a function or a column.
    Word(String),
    /// A name in double quotes or backticks. Always a column.
    Quoted(String),
    Symbol(&'static str),
    End,
}

/// A symbol must come before all of its prefixes.
const SYMBOLS: [&str; 23] = [
    "!~*", "<>", "<=", ">=", "!=", "==", "||", "::", "!~", "~*", "~", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")",
    ",", ";",
];

/// Words that name a column only in quotes.
const RESERVED: [&str; 21] = [
    "and", "or", "not", "in", "between", "like", "ilike", "rlike", "regexp", "is", "null", "true", "false", "escape",
    "as", "case", "select", "exists", "any", "all", "from",
];

const COMPARISONS: [(&str, Comparison); 8] = [
    ("=", Comparison::Equal),
    ("==", Comparison::Equal),
    ("<>", Comparison::NotEqual),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    ("<=", Comparison::LessOrEqual),
    (">", Comparison::Greater),
    (">=", Comparison::GreaterOrEqual),
];

/// Operators for regular expressions: the symbol, whether it is negated, whether case is ignored.
const MATCHES: [(&str, bool, bool); 4] =
    [("~", false, false), ("~*", false, true), ("!~", true, false), ("!~*", true, true)];

const TYPES: &[(&str, Type)] = &[
    ("int", Type::Integer),
    ("integer", Type::Integer),
    ("bigint", Type::Integer),
    ("smallint", Type::Integer),
    ("tinyint", Type::Integer),
    ("float", Type::Float),
    ("double", Type::Float),
    ("real", Type::Float),
    ("decimal", Type::Float),
    ("numeric", Type::Float),
    ("text", Type::Text),
    ("varchar", Type::Text),
    ("char", Type::Text),
    ("string", Type::Text),
    ("boolean", Type::Boolean),
    ("bool", Type::Boolean),
];

/// Parses an expression. Also returns the columns that it names, in the order of their first use.
pub(super) fn parse(text: &str) -> Result<(Node, Vec<String>), String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0, operators: 0, columns: Vec::new() };
    let node = parser.or()?;
    match parser.peek() {
        Token::End => Ok((node, parser.columns)),
        other => Err(format!("{} does not continue the expression", shown(other))),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' | '`' => {
                let (inner, length) = quoted(rest, first)?;
                (if first == '\'' { Token::Text(inner) } else { Token::Quoted(inner) }, length)
            }
            '0'..='9' | '.' => {
                let length = number_length(rest);
                (Token::Number(rest[..length].to_owned()), length)
            }
            first if first.is_alphabetic() || first == '_' => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Token::Word(rest[..length].to_owned()), length)
            }
            other => match SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
                Some(symbol) => (Token::Symbol(symbol), symbol.len()),
                None => return Err(format!("`{other}` is not supported in filters")),
            },
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens.push(Token::End);
    Ok(tokens)
}

/// The text in quotes, where two quotes mean one, and the length including the quotes.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let (mut inner, mut characters) = (String::new(), text.char_indices().skip(1).peekable());
    while let Some((at, character)) = characters.next() {
        if character != quote {
            inner.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            inner.push(quote);
        } else {
            return Ok((inner, at + 1));
        }
    }
    Err(format!("the {quote} before `{}` is never closed", inner.chars().take(20).collect::<String>()))
}

fn number_length(text: &str) -> usize {
    let digits = |from: usize| from + text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut end = digits(0);
    if text[end..].starts_with('.') {
        end = digits(end + 1);
    }
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let start = end + 1 + usize::from(exponent.starts_with(['+', '-']));
        if text[start..].starts_with(|c: char| c.is_ascii_digit()) {
            end = digits(start);
        }
    }
    end
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    operators: usize,
    columns: Vec<String>,
}

impl Parser {
    /// The next token. After the last token, always [`Token::End`].
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn keyword(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(found) if found.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.symbol(symbol) { Ok(()) } else { Err(format!("`{symbol}` is expected before {}", shown(self.peek()))) }
    }

    /// Counts an operator, and checks the limit.
    fn operator(&mut self) -> Result<(), String> {
        self.operators += 1;
        if self.operators > OPERATORS { Err(format!("it has more than {OPERATORS} operators")) } else { Ok(()) }
    }

    fn nested(&mut self, parse: impl FnOnce(&mut Self) -> Result<Node, String>) -> Result<Node, String> {
        self.depth += 1;
        let node = if self.depth > DEPTH { Err("it is nested too deeply".to_owned()) } else { parse(self) };
        self.depth -= 1;
        node
    }

    fn or(&mut self) -> Result<Node, String> {
        let mut node = self.and()?;
        while self.keyword("or") {
            self.operator()?;
            node = Node::Or(Box::new(node), Box::new(self.and()?));
        }
        Ok(node)
    }

    fn and(&mut self) -> Result<Node, String> {
        let mut node = self.not()?;
        while self.keyword("and") {
            self.operator()?;
            node = Node::And(Box::new(node), Box::new(self.not()?));
        }
        Ok(node)
    }

    fn not(&mut self) -> Result<Node, String> {
        if self.keyword("not") { Ok(negated(true, self.nested(Self::not)?)) } else { self.predicate() }
    }

    fn predicate(&mut self) -> Result<Node, String> {
        let mut node = self.sum()?;
        while let Token::Symbol(symbol) = *self.peek() {
            if let Some((_, comparison)) = COMPARISONS.iter().find(|(known, _)| *known == symbol) {
                self.at += 1;
                self.operator()?;
                node = Node::Compare(*comparison, Box::new(node), Box::new(self.sum()?));
            } else if let Some((_, not, any_case)) = MATCHES.iter().find(|(known, ..)| *known == symbol) {
                self.at += 1;
                self.operator()?;
                node = negated(*not, Node::Matches(Box::new(node), compiled(&self.pattern()?, *any_case)?));
            } else {
                break;
            }
        }
        if self.keyword("is") {
            return self.is(node);
        }
        let not = self.keyword("not");
        Ok(if self.keyword("in") {
            self.expect("(")?;
            negated(not, Node::In(Box::new(node), self.list()?))
        } else if self.keyword("between") {
            let low = self.sum()?;
            if !self.keyword("and") {
                return Err(format!("BETWEEN needs AND before {}", shown(self.peek())));
            }
            negated(not, Node::Between(Box::new(node), Box::new(low), Box::new(self.sum()?)))
        } else if self.keyword("like") {
            negated(not, Node::Matches(Box::new(node), self.like(false)?))
        } else if self.keyword("ilike") {
            negated(not, Node::Matches(Box::new(node), self.like(true)?))
        } else if self.keyword("rlike") || self.keyword("regexp") {
            negated(not, Node::Matches(Box::new(node), compiled(&self.pattern()?, false)?))
        } else if not {
            return Err(format!("NOT can't stand before {}", shown(self.peek())));
        } else {
            node
        })
    }

    fn is(&mut self, node: Node) -> Result<Node, String> {
        let not = self.keyword("not");
        Ok(if self.keyword("null") || self.keyword("unknown") {
            negated(not, Node::IsNull(Box::new(node)))
        } else if self.keyword("true") {
            negated(not, Node::Is(true, Box::new(node)))
        } else if self.keyword("false") {
            negated(not, Node::Is(false, Box::new(node)))
        } else if self.keyword("distinct") && self.keyword("from") {
            negated(not, Node::Distinct(Box::new(node), Box::new(self.sum()?)))
        } else {
            return Err(format!("IS can't stand before {}", shown(self.peek())));
        })
    }

    fn sum(&mut self) -> Result<Node, String> {
        let mut node = self.product()?;
        loop {
            let left = Box::new(node);
            node = if self.symbol("+") {
                Node::Arithmetic(Operation::Add, left, Box::new(self.product()?))
            } else if self.symbol("-") {
                Node::Arithmetic(Operation::Subtract, left, Box::new(self.product()?))
            } else if self.symbol("||") {
                Node::Concatenate(left, Box::new(self.product()?))
            } else {
                return Ok(*left);
            };
            self.operator()?;
        }
    }

    fn product(&mut self) -> Result<Node, String> {
        let mut node = self.signed()?;
        loop {
            let left = Box::new(node);
            let operation = if self.symbol("*") {
                Operation::Multiply
            } else if self.symbol("/") {
                Operation::Divide
            } else if self.symbol("%") {
                Operation::Remainder
            } else {
                return Ok(*left);
            };
            self.operator()?;
            node = Node::Arithmetic(operation, left, Box::new(self.signed()?));
        }
    }

    fn signed(&mut self) -> Result<Node, String> {
        if self.symbol("-") {
            let zero = Box::new(Node::Literal(Cell::Int(0)));
            return Ok(Node::Arithmetic(Operation::Subtract, zero, Box::new(self.nested(Self::signed)?)));
        }
        if self.symbol("+") {
            return self.nested(Self::signed);
        }
        let mut node = self.primary()?;
        while self.symbol("::") {
            self.operator()?;
            node = Node::Cast(Box::new(node), self.cast_type()?, false);
        }
        Ok(node)
    }

    fn primary(&mut self) -> Result<Node, String> {
        Ok(match self.next() {
            Token::Number(digits) => {
                Node::Literal(value::number(&digits).ok_or_else(|| format!("`{digits}` is no number"))?)
            }
            Token::Text(text) => Node::Literal(Cell::Literal(text)),
            Token::Quoted(name) => self.column(name),
            Token::Symbol("(") => {
                let node = self.nested(Self::or)?;
                self.expect(")")?;
                node
            }
            Token::Word(word) if self.symbol("(") => self.call(&word.to_lowercase())?,
            Token::Word(word) => match word.to_lowercase().as_str() {
                "true" => Node::Literal(Cell::Bool(true)),
                "false" => Node::Literal(Cell::Bool(false)),
                "null" => Node::Literal(Cell::Null),
                reserved if RESERVED.contains(&reserved) => return Err(unsupported(&word)),
                _ => self.column(word),
            },
            Token::End => return Err("it ends where a value is expected".to_owned()),
            Token::Symbol(symbol) => return Err(format!("`{symbol}` stands where a value is expected")),
        })
    }

    fn column(&mut self, name: String) -> Node {
        let known = self.columns.iter().position(|column| *column == name);
        Node::Column(known.unwrap_or_else(|| {
            self.columns.push(name);
            self.columns.len() - 1
        }))
    }

    /// Parses a function call after its opening parenthesis.
    fn call(&mut self, name: &str) -> Result<Node, String> {
        if name == "cast" || name == "try_cast" {
            let node = self.nested(Self::or)?;
            if !self.keyword("as") {
                return Err(format!("CAST needs AS before {}", shown(self.peek())));
            }
            let to = self.cast_type()?;
            self.expect(")")?;
            return Ok(Node::Cast(Box::new(node), to, name == "try_cast"));
        }
        let Some((_, function, count)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            return Err(unsupported(&format!("{name}()")));
        };
        let arguments = self.list()?;
        if count.is_some_and(|count| count != arguments.len()) {
            return Err(format!("`{name}` has the wrong number of arguments"));
        }
        Ok(Node::Call(*function, arguments))
    }

    /// Parses one or more expressions up to a closing parenthesis.
    fn list(&mut self) -> Result<Vec<Node>, String> {
        let mut items = vec![self.nested(Self::or)?];
        while self.symbol(",") {
            items.push(self.nested(Self::or)?);
        }
        self.expect(")")?;
        Ok(items)
    }

    fn cast_type(&mut self) -> Result<Type, String> {
        let token = self.next();
        let known = match &token {
            Token::Word(word) => TYPES.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)),
            _ => None,
        };
        let Some((_, to)) = known else { return Err(format!("no type to cast to: {}", shown(&token))) };
        // varchar(20), decimal(10, 2)
        if self.symbol("(") {
            self.list()?;
        }
        Ok(*to)
    }

    fn pattern(&mut self) -> Result<String, String> {
        match self.next() {
            Token::Text(pattern) => Ok(pattern),
            other => Err(format!("a pattern must be a text in 'single quotes', not {}", shown(&other))),
        }
    }

    /// Converts the pattern of LIKE to a regular expression: `%` matches any text, `_` any character.
    fn like(&mut self, any_case: bool) -> Result<Regex, String> {
        let pattern = self.pattern()?;
        let mut escape = '\\';
        if self.keyword("escape") {
            let text = self.pattern()?;
            let mut characters = text.chars();
            let (Some(only), None) = (characters.next(), characters.next()) else {
                return Err(format!("ESCAPE needs one character, not '{text}'"));
            };
            escape = only;
        }
        let (mut regex, mut characters) = (String::from("^"), pattern.chars());
        while let Some(character) = characters.next() {
            match character {
                '%' if escape != '%' => regex.push_str(".*"),
                '_' if escape != '_' => regex.push('.'),
                other => {
                    let literal = if other == escape { characters.next().unwrap_or(other) } else { other };
                    regex.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4])));
                }
            }
        }
        regex.push('$');
        compiled(&regex, any_case)
    }
}

fn negated(not: bool, node: Node) -> Node {
    if not { Node::Not(Box::new(node)) } else { node }
}

fn compiled(pattern: &str, any_case: bool) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).case_insensitive(any_case).dot_matches_new_line(true).build();
    built.map_err(|error| format!("the pattern `{pattern}` can't be used: {error}"))
}

fn unsupported(what: &str) -> String {
    let functions: Vec<&str> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
    format!(
        "`{what}` is not supported; filters have comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, ILIKE, RLIKE, IS NULL, \
         arithmetic, CAST, TRY_CAST and {}",
        functions.join(", ")
    )
}

/// A token as text, for errors.
fn shown(token: &Token) -> String {
    match token {
        Token::Number(text) | Token::Word(text) => format!("`{text}`"),
        Token::Text(text) => format!("'{text}'"),
        Token::Quoted(text) => format!("\"{text}\""),
        Token::Symbol(symbol) => format!("`{symbol}`"),
        Token::End => "the end".to_owned(),
    }
}
