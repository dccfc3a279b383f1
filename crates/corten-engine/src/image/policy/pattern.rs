//! Patterns of names in the policy.
//!
//! `HOST[:PORT]/PATH[:TAG]`. A `*` stands for anything within one component of the path, or within the host or tag; `?`
//! for one character; `**` as the last component for any number of further ones; `**` alone for every name. Without a
//! tag, every tag and digest is meant. There is no shorthand: Docker Hub's busybox is `docker.io/library/busybox`.

use corten_spec::Reference;

use crate::image::filter::glob;

/// A pattern that was checked.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    /// Host and path, without a `**` at the end.
    parts: Vec<String>,
    open: bool,
    tag: Option<String>,
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} is no pattern of names: {why}"));
        if text == "**" {
            return Ok(Self {
                text: text.into(),
                parts: Vec::new(),
                open: true,
                tag: None,
            });
        }
        let slash = text.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match text[slash..].find(':') {
            Some(colon) if slash > 0 => (&text[..slash + colon], Some(&text[slash + colon + 1..])),
            _ => (text, None),
        };
        let mut parts: Vec<String> = name.split('/').map(str::to_owned).collect();
        let open = parts.last().is_some_and(|p| p == "**");
        if open {
            parts.pop();
        }
        if text.contains('@') {
            return wrong("digests have no place in it");
        }
        if parts.iter().any(String::is_empty) || tag == Some("") {
            return wrong("a part of it is empty");
        }
        if parts.iter().any(|p| p.contains("**")) || tag.is_some_and(|t| t.contains("**")) {
            return wrong("** is a whole component, and the last one");
        }
        if open && tag.is_some() {
            return wrong("a tag does not follow **");
        }
        let host = parts.first().map_or("", String::as_str);
        if !(host.contains(['.', ':', '*']) || host == "localhost") || (parts.len() < 2 && !open) {
            return wrong("it begins with the registry's host, such as docker.io/library/busybox");
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || "._-:*?[]/".contains(c);
        if !text.chars().all(fine) {
            return wrong("it has a character that no name has");
        }
        Ok(Self {
            text: text.into(),
            parts,
            open,
            tag: tag.map(str::to_owned),
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// How much of it is said outright: the pattern with more of that decides.
    pub fn weight(&self) -> usize {
        self.text.chars().filter(|c| !"*?".contains(*c)).count()
    }

    /// The components before the first one with a wildcard; `None` if a component is said in part only, or a tag.
    pub fn literal(&self) -> Option<&str> {
        let end = self.text.find(['*', '?', '[']).unwrap_or(self.text.len());
        let literal = &self.text[..end];
        let whole = end == self.text.len();
        match literal.strip_suffix('/') {
            _ if self.tag.is_some() => None,
            Some(folder) => Some(folder),
            None if whole => Some(literal),
            None => None,
        }
    }

    pub fn fits(&self, reference: &Reference) -> bool {
        let path = reference.repository().split('/');
        let names: Vec<&str> = std::iter::once(reference.registry()).chain(path).collect();
        let enough = match self.open {
            // `a.b/c/**` is what is below c, and c itself.
            true => names.len() >= self.parts.len(),
            false => names.len() == self.parts.len(),
        };
        let pairs = self.parts.iter().zip(&names);
        let tag = match (&self.tag, reference.tag()) {
            (None, _) => true,
            (Some(pattern), Some(tag)) => glob(pattern.as_bytes(), tag.as_bytes()),
            (Some(_), None) => false,
        };
        enough
            && tag
            && pairs
                .into_iter()
                .all(|(p, n)| glob(p.as_bytes(), n.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit() {
        let fits = |p: &str, n: &str| Pattern::parse(p).unwrap().fits(&n.parse().unwrap());
        for (pattern, name) in [
            ("**", "busybox"),
            ("docker.io/library/*", "busybox:1"),
            ("docker.io/**", "a/b/c/d"),
            ("*.example.com/**", "eu.example.com/x/y"),
            ("localhost:5000/a/**", "localhost:5000/a"),
            ("localhost:5000/a/**", "localhost:5000/a/b:1"),
            ("a.b/app-?:v*", "a.b/app-1:v2"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("docker.io/*", "busybox"),
            ("docker.io/library/bus", "busybox"),
            ("*.example.com/**", "example.com.evil.org/x"),
            ("a.b/c/**", "a.b/cd/e"),
            ("a.b/c:1", "a.b/c:2"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        let digest = corten_spec::Digest::of(b"");
        assert!(fits("a.b/c", &format!("a.b/c@{digest}")));
        assert!(!fits("a.b/c:1", &format!("a.b/c@{digest}")));
    }

    #[test]
    fn what_is_said_outright() {
        let literal = |p: &str| Pattern::parse(p).unwrap().literal().map(str::to_owned);
        assert_eq!(literal("a.b/c/**").as_deref(), Some("a.b/c"));
        assert_eq!(literal("a.b/c/*").as_deref(), Some("a.b/c"));
        assert_eq!(literal("a.b/c").as_deref(), Some("a.b/c"));
        for partial in ["a.b/c*", "a.b/c:1", "*.b/c", "**"] {
            assert_eq!(literal(partial), None, "{partial}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "", "busybox", "a.b", "a.b//c", "a.b/c:", "a.b/**/c", "a.b/c**", "a.b/c@x", "a.b/**:1",
            "a.b/c d",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
