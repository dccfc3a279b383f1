use corten_testkit::host::Snapshot;
use corten_testkit::{Result, tool};

#[test]
fn a_link_left_behind_is_noticed() -> Result<()> {
    let name = format!("ctk{}", std::process::id() % 100_000);
    let before = Snapshot::take();
    tool::call("ip", &["link", "add", &name, "type", "bridge"])?;
    let changes = before.changes(&Snapshot::take(), None);
    tool::call("ip", &["link", "delete", &name])?;
    assert!(
        changes.contains(&format!("left behind: link {name}")),
        "{changes}"
    );
    Ok(())
}

#[test]
fn a_mount_left_behind_is_noticed() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().to_string_lossy().into_owned();
    let before = Snapshot::take();
    tool::call("mount", &["-t", "tmpfs", "test", &place])?;
    let changes = before.changes(&Snapshot::take(), None);
    tool::call("umount", &[&place])?;
    assert!(
        changes.contains(&format!("left behind: mount {place}")),
        "{changes}"
    );
    Ok(())
}
