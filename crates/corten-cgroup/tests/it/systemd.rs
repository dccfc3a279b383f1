//! The systemd driver without a runtime around it. As root it speaks to the host's manager, as anybody else to
//! their own; `systemd_*` run where systemd is PID 1, and say so where it is not.

use std::process::{Command, Stdio};

use corten_cgroup::systemd::{Manager, Scope};
use corten_cgroup::{Cgroup, Layout};

use super::resources;

fn here() -> bool {
    if !std::path::Path::new("/run/systemd/system").exists() {
        println!("skipped: systemd is not PID 1 here");
        return false;
    }
    // v1 is never delegated to users (systemd's CGROUP_DELEGATION).
    let v2 = matches!(Layout::probe().unwrap(), Layout::V2 { .. });
    if !v2 && !rustix::process::geteuid().is_root() {
        println!("skipped: no groups for users with cgroup v1");
        return false;
    }
    true
}

fn show(user: bool, unit: &str, property: &str) -> String {
    let mut command = Command::new("systemctl");
    if user {
        command.arg("--user");
    }
    let output = command
        .args(["show", "--value", "-p", property, unit])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().into()
}

#[test]
fn systemd_a_scope_holds_its_place_until_it_is_settled() {
    if !here() {
        return;
    }
    let user = !rustix::process::geteuid().is_root();
    let mut manager = Manager::connect(user).unwrap();
    let path = format!("corten-test.slice:unit:{}", std::process::id());
    let scope = Scope::parse(&path, "", user).unwrap();
    let layout = Layout::probe().unwrap();
    let limits = resources(r#"{"memory":{"limit":67108864},"pids":{"limit":9}}"#);
    let started = Cgroup::start_scope(&layout, &mut manager, &scope, &[], &limits);
    let (group, mut holder) = started.unwrap();
    assert_eq!(group.pids().unwrap().len(), 1);
    assert_eq!(group.path(), scope.path(manager.root()).unwrap());
    let memory = match layout {
        Layout::V2 { .. } => "MemoryMax",
        _ => "MemoryLimit",
    };
    assert_eq!(show(user, &scope.unit, memory), "67108864");
    assert_eq!(show(user, &scope.unit, "Slice"), "corten-test.slice");

    // What init would be; a user's manager moves it where the user alone may not.
    let mut init = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    manager.attach(&scope.unit, &[init.id()]).unwrap();
    group.settle(&mut manager, &mut holder).unwrap();
    assert_eq!(group.pids().unwrap(), [init.id() as i32]);
    assert_eq!(show(user, &scope.unit, "TasksMax"), "9");

    let more = resources(r#"{"pids":{"limit":12},"cpu":{"quota":30000,"period":100000}}"#);
    // A user's manager has the controllers that it was given: cpu is not one of them everywhere.
    let update = manager.update(&scope.unit, &group, &resources(r#"{"pids":{"limit":12}}"#));
    update.unwrap();
    if !user {
        manager.update(&scope.unit, &group, &more).unwrap();
        assert_eq!(show(user, &scope.unit, "CPUQuotaPerSecUSec"), "300ms");
    }
    assert_eq!(show(user, &scope.unit, "TasksMax"), "12");

    init.kill().unwrap();
    init.wait().unwrap();
    manager.stop(&scope.unit).unwrap();
    assert_eq!(show(user, &scope.unit, "LoadState"), "not-found");
    manager.stop(&scope.unit).unwrap();
}

#[test]
fn systemd_a_holder_that_is_dropped_takes_its_scope_along() {
    if !here() {
        return;
    }
    let user = !rustix::process::geteuid().is_root();
    let mut manager = Manager::connect(user).unwrap();
    let path = format!("corten-test.slice:drop:{}", std::process::id());
    let scope = Scope::parse(&path, "", user).unwrap();
    let none = resources("{}");
    let layout = Layout::probe().unwrap();
    let started = Cgroup::start_scope(&layout, &mut manager, &scope, &[], &none);
    drop(started.unwrap().1);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while show(user, &scope.unit, "LoadState") != "not-found" {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A user's systemd of the test's own, in a mount namespace where only cgroup v2 is mounted and systemd seems to
/// be running: the real peer, also where PID 1 is another. It has no bus, so it is spoken to directly.
#[test]
fn a_users_systemd_starts_a_scope() {
    const SYSTEMD: &str = "/lib/systemd/systemd";
    const TEST: &str = "systemd::systemd_a_holder_that_is_dropped_takes_its_scope_along";
    const SCRIPT: &str = r#"set -e
umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run && mkdir -p /run/systemd/system /run/user/1234
group=/sys/fs/cgroup/corten-test-user-$$
mkdir -p $group/run && chown -R 1234:1234 $group /run/user/1234
up=$(cat /proc/self/cgroup | sed -n 's/^0:://p')
echo $$ > $group/run/cgroup.procs
export XDG_RUNTIME_DIR=/run/user/1234 HOME=/tmp
as="setpriv --reuid 1234 --regid 1234 --clear-groups"
cd /tmp
$as /lib/systemd/systemd --user --unit=basic.target >/dev/null 2>&1 &
manager=$!
for i in $(seq 300); do [ -S $XDG_RUNTIME_DIR/systemd/private ] && break; sleep 0.1; done
status=0
$as "$1" --exact "$2" --nocapture || status=$?
kill $manager; wait $manager || true
echo $$ > /sys/fs/cgroup$up/cgroup.procs
for i in $(seq 50); do
    find $group -depth -type d -exec rmdir {} \; 2>/dev/null || true
    [ -d $group ] || break; sleep 0.1
done
[ ! -d $group ] || { echo "$group is left"; exit 1; }
exit $status
"#;
    let missing = [SYSTEMD, "/usr/bin/setpriv"]
        .into_iter()
        .find(|tool| !std::path::Path::new(tool).exists());
    if let Some(tool) = missing {
        println!("skipped: no {tool}");
        return;
    }
    if std::path::Path::new("/run/systemd/system").exists() {
        println!("skipped: systemd is PID 1 here, and tested for itself");
        return;
    }
    // Where that user can read it.
    let exe = std::env::temp_dir().join(format!("corten-cgroup-it-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let output = Command::new("timeout")
        .args(["120", "unshare", "-m", "--propagation", "private"])
        .args(["bash", "-c", SCRIPT, "bash"])
        .arg(&exe)
        .arg(TEST)
        .stdin(Stdio::null())
        .output();
    std::fs::remove_file(&exe).unwrap();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed") && !text.contains("skipped"),
        "{text}"
    );
}
