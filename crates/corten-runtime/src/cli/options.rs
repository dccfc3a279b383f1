//! The hand-written option parser: a table for each command, options anywhere, no allocation to speak of.
//!
//! Understood are `--name value`, `--name=value`, `-n value`, `-n=value`, bundles of short flags (`-it`), a
//! single dash before a long name (as Go's flag packages have it), and `--` as the end of options.

use std::ffi::OsString;

/// One option that a command knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub long: &'static str,
    pub short: Option<char>,
    pub value: bool,
}

/// A flag without a value.
pub(super) const fn flag(long: &'static str) -> Known {
    Known {
        long,
        short: None,
        value: false,
    }
}

/// An option with a value.
pub(super) const fn value(long: &'static str) -> Known {
    Known {
        long,
        short: None,
        value: true,
    }
}

impl Known {
    pub const fn or(self, short: char) -> Self {
        Self {
            short: Some(short),
            ..self
        }
    }
}

/// Where options end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nowhere before `--`.
    Never,
    /// At the positional argument of this index: it and all after are positional.
    At(usize),
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    options: Vec<(&'static str, String)>,
    pub positional: Vec<OsString>,
    /// Not looked at, with [`End::At`].
    pub rest: Vec<OsString>,
}

/// Why a command line is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum UsageError {
    #[error("unknown option {0}")]
    Unknown(String),
    // podman looks for the first four words.
    #[error("flag needs an argument: --{0}")]
    NoValue(&'static str),
    #[error("option --{0} takes no value")]
    Value(&'static str),
    #[error("argument {0:?} is not UTF-8")]
    Encoding(OsString),
    #[error("option --{name} is {text:?}, and must be {must}")]
    Bad {
        name: &'static str,
        text: String,
        must: &'static str,
    },
    #[error("unknown signal {0:?}")]
    Signal(String),
    #[error("missing argument {0}")]
    Missing(&'static str),
    #[error("too many arguments: {0:?}")]
    Many(OsString),
}

impl Parsed {
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(n, v)| *n == name && v != "false")
    }

    /// The last value given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.options
            .iter()
            .filter(move |(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }

    pub fn number<T: std::str::FromStr>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, UsageError> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| UsageError::Bad {
                    name,
                    text: text.into(),
                    must: "a number in range",
                })
            })
            .transpose()
    }
}

pub(super) fn parse(
    args: impl IntoIterator<Item = OsString>,
    table: &[Known],
    end: End,
) -> Result<Parsed, UsageError> {
    let mut parsed = Parsed::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str();
        match text {
            Some("--") => {
                parsed.positional.extend(args);
                return Ok(parsed);
            }
            Some(option) if option.len() > 1 && option.starts_with('-') => {
                one(option, table, &mut args, &mut parsed)?;
            }
            None if arg.as_encoded_bytes().starts_with(b"-") => {
                return Err(UsageError::Encoding(arg));
            }
            _ => {
                let index = parsed.positional.len();
                parsed.positional.push(arg);
                if end == End::At(index) {
                    parsed.rest.extend(args);
                    return Ok(parsed);
                }
            }
        }
    }
    Ok(parsed)
}

fn one(
    option: &str,
    table: &[Known],
    args: &mut impl Iterator<Item = OsString>,
    parsed: &mut Parsed,
) -> Result<(), UsageError> {
    let unknown = || UsageError::Unknown(option.into());
    let name = option.trim_start_matches('-');
    let (name, given) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (name, None),
    };
    let short = |c: char| table.iter().find(|o| o.short == Some(c));
    let mut letters = name.chars();
    let known = table
        .iter()
        .find(|o| o.long == name)
        .or_else(|| match letters.next() {
            Some(c) if letters.as_str().is_empty() => short(c),
            _ => None,
        });
    let Some(known) = known else {
        // A bundle: every letter a flag.
        let flags = name.chars().map(|c| short(c).filter(|o| !o.value));
        let flags: Option<Vec<_>> = flags.collect();
        let flags = flags.filter(|_| !option.starts_with("--") && given.is_none());
        for flag in flags.ok_or_else(unknown)? {
            parsed.options.push((flag.long, String::new()));
        }
        return Ok(());
    };
    let value = match (known.value, given) {
        (true, Some(value)) => value,
        (true, None) => {
            let next = args.next().ok_or(UsageError::NoValue(known.long))?;
            next.into_string().map_err(UsageError::Encoding)?
        }
        (false, None) => String::new(),
        (false, Some(value)) if value == "true" || value == "false" => value,
        (false, Some(_)) => return Err(UsageError::Value(known.long)),
    };
    parsed.options.push((known.long, value));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Known; 4] = [
        flag("all").or('a'),
        flag("tty").or('t'),
        value("pid-file"),
        value("bundle").or('b'),
    ];

    fn parsed(args: &[&str]) -> Result<Parsed, UsageError> {
        parse(args.iter().map(OsString::from), &TABLE, End::Never)
    }

    #[test]
    fn options_come_before_and_after_the_id() {
        for args in [
            &["--all", "--pid-file", "p", "web"][..],
            &["web", "-a", "--pid-file=p"],
            &["-all", "web", "-pid-file", "p"],
        ] {
            let p = parsed(args).unwrap();
            assert!(p.has("all"), "{args:?}");
            assert_eq!(p.get("pid-file"), Some("p"), "{args:?}");
            assert_eq!(p.positional, ["web"], "{args:?}");
        }
    }

    #[test]
    fn bundles_values_and_the_end() {
        let p = parsed(&["-at", "-b", "x", "--", "-a"]).unwrap();
        assert!(p.has("all") && p.has("tty"));
        assert_eq!(p.get("bundle"), Some("x"));
        assert_eq!(p.positional, ["-a"]);
        assert!(!parsed(&["--all=false"]).unwrap().has("all"));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |args| parsed(args).unwrap_err().to_string();
        assert_eq!(error(&["--nope"]), "unknown option --nope");
        assert_eq!(error(&["-ab"]), "unknown option -ab");
        assert_eq!(error(&["--bundle"]), "flag needs an argument: --bundle");
        assert_eq!(error(&["--all=x"]), "option --all takes no value");
    }

    #[test]
    fn a_commands_own_options_are_left_alone() {
        let args = ["-t", "web", "ls", "-t"].map(OsString::from);
        let p = parse(args, &TABLE, End::At(1)).unwrap();
        assert_eq!((p.positional.len(), p.rest.len()), (2, 1));
    }
}
