//! `kill -9` at random moments of what changes networks: `run` on two of them, `network connect`, `disconnect` and
//! `rm`, `rm -f`; of a supervisor and of the resolver while containers come and go. After a repair the host has
//! nothing of them, no address is out twice, and the next run works.

use std::collections::HashSet;
use std::thread;

use corten_testkit::registry::free_port;
use corten_testkit::{Result, Sandbox, tool, wait};

use super::crash::{Moments, ends, kill, repaired, start, supervisors, whole};
use super::{SOON, with_busybox};

const MOMENTS: u32 = 12;

/// Two networks, and a container that stays on both.
fn with_networks() -> Result<(Sandbox, String)> {
    let (sandbox, image) = with_busybox()?;
    for name in ["one", "two"] {
        sandbox.corten(&["network", "create", name]).ok();
    }
    Ok((sandbox, image))
}

fn run<'a>(name: &'a str, publish: &'a str, image: &'a str) -> Vec<&'a str> {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(["--network", "one", "--network", "two", "-p", publish]);
    args.extend([image, "sleep", "1000"]);
    args
}

/// Links of the host, and elements of its packet filter that name a container.
fn of_containers(sandbox: &Sandbox) -> String {
    let rules = tool::call("nft", &["list", "ruleset"]).unwrap_or_default();
    let table = sandbox.table();
    let mut ours = false;
    let mut found = String::new();
    for line in rules.lines() {
        if line.starts_with("table ") {
            ours = line.contains(&table);
        }
        if ours && line.contains("\"corten ") && !line.trim_start().starts_with("comment") {
            found.push_str(line);
        }
    }
    let links = tool::call("ip", &["-o", "link", "show"]).unwrap_or_default();
    // A port says whose it is, and by the network's name whose engine's.
    for line in links.lines().filter(|l| l.contains("alias corten ")) {
        if line.contains(" one") || line.contains(" two") {
            found.push_str(line);
        }
    }
    found
}

/// After the repair nothing names a container, and both networks can be used and removed.
#[track_caller]
fn clean(sandbox: &Sandbox) {
    repaired(sandbox);
    let gone = wait::until("the host to be without containers", SOON, || {
        of_containers(sandbox).is_empty().then_some(())
    });
    assert!(gone.is_ok(), "{}", of_containers(sandbox));
}

/// Kills the command line somewhere in `args`, as often as there are moments; `before` makes what it needs.
#[track_caller]
fn die_in(sandbox: &Sandbox, args: &[&str], before: impl Fn()) {
    before();
    let usual = whole(sandbox, args);
    clean(sandbox);
    let mut moments = Moments::new();
    for _ in 0..MOMENTS {
        before();
        let mut child = start(sandbox, args);
        thread::sleep(moments.within(usual));
        kill(child.id());
        child.wait().expect("corten");
        clean(sandbox);
    }
}

#[test]
fn the_command_line_dies_in_run_on_two_networks() -> Result<()> {
    let (sandbox, image) = with_networks()?;
    let publish = format!("{}:80", free_port()?);
    let args = run("c", &publish, &image);
    die_in(&sandbox, &args, || {});
    sandbox.corten(&args).ok();
    die_in(&sandbox, &["rm", "-f", "c"], || {
        if sandbox.containers().is_empty() {
            sandbox.corten(&args).ok();
        }
    });
    sandbox.finish();
    Ok(())
}

