//! Who runs a container: our own runtime, or another's shim (`--runtime NAME`, and the handlers of Kubernetes'
//! RuntimeClass).
//!
//! | name | meaning |
//! | --- | --- |
//! | none, `corten`, `io.containerd.corten.v2` | our own |
//! | one of `[runtimes]` in config.toml | as it says there |
//! | `runc`, `crun`, another OCI runtime on PATH or by its absolute path | containerd's shim for runc, with that program |
//! | `runsc`, `kata` | gVisor's and Kata's shims |
//! | `io.containerd.NAME.VERSION` | the program `containerd-shim-NAME-VERSION` on PATH, as containerd has it |
//! | an absolute path of a `containerd-shim-…` | that shim |
//!
//! A name is looked up at each start: what is installed then counts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use corten_shim::client::ForeignShim;
use corten_shim::foreign::{Options, RuncOptions};
use corten_spec::Kind;
use serde::Deserialize;

use crate::Engine;
use crate::error::Error;

/// Our own.
pub const OWN: &str = "corten";
const OWN_TYPE: &str = "io.containerd.corten.v2";
/// Of every version.
const RUNC_TYPES: &str = "io.containerd.runc.";
const RUNC_TYPE: &str = "io.containerd.runc.v2";
/// Shims by the short names under which docker's and Kubernetes' users know them.
const SHORT: [(&str, &str); 3] = [
    ("runc", RUNC_TYPE),
    ("runsc", "io.containerd.runsc.v1"),
    ("kata", "io.containerd.kata.v2"),
];

/// A `[runtimes.NAME]` of config.toml, with containerd's words.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Setting {
    /// `io.containerd.NAME.VERSION`
    #[serde(rename = "type")]
    kind: Option<String>,
    /// The shim's executable, in place of the one that its type leads to.
    path: Option<PathBuf>,
    options: toml::Table,
}

/// Options of containerd's shim for runc, by containerd's names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
struct RuncSetting {
    no_pivot_root: bool,
    no_new_keyring: bool,
    binary_name: String,
    root: String,
    io_uid: u32,
    io_gid: u32,
}

/// Options of other shims.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OtherSetting {
    #[serde(default)]
    type_url: String,
    #[serde(default)]
    config_path: String,
}

/// Why a runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no runtime {name:?}")]
    Unknown { name: String },
    #[error("runtime {name:?} needs {program}, which is not installed")]
    Program { name: String, program: String },
    #[error("options of runtime {name:?} cannot be used")]
    Options {
        name: String,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error(
        "runtime {name:?} cannot run pods: {program:?} makes a sandbox of its own, and joins no pod's namespaces"
    )]
    Sandbox { name: String, program: PathBuf },
    #[error(
        "user {user:?}: the root of a container of runtime {runtime:?} is not visible, so a user must be a number"
    )]
    User { user: String, runtime: String },
}

impl RuntimeError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. } | Self::Program { .. } => Kind::NotFound,
            Self::Options { .. } | Self::User { .. } => Kind::Invalid,
            Self::Sandbox { .. } => Kind::Unsupported,
        }
    }
}

/// Another's shim, as found.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    pub shim: PathBuf,
    options: Option<Options>,
    /// Whether its containers join namespaces that are there, as runc's do. gVisor's and Kata's have a kernel of their own, one for all
    /// containers of a pod, which they would have to be told to make first.
    joins: bool,
}

impl Foreign {
    /// As the supervisor is told.
    pub fn order(&self, host_mounts: bool, systemd_cgroup: bool) -> ForeignShim {
        let mut options = self.options.clone();
        if let Some(Options::Runc(runc)) = &mut options {
            runc.systemd_cgroup = systemd_cgroup;
        }
        ForeignShim::new(&self.shim, options, host_mounts)
    }

    /// Whether its containers are processes of this kernel, whose root is seen under `/proc`.
    pub fn shows_root(&self) -> bool {
        matches!(self.options, Some(Options::Runc(_)))
    }
}

impl Engine {
    /// Says what is wrong with a runtime's name, before anything is made.
    pub fn check_runtime(&self, name: Option<&str>) -> Result<(), Error> {
        self.foreign_runtime(name).map(drop)
    }

