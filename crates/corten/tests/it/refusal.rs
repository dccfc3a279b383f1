//! Bad input: each is refused in three lines, and nothing is left of it.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use corten_testkit::fixture::hostile::{ESCAPED, Hostile};
use corten_testkit::{Fault, Image, Proxy, Registry, Result, Sandbox, tool, wait};

use super::{SOON, sandbox, with_busybox};

/// No image, no container, no finding.
#[track_caller]
fn nothing_here(sandbox: &Sandbox) {
    assert_eq!(
        sandbox
            .corten(&["--json", "images"])
            .ok()
            .replace(char::is_whitespace, ""),
        "[]"
    );
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    sandbox.corten(&["system", "check"]).ok();
}

/// The same where bytes that arrived are kept for the next try, until somebody says otherwise.
#[track_caller]
fn nothing_here_but_a_rest(sandbox: &Sandbox) {
    sandbox.corten(&["system", "check", "--repair"]).ok();
    nothing_here(sandbox);
}

#[test]
fn an_image_that_is_not_there() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = registry.reference("no/such/image");
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names("no/such/image")
        .complete();
    sandbox
        .corten(&["run", "--rm", &image, "true"])
        .fails(125)
        .names("no/such/image")
        .complete();
    let nobody = format!("127.0.0.1:{}/x", corten_testkit::registry::free_port()?);
    sandbox
        .corten(&["pull", &nobody])
        .fails(125)
        .names(nobody.trim_end_matches("/x"))
        .complete();
    let refused = sandbox.corten(&["run", "--rm", "--pull", "never", &image, "true"]);
    refused.fails(125).names("no/such/image").names("hint:");
    nothing_here(&sandbox);
    sandbox.finish();
    Ok(())
}

#[test]
fn bytes_that_are_not_the_digests() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Busybox.layout()?, "busybox")?;
    let proxy = Proxy::before(registry.port())?;
    let image = proxy.reference("busybox");
    proxy.fail(Fault::Flip, 1000);
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names("sha256:")
        .complete();
    nothing_here(&sandbox);
    // By digest, a manifest that is another one.
    proxy.fail(Fault::ManifestLies, 1000);
    let digest = tool::call(
        "skopeo",
        &[
            "inspect",
            "--tls-verify=false",
            "--format={{.Digest}}",
            &format!("docker://{}", registry.reference("busybox")),
        ],
    )?;
    let pinned = format!("{}/busybox@{}", proxy.host(), digest.trim());
    sandbox.corten(&["pull", &pinned]).fails(125).complete();
    nothing_here(&sandbox);
    proxy.fail(Fault::Flip, 0);
    sandbox.corten(&["pull", &image]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn a_connection_that_is_always_cut() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Busybox.layout()?, "busybox")?;
    let proxy = Proxy::before(registry.port())?;
    let image = proxy.reference("busybox");
    // So little each time that patience must end before the layer does.
    proxy.fail(Fault::Cut { after: 10 }, 100_000);
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names(&proxy.host())
        .complete();
    nothing_here_but_a_rest(&sandbox);
    proxy.fail(Fault::Status(500), 100_000);
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names("500")
        .complete();
    nothing_here_but_a_rest(&sandbox);
    sandbox.finish();
    Ok(())
}

#[test]
fn layers_that_attack_or_lie() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let escaped = Path::new("/tmp").join(ESCAPED);
    let accounts = std::fs::read("/etc/passwd").expect("accounts");
    for hostile in Hostile::ALL {
        let image = registry.push(&hostile.layout(&sandbox.files())?, hostile.name())?;
        let out = sandbox.corten(&["pull", &image]);
        assert!(!escaped.exists(), "{hostile:?} wrote {}", escaped.display());
        if out.code == 0 {
            // An absolute name or link may be taken as inside the root: then it must be inside.
            let inside = matches!(
                hostile,
                Hostile::Absolute | Hostile::SymlinkAbsolute | Hostile::SymlinkRelative
            );
            assert!(inside, "{hostile:?} was accepted");
            let script = format!("cat /tmp/{ESCAPED} 2>/dev/null; ls -R / >/dev/null");
            sandbox.corten(&[
                "run",
                "--rm",
                "--network",
                "none",
                &image,
                "/bin/sh",
                "-c",
                &script,
            ]);
            assert!(
                !escaped.exists(),
                "{hostile:?} wrote {} when run",
                escaped.display()
            );
            sandbox.corten(&["rmi", &image]).ok();
        } else {
            // Which layer it was, but where the disk is asked for more than it has.
            let named = if hostile == Hostile::HugeEntry {
                "huge-entry"
            } else {
                "sha256:"
            };
            out.fails(125).names(named).complete();
        }
        assert_eq!(
            std::fs::read("/etc/passwd").expect("accounts"),
            accounts,
            "{hostile:?}"
        );
    }
    sandbox.corten(&["system", "prune"]).ok();
    nothing_here(&sandbox);
    sandbox.finish();
    Ok(())
}

