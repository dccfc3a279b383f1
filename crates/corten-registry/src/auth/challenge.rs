//! `WWW-Authenticate` (RFC 9110 §11.6.1): several challenges in one header, in several headers, with
//! commas both between them and inside them. Anything malformed ends the list; nothing is guessed.

/// One challenge: the scheme in lower case, and its parameters with lower-case names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub scheme: String,
    pub parameters: Vec<(String, String)>,
}

/// How the registry wants us to prove who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// A token from `realm`, by the distribution project's token protocol.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    Basic,
}

/// More parameters than any registry sends.
const PARAMETERS_MAX: usize = 64;

impl Challenge {
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(n, _)| n == name);
        found.map(|(_, v)| v.as_str())
    }
}

/// The best demand that we can meet: Bearer before Basic, as it exposes the password to fewer hosts' logs.
pub fn demand(challenges: &[Challenge]) -> Option<Demand> {
    let bearer = challenges
        .iter()
        .filter(|c| c.scheme == "bearer")
        .find_map(|c| {
            Some(Demand::Bearer {
                realm: c.get("realm")?.to_owned(),
                service: c.get("service").map(str::to_owned),
                scope: c.get("scope").filter(|s| !s.is_empty()).map(str::to_owned),
            })
        });
    let basic = || challenges.iter().any(|c| c.scheme == "basic");
    bearer.or_else(|| basic().then_some(Demand::Basic))
}

/// Reads one header value.
pub fn parse(value: &str) -> Vec<Challenge> {
    let mut cursor = Cursor { rest: value };
    let mut out: Vec<Challenge> = Vec::new();
    let mut parameters = 0;
    loop {
        cursor.skip(|c| c == ' ' || c == '\t' || c == ',');
        let word = cursor.token();
        if word.is_empty() {
            return out;
        }
        // `name = value` belongs to the challenge before it; a word without `=` opens a new one.
        match cursor.value() {
            Value::None => out.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                parameters: Vec::new(),
            }),
            Value::Malformed => return out,
            Value::Is(value) => {
                let Some(last) = out.last_mut() else {
                    return out;
                };
                parameters += 1;
                if parameters > PARAMETERS_MAX {
                    return out;
                }
                last.parameters.push((word.to_ascii_lowercase(), value));
            }
        }
    }
}

enum Value {
    None,
    Is(String),
    Malformed,
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(what);
    }

    /// RFC 9110 §5.6.2; empty where none stands here.
    fn token(&mut self) -> &'a str {
        let is = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = self.rest.find(|c| !is(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    fn value(&mut self) -> Value {
        let blank = |c| c == ' ' || c == '\t';
        let Some(after) = self.rest.trim_start_matches(blank).strip_prefix('=') else {
            return Value::None;
        };
        self.rest = after.trim_start_matches(blank);
        if let Some(quoted) = self.rest.strip_prefix('"') {
            return self.quoted(quoted);
        }
        // Unquoted URLs are no tokens by the RFC, but registries send them.
        let end = self
            .rest
            .find([',', ' ', '\t', '"'])
            .unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        Value::Is(value.to_owned())
    }

    fn quoted(&mut self, text: &'a str) -> Value {
        let mut out = String::new();
        let mut chars = text.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &text[i + 1..];
                    return Value::Is(out);
                }
                '\\' => match chars.next() {
                    Some((_, c)) => out.push(c),
                    None => return Value::Malformed,
                },
                c => out.push(c),
            }
        }
        Value::Malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_server_is_found() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let want = Demand::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(demand(&parse(header)), Some(want));
    }

    #[test]
    fn several_in_one_header() {
        let list = parse(
            r#"Negotiate, Basic realm="a \"b\", c" , BEARER realm=https://x/t , service = "s""#,
        );
        let schemes: Vec<&str> = list.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(list[1].get("realm"), Some(r#"a "b", c"#));
        assert_eq!(list[2].get("realm"), Some("https://x/t"));
        assert_eq!(list[2].get("service"), Some("s"));
        assert_eq!(demand(&list[..2]), Some(Demand::Basic));
        assert_eq!(demand(&list[..1]), None);
    }

    #[test]
    fn malformed_ends_the_list() {
        assert_eq!(
            parse(r#"Bearer realm="open"#),
            [Challenge {
                scheme: "bearer".into(),
                parameters: vec![]
            }]
        );
        assert_eq!(parse("realm=x"), []);
        assert_eq!(parse(""), []);
    }

    proptest! {
        #[test]
        fn any_header_is_survived(text in "\\PC{0,200}") {
            let _ = demand(&parse(&text));
        }

        #[test]
        fn what_is_written_is_read(pairs in proptest::collection::vec(("[a-z]{1,8}", "\\PC{0,20}"), 0..6)) {
            let quote = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"");
            let text: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}=\"{}\"", quote(v))).collect();
            let read = parse(&format!("Bearer {}", text.join(", ")));
            prop_assert_eq!(&read[0].parameters, &pairs);
        }
    }
}
