//! Images on the host: layers that are mounted for containers and for people, and what stays of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use corten_testkit::{Image, Registry, Result, Sandbox};

use super::sandbox;

/// The mounts below the sandbox's folders, by their type.
fn mounts(sandbox: &Sandbox, kind: &str) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let folder = sandbox.root().parent().expect("a folder").to_owned();
    let ours = |line: &&str| {
        line.split(' ')
            .nth(4)
            .is_some_and(|p| Path::new(p).starts_with(&folder))
            && line.contains(&format!(" - {kind} "))
    };
    text.lines().filter(ours).count()
}

#[test]
fn an_image_is_a_folder_until_it_is_unmounted() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = registry.push(&Image::Busybox.layout()?, "busybox")?;
    sandbox.corten(&["pull", &image]).ok();
    let folder = sandbox.corten(&["image", "mount", &image]).ok();
    assert_eq!(sandbox.corten(&["image", "mount", &image]).ok(), folder);
    // However many want it at once, it is mounted once.
    sandbox.corten(&["image", "unmount", &image]).ok();
    let mut all = [0, 1, 2, 3].map(|_| sandbox.start(&["image", "mount", &image]));
    for one in &mut all {
        assert!(one.wait().expect("wait").success());
    }
    assert_eq!(mounts(&sandbox, "overlay"), 1);
    let path = Path::new(&folder);
    assert_eq!(
        fs::read_to_string(path.join("data/changed"))
            .expect("a file")
            .trim(),
        "after"
    );
    let refused = fs::write(path.join("new"), "x").expect_err("it is read-only");
    assert_eq!(refused.raw_os_error(), Some(30));
    assert!(
        fs::metadata(path.join("bin/busybox"))
            .expect("a file")
            .permissions()
            .mode()
            & 0o111
            != 0
    );

    // It is in use: neither is it pruned nor removed, and nothing of it is garbage.
    sandbox.corten(&["image", "prune", "--all", "--force"]).ok();
    sandbox
        .corten(&["rmi", &image])
        .fails(125)
        .names("mounted")
        .complete();
    sandbox.corten(&["system", "prune"]).ok();
    assert!(path.join("bin/busybox").exists());
    assert!(sandbox.corten(&["image", "mount"]).ok().contains(&folder));
    sandbox.corten(&["system", "check"]).ok();

    sandbox.corten(&["image", "unmount", &image]).ok();
    assert!(!path.exists());
    assert_eq!(mounts(&sandbox, "erofs") + mounts(&sandbox, "overlay"), 0);
    sandbox
        .corten(&["image", "unmount", &image])
        .fails(125)
        .names("not mounted")
        .complete();
    sandbox.finish();
    Ok(())
}

/// Each layer once, however many containers have it; none, when the last of them is gone.
#[test]
fn layers_are_mounted_once_for_all_containers() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = registry.push(&Image::Busybox.layout()?, "busybox")?;
    sandbox.corten(&["pull", &image]).ok();
    let info = sandbox.corten(&["system", "info"]).ok();
    if !info.contains("erofs") {
        println!("not checked: {info}");
        sandbox.finish();
        return Ok(());
    }
    let names = ["one", "two", "three"];
    for name in names {
        sandbox
            .corten(&[
                "run",
                "-d",
                "--name",
                name,
                "--network",
                "none",
                &image,
                "sleep",
                "1000",
            ])
            .ok();
        assert_eq!(mounts(&sandbox, "erofs"), 3, "{name}");
    }
    for (left, name) in [3, 3, 0].into_iter().zip(names) {
        sandbox.corten(&["rm", "--force", name]).ok();
        assert_eq!(mounts(&sandbox, "erofs"), left, "{name}");
    }
    sandbox.finish();
    Ok(())
}

/// As after a crash of the machine, or by a hand: mounts that are gone come back, and mounts of nobody go.
#[test]
fn mounts_that_a_crash_took_or_left_are_put_right() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = registry.push(&Image::Busybox.layout()?, "busybox")?;
    sandbox.corten(&["pull", &image]).ok();
    let folder = sandbox.corten(&["image", "mount", &image]).ok();
    sandbox
        .corten(&[
            "create",
            "--name",
            "c",
            "--network",
            "none",
            &image,
            "cat",
            "/data/changed",
        ])
        .ok();
    unmount_all(&sandbox);
    let found = sandbox.corten(&["system", "check"]);
    assert!(
        found.text().contains("mounted and no longer is"),
        "{}",
        found.text()
    );
    assert_eq!(sandbox.corten(&["start", "-a", "c"]).ok(), "after");
    assert_eq!(sandbox.corten(&["image", "mount", &image]).ok(), folder);
    unmount_all(&sandbox);
    sandbox.corten(&["rm", "c"]).ok();
    sandbox.corten(&["system", "check", "--repair"]).ok();
    sandbox.corten(&["system", "check"]).ok();
    assert!(!Path::new(&folder).exists());
    sandbox.finish();
    Ok(())
}

fn unmount_all(sandbox: &Sandbox) {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let folder = sandbox.root().parent().expect("a folder").to_owned();
    let points: Vec<&str> = text.lines().filter_map(|l| l.split(' ').nth(4)).collect();
    for point in points
        .iter()
        .rev()
        .filter(|p| Path::new(p).starts_with(&folder))
    {
        rustix::mount::unmount(*point, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    }
}
