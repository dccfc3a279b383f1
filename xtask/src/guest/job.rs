//! What a guest is to do, as a file: written here, read there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::{Context, Result, failure};

/// A test binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// `corten-cgroup::it`.
    pub name: String,
    pub path: PathBuf,
    /// The package's folder, in which cargo runs tests.
    pub folder: PathBuf,
    /// Of its tests, only those with one of these parts in their names, which spaces separate; empty is all.
    pub only: String,
}

/// How the guest gets its root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Tag of the 9p share that is this machine's `/`; without one, the guest's root is that already.
    pub share: Option<String>,
    /// The folder of this machine that is the guest's root.
    pub lower: PathBuf,
    /// Shown at the same place when `lower` is not `/`.
    pub shown: Vec<PathBuf>,
    /// Kernel modules that are loaded first, in this order, as the first process sees them.
    pub modules: Vec<PathBuf>,
    /// All modules of the guest's kernel, for `modprobe`: the folder named by the kernel's release.
    pub module_tree: Option<PathBuf>,
    /// systemd is process 1, and starts the runner as a service.
    pub systemd: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub binaries: Vec<Binary>,
    /// Parts of test names, any of which is enough; empty is all.
    pub filters: Vec<String>,
    /// Runs every `of`-th test, starting with number `shard`.
    pub shard: usize,
    pub of: usize,
    /// Tests at once.
    pub threads: usize,
    /// For one test.
    pub limit: Duration,
    /// Variables of the tests' environment.
    pub environment: BTreeMap<String, String>,
    pub root: Root,
}

impl Job {
    pub fn write(&self, file: &Path) -> Result<()> {
        std::fs::write(file, self.json().to_string()).context(file.display())
    }

    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).context(file.display())?;
        let value: Value = serde_json::from_slice(&text).context(file.display())?;
        Self::parse(&value).ok_or_else(|| failure(format!("{} is no job", file.display())))
    }

    fn json(&self) -> Value {
        let binaries: Vec<Value> = self
            .binaries
            .iter()
            .map(|b| json!({"name": b.name, "path": b.path, "folder": b.folder, "only": b.only}))
            .collect();
        json!({
            "binaries": binaries, "filters": self.filters, "shard": self.shard, "of": self.of,
            "threads": self.threads, "limit": self.limit.as_secs(), "environment": self.environment,
            "share": self.root.share, "lower": self.root.lower, "shown": self.root.shown,
            "modules": self.root.modules, "module_tree": self.root.module_tree,
            "systemd": self.root.systemd,
        })
    }

    fn parse(value: &Value) -> Option<Self> {
        let number = |key: &str| value[key].as_u64().and_then(|n| usize::try_from(n).ok());
        let paths = |key: &str| strings(&value[key]).map(|l| l.into_iter().map(PathBuf::from));
        let binaries = value["binaries"].as_array()?.iter().map(|b| {
            Some(Binary {
                name: b["name"].as_str()?.into(),
                path: b["path"].as_str()?.into(),
                folder: b["folder"].as_str()?.into(),
                only: b["only"].as_str()?.into(),
            })
        });
        let environment = value["environment"].as_object()?.iter();
        Some(Self {
            binaries: binaries.collect::<Option<_>>()?,
            filters: strings(&value["filters"])?,
            shard: number("shard")?,
            of: number("of")?,
            threads: number("threads")?,
            limit: Duration::from_secs(value["limit"].as_u64()?),
            environment: environment
                .map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect::<Option<_>>()?,
            root: Root {
                share: value["share"].as_str().map(str::to_owned),
                lower: value["lower"].as_str()?.into(),
                shown: paths("shown")?.collect(),
                modules: paths("modules")?.collect(),
                module_tree: value["module_tree"].as_str().map(PathBuf::from),
                systemd: value["systemd"].as_bool()?,
            },
        })
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array()?.iter();
    list.map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let job = Job {
            binaries: vec![Binary {
                name: "corten-cgroup::it".into(),
                path: "/t/it-1".into(),
                folder: "/c".into(),
                only: "verity".into(),
            }],
            filters: vec!["v2".into()],
            shard: 1,
            of: 2,
            threads: 3,
            limit: Duration::from_secs(60),
            environment: [("A".to_owned(), "b".to_owned())].into(),
            root: Root {
                share: Some("hostroot".into()),
                lower: "/image".into(),
                shown: vec!["/work".into()],
                modules: vec!["/modules/a.ko".into()],
                module_tree: None,
                systemd: true,
            },
        };
        assert_eq!(Job::parse(&job.json()), Some(job));
        assert_eq!(Job::parse(&json!({"binaries": []})), None);
    }
}
