//! Source → texts and actions, and the tokens of an action.
//!
//! Source of the rules: the lexer part of Go's documentation of `text/template`, and its section "Text and spaces".

use super::{GoTemplateError, line};

/// What Go counts as whitespace in templates.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// A part of the source.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece<'a> {
    /// Text between actions, with the whitespace trimmed that `{{-` and `-}}` remove. Never empty.
    Text(&'a str),
    Action {
        /// Byte offset of `{{`, for errors.
        at: usize,
        tokens: Vec<Token>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Whether whitespace precedes the token. Arguments must be separated by whitespace, and `(x).Name` must not be.
    pub(super) spaced: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Dot,
    /// `.Name`
    Field(String),
    /// `$name`; `$` is the empty name.
    Variable(String),
    /// A keyword or a function.
    Word(String),
    Text(Vec<u8>),
    Int(i64),
    Pipe,
    Comma,
    /// `=`
    Assign,
    /// `:=`
    Declare,
    Open,
    Close,
}

pub(super) fn pieces(source: &str) -> Result<Vec<Piece<'_>>, GoTemplateError> {
    let mut pieces = Vec::new();
    let (mut at, mut trim) = (0, false);
    while at < source.len() {
        let rest = &source[at..];
        let (text, action) = match rest.find("{{") {
            Some(position) => (&rest[..position], Some(at + position)),
            None => (rest, None),
        };
        let text = if trim { text.trim_start_matches(SPACE) } else { text };
        let Some(start) = action else {
            push_text(&mut pieces, text);
            break;
        };
        let mut inside = start + 2;
        let trims_left = source[inside..].strip_prefix('-').is_some_and(|after| after.starts_with(SPACE));
        inside += 2 * usize::from(trims_left);
        push_text(&mut pieces, if trims_left { text.trim_end_matches(SPACE) } else { text });
        if source[inside..].starts_with("/*") {
            (at, trim) = comment(source, inside)?;
            continue;
        }
        let mut lexer = Lexer { source, at: inside };
        let tokens;
        (tokens, trim) = lexer.tokens()?;
        at = lexer.at;
        pieces.push(Piece::Action { at: start, tokens });
    }
    Ok(pieces)
}

fn push_text<'a>(pieces: &mut Vec<Piece<'a>>, text: &'a str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

