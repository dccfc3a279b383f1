//! From nodes and a value to text.

use serde_json::Value;

use super::parse::{Call, Node, Pipeline, Range, Word};
use super::{TemplateError, function};

type Result<T> = std::result::Result<T, TemplateError>;

pub fn render(nodes: &[Node], root: &Value) -> Result<String> {
    let mut scope = Scope {
        root,
        variables: vec![(String::new(), root.clone())],
        out: String::new(),
    };
    scope.nodes(nodes, root)?;
    Ok(scope.out)
}

struct Scope<'a> {
    root: &'a Value,
    variables: Vec<(String, Value)>,
    out: String,
}

impl Scope<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        let outer = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<()> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Output(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                self.out.push_str(&function::print(&value));
            }
            Node::Set(name, pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                self.variables.push((name.clone(), value));
            }
            Node::If(arms, otherwise) => {
                for (test, body) in arms {
                    if function::truth(&self.pipeline(test, dot)?) {
                        return self.nodes(body, dot);
                    }
                }
                self.nodes(otherwise, dot)?;
            }
            Node::With(over, body, otherwise) => {
                let value = self.pipeline(over, dot)?;
                match function::truth(&value) {
                    true => self.nodes(body, &value)?,
                    false => self.nodes(otherwise, dot)?,
                }
            }
            Node::Range(range) => self.range(range, dot)?,
        }
        Ok(())
    }

    fn range(&mut self, range: &Range, dot: &Value) -> Result<()> {
        let items: Vec<(Value, Value)> = match self.pipeline(&range.over, dot)? {
            Value::Array(items) => (0..).map(|i: u64| i.into()).zip(items).collect(),
            Value::Object(fields) => {
                let mut all: Vec<_> = fields.into_iter().collect();
                all.sort_by(|a, b| a.0.cmp(&b.0));
                all.into_iter().map(|(k, v)| (k.into(), v)).collect()
            }
            Value::Null => Vec::new(),
            other => {
                let what = function::print(&other);
                return Err(TemplateError::Value(format!(
                    "there is nothing to range over in {what:?}"
                )));
            }
        };
        if items.is_empty() {
            return self.nodes(&range.otherwise, dot);
        }
        for (key, item) in items {
            let outer = self.variables.len();
            match range.names.as_slice() {
                [one] => self.variables.push((one.clone(), item.clone())),
                [first, second] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), item.clone()));
                }
                _ => {}
            }
            self.nodes(&range.body, &item)?;
            self.variables.truncate(outer);
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut carried = None;
        for call in pipeline {
            carried = Some(self.call(call, dot, carried)?);
        }
        Ok(carried.unwrap_or(Value::Null))
    }

    fn call(&self, call: &Call, dot: &Value, carried: Option<Value>) -> Result<Value> {
        let Some(Word::Function(name)) = call.words.first() else {
            if carried.is_some() {
                return Err(TemplateError::Value(
                    "a value goes into a function only".into(),
                ));
            }
            return call
                .words
                .first()
                .map_or(Ok(Value::Null), |w| self.word(w, dot));
        };
        let arguments = call.words[1..].iter().map(|w| self.word(w, dot));
        let mut arguments = arguments.collect::<Result<Vec<_>>>()?;
        arguments.extend(carried);
        function::call(name, &arguments)
    }

    fn word(&self, word: &Word, dot: &Value) -> Result<Value> {
        match word {
            Word::Literal(value) => Ok(value.clone()),
            Word::Field(path) => self.field(dot, path),
            Word::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                let (_, value) = found
                    .ok_or_else(|| TemplateError::Value(format!("there is no variable ${name}")))?;
                self.field(value, path)
            }
            Word::Inner(pipeline, path) => self.field(&self.pipeline(pipeline, dot)?, path),
            Word::Function(name) => function::call(name, &[]),
        }
    }

    /// A name that the item itself lacks is a mistake; one that something inside it lacks may be there in the next.
    fn field(&self, from: &Value, path: &[String]) -> Result<Value> {
        let mut at = from;
        for name in path {
            let Some(found) = lookup(at, name) else {
                if std::ptr::eq(at, self.root) || at == self.root {
                    return Err(unknown(at, name));
                }
                return Ok(Value::Null);
            };
            at = found;
        }
        Ok(at.clone())
    }
}

/// Names are found whatever their case: docker says `ID` in one place and `Id` in another.
fn lookup<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    fields.get(name).or_else(|| {
        let mut all = fields.iter();
        all.find(|(k, _)| k.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    })
}

fn unknown(value: &Value, name: &str) -> TemplateError {
    let fields = value.as_object().into_iter().flatten();
    let names: Vec<&str> = fields.map(|(k, _)| k.as_str()).collect();
    TemplateError::Value(format!(
        "there is no field {name:?}; there are {}",
        names.join(", ")
    ))
}