    /// As [`Engine::check_runtime`], for one that is to run pods.
    pub fn check_pod_runtime(&self, name: Option<&str>) -> Result<(), Error> {
        match self.foreign_runtime(name)? {
            Some(Foreign {
                shim, joins: false, ..
            }) => Err(RuntimeError::Sandbox {
                name: name.unwrap_or(OWN).into(),
                program: shim,
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// The shim that a name leads to; `None` is our own.
    pub(crate) fn foreign_runtime(&self, name: Option<&str>) -> Result<Option<Foreign>, Error> {
        let name = name.unwrap_or(OWN);
        let look = Look {
            settings: &self.config.runtimes,
            path: search_path(),
            root: self.paths.run().join("runc"),
        };
        Ok(look.up(name)?)
    }
}

/// Where programs are. A supervisor hands on the environment of who started it, which may have none.
fn search_path() -> std::ffi::OsString {
    match std::env::var_os("PATH") {
        Some(path) if !path.is_empty() => path,
        _ => "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
    }
}

/// Where names are looked up.
struct Look<'a> {
    settings: &'a BTreeMap<String, Setting>,
    path: std::ffi::OsString,
    /// Where runc keeps its state.
    root: PathBuf,
}

impl Look<'_> {
    fn up(&self, name: &str) -> Result<Option<Foreign>, RuntimeError> {
        if let Some(setting) = self.settings.get(name) {
            return self.set(name, setting);
        }
        if name == OWN || name == OWN_TYPE {
            return Ok(None);
        }
        if let Some((_, kind)) = SHORT.iter().find(|(short, _)| *short == name) {
            return self
                .of_type(name, kind, None, &toml::Table::new())
                .map(Some);
        }
        if name.starts_with("io.containerd.") {
            return self
                .of_type(name, name, None, &toml::Table::new())
                .map(Some);
        }
        let path = Path::new(name);
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_absolute() && file.starts_with("containerd-shim-") {
            let kind = match &*file {
                runc if runc.starts_with("containerd-shim-runc-") => RUNC_TYPE,
                own if own.starts_with("containerd-shim-corten-") => OWN_TYPE,
                _ => "",
            };
            return self
                .of_type(name, kind, Some(path), &toml::Table::new())
                .map(Some);
        }
        // A runtime with runc's command line, then.
        let program = match path.is_absolute() {
            true => Some(path.to_owned()).filter(|p| is_program(p)),
            false if name.contains('/') => None,
            false => self.on_path(name),
        };
        let unknown = || RuntimeError::Unknown { name: name.into() };
        let program = program.ok_or_else(unknown)?;
        let mut options = toml::Table::new();
        options.insert("BinaryName".into(), program.display().to_string().into());
        self.of_type(name, RUNC_TYPE, None, &options).map(Some)
    }

    fn set(&self, name: &str, setting: &Setting) -> Result<Option<Foreign>, RuntimeError> {
        let short = SHORT.iter().find(|(short, _)| *short == name);
        let kind = match &setting.kind {
            Some(kind) => kind.as_str(),
            None => short.map_or(RUNC_TYPE, |(_, kind)| kind),
        };
        if kind == OWN_TYPE {
            return Ok(None);
        }
        self.of_type(name, kind, setting.path.as_deref(), &setting.options)
            .map(Some)
    }

    fn of_type(
        &self,
        name: &str,
        kind: &str,
        shim: Option<&Path>,
        options: &toml::Table,
    ) -> Result<Foreign, RuntimeError> {
        let shim = match shim {
            Some(path) => Some(path.to_owned()).filter(|p| is_program(p)),
            None => self.on_path(
                &program_of(kind).ok_or_else(|| RuntimeError::Unknown { name: name.into() })?,
            ),
        };
        let shim = shim.ok_or_else(|| RuntimeError::Program {
            name: name.into(),
            program: program_of(kind).unwrap_or_else(|| name.into()),
        })?;
        let options = self
            .options(kind, options)
            .map_err(|source| RuntimeError::Options {
                name: name.into(),
                source: Box::new(source),
            })?;
        let joining = [RUNC_TYPES, OWN_TYPE];
        let joins = joining.iter().any(|known| kind.starts_with(known));
        Ok(Foreign {
            shim,
            options,
            joins,
        })
    }

    fn options(&self, kind: &str, table: &toml::Table) -> Result<Option<Options>, toml::de::Error> {
        if kind.starts_with(RUNC_TYPES) {
            let setting: RuncSetting = table.clone().try_into()?;
            let root = match setting.root.is_empty() {
                true => self.root.display().to_string(),
                false => setting.root,
            };
            return Ok(Some(Options::Runc(RuncOptions {
                no_pivot_root: setting.no_pivot_root,
                no_new_keyring: setting.no_new_keyring,
                io_uid: setting.io_uid,
                io_gid: setting.io_gid,
                binary_name: setting.binary_name,
                root,
                ..RuncOptions::default()
            })));
        }
        if table.is_empty() {
            return Ok(None);
        }
        let other: OtherSetting = table.clone().try_into()?;
        Ok(Some(Options::Other {
            type_url: other.type_url,
            config_body: match other.config_path.is_empty() {
                true => table.to_string(),
                false => String::new(),
            },
            config_path: other.config_path,
        }))
    }

    fn on_path(&self, program: &str) -> Option<PathBuf> {
        let folders = std::env::split_paths(&self.path).filter(|f| f.is_absolute());
        folders
            .map(|folder| folder.join(OsStr::new(program)))
            .find(|path| is_program(path))
    }
}

/// containerd's rule: of `io.containerd.NAME.VERSION`, `containerd-shim-NAME-VERSION`.
fn program_of(kind: &str) -> Option<String> {
    let rest = kind.strip_prefix("io.containerd.")?;
    let (name, version) = rest.rsplit_once('.')?;
    let fine = |word: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !word.is_empty() && word.chars().all(letter)
    };
    (fine(name) && fine(version)).then(|| format!("containerd-shim-{name}-{version}"))
}

fn is_program(path: &Path) -> bool {
    let metadata = std::fs::metadata(path);
    metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look<'a>(settings: &'a BTreeMap<String, Setting>, folder: &Path) -> Look<'a> {
        for program in [
            "containerd-shim-runc-v2",
            "containerd-shim-runsc-v1",
            "crun",
            "runc",
        ] {
            std::fs::write(folder.join(program), "").unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.join(program), mode).unwrap();
        }
        Look {
            settings,
            path: folder.into(),
            root: "/run/corten/runc".into(),
        }
    }

    fn settings(text: &str) -> BTreeMap<String, Setting> {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn names_lead_to_shims() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(
            r#"
            [fast]
            options = { BinaryName = "/opt/fast" }
            [gvisor]
            type = "io.containerd.runsc.v1"
            options = { TypeUrl = "io.containerd.runsc.v1.options", ConfigPath = "/etc/runsc.toml" }
            [plain]
            type = "io.containerd.corten.v2"
            "#,
        );
        let look = look(&settings, dir.path());
        for own in ["corten", "io.containerd.corten.v2", "plain"] {
            assert!(look.up(own).unwrap().is_none(), "{own}");
        }
        let runc = |name: &str| match look.up(name).unwrap().unwrap() {
            Foreign {
                shim,
                options: Some(Options::Runc(o)),
                joins: true,
            } if shim.ends_with("containerd-shim-runc-v2") => (o.binary_name, o.root),
            other => panic!("{other:?}"),
        };
        let root = || "/run/corten/runc".to_owned();
        assert_eq!(runc("runc"), (String::new(), root()));
        assert_eq!(runc("io.containerd.runc.v2"), (String::new(), root()));
        assert_eq!(runc("fast"), ("/opt/fast".into(), root()));
        let crun = dir.path().join("crun").display().to_string();
        assert_eq!(runc("crun"), (crun.clone(), root()));
        assert_eq!(runc(&crun), (crun, root()));
        let shim = dir.path().join("containerd-shim-runc-v2");
        assert_eq!(runc(shim.to_str().unwrap()), (String::new(), root()));
        let gvisor = look.up("gvisor").unwrap().unwrap();
        assert!(gvisor.shim.ends_with("containerd-shim-runsc-v1"));
        assert!(!gvisor.shows_root() && !gvisor.joins);
        for (name, joins) in [("own", true), ("strange", false)] {
            let path = dir.path().join(match name {
                "own" => "containerd-shim-corten-v2",
                _ => "containerd-shim-strange-v2",
            });
            std::fs::copy(dir.path().join("crun"), &path).unwrap();
            let found = look.up(path.to_str().unwrap()).unwrap().unwrap();
            assert_eq!(found.joins, joins, "{name}");
        }
        assert!(matches!(
            gvisor.options,
            Some(Options::Other { config_path, config_body, .. })
                if config_path == "/etc/runsc.toml" && config_body.is_empty()
        ));
        assert!(look.up("runsc").unwrap().unwrap().options.is_none());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings("[odd]\noptions = { BinryName = \"x\" }\n[far]\npath = \"/none\"");
        let look = look(&settings, dir.path());
        for name in ["none", "../crun", "sub/crun", "/none", ""] {
            let error = look.up(name).unwrap_err();
            assert!(
                matches!(error, RuntimeError::Unknown { .. }),
                "{name}: {error}"
            );
        }
        for name in ["kata", "io.containerd.none.v1", "far"] {
            let error = look.up(name).unwrap_err();
            assert!(
                matches!(error, RuntimeError::Program { .. }),
                "{name}: {error}"
            );
        }
        let error = look.up("io.containerd.../x.v1").unwrap_err();
        assert!(matches!(error, RuntimeError::Unknown { .. }), "{error}");
        let error = look.up("odd").unwrap_err();
        assert!(matches!(error, RuntimeError::Options { .. }), "{error}");
    }
}
