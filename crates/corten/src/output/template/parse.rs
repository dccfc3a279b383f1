//! From a template's text to nodes.

use super::TemplateError;

/// Deeper nesting is no template that a person wrote.
const DEPTH: usize = 64;

#[derive(Debug)]
pub enum Node {
    Text(String),
    Output(Pipeline),
    /// `{{$x := …}}`.
    Set(String, Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Range),
}

#[derive(Debug)]
pub struct Range {
    /// `$e :=` or `$i, $e :=`.
    pub names: Vec<String>,
    pub over: Pipeline,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// Calls, the value of each being the last argument of the next.
pub type Pipeline = Vec<Call>;

/// One command: a value, or a function's name and its arguments.
#[derive(Debug)]
pub struct Call {
    pub words: Vec<Word>,
}

#[derive(Debug)]
pub enum Word {
    /// `.A.B`; empty is the dot itself.
    Field(Vec<String>),
    /// `$x.A`; `$` has an empty name.
    Variable(String, Vec<String>),
    Literal(serde_json::Value),
    Function(String),
    Inner(Pipeline, Vec<String>),
}

#[derive(Debug, PartialEq)]
enum Token {
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Literal(serde_json::Value),
    Name(String),
    Bar,
    Open,
    /// With the fields that follow it at once: `(…).A.B`.
    Close(Vec<String>),
    Set,
    Comma,
}

type Result<T> = std::result::Result<T, TemplateError>;

fn wrong<T>(at: usize, why: impl Into<String>) -> Result<T> {
    Err(TemplateError::Syntax {
        at,
        why: why.into(),
    })
}

/// A piece of the template: text, or what is between the braces and where that begins.
enum Piece<'a> {
    Text(&'a str),
    Action(usize, Vec<Token>),
}

pub fn parse(text: &str) -> Result<Vec<Node>> {
    let pieces = pieces(text)?;
    let mut parser = Parser {
        pieces: pieces.into_iter().peekable(),
        end: text.len(),
    };
    let (nodes, stop) = parser.block(0)?;
    match stop {
        None => Ok(nodes),
        Some((at, word, _)) => wrong(at, format!("{word:?} without a beginning")),
    }
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut trim = false;
    while let Some(open) = text[at..].find("{{").map(|i| at + i) {
        let mut before = &text[at..open];
        let mut start = open + 2;
        if text[start..].starts_with("- ") || text[start..].starts_with("-/*") {
            start += 1;
            before = before.trim_end();
        }
        if trim {
            before = before.trim_start();
        }
        if !before.is_empty() {
            out.push(Piece::Text(before));
        }
        let end = close(text, start)?;
        let mut inner = &text[start..end];
        trim = inner.ends_with(" -") || inner.ends_with("*/-") || inner.trim() == "-";
        if trim {
            inner = &inner[..inner.len() - 1];
        }
        let comment = inner.trim();
        if !(comment.starts_with("/*") && comment.ends_with("*/")) {
            out.push(Piece::Action(start, tokens(inner, start)?));
        }
        at = end + 2;
    }
    let rest = if trim {
        text[at..].trim_start()
    } else {
        &text[at..]
    };
    if !rest.is_empty() {
        out.push(Piece::Text(rest));
    }
    Ok(out)
}

/// The `}}` of an action that begins at `start`; those in quotes do not count.
fn close(text: &str, start: usize) -> Result<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut i = start;
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(b'"'), b'\\') => i += 1,
            (Some(q), b) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b @ (b'"' | b'`')) => quote = Some(b),
            (None, b'}') if bytes.get(i + 1) == Some(&b'}') => return Ok(i),
            (None, _) => {}
        }
        i += 1;
    }
    match quote {
        Some(_) => wrong(start, "a text in quotes does not end"),
        None => wrong(start, "the action does not end with }}"),
    }
}

