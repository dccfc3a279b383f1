//! What a runtime is told about pod and container beside the specification proper: names that virtual-machine
//! runtimes go by, and what the handler passes on.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use super::facts::Handler;
use crate::proto::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};

type Annotations = BTreeMap<String, String>;

const PREFIX: &str = "io.kubernetes.cri";

pub(super) fn of_pod(pod: &PodSandboxConfig, id: &str, handler: &Handler) -> Annotations {
    let mut all = Annotations::new();
    pass(&mut all, &pod.annotations, &handler.pod_annotations);
    let resources = pod.linux.as_ref().and_then(|l| l.resources.as_ref());
    if let Some(resources) = resources {
        size(&mut all, resources);
    }
    common(&mut all, pod, id, "sandbox");
    set(&mut all, "sandbox-log-directory", &pod.log_directory);
    all
}

pub(super) fn of_container(
    pod: &PodSandboxConfig,
    container: &ContainerConfig,
    pod_id: &str,
    image: &str,
    handler: &Handler,
) -> Annotations {
    let mut all = Annotations::new();
    pass(&mut all, &pod.annotations, &handler.pod_annotations);
    pass(
        &mut all,
        &container.annotations,
        &handler.container_annotations,
    );
    common(&mut all, pod, pod_id, "container");
    let name = container.metadata.as_ref().map(|m| m.name.as_str());
    set(&mut all, "container-name", name.unwrap_or_default());
    set(&mut all, "image-name", image);
    all
}

fn set(all: &mut Annotations, name: &str, value: &str) {
    all.insert(format!("{PREFIX}.{name}"), value.to_owned());
}

/// Last, so that nobody's annotations can pretend to be these.
fn common(all: &mut Annotations, pod: &PodSandboxConfig, id: &str, kind: &str) {
    let metadata = pod.metadata.clone().unwrap_or_default();
    set(all, "container-type", kind);
    set(all, "sandbox-id", id);
    set(all, "sandbox-name", &metadata.name);
    set(all, "sandbox-namespace", &metadata.namespace);
    set(all, "sandbox-uid", &metadata.uid);
}

fn size(all: &mut Annotations, resources: &LinuxContainerResources) {
    for (name, value) in [
        ("sandbox-cpu-period", resources.cpu_period),
        ("sandbox-cpu-quota", resources.cpu_quota),
        ("sandbox-cpu-shares", resources.cpu_shares),
        ("sandbox-memory", resources.memory_limit_in_bytes),
    ] {
        set(all, name, &value.to_string());
    }
}

fn pass(all: &mut Annotations, given: &Annotations, patterns: &[String]) {
    let passed = |key: &&String| patterns.iter().any(|p| matches(p, key));
    for key in given.keys().filter(passed) {
        all.insert(key.clone(), given[key].clone());
    }
}

/// A part of a pattern.
enum Part {
    /// Any run of characters but a slash.
    Run,
    /// One character, but no slash.
    One,
    Literal(char),
    /// One of these ranges, or of none of them; a slash never.
    Class(bool, Vec<(char, char)>),
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Run => false,
            Self::One => c != '/',
            Self::Literal(own) => *own == c,
            Self::Class(not, ranges) => {
                let within = ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&c));
                c != '/' && within != *not
            }
        }
    }
}

/// Go's path.Match: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before what is meant as it is. What is no pattern matches nothing.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some(parts) = parts(pattern) else {
        return false;
    };
    let name: Vec<char> = name.chars().collect();
    // Where the last run began, and how much it has taken: going back to it alone is enough.
    let (mut p, mut n, mut run) = (0, 0, None);
    while n < name.len() {
        match parts.get(p) {
            Some(Part::Run) => {
                run = Some((p, n));
                p += 1;
            }
            Some(part) if part.takes(name[n]) => (p, n) = (p + 1, n + 1),
            _ => match run {
                // The run takes one more.
                Some((at, taken)) if name[taken] != '/' => {
                    run = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
    parts[p..].iter().all(|part| matches!(part, Part::Run))
}

fn parts(pattern: &str) -> Option<Vec<Part>> {
    let mut chars = pattern.chars().peekable();
    let mut parts = Vec::new();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Run,
            '?' => Part::One,
            '\\' => Part::Literal(chars.next()?),
            '[' => class(&mut chars)?,
            plain => Part::Literal(plain),
        });
    }
    Some(parts)
}

/// What follows a bracket, up to the one that closes it.
fn class(chars: &mut Peekable<Chars<'_>>) -> Option<Part> {
    let not = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let first = end(chars)?;
        let last = match chars.next_if_eq(&'-') {
            Some(_) => end(chars)?,
            None => first,
        };
        ranges.push((first, last));
    }
    Some(Part::Class(not, ranges))
}

/// One end of a range.
fn end(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '\\' => chars.next(),
        '-' | ']' => None,
        plain => Some(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_path() {
        for (pattern, name, yes) in [
            ("io.katacontainers.*", "io.katacontainers.config", true),
            ("io.katacontainers.*", "io.katacontainers.", true),
            ("io.katacontainers.*", "io.kata", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("a/*", "a/b", true),
            ("*/*", "a/b", true),
            ("*b*d", "abcd", true),
            ("*b*d", "abcde", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "afe", false),
            ("a[^b-d]e", "afe", true),
            ("a[^b-d]e", "a/e", false),
            ("[a\\-c]", "-", true),
            ("[xy]*", "yz", true),
            ("[a", "a", false),
            ("[]", "]", false),
            ("a\\", "a", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn nobody_can_pretend_to_be_another_pod() {
        let handler = Handler {
            pod_annotations: vec!["*".into()],
            ..super::super::tests::handler()
        };
        let pod = PodSandboxConfig {
            annotations: Annotations::from([
                ("io.kubernetes.cri.sandbox-id".into(), "other".into()),
                ("x".into(), "y".into()),
            ]),
            ..Default::default()
        };
        let all = of_container(&pod, &ContainerConfig::default(), "mine", "image", &handler);
        assert_eq!(all["io.kubernetes.cri.sandbox-id"], "mine");
        assert_eq!(all["io.kubernetes.cri.image-name"], "image");
        assert_eq!(all["x"], "y");
    }
}