#[test]
fn names_and_ports_in_use() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let id = sandbox
        .corten(&[
            "run",
            "-d",
            "--name",
            "taken",
            "--network",
            "none",
            &image,
            "sleep",
            "1000",
        ])
        .ok();
    let again = sandbox.corten(&[
        "run",
        "-d",
        "--name",
        "taken",
        "--network",
        "none",
        &image,
        "true",
    ]);
    again.fails(125).names("taken").names(&id[..12]).complete();
    let listener = TcpListener::bind("0.0.0.0:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let publish = format!("{port}:80");
    let refused = sandbox.corten(&["run", "--rm", "-p", &publish, &image, "true"]);
    refused.fails(125).names(&port.to_string()).complete();
    drop(listener);
    // Two containers for one port.
    sandbox
        .corten(&[
            "run", "-d", "--name", "first", "-p", &publish, &image, "sleep", "1000",
        ])
        .ok();
    let second = sandbox.corten(&[
        "run", "-d", "--name", "second", "-p", &publish, &image, "true",
    ]);
    second.fails(125).names(&port.to_string()).complete();
    sandbox.corten(&["rm", "-f", "first", "second"]).ok();
    assert_eq!(sandbox.containers(), [id]);
    sandbox.finish();
    Ok(())
}

#[test]
fn flag_values_that_make_no_sense() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let bad: &[(&[&str], &str)] = &[
        (&["-m", "lots"], "lots"),
        (&["-m", "-5"], "-5"),
        (&["-m", "99999999999999999999g"], "99999999999999999999g"),
        (&["--cpus", "-1"], "-1"),
        (&["--cpus", "many"], "many"),
        (&["--pids-limit", "few"], "few"),
        (&["-p", "99999:80"], "99999"),
        (&["-p", "80:80:80:80"], "80:80:80:80"),
        (&["-p", "80/smtp"], "smtp"),
        (&["--ulimit", "nofile=2:1"], "nofile"),
        (&["--ulimit", "nosuch=1"], "nosuch"),
        (&["--name", "bad name"], "bad name"),
        (&["--name", "../../etc"], "../../etc"),
        (&["--cap-add", "FLY"], "FLY"),
        (&["--network", "moon"], "moon"),
        (
            &["--security-opt", "seccomp=/no/such/file"],
            "/no/such/file",
        ),
        (&["--security-opt", "wish=granted"], "wish"),
        (&["--add-host", "nowhere"], "nowhere"),
        (&["--add-host", "a:not-an-address"], "not-an-address"),
        (&["--dns", "not-an-address"], "not-an-address"),
        (&["-u", "nobody-knows"], "nobody-knows"),
        (&["-u", "99999999999"], "99999999999"),
        (&["-v", "/no/such/source:/x"], "/no/such/source"),
        (&["-v", "relative/path:/x"], "relative/path"),
        (&["-v", "/tmp:not-absolute"], "not-absolute"),
        (&["-v", "/tmp:/x:sideways"], "sideways"),
        (&["-w", "not/absolute"], "not/absolute"),
        (&["--env-file", "/no/such/env"], "/no/such/env"),
        (&["--tmpfs", "not-absolute"], "not-absolute"),
        (&["--hostname", "not a host"], "not a host"),
        (&["--pull", "perhaps"], "perhaps"),
        (&["--no-such-flag"], "--no-such-flag"),
    ];
    for (flags, named) in bad {
        let mut args = vec!["run", "--rm"];
        args.extend(*flags);
        args.extend([image.as_str(), "true"]);
        sandbox.corten(&args).fails(125).names(named).names("hint:");
    }
    sandbox
        .corten(&["pull", "UPPER//case"])
        .fails(125)
        .names("UPPER//case")
        .names("hint:");
    sandbox
        .corten(&["rm", "nobody"])
        .fails(125)
        .names("nobody")
        .names("hint:");
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    sandbox.finish();
    Ok(())
}

#[test]
fn a_full_disk() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = registry.push(&Image::Python.layout()?, "python")?;
    let root = sandbox.root();
    std::fs::create_dir(&root).expect("folder");
    let place = root.to_string_lossy().into_owned();
    tool::call(
        "mount",
        &["-t", "tmpfs", "-o", "size=60m", "corten-full", &place],
    )?;
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names("space")
        .complete();
    sandbox.corten(&["system", "prune"]).ok();
    nothing_here_but_a_rest(&sandbox);
    // What is needed for a small image is free again.
    let small = registry.push(&Image::Busybox.layout()?, "busybox")?;
    sandbox
        .corten(&["run", "--rm", "--network", "none", &small, "true"])
        .ok();
    tool::call("umount", &[&place])?;
    std::fs::remove_dir(&root).expect("folder");
    sandbox.finish();
    Ok(())
}

#[test]
fn ctrl_c_in_a_pull() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Busybox.layout()?, "busybox")?;
    let proxy = Proxy::before(registry.port())?;
    let image = proxy.reference("busybox");
    proxy.fail(Fault::Stall { after: 300_000 }, 1);
    let mut pull = sandbox.start(&["pull", &image]);
    wait::until("the layer to be asked for", SOON, || {
        proxy
            .requests()
            .iter()
            .any(|request| request.contains("GET") && request.contains("/blobs/"))
            .then_some(())
    })?;
    std::thread::sleep(Duration::from_millis(300));
    tool::call("kill", &["-INT", &pull.id().to_string()])?;
    let status = wait::until("the pull to end", Duration::from_secs(5), || {
        pull.try_wait().ok().flatten()
    })?;
    assert!(matches!(status.code(), Some(130) | None), "{status}");
    assert!(!sandbox.corten(&["images"]).ok().contains("busybox"));
    // The next one goes on from what had arrived.
    sandbox
        .corten(&["run", "--rm", "--network", "none", &image, "true"])
        .ok();
    sandbox.corten(&["rmi", &image]).ok();
    sandbox.corten(&["system", "prune"]).ok();
    nothing_here_but_a_rest(&sandbox);
    sandbox.finish();
    Ok(())
}