fn tokens(text: &str, base: usize) -> Result<Vec<Token>> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = base + text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            return Ok(out);
        };
        let (token, length) = match first {
            '|' => (Token::Bar, 1),
            '(' => (Token::Open, 1),
            ')' => {
                let (path, length) = path(&rest[1..]);
                (Token::Close(path), 1 + length)
            }
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Set, 2),
            '.' => {
                let (path, length) = path(rest);
                (Token::Field(path), length.max(1))
            }
            '$' => {
                let name = word(&rest[1..]);
                let (path, length) = path(&rest[1 + name.len()..]);
                (
                    Token::Variable(name.to_owned(), path),
                    1 + name.len() + length,
                )
            }
            '"' | '`' => quoted(rest, at)?,
            '-' | '0'..='9' => number(rest, at)?,
            _ => match word(rest) {
                "" => return wrong(at, format!("{first:?} is not understood")),
                name => (named(name), name.len()),
            },
        };
        out.push(token);
        rest = &rest[length..];
    }
}

fn named(name: &str) -> Token {
    match name {
        "true" => Token::Literal(true.into()),
        "false" => Token::Literal(false.into()),
        "nil" => Token::Literal(serde_json::Value::Null),
        _ => Token::Name(name.to_owned()),
    }
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// `.A.B`, and how long it is. A dot that no name follows is the dot itself.
fn path(text: &str) -> (Vec<String>, usize) {
    let mut out = Vec::new();
    let mut at = 0;
    while text[at..].starts_with('.') {
        match word(&text[at + 1..]) {
            "" => break,
            name => {
                at += 1 + name.len();
                out.push(name.to_owned());
            }
        }
    }
    (out, at)
}

fn quoted(text: &str, at: usize) -> Result<(Token, usize)> {
    let raw = text.starts_with('`');
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '`' if raw => return Ok((Token::Literal(out.into()), i + 1)),
            '"' if !raw => return Ok((Token::Literal(out.into()), i + 1)),
            '\\' if !raw => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(c) => out.push(c),
                None => break,
            },
            c => out.push(c),
        }
    }
    wrong(at, "a text in quotes does not end")
}

fn number(text: &str, at: usize) -> Result<(Token, usize)> {
    let end = text[1..].find(|c: char| !c.is_ascii_digit() && c != '.');
    let end = end.map_or(text.len(), |i| i + 1);
    let value: Option<serde_json::Value> = serde_json::from_str(&text[..end]).ok();
    match value {
        Some(v) => Ok((Token::Literal(v), end)),
        None => wrong(at, format!("{:?} is no number", &text[..end])),
    }
}

struct Parser<'a> {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece<'a>>>,
    end: usize,
}

/// What ended a block: where, `end` or `else`, and what follows `else`.
type Stop = Option<(usize, String, Vec<Token>)>;

impl Parser<'_> {
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Stop)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (at, mut tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action(at, tokens) => (at, tokens),
            };
            if depth > DEPTH {
                return wrong(at, "it is nested too deeply");
            }
            let keyword = match tokens.first() {
                Some(Token::Name(n)) => n.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" | "else" => {
                    tokens.remove(0);
                    return Ok((nodes, Some((at, keyword, tokens))));
                }
                "if" => nodes.push(self.condition(at, tokens.split_off(1), depth)?),
                "with" => {
                    let over = pipeline(at, tokens.split_off(1))?;
                    let (body, otherwise) = self.body(at, depth)?;
                    nodes.push(Node::With(over, body, otherwise));
                }
                "range" => nodes.push(self.range(at, tokens.split_off(1), depth)?),
                _ => nodes.push(plain(at, tokens)?),
            }
        }
        Ok((nodes, None))
    }

    fn condition(&mut self, at: usize, tokens: Vec<Token>, depth: usize) -> Result<Node> {
        let mut arms = Vec::new();
        let mut test = pipeline(at, tokens)?;
        loop {
            let (body, stop) = self.block(depth + 1)?;
            arms.push((test, body));
            let (at, word, mut rest) = stop.map_or_else(|| self.open(at), Ok)?;
            if word == "end" {
                return Ok(Node::If(arms, Vec::new()));
            }
            if rest.is_empty() {
                let (otherwise, stop) = self.block(depth + 1)?;
                self.ended(at, stop)?;
                return Ok(Node::If(arms, otherwise));
            }
            if rest.remove(0) != Token::Name("if".into()) {
                return wrong(at, "after \"else\" only \"if\" may follow");
            }
            test = pipeline(at, rest)?;
        }
    }

    fn range(&mut self, at: usize, mut tokens: Vec<Token>, depth: usize) -> Result<Node> {
        let mut names = Vec::new();
        if let Some(set) = tokens.iter().position(|t| *t == Token::Set) {
            let rest = tokens.split_off(set + 1);
            for token in tokens {
                match token {
                    Token::Variable(name, path) if path.is_empty() => names.push(name),
                    Token::Comma | Token::Set => {}
                    _ => return wrong(at, "before := there must be variables"),
                }
            }
            if names.is_empty() || names.len() > 2 {
                return wrong(at, "a range sets one variable or two");
            }
            tokens = rest;
        }
        let over = pipeline(at, tokens)?;
        let (body, otherwise) = self.body(at, depth)?;
        Ok(Node::Range(Range {
            names,
            over,
            body,
            otherwise,
        }))
    }

    fn body(&mut self, at: usize, depth: usize) -> Result<(Vec<Node>, Vec<Node>)> {
        let (body, stop) = self.block(depth + 1)?;
        let (at, word, rest) = stop.map_or_else(|| self.open(at), Ok)?;
        if word == "end" {
            return Ok((body, Vec::new()));
        }
        if !rest.is_empty() {
            return wrong(at, "here \"else\" stands alone");
        }
        let (otherwise, stop) = self.block(depth + 1)?;
        self.ended(at, stop)?;
        Ok((body, otherwise))
    }

    fn ended(&self, at: usize, stop: Stop) -> Result<()> {
        match stop {
            Some((_, word, _)) if word == "end" => Ok(()),
            Some((at, ..)) => wrong(at, "a second \"else\""),
            None => self.open(at).map(|_| ()),
        }
    }

    fn open(&self, at: usize) -> Result<(usize, String, Vec<Token>)> {
        wrong(
            at,
            format!("it has no {{{{end}}}} before character {}", self.end),
        )
    }
}

