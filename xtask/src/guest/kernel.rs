//! Debian's kernel for an emulated guest: its package is fetched and unpacked below `target/guest`, and
//! never installed, so that this machine's boot stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::folder;
use crate::failure::{Context, Result, failure};

/// What leads to this machine's files and to the disk; what they depend on comes with them.
const NEEDED: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "virtio_blk", "overlay"];

pub struct Kernel {
    pub image: PathBuf,
    /// The folder with `modules.dep`, named by the release.
    pub modules: PathBuf,
}

/// The kernel, fetched when it is not there yet.
pub fn fetch() -> Result<Kernel> {
    let root = folder("kernel")?;
    if let Some(kernel) = unpacked(&root) {
        return Ok(kernel);
    }
    let package = package_name()?;
    println!("guest: fetching {package}");
    let download = folder(&format!("kernel-{}", std::process::id()))?;
    call(
        Command::new("apt-get")
            .args(["-q", "download", &package])
            .current_dir(&download),
    )?;
    let file = fs::read_dir(&download)
        .context(download.display())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| failure(format!("apt-get download {package} brought no file")))?;
    let fresh = download.join("unpacked");
    call(Command::new("dpkg-deb").arg("-x").args([&file, &fresh]))?;
    // The package's own script would do this at installation.
    let release = unpacked(&fresh)
        .and_then(|kernel| Some(kernel.modules.file_name()?.to_owned()))
        .ok_or_else(|| failure(format!("{package} holds no kernel")))?;
    call(Command::new("depmod").arg("-b").arg(&fresh).arg(release))?;
    // Complete or not there.
    fs::remove_dir_all(&root).context(root.display())?;
    fs::rename(&fresh, &root).context(root.display())?;
    fs::remove_dir_all(&download).context(download.display())?;
    unpacked(&root).ok_or_else(|| failure(format!("{package} holds no kernel")))
}

fn unpacked(root: &Path) -> Option<Kernel> {
    let boot = fs::read_dir(root.join("boot")).ok()?.flatten();
    let image = boot
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))?;
    let name = image.file_name()?.to_str()?;
    let release = name.strip_prefix("vmlinuz-")?;
    // Debian's folders were merged: /lib is /usr/lib in newer packages.
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|folder| root.join(folder).join(release))
        .into_iter()
        .find(|folder| folder.exists())?;
    Some(Kernel { image, modules })
}

/// The package that `linux-image-amd64` stands for today.
fn package_name() -> Result<String> {
    let out = Command::new("apt-cache")
        .args(["depends", "--no-recommends", "linux-image-amd64"])
        .output()
        .context("cannot run apt-cache, which knows Debian's kernels")?;
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned))
        .ok_or_else(|| failure("apt knows no linux-image-amd64; `apt-get update` may help"))
}

fn call(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().context(format!("cannot run {program}"))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(failure(format!(
            "{program} failed: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        ))),
    }
}

impl Kernel {
    /// The modules to load, each after those that it needs; those that are built in are not among them.
    pub fn load_order(&self) -> Result<Vec<PathBuf>> {
        let file = self.modules.join("modules.dep");
        let text = fs::read_to_string(&file).context(file.display())?;
        let mut order: Vec<&str> = Vec::new();
        for name in NEEDED {
            for module in with_dependencies(&text, name) {
                if !order.contains(&module) {
                    order.push(module);
                }
            }
        }
        Ok(order
            .into_iter()
            .map(|path| self.modules.join(path))
            .collect())
    }
}

/// A line of `modules.dep` reads `module: needs…`, the nearest first.
fn with_dependencies<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let is_it = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split('.').next() == Some(name)
    };
    let line = text.lines().find_map(|line| {
        let (module, needs) = line.split_once(':')?;
        is_it(module).then_some((module, needs))
    });
    let Some((module, needs)) = line else {
        return Vec::new();
    };
    needs.split_whitespace().rev().chain([module]).collect()
}

#[cfg(test)]
mod tests {
    use super::with_dependencies;

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let text = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\n\
                    kernel/net/9p/9pnet.ko:\n";
        assert_eq!(
            with_dependencies(text, "9p"),
            [
                "kernel/fs/netfs/netfs.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/fs/9p/9p.ko"
            ]
        );
        assert_eq!(with_dependencies(text, "9pnet"), ["kernel/net/9p/9pnet.ko"]);
        assert!(with_dependencies(text, "virtio_blk").is_empty());
    }
}
