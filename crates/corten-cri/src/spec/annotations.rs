//! What a runtime is told about pod and container beside the specification proper: names that virtual-machine
//! runtimes go by, and what the handler passes on.

use std::collections::BTreeMap;

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

/// Go's path.Match without classes: `*` is any run of characters but a slash, `?` any one but a slash, `\` takes
/// the next as it is.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where the last star was, and how much it has taken: going back to it alone is enough.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        let (literal, width) = match pattern.get(p) {
            Some('\\') => (pattern.get(p + 1), 2),
            other => (other, 1),
        };
        match (pattern.get(p), literal) {
            (Some('*'), _) => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            (Some('?'), _) if name[n] != '/' => (p, n) = (p + 1, n + 1),
            (Some('?'), _) => match again(&name, &mut star) {
                Some(at) => (p, n) = at,
                None => return false,
            },
            (_, Some(c)) if *c == name[n] => (p, n) = (p + width, n + 1),
            _ => match again(&name, &mut star) {
                Some(at) => (p, n) = at,
                None => return false,
            },
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|c| *c == '*')
}

/// The last star takes one more.
fn again(name: &[char], star: &mut Option<(usize, usize)>) -> Option<(usize, usize)> {
    let (p, n) = (*star)?;
    if name[n] == '/' {
        return None;
    }
    *star = Some((p, n + 1));
    Some((p + 1, n + 1))
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