fn plain(at: usize, mut tokens: Vec<Token>) -> Result<Node> {
    if tokens.get(1) == Some(&Token::Set) {
        let rest = tokens.split_off(2);
        return match tokens.swap_remove(0) {
            Token::Variable(name, path) if path.is_empty() && !name.is_empty() => {
                Ok(Node::Set(name, pipeline(at, rest)?))
            }
            _ => wrong(at, "before := there must be a variable"),
        };
    }
    Ok(Node::Output(pipeline(at, tokens)?))
}

fn pipeline(at: usize, tokens: Vec<Token>) -> Result<Pipeline> {
    let mut tokens = tokens.into_iter().peekable();
    let calls = calls(at, &mut tokens, 0)?;
    match tokens.next() {
        None => Ok(calls),
        Some(_) => wrong(at, "a bracket closes that was not opened"),
    }
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

fn calls(at: usize, tokens: &mut Tokens, depth: usize) -> Result<Pipeline> {
    if depth > DEPTH {
        return wrong(at, "it is nested too deeply");
    }
    let mut out = Vec::new();
    let mut words = Vec::new();
    while let Some(token) = tokens.next_if(|t| !matches!(t, Token::Close(_))) {
        match token {
            Token::Bar => out.push(call(at, std::mem::take(&mut words))?),
            Token::Open => {
                let inner = calls(at, tokens, depth + 1)?;
                let Some(Token::Close(fields)) = tokens.next() else {
                    return wrong(at, "a bracket does not close");
                };
                words.push(Word::Inner(inner, fields));
            }
            Token::Field(path) => words.push(Word::Field(path)),
            Token::Variable(name, path) => words.push(Word::Variable(name, path)),
            Token::Literal(value) => words.push(Word::Literal(value)),
            Token::Name(name) => words.push(Word::Function(name)),
            Token::Set | Token::Comma | Token::Close(_) => {
                return wrong(at, "a sign stands where a value is wanted");
            }
        }
    }
    out.push(call(at, words)?);
    Ok(out)
}

fn call(at: usize, words: Vec<Word>) -> Result<Call> {
    match words.first() {
        None => wrong(at, "a value is missing"),
        Some(Word::Function(name)) if !super::function::is_known(name) => {
            wrong(at, format!("there is no function {name:?}"))
        }
        Some(Word::Function(_)) => Ok(Call { words }),
        Some(_) if words.len() > 1 => wrong(at, "only a function takes arguments"),
        Some(_) => Ok(Call { words }),
    }
}