/// The offset after a comment, and whether it trims the text that follows.
fn comment(source: &str, at: usize) -> Result<(usize, bool), GoTemplateError> {
    let fault = |what: &str| GoTemplateError::Syntax { line: line(source, at), what: what.to_owned() };
    let end = source[at + 2..].find("*/").ok_or_else(|| fault("the comment has no end `*/`"))? + at + 4;
    let after = &source[end..];
    if after.starts_with("}}") {
        return Ok((end + 2, false));
    }
    match after.strip_prefix(SPACE).is_some_and(|after| after.starts_with("-}}")) {
        true => Ok((end + 4, true)),
        false => Err(fault("`*/` of a comment must be followed by `}}`")),
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    /// The tokens up to `}}`, and whether `-}}` trims the text that follows.
    fn tokens(&mut self) -> Result<(Vec<Token>, bool), GoTemplateError> {
        let mut tokens = Vec::new();
        loop {
            let before = self.at;
            self.skip(|character| SPACE.contains(&character));
            let spaced = self.at > before;
            let rest = self.rest();
            if rest.starts_with("}}") {
                self.at += 2;
                return Ok((tokens, false));
            }
            if spaced && rest.starts_with("-}}") {
                self.at += 3;
                return Ok((tokens, true));
            }
            let kind = self.token()?;
            tokens.push(Token { kind, spaced });
        }
    }

    fn token(&mut self) -> Result<Kind, GoTemplateError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Err(self.syntax("an action has no end `}}`")) };
        let symbol = match first {
            '|' => Some((Kind::Pipe, 1)),
            ',' => Some((Kind::Comma, 1)),
            '(' => Some((Kind::Open, 1)),
            ')' => Some((Kind::Close, 1)),
            '=' => Some((Kind::Assign, 1)),
            ':' if rest.starts_with(":=") => Some((Kind::Declare, 2)),
            _ => None,
        };
        if let Some((kind, length)) = symbol {
            self.at += length;
            return Ok(kind);
        }
        match first {
            '"' => self.quoted(),
            '`' => self.raw(),
            '.' => {
                self.at += 1;
                if self.rest().starts_with(|next: char| next.is_ascii_digit()) {
                    return Err(self.unsupported("a fraction"));
                }
                match self.name()? {
                    "" => Ok(Kind::Dot),
                    name => Ok(Kind::Field(name.to_owned())),
                }
            }
            '$' => {
                self.at += 1;
                Ok(Kind::Variable(self.name()?.to_owned()))
            }
            '+' | '-' | '0'..='9' => self.integer(),
            '\'' => Err(self.unsupported("a character constant")),
            first if first.is_alphabetic() || first == '_' => Ok(Kind::Word(self.name()?.to_owned())),
            other => Err(self.syntax(&format!("unexpected {other:?}"))),
        }
    }

    /// Letters, digits and underscores, and a character after them that may end a name.
    fn name(&mut self) -> Result<&'a str, GoTemplateError> {
        let start = self.at;
        self.skip(|character| character.is_alphanumeric() || character == '_');
        let name = &self.source[start..self.at];
        self.end_of_operand()?;
        Ok(name)
    }

    fn integer(&mut self) -> Result<Kind, GoTemplateError> {
        let start = self.at;
        self.skip(|character| character.is_ascii_digit() || matches!(character, '+' | '-'));
        let digits = &self.source[start..self.at];
        let number = digits.parse().map_err(|_| self.syntax(&format!("bad number {digits}")))?;
        if digits.trim_start_matches(['+', '-']).starts_with('0') && number != 0 {
            return Err(self.unsupported("an octal number"));
        }
        if self.rest().starts_with(|next: char| next.is_alphanumeric() || matches!(next, '_' | '.')) {
            return Err(self.unsupported("a number that is not a decimal integer"));
        }
        self.end_of_operand()?;
        Ok(Kind::Int(number))
    }

    /// Go ends names and numbers only at these characters.
    fn end_of_operand(&self) -> Result<(), GoTemplateError> {
        match self.rest().chars().next() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | '(' | ')') => Ok(()),
            Some('}') if self.rest().starts_with("}}") => Ok(()),
            Some(other) => Err(self.syntax(&format!("unexpected {other:?}"))),
        }
    }

    fn raw(&mut self) -> Result<Kind, GoTemplateError> {
        let Some(length) = self.rest()[1..].find('`') else { return Err(self.syntax("a string has no end")) };
        // Go removes carriage returns from raw strings.
        let text = self.rest()[1..=length].bytes().filter(|byte| *byte != b'\r').collect();
        self.at += length + 2;
        Ok(Kind::Text(text))
    }

    fn quoted(&mut self) -> Result<Kind, GoTemplateError> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let Some(next) = self.next() else { return Err(self.syntax("a string has no end")) };
            match next {
                '"' => return Ok(Kind::Text(bytes)),
                '\n' => return Err(self.syntax("a string ends at the end of its line")),
                '\\' => self.escape(&mut bytes)?,
                other => bytes.extend(other.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
    }

    /// The escapes of Go's string literals.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), GoTemplateError> {
        let Some(next) = self.next() else { return Err(self.syntax("a string has no end")) };
        let byte = match next {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' => b'\\',
            '"' => b'"',
            'x' => self.digits(2, 16)? as u8,
            '0'..='7' => {
                self.at -= 1;
                let value = self.digits(3, 8)?;
                u8::try_from(value).map_err(|_| self.syntax("an octal escape is above 255"))?
            }
            'u' | 'U' => {
                let value = self.digits(if next == 'u' { 4 } else { 8 }, 16)?;
                let character = char::from_u32(value).ok_or_else(|| self.syntax("an escape is not a character"))?;
                bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
                return Ok(());
            }
            other => return Err(self.syntax(&format!("unknown escape \\{other}"))),
        };
        bytes.push(byte);
        Ok(())
    }

    fn digits(&mut self, count: usize, radix: u32) -> Result<u32, GoTemplateError> {
        let digits = self.rest().get(..count).filter(|digits| digits.chars().all(|digit| digit.is_digit(radix)));
        let value = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
        let value = value.ok_or_else(|| self.syntax("an escape has too few digits"))?;
        self.at += count;
        Ok(value)
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest().chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(wanted).len();
    }

    fn syntax(&self, what: &str) -> GoTemplateError {
        GoTemplateError::Syntax { line: line(self.source, self.at), what: what.to_owned() }
    }

    fn unsupported(&self, what: &str) -> GoTemplateError {
        GoTemplateError::Unsupported { line: line(self.source, self.at), what: what.to_owned() }
    }
}
