//! `--format`: the part of Go's text/template that people write for docker, over JSON values.
//!
//! ```text
//!  text ── parse ──► nodes ── eval, once an item ──► text
//! ```
//! Fields, pipes, `if`, `range`, `with`, variables, and docker's functions (`json`, `join`, `upper`, …). What is not
//! understood is an error that says where, never an empty column. There are no definitions, no blocks, no methods.

mod eval;
mod function;
mod parse;

use std::io::{self, Write};

use serde_json::Value;

use super::table;
use crate::failure::Failure;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

/// Why a template cannot be used, or not on this value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template is wrong at character {at}: {why}")]
    Syntax { at: usize, why: String },
    #[error("{0}")]
    Value(String),
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let nodes = parse::parse(&unescape(text))?;
        Ok(Self { nodes })
    }

    /// The text for one item.
    pub fn render(&self, item: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, item)
    }
}

/// Shells hand `\t` and `\n` on as they are typed; docker takes them for what they mean.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// How a list is to be shown, as `--format` and `--json` say together.
#[derive(Debug)]
pub enum Format {
    /// The command's own table.
    Own,
    /// All items as one JSON array (`--json`).
    Array,
    /// An object a line (`--format json`, as docker).
    Lines,
    /// `table TEMPLATE`: a header, and columns where the template has tabs.
    Table(Template),
    Plain(Template),
}

impl Format {
    pub fn new(json: bool, format: Option<&str>) -> Result<Self, Failure> {
        let parse = |text: &str| Template::parse(text).map_err(failed);
        Ok(match format.map(str::trim_start) {
            None | Some("" | "table") if json => Self::Array,
            None | Some("" | "table") => Self::Own,
            Some("json") => Self::Lines,
            Some(text) => match text.strip_prefix("table ") {
                Some(columns) => Self::Table(parse(columns.trim_start())?),
                None => Self::Plain(parse(text)?),
            },
        })
    }

    /// Prints the items; `false` for [`Format::Own`], which is the caller's to print.
    pub fn print(&self, items: &[Value]) -> Result<bool, Failure> {
        match self {
            Self::Own => return Ok(false),
            Self::Array => super::json(&items)?,
            Self::Lines => {
                for item in items {
                    super::line(item)?;
                }
            }
            Self::Plain(template) => {
                for item in items {
                    super::line(template.render(item).map_err(failed)?)?;
                }
            }
            Self::Table(template) => print_table(template, items)?,
        }
        Ok(true)
    }
}

fn print_table(template: &Template, items: &[Value]) -> Result<(), Failure> {
    let cells = |item: &Value| -> Result<Vec<String>, Failure> {
        let line = template.render(item).map_err(failed)?;
        Ok(line.split('\t').map(str::to_owned).collect())
    };
    let rows = items.iter().map(cells).collect::<Result<Vec<_>, _>>()?;
    // The header is the template over the columns' names. Without an item there is nothing that knows them.
    let header = match items.first() {
        Some(Value::Object(fields)) => {
            let names = fields.keys().map(|k| (k.clone(), Value::from(title(k))));
            cells(&Value::Object(names.collect()))?
        }
        _ => return Ok(()),
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    Ok(table::print(&header, &rows)?)
}

/// `CreatedSince` is `CREATED SINCE` at the head of its column, and `ID` is `ID`.
fn title(key: &str) -> String {
    let mut out = String::new();
    let mut before = 'A';
    for c in key.chars() {
        if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
            out.push(' ');
        }
        out.push(c.to_ascii_uppercase());
        before = c;
    }
    out
}

/// Shows documents as `inspect` does: a JSON array, or the template over each.
pub fn inspect(format: Option<&str>, documents: &[Value]) -> Result<(), Failure> {
    match format {
        None | Some("") => Ok(super::json(&documents)?),
        Some("json") => {
            let mut out = io::stdout().lock();
            Ok(writeln!(out, "{}", Value::from(documents.to_vec()))?)
        }
        Some(text) => {
            let template = Template::parse(text).map_err(failed)?;
            for document in documents {
                super::line(template.render(document).map_err(failed)?)?;
            }
            Ok(())
        }
    }
}

fn failed(error: TemplateError) -> Failure {
    Failure::hinted(
        error,
        "a format is like '{{.ID}}: {{json .Labels}}'; without --format, --json shows every field",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(text: &str) -> Result<String, TemplateError> {
        let item = json!({
            "ID": "abc", "Size": 12, "Tags": ["x", "y"], "Empty": [], "None": null,
            "Config": { "Env": ["A=1", "B=2"], "Labels": { "k": "v", "a.b": "c" } },
        });
        Template::parse(text)?.render(&item)
    }

    #[track_caller]
    fn is(text: &str, expected: &str) {
        assert_eq!(render(text).as_deref(), Ok(expected), "{text}");
    }

    #[test]
    fn fields_and_functions() {
        is("{{.ID}}:{{ .Size }}", "abc:12");
        is("{{json .Tags}}", r#"["x","y"]"#);
        is("{{.Tags}} {{.Config.Labels}}", "[x y] map[a.b:c k:v]");
        is(r#"{{join .Tags ", "}}"#, "x, y");
        is(r#"{{index .Config.Labels "a.b"}}{{index .Tags 1}}"#, "cy");
        is("{{.ID | upper | printf \"%s-%d\" .Size}}", "12-ABC");
        is("{{len .Tags}}{{(len .Config.Env)}}", "22");
        is("{{.Config.Nothing}}", "<no value>");
        is("{{println .ID}}", "abc\n");
        is("{{title .ID}}{{lower \"X\"}}{{truncate .ID 2}}", "Abcxab");
        is("{{split .ID \"b\"}}", "[a c]");
        is("a\\tb", "a\tb");
    }

    #[test]
    fn conditions_and_loops() {
        is("{{range .Tags}}<{{.}}>{{end}}", "<x><y>");
        is(
            "{{range $i, $t := .Tags}}{{$i}}{{$t}}{{$.ID}}{{end}}",
            "0xabc1yabc",
        );
        is(
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
            "a.b=c;k=v;",
        );
        is("{{range .Empty}}x{{else}}none{{end}}", "none");
        is(
            "{{if .None}}a{{else if eq .ID \"abc\"}}b{{else}}c{{end}}",
            "b",
        );
        is("{{with .Config}}{{.Env}}{{end}}", "[A=1 B=2]");
        is(
            "{{if and (not .None) .ID}}y{{end}}{{(index .Tags 0).Nope}}",
            "y<no value>",
        );
        is("{{if and .ID (not .None) (gt .Size 3)}}yes{{end}}", "yes");
        is("{{- /* comment */ -}} {{.ID}} ", "abc ");
        is("  {{- .ID -}}  !", "abc!");
        is("{{$x := .ID}}{{$x}}", "abc");
    }

    #[test]
    fn what_is_wrong_is_located() {
        for (text, why) in [
            ("{{.ID", "does not end"),
            ("{{range .Tags}}", "end"),
            ("{{end}}", "end"),
            ("{{nosuch .ID}}", "nosuch"),
            ("{{.Nope}}", "Nope"),
            ("{{$y}}", "$y"),
            ("{{\"abc}}", "text"),
            ("{{index .Tags 7}}", "7"),
            ("{{if}}x{{end}}", "missing"),
        ] {
            let error = render(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(render(&deep).is_err());
        let nested = "{{if .ID}}".repeat(5000);
        assert!(render(&nested).is_err());
    }

    #[test]
    fn headers() {
        assert_eq!(title("CreatedSince"), "CREATED SINCE");
        assert_eq!(title("ID"), "ID");
    }
}
