//! The bundles: a busybox root, and `runc spec` changed as each series wants it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::call;
use crate::failure::{Context, Result};

/// What differs from `runc spec`, which is five namespaces, seven mounts, three capabilities.
#[derive(Clone, Default)]
pub struct Variant {
    pub arguments: Vec<&'static str>,
    /// Engines on v2 ask for a cgroup namespace too.
    pub cgroup_namespace: bool,
    /// Device rules are kept only where every peer can load them.
    pub resources: bool,
    pub seccomp: Option<Value>,
    pub memory: Option<u64>,
}

impl Variant {
    pub fn new(arguments: &[&'static str]) -> Variant {
        Variant {
            arguments: arguments.to_vec(),
            ..Variant::default()
        }
    }

    /// Spec B: with the cgroup namespace.
    pub fn own_cgroups(mut self) -> Variant {
        self.cgroup_namespace = true;
        self
    }

    /// With the device rules of `runc spec`: on the host. Debian's crun 1.8.1 raises a limit for them in v2
    /// that a root without CAP_SYS_RESOURCE may not raise.
    pub fn on_host(mut self) -> Variant {
        self.resources = true;
        self
    }
}

/// Makes bundles below one folder, which share one root.
pub struct Bundles {
    folder: PathBuf,
    template: Value,
}

impl Bundles {
    pub fn new(folder: &Path) -> Result<Bundles> {
        let root = folder.join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "etc", "tmp"] {
            let path = root.join(name);
            fs::create_dir_all(&path).context(path.display())?;
        }
        let busybox = root.join("bin/busybox");
        fs::copy("/bin/busybox", &busybox).context("/bin/busybox")?;
        for applet in ["true", "sleep", "sh"] {
            symlink("busybox", root.join("bin").join(applet)).context(applet)?;
        }
        call("/usr/sbin/runc", &["spec", "--bundle", &text(folder)])?;
        let file = folder.join("config.json");
        let bytes = fs::read(&file).context(file.display())?;
        let template = serde_json::from_slice(&bytes).context(file.display())?;
        Ok(Bundles {
            folder: folder.to_owned(),
            template,
        })
    }

    pub fn root(&self) -> String {
        text(&self.folder.join("rootfs"))
    }

    /// A bundle with a control group of its own name.
    pub fn make(&self, name: &str, variant: &Variant) -> Result<String> {
        let mut spec = self.template.clone();
        let arguments = &variant.arguments;
        spec["process"]["args"] = json!(arguments);
        spec["process"]["terminal"] = json!(false);
        spec["root"]["path"] = json!(self.root());
        spec["linux"]["cgroupsPath"] = json!(format!("/corten-bench/{name}"));
        if variant.cgroup_namespace
            && let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut()
        {
            namespaces.push(json!({"type": "cgroup"}));
        }
        if !variant.resources
            && let Some(linux) = spec["linux"].as_object_mut()
        {
            linux.remove("resources");
        }
        if let Some(limit) = variant.memory {
            spec["linux"]["resources"]["memory"]["limit"] = json!(limit);
        }
        if let Some(section) = &variant.seccomp {
            spec["linux"]["seccomp"] = section.clone();
        }
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).context(folder.display())?;
        let file = folder.join("config.json");
        fs::write(&file, spec.to_string()).context(file.display())?;
        Ok(text(&folder))
    }
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