#[test]
fn the_command_line_dies_in_connect_and_disconnect() -> Result<()> {
    let (sandbox, image) = with_networks()?;
    let publish = format!("{}:80", free_port()?);
    let on_one = [
        "run",
        "-d",
        "--name",
        "c",
        "--network",
        "one",
        "-p",
        &publish,
        &image,
        "sleep",
        "1000",
    ];
    die_in(
        &sandbox,
        &["network", "connect", "--alias", "x", "two", "c"],
        || {
            sandbox.corten(&on_one).ok();
        },
    );
    let on_both = run("c", &publish, &image);
    die_in(&sandbox, &["network", "disconnect", "one", "c"], || {
        sandbox.corten(&on_both).ok();
    });
    sandbox.corten(&on_both).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn a_container_lives_on_through_a_killed_connect_and_a_repair() -> Result<()> {
    let (sandbox, image) = with_networks()?;
    let mut moments = Moments::new();
    let connect = ["network", "connect", "two", "c"];
    let disconnect = ["network", "disconnect", "two", "c"];
    let args = [
        "run",
        "-d",
        "--name",
        "c",
        "--network",
        "one",
        &image,
        "sleep",
        "1000",
    ];
    sandbox.corten(&args).ok();
    let usual = whole(&sandbox, &connect);
    for round in 0..MOMENTS {
        let args = if round % 2 == 0 {
            &disconnect
        } else {
            &connect
        };
        let mut child = start(&sandbox, args);
        thread::sleep(moments.within(usual));
        kill(child.id());
        child.wait().expect("corten");
        sandbox.corten(&["system", "check", "--repair"]).ok();
        assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
        // Whatever came of it: it runs on its first network, and says of the second what is so.
        let links = sandbox.corten(&["exec", "c", "ip", "-o", "link"]).ok();
        assert!(links.contains("eth0"), "{links}");
        let format = "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}";
        let told = sandbox.corten(&["inspect", "--format", format, "c"]).ok();
        assert_eq!(
            links.contains("eth1"),
            told.contains("two"),
            "{told}: {links}"
        );
        sandbox.corten(&["network", "check"]).ok();
        // Both verbs go on from there.
        let again = if told.contains("two") {
            disconnect
        } else {
            connect
        };
        sandbox.corten(&again).ok();
        let back = if told.contains("two") {
            connect
        } else {
            disconnect
        };
        sandbox.corten(&back).ok();
        if told.contains("two") != (round % 2 == 1) {
            // The next round's verb needs the other state.
            sandbox.corten(&again).ok();
        }
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn the_command_line_dies_in_network_rm() -> Result<()> {
    let (sandbox, image) = with_networks()?;
    let there = || {
        for name in ["one", "two"] {
            let known = sandbox.corten(&["network", "exists", name]).code == 0;
            if !known {
                sandbox.corten(&["network", "create", name]).ok();
            }
        }
        let args = ["run", "--rm", "--network", "one", &image, "true"];
        sandbox.corten(&args).ok();
    };
    die_in(&sandbox, &["network", "rm", "one"], there);
    there();
    sandbox.finish();
    Ok(())
}

#[test]
fn supervisors_and_the_resolver_die_while_containers_come_and_go() -> Result<()> {
    let (sandbox, image) = with_networks()?;
    let publish = format!("{}:80", free_port()?);
    let usual = whole(&sandbox, &run("first", &publish, &image));
    let mut moments = Moments::new();
    for round in 0..MOMENTS {
        let child = start(
            &sandbox,
            &["run", "-d", "--network", "one", &image, "sleep", "1000"],
        );
        thread::sleep(moments.within(usual));
        let mut victims = supervisors(&sandbox);
        victims.extend(resolver(&sandbox).filter(|_| round % 2 == 0));
        if let Some(victim) = victims.last() {
            kill(*victim);
        }
        ends(child);
    }
    // Who runs has addresses of its own.
    let mut addresses = HashSet::new();
    for id in sandbox.corten(&["ps", "-q", "--no-trunc"]).ok().lines() {
        let shown = sandbox.corten(&["exec", id, "ip", "-o", "-4", "addr"]);
        for line in shown.text().lines().filter(|l| l.contains(" eth")) {
            let address = line.split_whitespace().nth(3).expect("an address");
            assert!(addresses.insert(address.to_owned()), "{address} twice");
        }
    }
    clean(&sandbox);
    sandbox.corten(&run("last", &publish, &image)).ok();
    let found = sandbox.corten(&["exec", "last", "nslookup", "last"]);
    assert_eq!(found.code, 0, "{}", found.text());
    sandbox.finish();
    Ok(())
}

fn resolver(sandbox: &Sandbox) -> Option<u32> {
    let named = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"corten-dns\0")
    };
    sandbox.processes().into_iter().find(named)
}
